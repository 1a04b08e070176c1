//! Everything but samples as OTLP logs.

use std::collections::HashMap;

use prost::Message;
use purlin_proto::{
    otlp::{ExportLogsRequest, LogRecord, ResourceLogs, ScopeLogs},
    v1::{self, record::Body},
};

use super::{Whose, nanos, number, scope, string, text};

/// OpenTelemetry's severity numbers.
const INFO: i32 = 9;
const WARN: i32 = 13;
const ERROR: i32 = 17;

/// A request in the making.
#[derive(Debug, Default)]
pub struct Logs {
    request: ExportLogsRequest,
    resources: HashMap<Whose, usize>,
    records: usize,
}

impl Logs {
    /// Adds a record with its number; a sample is none of ours.
    pub fn add(&mut self, whose: &Whose, of: Option<(&str, u64)>, record: &v1::Record) {
        let mut log = LogRecord {
            time_unix_nano: nanos(record.unix_ms),
            observed_time_unix_nano: nanos(record.unix_ms),
            severity_number: INFO,
            ..LogRecord::default()
        };
        if let Some((class, seq)) = of {
            log.attributes.extend([text("purlin.class", class), number("purlin.seq", seq)]);
        }
        if record.clock_untrusted {
            log.attributes.push(text("purlin.clock", "untrusted"));
        }
        match &record.body {
            Some(Body::Event(event)) => {
                log.event_name = event.name.clone();
                log.body = Some(string(&event.text));
                log.attributes.extend(event.attributes.iter().map(|(k, v)| text(k, v)));
            }
            Some(Body::Alarm(alarm)) => {
                log.event_name = if alarm.raised { "alarm.raised" } else { "alarm.cleared" }.into();
                (log.severity_number, log.severity_text) =
                    (severity(&alarm.severity), alarm.severity.clone());
                log.body = Some(string(&alarm.text));
                log.attributes.push(text("purlin.alarm.id", &alarm.id));
                log.attributes.extend(alarm.attributes.iter().map(|(k, v)| text(k, v)));
            }
            Some(Body::Line(line)) => {
                (log.severity_number, log.severity_text) =
                    (severity(&line.severity), line.severity.clone());
                log.body = Some(string(&line.text));
                log.attributes.push(text("purlin.source", &line.source));
                log.attributes.extend(line.attributes.iter().map(|(k, v)| text(k, v)));
            }
            Some(Body::ClockSet(set)) => {
                log.event_name = "clock.set".into();
                log.body = Some(string(&format!("the clock was moved by {} ms", set.step_ms)));
            }
            Some(Body::Sample(_)) | None => return,
        }
        self.push(whose, log);
    }

    /// Adds numbers that are missing, and why.
    pub fn add_hole(
        &mut self,
        whose: &Whose,
        class: &str,
        (first, last): (u64, u64),
        lost: u64,
        cause: &str,
        unix_ms: u64,
    ) {
        let log = LogRecord {
            time_unix_nano: nanos(unix_ms),
            observed_time_unix_nano: nanos(unix_ms),
            severity_number: WARN,
            event_name: "purlin.gap".into(),
            body: Some(string(&format!("{lost} records of class {class} are missing: {cause}"))),
            attributes: vec![
                text("purlin.class", class),
                number("purlin.gap.first_seq", first),
                number("purlin.gap.last_seq", last),
                number("purlin.gap.lost", lost),
                text("purlin.gap.cause", cause),
            ],
            ..LogRecord::default()
        };
        self.push(whose, log);
    }

    /// Log records so far.
    pub fn records(&self) -> usize {
        self.records
    }

    /// The request's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.request.encode_to_vec()
    }

    fn push(&mut self, whose: &Whose, log: LogRecord) {
        let list = &mut self.request.resource_logs;
        let at = *self.resources.entry(whose.clone()).or_insert_with(|| {
            let scope_logs = vec![ScopeLogs { scope: Some(scope("log")), log_records: Vec::new() }];
            list.push(ResourceLogs { resource: Some(whose.resource()), scope_logs });
            list.len() - 1
        });
        list[at].scope_logs[0].log_records.push(log);
        self.records += 1;
    }
}

/// Of the names that syslog, alarms and OpenTelemetry use.
fn severity(name: &str) -> i32 {
    match name.to_ascii_lowercase().as_str() {
        "trace" => 1,
        "debug" => 5,
        "notice" => 10,
        "warning" | "warn" => WARN,
        "error" | "err" => ERROR,
        "critical" | "crit" => 18,
        "alert" => 19,
        "fatal" | "emergency" | "emerg" => 21,
        _ => INFO,
    }
}
