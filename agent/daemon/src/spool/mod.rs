//! The store that telemetry waits in until the core has it.
//!
//! One thread owns the logs ([`log`]) and does every write and `fdatasync`, so
//! that a slow disk never stops the agent's main loop. It takes [`Command`]s
//! through a bounded channel and publishes, after each commit, how far each
//! class is durable. The format is in [`segment`].

use std::{
    io,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use purlin_core::{
    identity::{Class, Incarnation},
    settings::Settings,
};
use purlin_proto::api;
use tokio::sync::{oneshot, watch};

pub use self::log::Frame;
use self::log::Log;
use crate::tasks::{self, Board};

pub mod log;
pub mod segment;

/// Commands that may wait for the thread: a second of the fastest sampling.
const INBOX: usize = 1024;
/// The thread's name, on the board and in the kernel's lists.
const TASK: &str = "spool";
/// The cursor is written this often at most: it only saves resending.
const CURSOR_EVERY: Duration = Duration::from_secs(5);
/// After a panic, so that one that repeats doesn't burn a core.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// What the thread is asked to do.
#[derive(Debug)]
enum Command {
    Append(Class, Vec<u8>),
    Read { class: Class, from: u64, max_bytes: usize, reply: oneshot::Sender<Option<Frame>> },
    Acknowledge(Class, u64),
    Limit(Arc<Settings>),
    Figures(oneshot::Sender<Vec<api::QueueClass>>),
    Close(oneshot::Sender<()>),
}

/// The most bytes of a class on disk, and the longest that one of its records
/// stays in memory. Events are few and made durable at once: they get an eighth
/// of what metrics get, beside it.
pub fn limits(class: Class, settings: &Settings) -> (u64, Duration) {
    let cap = u64::from(settings.spool_cap_mib.value) << 20;
    match class {
        Class::Metric => (cap, Duration::from_secs(settings.commit_window_s.value.into())),
        Class::Event => (cap / 8, Duration::ZERO),
    }
}

/// How far each class is durable, by [`Class`] as an index.
pub type Durable = [u64; Class::ALL.len()];

/// A handle to the thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Spool {
    commands: SyncSender<Command>,
    durable: watch::Receiver<Durable>,
    /// Records that found the inbox full, by class.
    lost: Arc<[AtomicU64; Class::ALL.len()]>,
}

impl Spool {
    /// Opens each class's log under `dir` and starts the thread. One that panics
    /// opens the logs anew and goes on, shown on the board as any task.
    pub fn open(dir: &Path, incarnation: Incarnation, board: Board) -> io::Result<Self> {
        let logs = open_logs(dir, incarnation)?;
        let (commands, inbox) = mpsc::sync_channel(INBOX);
        let (publish, durable) = watch::channel(durable(&logs));
        let lost = Arc::default();
        let told = Class::ALL.map(|_| None);
        let mut thread =
            Thread { logs, publish, cursor_due: None, limits: None, lost: Arc::clone(&lost), told };
        let dir = dir.to_owned();
        thread::Builder::new().name(TASK.into()).spawn(move || {
            board.running(TASK);
            while let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| thread.run(&inbox))) {
                board.ended(TASK, Some(&tasks::panic_text(Some(panic))));
                thread::sleep(RESTART_AFTER);
                match open_logs(&dir, incarnation) {
                    Ok(logs) => thread.logs = logs,
                    Err(error) => tracing::error!(%error, "can't open the spool again"),
                }
                thread.limit();
                board.running(TASK);
            }
            board.ended(TASK, None);
        })?;
        Ok(Self { commands, durable, lost })
    }

    /// Hands over a record without waiting. One that finds the inbox full is
    /// lost and counted.
    pub fn append(&self, class: Class, record: Vec<u8>) {
        if self.commands.try_send(Command::Append(class, record)).is_err() {
            let lost = 1 + self.lost[class as usize].fetch_add(1, Ordering::Relaxed);
            tell_rarely(class, lost, "the spool's thread is behind");
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

/// The thread's own state.
struct Thread {
    logs: Vec<Log>,
    publish: watch::Sender<Durable>,
    cursor_due: Option<Instant>,
    limits: Option<Arc<Settings>>,
    lost: Arc<[AtomicU64; Class::ALL.len()]>,
    /// The write error that was told last, by class: each is told once.
    told: [Option<String>; Class::ALL.len()],
}

impl Thread {
    fn limit(&mut self) {
        let Some(settings) = &self.limits else { return };
        for (log, class) in self.logs.iter_mut().zip(Class::ALL) {
            let (cap, window) = limits(class, settings);
            log.limit(cap, window);
        }
    }

    fn run(&mut self, inbox: &Receiver<Command>) {
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
                let log = self.log(class);
                if let Err(reason) = log.append(&record, Instant::now()) {
                    tell_rarely(class, log.rejected(), &reason.to_string());
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
            Command::Limit(settings) => {
                self.limits = Some(settings);
                self.limit();
            }
            Command::Figures(reply) => {
                _ = reply.send(self.figures());
            }
            Command::Close(_) => {}
        }
    }

    fn figures(&self) -> Vec<api::QueueClass> {
        let with_lost = |(log, lost): (&Log, &AtomicU64)| {
            let mut figures = log.figures();
            figures.rejected += lost.load(Ordering::Relaxed);
            figures
        };
        self.logs.iter().zip(self.lost.iter()).map(with_lost).collect()
    }

    fn do_what_is_due(&mut self, now: Instant) {
        for (log, told) in self.logs.iter_mut().zip(&mut self.told) {
            if log.commit_due().is_some_and(|due| due <= now) {
                let error = log.commit(now).err().map(|error| error.to_string());
                if let Some(error) = error.as_ref().filter(|_| *told != error) {
                    tracing::error!(error, "can't write the spool: records stay in memory");
                } else if told.is_some() && error.is_none() {
                    tracing::info!("the spool is written again");
                }
                *told = error;
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

/// Tells of the 1st, 2nd, 4th, 8th … lost record: a disk that is full for a week
/// must not fill the log as well.
fn tell_rarely(class: Class, count: u64, why: &str) {
    if count.is_power_of_two() {
        tracing::warn!(class = class.name(), count, why, "a record was not accepted");
    }
}

fn open_logs(dir: &Path, incarnation: Incarnation) -> io::Result<Vec<Log>> {
    Class::ALL
        .map(|class| Log::open(&dir.join(class.name()), class, incarnation))
        .into_iter()
        .collect()
}

fn durable(logs: &[Log]) -> Durable {
    std::array::from_fn(|class| logs[class].durable())
}
