//! What goes out on an HTTP/1 connection: a head, and with it as much of the body as is
//! there, in one write.

use std::{
    cell::RefCell,
    io::{self, IoSlice, Write},
    mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame};
use purlin_core::mesh::strict::Length;
use tokio::io::AsyncWrite;

use super::{flags::Flags, message};
use crate::tunnel::stream::Stream;

/// Up to here bytes are copied, so that they go out in one piece with what is before them.
const COPIED: usize = 4 << 10;
/// Collected before it is written, at most.
const MOST: usize = 16 << 10;

/// What broke.
#[derive(Debug)]
pub enum Broken {
    /// The connection that is written to.
    Connection(io::Error),
    /// The body that is sent.
    Body(io::Error),
}

/// What is to be written.
#[derive(Debug)]
pub struct Writer {
    buffer: Vec<u8>,
    /// Of it, what is written.
    written: usize,
    /// What comes after it, and what comes then.
    data: Bytes,
    tail: &'static [u8],
    length: Length,
    has_trailers: bool,
    is_done: bool,
    /// Why there is no more; what there was is written all the same.
    broken: Option<io::Error>,
    flags: Rc<Flags>,
}

impl Writer {
    /// Nothing so far.
    pub fn new(flags: Rc<Flags>) -> Self {
        Self {
            buffer: Vec::new(),
            written: 0,
            data: Bytes::new(),
            tail: b"",
            length: Length::Exact(0),
            has_trailers: false,
            is_done: true,
            broken: None,
            flags,
        }
    }

    /// Where the next message's head is to be put.
    pub fn head(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// A body of that length follows.
    pub fn follows(&mut self, length: Length, has_trailers: bool) {
        self.is_done = length == Length::Exact(0);
        (self.length, self.has_trailers) = (length, has_trailers);
    }

    /// Whether all was written.
    pub fn is_idle(&self) -> bool {
        self.is_done && self.buffer.is_empty() && self.data.is_empty()
    }

    /// Writes until the body has been sent.
    pub fn poll_body<B: Body<Data = Bytes, Error = io::Error> + Unpin>(
        &mut self,
        stream: &RefCell<Stream>,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let is_over = self.is_done || self.broken.is_some();
            if is_over || !self.data.is_empty() || self.buffer.len() > MOST {
                ready!(self.poll_flush(stream, cx)).map_err(Broken::Connection)?;
            }
            if let Some(error) = self.broken.take() {
                return Poll::Ready(Err(Broken::Body(error)));
            }
            if self.is_done {
                return Poll::Ready(Ok(()));
            }
            let put = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(frame)) => {
                    frame.and_then(|frame| self.put(frame)).and_then(|()| {
                        if !self.is_done && body.is_end_stream() { self.finish() } else { Ok(()) }
                    })
                }
                Poll::Ready(None) => self.finish(),
                Poll::Pending => {
                    ready!(self.poll_flush(stream, cx)).map_err(Broken::Connection)?;
                    return Poll::Pending;
                }
            };
            self.broken = put.err();
        }
    }

    fn put(&mut self, frame: Frame<Bytes>) -> io::Result<()> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                if let (Ok(trailers), true) = (frame.into_trailers(), self.has_trailers)
                    && self.length == Length::Chunked
                {
                    self.buffer.extend_from_slice(b"0\r\n");
                    message::put_fields(&mut self.buffer, &trailers, true);
                    self.buffer.extend_from_slice(b"\r\n");
                    self.is_done = true;
                    return Ok(());
                }
                return self.finish();
            }
        };
        if data.is_empty() {
            return Ok(());
        }
        let mut tail: &[u8] = b"";
        match &mut self.length {
            Length::Exact(left) => {
                let more = || io::Error::other("a body is longer than it was said to be");
                *left = left.checked_sub(data.len() as u64).ok_or_else(more)?;
            }
            Length::Chunked => {
                write!(self.buffer, "{:x}\r\n", data.len())?;
                tail = b"\r\n";
            }
            Length::UntilClose => {}
        }
        if data.len() <= COPIED {
            self.buffer.extend_from_slice(&data);
            self.buffer.extend_from_slice(tail);
        } else {
            (self.data, self.tail) = (data, tail);
        }
        Ok(())
    }

    /// The body has been put in whole.
    fn finish(&mut self) -> io::Result<()> {
        match self.length {
            Length::Exact(1..) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Length::Chunked if self.data.is_empty() => self.buffer.extend_from_slice(b"0\r\n\r\n"),
            Length::Chunked => self.tail = b"\r\n0\r\n\r\n",
            Length::Exact(0) | Length::UntilClose => {}
        }
        self.is_done = true;
        Ok(())
    }

    /// Writes what there is.
    fn poll_flush(
        &mut self,
        stream: &RefCell<Stream>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() || !self.data.is_empty() {
            let mut stream = stream.borrow_mut();
            let (stream, buffer) = (Pin::new(&mut *stream), &self.buffer[self.written..]);
            let polled = if self.data.is_empty() {
                stream.poll_write(cx, buffer)
            } else if buffer.is_empty() && self.tail.is_empty() {
                stream.poll_write(cx, &self.data)
            } else {
                let all = [buffer, &self.data, self.tail].map(IoSlice::new);
                stream.poll_write_vectored(cx, &all)
            };
            self.flags.wrote(&polled);
            match ready!(polled)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.advance(written),
            }
        }
        self.buffer.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        let of_buffer = written.min(self.buffer.len() - self.written);
        self.written += of_buffer;
        let of_data = (written - of_buffer).min(self.data.len());
        self.data.advance(of_data);
        if self.data.is_empty() && !self.tail.is_empty() {
            let tail = mem::take(&mut self.tail);
            self.buffer.clear();
            self.written = 0;
            self.buffer.extend_from_slice(&tail[written - of_buffer - of_data..]);
        }
        if self.data.is_empty() {
            // Its memory may be another's.
            self.data = Bytes::new();
        }
    }
}
