//! Memory of the whole machine, its slots and their errors.
//!
//! Page: `hw-docs/memory.md`. Sources: `/proc/meminfo`
//! (Documentation/filesystems/proc.rst), `/sys/kernel/mm/hugepages`, SMBIOS for
//! the slots and EDAC for the errors.
//! `MemTotal` is what the kernel manages, which is less than what is plugged
//! in; a file that is not there means unknown, never 0.

use std::collections::BTreeMap;

use purlin_core::inventory::{Memory, Part, Problem};

use crate::{
    Root, edac,
    probe::Probe,
    smbios::{self, Array},
};

pub(crate) const MEMINFO: &str = "/proc/meminfo";

/// Reads the memory; `None` if nothing about it is told.
pub fn read(root: &Root) -> (Option<Memory>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Memory, root);
    let memory = read_memory(&mut probe);
    (memory, probe.finish())
}

fn read_memory(probe: &mut Probe<'_>) -> Option<Memory> {
    let text = probe.need(MEMINFO);
    let bytes = |key| bytes_of(text.as_deref()?, key);
    let total = bytes("MemTotal:");
    if text.is_some() && total.is_none() {
        probe.problem(MEMINFO, "has no MemTotal that makes sense");
    }
    let mut memory = Memory {
        total,
        available: bytes("MemAvailable:"),
        swap: bytes("SwapTotal:"),
        hugepages: hugepages(probe, "/sys/kernel/mm/hugepages"),
        ..Memory::default()
    };
    slots(probe, &mut memory);
    edac::read(probe, &mut memory);
    (memory != Memory::default()).then_some(memory)
}

fn slots(probe: &mut Probe<'_>, memory: &mut Memory) {
    let Some(smbios) = smbios::read(probe) else { return };
    let arrays: Vec<&Array> = smbios.arrays.iter().filter(|array| array.system).collect();
    let sum = |sum: u64, array: &&Array| sum.checked_add(array.max_capacity?);
    memory.max_capacity = arrays.iter().try_fold(0, sum).filter(|bytes| *bytes > 0);
    memory.ecc = arrays.first().and_then(|array| array.ecc);
    if arrays.iter().any(|array| array.ecc != memory.ecc) {
        memory.ecc = None;
    }
    memory.dimms = Some(smbios.dimms).filter(|dimms| !dimms.is_empty());
}

/// The value of a `Key:   123 kB` line, in bytes.
pub(crate) fn bytes_of(meminfo: &str, key: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = value.trim().trim_end_matches("kB").trim_end().parse().ok()?;
    kib.checked_mul(1 << 10)
}

/// Hugepages of the pool in `dir`: page size in bytes → number of pages.
pub(crate) fn hugepages(probe: &mut Probe<'_>, dir: &str) -> BTreeMap<u64, u64> {
    let mut pools = BTreeMap::new();
    for name in probe.names(dir).unwrap_or_default() {
        let kib = name.strip_prefix("hugepages-").and_then(|size| size.strip_suffix("kB"));
        let size = kib.and_then(|kib| kib.parse::<u64>().ok()?.checked_mul(1 << 10));
        let Some(size) = size else { continue };
        if let Some(pages) = probe.number(&format!("{dir}/{name}/nr_hugepages")) {
            pools.insert(size, pages);
        }
    }
    pools
}
