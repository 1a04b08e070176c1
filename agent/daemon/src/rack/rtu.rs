//! One Modbus RTU transaction at a time on one line: the core's rules with a port and
//! a clock. It owns the port and each unit's guard; it never retries, that is for
//! whoever schedules the bus.

use std::{fmt, io, time::Duration};

use purlin_core::modbus::{
    guard::{Order, Sentinels},
    pdu::{Answer, Exception, Request},
    rtu::{self, Listener, Speed},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task,
    time::{self, Instant},
};

use super::{
    bus::Ask,
    guarded::{Exchange, Guards},
};

#[cfg(test)]
mod tests;

/// A line that is not silent for this long belongs to somebody else, or to a short
/// circuit. The longest frame at 1200 bit/s takes 2.4 s.
const NEVER_SILENT: Duration = Duration::from_secs(3);

/// How a unit on the line is spoken to.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// Its address, 1 to 247.
    pub address: u8,
    /// For its answer to begin.
    pub timeout: Duration,
    /// Silence it needs before a request, if more than the line's own.
    pub min_delay: Duration,
    /// In which order it answers.
    pub order: Order,
    /// What it can be asked that counts for nothing.
    pub sentinels: Sentinels,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// None came in time. What was heard instead was noise, or an answer to
    /// something else.
    NoAnswer {
        /// Bytes that were heard.
        heard: usize,
    },
    /// The unit refused.
    Refused(Exception),
    /// The gateway says that it had no answer from the unit.
    Unreached(Exception),
    /// The unit still owes an answer and can't be asked anything for this long.
    Owes(Duration),
    /// What was read back is not what was written.
    NotTaken(Answer),
    /// The line never fell silent.
    Busy,
    /// The port is gone or broken.
    Port(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoAnswer { heard: 0 } => f.write_str("no answer"),
            Failure::NoAnswer { heard } => write!(f, "{heard} bytes that are no answer"),
            Failure::Refused(exception) => exception.fmt(f),
            Failure::Unreached(exception) => write!(f, "the gateway had no answer: {exception}"),
            Failure::Owes(wait) => write!(f, "owes an answer, asked again in {wait:.1?}"),
            Failure::NotTaken(answer) => write!(f, "written, but {answer:?} was read back"),
            Failure::Busy => write!(f, "the line was not silent for {NEVER_SILENT:?}"),
            Failure::Port(error) => write!(f, "the port: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Port(error)
    }
}

/// What has happened on a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests sent, sentinels included.
    pub requests: u64,
    /// Sentinels among them.
    pub sentinels: u64,
    /// Bytes sent and heard.
    pub bytes: u64,
    /// Bytes that were no answer of ours nor the echo of a request: another's, or noise.
    pub foreign: u64,
}

/// A serial line that we alone speak on.
#[derive(Debug)]
pub struct Line<P> {
    port: P,
    speed: Speed,
    /// When a byte was on the line last, as far as we know.
    last_byte: Instant,
    guards: Guards,
    counts: Counts,
}

impl<P: AsyncRead + AsyncWrite + Unpin + Send> Line<P> {
    /// Takes over a port that is open and set up.
    pub fn new(port: P, speed: Speed) -> Self {
        let (guards, counts) = (Guards::default(), Counts::default());
        Self { port, speed, last_byte: Instant::now(), guards, counts }
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        Counts { sentinels: self.guards.sentinels, ..self.counts }
    }

    /// Writes, and reads back what was written.
    pub async fn write(&mut self, unit: &Unit, request: &Request) -> Result<(), Failure> {
        self.ask(unit, request).await?;
        let Some((read, expected)) = request.read_back() else { return Ok(()) };
        let read = self.ask(unit, &read).await?;
        if read == expected { Ok(()) } else { Err(Failure::NotTaken(read)) }
    }

    /// Listens until something is heard, or it is time; asks nothing.
    pub async fn listen(&mut self, until: Instant) -> io::Result<()> {
        let heard = self.hear(until, |_| {}).await?;
        self.counts.foreign += heard as u64;
        Ok(())
    }

    /// Waits until the line has been silent for long enough to speak.
    async fn wait_for_silence(&mut self, min_delay: Duration) -> Result<(), Failure> {
        let silence = self.speed.silence().max(min_delay);
        let give_up = Instant::now() + NEVER_SILENT;
        // Lets the kernel tell what has come in meanwhile.
        task::yield_now().await;
        loop {
            let heard = self.hear(self.last_byte + silence, |_| {}).await?;
            self.counts.foreign += heard as u64;
            match heard {
                0 => return Ok(()),
                _ if Instant::now() > give_up => return Err(Failure::Busy),
                _ => {}
            }
        }
    }

    /// The bytes that come next, or none by `until`.
    async fn hear(&mut self, until: Instant, take: impl FnOnce(&[u8])) -> io::Result<usize> {
        let mut buffer = [0; rtu::MAX_FRAME];
        match time::timeout_at(until, self.port.read(&mut buffer)).await {
            Err(_) => Ok(0),
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(heard)) => {
                self.last_byte = self.last_byte.max(Instant::now());
                self.counts.bytes += heard as u64;
                take(&buffer[..heard]);
                Ok(heard)
            }
            Ok(Err(error)) => Err(error),
        }
    }
}

impl<P: AsyncRead + AsyncWrite + Unpin + Send> Exchange for Line<P> {
    fn guards(&mut self) -> &mut Guards {
        &mut self.guards
    }

    async fn exchange(
        &mut self,
        unit: &Unit,
        request: &Request,
    ) -> Result<Result<Answer, Exception>, Failure> {
        self.wait_for_silence(unit.min_delay).await?;
        let sent = rtu::frame(unit.address, request);
        self.guards.asked(unit, request);
        self.port.write_all(&sent).await?;
        self.counts.requests += 1;
        self.counts.bytes += sent.len() as u64;
        // The kernel still holds what it was given: it is on the wire until then.
        self.last_byte = Instant::now() + self.speed.on_wire(sent.len());
        let answer_len = request.answer_len() + 3;
        let deadline = self.last_byte + unit.timeout + self.speed.on_wire(answer_len);
        let mut listener = Listener::new(unit.address, request, &sent);
        loop {
            let answer = listener.answer();
            let until = match answer {
                Some(_) => self.last_byte + self.speed.silence(),
                None => deadline,
            };
            let heard = self.hear(until, |bytes| listener.hear(bytes)).await?;
            if let (0, Some(answer)) = (heard, answer) {
                return Ok(answer);
            }
            if heard == 0 || Instant::now() > deadline {
                let heard = listener.heard();
                self.counts.foreign += if listener.is_echo() { 0 } else { heard as u64 };
                return Err(Failure::NoAnswer { heard });
            }
        }
    }
}
