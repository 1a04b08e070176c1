//! Which PUs sit together: packages, dies, clusters, cores, books and drawers.
//!
//! The kernel lists the siblings of each PU; whoever is in a mask already read
//! is not asked again. The masks decide and not the ids, which repeat from
//! book to book on s390 and are the same for all on old ia64 and ppc; only
//! where there is no mask, ids do.

use purlin_core::{
    idset::IdSet,
    inventory::{Group, GroupKind},
};

use super::cpuinfo::CpuInfo;
use crate::{Dir, probe::Probe};

/// What x86 kernels write as the cluster of a PU that has none: `BAD_APICID`.
const NO_CLUSTER: i32 = 0xffff;

/// AMD's Bulldozer and its heirs: two cores share a module, which kernels
/// before 4.9 show as two threads of different core ids.
const MODULES: (&str, u32) = ("AuthenticAMD", 0x15);

struct Level {
    kind: GroupKind,
    id: &'static str,
    /// Mask and list of it, the newer name first.
    masks: &'static [(&'static str, &'static str)],
    /// PUs of which is known what they are in, or that they are in none.
    told: IdSet,
    groups: Vec<Group>,
}

impl Level {
    fn new(
        kind: GroupKind,
        id: &'static str,
        masks: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self { kind, id, masks, told: IdSet::default(), groups: Vec::new() }
    }
}

fn levels() -> [Level; 6] {
    use GroupKind::*;
    [
        // First, since what a kernel doesn't tell of one PU it tells of none in its package.
        Level::new(
            Package,
            "physical_package_id",
            &[("package_cpus", "package_cpus_list"), ("core_siblings", "core_siblings_list")],
        ),
        Level::new(Drawer, "drawer_id", &[("drawer_siblings", "drawer_siblings_list")]),
        Level::new(Book, "book_id", &[("book_siblings", "book_siblings_list")]),
        Level::new(Die, "die_id", &[("die_cpus", "die_cpus_list")]),
        Level::new(
            Core,
            "core_id",
            &[("core_cpus", "core_cpus_list"), ("thread_siblings", "thread_siblings_list")],
        ),
        Level::new(Cluster, "cluster_id", &[("cluster_cpus", "cluster_cpus_list")]),
    ]
}

pub(super) fn read(
    probe: &mut Probe<'_>,
    cpus: &Dir<'_>,
    online: &IdSet,
    info: &CpuInfo,
) -> Vec<Group> {
    let mut levels = levels();
    let mut untold = IdSet::default();
    let modules = info.vendor.as_deref() == Some(MODULES.0) && info.family == Some(MODULES.1);
    for pu in online.iter() {
        if levels.iter().all(|level| level.told.contains(pu)) {
            continue;
        }
        let Some(dir) = probe.dir_in(cpus, &format!("cpu{pu}/topology")) else {
            untold.insert(pu);
            continue;
        };
        for place in 0..levels.len() {
            if levels[place].told.contains(pu) {
                continue;
            }
            let (above, rest) = levels.split_at_mut(place);
            if let Some(level) = rest.first_mut() {
                tell(probe, (cpus, &dir), pu, level, above, online, modules);
            }
        }
    }
    // A kernel has it for all that are online, or for none.
    if let Some(pu) = untold.first().filter(|_| untold != *online) {
        let what = "has no topology, though the CPU is online and others have one";
        probe.problem(&cpus.path_of(&format!("cpu{pu}")), what);
    }
    let mut groups: Vec<Group> = levels.into_iter().flat_map(|level| level.groups).collect();
    if groups.is_empty() {
        groups = of_cpuinfo(online, info);
    }
    // A cluster that is but one core, as x86 tells it of most, says nothing.
    let cores: Vec<IdSet> = groups
        .iter()
        .filter(|group| group.kind == GroupKind::Core)
        .map(|group| group.pus.clone())
        .collect();
    groups.retain(|group| group.kind != GroupKind::Cluster || !cores.contains(&group.pus));
    groups
}

fn tell(
    probe: &mut Probe<'_>,
    (cpus, dir): (&Dir<'_>, &Dir<'_>),
    pu: u32,
    level: &mut Level,
    above: &[Level],
    online: &IdSet,
    modules: bool,
) {
    let id = probe
        .number((dir, level.id))
        .filter(|id: &i32| *id >= 0 && (level.kind != GroupKind::Cluster || *id != NO_CLUSTER));
    // Where the id of something optional is −1, its mask is made up.
    let optional = !matches!(level.kind, GroupKind::Package | GroupKind::Core);
    if optional && id.is_none() {
        level.told.insert(pu);
        if !dir.has(level.id) || level.kind != GroupKind::Cluster {
            level.told = level.told.union(&within(above, pu, GroupKind::Package));
        }
        return;
    }
    let mask = level.masks.iter().find(|(mask, list)| dir.has(mask) || dir.has(list));
    let mask = mask.and_then(|(mask, list)| probe.mask_or_set((dir, *mask), (dir, *list)));
    // Where the CPU itself isn't in the dump, neither is the proof.
    let off = mask.as_ref().map(|mask| mask.difference(online));
    let off = off.and_then(|off| off.iter().find(|id| cpus.has(&format!("cpu{id}"))));
    if let Some(off) = off {
        let what = format!("{} names CPU {off}, which is not online", level.masks[0].0);
        probe.problem(dir.path(), what);
    }
    let mask = mask.map(|mask| mask.intersection(online));
    let by_id = modules && level.kind == GroupKind::Core;
    match mask {
        Some(mask) if !by_id => by_mask(probe, dir, pu, level, id, mask),
        // Ids are unique within what is above alone.
        mask => {
            let inside = mask.unwrap_or_else(|| match level.kind {
                GroupKind::Package => online.clone(),
                GroupKind::Die => within(above, pu, GroupKind::Package),
                _ => match within(above, pu, GroupKind::Die) {
                    die if die.len() > 1 => die,
                    _ => within(above, pu, GroupKind::Package),
                },
            });
            by_ids(pu, level, id, &inside);
        }
    }
}

fn by_mask(
    probe: &mut Probe<'_>,
    dir: &Dir<'_>,
    pu: u32,
    level: &mut Level,
    id: Option<i32>,
    mut pus: IdSet,
) {
    if !pus.contains(pu) {
        probe.problem(dir.path(), format!("{} without the CPU itself", level.masks[0].0));
        pus.insert(pu);
    }
    let taken = pus.intersection(&level.told);
    if let Some(other) = taken.first() {
        let what = format!("{} names CPU {other}, which names others", level.masks[0].0);
        probe.problem(dir.path(), what);
        pus = pus.difference(&taken);
    }
    level.told = level.told.union(&pus);
    level.groups.push(Group { kind: level.kind, id, logical: 0, pus });
}

fn by_ids(pu: u32, level: &mut Level, id: Option<i32>, inside: &IdSet) {
    let Some(id) = id else { return };
    level.told.insert(pu);
    let same = |group: &&mut Group| {
        group.id == Some(id) && (inside.is_empty() || !group.pus.intersection(inside).is_empty())
    };
    match level.groups.iter_mut().find(same) {
        Some(group) => group.pus.insert(pu),
        None => {
            let pus = IdSet::from_iter([pu]);
            level.groups.push(Group { kind: level.kind, id: Some(id), logical: 0, pus });
        }
    }
}

/// The PUs of the group of a kind that a PU is in; none if it is in none.
fn within(above: &[Level], pu: u32, kind: GroupKind) -> IdSet {
    let groups = above.iter().filter(|level| level.kind == kind).flat_map(|level| &level.groups);
    groups
        .filter(|group| group.pus.contains(pu))
        .map(|it| it.pus.clone())
        .next()
        .unwrap_or_default()
}

/// Kernels before 2.6.16 have no topology in sysfs, and x86 ones tell packages
/// and cores in `/proc/cpuinfo`.
fn of_cpuinfo(online: &IdSet, info: &CpuInfo) -> Vec<Group> {
    let [mut packages, _, _, _, mut cores, _] = levels();
    for pu in online.iter() {
        let Some(told) = info.pus.get(&pu) else { continue };
        by_ids(pu, &mut packages, told.package, online);
        let inside = within(std::slice::from_ref(&packages), pu, GroupKind::Package);
        by_ids(pu, &mut cores, told.core, &inside);
    }
    packages.groups.into_iter().chain(cores.groups).collect()
}
