//! What bytes from outside meet, as functions of bytes, for the fuzz targets (`tests/fuzz`):
//! nothing that serves uses this.

use std::{
    env, fs,
    net::SocketAddr,
    process,
    sync::{Arc, OnceLock},
};

use hyper::{Response, body::Bytes};
use prost::Message;
use purlin_core::{
    mesh::{choose::Asked, credential::Revocations, host, table::Table, workload::Workload},
    trust::BUILT_UNIX_S,
};
use purlin_proto::v1;
use tokio::io::{AsyncWriteExt, duplex, sink, split};

use crate::{
    discovery::{
        gossip::{Gossip, MAX_DATAGRAM, Member},
        seal::{Beside, Opener, Sealer},
    },
    identity::{
        self, Identity, Keeper,
        authority::{Authority, NODE_LIFE_S, ROOT_LIFE_S},
        clock::Clock,
    },
    live::Live,
    records::{Records, signed::seal},
    target::By,
    tunnel, wire,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// More than any input.
const ROOM: usize = 1 << 20;

/// Frames of HTTP/2 as another node may send them, once it is known who it is: every stream
/// is read as a tunnel's is, and answered. The preface is not among them.
pub fn tunnel(frames: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let (client, server) = duplex(ROOM);
        let (mut from_server, mut to_server) = split(client);
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut sink()).await });
        let said = [PREFACE, frames].concat();
        _ = to_server.write_all(&said).await;
        _ = to_server.shutdown().await;
        drop(to_server);
        let Ok(mut connection) = tunnel::server::limits().handshake::<_, Bytes>(server).await
        else {
            return;
        };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            _ = tunnel::server::asked_for(&request);
            if let Ok(Some(workload)) = tunnel::server::speaks_for(request.headers()) {
                assert_eq!(Workload::parse(&workload.to_string()), Some(workload));
            }
            tokio::spawn(async move {
                _ = tunnel::server::collect(request.into_body(), tunnel::server::MAX_BODY).await;
                _ = respond.send_response(Response::new(()), true);
            });
        }
    });
}

/// A datagram of gossip: as it is, with the rest of it signed by a key of the rack, and
/// with the rest as what a member says.
pub fn gossip(bytes: &[u8]) {
    let (keys, address) = (vec![[7; 32]], SocketAddr::from(([127, 0, 0, 1], 15008)));
    let beside = |sender: &str| Beside { sender: sender.into(), ..Beside::default() };
    let me = Member { node: "a".into(), address, life: 1 << 16 };
    let Some(mut gossip) = Gossip::new(me, &keys, 1, 1) else { return };
    drop(Opener::new(&keys).open(bytes));
    let Some(mut sealer) = Sealer::new(&keys, 1) else { return };
    for datagram in [sealer.seal(&beside("b"), bytes), sealer.sign(bytes.to_vec())] {
        let Ok((theirs, outcome)) = gossip.receive(&datagram, 1, &beside("a")) else { continue };
        let sent = outcome.send.iter().map(|(_, bytes)| bytes.len());
        assert!(sent.into_iter().all(|it| it <= MAX_DATAGRAM), "within a datagram");
        if let Some(alarms) = theirs.alarms {
            drop(alarms.iter().map(|it| it.view()).collect::<Vec<_>>());
        }
    }
    // What it has to do because of it, for some seconds.
    for _ in 0..64 {
        gossip.tick(gossip.next_at(), &beside("a"));
    }
}

/// What another node says of the services of the rack's nodes, as it is; and as what a node
/// of the rack says of itself and has signed, added to a table.
pub fn records(bytes: &[u8]) {
    static MEMBERS: OnceLock<Option<[Arc<Identity>; 2]>> = OnceLock::new();
    let Some([own, other]) = MEMBERS.get_or_init(members) else { return };
    let records = Records::default();
    if let Ok(said) = v1::ServiceRecords::decode(bytes) {
        assert_eq!(records.take(own, said.records), 0, "nobody of the rack has signed it");
    }
    let Ok(said) = v1::ServiceRecord::decode(bytes) else { return };
    let services: Vec<_> = said.endpoints.iter().take(4).map(|it| it.service.clone()).collect();
    for who in [own, other] {
        let said = v1::ServiceRecord { rack: "r1".into(), node: who.node.clone(), ..said.clone() };
        if let Ok(signed) = seal(who, &said) {
            records.take(own, vec![signed]);
        }
    }
    let service =
        |name| v1::Service { name, endpoints_from: vec!["*".into()], ..v1::Service::default() };
    let services = services.into_iter().map(service).collect();
    if let Ok(mut table) = wire::table(1, &v1::Mesh { services, ..v1::Mesh::default() }) {
        drop(records.view(&table, Some("a")));
        records.add_to(&mut table, Some("a"));
        routes(table);
    }
}

/// Two nodes of a rack.
fn members() -> Option<[Arc<Identity>; 2]> {
    let root = Authority::make("r1", BUILT_UNIX_S, ROOT_LIFE_S).ok()?;
    let member = |name: &str| {
        let none = Revocations::default();
        let own = root.make_node(name, BUILT_UNIX_S, NODE_LIFE_S, &none).ok()?;
        let dir = env::temp_dir().join(format!("purlin-probe-{}-{name}", process::id()));
        let identity = dir.join(identity::DIR);
        fs::create_dir_all(&identity).ok()?;
        fs::write(identity.join(identity::NODE), own).ok()?;
        fs::write(identity.join(identity::RACK), root.certificate_pem()).ok()?;
        let mut keeper = Keeper::new(&dir, Clock::new(Some(BUILT_UNIX_S)));
        keeper.look(0);
        _ = fs::remove_dir_all(dir);
        keeper.identity().cloned()
    };
    Some([member("a")?, member("b")?])
}

/// A table put in force, and a request to each of its listeners and hosts: both ways to
/// look for its route agree.
pub fn routes(table: Table) {
    let live = Arc::new(Live::new(table, &Live::default(), None));
    let hosts: Vec<_> = live.table.routes.iter().flat_map(|it| &it.hostnames).collect();
    let hosts: Vec<_> = hosts.iter().take(8).map(|it| it.to_string().replace('*', "x")).collect();
    for listener in &live.table.listeners {
        for host in hosts.iter().map(String::as_str).chain(["x"]) {
            let Some(host) = host::normal(host) else { continue };
            for path in ["/", "/a/b", "/api/x"] {
                let headers = |_: &str, _: &mut dyn FnMut(&str) -> bool| false;
                let (method, query) = ("GET", "a=1");
                let asked = Asked { host: &host, method, path, query, headers: &headers };
                let chosen = live.choose(listener.address, &asked);
                assert_eq!(chosen, live.explain(listener.address, &asked).1);
                let by = By { tried: &[], hash: None, random: 7, now_ms: 1, numa: None };
                drop(chosen.and_then(|place| live.backend(place, &by).map(|it| it.target.clone())));
            }
            _ = live.by_name(listener.address, Some(&host));
        }
        _ = live.datagram_targets(listener.address).count();
    }
}
