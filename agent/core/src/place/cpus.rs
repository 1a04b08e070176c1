//! Which CPUs of those that are free: kubelet's packing, PU by PU.
//!
//! The order is that of `takeByTopologyNUMAPacked` in
//! `pkg/kubelet/cm/cpumanager/cpu_assignment.go` (Kubernetes 1.34): whole packages and
//! nodes first, then whole cores, then single PUs, always from where the fewest are left,
//! so that what is broken already is used up before anything whole is broken.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

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
}

/// Every PU that could ever be given out, by kernel id.
pub type Places = BTreeMap<u32, Place>;

/// Takes `count` of the `free` PUs; `None` if there are fewer.
pub fn take_packed(places: &Places, free: &IdSet, count: usize) -> Option<IdSet> {
    let free: IdSet = free.iter().filter(|pu| places.contains_key(pu)).collect();
    if count > free.len() {
        return None;
    }
    let mut taking = Taking::new(places, free, count);
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
}

impl<'a> Taking<'a> {
    fn new(places: &'a Places, free: IdSet, needed: usize) -> Self {
        let nodes_hold_packages = count(places, Group::Package) >= count(places, Group::Node);
        let outer = match nodes_hold_packages {
            true => [Group::Node, Group::Package],
            false => [Group::Package, Group::Node],
        };
        Self { places, free, needed, taken: IdSet::default(), outer }
    }

    /// Takes each whole group that is still needed whole.
    fn take_whole(&mut self, group: Group, around: &[Group]) {
        for id in self.sorted(group, around) {
            let all = members(self.places, group, id);
            let free = all.intersection(&self.free).len();
            if free == all.len() && self.needed >= all.len() {
                all.iter().for_each(|pu| self.take(pu));
            }
        }
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
            Place { node: core / cores, package: core / (nodes * cores), l3: core / cores, core }
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
