//! Kinds of core, on a machine that has more than one.
//!
//! In order of trust: the performance counters of Intel's hybrids, Arm's
//! identification register, `cpu_capacity`, and different highest frequencies.

use std::{cmp::Reverse, collections::BTreeMap};

use purlin_core::{
    idset::IdSet,
    inventory::{Cache, CoreKind, FrequencyPolicy, KindSource},
};

use super::cpuinfo::CpuInfo;
use crate::{Dir, probe::Probe};

/// Intel's counters by kind of core, and what the kind is called.
const PMUS: [(&str, &str); 3] = [("cpu_core", "P"), ("cpu_atom", "E"), ("cpu_lowpower", "LP-E")];

pub(super) fn read(
    probe: &mut Probe<'_>,
    cpus: &Dir<'_>,
    online: &IdSet,
    info: &CpuInfo,
    policies: &[FrequencyPolicy],
    caches: &[Cache],
) -> Vec<CoreKind> {
    let max_khz = |pu| {
        let policy = policies.iter().find(|policy| policy.pus.contains(pu));
        policy.and_then(|policy| policy.hardware_max_khz)
    };
    let mut capacity = Capacities { known: BTreeMap::new(), caches };
    let mut capacity_of = |probe: &mut Probe<'_>, pu| capacity.of(probe, cpus, pu, max_khz(pu));

    let speed = |pu| {
        let policy = policies.iter().find(|policy| policy.pus.contains(pu))?;
        Some((policy.base_khz, policy.hardware_max_khz?))
    };
    let (told_by, named) = tell(probe, cpus, online, info, &mut capacity_of, &speed);
    let mut kinds: Vec<CoreKind> = Vec::new();
    for (name, pus) in named {
        kinds.push(CoreKind {
            name,
            capacity: pus.first().and_then(|pu| capacity_of(probe, pu)),
            max_khz: pus.iter().filter_map(max_khz).max(),
            pus,
            told_by,
        });
    }
    kinds.sort_by_key(|it| (it.capacity, it.max_khz, Reverse(it.pus.first())));
    kinds
}

type Named = Vec<(Option<String>, IdSet)>;

/// The PUs of each kind, by the first source that knows more than one.
fn tell(
    probe: &mut Probe<'_>,
    cpus: &Dir<'_>,
    online: &IdSet,
    info: &CpuInfo,
    capacity_of: &mut impl FnMut(&mut Probe<'_>, u32) -> Option<u32>,
    speed: &impl Fn(u32) -> Option<Speed>,
) -> (KindSource, Named) {
    let mut named: Named = Vec::new();
    for (pmu, name) in PMUS {
        let told = probe.set(&format!("/sys/devices/{pmu}/cpus"));
        let pus = told.map(|pus| pus.intersection(online)).filter(|pus| !pus.is_empty());
        named.extend(pus.map(|pus| (Some(name.to_owned()), pus)));
    }
    if !named.is_empty() {
        return (KindSource::Pmu, named);
    }
    let midrs = midrs(probe, cpus, online, info);
    if midrs.len() > 1 {
        let name = |midr| core_name(midr).map_or(format!("MIDR {midr:#010x}"), str::to_owned);
        let named = midrs.into_iter().map(|(midr, pus)| (Some(name(midr)), pus));
        return (KindSource::Midr, named.collect());
    }
    let unnamed = |pus: Vec<IdSet>| pus.into_iter().map(|pus| (None, pus)).collect();
    let capacities = alike(online, |pu| capacity_of(probe, pu));
    if capacities.len() > 1 {
        return (KindSource::Capacity, unnamed(capacities.into_values().collect()));
    }
    let speeds = apart(alike(online, speed));
    (KindSource::Frequency, unnamed(if speeds.len() > 1 { speeds } else { Vec::new() }))
}

/// Guaranteed frequency, where it is known, and the highest one.
type Speed = (Option<u64>, u64);

/// What is guaranteed the same and goes less than a tenth faster than the slowest is of
/// one kind: cores of one design that turned out well (Turbo Boost Max, preferred cores).
fn apart(speeds: BTreeMap<Speed, IdSet>) -> Vec<IdSet> {
    let mut kinds: Vec<(Speed, IdSet)> = Vec::new();
    for ((base, khz), pus) in speeds {
        match kinds.last_mut() {
            Some(((of, lowest), kind)) if *of == base && khz - *lowest < *lowest / 10 => {
                *kind = kind.union(&pus);
            }
            _ => kinds.push(((base, khz), pus)),
        }
    }
    kinds.into_iter().map(|(_, pus)| pus).collect()
}

/// PUs by what is told of them; those of which nothing is told are left out.
fn alike<K: Ord>(online: &IdSet, mut key: impl FnMut(u32) -> Option<K>) -> BTreeMap<K, IdSet> {
    let mut kinds: BTreeMap<K, IdSet> = BTreeMap::new();
    for pu in online.iter() {
        if let Some(key) = key(pu) {
            kinds.entry(key).or_default().insert(pu);
        }
    }
    kinds
}

/// The register as `/proc/cpuinfo` prints it, which costs nothing, else from
/// each PU's own directory, where the machine has such a register at all;
/// without variant and revision, which tell no kind.
fn midrs(
    probe: &mut Probe<'_>,
    cpus: &Dir<'_>,
    online: &IdSet,
    info: &CpuInfo,
) -> BTreeMap<u32, IdSet> {
    const KIND: u32 = 0xff00_fff0;
    let told = alike(online, |pu| Some(info.pus.get(&pu)?.midr? & KIND));
    let first = online.first().map(|pu| format!("{}/cpu{pu}/regs", cpus.path()));
    if !told.is_empty() || !first.is_some_and(|regs| probe.root.is_dir(&regs)) {
        return told;
    }
    alike(online, |pu| {
        let dir = probe.dir_in(cpus, &format!("cpu{pu}/regs/identification"))?;
        probe.hex((&dir, "midr_el1")).map(|midr| midr & KIND)
    })
}

/// Highest frequency, and the sizes of the near caches.
type Looks = (Option<u64>, Vec<Option<u64>>);

/// `cpu_capacity` of PUs; those that look alike by frequency and by caches have
/// the same, and one of them is asked.
struct Capacities<'a> {
    known: BTreeMap<Looks, Option<u32>>,
    caches: &'a [Cache],
}

impl Capacities<'_> {
    fn of(
        &mut self,
        probe: &mut Probe<'_>,
        cpus: &Dir<'_>,
        pu: u32,
        max_khz: Option<u64>,
    ) -> Option<u32> {
        let mine = self.caches.iter().filter(|it| it.level < 3 && it.shared_by.contains(pu));
        let looks = (max_khz, mine.map(|cache| cache.size).collect());
        *self.known.entry(looks).or_insert_with(|| {
            let dir = probe.dir_in(cpus, &format!("cpu{pu}"))?;
            probe.number((&dir, "cpu_capacity"))
        })
    }
}

/// Arm's own designs, by implementer 0x41 and part (Arm Ltd., Technical
/// Reference Manuals, MIDR_EL1).
fn core_name(midr: u32) -> Option<&'static str> {
    if midr >> 24 != 0x41 {
        return None;
    }
    Some(match midr >> 4 & 0xfff {
        0xd03 => "Cortex-A53",
        0xd04 => "Cortex-A35",
        0xd05 => "Cortex-A55",
        0xd07 => "Cortex-A57",
        0xd08 => "Cortex-A72",
        0xd09 => "Cortex-A73",
        0xd0a => "Cortex-A75",
        0xd0b => "Cortex-A76",
        0xd0c => "Neoverse-N1",
        0xd0d => "Cortex-A77",
        0xd40 => "Neoverse-V1",
        0xd41 => "Cortex-A78",
        0xd44 => "Cortex-X1",
        0xd46 => "Cortex-A510",
        0xd47 => "Cortex-A710",
        0xd48 => "Cortex-X2",
        0xd49 => "Neoverse-N2",
        0xd4d => "Cortex-A715",
        0xd4e => "Cortex-X3",
        0xd4f => "Neoverse-V2",
        0xd80 => "Cortex-A520",
        0xd81 => "Cortex-A720",
        0xd82 => "Cortex-X4",
        0xd85 => "Cortex-X925",
        0xd87 => "Cortex-A725",
        _ => return None,
    })
}
