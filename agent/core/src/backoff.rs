//! When to try again: exponential, capped, with jitter, so that ten thousand
//! nodes that lost one broker don't come back in step.

use core::time::Duration;

/// The state of one thing that is tried again and again.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// The first wait is at most `base`, each next at most twice the one
    /// before, none over `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// Notes a failure and returns how long to wait: between half of the
    /// current step and the whole of it, chosen by `random`.
    pub fn fail(&mut self, random: u64) -> Duration {
        let step = self.base.saturating_mul(1 << self.failures.min(20)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        let half = step / 2;
        let jitter = half.as_micros() as u64;
        half + Duration::from_micros(if jitter == 0 { 0 } else { random % (jitter + 1) })
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes a success: the next wait is short again.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn doubles_to_the_cap_and_starts_again_after_a_success() {
        let mut backoff = Backoff::new(SECOND, 8 * SECOND);
        let waits: alloc::vec::Vec<_> = (0..5).map(|_| backoff.fail(0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 4000]);
        backoff.succeed();
        assert_eq!(backoff.fail(0).as_millis(), 500);
    }

    proptest::proptest! {
        #[test]
        fn stays_between_half_a_step_and_the_cap(failures in 0..100u32, random: u64) {
            let mut backoff = Backoff::new(SECOND, 60 * SECOND);
            for _ in 0..failures { backoff.fail(random); }
            let wait = backoff.fail(random);
            proptest::prop_assert!(wait >= SECOND / 2 && wait <= 60 * SECOND);
        }
    }
}
