//! Commands from the core: each is carried out once or not at all, and has a result.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use prost::Message;
use purlin_daemon::trust::{self, SigningKey};
use purlin_proto::v1::{
    CommandOutcome, CommandResult, Doctor, Outcome, Reboot, Reported, SignedCommand,
    signed_command::Command,
};
use purlin_tests::{
    Broker, Lab, Node, Result, broker::unhex, ensure, lab::Test, process::Process, test, wait,
};
use serde_json::Value;

use crate::{
    ROUND_TRIP,
    audit::listed,
    fleet::{keygen, sign, trusting},
    reported,
};

/// Over what a test may take.
const LISTEN: Duration = Duration::from_secs(170);

pub fn tests() -> [Test; 4] {
    [
        test("an_operators_command_is_carried_out_and_its_result_shown", 120, operator),
        test("what_is_no_command_for_this_node_now_is_refused_with_the_reason", 120, refused),
        test("a_command_is_carried_out_once_also_across_a_kill_and_a_reboot", 180, once),
        test("an_answer_goes_to_the_response_topic_with_the_correlation_data", 120, answered),
    ]
}

/// A subscriber to a topic, and what it has heard.
struct Ear {
    file: PathBuf,
    process: Process,
}

impl Ear {
    fn new(lab: &Lab, broker: &Broker, topic: &str) -> Result<Self> {
        let file = lab.dir().join("heard");
        let mut listener = broker.listener(topic, LISTEN);
        // With the correlation data last.
        listener.args(["-F", "%t %x %D"]).stdout(Stdio::from(File::create(&file)?));
        let ear = Self { process: Process::start(&mut listener)?, file };
        wait::until("it listens", ROUND_TRIP, || {
            broker.publish(topic, b"", &[]).map_err(|e| format!("{e:?}"))?;
            let text = fs::read_to_string(&ear.file).map_err(|e| e.to_string())?;
            if text.is_empty() { Err("nothing is heard".to_owned()) } else { Ok(()) }
        })?;
        Ok(ear)
    }

    /// What was answered, and with which correlation data.
    fn heard(&self) -> Result<Vec<(Vec<u8>, String)>> {
        let text = fs::read_to_string(&self.file)?;
        let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let answers = words.filter(|words| words.len() == 3 && !words[1].is_empty());
        answers.map(|it| Ok((unhex(it[1])?, it[2].to_owned()))).collect()
    }

    /// The `n`th answer.
    fn answer<T: Message + Default>(&self, n: usize) -> Result<(T, String)> {
        let (payload, data) = wait::until("an answer", ROUND_TRIP, || {
            let mut heard = self.heard().map_err(|e| format!("{e:?}"))?;
            let count = heard.len();
            if n < count { Ok(heard.swap_remove(n)) } else { Err(format!("{count} answers")) }
        })?;
        Ok((T::decode(&*payload)?, data))
    }

    /// The `n`th result of a command.
    fn result(&self, n: usize) -> Result<CommandResult> {
        Ok(self.answer(n)?.0)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        // `timeout` passes it on.
        _ = self.process.signal(Signal::SIGTERM);
        _ = self.process.wait(ROUND_TRIP);
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn key(keys: &Path, role: &str) -> Result<SigningKey> {
    Ok(SigningKey::read(&keys.join(format!("{role}.key")))?)
}

/// A command that is good as it is.
fn good(command: Command) -> SignedCommand {
    SignedCommand {
        fleet: "lab".into(),
        node: "node".into(),
        epoch: 1,
        id: trust::random::<16>().unwrap_or_default().to_vec().into(),
        issued_unix_s: now(),
        expires_unix_s: now() + 60,
        command: Some(command),
    }
}

fn operator(lab: &Lab) -> Result {
    let (broker, mut node, _, keys) = trusting(lab)?;
    let (keys, endpoint) = (keys.display().to_string(), broker.endpoint());
    let order = |nodes: &str, words: &[&str]| -> Result<(i32, Value)> {
        let at = ["--keys", &keys, "--broker", &endpoint, "--fleet", "lab", "-o", "json"];
        let answer = node.cli_for(60, &[&["fleet", "command", nodes], words, &at].concat())?;
        Ok((answer.code, answer.json().map_err(|_| format!("{answer:?}"))?))
    };
    let text = |answer: &Value| answer["nodes"][0]["text"].as_str().unwrap_or_default().to_owned();

    let restarts = |node: &Node| -> Result<u32> {
        let tasks = node.status()?.tasks;
        Ok(tasks.iter().find(|it| it.name == "rack").map_or(0, |it| it.restarts))
    };
    let before = restarts(&node)?;
    let (code, answer) = order("node", &["restart", "rack"])?;
    ensure!(code == 0 && text(&answer).contains("rack is started anew"), "{answer:#}");
    ensure!(restarts(&node)? == before + 1, "and it is");
    for (task, why) in [("moon", "no task moon runs; there are "), ("command", "not ended")] {
        let (code, answer) = order("node", &["restart", task])?;
        ensure!(code == 1 && answer["nodes"][0]["result"] == "failed", "{answer:#}");
        ensure!(text(&answer).contains(why), "{answer:#}");
    }
    let (code, answer) = order("node", &["doctor"])?;
    ensure!(code == 0 && text(&answer) == "no faults", "{answer:#}");
    let (code, answer) = order("n*", &["drain"])?;
    ensure!(code == 0 && text(&answer).contains("are the core's"), "{answer:#}");
    for words in [&["identify"][..], &["identify", "lo", "--for", "1s"]] {
        let (code, answer) = order("node", words)?;
        let said = &answer["nodes"][0]["result"];
        ensure!(code == 1 && said == "unsupported", "no light here: {answer:#}");
    }
    let (code, answer) = order("node", &["reboot"])?;
    ensure!(code == 1 && text(&answer).contains("only the agent of a node"), "{answer:#}");

    let dir = lab.dir().display().to_string();
    let (code, answer) = order("node", &["support-bundle", "--save", &dir])?;
    ensure!(code == 0, "{answer:#}");
    let saved = answer["nodes"][0]["saved"].as_str().ok_or("not saved")?;
    let listed_files = std::process::Command::new("tar").args(["-tzf", saved]).output()?;
    let names = String::from_utf8_lossy(&listed_files.stdout).into_owned();
    for name in ["status.json", "config.json", "inventory.json", "log.json", "audit.json"] {
        ensure!(names.contains(&format!("purlin-node/{name}")), "no {name} in {names}");
    }
    let on_record = listed(&node)?;
    for what in ["command.begun", "command.done", "command.failed", "command.unsupported"] {
        let by_key = |(by, it): &(String, String)| it == what && by.starts_with("key ");
        ensure!(on_record.iter().any(by_key), "no {what} in {on_record:?}");
    }
    let counts = node.status()?.commands;
    ensure!((counts.begun, counts.refused) == (9, 0), "{counts:?}");
    node.stop()?;
    Ok(())
}

fn refused(lab: &Lab) -> Result {
    let (broker, mut node, topics, keys) = trusting(lab)?;
    let ear = Ear::new(lab, &broker, &topics.result())?;
    let strangers = keygen(lab, &node, "strangers")?;
    let command = || Command::Doctor(Doctor {});
    let by = |keys: &Path, role: &str, signed: &SignedCommand| -> Result<Vec<u8>> {
        Ok(trust::sign_command(signed, &key(keys, role)?)?)
    };
    let ours = |change: &dyn Fn(&mut SignedCommand)| -> Result<Vec<u8>> {
        let mut signed = good(command());
        change(&mut signed);
        by(&keys, "command", &signed)
    };
    let mut damaged = ours(&|_| ())?;
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    // Field 99, a varint 1, signed by who may sign: what a later agent may know.
    let tomorrow = {
        let payload = [good(command()).encode_to_vec(), vec![0x98, 6, 1]].concat();
        trust::sign_as_command(payload, &key(&keys, "command")?)?
    };
    let reboot = good(Command::Reboot(Reboot {}));
    let cases = [
        ("unsigned", good(command()).encode_to_vec(), "sign it with"),
        ("nonsense", vec![0xd2; 64], "sign it with"),
        ("oversize", vec![0xd2; 5000], "at most 4096"),
        ("a flipped bit", damaged, "the signature by command is wrong"),
        ("another fleet's key", by(&strangers, "command", &good(command()))?, "no key"),
        ("a key of another role", by(&keys, "config", &good(command()))?, "no key"),
        ("a reboot without its role", by(&keys, "command", &reboot)?, "not the role reboot"),
        ("all else with that role", by(&keys, "reboot", &good(command()))?, "not the role command"),
        ("another node's", ours(&|it| it.node = "elsewhere".into())?, "for another node"),
        ("another fleet's", ours(&|it| it.fleet = "other".into())?, "for another fleet"),
        ("of another epoch", ours(&|it| it.epoch = 2)?, "epoch is 2"),
        ("expired", ours(&|it| it.expires_unix_s = now() - 1)?, "it has expired"),
        ("for ever", ours(&|it| it.expires_unix_s = 0)?, "within a day"),
        ("for a year", ours(&|it| it.expires_unix_s = now() + 31_536_000)?, "within a day"),
        ("without an id", ours(&|it| it.id.clear())?, "it has 16"),
        ("from before the node", ours(&|it| it.issued_unix_s = now() - 3600)?, "sign it anew"),
        ("with a field of tomorrow", tomorrow, "a newer agent"),
        ("without a word", ours(&|it| it.command = None)?, "says nothing"),
    ];
    for (n, (what, bytes, why)) in cases.iter().enumerate() {
        broker.publish(&topics.command(), bytes, &[])?;
        let result = ear.result(n).map_err(|e| format!("{what}: {e:?}"))?;
        ensure!(result.outcome() == CommandOutcome::Refused, "{what}: {result:?}");
        ensure!(result.text.contains(why), "{what}: {result:?}");
    }
    let on_record = listed(&node)?;
    let count = on_record.iter().filter(|(_, what)| what == "command.refused").count();
    ensure!(count == cases.len(), "{count} of {} on record: {on_record:?}", cases.len());
    node.stop()?;

    // Without keys nobody is believed.
    node.unset("PURLIN_TRUST__KEYS");
    node.start()?;
    reported(&broker, &topics)?;
    wait::until("it is connected", ROUND_TRIP, || {
        broker.publish(&topics.command(), &cases[0].1, &[]).map_err(|e| format!("{e:?}"))?;
        let heard = ear.heard().map_err(|e| format!("{e:?}"))?;
        let (last, _) = heard.last().cloned().unwrap_or_default();
        let last = CommandResult::decode(&*last).map_err(|e| e.to_string())?;
        if last.text.contains("no keys") { Ok(()) } else { Err(format!("{last:?}")) }
    })?;
    node.stop()?;
    Ok(())
}

fn once(lab: &Lab) -> Result {
    let (broker, mut node, topics, keys) = trusting(lab)?;
    let ear = Ear::new(lab, &broker, &topics.result())?;
    // In place of a restart of this machine: it says that it was asked, and takes its time.
    let said = lab.dir().join("said");
    let script = format!("#!/bin/sh\necho once >> {}\nexec sleep 30\n", said.display());
    let program = lab.file("reboot", &script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    node.stop()?;
    node.set("PURLIN_TEST__REBOOT", &program);
    node.start()?;
    let signed = trust::sign_command(&good(Command::Reboot(Reboot {})), &key(&keys, "reboot")?)?;
    let times = || fs::read_to_string(&said).unwrap_or_default().lines().count();
    wait::until("it is begun", ROUND_TRIP, || {
        broker.publish(&topics.command(), &signed, &[]).map_err(|e| format!("{e:?}"))?;
        if times() == 1 { Ok(()) } else { Err(format!("{} times", times())) }
    })?;
    // Killed in the middle of it, and it comes again and again.
    node.kill()?;
    node.start()?;
    let result = ear.result(0)?;
    ensure!(result.outcome() == CommandOutcome::Failed, "{result:?}");
    ensure!(result.text.contains("the agent ended in it") && !result.repeated, "{result:?}");
    let record = listed(&node)?;
    for n in 1..=3 {
        broker.publish(&topics.command(), &signed, &[])?;
        let again = ear.result(n)?;
        ensure!(again.repeated && again.id == result.id && again.text == result.text, "{again:?}");
    }
    ensure!(times() == 1, "{} times", times());
    ensure!(listed(&node)? == record, "and nothing is written of what comes again");

    // The machine starts anew: the node sees another boot id.
    node.stop()?;
    let script = format!("#!/bin/sh\necho twice >> {}\n", said.display());
    lab.file("reboot", &script)?;
    node.start()?;
    let next = trust::sign_command(&good(Command::Reboot(Reboot {})), &key(&keys, "reboot")?)?;
    wait::until("it is begun", ROUND_TRIP, || {
        broker.publish(&topics.command(), &next, &[]).map_err(|e| format!("{e:?}"))?;
        if times() == 2 { Ok(()) } else { Err(format!("{} times", times())) }
    })?;
    node.kill()?;
    let boot = node.state_dir().join("boot");
    let counted = fs::read_to_string(&boot)?;
    let count = counted.split_once(' ').map_or("", |(count, _)| count);
    fs::write(&boot, format!("{count} 00000000-0000-0000-0000-000000000000\n"))?;
    node.start()?;
    let result = ear.result(4)?;
    ensure!(result.outcome() == CommandOutcome::Done, "{result:?}");
    ensure!(result.text.contains("booted anew") && times() == 2, "{result:?}");
    node.stop()?;
    Ok(())
}

fn answered(lab: &Lab) -> Result {
    let (broker, mut node, topics, keys) = trusting(lab)?;
    let mine = format!("{}/mine", topics.result());
    let ear = Ear::new(lab, &broker, &mine)?;
    let ask = |topic: &str, payload: &[u8]| {
        let answer = ["-D", "publish", "response-topic", &mine];
        let data = ["-D", "publish", "correlation-data", "mine"];
        broker.publish(topic, payload, &[answer, data].concat())
    };
    let signed = trust::sign_command(&good(Command::Doctor(Doctor {})), &key(&keys, "command")?)?;
    ask(&topics.command(), &signed)?;
    let (result, data): (CommandResult, _) = ear.answer(0)?;
    ensure!(data == "mine" && result.outcome() == CommandOutcome::Done, "{data}: {result:?}");

    // A document is answered when its trial is over, or at once.
    let good = sign(lab, &node, &keys, "version = 1\n", &["--node", "node"])?;
    let documents = [(good, Outcome::Confirmed), (b"\x10\x05".to_vec(), Outcome::Refused)];
    for (n, (document, outcome)) in documents.into_iter().enumerate() {
        ask(&topics.desired(), &document)?;
        let (told, data): (Reported, _) = ear.answer(n + 1)?;
        let told = told.desired.unwrap_or_default();
        ensure!(data == "mine" && told.outcome() == outcome, "{data}: {told:?}");
    }
    node.stop()?;
    Ok(())
}
