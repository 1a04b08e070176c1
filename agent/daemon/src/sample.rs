//! Samples the machine into the spool, each sampler at its own interval.
//!
//! What `/proc` tells is read here: it comes from the kernel's own memory and
//! does not wait for a device. What may is read by the helper.

use std::{sync::Arc, time::Duration};

use prost::Message;
use purlin_core::{
    identity::Class,
    metric::{Point, Sampler, Value},
    settings::Settings,
};
use purlin_drivers::Root;
use purlin_proto::v1;
use tokio::{
    sync::watch,
    time::{self, Instant, MissedTickBehavior},
};

use crate::{
    clock,
    door::Ticking,
    helper::{Client, What},
    spool::Spool,
};

/// What one sampler's task needs.
#[derive(Clone, Debug)]
pub struct Source {
    /// The settings in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Reads what may hang.
    pub helper: Client,
    /// Takes the records.
    pub spool: Spool,
    /// Where each sampler says at what interval it runs.
    pub ticking: watch::Sender<Ticking>,
    /// An interval in place of the configured one, for this project's own tests.
    pub test_interval: Option<Duration>,
}

impl Source {
    /// Samples for ever; a change of the interval holds at once.
    pub async fn run(mut self, sampler: Sampler) -> Result<(), String> {
        let root = Root::live().map_err(|error| error.to_string())?;
        let mut last_problem = None;
        loop {
            let interval = self.interval(sampler);
            self.ticking.send_modify(|ticking| _ = ticking.insert(sampler, interval));
            let mut ticks = time::interval_at(Instant::now(), interval);
            // After a suspend or a stall one sample is enough.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while self.interval(sampler) == interval {
                tokio::select! {
                    _ = ticks.tick() => {
                        let problem = self.sample(sampler, &root).await;
                        if problem != last_problem {
                            if let Some(problem) = &problem {
                                tracing::warn!(sampler = sampler.name(), problem, "can't read all of it");
                            }
                            last_problem = problem;
                        }
                    }
                    changed = self.settings.changed() => {
                        changed.map_err(|_| "the configuration's task is gone")?;
                    }
                }
            }
        }
    }

    fn interval(&self, sampler: Sampler) -> Duration {
        self.test_interval.unwrap_or_else(|| self.settings.borrow().interval(sampler))
    }

    /// Takes one sample and spools it. Returns what could not be read.
    async fn sample(&self, sampler: Sampler, root: &Root) -> Option<String> {
        let (points, problems) = match sampler {
            Sampler::Temperature => {
                let answer = self.helper.ask(What::Sample(sampler)).await;
                (answer.points, answer.problems)
            }
            _ => purlin_drivers::sample(sampler, root),
        };
        tracing::trace!(sampler = sampler.name(), points = points.len(), "sampled");
        if !points.is_empty() {
            self.spool.append(Class::Metric, record(sample_body(sampler, points)));
        }
        problems.first().map(|problem| format!("{}: {}", problem.at, problem.what))
    }
}

fn sample_body(sampler: Sampler, points: Vec<Point>) -> v1::record::Body {
    let points = points.into_iter().map(|point| v1::Point {
        name: point.name.into_owned(),
        unit: point.unit.into_owned(),
        attributes: point.attributes.into_iter().map(|(k, v)| (k.into_owned(), v)).collect(),
        value: Some(match point.value {
            Value::Gauge(value) => v1::point::Value::Gauge(value),
            Value::Counter(value) => v1::point::Value::Counter(value),
        }),
    });
    let points = points.collect();
    v1::record::Body::Sample(v1::Sample { sampler: sampler.name().into(), points })
}

/// An event's record.
pub fn event(name: &str, text: impl Into<String>) -> Vec<u8> {
    event_with(name, text, [])
}

/// An event's record, with what a program may want to know of it.
pub fn event_with(
    name: &str,
    text: impl Into<String>,
    attributes: impl IntoIterator<Item = (String, String)>,
) -> Vec<u8> {
    let attributes = attributes.into_iter().collect();
    record(v1::record::Body::Event(v1::Event { name: name.into(), text: text.into(), attributes }))
}

fn record(body: v1::record::Body) -> Vec<u8> {
    v1::Record { unix_ms: clock::unix_ms(), boot_ms: clock::boot_ms(), body: Some(body) }
        .encode_to_vec()
}
