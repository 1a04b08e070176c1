//! What the agent costs a node: its file, its memory and CPU with its helper while
//! nothing happens but sampling, and how soon it is ready.
//!
//! `./tests/run bench footprint` builds what packages ship and prints the table that
//! docs/footprint.md keeps.

#![forbid(unsafe_code)]

use std::{
    env, fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use purlin_tests::{Broker, Lab, Node, Result, lab, node, process::cpu_time};

/// Starts of which the median is shown, each on a new state directory.
const STARTS: usize = 21;
/// What the agent does once (first samples, connecting) is not what it costs.
const WARM_UP: Duration = Duration::from_secs(20);
/// Six samples at the default interval.
const MEASURED: Duration = Duration::from_secs(60);
/// Longest wait for one start.
const START: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    // cargo passes --bench; the rest would be a filter.
    if env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    match lab::in_a_lab(footprint) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("footprint: {}", failed.message().unwrap_or("failed"));
            ExitCode::FAILURE
        }
    }
}

fn footprint(lab: &Lab) -> Result {
    let size = fs::metadata(node::binary()?)?.len();
    let mut starts = (0..STARTS).map(|i| ready(lab, i)).collect::<Result<Vec<_>>>()?;
    starts.sort();
    let idle = [10, 1].map(|interval| cost(lab, interval).map(|cost| (interval, cost)));

    println!("| what | |");
    println!("| --- | --- |");
    println!("| binary, `dist`, without the embedded broker | {:.1} MB |", size as f64 / 1e6);
    println!(
        "| start to ready, median of {STARTS} (fastest, slowest) | {} ms ({}, {}) |",
        starts[STARTS / 2].as_millis(),
        starts[0].as_millis(),
        starts[STARTS - 1].as_millis()
    );
    for cost in idle {
        let (interval, cost) = cost?;
        println!(
            "| sampling every {interval} s, agent + helper | RSS {} + {} MiB, PSS {} MiB, \
             {:.3} % of a core |",
            cost.agent.rss,
            cost.helper.rss,
            cost.pss(),
            cost.cpu * 100.0
        );
    }
    Ok(())
}

/// From exec to READY=1.
fn ready(lab: &Lab, i: usize) -> Result<Duration> {
    let path = lab.dir().join(format!("notify-{i}"));
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(START))?;
    let mut node = Node::new(lab, &format!("start-{i}"))?;
    node.set("NOTIFY_SOCKET", &path);
    let began = Instant::now();
    node.launch()?;
    let mut buffer = [0; 4096];
    loop {
        let length = manager.recv(&mut buffer)?;
        if buffer[..length].split(|&b| b == b'\n').any(|line| line == b"READY=1") {
            break;
        }
    }
    let took = began.elapsed();
    node.stop()?;
    Ok(took)
}

struct Cost {
    agent: Memory,
    helper: Memory,
    /// Share of one core, both together.
    cpu: f64,
}

impl Cost {
    fn pss(&self) -> Mebibytes {
        Mebibytes(self.agent.pss.0 + self.helper.pss.0)
    }
}

/// Connected to a broker, as in the field.
fn cost(lab: &Lab, interval: u32) -> Result<Cost> {
    let broker = Broker::start(lab)?;
    let mut node = Node::new(lab, &format!("idle-{interval}"))?;
    node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
    node.start()?;
    let document = format!("[sampling]\ninterval_s = {interval}\n");
    let file = lab.file("desired.toml", document)?.display().to_string();
    let applied = node.cli(&["config", "apply", &file])?;
    purlin_tests::ensure!(applied.code == 0, "{applied:?}");

    sleep(WARM_UP);
    let pids = [node.pid()?, node.status()?.helper.pid.ok_or("no helper")?];
    let before = (cpu_time(&pids)?, Instant::now());
    sleep(MEASURED);
    let cpu = (cpu_time(&pids)? - before.0).as_secs_f64() / before.1.elapsed().as_secs_f64();
    let cost = Cost { agent: memory(pids[0])?, helper: memory(pids[1])?, cpu };
    node.stop()?;
    Ok(cost)
}

struct Memory {
    rss: Mebibytes,
    pss: Mebibytes,
}

struct Mebibytes(f64);

impl std::fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1}", self.0)
    }
}

/// Resident memory, and the same with shared pages divided among those who share them.
fn memory(pid: u32) -> Result<Memory> {
    let path = Path::new("/proc").join(pid.to_string()).join("smaps_rollup");
    let text = fs::read_to_string(path)?;
    let field = |name: &str| -> Result<Mebibytes> {
        let line = text.lines().find(|line| line.starts_with(name)).ok_or("no such field")?;
        let kib: f64 = line.split_whitespace().nth(1).unwrap_or_default().parse()?;
        Ok(Mebibytes(kib / 1024.0))
    };
    Ok(Memory { rss: field("Rss:")?, pss: field("Pss:")? })
}
