//! What a technician sees of placement, with the agent alive, dead and started again.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use purlin_tests::{Lab, Node, Result, Test, ensure, test, wait};
use serde_json::Value;

pub fn tests() -> impl IntoIterator<Item = Test> {
    [
        test("commands::explained_dead_or_alive", 60, explained),
        test("commands::a_damaged_state_is_told_and_made_anew", 60, damaged),
        test("commands::a_profile_places_what_it_matches", 60, profile),
    ]
}

/// A container that shares, on the node of its memory: every machine has room for it.
const SMALL: &str = r#"{"id": "c0ffee0123456789", "name": "small", "via": "oci",
    "annotations": {"purlin.dev/shared-millicpus": "100", "purlin.dev/memory-mib": "1"}}"#;

/// Asks the local API, as the OCI runtime wrapper does.
fn post(node: &Node, path: &str, body: &str) -> Result<String> {
    let mut socket = UnixStream::connect(node.dir().join("agent.sock"))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let length = body.len();
    write!(
        socket,
        "POST {path} HTTP/1.1\r\nhost: purlin\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

fn outcome(node: &Node, name: &str) -> Result<Value> {
    let answer = node.cli(&["numa", "explain", name, "-o", "json"])?;
    ensure!(answer.code == 0, "{name}: {answer:?}");
    Ok(answer.json::<Value>()?["containers"][0]["outcome"].clone())
}

fn explained(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "n1")?;
    node.start()?;
    let answer = post(&node, "/v1/placement/containers", SMALL)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let wrong = SMALL.replace("100", "much");
    let answer = post(&node, "/v1/placement/containers", &wrong)?;
    ensure!(answer.starts_with("HTTP/1.1 409") && answer.contains("shared-millicpus"), "{answer}");
    let alive = outcome(&node, "small")?;
    ensure!(alive["placed"][0]["nodes"].is_string(), "{alive}");
    let paused = node.cli(&["numa", "pause"])?;
    ensure!(paused.code == 0 && paused.stdout.starts_with("paused"), "{paused:?}");

    // What was decided is on disk within a moment.
    wait::until("the pause is on disk", Duration::from_secs(10), || {
        let kept = ["placement.a", "placement.b"].map(|name| node.state_dir().join(name));
        let paused = |path| {
            fs::read(path).is_ok_and(|it| String::from_utf8_lossy(&it).contains("\"paused\":true"))
        };
        kept.into_iter().any(paused).then_some(()).ok_or_else(|| "not yet".to_owned())
    })?;
    node.kill()?;
    ensure!(outcome(&node, "c0ff")? == alive, "the same from what is on disk");
    node.start()?;
    let all: Value = node.json(&["numa", "explain"])?;
    ensure!(all["paused"] == true, "a pause outlives the agent: {all}");
    let resumed: Value = node.json(&["numa", "resume"])?;
    ensure!(resumed["updates"].is_array(), "{resumed}");
    ensure!(outcome(&node, "small")? == alive, "it is where it was");
    let nobody = node.cli(&["numa", "explain", "nobody"])?;
    ensure!(nobody.code == 1 && nobody.stderr.contains("no container"), "{nobody:?}");
    node.stop()?;
    Ok(())
}

fn damaged(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "n1")?;
    node.start()?;
    node.kill()?;
    for name in ["placement.a", "placement.b"] {
        fs::write(node.state_dir().join(name), "of another time")?;
    }
    node.start()?;
    let status = node.status()?;
    ensure!(format!("{status:?}").contains("placement.a"), "{status:?}");
    let answer = post(&node, "/v1/placement/containers", SMALL)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    node.stop()?;
    Ok(())
}

fn profile(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "n1")?;
    node.start()?;
    let file = node.dir().join("desired.toml");
    let document = "[placement.profiles.db]\nannotations = { app = \"d*\" }\n\
                    workload = { shared_millicpus = 100, memory_mib = 1 }\n";
    fs::write(&file, document)?;
    let file = file.to_string_lossy().into_owned();
    let applied = node.cli(&["config", "apply", &file])?;
    ensure!(applied.code == 0, "{applied:?}");
    let container = r#"{"id": "d1", "name": "d1", "via": "oci", "annotations": {"app": "db"}}"#;
    let answer = post(&node, "/v1/placement/containers", container)?;
    ensure!(answer.contains(r#""by":{"profile":"db"}"#), "{answer}");
    fs::write(&file, document.replace("100", "100, exclusive_cpus = 1, near = \"by\""))?;
    let refused = node.cli(&["config", "apply", &file])?;
    for path in ["workload.shared_millicpus", "workload.near"] {
        ensure!(refused.code == 3 && refused.stderr.contains(path), "{refused:?}");
    }
    node.stop()?;
    Ok(())
}
