//! How slow an endpoint was lately: a peak-EWMA. A slower answer counts at once and in
//! full, a faster one bit by bit, and without answers it is forgotten, so that an
//! endpoint that was slow once is tried again.

use core::time::Duration;

/// After this long an old answer counts for a third. Long against one slow answer,
/// short against an operator's patience; what linkerd and Finagle use.
pub const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint that never answered is taken for, so that a new one is not flooded.
const FIRST_MICROS: f32 = 10_000.0;

/// A peak-EWMA, small enough for one atomic word.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ewma {
    micros: f32,
    /// Milliseconds of a clock that began with the process; wraps after 49 days.
    at_ms: u32,
}

impl Ewma {
    /// Nothing known, as of now.
    pub fn new(now_ms: u32) -> Self {
        Self { micros: FIRST_MICROS, at_ms: now_ms }
    }

    /// What it comes to now, in microseconds.
    pub fn value(self, now_ms: u32) -> f32 {
        self.micros * kept(now_ms.wrapping_sub(self.at_ms))
    }

    /// What it came to at the last answer, in microseconds.
    pub fn last(self) -> f32 {
        self.micros
    }

    /// With one more answer.
    pub fn with(self, took: Duration, now_ms: u32) -> Self {
        let took = took.as_secs_f32() * 1e6;
        let kept = kept(now_ms.wrapping_sub(self.at_ms));
        let micros =
            if took >= self.micros { took } else { self.micros * kept + took * (1.0 - kept) };
        Self { micros, at_ms: now_ms }
    }

    /// As one word.
    pub fn to_bits(self) -> u64 {
        u64::from(self.micros.to_bits()) << 32 | u64::from(self.at_ms)
    }

    /// From one word.
    pub fn from_bits(bits: u64) -> Self {
        Self { micros: f32::from_bits((bits >> 32) as u32), at_ms: bits as u32 }
    }
}

/// The share of an old value that is left: e^-x by the first terms of e^x, within 4 %
/// of it where it is above a tenth.
fn kept(elapsed_ms: u32) -> f32 {
    let x = elapsed_ms as f32 / DECAY.as_millis() as f32;
    1.0 / (1.0 + x + x * x / 2.0 + x * x * x / 6.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten() {
        let slow = Ewma::new(0).with(MS(500), 1000);
        assert_eq!(slow.value(1000), 500_000.0);
        let recovering = slow.with(MS(1), 1100);
        assert!(recovering.value(1100) > 490_000.0, "{recovering:?}");
        assert!(slow.value(11_000) < 200_000.0 && slow.value(61_000) < 10_000.0);
        assert_eq!(Ewma::from_bits(slow.to_bits()), slow);
    }

    #[test]
    fn a_clock_that_wraps_is_no_jump() {
        let before = Ewma::new(u32::MAX).with(MS(500), u32::MAX - 10);
        assert!(before.value(10) > 490_000.0);
    }
}
