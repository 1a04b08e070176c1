//! Controllers: NVMe ones by the kernel's own list, the others by PCI class.

use purlin_core::inventory::{NvmeController, StorageController, StorageKind};

use crate::{pci, pci::Slots, probe::Probe};

const NVME: &str = "/sys/class/nvme";

/// PCI base class of mass storage.
const MASS_STORAGE: u32 = 0x01;

/// NVMe controllers by name, then the others by address.
pub(super) fn read(probe: &mut Probe<'_>, slots: &Slots) -> Vec<StorageController> {
    let mut names = probe.names(NVME).unwrap_or_default();
    names.retain(|name| is_nvme(name));
    let mut all: Vec<StorageController> =
        names.into_iter().map(|name| nvme(probe, slots, name)).collect();
    // Without a problem: that PCI can't be read is the PCI driver's to tell.
    let functions = if probe.root.exists(pci::DEVICES) { pci::classes(probe) } else { None };
    let others: Vec<(String, u32)> = functions
        .unwrap_or_default()
        .into_iter()
        .filter(|(_, class)| class >> 16 == MASS_STORAGE)
        .filter(|(address, _)| all.iter().all(|it| it.pci.as_ref() != Some(address)))
        .collect();
    all.extend(others.into_iter().map(|(address, class)| StorageController {
        name: address.clone(),
        kind: kind(class),
        ..placed(probe, slots, None, Some(address))
    }));
    all
}

/// `nvme3`, and not `nvme3n1` or `nvme-fabrics`.
pub(super) fn is_nvme(name: &str) -> bool {
    name.strip_prefix("nvme")
        .is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()))
}

fn kind(class: u32) -> StorageKind {
    match class >> 8 & 0xff {
        0x00 => StorageKind::Scsi,
        0x01 => StorageKind::Ide,
        0x04 => StorageKind::Raid,
        0x05 => StorageKind::Ata,
        0x06 => StorageKind::Sata,
        0x07 => StorageKind::Sas,
        0x08 => StorageKind::Nvme,
        _ => StorageKind::Other,
    }
}

/// What the PCI function tells of a controller, and the node that it tells
/// itself, which one behind a fabric does.
fn placed(
    probe: &mut Probe<'_>,
    slots: &Slots,
    own_node: Option<u32>,
    pci: Option<String>,
) -> StorageController {
    let Some(address) = &pci else {
        return StorageController { node: own_node, ..StorageController::default() };
    };
    let place = pci::place_of(probe, address);
    StorageController {
        driver: probe.link_name(&pci::file(address, "driver")),
        physical: probe.link_name(&pci::file(address, "physfn")),
        slot: slots.of(address, &place),
        node: own_node.or_else(|| pci::node_of(probe, "", pci.as_deref())),
        pci,
        ..StorageController::default()
    }
}

fn nvme(probe: &mut Probe<'_>, slots: &Slots, name: String) -> StorageController {
    let path = format!("{NVME}/{name}");
    let pci = pci::behind(probe, &path);
    let Some(dir) = probe.dir(&path) else {
        return StorageController { name, kind: StorageKind::Nvme, ..StorageController::default() };
    };
    let transport = probe.label((&dir, "transport"));
    let is_local = transport.as_deref() == Some("pcie");
    let nvme = NvmeController {
        model: probe.label((&dir, "model")),
        serial: probe.label((&dir, "serial")),
        firmware: probe.label((&dir, "firmware_rev")),
        // Over PCIe it repeats the PCI address.
        address: probe.label((&dir, "address")).filter(|_| !is_local),
        state: probe.label((&dir, "state")),
        id: probe.told((&dir, "cntlid")),
        subsystem: probe.label((&dir, "subsysnqn")),
        transport,
        ..NvmeController::default()
    };
    let own_node = probe.told((&dir, "numa_node"));
    StorageController {
        name,
        kind: StorageKind::Nvme,
        nvme: Some(nvme),
        ..placed(probe, slots, own_node, pci)
    }
}
