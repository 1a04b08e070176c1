//! One class's log: segment files in one directory, and a cursor.
//!
//! Owns its directory; nobody else writes there. It never sends what is not
//! durable, never uses a sequence number twice for records that could have been
//! sent, and never refuses to open because of what it finds.
//!
//! Invariants: `acked <= durable <= last`; the newest segment is never deleted,
//! so the next sequence number survives everything but the loss of the
//! directory; the buffer holds exactly the records `durable+1 ..= last`.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use purlin_core::{
    identity::{Class, Incarnation},
    retention,
};
use purlin_proto::api;

use super::segment::{
    self, HEADER_BYTES, Header, MAX_PAYLOAD_BYTES, RECORD_HEADER_BYTES, SEGMENT_BYTES,
};

/// The buffer is made durable at this size even before its window ends: larger
/// commits save no more flash (docs/decisions/001).
const COMMIT_BYTES: usize = 64 << 10;
/// While the disk can't be written, records wait in memory up to this size.
const MAX_BUFFER_BYTES: usize = 1 << 20;
/// Beyond any real log (a million records a second for 290,000 years), so that
/// arithmetic on a number from a damaged name can't overflow.
const MAX_SEQ: u64 = u64::MAX / 2;
/// A cap holds at least so many segments.
const SEGMENTS_IN_CAP: u64 = 4;
/// Segments set aside that are kept for a person to look at: 4 MiB.
const MAX_SET_ASIDE: usize = 8;
/// How much is read at a time.
const READ_BYTES: usize = 32 << 10;

/// One class's log.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    class: Class,
    incarnation: Incarnation,
    /// Oldest first; the last one is being written.
    segments: Vec<Segment>,
    active: File,
    cursor: Cursor,
    durable: u64,
    last: u64,
    buffer: Vec<u8>,
    /// When the oldest buffered record came.
    waiting_since: Option<Instant>,
    cap: u64,
    window: Duration,
    reader: Position,
    corrupt: u64,
    /// Damage before this record is counted in `corrupt`.
    lost_before: u64,
    rejected: u64,
    error: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    first_seq: u64,
    bytes: u64,
}

/// Where the next read starts: at `offset` of the segment that starts with
/// `first_seq`, for record `seq`.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    first_seq: u64,
    offset: u64,
    seq: u64,
}

impl Position {
    fn start_of(first_seq: u64) -> Self {
        Self { first_seq, offset: HEADER_BYTES as u64, seq: first_seq }
    }
}

/// Consecutive records, oldest first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Sequence number of the first.
    pub first_seq: u64,
    /// Payloads.
    pub records: Vec<Vec<u8>>,
}

impl Frame {
    /// Sequence number of the last.
    pub fn last_seq(&self) -> u64 {
        self.first_seq + self.records.len() as u64 - 1
    }
}

/// Why a record was not accepted.
#[derive(Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Empty, or over [`MAX_PAYLOAD_BYTES`].
    Size(usize),
    /// The disk can't be written and the memory set aside is full.
    Full,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejected::Size(bytes) => {
                write!(f, "it has {bytes} bytes, and may have 1 to {MAX_PAYLOAD_BYTES}")
            }
            Rejected::Full => f.write_str("the disk can't be written and the memory is full"),
        }
    }
}

impl Log {
    /// Opens the log in `dir`, which is made if it isn't there. What can't be
    /// read is set aside and counted, never a reason to fail; the error is the
    /// directory's own.
    pub fn open(dir: &Path, class: Class, incarnation: Incarnation) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let cursor = Cursor::open(dir)?;
        let Found { mut segments, used } = find_segments(dir, class, incarnation)?;
        let used = used.max(cursor.acked);
        let (durable, active) = match segments.pop() {
            None => (used, None),
            Some(newest) => {
                let (last, bytes, file) = recover(dir, newest)?;
                segments.push(Segment { bytes, ..newest });
                (last.max(used), (used <= last).then_some(file))
            }
        };
        let mut log = Self {
            dir: dir.to_owned(),
            class,
            incarnation,
            active: match active {
                Some(file) => file,
                None => {
                    let (segment, file) = create(dir, class, incarnation, durable + 1)?;
                    segments.push(segment);
                    file
                }
            },
            segments,
            cursor,
            durable,
            last: durable,
            buffer: Vec::new(),
            waiting_since: None,
            cap: u64::MAX,
            window: Duration::ZERO,
            reader: Position::default(),
            corrupt: 0,
            lost_before: 0,
            rejected: 0,
            error: None,
        };
        log.forget_acked();
        Ok(log)
    }

    /// Sets the most bytes on disk, and the longest time in memory.
    pub fn limit(&mut self, cap: u64, window: Duration) {
        (self.cap, self.window) = (cap, window);
        self.drop_oldest();
    }

    /// Takes a record into memory and gives it the next sequence number.
    pub fn append(&mut self, payload: &[u8], now: Instant) -> Result<u64, Rejected> {
        let rejected = match payload.len() {
            length if !(1..=MAX_PAYLOAD_BYTES).contains(&length) => Some(Rejected::Size(length)),
            length if self.buffer.len() + length > MAX_BUFFER_BYTES => Some(Rejected::Full),
            _ => None,
        };
        if let Some(rejected) = rejected {
            self.rejected += 1;
            return Err(rejected);
        }
        self.last += 1;
        segment::encode_record(self.last, payload, &mut self.buffer);
        self.waiting_since.get_or_insert(now);
        Ok(self.last)
    }

    /// When [`commit`](Self::commit) is due; `None` while nothing waits.
    pub fn commit_due(&self) -> Option<Instant> {
        let full = self.buffer.len() >= COMMIT_BYTES && self.error.is_none();
        let window = if full { Duration::ZERO } else { self.window };
        Some(self.waiting_since? + window)
    }

    /// Makes everything accepted durable. After an error the records stay in
    /// memory, the next try is due one window from `now`, and rewrites them all:
    /// what a failed `fdatasync` left on the disk is unknown.
    pub fn commit(&mut self, now: Instant) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let result = self.write_buffer();
        match &result {
            Ok(()) => {
                let (class, bytes) = (self.class.name(), self.buffer.len());
                tracing::debug!(class, seq = self.last, bytes, "made durable");
                self.durable = self.last;
                self.buffer.clear();
                self.waiting_since = None;
                self.error = None;
            }
            Err(error) => {
                self.waiting_since = Some(now);
                self.error = Some(format!("can't be written: {error}"));
            }
        }
        result
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        // A small cap has small segments: dropping one must not drop it all.
        if self.newest().bytes >= SEGMENT_BYTES.min(self.cap / SEGMENTS_IN_CAP) {
            let (segment, file) =
                create(&self.dir, self.class, self.incarnation, self.durable + 1)?;
            self.active = file;
            self.segments.push(segment);
            self.forget_acked();
        }
        let offset = self.newest().bytes;
        self.active.write_all_at(&self.buffer, offset)?;
        self.active.sync_data()?;
        let written = self.buffer.len() as u64;
        self.segments.last_mut().expect("a log has a segment").bytes += written;
        self.drop_oldest();
        Ok(())
    }

    fn newest(&self) -> Segment {
        *self.segments.last().expect("a log has a segment")
    }

    /// Durable records from `from` on, at least one and then up to `max_bytes`;
    /// `None` if there is none. Starts later where records were dropped or lost,
    /// and ends before such a gap.
    pub fn read(&mut self, from: u64, max_bytes: usize) -> io::Result<Option<Frame>> {
        let frame = self.read_frame(from, max_bytes);
        if let Err(error) = &frame {
            self.error = Some(format!("can't be read: {error}"));
        }
        frame
    }

    fn read_frame(&mut self, from: u64, max_bytes: usize) -> io::Result<Option<Frame>> {
        let from = from.max(self.segments[0].first_seq);
        if from > self.durable {
            return Ok(None);
        }
        let mut at = self.seek(from);
        let mut frame = Frame { first_seq: from, records: Vec::new() };
        let mut bytes = 0;
        while let Some(index) = self.segments.iter().position(|s| s.first_seq == at.first_seq) {
            let (file, size) = self.open_segment(index)?;
            let end = each_record(&file, at.offset, size, |seq, payload| {
                if seq < from {
                    return true;
                }
                if frame.records.is_empty() {
                    frame.first_seq = seq;
                }
                let goes_on = seq == frame.first_seq + frame.records.len() as u64;
                if !goes_on || bytes >= max_bytes {
                    return false;
                }
                bytes += payload.len();
                frame.records.push(payload.to_vec());
                true
            })?;
            at.offset = end.offset;
            let next = self.segments.get(index + 1);
            match next.filter(|_| !end.stopped && bytes < max_bytes) {
                Some(next) => at = Position::start_of(next.first_seq),
                None => break,
            }
        }
        if frame.records.is_empty() {
            return Ok(None);
        }
        self.count_lost(from, frame.first_seq);
        self.reader = Position { seq: frame.last_seq() + 1, ..at };
        Ok(Some(frame))
    }

    /// A segment and its size. One that somebody has removed or cut short holds
    /// what it still holds, which may be nothing.
    fn open_segment(&self, index: usize) -> io::Result<(File, u64)> {
        let Segment { first_seq, bytes } = self.segments[index];
        match File::open(self.path(first_seq)) {
            Ok(file) => {
                let size = file.metadata()?.len().min(bytes);
                Ok((file, size))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok((self.active.try_clone()?, 0)),
            Err(error) => Err(error),
        }
    }

    /// Counts the records from `from` to before `first_seq` as lost to damage,
    /// once, however often they are asked for.
    fn count_lost(&mut self, from: u64, first_seq: u64) {
        self.corrupt += first_seq.saturating_sub(from.max(self.lost_before));
        self.lost_before = self.lost_before.max(first_seq);
    }

    /// Where to look for `seq`: where the last read ended, or the start of its segment.
    fn seek(&self, seq: u64) -> Position {
        if self.reader.seq == seq
            && self.segments.iter().any(|s| s.first_seq == self.reader.first_seq)
        {
            return self.reader;
        }
        let segment = self.segments.iter().rfind(|s| s.first_seq <= seq);
        Position::start_of(segment.unwrap_or(&self.segments[0]).first_seq)
    }

    /// Notes that everything up to `seq` has arrived, and gives its space back.
    pub fn acknowledge(&mut self, seq: u64) {
        self.cursor.acked = self.cursor.acked.max(seq.min(self.durable));
        self.forget_acked();
    }

    /// Writes the cursor. Not synced: a cursor lost with the power means
    /// sending again, never losing.
    pub fn save_cursor(&mut self) -> io::Result<()> {
        self.cursor.save()
    }

    fn forget_acked(&mut self) {
        let acked = self.cursor.acked;
        let done =
            self.segments.windows(2).take_while(|pair| pair[1].first_seq <= acked + 1).count();
        self.remove(done);
    }

    fn drop_oldest(&mut self) {
        let sizes: Vec<u64> = self.segments.iter().map(|segment| segment.bytes).collect();
        let excess = retention::segments_to_drop(&sizes, self.cap);
        if excess > 0 {
            let kept_from = self.segments[excess].first_seq;
            let lost_from = self.segments[0].first_seq.max(self.cursor.acked + 1);
            self.cursor.dropped += kept_from.saturating_sub(lost_from);
            self.remove(excess);
        }
    }

    fn remove(&mut self, count: usize) {
        for segment in self.segments.drain(..count) {
            let path = self.dir.join(file_name(segment.first_seq));
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "can't remove a segment");
            }
        }
    }

    fn path(&self, first_seq: u64) -> PathBuf {
        self.dir.join(file_name(first_seq))
    }

    /// The newest durable sequence number.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Records not accepted since it was opened.
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// How it stands.
    pub fn figures(&self) -> api::QueueClass {
        let first_seq = self.segments[0].first_seq;
        api::QueueClass {
            class: self.class.name().into(),
            first_seq,
            durable_seq: self.durable,
            last_seq: self.last,
            acked_seq: self.cursor.acked,
            pending: self.last - self.cursor.acked.max(first_seq - 1),
            bytes: self.segments.iter().map(|segment| segment.bytes).sum(),
            cap_bytes: self.cap,
            segments: self.segments.len() as u32,
            dropped: self.cursor.dropped,
            corrupt: self.corrupt,
            rejected: self.rejected,
            commit_window_ms: self.window.as_millis() as u64,
            error: self.error.clone(),
        }
    }
}

/// How the log in `dir` stands on disk, without touching it: for the technician
/// whose agent is dead, and maybe starting.
pub fn inspect(dir: &Path, class: Class) -> io::Result<api::QueueClass> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let first_seq = sequence_in(&entry.path());
        segments.extend(first_seq.map(|seq| (seq, entry.path(), entry.metadata())));
    }
    segments.sort_by_key(|(seq, ..)| *seq);
    let mut bytes = [0; 20];
    let cursor = File::open(dir.join("cursor")).and_then(|f| f.read_exact_at(&mut bytes, 0));
    let (acked, dropped) = cursor.ok().and_then(|()| decode_cursor(&bytes)).unwrap_or_default();
    let (first_seq, mut last) = match (segments.first(), segments.last()) {
        (Some((first, ..)), Some((newest, path, _))) => {
            let bytes = fs::read(path)?;
            let records = std::iter::successors(segment::next_record(&bytes, HEADER_BYTES), |r| {
                segment::next_record(&bytes, r.end)
            });
            (*first, records.last().map_or(newest - 1, |record| record.seq))
        }
        _ => (acked + 1, acked),
    };
    last = last.max(acked);
    Ok(api::QueueClass {
        class: class.name().into(),
        first_seq,
        durable_seq: last,
        last_seq: last,
        acked_seq: acked,
        pending: last - acked.max(first_seq - 1).min(last),
        bytes: segments.iter().filter_map(|(_, _, m)| m.as_ref().ok()).map(|m| m.len()).sum(),
        segments: segments.len() as u32,
        dropped,
        ..Default::default()
    })
}

fn file_name(first_seq: u64) -> String {
    format!("{first_seq:020}.seg")
}

/// What a directory holds.
#[derive(Default)]
struct Found {
    /// Its segments, in order.
    segments: Vec<Segment>,
    /// The highest sequence number that a segment set aside could have held:
    /// it may have been sent, so it is never used again.
    used: u64,
}

/// Looks through `dir`. Files that are not ours are left alone; a segment of
/// another incarnation or with a damaged header is set aside under another
/// name, for a person to look at.
fn find_segments(dir: &Path, class: Class, incarnation: Incarnation) -> io::Result<Found> {
    let mut found = Found::default();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(first_seq) = sequence_in(&path) else { continue };
        let file = File::open(&path)?;
        let bytes = file.metadata()?.len();
        let mut header = [0; HEADER_BYTES];
        if bytes < HEADER_BYTES as u64 {
            // A crash between making it and writing its header: nothing was in it.
            fs::remove_file(&path)?;
            continue;
        }
        file.read_exact_at(&mut header, 0)?;
        if Header::decode(&header) == Some(Header { incarnation, class, first_seq }) {
            found.segments.push(Segment { first_seq, bytes });
        } else {
            tracing::warn!(path = %path.display(), "set aside: not a segment of this spool");
            fs::rename(&path, path.with_extension("seg.bad"))?;
            let records = bytes / (RECORD_HEADER_BYTES as u64 + 1);
            found.used = found.used.max(first_seq.saturating_add(records).min(MAX_SEQ));
        }
    }
    found.segments.sort_by_key(|segment| segment.first_seq);
    forget_set_aside(dir)?;
    Ok(found)
}

/// Removes all but the newest segments that were set aside.
fn forget_set_aside(dir: &Path) -> io::Result<()> {
    let entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    let is_bad = |path: &PathBuf| path.to_string_lossy().ends_with(".seg.bad");
    let mut bad: Vec<_> = entries.iter().map(fs::DirEntry::path).filter(is_bad).collect();
    bad.sort();
    bad.iter().rev().skip(MAX_SET_ASIDE).try_for_each(fs::remove_file)
}

/// The sequence number that a segment's name tells; `None` if it is no segment.
fn sequence_in(path: &Path) -> Option<u64> {
    let seq = path.file_name()?.to_str()?.strip_suffix(".seg")?.parse().ok()?;
    (path.ends_with(file_name(seq)) && seq <= MAX_SEQ).then_some(seq)
}

/// Looks through the newest segment: its last whole record's sequence number,
/// its size without the torn tail, and the file. What is found is made durable
/// before anyone may send it: a killed process leaves records that only the
/// page cache holds.
fn recover(dir: &Path, newest: Segment) -> io::Result<(u64, u64, File)> {
    let path = dir.join(file_name(newest.first_seq));
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let bytes = fs::read(&path)?;
    let (mut last, mut end) = (newest.first_seq - 1, HEADER_BYTES);
    while let Some(record) = segment::next_record(&bytes, end) {
        (last, end) = (record.seq, record.end);
    }
    if end < bytes.len() {
        tracing::warn!(path = %path.display(), bytes = bytes.len() - end, "cut off a torn tail");
        file.set_len(end as u64)?;
    }
    file.sync_all()?;
    Ok((last, end as u64, file))
}

/// Makes a segment, durable with its directory entry before anything is in it.
fn create(
    dir: &Path,
    class: Class,
    incarnation: Incarnation,
    first_seq: u64,
) -> io::Result<(Segment, File)> {
    let path = dir.join(file_name(first_seq));
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all_at(&Header { incarnation, class, first_seq }.encode(), 0)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok((Segment { first_seq, bytes: HEADER_BYTES as u64 }, file))
}

/// Where a walk over records ended.
struct End {
    /// Offset of the first record that was not taken.
    offset: u64,
    /// The walk was ended by its visitor, not by the segment's end.
    stopped: bool,
}

/// Visits the whole records of a segment of `size` bytes from `offset` on, in
/// order, until `visit` wants no more.
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

/// How far the core has acknowledged, and what was dropped: 20 bytes in the
/// file `cursor`, rewritten in place. A damaged one starts from the oldest
/// record again.
#[derive(Debug)]
struct Cursor {
    file: File,
    acked: u64,
    dropped: u64,
    saved: (u64, u64),
}

impl Cursor {
    fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("cursor");
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = [0; 20];
        let (acked, dropped) = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => decode_cursor(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => (0, 0),
            Err(error) => return Err(error),
        };
        Ok(Self { file, acked, dropped, saved: (acked, dropped) })
    }

    fn save(&mut self) -> io::Result<()> {
        let now = (self.acked, self.dropped);
        if now != self.saved {
            let mut bytes = [0; 20];
            bytes[..8].copy_from_slice(&self.acked.to_le_bytes());
            bytes[8..16].copy_from_slice(&self.dropped.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..16]);
            bytes[16..].copy_from_slice(&crc.to_le_bytes());
            self.file.write_all_at(&bytes, 0)?;
            self.saved = now;
        }
        Ok(())
    }
}

fn decode_cursor(bytes: &[u8; 20]) -> Option<(u64, u64)> {
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let crc = u32::from_le_bytes(bytes[16..].try_into().ok()?);
    (crc32c::crc32c(&bytes[..16]) == crc).then_some((number(0)?, number(8)?))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const INCARNATION: Incarnation = Incarnation(7);

    fn open(dir: &TempDir) -> Log {
        Log::open(dir.path(), Class::Metric, INCARNATION).expect("the directory is writable")
    }

    /// Appends and commits records `from..=to`, each its own number in 100 bytes.
    fn fill(log: &mut Log, from: u64, to: u64) {
        for seq in from..=to {
            assert_eq!(log.append(format!("{seq:0100}").as_bytes(), Instant::now()), Ok(seq));
            if seq % 100 == 0 {
                log.commit(Instant::now()).expect("a commit");
            }
        }
        log.commit(Instant::now()).expect("a commit");
    }

    /// Every record the log will send, from its cursor on, by number and content.
    fn drain(log: &mut Log) -> Vec<u64> {
        let mut seqs = Vec::new();
        let mut from = log.cursor.acked + 1;
        while let Some(frame) = log.read(from, 1 << 14).expect("a read") {
            for (seq, record) in (frame.first_seq..).zip(&frame.records) {
                assert_eq!(record, format!("{seq:0100}").as_bytes());
                seqs.push(seq);
            }
            from = frame.last_seq() + 1;
        }
        seqs
    }

    fn newest_segment(dir: &TempDir) -> PathBuf {
        let mut paths: Vec<_> =
            fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").path()).collect();
        paths.retain(|path| sequence_in(path).is_some());
        paths.sort();
        paths.pop().expect("a segment")
    }

    #[test]
    fn sends_what_was_committed_in_order_and_once_more_after_reopening() {
        let dir = TempDir::new().expect("a directory");
        let mut log = open(&dir);
        fill(&mut log, 1, 20_000);
        assert!(log.segments.len() > 3, "the test should span segments");
        assert_eq!(drain(&mut log), Vec::from_iter(1..=20_000));
        drop(log);
        assert_eq!(drain(&mut open(&dir)), Vec::from_iter(1..=20_000));
    }

    #[test]
    fn nothing_is_sent_before_it_is_durable() {
        let dir = TempDir::new().expect("a directory");
        let mut log = open(&dir);
        log.append(b"waiting", Instant::now()).expect("room");
        assert_eq!(log.read(1, 1000).expect("a read"), None);
        drop(log);
        assert_eq!(open(&dir).figures().last_seq, 0);
    }

    #[test]
    fn acknowledged_space_is_given_back_and_numbers_go_on() {
        let dir = TempDir::new().expect("a directory");
        let mut log = open(&dir);
        fill(&mut log, 1, 20_000);
        log.acknowledge(20_000);
        assert_eq!(log.figures().segments, 1);
        log.save_cursor().expect("a cursor");
        drop(log);
        let mut log = open(&dir);
        assert_eq!((log.cursor.acked, log.figures().pending), (20_000, 0));
        let seen = inspect(dir.path(), Class::Metric).expect("a look");
        assert_eq!((seen.acked_seq, seen.last_seq, seen.pending), (20_000, 20_000, 0));
        fill(&mut log, 20_001, 20_010);
        assert_eq!(drain(&mut log), Vec::from_iter(20_001..=20_010));
    }

    #[test]
    fn a_damaged_cursor_sends_again_rather_than_losing() {
        let dir = TempDir::new().expect("a directory");
        let mut log = open(&dir);
        fill(&mut log, 1, 100);
        log.acknowledge(50);
        log.save_cursor().expect("a cursor");
        drop(log);
        fs::write(dir.path().join("cursor"), [0xff; 20]).expect("a write");
        assert_eq!(drain(&mut open(&dir)), Vec::from_iter(1..=100));
    }

    #[test]
    fn a_torn_tail_is_cut_off_wherever_it_is_torn() {
        let dir = TempDir::new().expect("a directory");
        fill(&mut open(&dir), 1, 3);
        let path = newest_segment(&dir);
        let whole = fs::read(&path).expect("a segment");
        let record = (whole.len() - HEADER_BYTES) / 3;
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).expect("a write");
            let records = cut.saturating_sub(HEADER_BYTES) / record;
            let mut log = open(&dir);
            assert_eq!(drain(&mut log), Vec::from_iter(1..=records as u64), "cut at {cut}");
            drop(log);
            fs::remove_dir_all(&dir).and_then(|()| fs::create_dir(&dir)).expect("an empty one");
        }
    }

    #[test]
    fn a_flipped_byte_costs_one_record_and_is_counted_once() {
        let dir = TempDir::new().expect("a directory");
        fill(&mut open(&dir), 1, 10);
        let path = newest_segment(&dir);
        let whole = fs::read(&path).expect("a segment");
        for at in HEADER_BYTES..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            fs::write(&path, damaged).expect("a write");
            let mut log = open(&dir);
            let lost = 1 + ((at - HEADER_BYTES) / (RECORD_HEADER_BYTES + 100)) as u64;
            let kept: Vec<u64> = (1..=10).filter(|&seq| seq != lost).collect();
            assert_eq!((drain(&mut log), drain(&mut log)), (kept.clone(), kept), "byte {at}");
            // The last record's loss can't be told from a torn tail.
            assert_eq!(log.figures().corrupt, u64::from(lost < 10), "byte {at}");
        }
    }

    #[test]
    fn a_segment_that_is_missing_or_not_ours_is_passed_over() {
        let dir = TempDir::new().expect("a directory");
        let mut log = open(&dir);
        fill(&mut log, 1, 20_000);
        let (second, third) = (log.segments[1].first_seq, log.segments[2].first_seq);
        let after = log.segments[3].first_seq;
        fs::remove_file(log.path(second)).expect("a removal");
        fs::write(log.path(third), [0; 4096]).expect("a write");
        fs::write(dir.path().join("notes.txt"), "not ours").expect("a write");
        drop(log);
        let mut log = open(&dir);
        let kept: Vec<u64> = (1..second).chain(after..=20_000).collect();
        assert_eq!(drain(&mut log), kept);
        assert_eq!(log.figures().corrupt, after - second);
    }

    #[test]
    fn a_segment_removed_or_cut_short_under_us_costs_what_it_held() {
        let dir = TempDir::new().expect("a directory");
        let mut log = open(&dir);
        fill(&mut log, 1, 20_000);
        let starts: Vec<u64> = log.segments.iter().map(|segment| segment.first_seq).collect();
        fs::remove_file(log.path(starts[1])).expect("a removal");
        let cut = File::options().write(true).open(log.path(starts[2])).expect("a segment");
        cut.set_len((HEADER_BYTES + 10 * (RECORD_HEADER_BYTES + 100)) as u64).expect("a cut");
        let kept = (1..starts[1]).chain((starts[2]..).take(10)).chain(starts[3]..=20_000);
        assert_eq!(drain(&mut log), Vec::from_iter(kept));
        let lost = (starts[2] - starts[1]) + (starts[3] - starts[2] - 10);
        assert_eq!(log.figures().corrupt, lost);
    }

    #[test]
    fn a_number_that_may_have_been_sent_is_never_used_again() {
        let dir = TempDir::new().expect("a directory");
        fill(&mut open(&dir), 1, 100);
        fs::write(newest_segment(&dir), vec![0; 11_648]).expect("a write");
        let last = open(&dir).figures().last_seq;
        assert!(last >= 100, "{last}");
        assert_eq!(open(&dir).figures().last_seq, last);
    }

    #[test]
    fn beyond_the_cap_the_oldest_go_and_are_counted() {
        let dir = TempDir::new().expect("a directory");
        let mut log = open(&dir);
        log.limit(1 << 20, Duration::ZERO);
        fill(&mut log, 1, 20_000);
        let figures = log.figures();
        assert!(figures.bytes <= 1 << 20, "{}", figures.bytes);
        assert_eq!(figures.dropped, figures.first_seq - 1);
        assert_eq!(drain(&mut log), Vec::from_iter(figures.first_seq..=20_000));
    }

    #[test]
    fn a_disk_that_fails_costs_nothing_that_memory_can_hold() {
        let dir = TempDir::new().expect("a directory");
        let mut log = open(&dir);
        let whole = std::mem::replace(
            &mut log.active,
            File::open("/dev/null").expect("a device that can't be written so"),
        );
        log.append(b"kept", Instant::now()).expect("room");
        log.commit(Instant::now()).expect_err("no write through a read-only descriptor");
        assert!(log.figures().error.is_some());
        log.active = whole;
        log.commit(Instant::now()).expect("a commit");
        assert_eq!(log.read(1, 1000).expect("a read").map(|frame| frame.records.len()), Some(1));
        assert!(log.figures().error.is_none());
    }
}
