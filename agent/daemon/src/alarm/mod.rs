//! The alarms' owner: what is read and what is wrong with the agent itself goes in, and
//! out of it come records of class alarm, what is raised now for the uplink to retain,
//! and a state file, so that a restart neither forgets an alarm nor raises it twice.

use std::{sync::Arc, time::Duration};

use purlin_core::{
    alarm::{
        Alarm, Alarms, Change, Condition, Note, Now, Refused, id,
        rule::{Notice, Rule},
    },
    metric::Point,
    settings::Settings,
};
use purlin_proto::{
    api::{self, Act},
    v1::{self, record::Body},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task,
    time::{self, Instant, MissedTickBehavior},
};

use self::store::Saved;
use crate::{clock, rack, spool::Spool, status::Sources};

mod store;
pub mod webhook;

pub use store::{Store, open};

/// Readings and questions that may wait: some seconds of the fastest sampling.
const INBOX: usize = 256;
/// How often it is looked for what is wrong with the agent itself.
const LOOK: Duration = Duration::from_secs(5);
/// How much later than that it may be before something is stuck.
const LATE: Duration = Duration::from_secs(60);
/// What ids of the agent's own faults begin with.
const FAULT: &str = "fault";

/// What there is to see.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// Raised now, by their ids.
    pub raised: Vec<Alarm>,
    /// Cleared, the oldest first.
    pub history: Vec<Alarm>,
    /// How many found no room.
    pub passed_over: u64,
    /// The document's rules that are judged by.
    pub rules: Arc<Vec<Rule>>,
}

impl Shown {
    /// Alarms that nothing was read for yet.
    pub fn of(alarms: &Alarms) -> Self {
        Self {
            raised: alarms.raised().cloned().collect(),
            history: alarms.history().cloned().collect(),
            passed_over: alarms.passed_over(),
            rules: Arc::default(),
        }
    }
}

/// What is judged by: the document's rules go before those of the rack's maps.
struct Rules {
    own: Arc<Vec<Rule>>,
    all: Vec<Rule>,
}

/// Whom everybody else tells; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client(mpsc::Sender<Told>);

enum Told {
    Points(Vec<Point>),
    Conditions(Vec<Condition>),
    Kind(&'static str, Vec<Condition>),
    Act { id: String, act: Act, note: Note, reply: oneshot::Sender<Result<(), Refused>> },
}

/// A way to the owner, and the owner's end of it.
pub fn client() -> (Client, Inbox) {
    let (told, inbox) = mpsc::channel(INBOX);
    (Client(told), Inbox(inbox))
}

/// The owner's end.
#[derive(Debug)]
pub struct Inbox(mpsc::Receiver<Told>);

impl Client {
    /// Tells of readings. What finds no room is read again.
    pub fn observe(&self, points: &[Point]) {
        _ = self.0.try_send(Told::Points(points.to_vec()));
    }

    /// Tells what is wrong and what is well.
    pub fn conditions(&self, conditions: Vec<Condition>) {
        _ = self.0.try_send(Told::Conditions(conditions));
    }

    /// Tells everything of a kind that is wrong: all else of that kind is well.
    pub fn all_of(&self, kind: &'static str, wrong: Vec<Condition>) {
        _ = self.0.try_send(Told::Kind(kind, wrong));
    }

    /// Does something about an alarm; `None` if the owner is gone.
    pub async fn act(&self, id: String, act: Act, note: Note) -> Option<Result<(), Refused>> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Told::Act { id, act, note, reply }).await.ok()?;
        answer.await.ok()
    }
}

/// The owner.
pub struct Owner {
    /// The settings in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// What it is told.
    pub inbox: Inbox,
    /// Where the agent's own faults are seen.
    pub sources: Arc<Sources>,
    /// Takes the records.
    pub spool: Spool,
    /// Shows the alarms.
    pub shown: watch::Sender<Arc<Shown>>,
    /// The state file, and what was on it.
    pub store: (Store, Alarms),
}

impl Owner {
    /// Runs for ever.
    pub async fn run(&mut self) {
        let mut looks = time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rules = self.rules();
        loop {
            let due = self.store.1.next().map(|at| at.saturating_sub(clock::since_boot()));
            let due = Instant::now() + due.unwrap_or(LOOK);
            let alarms = &mut self.store.1;
            tokio::select! {
                told = self.inbox.0.recv() => match told {
                    Some(Told::Points(points)) => alarms.observe(&rules.all, &points, now()),
                    Some(Told::Conditions(all)) => {
                        all.into_iter().for_each(|condition| alarms.condition(condition, now()));
                    }
                    Some(Told::Kind(kind, wrong)) => alarms.conditions(kind, wrong, now()),
                    Some(Told::Act { id, act, note, reply }) => {
                        let done = match act {
                            Act::Acknowledge => alarms.acknowledge(&id, note, now()),
                            Act::Silence => alarms.silence(&id, note),
                            Act::Clear => alarms.clear_by_hand(&id, note, now()),
                        };
                        // It is on disk before it is told.
                        self.tell(&rules).await;
                        _ = reply.send(done);
                        continue;
                    }
                    None => return,
                },
                changed = self.settings.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    rules = self.rules();
                    self.store.1.keep_rules(&rules.all, now());
                    self.show(&rules);
                }
                _ = looks.tick() => {
                    self.sources.board.beat("alarm", LOOK + LATE);
                    let faults = self.faults().await;
                    self.store.1.conditions(FAULT, faults, now());
                    self.show(&rules);
                }
                () = time::sleep_until(due) => alarms.tick(now()),
            }
            self.tell(&rules).await;
        }
    }

    fn rules(&mut self) -> Rules {
        let settings = self.settings.borrow_and_update().clone();
        let own = settings.alarm_rules.value.clone();
        let all = own.iter().cloned().chain(rack::alarms::of_buses(&settings.rack.value)).collect();
        Rules { own: Arc::new(own), all }
    }

    async fn faults(&self) -> Vec<Condition> {
        let queue = self.spool.figures().await.unwrap_or_default();
        let faults = self.sources.faults(&queue);
        let condition = |fault: api::Fault| Condition {
            id: id(FAULT, &fault.id),
            text: fault.what,
            notice: Notice { remedy: fault.next, ..Notice::default() },
            bad: true,
        };
        faults.into_iter().map(condition).collect()
    }

    /// Says what changed, makes it durable and shows it.
    async fn tell(&mut self, rules: &Rules) {
        let changes = self.store.1.changes();
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            let (alarm, raised) = match change {
                Change::Raised(alarm) => {
                    tracing::warn!(id = alarm.id, text = alarm.text, "an alarm is raised");
                    (alarm, true)
                }
                Change::Noted(alarm) => (alarm, true),
                Change::Cleared(alarm) => {
                    tracing::info!(id = alarm.id, "an alarm is cleared");
                    (alarm, false)
                }
            };
            self.spool.append(Body::Alarm(wire(alarm, raised)));
        }
        self.show(rules);
        let (mut store, alarms) = (self.store.0.clone(), &self.store.1);
        let saved = Saved {
            raised: alarms.raised().cloned().collect(),
            history: alarms.history().cloned().collect(),
        };
        // Beside the main loop: a worn flash may take seconds.
        let stored = task::spawn_blocking(move || store.store(&saved).map(|()| store)).await;
        match stored.map_err(std::io::Error::other).flatten() {
            Ok(store) => self.store.0 = store,
            Err(error) => tracing::error!(%error, "after a restart the alarms are raised anew"),
        }
    }

    fn show(&self, rules: &Rules) {
        let shown = Shown { rules: rules.own.clone(), ..Shown::of(&self.store.1) };
        self.shown.send_if_modified(|was| {
            let changed = **was != shown;
            if changed {
                *was = Arc::new(shown);
            }
            changed
        });
    }
}

fn now() -> Now {
    Now { boot: clock::since_boot(), unix_ms: clock::unix_ms() }
}

/// An alarm as it is sent.
pub fn wire(alarm: &Alarm, raised: bool) -> v1::Alarm {
    let mut attributes = std::collections::BTreeMap::new();
    if let Some(reading) = &alarm.reading {
        attributes.clone_from(&reading.attributes);
        attributes.insert("metric".into(), reading.metric.clone());
        attributes.insert("unit".into(), reading.unit.clone());
    }
    let said = alarm.acknowledged.as_ref().map(|note| format!("{}: {}", note.by, note.reason));
    v1::Alarm {
        id: alarm.id.clone(),
        raised,
        text: alarm.text.clone(),
        attributes,
        severity: alarm.notice.severity.name().into(),
        remedy: alarm.notice.remedy.clone(),
        page: alarm.notice.page.clone(),
        raised_unix_ms: alarm.raised_unix_ms,
        returns: alarm.returns,
        over: alarm.over,
        acknowledged: said.unwrap_or_default(),
        silenced_until_unix_ms: alarm.silenced.as_ref().map_or(0, |note| note.unix_ms),
    }
}

/// All of them as the local API shows them.
pub fn views(shown: &Shown) -> api::Alarms {
    api::Alarms {
        raised: shown.raised.iter().map(view).collect(),
        history: shown.history.iter().map(view).collect(),
        passed_over: shown.passed_over,
        elsewhere: Vec::new(),
    }
}

/// An alarm as the local API shows it.
pub fn view(alarm: &Alarm) -> api::Alarm {
    let note = |note: &Note| api::Note {
        by: note.by.clone(),
        reason: note.reason.clone(),
        unix_ms: note.unix_ms,
    };
    let reading = alarm.reading.as_ref();
    api::Alarm {
        id: alarm.id.clone(),
        severity: alarm.notice.severity.name().into(),
        text: alarm.text.clone(),
        remedy: alarm.notice.remedy.clone(),
        page: alarm.notice.page.clone(),
        metric: reading.map(|it| it.metric.clone()),
        value: reading.map(|it| it.value),
        unit: reading.map(|it| it.unit.clone()),
        raised_unix_ms: alarm.raised_unix_ms,
        returns: alarm.returns,
        over: alarm.over,
        cleared_unix_ms: alarm.cleared_unix_ms,
        acknowledged: alarm.acknowledged.as_ref().map(note),
        silenced: alarm.silenced.as_ref().map(note),
    }
}
