//! Koordinator's cases of merging hints and of devices that belong together (a7a1b76): what
//! it admits we admit, and what we choose is no worse by our objective.
//!
//! - `pkg/scheduler/frameworkext/topologymanager/policy_test.go`: its 48 cases of merging,
//!   23 with each of "best-effort" and "restricted" and 22 with "single-numa-node". Where
//!   hints have nothing preferred in common its "best-effort" takes the whole machine; ours
//!   is kubelet's, and takes no more nodes. Its 5 cases of filtering are kubelet's.
//! - `pkg/scheduler/plugins/deviceshare/topology_hint_test.go`: its 8 cases of hints.
//! - `device_allocator_test.go` and `allocator_gpu_test.go` there: 25 of the 29 cases of
//!   GPUs with the VFs beside them, of which 14 differ, and its 5 by a required scope.
//!
//! Not here: a PCIe switch that one workload has for itself alone ("exclusive policy",
//! which changes 1 case; `checkExclusivePolicy`, 11 of whole nodes), since it would leave
//! devices to nobody on a node that has few; machines that tell no topology, which it
//! refuses and we place on (2); one whose switches are unlike (1); parts of one GPU by
//! memory or cores, which are MIG's or the vendor's to cut; partitions by vendor tables.

use super::{
    super::{
        decide::{Left, nodes_by},
        hint::Hint,
    },
    kubelet::{hints, nodes},
    *,
};

/// Hints, and what its policies choose of them on four nodes (best-effort, restricted) and
/// on two (single-numa-node): nodes, `all`, `no` for refused, nothing where it has no case.
const MERGED: &[(&str, &str, &str, &str)] = &[
    ("0+ / 0+", "0", "0", "0"),
    ("1+ / 1+", "1", "1", "1"),
    ("*+ / 0+", "0", "0", "0"),
    ("*+ / 1+", "1", "1", "1"),
    ("0+ 1+ / 0+", "0", "0", "0"),
    ("0+ 1+ / 1+", "1", "1", "1"),
    ("0+ 1+ / 0+ 01", "0", "0", "0"),
    ("1+ 01 / 0+ 1+ 01", "1", "1", "1"),
    ("01+ 02+ / 01+ 02+", "01", "01", ""),
    ("", "all", "all", "all"),
    ("*+", "all", "all", "all"),
    ("!", "all", "no", "no"),
    ("*", "all", "no", "no"),
    ("0+ / 1+", "all", "no", "no"),
    ("0+ / 0", "0", "no", "no"),
    ("1+ / 1", "1", "no", "no"),
    ("0+ / 01+", "all", "no", ""),
    ("1+ / 01+", "all", "no", ""),
    ("0+ 1+ / 01", "all", "no", "no"),
    ("01+ / 0+ 1+ 01", "", "", "no"),
    ("0+ 1+ 01 / *+", "", "", "0"),
];

#[test]
fn what_koordinator_merges_takes_no_fewer_nodes() {
    let policies = [(Policy::BestEffort, 4), (Policy::Restricted, 4), (Policy::SingleNumaNode, 2)];
    for (given, best_effort, restricted, single) in MERGED {
        for ((policy, count), theirs) in policies.into_iter().zip([best_effort, restricted, single])
        {
            let all: Nodes = (0..count).collect();
            let theirs = match *theirs {
                "" => continue,
                "no" => None,
                "all" => Some(all),
                list => Some(nodes(list)),
            };
            let ours = nodes_by(policy, hints(given), all).ok();
            assert_eq!(ours.is_some(), theirs.is_some(), "{given}, {policy:?}");
            let (Some(ours), Some(theirs)) = (ours, theirs) else { continue };
            assert_eq!(ours.and(theirs), ours, "{given}, {policy:?}");
        }
    }
}

/// Its machine: on each of two nodes two switches, with two GPUs and a NIC below each, whose
/// VFs here are two.
fn switches() -> Machine {
    let devices = (0..4).flat_map(|switch: usize| {
        let node = switch as u32 / 2;
        let root = format!("{node:04}:00");
        let port = format!("{root}:{switch:02}.0");
        let below = |kind: &str, number: usize| {
            device(kind, number, node, &[&root, &port, &format!("{kind}{number}")])
        };
        let pair = [2 * switch, 2 * switch + 1];
        let gpus = pair.map(|number| below("gpu", number));
        let vfs = pair.map(|number| below("nic-vf", number));
        gpus.into_iter().chain(vfs).chain([below("nic", switch)]).collect::<Vec<_>>()
    });
    machine(2, 1, 4, devices.collect())
}

fn named(machine: &Machine, kind: &str, numbers: &[usize]) -> Vec<String> {
    let names = numbers.iter().map(|number| format!("{kind}{number}"));
    let there = |name: &String| machine.devices.iter().any(|device| device.name == *name);
    names.inspect(|name| assert!(there(name), "{name}")).collect()
}

/// GPUs and NICs asked for, GPUs taken, and the hints that come of it.
const HINTS: &[(usize, usize, &[usize], &str)] = &[
    (1, 1, &[], "0+ 1+ 01 / 0+ 1+ 01"),
    (17, 1, &[], "! / 0+ 1+ 01"),
    (4, 0, &[0], "1+ 01"),
    (0, 2, &[], "0+ 1+ 01"),
    (0, 4, &[], "01+"),
];

#[test]
fn the_hints_that_koordinator_makes_of_devices_are_made() {
    let machine = switches();
    for (gpus, nics, taken, expected) in HINTS {
        let taken = Placement { devices: named(&machine, "gpu", taken), ..Placement::default() };
        let placed = Placed::from([("other".into(), (Request::default(), taken))]);
        let reserved = IdSet::default();
        let situation = Situation { machine: &machine, placed: &placed, reserved: &reserved };
        let devices = BTreeMap::from([("gpu".into(), *gpus), ("nic".into(), *nics)]);
        let request = Request { devices, ..Request::default() };
        let made = Left::new(&situation).resources(&request);
        let made: Vec<Vec<Hint>> = made.iter().map(|it| it.hints(machine.all())).collect();
        assert_eq!(made, hints(expected), "{gpus} GPUs and {nics} NICs");
    }
    let devices = BTreeMap::from([("fpga".into(), 1)]);
    let request = Request { devices, policy: Policy::Restricted, ..Request::default() };
    ask(&machine, &Placed::new(), &request).expect_err("there is no FPGA");
}

/// GPUs taken; GPUs and VFs asked for, and how near; the GPUs and the switches of the VFs
/// that Koordinator gives, or nothing.
type Joint = (&'static [usize], usize, usize, Option<Crossing>, Option<Given>);
type Given = (&'static [usize], &'static [usize]);

const JOINT: &[Joint] = &[
    (&[], 0, 1, None, Some((&[], &[0]))),
    (&[], 1, 1, None, Some((&[0], &[0]))),
    (&[], 2, 1, None, Some((&[0, 1], &[0]))),
    (&[], 3, 2, None, Some((&[0, 1, 2], &[0, 1]))),
    (&[], 4, 2, None, Some((&[0, 1, 2, 3], &[0, 1]))),
    (&[], 6, 3, None, Some((&[0, 1, 2, 3, 4, 5], &[0, 1, 2]))),
    (&[], 8, 4, None, Some((&[0, 1, 2, 3, 4, 5, 6, 7], &[0, 1, 2, 3]))),
    (&[], 8, 0, None, Some((&[0, 1, 2, 3, 4, 5, 6, 7], &[]))),
    (&[], 4, 1, None, Some((&[0, 1, 2, 3], &[0]))),
    (&[], 4, 4, None, Some((&[0, 1, 2, 3], &[0, 1, 2, 3]))),
    (&[0], 2, 1, None, Some((&[2, 3], &[1]))),
    (&[0], 3, 2, None, Some((&[1, 2, 3], &[0, 1]))),
    (&[0, 1, 2, 3], 4, 2, None, Some((&[4, 5, 6, 7], &[2, 3]))),
    (&[0, 1, 2, 3], 4, 4, None, Some((&[4, 5, 6, 7], &[2, 2, 3, 3]))),
    // By a scope that is required.
    (&[5], 1, 1, None, Some((&[4], &[2]))),
    (&[5], 2, 1, None, Some((&[6, 7], &[3]))),
    (&[5], 2, 1, Some(Crossing::Switch), Some((&[6, 7], &[3]))),
    (&[5], 4, 2, Some(Crossing::Node), Some((&[0, 1, 2, 3], &[0, 1]))),
    (&[0, 5], 4, 2, Some(Crossing::Node), None),
];

#[test]
fn koordinator_puts_gpus_and_their_vfs_no_nearer_to_each_other() {
    let machine = switches();
    for (taken, gpus, vfs, near, theirs) in JOINT {
        let what = || format!("{gpus} GPUs and {vfs} VFs without {taken:?}, near {near:?}");
        let other = Placement { devices: named(&machine, "gpu", taken), ..Placement::default() };
        let placed = Placed::from([("other".into(), (Request::default(), other))]);
        let devices = BTreeMap::from([("gpu".into(), *gpus), ("nic-vf".into(), *vfs)]);
        let request = Request { devices, near: *near, ..Request::default() };
        let ours = ask(&machine, &placed, &request);
        assert_eq!(ours.is_ok(), theirs.is_some(), "{}: {ours:?}", what());
        let (Ok(ours), Some((of_gpus, switches))) = (ours, theirs) else { continue };
        // The first and the second VF that is taken of one switch.
        let vf = |at: usize| {
            let same = switches[..at].iter().filter(|switch| **switch == switches[at]);
            2 * switches[at] + same.count()
        };
        let vfs: Vec<usize> = (0..switches.len()).map(vf).collect();
        let theirs = [named(&machine, "gpu", of_gpus), named(&machine, "nic-vf", &vfs)].concat();
        let worth = |names: &[String]| {
            let of = |name: &String| machine.devices.iter().find(|device| device.name == *name);
            let all: Vec<&Device> = names.iter().filter_map(of).collect();
            let nodes: BTreeSet<Option<u32>> = all.iter().map(|device| device.node).collect();
            let pairs = (0..all.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
            let crossings = pairs.map(|(one, it)| Crossing::between(all[one], all[it]) as u32);
            (nodes.len(), crossings.sum::<u32>())
        };
        assert!(worth(&ours.placement.devices) <= worth(&theirs), "{}: {ours:?}", what());
    }
}
