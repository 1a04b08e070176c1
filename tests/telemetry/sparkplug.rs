//! The node as a SCADA host sees it: Sparkplug B on a real mosquitto, heard by a
//! subscriber of its own, and read by decoders that nobody here wrote.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use prost::Message;
use purlin_proto::sparkplug::{Metric, Payload, metric::Value};
use purlin_tests::{
    Broker, Lab, Need, Node, Result, broker::unhex, ensure, lab::Test, process::Process, test, wait,
};

/// For anything to come about.
const SOON: Duration = Duration::from_secs(30);
/// The subscriber ends by itself after it.
const LISTEN: Duration = Duration::from_secs(110);
const STATE: &str = "spBv1.0/STATE/scada";

pub fn tests() -> Vec<Test> {
    let needs = ["mosquitto", "mosquitto_sub", "mosquitto_pub"].map(Need::Program);
    let tests = [
        test("a_scada_host_sees_births_data_and_deaths", 120, lives),
        test("pysparkplug_reads_the_same_of_our_births_and_data_as_we_do", 90, |lab| {
            let python = env::var_os("PURLIN_SPARKPLUG_PYTHON").unwrap_or_default();
            read_by(lab, &[Path::new(&python), &here("sparkplug.py")])
        })
        .needs(&[Need::Path("PURLIN_SPARKPLUG_PYTHON")]),
        test("sparkplug_payload_reads_the_same_of_our_births_and_data_as_we_do", 90, |lab| {
            let package = env::var_os("PURLIN_SPARKPLUG_JS").unwrap_or_default();
            read_by(lab, &[Path::new("node"), &here("sparkplug.js"), Path::new(&package)])
        })
        .needs(&[Need::Program("node"), Need::Path("PURLIN_SPARKPLUG_JS")]),
    ];
    tests.into_iter().map(|it| it.needs(&needs)).collect()
}

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("telemetry").join(name)
}

/// A message of the node: NBIRTH, NDATA or NDEATH.
struct Said {
    kind: String,
    payload: Payload,
}

impl Said {
    fn bd_seq(&self) -> Option<u64> {
        let it = self.payload.metrics.iter().find(|it| it.name.as_deref() == Some("bdSeq"))?;
        match it.value {
            Some(Value::LongValue(number)) => Some(number),
            _ => None,
        }
    }
}

struct Case {
    broker: Broker,
    node: Node,
    messages: PathBuf,
    _subscriber: Process,
}

fn case(lab: &Lab) -> Result<Case> {
    let broker = Broker::start(lab)?;
    let messages = lab.dir().join("messages");
    let mut listener = broker.listener("spBv1.0/lab/#", LISTEN);
    let subscriber = Process::start(listener.stdout(File::create(&messages)?))?;
    sleep(Duration::from_millis(300));
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
    node.set("PURLIN_TEST__CPU_INTERVAL_MS", "10");
    node.set("PURLIN_SPARKPLUG__ENABLED", "true");
    Ok(Case { broker, node, messages, _subscriber: subscriber })
}

impl Case {
    fn said(&self) -> Result<Vec<Said>> {
        let text = fs::read_to_string(&self.messages)?;
        // A line that is still being written is for the next time.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().filter_map(|line| line.split_once(' '));
        let own = lines.filter(|(topic, _)| topic.ends_with("/node") && !topic.contains("/NCMD/"));
        let read = |(topic, payload): (&str, &str)| {
            let kind = topic.split('/').nth(2).ok_or("no kind")?.to_owned();
            let payload = Payload::decode(unhex(payload)?.as_slice());
            Ok(Said { kind, payload: payload.map_err(|e| format!("{topic}: {e}"))? })
        };
        own.map(read).collect()
    }

    fn count(&self, kind: &str) -> Result<usize> {
        Ok(self.said()?.iter().filter(|it| it.kind == kind).count())
    }

    /// Waits until there are more than so many of a kind.
    fn more(&self, kind: &str, than: usize) -> Result {
        wait::until(&format!("more than {than} {kind}"), SOON, || {
            match self.count(kind).map_err(|e| format!("{e:?}"))? {
                count if count > than => Ok(()),
                count => Err(count.to_string()),
            }
        })
    }

    fn host(&self, online: bool, timestamp: u64) -> Result {
        let state = format!("{{\"online\":{online},\"timestamp\":{timestamp}}}");
        self.broker.retain(STATE, state.as_bytes())
    }
}

fn lives(lab: &Lab) -> Result {
    let mut case = case(lab)?;
    case.node.set("PURLIN_SPARKPLUG__PRIMARY_HOST", "scada");
    case.node.start()?;
    sleep(Duration::from_secs(2));
    ensure!(case.said()?.is_empty(), "without its host it says nothing");
    case.host(true, 1)?;
    case.more("NBIRTH", 0)?;
    // Over the number's end.
    case.more("NDATA", 300)?;
    rebirth(lab, &case)?;
    let data = case.count("NDATA")?;
    case.more("NDATA", data + 20)?;
    // The broker says that it is gone.
    case.node.kill()?;
    case.more("NDEATH", 0)?;
    case.node.start()?;
    let births = case.count("NBIRTH")?;
    case.more("NBIRTH", births)?;
    case.host(false, 2)?;
    case.more("NDEATH", 1)?;
    let data = case.count("NDATA")?;
    sleep(Duration::from_secs(2));
    ensure!(case.count("NDATA")? == data, "its host is away");
    // An older word of the host is none.
    case.host(true, 1)?;
    sleep(Duration::from_secs(1));
    ensure!(case.count("NDATA")? == data, "its host is away still");
    let births = case.count("NBIRTH")?;
    case.host(true, 3)?;
    case.more("NBIRTH", births)?;
    case.more("NDATA", data)?;
    case.node.stop()?;
    case.more("NDEATH", 2)?;
    check(&case.said()?)
}

/// The command of a host.
fn rebirth(lab: &Lab, case: &Case) -> Result {
    let births = case.count("NBIRTH")?;
    let metric = Metric {
        name: Some("Node Control/Rebirth".into()),
        datatype: Some(11),
        value: Some(Value::BooleanValue(true)),
        ..Metric::default()
    };
    let payload = Payload { metrics: vec![metric], ..Payload::default() };
    let file = lab.file("ncmd", payload.encode_to_vec())?;
    let mut command = Command::new("timeout");
    command.args([
        "-k",
        "1",
        "10",
        "mosquitto_pub",
        "-h",
        "127.0.0.1",
        "-t",
        "spBv1.0/lab/NCMD/node",
    ]);
    command.args(["-p", &case.broker.port().to_string(), "-f"]);
    ensure!(command.arg(file).status()?.success(), "mosquitto_pub");
    case.more("NBIRTH", births)
}

/// What the specification wants of the whole sequence.
fn check(said: &[Said]) -> Result {
    let mut sessions = Vec::new();
    let mut names: BTreeMap<u64, String> = BTreeMap::new();
    let (mut alive, mut seq, mut wrapped) = (false, 0, false);
    for it in said {
        match it.kind.as_str() {
            "NBIRTH" => {
                ensure!(it.payload.seq == Some(0), "{:?}", it.payload.seq);
                let bd_seq = it.bd_seq().ok_or("a birth without bdSeq")?;
                if sessions.last() != Some(&bd_seq) {
                    ensure!(!alive, "born anew without a death");
                    sessions.push(bd_seq);
                }
                names.clear();
                for metric in &it.payload.metrics {
                    ensure!(metric.datatype.is_some(), "{metric:?}");
                    let name = metric.name.clone().ok_or("a birth without a name")?;
                    if let Some(alias) = metric.alias {
                        ensure!(names.insert(alias, name).is_none(), "alias {alias} twice");
                    }
                }
                (alive, seq) = (true, 0);
            }
            "NDATA" => {
                ensure!(alive, "data of the dead");
                wrapped |= seq == 255;
                seq = (seq + 1) % 256;
                ensure!(it.payload.seq == Some(seq), "{:?} in place of {seq}", it.payload.seq);
                for metric in &it.payload.metrics {
                    let alias = metric.alias.ok_or("data without an alias")?;
                    ensure!(names.contains_key(&alias), "alias {alias} was never born");
                    ensure!(metric.name.is_none() && metric.datatype == Some(10), "{metric:?}");
                }
            }
            "NDEATH" => {
                ensure!(it.bd_seq() == sessions.last().copied(), "of another session");
                ensure!(it.payload.seq.is_none(), "a death has no number");
                alive = false;
            }
            other => return Err(format!("{other} of a node").into()),
        }
    }
    ensure!(sessions == [0, 1, 2] && wrapped, "{sessions:?}, over 255: {wrapped}");
    println!("{} messages, {} metrics by name", said.len(), names.len());
    Ok(())
}

/// One message: its kind, its number (-1: none) and its values by name.
type Read = (String, i64, BTreeMap<String, f64>);

fn read_by(lab: &Lab, command: &[&Path]) -> Result {
    let mut case = case(lab)?;
    case.node.start()?;
    case.more("NDATA", 50)?;
    case.node.stop()?;
    case.more("NDEATH", 0)?;
    let messages = fs::read(&case.messages)?;
    let mut reader = Command::new("timeout");
    reader.args(["-k", "1", "30"]).args(command).stdin(Stdio::from(File::open(&case.messages)?));
    let output = reader.output()?;
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{errors}");
    let theirs: Vec<Read> =
        text.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
    let ours = read_by_us(&case.said()?)?;
    ensure!(theirs.len() == ours.len(), "{} of {}: {errors}", theirs.len(), ours.len());
    for (theirs, ours) in theirs.iter().zip(&ours) {
        ensure!(theirs == ours, "{theirs:?}\nin place of\n{ours:?}");
    }
    let values: usize = ours.iter().map(|it| it.2.len()).sum();
    println!("{} messages with {values} values, {} bytes", ours.len(), messages.len() / 2);
    Ok(())
}

fn read_by_us(said: &[Said]) -> Result<Vec<Read>> {
    let mut names: BTreeMap<u64, String> = BTreeMap::new();
    let mut read = Vec::new();
    for Said { kind, payload } in said {
        let mut values = BTreeMap::new();
        for metric in &payload.metrics {
            let alias = metric.alias.unwrap_or_default();
            let name = match &metric.name {
                Some(name) => name.clone(),
                None => names.get(&alias).cloned().ok_or("never born")?,
            };
            names.insert(alias, name.clone());
            let value = match metric.value {
                Some(Value::DoubleValue(value)) => value,
                Some(Value::LongValue(value)) => value as f64,
                Some(Value::BooleanValue(value)) => f64::from(u8::from(value)),
                _ => return Err(format!("{metric:?}").into()),
            };
            values.insert(name, value);
        }
        let seq = payload.seq.map_or(-1, |seq| seq as i64);
        read.push((kind.clone(), seq, values));
    }
    Ok(read)
}
