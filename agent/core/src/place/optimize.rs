//! The best placement there is: fewest nodes, then the closest, then the nearest devices,
//! then the fewest kinds of cores, then the fastest, then the fewest last-level caches, then
//! the fewest cores shared with somebody else, then the least left over.
//!
//! Sets of nodes are tried best first, and since each part of the score counts only where
//! all before it are equal, the search ends with the first number of nodes and distance at
//! which anything fits. Devices and caches are searched by branch and bound, the nearest
//! and the largest first; both give up after a fixed number of steps, with the best found
//! so far and how far from the best it may be, so that a decision takes a bounded time on
//! any machine.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use super::{
    cpus::{self, Cores},
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
    kinds: Vec<u32>,
    caches: Vec<u32>,
}

/// What is the same for every set of nodes.
struct Search<'a> {
    left: &'a Left<'a>,
    exclusive: Option<Exclusive>,
    cache_steps: u32,
    devices: Devices<'a>,
}

/// The PUs that may be given.
struct Exclusive {
    count: usize,
    smt: Smt,
    free: IdSet,
    /// By sets of kinds of cores, in the order to try them.
    kinds: Vec<OfKinds>,
    /// The machine's fastest kind of core.
    fastest: u32,
}

/// The caches of some kinds of cores, by node and number.
struct OfKinds {
    kinds: Vec<u32>,
    caches: BTreeMap<(u32, u32), Cache>,
}

impl Exclusive {
    fn new(left: &Left<'_>, count: usize, smt: Smt) -> Self {
        let places = &left.machine.pus;
        let free = match smt {
            Smt::Any => left.exclusive.clone(),
            Smt::FullCores => left.whole.clone(),
        };
        let sizes = cpus::sizes(places);
        let kinds = cpus::kinds(places, &free).into_iter().map(|kinds| {
            let mut caches: BTreeMap<(u32, u32), IdSet> = BTreeMap::new();
            for pu in cpus::of_kinds(places, &free, &kinds).iter() {
                let place = &places[&pu];
                caches.entry((place.node, place.l3)).or_default().insert(pu);
            }
            let cache =
                |pus: IdSet| Cache { free: pus.len(), cores: Cores::of(&sizes, places, &pus) };
            let caches = caches.into_iter().map(|(at, pus)| (at, cache(pus))).collect();
            OfKinds { kinds, caches }
        });
        let fastest = places.values().map(|place| place.kind).max().unwrap_or(0);
        Self { count, smt, kinds: kinds.collect(), free, fastest }
    }
}

impl<'a> Search<'a> {
    fn new(left: &'a Left<'a>, request: &Request) -> Self {
        let exclusive = match request.cpus {
            Cpus::Shared { .. } => None,
            Cpus::Exclusive { count, smt } => Some(Exclusive::new(left, count, smt)),
        };
        let devices = Devices::new(left, request);
        Self { left, exclusive, cache_steps: MAX_STEPS, devices }
    }

    /// The best on one set of nodes that is no worse than what was found before.
    fn on(&mut self, nodes: Nodes, distance: f64, best: Option<&Found>) -> Result<Found, String> {
        let enough = best.map_or(u32::MAX, |best| best.score.crossings);
        let (crossings, devices) =
            self.devices.nearest(nodes, enough).ok_or("devices that are near enough")?;
        let score = Score { nodes: nodes.len(), distance, crossings, ..Score::default() };
        let mut found = Found { nodes, score, devices, kinds: Vec::new(), caches: Vec::new() };
        let Some(exclusive) = &self.exclusive else { return Ok(found) };
        let mut best: Option<(Score, &Vec<u32>, Vec<u32>)> = None;
        for OfKinds { kinds, caches } in &exclusive.kinds {
            let slower = exclusive.fastest - kinds.first().copied().unwrap_or_default();
            let score = Score { kinds: kinds.len() as u32, slower, ..score };
            if best
                .as_ref()
                .is_some_and(|(best, ..)| (best.kinds, best.slower) < (score.kinds, slower))
            {
                break;
            }
            let mut here: BTreeMap<u32, Cache> = BTreeMap::new();
            for ((_, id), cache) in caches.iter().filter(|((node, _), _)| nodes.has(*node)) {
                let sum = here.entry(*id).or_default();
                sum.free += cache.free;
                sum.cores.add(&cache.cores);
            }
            let mut search =
                CacheSearch::new(here, exclusive.count, exclusive.smt, self.cache_steps);
            search.run();
            self.cache_steps = search.steps;
            let Some((shared_cores, left_over, caches)) = search.best else { continue };
            let score = Score {
                caches: caches.len() as u32,
                shared_cores: shared_cores as u32,
                left_over: left_over as u32,
                ..score
            };
            if best.as_ref().is_none_or(|(best, ..)| score < *best) {
                best = Some((score, kinds, caches));
            }
        }
        let (score, kinds, caches) = best.ok_or("exclusive PUs")?;
        (found.score, found.kinds, found.caches) = (score, kinds.clone(), caches);
        Ok(found)
    }

    /// What might be better than what was found, if a search gave up.
    fn gap(&self, score: &Score) -> Option<Gap> {
        let gap =
            |of: &str, found, bound| (found > bound).then(|| Gap { of: of.into(), found, bound });
        let devices = gap("crossings", score.crossings, 0).filter(|_| self.devices.steps == 0);
        let whole = self.exclusive.as_ref().is_some_and(|it| it.smt == Smt::FullCores);
        let caches = match whole {
            true => gap("caches", score.caches, 1),
            false => gap("shared_cores", score.shared_cores, 0),
        };
        devices.or(caches.filter(|_| self.cache_steps == 0))
    }

    /// The PUs behind the caches that were chosen.
    fn take(&self, found: &Found) -> Option<IdSet> {
        let Exclusive { count, free, .. } = self.exclusive.as_ref()?;
        let places = &self.left.machine.pus;
        let behind = |pu: &u32| {
            let place = places.get(pu);
            place.is_some_and(|it| found.nodes.has(it.node) && found.caches.contains(&it.l3))
        };
        let behind: IdSet = free.iter().filter(behind).collect();
        cpus::take(places, &cpus::of_kinds(places, &behind, &found.kinds), *count)
    }
}

/// The free devices of the kinds asked for, and what a transfer between each two crosses.
pub(super) struct Devices<'a> {
    all: Vec<&'a Device>,
    crossings: Vec<Vec<Crossing>>,
    /// Of each kind, how many.
    wanted: Vec<usize>,
    /// Of which of those kinds each device is: it may be of several.
    kinds: Vec<Vec<bool>>,
    /// Those that the workload has already.
    given: Vec<usize>,
    most: Crossing,
    steps: u32,
}

impl<'a> Devices<'a> {
    pub(super) fn new(left: &Left<'a>, request: &Request) -> Self {
        let given = |device: &&&Device| request.given.contains(&device.name);
        let wanted = |device: &&&Device| {
            let asked = request.devices.keys().any(|kind| device.is(kind));
            asked && !request.given.contains(&device.name)
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
        let kinds = |it: &&Device| request.devices.keys().map(|kind| it.is(kind)).collect();
        Self {
            crossings: all.iter().map(row).collect(),
            given: (free..all.len()).collect(),
            kinds: all.iter().map(kinds).collect(),
            all,
            wanted: request.devices.values().copied().collect(),
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
        let Some(count) = self.wanted.get(kind) else {
            *best = Some((cost, picked.clone()));
            return;
        };
        if had == *count {
            return self.pick(nodes, (kind + 1, 0), 0, picked, cost, under, best);
        }
        let mut next: Vec<(u32, usize)> = Vec::new();
        for (index, device) in self.all.iter().enumerate().skip(from) {
            let here = device.node.is_none_or(|node| nodes.has(node));
            if !self.kinds[index][kind] || !here || picked.contains(&index) {
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
        let kinds = self.kinds[one] == self.kinds[other] && first.kind == second.kind;
        kinds && first.node == second.node && above(one) == above(other)
    }
}

/// What is free behind one last-level cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Cache {
    /// PUs.
    free: usize,
    /// Cores that are free as a whole.
    cores: Cores,
}

/// Looks for the best of the smallest sets of caches that have enough PUs.
struct CacheSearch {
    /// The largest first, alike ones together.
    caches: Vec<(Cache, u32)>,
    wanted: usize,
    smt: Smt,
    /// How many caches are tried together.
    together: usize,
    steps: u32,
    /// Some of so many were weighed.
    weighed: bool,
    /// PUs in shared cores, PUs left over, caches.
    best: Option<(usize, usize, Vec<u32>)>,
}

impl CacheSearch {
    fn new(caches: BTreeMap<u32, Cache>, wanted: usize, smt: Smt, steps: u32) -> Self {
        let mut caches: Vec<(Cache, u32)> =
            caches.into_iter().map(|(id, cache)| (cache, id)).collect();
        caches.sort_by(|(one, id), (other, other_id)| other.cmp(one).then(id.cmp(other_id)));
        Self { caches, wanted, smt, together: 0, steps, weighed: false, best: None }
    }

    /// As few caches as will do. Whole cores of different sizes can need more than those
    /// that have enough PUs; with the steps used up, all caches are taken.
    fn run(&mut self) {
        let mut sum = 0;
        let enough = |(cache, _): &(Cache, u32)| {
            sum += cache.free;
            sum >= self.wanted
        };
        let Some(least) = self.caches.iter().position(enough) else { return };
        for together in least + 1..=self.caches.len() {
            (self.together, self.weighed) = (together, false);
            self.pick(0, &mut Vec::new(), 0);
            if self.best.is_some() {
                return;
            }
        }
        self.weigh(&(0..self.caches.len()).collect::<Vec<_>>());
    }

    fn pick(&mut self, from: usize, chosen: &mut Vec<usize>, free: usize) {
        let missing = self.together - chosen.len();
        if missing == 0 {
            return self.weigh(chosen);
        }
        let mut before = None;
        for index in from..self.caches.len() {
            // The largest that are left, from here on, would not do.
            let most = self.caches[index..].iter().take(missing).map(|(it, _)| it.free);
            if free + most.sum::<usize>() < self.wanted || self.done() {
                return;
            }
            // One that is like the one before brings nothing new.
            if before.is_some_and(|before: usize| self.caches[before].0 == self.caches[index].0) {
                continue;
            }
            before = Some(index);
            self.steps = self.steps.saturating_sub(1);
            chosen.push(index);
            self.pick(index + 1, chosen, free + self.caches[index].0.free);
            chosen.pop();
        }
    }

    /// Nothing can be better than what was found, or the steps are used up.
    fn done(&self) -> bool {
        let perfect = self.best.as_ref().is_some_and(|(shared, over, _)| shared + over == 0);
        perfect || (self.steps == 0 && self.weighed)
    }

    fn weigh(&mut self, chosen: &[usize]) {
        self.weighed = true;
        let (mut free, mut cores) = (0, Cores::default());
        for (cache, _) in chosen.iter().map(|index| &self.caches[*index]) {
            free += cache.free;
            cores.add(&cache.cores);
        }
        if free < self.wanted {
            return;
        }
        let shared = self.wanted - cores.most(self.wanted);
        let over = free - self.wanted;
        let may = self.smt == Smt::Any || shared == 0;
        if may && self.best.as_ref().is_none_or(|best| (shared, over) < (best.0, best.1)) {
            let ids = chosen.iter().map(|index| self.caches[*index].1).collect();
            self.best = Some((shared, over, ids));
        }
    }
}
