//! What came of one node's log to whoever collects it: which numbers, which gaps, and
//! which of the missing ones are holes.
//!
//! A log comes in two lanes. What was on the node's disk when its link came up is the
//! past; what is measured since passes it ([`crate::window`]). Each lane comes in order, so
//! a number that the past has gone by is missing for good. One that only the present has
//! gone by may be about to come with the past: it is a hole when nothing came for long.

use alloc::{collections::BTreeMap, vec::Vec};

use crate::seen::Seen;

/// First and last number.
pub type Range = (u64, u64);

/// What came of one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Numbers that batches accounted for.
    pub seen: Seen,
    /// Gaps that were told, by cause.
    pub gaps: BTreeMap<i32, Seen>,
    /// Holes that were told.
    pub holes: Seen,
    /// What is missing, and since when.
    missing: Vec<(Range, u64)>,
}

impl Arrival {
    /// What was remembered.
    pub fn new(seen: Seen, gaps: BTreeMap<i32, Seen>, holes: Seen) -> Self {
        Self { seen, gaps, holes, missing: Vec::new() }
    }

    /// Whether a record comes for the first time.
    pub fn is_new(&self, seq: u64) -> bool {
        !self.seen.has(seq, seq)
    }

    /// Notes a gap; false if it was told before. One that grows is told again.
    pub fn gap(&mut self, cause: i32, (first, last): Range) -> bool {
        let told = self.gaps.entry(cause).or_default();
        let is_new = !told.has(first, last);
        told.note(first, last);
        is_new
    }

    /// Notes a batch that accounts for all of a range, and returns the holes that it
    /// proves: with `past` it is of the lane of the past, come in order, and nothing below
    /// it comes any more.
    pub fn batch(&mut self, range: Range, past: bool, now_ms: u64) -> Vec<Range> {
        let below = range.0;
        self.seen.note(range.0, range.1);
        self.look(now_ms, past);
        self.tell(|missing, _| past && missing.1 < below)
    }

    /// Holes among what is missing since `after_ms` or longer, while the past stood still.
    pub fn overdue(&mut self, now_ms: u64, after_ms: u64) -> Vec<Range> {
        self.look(now_ms, false);
        self.tell(|_, since| now_ms.saturating_sub(since) >= after_ms)
    }

    /// Numbers that are missing and are no hole yet.
    pub fn missing(&self) -> u64 {
        self.missing.iter().map(|((first, last), _)| last - first + 1).sum()
    }

    /// Looks between what came for what did not; while the past moves, its time begins anew.
    fn look(&mut self, now_ms: u64, moved: bool) {
        let before = core::mem::take(&mut self.missing);
        let since = |(first, last): Range| {
            let known = before.iter().find(|((a, b), _)| *a <= last && first <= *b);
            known.filter(|_| !moved).map_or(now_ms, |(_, since)| *since)
        };
        for pair in self.seen.list().windows(2) {
            let range = (pair[0].1 + 1, pair[1].0 - 1);
            self.missing.extend(without(range, &self.holes).into_iter().map(|it| (it, since(it))));
        }
    }

    fn tell(&mut self, is_hole: impl Fn(Range, u64) -> bool) -> Vec<Range> {
        let mut holes = Vec::new();
        self.missing.retain(|(range, since)| {
            let it = is_hole(*range, *since);
            if it {
                holes.push(*range);
            }
            !it
        });
        holes.iter().for_each(|(first, last)| self.holes.note(*first, *last));
        holes
    }
}

/// What of a range is not among the noted ones.
fn without((mut first, last): Range, noted: &Seen) -> Vec<Range> {
    let mut left = Vec::new();
    for &(from, to) in noted.list() {
        if to < first || last < from {
            continue;
        }
        if from > first {
            left.push((first, from - 1));
        }
        first = to.saturating_add(1);
    }
    if first <= last {
        left.push((first, last));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_passes_a_hole_and_the_present_does_not() {
        let mut it = Arrival::default();
        assert!(it.batch((1, 5), false, 0).is_empty());
        // A session begins: 6 to 20 are the past, 21 is the present.
        assert!(it.batch((21, 21), false, 10).is_empty());
        assert!(it.batch((6, 9), true, 20).is_empty());
        assert_eq!(it.missing(), 11);
        assert_eq!(it.batch((13, 20), true, 30), [(10, 12)]);
        assert_eq!(it.missing(), 0);
        assert!(it.is_new(11), "it may come late, and is taken then");
        assert!(it.batch((10, 12), true, 40).is_empty());
        assert!(!it.is_new(11));
    }

    #[test]
    fn what_is_missing_for_long_is_a_hole_unless_the_past_moves() {
        let mut it = Arrival::default();
        it.batch((1, 5), false, 0);
        it.batch((8, 8), false, 100);
        assert!(it.overdue(1000, 1000).is_empty());
        assert_eq!(it.overdue(1100, 1000), [(6, 7)]);
        assert!(it.overdue(9000, 1000).is_empty(), "it is told once");
        it.batch((20, 20), false, 10_000);
        it.batch((9, 9), true, 10_900);
        assert!(it.overdue(11_000, 1000).is_empty(), "the past moved");
        assert_eq!(it.overdue(11_900, 1000), [(10, 19)]);
    }

    #[test]
    fn a_gap_that_grows_is_told_again() {
        let mut it = Arrival::default();
        assert!(it.gap(1, (3, 9)) && !it.gap(1, (3, 9)));
        assert!(it.gap(1, (3, 12)));
        assert!(it.gap(3, (3, 9)), "another cause");
    }

    proptest::proptest! {
        /// Whatever comes in whatever order and cut: each number is new once, and what is
        /// told as a hole had not come.
        #[test]
        fn each_number_is_new_once(
            batches in proptest::collection::vec((1..80u64, 0..9u64, proptest::bool::ANY), 1..40),
        ) {
            let mut it = Arrival::default();
            let mut came = alloc::collections::BTreeSet::new();
            for (n, (first, more, past)) in batches.into_iter().enumerate() {
                for seq in first..=first + more {
                    proptest::prop_assert_eq!(it.is_new(seq), !came.contains(&seq));
                }
                came.extend(first..=first + more);
                for (from, to) in it.batch((first, first + more), past, n as u64) {
                    proptest::prop_assert!((from..=to).all(|seq| !came.contains(&seq)));
                }
                let ends = came.first().zip(came.last());
                let (first, last) = ends.map_or((1, 0), |(first, last)| (*first, *last));
                let all = first..=last;
                let absent = all.filter(|seq| !came.contains(seq) && !it.holes.has(*seq, *seq));
                proptest::prop_assert_eq!(it.missing(), absent.count() as u64);
            }
        }
    }
}
