//! Kubelet's own cases of taking CPUs, exactly as it takes them, in a notation of ours.
//!
//! From `pkg/kubelet/cm/cpumanager/cpu_assignment_test.go` of Kubernetes: its 16 of packing
//! (at commit b0d609f; later ones add only uncore caches), and its 48 lists of what is free
//! (at 04791b4), of which 43 differ.
//!
//! Not here, because we decide otherwise on purpose, are two options of its static policy:
//! - "distribute-cpus-across-numa" (`takeByTopologyNUMADistributed`) gives a container that
//!   does not fit on one node as many CPUs of each. A workload that wants that is several
//!   of one node each to us, which it can pin its threads and memory to; one that does not
//!   know of nodes is no faster on an even split, and leaves no node whole to others.
//! - "prefer-align-cpus-by-uncorecache": the policy `optimal` does so always.

use super::{
    super::cpus::{Places, take_packed},
    *,
};

/// Its machines: PUs by package, node and core.
fn places(name: &str) -> Places {
    let place = |node, package, core| Place { node, package, l3: node, core, kind: 0 };
    let of = |pu: u32| match name {
        "single" => place(0, 0, pu % 4),
        // Two packages whose cores take turns.
        "dual" => place(pu % 2, pu % 2, pu % 6),
        // Threads side by side, the second package's first.
        "triple" => {
            let package = [1, 0, 2][pu as usize / 6];
            place(package, package, pu / 2)
        }
        // Two packages of two nodes.
        "nodes" => place(pu % 40 / 10, pu % 40 / 20, pu % 40),
        // Two nodes of two packages.
        _ => place(pu % 40 / 20, pu % 40 / 10, pu % 40),
    };
    let count = match name {
        "single" => 8,
        "dual" => 12,
        "triple" => 18,
        _ => 80,
    };
    (0..count).map(|pu| (pu, of(pu))).collect()
}

const TAKEN: &[(&str, &str, usize, &str)] = &[
    ("single", "0,2,4,6", 5, "none"),
    ("single", "0-7", 0, ""),
    ("single", "0-7", 1, "0"),
    ("single", "1,3,5-7", 1, "6"),
    ("single", "0-7", 2, "0,4"),
    ("single", "0-7", 8, "0-7"),
    ("single", "0-3,6", 2, "2,6"),
    ("dual", "0-11", 6, "0,2,4,6,8,10"),
    ("dual", "1-5,7-11", 1, "2"),
    ("dual", "0-11", 8, "0-2,4,6-8,10"),
    ("nodes", "0-79", 40, "0-19,40-59"),
    ("nodes", "0-79", 20, "0-9,40-49"),
    ("nodes", "10-39,50-79", 20, "10-19,50-59"),
    ("nodes", "0-79", 60, "0-29,40-69"),
    ("nodes", "1-39,41-79", 60, "10-39,50-79"),
    ("nodes", "0-79", 64, "0-31,40-71"),
];

#[test]
fn what_kubelet_takes_is_taken() {
    for (machine, free, count, taken) in TAKEN {
        let expected = (*taken != "none").then(|| set(taken));
        let ours = take_packed(&places(machine), &set(free), *count);
        assert_eq!(ours, expected, "{count} of {free} of {machine}");
    }
}

/// The order in which its lists of free groups name them, which is the order in which they
/// are taken one after the other: of packages and of nodes only which there are.
const LISTED: &[(&str, &str, &str, &str)] = &[
    ("package", "single", "0-7", "0"),
    ("package", "single", "1-7", ""),
    ("package", "dual", "0-11", "0 1"),
    ("package", "dual", "0-9,11", "1"),
    ("package", "dual", "0,2-9,11", ""),
    ("package", "nodes", "0-79", "0 1"),
    ("package", "nodes", "1-79", "1"),
    ("package", "nodes", "1-78", ""),
    ("package", "packages", "0-79", "0 1 2 3"),
    ("package", "packages", "0-19,21-79", "0 1 3"),
    ("package", "packages", "0-59,61-78", "0 1"),
    ("package", "packages", "1-19,21-38,41-60,61-78", "1"),
    ("package", "packages", "0-40,42-49,51-68,71-79", ""),
    ("node", "single", "0-7", "0"),
    ("node", "single", "1-7", ""),
    ("node", "dual", "0-11", "0 1"),
    ("node", "dual", "0-9,11", "1"),
    ("node", "dual", "0,2-9,11", ""),
    ("node", "nodes", "0-79", "0 1 2 3"),
    ("node", "nodes", "1-79", "1 2 3"),
    ("node", "nodes", "1-9,11-79", "2 3"),
    ("node", "nodes", "1-9,11-59,61-79", "3"),
    ("node", "nodes", "1-9,11-59,61-78", ""),
    ("node", "packages", "0-79", "0 1"),
    ("node", "packages", "0-9,11-79", "1"),
    ("node", "packages", "0-9,11-59,61-79", ""),
    // Both at once: the others of them are above.
    ("package", "nodes", "1-9,11-79", "1"),
    ("package", "nodes", "1-59,61-79", ""),
    ("node", "nodes", "1-59,61-79", "1 3"),
    ("core", "single", "0-7", "0 1 2 3"),
    ("core", "single", "0-2,4-6", "0 1 2"),
    ("core", "single", "0-6", "0 1 2"),
    ("core", "single", "", ""),
    ("core", "single", "0-3", ""),
    ("core", "dual", "0-11", "0 2 4 1 3 5"),
    ("core", "dual", "1-5,7-11", "2 4 1 3 5"),
    ("core", "dual", "2-5,8-11", "2 4 3 5"),
    ("PU", "single", "0-7", "0 4 1 5 2 6 3 7"),
    ("PU", "single", "3-7", "4 5 6 3 7"),
    ("PU", "dual", "0-11", "0 6 2 8 4 10 1 7 3 9 5 11"),
    ("PU", "dual", "1-11", "6 2 8 4 10 1 7 3 9 5 11"),
    ("PU", "dual", "1-5,7-11", "2 8 4 10 1 7 3 9 5 11"),
    ("PU", "triple", "0-3,6-13", "12 13 0 1 2 3 6 7 8 9 10 11"),
];

#[test]
fn groups_are_used_up_in_kubelets_order() {
    for (kind, machine, free, expected) in LISTED {
        let places = places(machine);
        let of = |pu: u32| match *kind {
            "package" => places[&pu].package,
            "node" => places[&pu].node,
            "core" => places[&pu].core,
            _ => pu,
        };
        let size = places.keys().filter(|pu| of(**pu) == of(0)).count();
        let mut left = set(free);
        let mut listed = Vec::new();
        while let Some(taken) = take_packed(&places, &left, size) {
            let groups: BTreeSet<u32> = taken.iter().map(of).collect();
            let (Some(group), 1) = (groups.first(), groups.len()) else { break };
            listed.push(*group);
            left = left.difference(&taken);
        }
        if matches!(*kind, "package" | "node") {
            listed.sort_unstable();
        }
        let listed: Vec<String> = listed.iter().map(|group| format!("{group}")).collect();
        assert_eq!(listed.join(" "), *expected, "{kind}s of {machine}, {free} free");
    }
}
