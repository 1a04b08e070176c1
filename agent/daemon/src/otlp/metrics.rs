//! Samples as OTLP metrics.

use std::{collections::HashMap, sync::Arc};

use prost::Message;
use purlin_proto::{
    otlp::{
        ExportMetricsRequest, Gauge, Metric, NumberPoint, ResourceMetrics, ScopeMetrics, Sum,
        Temporality, metric::Data, number_point::Value,
    },
    v1,
};

use super::{Whose, nanos, scope, text};

/// A request in the making.
#[derive(Debug, Default)]
pub struct Metrics {
    request: ExportMetricsRequest,
    /// Where a node's metrics are.
    resources: HashMap<Whose, usize>,
    /// Where those of a dictionary are.
    scopes: HashMap<(usize, u64), Place>,
    points: usize,
}

/// Where the points of a dictionary's series go: which of the resource's scopes, and
/// which of its metrics for each series.
#[derive(Debug)]
struct Place {
    scope: usize,
    metrics: Arc<[usize]>,
}

impl Metrics {
    /// Adds a sample. Its values stand in the order of the dictionary, gauges first,
    /// whichever of the two lists they are in.
    pub fn add(
        &mut self,
        whose: &Whose,
        dictionary: &v1::Dictionary,
        record: &v1::Record,
        sample: &v1::Sample,
    ) {
        let resource = self.resource(whose);
        let of = &mut self.request.resource_metrics[resource];
        let place = self
            .scopes
            .entry((resource, sample.dictionary))
            .or_insert_with(|| place(of, dictionary));
        let metrics = &mut of.scope_metrics[place.scope].metrics;
        let series = dictionary.gauges.iter().chain(&dictionary.counters);
        let values = sample.gauges.iter().chain(&sample.counters);
        let time_unix_nano = nanos(record.unix_ms);
        let booted = nanos(record.unix_ms.saturating_sub(record.boot_ms));
        for ((series, value), metric) in series.zip(values).zip(place.metrics.iter()) {
            let attributes =
                series.attributes.iter().map(|(key, value)| text(key, value)).collect();
            let mut point = NumberPoint {
                time_unix_nano,
                value: Some(Value::AsDouble(*value)),
                attributes,
                ..NumberPoint::default()
            };
            match &mut metrics[*metric].data {
                Some(Data::Gauge(gauge)) => gauge.data_points.push(point),
                Some(Data::Sum(sum)) => {
                    point.start_time_unix_nano = booted;
                    sum.data_points.push(point);
                }
                _ => {}
            }
            self.points += 1;
        }
    }

    /// Data points so far.
    pub fn points(&self) -> usize {
        self.points
    }

    /// The request's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.request.encode_to_vec()
    }

    fn resource(&mut self, whose: &Whose) -> usize {
        if let Some(known) = self.resources.get(whose) {
            return *known;
        }
        let list = &mut self.request.resource_metrics;
        list.push(ResourceMetrics { resource: Some(whose.resource()), scope_metrics: Vec::new() });
        self.resources.insert(whose.clone(), list.len() - 1);
        list.len() - 1
    }
}

/// Makes a scope with a metric for each name of a dictionary.
fn place(of: &mut ResourceMetrics, dictionary: &v1::Dictionary) -> Place {
    let mut made: Vec<Metric> = Vec::new();
    let gauges = dictionary.gauges.iter().map(|it| (it, false));
    let all = gauges.chain(dictionary.counters.iter().map(|it| (it, true)));
    let mut known: HashMap<(&str, &str, bool), usize> = HashMap::new();
    let metrics = all
        .map(|(series, counts)| {
            *known.entry((&series.name, &series.unit, counts)).or_insert_with(|| {
                made.push(empty(series, counts));
                made.len() - 1
            })
        })
        .collect();
    let scope = Some(scope(&dictionary.source));
    of.scope_metrics.push(ScopeMetrics { scope, metrics: made });
    Place { scope: of.scope_metrics.len() - 1, metrics }
}

fn empty(series: &v1::Series, counts: bool) -> Metric {
    let data = match counts {
        false => Data::Gauge(Gauge::default()),
        true => Data::Sum(Sum {
            data_points: Vec::new(),
            aggregation_temporality: Temporality::Cumulative.into(),
            is_monotonic: true,
        }),
    };
    Metric {
        name: series.name.clone(),
        description: String::new(),
        unit: series.unit.clone(),
        data: Some(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, cpu: &str) -> v1::Series {
        let attributes = [("cpu".to_owned(), cpu.to_owned())].into();
        v1::Series { name: name.into(), unit: "s".into(), attributes }
    }

    #[test]
    fn points_of_one_name_are_one_metric_and_counters_say_since_when() {
        let dictionary = v1::Dictionary {
            source: "cpu".into(),
            gauges: vec![series("load", "0")],
            counters: vec![series("time", "0"), series("time", "1")],
        };
        // As they are decoded: all of them in the first list.
        let sample =
            v1::Sample { dictionary: 7, gauges: vec![1.0, 2.0, 3.0], ..v1::Sample::default() };
        let record = v1::Record { unix_ms: 5000, boot_ms: 3000, ..v1::Record::default() };
        let mut metrics = Metrics::default();
        let whose = Whose { node: "n1".into(), ..Whose::default() };
        metrics.add(&whose, &dictionary, &record, &sample);
        metrics.add(&whose, &dictionary, &record, &sample);
        assert_eq!(metrics.points(), 6);
        let request =
            ExportMetricsRequest::decode(&*metrics.encode()).expect("it was just encoded");
        let [resource] = &request.resource_metrics[..] else { panic!("one resource") };
        let [scope] = &resource.scope_metrics[..] else { panic!("one scope") };
        let [load, time] = &scope.metrics[..] else { panic!("two metrics") };
        assert_eq!((&*load.name, &*time.name, &*time.unit), ("load", "time", "s"));
        let Some(Data::Sum(sum)) = &time.data else { panic!("a sum") };
        assert!(sum.is_monotonic);
        let points = sum.data_points.iter().map(|it| (it.start_time_unix_nano, it.value));
        let at = |value| (2_000_000_000, Some(Value::AsDouble(value)));
        assert_eq!(points.collect::<Vec<_>>(), [at(2.0), at(3.0), at(2.0), at(3.0)]);
    }
}
