//! `purlin fleet push`: one document to many nodes, a few of them first, and no further
//! once too many fail.

use std::{
    collections::{BTreeMap, VecDeque},
    io::IsTerminal,
    time::{Duration, Instant},
};

use purlin_daemon::mqtt::Answer;
use purlin_proto::v1::{self, Outcome};
use tokio::task::JoinSet;

use super::{
    broker::{Fleet, outcome, why},
    page::{Pushed, PushedNode},
    sign::{self, Signed, Signer},
};
use crate::{
    args::PushArgs,
    exit::{Ended, Failure},
    output::{Output, Page},
};

/// Nodes that are at it at once: each reconnects under its trial, and a broker takes
/// so many in a second.
const AT_ONCE: usize = 500;
/// Documents that the broker has not answered for, at most: so few that the connection
/// takes each of them at once. One that had to wait would wait for ever, while nobody
/// hears the reports that the connection is stuck on.
const UNANSWERED: usize = 16;
/// How often the progress is drawn.
const DRAW: Duration = Duration::from_millis(200);

/// Where a node stands.
struct At {
    sha256: Vec<u8>,
    since: Instant,
    /// What it has said of this document.
    state: &'static str,
    why: String,
    over: bool,
}

struct Push<'a> {
    args: &'a PushArgs,
    fleet: Fleet,
    desired: v1::Desired,
    signer: Option<Signer>,
    nodes: BTreeMap<String, At>,
    answers: JoinSet<(String, Answer)>,
    drawn: Option<Instant>,
}

/// `purlin fleet push`
pub async fn run(args: &PushArgs, output: &Output) -> Ended {
    let desired = sign::read(&args.file, args.written, args.signing.version)?;
    let signer = match &args.keys {
        Some(dir) => Some(Signer::open(dir, &args.signing, desired.version)?),
        None => None,
    };
    if let Some(signer) = signer.as_ref().filter(|signer| signer.fleet() != args.at.fleet) {
        let what = format!("the keys are of fleet {}: say --fleet {0}", signer.fleet());
        return Err(Failure::Usage(what));
    }
    let fleet = Fleet::connect(&args.at).await?;
    let mut all = VecDeque::from(fleet.selected(&args.nodes));
    if all.is_empty() {
        let what = format!("no node of {} has reported to the broker", args.nodes.join(", "));
        return Err(Failure::Failed(what));
    }
    let rest = all.split_off(args.canary.min(all.len()));
    let (nodes, answers) = (BTreeMap::new(), JoinSet::new());
    let mut push = Push { args, fleet, desired, signer, nodes, answers, drawn: None };
    let began = Instant::now();
    // One canary that fails is one too many.
    let mut left = push.send(all, 1, rest.len()).await?;
    match left.is_empty() && push.failures() == 0 {
        true => left = push.send(rest, args.max_failures, 0).await?,
        false => left.extend(rest),
    }
    let pushed = push.page(left, began);
    output.show(&pushed, |width| pushed.page(width))?;
    Ok(pushed.exit())
}

impl Push<'_> {
    /// Sends to each of the nodes and waits for them; those that were not sent to,
    /// because so many have failed.
    async fn send(
        &mut self,
        mut queue: VecDeque<String>,
        max_failures: usize,
        later: usize,
    ) -> Result<VecDeque<String>, Failure> {
        loop {
            while self.under_way() < AT_ONCE
                && self.answers.len() < UNANSWERED
                && self.failures() < max_failures
            {
                let Some(node) = queue.pop_front() else { break };
                self.send_one(node).await?;
            }
            let enough = self.failures() >= max_failures;
            if self.under_way() == 0 && (queue.is_empty() || enough) {
                return Ok(queue);
            }
            self.draw(queue.len() + later);
            if let Some(node) = self.fleet.next_within(DRAW).await? {
                self.heard(&node);
            }
            self.look();
        }
    }

    async fn send_one(&mut self, node: String) -> Result<(), Failure> {
        let Signed { bytes, sha256 } = match &self.signer {
            Some(signer) => signer.sign(&self.desired, &node)?,
            None => sign::unsigned(&self.desired),
        };
        let answer = self.fleet.publish(&node, bytes).await?;
        let name = node.clone();
        self.answers.spawn(async move { (name, answer.await) });
        let (state, why) = ("sent", String::new());
        let at = At { sha256, since: Instant::now(), state, why, over: false };
        self.nodes.insert(node.clone(), at);
        // It may have taken this very document before.
        self.heard(&node);
        Ok(())
    }

    fn heard(&mut self, node: &str) {
        let reported = self.fleet.nodes.get(node).and_then(|it| it.desired.as_ref());
        let (Some(verdict), Some(at)) = (reported, self.nodes.get_mut(node)) else { return };
        if verdict.sha256 != at.sha256 || at.over {
            return;
        }
        at.state = outcome(verdict);
        at.why = why(verdict);
        // Interrupted is tried again by itself, when the node connects again.
        at.over = matches!(
            verdict.outcome(),
            Outcome::Refused | Outcome::Confirmed | Outcome::Reverted | Outcome::Superseded
        );
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
                (at.state, at.why, at.over) = ("unsent", format!("the broker: {refused}"), true);
            }
        }
        for at in self.nodes.values_mut().filter(|at| !at.over) {
            if at.since.elapsed() > self.args.timeout {
                at.why = match at.state {
                    "sent" => "the node did not say anything: is it connected?".into(),
                    state => format!("still {state} after {:?}", self.args.timeout),
                };
                (at.state, at.over) = ("silent", true);
            }
        }
    }

    fn under_way(&self) -> usize {
        self.nodes.values().filter(|at| !at.over).count()
    }

    fn failures(&self) -> usize {
        self.nodes.values().filter(|at| at.over && at.state != "confirmed").count()
    }

    /// A line on a terminal that is drawn over and over.
    fn draw(&mut self, unsent: usize) {
        let due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= DRAW);
        if !due || !std::io::stderr().is_terminal() {
            return;
        }
        self.drawn = Some(Instant::now());
        let count = |state: &str| self.nodes.values().filter(|at| at.state == state).count();
        let (all, confirmed) = (self.nodes.len() + unsent, count("confirmed"));
        const WIDTH: usize = 24;
        let filled = confirmed * WIDTH / all.max(1);
        let bar = format!("{}{}", "█".repeat(filled), "░".repeat(WIDTH - filled));
        anstream::eprint!(
            "\r{bar} {confirmed} of {all} confirmed, {} on trial, {} sent, {} failed ",
            count("trial"),
            count("sent"),
            self.failures()
        );
    }

    fn page(&self, left: VecDeque<String>, began: Instant) -> Pushed {
        if self.drawn.is_some() {
            anstream::eprintln!();
        }
        let sent = self.nodes.iter().map(|(node, at)| PushedNode {
            node: node.clone(),
            result: at.state.into(),
            why: at.why.clone(),
        });
        let unsent = left.into_iter().map(|node| PushedNode {
            node,
            result: "unsent".into(),
            why: "not sent: too many have failed".into(),
        });
        Pushed {
            version: self.desired.version,
            took_ms: began.elapsed().as_millis() as u64,
            nodes: sent.chain(unsent).collect(),
        }
    }
}
