//! When a service's requests go elsewhere, say to the core, because the rack is full: every
//! nearer tier has too much under way. With hysteresis, so that they don't go to and fro
//! with each request.

use super::locality::{Load, Tier};
use alloc::string::String;

/// Where to, and when, as a document has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spill {
    /// Name of the service that takes them.
    pub service: String,
    /// Where that stands in the table, once it is checked.
    pub index: usize,
    /// From this use on, in hundredths of the limit, they go there.
    pub at_percent: u32,
    /// Below this one they stay again.
    pub back_percent: u32,
}

/// What is under way beside the most that is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Requests and connections under way.
    pub active: u64,
    /// The most.
    pub limit: u64,
}

impl Use {
    /// What the endpoints of a rack come to, where each of weight 100 is full with `most`
    /// requests. Without one that may be chosen all is full.
    pub fn of(loads: &[Load; 4], most: u32) -> Self {
        let near = Tier::ALL.into_iter().zip(loads).filter(|(tier, _)| *tier != Tier::Remote);
        near.fold(Self::default(), |sum, (_, load)| Self {
            active: sum.active + load.active,
            limit: sum.limit + load.usable * u64::from(most) / 100,
        })
    }

    fn is_at(self, percent: u32) -> bool {
        self.active.saturating_mul(100) >= self.limit.saturating_mul(percent.into())
    }
}

/// Whether the next request goes elsewhere; `was`: whether the one before did. Full is who
/// is full by any of these.
pub fn goes_elsewhere(by: &Spill, was: bool, uses: &[Use]) -> bool {
    let percent = if was { by.back_percent } else { by.at_percent };
    uses.iter().any(|it| it.is_at(percent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::{hashed::mix, pick::spread};

    fn by() -> Spill {
        Spill { service: "core".into(), index: 0, at_percent: 90, back_percent: 70 }
    }

    #[test]
    fn it_begins_at_one_use_and_ends_below_another() {
        let goes = |was, active| goes_elsewhere(&by(), was, &[Use { active, limit: 100 }]);
        assert!(!goes(false, 89) && goes(false, 90) && goes(false, 1000));
        assert!(goes(true, 70) && !goes(true, 69) && !goes(true, 0));
        let either = [Use { active: 0, limit: 100 }, Use { active: 95, limit: 100 }];
        assert!(goes_elsewhere(&by(), false, &either));
        assert!(goes_elsewhere(&by(), false, &[Use::default()]), "nobody may be chosen");
    }

    #[test]
    fn the_rack_is_all_but_what_is_remote() {
        let load = |usable, active| Load { weight: usable, usable, active };
        let loads = [load(100, 1), load(200, 2), load(100, 3), load(1000, 99)];
        assert_eq!(Use::of(&loads, 32), Use { active: 6, limit: 128 });
        assert_eq!(Use::of(&[Load::default(); 4], 32), Use::default());
    }

    /// Requests come and end by chance, around the rack's limit.
    #[test]
    fn it_turns_seldom_and_the_rack_is_never_above_its_limit() {
        for seed in 0..500_u64 {
            let mut random = seed << 32;
            let mut below = |limit| {
                random += 1;
                spread(mix(random), limit)
            };
            let (limit, mut active, mut elsewhere) = (50 + below(100), 0_u64, false);
            let (mut turns, mut last_turn_at) = (0_u32, 0);
            for _ in 0..20_000 {
                active -= active.min(below(active / 8 + 2));
                for _ in 0..below(limit / 5 + 2) {
                    let was = elsewhere;
                    elsewhere = goes_elsewhere(&by(), was, &[Use { active, limit }]);
                    if was != elsewhere {
                        turns += 1;
                        // Between two turns lies all that is between both uses.
                        let moved = active.abs_diff(last_turn_at) * 100;
                        assert!(
                            turns < 2 || moved + 100 >= limit * 20,
                            "seed {seed}: after {moved}"
                        );
                        last_turn_at = active;
                    }
                    active += u64::from(!elsewhere);
                    assert!(active <= limit, "seed {seed}: {active} of {limit}");
                }
            }
        }
    }
}
