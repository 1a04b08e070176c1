//! Consistent hashing with bounded load: the same key goes to the same endpoint, as long
//! as that one can take it, and a change of the endpoints moves few of the others.

use alloc::{vec, vec::Vec};

use super::pick::Candidates;

/// Slots of a Maglev table: a prime, and 128 for each of as many endpoints as a service
/// may have, so that two shares differ by less than a hundredth (Eisenbud et al., NSDI
/// 2016, 5.3). It is the same for all: a table of another size moves every key.
const SLOTS: usize = 32_749;
/// Points on a ring for an endpoint of weight 100; shares differ by about a twelfth.
const POINTS_EACH: u32 = 160;
/// The weight that [`POINTS_EACH`] holds for.
const WEIGHT: u32 = 100;
/// An endpoint takes this much of its share of what is under way, in hundredths, before
/// a key moves on (Mirrokni et al., 2016; Vimeo's and HAProxy's choice).
const BOUND_PERCENT: u64 = 125;

/// A table that turns hashes into endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Places {
    /// Even shares, small changes.
    Maglev(Vec<u16>),
    /// Least changes, less even shares; sorted.
    Ring(Vec<(u64, u16)>),
}

impl Places {
    /// A Maglev table of endpoints, each by what it is known by and its weight.
    pub fn maglev(of: &[(u64, u32)]) -> Self {
        let Some(heaviest) = of.iter().map(|it| it.1).max().filter(|&most| most > 0) else {
            return Places::Maglev(Vec::new());
        };
        let size = SLOTS;
        // Each has an order of its own in which it wants the slots.
        let orders: Vec<(u64, u64)> = (of.iter())
            .map(|(id, _)| {
                (mix(*id) % size as u64, mix(id.rotate_left(32) ^ 1) % (size as u64 - 1) + 1)
            })
            .collect();
        let mut slots = vec![u16::MAX; size];
        let mut wanted = vec![0_u64; of.len()];
        let mut turns = vec![0_u32; of.len()];
        let mut left = size;
        while left > 0 {
            for (n, &(_, weight)) in of.iter().enumerate() {
                // The heaviest has a turn in every round, a lighter one in some.
                turns[n] += weight;
                if turns[n] < heaviest || left == 0 {
                    continue;
                }
                turns[n] -= heaviest;
                let (first, step) = orders[n];
                loop {
                    let slot = ((first + step * wanted[n]) % size as u64) as usize;
                    wanted[n] += 1;
                    if slots[slot] == u16::MAX {
                        slots[slot] = n as u16;
                        break;
                    }
                }
                left -= 1;
            }
        }
        Places::Maglev(slots)
    }

    /// A ring of endpoints, each by what it is known by and its weight.
    pub fn ring(of: &[(u64, u32)]) -> Self {
        let mut points = Vec::new();
        for (n, &(id, weight)) in of.iter().enumerate() {
            let count = (u64::from(POINTS_EACH) * u64::from(weight)).div_ceil(WEIGHT.into());
            points.extend((0..count).map(|point| (mix(mix(id) ^ point), n as u16)));
        }
        points.sort_unstable();
        Places::Ring(points)
    }

    /// The endpoint of a key's hash: the first in its order that may be chosen and is not
    /// over its bound.
    pub fn pick(&self, hash: u64, of: &impl Candidates) -> Option<usize> {
        let usable = || (0..of.count()).filter(|&n| of.weight(n) > 0);
        let total: u64 = usable().map(|n| u64::from(of.weight(n))).sum();
        let active: u64 = usable().map(|n| u64::from(of.active(n))).sum();
        let has_room = |n: usize| {
            let share = (active + 1) * u64::from(of.weight(n)) * BOUND_PERCENT;
            u64::from(of.active(n)) < share.div_ceil(total.max(1) * 100)
        };
        let mut in_order = self.from(hash).filter(|&n| n < of.count() && of.weight(n) > 0);
        in_order.find(|&n| has_room(n))
    }

    /// All slots from a hash on, once around.
    fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let (count, first) = match self {
            Places::Maglev(slots) => (slots.len(), mix(hash) % slots.len().max(1) as u64),
            Places::Ring(points) => {
                let hash = mix(hash);
                (points.len(), points.partition_point(|point| point.0 < hash) as u64)
            }
        };
        (0..count).map(move |step| {
            let at = (first as usize + step) % count;
            match self {
                Places::Maglev(slots) => slots[at].into(),
                Places::Ring(points) => points[at].1.into(),
            }
        })
    }
}

/// A hash of bytes that is the same on every node and in every version: FNV-1a.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Spreads neighbouring numbers over all bits (SplitMix64's last step).
pub fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
