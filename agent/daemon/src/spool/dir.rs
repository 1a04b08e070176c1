//! A log's directory: which segments it holds, and how one is made.
//!
//! Nothing that is found is a reason to fail: what can't be read is set aside.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::fcntl::{FallocateFlags, fallocate};
use purlin_core::retention::Tier;

use super::{
    seal::{Keys, SEAL_BYTES, Seal},
    segment::{self, HEADER_BYTES, Header, RECORD_HEADER_BYTES},
};

/// Beyond any real log (a million records a second for 290,000 years), so that
/// arithmetic on a number from a damaged name can't overflow.
pub const MAX_SEQ: u64 = u64::MAX / 2;
/// What the name of a segment ends in that is set aside until there is a key for it.
/// None is ever removed: it is whole.
pub const SEALED: &str = "sealed";
/// Segments set aside that are kept for a person to look at.
const MAX_SET_ASIDE: usize = 8;

/// What a log knows of one of its segments.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Its first sequence number, and its name.
    pub first_seq: u64,
    /// Bytes of header and records, without room that is reserved.
    pub bytes: u64,
    /// How far it is thinned.
    pub tier: Tier,
    /// When its newest record came, in milliseconds since 1970 by a clock that may
    /// have been wrong.
    pub newest_ms: u64,
    /// What its records are sealed with, if they are.
    pub seal: Option<Seal>,
}

impl Segment {
    /// One that could not be made.
    pub fn unmade(first_seq: u64) -> Self {
        let bytes = HEADER_BYTES as u64;
        Self { first_seq, bytes, tier: Tier::Raw, newest_ms: 0, seal: None }
    }
}

/// What a directory holds.
#[derive(Default)]
pub struct Found {
    /// Its segments, in order.
    pub segments: Vec<Segment>,
    /// The highest sequence number that a segment set aside could have held: it
    /// may have been sent, so it is never used again.
    pub used: u64,
}

/// A segment's name.
pub fn file_name(first_seq: u64) -> String {
    format!("{first_seq:020}.seg")
}

/// The sequence number that a segment's name tells; `None` if it is no segment.
pub fn sequence_in(path: &Path) -> Option<u64> {
    let seq = path.file_name()?.to_str()?.strip_suffix(".seg")?.parse().ok()?;
    (path.ends_with(file_name(seq)) && seq <= MAX_SEQ).then_some(seq)
}

/// Segments that were set aside because there was no key for them, and that can be
/// opened now, by their first numbers.
pub fn openable(dir: &Path, like: &Header, keys: &Keys) -> io::Result<Vec<u64>> {
    let mut first = Vec::new();
    for (seq, path) in sealed_aside(dir)? {
        if path.with_extension("").exists() {
            continue;
        }
        if let Ok(Look::Ours(segment, _)) = look(&path, seq, like)
            && segment.seal.is_some_and(|seal| keys.opens(&seal))
        {
            first.push(seq);
        }
    }
    first.sort_unstable();
    Ok(first)
}

/// All that were set aside for want of a key.
fn sealed_aside(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let paths = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
    let paths = paths.collect::<io::Result<Vec<_>>>()?;
    let aside = paths.into_iter().filter(|it| it.extension().is_some_and(|it| it == SEALED));
    Ok(aside.filter_map(|path| Some((sequence_in(&path.with_extension(""))?, path))).collect())
}

/// Puts one of them back.
pub fn put_back(dir: &Path, first_seq: u64) -> io::Result<()> {
    let path = dir.join(file_name(first_seq));
    fs::rename(path.with_extension(format!("seg.{SEALED}")), path)
}

/// Looks through `dir`. Files that are not ours are left alone; a segment of
/// another incarnation or with a damaged header is set aside under another name,
/// for a person to look at; one that was thinned into another is removed.
pub fn find(dir: &Path, like: &Header, keys: &Keys) -> io::Result<Found> {
    let mut found = Found::default();
    let mut headers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            // A crash before it took another's place.
            fs::remove_file(&path)?;
        }
        let Some(first_seq) = sequence_in(&path) else { continue };
        match look(&path, first_seq, like) {
            Ok(Look::Ours(segment, _)) if segment.seal.is_some_and(|it| !keys.opens(&it)) => {
                tracing::error!(path = %path.display(), "set aside: sealed, and there is no such key");
                let (last, _) = last_record(&fs::read(&path)?, first_seq);
                found.used = found.used.max(last.min(MAX_SEQ));
                if last < first_seq {
                    // Begun, and nothing was in it.
                    fs::remove_file(&path)?;
                    continue;
                }
                fs::rename(&path, path.with_extension(format!("seg.{SEALED}")))?;
            }
            Ok(Look::Ours(segment, through)) => headers.push((segment, through)),
            Ok(Look::Empty) => fs::remove_file(&path)?,
            other => {
                let why = other.err().map_or("its header is not ours".into(), |e| e.to_string());
                tracing::warn!(path = %path.display(), why, "set aside: not a segment of this spool");
                let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
                fs::rename(&path, path.with_extension("seg.bad"))?;
                let records = bytes / (RECORD_HEADER_BYTES as u64 + 1);
                found.used = found.used.max(first_seq.saturating_add(records).min(MAX_SEQ));
            }
        }
    }
    // Numbers of what was set aside before were used as well.
    if let Some((first_seq, path)) = sealed_aside(dir)?.into_iter().max() {
        let (last, _) = last_record(&fs::read(path)?, first_seq);
        found.used = found.used.max(last.min(MAX_SEQ));
    }
    let (segments, replaced, through) = in_order(headers);
    for segment in replaced {
        fs::remove_file(dir.join(file_name(segment.first_seq)))?;
    }
    found.segments = segments;
    found.used = found.used.max(through);
    forget_set_aside(dir)?;
    Ok(found)
}

/// The same without touching anything: what is no segment of this log is passed over.
pub fn list(dir: &Path, like: &Header, keys: &Keys) -> io::Result<Vec<Segment>> {
    let mut headers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(first_seq) = sequence_in(&path) else { continue };
        if let Ok(Look::Ours(segment, through)) = look(&path, first_seq, like)
            && segment.seal.is_none_or(|seal| keys.opens(&seal))
        {
            headers.push((segment, through));
        }
    }
    Ok(in_order(headers).0)
}

/// Segments in order, those that were thinned into another, and the last number that
/// one stands for.
fn in_order(mut headers: Vec<(Segment, u64)>) -> (Vec<Segment>, Vec<Segment>, u64) {
    headers.sort_by_key(|(segment, _)| segment.first_seq);
    let (mut segments, mut replaced, mut stood_for) = (Vec::new(), Vec::new(), 0);
    for (segment, through) in headers {
        if segment.first_seq <= stood_for {
            replaced.push(segment);
            continue;
        }
        stood_for = through;
        segments.push(segment);
    }
    (segments, replaced, stood_for)
}

/// What one file is.
enum Look {
    Ours(Segment, u64),
    /// A crash between making it and writing its header: nothing was in it.
    Empty,
    Other,
}

fn look(path: &Path, first_seq: u64, like: &Header) -> io::Result<Look> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let bytes = metadata.len();
    let mut header = [0; HEADER_BYTES];
    if bytes < HEADER_BYTES as u64 {
        return Ok(Look::Empty);
    }
    file.read_exact_at(&mut header, 0)?;
    let mut seal = [0; RECORD_HEADER_BYTES + SEAL_BYTES];
    // A shorter one has none, and no records.
    _ = file.read_exact_at(&mut seal, HEADER_BYTES as u64);
    let ours = |header: &Header| {
        let of_log = (header.incarnation, header.class) == (like.incarnation, like.class);
        of_log && header.first_seq == first_seq
    };
    Ok(match Header::decode(&header).filter(ours) {
        // It is made with its seal: this one holds nothing yet.
        Some(Header { sealed: true, .. }) if bytes < (HEADER_BYTES + seal.len()) as u64 => {
            Look::Empty
        }
        Some(Header { sealed: true, .. }) if Seal::read(&seal).is_none() => Look::Other,
        Some(Header { tier, through, sealed, .. }) => {
            let newest_ms = metadata.modified().map_or(0, unix_ms);
            let seal = Seal::read(&seal).filter(|_| sealed);
            Look::Ours(Segment { first_seq, bytes, tier, newest_ms, seal }, through)
        }
        None if bytes == HEADER_BYTES as u64 && is_zero(&header) => Look::Empty,
        None => Look::Other,
    })
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Removes all but the newest segments that were set aside.
fn forget_set_aside(dir: &Path) -> io::Result<()> {
    let entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    let is_bad = |path: &PathBuf| path.to_string_lossy().ends_with(".seg.bad");
    let mut bad: Vec<_> = entries.iter().map(fs::DirEntry::path).filter(is_bad).collect();
    bad.sort();
    bad.iter().rev().skip(MAX_SET_ASIDE).try_for_each(fs::remove_file)
}

/// Looks through the newest segment: its last whole record's sequence number,
/// its size without the torn tail, and the file. What is found is made durable
/// before anyone may send it: a killed process leaves records that only the
/// page cache holds.
pub fn recover(dir: &Path, newest: Segment) -> io::Result<(u64, u64, File)> {
    let path = dir.join(file_name(newest.first_seq));
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let bytes = fs::read(&path)?;
    let (last, end) = last_record(&bytes, newest.first_seq);
    if !is_zero(&bytes[end..]) {
        tracing::warn!(path = %path.display(), bytes = bytes.len() - end, "cut off a torn tail");
        file.set_len(end as u64)?;
    }
    file.sync_all()?;
    Ok((last, end as u64, file))
}

/// The number of a segment's last whole record, or the one before its first, and where
/// it ends.
pub fn last_record(bytes: &[u8], first_seq: u64) -> (u64, usize) {
    let (mut last, mut end) = (first_seq - 1, HEADER_BYTES);
    while let Some(record) = segment::next_record(bytes, end) {
        (last, end) = (record.seq.max(last), record.end);
    }
    (last, end)
}

/// Makes a segment with `room` bytes reserved, durable with its directory entry
/// before anything is in it. With the room there, a commit writes its own blocks
/// and no metadata: on ext4 a third of the wear (docs/decisions/018).
pub fn create(dir: &Path, header: &Header, room: u64, keys: &Keys) -> io::Result<(Segment, File)> {
    let (head, seal) = head(header, keys)?;
    let path = dir.join(file_name(header.first_seq));
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all_at(&head, 0)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    // Not every file system can, and a full one won't: then it grows as it is written.
    _ = fallocate(&file, FallocateFlags::empty(), 0, room as i64);
    let (first_seq, tier) = (header.first_seq, header.tier);
    let bytes = head.len() as u64;
    Ok((Segment { first_seq, bytes, tier, newest_ms: now_ms(), seal }, file))
}

/// What a segment begins with, and what it is sealed with.
fn head(header: &Header, keys: &Keys) -> io::Result<(Vec<u8>, Option<Seal>)> {
    let seal = keys.fresh()?;
    let mut head = Header { sealed: seal.is_some(), ..*header }.encode().to_vec();
    if let Some(seal) = &seal {
        segment::encode_record(0, &seal.encode(), &mut head);
    }
    Ok((head, seal))
}

/// Puts a whole segment in place of the one that has its first number: after a
/// power cut either is there.
pub fn replace(
    dir: &Path,
    header: &Header,
    records: &[u8],
    newest_ms: u64,
    keys: &Keys,
) -> io::Result<Segment> {
    let (mut content, seal) = head(header, keys)?;
    match &seal {
        Some(seal) => content.extend(keys.seal(seal, header, records)),
        None => content.extend(records),
    }
    let name = file_name(header.first_seq);
    let temporary = dir.join(&name).with_extension("new");
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
    file.write_all_at(&content, 0)?;
    file.set_modified(UNIX_EPOCH + Duration::from_millis(newest_ms))?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(&name))?;
    File::open(dir)?.sync_all()?;
    let bytes = content.len() as u64;
    Ok(Segment { first_seq: header.first_seq, bytes, tier: header.tier, newest_ms, seal })
}

/// Now, by the same clock as a file's time of modification.
pub fn now_ms() -> u64 {
    unix_ms(SystemTime::now())
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
