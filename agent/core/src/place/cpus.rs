//! Which CPUs of those that are free: kubelet's packing, PU by PU.
//!
//! The order is that of `takeByTopologyNUMAPacked` in
//! `pkg/kubelet/cm/cpumanager/cpu_assignment.go` (Kubernetes 1.34): whole packages and
//! nodes first, then whole cores, then single PUs, always from where the fewest are left,
//! so that what is broken already is used up before anything whole is broken.
//!
//! Kubelet counts on cores that are all alike. Where they are not (hybrid CPUs, a thread
//! that is offline) its order can leave half a core over though whole ones would do;
//! [`take`] and [`take_whole`] go by what cores there are of each size.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};

use core::cmp::Reverse;

use crate::idset::IdSet;

/// Where a PU sits. The numbers are any that tell one group from another in the whole
/// machine, and that are ascending in the kernel's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// NUMA node.
    pub node: u32,
    /// Package.
    pub package: u32,
    /// Last-level cache.
    pub l3: u32,
    /// Core.
    pub core: u32,
    /// Kind of core, the slowest first; 0 where all are alike.
    pub kind: u32,
}

/// Every PU that could ever be given out, by kernel id.
pub type Places = BTreeMap<u32, Place>;

/// How many PUs each core has, free or not.
pub type Sizes = BTreeMap<u32, usize>;

/// The sizes of a machine's cores.
pub fn sizes(places: &Places) -> Sizes {
    let mut sizes = Sizes::new();
    places.values().for_each(|place| *sizes.entry(place.core).or_default() += 1);
    sizes
}

/// Takes `count` of the `free` PUs as kubelet does; `None` if there are fewer.
pub fn take_packed(places: &Places, free: &IdSet, count: usize) -> Option<IdSet> {
    packed(places, free, count, None)
}

/// Takes `count` of the `free` PUs so that the most of them that can be are whole cores.
pub fn take(places: &Places, free: &IdSet, count: usize) -> Option<IdSet> {
    let cores = Cores::within(places, free);
    packed(places, free, count, cores.alike().is_none().then(|| cores.choose(count)))
}

/// Takes whole cores of `free` that have `count` PUs together, of as few kinds of core as
/// that is possible with, and of the fastest; `None` if no whole cores have just as many.
pub fn take_whole(places: &Places, free: &IdSet, count: usize) -> Option<IdSet> {
    if count == 0 {
        return Some(IdSet::default());
    }
    let of = |kinds: &Vec<u32>| of_kinds(places, free, kinds);
    let sizes = sizes(places);
    let mut sets = kinds(places, free).into_iter().map(|kinds| of(&kinds));
    let free = sets.find(|free| Cores::of(&sizes, places, free).most(count) == count)?;
    take(places, &free, count)
}

/// Every set of kinds of cores that are free, in the order in which they are to be tried:
/// those of fewer kinds first, then those whose slowest is faster.
pub fn kinds(places: &Places, free: &IdSet) -> Vec<Vec<u32>> {
    let all: BTreeSet<u32> = free.iter().filter_map(|pu| Some(places.get(&pu)?.kind)).collect();
    let mut sets: Vec<Vec<u32>> = Vec::from([Vec::new()]);
    for kind in all {
        let with = |set: &Vec<u32>| set.iter().copied().chain([kind]).collect();
        sets.extend(sets.iter().map(with).collect::<Vec<_>>());
    }
    sets.sort_by_key(|set| (set.len(), Reverse(set.first().copied())));
    sets.split_off(1)
}

/// The PUs of those that are free whose core is of one of these kinds.
pub fn of_kinds(places: &Places, free: &IdSet, kinds: &[u32]) -> IdSet {
    let is = |pu: &u32| places.get(pu).is_some_and(|place| kinds.contains(&place.kind));
    free.iter().filter(is).collect()
}

/// Cores by how many PUs each has, the largest first: that many, and how many cores.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cores(Vec<(usize, usize)>);

impl Cores {
    /// The cores that a set of PUs has as a whole.
    pub fn within(places: &Places, pus: &IdSet) -> Self {
        Self::of(&sizes(places), places, pus)
    }

    /// The same for one of many sets: the sizes are those of all `places`.
    pub fn of(sizes: &Sizes, places: &Places, pus: &IdSet) -> Self {
        let mut here: Sizes = BTreeMap::new();
        for place in pus.iter().filter_map(|pu| places.get(&pu)) {
            *here.entry(place.core).or_default() += 1;
        }
        let mut cores = Self::default();
        let whole = here.into_iter().filter(|(core, here)| sizes.get(core) == Some(here));
        whole.for_each(|(_, size)| cores.count(size, 1));
        cores
    }

    /// These and others.
    pub fn add(&mut self, others: &Self) {
        others.0.iter().for_each(|(size, count)| self.count(*size, *count));
    }

    fn count(&mut self, size: usize, more: usize) {
        match self.0.binary_search_by(|(it, _)| size.cmp(it)) {
            Ok(at) => self.0[at].1 += more,
            Err(at) => self.0.insert(at, (size, more)),
        }
    }

    /// The PUs of each of them, if all have as many.
    pub fn alike(&self) -> Option<usize> {
        self.0.first().filter(|_| self.0.len() == 1).map(|(size, _)| *size)
    }

    /// The PUs of all.
    pub fn pus(&self) -> usize {
        self.0.iter().map(|(size, count)| size * count).sum()
    }

    /// The most PUs, `wanted` at most, that some of them have together.
    pub fn most(&self, wanted: usize) -> usize {
        most(&self.0, wanted)
    }

    /// So many of them as have the most PUs together, the largest first; by size.
    fn choose(&self, wanted: usize) -> BTreeMap<usize, usize> {
        let mut left = self.most(wanted);
        let mut chosen = BTreeMap::new();
        for (index, (size, count)) in self.0.iter().enumerate() {
            let fits = |count: &usize| {
                let rest = left - count * size;
                most(&self.0[index + 1..], rest) == rest
            };
            let count = (0..=(*count).min(left / size)).rev().find(fits).unwrap_or(0);
            left -= count * size;
            chosen.insert(*size, count);
        }
        chosen
    }

    /// `3 of 2 PUs, 1 of 1 PU`.
    pub fn words(&self) -> String {
        let words = |(size, count): &(usize, usize)| {
            format!("{count} of {size} {}", if *size == 1 { "PU" } else { "PUs" })
        };
        self.0.iter().map(words).collect::<Vec<_>>().join(", ")
    }
}

/// The most that some of these sizes sum up to, `wanted` at most; each as often as it is
/// there. Of the first `size` fewer than could be are enough to try: any `size` others that
/// stand in for more have some among them that are a multiple of it together, and change
/// places with them.
fn most(sizes: &[(usize, usize)], wanted: usize) -> usize {
    let Some(((size, count), rest)) = sizes.split_first() else { return 0 };
    let mut best = 0;
    for count in (0..=(*count).min(wanted / size)).rev().take(size + 1) {
        let sum = count * size;
        best = best.max(sum + most(rest, wanted - sum));
        if best == wanted {
            break;
        }
    }
    best
}

fn packed(
    places: &Places,
    free: &IdSet,
    count: usize,
    cores: Option<BTreeMap<usize, usize>>,
) -> Option<IdSet> {
    let free: IdSet = free.iter().filter(|pu| places.contains_key(pu)).collect();
    if count > free.len() {
        return None;
    }
    let mut taking = Taking { cores, ..Taking::new(places, free, count) };
    let [first, second] = taking.outer;
    taking.take_whole(first, &[]);
    taking.take_whole(second, &[first]);
    taking.take_whole(Group::Core, &[first, second]);
    taking.take_rest();
    Some(taking.taken)
}

/// A kind of group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Node,
    Package,
    Core,
}

impl Group {
    /// The group of this kind that a PU is in.
    fn of(self, place: &Place) -> u32 {
        match self {
            Group::Node => place.node,
            Group::Package => place.package,
            Group::Core => place.core,
        }
    }
}

struct Taking<'a> {
    places: &'a Places,
    free: IdSet,
    needed: usize,
    taken: IdSet,
    /// Nodes and packages, the larger of the two first.
    outer: [Group; 2],
    /// Whole cores that may still be taken, by their size; `None`: all that fit.
    cores: Option<BTreeMap<usize, usize>>,
}

impl<'a> Taking<'a> {
    fn new(places: &'a Places, free: IdSet, needed: usize) -> Self {
        let nodes_hold_packages = count(places, Group::Package) >= count(places, Group::Node);
        let outer = match nodes_hold_packages {
            true => [Group::Node, Group::Package],
            false => [Group::Package, Group::Node],
        };
        Self { places, free, needed, taken: IdSet::default(), outer, cores: None }
    }

    /// Takes each whole group that is still needed whole.
    fn take_whole(&mut self, group: Group, around: &[Group]) {
        for id in self.sorted(group, around) {
            let all = members(self.places, group, id);
            let free = all.intersection(&self.free).len();
            if free == all.len() && self.needed >= all.len() && self.may(&all) {
                all.iter().for_each(|pu| self.take(pu));
            }
        }
    }

    /// True if the cores of a group may be taken; counts them then.
    fn may(&mut self, group: &IdSet) -> bool {
        let Some(cores) = &mut self.cores else { return true };
        let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
        for place in group.iter().filter_map(|pu| self.places.get(&pu)) {
            *sizes.entry(place.core).or_default() += 1;
        }
        let mut left = cores.clone();
        for size in sizes.values() {
            match left.get_mut(size).filter(|left| **left > 0) {
                Some(left) => *left -= 1,
                None => return false,
            }
        }
        *cores = left;
        true
    }

    fn take_rest(&mut self) {
        for core in self.sorted(Group::Core, &self.outer) {
            for pu in members(self.places, Group::Core, core).intersection(&self.free).iter() {
                if self.needed == 0 {
                    return;
                }
                self.take(pu);
            }
        }
    }

    fn take(&mut self, pu: u32) {
        self.free.remove(pu);
        self.taken.insert(pu);
        self.needed = self.needed.saturating_sub(1);
    }

    /// The groups with a free PU, those in the groups with the fewest free ones first.
    fn sorted(&self, group: Group, around: &[Group]) -> Vec<u32> {
        let kinds: Vec<Group> = around.iter().copied().chain([group]).collect();
        let places = || self.free.iter().filter_map(|pu| self.places.get(&pu));
        let mut free: BTreeMap<(Group, u32), usize> = BTreeMap::new();
        for place in places() {
            for kind in &kinds {
                *free.entry((*kind, kind.of(place))).or_default() += 1;
            }
        }
        let rank = |place: &Place| -> Vec<(usize, u32)> {
            kinds.iter().map(|kind| (free[&(*kind, kind.of(place))], kind.of(place))).collect()
        };
        let ranks: BTreeSet<Vec<(usize, u32)>> = places().map(rank).collect();
        ranks.iter().filter_map(|rank| Some(rank.last()?.1)).collect()
    }
}

fn count(places: &Places, group: Group) -> usize {
    places.values().map(|place| group.of(place)).collect::<BTreeSet<_>>().len()
}

fn members(places: &Places, group: Group, of: u32) -> IdSet {
    places.iter().filter(|(_, place)| group.of(place) == of).map(|(pu, _)| *pu).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packages of nodes of cores of threads, numbered as Linux does: all first threads,
    /// then all second ones.
    fn machine(packages: u32, nodes: u32, cores: u32, threads: u32) -> Places {
        let all = packages * nodes * cores;
        let place = |pu: u32| {
            let core = pu % all;
            Place {
                node: core / cores,
                package: core / (nodes * cores),
                l3: core / cores,
                core,
                kind: 0,
            }
        };
        (0..all * threads).map(|pu| (pu, place(pu))).collect()
    }

    #[track_caller]
    fn check(places: &Places, free: &str, count: usize, taken: &str) {
        let set = |list| IdSet::parse(list).expect("a valid list");
        let expected = (taken != "none").then(|| set(taken));
        assert_eq!(take_packed(places, &set(free), count), expected, "{count} of {free}");
    }

    #[test]
    fn the_emptiest_package_is_used_up_first() {
        let two = machine(2, 1, 4, 2);
        check(&two, "0-3,6,8-11,14", 2, "6,14");
        check(&two, "2-3,4-7,10-11,12-15", 4, "2-3,10-11");
    }
}
