//! Named tasks: each is restarted when it fails or panics, with backoff, counted
//! and shown. The agent goes on meanwhile.

use std::{
    collections::BTreeMap,
    future::{self, Future},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use purlin_core::backoff::Backoff;
use purlin_proto::api;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::state;

const RESTART_FIRST: Duration = Duration::from_millis(500);
const RESTART_MOST: Duration = Duration::from_secs(60);
/// A task that ran this long was healthy: its next restart is quick again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// What is known of each task; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Board {
    tasks: watch::Sender<Vec<api::Task>>,
    /// Each task's, by its name: it is to end and to start anew.
    anew: Arc<Mutex<BTreeMap<String, Arc<Notify>>>>,
    /// By when a task is to be heard of again.
    promises: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl Board {
    /// Every task, in the order of their start.
    pub fn tasks(&self) -> Vec<api::Task> {
        self.tasks.borrow().clone()
    }

    /// Ends a task where it waits and starts it anew. False if none of that name runs.
    pub fn restart(&self, name: &str) -> bool {
        let is_running = self.tasks.borrow().iter().any(|task| task.name == name && task.running);
        let anew = self.anew.lock().unwrap_or_else(PoisonError::into_inner);
        match anew.get(name).filter(|_| is_running) {
            Some(anew) => {
                anew.notify_one();
                true
            }
            None => false,
        }
    }

    fn anew(&self, name: &str) -> Arc<Notify> {
        let mut anew = self.anew.lock().unwrap_or_else(PoisonError::into_inner);
        anew.entry(name.to_owned()).or_default().clone()
    }

    /// A task is well now, and says so again within this time. After it nobody feeds the
    /// watchdogs any more.
    pub fn beat(&self, name: &str, within: Duration) {
        self.promises().insert(name.to_owned(), Instant::now() + within);
    }

    /// A task that is not heard of though it promised to be. One that ended is restarted, and
    /// promises anew.
    pub fn overdue(&self) -> Option<String> {
        let now = Instant::now();
        self.promises().iter().find(|(_, by)| **by < now).map(|(name, _)| name.clone())
    }

    fn promises(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.promises.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a task runs.
    pub fn running(&self, name: &str) {
        self.update(name, |task| task.running = true);
    }

    /// Notes that a task ended; `error` if it should not have.
    pub fn ended(&self, name: &str, error: Option<&str>) {
        self.promises().remove(name);
        self.update(name, |task| {
            task.running = false;
            if let Some(error) = error {
                task.restarts += 1;
                task.last_error = Some(error.to_owned());
            }
        });
    }

    fn update(&self, name: &str, change: impl FnOnce(&mut api::Task)) {
        self.tasks.send_modify(|tasks| {
            let index = tasks.iter().position(|task| task.name == name).unwrap_or_else(|| {
                let (running, restarts, last_error) = (false, 0, None);
                tasks.push(api::Task { name: name.into(), running, restarts, last_error });
                tasks.len() - 1
            });
            change(&mut tasks[index]);
        });
    }
}

/// The tasks of one agent.
#[derive(Debug)]
pub struct Tasks {
    set: JoinSet<()>,
    board: Board,
    stop: CancellationToken,
}

impl Tasks {
    /// No task yet; all end when `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        Self { set: JoinSet::new(), board: Board::default(), stop }
    }

    /// What is known of each task.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Starts a task, and again whenever it fails. One that returns `Ok` is done;
    /// any other is dropped where it waits when the agent stops.
    pub fn spawn<F>(&mut self, name: &str, make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.spawn_supervised(name, make, async move { stop.cancelled().await });
    }

    /// The same for a task that sees the stop itself and returns `Ok`.
    pub fn spawn_until_done<F>(&mut self, name: &str, make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.spawn_supervised(name, make, future::pending());
    }

    fn spawn_supervised<F>(
        &mut self,
        name: &str,
        make: impl FnMut() -> F + Send + 'static,
        dropped: impl Future<Output = ()> + Send + 'static,
    ) where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let (name, board, stop) = (name.to_owned(), self.board.clone(), self.stop.clone());
        self.board.running(&name);
        self.set.spawn(async move {
            tokio::select! {
                () = supervise(&name, &board, &stop, make) => {}
                () = dropped => {}
            }
            board.ended(&name, None);
        });
    }

    /// Waits until every task has ended, at most until the deadline. False if
    /// some had to be cut off.
    pub async fn drain(&mut self, deadline: Duration) -> bool {
        time::timeout(deadline, async { while self.set.join_next().await.is_some() {} })
            .await
            .is_ok()
    }
}

async fn supervise<F>(
    name: &str,
    board: &Board,
    stop: &CancellationToken,
    mut make: impl FnMut() -> F,
) where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let mut backoff = Backoff::new(RESTART_FIRST, RESTART_MOST);
    let anew = board.anew(name);
    loop {
        board.running(name);
        let started = Instant::now();
        let running = AbortOnDropHandle::new(tokio::spawn(make()));
        let ended = tokio::select! {
            ended = running => ended,
            () = anew.notified() => {
                tracing::info!(task = name, "a task is started anew, as was asked");
                board.ended(name, Some("it was asked to start anew"));
                continue;
            }
        };
        let error = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(joined) => panic_text(joined.try_into_panic().ok()),
        };
        if started.elapsed() > HEALTHY_AFTER {
            backoff.succeed();
        }
        board.ended(name, Some(&error));
        let wait = backoff.fail(state::random_u64().unwrap_or_default());
        tracing::error!(task = name, error, restart_in = ?wait, "a task ended and is restarted");
        if stop.run_until_cancelled(time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// What a panic said.
pub fn panic_text(panic: Option<Box<dyn std::any::Any + Send>>) -> String {
    let text = panic.as_ref().and_then(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied())
    });
    format!("panicked: {}", text.unwrap_or("without a text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_heard_of_in_time_is_told() {
        let board = Board::default();
        board.beat("alarm", Duration::from_secs(60));
        assert_eq!(board.overdue(), None);
        board.beat("spool", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(board.overdue().as_deref(), Some("spool"));
        // It ended: whoever restarts it is heard of.
        board.ended("spool", Some("panicked"));
        assert_eq!(board.overdue(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_restarted_counted_and_shown() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new(stop.clone());
        let mut runs = 0;
        tasks.spawn("shaky", move || {
            runs += 1;
            let run = runs;
            async move {
                match run {
                    1 => panic!("first"),
                    2 => Err("second".into()),
                    _ => future::pending().await,
                }
            }
        });
        time::sleep(RESTART_MOST).await;
        let shown = tasks.board().tasks().remove(0);
        assert_eq!(
            (shown.running, shown.restarts, shown.last_error),
            (true, 2, Some("second".into()))
        );
        assert!(tasks.board().restart("shaky") && !tasks.board().restart("another"));
        time::sleep(Duration::from_millis(1)).await;
        let shown = tasks.board().tasks().remove(0);
        assert!(shown.running && shown.restarts == 3, "anew, and at once: {shown:?}");
        stop.cancel();
        assert!(tasks.drain(Duration::from_secs(1)).await);
        assert!(!tasks.board().tasks()[0].running && !tasks.board().restart("shaky"));
    }
}
