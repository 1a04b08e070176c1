//! Which numbers of a sequence were seen, in as few words as there are holes.

use alloc::vec::Vec;

/// Ranges that are remembered. Beyond it the lowest is forgotten: what it had may be
/// taken a second time, and whoever reads drops it by its identity.
pub const MAX_RANGES: usize = 64;

/// Numbers that were seen: ranges `first..=last`, growing, with holes between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(Vec<(u64, u64)>);

impl Seen {
    /// As they were read from a file.
    pub fn from_list(list: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut seen = Self::default();
        list.into_iter().for_each(|(first, last)| seen.note(first, last));
        seen
    }

    /// The ranges.
    pub fn list(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// Notes a range; one that is upside down is none.
    pub fn note(&mut self, mut first: u64, mut last: u64) {
        if first > last {
            return;
        }
        self.0.retain(|it| {
            let touches = it.0 <= last.saturating_add(1) && first <= it.1.saturating_add(1);
            if touches {
                (first, last) = (first.min(it.0), last.max(it.1));
            }
            !touches
        });
        let at = self.0.partition_point(|it| it.0 < first);
        self.0.insert(at, (first, last));
        if self.0.len() > MAX_RANGES {
            self.0.remove(0);
        }
    }

    /// Whether all of `first..=last` was seen.
    pub fn has(&self, first: u64, last: u64) -> bool {
        self.0.iter().any(|it| it.0 <= first && last <= it.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_there_are_only_so_many_are_remembered() {
        let mut seen = Seen::default();
        (0..1000).for_each(|n| seen.note(n * 2, n * 2));
        assert_eq!(seen.list().len(), MAX_RANGES);
        assert!(seen.has(1998, 1998) && !seen.has(0, 0) && !seen.has(1996, 1998));
    }

    proptest::proptest! {
        #[test]
        fn says_the_same_as_a_set(notes in proptest::collection::vec((0..60u64, 0..8u64), 0..30)) {
            let mut seen = Seen::default();
            let mut set = alloc::collections::BTreeSet::new();
            for (first, more) in notes {
                seen.note(first, first + more);
                set.extend(first..=first + more);
            }
            for n in 0..70 {
                proptest::prop_assert_eq!(seen.has(n, n), set.contains(&n));
            }
            let apart = seen.list().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0);
            proptest::prop_assert!(apart);
        }
    }
}
