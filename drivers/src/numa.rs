//! NUMA nodes.
//!
//! Page: `hw-docs/numa.md`. Source: `/sys/devices/system/node`
//! (Documentation/ABI/stable/sysfs-devices-node). Every node that the kernel
//! shows is reported, with or without CPUs or memory; none is merged or left
//! out here.

use std::collections::BTreeMap;

use purlin_core::{
    idset::IdSet,
    inventory::{NumaNode, Part, Problem},
};

use crate::{
    Root, memory,
    probe::{Probe, quote},
};

const NODES: &str = "/sys/devices/system/node";

/// Reads the nodes; `None` without a problem if the kernel has no node
/// directory, as kernels built without NUMA have none.
pub fn read(root: &Root) -> (Option<Vec<NumaNode>>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Numa, root);
    let nodes = read_nodes(&mut probe);
    (nodes, probe.finish())
}

fn read_nodes(probe: &mut Probe<'_>) -> Option<Vec<NumaNode>> {
    let ids = probe.numbered(NODES, "node")?;
    Some(ids.iter().map(|id| node(probe, id, &ids)).collect())
}

fn node(probe: &mut Probe<'_>, id: u32, ids: &IdSet) -> NumaNode {
    let dir = format!("{NODES}/node{id}");
    let meminfo = probe.text(&format!("{dir}/meminfo"));
    // Each line starts with "Node 3 ".
    let key = |name: &str| format!("Node {id} {name}:");
    NumaNode {
        id,
        cpus: cpus(probe, id).unwrap_or_default(),
        memory: meminfo.as_ref().and_then(|text| memory::bytes_of(text, &key("MemTotal"))),
        free: meminfo.as_ref().and_then(|text| memory::bytes_of(text, &key("MemFree"))),
        distances: distances(probe, &format!("{dir}/distance"), ids),
        hugepages: memory::hugepages(probe, &format!("{dir}/hugepages")),
    }
}

/// The CPUs of each node, for the CPU driver.
pub(crate) fn cpus_of_nodes(probe: &mut Probe<'_>) -> Vec<(u32, IdSet)> {
    let ids = probe.numbered(NODES, "node").unwrap_or_default();
    ids.iter().filter_map(|id| Some((id, cpus(probe, id)?))).collect()
}

fn cpus(probe: &mut Probe<'_>, id: u32) -> Option<IdSet> {
    let dir = format!("{NODES}/node{id}");
    probe.mask_or_set(&format!("{dir}/cpumap"), &format!("{dir}/cpulist"))
}

/// The kernel prints one figure for each *online* node, by ascending id, and
/// not for each possible one; the ids themselves can have gaps.
fn distances(probe: &mut Probe<'_>, path: &str, ids: &IdSet) -> BTreeMap<u32, u32> {
    let Some(text) = probe.text(path) else { return BTreeMap::new() };
    let row: Result<Vec<u32>, _> = text.split_whitespace().map(str::parse).collect();
    match row {
        Ok(row) if row.len() == ids.len() => ids.iter().zip(row).collect(),
        _ => {
            let what = format!("{} is not {} distances", quote(&text), ids.len());
            probe.problem(path, what);
            BTreeMap::new()
        }
    }
}
