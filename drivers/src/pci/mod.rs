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
    Part, PciDevice, PciErrorCount, PciErrors, PciLink, PciRootErrors, Problem, Sriov,
};

use crate::{
    Root,
    pci_ids::{self, Wanted},
    probe::{Probe, label},
};

mod joined;

use joined::Place;

const DEVICES: &str = "/sys/bus/pci/devices";

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
    let read = names.iter().map(|name| Function::open(probe, name).read(probe));
    let (mut devices, places): (Vec<PciDevice>, Vec<Place>) = read.unzip();
    joined::join(probe, &mut devices, &places);
    name(probe.root, &mut devices);
    Some(devices)
}

/// One function's directory. What it doesn't list is not asked for: most
/// functions have half of the files.
struct Function {
    address: String,
    files: Vec<String>,
}

impl Function {
    fn open(probe: &mut Probe<'_>, address: &str) -> Self {
        let files = probe.names(&format!("{DEVICES}/{address}")).unwrap_or_default();
        Self { address: address.into(), files }
    }

    /// The path of a file or link that is there.
    fn at(&self, name: &str) -> Option<String> {
        let found = self.files.binary_search_by(|file| file.as_str().cmp(name));
        found.ok().map(|_| file(&self.address, name))
    }

    fn read(&self, probe: &mut Probe<'_>) -> (PciDevice, Place) {
        let target = probe.link(&format!("{DEVICES}/{}", self.address));
        let place = Place::new(&self.address, target.as_deref().unwrap_or_default());
        let device = PciDevice {
            address: self.address.clone(),
            parent: place.parent(),
            class: self.class(probe),
            vendor: self.hex16(probe, "vendor"),
            device: self.hex16(probe, "device"),
            revision: self.hex(probe, "revision").and_then(|it| it.try_into().ok()),
            // 0 where a device has no subsystem, as bridges have none.
            subsystem_vendor: self.hex16(probe, "subsystem_vendor").filter(|id| *id != 0),
            subsystem_device: self.hex16(probe, "subsystem_device"),
            driver: self.link_name(probe, "driver"),
            driver_override: self.label(probe, "driver_override").filter(|it| it != "(null)"),
            enabled: self.number(probe, "enable").map(|it| it != 0),
            power_state: self.label(probe, "power_state").filter(|it| it.starts_with('D')),
            node: self.number(probe, "numa_node").and_then(|node| node.try_into().ok()),
            local_cpus: probe.mask_or_set(
                &file(&self.address, "local_cpus"),
                &file(&self.address, "local_cpulist"),
            ),
            iommu_group: self.link_name(probe, "iommu_group").and_then(|it| it.parse().ok()),
            memory: self.text(probe, "resource").map(|text| memory(&text)),
            link: self.link(probe, "current_link_speed", "current_link_width"),
            link_max: self.link(probe, "max_link_speed", "max_link_width"),
            errors: self.errors(probe),
            sriov: self.sriov(probe),
            physical: self.link_name(probe, "physfn"),
            ..PciDevice::default()
        };
        (device, place)
    }

    fn text(&self, probe: &mut Probe<'_>, name: &str) -> Option<String> {
        probe.text(&self.at(name)?)
    }

    fn label(&self, probe: &mut Probe<'_>, name: &str) -> Option<String> {
        probe.label(&self.at(name)?)
    }

    fn number(&self, probe: &mut Probe<'_>, name: &str) -> Option<i64> {
        probe.number(&self.at(name)?)
    }

    fn link_name(&self, probe: &mut Probe<'_>, name: &str) -> Option<String> {
        probe.link_name(&self.at(name)?)
    }

    fn hex(&self, probe: &mut Probe<'_>, name: &str) -> Option<u32> {
        probe.hex(&self.at(name)?)
    }

    fn hex16(&self, probe: &mut Probe<'_>, name: &str) -> Option<u16> {
        self.hex(probe, name)?.try_into().ok()
    }

    fn class(&self, probe: &mut Probe<'_>) -> u32 {
        match self.at("class") {
            Some(path) => probe.hex(&path).unwrap_or_default(),
            None => {
                probe.problem(&file(&self.address, "class"), "is not there");
                0
            }
        }
    }

    /// `8.0 GT/s PCIe` or `Unknown`, and a width that is 0 or 63 without a link.
    fn link(&self, probe: &mut Probe<'_>, speed: &str, width: &str) -> Option<PciLink> {
        let speed = self.text(probe, speed)?;
        let gt_per_s: f32 = speed.split_whitespace().next()?.parse().ok()?;
        let width = u32::try_from(self.number(probe, width)?).ok()?;
        let is_link = (1..=32).contains(&width) && gt_per_s.is_finite() && gt_per_s > 0.0;
        is_link.then_some(PciLink { gt_per_s, width })
    }

    fn errors(&self, probe: &mut Probe<'_>) -> Option<PciErrors> {
        let mut count = |name: &str| self.text(probe, name).and_then(|text| error_count(&text));
        let errors = PciErrors {
            correctable: count("aer_dev_correctable"),
            nonfatal: count("aer_dev_nonfatal"),
            fatal: count("aer_dev_fatal"),
            below: self.root_errors(probe),
        };
        (errors != PciErrors::default()).then_some(errors)
    }

    fn root_errors(&self, probe: &mut Probe<'_>) -> Option<PciRootErrors> {
        let mut count = |kind: &str| {
            let name = format!("aer_rootport_total_err_{kind}");
            self.number(probe, &name).and_then(|it| it.try_into().ok())
        };
        Some(PciRootErrors {
            correctable: count("cor")?,
            nonfatal: count("nonfatal")?,
            fatal: count("fatal")?,
        })
    }

    fn sriov(&self, probe: &mut Probe<'_>) -> Option<Sriov> {
        let most = self.number(probe, "sriov_totalvfs")?.try_into().ok().filter(|it| *it > 0)?;
        let number = |name: &String| name.strip_prefix("virtfn")?.parse().ok();
        let mut numbers: Vec<u32> = self.files.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Some(Sriov {
            most,
            enabled: self.number(probe, "sriov_numvfs").and_then(|it| it.try_into().ok()),
            device: self.hex16(probe, "sriov_vf_device"),
            functions: numbers
                .into_iter()
                .filter_map(|number| self.link_name(probe, &format!("virtfn{number}")))
                .collect(),
        })
    }
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
    let target = probe.link(&format!("{DEVICES}/{address}")).unwrap_or_default();
    let place = Place::new(address, &target);
    let mut nearest = std::iter::once(address).chain(place.above.iter().map(String::as_str));
    nearest.find_map(|address| probe.told(&file(address, "numa_node")))
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
    let mut wanted = Wanted::default();
    for device in devices.iter() {
        wanted.devices.extend(id(device));
        wanted.subsystems.extend(id(device).zip(subsystem(device)));
        wanted.classes.insert(class(device));
    }
    let names = pci_ids::find(&String::from_utf8_lossy(&ids), &wanted);
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
