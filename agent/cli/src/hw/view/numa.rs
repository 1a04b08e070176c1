//! NUMA nodes as rows and sections.

use purlin_core::inventory::{
    CxlMemory, Inventory, MemorySideCache, NodeAccess, NodeFlag, NodeHugepages, NumaNode, Part,
};

use super::{Row, Section, UNKNOWN, join, or_unknown, row, section, set};
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
    match &node.cpus {
        Some(cpus) if cpus.is_empty() => "no CPUs".into(),
        cpus => format!("CPUs {}", or_unknown(cpus.as_ref())),
    }
}

fn node_section(node: &NumaNode) -> Section {
    let distances: Vec<String> =
        node.distances.iter().map(|(to, far)| format!("{to}:{far}")).collect();
    let mut facts = section(
        &format!("node {}", node.id),
        [
            ("CPUs", set(&node.cpus)),
            ("memory", or_unknown(node.memory.map(size))),
            ("free", or_unknown(node.free.map(size))),
            ("distances", if distances.is_empty() { UNKNOWN.into() } else { distances.join(" ") }),
            ("hugepages", hugepages(node)),
        ],
    );
    let mut add = |name: &str, value: String| facts.facts.push((name.to_owned(), value));
    if !node.flags.is_empty() {
        add("special", join_all(node.flags.iter().map(flag)));
    }
    for (class, access) in &node.access {
        add(&format!("access {class}"), accesses(access));
    }
    for cache in &node.caches {
        add(&format!("memory-side cache {}", cache.level), side_cache(cache));
    }
    if let Some(tier) = node.tier {
        add("memory tier", tier.to_string());
    }
    for cxl in &node.cxl {
        add(&format!("CXL {}", cxl.name), cxl_memory(cxl));
    }
    facts
}

fn join_all(words: impl Iterator<Item = impl Into<String>>) -> String {
    words.map(Into::into).collect::<Vec<String>>().join(", ")
}

fn flag(flag: &NodeFlag) -> &'static str {
    match flag {
        NodeFlag::CpuLess => "no CPUs",
        NodeFlag::MemoryLess => "no memory",
        NodeFlag::Offline => "offline",
        NodeFlag::Gpu => "memory of a GPU",
    }
}

fn hugepages(node: &NumaNode) -> String {
    let pool = |(bytes, pool): (&u64, &NodeHugepages)| {
        let more = |pages: Option<u64>, what: &str| {
            pages.filter(|pages| *pages > 0).map(|pages| format!(" ({pages} {what})"))
        };
        format!("{} × {}", pool.total, size(*bytes))
            + &more(pool.free, "free").unwrap_or_default()
            + &more(pool.surplus, "surplus").unwrap_or_default()
    };
    let pools = node.hugepages.iter().filter(|(_, pool)| pool.total > 0);
    let text = join_all(pools.map(pool));
    if text.is_empty() { "none".into() } else { text }
}

fn accesses(access: &NodeAccess) -> String {
    let both = |read: Option<u32>, write: Option<u32>, unit: &str| {
        read.or(write).map(|_| format!("{}/{} {unit}", or_unknown(read), or_unknown(write)))
    };
    join([
        Some(format!("from nodes {}", access.initiators)),
        both(access.read_latency_ns, access.write_latency_ns, "ns"),
        both(access.read_bandwidth_mb_s, access.write_bandwidth_mb_s, "MB/s"),
    ])
}

fn side_cache(cache: &MemorySideCache) -> String {
    join([
        Some(or_unknown(cache.size.map(size))),
        cache.line.map(|line| format!("{line} B lines")),
        cache.direct_mapped.filter(|yes| *yes).map(|_| "direct-mapped".into()),
    ])
}

fn cxl_memory(cxl: &CxlMemory) -> String {
    let sized = |bytes: Option<u64>, what: &str| {
        bytes.filter(|bytes| *bytes > 0).map(|bytes| format!("{} {what}", size(bytes)))
    };
    join([
        sized(cxl.ram, "volatile"),
        sized(cxl.persistent, "persistent"),
        cxl.serial.as_ref().map(|serial| format!("serial {serial}")),
        cxl.firmware.as_ref().map(|firmware| format!("firmware {firmware}")),
    ])
}
