//! From node to node: what goes through the tunnel, who may, and what is let in there.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use purlin_core::mesh::credential::Revocations;
use purlin_mesh::identity::{self, Keeper, REVOKED, clock::Clock};
use purlin_proto::v1;
use purlin_tests::{Lab, Node, Result, ensure, lab::Test, test, wait};
use serde_json::Value;
use tokio_rustls::rustls::{ClientConnection, StreamOwned, pki_types::ServerName};

use crate::{
    Mesh, SOON,
    client::{Connection, Restless, get, there_and_back},
    echoes, free_port,
    rack::{Member, Rack, SOME_TIME, allow, listener, now, peer, route, service},
    upstream::Upstream,
};

const DAY: u64 = 86_400;
const LIFE: u64 = 30 * DAY;

pub fn tests() -> [Test; 8] {
    [
        test("an_endpoint_on_another_node_is_reached_through_its_tunnel", 90, through),
        test("what_no_rule_allows_gets_no_further_than_the_tunnel", 90, denied),
        test("who_is_not_of_the_rack_is_refused_and_counted", 90, foreign),
        test("a_revoked_node_is_cut_off_at_once_and_let_in_again", 90, revoked),
        test("certificates_are_renewed_within_the_rack_whatever_the_clock", 120, renewed),
        test("a_node_that_is_let_in_by_grace_is_an_alarm_of_the_agents", 120, grace),
        test("what_a_node_says_of_its_workloads_is_checked", 60, said),
        test("a_flood_in_a_tunnel_is_cut_off", 90, flood),
    ]
}

/// Node `a`, where clients are, and node `b`, where the services are.
pub struct Pair {
    pub a: Member,
    pub b: Member,
    pub mesh: v1::Mesh,
    tunnel: SocketAddr,
    pub web: SocketAddr,
    raw: SocketAddr,
    shop: Upstream,
}

impl Pair {
    /// Not started yet.
    fn new(a: Member, b: Member) -> Result<Self> {
        let (shop, echo) = (Upstream::start("shop")?, Upstream::echo()?);
        let (web, raw, tunnel) = (free_port()?, free_port()?, free_port()?);
        let mesh = v1::Mesh {
            listeners: vec![listener("web", web, "http"), listener("raw", raw, "tcp")],
            services: vec![
                service("shop", "http", &[("b", shop.address)]),
                service("echo", "tcp", &[("b", echo.address)]),
            ],
            routes: vec![route("shop", "http", "web"), route("echo", "tcp", "raw")],
            // Nobody listens for `a`: it needs no tunnel of its own.
            peers: vec![peer("a", free_port()?), peer("b", tunnel)],
            ..Default::default()
        };
        Ok(Self { a, b, mesh, tunnel, web, raw, shop })
    }

    pub fn of(rack: &Rack<'_>) -> Result<Self> {
        Self::new(rack.member("a", now(), LIFE)?, rack.member("b", now(), LIFE)?)
    }

    /// What `b` has: the tunnel, and no way in but that.
    fn of_b(&self) -> v1::Mesh {
        let listeners = vec![listener("tunnel", self.tunnel, "tunnel")];
        v1::Mesh { listeners, routes: Vec::new(), ..self.mesh.clone() }
    }

    pub fn start(&mut self) -> Result {
        self.b.start(&self.of_b())?;
        self.a.start(&self.mesh.clone())
    }

    fn gets(&self) -> Result<u16> {
        Ok(get(self.web, "shop.rack", "/")?.status)
    }
}

fn through(lab: &Lab) -> Result {
    let mut pair = Pair::of(&Rack::new(lab, "r1")?)?;
    pair.start()?;
    let answer = get(pair.web, "shop.rack", "/x")?;
    ensure!((answer.status, answer.by()) == (200, "shop"), "{answer:?}");
    ensure!(answer.body.contains("x-forwarded-for: 127.0.0.1\r\n"), "{answer:?}");
    let mut upgraded = Connection::open(pair.web)?;
    let answer = upgraded.send(
        "GET / HTTP/1.1\r\nHost: shop.rack\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
    )?;
    ensure!(answer.status == 101 && echoes(&mut upgraded.0)?, "{answer:?}");
    // Megabytes both ways at once, more than any window.
    let stream = TcpStream::connect(pair.raw)?;
    stream.set_read_timeout(Some(SOON))?;
    let sent: Vec<u8> = (0..8 << 20).map(|n: u32| (n % 251) as u8).collect();
    let back = there_and_back(stream, &sent)?;
    ensure!(back == sent, "{} of {} bytes came back", back.len(), sent.len());

    let status = pair.b.status()?;
    let id = status.identity.as_ref().map(|it| it.id.as_str());
    ensure!(id == Some("spiffe://r1/node/b") && status.problems.is_empty(), "{status:?}");
    let shown = pair.a.node.cli(&["mesh", "endpoints"])?.stdout;
    ensure!(shown.contains(&format!("b/{}", pair.shop.address)), "{shown}");
    // A tunnel is no way to anything else of that node.
    pair.mesh.services[0].endpoints[0].address = free_port()?.to_string();
    pair.a.put(2, &pair.mesh)?;
    ensure!(pair.gets()? == 502, "an address that b has no endpoint at");
    ensure!(pair.b.status()?.counts.unmatched > 0, "and it is counted");
    // Without a certificate nobody is there.
    let mut alone = pair.a;
    alone.kill()?;
    std::fs::remove_dir_all(alone.node.dir().join("home/state/purlin/mesh/identity"))?;
    alone.start_again()?;
    let status = alone.status()?;
    ensure!(
        status.problems.iter().any(|it| it.contains("no certificate of its rack")),
        "{status:?}"
    );
    Ok(())
}

fn denied(lab: &Lab) -> Result {
    let mut pair = Pair::of(&Rack::new(lab, "r1")?)?;
    pair.mesh.services[0].allow = vec![
        v1::Allow {
            methods: vec!["GET".into()],
            paths: vec![v1::PathMatch { r#type: None, value: "/public".into() }],
            ..allow("spiffe://r1/node/*")
        },
        allow("spiffe://r1/node/c"),
    ];
    pair.mesh.services[1].allow = vec![allow("spiffe://r1/node/c")];
    pair.start()?;
    ensure!(get(pair.web, "shop.rack", "/public/x")?.by() == "shop", "what is allowed");
    ensure!(get(pair.web, "shop.rack", "/private")?.status == 403, "another path");
    let post = "POST /public HTTP/1.1\r\nHost: shop.rack\r\nContent-Length: 1\r\n\r\nx";
    ensure!(Connection::open(pair.web)?.send(post)?.status == 403, "another method");
    let twisted = get(pair.web, "shop.rack", "/public/..%2fprivate")?;
    ensure!(twisted.status == 400, "{twisted:?}");
    let mut bytes = TcpStream::connect(pair.raw)?;
    bytes.set_read_timeout(Some(SOON))?;
    ensure!(!echoes(&mut bytes).unwrap_or(false), "for c alone");
    let seen = pair.shop.requests.load(Relaxed);
    ensure!(seen == 1, "{seen} requests got through");
    let denied = pair.b.status()?.counts.denied;
    ensure!(denied >= 3, "{denied} of 3 are counted");
    // Nothing is open by itself.
    pair.mesh.services[0].allow.clear();
    pair.b.put(2, &pair.of_b())?;
    // By every worker: one has a stream that is closed by this, another opens one.
    for _ in 0..8 {
        let closed = get(pair.web, "shop.rack", "/public")?;
        ensure!(closed.status == 403, "a way that was open is closed: {closed:?}");
    }
    pair.mesh.services[0].allow = vec![allow("spiffe://r1/node/a")];
    pair.b.put(3, &pair.of_b())?;
    ensure!(pair.gets()? == 200, "and open again");
    Ok(())
}

fn foreign(lab: &Lab) -> Result {
    let rack = Rack::new(lab, "r1")?;
    // The same names, by another root: what was made for another rack of this name.
    let mut pair =
        Pair::new(Rack::new(lab, "r1")?.member("a", now(), LIFE)?, rack.member("b", now(), LIFE)?)?;
    pair.start()?;
    ensure!(pair.gets()? == 502, "each is foreign to the other");
    // Whoever only trusts the right root is still nobody.
    pair.a.write(identity::RACK, rack.root.certificate_pem())?;
    let counted = |reason: &str| -> Result<u64> {
        Ok(pair.b.status()?.counts.tunnels_refused.get(reason).copied().unwrap_or_default())
    };
    wait::until("it is counted", SOON, || {
        thread::sleep(SOME_TIME);
        let status = pair.gets().map_err(|e| format!("{e:?}"))?;
        let count = counted("foreign certificate").map_err(|e| format!("{e:?}"))?;
        if status == 502 && count > 0 { Ok(()) } else { Err(format!("{status}, {count}")) }
    })?;
    let before = counted("garbage")?;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[22, 3, 1, 0xff, 0xff, 1, 2, 3]] {
        let mut stream = TcpStream::connect(pair.tunnel)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(bytes)?;
        _ = stream.shutdown(std::net::Shutdown::Write);
        // An alert may come first.
        _ = stream.read_to_end(&mut Vec::new());
    }
    ensure!(counted("garbage")? == before + 3, "{} and then {}", before, counted("garbage")?);
    ensure!(pair.shop.requests.load(Relaxed) == 0, "nothing got through");
    Ok(())
}

fn revoked(lab: &Lab) -> Result {
    let rack = Rack::new(lab, "r1")?;
    let mut pair = Pair::of(&rack)?;
    pair.start()?;
    let mut bytes = TcpStream::connect(pair.raw)?;
    bytes.set_read_timeout(Some(SOON))?;
    ensure!(pair.gets()? == 200 && echoes(&mut bytes)?, "before");
    let list = Revocations { number: 1, issued: now(), nodes: vec![("a".into(), now() + 1)] };
    pair.b.write(REVOKED, rack.root.revoke(&list)?)?;
    pair.b.status_when(|it| it.identity.as_ref().is_some_and(|it| it.revocations == 1))?;
    wait::until("what was open is cut", SOON, || match echoes(&mut bytes) {
        Ok(true) => Err("it goes on".to_owned()),
        _ => Ok(()),
    })?;
    ensure!(pair.gets()? == 502, "and nothing new is let in");
    let refused = pair.b.status()?.counts.tunnels_refused;
    ensure!(refused.get("revoked certificate").is_some_and(|it| *it > 0), "{refused:?}");
    // A list that nobody of the rack has signed changes nothing, and is told.
    let other = Rack::new(lab, "r1")?.root.revoke(&Revocations { number: 2, ..list.clone() })?;
    pair.b.write(REVOKED, other)?;
    let told = pair.b.status_when(|it| !it.problems.is_empty())?;
    ensure!(told.problems[0].contains("the last good one stays"), "{told:?}");
    ensure!(pair.gets()? == 502, "it is still out");
    pair.a.write(identity::NODE, rack.root.make_node("a", now(), LIFE, &list)?)?;
    pair.b.write(REVOKED, rack.root.revoke(&list)?)?;
    wait::until("a certificate that came after is good", SOON, || {
        thread::sleep(SOME_TIME);
        match pair.gets() {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

fn renewed(lab: &Lab) -> Result {
    let rack = Rack::new(lab, "r1")?;
    // For so short a life that it is renewed within the test, and not the one after.
    let short = 16;
    let mut pair = Pair::new(rack.member("a", now(), short)?, rack.issuing_member("b", LIFE)?)?;
    // A clock that is 20 years ahead, and nobody who agrees.
    pair.b.node.set("PURLIN_TEST__CLOCK_UNIX_S", (now() + 20 * 365 * DAY).to_string());
    pair.start()?;
    let client = Restless::start(pair.web, "shop.rack", "shop");
    let first = pair.a.status()?.identity.ok_or("nobody")?;
    let next = pair.a.status_when(|it| {
        it.identity.as_ref().is_some_and(|it| it.expires_unix_s > first.expires_unix_s)
    })?;
    let next = next.identity.ok_or("nobody")?;
    println!("{} s after the one before", next.expires_unix_s - first.expires_unix_s);
    let (done, wrong) = client.stop()?;
    ensure!(done > 20 && wrong.is_empty(), "{done} answered, wrong: {wrong:?}");

    // And the other way round: it ended ten days ago, and its own clock is of 1970.
    pair.a.kill()?;
    let old = rack.root.make_node("a", now() - 40 * DAY, LIFE, &Revocations::default())?;
    pair.a.write(identity::NODE, old)?;
    pair.a.node.set("PURLIN_TEST__CLOCK_UNIX_S", "5");
    pair.b.kill()?;
    pair.b.node.unset("PURLIN_TEST__CLOCK_UNIX_S");
    pair.b.start_again()?;
    // The first one comes before the renewal; whether or not it does, it is let in.
    pair.a.start_again()?;
    ensure!(pair.gets()? == 200, "one that merely expired is let in");
    let told = pair.b.status()?.lapsed;
    ensure!(told.iter().any(|it| it.contains("node a is out of its time")), "{told:?}");
    Ok(())
}

fn grace(lab: &Lab) -> Result {
    let rack = Rack::new(lab, "r1")?;
    // It ended ten days ago.
    let ended = rack.member("a", now() - 40 * DAY, LIFE)?;
    let mut pair = Pair::new(ended, rack.member("b", now(), LIFE)?)?;
    let mut node = Node::standalone(lab, "b")?;
    node.set("PURLIN_TEST__CONFIRM_AFTER_MS", "100");
    node.start()?;
    let agent = Mesh { lab, node };
    agent.put(&format!(
        "[mesh]\npeers = [{{ node = \"a\", address = \"{}\" }}, {{ node = \"b\", address = \"{}\" }}]\n\
         [[mesh.listeners]]\nname = \"tunnel\"\naddress = \"{}\"\nprotocol = \"tunnel\"\n\
         [[mesh.services]]\nname = \"shop\"\nendpoints = [{{ address = \"{}\", node = \"b\" }}]\n\
         allow = [{{ principals = [\"spiffe://r1/node/a\"] }}]\n",
        free_port()?, pair.tunnel, pair.tunnel, pair.shop.address
    ))?;
    let web = pair.web;
    pair.a.start(&pair.mesh)?;
    let text = wait::until("the alarm is raised", 2 * SOON, || {
        let status = get(web, "shop.rack", "/").map_err(|e| format!("{e:?}"))?.status;
        let answer = agent.node.cli(&["alarm", "list", "-o", "json"]);
        let alarms: Value = answer.and_then(|it| it.json()).map_err(|e| format!("{e:?}"))?;
        let mut raised = alarms["raised"].as_array().into_iter().flatten();
        match raised.find(|it| it["id"] == "fault.peer-certificate-ended") {
            Some(alarm) if status == 200 => Ok(alarm["text"].to_string()),
            _ => Err(format!("{status}, {alarms}")),
        }
    })?;
    ensure!(text.contains("the certificate of node a is out of its time"), "{text}");
    let next = rack.root.make_node("a", now(), LIFE, &Revocations::default())?;
    pair.a.write(identity::NODE, next)?;
    pair.a.kill()?;
    pair.a.start_again()?;
    ensure!(pair.gets()? == 200, "with another one");
    let told = agent.status()?.lapsed;
    ensure!(told.is_empty(), "what it was raised for is over: {told:?}");
    Ok(())
}

fn said(lab: &Lab) -> Result {
    let mut pair = Pair::of(&Rack::new(lab, "r1")?)?;
    pair.mesh.services[0].allow = vec![
        allow("spiffe://r1/node/a/workload/shop/checkout"),
        allow("spiffe://r1/node/b/workload/shop/boss"),
    ];
    pair.start()?;
    // HPACK by literals, without indexing: how a stream that says so is answered.
    let ask = |said: &str| -> Result<Vec<u8>> {
        let literal = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        let mut block = [&[0x02][..], &literal("CONNECT"), &[0x01]].concat();
        block.extend(literal(&pair.shop.address.to_string()));
        block.extend([&[0x00][..], &literal("baggage"), &literal(said)].concat());
        let mut stream = tls(&pair)?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        stream.write_all(&[frame(4, 0, 0, &[]), frame(1, 4, 1, &block)].concat())?;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head)?;
            let mut rest = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            stream.read_exact(&mut rest)?;
            if head[3] == 1 {
                return Ok(rest);
            }
        }
    };
    // Statuses of HPACK's static table (RFC 7541, A).
    let [ok, bad] = [0x88, 0x8c];
    let answer = ask("k8s.namespace.name=shop,service.name=checkout")?;
    ensure!(answer[0] == ok, "its own workload: {answer:?}");
    for said in [
        "k8s.namespace.name=shop,service.name=../../../b/workload/shop/boss",
        "k8s.namespace.name=..,service.name=checkout",
        "k8s.namespace.name=shop,service.name=checkout,service.name=checkout",
        "service.name=checkout",
        "container.name=spiffe:%2f%2fr1",
        "container.name=*",
    ] {
        let answer = ask(said)?;
        ensure!(answer[0] == bad, "{said}: {answer:?}");
    }
    let status = pair.b.status()?;
    let garbage = status.counts.tunnels_refused.get("garbage").copied();
    ensure!(garbage == Some(6) && status.counts.denied == 0, "{status:?}");
    // What could be said, and is another's or nobody's.
    for said in ["k8s.namespace.name=shop,service.name=boss", "x=1", "container.name=checkout"] {
        let answer = ask(said)?;
        ensure!(answer[0] != ok && answer[0] != bad, "{said}: {answer:?}");
    }
    let denied = pair.b.status()?.counts.denied;
    ensure!(denied == 3, "{denied} are counted");
    Ok(())
}

fn flood(lab: &Lab) -> Result {
    let rack = Rack::new(lab, "r1")?;
    let mut pair = Pair::of(&rack)?;
    pair.start()?;
    let rss = || -> Result<u64> {
        let pid = pair.b.process()?.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).ok_or("no RSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    };
    ensure!(pair.gets()? == 200, "before");
    let before = rss()?;
    // HPACK: :method CONNECT, :authority by literals, without indexing.
    let mut block = vec![0x02, 7];
    block.extend(b"CONNECT");
    let authority = pair.shop.address.to_string();
    block.extend([0x01, authority.len() as u8]);
    block.extend(authority.as_bytes());
    let floods: [(&str, Vec<u8>); 5] = [
        ("rapid reset", {
            let reset = |n: u32| {
                let id = 2 * n + 1;
                [frame(1, 4, id, &block), frame(3, 0, id, &8_u32.to_be_bytes())].concat()
            };
            (0..5000).flat_map(reset).collect()
        }),
        ("settings", frame(4, 0, 0, &[]).repeat(20_000)),
        ("ping", frame(6, 0, 0, &[0; 8]).repeat(20_000)),
        (
            "continuation",
            [frame(1, 0, 1, &block), frame(9, 0, 1, &[0; 1024]).repeat(2000)].concat(),
        ),
        ("a frame that is none", frame(0, 0, 0, &[0; 16])),
    ];
    for (name, bytes) in floods {
        let mut stream = tls(&pair)?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        stream.write_all(&frame(4, 0, 0, &[]))?;
        // It is cut off somewhere in the middle, or every frame of it was answered. A stream that
        // stays open is known by its silence: however it ends, by a close or a reset, it is cut.
        let sent = bytes.chunks(16 << 10).try_for_each(|some| stream.write_all(some));
        stream.sock.set_read_timeout(Some(Duration::from_secs(3)))?;
        let ended = sent.and_then(|()| stream.read_to_end(&mut Vec::new()));
        let is_cut = match &ended {
            Ok(_) => true,
            Err(it) => !matches!(it.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        println!(
            "{name}: cut off: {is_cut} ({ended:?}), {} kB more",
            rss()?.saturating_sub(before)
        );
        if !matches!(name, "settings" | "ping") {
            ensure!(is_cut, "{name} is not cut off");
        }
        ensure!(pair.gets()? == 200, "{name} keeps others from being served");
    }
    let after = rss()?;
    ensure!(after < before + (32 << 10), "{before} kB became {after}");
    Ok(())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A TLS connection to `b` as `a`, by hand.
fn tls(pair: &Pair) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let dir = pair.a.node.dir().join("home/state/purlin/mesh");
    let mut keeper = Keeper::new(&dir, Clock::new(None));
    keeper.look(LIFE);
    let identity: Arc<_> = keeper.identity().ok_or("nobody")?.clone();
    let name = ServerName::from(pair.tunnel.ip());
    let connection = ClientConnection::new(identity.client.clone(), name)?;
    let stream = TcpStream::connect(pair.tunnel)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    Ok(StreamOwned::new(connection, stream))
}
