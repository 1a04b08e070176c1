//! How much one source may hand in: bytes a second with a burst, and bytes a day.

use core::time::Duration;

/// What may be handed in at once: this long at the rate.
pub const BURST: Duration = Duration::from_secs(10);

/// What a source may hand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes a second, over [`BURST`].
    pub bytes_s: u64,
    /// Bytes a day.
    pub bytes_day: u64,
}

/// The instant at which something is handed in.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Since boot.
    pub boot: Duration,
    /// By the wall clock, in seconds since 1970: a day is one of UTC.
    pub unix_s: u64,
}

const DAY_S: u64 = 86_400;

/// What a source has handed in.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// Bytes over what it might have, and when that was so.
    over: u64,
    at: Duration,
    day: u64,
    today: u64,
}

impl Meter {
    /// Takes so many bytes, or says when to come again. Whoever is within the quota may
    /// overdraw it once, so that what is larger than a burst is not refused for ever.
    pub fn take(&mut self, bytes: u64, quota: &Quota, now: At) -> Result<(), Duration> {
        let passed = now.boot.saturating_sub(self.at);
        let paid = quota.bytes_s.saturating_mul(passed.as_millis() as u64) / 1000;
        (self.over, self.at) = (self.over.saturating_sub(paid), now.boot);
        if self.day != now.unix_s / DAY_S {
            (self.day, self.today) = (now.unix_s / DAY_S, 0);
        }
        if self.today >= quota.bytes_day {
            return Err(Duration::from_secs(DAY_S - now.unix_s % DAY_S));
        }
        let burst = quota.bytes_s * BURST.as_secs();
        if self.over >= burst {
            let owed = (self.over - burst).saturating_add(1);
            return Err(Duration::from_millis((owed * 1000).div_ceil(quota.bytes_s.max(1))));
        }
        self.over = self.over.saturating_add(bytes);
        self.today = self.today.saturating_add(bytes);
        Ok(())
    }

    /// Bytes of today.
    pub fn today(&self) -> u64 {
        self.today
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { bytes_s: 1000, bytes_day: 1_000_000 };

    fn at(s: u64) -> At {
        At { boot: Duration::from_secs(s), unix_s: 10 * DAY_S + s }
    }

    #[test]
    fn over_an_hour_no_more_is_taken_than_the_rate_and_a_burst() {
        let mut meter = Meter::default();
        let taken = |s| (0..5).filter(|_| meter.take(300, &QUOTA, at(s)).is_ok()).count() * 300;
        let sum: usize = (1..=900).map(taken).sum();
        assert!((890_000..=910_300).contains(&sum), "{sum} bytes in 900 s");
    }

    #[test]
    fn whoever_is_refused_is_told_when_to_come_again_and_is_taken_then() {
        let mut meter = Meter::default();
        assert_eq!(meter.take(50_000, &QUOTA, at(1)), Ok(()), "overdrawn once");
        let wait = meter.take(1, &QUOTA, at(1)).expect_err("it is over");
        assert_eq!(wait.as_secs(), 40);
        assert!(meter.take(1, &QUOTA, at(40)).is_err());
        assert_eq!(meter.take(1, &QUOTA, at(42)), Ok(()));
    }

    #[test]
    fn a_day_is_used_up_until_midnight() {
        let mut meter = Meter::default();
        assert_eq!(meter.take(1_000_000, &QUOTA, at(3600)), Ok(()));
        let wait = meter.take(1, &QUOTA, at(7200)).expect_err("the day is used up");
        assert_eq!(wait.as_secs(), 22 * 3600);
        assert_eq!(meter.take(1, &QUOTA, at(DAY_S)), Ok(()));
        assert_eq!(meter.today(), 1);
    }
}
