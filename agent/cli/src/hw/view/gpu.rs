//! Accelerators as rows and sections.

use purlin_core::inventory::{Gpu, Inventory, Part};

use super::{Row, Section, join, or_unknown, row, section, told};
use crate::units::size;

pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    inventory.gpus.iter().flatten().map(gpu_row).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    inventory.gpus.iter().flatten().map(gpu_section).collect()
}

fn gpu_row(gpu: &Gpu) -> Row {
    let driver = gpu.driver.as_ref().map_or("no driver".into(), |name| format!("driver {name}"));
    let name = gpu.name.clone().unwrap_or_else(|| "model unknown".into());
    row(Part::Gpu, &gpu.pci, gpu.node, join([Some(name), gpu.vram.map(size), Some(driver)]))
}

fn gpu_section(gpu: &Gpu) -> Section {
    section(
        &gpu.pci,
        [
            ("name", told(&gpu.name)),
            ("driver", gpu.driver.clone().unwrap_or_else(|| "none".into())),
            ("UUID", told(&gpu.uuid)),
            ("memory", or_unknown(gpu.vram.map(size))),
            ("node", or_unknown(gpu.node)),
        ],
    )
}
