//! How much may be repeated, and how much may come: a retry budget that grows with the
//! requests, and a token bucket that grows with time.

/// A thousandth of one request, so that a share of one can be added up.
pub type Milli = u32;

/// Retries that a service may always have, e.g. the first after a start.
pub const BUDGET_BURST: Milli = 10_000;
/// Of each request, what it adds to the budget: one retry for five requests. Linkerd's
/// and Finagle's default; a service that fails gets at most a fifth more.
pub const BUDGET_EACH: Milli = 200;

/// The budget after one more request.
pub fn deposit(budget: Milli) -> Milli {
    (budget + BUDGET_EACH).min(BUDGET_BURST)
}

/// The budget after a retry; `None` if it has none left.
pub fn withdraw(budget: Milli) -> Option<Milli> {
    budget.checked_sub(1000)
}

/// Clocks that threads read at the same time differ by less. What seems to lie further
/// back than that is a bucket that rested while the clock wrapped.
const BEHIND_MS: u32 = 10_000;

/// A token bucket, small enough for one atomic word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    tokens: Milli,
    at_ms: u32,
}

impl Bucket {
    /// A full one.
    pub fn full(burst: u32, now_ms: u32) -> Self {
        Self { tokens: burst.saturating_mul(1000), at_ms: now_ms }
    }

    /// Takes a token, if there is one: `per_second` come in, up to `burst`.
    pub fn take(self, per_second: u32, burst: u32, now_ms: u32) -> Result<Self, Self> {
        // Another thread's clock may have been read a little before this one's.
        let is_behind = self.at_ms.wrapping_sub(now_ms) < BEHIND_MS;
        let at_ms = if is_behind { self.at_ms } else { now_ms };
        let elapsed = at_ms.wrapping_sub(self.at_ms);
        let fresh = u64::from(elapsed) * u64::from(per_second);
        let most = u64::from(burst) * 1000;
        let tokens = (u64::from(self.tokens) + fresh).min(most).min(u64::from(Milli::MAX)) as Milli;
        match tokens.checked_sub(1000) {
            Some(tokens) => Ok(Self { tokens, at_ms }),
            None => Err(Self { tokens, at_ms }),
        }
    }

    /// As one word.
    pub fn to_bits(self) -> u64 {
        u64::from(self.tokens) << 32 | u64::from(self.at_ms)
    }

    /// From one word.
    pub fn from_bits(bits: u64) -> Self {
        Self { tokens: (bits >> 32) as u32, at_ms: bits as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_through_its_burst_and_then_its_rate() {
        let (rate, burst) = (10, 5);
        let mut bucket = Bucket::full(burst, u32::MAX - 500);
        let mut let_through = 0;
        for ms in 0..10_000 {
            let now = (u32::MAX - 500).wrapping_add(ms);
            let taken = bucket.take(rate, burst, now);
            let_through += u32::from(taken.is_ok());
            bucket = Bucket::from_bits(taken.unwrap_or_else(|kept| kept).to_bits());
        }
        assert!((104..=105).contains(&let_through), "{let_through}");
    }

    #[test]
    fn a_clock_that_is_a_little_behind_adds_nothing() {
        let bucket = Bucket::full(1, 1000).take(1000, 1, 1000).expect("one token");
        assert_eq!(bucket.take(1000, 1, 990), Err(bucket));
    }

    #[test]
    fn a_bucket_that_rested_for_a_month_fills_again() {
        let now = 30 * 24 * 3600 * 1000;
        let bucket = Bucket::full(1, 0).take(1, 1, now).expect("a full one");
        assert!(bucket.take(1, 1, now + 1000).is_ok(), "a second later");
    }
}
