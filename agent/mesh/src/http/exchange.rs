//! A connection to an endpoint that speaks HTTP/1, and the request under way on it. It is
//! polled by whoever sends the request and reads the answer: there is no task of its own,
//! and nothing is handed from one to another.

use std::{
    cell::RefCell,
    future, io, mem,
    rc::Rc,
    task::{Context, Poll},
};

use hyper::{
    Method, Request, Response,
    body::{Body as _, Bytes, Frame, SizeHint},
};

use super::{
    Upload,
    flags::Flags,
    message,
    reader::Reader,
    writer::{Broken, Writer},
};
use crate::tunnel::stream::Stream;

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Exchange {
    stream: RefCell<Stream>,
    reader: Reader,
    writer: Writer,
    /// What of the request's body is still to be sent, also while the answer comes.
    upload: Option<Upload>,
    may_stay: bool,
}

impl Exchange {
    /// A new connection.
    pub fn new(stream: Stream) -> Self {
        let flags = Rc::<Flags>::default();
        Self {
            stream: stream.into(),
            reader: Reader::new(b"", flags.clone()),
            writer: Writer::new(flags),
            upload: None,
            may_stay: true,
        }
    }

    /// Whether the connection is there, and nothing is under way on it.
    pub fn is_ready(&mut self) -> bool {
        self.is_over() && self.reader.is_quiet(self.stream.get_mut())
    }

    /// Whether another request may follow: both sides have said all.
    pub fn is_over(&self) -> bool {
        self.may_stay && self.upload.is_none() && self.writer.is_idle() && self.reader.is_between()
    }

    /// Sends a request, and waits for the head of its answer.
    pub async fn send(&mut self, request: &mut Request<Upload>) -> Result<Response<()>, Broken> {
        let length = message::length_of(&request.body().size_hint());
        message::put_request(self.writer.head(), request, length);
        self.writer.follows(length, true);
        self.upload = Some(mem::take(request.body_mut()));
        let is_to_head = request.method() == Method::HEAD;
        let answer = future::poll_fn(|cx| {
            self.poll_upload(cx).map_err(Broken::Body)?;
            let stream = self.stream.get_mut();
            self.reader.poll_answer(stream, is_to_head, cx).map_err(Broken::Connection)
        });
        let answer = answer.await?;
        self.may_stay &= answer.may_stay;
        Ok(Response::from_parts(answer.parts, ()))
    }

    /// Sends what there is of the request. An endpoint that takes no more of it may have
    /// answered.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        match self.writer.poll_body(&self.stream, upload, cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Broken::Connection(_))) => self.may_stay = false,
            Poll::Ready(Err(Broken::Body(error))) => {
                self.may_stay = false;
                return Err(error);
            }
        }
        self.upload = None;
        Ok(())
    }

    /// The next piece of the answer.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.poll_upload(cx)?;
        self.reader.poll_frame(self.stream.get_mut(), cx)
    }

    /// Whether the answer is over.
    pub fn is_end_stream(&self) -> bool {
        self.reader.is_over()
    }

    /// How much of the answer is to come.
    pub fn size_hint(&self) -> SizeHint {
        self.reader.size_hint()
    }

    /// The bare connection, and what was read of it that is no HTTP any more.
    pub fn into_parts(self) -> (Stream, Bytes) {
        (self.stream.into_inner(), self.reader.unread.freeze())
    }
}
