//! From OTLP's log records and the journal's entries to lines.

use std::collections::BTreeMap;

use purlin_proto::{
    otlp::{AnyValue, ExportLogsRequest, KeyValue, LogRecord, any_value::Value},
    v1::{Line, record::Body},
};

use super::Handed;

/// Bytes of a line's text; longer ones are cut.
const MAX_TEXT: usize = 16 << 10;
/// Attributes of a line or a series, and bytes of each key and value.
const MAX_ATTRIBUTES: usize = 16;
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 256;
/// Values in values that are written out.
const MAX_DEPTH: usize = 4;
/// What claims to be older than this, or not yet, is of now.
const MAX_AGE_MS: u64 = 86_400_000;

/// Reads a request of a source.
pub fn read(request: ExportLogsRequest, source: &str, now_ms: u64) -> Handed {
    let mut handed = Handed::default();
    for of in request.resource_logs {
        let resource = of.resource.unwrap_or_default().attributes;
        let name = |key: &str| {
            resource.iter().find(|it| it.key == key).map(|it| text(it.value.as_ref(), MAX_VALUE))
        };
        let service = name("service.name").unwrap_or_else(|| source.to_owned());
        for record in of.scope_logs.into_iter().flat_map(|it| it.log_records) {
            let at = [record.time_unix_nano, record.observed_time_unix_nano];
            let at = at.into_iter().find(|nanos| *nanos > 0).unwrap_or(0);
            let line = line(record, &service, source);
            if line.text.is_empty() && line.attributes.len() < 2 {
                handed.reject(1, "a log record says nothing");
                continue;
            }
            handed.records.push((time(at, now_ms), Body::Line(line)));
        }
    }
    handed
}

fn line(record: LogRecord, service: &str, source: &str) -> Line {
    let mut all = attributes(record.attributes.iter());
    for (key, id) in [("trace_id", &record.trace_id), ("span_id", &record.span_id)] {
        if !id.is_empty() && id.len() <= 16 {
            all.insert(key.into(), hex::encode(id));
        }
    }
    if !record.event_name.is_empty() {
        all.insert("event.name".into(), cut(&record.event_name, MAX_VALUE));
    }
    // Who it was by the kernel's word, whatever it calls itself.
    all.insert("purlin.source".into(), source.to_owned());
    let severity = match &record.severity_text[..] {
        "" => severity(record.severity_number).to_owned(),
        text => cut(text, 32).to_lowercase(),
    };
    Line {
        source: service.to_owned(),
        severity,
        text: text(record.body.as_ref(), MAX_TEXT),
        attributes: all,
    }
}

/// OpenTelemetry's severity numbers, four of each.
fn severity(number: i32) -> &'static str {
    match number {
        1..=4 => "trace",
        5..=8 => "debug",
        9..=12 => "info",
        13..=16 => "warn",
        17..=20 => "error",
        21..=24 => "fatal",
        _ => "",
    }
}

/// An entry of the journal.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// What it says.
    pub line: Line,
}

/// What was read of the journal.
pub fn of_journal(entries: Vec<Entry>) -> Handed {
    let records = entries.into_iter().map(|it| {
        let text = cut(&it.line.text, MAX_TEXT);
        (it.unix_ms, Body::Line(Line { text, ..it.line }))
    });
    Handed { records: records.collect(), ..Handed::default() }
}

/// Milliseconds since 1970 of a time in nanoseconds: now, where it can't be.
pub fn time(nanos: u64, now_ms: u64) -> u64 {
    let ms = nanos / 1_000_000;
    if (now_ms.saturating_sub(MAX_AGE_MS)..=now_ms).contains(&ms) { ms } else { now_ms }
}

/// As many attributes as are kept, the first of each key.
pub fn attributes<'a>(all: impl Iterator<Item = &'a KeyValue>) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::new();
    for it in all.filter(|it| !it.key.is_empty()) {
        if kept.len() < MAX_ATTRIBUTES {
            let value = || text(it.value.as_ref(), MAX_VALUE);
            kept.entry(cut(&it.key, MAX_KEY)).or_insert_with(value);
        }
    }
    kept
}

/// A value in words, at most so long.
fn text(value: Option<&AnyValue>, most: usize) -> String {
    let mut out = String::new();
    write(value, &mut out, most, MAX_DEPTH);
    cut(&out, most)
}

fn write(value: Option<&AnyValue>, out: &mut String, most: usize, depth: usize) {
    if out.len() > most || depth == 0 {
        return;
    }
    match value.and_then(|it| it.value.as_ref()) {
        None => {}
        Some(Value::StringValue(it)) => out.push_str(it),
        Some(Value::BoolValue(it)) => out.push_str(&it.to_string()),
        Some(Value::IntValue(it)) => out.push_str(&it.to_string()),
        Some(Value::DoubleValue(it)) => out.push_str(&it.to_string()),
        Some(Value::BytesValue(it)) => out.push_str(&hex::encode(&it[..it.len().min(most)])),
        Some(Value::ArrayValue(all)) => {
            for (n, it) in all.values.iter().enumerate() {
                out.push_str(if n == 0 { "[" } else { ", " });
                write(Some(it), out, most, depth - 1);
            }
            out.push(']');
        }
        Some(Value::KvlistValue(all)) => {
            for (n, it) in all.values.iter().enumerate() {
                out.push_str(if n == 0 { "{" } else { ", " });
                out.push_str(&it.key);
                out.push('=');
                write(it.value.as_ref(), out, most, depth - 1);
            }
            out.push('}');
        }
    }
}

/// The beginning of a text, at a character's border.
fn cut(text: &str, most: usize) -> String {
    let end = text.floor_char_boundary(most.min(text.len()));
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use purlin_proto::otlp::KeyValueList;

    use super::*;

    fn said(text: &str) -> Option<AnyValue> {
        Some(AnyValue { value: Some(Value::StringValue(text.into())) })
    }

    #[test]
    fn a_record_is_bounded_in_every_way() {
        let attributes = (0..40)
            .map(|n| KeyValue { key: format!("key{n}"), value: said(&"v".repeat(1000)) })
            .collect();
        let body = said(&"ä".repeat(MAX_TEXT));
        let record = LogRecord { body, attributes, severity_number: 17, ..LogRecord::default() };
        let line = line(record, "app", "box");
        assert!(line.text.len() <= MAX_TEXT && line.text.chars().all(|c| c == 'ä'));
        assert_eq!(line.attributes.len(), MAX_ATTRIBUTES + 1);
        assert!(line.attributes.values().all(|it| it.len() <= MAX_VALUE));
        assert_eq!((&line.severity[..], &line.attributes["purlin.source"][..]), ("error", "box"));
    }

    #[test]
    fn values_in_values_end() {
        let mut value = AnyValue::default();
        for _ in 0..1000 {
            let inner = KeyValue { key: "k".into(), value: Some(value) };
            let list = KeyValueList { values: vec![inner] };
            value = AnyValue { value: Some(Value::KvlistValue(list)) };
        }
        assert_eq!(text(Some(&value), 100), "{k={k={k={k=}}}}");
        // Dropping it is recursive: not more deeply than it came.
    }

    #[test]
    fn a_time_that_cannot_be_is_now() {
        let now = 1_767_323_045_000;
        assert_eq!(time((now - 5) * 1_000_000, now), now - 5);
        assert_eq!(time(0, now), now);
        assert_eq!(time((now + 60_000) * 1_000_000, now), now);
    }
}
