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

impl Rule<'_> {
    /// Where an interrupt should be allowed; `None` if that is where it is. A driver that
    /// spread its queues over CPUs is left its choice as far as that goes.
    pub fn wants(&self, it: &Interrupt) -> Option<IdSet> {
        let free = self.online.difference(self.off);
        let near = self.nodes.iter().find(|(id, _)| Some(*id) == it.node);
        let near = near.map(|(_, cpus)| cpus.intersection(&free)).filter(|it| !it.is_empty());
        self.narrowed(&it.allowed, &near.unwrap_or(free))
    }

    /// The same for those that are new: all that is free.
    pub fn default(&self, now: &IdSet) -> Option<IdSet> {
        self.narrowed(now, &self.online.difference(self.off))
    }

    fn narrowed(&self, now: &IdSet, to: &IdSet) -> Option<IdSet> {
        let now = now.intersection(self.online);
        let kept = now.intersection(to);
        let want = if kept.is_empty() { to } else { &kept };
        (*want != now && !want.is_empty()).then(|| want.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &str) -> IdSet {
        IdSet::parse(list).expect("a list")
    }

    /// Eight CPUs on two nodes, 2-3 taken.
    #[track_caller]
    fn check(node: Option<u32>, allowed: &str, expected: Option<&str>) {
        let nodes = [(0, set("0-3")), (1, set("4-7"))];
        let rule = Rule { online: &set("0-7"), off: &set("2-3"), nodes: &nodes };
        let it = Interrupt { irq: 1, name: String::new(), node, allowed: set(allowed) };
        assert_eq!(rule.wants(&it), expected.map(set), "{node:?} {allowed}");
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
    fn a_drivers_own_choice_is_left_as_far_as_it_goes() {
        check(Some(0), "1", None);
        check(Some(1), "5-6", None);
        check(Some(1), "2,6", Some("6"));
        // CPUs that are not there tell nothing.
        check(Some(0), "0-1,8-63", None);
    }

    #[test]
    fn a_node_without_a_free_cpu_is_no_reason_to_be_nowhere() {
        let nodes = [(0, set("0-3")), (1, set("4-7"))];
        let rule = Rule { online: &set("0-7"), off: &set("4-7"), nodes: &nodes };
        let it = Interrupt { node: Some(1), allowed: set("4"), ..Interrupt::default() };
        assert_eq!(rule.wants(&it), Some(set("0-3")));
        let rule = Rule { off: &set("0-7"), ..rule };
        assert_eq!(rule.wants(&it), None);
    }
}
