//! What container runtimes and their users call the devices of a machine.
//!
//! Our own CDI specifications name what the inventory shows. Those of others, found on the
//! node, may name the same hardware, which is then one device of several names and never
//! given twice; several of ours at once (`all`), by which a container is known to have
//! them and nobody can ask; or something that only they know of: a device of its own.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};

use super::{machine::Device, survey::path};
use crate::{
    cdi,
    inventory::{CdiDevice, Inventory},
};

/// Tells each device what it is called in CDI, and which device files are its alone.
pub(super) fn ours(inventory: &Inventory, devices: &mut [Device]) {
    let gpus = || inventory.gpus.iter().flatten();
    let nics = || inventory.nics.iter().flatten();
    // What a CDI device is named after, and ours.
    let of_gpus = gpus().filter_map(|gpu| Some((gpu.uuid.clone()?, gpu.pci.clone())));
    let of_nics = nics().filter_map(|nic| Some((nic.pci.clone()?, nic.name.clone())));
    let ours: BTreeMap<String, String> = of_gpus.chain(of_nics).collect();
    let mut files: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    for spec in cdi::specs(inventory) {
        for it in named_first(&spec.devices, |it| &it.name) {
            let nodes: Vec<String> =
                it.container_edits.device_nodes.iter().map(|node| node.path.clone()).collect();
            let name = ours.get(&it.name).unwrap_or(&it.name);
            let at = devices.iter().position(|device| device.name == *name);
            let Some(at) = at.or_else(|| files.get(&nodes).copied()) else { continue };
            devices[at].cdi.push(format!("{}={}", spec.kind, it.name));
            files.insert(nodes, at);
        }
    }
    let users = |path: &String| files.keys().filter(|paths| paths.contains(path)).count();
    let alone = |paths: &Vec<String>| paths.iter().filter(|it| users(it) == 1).cloned().collect();
    let own: Vec<(usize, Vec<String>)> = files.iter().map(|(it, at)| (*at, alone(it))).collect();
    own.into_iter().for_each(|(at, paths)| devices[at].known_as.extend(paths));
    // What NVIDIA's own device plugin calls them.
    for gpu in gpus() {
        let slices = gpu.slices.iter().map(|slice| (&slice.id, &slice.id));
        for (name, id) in gpu.uuid.iter().map(|uuid| (&gpu.pci, uuid)).chain(slices) {
            if let Some(device) = devices.iter_mut().find(|it| it.name == *name) {
                device.known_as.push(format!("nvidia.com/gpu={id}"));
            }
        }
    }
}

/// Those named by what they are before those that are merely counted.
fn named_first<T>(all: &[T], name: impl Fn(&T) -> &str) -> impl Iterator<Item = &T> {
    let counted = |it: &&T| name(it).bytes().all(|byte| byte.is_ascii_digit());
    let (last, first): (Vec<&T>, Vec<&T>) = all.iter().partition(counted);
    first.into_iter().chain(last)
}

/// What the specifications of others call them, and what else those name.
pub(super) fn others(
    inventory: &Inventory,
    number: impl Fn(Option<u32>) -> Option<u32>,
    devices: &mut Vec<Device>,
) {
    let offered = inventory.platform.iter().flat_map(|platform| &platform.cdi);
    let offered: Vec<&CdiDevice> = offered.collect();
    // The same files and interfaces are the same hardware.
    let mut groups: BTreeMap<BTreeSet<&str>, Vec<&CdiDevice>> = BTreeMap::new();
    let mut alone = Vec::new();
    for it in named_first(&offered, |it| &it.name) {
        let brings: BTreeSet<&str> =
            it.nodes.iter().chain(&it.interfaces).map(|it| &**it).collect();
        match brings.is_empty() {
            true => alone.push((brings, Vec::from([*it]))),
            false => groups.entry(brings).or_default().push(it),
        }
    }
    let (several, single): (Vec<_>, Vec<_>) =
        groups.iter().partition(|(brings, _)| is_several(brings, groups.keys()));
    let files: Vec<&BTreeSet<&str>> = single.iter().map(|(brings, _)| *brings).collect();
    let known = devices.len();
    for (brings, names) in single.into_iter().chain(alone.iter().map(|(it, of)| (it, of))) {
        let cdi: Vec<String> = names.iter().map(|it| it.full_name()).collect();
        match *behind(&devices[..known], brings, &names[0].pci) {
            [] => {
                let own = |file: &&&str| files.iter().filter(|it| it.contains(**file)).count() == 1;
                let own = brings.iter().filter(own).map(|file| String::from(*file)).collect();
                devices.push(device(inventory, &number, names[0], own, cdi));
            }
            [one] => devices[one].cdi.extend(cdi),
            ref all => all.iter().for_each(|at| devices[*at].known_as.extend(cdi.clone())),
        }
    }
    for (brings, names) in several {
        let all: Vec<usize> = behind(devices, brings, &[]).to_vec();
        let names = || names.iter().map(|it| it.full_name());
        all.into_iter().for_each(|at| devices[at].known_as.extend(names()));
    }
}

/// True if two others are in it of which neither is in the other.
fn is_several<'a>(
    brings: &BTreeSet<&str>,
    all: impl Iterator<Item = &'a BTreeSet<&'a str>>,
) -> bool {
    let inside: Vec<_> = all.filter(|it| it.len() < brings.len() && it.is_subset(brings)).collect();
    inside.iter().any(|one| inside.iter().any(|it| !it.is_subset(one) && !one.is_subset(it)))
}

/// Which devices those are that have these files and interfaces; if none, the only one
/// that is this PCI function.
fn behind(devices: &[Device], brings: &BTreeSet<&str>, pci: &[String]) -> Vec<usize> {
    let with = |is: &dyn Fn(&Device) -> bool| -> Vec<usize> {
        (0..).zip(devices).filter(|(_, it)| is(it)).map(|(at, _)| at).collect()
    };
    let has = |it: &Device| {
        brings.contains(&*it.name) || it.known_as.iter().any(|name| brings.contains(&**name))
    };
    let found = with(&has);
    if !found.is_empty() {
        return found;
    }
    let is = |it: &Device| pci.len() == 1 && it.path.last() == pci.first();
    with(&is)
}

/// Something that only a specification knows of.
fn device(
    inventory: &Inventory,
    number: impl Fn(Option<u32>) -> Option<u32>,
    it: &CdiDevice,
    files: Vec<String>,
    cdi: Vec<String>,
) -> Device {
    let node = |address: &String| {
        let mut all = inventory.pci.iter().flatten();
        all.find(|function| function.address == *address).and_then(|function| function.node)
    };
    let nodes: BTreeSet<Option<u32>> = it.pci.iter().map(node).collect();
    let one = if nodes.len() == 1 { nodes.first().copied().flatten() } else { None };
    let mut paths = it.pci.iter().map(|address| path(inventory, address));
    let first = paths.next().unwrap_or_default();
    // Of several functions what they have in common.
    let shared = paths.fold(first, |shared, path| {
        let both = shared.into_iter().zip(path).take_while(|(one, other)| one == other);
        both.map(|(one, _)| one).collect()
    });
    Device {
        name: it.full_name(),
        kind: it.kind.clone(),
        node: number(one),
        path: shared,
        known_as: files,
        cdi,
    }
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec};

    use super::*;
    use crate::inventory::{PciDevice, Platform};

    fn offered(kind: &str, name: &str, nodes: &[&str], pci: &[&str]) -> CdiDevice {
        let all = |texts: &[&str]| texts.iter().map(|it| (*it).to_string()).collect();
        let (nodes, pci) = (all(nodes), all(pci));
        CdiDevice { kind: kind.into(), name: name.into(), nodes, pci, interfaces: Vec::new() }
    }

    fn named(cdi: Vec<CdiDevice>, mut devices: Vec<Device>) -> Vec<Device> {
        let function = |address: &str, parent: &str, node| PciDevice {
            address: address.into(),
            parent: (!parent.is_empty()).then(|| parent.into()),
            node: Some(node),
            ..PciDevice::default()
        };
        let inventory = Inventory {
            platform: Some(Platform { cdi, ..Platform::default() }),
            pci: Some(vec![
                function("0000:20:01.0", "", 0),
                function("0000:21:00.0", "0000:20:01.0", 0),
                function("0000:a0:01.0", "", 1),
                function("0000:a1:00.0", "0000:a0:01.0", 1),
            ]),
            ..Inventory::default()
        };
        others(&inventory, |node| node, &mut devices);
        devices
    }

    #[test]
    fn what_only_a_specification_knows_is_near_its_function() {
        let devices = named(
            vec![
                offered("acme.com/npu", "0", &["/dev/npuctl", "/dev/npu0"], &["0000:21:00.0"]),
                offered("acme.com/npu", "left", &["/dev/npuctl", "/dev/npu0"], &["0000:21:00.0"]),
                offered("acme.com/npu", "1", &["/dev/npuctl", "/dev/npu1"], &["0000:a1:00.0"]),
                offered(
                    "acme.com/npu",
                    "all",
                    &["/dev/npuctl", "/dev/npu0", "/dev/npu1"],
                    &["0000:21:00.0", "0000:a1:00.0"],
                ),
                offered("acme.com/licence", "1", &[], &[]),
            ],
            Vec::new(),
        );
        let summary: Vec<_> =
            devices.iter().map(|it| (&*it.name, it.node, it.path.len())).collect();
        assert_eq!(
            summary,
            [
                ("acme.com/npu=left", Some(0), 3),
                ("acme.com/npu=1", Some(1), 3),
                ("acme.com/licence=1", None, 0)
            ]
        );
        assert_eq!(devices[0].cdi, ["acme.com/npu=left", "acme.com/npu=0"]);
        // Who was given all of them has each; nobody can ask for it.
        assert_eq!(devices[1].known_as, ["/dev/npu1", "acme.com/npu=all"]);
        for asked in ["acme.com/npu", "acme.com/npu=left", "acme.com/npu=0"] {
            assert!(devices[0].is(asked), "{asked}");
        }
        for asked in ["acme.com", "acme.com/np", "acme.com/npu=1", "acme.com/npu=all"] {
            assert!(!devices[0].is(asked), "{asked}");
        }
    }

    #[test]
    fn another_name_of_what_is_there_makes_no_second_device() {
        let gpu = |pci: &str, file: &str| Device {
            name: pci.into(),
            kind: "gpu".into(),
            path: vec!["0000:20".into(), pci.into()],
            known_as: vec![file.into()],
            ..Device::default()
        };
        let there = vec![gpu("0000:21:00.0", "/dev/nvidia0"), gpu("0000:a1:00.0", "/dev/nvidia1")];
        let devices = named(
            vec![
                offered("nvidia.com/gpu", "0", &["/dev/nvidia0"], &[]),
                offered("nvidia.com/gpu", "1", &["/dev/nvidia1"], &[]),
                offered("nvidia.com/gpu", "all", &["/dev/nvidia0", "/dev/nvidia1"], &[]),
                // Known by the function alone.
                offered("acme.com/render", "x", &["/dev/dri/renderD129"], &["0000:a1:00.0"]),
            ],
            there,
        );
        assert_eq!(devices.len(), 2);
        assert_eq!(devices[0].cdi, ["nvidia.com/gpu=0"]);
        assert_eq!(devices[1].cdi, ["acme.com/render=x", "nvidia.com/gpu=1"]);
        assert!(devices.iter().all(|it| it.known_as.contains(&"nvidia.com/gpu=all".into())));
    }
}
