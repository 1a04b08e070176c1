//! Sensors as rows and sections.

use purlin_core::inventory::{Inventory, Part, Sensor, SensorKind, SensorLimits};

use super::{Row, Section, UNKNOWN, by, join, plural, row};

pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    inventory.sensors.iter().map(|all| sensor_row(all)).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    inventory.sensors.iter().flat_map(|all| sensor_sections(all)).collect()
}

fn sensor_row(sensors: &[Sensor]) -> Row {
    let mut words = vec![plural(sensors.len(), "sensor")];
    let temperatures = sensors.iter().filter(|it| it.kind == SensorKind::Temperature);
    let hottest = temperatures
        .filter_map(|sensor| Some((sensor.value?, sensor)))
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    if let Some((_, hot)) = hottest {
        words.push(format!("hottest {} ({}, {})", reading(hot), hot.device, hot.label));
    }
    let alarms = sensors.iter().filter(|sensor| sensor.alarm == Some(true)).count();
    words.extend((alarms > 0).then(|| plural(alarms, "alarm")));
    let faults = sensors.iter().filter(|sensor| sensor.fault == Some(true)).count();
    words.extend((faults > 0).then(|| format!("{faults} faulty")));
    row(Part::Sensor, "sensors", None, words.join(", "))
}

fn sensor_sections(sensors: &[Sensor]) -> Vec<Section> {
    let fact = |sensor: &&Sensor| (sensor.label.clone(), state(sensor));
    by(sensors.iter(), |sensor| sensor.device.clone())
        .into_iter()
        .map(|(title, of)| Section {
            title: place(title, of[0]),
            facts: of.iter().map(fact).collect(),
        })
        .collect()
}

/// The device, with where it is if its name does not say that.
fn place(device: String, sensor: &Sensor) -> String {
    let pci = sensor.pci.clone().filter(|address| !device.contains(address.as_str()));
    join([Some(device), pci, sensor.node.map(|node| format!("node {node}"))])
}

/// The reading, its limits, and what the chip says of both.
fn state(sensor: &Sensor) -> String {
    let limits = limits(sensor);
    let limits = (!limits.is_empty()).then(|| format!(" ({})", limits.join(", ")));
    join([
        Some(reading(sensor) + &limits.unwrap_or_default()),
        (sensor.fault == Some(true)).then(|| "faulty".into()),
        (sensor.alarm == Some(true)).then(|| "ALARM".into()),
    ])
}

fn limits(sensor: &Sensor) -> Vec<String> {
    let SensorLimits { lcrit, min, max, crit, cap } = sensor.limits;
    let named =
        [("critical below", lcrit), ("min", min), ("max", max), ("critical", crit), ("cap", cap)];
    let limit = |(name, value): (&str, Option<f64>)| {
        Some(format!("{name} {}", in_unit(sensor.kind, value?)))
    };
    named.into_iter().filter_map(limit).collect()
}

pub(super) fn reading(sensor: &Sensor) -> String {
    sensor.value.map_or_else(|| UNKNOWN.into(), |value| in_unit(sensor.kind, value))
}

fn in_unit(kind: SensorKind, value: f64) -> String {
    match kind {
        SensorKind::Temperature => format!("{value:.1} °C"),
        SensorKind::Fan => format!("{value:.0} rpm"),
        SensorKind::Voltage => format!("{value:.3} V"),
        SensorKind::Power => format!("{value:.1} W"),
        SensorKind::Current => format!("{value:.3} A"),
        SensorKind::Energy => format!("{value:.0} J"),
        SensorKind::Humidity => format!("{value:.1} %"),
        SensorKind::Intrusion if value == 0.0 => "closed".into(),
        SensorKind::Intrusion => "was opened".into(),
    }
}
