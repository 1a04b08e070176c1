//! Bodies: of answers, our own few words or what an endpoint sends; of requests, what a
//! client sends. What passes is counted.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};

use super::{exchange::Exchange, http1::RequestBody, upgrade::Switch};
use crate::{
    connection::Connection,
    endpoint::{Endpoint, Under},
    pool::{Lease, Sender},
    signals::{Active, Signals},
};

/// The body of an answer. When it is dropped, the request is over.
#[derive(Debug)]
pub struct Body {
    kind: Kind,
    under: Option<Under>,
    request: Request,
    sent: u64,
}

/// What an endpoint sends, and the connection on which it does until it is read.
#[derive(Debug)]
pub struct Answered {
    lease: Option<Lease>,
    /// By HTTP/2; else it is on the connection itself.
    streamed: Option<Incoming>,
}

#[derive(Debug)]
enum Kind {
    Own(Option<Bytes>),
    Endpoints(Answered),
    /// The connection goes on in another protocol.
    Switch(Box<Switch>),
}

impl Answered {
    /// An answer whose head was read.
    pub fn new(lease: Lease, streamed: Option<Incoming>) -> Self {
        let mut answered = Self { lease: Some(lease), streamed };
        answered.let_go();
        answered
    }

    fn exchange(&self) -> Option<&Exchange> {
        match self.lease.as_ref()?.sender() {
            Sender::Http1(exchange) => Some(exchange),
            Sender::Http2(_) => None,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let polled = match (&mut self.streamed, self.lease.as_mut().map(Lease::sender_mut)) {
            (Some(body), _) => streamed(body, cx),
            (None, Some(Sender::Http1(exchange))) => exchange.poll_frame(cx),
            (None, _) => Poll::Ready(None),
        };
        if polled.is_ready() {
            self.let_go();
        }
        polled
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.lease.as_mut().map(Lease::sender_mut) {
            Some(Sender::Http1(exchange)) => exchange.poll_upload(cx),
            _ => Ok(()),
        }
    }

    /// The connection is another request's, once this one is over.
    fn let_go(&mut self) {
        if self.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.streamed {
            Some(body) => body.is_end_stream(),
            None => self.exchange().is_none_or(Exchange::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.streamed {
            Some(body) => body.size_hint(),
            None => self.exchange().map_or(SizeHint::with_exact(0), Exchange::size_hint),
        }
    }
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

/// The body of a request, as its client sends it.
#[derive(Debug)]
pub enum Inbound {
    /// On its connection.
    Http1(RequestBody),
    /// In its stream.
    Http2(Incoming),
}

impl HttpBody for Inbound {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Inbound::Http1(body) => Pin::new(body).poll_frame(cx),
            Inbound::Http2(body) => streamed(body, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Inbound::Http1(body) => body.is_end_stream(),
            Inbound::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Inbound::Http1(body) => body.size_hint(),
            Inbound::Http2(body) => body.size_hint(),
        }
    }
}

/// The body of a request on its way to an endpoint.
#[derive(Debug, Default)]
pub struct Upload {
    /// `None`: it has none.
    body: Option<Inbound>,
    received: u64,
    route: Option<Arc<Signals>>,
    endpoint: Option<Arc<Endpoint>>,
}

impl Upload {
    /// What a client sends.
    pub fn new(body: Inbound, request: &Request) -> Self {
        let mut upload = Self::default();
        if !body.is_end_stream() {
            (upload.body, upload.route) = (Some(body), request.route().cloned());
        }
        upload
    }

    /// It goes there.
    pub fn goes_to(&mut self, endpoint: &Arc<Endpoint>) {
        if self.body.is_some() {
            self.endpoint = Some(endpoint.clone());
        }
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        self.received += bytes_of(&polled);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Inbound::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Inbound::size_hint)
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

/// The next piece of what comes by HTTP/2.
fn streamed(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
    Pin::new(body).poll_frame(cx).map(|it| it.map(|it| it.map_err(io::Error::other)))
}

fn bytes_of(polled: &Poll<Option<io::Result<Frame<Bytes>>>>) -> u64 {
    match polled {
        Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len) as u64,
        _ => 0,
    }
}

impl Body {
    /// Our own words.
    pub fn own(text: impl Into<Bytes>, request: Request) -> Self {
        Self { kind: Kind::Own(Some(text.into())), under: None, request, sent: 0 }
    }

    /// What an endpoint sends.
    pub fn of_endpoint(answered: Answered, under: Under, request: Request) -> Self {
        let under = (!answered.is_end_stream()).then_some(under);
        Self { kind: Kind::Endpoints(answered), under, request, sent: 0 }
    }

    /// None: what follows is no HTTP.
    pub fn switch(switch: Switch, request: Request) -> Self {
        Self { kind: Kind::Switch(Box::new(switch)), under: None, request, sent: 0 }
    }

    /// Whether what follows is no HTTP.
    pub fn is_switch(&self) -> bool {
        matches!(self.kind, Kind::Switch(_))
    }

    /// How the connection goes on; the request is over with its answer.
    pub fn into_switch(mut self) -> Option<Box<Switch>> {
        match std::mem::replace(&mut self.kind, Kind::Own(None)) {
            Kind::Switch(switch) => Some(switch),
            _ => None,
        }
    }

    /// What is told of its route.
    pub fn route(&self) -> Option<&Arc<Signals>> {
        self.request.route()
    }

    /// Sends on what there is of the request, while nobody takes the answer.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match &mut self.kind {
            Kind::Endpoints(answered) => answered.poll_upload(cx),
            Kind::Own(_) | Kind::Switch(_) => Ok(()),
        }
    }

    /// The endpoint has said all. Told before its last bytes go on: whoever has them may
    /// ask at once for what is free now.
    fn answered(&mut self) {
        if let Some(under) = self.under.take()
            && self.sent > 0
        {
            under.signals().sent(self.sent);
            self.route().into_iter().for_each(|it| it.sent(self.sent));
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.answered();
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let polled = match &mut self.kind {
            Kind::Own(bytes) => {
                let bytes = bytes.take().filter(|it| !it.is_empty());
                return Poll::Ready(bytes.map(|it| Ok(Frame::data(it))));
            }
            Kind::Endpoints(answered) => answered.poll_frame(cx),
            Kind::Switch(_) => return Poll::Ready(None),
        };
        self.sent += bytes_of(&polled);
        if polled.is_ready() && self.is_end_stream() {
            self.answered();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Kind::Endpoints(answered) => answered.is_end_stream(),
            Kind::Switch(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Endpoints(answered) => answered.size_hint(),
            Kind::Switch(_) => SizeHint::with_exact(0),
        }
    }
}
