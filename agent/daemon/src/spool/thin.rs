//! Thinning samples: of all that one source measured within a minute, or ten, one
//! sample is left, with the mean of each gauge and the last value of each counter.
//! It keeps the number and the time of the last.
//!
//! Only samples are thinned; every other record is kept as it is.

use std::collections::BTreeMap;

use prost::Message;
use purlin_core::{column, retention::Tier};
use purlin_proto::v1::{Record, Sample, record::Body};

/// What belongs into one sample: the same values, the same boot, the same span of time.
type Key = (u64, u32, bool);

/// Takes records in order and gives back what is left of them.
pub struct Thinner {
    span_s: u32,
    open: BTreeMap<Key, Open>,
    kept: Vec<(u64, Vec<u8>)>,
}

/// Samples that will be one.
struct Open {
    bucket: u64,
    last_seq: u64,
    last: Record,
    gauges: Vec<Vec<f64>>,
}

impl Thinner {
    /// One that leaves records of tier `to`.
    pub fn new(to: Tier) -> Self {
        Self { span_s: to.span_s().max(1), open: BTreeMap::new(), kept: Vec::new() }
    }

    /// Takes the next record.
    pub fn take(&mut self, seq: u64, payload: &[u8]) {
        let record = Record::decode(payload).ok();
        let Some((record, sample)) = record.and_then(sample_of).filter(|(_, sample)| {
            // One of a coarser source stands for itself.
            sample.span_s < self.span_s
        }) else {
            self.kept.push((seq, payload.to_vec()));
            return;
        };
        let bucket = record.unix_ms / (u64::from(self.span_s) * 1000);
        let key = (sample.dictionary, record.boot, record.clock_untrusted);
        if self.open.get(&key).is_some_and(|open| open.bucket != bucket)
            && let Some(open) = self.open.remove(&key)
        {
            self.close(open);
        }
        let open = self.open.entry(key).or_insert_with(|| Open {
            bucket,
            last_seq: seq,
            last: Record::default(),
            gauges: vec![Vec::new(); sample.gauges.len()],
        });
        for (values, value) in open.gauges.iter_mut().zip(&sample.gauges) {
            values.push(*value);
        }
        open.last_seq = seq;
        open.last = Record { body: Some(Body::Sample(sample)), ..record };
    }

    fn close(&mut self, open: Open) {
        let Open { last_seq, last, gauges, .. } = open;
        let Some((record, sample)) = sample_of(last) else { return };
        let means = gauges.iter().map(|values| column::mean(values)).collect();
        let sample = Sample { gauges: means, span_s: self.span_s, ..sample };
        let record = Record { body: Some(Body::Sample(sample)), ..record };
        self.kept.push((last_seq, record.encode_to_vec()));
    }

    /// What is left, by number.
    pub fn finish(mut self) -> Vec<(u64, Vec<u8>)> {
        for (_, open) in std::mem::take(&mut self.open) {
            self.close(open);
        }
        self.kept.sort_by_key(|(seq, _)| *seq);
        self.kept
    }
}

fn sample_of(mut record: Record) -> Option<(Record, Sample)> {
    match record.body.take()? {
        Body::Sample(sample) => Some((record, sample)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: u64, gauge: f64, counter: f64) -> Vec<u8> {
        let (gauges, counters) = (vec![gauge], vec![counter]);
        let sample = Sample { dictionary: 7, gauges, counters, span_s: 0 };
        let (unix_ms, body) = (second * 1000, Some(Body::Sample(sample)));
        Record { unix_ms, body, ..Record::default() }.encode_to_vec()
    }

    /// (number, second, gauge, counter, span) of what is left.
    fn left(thinner: Thinner) -> Vec<(u64, u64, f64, f64, u32)> {
        let values = |(seq, payload): (u64, Vec<u8>)| {
            let (record, sample) =
                sample_of(Record::decode(&*payload).expect("ours")).expect("one");
            (seq, record.unix_ms / 1000, sample.gauges[0], sample.counters[0], sample.span_s)
        };
        thinner.finish().into_iter().map(values).collect()
    }

    #[test]
    fn a_minute_becomes_its_mean_and_its_last_count() {
        let mut thinner = Thinner::new(Tier::Minute);
        for n in 0..9 {
            thinner.take(n + 1, &sample(n * 10, 20.0 + n as f64, 100.0 * n as f64));
        }
        assert_eq!(left(thinner), [(6, 50, 23.0, 500.0, 60), (9, 80, 27.0, 800.0, 60)]);
    }

    #[test]
    fn what_is_no_sample_is_kept_as_it_is() {
        let mut thinner = Thinner::new(Tier::Minute);
        thinner.take(1, &sample(0, 1.0, 1.0));
        thinner.take(2, b"\xffno record");
        thinner.take(3, &sample(1, 1.0, 1.0));
        let kept: Vec<_> = thinner.finish().into_iter().map(|(seq, _)| seq).collect();
        assert_eq!(kept, [2, 3]);
    }
}
