//! Device interrupts: on which CPUs each may arrive, and where it should.
//!
//! Source: Documentation/core-api/irq/irq-affinity.rst.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::idset::IdSet;

/// Every interrupt that a device uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupts {
    /// Where a new one may arrive.
    pub default: Option<IdSet>,
    /// By number.
    pub all: Vec<Interrupt>,
}

/// One.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {
    /// Its number in Linux, which is given anew at each boot and plug.
    pub irq: u32,
    /// What its driver calls it, e.g. `eth0-rx-1`.
    pub name: String,
    /// The node of its device, if it has one.
    pub node: Option<u32>,
    /// Where it may arrive.
    pub allowed: IdSet,
}

/// Where one may arrive from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// Which; `None` for those that are new.
    pub irq: Option<u32>,
    /// CPUs.
    pub cpus: IdSet,
}

/// What interrupts have to keep to.
#[derive(Debug)]
pub struct Rule<'a> {
    /// CPUs that are online.
    pub online: &'a IdSet,
    /// CPUs that no interrupt may arrive at.
    pub off: &'a IdSet,
    /// CPUs of each node, by its id.
    pub nodes: &'a [(u32, IdSet)],
}

/// What we made of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What its driver called it then: a number may have gone to another.
    pub name: String,
    /// Where it was allowed before.
    pub original: IdSet,
    /// Where we put it.
    pub put: IdSet,
}

impl Rule<'_> {
    /// Where an interrupt is to be put; `None` if it is well where it is. What its driver
    /// or anyone else chose is left as far as it keeps to the rule.
    pub fn next(&self, it: &Interrupt, held: Option<&Held>) -> Option<IdSet> {
        let near = self.nodes.iter().find(|(id, _)| Some(*id) == it.node);
        let near = near.map(|(_, cpus)| cpus.intersection(&self.free()));
        let to = near.filter(|near| !near.is_empty()).unwrap_or_else(|| self.free());
        next(&it.allowed.intersection(self.online), held, &to)
    }

    /// The same for those that are new.
    pub fn next_default(&self, now: &IdSet, held: Option<&Held>) -> Option<IdSet> {
        next(&now.intersection(self.online), held, &self.free())
    }

    fn free(&self) -> IdSet {
        self.online.difference(self.off)
    }
}

fn next(now: &IdSet, held: Option<&Held>, to: &IdSet) -> Option<IdSet> {
    let kept = held.map_or(now, |held| &held.original).intersection(to);
    let want = if kept.is_empty() { to.clone() } else { kept };
    // Where we put it ourselves, it has back what has become free.
    let is_ours = held.is_some_and(|held| held.put == *now);
    let is_well = !now.is_empty() && now.is_subset(to) && !is_ours;
    (!is_well && want != *now && !want.is_empty()).then_some(want)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &str) -> IdSet {
        IdSet::parse(list).expect("a list")
    }

    /// Eight CPUs on two nodes.
    #[track_caller]
    fn check_off(off: &str, it: &Interrupt, held: Option<&Held>, expected: Option<&str>) {
        let nodes = [(0, set("0-3")), (1, set("4-7"))];
        let rule = Rule { online: &set("0-7"), off: &set(off), nodes: &nodes };
        assert_eq!(rule.next(it, held), expected.map(set), "{it:?} off {off}");
    }

    fn interrupt(node: Option<u32>, allowed: &str) -> Interrupt {
        Interrupt { irq: 1, name: String::new(), node, allowed: set(allowed) }
    }

    #[track_caller]
    fn check(node: Option<u32>, allowed: &str, expected: Option<&str>) {
        check_off("2-3", &interrupt(node, allowed), None, expected);
    }

    #[test]
    fn an_interrupt_is_off_exclusive_cpus_and_on_the_node_of_its_device() {
        check(Some(1), "0-7", Some("4-7"));
        check(Some(0), "0-7", Some("0-1"));
        check(Some(0), "2", Some("0-1"));
        check(None, "0-7", Some("0-1,4-7"));
        check(Some(9), "0-7", Some("0-1,4-7"));
    }

    #[test]
    fn another_ones_choice_is_left_as_far_as_it_goes() {
        check(Some(0), "1", None);
        check(Some(1), "5-6", None);
        check(Some(1), "2,6", Some("6"));
        // CPUs that are not there tell nothing.
        check(Some(0), "0-1,8-63", None);
    }

    #[test]
    fn a_node_without_a_free_cpu_is_no_reason_to_be_nowhere() {
        check_off("4-7", &interrupt(Some(1), "4"), None, Some("0-3"));
        check_off("0-7", &interrupt(Some(1), "4"), None, None);
    }

    #[test]
    fn what_becomes_free_is_given_back() {
        let held = Held { name: String::new(), original: set("0-7"), put: set("0-1") };
        check_off("2-3", &interrupt(Some(0), "0-1"), Some(&held), None);
        check_off("3", &interrupt(Some(0), "0-1"), Some(&held), Some("0-2"));
        // Someone chose among what is allowed.
        check_off("3", &interrupt(Some(0), "1"), Some(&held), None);
        check_off("0-1", &interrupt(Some(0), "0-1"), Some(&held), Some("2-3"));
    }
}
