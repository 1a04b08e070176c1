//! What a full log gives up first.
//!
//! A log is a row of segments, oldest first. One that thins keeps its newest
//! records as they came, older ones at one a minute, and the oldest at one in ten
//! minutes: within the same bytes it reaches sixty times as far back before
//! anything is dropped whole.

/// What a log does when it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest go: what is new matters more.
    DropOldest,
    /// What comes is not taken: how it began matters more.
    DropNewest,
    /// Samples are thinned, the oldest first, and dropped only after that.
    Downsample,
}

impl WhenFull {
    /// Every policy.
    pub const ALL: [WhenFull; 3] =
        [WhenFull::DropOldest, WhenFull::DropNewest, WhenFull::Downsample];

    /// The name used in documents.
    pub fn name(self) -> &'static str {
        match self {
            WhenFull::DropOldest => "drop-oldest",
            WhenFull::DropNewest => "drop-newest",
            WhenFull::Downsample => "downsample",
        }
    }
}

/// How far the samples of a segment have been thinned. The numbers stand in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// As they came.
    Raw = 0,
    /// At most one a minute from each source.
    Minute = 1,
    /// At most one in ten minutes.
    TenMinutes = 2,
}

impl Tier {
    /// Every tier, finest first.
    pub const ALL: [Tier; 3] = [Tier::Raw, Tier::Minute, Tier::TenMinutes];

    /// Seconds that one sample stands for; 0: as it came.
    pub fn span_s(self) -> u32 {
        match self {
            Tier::Raw => 0,
            Tier::Minute => 60,
            Tier::TenMinutes => 600,
        }
    }
}

/// What is known of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its size.
    pub bytes: u64,
    /// How far it is thinned.
    pub tier: Tier,
}

/// What to do next so that a log fits its cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It fits.
    Rest,
    /// The oldest segment goes.
    Drop,
    /// `count` segments from `from` on become one of tier `to`.
    Thin {
        /// Index of the first.
        from: usize,
        /// How many; at least one.
        count: usize,
        /// Their next tier.
        to: Tier,
    },
}

/// Segments that are thinned in one step: what they leave is about one segment, and
/// the time that the log is busy with it stays below a commit's.
const AT_ONCE: usize = 8;

/// The next step. `segments` are the log's, oldest first; the last one is being
/// written and is left alone, whatever its size. Done again and again it ends: each
/// step drops a segment or raises the tier of one.
pub fn next(when_full: WhenFull, segments: &[Kept], cap: u64) -> Step {
    let total: u64 = segments.iter().map(|kept| kept.bytes).sum();
    let Some((_, closed)) = segments.split_last().filter(|(_, closed)| !closed.is_empty()) else {
        return Step::Rest;
    };
    if total <= cap {
        return Step::Rest;
    }
    if when_full == WhenFull::Downsample {
        // Half of the room is for what is as it came, a quarter for each other tier.
        for (tier, to, share) in
            [(Tier::Raw, Tier::Minute, cap / 2), (Tier::Minute, Tier::TenMinutes, cap / 4)]
        {
            let of_tier = |kept: &&Kept| kept.tier == tier;
            let held: u64 = segments.iter().filter(of_tier).map(|kept| kept.bytes).sum();
            let from = closed.iter().position(|kept| kept.tier == tier);
            if let Some(from) = from.filter(|_| held > share) {
                let run = closed[from..].iter().take_while(of_tier).take(AT_ONCE);
                return Step::Thin { from, count: run.count(), to };
            }
        }
    }
    Step::Drop
}

/// Bytes that may still come, as they come, before the first record is dropped whole.
/// `interval_s` is the time between two samples of a source, which is what thinning
/// gains by; what a log thins, it has half of its room for as it came and a quarter
/// for each coarser tier ([`next`]).
pub fn until_first_drop(when_full: WhenFull, kept: &[Kept], cap: u64, interval_s: u32) -> u64 {
    let minute = u64::from(Tier::Minute.span_s() / interval_s.max(1)).max(1);
    let ten = u64::from(Tier::TenMinutes.span_s() / interval_s.max(1)).max(1);
    let came = |it: &Kept| match (when_full, it.tier) {
        (WhenFull::Downsample, Tier::Minute) => it.bytes.saturating_mul(minute),
        (WhenFull::Downsample, Tier::TenMinutes) => it.bytes.saturating_mul(ten),
        _ => it.bytes,
    };
    let room = match when_full {
        WhenFull::Downsample => (cap / 2).saturating_add((cap / 4).saturating_mul(minute + ten)),
        WhenFull::DropOldest | WhenFull::DropNewest => cap,
    };
    room.saturating_sub(kept.iter().map(came).fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn kept(bytes: u64, tier: Tier) -> Kept {
        Kept { bytes, tier }
    }

    /// Applies steps until the log rests; thinning leaves a tenth. What was dropped,
    /// and what is left.
    fn settle(when_full: WhenFull, mut segments: Vec<Kept>, cap: u64) -> (usize, Vec<Kept>) {
        let mut dropped = 0;
        loop {
            match next(when_full, &segments, cap) {
                Step::Rest => return (dropped, segments),
                Step::Drop => {
                    segments.remove(0);
                    dropped += 1;
                }
                Step::Thin { from, count, to } => {
                    let bytes = segments.drain(from..from + count).map(|it| it.bytes).sum::<u64>();
                    segments.insert(from, kept(bytes / 10, to));
                }
            }
        }
    }

    #[test]
    fn drops_the_oldest_until_the_rest_fits() {
        let segments = [kept(10, Tier::Raw); 3].to_vec();
        for (cap, dropped) in [(30, 0), (29, 1), (10, 2), (0, 2)] {
            assert_eq!(settle(WhenFull::DropOldest, segments.clone(), cap).0, dropped, "{cap}");
        }
    }

    #[test]
    fn never_touches_the_one_being_written() {
        for when_full in WhenFull::ALL {
            assert_eq!(next(when_full, &[kept(10, Tier::Raw)], 1), Step::Rest);
        }
        assert_eq!(next(WhenFull::Downsample, &[], 0), Step::Rest);
    }

    #[test]
    fn thins_the_oldest_before_anything_is_dropped() {
        let segments = [kept(10, Tier::Raw); 20].to_vec();
        let (dropped, left) = settle(WhenFull::Downsample, segments, 150);
        assert_eq!(dropped, 0);
        assert_eq!(left[0].tier, Tier::Minute);
        assert!(left[1..].iter().all(|kept| kept.tier == Tier::Raw));
    }

    #[test]
    fn what_cannot_be_thinned_any_more_is_dropped() {
        let mut segments = [kept(10, Tier::TenMinutes); 20].to_vec();
        segments.push(kept(10, Tier::Raw));
        let (dropped, left) = settle(WhenFull::Downsample, segments, 150);
        assert_eq!((dropped, left.len()), (6, 15));
    }

    #[test]
    fn the_first_drop_is_foreseen() {
        // Segments of 100 bytes, sampled every ten seconds, into 10,000.
        for (when_full, expected) in [(WhenFull::DropOldest, 100), (WhenFull::Downsample, 1700)] {
            let foreseen = until_first_drop(when_full, &[], 10_000, 10) / 100;
            assert_eq!(foreseen, expected);
            let (mut segments, mut came) = (Vec::new(), 0);
            'until_dropped: loop {
                segments.push(kept(100, Tier::Raw));
                came += 1;
                loop {
                    match next(when_full, &segments, 10_000) {
                        Step::Rest => break,
                        Step::Drop => break 'until_dropped,
                        Step::Thin { from, count, to } => {
                            let gained = if to == Tier::Minute { 6 } else { 10 };
                            let bytes: u64 =
                                segments.drain(from..from + count).map(|it| it.bytes).sum();
                            segments.insert(from, kept(bytes / gained, to));
                        }
                    }
                }
            }
            let off = came as f64 / foreseen as f64;
            assert!((0.9..=1.1).contains(&off), "{when_full:?}: {came} of {foreseen}");
        }
    }

    proptest::proptest! {
        #[test]
        fn ends_with_what_fits_and_keeps_tiers_in_order(
            sizes in proptest::collection::vec(1..100u64, 1..60), cap in 0..3000u64,
        ) {
            let segments = sizes.iter().map(|&bytes| kept(bytes, Tier::Raw)).collect();
            let (_, left) = settle(WhenFull::Downsample, segments, cap);
            let total: u64 = left.iter().map(|kept| kept.bytes).sum();
            proptest::prop_assert!(total <= cap || left.len() == 1);
            proptest::prop_assert!(left.is_sorted_by(|a, b| a.tier >= b.tier));
        }
    }
}
