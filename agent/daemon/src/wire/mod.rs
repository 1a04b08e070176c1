//! Batches: what the spool's records are on the wire, and back.
//!
//! Records are kept on disk as they came, and are encoded anew each time they are
//! sent: samples of one dictionary become one table, a column for each series
//! ([`purlin_core::column`]), and the whole is one zstd frame where that is smaller.
//! A batch needs nothing but the dictionaries that it names.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use decode::{Unreadable, decode, records, unpack};
pub use encode::{encode, pack, pack_bytes};

pub use crate::spool::shelf::hash_of;

/// The most that a batch has once it is unpacked, for who reads: far over what is
/// ever sent.
pub const MAX_BATCH_BYTES: usize = 1 << 20;
/// A zstd frame begins with this (RFC 8878, 3.1.1); no message of ours does.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
