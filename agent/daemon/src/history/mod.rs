//! The last day of the node, for the technician: a value a minute of each series, and
//! what happened to alarms and hardware ([`happened`]).
//!
//! A thread of its own owns the store ([`store`]); it hears each record that goes to
//! the spool. Losing it loses nothing else, so it is never waited for: a sample that
//! finds its inbox full is left out, it is opened after the agent is ready, and
//! without a store the agent goes on without history.

use std::{
    collections::{BTreeMap, HashMap},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::{Duration, Instant},
};

use prost::Message;
use purlin_proto::{
    api,
    v1::{Dictionary, HistoryChunk, HistorySeries, Record, Sample, Series, record::Body},
};
use tokio::sync::oneshot;

use self::store::{NoStore, Store};
use crate::{
    clock,
    spool::shelf::{self, hash_of},
    tasks,
};

pub mod happened;
pub mod store;

/// How far back it goes.
const HOURS: u32 = 24;
/// Series that are kept: a node with many disks and links has some hundreds.
const MAX_SERIES: usize = 4096;
/// Dictionaries that are remembered at once: each source has one.
const MAX_DICTIONARIES: usize = 256;
/// What is measured is on disk after this time: the last minutes are what a crash
/// costs, and more often would wear the flash for a technician who seldom comes.
const FLUSH_EVERY: Duration = Duration::from_secs(600);
/// What happened is on disk after this time; a device that flaps costs no more.
const FLUSH_HAPPENED: Duration = Duration::from_secs(60);
/// Samples and questions that may wait.
const INBOX: usize = 256;
/// A store that panics again and again is left alone.
const MAX_PANICS: u32 = 3;
const HOUR_MS: u64 = 3_600_000;
const MINUTE_MS: u64 = 60_000;

/// What the thread is told and asked.
#[derive(Debug)]
enum Word {
    Sample(u64, Sample),
    Happened(u64, Body),
    Query(Query, oneshot::Sender<Result<api::Metrics, String>>),
    WhatHappened(oneshot::Sender<Result<Vec<Record>, String>>),
    Flush(oneshot::Sender<()>),
}

/// Which series, and since when.
#[derive(Debug)]
pub struct Query {
    /// Its name, or the beginning of it; empty: none, only which there are.
    pub name: String,
    /// Milliseconds since 1970.
    pub since_unix_ms: u64,
}

/// A handle to the thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct History(SyncSender<Word>);

impl History {
    /// Starts the thread; the store in `dir` is opened by it. What the values of
    /// samples are stands in the directory `shelf`.
    pub fn start(dir: PathBuf, shelf: PathBuf) -> std::io::Result<Self> {
        let (words, inbox) = mpsc::sync_channel(INBOX);
        thread::Builder::new().name("history".into()).spawn(move || run(&dir, &shelf, &inbox))?;
        Ok(Self(words))
    }

    /// Makes everything durable.
    pub async fn flush(&self) {
        let (reply, done) = oneshot::channel();
        if self.0.try_send(Word::Flush(reply)).is_ok() {
            _ = done.await;
        }
    }

    /// Hears what is recorded.
    pub fn hear(&self, body: &Body) {
        let word = match body {
            Body::Sample(sample) => Word::Sample(clock::unix_ms(), sample.clone()),
            _ if happened::is_kept(body) => Word::Happened(clock::unix_ms(), body.clone()),
            _ => return,
        };
        _ = self.0.try_send(word);
    }

    /// Which series there are, or what they were.
    pub async fn query(&self, query: Query) -> Result<api::Metrics, String> {
        self.ask(|reply| Word::Query(query, reply)).await
    }

    /// What happened since then, in milliseconds since 1970.
    pub async fn happened(&self, since_unix_ms: u64) -> Result<Vec<api::Happening>, String> {
        let records = self.ask(Word::WhatHappened).await?;
        Ok(happened::tell(records, since_unix_ms))
    }

    async fn ask<T>(
        &self,
        word: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Word,
    ) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        let asked = self.0.try_send(word(reply));
        asked.map_err(|_| "the history is busy, or gone: ask again")?;
        answer.await.map_err(|_| "the history is gone: see `purlin log`".to_owned())?
    }
}

/// Serves for ever. A panic is sled's: what it had is set aside.
fn run(dir: &Path, shelf: &Path, inbox: &Receiver<Word>) {
    for _ in 0..MAX_PANICS {
        let mut owner = Owner::open(dir, shelf);
        match panic::catch_unwind(AssertUnwindSafe(|| owner.serve(inbox))) {
            Ok(()) => return,
            Err(panic) => {
                let why = tasks::panic_text(Some(panic));
                tracing::error!(why, "the local history panicked: it is set aside and begun anew");
                // Dropping it could panic again.
                std::mem::forget(owner);
                _ = store::set_aside(dir);
            }
        }
    }
    tracing::error!("the local history panics again and again: there is none until a restart");
}

/// Values of one series in one minute.
#[derive(Clone, Copy, Debug, Default)]
struct Minute {
    sum: f64,
    count: u32,
}

/// The hour of a series that is being written.
#[derive(Debug, Default)]
struct Open {
    hour: u32,
    counter: bool,
    minutes: BTreeMap<u32, Minute>,
}

impl Open {
    fn chunk(&self) -> HistoryChunk {
        let value = |it: &Minute| match self.counter {
            true => it.sum,
            false => it.sum / f64::from(it.count.max(1)),
        };
        HistoryChunk {
            minutes: self.minutes.keys().copied().collect(),
            values: self.minutes.values().map(value).collect(),
        }
    }
}

struct Owner {
    shelf: PathBuf,
    store: Option<Store>,
    /// Why there is none.
    why: String,
    /// Keys of a dictionary's series, gauges first, and how many are gauges.
    dictionaries: HashMap<u64, (Vec<u64>, usize)>,
    open: BTreeMap<u64, Open>,
    flush_due: Instant,
    /// When what happened is to be on disk.
    happened_due: Option<Instant>,
    /// How much happened in this run.
    happenings: u32,
}

impl Owner {
    fn open(dir: &Path, shelf: &Path) -> Self {
        let (store, why) = match Store::open(dir) {
            Ok((store, None)) => (Some(store), String::new()),
            Ok((store, Some(why))) => {
                tracing::warn!(
                    why,
                    "the local history was damaged: it is set aside and begun anew"
                );
                (Some(store), String::new())
            }
            Err(NoStore::Held) => (None, "another process holds it".into()),
            Err(NoStore::Failed(why)) => (None, why),
        };
        if store.is_none() {
            tracing::warn!(why, dir = %dir.display(), "there is no local history");
        }
        let flush_due = Instant::now() + FLUSH_EVERY;
        let (shelf, dictionaries, open) = (shelf.to_owned(), HashMap::new(), BTreeMap::new());
        let (happened_due, happenings) = (None, 0);
        Self { shelf, store, why, dictionaries, open, flush_due, happened_due, happenings }
    }

    fn serve(&mut self, inbox: &Receiver<Word>) {
        loop {
            let due = self.happened_due.map_or(self.flush_due, |due| due.min(self.flush_due));
            match inbox.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(Word::Sample(unix_ms, sample)) => self.hear(unix_ms, &sample),
                Ok(Word::Happened(unix_ms, body)) => self.happened(unix_ms, body),
                Ok(Word::Query(query, reply)) => _ = reply.send(self.answer(&query)),
                Ok(Word::WhatHappened(reply)) => {
                    _ = reply.send(self.there().map(Store::all_happened));
                }
                Ok(Word::Flush(done)) => {
                    self.flush();
                    _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.flush();
                    return;
                }
            }
            let now = Instant::now();
            if self.flush_due <= now {
                self.flush();
            }
            if self.happened_due.is_some_and(|due| due <= now) {
                self.flush_store();
            }
        }
    }

    /// Looks up what a dictionary's values are; it is on disk before its first sample.
    fn learn(&mut self, hash: u64) {
        let dictionary = shelf::read(&self.shelf, hash);
        let Some(Ok(dictionary)) = dictionary.map(Dictionary::decode) else { return };
        let Some(store) = &self.store else { return };
        let gauges = dictionary.gauges.len();
        let series = dictionary.gauges.into_iter().chain(dictionary.counters);
        let mut keys = Vec::new();
        for (n, series) in series.enumerate() {
            let key = hash_of(&series.encode_to_vec());
            keys.push(key);
            let series = HistorySeries { series: Some(series), counter: n >= gauges };
            if let Err(error) = store.name(key, &series) {
                tracing::debug!(error, "a series has no history");
            }
        }
        if self.dictionaries.len() >= MAX_DICTIONARIES {
            self.dictionaries.clear();
        }
        self.dictionaries.insert(hash, (keys, gauges));
    }

    fn hear(&mut self, unix_ms: u64, sample: &Sample) {
        if !self.dictionaries.contains_key(&sample.dictionary) {
            self.learn(sample.dictionary);
        }
        let Some((keys, gauges)) = self.dictionaries.get(&sample.dictionary) else { return };
        let (hour, minute) = ((unix_ms / HOUR_MS) as u32, (unix_ms / MINUTE_MS % 60) as u32);
        let mut ended = Vec::new();
        let values = sample.gauges.iter().chain(&sample.counters);
        for (n, (key, value)) in keys.iter().zip(values).enumerate() {
            if !self.open.contains_key(key) && self.open.len() >= MAX_SERIES {
                continue;
            }
            let counter = n >= *gauges;
            let open =
                self.open.entry(*key).or_insert_with(|| Open { hour, counter, ..Open::default() });
            if open.hour != hour {
                let fresh = Open { hour, counter, ..Open::default() };
                ended.push((*key, std::mem::replace(open, fresh)));
            }
            let it = open.minutes.entry(minute).or_default();
            if counter || it.count == 0 {
                (it.sum, it.count) = (*value, 1);
            } else {
                (it.sum, it.count) = (it.sum + value, it.count + 1);
            }
        }
        for (key, open) in ended {
            self.put(key, &open);
        }
    }

    /// Writes an hour, with what the disk has of it from before a restart.
    fn put(&self, key: u64, open: &Open) {
        let Some(store) = &self.store else { return };
        let mut minutes: BTreeMap<u32, f64> = BTreeMap::new();
        let before = store.chunks(key, open.hour).into_iter().find(|it| it.0 == open.hour);
        for chunk in before.into_iter().map(|it| it.1).chain([open.chunk()]) {
            minutes.extend(chunk.minutes.into_iter().zip(chunk.values));
        }
        let (minutes, values) = minutes.into_iter().unzip();
        if let Err(error) = store.put(key, open.hour, &HistoryChunk { minutes, values }) {
            tracing::debug!(error, "an hour has no history");
        }
    }

    fn flush(&mut self) {
        self.flush_due = Instant::now() + FLUSH_EVERY;
        let hour = (clock::unix_ms() / HOUR_MS) as u32;
        for (key, open) in &self.open {
            self.put(*key, open);
        }
        self.open.retain(|_, open| open.hour + HOURS > hour);
        let Some(store) = &self.store else { return };
        let first = hour.saturating_sub(HOURS);
        let done =
            store.forget(first).and_then(|()| store.forget_happened(u64::from(first) * HOUR_MS));
        if let Err(error) = done {
            tracing::warn!(error, "the local history can't be thinned out");
        }
        self.flush_store();
    }

    fn flush_store(&mut self) {
        self.happened_due = None;
        if let Some(Err(error)) = self.store.as_ref().map(Store::flush) {
            tracing::warn!(error, "the local history can't be written");
        }
    }

    fn happened(&mut self, unix_ms: u64, body: Body) {
        let Some(store) = &self.store else { return };
        self.happenings = self.happenings.wrapping_add(1);
        let record = Record { unix_ms, body: Some(body), ..Record::default() };
        if let Err(error) = store.happened(unix_ms, self.happenings, &record) {
            tracing::debug!(error, "what happened is not in the history");
        }
        self.happened_due.get_or_insert(Instant::now() + FLUSH_HAPPENED);
    }

    fn there(&self) -> Result<&Store, String> {
        self.store.as_ref().ok_or_else(|| format!("there is no local history: {}", self.why))
    }

    fn answer(&self, query: &Query) -> Result<api::Metrics, String> {
        let store = self.there()?;
        let names = store.names();
        let hour = (query.since_unix_ms / HOUR_MS) as u32;
        let mut series = Vec::new();
        for (key, HistorySeries { series: what, counter }) in names {
            let Series { name, unit, attributes } = what.unwrap_or_default();
            let wanted = !query.name.is_empty() && name.starts_with(&query.name);
            let points = if wanted { self.points(store, key, hour, query) } else { Vec::new() };
            if wanted && points.is_empty() {
                continue;
            }
            if wanted || query.name.is_empty() {
                series.push(api::MetricSeries { name, unit, attributes, counter, points });
            }
        }
        series.sort_by(|a, b| (&a.name, &a.attributes).cmp(&(&b.name, &b.attributes)));
        Ok(api::Metrics { series })
    }

    fn points(&self, store: &Store, key: u64, hour: u32, query: &Query) -> Vec<(u64, f64)> {
        let open = self.open.get(&key).map(|open| (open.hour, open.chunk()));
        let mut points = BTreeMap::new();
        for (hour, chunk) in store.chunks(key, hour).into_iter().chain(open) {
            let at = |minute: u32| u64::from(hour) * HOUR_MS + u64::from(minute) * MINUTE_MS;
            points.extend(chunk.minutes.into_iter().map(at).zip(chunk.values));
        }
        points.into_iter().filter(|it| it.0 + MINUTE_MS > query.since_unix_ms).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_a_minute_is_told_also_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("history");
        let series = |name: &str| Series { name: name.into(), ..Series::default() };
        let dictionary = Dictionary {
            source: "cpu".into(),
            gauges: vec![series("load")],
            counters: vec![series("ticks")],
        };
        let bytes = dictionary.encode_to_vec();
        let hash = hash_of(&bytes);
        let shelf = dir.path().join("dict");
        std::fs::create_dir(&shelf).expect("a directory");
        std::fs::write(shelf.join(format!("{hash:016x}")), bytes).expect("a write");
        let start = clock::unix_ms() / HOUR_MS * HOUR_MS - HOUR_MS;
        let mut owner = Owner::open(&path, &shelf);
        for n in 0..12 {
            let (gauges, counters) = (vec![n as f64], vec![100.0 * n as f64]);
            let sample = Sample { dictionary: hash, gauges, counters, span_s: 0 };
            owner.hear(start + n * 30_000, &sample);
        }
        owner.flush();
        drop(owner);
        let mut owner = Owner::open(&path, &shelf);
        let sample = Sample { dictionary: hash, gauges: vec![7.0], counters: vec![9.0], span_s: 0 };
        owner.hear(start + 6 * MINUTE_MS, &sample);
        let ask = |name: &str, since_unix_ms| Query { name: name.into(), since_unix_ms };
        let told = owner.answer(&ask("load", start)).expect("a history");
        let values: Vec<f64> = told.series[0].points.iter().map(|it| it.1).collect();
        assert_eq!(values, [0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 7.0]);
        let told = owner.answer(&ask("ticks", start + 4 * MINUTE_MS)).expect("a history");
        let values: Vec<f64> = told.series[0].points.iter().map(|it| it.1).collect();
        assert_eq!(values, [900.0, 1100.0, 9.0], "counters keep their last value");
        let names = owner.answer(&ask("", 0)).expect("a history");
        assert_eq!(
            names.series.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(),
            ["load", "ticks"]
        );
    }
}
