//! The audit log: what was done is on record, and what was done to the record shows.

use std::{fs, path::PathBuf};

use purlin_proto::api::{Audit, AuditEntry};
use purlin_tests::{Lab, Node, Result, ensure, lab::Test, test, wait};
use serde::Deserialize;

use crate::{ROUND_TRIP, apply, connected, reported};

pub fn local() -> [Test; 1] {
    [test("an_edited_byte_a_removed_line_and_a_cut_tail_of_the_audit_log_show", 60, changed)]
}

pub fn remote() -> [Test; 1] {
    [test("what_is_done_is_on_record_and_its_end_is_reported", 90, recorded)]
}

#[derive(Deserialize)]
struct Listed {
    entries: Vec<AuditEntry>,
}

pub fn listed(node: &Node) -> Result<Vec<(String, String)>> {
    let Listed { entries } = node.cli(&["audit", "list", "-n", "100", "-o", "json"])?.json()?;
    Ok(entries.into_iter().map(|it| (it.by, it.what)).collect())
}

/// Number and hash of the newest line, if the log is whole.
fn verified(node: &Node, anchor: Option<&str>) -> Result<String> {
    let anchor = anchor.map_or(Vec::new(), |anchor| vec!["--anchor", anchor]);
    let answer = node.cli(&[&["audit", "verify", "-o", "json"], &anchor[..]].concat())?;
    let told: Audit = serde_json::from_str(&answer.stdout.replacen('{', "{\"entries\":[],", 1))?;
    match (answer.code, told.broken, told.head) {
        (0, None, Some(head)) => Ok(format!("{}:{}", head.number, head.sha256)),
        (code, broken, _) => Err(format!("exit {code}: {}", broken.unwrap_or_default()).into()),
    }
}

/// The audit log says that it was changed.
fn shows(node: &Node, anchor: Option<&str>, what: &str) -> Result {
    match verified(node, anchor) {
        Err(why) if why.message().is_some_and(|why| why.starts_with("exit 2: ")) => Ok(()),
        Err(why) => Err(format!("{what}: {why:?}").into()),
        Ok(head) => Err(format!("{what}: whole up to {head}").into()),
    }
}

fn changed(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    for version in 1..=3 {
        let document = format!("version = {version}\n[sampling]\ninterval_s = {version}\n");
        ensure!(apply(lab, &node, &document)?.code == 0, "applied");
    }
    let anchor = verified(&node, None)?;
    let path = the_log(&node)?;
    let whole = fs::read_to_string(&path)?;
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let without = |n: usize| [&lines[..n], &lines[n + 1..]].concat().concat();
    let edited = whole.replacen("version 2", "version 9", 1);
    ensure!(edited != whole, "nothing to edit in {whole}");
    for (what, text) in [("edited", &edited), ("removed", &without(3))] {
        fs::write(&path, text)?;
        shows(&node, None, what)?;
    }
    // The running agent knows where its log ends.
    fs::write(&path, without(lines.len() - 1))?;
    shows(&node, None, "cut, with the agent running")?;
    node.kill()?;
    verified(&node, None)?;
    shows(&node, Some(&anchor), "cut, with an anchor")?;
    fs::write(&path, &whole)?;
    ensure!(verified(&node, Some(&anchor))? == anchor, "put back as it was");
    node.start()?;
    verified(&node, Some(&anchor))?;
    node.stop()?;
    Ok(())
}

fn the_log(node: &Node) -> Result<PathBuf> {
    let entries = fs::read_dir(node.state_dir().join("audit"))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let log = paths.find(|path| path.extension().is_some_and(|it| it == "jsonl"));
    Ok(log.ok_or("no audit log")?)
}

fn recorded(lab: &Lab) -> Result {
    let (broker, mut node, topics) = connected(lab)?;
    broker.retain(&topics.desired(), b"nonsense")?;
    let document = "version = 1\n[sampling]\ninterval_s = 3\n";
    ensure!(apply(lab, &node, document)?.code == 0, "applied");
    let paused = node.cli(&["numa", "pause"])?;
    ensure!(paused.code == 0, "{paused:?}");
    let me = format!("uid {} (local)", nix::unistd::getuid());
    let wanted = [
        ("the agent", "agent.started"),
        ("the core", "config.refused"),
        (&me, "config.trial"),
        (&me, "config.confirmed"),
        (&me, "api.done"),
    ];
    wait::until("all of it is on record", ROUND_TRIP, || {
        let listed = listed(&node).map_err(|e| format!("{e:?}"))?;
        let is_there = |(by, what): &(&str, &str)| {
            listed.iter().any(|it| (it.0.as_str(), it.1.as_str()) == (by, what))
        };
        wanted.iter().all(is_there).then_some(()).ok_or_else(|| format!("{listed:?}"))
    })?;
    wait::until("the core knows where it ends", ROUND_TRIP, || {
        let text = |e: libtest_mimic::Failed| format!("{e:?}");
        let head = reported(&broker, &topics).map_err(text)?.audit.unwrap_or_default();
        let sha256: String = head.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        let told = format!("{}:{sha256}", head.number);
        let is = verified(&node, None).map_err(text)?;
        if told == is { Ok(()) } else { Err(format!("{told}, not {is}")) }
    })?;
    node.stop()?;
    Ok(())
}
