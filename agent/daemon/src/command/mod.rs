//! The task `command`: what the core wants done once, each with a result.
//!
//! A command is believed for its signature alone ([`believe`]): a node without keys takes
//! none, since a document that is wrong undoes itself, and a command does not. It is
//! durable that one is begun before it is ([`seen`]), and what became of it is on record
//! and told. One that comes again does nothing, and is told what became of it then.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::{Message as _, bytes::Bytes};
use purlin_core::inventory::Inventory;
use purlin_proto::{
    api,
    topic::Topics,
    v1::{self, CommandOutcome, CommandSeen},
};
use tokio::sync::{mpsc, watch};

use crate::{
    audit,
    clock::{self, Clock, Floor},
    door::Ask,
    logging::Lines,
    spool::Spool,
    status::Sources,
    uplink::{Message, Reply},
};

mod believe;
mod bundle;
mod carry_out;
mod identify;
mod seen;

use believe::{Judged, Refused};
pub use bundle::{MAX_BYTES as MAX_BUNDLE_BYTES, SOURCE as BUNDLE};
pub use carry_out::Rebooter;
pub use identify::Lights;
use seen::Seen;

/// Commands that may wait for the one under way; what comes then is left out.
pub const INBOX: usize = 8;
/// Results that may wait for a session.
pub const MAX_RESULTS: usize = 32;

/// Owns what was begun.
#[derive(Debug)]
pub struct Owner {
    topics: Topics,
    wiring: Wiring,
    seen: Seen,
}

/// What the owner is connected to.
#[derive(Debug)]
pub struct Wiring {
    /// What is told by `doctor`, and whose tasks are started anew.
    pub sources: Arc<Sources>,
    /// What `drain` empties.
    pub spool: Spool,
    /// Who knows the keys.
    pub door: mpsc::Sender<Ask>,
    /// The record.
    pub audit: audit::Client,
    /// What time it is at least.
    pub floor: Floor,
    /// What records are stamped by.
    pub clock: Clock,
    /// Number of this boot.
    pub boot: u32,
    /// The machine's root, or a dump's directory.
    pub root: PathBuf,
    /// The machine.
    pub inventory: watch::Receiver<Arc<Inventory>>,
    /// What the agent has written about itself.
    pub lines: Lines,
    /// Who lets the chassis be found.
    pub lights: Lights,
    /// Who may restart the machine.
    pub rebooter: Rebooter,
    /// What came.
    pub inbox: mpsc::Receiver<Message>,
    /// Where results leave.
    pub results: mpsc::Sender<Message>,
    /// How many there were.
    pub counts: watch::Sender<api::Commands>,
}

/// What came of one.
#[derive(Debug)]
struct Came {
    outcome: CommandOutcome,
    text: String,
    faults: Vec<String>,
}

impl Came {
    fn new(outcome: CommandOutcome, text: impl Into<String>) -> Self {
        Self { outcome, text: text.into(), faults: Vec::new() }
    }
}

impl Owner {
    /// One that goes on with what `dir` says was begun.
    pub fn open(dir: &Path, wiring: Wiring) -> Self {
        let (seen, problems) = Seen::open(dir, wiring.floor.now());
        for problem in problems {
            tracing::error!(problem, "which commands were begun is damaged");
        }
        wiring.floor.learn(seen.trusted_unix_s());
        let identity = &wiring.sources.identity;
        Self { topics: Topics::new(&identity.fleet, &identity.node), wiring, seen }
    }

    /// Tells what became of those that the agent ended in, and carries out one after the
    /// other until nobody is left to ask.
    pub async fn run(&mut self) {
        for seen in self.seen.unfinished() {
            let came = self.ended_in(&seen);
            self.over(&seen, came).await;
        }
        while let Some(message) = self.wiring.inbox.recv().await {
            self.take(message).await;
        }
    }

    async fn take(&mut self, message: Message) {
        match self.judge(&message).await {
            // It is told as soon as it is over.
            Ok(Judged::Again(seen)) if seen.outcome() == CommandOutcome::Unspecified => {}
            Ok(Judged::Again(seen)) => {
                // Nothing is written: a broker may deliver it as often as it likes.
                tracing::debug!(what = seen.what, "a command came again");
                let came = Came::new(seen.outcome(), seen.text.clone());
                self.tell(seen.id, came, true, message.reply);
            }
            Ok(Judged::Begun(seen, command)) => {
                let text = format!("{} ({})", seen.what, hex::encode(&seen.id));
                self.wiring.audit.note(&seen.by, "command.begun", &text).await;
                let came = self.carry_out(&seen.id, command).await;
                if let Some(came) = came {
                    self.over(&seen, came).await;
                }
            }
            Err(Refused { id, by, why }) => {
                let came = Came::new(CommandOutcome::Refused, why);
                self.record(&by, "a command", &id, &came).await;
                self.tell(id, came, false, message.reply);
            }
        }
    }

    /// Whose end nobody saw: the agent ended, or the machine did.
    fn ended_in(&self, seen: &CommandSeen) -> Came {
        match seen.reboots && seen.boot != self.wiring.boot {
            true => Came::new(CommandOutcome::Done, "the machine has booted anew"),
            false => {
                let why = "the agent ended in it: how far it came is not known";
                Came::new(CommandOutcome::Failed, why)
            }
        }
    }

    async fn over(&mut self, seen: &CommandSeen, came: Came) {
        if let Err(why) = self.seen.finish(&seen.id, came.outcome, &came.text) {
            tracing::error!(why, "what became of a command can't be kept");
        }
        self.record(&seen.by, &seen.what, &seen.id, &came).await;
        let reply = Reply {
            topic: Some(seen.response_topic.clone()).filter(|topic| !topic.is_empty()),
            correlation: Some(seen.correlation.clone()).filter(|it| !it.is_empty()),
        };
        self.tell(seen.id.clone(), came, false, Some(reply));
    }

    async fn record(&self, by: &str, what: &str, id: &[u8], came: &Came) {
        let word = match came.outcome {
            CommandOutcome::Done => "done",
            CommandOutcome::Failed | CommandOutcome::Unspecified => "failed",
            CommandOutcome::Refused => "refused",
            CommandOutcome::Unsupported => "unsupported",
        };
        let id = if id.is_empty() { String::new() } else { format!(" ({})", hex::encode(id)) };
        let (name, text) = (format!("command.{word}"), format!("{what}{id}: {}", came.text));
        tracing::info!(by, text, "a command is {word}");
        self.wiring.audit.note(by, &name, &text).await;
        self.wiring.spool.event(&name, format!("by {by}: {text}"));
        self.wiring.counts.send_modify(|counts| match came.outcome {
            CommandOutcome::Refused => {
                counts.refused += 1;
                counts.last_refusal = Some(came.text.clone());
            }
            _ => counts.begun += 1,
        });
    }

    /// Hands the result to the uplink. Where so many wait that there is no room, the
    /// event in the spool tells it all the same, and so does the command once more.
    fn tell(&self, id: Bytes, came: Came, repeated: bool, reply: Option<Reply>) {
        let result = v1::CommandResult {
            id,
            node: self.wiring.sources.identity.node.clone(),
            outcome: came.outcome.into(),
            text: came.text,
            faults: came.faults,
            unix_ms: clock::unix_ms(),
            repeated,
        };
        let Reply { topic, correlation } = reply.unwrap_or_default();
        let topic = topic.unwrap_or_else(|| self.topics.result());
        let payload = result.encode_to_vec().into();
        let reply = correlation.map(|it| Reply { topic: None, correlation: Some(it) });
        if self.wiring.results.try_send(Message { topic, payload, retain: false, reply }).is_err() {
            tracing::warn!("{MAX_RESULTS} results of commands wait to be sent: one is left out");
        }
    }
}
