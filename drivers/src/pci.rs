//! PCI functions.
//!
//! Page: `hw-docs/pci.md`. Source: `/sys/bus/pci/devices`
//! (Documentation/ABI/testing/sysfs-bus-pci), names from an installed
//! `pci.ids`. It must never read a function's `config` file: each such read
//! leaves the guest and costs about 15 ms on a virtual machine, and wakes a
//! sleeping device on a real one.

use std::collections::{BTreeMap, BTreeSet};

use purlin_core::inventory::{Part, PciDevice, PciLink, Problem};

use crate::{Root, probe::Probe};

const DEVICES: &str = "/sys/bus/pci/devices";

/// Where distributions put the list of names: Debian's and Red Hat's place.
const NAMES: [&str; 2] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];

/// The most that a `pci.ids` may hold, in bytes; today's is 1.6 MB.
const MAX_NAMES_FILE: u64 = 8 << 20;

/// Reads the functions; `None` if a dump has no PCI directory. A live machine
/// without one has no PCI.
pub fn read(root: &Root) -> (Option<Vec<PciDevice>>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Pci, root);
    let devices = read_devices(&mut probe);
    (devices, probe.finish())
}

fn read_devices(probe: &mut Probe<'_>) -> Option<Vec<PciDevice>> {
    let names = probe.devices(DEVICES)?;
    let mut devices: Vec<PciDevice> =
        names.iter().filter(|name| is_address(name)).map(|name| device(probe, name)).collect();
    name(probe.root, &mut devices);
    Some(devices)
}

fn device(probe: &mut Probe<'_>, address: &str) -> PciDevice {
    let at = |file: &str| format!("{DEVICES}/{address}/{file}");
    PciDevice {
        address: address.into(),
        parent: probe.link(&format!("{DEVICES}/{address}")).and_then(|path| parent(&path)),
        class: probe.hex(&at("class")).unwrap_or_default(),
        vendor: id(probe, &at("vendor")),
        device: id(probe, &at("device")),
        name: None,
        driver: probe.link_name(&at("driver")),
        node: probe.told(&at("numa_node")),
        local_cpus: probe.mask_or_set(&at("local_cpus"), &at("local_cpulist")),
        iommu_group: probe.link_name(&at("iommu_group")).and_then(|group| group.parse().ok()),
        link: link(probe, &at("current_link_speed"), &at("current_link_width")),
        link_max: link(probe, &at("max_link_speed"), &at("max_link_width")),
    }
}

/// 0 where it can't be read: vendor 0 is assigned to nobody.
fn id(probe: &mut Probe<'_>, path: &str) -> u16 {
    probe.hex(path).and_then(|id| u16::try_from(id).ok()).unwrap_or_default()
}

/// `8.0 GT/s PCIe` or `Unknown`, and a width that is 0 without a link.
fn link(probe: &mut Probe<'_>, speed: &str, width: &str) -> Option<PciLink> {
    let speed = probe.text(speed)?;
    let gt_per_s: f32 = speed.split_whitespace().next()?.parse().ok()?;
    let width = probe.told(width).filter(|lanes| (1..=32).contains(lanes))?;
    (gt_per_s.is_finite() && gt_per_s > 0.0).then_some(PciLink { gt_per_s, width })
}

fn parent(path: &str) -> Option<String> {
    let above = path.rsplit('/').nth(1)?;
    is_address(above).then(|| above.to_owned())
}

/// True for `domain:bus:device.function`; the domain has four digits, or up
/// to eight behind a host bridge that makes its own domains (VMD, Hyper-V).
pub(crate) fn is_address(name: &str) -> bool {
    let hex = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let mut parts = name.split(':');
    let (Some(domain), Some(bus), Some(rest), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let Some((device, function)) = rest.split_once('.') else { return false };
    hex(domain, 4..=8) && hex(bus, 2..=2) && hex(device, 2..=2) && hex(function, 1..=1)
}

/// The PCI function behind a device of another class, from where its link in
/// `/sys/class` or `/sys/block` leads: the nearest function above it. That
/// also walks from a virtio device, which tells no node, to its PCI parent.
pub(crate) fn behind(probe: &mut Probe<'_>, path: &str) -> Option<String> {
    let nearest =
        |target: String| target.rsplit('/').find(|name| is_address(name)).map(str::to_owned);
    probe
        .link(path)
        .and_then(nearest)
        .or_else(|| probe.link(&format!("{path}/device")).and_then(nearest))
}

/// The node of a device: its own word, or that of the PCI function behind it.
pub(crate) fn node_of(probe: &mut Probe<'_>, path: &str, pci: Option<&str>) -> Option<u32> {
    match pci {
        Some(address) => probe.told(&format!("{DEVICES}/{address}/numa_node")),
        None => probe.told(&format!("{path}/device/numa_node")),
    }
}

/// Class code of each function, by address, without reading anything else.
pub(crate) fn classes(probe: &mut Probe<'_>) -> Option<Vec<(String, u32)>> {
    let mut names = probe.devices(DEVICES)?;
    names.retain(|name| is_address(name));
    let class = |probe: &mut Probe<'_>, name: &str| probe.hex(&format!("{DEVICES}/{name}/class"));
    Some(names.into_iter().filter_map(|n| class(probe, &n).map(|class| (n, class))).collect())
}

/// A file of one function.
pub(crate) fn file(address: &str, name: &str) -> String {
    format!("{DEVICES}/{address}/{name}")
}

/// Fills in names from the first `pci.ids` found; without one there are none.
fn name(root: &Root, devices: &mut [PciDevice]) {
    let ids = NAMES.iter().find_map(|path| root.bytes_up_to(path, MAX_NAMES_FILE).ok());
    let Some(ids) = ids else { return };
    let wanted = devices.iter().map(|device| (device.vendor, device.device)).collect();
    let names = names_of(&String::from_utf8_lossy(&ids), &wanted);
    for device in devices {
        device.name = names.get(&(device.vendor, device.device)).cloned();
    }
}

/// "Vendor Device" of each wanted pair. A vendor's line starts with its id, a
/// device's with one tab and its id, a subsystem's with two; class codes
/// follow the last vendor.
fn names_of(ids: &str, wanted: &BTreeSet<(u16, u16)>) -> BTreeMap<(u16, u16), String> {
    let mut names = BTreeMap::new();
    let mut vendor: Option<(u16, &str)> = None;
    for line in ids.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with("C ") {
            break;
        }
        if let Some(device) = line.strip_prefix('\t') {
            let (Some((vendor, maker)), Some((id, name))) = (vendor, id_and_name(device)) else {
                continue;
            };
            if wanted.contains(&(vendor, id)) {
                names.insert((vendor, id), format!("{maker} {name}"));
            }
        } else if !line.is_empty() {
            vendor = id_and_name(line);
        }
    }
    names
}

fn id_and_name(line: &str) -> Option<(u16, &str)> {
    let (id, name) = line.split_once("  ")?;
    Some((u16::from_str_radix(id, 16).ok()?, name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_32_bit_domain() {
        assert!(is_address("0000:00:1f.3"));
        assert!(is_address("10000:e1:00.0"));
        assert!(!is_address("virtio0"));
        assert!(!is_address("0000:00:1f"));
        assert!(!is_address("pci0000:00"));
    }

    #[test]
    fn names_come_from_the_vendors_own_list() {
        let ids = "# comment\n1af4  Red Hat, Inc.\n\t1000  Virtio network device\n\
                   \t\t1af4 0001  a subsystem\n8086  Intel\n\t1000  Other\nC 00  Unclassified\n";
        let names = names_of(ids, &BTreeSet::from([(0x1af4, 0x1000), (0x1af4, 0x9999)]));
        let expected = "Red Hat, Inc. Virtio network device";
        assert_eq!(names, BTreeMap::from([((0x1af4, 0x1000), expected.to_owned())]));
    }
}
