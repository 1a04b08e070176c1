//! Memory errors that the kernel counted, and the slots they belong to.
//!
//! Page: `hw-docs/memory.md`. Source: `/sys/devices/system/edac/mc`
//! (Documentation/driver-api/edac.rst, Documentation/ABI/testing/sysfs-devices-edac).
//! A controller shows its DIMMs as `dimm*`, or as `rank*` where the hardware
//! counts by rank, or, on kernels before 3.6 and old drivers, as `csrow*` with
//! channels.
//!
//! EDAC knows where a DIMM sits on a controller, SMBIOS knows what is printed
//! beside it, and nothing connects the two but names. So a count is joined only
//! where one slot alone can be meant, and kept unjoined with the reason
//! otherwise: a good DIMM thrown away is worse than a look at the board.

use std::collections::{BTreeMap, BTreeSet};

use purlin_core::inventory::{Dimm, Memory, MemoryController, MemoryErrors, UnjoinedErrors};

use crate::probe::Probe;

const MC: &str = "/sys/devices/system/edac/mc";

/// The most sets of counters read: 8 packages with 4 controllers of 6 channels
/// of 2 DIMMs are 384.
pub const MAX_COUNTERS: usize = 1024;

/// Adds controllers and error counts to `memory`, whose slots are read already.
pub(crate) fn read(probe: &mut Probe<'_>, memory: &mut Memory) {
    let mut counters = Vec::new();
    for id in probe.numbered(MC, "mc").unwrap_or_default().iter() {
        let name = format!("mc{id}");
        memory.controllers.push(controller(probe, &name));
        counters.extend(counters_of(probe, &name));
    }
    if counters.len() > MAX_COUNTERS {
        probe.problem(MC, format!("{} DIMMs; only {MAX_COUNTERS} are kept", counters.len()));
        counters.truncate(MAX_COUNTERS);
    }
    memory.unjoined = join(counters, memory.dimms.as_deref_mut().unwrap_or_default());
}

fn controller(probe: &mut Probe<'_>, name: &str) -> MemoryController {
    let dir = format!("{MC}/{name}");
    MemoryController {
        name: name.to_owned(),
        kind: probe.label(&format!("{dir}/mc_name")),
        errors: errors(probe, &format!("{dir}/")),
        noinfo: MemoryErrors {
            corrected: probe.number(&format!("{dir}/ce_noinfo_count")),
            uncorrected: probe.number(&format!("{dir}/ue_noinfo_count")),
        },
    }
}

/// The counts in the files that begin with `prefix`.
fn errors(probe: &mut Probe<'_>, prefix: &str) -> MemoryErrors {
    MemoryErrors {
        corrected: probe.number(&format!("{prefix}ce_count")),
        uncorrected: probe.number(&format!("{prefix}ue_count")),
    }
}

/// One set of counters: an [`UnjoinedErrors`] whose reason is not known yet.
type Counters = UnjoinedErrors;

fn counters_of(probe: &mut Probe<'_>, controller: &str) -> Vec<Counters> {
    let dir = format!("{MC}/{controller}");
    for model in ["dimm", "rank"] {
        let ids = probe.numbered(&dir, model).unwrap_or_default();
        if !ids.is_empty() {
            let at = |id| format!("{controller}/{model}{id}");
            return ids.iter().map(|id| dimm(probe, at(id), model == "dimm")).collect();
        }
    }
    let rows = probe.numbered(&dir, "csrow").unwrap_or_default();
    rows.iter().flat_map(|id| row(probe, &format!("{controller}/csrow{id}"))).collect()
}

/// A rank's size is not its DIMM's.
fn dimm(probe: &mut Probe<'_>, at: String, whole: bool) -> Counters {
    let file = |name| format!("{MC}/{at}/{name}");
    let mib: Option<u64> = if whole { probe.number(&file("size")) } else { None };
    Counters {
        label: probe.label(&file("dimm_label")),
        location: probe.label(&file("dimm_location")),
        size: mib.and_then(|mib| mib.checked_mul(1 << 20)),
        errors: errors(probe, &file("dimm_")),
        at,
        ..Counters::default()
    }
}

/// A row of chips across all channels. Corrected errors are counted for each
/// channel, uncorrected ones for the row: which channel's DIMM they came from is
/// known only if there is one, or none came.
fn row(probe: &mut Probe<'_>, at: &str) -> Vec<Counters> {
    let dir = format!("{MC}/{at}");
    let whole: Option<u64> = probe.number(&format!("{dir}/ue_count"));
    let names = probe.names(&dir).unwrap_or_default();
    let channels: Vec<&str> =
        names.iter().filter_map(|name| name.strip_suffix("_ce_count")).collect();
    let alone = channels.len() == 1;
    let mut counters: Vec<Counters> = channels
        .iter()
        .map(|channel| Counters {
            at: format!("{at}/{channel}"),
            label: probe.label(&format!("{dir}/{channel}_dimm_label")),
            errors: MemoryErrors {
                corrected: probe.number(&format!("{dir}/{channel}_ce_count")),
                uncorrected: whole.filter(|count| alone || *count == 0),
            },
            ..Counters::default()
        })
        .collect();
    if !alone && whole != Some(0) {
        let errors = MemoryErrors { corrected: None, uncorrected: whole };
        let why = "uncorrectable errors are counted for a row of several DIMMs".into();
        counters.push(Counters { at: at.to_owned(), errors, why, ..Counters::default() });
    }
    counters
}

/// Gives each slot its counts, and returns those that no slot could be told for.
///
/// Counters with one label are one DIMM's: the ranks, or rows, of it.
fn join(counters: Vec<Counters>, dimms: &mut [Dimm]) -> Vec<UnjoinedErrors> {
    let mut groups: BTreeMap<String, Vec<Counters>> = BTreeMap::new();
    for counter in counters {
        let key = counter.label.clone().unwrap_or_else(|| counter.at.clone());
        groups.entry(key).or_default().push(counter);
    }
    let groups: Vec<Vec<Counters>> = groups.into_values().collect();
    let slots = slots_of(&groups, dimms);
    let mut unjoined = Vec::new();
    for (group, slot) in groups.into_iter().zip(slots) {
        match slot {
            Ok(index) => dimms[index].errors = Some(total(&group)),
            Err(why) => unjoined.extend(group.into_iter().map(|counter| because(counter, why))),
        }
    }
    unjoined
}

/// A row's own counts come with their reason.
fn because(counter: Counters, why: &str) -> UnjoinedErrors {
    if counter.why.is_empty() { UnjoinedErrors { why: why.into(), ..counter } } else { counter }
}

fn total(group: &[Counters]) -> MemoryErrors {
    let sum = |count: fn(&MemoryErrors) -> Option<u64>| {
        group.iter().try_fold(0_u64, |sum, one| Some(sum.saturating_add(count(&one.errors)?)))
    };
    MemoryErrors { corrected: sum(|it| it.corrected), uncorrected: sum(|it| it.uncorrected) }
}

/// The slot of each group: by its label, then by its place, then by its size,
/// each only where it names one slot and no other group names it too.
fn slots_of(groups: &[Vec<Counters>], dimms: &[Dimm]) -> Vec<Result<usize, &'static str>> {
    let mut slots: Vec<Result<usize, &'static str>> =
        groups.iter().map(|group| by_label(&group[0], dimms)).collect();
    // Two labels for one slot: at least one of them means another.
    for index in 0..dimms.len() {
        if slots.iter().filter(|slot| **slot == Ok(index)).count() > 1 {
            let claimed = |slot: &&mut Result<usize, _>| **slot == Ok(index);
            slots.iter_mut().filter(claimed).for_each(|slot| *slot = Err(CLAIMED_TWICE));
        }
    }
    by_coordinates(groups, dimms, &mut slots);
    by_size(groups, dimms, &mut slots);
    slots
}

const CLAIMED_TWICE: &str = "several labels fit the same module";
const NO_MODULE: &str = "its label fits no module of the firmware's table";
const SEVERAL: &str = "its label fits several modules of the firmware's table";

fn by_label(counter: &Counters, dimms: &[Dimm]) -> Result<usize, &'static str> {
    if dimms.is_empty() {
        return Err("the firmware's table of slots is not known");
    }
    let Some(label) = &counter.label else { return Err("it has no label") };
    let label = words(label);
    if let Some(handle) = handle(&label) {
        return only(dimms, |dimm| dimm.handle == handle);
    }
    let exact = only(dimms, |dimm| names(dimm).contains(&label));
    match exact {
        Err(NO_MODULE) if !is_drivers(&label) => only(dimms, |dimm| contains(&label, dimm)),
        exact => exact,
    }
}

/// The one slot with a module in it that fits.
fn only(dimms: &[Dimm], fits: impl Fn(&Dimm) -> bool) -> Result<usize, &'static str> {
    let mut fitting =
        dimms.iter().enumerate().filter(|(_, dimm)| dimm.is_populated() && fits(dimm));
    match (fitting.next(), fitting.next()) {
        (Some((index, _)), None) => Ok(index),
        (None, _) => Err(NO_MODULE),
        _ => Err(SEVERAL),
    }
}

/// The words and numbers of a name, in lower case: `CPU1_DIMM-A1` is `cpu`, `1`,
/// `dimm`, `a`, `1`.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut last = ' ';
    for c in text.to_lowercase().chars() {
        let goes_on = c.is_alphabetic() && last.is_alphabetic()
            || c.is_ascii_digit() && last.is_ascii_digit();
        match words.last_mut() {
            Some(word) if goes_on => word.push(c),
            _ if c.is_alphanumeric() => words.push(c.into()),
            _ => {}
        }
        last = c;
    }
    words
}

/// What a label may call a slot: its locator, alone or with the bank on either side.
fn names(dimm: &Dimm) -> Vec<Vec<String>> {
    let Some(slot) = dimm.slot.as_deref().map(words) else { return Vec::new() };
    match dimm.bank.as_deref().map(words) {
        Some(bank) => vec![[&bank[..], &slot].concat(), [&slot[..], &bank].concat(), slot],
        None => vec![slot],
    }
}

/// A label that a technician gave may say more than the locator:
/// `Server board, DIMM_A1`.
fn contains(label: &[String], dimm: &Dimm) -> bool {
    let slot = dimm.slot.as_deref().map(words).unwrap_or_default();
    // `A` alone is in many a label.
    slot.len() > 1 && label.windows(slot.len()).any(|part| part == slot)
}

/// Labels that drivers make count DIMMs on a channel, rows on a controller:
/// their `DIMM#0` is not the board's `DIMM 0`.
fn is_drivers(label: &[String]) -> bool {
    const COUNTS: [&str; 4] = ["srcid", "mc", "chan", "channel"];
    label.iter().any(|word| COUNTS.contains(&word.as_str()))
}

/// The SMBIOS handle in a label like `unknown memory (handle: 0x001f)`.
fn handle(label: &[String]) -> Option<u16> {
    let at = label.iter().position(|word| word == "handle")?;
    let digits: String = label.get(at + 1..)?.concat();
    u16::from_str_radix(digits.strip_prefix("0x")?, 16).ok()
}

/// Package, controller, channel and slot on the channel.
type Coordinates = [u32; 4];

/// Coordinates from a name that has all four, as the labels of Intel's drivers
/// (`CPU_SrcID#0_MC#1_Chan#2_DIMM#0`) and the bank locators of some boards
/// (`P0_Node1_Channel2_Dimm0`) do.
fn coordinates(text: &str) -> Option<Coordinates> {
    const AXES: [&[&str]; 4] =
        [&["srcid", "p"], &["mc", "ha", "node", "imc"], &["chan", "channel"], &["dimm"]];
    let words = words(text);
    let number = |names: &[&str]| {
        let mut at = words.windows(2).filter(|pair| names.contains(&pair[0].as_str()));
        let found: u32 = at.next()?[1].parse().ok()?;
        at.next().is_none().then_some(found)
    };
    let [package, controller, channel, slot] = AXES.map(number);
    Some([package?, controller?, channel?, slot?])
}

/// Joins all or nothing: boards count controllers in their own ways, and only if
/// each count meets a DIMM of its size, and each DIMM a count, is it the drivers'.
fn by_coordinates(
    groups: &[Vec<Counters>],
    dimms: &[Dimm],
    slots: &mut [Result<usize, &'static str>],
) {
    if slots.iter().any(Result::is_ok) {
        return;
    }
    let mut places = BTreeMap::new();
    let populated = dimms.iter().enumerate().filter(|(_, dimm)| dimm.is_populated());
    for (index, dimm) in populated {
        let place = [&dimm.bank, &dimm.slot].into_iter().flatten().find_map(|it| coordinates(it));
        let Some(place) = place else { return };
        if places.insert(place, index).is_some() {
            return;
        }
    }
    let slot_of = |group: &Vec<Counters>| -> Option<usize> {
        let counter = &group[0];
        let index = *places.get(&coordinates(counter.label.as_deref()?)?)?;
        (counter.size.is_some() && counter.size == dimms[index].size).then_some(index)
    };
    let Some(found) = groups.iter().map(slot_of).collect::<Option<Vec<usize>>>() else {
        return;
    };
    let distinct: BTreeSet<&usize> = found.iter().collect();
    if distinct.len() == places.len() && found.len() == places.len() {
        for (slot, index) in slots.iter_mut().zip(found) {
            *slot = Ok(index);
        }
    }
}

/// A module of a size that only one count and one remaining slot have.
fn by_size(groups: &[Vec<Counters>], dimms: &[Dimm], slots: &mut [Result<usize, &'static str>]) {
    if dimms.iter().any(|dimm| dimm.size.is_none()) {
        return;
    }
    let taken: Vec<usize> = slots.iter().filter_map(|slot| slot.ok()).collect();
    let left: Vec<usize> = (0..groups.len()).filter(|at| slots[*at].is_err()).collect();
    // Several counters with one label are not told apart, so neither is their size.
    let size = |at: usize| groups[at][0].size.filter(|_| groups[at].len() == 1);
    for at in &left {
        let Some(bytes) = size(*at) else { continue };
        let alike = left.iter().filter(|other| size(**other) == Some(bytes)).count();
        let mut fitting = (0..dimms.len())
            .filter(|index| !taken.contains(index) && dimms[*index].size == Some(bytes));
        if let (1, Some(index), None) = (alike, fitting.next(), fitting.next()) {
            slots[*at] = Ok(index);
        }
    }
}
