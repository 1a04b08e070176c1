//! Processors and caches as rows and sections.

use std::collections::BTreeSet;

use purlin_core::{
    idset::IdSet,
    inventory::{
        Cache, CacheKind, CoreKind, Cpu, FrequencyPolicy, Group, GroupKind, Idle, Inventory,
        KindSource, Part, Pu, Resctrl, ResctrlResource,
    },
};

use super::{Row, Section, by, join, or_unknown, plural, row, section, set, told, yes_no};
use crate::units::size;

pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    inventory.cpu.iter().flat_map(package_rows).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    inventory.cpu.iter().flat_map(cpu_sections).collect()
}

fn package_rows(cpu: &Cpu) -> Vec<Row> {
    let line = |(package, pus): (Option<&Group>, Vec<&Pu>)| {
        let what = format!("{}, {}", model(cpu), cores_and_pus(cpu, &pus));
        row(Part::Cpu, package_name(package), only_node(&pus), what)
    };
    by_package(cpu).into_iter().map(line).collect()
}

/// PUs by package, in the order of both.
pub(super) fn by_package(cpu: &Cpu) -> Vec<(Option<&Group>, Vec<&Pu>)> {
    let mut pus: Vec<&Pu> = cpu.pus.iter().collect();
    pus.sort_by_key(|pu| pu.logical);
    let packages: Vec<&Group> = cpu.groups(GroupKind::Package).collect();
    let place = |pu: &Pu| packages.iter().position(|package| package.pus.contains(pu.id));
    let named = |place: Option<usize>| place.and_then(|place| packages.get(place).copied());
    by(pus.into_iter(), place).into_iter().map(|(place, pus)| (named(place), pus)).collect()
}

/// Arm's cores tell a vendor and no name.
pub(super) fn model(cpu: &Cpu) -> &str {
    cpu.model.as_deref().or(cpu.vendor.as_deref()).unwrap_or("model unknown")
}

pub(super) fn package_name(package: Option<&Group>) -> String {
    match package {
        Some(Group { id: Some(id), .. }) => format!("package {id}"),
        _ => "package".into(),
    }
}

/// The node of them all, if it is one.
fn only_node(pus: &[&Pu]) -> Option<u32> {
    let first = pus.first()?.node;
    if pus.iter().all(|pu| pu.node == first) { first } else { None }
}

fn cpu_sections(cpu: &Cpu) -> Vec<Section> {
    let count = |kind| cpu.groups(kind).count().to_string();
    let mut cpus = section(
        "CPUs",
        [
            ("model", told(&cpu.model)),
            ("vendor", told(&cpu.vendor)),
            ("packages", cpu.packages().to_string()),
            ("dies", count(GroupKind::Die)),
            ("cores", cpu.cores().to_string()),
            ("PUs", cpu.pus.len().to_string()),
            ("possible", set(&cpu.possible)),
            ("present", set(&cpu.present)),
            ("online", set(&cpu.online)),
            ("allowed", set(&cpu.allowed)),
            ("isolated", set(&cpu.isolated)),
            ("without tick", set(&cpu.nohz_full)),
            ("SMT", smt(cpu)),
            ("boost", yes_no(cpu.boost)),
            ("microcode", told(&cpu.microcode)),
        ],
    );
    for (kind, name) in [
        (GroupKind::Drawer, "drawers"),
        (GroupKind::Book, "books"),
        (GroupKind::Cluster, "clusters"),
    ] {
        if cpu.groups(kind).next().is_some() {
            cpus.facts.push((name.into(), count(kind)));
        }
    }
    if cpu.groups(GroupKind::Die).next().is_none() {
        cpus.facts.retain(|(name, _)| name != "dies");
    }
    if !cpu.flags.is_empty() {
        cpus.facts.push(("flags".into(), cpu.flags.join(" ")));
    }
    let facts = by(cpu.caches.iter(), |cache| (cache_name(cache), cache.size, cache.ways))
        .into_values()
        .map(|alike| (cache_name(alike[0]), caches(&alike)))
        .collect();
    let mut sections = vec![cpus, Section { title: "caches".into(), facts }];
    sections.extend(more("kinds of core", cpu.kinds.iter().map(kind)));
    sections.extend(more("frequency", frequency(cpu)));
    sections.extend(more("idle", cpu.idle.iter().flat_map(idle)));
    let weaknesses = cpu.vulnerabilities.iter();
    sections
        .extend(more("weaknesses", weaknesses.map(|(name, what)| (name.clone(), what.clone()))));
    sections.extend(more("resctrl", cpu.resctrl.iter().flat_map(resctrl)));
    sections
}

/// A section for what only some machines have.
fn more(title: &str, facts: impl Iterator<Item = (String, String)>) -> Option<Section> {
    let facts: Vec<_> = facts.collect();
    (!facts.is_empty()).then(|| Section { title: title.into(), facts })
}

fn smt(cpu: &Cpu) -> String {
    let active = cpu.smt_active.map(|yes| if yes { "in use" } else { "not in use" });
    join([Some(told(&cpu.smt)), active.map(str::to_owned)])
}

fn kind(kind: &CoreKind) -> (String, String) {
    let by = match kind.told_by {
        KindSource::Pmu => "performance counters",
        KindSource::Midr => "MIDR",
        KindSource::Capacity => "capacity",
        KindSource::Frequency => "highest frequency",
    };
    let words = [
        Some(format!("PUs {}", kind.pus)),
        kind.capacity.map(|capacity| format!("capacity {capacity}")),
        kind.max_khz.map(|khz| format!("up to {}", mhz(khz))),
        Some(format!("told by {by}")),
    ];
    (kind.name.clone().unwrap_or_else(|| "unnamed".into()), join(words))
}

fn mhz(khz: u64) -> String {
    format!("{} MHz", khz / 1000)
}

/// One line for all policies that are alike but for their PUs.
fn frequency(cpu: &Cpu) -> impl Iterator<Item = (String, String)> {
    let alike = by(cpu.frequency.iter(), |policy| join(policy_words(policy)));
    alike.into_iter().map(|(words, policies)| {
        let pus: IdSet = policies.iter().flat_map(|policy| policy.pus.iter()).collect();
        (format!("PUs {pus}"), words)
    })
}

fn policy_words(policy: &FrequencyPolicy) -> [Option<String>; 6] {
    let range = |min: Option<u64>, max: Option<u64>| {
        format!("{} to {}", or_unknown(min.map(mhz)), or_unknown(max.map(mhz)))
    };
    [
        Some(range(policy.min_khz, policy.max_khz)),
        Some(format!("hardware {}", range(policy.hardware_min_khz, policy.hardware_max_khz))),
        policy.base_khz.map(|khz| format!("base {}", mhz(khz))),
        policy.governor.clone(),
        policy.driver.clone(),
        policy.preference.clone(),
    ]
}

fn idle(idle: &Idle) -> Vec<(String, String)> {
    let mut facts =
        vec![("driver".into(), told(&idle.driver)), ("governor".into(), told(&idle.governor))];
    let us = |figure: Option<u64>| or_unknown(figure.map(|us| format!("{us} µs")));
    facts.extend(idle.states.iter().map(|state| {
        let words = [
            Some(format!("latency {}", us(state.latency_us))),
            Some(format!("worth it from {}", us(state.residency_us))),
            state.disabled.filter(|off| *off).map(|_| "switched off".into()),
        ];
        (format!("PU {} {}", state.pu, state.name), join(words))
    }));
    facts
}

fn resctrl(resctrl: &Resctrl) -> Vec<(String, String)> {
    let resource = |(name, it): (&String, &ResctrlResource)| {
        let words = [
            it.closids.map(|groups| plural(groups as usize, "group")),
            it.cbm_mask.as_ref().map(|mask| format!("mask {mask}")),
            it.min_cbm_bits.map(|bits| format!("at least {bits} bits")),
            it.shareable_bits.as_ref().map(|mask| format!("devices use {mask}")),
            it.min_bandwidth.map(|percent| format!("at least {percent} %")),
            it.bandwidth_gran.map(|percent| format!("steps of {percent} %")),
        ];
        (name.clone(), join(words))
    };
    let mut facts: Vec<_> = resctrl.resources.iter().map(resource).collect();
    if !resctrl.monitors.is_empty() {
        let ids = resctrl.rmids.map(|ids| plural(ids as usize, "group"));
        facts.push(("monitors".into(), join([Some(resctrl.monitors.join(", ")), ids])));
    }
    facts
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

/// A PU without a core is taken as a core of its own.
pub(super) fn core_key(cpu: &Cpu, pu: &Pu) -> (bool, u32) {
    match cpu.group_of(GroupKind::Core, pu.id) {
        Some(core) => (false, core.logical),
        None => (true, pu.id),
    }
}

pub(super) fn cores_and_pus(cpu: &Cpu, pus: &[&Pu]) -> String {
    let cores: BTreeSet<_> = pus.iter().map(|pu| core_key(cpu, pu)).collect();
    format!("{}, {}", plural(cores.len(), "core"), plural(pus.len(), "PU"))
}
