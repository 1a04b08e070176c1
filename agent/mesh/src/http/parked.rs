//! HTTP/1 connections between two requests. Each is a socket and two addresses here, side
//! by side with the others: no buffer, no task, no timer, and nothing of theirs that would
//! stay strewn over the pages that the buffers had. One epoll waits for all of a worker's.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    mem::MaybeUninit,
    net::{self, SocketAddr},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    rc::Rc,
};

use rustix::event::{Timespec, epoll};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpStream,
    task::spawn_local,
};

use super::{IDLE, serve_http1};
use crate::{
    accept::Client,
    counters::{Counters, Open},
    handover::{Connection, Heir, Passed, Stage},
    tunnel::stream::Stream,
    worker::Worker,
};

/// Taken from the kernel at once.
const EVENTS: usize = 64;
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// All of a worker's.
#[derive(Debug)]
pub struct Parked {
    all: RefCell<HashMap<RawFd, Idle>>,
    readable: OwnedFd,
}

#[derive(Debug)]
struct Idle {
    stream: net::TcpStream,
    peer: SocketAddr,
    at: SocketAddr,
    open: Open,
    since: u32,
}

impl Parked {
    /// None so far.
    pub fn new() -> io::Result<Self> {
        let readable = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { all: RefCell::default(), readable })
    }

    /// Ends those that have been here for too long, and makes room small again.
    pub fn look(&self, worker: &Worker) {
        let mut all = self.all.borrow_mut();
        let now = worker.tick.get();
        let before = all.len();
        all.retain(|_, it| u64::from(now.saturating_sub(it.since)) < IDLE.as_secs());
        Counters::add(&worker.counters.unparked, (before - all.len()) as u64);
        if all.len() < all.capacity() / 4 {
            all.shrink_to_fit();
        }
    }

    /// They go on in another mesh.
    pub fn pass_on(&self, worker: &Worker, heir: &Heir) {
        let all = self.all.take();
        Counters::add(&worker.counters.unparked, all.len() as u64);
        for Idle { stream, peer, at, .. } in all.into_values() {
            // The heir has the same file: closing it here would not end this.
            _ = epoll::delete(&self.readable, &stream);
            heir.take(Passed::Connection(Connection { stage: Stage::Parked, stream, peer, at }));
        }
    }

    fn put(&self, idle: Idle) -> io::Result<()> {
        let descriptor = idle.stream.as_raw_fd();
        let data = epoll::EventData::new_u64(descriptor as u64);
        epoll::add(&self.readable, &idle.stream, data, epoll::EventFlags::IN)?;
        self.all.borrow_mut().insert(descriptor, idle);
        Ok(())
    }

    /// Some that have something to say or hung up.
    fn take(&self) -> io::Result<Vec<Idle>> {
        let mut events = [MaybeUninit::uninit(); EVENTS];
        let (events, _) = epoll::wait(&self.readable, &mut events, Some(&NO_WAIT))?;
        let mut all = self.all.borrow_mut();
        let taken = events.iter().filter_map(|it| all.remove(&(it.data.u64() as RawFd)));
        let taken = taken.inspect(|it| _ = epoll::delete(&self.readable, &it.stream));
        Ok(taken.collect())
    }
}

/// Keeps a connection until its next request.
pub fn park(worker: &Rc<Worker>, client: Client) {
    if worker.is_draining.get() {
        return worker.pass_on(Stage::Parked, client);
    }
    let Client { stream, peer, at, open, .. } = client;
    let Some(stream) = stream.into_socket() else { return };
    // Nobody else has it by now; else that one ends by itself.
    let open = Rc::try_unwrap(open).unwrap_or_else(|_| Open::new(&worker.counters));
    match worker.parked.put(Idle { stream, peer, at, open, since: worker.tick.get() }) {
        Ok(()) => Counters::one(&worker.counters.parked),
        Err(error) => tracing::warn!(%error, %peer, "a connection could not be kept"),
    }
}

/// Takes up each connection again whose client has something to say.
pub async fn take_up(worker: Rc<Worker>) -> io::Result<()> {
    let readable = worker.parked.readable.try_clone()?;
    #[allow(deprecated, reason = "its successor is unsafe; a descriptor of its own is safe")]
    let readable = AsyncFd::with_interest(readable, Interest::READABLE)?;
    loop {
        // Before the look: what comes after it is told anew.
        readable.readable().await?.clear_ready();
        loop {
            let taken = worker.parked.take()?;
            if taken.is_empty() {
                break;
            }
            Counters::add(&worker.counters.unparked, taken.len() as u64);
            for Idle { stream, peer, at, open, .. } in taken {
                let Ok(stream) = TcpStream::from_std(stream) else { continue };
                let (stream, open) = (Stream::Tcp(stream), Rc::new(open));
                let client = Client { stream, peer, at, open, through: None };
                spawn_local(serve_http1(worker.clone(), client, Vec::new()));
            }
        }
    }
}
