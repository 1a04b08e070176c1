//! Bodies: of answers, our own few words or what an endpoint sends; of requests, what a
//! client sends. What passes is counted.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};

use crate::{
    connection::Connection,
    endpoint::{Endpoint, Under},
    pool::Lease,
    signals::{Active, Signals},
};

/// The body of an answer. When it is dropped, the request is over.
#[derive(Debug)]
pub struct Body {
    kind: Kind,
    under: Option<Under>,
    lease: Option<Lease>,
    request: Request,
    sent: u64,
}

#[derive(Debug)]
enum Kind {
    Own(Option<Bytes>),
    Endpoints(Incoming),
}

/// A request under way on a connection.
#[derive(Debug)]
pub struct Request {
    connection: Rc<Connection>,
    route: Option<Active>,
}

impl Request {
    /// Begins.
    pub fn begin(connection: &Rc<Connection>) -> Self {
        connection.active.set(connection.active.get() + 1);
        Self { connection: connection.clone(), route: None }
    }

    /// It is one of a route's from now on.
    pub fn is_of(&mut self, route: &Arc<Signals>) {
        self.route = Some(Active::begin(route));
    }

    /// What is told of its route.
    pub fn route(&self) -> Option<&Arc<Signals>> {
        self.route.as_ref().map(|it| &it.0)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.connection.active.set(self.connection.active.get() - 1);
    }
}

/// The body of a request on its way to an endpoint.
#[derive(Debug)]
pub struct Upload {
    body: Incoming,
    received: u64,
    route: Option<Arc<Signals>>,
    endpoint: Option<Arc<Endpoint>>,
}

impl Upload {
    /// What a client sends.
    pub fn new(body: Incoming, request: &Request) -> Self {
        Self { body, received: 0, route: request.route().cloned(), endpoint: None }
    }

    /// It goes there.
    pub fn goes_to(&mut self, endpoint: &Arc<Endpoint>) {
        if !self.body.is_end_stream() {
            self.endpoint = Some(endpoint.clone());
        }
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.received += bytes_of(&polled);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.received > 0 {
            let endpoint = self.endpoint.as_ref().map(|it| &it.signals);
            self.route.iter().chain(endpoint).for_each(|it| it.received(self.received));
        }
    }
}

fn bytes_of(polled: &Poll<Option<Result<Frame<Bytes>, hyper::Error>>>) -> u64 {
    match polled {
        Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len) as u64,
        _ => 0,
    }
}

impl Body {
    /// Our own words.
    pub fn own(text: impl Into<Bytes>, request: Request) -> Self {
        Self { kind: Kind::Own(Some(text.into())), under: None, lease: None, request, sent: 0 }
    }

    /// What an endpoint sends on the leased connection.
    pub fn of_endpoint(body: Incoming, lease: Lease, under: Under, request: Request) -> Self {
        let mut lease = Some(lease);
        if body.is_end_stream()
            && let Some(lease) = lease.take()
        {
            lease.give_back();
        }
        Self { kind: Kind::Endpoints(body), under: Some(under), lease, request, sent: 0 }
    }

    /// What is told of its route.
    pub fn route(&self) -> Option<&Arc<Signals>> {
        self.request.route()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(under) = self.under.as_ref().filter(|_| self.sent > 0) {
            under.signals().sent(self.sent);
            self.route().into_iter().for_each(|it| it.sent(self.sent));
        }
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
        self.sent += bytes_of(&polled);
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
