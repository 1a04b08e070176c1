//! How a log stands, for people and programs: of one that is open, and of one on
//! disk whose agent is dead, and maybe starting.

use std::{fs, io, path::Path, time::Duration};

use prost::Message;
use purlin_core::{gap::Cause, identity::Class, metric::Point};
use purlin_proto::{api, v1};

use super::{
    cursor::Cursor,
    dir,
    log::{Limits, Log},
    segment::{self, HEADER_BYTES},
};
use crate::clock;

impl Log {
    /// How it stands, with samples that come every `interval_s` seconds.
    pub fn figures_at(&mut self, interval_s: u32) -> api::QueueClass {
        let figures = self.figures();
        let room = self.until_first_drop(interval_s);
        let first_drop_in_ms = figures.bytes_per_day.and_then(|per_day| ms_until(room, per_day));
        api::QueueClass { first_drop_in_ms, ..figures }
    }

    /// How it stands.
    pub fn figures(&mut self) -> api::QueueClass {
        let first_seq = self.segments[0].first_seq;
        let bytes = self.bytes();
        let per_day = self.flash.written.per_day(dir::now_ms() / 1000);
        let left = self.limits.cap.saturating_sub(bytes);
        let pending = self.last - self.cursor.acked.max(first_seq - 1);
        let sent_in = self.flash.pace.note(pending, clock::since_boot());
        let micros = |took: Duration| took.as_micros() as u64;
        limited(
            api::QueueClass {
                first_seq,
                durable_seq: self.durable,
                last_seq: self.last,
                pending,
                sent_in_ms: sent_in.filter(|_| pending > 0).map(|it| it.as_millis() as u64),
                oldest_unix_ms: self.oldest_unix_ms(),
                bytes,
                segments: self.segments.len() as u32,
                bytes_per_day: per_day,
                full_in_ms: per_day.and_then(|per_day| ms_until(left, per_day)),
                commits: self.flash.commits,
                commit_us: micros(self.flash.last_commit),
                slowest_commit_us: micros(self.flash.slowest_commit),
                written_day: self.flash.written.total(),
                error: self.error().map(str::to_owned),
                ..of_cursor(self.class, &self.cursor)
            },
            &self.limits,
        )
    }

    fn oldest_unix_ms(&mut self) -> Option<u64> {
        let readers = self.readers;
        let oldest = self.read(self.cursor.acked + 1, 1).ok().flatten();
        self.readers = readers;
        let (_, payload) = oldest?.records.into_iter().next()?;
        v1::Record::decode(&*payload).ok().map(|record| record.unix_ms)
    }
}

/// What the logs say of themselves, to be measured like all else.
pub fn points(classes: &[api::QueueClass], now_ms: u64) -> Vec<Point> {
    let mut points = Vec::new();
    for it in classes {
        let seconds = |us: u64| us as f64 / 1e6;
        let age = it.oldest_unix_ms.map_or(0, |oldest| now_ms.saturating_sub(oldest));
        let mut own = vec![
            Point::gauge("purlin.spool.size", "By", it.bytes as f64),
            Point::gauge("purlin.spool.pending", "{record}", it.pending as f64),
            Point::gauge("purlin.spool.oldest.age", "s", age as f64 / 1e3),
            Point::gauge("purlin.spool.commit.duration", "s", seconds(it.commit_us)),
            Point::gauge("purlin.spool.commit.duration.max", "s", seconds(it.slowest_commit_us)),
            Point::gauge("purlin.spool.flash.day", "By", it.written_day as f64),
            Point::counter("purlin.spool.appended", "{record}", it.last_seq as f64),
            Point::counter("purlin.spool.acknowledged", "{record}", it.acked_seq as f64),
            Point::counter("purlin.spool.commits", "{commit}", it.commits as f64),
        ];
        let left = it.sent_in_ms.map(|ms| ms as f64 / 1e3);
        own.extend(left.map(|s| Point::gauge("purlin.spool.replay.eta", "s", s)));
        let lost = [
            ("full", it.dropped),
            ("expired", it.expired),
            ("downsampled", it.thinned),
            ("damaged", it.corrupt),
            ("not-written", it.rejected),
            ("refused", it.refused),
            ("purged", it.purged),
        ];
        own.extend(lost.map(|(cause, count)| {
            Point::counter("purlin.spool.lost", "{record}", count as f64)
                .with("purlin.cause", cause)
        }));
        points.extend(own.into_iter().map(|point| point.with("purlin.class", it.class.as_str())));
    }
    points
}

/// Until so many bytes have come; `None` if none come.
fn ms_until(bytes: u64, per_day: u64) -> Option<u64> {
    let ms = (u128::from(bytes) * 86_400_000).checked_div(u128::from(per_day))?;
    Some(u64::try_from(ms).unwrap_or(u64::MAX))
}

/// How the log in `dir` stands on disk, without touching it.
pub fn inspect(dir: &Path, class: Class, limits: &Limits) -> io::Result<api::QueueClass> {
    let mut segments = Vec::new();
    // An older agent had fewer logs.
    let there = dir.try_exists()?.then(|| fs::read_dir(dir)).transpose()?;
    for entry in there.into_iter().flatten() {
        let entry = entry?;
        let first_seq = dir::sequence_in(&entry.path());
        segments.extend(first_seq.map(|seq| (seq, entry.path(), entry.metadata())));
    }
    segments.sort_by_key(|(seq, ..)| *seq);
    let cursor = Cursor::read(dir).unwrap_or_default();
    let mut bytes: u64 =
        segments.iter().filter_map(|(_, _, m)| m.as_ref().ok()).map(|m| m.len()).sum();
    let (first_seq, mut last) = match (segments.first(), segments.last()) {
        (Some((first, ..)), Some((newest, path, _))) => {
            let content = fs::read(path)?;
            let records =
                std::iter::successors(segment::next_record(&content, HEADER_BYTES), |r| {
                    segment::next_record(&content, r.end)
                });
            let newest = records
                .last()
                .map_or((newest - 1, HEADER_BYTES), |it| (it.seq.max(newest - 1), it.end));
            // What is behind the last record is reserved.
            bytes -= (content.len() - newest.1.min(content.len())) as u64;
            (*first, newest.0)
        }
        _ => (cursor.acked + 1, cursor.acked),
    };
    last = last.max(cursor.acked);
    let figures = api::QueueClass {
        first_seq,
        durable_seq: last,
        last_seq: last,
        pending: last - cursor.acked.max(first_seq - 1).min(last),
        bytes,
        segments: segments.len() as u32,
        ..of_cursor(class, &cursor)
    };
    Ok(limited(figures, limits))
}

fn of_cursor(class: Class, cursor: &Cursor) -> api::QueueClass {
    let lost = |cause| cursor.lost(cause);
    api::QueueClass {
        class: class.name().into(),
        acked_seq: cursor.acked,
        dropped: lost(Cause::Full),
        expired: lost(Cause::Expired),
        thinned: lost(Cause::Downsampled),
        purged: lost(Cause::Purged),
        corrupt: lost(Cause::Damaged),
        rejected: lost(Cause::NotWritten),
        refused: lost(Cause::Refused),
        ..api::QueueClass::default()
    }
}

fn limited(figures: api::QueueClass, limits: &Limits) -> api::QueueClass {
    api::QueueClass {
        cap_bytes: limits.cap,
        commit_window_ms: limits.window.as_millis() as u64,
        when_full: limits.when_full.name().into(),
        ttl_ms: limits.ttl.map(|ttl| ttl.as_millis() as u64),
        ..figures
    }
}
