//! What differs between two inventories, and which differences are to be believed.
//!
//! [`diff`] compares two values; [`Watcher`] takes one read after another and tells
//! what happened once it is sure. Both compare [`Thing`]s, made by the table in
//! [`facts`]: identity and configuration only. Readings
//! (temperatures, free memory, counters, link state and speed, power state) are
//! never compared, and neither is what is not known on both sides: unknown is
//! never "gone". Nothing here reads a machine or a clock.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

use serde::{Deserialize, Serialize};

use crate::inventory::{Inventory, Part};

mod facts;
mod watcher;

pub use watcher::{Event, Removed, Watcher};

/// Kinds of things, each of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The machine itself: one thing.
    Machine,
    /// Trusted platform modules.
    Tpm,
    /// The processors together: one thing, whose facts are sets of CPUs. A
    /// machine with 256 of them tells one change and not 128 when SMT goes off.
    Processors,
    /// NUMA nodes.
    NumaNode,
    /// The memory together: one thing.
    Memory,
    /// Memory modules; empty slots are none.
    Dimm,
    /// PCI functions but virtual ones, which are a number of their physical one.
    PciFunction,
    /// Network ports with hardware behind them, but virtual functions.
    Nic,
    /// Storage controllers, but virtual functions.
    Controller,
    /// Whole disks.
    Disk,
    /// Graphics and compute accelerators.
    Gpu,
    /// Chips with sensors.
    SensorChip,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 12] = [
        Class::Machine,
        Class::Tpm,
        Class::Processors,
        Class::NumaNode,
        Class::Memory,
        Class::Dimm,
        Class::PciFunction,
        Class::Nic,
        Class::Controller,
        Class::Disk,
        Class::Gpu,
        Class::SensorChip,
    ];

    /// The part it is read with.
    pub fn part(self) -> Part {
        match self {
            Class::Machine | Class::Tpm => Part::Platform,
            Class::Processors => Part::Cpu,
            Class::NumaNode => Part::Numa,
            Class::Memory | Class::Dimm => Part::Memory,
            Class::PciFunction => Part::Pci,
            Class::Nic => Part::Nic,
            Class::Controller | Class::Disk => Part::Storage,
            Class::Gpu => Part::Gpu,
            Class::SensorChip => Part::Sensor,
        }
    }

    /// One of it, for a person.
    pub fn name(self) -> &'static str {
        match self {
            Class::Machine => "machine",
            Class::Tpm => "TPM",
            Class::Processors => "processors",
            Class::NumaNode => "NUMA node",
            Class::Memory => "memory",
            Class::Dimm => "DIMM",
            Class::PciFunction => "PCI function",
            Class::Nic => "NIC",
            Class::Controller => "storage controller",
            Class::Disk => "disk",
            Class::Gpu => "GPU",
            Class::SensorChip => "sensor chip",
        }
    }
}

/// The value of a fact.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(String),
    Bytes(u64),
}

/// Memory that the kernel keeps for itself differs from boot to boot; the smallest
/// block of memory that can be plugged is 128 MiB.
const SAME_MEMORY_WITHIN: u64 = 64 << 20;

impl Value {
    fn is(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Bytes(a), Value::Bytes(b)) => a.abs_diff(*b) < SAME_MEMORY_WITHIN,
            _ => self == other,
        }
    }
}

impl core::fmt::Display for Value {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Bytes(bytes) => write!(f, "{} MiB", bytes >> 20),
        }
    }
}

/// Something that can come, go, move or change.
#[derive(Clone, Debug, PartialEq)]
struct Thing {
    /// Serial number, UUID, permanent MAC address: what moves with it.
    serial: Option<String>,
    /// Bus address or slot: where it is.
    address: Option<String>,
    /// What the kernel calls it.
    name: String,
    /// By the fact's name; what is not known is not here.
    facts: BTreeMap<&'static str, Value>,
}

impl Thing {
    /// The most stable of what it can be known by.
    fn identity(&self) -> String {
        match (&self.serial, &self.address) {
            (Some(serial), _) => format!("serial {serial}"),
            (None, Some(address)) => format!("at {address}"),
            (None, None) => self.name.clone(),
        }
    }

    fn title(&self, class: Class) -> String {
        let place = self.address.as_ref().filter(|address| **address != self.name);
        let place = place.map(|address| format!(" at {address}")).unwrap_or_default();
        match self.name.is_empty() {
            true => class.name().to_string(),
            false => format!("{} {}{place}", class.name(), self.name),
        }
    }

    /// Takes over what it did not know, which is no change, and its present name,
    /// which is how the kernel tells that it is removed.
    fn learn(&mut self, now: &Thing) {
        self.name.clone_from(&now.name);
        self.serial = self.serial.take().or_else(|| now.serial.clone());
        self.address = self.address.take().or_else(|| now.address.clone());
        for (name, value) in &now.facts {
            self.facts.entry(name).or_insert_with(|| value.clone());
        }
    }
}

/// Everything of an inventory that is compared; a class that could not be read is
/// not there.
type Things = BTreeMap<Class, Vec<Thing>>;

fn things(inventory: &Inventory) -> Things {
    let read = |class: Class| Some((class, unambiguous(facts::read(class, inventory)?)));
    Class::ALL.into_iter().filter_map(read).collect()
}

/// Takes away serials and addresses that several things claim (`00000000`, a
/// controller's address for each of its disks), and tells things apart that have
/// nothing left but the same name.
fn unambiguous(mut things: Vec<Thing>) -> Vec<Thing> {
    unique(&mut things, |thing| &mut thing.serial);
    unique(&mut things, |thing| &mut thing.address);
    let mut names = BTreeMap::<String, u32>::new();
    for thing in &mut things {
        let count = names.entry(thing.name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            thing.name = format!("{} ({count})", thing.name);
        }
    }
    things
}

fn unique(things: &mut [Thing], key: impl Fn(&mut Thing) -> &mut Option<String>) {
    let mut seen = BTreeMap::<String, u32>::new();
    for thing in &mut *things {
        if let Some(key) = key(thing).clone() {
            *seen.entry(key).or_default() += 1;
        }
    }
    for thing in things {
        let key = key(thing);
        if key.as_ref().is_some_and(|key| seen.get(key) != Some(&1)) {
            *key = None;
        }
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What kind of thing it is.
    pub class: Class,
    /// What the thing is known by: serial, else bus address, else name.
    pub identity: String,
    /// The thing, for a person.
    pub title: String,
    /// What happened to it.
    pub what: What,
}

/// What happened to a thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It was not there before.
    Appeared,
    /// It is not there any more.
    Vanished,
    /// The same thing (by its serial) is somewhere else.
    Moved {
        /// Where it was.
        before: String,
        /// Where it is.
        after: String,
    },
    /// One of its facts is another.
    Changed {
        /// The fact.
        field: String,
        /// What it was.
        before: String,
        /// What it is.
        after: String,
    },
    /// Half of the class or more is missing at once, and at least two: a reader
    /// that fails is likelier than that.
    ReaderFault {
        /// Who is missing, for a person.
        missing: Vec<String>,
        /// How many there were.
        of: usize,
    },
}

impl What {
    /// One word for it, as in the names of events.
    pub fn word(&self) -> &'static str {
        match self {
            What::Appeared => "appeared",
            What::Vanished => "vanished",
            What::Moved { .. } => "moved",
            What::Changed { .. } => "changed",
            What::ReaderFault { .. } => "reader_fault",
        }
    }
}

impl core::fmt::Display for Change {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let title = &self.title;
        match &self.what {
            What::Appeared => write!(f, "{title} appeared"),
            What::Vanished => write!(f, "{title} vanished"),
            What::Moved { before, after } => write!(f, "{title} moved from {before} to {after}"),
            What::Changed { field, before, after } => {
                write!(f, "{title}: {field} was {before}, is {after}")
            }
            What::ReaderFault { missing, of } => write!(
                f,
                "{} of {of} of kind {} can't be seen at once, which is likelier a reader's fault: {}",
                missing.len(),
                self.class.name(),
                missing.join(", ")
            ),
        }
    }
}

/// Two inventories compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// What differs.
    pub changes: Vec<Change>,
    /// Classes known on one side only, which could not be compared.
    pub unread: Vec<Class>,
}

/// Compares two inventories.
pub fn diff(before: &Inventory, after: &Inventory) -> Drift {
    let (before, after) = (things(before), things(after));
    let mut drift = Drift::default();
    for class in Class::ALL {
        match (before.get(&class), after.get(&class)) {
            (Some(before), Some(after)) => {
                drift.changes.extend(compare(class, before, after, &Removed::new()).into_changes());
            }
            (None, None) => {}
            _ => drift.unread.push(class),
        }
    }
    drift
}

/// The differences of one class, by index into the two lists.
#[derive(Debug, Default)]
struct Compared {
    changes: Vec<(Change, Side)>,
    /// Same thing on both sides.
    pairs: Vec<(usize, usize)>,
    fault: Option<Change>,
}

/// Which things a change is about.
#[derive(Clone, Copy, Debug)]
struct Side {
    before: Option<usize>,
    after: Option<usize>,
}

impl Compared {
    fn into_changes(self) -> impl Iterator<Item = Change> {
        self.fault.into_iter().chain(self.changes.into_iter().map(|(change, _)| change))
    }
}

/// Half a class missing is a reader's fault; what the kernel told that it `removed`
/// does not count.
fn compare(class: Class, before: &[Thing], after: &[Thing], removed: &Removed) -> Compared {
    let pairs = pair(before, after);
    let mut changes = Vec::new();
    for &(b, a) in &pairs {
        let side = Side { before: Some(b), after: Some(a) };
        changes.extend(differences(class, &before[b], &after[a]).map(|change| (change, side)));
    }
    let (left, right): (BTreeSet<_>, BTreeSet<_>) = pairs.iter().copied().unzip();
    let missing = (0..before.len()).filter(|b| !left.contains(b));
    let (mut gone, unexplained): (Vec<_>, Vec<_>) =
        missing.partition(|&b| is_removed(class, &before[b], removed));
    let of = before.len() - gone.len();
    let mut fault = None;
    if unexplained.len() >= 2 && unexplained.len() * 2 >= of {
        let missing = unexplained.iter().map(|&b| before[b].title(class)).collect();
        fault = Some(Change {
            class,
            identity: class.name().to_string(),
            title: class.name().to_string(),
            what: What::ReaderFault { missing, of },
        });
    } else {
        gone.extend(unexplained);
    }
    changes.extend(gone.into_iter().map(|b| {
        let side = Side { before: Some(b), after: None };
        (change(class, &before[b], What::Vanished), side)
    }));
    changes.extend((0..after.len()).filter(|a| !right.contains(a)).map(|a| {
        let side = Side { before: None, after: Some(a) };
        (change(class, &after[a], What::Appeared), side)
    }));
    Compared { changes, pairs, fault }
}

/// Whether the kernel told that just this thing is removed: by its own name, or by
/// the address of the function that it is or sits on.
fn is_removed(class: Class, thing: &Thing, removed: &Removed) -> bool {
    let names = thing.address.iter().chain([&thing.name]);
    names.into_iter().any(|name| removed.contains(&(class.part(), name.clone())))
}

fn change(class: Class, thing: &Thing, what: What) -> Change {
    Change { class, identity: thing.identity(), title: thing.title(class), what }
}

/// Finds each thing again: by serial, else by address, else by name. Two different
/// serials at one place are two things.
fn pair(before: &[Thing], after: &[Thing]) -> Vec<(usize, usize)> {
    let keys: [fn(&Thing) -> Option<&String>; 3] =
        [|thing| thing.serial.as_ref(), |thing| thing.address.as_ref(), |thing| Some(&thing.name)];
    let (mut left, mut right) = (BTreeSet::new(), BTreeSet::new());
    let mut pairs = Vec::new();
    for key in keys {
        let index: BTreeMap<_, _> = (after.iter().enumerate())
            .filter(|(a, _)| !right.contains(a))
            .filter_map(|(a, thing)| Some((key(thing)?, a)))
            .collect();
        for (b, thing) in
            before.iter().enumerate().filter(|(b, _)| !left.contains(b)).collect::<Vec<_>>()
        {
            let Some(&a) = key(thing).and_then(|key| index.get(key)) else { continue };
            let other = &after[a];
            let differ =
                |x: &Option<String>, y: &Option<String>| x.is_some() && y.is_some() && x != y;
            let by_serial = thing.serial.is_some() && thing.serial == other.serial;
            let another = differ(&thing.serial, &other.serial)
                || !by_serial && differ(&thing.address, &other.address);
            if !another {
                left.insert(b);
                right.insert(a);
                pairs.push((b, a));
            }
        }
    }
    pairs
}

fn differences(class: Class, before: &Thing, after: &Thing) -> impl Iterator<Item = Change> {
    let moved = match (&before.address, &after.address) {
        (Some(from), Some(to)) if from != to => {
            Some(What::Moved { before: from.clone(), after: to.clone() })
        }
        _ => None,
    };
    let changed = before.facts.iter().filter_map(|(name, value)| {
        let now = after.facts.get(name).filter(|now| !value.is(now))?;
        Some(What::Changed {
            field: (*name).to_string(),
            before: value.to_string(),
            after: now.to_string(),
        })
    });
    moved.into_iter().chain(changed).map(move |what| change(class, after, what))
}

#[cfg(test)]
mod tests;
