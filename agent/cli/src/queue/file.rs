//! The file of an export: entries one after the other, each with a checksum that
//! covers its number too, so that one that is missing, moved or damaged is seen.
//! `Exported` in `telemetry.proto` has the format.

use std::io::{self, BufRead, Write};

use prost::Message;
use purlin_proto::v1::{Exported, exported::What};

/// The first bytes; the last is the version.
const MAGIC: [u8; 8] = *b"PURLEXP\x01";
/// Longest entry that is taken from a file: far over any batch that was sent.
const MAX_ENTRY_BYTES: usize = 1 << 20;

/// Writes entries.
pub struct Writer<W> {
    to: W,
    next: u64,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub fn new(mut to: W) -> io::Result<Self> {
        to.write_all(&MAGIC)?;
        Ok(Self { to, next: 0, bytes: MAGIC.len() as u64 })
    }

    /// Goes on with a file behind `next` whole entries of `bytes` bytes in all.
    pub fn go_on(to: W, next: u64, bytes: u64) -> Self {
        Self { to, next, bytes }
    }

    /// Writes the next entry.
    pub fn entry(&mut self, what: What) -> io::Result<()> {
        let entry = Exported { what: Some(what) }.encode_to_vec();
        self.to.write_all(&(entry.len() as u32).to_le_bytes())?;
        self.to.write_all(&checksum(self.next, &entry).to_le_bytes())?;
        self.to.write_all(&entry)?;
        self.next += 1;
        self.bytes += entry.len() as u64 + 8;
        Ok(())
    }

    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it is written to.
    pub fn get_ref(&self) -> &W {
        &self.to
    }

    /// The same, to be flushed.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.to
    }

    /// What it was written to.
    pub fn into_inner(self) -> W {
        self.to
    }
}

/// Reads entries.
pub struct Reader<R> {
    from: R,
    next: u64,
    bytes: u64,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// Begins a file. The error says that it is none of ours.
    pub fn new(mut from: R) -> Result<Self, String> {
        let mut magic = [0; MAGIC.len()];
        match from.read_exact(&mut magic) {
            Ok(()) if magic == MAGIC => {
                Ok(Self { from, next: 0, bytes: MAGIC.len() as u64, ended: false })
            }
            Ok(()) if magic[..7] == MAGIC[..7] => Err(format!(
                "it is of format {}, and this purlin knows {}: use a newer one",
                magic[7], MAGIC[7]
            )),
            _ => Err("it is no file of `purlin queue export`".into()),
        }
    }

    /// Whole entries that were read, and where the last of them ends.
    pub fn read(&self) -> (u64, u64) {
        (self.next, self.bytes)
    }

    /// The next entry; `None` after the tail. The error says what is wrong and where.
    pub fn entry(&mut self) -> Result<Option<What>, String> {
        if self.ended {
            return Ok(None);
        }
        let number = self.next;
        let damaged = |why: &dyn std::fmt::Display| format!("entry {number} is damaged: {why}");
        let mut head = [0; 8];
        self.from.read_exact(&mut head).map_err(|_| format!("it ends before entry {number}"))?;
        let [length, sum] = [0, 4]
            .map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
        if length as usize > MAX_ENTRY_BYTES {
            return Err(damaged(&format!("{length} bytes, and at most {MAX_ENTRY_BYTES}")));
        }
        let mut entry = vec![0; length as usize];
        self.from.read_exact(&mut entry).map_err(|_| format!("it ends in entry {number}"))?;
        if checksum(number, &entry) != sum {
            return Err(damaged(&"its checksum is another"));
        }
        let entry = Exported::decode(&*entry).map_err(|error| damaged(&error))?;
        let what = entry.what.ok_or_else(|| damaged(&"it says nothing"))?;
        self.ended = matches!(what, What::Tail(_));
        self.next += 1;
        self.bytes += u64::from(length) + 8;
        Ok(Some(what))
    }
}

fn checksum(number: u64, entry: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), entry)
}

#[cfg(test)]
mod tests {
    use purlin_proto::v1::ExportTail;

    use super::*;

    fn file() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.entry(What::Batch(b"one".as_slice().into())).unwrap();
        writer.entry(What::Batch(b"two".as_slice().into())).unwrap();
        writer.entry(What::Tail(ExportTail { batches: 2, records: 2 })).unwrap();
        writer.into_inner()
    }

    /// How many entries are read before the end, or before what is wrong.
    fn read(bytes: &[u8]) -> (usize, Option<String>) {
        let mut reader = match Reader::new(bytes) {
            Ok(reader) => reader,
            Err(why) => return (0, Some(why)),
        };
        for n in 0.. {
            match reader.entry() {
                Ok(Some(_)) => {}
                Ok(None) => return (n, None),
                Err(why) => return (n, Some(why)),
            }
        }
        unreachable!("it ends")
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let file = file();
        assert_eq!(read(&file), (3, None));
        for bit in 0..8 * file.len() {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).1.is_some(), "bit {bit}");
        }
        for cut in 0..file.len() {
            assert!(read(&file[..cut]).1.is_some(), "{cut} bytes");
        }
    }

    #[test]
    fn an_entry_that_is_missing_is_seen() {
        let file = file();
        let one =
            8 + 8 + Exported { what: Some(What::Batch(b"one".as_slice().into())) }.encoded_len();
        let without = [&file[..8], &file[one..]].concat();
        assert_eq!(read(&without), (0, Some("entry 0 is damaged: its checksum is another".into())));
    }
}
