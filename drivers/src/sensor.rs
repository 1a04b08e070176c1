//! Temperatures, fans, voltages, power and currents of the machine itself.
//!
//! Page: `hw-docs/sensor.md`. Sources: `/sys/class/hwmon`
//! (Documentation/hwmon/sysfs-interface.rst), and `/sys/class/thermal`
//! (Documentation/driver-api/thermal/sysfs-api.rst) where hwmon has no
//! temperature, since most kernels show thermal zones in both.
//!
//! A read goes to the chip and can hang with it, so a careful caller reads
//! this part in a process it can lose.

use purlin_core::inventory::{Part, Problem, Sensor, SensorKind};

use crate::{Root, probe::Probe};

const HWMON: &str = "/sys/class/hwmon";
const THERMAL: &str = "/sys/class/thermal";

/// The most sensors read: a large server's boards have about 300, and each
/// costs a transfer on a slow bus.
pub const MAX_SENSORS: usize = 1024;

/// Reads every sensor; `None` if a dump has no hwmon directory.
pub fn read(root: &Root) -> (Option<Vec<Sensor>>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Sensor, root);
    let sensors = scan(&mut probe, |_| true);
    (sensors, probe.finish())
}

/// Reads the temperatures alone.
pub(crate) fn temperatures(root: &Root) -> (Vec<Sensor>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Sensor, root);
    let sensors = scan(&mut probe, |kind| kind == SensorKind::Temperature);
    (sensors.unwrap_or_default(), probe.finish())
}

fn scan(probe: &mut Probe<'_>, wanted: impl Fn(SensorKind) -> bool) -> Option<Vec<Sensor>> {
    let mut sensors = Vec::new();
    for chip in probe.devices(HWMON)? {
        chip_sensors(probe, &chip, &wanted, &mut sensors);
    }
    if !sensors.iter().any(|sensor| sensor.kind == SensorKind::Temperature) {
        zones(probe, &mut sensors);
    }
    if sensors.len() > MAX_SENSORS {
        let what = format!("{} sensors; only {MAX_SENSORS} are kept", sensors.len());
        probe.problem(HWMON, what);
        sensors.truncate(MAX_SENSORS);
    }
    Some(sensors)
}

fn chip_sensors(
    probe: &mut Probe<'_>,
    chip: &str,
    wanted: &impl Fn(SensorKind) -> bool,
    sensors: &mut Vec<Sensor>,
) {
    let dir = format!("{HWMON}/{chip}");
    let Some(files) = probe.names(&dir) else { return };
    let device = chip_name(probe, chip);
    for (file, channel, scale) in files.iter().filter_map(|file| channel(file)) {
        if !wanted(scale.kind) || sensors.len() > MAX_SENSORS {
            continue;
        }
        sensors.push(Sensor {
            device: device.clone(),
            label: probe.label(&format!("{dir}/{channel}_label")).unwrap_or(channel.to_owned()),
            kind: scale.kind,
            value: reading(probe, &format!("{dir}/{file}"), scale.per_unit),
        });
    }
}

/// The chip's name and the device it sits on (`nvme at nvme0`), which stay the
/// same over a reboot where the number in `hwmon3` does not.
fn chip_name(probe: &mut Probe<'_>, chip: &str) -> String {
    let dir = format!("{HWMON}/{chip}");
    let name = probe.label(&format!("{dir}/name")).unwrap_or_else(|| "unnamed".into());
    let place = probe.link_name(&format!("{dir}/device")).unwrap_or_else(|| chip.to_owned());
    format!("{name} at {place}")
}

#[derive(Clone, Copy)]
struct Scale {
    kind: SensorKind,
    /// How many of the file's counts make one of the kind's unit.
    per_unit: f64,
}

/// Tells a channel's reading from the other files of a chip: `temp1_input` is
/// channel `temp1`. Some power meters have only an average.
fn channel(file: &str) -> Option<(&str, &str, Scale)> {
    let (channel, what) = file.split_once('_')?;
    let prefix = channel.trim_end_matches(|c: char| c.is_ascii_digit());
    let (kind, per_unit) = match (prefix, what) {
        ("temp", "input") => (SensorKind::Temperature, 1e3),
        ("fan", "input") => (SensorKind::Fan, 1.0),
        ("in", "input") => (SensorKind::Voltage, 1e3),
        ("power", "input" | "average") => (SensorKind::Power, 1e6),
        ("curr", "input") => (SensorKind::Current, 1e3),
        _ => return None,
    };
    Some((file, channel, Scale { kind, per_unit }))
}

fn zones(probe: &mut Probe<'_>, sensors: &mut Vec<Sensor>) {
    for zone in probe.names(THERMAL).unwrap_or_default() {
        if !zone.starts_with("thermal_zone") || sensors.len() > MAX_SENSORS {
            continue;
        }
        sensors.push(Sensor {
            label: probe.label(&format!("{THERMAL}/{zone}/type")).unwrap_or("unnamed".into()),
            kind: SensorKind::Temperature,
            value: reading(probe, &format!("{THERMAL}/{zone}/temp"), 1e3),
            device: zone,
        });
    }
}

/// The value in the kind's unit; `None` for a sensor that can't be read now.
fn reading(probe: &mut Probe<'_>, path: &str, per_unit: f64) -> Option<f64> {
    let raw: i64 = probe.number(path)?;
    Some(raw as f64 / per_unit)
}
