//! Holes in a sequence of records, and why they are there.
//!
//! Every record that is taken gets a number, whether or not it can be kept, so that
//! whoever reads the log sees each loss as missing numbers. A gap says why; numbers
//! that are missing without one have not arrived yet.

use alloc::vec::Vec;

/// Why records are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The log was full.
    Full,
    /// They had outlived their time.
    Expired,
    /// They were thinned: those that are left stand for them.
    Downsampled,
    /// The disk gave back something else than was written, or nothing.
    Damaged,
    /// They were never on disk: it could not be written, or not fast enough.
    NotWritten,
    /// The broker will never take them.
    Refused,
    /// A person removed them.
    Purged,
}

/// Of the numbers `first..=last`, those that do not arrive were lost for this cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first number missing.
    pub first: u64,
    /// The last number missing.
    pub last: u64,
    /// How many are missing for this cause.
    pub lost: u64,
    /// Why.
    pub cause: Cause,
}

/// Gaps that are remembered: beyond it neighbours become one.
pub const MAX_GAPS: usize = 64;

/// The gaps of one log that have not been told yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps(Vec<Gap>);

impl Gaps {
    /// As they were read from a file; as many as are remembered.
    pub fn from_list(list: impl IntoIterator<Item = Gap>) -> Self {
        let mut gaps = Self::default();
        list.into_iter().filter(|gap| gap.first <= gap.last).for_each(|gap| gaps.note(gap));
        gaps
    }

    /// In the order of their first numbers.
    pub fn list(&self) -> &[Gap] {
        &self.0
    }

    /// Notes a gap; one that continues or widens another of the same cause is added to it.
    pub fn note(&mut self, gap: Gap) {
        let touches = |it: &Gap| {
            it.cause == gap.cause && it.first <= gap.last + 1 && gap.first <= it.last + 1
        };
        match self.0.iter_mut().find(|it| touches(it)) {
            Some(it) => *it = joined(*it, gap),
            None => self.0.push(gap),
        }
        self.0.sort_by_key(|it| (it.first, it.last));
        while self.0.len() > MAX_GAPS {
            let second = self.0.remove(1);
            self.0[0] = joined(self.0[0], second);
        }
    }

    /// Forgets what lies before the cursor: it was told.
    pub fn forget(&mut self, acked: u64) {
        self.0.retain(|gap| gap.last > acked);
    }

    /// Gaps that touch the numbers `first..=last`.
    pub fn within(&self, first: u64, last: u64) -> impl Iterator<Item = Gap> {
        self.0.iter().copied().filter(move |gap| gap.first <= last && gap.last >= first)
    }

    /// Whether a gap accounts for this number.
    pub fn has(&self, seq: u64) -> bool {
        self.within(seq, seq).next().is_some()
    }
}

/// Both in one, for the cause that lost more.
fn joined(a: Gap, b: Gap) -> Gap {
    Gap {
        first: a.first.min(b.first),
        last: a.last.max(b.last),
        lost: a.lost.saturating_add(b.lost),
        cause: if b.lost > a.lost { b.cause } else { a.cause },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(first: u64, last: u64, cause: Cause) -> Gap {
        Gap { first, last, lost: last - first + 1, cause }
    }

    #[test]
    fn neighbours_of_one_cause_are_one() {
        let mut gaps = Gaps::default();
        gaps.note(gap(1, 10, Cause::Full));
        gaps.note(gap(30, 40, Cause::Full));
        gaps.note(gap(11, 20, Cause::Full));
        gaps.note(gap(21, 29, Cause::Damaged));
        let all: Vec<_> = gaps.list().iter().map(|it| (it.first, it.last, it.lost)).collect();
        assert_eq!(all, [(1, 20, 20), (21, 29, 9), (30, 40, 11)]);
        gaps.forget(29);
        assert_eq!(gaps.list().len(), 1);
    }

    #[test]
    fn however_many_there_are_the_losses_stay_counted() {
        let mut gaps = Gaps::default();
        for n in 0..1000 {
            gaps.note(gap(n * 10, n * 10 + 1, Cause::Damaged));
        }
        assert_eq!(gaps.list().len(), MAX_GAPS);
        assert_eq!(gaps.list().iter().map(|it| it.lost).sum::<u64>(), 2000);
    }
}
