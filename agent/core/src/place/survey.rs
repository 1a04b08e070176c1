//! What an inventory offers to place things on.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::{
    cpus::{Place, Places},
    machine::{Device, Machine, Node},
    nodes::{Distances, MAX_NODES},
};
use crate::{
    idset::IdSet,
    inventory::{Cpu, GpuKind, GroupKind, Inventory, NodeFlag, NumaNode, SliceKind},
};

/// The distance of a pair of nodes that the firmware tells none for: that of two packages
/// in the ACPI specification's own example (SLIT).
const FAR: u32 = 20;
/// A node to itself.
const LOCAL: u32 = 10;

impl Machine {
    /// The nodes, CPUs and devices of an inventory that can be given to workloads: CPUs
    /// that are online, allowed to us and not isolated at boot; nodes with CPUs or memory
    /// of the machine's own. The error is a machine that can't be placed on, in words.
    pub fn of(inventory: &Inventory) -> Result<Self, String> {
        let cpu = inventory.cpu.as_ref().ok_or("its CPUs could not be read")?;
        let usable = usable(cpu);
        let shown = nodes(inventory, &usable);
        if shown.len() > MAX_NODES as usize {
            let count = shown.len();
            return Err(format!("it has {count} NUMA nodes; {MAX_NODES} is the most"));
        }
        let number = |id: u32| (0..).zip(&shown).find(|(_, node)| node.id == id).map(|(it, _)| it);
        let distance = |from: u32, to: u32| {
            let of = |node: u32| shown.get(node as usize);
            let told = of(from).zip(of(to)).and_then(|(from, to)| from.distances.get(&to.id));
            told.copied().unwrap_or(if from == to { LOCAL } else { FAR })
        };
        let node = |node: &NumaNode| Node {
            id: node.id,
            memory: node.memory.unwrap_or(0),
            hugepages: node
                .hugepages
                .iter()
                .map(|(size, pool)| (*size, size * pool.total))
                .collect(),
        };
        let pus = places(cpu, &usable, number);
        if pus.is_empty() {
            return Err("no CPU of it may be used".into());
        }
        Ok(Self {
            nodes: shown.iter().map(node).collect(),
            distances: Distances::new(shown.len() as u32, distance),
            pus,
            devices: devices(inventory, number),
        })
    }
}

fn usable(cpu: &Cpu) -> IdSet {
    let all: IdSet = cpu.pus.iter().map(|pu| pu.id).collect();
    let allowed = |set: IdSet, only: &Option<IdSet>| match only {
        Some(only) => set.intersection(only),
        None => set,
    };
    let set = allowed(allowed(all, &cpu.online), &cpu.allowed);
    cpu.isolated.iter().fold(set, |set, isolated| set.difference(isolated))
}

/// The nodes by id. A kernel without NUMA has one, with all the memory.
fn nodes(inventory: &Inventory, usable: &IdSet) -> Vec<NumaNode> {
    let offers = |node: &&NumaNode| {
        let cpus = node.cpus.as_ref().is_some_and(|cpus| !cpus.intersection(usable).is_empty());
        let elsewhere = node.is(NodeFlag::Offline) || node.is(NodeFlag::Gpu);
        !elsewhere && (cpus || node.memory.is_some_and(|memory| memory > 0))
    };
    match &inventory.numa {
        Some(nodes) if !nodes.is_empty() => nodes.iter().filter(offers).cloned().collect(),
        _ => {
            let memory = inventory.memory.as_ref().map(|memory| memory.total);
            Vec::from([NumaNode { memory, cpus: Some(usable.clone()), ..NumaNode::default() }])
        }
    }
}

fn places(cpu: &Cpu, usable: &IdSet, number: impl Fn(u32) -> Option<u32>) -> Places {
    let groups = |kind: GroupKind| {
        let of = |group: &crate::inventory::Group| {
            group.pus.iter().map(|pu| (pu, group.logical)).collect::<Vec<_>>()
        };
        cpu.groups(kind).flat_map(of).collect::<BTreeMap<u32, u32>>()
    };
    let (packages, cores) = (groups(GroupKind::Package), groups(GroupKind::Core));
    let caches = last_level(cpu);
    let place = |pu: &crate::inventory::Pu| {
        let package = packages.get(&pu.id).copied().unwrap_or(0);
        let node = match pu.node {
            Some(id) => number(id)?,
            None => 0,
        };
        Some((
            pu.id,
            Place {
                node,
                package,
                // Without a shared cache what shares most is the package.
                l3: caches.get(&pu.id).copied().unwrap_or(package),
                // A PU whose core nobody knows is one of its own.
                core: cores.get(&pu.id).copied().unwrap_or(u32::MAX - pu.id),
            },
        ))
    };
    cpu.pus.iter().filter(|pu| usable.contains(pu.id)).filter_map(place).collect()
}

/// The number of each PU's largest cache.
fn last_level(cpu: &Cpu) -> BTreeMap<u32, u32> {
    let level = cpu.caches.iter().map(|cache| cache.level).max().unwrap_or(0);
    let last = cpu.caches.iter().filter(|cache| cache.level == level);
    let pus = (0..).zip(last).flat_map(|(number, cache)| {
        cache.shared_by.iter().map(move |pu| (pu, number)).collect::<Vec<_>>()
    });
    pus.collect()
}

fn devices(inventory: &Inventory, number: impl Fn(u32) -> Option<u32>) -> Vec<Device> {
    let device = |name: &str, kind: &str, pci: &str, node: Option<u32>| Device {
        name: name.into(),
        kind: kind.into(),
        node: node.and_then(&number),
        path: path(inventory, pci),
    };
    let mut devices = Vec::new();
    let gpus = inventory.gpus.iter().flatten();
    for gpu in gpus.filter(|gpu| gpu.kind == GpuKind::Compute && !gpu.lost) {
        let cut: Vec<_> = gpu.slices.iter().filter(|slice| slice.available.is_none()).collect();
        if cut.is_empty() {
            devices.push(device(&gpu.pci, "gpu", &gpu.pci, gpu.node));
        }
        for slice in cut {
            let profile = slice.profile.as_deref().unwrap_or("slice").to_lowercase();
            let kind = match slice.kind {
                SliceKind::Mig => format!("mig-{}", profile.trim_start_matches("mig ")),
                _ => format!("vgpu-{profile}"),
            };
            devices.push(device(&slice.id, &kind.replace(' ', "-"), &gpu.pci, gpu.node));
        }
    }
    for nic in inventory.nics.iter().flatten().filter(|nic| nic.physical) {
        if let Some(pci) = &nic.pci {
            let kind = if nic.vf_of.is_some() { "nic-vf" } else { "nic" };
            devices.push(device(&nic.name, kind, pci, nic.node));
        }
    }
    devices
}

/// The root bus of a function, the bridges below it, and itself.
fn path(inventory: &Inventory, pci: &str) -> Vec<String> {
    let parent = |of: &str| {
        let mut all = inventory.pci.iter().flatten();
        all.find(|device| device.address == of).and_then(|device| device.parent.clone())
    };
    let mut path = Vec::from([pci.to_string()]);
    let mut seen = BTreeSet::new();
    while let Some(above) = path.last().and_then(|last| parent(last)) {
        if !seen.insert(above.clone()) {
            break;
        }
        path.push(above);
    }
    // `0000:20:01.0` is on the root bus `0000:20`.
    let root = path.last().and_then(|top| Some(top.rsplit_once(':')?.0.to_string()));
    path.extend(root);
    path.reverse();
    path
}
