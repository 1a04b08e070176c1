//! `purlin fleet command`: has nodes do something once, and waits for what comes of it.
//!
//! What a node was sent is sent again, the very same, until it answers: it is carried out
//! once however often it comes, and a node that comes back after a crash or a reboot says
//! what became of it.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prost::Message as _;
use purlin_daemon::{
    mqtt::{Answer, Message},
    trust::{self, SigningKey},
};
use purlin_proto::v1::{self, CommandOutcome, signed_command::Command};
use tokio::{task::JoinSet, time::Instant};

use super::{broker::Fleet, keys};
use crate::{
    args::{CommandArgs, Order},
    exit::{Ended, Failure},
    output::{Output, Page},
};

mod bundle;
mod page;

use bundle::Parts;
use page::{Commanded, CommandedNode};

/// A node that said nothing is sent it again.
const AGAIN: Duration = Duration::from_secs(5);
/// Random bytes that a command is known by.
const ID_BYTES: usize = 16;

/// Where a node stands.
struct At {
    id: Vec<u8>,
    signed: Vec<u8>,
    since: Instant,
    sent: Instant,
    result: Option<v1::CommandResult>,
    /// Why there is none.
    why: String,
}

struct Run<'a> {
    args: &'a CommandArgs,
    fleet: Fleet,
    nodes: BTreeMap<String, At>,
    answers: JoinSet<(String, Answer)>,
    parts: BTreeMap<String, Parts>,
    saved: BTreeMap<String, String>,
}

/// `purlin fleet command`
pub async fn run(args: &CommandArgs, output: &Output) -> Ended {
    let command = wanted(args)?;
    let set = trust::peek_keys(&keys::key_set(&args.keys)?).map_err(Failure::Failed)?;
    if set.fleet != args.at.fleet {
        return Err(Failure::Usage(format!(
            "the keys are of fleet {0}: say --fleet {0}",
            set.fleet
        )));
    }
    let role = if args.order == Order::Reboot { "reboot" } else { "command" };
    let key = SigningKey::read(&args.keys.join(format!("{role}.key"))).map_err(|why| {
        Failure::Failed(format!("{why}; purlin fleet keygen makes one, and rotate a new one"))
    })?;
    let mut fleet = Fleet::connect(&args.at).await?;
    let nodes = fleet.selected(&args.nodes.0);
    if nodes.is_empty() {
        let what = format!("no node of {} has reported to the broker", args.nodes.0.join(", "));
        return Err(Failure::Failed(what));
    }
    fleet.listen("result").await?;
    if args.save.is_some() {
        fleet.listen("log").await?;
    }
    let mut at = BTreeMap::new();
    for node in nodes {
        let (id, signed) = sign(args, &set, &key, &node, &command)?;
        let now = Instant::now();
        let new = At { id, signed, since: now, sent: now, result: None, why: String::new() };
        at.insert(node, new);
    }
    let (answers, parts, saved) = (JoinSet::new(), BTreeMap::new(), BTreeMap::new());
    let mut run = Run { args, fleet, nodes: at, answers, parts, saved };
    run.all().await?;
    let page = run.page();
    output.show(&page, |width| page.page(width))?;
    Ok(page.exit())
}

/// What was typed, as what is meant.
fn wanted(args: &CommandArgs) -> Result<Command, Failure> {
    let of = args.of.clone();
    let usage = |what: String| Err(Failure::Usage(what));
    match (args.order, &of) {
        (Order::Restart, None) => {
            return usage("restart which task? `purlin status` has them".into());
        }
        (Order::Restart | Order::Identify, _) | (_, None) => {}
        (_, Some(of)) => return usage(format!("{of} is one word too many")),
    }
    let of = of.unwrap_or_default();
    Ok(match args.order {
        Order::Restart => Command::Restart(v1::RestartTask { task: of }),
        Order::Drain => Command::Drain(v1::Drain {}),
        Order::Doctor => Command::Doctor(v1::Doctor {}),
        Order::SupportBundle => Command::SupportBundle(v1::SupportBundle {}),
        Order::Identify => {
            let seconds = u32::try_from(args.blinks.as_secs()).unwrap_or(u32::MAX);
            Command::Identify(v1::Identify { nic: of, seconds })
        }
        Order::Reboot => Command::Reboot(v1::Reboot {}),
    })
}

/// The command for one node: its id, and what is published.
fn sign(
    args: &CommandArgs,
    set: &v1::KeySet,
    key: &SigningKey,
    node: &str,
    command: &Command,
) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let id = trust::random::<ID_BYTES>().map_err(Failure::Failed)?.to_vec();
    let signed = v1::SignedCommand {
        fleet: set.fleet.clone(),
        node: node.into(),
        epoch: set.epoch,
        id: id.clone().into(),
        issued_unix_s: now,
        expires_unix_s: now + args.expires.as_secs(),
        command: Some(command.clone()),
    };
    Ok((id, trust::sign_command(&signed, key).map_err(Failure::Failed)?))
}

impl Run<'_> {
    /// Sends to all, and waits until each has answered or was silent for too long.
    async fn all(&mut self) -> Result<(), Failure> {
        let names: Vec<_> = self.nodes.keys().cloned().collect();
        for node in &names {
            self.send(node).await?;
        }
        while self.nodes.values().any(|at| self.is_open(at)) {
            let deadline = Instant::now() + Duration::from_millis(500);
            if let Some(message) = self.fleet.message_until(deadline).await? {
                self.heard(&message)?;
            }
            self.look();
            for node in &names {
                let at = &self.nodes[node];
                if at.result.is_none() && at.why.is_empty() && at.sent.elapsed() > AGAIN {
                    self.send(node).await?;
                }
            }
        }
        Ok(())
    }

    /// A node that has answered is done with once its bundle is here as well.
    fn is_open(&self, at: &At) -> bool {
        let is_saved = |result: &v1::CommandResult| {
            self.args.save.is_none()
                || result.outcome() != CommandOutcome::Done
                || self.saved.contains_key(&result.node)
        };
        at.why.is_empty() && !at.result.as_ref().is_some_and(is_saved)
    }

    async fn send(&mut self, node: &str) -> Result<(), Failure> {
        let Some(at) = self.nodes.get_mut(node) else { return Ok(()) };
        at.sent = Instant::now();
        let answer = self.fleet.command(node, at.signed.clone()).await?;
        let node = node.to_owned();
        self.answers.spawn(async move { (node, answer.await) });
        Ok(())
    }

    fn heard(&mut self, message: &Message) -> Result<(), Failure> {
        let mut levels = message.topic.split('/').skip(3);
        let (Some(node), Some(topic)) = (levels.next(), levels.next()) else { return Ok(()) };
        let Some(at) = self.nodes.get_mut(node) else { return Ok(()) };
        match topic {
            "result" => {
                // What it can't read it can't name either.
                let result = v1::CommandResult::decode(message.payload.clone()).ok();
                if let Some(result) = result.filter(|it| it.id == at.id || it.id.is_empty()) {
                    at.result = Some(result);
                }
            }
            "log" if self.args.save.is_some() => {
                let parts = self.parts.entry(node.to_owned()).or_default();
                if let Some(bundle) = parts.take(&message.payload, &at.id) {
                    let path = save(self.args.save.as_deref(), node, &bundle)?;
                    self.saved.insert(node.to_owned(), path);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The broker's answers, and those who were silent for too long.
    fn look(&mut self) {
        while let Some(Ok((node, answer))) = self.answers.try_join_next() {
            let refused = match answer {
                Answer::Taken { .. } => continue,
                Answer::RefusedForGood(why) | Answer::RefusedForNow(why) => why,
                Answer::Lost => "the connection was lost".into(),
            };
            if let Some(at) = self.nodes.get_mut(&node) {
                at.why = format!("the broker: {refused}");
            }
        }
        for at in self.nodes.values_mut().filter(|at| at.why.is_empty()) {
            if at.since.elapsed() > self.args.timeout {
                at.why = match &at.result {
                    None => "the node did not say anything: is it connected?".into(),
                    Some(_) => "its bundle did not come whole: is the link slow?".into(),
                };
            }
        }
    }

    fn page(&self) -> Commanded {
        let node = |(node, at): (&String, &At)| match &at.result {
            None => CommandedNode {
                node: node.clone(),
                result: "silent".into(),
                text: at.why.clone(),
                ..CommandedNode::default()
            },
            Some(result) => CommandedNode {
                node: node.clone(),
                result: word(result.outcome()).into(),
                text: result.text.clone(),
                faults: result.faults.clone(),
                saved: self.saved.get(node).cloned(),
            },
        };
        Commanded { nodes: self.nodes.iter().map(node).collect() }
    }
}

fn word(outcome: CommandOutcome) -> &'static str {
    match outcome {
        CommandOutcome::Done => "done",
        CommandOutcome::Failed | CommandOutcome::Unspecified => "failed",
        CommandOutcome::Refused => "refused",
        CommandOutcome::Unsupported => "unsupported",
    }
}

fn save(dir: Option<&Path>, node: &str, bundle: &[u8]) -> Result<String, Failure> {
    let path = dir.unwrap_or(Path::new(".")).join(format!("{node}.tar.gz"));
    fs::write(&path, bundle)
        .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    Ok(path.display().to_string())
}
