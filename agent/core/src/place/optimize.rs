//! The best placement there is: fewest nodes, then the closest, then the nearest devices,
//! then the fewest last-level caches, then the fewest cores shared with somebody else, then
//! the least left over.
//!
//! Sets of nodes are tried best first, and since each part of the score counts only where
//! all before it are equal, the search ends with the first number of nodes and distance at
//! which anything fits. Devices and caches are searched by branch and bound, the nearest
//! and the largest first; both give up after a fixed number of steps, with the best found
//! so far and how far from the best it may be, so that a decision takes a bounded time on
//! any machine.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use super::{
    cpus::take_packed,
    decide::{Gap, Left, Placement, Resource, Score, Why, reject},
    machine::{Crossing, Device},
    nodes::Nodes,
    request::{Cpus, Request, Smt},
};
use crate::idset::IdSet;

/// Choices that one decision looks at, at most, for devices and for caches each: a few
/// milliseconds' worth.
const MAX_STEPS: u32 = 20_000;

/// Places a workload, and says by what.
pub(super) fn place(
    left: &Left<'_>,
    resources: &[Resource],
    request: &Request,
    why: &mut Why,
) -> Result<Placement, String> {
    let usable = usable(left, request);
    let short_on = |nodes| resources.iter().find_map(|resource| resource.short_on(nodes));
    if let Some(short) = short_on(usable) {
        for (nodes, _) in candidates(left, usable, 1) {
            short_on(nodes).into_iter().for_each(|short| reject(why, left.machine, nodes, short));
        }
        return Err(format!("the whole machine has only {short} left"));
    }
    let mut search = Search::new(left, request);
    let mut best: Option<Found> = None;
    for (nodes, distance) in (1..=usable.len()).flat_map(|count| candidates(left, usable, count)) {
        let class = |it: &Found| (it.score.nodes, it.score.distance) < (nodes.len(), distance);
        if best.as_ref().is_some_and(class) {
            break;
        }
        match short_on(nodes).map_or_else(|| search.on(nodes, distance, best.as_ref()), Err) {
            Ok(found) if best.as_ref().is_none_or(|best| found.score < best.score) => {
                best = Some(found);
            }
            Err(short) if best.is_none() => reject(why, left.machine, nodes, short),
            _ => {}
        }
    }
    let found = best.ok_or("there is enough of everything, but not on the same NUMA nodes")?;
    why.score = Some(found.score);
    why.gap = search.gap(&found.score);
    Ok(Placement {
        nodes: left.machine.ids(found.nodes),
        exclusive: search.take(&found),
        devices: search.devices.names(&found.devices),
    })
}

/// Nodes that may be chosen. Memory far from every CPU is for those who ask for it.
fn usable(left: &Left<'_>, request: &Request) -> Nodes {
    if request.far_memory { left.machine.all() } else { with_cpus(left) }
}

fn with_cpus(left: &Left<'_>) -> Nodes {
    left.machine.pus.values().map(|place| place.node).collect()
}

/// Sets of so many nodes, the closest first.
fn candidates(left: &Left<'_>, usable: Nodes, count: u32) -> Vec<(Nodes, f64)> {
    let with_cpus = with_cpus(left);
    let fits = |set: &Nodes| set.len() == count && set.and(with_cpus) != Nodes::default();
    let distance = |set: Nodes| (set, left.machine.distances.mean(set));
    let mut sets: Vec<(Nodes, f64)> = usable.subsets().filter(fits).map(distance).collect();
    sets.sort_by(|(one, near), (other, far)| near.total_cmp(far).then(one.cmp(other)));
    sets
}

struct Found {
    nodes: Nodes,
    score: Score,
    devices: Vec<usize>,
    caches: Vec<u32>,
}

/// What is the same for every set of nodes.
struct Search<'a> {
    left: &'a Left<'a>,
    /// PUs that may be given, and which of them are in whole cores, if any are asked for.
    exclusive: Option<(usize, IdSet)>,
    /// Their caches, by node and cache.
    caches: BTreeMap<(u32, u32), Cache>,
    cache_steps: u32,
    devices: Devices<'a>,
}

impl<'a> Search<'a> {
    fn new(left: &'a Left<'a>, request: &Request) -> Self {
        let exclusive = match request.cpus {
            Cpus::Shared { .. } => None,
            Cpus::Exclusive { count, smt: Smt::Any } => Some((count, left.exclusive.clone())),
            Cpus::Exclusive { count, smt: Smt::FullCores } => Some((count, left.whole.clone())),
        };
        let mut caches: BTreeMap<(u32, u32), Cache> = BTreeMap::new();
        for pu in exclusive.iter().flat_map(|(_, free)| free.iter()) {
            if let Some(place) = left.machine.pus.get(&pu) {
                let cache = caches.entry((place.node, place.l3)).or_default();
                cache.free += 1;
                cache.whole += u32::from(left.whole.contains(pu));
            }
        }
        let devices = Devices::new(left, request);
        Self { left, exclusive, caches, cache_steps: MAX_STEPS, devices }
    }

    /// The best on one set of nodes that is no worse than what was found before.
    fn on(&mut self, nodes: Nodes, distance: f64, best: Option<&Found>) -> Result<Found, String> {
        let enough = best.map_or(u32::MAX, |best| best.score.crossings);
        let (crossings, devices) =
            self.devices.nearest(nodes, enough).ok_or("devices that are near enough")?;
        let score = Score { nodes: nodes.len(), distance, crossings, ..Score::default() };
        let Some((count, _)) = self.exclusive else {
            return Ok(Found { nodes, score, devices, caches: Vec::new() });
        };
        let mut here: BTreeMap<u32, Cache> = BTreeMap::new();
        for ((_, id), cache) in self.caches.iter().filter(|((node, _), _)| nodes.has(*node)) {
            let sum = here.entry(*id).or_default();
            (sum.free, sum.whole) = (sum.free + cache.free, sum.whole + cache.whole);
        }
        let mut search = CacheSearch::new(here, count, self.left.threads(), self.cache_steps)
            .ok_or("exclusive PUs")?;
        search.pick(0, &mut Vec::new(), Cache::default());
        self.cache_steps = search.steps;
        let (shared_cores, left_over, caches) = search.best.ok_or("exclusive PUs")?;
        let score = Score { caches: caches.len() as u32, shared_cores, left_over, ..score };
        Ok(Found { nodes, score, devices, caches })
    }

    /// What might be better than what was found, if a search gave up.
    fn gap(&self, score: &Score) -> Option<Gap> {
        let gap = |of: &str, found| (found > 0).then(|| Gap { of: of.into(), found, bound: 0 });
        let devices = gap("crossings", score.crossings).filter(|_| self.devices.steps == 0);
        let caches = gap("shared_cores", score.shared_cores).filter(|_| self.cache_steps == 0);
        devices.or(caches)
    }

    /// The PUs behind the caches that were chosen.
    fn take(&self, found: &Found) -> Option<IdSet> {
        let (count, free) = self.exclusive.as_ref()?;
        let places = &self.left.machine.pus;
        let behind = |pu: &u32| {
            let place = places.get(pu);
            place.is_some_and(|it| found.nodes.has(it.node) && found.caches.contains(&it.l3))
        };
        take_packed(places, &free.iter().filter(behind).collect(), *count)
    }
}

/// The free devices of the kinds asked for, and what a transfer between each two crosses.
pub(super) struct Devices<'a> {
    all: Vec<&'a Device>,
    crossings: Vec<Vec<Crossing>>,
    /// Of each kind, how many.
    wanted: Vec<(String, usize)>,
    /// Those that the workload has already.
    given: Vec<usize>,
    most: Crossing,
    steps: u32,
}

impl<'a> Devices<'a> {
    pub(super) fn new(left: &Left<'a>, request: &Request) -> Self {
        let given = |device: &&&Device| request.given.contains(&device.name);
        let wanted = |device: &&&Device| {
            request.devices.contains_key(&device.kind) && !request.given.contains(&device.name)
        };
        let mut all: Vec<&Device> = left.machine.devices.iter().collect();
        let given: Vec<&Device> = all.iter().filter(given).copied().collect();
        all = left.devices.iter().filter(wanted).copied().collect();
        // Alike ones together: those that differ in nothing but the last step to them.
        all.sort_by(|one, other| {
            (&one.kind, one.node, &one.path).cmp(&(&other.kind, other.node, &other.path))
        });
        let free = all.len();
        all.extend(given);
        let row = |one: &&Device| all.iter().map(|it| Crossing::between(one, it)).collect();
        Self {
            crossings: all.iter().map(row).collect(),
            given: (free..all.len()).collect(),
            all,
            wanted: request.devices.iter().map(|(kind, count)| (kind.clone(), *count)).collect(),
            most: request.near.unwrap_or(Crossing::System),
            steps: MAX_STEPS,
        }
    }

    /// Those on a set of nodes that are nearest to each other, and what all transfers
    /// between them cross; none that cross more than `enough`.
    pub(super) fn nearest(&mut self, nodes: Nodes, enough: u32) -> Option<(u32, Vec<usize>)> {
        let mut best = None;
        let mut picked = self.given.clone();
        self.pick(nodes, (0, 0), 0, &mut picked, 0, enough.saturating_add(1), &mut best);
        best
    }

    pub(super) fn names(&self, devices: &[usize]) -> Vec<String> {
        devices.iter().map(|device| self.all[*device].name.clone()).collect()
    }

    /// Picks one device more: the `had + 1`st of the kind `kind`, not before `from` in the
    /// list, so that no set is looked at twice.
    #[allow(clippy::too_many_arguments)]
    fn pick(
        &mut self,
        nodes: Nodes,
        (kind, had): (usize, usize),
        from: usize,
        picked: &mut Vec<usize>,
        cost: u32,
        under: u32,
        best: &mut Option<(u32, Vec<usize>)>,
    ) {
        if cost >= best.as_ref().map_or(under, |(best, _)| *best) {
            return;
        }
        let Some((name, count)) = self.wanted.get(kind) else {
            *best = Some((cost, picked.clone()));
            return;
        };
        if had == *count {
            return self.pick(nodes, (kind + 1, 0), 0, picked, cost, under, best);
        }
        let mut next: Vec<(u32, usize)> = Vec::new();
        for (index, device) in self.all.iter().enumerate().skip(from) {
            let here = device.node.is_none_or(|node| nodes.has(node));
            if device.kind != *name || !here || self.given.contains(&index) {
                continue;
            }
            let crossings = picked.iter().map(|other| self.crossings[index][*other]);
            if crossings.clone().all(|crossing| crossing <= self.most) {
                next.push((crossings.map(|it| it as u32).sum(), index));
            }
        }
        let mut before: Option<usize> = None;
        for (more, index) in next {
            if self.steps == 0 {
                return;
            }
            // One that is as far from everything as the one before brings nothing new.
            if before.is_some_and(|before| self.alike(before, index)) {
                continue;
            }
            before = Some(index);
            self.steps -= 1;
            picked.push(index);
            self.pick(nodes, (kind, had + 1), index + 1, picked, cost + more, under, best);
            picked.pop();
        }
    }

    fn alike(&self, one: usize, other: usize) -> bool {
        let above = |device: usize| self.all[device].path.split_last().map(|(_, above)| above);
        let (first, second) = (self.all[one], self.all[other]);
        first.kind == second.kind && first.node == second.node && above(one) == above(other)
    }
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
    /// PUs of one core.
    threads: u32,
    /// How many caches it takes at least.
    needed: usize,
    steps: u32,
    /// PUs in shared cores, PUs left over, caches.
    best: Option<(u32, u32, Vec<u32>)>,
}

impl CacheSearch {
    /// `None` if all of them together have too few.
    fn new(
        caches: BTreeMap<u32, Cache>,
        wanted: usize,
        threads: usize,
        steps: u32,
    ) -> Option<Self> {
        let (wanted, threads) = (u32::try_from(wanted).ok()?, u32::try_from(threads).ok()?);
        let mut caches: Vec<(Cache, u32)> =
            caches.into_iter().map(|(id, cache)| (cache, id)).collect();
        caches.sort_by(|(one, id), (other, other_id)| other.cmp(one).then(id.cmp(other_id)));
        let mut sum = 0;
        let enough = |(cache, _): &(Cache, u32)| {
            sum += cache.free;
            sum >= wanted
        };
        let needed = caches.iter().position(enough)? + 1;
        Some(Self { caches, wanted, threads, needed, steps, best: None })
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
            if sum.free + most.sum::<u32>() < self.wanted || self.done() {
                return;
            }
            // One that is like the one before brings nothing new.
            if before == Some(cache) {
                continue;
            }
            before = Some(cache);
            self.steps = self.steps.saturating_sub(1);
            chosen.push(id);
            let sum = Cache { free: sum.free + cache.free, whole: sum.whole + cache.whole };
            self.pick(index + 1, chosen, sum);
            chosen.pop();
        }
    }

    /// Nothing can be better than what was found, or the steps are used up.
    fn done(&self) -> bool {
        match self.best {
            Some((shared, over, _)) => self.steps == 0 || (shared, over) == (0, 0),
            None => false,
        }
    }

    fn weigh(&mut self, chosen: &[u32], sum: Cache) {
        if sum.free < self.wanted {
            return;
        }
        let cores = (self.wanted / self.threads).min(sum.whole / self.threads);
        let shared = self.wanted - cores * self.threads;
        let over = sum.free - self.wanted;
        if self.best.as_ref().is_none_or(|best| (shared, over) < (best.0, best.1)) {
            self.best = Some((shared, over, chosen.to_vec()));
        }
    }
}
