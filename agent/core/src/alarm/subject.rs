//! What an alarm is about: the reading, what it is of, and the id that follows from it.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString as _},
    vec::Vec,
};

use serde::{Deserialize, Serialize};

use super::rule::{Limit, Rule};
use crate::metric::{Point, Value};

/// An id is a level of a topic.
const MAX_ID: usize = 64;

/// What an alarm of a rule is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The metric.
    pub metric: String,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// UCUM.
    pub unit: String,
    /// The latest value.
    pub value: f64,
}

impl Reading {
    pub(super) fn of(point: &Point, value: f64) -> Self {
        let attributes = point.attributes.iter().map(|(k, v)| (k.to_string(), v.clone()));
        Self {
            metric: point.name.to_string(),
            attributes: attributes.collect(),
            unit: point.unit.to_string(),
            value,
        }
    }

    pub(super) fn point(&self) -> Point {
        let attributes = self.attributes.iter().map(|(k, v)| (k.clone().into(), v.clone()));
        Point {
            name: self.metric.clone().into(),
            unit: self.unit.clone().into(),
            attributes: attributes.collect(),
            value: Value::Gauge(self.value),
        }
    }
}

/// What is wrong, for a person.
pub(super) fn text(rule: &Rule, point: &Point, value: f64) -> String {
    let (side, limit) = match rule.limit {
        Limit::Above { raise, .. } => ("above", raise),
        Limit::Below { raise, .. } => ("below", raise),
    };
    let subject = match &*subject(point) {
        "" => String::new(),
        subject => format!(" of {subject}"),
    };
    let unit = if point.unit == "1" { String::new() } else { format!(" {}", point.unit) };
    format!("{}{subject} is {value}{unit}, {side} {limit}{unit}", point.name)
}

/// What a point is of: its hardware's id, else all its attributes.
pub(super) fn subject(point: &Point) -> String {
    let hardware = point.attributes.iter().find(|(key, _)| key == "hw.id");
    match hardware {
        Some((_, id)) => id.clone(),
        None => {
            let values: Vec<&str> = point.attributes.iter().map(|(_, v)| v.as_str()).collect();
            values.join("/")
        }
    }
}

/// An alarm's id: a kind and what it is of, as one level of a topic. What had to be
/// changed for that is told apart by a hash at the end.
pub fn id(kind: &str, subject: &str) -> String {
    if subject.is_empty() {
        return kind.into();
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let plain = subject.chars().map(|c| match c {
        '/' => '.',
        c if is_plain(c) => c,
        _ => '_',
    });
    let whole = format!("{kind}.{}", plain.collect::<String>());
    let changed = !subject.chars().all(|c| is_plain(c) || c == '/');
    if !changed && whole.len() <= MAX_ID {
        return whole;
    }
    // FNV-1a, of which 24 bits are enough for the parts of a rack.
    let hash = subject
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let kept = whole.len().min(MAX_ID - 7);
    format!("{}-{:06x}", &whole[..kept], hash >> 8)
}
