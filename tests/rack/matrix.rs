//! The fault matrix: every fault that a line or a unit can have, reads of mixed
//! lengths, and not one of them wrong. On a line in memory under a clock that jumps,
//! ten thousand reads a fault; on ptys against pymodbus, two hundred.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use purlin_core::modbus::guard::Order;
use purlin_daemon::rack::rtu::Line;
use purlin_tests::{
    Lab, Result, ensure,
    faults::{Disturber, Fault, Random, seal},
    modbus::{SPEED, Tally, lateness, order, pymodbus, read_on_a_pty, read_through, unit},
    serial::DisturbedLine,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
    sync::Mutex,
    time::{self, Instant},
};

const READS_IN_MEMORY: u32 = 10_000;
const READS_ON_A_PTY: u32 = 200;
/// What a unit in memory takes to answer.
const TURNAROUND: Duration = Duration::from_millis(3);

/// A register's value tells its address and the number of the request, so that an
/// answer to any other request, even to the same addresses, is known for what it is.
pub fn value_in_memory(address: u16, request: u64) -> u16 {
    address.wrapping_mul(257) ^ (request as u16).wrapping_mul(7919)
}

/// A unit in memory. It counts the requests it was sent.
async fn device(port: DuplexStream, mut disturber: Disturber, asked: Arc<AtomicU64>) {
    let began = Instant::now();
    let (mut requests, answers) = split(port);
    let answers = Arc::new(Mutex::new(answers));
    let mut request = [0; 8];
    while requests.read_exact(&mut request).await.is_ok() {
        let number = asked.fetch_add(1, Relaxed) + 1;
        let start = u16::from_be_bytes([request[2], request[3]]);
        let count = u16::from_be_bytes([request[4], request[5]]);
        let mut answer = vec![request[0], request[1], 2 * count as u8];
        let values = (start..start + count).map(|at| value_in_memory(at, number));
        answer.extend(values.flat_map(u16::to_be_bytes));
        answer.extend([0, 0]);
        seal(&mut answer);
        let prompt = began.elapsed() + SPEED.on_wire(8 + answer.len()) + TURNAROUND;
        if let Some((due, bytes)) = disturber.disturb(&request, &answer, prompt) {
            let answers = answers.clone();
            tokio::spawn(async move {
                time::sleep_until(began + due).await;
                _ = answers.lock().await.write_all(&bytes).await;
            });
        }
    }
}

fn in_memory_with(fault: Fault, order: Order, reads: u32) -> Result<(Tally, u64)> {
    let timeout = Duration::from_millis(250);
    let (random, seed) = Random::new();
    let disturber = Disturber::new(fault, lateness(timeout), random);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let tally = runtime.block_on(async {
        let (ours, theirs) = duplex(4096);
        let asked = Arc::new(AtomicU64::new(0));
        tokio::spawn(device(theirs, disturber, asked.clone()));
        let (mut line, mut random) = (Line::new(ours, SPEED), Random::new().0);
        let right = |address| value_in_memory(address, asked.load(Relaxed));
        read_through(&mut line, &unit(timeout, order), reads, &mut random, right).await
    })?;
    Ok((tally, seed))
}

/// Ten thousand reads for every fault.
pub fn in_memory(_: &Lab) -> Result {
    for fault in Fault::ALL {
        let order = order(fault, Duration::from_millis(250));
        let (tally, seed) = in_memory_with(fault, order, READS_IN_MEMORY)?;
        tally.check(fault, seed)?;
    }
    Ok(())
}

/// The matrix can fail: a guard that forgets at once is none, and against a gateway
/// that reorders a sentinel is none either.
pub fn unguarded(_: &Lab) -> Result {
    let at_once = Order::Any(Duration::ZERO);
    for (fault, order) in [
        (Fault::Stall, at_once),
        (Fault::BacklogSpread, at_once),
        (Fault::OutOfOrder, at_once),
        (Fault::OutOfOrder, Order::Kept),
    ] {
        let (tally, seed) = in_memory_with(fault, order, 1000)?;
        ensure!(tally.wrong > 0, "{fault:?} harms nobody: {tally:?}, PURLIN_SEED={seed}");
    }
    Ok(())
}

/// Two hundred reads for every fault, against pymodbus, each on a line of its own.
pub fn on_ptys(lab: &Lab) -> Result {
    let timeout = Duration::from_millis(150);
    let (_, seed) = Random::new();
    let start = |fault| {
        let disturber = Disturber::new(fault, lateness(timeout), Random::new().0);
        Ok((fault, DisturbedLine::start(disturber)?))
    };
    let lines = Fault::ALL.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    let ports: Vec<&Path> = lines.iter().map(|(_, line)| line.device.as_path()).collect();
    let _device = pymodbus(&ports, lab)?;
    thread::scope(|scope| {
        let cells: Vec<_> = (lines.iter())
            .map(|(fault, line)| {
                (
                    *fault,
                    scope.spawn(|| read_on_a_pty(&line.driver, *fault, timeout, READS_ON_A_PTY)),
                )
            })
            .collect();
        for (fault, cell) in cells {
            cell.join().map_err(|_| format!("{fault:?} panicked"))??.check(fault, seed)?;
        }
        Ok(())
    })
}
