//! NUMA nodes.
//!
//! Page: `hw-docs/numa.md`. Sources: `/sys/devices/system/node`
//! (Documentation/ABI/stable/sysfs-devices-node, admin-guide/mm/numaperf.rst),
//! `/sys/devices/virtual/memory_tiering` and `/sys/bus/cxl`. Every node that
//! the kernel shows is reported, with or without CPUs or memory; none is merged
//! or left out here.

use std::collections::BTreeMap;

use purlin_core::{
    idset::IdSet,
    inventory::{
        CxlMemory, MemorySideCache, NodeAccess, NodeFlag, NodeHugepages, NumaNode, Part, Problem,
    },
};

use crate::{
    Dir, Root, memory,
    probe::{Probe, label, numbered, quote},
};

const NODES: &str = "/sys/devices/system/node";
const TIERS: &str = "/sys/devices/virtual/memory_tiering";
const CXL: &str = "/sys/bus/cxl/devices";
const NVIDIA: &str = "/proc/driver/nvidia/gpus";

/// Access classes, memory-side caches and hugepage sizes of one node kept at
/// most; machines have two, one and four.
const MAX_OF_A_KIND: usize = 16;

/// Reads the nodes; `None` without a problem if the kernel has no node
/// directory, as kernels built without NUMA have none.
pub fn read(root: &Root) -> (Option<Vec<NumaNode>>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Numa, root);
    let nodes = read_nodes(&mut probe);
    (nodes, probe.finish())
}

fn read_nodes(probe: &mut Probe<'_>) -> Option<Vec<NumaNode>> {
    let dir = probe.dir(NODES)?;
    let ids = numbered(&dir, "node");
    let online = online(probe, &dir, &ids);
    let gpus = of_gpus(probe);
    let mut nodes: Vec<NumaNode> = Vec::new();
    for id in ids.iter() {
        let Some(dir) = probe.dir_in(&dir, &format!("node{id}")) else { continue };
        let mut node = node(probe, &dir, id, online.as_ref().unwrap_or(&ids));
        if online.as_ref().is_some_and(|online| !online.contains(id)) {
            node.flags.push(NodeFlag::Offline);
        }
        if gpus.contains(id) {
            node.flags.push(NodeFlag::Gpu);
        }
        nodes.push(node);
    }
    tiers(probe, &mut nodes);
    cxl(probe, &mut nodes);
    has_all_memory(probe, &nodes);
    Some(nodes)
}

/// Guests whose memory comes and goes have been seen with 126 GiB of memory and 4 of
/// it on nodes: whoever places by nodes must know.
fn has_all_memory(probe: &mut Probe<'_>, nodes: &[NumaNode]) {
    let sum = |sum: u64, node: &NumaNode| sum.checked_add(node.memory?);
    let Some(told) = nodes.iter().try_fold(0, sum).filter(|sum| *sum > 0) else { return };
    let meminfo = probe.text(memory::MEMINFO);
    let Some(total) = meminfo.and_then(|text| memory::bytes_of(&text, "MemTotal:")) else { return };
    if told < total / 10 * 9 {
        let (told, total) = (told >> 20, total >> 20);
        let what = format!(
            "nodes have {told} MiB and the machine {total} MiB: on which node the rest is, the \
             kernel does not tell"
        );
        probe.problem(NODES, what);
    }
}

/// The kernel's memory is on some node, so an empty list is a damaged file.
fn online(probe: &mut Probe<'_>, dir: &Dir<'_>, ids: &IdSet) -> Option<IdSet> {
    let set = probe.set((dir, "online"))?;
    if set.is_empty() && !ids.is_empty() {
        probe.problem(&dir.path_of("online"), "is empty, though there are nodes");
        return None;
    }
    Some(set)
}

fn node(probe: &mut Probe<'_>, dir: &Dir<'_>, id: u32, online: &IdSet) -> NumaNode {
    let meminfo = probe.text((dir, "meminfo"));
    // Each line starts with "Node 3 ".
    let bytes = |name: &str| memory::bytes_of(meminfo.as_deref()?, &format!("Node {id} {name}:"));
    let cpus = cpus(probe, dir);
    let memory = bytes("MemTotal");
    let mut flags = Vec::new();
    if cpus.as_ref().is_some_and(IdSet::is_empty) {
        flags.push(NodeFlag::CpuLess);
    }
    if memory == Some(0) {
        flags.push(NodeFlag::MemoryLess);
    }
    NumaNode {
        id,
        flags,
        cpus,
        memory,
        free: bytes("MemFree"),
        distances: distances(probe, dir, online),
        hugepages: hugepages(probe, dir),
        access: access(probe, dir),
        caches: side_caches(probe, dir),
        tier: None,
        cxl: Vec::new(),
    }
}

/// The CPUs of each node, for the CPU driver.
pub(crate) fn cpus_of_nodes(probe: &mut Probe<'_>) -> Vec<(u32, IdSet)> {
    let Some(dir) = probe.dir(NODES) else { return Vec::new() };
    let mut of = |id| {
        let dir = probe.dir_in(&dir, &format!("node{id}"))?;
        Some((id, cpus(probe, &dir)?))
    };
    numbered(&dir, "node").iter().filter_map(&mut of).collect()
}

fn cpus(probe: &mut Probe<'_>, dir: &Dir<'_>) -> Option<IdSet> {
    probe.mask_or_set((dir, "cpumap"), (dir, "cpulist"))
}

/// The kernel prints one figure for each *online* node, by ascending id, and
/// not for each possible one; the ids themselves can have gaps.
fn distances(probe: &mut Probe<'_>, dir: &Dir<'_>, online: &IdSet) -> BTreeMap<u32, u32> {
    let Some(text) = probe.text((dir, "distance")) else { return BTreeMap::new() };
    let row: Result<Vec<u32>, _> = text.split_whitespace().map(str::parse).collect();
    match row {
        Ok(row) if row.len() == online.len() => online.iter().zip(row).collect(),
        _ => {
            let what = format!("{} is not {} distances", quote(&text), online.len());
            probe.problem(&dir.path_of("distance"), what);
            BTreeMap::new()
        }
    }
}

fn hugepages(probe: &mut Probe<'_>, dir: &Dir<'_>) -> BTreeMap<u64, NodeHugepages> {
    let Some(dir) = probe.dir_in(dir, "hugepages") else { return BTreeMap::new() };
    let mut pool = |name: &str| {
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        let size = kib.parse::<u64>().ok()?.checked_mul(1 << 10)?;
        let dir = probe.dir_in(&dir, name)?;
        let total = probe.number((&dir, "nr_hugepages"))?;
        // What is free and surplus of an empty pool needs no asking.
        let mut pages = |file| match total {
            0 => Some(0),
            _ => probe.number((&dir, file)),
        };
        let (free, surplus) = (pages("free_hugepages"), pages("surplus_hugepages"));
        Some((size, NodeHugepages { total, free, surplus }))
    };
    dir.names().take(MAX_OF_A_KIND).filter_map(&mut pool).collect()
}

/// The figures of ACPI's HMAT, by access class.
fn access(probe: &mut Probe<'_>, dir: &Dir<'_>) -> BTreeMap<u32, NodeAccess> {
    let mut class = |class| {
        let dir = probe.dir_in(dir, &format!("access{class}/initiators"))?;
        // The firmware leaves at 0 what it doesn't tell.
        let mut figure = |name| probe.number((&dir, name)).filter(|figure| *figure > 0);
        let access = NodeAccess {
            read_latency_ns: figure("read_latency"),
            write_latency_ns: figure("write_latency"),
            read_bandwidth_mb_s: figure("read_bandwidth"),
            write_bandwidth_mb_s: figure("write_bandwidth"),
            initiators: numbered(&dir, "node"),
        };
        Some((class, access))
    };
    numbered(dir, "access").iter().take(MAX_OF_A_KIND).filter_map(&mut class).collect()
}

fn side_caches(probe: &mut Probe<'_>, dir: &Dir<'_>) -> Vec<MemorySideCache> {
    let Some(dir) = probe.dir_in(dir, "memory_side_cache") else { return Vec::new() };
    let mut cache = |level| {
        let dir = probe.dir_in(&dir, &format!("index{level}"))?;
        Some(MemorySideCache {
            level,
            size: probe.number((&dir, "size")).filter(|size| *size > 0),
            line: probe.number((&dir, "line_size")).filter(|line| *line > 0),
            // 0 is direct-mapped, 1 is indexed in another way.
            direct_mapped: probe.number((&dir, "indexing")).map(|way: u32| way == 0),
        })
    };
    numbered(&dir, "index").iter().take(MAX_OF_A_KIND).filter_map(&mut cache).collect()
}

/// Nodes that NVIDIA's driver made of its GPUs' memory; one with none yet says −1.
fn of_gpus(probe: &mut Probe<'_>) -> IdSet {
    let mut set = IdSet::default();
    let Some(gpus) = probe.dir(NVIDIA) else { return set };
    for gpu in gpus.names() {
        let path = format!("{NVIDIA}/{gpu}/numa_status");
        let Some(text) = probe.text(&path) else { continue };
        let node = text.lines().find_map(|line| line.strip_prefix("Node:"));
        let id = node.and_then(|id| id.trim().parse::<u32>().ok());
        set.extend(id.filter(|id| *id <= purlin_core::idset::MAX_ID));
    }
    set
}

fn tiers(probe: &mut Probe<'_>, nodes: &mut [NumaNode]) {
    let Some(dir) = probe.dir(TIERS) else { return };
    for tier in numbered(&dir, "memory_tier").iter() {
        let Some(dir) = probe.dir_in(&dir, &format!("memory_tier{tier}")) else { continue };
        let Some(list) = probe.set((&dir, "nodelist")) else { continue };
        nodes.iter_mut().filter(|node| list.contains(node.id)).for_each(|it| it.tier = Some(tier));
    }
}

fn cxl(probe: &mut Probe<'_>, nodes: &mut [NumaNode]) {
    let Some(dir) = probe.dir(CXL) else { return };
    for id in numbered(&dir, "mem").iter() {
        let name = format!("mem{id}");
        let Some(dir) = probe.dir_in(&dir, &name) else { continue };
        let at = probe.told((&dir, "numa_node"));
        // A device that is not yet part of the kernel's memory has no node.
        let Some(node) = nodes.iter_mut().find(|node| Some(node.id) == at) else { continue };
        node.cxl.push(CxlMemory {
            ram: capacity(probe, &dir, "ram"),
            persistent: capacity(probe, &dir, "pmem"),
            serial: probe.label((&dir, "serial")),
            firmware: probe.label((&dir, "firmware_version")),
            name,
        });
    }
}

/// Bytes from `0x10000000`.
fn capacity(probe: &mut Probe<'_>, dir: &Dir<'_>, name: &str) -> Option<u64> {
    let dir = probe.dir_in(dir, name)?;
    let text = label(&probe.text((&dir, "size"))?)?;
    let size = u64::from_str_radix(text.trim_start_matches("0x"), 16);
    size.map_err(|_| probe.problem(&dir.path_of("size"), quote(&text))).ok()
}
