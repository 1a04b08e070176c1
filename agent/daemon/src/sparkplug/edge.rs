//! What an edge node of Sparkplug B says, as payloads: numbered, aliased, born before
//! anything else. It holds no connection and no clock.

use std::collections::HashMap;

use purlin_proto::{
    sparkplug::{
        DataType, Metric, Payload, PropertySet, PropertyValue, metric::Value, property_value,
    },
    v1::{Dictionary, Sample, Series},
};

/// The command that asks for a birth (6.4.20).
pub const REBIRTH: &str = "Node Control/Rebirth";
const BD_SEQ: &str = "bdSeq";
/// Metrics of a birth: a birth is one message, of at most some 600 KiB with so many.
const MAX_METRICS: usize = 4096;

/// One metric, as it stands.
#[derive(Clone, Debug)]
struct Known {
    name: String,
    unit: String,
    value: Option<f64>,
    at: u64,
}

/// An edge node in one session.
#[derive(Debug, Default)]
pub struct Edge {
    bd_seq: u8,
    seq: u8,
    /// By alias.
    known: Vec<Known>,
    /// Aliases of a dictionary's values, in its order; `None` beyond [`MAX_METRICS`].
    dictionaries: HashMap<u64, Vec<Option<usize>>>,
}

impl Edge {
    /// A session begins, with its own number.
    pub fn begin(&mut self, bd_seq: u8) {
        self.bd_seq = bd_seq;
    }

    /// Whether a sample's values are known by name.
    pub fn knows(&self, dictionary: u64) -> bool {
        self.dictionaries.contains_key(&dictionary)
    }

    /// Learns what a sample's values are. A birth must follow.
    pub fn learn(&mut self, hash: u64, dictionary: &Dictionary) {
        let series = dictionary.gauges.iter().chain(&dictionary.counters);
        let aliases = series.map(|series| self.alias(name_of(series), &series.unit)).collect();
        self.dictionaries.insert(hash, aliases);
    }

    /// A dictionary that a source no longer uses has successors with the same names.
    fn alias(&mut self, name: String, unit: &str) -> Option<usize> {
        if let Some(at) = self.known.iter().position(|it| it.name == name) {
            return Some(at);
        }
        (self.known.len() < MAX_METRICS).then(|| {
            self.known.push(Known { name, unit: unit.into(), value: None, at: 0 });
            self.known.len() - 1
        })
    }

    /// The will, and what is said before leaving.
    pub fn death(&self, now: u64) -> Payload {
        Payload { timestamp: Some(now), metrics: vec![self.bd_seq(now)], seq: None }
    }

    /// All there is, by name and alias.
    pub fn birth(&mut self, now: u64) -> Payload {
        self.seq = 0;
        let control = Metric {
            name: Some(REBIRTH.into()),
            timestamp: Some(now),
            datatype: Some(DataType::Boolean as u32),
            value: Some(Value::BooleanValue(false)),
            ..Metric::default()
        };
        let mut metrics = vec![self.bd_seq(now), control];
        metrics.extend(self.known.iter().enumerate().map(|(alias, known)| Metric {
            name: Some(known.name.clone()),
            properties: (!known.unit.is_empty()).then(|| unit(&known.unit)),
            ..known.metric(alias)
        }));
        Payload { timestamp: Some(now), metrics, seq: Some(0) }
    }

    /// What of a sample has changed, by alias alone; `None` if nothing has. The type is
    /// in each: common decoders read nothing without it.
    pub fn data(&mut self, at: u64, sample: &Sample) -> Option<Payload> {
        let aliases = self.dictionaries.get(&sample.dictionary)?;
        let values = sample.gauges.iter().chain(&sample.counters);
        let mut metrics = Vec::new();
        for (alias, value) in aliases.iter().zip(values) {
            let Some(alias) = *alias else { continue };
            let known = &mut self.known[alias];
            if known.value.map(f64::to_bits) == Some(value.to_bits()) {
                continue;
            }
            (known.value, known.at) = (Some(*value), at);
            metrics.push(known.metric(alias));
        }
        if metrics.is_empty() {
            return None;
        }
        self.seq = self.seq.wrapping_add(1);
        Some(Payload { timestamp: Some(at), metrics, seq: Some(self.seq.into()) })
    }

    /// The same while nobody is told.
    pub fn note(&mut self, at: u64, sample: &Sample) {
        let seq = self.seq;
        _ = self.data(at, sample);
        self.seq = seq;
    }

    fn bd_seq(&self, now: u64) -> Metric {
        Metric {
            name: Some(BD_SEQ.into()),
            timestamp: Some(now),
            datatype: Some(DataType::Int64 as u32),
            value: Some(Value::LongValue(self.bd_seq.into())),
            ..Metric::default()
        }
    }
}

impl Known {
    fn metric(&self, alias: usize) -> Metric {
        Metric {
            // Not 0, which some decoders take for none.
            alias: Some(alias as u64 + 1),
            timestamp: Some(self.at),
            datatype: Some(DataType::Double as u32),
            is_null: self.value.is_none().then_some(true),
            value: self.value.map(Value::DoubleValue),
            ..Metric::default()
        }
    }
}

/// `system.cpu.time/cpu=0/state=user`: a host shows it as folders.
fn name_of(series: &Series) -> String {
    let attributes = series.attributes.iter().map(|(key, value)| format!("/{key}={value}"));
    series.name.clone() + &attributes.collect::<String>()
}

fn unit(unit: &str) -> PropertySet {
    let value = PropertyValue {
        r#type: Some(DataType::String as u32),
        value: Some(property_value::Value::StringValue(unit.into())),
    };
    PropertySet { keys: vec!["engUnit".into()], values: vec![value] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge() -> Edge {
        let series = |name: &str, cpu: &str| Series {
            name: name.into(),
            unit: "s".into(),
            attributes: [("cpu".to_owned(), cpu.to_owned())].into(),
        };
        let dictionary = Dictionary {
            source: "cpu".into(),
            gauges: vec![series("load", "0"), series("load", "1")],
            counters: vec![series("time", "0")],
        };
        let mut edge = Edge::default();
        edge.begin(7);
        edge.learn(1, &dictionary);
        edge
    }

    fn sample(gauges: [f64; 2], counter: f64) -> Sample {
        Sample {
            dictionary: 1,
            gauges: gauges.into(),
            counters: vec![counter],
            ..Sample::default()
        }
    }

    #[test]
    fn a_birth_has_every_metric_and_data_only_what_changed() {
        let mut edge = edge();
        edge.note(5, &sample([1.0, 2.0], 3.0));
        let birth = edge.birth(6);
        let names: Vec<_> = birth.metrics.iter().filter_map(|it| it.name.as_deref()).collect();
        assert_eq!(names, [BD_SEQ, REBIRTH, "load/cpu=0", "load/cpu=1", "time/cpu=0"]);
        assert!(birth.metrics.iter().all(|it| it.datatype.is_some() && it.value.is_some()));
        assert_eq!(birth.seq, Some(0));
        assert_eq!(edge.data(7, &sample([1.0, 2.0], 3.0)), None);
        let data = edge.data(8, &sample([1.0, 2.5], 3.0)).expect("one changed");
        assert_eq!((data.seq, data.metrics.len()), (Some(1), 1));
        let metric = &data.metrics[0];
        assert_eq!((metric.alias, metric.name.as_deref()), (Some(2), None));
        assert_eq!(metric.datatype, Some(DataType::Double as u32));
    }

    #[test]
    fn data_is_numbered_to_255_and_from_0_again() {
        let mut edge = edge();
        edge.birth(0);
        let seqs: Vec<_> =
            (0..300).filter_map(|n| edge.data(n, &sample([n as f64, 0.0], 0.0))?.seq).collect();
        let expected: Vec<_> = (1..=300).map(|n| n % 256).collect();
        assert_eq!(seqs, expected);
        assert_eq!(edge.birth(0).seq, Some(0));
    }

    #[test]
    fn a_death_has_the_number_of_its_birth_and_no_seq() {
        let mut edge = edge();
        let (birth, death) = (edge.birth(0), edge.death(0));
        assert_eq!(birth.metrics[0].value, death.metrics[0].value);
        assert_eq!((death.metrics.len(), death.seq), (1, None));
    }
}
