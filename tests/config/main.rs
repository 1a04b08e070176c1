//! Configuration from both sides: what is good is durable and live, what is bad is
//! refused whole, with every reason.

#![forbid(unsafe_code)]

use std::{process::ExitCode, time::Duration};

use prost::Message;
use purlin_proto::{
    api,
    topic::Topics,
    v1::{Desired, Log, Origin, Outcome, Reported, Sampling, Verdict},
};
use purlin_tests::{
    Broker, Lab, Need, Node, Result, ensure,
    lab::Test,
    node::{Answer, class, setting},
    test, wait,
};
use serde_json::Value;

mod audit;
mod command;
mod enrol;
mod fleet;
mod identity;
mod keys;
mod power;
mod trial;

/// How long a document may take from the broker into force, and back.
const ROUND_TRIP: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let mosquitto = [Need::Program("mosquitto"), Need::Program("mosquitto_pub")];
    let local: [Test; 5] = [
        test("a_good_document_is_in_force_and_survives_a_kill", 60, good),
        test("bad_documents_are_refused_with_every_reason", 90, bad),
        test("a_refused_document_changes_nothing", 60, refused_changes_nothing),
        test("intervals_level_and_cap_change_without_a_restart", 60, live),
        test("the_files_own_settings_show_where_they_come_from", 60, origins),
    ];
    let remote = [
        test("a_retained_document_is_applied_and_reported", 120, remote_good),
        test("the_uplink_moves_to_another_broker", 60, moves),
        test("a_bad_retained_document_is_refused_and_reported", 120, remote_bad),
        test("a_wiped_document_is_the_end_of_nothing", 120, remote_wiped),
    ];
    let remote = remote
        .into_iter()
        .chain(trial::remote())
        .chain(audit::remote())
        .chain(identity::remote())
        .chain(enrol::tests())
        .chain(keys::tests())
        .chain(fleet::tests())
        .chain(command::tests())
        .map(|test| test.needs(&mosquitto));
    let local = local
        .into_iter()
        .chain(trial::local())
        .chain(power::tests())
        .chain(audit::local())
        .chain(identity::local());
    purlin_tests::run(local.chain(remote))
}

const GOOD: &str = r#"
version = 7
[sampling]
interval_s = 3
interval_s_by_sampler = { cpu = 1 }
[log]
level = "debug"
[spool]
cap_mib = 16
"#;

fn good(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    let answer = apply(lab, &node, GOOD)?;
    ensure!(answer.code == 0, "{answer:?}");
    good_is_in_force(&node.config()?)?;
    node.kill()?;
    node.start()?;
    good_is_in_force(&node.config()?)?;
    let again = apply(lab, &node, GOOD)?;
    ensure!(again.code == 0, "the same again: {again:?}");
    let generation = node.config()?.active.map(|a| a.generation);
    ensure!(generation == Some(1), "the same document is not a new generation: {generation:?}");
    node.stop()?;
    Ok(())
}

fn good_is_in_force(config: &api::Config) -> Result {
    let active = config.active.as_ref().ok_or("nothing is in force")?;
    ensure!((active.version, active.generation) == (7, 1), "{active:?}");
    for (path, value) in [
        ("sampling.interval_s_by_sampler.cpu", "1"),
        ("sampling.interval_s_by_sampler.memory", "3"),
        ("log.level", "debug"),
        ("spool.cap_mib", "16"),
    ] {
        let setting = setting(config, path)?;
        ensure!(setting.value == value, "{setting:?}");
        ensure!(setting.origin.contains('7'), "from desired version 7: {setting:?}");
    }
    Ok(())
}

/// A document, and the paths of the reasons that it must be refused with.
fn bad_documents() -> Vec<(&'static str, String, Vec<&'static str>)> {
    let long = "a".repeat(300 << 10);
    vec![
        ("malformed", "[sampling".to_owned(), vec![]),
        ("not even text", "\u{0}\u{1}".to_owned(), vec![]),
        ("unknown field", "[sampling]\ninterval = 3\n".to_owned(), vec!["sampling.interval"]),
        (
            "three bad values at once",
            "[sampling]\ninterval_s = 0\n[log]\nlevel = \"loud\"\n[spool]\ncap_mib = 1\n"
                .to_owned(),
            vec!["sampling.interval_s", "log.level", "spool.cap_mib"],
        ),
        (
            "wrong type",
            "[sampling]\ninterval_s = \"often\"\n".to_owned(),
            vec!["sampling.interval_s"],
        ),
        (
            "no such sampler",
            "[sampling.interval_s_by_sampler]\nmoon = 3\n".to_owned(),
            vec!["sampling.interval_s_by_sampler"],
        ),
        (
            "impossible endpoint",
            "[uplink]\nendpoint = \"ftp://x\"\n".to_owned(),
            vec!["uplink.endpoint"],
        ),
        ("for another node", "node = \"another\"\n".to_owned(), vec!["node"]),
        ("for a newer agent", "least_agent = \"99.0.0\"\n".to_owned(), vec!["least_agent"]),
        ("too large", format!("least_agent = \"0.0.0-{long}\"\n"), vec![]),
    ]
}

fn bad(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    for (what, document, paths) in bad_documents() {
        let answer = apply(lab, &node, &document)?;
        ensure!(answer.code == 3, "{what}: {answer:?}");
        let refusals = refusals(&answer).map_err(|e| format!("{what}: {e}"))?;
        ensure!(!refusals.is_empty(), "{what}: without a reason");
        for path in paths {
            let reason = refusals.iter().find(|r| r.path.starts_with(path));
            let reason =
                reason.ok_or_else(|| format!("{what}: no reason for {path}: {refusals:?}"))?;
            let whole = !reason.limit.is_empty() && !reason.hint.is_empty();
            ensure!(whole, "{what}: without limit or hint: {reason:?}");
        }
    }
    ensure!(node.config()?.active.is_none(), "nothing was applied");
    node.stop()?;
    Ok(())
}

fn refused_changes_nothing(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    ensure!(apply(lab, &node, GOOD)?.code == 0, "the good one");
    let mixed = "version = 8\n[sampling]\ninterval_s = 5\n[log]\nlevel = \"loud\"\n";
    ensure!(apply(lab, &node, mixed)?.code == 3, "the mixed one");
    good_is_in_force(&node.config()?)?;
    node.stop()?;
    node.start()?;
    good_is_in_force(&node.config()?)?;
    let history: api::History = node.json(&["config", "history"])?;
    let accepted: Vec<_> = history.verdicts.iter().map(|v| v.accepted).collect();
    ensure!(accepted == [false, true], "newest first: {:?}", history.verdicts);
    node.stop()?;
    Ok(())
}

/// Settings show in what the agent does, not only in what it says.
fn live(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    let before = metric(&node)?;
    let document =
        "version = 1\n[sampling]\ninterval_s = 1\n[log]\nlevel = \"error\"\n[spool]\ncap_mib = 4\n";
    ensure!(apply(lab, &node, document)?.code == 0, "applied");
    wait::until("samples come every second", Duration::from_secs(8), || {
        // Six samplers every ten seconds would be six records by then.
        let now = metric(&node).map_err(|e| format!("{e:?}"))?;
        if now.last_seq >= before.last_seq + 12 { Ok(()) } else { Err(format!("{now:?}")) }
    })?;
    let cap = metric(&node)?.cap_bytes;
    ensure!(cap < before.cap_bytes && cap <= 4 << 20, "cap {cap}, was {}", before.cap_bytes);

    let said = node.log()?;
    ensure!(apply(lab, &node, "version = 2\n[log]\nlevel = \"error\"\n")?.code == 0, "applied");
    ensure!(node.log()? == said, "level error, and still it says: {}", node.log()?);
    for version in [3, 4] {
        let document = format!("version = {version}\n[log]\nlevel = \"debug\"\n");
        ensure!(apply(lab, &node, &document)?.code == 0, "applied");
    }
    wait::until("it says that a document was judged", ROUND_TRIP, || {
        let log = node.log().map_err(|e| format!("{e:?}"))?;
        if log.contains("version 4") { Ok(()) } else { Err("nothing".to_owned()) }
    })?;
    node.stop()?;
    Ok(())
}

fn metric(node: &Node) -> Result<api::QueueClass> {
    Ok(class(&node.queue()?, "metric")?.clone())
}

fn origins(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_LOG__LEVEL", "warn");
    node.start()?;
    let config = node.config()?;
    let level = setting(&config, "log.level")?;
    ensure!(level.value == "warn" && level.origin.contains("PURLIN_LOG__LEVEL"), "{level:?}");
    let interval = setting(&config, "sampling.interval_s_by_sampler.cpu")?;
    ensure!(interval.value == "10" && interval.origin == "default", "{interval:?}");
    node.stop()?;
    Ok(())
}

fn remote_good(lab: &Lab) -> Result {
    let (broker, mut node, topics) = connected(lab)?;
    let desired = Desired {
        version: 21,
        sampling: Some(Sampling { interval_s: Some(4), ..Sampling::default() }),
        log: Some(Log { level: Some("trace".into()) }),
        ..Desired::default()
    };
    let verdict = offer(&broker, &topics, &desired.encode_to_vec())?;
    ensure!(verdict.accepted && verdict.origin() == Origin::Uplink, "{verdict:?}");
    let reported = reported(&broker, &topics)?;
    ensure!(reported.node == "node" && !reported.agent_version.is_empty(), "{reported:?}");
    ensure!(reported.active.is_some_and(|a| a.version == 21), "in force");
    let config = node.config()?;
    ensure!(setting(&config, "sampling.interval_s_by_sampler.disk")?.value == "4", "{config:?}");
    ensure!(setting(&config, "log.level")?.value == "trace", "{config:?}");

    // The retained document comes again at every connection: it is known by now.
    node.stop()?;
    let ledgers = trial::ledgers(&node)?;
    node.start()?;
    wait::until("the link", ROUND_TRIP, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if link.state == api::LinkState::Up { Ok(()) } else { Err(format!("{link:?}")) }
    })?;
    let active = node.config()?.active.ok_or("nothing in force")?;
    ensure!((active.generation, active.version) == (1, 21), "{active:?}");
    ensure!(trial::ledgers(&node)? == ledgers, "and nothing was written");
    node.stop()?;
    Ok(())
}

fn moves(lab: &Lab) -> Result {
    let (_broker, mut node, topics) = connected(lab)?;
    let other = Broker::start(lab)?;
    let document = format!("[uplink]\nendpoint = \"{}\"\n", other.endpoint());
    ensure!(apply(lab, &node, &document)?.code == 0, "applied");
    reported(&other, &topics)?;
    let link = node.link()?;
    ensure!(link.endpoint == Some(other.endpoint()), "{link:?}");
    node.stop()?;
    Ok(())
}

fn remote_bad(lab: &Lab) -> Result {
    let (broker, mut node, topics) = connected(lab)?;
    let several = Desired {
        version: 3,
        least_agent: "99.0.0".into(),
        sampling: Some(Sampling { interval_s: Some(0), ..Sampling::default() }),
        ..Desired::default()
    };
    let mut unknown_field = Desired { version: 4, ..Desired::default() }.encode_to_vec();
    // Field 2000, a varint 1: what a later agent may know.
    unknown_field.extend([0x80, 0x7d, 1]);
    let too_large = Desired { least_agent: "a".repeat(300 << 10), ..Desired::default() };
    let elsewhere = Desired { node: "elsewhere".into(), ..Desired::default() };
    for (what, document, reasons) in [
        ("several bad values", several.encode_to_vec(), 2),
        ("an unknown field", unknown_field, 1),
        ("not protobuf", vec![0xff; 32], 1),
        ("too large", too_large.encode_to_vec(), 1),
        ("another node's", elsewhere.encode_to_vec(), 1),
    ] {
        let verdict = offer(&broker, &topics, &document).map_err(|e| format!("{what}: {e:?}"))?;
        ensure!(!verdict.accepted, "{what}: {verdict:?}");
        ensure!(verdict.refusals.len() >= reasons, "{what}: {verdict:?}");
    }
    ensure!(reported(&broker, &topics)?.active.is_none(), "nothing was applied");
    ensure!(node.config()?.active.is_none(), "nothing was applied");
    node.stop()?;
    Ok(())
}

/// An empty retained message takes the document back from the broker and not
/// from the node: the cloud is an optional input.
fn remote_wiped(lab: &Lab) -> Result {
    let (broker, mut node, topics) = connected(lab)?;
    let verdict =
        offer(&broker, &topics, &Desired { version: 5, ..Desired::default() }.encode_to_vec())?;
    ensure!(verdict.accepted, "{verdict:?}");
    broker.retain(&topics.desired(), &[])?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(node.config()?.active.is_some_and(|a| a.version == 5), "still in force");
    ensure!(node.cli(&["status"])?.code == 0, "and no fault");
    node.stop()?;
    Ok(())
}

/// A node that is connected to a broker and has reported.
fn connected(lab: &Lab) -> Result<(Broker, Node, Topics)> {
    let broker = Broker::start(lab)?;
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
    node.set("PURLIN_TEST__CONFIRM_AFTER_MS", "300");
    node.start()?;
    let topics = Topics::new("lab", "node");
    reported(&broker, &topics)?;
    Ok((broker, node, topics))
}

/// Publishes a document, and waits for what becomes of it in the end.
fn offer(broker: &Broker, topics: &Topics, document: &[u8]) -> Result<Verdict> {
    let before = reported(broker, topics)?.last;
    broker.retain(&topics.desired(), document)?;
    wait::until("a new verdict", ROUND_TRIP, || {
        let reported = reported(broker, topics).map_err(|e| format!("{e:?}"))?;
        let last = reported.last.unwrap_or_default();
        let open = matches!(last.outcome(), Outcome::Trial | Outcome::Waiting);
        match open || before.as_ref() == Some(&last) || last == Verdict::default() {
            true => Err(format!("{last:?}")),
            false => Ok(last),
        }
    })
}

fn reported(broker: &Broker, topics: &Topics) -> Result<Reported> {
    wait::until("reported", ROUND_TRIP, || {
        let payload = broker.retained(&topics.reported()).map_err(|e| format!("{e:?}"))?;
        Reported::decode(payload.ok_or("nothing")?.as_slice()).map_err(|e| e.to_string())
    })
}

fn apply(lab: &Lab, node: &Node, document: &str) -> Result<Answer> {
    let path = lab.file("desired.toml", document)?.display().to_string();
    node.cli(&["config", "apply", &path, "-o", "json"])
}

/// The reasons in a refusal, wherever the answer carries them.
fn refusals(answer: &Answer) -> std::result::Result<Vec<api::Refusal>, String> {
    let body: Value = serde_json::from_str(&answer.stdout)
        .or_else(|_| serde_json::from_str(&answer.stderr))
        .map_err(|e| format!("{e} in {answer:?}"))?;
    serde_json::from_value(body["refusals"].clone()).map_err(|e| format!("{e} in {body}"))
}
