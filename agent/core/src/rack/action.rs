//! What may be written to a device: a closed list, and when. A map names an action for a
//! register; what is not on the list can't be written by any map or document.

use alloc::{format, string::String, vec::Vec};
use core::{fmt, str::FromStr, time::Duration};

/// A device's clock may be another than the node's by this: it counts in whole seconds,
/// and is read some time after it was asked for.
pub const CLOCK_SLACK_S: u64 = 2;
/// Between two writes to one register: a device that takes none is not asked for ever.
pub const REST: Duration = Duration::from_secs(3600);

/// Something that may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Seconds since 1970 in two words, the high one first.
    UnixTime,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 1] = [Action::UnixTime];

    /// The name used in maps.
    pub fn name(self) -> &'static str {
        match self {
            Action::UnixTime => "unix_time",
        }
    }

    /// What to write, where `said` is what the register said and `now_s` the time by a
    /// clock that is trusted; `None` if it is well as it is.
    pub fn due(self, said: f64, now_s: u64) -> Option<Vec<u16>> {
        let now = u32::try_from(now_s).ok()?;
        let words = || [(now >> 16) as u16, now as u16].into();
        (!self.holds(said, now_s)).then(words)
    }

    /// Whether a register that says `said` is as it should be.
    pub fn holds(self, said: f64, now_s: u64) -> bool {
        let apart = said - now_s as f64;
        (-(CLOCK_SLACK_S as f64)..=CLOCK_SLACK_S as f64).contains(&apart)
    }

    /// What was wrong, for a person.
    pub fn wrong(self, said: f64, now_s: u64) -> String {
        let apart = said - now_s as f64;
        let side = if apart > 0.0 { "ahead" } else { "behind" };
        format!("its clock was {:.0} s {side}", if apart > 0.0 { apart } else { -apart })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Action {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Action::ALL.into_iter().find(|it| it.name() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_right_is_left_alone() {
        for said in [1_800_000_000.0, 1_800_000_002.0, 1_799_999_998.0] {
            assert_eq!(Action::UnixTime.due(said, 1_800_000_000), None);
        }
        let words = Some([0x6b49, 0xd200].into());
        for said in [0.0, 1_799_999_997.0, 1_800_000_003.0] {
            assert_eq!(Action::UnixTime.due(said, 1_800_000_000), words);
        }
        assert_eq!(Action::UnixTime.due(0.0, u64::MAX), None, "it has no room for that");
    }

    #[test]
    fn only_what_is_on_the_list_has_a_name() {
        assert_eq!("unix_time".parse(), Ok(Action::UnixTime));
        assert_eq!("reboot".parse::<Action>(), Err(()));
        assert_eq!(Action::UnixTime.wrong(10.0, 83), "its clock was 73 s behind");
    }
}
