//! The thread that owns the logs. One that panics opens them anew and goes on,
//! shown on the board as any task.

use std::{
    io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use prost::bytes::Bytes;
use purlin_core::{
    gap::Cause,
    identity::{Class, Incarnation},
    settings::{INTERVAL_S_DEFAULT, Settings},
};
use purlin_proto::api;
use tokio::sync::{oneshot, watch};

use super::{Frame, Incoming, Keys, brought::Brought, limits, log::Log, shelf::Shelf};
use crate::{
    clock::Clock,
    tasks::{self, Board},
};

/// The thread's name, on the board and in the kernel's lists.
const TASK: &str = "spool";
/// The cursor is written this often at most, and what is too old looked for: it only
/// saves resending.
const CURSOR_EVERY: Duration = Duration::from_secs(5);
/// After a panic, so that one that repeats doesn't burn a core.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// What the thread is asked to do.
#[derive(Debug)]
#[allow(missing_docs, reason = "the handle's methods say what each is")]
pub enum Command {
    Append(Class, Vec<u8>),
    Take { class: Class, records: Vec<Vec<u8>>, reply: oneshot::Sender<u64> },
    KeepDictionary(u64, Bytes),
    Dictionary(u64, oneshot::Sender<Option<Bytes>>),
    Read { class: Class, from: u64, max_bytes: usize, reply: oneshot::Sender<Option<Frame>> },
    Acknowledge(Class, u64),
    Refuse { class: Class, first: u64, last: u64 },
    Purge(Class, oneshot::Sender<Result<api::Purged, String>>),
    Import(Vec<Incoming>, oneshot::Sender<Result<api::Imported, String>>),
    Commit(oneshot::Sender<()>),
    Limit(Arc<Settings>),
    Figures(oneshot::Sender<Vec<api::QueueClass>>),
    Close(oneshot::Sender<()>),
}

/// How far each class is durable, by [`Class`] as an index.
pub type Durable = [u64; Class::ALL.len()];

/// The thread's own state.
pub struct Thread {
    dir: PathBuf,
    incarnation: Incarnation,
    keys: Keys,
    clock: Clock,
    logs: Vec<Log>,
    shelf: Shelf,
    brought: Brought,
    publish: watch::Sender<Durable>,
    cursor_due: Instant,
    limits: Option<Arc<Settings>>,
    missed: Arc<[AtomicU64; Class::ALL.len()]>,
    /// The disk's failure, as it was told last.
    told: Option<String>,
}

impl Thread {
    /// Opens the logs.
    pub fn open(
        dir: &Path,
        incarnation: Incarnation,
        clock: Clock,
        missed: Arc<[AtomicU64; Class::ALL.len()]>,
        keys: Keys,
    ) -> io::Result<Self> {
        let (logs, shelf) = open_logs(dir, incarnation, &keys)?;
        Ok(Self {
            dir: dir.to_owned(),
            incarnation,
            keys,
            clock,
            publish: watch::channel(durable(&logs)).0,
            logs,
            shelf,
            brought: Brought::open(&dir.join(Class::Relay.name())),
            cursor_due: Instant::now() + CURSOR_EVERY,
            limits: None,
            missed,
            told: None,
        })
    }

    /// Where it publishes how far each class is durable.
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.publish.subscribe()
    }

    /// Starts it.
    pub fn start(mut self, inbox: Receiver<Command>, board: Board) -> io::Result<()> {
        thread::Builder::new().name(TASK.into()).spawn(move || {
            board.running(TASK);
            while let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| self.run(&inbox))) {
                board.ended(TASK, Some(&tasks::panic_text(Some(panic))));
                thread::sleep(RESTART_AFTER);
                match open_logs(&self.dir, self.incarnation, &self.keys) {
                    Ok((logs, shelf)) => (self.logs, self.shelf) = (logs, shelf),
                    Err(error) => tracing::error!(%error, "can't open the spool again"),
                }
                self.limit();
                board.running(TASK);
            }
            board.ended(TASK, None);
        })?;
        Ok(())
    }

    fn limit(&mut self) {
        let Some(settings) = &self.limits else { return };
        for (log, class) in self.logs.iter_mut().zip(Class::ALL) {
            log.limit(limits(class, settings));
        }
    }

    fn run(&mut self, inbox: &Receiver<Command>) {
        loop {
            let due = self.logs.iter().filter_map(Log::commit_due).chain([self.cursor_due]).min();
            let wait =
                due.map_or(CURSOR_EVERY, |due| due.saturating_duration_since(Instant::now()));
            match inbox.recv_timeout(wait) {
                Ok(Command::Close(done)) => {
                    self.close();
                    _ = done.send(());
                    return;
                }
                Ok(command) => self.serve(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.close(),
            }
            self.do_what_is_due(Instant::now());
        }
    }

    fn serve(&mut self, command: Command) {
        match command {
            Command::Append(class, record) => self.append(class, &record),
            Command::Take { class, records, reply } => {
                records.iter().for_each(|record| self.append(class, record));
                _ = reply.send(self.log(class).last_seq());
            }
            Command::KeepDictionary(hash, dictionary) => self.shelf.keep(hash, dictionary),
            Command::Dictionary(hash, reply) => _ = reply.send(self.shelf.get(hash)),
            Command::Read { class, from, max_bytes, reply } => {
                let frame = self.log(class).read(from, max_bytes).unwrap_or_else(|error| {
                    tracing::warn!(class = class.name(), %error, "can't read the spool");
                    None
                });
                _ = reply.send(frame);
            }
            Command::Acknowledge(class, seq) => self.log(class).acknowledge(seq),
            Command::Refuse { class, first, last } => self.log(class).refuse(first, last),
            Command::Limit(settings) => {
                self.limits = Some(settings);
                self.limit();
            }
            Command::Purge(class, reply) => _ = reply.send(self.purge(class)),
            Command::Import(incoming, reply) => _ = reply.send(self.import(&incoming)),
            Command::Commit(done) => {
                self.commit(|_| true, Instant::now());
                _ = done.send(());
            }
            Command::Figures(reply) => {
                let every =
                    self.limits.as_ref().map_or(INTERVAL_S_DEFAULT, |it| it.interval_s.value);
                _ = reply.send(self.logs.iter_mut().map(|log| log.figures_at(every)).collect());
            }
            Command::Close(_) => {}
        }
    }

    fn purge(&mut self, class: Class) -> Result<api::Purged, String> {
        self.commit(|_| true, Instant::now());
        let purged = self.log(class).purge();
        let (records, last_seq) =
            purged.map_err(|error| format!("nothing is removed that can't be told: {error}"))?;
        tracing::warn!(class = class.name(), records, last_seq, "purged");
        Ok(api::Purged { class: class.name().into(), records, last_seq })
    }

    fn import(&mut self, incoming: &[Incoming]) -> Result<api::Imported, String> {
        // No sample before its dictionary.
        self.shelf.commit().map_err(|error| format!("can't write a dictionary: {error}"))?;
        self.brought.take(&mut self.logs[Class::Relay as usize], incoming)
    }

    fn append(&mut self, class: Class, record: &[u8]) {
        let log = self.log(class);
        if let Err(reason) = log.append(record, Instant::now()) {
            tell_rarely(
                class,
                log.lost(Cause::NotWritten) + log.lost(Cause::Full),
                &reason.to_string(),
            );
        }
    }

    fn do_what_is_due(&mut self, now: Instant) {
        for class in Class::ALL {
            let missed = self.missed[class as usize].swap(0, Ordering::Relaxed);
            if missed > 0 {
                self.log(class).skip(missed, Cause::NotWritten, now);
                let lost = self.log(class).lost(Cause::NotWritten);
                tell_rarely(class, lost, "the spool's thread is behind");
            }
        }
        self.commit(|log| log.commit_due().is_some_and(|due| due <= now), now);
        if self.cursor_due <= now {
            self.cursor_due = now + CURSOR_EVERY;
            self.save_cursors();
            if self.clock.is_trusted() {
                let now_ms = super::dir::now_ms();
                self.logs.iter_mut().for_each(|log| log.expire(now_ms));
            }
        }
        let durable = durable(&self.logs);
        self.publish.send_if_modified(|was| std::mem::replace(was, durable) != durable);
    }

    /// Commits the logs that are due. A disk that fails is told of, once, and again when
    /// it is well; the fault that it is becomes an alarm by itself.
    fn commit(&mut self, is_due: impl Fn(&Log) -> bool, now: Instant) {
        if !self.logs.iter().any(&is_due) {
            return;
        }
        // No sample before its dictionary.
        if let Err(error) = self.shelf.commit() {
            tracing::debug!(%error, "can't write a dictionary");
        }
        for log in self.logs.iter_mut().filter(|log| is_due(log)) {
            if let Err(error) = log.commit(now) {
                tracing::debug!(%error, "can't write the spool");
            }
        }
        let failing = self.logs.iter().find(|log| log.is_failing()).and_then(|log| log.error());
        match (&self.told, failing) {
            (None, Some(error)) => {
                let text = format!("the spool {error}; records wait in memory, as many as fit");
                tracing::error!("{text}");
                self.told = Some(text);
            }
            (Some(_), None) => {
                tracing::info!("the spool is written again");
                self.told = None;
            }
            _ => {}
        }
    }

    fn save_cursors(&mut self) {
        for log in &mut self.logs {
            if let Err(error) = log.save_cursor() {
                tracing::debug!(%error, "can't write the cursor: after a restart more is sent again");
            }
        }
    }

    fn close(&mut self) {
        self.commit(|_| true, Instant::now());
        if let Some(log) = self.logs.iter().find(|log| log.is_failing()) {
            let error = log.error().unwrap_or_default();
            tracing::error!(error, "what was not yet durable is lost");
        }
        self.save_cursors();
    }

    fn log(&mut self, class: Class) -> &mut Log {
        &mut self.logs[class as usize]
    }
}

/// Tells of the 1st, 2nd, 4th, 8th … lost record: a disk that is full for a week
/// must not fill the log as well.
fn tell_rarely(class: Class, count: u64, why: &str) {
    if count.is_power_of_two() {
        tracing::warn!(class = class.name(), count, why, "a record was not accepted");
    }
}

fn open_logs(dir: &Path, incarnation: Incarnation, keys: &Keys) -> io::Result<(Vec<Log>, Shelf)> {
    let open =
        |class: Class| Log::open_with(&dir.join(class.name()), class, incarnation, keys.clone());
    let logs = Class::ALL.map(open).into_iter().collect::<io::Result<_>>()?;
    Ok((logs, Shelf::open(&dir.join("dict"))?))
}

fn durable(logs: &[Log]) -> Durable {
    std::array::from_fn(|class| logs[class].durable())
}
