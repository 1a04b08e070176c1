//! PCI functions.
//!
//! Page: `hw-docs/pci.md`. Source: `/sys/bus/pci`
//! (Documentation/ABI/testing/sysfs-bus-pci), names from an installed
//! `pci.ids`. Here a function's own files are read; [`joined`] adds what only
//! several of them tell together. It must never read a function's `config`
//! file: each such read leaves the guest and costs about 15 ms on a virtual
//! machine, and wakes a sleeping device on a real one.

use std::collections::BTreeMap;

use purlin_core::inventory::{
    Part, PciDevice, PciErrorCount, PciErrors, PciLink, PciRootErrors, PciSriov, Problem,
};

use crate::{
    Root,
    pci_ids::{self, Names, Wanted},
    probe::{Probe, label, numbered},
    root::Dir,
};

mod joined;

pub(crate) use joined::{Place, Slots};

pub(crate) const DEVICES: &str = "/sys/bus/pci/devices";

/// Where distributions put the list of names: Debian's and Red Hat's place.
const NAMES: [&str; 2] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];

/// The most that a `pci.ids` may hold, in bytes; today's is 1.6 MB.
const MAX_NAMES_FILE: u64 = 8 << 20;

/// A function's base address registers; lines of `resource` after them are its
/// ROM, its virtual functions' and a bridge's windows (include/linux/pci.h).
const BARS: usize = 6;

/// What marks memory in `resource` (`IORESOURCE_MEM`, include/linux/ioport.h).
const MEMORY: u64 = 0x200;

/// The most lines of an error counter file looked at; the kernel has names for
/// fewer than 32 kinds.
const MAX_KINDS: usize = 64;

/// Reads the functions; `None` if a dump has no PCI directory. A live machine
/// without one has no PCI.
pub fn read(root: &Root) -> (Option<Vec<PciDevice>>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Pci, root);
    let devices = read_devices(&mut probe);
    (devices, probe.finish())
}

fn read_devices(probe: &mut Probe<'_>) -> Option<Vec<PciDevice>> {
    let mut names = probe.devices(DEVICES)?;
    names.retain(|name| is_address(name));
    let read = names.iter().map(|name| function(probe, name));
    let (mut devices, places): (Vec<PciDevice>, Vec<Place>) = read.unzip();
    joined::join(probe, &mut devices, &places);
    name(probe.root, &mut devices);
    Some(devices)
}

/// One function: what its directory says, and where it sits.
fn function(probe: &mut Probe<'_>, address: &str) -> (PciDevice, Place) {
    let path = format!("{DEVICES}/{address}");
    let mut place = place_of(probe, address);
    let device = match probe.dir(&path) {
        Some(dir) => {
            let device = told(probe, &dir);
            place.denies_node = device.node.is_none() && dir.has("numa_node");
            device
        }
        None => {
            probe.problem(&path, "leads nowhere");
            PciDevice::default()
        }
    };
    (PciDevice { address: address.into(), parent: place.parent(), ..device }, place)
}

fn told(probe: &mut Probe<'_>, dir: &Dir<'_>) -> PciDevice {
    let hex16 = |probe: &mut Probe<'_>, name| hex16(probe, dir, name);
    PciDevice {
        class: class_code(probe, dir),
        vendor: hex16(probe, "vendor"),
        device: hex16(probe, "device"),
        revision: probe.hex((dir, "revision")).and_then(|it| it.try_into().ok()),
        // 0 where a device has no subsystem, as bridges have none.
        subsystem_vendor: hex16(probe, "subsystem_vendor").filter(|id| *id != 0),
        subsystem_device: hex16(probe, "subsystem_device"),
        driver: link_name(probe, dir, "driver"),
        driver_override: probe.label((dir, "driver_override")).filter(|it| it != "(null)"),
        enabled: probe.flag((dir, "enable")),
        power_state: probe.label((dir, "power_state")).filter(|it| it.starts_with('D')),
        node: probe.told((dir, "numa_node")),
        local_cpus: probe.mask_or_set((dir, "local_cpus"), (dir, "local_cpulist")),
        iommu_group: link_name(probe, dir, "iommu_group").and_then(|it| it.parse().ok()),
        memory: probe.text((dir, "resource")).map(|text| memory(&text)),
        link: link(probe, dir, "current_link_speed", "current_link_width"),
        link_max: link(probe, dir, "max_link_speed", "max_link_width"),
        errors: errors(probe, dir),
        sriov: sriov(probe, dir),
        physical: link_name(probe, dir, "physfn"),
        ..PciDevice::default()
    }
}

fn link_name(probe: &mut Probe<'_>, dir: &Dir<'_>, name: &str) -> Option<String> {
    if dir.has(name) { probe.link_name(&dir.path_of(name)) } else { None }
}

fn hex16(probe: &mut Probe<'_>, dir: &Dir<'_>, name: &str) -> Option<u16> {
    probe.hex((dir, name))?.try_into().ok()
}

fn class_code(probe: &mut Probe<'_>, dir: &Dir<'_>) -> u32 {
    if !dir.has("class") {
        probe.problem(&dir.path_of("class"), "is not there");
    }
    probe.hex((dir, "class")).unwrap_or_default()
}

/// `8.0 GT/s PCIe` or `Unknown`, and a width that is 0 or 63 without a link.
fn link(probe: &mut Probe<'_>, dir: &Dir<'_>, speed: &str, width: &str) -> Option<PciLink> {
    let speed = probe.text((dir, speed))?;
    let gt_per_s: f32 = speed.split_whitespace().next()?.parse().ok()?;
    let width = probe.told((dir, width)).filter(|lanes| (1..=32).contains(lanes))?;
    (gt_per_s.is_finite() && gt_per_s > 0.0).then_some(PciLink { gt_per_s, width })
}

fn errors(probe: &mut Probe<'_>, dir: &Dir<'_>) -> Option<PciErrors> {
    let count = |probe: &mut Probe<'_>, name| error_count(&probe.text((dir, name))?);
    let errors = PciErrors {
        correctable: count(probe, "aer_dev_correctable"),
        nonfatal: count(probe, "aer_dev_nonfatal"),
        fatal: count(probe, "aer_dev_fatal"),
        below: root_errors(probe, dir),
    };
    (errors != PciErrors::default()).then_some(errors)
}

fn root_errors(probe: &mut Probe<'_>, dir: &Dir<'_>) -> Option<PciRootErrors> {
    Some(PciRootErrors {
        correctable: probe.number((dir, "aer_rootport_total_err_cor"))?,
        nonfatal: probe.number((dir, "aer_rootport_total_err_nonfatal"))?,
        fatal: probe.number((dir, "aer_rootport_total_err_fatal"))?,
    })
}

fn sriov(probe: &mut Probe<'_>, dir: &Dir<'_>) -> Option<PciSriov> {
    let most = probe.told((dir, "sriov_totalvfs")).filter(|most| *most > 0)?;
    let functions = numbered(dir, "virtfn");
    let functions = functions.iter().map(|number| dir.path_of(&format!("virtfn{number}")));
    Some(PciSriov {
        most,
        enabled: probe.told((dir, "sriov_numvfs")),
        device: hex16(probe, dir, "sriov_vf_device"),
        functions: functions.filter_map(|path| probe.link_name(&path)).collect(),
    })
}

/// The memory in the lines `start end flags` of a function's own registers.
fn memory(resource: &str) -> u64 {
    let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
    let size = |line: &str| {
        let mut words = line.split_whitespace().map(number);
        let (start, end, flags) = (words.next()??, words.next()??, words.next()??);
        let used = end > start && flags & MEMORY != 0;
        used.then(|| (end - start).saturating_add(1))
    };
    resource.lines().take(BARS).filter_map(size).fold(0, u64::saturating_add)
}

/// Lines `Kind count`, the last one with the total (`TOTAL_ERR_COR 3`).
fn error_count(text: &str) -> Option<PciErrorCount> {
    let line = |line: &str| {
        let (kind, count) = line.split_once(' ')?;
        Some((label(kind)?, count.trim().parse::<u64>().ok()?))
    };
    let mut kinds: BTreeMap<String, u64> = text.lines().take(MAX_KINDS).filter_map(line).collect();
    let is_total = |kind: &String| kind.starts_with("TOTAL_ERR_");
    let total = *kinds.iter().find(|(kind, _)| is_total(kind))?.1;
    kinds.retain(|kind, count| *count > 0 && !is_total(kind));
    Some(PciErrorCount { total, kinds })
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

/// The node of a device: its own word, or that of the PCI function behind it,
/// else of the nearest function above that one.
pub(crate) fn node_of(probe: &mut Probe<'_>, path: &str, pci: Option<&str>) -> Option<u32> {
    let Some(address) = pci else { return probe.told(&format!("{path}/device/numa_node")) };
    let above = place_of(probe, address).above;
    let mut nearest = std::iter::once(address).chain(above.iter().map(String::as_str));
    nearest.find_map(|address| probe.told(&file(address, "numa_node")))
}

/// Where a function sits.
pub(crate) fn place_of(probe: &mut Probe<'_>, address: &str) -> Place {
    let target = probe.link(&format!("{DEVICES}/{address}")).unwrap_or_default();
    Place::new(address, &target)
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

/// The names wanted, from the first `pci.ids` found; without one there are none.
pub(crate) fn names(root: &Root, wanted: &Wanted) -> Names {
    let ids = NAMES.iter().find_map(|path| root.bytes_up_to(path, MAX_NAMES_FILE).ok());
    ids.map(|ids| pci_ids::find(&String::from_utf8_lossy(&ids), wanted)).unwrap_or_default()
}

/// Fills in names.
fn name(root: &Root, devices: &mut [PciDevice]) {
    let mut wanted = Wanted::default();
    for device in devices.iter() {
        wanted.devices.extend(id(device));
        wanted.subsystems.extend(id(device).zip(subsystem(device)));
        wanted.classes.insert(class(device));
    }
    let names = names(root, &wanted);
    for device in devices {
        device.class_name = names.classes.get(&class(device)).and_then(|name| label(name));
        let Some(id) = id(device) else { continue };
        device.name = names.devices.get(&id).and_then(|name| label(name));
        let card = subsystem(device).and_then(|card| names.subsystems.get(&(id, card)));
        device.subsystem_name = card.and_then(|name| label(name));
    }
}

fn id(device: &PciDevice) -> Option<pci_ids::Id> {
    device.vendor.zip(device.device)
}

fn subsystem(device: &PciDevice) -> Option<pci_ids::Id> {
    device.subsystem_vendor.zip(device.subsystem_device)
}

/// Class and subclass, without the programming interface.
fn class(device: &PciDevice) -> u16 {
    (device.class >> 8) as u16
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

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
    fn memory_is_what_the_functions_own_registers_map() {
        let text = "0x000000c0000000 0x000000c0ffffff 0x00000000040200\n\
                    0x0000000000e000 0x0000000000e07f 0x00000000040101\n\
                    0x0 0x0 0x0\n0x0 0x0 0x0\n0x0 0x0 0x0\nnonsense\n\
                    0x000000d0000000 0x000000d0ffffff 0x00000000046200\n";
        assert_eq!(memory(text), 16 << 20);
    }

    #[test]
    fn an_error_counter_keeps_the_kinds_that_occurred() {
        let text = "RxErr 0\nBadTLP 3\nTimeout 1\nTOTAL_ERR_COR 4";
        expect![[r#"Some(PciErrorCount { total: 4, kinds: {"BadTLP": 3, "Timeout": 1} })"#]]
            .assert_eq(&format!("{:?}", error_count(text)));
        assert_eq!(error_count("nonsense"), None);
    }
}
