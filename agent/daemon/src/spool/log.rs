//! One class's log: segment files in one directory, and a cursor.
//!
//! Owns its directory; nobody else writes there. It never sends what is not
//! durable, never uses a sequence number twice for records that could have been
//! sent, and never refuses to open because of what it finds.
//!
//! Invariants: `acked <= durable <= last`; the newest segment is never deleted,
//! so the next sequence number survives everything but the loss of the
//! directory; the buffer holds the records of `durable+1 ..= last` that are not
//! in a gap. Every number that is missing below `durable` is in a gap once it was
//! read past.

use std::{
    borrow::Cow,
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use purlin_core::{
    gap::{Cause, Gap, Gaps},
    identity::{Class, Incarnation},
    pace::Pace,
    rate::Rate,
    retention::{Tier, WhenFull},
};

use super::{
    buffer::Buffer,
    cursor::{self, Cursor},
    dir::{self, Segment},
    read::Position,
    seal::Keys,
    segment::{self, Header, MAX_PAYLOAD_BYTES, MAX_RECORD_BYTES},
};

/// The buffer is made durable at this size even before its window ends: larger
/// commits save no more flash (docs/decisions/001).
const COMMIT_BYTES: usize = 64 << 10;
/// While the disk can't be written, it is tried again this often.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// What a log may take, and what it does when that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes on disk.
    pub cap: u64,
    /// Longest time in memory.
    pub window: Duration,
    /// What goes first.
    pub when_full: WhenFull,
    /// Records older than that are not worth sending.
    pub ttl: Option<Duration>,
}

/// Until the settings are known.
const NO_LIMITS: Limits =
    Limits { cap: u64::MAX, window: Duration::ZERO, when_full: WhenFull::DropOldest, ttl: None };

/// One class's log.
#[derive(Debug)]
pub struct Log {
    pub(super) dir: PathBuf,
    pub(super) class: Class,
    pub(super) incarnation: Incarnation,
    /// Oldest first; the last one is being written.
    pub(super) segments: Vec<Segment>,
    /// None while the disk can't be written.
    pub(super) active: Option<File>,
    pub(super) cursor: Cursor,
    saved: Cursor,
    pub(super) gaps: Gaps,
    /// What the file of the gaps says.
    saved_gaps: Gaps,
    pub(super) durable: u64,
    pub(super) last: u64,
    buffer: Buffer,
    pub(super) limits: Limits,
    pub(super) readers: [Position; 2],
    /// Why the last commit failed.
    write_error: Option<String>,
    pub(super) read_error: Option<String>,
    pub(super) flash: Flash,
    pub(super) keys: Keys,
}

/// What a log does to its disk.
#[derive(Debug, Default)]
pub struct Flash {
    /// Bytes written, by the hour.
    pub written: Rate,
    /// Commits since it was opened.
    pub commits: u64,
    /// How long the last one took.
    pub last_commit: Duration,
    /// How long the slowest one took.
    pub slowest_commit: Duration,
    /// What waited lately.
    pub pace: Pace,
}

/// Why a record was not kept. It has used up its number, and a gap says so.
#[derive(Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Empty, or over [`MAX_RECORD_BYTES`].
    Size(usize),
    /// The disk can't be written and the memory set aside is full.
    Memory,
    /// The log is full and keeps what it has.
    Full,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejected::Size(bytes) => {
                write!(f, "it has {bytes} bytes, and may have 1 to {MAX_RECORD_BYTES}")
            }
            Rejected::Memory => f.write_str("the disk can't be written and the memory is full"),
            Rejected::Full => f.write_str("the log is full, and keeps what it has"),
        }
    }
}

impl Log {
    /// Opens the log in `dir`, which is made if it isn't there. What can't be
    /// read is set aside and counted, never a reason to fail; the error is the
    /// directory's own.
    pub fn open(dir: &Path, class: Class, incarnation: Incarnation) -> io::Result<Self> {
        Self::open_with(dir, class, incarnation, Keys::default())
    }

    /// The same with keys: what is written is sealed, and what is sealed is read.
    pub fn open_with(
        dir: &Path,
        class: Class,
        incarnation: Incarnation,
        keys: Keys,
    ) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut gaps = cursor::read_gaps(dir);
        let header = header(incarnation, class, 0);
        let mut cursor = Cursor::read(dir);
        let was_acked = cursor.as_ref().map_or(0, |cursor| cursor.acked);
        let back = dir::openable(dir, &header, &keys)?;
        if let (Some(first), Some(cursor)) = (back.first(), &mut cursor) {
            // What was sent since is sent again, and nothing is lost.
            tracing::info!(dir = %dir.display(), segments = back.len(), "a key is back: put back");
            cursor.acked = cursor.acked.min(first - 1);
            cursor.write(dir, true)?;
        }
        back.iter().try_for_each(|first| dir::put_back(dir, *first))?;
        let dir::Found { mut segments, used } = dir::find(dir, &header, &keys)?;
        note_holes(dir, &segments, &back, &mut gaps);
        let cursor = cursor.unwrap_or_else(|| {
            // What is not there any more, and in no gap, was acknowledged.
            let first = segments.first().map(|oldest| oldest.first_seq);
            let first = first.into_iter().chain(gaps.list().iter().map(|gap| gap.first)).min();
            Cursor { acked: first.unwrap_or(1).max(1) - 1, ..Cursor::default() }
        });
        let told = gaps.list().iter().map(|gap| gap.last).max().unwrap_or(0);
        let used = used.max(was_acked).max(cursor.acked).max(told);
        let newest = segments.last().copied().filter(|newest| newest.tier == Tier::Raw);
        let (durable, active) = match newest {
            None => (used, None),
            Some(newest) => {
                let (last, bytes, file) = dir::recover(dir, newest)?;
                segments.pop();
                segments.push(Segment { bytes, ..newest });
                // A number is sealed once in a segment.
                let goes_on = used <= last && newest.seal.is_none() && !keys.seals();
                (last.max(used), goes_on.then_some(file))
            }
        };
        let (active, write_error) = match active {
            Some(file) => (Some(file), None),
            None => {
                let header = Header { first_seq: durable + 1, ..header };
                let made = dir::create(dir, &header, 0, &keys);
                segments.pop_if(|newest| newest.first_seq == durable + 1);
                segments.push(made.as_ref().map_or(Segment::unmade(durable + 1), |made| made.0));
                // A disk that is full is no reason not to start.
                match made {
                    Ok((_, file)) => (Some(file), None),
                    Err(error) => (None, Some(format!("can't be written: {error}"))),
                }
            }
        };
        let mut log = Self::at_rest(dir, class, incarnation, (segments, cursor, gaps, durable));
        log.keys = keys;
        (log.active, log.write_error) = (active, write_error);
        log.forget_acked();
        Ok(log)
    }

    /// The log in `dir` as it is on disk, only to be read: nothing is touched, and
    /// nothing may be changing it.
    pub(super) fn untouched(
        dir: &Path,
        class: Class,
        incarnation: Incarnation,
        keys: Keys,
    ) -> io::Result<Self> {
        let mut segments = dir::list(dir, &header(incarnation, class, 0), &keys)?;
        let gaps = cursor::read_gaps(dir);
        let cursor = Cursor::read(dir).unwrap_or_default();
        let told = gaps.list().iter().map(|gap| gap.last).max().unwrap_or(0);
        let mut durable = cursor.acked.max(told);
        match segments.last_mut() {
            None => segments.push(Segment::unmade(durable + 1)),
            Some(newest) => {
                let bytes = fs::read(dir.join(dir::file_name(newest.first_seq)))?;
                let (last, end) = dir::last_record(&bytes, newest.first_seq);
                durable = durable.max(last);
                newest.bytes = end as u64;
            }
        }
        let log = Self::at_rest(dir, class, incarnation, (segments, cursor, gaps, durable));
        Ok(Self { keys, ..log })
    }

    /// A log of which this is on disk, and that is not written to.
    fn at_rest(
        dir: &Path,
        class: Class,
        incarnation: Incarnation,
        (segments, cursor, gaps, durable): (Vec<Segment>, Cursor, Gaps, u64),
    ) -> Self {
        Self {
            dir: dir.to_owned(),
            class,
            incarnation,
            segments,
            active: None,
            cursor,
            saved: cursor,
            saved_gaps: gaps.clone(),
            gaps,
            durable,
            last: durable,
            buffer: Buffer::default(),
            limits: NO_LIMITS,
            readers: Default::default(),
            write_error: None,
            read_error: None,
            flash: Flash::default(),
            keys: Keys::default(),
        }
    }

    /// Sets what it may take.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
        self.make_room();
    }

    /// Takes a record into memory and gives it the next sequence number.
    pub fn append(&mut self, payload: &[u8], now: Instant) -> Result<u64, Rejected> {
        let keeps_old = self.limits.when_full == WhenFull::DropNewest;
        let most = if self.class == Class::Relay { MAX_PAYLOAD_BYTES } else { MAX_RECORD_BYTES };
        let rejected = match payload.len() {
            length if !(1..=most).contains(&length) => {
                Some((Rejected::Size(length), Cause::NotWritten))
            }
            length if keeps_old && self.bytes() + length as u64 > self.limits.cap => {
                Some((Rejected::Full, Cause::Full))
            }
            length if keeps_old && !self.buffer.has_room(length) => {
                Some((Rejected::Memory, Cause::NotWritten))
            }
            _ => None,
        };
        if let Some((rejected, cause)) = rejected {
            self.skip(1, cause, now);
            return Err(rejected);
        }
        if let Some((first, last, lost)) = self.buffer.make_room(payload.len()) {
            self.lose(Gap { first, last, lost, cause: Cause::NotWritten });
        }
        self.last += 1;
        self.buffer.push(self.last, payload, now);
        Ok(self.last)
    }

    /// Uses up the numbers of records that can't be kept, and says so.
    pub fn skip(&mut self, count: u64, cause: Cause, now: Instant) {
        let (first, last) = (self.last + 1, self.last + count);
        self.last = last;
        self.lose(Gap { first, last, lost: count, cause });
        self.buffer.wait_from(now);
    }

    /// When [`commit`](Self::commit) is due; `None` while nothing waits.
    pub fn commit_due(&self) -> Option<Instant> {
        let window = match &self.write_error {
            Some(_) => RETRY_EVERY,
            None if self.buffer.bytes().len() >= COMMIT_BYTES => Duration::ZERO,
            None => self.limits.window,
        };
        Some(self.buffer.waiting_since()? + window)
    }

    /// Makes everything accepted durable. After an error the records stay in
    /// memory, and the next try writes them all to a segment of its own: what a
    /// failed `fdatasync` left on the disk is unknown, and the disk may be another.
    pub fn commit(&mut self, now: Instant) -> io::Result<()> {
        if self.buffer.waiting_since().is_none() {
            return Ok(());
        }
        let began = Instant::now();
        let result = self.write_buffer().and_then(|bytes| self.save_gaps().map(|()| bytes));
        match &result {
            Ok(bytes) => {
                let (class, bytes) = (self.class.name(), *bytes);
                tracing::debug!(class, seq = self.last, bytes, "made durable");
                self.durable = self.last;
                self.flash.commits += 1;
                self.flash.last_commit = began.elapsed();
                self.flash.slowest_commit = self.flash.slowest_commit.max(began.elapsed());
                self.flash.written.note(bytes, dir::now_ms() / 1000);
                self.buffer.clear();
                self.write_error = None;
                self.make_room();
            }
            Err(error) => {
                self.buffer.waits_again(now);
                self.write_error = Some(format!("can't be written: {error}"));
            }
        }
        result.map(drop)
    }

    /// Bytes that were written.
    fn write_buffer(&mut self) -> io::Result<u64> {
        if self.buffer.bytes().is_empty() {
            return Ok(0);
        }
        let room = segment::segment_bytes(self.limits.cap);
        let newest = self.newest();
        if self.write_error.is_some() || newest.bytes >= room {
            self.close_segment(room)?;
        }
        let offset = self.newest().bytes;
        let active = self.active.as_ref().ok_or_else(|| io::Error::other("no segment"))?;
        let plain = self.buffer.bytes();
        let bytes = match &self.newest().seal {
            Some(seal) => Cow::Owned(self.keys.seal(seal, &self.header(self.newest()), plain)),
            None => Cow::Borrowed(plain),
        };
        active.write_all_at(&bytes, offset)?;
        active.sync_data()?;
        let written = bytes.len() as u64;
        let newest = self.segments.last_mut().expect("a log has a segment");
        newest.bytes += written;
        newest.newest_ms = dir::now_ms();
        Ok(written)
    }

    /// What a segment's records are bound to.
    pub(super) fn header(&self, segment: Segment) -> Header {
        header(self.incarnation, self.class, segment.first_seq)
    }

    /// Begins another segment.
    pub(super) fn close_segment(&mut self, room: u64) -> io::Result<()> {
        // What was reserved and not used; a disk that can't do it keeps the zeros.
        _ = self.active.as_ref().map(|active| active.set_len(self.newest().bytes));
        let first_seq = self.durable + 1;
        let header = header(self.incarnation, self.class, first_seq);
        let (segment, file) = dir::create(&self.dir, &header, room, &self.keys)?;
        self.active = Some(file);
        // An empty one has the same name, and was written over.
        self.segments.pop_if(|newest| newest.first_seq == first_seq);
        self.segments.push(segment);
        self.forget_acked();
        Ok(())
    }

    pub(super) fn newest(&self) -> Segment {
        *self.segments.last().expect("a log has a segment")
    }

    /// Bytes on disk, without what is reserved.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Notes that everything up to `seq` has arrived, and gives its space back.
    pub fn acknowledge(&mut self, seq: u64) {
        self.cursor.acked = self.cursor.acked.max(seq.min(self.durable));
        self.forget_acked();
    }

    /// Leaves out for ever what the broker will never take.
    pub fn refuse(&mut self, first: u64, last: u64) {
        let (first, last) = (first.max(self.cursor.acked + 1), last.min(self.durable));
        if first <= last {
            let lost = last - first + 1;
            self.lose(Gap { first, last, lost, cause: Cause::Refused });
        }
    }

    /// Counts a loss, and remembers it until it is told.
    pub(super) fn lose(&mut self, gap: Gap) {
        self.cursor.count(&gap);
        self.gaps.note(gap);
    }

    /// Writes the cursor and the gaps, if they changed. A gap is forgotten when it
    /// was told, and only behind a cursor that no power cut takes back.
    pub fn save_cursor(&mut self) -> io::Result<()> {
        if self.cursor != self.saved {
            let acked = self.cursor.acked;
            let told = self.gaps.list().iter().any(|gap| gap.last <= acked);
            self.write_cursor(told)?;
            self.gaps.forget(acked);
        }
        self.save_gaps()
    }

    fn write_cursor(&mut self, sync: bool) -> io::Result<()> {
        self.cursor.write(&self.dir, sync)?;
        self.saved = self.cursor;
        Ok(())
    }

    pub(super) fn save_gaps(&mut self) -> io::Result<()> {
        if self.gaps != self.saved_gaps {
            cursor::write_gaps(&self.dir, &self.gaps)?;
            self.saved_gaps = self.gaps.clone();
        }
        Ok(())
    }

    fn forget_acked(&mut self) {
        let acked = self.cursor.acked;
        let done =
            self.segments.windows(2).take_while(|pair| pair[1].first_seq <= acked + 1).count();
        // A cursor that a power cut took back would make acknowledged records damage.
        let saved = done == 0 || self.write_cursor(true).is_ok();
        self.remove(if saved { done } else { 0 });
    }

    /// Removes the `count` oldest segments.
    pub(super) fn remove(&mut self, count: usize) {
        for segment in self.segments.drain(..count) {
            let path = self.dir.join(dir::file_name(segment.first_seq));
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "can't remove a segment");
            }
        }
    }

    pub(super) fn path(&self, first_seq: u64) -> PathBuf {
        self.dir.join(dir::file_name(first_seq))
    }

    /// What it may take.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The newest durable sequence number.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The newest sequence number that is used, durable or not.
    pub fn last_seq(&self) -> u64 {
        self.last
    }

    /// Everything up to here has arrived.
    pub fn acked(&self) -> u64 {
        self.cursor.acked
    }

    /// Records lost since the directory was made, for this cause.
    pub fn lost(&self, cause: Cause) -> u64 {
        self.cursor.lost(cause)
    }

    /// Why it can't be written or read now.
    pub fn error(&self) -> Option<&str> {
        self.write_error.as_deref().or(self.read_error.as_deref())
    }

    /// Whether the disk can't be written now.
    pub fn is_failing(&self) -> bool {
        self.write_error.is_some()
    }
}

fn header(incarnation: Incarnation, class: Class, first_seq: u64) -> Header {
    Header { incarnation, class, tier: Tier::Raw, first_seq, through: 0, sealed: false }
}

/// Between segments that were put back and those after them are numbers that the core
/// has: they are told, so that nobody waits for them, and count as no loss.
fn note_holes(dir: &Path, segments: &[Segment], back: &[u64], gaps: &mut Gaps) {
    for pair in segments.windows(2).filter(|pair| back.contains(&pair[0].first_seq)) {
        let bytes = fs::read(dir.join(dir::file_name(pair[0].first_seq))).unwrap_or_default();
        let (last, _) = dir::last_record(&bytes, pair[0].first_seq);
        let (first, last) = (last + 1, pair[1].first_seq - 1);
        if first <= last {
            gaps.note(Gap { first, last, lost: 0, cause: Cause::Damaged });
        }
    }
}
