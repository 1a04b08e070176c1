//! The core's end: what nodes send over a real broker is collected, whatever becomes of
//! the collector and of the far side, and is held against what an independent subscriber
//! heard. The far side is nobody's of ours: `receiver.py`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use nix::sys::signal::Signal;
use prost::Message;
use purlin_daemon::wire;
use purlin_proto::v1::{Batch, Cause, Class, Event, Gap, Numbered, Record, record::Body};
use purlin_tests::{
    Broker, Lab, Need, Node, Result, broker::unhex, ensure, lab::Test, node::binary,
    process::Process, test, wait,
};
use serde_json::Value;

use crate::receiver::{Receiver, no_python};

/// For anything to come about.
const SOON: Duration = Duration::from_secs(30);
/// How long messages are listened to.
const LISTEN: Duration = Duration::from_secs(18);

pub fn tests() -> Vec<Test> {
    let tests = [
        test("two_partitions_are_disjoint_and_complete", 90, partitions),
        test("what_is_missing_is_marked_and_what_comes_again_is_dropped", 90, holes),
        test("a_batch_waits_for_its_dictionary", 90, dictionary_last),
    ];
    let python = [
        test("a_killed_collector_and_a_dead_far_side_lose_nothing", 120, killed),
        test("what_is_refused_for_good_holds_nothing_up", 90, refused),
        test("line_protocol_is_read_by_another", 90, influx),
    ];
    let programs = ["mosquitto", "mosquitto_sub", "mosquitto_pub"].map(Need::Program);
    let python = python.map(|it| it.needs(&[Need::Is(no_python)]));
    tests.into_iter().chain(python).map(|it| it.needs(&programs)).collect()
}

/// `purlin fleet collect`, started and killed as often as it takes.
struct Collector {
    arguments: Vec<String>,
    dir: PathBuf,
    process: Option<Process>,
}

impl Collector {
    fn start(lab: &Lab, broker: &Broker, name: &str, to: &str, more: &[&str]) -> Result<Self> {
        let dir = lab.dir().join(name);
        fs::create_dir_all(&dir)?;
        let mut arguments = vec!["fleet".to_owned(), "collect".into()];
        for (option, value) in [
            ("--broker", broker.endpoint()),
            ("--state", dir.join("state").display().to_string()),
            ("--name", name.into()),
            ("--to", to.into()),
            ("--every", "1s".into()),
        ] {
            arguments.extend([option.to_owned(), value]);
        }
        arguments.extend(["-o".into(), "json".into()]);
        arguments.extend(more.iter().map(|it| (*it).to_owned()));
        let mut collector = Self { arguments, dir, process: None };
        collector.again()?;
        Ok(collector)
    }

    fn again(&mut self) -> Result {
        let open = |name: &str| File::options().create(true).append(true).open(self.dir.join(name));
        let mut command = Command::new(binary()?);
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(open("told")?).stderr(open("log")?);
        self.process = Some(Process::start(&mut command)?);
        let connected = fs::read_to_string(self.dir.join("log"))?.matches("connected").count();
        wait::until("it is connected", SOON, || {
            let log = fs::read_to_string(self.dir.join("log")).map_err(|it| it.to_string())?;
            if log.matches("connected").count() > connected { Ok(()) } else { Err(log) }
        })
    }

    fn kill(&mut self) -> Result {
        self.process.take().ok_or("no collector runs")?.kill()
    }

    /// SIGTERM; it must end well.
    fn stop(&mut self) -> Result {
        let process = self.process.take().ok_or("no collector runs")?;
        process.signal(Signal::SIGTERM)?;
        let (status, _) = process.wait(Duration::from_secs(10))?;
        let log = fs::read_to_string(self.dir.join("log"))?;
        ensure!(status.success() && !log.contains("panicked"), "it ended with {status}: {log}");
        Ok(())
    }

    /// The figures that it told last.
    fn told(&self) -> Result<Value> {
        let told = fs::read_to_string(self.dir.join("told"))?;
        Ok(serde_json::from_str(told.lines().last().ok_or("it told nothing")?)?)
    }

    /// Waits until it tells so.
    fn until(&self, what: &str, ready: impl Fn(&Value) -> bool) -> Result {
        wait::until(what, SOON, || {
            let told = self.told().map_err(|error| format!("{error:?}"))?;
            if ready(&told) { Ok(()) } else { Err(told.to_string()) }
        })
    }

    /// What it wrote as JSON lines, in order, by node.
    fn lines(&self) -> Result<BTreeMap<String, Vec<Value>>> {
        let mut found = BTreeMap::new();
        for node in fs::read_dir(self.dir.join("out/lab"))? {
            let node = node?;
            let mut files = fs::read_dir(node.path())?
                .map(|it| Ok(it?.path()))
                .collect::<std::io::Result<Vec<_>>>()?;
            files.sort();
            let mut lines = Vec::new();
            for file in files {
                for line in fs::read_to_string(file)?.lines() {
                    lines.push(serde_json::from_str(line)?);
                }
            }
            found.insert(node.file_name().display().to_string(), lines);
        }
        Ok(found)
    }
}

/// What a subscriber that is not ours heard: of each node and class its records.
type Heard = BTreeMap<(String, String), BTreeMap<u64, Record>>;

fn heard(messages: &Path) -> Result<Heard> {
    let mut heard = Heard::new();
    for line in fs::read_to_string(messages)?.lines() {
        let (topic, payload) = line.split_once(' ').ok_or("a message without a payload")?;
        let levels: Vec<&str> = topic.split('/').skip(3).collect();
        if let [node, class @ ("alarm" | "event" | "metric" | "log")] = levels[..] {
            let batch = wire::decode(&unhex(payload)?).map_err(|e| e.to_string())?;
            let of = heard.entry((node.into(), class.into())).or_default();
            of.extend(wire::records(&batch).map_err(|e| e.to_string())?);
        }
    }
    Ok(heard)
}

/// A node that measures a hundred times a second and sends each second.
fn quick(lab: &Lab, broker: &Broker, name: &str) -> Result<Node> {
    let mut node = Node::new(lab, name)?;
    node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
    node.set("PURLIN_TEST__CPU_INTERVAL_MS", "20");
    node.start()?;
    let path = lab.file("quick.toml", "version = 1\n[spool]\ncommit_window_s = 1\n")?;
    node.cli(&["config", "apply", &path.display().to_string()])?;
    Ok(node)
}

fn killed(lab: &Lab) -> Result {
    let broker = Broker::start_with(lab, "max_queued_messages 0")?;
    let receiver = Receiver::start(lab, "503")?;
    let to = format!("otlp=http://127.0.0.1:{}", receiver.port);
    let mut collector = Collector::start(lab, &broker, "one", &to, &[])?;
    let mut listener = broker.listener("purlin/v1/lab/#", LISTEN);
    let messages = lab.dir().join("messages");
    let listening = listener.stdout(File::create(&messages)?).spawn()?;
    sleep(Duration::from_millis(500));
    let mut nodes = [quick(lab, &broker, "n1")?, quick(lab, &broker, "n2")?];
    // Nothing is taken while the far side is ill, and it says so.
    collector.until("the far side is ill", |told| {
        told["far"].as_str().is_some_and(|it| it.contains("503"))
    })?;
    ensure!(collector.told()?["records"] == 0, "{}", collector.told()?);
    collector.kill()?;
    collector.again()?;
    receiver.answers("200")?;
    collector.until("records are taken", |told| told["records"].as_u64() > Some(50))?;
    collector.kill()?;
    sleep(Duration::from_millis(1500));
    collector.again()?;
    sleep(Duration::from_secs(1));
    for node in &mut nodes {
        node.stop()?;
    }
    listening.wait_with_output()?;
    let heard = heard(&messages)?;
    wait::until("nothing is missing", SOON, || {
        let took = receiver.took().map_err(|error| format!("{error:?}"))?;
        let missing = missing(&heard, &took);
        if missing.is_empty() { Ok(()) } else { Err(format!("{} of {missing:?}", missing.len())) }
    })?;
    collector.stop()?;
    let took = receiver.took()?;
    let again = in_order(&took)?;
    let sums = took.iter().filter(|it| it["kind"] == "sum");
    for sum in sums {
        let since = sum["start"].as_u64().zip(sum["nanos"].as_u64());
        ensure!(since.is_some_and(|(start, at)| 0 < start && start <= at), "{sum}");
        ensure!(sum["monotonic"] == true && sum["unit"] != "", "{sum}");
    }
    let records: usize = heard.values().map(BTreeMap::len).sum();
    let figures = collector.told()?;
    ensure!(figures["holes"] == 0 && figures["refused"] == 0, "{figures}");
    println!("{records} records of {} nodes, {again} points came twice", heard.len());
    ensure!(records > 300, "only {records} records were heard");
    Ok(())
}

/// What was heard and not taken. A sample is known by its node and time and the value of a
/// series, anything else by its number.
fn missing(heard: &Heard, took: &[Value]) -> Vec<String> {
    let mut points = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for it in took {
        let node = it["resource"]["host.id"].as_str().unwrap_or_default();
        match it["what"] == "point" {
            true => {
                let value = it["value"].as_f64().unwrap_or_default().to_bits();
                points.insert((node, it["nanos"].as_u64(), value));
            }
            false => {
                let of = &it["attributes"];
                numbers.insert((node, of["purlin.class"].as_str(), of["purlin.seq"].as_u64()));
            }
        }
    }
    let mut missing = Vec::new();
    for ((node, class), records) in heard {
        for (seq, record) in records {
            let there = match &record.body {
                Some(Body::Sample(sample)) => {
                    let at = Some(record.unix_ms * 1_000_000);
                    sample.gauges.iter().all(|it| points.contains(&(node, at, it.to_bits())))
                }
                _ => numbers.contains(&(&**node, Some(class), Some(*seq))),
            };
            if !there {
                missing.push(format!("{node} {class} {seq}"));
            }
        }
    }
    missing
}

/// Each series of each node comes in order, but for what comes twice; how much that is.
fn in_order(took: &[Value]) -> Result<usize> {
    let mut series: BTreeMap<String, (u64, BTreeSet<u64>)> = BTreeMap::new();
    let mut again = 0;
    for it in took.iter().filter(|it| it["what"] == "point") {
        let of = [&it["resource"]["host.id"], &it["name"], &it["attributes"]];
        let (newest, seen) = series.entry(format!("{of:?}")).or_default();
        let at = it["nanos"].as_u64().ok_or("a point without a time")?;
        if !seen.insert(at) {
            again += 1;
            continue;
        }
        ensure!(at >= *newest, "{it} came after {newest}");
        *newest = at;
    }
    Ok(again)
}

/// A batch of events; a number without a text is not there.
fn events(node: &str, first_seq: u64, texts: &[Option<&str>], historical: bool) -> Batch {
    let record = |text: &str| Record {
        unix_ms: 1_767_323_045_000,
        body: Some(Body::Event(Event {
            name: "test".into(),
            text: text.into(),
            ..Event::default()
        })),
        ..Record::default()
    };
    let numbered = texts.iter().enumerate().filter_map(|(offset, text)| {
        Some(Numbered { offset: offset as u32, record: Some(record((*text)?)) })
    });
    Batch {
        node: node.into(),
        incarnation: 5,
        class: Class::Event.into(),
        first_seq,
        last_seq: first_seq + texts.len() as u64 - 1,
        records: numbered.collect(),
        historical,
        ..Batch::default()
    }
}

fn publish(lab: &Lab, broker: &Broker, topic: &str, payload: impl AsRef<[u8]>) -> Result {
    let file = lab.file("payload", payload)?;
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "10", "mosquitto_pub", "-V", "5", "-q", "1", "-h", "127.0.0.1"]);
    command.args(["-p", &broker.port().to_string(), "-t", topic, "-f"]);
    let status = command.arg(file).status()?;
    ensure!(status.success(), "mosquitto_pub: {status}");
    Ok(())
}

fn seqs(lines: &[Value]) -> Vec<u64> {
    lines.iter().filter_map(|it| it["seq"].as_u64()).collect()
}

fn partitions(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let mut parts = Vec::new();
    for part in ["1/2", "2/2"] {
        let name = format!("part-{}", &part[..1]);
        let to = format!("jsonl={}", lab.dir().join(&name).join("out").display());
        let more = ["--partition", part, "--fleet", "lab"];
        parts.push(Collector::start(lab, &broker, &name, &to, &more)?);
    }
    let nodes: Vec<String> = (0..8).map(|n| format!("edge-{n}")).collect();
    for first in [1, 3] {
        for node in &nodes {
            let batch = events(node, first, &[Some("a"), Some("b")], false);
            publish(lab, &broker, &format!("purlin/v1/lab/{node}/event"), batch.encode_to_vec())?;
        }
    }
    let all = |parts: &[Collector]| -> Result<u64> {
        parts.iter().map(|it| Ok(it.told()?["records"].as_u64().unwrap_or_default())).sum()
    };
    wait::until("all are taken", SOON, || match all(&parts) {
        Ok(32) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    parts.iter_mut().try_for_each(Collector::stop)?;
    let lines = parts.iter().map(Collector::lines).collect::<Result<Vec<_>>>()?;
    let mut found: Vec<&String> = lines.iter().flat_map(BTreeMap::keys).collect();
    found.sort();
    ensure!(found == nodes.iter().collect::<Vec<_>>(), "{found:?}: each node in one part");
    ensure!(lines.iter().all(|it| !it.is_empty()), "both have some");
    for (node, lines) in lines.iter().flatten() {
        ensure!(seqs(lines) == [1, 2, 3, 4], "{node}: {lines:?}");
    }
    Ok(())
}

fn holes(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let to = format!("jsonl={}", lab.dir().join("one/out").display());
    let mut collector = Collector::start(lab, &broker, "one", &to, &["--hole-after", "2s"])?;
    let send =
        |batch: Batch| publish(lab, &broker, "purlin/v1/lab/ghost/event", batch.encode_to_vec());
    let some = Some("x");
    send(events("ghost", 1, &[some, some], false))?;
    // A gap says why 4 is missing, and nobody says why 6 is.
    let gap = Gap { first_seq: 4, last_seq: 4, lost: 1, cause: Cause::Full.into() };
    let batch = events("ghost", 3, &[some, None, some, None, some], false);
    send(Batch { gaps: vec![gap], ..batch.clone() })?;
    // The present jumps; the past fills some of it, and goes by 10 and 11.
    send(events("ghost", 20, &[some], false))?;
    send(events("ghost", 8, &[some, some], true))?;
    send(events("ghost", 12, &[some; 4], true))?;
    // The same again, as a node does that missed an answer, and cut in another way.
    send(events("ghost", 9, &[some, None, None, some], true))?;
    // What is no batch, and one that says it is another's.
    publish(lab, &broker, "purlin/v1/lab/ghost/event", "garbage")?;
    publish(lab, &broker, "purlin/v1/lab/other/event", batch.encode_to_vec())?;
    // 16 to 19 do not come, and at last they are a hole; one comes late all the same.
    collector.until("holes are told", |told| told["holes"] == 1 + 2 + 4)?;
    send(events("ghost", 17, &[some], true))?;
    // Another brings what was missing.
    let relayed = events("ghost", 18, &[some, some], true).encode_to_vec();
    publish(lab, &broker, "purlin/v1/lab/bearer/relay/ghost/event", relayed)?;
    collector.until("what is late is taken", |told| told["late"] == 3)?;
    let told = collector.told()?;
    ensure!(told["refused"] == 2 && told["lost"] == 1, "{told}");
    ensure!(told["duplicates"] == 2, "{told}");
    collector.kill()?;
    collector.again()?;
    send(events("ghost", 20, &[some], false))?;
    collector.until("what came before a kill is known", |told| told["duplicates"] == 1)?;
    collector.stop()?;
    let lines = collector.lines()?.remove("ghost").ok_or("nothing of it")?;
    let seqs = seqs(&lines);
    ensure!(seqs == [1, 2, 3, 5, 7, 20, 8, 9, 12, 13, 14, 15, 17, 18, 19], "{seqs:?}");
    let gaps = lines.iter().filter(|it| it["kind"] == "gap").map(|it| {
        (
            it["cause"].as_str().unwrap_or_default(),
            it["first_seq"].as_u64(),
            it["last_seq"].as_u64(),
        )
    });
    let gaps: Vec<_> = gaps.collect();
    let told = |cause, first, last| (cause, Some(first), Some(last));
    let expected = [
        told("full", 4, 4),
        told("unknown", 6, 6),
        told("unknown", 10, 11),
        told("unknown", 16, 19),
    ];
    ensure!(gaps == expected, "{gaps:?}");
    Ok(())
}

fn dictionary_last(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let messages = lab.dir().join("messages");
    let mut listener = broker.listener("purlin/v1/lab/n1/#", Duration::from_secs(6));
    let listening = listener.stdout(File::create(&messages)?).spawn()?;
    let mut node = quick(lab, &broker, "n1")?;
    sleep(Duration::from_secs(3));
    node.stop()?;
    listening.wait_with_output()?;
    let text = fs::read_to_string(&messages)?;
    let of = |what: &str| text.lines().filter(|it| it.contains(what)).collect::<Vec<_>>();
    let (dictionaries, batches) = (of("/dict/"), of("/metric "));
    ensure!(!batches.is_empty() && !dictionaries.is_empty(), "{text}");
    // Another broker, which retains nothing of it: it is carried there in the wrong order.
    let broker = Broker::start(lab)?;
    let to = format!("jsonl={}", lab.dir().join("one/out").display());
    let mut collector = Collector::start(lab, &broker, "one", &to, &[])?;
    let carry = |line: &str| -> Result {
        let (topic, payload) = line.split_once(' ').ok_or("no payload")?;
        publish(lab, &broker, &topic.replace("lab/", "lab/bearer/relay/"), unhex(payload)?)
    };
    carry(batches[0])?;
    let event = events("other", 1, &[Some("x")], false).encode_to_vec();
    publish(lab, &broker, "purlin/v1/lab/other/event", event)?;
    collector.until("it is set aside, and holds nobody up", |told| {
        told["aside"] == 1 && told["records"] == 1
    })?;
    collector.kill()?;
    collector.again()?;
    for dictionary in dictionaries {
        carry(dictionary)?;
    }
    collector
        .until("it is taken", |told| told["aside"] == 0 && told["records"].as_u64() > Some(0))?;
    collector.stop()?;
    let lines = collector.lines()?.remove("n1").ok_or("nothing of it")?;
    let named = |it: &Value| it["points"][0]["name"].as_str().is_some_and(|it| it.contains('.'));
    ensure!(lines.iter().all(|it| named(it) && it["relay"] == "bearer"), "{lines:?}");
    Ok(())
}

fn refused(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let receiver = Receiver::start(lab, "503")?;
    let to = format!("otlp=http://127.0.0.1:{}", receiver.port);
    let mut collector = Collector::start(lab, &broker, "one", &to, &[])?;
    for (n, text) in ["a", "b", "poison", "c", "d"].into_iter().enumerate() {
        let batch = events("ghost", n as u64 + 1, &[Some(text)], false);
        publish(lab, &broker, "purlin/v1/lab/ghost/event", batch.encode_to_vec())?;
    }
    // All of them are waiting by now, and go in one load.
    receiver.answers("refuse poison")?;
    collector.until("all but one are taken", |told| told["batches"] == 5)?;
    collector.stop()?;
    let mut bodies: Vec<_> = receiver
        .took()?
        .iter()
        .map(|it| it["body"].as_str().unwrap_or_default().to_owned())
        .collect();
    bodies.dedup();
    ensure!(bodies == ["a", "b", "c", "d"], "{bodies:?}");
    let kept = fs::read_dir(collector.dir.join("state/refused"))?
        .map(|it| Ok(fs::read_to_string(it?.path())?))
        .collect::<Result<Vec<_>>>()?;
    let well =
        |it: &String| it.contains("400") && it.contains("poison") && it.contains("\"seq\":3");
    ensure!(kept.len() == 1 && kept.iter().all(well), "{kept:?}");
    Ok(())
}

fn influx(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let receiver = Receiver::start(lab, "")?;
    let token = lab.file("token", "secret\n")?.display().to_string();
    let to = format!("influx=http://127.0.0.1:{}/api/v2/write?org=o&bucket=b", receiver.port);
    let mut collector = Collector::start(lab, &broker, "one", &to, &["--token-file", &token])?;
    let mut node = quick(lab, &broker, "n1")?;
    let odd = events("ghost", 1, &[Some("a \"b\", c=d\\")], false).encode_to_vec();
    publish(lab, &broker, "purlin/v1/lab/ghost/event", odd)?;
    collector.until("records are taken", |told| told["values"].as_u64() > Some(200))?;
    node.stop()?;
    sleep(Duration::from_secs(1));
    collector.stop()?;
    let (took, told) = (receiver.took()?, collector.told()?);
    let is_value =
        |it: &&Value| !it["fields"]["gauge"].is_null() || !it["fields"]["counter"].is_null();
    let values = took.iter().filter(is_value).count() as u64;
    ensure!(told["values"].as_u64() == Some(values), "{values} lines: {told}");
    let odd = took.iter().find(|it| it["tags"]["node"] == "ghost").ok_or("the event is missing")?;
    ensure!(odd["fields"]["text"] == "a \"b\", c=d\\" && odd["fields"]["seq"] == 1, "{odd}");
    Ok(())
}
