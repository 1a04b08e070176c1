//! The fleet's broker: what every node has reported.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prost::Message as _;
use purlin_core::trust::selects;
use purlin_daemon::mqtt::{Connection, Message, PendingAnswer, Session, Transport};
use purlin_proto::{
    topic::Topics,
    v1::{self, Outcome},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::page::{FleetNode, FleetNodes};
use crate::{
    args::{Broker, FleetStatusArgs},
    exit::{Ended, Exit, Failure},
    output::{Output, Page},
};

/// To connect, and to subscribe.
const CONNECT: Duration = Duration::from_secs(10);
/// Retained messages come at once; after so much silence there are no more.
const QUIET: Duration = Duration::from_millis(1500);

/// A connection to the fleet's broker.
pub struct Fleet {
    name: String,
    session: Connection,
    /// What each node has reported last.
    pub nodes: BTreeMap<String, v1::Reported>,
}

impl Fleet {
    /// Connects, and listens to every node of the fleet.
    pub async fn connect(at: &Broker) -> Result<Self, Failure> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let client_id = format!("purlin-fleet-{}-{}", std::process::id(), since.subsec_nanos());
        let (mqtt, broker) = (at.login.mqtt(client_id), &at.login.broker);
        let failed = |why: String| Failure::Failed(format!("{broker}: {why}"));
        let connected = async {
            let mut session = mqtt.connect(broker).await?;
            session.subscribe(&format!("purlin/v1/{}/+/reported", at.fleet)).await?;
            Ok(session)
        };
        let connected = timeout(CONNECT, connected).await;
        let session = connected
            .unwrap_or_else(|_| Err(format!("no answer within {CONNECT:?}")))
            .map_err(failed)?;
        let mut fleet = Self { name: at.fleet.clone(), session, nodes: BTreeMap::new() };
        while fleet.next_within(QUIET).await?.is_some() {}
        Ok(fleet)
    }

    /// Listens to a topic of every node besides.
    pub async fn listen(&mut self, topic: &str) -> Result<(), Failure> {
        let topic = format!("purlin/v1/{}/+/{topic}", self.name);
        let subscribed = timeout(CONNECT, self.session.subscribe(&topic)).await;
        let subscribed = subscribed.unwrap_or_else(|_| Err(format!("no answer in {CONNECT:?}")));
        subscribed.map_err(Failure::Failed)
    }

    /// The node that has reported, if one does in time.
    pub async fn next_within(&mut self, time: Duration) -> Result<Option<String>, Failure> {
        let deadline = Instant::now() + time;
        while let Some(message) = self.message_until(deadline).await? {
            if let Some(node) = self.take(&message) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// Whatever comes, if something does in time.
    pub async fn message_until(&mut self, deadline: Instant) -> Result<Option<Message>, Failure> {
        match timeout_at(deadline, self.session.incoming()).await {
            Err(_) => Ok(None),
            Ok(Err(closed)) => Err(Failure::Failed(format!("the broker: {}", closed.why))),
            Ok(Ok(message)) => Ok(Some(message)),
        }
    }

    /// What is no report of a node is nobody's.
    fn take(&mut self, message: &Message) -> Option<String> {
        let node = message.topic.split('/').nth(3)?.to_owned();
        let reported = v1::Reported::decode(message.payload.clone()).ok()?;
        (reported.node == node).then(|| {
            self.nodes.insert(node.clone(), reported);
            node
        })
    }

    /// Publishes a node's document, retained.
    pub async fn publish(
        &mut self,
        node: &str,
        document: Vec<u8>,
    ) -> Result<PendingAnswer, Failure> {
        self.send(Topics::new(&self.name, node).desired(), document, true).await
    }

    /// Publishes a command to a node.
    pub async fn command(
        &mut self,
        node: &str,
        command: Vec<u8>,
    ) -> Result<PendingAnswer, Failure> {
        self.send(Topics::new(&self.name, node).command(), command, false).await
    }

    async fn send(
        &mut self,
        topic: String,
        payload: Vec<u8>,
        retain: bool,
    ) -> Result<PendingAnswer, Failure> {
        let message = Message { topic, payload: payload.into(), retain, reply: None };
        self.session.publish(message).await.map_err(Failure::Failed)
    }

    /// Nodes that any of the selectors names: those that have reported, and those that
    /// are named by their whole id.
    pub fn selected(&self, selectors: &[String]) -> Vec<String> {
        let any = |node: &&String| selectors.iter().any(|it| selects(it, node));
        let whole = selectors.iter().filter(|it| !it.ends_with('*'));
        let mut nodes: Vec<_> = self.nodes.keys().filter(any).chain(whole).cloned().collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }

    fn page(&self, selectors: &[String]) -> FleetNodes {
        let nodes = self.selected(selectors).into_iter();
        FleetNodes { nodes: nodes.map(|node| self.row(node)).collect() }
    }

    fn row(&self, node: String) -> FleetNode {
        let Some(it) = self.nodes.get(&node) else {
            return FleetNode { node, ..FleetNode::default() };
        };
        let wanted = it.desired.clone().unwrap_or_default();
        let active = it.active.as_ref();
        FleetNode {
            node,
            agent: it.agent_version.clone(),
            active_version: active.map(|it| it.version),
            desired_version: it.desired.as_ref().map(|it| it.version),
            outcome: outcome(&wanted).into(),
            why: why(&wanted),
            on_trial: it.trial.is_some(),
            drift: it.drift.as_ref().and_then(|it| it.applied.as_ref()).map(|it| it.by.clone()),
        }
    }
}

/// What became of a document, in a word.
pub fn outcome(verdict: &v1::Verdict) -> &'static str {
    match verdict.outcome() {
        Outcome::Unspecified => "none",
        Outcome::Refused => "refused",
        Outcome::Waiting => "waiting",
        Outcome::Trial => "trial",
        Outcome::Confirmed => "confirmed",
        Outcome::Reverted => "reverted",
        Outcome::Interrupted => "interrupted",
        Outcome::Superseded => "superseded",
    }
}

/// Why, in a line.
pub fn why(verdict: &v1::Verdict) -> String {
    let reason = |it: &v1::Refusal| format!("{} {}: {}", it.path, it.value, it.hint);
    match verdict.refusals.is_empty() {
        true if verdict.outcome() == Outcome::Confirmed => String::new(),
        true => verdict.why.clone(),
        false => verdict.refusals.iter().map(reason).collect::<Vec<_>>().join("; "),
    }
}

/// `purlin fleet status`
pub async fn status(args: &FleetStatusArgs, output: &Output) -> Ended {
    let page = Fleet::connect(&args.at).await?.page(&args.nodes);
    output.show(&page, |width| page.page(width))?;
    Ok(Exit::Ok)
}

/// `purlin fleet watch`
pub async fn watch(args: &FleetStatusArgs, output: &Output) -> Ended {
    let mut fleet = Fleet::connect(&args.at).await?;
    loop {
        output.replace(&fleet.page(&args.nodes))?;
        while fleet.next_within(Duration::from_secs(2)).await?.is_none() {}
        // A whole fleet reports at once: it is drawn once.
        while fleet.next_within(Duration::from_millis(200)).await?.is_some() {}
    }
}
