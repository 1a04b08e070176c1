//! What is measured reaches the core, whatever the broker does (absent, refusing,
//! hanging, cutting connections, denying a topic), whatever the disk does ([`disk`],
//! [`power`]), whatever the network does ([`netns`]), behind TLS and a proxy ([`secure`]),
//! through a peer ([`relay`]), in a form that others read ([`decoder`], [`sparkplug`]), by
//! hand ([`carry`]), also what workloads hand in ([`intake`]), what of it is seen on the node
//! ([`local`]), and what is handed on on site ([`export`]).

#![forbid(unsafe_code)]

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
    thread::sleep,
    time::Duration,
};

mod alarm;
mod backlog;
mod carry;
mod clock;
mod collect;
mod decoder;
mod disk;
mod export;
mod intake;
mod local;
mod netns;
mod power;
mod receiver;
mod relay;
mod secure;
mod sparkplug;
mod tunnel;

use prost::Message;
use purlin_proto::{
    api::{Link, LinkState, QueueClass},
    v1::{Batch, Cause, Class, Gap, Numbered, Record},
};
use purlin_tests::{
    Behaviour, Broker, Lab, Need, Node, Proxy, Result, ensure, lab::Test, node::class, proxy::Log,
    test, wait,
};

/// Time for a bad broker to do its worst.
const WORST: Duration = Duration::from_secs(4);
/// Time for everything to arrive once the broker is well: the longest backoff.
const RECOVERY: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    let needs = [Need::Program("mosquitto")];
    let tests = [
        test("an_absent_broker_loses_no_record", 180, absent),
        test("a_refusing_broker_loses_no_record", 180, |lab| bad_broker(lab, Behaviour::Refuse)),
        test("a_hanging_broker_loses_no_record", 180, |lab| bad_broker(lab, Behaviour::Hang)),
        test("a_connection_cut_mid_publish_loses_no_record", 180, |lab| {
            bad_broker(lab, Behaviour::Cut)
        }),
        test("a_broker_that_turns_bad_later_loses_no_record", 180, turns_bad),
        test("a_denied_publish_is_not_taken_for_success", 180, denied),
        test("each_reason_code_holds_or_leaves_out_or_warns", 180, reasons),
        test("without_an_endpoint_it_spools", 60, spools),
        test("an_alarm_reaches_everybody_once_and_outlives_a_restart", 180, alarm::whole),
        test("the_observer_counts_what_another_client_sends", 60, observer)
            .needs(&[Need::Program("mosquitto_pub")]),
    ];
    let mut all: Vec<Test> = tests.into_iter().map(|test| test.needs(&needs)).collect();
    all.extend(backlog::tests());
    all.extend(carry::tests());
    all.extend(clock::tests());
    all.extend(collect::tests());
    all.extend(decoder::tests());
    all.extend(disk::tests());
    all.extend(export::tests());
    all.extend(intake::tests());
    all.extend(local::tests());
    all.extend(netns::tests());
    all.extend(power::tests());
    all.extend(relay::tests());
    all.extend(tunnel::tests());
    all.extend(secure::tests());
    all.extend(sparkplug::tests());
    purlin_tests::run(all)
}

fn absent(lab: &Lab) -> Result {
    let mut broker = Broker::absent(lab, "")?;
    let proxy = Proxy::start(broker.port())?;
    let mut node = fast_node(lab, &proxy)?;
    node.start()?;
    sleep(WORST);
    let link = node.link()?;
    ensure!(link.state != LinkState::Up && link.attempts > 0, "{link:?}");
    ensure!(link.last_error.is_some(), "says why: {link:?}");
    broker.restart()?;
    everything_arrives(&mut node, &proxy)
}

fn bad_broker(lab: &Lab, behaviour: Behaviour) -> Result {
    let broker = Broker::start(lab)?;
    let proxy = Proxy::start(broker.port())?;
    proxy.behave(behaviour);
    let mut node = fast_node(lab, &proxy)?;
    node.start()?;
    sleep(WORST);
    let metric = metric(&node)?;
    ensure!(metric.acked_seq == 0, "acknowledged by nobody: {metric:?}");
    proxy.behave(Behaviour::Forward);
    everything_arrives(&mut node, &proxy)
}

fn turns_bad(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let proxy = Proxy::start(broker.port())?;
    let mut node = fast_node(lab, &proxy)?;
    node.start()?;
    wait_for_link(&node, |link| link.acked_records > 0)?;
    for behaviour in [Behaviour::Cut, Behaviour::Hang, Behaviour::Refuse] {
        proxy.behave(behaviour);
        sleep(WORST / 2);
        ensure!(node.cli(&["status"])?.took < Duration::from_secs(1), "{behaviour:?}: slow status");
        proxy.behave(Behaviour::Forward);
        sleep(WORST / 2);
    }
    everything_arrives(&mut node, &proxy)
}

/// MQTT 5 brokers acknowledge a publish that they deny, with a reason.
fn denied(lab: &Lab) -> Result {
    let acl = lab.file("acl", "topic read #\n")?;
    let mut broker = Broker::start_with(lab, &format!("acl_file {}", acl.display()))?;
    let proxy = Proxy::start(broker.port())?;
    let mut node = fast_node(lab, &proxy)?;
    node.start()?;
    let link = wait_for_link(&node, |link| link.refused > 0)?;
    ensure!(link.acked_records == 0, "{link:?}");
    ensure!(metric(&node)?.acked_seq == 0, "the cursor stands");
    fs::write(&acl, "topic readwrite #\n")?;
    broker.restart()?;
    everything_arrives(&mut node, &proxy)
}

/// What each code of a PUBACK becomes, by an agent on a real line.
fn reasons(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let proxy = Proxy::start(broker.port())?;
    let mut node = fast_node(lab, &proxy)?;
    node.start()?;
    wait_for_link(&node, |link| link.acked_records > 0)?;
    let quick = lab.file("quick.toml", "version = 1\n[spool]\ncommit_window_s = 1\n")?;
    let applied = node.cli_for(60, &["config", "apply", &quick.display().to_string()])?;
    ensure!(applied.code == 0, "{applied:?}");
    // Held: the cursor stands, and the link says why and what to do.
    let held = [
        (0x80, "UnspecifiedError (0x80)"),
        (0x83, "ImplementationSpecificError (0x83)"),
        (0x87, "access rules"),
        (0x90, "TopicNameInvalid (0x90)"),
        (0x91, "PacketIdentifierInUse (0x91)"),
        (0x95, "too large"),
        (0x97, "quota"),
    ];
    for (code, says) in held {
        let before = metric(&node)?;
        proxy.behave(Behaviour::Answer(code));
        wait_for_link(&node, |it| it.last_error.as_ref().is_some_and(|it| it.contains(says)))
            .map_err(|e| format!("0x{code:02x}: {e:?}"))?;
        let after = metric(&node)?;
        // What was on its way when the answers changed may have been taken still.
        ensure!(after.acked_seq < after.durable_seq, "0x{code:02x}: {before:?}, then {after:?}");
        ensure!(after.refused == 0, "0x{code:02x} leaves nothing out: {after:?}");
        let acked = after.acked_seq;
        proxy.behave(Behaviour::Forward);
        wait::until("it goes on", RECOVERY, || {
            let metric = metric(&node).map_err(|e| format!("{e:?}"))?;
            if metric.acked_seq > acked { Ok(()) } else { Err(format!("{metric:?}")) }
        })?;
    }
    // Taken, and told: nobody heard it.
    let unheard = node.link()?.unheard;
    proxy.behave(Behaviour::Answer(0x10));
    wait_for_link(&node, |link| link.unheard > unheard)?;
    ensure!(node.log()?.contains("nobody who reads this"), "a warning");
    // Left out, and a gap.
    proxy.behave(Behaviour::Answer(0x99));
    let refused = wait::until("some are left out", RECOVERY, || {
        let metric = metric(&node).map_err(|e| format!("{e:?}"))?;
        if metric.refused > 0 { Ok(metric) } else { Err(format!("{metric:?}")) }
    })?;
    proxy.behave(Behaviour::Forward);
    wait::until("the core is told", RECOVERY, || {
        let told = |it: &&(Log, Gap)| it.1.cause() == Cause::Refused;
        match proxy.observed().gaps.iter().find(told) {
            Some(_) => Ok(()),
            None => Err(format!("{refused:?}")),
        }
    })
}

fn spools(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_TEST__CPU_INTERVAL_MS", "10");
    node.start()?;
    let link = node.link()?;
    ensure!(link.state == LinkState::Unconfigured, "{link:?}");
    wait::until("records pile up", Duration::from_secs(20), || {
        let metric = metric(&node).map_err(|e| format!("{e:?}"))?;
        if metric.pending >= 100 { Ok(()) } else { Err(format!("{metric:?}")) }
    })?;
    let metric = metric(&node)?;
    let commits = metric.commits;
    ensure!(commits <= 2, "{commits} syncs for {} records: the flash wears", metric.last_seq);
    node.stop()?;
    Ok(())
}

/// The observer itself, against a client that shares no code with the agent.
fn observer(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let proxy = Proxy::start(broker.port())?;
    let batch = |first_seq, second: Record| Batch {
        node: "node".into(),
        incarnation: 5,
        class: Class::Metric.into(),
        first_seq,
        last_seq: first_seq + 1,
        records: [(0, Record::default()), (1, second)]
            .map(|(offset, record)| Numbered { offset, record: Some(record) })
            .into(),
        ..Batch::default()
    };
    let later = Record { unix_ms: 1, ..Record::default() };
    for batch in [batch(1, later.clone()), batch(2, later.clone()), batch(5, later)] {
        let payload = lab.file("batch", batch.encode_to_vec())?;
        publish(&proxy, &payload)?;
    }
    wait::until("the last PUBACK", WORST, || match proxy.observed().unconfirmed(log(5), 6) {
        left if left == [4] => Ok(()),
        left => Err(format!("{left:?} unconfirmed")),
    })?;
    let observed = proxy.observed();
    ensure!(
        (observed.batches, observed.records(), observed.duplicates) == (3, 5, 1),
        "{observed:?}"
    );
    ensure!(observed.conflicts == [(log(5), 2)], "seq 2 came with other bytes: {observed:?}");
    ensure!(observed.unreadable.is_empty(), "{observed:?}");
    Ok(())
}

fn publish(proxy: &Proxy, payload: &Path) -> Result {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "10", "mosquitto_pub", "-V", "5", "-q", "1", "-h", "127.0.0.1"]);
    command.args(["-p", &proxy.port().to_string(), "-t", "purlin/v1/lab/node/metric", "-f"]);
    let status = command.arg(payload).status()?;
    ensure!(status.success(), "mosquitto_pub: {status}");
    Ok(())
}

fn log(incarnation: u64) -> Log {
    (incarnation, Class::Metric)
}

/// A node that measures its CPUs a hundred times a second.
fn fast_node(lab: &Lab, proxy: &Proxy) -> Result<Node> {
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_UPLINK__ENDPOINT", proxy.endpoint());
    node.set("PURLIN_TEST__CPU_INTERVAL_MS", "10");
    Ok(node)
}

fn metric(node: &Node) -> Result<QueueClass> {
    Ok(class(&node.queue()?, "metric")?.clone())
}

fn wait_for_link(node: &Node, ready: impl Fn(&Link) -> bool) -> Result<Link> {
    wait::until("the link", RECOVERY, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if ready(&link) { Ok(link) } else { Err(format!("{link:?}")) }
    })
}

/// Makes everything durable by a restart, and has each record of it arrive.
fn everything_arrives(node: &mut Node, proxy: &Proxy) -> Result {
    node.stop()?;
    node.unset("PURLIN_TEST__CPU_INTERVAL_MS");
    node.start()?;
    let promised = node.queue()?;
    let durable = class(&promised, "metric")?.durable_seq;
    ensure!(durable > 0, "nothing was measured: {promised:?}");
    wait::until("everything durable is acknowledged", RECOVERY, || {
        let metric = metric(node).map_err(|e| format!("{e:?}"))?;
        if metric.acked_seq >= durable { Ok(()) } else { Err(format!("{metric:?}")) }
    })?;
    node.stop()?;
    let observed = proxy.observed();
    ensure!(observed.unreadable.is_empty(), "unreadable: {:?}", observed.unreadable);
    ensure!(observed.nameless == 0, "{} samples came before their dictionary", observed.nameless);
    let log = log(u64::from_str_radix(&promised.incarnation, 16)?);
    let lost = observed.unconfirmed(log, durable);
    ensure!(lost.is_empty(), "{} of {durable} records lost, e.g. {:?}", lost.len(), lost.first());
    println!("{durable} records arrived, {} duplicates", observed.duplicates);
    Ok(())
}
