//! What is known of a client's connection by its bytes.

use std::{cell::Cell, io, task::Poll};

use purlin_core::mesh::strict::Violation;

/// Where a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Between two requests, or their bodies.
    #[default]
    Between,
    /// In a request's head.
    Head,
    /// In a request's body.
    Body,
}

/// What is known of a connection's bytes.
#[derive(Debug, Default)]
pub struct Flags {
    /// Whether more was asked for, and nothing had come.
    pub is_read_pending: Cell<bool>,
    /// Whether the other end takes no more.
    pub is_write_blocked: Cell<bool>,
    /// Whether a body broke off, or was none.
    pub is_body_broken: Cell<bool>,
    /// Why it was refused.
    pub violation: Cell<Option<Violation>>,
    phase: Cell<Phase>,
    head_since: Cell<u32>,
    moved: Cell<u32>,
}

impl Flags {
    /// Between two requests, all written, and waiting for more.
    pub fn is_quiet(&self) -> bool {
        self.phase.get() == Phase::Between
            && self.is_read_pending.get()
            && !self.is_write_blocked.get()
    }

    /// Whether the head of a request is under way.
    pub fn is_in_head(&self) -> bool {
        self.phase.get() == Phase::Head
    }

    /// Whether the body of a request is under way, or an answer that isn't taken.
    pub fn is_in_body(&self) -> bool {
        self.phase.get() == Phase::Body && self.is_read_pending.get() || self.is_write_blocked.get()
    }

    /// Ticks since a head was first seen under way.
    pub fn head_seconds(&self, now: u32) -> u32 {
        let since = self.head_since.get();
        if since == 0 {
            self.head_since.set(now.max(1));
            return 0;
        }
        now.saturating_sub(since)
    }

    /// Changes whenever a byte is read or written.
    pub fn moved(&self) -> u32 {
        self.moved.get()
    }

    /// So many bytes were read or written.
    pub fn count(&self, bytes: usize) {
        self.moved.set(self.moved.get().wrapping_add(bytes as u32));
    }

    /// So much of what was to be written was, or nothing for now.
    pub fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        self.is_write_blocked.set(polled.is_pending());
        if let Poll::Ready(Ok(bytes)) = polled {
            self.count(*bytes);
        }
    }

    /// That is where it is now.
    pub fn is_in(&self, phase: Phase) {
        if phase != Phase::Head {
            self.head_since.set(0);
        }
        self.phase.set(phase);
    }
}
