//! A client's connection as the HTTP parser reads it: guarded, and watched.
//!
//! Every byte passes the core's [`Guard`] first. What it refuses never reaches the
//! parser: the read fails, and the flags tell why.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use purlin_core::mesh::strict::{Guard, Violation};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tunnel::stream::Stream;

/// What is known of a connection's bytes. Atomic for hyper's sake, which wants its
/// connections to be `Send` before it hands them out again after an upgrade; only one
/// thread ever looks.
#[derive(Debug, Default)]
pub struct Flags {
    is_read_pending: AtomicBool,
    is_write_blocked: AtomicBool,
    phase: AtomicU8,
    head_since: AtomicU32,
    moved: AtomicU32,
    is_tunnel: AtomicBool,
    violation: AtomicU8,
}

const BETWEEN: u8 = 0;
const HEAD: u8 = 1;
const BODY: u8 = 2;
const NO_VIOLATION: u8 = 0;

impl Flags {
    /// Between two requests, all written, and waiting for more.
    pub fn is_quiet(&self) -> bool {
        self.phase.load(Relaxed) == BETWEEN
            && self.is_read_pending.load(Relaxed)
            && !self.is_write_blocked.load(Relaxed)
    }

    /// Whether the head of a request is under way.
    pub fn is_in_head(&self) -> bool {
        self.phase.load(Relaxed) == HEAD
    }

    /// Whether the body of a request is under way, or an answer that isn't taken.
    pub fn is_in_body(&self) -> bool {
        self.phase.load(Relaxed) == BODY && self.is_read_pending.load(Relaxed)
            || self.is_write_blocked.load(Relaxed)
    }

    /// Ticks since a head was first seen under way.
    pub fn head_seconds(&self, now: u32) -> u32 {
        let since = self.head_since.load(Relaxed);
        if since == 0 {
            self.head_since.store(now.max(1), Relaxed);
            return 0;
        }
        now.saturating_sub(since)
    }

    /// Changes whenever a byte is read or written.
    pub fn moved(&self) -> u32 {
        self.moved.load(Relaxed)
    }

    /// What follows is no HTTP any more.
    pub fn tunnel(&self) {
        self.is_tunnel.store(true, Relaxed);
    }

    /// Why it was refused.
    pub fn violation(&self) -> Option<Violation> {
        let number = self.violation.load(Relaxed);
        (number != NO_VIOLATION).then(|| Violation::ALL[usize::from(number) - 1])
    }

    fn count(&self, bytes: usize) {
        self.moved.store(self.moved.load(Relaxed).wrapping_add(bytes as u32), Relaxed);
    }
}

/// A client's connection.
#[derive(Debug)]
pub struct Io {
    stream: Stream,
    /// Bytes that were read before it was known what they are.
    first: Vec<u8>,
    guard: Option<Guard>,
    flags: Arc<Flags>,
}

impl Io {
    /// HTTP/1 that begins with the bytes that were read already.
    pub fn guarded(stream: Stream, first: Vec<u8>, flags: Arc<Flags>) -> Self {
        Self { stream, first, guard: Some(Guard::default()), flags }
    }

    /// HTTP/2, whose frames are checked where they are parsed.
    pub fn plain(stream: Stream, first: Vec<u8>, flags: Arc<Flags>) -> Self {
        Self { stream, first, guard: None, flags }
    }

    /// The bare connection, and what of its first bytes was not read.
    pub fn into_inner(self) -> (Stream, Vec<u8>) {
        (self.stream, self.first)
    }

    fn inspect(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(guard) = &mut self.guard else { return Ok(()) };
        if self.flags.is_tunnel.load(Relaxed) {
            guard.tunnel();
            self.guard = None;
            return Ok(());
        }
        if let Err(violation) = guard.feed(bytes) {
            self.flags.violation.store(violation as u8 + 1, Relaxed);
            return Err(io::Error::new(io::ErrorKind::InvalidData, violation.to_string()));
        }
        let phase = match () {
            () if guard.is_between() => BETWEEN,
            () if guard.is_in_head() => HEAD,
            () => BODY,
        };
        if phase != HEAD {
            self.flags.head_since.store(0, Relaxed);
        }
        self.flags.phase.store(phase, Relaxed);
        Ok(())
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if this.first.is_empty() {
            let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
            this.flags.is_read_pending.store(polled.is_pending(), Relaxed);
            ready!(polled)?;
        } else {
            let taken = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first[..taken]);
            this.first.drain(..taken);
            if this.first.is_empty() {
                this.first = Vec::new();
            }
        }
        let read = buf.filled().len() - before;
        this.flags.count(read);
        Poll::Ready(this.inspect(&buf.filled()[before..]))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_written(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_written(polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.flags.violation().is_some() {
            // The parser takes the failed read for the end; but there is an answer to give.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Io {
    fn note_written(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.flags.is_write_blocked.store(polled.is_pending(), Relaxed);
        if let Poll::Ready(Ok(bytes)) = &polled {
            self.flags.count(*bytes);
        }
        polled
    }
}
