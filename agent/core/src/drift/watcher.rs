//! Which differences between one read and the next are to be believed, and told.
//!
//! What appears is told at once; what changes or moves, after two equal reads; what
//! is missing, after three reads or when the kernel itself said that just this was
//! removed.
//! A thing that won't stay as it is is told as flapping, once an hour, and no more.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};

use serde::{Deserialize, Serialize};

use super::{Change, Class, Side, Thing, Things, What, compare, is_removed, things};
use crate::inventory::{Inventory, Part};

/// Reads that must miss a thing, when the kernel said nothing.
const MISSES: u32 = 3;
/// Equal reads until a change is believed.
const EQUAL_READS: u32 = 2;
/// Events of one thing an hour; the next is that it flaps.
const EVENTS_AN_HOUR: u32 = 6;
const HOUR_MS: u64 = 3_600_000;

/// What the kernel told that it removed: kernel names (`eth0`, `0000:01:00.0`), each
/// with a part that it shows in.
pub type Removed = BTreeSet<(Part, String)>;

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Something happened.
    Change(Change),
    /// Things of this class are seen again as they were.
    ReaderBack(Class),
    /// Too much happens to one thing; it is told again after an hour.
    Flapping(Change),
}

/// The machine as it was told so far. Its memory is bounded by the machine: a
/// record for each thing, and for each that something happened to within an hour.
#[derive(Clone, Debug, Default)]
pub struct Watcher {
    told: Things,
    /// Seen, and not yet believed: how often in a row.
    pending: BTreeMap<(Class, String, String), (u32, What)>,
    faults: BTreeMap<Class, u32>,
    /// Of each thing: start of its hour, and events in it.
    budget: BTreeMap<(Class, String), (u64, u32)>,
}

impl Watcher {
    /// Takes `inventory` for what is known, without a word; ends all faults.
    pub fn accept(&mut self, inventory: &Inventory) {
        *self = Self {
            told: things(inventory),
            budget: core::mem::take(&mut self.budget),
            ..Self::default()
        };
    }

    /// True while something was seen that is not believed yet: read again soon.
    pub fn is_unsure(&self) -> bool {
        !self.pending.is_empty() || self.faults.values().any(|reads| *reads < EQUAL_READS)
    }

    /// Classes that a reader seems to fail on.
    pub fn faults(&self) -> impl Iterator<Item = Class> {
        self.faults.iter().filter(|(_, reads)| **reads >= EQUAL_READS).map(|(class, _)| *class)
    }

    /// What is held for true, by identity; for tests.
    #[cfg(test)]
    pub(super) fn known(&self, class: Class) -> impl Iterator<Item = String> {
        self.told.get(&class).into_iter().flatten().map(|thing| alloc::format!("{thing:?}"))
    }

    /// Takes one read of some parts. `now_ms` only ever grows.
    pub fn observe(
        &mut self,
        inventory: &Inventory,
        read: &BTreeSet<Part>,
        removed: &Removed,
        now_ms: u64,
    ) -> Vec<Event> {
        self.budget.retain(|_, (since, _)| now_ms.saturating_sub(*since) < HOUR_MS);
        let mut events = Vec::new();
        for (class, now) in things(inventory) {
            if read.contains(&class.part()) {
                self.observe_class(class, now, removed, &mut events);
            }
        }
        events.into_iter().filter_map(|event| self.within_budget(event, now_ms)).collect()
    }

    fn observe_class(
        &mut self,
        class: Class,
        now: Vec<Thing>,
        removed: &Removed,
        events: &mut Vec<Event>,
    ) {
        // What is read for the first time is known from then on.
        let Some(before) = self.told.get(&class) else {
            self.told.insert(class, now);
            return;
        };
        let compared = compare(class, before, &now, removed);
        let mut told = before.clone();
        for &(b, a) in &compared.pairs {
            told[b].learn(&now[a]);
        }
        self.fault(class, compared.fault, events);
        let mut still = BTreeMap::new();
        let mut gone = Vec::new();
        for (change, side) in compared.changes {
            let key = (class, change.identity.clone(), field(&change.what));
            let seen = match self.pending.get(&key) {
                Some((seen, what)) if *what == change.what => seen + 1,
                _ => 1,
            };
            let confirmed = side.before.is_some_and(|b| is_removed(class, &told[b], removed));
            if seen < needed(&change.what, confirmed) {
                still.insert(key, (seen, change.what));
                continue;
            }
            apply(&mut told, &now, &change, side, &mut gone);
            events.push(Event::Change(change));
        }
        let mut index = 0;
        told.retain(|_| {
            index += 1;
            !gone.contains(&(index - 1))
        });
        self.pending.retain(|(other, ..), _| *other != class);
        self.pending.extend(still);
        self.told.insert(class, told);
    }

    fn fault(&mut self, class: Class, fault: Option<Change>, events: &mut Vec<Event>) {
        let Some(fault) = fault else {
            if self.faults.remove(&class).is_some_and(|reads| reads >= EQUAL_READS) {
                events.push(Event::ReaderBack(class));
            }
            return;
        };
        let reads = self.faults.entry(class).or_default();
        *reads = reads.saturating_add(1);
        if *reads == EQUAL_READS {
            events.push(Event::Change(fault));
        }
    }

    fn within_budget(&mut self, event: Event, now_ms: u64) -> Option<Event> {
        let key = match &event {
            Event::Change(change) | Event::Flapping(change) => {
                (change.class, change.identity.clone())
            }
            Event::ReaderBack(class) => (*class, class.name().into()),
        };
        let (_, count) = self.budget.entry(key).or_insert((now_ms, 0));
        *count = count.saturating_add(1);
        match (*count).cmp(&(EVENTS_AN_HOUR + 1)) {
            core::cmp::Ordering::Less => Some(event),
            core::cmp::Ordering::Equal => match event {
                Event::Change(change) => Some(Event::Flapping(change)),
                other => Some(other),
            },
            core::cmp::Ordering::Greater => None,
        }
    }
}

fn needed(what: &What, confirmed: bool) -> u32 {
    match what {
        What::Appeared => 1,
        What::Vanished if confirmed => 1,
        What::Vanished => MISSES,
        _ => EQUAL_READS,
    }
}

/// What tells two pending changes of one thing apart.
fn field(what: &What) -> String {
    match what {
        What::Changed { field, .. } => field.clone(),
        what => what.word().into(),
    }
}

fn apply(told: &mut Vec<Thing>, now: &[Thing], change: &Change, side: Side, gone: &mut Vec<usize>) {
    match (side.before, side.after) {
        (Some(b), Some(a)) => match &change.what {
            What::Changed { field, .. } => {
                if let Some((name, value)) = now[a].facts.get_key_value(field.as_str()) {
                    told[b].facts.insert(name, value.clone());
                }
            }
            _ => told[b].address.clone_from(&now[a].address),
        },
        (Some(b), None) => gone.push(b),
        (None, Some(a)) => told.push(now[a].clone()),
        (None, None) => {}
    }
}
