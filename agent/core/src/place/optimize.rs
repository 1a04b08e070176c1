//! The best placement there is: fewest nodes, then the closest, then the nearest devices,
//! then the fewest last-level caches, then the fewest cores shared with somebody else, then
//! the least left over.
//!
//! Sets of nodes are tried best first, and since each part of the score counts only where
//! all before it are equal, the search ends with the first number of nodes and distance at
//! which anything fits. Devices and caches are searched by branch and bound, greedily
//! first; both give up after a fixed number of steps, with the best found so far and how
//! far from the best it may be, so that a decision takes a bounded time on any machine.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use core::cmp::Ordering;

use super::{
    cpus::take_packed,
    decide::{Gap, Left, Placement, Resource, Score, Why, reject},
    machine::{Crossing, Device},
    nodes::Nodes,
    request::{Cpus, Request, Smt},
};
use crate::idset::IdSet;

/// Choices that one search looks at, at most: about a millisecond's worth.
const MAX_STEPS: u32 = 20_000;

/// Places a workload, and says by what.
pub(super) fn place(
    left: &Left<'_>,
    resources: &[Resource],
    request: &Request,
    why: &mut Why,
) -> Result<Placement, String> {
    let mut best: Option<Found<'_>> = None;
    for (nodes, distance) in candidates(left, request) {
        let class = |it: &Found<'_>| (it.score.nodes, it.score.distance) < (nodes.len(), distance);
        if best.as_ref().is_some_and(class) {
            break;
        }
        match try_on(left, resources, request, nodes, distance) {
            Ok(found) if best.as_ref().is_none_or(|best| found.score < best.score) => {
                best = Some(found);
            }
            Err(short) if best.is_none() => reject(why, left.machine, nodes, short),
            _ => {}
        }
    }
    let Some(found) = best else { return Err(refusal(left, resources)) };
    why.score = Some(found.score);
    why.gap = found.gap;
    Ok(Placement {
        nodes: left.machine.ids(found.nodes),
        exclusive: found.exclusive,
        devices: found.devices.names(),
    })
}

struct Found<'a> {
    nodes: Nodes,
    score: Score,
    gap: Option<Gap>,
    exclusive: Option<IdSet>,
    devices: Chosen<'a>,
}

/// Sets of nodes, the best first. Memory far from every CPU is for those who ask for it.
fn candidates(left: &Left<'_>, request: &Request) -> Vec<(Nodes, f64)> {
    let machine = left.machine;
    let with_cpus: Nodes = machine.pus.values().map(|place| place.node).collect();
    let usable = if request.far_memory { machine.all() } else { with_cpus };
    let runs = |set: &Nodes| set.and(with_cpus) != Nodes::default();
    let mut sets: Vec<(Nodes, f64)> =
        usable.subsets().filter(runs).map(|set| (set, machine.distances.mean(set))).collect();
    sets.sort_by(|(one, near), (other, far)| {
        one.len().cmp(&other.len()).then(near.total_cmp(far)).then(one.cmp(other))
    });
    sets
}

fn try_on<'a>(
    left: &Left<'a>,
    resources: &[Resource],
    request: &Request,
    nodes: Nodes,
    distance: f64,
) -> Result<Found<'a>, String> {
    if let Some(short) = resources.iter().find_map(|resource| resource.short_on(nodes)) {
        return Err(short);
    }
    let devices = devices(left, nodes, request).ok_or("its devices are not near enough there")?;
    let mut score =
        Score { nodes: nodes.len(), distance, crossings: devices.crossings, ..Score::default() };
    let mut gap = devices.gap();
    let exclusive = match request.cpus {
        Cpus::Shared { .. } => None,
        Cpus::Exclusive { count, smt } => {
            let chosen = cpus(left, nodes, count, smt).ok_or("its CPUs are not there")?;
            (score.caches, score.shared_cores, score.left_over) = chosen.score;
            gap = gap.or(chosen.gap);
            Some(chosen.pus)
        }
    };
    Ok(Found { nodes, score, gap, exclusive, devices })
}

/// One sentence for a request that fits nowhere.
fn refusal(left: &Left<'_>, resources: &[Resource]) -> String {
    match resources.iter().find_map(|resource| resource.short_on(left.machine.all())) {
        Some(short) => format!("the whole machine has only {short} left"),
        None => "there is enough of everything, but not on the same NUMA nodes".into(),
    }
}

/// Devices for one workload.
pub(super) struct Chosen<'a> {
    devices: Vec<&'a Device>,
    crossings: u32,
    complete: bool,
}

impl Chosen<'_> {
    pub(super) fn names(&self) -> Vec<String> {
        self.devices.iter().map(|device| device.name.clone()).collect()
    }

    fn gap(&self) -> Option<Gap> {
        let gap = Gap { of: "crossings", found: self.crossings, bound: 0 };
        (!self.complete && self.crossings > 0).then_some(gap)
    }
}

/// The devices asked for that are nearest to each other, of those on a set of nodes.
pub(super) fn devices<'a>(left: &Left<'a>, nodes: Nodes, request: &Request) -> Option<Chosen<'a>> {
    let here = |device: &&&Device| device.node.is_none_or(|node| nodes.has(node));
    let all: Vec<&Device> = left.devices.iter().filter(here).copied().collect();
    let given = |name: &String| left.machine.devices.iter().find(|it| it.name == *name);
    let mut search = DeviceSearch {
        most: request.near.unwrap_or(Crossing::System),
        picks: request.devices.iter().collect(),
        all,
        steps: MAX_STEPS,
        best: None,
    };
    let given: Vec<&Device> = request.given.iter().filter_map(given).collect();
    search.pick(0, 0, 0, &given, 0);
    let (crossings, devices) = search.best?;
    Some(Chosen { devices, crossings, complete: search.steps > 0 })
}

struct DeviceSearch<'a, 'r> {
    most: Crossing,
    picks: Vec<(&'r String, &'r usize)>,
    all: Vec<&'a Device>,
    steps: u32,
    best: Option<(u32, Vec<&'a Device>)>,
}

impl<'a> DeviceSearch<'a, '_> {
    /// Picks one device more: of the kind `kind`, of which `had` are picked, not before
    /// `from` in the list, so that no set is looked at twice.
    fn pick(&mut self, kind: usize, had: usize, from: usize, picked: &[&'a Device], cost: u32) {
        if self.best.as_ref().is_some_and(|(best, _)| cost >= *best) {
            return;
        }
        let Some((name, count)) = self.picks.get(kind).copied() else {
            self.best = Some((cost, picked.to_vec()));
            return;
        };
        if had == *count {
            return self.pick(kind + 1, 0, 0, picked, cost);
        }
        let mut next: Vec<(u32, usize)> = Vec::new();
        for (index, device) in self.all.iter().enumerate().skip(from) {
            let crossings = picked.iter().map(|other| Crossing::between(device, other));
            let near = crossings.clone().all(|crossing| crossing <= self.most);
            if device.kind == *name && near {
                next.push((crossings.map(|crossing| crossing as u32).sum(), index));
            }
        }
        // The nearest first, unless order is what keeps sets from being seen twice.
        if *count - had == 1 {
            next.sort_unstable();
        }
        for (more, index) in next {
            if self.steps == 0 {
                return;
            }
            self.steps -= 1;
            let picked: Vec<&Device> = picked.iter().copied().chain([self.all[index]]).collect();
            self.pick(kind, had + 1, index + 1, &picked, cost + more);
        }
    }
}

/// CPUs for one workload.
struct ChosenCpus {
    pus: IdSet,
    /// Caches, cores shared, PUs left over in those caches.
    score: (u32, u32, u32),
    gap: Option<Gap>,
}

/// The exclusive PUs on a set of nodes that leave the machine in the best shape.
fn cpus(left: &Left<'_>, nodes: Nodes, count: usize, smt: Smt) -> Option<ChosenCpus> {
    let whole = left.on(nodes, &left.whole_cores(&left.exclusive));
    let free = match smt {
        Smt::Any => left.on(nodes, &left.exclusive),
        Smt::FullCores => whole.clone(),
    };
    let mut caches: BTreeMap<u32, Cache> = BTreeMap::new();
    for pu in free.iter() {
        let cache = caches.entry(left.machine.pus.get(&pu)?.l3).or_default();
        cache.free += 1;
        cache.whole += u32::from(whole.contains(pu));
    }
    let mut search = CacheSearch::new(caches, count as u32, left.threads() as u32)?;
    search.run();
    let (shared, over, chosen) = search.best?;
    let here = |pu: &u32| left.machine.pus.get(pu).is_some_and(|it| chosen.contains(&it.l3));
    let pus = take_packed(&left.machine.pus, &free.iter().filter(here).collect(), count)?;
    let caches = chosen.len() as u32;
    let gap = Gap { of: "shared_cores", found: shared, bound: 0 };
    let gap = (search.steps == 0 && shared > 0).then_some(gap);
    Some(ChosenCpus { pus, score: (caches, shared, over), gap })
}

/// What is free behind one last-level cache, in PUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Cache {
    free: u32,
    /// Those of them in cores that are free as a whole.
    whole: u32,
}

/// Looks for the best of the smallest sets of caches that have enough PUs.
struct CacheSearch {
    /// The largest first, alike ones together.
    caches: Vec<(Cache, u32)>,
    wanted: u32,
    threads: u32,
    /// How many it takes at least.
    needed: usize,
    steps: u32,
    best: Option<(u32, u32, Vec<u32>)>,
}

impl CacheSearch {
    /// `None` if all of them together have too few.
    fn new(caches: BTreeMap<u32, Cache>, wanted: u32, threads: u32) -> Option<Self> {
        let mut caches: Vec<(Cache, u32)> =
            caches.into_iter().map(|(id, cache)| (cache, id)).collect();
        caches.sort_by(|(one, id), (other, other_id)| other.cmp(one).then(id.cmp(other_id)));
        let mut sum = 0;
        let enough = |(cache, _): &(Cache, u32)| {
            sum += cache.free;
            sum >= wanted
        };
        let needed = caches.iter().position(enough)? + 1;
        Some(Self { caches, wanted, threads, needed, steps: MAX_STEPS, best: None })
    }

    fn run(&mut self) {
        self.pick(0, &mut Vec::new(), Cache::default());
    }

    fn pick(&mut self, from: usize, chosen: &mut Vec<u32>, sum: Cache) {
        let missing = self.needed - chosen.len();
        if missing == 0 {
            return self.weigh(chosen, sum);
        }
        let mut before = None;
        for index in from..self.caches.len() {
            let (cache, id) = self.caches[index];
            // The largest that are left, from here on, would not do.
            let most = self.caches[index..].iter().take(missing).map(|(it, _)| it.free);
            if self.steps == 0 || sum.free + most.sum::<u32>() < self.wanted {
                return;
            }
            // One that is like the one before brings nothing new.
            if before == Some(cache) {
                continue;
            }
            before = Some(cache);
            self.steps -= 1;
            chosen.push(id);
            let sum = Cache { free: sum.free + cache.free, whole: sum.whole + cache.whole };
            self.pick(index + 1, chosen, sum);
            chosen.pop();
        }
    }

    fn weigh(&mut self, chosen: &[u32], sum: Cache) {
        if sum.free < self.wanted {
            return;
        }
        let cores = (self.wanted / self.threads).min(sum.whole / self.threads);
        let shared = self.wanted - cores * self.threads;
        let over = sum.free - self.wanted;
        let better = self
            .best
            .as_ref()
            .is_none_or(|best| (shared, over).cmp(&(best.0, best.1)) == Ordering::Less);
        if better {
            self.best = Some((shared, over, chosen.to_vec()));
        }
    }
}
