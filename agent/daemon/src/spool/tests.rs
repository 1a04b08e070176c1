//! A log against crashes, damage, caps and disks that fail.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::{Duration, Instant},
};

use purlin_core::{
    gap::Cause,
    identity::{Class, Incarnation},
    retention::{Tier, WhenFull},
};
use tempfile::TempDir;

use super::{
    dir,
    figures::inspect,
    log::{Limits, Log, Rejected},
    seal::{Keys, SEAL_BYTES},
    segment::{HEADER_BYTES, RECORD_HEADER_BYTES},
};

const INCARNATION: Incarnation = Incarnation(7);
const LIMITS: Limits =
    Limits { cap: 64 << 20, window: Duration::ZERO, when_full: WhenFull::DropOldest, ttl: None };

fn open(dir: &TempDir) -> Log {
    let mut log = Log::open(dir.path(), Class::Metric, INCARNATION).expect("a writable directory");
    log.limit(LIMITS);
    log
}

/// Bytes that a sealed record has more.
const TAG_BYTES: usize = 16;

fn open_by(dir: &TempDir, keys: &[[u8; 32]]) -> Log {
    let log = Log::open_with(dir.path(), Class::Metric, INCARNATION, Keys::of(keys));
    let mut log = log.expect("a writable directory");
    log.limit(LIMITS);
    log
}

fn sealed(dir: &TempDir) -> Log {
    open_by(dir, &[[1; 32]])
}

fn payload(seq: u64) -> Vec<u8> {
    format!("{seq:0100}").into_bytes()
}

/// Appends and commits records `from..=to`, each its own number in 100 bytes.
fn fill(log: &mut Log, from: u64, to: u64) {
    for seq in from..=to {
        assert_eq!(log.append(&payload(seq), Instant::now()), Ok(seq));
        if seq % 100 == 0 {
            log.commit(Instant::now()).expect("a commit");
        }
    }
    log.commit(Instant::now()).expect("a commit");
}

/// Every record the log will send, from its cursor on, by number and content; all
/// that is missing is in a gap.
fn drain(log: &mut Log) -> Vec<u64> {
    let (mut seqs, mut from) = (Vec::new(), log.cursor.acked + 1);
    while let Some(frame) = log.read(from, 1 << 14).expect("a read") {
        assert_eq!(frame.first_seq, from);
        let mut next = from;
        for (seq, record) in &frame.records {
            assert_eq!(*record, payload(*seq));
            assert!(
                (next..*seq)
                    .all(|seq| frame.gaps.iter().any(|it| it.first <= seq && seq <= it.last))
            );
            next = seq + 1;
            seqs.push(*seq);
        }
        from = frame.last_seq + 1;
    }
    seqs
}

fn newest_segment(dir: &TempDir) -> PathBuf {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| dir::sequence_in(path).is_some());
    paths.sort();
    paths.pop().expect("a segment")
}

#[test]
fn sends_what_was_committed_in_order_and_once_more_after_reopening() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    fill(&mut log, 1, 20_000);
    assert!(log.segments.len() > 3, "the test should span segments");
    assert_eq!(drain(&mut log), Vec::from_iter(1..=20_000));
    drop(log);
    assert_eq!(drain(&mut open(&dir)), Vec::from_iter(1..=20_000));
}

#[test]
fn nothing_is_sent_before_it_is_durable() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    log.append(b"waiting", Instant::now()).expect("room");
    assert_eq!(log.read(1, 1000).expect("a read"), None);
    drop(log);
    assert_eq!(open(&dir).figures().last_seq, 0);
}

#[test]
fn acknowledged_space_is_given_back_and_numbers_go_on() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    fill(&mut log, 1, 20_000);
    log.acknowledge(20_000);
    assert_eq!(log.figures().segments, 1);
    log.save_cursor().expect("a cursor");
    drop(log);
    let mut log = open(&dir);
    assert_eq!((log.cursor.acked, log.figures().pending), (20_000, 0));
    let seen = inspect(dir.path(), Class::Metric, &LIMITS).expect("a look");
    assert_eq!((seen.acked_seq, seen.last_seq, seen.pending), (20_000, 20_000, 0));
    assert_eq!(seen.bytes, log.figures().bytes, "what is reserved is not counted");
    fill(&mut log, 20_001, 20_010);
    assert_eq!(drain(&mut log), Vec::from_iter(20_001..=20_010));
}

#[test]
fn a_damaged_cursor_sends_again_rather_than_losing() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    fill(&mut log, 1, 100);
    log.acknowledge(50);
    log.save_cursor().expect("a cursor");
    drop(log);
    fs::write(dir.path().join("cursor"), [0xff; 68]).expect("a write");
    assert_eq!(drain(&mut open(&dir)), Vec::from_iter(1..=100));
}

#[test]
fn a_torn_tail_is_cut_off_wherever_it_is_torn() {
    torn(open, HEADER_BYTES, 100);
    torn(sealed, HEADER_BYTES + RECORD_HEADER_BYTES + SEAL_BYTES, 100 + TAG_BYTES);
}

fn torn(open: fn(&TempDir) -> Log, head: usize, payload: usize) {
    let dir = TempDir::new().expect("a directory");
    fill(&mut open(&dir), 1, 3);
    let path = newest_segment(&dir);
    let end = head + 3 * (RECORD_HEADER_BYTES + payload);
    let whole = fs::read(&path).expect("a segment")[..end].to_vec();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).expect("a write");
        let records = cut.saturating_sub(head) / (RECORD_HEADER_BYTES + payload);
        let mut log = open(&dir);
        assert_eq!(drain(&mut log), Vec::from_iter(1..=records as u64), "cut at {cut}");
        // And it goes on from there.
        let next = records as u64 + 1;
        fill(&mut log, next, next);
        drop(log);
        assert_eq!(drain(&mut open(&dir)), Vec::from_iter(1..=next), "cut at {cut}");
        fs::remove_dir_all(&dir).and_then(|()| fs::create_dir(&dir)).expect("an empty one");
    }
}

#[test]
fn a_flipped_byte_costs_one_record_and_is_counted_once() {
    flipped(open, HEADER_BYTES, 100);
    flipped(sealed, HEADER_BYTES + RECORD_HEADER_BYTES + SEAL_BYTES, 100 + TAG_BYTES);
}

fn flipped(open: fn(&TempDir) -> Log, head: usize, payload: usize) {
    let dir = TempDir::new().expect("a directory");
    fill(&mut open(&dir), 1, 10);
    let path = newest_segment(&dir);
    let whole = fs::read(&path).expect("a segment");
    for at in head..head + 10 * (RECORD_HEADER_BYTES + payload) {
        // What was begun at the last opening is no part of it.
        fs::remove_dir_all(&dir).and_then(|()| fs::create_dir(&dir)).expect("an empty one");
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(&path, damaged).expect("a write");
        let mut log = open(&dir);
        let lost = 1 + ((at - head) / (RECORD_HEADER_BYTES + payload)) as u64;
        let kept: Vec<u64> = (1..=10).filter(|&seq| seq != lost).collect();
        assert_eq!((drain(&mut log), drain(&mut log)), (kept.clone(), kept), "byte {at}");
        // The last record's loss can't be told from a torn tail.
        assert_eq!(log.figures().corrupt, u64::from(lost < 10), "byte {at}");
    }
}

#[test]
fn plain_and_sealed_segments_are_read_together_and_a_key_that_is_gone_loses_nothing() {
    let dir = TempDir::new().expect("a directory");
    fill(&mut open(&dir), 1, 100);
    fill(&mut open_by(&dir, &[[1; 32]]), 101, 200);
    let new = [[2; 32], [1; 32]];
    fill(&mut open_by(&dir, &new), 201, 300);
    assert_eq!(drain(&mut open_by(&dir, &new)), Vec::from_iter(1..=300));
    let of = |seq: u64| fs::read(dir.path().join(dir::file_name(seq))).expect("a segment");
    let shows = |seq: u64| of(seq).windows(100).any(|bytes| *bytes == payload(seq));
    assert!(shows(1) && !shows(101) && !shows(201));

    // Without the keys it goes on, in numbers that were not used.
    let mut log = open(&dir);
    assert_eq!(drain(&mut log), Vec::from_iter(1..=100));
    fill(&mut log, 301, 310);
    assert_eq!(log.figures().corrupt, 200);
    log.acknowledge(310);
    log.save_cursor().expect("a cursor");
    drop(log);
    let aside = || {
        let entries = fs::read_dir(dir.path()).expect("a directory").flatten();
        entries.filter(|it| it.path().extension().is_some_and(|it| it == dir::SEALED)).count()
    };
    assert_eq!((aside(), drain(&mut open(&dir))), (2, Vec::new()));

    // One key is back, and then the other.
    assert_eq!(drain(&mut open_by(&dir, &[[2; 32]])).first(), Some(&201));
    assert_eq!(aside(), 1);
    let mut log = open_by(&dir, &new);
    assert_eq!(drain(&mut log)[..200], Vec::from_iter(101..=300));
    assert_eq!((aside(), log.figures().corrupt), (0, 200), "told once");
}

#[test]
fn a_segment_that_is_missing_or_not_ours_is_passed_over() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    fill(&mut log, 1, 20_000);
    let (second, third) = (log.segments[1].first_seq, log.segments[2].first_seq);
    let after = log.segments[3].first_seq;
    fs::remove_file(log.path(second)).expect("a removal");
    fs::write(log.path(third), [0; 4096]).expect("a write");
    fs::write(dir.path().join("notes.txt"), "not ours").expect("a write");
    drop(log);
    let mut log = open(&dir);
    let kept: Vec<u64> = (1..second).chain(after..=20_000).collect();
    assert_eq!(drain(&mut log), kept);
    assert_eq!(log.figures().corrupt, after - second);
    assert!(dir.path().join("notes.txt").exists());
}

#[test]
fn a_segment_removed_or_cut_short_under_us_costs_what_it_held() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    fill(&mut log, 1, 20_000);
    let starts: Vec<u64> = log.segments.iter().map(|segment| segment.first_seq).collect();
    fs::remove_file(log.path(starts[1])).expect("a removal");
    let cut = File::options().write(true).open(log.path(starts[2])).expect("a segment");
    cut.set_len((HEADER_BYTES + 10 * (RECORD_HEADER_BYTES + 100)) as u64).expect("a cut");
    let kept = (1..starts[1]).chain((starts[2]..).take(10)).chain(starts[3]..=20_000);
    assert_eq!(drain(&mut log), Vec::from_iter(kept));
    let lost = (starts[2] - starts[1]) + (starts[3] - starts[2] - 10);
    assert_eq!(log.figures().corrupt, lost);
}

#[test]
fn a_number_that_may_have_been_sent_is_never_used_again() {
    let dir = TempDir::new().expect("a directory");
    fill(&mut open(&dir), 1, 100);
    fs::write(newest_segment(&dir), vec![0; 11_648]).expect("a write");
    let last = open(&dir).figures().last_seq;
    assert!(last >= 100, "{last}");
    assert_eq!(open(&dir).figures().last_seq, last);
}

#[test]
fn beyond_the_cap_the_oldest_go_and_the_core_is_told() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    log.limit(Limits { cap: 1 << 20, ..LIMITS });
    fill(&mut log, 1, 20_000);
    let figures = log.figures();
    assert!(figures.bytes <= 1 << 20, "{}", figures.bytes);
    assert_eq!(figures.dropped, figures.first_seq - 1);
    assert_eq!(drain(&mut log), Vec::from_iter(figures.first_seq..=20_000));
    drop(log);
    let frame = open(&dir).read(1, 1).expect("a read").expect("a frame");
    let told: Vec<_> = frame.gaps.iter().map(|it| (it.first, it.last, it.lost, it.cause)).collect();
    let last = figures.first_seq - 1;
    assert_eq!(told, [(1, last, last, Cause::Full)], "also after a restart");
}

#[test]
fn a_log_that_keeps_the_oldest_takes_no_more_when_it_is_full() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    log.limit(Limits { cap: 10_000, when_full: WhenFull::DropNewest, ..LIMITS });
    let taken = (1..=1000).take_while(|&seq| {
        let taken = log.append(&payload(seq), Instant::now());
        log.commit(Instant::now()).expect("a commit");
        taken.is_ok()
    });
    let taken = taken.count() as u64;
    assert!((50..100).contains(&taken), "{taken}");
    assert_eq!(log.append(&payload(0), Instant::now()), Err(Rejected::Full));
    log.commit(Instant::now()).expect("a commit");
    assert_eq!(drain(&mut log), Vec::from_iter(1..=taken));
    assert_eq!(log.figures().dropped, 2);
    let told = log.read(taken + 1, 1).expect("a read").expect("gaps alone");
    assert_eq!((told.last_seq, told.gaps.len()), (taken + 2, 1));
}

#[test]
fn what_is_too_old_is_dropped() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    log.limit(Limits { ttl: Some(Duration::from_secs(3600)), ..LIMITS });
    fill(&mut log, 1, 5_000);
    log.expire(dir::now_ms());
    assert_eq!(log.figures().expired, 0);
    log.expire(dir::now_ms() + 3_700_000);
    let figures = log.figures();
    assert_eq!((figures.segments, figures.expired), (1, figures.first_seq - 1));
}

#[test]
fn a_thinned_run_survives_a_crash_before_its_segments_are_removed() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    fill(&mut log, 1, 10_000);
    let (second, third) = (log.segments[1].first_seq, log.segments[2].first_seq);
    let leftover = fs::read(log.path(second)).expect("a segment");
    // No record here is a sample, so thinning keeps them all: half the cap makes it do
    // so, a quarter of it drops.
    let bytes = log.bytes();
    log.limit(Limits { cap: bytes - 1, when_full: WhenFull::Downsample, ..LIMITS });
    assert_eq!(log.segments[0].tier, Tier::Minute);
    let after = log.segments[1].first_seq;
    assert!(after > third);
    let kept = drain(&mut log);
    fs::write(log.path(second), leftover).expect("a write");
    drop(log);
    assert_eq!(drain(&mut open(&dir)), kept);
    assert!(!dir.path().join(dir::file_name(second)).exists());
}

/// A log whose segment can't be written, on a directory that is gone.
fn failing(dir: &TempDir, log: &mut Log) -> PathBuf {
    let away = dir.path().with_extension("away");
    fs::rename(dir.path(), &away).expect("a rename");
    fill_failing(log, 1);
    away
}

/// Appends `count` records of a kilobyte, none of which can be made durable.
fn fill_failing(log: &mut Log, count: u64) {
    log.active = Some(File::open("/dev/null").expect("a device that can't be written so"));
    for _ in 0..count {
        log.append(&[7; 1000], Instant::now()).expect("memory is a ring");
    }
    log.commit(Instant::now()).expect_err("no write through a read-only descriptor");
}

#[test]
fn a_disk_that_fails_costs_nothing_that_memory_can_hold() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    let away = failing(&dir, &mut log);
    assert!(log.is_failing());
    let now = Instant::now();
    assert!(log.commit_due().expect("a next try") > now, "not at once: the disk is dead");
    log.commit(now).expect_err("no directory");
    fs::rename(away, dir.path()).expect("a rename");
    log.commit(now).expect("the disk is back");
    assert_eq!(log.read(1, 1000).expect("a read").map(|frame| frame.records.len()), Some(1));
    assert!(!log.is_failing());
    drop(log);
    assert_eq!(open(&dir).figures().durable_seq, 1);
}

#[test]
fn while_the_disk_fails_memory_is_a_ring_and_the_core_is_told_what_it_lost() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    let away = failing(&dir, &mut log);
    fill_failing(&mut log, 3000);
    assert!(log.figures().rejected > 1000);
    fs::rename(away, dir.path()).expect("a rename");
    log.commit(Instant::now()).expect("the disk is back");
    let lost = log.figures().rejected;
    let (mut from, mut seqs, mut gaps) = (1, Vec::new(), Vec::new());
    while let Some(frame) = log.read(from, 1 << 16).expect("a read") {
        seqs.extend(frame.records.iter().map(|(seq, _)| *seq));
        gaps.extend(frame.gaps);
        from = frame.last_seq + 1;
    }
    assert_eq!(seqs, Vec::from_iter(lost + 1..=3001), "the newest are kept");
    assert!(gaps.iter().all(|it| (it.last, it.cause) == (lost, Cause::NotWritten)), "{gaps:?}");
}

#[test]
fn a_disk_that_can_not_be_written_at_the_start_is_no_reason_not_to_start() {
    let dir = TempDir::new().expect("a directory");
    let mut log = open(&dir);
    fill(&mut log, 1, 10);
    drop(log);
    // The next number's name is taken by something that is no file.
    fs::write(newest_segment(&dir), "nonsense longer than a segment's header of forty bytes")
        .expect("a write");
    let next = open(&dir).figures().last_seq + 1;
    let path = dir.path().join(dir::file_name(next));
    fs::remove_file(&path).expect("the segment that was made");
    let bad = dir.path().join(dir::file_name(1)).with_extension("seg.bad");
    fs::rename(bad, dir.path().join(dir::file_name(1))).expect("damaged again");
    fs::create_dir(&path).expect("a directory in its place");
    // It takes records; the name is set aside like any other nonsense.
    let mut log = open(&dir);
    for seq in 1..=10 {
        log.append(&payload(seq), Instant::now()).expect("memory");
    }
    log.commit(Instant::now()).expect("another name is free");
    assert!(dir.path().join(dir::file_name(next)).with_extension("seg.bad").is_dir());
}
