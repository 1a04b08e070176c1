//! Temperatures, fans, voltages, power and currents of the machine itself.
//!
//! Page: `hw-docs/sensor.md`. Sources: `/sys/class/hwmon`
//! (Documentation/hwmon/sysfs-interface.rst), and those zones of
//! `/sys/class/thermal` (Documentation/driver-api/thermal/sysfs-api.rst) that
//! the kernel does not show in hwmon too.
//!
//! A read goes to the chip and can hang with it, so a careful caller reads
//! this part in a process it can lose.

use purlin_core::inventory::{Part, Problem, Sensor, SensorKind, SensorLimits};

use crate::{
    Root, pci,
    probe::{Depth, Probe},
};

const HWMON: &str = "/sys/class/hwmon";
const THERMAL: &str = "/sys/class/thermal";

/// The most sensors read: a large server's boards have about 300, and each
/// costs a transfer on a slow bus.
pub const MAX_SENSORS: usize = 1024;

/// Reads every sensor; `None` if a dump has no hwmon directory.
pub fn read(root: &Root) -> (Option<Vec<Sensor>>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Sensor, root);
    let sensors = scan(&mut probe, |_| true, Depth::All);
    (sensors, probe.finish())
}

/// Reads the temperatures alone, without their limits.
pub(crate) fn temperatures(root: &Root) -> (Vec<Sensor>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Sensor, root);
    let sensors = scan(&mut probe, |kind| kind == SensorKind::Temperature, Depth::Reading);
    (sensors.unwrap_or_default(), probe.finish())
}

fn scan(
    probe: &mut Probe<'_>,
    wanted: impl Fn(SensorKind) -> bool,
    depth: Depth,
) -> Option<Vec<Sensor>> {
    let mut sensors = Vec::new();
    let mut names = Vec::new();
    for entry in probe.devices(HWMON)? {
        let Some(chip) = Chip::open(probe, &entry) else { continue };
        chip_sensors(probe, &chip, &wanted, depth, &mut sensors);
        names.push(chip.name);
    }
    zones(probe, &names, &mut sensors);
    if sensors.len() > MAX_SENSORS {
        let what = format!("{} sensors; only {MAX_SENSORS} are kept", sensors.len());
        probe.problem(HWMON, what);
        sensors.truncate(MAX_SENSORS);
    }
    Some(sensors)
}

/// A chip of `/sys/class/hwmon`.
struct Chip {
    dir: String,
    files: Vec<String>,
    name: String,
    /// Name and place, which stay the same over a reboot where the number in
    /// `hwmon3` does not.
    device: String,
    pci: Option<String>,
    node: Option<u32>,
}

impl Chip {
    fn open(probe: &mut Probe<'_>, entry: &str) -> Option<Self> {
        let dir = format!("{HWMON}/{entry}");
        let files = probe.names(&dir)?;
        let name = probe.label(&format!("{dir}/name")).unwrap_or_else(|| "unnamed".into());
        let path = probe.root.link_target(&dir).unwrap_or_default();
        let pci = path.rsplit('/').find(|piece| pci::is_address(piece)).map(str::to_owned);
        let place = probe.link_name(&format!("{dir}/device")).filter(|place| place != "..");
        let place = place.unwrap_or_else(|| entry.to_owned());
        // An NVMe controller's number may change over a reboot; its address
        // changes with the slot alone.
        let place = match &pci {
            Some(address) if place.starts_with("nvme") || place == entry => address,
            _ => &place,
        };
        let device = format!("{name} at {place}");
        let node = pci.as_deref().and_then(|it| probe.told(&pci::file(it, "numa_node")));
        Some(Self { dir, files, name, device, pci, node })
    }

    fn has(&self, file: &str) -> bool {
        self.files.binary_search_by(|name| name.as_str().cmp(file)).is_ok()
    }

    /// The value of `file`, in the kind's unit, if the chip has that file.
    fn value(&self, probe: &mut Probe<'_>, file: &str, per_unit: f64) -> Option<f64> {
        if self.has(file) {
            reading(probe, &format!("{}/{file}", self.dir), per_unit)
        } else {
            None
        }
    }

    fn flag(&self, probe: &mut Probe<'_>, file: &str) -> Option<bool> {
        if self.has(file) { probe.flag(&format!("{}/{file}", self.dir)) } else { None }
    }
}

fn chip_sensors(
    probe: &mut Probe<'_>,
    chip: &Chip,
    wanted: &impl Fn(SensorKind) -> bool,
    depth: Depth,
    sensors: &mut Vec<Sensor>,
) {
    for (file, channel, scale) in chip.files.iter().filter_map(|file| channel(file)) {
        // A meter that has both tells its reading, not its average.
        let doubled = file.ends_with("_average") && chip.has(&format!("{channel}_input"));
        if wanted(scale.kind) && !doubled && sensors.len() <= MAX_SENSORS {
            sensors.push(sensor(probe, chip, file, channel, scale, depth));
        }
    }
}

fn sensor(
    probe: &mut Probe<'_>,
    chip: &Chip,
    file: &str,
    channel: &str,
    scale: Scale,
    depth: Depth,
) -> Sensor {
    let fault = chip.flag(probe, &format!("{channel}_fault"));
    let label = format!("{channel}_label");
    let label = if chip.has(&label) { probe.label(&format!("{}/{label}", chip.dir)) } else { None };
    let mut sensor = Sensor {
        device: chip.device.clone(),
        label: label.unwrap_or_else(|| channel.to_owned()),
        kind: scale.kind,
        // What a faulty sensor reads means nothing, and is often 0.
        value: match fault {
            Some(true) => None,
            _ => chip.value(probe, file, scale.per_unit),
        },
        limits: SensorLimits::default(),
        alarm: None,
        fault,
        pci: chip.pci.clone(),
        node: chip.node,
    };
    if depth == Depth::All && scale.kind != SensorKind::Intrusion {
        sensor.limits = limits(probe, chip, channel, scale.per_unit);
        sensor.alarm = alarm(probe, chip, channel);
    }
    sensor
}

fn limits(probe: &mut Probe<'_>, chip: &Chip, channel: &str, per_unit: f64) -> SensorLimits {
    let mut limit = |what| chip.value(probe, &format!("{channel}_{what}"), per_unit);
    SensorLimits {
        lcrit: limit("lcrit"),
        min: limit("min"),
        max: limit("max"),
        crit: limit("crit"),
        cap: limit("cap"),
    }
}

/// One alarm for the channel, or one for each limit.
fn alarm(probe: &mut Probe<'_>, chip: &Chip, channel: &str) -> Option<bool> {
    const ALARMS: [&str; 7] = [
        "alarm",
        "min_alarm",
        "max_alarm",
        "lcrit_alarm",
        "crit_alarm",
        "emergency_alarm",
        "cap_alarm",
    ];
    let mut told = ALARMS.iter().filter_map(|it| chip.flag(probe, &format!("{channel}_{it}")));
    let first = told.next()?;
    Some(told.fold(first, |any, one| any | one))
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
        ("energy", "input") => (SensorKind::Energy, 1e6),
        ("humidity", "input") => (SensorKind::Humidity, 1e3),
        ("intrusion", "alarm") => (SensorKind::Intrusion, 1.0),
        _ => return None,
    };
    Some((file, channel, Scale { kind, per_unit }))
}

/// Zones that no chip of `chips` shows: the kernel registers a chip by a zone's
/// type, and the package temperature comes from coretemp too.
fn zones(probe: &mut Probe<'_>, chips: &[String], sensors: &mut Vec<Sensor>) {
    let shown = |kind: &str| {
        let chip = kind.replace('-', "_");
        chips.iter().any(|name| *name == chip || name == "coretemp" && chip == "x86_pkg_temp")
    };
    for zone in probe.names(THERMAL).unwrap_or_default() {
        if !zone.starts_with("thermal_zone") || sensors.len() > MAX_SENSORS {
            continue;
        }
        let kind = probe.label(&format!("{THERMAL}/{zone}/type")).unwrap_or("unnamed".into());
        if shown(&kind) {
            continue;
        }
        sensors.push(Sensor {
            label: kind,
            kind: SensorKind::Temperature,
            value: reading(probe, &format!("{THERMAL}/{zone}/temp"), 1e3),
            device: zone,
            limits: SensorLimits::default(),
            alarm: None,
            fault: None,
            pci: None,
            node: None,
        });
    }
}

/// The value in the kind's unit; `None` for a sensor that can't be read now.
fn reading(probe: &mut Probe<'_>, path: &str, per_unit: f64) -> Option<f64> {
    let raw: i64 = probe.number(path)?;
    Some(raw as f64 / per_unit)
}
