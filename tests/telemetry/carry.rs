//! What a node without a link has measured is carried to the core: exported with the
//! agent alive or dead, imported by another node's agent, sent on once however often
//! it is brought; and what a person removes is told to the core.

use std::{
    collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path, thread::sleep,
    time::Duration,
};

use purlin_daemon::wire;
use purlin_proto::v1::{Cause, Class};
use purlin_tests::{
    Broker, Lab, Need, Node, Result, broker::unhex, ensure, lab::Test, node::class, test, wait,
};
use serde_json::Value;

/// How long messages are listened to.
const LISTEN: Duration = Duration::from_secs(20);
/// After it the cursor is on disk, and a kill has nothing sent again.
const CURSOR_SAVED: Duration = Duration::from_secs(6);
/// For anything to come about.
const SOON: Duration = Duration::from_secs(30);

pub fn tests() -> Vec<Test> {
    let needs = ["mosquitto", "mosquitto_sub"].map(Need::Program);
    let tests = [
        test("an_export_of_a_dead_node_is_sent_on_once_by_another", 120, carried),
        test("what_is_purged_is_told_to_the_core", 90, purged),
    ];
    let sealed = test("a_sealed_spool_is_read_by_who_has_its_key_and_no_other", 90, sealed);
    tests.into_iter().map(|it| it.needs(&needs)).chain([sealed]).collect()
}

fn sealed(lab: &Lab) -> Result {
    let key = lab.file("key", "5a".repeat(32))?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let mut node = Node::new(lab, "sealed")?;
    node.set("PURLIN_SPOOL__KEY_FILE", &key);
    node.start()?;
    let events = |node: &Node| -> Result<String> {
        Ok(node.cli(&["queue", "peek", "--class", "event", "-n", "100", "-o", "json"])?.stdout)
    };
    let text = "agent.started";
    ensure!(events(&node)?.contains(text), "{}", events(&node)?);
    let mut plain = Node::new(lab, "plain")?;
    plain.start()?;
    plain.kill()?;
    ensure!(found(&plain.state_dir().join("spool/event"), text)?, "it is not seen in plain");
    node.kill()?;
    ensure!(!found(&node.state_dir().join("spool/event"), text)?, "it is on disk in plain");
    let stick = lab.dir().join("stick.purlin").display().to_string();
    let answer = node.cli(&["queue", "export", &stick, "-o", "json"])?;
    ensure!(answer.code == 0 && answer.stdout.contains("event"), "{answer:?}");

    // Without the key it starts, says so, and has lost nothing when the key is back.
    fs::rename(&key, lab.dir().join("away"))?;
    node.start()?;
    let status = node.cli(&["status"])?;
    ensure!(status.stdout.contains("sealed with a key that is not there"), "{status:?}");
    node.stop()?;
    fs::rename(lab.dir().join("away"), &key)?;
    node.start()?;
    let first: Value = serde_json::from_str(&events(&node)?)?;
    ensure!(first["records"][0]["name"] == text && first["records"][0]["seq"] == 1, "{first}");
    Ok(())
}

/// Whether a file below has these words.
fn found(dir: &Path, words: &str) -> Result<bool> {
    let mut any = false;
    for file in fs::read_dir(dir)? {
        let bytes = fs::read(file?.path())?;
        any |= bytes.windows(words.len()).any(|it| it == words.as_bytes());
    }
    Ok(any)
}

fn carried(lab: &Lab) -> Result {
    let mut origin = Node::new(lab, "origin")?;
    origin.set("PURLIN_TEST__CPU_INTERVAL_MS", "10");
    origin.start()?;
    pending(&origin, "metric", 200)?;
    // Alive: the agent makes everything durable first.
    let alive = export(&origin, &lab.dir().join("alive.purlin"))?;
    ensure!(alive["metric"] >= 200, "{alive:?}");
    origin.kill()?;
    let stick = lab.dir().join("dead.purlin");
    broken_off(&stick, &fs::read(lab.dir().join("alive.purlin"))?)?;
    let dead = export(&origin, &stick)?;
    let after = fs::read(&stick)?;
    let alive_bytes = fs::read(lab.dir().join("alive.purlin"))?;
    let kept = alive_bytes.iter().zip(&after).take_while(|(a, b)| a == b).count();
    ensure!(kept > alive_bytes.len() / 3, "it began anew: {kept} bytes are the same");
    ensure!(dead["metric"] >= alive["metric"], "{dead:?} with it dead, {alive:?} alive");
    ensure!(!lab.dir().join("dead.purlin.part").exists(), "nothing half is left");
    let peeked: Value = origin.cli(&["queue", "peek", "-n", "2", "-o", "json"])?.json()?;
    let point =
        &peeked["records"].as_array().ok_or("no records")?.last().ok_or("none")?["points"][0];
    ensure!(point["name"].as_str().is_some_and(|it| it.contains('.')), "{peeked}");

    let broker = Broker::start(lab)?;
    let mut listener = broker.listener("purlin/v1/lab/bearer/relay/#", LISTEN);
    let messages = lab.dir().join("messages");
    let heard = listener.stdout(fs::File::create(&messages)?).spawn()?;
    let mut bearer = Node::new(lab, "bearer")?;
    bearer.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
    bearer.start()?;
    damaged(&bearer, &stick)?;
    let first = import(&bearer, &stick)?;
    let sum: u64 = dead.values().sum();
    ensure!(first == (sum, 0), "{first:?} of {sum} records");
    wait::until("everything is sent on", SOON, || {
        let queue = bearer.queue().map_err(|e| format!("{e:?}"))?;
        let relay = class(&queue, "relay").map_err(|e| format!("{e:?}"))?;
        let done = relay.last_seq > 0 && relay.acked_seq == relay.last_seq;
        if done { Ok(()) } else { Err(format!("{relay:?}")) }
    })?;
    let again = import(&bearer, &stick)?;
    ensure!(again == (0, sum), "{again:?}: brought before");
    let older = import(&bearer, &lab.dir().join("alive.purlin"))?;
    ensure!(older.0 == 0, "{older:?}: all of it is in the later one");
    sleep(CURSOR_SAVED);
    bearer.kill()?;
    bearer.start()?;
    let again = import(&bearer, &stick)?;
    ensure!(again == (0, sum), "{again:?}: also after a kill");
    bearer.stop()?;
    heard.wait_with_output()?;
    let came = read(&messages)?;
    for (class, records) in &dead {
        let of = came.get(&format!("purlin/v1/lab/bearer/relay/origin/{class}"));
        let of = of.ok_or_else(|| format!("nothing of {class}"))?;
        ensure!(of.len() as u64 == *records, "{class}: {} of {records} came", of.len());
        ensure!(of.values().all(|times| *times == 1), "{class}: some came twice");
    }
    println!("{sum} records carried: {dead:?}");
    Ok(())
}

/// A stick that was pulled out half way: what is whole of it is gone on with.
fn broken_off(stick: &Path, alive: &[u8]) -> Result {
    let mut half = alive[..alive.len() * 2 / 3].to_vec();
    let end = half.len() - 100;
    half[end..].fill(0);
    fs::write(format!("{}.part", stick.display()), half)?;
    Ok(())
}

/// A flipped bit anywhere is refused before anything is taken.
fn damaged(bearer: &Node, stick: &Path) -> Result {
    let mut bytes = fs::read(stick)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let path = stick.with_extension("damaged");
    fs::write(&path, bytes)?;
    let answer = bearer.cli(&["queue", "import", &path.display().to_string()])?;
    ensure!(answer.code == 1 && answer.stderr.contains("damaged"), "{answer:?}");
    ensure!(class(&bearer.queue()?, "relay")?.last_seq == 0, "nothing was taken");
    Ok(())
}

fn purged(lab: &Lab) -> Result {
    let mut broker = Broker::absent(lab, "")?;
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_TEST__CPU_INTERVAL_MS", "10");
    node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
    node.start()?;
    pending(&node, "metric", 100)?;
    let asked = node.cli(&["queue", "purge", "--class", "metric"])?;
    ensure!(asked.code == 64 && asked.stderr.contains("--yes"), "it asks: {asked:?}");
    let purged: Value =
        node.cli(&["queue", "purge", "--class", "metric", "--yes", "-o", "json"])?.json()?;
    let (records, last) = (purged["records"].as_u64(), purged["last_seq"].as_u64());
    ensure!(records.is_some_and(|it| it >= 100), "{purged}");
    let queue = node.queue()?;
    ensure!(Some(class(&queue, "metric")?.purged) == records, "{queue:?}");
    broker.restart()?;
    let mut listener = broker.listener("purlin/v1/lab/node/#", LISTEN / 2);
    let messages = lab.dir().join("messages");
    let heard = listener.stdout(fs::File::create(&messages)?).spawn()?;
    wait::until("the link", SOON, || {
        let queue = node.queue().map_err(|e| format!("{e:?}"))?;
        let metric = class(&queue, "metric").map_err(|e| format!("{e:?}"))?;
        if Some(metric.acked_seq) >= last { Ok(()) } else { Err(format!("{metric:?}")) }
    })?;
    sleep(Duration::from_secs(1));
    node.stop()?;
    broker.kill()?;
    heard.wait_with_output()?;
    let text = fs::read_to_string(&messages)?;
    let mut gaps = Vec::new();
    for (_, payload) in text.lines().filter_map(|line| line.split_once(' ')) {
        let Ok(batch) = wire::decode(&unhex(payload)?) else { continue };
        if batch.class() == Class::Metric && batch.node == "node" {
            gaps.extend(batch.gaps.into_iter().filter(|gap| gap.cause() == Cause::Purged));
        }
    }
    let told = gaps.first().ok_or("no gap was told")?;
    ensure!((Some(told.last_seq), Some(told.lost)) == (last, records), "{told:?}, {purged}");
    Ok(())
}

fn pending(node: &Node, name: &str, records: u64) -> Result {
    wait::until("records pile up", SOON, || {
        let queue = node.queue().map_err(|e| format!("{e:?}"))?;
        let of = class(&queue, name).map_err(|e| format!("{e:?}"))?;
        if of.pending >= records { Ok(()) } else { Err(format!("{of:?}")) }
    })
}

/// Records by class.
fn export(node: &Node, path: &Path) -> Result<BTreeMap<String, u64>> {
    let answer = node.cli(&["queue", "export", &path.display().to_string(), "-o", "json"])?;
    ensure!(answer.code == 0, "{answer:?}");
    let export: Value = answer.json()?;
    let classes = export["classes"].as_array().ok_or("no classes")?;
    let of = |it: &Value| Some((it["class"].as_str()?.to_owned(), it["records"].as_u64()?));
    Ok(classes.iter().filter_map(of).collect())
}

/// Records taken and known.
fn import(node: &Node, path: &Path) -> Result<(u64, u64)> {
    let answer = node.cli(&["queue", "import", &path.display().to_string(), "-o", "json"])?;
    ensure!(answer.code == 0, "{answer:?}");
    let report: Value = answer.json()?;
    let number = |key: &str| report[key].as_u64().ok_or(format!("no {key} in {report}"));
    Ok((number("taken")?, number("known")?))
}

/// How often each number came, by topic.
fn read(messages: &Path) -> Result<BTreeMap<String, BTreeMap<u64, u32>>> {
    let mut came: BTreeMap<String, BTreeMap<u64, u32>> = BTreeMap::new();
    for line in fs::read_to_string(messages)?.lines() {
        let (topic, payload) = line.split_once(' ').ok_or("a message without a payload")?;
        if topic.contains("/dict/") {
            continue;
        }
        let batch = wire::decode(&unhex(payload)?).map_err(|e| e.to_string())?;
        ensure!(batch.historical && batch.node == "origin", "{topic}: {}", batch.node);
        for (seq, _) in wire::records(&batch).map_err(|e| e.to_string())? {
            *came.entry(topic.to_owned()).or_default().entry(seq).or_default() += 1;
        }
    }
    Ok(came)
}
