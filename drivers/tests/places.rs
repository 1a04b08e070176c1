//! Places what workloads typically ask for on every real machine of the corpus, beside
//! each other, and checks what must hold wherever something is placed.

mod dumps;

use std::collections::{BTreeMap, BTreeSet};

use purlin_core::{
    idset::IdSet,
    place::{
        decide::{Placed, Placement, Situation, place},
        machine::Machine,
        request::{Cpus, Policy, Request, Smt},
    },
};
use purlin_drivers::Root;

/// Placements of one request, at most: more would only be more of the same.
const MAX_EACH: usize = 8;

const POLICIES: [Policy; 5] =
    [Policy::Optimal, Policy::None, Policy::BestEffort, Policy::Restricted, Policy::SingleNumaNode];

/// A share of the CPUs, some for itself alone, whole cores, with a device of each kind that
/// there is, and more than there can be.
fn typical(machine: &Machine, policy: Policy) -> Vec<Request> {
    let exclusive = |count, smt| Cpus::Exclusive { count, smt };
    // Some dumps are without the files that tell the memory.
    let some = machine.nodes.iter().any(|node| node.memory > 0);
    let memory = if some { 256 << 20 } else { 0 };
    let base = || Request { policy, memory, ..Request::default() };
    let mut requests = vec![
        Request { cpus: Cpus::Shared { milli: 500 }, ..base() },
        Request { cpus: exclusive(1, Smt::Any), ..base() },
        Request { cpus: exclusive(4, Smt::Any), ..base() },
        Request { cpus: exclusive(8, Smt::FullCores), ..base() },
        Request { cpus: exclusive(machine.pus.len() + 1, Smt::Any), ..base() },
        Request { cpus: exclusive(2, Smt::Any), far_memory: true, memory: 4 * memory, ..base() },
    ];
    let kinds: BTreeSet<&String> = machine.devices.iter().map(|it| &it.kind).collect();
    requests.extend(kinds.into_iter().map(|kind| Request {
        cpus: exclusive(2, Smt::Any),
        devices: BTreeMap::from([(kind.clone(), 1)]),
        ..base()
    }));
    requests
}

#[test]
fn what_is_placed_on_real_machines_holds() {
    let dumps = dumps::dumps();
    let (mut machines, mut placements) = (0, 0);
    for dump in &dumps {
        let name = dump.display().to_string();
        let inventory = purlin_drivers::inventory(&Root::open(dump).expect("a dump"));
        let machine = match Machine::of(&inventory) {
            Ok(machine) => machine,
            Err(why) => {
                assert!(why.ends_with("16 is the most"), "{name}: {why}");
                println!("{name}: {why}");
                continue;
            }
        };
        check_machine(&machine, &name);
        machines += 1;
        placements += POLICIES.map(|policy| fill(&machine, policy, &name)).iter().sum::<usize>();
    }
    println!("{placements} placements on {machines} machines of {} dumps", dumps.len());
}

fn check_machine(machine: &Machine, name: &str) {
    for (pu, place) in &machine.pus {
        assert!((place.node as usize) < machine.nodes.len(), "{name}: PU {pu} is on no node");
    }
    let names: BTreeSet<&String> = machine.devices.iter().map(|it| &it.name).collect();
    assert_eq!(names.len(), machine.devices.len(), "{name} has devices of one name");
}

/// Places each typical request over and over.
fn fill(machine: &Machine, policy: Policy, name: &str) -> usize {
    let reserved = machine.a_core_each();
    let mut placed = Placed::new();
    for request in typical(machine, policy) {
        for _ in 0..MAX_EACH {
            let situation = Situation { machine, placed: &placed, reserved: &reserved };
            let Ok(decision) = place(&situation, &request) else { break };
            let what = format!("{name}, {policy:?}: {request:?} at {:?}", decision.placement);
            check(machine, &reserved, &placed, &request, &decision.placement, &what);
            let number = placed.len().to_string();
            placed.insert(number, (request.clone(), decision.placement));
        }
    }
    placed.len()
}

fn check(
    machine: &Machine,
    reserved: &IdSet,
    placed: &Placed,
    request: &Request,
    placement: &Placement,
    what: &str,
) {
    let there = machine.numbers(&placement.nodes);
    assert!(there.len() > 0, "no node: {what}");
    assert_eq!(there.len() as usize, placement.nodes.len(), "nodes that are not there: {what}");
    assert!(!machine.pus_of(&placement.nodes).is_empty(), "no CPU on its nodes: {what}");
    if request.policy == Policy::SingleNumaNode && request.memory > 0 {
        assert_eq!(there.len(), 1, "several nodes: {what}");
    }
    match (request.cpus, &placement.exclusive) {
        (Cpus::Shared { .. }, None) => {}
        (Cpus::Exclusive { count, smt }, Some(cpus)) => {
            assert_eq!(cpus.len(), count, "{what}");
            assert!(cpus.intersection(reserved).is_empty(), "reserved CPUs: {what}");
            assert!(cpus.iter().all(|pu| machine.pus.contains_key(&pu)), "strange CPUs: {what}");
            let others = placed.values().filter_map(|(_, it)| it.exclusive.as_ref());
            for other in others {
                assert!(cpus.intersection(other).is_empty(), "somebody's CPUs: {what}");
            }
            if smt == Smt::FullCores {
                let cores: BTreeSet<u32> = cpus.iter().map(|pu| machine.pus[&pu].core).collect();
                let all = machine.pus.values().filter(|it| cores.contains(&it.core)).count();
                assert_eq!(all, count, "parts of cores: {what}");
            }
            // A policy that binds gives nothing elsewhere.
            if matches!(request.policy, Policy::Optimal | Policy::SingleNumaNode) {
                let here = machine.pus_of(&placement.nodes);
                assert!(cpus.is_subset(&here), "CPUs on other nodes: {what}");
            }
        }
        _ => panic!("not what was asked for: {what}"),
    }
    assert_eq!(placement.devices.len(), request.devices.values().sum::<usize>(), "{what}");
    for (_, other) in placed.values() {
        let taken = |device: &String| other.devices.contains(device);
        assert!(!placement.devices.iter().any(taken), "somebody's device: {what}");
    }
}
