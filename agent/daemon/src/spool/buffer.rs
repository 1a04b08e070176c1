//! Records on their way to the disk, in the segment's own form. While the disk
//! can't be written it is a ring: the oldest make room for what comes.

use std::time::Instant;

use super::segment::{self, MAX_PAYLOAD_BYTES};

/// The most that waits for a disk that can't be written, for each class.
const MAX_BYTES: usize = 1 << 20;
/// What is freed at once, so that a full ring isn't moved for each record.
const FREE_BYTES: usize = MAX_BYTES / 8;

/// Records in memory.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// Since when the oldest waits, or a gap does.
    since: Option<Instant>,
}

impl Buffer {
    /// The records, one after the other.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Since when something waits to be made durable.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.since
    }

    /// Something waits, since now if nothing did.
    pub fn wait_from(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// A try has failed: what waits, waits from now on.
    pub fn waits_again(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// Whether a payload fits without dropping anything.
    pub fn has_room(&self, length: usize) -> bool {
        self.bytes.len() + length <= MAX_BYTES
    }

    /// Adds a record.
    pub fn push(&mut self, seq: u64, payload: &[u8], now: Instant) {
        segment::encode_record(seq, payload, &mut self.bytes);
        self.wait_from(now);
    }

    /// Drops the oldest until a payload fits: the first and the last that went, and
    /// how many.
    pub fn make_room(&mut self, length: usize) -> Option<(u64, u64, u64)> {
        if self.has_room(length) {
            return None;
        }
        let mut gone: Option<(u64, u64, u64)> = None;
        let mut end = 0;
        while let Some(record) = segment::record_at(&self.bytes, end).filter(|_| end < FREE_BYTES) {
            let (first, _, lost) = gone.unwrap_or((record.seq, 0, 0));
            gone = Some((first, record.seq, lost + 1));
            end = record.end;
        }
        self.bytes.drain(..end);
        gone
    }

    /// Everything is durable.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(MAX_PAYLOAD_BYTES);
        self.since = None;
    }
}
