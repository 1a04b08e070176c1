//! What was sent today (UTC), for a link that is paid for by the byte. It is kept over
//! restarts in a file of its own, written seldom and not synced: after a power cut the
//! last minute may be missing from it.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Written at most this often.
const SAVE_EVERY: Duration = Duration::from_secs(60);
const DAY_MS: u64 = 86_400_000;

/// Bytes of one day.
#[derive(Debug)]
pub struct SentToday {
    path: PathBuf,
    /// Days since 1970.
    day: u64,
    bytes: u64,
    saved: (Instant, u64),
}

impl SentToday {
    /// As the file has it; nothing if there is none or it is no such file.
    pub fn open(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let numbers = text.trim().split_once(' ');
        let (day, bytes) = numbers
            .and_then(|(day, bytes)| Some((day.parse().ok()?, bytes.parse().ok()?)))
            .unwrap_or_default();
        Self { path, day, bytes, saved: (Instant::now(), bytes) }
    }

    /// Notes what was sent.
    pub fn note(&mut self, bytes: u64, unix_ms: u64) {
        let today = unix_ms / DAY_MS;
        if today != self.day {
            (self.day, self.bytes) = (today, 0);
        }
        self.bytes += bytes;
        if self.saved.0.elapsed() >= SAVE_EVERY {
            self.save();
        }
    }

    /// What was sent on the day of the last note.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes it down, if it has changed.
    pub fn save(&mut self) {
        if self.saved.1 != self.bytes {
            // Without it the day begins anew at the next start.
            _ = fs::write(&self.path, format!("{} {}\n", self.day, self.bytes));
            self.saved = (Instant::now(), self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_kept_over_a_restart_and_ends_at_midnight() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sent");
        let mut sent = SentToday::open(path.clone());
        sent.note(5, DAY_MS * 20_000);
        sent.note(5, DAY_MS * 20_000 + 1);
        sent.save();
        let mut sent = SentToday::open(path);
        assert_eq!(sent.bytes(), 10);
        sent.note(1, DAY_MS * 20_000 + 2);
        assert_eq!(sent.bytes(), 11);
        sent.note(1, DAY_MS * 20_001);
        assert_eq!(sent.bytes(), 1);
    }
}
