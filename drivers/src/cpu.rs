//! Packages, cores, PUs and their caches.
//!
//! Page: `hw-docs/cpu.md`. Sources: `/sys/devices/system/cpu`
//! (Documentation/ABI/testing/sysfs-devices-system-cpu and
//! Documentation/admin-guide/cputopology.rst), `/proc/cpuinfo` for names alone.
//! Possible, present, online and allowed are four different sets; it must never
//! take one for another. The topology of an offline CPU is not known, so only
//! online CPUs become PUs.

use std::collections::BTreeSet;

use purlin_core::{
    idset::IdSet,
    inventory::{Cache, CacheKind, Cpu, Part, Problem, Pu},
};

use crate::{
    Root, numa,
    probe::{Probe, label, quote},
};

/// What x86 kernels write as the cluster of a PU that has none: `BAD_APICID`.
const NO_CLUSTER: i32 = 0xffff;

const CPUS: &str = "/sys/devices/system/cpu";

/// Reads the processors; `None` if the kernel's CPU directory is not there.
pub fn read(root: &Root) -> (Option<Cpu>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Cpu, root);
    let cpu = read_cpu(&mut probe);
    (cpu, probe.finish())
}

fn read_cpu(probe: &mut Probe<'_>) -> Option<Cpu> {
    let Some(known) = probe.numbered(CPUS, "cpu") else {
        probe.problem(CPUS, "is not there; is this the root of a machine's files?");
        return None;
    };
    let online = match probe.set(&format!("{CPUS}/online")) {
        Some(online) => online,
        None => not_switched_off(probe, &known),
    };
    let seen = online.intersection(&known);
    if seen.is_empty() {
        probe.problem(CPUS, "no CPU in it is online");
    }
    if let Some(missing) = online.difference(&known).first() {
        probe.problem(&format!("{CPUS}/cpu{missing}"), "is not there, though the CPU is online");
    }
    let (model, vendor) = identity(probe);
    Some(Cpu {
        model,
        vendor,
        possible: probe.set(&format!("{CPUS}/possible")),
        present: probe.set(&format!("{CPUS}/present")),
        allowed: allowed(probe),
        isolated: probe.set(&format!("{CPUS}/isolated")),
        smt: probe.label(&format!("{CPUS}/smt/control")),
        pus: pus(probe, &seen),
        caches: caches(probe, &seen),
        online: (!online.is_empty()).then_some(online),
    })
}

/// The online CPUs on kernels before 2.6.26, which have no `online` list: a
/// CPU's own `online` file is 0 or 1, and absent where it can't be switched.
fn not_switched_off(probe: &mut Probe<'_>, known: &IdSet) -> IdSet {
    let on = |id: &u32| probe.flag(&format!("{CPUS}/cpu{id}/online")) != Some(false);
    known.iter().filter(on).collect()
}

/// What this process's own affinity and cgroup leave it.
fn allowed(probe: &mut Probe<'_>) -> Option<IdSet> {
    const KEY: &str = "Cpus_allowed_list:";
    let status = probe.text("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix(KEY))?;
    IdSet::parse(list).map_err(|what| probe.problem("/proc/self/status", what)).ok()
}

fn pus(probe: &mut Probe<'_>, online: &IdSet) -> Vec<Pu> {
    let nodes = numa::cpus_of_nodes(probe);
    let node_of = |id| nodes.iter().find(|(_, cpus)| cpus.contains(id)).map(|(node, _)| *node);
    let mut pu = |id| {
        let mut topology = |name| probe.number(&format!("{CPUS}/cpu{id}/topology/{name}"));
        Pu {
            id,
            package: topology("physical_package_id"),
            die: topology("die_id"),
            cluster: topology("cluster_id").filter(|id| *id != NO_CLUSTER),
            core: topology("core_id"),
            node: node_of(id),
        }
    };
    online.iter().map(&mut pu).collect()
}

/// Each cache once. The kernel lists a cache under every PU that shares it, at
/// the same index; whoever is in a list already read is not asked again, which
/// halves the reads.
fn caches(probe: &mut Probe<'_>, online: &IdSet) -> Vec<Cache> {
    let mut caches = Vec::new();
    let mut told = BTreeSet::new();
    for id in online.iter() {
        let dir = format!("{CPUS}/cpu{id}/cache");
        for index in probe.numbered(&dir, "index").unwrap_or_default().iter() {
            if told.contains(&(index, id)) {
                continue;
            }
            if let Some(cache) = cache(probe, &format!("{dir}/index{index}"), id) {
                told.extend(cache.shared_by.iter().map(|pu| (index, pu)));
                caches.push(cache);
            }
        }
    }
    caches.sort_by_key(|cache| (cache.level, cache.kind, cache.shared_by.first()));
    caches
}

fn cache(probe: &mut Probe<'_>, dir: &str, pu: u32) -> Option<Cache> {
    let mut shared_by = probe
        .mask_or_set(&format!("{dir}/shared_cpu_map"), &format!("{dir}/shared_cpu_list"))
        .unwrap_or_default();
    shared_by.insert(pu);
    Some(Cache {
        level: probe.number(&format!("{dir}/level"))?,
        kind: kind(probe, &format!("{dir}/type"))?,
        size: size(probe, &format!("{dir}/size")).filter(|size| *size > 0),
        ways: probe.told(&format!("{dir}/ways_of_associativity")).filter(|ways| *ways > 0),
        line: probe.told(&format!("{dir}/coherency_line_size")).filter(|line| *line > 0),
        shared_by,
    })
}

fn kind(probe: &mut Probe<'_>, path: &str) -> Option<CacheKind> {
    match probe.text(path)?.as_str() {
        "Data" => Some(CacheKind::Data),
        "Instruction" => Some(CacheKind::Instruction),
        "Unified" => Some(CacheKind::Unified),
        other => {
            probe.problem(path, format!("{} is not a type of cache", quote(other)));
            None
        }
    }
}

/// Bytes from `32K`; sysfs writes kilobytes only, but M costs nothing.
fn size(probe: &mut Probe<'_>, path: &str) -> Option<u64> {
    let text = probe.text(path)?;
    let (digits, unit) = match text.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix('M').map_or((text.as_str(), 1), |digits| (digits, 1 << 20)),
    };
    let size = digits.parse::<u64>().ok().and_then(|size| size.checked_mul(unit));
    if size.is_none() {
        probe.problem(path, format!("{} is not a size", quote(&text)));
    }
    size
}

/// Model and vendor from `/proc/cpuinfo`, whose keys differ by architecture.
fn identity(probe: &mut Probe<'_>) -> (Option<String>, Option<String>) {
    // In order of trust: x86 and loongarch, arm, ppc, riscv.
    const MODEL: [&str; 5] = ["model name", "Model Name", "Processor", "cpu", "uarch"];
    const VENDOR: [&str; 3] = ["vendor_id", "vendor", "CPU implementer"];
    let Some(cpuinfo) = probe.text("/proc/cpuinfo") else { return (None, None) };
    let first = |key: &str| cpuinfo.lines().find_map(|line| value_of(line, key));
    let model = MODEL.iter().find_map(|key| first(key));
    (model, VENDOR.iter().find_map(|key| first(key)).map(implementer))
}

fn value_of(line: &str, key: &str) -> Option<String> {
    let (name, value) = line.split_once(':')?;
    if name.trim() == key { label(value) } else { None }
}

/// Arm's implementer codes (MIDR_EL1, bits 31:24) by name, others unchanged.
fn implementer(vendor: String) -> String {
    let name = match vendor.as_str() {
        "0x41" => "ARM",
        "0x42" => "Broadcom",
        "0x43" => "Cavium",
        "0x46" => "Fujitsu",
        "0x48" => "HiSilicon",
        "0x4e" => "NVIDIA",
        "0x50" => "APM",
        "0x51" => "Qualcomm",
        "0x61" => "Apple",
        "0xc0" => "Ampere",
        _ => return vendor,
    };
    name.into()
}
