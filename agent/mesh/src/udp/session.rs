//! A session: a socket of its own that is connected to an endpoint, so that an answer finds
//! its client, and the kernel tells when nothing listens there any more.

use std::{
    cell::Cell,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket},
    os::fd::{AsFd, AsRawFd},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use nix::sys::socket::{MsgFlags, recv, send};
use tokio::{io::Interest, net::UdpSocket, task::spawn_local};
use tokio_util::task::AbortOnDropHandle;

use super::{Client, Passed, socket::Socket};
use crate::{
    counters::{Counters, Lost, Open},
    endpoint::{Endpoint, Under},
    target::{Begun, Target},
    worker::Worker,
};

/// Where a session goes.
#[derive(Debug)]
pub struct To {
    /// The service.
    pub target: Arc<Target>,
    /// One of its endpoints.
    pub endpoint: Arc<Endpoint>,
    _under: Under,
}

impl To {
    /// Counts it there, and with the service.
    pub fn new(target: &Arc<Target>, endpoint: &Arc<Endpoint>, of_service: Begun) -> Self {
        let _under = Under::way(endpoint).stays(of_service);
        Self { target: target.clone(), endpoint: endpoint.clone(), _under }
    }

    /// Nothing listens there.
    pub fn fail(&self, now_ms: u32) {
        self.target.ended(&self.endpoint, false, now_ms);
    }
}

/// One client's.
#[derive(Debug)]
pub struct Session {
    /// Where it goes.
    pub to: To,
    index: usize,
    upstream: Rc<UdpSocket>,
    said: Rc<Said>,
    _open: Open,
    _answers: AbortOnDropHandle<()>,
}

/// What both directions know.
#[derive(Debug)]
struct Said {
    /// When anything was said, by the workers' clock.
    last_ms: Cell<u32>,
    /// Whether the endpoint refused what it was sent.
    has_failed: Cell<bool>,
}

impl Session {
    /// A new one.
    pub fn begin(worker: &Rc<Worker>, client: Client, index: usize, to: To) -> Result<Self, Lost> {
        let begun = connect(to.endpoint.address).inspect_err(|error| {
            tracing::debug!(endpoint = %to.endpoint.address, %error, "no socket to it");
            if is_refused(error) {
                to.fail(worker.now_ms());
            }
        });
        let begun = begun.and_then(|upstream| Self::over(worker, client, index, to, upstream));
        begun.map_err(|_| Lost::NotSent)
    }

    /// One that goes over this socket.
    pub fn over(
        worker: &Rc<Worker>,
        client: Client,
        index: usize,
        to: To,
        upstream: StdSocket,
    ) -> io::Result<Self> {
        upstream.set_nonblocking(true)?;
        let upstream = Rc::new(UdpSocket::from_std(upstream)?);
        let socket = worker.sessions.socket(client.at, index);
        let socket = socket.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let said = Said { last_ms: Cell::new(worker.now_ms()), has_failed: Cell::new(false) };
        let said = Rc::new(said);
        let answers = Answers {
            worker: worker.clone(),
            client,
            socket,
            target: to.target.clone(),
            endpoint: to.endpoint.clone(),
            upstream: upstream.clone(),
            said: said.clone(),
        };
        Ok(Self {
            to,
            index,
            upstream,
            said,
            _open: Open::new(&worker.counters),
            _answers: AbortOnDropHandle::new(spawn_local(answers.pass_back())),
        })
    }

    /// Whether the next datagram goes its way. An endpoint that is left out is better than
    /// none.
    pub fn serves(&self, now_ms: u32) -> bool {
        let To { target, endpoint, .. } = &self.to;
        let is_well = || !endpoint.is_out(now_ms) || target.is_panicking(now_ms);
        !self.said.has_failed.get() && is_well()
    }

    /// Sends a datagram on; what the kernel has no room for now is lost.
    pub fn send(&self, bytes: &[u8], now_ms: u32) -> io::Result<()> {
        send(self.upstream.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT)?;
        self.said.last_ms.set(now_ms);
        Ok(())
    }

    /// For how long nobody has said anything.
    pub fn silent_ms(&self, now_ms: u32) -> u32 {
        now_ms.wrapping_sub(self.said.last_ms.get())
    }

    /// Whether that is too long.
    pub fn is_over(&self, now_ms: u32) -> bool {
        u128::from(self.silent_ms(now_ms)) >= self.to.target.service.timeouts.idle.as_millis()
    }

    /// For another process.
    pub fn passed(&self, client: Client) -> io::Result<Passed> {
        let upstream = self.upstream.as_fd().try_clone_to_owned()?;
        Ok(Passed { client, index: self.index, upstream })
    }
}

/// What comes back, to the client.
struct Answers {
    worker: Rc<Worker>,
    client: Client,
    socket: Rc<Socket>,
    target: Arc<Target>,
    endpoint: Arc<Endpoint>,
    upstream: Rc<UdpSocket>,
    said: Rc<Said>,
}

impl Answers {
    async fn pass_back(self) {
        let mut began = Some(Instant::now());
        loop {
            let passed = self.upstream.async_io(Interest::READABLE, || self.pass_one()).await;
            let now_ms = self.worker.now_ms();
            if let Err(error) = passed {
                tracing::debug!(endpoint = %self.endpoint.address, %error, "a session ends");
                self.target.ended(&self.endpoint, false, now_ms);
                return self.said.has_failed.set(true);
            }
            self.said.last_ms.set(now_ms);
            self.target.ended(&self.endpoint, true, now_ms);
            // Later ones may be answers to nothing.
            if let Some(began) = began.take() {
                self.endpoint.answered(began.elapsed(), now_ms);
            }
        }
    }

    /// The buffer is the worker's, and held for no wait.
    fn pass_one(&self) -> io::Result<()> {
        let mut buffer = self.worker.sessions.buffer.borrow_mut();
        let bytes = recv(self.upstream.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
        match self.socket.send(&buffer[..bytes], self.client.peer, self.client.local) {
            Ok(()) => Counters::one(&self.worker.counters.datagrams_out),
            Err(_) => self.worker.counters.lost(Lost::NotSent),
        }
        Ok(())
    }
}

fn connect(to: SocketAddr) -> io::Result<StdSocket> {
    let socket = match to {
        SocketAddr::V4(_) => StdSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => StdSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    socket.connect(to)?;
    Ok(socket)
}

/// Whether it says of the endpoint that it isn't there.
pub fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}
