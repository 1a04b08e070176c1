//! The time by which certificates are judged: this node's clock, as far as anybody agrees
//! with it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use purlin_core::{mesh::credential::Now, trust::BUILT_UNIX_S};

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// A time that was surely past at the start: what is learned later, less what has
    /// gone by since.
    past: AtomicU64,
    started: Instant,
    /// The time that was sure last, less what had gone by since the start; 0: it never was.
    held: AtomicU64,
    /// Whether other nodes of the rack have the same time.
    peers_agree: AtomicBool,
    /// For our own tests: how wrong the clock is, in seconds. It is nobody's then.
    wrong_by: Option<i64>,
}

impl Clock {
    /// This node's, or one that shows this now.
    pub fn new(shows: Option<u64>) -> Self {
        let past = BUILT_UNIX_S.into();
        let wrong_by = shows.map(|it| it.cast_signed() - unix_s().cast_signed());
        let inner = Inner {
            past,
            started: Instant::now(),
            held: AtomicU64::new(0),
            peers_agree: AtomicBool::new(false),
            wrong_by,
        };
        Self(Arc::new(inner))
    }

    /// Somebody who is believed has told that it is later than this.
    pub fn learn(&self, unix_s: u64) {
        self.0.past.fetch_max(unix_s.saturating_sub(self.elapsed_s()), Relaxed);
    }

    /// Now.
    pub fn now(&self) -> Now {
        let is_served = self.0.wrong_by.is_none() && purlin_drivers::clock_is_synchronized();
        let peers_agree = self.0.peers_agree.load(Relaxed);
        let elapsed = self.elapsed_s();
        let past = self.0.past.load(Relaxed) + elapsed;
        let now = Now::judged(self.shown(), is_served, peers_agree, past);
        if now.is_sure {
            self.0.held.store(now.unix_s.saturating_sub(elapsed), Relaxed);
        }
        let held = self.0.held.load(Relaxed);
        now.or_held((held > 0).then_some(held + elapsed))
    }

    fn elapsed_s(&self) -> u64 {
        self.0.started.elapsed().as_secs()
    }

    /// What the clock shows, right or wrong.
    pub fn shown(&self) -> u64 {
        unix_s().saturating_add_signed(self.0.wrong_by.unwrap_or_default())
    }

    /// Whether other nodes have the same time.
    pub fn peers_agree(&self, agree: bool) {
        self.0.peers_agree.store(agree, Relaxed);
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}
