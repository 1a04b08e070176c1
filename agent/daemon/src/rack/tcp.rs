//! Modbus over TCP: one connection to a gateway, one transaction at a time.

use std::time::Duration;

use purlin_core::modbus::{
    pdu::{Answer, Request},
    tcp,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{self, Instant},
};

use super::{
    bus::Ask,
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
        Self { stream, transaction: 0, heard: Vec::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Ask for Gateway<S> {
    async fn ask(&mut self, unit: &Unit, request: &Request) -> Result<Answer, Failure> {
        self.transaction = self.transaction.wrapping_add(1);
        let frame = tcp::frame(self.transaction, unit.address, request);
        self.stream.write_all(&frame).await?;
        let deadline = Instant::now() + unit.timeout;
        let mut total = 0;
        loop {
            match tcp::take(&mut self.heard, self.transaction, unit.address, request) {
                Ok(Some(Some(answer))) => return answer.map_err(Failure::Refused),
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

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_given_up_on_is_not_taken_for_the_next() {
        let (ours, mut theirs) = duplex(4096);
        tokio::spawn(async move {
            let mut request = [0; 12];
            for late in [true, false, false] {
                theirs.read_exact(&mut request).await?;
                let wait = if late { 600 } else { 200 };
                let mut answer = request[..6].to_vec();
                answer[5] = 5;
                answer.extend([request[6], request[7], 2, 0, request[9]]);
                let due = Instant::now() + Duration::from_millis(wait);
                time::sleep_until(due).await;
                theirs.write_all(&answer).await?;
            }
            std::io::Result::Ok(())
        });
        let unit = Unit {
            address: 5,
            timeout: Duration::from_millis(500),
            min_delay: Duration::ZERO,
            order: Order::Kept,
            sentinels: Sentinels { table: Table::InputRegisters, start: 0, most: 1, step: 1 },
        };
        let mut gateway = Gateway::new(ours);
        let mut read = async |address| {
            let read = Request::read(Table::InputRegisters, address, 1).expect("one register");
            gateway.ask(&unit, &read).await.ok()
        };
        assert_eq!(read(1).await, None);
        assert_eq!(read(2).await, Some(Answer::Registers(vec![2])));
        assert_eq!(read(3).await, Some(Answer::Registers(vec![3])));
    }
}
