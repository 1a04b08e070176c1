//! Processes that a test started, and none of which outlives it.

use std::{
    collections::BTreeSet,
    process::{Child, Command, ExitStatus},
    sync::{Mutex, MutexGuard},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::Result;

/// Pids of the children that have not been reaped, for a test that hangs and so
/// never drops what it started.
static STARTED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A child process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    child: Mutex<Child>,
}

impl Process {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_owned();
        let child = command.spawn().map_err(|e| format!("{}: {e}", program.display()))?;
        let pid = Pid::from_raw(child.id().cast_signed());
        lock(&STARTED).insert(pid.as_raw());
        Ok(Self { pid, child: Mutex::new(child) })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) -> Result {
        Ok(kill(self.pid, signal)?)
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        let ended = lock(&self.child).try_wait()?;
        if ended.is_some() {
            lock(&STARTED).remove(&self.pid.as_raw());
        }
        Ok(ended)
    }

    /// Waits for its end; how it ended and how long that took.
    pub fn wait(&self, deadline: Duration) -> Result<(ExitStatus, Duration)> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok((status, began.elapsed()));
            }
            if began.elapsed() > deadline {
                return Err(format!("process {} still runs after {deadline:?}", self.pid).into());
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL, and reaped.
    pub fn kill(&self) -> Result {
        if self.ended()?.is_none() {
            let mut child = lock(&self.child);
            child.kill()?;
            child.wait()?;
            lock(&STARTED).remove(&self.pid.as_raw());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Kills whatever a hanging test left.
pub(crate) fn kill_all() {
    for &pid in lock(&STARTED).iter() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Whether a process of that id lives: one that has died and waits to be reaped
/// does not (proc_pid_stat(5), field 3).
pub fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Time on a CPU of all threads: the first field of schedstat, in nanoseconds
/// (Documentation/scheduler/sched-stats.rst).
pub fn cpu_time(pids: &[u32]) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            let nanoseconds = text.split(' ').next().unwrap_or_default().parse()?;
            total += Duration::from_nanos(nanoseconds);
        }
    }
    Ok(total)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
