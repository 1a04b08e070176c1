//! The uplink against a broker that misbehaves on demand.

use std::{
    collections::BTreeSet,
    sync::{Mutex as Lock, PoisonError},
};

use purlin_core::{
    alarm::Alarm,
    identity::Incarnation,
    settings::{Draft, Reader, Start},
};

use purlin_proto::v1::record::Body;

use super::*;
use crate::clock::Clock;

/// What the broker does with the next publishes, in order; then it takes all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Take,
    /// Takes it and closes before answering: what MQTT calls at least once.
    TakeAndClose,
    Close,
    Silence,
    Deny,
    Reject,
}

/// A broker, shared by its sessions.
#[derive(Clone, Debug, Default)]
pub(super) struct Fake(Arc<Lock<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    moves: VecDeque<Move>,
    /// Every (class, seq) that was published, taken or not.
    pub(super) seen: BTreeSet<(i32, u64)>,
    /// Batches in the order in which they were taken: class, first and last number.
    pub(super) order: Vec<(i32, u64, u64)>,
    /// Samples in that order: number, time, seconds that each stands for.
    pub(super) samples: Vec<(u64, u64, u32)>,
    published: usize,
    /// Every gap that was told.
    gaps: BTreeSet<(u64, u64)>,
    connections: Vec<String>,
    reported: Option<v1::Reported>,
    /// Endpoints that can't be reached.
    down: BTreeSet<String>,
    /// A publish that is larger closes the connection with reason 0x95.
    most: Option<usize>,
    /// What is retained of alarms, and the messages about them that came.
    alarms: BTreeMap<String, v1::Alarm>,
    alarm_messages: usize,
    /// Delivered as the retained desired document at each subscription.
    desired: Option<Vec<u8>>,
    /// A peer sends on.
    peer: bool,
    /// Topics of what was published for other nodes.
    carried: Vec<String>,
}

impl Fake {
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn session(&self, is_broker: bool) -> FakeSession {
        let (closed, too_large, inbox) = (false, false, Vec::new());
        FakeSession { broker: self.clone(), closed, too_large, inbox, is_broker }
    }
}

pub(super) struct FakeSession {
    broker: Fake,
    closed: bool,
    too_large: bool,
    inbox: Vec<Message>,
    is_broker: bool,
}

impl Transport for Fake {
    type Session = FakeSession;
    async fn connect(&self, endpoint: &Endpoint) -> Result<FakeSession, String> {
        let endpoint = endpoint.to_string();
        let down = self.with(|state| {
            state.connections.push(endpoint.clone());
            state.down.contains(&endpoint)
        });
        if down {
            return Err("nobody is there".into());
        }
        Ok(self.session(true))
    }

    async fn connect_peer(&self, peer: &Peer) -> Result<FakeSession, String> {
        match self.with(|state| state.peer) {
            true => Ok(self.session(false)),
            false => Err(format!("{peer} is away")),
        }
    }
}

impl Session for FakeSession {
    async fn subscribe(&mut self, topic: &str) -> Result<(), String> {
        let desired = self.broker.with(|state| state.desired.clone());
        let desired = desired.filter(|_| topic.ends_with("/desired"));
        self.inbox.extend(desired.map(|document| Message {
            topic: topic.into(),
            payload: document.into(),
            retain: true,
            reply: None,
        }));
        Ok(())
    }

    async fn publish(&mut self, message: Message) -> Result<PendingAnswer, String> {
        if message.topic.contains("/dict/") {
            return Ok(Box::pin(async { Answer::Taken { heard: true } }));
        }
        if let Some((_, id)) = message.topic.split_once("/alarms/") {
            let alarm = v1::Alarm::decode(message.payload.clone()).map_err(|e| e.to_string())?;
            self.broker.with(|state| {
                state.alarm_messages += 1;
                match message.payload.is_empty() {
                    true => _ = state.alarms.remove(id),
                    false => _ = state.alarms.insert(id.into(), alarm),
                }
            });
            return Ok(Box::pin(async { Answer::Taken { heard: true } }));
        }
        if message.retain {
            let reported = v1::Reported::decode(message.payload).map_err(|e| e.to_string())?;
            self.broker.with(|state| state.reported = Some(reported));
            return Ok(Box::pin(async { Answer::Taken { heard: true } }));
        }
        self.too_large |=
            self.broker.with(|state| state.most).is_some_and(|most| message.payload.len() > most);
        self.closed |= self.too_large;
        if self.closed {
            return Ok(Box::pin(async { Answer::Lost }));
        }
        if message.topic.contains("/relay/") {
            self.broker.with(|state| state.carried.push(message.topic));
        }
        let batch = wire::decode(&message.payload).map_err(|error| error.to_string())?;
        let records = wire::records(&batch).map_err(|error| error.to_string())?;
        let next = self.broker.with(|state| {
            let next = state.moves.pop_front().unwrap_or(Move::Take);
            state.published += 1;
            if matches!(next, Move::Take | Move::TakeAndClose) {
                state.seen.extend(records.iter().map(|(seq, _)| (batch.class, *seq)));
                state.order.push((batch.class, batch.first_seq, batch.last_seq));
                state.samples.extend(records.iter().filter_map(|(seq, it)| match &it.body {
                    Some(Body::Sample(sample)) => Some((*seq, it.unix_ms, sample.span_s)),
                    _ => None,
                }));
                state.gaps.extend(batch.gaps.iter().map(|gap| (gap.first_seq, gap.last_seq)));
            }
            next
        });
        self.closed |= matches!(next, Move::Close | Move::TakeAndClose);
        Ok(Box::pin(async move {
            match next {
                Move::Take => Answer::Taken { heard: true },
                Move::Deny => Answer::RefusedForNow("NotAuthorized".into()),
                Move::Reject => Answer::RefusedForGood("PayloadFormatInvalid".into()),
                Move::TakeAndClose | Move::Close => Answer::Lost,
                Move::Silence => std::future::pending().await,
            }
        }))
    }

    async fn incoming(&mut self) -> Result<Message, Closed> {
        match self.inbox.pop() {
            Some(message) => Ok(message),
            None if self.closed => {
                Err(Closed { why: "closed".into(), too_large: self.too_large, ..Closed::default() })
            }
            None => std::future::pending().await,
        }
    }

    fn max_message(&self) -> Option<usize> {
        None
    }

    fn is_broker(&self) -> bool {
        self.is_broker
    }

    async fn disconnect(self) {}
}

pub(super) struct Case {
    _dir: tempfile::TempDir,
    pub(super) broker: Fake,
    pub(super) spool: Spool,
    settings: watch::Sender<Arc<Settings>>,
    link: watch::Receiver<Link>,
    asks: mpsc::Receiver<Ask>,
    stop: CancellationToken,
    carry: mpsc::Sender<Carry>,
    _reported: watch::Sender<Arc<v1::Reported>>,
    alarms: watch::Sender<Arc<alarm::Shown>>,
    running: tokio::task::JoinHandle<Result<(), String>>,
}

fn settings(endpoint: &str) -> Arc<Settings> {
    settings_with(endpoint, &[])
}

/// The same with room for so much.
pub(super) fn settings_capped(endpoint: &str, cap_mib: u32) -> Arc<Settings> {
    let spool_cap_mib = Some(cap_mib);
    resolved(Draft { endpoint: Some(endpoint.into()), spool_cap_mib, ..Draft::default() })
}

fn settings_with(endpoint: &str, fallbacks: &[&str]) -> Arc<Settings> {
    let fallbacks = fallbacks.iter().map(|it| (*it).to_owned()).collect();
    resolved(Draft { endpoint: Some(endpoint.into()), fallbacks, ..Draft::default() })
}

fn resolved(draft: Draft) -> Arc<Settings> {
    let desired =
        purlin_core::settings::check(&draft, &Reader { node: "n", agent: "0.1.0", maps: &[] });
    Arc::new(Settings::resolve(&Start::default(), Some(&desired.expect("a valid draft"))))
}

/// An uplink on a spool of `records` events, with a broker that makes `moves`.
async fn case(records: u64, moves: &[Move], desired: Option<Vec<u8>>) -> Case {
    let sizes: Vec<usize> = (0..records as usize).map(|n| BATCH_BYTES + n).collect();
    let broker = Fake::default();
    broker.with(|state| {
        state.moves = moves.iter().copied().collect();
        state.desired = desired;
    });
    case_with(&sizes, broker, settings("mqtt://first")).await
}

/// An uplink on a spool of events of these sizes.
async fn case_with(sizes: &[usize], broker: Fake, in_force: Arc<Settings>) -> Case {
    let dir = tempfile::tempdir().expect("a directory");
    let spool =
        Spool::open(dir.path(), Incarnation(9), Clock::new(1), crate::tasks::Board::default())
            .expect("a spool");
    let mut random = 1u64;
    let mut letter = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'!' + (random >> 57) as u8 % 90)
    };
    for size in sizes {
        // Each a batch of its own, that can't be packed.
        spool.event("test", (0..*size).map(|_| letter()).collect::<String>());
    }
    let records = sizes.len() as u64;
    let mut durable = spool.durable();
    durable.wait_for(|durable| durable[Class::Event as usize] >= records).await.expect("durable");
    drop(durable);
    connected(dir, spool, broker, in_force).await
}

/// An uplink on a spool that is in `dir`.
pub(super) async fn case_on(dir: tempfile::TempDir, broker: Fake, in_force: Arc<Settings>) -> Case {
    let spool =
        Spool::open(dir.path(), Incarnation(9), Clock::new(1), crate::tasks::Board::default());
    let spool = spool.expect("a spool");
    spool.limit(in_force.clone());
    connected(dir, spool, broker, in_force).await
}

async fn connected(
    dir: tempfile::TempDir,
    spool: Spool,
    broker: Fake,
    in_force: Arc<Settings>,
) -> Case {
    let incarnation = Incarnation(9);
    let (settings, settings_in_force) = watch::channel(in_force);
    let (reported, reported_now) = watch::channel(Arc::new(v1::Reported::default()));
    let (alarms, alarms_now) = watch::channel(Arc::new(alarm::Shown::default()));
    let (door, asks) = mpsc::channel(8);
    let (publish, link) = watch::channel(Link::default());
    let stop = CancellationToken::new();
    let (carry, carried) = mpsc::channel(MAX_CARRIED);
    let wiring = Wiring {
        identity: Identity { fleet: "f".into(), node: "n".into(), incarnation },
        spool: spool.clone(),
        settings: settings_in_force,
        reported: reported_now,
        alarms: alarms_now,
        door,
        link: publish,
        stop: stop.clone(),
        sent_today: dir.path().join("sent-today"),
        peers: vec![Peer { node: "p".into(), address: "p:1".into() }],
        carried: Arc::new(Mutex::new(carried)),
        commands: mpsc::channel(1).0,
        results: Arc::new(Mutex::new(mpsc::channel(1).1)),
        answer: mpsc::channel(1).0,
        anew: Arc::default(),
    };
    let mut uplink = Uplink::new(broker.clone(), wiring).await;
    uplink.ack_deadline = Duration::from_millis(200);
    uplink.failback_every = Duration::from_millis(20);
    uplink.backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(20));
    let running = tokio::spawn(async move { uplink.run().await });
    Case {
        _dir: dir,
        broker,
        spool,
        settings,
        link,
        asks,
        stop,
        carry,
        _reported: reported,
        alarms,
        running,
    }
}

impl Case {
    /// Waits until the cursor of events stands at `seq`.
    async fn acked(&self, seq: u64) {
        self.acked_of(Class::Event, seq).await;
    }

    /// Waits until the cursor of a class stands at `seq`.
    pub(super) async fn acked_of(&self, class: Class, seq: u64) {
        let acked = async {
            while self.spool.figures().await.expect("figures")[class as usize].acked_seq < seq {
                time::sleep(Duration::from_millis(2)).await;
            }
        };
        let within = time::timeout(Duration::from_secs(120), acked).await;
        within.unwrap_or_else(|_| panic!("{} {seq} is not acknowledged", class.name()));
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        self.running.await.expect("no panic").expect("a clean end");
    }
}

#[tokio::test]
async fn every_record_arrives_whatever_the_broker_does() {
    use Move::{Close, Deny, Silence, Take, TakeAndClose};
    let moves =
        [Take, Close, TakeAndClose, Take, Silence, Deny, Take, Close, Silence, TakeAndClose];
    let case = case(50, &moves, None).await;
    case.acked(50).await;
    case.broker.with(|state| {
        assert_eq!(state.seen.len(), 50);
        assert!(state.connections.len() > 3, "{:?}", state.connections);
    });
    case.end().await;
}

#[tokio::test]
async fn the_cursor_waits_for_what_was_not_acknowledged() {
    let case = case(5, &[Move::Silence], None).await;
    time::sleep(Duration::from_millis(100)).await;
    assert_eq!(case.spool.figures().await.expect("figures")[Class::Event as usize].acked_seq, 0);
    assert_eq!(case.broker.with(|state| state.published), 5);
    case.acked(5).await;
    case.end().await;
}

#[tokio::test]
async fn a_message_the_broker_will_never_take_does_not_block_the_rest() {
    let case = case(5, &[Move::Take, Move::Reject], None).await;
    case.acked(5).await;
    assert_eq!(case.link.borrow().view().refused, 1);
    case.broker.with(|state| {
        assert!(!state.seen.contains(&(v1::Class::Event.into(), 2)), "{:?}", state.seen);
        assert_eq!(state.gaps, [(2, 2)].into(), "the core is told");
    });
    case.end().await;
}

#[tokio::test]
async fn another_endpoint_is_taken_at_once() {
    let case = case(1, &[], None).await;
    case.acked(1).await;
    case.settings.send_replace(settings("mqtt://second:99"));
    let moved = async {
        while case.broker.with(|state| state.connections.len()) < 2 {
            time::sleep(Duration::from_millis(2)).await;
        }
    };
    time::timeout(Duration::from_secs(5), moved).await.expect("a second connection");
    let connections = case.broker.with(|state| state.connections.clone());
    assert_eq!(connections, ["mqtt://first:1883", "mqtt://second:99"]);
    case.end().await;
}

#[tokio::test]
async fn a_desired_document_is_brought_to_the_door_and_reported_is_published() {
    let mut case = case(0, &[], Some(b"document".to_vec())).await;
    let ask = time::timeout(Duration::from_secs(5), case.asks.recv()).await.expect("in time");
    match ask.expect("an ask") {
        Ask::Offer(offer, _) => assert_eq!(offer.bytes, b"document".as_slice()),
        other => panic!("{other:?}"),
    }
    assert!(case.broker.with(|state| state.reported.is_some()));
    case.end().await;
}

#[tokio::test]
async fn what_is_too_large_for_the_broker_is_sent_smaller_or_told_as_a_gap() {
    let broker = Fake::default();
    broker.with(|state| state.most = Some(9_000));
    // Small ones go together in one batch at first; the fourth can't be less.
    let sizes = [4_000, 4_000, 4_000, 12_000, 100];
    let case = case_with(&sizes, broker, settings("mqtt://first")).await;
    case.acked(5).await;
    case.broker.with(|state| {
        let event = i32::from(v1::Class::Event);
        let arrived: Vec<u64> =
            state.seen.iter().filter(|it| it.0 == event).map(|it| it.1).collect();
        assert_eq!(arrived, [1, 2, 3, 5]);
        assert_eq!(state.gaps, [(4, 4)].into(), "the core is told");
    });
    assert_eq!(case.link.borrow().view().refused, 1);
    case.end().await;
}

#[tokio::test]
async fn a_worse_broker_serves_until_the_best_is_back() {
    let broker = Fake::default();
    broker.with(|state| _ = state.down.insert("mqtt://first:1883".into()));
    let in_force = settings_with("mqtt://first", &["mqtt://second", "mqtt://third"]);
    let mut case = case_with(&[100; 3], broker, in_force).await;
    case.acked(3).await;
    assert_eq!(case.link.borrow().view().endpoint.as_deref(), Some("mqtt://second:1883"));
    case.broker.with(|state| state.down.clear());
    let back = case.link.wait_for(|link| {
        let view = link.view();
        view.state == api::LinkState::Up && view.endpoint.as_deref() == Some("mqtt://first:1883")
    });
    time::timeout(Duration::from_secs(5), back).await.expect("in time").expect("a link");
    case.spool.event("test", "after");
    case.acked(4).await;
    case.broker.with(|state| {
        assert!(!state.connections.contains(&"mqtt://third:1883".to_owned()), "never needed");
    });
    case.end().await;
}

#[tokio::test]
async fn a_peer_stands_in_and_is_no_broker() {
    let broker = Fake::default();
    broker.with(|state| {
        state.peer = true;
        state.down.insert("mqtt://first:1883".into());
        state.desired = Some(b"document".to_vec());
    });
    let mut case = case_with(&[100; 3], broker, settings("mqtt://first")).await;
    case.acked(3).await;
    let view = case.link.borrow().view();
    assert_eq!(view.state, api::LinkState::Relayed);
    assert_eq!(view.via.as_deref(), Some("peer p at p:1"));
    assert!(case.broker.with(|state| state.reported.is_none()), "its own link tells it");
    // Nobody is sent on for meanwhile: there is no way round in a circle.
    let (carry, answer) = carry("o");
    case.carry.send(carry).await.expect("room");
    let waited = time::timeout(Duration::from_millis(100), answer).await;
    assert!(waited.is_err(), "{waited:?}");
    case.broker.with(|state| state.down.clear());
    let back = case.link.wait_for(|link| link.view().state == api::LinkState::Up);
    time::timeout(Duration::from_secs(5), back).await.expect("in time").expect("a link");
    case.end().await;
}

#[tokio::test]
async fn what_the_broker_says_of_a_peers_frame_is_the_peers_affair() {
    let case = case(0, &[Move::Deny, Move::Reject, Move::Take], None).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        let (carry, answer) = carry("o");
        case.carry.send(carry).await.expect("room");
        answers.push(time::timeout(Duration::from_secs(5), answer).await.expect("in time"));
    }
    let expected = [
        Answer::RefusedForNow("NotAuthorized".into()),
        Answer::RefusedForGood("PayloadFormatInvalid".into()),
        Answer::Taken { heard: true },
    ];
    assert_eq!(answers.into_iter().collect::<Result<Vec<_>, _>>(), Ok(expected.into()));
    case.broker.with(|state| {
        assert_eq!(state.carried, ["purlin/v1/f/n/relay/o/event"; 3]);
        assert_eq!(state.connections.len(), 1, "its own session goes on");
    });
    let view = case.link.borrow().view();
    assert_eq!((view.carried_frames, view.refused), (1, 0));
    case.end().await;
}

/// A frame of another node, and the broker's answer to it.
fn carry(origin: &str) -> (Carry, oneshot::Receiver<Answer>) {
    let batch = v1::Batch { node: origin.into(), first_seq: 1, last_seq: 1, ..Default::default() };
    let (reply, answer) = oneshot::channel();
    let payload = batch.encode_to_vec().into();
    (Carry { origin: origin.into(), topic: "event".into(), payload, reply }, answer)
}

#[tokio::test]
async fn alarms_are_retained_while_they_are_raised_and_their_ends_told_once() {
    let alarm = |id: &str| Alarm { id: id.into(), ..Alarm::default() };
    let shown = |raised: &[&str], history: &[&str]| {
        Arc::new(alarm::Shown {
            raised: raised.iter().map(|id| alarm(id)).collect(),
            history: history.iter().map(|id| alarm(id)).collect(),
            ..alarm::Shown::default()
        })
    };
    let case = case(1, &[], None).await;
    let retains = async |ids: &[&str], messages: usize| {
        let waited = time::timeout(Duration::from_secs(5), async {
            while case.broker.with(|state| {
                state.alarms.keys().map(String::as_str).collect::<Vec<_>>() != ids
                    || state.alarm_messages != messages
            }) {
                time::sleep(Duration::from_millis(2)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{ids:?}, {messages}: {:?}", case.broker));
    };
    // One was cleared before this session, in an outage.
    case.broker.with(|state| _ = state.alarms.insert("old".into(), v1::Alarm::default()));
    case.alarms.send_replace(shown(&["hot", "low"], &["old"]));
    retains(&["hot", "low"], 3).await;
    case.alarms.send_replace(shown(&["low"], &["old", "hot"]));
    retains(&["low"], 4).await;
    // A new session says again what is raised: its broker may have forgotten.
    case.broker.with(|state| state.alarms.clear());
    case.settings.send_replace(settings("mqtt://second:99"));
    retains(&["low"], 5).await;
    case.alarms.send_replace(shown(&["hot", "low"], &["old", "hot"]));
    retains(&["hot", "low"], 6).await;
    // After a quiet time it has waited for no answer yet.
    let connections = case.broker.with(|state| state.connections.len());
    for round in 0..8 {
        time::sleep(Duration::from_millis(250)).await;
        let raised = &["hot", "low"][(round + 1) % 2..];
        case.alarms.send_replace(shown(raised, &["old", "hot"]));
        retains(raised, 7 + round).await;
    }
    assert_eq!(case.broker.with(|state| state.connections.len()), connections);
    case.end().await;
}
