//! An outage in simulated time: weeks of samples into a log that holds a fortieth of
//! them, then a broker that is back. Bounded all the while, thinned as declared,
//! drained in order, alarms first, and the disk is given back.
//!
//! Two days at a sample every ten seconds, into 2 MiB. With `PURLIN_SOAK=full`
//! (`./tests/run soak`) it is 30 days of 500 metrics at 1 Hz into 256 MiB.

use std::{env, path::Path, time::Instant as StdInstant};

use purlin_core::{identity::Incarnation, retention::Tier};
use purlin_proto::v1::{Alarm, Record, Sample, record::Body};

use super::{
    tests::{Fake, case_on, settings_capped},
    *,
};
use crate::spool::log::Log;

const START_MS: u64 = 1_790_000_000_000;
/// A commit each so many samples, as a window of a minute makes them.
const COMMIT_S: u64 = 60;
const ALARM_EVERY_S: u64 = 3600;

struct Outage {
    seconds: u64,
    every_s: u64,
    cap_mib: u32,
}

const CI: Outage = Outage { seconds: 2 * 86_400, every_s: 10, cap_mib: 2 };
const FULL: Outage = Outage { seconds: 30 * 86_400, every_s: 1, cap_mib: 256 };

/// One record of a simulated second.
fn record(second: u64, body: Body) -> Vec<u8> {
    let unix_ms = START_MS + second * 1000;
    Record { unix_ms, boot_ms: second * 1000, boot: 1, clock_untrusted: false, body: Some(body) }
        .encode_to_vec()
}

/// 500 metrics, of which each time some have moved.
fn sample(second: u64, sample: &mut Sample) -> Body {
    for (n, value) in sample.gauges.iter_mut().enumerate().skip((second % 7) as usize).step_by(7) {
        *value = (second * 31 + n as u64) as f64 / 10.0;
    }
    for value in &mut sample.counters {
        *value += 17.0;
    }
    Body::Sample(sample.clone())
}

fn open(dir: &Path, class: Class, settings: &Settings) -> Log {
    let log = Log::open(&dir.join(class.name()), class, Incarnation(9));
    let mut log = log.expect("a log");
    log.limit(crate::spool::limits(class, settings));
    log
}

/// Samples, alarms and how much the disk held at most.
fn fill(dir: &Path, outage: &Outage, settings: &Settings) -> (u64, u64, u64) {
    let mut metric = open(dir, Class::Metric, settings);
    let mut alarm = open(dir, Class::Alarm, settings);
    let mut values =
        Sample { dictionary: 77, gauges: vec![20.0; 300], counters: vec![0.0; 200], span_s: 0 };
    let began = StdInstant::now();
    let (mut samples, mut alarms, mut most) = (0, 0, 0);
    for second in (0..outage.seconds).step_by(outage.every_s as usize) {
        let now = began + Duration::from_secs(second);
        metric.append(&record(second, sample(second, &mut values)), now).expect("a record");
        samples += 1;
        if second % ALARM_EVERY_S == 0 {
            let body = Alarm { id: format!("a{second}"), raised: true, ..Alarm::default() };
            alarm.append(&record(second, Body::Alarm(body)), now).expect("a record");
            alarm.commit(now).expect("a commit");
            alarms += 1;
        }
        let due = metric.commit_due().is_some_and(|due| due <= now);
        if due || second % COMMIT_S == 0 {
            metric.commit(now).expect("a commit");
        }
        if samples % 512 == 0 {
            most = most.max(on_disk(&dir.join("metric")));
        }
    }
    for log in [&mut metric, &mut alarm] {
        log.commit(began + Duration::from_secs(outage.seconds)).expect("a commit");
        log.save_cursor().expect("a cursor");
    }
    (samples, alarms, most)
}

/// Bytes that the files have, reserved room included.
fn on_disk(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).expect("a directory");
    files.flatten().filter_map(|it| it.metadata().ok()).map(|it| it.len()).sum()
}

#[tokio::test]
async fn an_outage_of_weeks_is_bounded_thinned_and_drained_alarms_first() {
    let full = env::var("PURLIN_SOAK").is_ok_and(|it| it == "full");
    let outage = if full { FULL } else { CI };
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings_capped("mqtt://first", outage.cap_mib);
    let began = StdInstant::now();
    let (samples, alarms, most) = fill(dir.path(), &outage, &settings);
    let filled = began.elapsed();
    let cap = u64::from(outage.cap_mib) << 20;
    // The segment that is written, and one whose thinned copy is not in its place yet.
    let segment = crate::spool::segment::segment_bytes(cap);
    assert!(most <= cap + 4 * segment, "{most} bytes on disk of {cap}");

    let broker = Fake::default();
    let case = case_on(dir, broker, settings.clone()).await;
    let figures = case.spool.figures().await.expect("figures");
    let last = figures[Class::Metric as usize].last_seq;
    assert_eq!(last, samples, "each sample has its number");
    case.acked_of(Class::Metric, last).await;
    let drained = began.elapsed() - filled;

    case.broker.with(|state| {
        let metric = i32::from(v1::Class::Metric);
        let alarm = i32::from(v1::Class::Alarm);
        let of = |class: i32| state.order.iter().filter(move |it| it.0 == class);
        // Alarms first, and each of them.
        let first_metric = state.order.iter().position(|it| it.0 == metric).expect("metrics");
        let last_alarm = state.order.iter().rposition(|it| it.0 == alarm).expect("alarms");
        assert!(last_alarm < first_metric, "{last_alarm} {first_metric}");
        let told = state.seen.iter().filter(|it| it.0 == alarm).count() as u64;
        assert!(told >= alarms, "{told} of {alarms} alarms");
        // In order, without a hole between batches.
        let spans: Vec<_> = of(metric).map(|it| (it.1, it.2)).collect();
        assert!(spans.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "in order");
        check_thinned(&state.samples, &outage, cap);
        // What did not come was told.
        let came = state.samples.len() as u64;
        let figures = &figures[Class::Metric as usize];
        let lost = figures.dropped + figures.thinned;
        assert_eq!(came + lost, samples, "{came} came, {lost} told as lost");
        println!(
            "{samples} samples over {} days into {} MiB: {came} came, {lost} told as thinned or \
             dropped; at most {most} bytes on disk; filled in {filled:.1?}, drained in {drained:.1?}",
            outage.seconds / 86_400,
            outage.cap_mib,
        );
    });
    let figures = case.spool.figures().await.expect("figures");
    assert_eq!(figures[Class::Metric as usize].segments, 1, "the disk is given back");
    case.end().await;
}

/// From the oldest that is left on, every ten minutes, minute or interval has its
/// sample, finer the newer; and each tier reaches as far as its share holds.
fn check_thinned(samples: &[(u64, u64, u32)], outage: &Outage, cap: u64) {
    let spans: Vec<u32> = samples.iter().map(|it| it.2).collect();
    assert!(spans.is_sorted_by(|a, b| a >= b), "older is never finer");
    for pair in samples.windows(2) {
        let apart_s = (pair[1].1 - pair[0].1) / 1000;
        // At the border of two tiers a span is cut.
        let most = 2 * u64::from(pair[0].2).max(outage.every_s);
        assert!(apart_s <= most, "{apart_s} s between {pair:?}");
    }
    let bytes = 500 * 8 + 60;
    let of = |tier: Tier| spans.iter().filter(|it| **it == tier.span_s()).count() as u64;
    // Eight segments are thinned at once, so that much may be missing of a share.
    let step = 8 * crate::spool::segment::segment_bytes(cap);
    let (raw, minute) = (of(Tier::Raw) * bytes, of(Tier::Minute) * bytes);
    assert!(raw + step >= cap / 2, "half of the room is as it came: {raw} of {cap}");
    assert!(
        minute + step >= cap / 4 && minute > 0,
        "a quarter is a minute each: {minute} of {cap}"
    );
    let end_ms = START_MS + outage.seconds * 1000;
    let reaches_s = (end_ms - samples[0].1) / 1000;
    let tenth = cap / 4 / bytes * 600;
    let foreseen = tenth.min(outage.seconds * 8 / 10);
    assert!(reaches_s >= foreseen * 8 / 10, "{reaches_s} s back, and {foreseen} are foreseen");
}
