//! A rule of the configuration, from the reading to whoever must know: the command line,
//! what the broker retains, the records, a webhook, and a restart in between.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use prost::Message;
use purlin_proto::v1;
use purlin_tests::{Broker, Lab, Node, Proxy, Result, ensure, wait};
use serde_json::Value;

/// Between a reading and everybody knowing of it.
const SOON: Duration = Duration::from_secs(30);
const RULE: &str = "busy";
const ID: &str = "busy.used";
const TOPIC: &str = "purlin/v1/lab/node/alarms/busy.used";

/// Raises and clears as a rule is changed: memory in use is above 1 byte and not above all.
pub fn whole(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let proxy = Proxy::start(broker.port())?;
    let hook = Webhook::start()?;
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_UPLINK__ENDPOINT", proxy.endpoint());
    node.start()?;

    configure(lab, &node, &hook, 1.0)?;
    wait::until("the alarm is listed", SOON, || raised(&node).map(drop))?;
    let listed = node.cli(&["alarm", "list"])?;
    ensure!(listed.code == 2 && listed.stdout.contains("free some"), "{listed:?}");
    let status = node.cli(&["status"])?;
    ensure!(status.stdout.contains("alarm"), "{status:?}");
    let retained = || broker.retained(TOPIC).map_err(|error| format!("{error:?}"));
    let retained_alarm = || {
        let payload = retained()?.ok_or("nothing is retained")?;
        v1::Alarm::decode(&*payload).map_err(|error| error.to_string())
    };
    wait::until("the broker retains it", SOON, || {
        let alarm = retained_alarm()?;
        let well = alarm.raised && alarm.severity == "critical" && alarm.id == ID;
        if well { Ok(()) } else { Err(format!("{alarm:?}")) }
    })?;
    wait::until("the webhook has it", SOON, || hook.has("firing"))?;

    let unknown = node.cli(&["alarm", "ack", "cold", "--reason", "x"])?;
    ensure!(unknown.code == 1 && unknown.stderr.contains("no alarm cold"), "{unknown:?}");
    let known = node.cli(&["alarm", "ack", ID, "--reason", "memory ordered"])?;
    ensure!(known.code == 0, "{known:?}");
    wait::until("the broker retains who knows of it", SOON, || {
        let alarm = retained_alarm()?;
        let known = alarm.acknowledged.ends_with(": memory ordered");
        if known { Ok(()) } else { Err(format!("{alarm:?}")) }
    })?;
    let silence = |time: &str, reason: &str| {
        node.cli(&["alarm", "silence", ID, "--for", time, "--reason", reason])
    };
    for (time, reason, why) in [("31d", "x", "30 days"), ("1h", " ", "reason")] {
        let refused = silence(time, reason)?;
        ensure!(refused.code == 3 && refused.stderr.contains(why), "{refused:?}");
    }
    let silent = silence("1h", "swapping memory")?;
    ensure!(silent.code == 0 && silent.stderr.starts_with("silent until "), "{silent:?}");
    let listed = node.cli(&["alarm", "list"])?;
    // What is silent is listed, and no fault.
    ensure!(listed.code == 0 && listed.stdout.contains("swapping memory"), "{listed:?}");
    wait::until("the broker retains until when it is silent", SOON, || {
        let alarm = retained_alarm()?;
        let minutes = alarm.silenced_until_unix_ms.saturating_sub(alarm.raised_unix_ms) / 60_000;
        if (59..=65).contains(&minutes) { Ok(()) } else { Err(format!("{alarm:?}")) }
    })?;
    node.kill()?;
    let dead = node.cli(&["alarm", "list"])?;
    ensure!(dead.stdout.contains("memory ordered"), "with the agent dead: {dead:?}");
    node.start()?;
    let after = raised(&node)?;
    ensure!(after["acknowledged"]["reason"] == "memory ordered", "{after}");
    ensure!(after["silenced"]["reason"] == "swapping memory", "{after}");

    configure(lab, &node, &hook, 1e18)?;
    wait::until("it is cleared", SOON, || match raised(&node) {
        Ok(alarm) => Err(alarm.to_string()),
        Err(_) => Ok(()),
    })?;
    wait::until("the broker forgets it", SOON, || match retained()? {
        None => Ok(()),
        Some(_) => Err("it is retained".into()),
    })?;
    wait::until("the webhook has its end", SOON, || hook.has("resolved"))?;
    let history = node.cli(&["alarm", "history"])?;
    ensure!(history.stdout.contains(ID), "{history:?}");
    wait::until("the records arrive", SOON, || {
        let alarms = &proxy.observed().alarms;
        let of =
            |raised: bool| alarms.iter().filter(|it| it.id == ID && it.raised == raised).count();
        // Raised, and noted twice; a restart raises nothing a second time.
        if (of(true), of(false)) == (3, 1) { Ok(()) } else { Err(format!("{alarms:?}")) }
    })?;
    node.stop().map(drop)
}

fn configure(lab: &Lab, node: &Node, hook: &Webhook, above: f64) -> Result {
    let document = format!(
        "[sampling]\ninterval_s = 1\n[alarms]\nwebhook = \"http://{}/hook\"\n[alarms.rules.{RULE}]\n\
         metric = \"system.memory.usage\"\nattributes = {{ \"system.memory.state\" = \"used\" }}\n\
         above = {above:?}\nclear_hold_s = 1\nseverity = \"critical\"\n\
         remedy = \"free some\"\n",
        hook.address
    );
    let file = lab.file("alarms.toml", document)?;
    let answer = node.cli(&["config", "apply", &file.display().to_string()])?;
    ensure!(answer.code == 0, "{answer:?}");
    Ok(())
}

fn raised(node: &Node) -> std::result::Result<Value, String> {
    let answer =
        node.cli(&["alarm", "list", "-o", "json"]).map_err(|error| format!("{error:?}"))?;
    let list: Value = serde_json::from_str(&answer.stdout).map_err(|error| error.to_string())?;
    let mut all = list["raised"].as_array().into_iter().flatten();
    let own = all.find(|alarm| alarm["id"] == ID);
    own.cloned().ok_or(answer.stdout)
}

/// Takes what is posted, but for the first.
struct Webhook {
    address: String,
    posts: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let posts = Arc::new(Mutex::new(Vec::new()));
        let taken = posts.clone();
        thread::spawn(move || {
            for (n, stream) in listener.incoming().flatten().enumerate() {
                if let Some(post) = take(stream, n > 0) {
                    taken.lock().expect("no panic").push(post);
                }
            }
        });
        Ok(Self { address, posts })
    }

    fn has(&self, status: &str) -> std::result::Result<(), String> {
        let posts = self.posts.lock().map_err(|error| error.to_string())?;
        let is_it =
            |post: &Value| {
                post["version"] == "4"
                    && post["alerts"].as_array().into_iter().flatten().any(|alert| {
                        alert["status"] == status && alert["labels"]["alertname"] == RULE
                    })
            };
        if posts.iter().any(is_it) { Ok(()) } else { Err(format!("{posts:?}")) }
    }
}

/// One post; the first is answered with 503, and must come again.
fn take(mut stream: TcpStream, well: bool) -> Option<Value> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let status = if well { "200 OK" } else { "503 Service Unavailable" };
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").ok()?;
    serde_json::from_slice(&body).ok().filter(|_| well)
}
