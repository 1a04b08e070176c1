//! Sends what the spool holds to the core, and brings what the core wants.
//!
//! The spool is the only truth: records are read from it, published in batches,
//! and its cursor moves only over a contiguous run of batches that the broker
//! has acknowledged with a success code. Whatever ends a connection, everything
//! after the cursor is sent again. One connection is one [`Session`]; nothing of
//! it outlives it.
//!
//! What is durable when a session begins is the past; what comes then is sent beside
//! it ([`purlin_core::window`]), in the order and at the pace of
//! [`purlin_core::pacing`]. Of several brokers the first that answers is used, and a
//! better one again as soon as it does ([`purlin_core::failover`]).
//!
//! When no broker can be reached, a peer of the rack that reaches one sends on for this
//! node ([`relay`]): to the rules here it is one more way, after all brokers.
//!
//! MQTT itself is behind [`Transport`], so that the rules here are tested
//! against a broker that misbehaves on demand.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use prost::{Message as _, bytes::Bytes};
use purlin_core::{
    backoff::Backoff,
    failover::{FAILBACK_EVERY, Failover},
    identity::Class,
    metric::Point,
    pacing::{Pacer, Ready, Turn},
    settings::{Endpoint, Settings},
    window::{Lane, Span, Window},
};
use purlin_proto::{api, topic::Topics, v1};
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot, watch},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    alarm, clock,
    door::{Ask, Identity, Offer},
    spool::{Durable, Frame, Spool, brought},
    state, wire,
};

mod asked;
pub mod mqtt;
pub mod relay;
mod sent_today;
pub mod subscriber;
mod tls;
mod way;

use asked::Asked;
use relay::{Carry, MAX_CARRIED, Peer};
use sent_today::SentToday;
pub use way::{Rack, Way};

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
/// Sessions that a broker ends are remembered for so long, and so many of them: what ends
/// again and again has another reason than a bad line.
const ENDED_WITHIN: Duration = Duration::from_secs(600);
const MAX_ENDS: usize = 64;
/// How long a lost connection may take to say why.
const CLOSED_WITHIN: Duration = Duration::from_millis(200);
/// A message's bytes beside its payload, at most: four levels of at most 64 bytes, what
/// stands between them, and MQTT's own header.
const TOPIC_BYTES: usize = 400;
/// While a peer sends on, our own brokers are tried this often: what the core wants comes
/// over them alone.
const OWN_AGAIN: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// A way to brokers.
pub trait Transport: Clone + Send + Sync + 'static {
    /// One connection.
    type Session: Session;
    /// Connects; the error says what to do.
    fn connect(
        &self,
        endpoint: &Endpoint,
    ) -> impl Future<Output = Result<Self::Session, String>> + Send;
    /// Connects through the mesh of a node that reaches the broker.
    fn connect_through_mesh(
        &self,
        endpoint: &Endpoint,
    ) -> impl Future<Output = Result<Self::Session, String>> + Send {
        let error = format!("there is no mesh to {endpoint}");
        async { Err(error) }
    }
    /// Connects to a peer that sends on for this node, where the rack has a way for it.
    fn connect_peer(
        &self,
        peer: &Peer,
    ) -> impl Future<Output = Result<Self::Session, String>> + Send {
        let error = format!("there is no way to {peer}");
        async { Err(error) }
    }
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
    fn incoming(&mut self) -> impl Future<Output = Result<Message, Closed>> + Send;
    /// The most that the broker takes in one message, topic and all, if it said so.
    fn max_message(&self) -> Option<usize>;
    /// Whether it is a broker at the other end: it keeps documents, and brings them. A
    /// peer takes what is this node's own records, and nothing else.
    fn is_broker(&self) -> bool {
        true
    }
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
    /// Where an answer goes (MQTT 5), or which question this is the answer to.
    pub reply: Option<Reply>,
}

/// What a question and its answer have in common (MQTT 5, 4.10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Response topic.
    pub topic: Option<String>,
    /// Correlation data, as it came.
    pub correlation: Option<Bytes>,
}

/// How a connection ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// Why, and what to do.
    pub why: String,
    /// The broker closed it over a message that is too large (reason 0x95).
    pub too_large: bool,
    /// Another client has our client id (reason 0x8E).
    pub taken_over: bool,
}

impl From<Closed> for String {
    fn from(closed: Closed) -> Self {
        closed.why
    }
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
    /// The most that the broker takes in one message, while it is up.
    max_message: usize,
    /// When it ended a session, the latest times.
    ends: VecDeque<Instant>,
}

impl Link {
    /// As the local API shows it.
    pub fn view(&self) -> api::Link {
        let left = self.retry_at.map(|at| at.saturating_duration_since(Instant::now()));
        let ended = self.ends.iter().filter(|at| at.elapsed() < ENDED_WITHIN).count() as u32;
        api::Link {
            retry_in_ms: left.map(|left| left.as_millis() as u64),
            ended,
            taken_over: self.view.taken_over && ended > 0,
            ..self.view.clone()
        }
    }
}

impl Link {
    /// To be measured like all else.
    pub fn points(&self) -> [Point; 4] {
        let is_up = self.view.state == api::LinkState::Up;
        let is_by_another = self.view.via.is_some()
            && matches!(self.view.state, api::LinkState::Up | api::LinkState::Relayed);
        [
            Point::gauge("purlin.uplink.up", "1", f64::from(u8::from(is_up))),
            Point::gauge("purlin.uplink.by_another", "1", f64::from(u8::from(is_by_another))),
            Point::gauge("purlin.uplink.sent.day", "By", self.view.sent_today_bytes as f64),
            Point::counter("purlin.uplink.acknowledged", "By", self.view.acked_bytes as f64),
        ]
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
    alarms: watch::Receiver<Arc<alarm::Shown>>,
    /// Alarms whose end a broker took since the agent started.
    ended: HashSet<String>,
    door: mpsc::Sender<Ask>,
    link: watch::Sender<Link>,
    stop: CancellationToken,
    peers: Vec<Peer>,
    carried: Arc<Mutex<mpsc::Receiver<Carry>>>,
    commands: mpsc::Sender<Message>,
    results: Arc<Mutex<mpsc::Receiver<Message>>>,
    answer: mpsc::Sender<Message>,
    anew: Arc<Notify>,
    asked: Asked,
    windows: [Window; Class::ALL.len()],
    backoff: Backoff,
    failover: Failover,
    pacer: Pacer,
    sent_today: SentToday,
    /// The most that the broker takes in one message, as it said or as was found out.
    max_message: usize,
    ack_deadline: Duration,
    failback_every: Duration,
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
    /// The alarms that are raised, and were.
    pub alarms: watch::Receiver<Arc<alarm::Shown>>,
    /// Where documents go.
    pub door: mpsc::Sender<Ask>,
    /// Where its state is shown.
    pub link: watch::Sender<Link>,
    /// Cancelled when the agent stops.
    pub stop: CancellationToken,
    /// Where it counts what it sent today.
    pub sent_today: PathBuf,
    /// Who is asked to send on while no broker can be reached.
    pub peers: Vec<Peer>,
    /// What peers want sent on; it is the session's while there is one.
    pub carried: Arc<Mutex<mpsc::Receiver<Carry>>>,
    /// Where commands go.
    pub commands: mpsc::Sender<Message>,
    /// What became of them; it is the session's while there is one.
    pub results: Arc<Mutex<mpsc::Receiver<Message>>>,
    /// Where answers to who offered a document wait for the session as well.
    pub answer: mpsc::Sender<Message>,
    /// Told when there is something new to be let in by.
    pub anew: Arc<Notify>,
}

/// Something on its way to the broker.
enum Sent {
    Batch {
        class: Class,
        first_seq: u64,
        last_seq: u64,
        records: u64,
        bytes: u64,
    },
    Dictionary,
    Reported,
    /// What became of what the core wanted.
    Result,
    Alarm {
        id: String,
        raised: bool,
    },
    /// Of another node, which hears the answer.
    Carried {
        bytes: u64,
        reply: oneshot::Sender<Answer>,
    },
}

impl Sent {
    /// What it was, for a person.
    fn topic(&self) -> &'static str {
        match self {
            Sent::Batch { class, .. } => class.name(),
            Sent::Dictionary => "dict",
            Sent::Reported => "reported",
            Sent::Result => "result",
            Sent::Alarm { .. } => "alarms",
            Sent::Carried { .. } => "relay",
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
    /// Payload of the largest batch on its way.
    largest: usize,
    /// When there will be room in the pacer's bucket.
    paced: Option<Instant>,
    /// Frames of other nodes on their way.
    carried: usize,
    /// What is retained of each alarm.
    alarms: BTreeMap<String, Bytes>,
}

/// Why a session ended, other than by an error.
enum Ended<S> {
    Stopped,
    Moved,
    /// A better broker has answered.
    Better(usize, S),
}

impl<T: Transport> Uplink<T> {
    /// An uplink that is not connected.
    pub async fn new(transport: T, wiring: Wiring) -> Self {
        let Wiring { identity, spool, settings, reported, alarms, door, link, stop, .. } = wiring;
        let Wiring { sent_today, peers, carried, commands, results, answer, anew, .. } = wiring;
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
            failover: Failover::default(),
            pacer: Pacer::new(None, clock::since_boot()),
            sent_today: SentToday::open(sent_today),
            max_message: usize::MAX,
            ack_deadline: ACK_DEADLINE,
            failback_every: FAILBACK_EVERY,
            identity,
            spool,
            settings,
            reported,
            alarms,
            ended: HashSet::new(),
            door,
            link,
            stop,
            peers,
            carried,
            commands,
            results,
            answer,
            anew,
            asked: Asked::default(),
        }
    }

    /// Runs until the agent stops.
    pub async fn run(&mut self) -> Result<(), String> {
        self.show(api::LinkState::Unconfigured, |link| {
            link.client_id = self.identity.node.clone();
        });
        let (mut better, mut direct) = (None, None::<String>);
        while !self.stop.is_cancelled() {
            let ways = self.ways();
            let Some(at) = self.failover.current(ways.len()) else {
                self.show(api::LinkState::Unconfigured, |link| link.endpoint = None);
                self.wait_until(None).await;
                continue;
            };
            let way = &ways[at];
            let started = Instant::now();
            let mut ended = self.connect_and_serve(way, &ways, better.take()).await;
            // Why the rack is asked at all is what a person has to know.
            match (way, &mut ended) {
                (Way::Broker(_), Err(error)) => direct = Some(error.clone()),
                (Way::Tunnel(_), Err(error)) => {
                    let direct = direct.iter().map(|direct| format!("{direct}; "));
                    *error = direct.chain([std::mem::take(error)]).collect();
                }
                _ => {}
            }
            self.sent_today.save();
            match ended {
                Ok(Ended::Stopped) => return Ok(()),
                Ok(Ended::Moved) => {
                    self.failover = Failover::default();
                    self.max_message = usize::MAX;
                }
                Ok(Ended::Better(at, session)) => {
                    self.failover.moved(at);
                    better = Some(session);
                }
                Err(error) => {
                    if started.elapsed() > RETRY_MOST {
                        self.backoff.succeed();
                    }
                    if self.failover.failed(ways.len()) {
                        self.rest(way, error).await;
                    } else {
                        tracing::info!(%way, error, "the link is down: the next way is tried");
                        self.show(api::LinkState::Down, |link| link.last_error = Some(error));
                    }
                }
            }
        }
        Ok(())
    }

    /// Where to connect to, best first. A peer stands in for a broker: where there is to
    /// be none, there is no peer.
    fn ways(&mut self) -> Vec<Way> {
        let settings = self.settings.borrow_and_update();
        let rate = u64::from(settings.rate_kib_s.value) << 10;
        let rate = Some(rate).filter(|rate| *rate > 0);
        self.pacer = Pacer::new(rate, clock::since_boot());
        self.link.send_modify(|link| link.view.rate_bytes_s = rate);
        let first = settings.endpoint.value.iter();
        let brokers: Vec<_> = first.chain(&settings.fallbacks.value).cloned().collect();
        let peers = if brokers.is_empty() { Vec::new() } else { self.peers.clone() };
        let mesh = settings.mesh.value.as_ref().map(|it| &it.table);
        let is_in_rack =
            mesh.is_some_and(|it| !it.peers.is_empty() || !it.discovery_keys.is_empty());
        // Whoever passes bytes on could read and change what is not TLS.
        let tunnels = brokers.clone().into_iter().filter(|it| it.tls && is_in_rack);
        let tunnels: Vec<_> = tunnels.map(Way::Tunnel).collect();
        let brokers = brokers.into_iter().map(Way::Broker).chain(tunnels);
        brokers.chain(peers.into_iter().map(Way::Peer)).collect()
    }

    async fn rest(&mut self, way: &Way, error: String) {
        let wait = self.backoff.fail(state::random_u64().unwrap_or_default());
        tracing::info!(%way, error, retry_in = ?wait, "the link is down");
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
            () = self.anew.notified() => {}
            () = elapsed => {}
        }
    }

    async fn connect_and_serve(
        &mut self,
        way: &Way,
        ways: &[Way],
        connected: Option<T::Session>,
    ) -> Result<Ended<T::Session>, String> {
        self.show(api::LinkState::Connecting, |link| match way {
            Way::Broker(endpoint) => {
                (link.endpoint, link.via) = (Some(endpoint.to_string()), None);
            }
            Way::Tunnel(endpoint) => {
                link.endpoint = Some(endpoint.to_string());
                link.via = Some("the mesh of another node".into());
            }
            Way::Peer(peer) => link.via = Some(peer.to_string()),
        });
        let stop = self.stop.clone();
        let mut session = match connected {
            Some(session) => session,
            None => tokio::select! {
                () = stop.cancelled() => return Ok(Ended::Stopped),
                connected = connect(&self.transport, way) => connected?,
            },
        };
        for topic in [self.topics.desired(), self.topics.command()] {
            time::timeout(CONNECT_DEADLINE, session.subscribe(&topic))
                .await
                .map_err(|_| format!("no answer to the subscription within {CONNECT_DEADLINE:?}"))
                .flatten()?;
        }
        tracing::info!(%way, "the link is up");
        self.max_message = self.max_message.min(session.max_message().unwrap_or(usize::MAX));
        self.link.send_modify(|link| link.max_message = self.max_message);
        let is_broker = session.is_broker();
        self.show(if is_broker { api::LinkState::Up } else { api::LinkState::Relayed }, |link| {
            link.connects += 1;
            link.attempts = 0;
        });
        let ended = self.serve(&mut session, ways).await;
        if ended.is_err() {
            self.link.send_modify(|link| {
                link.ends.push_back(Instant::now());
                link.ends.drain(..link.ends.len().saturating_sub(MAX_ENDS));
            });
        }
        let ended = ended?;
        session.disconnect().await;
        Ok(ended)
    }

    /// Sends and receives until the session ends. Each arm of the `select!`
    /// waits on something that keeps its state elsewhere, so that losing the
    /// race loses nothing.
    async fn serve(
        &mut self,
        session: &mut T::Session,
        ways: &[Way],
    ) -> Result<Ended<T::Session>, String> {
        let is_broker = session.is_broker();
        let is_own = self.link.borrow().view.via.is_none();
        let mut carried = self.carried.clone().lock_owned().await;
        let mut results = self.results.clone().lock_owned().await;
        let durable = *self.durable.borrow();
        for (window, durable) in self.windows.iter_mut().zip(durable) {
            window.begin(durable);
        }
        let mut current = Current::default();
        let (mut waiting, mut progress) = (false, Instant::now());
        let transport = self.transport.clone();
        let failover = self.failover;
        let every = if is_own { self.failback_every } else { self.failback_every.min(OWN_AGAIN) };
        let mut better = std::pin::pin!(better(&transport, ways, failover, every));
        self.reported.mark_changed();
        self.alarms.mark_changed();
        loop {
            if current.answers.is_empty() {
                current.largest = 0;
            }
            // What was sent after a quiet time has waited for nothing yet.
            if !waiting {
                progress = Instant::now();
            }
            self.send_more(session, &mut current).await?;
            waiting = !current.answers.is_empty();
            let owed = self.pacer.owed(clock::since_boot()).map(|wait| Instant::now() + wait);
            let paced = current.paced.or(owed);
            // Our own goes first: what of it may be sent now is on its way.
            let may_carry = is_broker
                && paced.is_none()
                && current.carried < MAX_CARRIED
                && current.answers.len() < MAX_IN_FLIGHT;
            tokio::select! {
                () = self.stop.cancelled() => return Ok(Ended::Stopped),
                changed = self.settings.changed() => {
                    changed.map_err(|_| "the configuration's task is gone")?;
                    return Ok(Ended::Moved);
                }
                incoming = session.incoming() => match incoming {
                    Ok(message) => self.received(message).await,
                    Err(closed) => return Err(self.closed(closed, &current)),
                },
                Some(answer) = current.answers.join_next() => {
                    let (sent, answer) = answer.map_err(|error| error.to_string())?;
                    if answer == Answer::Lost {
                        return Err(self.lost(session, &current).await);
                    }
                    match sent {
                        Sent::Carried { bytes, reply } => {
                            current.carried -= 1;
                            self.answered_other(bytes, reply, answer);
                        }
                        sent => self.answered(&sent, answer)?,
                    }
                    progress = Instant::now();
                }
                Some(carry) = carried.recv(), if may_carry => {
                    self.carry(carry, session, &mut current).await?;
                }
                Some(message) = results.recv(), if is_broker => {
                    if !self.fits(&message) {
                        continue;
                    }
                    self.count(&message);
                    let answer = session.publish(message).await?;
                    current.answers.spawn(async { (Sent::Result, answer.await) });
                }
                _ = self.reported.changed(), if is_broker => {
                    let payload = self.reported.borrow_and_update().encode_to_vec().into();
                    let message = Message { topic: self.topics.reported(), payload, retain: true, reply: None };
                    if !self.fits(&message) {
                        continue;
                    }
                    self.count(&message);
                    let answer = session.publish(message).await?;
                    current.answers.spawn(async { (Sent::Reported, answer.await) });
                }
                _ = self.alarms.changed(), if is_broker => self.retain_alarms(session, &mut current).await?,
                _ = self.durable.changed() => {}
                () = time::sleep_until(paced.unwrap_or_else(Instant::now)), if paced.is_some() => {}
                (at, session) = &mut better => return Ok(Ended::Better(at, session)),
                () = time::sleep_until(progress + self.ack_deadline), if waiting => {
                    return Err(format!("no acknowledgement within {:?}", self.ack_deadline));
                }
            }
        }
    }

    /// An answer can't come any more; the connection itself says why, in a moment.
    async fn lost(&mut self, session: &mut T::Session, current: &Current) -> String {
        let why = async {
            loop {
                if let Err(closed) = session.incoming().await {
                    return closed;
                }
            }
        };
        match time::timeout(CLOSED_WITHIN, why).await {
            Ok(closed) => self.closed(closed, current),
            Err(_) => "the connection was lost".into(),
        }
    }

    /// A broker that closes over a message that is too large gets smaller ones: less
    /// than the largest that it had, and one that can't be less is left out.
    fn closed(&mut self, closed: Closed, current: &Current) -> String {
        if closed.too_large && current.largest > 0 {
            self.max_message = self.max_message.min(current.largest + TOPIC_BYTES - 1);
            let most = self.max_message;
            tracing::warn!(most, "the broker takes no message that large: smaller ones are sent");
        }
        if closed.taken_over {
            tracing::warn!("another client has this node's client id");
            self.link.send_modify(|link| link.view.taken_over = true);
        }
        closed.why
    }

    async fn send_more(
        &mut self,
        session: &mut T::Session,
        current: &mut Current,
    ) -> Result<(), String> {
        let durable = *self.durable.borrow_and_update();
        current.paced = None;
        while current.answers.len() < MAX_IN_FLIGHT {
            let windows = &self.windows;
            // What another node brought here goes no further than a broker.
            let is_broker = session.is_broker();
            let is_ready = |it: Ready| {
                let class = it.class as usize;
                (is_broker || it.class != Class::Relay)
                    && windows[class].next(it.lane, durable[class]).is_some()
            };
            let replays = windows.iter().map(Window::replays_in_flight).sum();
            match self.pacer.turn(is_ready, replays, clock::since_boot()) {
                Turn::Now(Ready { class, lane }) => {
                    let window = &self.windows[class as usize];
                    let span = window.next(lane, durable[class as usize]);
                    let Some(span) = span else { break };
                    if !self.send(class, span, session, current).await? {
                        break;
                    }
                }
                Turn::After(wait) => {
                    current.paced = Some(Instant::now() + wait);
                    break;
                }
                Turn::Wait => break,
            }
        }
        let in_flight = self.windows.iter().map(Window::in_flight).sum::<usize>() as u32;
        let sent_today = self.sent_today.bytes();
        self.link.send_if_modified(|link| {
            let was = (link.view.in_flight, link.view.sent_today_bytes);
            (link.view.in_flight, link.view.sent_today_bytes) = (in_flight, sent_today);
            was != (in_flight, sent_today)
        });
        Ok(())
    }

    /// Sends one frame. False if the spool gives nothing now.
    async fn send(
        &mut self,
        class: Class,
        span: Span,
        session: &mut T::Session,
        current: &mut Current,
    ) -> Result<bool, String> {
        let Some(outgoing) = self.outgoing(class, span).await else { return Ok(false) };
        let Outgoing { topic, origin, batch, payload, last_seq } = outgoing;
        if payload.len() + TOPIC_BYTES > self.max_message {
            let (bytes, most) = (payload.len(), self.max_message);
            tracing::error!(topic, bytes, most, "larger than the broker takes: it is left out");
            self.link.send_modify(|link| link.view.refused += 1);
            self.spool.refuse(class, span.first, last_seq);
            self.windows[class as usize].sent(span, last_seq);
            self.windows[class as usize].again(span.first, last_seq);
            return Ok(true);
        }
        for block in &batch.blocks {
            self.tell_dictionary(origin.as_deref(), block.dictionary, session, current).await?;
        }
        let samples = batch.blocks.iter().map(|block| block.offsets.len()).sum::<usize>();
        let records = (batch.records.len() + samples) as u64;
        let bytes = payload.len() as u64;
        tracing::debug!(topic, last_seq, records, bytes, "a batch is sent");
        current.largest = current.largest.max(payload.len());
        let message = Message { topic, payload, retain: false, reply: None };
        self.count(&message);
        let answer = session.publish(message).await?;
        self.windows[class as usize].sent(span, last_seq);
        let sent = Sent::Batch { class, first_seq: span.first, last_seq, records, bytes };
        current.answers.spawn(async move { (sent, answer.await) });
        Ok(true)
    }

    /// Sends a frame of another node, which holds it until it hears the answer.
    async fn carry(
        &mut self,
        carry: Carry,
        session: &mut T::Session,
        current: &mut Current,
    ) -> Result<(), String> {
        let Carry { origin, topic, payload, reply } = carry;
        // Who handed it over is gone, and will send it again.
        if reply.is_closed() {
            return Ok(());
        }
        let retain = topic.starts_with("dict/");
        let topic = self.topics.class(&format!("relay/{origin}/{topic}"));
        let message = Message { topic, payload, retain, reply: None };
        if !self.fits(&message) {
            _ = reply.send(Answer::RefusedForGood("larger than the peer's broker takes".into()));
            return Ok(());
        }
        let bytes = message.payload.len() as u64;
        current.largest = current.largest.max(message.payload.len());
        self.count(&message);
        let answer = session.publish(message).await?;
        current.carried += 1;
        current.answers.spawn(async move { (Sent::Carried { bytes, reply }, answer.await) });
        Ok(())
    }

    /// Hands the broker's answer on, whatever it is: it is the origin's to act on.
    fn answered_other(&self, bytes: u64, reply: oneshot::Sender<Answer>, answer: Answer) {
        if matches!(answer, Answer::Taken { .. }) {
            self.link.send_modify(|link| {
                link.view.carried_frames += 1;
                link.view.carried_bytes += bytes;
            });
        }
        _ = reply.send(answer);
    }

    /// Whether the broker takes what can't be sent in parts. What it doesn't take is
    /// told in the log, and holds nothing up.
    fn fits(&self, message: &Message) -> bool {
        let (bytes, most) = (message.payload.len() + TOPIC_BYTES, self.max_message);
        if bytes > most {
            tracing::error!(topic = message.topic, bytes, most, "larger than the broker takes");
        }
        bytes <= most
    }

    /// Counts what is sent, as far as we make it: MQTT's own bytes are a few more, and
    /// TLS and TCP a twentieth.
    fn count(&mut self, message: &Message) {
        let bytes = (message.topic.len() + message.payload.len()) as u64;
        self.pacer.spend(bytes, clock::since_boot());
        self.sent_today.note(bytes, clock::unix_ms());
    }

    /// What is sent next of a class.
    async fn outgoing(&self, class: Class, span: Span) -> Option<Outgoing> {
        let mut bytes = if class == Class::Metric { SAMPLE_BYTES } else { BATCH_BYTES };
        let most = MAX_BATCH_BYTES.min(self.max_message.saturating_sub(TOPIC_BYTES));
        loop {
            let frame = self.spool.read(class, span.first, bytes).await?.until(span.last);
            let alone = frame.records.len() <= 1;
            let outgoing = match class {
                Class::Relay => self.relayed(frame),
                _ => self.own(frame, class, span.lane == Lane::Replay),
            };
            if outgoing.payload.len() <= most || alone {
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
        &mut self,
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
        let message = Message { topic, payload, retain: true, reply: None };
        if !self.fits(&message) {
            return Ok(());
        }
        self.count(&message);
        let answer = session.publish(message).await?;
        current.answers.spawn(async { (Sent::Dictionary, answer.await) });
        Ok(())
    }

    /// Has the broker keep what is raised, and forget what is not: an empty message is how
    /// a retained one is removed.
    async fn retain_alarms(
        &mut self,
        session: &mut T::Session,
        current: &mut Current,
    ) -> Result<(), String> {
        let shown = self.alarms.borrow_and_update().clone();
        let raised: BTreeMap<String, Bytes> = (shown.raised.iter())
            .map(|it| (it.id.clone(), alarm::wire(it, true).encode_to_vec().into()))
            .collect();
        let mut due: Vec<(String, Bytes)> = Vec::new();
        due.extend(
            raised.clone().into_iter().filter(|(id, now)| current.alarms.get(id) != Some(now)),
        );
        self.ended.retain(|id| !raised.contains_key(id));
        // What was cleared before this session is removed once.
        let cleared = shown.history.iter().map(|it| &it.id).chain(current.alarms.keys());
        let cleared: BTreeSet<&String> = cleared.collect();
        let over = |id: &&String| !raised.contains_key(*id) && !self.ended.contains(*id);
        due.extend(cleared.into_iter().filter(over).map(|id| (id.clone(), Bytes::new())));
        for (id, payload) in due {
            let sent = Sent::Alarm { id: id.clone(), raised: !payload.is_empty() };
            let message =
                Message { topic: self.topics.alarm(&id), payload, retain: true, reply: None };
            let answer = session.publish(message).await?;
            current.answers.spawn(async move { (sent, answer.await) });
        }
        current.alarms = raised;
        Ok(())
    }

    fn answered(&mut self, sent: &Sent, answer: Answer) -> Result<(), String> {
        let topic = sent.topic();
        match (&answer, sent) {
            (Answer::Lost, _) => return Err("the connection was lost".into()),
            // Where it goes may be another's choice: it must not cost the link.
            (Answer::RefusedForNow(why) | Answer::RefusedForGood(why), Sent::Result) => {
                tracing::warn!(why, "the broker does not take what became of what the core wanted");
            }
            (Answer::RefusedForNow(why), _) => {
                self.link.send_modify(|link| link.view.refused += 1);
                return Err(format!("the broker refused a publish to …/{topic}: {why}"));
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
                    // It is sent again as a gap.
                    self.windows[*class as usize].again(*first_seq, *last_seq);
                    return Ok(());
                }
            }
            (Answer::Taken { .. }, Sent::Alarm { id, raised: false }) => {
                self.ended.insert(id.clone());
            }
            (
                Answer::Taken { .. },
                Sent::Reported
                | Sent::Result
                | Sent::Dictionary
                | Sent::Alarm { .. }
                | Sent::Carried { .. },
            ) => {}
            (Answer::Taken { heard }, Sent::Batch { records, bytes, .. }) => {
                self.backoff.succeed();
                if !heard && self.link.borrow().view.unheard == 0 {
                    tracing::warn!(
                        topic,
                        "the broker knows of nobody who reads this: is the core subscribed?"
                    );
                }
                self.link.send_modify(|link| {
                    link.view.acked_batches += 1;
                    link.view.acked_records += records;
                    link.view.acked_bytes += bytes;
                    link.view.unheard += u64::from(!heard);
                });
            }
        }
        if let Sent::Batch { class, first_seq, last_seq, .. } = sent {
            let window = &mut self.windows[*class as usize];
            window.acknowledge(*first_seq, *last_seq);
            tracing::debug!(class = class.name(), last_seq, acked = window.acked(), "acknowledged");
            self.spool.acknowledge(*class, window.acked());
        }
        Ok(())
    }

    async fn received(&mut self, message: Message) {
        if message.topic == self.topics.command() {
            // An empty one removes a retained one.
            if !message.payload.is_empty() && self.commands.try_send(message).is_err() {
                tracing::warn!("a command came while too many wait: it is left out");
            }
            return;
        }
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
        let (reply, verdict) = oneshot::channel();
        self.asked.owe(message.reply, verdict, self.reported.clone(), self.answer.clone());
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

/// Connects within the deadline.
async fn connect<T: Transport>(transport: &T, way: &Way) -> Result<T::Session, String> {
    let connecting = async {
        match way {
            Way::Broker(endpoint) => transport.connect(endpoint).await,
            Way::Tunnel(endpoint) => transport.connect_through_mesh(endpoint).await,
            Way::Peer(peer) => transport.connect_peer(peer).await,
        }
    };
    time::timeout(CONNECT_DEADLINE, connecting)
        .await
        .map_err(|_| format!("no answer within {CONNECT_DEADLINE:?}"))
        .flatten()
}

/// A session with a better broker than the one in use, and which; never, if it is the
/// best. Each better one is tried in turn.
async fn better<T: Transport>(
    transport: &T,
    ways: &[Way],
    failover: Failover,
    every: Duration,
) -> (usize, T::Session) {
    for probe in 0.. {
        let Some(at) = failover.better(probe) else { break };
        time::sleep(every).await;
        match connect(transport, &ways[at]).await {
            Ok(session) => return (at, session),
            Err(error) => tracing::debug!(way = %ways[at], error, "not back yet"),
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod soak;
#[cfg(test)]
mod tests;
