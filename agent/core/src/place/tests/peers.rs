//! The cases of others who place: what fits for them fits for us, and what we choose is no
//! worse than what they expect, by our objective.
//!
//! - Koordinator (08ce593), `pkg/scheduler/plugins/nodenumaresource/
//!   cpu_accumulator_test.go`: its 38 cases of taking CPUs (whole cores, spread, both with
//!   "most" and "least allocated", exclusive by core and by node). Its spread over cores
//!   and its exclusive cores have no equal here, and are worse by our objective; the cases
//!   ask us for the same number. Not here: CPUs that several may have at once ("max ref
//!   count"), which ours are not.
//! - nri-plugins (0669398), `pkg/cpuallocator/cpuallocator_test.go`: 18 of its 19 cases.
//!   Its kinds of cores are asked for by leaving no others free. Not here: one that prefers
//!   CPUs of high priority, which a request can't name.
//! - nri-plugins (011984d), `pkg/resmgr/lib/memory/allocator_test.go`: 25 of the 29 of
//!   `TestAllocate`. Its requests name the nodes, and who is of a lower class is moved;
//!   ours choose the nodes, and a placement moves nobody. Not here: wrong arguments of its
//!   own, and kinds of memory, which a request can't name. The ordinary
//!   memory of its `TestStrictAllocation` (3 of 5) and `TestPreservedAllocation` (6) is
//!   asked for in the same sequences; ours preserve everybody, since they move nobody.

use super::*;

/// What is wrong with our answer to a request for so many of the free PUs.
fn worse(machine: &Machine, free: &IdSet, count: usize, theirs: Option<&IdSet>) -> Option<String> {
    let all: IdSet = machine.pus.keys().copied().collect();
    let other = Placement { exclusive: Some(all.difference(free)), ..Placement::default() };
    let placed = Placed::from([("other".into(), (Request::default(), other))]);
    let ours = ask(machine, &placed, &exclusive(count));
    let (Ok(ours), Some(theirs)) = (&ours, theirs) else {
        return (ours.is_ok() != theirs.is_some()).then(|| format!("{ours:?}"));
    };
    let taken = ours.placement.exclusive.as_ref().expect("PUs");
    let worth = |taken: &IdSet| {
        let list: Vec<u32> = taken.iter().collect();
        let nodes = list.iter().map(|pu| machine.pus[pu].node).collect();
        score(machine, nodes, free, &list, 0)
    };
    let fits = |taken: &IdSet| taken.len() == count && taken.is_subset(free);
    assert!(fits(theirs), "{theirs:?} is a mistake in the table");
    let worse = worth(taken) > worth(theirs);
    (!fits(taken) || worse || Some(worth(taken)) != ours.why.score).then(|| format!("{ours:?}"))
}

/// Packages, nodes each, cores each with two threads beside each other; what is taken; how
/// many are asked for; what Koordinator gives.
const KOORDINATOR: &[([u32; 3], &str, usize, &str)] = &[
    // Whole cores, the fullest node first.
    ([1, 1, 4], "", 2, "0-1"),
    ([1, 1, 4], "0-1", 2, "2-3"),
    ([2, 1, 4], "", 8, "0-7"),
    ([2, 1, 4], "", 12, "0-11"),
    ([2, 1, 4], "0-1", 8, "8-15"),
    ([2, 2, 4], "0-5,16-23", 6, "24-29"),
    ([2, 2, 4], "0-5,16-23", 12, "6-15,24-25"),
    ([2, 2, 4], "0-3,8-11", 4, "4-7"),
    ([2, 2, 2], "0,2,4,8,12", 4, "10-11,14-15"),
    ([2, 2, 2], "0,2,4,8,10,12", 6, "5-7,13-15"),
    ([2, 2, 2], "0,2,4,8-10,12", 6, "6-7,11,13-15"),
    // Whole cores, the emptiest first.
    ([1, 1, 4], "", 2, "0-1"),
    ([1, 1, 4], "0-1", 2, "2-3"),
    ([2, 1, 4], "", 8, "0-7"),
    ([2, 1, 4], "", 12, "0-11"),
    ([2, 1, 4], "0-1", 8, "8-15"),
    ([2, 2, 4], "0-5,16-23", 6, "8-13"),
    ([2, 2, 4], "0-5,16-23", 12, "6-15,24-25"),
    ([2, 2, 4], "0-3,8-11", 4, "16-19"),
    ([2, 2, 2], "0,2,4,8,12", 4, "10-11,14-15"),
    ([2, 2, 2], "0,2,4,8,10,12", 6, "1,3,6-7,14-15"),
    ([2, 2, 4], "0,2,4,8-10,12", 6, "16-21"),
    // Spread over cores, the fullest first, then the emptiest.
    ([1, 1, 4], "", 4, "0,2,4,6"),
    ([2, 1, 4], "0,2", 4, "1,3,4,6"),
    ([2, 1, 4], "0-3", 4, "8,10,12,14"),
    ([2, 1, 4], "0,2", 6, "1,3-7"),
    ([1, 1, 4], "", 4, "0,2,4,6"),
    ([2, 1, 4], "0,2", 4, "8,10,12,14"),
    ([2, 1, 4], "0-3", 4, "8,10,12,14"),
    ([2, 1, 4], "0,2", 6, "8-12,14"),
    // Exclusive, by core and by node.
    ([2, 1, 4], "0,2", 4, "8,10,12,14"),
    ([2, 1, 4], "", 10, "0-4,6,8,10,12,14"),
    ([2, 1, 8], "0,2", 4, "4,6,8,10"),
    ([2, 1, 8], "0,2", 4, "1,3,4,6"),
    ([2, 1, 4], "0,2", 4, "8,10,12,14"),
    ([2, 1, 4], "0,2", 4, "1,3,4,6"),
    ([2, 1, 4], "0,2", 4, "8-11"),
    ([2, 1, 4], "0,2", 4, "4-7"),
];

#[test]
fn koordinator_finds_nothing_better() {
    for (shape, taken, count, theirs) in KOORDINATOR {
        let [packages, nodes, cores] = *shape;
        let all = packages * nodes * cores;
        let place = |pu: u32| {
            let (core, node) = (pu / 2, pu / 2 / cores);
            (pu, Place { node, package: node / nodes, l3: node, core, kind: 0 })
        };
        let machine = Machine {
            pus: (0..2 * all).map(place).collect(),
            ..machine_of(packages * nodes, 1, cores, 2)
        };
        let free: IdSet = machine.pus.keys().copied().collect::<IdSet>().difference(&set(taken));
        let wrong = worse(&machine, &free, *count, Some(&set(theirs)));
        assert_eq!(wrong, None, "{count} of {shape:?} without {taken}, where {theirs} is taken");
    }
}

/// The clusters of PUs that share a cache, by package, as nri-plugins makes them up on a
/// machine of two packages; those after `E` are of efficient cores.
const CLUSTERS: [[&str; 2]; 2] = [
    [
        "0-3 4-7 8-11 12-15 40-43 44-47 48-51 52-55 E 16-19 56-59",
        "20,22,24,26 21,23,25,27 28-31 32-35 60-63 64-67 68-71 72-75 E 36-39 76-79",
    ],
    [
        "0-3 4-7 8-11 12-15 40-43 44-47 48-51 52-55 E 16-19 56-59",
        "20,22,24,26 21,23,25,27 28-31 32-35 38-39 60-63 64-67 68-71 72-75 E 36-37 76-79",
    ],
];

/// Which clusters; what is free: a list, all there are, or the cores of one kind; how many
/// are asked for; what nri-plugins gives, or nothing.
const CPU_ALLOCATOR: &[(usize, &str, usize, Option<&str>)] = &[
    (0, "2-3,10-14,20", 9, None),
    (0, "2-3,10-14,20", 8, Some("2-3,10-14,20")),
    (0, "0-19,40-59", 4, Some("0-3")),
    (0, "0-19,40-59", 8, Some("0-7")),
    (0, "0-19,40-59", 16, Some("0-15")),
    (0, "0-19,40-59", 40, Some("0-19,40-59")),
    (0, "0-79", 44, Some("0-20,22,24,26,40-59")),
    (0, "0-79", 48, Some("0-27,40-59")),
    (0, "P", 4, Some("0-3")),
    (0, "P", 8, Some("0-7")),
    (0, "P", 32, Some("0-15,40-55")),
    (0, "E", 4, Some("16-19")),
    (0, "E", 8, Some("16-19,56-59")),
    (0, "P", 36, Some("0-15,20,22,24,26,40-55")),
    (0, "P", 40, Some("0-15,20-27,40-55")),
    (1, "E", 2, Some("36-37")),
    (1, "E", 6, Some("36-37,76-79")),
    (1, "E", 8, Some("16-19,56-59")),
];

#[test]
fn the_cpu_allocator_of_nri_plugins_finds_nothing_better() {
    for (clusters, from, count, theirs) in CPU_ALLOCATOR {
        let (mut machine, mut l3) = (machine_of(2, 1, 40, 1), 0);
        let mut kinds = [IdSet::default(), IdSet::default()];
        for (node, text) in (0..).zip(CLUSTERS[*clusters]) {
            let mut kind = 0;
            for cluster in text.split_whitespace() {
                if cluster == "E" {
                    kind = 1;
                    continue;
                }
                for pu in set(cluster).iter() {
                    kinds[kind].insert(pu);
                    // Its clusters take the threads of a core apart, so they are cores here.
                    machine.pus.insert(pu, Place { node, package: node, l3, core: pu, kind: 0 });
                }
                l3 += 1;
            }
        }
        let free = match *from {
            "P" => kinds[0].clone(),
            "E" => kinds[1].clone(),
            list => set(list),
        };
        let wrong = worse(&machine, &free, *count, theirs.map(set).as_ref());
        assert_eq!(wrong, None, "{count} of {from}, where {theirs:?} is taken");
    }
}

/// How far its eight nodes of four bytes are from each other.
const DISTANCES: [[u32; 8]; 8] = [
    [10, 21, 11, 21, 17, 28, 28, 28],
    [21, 10, 21, 11, 28, 28, 17, 28],
    [11, 21, 10, 21, 28, 17, 28, 28],
    [21, 11, 21, 10, 28, 28, 28, 17],
    [17, 28, 28, 28, 10, 28, 28, 28],
    [28, 28, 17, 28, 28, 10, 28, 28],
    [28, 17, 28, 28, 28, 28, 10, 28],
    [28, 28, 28, 17, 28, 28, 28, 10],
];

/// One after the other, bytes and the nodes that nri-plugins gives them; then all go.
const MEMORY: &[&[(u64, Option<&str>)]] = &[
    &[
        (33, None),
        (2, Some("0")),
        (2, Some("2")),
        (2, Some("0")),
        (2, Some("2")),
        (2, Some("0")),
        (2, Some("2")),
        (2, Some("0")),
        (2, Some("2")),
        (2, Some("1")),
        (2, Some("3")),
        (2, Some("1")),
        (2, Some("3")),
        (2, Some("1")),
    ],
    &[(6, Some("0,2")), (3, Some("0"))],
    &[(4, Some("0,2")), (4, Some("0,2")), (1, Some("0"))],
    &[(8, Some("0-3")), (8, Some("0-3")), (1, Some("0"))],
    &[(4, Some("0")), (4, Some("0,2")), (1, Some("0,2"))],
];

#[test]
fn the_memory_allocator_of_nri_plugins_finds_nothing_better() {
    let mut machine = machine_of(8, 1, 2, 1);
    machine.nodes.iter_mut().for_each(|node| node.memory = 4);
    machine.distances = Distances::new(8, |from, to| DISTANCES[from as usize][to as usize]);
    for sequence in MEMORY {
        let mut placed = Placed::new();
        for (number, (memory, theirs)) in sequence.iter().enumerate() {
            let request = Request { memory: *memory, ..Request::default() };
            let Ok(decision) = ask(&machine, &placed, &request) else {
                assert_eq!(*theirs, None, "{memory} bytes, the {number}th");
                continue;
            };
            let theirs = theirs.map(|nodes| machine.numbers(&set(nodes))).expect("it fits");
            let score = decision.why.score.expect("a score");
            let worth = (theirs.len(), machine.distances.mean(theirs));
            assert!((score.nodes, score.distance) <= worth, "{decision:?}, {theirs:?}");
            placed.insert(format!("{number}"), (request, decision.placement));
        }
    }
}
