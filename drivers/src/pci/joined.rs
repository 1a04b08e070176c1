//! What only several PCI functions tell together: what both ends of a link can
//! do, the node, slot and IOMMU domain that one has from elsewhere, and
//! firmware that contradicts itself.
//!
//! It reads the files of slots, IOMMU groups and NUMA nodes and the firmware's
//! table, never a function's.

use std::collections::BTreeMap;

use purlin_core::{
    idset::IdSet,
    inventory::{PciDevice, PciLink},
};

use super::is_address;
use crate::{
    numa,
    probe::Probe,
    smbios::{self, Smbios},
};

const SLOTS: &str = "/sys/bus/pci/slots";
const IOMMU_GROUPS: &str = "/sys/kernel/iommu_groups";

/// Where a function sits, from where its link in `/sys/bus/pci/devices` leads.
pub(crate) struct Place {
    /// The functions above it, the nearest first, also across a host bridge
    /// that is itself a function (VMD).
    pub(crate) above: Vec<String>,
    /// The root bus it hangs under, `pci0000:3a`.
    bus: String,
    /// True if nothing is between it and its root bus.
    on_root_bus: bool,
    /// True if the kernel says that the firmware tells no NUMA node (−1), which
    /// is more than not saying anything.
    pub(super) denies_node: bool,
}

impl Place {
    pub(super) fn new(address: &str, target: &str) -> Self {
        let up: Vec<&str> = target.rsplit('/').skip(1).collect();
        let domain = address.split(':').next().unwrap_or_default();
        let bus = up.iter().find(|name| name.starts_with("pci"));
        Self {
            above: up.iter().filter(|name| is_address(name)).map(|&name| name.into()).collect(),
            bus: bus.map_or_else(|| format!("pci{domain}"), |bus| (*bus).into()),
            denies_node: false,
            on_root_bus: !up.first().is_some_and(|name| is_address(name)),
        }
    }

    pub(super) fn parent(&self) -> Option<String> {
        if self.on_root_bus { None } else { self.above.first().cloned() }
    }
}

/// Fills in what the functions have from each other. `places` are theirs, in
/// the same order.
pub(super) fn join(probe: &mut Probe<'_>, devices: &mut [PciDevice], places: &[Place]) {
    links(devices);
    nodes(probe, devices, places);
    slots(probe, devices, places);
    iommu_types(probe, devices);
}

fn links(devices: &mut [PciDevice]) {
    let both: Vec<Option<PciLink>> = {
        let by_address = devices.iter().map(|it| (it.address.as_str(), it)).collect();
        devices.iter().map(|device| both_ends(device, &by_address)).collect()
    };
    for (device, both) in devices.iter_mut().zip(both) {
        device.link_both = both;
    }
}

/// What a function and the port above it can do. Ports alternate: root port,
/// a switch's upstream port, its downstream ports, and so on; the link of a
/// port that faces down is told by what is below it. A virtual function has no
/// link of its own. Two ends that don't agree on the link they share are not
/// two ends of one link (a bridge made up by a hypervisor).
fn both_ends(device: &PciDevice, all: &BTreeMap<&str, &PciDevice>) -> Option<PciLink> {
    let port = above(device, all)?;
    let faces_down = depth(port, all).is_multiple_of(2);
    let is_one_link = device.link.is_some() && device.link == port.link;
    let is_known = device.physical.is_none() && port.is_bridge() && faces_down && is_one_link;
    is_known.then_some(device.link_max?.both(port.link_max?))
}

fn above<'a>(device: &PciDevice, all: &BTreeMap<&str, &'a PciDevice>) -> Option<&'a PciDevice> {
    all.get(device.parent.as_deref()?).copied()
}

fn depth(device: &PciDevice, all: &BTreeMap<&str, &PciDevice>) -> usize {
    // A path has an end, so the chain of parents has one too; the bound is for
    // links of a dump that lie.
    std::iter::successors(above(device, all), |it| above(it, all)).take(all.len()).count()
}

fn nodes(probe: &mut Probe<'_>, devices: &mut [PciDevice], places: &[Place]) {
    let told: BTreeMap<String, u32> =
        devices.iter().filter_map(|it| Some((it.address.clone(), it.node?))).collect();
    let nodes: BTreeMap<u32, IdSet> = numa::cpus_of_nodes(probe).into_iter().collect();
    let online: IdSet = nodes.values().flat_map(IdSet::iter).collect();
    let mut doubts = Doubts::default();
    for (device, place) in devices.iter_mut().zip(places) {
        if let Some(what) = doubt(device, &nodes, &online) {
            doubts.note(&place.bus, &device.address, what);
        }
        device.node =
            device.node.or_else(|| place.above.iter().find_map(|it| told.get(it).copied()));
        if device.node.is_none() && place.denies_node && nodes.len() > 1 {
            doubts.note(&place.bus, &device.address, "no NUMA node is told");
        }
    }
    doubts.tell(probe);
}

/// What contradicts itself in a function's own words. CPUs that are in no node
/// are offline.
fn doubt(device: &PciDevice, nodes: &BTreeMap<u32, IdSet>, online: &IdSet) -> Option<&'static str> {
    let node = device.node.filter(|_| !nodes.is_empty())?;
    let Some(cpus) = nodes.get(&node) else { return Some("a NUMA node is told that isn't there") };
    let local = device.local_cpus.as_ref()?.intersection(online);
    let contradicts = !cpus.is_empty() && !local.is_empty() && local != *cpus;
    contradicts.then_some("the CPUs told as near are not those of the NUMA node told")
}

/// Doubts by root bus, since firmware describes one as a whole: how many
/// functions, and the first of them.
#[derive(Default)]
struct Doubts(BTreeMap<(String, &'static str), (usize, String)>);

impl Doubts {
    fn note(&mut self, bus: &str, address: &str, what: &'static str) {
        let first = || (0, address.to_owned());
        self.0.entry((bus.to_owned(), what)).or_insert_with(first).0 += 1;
    }

    fn tell(self, probe: &mut Probe<'_>) {
        for ((bus, what), (count, first)) in self.0 {
            let who = if count == 1 { first } else { format!("{count} functions from {first}") };
            probe.problem(&bus, format!("{what} for {who}; a firmware update may repair it"));
        }
    }
}

fn slots(probe: &mut Probe<'_>, devices: &mut [PciDevice], places: &[Place]) {
    let slots = Slots::read(probe);
    for (device, place) in devices.iter_mut().zip(places) {
        device.slot = slots.of(&device.address, place);
        device.label = slots.label(&device.address, place);
    }
}

/// The places of cards. A slot holds whatever is below it.
pub(crate) struct Slots {
    /// The kernel's names by address, `domain:bus:device`.
    kernel: BTreeMap<String, String>,
    /// The board's.
    board: Smbios,
}

impl Slots {
    pub(crate) fn read(probe: &mut Probe<'_>) -> Self {
        let names = probe.names(SLOTS).unwrap_or_default();
        let slot = |name: String| Some((probe.label(&format!("{SLOTS}/{name}/address"))?, name));
        let kernel = names.into_iter().filter_map(slot).collect();
        Self { kernel, board: smbios::read_quietly(probe) }
    }

    pub(crate) fn of(&self, address: &str, place: &Place) -> Option<String> {
        let mut nearest = std::iter::once(address).chain(place.above.iter().map(String::as_str));
        nearest.find_map(|address| self.kernel.get(address.rsplit_once('.')?.0).cloned())
    }

    pub(crate) fn label(&self, address: &str, place: &Place) -> Option<String> {
        self.board.designation(address, &place.above).map(str::to_owned)
    }
}

fn iommu_types(probe: &mut Probe<'_>, devices: &mut [PciDevice]) {
    let mut types: BTreeMap<u32, Option<String>> = BTreeMap::new();
    for device in devices {
        let Some(group) = device.iommu_group else { continue };
        let read = || probe.label(&format!("{IOMMU_GROUPS}/{group}/type"));
        device.iommu_type = types.entry(group).or_insert_with(read).clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_by_the_path() {
        let place =
            Place::new("0000:02:00.0", "../../../devices/pci0000:00/0000:00:01.0/0000:02:00.0");
        assert_eq!(
            (place.parent().as_deref(), place.bus.as_str()),
            (Some("0000:00:01.0"), "pci0000:00")
        );
        let vmd = "../../../devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0";
        let place = Place::new("10000:e0:06.0", vmd);
        assert_eq!((place.parent(), place.above), (None, vec!["0000:00:0e.0".to_owned()]));
    }
}
