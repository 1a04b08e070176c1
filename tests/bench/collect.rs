//! What the core's end costs: a backlog of a hundred nodes, kept by a real broker, handed
//! on to each kind of far side. What takes it is a sink in this process, so that it is the
//! collector that is measured.
//!
//! `./tests/run bench collect` prints the table that docs/benchmarks.md keeps. There is no
//! peer that reads what nodes send; a figure is the median of the turns.

#![forbid(unsafe_code)]

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use prost::Message as _;
use purlin_core::identity::Class;
use purlin_daemon::{
    mqtt::{Answer, Message, Session},
    spool::{Frame, shelf::hash_of},
    wire::{self, Origin},
};
use purlin_proto::{
    topic::Topics,
    v1::{Dictionary, Record, Sample, Series, record::Body},
};
use purlin_tests::{
    Broker, Lab, Result, ensure, lab,
    node::binary,
    process::{Process, cpu_time},
    wait,
};
use serde_json::Value;

const NODES: u64 = 100;
/// Of each node: five minutes of 500 series at ten seconds.
const BATCHES: u64 = 4;
const SAMPLES: u64 = 30;
const SERIES: usize = 500;
const VALUES: u64 = NODES * BATCHES * SAMPLES * SERIES as u64;
const TURNS: usize = 5;
/// For a backlog to be handed on.
const SOON: Duration = Duration::from_secs(300);
const IN_FLIGHT: usize = 32;

fn main() -> ExitCode {
    if env::args().any(|it| it == "--list") {
        return ExitCode::SUCCESS;
    }
    match lab::in_a_lab(measure) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn measure(lab: &Lab) -> Result {
    let port = sink()?;
    let backlog = Backlog::make();
    let batches = || backlog.0.iter().filter(|it| !it.retain);
    let bytes: usize = batches().map(|it| it.payload.len()).sum();
    println!("| far side | values/s | µs of CPU a 1000 values | nodes of 50 values/s a core |");
    println!("| --- | --- | --- | --- |");
    for kind in ["otlp", "influx", "jsonl"] {
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for turn in 0..TURNS {
            let dir = lab.dir().join(format!("{kind}-{turn}"));
            fs::create_dir_all(&dir)?;
            let to = match kind {
                "otlp" => format!("otlp=http://127.0.0.1:{port}"),
                "influx" => format!("influx=http://127.0.0.1:{port}/api/v2/write"),
                _ => format!("jsonl={}", dir.join("out").display()),
            };
            let broker = Broker::start_with(
                lab,
                &format!("max_queued_messages 0\nmax_inflight_messages {IN_FLIGHT}"),
            )?;
            let (rate, cost) = turn_of(&broker, &dir, &to, &backlog)?;
            rates.push(rate);
            costs.push(cost);
            fs::remove_dir_all(&dir)?;
        }
        let (rate, cost) = (median(&mut rates), median(&mut costs));
        println!("| {kind} | {rate:.0} | {:.0} | {:.0} |", cost * 1e9, 1.0 / (cost * 50.0));
    }
    let count = batches().count();
    println!("\n{VALUES} values in {count} messages of {} KB", bytes / count / 1000);
    Ok(())
}

/// Values a second, and seconds of CPU a value.
fn turn_of(broker: &Broker, dir: &Path, to: &str, backlog: &Backlog) -> Result<(f64, f64)> {
    // Its session is made, and the broker keeps what comes for it.
    let process = collector(broker, dir, to)?;
    wait::until("it is connected", SOON, || {
        let log = fs::read_to_string(dir.join("log")).map_err(|it| it.to_string())?;
        if log.contains("connected") { Ok(()) } else { Err(log) }
    })?;
    process.signal(Signal::SIGTERM)?;
    process.wait(Duration::from_secs(10))?;
    fs::remove_file(dir.join("told"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(publish(broker, backlog))?;
    let began = Instant::now();
    let process = collector(broker, dir, to)?;
    let told = dir.join("told");
    let took = wait::until("all of it is handed on", SOON, || {
        let text = fs::read_to_string(&told).map_err(|it| it.to_string())?;
        let said = text.lines().rev().find_map(|it| serde_json::from_str::<Value>(it).ok());
        match said.as_ref().and_then(|it| it["values"].as_u64()) {
            Some(VALUES) => Ok(began.elapsed()),
            other => Err(format!("{other:?} of {VALUES} values")),
        }
    })?;
    let cpu = cpu_time(&[process.pid().as_raw().cast_unsigned()])?.as_secs_f64();
    process.kill()?;
    Ok((VALUES as f64 / took.as_secs_f64(), cpu / VALUES as f64))
}

fn collector(broker: &Broker, dir: &Path, to: &str) -> Result<Process> {
    let open = |name: &str| File::options().create(true).append(true).open(dir.join(name));
    let mut command = Command::new(binary()?);
    command.args(["fleet", "collect", "--name", "bench", "--every", "100ms", "-o", "json"]);
    command.args(["--broker", &broker.endpoint(), "--to", to, "--state"]).arg(dir.join("state"));
    command.stdin(Stdio::null()).stdout(open("told")?).stderr(open("log")?);
    Process::start(&mut command)
}

async fn publish(broker: &Broker, backlog: &Backlog) -> Result {
    let mut session = broker.session("bench").await?;
    for message in &backlog.0 {
        let answer = session.publish(message.clone()).await?.await;
        ensure!(matches!(answer, Answer::Taken { .. }), "{answer:?}");
    }
    session.disconnect().await;
    Ok(())
}

/// Every message that the nodes send, dictionaries first.
struct Backlog(Vec<Message>);

impl Backlog {
    fn make() -> Self {
        let series = |n: usize| Series {
            name: format!("system.some.thing{}", n / 10),
            unit: "By".into(),
            attributes: [("device".to_owned(), format!("d{}", n % 10))].into(),
        };
        let dictionary = Dictionary {
            source: "bench".into(),
            gauges: (0..SERIES * 3 / 10).map(series).collect(),
            counters: (SERIES * 3 / 10..SERIES).map(series).collect(),
        };
        let dictionary = dictionary.encode_to_vec();
        let hash = hash_of(&dictionary);
        let mut messages = Vec::new();
        for node in 0..NODES {
            let topics = Topics::new("lab", &format!("n{node}"));
            messages.push(Message {
                topic: topics.dictionary(hash),
                payload: dictionary.clone().into(),
                retain: true,
                reply: None,
            });
        }
        for batch in 0..BATCHES {
            for node in 0..NODES {
                let origin = Origin {
                    node: format!("n{node}"),
                    incarnation: 9,
                    class: wire::class_to_wire(Class::Metric),
                };
                let first_seq = batch * SAMPLES + 1;
                let seqs = first_seq..first_seq + SAMPLES;
                let records =
                    seqs.map(|seq| (seq, sample(seq, node, hash).encode_to_vec())).collect();
                let last_seq = first_seq + SAMPLES - 1;
                let frame = Frame { first_seq, last_seq, records, gaps: Vec::new() };
                messages.push(Message {
                    topic: Topics::new("lab", &format!("n{node}")).class("metric"),
                    payload: wire::pack(&wire::encode_of(frame, origin, false)),
                    retain: false,
                    reply: None,
                });
            }
        }
        Self(messages)
    }
}

/// Temperatures that waver, and counters that grow at rates that do.
fn sample(seq: u64, node: u64, dictionary: u64) -> Record {
    let waver = |n: u64| (seq * 7919 + node * 104_729 + n * 1_299_709) % 97;
    let gauges = SERIES as u64 * 3 / 10;
    let body = Body::Sample(Sample {
        dictionary,
        gauges: (0..gauges).map(|n| 40.0 + waver(n) as f64 / 10.0).collect(),
        counters: (gauges..SERIES as u64).map(|n| (seq * n * 4000 + waver(n)) as f64).collect(),
        span_s: 0,
    });
    Record {
        unix_ms: 1_790_000_000_000 + seq * 10_000,
        boot_ms: 500_000 + seq * 10_000,
        boot: 3,
        clock_untrusted: false,
        body: Some(body),
    }
}

/// Takes whatever is posted.
fn sink() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || swallow(stream));
        }
    });
    Ok(port)
}

/// One connection's requests, of which the lengths alone matter.
fn swallow(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut body = Vec::new();
    loop {
        let (mut length, mut line) = (0, String::new());
        while reader.read_line(&mut line)? > 2 {
            let header = line.to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        if length == 0 {
            return Ok(());
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
