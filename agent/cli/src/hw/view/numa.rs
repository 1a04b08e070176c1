//! NUMA nodes as rows and sections.

use purlin_core::inventory::{Inventory, NumaNode, Part};

use super::{Row, Section, UNKNOWN, memory::hugepages, or_unknown, row, section};
use crate::units::size;

pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    inventory.numa.iter().flatten().map(node_row).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    inventory.numa.iter().flatten().map(node_section).collect()
}

fn node_row(node: &NumaNode) -> Row {
    let name = format!("node {}", node.id);
    row(Part::Numa, name, Some(node.id), format!("{}, {}", node_memory(node), node_cpus(node)))
}

pub(super) fn node_memory(node: &NumaNode) -> String {
    match (node.memory, node.free) {
        (None, _) => "memory unknown".into(),
        (Some(0), _) => "no memory".into(),
        (Some(all), Some(free)) => format!("{}, {} free", size(all), size(free)),
        (Some(all), None) => size(all),
    }
}

fn node_cpus(node: &NumaNode) -> String {
    if node.cpus.is_empty() { "no CPUs".into() } else { format!("CPUs {}", node.cpus) }
}

fn node_section(node: &NumaNode) -> Section {
    let distances: Vec<String> =
        node.distances.iter().map(|(to, far)| format!("{to}:{far}")).collect();
    section(
        &format!("node {}", node.id),
        [
            ("CPUs", if node.cpus.is_empty() { "none".into() } else { node.cpus.to_string() }),
            ("memory", or_unknown(node.memory.map(size))),
            ("free", or_unknown(node.free.map(size))),
            ("distances", if distances.is_empty() { UNKNOWN.into() } else { distances.join(" ") }),
            ("hugepages", hugepages(&node.hugepages)),
        ],
    )
}
