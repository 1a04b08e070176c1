//! PCI functions as rows and sections.

use purlin_core::inventory::{Inventory, Part, PciDevice};

use super::{Row, Section, or_unknown, plural, row, section, told};

pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    inventory.pci.iter().map(|all| pci_row(all)).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    inventory.pci.iter().flatten().map(pci_section).collect()
}

fn pci_row(devices: &[PciDevice]) -> Row {
    let bound = devices.iter().filter(|device| device.driver.is_some()).count();
    let functions = plural(devices.len(), "function");
    row(Part::Pci, "pci", None, format!("{functions}, {bound} with a driver"))
}

fn pci_section(device: &PciDevice) -> Section {
    let link = device.link.map(|link| format!("{} GT/s × {}", link.gt_per_s, link.width));
    let most = device.link_max.map(|link| format!("{} GT/s × {}", link.gt_per_s, link.width));
    section(
        &device.address,
        [
            ("name", told(&device.name)),
            ("class", format!("{:06x}", device.class)),
            ("id", format!("{:04x}:{:04x}", device.vendor, device.device)),
            ("driver", device.driver.clone().unwrap_or_else(|| "none".into())),
            ("node", or_unknown(device.node)),
            ("below", device.parent.clone().unwrap_or_else(|| "a root bus".into())),
            ("IOMMU group", device.iommu_group.map_or("none".into(), |group| group.to_string())),
            ("link", link.unwrap_or_else(|| "none".into())),
            ("link at most", most.unwrap_or_else(|| "none".into())),
        ],
    )
}
