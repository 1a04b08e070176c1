//! From OTLP's metrics to samples: a sample for each instant, its series in a fixed order.
//!
//! Sums that only grow are counters, those that are told as differences are summed up
//! here, all other numbers are gauges. A histogram is counters of its `count`, `sum` and,
//! where it has them, of each `bucket` up to a bound `le`. What no number tells
//! (exemplars, exponential buckets, quantiles) is left out.

use std::collections::{BTreeMap, btree_map::Entry};

use prost::Message;
use purlin_core::metric::{Point, Value};
use purlin_proto::{
    otlp::{ExportMetricsRequest, KeyValue, Metric, NumberPoint, Temporality, metric::Data},
    otlp::{Resource, number_point},
    v1::{self, record::Body},
};

use super::{
    Handed, lines,
    source::{Budget, MAX_SERIES, Source},
};
use crate::{sample, spool::shelf::hash_of};

/// Series of one dictionary: with 400 bytes for each it is under what a broker retains.
const IN_DICTIONARY: usize = 200;
/// Longest name of a metric (OpenTelemetry's own limit), and of a unit.
const MAX_NAME: usize = 255;
const MAX_UNIT: usize = 63;
/// `FLAGS_NO_RECORDED_VALUE_MASK`: the series ends here.
const NO_VALUE: u32 = 1;

/// Reads a request. What `source` may not have any more of is rejected.
pub fn read(
    request: ExportMetricsRequest,
    name: &str,
    now_ms: u64,
    source: &mut Source,
    budget: &mut Budget,
) -> Handed {
    let mut read = Read { now_ms, source, budget, at: BTreeMap::new(), handed: Handed::default() };
    for of in request.resource_metrics {
        let resource = resource(of.resource.as_ref());
        for metric in of.scope_metrics.into_iter().flat_map(|it| it.metrics) {
            read.metric(metric, &resource);
        }
    }
    read.finish(name)
}

/// What tells this source's series from another's: its name, not all that it says of
/// its machine and its SDK.
fn resource(resource: Option<&Resource>) -> Vec<KeyValue> {
    let keys = ["service.", "container.", "k8s."];
    let is_ours = |it: &&KeyValue| keys.iter().any(|key| it.key.starts_with(key));
    resource.into_iter().flat_map(|it| it.attributes.iter().filter(is_ours)).cloned().collect()
}

/// A series: name, unit, attributes, and whether it counts.
type Key = (String, String, BTreeMap<String, String>, bool);

struct Read<'a> {
    now_ms: u64,
    source: &'a mut Source,
    budget: &'a mut Budget,
    at: BTreeMap<u64, BTreeMap<Key, f64>>,
    handed: Handed,
}

impl Read<'_> {
    fn metric(&mut self, metric: Metric, resource: &[KeyValue]) {
        let Metric { name, unit, data, .. } = metric;
        let long = name.is_empty() || name.len() > MAX_NAME || unit.len() > MAX_UNIT;
        let series = |suffix: &str, unit: &str, own: &[KeyValue], counts: bool| {
            let attributes = lines::attributes(resource.iter().chain(own));
            (format!("{name}{suffix}"), unit.to_owned(), attributes, counts)
        };
        let delta = |temporality| temporality == Temporality::Delta;
        match data {
            _ if long => self.handed.reject(1, "a metric's name has 1 to 255 bytes, its unit 63"),
            Some(Data::Gauge(gauge)) => {
                for point in gauge.data_points {
                    let key = series("", &unit, &point.attributes, false);
                    self.number(key, &point, false);
                }
            }
            Some(Data::Sum(sum)) => {
                let (counts, delta) = (sum.is_monotonic, delta(sum.aggregation_temporality()));
                for point in sum.data_points {
                    let key = series("", &unit, &point.attributes, counts);
                    self.number(key, &point, delta);
                }
            }
            Some(Data::Histogram(histogram)) => {
                let delta = delta(histogram.aggregation_temporality());
                for it in histogram.data_points.iter().filter(|it| it.flags & NO_VALUE == 0) {
                    let at = it.time_unix_nano;
                    let key = |suffix: &str, unit: &str| series(suffix, unit, &it.attributes, true);
                    self.put(key(".count", "1"), at, it.count as f64, delta);
                    it.sum.inspect(|sum| self.put(key(".sum", &unit), at, *sum, delta));
                    let mut up_to = 0;
                    for (count, bound) in it.bucket_counts.iter().zip(&it.explicit_bounds) {
                        up_to += count;
                        let mut key = key(".bucket", "1");
                        key.2.insert("le".into(), bound.to_string());
                        self.put(key, at, up_to as f64, delta);
                    }
                }
            }
            Some(Data::ExponentialHistogram(histogram)) => {
                let delta = delta(histogram.aggregation_temporality());
                for it in histogram.data_points.iter().filter(|it| it.flags & NO_VALUE == 0) {
                    let at = it.time_unix_nano;
                    let key = |suffix: &str, unit: &str| series(suffix, unit, &it.attributes, true);
                    self.put(key(".count", "1"), at, it.count as f64, delta);
                    it.sum.inspect(|sum| self.put(key(".sum", &unit), at, *sum, delta));
                }
            }
            Some(Data::Summary(summary)) => {
                for it in summary.data_points.iter().filter(|it| it.flags & NO_VALUE == 0) {
                    let at = it.time_unix_nano;
                    let key = |suffix: &str, unit: &str| series(suffix, unit, &it.attributes, true);
                    self.put(key(".count", "1"), at, it.count as f64, false);
                    self.put(key(".sum", &unit), at, it.sum, false);
                }
            }
            None => self.handed.reject(1, format!("{name} has no data of a kind that is known")),
        }
    }

    fn number(&mut self, key: Key, point: &NumberPoint, delta: bool) {
        let value = match point.value {
            _ if point.flags & NO_VALUE != 0 => return,
            Some(number_point::Value::AsDouble(value)) => value,
            Some(number_point::Value::AsInt(value)) => value as f64,
            None => return self.handed.reject(1, "a point has no value"),
        };
        self.put(key, point.time_unix_nano, value, delta);
    }

    fn put(&mut self, key: Key, nanos: u64, value: f64, delta: bool) {
        if !value.is_finite() {
            return self.handed.reject(1, "a value is no number");
        }
        let (name, unit, attributes, _) = key.clone();
        let hash = hash_of(&v1::Series { name, unit, attributes }.encode_to_vec());
        if !self.source.series.contains(&hash) && self.source.series.len() >= MAX_SERIES {
            let why = format!("a source has at most {MAX_SERIES} series: leave attributes out");
            return self.handed.reject(1, why);
        }
        self.source.series.insert(hash);
        let value = match delta {
            true => {
                let sum = self.source.sums.entry(hash).or_default();
                *sum += value;
                *sum
            }
            false => value,
        };
        let at = lines::time(nanos, self.now_ms);
        // Of two values of one instant the later one holds.
        match self.at.entry(at).or_default().entry(key) {
            Entry::Vacant(place) => _ = place.insert(value),
            Entry::Occupied(mut place) => _ = place.insert(value),
        }
    }

    fn finish(mut self, name: &str) -> Handed {
        for (at, values) in std::mem::take(&mut self.at) {
            let point = |((name, unit, attributes, counts), value): (Key, f64)| Point {
                name: name.into(),
                unit: unit.into(),
                attributes: attributes.into_iter().map(|(k, v)| (k.into(), v)).collect(),
                value: if counts { Value::Counter(value) } else { Value::Gauge(value) },
            };
            let mut points: Vec<Point> = values.into_iter().map(point).collect();
            while !points.is_empty() {
                let rest = points.split_off(points.len().min(IN_DICTIONARY));
                let count = points.len() as u64;
                let (sample, dictionary) =
                    sample::split(name, std::mem::replace(&mut points, rest));
                let hash = sample.dictionary;
                if !self.source.dictionaries.contains(&hash) {
                    if !self.budget.take() {
                        let why = "its series change too often: report the same ones each time";
                        self.handed.reject(count, why);
                        continue;
                    }
                    self.source.dictionaries.insert(hash);
                }
                // Each time: one that is in use is not the oldest of those that are kept.
                if !self.handed.dictionaries.iter().any(|it| it.0 == hash) {
                    self.handed.dictionaries.push((hash, dictionary));
                }
                self.handed.records.push((at, Body::Sample(sample)));
            }
        }
        self.handed
    }
}

#[cfg(test)]
mod tests {
    use purlin_proto::{
        otlp::{AnyValue, Gauge, ResourceMetrics, ScopeMetrics, Sum, any_value},
        v1::Dictionary,
    };

    use super::*;

    const NOW: u64 = 1_767_323_045_000;

    fn point(value: f64, label: &str) -> NumberPoint {
        let text = any_value::Value::StringValue(label.into());
        let value_of = AnyValue { value: Some(text) };
        NumberPoint {
            time_unix_nano: NOW * 1_000_000,
            value: Some(number_point::Value::AsDouble(value)),
            attributes: vec![KeyValue { key: "label".into(), value: Some(value_of) }],
            ..NumberPoint::default()
        }
    }

    fn request(data: Data) -> ExportMetricsRequest {
        let metric = Metric { name: "m".into(), data: Some(data), ..Metric::default() };
        let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
        let of = ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() };
        ExportMetricsRequest { resource_metrics: vec![of] }
    }

    fn sums(value: f64) -> Data {
        Data::Sum(Sum {
            data_points: vec![point(value, "a")],
            aggregation_temporality: Temporality::Delta.into(),
            is_monotonic: true,
        })
    }

    #[test]
    fn differences_are_summed_up_and_an_instant_is_one_sample() {
        let (mut source, mut budget) = (Source::default(), Budget::default());
        let mut hand = |data| read(request(data), "app", NOW, &mut source, &mut budget);
        assert_eq!(hand(sums(2.0)).records.len(), 1);
        let handed = hand(sums(3.0));
        let [(at, Body::Sample(sample))] = &handed.records[..] else { panic!("{handed:?}") };
        assert_eq!((*at, &sample.counters[..], handed.rejected), (NOW, &[5.0][..], 0));
        let dictionary = Dictionary::decode(&*handed.dictionaries[0].1).expect("a dictionary");
        assert_eq!(dictionary.counters[0].attributes["label"], "a");
    }

    #[test]
    fn series_without_end_are_rejected_and_counted() {
        let (mut source, mut budget) = (Source::default(), Budget::default());
        let many = (0..MAX_SERIES + 500).map(|n| point(1.0, &n.to_string())).collect();
        let data = Data::Gauge(Gauge { data_points: many });
        let handed = read(request(data), "app", NOW, &mut source, &mut budget);
        assert_eq!((handed.rejected, handed.records.len()), (500, MAX_SERIES / IN_DICTIONARY));
        let mut rejected = 0;
        for n in 0..200 {
            let points = vec![point(1.0, &(n % 900).to_string())];
            let data = Data::Gauge(Gauge { data_points: points });
            rejected += read(request(data), "app", NOW, &mut source, &mut budget).rejected;
        }
        assert!(rejected > 100, "dictionaries without end: {rejected} rejected");
    }
}
