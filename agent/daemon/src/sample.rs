//! Samples the machine into the spool, each sampler at its own interval.
//!
//! What `/proc` tells is read here: it comes from the kernel's own memory and
//! does not wait for a device. What may is read by the helper.

use std::{sync::Arc, time::Duration};

use prost::{Message, bytes::Bytes};
use purlin_core::{
    metric::{Point, Sampler, Value},
    settings::Settings,
};
use purlin_drivers::Root;
use purlin_proto::v1::{self, record::Body};
use tokio::{
    sync::watch,
    time::{self, Instant, MissedTickBehavior},
};

use crate::{
    alarm, clock,
    door::Ticking,
    export::Counts,
    helper::{Client, What},
    spool::{Spool, figures::points, shelf::hash_of},
    tasks::Board,
    uplink::Link,
};

/// How much later than its interval a sample may be before something is stuck: a helper
/// that hangs is abandoned sooner.
const LATE: Duration = Duration::from_secs(60);
/// How often a dictionary is kept again, so that it isn't among the oldest.
const KEEP_EVERY: Duration = Duration::from_secs(3600);

/// How often the agent measures itself: a hundred values that seldom hurry.
const SELF_EVERY: Duration = Duration::from_secs(60);

/// What one sampler's task needs.
#[derive(Clone, Debug)]
pub struct Source {
    /// The settings in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Reads what may hang.
    pub helper: Client,
    /// Takes the records.
    pub spool: Spool,
    /// Judges what is read.
    pub alarms: alarm::Client,
    /// Where each sampler says at what interval it runs.
    pub ticking: watch::Sender<Ticking>,
    /// Who is told that it is well.
    pub board: Board,
    /// An interval in place of the configured one, for this project's own tests.
    pub test_interval: Option<Duration>,
}

impl Source {
    /// Samples for ever; a change of the interval holds at once.
    pub async fn run(mut self, sampler: Sampler) -> Result<(), String> {
        let root = Root::live().map_err(|error| error.to_string())?;
        let (mut last_problem, mut last_dictionary) = (None, None);
        loop {
            let interval = self.interval(sampler);
            self.ticking.send_modify(|ticking| _ = ticking.insert(sampler, interval));
            let mut ticks = time::interval_at(Instant::now(), interval);
            // After a suspend or a stall one sample is enough.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while self.interval(sampler) == interval {
                tokio::select! {
                    _ = ticks.tick() => {
                        let name = format!("sample-{}", sampler.name());
                        self.board.beat(&name, interval * 3 + LATE);
                        let problem = self.sample(sampler, &root, &mut last_dictionary).await;
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
    async fn sample(
        &self,
        sampler: Sampler,
        root: &Root,
        last_dictionary: &mut Option<(u64, Instant)>,
    ) -> Option<String> {
        let (points, problems) = match sampler {
            Sampler::Temperature | Sampler::Gpu => {
                let answer = self.helper.ask(What::Sample(sampler)).await;
                (answer.points, answer.problems)
            }
            _ => purlin_drivers::sample(sampler, root),
        };
        tracing::trace!(sampler = sampler.name(), points = points.len(), "sampled");
        if !points.is_empty() {
            self.alarms.observe(&points);
            let (sample, dictionary) = split(sampler.name(), points);
            let hash = sample.dictionary;
            let kept = last_dictionary.filter(|it| it.0 == hash && it.1.elapsed() < KEEP_EVERY);
            if kept.is_none() && self.spool.keep_dictionary(hash, dictionary) {
                *last_dictionary = Some((hash, Instant::now()));
            }
            self.spool.append(Body::Sample(sample));
        }
        problems.first().map(|problem| format!("{}: {}", problem.at, problem.what))
    }
}

/// Measures the agent itself, for ever: its spool, its uplink, and what it hands on.
pub async fn run_self(
    spool: Spool,
    link: watch::Receiver<Link>,
    counts: Arc<Counts>,
) -> Result<(), String> {
    let mut ticks = time::interval(SELF_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let Some(classes) = spool.figures().await else { continue };
        let mut points = points(&classes, clock::unix_ms());
        points.extend(link.borrow().points());
        points.extend(counts.points());
        let (sample, dictionary) = split("agent", points);
        if spool.keep_dictionary(sample.dictionary, dictionary) {
            spool.append(Body::Sample(sample));
        }
    }
}

/// A sample's values, and what they are: a [`v1::Dictionary`], encoded.
pub fn split(source: &str, points: Vec<Point>) -> (v1::Sample, Bytes) {
    let mut dictionary = v1::Dictionary { source: source.into(), ..v1::Dictionary::default() };
    let mut sample = v1::Sample::default();
    for point in points {
        let (series, values, value) = match point.value {
            Value::Gauge(value) => (&mut dictionary.gauges, &mut sample.gauges, value),
            Value::Counter(value) => (&mut dictionary.counters, &mut sample.counters, value),
        };
        values.push(value);
        series.push(v1::Series {
            name: point.name.into_owned(),
            unit: point.unit.into_owned(),
            attributes: point.attributes.into_iter().map(|(k, v)| (k.into_owned(), v)).collect(),
        });
    }
    let dictionary = dictionary.encode_to_vec();
    sample.dictionary = hash_of(&dictionary);
    (sample, dictionary.into())
}
