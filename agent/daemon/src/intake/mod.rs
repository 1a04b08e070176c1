//! What workloads hand in: OTLP over HTTP ([`server`]) and the journal ([`journal`]),
//! into the spool's classes `metric` and `log`, with a quota for each source.
//!
//! | module | what it is about |
//! | --- | --- |
//! | [`server`] | HTTP: what is taken, what is refused and how that is said |
//! | [`metrics`], [`lines`] | from OTLP to samples and lines, bounded |
//! | [`source`] | who hands in, as the kernel tells it, and what it did |
//! | [`journal`] | reading the journal, each entry once |
//!
//! One task owns it all: whoever hands in sends an [`Offer`] and waits for the answer.
//! Taken means taken into the spool: what is not durable yet is so within the commit
//! window of its class, and lost with the power before that, as the agent's own is.

use std::{path::PathBuf, sync::Arc, time::Duration};

use purlin_core::{
    identity::Class,
    quota::At,
    settings::{Intake, Settings},
};
use purlin_proto::{api, otlp, v1::record::Body};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{self, MissedTickBehavior},
};

use self::source::Sources;
use crate::{
    clock::{self, Clock},
    spool::Spool,
};

mod journal;
mod lines;
mod metrics;
mod server;
mod source;

/// Offers that may wait: each has at most a request's body with it.
const INBOX: usize = 16;
/// How often it is told what was dropped, and forgotten what was not seen for long.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// For the spool to take what is offered.
const SPOOL_DEADLINE: Duration = Duration::from_secs(10);
/// A part that ended is started again after this time.
const RESTART_AFTER: Duration = Duration::from_secs(5);
/// What is said to whoever finds the spool busy.
const BUSY: Duration = Duration::from_secs(1);

/// What there is to see of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// What is in force.
    pub settings: Option<Intake>,
    /// Why some of that is not so.
    pub error: Option<String>,
    /// What each source did.
    pub sources: Vec<api::IntakeSource>,
}

/// Something that a source hands in.
#[derive(Debug)]
pub struct Offer {
    /// Who.
    source: String,
    what: What,
    reply: oneshot::Sender<Answer>,
}

#[derive(Debug)]
enum What {
    Metrics(otlp::ExportMetricsRequest),
    Logs(otlp::ExportLogsRequest),
    Journal(Vec<lines::Entry>),
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// It is in the spool, the last under this number, but for so many that never will
    /// be, and why.
    Taken { last_seq: u64, rejected: u64, why: String },
    /// Its source is over its quota.
    Over(Duration),
    /// The spool can't take anything now.
    Busy(Duration),
}

/// What the owner needs.
#[derive(Debug)]
pub struct Wiring {
    /// The settings in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Takes the records.
    pub spool: Spool,
    /// Stamps what has a time of its own.
    pub clock: Clock,
    /// Where the Unix socket is.
    pub socket: PathBuf,
    /// Where the journal's place is kept.
    pub state_dir: PathBuf,
    /// The journal's directory in place of the system's, for this project's own tests.
    pub journal_dir: Option<PathBuf>,
    /// What it shows.
    pub view: watch::Sender<View>,
}

/// The owner.
#[derive(Debug)]
pub struct Owner {
    wiring: Wiring,
    offers: (mpsc::Sender<Offer>, mpsc::Receiver<Offer>),
    sources: Sources,
    /// The listeners and the journal's reader.
    parts: JoinSet<String>,
    applied: Option<Intake>,
}

impl Owner {
    /// Nothing is taken in until it runs.
    pub fn new(wiring: Wiring) -> Self {
        let (offers, parts) = (mpsc::channel(INBOX), JoinSet::new());
        Self { wiring, offers, sources: Sources::default(), parts, applied: None }
    }

    /// Runs for ever.
    pub async fn run(&mut self) {
        self.applied = None;
        let mut ticks = time::interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wanted = self.wiring.settings.borrow_and_update().intake.value.clone();
            if self.applied.as_ref() != Some(&wanted) {
                self.apply(wanted).await;
            }
            // What a dropped arm has not received waits in its channel.
            tokio::select! {
                offer = self.offers.1.recv() => {
                    let Some(offer) = offer else { return };
                    let answer = self.take(offer.source, offer.what).await;
                    _ = offer.reply.send(answer);
                    self.show(None);
                }
                changed = self.wiring.settings.changed() => if changed.is_err() { return },
                Some(ended) = self.parts.join_next() => {
                    let why = ended.unwrap_or_else(|error| error.to_string());
                    tracing::warn!(why, again_in = ?RESTART_AFTER, "a part of the intake ended");
                    self.show(Some(why));
                    time::sleep(RESTART_AFTER).await;
                    self.applied = None;
                }
                _ = ticks.tick() => {
                    self.sources.tell(&self.wiring.spool);
                    self.show(None);
                }
            }
        }
    }

    /// Ends what ran, and starts what is wanted.
    async fn apply(&mut self, wanted: Intake) {
        self.parts.shutdown().await;
        let mut error = None;
        let mut note = |why: String| {
            tracing::warn!(why, "workloads can't hand in");
            error.get_or_insert(why);
        };
        let offers = &self.offers.0;
        _ = std::fs::remove_file(&self.wiring.socket);
        if wanted.socket {
            match server::bind(&self.wiring.socket) {
                Ok(listener) => {
                    _ = self.parts.spawn(server::serve_unix(listener, offers.clone()));
                }
                Err(why) => note(format!("{}: {why}", self.wiring.socket.display())),
            }
        }
        if let Some(port) = wanted.port {
            match tokio::net::TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => {
                    _ = self.parts.spawn(server::serve_loopback(listener, offers.clone()))
                }
                Err(why) => note(format!("127.0.0.1:{port}: {why}")),
            }
        }
        if let Some(wanted) = &wanted.journal {
            let reader = journal::Reader {
                wanted: wanted.clone(),
                dir: self.wiring.journal_dir.clone(),
                place: self.wiring.state_dir.join("journal-place"),
                spool: self.wiring.spool.clone(),
                offers: offers.clone(),
            };
            self.parts.spawn(reader.run());
        }
        self.applied = Some(wanted.clone());
        self.wiring.view.send_modify(|view| (view.settings, view.error) = (Some(wanted), error));
    }

    fn show(&self, why: Option<String>) {
        let sources = self.sources.views();
        self.wiring.view.send_modify(|view| {
            view.sources = sources;
            if why.is_some() {
                view.error = why;
            }
        });
    }

    async fn take(&mut self, name: String, what: What) -> Answer {
        let unix_ms = clock::unix_ms();
        let now = At { boot: clock::since_boot(), unix_s: unix_ms / 1000 };
        let quota = match &self.applied {
            Some(applied) => applied.quota_of(&name),
            None => return Answer::Busy(BUSY),
        };
        let is_journal = matches!(what, What::Journal(_));
        let (budget, source) = self.sources.get(name.clone());
        let class = if matches!(what, What::Metrics(_)) { Class::Metric } else { Class::Log };
        let mut handed = match what {
            What::Metrics(request) => metrics::read(request, &name, unix_ms, source, budget),
            What::Logs(request) => lines::read(request, &name, unix_ms),
            What::Journal(entries) => lines::of_journal(entries),
        };
        let records: Vec<_> = handed
            .records
            .drain(..)
            .map(|(at, body)| self.wiring.clock.stamp_at(body, at))
            .collect();
        let bytes: u64 = records.iter().map(|it| it.len() as u64).sum();
        let count = records.len() as u64;
        if count > 0
            && let Err(wait) = source.meter.take(bytes, &quota, now)
        {
            if !is_journal {
                source.refused += 1;
                return Answer::Over(wait);
            }
            // The journal doesn't wait: what is over is dropped, and told.
            source.drop(count + handed.rejected, "over its quota");
            let last_seq = self.offer(class, Vec::new()).await.unwrap_or(0);
            return Answer::Taken { last_seq, rejected: count, why: String::new() };
        }
        for (hash, dictionary) in handed.dictionaries {
            if !self.wiring.spool.keep_dictionary(hash, dictionary) {
                return Answer::Busy(BUSY);
            }
        }
        let Some(last_seq) = self.offer(class, records).await else { return Answer::Busy(BUSY) };
        let (_, source) = self.sources.get(name);
        (source.records, source.bytes) = (source.records + count, source.bytes + bytes);
        source.drop(handed.rejected, &handed.why);
        Answer::Taken { last_seq, rejected: handed.rejected, why: handed.why }
    }

    async fn offer(&self, class: Class, records: Vec<Vec<u8>>) -> Option<u64> {
        let taken = time::timeout(SPOOL_DEADLINE, self.wiring.spool.take(class, records)).await;
        taken.ok().flatten()
    }
}

/// What came of something that was handed in.
#[derive(Debug, Default)]
struct Handed {
    /// When, in milliseconds since 1970, and what.
    records: Vec<(u64, Body)>,
    /// What the values of its samples are, by their hash.
    dictionaries: Vec<(u64, prost::bytes::Bytes)>,
    /// What will never be taken.
    rejected: u64,
    /// Why: the first reason.
    why: String,
}

impl Handed {
    fn reject(&mut self, count: u64, why: impl Into<String>) {
        if self.rejected == 0 {
            self.why = why.into();
        }
        self.rejected += count;
    }
}
