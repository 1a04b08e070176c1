//! PCI functions.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::idset::IdSet;

/// A PCI function.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PciDevice {
    /// `domain:bus:device.function`; the domain may be 32 bits wide.
    pub address: String,
    /// Address of the bridge above, if it is not on a root bus.
    pub parent: Option<String>,
    /// Class code, 24 bits.
    pub class: u32,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Name of vendor and device where a `pci.ids` file is installed.
    pub name: Option<String>,
    /// Bound driver.
    pub driver: Option<String>,
    /// NUMA node; `None` if the firmware tells none.
    pub node: Option<u32>,
    /// CPUs near it.
    pub local_cpus: Option<IdSet>,
    /// IOMMU group.
    pub iommu_group: Option<u32>,
    /// Link as trained now.
    pub link: Option<PciLink>,
    /// The most this function can do.
    pub link_max: Option<PciLink>,
}

/// A PCI Express link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PciLink {
    /// Transfer rate of a lane in GT/s.
    pub gt_per_s: f32,
    /// Lanes.
    pub width: u32,
}
