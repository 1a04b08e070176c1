//! What a node's BMC says over IPMI, and which of it is an alarm.
//!
//! Sources: IPMI 2.0 specification, revision 1.1: 35.14 (Get Sensor Reading), 42 (sensor
//! types and states), 32 (SEL record formats).

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString as _},
    vec::Vec,
};

use serde::{Deserialize, Serialize};

use crate::{
    alarm::{
        Condition, id,
        rule::{Notice, Severity},
    },
    metric::{Point, Value},
};

pub mod state;

use state::THRESHOLD;

/// What the ids of its alarms begin with.
pub const KIND: &str = "bmc";
/// The page about it.
const PAGE: &str = "hw-docs/bmc.md";

/// One look at the BMC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// The controller itself.
    pub device: Device,
    /// Every sensor that has a record.
    pub sensors: Vec<Sensor>,
    /// What the parts say they are.
    pub frus: Vec<Fru>,
    /// What its log says since the last look.
    pub log: Log,
    /// Its own watchdog timer.
    pub watchdog: Option<Watchdog>,
}

/// The controller itself (20.1, Get Device ID).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// IANA number of its maker.
    pub manufacturer: u32,
    /// Its maker's number of it.
    pub product: u16,
    /// Firmware, e.g. `2.14`.
    pub firmware: String,
    /// Version of IPMI, e.g. `2.0`.
    pub ipmi: String,
}

/// A sensor and what it says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sensor {
    /// Its number within the controller.
    pub number: u8,
    /// Its name as the SDR has it.
    pub name: String,
    /// Sensor type (table 42-3).
    pub kind: u8,
    /// Event/reading type (table 42-1): 1 has thresholds.
    pub reading_type: u8,
    /// UCUM; empty for what has states alone.
    pub unit: String,
    /// The reading, in the unit.
    pub value: Option<f64>,
    /// States that are asserted, a bit each; `None` if it can't be told now.
    pub states: Option<u16>,
    /// Thresholds, in the unit, in the order of their bits in `states`: lower
    /// non-critical, critical, non-recoverable, then upper.
    pub limits: [Option<f64>; 6],
}

/// What a field-replaceable unit says it is (Platform Management FRU Information Storage
/// Definition 1.0).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fru {
    /// Its name as the SDR has it.
    pub name: String,
    /// Area and field, and what stands there, e.g. `("board serial", "C-0003")`.
    pub fields: Vec<(String, String)>,
}

/// What was added to the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Up to where it was read.
    pub place: Place,
    /// It was read from its beginning: what was known of it is void.
    pub anew: bool,
    /// More is there: look again.
    pub more: bool,
    /// Entries that it holds.
    pub entries: u16,
    /// Bytes that are free; 65535 for that or more.
    pub free: u16,
    /// What was added, the oldest first.
    pub events: Vec<Event>,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The last entry that was read; 0 for none.
    pub record: u16,
    /// When the log was cleared last, by the BMC's clock.
    pub erased: u32,
}

/// An entry of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its record.
    pub record: u16,
    /// Seconds since 1970 by the BMC's clock; less than 2²⁹ counts from its start.
    pub unix_s: u32,
    /// Number of the sensor.
    pub sensor: u8,
    /// Sensor type; of an entry in its maker's own form the record type.
    pub kind: u8,
    /// Event/reading type; 0 in its maker's own form.
    pub reading_type: u8,
    /// It began; else it is over.
    pub asserted: bool,
    /// Which state, or which threshold was crossed and how.
    pub offset: u8,
}

/// The BMC's watchdog timer (27.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watchdog {
    /// It counts.
    pub running: bool,
    /// What it does at its end: 0 nothing, 1 reset, 2 power down, 3 power cycle.
    pub action: u8,
    /// From what it counts, in ms.
    pub timeout_ms: u32,
    /// What is left, in ms.
    pub left_ms: u32,
}

impl Sensor {
    /// What it says as a point, if that is a number that can be believed.
    pub fn point(&self) -> Option<Point> {
        let (value, id) = (self.value?, format!("bmc/{}", self.name));
        let metric = match (self.kind, &*self.unit) {
            (_, "Cel") => "hw.temperature",
            (_, "V") => "hw.voltage",
            (_, "A") => "purlin.hw.current",
            (_, "W") => "hw.power",
            (_, "J") => "hw.energy",
            (_, "rpm") => "hw.fan.speed",
            _ => "purlin.bmc.reading",
        };
        Some(Point {
            name: metric.into(),
            unit: self.unit.clone().into(),
            attributes: [("hw.id", id), ("hw.name", self.name.clone())]
                .map(|(key, value)| (key.into(), value))
                .into(),
            value: Value::Gauge(value),
        })
    }

    /// The states that are asserted, as words.
    pub fn words(&self) -> Vec<String> {
        let states = self.states.unwrap_or_default();
        (0..15).filter(|bit| states >> bit & 1 == 1).map(|bit| self.word(bit)).collect()
    }

    fn word(&self, bit: u8) -> String {
        state::word(self.kind, self.reading_type, bit).map_or(format!("state {bit}"), String::from)
    }
}

impl Event {
    /// Which state of its sensor it is about, and whether that is so now.
    pub fn state(&self) -> (u8, bool) {
        match self.reading_type {
            // Of each threshold there are two events: going low and going high. A lower
            // one is crossed by going low, an upper one by going high.
            THRESHOLD => {
                let (bit, goes_high) = (self.offset / 2, self.offset % 2 == 1);
                (bit, self.asserted == (goes_high == (bit >= 3)))
            }
            _ => (self.offset, self.asserted),
        }
    }

    /// It as a person reads it, given its sensor's name.
    pub fn text(&self, sensor: Option<&str>) -> String {
        let (bit, _) = self.state();
        if self.reading_type == 0 {
            return format!("an entry in its maker's own form, {:#04x}", self.kind);
        }
        let word = state::word(self.kind, self.reading_type, bit);
        let word = word.map_or(format!("state {bit}"), str::to_string);
        let name = sensor.map_or(format!("sensor {}", self.sensor), str::to_string);
        let crossed = match (self.reading_type, self.offset % 2) {
            (THRESHOLD, 0) => ", going low",
            (THRESHOLD, _) => ", going high",
            _ => "",
        };
        format!("{name}: {word}{crossed}{}", if self.asserted { "" } else { ", over" })
    }
}

/// What the log says of each sensor's states: the last word on each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told(BTreeMap<(u8, u8, u8, u8), bool>);

/// Bits of sensors that are told of: a log that makes up sensors must not fill the memory.
const MAX_TOLD: usize = 1024;

impl Told {
    /// Takes note of what was read of the log.
    pub fn hear(&mut self, log: &Log) {
        if log.anew {
            self.0.clear();
        }
        for event in log.events.iter().filter(|it| it.reading_type != 0) {
            let (bit, is_so) = event.state();
            let key = (event.sensor, event.kind, event.reading_type, bit);
            if self.0.len() < MAX_TOLD || self.0.contains_key(&key) {
                self.0.insert(key, is_so);
            }
        }
    }
}

/// Everything that is wrong. A sensor that says itself what it is counts more than the
/// log, which may have been full, or cleared. Of several thresholds of one side the worst
/// counts.
pub fn wrong(look: &Look, told: &Told) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for sensor in &look.sensors {
        let of_log = told.0.iter().filter(|((number, kind, reading_type, _), is_so)| {
            **is_so
                && *number == sensor.number
                && *kind == sensor.kind
                && *reading_type == sensor.reading_type
        });
        let of_log = of_log.fold(0, |states, ((.., bit), _)| states | 1_u16 << (bit & 15));
        let states = sensor.states.unwrap_or(of_log);
        conditions.extend(of_sensor(sensor, states));
    }
    // What has no record of its own is known by the log alone.
    let known =
        |number: u8, kind: u8| look.sensors.iter().any(|it| it.number == number && it.kind == kind);
    for ((number, kind, reading_type, bit), is_so) in &told.0 {
        if *is_so && !known(*number, *kind) {
            let nameless = Sensor {
                number: *number,
                name: format!("sensor-{number}"),
                kind: *kind,
                reading_type: *reading_type,
                ..Sensor::default()
            };
            conditions.extend(of_sensor(&nameless, 1 << (bit & 15)));
        }
    }
    conditions
}

fn of_sensor(sensor: &Sensor, states: u16) -> Vec<Condition> {
    let bad = |bit: &u8| states >> bit & 1 == 1;
    let bits: Vec<u8> = match sensor.reading_type {
        THRESHOLD => {
            [(0..3).rev().find(bad), (3..6).rev().find(bad)].into_iter().flatten().collect()
        }
        _ => (0..15).filter(bad).collect(),
    };
    let condition = |bit: u8| {
        let severity = state::severity(sensor.kind, sensor.reading_type, bit)?;
        let word = sensor.word(bit);
        let limit = sensor.limits.get(usize::from(bit)).copied().flatten();
        let unit = &sensor.unit;
        let text = match (sensor.value, limit) {
            (Some(value), Some(limit)) => {
                format!("{} is {value} {unit}: {word}, {limit} {unit}", sensor.name)
            }
            (Some(value), None) => format!("{} is {value} {unit}: {word}", sensor.name),
            _ => format!("{}: {word}", sensor.name),
        };
        Some(Condition {
            id: id(KIND, &format!("{}/{}", sensor.name, word.replace(' ', "-"))),
            text: format!("the BMC says {text}"),
            notice: Notice {
                severity,
                remedy: remedy(sensor.kind, severity).into(),
                page: PAGE.into(),
                ..Notice::default()
            },
            bad: true,
        })
    };
    bits.into_iter().filter_map(condition).collect()
}

fn remedy(kind: u8, severity: Severity) -> &'static str {
    match kind {
        0x01 => "see that air gets in and out, and that fans turn",
        0x04 => "see which fan stands still, and change it",
        0x08 => "see that its cable has power; else change the power supply",
        0x0c => "`purlin hw list memory` names the module; change it",
        0x0d => "`purlin hw list disk` names the disk; change it",
        _ if severity == Severity::Critical => "`purlin rack show` has the whole of it",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
