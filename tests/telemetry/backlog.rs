//! A node that was cut off for long: it starts without reading what waits, gives the disk
//! back as it drains, and sends nothing again that it had sent.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use prost::Message;
use purlin_core::{
    identity::{Class, Incarnation},
    retention::WhenFull,
};
use purlin_daemon::spool::{Limits, log::Log};
use purlin_proto::{
    api::QueueClass,
    v1::{Record, Sample, record::Body},
};
use purlin_tests::{Broker, Lab, Need, Node, Result, ensure, lab::Test, node::class, test, wait};

/// What waits: far over what a start may read.
const BACKLOG: u64 = 24 << 20;
/// What a start may read, its own file, the kernel's and the last segment included.
const MOST_READ: u64 = 8 << 20;
/// What is left on disk after a drain: the segment that is written, and the next.
const MOST_LEFT: u64 = 4 << 20;
const VALUES: usize = 2000;
/// After it the cursor is on disk.
const CURSOR_SAVED: Duration = Duration::from_secs(6);
const DRAIN: Duration = Duration::from_secs(90);

pub fn tests() -> Vec<Test> {
    vec![
        test(
            "a_backlog_is_not_read_at_the_start_nor_sent_twice_and_gives_its_disk_back",
            180,
            drain,
        )
        .needs(&[Need::Program("mosquitto")]),
    ]
}

fn drain(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    let queue = node.queue()?;
    node.stop()?;
    let incarnation = Incarnation(u64::from_str_radix(&queue.incarnation, 16)?);
    let dir = node.state_dir().join("spool/metric");
    let last = fill(&dir, incarnation)?;
    ensure!(size(&dir)? >= BACKLOG, "{} bytes", size(&dir)?);

    node.start()?;
    let read = read_by(node.pid()?)?;
    ensure!(read < MOST_READ, "{read} bytes were read for a start over {BACKLOG}");
    ensure!(metric(&node)?.durable_seq >= last, "{:?}", metric(&node)?);
    node.stop()?;

    let broker = Broker::start(lab)?;
    node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
    node.start()?;
    wait::until("the backlog is acknowledged", DRAIN, || {
        let metric = metric(&node).map_err(|e| format!("{e:?}"))?;
        if metric.acked_seq >= last { Ok(()) } else { Err(format!("{metric:?}")) }
    })?;
    wait::until("the disk is given back", Duration::from_secs(10), || {
        let left = size(&dir).map_err(|e| format!("{e:?}"))?;
        if left <= MOST_LEFT { Ok(()) } else { Err(format!("{left} bytes are left")) }
    })?;
    sleep(CURSOR_SAVED);
    node.kill()?;
    node.start()?;
    wait::until("something is acknowledged", DRAIN, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if link.acked_records > 0 { Ok(()) } else { Err(format!("{link:?}")) }
    })?;
    // Whatever is sent again comes at once.
    sleep(Duration::from_secs(2));
    let again = node.link()?.acked_records;
    ensure!(again < last / 4, "{again} of {last} were sent again");
    println!("{read} bytes read at the start, {} left, {again} sent after a kill", size(&dir)?);
    node.stop()?;
    Ok(())
}

/// Fills a log as an agent would have; its last number.
fn fill(dir: &Path, incarnation: Incarnation) -> Result<u64> {
    let mut log = Log::open(dir, Class::Metric, incarnation)?;
    log.limit(Limits {
        cap: 4 * BACKLOG,
        window: Duration::from_secs(60),
        when_full: WhenFull::DropOldest,
        ttl: None,
    });
    let (mut written, mut n) = (0, 0_u64);
    while written < BACKLOG {
        let gauges = (0..VALUES).map(|series| (n % 60 + series as u64) as f64).collect();
        let sample = Sample { dictionary: 1, gauges, ..Sample::default() };
        let body = Some(Body::Sample(sample));
        let record = Record {
            unix_ms: 1_800_000_000_000 + n,
            boot_ms: n,
            boot: 1,
            body,
            ..Record::default()
        };
        let record = record.encode_to_vec();
        log.append(&record, Instant::now()).map_err(|why| why.to_string())?;
        (written, n) = (written + record.len() as u64, n + 1);
        if n % 64 == 0 {
            log.commit(Instant::now())?;
        }
    }
    log.commit(Instant::now())?;
    Ok(log.durable())
}

fn metric(node: &Node) -> Result<QueueClass> {
    Ok(class(&node.queue()?, "metric")?.clone())
}

/// Bytes that a directory's files take.
fn size(dir: &Path) -> Result<u64> {
    let files = fs::read_dir(dir)?.map(|entry| Ok::<_, std::io::Error>(entry?.metadata()?.len()));
    Ok(files.sum::<std::result::Result<u64, _>>()?)
}

/// Bytes that a process has read since it began (proc(5), `rchar`).
fn read_by(pid: u32) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    Ok(read.ok_or("no rchar")?.parse()?)
}
