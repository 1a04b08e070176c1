//! What a machine is made of, as values.
//!
//! A part that could not be read is absent (`None`, or missing from its list)
//! and has a [`Problem`] that says why: unknown is never zero and never "gone".

use alloc::{boxed::Box, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

mod cpu;
mod gpu;
mod memory;
mod nic;
mod numa;
mod pci;
mod platform;
mod sensor;
mod smart;
mod storage;

pub use cpu::*;
pub use gpu::*;
pub use memory::*;
pub use nic::*;
pub use numa::*;
pub use pci::*;
pub use platform::*;
pub use sensor::*;
pub use smart::*;
pub use storage::*;

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
    /// Storage controllers and block devices.
    Storage,
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
        Part::Storage,
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
            Part::Storage => "storage",
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
    /// Storage controllers and block devices.
    pub storage: Option<Storage>,
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
// One at a time, on its way to the inventory: a box would save nothing.
#[allow(clippy::large_enum_variant)]
pub enum PartData {
    /// [`Inventory::platform`]
    Platform(Platform),
    /// [`Inventory::cpu`]
    Cpu(Box<Cpu>),
    /// [`Inventory::numa`]
    Numa(Vec<NumaNode>),
    /// [`Inventory::memory`]
    Memory(Memory),
    /// [`Inventory::pci`]
    Pci(Vec<PciDevice>),
    /// [`Inventory::nics`]
    Nic(Vec<Nic>),
    /// [`Inventory::storage`]
    Storage(Storage),
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
            Some(PartData::Cpu(it)) => self.cpu = Some(*it),
            Some(PartData::Numa(it)) => self.numa = Some(it),
            Some(PartData::Memory(it)) => self.memory = Some(it),
            Some(PartData::Pci(it)) => self.pci = Some(it),
            Some(PartData::Nic(it)) => self.nics = Some(it),
            Some(PartData::Storage(it)) => self.storage = Some(it),
            Some(PartData::Gpu(it)) => self.gpus = Some(it),
            Some(PartData::Sensor(it)) => self.sensors = Some(it),
        }
    }
}
