//! Temperatures, fans, voltages.

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// A sensor of the machine itself, with its reading at inventory time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensor {
    /// Chip and what it sits on, e.g. `nvme at 0000:41:00.0`; unlike the number
    /// in `hwmon2` it stays the same over a reboot.
    pub device: String,
    /// Label, or the channel's file name (`temp1`) where it has none.
    pub label: String,
    /// What is measured.
    pub kind: SensorKind,
    /// The reading, in the kind's unit; `None` if the sensor did not answer or
    /// says that it is faulty.
    pub value: Option<f64>,
    /// SensorLimits, in the kind's unit.
    pub limits: SensorLimits,
    /// The chip says that a limit is crossed.
    pub alarm: Option<bool>,
    /// The chip says that the sensor is faulty.
    pub fault: Option<bool>,
    /// PCI function of the device it belongs to.
    pub pci: Option<String>,
    /// NUMA node of that function.
    pub node: Option<u32>,
}

/// SensorLimits of a sensor, as the chip or its firmware keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SensorLimits {
    /// Critically low.
    pub lcrit: Option<f64>,
    /// Low.
    pub min: Option<f64>,
    /// High.
    pub max: Option<f64>,
    /// Critically high.
    pub crit: Option<f64>,
    /// What the device keeps itself under.
    pub cap: Option<f64>,
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
    /// Joules since the counter last wrapped, `J`.
    Energy,
    /// Relative humidity, `%`.
    Humidity,
    /// 1 if the chassis was opened since the flag was last cleared, else 0.
    Intrusion,
}
