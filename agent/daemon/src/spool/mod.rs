//! The store that telemetry waits in until the core has it.
//!
//! One thread ([`thread`]) owns the logs, one for each class, and does every write
//! and `fdatasync`, so that a slow disk never stops the agent's main loop. [`Spool`]
//! is the handle to it: it stamps records with the clock and hands them over through
//! a bounded channel. After each commit the thread publishes how far each class is
//! durable.
//!
//! | module | what it is about |
//! | --- | --- |
//! | [`segment`] | the format on disk |
//! | [`seal`] | encryption at rest |
//! | [`dir`] | which segments there are, and how one is made |
//! | [`log`] | appending, committing, acknowledging |
//! | [`buffer`] | what is not durable yet; a ring while the disk fails |
//! | [`read`] | frames of what is left |
//! | [`shed`], [`thin`] | what is given up when it is full or old |
//! | [`cursor`] | how far the core has it, and what was lost |
//! | [`shelf`] | what the values of samples are |
//! | [`brought`] | other nodes' records, to be sent on |
//! | [`view`] | reading it all with the agent dead |
//! | [`heard`] | what is handed over, for whoever shows it or hands it on at once |
//! | [`figures`] | how it stands, with the agent alive or dead |

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, SyncSender},
    },
    time::Duration,
};

use prost::bytes::Bytes;
use purlin_core::{
    identity::{Class, Incarnation},
    settings::Settings,
};
use purlin_proto::{
    api,
    v1::{self, record::Body},
};
use tokio::sync::{oneshot, watch};

pub use self::{
    brought::Incoming,
    heard::{Heard, Listener},
    log::Limits,
    read::Frame,
    seal::Keys,
    thread::Durable,
    view::View,
};
use self::{
    heard::Hall,
    thread::{Command, Thread},
};
use crate::{clock::Clock, history::History, tasks::Board};

pub mod brought;
pub mod buffer;
pub mod cursor;
pub mod dir;
pub mod figures;
mod heard;
pub mod log;
pub mod read;
pub mod seal;
pub mod segment;
pub mod shed;
pub mod shelf;
pub mod thin;
pub mod thread;
pub mod view;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

/// Commands that may wait for the thread: a second of the fastest sampling.
const INBOX: usize = 1024;

/// What is read for one batch of an export: with values that don't delta it is still
/// far under what a reader takes.
pub const EXPORT_BYTES: usize = 128 << 10;

/// What a class may take. Metrics get what is configured; the others have rooms of
/// their own beside it, so that none can push another out.
pub fn limits(class: Class, settings: &Settings) -> Limits {
    let own = &settings.spool_class[&class];
    let window = match class {
        Class::Alarm | Class::Event | Class::Relay => Duration::ZERO,
        Class::Metric | Class::Log => Duration::from_secs(settings.commit_window_s.value.into()),
    };
    Limits {
        cap: u64::from(own.cap_mib.value) << 20,
        window,
        when_full: own.when_full.value,
        ttl: Some(own.ttl_h.value)
            .filter(|hours| *hours > 0)
            .map(|hours| Duration::from_secs(u64::from(hours) * 3600)),
    }
}

/// A handle to the thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Spool {
    commands: SyncSender<Command>,
    durable: watch::Receiver<Durable>,
    clock: Clock,
    /// Records that found the inbox full, by class; the thread takes them over.
    missed: Arc<[AtomicU64; Class::ALL.len()]>,
    /// Hears each record, from when it is there.
    history: Arc<OnceLock<History>>,
    /// For whoever shows or hands on what happens now.
    hall: Hall,
}

impl Spool {
    /// Opens each class's log under `dir` and starts the thread.
    pub fn open(
        dir: &Path,
        incarnation: Incarnation,
        clock: Clock,
        board: Board,
    ) -> io::Result<Self> {
        Self::open_with(dir, incarnation, clock, board, Keys::default())
    }

    /// The same, sealed by keys.
    pub fn open_with(
        dir: &Path,
        incarnation: Incarnation,
        clock: Clock,
        board: Board,
        keys: Keys,
    ) -> io::Result<Self> {
        let (commands, inbox) = mpsc::sync_channel(INBOX);
        let missed = Arc::default();
        let thread = Thread::open(dir, incarnation, clock.clone(), Arc::clone(&missed), keys)?;
        let durable = thread.durable();
        thread.start(inbox, board)?;
        Ok(Self { commands, durable, clock, missed, history: Arc::default(), hall: Hall::new() })
    }

    /// Hands over a record without waiting. One that finds the inbox full is lost,
    /// and its number is used up.
    pub fn append(&self, body: Body) {
        if let Some(history) = self.history.get() {
            history.hear(&body);
        }
        let (class, record) = (class_of(&body), self.clock.stamp(body));
        self.hall.say(&record, true);
        if self.commands.try_send(Command::Append(class, record)).is_err() {
            self.missed[class as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each record that is handed over from now on, as far as it is received in time.
    pub fn listen(&self) -> Listener {
        self.hall.listen()
    }

    /// Hands over stamped records of one class, in order and without others between: the
    /// last one's number. `None` if the thread is behind; nothing was taken then.
    pub async fn take(&self, class: Class, records: Vec<Vec<u8>>) -> Option<u64> {
        records.iter().for_each(|record| self.hall.say(record, false));
        self.ask(|reply| Command::Take { class, records, reply }).await
    }

    /// Has the local history hear each record from now on.
    pub fn tell(&self, history: History) {
        _ = self.history.set(history);
    }

    /// The local history, once there is one.
    pub fn history(&self) -> Option<&History> {
        self.history.get()
    }

    /// Hands over an event.
    pub fn event(&self, name: &str, text: impl Into<String>) {
        self.event_with(name, text, []);
    }

    /// Hands over an event, with what a program may want to know of it.
    pub fn event_with(
        &self,
        name: &str,
        text: impl Into<String>,
        attributes: impl IntoIterator<Item = (String, String)>,
    ) {
        let attributes = attributes.into_iter().collect::<BTreeMap<_, _>>();
        self.append(Body::Event(v1::Event { name: name.into(), text: text.into(), attributes }));
    }

    /// Keeps a dictionary, before any sample that needs it is handed over. False if
    /// the inbox is full.
    pub fn keep_dictionary(&self, hash: u64, dictionary: Bytes) -> bool {
        self.commands.try_send(Command::KeepDictionary(hash, dictionary)).is_ok()
    }

    /// Hands over a sample, and before it its dictionary unless that is the one kept last.
    pub fn sample(&self, (sample, dictionary): (v1::Sample, Bytes), kept: &mut u64) {
        let hash = sample.dictionary;
        if *kept != hash && self.keep_dictionary(hash, dictionary) {
            *kept = hash;
        }
        self.append(Body::Sample(sample));
    }

    /// A dictionary, encoded, by its hash.
    pub async fn dictionary(&self, hash: u64) -> Option<Bytes> {
        self.ask(|reply| Command::Dictionary(hash, reply)).await.flatten()
    }

    /// What is durable of `class` from `from` on; `None` if there is nothing.
    pub async fn read(&self, class: Class, from: u64, max_bytes: usize) -> Option<Frame> {
        self.ask(|reply| Command::Read { class, from, max_bytes, reply }).await.flatten()
    }

    /// Notes that everything of `class` up to `seq` has arrived.
    pub fn acknowledge(&self, class: Class, seq: u64) {
        // A note lost to a full inbox is made good by the next one.
        _ = self.commands.try_send(Command::Acknowledge(class, seq));
    }

    /// Leaves out for ever what the broker will never take.
    pub fn refuse(&self, class: Class, first: u64, last: u64) {
        _ = self.commands.try_send(Command::Refuse { class, first, last });
    }

    /// Removes everything that waits of `class`; the core is told.
    pub async fn purge(&self, class: Class) -> Option<Result<api::Purged, String>> {
        self.ask(|reply| Command::Purge(class, reply)).await
    }

    /// Takes other nodes' batches, to be sent on; returns once they are durable.
    pub async fn import(&self, incoming: Vec<Incoming>) -> Option<Result<api::Imported, String>> {
        self.ask(|reply| Command::Import(incoming, reply)).await
    }

    /// Makes everything durable that was handed over.
    pub async fn commit(&self) -> Option<()> {
        self.ask(Command::Commit).await
    }

    /// Sets each class's [`limits`]. False if the thread is behind: nothing was set then.
    pub fn limit(&self, settings: Arc<Settings>) -> bool {
        self.commands.try_send(Command::Limit(settings)).is_ok()
    }

    /// How each class stands.
    pub async fn figures(&self) -> Option<Vec<api::QueueClass>> {
        self.ask(Command::Figures).await
    }

    /// How far each class is durable.
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.durable.clone()
    }

    /// Makes everything durable and ends the thread.
    pub async fn close(&self) {
        self.ask(Command::Close).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(command(reply)).ok()?;
        answer.await.ok()
    }
}

/// Where a record belongs.
fn class_of(body: &Body) -> Class {
    match body {
        Body::Alarm(_) => Class::Alarm,
        Body::Event(_) | Body::ClockSet(_) => Class::Event,
        Body::Sample(_) => Class::Metric,
        Body::Line(_) => Class::Log,
    }
}
