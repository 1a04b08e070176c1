//! Storage.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

/// Controllers and what they carry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Storage {
    /// Whole block devices, by name.
    pub disks: Vec<Disk>,
}

/// A whole block device (not a partition, loop or RAM disk).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name, e.g. `nvme0n1`.
    pub name: String,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Firmware revision.
    pub firmware: Option<String>,
    /// True if it spins.
    pub rotational: Option<bool>,
    /// True if it can be pulled out.
    pub removable: Option<bool>,
    /// PCI address of its controller.
    pub pci: Option<String>,
    /// NUMA node of its controller.
    pub node: Option<u32>,
}
