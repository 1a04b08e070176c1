//! What a workload asks for.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use super::machine::Crossing;

/// A workload's wishes. Nothing asked for means nothing is set aside for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// How it wants its CPUs.
    pub cpus: Cpus,
    /// Memory in bytes.
    pub memory: u64,
    /// Its memory may be on nodes without CPUs: larger, but farther.
    pub far_memory: bool,
    /// Hugepages: page size in bytes → bytes.
    pub hugepages: BTreeMap<u64, u64>,
    /// Devices by kind, and how many of each.
    pub devices: BTreeMap<String, usize>,
    /// Devices it was given already, by whoever decides over them, by name.
    pub given: Vec<String>,
    /// The most that a transfer between any two of its devices may have to cross.
    pub near: Option<Crossing>,
    /// How strictly all of it must be on the same nodes.
    pub policy: Policy,
}

impl Request {
    /// True if its memory has to be on its nodes, and not just should.
    pub fn binds_memory(&self) -> bool {
        self.memory > 0 || self.hugepages.values().any(|bytes| *bytes > 0)
    }

    /// Thousandths of a CPU out of the shared ones.
    pub fn milli(&self) -> u64 {
        match self.cpus {
            Cpus::Shared { milli } => milli,
            Cpus::Exclusive { .. } => 0,
        }
    }
}

/// CPUs, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cpus {
    /// A part of what is shared by all, in thousandths of a CPU.
    Shared {
        /// Thousandths of a CPU.
        milli: u64,
    },
    /// PUs for itself alone.
    Exclusive {
        /// How many PUs.
        count: usize,
        /// What to do about the other threads of their cores.
        smt: Smt,
    },
}

impl Default for Cpus {
    fn default() -> Self {
        Self::Shared { milli: 0 }
    }
}

/// Threads of one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Smt {
    /// Whole cores as far as they go, then threads beside somebody else's.
    #[default]
    Any,
    /// Whole cores only: the count must be a multiple of their threads.
    FullCores,
}

/// How strictly what is asked for must be on the same NUMA nodes; the first four are
/// kubelet's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Anywhere.
    None,
    /// On as few nodes as possible, else anywhere.
    BestEffort,
    /// On as few nodes as it could ever be on, or not at all.
    Restricted,
    /// On one node, or not at all.
    SingleNumaNode,
    /// The best there is now: fewest nodes, then closest, then nearest devices.
    #[default]
    Optimal,
}
