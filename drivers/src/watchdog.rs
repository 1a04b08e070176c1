//! A watchdog device: a timer of the machine's that resets it unless it is fed.
//!
//! Page: `hw-docs/platform.md`. Source: Documentation/watchdog/watchdog-api.rst. Opening it
//! starts the timer. Closing it does not stop it, unless a `V` was written before: so a
//! process that dies leaves a machine that is reset, if nobody feeds it in time.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use crate::sys;

/// A device that is open: its timer runs.
#[derive(Debug)]
pub struct Watchdog {
    file: File,
    timeout: Duration,
}

impl Watchdog {
    /// Opens it, which starts its timer, and asks for a timeout.
    pub fn open(device: &Path, timeout: Duration) -> io::Result<Self> {
        let file = File::options().write(true).open(device)?;
        let seconds = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
        // One whose timeout is fixed says so, and is fed by what is asked for: that it
        // waits longer does no harm, and a shorter one is its driver's default of 60 s.
        let taken = sys::watchdog::set_timeout(&file, seconds).unwrap_or(seconds);
        let timeout = Duration::from_secs(taken.max(1).unsigned_abs().into());
        Ok(Self { file, timeout })
    }

    /// What its timer counts from, as it says itself.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Feeds it: its timer begins anew.
    pub fn feed(&mut self) -> io::Result<()> {
        self.file.write_all(b"\0")
    }

    /// Stops its timer. A kernel that was told never to (`nowayout`) lets it run on.
    pub fn stop(mut self) -> io::Result<()> {
        self.file.write_all(b"V")
    }
}
