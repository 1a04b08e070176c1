//! Writes, and lines that are no lines. The matrix of what may go wrong with reads is
//! in `tests/rack`.

use purlin_core::modbus::pdu::Table;
use tokio::io::{DuplexStream, duplex};

use super::*;

const SPEED: Speed = Speed { baud: 19_200, bits: 11 };

fn unit() -> Unit {
    Unit {
        address: 17,
        timeout: Duration::from_millis(250),
        min_delay: Duration::ZERO,
        order: Order::Kept,
        sentinels: Sentinels { table: Table::HoldingRegisters, start: 0, most: 8, step: 1 },
    }
}

/// A unit that keeps what it is written, on a line that echoes or not; it may also
/// not take a write that it acknowledges.
async fn register(mut port: DuplexStream, echoes: bool, takes: bool) {
    let (mut held, mut request) = (0, [0; 8]);
    while port.read_exact(&mut request).await.is_ok() {
        if echoes {
            _ = port.write_all(&request).await;
            time::sleep(Duration::from_millis(20)).await;
        }
        let answer = match request[1] {
            6 => {
                if takes {
                    held = u16::from_be_bytes([request[4], request[5]]);
                }
                request.to_vec()
            }
            _ => {
                let count = request[5];
                let mut answer = vec![17, 3, 2 * count];
                answer.extend((0..count).flat_map(|_| held.to_be_bytes()));
                answer.extend(rtu::crc(&answer).to_le_bytes());
                answer
            }
        };
        _ = port.write_all(&answer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_holds_when_it_was_read_back_and_only_then() {
    for echoes in [false, true] {
        for takes in [true, false] {
            let (ours, theirs) = duplex(4096);
            tokio::spawn(register(theirs, echoes, takes));
            let mut line = Line::new(ours, SPEED);
            let written = line.write(&unit(), &Request::write_register(7, 42)).await;
            assert_eq!(written.is_ok(), takes, "{written:?}, echoes: {echoes}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_echo_alone_is_no_write() {
    let (ours, mut theirs) = duplex(4096);
    tokio::spawn(async move {
        let mut request = [0; 8];
        while theirs.read_exact(&mut request).await.is_ok() {
            _ = theirs.write_all(&request).await;
        }
    });
    let mut line = Line::new(ours, SPEED);
    let written = line.write(&unit(), &Request::write_register(7, 42)).await;
    assert!(matches!(written, Err(Failure::NoAnswer { .. })), "{written:?}");
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_never_silent_is_told() {
    let (ours, mut theirs) = duplex(4096);
    tokio::spawn(async move {
        while theirs.write_all(&[0x55]).await.is_ok() {
            time::sleep(Duration::from_millis(1)).await;
        }
    });
    let read = Request::read(Table::HoldingRegisters, 0, 1).expect("one register");
    let asked = Line::new(ours, SPEED).ask(&unit(), &read).await;
    assert!(matches!(asked, Err(Failure::Busy)), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_port_that_goes_away_is_an_error_of_the_port() {
    let (ours, theirs) = duplex(4096);
    drop(theirs);
    let read = Request::read(Table::HoldingRegisters, 0, 1).expect("one register");
    let asked = Line::new(ours, SPEED).ask(&unit(), &read).await;
    assert!(matches!(asked, Err(Failure::Port(_))), "{asked:?}");
}
