//! How much there is of something in a day, from what there was lately.

/// Hours that are looked back.
const HOURS: usize = 24;
const HOUR_S: u64 = 3600;

/// Amounts of the last hours.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    /// By the hour since 1970, modulo a day.
    hours: [u64; HOURS],
    /// When it was first told, and when last.
    first_s: Option<u64>,
    last_s: u64,
}

impl Rate {
    /// Notes an amount. A clock that was set back or ahead starts it anew.
    pub fn note(&mut self, amount: u64, now_s: u64) {
        self.advance(now_s);
        let hour = &mut self.hours[(now_s / HOUR_S) as usize % HOURS];
        *hour = hour.saturating_add(amount);
    }

    fn advance(&mut self, now_s: u64) {
        let hours = (now_s / HOUR_S).saturating_sub(self.last_s / HOUR_S);
        if self.first_s.is_none() || now_s < self.last_s || hours > HOURS as u64 {
            *self = Self { first_s: Some(now_s), last_s: now_s, ..Self::default() };
        }
        for hour in (self.last_s / HOUR_S + 1)..=(now_s / HOUR_S) {
            self.hours[hour as usize % HOURS] = 0;
        }
        self.last_s = now_s;
    }

    /// The sum of the last day, or of the time since it was first told.
    pub fn total(&self) -> u64 {
        self.hours.iter().sum()
    }

    /// How much in a day at this rate; `None` until there was a minute of it.
    pub fn per_day(&self, now_s: u64) -> Option<u64> {
        const DAY_S: u64 = HOURS as u64 * HOUR_S;
        // The oldest hour was emptied when the present one began.
        let since_s = now_s.saturating_sub(self.last_s);
        let kept_s = DAY_S - HOUR_S + self.last_s % HOUR_S + since_s;
        let told_s = now_s.saturating_sub(self.first_s?).min(kept_s);
        let per_day = u128::from(self.total()) * u128::from(DAY_S) / u128::from(told_s.max(1));
        (told_s >= 60).then(|| u64::try_from(per_day).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_flow_is_known_after_a_minute_and_stays_known() {
        let mut rate = Rate::default();
        for second in (0..3 * 86_400).step_by(10) {
            rate.note(10, second);
            let known = rate.per_day(second + 10).map(|per_day| per_day.abs_diff(86_400));
            assert_eq!(known.is_some(), second >= 50, "{second}");
            assert!(known.is_none_or(|off| off <= 20), "{second}: {known:?}");
        }
    }

    #[test]
    fn a_clock_that_is_set_starts_it_anew() {
        let mut rate = Rate::default();
        rate.note(1_000_000, 1_700_000_000);
        rate.note(1, 5);
        assert_eq!((rate.total(), rate.per_day(6)), (1, None));
    }
}
