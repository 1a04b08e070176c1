//! What a disk says of its own health, and what to think of it.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use serde::{Deserialize, Serialize};

/// What to think of a disk, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The verdict.
    pub state: HealthState,
    /// Its reasons, for a person; empty if it is well or unknown.
    pub reasons: Vec<String>,
}

/// How well a disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// It could not be asked, or says nothing.
    #[default]
    Unknown,
    /// It has no complaint.
    Ok,
    /// It works, and something should be looked at.
    Warning,
    /// It says itself that it fails: replace it.
    Failing,
}

impl Health {
    fn of(complaints: impl Iterator<Item = (HealthState, String)>) -> Self {
        let mut health = Self { state: HealthState::Ok, reasons: Vec::new() };
        for (state, reason) in complaints {
            health.state = health.state.max(state);
            health.reasons.push(reason);
        }
        health
    }
}

/// The SMART / Health Information log of an NVMe controller (NVM Express Base
/// Specification, log page 02h). A counter of 128 bits that is over 64 is told
/// as the most that 64 hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvmeSmart {
    /// Critical warnings, as bits: 0 spare is low, 1 temperature, 2 not
    /// reliable, 3 read only, 4 volatile memory backup, 5 persistent memory.
    pub critical_warning: u8,
    /// Temperature in °C.
    pub temperature: Option<i32>,
    /// Temperatures of its sensors in °C, with the sensor's number from 1.
    pub sensors: Vec<(u8, i32)>,
    /// Spare blocks left, in percent.
    pub spare: u8,
    /// Spare from which it warns, in percent.
    pub spare_threshold: u8,
    /// Share of its rated life used, in percent; goes beyond 100.
    pub used: u8,
    /// Bytes read by the host.
    pub read: u64,
    /// Bytes written by the host.
    pub written: u64,
    /// Read commands.
    pub reads: u64,
    /// Write commands.
    pub writes: u64,
    /// Minutes it was busy with commands.
    pub busy_minutes: u64,
    /// Times it was switched on.
    pub power_cycles: u64,
    /// Hours it was on.
    pub power_on_hours: u64,
    /// Times it lost power without notice.
    pub unsafe_shutdowns: u64,
    /// Times it found data that it couldn't repair.
    pub media_errors: u64,
    /// Entries ever made in its error log.
    pub error_entries: u64,
    /// Minutes above the warning temperature.
    pub warning_minutes: u32,
    /// Minutes above the critical temperature.
    pub critical_minutes: u32,
}

impl NvmeSmart {
    /// The controller's own warnings decide; a life used up and data lost are
    /// worth a look.
    pub fn health(&self) -> Health {
        use HealthState::{Failing, Warning};
        let bits = [
            (0, Failing, "spare blocks are below the threshold"),
            (1, Warning, "temperature is beyond a threshold"),
            (2, Failing, "it is not reliable any more"),
            (3, Failing, "it can only be read"),
            (4, Failing, "the backup of its volatile memory failed"),
            (5, Failing, "its persistent memory is not reliable any more"),
        ];
        let critical = bits
            .into_iter()
            .filter(|(bit, ..)| self.critical_warning >> bit & 1 == 1)
            .map(|(_, state, what)| (state, what.to_string()));
        let worn = (self.used >= 100)
            .then(|| (Warning, format!("{} % of its rated life is used", self.used)));
        let lost = (self.media_errors > 0)
            .then(|| (Warning, format!("it failed to repair data {} times", self.media_errors)));
        Health::of(critical.chain(worn).chain(lost))
    }
}

/// SMART data of an ATA disk (ATA/ATAPI-7 8.54; later standards leave the
/// attributes to the maker).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtaSmart {
    /// The disk's own verdict: true if no threshold is exceeded.
    pub passed: Option<bool>,
    /// Its attributes, in the disk's order.
    pub attributes: Vec<AtaAttribute>,
}

/// One row of an ATA disk's SMART table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtaAttribute {
    /// Its number; the maker decides what it means, most agree on a few.
    pub id: u8,
    /// True if a value at its threshold foretells a failure soon, false if it
    /// means the end of the planned life.
    pub prefail: bool,
    /// Health of this attribute, the more the better.
    pub value: u8,
    /// The least that the value ever was.
    pub worst: u8,
    /// Value from which the disk complains; 0 never. `None` if not told.
    pub threshold: Option<u8>,
    /// What the maker counts, 48 bits.
    pub raw: u64,
}

/// Attributes on whose meaning makers agree, with their names.
const NAMES: [(u8, &str); 16] = [
    (5, "reallocated sectors"),
    (9, "power-on hours"),
    (10, "spin-up retries"),
    (12, "power cycles"),
    (177, "wear levelling"),
    (184, "end-to-end errors"),
    (187, "uncorrectable errors reported"),
    (188, "command timeouts"),
    (190, "airflow temperature"),
    (194, "temperature"),
    (196, "reallocation events"),
    (197, "sectors waiting for reallocation"),
    (198, "uncorrectable sectors"),
    (199, "link CRC errors"),
    (231, "life left"),
    (233, "wear-out indicator"),
];

/// Counts that are 0 on a disk that is well.
const LOSSES: [u8; 6] = [5, 10, 184, 187, 197, 198];

impl AtaAttribute {
    /// What it is, where makers agree.
    pub fn name(&self) -> Option<&'static str> {
        NAMES.iter().find(|(id, _)| *id == self.id).map(|(_, name)| *name)
    }

    /// The count or temperature in [`AtaAttribute::raw`], without what makers
    /// put into its upper bytes. Counts of sectors use 16 bits, hours 24.
    pub fn count(&self) -> u64 {
        match self.id {
            5 | 196 => self.raw & 0xffff,
            9 => self.raw & 0xff_ffff,
            190 | 194 => self.raw & 0xff,
            _ => self.raw,
        }
    }

    fn exceeds(&self, value: u8) -> bool {
        // 0 and 254 up are no values.
        (1..254).contains(&value) && self.threshold.is_some_and(|least| least > 0 && value <= least)
    }

    fn complaint(&self) -> Option<(HealthState, String)> {
        let what = || match self.name() {
            Some(name) => format!("{name} (attribute {})", self.id),
            None => format!("attribute {}", self.id),
        };
        let now = self.exceeds(self.value);
        if now && self.prefail {
            return Some((HealthState::Failing, format!("{} is at its threshold", what())));
        }
        if now || self.exceeds(self.worst) {
            let when = if now { "is" } else { "was" };
            return Some((HealthState::Warning, format!("{} {when} at its threshold", what())));
        }
        let lost = LOSSES.contains(&self.id) && self.count() > 0;
        lost.then(|| (HealthState::Warning, format!("{}: {}", what(), self.count())))
    }
}

impl AtaSmart {
    /// The disk's own verdict and its thresholds decide; sectors lost are worth
    /// a look.
    pub fn health(&self) -> Health {
        let failed = (self.passed == Some(false))
            .then(|| (HealthState::Failing, "the disk itself says that it fails".to_string()));
        let complaints = self.attributes.iter().filter_map(AtaAttribute::complaint);
        let health = Health::of(failed.into_iter().chain(complaints));
        let is_silent = self.passed.is_none() && health.state == HealthState::Ok;
        if is_silent { Health::default() } else { health }
    }

    /// Temperature in °C.
    pub fn temperature(&self) -> Option<i32> {
        // 194 is the temperature itself on most disks, 190 on the others.
        let celsius = |it: &AtaAttribute| i32::from(it.count() as u8 as i8);
        self.attribute(194).or_else(|| self.attribute(190)).map(celsius)
    }

    /// Hours it was on.
    pub fn power_on_hours(&self) -> Option<u64> {
        self.attribute(9).map(AtaAttribute::count)
    }

    /// Times it was switched on.
    pub fn power_cycles(&self) -> Option<u64> {
        self.attribute(12).map(AtaAttribute::count)
    }

    fn attribute(&self, id: u8) -> Option<&AtaAttribute> {
        self.attributes.iter().find(|it| it.id == id)
    }
}
