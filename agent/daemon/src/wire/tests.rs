//! A batch says what the records said, in few bytes, and nonsense is refused.

use std::collections::BTreeMap;

use purlin_core::identity::{Class, Incarnation};
use purlin_proto::v1::{Event, Record, Sample, record::Body};

use super::*;
use crate::{door::Identity, spool::Frame};

fn identity() -> Identity {
    Identity { fleet: "f".into(), node: "n".into(), incarnation: Incarnation(9) }
}

/// `samples` samples of `gauges` gauges and `counters` counters every ten seconds,
/// as machines have them: temperatures with a decimal, loads with two, memory in
/// pages that comes and goes, counters of bytes, packets and clock ticks whose rates
/// waver by a fifth, and some that stay.
pub fn machine(samples: u64, metrics: usize) -> Vec<(u64, Record)> {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut below = move |limit: u64| {
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    };
    let mut values: Vec<f64> = (0..metrics).map(|n| (n as u64 * 1_000_003) as f64).collect();
    let mut records = Vec::new();
    for n in 0..samples {
        for (index, value) in values.iter_mut().enumerate() {
            *value = match index % 10 {
                0 => 400.0 + below(30) as f64 / 10.0,
                1 => below(400) as f64 / 100.0,
                2 => *value + (below(512) as f64 - 256.0) * 4096.0,
                3 | 4 => *value + wavering(index as u64 * 4_000, &mut below),
                5 | 6 => *value + wavering(index as u64 * 10, &mut below),
                7 | 8 => (*value * 100.0 + wavering(800, &mut below)).round() / 100.0,
                _ => *value,
            };
        }
        let (gauges, counters) = values.split_at(metrics * 3 / 10);
        let sample = Sample {
            dictionary: 77,
            gauges: gauges.to_vec(),
            counters: counters.to_vec(),
            span_s: 0,
        };
        let record = Record {
            unix_ms: 1_790_000_000_000 + n * 10_000 + below(20),
            boot_ms: 500_000 + n * 10_000 + below(20),
            boot: 3,
            clock_untrusted: false,
            body: Some(Body::Sample(sample)),
        };
        records.push((n + 1, record));
    }
    records
}

/// A whole number around `usual`, up to a fifth off.
fn wavering(usual: u64, below: &mut impl FnMut(u64) -> u64) -> f64 {
    (usual - usual / 5 + below(usual * 2 / 5 + 1)) as f64
}

fn frame(records: &[(u64, Record)]) -> Frame {
    use prost::Message;
    Frame {
        first_seq: records.first().map_or(1, |(seq, _)| *seq),
        last_seq: records.last().map_or(1, |(seq, _)| *seq),
        records: records.iter().map(|(seq, record)| (*seq, record.encode_to_vec())).collect(),
        gaps: Vec::new(),
    }
}

/// What a reader without the dictionary sees: all values in one list.
fn as_read((seq, mut record): (u64, Record)) -> (u64, Record) {
    if let Some(Body::Sample(sample)) = &mut record.body {
        sample.gauges.append(&mut sample.counters);
    }
    (seq, record)
}

#[test]
fn every_record_comes_back_with_its_number() {
    let mut sent = machine(20, 50);
    // Holes, another boot, an untrusted clock, and something that is no sample.
    sent.remove(7);
    sent[9].1.boot = 4;
    sent[11].1.clock_untrusted = true;
    let attributes = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let event = Event { name: "e".into(), text: "t".into(), attributes };
    sent[3].1.body = Some(Body::Event(event));
    let batch = encode(frame(&sent), Class::Metric, &identity(), true);
    let read = decode(&pack(&batch)).expect("our own");
    assert_eq!(read, batch);
    assert_eq!((read.first_seq, read.last_seq, read.historical), (1, 20, true));
    let expected: Vec<_> = sent.into_iter().map(as_read).collect();
    assert_eq!(records(&read).expect("our own"), expected);
}

#[test]
fn a_metric_takes_three_bytes_and_two_packed() {
    let sent = machine(360, 500);
    let (mut plain, mut packed, mut largest) = (0, 0, 0);
    // As many samples as one read of the spool gives: 128 KiB.
    for samples in sent.chunks(32) {
        let batch = encode(frame(samples), Class::Metric, &identity(), true);
        plain += prost::Message::encoded_len(&batch);
        packed += pack(&batch).len();
        largest = largest.max(pack(&batch).len());
    }
    let metrics = 360.0 * 500.0;
    let (plain, packed) = (plain as f64 / metrics, packed as f64 / metrics);
    println!("{plain:.2} bytes a metric, {packed:.2} packed, the largest frame {largest} bytes");
    assert!(plain <= 3.0 && packed <= 2.0, "{plain:.2}, {packed:.2}");
    assert!((16 << 10..=64 << 10).contains(&largest), "{largest}");
}

#[test]
fn what_unpacks_to_too_much_is_refused() {
    let bomb = vec![0; MAX_BATCH_BYTES + 1];
    let packed = pack_bytes(bomb.into());
    assert!(packed.len() < 10_000);
    assert_eq!(unpack(&packed), Err(Unreadable::Large));
    assert!(matches!(unpack(&packed[..packed.len() / 2]), Err(Unreadable::Packed(_))));
}

#[test]
fn a_small_message_can_not_become_a_large_table() {
    use purlin_proto::v1::{Batch, Block, Column};
    let count = 10_000;
    let block = Block {
        offsets: vec![1; count],
        unix_ms: vec![0; count],
        boot_ms: vec![0; count],
        columns: vec![Column::default(); 1000],
        ..Block::default()
    };
    let batch = |block| Batch { blocks: vec![block], ..Batch::default() };
    assert_eq!(records(&batch(block.clone())), Err(Unreadable::Large));
    let uneven = Block { unix_ms: Vec::new(), columns: Vec::new(), ..block };
    assert_eq!(records(&batch(uneven)), Err(Unreadable::Uneven));
}
