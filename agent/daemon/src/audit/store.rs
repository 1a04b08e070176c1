//! The audit log's files: `audit/NUMBER.jsonl` by the number of their first line, and the
//! key that signs their checkpoints. A line is durable before its writer is answered.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::chain::{Broken, Head, Line, MAX_LINE_BYTES, Verifier};
use crate::{
    clock,
    trust::{self, SigningKey},
};

/// The directory in the state directory.
pub const DIR: &str = "audit";
const KEY: &str = "key";
const SUFFIX: &str = ".jsonl";
/// A file is closed by a checkpoint once it has so many bytes: some hundred actions.
const FILE_BYTES: u64 = 128 << 10;
/// Files that are kept: a year of a node that is worked on every day.
const MAX_FILES: usize = 16;

/// The files, open for writing.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    key: SigningKey,
    head: Head,
    file: Option<(File, u64)>,
}

impl Store {
    /// Opens the log in `dir`, which is made if it isn't there, and what was found wrong. A
    /// line that a power cut has torn is cut off: nobody was told that it was written.
    pub fn open(dir: &Path) -> Result<(Self, Option<String>), String> {
        let failed = |error: io::Error| format!("{}: {error}", dir.display());
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let path = dir.join(KEY);
        let key = match path.exists() {
            true => SigningKey::read(&path)?,
            false => SigningKey::make(&path)?,
        };
        let mut store = Self { dir: dir.to_owned(), key, head: Head::default(), file: None };
        let Some((first, path)) = files(dir).map_err(failed)?.pop() else {
            return Ok((store, None));
        };
        let bytes = fs::read(&path).map_err(failed)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let file = OpenOptions::new().append(true).open(&path).map_err(failed)?;
        if whole < bytes.len() {
            file.set_len(whole as u64).and_then(|()| file.sync_data()).map_err(failed)?;
        }
        let last = bytes[..whole].strip_suffix(b"\n").unwrap_or_default();
        let last = &last[last.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)..];
        let sha256 = if last.is_empty() { String::new() } else { hex::encode(trust::sha256(last)) };
        let problem = match serde_json::from_slice::<Line>(last) {
            Ok(line) => {
                store.head = Head { number: line.number, sha256 };
                None
            }
            // What comes now is chained to it all the same, and the break stays to be seen.
            Err(error) => {
                let lines = bytes[..whole].iter().filter(|byte| **byte == b'\n').count() as u64;
                store.head = Head { number: (first + lines).saturating_sub(1), sha256 };
                (!last.is_empty()).then(|| format!("{}: {error}", path.display()))
            }
        };
        store.file = Some((file, whole as u64));
        Ok((store, problem))
    }

    /// Where it ends.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The key that its checkpoints are verified by.
    pub fn public(&self) -> [u8; 32] {
        self.key.public()
    }

    /// Makes a line durable.
    pub fn append(&mut self, line: Line) -> io::Result<()> {
        if self.file.as_ref().is_some_and(|(_, bytes)| *bytes >= FILE_BYTES) {
            let checkpoint = Line::checkpoint(&self.head, clock::unix_ms(), &self.key);
            self.write(checkpoint)?;
            self.file = None;
        }
        if self.file.is_none() {
            let path = self.dir.join(format!("{:020}{SUFFIX}", self.head.number + 1));
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
            File::open(&self.dir)?.sync_all()?;
            self.file = Some((file, 0));
            let excess = files(&self.dir)?;
            let excess = excess.iter().take(excess.len().saturating_sub(MAX_FILES));
            excess.for_each(|(_, path)| _ = fs::remove_file(path));
        }
        self.write(line)
    }

    fn write(&mut self, line: Line) -> io::Result<()> {
        let Some((file, bytes)) = &mut self.file else { return Ok(()) };
        let (text, head) = Line::after(&self.head, line);
        if text.len() > MAX_LINE_BYTES {
            return Err(io::Error::other("a line over its limit"));
        }
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Half of it may be there: the next line begins where this one did.
            file.set_len(*bytes)?;
            return Err(error);
        }
        *bytes += text.len() as u64;
        self.head = head;
        Ok(())
    }
}

/// The files in `dir` with the numbers of their first lines, the oldest first.
fn files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(first) = name.strip_suffix(SUFFIX).and_then(|number| number.parse().ok()) {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

/// What a log says, as far as it can be believed.
#[derive(Debug, Default)]
pub struct Read {
    /// The oldest first.
    pub lines: Vec<Line>,
    /// Where it ends.
    pub head: Head,
    /// Where it is not what was written; what is from there on is not in `lines`.
    pub broken: Option<Broken>,
    /// The key that its checkpoints were verified by.
    pub public: [u8; 32],
}

/// Reads a whole log and verifies it, also against what its head was known to be. The error
/// is a log that can't be read.
pub fn read(dir: &Path, anchors: Vec<Head>) -> Result<Read, String> {
    let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let public = SigningKey::read(&dir.join(KEY))?.public();
    let mut read = Read { public, ..Read::default() };
    let mut verifier = Verifier::new(public, anchors);
    for (_, path) in files(dir).map_err(|error| failed(dir, error))? {
        let bytes = fs::read(&path).map_err(|error| failed(&path, error))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match verifier.file(&name, &bytes) {
            Ok(lines) => read.lines.extend(lines),
            Err(broken) => {
                read.broken = Some(broken);
                return Ok(read);
            }
        }
    }
    match verifier.end() {
        Ok(head) => read.head = head,
        Err(broken) => read.broken = Some(broken),
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: u64) -> Line {
        let text = format!("{n}{}", " ".repeat(900));
        Line {
            unix_ms: n,
            by: "uid 0 (local)".into(),
            what: "test".into(),
            text,
            ..Line::default()
        }
    }

    /// A log of three files.
    fn log() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut store, problem) = Store::open(dir.path()).expect("a log");
        assert_eq!(problem, None);
        (1..=300).for_each(|n| store.append(line(n)).expect("a write"));
        (dir, store)
    }

    fn why(dir: &Path, anchors: Vec<Head>) -> String {
        read(dir, anchors).expect("a log").broken.map_or("whole".into(), |it| it.to_string())
    }

    #[test]
    fn it_goes_on_after_a_restart_and_a_torn_line() {
        let (dir, store) = log();
        let head = store.head().clone();
        drop(store);
        let (_, newest) = files(dir.path()).expect("files").pop().expect("a file");
        let mut file = OpenOptions::new().append(true).open(&newest).expect("a file");
        file.write_all(b"{\"number\":30").expect("a write");
        assert!(why(dir.path(), Vec::new()).ends_with("cut off in the middle"));
        let (mut store, problem) = Store::open(dir.path()).expect("a log");
        assert_eq!((store.head(), problem), (&head, None));
        store.append(line(1)).expect("a write");
        let read = read(dir.path(), vec![head, store.head().clone()]).expect("a log");
        assert_eq!((read.broken, read.head.number), (None, store.head().number));
        assert_eq!(read.lines.last().map(|it| &it.text), Some(&line(1).text));
    }

    #[test]
    fn an_edited_byte_a_removed_line_and_a_cut_tail_are_found() {
        let (dir, store) = log();
        let paths: Vec<PathBuf> =
            files(dir.path()).expect("files").into_iter().map(|(_, path)| path).collect();
        assert_eq!(paths.len(), 3);
        assert_eq!(why(dir.path(), vec![store.head().clone()]), "whole");
        for path in &paths {
            let whole = fs::read(path).expect("a file");
            let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
            let is_last = Some(path) == paths.last();
            for n in [0, lines.len() / 2, lines.len() - 1] {
                let mut edited = whole.clone();
                let at = lines[..n].concat().len() + lines[n].len() - 100;
                edited[at] ^= 1;
                fs::write(path, &edited).expect("a write");
                let found = why(dir.path(), vec![store.head().clone()]);
                assert_ne!(found, "whole", "line {n} of {} edited", path.display());
                // Without its last line a file is shorter, and nothing else.
                let removed: Vec<&[u8]> = lines
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| *at != n)
                    .map(|(_, it)| *it)
                    .collect();
                fs::write(path, removed.concat()).expect("a write");
                let anchors = if is_last { vec![store.head().clone()] } else { Vec::new() };
                // What stands before all others may have been kept no longer.
                if n > 0 || Some(path) != paths.first() {
                    assert_ne!(why(dir.path(), anchors), "whole", "line {n} of {}", path.display());
                }
            }
            fs::write(path, &whole).expect("a write");
        }
        // A whole file behind the last checkpoint shows by the head alone.
        fs::remove_file(&paths[2]).expect("a removal");
        assert_eq!(why(dir.path(), Vec::new()), "whole");
        let head = store.head().number;
        assert_eq!(
            why(dir.path(), vec![store.head().clone()]),
            format!("the end: it ends with line {}, and line {head} was told", head_of(&paths[1]))
        );
        fs::remove_file(&paths[1]).expect("a removal");
        fs::write(&paths[2], b"").expect("a write");
    }

    fn head_of(path: &Path) -> u64 {
        let bytes = fs::read(path).expect("a file");
        let last = bytes.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
        serde_json::from_slice::<Line>(last.expect("a line")).expect("a line").number
    }

    #[test]
    fn a_checkpoint_of_another_key_is_none() {
        let (dir, _) = log();
        fs::remove_file(dir.path().join(KEY)).expect("a removal");
        SigningKey::make(&dir.path().join(KEY)).expect("a key");
        assert!(why(dir.path(), Vec::new()).ends_with("this node's key has not signed"));
    }

    #[test]
    fn only_so_much_is_kept_and_what_is_kept_is_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut store, _) = Store::open(dir.path()).expect("a log");
        (1..=2500).for_each(|n| store.append(line(n)).expect("a write"));
        assert_eq!(files(dir.path()).expect("files").len(), MAX_FILES);
        assert_eq!(why(dir.path(), vec![store.head().clone()]), "whole");
    }
}
