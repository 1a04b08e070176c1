//! A measured point.
//!
//! Names and units follow OpenTelemetry's semantic conventions (`system.*`,
//! `hw.*`, UCUM units), and `purlin.*` where they have none.

use alloc::{borrow::Cow, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

/// One value at one instant; the instant is the sample's, not the point's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Metric name, e.g. `system.cpu.time`.
    pub name: Cow<'static, str>,
    /// UCUM unit, e.g. `s`, `By`, `Cel`, `1`.
    pub unit: Cow<'static, str>,
    /// What tells this point from its siblings, e.g. `("cpu.mode", "user")`.
    pub attributes: Vec<(Cow<'static, str>, String)>,
    /// The value, in `unit`.
    pub value: Value,
}

/// A gauge may be fractional; a monotonic counter is a whole number or seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// A value that goes up and down.
    Gauge(f64),
    /// A value that only grows until its source restarts.
    Counter(f64),
}

impl Point {
    /// A gauge without attributes.
    pub fn gauge(name: &'static str, unit: &'static str, value: f64) -> Self {
        Self::new(name, unit, Value::Gauge(value))
    }

    /// A counter without attributes.
    pub fn counter(name: &'static str, unit: &'static str, value: f64) -> Self {
        Self::new(name, unit, Value::Counter(value))
    }

    fn new(name: &'static str, unit: &'static str, value: Value) -> Self {
        Self { name: name.into(), unit: unit.into(), attributes: Vec::new(), value }
    }

    /// The same point with one attribute more.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push((key.into(), value.into()));
        self
    }
}

/// What samples the machine; each has its own interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// CPU time by mode, load, context switches.
    Cpu,
    /// Memory and swap by state.
    Memory,
    /// Pressure stall information: CPU, memory, I/O.
    Pressure,
    /// Block device I/O and file system usage.
    Disk,
    /// Network interface traffic, errors and drops.
    Network,
    /// Temperatures. Read by the helper: a broken sensor can hang its reader.
    Temperature,
    /// GPUs: work, memory, power, temperatures, errors. Read by the helper.
    Gpu,
}

impl Sampler {
    /// Every sampler.
    pub const ALL: [Sampler; 7] = [
        Sampler::Cpu,
        Sampler::Memory,
        Sampler::Pressure,
        Sampler::Disk,
        Sampler::Network,
        Sampler::Temperature,
        Sampler::Gpu,
    ];

    /// The name used in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Sampler::Cpu => "cpu",
            Sampler::Memory => "memory",
            Sampler::Pressure => "pressure",
            Sampler::Disk => "disk",
            Sampler::Network => "network",
            Sampler::Temperature => "temperature",
            Sampler::Gpu => "gpu",
        }
    }
}
