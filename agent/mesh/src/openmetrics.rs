//! OpenMetrics text 1.0.0: the mesh's page and the agent's.
//!
//! Sources: OpenMetrics 1.0 ("Text format", "Units and base units"), and OpenTelemetry's
//! "Prometheus and OpenMetrics compatibility" for how names and UCUM units become these:
//! dots are underscores, a unit is the end of a name, a counter's sample ends in `_total`.

use std::{collections::BTreeMap, fmt::Write};

/// What the answer is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a family's values do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They go up and down.
    Gauge,
    /// They grow until what they count restarts.
    Counter,
    /// Counters of what was at most so much.
    Histogram,
}

/// A page in the making.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<String, Family>,
}

#[derive(Debug)]
struct Family {
    kind: Kind,
    unit: String,
    /// By their labels: lines, without the family's name.
    samples: BTreeMap<String, Vec<String>>,
}

impl Page {
    /// Adds a value under its OpenTelemetry name and UCUM unit. The same series added
    /// again is replaced, and a name that is of another kind already is left out: it
    /// can't be said.
    pub fn add<'a>(
        &mut self,
        kind: Kind,
        name: &str,
        unit: &str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: f64,
    ) {
        let labels = labelled(labels);
        let end = if kind == Kind::Counter { "_total" } else { "" };
        let line = format!("{end}{labels} {}", number(value));
        self.put(kind, name, unit, labels, vec![line]);
    }

    /// Adds a histogram: how many there were up to each bound, and above the last one, not
    /// added up; and the sum of all values.
    pub fn add_histogram(
        &mut self,
        name: &str,
        unit: &str,
        labels: &[(&str, &str)],
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        let mut count = 0;
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        let mut lines: Vec<_> = (bounds.zip(counts))
            .map(|(bound, more)| {
                count += more;
                // Canonical, as the format wants it here.
                let bound = if bound.is_finite() { format!("{bound:?}") } else { number(bound) };
                let labels = labels.iter().copied().chain([("le", &*bound)]);
                format!("_bucket{} {count}", labelled(labels))
            })
            .collect();
        let labels = labelled(labels.iter().copied());
        lines.push(format!("_count{labels} {count}"));
        lines.push(format!("_sum{labels} {}", number(sum)));
        self.put(Kind::Histogram, name, unit, labels, lines);
    }

    fn put(&mut self, kind: Kind, name: &str, unit: &str, labels: String, lines: Vec<String>) {
        let unit = unit_of(unit, kind);
        let mut family = sanitized(name);
        // A counter's samples alone have it.
        if let Some(bare) = family.strip_suffix("_total") {
            family = bare.into();
        }
        if !unit.is_empty() && !family.ends_with(&format!("_{unit}")) {
            family = format!("{family}_{unit}");
        }
        let made = || Family { kind, unit, samples: BTreeMap::new() };
        let family = self.families.entry(family).or_insert_with(made);
        if family.kind == kind {
            family.samples.insert(labels, lines);
        }
    }

    /// The text.
    pub fn text(&self, info: &[(&str, &str)]) -> String {
        let mut text = String::from("# TYPE target info\n# HELP target The node.\n");
        _ = writeln!(text, "target_info{} 1", labelled(info.iter().copied()));
        for (name, family) in &self.families {
            let kind = match family.kind {
                Kind::Gauge => "gauge",
                Kind::Counter => "counter",
                Kind::Histogram => "histogram",
            };
            _ = writeln!(text, "# TYPE {name} {kind}");
            if !family.unit.is_empty() {
                _ = writeln!(text, "# UNIT {name} {}", family.unit);
            }
            for line in family.samples.values().flatten() {
                _ = writeln!(text, "{name}{line}");
            }
        }
        text + "# EOF\n"
    }
}

fn labelled<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let labels = labels.into_iter();
    let labels: BTreeMap<String, &str> = labels.map(|(key, it)| (sanitized(key), it)).collect();
    if labels.is_empty() {
        return String::new();
    }
    let each = labels.iter().map(|(key, it)| format!("{key}=\"{}\"", escaped(it)));
    format!("{{{}}}", each.collect::<Vec<_>>().join(","))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Letters, digits and underscores, no digit first and none of the underscores twice.
fn sanitized(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for it in name.chars() {
        match it {
            it if it.is_ascii_digit() && out.is_empty() => out.extend(['_', it]),
            it if it.is_ascii_alphanumeric() => out.push(it),
            _ if out.ends_with('_') => {}
            _ => out.push('_'),
        }
    }
    out
}

/// A UCUM unit in OpenMetrics' words; empty where there is none to say.
fn unit_of(ucum: &str, kind: Kind) -> String {
    if let Some((of, per)) = ucum.split_once('/') {
        let per = match per {
            "s" => "second",
            "min" => "minute",
            "h" => "hour",
            _ => return String::new(),
        };
        let of = unit_of(of, Kind::Counter);
        return if of.is_empty() { format!("per_{per}") } else { format!("{of}_per_{per}") };
    }
    match ucum {
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "min" => "minutes",
        "h" => "hours",
        "d" => "days",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "bit" => "bits",
        "Cel" => "celsius",
        "%" => "percent",
        "1" if kind == Kind::Gauge => "ratio",
        "V" => "volts",
        "mV" => "millivolts",
        "A" => "amperes",
        "W" => "watts",
        "VA" => "voltamperes",
        "J" => "joules",
        "W.h" | "Wh" => "watthours",
        "kW.h" | "kWh" => "kilowatthours",
        "Hz" => "hertz",
        "MHz" => "megahertz",
        "g" => "grams",
        "m" => "meters",
        "Pa" => "pascals",
        _ => "",
    }
    .into()
}

fn number(value: f64) -> String {
    match value {
        it if it.is_nan() => "NaN".into(),
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        it => it.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn names_have_their_units_and_counters_their_total() {
        let mut page = Page::default();
        let mut add = |kind, name: &str, unit: &str, labels: &[(&str, &str)], value| {
            page.add(kind, name, unit, labels.iter().copied(), value);
        };
        add(Kind::Counter, "system.cpu.time", "s", &[("cpu.mode", "user")], 1.5);
        add(Kind::Counter, "system.cpu.time", "s", &[("cpu.mode", "a\"b\\c\n")], 2.0);
        add(Kind::Gauge, "hw.temperature", "Cel", &[], f64::NAN);
        add(Kind::Gauge, "system.memory.utilization", "1", &[], 0.5);
        add(Kind::Counter, "system.network.packets", "{packet}", &[], 3.0);
        add(Kind::Gauge, "hw.fan.speed", "{revolution}/min", &[], 7.0);
        // The same again, and the same name as another kind.
        add(Kind::Gauge, "system.memory.utilization", "1", &[], 0.25);
        add(Kind::Gauge, "system.cpu.time", "s", &[], 9.0);
        expect![[r#"
            # TYPE target info
            # HELP target The node.
            target_info{node="n1"} 1
            # TYPE hw_fan_speed_per_minute gauge
            # UNIT hw_fan_speed_per_minute per_minute
            hw_fan_speed_per_minute 7
            # TYPE hw_temperature_celsius gauge
            # UNIT hw_temperature_celsius celsius
            hw_temperature_celsius NaN
            # TYPE system_cpu_time_seconds counter
            # UNIT system_cpu_time_seconds seconds
            system_cpu_time_seconds_total{cpu_mode="a\"b\\c\n"} 2
            system_cpu_time_seconds_total{cpu_mode="user"} 1.5
            # TYPE system_memory_utilization_ratio gauge
            # UNIT system_memory_utilization_ratio ratio
            system_memory_utilization_ratio 0.25
            # TYPE system_network_packets counter
            system_network_packets_total 3
            # EOF
        "#]]
        .assert_eq(&page.text(&[("node", "n1")]));
    }

    #[test]
    fn a_histogram_adds_its_buckets_up_in_the_order_of_their_bounds() {
        let mut page = Page::default();
        let bounds = [0.0005, 1.0, 10.0];
        page.add_histogram("mesh.duration", "s", &[("route", "shop")], &bounds, &[3, 0, 2, 1], 9.5);
        expect![[r#"
            # TYPE target info
            # HELP target The node.
            target_info 1
            # TYPE mesh_duration_seconds histogram
            # UNIT mesh_duration_seconds seconds
            mesh_duration_seconds_bucket{le="0.0005",route="shop"} 3
            mesh_duration_seconds_bucket{le="1.0",route="shop"} 3
            mesh_duration_seconds_bucket{le="10.0",route="shop"} 5
            mesh_duration_seconds_bucket{le="+Inf",route="shop"} 6
            mesh_duration_seconds_count{route="shop"} 6
            mesh_duration_seconds_sum{route="shop"} 9.5
            # EOF
        "#]]
        .assert_eq(&page.text(&[]));
    }
}
