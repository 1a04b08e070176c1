//! What the far side has taken of each log, on disk: so that what the broker sends again,
//! after a kill or by a node that lost an answer, is known.
//!
//! An entry is written and synced before the broker is told that its messages are taken.
//! The file is written anew when most of it is said twice.
//!
//! ```text
//! magic, the last byte its version    8 bytes
//! each entry: its length              u32, little-endian
//!             CRC-32C of it           u32
//!             a CollectedLog
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use prost::Message;
use purlin_core::{
    arrival::{Arrival, Range},
    identity::Class,
    seen::Seen,
};
use purlin_proto::v1::CollectedLog;

use super::taken::Log;

const MAGIC: [u8; 8] = *b"PURLCOL\x01";
/// Longest entry that is believed.
const MAX_ENTRY_BYTES: usize = 1 << 20;
/// It is written anew when it has grown by this and by what it had then.
const GROWS_BYTES: u64 = 4 << 20;

/// What a batch added to a log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The log.
    pub log: Log,
    /// Numbers that are accounted for.
    pub range: Option<Range>,
    /// Holes that were told.
    pub holes: Vec<Range>,
    /// Gaps that were told, with their causes.
    pub gaps: Vec<(i32, Range)>,
}

/// The journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// What it had when it was written anew.
    base: u64,
}

type Logs = HashMap<Log, Arrival>;

impl Journal {
    /// Reads it, without what is torn at its end, and writes it anew.
    pub fn open(path: PathBuf) -> io::Result<(Self, Logs)> {
        let logs = read(&path)?;
        let journal = Self::anew(path, &logs)?;
        Ok((journal, logs))
    }

    /// Adds entries and syncs them.
    pub fn add(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut bytes = Vec::new();
        entries.iter().for_each(|it| frame(&mut bytes, &it.to_wire()));
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.bytes += bytes.len() as u64;
        if self.bytes > 2 * self.base + GROWS_BYTES {
            // From the file and not from memory: that has what is on its way too.
            let logs = read(&self.path)?;
            *self = Self::anew(self.path.clone(), &logs)?;
        }
        Ok(())
    }

    fn anew(path: PathBuf, logs: &Logs) -> io::Result<Self> {
        let mut bytes = MAGIC.to_vec();
        logs.iter().for_each(|(log, arrival)| frame(&mut bytes, &whole(log, arrival)));
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        sync_dir(&path)?;
        let bytes = bytes.len() as u64;
        Ok(Self { path, file, bytes, base: bytes })
    }
}

/// Makes a name in a directory durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

impl Entry {
    fn to_wire(&self) -> CollectedLog {
        CollectedLog {
            ranges: self.range.iter().flat_map(|(a, b)| [*a, *b]).collect(),
            holes: self.holes.iter().flat_map(|(a, b)| [*a, *b]).collect(),
            gaps: self.gaps.iter().flat_map(|(c, (a, b))| [*c as u64, *a, *b]).collect(),
            ..head(&self.log)
        }
    }
}

fn head(log: &Log) -> CollectedLog {
    CollectedLog {
        fleet: log.fleet.clone(),
        node: log.node.clone(),
        incarnation: log.incarnation,
        class: log.class as i32,
        ..CollectedLog::default()
    }
}

fn whole(log: &Log, arrival: &Arrival) -> CollectedLog {
    let flat = |seen: &Seen| seen.list().iter().flat_map(|(a, b)| [*a, *b]).collect();
    let gaps = arrival
        .gaps
        .iter()
        .flat_map(|(cause, seen)| seen.list().iter().flat_map(|(a, b)| [*cause as u64, *a, *b]));
    CollectedLog {
        ranges: flat(&arrival.seen),
        holes: flat(&arrival.holes),
        gaps: gaps.collect(),
        ..head(log)
    }
}

fn frame(bytes: &mut Vec<u8>, entry: &CollectedLog) {
    let entry = entry.encode_to_vec();
    bytes.extend((entry.len() as u32).to_le_bytes());
    bytes.extend(crc32c::crc32c(&entry).to_le_bytes());
    bytes.extend(entry);
}

fn read(path: &Path) -> io::Result<Logs> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Logs::new()),
        bytes => bytes?,
    };
    let Some(mut rest) = bytes.strip_prefix(&MAGIC) else {
        let what = "it is no journal of this version: move it away to begin anew";
        return Err(io::Error::other(what));
    };
    let mut logs = Logs::new();
    while let Some((entry, after)) = next(rest) {
        note(&mut logs, &entry);
        rest = after;
    }
    Ok(logs)
}

/// The next whole entry, and what is behind it.
fn next(bytes: &[u8]) -> Option<(CollectedLog, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_ENTRY_BYTES || length > rest.len() {
        return None;
    }
    let (entry, rest) = rest.split_at(length);
    let whole = crc32c::crc32c(entry) == u32::from_le_bytes(*sum);
    Some((CollectedLog::decode(entry).ok().filter(|_| whole)?, rest))
}

fn note(logs: &mut Logs, entry: &CollectedLog) {
    let Some(class) = Class::ALL.into_iter().find(|it| *it as i32 == entry.class) else { return };
    let log = Log {
        fleet: entry.fleet.clone(),
        node: entry.node.clone(),
        incarnation: entry.incarnation,
        class,
    };
    let Arrival { mut seen, mut gaps, mut holes, .. } = take(logs, &log);
    entry.ranges.chunks_exact(2).for_each(|it| seen.note(it[0], it[1]));
    entry.holes.chunks_exact(2).for_each(|it| holes.note(it[0], it[1]));
    for it in entry.gaps.chunks_exact(3) {
        gaps.entry(it[0] as i32).or_default().note(it[1], it[2]);
    }
    logs.insert(log, Arrival::new(seen, gaps, holes));
}

fn take(logs: &mut Logs, log: &Log) -> Arrival {
    logs.remove(log)
        .unwrap_or_else(|| Arrival::new(Seen::default(), BTreeMap::new(), Seen::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(first: u64, last: u64) -> Entry {
        let log = Log { fleet: "f".into(), node: "n".into(), incarnation: 5, class: Class::Metric };
        Entry { log, range: Some((first, last)), holes: vec![(3, 3)], gaps: vec![(2, (1, 2))] }
    }

    #[test]
    fn what_was_added_is_read_back_and_a_torn_end_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, logs) = Journal::open(path.clone()).unwrap();
        assert!(logs.is_empty());
        journal.add(&[entry(1, 4), entry(8, 9)]).unwrap();
        let whole = fs::read(&path).unwrap();
        journal.add(&[entry(5, 7)]).unwrap();
        let longer = fs::read(&path).unwrap();
        for cut in whole.len()..longer.len() {
            fs::write(&path, &longer[..cut]).unwrap();
            let logs = read(&path).unwrap();
            let arrival = &logs[&entry(0, 0).log];
            assert_eq!(arrival.seen.list(), [(1, 4), (8, 9)], "{cut}");
            assert_eq!(arrival.holes.list(), [(3, 3)]);
            assert!(arrival.gaps[&2].has(1, 2));
        }
        fs::write(&path, &longer).unwrap();
        let (mut journal, logs) = Journal::open(path.clone()).unwrap();
        assert_eq!(logs[&entry(0, 0).log].seen.list(), [(1, 9)]);
        journal.add(&[entry(10, 10)]).unwrap();
        assert_eq!(read(&path).unwrap()[&entry(0, 0).log].seen.list(), [(1, 10)]);
    }

    #[test]
    fn it_is_written_anew_when_it_has_grown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        let many: Vec<_> = (0..5000).map(|n| entry(n, n)).collect();
        for _ in 0..40 {
            journal.add(&many).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() < 2 * GROWS_BYTES);
        assert_eq!(read(&path).unwrap()[&entry(0, 0).log].seen.list(), [(0, 4999)]);
    }
}
