//! Processors and caches as rows and sections.

use std::collections::BTreeSet;

use purlin_core::inventory::{Cache, CacheKind, Cpu, Inventory, Part, Pu};

use super::{Row, Section, by, join, or_unknown, plural, row, section, set, told};
use crate::units::size;

pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    inventory.cpu.iter().flat_map(package_rows).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    inventory.cpu.iter().flat_map(cpu_sections).collect()
}

fn package_rows(cpu: &Cpu) -> Vec<Row> {
    let model = model(cpu);
    let line = |(package, pus): (Option<i32>, Vec<&Pu>)| {
        let what = format!("{model}, {}", cores_and_pus(&pus));
        row(Part::Cpu, package_name(package), only_node(&pus), what)
    };
    by(cpu.pus.iter(), |pu| pu.package).into_iter().map(line).collect()
}

/// Arm's cores tell a vendor and no name.
pub(super) fn model(cpu: &Cpu) -> &str {
    cpu.model.as_deref().or(cpu.vendor.as_deref()).unwrap_or("model unknown")
}

pub(super) fn package_name(package: Option<i32>) -> String {
    match package {
        Some(id) if id >= 0 => format!("package {id}"),
        _ => "package".into(),
    }
}

/// The node of them all, if it is one.
fn only_node(pus: &[&Pu]) -> Option<u32> {
    let first = pus.first()?.node;
    if pus.iter().all(|pu| pu.node == first) { first } else { None }
}

fn cpu_sections(cpu: &Cpu) -> Vec<Section> {
    let cpus = section(
        "CPUs",
        [
            ("model", told(&cpu.model)),
            ("vendor", told(&cpu.vendor)),
            ("packages", cpu.packages().to_string()),
            ("cores", cpu.cores().to_string()),
            ("PUs", cpu.pus.len().to_string()),
            ("possible", set(&cpu.possible)),
            ("present", set(&cpu.present)),
            ("online", set(&cpu.online)),
            ("allowed", set(&cpu.allowed)),
            ("isolated", set(&cpu.isolated)),
            ("SMT", told(&cpu.smt)),
        ],
    );
    let facts = by(cpu.caches.iter(), |cache| (cache_name(cache), cache.size, cache.ways))
        .into_values()
        .map(|alike| (cache_name(alike[0]), caches(&alike)))
        .collect();
    vec![cpus, Section { title: "caches".into(), facts }]
}

fn caches(alike: &[&Cache]) -> String {
    let one = alike[0];
    let words = [
        Some(format!("{} × {}", alike.len(), or_unknown(one.size.map(size)))),
        one.ways.map(|ways| format!("{ways} ways")),
        one.line.map(|line| format!("{line} B lines")),
        Some(format!("shared by {}", plural(one.shared_by.len(), "PU"))),
    ];
    join(words)
}

pub(super) fn cache_name(cache: &Cache) -> String {
    let letter = match cache.kind {
        CacheKind::Data => "d",
        CacheKind::Instruction => "i",
        CacheKind::Unified => "",
    };
    format!("L{}{letter}", cache.level)
}

/// Kernel core ids repeat in each package and die. A PU without one is taken
/// as a core of its own.
pub(super) fn core_key(pu: &Pu) -> (Option<i32>, Option<i32>, i64) {
    (pu.package, pu.die, pu.core.map_or(-1 - i64::from(pu.id), i64::from))
}

pub(super) fn cores_and_pus(pus: &[&Pu]) -> String {
    let cores: BTreeSet<_> = pus.iter().map(|pu| core_key(pu)).collect();
    format!("{}, {}", plural(cores.len(), "core"), plural(pus.len(), "PU"))
}
