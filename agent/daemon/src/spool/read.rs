//! Reading a log: frames of what is left of consecutive numbers.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
};

use nix::errno::Errno;
use purlin_core::gap::{Cause, Gap};

use super::{
    dir::Segment,
    log::Log,
    segment::{self, HEADER_BYTES},
};

/// How much is read at a time.
const READ_BYTES: usize = 32 << 10;

/// Where the next read starts: at `offset` of the segment that starts with
/// `first_seq`, for record `seq`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    first_seq: u64,
    offset: u64,
    seq: u64,
}

impl Position {
    fn start_of(first_seq: u64) -> Self {
        Self { first_seq, offset: HEADER_BYTES as u64, seq: first_seq }
    }
}

/// What is left of the numbers `first_seq..=last_seq`, and why the rest is not
/// there. It may be gaps alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The first number.
    pub first_seq: u64,
    /// The last number.
    pub last_seq: u64,
    /// Records, oldest first: number and payload.
    pub records: Vec<(u64, Vec<u8>)>,
    /// Every number that is missing is in one of them.
    pub gaps: Vec<Gap>,
}

impl Frame {
    /// The same without what comes after `last`.
    pub fn until(mut self, last: u64) -> Self {
        self.last_seq = self.last_seq.min(last);
        self.records.retain(|(seq, _)| *seq <= last);
        self.gaps.retain(|gap| gap.first <= last);
        self
    }
}

impl Log {
    /// What is durable from `from` on: at least one record and then up to
    /// `max_bytes`, or gaps up to the end; `None` if there is nothing.
    pub fn read(&mut self, from: u64, max_bytes: usize) -> io::Result<Option<Frame>> {
        if from > self.durable {
            return Ok(None);
        }
        let frame = self.read_frame(from, max_bytes);
        self.read_error = frame.as_ref().err().map(|error| format!("can't be read: {error}"));
        frame.map(Some)
    }

    fn read_frame(&mut self, from: u64, max_bytes: usize) -> io::Result<Frame> {
        let mut at = self.seek(from);
        let mut frame = Frame { first_seq: from, last_seq: self.durable, ..Frame::default() };
        let (mut next, mut bytes) = (from, 0);
        let refused = |gap: &Gap| gap.cause == Cause::Refused;
        let refused: Vec<Gap> = self.gaps.within(from, self.durable).filter(refused).collect();
        let start = self.segments.iter().position(|it| it.first_seq == at.first_seq);
        for index in start.unwrap_or(0)..self.segments.len() {
            let segment = self.segments[index];
            if segment.first_seq != at.first_seq {
                at = Position::start_of(segment.first_seq);
            }
            let end = self.each_record(segment, at.offset, |seq, payload| {
                // Numbers within a frame are told as 32 bits.
                let far = seq.saturating_sub(from) > u64::from(u32::MAX);
                if bytes >= max_bytes || far {
                    next = if frame.records.is_empty() { seq } else { next };
                    return false;
                }
                // One that was written twice, or read before.
                let left_out = refused.iter().any(|gap| (gap.first..=gap.last).contains(&seq));
                if seq >= next && seq <= frame.last_seq && !left_out {
                    bytes += payload.len();
                    next = seq + 1;
                    frame.records.push((seq, payload.to_vec()));
                }
                true
            })?;
            at.offset = end.offset;
            if end.stopped {
                frame.last_seq = next - 1;
                break;
            }
        }
        self.note_damage(&frame);
        frame.gaps = self.gaps.within(from, frame.last_seq).collect();
        // The past and the present are read in turn: the one that was read longer ago
        // goes, if neither went on from here.
        if self.readers[0].seq != from {
            self.readers.swap(0, 1);
        }
        self.readers[0] = Position { seq: frame.last_seq + 1, ..at };
        Ok(frame)
    }

    /// A number that is missing for no known cause was lost to damage.
    fn note_damage(&mut self, frame: &Frame) {
        let seqs = frame.records.iter().map(|(seq, _)| *seq).chain([frame.last_seq + 1]);
        let mut next = frame.first_seq;
        for seq in seqs {
            while next < seq {
                // As far as a gap accounts for it, or as far as none does.
                match self.gaps.within(next, next).map(|gap| gap.last).max() {
                    Some(last) => next = last + 1,
                    None => {
                        let known = self.gaps.within(next, seq - 1).map(|gap| gap.first).min();
                        let end = known.unwrap_or(seq);
                        let lost = end - next;
                        self.lose(Gap { first: next, last: end - 1, lost, cause: Cause::Damaged });
                        next = end;
                    }
                }
            }
            next = next.max(seq + 1);
        }
    }

    /// Where to look for `seq`: where the last read ended, or the start of its segment.
    fn seek(&self, seq: u64) -> Position {
        let first = self.segments[0].first_seq;
        let known = self.readers.iter().find(|it| it.seq == seq);
        let there = |it: &&Position| self.segments.iter().any(|s| s.first_seq == it.first_seq);
        if let Some(known) = known.filter(there) {
            return *known;
        }
        let segment = self.segments.iter().rfind(|it| it.first_seq <= seq);
        Position::start_of(segment.map_or(first, |it| it.first_seq))
    }

    /// Visits the whole records of a segment from `offset` on, in order, until
    /// `visit` wants no more. What the disk won't give back is passed over, as is a
    /// file that somebody has removed or cut short: it is damage, and the rest goes on.
    pub(super) fn each_record(
        &self,
        segment: Segment,
        offset: u64,
        mut visit: impl FnMut(u64, &[u8]) -> bool,
    ) -> io::Result<End> {
        let path = self.path(segment.first_seq);
        let of = self.header(segment);
        let visit = |seq: u64, payload: &[u8]| match &segment.seal {
            None => visit(seq, payload),
            // The seal itself.
            Some(_) if seq == 0 => true,
            // What can't be opened was not sealed here: it is damage.
            Some(seal) => {
                let plain = self.keys.open(seal, &of, seq, payload);
                plain.is_none_or(|plain| visit(seq, &plain))
            }
        };
        let walked = File::open(&path).and_then(|file| {
            let size = file.metadata()?.len().min(segment.bytes);
            each_record(&file, offset, size, visit)
        });
        match walked {
            Err(error) if is_damage(&error) => {
                tracing::warn!(path = %path.display(), %error, "a segment can't be read: passed over");
                Ok(End { offset: segment.bytes, stopped: false })
            }
            walked => walked,
        }
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof)
        || error.raw_os_error() == Some(Errno::EIO as i32)
}

/// Where a walk over records ended.
pub struct End {
    /// Offset of the first record that was not taken.
    pub offset: u64,
    /// The walk was ended by its visitor, not by the segment's end.
    pub stopped: bool,
}

fn each_record(
    file: &File,
    mut offset: u64,
    size: u64,
    mut visit: impl FnMut(u64, &[u8]) -> bool,
) -> io::Result<End> {
    loop {
        let left = size.saturating_sub(offset) as usize;
        let mut chunk = vec![0; left.min(READ_BYTES)];
        file.read_exact_at(&mut chunk, offset)?;
        let mut at = 0;
        while let Some(record) = segment::record_at(&chunk, at) {
            if !visit(record.seq, record.payload) {
                return Ok(End { offset: offset + at as u64, stopped: true });
            }
            at = record.end;
        }
        if at == 0 {
            // The record is larger than the chunk, or damaged: look at all that is left.
            chunk.resize(left, 0);
            file.read_exact_at(&mut chunk, offset)?;
            match segment::next_record(&chunk, 0) {
                None => return Ok(End { offset, stopped: false }),
                Some(record) if !visit(record.seq, record.payload) => {
                    return Ok(End { offset, stopped: true });
                }
                Some(record) => at = record.end,
            }
        }
        offset += at as u64;
    }
}
