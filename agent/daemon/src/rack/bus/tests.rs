//! Whole buses on lines in memory, where a byte takes its time and the clock jumps.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use purlin_core::{
    modbus::rtu::{self, Speed},
    rack::schedule::DEAD_SHARE,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::rack::rtu::Line;

const TURNAROUND: Duration = Duration::from_millis(5);

/// What a line and the units on it did.
#[derive(Debug, Default)]
struct Wire {
    requests: AtomicU64,
    /// Bytes in both directions.
    bytes: AtomicU64,
    /// Silences between an answer and the request after it.
    gaps: Mutex<Vec<Duration>>,
}

/// Units that have every holding register up to 109, but for those that are off.
/// An address is switched off by its entry in `off`.
struct Units {
    wire: Arc<Wire>,
    speed: Speed,
    off: Arc<[AtomicBool; 256]>,
    /// Addresses at which there is nothing.
    hole: Option<u16>,
}

impl Units {
    async fn run(self, mut port: DuplexStream) {
        let mut request = [0; 8];
        let mut answered = None::<Instant>;
        while port.read_exact(&mut request).await.is_ok() {
            let gap = answered.take().map(|at| at.elapsed());
            self.wire.gaps.lock().expect("no panic").extend(gap);
            time::sleep(self.speed.on_wire(request.len())).await;
            self.wire.requests.fetch_add(1, Relaxed);
            self.wire.bytes.fetch_add(request.len() as u64, Relaxed);
            if self.off[usize::from(request[0])].load(Relaxed) {
                continue;
            }
            let start = u16::from_be_bytes([request[2], request[3]]);
            let count = u16::from_be_bytes([request[4], request[5]]);
            let mut answer = vec![request[0], request[1], 2 * count as u8];
            if self.hole.is_some_and(|hole| (start..start + count).contains(&hole)) {
                answer = vec![request[0], request[1] | 0x80, 2];
            } else {
                answer.extend((start..start + count).flat_map(u16::to_be_bytes));
            }
            answer.extend(rtu::crc(&answer).to_le_bytes());
            time::sleep(TURNAROUND + self.speed.on_wire(answer.len())).await;
            self.wire.bytes.fetch_add(answer.len() as u64, Relaxed);
            _ = port.write_all(&answer).await;
            answered = Some(Instant::now());
        }
    }
}

struct Lab {
    line: Line<DuplexStream>,
    bus: Bus,
    wire: Arc<Wire>,
    off: Arc<[AtomicBool; 256]>,
    speed: Speed,
}

fn lab(count: u8, hole: Option<u16>) -> Lab {
    let map = Arc::new(Map::shipped("orv3-psu").expect("shipped").expect("good"));
    let speed = map.settings.speed();
    let (ours, theirs) = duplex(4096);
    let wire = Arc::new(Wire::default());
    let off = Arc::new([const { AtomicBool::new(false) }; 256]);
    let units = Units { wire: wire.clone(), speed, off: off.clone(), hole };
    tokio::spawn(units.run(theirs));
    let device = |n| Device { name: format!("psu{n}"), address: 200 + n, map: map.clone() };
    let bus = Bus::new((0..count).map(device).collect());
    Lab { line: Line::new(ours, speed), bus, wire, off, speed }
}

impl Lab {
    /// Until every register of every device was read once.
    async fn reload(&mut self) -> Duration {
        let began = Instant::now();
        let all: usize = self.bus.devices().iter().map(|it| it.map.registers.len()).sum();
        let mut read = 0;
        while read < all {
            let turned = self.bus.turn(&mut self.line).await.expect("a port");
            read += turned.map_or(0, |turned| turned.registers.len());
        }
        began.elapsed()
    }

    async fn turns_until(&mut self, end: Instant) {
        while Instant::now() < end {
            _ = time::timeout_at(end, self.bus.turn(&mut self.line)).await;
        }
    }
}

/// 6 × 105 registers (in rackmon's count: words) at 19,200 bit/s.
#[tokio::test(start_paused = true)]
async fn a_full_reload_takes_what_the_wire_takes() {
    let mut lab = lab(6, None);
    let words: u16 = lab.bus.devices()[0].map.registers.iter().map(Register::words).sum();
    assert_eq!(words, 105);
    let took = lab.reload().await;
    let (requests, bytes) = (lab.wire.requests.load(Relaxed), lab.wire.bytes.load(Relaxed));
    // One read each: 8 bytes out, 5 and the words back, five of them for nothing.
    assert_eq!((requests, bytes), (6, 6 * (8 + 5 + 2 * 110)));
    // The silence that ends a frame, and no time beside it.
    let (silence, gaps) = (lab.speed.silence(), lab.wire.gaps.lock().expect("no panic").clone());
    let kept = |gap: &Duration| (silence..silence + Duration::from_millis(2)).contains(gap);
    assert!(gaps.len() == 5 && gaps.iter().all(kept), "{gaps:?}, silence {silence:?}");
    let wire = lab.speed.on_wire(bytes as usize);
    let turnaround = TURNAROUND * requests as u32;
    assert!(took <= wire.mul_f64(1.1) + turnaround, "{took:?}, wire {wire:?} + {turnaround:?}");
}

#[tokio::test(start_paused = true)]
async fn two_buses_take_no_longer_than_one() {
    let one = lab(6, None).reload().await;
    let (mut first, mut second) = (lab(6, None), lab(6, None));
    let began = Instant::now();
    tokio::join!(first.reload(), second.reload());
    assert_eq!(began.elapsed(), one);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_refuses_gaps_is_read_around_them() {
    // Nobody's register, between 57 and 60.
    let mut lab = lab(1, Some(58));
    lab.reload().await;
    let readings = lab.bus.readings(0);
    assert!(readings.iter().all(|reading| reading.read.is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_dead_device_costs_its_share_and_is_back_within_an_interval() {
    let mut lab = lab(6, None);
    lab.reload().await;
    lab.off[203].store(true, Relaxed);
    let interval = Duration::from_secs(10);
    lab.turns_until(Instant::now() + 2 * interval).await;
    assert!(lab.bus.trouble(3).0, "it is dead");
    // What an hour with it costs is what its share allows, in timeouts of 300 ms.
    let asked = lab.wire.requests.load(Relaxed);
    lab.turns_until(Instant::now() + Duration::from_secs(3600)).await;
    let asked = lab.wire.requests.load(Relaxed) - asked;
    let (alive, share) = (5 * 360 + 5, 3_600_000 / 300 / DEAD_SHARE);
    assert!(asked <= u64::from(alive + share), "{asked} requests");
    assert!(asked >= 5 * 360, "{asked} requests");
    let fan = lab.bus.devices()[3].map.registers.iter().position(|it| it.name == "fan0_speed");
    let fan = fan.expect("a fan");
    let register = lab.bus.devices()[3].map.registers[fan].clone();
    assert_eq!(lab.bus.readings(3)[fan].quality(&register), Quality::Stale);
    assert_eq!(lab.bus.readings(2)[fan].quality(&register), Quality::Good);

    lab.off[203].store(false, Relaxed);
    lab.turns_until(Instant::now() + interval + Duration::from_secs(1)).await;
    assert!(!lab.bus.trouble(3).0, "it is back");
    assert_eq!(lab.bus.readings(3)[fan].quality(&register), Quality::Good);
}

#[tokio::test(start_paused = true)]
async fn intervals_hold_for_a_day() {
    let mut lab = lab(1, None);
    lab.turns_until(Instant::now() + Duration::from_secs(24 * 3600)).await;
    // Every ten seconds, and once an hour more of it in the same turn.
    let requests = lab.wire.requests.load(Relaxed);
    assert!((8640..=8640 + 3 * 24).contains(&requests), "{requests}");
}
