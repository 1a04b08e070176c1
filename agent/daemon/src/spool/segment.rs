//! The on-disk format of the spool: one segment file.
//!
//! ```text
//! header   magic "PURLSPL" | version 2,    8 bytes
//!                3 if it is sealed
//!          incarnation                     u64
//!          class: 0 alarm, 1 event,        u8
//!                 2 metric, 3 log
//!          tier: 0 as it came, 1 at most   u8
//!                one a minute, 2 one in ten
//!          zero                            u16
//!          first sequence number           u64
//!          last one it stands for          u64, 0 while it is written
//!          CRC-32C of the 36 bytes above   u32
//! seal     a record of number 0, if it is  see the module `seal`
//!          sealed
//! record   payload length, never 0         u32
//!          CRC-32C of sequence + payload   u32
//!          sequence number                 u64
//!          payload: an encoded Record
//! zeros    room that is reserved
//! ```
//!
//! All numbers are little-endian. A file is named after its first sequence
//! number, 20 digits, `.seg`. Sequence numbers grow within a file and from file
//! to file; a gap means records that were lost or thinned.
//!
//! What may be found after a crash, and what it means:
//! - a tail that holds no whole record: it was never durable, and is cut off;
//! - a damaged record with whole ones behind it: skipped and counted. Each record
//!   carries its own sequence number, so the reader finds the next whole one by
//!   looking at every byte;
//! - a last file without a whole header: nothing was ever written to it;
//! - files that begin before the last number that an earlier one stands for: they
//!   were thinned into it, and are removed;
//! - the same record in two files: the disk failed and was tried again; the second
//!   is passed over.

use purlin_core::{
    identity::{Class, Incarnation},
    retention::Tier,
};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 40;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 16;
/// Largest record of this node's own: far over any sample, far under a segment.
pub const MAX_RECORD_BYTES: usize = 64 << 10;
/// Largest payload: another node's largest record, and whose it is.
pub const MAX_PAYLOAD_BYTES: usize = MAX_RECORD_BYTES + 256;

/// Largest payload as it is stored: sealed, with its tag.
const MAX_STORED_BYTES: usize = MAX_PAYLOAD_BYTES + 16;

const MAGIC: [u8; 8] = *b"PURLSPL\x02";
const MAGIC_SEALED: [u8; 8] = *b"PURLSPL\x03";

/// The size at which a segment is closed. It is the unit of dropping, so there are
/// some hundreds in a cap, but no more files than that, and none so large that
/// looking through it for damage takes long.
pub fn segment_bytes(cap: u64) -> u64 {
    (cap / 512).clamp(64 << 10, 4 << 20)
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The state directory it was written in.
    pub incarnation: Incarnation,
    /// The class of its records.
    pub class: Class,
    /// How far they are thinned.
    pub tier: Tier,
    /// Sequence number of its first record.
    pub first_seq: u64,
    /// The last number that it stands for; 0 while it is written.
    pub through: u64,
    /// Its records are sealed.
    pub sealed: bool,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(if self.sealed { &MAGIC_SEALED } else { &MAGIC });
        bytes[8..16].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[16] = self.class as u8;
        bytes[17] = self.tier as u8;
        bytes[20..28].copy_from_slice(&self.first_seq.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.through.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` if it is not one of this version, or damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let class = Class::ALL.into_iter().find(|&class| class as u8 == bytes[16])?;
        let tier = Tier::ALL.into_iter().find(|&tier| tier as u8 == bytes[17])?;
        let sealed = bytes[..8] == MAGIC_SEALED;
        let ours = sealed || bytes[..8] == MAGIC;
        let whole = ours && crc32c::crc32c(&bytes[..36]) == u32_at(bytes, 36);
        whole.then(|| Self {
            incarnation: Incarnation(u64_at(bytes, 8)),
            class,
            tier,
            first_seq: u64_at(bytes, 20),
            through: u64_at(bytes, 28),
            sealed,
        })
    }
}

/// Appends one record to `out`.
pub fn encode_record(seq: u64, payload: &[u8], out: &mut Vec<u8>) {
    debug_assert!((1..=MAX_STORED_BYTES).contains(&payload.len()));
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(record_crc(seq, payload).to_le_bytes());
    out.extend(seq.to_le_bytes());
    out.extend(payload);
}

fn record_crc(seq: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&seq.to_le_bytes()), payload)
}

/// One whole record, and where in the bytes it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its sequence number.
    pub seq: u64,
    /// Its payload.
    pub payload: &'a [u8],
    /// Offset of the first byte after it.
    pub end: usize,
}

/// The record that starts at `offset`, if a whole one does.
pub fn record_at(bytes: &[u8], offset: usize) -> Option<Record<'_>> {
    let rest = bytes.get(offset..)?;
    let header = rest.get(..RECORD_HEADER_BYTES)?;
    let length = u32_at(header, 0) as usize;
    if !(1..=MAX_STORED_BYTES).contains(&length) {
        return None;
    }
    let payload = rest.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length)?;
    let seq = u64_at(header, 8);
    (record_crc(seq, payload) == u32_at(header, 4)).then_some(Record {
        seq,
        payload,
        end: offset + RECORD_HEADER_BYTES + length,
    })
}

/// The first whole record at or after `offset`, over any damage in between.
pub fn next_record(bytes: &[u8], offset: usize) -> Option<Record<'_>> {
    (offset..bytes.len()).find_map(|offset| record_at(bytes, offset))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        incarnation: Incarnation(7),
        class: Class::Metric,
        tier: Tier::Minute,
        first_seq: 42,
        through: 77,
        sealed: false,
    };

    #[test]
    fn a_header_is_read_back_and_a_flipped_bit_is_seen() {
        let sealed = Header { sealed: true, ..HEADER };
        assert_eq!(Header::decode(&sealed.encode()), Some(sealed));
        let bytes = HEADER.encode();
        assert_eq!(Header::decode(&bytes), Some(HEADER));
        for bit in 0..8 * HEADER_BYTES {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn the_reader_finds_the_next_whole_record_behind_any_damage() {
        let mut bytes = Vec::new();
        encode_record(1, b"first", &mut bytes);
        let second = bytes.len();
        encode_record(2, b"second", &mut bytes);
        for at in 0..second {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            assert_eq!(next_record(&damaged, 0).map(|record| record.seq), Some(2), "byte {at}");
        }
    }
}
