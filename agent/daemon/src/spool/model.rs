//! A log against a model of a few lines: random appends, commits, acknowledgements,
//! crashes, damage, failing disks and changes of the cap. The seed is printed by what
//! fails, and `PURLIN_TEST_SEED` takes it back.

use std::{
    collections::BTreeMap,
    env, fs,
    time::{Duration, Instant},
};

use purlin_core::{
    gap::Gap,
    identity::{Class, Incarnation},
    retention::WhenFull,
};
use purlin_proto::v1::{Event, Record, record::Body};
use tempfile::TempDir;

use super::{
    dir,
    log::{Limits, Log},
    seal::Keys,
};

const STEPS: usize = 400;
const RUNS: u64 = 12;

/// What was promised: every durable record, by number, that was not acknowledged.
#[derive(Default)]
struct Model {
    durable: BTreeMap<u64, Vec<u8>>,
    /// Accepted and not yet durable: a crash may keep it or not.
    waiting: BTreeMap<u64, Vec<u8>>,
    acked: u64,
    /// Bytes on disk were changed, so losses to damage are right.
    damaged: bool,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

fn open(dir: &TempDir, cap: u64, when_full: WhenFull, keys: &Keys) -> Log {
    let log = Log::open_with(dir.path(), Class::Event, Incarnation(7), keys.clone());
    let mut log = log.expect("a log opens");
    log.limit(Limits { cap, window: Duration::ZERO, when_full, ttl: None });
    log
}

fn record(random: &mut Random, n: u64) -> Vec<u8> {
    let text = "x".repeat(random.below(3000) as usize);
    let event = Event { name: n.to_string(), text, ..Event::default() };
    prost::Message::encode_to_vec(&Record {
        unix_ms: n,
        body: Some(Body::Event(event)),
        ..Record::default()
    })
}

/// Everything that is promised is there, or a gap says why not; nothing else is.
fn reconcile(log: &mut Log, model: &Model) {
    let mut from = log.acked() + 1;
    let (mut found, mut gaps) = (BTreeMap::new(), Vec::<Gap>::new());
    while let Some(frame) = log.read(from, 20_000).expect("a read") {
        assert!(frame.last_seq >= from, "a frame moves on");
        found.extend(frame.records);
        gaps.extend(frame.gaps);
        from = frame.last_seq + 1;
    }
    for (seq, record) in model.durable.range(log.acked() + 1..) {
        match found.get(seq) {
            Some(found) => assert!(found == record, "{seq} has other bytes"),
            None => assert!(
                gaps.iter().any(|gap| gap.first <= *seq && *seq <= gap.last),
                "{seq} is lost, and no gap of {gaps:?} says so"
            ),
        }
    }
    for (seq, bytes) in &found {
        let known = model.durable.get(seq).or_else(|| model.waiting.get(seq));
        assert!(known == Some(bytes), "{seq} was never promised so");
    }
    if !model.damaged {
        assert_eq!(log.figures().corrupt, 0, "nothing was damaged");
    }
}

fn run(seed: u64) {
    let random = &mut Random(seed | 1);
    let dir = TempDir::new().expect("a directory");
    let when_full = WhenFull::ALL[random.below(3) as usize];
    let mut cap = 1 << 20;
    let keys = if random.below(2) == 0 { Keys::of(&[[5; 32]]) } else { Keys::default() };
    let (mut log, mut model) = (open(&dir, cap, when_full, &keys), Model::default());
    for step in 0..STEPS {
        match random.below(100) {
            0..=59 => {
                let bytes = record(random, step as u64);
                if let Ok(seq) = log.append(&bytes, Instant::now()) {
                    model.waiting.insert(seq, bytes);
                }
            }
            60..=79 => {
                log.commit(Instant::now()).expect("a commit");
                model.durable.append(&mut model.waiting);
            }
            80..=84 => {
                let acked = log.acked() + random.below(log.durable() - log.acked() + 1);
                log.acknowledge(acked);
                model.acked = acked;
                _ = random.below(2) == 0 && log.save_cursor().is_ok();
            }
            85..=89 => {
                // A crash. The cursor may be older, and what waited is gone or not.
                drop(log);
                log = open(&dir, cap, when_full, &keys);
                assert!(log.acked() <= model.acked);
                model.waiting.clear();
            }
            90..=93 => {
                cap = (1 << 18) << random.below(3);
                log.limit(Limits { cap, window: Duration::ZERO, when_full, ttl: None });
            }
            94..=96 => {
                // A write fails, and the disk comes back.
                let bytes = record(random, step as u64);
                if let Ok(seq) = log.append(&bytes, Instant::now()) {
                    model.waiting.insert(seq, bytes);
                }
                if !model.waiting.is_empty() {
                    log.active = Some(fs::File::open("/dev/null").expect("a device"));
                    // Unless a segment of its own was due anyway.
                    _ = log.commit(Instant::now());
                }
                log.commit(Instant::now()).expect("the disk is back");
                model.durable.append(&mut model.waiting);
            }
            97..=98 => {
                let entries = fs::read_dir(dir.path()).expect("a directory");
                let mut paths: Vec<_> = entries.map(|entry| entry.expect("one").path()).collect();
                paths.retain(|path| dir::sequence_in(path).is_some());
                paths.sort();
                // The newest may be torn at its end, which is no damage to tell.
                paths.pop();
                if !paths.is_empty() {
                    let path = &paths[random.below(paths.len() as u64) as usize];
                    let mut bytes = fs::read(path).expect("a segment");
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << random.below(8);
                    fs::write(path, bytes).expect("a write");
                    model.damaged = true;
                }
            }
            _ => reconcile(&mut log, &model),
        }
        assert!(log.acked() <= log.durable());
    }
    log.commit(Instant::now()).expect("a commit");
    model.durable.append(&mut model.waiting);
    reconcile(&mut log, &model);
    drop(log);
    reconcile(&mut open(&dir, cap, when_full, &keys), &model);
}

#[test]
fn a_log_keeps_every_promise_that_the_model_remembers() {
    let given = env::var("PURLIN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = given.unwrap_or_else(dir::now_ms);
    for seed in first..first + if given.is_some() { 1 } else { RUNS } {
        let outcome = std::panic::catch_unwind(|| run(seed));
        if let Err(panic) = outcome {
            eprintln!("PURLIN_TEST_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
