//! Modbus over TCP: one connection to a gateway, one transaction at a time.

use std::time::Duration;

use purlin_core::modbus::{
    pdu::{Answer, Exception, Request},
    tcp,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{self, Instant},
};

use super::{
    guarded::{Exchange, Guards},
    rtu::{Failure, Unit},
};

/// For a gateway to accept a connection: one that takes longer is gone.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection to a gateway.
#[derive(Debug)]
pub struct Gateway<S> {
    stream: S,
    transaction: u16,
    heard: Vec<u8>,
    guards: Guards,
}

/// Connects to `host:port`.
pub async fn connect(address: &str) -> std::io::Result<Gateway<TcpStream>> {
    let stream = time::timeout(CONNECT, TcpStream::connect(address)).await??;
    // A request is one small segment, and nothing follows it.
    stream.set_nodelay(true)?;
    Ok(Gateway::new(stream))
}

impl<S> Gateway<S> {
    /// Speaks on a stream that is connected.
    pub fn new(stream: S) -> Self {
        Self { stream, transaction: 0, heard: Vec::new(), guards: Guards::default() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Exchange for Gateway<S> {
    fn guards(&mut self) -> &mut Guards {
        &mut self.guards
    }

    async fn exchange(
        &mut self,
        unit: &Unit,
        request: &Request,
    ) -> Result<Result<Answer, Exception>, Failure> {
        self.guards.asked(unit, request);
        self.transaction = self.transaction.wrapping_add(1);
        let frame = tcp::frame(self.transaction, unit.address, request);
        self.stream.write_all(&frame).await?;
        let deadline = Instant::now() + unit.timeout;
        let mut total = 0;
        loop {
            match tcp::take(&mut self.heard, self.transaction, unit.address, request) {
                Ok(Some(Some(answer))) => return Ok(answer),
                // The answer to a question given up on.
                Ok(Some(None)) => continue,
                Ok(None) => {}
                Err(tcp::OutOfStep) => {
                    let broken = std::io::Error::other("what the gateway sends is no Modbus");
                    return Err(Failure::Port(broken));
                }
            }
            let mut buffer = [0; tcp::MAX_FRAME];
            match time::timeout_at(deadline, self.stream.read(&mut buffer)).await {
                Err(_) => return Err(Failure::NoAnswer { heard: total }),
                Ok(Ok(0)) => return Err(Failure::Port(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(heard) => {
                    let heard = heard?;
                    total += heard;
                    self.heard.extend(&buffer[..heard]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use purlin_core::modbus::{
        guard::{Order, Sentinels},
        pdu::Table,
    };
    use tokio::io::duplex;

    use super::*;
    use crate::rack::bus::Ask;

    fn unit() -> Unit {
        Unit {
            address: 5,
            timeout: Duration::from_millis(500),
            min_delay: Duration::ZERO,
            order: Order::Kept,
            sentinels: Sentinels { table: Table::InputRegisters, start: 0, most: 4, step: 1 },
        }
    }

    /// A unit whose registers say their addresses, and how its gateway answers a request
    /// that is the so-manieth.
    async fn answers(
        mut port: tokio::io::DuplexStream,
        how: impl Fn(usize, Vec<u8>) -> (u64, Vec<u8>),
    ) {
        let mut request = [0; 12];
        for n in 0.. {
            if port.read_exact(&mut request).await.is_err() {
                return;
            }
            let mut answer = request[..8].to_vec();
            answer[5] = 3 + 2 * request[11];
            answer.push(2 * request[11]);
            let first = u16::from_be_bytes([request[8], request[9]]);
            answer.extend((first..first + u16::from(request[11])).flat_map(u16::to_be_bytes));
            let (wait, answer) = how(n, answer);
            time::sleep(Duration::from_millis(wait)).await;
            _ = port.write_all(&answer).await;
        }
    }

    async fn read(
        gateway: &mut Gateway<tokio::io::DuplexStream>,
        at: u16,
    ) -> Result<Answer, Failure> {
        let read = Request::read(Table::InputRegisters, at, 1).expect("one register");
        gateway.ask(&unit(), &read).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_given_up_on_is_not_taken_for_the_next() {
        let (ours, theirs) = duplex(4096);
        tokio::spawn(answers(theirs, |n, answer| (if n == 0 { 600 } else { 200 }, answer)));
        let mut gateway = Gateway::new(ours);
        assert!(matches!(read(&mut gateway, 1).await, Err(Failure::NoAnswer { .. })));
        for at in [2, 3] {
            let answer = read(&mut gateway, at).await.expect("an answer");
            assert_eq!(answer, Answer::Registers(vec![at]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_unit_that_its_gateway_does_not_reach_owes_an_answer() {
        let (ours, theirs) = duplex(4096);
        let refuses = |n, mut answer: Vec<u8>| {
            if n < 2 {
                answer.truncate(8);
                answer[5] = 3;
                answer[7] |= 0x80;
                answer.push(11);
            }
            (10, answer)
        };
        tokio::spawn(answers(theirs, refuses));
        let mut gateway = Gateway::new(ours);
        let first = read(&mut gateway, 1).await.expect_err("the gateway's word");
        assert!(first.to_string().contains("gateway target did not respond"), "{first}");
        assert!(read(&mut gateway, 1).await.is_err(), "a sentinel is refused too");
        let third = read(&mut gateway, 7).await.expect("after a sentinel");
        assert_eq!((third, gateway.guards.sentinels), (Answer::Registers(vec![7]), 2));
    }
}
