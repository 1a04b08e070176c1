//! What is told of each route and each endpoint: requests by what came of them, how long
//! they took, bytes, what is under way, and what policy decided. Atomic words that threads
//! share, as an endpoint's are.
//!
//! There is a cap on how many there are: routes and endpoints beyond it share one, which
//! is called [`OTHER`], and how many those are is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::relay::Passed;

/// Routes with signals of their own; a rack has some tens.
pub const MAX_ROUTES: usize = 256;
/// Endpoints with signals of their own: 300 bytes each, and 30 lines of a page.
pub const MAX_ENDPOINTS: usize = 1024;
/// Whatever is beyond that. No name in a document has parentheses.
pub const OTHER: &str = "(other)";
/// Who came in through another node's tunnel, which has chosen the route.
pub const TUNNEL: &str = "(tunnel)";

/// Upper ends of the histogram's buckets, in microseconds: from what a rack answers in to
/// what OpenTelemetry advises for HTTP at the upper end.
pub const BOUNDS_US: [u64; 13] = [
    500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// What came of a request or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An answer, by the first digit of its status.
    Answered(u16),
    /// A connection of bytes, passed on.
    Connected,
    /// No answer, or no connection.
    Failed,
}

impl Class {
    /// What they are called, in the order of [`Class::index`].
    pub const NAMES: [&str; 7] = ["1xx", "2xx", "3xx", "4xx", "5xx", "connected", "failed"];

    fn index(self) -> usize {
        match self {
            Class::Answered(status) => usize::from(status / 100).clamp(1, 5) - 1,
            Class::Connected => 5,
            Class::Failed => 6,
        }
    }
}

/// What policy decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may go on.
    Allowed,
    /// No rule allows it.
    Denied,
    /// A circuit breaker is open.
    Broken,
    /// It is over a rate limit.
    Limited,
    /// It was tried once more.
    Retried,
    /// It went elsewhere, because the rack is full.
    Spilled,
}

impl Decision {
    /// What they are called, in the order of their values.
    pub const NAMES: [&str; 6] = ["allowed", "denied", "broken", "limited", "retried", "spilled"];
}

/// All of one route, or of one endpoint.
#[derive(Debug, Default)]
pub struct Signals {
    classes: [AtomicU64; Class::NAMES.len()],
    took: [AtomicU64; BOUNDS_US.len() + 1],
    took_us: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    active: AtomicU32,
    decisions: [AtomicU64; Decision::NAMES.len()],
}

/// The same at one moment.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Shown {
    pub classes: [u64; Class::NAMES.len()],
    /// Not added up.
    pub took: [u64; BOUNDS_US.len() + 1],
    pub took_us: u64,
    pub received: u64,
    pub sent: u64,
    pub active: u32,
    pub decisions: [u64; Decision::NAMES.len()],
}

impl Signals {
    /// An answer began.
    pub fn answered(&self, status: u16, took: Duration) {
        let us = took.as_micros() as u64;
        self.is_over(Class::Answered(status));
        self.took[BOUNDS_US.partition_point(|it| *it < us)].fetch_add(1, Relaxed);
        self.took_us.fetch_add(us, Relaxed);
    }

    /// Something that has no answer to wait for came to this.
    pub fn is_over(&self, class: Class) {
        self.classes[class.index()].fetch_add(1, Relaxed);
    }

    /// Policy decided so.
    pub fn decided(&self, decision: Decision) {
        self.decisions[decision as usize].fetch_add(1, Relaxed);
    }

    /// Bytes from the client.
    pub fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    /// Bytes to the client.
    pub fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    /// Bytes of a connection that is over.
    pub fn passed(&self, passed: &Passed) {
        self.received(passed.from.get());
        self.sent(passed.to.get());
    }

    /// As it is now.
    pub fn shown(&self) -> Shown {
        Shown {
            classes: self.classes.each_ref().map(|it| it.load(Relaxed)),
            took: self.took.each_ref().map(|it| it.load(Relaxed)),
            took_us: self.took_us.load(Relaxed),
            received: self.received.load(Relaxed),
            sent: self.sent.load(Relaxed),
            active: self.active.load(Relaxed),
            decisions: self.decisions.each_ref().map(|it| it.load(Relaxed)),
        }
    }
}

/// Something is under way; it is over when this is dropped.
#[derive(Debug)]
pub struct Active(pub Arc<Signals>);

impl Active {
    /// It begins.
    pub fn begin(signals: &Arc<Signals>) -> Self {
        signals.active.fetch_add(1, Relaxed);
        Self(signals.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_in_its_class_and_its_bucket() {
        let signals = Signals::default();
        for (status, us) in [(200, 1), (204, 500), (301, 501), (503, 20_000_000), (999, 0)] {
            signals.answered(status, Duration::from_micros(us));
        }
        signals.is_over(Class::Connected);
        signals.is_over(Class::Failed);
        let shown = signals.shown();
        assert_eq!(shown.classes, [0, 2, 1, 0, 2, 1, 1]);
        assert_eq!((shown.took[0], shown.took[1], shown.took[13]), (3, 1, 1));
        assert_eq!(shown.took_us, 1 + 500 + 501 + 20_000_000);
    }

    #[test]
    fn what_is_under_way_ends_by_itself() {
        let signals = Arc::new(Signals::default());
        let one = Active::begin(&signals);
        assert_eq!(signals.shown().active, 1);
        drop(one);
        assert_eq!(signals.shown().active, 0);
    }
}
