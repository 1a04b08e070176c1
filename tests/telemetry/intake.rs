//! What workloads hand in: by OpenTelemetry's own Python SDK at the Unix socket's
//! neighbour on loopback, and by the journal; over a quota, and over kills.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use purlin_tests::{Lab, Need, Node, Result, ensure, lab::Test, node::class, test, wait};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);
/// Debian's writer of journal files.
const WRITER: &str = "/lib/systemd/systemd-journal-remote";

/// A sender that is not ours.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/telemetry/otlp.py");

pub fn tests() -> Vec<Test> {
    let mut sdk = test("an_sdk_hands_in_metrics_and_logs_and_is_put_off_over_its_quota", 120, sdk)
        .needs(&[Need::Program("journalctl")]);
    if !python().is_some_and(|it| Path::new(&it).exists()) {
        sdk = sdk.needs(&[Need::Program("opentelemetry-sdk in target/otlp: ./tests/run makes it")]);
    }
    vec![
        sdk,
        test("what_is_no_otlp_is_refused_in_words", 60, refused),
        test("the_journal_is_read_once_over_kills", 120, journal)
            .needs(&[Need::Program("journalctl"), Need::Program(WRITER)]),
    ]
}

fn python() -> Option<String> {
    std::env::var("PURLIN_OTLP_PYTHON").ok()
}

/// A node that takes OTLP at a port that was free, and at its socket.
fn taking(lab: &Lab, more: &str) -> Result<(Node, u16)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    let document = format!("[intake]\notlp_socket = true\notlp_port = {port}\n{more}");
    apply(lab, &node, &document)?;
    Ok((node, port))
}

fn apply(lab: &Lab, node: &Node, document: &str) -> Result {
    let file = lab.file("intake.toml", document)?;
    let answer = node.cli(&["config", "apply", &file.display().to_string()])?;
    ensure!(answer.code == 0, "{answer:?}");
    Ok(())
}

fn source(node: &Node, name: &str) -> std::result::Result<Value, String> {
    let queue = node.cli(&["queue", "show", "-o", "json"]).map_err(|e| format!("{e:?}"))?;
    let queue: Value = queue.json().map_err(|e| format!("{e:?}"))?;
    let mut all = queue["sources"].as_array().into_iter().flatten();
    all.find(|it| it["source"] == name).cloned().ok_or_else(|| queue["sources"].to_string())
}

fn peek(node: &Node, class: &str) -> Result<Vec<Value>> {
    let peeked = node.cli(&["queue", "peek", "--class", class, "-n", "2000", "-o", "json"])?;
    let peeked: Value = peeked.json()?;
    Ok(peeked["records"].as_array().cloned().unwrap_or_default())
}

fn sdk(lab: &Lab) -> Result {
    let python = python().ok_or("no PURLIN_OTLP_PYTHON")?;
    let (mut node, port) = taking(lab, "[intake.quota]\nkib_s = 1\n")?;
    let run = |what: &str| -> Result<String> {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "60", &python, SCRIPT, what]);
        let output = command.arg(port.to_string()).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{what}: {}: {text}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    run("once")?;
    let taken = source(&node, "loopback")?;
    ensure!(taken["records"].as_u64() >= Some(4) && taken["dropped"] == 0, "{taken}");
    let samples = peek(&node, "metric")?;
    let ours: Vec<_> = samples.iter().filter(|it| it["name"] == "loopback").collect();
    let points = ours.iter().flat_map(|it| it["points"].as_array().into_iter().flatten());
    let value = |name: &str| {
        let of: Vec<_> = points.clone().filter(|it| it["name"] == name).collect();
        of.last().and_then(|it| it["value"].as_f64())
    };
    ensure!(value("requests") == Some(7.0), "{ours:?}");
    ensure!(value("queue.depth") == Some(3.5), "{ours:?}");
    ensure!(value("latency.count") == Some(2.0) && value("latency.sum") == Some(30.0), "{ours:?}");
    let of_service = |it: &&Value| it["attributes"]["service.name"] == "checkout";
    ensure!(points.clone().any(|it| of_service(&it)), "{ours:?}");
    let lines = peek(&node, "log")?;
    let said = lines.iter().find(|it| it["text"] == "the till is open").ok_or("no line")?;
    ensure!(said["name"] == "checkout", "{said}");
    ensure!(said["attributes"]["till"] == "4", "{said}");

    // More than ten seconds of the quota, until it is told to come again.
    let flood = run("flood")?;
    let codes: Vec<&str> = flood.split_whitespace().collect();
    let well = codes.iter().filter(|it| **it == "200").count();
    let over: Vec<_> = codes.iter().filter_map(|it| it.strip_prefix("429:")).collect();
    ensure!(well > 0 && !over.is_empty(), "{flood}");
    ensure!(over.iter().all(|it| it.parse::<u64>().is_ok_and(|it| it > 0)), "{flood}");
    let taken = source(&node, "loopback")?;
    ensure!(taken["refused"].as_u64() == Some(over.len() as u64), "{taken}, {flood}");

    // What was answered with 200 is there after a stop.
    let before = class(&node.queue()?, "log")?.last_seq;
    node.stop()?;
    node.start()?;
    ensure!(class(&node.queue()?, "log")?.durable_seq >= before, "{before} were taken");
    node.stop().map(drop)
}

fn refused(lab: &Lab) -> Result {
    let (mut node, port) = taking(lab, "")?;
    let post = |path: &str, media_type: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {media_type}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let json =
        ask(TcpStream::connect(("127.0.0.1", port))?, &post("/v1/logs", "application/json", "{}"))?;
    ensure!(json.starts_with("HTTP/1.1 415") && json.contains("http/protobuf"), "{json}");
    let socket = node.dir().join("otlp.sock");
    let traces =
        ask(UnixStream::connect(&socket)?, &post("/v1/traces", "application/x-protobuf", ""))?;
    ensure!(traces.starts_with("HTTP/1.1 404") && traces.contains("/v1/metrics"), "{traces}");
    let empty =
        ask(UnixStream::connect(&socket)?, &post("/v1/logs", "application/x-protobuf", ""))?;
    ensure!(empty.starts_with("HTTP/1.1 200"), "{empty}");
    let status = node.cli(&["queue", "show"])?;
    ensure!(status.stdout.contains("SOURCE"), "whoever asked is listed: {status:?}");
    // A port that is taken is told, and nothing of the document holds.
    let held = TcpListener::bind("127.0.0.1:0")?;
    let document = format!("[intake]\notlp_port = {}\n", held.local_addr()?.port());
    let file = lab.file("taken.toml", document)?;
    let answer = node.cli(&["config", "apply", &file.display().to_string()])?;
    ensure!(answer.code != 0 && format!("{answer:?}").contains("in use"), "{answer:?}");
    apply(lab, &node, "")?;
    wait::until("nothing listens", SOON, || match UnixStream::connect(&socket) {
        Err(_) => Ok(()),
        Ok(_) => Err("the socket answers".into()),
    })?;
    node.stop().map(drop)
}

fn ask(mut stream: impl Read + Write, request: &str) -> Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Entries in a journal file that systemd's own writer makes.
fn write(dir: &Path, file: &str, numbers: std::ops::Range<u64>) -> Result {
    let mut text = String::new();
    for n in numbers {
        let priority = if n % 10 == 0 { 6 } else { 4 };
        text += &format!(
            "__REALTIME_TIMESTAMP={}\n__MONOTONIC_TIMESTAMP={n}\n\
             _BOOT_ID=11111111111111111111111111111111\n_MACHINE_ID={:032x}\nMESSAGE=line {n}\n\
             PRIORITY={priority}\n_SYSTEMD_UNIT=web.service\n_PID=1\n\n",
            1_790_000_000_000_000 + n % 1_000_000 * 1000,
            7
        );
    }
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "30", WRITER, "-o"]).arg(dir.join(file)).arg("-");
    let mut writer = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    writer.stdin.take().ok_or("no input")?.write_all(text.as_bytes())?;
    ensure!(writer.wait()?.success(), "systemd-journal-remote failed");
    Ok(())
}

fn journal(lab: &Lab) -> Result {
    let dir = lab.dir().join("journal");
    fs::create_dir_all(&dir)?;
    // What was before it is turned on is left alone.
    write(&dir, "a.journal", 1_000_001..1_000_002)?;
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_TEST__JOURNAL", &dir);
    node.start()?;
    apply(
        lab,
        &node,
        "[spool]\ncommit_window_s = 1\n[intake]\njournal = true\n\
         journal_units = [\"web.service\"]\n",
    )?;
    let came = |node: &Node, up_to: u64| -> Result {
        // Every tenth is of priority info, which is left out.
        let wanted: Vec<u64> = (1..up_to).filter(|n| n % 10 != 0).collect();
        wait::until("the lines are in the spool", SOON, || {
            let lines = peek(node, "log").map_err(|e| format!("{e:?}"))?;
            let number = |it: &Value| it["text"].as_str()?.strip_prefix("line ")?.parse().ok();
            let mut numbers: Vec<u64> = lines.iter().filter_map(number).collect();
            numbers.sort_unstable();
            if numbers == wanted { Ok(()) } else { Err(format!("{} lines", numbers.len())) }
        })
    };
    std::thread::sleep(Duration::from_secs(2));
    write(&dir, "a.journal", 1..301)?;
    came(&node, 301)?;
    // Durable, and noted down or not.
    for (kill, up_to) in [(0, 401), (1, 501), (2, 601)] {
        std::thread::sleep(Duration::from_millis(700 * kill));
        node.kill()?;
        write(&dir, "a.journal", up_to - 100..up_to)?;
        node.start()?;
        came(&node, up_to)?;
    }
    let lines = peek(&node, "log")?;
    let first = lines.first().ok_or("no line")?;
    ensure!(first["name"] == "web.service", "{first}");
    node.stop().map(drop)
}
