//! Sends what the spool holds to the core, and brings what the core wants.
//!
//! The spool is the only truth: records are read from it, published in batches,
//! and its cursor moves only over a contiguous run of batches that the broker
//! has acknowledged with a success code. Whatever ends a connection, everything
//! after the cursor is sent again. One connection is one [`Session`]; nothing of
//! it outlives it.
//!
//! MQTT itself is behind [`Transport`], so that the rules here are tested
//! against a broker that misbehaves on demand.

use std::{collections::HashSet, future::Future, pin::Pin, sync::Arc, time::Duration};

use prost::{Message as _, bytes::Bytes};
use purlin_core::{
    backoff::Backoff,
    identity::Class,
    settings::{Endpoint, Settings},
    window::Window,
};
use purlin_proto::{api, topic::Topics, v1};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    door::{Ask, Identity, Offer},
    spool::{Durable, Frame, Spool, brought},
    state, wire,
};

pub mod mqtt;

/// What is read for a batch: large enough that a backlog drains at the link's speed
/// (docs/decisions/002), small enough for any broker's limit.
const BATCH_BYTES: usize = 16 << 10;
/// The same for samples, which leave as a third to a fifth of it.
const SAMPLE_BYTES: usize = 128 << 10;
/// A batch that is larger is sent as two: values that don't delta.
const MAX_BATCH_BYTES: usize = 64 << 10;
/// Batches on their way at once: at most 2 MiB of memory.
pub const MAX_IN_FLIGHT: usize = 32;
/// A broker that acknowledges nothing for so long is taken for dead.
const ACK_DEADLINE: Duration = Duration::from_secs(20);
/// A connection attempt, TLS and MQTT included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// A way to brokers.
pub trait Transport: Send + Sync + 'static {
    /// One connection.
    type Session: Session;
    /// Connects; the error says what to do.
    fn connect(
        &self,
        endpoint: &Endpoint,
    ) -> impl Future<Output = Result<Self::Session, String>> + Send;
}

/// One connection to a broker; dropping it closes it.
pub trait Session: Send {
    /// Subscribes at QoS 1.
    fn subscribe(&mut self, topic: &str) -> impl Future<Output = Result<(), String>> + Send;
    /// Hands a message over for sending at QoS 1. The broker's answer comes later.
    fn publish(
        &mut self,
        message: Message,
    ) -> impl Future<Output = Result<PendingAnswer, String>> + Send;
    /// The next message, or why the connection ended. Cancel safe.
    fn incoming(&mut self) -> impl Future<Output = Result<Message, String>> + Send;
    /// Says goodbye; bounded in time.
    fn disconnect(self) -> impl Future<Output = ()> + Send;
}

/// Resolves when the broker has answered, or the connection ended.
pub type PendingAnswer = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
    /// Kept by the broker for whoever subscribes later.
    pub retain: bool,
}

/// What became of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The broker has it; `heard` if it knows of a subscriber.
    Taken {
        /// False for reason code 0x10, "no matching subscribers".
        heard: bool,
    },
    /// The broker will never take this message.
    RefusedForGood(String),
    /// The broker doesn't take it now: access rules, quota.
    RefusedForNow(String),
    /// The connection ended first.
    Lost,
}

/// The uplink's state, for others to see.
#[derive(Clone, Debug, Default)]
pub struct Link {
    view: api::Link,
    retry_at: Option<Instant>,
}

impl Link {
    /// As the local API shows it.
    pub fn view(&self) -> api::Link {
        let left = self.retry_at.map(|at| at.saturating_duration_since(Instant::now()));
        api::Link { retry_in_ms: left.map(|left| left.as_millis() as u64), ..self.view.clone() }
    }
}

/// The uplink's task.
#[derive(Debug)]
pub struct Uplink<T> {
    transport: T,
    identity: Identity,
    topics: Topics,
    spool: Spool,
    durable: watch::Receiver<Durable>,
    settings: watch::Receiver<Arc<Settings>>,
    reported: watch::Receiver<Arc<v1::Reported>>,
    door: mpsc::Sender<Ask>,
    link: watch::Sender<Link>,
    stop: CancellationToken,
    windows: [Window; Class::ALL.len()],
    backoff: Backoff,
    ack_deadline: Duration,
}

/// What the uplink's task is connected to.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// Who this node is.
    pub identity: Identity,
    /// The store it empties.
    pub spool: Spool,
    /// The settings in force; whatever is sent makes it connect anew.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// What the node says of its configuration.
    pub reported: watch::Receiver<Arc<v1::Reported>>,
    /// Where documents go.
    pub door: mpsc::Sender<Ask>,
    /// Where its state is shown.
    pub link: watch::Sender<Link>,
    /// Cancelled when the agent stops.
    pub stop: CancellationToken,
}

/// Something on its way to the broker.
enum Sent {
    Batch { class: Class, first_seq: u64, last_seq: u64, records: u64, bytes: u64 },
    Dictionary,
    Reported,
}

impl Sent {
    /// What it was, for a person.
    fn topic(&self) -> &'static str {
        match self {
            Sent::Batch { class, .. } => class.name(),
            Sent::Dictionary => "dict",
            Sent::Reported => "reported",
        }
    }
}

/// A batch that is about to be sent.
struct Outgoing {
    topic: String,
    /// The node that it is of, if it is another.
    origin: Option<String>,
    batch: v1::Batch,
    payload: Bytes,
    /// Its last number in the log that it was read from.
    last_seq: u64,
}

/// What one session knows of itself.
#[derive(Default)]
struct Current {
    answers: JoinSet<(Sent, Answer)>,
    /// Topics of dictionaries that were published: a broker may have forgotten what
    /// an earlier session told it.
    told: HashSet<String>,
    /// What was durable when it began: the past.
    history: Durable,
}

/// Why a session ended, other than by an error.
enum Ended {
    Stopped,
    Moved,
}

impl<T: Transport> Uplink<T> {
    /// An uplink that is not connected.
    pub async fn new(transport: T, wiring: Wiring) -> Self {
        let Wiring { identity, spool, settings, reported, door, link, stop } = wiring;
        let figures = spool.figures().await.unwrap_or_default();
        let acked = |class: Class| {
            let log = figures.iter().find(|log| log.class == class.name());
            log.map_or(0, |log| log.acked_seq)
        };
        Self {
            transport,
            topics: Topics::new(&identity.fleet, &identity.node),
            windows: Class::ALL.map(|class| Window::new(acked(class))),
            durable: spool.durable(),
            backoff: Backoff::new(RETRY_FIRST, RETRY_MOST),
            ack_deadline: ACK_DEADLINE,
            identity,
            spool,
            settings,
            reported,
            door,
            link,
            stop,
        }
    }

    /// Runs until the agent stops.
    pub async fn run(&mut self) -> Result<(), String> {
        self.show(api::LinkState::Unconfigured, |link| {
            link.client_id = self.identity.node.clone();
        });
        while !self.stop.is_cancelled() {
            let Some(endpoint) = self.endpoint() else {
                self.show(api::LinkState::Unconfigured, |link| link.endpoint = None);
                self.wait_until(None).await;
                continue;
            };
            let started = Instant::now();
            match self.connect_and_serve(&endpoint).await {
                Ok(Ended::Stopped) => return Ok(()),
                Ok(Ended::Moved) => {}
                Err(error) => {
                    if started.elapsed() > RETRY_MOST {
                        self.backoff.succeed();
                    }
                    self.rest(&endpoint, error).await;
                }
            }
            for window in &mut self.windows {
                window.reset();
            }
        }
        Ok(())
    }

    fn endpoint(&mut self) -> Option<Endpoint> {
        self.settings.borrow_and_update().endpoint.value.clone()
    }

    async fn rest(&mut self, endpoint: &Endpoint, error: String) {
        let wait = self.backoff.fail(state::random_u64().unwrap_or_default());
        tracing::info!(%endpoint, error, retry_in = ?wait, "the link is down");
        let attempts = self.backoff.failures();
        self.show(api::LinkState::Down, |link| {
            link.last_error = Some(error);
            link.attempts = attempts;
        });
        let retry_at = Instant::now() + wait;
        self.link.send_modify(|link| link.retry_at = Some(retry_at));
        self.wait_until(Some(retry_at)).await;
    }

    /// Waits for `deadline`, for being told to connect anew, or for the end.
    async fn wait_until(&mut self, deadline: Option<Instant>) {
        let elapsed = async {
            match deadline {
                Some(deadline) => time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = self.settings.changed() => {}
            () = elapsed => {}
        }
    }

    async fn connect_and_serve(&mut self, endpoint: &Endpoint) -> Result<Ended, String> {
        self.show(api::LinkState::Connecting, |link| link.endpoint = Some(endpoint.to_string()));
        let stop = self.stop.clone();
        let connecting = time::timeout(CONNECT_DEADLINE, self.transport.connect(endpoint));
        let connected = tokio::select! {
            () = stop.cancelled() => return Ok(Ended::Stopped),
            connected = connecting => connected,
        };
        let mut session =
            connected.map_err(|_| format!("no answer within {CONNECT_DEADLINE:?}")).flatten()?;
        let desired = self.topics.desired();
        time::timeout(CONNECT_DEADLINE, session.subscribe(&desired))
            .await
            .map_err(|_| format!("no answer to the subscription within {CONNECT_DEADLINE:?}"))
            .flatten()?;
        tracing::info!(%endpoint, "the link is up");
        self.show(api::LinkState::Up, |link| {
            link.connects += 1;
            link.attempts = 0;
        });
        let ended = self.serve(&mut session).await?;
        session.disconnect().await;
        Ok(ended)
    }

    /// Sends and receives until the session ends. Each arm of the `select!`
    /// waits on something that keeps its state elsewhere, so that losing the
    /// race loses nothing.
    async fn serve(&mut self, session: &mut T::Session) -> Result<Ended, String> {
        let history = *self.durable.borrow();
        let mut current = Current { history, ..Current::default() };
        let mut progress = Instant::now();
        self.reported.mark_changed();
        loop {
            if current.answers.is_empty() {
                progress = Instant::now();
            }
            self.send_more(session, &mut current).await?;
            let waiting = !current.answers.is_empty();
            tokio::select! {
                () = self.stop.cancelled() => return Ok(Ended::Stopped),
                changed = self.settings.changed() => {
                    changed.map_err(|_| "the configuration's task is gone")?;
                    return Ok(Ended::Moved);
                }
                incoming = session.incoming() => self.received(incoming?).await,
                Some(answer) = current.answers.join_next() => {
                    let (sent, answer) = answer.map_err(|error| error.to_string())?;
                    self.answered(&sent, answer)?;
                    progress = Instant::now();
                }
                _ = self.reported.changed() => {
                    let payload = self.reported.borrow_and_update().encode_to_vec().into();
                    let message = Message { topic: self.topics.reported(), payload, retain: true };
                    let answer = session.publish(message).await?;
                    current.answers.spawn(async { (Sent::Reported, answer.await) });
                }
                _ = self.durable.changed() => {}
                () = time::sleep_until(progress + self.ack_deadline), if waiting => {
                    return Err(format!("no acknowledgement within {:?}", self.ack_deadline));
                }
            }
        }
    }

    async fn send_more(
        &mut self,
        session: &mut T::Session,
        current: &mut Current,
    ) -> Result<(), String> {
        let durable = *self.durable.borrow_and_update();
        for class in Class::ALL {
            while current.answers.len() < MAX_IN_FLIGHT
                && durable[class as usize] >= self.windows[class as usize].next()
            {
                let next = self.windows[class as usize].next();
                let historical = next <= current.history[class as usize];
                let Some(Outgoing { topic, origin, batch, payload, last_seq }) =
                    self.outgoing(class, next, historical).await
                else {
                    break;
                };
                for block in &batch.blocks {
                    let origin = origin.as_deref();
                    self.tell_dictionary(origin, block.dictionary, session, current).await?;
                }
                let samples = batch.blocks.iter().map(|block| block.offsets.len()).sum::<usize>();
                let records = (batch.records.len() + samples) as u64;
                let bytes = payload.len() as u64;
                tracing::debug!(topic, last_seq, records, bytes, "a batch is sent");
                let answer = session.publish(Message { topic, payload, retain: false }).await?;
                self.windows[class as usize].sent(last_seq);
                let sent = Sent::Batch { class, first_seq: next, last_seq, records, bytes };
                current.answers.spawn(async move { (sent, answer.await) });
            }
        }
        let in_flight = self.windows.iter().map(Window::in_flight).sum::<usize>() as u32;
        self.link.send_if_modified(|link| {
            std::mem::replace(&mut link.view.in_flight, in_flight) != in_flight
        });
        Ok(())
    }

    /// What is sent next of a class.
    async fn outgoing(&self, class: Class, next: u64, historical: bool) -> Option<Outgoing> {
        let mut bytes = if class == Class::Metric { SAMPLE_BYTES } else { BATCH_BYTES };
        loop {
            let frame = self.spool.read(class, next, bytes).await?;
            let alone = frame.records.len() <= 1;
            let outgoing = match class {
                Class::Relay => self.relayed(frame),
                _ => self.own(frame, class, historical),
            };
            if outgoing.payload.len() <= MAX_BATCH_BYTES || alone {
                return Some(outgoing);
            }
            bytes /= 2;
        }
    }

    fn own(&self, frame: Frame, class: Class, historical: bool) -> Outgoing {
        let last_seq = frame.last_seq;
        let batch = wire::encode(frame, class, &self.identity, historical);
        let (topic, payload) = (self.topics.class(class.name()), wire::pack(&batch));
        Outgoing { topic, origin: None, batch, payload, last_seq }
    }

    /// What another node would have sent, or the relay's own losses.
    fn relayed(&self, frame: Frame) -> Outgoing {
        let (origin, frame, last_seq) = brought::next(frame);
        let Some(origin) = origin else { return self.own(frame, Class::Relay, true) };
        let node = origin.node.clone();
        let class = Class::OWN.into_iter().find(|it| wire::class_to_wire(*it) == origin.class);
        let topic = self.topics.relayed(&node, class.map_or("log", Class::name));
        let batch = wire::encode_of(frame, origin, true);
        let payload = wire::pack(&batch);
        Outgoing { topic, origin: Some(node), batch, payload, last_seq }
    }

    /// Publishes a dictionary before the first batch of this session that needs it.
    async fn tell_dictionary(
        &self,
        origin: Option<&str>,
        hash: u64,
        session: &mut T::Session,
        current: &mut Current,
    ) -> Result<(), String> {
        let topic = match origin {
            None => self.topics.dictionary(hash),
            Some(node) => self.topics.relayed_dictionary(node, hash),
        };
        if !current.told.insert(topic.clone()) {
            return Ok(());
        }
        let Some(dictionary) = self.spool.dictionary(hash).await else {
            // The core may have it from before.
            tracing::warn!(hash = format!("{hash:016x}"), "a dictionary is lost");
            return Ok(());
        };
        let payload = wire::pack_bytes(dictionary);
        let answer = session.publish(Message { topic, payload, retain: true }).await?;
        current.answers.spawn(async { (Sent::Dictionary, answer.await) });
        Ok(())
    }

    fn answered(&mut self, sent: &Sent, answer: Answer) -> Result<(), String> {
        let topic = sent.topic();
        match (&answer, sent) {
            (Answer::Lost, _) => return Err("the connection was lost".into()),
            (Answer::RefusedForNow(why), _) => {
                self.link.send_modify(|link| link.view.refused += 1);
                return Err(format!(
                    "the broker refused a publish to …/{topic}: {why}; check its access rules for \
                     user {}",
                    self.identity.node
                ));
            }
            (Answer::RefusedForGood(why), _) => {
                tracing::error!(
                    topic,
                    why,
                    "the broker will never take this message: it is left out"
                );
                self.link.send_modify(|link| link.view.refused += 1);
                if let Sent::Batch { class, first_seq, last_seq, .. } = sent {
                    self.spool.refuse(*class, *first_seq, *last_seq);
                    // What follows is sent again, with the gap in front of it.
                    self.windows[*class as usize].reset();
                    return Ok(());
                }
            }
            (Answer::Taken { .. }, Sent::Reported | Sent::Dictionary) => {}
            (Answer::Taken { heard }, Sent::Batch { records, bytes, .. }) => {
                self.backoff.succeed();
                self.link.send_modify(|link| {
                    link.view.acked_batches += 1;
                    link.view.acked_records += records;
                    link.view.acked_bytes += bytes;
                    link.view.unheard += u64::from(!heard);
                });
            }
        }
        if let Sent::Batch { class, last_seq, .. } = sent {
            let window = &mut self.windows[*class as usize];
            window.acknowledge(*last_seq);
            tracing::debug!(class = class.name(), last_seq, acked = window.acked(), "acknowledged");
            self.spool.acknowledge(*class, window.acked());
        }
        Ok(())
    }

    async fn received(&self, message: Message) {
        if message.topic != self.topics.desired() {
            tracing::warn!(topic = message.topic, "a message on a topic we didn't ask for");
            return;
        }
        // An empty one is how a retained message is removed: nothing is desired
        // any more, and the node keeps doing what it was last told.
        if message.payload.is_empty() {
            return;
        }
        let offer = Offer::from_uplink(message.payload);
        let (reply, _) = oneshot::channel();
        // The door tells its verdict in `reported`.
        _ = self.door.send(Ask::Offer(offer, reply)).await;
    }

    fn show(&self, state: api::LinkState, change: impl FnOnce(&mut api::Link)) {
        self.link.send_modify(|link| {
            link.retry_at = None;
            if link.view.state != state || link.view.since_unix_ms == 0 {
                link.view.since_unix_ms = clock::unix_ms();
            }
            link.view.state = state;
            link.view.in_flight = 0;
            change(&mut link.view);
        });
    }
}

#[cfg(test)]
mod tests;
