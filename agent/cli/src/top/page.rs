//! The screen of `purlin top`.

use std::{env, ops::Range};

use anstyle::{AnsiColor, Style};
use purlin_proto::api::{Alarm, LinkState, QueueClass, Status};
use serde::Serialize;

use super::rows::Row;
use crate::{
    link,
    output::Page,
    plot::{ASCII, EIGHTHS, buckets, figure, spark},
    table::{Width, paint, pair, plain},
    units,
};

/// Columns of a line's name, its past and its present.
const NAME: usize = 26;
const PAST: usize = 36;
const NOW: usize = 14;
/// Alarms that are shown: the rest is counted.
const ALARMS: usize = 3;

/// What there is to see.
#[derive(Debug, Serialize)]
pub struct Top {
    node: String,
    fleet: String,
    uptime_ms: u64,
    since_unix_ms: u64,
    until_unix_ms: u64,
    link: LinkState,
    queue: Vec<QueueClass>,
    alarms: Vec<Alarm>,
    rows: Vec<Row>,
    /// Why there is no history.
    no_history: Option<String>,
    #[serde(skip)]
    summary: [String; 2],
    #[serde(skip)]
    levels: [char; 9],
}

impl Top {
    /// Of what was asked for.
    pub fn new(status: Status, over: Range<u64>, rows: Vec<Row>, history: Option<String>) -> Self {
        let [wide, line] = [None, Some(80)].map(|width| link::summary(&status.link, width));
        Self {
            node: status.node,
            fleet: status.fleet,
            uptime_ms: status.uptime_ms,
            since_unix_ms: over.start,
            until_unix_ms: over.end,
            link: status.link.state,
            queue: status.queue.classes,
            alarms: status.alarms,
            rows,
            no_history: history,
            summary: [wide, line],
            levels: if speaks_utf8() { EIGHTHS } else { ASCII },
        }
    }

    fn head(&self, width: Width) -> String {
        let up = units::duration(self.uptime_ms);
        let node = format!(
            "{} in {}, {}, up {up}",
            self.node,
            self.fleet,
            units::time(self.until_unix_ms)
        );
        let link = &self.summary[usize::from(width.is_some())];
        [pair("node", &node, width), link.clone(), pair("queue", &self.waiting(), width)].concat()
    }

    fn waiting(&self) -> String {
        let pending: u64 = self.queue.iter().map(|it| it.pending).sum();
        let bytes: u64 = self.queue.iter().map(|it| it.bytes).sum();
        let soonest = self.queue.iter().filter_map(|it| it.first_drop_in_ms).min();
        let drops = soonest.map_or(String::new(), |ms| {
            format!(", first drop in {} without a link", units::duration(ms))
        });
        let records = units::count(pending, "record", "records");
        format!("{records} waiting, {} on disk{drops}", units::size(bytes))
    }

    fn lines(&self) -> String {
        let span = units::duration(self.until_unix_ms - self.since_unix_ms);
        let heading = format!("{:NAME$}{:<PAST$}  {:>NOW$}", "", format!("THE LAST {span}"), "NOW");
        let mut text = paint(Style::new().bold(), heading.trim_end()) + "\n";
        for row in &self.rows {
            let past = buckets(&row.points, self.since_unix_ms..self.until_unix_ms, PAST);
            let now = row.points.last().map_or("-".into(), |it| amount(it.1, row.unit));
            let name: String = plain(&row.name).chars().take(NAME - 2).collect();
            let past = spark(&past, &self.levels);
            text += format!("{name:NAME$}{past:PAST$}  {now:>NOW$}").trim_end();
            text += "\n";
        }
        match &self.no_history {
            Some(why) => text + &plain(why) + "\n",
            None if self.rows.is_empty() => text + "nothing was measured yet\n",
            None => text,
        }
    }

    fn raised(&self) -> String {
        if self.alarms.is_empty() {
            return "no alarm is raised\n".into();
        }
        let one = |alarm: &Alarm| {
            let color =
                if alarm.severity == "critical" { AnsiColor::Red } else { AnsiColor::Yellow };
            let line = plain(&format!("{}: {}", alarm.severity, alarm.text));
            paint(color.on_default(), &line.chars().take(79).collect::<String>()) + "\n"
        };
        let shown: String = self.alarms.iter().take(ALARMS).map(one).collect();
        match self.alarms.len().saturating_sub(ALARMS) {
            0 => shown,
            more => shown + &format!("and {more} more: purlin alarm list\n"),
        }
    }
}

impl Page for Top {
    fn page(&self, width: Width) -> String {
        [self.head(width), self.lines(), self.raised()].join("\n")
    }
}

/// A terminal that is told to speak something else gets plain characters.
fn speaks_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(env::var_os);
    let locale =
        locale.map(|it| it.to_string_lossy().to_ascii_lowercase()).find(|it| !it.is_empty());
    locale.is_none_or(|it| it.contains("utf-8") || it.contains("utf8"))
        && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn amount(value: f64, unit: &str) -> String {
    match unit {
        "By/s" => format!("{}/s", units::size(value.max(0.0) as u64)),
        "%" => format!("{value:.1} %"),
        "Cel" => format!("{value:.1} °C"),
        _ => figure(value),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::expect;
    use purlin_proto::api::MetricSeries;

    use super::{super::rows, *};
    use crate::sample::{THEN, fits_a_screen, page, status};

    fn series(
        name: &str,
        of: &[(&str, &str)],
        counter: bool,
        value: fn(u64) -> f64,
    ) -> MetricSeries {
        let attributes = of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let points = (0..180).map(|n| (THEN + n * 60_000, value(n))).collect();
        MetricSeries { name: name.into(), unit: String::new(), attributes, counter, points }
    }

    fn top(alarms: usize) -> Top {
        let cpu = |mode, value| series("system.cpu.time", &[("cpu.mode", mode)], true, value);
        let disk = |name, value| series("system.disk.io", &[("system.device", name)], true, value);
        let nic = |name: &str, way: &str, value: fn(u64) -> f64| {
            let of = [("network.interface.name", name), ("network.io.direction", way)];
            series("system.network.io", &of, true, value)
        };
        let memory = |name, of: &[(&str, &str)], value| series(name, of, false, value);
        let used = [("system.memory.state", "used")];
        let all: BTreeMap<&str, Vec<MetricSeries>> = [
            (
                "system.cpu.time",
                vec![cpu("user", |n| (n * n) as f64 / 10.0), cpu("idle", |n| 60.0 * n as f64)],
            ),
            (
                "system.memory",
                vec![
                    memory("system.memory.usage", &used, |n| 4e9 + 1e7 * n as f64),
                    memory("system.memory.limit", &[], |_| 16e9),
                ],
            ),
            (
                "system.disk.io",
                (["sda", "sdb", "sdc", "sdd"])
                    .into_iter()
                    .zip([
                        |n| 1e6 * n as f64,
                        |n| 2e9 * n as f64,
                        |n| 3e8 * n as f64,
                        |n| 4e7 * n as f64,
                    ])
                    .map(|(name, value): (_, fn(u64) -> f64)| disk(name, value))
                    .collect(),
            ),
            (
                "system.network.io",
                vec![
                    nic("eth0", "receive", |n| 6e6 * n as f64),
                    nic("eth0", "transmit", |n| 3e6 * n as f64),
                ],
            ),
            (
                "hw.temperature",
                vec![series("hw.temperature", &[("hw.id", "coretemp/Package id 0")], false, |n| {
                    40.0 + (n % 9) as f64
                })],
            ),
        ]
        .into();
        let alarm = Alarm {
            severity: "critical".into(),
            text: "hw.temperature of psu1 is 61 Cel".into(),
            ..Alarm::default()
        };
        let status = Status { alarms: vec![alarm; alarms], ..status() };
        let over = THEN..THEN + 180 * 60_000;
        Top { levels: ASCII, ..Top::new(status, over, rows::rows(&all), None) }
    }

    #[test]
    fn a_node_fits_a_serial_console() {
        let shown = page(&top(5));
        assert!(fits_a_screen(&shown), "{shown}");
        expect![[r#"
            node         9f86d081884c7d659a2feaa0c55ad015 in default, 2026-01-02T06:04:05Z,
                         up 3 m 12 s
            link         up since 2026-01-02T03:04:05Z  mqtt://127.0.0.1:18830
            queue        92 records waiting, 1.2 MiB on disk, first drop in 68 d 0 h without
                         a link

                                      THE LAST 3 h 0 m                                 NOW
            CPU busy                  __....,,,,----=====++++++*******####          37.3 %
            memory used               ___.....,,,,,-----=====+++++*****###          36.2 %
            disk sdb                  ====================================      31.8 MiB/s
            disk sdc                  ====================================       4.8 MiB/s
            disk sdd                  ====================================       651 KiB/s
            receive eth0              ====================================      97.7 KiB/s
            transmit eth0             ====================================      48.8 KiB/s
            coretemp/Package id 0     _*,==-+.#_*,==-+.#_*,==-+.#_*,==-+.#         48.0 °C

            critical: hw.temperature of psu1 is 61 Cel
            critical: hw.temperature of psu1 is 61 Cel
            critical: hw.temperature of psu1 is 61 Cel
            and 2 more: purlin alarm list
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn a_node_without_history_is_still_shown() {
        let top = Top { rows: Vec::new(), no_history: Some("no store".into()), ..top(0) };
        let shown = page(&top);
        assert!(shown.contains("no store") && shown.contains("no alarm is raised"), "{shown}");
    }
}
