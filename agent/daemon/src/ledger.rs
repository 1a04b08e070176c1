//! The ledger: the configuration the node boots from, in two plain files.
//!
//! Each write goes to the file that does not hold the newest valid one, so a
//! power cut at any moment leaves at least the one before. Highest valid wins.
//!
//! ```text
//! magic "PURLLDG" | version 1        8 bytes
//! number of this write               u64
//! CRC-32C of number and payload      u32
//! payload, a purlin.v1.Ledger        to the end of the file
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message;
use purlin_proto::v1;

use crate::state;

const MAGIC: [u8; 8] = *b"PURLLDG\x01";
const HEADER_BYTES: usize = 20;
const NAMES: [&str; 2] = ["ledger.a", "ledger.b"];
/// Two documents at their largest, and a history of refusals at its longest.
const MAX_BYTES: u64 = 4 << 20;

/// The ledger on disk.
#[derive(Clone, Debug)]
pub struct Ledger {
    dir: PathBuf,
    /// Number of the newest write, and the file that holds it.
    newest: Option<(u64, usize)>,
}

impl Ledger {
    /// Finds the newest valid ledger in `dir`, and what was found damaged. An
    /// empty or damaged directory gives an empty ledger: the node then runs on
    /// its defaults.
    pub fn open(dir: &Path) -> (Self, v1::Ledger, Vec<String>) {
        let mut problems = Vec::new();
        let mut newest: Option<(u64, usize, v1::Ledger)> = None;
        for (slot, name) in NAMES.iter().enumerate() {
            match read(&dir.join(name)) {
                Ok(Some((number, ledger))) => {
                    if newest.as_ref().is_none_or(|newest| number > newest.0) {
                        newest = Some((number, slot, ledger));
                    }
                }
                Ok(None) => {}
                Err(why) => problems.push(format!("{}: {why}", dir.join(name).display())),
            }
        }
        let (newest, ledger) = match newest {
            Some((number, slot, ledger)) => (Some((number, slot)), ledger),
            None => (None, v1::Ledger::default()),
        };
        (Self { dir: dir.to_owned(), newest }, ledger, problems)
    }

    /// Makes `ledger` durable. After an error the one before still stands.
    pub fn store(&mut self, ledger: &v1::Ledger) -> io::Result<()> {
        let (number, slot) = self.newest.map_or((1, 0), |(number, slot)| (number + 1, 1 - slot));
        let payload = ledger.encode_to_vec();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend(MAGIC);
        bytes.extend(number.to_le_bytes());
        bytes.extend(crc(number, &payload).to_le_bytes());
        bytes.extend(payload);
        state::replace(&self.dir.join(NAMES[slot]), 0o600, &bytes)?;
        self.newest = Some((number, slot));
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<(u64, v1::Ledger)>, String> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            return Err(format!("{} bytes, over the limit of {MAX_BYTES}", metadata.len()));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    decode(&bytes).map(Some).ok_or_else(|| "damaged, or of another version".into())
}

fn decode(bytes: &[u8]) -> Option<(u64, v1::Ledger)> {
    let (header, payload) = bytes.split_at_checked(HEADER_BYTES)?;
    let number = u64::from_le_bytes(header[8..16].try_into().ok()?);
    let whole = header[..8] == MAGIC && crc(number, payload).to_le_bytes() == header[16..];
    whole.then(|| v1::Ledger::decode(payload).ok()).flatten().map(|ledger| (number, ledger))
}

fn crc(number: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(generation: u64) -> v1::Ledger {
        let applied = v1::Applied { generation, ..Default::default() };
        let active = v1::Entry { applied: Some(applied), document: vec![1, 2, 3].into() };
        v1::Ledger { active: Some(active), ..Default::default() }
    }

    #[test]
    fn the_newest_valid_one_wins_and_damage_falls_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut ledger, found, problems) = Ledger::open(dir.path());
        assert_eq!((found, problems.len()), (v1::Ledger::default(), 0));
        for generation in 1..=3 {
            ledger.store(&numbered(generation)).expect("a write");
            assert_eq!(Ledger::open(dir.path()).1, numbered(generation));
        }
        // The third write went where the first had been; every damage to it
        // leaves the second.
        let path = dir.path().join("ledger.a");
        let whole = fs::read(&path).expect("the third");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).expect("a write");
            let (_, found, problems) = Ledger::open(dir.path());
            assert_eq!((found, problems.len()), (numbered(2), 1), "byte {at}");
            fs::write(&path, &whole[..at]).expect("a write");
            assert_eq!(Ledger::open(dir.path()).1, numbered(2), "cut at {at}");
        }
    }

    #[test]
    fn after_a_fall_back_the_damaged_file_is_written_next() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut ledger, ..) = Ledger::open(dir.path());
        ledger.store(&numbered(1)).expect("a write");
        ledger.store(&numbered(2)).expect("a write");
        fs::write(dir.path().join("ledger.b"), "torn").expect("a write");
        let (mut ledger, found, _) = Ledger::open(dir.path());
        assert_eq!(found, numbered(1));
        ledger.store(&numbered(3)).expect("a write");
        fs::write(dir.path().join("ledger.b"), "torn again").expect("a write");
        assert_eq!(Ledger::open(dir.path()).1, numbered(1), "the old one was not touched");
    }
}
