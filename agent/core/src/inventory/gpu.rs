//! Graphics and compute accelerators.

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// An accelerator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// PCI address.
    pub pci: String,
    /// Product name, if its driver tells one.
    pub name: Option<String>,
    /// Kernel driver.
    pub driver: Option<String>,
    /// The vendor's unique id (NVIDIA's UUID, amdgpu's `unique_id`).
    pub uuid: Option<String>,
    /// Memory in bytes.
    pub vram: Option<u64>,
    /// NUMA node.
    pub node: Option<u32>,
}
