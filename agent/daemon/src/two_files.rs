//! A value in two plain files, so that a power cut at any moment leaves at least the one
//! before.
//!
//! Each write goes to the file that does not hold the newest valid value. Highest valid
//! wins.
//!
//! ```text
//! magic, the last byte its version   8 bytes
//! number of this write               u64
//! CRC-32C of number and payload      u32
//! payload                            to the end of the file
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::state;

const HEADER_BYTES: usize = 20;
const SUFFIXES: [&str; 2] = ["a", "b"];

/// What is kept in a pair of files.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Their name, before `.a` and `.b`.
    pub name: &'static str,
    /// What they begin with.
    pub magic: [u8; 8],
    /// The largest that is read, in bytes.
    pub max_bytes: u64,
}

/// A pair of files.
#[derive(Clone, Debug)]
pub struct TwoFiles {
    dir: PathBuf,
    kind: Kind,
    /// Number of the newest write, and the file that holds it.
    newest: Option<(u64, usize)>,
}

impl TwoFiles {
    /// Finds the newest valid value in `dir`, and what was found damaged.
    pub fn open<T>(
        dir: &Path,
        kind: Kind,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> (Self, Option<T>, Vec<String>) {
        let mut problems = Vec::new();
        let mut newest: Option<(u64, usize, T)> = None;
        for (slot, suffix) in SUFFIXES.iter().enumerate() {
            let path = dir.join(format!("{}.{suffix}", kind.name));
            match read(&path, kind, &decode) {
                Ok(Some((number, value))) => {
                    if newest.as_ref().is_none_or(|newest| number > newest.0) {
                        newest = Some((number, slot, value));
                    }
                }
                Ok(None) => {}
                Err(why) => problems.push(format!("{}: {why}", path.display())),
            }
        }
        let (newest, value) = match newest {
            Some((number, slot, value)) => (Some((number, slot)), Some(value)),
            None => (None, None),
        };
        (Self { dir: dir.to_owned(), kind, newest }, value, problems)
    }

    /// Makes a value durable. After an error the one before still stands.
    pub fn store(&mut self, payload: &[u8]) -> io::Result<()> {
        let (number, slot) = self.newest.map_or((1, 0), |(number, slot)| (number + 1, 1 - slot));
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend(self.kind.magic);
        bytes.extend(number.to_le_bytes());
        bytes.extend(crc(number, payload).to_le_bytes());
        bytes.extend(payload);
        let name = format!("{}.{}", self.kind.name, SUFFIXES[slot]);
        state::replace(&self.dir.join(name), 0o600, &bytes)?;
        self.newest = Some((number, slot));
        Ok(())
    }
}

fn read<T>(
    path: &Path,
    kind: Kind,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<(u64, T)>, String> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) if metadata.len() > kind.max_bytes => {
            return Err(format!("{} bytes, over the limit of {}", metadata.len(), kind.max_bytes));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let (number, payload) =
        split(&bytes, kind.magic).ok_or("damaged, or of another version".to_owned())?;
    let value = decode(payload).ok_or("damaged, or of another version".to_owned())?;
    Ok(Some((number, value)))
}

fn split(bytes: &[u8], magic: [u8; 8]) -> Option<(u64, &[u8])> {
    let (header, payload) = bytes.split_at_checked(HEADER_BYTES)?;
    let number = u64::from_le_bytes(header[8..16].try_into().ok()?);
    let whole = header[..8] == magic && crc(number, payload).to_le_bytes() == header[16..];
    whole.then_some((number, payload))
}

fn crc(number: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), payload)
}
