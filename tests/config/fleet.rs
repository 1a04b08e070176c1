//! Signed documents and whole fleets: who is believed, and how far a bad one gets.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use purlin_proto::{
    api,
    topic::Topics,
    v1::{Outcome, Verdict},
};
use purlin_tests::{Broker, Lab, Need, Node, Result, ensure, lab::Test, test, wait};
use serde_json::Value;

use crate::{ROUND_TRIP, offer, reported};

/// Nodes of the fleet that a push is tried on: each is an agent of its own.
fn node_count() -> usize {
    std::env::var("PURLIN_NODES").ok().and_then(|it| it.parse().ok()).unwrap_or(100)
}

pub fn tests() -> [Test; 4] {
    [
        test("the_brokers_rules_let_a_node_do_its_work_and_no_more", 120, rules)
            .needs(&[Need::Program("mosquitto_passwd")]),
        test("only_signed_documents_that_are_new_are_taken", 240, signed),
        test("keys_are_rotated_and_an_epoch_steps_by_the_roots_alone", 180, rotated),
        test(
            "a_push_reaches_every_node_and_a_bad_canary_stops_it",
            200 + 2 * node_count() as u64,
            pushed_to_all,
        ),
    ]
}

/// Keys of the fleet `lab`, in a directory of the test's.
pub fn keygen(lab: &Lab, node: &Node, name: &str) -> Result<PathBuf> {
    let dir = lab.dir().join(name);
    let words = ["fleet", "keygen", &dir.display().to_string(), "--fleet", "lab"];
    let made = node.cli(&words)?;
    ensure!(made.code == 0, "{made:?}");
    Ok(dir)
}

/// Signs a document for a node; its envelope.
pub fn sign(lab: &Lab, node: &Node, keys: &Path, text: &str, more: &[&str]) -> Result<Vec<u8>> {
    let file = lab.file("signed.toml", text)?.display().to_string();
    let out = lab.dir().join("signed.cose").display().to_string();
    let keys = keys.display().to_string();
    let words = ["fleet", "sign", &file, &out, "--keys", &keys];
    let signed = node.cli(&[&words[..], more].concat())?;
    ensure!(signed.code == 0, "{signed:?}");
    Ok(std::fs::read(out)?)
}

/// A node that was given keys, and is connected.
pub fn trusting(lab: &Lab) -> Result<(Broker, Node, Topics, PathBuf)> {
    let broker = Broker::start(lab)?;
    let mut node = Node::new(lab, "node")?;
    let keys = keygen(lab, &node, "keys")?;
    node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
    node.set("PURLIN_TEST__CONFIRM_AFTER_MS", "300");
    node.set("PURLIN_TRUST__KEYS", keys.join("keys.cose"));
    node.start()?;
    let topics = Topics::new("lab", "node");
    reported(&broker, &topics)?;
    Ok((broker, node, topics, keys))
}

fn paths(verdict: &Verdict) -> Vec<&str> {
    verdict.refusals.iter().map(|it| it.path.as_str()).collect()
}

const TO_NODE: [&str; 2] = ["--node", "node"];

/// With the rules that docs/broker.md gives to production.
fn rules(lab: &Lab) -> Result {
    let page = include_str!("../../docs/broker.md");
    let acl = page.split("```acl\n").nth(1).and_then(|rest| rest.split("```").next());
    let acl = lab.file("acl", acl.ok_or("no rules in docs/broker.md")?)?;
    let passwords = lab.file("passwords", "")?;
    for user in ["node", "other", "operator"] {
        let mut command = std::process::Command::new("mosquitto_passwd");
        command.arg("-b").arg(&passwords).args([user, &format!("{user}-password")]);
        let output = command.output()?;
        ensure!(output.status.success(), "{output:?}");
    }
    let lines = format!(
        "allow_anonymous false\npassword_file {}\nacl_file {}",
        passwords.display(),
        acl.display()
    );
    let broker = Broker::start_with(lab, &lines)?.as_user("operator", "operator-password");
    let mut node = Node::new(lab, "node")?;
    let password = lab.file("password", "node-password")?;
    node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
    node.set("PURLIN_UPLINK__PASSWORD_FILE", &password);
    node.set("PURLIN_TEST__CONFIRM_AFTER_MS", "300");
    node.start()?;
    let topics = Topics::new("lab", "node");
    let verdict = offer(&broker, &topics, b"\x10\x05")?;
    ensure!(verdict.outcome() == Outcome::Confirmed && verdict.version == 5, "{verdict:?}");
    wait::until("telemetry is taken", ROUND_TRIP, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if link.acked_batches > 0 && link.refused == 0 { Ok(()) } else { Err(format!("{link:?}")) }
    })?;

    // Another node, and the node itself, can't tell it what to do.
    for user in ["other", "node"] {
        let theirs = broker.seen_by(user, &format!("{user}-password"));
        _ = theirs.retain(&topics.desired(), b"\x10\x09");
        let retained = broker.retained(&topics.desired())?;
        ensure!(retained.as_deref() == Some(b"\x10\x05"), "{user} wrote {retained:?}");
    }
    let theirs = broker.seen_by("other", "other-password");
    ensure!(theirs.retained(&topics.reported())?.is_none(), "and other nodes read nothing of it");
    node.stop()?;
    Ok(())
}

fn signed(lab: &Lab) -> Result {
    let (broker, mut node, topics, keys) = trusting(lab)?;
    let said = |document: &[u8]| offer(&broker, &topics, document);

    let bare = said(b"\x10\x05")?;
    ensure!(!bare.accepted && bare.refusals[0].value == "not signed", "unsigned: {bare:?}");

    let first = sign(lab, &node, &keys, "version = 7\n", &TO_NODE)?;
    let verdict = said(&first)?;
    ensure!(verdict.outcome() == Outcome::Confirmed && verdict.version == 7, "{verdict:?}");
    ensure!(verdict.by == "key config", "{verdict:?}");

    let strangers = keygen(lab, &node, "strangers")?;
    let forged = sign(lab, &node, &strangers, "version = 8\n", &TO_NODE)?;
    ensure!(!said(&forged)?.accepted, "another fleet's key");
    for (what, text, more, reason) in [
        ("another node's", "version = 8\n", vec!["--node", "elsewhere"], "node"),
        ("a rollback", "version = 6\n", TO_NODE.to_vec(), "version"),
        (
            "another of the same number",
            "version = 7\nlog.level = \"warn\"\n",
            TO_NODE.to_vec(),
            "version",
        ),
        (
            "expired",
            "version = 9\n",
            [&TO_NODE[..], &["--expires", "0s"]].concat(),
            "expires_unix_s",
        ),
        (
            "of another base",
            "version = 9\n",
            [&TO_NODE[..], &["--base", &"ab".repeat(32)]].concat(),
            "base_sha256",
        ),
        (
            "impossible here",
            "version = 9\nplacement.reserved_cpus = \"9000\"\n",
            TO_NODE.to_vec(),
            "placement.reserved_cpus",
        ),
    ] {
        let verdict = said(&sign(lab, &node, &keys, text, &more)?)?;
        ensure!(!verdict.accepted && paths(&verdict) == [reason], "{what}: {verdict:?}");
    }
    let mut damaged = sign(lab, &node, &keys, "version = 9\n", &TO_NODE)?;
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let verdict = said(&damaged)?;
    ensure!(verdict.refusals[0].hint.contains("signature"), "a flipped bit: {verdict:?}");

    // Replay: the first one again changes nothing, also after a restart.
    let verdict = said(&sign(lab, &node, &keys, "version = 10\n", &["--node", "no*"])?)?;
    ensure!(verdict.outcome() == Outcome::Confirmed, "a selector: {verdict:?}");
    node.kill()?;
    node.start()?;
    let replayed = said(&first)?;
    ensure!(paths(&replayed) == ["version"], "replayed: {replayed:?}");
    let active = node.config()?.active.ok_or("nothing in force")?;
    ensure!(active.version == 10, "{active:?}");
    node.stop()?;
    Ok(())
}

fn rotated(lab: &Lab) -> Result {
    let (broker, mut node, topics, keys) = trusting(lab)?;
    let dir = keys.display().to_string();
    let said = |document: &[u8]| offer(&broker, &topics, document);
    let old = sign(lab, &node, &keys, "version = 5\n", &TO_NODE)?;
    ensure!(said(&old)?.outcome() == Outcome::Confirmed, "signed");
    let stale = sign(lab, &node, &keys, "version = 6\n", &TO_NODE)?;

    ensure!(node.cli(&["fleet", "rotate", &dir, "--roots"])?.code == 0, "new keys and new roots");
    let renewed = sign(lab, &node, &keys, "version = 7\n", &TO_NODE)?;
    let verdict = said(&renewed)?;
    ensure!(verdict.outcome() == Outcome::Confirmed, "the set goes along: {verdict:?}");
    ensure!(reported(&broker, &topics)?.key_set == 2, "and is believed");
    let verdict = said(&stale)?;
    ensure!(verdict.refusals[0].hint.contains("no key"), "the old key is revoked: {verdict:?}");
    node.kill()?;
    node.start()?;
    ensure!(reported(&broker, &topics)?.key_set == 2, "durable");

    // A cloud that was rebuilt counts from 1: refused, until the roots step the epoch.
    let again = sign(lab, &node, &keys, "version = 1\n", &TO_NODE)?;
    ensure!(paths(&said(&again)?) == ["version"], "a lower version");
    ensure!(node.cli(&["fleet", "rotate", &dir, "--step-epoch"])?.code == 0, "a new epoch");
    let anew = sign(lab, &node, &keys, "version = 1\n", &TO_NODE)?;
    let verdict = said(&anew)?;
    ensure!(verdict.outcome() == Outcome::Confirmed && verdict.version == 1, "{verdict:?}");
    let told = reported(&broker, &topics)?;
    ensure!((told.key_set, told.epoch) == (3, 2), "{told:?}");

    // Too few roots: nothing is made, and a minority's set is not believed.
    for root in ["root-1.key", "root-2.key"] {
        std::fs::rename(keys.join(root), keys.join(format!("{root}.away")))?;
    }
    let refused = node.cli(&["fleet", "rotate", &dir])?;
    ensure!(refused.code == 1 && refused.stderr.contains("bring root-"), "{refused:?}");
    node.stop()?;
    Ok(())
}

fn pushed_to_all(lab: &Lab) -> Result {
    let count = node_count();
    let deadline = Duration::from_secs(120 + count as u64);
    // One for each connection of the broker.
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
    let broker = Broker::start(lab)?;
    let empty = lab.dir().join("nothing");
    std::fs::create_dir_all(&empty)?;
    let mut nodes = Vec::new();
    let keys = keygen(lab, &Node::new(lab, "operator")?, "keys")?;
    for n in 0..count {
        let mut node = Node::new(lab, &format!("edge-{n:03}"))?;
        node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
        node.set("PURLIN_TRUST__KEYS", keys.join("keys.cose"));
        node.set("PURLIN_TEST__CONFIRM_AFTER_MS", "1000");
        node.set("PURLIN_TEST__TRIAL_MS", "20000");
        // They share two cores: what is measured is the push, and no machine is read.
        node.set("PURLIN_TEST__ROOT", &empty);
        node.launch()?;
        nodes.push(node);
    }
    let operator = Node::new(lab, "operator")?;
    let dir = keys.display().to_string();
    let endpoint = broker.endpoint();
    let at = ["--broker", &endpoint, "--fleet", "lab", "-o", "json"];
    wait::until("every node has reported", deadline, || {
        let status = operator.cli(&[&["fleet", "status"][..], &at].concat());
        let status: Value = status.and_then(|it| it.json()).map_err(|e| format!("{e:?}"))?;
        let there = status["nodes"].as_array().map_or(0, Vec::len);
        if there == count { Ok(()) } else { Err(format!("{there} nodes")) }
    })?;
    let push = |text: &str, name: &str| -> Result<(i32, Value, Duration)> {
        let file = lab.file(name, text)?.display().to_string();
        let words = ["fleet", "push", &file, "--nodes", "edge-*", "--keys", &dir];
        let began = Instant::now();
        let answer = operator.cli_for(deadline.as_secs() as u32, &[&words[..], &at].concat())?;
        Ok((answer.code, answer.json()?, began.elapsed()))
    };
    let results = |pushed: &Value, result: &str| {
        let nodes = pushed["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().filter(|node| node["result"] == result).count()
    };

    let before = broker.cpu_time()?;
    let (code, pushed, took) = push("version = 1\nsampling.interval_s = 60\n", "good.toml")?;
    ensure!(code == 0 && results(&pushed, "confirmed") == count, "{pushed:#}");
    let load = broker.cpu_time()? - before;
    println!(
        "{count} nodes confirmed a signed document in {took:?}, 1 s of it to prove good, twice; \
         the broker used {load:?} of a CPU"
    );

    // Its one canary can't be reached under it, and reverts.
    let nobody = Broker::absent(lab, "")?;
    let bad = format!("version = 2\nuplink.endpoint = \"{}\"\n", nobody.endpoint());
    let (code, pushed, _) = push(&bad, "bad.toml")?;
    let counts = (results(&pushed, "reverted"), results(&pushed, "unsent"));
    ensure!(code == 1 && counts == (1, count - 1), "{counts:?} in {pushed:#}");
    let in_force: api::Config = nodes[count - 1].config()?;
    ensure!(in_force.active.is_some_and(|it| it.version == 1), "the others never heard of it");
    for node in &mut nodes {
        node.kill()?;
    }
    Ok(())
}
