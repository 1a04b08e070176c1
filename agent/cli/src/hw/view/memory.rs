//! Memory as rows and sections.

use std::collections::BTreeMap;

use purlin_core::inventory::{Inventory, Memory, Part};

use super::{Row, Section, or_unknown, row, section};
use crate::units::size;

pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    inventory.memory.iter().map(memory_row).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    inventory.memory.iter().map(memory_section).collect()
}

fn memory_row(memory: &Memory) -> Row {
    let mut what = size(memory.total);
    if let Some(available) = memory.available {
        what += &format!(", {} available", size(available));
    }
    if memory.swap.is_some_and(|swap| swap > 0) {
        what += &format!(", {} swap", or_unknown(memory.swap.map(size)));
    }
    row(Part::Memory, "memory", None, what)
}

fn memory_section(memory: &Memory) -> Section {
    section(
        "memory",
        [
            ("total", size(memory.total)),
            ("available", or_unknown(memory.available.map(size))),
            ("swap", or_unknown(memory.swap.map(size))),
            ("hugepages", hugepages(&memory.hugepages)),
        ],
    )
}

pub(super) fn hugepages(pools: &BTreeMap<u64, u64>) -> String {
    let used = pools.iter().filter(|(_, pages)| **pages > 0);
    let words: Vec<String> =
        used.map(|(bytes, pages)| format!("{pages} × {}", size(*bytes))).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}
