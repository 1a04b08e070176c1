//! What one worker counts. Only that worker writes; whoever reads adds them up.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use purlin_core::mesh::{dns::Outcome, jwt, strict::Violation};

use crate::identity::Refused;

/// Why another node's tunnel was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelRefusal {
    /// It is no TLS, no HTTP/2, or a flood of it.
    Garbage,
    /// Its certificate is none of this rack's.
    Foreign,
    /// It is revoked.
    Revoked,
    /// Its certificate expired too long ago.
    Expired,
}

impl TunnelRefusal {
    /// All of them, in the order of their values.
    pub const ALL: [TunnelRefusal; 4] = [
        TunnelRefusal::Garbage,
        TunnelRefusal::Foreign,
        TunnelRefusal::Revoked,
        TunnelRefusal::Expired,
    ];

    /// For people and machines.
    pub fn name(self) -> &'static str {
        match self {
            TunnelRefusal::Garbage => "garbage",
            TunnelRefusal::Foreign => "foreign certificate",
            TunnelRefusal::Revoked => "revoked certificate",
            TunnelRefusal::Expired => "expired certificate",
        }
    }
}

impl From<Option<&Refused>> for TunnelRefusal {
    fn from(refused: Option<&Refused>) -> Self {
        match refused {
            None => TunnelRefusal::Garbage,
            Some(Refused::Foreign(_)) => TunnelRefusal::Foreign,
            Some(Refused::Revoked(_)) => TunnelRefusal::Revoked,
            Some(Refused::Expired(_)) => TunnelRefusal::Expired,
        }
    }
}

/// Why a datagram went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// No route takes it.
    NoRoute,
    /// The service's circuit breaker is open.
    Breaker,
    /// The service has no endpoint.
    NoEndpoint,
    /// The kernel has no room for it, or for a session, or no endpoint takes it.
    NotSent,
}

impl Lost {
    /// All of them, in the order of their values.
    pub const ALL: [Lost; 4] = [Lost::NoRoute, Lost::Breaker, Lost::NoEndpoint, Lost::NotSent];

    /// For people and machines.
    pub fn name(self) -> &'static str {
        match self {
            Lost::NoRoute => "no route",
            Lost::Breaker => "over the circuit breaker",
            Lost::NoEndpoint => "no endpoint",
            Lost::NotSent => "not sent",
        }
    }
}

/// How it was found which workload a connection is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// By its client's cgroup.
    Cgroup,
    /// By its client's address.
    Address,
    /// It was not.
    Nobody,
}

impl Known {
    /// All of them, in the order of their values.
    pub const ALL: [Known; 3] = [Known::Cgroup, Known::Address, Known::Nobody];

    /// For people and machines.
    pub fn name(self) -> &'static str {
        match self {
            Known::Cgroup => "by cgroup",
            Known::Address => "by address",
            Known::Nobody => "not known",
        }
    }
}

/// Counters of one worker, all of them growing.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Counters {
    pub connections: AtomicU64,
    /// Connections that have ended.
    pub ended: AtomicU64,
    pub requests: AtomicU64,
    /// By the first digit of the status, from 1xx to 5xx.
    pub answers: [AtomicU64; 5],
    /// Requests that were refused before they were parsed, by why.
    pub violations: [AtomicU64; Violation::ALL.len()],
    /// Connections that were closed for being too slow.
    pub slow: AtomicU64,
    /// Requests and connections that no route matched.
    pub unmatched: AtomicU64,
    /// Requests and connections that an open circuit breaker refused.
    pub broken: AtomicU64,
    /// Requests over a rate limit.
    pub limited: AtomicU64,
    /// Tunnels that were refused, by why.
    pub refusals: [AtomicU64; TunnelRefusal::ALL.len()],
    /// Requests and streams of a tunnel that no rule allowed.
    pub denied: AtomicU64,
    /// Requests without the token that a rule asks for, by why.
    pub tokens: [AtomicU64; jwt::Refused::ALL.len()],
    /// Connections of other nodes' agents that were passed on to a broker of this node's.
    pub relayed: AtomicU64,
    /// Attempts on another endpoint after one failed.
    pub retries: AtomicU64,
    /// Times that a connection was parked, and taken up again or given up.
    pub parked: AtomicU64,
    pub unparked: AtomicU64,
    /// Datagrams from clients, and to them.
    pub datagrams_in: AtomicU64,
    pub datagrams_out: AtomicU64,
    /// Datagrams that went nowhere, by why.
    pub lost: [AtomicU64; Lost::ALL.len()],
    /// Queries for names, by what came of them.
    pub names: [AtomicU64; Outcome::ALL.len()],
    /// Connections of this node's workloads that somebody asked about, by how it was found
    /// which.
    pub known: [AtomicU64; Known::ALL.len()],
    /// Sessions that ended for others to begin.
    pub displaced: AtomicU64,
}

impl Counters {
    /// Counts one.
    pub fn one(counter: &AtomicU64) {
        Self::add(counter, 1);
    }

    /// Counts several.
    pub fn add(counter: &AtomicU64, several: u64) {
        // A load and a store: there is one writer.
        counter.store(counter.load(Relaxed) + several, Relaxed);
    }

    /// Counts an answer.
    pub fn answer(&self, status: u16) {
        if let Some(counter) = self.answers.get(usize::from(status / 100).wrapping_sub(1)) {
            Self::one(counter);
        }
    }

    /// Counts a tunnel that was refused.
    pub fn refusal(&self, refusal: TunnelRefusal) {
        Self::one(&self.refusals[refusal as usize]);
    }

    /// Counts a datagram that went nowhere.
    pub fn lost(&self, why: Lost) {
        Self::one(&self.lost[why as usize]);
    }

    /// Counts that somebody asked which workload a connection is from.
    pub fn known(&self, how: Known) {
        Self::one(&self.known[how as usize]);
    }

    /// Counts a violation.
    pub fn violation(&self, violation: Violation) {
        Self::one(&self.violations[violation as usize]);
    }
}

/// A connection that is open; it has ended when this is dropped.
#[derive(Debug)]
pub struct Open(Arc<Counters>);

impl Open {
    /// Begins.
    pub fn new(counters: &Arc<Counters>) -> Self {
        Counters::one(&counters.connections);
        Self(counters.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        Counters::one(&self.0.ended);
    }
}
