//! What the spool and the uplink cost beside the plainest way to do the same: appending
//! against write and fdatasync, publishing against `mosquitto_pub -l`; and what has no
//! peer: bytes on the device, opening 1 GB after a kill, draining.
//!
//! `./tests/run bench spool` prints the table that docs/benchmarks.md keeps. Those who
//! are compared take turns, and a figure is the median of the turns.

#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    env,
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use prost::{Message as _, bytes::Bytes};
use purlin_core::{
    identity::{Class, Incarnation},
    retention::WhenFull,
};
use purlin_daemon::{
    door::Identity,
    mqtt::{Answer, Message, Session},
    spool::{Keys, Limits, log::Log},
    wire,
};
use purlin_proto::v1::{Record, Sample, record::Body};
use purlin_tests::{Broker, Lab, Result, disk::Disk, ensure, lab};

/// Records in a commit: 61 KB, what a commit window fills at most.
const IN_COMMIT: u64 = 100;
/// Turns of those who are compared.
const TURNS: usize = 15;
/// Commits in a turn.
const COMMITS: u64 = 40;
/// The log that is opened and drained.
const LARGE: u64 = 1 << 30;
/// Messages in a turn of publishing, and bytes of each.
const MESSAGES: usize = 10_000;
const MESSAGE_BYTES: usize = 300;
/// Messages on their way at once, of both.
const IN_FLIGHT: usize = 32;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if arguments.iter().any(|it| it == "--list") {
        return ExitCode::SUCCESS;
    }
    if let [_, command, dir] = &arguments[..]
        && command == "open"
    {
        return told(open_large(Path::new(dir)));
    }
    told(lab::in_a_lab(measure))
}

fn told(result: Result) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("spool: {}", failed.message().unwrap_or("failed"));
            ExitCode::FAILURE
        }
    }
}

fn measure(lab: &Lab) -> Result {
    println!("| what | measured | aim |");
    println!("| --- | --- | --- |");
    append(lab)?;
    sealed(lab)?;
    large(lab)?;
    publish(lab)
}

fn open(dir: &Path) -> Result<Log> {
    open_with(dir, &Keys::default())
}

fn open_with(dir: &Path, keys: &Keys) -> Result<Log> {
    let mut log = Log::open_with(dir, Class::Metric, Incarnation(7), keys.clone())?;
    let window = Duration::from_secs(60);
    log.limit(Limits { cap: 4 << 30, window, when_full: WhenFull::DropOldest, ttl: None });
    Ok(log)
}

/// A sample of 70 values that waver: some 600 bytes.
fn record(n: u64) -> Vec<u8> {
    let wavers = |k: u64| (n * 70 + k).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57;
    let gauges = (0..70).map(|k| (400 + k * 7 + wavers(k)) as f64 / 10.0).collect();
    let sample = Sample { dictionary: 77, gauges, counters: Vec::new(), span_s: 0 };
    let (unix_ms, body) = (1_790_000_000_000 + n * 1000, Some(Body::Sample(sample)));
    Record { unix_ms, boot_ms: n * 1000, boot: 1, clock_untrusted: false, body }.encode_to_vec()
}

fn append(lab: &Lab) -> Result {
    let disk = Disk::make(lab, "disk", "ext4", 512)?;
    let mut log = open(&disk.path().join("metric"))?;
    let mut raw = File::create(disk.path().join("raw"))?;
    let records: Vec<_> = (0..IN_COMMIT).map(record).collect();
    let payload: u64 = records.iter().map(|it| it.len() as u64).sum();
    let plain: Vec<u8> = records.concat();
    let (mut ratios, mut per_payload) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let before = device_bytes(&disk)?;
        let ours = time(|| {
            for _ in 0..COMMITS {
                for record in &records {
                    ensure!(log.append(record, Instant::now()).is_ok(), "a record");
                }
                log.commit(Instant::now())?;
            }
            Ok(())
        })?;
        log.acknowledge(log.durable());
        log.save_cursor()?;
        per_payload.push((device_bytes(&disk)? - before) as f64 / (payload * COMMITS) as f64);
        let theirs = time(|| {
            for _ in 0..COMMITS {
                raw.write_all(&plain)?;
                raw.sync_data()?;
            }
            Ok(())
        })?;
        raw.set_len(0)?;
        raw = File::create(disk.path().join("raw"))?;
        ratios.push(theirs.as_secs_f64() / ours.as_secs_f64());
    }
    println!(
        "| durable append : write + fdatasync of the same bytes | {:.2} | ≥ 0.9 |",
        median(&mut ratios)
    );
    println!(
        "| device bytes ÷ payload, filled and drained | {:.2} | ≤ 1.5 |",
        median(&mut per_payload)
    );
    Ok(())
}

/// The same appending, sealed and plain; in memory, where nothing hides its cost.
fn sealed(lab: &Lab) -> Result {
    let shm = memory(lab)?;
    let records: Vec<_> = (0..IN_COMMIT).map(record).collect();
    let (mut ratios, mut micros) = (Vec::new(), Vec::new());
    let keys = Keys::of(&[[7; 32]]);
    let mut logs = [("plain", Keys::default()), ("sealed", keys)]
        .map(|(name, keys)| open_with(&shm.path().join(name), &keys));
    for _ in 0..TURNS {
        let mut took = [0.0; 2];
        for (log, took) in logs.iter_mut().zip(&mut took) {
            let log = log.as_mut().map_err(|_| "a log")?;
            let spent = time(|| {
                for _ in 0..COMMITS {
                    for record in &records {
                        ensure!(log.append(record, Instant::now()).is_ok(), "a record");
                    }
                    log.commit(Instant::now())?;
                }
                Ok(())
            })?;
            *took = spent.as_secs_f64();
            log.acknowledge(log.durable());
        }
        ratios.push(took[1] / took[0]);
        micros.push((took[1] - took[0]) * 1e6 / (COMMITS * IN_COMMIT) as f64);
    }
    println!(
        "| appending sealed : plain, in memory, and a record's part of it | {:.2}, {:.2} µs | |",
        median(&mut ratios),
        median(&mut micros)
    );
    Ok(())
}

/// A directory in memory, where there is one.
fn memory(lab: &Lab) -> Result<tempfile::TempDir> {
    let shm = Path::new("/dev/shm");
    Ok(tempfile::tempdir_in(if shm.is_dir() { shm } else { lab.dir() })?)
}

/// Bytes that the loop device was given, everything flushed.
fn device_bytes(disk: &Disk) -> Result<u64> {
    nix::unistd::sync();
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = disk.path().display().to_string();
    let device = mounts
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(_, rest)| rest.split(' ').next() == Some(&mount))
        .ok_or("the disk is not mounted")?;
    let name = device.0.rsplit('/').next().ok_or("no device")?;
    let stat = fs::read_to_string(format!("/sys/block/{name}/stat"))?;
    // Sectors written, of 512 bytes (Documentation/block/stat.rst).
    let sectors = stat.split_whitespace().nth(6).ok_or("no such field")?;
    Ok(sectors.parse::<u64>()? * 512)
}

fn large(lab: &Lab) -> Result {
    // In memory: it is not the disk that is measured.
    let shm = memory(lab)?;
    let dir = shm.path().join("metric");
    let mut log = open(&dir)?;
    let mut n = 0;
    while log.bytes() < LARGE {
        for _ in 0..IN_COMMIT {
            ensure!(log.append(&record(n), Instant::now()).is_ok(), "a record");
            n += 1;
        }
        log.commit(Instant::now())?;
    }
    // Neither closed nor its cursor written.
    drop(log);
    let own = env::current_exe()?;
    let (mut took, mut rss) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let output = Command::new(&own).arg("open").arg(&dir).output()?;
        let text = String::from_utf8(output.stdout)?;
        let numbers = text.trim().split_once(' ').ok_or("the child says nothing")?;
        took.push(numbers.0.parse::<f64>()?);
        rss.push(numbers.1.parse::<f64>()?);
    }
    println!("| opens 1 GB unclean | {:.0} ms | ≤ 100 ms |", median(&mut took));
    println!("| the opening process's RSS | {:.1} MiB | ≤ 16 MiB |", median(&mut rss));

    let mut log = open(&dir)?;
    let identity = Identity { fleet: "f".into(), node: "n".into(), incarnation: Incarnation(7) };
    let mut from = 1;
    let took = time(|| {
        while let Some(frame) = log.read(from, 128 << 10)? {
            from = frame.last_seq + 1;
            let batch = wire::encode(frame, Class::Metric, &identity, true);
            std::hint::black_box(wire::pack(&batch));
            log.acknowledge(from - 1);
        }
        Ok(())
    })?;
    let rate = n as f64 / took.as_secs_f64();
    println!("| drains, read, encoded and packed | {:.0} k records/s | ≥ 100 k |", rate / 1000.0);
    let left = log.figures();
    println!("| segments left after the drain | {} | ≤ 1 |", left.segments);
    Ok(())
}

/// A child's part: opens the log and tells how long that took, and its RSS.
fn open_large(dir: &Path) -> Result {
    let mut log = None;
    let took = time(|| {
        log = Some(open(dir)?);
        Ok(())
    })?;
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    println!("{} {}", took.as_secs_f64() * 1000.0, kib / 1024.0);
    Ok(())
}

fn publish(lab: &Lab) -> Result {
    let broker = Broker::start_with(lab, &format!("max_inflight_messages {IN_FLIGHT}"))?;
    let line = "x".repeat(MESSAGE_BYTES);
    let lines = format!("{line}\n").repeat(MESSAGES);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut ratios = Vec::new();
    for _ in 0..TURNS {
        let ours = time(|| runtime.block_on(published(&broker, &line)))?;
        let theirs = time(|| {
            let mut command = Command::new("timeout");
            command.args(["60", "mosquitto_pub", "-V", "5", "-q", "1", "-h", "127.0.0.1", "-l"]);
            command.args(["-p", &broker.port().to_string(), "-t", "bench"]);
            let mut child = command.stdin(Stdio::piped()).spawn()?;
            child.stdin.take().ok_or("no input")?.write_all(lines.as_bytes())?;
            ensure!(child.wait()?.success(), "mosquitto_pub failed");
            Ok(())
        })?;
        ratios.push(theirs.as_secs_f64() / ours.as_secs_f64());
    }
    println!(
        "| publishing 300 B at QoS 1 : mosquitto_pub -l | {:.2} | ≥ 1.0 |",
        median(&mut ratios)
    );
    Ok(())
}

async fn published(broker: &Broker, line: &str) -> Result {
    let mut session = broker.session("bench").await?;
    let payload = Bytes::copy_from_slice(line.as_bytes());
    let mut answers = VecDeque::new();
    for _ in 0..MESSAGES {
        if answers.len() == IN_FLIGHT {
            check(answers.pop_front()).await?;
        }
        let message =
            Message { topic: "bench".into(), payload: payload.clone(), retain: false, reply: None };
        answers.push_back(session.publish(message).await?);
    }
    while let Some(answer) = answers.pop_front() {
        check(Some(answer)).await?;
    }
    session.disconnect().await;
    Ok(())
}

async fn check(answer: Option<purlin_daemon::mqtt::PendingAnswer>) -> Result {
    match answer {
        Some(answer) => match answer.await {
            Answer::Taken { .. } => Ok(()),
            other => Err(format!("{other:?}").into()),
        },
        None => Ok(()),
    }
}

fn time(work: impl FnOnce() -> Result) -> Result<Duration> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed())
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
