//! The mesh on this machine's loopback: what a document asks for is what a client gets,
//! through kills and changes; and what is no HTTP gets nowhere.

#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "the tests' names are their documentation")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{ExitCode, Stdio},
    sync::atomic::Ordering::Relaxed,
    thread,
    time::Duration,
};

use purlin_proto::{
    api::MeshState,
    mesh::{Endpoints, Status, Why},
};
use purlin_tests::{
    Lab, Need, Node, Result, ensure, lab::Test, namespace::Namespace, process::Process, test, wait,
};

use crate::{
    client::{Connection, Restless, get, there_and_back},
    upstream::Upstream,
};

mod client;
mod datagrams;
mod gossip;
mod http1;
mod intercept;
mod interop;
mod jwt;
mod names;
mod namespaces;
mod protection;
mod rack;
mod records;
mod telemetry;
mod tunnel;
mod upstream;
mod workloads;

/// For whatever has to start, or to be told, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let tests: [Test; 19] = [
        test("a_document_is_what_a_client_gets", 60, document),
        test("a_document_that_does_not_fit_together_is_refused_with_every_reason", 60, refused),
        test("a_killed_agent_and_a_changed_table_cost_no_request", 90, no_request_lost),
        test("a_table_that_can_not_be_had_is_undone_and_so_is_one_by_hand", 90, undone),
        test("on_a_node_the_mesh_is_a_service_beside_the_agent", 90, service),
        test("an_upgrade_costs_no_connection_and_no_request", 120, upgrade),
        test("a_mesh_that_can_not_take_over_changes_nothing", 60, no_upgrade),
        test("a_mesh_alone_starts_from_its_disk", 60, cold_start),
        test("what_two_readers_could_read_differently_is_refused_and_counted", 60, strict),
        test("slow_heads_are_cut_off_and_idle_connections_are_parked", 90, slow_and_idle),
        test("tcp_tls_and_proxy_protocol_are_passed_through", 60, bytes),
        test("an_upgraded_connection_carries_bytes", 60, upgraded),
        test("an_endpoint_that_is_gone_costs_no_request", 60, endpoint_gone),
        test("an_endpoint_that_fails_is_left_out_and_comes_back", 90, left_out),
        test(
            "an_endpoint_that_fails_its_checks_gets_no_request_and_none_well_means_all",
            90,
            checked,
        ),
        test("the_nearest_endpoints_have_it_all_until_they_fail", 60, nearest),
        test("a_client_with_a_cookie_stays_with_its_endpoint", 60, sticky),
        test("an_answer_that_says_so_is_asked_for_elsewhere", 60, retried),
        test("http2_by_an_independent_client", 90, http2)
            .needs(&[Need::Program("h2load"), Need::Program("curl")]),
    ];
    let mut all = Vec::from(tests);
    all.extend(http1::tests());
    all.extend(interop::tests());
    all.extend(jwt::tests());
    all.extend(tunnel::tests());
    all.extend(records::tests());
    all.extend(namespaces::tests());
    all.extend(datagrams::tests());
    all.extend(telemetry::tests());
    all.extend(protection::tests());
    all.extend(gossip::tests());
    all.extend(names::tests());
    all.extend(intercept::tests());
    all.extend(workloads::tests());
    purlin_tests::run(all)
}

/// A mesh, and who looks after it.
struct Mesh<'l> {
    lab: &'l Lab,
    node: Node,
}

impl<'l> Mesh<'l> {
    /// A standalone agent that starts one once a document asks for it.
    fn standalone(lab: &'l Lab) -> Result<Self> {
        let mut node = Node::standalone(lab, "node")?;
        node.set("PURLIN_TEST__CONFIRM_AFTER_MS", "100");
        node.start()?;
        Ok(Self { lab, node })
    }

    /// The same in a network namespace.
    fn in_space(lab: &'l Lab, space: &Namespace) -> Result<Self> {
        let mut node = Node::standalone(lab, "node")?;
        node.set("PURLIN_TEST__CONFIRM_AFTER_MS", "100");
        let binary = node.binary().to_owned();
        node.run_with(&["nsenter", "-t", &space.pid(), "-n"], &binary);
        node.start()?;
        Ok(Self { lab, node })
    }

    fn apply(&self, document: &str) -> Result {
        let file = self.lab.file("mesh.toml", document)?;
        let answer = self.node.cli(&["config", "apply", &file.display().to_string()])?;
        ensure!(answer.code == 0, "{answer:?}");
        Ok(())
    }

    /// Applies a document with another mesh, and waits until that is in force for good.
    fn put(&self, document: &str) -> Result<Status> {
        let before = self.status().map_or(0, |status| status.generation);
        self.apply(document)?;
        let text = |error: libtest_mimic::Failed| error.message().unwrap_or_default().to_owned();
        wait::until("the mesh has the table", SOON, || {
            let status = self.status().map_err(text)?;
            let active = self.node.config().map_err(text)?.active.map(|it| it.generation);
            let is_there = status.generation > before && active == Some(status.generation);
            if is_there { Ok(status) } else { Err(format!("{active:?}: {status:?}")) }
        })
    }

    fn status(&self) -> Result<Status> {
        let answer = self.node.cli(&["mesh", "show", "-o", "json"])?;
        ensure!(matches!(answer.code, 0 | 2), "{answer:?}");
        answer.json()
    }
}

impl Drop for Mesh<'_> {
    fn drop(&mut self) {
        if self.node.pid().is_err() {
            return;
        }
        // Standalone it ends with its agent.
        let ended = self.node.stop();
        if ended.is_err() && !thread::panicking() {
            eprintln!("the agent did not stop: {ended:?}");
        }
    }
}

/// A port that was free just now.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn web(address: SocketAddr, endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<_> =
        endpoints.iter().map(|it| format!("{{ address = \"{it}\" }}")).collect();
    format!(
        "[[mesh.listeners]]\nname = \"web\"\naddress = \"{address}\"\n\
         [[mesh.services]]\nname = \"shop\"\nendpoints = [{}]\n\
         [[mesh.routes]]\nname = \"shop\"\nlisteners = [\"web\"]\nhostnames = [\"shop.rack\"]\n\
         rules = [{{ backend_refs = [{{ name = \"shop\" }}] }}]\n",
        endpoints.join(", ")
    )
}

fn document(lab: &Lab) -> Result {
    let (shop, beta) = (Upstream::start("shop")?, Upstream::start("beta")?);
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&format!(
        "[[mesh.listeners]]\nname = \"web\"\naddress = \"{at}\"\n\
         [[mesh.services]]\nname = \"shop\"\nendpoints = [{{ address = \"{}\" }}]\n\
         [[mesh.services]]\nname = \"beta\"\nendpoints = [{{ address = \"{}\" }}]\n\
         [[mesh.routes]]\nname = \"shop\"\nlisteners = [\"web\"]\nhostnames = [\"*.rack\"]\n\
         [[mesh.routes.rules]]\nbackend_refs = [{{ name = \"shop\" }}]\n\
         [[mesh.routes.rules]]\nmatches = [{{ path = {{ value = \"/api\" }}, headers = [{{ name = \"X-Canary\", value = \"1\" }}] }}]\n\
         url_rewrite = {{ path = {{ replace_prefix_match = \"/v2\" }} }}\n\
         request_header_modifier = {{ set = {{ \"x-from\" = \"mesh\" }} }}\n\
         backend_refs = [{{ name = \"beta\" }}]\n\
         [[mesh.routes.rules]]\nmatches = [{{ path = {{ type = \"exact\", value = \"/old\" }} }}]\n\
         request_redirect = {{ path = {{ replace_full_path = \"/new\" }}, status_code = 301 }}\n",
        shop.address, beta.address
    ))?;
    let plain = get(at, "Shop.Rack:80", "/api/x")?;
    ensure!((plain.status, plain.by()) == (200, "shop"), "{plain:?}");
    ensure!(plain.body.contains("x-forwarded-for: 127.0.0.1"), "{plain:?}");
    let canary = Connection::open(at)?.send(
        "GET /api/x?y=1 HTTP/1.1\r\nHost: a.rack\r\nX-Canary: 1\r\nConnection: X-Secret, X-From, Traceparent, X-Forwarded-For\r\nX-Secret: 1\r\n\r\n",
    )?;
    ensure!(canary.body.starts_with("beta\nGET /v2/x?y=1 HTTP/1.1\r\n"), "{canary:?}");
    // A client takes away its own headers, and none that are the mesh's.
    for (header, is_there) in [
        ("x-from: mesh", true),
        ("traceparent: ", true),
        ("x-forwarded-for: ", true),
        ("x-secret", false),
    ] {
        ensure!(canary.body.contains(header) == is_there, "{header}: {canary:?}");
    }
    let old = get(at, "a.rack", "/old?q=1")?;
    ensure!(
        old.status == 301 && old.head.contains("location: http://a.rack/new?q=1\r\n"),
        "{old:?}"
    );
    ensure!(get(at, "elsewhere", "/")?.status == 404, "no route");
    ensure!(get(at, "a.rack", "/a/%2e%2E/b")?.status == 400, "an ambiguous path");
    let posted = Connection::open(at)?.send(
        "POST / HTTP/1.1\r\nHost: a.rack\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    ensure!(posted.is_ok_and(|it| it.status == 200), "a chunked body");
    let why = mesh.node.cli(&["mesh", "why", "http://a.rack/api/x", "-o", "json"])?;
    let why: Why = why.json()?;
    let because: Vec<_> = why.passed_over.iter().map(|it| it.because.as_str()).collect();
    ensure!(because == ["another path", "header x-canary is not as wanted"], "{why:?}");
    ensure!(why.route == Some(("shop".into(), 0)) && why.outcome == "goes to shop", "{why:?}");
    let endpoints: Endpoints = mesh.node.cli(&["mesh", "endpoints", "-o", "json"])?.json()?;
    let counted: Vec<_> =
        endpoints.endpoints.iter().map(|it| (it.service.as_str(), it.requests)).collect();
    ensure!(counted == [("shop", 2), ("beta", 1)], "{counted:?}");
    let seen = shop.requests.load(Relaxed);
    ensure!(seen == 2, "shop saw {seen} requests");
    Ok(())
}

fn refused(lab: &Lab) -> Result {
    let mesh = Mesh::standalone(lab)?;
    let document = "[[mesh.listeners]]\nname = \"plant\"\naddress = \"127.0.0.1:1\"\nzone = \"floor\"\n\
        [[mesh.listeners]]\nname = \"raw\"\naddress = \"127.0.0.1:1\"\nprotocol = \"tcp\"\n\
        [[mesh.services]]\nname = \"shop\"\nendpoints = [{ address = \"0.0.0.0:80\" }]\n\
        [[mesh.routes]]\nname = \"shop\"\nlisteners = [\"plant\", \"raw\", \"nowhere\"]\n\
        rules = [{ backend_refs = [{ name = \"shopp\" }] }, {}]\n";
    let file = lab.file("bad.toml", document)?;
    let answer = mesh.node.cli(&["config", "apply", &file.display().to_string()])?;
    ensure!(answer.code == 3, "{answer:?}");
    for reason in [
        "mesh.listeners[1].address",
        "mesh.services[0].endpoints[0].address",
        "mesh.routes[0].listeners[0]",
        "nothing is exposed by default",
        "mesh.routes[0].listeners[1]",
        "mesh.routes[0].listeners[2]",
        "mesh.routes[0].rules[0].backend_refs[0].name",
        "mesh.routes[0].rules[1].backend_refs",
    ] {
        ensure!(answer.stderr.contains(reason), "{reason} is not in {}", answer.stderr);
    }
    ensure!(mesh.node.config()?.active.is_none(), "nothing was applied");
    Ok(())
}

fn no_request_lost(lab: &Lab) -> Result {
    let (shop, other, echo) =
        (Upstream::start("shop")?, Upstream::start("other")?, Upstream::echo()?);
    let mut mesh = Mesh::standalone(lab)?;
    let (at, raw, more) = (free_port()?, free_port()?, free_port()?);
    let with_raw = web(at, &[shop.address])
        + &format!(
            "[[mesh.listeners]]\nname = \"raw\"\naddress = \"{raw}\"\nprotocol = \"tcp\"\n\
             [[mesh.services]]\nname = \"echo\"\nendpoints = [{{ address = \"{}\" }}]\n\
             [[mesh.routes]]\nname = \"raw\"\nkind = \"tcp\"\nlisteners = [\"raw\"]\n\
             rules = [{{ backend_refs = [{{ name = \"echo\" }}] }}]\n",
            echo.address
        );
    let first = mesh.put(&with_raw)?;
    let mut open = TcpStream::connect(raw)?;
    open.set_read_timeout(Some(SOON))?;
    let clients: Vec<_> = (0..3).map(|_| Restless::start(at, "shop.rack", "shop")).collect();

    mesh.node.kill()?;
    ensure!(echoes(&mut open)?, "bytes pass with the agent dead");
    mesh.node.start()?;
    // Another listener comes and goes, and a service that nobody asks for.
    let extra = format!(
        "[[mesh.listeners]]\nname = \"more\"\naddress = \"{more}\"\n\
         [[mesh.services]]\nname = \"other\"\nendpoints = [{{ address = \"{}\" }}]\n\
         [[mesh.routes]]\nname = \"more\"\nlisteners = [\"more\"]\n\
         rules = [{{ backend_refs = [{{ name = \"other\" }}] }}]\n",
        other.address
    );
    let second = mesh.put(&format!("{with_raw}{extra}"))?;
    ensure!(get(more, "any", "/")?.by() == "other", "the new listener");
    mesh.put(&with_raw)?;
    ensure!(TcpStream::connect(more).is_err(), "a listener that is gone accepts no more");
    ensure!(echoes(&mut open)?, "a connection that no change concerned");
    ensure!(first.pid == second.pid, "the same mesh: {} and {}", first.pid, second.pid);
    for client in clients {
        let (done, wrong) = client.stop()?;
        ensure!(done > 0 && wrong.is_empty(), "{done} answered, wrong: {wrong:?}");
    }
    Ok(())
}

/// A mesh without an agent, that has this table already.
fn alone(lab: &Lab, document: &str, arguments: &[&str]) -> Result<(Node, Process)> {
    {
        let mesh = Mesh::standalone(lab)?;
        mesh.put(document)?;
    }
    let node = Node::standalone(lab, "node")?;
    let log = std::fs::File::create(lab.dir().join("mesh.log"))?;
    let mut command = node.command(&[]);
    command.arg("mesh").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let process = Process::start(&mut command)?;
    wait::until("the mesh answers", SOON, || match node.cli(&["mesh", "show"]) {
        Ok(answer) if matches!(answer.code, 0 | 2) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    Ok((node, process))
}

/// Ends the mesh that took over last: nobody here started it.
fn end(node: &Node) -> Result {
    let status: Status = node.cli(&["mesh", "show", "-o", "json"])?.json()?;
    let pid = nix::unistd::Pid::from_raw(status.pid.cast_signed());
    Ok(nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?)
}

fn upgrade(lab: &Lab) -> Result {
    let (shop, echo) = (Upstream::start("shop")?, Upstream::echo()?);
    let (at, raw) = (free_port()?, free_port()?);
    let document = web(at, &[shop.address])
        + &format!(
            "[[mesh.listeners]]\nname = \"raw\"\naddress = \"{raw}\"\nprotocol = \"tcp\"\n\
             [[mesh.services]]\nname = \"echo\"\nendpoints = [{{ address = \"{}\" }}]\n\
             [[mesh.routes]]\nname = \"raw\"\nkind = \"tcp\"\nlisteners = [\"raw\"]\n\
             rules = [{{ backend_refs = [{{ name = \"echo\" }}] }}]\n",
            echo.address
        );
    let (node, first) = alone(lab, &document, &["--drain", "6"])?;
    let clients: Vec<_> = (0..4).map(|_| Restless::start(at, "shop.rack", "shop")).collect();
    // Idle ones, of which some never sent a byte; one in the middle of a request; bytes.
    let mut idle: Vec<_> = (0..20).map(|_| Connection::open(at)).collect::<std::io::Result<_>>()?;
    for connection in idle.iter_mut().take(10) {
        ensure!(connection.get("shop.rack", "/")?.status == 200, "before");
    }
    let mut halfway = Connection::open(at)?;
    halfway.0.write_all(b"GET / HTTP/1.1\r\nHost: shop")?;
    let mut slow = Connection::open(at)?;
    slow.0.write_all(b"GET /slow/1500 HTTP/1.1\r\nHost: shop.rack\r\n\r\n")?;
    let mut bytes = TcpStream::connect(raw)?;
    bytes.set_read_timeout(Some(SOON))?;
    ensure!(echoes(&mut bytes)?, "bytes before");

    let (mut pid, mut lived_on) = (first.pid().as_raw().cast_unsigned(), 0);
    for n in 0..3 {
        let upgraded: purlin_proto::mesh::Upgraded =
            node.cli(&["mesh", "upgrade", "-o", "json"])?.json()?;
        ensure!(upgraded.from == pid && upgraded.to != pid, "upgrade {n}: {upgraded:?}");
        pid = upgraded.to;
        let status: Status = node.cli(&["mesh", "show", "-o", "json"])?.json()?;
        ensure!(status.pid == pid && !status.draining && status.problems.is_empty(), "{status:?}");
        wait::until("idle connections are with the new one", SOON, || {
            let answer = node.cli(&["mesh", "show", "-o", "json"]).map_err(|e| format!("{e:?}"))?;
            let open = answer.json::<Status>().map_err(|e| format!("{e:?}"))?.counts.open;
            if open >= idle.len() as u64 { Ok(()) } else { Err(format!("{open}")) }
        })?;
        for connection in &mut idle {
            let answer = connection.get("shop.rack", "/");
            let answer = answer.map_err(|e| format!("upgrade {n}: an idle one: {e}"))?;
            ensure!(answer.by() == "shop", "{answer:?}");
            // One that the old process had no time yet to pass on is told to leave.
            match answer.head.to_lowercase().contains("connection: close") {
                true => *connection = Connection::open(at)?,
                false => lived_on += 1,
            }
        }
        if n == 0 {
            ensure!(echoes(&mut bytes)?, "bytes go on in the old one");
            halfway.0.write_all(b".rack\r\n\r\n")?;
            for connection in [&mut halfway, &mut slow] {
                let answer = connection.answer()?;
                ensure!(
                    answer.by() == "shop" && answer.head.contains("connection: close"),
                    "{answer:?}"
                );
            }
        }
        thread::sleep(Duration::from_millis(200));
    }
    for client in clients {
        let (done, wrong) = client.stop()?;
        ensure!(wrong.is_empty(), "of {done} requests: {wrong:?}");
        ensure!(done > 20, "{done} requests is no test");
    }
    println!("{lived_on} of {} idle connections went on in the next process", 3 * idle.len());
    ensure!(lived_on >= idle.len(), "{lived_on} lived on");
    // Bytes are cut at the drain's deadline, and the first one has ended then.
    let ended = first.wait(SOON)?.0;
    ensure!(ended.success(), "the first ended with {ended}");
    ensure!(!echoes(&mut bytes).unwrap_or(false), "bytes are cut");
    ensure!(get(at, "shop.rack", "/")?.by() == "shop", "the last one serves");
    end(&node)
}

fn no_upgrade(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let at = free_port()?;
    {
        let mesh = Mesh::standalone(lab)?;
        mesh.put(&web(at, &[shop.address]))?;
    }
    // Under its name there is another program in the end, as after an upgrade.
    let (mut node, copy) = (Node::standalone(lab, "node")?, lab.dir().join("purlin"));
    std::fs::copy(node.binary(), &copy)?;
    node.run_with(&[], &copy);
    let process =
        Process::start(node.command(&[]).arg("mesh").stdin(Stdio::null()).stdout(Stdio::null()))?;
    wait::until("the mesh serves", SOON, || {
        get(at, "shop.rack", "/").map(drop).map_err(|e| format!("{e:?}"))
    })?;
    let node = Node::standalone(lab, "node")?;
    std::fs::remove_file(&copy)?;
    std::fs::write(&copy, "#!/bin/sh\nexit 1\n")?;
    std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let answer = node.cli(&["mesh", "upgrade"])?;
    ensure!(answer.code == 1 && answer.stderr.contains("the old one goes on"), "{answer:?}");
    ensure!(get(at, "shop.rack", "/")?.by() == "shop", "it serves");
    let status: Status = node.cli(&["mesh", "show", "-o", "json"])?.json()?;
    ensure!(status.pid == process.pid().as_raw().cast_unsigned() && !status.draining, "{status:?}");
    Ok(())
}

fn undone(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let mesh = Mesh::standalone(lab)?;
    let (at, other) = (free_port()?, free_port()?);
    let before = mesh.put(&web(at, &[shop.address]))?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let impossible = lab.file("taken.toml", web(taken.local_addr()?, &[shop.address]))?;
    let answer = mesh.node.cli(&["config", "apply", &impossible.display().to_string()])?;
    ensure!(
        answer.code != 0 && answer.stdout.contains("another program listens there"),
        "{answer:?}"
    );
    ensure!(get(at, "shop.rack", "/")?.by() == "shop", "the table before is in force");
    ensure!(mesh.status()?.generation == before.generation, "{:?}", mesh.status()?);

    let elsewhere = lab.file("other.toml", web(other, &[shop.address]))?;
    let plan = mesh.node.cli(&["config", "plan", &elsewhere.display().to_string()])?;
    let planned = format!("http at {other}, egress");
    ensure!(plan.code == 0 && plan.stdout.contains(&planned), "{plan:?}");
    let tried = mesh.node.cli(&["config", "try", &elsewhere.display().to_string()])?;
    ensure!(tried.code == 0, "{tried:?}");
    wait::until("the table on trial is in force", SOON, || {
        get(other, "shop.rack", "/").map(drop).map_err(|e| format!("{e:?}"))
    })?;
    let reverted = mesh.node.cli(&["config", "revert"])?;
    ensure!(reverted.code == 0, "{reverted:?}");
    ensure!(get(at, "shop.rack", "/")?.by() == "shop", "the one before is back");
    ensure!(TcpStream::connect(other).is_err(), "and the other is gone");
    Ok(())
}

fn service(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_TEST__CONFIRM_AFTER_MS", "100");
    node.start()?;
    let mesh_of = |node: &Node| Ok::<_, libtest_mimic::Failed>(node.status()?.mesh);
    ensure!(mesh_of(&node)?.state == MeshState::Absent, "nothing is wanted of it");
    let at = free_port()?;
    let file = lab.file("mesh.toml", web(at, &[shop.address]))?.display().to_string();
    let alone = node.cli(&["config", "apply", &file])?;
    ensure!(alone.code != 0 && alone.stdout.contains("systemctl status purlin-mesh"), "{alone:?}");

    let start = || Process::start(node.command(&[]).arg("mesh").stdout(Stdio::null()));
    let mut running = start()?;
    let applied = wait::until("it is applied", SOON, || {
        let answer =
            node.cli(&["config", "apply", "--force", &file]).map_err(|e| format!("{e:?}"))?;
        if answer.code == 0 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    applied?;
    ensure!(get(at, "shop.rack", "/")?.by() == "shop", "it serves");
    let seen = mesh_of(&node)?;
    ensure!(
        (seen.state, seen.listeners, seen.pid)
            == (MeshState::Up, 1, Some(running.pid().as_raw() as u32)),
        "{seen:?}"
    );

    // Without it another change is possible all the same, and the fault is told.
    running.kill()?;
    let is_told =
        |node: &Node| node.status().is_ok_and(|it| it.faults.iter().any(|it| it.id == "mesh-down"));
    wait::until("the fault is told", SOON, || {
        if is_told(&node) { Ok(()) } else { Err("not yet".to_owned()) }
    })?;
    let louder = format!("log.level = \"debug\"\n{}", web(at, &[shop.address]));
    let louder = lab.file("louder.toml", &louder)?.display().to_string();
    let answer = node.cli(&["config", "apply", &louder])?;
    ensure!(answer.code == 0, "{answer:?}");
    running = start()?;
    wait::until("it serves from its disk, and has the newer document", SOON, || {
        get(at, "shop.rack", "/").map_err(|e| format!("{e:?}"))?;
        let status = node.status().map_err(|e| format!("{e:?}"))?;
        let active = status.config.map(|it| it.generation);
        let is_well = status.mesh.state == MeshState::Up && active == Some(status.mesh.generation);
        if is_well { Ok(()) } else { Err(format!("{active:?} {:?}", status.mesh)) }
    })?;
    node.stop()?;
    ensure!(get(at, "shop.rack", "/")?.by() == "shop", "it serves without an agent");
    running.kill()
}

fn echoes(stream: &mut TcpStream) -> Result<bool> {
    stream.write_all(b"hello")?;
    let mut back = [0; 5];
    stream.read_exact(&mut back)?;
    Ok(&back == b"hello")
}

fn cold_start(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let at = free_port()?;
    let pid = {
        let mesh = Mesh::standalone(lab)?;
        mesh.put(&web(at, &[shop.address]))?.pid
    };
    wait::until("the mesh ends with its agent", SOON, || {
        if purlin_tests::process::lives(pid) { Err("it lives".into()) } else { Ok(()) }
    })?;
    ensure!(TcpStream::connect(at).is_err(), "nothing listens any more");
    let node = Node::standalone(lab, "node")?;
    let alone = Process::start(node.command(&[]).arg("mesh").stdout(Stdio::null()))?;
    let answer = wait::until("the mesh serves", SOON, || {
        get(at, "shop.rack", "/").map_err(|e| format!("{e:?}"))
    })?;
    ensure!(answer.by() == "shop", "{answer:?}");
    let second = node.cli(&["mesh"])?;
    ensure!(second.code == 1 && second.stderr.contains("a mesh answers at"), "{second:?}");
    // A table that was damaged is told, and the mesh runs all the same.
    alone.signal(nix::sys::signal::Signal::SIGTERM)?;
    ensure!(alone.wait(SOON)?.0.success(), "it ends well");
    let table = node.dir().join("home/state/purlin/mesh/table");
    let mut bytes = std::fs::read(&table)?;
    bytes[20] ^= 1;
    std::fs::write(&table, bytes)?;
    let _damaged = Process::start(node.command(&[]).arg("mesh").stdout(Stdio::null()))?;
    let status = wait::until("the mesh answers", SOON, || {
        let answer = node.cli(&["mesh", "show", "-o", "json"]).map_err(|e| format!("{e:?}"))?;
        if answer.code == 2 {
            answer.json::<Status>().map_err(|e| format!("{e:?}"))
        } else {
            Err(format!("{answer:?}"))
        }
    })?;
    ensure!(status.problems.len() == 1 && status.problems[0].contains("damaged"), "{status:?}");
    Ok(())
}

fn strict(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&web(at, &[shop.address]))?;
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: shop.rack\r\n{fields}\r\n\r\n");
    let bad = [
        (post("Content-Length: 3\r\nTransfer-Encoding: chunked"), 400),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 3"), 400),
        (post("Content-Length: 3\r\nContent-Length: 3"), 400),
        (post("Content-Length: 3\r\nContent-Length: 4"), 400),
        (post("Content-Length: +3"), 400),
        (post("Transfer-Encoding: xchunked"), 501),
        (post("Transfer-Encoding : chunked"), 400),
        (post("X: a\r\n b"), 400),
        (post("X: a\rb"), 400),
        (post("X: a\nb: c"), 400),
        (post("Host: other"), 400),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\nHost: shop.rack\n\n".into(), 400),
        (format!("{}zz\r\n", post("Transfer-Encoding: chunked")), 400),
        (post(&format!("X: {}", "a".repeat(70_000))), 431),
        (post(&"x: y\r\n".repeat(200)), 431),
        ("\u{16}\u{3}\u{1}hello\r\n\r\n".into(), 400),
    ];
    let count = bad.len() as u64;
    for (request, status) in bad {
        let answer = Connection::open(at)?.send(&request);
        let answer = answer.map_err(|error| format!("{request:.80?}: {error}"))?;
        ensure!(answer.status == status, "{request:.80?}: {answer:?}");
        ensure!(answer.head.to_lowercase().contains("connection: close"), "{answer:?}");
    }
    // What came before on the same connection was answered, and what comes after is not.
    let mut two = Connection::open(at)?;
    ensure!(two.get("shop.rack", "/")?.status == 200, "the first");
    ensure!(two.send(&post("X: a\r\n b"))?.status == 400, "the second");
    ensure!(two.0.read(&mut [0])? == 0, "and the end");
    let seen = shop.requests.load(Relaxed);
    ensure!(seen == 1, "one of them got through to the service: {seen}");
    let counts = mesh.status()?.counts;
    let refused: u64 = counts.violations.values().sum();
    ensure!(refused == count + 1, "{refused} of {} counted: {counts:?}", count + 1);
    Ok(())
}

fn slow_and_idle(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&web(at, &[shop.address]))?;
    let mut idle: Vec<_> = (0..10).map(|_| Connection::open(at)).collect::<std::io::Result<_>>()?;
    for connection in &mut idle {
        ensure!(connection.get("shop.rack", "/")?.status == 200, "before");
    }
    let mut slow = Connection::open(at)?;
    slow.0.write_all(b"GET / HTTP/1.1\r\nHost: shop")?;
    wait::until("idle connections are parked", SOON, || {
        let counts = mesh.status().map_err(|e| format!("{e:?}"))?.counts;
        if counts.parked == 10 { Ok(()) } else { Err(format!("{counts:?}")) }
    })?;
    for connection in &mut idle {
        ensure!(connection.get("shop.rack", "/")?.by() == "shop", "and woken up again");
    }
    slow.0.set_read_timeout(Some(SOON))?;
    let ended = slow.0.read(&mut [0]);
    ensure!(
        matches!(ended, Ok(0))
            || ended.is_err_and(|it| it.kind() == std::io::ErrorKind::ConnectionReset),
        "the slow one ends"
    );
    ensure!(mesh.status()?.counts.slow == 1, "and is counted");
    Ok(())
}

fn bytes(lab: &Lab) -> Result {
    let (echo, shop) = (Upstream::echo()?, Upstream::start("shop")?);
    let mesh = Mesh::standalone(lab)?;
    let (raw, tls, web) = (free_port()?, free_port()?, free_port()?);
    mesh.put(&format!(
        "[[mesh.listeners]]\nname = \"raw\"\naddress = \"{raw}\"\nprotocol = \"tcp\"\n\
         [[mesh.listeners]]\nname = \"tls\"\naddress = \"{tls}\"\nprotocol = \"tls\"\n\
         [[mesh.listeners]]\nname = \"web\"\naddress = \"{web}\"\nproxy_protocol = true\n\
         [[mesh.services]]\nname = \"echo\"\nsend_proxy_protocol = 1\nendpoints = [{{ address = \"{0}\" }}]\n\
         [[mesh.services]]\nname = \"plain\"\nendpoints = [{{ address = \"{0}\" }}]\n\
         [[mesh.services]]\nname = \"shop\"\nendpoints = [{{ address = \"{1}\" }}]\n\
         [[mesh.routes]]\nname = \"raw\"\nkind = \"tcp\"\nlisteners = [\"raw\"]\nrules = [{{ backend_refs = [{{ name = \"echo\" }}] }}]\n\
         [[mesh.routes]]\nname = \"tls\"\nkind = \"tls\"\nlisteners = [\"tls\"]\nhostnames = [\"a.rack\"]\nrules = [{{ backend_refs = [{{ name = \"plain\" }}] }}]\n\
         [[mesh.routes]]\nname = \"web\"\nlisteners = [\"web\"]\nrules = [{{ backend_refs = [{{ name = \"shop\" }}] }}]\n",
        echo.address, shop.address
    ))?;
    // A megabyte there and back, after the header that tells who we are.
    let stream = TcpStream::connect(raw)?;
    stream.set_read_timeout(Some(SOON))?;
    let header = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n",
        stream.local_addr()?.port(),
        raw.port()
    );
    let sent: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    let back = there_and_back(stream, &sent)?;
    ensure!(back.starts_with(header.as_bytes()), "{:?}", &back[..60.min(back.len())]);
    ensure!(back[header.len()..] == sent, "{} bytes came back", back.len() - header.len());

    // A ClientHello by hand comes back for the name that has a route, and not for another.
    for (name, is_passed) in [("a.rack", true), ("b.rack", false)] {
        let hello = client_hello(name);
        let mut stream = TcpStream::connect(tls)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(&hello)?;
        let mut back = vec![0; hello.len()];
        let is_back = stream.read_exact(&mut back).is_ok() && back == hello;
        ensure!(is_back == is_passed, "{name}: {is_back}");
    }

    let mut known = Connection::open(web)?;
    known.0.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 7 80\r\n")?;
    let answer = known.get("any", "/")?;
    ensure!(answer.body.contains("x-forwarded-for: 192.0.2.7\r\n"), "{answer:?}");
    ensure!(Connection::open(web)?.get("any", "/").is_err(), "without the header it is refused");
    Ok(())
}

fn client_hello(name: &str) -> Vec<u8> {
    let vector = |bytes: usize, data: &[u8]| {
        let count = (data.len() as u32).to_be_bytes();
        [&count[4 - bytes..], data].concat()
    };
    let names = [&[0][..], &vector(2, name.as_bytes())].concat();
    let extension = [&[0, 0][..], &vector(2, &vector(2, &names))].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &vector(2, &[0x13, 1]),
        &vector(1, &[0]),
        &vector(2, &extension),
    ]
    .concat();
    let message = [&[1][..], &vector(3, &body)].concat();
    [&[22, 3, 1][..], &vector(2, &message)].concat()
}

fn upgraded(lab: &Lab) -> Result {
    let (shop, echo) = (Upstream::start("shop")?, Upstream::echo()?);
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&format!(
        "{}[[mesh.services]]\nname = \"echo\"\nprotocol = \"tcp\"\nendpoints = [{{ address = \"{}\" }}]\n\
         [[mesh.routes]]\nname = \"tunnel\"\nlisteners = [\"web\"]\nhostnames = [\"echo.rack\"]\n\
         rules = [{{ matches = [{{ method = \"CONNECT\" }}], backend_refs = [{{ name = \"echo\" }}] }}]\n",
        web(at, &[shop.address]),
        echo.address
    ))?;
    let mut upgraded = Connection::open(at)?;
    let answer = upgraded.send(
        "GET / HTTP/1.1\r\nHost: shop.rack\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
    )?;
    ensure!(answer.status == 101 && answer.head.contains("upgrade: echo"), "{answer:?}");
    ensure!(echoes(&mut upgraded.0)?, "bytes after the upgrade");
    let mut tunnel = Connection::open(at)?;
    let answer = tunnel.send("CONNECT echo.rack:7 HTTP/1.1\r\nHost: echo.rack:7\r\n\r\n")?;
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(echoes(&mut tunnel.0)?, "bytes after the CONNECT");
    let refused =
        Connection::open(at)?.send("CONNECT shop.rack:80 HTTP/1.1\r\nHost: shop.rack\r\n\r\n")?;
    ensure!(refused.status == 405, "{refused:?}");
    Ok(())
}

fn endpoint_gone(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let gone = free_port()?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&web(at, &[gone, shop.address]))?;
    for n in 0..50 {
        let answer = get(at, "shop.rack", "/")?;
        ensure!(answer.by() == "shop", "request {n}: {answer:?}");
    }
    mesh.put(&web(at, &[gone]))?;
    ensure!(get(at, "shop.rack", "/")?.status == 502, "none is left");
    mesh.put(&web(at, &[]))?;
    ensure!(get(at, "shop.rack", "/")?.status == 503, "none at all");
    Ok(())
}

fn left_out(lab: &Lab) -> Result {
    let (well, ill) = (Upstream::start("well")?, Upstream::start("ill")?);
    ill.is_ill.store(true, Relaxed);
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    let service = |name: &str, ms: u32, endpoints: &[&Upstream]| {
        let endpoints: Vec<_> =
            endpoints.iter().map(|it| format!("{{ address = \"{}\" }}", it.address)).collect();
        format!(
            "[[mesh.services]]\nname = \"{name}\"\nbalance = {{ policy = \"round_robin\" }}\n\
             outlier_detection = {{ consecutive_failures = 3, base_ejection_ms = {ms} }}\n\
             endpoints = [{}]\n\
             [[mesh.routes]]\nname = \"{name}\"\nlisteners = [\"web\"]\nhostnames = [\"{name}.rack\"]\n\
             rules = [{{ backend_refs = [{{ name = \"{name}\" }}] }}]\n",
            endpoints.join(", ")
        )
    };
    let listener = format!("[[mesh.listeners]]\nname = \"web\"\naddress = \"{at}\"\n");
    // The one is out for longer than the test, the other for longer than its requests.
    let both = [&well, &ill];
    let services = service("long", 300_000, &both) + &service("soon", 4000, &both);
    mesh.put(&format!("{listener}{services}"))?;
    for host in ["long.rack", "soon.rack"] {
        let before = ill.requests.load(Relaxed);
        let answers: Vec<u16> =
            (0..30).map(|_| Ok(get(at, host, "/")?.status)).collect::<Result<_>>()?;
        let failed = answers.iter().filter(|&&status| status == 503).count();
        let seen = ill.requests.load(Relaxed) - before;
        ensure!((failed, seen) == (3, 3), "{host}: {seen} seen, {answers:?}");
    }
    let endpoints: Endpoints = mesh.node.cli(&["mesh", "endpoints", "-o", "json"])?.json()?;
    let of_long = endpoints.endpoints.iter().filter(|it| it.service == "long");
    let shown: Vec<_> = of_long.map(|it| (it.ejected, it.failures)).collect();
    ensure!(shown == [(false, 0), (true, 3)], "{endpoints:?}");
    ill.is_ill.store(false, Relaxed);
    wait::until("it comes back", SOON, || {
        let answer = get(at, "soon.rack", "/").map_err(|error| format!("{error:?}"))?;
        if answer.by() == "ill" { Ok(()) } else { Err(format!("{answer:?}")) }
    })?;
    for n in 0..10 {
        let answer = get(at, "long.rack", "/")?;
        ensure!(answer.by() == "well", "still out, request {n}: {answer:?}");
    }
    // A table that has no other one left takes it all the same.
    mesh.put(&(listener + &service("long", 300_000, &[&ill])))?;
    let answer = get(at, "long.rack", "/")?;
    ensure!((answer.status, answer.by()) == (200, "ill"), "{answer:?}");
    Ok(())
}

/// A service of these endpoints, as the document has it, at listener `web`.
fn service_of(name: &str, what: &str, endpoints: &[String]) -> String {
    format!(
        "[[mesh.services]]\nname = \"{name}\"\n{what}\nendpoints = [{}]\n\
         [[mesh.routes]]\nname = \"{name}\"\nlisteners = [\"web\"]\nhostnames = [\"{name}.rack\"]\n\
         rules = [{{ backend_refs = [{{ name = \"{name}\" }}] }}]\n",
        endpoints.join(", ")
    )
}

fn listener(at: SocketAddr) -> String {
    format!("[[mesh.listeners]]\nname = \"web\"\naddress = \"{at}\"\n")
}

fn plain(upstream: &Upstream) -> String {
    format!("{{ address = \"{}\" }}", upstream.address)
}

/// Who answered so many requests.
fn answered_by(at: SocketAddr, host: &str, count: usize) -> Result<Vec<String>> {
    let mut by: Vec<String> =
        (0..count).map(|_| Ok(get(at, host, "/")?.by().to_owned())).collect::<Result<_>>()?;
    by.sort();
    by.dedup();
    Ok(by)
}

fn checked(lab: &Lab) -> Result {
    let (well, ill, gone) = (Upstream::start("well")?, Upstream::start("ill")?, free_port()?);
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    let check = |kind: &str| {
        format!(
            "balance = {{ policy = \"round_robin\" }}\noutlier_detection = {{ consecutive_failures = 0 }}\n\
             health_check = {{ kind = \"{kind}\", interval_ms = 100, unhealthy_after = 2, healthy_after = 2 }}"
        )
    };
    let both = [plain(&well), plain(&ill)];
    let closed = [plain(&well), format!("{{ address = \"{gone}\" }}")];
    let services =
        service_of("http", &check("http"), &both) + &service_of("tcp", &check("tcp"), &closed);
    mesh.put(&(listener(at) + &services))?;
    let health = |service: &str| -> Result<Vec<Option<bool>>> {
        let all: Endpoints = mesh.node.cli(&["mesh", "endpoints", "-o", "json"])?.json()?;
        let of = all.endpoints.into_iter().filter(|it| it.service == service);
        Ok(of.map(|it| it.healthy).collect())
    };
    let until = |service: &str, wanted: [bool; 2]| {
        wait::until("the checks tell", SOON, || {
            let now = health(service).map_err(|e| format!("{e:?}"))?;
            if now == wanted.map(Some) { Ok(()) } else { Err(format!("{now:?}")) }
        })
    };
    until("http", [true, true])?;
    until("tcp", [true, false])?;
    ensure!(answered_by(at, "tcp.rack", 20)? == ["well"], "the closed port gets none");
    ensure!(answered_by(at, "http.rack", 20)? == ["ill", "well"], "both are well");
    ill.is_ill.store(true, Relaxed);
    until("http", [true, false])?;
    ensure!(answered_by(at, "http.rack", 20)? == ["well"], "the ill one gets none");
    let shown = mesh.node.cli(&["mesh", "endpoints"])?;
    ensure!(shown.stdout.contains("it answered 503"), "{shown:?}");
    ensure!(mesh.status()?.problems.is_empty(), "one that is ill is no problem");
    // None is well: all are tried, and it is told.
    well.is_ill.store(true, Relaxed);
    until("http", [false, false])?;
    ensure!(answered_by(at, "http.rack", 20)? == ["ill", "well"], "all are tried");
    let problems = mesh.status()?.problems;
    ensure!(
        problems.len() == 1 && problems[0].starts_with("service http: none of its 2"),
        "{problems:?}"
    );
    ill.is_ill.store(false, Relaxed);
    until("http", [false, true])?;
    ensure!(answered_by(at, "http.rack", 20)? == ["ill"], "it is back");
    Ok(())
}

fn nearest(lab: &Lab) -> Result {
    let (near, rack, far) =
        (Upstream::start("near")?, Upstream::start("rack")?, Upstream::start("far")?);
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    let endpoint = |it: &Upstream, tier: &str| {
        format!("{{ address = \"{}\", locality = \"{tier}\" }}", it.address)
    };
    let all = [endpoint(&far, "remote"), endpoint(&rack, "rack"), plain(&near)];
    let what = "spill_over_requests = 2\noutlier_detection = { consecutive_failures = 1, base_ejection_ms = 300000, max_ejection_percent = 100 }";
    mesh.put(&(listener(at) + &service_of("shop", what, &all)))?;
    ensure!(answered_by(at, "shop.rack", 30)? == ["near"], "loopback is on this node");
    let shown: Endpoints = mesh.node.cli(&["mesh", "endpoints", "-o", "json"])?.json()?;
    let tiers: Vec<_> = shown.endpoints.iter().map(|it| it.locality.as_str()).collect();
    ensure!(tiers == ["remote", "rack", "node"], "{tiers:?}");
    // Two that wait are as many as it may have: the next goes further.
    let mut waiting: Vec<_> =
        (0..2).map(|_| Connection::open(at)).collect::<std::io::Result<_>>()?;
    for connection in &mut waiting {
        connection.0.write_all(b"GET /slow/3000 HTTP/1.1\r\nHost: shop.rack\r\n\r\n")?;
    }
    wait::until("both are under way", SOON, || {
        let seen = near.requests.load(Relaxed);
        if seen == 32 { Ok(()) } else { Err(format!("{seen}")) }
    })?;
    ensure!(answered_by(at, "shop.rack", 5)? == ["rack"], "spilled over");
    for connection in &mut waiting {
        ensure!(connection.answer()?.by() == "near", "those that waited");
    }
    ensure!(answered_by(at, "shop.rack", 30)? == ["near"], "and back");
    near.is_ill.store(true, Relaxed);
    ensure!(get(at, "shop.rack", "/")?.status == 503, "one failure is its own");
    ensure!(answered_by(at, "shop.rack", 20)? == ["rack"], "then the next nearest");
    Ok(())
}

fn sticky(lab: &Lab) -> Result {
    let all = [Upstream::start("a")?, Upstream::start("b")?, Upstream::start("c")?];
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    let what = "balance = { policy = \"round_robin\" }\nsession_affinity = { cookie = \"place\", max_age_s = 60 }\n\
        outlier_detection = { consecutive_failures = 1, base_ejection_ms = 300000 }";
    mesh.put(&(listener(at) + &service_of("shop", what, &all.each_ref().map(plain))))?;
    let with = |cookie: &str| {
        Connection::open(at)?
            .send(&format!("GET / HTTP/1.1\r\nHost: shop.rack\r\nCookie: x=1; {cookie}\r\n\r\n"))
    };
    let set = |answer: &client::Answer| {
        let line =
            answer.head.lines().find_map(|it| it.strip_prefix("set-cookie: ")).map(str::to_owned);
        line.and_then(|it| Some((it.split_once(';')?.0.to_owned(), it.clone())))
    };
    for n in 0..3 {
        let first = get(at, "shop.rack", "/")?;
        let (cookie, line) = set(&first).ok_or("no cookie")?;
        ensure!(line.contains("HttpOnly") && line.contains("Max-Age=60"), "{line}");
        ensure!(!line.contains("127.0.0.1"), "it names no address: {line}");
        for _ in 0..6 {
            let again = with(&cookie)?;
            ensure!(again.by() == first.by() && set(&again).is_none(), "client {n}: {again:?}");
        }
        if n == 2 {
            // Its endpoint fails: it goes elsewhere, and is told so.
            let own = all.iter().zip(["a", "b", "c"]).find(|(_, name)| *name == first.by());
            own.ok_or("somebody else's answer")?.0.is_ill.store(true, Relaxed);
            ensure!(with(&cookie)?.status == 503, "the failure itself");
            let moved = with(&cookie)?;
            let other = set(&moved).ok_or("no other cookie")?.0;
            ensure!(moved.by() != first.by() && other != cookie, "{moved:?}");
        }
    }
    Ok(())
}

fn retried(lab: &Lab) -> Result {
    let (well, ill) = (Upstream::start("well")?, Upstream::start("ill")?);
    ill.is_ill.store(true, Relaxed);
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    let what = "balance = { policy = \"round_robin\" }\nretry_on = [503]\noutlier_detection = { consecutive_failures = 0 }";
    let alone = service_of("alone", what, &[plain(&ill)]);
    mesh.put(&(listener(at) + &service_of("shop", what, &[plain(&well), plain(&ill)]) + &alone))?;
    for n in 0..10 {
        let answer = get(at, "shop.rack", "/")?;
        ensure!((answer.status, answer.by()) == (200, "well"), "request {n}: {answer:?}");
    }
    let retries = mesh.status()?.counts.retries;
    ensure!(retries == ill.requests.load(Relaxed) && retries > 0, "{retries} retries");
    // What may not be repeated is not, and where there is no other the answer stands.
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let post = "POST / HTTP/1.1\r\nHost: shop.rack\r\nContent-Length: 1\r\n\r\nx";
        statuses.push(Connection::open(at)?.send(post)?.status);
    }
    ensure!(statuses.iter().filter(|&&it| it == 503).count() == 2, "{statuses:?}");
    let answer = get(at, "alone.rack", "/")?;
    ensure!((answer.status, answer.by()) == (503, "ill"), "{answer:?}");
    // A service that fails altogether gets a fifth more, and no more.
    well.is_ill.store(true, Relaxed);
    let before = mesh.status()?.counts.retries;
    for _ in 0..100 {
        ensure!(get(at, "shop.rack", "/")?.status == 503, "all fail");
    }
    let spent = mesh.status()?.counts.retries - before;
    ensure!((1..=10 + 23).contains(&spent), "{spent} retries for 100 requests");
    Ok(())
}

/// What a program says that has to end well.
fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = std::process::Command::new("timeout");
    command.args(["-k", "1", "60", program]).args(arguments);
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{program}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn http2(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&web(at, &[shop.address]))?;
    let url = format!("http://{at}/");
    let host = "Host: shop.rack";
    for version in ["--http2-prior-knowledge", "--http1.1", "--http1.0"] {
        let answer = run("curl", &["-sS", "-m", "20", version, "-H", host, "-d", "abc", &url])?;
        ensure!(
            answer.starts_with("shop\nPOST / HTTP/1.1\r\n") && answer.ends_with("abc"),
            "{version}: {answer}"
        );
    }
    let to = format!("--connect-to={at}");
    for arguments in
        [&["-n", "2000", "-c", "4", "-m", "20"][..], &["-n", "2000", "-c", "8", "--h1"]]
    {
        let told = run("h2load", &[arguments, &[&to, "http://shop.rack/"]].concat())?;
        let all = "2000 succeeded, 0 failed, 0 errored, 0 timeout";
        ensure!(told.contains(all), "{arguments:?}: {told}");
    }
    Ok(())
}
