//! Connections to endpoints that wait for their next request. Each worker has its own.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io, mem,
    rc::Rc,
};

use hyper::{
    Request, Response,
    body::{Body as _, Incoming},
    client::conn::http2,
};
use hyper_util::rt::TokioIo;
use purlin_core::mesh::{model::AppProtocol, workload::Workload};
use tokio::task::spawn_local;

use crate::{
    http::{Broken, Exchange, Local, Upload},
    tunnel::stream::Stream,
    worker::Worker,
};

/// Idle connections kept for each endpoint: as many as a worker has requests at once.
const MAX_IDLE: usize = 256;
/// An idle connection is closed after this: servers close theirs after 5 s (Node.js) to
/// 75 s (nginx), and a request that meets that close has to be sent again.
const IDLE_SECONDS: u32 = 30;
/// A way to send requests on one connection.
#[derive(Debug)]
pub enum Sender {
    /// One at a time.
    Http1(Box<Exchange>),
    /// Many at a time.
    Http2(http2::SendRequest<Upload>),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The request was not sent.
    Unsent,
    /// The endpoint hung up, or said what is no answer.
    Broken(io::Error),
    /// The client itself broke off.
    ByClient(io::Error),
}

impl Sender {
    /// Speaks HTTP on a new connection.
    pub async fn start(stream: Stream, protocol: AppProtocol) -> hyper::Result<Self> {
        if protocol == AppProtocol::H2c {
            let (sender, connection) = http2::handshake(Local, TokioIo::new(stream)).await?;
            spawn_local(async { _ = connection.await });
            Ok(Sender::Http2(sender))
        } else {
            Ok(Sender::Http1(Box::new(Exchange::new(stream))))
        }
    }

    /// Sends a request; one without a body stays, to be sent again. By HTTP/1 the answer's
    /// body is read from the connection.
    pub async fn send(
        &mut self,
        request: &mut Request<Upload>,
    ) -> Result<Response<Option<Incoming>>, Unanswered> {
        match self {
            Sender::Http1(exchange) => match exchange.send(request).await {
                Ok(answer) => Ok(answer.map(|()| None)),
                Err(Broken::Connection(error)) => Err(Unanswered::Broken(error)),
                Err(Broken::Body(error)) => Err(Unanswered::ByClient(error)),
            },
            Sender::Http2(sender) => {
                let sent = match request.body().is_end_stream() {
                    true => copy(request),
                    false => mem::take(request),
                };
                match sender.try_send_request(sent).await {
                    Ok(answer) => Ok(answer.map(Some)),
                    Err(mut error) => Err(match error.take_message() {
                        Some(unsent) => {
                            *request = unsent;
                            Unanswered::Unsent
                        }
                        None => Unanswered::Broken(io::Error::other(error.into_error())),
                    }),
                }
            }
        }
    }

    fn is_ready(&mut self) -> bool {
        match self {
            Sender::Http1(exchange) => exchange.is_ready(),
            Sender::Http2(sender) => sender.is_ready(),
        }
    }
}

/// The same request once more; it has no body.
fn copy(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::default());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: u32,
}

/// Which requests may share a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The endpoint that they go to.
    pub endpoint: u64,
    /// Through a tunnel, on whose behalf: its way was opened for that workload alone.
    pub workload: Option<Rc<Workload>>,
}

/// A worker's idle connections.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<HashMap<Key, Vec<Idle>>>,
    opened: Cell<u64>,
}

/// A connection in use, that goes back when its answer has been read.
#[derive(Debug)]
pub struct Lease {
    worker: Rc<Worker>,
    key: Key,
    sender: Sender,
}

impl Lease {
    /// A connection in use.
    pub fn new(worker: &Rc<Worker>, key: Key, sender: Sender) -> Self {
        Self { worker: worker.clone(), key, sender }
    }

    /// To send a request on it.
    pub fn sender_mut(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// The same, to look at.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// The connection, for what is no HTTP.
    pub fn into_exchange(self) -> Option<Exchange> {
        match self.sender {
            Sender::Http1(exchange) => Some(*exchange),
            Sender::Http2(_) => None,
        }
    }

    /// The answer was read to its end: another request may use it.
    pub fn give_back(self) {
        let Self { worker, key, sender } = self;
        worker.pool.put(key, sender, worker.tick.get());
    }
}

impl Pool {
    /// One that is ready for a request.
    pub fn take(&self, key: &Key) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.get_mut(key)?;
        if let Some(Idle { sender: Sender::Http2(shared), .. }) = idle.last() {
            let shared = shared.clone();
            return if shared.is_closed() {
                idle.clear();
                None
            } else {
                Some(Sender::Http2(shared))
            };
        }
        while let Some(Idle { mut sender, .. }) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn put(&self, key: Key, sender: Sender, since: u32) {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.entry(key).or_default();
        let may_stay = match &sender {
            Sender::Http1(exchange) => exchange.is_over(),
            Sender::Http2(sender) => !sender.is_closed() && idle.is_empty(),
        };
        if idle.len() < MAX_IDLE && may_stay {
            idle.push(Idle { sender, since });
        }
    }

    /// Lets go of what is closed or was idle for too long.
    pub fn look(&self, now: u32) {
        let mut idle = self.idle.borrow_mut();
        for senders in idle.values_mut() {
            senders.retain_mut(|it| {
                now.saturating_sub(it.since) < IDLE_SECONDS && it.sender.is_ready()
            });
        }
        idle.retain(|_, senders| !senders.is_empty());
    }

    /// Counts a connection that had to be opened.
    pub fn opened(&self) {
        self.opened.set(self.opened.get() + 1);
    }
}
