//! Frequency policies and C-states (Documentation/admin-guide/pm/cpufreq.rst,
//! cpuidle.rst). A policy is read once and not once for each PU; C-states are
//! read once for each kind of core.

use std::collections::BTreeMap;

use purlin_core::{
    idset::IdSet,
    inventory::{CoreKind, FrequencyPolicy, Idle, IdleState},
};

use crate::{
    Dir,
    probe::{Probe, numbered},
};

pub(super) fn policies(
    probe: &mut Probe<'_>,
    cpus: &Dir<'_>,
    online: &IdSet,
) -> Vec<FrequencyPolicy> {
    let Some(dir) = probe.dir_in(cpus, "cpufreq") else { return Vec::new() };
    let ids = numbered(&dir, "policy");
    // As many policies as PUs, each named after one: each has just that one.
    let own = ids == *online;
    let mut hardware: BTreeMap<Option<u64>, FrequencyPolicy> = BTreeMap::new();
    let mut policy = |id: u32| {
        let dir = probe.dir_in(&dir, &format!("policy{id}"))?;
        let pus = match own {
            true => IdSet::from_iter([id]),
            false => related(probe, &dir)?.intersection(online),
        };
        let max = probe.number((&dir, "cpuinfo_max_freq"));
        // What the driver and the hardware are is the same where the highest
        // frequency is.
        let like = hardware.entry(max).or_insert_with(|| FrequencyPolicy {
            driver: probe.label((&dir, "scaling_driver")),
            hardware_min_khz: probe.number((&dir, "cpuinfo_min_freq")),
            base_khz: probe.number((&dir, "base_frequency")),
            hardware_max_khz: max,
            ..FrequencyPolicy::default()
        });
        Some(FrequencyPolicy {
            pus,
            governor: probe.label((&dir, "scaling_governor")),
            min_khz: probe.number((&dir, "scaling_min_freq")),
            max_khz: probe.number((&dir, "scaling_max_freq")),
            preference: probe.label((&dir, "energy_performance_preference")),
            ..like.clone()
        })
    };
    ids.iter().filter_map(&mut policy).filter(|policy| !policy.pus.is_empty()).collect()
}

/// The PUs of a policy, which are separated by spaces.
fn related(probe: &mut Probe<'_>, dir: &Dir<'_>) -> Option<IdSet> {
    let text = probe.text((dir, "related_cpus"))?;
    match IdSet::parse(&text.split_whitespace().collect::<Vec<_>>().join(",")) {
        Ok(pus) => Some(pus),
        Err(what) => {
            probe.problem(&dir.path_of("related_cpus"), what);
            None
        }
    }
}

pub(super) fn boost(probe: &mut Probe<'_>, cpus: &Dir<'_>) -> Option<bool> {
    let of = |probe: &mut Probe<'_>, dir: &str, file: &str| {
        let dir = probe.dir_in(cpus, dir)?;
        probe.flag((&dir, file))
    };
    of(probe, "intel_pstate", "no_turbo").map(|off| !off).or_else(|| of(probe, "cpufreq", "boost"))
}

pub(super) fn idle(
    probe: &mut Probe<'_>,
    cpus: &Dir<'_>,
    online: &IdSet,
    kinds: &[CoreKind],
) -> Option<Idle> {
    let dir = probe.dir_in(cpus, "cpuidle")?;
    let of_kinds = kinds.iter().filter_map(|kind| kind.pus.first());
    let mut asked: IdSet = of_kinds.collect();
    if let (true, Some(first)) = (asked.is_empty(), online.first()) {
        asked.insert(first);
    }
    Some(Idle {
        driver: probe.label((&dir, "current_driver")),
        governor: probe
            .label((&dir, "current_governor"))
            .or_else(|| probe.label((&dir, "current_governor_ro"))),
        states: asked.iter().flat_map(|pu| states(probe, cpus, pu)).collect(),
    })
}

fn states(probe: &mut Probe<'_>, cpus: &Dir<'_>, pu: u32) -> Vec<IdleState> {
    let Some(dir) = probe.dir_in(cpus, &format!("cpu{pu}/cpuidle")) else { return Vec::new() };
    let mut state = |id: u32| {
        let dir = probe.dir_in(&dir, &format!("state{id}"))?;
        Some(IdleState {
            pu,
            name: probe.label((&dir, "name"))?,
            latency_us: probe.number((&dir, "latency")),
            residency_us: probe.number((&dir, "residency")),
            disabled: probe.flag((&dir, "disable")),
        })
    };
    // CPUIDLE_STATE_MAX is 10.
    numbered(&dir, "state").iter().take(16).filter_map(&mut state).collect()
}
