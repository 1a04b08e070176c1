//! Dictionaries on disk: what the values of samples are, one file each, named by
//! the hash of its content. A sample is never committed before its dictionary.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use prost::bytes::Bytes;

use crate::state;

/// Dictionaries that are kept: a source has another one only when its series change, as
/// when a disk is plugged in, and workloads may make some hundreds a week.
const MAX_KEPT: usize = 1024;

/// The directory of dictionaries.
#[derive(Debug)]
pub struct Shelf {
    dir: PathBuf,
    /// Not on disk yet; as many as are kept.
    waiting: BTreeMap<u64, Bytes>,
}

impl Shelf {
    /// Opens the directory, which is made if it isn't there.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let shelf = Self { dir: dir.to_owned(), waiting: BTreeMap::new() };
        shelf.forget_oldest()?;
        Ok(shelf)
    }

    /// Takes a dictionary.
    pub fn keep(&mut self, hash: u64, dictionary: Bytes) {
        let path = path(&self.dir, hash);
        // One that is still in use is not among the oldest.
        let touched = fs::File::open(&path).and_then(|it| it.set_modified(SystemTime::now()));
        let whole = fs::read(&path).is_ok_and(|bytes| bytes == dictionary);
        if (touched.is_err() || !whole) && self.waiting.len() < MAX_KEPT {
            self.waiting.insert(hash, dictionary);
        }
    }

    /// Makes what was taken durable. What can't be written stays and is tried again.
    pub fn commit(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        while let Some(entry) = self.waiting.first_entry() {
            state::replace(&path(&self.dir, *entry.key()), 0o644, entry.get())?;
            entry.remove();
        }
        self.forget_oldest()
    }

    /// A dictionary by its hash.
    pub fn get(&self, hash: u64) -> Option<Bytes> {
        self.waiting.get(&hash).cloned().or_else(|| read(&self.dir, hash))
    }

    fn forget_oldest(&self) -> io::Result<()> {
        let entries = fs::read_dir(&self.dir)?.collect::<io::Result<Vec<_>>>()?;
        let mut aged: Vec<_> = entries
            .iter()
            .map(|entry| (entry.metadata().and_then(|it| it.modified()).ok(), entry.path()))
            .collect();
        aged.sort();
        aged.iter().rev().skip(MAX_KEPT).try_for_each(|(_, path)| fs::remove_file(path))
    }
}

/// A dictionary in the directory. One that is damaged would give values another's names.
pub fn read(dir: &Path, hash: u64) -> Option<Bytes> {
    fs::read(path(dir, hash)).ok().filter(|it| hash_of(it) == hash).map(Bytes::from)
}

fn path(dir: &Path, hash: u64) -> PathBuf {
    dir.join(format!("{hash:016x}"))
}

/// The name of a dictionary: the first eight bytes of its SHA-256.
pub fn hash_of(dictionary: &[u8]) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, dictionary);
    let first = digest.as_ref().first_chunk().expect("a SHA-256 has 32 bytes");
    u64::from_be_bytes(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dictionary_is_found_again_and_a_damaged_one_is_not_taken_for_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut shelf = Shelf::open(dir.path()).expect("a shelf");
        let (dictionary, hash) = (Bytes::from_static(b"names"), hash_of(b"names"));
        shelf.keep(hash, dictionary.clone());
        shelf.commit().expect("a write");
        let mut shelf = Shelf::open(dir.path()).expect("a shelf");
        assert_eq!(shelf.get(hash), Some(dictionary.clone()));
        fs::write(path(dir.path(), hash), "other").expect("a write");
        assert_eq!(shelf.get(hash), None);
        shelf.keep(hash, dictionary.clone());
        shelf.commit().expect("a write");
        assert_eq!(shelf.get(hash), Some(dictionary));
    }

    #[test]
    fn as_many_are_kept_as_are_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut shelf = Shelf::open(dir.path()).expect("a shelf");
        for n in 0..MAX_KEPT + 10 {
            let dictionary = Bytes::from(format!("names {n}"));
            shelf.keep(hash_of(&dictionary), dictionary);
            shelf.commit().expect("a write");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), MAX_KEPT);
    }
}
