//! When a rule steps back from its new backend: when that fails more often than the others
//! do, by so much that chance is no reason, and for long enough. It never comes back by
//! itself: what failed would only fail again.
//!
//! Both sides are counted where requests go through, and looked at about once a second.

use alloc::collections::VecDeque;
use core::time::Duration;

/// The rule, as a document has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepBack {
    /// The backend that is new, by its place among the rule's.
    pub backend: usize,
    /// Requests that each side must have had within the window.
    pub least: u32,
    /// By how many of a hundred requests more it must fail.
    pub margin_percent: u32,
    /// What counts.
    pub window: Duration,
    /// For how long it must be so.
    pub hold: Duration,
    /// Another one for other backends, services or limits: what was stepped back from
    /// stays so while this is the same.
    pub mark: u64,
}

/// What became of requests, since a start or within a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Those that are over.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
}

impl Seen {
    fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
        }
    }

    fn rate(self) -> f64 {
        self.errors as f64 / self.requests.max(1) as f64
    }
}

/// What both sides did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sides {
    /// The new backend.
    pub new: Seen,
    /// All the others.
    pub others: Seen,
}

/// Failures below this are bad luck, whatever share they are.
pub const LEAST_ERRORS: u64 = 5;
/// Squared, by how many standard deviations both sides must differ: beyond four, chance is
/// one in 30,000 looks.
const DEVIATIONS_SQUARED: f64 = 16.0;
/// Looks that are kept of a window.
const LOOKS: usize = 60;

/// Whether the new side is worse, by what both did within the window (a test of two
/// proportions, with the rate of both together as what is to be expected).
pub fn is_worse(by: &StepBack, sides: &Sides) -> bool {
    let (new, others) = (sides.new, sides.others);
    let least = u64::from(by.least);
    if new.requests < least || others.requests < least || new.errors < LEAST_ERRORS {
        return false;
    }
    let more = new.rate() - others.rate();
    let both =
        Seen { requests: new.requests + others.requests, errors: new.errors + others.errors };
    let each = 1.0 / new.requests as f64 + 1.0 / others.requests as f64;
    let variance = both.rate() * (1.0 - both.rate()) * each;
    more * 100.0 >= f64::from(by.margin_percent) && more * more >= DEVIATIONS_SQUARED * variance
}

/// Watches one rule.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// What was counted when, the oldest first.
    looks: VecDeque<(u64, Sides)>,
    /// Since when it is worse.
    worse_since: Option<u64>,
}

impl Watch {
    /// Looks at what was counted since the start; what both did within the window if it is
    /// time to step back.
    pub fn look(&mut self, by: &StepBack, now_ms: u64, counted: &Sides) -> Option<Sides> {
        let window = by.window.as_millis() as u64;
        let since = now_ms.saturating_sub(window);
        // The last one before the window is where it begins.
        while self.looks.get(1).is_some_and(|(at, _)| *at <= since) {
            self.looks.pop_front();
        }
        let step = window / LOOKS as u64;
        if self.looks.back().is_none_or(|(at, _)| at + step <= now_ms) {
            self.looks.push_back((now_ms, *counted));
        }
        let before = self.looks.front().map(|(_, before)| *before).unwrap_or_default();
        let sides = Sides {
            new: counted.new.since(before.new),
            others: counted.others.since(before.others),
        };
        if !is_worse(by, &sides) {
            self.worse_since = None;
            return None;
        }
        let since = *self.worse_since.get_or_insert(now_ms);
        (now_ms.saturating_sub(since) >= by.hold.as_millis() as u64).then_some(sides)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::{hashed::mix, pick::spread};

    fn by(least: u32, margin_percent: u32) -> StepBack {
        let (window, hold) = (Duration::from_secs(60), Duration::from_secs(5));
        StepBack { backend: 1, least, margin_percent, window, hold, mark: 0 }
    }

    #[track_caller]
    fn check(new: (u64, u64), others: (u64, u64), expected: bool) {
        let seen = |(requests, errors)| Seen { requests, errors };
        let sides = Sides { new: seen(new), others: seen(others) };
        assert_eq!(is_worse(&by(100, 5), &sides), expected, "{sides:?}");
    }

    #[test]
    fn it_is_worse_by_the_margin_beyond_chance_and_with_enough_requests() {
        check((100, 100), (100, 0), true);
        check((99, 99), (1000, 0), false);
        check((1000, 1000), (99, 0), false);
        check((100, 4), (100_000, 0), false);
        check((100, 6), (100_000, 0), true);
        check((1000, 40), (100_000, 0), false);
        check((1000, 60), (1000, 60), false);
        check((100, 16), (100, 10), false);
        check((10_000, 1600), (10_000, 1000), true);
        check((100, 0), (100, 100), false);
        check((100, 100), (100, 100), false);
    }

    #[test]
    fn it_has_to_be_so_for_as_long_as_is_said_and_only_lately() {
        let (by, mut watch) = (by(10, 5), Watch::default());
        let mut counted = Sides::default();
        let mut add = |watch: &mut Watch, s: u64, failed: u64| {
            counted.new =
                Seen { requests: counted.new.requests + 20, errors: counted.new.errors + failed };
            counted.others.requests += 20;
            watch.look(&by, s * 1000, &counted).is_some()
        };
        for s in 0..100 {
            assert!(!add(&mut watch, s, 0));
        }
        // Two bad seconds are 3 % of a minute.
        assert!(!add(&mut watch, 100, 20) && !add(&mut watch, 101, 20));
        for s in 102..300 {
            assert!(!add(&mut watch, s, 0));
        }
        // The third makes it 5 %, and from then on it takes five more.
        let back = (300..400).find(|s| add(&mut watch, *s, 20));
        assert_eq!(back, Some(307));
        let mut watch = Watch::default();
        for s in 400..500 {
            assert!(!add(&mut watch, s, 0), "what came before the watch is not counted");
        }
    }

    /// A world: how often each side fails, which share the new one has, how much comes.
    struct World {
        random: u64,
        rates: [u64; 2],
        share: u64,
        per_second: u64,
    }

    impl World {
        fn below(&mut self, limit: u64) -> u64 {
            self.random = self.random.wrapping_add(1);
            spread(mix(self.random), limit)
        }

        /// When it is stepped back from, of five minutes, and by what.
        fn run(&mut self, by: &StepBack) -> Option<(u64, Sides)> {
            let (mut watch, mut counted) = (Watch::default(), Sides::default());
            for s in 0..300 {
                for _ in 0..self.below(self.per_second * 2) {
                    let is_new = self.below(100) < self.share;
                    let has_failed = self.below(1000) < self.rates[usize::from(!is_new)];
                    let side = if is_new { &mut counted.new } else { &mut counted.others };
                    side.requests += 1;
                    side.errors += u64::from(has_failed);
                }
                if let Some(sides) = watch.look(by, s * 1000, &counted) {
                    return Some((s, sides));
                }
            }
            None
        }
    }

    /// Each is a world of its own.
    const SEEDS: u64 = 400;
    /// Of these, where both sides are alike, at most so many step back within five minutes.
    const MOST_FOR_NOTHING: u64 = 2;

    #[test]
    fn who_is_alike_is_left_alone_and_who_is_worse_is_stepped_back_from() {
        let (mut for_nothing, mut missed) = (0, 0);
        for seed in 0..SEEDS {
            let by = by(20 + (seed % 7) as u32 * 20, 1 + (seed % 9) as u32);
            let mut world = World { random: seed << 32, rates: [0; 2], share: 0, per_second: 0 };
            (world.share, world.per_second) = (1 + world.below(99), 1 + world.below(100));
            let rate = world.below(600);
            world.rates = [rate; 2];
            if let Some((_, sides)) = world.run(&by) {
                for_nothing += 1;
                let least = u64::from(by.least);
                assert!(sides.new.requests >= least && sides.others.requests >= least, "{seed}");
            }
            // Half of all fail, and enough come to be judged by.
            (world.share, world.per_second) = (10 + world.below(80), 60 + world.below(100));
            world.rates = [500, world.below(100)];
            match world.run(&by) {
                Some((s, sides)) => {
                    assert!(sides.new.requests >= u64::from(by.least), "seed {seed}");
                    assert!(s <= 60, "seed {seed}: only after {s} s");
                }
                None => missed += 1,
            }
        }
        assert!(for_nothing <= MOST_FOR_NOTHING, "{for_nothing} of {SEEDS} for nothing");
        assert_eq!(missed, 0);
    }
}
