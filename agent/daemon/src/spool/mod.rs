//! The store that telemetry waits in until the core has it.
//!
//! One thread owns the logs ([`log`]) and does every write and `fdatasync`, so
//! that a slow disk never stops the agent's main loop. It takes [`Command`]s
//! through a bounded channel and publishes, after each commit, how far each
//! class is durable. The format is in [`segment`].

use std::{
    io,
    path::Path,
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use purlin_core::identity::{Class, Incarnation};
use purlin_proto::api;
use tokio::sync::{oneshot, watch};

pub use self::log::Frame;
use self::log::Log;

pub mod log;
pub mod segment;

/// Commands that may wait for the thread: a second of the fastest sampling.
const INBOX: usize = 1024;
/// The cursor is written this often at most: it only saves resending.
const CURSOR_EVERY: Duration = Duration::from_secs(5);

/// What the thread is asked to do.
#[derive(Debug)]
enum Command {
    Append(Class, Vec<u8>),
    Read { class: Class, from: u64, max_bytes: usize, reply: oneshot::Sender<Option<Frame>> },
    Acknowledge(Class, u64),
    Limit { cap: u64, window: Duration },
    Figures(oneshot::Sender<Vec<api::QueueClass>>),
    Close(oneshot::Sender<()>),
}

/// How far each class is durable, by [`Class`] as an index.
pub type Durable = [u64; Class::ALL.len()];

/// A handle to the thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Spool {
    commands: SyncSender<Command>,
    durable: watch::Receiver<Durable>,
}

impl Spool {
    /// Opens each class's log under `dir` and starts the thread.
    pub fn open(dir: &Path, incarnation: Incarnation) -> io::Result<Self> {
        let mut logs = Vec::new();
        for class in Class::ALL {
            logs.push(Log::open(&dir.join(class.name()), class, incarnation)?);
        }
        let (commands, inbox) = mpsc::sync_channel(INBOX);
        let (publish, durable) = watch::channel(durable(&logs));
        let thread = Thread { logs, publish, cursor_due: None };
        let _: JoinHandle<()> =
            thread::Builder::new().name("spool".into()).spawn(move || thread.run(&inbox))?;
        Ok(Self { commands, durable })
    }

    /// Hands over a record without waiting. False if the thread is so far behind
    /// that the record was not taken.
    pub fn append(&self, class: Class, record: Vec<u8>) -> bool {
        match self.commands.try_send(Command::Append(class, record)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                tracing::warn!(class = class.name(), "the spool is behind: a record was lost");
                false
            }
        }
    }

    /// Durable records of `class` from `from` on; `None` if there is none.
    pub async fn read(&self, class: Class, from: u64, max_bytes: usize) -> Option<Frame> {
        self.ask(|reply| Command::Read { class, from, max_bytes, reply }).await.flatten()
    }

    /// Notes that everything of `class` up to `seq` has arrived.
    pub fn acknowledge(&self, class: Class, seq: u64) {
        // A note lost to a full inbox is made good by the next one.
        _ = self.commands.try_send(Command::Acknowledge(class, seq));
    }

    /// Sets the most bytes on disk (metrics; events get an eighth more), and how
    /// long a metric may stay in memory.
    pub fn limit(&self, cap: u64, window: Duration) {
        if self.commands.try_send(Command::Limit { cap, window }).is_err() {
            tracing::warn!("the spool is behind: its new limits were not taken");
        }
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

/// The thread's own state.
struct Thread {
    logs: Vec<Log>,
    publish: watch::Sender<Durable>,
    cursor_due: Option<Instant>,
}

impl Thread {
    fn run(mut self, inbox: &Receiver<Command>) {
        loop {
            let wait = self.next_due().map_or(CURSOR_EVERY, |due| {
                due.saturating_duration_since(Instant::now()).min(CURSOR_EVERY)
            });
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

    fn next_due(&self) -> Option<Instant> {
        self.logs.iter().filter_map(Log::commit_due).chain(self.cursor_due).min()
    }

    fn serve(&mut self, command: Command) {
        match command {
            Command::Append(class, record) => {
                if let Err(reason) = self.log(class).append(&record, Instant::now()) {
                    tracing::warn!(class = class.name(), ?reason, "a record was not accepted");
                }
            }
            Command::Read { class, from, max_bytes, reply } => {
                let frame = self.log(class).read(from, max_bytes).unwrap_or_else(|error| {
                    tracing::warn!(class = class.name(), %error, "can't read the spool");
                    None
                });
                _ = reply.send(frame);
            }
            Command::Acknowledge(class, seq) => {
                self.log(class).acknowledge(seq);
                self.cursor_due.get_or_insert(Instant::now() + CURSOR_EVERY);
            }
            Command::Limit { cap, window } => {
                self.log(Class::Metric).limit(cap, window);
                self.log(Class::Event).limit(cap / 8, Duration::ZERO);
            }
            Command::Figures(reply) => {
                _ = reply.send(self.logs.iter().map(Log::figures).collect());
            }
            Command::Close(_) => {}
        }
    }

    fn do_what_is_due(&mut self, now: Instant) {
        for log in &mut self.logs {
            if log.commit_due().is_some_and(|due| due <= now)
                && let Err(error) = log.commit(now)
            {
                tracing::error!(%error, "can't write the spool: records stay in memory");
            }
        }
        if self.cursor_due.is_some_and(|due| due <= now) {
            self.cursor_due = None;
            self.save_cursors();
        }
        let durable = durable(&self.logs);
        self.publish.send_if_modified(|was| std::mem::replace(was, durable) != durable);
    }

    fn save_cursors(&mut self) {
        for log in &mut self.logs {
            if let Err(error) = log.save_cursor() {
                tracing::warn!(%error, "can't write the cursor: after a restart more is sent again");
            }
        }
    }

    fn close(&mut self) {
        for log in &mut self.logs {
            if let Err(error) = log.commit(Instant::now()) {
                tracing::error!(%error, "what was not yet durable is lost");
            }
        }
        self.save_cursors();
    }

    fn log(&mut self, class: Class) -> &mut Log {
        &mut self.logs[class as usize]
    }
}

fn durable(logs: &[Log]) -> Durable {
    std::array::from_fn(|class| logs[class].durable())
}
