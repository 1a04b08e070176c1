//! PCI functions.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::idset::IdSet;

/// A PCI function.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PciDevice {
    /// `domain:bus:device.function`; the domain may be 32 bits wide.
    pub address: String,
    /// Address of the bridge above, if it is not on a root bus. A domain that a
    /// function makes of its own (VMD) starts a tree of its own.
    pub parent: Option<String>,
    /// Class code, 24 bits; 0 with a problem if it can't be read.
    pub class: u32,
    /// Name of the subclass, else of the class, where a `pci.ids` is installed.
    pub class_name: Option<String>,
    /// Vendor id.
    pub vendor: Option<u16>,
    /// Device id.
    pub device: Option<u16>,
    /// Revision.
    pub revision: Option<u8>,
    /// Vendor id of the card or board it sits on; bridges have none.
    pub subsystem_vendor: Option<u16>,
    /// Id that this vendor gave the card or board.
    pub subsystem_device: Option<u16>,
    /// Name of vendor and device where a `pci.ids` is installed.
    pub name: Option<String>,
    /// Name of the card or board where a `pci.ids` is installed and knows it.
    pub subsystem_name: Option<String>,
    /// Physical slot: of this function, else of the nearest one above.
    pub slot: Option<String>,
    /// What the board calls its place, as printed beside it or in its manual
    /// (SMBIOS types 9 and 41): of this function, else of the nearest port above.
    pub label: Option<String>,
    /// Bound driver.
    pub driver: Option<String>,
    /// The only driver that may bind, if an administrator chose one.
    pub driver_override: Option<String>,
    /// True if a driver enabled it.
    pub enabled: Option<bool>,
    /// Power state: `D0` (awake) to `D3cold` (off).
    pub power_state: Option<String>,
    /// NUMA node: its own, else that of the nearest function above that has
    /// one; `None` if the firmware tells none.
    pub node: Option<u32>,
    /// CPUs near it.
    pub local_cpus: Option<IdSet>,
    /// IOMMU group.
    pub iommu_group: Option<u32>,
    /// Kind of its group's domain: `DMA`, `DMA-FQ`, `identity`, …
    pub iommu_type: Option<String>,
    /// Memory that it maps (its BARs without I/O ports), in bytes.
    pub memory: Option<u64>,
    /// Link as trained now.
    pub link: Option<PciLink>,
    /// The most this function can do.
    pub link_max: Option<PciLink>,
    /// The most that both ends of its link can do; `None` where the other end
    /// is not known, and for a function whose link is below it.
    pub link_both: Option<PciLink>,
    /// Advanced error reporting since the driver bound or the counters were
    /// cleared; `None` where the function or the kernel doesn't count.
    pub errors: Option<PciErrors>,
    /// For a function that can be shared: its virtual functions.
    pub sriov: Option<PciSriov>,
    /// For a virtual function: address of the physical one.
    pub physical: Option<String>,
}

impl PciDevice {
    /// True for a bridge between PCI buses (class 06 04).
    pub fn is_bridge(&self) -> bool {
        self.class >> 8 == 0x0604
    }

    /// True if the link now does less than both ends can; `None` where one
    /// of the two is not known. GPUs and others slow an idle link down to save
    /// power, so this is a fact and not yet a fault.
    pub fn is_downgraded(&self) -> Option<bool> {
        let (now, both) = (self.link?, self.link_both?);
        Some(now.gt_per_s < both.gt_per_s || now.width < both.width)
    }
}

/// A PCI Express link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PciLink {
    /// Transfer rate of a lane in GT/s.
    pub gt_per_s: f32,
    /// Lanes.
    pub width: u32,
}

impl PciLink {
    /// What a link between two such ends can do.
    pub fn both(self, other: Self) -> Self {
        Self { gt_per_s: self.gt_per_s.min(other.gt_per_s), width: self.width.min(other.width) }
    }
}

/// Error counters of a function (Advanced Error Reporting).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciErrors {
    /// Repaired by the link itself.
    pub correctable: Option<PciErrorCount>,
    /// A transaction was lost, the link is sound.
    pub nonfatal: Option<PciErrorCount>,
    /// The link is not reliable any more.
    pub fatal: Option<PciErrorCount>,
    /// On a root port: messages from all that is below it.
    pub below: Option<PciRootErrors>,
}

/// One severity's errors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciErrorCount {
    /// All of them.
    pub total: u64,
    /// Those that occurred, by the kernel's name (`BadTLP`, `CmpltTO`).
    pub kinds: BTreeMap<String, u64>,
}

/// Error messages that a root port received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciRootErrors {
    /// Correctable errors reported.
    pub correctable: u64,
    /// Non-fatal errors reported.
    pub nonfatal: u64,
    /// Fatal errors reported.
    pub fatal: u64,
}

/// What a physical function says of its virtual ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciSriov {
    /// Virtual functions that it can have.
    pub most: u32,
    /// Virtual functions switched on.
    pub enabled: Option<u32>,
    /// Device id of the virtual functions.
    pub device: Option<u16>,
    /// Addresses of the virtual functions, by their number.
    pub functions: Vec<String>,
}
