//! What is handed to others on site: a scraper and a receiver that are nobody's of ours
//! (`scrape.py`, `receiver.py`), and an address that is somebody's.

use std::{net::TcpListener, path::Path, process::Command, thread::sleep, time::Duration};

use purlin_tests::{Lab, Need, Node, Result, ensure, lab::Test, node::class, test, wait};
use serde_json::Value;

use crate::receiver::{Receiver, no_python, python};

const SOON: Duration = Duration::from_secs(30);
/// The agent measures itself once a minute.
const A_MINUTE: Duration = Duration::from_secs(90);
/// Longer than what a listener may be behind lasts at fifty samples a second.
const AWAY: Duration = Duration::from_secs(30);

pub fn tests() -> Vec<Test> {
    let python = [
        test("samples_are_read_as_openmetrics_by_another", 180, scraped),
        test("records_are_posted_on_site_and_nothing_waits_for_it", 240, posted),
    ];
    let python = python.into_iter().map(|it| it.needs(&[Need::Is(no_python)]));
    python.chain([test("a_port_that_is_anothers_is_refused", 60, taken)]).collect()
}

fn apply(lab: &Lab, node: &Node, document: &str) -> Result<purlin_tests::node::Answer> {
    let file = lab.file("export.toml", document)?;
    node.cli(&["config", "apply", &file.display().to_string()])
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn scrape(ports: &[u16]) -> std::result::Result<Vec<Value>, String> {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "30"]).arg(python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("telemetry/scrape.py"));
    command.args(ports.iter().map(u16::to_string));
    let output = command.output().map_err(|it| it.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines.lines().map(|line| serde_json::from_str(line).map_err(|it| it.to_string())).collect()
}

fn named<'a>(samples: &'a [Value], name: &str) -> Vec<&'a Value> {
    samples.iter().filter(|it| it["name"] == name).collect()
}

fn scraped(lab: &Lab) -> Result {
    let (port, intake) = (free_port()?, free_port()?);
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_TEST__CPU_INTERVAL_MS", "200");
    node.start()?;
    let both = format!("export.openmetrics_port = {port}\nintake.otlp_port = {intake}\n");
    let answer = apply(lab, &node, &both)?;
    ensure!(answer.code == 0, "{answer:?}");
    let samples = wait::until("the CPUs are told of", SOON, || {
        let samples = scrape(&[port, intake])?;
        match named(&samples, "system_cpu_time_seconds_total").is_empty() {
            true => Err(format!("{samples:?}")),
            false => Ok(samples),
        }
    })?;
    let cpu = &named(&samples, "system_cpu_time_seconds_total")[0];
    ensure!(cpu["type"] == "counter" && cpu["unit"] == "seconds", "{cpu}");
    ensure!(cpu["labels"]["cpu_mode"].is_string(), "{cpu}");
    let info = &named(&samples, "target_info")[0];
    ensure!(info["labels"]["node"] == "node" && info["labels"]["fleet"] == "lab", "{info}");
    wait::until("a workload's value is told of", SOON, || {
        let samples = scrape(&[port])?;
        let till = named(&samples, "shop_till_ratio");
        if till.iter().any(|it| it["value"] == 4.0) { Ok(()) } else { Err(format!("{till:?}")) }
    })?;
    wait::until("the agent tells of itself", A_MINUTE, || {
        let samples = scrape(&[port])?;
        let size = named(&samples, "purlin_spool_size_bytes");
        let of_metric = size.iter().find(|it| it["labels"]["purlin_class"] == "metric");
        let lost = named(&samples, "purlin_spool_lost_total");
        let said = of_metric.is_some_and(|it| it["value"].as_f64() > Some(0.0))
            && lost.iter().any(|it| it["labels"]["purlin_cause"] == "full")
            && !named(&samples, "purlin_uplink_up_ratio").is_empty();
        if said { Ok(()) } else { Err(format!("{size:?}")) }
    })?;
    // And no more once it is not wanted.
    let answer = apply(lab, &node, "log.level = \"info\"\n")?;
    ensure!(answer.code == 0, "{answer:?}");
    let gone = scrape(&[port]);
    ensure!(gone.as_ref().is_err_and(|it| it.contains("refused")), "{gone:?}");
    Ok(())
}

fn posted(lab: &Lab) -> Result {
    let receiver = Receiver::start(lab, "503")?;
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_TEST__CPU_INTERVAL_MS", "20");
    node.start()?;
    let answer =
        apply(lab, &node, &format!("export.otlp = \"http://127.0.0.1:{}\"\n", receiver.port))?;
    ensure!(answer.code == 0, "a receiver that is away is no reason to refuse: {answer:?}");
    let before = class(&node.queue()?, "metric")?.last_seq;
    sleep(AWAY);
    let kept = class(&node.queue()?, "metric")?.last_seq - before;
    ensure!(kept > 200, "the spool took {kept} samples meanwhile");
    ensure!(receiver.took()?.is_empty(), "it took nothing");
    ensure!(node.log()?.contains("nothing is taken on site"), "and the log says so");

    receiver.answers("200")?;
    let of_node = |it: &&Value| it["resource"]["host.id"] == "node";
    let took = wait::until("samples and events arrive", A_MINUTE, || {
        let took = receiver.took().map_err(|it| format!("{it:?}"))?;
        let points = took.iter().filter(of_node).filter(|it| it["name"] == "system.cpu.time");
        let logs = took.iter().filter(of_node).filter(|it| it["what"] == "log");
        match points.count() > 100 && logs.count() > 0 {
            true => Ok(took),
            false => Err(format!("{} so far", took.len())),
        }
    })?;
    let point = took.iter().find(|it| it["name"] == "system.cpu.time").ok_or("no point")?;
    ensure!(point["unit"] == "s" && point["monotonic"] == true, "{point}");
    wait::until("what was missed is counted", A_MINUTE, || {
        let took = receiver.took().map_err(|it| format!("{it:?}"))?;
        let dropped = took.iter().rfind(|it| it["name"] == "purlin.export.dropped");
        match dropped.and_then(|it| it["value"].as_f64()) {
            Some(dropped) if dropped > 0.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

fn taken(lab: &Lab) -> Result {
    let somebody = TcpListener::bind("127.0.0.1:0")?;
    let port = somebody.local_addr()?.port();
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    let answer = apply(lab, &node, &format!("export.openmetrics_port = {port}\n"))?;
    let said = format!("{} {}", answer.stdout, answer.stderr);
    let why = format!("export.openmetrics_port {port}: Address already in use");
    ensure!(answer.code != 0 && said.contains(&why), "{answer:?}");
    let answer =
        apply(lab, &node, "export.otlp = \"https://a\"\nexport.openmetrics_port = 70000\n")?;
    let said = format!("{} {}", answer.stdout, answer.stderr);
    ensure!(said.contains("start with http://") && said.contains("70000"), "{answer:?}");
    Ok(())
}
