//! Storage.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use super::{AtaSmart, Health, NvmeSmart};

/// Controllers and what they carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// NVMe controllers by name, then the others by PCI address.
    pub controllers: Vec<StorageController>,
    /// Whole block devices, by name.
    pub disks: Vec<Disk>,
}

/// What disks hang on: an NVMe controller, or a PCI function of the mass
/// storage class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageController {
    /// Kernel name (`nvme0`), else the PCI address.
    pub name: String,
    /// What it speaks, by its PCI class or its kernel name.
    pub kind: StorageKind,
    /// Bound driver.
    pub driver: Option<String>,
    /// PCI address.
    pub pci: Option<String>,
    /// For a virtual function: PCI address of the physical one.
    pub physical: Option<String>,
    /// Physical slot of its PCI function.
    pub slot: Option<String>,
    /// NUMA node.
    pub node: Option<u32>,
    /// What only an NVMe controller tells.
    pub nvme: Option<NvmeController>,
    /// Judged by [`NvmeController::smart`]; unknown for other kinds.
    pub health: Health,
}

/// What a controller speaks to its disks (PCI Code and ID Assignment, class 01).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageKind {
    /// NVM Express.
    Nvme,
    /// SCSI, also a paravirtual one.
    Scsi,
    /// Parallel ATA.
    Ide,
    /// RAID: its volumes are the disks we see.
    Raid,
    /// ATA.
    Ata,
    /// Serial ATA.
    Sata,
    /// Serial attached SCSI.
    Sas,
    /// Something else.
    #[default]
    Other,
}

/// What only an NVMe controller tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvmeController {
    /// Model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Firmware revision that runs.
    pub firmware: Option<String>,
    /// Firmware slots; empty unless the controller could be asked.
    pub firmware_slots: Vec<FirmwareSlot>,
    /// `pcie`, `tcp`, `rdma`, `fc` or `loop`.
    pub transport: Option<String>,
    /// Where the other side is, for a transport that is not PCIe.
    pub address: Option<String>,
    /// `live`, `resetting`, `connecting`, `deleting`, `dead`, …
    pub state: Option<String>,
    /// Controller id in its subsystem.
    pub id: Option<u32>,
    /// Qualified name of its subsystem: controllers with the same one are ways
    /// to the same namespaces.
    pub subsystem: Option<String>,
    /// Kernel names of its namespaces' disks.
    pub disks: Vec<String>,
    /// Capacity of all its media, in bytes.
    pub capacity: Option<u64>,
    /// Temperature from which it warns, in °C.
    pub warning_temperature: Option<i32>,
    /// Temperature from which it is in danger, in °C.
    pub critical_temperature: Option<i32>,
    /// Health log; `None` unless the controller could be asked.
    pub smart: Option<NvmeSmart>,
}

/// A place for a firmware image in an NVMe controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareSlot {
    /// 1 to 7.
    pub slot: u8,
    /// Revision in it.
    pub revision: String,
    /// True if it runs.
    pub active: bool,
    /// True if it runs after the next reset.
    pub next: bool,
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
    /// World wide identifier, in the kernel's form (`naa.…`, `eui.…`, `uuid.…`).
    pub wwid: Option<String>,
    /// How it is connected.
    pub transport: Option<Transport>,
    /// The port of its transport: `ata3`, `end_device-0:0:3`, USB `1-2`, `mmc0`.
    pub port: Option<String>,
    /// Host, channel, target and unit, `0:0:3:0`, of a SCSI device.
    pub scsi: Option<String>,
    /// Bay of its enclosure, else the physical slot of its PCI function.
    pub slot: Option<String>,
    /// Bytes of the smallest block that can be addressed.
    pub logical_block: Option<u32>,
    /// Bytes of the smallest block written without reading first.
    pub physical_block: Option<u32>,
    /// True if it spins.
    pub rotational: Option<bool>,
    /// `none`, `host-aware` or `host-managed`.
    pub zoned: Option<String>,
    /// True if it can be pulled out.
    pub removable: Option<bool>,
    /// True if it can't be written.
    pub read_only: Option<bool>,
    /// `write back` (a cache that a power cut empties unless it is flushed) or
    /// `write through`.
    pub write_cache: Option<String>,
    /// State of a SCSI device (`running`, `offline`, `blocked`, …).
    pub state: Option<String>,
    /// True if it sleeps, and was not asked more.
    pub asleep: Option<bool>,
    /// PCI address of its controller, the first of them if several.
    pub pci: Option<String>,
    /// NUMA node of its controller.
    pub node: Option<u32>,
    /// What only an NVMe namespace tells.
    pub namespace: Option<NvmeNamespace>,
    /// SMART data of an ATA disk; `None` unless it could be asked.
    pub smart: Option<AtaSmart>,
    /// Judged by its SMART data, or its controllers'.
    pub health: Health,
}

/// How a disk is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// An NVMe namespace, whatever its controller's own transport.
    Nvme,
    /// Parallel or serial ATA, straight at its controller.
    Ata,
    /// Serial attached SCSI; the disk itself may be SATA.
    Sas,
    /// USB.
    Usb,
    /// virtio.
    Virtio,
    /// MMC or SD.
    Mmc,
    /// Fibre Channel.
    Fc,
    /// iSCSI.
    Iscsi,
}

/// What only an NVMe namespace tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvmeNamespace {
    /// Namespace id in its subsystem.
    pub id: Option<u32>,
    /// EUI-64.
    pub eui: Option<String>,
    /// NGUID.
    pub nguid: Option<String>,
    /// UUID.
    pub uuid: Option<String>,
    /// Kernel names of the controllers that lead to it.
    pub controllers: Vec<String>,
}
