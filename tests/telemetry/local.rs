//! What the technician sees on the node alone: what happened in the last day, also after
//! a restart, and `purlin top` on a terminal that knows nothing.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use purlin_tests::{Lab, Need, Node, Result, ensure, lab::Test, test, wait};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

pub fn tests() -> Vec<Test> {
    vec![
        test("what_happened_to_an_alarm_is_told_after_a_restart", 90, happened),
        test("top_fits_a_serial_console_and_ends_with_q", 60, top)
            .needs(&[Need::Program("script")]),
    ]
}

fn happened(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    let document = "[sampling]\ninterval_s = 1\n[alarms.rules.busy]\n\
                    metric = \"system.memory.limit\"\nabove = 1.0\nlatched = true\n";
    let document = lab.file("alarms.toml", document)?;
    let answer = node.cli(&["config", "apply", &document.display().to_string()])?;
    ensure!(answer.code == 0, "{answer:?}");
    told(&node, &["raised"])?;
    let raised = node.cli(&["alarm", "list", "-o", "json"])?.json::<Value>()?;
    let id = raised["raised"].as_array().into_iter().flatten().filter_map(|it| it["id"].as_str());
    let mut id = id;
    let id = id.find(|id| id.starts_with("busy")).ok_or("no alarm")?.to_owned();
    let known = node.cli(&["alarm", "ack", &id, "--reason", "a test"])?;
    ensure!(known.code == 0, "{known:?}");
    node.stop()?;
    node.start()?;
    let told = told(&node, &["raised", "acknowledged"])?;
    ensure!(told[1]["by"].as_str().is_some_and(|by| by.contains("a test")), "{told:?}");
    let page = node.cli(&["alarm", "history", "--since", "1h"])?;
    ensure!(page.code == 0 && page.stdout.contains("acknowledged"), "{page:?}");
    let hardware = node.cli(&["hw", "changes", "--since", "1h", "-o", "json"])?;
    let hardware: Value = hardware.json()?;
    ensure!(hardware["happened"].is_array(), "{hardware}");
    node.stop().map(drop)
}

/// Waits until just this was told of the alarm.
fn told(node: &Node, what: &[&str]) -> Result<Vec<Value>> {
    wait::until("it is told", SOON, || {
        let answer = node.cli(&["alarm", "history", "--since", "1h", "-o", "json"]);
        let happened = answer.and_then(|it| it.json::<Value>()).map_err(|e| format!("{e:?}"))?;
        let all = happened["happened"].as_array().cloned().unwrap_or_default();
        let is_ours = |it: &Value| it["id"].as_str().is_some_and(|id| id.starts_with("busy"));
        let of: Vec<Value> = all.into_iter().filter(is_ours).collect();
        let whats: Vec<_> = of.iter().filter_map(|it| it["what"].as_str()).collect();
        if whats == what { Ok(of) } else { Err(happened.to_string()) }
    })
}

fn top(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.set("LANG", "C");
    node.set("PURLIN_TEST__CPU_INTERVAL_MS", "100");
    node.start()?;
    let measured = || {
        let top = node.cli(&["top", "-o", "json"]).and_then(|it| it.json::<Value>());
        let top = top.map_err(|error| format!("{error:?}"))?;
        let names = top["rows"].as_array().into_iter().flatten();
        let has = names.filter_map(|row| row["name"].as_str()).any(|name| name == "memory used");
        if has { Ok(()) } else { Err(top.to_string()) }
    };
    wait::until("something was measured", SOON, measured)?;
    let screen = lab.dir().join("screen");
    let words = format!("{} top --every 1", node.binary().display());
    let mut script = Command::new("timeout");
    script.args(["-k", "1", "20", "script", "-qfec", &words]).arg(&screen);
    script.env_clear().envs(node.environment()).env("TERM", "dumb");
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut keys = child.stdin.take().ok_or("no input")?;
    let pages = || {
        let text = fs::read_to_string(&screen).unwrap_or_default();
        let pages = text.matches("THE LAST").count();
        if pages >= 2 { Ok(text) } else { Err(text) }
    };
    let text = wait::until("it draws a second time", SOON, pages)?;
    let pressed = Instant::now();
    keys.write_all(b"q")?;
    let status = child.wait()?;
    ensure!(status.success(), "it ended with {status}");
    ensure!(pressed.elapsed() < Duration::from_secs(5), "q took {:?}", pressed.elapsed());
    let page: Vec<&str> = text.lines().skip(1).take_while(|it| !it.contains("node  ")).collect();
    ensure!(page.len() < 24, "{} lines: {text}", page.len());
    ensure!(text.lines().skip(1).all(|line| line.trim_end().chars().count() <= 80), "{text}");
    ensure!(!text.contains('\x1b'), "a dumb terminal is sent escapes: {text:?}");
    node.stop().map(drop)
}
