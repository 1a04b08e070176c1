//! What the whole node knows of one endpoint: a few atomic words that threads share.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use purlin_core::mesh::{
    ewma::Ewma,
    health::{Check, Health},
    outlier::Record,
};

use crate::{
    signals::{Active, Signals},
    target::Begun,
};

/// What the whole node knows of one endpoint. Threads share it.
#[derive(Debug)]
pub struct Endpoint {
    /// Unique in this process.
    pub id: u64,
    /// Where it is.
    pub address: SocketAddr,
    /// The node through whose tunnel it is reached; `None`: it is connected to.
    pub via: Option<String>,
    /// Whether it gets nothing new, by hand.
    pub is_drained: AtomicBool,
    /// Whether that node is down, by gossip.
    pub is_away: AtomicBool,
    /// Requests and connections under way.
    pub active: AtomicU32,
    /// How slow it was, as [`Ewma::to_bits`].
    ewma: AtomicU64,
    /// Requests and connections in all.
    pub requests: AtomicU64,
    /// Those that failed for its sake.
    pub failures: AtomicU64,
    /// What is told of it; beyond a cap it shares them.
    pub signals: Arc<Signals>,
    /// Its failures in a row, and whether it is left out, as [`Record::to_bits`].
    record: AtomicU64,
    /// What its checks say, as [`Health::to_bits`].
    health: AtomicU32,
    /// Why the last check failed. Only whoever checks, or is asked by people, locks it.
    trouble: Mutex<Option<String>>,
}

impl Endpoint {
    /// One of which nothing is known.
    pub fn new(address: SocketAddr, via: Option<String>, signals: Arc<Signals>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            address,
            via,
            is_drained: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            active: AtomicU32::default(),
            ewma: AtomicU64::new(Ewma::new(0).to_bits()),
            requests: AtomicU64::default(),
            failures: AtomicU64::default(),
            signals,
            record: AtomicU64::new(Record::default().to_bits()),
            health: AtomicU32::default(),
            trouble: Mutex::default(),
        }
    }

    /// For people: where it is.
    pub fn shown(&self) -> String {
        match &self.via {
            Some(node) => format!("{node}/{}", self.address),
            None => self.address.to_string(),
        }
    }

    /// Whether it failed so often that it is left out for a while.
    pub fn is_ejected(&self, now_ms: u32) -> bool {
        self.record().is_out(now_ms)
    }

    /// Whether it is left out, by its failures, by its checks, by its node
    /// or by hand.
    pub fn is_out(&self, now_ms: u32) -> bool {
        let is_aside = self.is_away.load(Relaxed) || self.is_drained.load(Relaxed);
        is_aside || self.health().is_unhealthy || self.is_ejected(now_ms)
    }

    /// Its failures.
    pub fn record(&self) -> Record {
        Record::from_bits(self.record.load(Relaxed))
    }

    /// Of two threads at once one may be lost: the next failure counts as well.
    pub fn note(&self, record: Record) {
        self.record.store(record.to_bits(), Relaxed);
    }

    /// What its checks say.
    pub fn health(&self) -> Health {
        Health::from_bits(self.health.load(Relaxed))
    }

    /// Why its last check failed.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note of a check; whether that turned it. One task checks an endpoint.
    pub fn checked(&self, result: Result<(), String>, by: &Check) -> bool {
        let before = self.health();
        let after = before.checked(result.is_ok(), by);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = result.err();
        self.health.store(after.to_bits(), Relaxed);
        before.is_unhealthy != after.is_unhealthy
    }

    /// Nobody checks it any more: it is taken to be well.
    pub fn unchecked(&self) {
        self.health.store(Health::default().to_bits(), Relaxed);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How slow it was lately, in microseconds.
    pub fn latency(&self, now_ms: u32) -> f32 {
        Ewma::from_bits(self.ewma.load(Relaxed)).value(now_ms)
    }

    /// The same as of its last answer, for people.
    pub fn last_latency(&self) -> f32 {
        Ewma::from_bits(self.ewma.load(Relaxed)).last()
    }

    /// Takes note of an answer. Of two threads at once one may be lost: it is an average.
    pub fn answered(&self, took: Duration, now_ms: u32) {
        let before = Ewma::from_bits(self.ewma.load(Relaxed));
        self.ewma.store(before.with(took, now_ms).to_bits(), Relaxed);
    }
}

/// A request or connection under way at an endpoint; ends when it is dropped.
#[derive(Debug)]
pub struct Under {
    endpoint: Arc<Endpoint>,
    _active: Active,
    _of_service: Option<Begun>,
}

impl Under {
    /// Begins.
    pub fn way(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Relaxed);
        endpoint.requests.fetch_add(1, Relaxed);
        let _active = Active::begin(&endpoint.signals);
        Self { endpoint: endpoint.clone(), _active, _of_service: None }
    }

    /// What is told of its endpoint.
    pub fn signals(&self) -> &Signals {
        &self.endpoint.signals
    }

    /// It stays at this endpoint: the service's share of it ends with it.
    pub fn stays(self, of_service: Begun) -> Self {
        let mut stays = self;
        stays._of_service = Some(of_service);
        stays
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Relaxed);
    }
}
