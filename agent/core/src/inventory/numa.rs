//! NUMA nodes.

use alloc::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::idset::IdSet;

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaNode {
    /// Kernel id; ids can have gaps.
    pub id: u32,
    /// CPUs on it; empty on a memory-only node.
    pub cpus: IdSet,
    /// Memory in bytes; `None` if its meminfo can't be read, 0 on a memory-less node.
    pub memory: Option<u64>,
    /// Free memory in bytes.
    pub free: Option<u64>,
    /// Distance to each node by id, in the ACPI SLIT's unit (10 = local).
    pub distances: BTreeMap<u32, u32>,
    /// Hugepages configured on it: page size in bytes → number of pages.
    pub hugepages: BTreeMap<u64, u64>,
}
