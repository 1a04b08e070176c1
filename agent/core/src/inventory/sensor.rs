//! Temperatures, fans, voltages.

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// A sensor of the machine itself, with its reading at inventory time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensor {
    /// Chip and what it sits on, e.g. `nvme at nvme0`; unlike the number in
    /// `hwmon2` it stays the same over a reboot.
    pub device: String,
    /// Label, or the channel's file name (`temp1`) where it has none.
    pub label: String,
    /// What is measured.
    pub kind: SensorKind,
    /// The reading, in the kind's unit.
    pub value: Option<f64>,
}

/// What a sensor measures, and its UCUM unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SensorKind {
    /// Degrees Celsius, `Cel`.
    Temperature,
    /// Revolutions a minute, `{rpm}`.
    Fan,
    /// Volts, `V`.
    Voltage,
    /// Watts, `W`.
    Power,
    /// Amperes, `A`.
    Current,
}
