//! A broker on the far side of a bad network: a real mosquitto in a network namespace
//! of its own with the agent, packets dropped by nftables. An independent subscriber
//! (mosquitto_sub), which nothing is dropped for, reconciles by identity: nothing is
//! missing, and no reset has more sent again than was on its way.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use purlin_daemon::wire;
use purlin_proto::v1::Class;
use purlin_tests::{
    Lab, Need, Node, Result, broker::unhex, ensure, lab::Test, namespace::Namespace, node::class,
    process::Process, test, wait,
};

/// For the agent, which the subscriber is not.
pub const PORT: u16 = 1883;
/// For the subscriber.
const OTHER_PORT: u16 = 1884;
/// Batches that the agent has on their way at once (`uplink::MAX_IN_FLIGHT`).
const IN_FLIGHT: u64 = 32;
/// For anything to come about.
const SOON: Duration = Duration::from_secs(60);

pub fn tests() -> Vec<Test> {
    let programs = ["mosquitto", "mosquitto_sub", "nft", "ip", "unshare", "nsenter"];
    let needs: Vec<Need> = programs.map(Need::Program).into_iter().chain([Need::Root]).collect();
    let tests = [
        test("a_third_of_all_packets_lost_loses_no_record", 150, |lab| {
            bad_network(lab, "", &[("numgen random mod 100 < 30 drop", 12)])
        }),
        test("a_network_that_goes_and_comes_loses_no_record", 150, |lab| {
            // The second outlasts the deadline of acknowledgements, 20 s: a reset.
            bad_network(lab, "", &[("drop", 5), ("accept", 3), ("drop", 24)])
        }),
        test("a_broker_that_takes_little_at_a_time_gets_it_all", 150, |lab| {
            let lines = "max_packet_size 1200\nmax_inflight_messages 2";
            bad_network(lab, lines, &[("accept", 6)])
        }),
    ];
    tests.into_iter().map(|it| it.needs(&needs)).collect()
}

/// What happens to packets, for how many seconds.
type Rule = (&'static str, u64);

fn bad_network(lab: &Lab, lines: &str, rules: &[Rule]) -> Result {
    let net = Net::new()?;
    let _broker = net.broker(lab, lines)?;
    let messages = lab.dir().join("messages");
    let _subscriber = wait::until("the subscriber", SOON, || {
        net.subscribe(&messages, "purlin/v1/lab/node/#").map_err(|e| format!("{e:?}"))
    })?;

    let mut node = Node::new(lab, "node")?;
    let binary = node.binary().to_owned();
    node.run_with(&["nsenter", "-t", &net.pid(), "-n"], &binary);
    node.set("PURLIN_UPLINK__ENDPOINT", format!("mqtt://127.0.0.1:{PORT}"));
    node.set("PURLIN_TEST__CPU_INTERVAL_MS", "5");
    node.start()?;
    wait::until("the link", SOON, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if link.acked_records > 0 { Ok(()) } else { Err(format!("{link:?}")) }
    })?;
    // Many small batches, not a large one a minute.
    let quick = lab.file("quick.toml", "version = 1\n[spool]\ncommit_window_s = 1\n")?;
    let applied = node.cli_for(60, &["config", "apply", &quick.display().to_string()])?;
    ensure!(applied.code == 0, "{applied:?}");
    for (rule, seconds) in rules {
        net.rule(rule)?;
        sleep(Duration::from_secs(*seconds));
    }
    net.rule("accept")?;
    sleep(Duration::from_secs(1));
    // Everything durable, and no more.
    node.stop()?;
    node.unset("PURLIN_TEST__CPU_INTERVAL_MS");
    node.start()?;
    let promised = node.queue()?;
    let durable = class(&promised, "metric")?.durable_seq;
    ensure!(durable > 500, "only {durable} records");
    wait::until("everything durable is acknowledged", SOON, || {
        let queue = node.queue().map_err(|e| format!("{e:?}"))?;
        let metric = class(&queue, "metric").map_err(|e| format!("{e:?}"))?;
        if metric.acked_seq >= durable { Ok(()) } else { Err(format!("{metric:?}")) }
    })?;
    node.stop()?;
    sleep(Duration::from_secs(1));
    reconcile(&messages, durable, node.log()?.matches("the link is up").count() as u64)
}

/// Nothing is missing, and duplicates stay within what each reset may send again.
fn reconcile(messages: &PathBuf, durable: u64, connects: u64) -> Result {
    let mut came: BTreeMap<u64, u32> = BTreeMap::new();
    let (mut again, mut batches) = (0, 0);
    let text = fs::read_to_string(messages)?;
    for (topic, payload) in text.lines().filter_map(|line| line.split_once(' ')) {
        if !topic.ends_with("/metric") || !text.ends_with('\n') {
            continue;
        }
        let batch = wire::decode(&unhex(payload)?).map_err(|e| e.to_string())?;
        ensure!(batch.class() == Class::Metric && batch.gaps.is_empty(), "{:?}", batch.gaps);
        batches += 1;
        let mut repeated = false;
        for (seq, _) in wire::records(&batch).map_err(|e| e.to_string())? {
            let times = came.entry(seq).or_default();
            *times += 1;
            repeated |= *times > 1;
        }
        again += u64::from(repeated);
    }
    let missing: Vec<_> = (1..=durable).filter(|seq| !came.contains_key(seq)).collect();
    ensure!(missing.is_empty(), "{} of {durable} are missing, e.g. {missing:?}", missing.len());
    // A batch that is sent again may be cut another way, so that one touches two.
    let bound = 2 * IN_FLIGHT * (connects - 1);
    ensure!(again <= bound, "{again} batches came again over {connects} connections");
    println!("{durable} records in {batches} batches, {again} again, {connects} connections");
    Ok(())
}

/// A network namespace that lives as long as it.
pub struct Net(Namespace);

impl Net {
    pub fn new() -> Result<Self> {
        Namespace::new().map(Self)
    }

    pub fn pid(&self) -> String {
        self.0.pid()
    }

    pub fn command(&self, program: &str) -> Command {
        self.0.command(program)
    }

    /// What happens to packets between agent and broker, both ways.
    fn rule(&self, rule: &str) -> Result {
        let table = format!(
            "table inet lossy\ndelete table inet lossy\ntable inet lossy {{\n\
             chain in {{\ntype filter hook input priority 0;\n\
             tcp dport {PORT} {rule}\ntcp sport {PORT} {rule}\n}}\n}}\n"
        );
        nft(self, &table)
    }

    /// A mosquitto in it, for agents and for the subscriber.
    pub fn broker(&self, lab: &Lab, lines: &str) -> Result<Process> {
        let config = format!(
            "per_listener_settings false\nlistener {PORT} 127.0.0.1\nlistener {OTHER_PORT} \
             127.0.0.1\nallow_anonymous true\npersistence false\nuser root\nlog_dest stderr\n\
             {lines}\n"
        );
        let config = lab.file("mosquitto.conf", config)?;
        let log = File::create(lab.dir().join("mosquitto.log"))?;
        let mut broker = self.command("mosquitto");
        broker.arg("-c").arg(config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Process::start(&mut broker)
    }

    /// A subscriber that has subscribed.
    pub fn subscribe(&self, to: &PathBuf, topic: &str) -> Result<Process> {
        let mut command = self.command("mosquitto_sub");
        command.args(["-V", "5", "-h", "127.0.0.1", "-p", &OTHER_PORT.to_string(), "-q", "1"]);
        command.args(["-t", topic, "-F", "%t %x"]);
        let log = to.with_extension("log");
        command.stdin(Stdio::null()).stdout(File::create(to)?).stderr(File::create(&log)?);
        let process = Process::start(&mut command)?;
        sleep(Duration::from_millis(300));
        ensure!(process.ended()?.is_none(), "mosquitto_sub ended");
        Ok(process)
    }
}

/// Loads a table into a namespace.
pub fn nft(net: &Net, table: &str) -> Result {
    let mut nft = net.command("nft");
    let mut child = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().ok_or("no input")?, table.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "nft: {status}, of {table}");
    Ok(())
}
