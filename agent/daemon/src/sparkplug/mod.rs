//! A node as an edge node of Sparkplug B, for SCADA hosts that speak nothing else. Off
//! unless the agent's own file turns it on.
//!
//! It is a façade on what happens now: its data messages are at QoS 0 and its session is
//! clean, as the specification (Eclipse Sparkplug 3.0.0) wants, so what is lost there is
//! lost there. The durable path is the [uplink](crate::uplink), whose connection is
//! another one.
//!
//! | message | when |
//! | --- | --- |
//! | NDEATH | the will of each connection, and before one is ended on purpose |
//! | NBIRTH | when a connection is made and the primary host is there, when a command asks for it, when a metric is new |
//! | NDATA | what of a sample has changed |
//!
//! `bdSeq` is durable and counts connections, so that a host tells an old will from the
//! new session.

use std::{path::PathBuf, sync::Arc, time::Duration};

use prost::Message as _;
use purlin_core::{
    backoff::Backoff,
    settings::{Endpoint, Settings},
};
use purlin_proto::{
    sparkplug::{Payload, metric::Value},
    v1::{Dictionary, record::Body},
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use self::edge::{Edge, REBIRTH};
use crate::{
    clock,
    spool::{Listener, Spool},
    state,
    uplink::{
        Message, Session as _,
        mqtt::{Connection, Mqtt, Will},
    },
};

mod edge;

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// For the broker to take a death.
const GOODBYE: Duration = Duration::from_millis(500);
/// Commands and new metrics within this time have one birth.
const BIRTHS_APART: Duration = Duration::from_secs(1);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// What the agent's own file says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The group that it is of.
    pub group: String,
    /// The host without which nothing is said; `None`: it is said to whoever listens.
    pub primary_host: Option<String>,
}

/// What the task is made of.
#[derive(Clone, Debug)]
pub struct Facade {
    /// What the agent's own file says.
    pub config: Config,
    /// Who we are to a broker.
    pub mqtt: Mqtt,
    /// Which broker: the first.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Samples as they are taken, and what their values are.
    pub spool: Spool,
    /// Where `bdSeq` is kept.
    pub bd_seq: PathBuf,
    /// Cancelled when the agent stops.
    pub stop: CancellationToken,
}

/// Why a session ended, other than by an error.
enum Ended {
    Stopped,
    Moved,
    /// The primary host is away: a new session waits for it.
    HostAway,
}

/// What a host says of itself, on `spBv1.0/STATE/<host>`.
#[derive(serde::Deserialize)]
struct HostState {
    online: bool,
    timestamp: u64,
}

impl Facade {
    /// Runs until the agent stops.
    pub async fn run(mut self) -> Result<(), String> {
        let (mut edge, mut heard) = (Edge::default(), self.spool.listen());
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        while !self.stop.is_cancelled() {
            let endpoint = self.settings.borrow_and_update().endpoint.value.clone();
            let wait = match endpoint {
                None => None,
                Some(endpoint) => {
                    let began = Instant::now();
                    match self.session(&endpoint, &mut edge, &mut heard).await {
                        Ok(Ended::Stopped) => return Ok(()),
                        Ok(Ended::Moved) => Some(Duration::ZERO),
                        Ok(Ended::HostAway) => Some(RETRY_FIRST),
                        Err(error) => {
                            if began.elapsed() > RETRY_MOST {
                                backoff.succeed();
                            }
                            let wait = backoff.fail(state::random_u64().unwrap_or_default());
                            tracing::info!(%endpoint, error, retry_in = ?wait, "sparkplug is down");
                            Some(wait)
                        }
                    }
                }
            };
            let rested = async {
                match wait {
                    Some(wait) => time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                changed = self.settings.changed() => {
                    changed.map_err(|_| "the configuration's task is gone")?;
                }
                () = rested => {}
            }
        }
        Ok(())
    }

    async fn session(
        &mut self,
        endpoint: &Endpoint,
        edge: &mut Edge,
        heard: &mut Listener,
    ) -> Result<Ended, String> {
        // On disk before the will is anywhere: no two sessions have one number.
        edge.begin(self.next_bd_seq()?);
        let death = edge.death(clock::unix_ms()).encode_to_vec();
        let will = Will { topic: self.topic("NDEATH"), payload: death };
        let command = self.topic("NCMD");
        let state = self.config.primary_host.as_ref().map(|it| format!("spBv1.0/STATE/{it}"));
        let connected = time::timeout(CONNECT_DEADLINE, async {
            let mut session = self.mqtt.connect_with(endpoint, "sparkplug", will).await?;
            session.subscribe(&command).await?;
            if let Some(state) = &state {
                session.subscribe(state).await?;
            }
            Ok(session)
        });
        let connected = connected.await;
        let connected = connected.map_err(|_| format!("no answer within {CONNECT_DEADLINE:?}"));
        let mut session: Connection = connected.flatten()?;
        tracing::info!(%endpoint, group = self.config.group, "sparkplug is up");
        let (mut host, mut host_said) = (state.is_none(), 0);
        let mut born = false;
        // When a birth is due.
        let mut due = host.then(Instant::now);
        let mut last_birth: Option<Instant> = None;
        // Each arm waits on a channel or a clock, which keep what they have.
        loop {
            let soonest = |last: Option<Instant>| match last {
                Some(last) => (last + BIRTHS_APART).max(Instant::now()),
                None => Instant::now(),
            };
            tokio::select! {
                () = self.stop.cancelled() => {
                    self.leave(session, edge).await;
                    return Ok(Ended::Stopped);
                }
                changed = self.settings.changed() => {
                    changed.map_err(|_| "the configuration's task is gone")?;
                    if self.settings.borrow_and_update().endpoint.value.as_ref() != Some(endpoint) {
                        self.leave(session, edge).await;
                        return Ok(Ended::Moved);
                    }
                }
                message = session.incoming() => {
                    let message = message?;
                    if message.topic == command {
                        if born && wants_birth(&message.payload) {
                            due = due.or(Some(soonest(last_birth)));
                        }
                        continue;
                    }
                    let Ok(said) = serde_json::from_slice::<HostState>(&message.payload) else {
                        tracing::warn!(topic = message.topic, "a host's state that can't be read");
                        continue;
                    };
                    if said.timestamp < host_said {
                        continue;
                    }
                    (host, host_said) = (said.online, said.timestamp);
                    match (host, born) {
                        (true, false) => due = Some(Instant::now()),
                        (false, true) => {
                            self.leave(session, edge).await;
                            return Ok(Ended::HostAway);
                        }
                        (false, false) => due = None,
                        (true, true) => {}
                    }
                }
                Some(it) = heard.next() => {
                    let Some(Body::Sample(sample)) = it.record.body.filter(|_| it.is_own) else {
                        continue;
                    };
                    let at = clock::unix_ms();
                    if !edge.knows(sample.dictionary) {
                        self.learn(edge, sample.dictionary).await;
                        edge.note(at, &sample);
                        due = due.or(born.then(|| soonest(last_birth)));
                    } else if born && due.is_none() {
                        if let Some(data) = edge.data(at, &sample) {
                            self.say(&session, "NDATA", &data).await?;
                        }
                    } else {
                        edge.note(at, &sample);
                    }
                }
                () = time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let birth = edge.birth(clock::unix_ms());
                    self.say(&session, "NBIRTH", &birth).await?;
                    (born, due, last_birth) = (true, None, Some(Instant::now()));
                }
            }
        }
    }

    /// Says that it leaves, and does: a broker that is told goodbye keeps the will.
    async fn leave(&self, mut session: Connection, edge: &Edge) {
        let payload = edge.death(clock::unix_ms()).encode_to_vec().into();
        let message = Message { topic: self.topic("NDEATH"), payload, retain: false, reply: None };
        let said = async {
            if let Ok(answer) = session.publish(message).await {
                answer.await;
            }
        };
        _ = time::timeout(GOODBYE, said).await;
        session.disconnect().await;
    }

    async fn say(&self, session: &Connection, what: &str, payload: &Payload) -> Result<(), String> {
        session.publish_live(self.topic(what), payload.encode_to_vec()).await
    }

    async fn learn(&self, edge: &mut Edge, hash: u64) {
        let dictionary = self.spool.dictionary(hash).await.unwrap_or_default();
        match Dictionary::decode(dictionary.as_ref()) {
            Ok(dictionary) => edge.learn(hash, &dictionary),
            Err(error) => tracing::warn!(%error, "a dictionary can't be read"),
        }
    }

    fn topic(&self, message: &str) -> String {
        format!("spBv1.0/{}/{message}/{}", self.config.group, self.mqtt.client_id)
    }

    /// One more than the last, from 0 to 255 and from 0 again. A damaged file begins anew.
    fn next_bd_seq(&self) -> Result<u8, String> {
        let last = std::fs::read_to_string(&self.bd_seq).ok();
        let last = last.and_then(|text| text.trim().parse::<u8>().ok());
        let next = last.map_or(0, |last| last.wrapping_add(1));
        state::replace(&self.bd_seq, 0o644, next.to_string().as_bytes())
            .map_err(|error| format!("{} can't be written: {error}", self.bd_seq.display()))?;
        Ok(next)
    }
}

fn wants_birth(payload: &[u8]) -> bool {
    let metrics = Payload::decode(payload).unwrap_or_default().metrics;
    let is_it = |value: &Option<Value>| matches!(value, Some(Value::BooleanValue(true)));
    metrics.iter().any(|it| it.name.as_deref() == Some(REBIRTH) && is_it(&it.value))
}
