//! The machine as placement sees it: nodes, CPUs that may be given out, devices.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use super::{
    cpus::{Place, Places},
    nodes::{Distances, Nodes},
};
use crate::idset::IdSet;

/// What can be given out, and where it sits.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// NUMA nodes by kernel id, ascending; a node's place here is its number in [`Nodes`].
    pub nodes: Vec<Node>,
    /// How far they are from each other.
    pub distances: Distances,
    /// PUs that may be given out, shared or exclusively.
    pub pus: Places,
    /// Devices that may be given out.
    pub devices: Vec<Device>,
}

/// A NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Kernel id.
    pub id: u32,
    /// Memory that workloads may use, in bytes.
    pub memory: u64,
    /// Hugepages: page size in bytes → bytes.
    pub hugepages: BTreeMap<u64, u64>,
}

/// A device, or a slice of one, that one workload can have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// What a workload is told, unique: a CDI name, a PCI address.
    pub name: String,
    /// What a request asks for: `gpu`, `nic-vf`, `mig-1g.10gb`.
    pub kind: String,
    /// Its node's number in [`Machine::nodes`], if the firmware tells one.
    pub node: Option<u32>,
    /// Its root bus, the bridges below that, and itself, by PCI address; empty if it is
    /// not on the PCI bus.
    pub path: Vec<String>,
    /// How a container that has it may show it, beside [`Device::cdi`]: device files of its
    /// own, CDI names that stand for others too.
    pub known_as: Vec<String>,
    /// Its CDI names (`vendor/class=name`), by which it alone is asked for.
    pub cdi: Vec<String>,
}

impl Device {
    /// True if it is of this kind, by a name of ours or by `vendor/class` of CDI, or is
    /// this very device of CDI.
    pub fn is(&self, kind: &str) -> bool {
        let of_kind = |name: &String| {
            let rest = name.strip_prefix(kind);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        self.kind == kind || self.cdi.iter().any(of_kind)
    }

    /// What a runtime is told to give to somebody who asked for these kinds: a CDI name of
    /// one of them, else the first there is.
    pub fn told<'a>(&self, mut kinds: impl Iterator<Item = &'a String>) -> Option<&String> {
        let of = |kind: &String| {
            let is = |name: &&String| {
                *name == kind || name.rsplit_once('=').is_some_and(|(of, _)| of == *kind)
            };
            self.cdi.iter().find(is)
        };
        kinds.find_map(of).or(self.cdi.first())
    }
}

/// What a transfer between two devices has to cross, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crossing {
    /// A PCIe switch or a root port.
    Switch,
    /// The host bridge of both.
    Root,
    /// The node's own interconnect.
    Node,
    /// The interconnect between nodes, or nobody knows.
    System,
}

impl Crossing {
    /// Between two devices.
    pub fn between(one: &Device, other: &Device) -> Self {
        let shared = one.path.iter().zip(&other.path).take_while(|(one, other)| one == other);
        match shared.count() {
            0 if one.node.is_some() && one.node == other.node => Self::Node,
            0 => Self::System,
            1 => Self::Root,
            _ => Self::Switch,
        }
    }
}

impl Machine {
    /// All of its nodes.
    pub fn all(&self) -> Nodes {
        (0..self.nodes.len() as u32).collect()
    }

    /// The set of nodes with these kernel ids; an id that is not there is left out.
    pub fn numbers(&self, ids: &IdSet) -> Nodes {
        (0..).zip(&self.nodes).filter(|(_, it)| ids.contains(it.id)).map(|(it, _)| it).collect()
    }

    /// The devices that a container shows under these names.
    pub fn named(&self, shown: &[String]) -> Vec<String> {
        let has = |it: &Device, name| it.known_as.contains(name) || it.cdi.contains(name);
        let is = |it: &&Device| shown.iter().any(|name| has(it, name));
        self.devices.iter().filter(is).map(|it| it.name.clone()).collect()
    }

    /// The PUs of the first core of each node.
    pub fn a_core_each(&self) -> IdSet {
        let mut cores: BTreeMap<u32, u32> = BTreeMap::new();
        for place in self.pus.values() {
            cores.entry(place.node).or_insert(place.core);
        }
        let first = |place: &Place| cores.get(&place.node) == Some(&place.core);
        self.pus.iter().filter(|(_, place)| first(place)).map(|(pu, _)| *pu).collect()
    }

    /// The PUs of the nodes with these kernel ids.
    pub fn pus_of(&self, ids: &IdSet) -> IdSet {
        let nodes = self.numbers(ids);
        self.pus.iter().filter(|(_, place)| nodes.has(place.node)).map(|(pu, _)| *pu).collect()
    }

    /// Those of these nodes, by kernel id, that have memory.
    pub fn with_memory(&self, ids: &IdSet) -> IdSet {
        let has = |node: &&Node| node.memory > 0 && ids.contains(node.id);
        self.nodes.iter().filter(has).map(|node| node.id).collect()
    }

    /// Kernel ids of a set of nodes.
    pub fn ids(&self, nodes: Nodes) -> IdSet {
        nodes.iter().filter_map(|node| Some(self.nodes.get(node as usize)?.id)).collect()
    }
}
