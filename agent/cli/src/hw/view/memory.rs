//! Memory as rows and sections.

use std::collections::BTreeMap;

use purlin_core::inventory::{
    Dimm, Inventory, Memory, MemoryController, MemoryErrors, Part, UnjoinedErrors,
};

use super::{Row, Section, UNKNOWN, join, or_unknown, plural, row, section, yes_no};
use crate::units::size;

/// The machine, then each module; a module that lost data is marked.
pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    let Some(memory) = &inventory.memory else { return Vec::new() };
    let modules = dimms(memory).iter().filter(|dimm| dimm.is_populated());
    std::iter::once(memory_row(memory)).chain(modules.map(dimm_row)).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    let Some(memory) = &inventory.memory else { return Vec::new() };
    let mut sections = vec![memory_section(memory)];
    sections.extend(slots_section(memory));
    sections.extend(memory.controllers.iter().map(controller_section));
    sections.extend(unjoined_section(&memory.unjoined));
    sections
}

fn dimms(memory: &Memory) -> &[Dimm] {
    memory.dimms.as_deref().unwrap_or_default()
}

fn memory_row(memory: &Memory) -> Row {
    let mut what = memory.total.map_or_else(|| "total unknown".into(), size);
    if let Some(available) = memory.available {
        what += &format!(", {} available", size(available));
    }
    if memory.swap.is_some_and(|swap| swap > 0) {
        what += &format!(", {} swap", or_unknown(memory.swap.map(size)));
    }
    if memory.dimms.is_some() {
        what += &format!(", {}", slots(memory));
    }
    let lost = memory.unjoined.iter().any(|it| it.errors.uncorrected.is_some_and(|it| it > 0));
    Row { problem: lost, ..row(Part::Memory, "memory", None, what) }
}

fn slots(memory: &Memory) -> String {
    let all = dimms(memory);
    let full = all.iter().filter(|dimm| dimm.is_populated()).count();
    format!("{full} of {} full", plural(all.len(), "slot"))
}

fn dimm_row(dimm: &Dimm) -> Row {
    let lost = dimm.errors.and_then(|errors| errors.uncorrected).is_some_and(|count| count > 0);
    Row { problem: lost, ..row(Part::Memory, slot(dimm), None, module(dimm)) }
}

/// Boards number their slots in each bank anew, so the bank belongs to the name.
fn slot(dimm: &Dimm) -> String {
    match (&dimm.bank, &dimm.slot) {
        (Some(bank), Some(slot)) => format!("{bank} {slot}"),
        (None, Some(one)) | (Some(one), None) => one.clone(),
        (None, None) => format!("slot {:#06x}", dimm.handle),
    }
}

fn module(dimm: &Dimm) -> String {
    join([
        Some(dimm.size.map_or_else(|| "size unknown".into(), size)),
        dimm.kind.clone(),
        dimm.form_factor.clone().filter(|form| form != "DIMM"),
        speed(dimm),
        dimm.rank.map(|rank| format!("rank {rank}")),
        dimm.ecc.map(|ecc| if ecc { "ECC".into() } else { "no ECC".into() }),
        dimm.technology.clone().filter(|it| it != "DRAM"),
        maker(dimm),
        dimm.serial.as_ref().map(|serial| format!("serial {serial}")),
        dimm.errors.map(errors),
    ])
}

fn maker(dimm: &Dimm) -> Option<String> {
    match (&dimm.manufacturer, &dimm.part) {
        (Some(maker), Some(part)) => Some(format!("{maker} {part}")),
        (one, other) => one.clone().or_else(|| other.clone()),
    }
}

/// The rated speed is said only where the module runs at another.
fn speed(dimm: &Dimm) -> Option<String> {
    match (dimm.speed_configured, dimm.speed_rated) {
        (Some(now), Some(rated)) if now != rated => Some(format!("{now} of {rated} MT/s")),
        (Some(speed), _) => Some(format!("{speed} MT/s")),
        (None, Some(rated)) => Some(format!("rated {rated} MT/s")),
        (None, None) => None,
    }
}

fn errors(errors: MemoryErrors) -> String {
    match errors {
        MemoryErrors { corrected: Some(0), uncorrected: Some(0) } => "no errors".into(),
        MemoryErrors { corrected, uncorrected } => {
            let (corrected, uncorrected) = (or_unknown(corrected), or_unknown(uncorrected));
            format!("errors: {corrected} corrected, {uncorrected} uncorrected")
        }
    }
}

fn memory_section(memory: &Memory) -> Section {
    let known = memory.dimms.is_some();
    section(
        "memory",
        [
            ("total", or_unknown(memory.total.map(size))),
            ("available", or_unknown(memory.available.map(size))),
            ("swap", or_unknown(memory.swap.map(size))),
            ("hugepages", hugepages(&memory.hugepages)),
            ("slots", if known { slots(memory) } else { UNKNOWN.into() }),
            ("most it takes", or_unknown(memory.max_capacity.map(size))),
            ("ECC", yes_no(memory.ecc)),
        ],
    )
}

fn slots_section(memory: &Memory) -> Option<Section> {
    let facts: Vec<_> = dimms(memory).iter().map(|dimm| (slot(dimm), contents(dimm))).collect();
    (!facts.is_empty()).then(|| Section { title: "slots".into(), facts })
}

/// A module in full.
fn contents(dimm: &Dimm) -> String {
    if !dimm.is_populated() {
        return "empty".into();
    }
    join([
        Some(module(dimm)),
        (!dimm.detail.is_empty()).then(|| dimm.detail.join(" ")),
        dimm.voltage_mv.map(|millivolts| format!("{:.2} V", f64::from(millivolts) / 1e3)),
        dimm.asset_tag.as_ref().map(|tag| format!("asset {tag}")),
        dimm.firmware.as_ref().map(|firmware| format!("firmware {firmware}")),
        dimm.non_volatile.filter(|it| *it > 0).map(|it| format!("{} non-volatile", size(it))),
        dimm.cache.filter(|it| *it > 0).map(|it| format!("{} as cache", size(it))),
    ])
}

fn controller_section(controller: &MemoryController) -> Section {
    section(
        &controller.name,
        [
            ("controller", or_unknown(controller.kind.as_ref())),
            ("errors", errors(controller.errors)),
            ("of no known DIMM", errors(controller.noinfo)),
        ],
    )
}

fn unjoined_section(unjoined: &[UnjoinedErrors]) -> Option<Section> {
    let fact = |it: &UnjoinedErrors| {
        let what = join([
            it.label.clone(),
            it.location.clone(),
            it.size.map(size),
            Some(errors(it.errors)),
            Some(it.why.clone()),
        ]);
        (it.at.clone(), what)
    };
    let facts: Vec<_> = unjoined.iter().map(fact).collect();
    (!facts.is_empty()).then(|| Section { title: "errors of unknown slots".into(), facts })
}

pub(super) fn hugepages(pools: &BTreeMap<u64, u64>) -> String {
    let used = pools.iter().filter(|(_, pages)| **pages > 0);
    let words: Vec<String> =
        used.map(|(bytes, pages)| format!("{pages} × {}", size(*bytes))).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_module_that_lost_data_is_marked_and_an_empty_slot_is_counted() {
        let empty = Dimm { slot: Some("A1".into()), size: Some(0), ..Dimm::default() };
        let full = Dimm {
            slot: Some("A2".into()),
            bank: Some("NODE 1".into()),
            size: Some(32 << 30),
            kind: Some("DDR5".into()),
            speed_rated: Some(5600),
            speed_configured: Some(4800),
            rank: Some(2),
            ecc: Some(true),
            part: Some("EX-5600".into()),
            serial: Some("1A2B".into()),
            errors: Some(MemoryErrors { corrected: Some(7), uncorrected: Some(1) }),
            ..Dimm::default()
        };
        let unjoined = UnjoinedErrors {
            at: "mc0/csrow1".into(),
            errors: MemoryErrors { corrected: None, uncorrected: Some(2) },
            why: "it has no label".into(),
            ..UnjoinedErrors::default()
        };
        let memory = Memory {
            total: Some(32 << 30),
            dimms: Some(vec![empty, full]),
            unjoined: vec![unjoined],
            ..Memory::default()
        };
        let inventory = Inventory { memory: Some(memory), ..Inventory::default() };
        let mut text = String::new();
        for row in rows(&inventory) {
            let mark = if row.problem { " !" } else { "" };
            text += &format!("{} | {}{mark}\n", row.name, row.what);
        }
        for section in sections(&inventory) {
            text += &format!("{}\n", section.title);
            for (name, value) in section.facts {
                text += &format!("  {name}: {value}\n");
            }
        }
        expect![[r#"
            memory | 32 GiB, 1 of 2 slots full !
            NODE 1 A2 | 32 GiB, DDR5, 4800 of 5600 MT/s, rank 2, ECC, EX-5600, serial 1A2B, errors: 7 corrected, 1 uncorrected !
            memory
              total: 32 GiB
              available: unknown
              swap: unknown
              hugepages: none
              slots: 1 of 2 slots full
              most it takes: unknown
              ECC: unknown
            slots
              A1: empty
              NODE 1 A2: 32 GiB, DDR5, 4800 of 5600 MT/s, rank 2, ECC, EX-5600, serial 1A2B, errors: 7 corrected, 1 uncorrected
            errors of unknown slots
              mc0/csrow1: errors: unknown corrected, 2 uncorrected, it has no label
        "#]].assert_eq(&text);
    }
}
