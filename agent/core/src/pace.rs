//! How long until what waits is gone, from how it shrank lately.

use alloc::collections::VecDeque;
use core::time::Duration;

/// How far back it is looked, and how often it is noted.
const BACK: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_secs(5);

/// What waited lately.
#[derive(Clone, Debug, Default)]
pub struct Pace(VecDeque<(Duration, u64)>);

impl Pace {
    /// Notes how much waits now: until when it is gone, if it shrinks.
    pub fn note(&mut self, waits: u64, now: Duration) -> Option<Duration> {
        let old = |it: &mut (Duration, u64)| it.0 + BACK < now;
        while self.0.pop_front_if(old).is_some() {}
        if self.0.back().is_none_or(|it| it.0 + EVERY <= now) {
            self.0.push_back((now, waits));
        }
        let (since, waited) = *self.0.front()?;
        let gone = waited.checked_sub(waits).filter(|gone| *gone > 0)?;
        let ms = (now.saturating_sub(since).as_millis() as u64).saturating_mul(waits) / gone;
        Some(Duration::from_millis(ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_shrinks_has_an_end_and_one_that_grows_has_none() {
        let mut pace = Pace::default();
        let at = Duration::from_secs;
        assert_eq!(pace.note(10_000, at(0)), None);
        assert_eq!(pace.note(9_000, at(10)), Some(at(90)));
        assert_eq!(pace.note(8_500, at(20)).map(|it| it.as_secs()), Some(113));
        assert_eq!(pace.note(20_000, at(30)), None);
        assert_eq!(pace.note(15_000, at(200)), None, "what is long past tells nothing");
        assert_eq!(pace.note(0, at(210)), Some(at(0)));
    }
}
