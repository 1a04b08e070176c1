//! A node that can't reach its broker, and nodes of its rack that can: its agent speaks TLS
//! with the real mosquitto through their meshes, and they see bytes. An independent
//! subscriber has every record, by whichever node it came.

use std::{collections::BTreeSet, fs, path::Path, process::Stdio, thread::sleep, time::Duration};

use purlin_daemon::wire;
use purlin_proto::{
    api::{Link, LinkState, QueueClass},
    mesh::Status,
    v1::Class,
};
use purlin_tests::{
    Lab, Need, Node, Result, broker::unhex, ensure, lab::Test, node::class, process::Process, test,
    wait,
};

use crate::{
    netns::Net,
    secure::{Authority, VALID},
};

/// Of the broker, at the loopback of whoever has one: for the origin that is nobody.
const TLS_PORT: u16 = 8884;
const ORIGIN: &str = "10.92.0.1";
const OTHERS: &str = "10.92.0.2";
const SOON: Duration = Duration::from_secs(90);
/// Records between two blows.
const SOME: u64 = 200;

pub fn tests() -> Vec<Test> {
    let programs = ["mosquitto", "mosquitto_sub", "ip", "unshare", "nsenter"];
    let needs: Vec<Need> = programs.map(Need::Program).into_iter().chain([Need::Root]).collect();
    vec![
        test("a_node_without_a_link_reaches_its_broker_by_a_peers_tunnel", 300, relayed)
            .needs(&needs),
    ]
}

/// An agent and its mesh, in a namespace.
struct Member {
    node: Node,
    mesh: Option<Process>,
}

impl Member {
    fn start_mesh(&mut self) -> Result {
        let mut command = self.node.command(&[]);
        command.arg("mesh").stdin(Stdio::null()).stdout(Stdio::null());
        self.mesh = Some(Process::start(&mut command)?);
        Ok(())
    }

    fn kill_mesh(&mut self) -> Result {
        self.mesh.take().map_or(Ok(()), |mesh| mesh.kill())
    }

    fn mesh(&self) -> Result<Status> {
        self.node.cli(&["mesh", "show", "-o", "json"])?.json()
    }

    fn metric(&self) -> Result<QueueClass> {
        Ok(class(&self.node.queue()?, "metric")?.clone())
    }

    fn link(&self, what: &str, is_it: impl Fn(&Link) -> bool) -> Result<Link> {
        wait::until(what, SOON, || {
            let link = self.node.link().map_err(|e| format!("{e:?}"))?;
            if is_it(&link) { Ok(link) } else { Err(format!("{link:?}")) }
        })
    }

    fn some_more(&self) -> Result {
        let from = self.metric()?.acked_seq;
        wait::until("some more are acknowledged", SOON, || {
            let metric = self.metric().map_err(|e| format!("{e:?}"))?;
            if metric.acked_seq >= from + SOME { Ok(()) } else { Err(format!("{metric:?}")) }
        })
    }
}

fn tunnel(name: &str) -> String {
    match name {
        "origin" => format!("{ORIGIN}:15008"),
        "b" => format!("{OTHERS}:15008"),
        _ => format!("{OTHERS}:15009"),
    }
}

/// What every node's document says; `relays` is who may use this one's broker.
fn document(name: &str, relays: &str) -> String {
    let peers = ["origin", "b", "c"]
        .map(|it| format!("[[mesh.peers]]\nnode = \"{it}\"\naddress = \"{}\"\n", tunnel(it)));
    format!(
        "version = 1\n[spool]\ncommit_window_s = 1\n[mesh]\nrelay_uplink_for = [{relays}]\n\
         [[mesh.listeners]]\nname = \"tunnel\"\naddress = \"{}\"\nprotocol = \"tunnel\"\n{}",
        tunnel(name),
        peers.concat()
    )
}

fn member(
    lab: &Lab,
    net: &Net,
    ca: &Path,
    anchors: &Path,
    name: &str,
    relays: &str,
) -> Result<Member> {
    let mut node = Node::new(lab, name)?;
    let binary = node.binary().to_owned();
    node.run_with(&["nsenter", "-t", &net.pid(), "-n"], &binary);
    node.set("PURLIN_UPLINK__ENDPOINT", format!("mqtts://127.0.0.1:{TLS_PORT}"));
    node.set("PURLIN_UPLINK__TRUST_ANCHORS", anchors);
    node.set("PURLIN_TEST__CONFIRM_AFTER_MS", "100");
    let ca_dir = ca.display().to_string();
    ensure!(node.cli(&["mesh", "ca", "node", &ca_dir, name])?.code == 0, "no certificate");
    let mut member = Member { node, mesh: None };
    member.start_mesh()?;
    let dir = member.node.dir().join("state/mesh/identity");
    fs::create_dir_all(&dir)?;
    for file in ["node.pem", "rack.pem"] {
        fs::copy(ca.join(name).join(file), dir.join(file))?;
    }
    member.node.start()?;
    let file = lab.file(&format!("{name}.toml"), document(name, relays))?.display().to_string();
    let applied = member.node.cli_for(60, &["config", "apply", "--force", &file])?;
    ensure!(applied.code == 0, "{applied:?}");
    Ok(member)
}

fn broker(lab: &Lab, net: &Net, authority: &Authority, name: &str) -> Result<Process> {
    let server = lab.dir().join(format!("{name}.pem"));
    authority.issue("broker", &server, VALID)?;
    net.broker(
        lab,
        &format!(
            "listener {TLS_PORT} 127.0.0.1\ncertfile {}\nkeyfile {}\n",
            server.display(),
            server.with_extension("key").display()
        ),
    )
}

fn relayed(lab: &Lab) -> Result {
    let (far, hub) = (Net::new()?, Net::new()?);
    cable(&far, &hub)?;
    let authority = Authority::new(lab, "brokers")?;
    let _broker = broker(lab, &hub, &authority, "hub")?;
    let messages = lab.dir().join("messages");
    let _subscriber = wait::until("the subscriber", SOON, || {
        hub.subscribe(&messages, "purlin/v1/lab/#").map_err(|e| format!("{e:?}"))
    })?;
    let ca = lab.dir().join("ca");
    let made =
        Node::new(lab, "maker")?.cli(&["mesh", "ca", "make", "r1", &ca.display().to_string()])?;
    ensure!(made.code == 0, "{made:?}");
    let member =
        |net: &Net, name: &str, relays: &str| member(lab, net, &ca, &authority.file, name, relays);
    let mut b = member(&hub, "b", "\"spiffe://r1/node/origin\"")?;
    b.link("b's own link", |it| it.state == LinkState::Up)?;
    let mut origin = member(&far, "origin", "")?;
    origin.node.set("PURLIN_TEST__CPU_INTERVAL_MS", "5");
    origin.node.stop()?;
    origin.node.start()?;
    let link = origin.link("a link by the rack", |it| it.state == LinkState::Up)?;
    ensure!(link.via.as_ref().is_some_and(|it| it.contains("mesh")), "{link:?}");
    origin.some_more()?;
    let counts = b.mesh()?.counts;
    ensure!(counts.relayed > 0, "{counts:?}");
    // Nobody else may: c's own link is the hub's, and its mesh passes on for no one.
    let mut c = member(&hub, "c", "")?;
    b.kill_mesh()?;
    let says =
        |it: &Link| it.last_error.as_ref().is_some_and(|it| it.contains("no node of the rack"));
    origin.link("nobody passes on", |it| it.state != LinkState::Up && says(it))?;
    wait::until("c has refused it, and counted", SOON, || match c.mesh() {
        Ok(it) if it.counts.denied > 0 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    // It falls over to another that may.
    let file = lab.file("c2.toml", document("c", "\"spiffe://r1/node/*\""))?.display().to_string();
    let applied = c.node.cli_for(60, &["config", "apply", &file])?;
    ensure!(applied.code == 0, "{applied:?}");
    origin.some_more()?;
    ensure!(c.mesh()?.counts.relayed > 0, "by c");
    // Its own way is back: that is better.
    let own = broker(lab, &far, &authority, "far")?;
    origin.link("direct", |it| it.state == LinkState::Up && it.via.is_none())?;
    drop(own);
    origin.link("by the rack again", |it| it.state == LinkState::Up && it.via.is_some())?;
    origin.some_more()?;
    origin.node.stop()?;
    c.kill_mesh()?;
    came(&messages)
}

/// What the hub's broker had of the origin has no hole but what the other one took.
fn came(messages: &Path) -> Result {
    let mut came = BTreeSet::new();
    for (topic, payload) in
        fs::read_to_string(messages)?.lines().filter_map(|it| it.split_once(' '))
    {
        if topic != "purlin/v1/lab/origin/metric" {
            continue;
        }
        let batch = wire::decode(&unhex(payload)?).map_err(|e| e.to_string())?;
        ensure!(batch.class() == Class::Metric && batch.gaps.is_empty(), "{:?}", batch.gaps);
        came.extend(wire::records(&batch).map_err(|e| e.to_string())?.into_iter().map(|it| it.0));
    }
    let most = came.last().copied().unwrap_or_default();
    let holes: Vec<_> =
        (1..most).filter(|it| came.contains(it) && !came.contains(&(it + 1))).collect();
    println!("{} of {most} records came by the hub's broker", came.len());
    ensure!(holes.len() <= 1, "after {holes:?}");
    Ok(())
}

fn cable(far: &Net, hub: &Net) -> Result {
    let pid = far.pid();
    let add = ["link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", &pid];
    ensure!(hub.command("ip").args(add).status()?.success(), "no veth");
    for (net, name, address) in [(hub, "v0", OTHERS), (far, "v1", ORIGIN)] {
        let address = format!("{address}/24");
        for words in [["address", "add", &address, "dev", name], ["link", "set", "dev", name, "up"]]
        {
            ensure!(net.command("ip").args(words).status()?.success(), "ip {words:?}");
        }
    }
    sleep(Duration::from_millis(100));
    Ok(())
}
