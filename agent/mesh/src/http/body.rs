//! Bodies of answers: our own few words, or what an endpoint sends.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};

use crate::{connection::Connection, endpoint::Under, pool::Lease};

/// The body of an answer. When it is dropped, the request is over.
#[derive(Debug)]
pub struct Body {
    kind: Kind,
    _under: Option<Under>,
    lease: Option<Lease>,
    _request: Request,
}

#[derive(Debug)]
enum Kind {
    Own(Option<Bytes>),
    Endpoints(Incoming),
}

/// A request under way on a connection.
#[derive(Debug)]
pub struct Request(Rc<Connection>);

impl Request {
    /// Begins.
    pub fn begin(connection: &Rc<Connection>) -> Self {
        connection.active.set(connection.active.get() + 1);
        Self(connection.clone())
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

impl Body {
    /// Our own words.
    pub fn own(text: impl Into<Bytes>, request: Request) -> Self {
        Self { kind: Kind::Own(Some(text.into())), _under: None, lease: None, _request: request }
    }

    /// What an endpoint sends on the leased connection.
    pub fn of_endpoint(body: Incoming, lease: Lease, under: Under, request: Request) -> Self {
        let mut lease = Some(lease);
        if body.is_end_stream()
            && let Some(lease) = lease.take()
        {
            lease.give_back();
        }
        Self { kind: Kind::Endpoints(body), _under: Some(under), lease, _request: request }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let polled = match &mut this.kind {
            Kind::Own(bytes) => {
                return Poll::Ready(
                    bytes.take().filter(|it| !it.is_empty()).map(|it| Ok(Frame::data(it))),
                );
            }
            Kind::Endpoints(body) => Pin::new(&mut *body).poll_frame(cx),
        };
        let is_over =
            matches!(polled, Poll::Ready(None)) || polled.is_ready() && self.is_end_stream();
        if is_over && let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Kind::Endpoints(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Endpoints(body) => body.size_hint(),
        }
    }
}
