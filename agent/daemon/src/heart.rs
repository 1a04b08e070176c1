//! Feeds who watches over the agent: systemd (`WatchdogSec=`) and, where the agent's own
//! file names one, the machine's watchdog device. Both are fed while every task that
//! promised to be heard of was, and neither is once one is not: systemd restarts the agent,
//! and a node that this does not help is reset by the device.
//!
//! An agent that stops in order stops the device's timer too. One that dies does not.

use std::{
    future,
    path::PathBuf,
    time::{Duration, Instant},
};

use purlin_drivers::watchdog::Watchdog;
use tokio::time;

use crate::tasks::Board;

/// How long the device waits, unless told otherwise: systemd has twice had its turn.
pub const TIMEOUT_S: u32 = 120;
/// What a device may be told: hardware that counts in fewer bits takes what it can.
pub const TIMEOUTS_S: std::ops::RangeInclusive<u32> = 10..=600;
/// What it is among the tasks.
const NAME: &str = "watchdog";
/// How often a device that can't be opened is tried again.
const REOPEN: Duration = Duration::from_secs(30);

/// A watchdog device, as the agent's own file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// `/dev/watchdog0`.
    pub path: PathBuf,
    /// What it is to wait for.
    pub timeout: Duration,
}

/// Feeds for ever; dropping it leaves the device to its timer, unless it was stopped.
pub struct Heart {
    board: Board,
    device: Option<Device>,
    open: Option<Watchdog>,
    tried: Option<Instant>,
    /// Whom nothing was heard of, as was told.
    told: Option<String>,
}

impl Heart {
    /// A heart for these tasks.
    pub fn new(board: Board, device: Option<Device>) -> Self {
        Self { board, device, open: None, tried: None, told: None }
    }

    /// Beats for ever.
    pub async fn beat(&mut self) {
        let systemd = sd_notify::watchdog_enabled();
        let device = self.device.as_ref().map(|it| it.timeout);
        let Some(shortest) = systemd.into_iter().chain(device).min() else {
            return future::pending().await;
        };
        // One beat may come late, and one be lost.
        let mut ticks = time::interval(shortest / 4);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let overdue = self.board.overdue();
            if overdue != self.told {
                if let Some(task) = &overdue {
                    tracing::error!(task, "nothing was heard of it: no watchdog is fed");
                }
                self.told = overdue.clone();
            }
            if overdue.is_none() {
                if systemd.is_some() {
                    _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                }
                self.feed();
            }
        }
    }

    fn feed(&mut self) {
        let Some(device) = &self.device else { return };
        if self.open.is_none() && self.tried.is_none_or(|at| at.elapsed() >= REOPEN) {
            self.tried = Some(Instant::now());
            match Watchdog::open(&device.path, device.timeout) {
                Ok(open) => {
                    let timeout = open.timeout();
                    tracing::info!(device = %device.path.display(), ?timeout, "the watchdog is fed");
                    self.board.running(NAME);
                    self.open = Some(open);
                }
                Err(error) => {
                    let why = format!("{}: {error}", device.path.display());
                    tracing::error!(why, "the watchdog can't be fed");
                    self.board.ended(NAME, Some(&why));
                }
            }
        }
        if let Some(Err(error)) = self.open.as_mut().map(Watchdog::feed) {
            tracing::error!(%error, "the watchdog is not fed any more");
            self.board.ended(NAME, Some(&error.to_string()));
            self.open = None;
        }
    }

    /// Stops the device's timer: nobody is to be reset for an agent that was stopped.
    pub fn stop(&mut self) {
        if let Some(Err(error)) = self.open.take().map(Watchdog::stop) {
            tracing::error!(%error, "the watchdog's timer could not be stopped");
        }
    }
}
