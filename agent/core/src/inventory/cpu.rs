//! Processors and their caches.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::idset::IdSet;

/// Processors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Model name of the first PU that has one.
    pub model: Option<String>,
    /// Vendor, e.g. `GenuineIntel`, `ARM`.
    pub vendor: Option<String>,
    /// Every CPU the kernel could ever bring up.
    pub possible: Option<IdSet>,
    /// CPUs that are plugged in.
    pub present: Option<IdSet>,
    /// CPUs that run.
    pub online: Option<IdSet>,
    /// CPUs this process's cgroup may use.
    pub allowed: Option<IdSet>,
    /// CPUs taken from the scheduler by `isolcpus=` or an isolated partition.
    pub isolated: Option<IdSet>,
    /// SMT control as the kernel tells it: `on`, `off`, `forceoff`, `notsupported` …
    pub smt: Option<String>,
    /// Processing units whose topology is known, by kernel id.
    pub pus: Vec<Pu>,
    /// Each cache instance once, by level, type and first PU.
    pub caches: Vec<Cache>,
}

impl Cpu {
    /// Distinct packages among the known PUs.
    pub fn packages(&self) -> usize {
        self.distinct(|pu| pu.package.map(|package| (package, 0, 0)))
    }

    /// Distinct cores among the known PUs.
    pub fn cores(&self) -> usize {
        self.distinct(|pu| Some((pu.package.unwrap_or(-1), pu.die.unwrap_or(-1), pu.core?)))
    }

    fn distinct(&self, key: impl Fn(&Pu) -> Option<(i32, i32, i32)>) -> usize {
        self.pus.iter().filter_map(key).collect::<alloc::collections::BTreeSet<_>>().len()
    }
}

/// A processing unit: one hardware thread, a "CPU" to the kernel. The ids are
/// the kernel's own and −1 stands for "not told", as it does there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pu {
    /// Kernel id.
    pub id: u32,
    /// `topology/physical_package_id`.
    pub package: Option<i32>,
    /// `topology/die_id`.
    pub die: Option<i32>,
    /// `topology/cluster_id`.
    pub cluster: Option<i32>,
    /// `topology/core_id`; unique only within its package and die.
    pub core: Option<i32>,
    /// NUMA node.
    pub node: Option<u32>,
}

/// One instance of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// 1, 2, 3 …
    pub level: u32,
    /// What it holds.
    pub kind: CacheKind,
    /// Size in bytes; unknown on some machines.
    pub size: Option<u64>,
    /// Ways of associativity.
    pub ways: Option<u32>,
    /// Line size in bytes.
    pub line: Option<u32>,
    /// PUs that share it.
    pub shared_by: IdSet,
}

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheKind {
    /// Data only.
    Data,
    /// Instructions only.
    Instruction,
    /// Both.
    Unified,
}
