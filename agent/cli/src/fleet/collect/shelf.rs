//! The state directory: dictionaries, what waits for one, and what the far side will
//! never take.
//!
//! ```text
//! lock            held while a copy runs
//! journal         what was taken of each log
//! dict/HASH       dictionaries, one file each: a cache, the broker retains them
//! aside/HASH-N    messages whose dictionary has not come: topic, a line's end, payload
//! refused/…       what was refused for good: why, in a line, and what
//! ```

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message;
use purlin_daemon::wire;
use purlin_proto::v1;

use super::journal::sync_dir;

/// Dictionaries that are kept in memory: some 20 KB each.
const IN_MEMORY: usize = 1024;
/// Dictionaries that are kept on disk. Beyond it the cache begins anew, and the broker is
/// asked for what it retains.
const ON_DISK: usize = 65_536;
/// Messages that are set aside, at most.
pub const MAX_ASIDE: usize = 4096;
/// Files of what was refused, at most.
pub const MAX_REFUSED: usize = 10_000;

/// The state directory.
#[derive(Debug)]
pub struct Shelf {
    dir: PathBuf,
    _lock: File,
    known: HashMap<u64, Arc<v1::Dictionary>>,
    on_disk: usize,
    aside: Vec<(u64, PathBuf)>,
    refused: usize,
    next: u64,
}

impl Shelf {
    /// Opens it; the error says what to do.
    pub fn open(dir: &Path) -> Result<Self, String> {
        let at = |error: io::Error| format!("{}: {error}", dir.display());
        for sub in ["dict", "aside", "refused"] {
            fs::create_dir_all(dir.join(sub)).map_err(at)?;
        }
        let lock = File::create(dir.join("lock")).map_err(at)?;
        lock.try_lock().map_err(|_| {
            format!("another collector uses {}: give each a --state of its own", dir.display())
        })?;
        let list = |sub: &str| -> io::Result<Vec<PathBuf>> {
            fs::read_dir(dir.join(sub))?.map(|it| Ok(it?.path())).collect()
        };
        let mut aside: Vec<_> = list("aside").map_err(at)?;
        aside.sort();
        let hash = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?;
            u64::from_str_radix(name.get(..16)?, 16).ok()
        };
        let aside: Vec<_> = aside.into_iter().filter_map(|it| Some((hash(&it)?, it))).collect();
        let number =
            |path: &PathBuf| -> Option<u64> { path.file_name()?.to_str()?.get(17..)?.parse().ok() };
        let next = aside.iter().filter_map(|(_, it)| number(it)).max().map_or(0, |it| it + 1);
        let (on_disk, refused) =
            (list("dict").map_err(at)?.len(), list("refused").map_err(at)?.len());
        let (dir, known) = (dir.to_owned(), HashMap::new());
        Ok(Self { dir, _lock: lock, known, on_disk, aside, refused, next })
    }

    /// Whether it holds no dictionary: then all that are retained are asked for.
    pub fn is_new(&self) -> bool {
        self.on_disk == 0
    }

    /// Keeps a dictionary. It is not synced: the broker has it, and is asked for it. Which
    /// messages waited for it.
    pub fn keep(&mut self, hash: u64, payload: &[u8]) -> Result<Vec<PathBuf>, String> {
        let bytes = wire::unpack(payload).map_err(|error| error.to_string())?;
        if wire::hash_of(&bytes) != hash {
            return Err(format!("a dictionary whose hash is not {hash:016x}"));
        }
        let dictionary = v1::Dictionary::decode(&*bytes).map_err(|error| error.to_string())?;
        let path = self.dictionary_path(hash);
        if !path.exists() {
            if self.on_disk >= ON_DISK {
                self.forget_all().map_err(|error| error.to_string())?;
            }
            fs::write(&path, &bytes).map_err(|error| format!("{}: {error}", path.display()))?;
            self.on_disk += 1;
        }
        self.remember(hash, dictionary);
        Ok(self.aside.extract_if(.., |it| it.0 == hash).map(|(_, path)| path).collect())
    }

    /// A dictionary.
    pub fn dictionary(&mut self, hash: u64) -> Option<Arc<v1::Dictionary>> {
        if let Some(known) = self.known.get(&hash) {
            return Some(known.clone());
        }
        let bytes = fs::read(self.dictionary_path(hash)).ok()?;
        let whole = wire::hash_of(&bytes) == hash;
        let dictionary = v1::Dictionary::decode(&*bytes).ok().filter(|_| whole)?;
        Some(self.remember(hash, dictionary))
    }

    /// Sets a message aside until its dictionary comes; it is durable when this returns.
    pub fn set_aside(&mut self, hash: u64, topic: &str, payload: &[u8]) -> io::Result<()> {
        if self.aside.len() >= MAX_ASIDE {
            let what = format!("{MAX_ASIDE} messages wait for their dictionary, and no more may");
            return Err(io::Error::other(what));
        }
        let path = self.dir.join(format!("aside/{hash:016x}-{:010}", self.next));
        self.next += 1;
        write(&path, &[topic.as_bytes(), b"\n", payload].concat())?;
        self.aside.push((hash, path));
        Ok(())
    }

    /// Messages that are set aside.
    pub fn aside(&self) -> usize {
        self.aside.len()
    }

    /// Keeps what will never be taken, with why; it is durable when this returns.
    pub fn refuse(&mut self, unix_ms: u64, why: &str, what: &[u8]) -> io::Result<()> {
        if self.refused >= MAX_REFUSED {
            return Err(io::Error::other(format!(
                "{MAX_REFUSED} files are in {}: look at them, and move them away",
                self.dir.join("refused").display()
            )));
        }
        self.refused += 1;
        let path = self.dir.join(format!("refused/{unix_ms}-{:06}", self.refused));
        write(&path, &[why.replace('\n', " ").as_bytes(), b"\n", what].concat())
    }

    fn remember(&mut self, hash: u64, dictionary: v1::Dictionary) -> Arc<v1::Dictionary> {
        if self.known.len() >= IN_MEMORY {
            // What is in use is read again.
            self.known.clear();
        }
        self.known.entry(hash).insert_entry(Arc::new(dictionary)).get().clone()
    }

    fn forget_all(&mut self) -> io::Result<()> {
        fs::remove_dir_all(self.dir.join("dict"))?;
        fs::create_dir(self.dir.join("dict"))?;
        self.on_disk = 0;
        Ok(())
    }

    fn dictionary_path(&self, hash: u64) -> PathBuf {
        self.dir.join(format!("dict/{hash:016x}"))
    }
}

/// A message that was set aside: its topic and payload.
pub fn read_aside(path: &Path) -> Option<(String, Vec<u8>)> {
    let bytes = fs::read(path).ok()?;
    let end = bytes.iter().position(|it| *it == b'\n')?;
    Some((String::from_utf8(bytes[..end].into()).ok()?, bytes[end + 1..].into()))
}

/// Writes a file whole or not at all, and syncs it.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Not among its own: what is left of it after a power cut is nobody's.
    let new = path.parent().and_then(Path::parent).unwrap_or(path).join("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_dir(path)
}
