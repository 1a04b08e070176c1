//! Which endpoint of a service a request goes to.

use super::model::Policy;

/// The endpoints of a service as a choice sees them.
pub trait Candidates {
    /// How many there are.
    fn count(&self) -> usize;
    /// An endpoint's share; 0 if it is not to be chosen.
    fn weight(&self, index: usize) -> u32;
    /// Requests under way at an endpoint.
    fn active(&self, index: usize) -> u32;
    /// How slow it was lately, in microseconds.
    fn latency(&self, index: usize) -> f32;
}

/// Chooses one by 64 random bits, or by a number that counts choices; `None` if none
/// may be chosen.
pub fn pick(policy: Policy, of: &impl Candidates, random: u64, turn: u64) -> Option<usize> {
    // What is under way, as if every weight were 100.
    let load = |index: usize| of.active(index) as f32 * 100.0 / of.weight(index) as f32;
    match policy {
        Policy::P2c => better_of_two(of, random, |index| of.latency(index) * (load(index) + 1.0)),
        Policy::LeastRequest => better_of_two(of, random, load),
        Policy::Random => by_weight(of, None, |total| spread(random, total)),
        // By a hash where there is something to hash; see `hashed`.
        Policy::Maglev | Policy::RingHash => by_weight(of, None, |total| spread(random, total)),
        Policy::RoundRobin => in_turn(of, turn),
    }
}

/// Two different ones at random by weight; the cheaper. Of two that cost the same it is
/// the first, so that idle endpoints are chosen by weight too.
fn better_of_two(of: &impl Candidates, random: u64, cost: impl Fn(usize) -> f32) -> Option<usize> {
    let first = by_weight(of, None, |total| spread(random << 32, total))?;
    let upper = random & 0xffff_ffff_0000_0000;
    let second = by_weight(of, Some(first), |total| spread(upper, total));
    Some(second.filter(|&second| cost(second) < cost(first)).unwrap_or(first))
}

/// The one whose share a position in the sum of all weights falls into.
fn by_weight(
    of: &impl Candidates,
    but: Option<usize>,
    position: impl FnOnce(u64) -> u64,
) -> Option<usize> {
    let weight = |index| if Some(index) == but { 0 } else { u64::from(of.weight(index)) };
    let weights = || (0..of.count()).map(weight);
    let total: u64 = weights().sum();
    if total == 0 {
        return None;
    }
    let mut left = position(total);
    weights().position(|weight| {
        let is_in = left < weight;
        left = left.saturating_sub(weight);
        is_in
    })
}

/// Each as often as its weight says in every round, and no one twice in a row where
/// that can be helped: steps of about 0.618 of the round, that meet each place once.
fn in_turn(of: &impl Candidates, turn: u64) -> Option<usize> {
    let weights = || (0..of.count()).map(|index| u64::from(of.weight(index)));
    let unit = weights().fold(0, gcd).max(1);
    by_weight(of, None, |total| {
        // Another thread may have left one out since the last line.
        let round = (total / unit).max(1);
        let mut step = (round * 618 / 1000).max(1);
        while gcd(step, round) != 1 {
            step += 1;
        }
        (turn % round) * step % round * unit
    })
}

/// A number below `limit` from random bits, the upper ones counting.
pub fn spread(random: u64, limit: u64) -> u64 {
    ((u128::from(random) * u128::from(limit)) >> 64) as u64
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use super::*;

    struct Fixed(Vec<(u32, u32, f32)>);

    impl Candidates for Fixed {
        fn count(&self) -> usize {
            self.0.len()
        }
        fn weight(&self, index: usize) -> u32 {
            self.0[index].0
        }
        fn active(&self, index: usize) -> u32 {
            self.0[index].1
        }
        fn latency(&self, index: usize) -> f32 {
            self.0[index].2
        }
    }

    /// How often each of them is chosen.
    fn chosen(policy: Policy, of: &Fixed, times: u64) -> Vec<u64> {
        let mut random = 1_u64;
        let mut counts = vec![0; of.0.len()];
        for turn in 0..times {
            // SplitMix64.
            random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            if let Some(index) = pick(policy, of, bits ^ (bits >> 31), turn) {
                counts[index] += 1;
            }
        }
        counts
    }

    #[test]
    fn shares_are_by_weight_and_nothing_goes_where_nothing_may() {
        let of = Fixed(vec![(100, 0, 1.0), (0, 0, 1.0), (300, 0, 1.0)]);
        assert_eq!(chosen(Policy::RoundRobin, &of, 400), [100, 0, 300]);
        let random = chosen(Policy::Random, &of, 40_000);
        assert!((9_500..10_500).contains(&random[0]) && random[1] == 0, "{random:?}");
        let none = Fixed(vec![(0, 0, 1.0)]);
        for policy in [Policy::P2c, Policy::LeastRequest, Policy::RoundRobin, Policy::Random] {
            assert_eq!(chosen(policy, &none, 10), [0]);
            assert_eq!(chosen(policy, &Fixed(vec![]), 10), []);
            let last = Fixed(vec![(0, 0, 1.0), (7, 9, 1e9)]);
            assert_eq!(chosen(policy, &last, 10), [0, 10]);
        }
    }

    #[test]
    fn a_round_is_spread_out() {
        let of = Fixed(vec![(2, 0, 1.0), (1, 0, 1.0), (2, 0, 1.0)]);
        let order: Vec<_> =
            (0..5).filter_map(|turn| pick(Policy::RoundRobin, &of, 0, turn)).collect();
        assert!(order.windows(2).all(|two| two[0] != two[1]), "{order:?}");
    }

    #[test]
    fn of_two_the_cheaper_is_taken_and_all_are_looked_at() {
        let slow = Fixed(vec![(100, 0, 1000.0), (100, 0, 10.0)]);
        assert_eq!(chosen(Policy::P2c, &slow, 100), [0, 100]);
        let busy = Fixed(vec![(100, 9, 10.0), (100, 0, 10.0)]);
        assert_eq!(chosen(Policy::LeastRequest, &busy, 100), [0, 100]);
        let even = chosen(Policy::P2c, &Fixed(vec![(100, 0, 10.0); 5]), 10_000);
        assert!(even.iter().all(|&count| (1_500..2_500).contains(&count)), "{even:?}");
    }
}
