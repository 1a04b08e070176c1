//! `purlin queue peek`: what the records say that wait.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use prost::Message;
use purlin_core::identity::Class;
use purlin_daemon::wire;
use purlin_proto::v1::{self, Cause, record::Body};
use serde::Serialize;

use super::source::Source;
use crate::{
    args::{Global, PeekArgs},
    exit::{Ended, Exit, Failure},
    output::{Output, Page},
    table::{self, Column::*, Width},
    units,
};

/// Values of a sample that are shown in a line.
const SHOWN: usize = 3;

/// Records that wait.
#[derive(Debug, Default, Serialize)]
pub struct Peek {
    /// The records, by class and number.
    pub records: Vec<Peeked>,
    /// What is lost among them.
    pub gaps: Vec<PeekedGap>,
}

/// One record.
#[derive(Debug, Serialize)]
pub struct Peeked {
    /// Its class.
    pub class: &'static str,
    /// Its number.
    pub seq: u64,
    /// When it was made, by the node's clock.
    pub unix_ms: u64,
    /// That clock had not been set.
    pub clock_untrusted: bool,
    /// `sample`, `event`, `alarm`, `line` or `clock_set`.
    pub kind: &'static str,
    /// An event's name, an alarm's id, who measured or wrote.
    pub name: String,
    /// What it says.
    pub text: String,
    /// What it says to a program.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// A sample's values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<Point>,
}

/// One value of a sample.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// OpenTelemetry name.
    pub name: String,
    /// UCUM unit.
    pub unit: String,
    /// What it is of.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// Numbers that are missing.
#[derive(Debug, Serialize)]
pub struct PeekedGap {
    /// The class.
    pub class: &'static str,
    /// The first.
    pub first_seq: u64,
    /// The last.
    pub last_seq: u64,
    /// How many of them.
    pub lost: u64,
    /// Why.
    pub cause: &'static str,
}

/// Shows what waits.
pub async fn run(args: &PeekArgs, global: &Global, output: &Output) -> Ended {
    let (mut source, _) = Source::open(global).await?;
    let figures = if args.newest { Some(source.figures().await?) } else { None };
    let mut peek = Peek::default();
    let mut dictionaries = HashMap::new();
    for class in Class::OWN.into_iter().filter(|it| args.class.is_none_or(|only| only == *it)) {
        let durable = figures.as_ref().and_then(|queue| {
            queue.classes.iter().find(|it| it.class == class.name()).map(|it| it.durable_seq)
        });
        let newest = durable.map(|last| (last + 1).saturating_sub(args.count as u64));
        let mut from = args.from.or(newest).unwrap_or(0);
        let mut left = args.count;
        while left > 0
            && let Some(batch) = source.batch(class, from).await?
        {
            from = batch.last_seq + 1;
            let records = wire::records(&batch)
                .map_err(|error| Failure::Failed(format!("the {} log: {error}", class.name())))?;
            for (seq, record) in records.into_iter().take(left) {
                if let Some(Body::Sample(sample)) = &record.body {
                    name(&source, sample.dictionary, &mut dictionaries).await?;
                }
                peek.records.push(tell(class, seq, record, |hash| {
                    dictionaries.get(&hash).and_then(Option::as_ref)
                }));
                left -= 1;
            }
            peek.gaps.extend(batch.gaps.iter().map(|gap| told(class, gap)));
        }
    }
    peek.gaps.dedup_by_key(|it| (it.class, it.first_seq, it.cause));
    let all = args.values;
    output.show(&peek, |width| peek.lines(all, width))?;
    Ok(Exit::Ok)
}

type Dictionaries = HashMap<u64, Option<v1::Dictionary>>;

/// Fetches a dictionary that is not known yet.
async fn name(source: &Source, hash: u64, known: &mut Dictionaries) -> Result<(), Failure> {
    if let Entry::Vacant(place) = known.entry(hash) {
        let bytes = source.dictionary(hash).await?;
        place.insert(bytes.and_then(|it| v1::Dictionary::decode(it).ok()));
    }
    Ok(())
}

/// A record in words, and a sample by the names of its dictionary.
pub fn tell<'a>(
    class: Class,
    seq: u64,
    record: v1::Record,
    known: impl FnOnce(u64) -> Option<&'a v1::Dictionary>,
) -> Peeked {
    let mut it = Peeked {
        class: class.name(),
        seq,
        unix_ms: record.unix_ms,
        clock_untrusted: record.clock_untrusted,
        kind: "unknown",
        name: String::new(),
        text: String::new(),
        attributes: BTreeMap::new(),
        points: Vec::new(),
    };
    match record.body {
        Some(Body::Sample(sample)) => {
            it.kind = "sample";
            let dictionary = known(sample.dictionary);
            it.name = dictionary.map_or_else(
                || format!("dictionary {:016x} is lost", sample.dictionary),
                |it| it.source.clone(),
            );
            it.points = points(&sample, dictionary);
        }
        Some(Body::Event(event)) => {
            (it.kind, it.name, it.text, it.attributes) =
                ("event", event.name, event.text, event.attributes);
        }
        Some(Body::Alarm(alarm)) => {
            let state = if alarm.raised { "raised: " } else { "cleared: " };
            (it.kind, it.name, it.text, it.attributes) =
                ("alarm", alarm.id, state.to_owned() + &alarm.text, alarm.attributes);
        }
        Some(Body::Line(line)) => {
            (it.kind, it.name, it.text, it.attributes) =
                ("line", line.source, line.text, line.attributes);
        }
        Some(Body::ClockSet(set)) => {
            (it.kind, it.text) =
                ("clock_set", format!("the clock was moved by {} ms", set.step_ms));
        }
        None => {}
    }
    it
}

fn points(sample: &v1::Sample, dictionary: Option<&v1::Dictionary>) -> Vec<Point> {
    let series = dictionary.into_iter().flat_map(|it| it.gauges.iter().chain(&it.counters));
    let values = sample.gauges.iter().chain(&sample.counters);
    let point = |(series, value): (&v1::Series, &f64)| Point {
        name: series.name.clone(),
        unit: series.unit.clone(),
        attributes: series.attributes.clone(),
        value: *value,
    };
    series.zip(values).map(point).collect()
}

fn told(class: Class, gap: &v1::Gap) -> PeekedGap {
    let cause = match gap.cause() {
        Cause::Unspecified => "unknown",
        Cause::Full => "dropped when full",
        Cause::Expired => "too old",
        Cause::Downsampled => "thinned",
        Cause::Damaged => "damaged on disk",
        Cause::NotWritten => "never on disk",
        Cause::Refused => "refused by the broker",
        Cause::Purged => "purged",
    };
    let (first_seq, last_seq, lost) = (gap.first_seq, gap.last_seq, gap.lost);
    PeekedGap { class: class.name(), first_seq, last_seq, lost, cause }
}

impl Peek {
    /// A line for each record; with `all`, one for each value too.
    fn lines(&self, all: bool, width: Width) -> String {
        if self.records.is_empty() && self.gaps.is_empty() {
            return "nothing waits\n".into();
        }
        let header = [Left("CLASS"), Right("NUMBER"), Whole("WHEN"), Left("WHAT")];
        let rows = self.records.iter().flat_map(|it| {
            let when = units::time(it.unix_ms) + if it.clock_untrusted { " ?" } else { "" };
            let first = vec![it.class.to_owned(), it.seq.to_string(), when, it.say(all)];
            let values = it.points.iter().filter(|_| all);
            let value = |it: &Point| vec![String::new(), String::new(), String::new(), it.say()];
            std::iter::once(first).chain(values.map(value)).collect::<Vec<_>>()
        });
        let lost = [Left("LOST"), Right("FIRST"), Right("LAST"), Right("RECORDS"), Left("WHY")];
        let gaps = self.gaps.iter().map(|it| {
            let [first, last, lost] = [it.first_seq, it.last_seq, it.lost].map(|n| n.to_string());
            vec![it.class.into(), first, last, lost, it.cause.into()]
        });
        table::sections([table::columns(&header, rows, width), table::columns(&lost, gaps, width)])
    }
}

impl Page for Peek {
    fn page(&self, width: Width) -> String {
        self.lines(false, width)
    }
}

impl Peeked {
    fn say(&self, all: bool) -> String {
        if self.kind != "sample" {
            let parts = [&self.name, &self.text].into_iter().filter(|it| !it.is_empty());
            return parts.cloned().collect::<Vec<_>>().join(": ");
        }
        let values = units::count(self.points.len() as u64, "value", "values");
        let shown = self.points.iter().take(if all { 0 } else { SHOWN }).map(Point::say);
        let more = if !all && self.points.len() > SHOWN { ", …" } else { "" };
        let shown = shown.collect::<Vec<_>>().join(", ");
        let colon = if shown.is_empty() { "" } else { ": " };
        format!("{}, {values}{colon}{shown}{more}", self.name)
    }
}

impl Point {
    fn say(&self) -> String {
        let of = self.attributes.iter().map(|(key, value)| format!("{key}={value}"));
        let of = of.collect::<Vec<_>>().join(",");
        let of = if of.is_empty() { of } else { format!("{{{of}}}") };
        format!("{}{of} {} {}", self.name, self.value, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::sample;

    #[test]
    fn records_are_told_in_words_and_a_sample_by_its_names() {
        let series = |name: &str, cpu: &str| v1::Series {
            name: name.into(),
            unit: "s".into(),
            attributes: [("cpu".to_owned(), cpu.to_owned())].into(),
        };
        let counters = (0..5).map(|n| series("system.cpu.time", &n.to_string())).collect();
        let dictionary = v1::Dictionary { source: "cpu".into(), gauges: Vec::new(), counters };
        let values = v1::Sample {
            dictionary: 7,
            gauges: vec![1.5, 2.0, 3.25, 4.0, 5.0],
            ..v1::Sample::default()
        };
        let event = v1::Event {
            name: "agent.started".into(),
            text: "0.1.0".into(),
            attributes: BTreeMap::new(),
        };
        let record = |body, clock_untrusted| v1::Record {
            unix_ms: sample::THEN,
            clock_untrusted,
            body: Some(body),
            ..v1::Record::default()
        };
        let known = |hash| (hash == 7).then_some(&dictionary);
        let gap = v1::Gap { first_seq: 3, last_seq: 9, lost: 7, cause: Cause::Full.into() };
        let peek = Peek {
            records: vec![
                tell(Class::Event, 1, record(Body::Event(event), true), known),
                tell(Class::Metric, 2, record(Body::Sample(values), false), known),
            ],
            gaps: vec![told(Class::Metric, &gap)],
        };
        expect![[r#"
            CLASS   NUMBER  WHEN                    WHAT
            event        1  2026-01-02T03:04:05Z ?  agent.started: 0.1.0
            metric       2  2026-01-02T03:04:05Z    cpu, 5 values: system.cpu.time{cpu=0}
                                                    1.5 s, system.cpu.time{cpu=1} 2 s,
                                                    system.cpu.time{cpu=2} 3.25 s, …

            LOST    FIRST  LAST  RECORDS  WHY
            metric      3     9        7  dropped when full
        "#]]
        .assert_eq(&sample::page(&peek));
    }
}
