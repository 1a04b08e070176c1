//! Passes bytes between two sockets through a pipe (`splice(2)`), so that they are
//! never copied to this process.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::OwnedFd,
    rc::Rc,
    time::Duration,
};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, split},
    net::TcpStream,
    time,
};

use crate::{tunnel::stream::Stream, worker::Worker};

/// Moved by one call at most: what a pipe of this size holds. 256 KiB is a quarter of
/// what a user may ask for (pipe-max-size), and larger ones no longer saved CPU time.
const PIPE_BYTES: usize = 256 << 10;
/// The same through a tunnel: a record of TLS has at most 16 KiB (RFC 8446, 5.1).
const COPY_BYTES: usize = 16 << 10;
/// Empty pipes kept, two descriptors each.
const MAX_PIPES: usize = 64;

/// A pipe with nothing in it.
#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// Empty pipes, for whoever has bytes to pass on.
#[derive(Debug, Default)]
pub struct Pipes(RefCell<Vec<Pipe>>);

impl Pipes {
    fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // Where the user's share of pipe memory is used up it stays as it is.
        _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Pipe { read, write })
    }

    fn give_back(&self, pipe: Pipe) {
        let mut pipes = self.0.borrow_mut();
        if pipes.len() < MAX_PIPES {
            pipes.push(pipe);
        }
    }
}

/// Bytes passed on from the client and to the client, so far.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Passed {
    pub from: Cell<u64>,
    pub to: Cell<u64>,
}

impl Passed {
    /// What a client has sent before anything was passed on counts, too.
    pub fn new(first: &[u8]) -> Self {
        Self { from: Cell::new(first.len() as u64), to: Cell::default() }
    }
}

/// Passes bytes both ways until both ends have said all, or neither has said anything
/// for `idle`. An end that has said all may still listen.
pub async fn relay(
    worker: &Rc<Worker>,
    client: &mut Stream,
    endpoint: &mut Stream,
    idle: Duration,
    passed: &Passed,
) -> io::Result<()> {
    let both = async {
        match (client.socket(), endpoint.socket()) {
            (Some(client), Some(endpoint)) => tokio::try_join!(
                one_way(worker, client, endpoint, &passed.from),
                one_way(worker, endpoint, client, &passed.to)
            ),
            _ => {
                let (from_client, to_client) = split(client);
                let (from_endpoint, to_endpoint) = split(endpoint);
                tokio::try_join!(
                    copied(from_client, to_endpoint, &passed.from),
                    copied(from_endpoint, to_client, &passed.to)
                )
            }
        }
    };
    let gives_up = async {
        let moved = || (passed.from.get(), passed.to.get());
        let mut before = None;
        while before != Some(moved()) {
            before = Some(moved());
            time::sleep(idle).await;
        }
    };
    tokio::select! {
        passed = both => passed.map(drop),
        () = gives_up => Err(io::Error::new(io::ErrorKind::TimedOut, "no byte either way")),
    }
}

async fn one_way(
    worker: &Rc<Worker>,
    from: &TcpStream,
    to: &TcpStream,
    passed: &Cell<u64>,
) -> io::Result<()> {
    loop {
        // No pipe is held while there is nothing to put into it.
        from.readable().await?;
        let pipe = worker.pipes.take()?;
        let filled = from.try_io(Interest::READABLE, || pass(from, &pipe.write, PIPE_BYTES));
        match filled {
            Ok(0) => {
                worker.pipes.give_back(pipe);
                // The other side may have gone already.
                _ = rustix::net::shutdown(to, rustix::net::Shutdown::Write);
                return Ok(());
            }
            Ok(filled) => {
                let mut left = filled;
                while left > 0 {
                    left -= to.async_io(Interest::WRITABLE, || pass(&pipe.read, to, left)).await?;
                }
                worker.pipes.give_back(pipe);
                passed.set(passed.get() + filled as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => worker.pipes.give_back(pipe),
            Err(error) => return Err(error),
        }
    }
}

/// The same with a tunnel at either end, whose bytes are in this process anyway.
async fn copied(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    passed: &Cell<u64>,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            // The other side may have gone already.
            _ = to.shutdown().await;
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
        passed.set(passed.get() + read as u64);
    }
}

fn pass(
    from: impl std::os::fd::AsFd,
    to: impl std::os::fd::AsFd,
    most: usize,
) -> io::Result<usize> {
    loop {
        match splice(&from, None, &to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Err(Errno::INTR) => {}
            spliced => return spliced.map_err(io::Error::from),
        }
    }
}

/// Writes what was read from one end before it was known where it goes.
pub async fn write_first(to: &mut Stream, first: &[u8]) -> io::Result<()> {
    if first.is_empty() { Ok(()) } else { to.write_all(first).await }
}
