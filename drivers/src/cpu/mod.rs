//! Packages, cores, PUs and their caches.
//!
//! Page: `hw-docs/cpu.md`. Sources: `/sys/devices/system/cpu`
//! (Documentation/ABI/testing/sysfs-devices-system-cpu and
//! Documentation/admin-guide/cputopology.rst), `/proc/cpuinfo` for what sysfs
//! doesn't tell. Possible, present, online and allowed are four different sets;
//! it must never take one for another. The topology of an offline CPU is not
//! known, so only online CPUs become PUs.
//!
//! | module | what it reads |
//! | --- | --- |
//! | `cpuinfo` | names, flags, Arm's MIDR; ids where sysfs has no topology |
//! | `groups` | packages, dies, clusters, cores, books and drawers |
//! | `cache` | cache instances |
//! | `kinds` | P, E and LP-E cores, big and LITTLE ones |
//! | `power` | frequency policies and C-states |
//! | `cgroup` | what this process may use |
//! | `resctrl` | cache and bandwidth allocation |

use std::collections::BTreeMap;

use purlin_core::{
    idset::IdSet,
    inventory::{Cache, Cpu, Group, Part, Problem, Pu},
};

use crate::{
    Dir, Root, numa,
    probe::{Probe, label, numbered},
};

mod cache;
mod cgroup;
mod cpuinfo;
mod device_tree;
mod groups;
mod kinds;
mod power;
mod resctrl;

const CPUS: &str = "/sys/devices/system/cpu";

/// Reads the processors; `None` if the kernel's CPU directory is not there.
pub fn read(root: &Root) -> (Option<Cpu>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Cpu, root);
    let cpu = read_cpu(&mut probe);
    (cpu, probe.finish())
}

fn read_cpu(probe: &mut Probe<'_>) -> Option<Cpu> {
    let Some(dir) = probe.dir(CPUS) else {
        probe.problem(CPUS, "is not there; is this the root of a machine's files?");
        return None;
    };
    let listed = numbered(&dir, "cpu");
    let online = set_of(probe, &dir, "online", &listed).filter(|set| !set.is_empty());
    let online = online.unwrap_or_else(|| not_switched_off(probe, &dir, &listed));
    let seen = online.intersection(&listed);
    if seen.is_empty() {
        probe.problem(CPUS, "no CPU in it is online");
    }
    if let Some(missing) = online.difference(&listed).first() {
        probe.problem(&format!("{CPUS}/cpu{missing}"), "is not there, though the CPU is online");
    }
    let [possible, present] =
        ["possible", "present"].map(|name| set_of(probe, &dir, name, &listed));
    let absent = present.as_ref().and_then(|present| online.difference(present).first());
    if let Some(absent) = absent {
        probe.problem(&dir.path_of("online"), format!("names CPU {absent}, which is not present"));
    }
    let info = cpuinfo::read(probe);
    let mut groups = groups::read(probe, &dir, &seen, &info);
    let mut caches = cache::read(probe, &dir, &seen, &groups);
    let told: IdSet = caches.iter().flat_map(|cache| cache.shared_by.iter()).collect();
    caches.extend(device_tree::read(probe, &dir, &seen.difference(&told)));
    let nodes = numa::cpus_of_nodes(probe);
    let pus = pus(&seen, &mut groups, &caches, &nodes);
    caches.sort_by_cached_key(|cache| (cache.level, cache.kind, cache.shared_by.first()));
    let frequency = power::policies(probe, &dir, &seen);
    let kinds = kinds::read(probe, &dir, &seen, &info, &frequency, &caches);
    let (allowed, allowed_nodes) = cgroup::allowed(probe);
    let smt = probe.dir_in(&dir, "smt");
    Some(Cpu {
        model: info.model,
        vendor: info.vendor,
        flags: info.flags,
        microcode: info.microcode,
        vulnerabilities: vulnerabilities(probe, &dir),
        possible,
        present,
        allowed,
        allowed_nodes,
        isolated: probe.set((&dir, "isolated")),
        nohz_full: nohz_full(probe, &dir),
        smt: smt.as_ref().and_then(|smt| probe.label((smt, "control"))),
        smt_active: smt.as_ref().and_then(|smt| probe.flag((smt, "active"))),
        pus,
        groups,
        caches,
        idle: power::idle(probe, &dir, &seen, &kinds),
        kinds,
        frequency,
        boost: power::boost(probe, &dir),
        resctrl: resctrl::read(probe),
        listed,
        online: (!online.is_empty()).then_some(online),
    })
}

/// A set that has members wherever CPUs are listed: an empty one is a damaged
/// file, and unknown.
fn set_of(probe: &mut Probe<'_>, dir: &Dir<'_>, name: &str, listed: &IdSet) -> Option<IdSet> {
    let set = probe.set((dir, name))?;
    if set.is_empty() && !listed.is_empty() {
        probe.problem(&dir.path_of(name), "is empty, though there are CPUs");
        return None;
    }
    Some(set)
}

/// The online CPUs on kernels before 2.6.26, which have no `online` list: a
/// CPU's own `online` file is 0 or 1, and absent where it can't be switched.
fn not_switched_off(probe: &mut Probe<'_>, dir: &Dir<'_>, listed: &IdSet) -> IdSet {
    let on = |id: &u32| probe.flag((dir, &*format!("cpu{id}/online"))) != Some(false);
    listed.iter().filter(on).collect()
}

/// Kernels that were built for it and not told to use it print `(null)`.
fn nohz_full(probe: &mut Probe<'_>, dir: &Dir<'_>) -> Option<IdSet> {
    match probe.text((dir, "nohz_full"))?.trim() {
        "(null)" => Some(IdSet::default()),
        _ => probe.set((dir, "nohz_full")),
    }
}

fn vulnerabilities(probe: &mut Probe<'_>, dir: &Dir<'_>) -> BTreeMap<String, String> {
    let Some(dir) = probe.dir_in(dir, "vulnerabilities") else { return BTreeMap::new() };
    let told = |name: &str| Some((label(name)?, probe.label((&dir, name))?));
    dir.names().filter_map(told).collect()
}

/// The PUs by kernel id, with the logical ids of theirs and of the groups: the
/// order in which they stand in all that contains them, the largest first, and
/// each by its lowest PU.
fn pus(seen: &IdSet, groups: &mut [Group], caches: &[Cache], nodes: &[(u32, IdSet)]) -> Vec<Pu> {
    let mut sets: Vec<&IdSet> = groups.iter().map(|group| &group.pus).collect();
    sets.extend(caches.iter().map(|cache| &cache.shared_by));
    sets.extend(nodes.iter().map(|(_, cpus)| cpus));
    sets.sort_by_cached_key(|set| std::cmp::Reverse(set.len()));
    let mut places: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for set in sets {
        let Some(first) = set.first() else { continue };
        for id in set.iter() {
            places.entry(id).or_default().push(first);
        }
    }
    let mut order: Vec<u32> = seen.iter().collect();
    order.sort_by_cached_key(|id| (places.get(id), *id));
    let logical: BTreeMap<u32, u32> = order.into_iter().zip(0..).collect();

    groups.sort_by_cached_key(|group| {
        (group.kind, group.pus.iter().filter_map(|id| logical.get(&id)).min().copied())
    });
    let mut before = None;
    let mut next = 0;
    for group in groups {
        next = if before == Some(group.kind) { next + 1 } else { 0 };
        before = Some(group.kind);
        group.logical = next;
    }
    let node = |id| nodes.iter().find(|(_, cpus)| cpus.contains(id)).map(|(node, _)| *node);
    logical.into_iter().map(|(id, logical)| Pu { id, logical, node: node(id) }).collect()
}
