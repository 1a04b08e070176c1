//! Reads the machine.
//!
//! Every part has a module with one `read(&Root) -> (Option<T>, Vec<Problem>)`:
//! what could be read, and what could not, with the file's name. Nothing here
//! returns an error for a machine that is odd, broken or half there, and
//! nothing here may panic on what a file says.
//!
//! | module | part | page |
//! | --- | --- | --- |
//! | [`platform`] | who made it, what it runs | `hw-docs/platform.md` |
//! | [`cdi`] | what CDI specifications offer | `hw-docs/pci.md` |
//! | [`cpu`] | packages, cores, PUs, caches | `hw-docs/cpu.md` |
//! | [`cgroup`] | what each container may run on; writes too | `hw-docs/numa.md` |
//! | [`ipmi`] | the BMC: sensors, event log, FRUs | `hw-docs/bmc.md` |
//! | [`kubelet`] | what kubelet's CPU and memory managers gave out | `hw-docs/numa.md` |
//! | [`irq`] | where interrupts arrive; writes too | `hw-docs/interrupts.md` |
//! | [`numa`] | NUMA nodes | `hw-docs/numa.md` |
//! | [`memory`] | memory of the whole machine | `hw-docs/memory.md` |
//! | [`pci`] | PCI functions | `hw-docs/pci.md` |
//! | [`nic`], [`transceiver`], [`lldp`] | network interfaces, their modules, who is at the other end | `hw-docs/nic.md` |
//! | [`storage`] | controllers, block devices | `hw-docs/storage.md` |
//! | [`gpu`] | GPUs and accelerators | `hw-docs/gpu.md` |
//! | [`gpu_metrics`] | amdgpu's binary table | `hw-docs/gpu.md` |
//! | [`sensor`] | temperatures, fans, voltages | `hw-docs/sensor.md` |
//! | [`smbios`] | the firmware's table: DIMMs, slots, names | the pages above |
//! | [`power`] | lets cgroups stand still and caps packages | `hw-docs/power.md` |
//! | [`tcp`] | which cgroup a connection is from | `docs/decisions/067` |
//! | [`watchdog`] | feeds the machine's watchdog | `hw-docs/platform.md` |
//! | [`sample`](mod@sample) | what changes: metrics | the pages above |
//!
//! Invariant: a driver sees files only through [`Root`], so that a dump is read
//! by the very code that reads the live machine, and never mixes with it. What
//! is no file (NVML, netlink, ioctls) is asked only when the root is live.
//!
//! Deliberately absent: threads, deadlines and retries. A read can hang in the
//! kernel; whoever calls for a part that may (GPU, sensor) does so in a process
//! it can afford to lose.

mod archive;
pub mod cdi;
pub mod cgroup;
pub mod cpu;
mod edac;
mod gather;
pub mod gpu;
pub mod gpu_metrics;
pub mod ipmi;
pub mod irq;
pub mod kubelet;
pub mod lldp;
pub mod memory;
mod netlink;
pub mod nic;
pub mod numa;
pub mod pci;
pub mod pci_ids;
pub mod platform;
pub mod power;
mod probe;
mod root;
pub mod sample;
pub mod sensor;
pub mod smbios;
pub mod storage;
mod sys;
pub mod tcp;
pub mod transceiver;
pub mod watchdog;

pub use archive::{Archive, MAX_UNPACKED, Node};
pub use purlin_core::inventory::{Inventory, Part, PartData, Problem};
pub use root::{Dir, MAX_ENTRIES, MAX_FILE, OpenError, Root};
pub use sample::sample;
pub use sys::{apart::apart, peer::groups as peer_groups};

/// Reads one part.
pub fn read(part: Part, root: &Root) -> (Option<PartData>, Vec<Problem>) {
    match part {
        Part::Platform => wrap(platform::read(root), PartData::Platform),
        Part::Cpu => wrap(cpu::read(root), |cpu| PartData::Cpu(Box::new(cpu))),
        Part::Numa => wrap(numa::read(root), PartData::Numa),
        Part::Memory => wrap(memory::read(root), PartData::Memory),
        Part::Pci => wrap(pci::read(root), PartData::Pci),
        Part::Nic => wrap(nic::read(root), PartData::Nic),
        Part::Storage => wrap(storage::read(root), PartData::Storage),
        Part::Gpu => wrap(gpu::read(root), PartData::Gpu),
        Part::Sensor => wrap(sensor::read(root), PartData::Sensor),
    }
}

/// Whether a time service has set the wall clock and keeps it, as the kernel was told
/// (adjtimex(2)).
pub fn clock_is_synchronized() -> bool {
    sys::clock::is_synchronized()
}

/// Hands memory that is not in use back to the kernel. The C library by itself keeps what
/// a burst has needed, for as long as anything above it is in use.
pub fn give_back_memory() {
    sys::memory::give_back_heap();
}

/// Unmaps the program's code: what is in use is mapped again piece by piece, and what only
/// the start needed is not.
pub fn give_back_code() {
    sys::memory::give_back_code();
}

/// Reads every part, one after the other.
pub fn inventory(root: &Root) -> Inventory {
    let mut inventory = Inventory::default();
    for part in Part::ALL {
        let (data, problems) = read(part, root);
        inventory.put(part, data, problems);
    }
    inventory
}

fn wrap<T>(
    (data, problems): (Option<T>, Vec<Problem>),
    as_part: impl Fn(T) -> PartData,
) -> (Option<PartData>, Vec<Problem>) {
    (data.map(as_part), problems)
}
