//! Ejection of endpoints that fail: for a while that doubles each time, and never all of
//! them.

use core::time::Duration;

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row; 0: never.
    pub consecutive: u32,
    /// For the first time; it doubles with each that follows.
    pub base: Duration,
    /// Most endpoints of a service that may be out at once, in hundredths of all.
    pub max_percent: u32,
}

/// Longest time out: an endpoint that came back is found within five minutes.
pub const LONGEST: Duration = Duration::from_secs(300);

/// What is known of one endpoint, small enough for one atomic word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Failures since the last success.
    pub failures: u16,
    /// Times that it was ejected, less one for each time that it did well since.
    pub ejections: u8,
    /// When it may be chosen again; a clock in milliseconds that wraps.
    pub until_ms: u32,
    /// Whether `until_ms` holds.
    pub is_out: bool,
}

impl Record {
    /// Whether it is out now.
    pub fn is_out(self, now_ms: u32) -> bool {
        let left = self.until_ms.wrapping_sub(now_ms);
        // One that nobody asked since is not out again once the clock wraps.
        self.is_out && left > 0 && u128::from(left) <= LONGEST.as_millis()
    }

    /// After a success. One that did well after its time is forgiven bit by bit.
    pub fn succeeded(self, now_ms: u32) -> Self {
        let is_back = self.is_out && !self.is_out(now_ms);
        Self {
            failures: 0,
            ejections: self.ejections.saturating_sub(is_back.into()),
            is_out: self.is_out && !is_back,
            ..self
        }
    }

    /// After a failure; `others_out` of `count` endpoints are out already, this one not
    /// among them. It is ejected if that leaves enough.
    pub fn failed(self, by: &Ejection, now_ms: u32, others_out: usize, count: usize) -> Self {
        let failures = self.failures.saturating_add(1);
        let once_more = Self { failures, ..self };
        let most = count as u64 * u64::from(by.max_percent) / 100;
        // One of two may go, whatever its hundredths come to; the last may never.
        let may_go = count > 1 && others_out + 1 < count && (others_out as u64) < most.max(1);
        if by.consecutive == 0
            || u32::from(failures) < by.consecutive
            || !may_go
            || self.is_out(now_ms)
        {
            return once_more;
        }
        let time = by.base.saturating_mul(1 << self.ejections.min(16)).min(LONGEST);
        Self {
            failures: 0,
            ejections: self.ejections.saturating_add(1),
            until_ms: now_ms.wrapping_add(time.as_millis() as u32),
            is_out: true,
        }
    }

    /// As one word.
    pub fn to_bits(self) -> u64 {
        u64::from(self.until_ms)
            | u64::from(self.failures) << 32
            | u64::from(self.ejections) << 48
            | u64::from(self.is_out) << 56
    }

    /// From one word.
    pub fn from_bits(bits: u64) -> Self {
        Self {
            until_ms: bits as u32,
            failures: (bits >> 32) as u16,
            ejections: (bits >> 48) as u8,
            is_out: bits >> 56 & 1 == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY: Ejection = Ejection { consecutive: 3, base: Duration::from_secs(1), max_percent: 50 };

    fn failed(record: Record, times: usize, now_ms: u32) -> Record {
        (0..times).fold(record, |record, _| record.failed(&BY, now_ms, 0, 4))
    }

    #[test]
    fn failures_in_a_row_eject_for_longer_each_time() {
        let mut now = u32::MAX - 1500;
        let mut record = Record::default();
        for seconds in [1, 2, 4, 8] {
            record = failed(record, 2, now);
            assert!(!record.is_out(now), "two are not enough");
            record = failed(record, 1, now);
            assert!(record.is_out(now) && record.is_out(now.wrapping_add(seconds * 1000 - 1)));
            now = now.wrapping_add(seconds * 1000);
            assert!(!record.is_out(now), "{seconds} s");
            assert_eq!(Record::from_bits(record.to_bits()), record);
        }
        for _ in 0..20 {
            record = failed(record, 3, now);
            now = record.until_ms;
        }
        assert!(failed(record, 3, now).until_ms.wrapping_sub(now) <= 300_000);
    }

    #[test]
    fn a_success_ends_the_row_and_forgives() {
        let record = failed(Record::default(), 2, 0).succeeded(0);
        assert!(!failed(record, 2, 0).is_out(0));
        let out = failed(Record::default(), 3, 0);
        assert_eq!(out.succeeded(500).ejections, 1, "a late answer from before");
        assert_eq!(out.succeeded(1000).ejections, 0);
        assert!(!out.is_out(30 * 24 * 3600 * 1000), "a month later, with no request between");
    }

    #[test]
    fn enough_of_them_stay() {
        let tenth = Record { failures: 2, ..Record::default() };
        assert!(tenth.failed(&BY, 0, 1, 4).is_out(0));
        assert!(!tenth.failed(&BY, 0, 2, 4).is_out(0), "half are out");
        assert!(!tenth.failed(&BY, 0, 0, 1).is_out(0), "the only one");
        assert!(tenth.failed(&BY, 0, 0, 2).is_out(0));
        assert!(!tenth.failed(&BY, 0, 1, 2).is_out(0), "the last one");
    }
}
