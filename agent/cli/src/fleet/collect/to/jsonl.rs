//! JSON lines, in files by node and day (UTC, by the node's clock): what any stream
//! engine, or a person with `jq`, reads.
//!
//! ```text
//! DIR/FLEET/NODE/2026-01-02.jsonl        and beyond a size
//! DIR/FLEET/NODE/2026-01-02.1.jsonl …    the first ones, which are not written any more
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use purlin_core::identity::Class;
use serde::Serialize;

use super::Refused;
use crate::{
    fleet::collect::{
        journal::sync_dir,
        taken::{Taken, cause},
    },
    queue::peek::{Peeked, tell},
};

/// A file that is larger is put away under a number.
const ROTATE_BYTES: u64 = 128 << 20;
/// Files that are kept open.
const OPEN: usize = 128;

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    fleet: &'a str,
    node: &'a str,
    incarnation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<&'a str>,
    historical: bool,
    #[serde(flatten)]
    what: What,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What {
    Record(Peeked),
    Gap {
        class: &'static str,
        kind: &'static str,
        first_seq: u64,
        last_seq: u64,
        lost: u64,
        cause: String,
        /// When it was told to us, by our clock.
        unix_ms: u64,
    },
}

/// What was taken, as lines, each with the time by which it has its day.
pub fn lines(taken: &Taken) -> impl Iterator<Item = (u64, Vec<u8>)> + '_ {
    let incarnation = format!("{:016x}", taken.whose.incarnation);
    let class = taken.class;
    let record = move |(seq, record): &(u64, purlin_proto::v1::Record)| {
        let unix_ms = record.unix_ms;
        let it = tell(class, *seq, record.clone(), |hash| taken.dictionary(hash));
        (unix_ms, What::Record(it))
    };
    let at = taken.came_unix_ms;
    let gap = move |cause: String, first_seq, last_seq, lost| {
        let (class, kind) = (Class::name(class), "gap");
        (at, What::Gap { class, kind, first_seq, last_seq, lost, cause, unix_ms: at })
    };
    let gaps = taken.gaps.iter().map(move |it| gap(cause(it), it.first_seq, it.last_seq, it.lost));
    let holes = taken.holes.iter();
    let holes = holes.map(move |(a, b)| gap("unknown".into(), *a, *b, b - a + 1));
    let all = taken.records.iter().map(record).chain(gaps).chain(holes);
    all.map(move |(unix_ms, what)| {
        let whose = &taken.whose;
        let line = Line {
            fleet: &whose.fleet,
            node: &whose.node,
            incarnation: &incarnation,
            relay: whose.relay.as_deref(),
            historical: taken.historical,
            what,
        };
        let mut line = serde_json::to_vec(&line).unwrap_or_default();
        line.push(b'\n');
        (unix_ms, line)
    })
}

/// The files.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    open: HashMap<PathBuf, File>,
}

impl Files {
    /// Makes the directory.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned(), open: HashMap::new() })
    }

    /// Writes a load and syncs it.
    pub fn put(&mut self, load: &[Taken]) -> Result<u64, Refused> {
        let mut due: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        for taken in load {
            let of = self.dir.join(&taken.whose.fleet).join(&taken.whose.node);
            for (unix_ms, line) in lines(taken) {
                due.entry(of.join(format!("{}.jsonl", day(unix_ms)))).or_default().extend(line);
            }
        }
        let mut written: Vec<(&PathBuf, u64)> = Vec::new();
        for (path, bytes) in &due {
            let start = self.end(path);
            if let Err(error) = start.and_then(|at| {
                written.push((path, at));
                self.append(path, bytes)
            }) {
                // All of it is written again, so nothing of it stays.
                for (path, start) in written {
                    _ = self.open.remove(path).map(|file| file.set_len(start));
                }
                return Err(Refused::Now(format!("{}: {error}", path.display()), None));
            }
        }
        let full = written.into_iter().filter(|(path, start)| {
            start + due.get(*path).map_or(0, Vec::len) as u64 >= ROTATE_BYTES
        });
        full.for_each(|(path, _)| self.put_away(path));
        Ok(0)
    }

    /// Where a file ends, which is opened if it isn't.
    fn end(&mut self, path: &Path) -> io::Result<u64> {
        if !self.open.contains_key(path) {
            if self.open.len() >= OPEN {
                self.open.clear();
            }
            self.open.insert(path.to_owned(), open(path)?);
        }
        self.open.get_mut(path).map_or(Ok(0), Seek::stream_position)
    }

    fn append(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = self.open.get_mut(path) else { return Ok(()) };
        file.write_all(bytes)?;
        file.sync_data()
    }

    /// Gives a file a number; where that fails it goes on growing.
    fn put_away(&mut self, path: &Path) {
        self.open.remove(path);
        let mut names = (1u32..).map(|n| path.with_extension(format!("{n}.jsonl")));
        if let Some(free) = names.find(|it| !it.exists()) {
            _ = fs::rename(path, free).and_then(|()| sync_dir(path));
        }
    }
}

/// Opens a file at its end, without a line that is torn.
fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent().filter(|it| !it.exists()) {
        fs::create_dir_all(dir)?;
        sync_dir(dir)?;
        sync_dir(dir.parent().unwrap_or(dir))?;
    }
    let is_new = !path.exists();
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    if is_new {
        sync_dir(path)?;
    }
    let end = whole_until(&mut file)?;
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    Ok(file)
}

/// Where the last whole line ends.
fn whole_until(file: &mut File) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut block = [0; 4096];
    while end > 0 {
        let from = end.saturating_sub(block.len() as u64);
        let bytes = &mut block[..(end - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(bytes)?;
        if let Some(at) = bytes.iter().rposition(|it| *it == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

/// The day of a time, in UTC.
fn day(unix_ms: u64) -> String {
    // What no calendar has stands with the first day.
    let time = UNIX_EPOCH + Duration::from_millis(unix_ms.min(253_402_300_799_000));
    humantime::format_rfc3339_seconds(time).to_string()[..10].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f/n/day.jsonl");
        let long = format!("{{}}\n{}", "x".repeat(10_000));
        for (torn, whole) in
            [("", ""), ("{}\n", "{}\n"), ("{}\n{\"a", "{}\n"), ("{", ""), (&long, "{}\n")]
        {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, torn).unwrap();
            open(&path).unwrap().write_all(b"next\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{whole}next\n"));
        }
    }

    #[test]
    fn days_are_those_of_utc() {
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(1_767_323_045_000), "2026-01-02");
        assert_eq!(day(u64::MAX), "9999-12-31");
    }
}
