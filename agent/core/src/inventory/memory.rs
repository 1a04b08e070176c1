//! Memory.

use alloc::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Memory of the whole machine, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// `MemTotal`.
    pub total: u64,
    /// `MemAvailable`, on kernels that have it.
    pub available: Option<u64>,
    /// `SwapTotal`.
    pub swap: Option<u64>,
    /// Hugepages: page size in bytes → number of pages.
    pub hugepages: BTreeMap<u64, u64>,
}
