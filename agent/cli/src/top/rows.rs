//! The lines of `purlin top`: what a technician looks at first, made of series.

use std::collections::BTreeMap;

use purlin_proto::api::MetricSeries;
use serde::Serialize;

use crate::plot::values;

/// Lines of each kind: a screen has 24 in all.
const MOST: usize = 3;

/// A figure over time.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Of what.
    pub name: String,
    /// `%`, `By`, `By/s`, `Cel` or a UCUM unit.
    pub unit: &'static str,
    /// Milliseconds since 1970 at which a minute began, and its value.
    pub points: Vec<(u64, f64)>,
}

/// All of them, of series by their names.
pub fn rows(series: &BTreeMap<&str, Vec<MetricSeries>>) -> Vec<Row> {
    let of = |name: &str| series.get(name).map_or(&[][..], Vec::as_slice);
    let memory = of("system.memory");
    let mut rows = vec![
        cpu(of("system.cpu.time")),
        row("load, 1 min", "{thread}", sum(of("system.cpu.load_average.1m"))),
        row("memory used", "%", percent(&used(memory), &sum(named(memory, "system.memory.limit")))),
    ];
    rows.retain(|it| !it.points.is_empty());
    rows.extend(each(of("system.disk.io"), "disk", "system.device", None));
    for way in ["receive", "transmit"] {
        let nic = Some(("network.io.direction", way));
        rows.extend(each(of("system.network.io"), way, "network.interface.name", nic));
    }
    let mut hottest: Vec<Row> = of("hw.temperature")
        .iter()
        .map(|it| row(it.attributes.get("hw.id").map_or("", String::as_str), "Cel", values(it)))
        .collect();
    busiest(&mut hottest, |it| it.points.last().map_or(0.0, |it| it.1));
    rows.extend(hottest);
    rows
}

fn row(name: &str, unit: &'static str, points: Vec<(u64, f64)>) -> Row {
    Row { name: name.into(), unit, points }
}

/// Time that is neither idle nor waited for a disk.
fn cpu(series: &[MetricSeries]) -> Row {
    let idle = |it: &&MetricSeries| {
        it.attributes.get("cpu.mode").is_some_and(|mode| mode == "idle" || mode == "iowait")
    };
    let busy = sum(series.iter().filter(|it| !idle(it)));
    row("CPU busy", "%", percent(&busy, &sum(series)))
}

fn used(memory: &[MetricSeries]) -> Vec<(u64, f64)> {
    let used = |it: &&MetricSeries| {
        it.attributes.get("system.memory.state").is_some_and(|state| state == "used")
    };
    sum(named(memory, "system.memory.usage").filter(used))
}

fn named<'a>(all: &'a [MetricSeries], name: &'a str) -> impl Iterator<Item = &'a MetricSeries> {
    all.iter().filter(move |it| it.name == name)
}

/// A line for each of the busiest that `attribute` names, all ways together or one.
fn each(
    series: &[MetricSeries],
    label: &str,
    attribute: &str,
    way: Option<(&str, &str)>,
) -> Vec<Row> {
    let mut by_name: BTreeMap<&str, Vec<&MetricSeries>> = BTreeMap::new();
    let wanted = |it: &&MetricSeries| {
        way.is_none_or(|(key, way)| it.attributes.get(key).is_some_and(|value| value == way))
    };
    for it in series.iter().filter(wanted) {
        let name = it.attributes.get(attribute).map_or("", String::as_str);
        by_name.entry(name).or_default().push(it);
    }
    let line =
        |(name, of): (&str, Vec<&MetricSeries>)| row(&format!("{label} {name}"), "By/s", sum(of));
    let mut rows: Vec<Row> = by_name.into_iter().map(line).collect();
    busiest(&mut rows, |it| it.points.iter().map(|it| it.1).sum());
    rows
}

fn busiest(rows: &mut Vec<Row>, by: impl Fn(&Row) -> f64) {
    rows.sort_by(|a, b| by(b).total_cmp(&by(a)));
    rows.truncate(MOST);
    rows.sort_by(|a, b| a.name.cmp(&b.name));
}

/// Minute by minute, counters as rates a second.
fn sum<'a>(series: impl IntoIterator<Item = &'a MetricSeries>) -> Vec<(u64, f64)> {
    let mut sums: BTreeMap<u64, f64> = BTreeMap::new();
    for (at, value) in series.into_iter().flat_map(values) {
        *sums.entry(at).or_default() += value;
    }
    sums.into_iter().collect()
}

fn percent(part: &[(u64, f64)], whole: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let whole: BTreeMap<u64, f64> = whole.iter().copied().collect();
    let share = |(at, part): &(u64, f64)| {
        let whole = whole.get(at).filter(|whole| **whole > 0.0)?;
        Some((*at, 100.0 * part / whole))
    };
    part.iter().filter_map(share).collect()
}
