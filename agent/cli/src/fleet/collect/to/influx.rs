//! InfluxDB's line protocol, precision nanoseconds.
//!
//! Source: InfluxDB's documentation, "Line protocol". A measurement is a metric's name,
//! with the field `gauge` or `counter`, as the OpenTelemetry collector's exporter has it.
//! What is no number is not there: the protocol has neither NaN nor infinity.

use std::fmt::Write;

use purlin_daemon::http::{Poster, Refused};
use purlin_proto::v1::{self, record::Body};

use super::Header;
use crate::fleet::collect::taken::{Taken, cause};

/// Records of one kind in one millisecond are parted by their number's last digits: a
/// point is known by its measurement, its tags and its time.
const APART: u64 = 1_000_000;

/// Posts a load.
pub async fn put(poster: &mut Poster, headers: &[Header], load: &[Taken]) -> Result<u64, Refused> {
    let mut body = String::new();
    let left_out = load.iter().map(|taken| add(&mut body, taken)).sum();
    if body.is_empty() {
        return Ok(left_out);
    }
    let path = poster.to().path.clone();
    poster.put(&path, headers, "text/plain; charset=utf-8", body.into()).await?;
    Ok(left_out)
}

/// Adds what was taken; how many values have no place in the protocol.
fn add(body: &mut String, taken: &Taken) -> u64 {
    let mut left_out = 0;
    let whose = format!(
        ",fleet={},node={},incarnation={:016x}",
        taken.whose.fleet, taken.whose.node, taken.whose.incarnation
    );
    for (seq, record) in &taken.records {
        let at = record.unix_ms.saturating_mul(APART);
        match &record.body {
            Some(Body::Sample(sample)) => {
                let Some(dictionary) = taken.dictionary(sample.dictionary) else { continue };
                left_out += samples(body, &whose, dictionary, sample, at);
            }
            Some(other) => {
                let (kind, name, text) = told(other);
                let class = taken.class.name();
                _ = write!(body, "purlin_{kind},class={class}{whose}");
                if !name.is_empty() {
                    _ = write!(body, ",name={}", escaped(name));
                }
                _ = writeln!(body, " seq={seq}i,text={} {}", quoted(&text), at + seq % APART);
            }
            None => {}
        }
    }
    let at = taken.came_unix_ms.saturating_mul(APART);
    let gaps = taken.gaps.iter().map(|it| (cause(it), it.first_seq, it.last_seq, it.lost));
    let holes = taken.holes.iter().map(|(a, b)| ("unknown".to_owned(), *a, *b, b - a + 1));
    for (cause, first, last, lost) in gaps.chain(holes) {
        let (class, at) = (taken.class.name(), at + first % APART);
        _ = writeln!(
            body,
            "purlin_gap,class={class},cause={cause}{whose} first_seq={first}i,last_seq={last}i,\
             lost={lost}i {at}"
        );
    }
    left_out
}

fn samples(
    body: &mut String,
    whose: &str,
    dictionary: &v1::Dictionary,
    sample: &v1::Sample,
    at: u64,
) -> u64 {
    let gauges = dictionary.gauges.iter().map(|it| (it, "gauge"));
    let series = gauges.chain(dictionary.counters.iter().map(|it| (it, "counter")));
    let mut left_out = 0;
    for ((series, field), value) in series.zip(sample.gauges.iter().chain(&sample.counters)) {
        if !value.is_finite() {
            left_out += 1;
            continue;
        }
        body.push_str(&escaped(&series.name));
        body.push_str(whose);
        for (key, value) in series.attributes.iter().filter(|(_, value)| !value.is_empty()) {
            _ = write!(body, ",{}={}", escaped(key), escaped(value));
        }
        _ = writeln!(body, " {field}={value} {at}");
    }
    left_out
}

/// What a record is, by what name, and what it says.
fn told(body: &Body) -> (&'static str, &str, String) {
    match body {
        Body::Event(it) => ("event", &it.name, it.text.clone()),
        Body::Alarm(it) => (
            "alarm",
            &it.id,
            format!("{}: {}", if it.raised { "raised" } else { "cleared" }, it.text),
        ),
        Body::Line(it) => ("line", &it.source, it.text.clone()),
        Body::ClockSet(it) => ("clock_set", "", format!("{} ms", it.step_ms)),
        Body::Sample(_) => ("sample", "", String::new()),
    }
}

/// A measurement, or a tag's key or value: no newline may stand in it, and no backslash
/// at its end.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            ',' | '=' | ' ' => out.extend(['\\', it]),
            '\\' => out.push('/'),
            it if it.is_control() => out.push('_'),
            it => out.push(it),
        }
    }
    out
}

/// A field's text.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use purlin_core::identity::Class;
    use purlin_daemon::otlp::Whose;

    use super::*;

    #[test]
    fn records_are_lines() {
        let series = |name: &str, disk: &str| v1::Series {
            name: name.into(),
            unit: "1".into(),
            attributes: [("disk".to_owned(), disk.to_owned())].into(),
        };
        let dictionary = v1::Dictionary {
            source: "disk".into(),
            gauges: vec![series("used", "a b,c=d\\"), series("nothing", "x")],
            counters: vec![series("io", "")],
        };
        let sample =
            v1::Sample { dictionary: 7, gauges: vec![0.5, f64::NAN, 3.0], ..v1::Sample::default() };
        let event = v1::Event {
            name: "agent.started".into(),
            text: "say \"hi\"".into(),
            ..v1::Event::default()
        };
        let record = |body| v1::Record { unix_ms: 1000, body: Some(body), ..v1::Record::default() };
        let taken = Taken {
            whose: Whose {
                fleet: "f".into(),
                node: "n".into(),
                incarnation: 1,
                ..Whose::default()
            },
            class: Class::Metric,
            historical: false,
            records: vec![(4, record(Body::Sample(sample))), (5, record(Body::Event(event)))],
            dictionaries: vec![(7, dictionary.into())],
            gaps: vec![v1::Gap { first_seq: 1, last_seq: 3, lost: 2, cause: 1 }],
            holes: vec![(8, 9)],
            came_unix_ms: 2000,
        };
        let mut body = String::new();
        assert_eq!(add(&mut body, &taken), 1);
        expect![[r#"
            used,fleet=f,node=n,incarnation=0000000000000001,disk=a\ b\,c\=d/ gauge=0.5 1000000000
            io,fleet=f,node=n,incarnation=0000000000000001 counter=3 1000000000
            purlin_event,class=metric,fleet=f,node=n,incarnation=0000000000000001,name=agent.started seq=5i,text="say \"hi\"" 1000000005
            purlin_gap,class=metric,cause=full,fleet=f,node=n,incarnation=0000000000000001 first_seq=1i,last_seq=3i,lost=2i 2000000001
            purlin_gap,class=metric,cause=unknown,fleet=f,node=n,incarnation=0000000000000001 first_seq=8i,last_seq=9i,lost=2i 2000000008
        "#]]
        .assert_eq(&body);
    }
}
