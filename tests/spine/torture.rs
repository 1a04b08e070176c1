//! Nothing acknowledged is lost: 10,000 records at 1,000 a second while the
//! broker and the agent are each killed three times.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use purlin_proto::{
    api::{Queue, QueueClass},
    v1::Class,
};
use purlin_tests::{
    Broker, Lab, Need, Node, Proxy, Random, Result, ensure, lab::Test, node::class, proxy::Log,
    test, wait,
};

/// Records that must be durable before the end.
const RECORDS: u64 = 10_000;
/// How long the sampler may take to make them, kills included.
const FILL: Duration = Duration::from_secs(60);
/// How long the last of them may take to be acknowledged.
const DRAIN: Duration = Duration::from_secs(60);

pub fn tests() -> Vec<Test> {
    let needs = [Need::Program("mosquitto")];
    vec![test("nothing_acknowledged_is_lost_over_six_kills", 240, torture).needs(&needs)]
}

/// Who is killed when that many records are durable.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Broker,
    Agent,
}

const KILLS: [(u64, Victim); 6] = [
    (1_000, Victim::Broker),
    (2_500, Victim::Agent),
    (4_000, Victim::Broker),
    (5_500, Victim::Agent),
    (7_000, Victim::Broker),
    (8_500, Victim::Agent),
];

fn torture(lab: &Lab) -> Result {
    let mut random = Random::from_environment()?;
    let mut broker = Broker::start(lab)?;
    let proxy = Proxy::start(broker.port())?;
    let mut node = Node::new(lab, "torture")?;
    node.set("PURLIN_UPLINK__ENDPOINT", proxy.endpoint());
    node.set("PURLIN_TEST__CPU_INTERVAL_MS", "1");
    node.start()?;

    let began = Instant::now();
    let mut promised = Vec::new();
    for (at, victim) in KILLS {
        wait_for_durable(&node, at + random.below(1_000))?;
        match victim {
            Victim::Broker => {
                broker.kill()?;
                sleep(Duration::from_millis(random.below(1_000)));
                broker.restart()?;
            }
            Victim::Agent => {
                promised.push(node.queue()?);
                sleep(Duration::from_millis(random.below(50)));
                node.kill()?;
                node.start()?;
            }
        }
    }
    wait_for_durable(&node, RECORDS)?;
    let filled = began.elapsed();

    // A clean stop makes everything durable; the next start drains it quietly.
    node.stop()?;
    node.unset("PURLIN_TEST__CPU_INTERVAL_MS");
    node.start()?;
    promised.push(node.queue()?);
    let last = promised.last().ok_or("nothing was promised")?;
    wait_until_acknowledged(&node, last)?;
    let took = began.elapsed();
    node.stop()?;

    check(&proxy, &promised)?;
    let observed = proxy.observed();
    let metrics = class(last, "metric")?.durable_seq;
    println!(
        "torture: {metrics} records durable in {:.1} s ({:.0}/s, kills included), all acknowledged after \
         {:.1} s; observed {} batches, {} records, {} duplicates; seed {}",
        filled.as_secs_f64(),
        metrics as f64 / filled.as_secs_f64(),
        took.as_secs_f64(),
        observed.batches,
        observed.records(),
        observed.duplicates,
        random.seed(),
    );
    Ok(())
}

fn wait_for_durable(node: &Node, records: u64) -> Result {
    wait::until(&format!("{records} durable records"), FILL, || {
        let queue = node.queue().map_err(|e| format!("{e:?}"))?;
        let metric = class(&queue, "metric").map_err(|e| format!("{e:?}"))?;
        if metric.durable_seq >= records { Ok(()) } else { Err(format!("{metric:?}")) }
    })
}

fn wait_until_acknowledged(node: &Node, promised: &Queue) -> Result {
    wait::until("everything durable is acknowledged", DRAIN, || {
        let queue = node.queue().map_err(|e| format!("{e:?}"))?;
        let behind = |promise: &&QueueClass| {
            class(&queue, &promise.class).map_or(true, |c| c.acked_seq < promise.durable_seq)
        };
        match promised.classes.iter().find(behind) {
            None => Ok(()),
            Some(promise) => Err(format!("{promise:?}, now {:?}", queue.classes)),
        }
    })
}

/// Every record that was durable before a kill, or at the end, was seen by the
/// observer and acknowledged past it.
fn check(proxy: &Proxy, promised: &[Queue]) -> Result {
    let observed = proxy.observed();
    ensure!(observed.unreadable.is_empty(), "unreadable: {:?}", observed.unreadable);
    ensure!(observed.conflicts.is_empty(), "one identity, two records: {:?}", observed.conflicts);
    for queue in promised {
        for class in &queue.classes {
            let log = log(queue, class)?;
            let lost = observed.unconfirmed(log, class.durable_seq);
            ensure!(
                lost.is_empty(),
                "{} of {} records of {log:?} were never acknowledged past the observer, the first {:?}",
                lost.len(),
                class.durable_seq,
                &lost[..lost.len().min(10)],
            );
            ensure!(class.dropped == 0 && class.corrupt == 0, "dropped or damaged: {class:?}");
        }
    }
    Ok(())
}

fn log(queue: &Queue, class: &QueueClass) -> Result<Log> {
    let incarnation = u64::from_str_radix(&queue.incarnation, 16)?;
    match class.class.as_str() {
        "metric" => Ok((incarnation, Class::Metric)),
        "event" => Ok((incarnation, Class::Event)),
        "alarm" => Ok((incarnation, Class::Alarm)),
        "log" => Ok((incarnation, Class::Log)),
        "relay" => Ok((incarnation, Class::Relay)),
        other => Err(format!("no such class: {other}").into()),
    }
}
