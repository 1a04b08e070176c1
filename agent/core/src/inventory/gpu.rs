//! Graphics and compute accelerators: one schema for NVIDIA, AMD and Intel.
//!
//! Sources and traps: `hw-docs/gpu.md`. A field that a vendor has no word for
//! stays unknown.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use super::PciLink;

/// An accelerator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// PCI address.
    pub pci: String,
    /// What it is good for.
    pub kind: GpuKind,
    /// Who made the chip, from its PCI vendor id.
    pub vendor: GpuVendor,
    /// PCI vendor id.
    pub vendor_id: Option<u16>,
    /// PCI device id.
    pub device_id: Option<u16>,
    /// Product name, if its driver tells one, else the chip's in an installed
    /// `pci.ids`.
    pub name: Option<String>,
    /// Kernel driver.
    pub driver: Option<String>,
    /// Version of that driver, where it has one of its own.
    pub driver_version: Option<String>,
    /// The vendor's unique id (NVIDIA's UUID, amdgpu's `unique_id`).
    pub uuid: Option<String>,
    /// Serial number of the board.
    pub serial: Option<String>,
    /// Part number of the board.
    pub board_part: Option<String>,
    /// Version of the video BIOS.
    pub vbios: Option<String>,
    /// Version of the firmware that runs the GPU (GSP, SMC).
    pub firmware: Option<String>,
    /// NUMA node.
    pub node: Option<u32>,
    /// True if the driver says that it fell off the bus or must be reset:
    /// what is still known of it is from the bus.
    pub lost: bool,
    /// Memory in bytes.
    pub vram: Option<u64>,
    /// Memory in use, in bytes.
    pub vram_used: Option<u64>,
    /// Error correction; `None` if it has none or does not tell.
    pub ecc: Option<Ecc>,
    /// Memory pages taken out of use (before Ampere).
    pub retired: Option<RetiredPages>,
    /// Memory rows replaced by spare ones (Ampere and later).
    pub remapped: Option<RemappedRows>,
    /// Why the clocks are held down, by the vendor's names; empty if they are not.
    pub throttle: Option<Vec<String>>,
    /// Temperatures in °C by the driver's label (`gpu`, `edge`, `junction`, `mem` …).
    pub temperatures: BTreeMap<String, f64>,
    /// Power drawn, in watts.
    pub power: Option<f64>,
    /// Limit on it in force, in watts.
    pub power_limit: Option<f64>,
    /// What that limit is set to and may be set to; `None` if it can't be set.
    pub power_range: Option<PowerRange>,
    /// Speed of the fan, in turns a minute.
    pub fan_rpm: Option<u32>,
    /// Clocks.
    pub clocks: GpuClocks,
    /// Share of the time in which the cores worked, in percent.
    pub busy: Option<u32>,
    /// Share of the time in which memory was read or written, in percent.
    pub memory_busy: Option<u32>,
    /// Performance state: `P0` (most) … `P15`, or the driver's own word.
    pub performance: Option<String>,
    /// PCI Express link as trained now.
    pub link: Option<PciLink>,
    /// The most that it can be here.
    pub link_max: Option<PciLink>,
    /// Packets that the link had to send again.
    pub replays: Option<u64>,
    /// True if a display is connected or a desktop runs on it.
    pub display: Option<bool>,
    /// True if the driver keeps it initialised without a user (NVIDIA).
    pub persistence: Option<bool>,
    /// Who may use it for computing: `default`, `exclusive process`, `prohibited` (NVIDIA).
    pub compute_mode: Option<String>,
    /// Links to other GPUs and switches, by number.
    pub nvlinks: Vec<NvLink>,
    /// How near the other GPUs of the same vendor's library are, by PCI address.
    pub peers: Vec<GpuPeer>,
    /// Partitions; `None` if it can't be partitioned.
    pub mig: Option<Mig>,
    /// What of it can be given to a guest or a container on its own.
    pub slices: Vec<Slice>,
    /// Device files, e.g. `/dev/nvidia0`, `/dev/dri/renderD128`.
    pub device_nodes: Vec<String>,
}

/// What an accelerator is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuKind {
    /// Computes, and may draw.
    #[default]
    Compute,
    /// Only draws: a guest's virtual screen or a BMC's.
    Display,
}

/// Who made the chip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuVendor {
    /// 10de
    Nvidia,
    /// 1002, 1022
    Amd,
    /// 8086
    Intel,
    /// Another, or unknown.
    #[default]
    Other,
}

/// Error correction of the memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ecc {
    /// On now.
    pub enabled: Option<bool>,
    /// On after the next reset.
    pub pending: Option<bool>,
    /// Corrected errors since the driver was loaded.
    pub corrected: Option<u64>,
    /// Uncorrected errors since the driver was loaded.
    pub uncorrected: Option<u64>,
    /// Corrected errors in its life.
    pub corrected_total: Option<u64>,
    /// Uncorrected errors in its life.
    pub uncorrected_total: Option<u64>,
}

/// Memory pages taken out of use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredPages {
    /// For several single-bit errors.
    pub single_bit: Option<u64>,
    /// For a double-bit error.
    pub double_bit: Option<u64>,
    /// More will be after a reset.
    pub pending: Option<bool>,
}

/// Memory rows replaced by spare ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemappedRows {
    /// For corrected errors.
    pub correctable: Option<u64>,
    /// For uncorrected errors.
    pub uncorrectable: Option<u64>,
    /// More will be after a reset.
    pub pending: Option<bool>,
    /// A row could not be replaced: the board is to be exchanged.
    pub failed: Option<bool>,
}

/// What may be said to the driver about a limit on power, in watts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PowerRange {
    /// What it is set to; what is in force may be less, by another limit.
    pub set: Option<f64>,
    /// What the driver sets.
    pub default: Option<f64>,
    /// The least.
    pub min: Option<f64>,
    /// The most.
    pub max: Option<f64>,
}

/// Clocks in MHz.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuClocks {
    /// Of the cores, now.
    pub core: Option<u32>,
    /// The most that the cores can.
    pub core_max: Option<u32>,
    /// Of the memory, now.
    pub memory: Option<u32>,
    /// The most that the memory can.
    pub memory_max: Option<u32>,
}

/// A link to another GPU or a switch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvLink {
    /// Its number on this GPU.
    pub link: u32,
    /// Up.
    pub active: bool,
    /// Version of NVLink.
    pub version: Option<u32>,
    /// PCI address of the other end.
    pub remote: Option<String>,
    /// What the other end is: `gpu`, `switch`, `npu`.
    pub remote_kind: Option<String>,
    /// Errors by counter: `replay`, `recovery`, `crc_flit`, `crc_data`.
    pub errors: BTreeMap<String, u64>,
}

/// The way to another GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuPeer {
    /// PCI address of the other.
    pub pci: String,
    /// Nearest thing above both on the bus: `board`, `switch`, `switches`,
    /// `host bridge`, `NUMA node`, `system`.
    pub path: Option<String>,
    /// Active NVLinks that lead there directly.
    pub nvlinks: u32,
}

/// Partitions of an NVIDIA GPU (multi-instance GPU).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mig {
    /// On now.
    pub enabled: bool,
    /// On after the next reset.
    pub pending: Option<bool>,
    /// GPU instances, by id.
    pub instances: Vec<GpuInstance>,
}

/// A GPU instance: a share of cores and memory of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuInstance {
    /// Its id on this GPU.
    pub id: u32,
    /// Profile, e.g. `1g.5gb`.
    pub profile: Option<String>,
    /// Slices of the cores.
    pub slices: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// First memory slice and how many.
    pub placement: Option<(u32, u32)>,
    /// Device file that grants its use.
    pub device_node: Option<String>,
    /// Compute instances, by id.
    pub compute: Vec<ComputeInstance>,
}

/// A compute instance: a share of the cores of a GPU instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputeInstance {
    /// Its id in the GPU instance.
    pub id: u32,
    /// Name that a workload asks for, `MIG-…`.
    pub uuid: Option<String>,
    /// Slices of the cores.
    pub slices: Option<u32>,
    /// Device file that grants its use.
    pub device_node: Option<String>,
}

/// What of a GPU can be given away on its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// How it is cut.
    pub kind: SliceKind,
    /// What it is asked for by: a MIG UUID, a VF's PCI address, the UUID of a
    /// mediated device, or the id of a type that can still be created.
    pub id: String,
    /// PCI address of the GPU that it is cut from.
    pub parent: String,
    /// Profile or type in the vendor's words.
    pub profile: Option<String>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// How many more of this type can be created, at most; `None` for one that exists.
    pub available: Option<u32>,
    /// Driver bound to it (VFs).
    pub driver: Option<String>,
    /// IOMMU group, for `/dev/vfio/<group>` (VFs, mediated devices).
    pub iommu_group: Option<u32>,
}

/// How a slice is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceKind {
    /// A compute instance of an NVIDIA GPU.
    Mig,
    /// An SR-IOV virtual function.
    Vf,
    /// A mediated device that exists.
    Mdev,
    /// A type of mediated device (vGPU) that can be created.
    MdevType,
    /// A type of vGPU that a virtual function can become.
    VgpuType,
}

/// Something that a GPU said of its own accord.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuEvent {
    /// PCI address of the GPU.
    pub pci: String,
    /// What happened.
    pub kind: GpuEventKind,
}

/// What happened to a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuEventKind {
    /// An Xid error of NVIDIA's driver.
    Xid {
        /// NVIDIA's number for it.
        code: u64,
        /// What it means, for a person.
        text: String,
    },
    /// An uncorrectable memory error.
    EccDouble,
    /// Partitions were made or removed.
    MigChanged,
    /// It no longer answers.
    Lost,
    /// It answers again.
    Back,
}
