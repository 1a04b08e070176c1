//! What is sent is read by a program that shares nothing with us but the `.proto`
//! files: `decode.py`, on what protoc makes of them for Python.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use prost::Message;
use purlin_daemon::wire;
use purlin_proto::v1::{Dictionary, Record, Series, record::Body};
use purlin_tests::{Broker, Lab, Need, Node, Result, ensure, lab::Test, test};
use serde::Deserialize;

/// Debian's own, which has Debian's protobuf.
const PYTHON: &str = "/usr/bin/python3";
/// How long messages are listened to.
const LISTEN: Duration = Duration::from_secs(5);

pub fn tests() -> Vec<Test> {
    let python = Need::Is(|| {
        let tried = Command::new(PYTHON).args(["-c", "import google.protobuf"]).output();
        let there = tried.is_ok_and(|output| output.status.success());
        (!there)
            .then(|| format!("no google.protobuf for {PYTHON}: apt-get install python3-protobuf"))
    });
    let programs = ["mosquitto", "mosquitto_sub", "protoc", "zstd"].map(Need::Program);
    vec![
        test("python_reads_the_same_of_our_batches_as_we_do", 60, python_reads)
            .needs(&programs)
            .needs(&[python]),
    ]
}

/// One record, as both tell it.
#[derive(Debug, Deserialize, PartialEq)]
struct Told {
    class: String,
    seq: u64,
    unix_ms: u64,
    kind: String,
    /// Each value to the bit.
    points: BTreeMap<String, String>,
}

fn python_reads(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let mut listener = broker.listener("purlin/v1/lab/node/#", LISTEN);
    let messages = lab.dir().join("messages");
    let heard = listener.stdout(fs::File::create(&messages)?).spawn()?;
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
    node.set("PURLIN_TEST__CPU_INTERVAL_MS", "10");
    node.start()?;
    node.cli(&["config", "apply", &document(lab)?])?;
    sleep(LISTEN * 3 / 5);
    node.stop()?;
    heard.wait_with_output()?;
    let messages = fs::read_to_string(messages)?;

    let (mut ours, mut theirs) = (rust(&messages)?, python(lab, &messages)?);
    for told in [&mut ours, &mut theirs] {
        told.sort_by(|a, b| (&a.class, a.seq).cmp(&(&b.class, b.seq)));
    }
    let samples = ours.iter().filter(|told| told.kind == "sample").count();
    ensure!(samples > 20, "only {samples} samples were heard");
    ensure!(ours.len() == theirs.len(), "{} records, Python reads {}", ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        ensure!(ours == theirs, "we read {ours:?}\nPython reads {theirs:?}");
    }
    println!("{} records, {samples} of them samples, are the same to Python", ours.len());
    Ok(())
}

fn document(lab: &Lab) -> Result<String> {
    let path = lab.file("quick.toml", "version = 1\n[spool]\ncommit_window_s = 1\n")?;
    Ok(path.display().to_string())
}

fn python(lab: &Lab, messages: &str) -> Result<Vec<Told>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = lab.dir().join("python");
    fs::create_dir_all(&made)?;
    let protoc = Command::new("protoc")
        .arg("-I")
        .arg(here.join("../proto"))
        .arg(format!("--python_out={}", made.display()))
        .arg("purlin/v1/telemetry.proto")
        .output()?;
    ensure!(protoc.status.success(), "protoc: {}", String::from_utf8_lossy(&protoc.stderr));
    let output = Command::new(PYTHON)
        .arg(here.join("telemetry/decode.py"))
        .env("PYTHONPATH", made)
        .stdin(Stdio::from(fs::File::open(lab.file("messages", messages)?)?))
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout)?;
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn rust(messages: &str) -> Result<Vec<Told>> {
    let mut dictionaries: BTreeMap<u64, Dictionary> = BTreeMap::new();
    let mut told = Vec::new();
    for line in messages.lines() {
        let (topic, payload) = line.split_once(' ').ok_or("a message without a payload")?;
        let payload = purlin_tests::broker::unhex(payload)?;
        let levels: Vec<&str> = topic.split('/').skip(4).collect();
        match levels[..] {
            ["dict", hash] => {
                let bytes = wire::unpack(&payload).map_err(|e| e.to_string())?;
                let hash = u64::from_str_radix(hash, 16)?;
                dictionaries.insert(hash, Dictionary::decode(&*bytes)?);
            }
            [class @ ("alarm" | "event" | "metric" | "log")] => {
                let batch = wire::decode(&payload).map_err(|e| e.to_string())?;
                for (seq, record) in wire::records(&batch).map_err(|e| e.to_string())? {
                    told.push(tell(class, seq, &record, &dictionaries)?);
                }
            }
            _ => {}
        }
    }
    Ok(told)
}

fn tell(
    class: &str,
    seq: u64,
    record: &Record,
    dictionaries: &BTreeMap<u64, Dictionary>,
) -> Result<Told> {
    let mut points = BTreeMap::new();
    let kind = match &record.body {
        Some(Body::Sample(sample)) => {
            let dictionary = dictionaries.get(&sample.dictionary).ok_or("no dictionary")?;
            let series = dictionary.gauges.iter().chain(&dictionary.counters).map(named);
            let bits = sample.gauges.iter().map(|value| format!("{:016x}", value.to_bits()));
            points.extend(series.zip(bits));
            "sample"
        }
        Some(Body::Event(_)) => "event",
        Some(Body::ClockSet(_)) => "clock_set",
        other => return Err(format!("not expected here: {other:?}").into()),
    };
    let (class, kind) = (class.to_owned(), kind.to_owned());
    Ok(Told { class, seq, unix_ms: record.unix_ms, kind, points })
}

fn named(series: &Series) -> String {
    let attributes: Vec<_> = series.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("{}{{{}}}", series.name, attributes.join(","))
}
