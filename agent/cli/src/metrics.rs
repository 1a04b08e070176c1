//! `purlin metrics`: what was measured on this node in the last day, from the local
//! history; for the technician at the rack, without a cloud.

use std::time::Duration;

use purlin_proto::api::{MetricSeries, Metrics};
use serde::Serialize;

use crate::{
    args::{Global, MetricsCommand},
    client::Client,
    exit::{Ended, Exit, Failure},
    output::{Output, Page},
    plot::{EIGHTHS, bounds, buckets, figure, spark, values},
    table::{self, Column::*, Width},
    units,
};

/// Columns of a sparkline, and of a plot where nothing limits a line.
const SPARK: usize = 30;
const PLOT: usize = 72;
/// Lines of a plot.
const ROWS: usize = 10;
/// Left of a plot: its scale.
const SCALE: usize = 12;

/// `purlin metrics …`
pub async fn run(command: &MetricsCommand, global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    match command {
        MetricsCommand::List => {
            let metrics: Metrics = client.get("/v1/metrics").await?.document;
            output.show(&metrics, |width| list(&metrics, width))?;
        }
        MetricsCommand::Show { name, since } => {
            let now_ms = units::now_ms();
            let since_ms = now_ms.saturating_sub(since.as_millis() as u64);
            let path = format!("/v1/metrics?name={name}&since_unix_ms={since_ms}");
            let metrics: Metrics = client.get(&path).await?.document;
            if metrics.series.is_empty() {
                let what = format!(
                    "nothing of {name} was measured in that time: `purlin metrics list` has the names"
                );
                return Err(Failure::Failed(what));
            }
            let shown = Shown { since_unix_ms: since_ms, until_unix_ms: now_ms, metrics };
            output.show(&shown, |width| shown.page(width))?;
        }
    }
    Ok(Exit::Ok)
}

/// Series over a span of time.
#[derive(Debug, Serialize)]
struct Shown {
    since_unix_ms: u64,
    until_unix_ms: u64,
    #[serde(flatten)]
    metrics: Metrics,
}

fn list(metrics: &Metrics, width: Width) -> String {
    let header = [Left("NAME"), Left("UNIT"), Right("SERIES")];
    let mut rows: Vec<(&str, &str, u64)> = Vec::new();
    for it in &metrics.series {
        match rows.last_mut().filter(|row| row.0 == it.name) {
            Some(row) => row.2 += 1,
            None => rows.push((&it.name, &it.unit, 1)),
        }
    }
    if rows.is_empty() {
        return "nothing was measured yet: the first samples are here after a minute\n".into();
    }
    let row = |it: &(&str, &str, u64)| vec![it.0.into(), it.1.into(), it.2.to_string()];
    table::columns(&header, rows.iter().map(row), width)
}

impl Page for Shown {
    fn page(&self, width: Width) -> String {
        match &self.metrics.series[..] {
            [one] => self.plot(one, width),
            all => self.sparklines(all, width),
        }
    }
}

impl Shown {
    /// Means over equal spans of time; a counter's are its rates.
    fn buckets(&self, series: &MetricSeries, columns: usize) -> Vec<Option<f64>> {
        buckets(&values(series), self.since_unix_ms..self.until_unix_ms, columns)
    }

    fn sparklines(&self, series: &[MetricSeries], width: Width) -> String {
        let last = [Whole("OVER TIME"), Right("LEAST"), Right("MOST"), Right("LAST"), Left("UNIT")];
        let header: Vec<_> = std::iter::once(Left("SERIES")).chain(last).collect();
        let row = |it: &MetricSeries| {
            let values = self.buckets(it, SPARK);
            let (least, most) = bounds(&values);
            let spark = spark(&values, &EIGHTHS);
            let newest = values.iter().rev().flatten().next().copied();
            let figures = [Some(least), Some(most), newest];
            let mut row = vec![label(it), spark];
            row.extend(figures.map(|it| it.map_or("-".into(), figure)));
            row.push(unit(it));
            row
        };
        let since = Duration::from_millis(self.until_unix_ms - self.since_unix_ms);
        let text = format!("the last {}", units::duration(since.as_millis() as u64));
        table::sections([table::columns(&header, series.iter().map(row), width), text + "\n"])
    }

    fn plot(&self, series: &MetricSeries, width: Width) -> String {
        let columns = width.map_or(PLOT, |it| usize::from(it).saturating_sub(SCALE + 1).max(10));
        let values = self.buckets(series, columns);
        let (least, most) = bounds(&values);
        let mut text = format!("{}, {}\n\n", label(series), unit(series));
        for row in (0..ROWS).rev() {
            let scale = match row {
                row if row + 1 == ROWS => figure(most),
                0 => figure(least),
                _ => String::new(),
            };
            let line: String = values
                .iter()
                .map(|it| match it {
                    None => ' ',
                    Some(value) => {
                        EIGHTHS[eighths(*value, least, most).saturating_sub(8 * row).min(8)]
                    }
                })
                .collect();
            text += &format!("{scale:>SCALE$}│{}\n", line.trim_end());
        }
        let [from, to] = [self.since_unix_ms, self.until_unix_ms].map(units::time);
        let room = columns.saturating_sub(from.len());
        text + &format!("{:SCALE$}└{}\n", "", "─".repeat(columns))
            + &format!("{:SCALE$} {from}{to:>room$}\n", "")
    }
}

/// How high it stands, from one to all eighths of a plot.
fn eighths(value: f64, least: f64, most: f64) -> usize {
    let all = (8 * ROWS) as f64;
    let part = if most > least { (value - least) / (most - least) } else { 0.5 };
    1 + (part * (all - 1.0)).round() as usize
}

fn label(series: &MetricSeries) -> String {
    let of = series.attributes.iter().map(|(key, value)| format!("{key}={value}"));
    let of = of.collect::<Vec<_>>().join(",");
    if of.is_empty() { series.name.clone() } else { format!("{}{{{of}}}", series.name) }
}

fn unit(series: &MetricSeries) -> String {
    match series.counter {
        true => format!("{}/s", series.unit),
        false => series.unit.clone(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::sample;

    fn series(cpu: &str, counter: bool, value: impl Fn(u64) -> f64) -> MetricSeries {
        MetricSeries {
            name: "system.cpu.time".into(),
            unit: "s".into(),
            attributes: [("cpu".to_owned(), cpu.to_owned())].into(),
            counter,
            points: (0..60).map(|n| (sample::THEN + n * 60_000, value(n))).collect(),
        }
    }

    fn shown(series: Vec<MetricSeries>) -> Shown {
        Shown {
            since_unix_ms: sample::THEN,
            until_unix_ms: sample::THEN + 3_600_000,
            metrics: Metrics { series },
        }
    }

    #[test]
    fn one_series_is_a_plot() {
        expect![[r#"
            system.cpu.time{cpu=0}, s

                    29.0│                              ▃▅█                              ▃▅█
                        │                          ▂▅ ████                           ▂▅████
                        │                       ▂▅███ ████                       ▂ ▅███████
                        │                    ▂▅▇█████ ████                    ▂▅▇█ ████████
                        │                ▂▅▇ ████████ ████                 ▂▅▇████ ████████
                        │             ▂▄▇███ ████████ ████             ▂ ▄▇███████ ████████
                        │          ▂▄▇██████ ████████ ████          ▂▄▇█ █████████ ████████
                        │      ▁▄▇ █████████ ████████ ████       ▁▄▇████ █████████ ████████
                        │   ▁▄▇███ █████████ ████████ ████   ▁▄ ▇███████ █████████ ████████
                       0│▁▄▆██████ █████████ ████████ ████▁▄▆██ ████████ █████████ ████████
                        └───────────────────────────────────────────────────────────────────
                         2026-01-02T03:04:05Z                           2026-01-02T04:04:05Z
        "#]]
        .assert_eq(&sample::page(&shown(vec![series("0", false, |n| (n % 30) as f64)])));
    }

    #[test]
    fn several_are_sparklines_and_counters_are_rates() {
        let all = vec![
            series("0", true, |n| (n * n) as f64),
            series("1", true, |n| if n < 30 { n as f64 * 60.0 } else { (n - 30) as f64 * 60.0 }),
            series("2", false, |_| 7.0),
        ];
        expect![[r#"
            SERIES                  OVER TIME                        LEAST  MOST  LAST  UNIT
            system.cpu.time{cpu=0}  ▁▁▁▂▂▂▂▃▃▃▃▄▄▄▄▅▅▅▅▆▆▆▆▇▇▇▇███  0.0167  1.93  1.93  s/s
            system.cpu.time{cpu=1}  ▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅    1.00  1.00  1.00  s/s
            system.cpu.time{cpu=2}  ▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅    7.00  7.00  7.00  s

            the last 1 h 0 m
        "#]]
        .assert_eq(&sample::page(&shown(all)));
    }
}
