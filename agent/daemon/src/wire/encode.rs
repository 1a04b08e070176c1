//! From a frame of the spool to a batch.

use prost::{Message, bytes::Bytes};
use purlin_core::{column, identity::Class};
use purlin_proto::v1::{self, Record, record::Body};

use super::Origin;
use crate::{
    door::Identity,
    spool::{Frame, cursor::gap_to_wire},
};

/// zstd's own default; more costs time and gains next to nothing on batches.
const ZSTD_LEVEL: i32 = 3;
/// Below it nothing is gained by compressing.
const LEAST_PACKED: usize = 256;

/// The batch of a frame of this node's own.
pub fn encode(frame: Frame, class: Class, identity: &Identity, historical: bool) -> v1::Batch {
    let origin = Origin {
        node: identity.node.clone(),
        incarnation: identity.incarnation.0,
        class: class_to_wire(class),
    };
    encode_of(frame, origin, historical)
}

/// The batch of a frame of whoever's log it is.
pub fn encode_of(frame: Frame, origin: Origin, historical: bool) -> v1::Batch {
    let mut batch = v1::Batch {
        node: origin.node,
        incarnation: origin.incarnation,
        class: origin.class.into(),
        first_seq: frame.first_seq,
        last_seq: frame.last_seq,
        gaps: frame.gaps.iter().map(gap_to_wire).collect(),
        historical,
        ..v1::Batch::default()
    };
    let mut tables: Vec<Table> = Vec::new();
    for (seq, payload) in frame.records {
        let offset = (seq - frame.first_seq) as u32;
        // One that can't be read is told by its number that is missing.
        let Ok(mut record) = Record::decode(&*payload) else { continue };
        match record.body.take() {
            Some(Body::Sample(sample)) => Table::add(&mut tables, offset, record, sample),
            body => {
                batch.records.push(v1::Numbered { offset, record: Some(Record { body, ..record }) })
            }
        }
    }
    batch.blocks = tables.into_iter().map(Table::block).collect();
    batch
}

/// A message's bytes, packed where that is smaller.
pub fn pack(message: &impl Message) -> Bytes {
    pack_bytes(message.encode_to_vec().into())
}

/// The same for one that is encoded already.
pub fn pack_bytes(plain: Bytes) -> Bytes {
    if plain.len() >= LEAST_PACKED {
        // It only fails for want of memory, and then the batch goes as it is.
        let packed = zstd::bulk::compress(&plain, ZSTD_LEVEL).unwrap_or_default();
        if (1..plain.len()).contains(&packed.len()) {
            return packed.into();
        }
    }
    plain
}

/// The class on the wire.
pub fn class_to_wire(class: Class) -> v1::Class {
    match class {
        Class::Alarm => v1::Class::Alarm,
        Class::Event => v1::Class::Event,
        Class::Metric => v1::Class::Metric,
        Class::Log => v1::Class::Log,
        Class::Relay => v1::Class::Relay,
    }
}

/// Samples that can stand in one block.
struct Table {
    like: Like,
    offsets: Vec<u32>,
    unix_ms: Vec<i64>,
    boot_ms: Vec<i64>,
    columns: Vec<Vec<f64>>,
}

/// What is the same for all samples of a block.
#[derive(PartialEq, Eq)]
struct Like {
    dictionary: u64,
    boot: u32,
    clock_untrusted: bool,
    span_s: u32,
    columns: usize,
}

impl Table {
    fn add(tables: &mut Vec<Table>, offset: u32, record: Record, sample: v1::Sample) {
        let values = sample.gauges.iter().chain(&sample.counters);
        let like = Like {
            dictionary: sample.dictionary,
            boot: record.boot,
            clock_untrusted: record.clock_untrusted,
            span_s: sample.span_s,
            columns: sample.gauges.len() + sample.counters.len(),
        };
        let index = tables.iter().position(|table| table.like == like).unwrap_or_else(|| {
            tables.push(Table::empty(like));
            tables.len() - 1
        });
        let table = &mut tables[index];
        table.offsets.push(offset);
        table.unix_ms.push(record.unix_ms as i64);
        table.boot_ms.push(record.boot_ms as i64);
        for (column, value) in table.columns.iter_mut().zip(values) {
            column.push(*value);
        }
    }

    fn empty(like: Like) -> Self {
        let columns = vec![Vec::new(); like.columns];
        Self { like, offsets: Vec::new(), unix_ms: Vec::new(), boot_ms: Vec::new(), columns }
    }

    fn block(self) -> v1::Block {
        let Self { like, mut offsets, mut unix_ms, mut boot_ms, columns } = self;
        for n in (1..offsets.len()).rev() {
            offsets[n] -= offsets[n - 1];
            unix_ms[n] = unix_ms[n].wrapping_sub(unix_ms[n - 1]);
            boot_ms[n] = boot_ms[n].wrapping_sub(boot_ms[n - 1]);
        }
        v1::Block {
            dictionary: like.dictionary,
            offsets,
            unix_ms,
            boot_ms,
            columns: columns.iter().map(|values| column_to_wire(column::encode(values))).collect(),
            boot: like.boot,
            clock_untrusted: like.clock_untrusted,
            span_s: like.span_s,
        }
    }
}

fn column_to_wire(column: column::Column) -> v1::Column {
    match column {
        column::Column::Raw(raw) => v1::Column { raw, ..v1::Column::default() },
        column::Column::Whole { exponent, step, first, slope, deltas } => v1::Column {
            exponent,
            // A step of one is left out.
            step: if step == 1 { 0 } else { step },
            first,
            slope,
            deltas,
            raw: Vec::new(),
        },
    }
}
