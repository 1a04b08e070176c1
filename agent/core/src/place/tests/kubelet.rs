//! Kubelet's own cases of choosing nodes, exactly as it decides them, in a notation of ours.
//!
//! From `pkg/kubelet/cm` of Kubernetes, by file and the commit it was read at:
//! - `topologymanager/policy_test.go` (052ac4f, after 1.34; the scores of hints, which it
//!   has too, are none of ours): 9 cases of merging for every policy, 19 of
//!   "best-effort" and "restricted", 4 with "prefer closest", 11 of "single-numa-node", 7
//!   of how many nodes are needed, 24 of 25 comparisons;
//! - `topologymanager/policy_single_numa_node_test.go` (0ba07e8): 5 of filtering;
//! - `cpumanager/topology_hints_test.go` (025a5a1): 7 of hints.
//!
//! Where two of them differ in nothing but how Go says it (a provider without hints, with
//! none of any resource, with nil), one line stands for both.
//!
//! Not here, because we decide otherwise on purpose:
//! - Hints with "align-by-socket" (an option of its static policy that makes a package what
//!   a node is to it): the policy `optimal` takes the closest nodes, and those are of one
//!   package; the test of that is below.
//! - Hints made again from what a container has already: it asks again after a restart,
//!   while what we have placed stays in the book (`book/tests.rs`).

use alloc::vec::Vec;

use super::{
    super::{
        decide::{Left, nodes_by},
        hint::{Hint, Merged, keep_single, merge, needed, rank},
    },
    *,
};

/// One hint is its nodes, or `*` for any, with `+` if it is preferred; `/` stands between
/// providers, and `!` is one that can serve it nowhere. `all` is every node of four.
const MERGED: &[(&str, &str)] = &[
    ("", "all+"),
    ("*+", "all+"),
    ("*", "all"),
    ("!", "all"),
    ("0+ / 0+", "0+"),
    ("1+ / 1+", "1+"),
    ("*+ / 0+", "0+"),
    ("*+ / 1+", "1+"),
    ("0+ 1+ / 0+", "0+"),
    ("0+ 1+ / 1+", "1+"),
    ("0+ 1+ / 0+ 01", "0+"),
    ("1+ 01 / 0+ 1+ 01", "1+"),
    ("01+ 02+ / 01+ 02+", "01+"),
    ("0+ / 1+", "all"),
    ("0+ / 0", "0"),
    ("1+ / 1", "1"),
    ("0+ / 01+", "0"),
    ("1+ / 01+", "1"),
    ("0+ 1+ / 01", "0"),
    ("0123 01 / 01", "01"),
    ("0123 01 / 03", "03"),
    ("0123 01 / 12", "12"),
    ("0123 01 / 23", "23"),
];

/// Where nothing but the kernel's order tells the sets apart.
const NARROWEST: &[(&str, &str)] = &[("0123 01 / 12 23", "12"), ("0123 01 / 123 12 13 23", "12")];

/// With "prefer closest", on eight nodes in two halves of two pairs each.
const CLOSEST: &[(&str, &str)] = &[
    ("04+ 02+ / 04+ 02+", "02+"),
    ("4+ 02+ / 4+ 02+", "4+"),
    ("0123 01 / 12 23", "23"),
    ("0123 01 / 123 12 13 23", "23"),
];

/// With the policy "single-numa-node", on two nodes; `no` is not admitted.
const SINGLE: &[(&str, &str)] = &[
    ("0+ / 0+", "0"),
    ("1+ / 1+", "1"),
    ("*+ / 0+", "0"),
    ("*+ / 1+", "1"),
    ("0+ 1+ / 0+", "0"),
    ("0+ 1+ / 1+", "1"),
    ("0+ 1+ / 0+ 01", "0"),
    ("1+ 01 / 0+ 1+ 01", "1"),
    ("", "all"),
    ("*+", "all"),
    ("!", "no"),
    ("*", "no"),
    ("0+ / 1+", "no"),
    ("0+ / 0", "no"),
    ("1+ / 1", "no"),
    ("0+ 1+ / 01", "no"),
    ("01+ / 0+ 1+ 01", "no"),
    ("0+ 1+ 01 / *+", "0"),
];

/// What "single-numa-node" leaves of the hints.
const FILTERED: &[(&str, &str)] = &[
    ("", ""),
    ("* / *+", "! / *+"),
    ("0+ * / 1+ *+", "0+ / 1+ *+"),
    ("1+ 0+ * / !", "1+ 0+ / !"),
    ("0+ 1+ 12 012 * / 12 012 02 3 / 12 012 02", "0+ 1+ / ! / !"),
];

/// How many nodes the neediest provider needs; `-` is a hint with no node.
const NEEDED: &[(&str, u32)] = &[
    ("", 0),
    ("-+", 0),
    ("0+", 1),
    ("01+", 2),
    ("01+ 012+", 2),
    ("01+ 012+ / 012+", 3),
    ("01+ 012+ / 012+ 0123+", 3),
];

/// One provider whose hints are compared.
const ALONE: &[(&str, &str)] = &[
    ("-", "all"),
    ("0+", "0+"),
    ("0", "0"),
    ("0 0+", "0+"),
    ("0+ 0", "0+"),
    ("0+ 0+", "0+"),
    ("01+ 0+", "0+"),
    ("0+ 01+", "0+"),
];

/// Two sets that are not preferred, where so many nodes are needed: whether the second is
/// taken for the first.
const COMPARED: &[(u32, &str, &str, bool)] = &[
    (1, "01", "01", false),
    (1, "12", "01", true),
    (1, "01", "12", false),
    (2, "01", "0", false),
    (2, "01", "01", false),
    (2, "12", "01", true),
    (2, "01", "12", false),
    (2, "0", "012", false),
    (2, "0", "01", true),
    (3, "0", "01", true),
    (3, "0", "12", true),
    (4, "01", "123", true),
    (4, "123", "01", false),
    (4, "012", "012", false),
    (4, "012", "123", false),
    (4, "123", "012", true),
];

pub(super) fn nodes(text: &str) -> Nodes {
    text.chars().filter_map(|digit| digit.to_digit(10)).collect()
}

pub(super) fn hints(text: &str) -> Vec<Vec<Hint>> {
    let parse = |text: &str| {
        let (named, preferred) = (text.trim_end_matches('+'), text.ends_with('+'));
        Hint { nodes: (named != "*").then(|| nodes(named)), preferred }
    };
    let provider =
        |text: &str| text.split_whitespace().filter(|it| *it != "!").map(parse).collect();
    text.split('/').filter(|text| !text.trim().is_empty()).map(provider).collect()
}

#[track_caller]
fn check_merged(count: u32, (given, merged): &(&str, &str), distances: Option<&Distances>) {
    let all: Nodes = (0..count).collect();
    let preferred = merged.ends_with('+');
    let chosen = if merged.starts_with("all") { all } else { nodes(merged) };
    let expected = Merged { nodes: chosen, preferred };
    assert_eq!(merge(all, &hints(given), distances), expected, "{given}");
    if distances.is_none() {
        // Whether it is admitted.
        let by = |policy| nodes_by(policy, hints(given), all).ok();
        assert_eq!(by(Policy::None), Some(all), "{given}");
        assert_eq!(by(Policy::BestEffort), Some(chosen), "{given}");
        assert_eq!(by(Policy::Restricted), preferred.then_some(chosen), "{given}");
    }
}

#[test]
fn what_kubelet_merges_is_merged_and_admitted_alike() {
    MERGED.iter().chain(NARROWEST).chain(ALONE).for_each(|case| check_merged(4, case, None));
    let far = |one: u32, other: u32| match one ^ other {
        0 => 10,
        1 if (one, other) == (7, 6) => 13,
        1 => 11,
        2 | 3 => 12,
        _ => 30,
    };
    let distances = Distances::new(8, far);
    MERGED.iter().chain(CLOSEST).for_each(|case| check_merged(8, case, Some(&distances)));
}

#[test]
fn what_kubelet_admits_on_a_single_node_is_admitted() {
    let all: Nodes = (0..2).collect();
    for (given, chosen) in SINGLE {
        let chosen = match *chosen {
            "no" => None,
            "all" => Some(all),
            chosen => Some(nodes(chosen)),
        };
        let admitted = nodes_by(Policy::SingleNumaNode, hints(given), all).ok();
        assert_eq!(admitted, chosen, "{given}");
    }
    for (given, left) in FILTERED {
        let mut given = hints(given);
        given.iter_mut().for_each(keep_single);
        assert_eq!(given, hints(left));
    }
}

#[test]
fn what_kubelet_counts_as_needed_and_takes_for_better_is_so() {
    let all: Nodes = (0..4).collect();
    for (given, count) in NEEDED {
        assert_eq!(needed(all, &hints(given)), *count, "{given}");
    }
    let key = |set: &str, needed| (rank(nodes(set), needed), nodes(set).len(), nodes(set).bits());
    for (needed, current, candidate, better) in COMPARED {
        let taken = key(candidate, *needed) < key(current, *needed);
        assert_eq!(taken, *better, "{candidate} for {current} where {needed} are needed");
    }
}

/// PUs asked for, those that are free, and the hints that come of it: on two nodes of
/// three cores of two threads, then on four nodes of ten.
const FREE: &[(u32, usize, &str, &str)] = &[
    (3, 2, "2-11", "0+ 1+ 01"),
    (3, 5, "2-11", "1+ 01"),
    (3, 7, "2-11", "01+"),
    (3, 11, "2-11", "!"),
    (3, 2, "0,3", "01"),
    (3, 5, "0-3", "!"),
    (10, 2, "2-3,11", "0+ 01 02 012 03 013 023 0123"),
];

#[test]
fn the_hints_that_kubelet_makes_of_free_cpus_are_made() {
    for (cores, count, free, expected) in FREE {
        let machine = machine(if *cores == 3 { 2 } else { 4 }, 1, *cores, Vec::new());
        let all: IdSet = machine.pus.keys().copied().collect();
        let taken = Some(all.difference(&set(free)));
        let other = Placement { exclusive: taken, ..Placement::default() };
        let placed = Placed::from([("other".into(), (Request::default(), other))]);
        let reserved = IdSet::default();
        let situation = Situation { machine: &machine, placed: &placed, reserved: &reserved };
        let resources = Left::new(&situation).resources(&exclusive(*count));
        let made: Vec<Vec<Hint>> = resources.iter().map(|it| it.hints(machine.all())).collect();
        assert_eq!(made, hints(expected), "{count} of {free}");
    }
}

#[test]
fn nodes_of_one_package_are_taken_together() {
    // Two packages of two nodes of four PUs.
    let mut machine = machine(4, 1, 2, Vec::new());
    machine.pus.values_mut().for_each(|place| place.package = place.node / 2);
    machine.distances = Distances::new(4, |one, other| match one ^ other {
        0 => 10,
        1 => 12,
        _ => 21,
    });
    let taken = |cpus: &str| Placement { exclusive: Some(set(cpus)), ..Placement::default() };
    for (busy, nodes) in [("", "0-1"), ("0", "2-3"), ("4", "0-1")] {
        let placed = Placed::from([("other".into(), (Request::default(), taken(busy)))]);
        let decision = ask(&machine, &placed, &exclusive(8)).expect("room");
        assert_eq!(decision.placement.nodes, set(nodes), "without {busy}");
    }
}
