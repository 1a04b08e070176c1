//! NUMA nodes.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::idset::IdSet;

/// A NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaNode {
    /// Kernel id; ids can have gaps.
    pub id: u32,
    /// What is out of the ordinary about it.
    pub flags: Vec<NodeFlag>,
    /// CPUs on it; empty on a memory-only node, `None` if not told.
    pub cpus: Option<IdSet>,
    /// Memory in bytes; `None` if its meminfo can't be read, 0 on a memory-less node.
    pub memory: Option<u64>,
    /// Free memory in bytes.
    pub free: Option<u64>,
    /// Distance to each node by id, in the ACPI SLIT's unit (10 = local).
    pub distances: BTreeMap<u32, u32>,
    /// Hugepages configured on it, by page size in bytes.
    pub hugepages: BTreeMap<u64, NodeHugepages>,
    /// How fast its memory is from the nodes that start accesses (ACPI HMAT),
    /// by class: 0 is from the best initiators, 1 from the best with CPUs.
    pub access: BTreeMap<u32, NodeAccess>,
    /// Caches in front of its memory, the nearest to the memory first.
    pub caches: Vec<MemorySideCache>,
    /// The kernel's memory tier; a lower one is faster.
    pub tier: Option<u32>,
    /// CXL memory devices on it, by name.
    pub cxl: Vec<CxlMemory>,
}

impl NumaNode {
    /// True if the node is marked so.
    pub fn is(&self, flag: NodeFlag) -> bool {
        self.flags.contains(&flag)
    }
}

/// What is out of the ordinary about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeFlag {
    /// It is known to have no CPUs.
    CpuLess,
    /// It is known to have no memory.
    MemoryLess,
    /// The kernel shows it and doesn't count it among the online ones.
    Offline,
    /// Its memory is a GPU's own.
    Gpu,
}

/// Hugepages of one size on one node, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHugepages {
    /// In the pool.
    pub total: u64,
    /// Not in use.
    pub free: Option<u64>,
    /// Over the pool's configured size.
    pub surplus: Option<u64>,
}

/// Performance of a node's memory from some nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAccess {
    /// The nodes it is measured from.
    pub initiators: IdSet,
    /// Latency of a read in ns.
    pub read_latency_ns: Option<u32>,
    /// Latency of a write in ns.
    pub write_latency_ns: Option<u32>,
    /// Bandwidth of reads in MB/s.
    pub read_bandwidth_mb_s: Option<u32>,
    /// Bandwidth of writes in MB/s.
    pub write_bandwidth_mb_s: Option<u32>,
}

/// A cache between the CPUs and a node's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySideCache {
    /// Level; 1 is the nearest to the memory.
    pub level: u32,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Line size in bytes.
    pub line: Option<u32>,
    /// True if each line has one place only.
    pub direct_mapped: Option<bool>,
}

/// A CXL memory device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CxlMemory {
    /// Kernel name, `mem0`.
    pub name: String,
    /// Volatile capacity in bytes.
    pub ram: Option<u64>,
    /// Persistent capacity in bytes.
    pub persistent: Option<u64>,
    /// Serial number, as the kernel prints it.
    pub serial: Option<String>,
    /// Firmware revision.
    pub firmware: Option<String>,
}
