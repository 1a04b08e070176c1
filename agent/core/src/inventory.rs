//! What a machine is made of, as values.
//!
//! A part that could not be read is absent (`None`, or missing from its list)
//! and has a [`Problem`] that says why: unknown is never zero and never "gone".

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::idset::IdSet;

/// Something that could not be read, or reads as nonsense.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The part it belongs to.
    pub part: Part,
    /// The file, device or call, e.g. `/sys/devices/system/cpu/online`.
    pub at: String,
    /// What is wrong, for a person.
    pub what: String,
}

/// The parts of an inventory; each is read on its own, so that one that hangs
/// or fails leaves the others whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Identity of the machine: DMI, firmware, kernel, virtualisation.
    Platform,
    /// Packages, cores, PUs and their caches.
    Cpu,
    /// NUMA nodes.
    Numa,
    /// Memory of the whole machine.
    Memory,
    /// PCI functions.
    Pci,
    /// Network interfaces.
    Nic,
    /// Block devices.
    Disk,
    /// Graphics and compute accelerators.
    Gpu,
    /// Temperatures, fans, voltages.
    Sensor,
}

impl Part {
    /// Every part, in the order a person would read them.
    pub const ALL: [Part; 9] = [
        Part::Platform,
        Part::Cpu,
        Part::Numa,
        Part::Memory,
        Part::Pci,
        Part::Nic,
        Part::Disk,
        Part::Gpu,
        Part::Sensor,
    ];

    /// The name used on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Part::Platform => "platform",
            Part::Cpu => "cpu",
            Part::Numa => "numa",
            Part::Memory => "memory",
            Part::Pci => "pci",
            Part::Nic => "nic",
            Part::Disk => "disk",
            Part::Gpu => "gpu",
            Part::Sensor => "sensor",
        }
    }
}

/// One machine, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// Identity of the machine.
    pub platform: Option<Platform>,
    /// Processors and caches.
    pub cpu: Option<Cpu>,
    /// NUMA nodes, by id. `None` if the kernel shows no node directory.
    pub numa: Option<Vec<NumaNode>>,
    /// Memory.
    pub memory: Option<Memory>,
    /// PCI functions, by address.
    pub pci: Option<Vec<PciDevice>>,
    /// Network interfaces, by name.
    pub nics: Option<Vec<Nic>>,
    /// Block devices, by name.
    pub disks: Option<Vec<Disk>>,
    /// GPUs, by PCI address.
    pub gpus: Option<Vec<Gpu>>,
    /// Sensors, by device and label.
    pub sensors: Option<Vec<Sensor>>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// What one read of one part brings, and what it could not read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartData {
    /// [`Inventory::platform`]
    Platform(Platform),
    /// [`Inventory::cpu`]
    Cpu(Cpu),
    /// [`Inventory::numa`]
    Numa(Vec<NumaNode>),
    /// [`Inventory::memory`]
    Memory(Memory),
    /// [`Inventory::pci`]
    Pci(Vec<PciDevice>),
    /// [`Inventory::nics`]
    Nic(Vec<Nic>),
    /// [`Inventory::disks`]
    Disk(Vec<Disk>),
    /// [`Inventory::gpus`]
    Gpu(Vec<Gpu>),
    /// [`Inventory::sensors`]
    Sensor(Vec<Sensor>),
}

impl Inventory {
    /// Puts a freshly read part in place of the old one, with its problems.
    pub fn put(&mut self, part: Part, data: Option<PartData>, problems: Vec<Problem>) {
        self.problems.retain(|problem| problem.part != part);
        self.problems.extend(problems);
        match data {
            // A failed read leaves what was known: unknown is never "gone".
            None => {}
            Some(PartData::Platform(it)) => self.platform = Some(it),
            Some(PartData::Cpu(it)) => self.cpu = Some(it),
            Some(PartData::Numa(it)) => self.numa = Some(it),
            Some(PartData::Memory(it)) => self.memory = Some(it),
            Some(PartData::Pci(it)) => self.pci = Some(it),
            Some(PartData::Nic(it)) => self.nics = Some(it),
            Some(PartData::Disk(it)) => self.disks = Some(it),
            Some(PartData::Gpu(it)) => self.gpus = Some(it),
            Some(PartData::Sensor(it)) => self.sensors = Some(it),
        }
    }
}

/// Who made the machine, and what runs on it below us.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Host name.
    pub hostname: Option<String>,
    /// Kernel release, e.g. `6.12.9`.
    pub kernel: Option<String>,
    /// Machine architecture as the kernel names it, e.g. `x86_64`. `None` for a dump.
    pub architecture: Option<String>,
    /// DMI `sys_vendor`, or the device tree's model on machines without DMI.
    pub vendor: Option<String>,
    /// DMI `product_name`.
    pub product: Option<String>,
    /// DMI `product_serial`; readable by root alone.
    pub serial: Option<String>,
    /// DMI `board_vendor` and `board_name`.
    pub board: Option<String>,
    /// Firmware vendor, version and date.
    pub firmware: Option<String>,
    /// Booted through UEFI (`/sys/firmware/efi` is there).
    pub uefi: Option<bool>,
    /// The kernel sees a hypervisor under it.
    pub virtualised: Option<bool>,
}

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

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Interface name.
    pub name: String,
    /// True if hardware stands behind it: bridges, bonds and veths have none.
    pub physical: bool,
    /// MAC address.
    pub mac: Option<String>,
    /// Operational state (`up`, `down`, `dormant`, `unknown` …).
    pub state: Option<String>,
    /// Speed in Mbit/s; `None` while the link is down.
    pub speed_mbit: Option<u32>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Driver.
    pub driver: Option<String>,
    /// PCI address of the function behind it.
    pub pci: Option<String>,
    /// NUMA node of that function.
    pub node: Option<u32>,
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

/// A sensor of the machine itself, with its reading at inventory time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensor {
    /// Chip and what it sits on, e.g. `nvme at nvme0`; unlike the number in
    /// `hwmon2` it stays the same over a reboot.
    pub device: String,
    /// Label, or the channel's file name (`temp1`) where it has none.
    pub label: String,
    /// What is measured.
    pub kind: SensorKind,
    /// The reading, in the kind's unit.
    pub value: Option<f64>,
}

/// What a sensor measures, and its UCUM unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SensorKind {
    /// Degrees Celsius, `Cel`.
    Temperature,
    /// Revolutions a minute, `{rpm}`.
    Fan,
    /// Volts, `V`.
    Voltage,
    /// Watts, `W`.
    Power,
    /// Amperes, `A`.
    Current,
}
