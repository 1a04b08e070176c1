//! Power cuts in the middle of anything: what was acknowledged as durable is there
//! afterwards, and the log opens.
//!
//! A cut is the file system's own shutdown without flushing its log, then unmounting
//! and mounting. It doesn't tear a sector; torn tails and flipped bytes have tests of
//! their own over the file's bytes. That the rig tells good from bad is shown by a
//! writer that doesn't sync.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use purlin_core::{
    gap::Cause,
    identity::{Class, Incarnation},
    retention::WhenFull,
};
use purlin_daemon::{
    history::store::Store,
    spool::{Keys, Limits, log::Log},
};
use purlin_proto::v1::HistoryChunk;
use purlin_tests::{
    Lab, Need, Random, Result,
    disk::{self, Disk},
    ensure,
    lab::Test,
    test, wait,
};

/// Longest time from mounting to the cut.
const LONGEST_RUN_MS: u64 = 25;

pub fn tests() -> Vec<Test> {
    let ext4 = Need::Is(|| disk::missing("ext4"));
    let xfs = Need::Is(|| disk::missing("xfs"));
    let tools = |kind| [Need::Program("perl"), Need::Program("mount"), Need::Program(kind)];
    vec![
        test("power_cuts_on_ext4_lose_nothing_durable", 400, |lab| {
            cuts(lab, "ext4", 64, 200, &Keys::default())
        })
        .needs(&tools("mkfs.ext4"))
        .needs(&[ext4]),
        test("power_cuts_on_xfs_lose_nothing_durable", 200, |lab| {
            cuts(lab, "xfs", 320, 50, &Keys::default())
        })
        .needs(&tools("mkfs.xfs"))
        .needs(&[xfs]),
        test("power_cuts_lose_nothing_sealed", 200, |lab| {
            cuts(lab, "ext4", 64, 50, &Keys::of(&[[7; 32]]))
        })
        .needs(&tools("mkfs.ext4"))
        .needs(&[Need::Is(|| disk::missing("ext4"))]),
        test("power_cuts_leave_the_local_history_whole", 200, history_cuts)
            .needs(&tools("mkfs.ext4"))
            .needs(&[ext4]),
        test("the_rig_tells_a_writer_that_does_not_sync", 60, rig)
            .needs(&tools("mkfs.ext4"))
            .needs(&[ext4]),
    ]
}

fn cuts(lab: &Lab, kind: &str, mib: u64, cuts: u32, keys: &Keys) -> Result {
    let mut random = Random::from_environment()?;
    let disk = Disk::make(lab, "disk", kind, mib)?;
    let dir = disk.path().join("metric");
    let promised = Promised::default();
    let mut slowest = Duration::ZERO;
    for cut in 0..cuts {
        let log = open(&dir, &mut slowest, keys)?;
        promised.begin(&log);
        let run = Duration::from_micros(random.below(LONGEST_RUN_MS * 1000));
        let mut theirs = random.fork();
        let cutter = disk.arm()?;
        let durable = thread::scope(|scope| {
            let writer = scope.spawn(|| write_until_it_fails(log, &promised, &mut theirs));
            sleep(run);
            // What a sync says once the power is off, nobody would have heard.
            let durable = promised.durable.load(Ordering::Acquire);
            let done = cutter.cut();
            writer.join().map_err(|_| "the writer panicked")?;
            done.map(|()| durable)
        })?;
        disk.cycle()?;
        let mut log = open(&dir, &mut slowest, keys)?;
        check(&mut log, durable, &promised).map_err(|e| format!("cut {cut}: {e:?}"))?;
    }
    let durable = promised.durable.load(Ordering::Acquire);
    ensure!(
        durable > u64::from(cuts),
        "only {durable} records: the rig is too slow to show anything"
    );
    println!(
        "{kind}: {cuts} cuts, {durable} records made durable, none lost; opened in {slowest:?} at most"
    );
    Ok(())
}

/// What the log has said of itself.
#[derive(Default)]
struct Promised {
    durable: AtomicU64,
    acked: AtomicU64,
}

impl Promised {
    /// From what is there: a sync under way at the last cut may have said more.
    fn begin(&self, log: &Log) {
        self.durable.store(log.durable(), Ordering::Release);
        self.acked.fetch_min(log.durable(), Ordering::AcqRel);
    }
}

fn open(dir: &Path, slowest: &mut Duration, keys: &Keys) -> Result<Log> {
    let began = Instant::now();
    let mut log = Log::open_with(dir, Class::Metric, Incarnation(7), keys.clone())?;
    *slowest = (*slowest).max(began.elapsed());
    let window = Duration::ZERO;
    log.limit(Limits { cap: 8 << 20, window, when_full: WhenFull::DropOldest, ttl: None });
    Ok(log)
}

fn payload(seq: u64) -> Vec<u8> {
    format!("{seq:020}").repeat(1 + (seq * 7 % 60) as usize).into_bytes()
}

/// Appends, commits and acknowledges as fast as it can.
fn write_until_it_fails(mut log: Log, promised: &Promised, random: &mut Random) {
    loop {
        for _ in 0..=random.below(20) {
            let next = log.last_seq() + 1;
            if log.append(&payload(next), Instant::now()).is_err() {
                return;
            }
        }
        if log.commit(Instant::now()).is_err() {
            return;
        }
        promised.durable.store(log.durable(), Ordering::Release);
        if random.below(4) == 0 {
            let acked = log.acked() + random.below(log.durable() - log.acked() + 1);
            // Before: an acknowledged record may be gone.
            promised.acked.store(acked, Ordering::Release);
            log.acknowledge(acked);
            _ = log.save_cursor();
        }
    }
}

/// Everything that was durable and not acknowledged is there, or was dropped for want
/// of room, which is told.
fn check(log: &mut Log, durable: u64, promised: &Promised) -> Result {
    let acked = promised.acked.load(Ordering::Acquire);
    ensure!(log.acked() <= acked.max(durable), "a cursor at {}, beyond {durable}", log.acked());
    ensure!(log.durable() >= durable, "{} durable, and {durable} promised", log.durable());
    let mut from = log.acked() + 1;
    let mut next = acked.max(log.acked()) + 1;
    while let Some(frame) = log.read(from, 1 << 16)? {
        let full = |seq| {
            frame
                .gaps
                .iter()
                .any(|gap| gap.cause == Cause::Full && (gap.first..=gap.last).contains(&seq))
        };
        for (seq, record) in &frame.records {
            ensure!(*record == payload(*seq), "{seq} came back with other bytes");
            while next < *seq {
                ensure!(full(next) || next > durable, "{next} is lost; {durable} were durable");
                next += 1;
            }
            next = next.max(seq + 1);
        }
        from = frame.last_seq + 1;
    }
    ensure!(next > durable, "{next} and all after it are lost; {durable} were durable");
    ensure!(log.lost(Cause::Damaged) == 0, "{} were damaged", log.lost(Cause::Damaged));
    Ok(())
}

/// sled lets go of its lock a moment after it was dropped.
fn open_history(dir: &Path) -> Result<(Store, Option<String>)> {
    wait::until("the local history opens", Duration::from_secs(20), || {
        Store::open(dir).map_err(|e| format!("{e:?}"))
    })
}

/// What the local history has flushed is there, and it opens.
fn history_cuts(lab: &Lab) -> Result {
    const CUTS: u32 = 25;
    let mut random = Random::from_environment()?;
    let disk = Disk::make(lab, "disk", "ext4", 64)?;
    let dir = disk.path().join("history");
    let flushed = AtomicU64::new(0);
    for cut in 0..CUTS {
        let (store, damage) = open_history(&dir).map_err(|e| format!("cut {cut}: {e:?}"))?;
        ensure!(damage.is_none(), "cut {cut}: it was set aside: {damage:?}");
        let run = Duration::from_micros(5000 + random.below(LONGEST_RUN_MS * 1000));
        let cutter = disk.arm()?;
        let promised = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for n in flushed.load(Ordering::Acquire) + 1.. {
                    let chunk = HistoryChunk { minutes: vec![1], values: vec![n as f64] };
                    let put = store.put(n % 500, n as u32, &chunk).and_then(|()| store.flush());
                    if put.is_err() {
                        return;
                    }
                    flushed.store(n, Ordering::Release);
                }
            });
            sleep(run);
            let promised = flushed.load(Ordering::Acquire);
            let done = cutter.cut();
            writer.join().map_err(|_| "the writer panicked")?;
            done.map(|()| promised)
        })?;
        // On a disk that is gone it can't close, and may say so by a panic.
        _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(store)));
        disk.cycle()?;
        let (store, damage) = open_history(&dir).map_err(|e| format!("cut {cut}: {e:?}"))?;
        ensure!(damage.is_none(), "cut {cut}: it was set aside: {damage:?}");
        for n in 1..=promised {
            let found = store.chunks(n % 500, n as u32).into_iter().next();
            let found = found.filter(|it| it.0 == n as u32 && it.1.values == [n as f64]);
            ensure!(found.is_some(), "cut {cut}: {n} of {promised} flushed is lost");
        }
        flushed.store(promised, Ordering::Release);
    }
    let flushed = flushed.load(Ordering::Acquire);
    ensure!(flushed > u64::from(CUTS), "only {flushed} flushes: too slow to show anything");
    println!("history: {CUTS} cuts, {flushed} flushes, none lost");
    Ok(())
}

/// The same cuts under a writer that believes what `write` returns.
fn rig(lab: &Lab) -> Result {
    const CUTS: u32 = 12;
    let mut random = Random::from_environment()?;
    let disk = Disk::make(lab, "disk", "ext4", 64)?;
    let path = disk.path().join("lines");
    let mut lost = 0;
    for _ in 0..CUTS {
        let written = Mutex::new(0u64);
        _ = fs::remove_file(&path);
        let mut file = File::create(&path)?;
        let cutter = disk.arm()?;
        let promised = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                while file.write_all(&[7; 100]).is_ok() {
                    *written.lock().unwrap_or_else(PoisonError::into_inner) += 100;
                }
            });
            sleep(Duration::from_micros(5000 + random.below(LONGEST_RUN_MS * 1000)));
            let promised = *written.lock().unwrap_or_else(PoisonError::into_inner);
            let done = cutter.cut();
            writer.join().map_err(|_| "the writer panicked")?;
            done.map(|()| promised)
        })?;
        drop(file);
        disk.cycle()?;
        let found = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        lost += u32::from(found < promised);
    }
    println!("a writer that does not sync lost data in {lost} of {CUTS} cuts");
    ensure!(lost > CUTS / 2, "the rig cuts nothing: {lost} of {CUTS}");
    Ok(())
}
