//! What keeps a bad or a busy part of the rack from the rest, and what an operator does by
//! hand: weights, stepping back, spilling, breakers, limits, hashes, taps and drains.

use std::{
    collections::{BTreeSet, HashMap},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    sync::atomic::Ordering::Relaxed,
    thread,
};

use purlin_proto::mesh::{Endpoints, Routes, Tapped, Why};
use purlin_tests::{Lab, Result, ensure, lab::Test, test, wait};

use crate::{
    Mesh, SOON, answered_by,
    client::{Connection, get},
    free_port, listener, plain, service_of,
    upstream::Upstream,
};

pub fn tests() -> [Test; 9] {
    [
        test("a_new_backend_that_fails_is_stepped_back_from_for_good", 120, stepped_back),
        test("a_full_rack_spills_to_the_core_and_comes_back", 90, spilled),
        test("requests_are_split_by_weight", 60, weighed),
        test("a_breaker_opens_at_its_limit_and_by_hand", 60, broken),
        test("one_request_after_another_is_never_over_a_limit_of_one", 60, one_by_one),
        test("a_drained_endpoint_gets_nothing_new_and_a_tap_shows_who_answered", 60, by_hand),
        test("a_hash_moves_only_what_was_on_the_endpoint_that_went", 60, hashed),
        test("what_is_hashed_decides_and_nothing_else", 60, hashed_on),
        test("the_proxy_protocol_is_read_and_written_in_both_versions", 60, proxied),
    ]
}

/// A route to two services with these shares, and what else its rule says.
fn split(stable: &Upstream, new: &Upstream, shares: [u32; 2], rule: &str) -> String {
    let service = |name: &str, it: &Upstream| {
        let what = "outlier_detection = { consecutive_failures = 0 }";
        format!("[[mesh.services]]\nname = \"{name}\"\n{what}\nendpoints = [{}]\n", plain(it))
    };
    let [a, b] = shares;
    service("stable", stable)
        + &service("new", new)
        + &format!(
            "[[mesh.routes]]\nname = \"shop\"\nlisteners = [\"web\"]\n\
             rules = [{{ backend_refs = [{{ name = \"stable\", weight = {a} }}, {{ name = \"new\", weight = {b} }}]{rule} }}]\n"
        )
}

/// How many of so many requests each answered; a failure is one of nobody.
fn shares(at: SocketAddr, count: usize) -> Result<HashMap<String, usize>> {
    let (mut shares, mut connection) = (HashMap::new(), Connection::open(at)?);
    for _ in 0..count {
        let answer = connection.get("any", "/")?;
        let by = if answer.status == 200 { answer.by() } else { "" };
        *shares.entry(by.to_owned()).or_default() += 1;
    }
    Ok(shares)
}

fn weighed(lab: &Lab) -> Result {
    let (stable, new) = (Upstream::start("stable")?, Upstream::start("new")?);
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    for (weights, least, most) in [([9, 1], 40, 180), ([1, 1], 400, 600), ([1, 0], 0, 0)] {
        mesh.put(&(listener(at) + &split(&stable, &new, weights, "")))?;
        let shares = shares(at, 1000)?;
        let of_new = shares.get("new").copied().unwrap_or_default();
        ensure!((least..=most).contains(&of_new), "{weights:?}: {shares:?}");
        ensure!(of_new + shares["stable"] == 1000, "{weights:?}: {shares:?}");
    }
    Ok(())
}

fn stepped_back(lab: &Lab) -> Result {
    let (stable, new) = (Upstream::start("stable")?, Upstream::start("new")?);
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    let rule = ", step_back = { backend = \"new\", min_requests = 40, hold_s = 1 }";
    let document = listener(at) + &split(&stable, &new, [1, 1], rule);
    mesh.put(&document)?;
    let of_new = |count| -> Result<usize> { Ok(shares(at, count)?.remove("new").unwrap_or(0)) };
    // Both are well, and then both are ill: that is no reason.
    ensure!(of_new(200)? > 50, "it has its share");
    stable.is_ill.store(true, Relaxed);
    new.is_ill.store(true, Relaxed);
    ensure!(shares(at, 200)? == [(String::new(), 200)].into(), "both are ill");
    thread::sleep(std::time::Duration::from_secs(3));
    let routes = |mesh: &Mesh| -> Result<String> {
        let routes: Routes = mesh.node.cli(&["mesh", "routes", "-o", "json"])?.json()?;
        Ok(routes.routes[0].to.clone())
    };
    ensure!(routes(&mesh)? == "stable (1), new (1)", "{}", routes(&mesh)?);
    stable.is_ill.store(false, Relaxed);
    wait::until("it is stepped back from", SOON, || {
        shares(at, 50).map_err(|e| format!("{e:?}"))?;
        let to = routes(&mesh).map_err(|e| format!("{e:?}"))?;
        if to.contains("stepped back") { Ok(()) } else { Err(to) }
    })?;
    ensure!(routes(&mesh)? == "stable (1), new (stepped back, was 1)", "{}", routes(&mesh)?);
    ensure!(shares(at, 100)? == [("stable".into(), 100)].into(), "nobody meets it");
    let problems = mesh.status()?.problems;
    println!("{problems:?}");
    ensure!(problems.len() == 1 && problems[0].contains("stepped back from new"), "{problems:?}");
    let why: Why = mesh.node.cli(&["mesh", "why", "http://any/", "-o", "json"])?.json()?;
    ensure!(why.outcome.contains("stepped back") && why.endpoints.len() == 1, "{why:?}");

    // It is mended, and nothing brings it back by itself: neither time, nor an upgrade, nor a
    // restart, nor a document about something else.
    new.is_ill.store(false, Relaxed);
    let upgraded = mesh.node.cli(&["mesh", "upgrade"])?;
    ensure!(upgraded.code == 0, "{upgraded:?}");
    ensure!(of_new(100)? == 0, "after an upgrade");
    let pid = nix::unistd::Pid::from_raw(mesh.status()?.pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    wait::until("the agent has started it again", SOON, || {
        get(at, "any", "/").map(drop).map_err(|e| format!("{e:?}"))
    })?;
    ensure!(of_new(100)? == 0, "after a restart");
    mesh.put(&("mesh.access_log = true\n".to_owned() + &document))?;
    ensure!(of_new(100)? == 0, "after another document");
    // By hand, there and back; and a document about it.
    let undone = mesh.node.cli(&["mesh", "step-back", "--undo", "shop"])?;
    ensure!(undone.code == 0 && of_new(200)? > 50, "{undone:?}");
    ensure!(mesh.status()?.problems.is_empty(), "all is well");
    let back = mesh.node.cli(&["mesh", "step-back", "shop"])?;
    ensure!(back.code == 0 && of_new(100)? == 0, "{back:?}");
    let none = mesh.node.cli(&["mesh", "step-back", "shopp"])?;
    ensure!(none.code != 0 && none.stderr.contains("shopp is no route"), "{none:?}");
    mesh.put(&(listener(at) + &split(&stable, &new, [1, 2], rule)))?;
    ensure!(of_new(200)? > 50, "with other shares it begins anew");
    Ok(())
}

/// Requests that wait, each on a connection of its own.
fn waiting(at: SocketAddr, host: &str, ms: u32, count: usize) -> Result<Vec<Connection>> {
    let one = || {
        let mut connection = Connection::open(at)?;
        write!(connection.0, "GET /slow/{ms} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
        Ok(connection)
    };
    (0..count).map(|_| one()).collect()
}

/// Until so many requests are under way at a service.
fn under_way(mesh: &Mesh, service: &str, count: u32) -> Result {
    let mut seen = BTreeSet::new();
    wait::until(&format!("{count} are under way"), SOON, || {
        let all = mesh.node.cli(&["mesh", "endpoints", "-o", "json"]);
        let all: Endpoints = all.and_then(|it| it.json()).map_err(|e| format!("{e:?}"))?;
        let of = all.endpoints.iter().filter(|it| it.service == service);
        let now: u32 = of.map(|it| it.active).sum();
        seen.insert(now);
        if now == count { Ok(()) } else { Err(format!("{now}, and in all this time {seen:?}")) }
    })
}

fn spilled(lab: &Lab) -> Result {
    let (rack, core) = (Upstream::start("rack")?, Upstream::start("core")?);
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    let what = "spill_over_requests = 10\nspill = { service = \"core\" }";
    let elsewhere = format!("[[mesh.services]]\nname = \"core\"\nendpoints = [{}]\n", plain(&core));
    mesh.put(&(listener(at) + &service_of("shop", what, &[plain(&rack)]) + &elsewhere))?;
    let by = || -> Result<String> { Ok(get(at, "shop.rack", "/")?.by().to_owned()) };
    ensure!(answered_by(at, "shop.rack", 20)? == ["rack"], "the rack has room");
    // Eight of ten: it has. Nine: it has not.
    let mut soon = waiting(at, "shop.rack", 4000, 2)?;
    let mut later = waiting(at, "shop.rack", 9000, 6)?;
    under_way(&mesh, "shop", 8)?;
    ensure!(by()? == "rack", "eight of ten");
    later.extend(waiting(at, "shop.rack", 9000, 1)?);
    under_way(&mesh, "shop", 9)?;
    ensure!(answered_by(at, "shop.rack", 10)? == ["core"], "nine of ten");
    let why: Why = mesh.node.cli(&["mesh", "why", "http://shop.rack/", "-o", "json"])?.json()?;
    ensure!(why.outcome == "goes to shop (full: to core)", "{why:?}");
    ensure!(why.endpoints.len() == 1 && why.endpoints[0].service == "core", "{why:?}");
    // With seven it goes on, and with none it is over.
    for connection in &mut soon {
        ensure!(connection.answer()?.by() == "rack", "one that waited");
    }
    under_way(&mesh, "shop", 7)?;
    ensure!(answered_by(at, "shop.rack", 10)? == ["core"], "seven of ten");
    for connection in &mut later {
        ensure!(connection.answer()?.by() == "rack", "one that waited");
    }
    under_way(&mesh, "shop", 0)?;
    ensure!(answered_by(at, "shop.rack", 20)? == ["rack"], "and back");
    let log = std::fs::read_to_string(mesh.node.dir().join("home/state/purlin/mesh/log"))?;
    let turns = ["the rack is full", "the rack has room again"];
    ensure!(turns.iter().all(|it| log.matches(it).count() == 1), "{log}");
    Ok(())
}

fn broken(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&(listener(at) + &service_of("shop", "max_requests = 2", &[plain(&shop)])))?;
    let mut two = waiting(at, "shop.rack", 2500, 2)?;
    under_way(&mesh, "shop", 2)?;
    let third = get(at, "shop.rack", "/")?;
    ensure!(third.status == 503 && third.body.contains("circuit breaker"), "{third:?}");
    for connection in &mut two {
        ensure!(connection.answer()?.status == 200, "those under way");
    }
    ensure!(get(at, "shop.rack", "/")?.status == 200, "and closed again");
    ensure!(shop.requests.load(Relaxed) == 3, "the one over the limit never got there");
    ensure!(mesh.status()?.counts.broken == 1, "it is counted");
    let opened = mesh.node.cli(&["mesh", "break", "shop"])?;
    ensure!(opened.code == 0 && get(at, "shop.rack", "/")?.status == 503, "{opened:?}");
    let closed = mesh.node.cli(&["mesh", "break", "--undo", "shop"])?;
    ensure!(closed.code == 0 && get(at, "shop.rack", "/")?.status == 200, "{closed:?}");
    let none = mesh.node.cli(&["mesh", "break", "nobody"])?;
    ensure!(none.code != 0 && none.stderr.contains("nobody is none of"), "{none:?}");
    Ok(())
}

fn one_by_one(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&(listener(at) + &service_of("shop", "max_requests = 1", &[plain(&shop)])))?;
    // Over connections that are different workers'.
    let mut connections =
        (0..8).map(|_| Connection::open(at)).collect::<std::io::Result<Vec<_>>>()?;
    for n in 0..4000 {
        let answer = connections[n % 8].get("shop.rack", "/")?;
        ensure!(answer.status == 200, "request {n}: {answer:?}");
    }
    Ok(())
}

fn by_hand(lab: &Lab) -> Result {
    let (a, b) = (Upstream::start("a")?, Upstream::start("b")?);
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    let what = "balance = { policy = \"round_robin\" }";
    mesh.put(&(listener(at) + &service_of("shop", what, &[plain(&a), plain(&b)])))?;
    ensure!(answered_by(at, "shop.rack", 20)? == ["a", "b"], "both");
    // What is under way there goes on.
    let mut waiting = waiting(at, "shop.rack", 1500, 2)?;
    under_way(&mesh, "shop", 2)?;
    let address = a.address.to_string();
    let drained = mesh.node.cli(&["mesh", "drain", &address])?;
    ensure!(drained.code == 0 && drained.stdout.contains("drained by hand"), "{drained:?}");
    ensure!(answered_by(at, "shop.rack", 20)? == ["b"], "a gets nothing new");
    for connection in &mut waiting {
        ensure!(connection.answer()?.status == 200, "what was under way");
    }
    // A table that has it too leaves it drained.
    mesh.put(
        &("mesh.access_log = true\n".to_owned()
            + &listener(at)
            + &service_of("shop", what, &[plain(&b), plain(&a)])),
    )?;
    ensure!(answered_by(at, "shop.rack", 20)? == ["b"], "still");
    let undone = mesh.node.cli(&["mesh", "drain", "--undo", &address])?;
    ensure!(undone.code == 0 && answered_by(at, "shop.rack", 20)? == ["a", "b"], "{undone:?}");

    let mut tap = mesh.node.command(&[]);
    tap.args(["mesh", "tap", "-n", "4", "-o", "json"]);
    let mut tap = tap.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    wait::until("the tap has seen four", SOON, || {
        get(at, "shop.rack", "/tapped").map_err(|e| format!("{e:?}"))?;
        match tap.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let told = tap.wait_with_output()?;
    let lines = String::from_utf8_lossy(&told.stdout).into_owned();
    let requests: Vec<Tapped> = serde_json::Deserializer::from_str(&lines)
        .into_iter::<Tapped>()
        .collect::<std::result::Result<_, _>>()?;
    ensure!(requests.len() == 4, "{lines}");
    let ends = [a.address.to_string(), b.address.to_string()];
    for it in &requests {
        let is_one = it.endpoint.as_ref().is_some_and(|it| ends.contains(it));
        ensure!(is_one && (it.status, &*it.method) == (200, "GET"), "{it:?}");
        ensure!((&*it.host, &*it.path) == ("shop.rack", "/tapped"), "{it:?}");
        ensure!(it.trace.is_some(), "{it:?}");
    }
    Ok(())
}

/// Who answers each of so many keys.
fn placed(at: SocketAddr, keys: usize) -> Result<Vec<String>> {
    let mut connection = Connection::open(at)?;
    let one = |n: usize| {
        let request = format!("GET / HTTP/1.1\r\nHost: shop.rack\r\nX-User: u{n}\r\n\r\n");
        Ok(connection.send(&request)?.by().to_owned())
    };
    (0..keys).map(one).collect()
}

fn hashed(lab: &Lab) -> Result {
    const KEYS: usize = 300;
    let names = ["a", "b", "c", "d", "e"];
    let all: Vec<_> = names.map(Upstream::start).into_iter().collect::<Result<_>>()?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    for (policy, may_stray) in [("ring_hash", 0), ("maglev", KEYS / 10)] {
        let what = format!("balance = {{ policy = \"{policy}\", hash_on = \"header:X-User\" }}");
        let of = |some: &[Upstream]| -> String {
            let ends: Vec<_> = some.iter().map(plain).collect();
            listener(at) + &service_of("shop", &what, &ends)
        };
        mesh.put(&of(&all))?;
        let before = placed(at, KEYS)?;
        ensure!(placed(at, KEYS)? == before, "{policy}: a key stays where it is");
        let used = names.iter().filter(|name| before.iter().any(|it| it == *name)).count();
        ensure!(used == names.len(), "{policy}: {used} of {} are used", names.len());
        // The last one goes.
        mesh.put(&of(&all[..4]))?;
        let after = placed(at, KEYS)?;
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b);
        let (of_gone, astray): (Vec<_>, Vec<_>) = moved.partition(|(a, _)| *a == "e");
        println!(
            "{policy}: {} moved from the one that went, {} others",
            of_gone.len(),
            astray.len()
        );
        ensure!(astray.len() <= may_stray, "{policy}: {} keys astray", astray.len());
        ensure!(of_gone.len() <= KEYS / 5 + KEYS * 15 / 100, "{policy}: {}", of_gone.len());
    }
    Ok(())
}

fn hashed_on(lab: &Lab) -> Result {
    let all: Vec<_> =
        ["a", "b", "c", "d", "e"].map(Upstream::start).into_iter().collect::<Result<_>>()?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    let ends: Vec<_> = all.iter().map(plain).collect();
    let mut in_force = "";
    // Forty requests, each on a connection of its own, that differ in this alone: they go
    // to one place or to several.
    for (hash_on, target, header, is_one) in [
        ("source_ip", "/N?N", "Cookie: id=N", true),
        ("source", "/", "X-User: u", false),
        ("path", "/?N", "X-User: N", true),
        ("path", "/N", "X-User: u", false),
        ("url", "/", "X-User: N", true),
        ("url", "/?N", "X-User: u", false),
        ("protocol", "/N?N", "X-User: N", true),
        ("cookie:id", "/N", "Cookie: other=N; id=1", true),
        ("cookie:id", "/", "Cookie: other=1; id=N", false),
    ] {
        if hash_on != in_force {
            let what = format!("balance = {{ policy = \"maglev\", hash_on = \"{hash_on}\" }}");
            mesh.put(&(listener(at) + &service_of("shop", &what, &ends)))?;
            in_force = hash_on;
        }
        let one = |n: usize| -> Result<String> {
            let request = format!("GET {target} HTTP/1.1\r\nHost: shop.rack\r\n{header}\r\n\r\n");
            let answer = Connection::open(at)?.send(&request.replace('N', &n.to_string()))?;
            Ok(answer.by().to_owned())
        };
        let by = (0..40).map(one).collect::<Result<BTreeSet<_>>>()?;
        ensure!((by.len() == 1) == is_one, "{hash_on} {target} {header}: {by:?}");
    }
    Ok(())
}

/// PROXY protocol v2 (2.2), TCP over IPv4.
fn version_2(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else { return Vec::new() };
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(from.ip().octets().into_iter().chain(to.ip().octets()));
    header.extend(from.port().to_be_bytes().into_iter().chain(to.port().to_be_bytes()));
    header
}

fn proxied(lab: &Lab) -> Result {
    let (shop, raw) = (Upstream::start("shop")?, TcpListener::bind("127.0.0.1:0")?);
    let mesh = Mesh::standalone(lab)?;
    let (at, one, two) = (free_port()?, free_port()?, free_port()?);
    let mut document =
        format!("[[mesh.listeners]]\nname = \"web\"\naddress = \"{at}\"\nproxy_protocol = true\n")
            + &service_of("shop", "", &[plain(&shop)]);
    for (name, address, version) in [("one", one, 1), ("two", two, 2)] {
        document += &format!(
            "[[mesh.listeners]]\nname = \"{name}\"\naddress = \"{address}\"\nprotocol = \"tcp\"\n\
             [[mesh.services]]\nname = \"{name}\"\nsend_proxy_protocol = {version}\nendpoints = [{{ address = \"{}\" }}]\n\
             [[mesh.routes]]\nname = \"{name}\"\nkind = \"tcp\"\nlisteners = [\"{name}\"]\n\
             rules = [{{ backend_refs = [{{ name = \"{name}\" }}] }}]\n",
            raw.local_addr()?
        );
    }
    mesh.put(&document)?;
    // In: whoever is said to ask is who asks.
    let (from, to): (SocketAddr, SocketAddr) = ("192.0.2.7:7".parse()?, "192.0.2.1:80".parse()?);
    for header in [b"PROXY TCP4 192.0.2.7 192.0.2.1 7 80\r\n".to_vec(), version_2(from, to)] {
        let mut known = Connection::open(at)?;
        known.0.write_all(&header)?;
        let answer = known.get("shop.rack", "/")?;
        ensure!(answer.body.contains("x-forwarded-for: 192.0.2.7\r\n"), "{answer:?}");
    }
    let mut garbled = version_2(from, to);
    garbled[12] = 0x31;
    let mut bad = Connection::open(at)?;
    bad.0.write_all(&garbled)?;
    ensure!(bad.get("shop.rack", "/").is_err(), "a version that is none");
    // Out: the endpoint is told who we are.
    for (address, version) in [(one, 1), (two, 2)] {
        let mut client = TcpStream::connect(address)?;
        client.write_all(b"hello")?;
        let own = client.local_addr()?;
        let wanted = match version {
            1 => format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", own.port(), address.port())
                .into_bytes(),
            _ => version_2(own, address),
        };
        let (mut accepted, _) = raw.accept()?;
        accepted.set_read_timeout(Some(SOON))?;
        let mut read = vec![0; wanted.len() + 5];
        accepted.read_exact(&mut read)?;
        ensure!(read == [&wanted[..], b"hello"].concat(), "version {version}: {read:?}");
    }
    Ok(())
}
