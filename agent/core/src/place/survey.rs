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
    named,
    nodes::{Distances, MAX_NODES},
};
use crate::{
    idset::IdSet,
    inventory::{Cpu, GpuKind, GroupKind, Inventory, NodeFlag, NumaNode, SliceKind},
};

/// The distance of a pair of nodes that the firmware tells none for: that of two packages
/// in the ACPI specification's own example (SLIT).
const FAR: u32 = 20;
/// Kinds of cores that are told apart: every set of them is tried, and no machine has more
/// (Arm: prime, big, middle, little).
const MAX_KINDS: usize = 4;
/// A node to itself.
const LOCAL: u32 = 10;

impl Machine {
    /// The nodes, CPUs and devices of an inventory that can be given to workloads: CPUs
    /// that are online, allowed to us and not isolated at boot; nodes with CPUs or memory
    /// of the machine's own. The error is a machine that can't be placed on, in words.
    pub fn of(inventory: &Inventory) -> Result<Self, String> {
        let cpu = inventory.cpu.as_ref().ok_or("its CPUs could not be read")?;
        // Unknown nodes are not the same as none.
        if inventory.numa.is_none() && cpu.pus.iter().any(|pu| pu.node.is_some()) {
            return Err("its NUMA nodes could not be read".into());
        }
        let usable = usable(cpu);
        let shown = nodes(inventory, &usable);
        if shown.len() > MAX_NODES as usize {
            let count = shown.len();
            return Err(format!("it has {count} NUMA nodes; {MAX_NODES} is the most"));
        }
        // On one node, a device that tells none is there too.
        let only = (shown.len() == 1).then_some(0);
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
            devices: devices(inventory, |node| node.and_then(number).or(only)),
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
            let memory = inventory.memory.as_ref().and_then(|memory| memory.total);
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
    let (caches, kinds) = (last_level(cpu), kinds(cpu));
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
                kind: kinds.get(&pu.id).copied().unwrap_or(0),
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

/// The kind of each PU's core, the slowest first.
fn kinds(cpu: &Cpu) -> BTreeMap<u32, u32> {
    let all = (0..).zip(&cpu.kinds).filter(|_| cpu.kinds.len() <= MAX_KINDS);
    all.flat_map(|(number, kind)| kind.pus.iter().map(move |pu| (pu, number))).collect()
}

fn devices(inventory: &Inventory, number: impl Fn(Option<u32>) -> Option<u32>) -> Vec<Device> {
    let device = |name: &str, kind: &str, pci: &str, node: Option<u32>| Device {
        name: name.into(),
        kind: kind.into(),
        node: number(node),
        path: path(inventory, pci),
        known_as: Vec::new(),
        cdi: Vec::new(),
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
    named::ours(inventory, &mut devices);
    named::others(inventory, number, &mut devices);
    devices
}

/// The root bus of a function, the bridges below it, and itself.
pub(super) fn path(inventory: &Inventory, pci: &str) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Cache, CacheKind, Gpu, Group, Nic, PciDevice, Pu};

    fn ids(list: &str) -> IdSet {
        IdSet::parse(list).expect("a valid list")
    }

    /// Two nodes, 3 and 7, of two cores each; 7 has a GPU and a NIC below one port.
    fn machine() -> Inventory {
        let pu = |id: u32| Pu { id, logical: id, node: Some(if id < 2 { 3 } else { 7 }) };
        let core = |id: u32| Group {
            kind: GroupKind::Core,
            id: Some(0),
            logical: id,
            pus: ids(&id.to_string()),
        };
        let l3 = |shared_by: &str| Cache {
            level: 3,
            kind: CacheKind::Unified,
            size: None,
            ways: None,
            sets: None,
            line: None,
            id: None,
            shared_by: ids(shared_by),
        };
        let node = |id: u32, cpus: &str| NumaNode {
            id,
            cpus: Some(ids(cpus)),
            memory: Some(1 << 30),
            distances: BTreeMap::from([(3, 10 + id), (7, 17 - id)]),
            ..NumaNode::default()
        };
        let function = |address: &str, parent: Option<&str>| PciDevice {
            address: address.into(),
            parent: parent.map(str::to_string),
            ..PciDevice::default()
        };
        Inventory {
            cpu: Some(Cpu {
                pus: (0..4).map(pu).collect(),
                groups: (0..4).map(core).collect(),
                caches: Vec::from([l3("0-1"), l3("2-3")]),
                online: Some(ids("0-3")),
                isolated: Some(ids("3")),
                ..Cpu::default()
            }),
            numa: Some(Vec::from([node(3, "0-1"), node(7, "2-3")])),
            pci: Some(Vec::from([
                function("0000:80:01.0", None),
                function("0000:81:00.0", Some("0000:80:01.0")),
                function("0000:82:00.0", Some("0000:80:01.0")),
            ])),
            gpus: Some(Vec::from([Gpu {
                pci: "0000:81:00.0".into(),
                node: Some(7),
                ..Gpu::default()
            }])),
            nics: Some(Vec::from([Nic {
                name: "eth0".into(),
                physical: true,
                pci: Some("0000:82:00.0".into()),
                node: Some(7),
                ..Nic::default()
            }])),
            ..Inventory::default()
        }
    }

    #[test]
    fn nodes_are_counted_without_gaps_and_devices_have_their_way_up() {
        let machine = Machine::of(&machine()).expect("a machine to place on");
        assert_eq!(machine.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [3, 7]);
        assert_eq!(machine.distances.between(1, 1), 10);
        // PU 3 is isolated.
        assert_eq!(machine.pus.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(machine.pus[&2], Place { node: 1, package: 0, l3: 1, core: 2, kind: 0 });
        let gpu = &machine.devices[0];
        assert_eq!((&*gpu.kind, gpu.node), ("gpu", Some(1)));
        assert_eq!(gpu.path, ["0000:80", "0000:80:01.0", "0000:81:00.0"]);
        assert_eq!(machine.devices[1].name, "eth0");
    }

    #[test]
    fn a_machine_without_numa_is_one_node() {
        let mut whole = Inventory { numa: None, ..machine() };
        assert!(Machine::of(&whole).is_err(), "nodes that could not be read are not none");
        whole.cpu.iter_mut().flat_map(|cpu| &mut cpu.pus).for_each(|pu| pu.node = None);
        let machine = Machine::of(&whole).expect("a machine to place on");
        assert_eq!(machine.nodes.len(), 1);
        assert_eq!(machine.devices[0].node, Some(0));
    }

    #[test]
    fn without_cpus_there_is_nothing_to_place_on() {
        assert!(Machine::of(&Inventory::default()).is_err());
    }
}
