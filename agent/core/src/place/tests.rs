//! Placement against looking at everything there is, on machines small enough for that;
//! what others expect of theirs is in the modules.

mod devices;
mod exhaustive;
mod kubelet;
mod packing;
mod peers;
mod pods;

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};

use proptest::prelude::*;

use super::{
    cpus::Place,
    decide::{Decision, Placed, Placement, Refusal, Score, Situation, place},
    machine::{Crossing, Device, Machine, Node},
    nodes::{Distances, Nodes},
    request::{Cpus, Policy, Request, Smt},
};
use crate::idset::IdSet;

/// Nodes of caches of cores of two threads, numbered as Linux does.
pub(super) fn machine(nodes: u32, caches: u32, cores: u32, devices: Vec<Device>) -> Machine {
    Machine { devices, ..machine_of(nodes, caches, cores, 2) }
}

/// The same with any number of threads, and no devices.
fn machine_of(nodes: u32, caches: u32, cores: u32, threads: u32) -> Machine {
    let all = nodes * caches * cores;
    let place = |pu: u32| {
        let core = pu % all;
        let node = core / (caches * cores);
        Place { node, package: node, l3: core / cores, core, kind: 0 }
    };
    let far = |from: u32, to: u32| if from == to { 10 } else { 20 + (from + to) % 3 };
    Machine {
        nodes: (0..nodes).map(|id| Node { id, memory: 64 << 30, ..Node::default() }).collect(),
        distances: Distances::new(nodes, far),
        pus: (0..threads * all).map(|pu| (pu, place(pu))).collect(),
        devices: Vec::new(),
    }
}

fn device(kind: &str, number: usize, node: u32, path: &[&str]) -> Device {
    let path = path.iter().map(|it| String::from(*it)).collect();
    let name = format!("{kind}{number}");
    Device { name, kind: kind.into(), node: Some(node), path, ..Device::default() }
}

fn ask(machine: &Machine, placed: &Placed, request: &Request) -> Result<Decision, Box<Refusal>> {
    place(&Situation { machine, placed, reserved: &IdSet::default() }, request)
}

fn set(list: &str) -> IdSet {
    IdSet::parse(list).expect("a valid list")
}

fn exclusive(count: usize) -> Request {
    Request { cpus: Cpus::Exclusive { count, smt: Smt::Any }, ..Request::default() }
}

#[test]
fn four_cpus_and_the_gpu_next_to_that_nic() {
    let devices = Vec::from([
        device("gpu", 0, 0, &["0000:00", "0000:00:01.0", "0000:01:00.0"]),
        device("gpu", 1, 1, &["0000:80", "0000:80:01.0", "0000:81:00.0"]),
        device("gpu", 2, 1, &["0000:90", "0000:90:01.0", "0000:91:00.0"]),
        device("nic", 0, 1, &["0000:90", "0000:90:01.0", "0000:92:00.0"]),
    ]);
    let machine = machine(2, 1, 4, devices);
    let both = BTreeMap::from([("gpu".into(), 1), ("nic".into(), 1)]);
    let request = Request { devices: both, ..exclusive(4) };
    let decision = ask(&machine, &Placed::new(), &request).expect("room");
    assert_eq!(decision.placement.devices, ["gpu2", "nic0"]);
    assert_eq!(decision.placement.nodes, IdSet::parse("1").expect("a list"));
    assert_eq!(decision.placement.exclusive, IdSet::parse("4-5,12-13").ok());
    // The nearer is gone: still the same node, through the node's own interconnect.
    let taken = Placement { devices: Vec::from(["gpu2".into()]), ..Placement::default() };
    let placed = Placed::from([("other".into(), (Request::default(), taken))]);
    let decision = ask(&machine, &placed, &request).expect("room");
    assert_eq!(decision.placement.devices, ["gpu1", "nic0"]);
    let near = Request { near: Some(Crossing::Switch), ..request };
    let refusal = ask(&machine, &placed, &near).expect_err("no switch has both");
    assert_eq!(refusal.why.rejected.len(), 3, "{refusal:?}");
}

#[test]
fn a_refusal_says_what_is_short() {
    let machine = machine(2, 1, 2, Vec::new());
    let refusal = ask(&machine, &Placed::new(), &exclusive(9)).expect_err("8 PUs are 8");
    assert_eq!(refusal.reason, "the whole machine has only 8 of 9 exclusive PUs left");
    let single = Request { policy: Policy::SingleNumaNode, ..exclusive(6) };
    let refusal = ask(&machine, &Placed::new(), &single).expect_err("4 PUs a node");
    assert_eq!(refusal.reason, "no single NUMA node has room for all of it");
}

#[test]
fn who_asks_for_whole_cores_is_told_what_sizes_they_have() {
    // A fast core of two threads on each node, and two slow ones of one.
    let mut machine = machine_of(2, 1, 4, 1);
    for place in machine.pus.values_mut() {
        place.kind = u32::from(place.core % 4 < 2);
        place.core = if place.kind == 1 { place.core / 4 * 4 } else { place.core };
    }
    let whole = |count, policy| Request {
        cpus: Cpus::Exclusive { count, smt: Smt::FullCores },
        policy,
        ..Request::default()
    };
    let given = |placed: &Placed, count| {
        let decision = ask(&machine, placed, &whole(count, Policy::Optimal)).expect("room");
        format!("{}", decision.placement.exclusive.expect("PUs"))
    };
    let none = Placed::new();
    assert_eq!((&*given(&none, 2), &*given(&none, 1)), ("0-1", "2"));
    // The slow ones are taken both for the fast one is not enough, and never half of it.
    assert_eq!((&*given(&none, 3), &*given(&none, 4)), ("0-2", "0-3"));
    let of = |cpus: &str| Placement { exclusive: Some(set(cpus)), ..Placement::default() };
    let placed = Placed::from([("other".into(), (Request::default(), of("0,2-3,6-7")))]);
    let refusal =
        |count, policy| ask(&machine, &placed, &whole(count, policy)).expect_err("none").reason;
    assert_eq!(
        refusal(1, Policy::Optimal),
        "the whole machine has only 0 of 1 exclusive PUs in whole cores left; whole cores that \
         are left: 1 of 2 PUs"
    );
    assert_eq!(given(&placed, 2), "4-5");
    let placed = Placed::from([("other".into(), (Request::default(), of("2-3,6")))]);
    let refusal =
        |count, policy| ask(&machine, &placed, &whole(count, policy)).expect_err("none").reason;
    assert_eq!(
        refusal(6, Policy::Optimal),
        "the whole machine has only 5 of 6 exclusive PUs in whole cores left"
    );
    assert_eq!(
        refusal(4, Policy::SingleNumaNode),
        "no single NUMA node has room for all of it; whole cores that are left: 2 of 2 PUs, 1 of \
         1 PU"
    );
    let mut machine = machine_of(1, 1, 3, 2);
    machine.pus.values_mut().filter(|place| place.core > 0).for_each(|place| place.core = 1);
    let refusal = ask(&machine, &none, &whole(3, Policy::Optimal)).expect_err("none").reason;
    assert_eq!(
        refusal,
        "3 PUs are not whole cores: the machine has 1 of 4 PUs, 1 of 2 PUs; ask for 2 or another \
         sum"
    );
}

#[test]
fn memory_far_from_any_cpu_is_for_those_who_ask() {
    let mut machine = machine(1, 1, 2, Vec::new());
    machine.nodes.push(Node { id: 7, memory: 256 << 30, ..Node::default() });
    machine.distances = Distances::new(2, |from, to| if from == to { 10 } else { 40 });
    let request = Request { memory: 100 << 30, ..exclusive(1) };
    ask(&machine, &Placed::new(), &request).expect_err("64 GiB near the CPUs");
    let far = Request { far_memory: true, ..request };
    let decision = ask(&machine, &Placed::new(), &far).expect("room");
    assert_eq!(decision.placement.nodes, IdSet::parse("0,7").expect("a list"));
}

/// The best score by looking at every set of nodes, of devices and of PUs.
fn brute_force(machine: &Machine, free: &IdSet, request: &Request) -> Option<Score> {
    let Cpus::Exclusive { count, .. } = request.cpus else { return None };
    let mut best: Option<Score> = None;
    for nodes in machine.all().subsets() {
        let here = |pu: &u32| nodes.has(machine.pus[pu].node);
        let pus: Vec<u32> = free.iter().filter(here).collect();
        let wanted: Vec<Vec<Vec<&Device>>> = request
            .devices
            .iter()
            .map(|(kind, count)| {
                let of_kind =
                    |it: &&Device| it.kind == *kind && it.node.is_some_and(|it| nodes.has(it));
                combinations(&machine.devices.iter().filter(of_kind).collect::<Vec<_>>(), *count)
            })
            .collect();
        let mut sets = Vec::from([Vec::new()]);
        for kind in wanted {
            sets = sets
                .iter()
                .flat_map(|set: &Vec<&Device>| {
                    kind.iter().map(|more| set.iter().chain(more).copied().collect())
                })
                .collect();
        }
        let crossings = sets.iter().map(|set| {
            let pairs = (0..set.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
            pairs.map(|(one, other)| Crossing::between(set[one], set[other]) as u32).sum::<u32>()
        });
        let Some(crossings) = crossings.min() else { continue };
        for taken in combinations(&pus, count) {
            let score = score(machine, nodes, free, &taken, crossings);
            if best.is_none_or(|best| score < best) {
                best = Some(score);
            }
        }
    }
    best
}

fn score(machine: &Machine, nodes: Nodes, free: &IdSet, taken: &[u32], crossings: u32) -> Score {
    let caches: BTreeSet<u32> = taken.iter().map(|pu| machine.pus[pu].l3).collect();
    let ours = |core: u32| {
        let all = machine.pus.iter().filter(|(_, place)| place.core == core);
        all.into_iter().all(|(pu, _)| taken.contains(pu))
    };
    let shared = taken.iter().filter(|pu| !ours(machine.pus[*pu].core)).count();
    let kinds: BTreeSet<u32> = taken.iter().map(|pu| machine.pus[pu].kind).collect();
    let fastest = machine.pus.values().map(|place| place.kind).max().unwrap_or(0);
    let behind = free
        .iter()
        .map(|pu| machine.pus[&pu])
        .filter(|it| nodes.has(it.node) && caches.contains(&it.l3) && kinds.contains(&it.kind));
    Score {
        nodes: nodes.len(),
        distance: machine.distances.mean(nodes),
        crossings,
        kinds: kinds.len() as u32,
        slower: kinds.first().map_or(0, |slowest| fastest - slowest),
        caches: caches.len() as u32,
        shared_cores: shared as u32,
        left_over: (behind.count() - taken.len()) as u32,
    }
}

fn combinations<T: Copy>(of: &[T], count: usize) -> Vec<Vec<T>> {
    let Some((first, rest)) = of.split_first() else {
        return if count == 0 { Vec::from([Vec::new()]) } else { Vec::new() };
    };
    let mut all = combinations(rest, count);
    if count > 0 {
        let with = |mut set: Vec<T>| {
            set.insert(0, *first);
            set
        };
        all.extend(combinations(rest, count - 1).into_iter().map(with));
    }
    all
}

fn some_devices() -> impl Strategy<Value = Vec<Device>> {
    let one = (prop::sample::select(Vec::from(["gpu", "nic"])), 0u32..2, 0u32..2, 0u32..2);
    prop::collection::vec(one, 0..6).prop_map(|all| {
        let device = |(number, (kind, node, root, port)): (usize, (&str, u32, u32, u32))| {
            let root = format!("{node}{root}");
            let port = format!("{root}:{port}");
            device(kind, number, node, &[&root, &port, &format!("{port}.{number}")])
        };
        all.into_iter().enumerate().map(device).collect()
    })
}

proptest! {
    #[test]
    fn the_best_is_what_looking_at_everything_finds(
        devices in some_devices(),
        taken in prop::collection::btree_set(0u32..12, 0..8),
        count in 1usize..7,
        gpus in 0usize..3,
        nics in 0usize..2,
    ) {
        // 2 nodes × 3 caches × 1 core × 2 threads, or 2 × 1 × 3 × 2.
        for (caches, cores) in [(3, 1), (1, 3)] {
            let machine = machine(2, caches, cores, devices.clone());
            let all: IdSet = machine.pus.keys().copied().collect();
            let taken: IdSet = taken.iter().copied().collect();
            let free = all.difference(&taken);
            let other = Placement { exclusive: Some(taken), ..Placement::default() };
            let placed = Placed::from([("other".into(), (Request::default(), other))]);
            let wanted = [("gpu", gpus), ("nic", nics)];
            let devices = wanted.into_iter().filter(|(_, count)| *count > 0);
            let request = Request {
                devices: devices.map(|(kind, count)| (kind.into(), count)).collect(),
                ..exclusive(count)
            };
            let best = brute_force(&machine, &free, &request);
            let ours = ask(&machine, &placed, &request);
            prop_assert_eq!(ours.ok().and_then(|it| it.why.score), best);
        }
    }

    #[test]
    fn no_cpu_and_no_device_is_ever_given_twice(
        steps in prop::collection::vec((0usize..8, 0usize..5, 0usize..2, 0usize..5), 1..30),
    ) {
        let devices = (0..4).map(|number| {
            let node = (number % 2) as u32;
            device("gpu", number, node, &[&format!("{node}"), &format!("{number}")])
        });
        let machine = machine(2, 2, 2, devices.collect());
        let reserved: IdSet = [0u32, 8].into_iter().collect();
        let mut placed = Placed::new();
        for (name, count, gpus, policy) in steps {
            let name = format!("w{name}");
            if placed.remove(&name).is_some() {
                continue;
            }
            let policies = [Policy::None, Policy::BestEffort, Policy::Restricted,
                            Policy::SingleNumaNode, Policy::Optimal];
            let request = Request {
                devices: BTreeMap::from([("gpu".into(), gpus)]),
                memory: 1 << 30,
                policy: policies[policy],
                ..exclusive(count)
            };
            let situation = Situation { machine: &machine, placed: &placed, reserved: &reserved };
            if let Ok(decision) = place(&situation, &request) {
                prop_assert_eq!(decision.placement.exclusive.as_ref().map_or(0, IdSet::len), count);
                prop_assert_eq!(decision.placement.devices.len(), gpus);
                placed.insert(name, (request, decision.placement));
            }
            let pus = placed.values().filter_map(|(_, it)| it.exclusive.as_ref());
            let all: Vec<u32> = pus.flat_map(IdSet::iter).collect();
            let once: BTreeSet<u32> = all.iter().copied().collect();
            prop_assert_eq!(all.len(), once.len());
            prop_assert!(!once.contains(&0) && !once.contains(&8));
            let devices: Vec<&String> = placed.values().flat_map(|(_, it)| &it.devices).collect();
            let once: BTreeSet<&&String> = devices.iter().collect();
            prop_assert_eq!(devices.len(), once.len());
        }
    }
}
