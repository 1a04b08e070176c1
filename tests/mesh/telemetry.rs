//! What the mesh tells of itself: as OpenMetrics, read by Prometheus' own parser, with and
//! without an agent; in the agent's spool; and as traces.

use std::{env, path::Path, process::Command, sync::atomic::Ordering::Relaxed};

use purlin_tests::{Lab, Need, Result, ensure, lab::Test, test, wait};
use serde_json::Value;

use crate::{
    Mesh, SOON,
    client::{Answer, Connection, get},
    echoes, free_port, plain,
    rack::{Rack, listener as listener_of, now, peer, route, service as service_on},
    service_of,
    upstream::Upstream,
    web,
};

/// A Python with Prometheus' client.
const PYTHON: &str = "PURLIN_RECEIVERS_PYTHON";

pub fn tests() -> [Test; 3] {
    let no_python = || {
        let python = env::var(PYTHON).unwrap_or_default();
        let import = "import opentelemetry.proto, prometheus_client";
        let found = Command::new(python).args(["-c", import]).output();
        (!found.is_ok_and(|it| it.status.success())).then(|| format!("{PYTHON} has none of it"))
    };
    [
        test("each_route_and_endpoint_is_read_as_openmetrics_with_or_without_an_agent", 120, read)
            .needs(&[Need::Is(no_python)]),
        test("a_trace_goes_on_and_is_begun_where_there_is_none", 60, traced),
        test("a_trace_goes_on_through_a_tunnel", 90, traced_through),
    ]
}

fn scrape(port: u16) -> std::result::Result<Vec<Value>, String> {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "30"]).arg(env::var(PYTHON).map_err(|it| it.to_string())?);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("telemetry/scrape.py"));
    let output = command.arg(port.to_string()).output().map_err(|it| it.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines.lines().map(|line| serde_json::from_str(line).map_err(|it| it.to_string())).collect()
}

/// The value of the sample that has these labels.
fn value(samples: &[Value], name: &str, labels: &[(&str, &str)]) -> f64 {
    let is_it = |it: &&Value| {
        it["name"] == name && labels.iter().all(|(key, value)| it["labels"][*key] == *value)
    };
    samples.iter().find(is_it).and_then(|it| it["value"].as_f64()).unwrap_or_default()
}

fn read(lab: &Lab) -> Result {
    let (shop, ill, gone) = (Upstream::start("shop")?, Upstream::start("ill")?, free_port()?);
    ill.is_ill.store(true, Relaxed);
    let mut mesh = Mesh::standalone(lab)?;
    mesh.node.set("PURLIN_TEST__CPU_INTERVAL_MS", "500");
    mesh.node.stop()?;
    mesh.node.start()?;
    let (at, raw, own, agents) = (free_port()?, free_port()?, free_port()?, free_port()?);
    let (own, agents) = (own.port(), agents.port());
    let echo = Upstream::echo()?;
    let limited = "[[mesh.routes]]\nname = \"few\"\nlisteners = [\"web\"]\nhostnames = [\"few.rack\"]\n\
        rules = [{ backend_refs = [{ name = \"shop\" }], rate_limit = { requests_per_second = 1, burst = 1 } }]\n";
    let bytes = format!(
        "[[mesh.listeners]]\nname = \"raw\"\naddress = \"{raw}\"\nprotocol = \"tcp\"\n\
         [[mesh.services]]\nname = \"echo\"\nendpoints = [{{ address = \"{}\" }}]\n\
         [[mesh.routes]]\nname = \"raw\"\nkind = \"tcp\"\nlisteners = [\"raw\"]\n\
         rules = [{{ backend_refs = [{{ name = \"echo\" }}] }}]\n",
        echo.address
    );
    let ends = [plain(&ill), format!("{{ address = \"{gone}\" }}")];
    let what =
        "balance = { policy = \"round_robin\" }\noutlier_detection = { consecutive_failures = 0 }";
    let document = format!("mesh.openmetrics_port = {own}\nexport.openmetrics_port = {agents}\n")
        + &web(at, &[shop.address])
        + limited
        + &service_of("bad", what, &ends)
        + &bytes;
    mesh.put(&document)?;
    for _ in 0..5 {
        ensure!(get(at, "shop.rack", "/")?.status == 200, "shop");
        ensure!(get(at, "bad.rack", "/")?.status == 503, "bad");
    }
    let post = "POST / HTTP/1.1\r\nHost: shop.rack\r\nContent-Length: 5\r\n\r\nhello";
    ensure!(Connection::open(at)?.send(post)?.status == 200, "a body");
    let statuses: Vec<u16> =
        (0..4).map(|_| Ok(get(at, "few.rack", "/")?.status)).collect::<Result<_>>()?;
    let over = statuses.iter().filter(|it| **it == 429).count() as f64;
    ensure!(over > 0.0, "{statuses:?}");
    let mut stream = std::net::TcpStream::connect(raw)?;
    ensure!(echoes(&mut stream)?, "bytes");
    drop(stream);

    let shop_at = shop.address.to_string();
    let shops = [("service", "shop"), ("endpoint", &*shop_at)];
    let requests = "purlin_mesh_route_requests_total";
    let check = |samples: &[Value]| -> std::result::Result<(), String> {
        let of = |name: &str, labels: &[(&str, &str)]| value(samples, name, labels);
        let decided = "purlin_mesh_route_decisions_total";
        let wanted = [
            (of(requests, &[("route", "shop"), ("class", "2xx")]), 6.0),
            (of(requests, &[("route", "bad"), ("class", "5xx")]), 5.0),
            (of(requests, &[("route", "few"), ("class", "4xx")]), over),
            (of(requests, &[("route", "raw"), ("class", "connected")]), 1.0),
            (of(decided, &[("route", "few"), ("decision", "limited")]), over),
            (of(decided, &[("route", "shop"), ("decision", "allowed")]), 6.0),
            (of("purlin_mesh_endpoint_requests_total", &shops), 6.0 + 4.0 - over),
            (of("purlin_mesh_endpoint_up", &shops), 1.0),
            (of("purlin_mesh_route_active", &[("route", "shop")]), 0.0),
            (
                of(
                    "purlin_mesh_route_io_bytes_total",
                    &[("route", "shop"), ("network_io_direction", "receive")],
                ),
                5.0,
            ),
            (
                of(
                    "purlin_mesh_route_io_bytes_total",
                    &[("route", "raw"), ("network_io_direction", "transmit")],
                ),
                5.0,
            ),
        ];
        let wrong: Vec<_> =
            wanted.iter().enumerate().filter(|(_, (is, to_be))| is != to_be).collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?} in {samples:?}")) }
    };
    let samples = wait::until("the page tells all", SOON, || {
        let samples = scrape(own)?;
        check(&samples).map(|()| samples)
    })?;
    let took = samples.iter().find(|it| it["family"] == "purlin_mesh_route_duration_seconds");
    let took = took.ok_or("no histogram")?;
    ensure!(took["type"] == "histogram" && took["unit"] == "seconds", "{took}");
    let count = "purlin_mesh_route_duration_seconds_count";
    ensure!(value(&samples, count, &[("route", "shop")]) == 6.0, "{samples:?}");
    let of_gone = gone.to_string();
    let failed = [("endpoint", &*of_gone), ("class", "failed")];
    let failed = value(&samples, "purlin_mesh_endpoint_requests_total", &failed);
    let retried = [("route", "bad"), ("decision", "retried")];
    let retried = value(&samples, "purlin_mesh_route_decisions_total", &retried);
    ensure!(failed > 0.0 && retried == failed, "{failed} failed, {retried} retried");

    // The same is in the agent's spool.
    wait::until("the agent tells of it", SOON, || {
        let told = value(&scrape(agents)?, requests, &[("route", "shop"), ("class", "2xx")]);
        if told == 6.0 { Ok(()) } else { Err(told.to_string()) }
    })?;
    // And without an agent, and in the mesh that takes over.
    mesh.node.kill()?;
    check(&scrape(own)?)?;
    let upgraded = mesh.node.cli(&["mesh", "upgrade"])?;
    ensure!(upgraded.code == 0, "{upgraded:?}");
    ensure!(get(at, "shop.rack", "/")?.status == 200, "shop");
    wait::until("the next mesh is read", SOON, || {
        let told = value(&scrape(own)?, requests, &[("route", "shop"), ("class", "2xx")]);
        if told == 1.0 { Ok(()) } else { Err(told.to_string()) }
    })?;
    // Its port is an address like any other.
    mesh.node.start()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let other = format!("mesh.openmetrics_port = {}\n", taken.local_addr()?.port());
    let file = lab.file("taken.toml", other + &web(at, &[shop.address]))?;
    let refused = mesh.node.cli(&["config", "apply", &file.display().to_string()])?;
    ensure!(refused.code != 0 && refused.stdout.contains("mesh.openmetrics_port"), "{refused:?}");
    Ok(())
}

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// What the service behind was told of the trace: each `traceparent` and `tracestate`.
fn told(answer: &Answer) -> (Vec<String>, Vec<String>) {
    let of = |name: &str| {
        let fields = answer.body.lines().filter_map(|line| line.split_once(": "));
        let named = fields.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim().to_owned()).collect()
    };
    (of("traceparent"), of("tracestate"))
}

fn with(at: std::net::SocketAddr, fields: &str) -> Result<Answer> {
    let request = format!("GET / HTTP/1.1\r\nHost: shop.rack\r\n{fields}\r\n");
    Ok(Connection::open(at)?.send(&request)?)
}

fn traced(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&("mesh.access_log = true\n".to_owned() + &web(at, &[shop.address])))?;
    // W3C Trace Context, 4.2 and 3.3.1: the trace goes on, the parent is this hop's, and
    // what vendors say is passed on as it is.
    let good = format!("traceparent: 00-{ID}-{PARENT}-01\r\n");
    let (parents, states) =
        told(&with(at, &format!("{good}tracestate: a=1,b=2\r\ntracestate: c=3\r\n"))?);
    let [parent] = &parents[..] else { return Err(format!("{parents:?}").into()) };
    let words: Vec<_> = parent.split('-').collect();
    ensure!(words[..2] == ["00", ID] && words[2] != PARENT && words[3] == "01", "{parent}");
    ensure!(words[2].len() == 16 && words[2] != "0".repeat(16), "{parent}");
    ensure!(states == ["a=1,b=2", "c=3"], "{states:?}");
    let (again, _) = told(&with(at, &good)?);
    ensure!(again[0] != *parent, "another request has another parent");
    let unsampled = told(&with(at, &format!("TraceParent: 00-{ID}-{PARENT}-00\r\n"))?).0;
    ensure!(
        unsampled[0].starts_with(&format!("00-{ID}-")) && unsampled[0].ends_with("-00"),
        "{unsampled:?}"
    );
    // One that is none, or is said twice, is begun anew without what stood beside it.
    let twice = format!("{good}traceparent: 00-{ID}-{PARENT}-00\r\n");
    let bad = [
        String::new(),
        twice,
        format!("traceparent: 00-{}-{PARENT}-01\r\n", "0".repeat(32)),
        format!("traceparent: 00-{ID}-{}-01\r\n", "0".repeat(16)),
        format!("traceparent: ff-{ID}-{PARENT}-01\r\n"),
        format!("traceparent: 00-{ID}-{PARENT}-01-more\r\n"),
        format!("traceparent: 00-{}-{PARENT}-01\r\n", ID.to_uppercase()),
        "traceparent: \r\n".into(),
    ];
    for fields in bad {
        let (parents, states) = told(&with(at, &format!("{fields}tracestate: a=1\r\n"))?);
        let [parent] = &parents[..] else { return Err(format!("{fields}: {parents:?}").into()) };
        ensure!(!parent.contains(ID) && parent.len() == 55 && parent.ends_with("-00"), "{parent}");
        ensure!(parent.starts_with("00-") && states.is_empty(), "{fields}: {parent} {states:?}");
    }
    let log = std::fs::read_to_string(mesh.node.dir().join("home/state/purlin/mesh/log"))?;
    ensure!(log.contains(&format!("\"{ID}\"")), "the access log tells it: {log}");
    Ok(())
}

fn traced_through(lab: &Lab) -> Result {
    const LIFE: u64 = 30 * 86_400;
    let rack = Rack::new(lab, "r1")?;
    let (mut a, mut b) = (rack.member("a", now(), LIFE)?, rack.member("b", now(), LIFE)?);
    let shop = Upstream::start("shop")?;
    let (at, tunnel) = (free_port()?, free_port()?);
    let mesh = purlin_proto::v1::Mesh {
        listeners: vec![listener_of("web", at, "http")],
        services: vec![service_on("shop", "http", &[("b", shop.address)])],
        routes: vec![route("shop", "http", "web")],
        peers: vec![peer("a", free_port()?), peer("b", tunnel)],
        access_log: Some(true),
        ..Default::default()
    };
    b.start(&purlin_proto::v1::Mesh {
        listeners: vec![listener_of("tunnel", tunnel, "tunnel")],
        routes: Vec::new(),
        ..mesh.clone()
    })?;
    a.start(&mesh)?;
    let (parents, _) = told(&with(at, &format!("traceparent: 00-{ID}-{PARENT}-01\r\n"))?);
    ensure!(parents.len() == 1 && parents[0].starts_with(&format!("00-{ID}-")), "{parents:?}");
    for (member, method) in [(&a, "GET"), (&b, "CONNECT")] {
        let log = std::fs::read_to_string(member.node.dir().with_extension("log"))?;
        let line = log.lines().find(|it| it.contains(&format!("\"{method}\"")));
        let line = line.ok_or_else(|| format!("no {method} in {log}"))?;
        ensure!(line.contains(&format!("\"{ID}\"")), "{line}");
    }
    Ok(())
}
