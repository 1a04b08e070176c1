//! A client's connection that speaks HTTP/1: one request after the other.

use std::{
    cell::{Cell, RefCell},
    future, io,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker, ready},
};

use hyper::{
    body::{Body as HttpBody, Bytes, Frame, SizeHint},
    header,
};
use purlin_core::mesh::strict::{Length, Violation};
use tokio::io::AsyncWrite;

use super::{
    Body, Inbound,
    flags::Flags,
    handle::handle,
    headers::says,
    message::{self, Asked},
    reader::Reader,
    writer::{Broken, Writer},
};
use crate::{connection::Connection, tunnel::stream::Stream, worker::Worker};

/// Said to a client that waits for it before it sends a body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Of a body that nobody wanted, read so that the next request can be.
const UNWANTED: u64 = 64 << 10;

/// A client's connection, which its requests' bodies share with whoever answers them.
#[derive(Debug)]
pub struct Http1 {
    stream: RefCell<Stream>,
    reader: RefCell<Reader>,
    /// Which request its bytes are of now.
    number: Cell<u64>,
    /// What is still to be said before the body is read.
    go_on: Cell<&'static [u8]>,
    /// Who waits for more of the body, maybe in a task of its own.
    waiting: RefCell<Option<Waker>>,
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// The client is done, or its connection broke.
    Closed,
    /// With bytes that are no request, where no answer was begun.
    Refused(Violation),
    /// With an answer that is the last.
    LastAnswer,
    /// Bytes follow that are no HTTP.
    Switched(Body),
}

impl Http1 {
    /// A connection that began with these bytes.
    pub fn new(stream: Stream, first: &[u8], flags: Rc<Flags>) -> Self {
        Self {
            stream: stream.into(),
            reader: Reader::new(first, flags).into(),
            number: Cell::default(),
            go_on: Cell::default(),
            waiting: RefCell::default(),
        }
    }

    /// The bare connection, and what was read of it that is not taken. Who still waits for a
    /// body is told that there is no more.
    pub fn into_parts(self) -> (Stream, Bytes) {
        self.waiting.take().into_iter().for_each(Waker::wake);
        (self.stream.into_inner(), self.reader.into_inner().unread.freeze())
    }

    /// Answers requests until there are no more.
    pub async fn serve(self: &Rc<Self>, worker: &Rc<Worker>, connection: &Rc<Connection>) -> End {
        let mut writer = Writer::new(connection.flags.clone());
        loop {
            let head = self.head().await;
            if let Some(violation) = connection.flags.violation.get() {
                return End::Refused(violation);
            }
            let Some(head) = head else { return End::Closed };
            let Some(request) = message::request(&head) else {
                connection.flags.violation.set(Some(Violation::RequestLine));
                return End::Refused(Violation::RequestLine);
            };
            drop(head);
            let asked = Asked::of(&request);
            self.number.set(self.number.get() + 1);
            let is_waiting = !asked.is_http_10
                && !self.reader.borrow().is_over()
                && says(request.headers(), header::EXPECT, "100-continue");
            self.go_on.set(if is_waiting { CONTINUE } else { b"" });
            let body = RequestBody::new(self);
            let request = request.map(|()| Inbound::Http1(body));
            let answer = handle(worker, connection, request).await;
            if let Some(violation) = connection.flags.violation.get() {
                return End::Refused(violation);
            }
            let is_refused = !self.go_on.take().is_empty();
            let (parts, mut body) = answer.into_parts();
            let is_switch = body.is_switch();
            let size = body.size_hint();
            let (length, may_stay) = asked.put_answer(writer.head(), &parts, &size, is_switch);
            writer.follows(length, asked.wants_trailers);
            let sent = future::poll_fn(|cx| {
                let sent = writer.poll_body(&self.stream, &mut body, cx);
                if sent.is_pending() {
                    // Some clients read nothing before they have sent all.
                    body.poll_upload(cx).map_err(Broken::Body)?;
                }
                sent
            });
            let sent = sent.await;
            if let Err(Broken::Connection(error) | Broken::Body(error)) = sent {
                tracing::debug!(peer = %connection.peer, %error, "an answer broke off");
                return End::Closed;
            }
            if is_switch {
                return End::Switched(body);
            }
            drop(body);
            if !may_stay || length == Length::UntilClose || is_refused || !self.is_rest_read() {
                return End::LastAnswer;
            }
        }
    }

    async fn head(&self) -> Option<Bytes> {
        let head = future::poll_fn(|cx| {
            self.reader.borrow_mut().poll_request(&mut self.stream.borrow_mut(), cx)
        });
        head.await.ok().flatten()
    }

    /// Reads what there is of a body that nobody read, if it isn't much.
    fn is_rest_read(&self) -> bool {
        let (mut reader, mut stream) = (self.reader.borrow_mut(), self.stream.borrow_mut());
        let mut cx = Context::from_waker(Waker::noop());
        let mut left = UNWANTED;
        while !reader.is_over() {
            let Poll::Ready(Some(Ok(frame))) = reader.poll_frame(&mut stream, &mut cx) else {
                return false;
            };
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            let Some(less) = left.checked_sub(length) else { return false };
            left = less;
        }
        true
    }
}

/// The body of a request, read from its connection while that is there and at it.
#[derive(Debug)]
pub struct RequestBody {
    of: Weak<Http1>,
    number: u64,
    is_over: bool,
}

impl RequestBody {
    fn new(of: &Rc<Http1>) -> Self {
        let is_over = of.reader.borrow().is_over();
        Self { of: Rc::downgrade(of), number: of.number.get(), is_over }
    }

    /// The connection, unless its bytes are another request's by now.
    fn connection(&self) -> Option<Rc<Http1>> {
        self.of.upgrade().filter(|it| it.number.get() == self.number)
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let Some(of) = self.connection() else {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
        };
        let (mut stream, mut reader) = (of.stream.borrow_mut(), of.reader.borrow_mut());
        while !of.go_on.get().is_empty() && reader.unread.is_empty() {
            let go_on = of.go_on.get();
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, go_on))?;
            of.go_on.set(&go_on[written..]);
        }
        of.go_on.set(b"");
        let polled = reader.poll_frame(&mut stream, cx);
        self.is_over = reader.is_over();
        *of.waiting.borrow_mut() = polled.is_pending().then(|| cx.waker().clone());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        match self.connection() {
            _ if self.is_over => SizeHint::with_exact(0),
            Some(of) => of.reader.borrow().size_hint(),
            None => SizeHint::default(),
        }
    }
}
