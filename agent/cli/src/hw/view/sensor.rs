//! Sensors as rows and sections.

use purlin_core::inventory::{Inventory, Part, Sensor, SensorKind};

use super::{Row, Section, UNKNOWN, by, plural, row};

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
    row(Part::Sensor, "sensors", None, words.join(", "))
}

fn sensor_sections(sensors: &[Sensor]) -> Vec<Section> {
    let fact = |sensor: &&Sensor| (sensor.label.clone(), reading(sensor));
    by(sensors.iter(), |sensor| sensor.device.clone())
        .into_iter()
        .map(|(title, of)| Section { title, facts: of.iter().map(fact).collect() })
        .collect()
}

pub(super) fn reading(sensor: &Sensor) -> String {
    let Some(value) = sensor.value else { return UNKNOWN.into() };
    match sensor.kind {
        SensorKind::Temperature => format!("{value:.1} °C"),
        SensorKind::Fan => format!("{value:.0} rpm"),
        SensorKind::Voltage => format!("{value:.3} V"),
        SensorKind::Power => format!("{value:.1} W"),
        SensorKind::Current => format!("{value:.3} A"),
    }
}
