//! A machine in numbers, so that two readers of it can be compared.
//!
//! Two views stand side by side. One counts as hwloc does: what this process
//! may use, without nodes that have no memory or are a GPU's, memory 0 where
//! it is unknown, and one node where the kernel shows none. The other counts
//! what the kernel shows, whole. Where they differ the second is the machine.
//!
//! Two heuristics of hwloc are not followed: groups made of distances, and
//! nodes merged because their CPUs overlap.

use alloc::{
    collections::BTreeSet,
    string::{String, ToString},
    vec::Vec,
};

use serde::Serialize;

use crate::{
    idset::IdSet,
    inventory::{Cache, CacheKind, Cpu, GroupKind, Inventory, NodeFlag, NumaNode},
};

/// PCI class and subclass of a bridge between PCI buses, and of one that is
/// semi-transparent.
const BRIDGES: [u32; 2] = [0x0604, 0x0609];

/// The counts; one that is unknown is left out of the JSON form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packages.
    pub packages: usize,
    /// Dies that are less than their package.
    pub dies: usize,
    /// NUMA nodes with memory that isn't a GPU's own.
    pub numa_nodes: usize,
    /// L3 caches.
    #[serde(rename = "L3")]
    pub l3: usize,
    /// L2 caches, without those for instructions.
    #[serde(rename = "L2")]
    pub l2: usize,
    /// L1 caches, without those for instructions.
    #[serde(rename = "L1d")]
    pub l1d: usize,
    /// Cores.
    pub cores: usize,
    /// PUs that are online and may be used.
    pub pus: usize,
    /// PUs that the kernel lists, whatever their state.
    pub pus_complete: usize,
    /// PUs that may be used.
    pub pus_allowed: usize,
    /// Memory-side caches.
    pub memsidecache: usize,
    /// PCI functions that are no bridges between buses.
    pub pci_dev: usize,
    /// Bridges between PCI buses.
    pub pci_bridge: usize,
    /// Network interfaces with hardware behind them.
    pub os_net: usize,
    /// Memory of the nodes counted, in KiB.
    #[serde(rename = "mem_kB")]
    pub mem_kib: u64,
    /// CPUs that are plugged in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_present_cpus: Option<usize>,
    /// CPUs that run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_online_cpus: Option<usize>,
    /// CPUs that have a directory.
    pub sysfs_cpudirs: usize,
    /// Nodes that have a directory.
    pub sysfs_nodes: usize,
    /// Nodes known to have no CPUs.
    pub sysfs_cpuless_nodes: usize,
    /// Nodes known to have no memory.
    pub sysfs_memless_nodes: usize,
    /// Nodes whose memory has an access class 0, that of its best initiators.
    pub hmat_nodes: usize,
    /// Distances from the first node, with commas between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node0_distance: Option<String>,
    /// PCI functions.
    pub sysfs_pci: usize,
    /// Network interfaces.
    pub sysfs_net: usize,
}

/// Counts a machine.
pub fn counts(inventory: &Inventory) -> Counts {
    let nothing = Cpu::default();
    let cpu = inventory.cpu.as_ref().unwrap_or(&nothing);
    let nodes = inventory.numa.as_deref().unwrap_or_default();
    let pci = inventory.pci.as_deref().unwrap_or_default();
    let nics = inventory.nics.as_deref().unwrap_or_default();
    let usable = usable(cpu);
    let bridges = pci.iter().filter(|it| BRIDGES.contains(&(it.class >> 8))).count();
    let marked = |flag| nodes.iter().filter(|node| node.is(flag)).count();
    let counted: Vec<&NumaNode> = nodes.iter().filter(|node| is_counted(node, cpu)).collect();
    // hwloc keeps a thing without PUs to use for the memory that is in it.
    let kept = |pus: &IdSet| {
        let inside = |cpus: &IdSet| !cpus.is_empty() && cpus.is_subset(pus);
        meets(pus, &usable) || counted.iter().any(|it| it.cpus.as_ref().is_some_and(inside))
    };
    let groups = |kind| cpu.groups(kind).filter(|it| kept(&it.pus)).count();
    Counts {
        packages: groups(GroupKind::Package),
        dies: dies(cpu, kept),
        numa_nodes: counted.len().max(1),
        l3: caches(cpu, 3, kept),
        l2: caches(cpu, 2, kept),
        l1d: caches(cpu, 1, kept),
        cores: groups(GroupKind::Core),
        pus: usable.len(),
        pus_complete: cpu.listed.len(),
        pus_allowed: usable.len(),
        memsidecache: counted.iter().map(|node| node.caches.len()).sum(),
        pci_dev: pci.len() - bridges,
        pci_bridge: bridges,
        os_net: nics.iter().filter(|nic| nic.physical || nic.pci.is_some()).count(),
        mem_kib: memory(inventory, &counted),
        kernel_present_cpus: cpu.present.as_ref().map(IdSet::len),
        kernel_online_cpus: cpu.present.as_ref().and(cpu.online.as_ref()).map(IdSet::len),
        sysfs_cpudirs: cpu.listed.len(),
        sysfs_nodes: nodes.len(),
        sysfs_cpuless_nodes: marked(NodeFlag::CpuLess),
        sysfs_memless_nodes: marked(NodeFlag::MemoryLess),
        hmat_nodes: nodes.iter().filter(|node| node.access.contains_key(&0)).count(),
        node0_distance: nodes.first().and_then(distances),
        sysfs_pci: pci.len(),
        sysfs_net: nics.len(),
    }
}

/// Online PUs that a cgroup doesn't keep from this process.
fn usable(cpu: &Cpu) -> IdSet {
    let online: IdSet = cpu.pus.iter().map(|pu| pu.id).collect();
    match &cpu.allowed {
        Some(allowed) if meets(allowed, &online) => online.intersection(allowed),
        _ => online,
    }
}

fn meets(a: &IdSet, b: &IdSet) -> bool {
    !a.intersection(b).is_empty()
}

fn is_counted(node: &NumaNode, cpu: &Cpu) -> bool {
    let allowed = cpu.allowed_nodes.as_ref().is_none_or(|nodes| nodes.contains(node.id));
    allowed && !node.is(NodeFlag::MemoryLess) && !node.is(NodeFlag::Gpu)
}

fn dies(cpu: &Cpu, kept: impl Fn(&IdSet) -> bool) -> usize {
    let whole = |die: &IdSet| cpu.groups(GroupKind::Package).any(|it| it.pus.is_subset(die));
    cpu.groups(GroupKind::Die).filter(|it| kept(&it.pus) && !whole(&it.pus)).count()
}

fn caches(cpu: &Cpu, level: u32, kept: impl Fn(&IdSet) -> bool) -> usize {
    let fits = |cache: &&Cache| cache.level == level && cache.kind != CacheKind::Instruction;
    let sets = cpu.caches.iter().filter(fits).map(|cache| &cache.shared_by);
    // Two that the same PUs share are one to hwloc.
    sets.filter(|set| kept(set)).map(ToString::to_string).collect::<BTreeSet<_>>().len()
}

fn memory(inventory: &Inventory, counted: &[&NumaNode]) -> u64 {
    let bytes = match inventory.numa.as_deref() {
        Some([_, ..]) => counted.iter().filter_map(|node| node.memory).sum(),
        _ => inventory.memory.as_ref().and_then(|memory| memory.total).unwrap_or(0),
    };
    bytes >> 10
}

fn distances(node: &NumaNode) -> Option<String> {
    let row: Vec<String> = node.distances.values().map(ToString::to_string).collect();
    (!row.is_empty()).then(|| row.join(","))
}
