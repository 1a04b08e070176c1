//! From a message to its records. What is read comes from a network: everything is
//! bounded, and nothing of it is believed.

use std::{fmt, io::Read};

use prost::Message;
use purlin_core::column::{self, Column};
use purlin_proto::v1::{self, Record, record::Body};
use ruzstd::decoding::StreamingDecoder;

use super::{MAX_BATCH_BYTES, ZSTD_MAGIC};

/// Samples in a batch, at most.
const MAX_SAMPLES: usize = 1 << 16;
/// Values in a batch, at most: a column that stays costs no bytes, and would
/// otherwise let a small message become a large one.
const MAX_VALUES: usize = 1 << 20;

/// Why a message is no batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is larger than a batch may be, once it is unpacked.
    Large,
    /// It is packed, and can't be unpacked.
    Packed(String),
    /// It is no message of this kind.
    Message(String),
    /// Lists of a block that should have one element a sample don't.
    Uneven,
    /// A column can't be one of ours.
    Column,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Large => write!(f, "over {MAX_BATCH_BYTES} bytes or {MAX_VALUES} values"),
            Unreadable::Packed(why) => write!(f, "the zstd frame is damaged: {why}"),
            Unreadable::Message(why) => f.write_str(why),
            Unreadable::Uneven => f.write_str("a block whose lists are not equally long"),
            Unreadable::Column => f.write_str("a column whose numbers lead beyond their range"),
        }
    }
}

/// The bytes of a message, unpacked if they are packed.
pub fn unpack(payload: &[u8]) -> Result<Vec<u8>, Unreadable> {
    if payload.len() > MAX_BATCH_BYTES {
        return Err(Unreadable::Large);
    }
    if !payload.starts_with(&ZSTD_MAGIC) {
        return Ok(payload.to_vec());
    }
    let packed = |error: &dyn fmt::Display| Unreadable::Packed(error.to_string());
    let decoder = StreamingDecoder::new(payload).map_err(|error| packed(&error))?;
    let mut plain = Vec::new();
    decoder
        .take(MAX_BATCH_BYTES as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|error| packed(&error))?;
    if plain.len() > MAX_BATCH_BYTES { Err(Unreadable::Large) } else { Ok(plain) }
}

/// Reads a batch.
pub fn decode(payload: &[u8]) -> Result<v1::Batch, Unreadable> {
    v1::Batch::decode(&*unpack(payload)?).map_err(|error| Unreadable::Message(error.to_string()))
}

/// A batch's records by number, in order.
pub fn records(batch: &v1::Batch) -> Result<Vec<(u64, Record)>, Unreadable> {
    let numbered = batch.records.iter().filter_map(|numbered| {
        Some((batch.first_seq.checked_add(numbered.offset.into())?, numbered.record.clone()?))
    });
    let mut records: Vec<_> = numbered.collect();
    let samples: usize = batch.blocks.iter().map(|block| block.offsets.len()).sum();
    let values = batch.blocks.iter().map(|it| it.offsets.len().saturating_mul(it.columns.len()));
    if samples > MAX_SAMPLES || values.fold(0, usize::saturating_add) > MAX_VALUES {
        return Err(Unreadable::Large);
    }
    for block in &batch.blocks {
        samples_of(block, batch.first_seq, &mut records)?;
    }
    records.sort_by_key(|(seq, _)| *seq);
    Ok(records)
}

fn samples_of(
    block: &v1::Block,
    first_seq: u64,
    records: &mut Vec<(u64, Record)>,
) -> Result<(), Unreadable> {
    let count = block.offsets.len();
    if block.unix_ms.len() != count || block.boot_ms.len() != count {
        return Err(Unreadable::Uneven);
    }
    let columns = block.columns.iter().map(|column| column::decode(&column_of_wire(column), count));
    let columns: Vec<Vec<f64>> = columns.collect::<Option<_>>().ok_or(Unreadable::Column)?;
    let (mut seq, mut unix_ms, mut boot_ms) = (first_seq, 0i64, 0i64);
    for n in 0..count {
        seq = seq.checked_add(block.offsets[n].into()).ok_or(Unreadable::Column)?;
        unix_ms = unix_ms.wrapping_add(block.unix_ms[n]);
        boot_ms = boot_ms.wrapping_add(block.boot_ms[n]);
        let sample = v1::Sample {
            dictionary: block.dictionary,
            // Which of them are counters is the dictionary's to say.
            gauges: columns.iter().map(|column| column[n]).collect(),
            counters: Vec::new(),
            span_s: block.span_s,
        };
        let record = Record {
            unix_ms: unix_ms as u64,
            boot_ms: boot_ms as u64,
            boot: block.boot,
            clock_untrusted: block.clock_untrusted,
            body: Some(Body::Sample(sample)),
        };
        records.push((seq, record));
    }
    Ok(())
}

fn column_of_wire(column: &v1::Column) -> Column {
    match column.raw.is_empty() {
        false => Column::Raw(column.raw.clone()),
        true => Column::Whole {
            exponent: column.exponent,
            step: column.step.max(1),
            first: column.first,
            slope: column.slope,
            deltas: column.deltas.clone(),
        },
    }
}
