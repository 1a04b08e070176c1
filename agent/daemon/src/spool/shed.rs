//! What a log gives up so that it stays within its limits. What is lost is told in
//! a gap, which is durable before anything is removed.

use std::io;

use purlin_core::{
    gap::{Cause, Gap},
    retention::{self, Kept, Step, Tier, WhenFull},
};

use super::{
    dir,
    log::{Limits, Log},
    segment::{self, HEADER_BYTES, Header},
    thin::Thinner,
};

impl Log {
    /// Thins and drops until the log fits its cap.
    pub(super) fn make_room(&mut self) {
        if self.limits.when_full == WhenFull::DropNewest {
            return;
        }
        loop {
            let kept = |it: &dir::Segment| Kept { bytes: it.bytes, tier: it.tier };
            let segments: Vec<Kept> = self.segments.iter().map(kept).collect();
            match retention::next(self.limits.when_full, &segments, self.limits.cap) {
                Step::Rest => return,
                Step::Drop => self.drop_oldest(Cause::Full),
                Step::Thin { from, count, to } => {
                    if let Err(error) = self.thin(from, count, to) {
                        // A full disk has no room for what would be left.
                        tracing::warn!(class = self.class.name(), %error, "can't thin: the oldest go");
                        self.drop_oldest(Cause::Full);
                    }
                }
            }
        }
    }

    /// Drops segments whose every record has outlived its time. `now_ms` must be
    /// trusted: a clock that jumps would take everything.
    pub fn expire(&mut self, now_ms: u64) {
        let Some(ttl) = self.limits.ttl else { return };
        let old = now_ms.saturating_sub(ttl.as_millis() as u64);
        while self.segments.len() > 1 && self.segments[0].newest_ms < old {
            self.drop_oldest(Cause::Expired);
        }
    }

    /// Removes everything that waits and is durable: how many records that were, and
    /// the last number that is gone. Nothing is removed that is not written down.
    pub fn purge(&mut self) -> io::Result<(u64, u64)> {
        let (first, last) = (self.cursor.acked + 1, self.durable);
        let mut lost = 0;
        if first <= last {
            let mut next = first;
            for segment in self.segments.clone() {
                // One that can't be read holds nothing.
                _ = self.each_record(segment, HEADER_BYTES as u64, |seq, _| {
                    if seq >= next && seq <= last {
                        (lost, next) = (lost + 1, seq + 1);
                    }
                    true
                });
            }
            self.lose(Gap { first, last, lost, cause: Cause::Purged });
            self.save_gaps()?;
        }
        if self.newest().bytes > HEADER_BYTES as u64 {
            self.close_segment(segment::segment_bytes(self.limits.cap))?;
        }
        self.remove(self.segments.len() - 1);
        self.readers = Default::default();
        self.save_cursor()?;
        Ok((lost, last))
    }

    /// Bytes that may still come, as they come, before the first record is dropped.
    pub fn until_first_drop(&self, interval_s: u32) -> u64 {
        let kept = |it: &dir::Segment| Kept { bytes: it.bytes, tier: it.tier };
        let kept: Vec<Kept> = self.segments.iter().map(kept).collect();
        let Limits { when_full, cap, .. } = self.limits;
        retention::until_first_drop(when_full, &kept, cap, interval_s)
    }

    /// Drops the oldest segment, once it is written down that it goes.
    fn drop_oldest(&mut self, cause: Cause) {
        let oldest = self.segments[0];
        let first = oldest.first_seq.max(self.cursor.acked + 1);
        let last = self.segments[1].first_seq - 1;
        let (mut lost, mut next) = (0, first);
        // One that can't be read holds nothing.
        _ = self.each_record(oldest, HEADER_BYTES as u64, |seq, _| {
            if seq >= next && seq <= last {
                (lost, next) = (lost + 1, seq + 1);
            }
            true
        });
        if first <= last {
            self.lose(Gap { first, last, lost, cause });
            if let Err(error) = self.save_gaps() {
                tracing::warn!(class = self.class.name(), %error, "can't write down what is dropped");
            }
        }
        self.remove(1);
    }

    /// Makes one segment of tier `to` of the `count` from `from` on.
    fn thin(&mut self, from: usize, count: usize, to: Tier) -> io::Result<()> {
        let run = self.segments[from..from + count].to_vec();
        let (first_seq, after) = (run[0].first_seq, self.segments[from + count].first_seq);
        let mut thinner = Thinner::new(to);
        let (mut came, mut next) = (0u64, first_seq);
        for segment in &run {
            self.each_record(*segment, HEADER_BYTES as u64, |seq, payload| {
                if seq >= next && seq < after {
                    next = seq + 1;
                    came += 1;
                    thinner.take(seq, payload);
                }
                true
            })?;
        }
        let kept = thinner.finish();
        let mut records = Vec::new();
        for (seq, payload) in &kept {
            segment::encode_record(*seq, payload, &mut records);
        }
        let last = after - 1;
        let lost = came.saturating_sub(kept.len() as u64);
        if lost > 0 {
            self.lose(Gap { first: first_seq, last, lost, cause: Cause::Downsampled });
            self.save_gaps()?;
        }
        let (incarnation, class) = (self.incarnation, self.class);
        let header =
            Header { incarnation, class, tier: to, first_seq, through: last, sealed: false };
        let newest_ms = run.iter().map(|segment| segment.newest_ms).max().unwrap_or_default();
        let thinned = dir::replace(&self.dir, &header, &records, newest_ms, &self.keys)?;
        self.flash.written.note(thinned.bytes, dir::now_ms() / 1000);
        for segment in &run[1..] {
            _ = std::fs::remove_file(self.path(segment.first_seq));
        }
        self.segments.splice(from..from + count, [thinned]);
        self.readers = Default::default();
        Ok(())
    }
}
