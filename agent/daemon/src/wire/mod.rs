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
pub use encode::{class_to_wire, encode, encode_of, pack, pack_bytes};
use purlin_proto::v1;

pub use crate::spool::shelf::hash_of;

/// Whose log a batch is of: with a number, a record's identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The node.
    pub node: String,
    /// Its incarnation.
    pub incarnation: u64,
    /// The class.
    pub class: v1::Class,
}

/// The most that a batch has once it is unpacked, for who reads: far over what is
/// ever sent.
pub const MAX_BATCH_BYTES: usize = 1 << 20;
/// A zstd frame begins with this (RFC 8878, 3.1.1); no message of ours does.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
