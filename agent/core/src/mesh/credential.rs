//! Whether a certificate is good now, where the clock may be wrong and nobody can be asked.
//!
//! A certificate that is out of its time is refused only by a clock that somebody else
//! agrees with, and only after a grace: a node that was switched off for weeks, or whose
//! battery is empty, stays in its rack. Who is really to stay out is named in a list that
//! the rack's authority has signed, which needs no clock.

use alloc::{string::String, vec::Vec};

use super::spiffe::Id;

/// How far ahead of the latest time that is sure a clock that nobody agrees with may be.
/// A node comes out of its box after a year; a clock that is further ahead has jumped.
const PLAUSIBLE_S: u64 = 400 * 86_400;

/// From when until when a certificate is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Window {
    pub from: u64,
    pub until: u64,
}

impl Window {
    /// When it is time for the next one: at half of its life.
    pub fn renew_at(&self) -> u64 {
        self.from + (self.until.saturating_sub(self.from)) / 2
    }

    /// How far out of it a time is, in seconds.
    pub fn out_by(&self, now: u64) -> u64 {
        self.from.saturating_sub(now).max(now.saturating_sub(self.until))
    }

    /// What both have in common.
    pub fn and(&self, other: Window) -> Option<Window> {
        let both = Window { from: self.from.max(other.from), until: self.until.min(other.until) };
        (both.from <= both.until).then_some(both)
    }
}

/// The time as a node has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Seconds since 1970.
    pub unix_s: u64,
    /// Whether a time service, or another node, agrees.
    pub is_sure: bool,
    /// Whether it may be any time from then on: the clock shows what can't be.
    pub is_least: bool,
}

impl Now {
    /// From a clock, whether a time service or most other nodes have the same, and the
    /// latest time that is surely past. A whole rack without batteries agrees on 1970.
    pub fn judged(clock: u64, is_served: bool, peers_agree: bool, past: u64) -> Self {
        let is_plausible = (past..=past.saturating_add(PLAUSIBLE_S)).contains(&clock);
        let is_least = !(is_served || is_plausible);
        let unix_s = if is_least { past } else { clock };
        Self { unix_s, is_sure: is_served || is_plausible && peers_agree, is_least }
    }

    /// The time as it was when it was sure last, and what has gone by since, while it isn't.
    pub fn or_held(self, held: Option<u64>) -> Self {
        match held {
            Some(unix_s) if !self.is_sure => Self { unix_s, is_sure: false, is_least: false },
            _ => self,
        }
    }

    /// By how much a certificate is out of its time, if it is good all the same; else why
    /// not, in seconds too.
    pub fn admits(&self, window: Window, grace_s: u64) -> Result<u64, u64> {
        let out_by = window.out_by(self.unix_s);
        if self.is_sure && out_by > grace_s { Err(out_by) } else { Ok(out_by) }
    }
}

/// Nodes whose certificates are worth nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Grows with each list.
    pub number: u64,
    /// When it was signed: a time that is surely past.
    pub issued: u64,
    /// A node, and the time before which what it was given is worth nothing, in seconds
    /// since 1970.
    pub nodes: Vec<(String, u64)>,
}

impl Revocations {
    /// Whether a certificate that is good from `from` on is on it. That of a node's issuer
    /// goes with the node, and all that it has vouched for.
    pub fn covers(&self, id: &Id, from: u64) -> bool {
        self.before(id).is_some_and(|before| from < before)
    }

    /// The time before which what somebody was given is worth nothing.
    pub fn before(&self, id: &Id) -> Option<u64> {
        let node = id.node()?;
        self.nodes.iter().find(|(revoked, _)| revoked == node).map(|(_, before)| *before)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const DAY: u64 = 86_400;
    const YEAR_2026: u64 = 20_454 * DAY;
    const GRACE: u64 = 30 * DAY;

    fn month() -> Window {
        Window { from: YEAR_2026, until: YEAR_2026 + 30 * DAY }
    }

    #[test]
    fn one_that_merely_expired_is_good_for_the_grace_and_by_a_lonely_clock_for_ever() {
        let admits = |clock, is_sure| {
            Now::judged(clock, is_sure, false, YEAR_2026).admits(month(), GRACE).map(|it| it / DAY)
        };
        assert_eq!(admits(YEAR_2026 + 3 * DAY, true), Ok(0));
        assert_eq!(admits(YEAR_2026 + 59 * DAY, true), Ok(29), "within the grace");
        assert_eq!(admits(YEAR_2026 + 61 * DAY, true), Err(31 * DAY), "beyond it");
        assert_eq!(admits(YEAR_2026 + 61 * DAY, false), Ok(31), "nobody agrees");
        assert_eq!(admits(YEAR_2026 - 31 * DAY, true), Err(31 * DAY), "not yet");
    }

    #[test]
    fn a_clock_that_jumped_is_not_the_time() {
        let at = |clock, is_sure| Now::judged(clock, is_sure, true, YEAR_2026).unix_s;
        let is_sure = |clock| Now::judged(clock, false, true, YEAR_2026).is_sure;
        assert!(is_sure(YEAR_2026 + DAY) && !is_sure(5), "a rack without batteries");
        assert_eq!(at(5, false), YEAR_2026, "an empty battery");
        assert_eq!(at(YEAR_2026 + 20 * 365 * DAY, false), YEAR_2026, "a jump ahead");
        assert_eq!(at(YEAR_2026 + 20 * 365 * DAY, true), YEAR_2026 + 20 * 365 * DAY);
        assert_eq!(at(YEAR_2026 + 90 * DAY, false), YEAR_2026 + 90 * DAY, "out of its box");
    }

    #[test]
    fn what_was_sure_last_goes_on_until_something_else_is() {
        let judged = |clock, is_served| Now::judged(clock, is_served, false, YEAR_2026);
        let held = Some(YEAR_2026 + DAY);
        let jumped = judged(YEAR_2026 + 90 * DAY, false).or_held(held);
        assert_eq!((jumped.unix_s, jumped.is_sure), (YEAR_2026 + DAY, false));
        let empty = judged(5, false);
        assert!(empty.is_least && !empty.or_held(held).is_least);
        assert_eq!(judged(YEAR_2026 + 90 * DAY, true).or_held(held).unix_s, YEAR_2026 + 90 * DAY);
    }

    #[test]
    fn half_of_its_life_is_time_for_the_next() {
        assert_eq!(month().renew_at(), YEAR_2026 + 15 * DAY);
        assert_eq!(month().and(Window { from: 0, until: YEAR_2026 - 1 }), None);
    }

    #[test]
    fn a_node_that_is_revoked_may_be_given_another_certificate() {
        let list = Revocations { number: 1, issued: 100, nodes: vec![("a".into(), 100)] };
        let id = |text| Id::parse(text).expect("a name");
        assert!(list.covers(&id("spiffe://r/node/a"), 99));
        assert!(list.covers(&id("spiffe://r/issuer/a"), 99), "and its issuer");
        assert!(list.covers(&id("spiffe://r/node/a/service/s"), 99));
        assert!(!list.covers(&id("spiffe://r/node/a"), 100), "given after that");
        assert!(!list.covers(&id("spiffe://r/node/ab"), 99) && !list.covers(&id("spiffe://r"), 0));
    }
}
