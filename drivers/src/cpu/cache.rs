//! Each cache once. The kernel lists a cache under every PU that shares it, at
//! the same index.
//!
//! What it costs to read is kept low by two rules: whoever shares all caches of
//! a PU already read, the nearest among them, is not asked; and of a cache with the same index and size
//! as one already read only the PUs that share it are read, since its level,
//! type, ways, sets and line are those of the other.

use std::collections::BTreeMap;

use purlin_core::{
    idset::IdSet,
    inventory::{Cache, CacheKind, Group, GroupKind},
};

use crate::{
    Dir,
    probe::{Probe, numbered, quote},
};

/// Caches read of one PU at most: four levels of two kinds.
const MAX_INDEX: usize = 8;

pub(super) fn read(
    probe: &mut Probe<'_>,
    cpus: &Dir<'_>,
    online: &IdSet,
    groups: &[Group],
) -> Vec<Cache> {
    let cores = groups.iter().filter(|group| group.kind == GroupKind::Core);
    let mut caches = Vec::new();
    let mut told: BTreeMap<u32, IdSet> = BTreeMap::new();
    let mut alike: BTreeMap<(u32, Option<u64>), Cache> = BTreeMap::new();
    let mut done = IdSet::default();
    for pu in online.iter() {
        let mut nearest = false;
        if done.contains(pu) {
            continue;
        }
        let Some(dir) = probe.dir_in(cpus, &format!("cpu{pu}/cache")) else { continue };
        let core = cores.clone().find(|core| core.pus.contains(pu));
        let core = core.map(|core| core.pus.clone()).unwrap_or_default();
        let mut with_all = online.clone();
        for index in numbered(&dir, "index").iter().take(MAX_INDEX) {
            let told = told.entry(index).or_default();
            if told.contains(pu) {
                let shared = caches
                    .iter()
                    .rev()
                    .find(|(i, it): &&(u32, Cache)| *i == index && it.shared_by.contains(pu));
                with_all =
                    shared.map_or(with_all.clone(), |(_, it)| with_all.intersection(&it.shared_by));
                continue;
            }
            let Some(dir) = probe.dir_in(&dir, &format!("index{index}")) else { continue };
            let Some(mut cache) = cache(probe, &dir, pu, index, online, &core, &mut alike) else {
                with_all = IdSet::default();
                continue;
            };
            let taken = cache.shared_by.intersection(told);
            if let Some(other) = taken.first() {
                let what = format!("names CPU {other}, which names others");
                probe.problem(&dir.path_of("shared_cpu_map"), what);
                cache.shared_by = cache.shared_by.difference(&taken);
            }
            *told = told.union(&cache.shared_by);
            with_all = with_all.intersection(&cache.shared_by);
            nearest |= cache.level == 1;
            caches.push((index, cache));
        }
        // PUs that share a far cache alone may have near ones of their own.
        if nearest {
            done = done.union(&with_all);
        }
    }
    caches.into_iter().map(|(_, cache)| cache).collect()
}

fn cache(
    probe: &mut Probe<'_>,
    dir: &Dir<'_>,
    pu: u32,
    index: u32,
    online: &IdSet,
    core: &IdSet,
    alike: &mut BTreeMap<(u32, Option<u64>), Cache>,
) -> Option<Cache> {
    let size = size(probe, (dir, "size")).filter(|size| *size > 0);
    let shared = probe.mask_or_set((dir, "shared_cpu_map"), (dir, "shared_cpu_list"));
    // Where the kernel doesn't know who shares it, the PUs of one core do.
    let shared = shared.filter(|set| !set.is_empty());
    let mut shared_by = shared.unwrap_or_else(|| core.clone()).intersection(online);
    shared_by.insert(pu);
    let like = size.and_then(|_| alike.get(&(index, size)));
    if let Some(like) = like {
        return Some(Cache { shared_by, id: id(probe, dir, like.level), ..like.clone() });
    }
    let positive = |value: Option<u32>| value.filter(|value| *value > 0);
    let level = probe.number((dir, "level"))?;
    let cache = Cache {
        level,
        kind: kind(probe, (dir, "type"))?,
        size,
        ways: positive(probe.told((dir, "ways_of_associativity"))),
        sets: positive(probe.told((dir, "number_of_sets"))),
        line: positive(probe.told((dir, "coherency_line_size"))),
        id: id(probe, dir, level),
        shared_by,
    };
    alike.insert((index, size), cache.clone());
    Some(cache)
}

/// Asked of the caches that resctrl divides among many, which are few.
fn id(probe: &mut Probe<'_>, dir: &Dir<'_>, level: u32) -> Option<u32> {
    if level < 3 { None } else { probe.told((dir, "id")) }
}

fn kind(probe: &mut Probe<'_>, file: (&Dir<'_>, &str)) -> Option<CacheKind> {
    match probe.text(file)?.as_str() {
        "Data" => Some(CacheKind::Data),
        "Instruction" => Some(CacheKind::Instruction),
        "Unified" => Some(CacheKind::Unified),
        other => {
            probe.problem(
                &file.0.path_of(file.1),
                format!("{} is not a type of cache", quote(other)),
            );
            None
        }
    }
}

/// Bytes from `32K`; sysfs writes kilobytes only, but M costs nothing.
pub(crate) fn size(probe: &mut Probe<'_>, file: (&Dir<'_>, &str)) -> Option<u64> {
    let text = probe.text(file)?;
    let (digits, unit) = match text.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix('M').map_or((text.as_str(), 1), |digits| (digits, 1 << 20)),
    };
    let size = digits.parse::<u64>().ok().and_then(|size| size.checked_mul(unit));
    if size.is_none() {
        probe.problem(&file.0.path_of(file.1), format!("{} is not a size", quote(&text)));
    }
    size
}
