//! Asks ptp4l of this machine how it keeps its clock: datagrams to its socket, which any
//! user may ask from linuxptp 4.0 on (`uds_ro_address`), and whose owner alone before.
//! Page: `hw-docs/clock.md`.

use std::{
    io,
    os::{linux::net::SocketAddrExt, unix::net as std_unix},
    process,
    time::Duration,
};

use purlin_core::{
    metric::Point,
    ptp::{self, Ptp, QUESTIONS, Question},
};
use purlin_proto::api;
use tokio::{net::UnixDatagram, time};

/// Where it listens, unless it is set otherwise.
const SOCKETS: [&str; 2] = ["/run/ptp4lro", "/run/ptp4l"];
/// For all its answers, which it has in memory.
const ANSWERS: Duration = Duration::from_secs(1);

/// What it said.
#[derive(Clone, Copy, Debug)]
pub enum Said {
    /// How it keeps its clock.
    Clock(Ptp),
    /// It is there, and says nothing.
    Nothing,
    /// Its socket is somebody else's.
    Forbidden,
}

/// Who asks.
#[derive(Debug, Default)]
pub struct Asker {
    /// Of the last questions.
    number: u16,
    /// The one it answered for last.
    domain: Option<u8>,
}

impl Asker {
    /// What it says; `None` if there is none.
    pub async fn ask(&mut self) -> Option<Said> {
        self.number = self.number.wrapping_add(1);
        let mut is_forbidden = false;
        for path in SOCKETS {
            match self.connect(path) {
                Ok(socket) => {
                    let said = time::timeout(ANSWERS, self.exchange(&socket)).await;
                    return Some(said.ok().and_then(Result::ok).map_or(Said::Nothing, Said::Clock));
                }
                Err(error) => is_forbidden |= error.kind() == io::ErrorKind::PermissionDenied,
            }
        }
        is_forbidden.then_some(Said::Forbidden)
    }

    /// A socket that hears nobody else. Its own name is no file.
    fn connect(&self, path: &str) -> io::Result<UnixDatagram> {
        let own = format!("purlin-ptp4l-{}-{}", process::id(), self.number);
        let own = std_unix::SocketAddr::from_abstract_name(own)?;
        let socket = std_unix::UnixDatagram::bind_addr(&own)?;
        socket.connect(path)?;
        socket.set_nonblocking(true)?;
        UnixDatagram::from_std(socket)
    }

    /// Each question once, one after the other: its socket is never full of what it says to us.
    async fn exchange(&mut self, socket: &UnixDatagram) -> io::Result<Ptp> {
        let mut ptp = Ptp::default();
        let domain = match self.domain.take() {
            Some(domain) => domain,
            // Whoever asks has to name it, and one of them is its.
            None => {
                for domain in 0..ptp::DOMAINS {
                    socket.send(&ptp::question(Question::Parent, domain, self.number)).await?;
                }
                self.hear(socket, Question::Parent, &mut ptp).await?
            }
        };
        for question in QUESTIONS {
            socket.send(&ptp::question(question, domain, self.number)).await?;
            self.hear(socket, question, &mut ptp).await?;
        }
        self.domain = Some(domain);
        Ok(ptp)
    }

    /// Until a question is answered; of which domain.
    async fn hear(
        &self,
        socket: &UnixDatagram,
        question: Question,
        ptp: &mut Ptp,
    ) -> io::Result<u8> {
        let mut bytes = [0; ptp::MAX_ANSWER];
        loop {
            let length = socket.recv(&mut bytes).await?;
            match ptp.learn(&bytes[..length], self.number) {
                Some((answered, domain)) if answered == question => return Ok(domain),
                _ => {}
            }
        }
    }
}

impl Said {
    /// Whether it keeps its clock well; `None` if it may not be asked.
    pub fn is_synchronized(&self) -> Option<bool> {
        match self {
            Self::Clock(ptp) => Some(ptp.is_synchronized()),
            Self::Nothing => Some(false),
            Self::Forbidden => None,
        }
    }

    /// What of it is measured. Of a clock that follows nobody offsets are zeros that say
    /// nothing.
    pub fn points(&self) -> Vec<Point> {
        match self {
            Self::Clock(ptp) if ptp.follows() => vec![
                Point::gauge("purlin.ptp.offset", "s", ptp.offset_s),
                Point::gauge("purlin.ptp.path_delay", "s", ptp.path_delay_s),
                Point::gauge("purlin.ptp.grandmaster.class", "1", f64::from(ptp.class)),
            ],
            _ => Vec::new(),
        }
    }

    /// For people and machines.
    pub fn view(&self) -> api::Ptp {
        let state = |state: &str| api::Ptp { state: state.into(), ..api::Ptp::default() };
        let ptp = match self {
            Self::Clock(ptp) => ptp,
            Self::Nothing => return state("does not answer"),
            Self::Forbidden => return state("may not be asked"),
        };
        let named = match (ptp.is_synchronized(), ptp.follows(), ptp.leads()) {
            (true, _, _) => "synchronized",
            (false, true, _) => "follows a clock without a source",
            (false, false, true) => "follows itself",
            (false, false, false) => "follows nobody",
        };
        api::Ptp {
            grandmaster: Some(ptp.grandmaster.to_string()),
            class: ptp.class,
            steps: ptp.steps,
            offset_s: ptp.offset_s,
            path_delay_s: ptp.path_delay_s,
            ..state(named)
        }
    }
}
