//! What a GNSS receiver says of its fix and of the time, and how far it may be believed.
//!
//! A receiver without a fix goes on telling a time, from its own quartz or from nothing;
//! so a time counts only while the receiver says that it has a real fix. Nothing here
//! sets a clock: that is for a time service. Times are on any clock that only moves
//! forward; page: `hw-docs/gnss.md`.

use alloc::string::String;
use core::time::Duration;

use super::register::{Quality, Value};

/// What is not said again within this is stale: receivers tell all of it every second.
pub const FRESH: Duration = Duration::from_secs(5);

/// What a fix is of (GGA, field 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fix {
    /// There is none.
    None,
    /// Of satellites alone.
    Gps,
    /// With corrections.
    Differential,
    /// Of the precise service.
    Precise,
    /// Of the carrier's phase.
    Rtk,
    /// The same, not settled yet.
    FloatRtk,
    /// By dead reckoning.
    Estimated,
    /// Typed in.
    Manual,
    /// Of a simulator.
    Simulated,
}

impl Fix {
    /// What is shown.
    pub fn name(self) -> &'static str {
        match self {
            Fix::None => "none",
            Fix::Gps => "gps",
            Fix::Differential => "differential",
            Fix::Precise => "precise",
            Fix::Rtk => "rtk",
            Fix::FloatRtk => "float rtk",
            Fix::Estimated => "estimated",
            Fix::Manual => "manual",
            Fix::Simulated => "simulated",
        }
    }

    /// It is of satellites.
    pub fn is_real(self) -> bool {
        !matches!(self, Fix::None | Fix::Estimated | Fix::Manual | Fix::Simulated)
    }
}

/// What one sentence says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// What the fix is of.
    pub fix: Option<Fix>,
    /// Whether the receiver warns of its own data (RMC, field 2).
    pub is_valid: Option<bool>,
    /// Satellites in use.
    pub satellites: Option<u32>,
    /// Milliseconds since 1970.
    pub unix_ms: Option<i64>,
}

/// One of a receiver's readings.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Its name.
    pub name: &'static str,
    /// The metric it is a point of; empty if of none.
    pub metric: &'static str,
    /// UCUM.
    pub unit: &'static str,
    /// What was said.
    pub value: Option<Value>,
    /// How far it may be believed.
    pub quality: Quality,
}

/// What a receiver said last, each with its time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Receiver {
    fix: Option<(Fix, Duration)>,
    is_valid: Option<(bool, Duration)>,
    satellites: Option<(u32, Duration)>,
    /// Seconds by which its time is ahead of the node's, and whether it had a fix.
    offset: Option<(f64, bool, Duration)>,
}

impl Receiver {
    /// Takes what a sentence said, whose first byte was heard at `at`, when the node's
    /// clock said `node_ms`.
    pub fn hear(&mut self, said: &Said, at: Duration, node_ms: u64) {
        self.fix = said.fix.map(|it| (it, at)).or(self.fix);
        self.is_valid = said.is_valid.map(|it| (it, at)).or(self.is_valid);
        self.satellites = said.satellites.map(|it| (it, at)).or(self.satellites);
        if let Some(unix_ms) = said.unix_ms {
            let offset = (unix_ms as f64 - node_ms as f64) / 1000.0;
            self.offset = Some((offset, self.has_fix(at), at));
        }
    }

    /// Whether it says, and says nowhere otherwise, that it has a real fix.
    fn has_fix(&self, now: Duration) -> bool {
        let fix = self.fix.filter(|(_, at)| now.saturating_sub(*at) <= FRESH);
        let valid = self.is_valid.filter(|(_, at)| now.saturating_sub(*at) <= FRESH);
        let said = [fix.map(|(it, _)| it.is_real()), valid.map(|(it, _)| it)];
        said.contains(&Some(true)) && !said.contains(&Some(false))
    }

    /// All that it says, as far as it may be believed at `now`.
    pub fn readings(&self, now: Duration) -> [Reading; 3] {
        let quality = |good: bool, at: Duration| match good {
            false => Quality::Suspect,
            true if now.saturating_sub(at) > FRESH => Quality::Stale,
            true => Quality::Good,
        };
        let fix = self.fix.map(|(fix, at)| {
            let good = fix.is_real() || fix == Fix::None;
            (Value::Text(String::from(fix.name())), quality(good, at))
        });
        let satellites = self.satellites;
        let satellites = satellites.map(|(it, at)| (Value::Number(it.into()), quality(true, at)));
        let offset = self.offset;
        let offset = offset.map(|(it, good, at)| (Value::Number(it), quality(good, at)));
        let reading = |name, metric, unit, said: Option<(Value, Quality)>| {
            let quality = said.as_ref().map_or(Quality::Bad, |(_, quality)| *quality);
            Reading { name, metric, unit, value: said.map(|(value, _)| value), quality }
        };
        [
            reading("fix", "", "", fix),
            reading("satellites", "purlin.gnss.satellites", "1", satellites),
            reading("time_offset", "purlin.gnss.time_offset", "s", offset),
        ]
    }
}

#[cfg(test)]
mod tests {
    use alloc::{format, vec::Vec};

    use expect_test::{Expect, expect};

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn check(said: &[(u64, Said)], now_s: u64, expected: Expect) {
        let mut receiver = Receiver::default();
        for (at_s, said) in said {
            receiver.hear(said, Duration::from_secs(*at_s), NOW_MS + 1000 * at_s);
        }
        let readings = receiver.readings(Duration::from_secs(now_s));
        let lines =
            readings.iter().map(|it| format!("{} {:?} {:?}", it.name, it.value, it.quality));
        expected.assert_eq(&lines.collect::<Vec<_>>().join("\n"));
    }

    fn time(ahead_ms: i64, is_valid: Option<bool>) -> Said {
        Said { unix_ms: Some(NOW_MS as i64 + ahead_ms), is_valid, ..Said::default() }
    }

    fn fix(fix: Fix) -> Said {
        Said { fix: Some(fix), satellites: Some(9), ..Said::default() }
    }

    #[test]
    fn a_time_is_good_with_a_real_fix_and_only_then() {
        check(
            &[(0, fix(Fix::Gps)), (0, time(7000, Some(true)))],
            1,
            expect![[r#"
                fix Some(Text("gps")) Good
                satellites Some(Number(9.0)) Good
                time_offset Some(Number(7.0)) Good"#]],
        );
        // It warns; it simulates; it has said nothing of a fix.
        for said in [
            &[(0, fix(Fix::Gps)), (0, time(7000, Some(false)))][..],
            &[(0, fix(Fix::Simulated)), (0, time(7000, Some(true)))],
            &[(0, fix(Fix::None)), (0, time(7000, None))],
            &[(0, time(7000, None))],
            &[(0, fix(Fix::Gps)), (6, time(7000, None))],
        ] {
            let mut receiver = Receiver::default();
            said.iter().for_each(|(at, it)| receiver.hear(it, Duration::from_secs(*at), NOW_MS));
            let [.., offset] = receiver.readings(Duration::from_secs(6));
            assert_eq!(offset.quality, Quality::Suspect, "{said:?}");
        }
    }

    #[test]
    fn what_is_not_said_again_is_stale_and_what_never_was_bad() {
        check(
            &[(0, time(-500, Some(true)))],
            6,
            expect![[r#"
                fix None Bad
                satellites None Bad
                time_offset Some(Number(-0.5)) Stale"#]],
        );
    }
}
