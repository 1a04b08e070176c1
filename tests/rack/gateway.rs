//! Modbus TCP: every fault that a gateway can have, reads of mixed lengths, and not one of
//! them wrong. In memory under a clock that jumps, ten thousand reads a fault; on loopback
//! against pymodbus, two hundred.

use std::{
    net::TcpListener as Listener,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use purlin_core::modbus::guard::Order;
use purlin_daemon::rack::tcp::Gateway;
use purlin_tests::{
    Lab, Result, ensure,
    faults::Random,
    modbus::{ADDRESS, Tally, lateness, read_through, unit, units, value_of_pymodbus},
};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split},
    net::TcpStream,
    sync::Mutex,
    time::{self, Instant},
};

use crate::matrix::value_in_memory;

const READS_IN_MEMORY: u32 = 10_000;
const READS_ON_LOOPBACK: u32 = 200;
/// A fault in every so many answers.
const ONE_IN: u64 = 5;
/// What a gateway takes to answer.
const TURNAROUND: Duration = Duration::from_millis(3);
/// Behind a line that was silent for so long a gateway has forgotten what it owed.
const FORGETS: Duration = Duration::from_secs(5);

/// What a gateway does to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It is late, and with it all that follow.
    Late,
    /// It alone is late, and is overtaken.
    OutOfOrder,
    /// It has a number that nobody gave.
    ForeignNumber,
    /// It is another unit's.
    WrongUnit,
    /// It comes twice.
    Twice,
    /// It never comes.
    Drop,
    /// It says that the unit doesn't answer.
    Unreached,
    /// It comes late on the line behind, and is sent under the next request's number.
    Shifted,
}

impl Fault {
    const ALL: [Fault; 9] = [
        Fault::None,
        Fault::Late,
        Fault::OutOfOrder,
        Fault::ForeignNumber,
        Fault::WrongUnit,
        Fault::Twice,
        Fault::Drop,
        Fault::Unreached,
        Fault::Shifted,
    ];
}

/// Between a driver and a gateway: passes requests on, and does one kind of fault to the
/// answers.
async fn between<D, G>(driver: D, gateway: G, fault: Fault, timeout: Duration, mut random: Random)
where
    D: AsyncRead + AsyncWrite + Send + 'static,
    G: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut requests, to_driver) = split(driver);
    let (mut answers, mut to_gateway) = split(gateway);
    let to_driver = Arc::new(Mutex::new(to_driver));
    let (mut turn, mut held, mut last) = (Instant::now(), Vec::new(), Instant::now());
    while let Some(request) = frame(&mut requests).await {
        if last.elapsed() > FORGETS {
            held.clear();
        }
        last = Instant::now();
        _ = to_gateway.write_all(&request).await;
        let Some(mut answer) = frame(&mut answers).await else { return };
        let now = Instant::now();
        let late = now + lateness(timeout).stall;
        let hits = random.below(ONE_IN) == 0;
        turn = turn.max(now);
        let mut due = turn;
        match fault {
            Fault::Late if hits => (turn, due) = (late, late),
            Fault::OutOfOrder if hits => due = late,
            Fault::ForeignNumber if hits => answer[1] = answer[1].wrapping_add(77),
            Fault::WrongUnit if hits => answer[6] = answer[6].wrapping_add(1),
            Fault::Twice if hits => answer.extend(answer.clone()),
            Fault::Drop if hits => continue,
            Fault::Unreached if hits => {
                answer = [&answer[..4], &[0, 3], &[answer[6], answer[7] | 0x80, 11]].concat();
            }
            Fault::Shifted if hits || !held.is_empty() => {
                held.push(answer);
                if hits && held.len() == 1 {
                    continue;
                }
                let mut earlier = held.remove(0);
                earlier[..2].copy_from_slice(&request[..2]);
                answer = earlier;
            }
            _ => {}
        }
        let to_driver = to_driver.clone();
        tokio::spawn(async move {
            time::sleep_until(due).await;
            _ = to_driver.lock().await.write_all(&answer).await;
        });
    }
}

/// The next whole frame of a stream.
async fn frame(from: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut head = [0; 6];
    from.read_exact(&mut head).await.ok()?;
    let mut frame = head.to_vec();
    frame.resize(6 + usize::from(u16::from_be_bytes([head[4], head[5]])), 0);
    from.read_exact(&mut frame[6..]).await.ok()?;
    Some(frame)
}

/// A gateway in memory, with a unit whose values tell the request's number.
async fn gateway(mut port: DuplexStream, asked: Arc<AtomicU64>) {
    while let Some(request) = frame(&mut port).await {
        let number = asked.fetch_add(1, Relaxed) + 1;
        let start = u16::from_be_bytes([request[8], request[9]]);
        let count = u16::from_be_bytes([request[10], request[11]]);
        let mut answer = [&request[..4], &(3 + 2 * count).to_be_bytes(), &request[6..8]].concat();
        answer.push(2 * count as u8);
        let values = (start..start + count).map(|at| value_in_memory(at, number));
        answer.extend(values.flat_map(u16::to_be_bytes));
        time::sleep(TURNAROUND).await;
        _ = port.write_all(&answer).await;
    }
}

fn in_memory_with(fault: Fault, order: Order, reads: u32) -> Result<(Tally, u64)> {
    let timeout = Duration::from_millis(250);
    let (random, seed) = Random::new();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let tally = runtime.enable_time().start_paused(true).build()?.block_on(async {
        let ((ours, theirs), (near, far)) = (duplex(4096), duplex(4096));
        let asked = Arc::new(AtomicU64::new(0));
        tokio::spawn(between(theirs, near, fault, timeout, random));
        tokio::spawn(gateway(far, asked.clone()));
        let (mut link, mut random) = (Gateway::new(ours), Random::new().0);
        let right = |address| value_in_memory(address, asked.load(Relaxed));
        read_through(&mut link, &unit(timeout, order), reads, &mut random, right).await
    })?;
    println!("{fault:?}: {tally:?}");
    Ok((tally, seed))
}

pub fn in_memory(_: &Lab) -> Result {
    for fault in Fault::ALL {
        let (tally, seed) = in_memory_with(fault, Order::Kept, READS_IN_MEMORY)?;
        // What is shifted stays so until the gateway forgets: less is read, and none wrong.
        let enough = fault == Fault::Shifted || tally.right > tally.failed;
        let read = tally.right > 0 && enough;
        ensure!(tally.wrong == 0 && read, "{fault:?}: {tally:?}, PURLIN_SEED={seed}");
    }
    // As a map says of gateways that answer out of order (`reorders_within_ms`).
    for fault in [Fault::OutOfOrder, Fault::Late, Fault::Drop] {
        let order = Order::Any(Duration::from_millis(500));
        let (tally, seed) = in_memory_with(fault, order, READS_IN_MEMORY)?;
        let read = tally.right > tally.failed;
        ensure!(tally.wrong == 0 && read, "{fault:?}, {order:?}: {tally:?}, PURLIN_SEED={seed}");
    }
    // Numbers alone would not do: without the guard what is shifted is taken.
    let (tally, _) = in_memory_with(Fault::Shifted, Order::Any(Duration::ZERO), 1000)?;
    ensure!(tally.wrong > 0, "the fault harms nobody: {tally:?}");
    Ok(())
}

pub fn on_loopback(lab: &Lab) -> Result {
    let timeout = Duration::from_millis(150);
    let words: Vec<u16> = (0..256).map(value_of_pymodbus).collect();
    let units_of = json!({ADDRESS.to_string(): {"3": {"0": words}}}).to_string();
    let port = Listener::bind("127.0.0.1:0")?.local_addr()?.port();
    let state = lab.file("units.json", units_of)?;
    let _gateway = units(&state, &[format!("tcp:{port}")], lab)?;
    // All at once: each waits most of the time.
    thread::scope(|scope| {
        let cells: Vec<_> = (Fault::ALL.into_iter())
            .filter(|fault| *fault != Fault::Shifted)
            .map(|fault| scope.spawn(move || read_on_loopback(port, fault, timeout)))
            .collect();
        for cell in cells {
            cell.join().map_err(|_| "a cell panicked")??;
        }
        Ok(())
    })
}

fn read_on_loopback(port: u16, fault: Fault, timeout: Duration) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tally = runtime.block_on(async {
        let far = TcpStream::connect(("127.0.0.1", port)).await?;
        let (ours, theirs) = duplex(4096);
        tokio::spawn(between(theirs, far, fault, timeout, Random::new().0));
        let (mut link, unit) = (Gateway::new(ours), unit(timeout, Order::Kept));
        let mut random = Random::new().0;
        read_through(&mut link, &unit, READS_ON_LOOPBACK, &mut random, value_of_pymodbus).await
    })?;
    println!("{fault:?}: {tally:?}");
    ensure!(tally.wrong == 0 && tally.right > tally.failed, "{fault:?}: {tally:?}");
    Ok(())
}
