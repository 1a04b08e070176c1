//! What comes on an HTTP/1 connection: heads whole, bodies piece by piece. The core's
//! [`Framer`] says where each ends, and what it refuses is not looked at any further.

use std::{
    io,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use hyper::{
    HeaderMap,
    body::{Bytes, Frame, SizeHint},
};
use purlin_core::mesh::strict::{Framer, Length, MAX_FIELDS, MAX_HEAD, Step, Violation};
use tokio::io::AsyncReadExt;

use super::{
    flags::{Flags, Phase},
    message,
};
use crate::tunnel::stream::Stream;

/// Read at once, while heads are read and bodies are small.
const READ: usize = 8 << 10;
/// Read at once of a body that fills the former.
const BIG_READ: usize = 64 << 10;
/// With less room than this, room is made.
const LEAST_READ: usize = 4 << 10;

/// What comes on a connection.
#[derive(Debug, Default)]
pub struct Reader {
    /// What was read and is not taken.
    pub unread: BytesMut,
    framer: Framer,
    /// Of `unread`, what is known to be of a head.
    head: usize,
    trailers: Option<HeaderMap>,
    is_big: bool,
    flags: Rc<Flags>,
}

impl Reader {
    /// Of a connection that began with these bytes.
    pub fn new(first: &[u8], flags: Rc<Flags>) -> Self {
        Self { unread: first.into(), flags, ..Self::default() }
    }

    /// Whether a message is over, and nothing is there of a next one.
    pub fn is_between(&self) -> bool {
        self.is_over() && self.unread.is_empty()
    }

    /// Whether the body is over.
    pub fn is_over(&self) -> bool {
        self.framer.is_between() && self.trailers.is_none()
    }

    /// How much of the body is to come.
    pub fn size_hint(&self) -> SizeHint {
        match self.framer.left() {
            Length::Exact(left) => SizeHint::with_exact(left),
            Length::Chunked | Length::UntilClose => SizeHint::default(),
        }
    }

    /// The head of a request; `None`: the client is done.
    pub fn poll_request(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            match self.step(self.head)? {
                Step::Framing(length) => {
                    self.head += length;
                    if self.framer.is_between() {
                        self.unread.advance(self.head);
                        self.head = 0;
                    }
                }
                Step::Head(length) => {
                    let head = self.unread.split_to(self.head + length).freeze();
                    self.head = 0;
                    self.flags.is_in(Phase::Between);
                    return Poll::Ready(Ok(Some(head)));
                }
                _ => {
                    self.flags.is_in(match self.unread.is_empty() {
                        true => Phase::Between,
                        false => Phase::Head,
                    });
                    if ready!(self.poll_fill(stream, cx))? == 0 {
                        return Poll::Ready(Ok(None));
                    }
                }
            }
        }
    }

    /// The head of an answer to a request of that kind.
    pub fn poll_answer(
        &mut self,
        stream: &mut Stream,
        is_to_head: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<message::Answer>> {
        loop {
            if let Some(length) = message::end_of_head(&self.unread, &mut self.head) {
                let head = self.unread.split_to(length).freeze();
                self.head = 0;
                let answer = message::answer(&head, is_to_head)?;
                // Whoever asked to wait for it was told already; the answer is still to come.
                if answer.is_interim() {
                    continue;
                }
                self.framer = Framer::of_body(answer.length);
                return Poll::Ready(Ok(answer));
            }
            if self.unread.len() > MAX_HEAD {
                return Poll::Ready(Err(io::Error::other("the head of the answer is too large")));
            }
            if ready!(self.poll_fill(stream, cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The next piece of a body, or what follows it.
    pub fn poll_frame(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let polled = self.poll_piece(stream, cx);
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.flags.is_body_broken.set(true);
        }
        polled
    }

    fn poll_piece(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            if self.framer.is_between() {
                self.flags.is_in(Phase::Between);
                return Poll::Ready(self.trailers.take().map(|it| Ok(Frame::trailers(it))));
            }
            match self.step(0)? {
                Step::Body(length) => {
                    let data = self.unread.split_to(length).freeze();
                    // What ends the body goes with its last bytes.
                    while !self.framer.is_between() && !self.framer.is_in_data() {
                        let step = self.step(0)?;
                        if step == Step::More {
                            break;
                        }
                        self.pass(step)?;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Step::More => {
                    self.flags.is_in(Phase::Body);
                    if ready!(self.poll_fill(stream, cx))? == 0 {
                        if self.framer.left() != Length::UntilClose {
                            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
                        }
                        self.framer = Framer::default();
                    }
                }
                step => self.pass(step)?,
            }
        }
    }

    fn step(&mut self, from: usize) -> io::Result<Step> {
        self.framer.step(&self.unread[from..]).map_err(|violation| {
            self.flags.violation.set(Some(violation));
            io::Error::new(io::ErrorKind::InvalidData, violation.to_string())
        })
    }

    /// Passes over what sets off a body; a trailer is kept.
    fn pass(&mut self, step: Step) -> io::Result<()> {
        match step {
            Step::Framing(length) => self.unread.advance(length),
            Step::Trailer(length) => {
                let line = self.unread.split_to(length).freeze();
                let trailers = self.trailers.get_or_insert_default();
                if trailers.len() == MAX_FIELDS {
                    self.flags.violation.set(Some(Violation::TooLarge));
                    return Err(io::Error::other("too many trailers"));
                }
                message::fields(&line, trailers)?;
            }
            Step::More | Step::Head(_) | Step::Body(_) => {}
        }
        Ok(())
    }

    /// Reads more; 0: there is no more.
    fn poll_fill(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.unread.capacity() - self.unread.len() < LEAST_READ {
            self.unread.reserve(if self.is_big { BIG_READ } else { READ });
        }
        let room = self.unread.capacity() - self.unread.len();
        let polled = pin!(stream.read_buf(&mut self.unread)).poll(cx);
        self.flags.is_read_pending.set(polled.is_pending());
        if let Poll::Ready(Ok(read)) = polled {
            self.flags.count(read);
            self.is_big = read == room;
        }
        polled
    }

    /// Whether the connection is still there, and says nothing unasked.
    pub fn is_quiet(&mut self, stream: &mut Stream) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.is_between() && self.poll_fill(stream, &mut cx).is_pending()
    }
}
