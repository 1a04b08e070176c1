//! Storage as rows and sections.

use purlin_core::inventory::{Disk, Inventory, Part};

use super::{Row, Section, join, or_unknown, row, section, told, yes_no};
use crate::units::size;

pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    inventory.storage.iter().flat_map(|it| &it.disks).map(disk_row).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    inventory.storage.iter().flat_map(|it| &it.disks).map(disk_section).collect()
}

fn disk_row(disk: &Disk) -> Row {
    let words = [
        Some(disk.size.map_or("size unknown".into(), size)),
        disk.model.clone(),
        spinning(disk).map(str::to_owned),
        disk.pci.as_ref().map(|pci| format!("at {pci}")),
    ];
    row(Part::Storage, &disk.name, disk.node, join(words))
}

fn spinning(disk: &Disk) -> Option<&'static str> {
    disk.rotational.map(|spins| if spins { "rotational" } else { "solid state" })
}

fn disk_section(disk: &Disk) -> Section {
    section(
        &disk.name,
        [
            ("size", or_unknown(disk.size.map(size))),
            ("model", told(&disk.model)),
            ("serial", told(&disk.serial)),
            ("firmware", told(&disk.firmware)),
            ("medium", or_unknown(spinning(disk))),
            ("removable", yes_no(disk.removable)),
            ("PCI", told(&disk.pci)),
            ("node", or_unknown(disk.node)),
        ],
    )
}
