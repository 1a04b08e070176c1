//! Connections to endpoints that wait for their next request. Each worker has its own.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use http_body_util::{Either, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::TokioIo;
use purlin_core::mesh::{model::AppProtocol, workload::Workload};
use tokio::task::spawn_local;

use crate::{
    http::{Local, Upload},
    tunnel::stream::Stream,
    worker::Worker,
};

/// Idle connections kept for each endpoint: as many as a worker has requests at once.
const MAX_IDLE: usize = 256;
/// An idle connection is closed after this: servers close theirs after 5 s (Node.js) to
/// 75 s (nginx), and a request that meets that close has to be sent again.
const IDLE_SECONDS: u32 = 30;
/// Looked at to find one that is ready, newest first.
const MAX_LOOKED_AT: usize = 8;

/// A client's body, or none.
pub type Outgoing = Either<Upload, Empty<Bytes>>;

/// A way to send requests on one connection.
#[derive(Debug)]
pub enum Sender {
    /// One at a time.
    Http1(http1::SendRequest<Outgoing>),
    /// Many at a time.
    Http2(http2::SendRequest<Outgoing>),
}

impl Sender {
    /// Speaks HTTP on a new connection.
    pub async fn start(stream: Stream, protocol: AppProtocol) -> hyper::Result<Self> {
        let io = TokioIo::new(stream);
        if protocol == AppProtocol::H2c {
            let (sender, connection) = http2::handshake(Local, io).await?;
            spawn_local(async { _ = connection.await });
            Ok(Sender::Http2(sender))
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            spawn_local(async { _ = connection.with_upgrades().await });
            Ok(Sender::Http1(sender))
        }
    }

    /// Sends a request; one that was not sent comes back.
    pub async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
        match self {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Sender::Http1(sender) => sender.is_ready(),
            Sender::Http2(sender) => sender.is_ready(),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }
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
    pub fn sender(&mut self) -> &mut Sender {
        &mut self.sender
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
        let newest = idle.len().saturating_sub(MAX_LOOKED_AT)..idle.len();
        let found = newest.rev().find(|&at| idle[at].sender.is_ready())?;
        Some(idle.swap_remove(found).sender)
    }

    fn put(&self, key: Key, sender: Sender, since: u32) {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.entry(key).or_default();
        let is_shared = matches!((&sender, idle.last()), (Sender::Http2(_), Some(_)));
        if idle.len() < MAX_IDLE && !sender.is_closed() && !is_shared {
            idle.push(Idle { sender, since });
        }
    }

    /// Lets go of what is closed or was idle for too long.
    pub fn look(&self, now: u32) {
        let mut idle = self.idle.borrow_mut();
        for senders in idle.values_mut() {
            let is_young = |it: &Idle| now.saturating_sub(it.since) < IDLE_SECONDS;
            senders.retain(|it| !it.sender.is_closed() && is_young(it));
        }
        idle.retain(|_, senders| !senders.is_empty());
    }

    /// Counts a connection that had to be opened.
    pub fn opened(&self) {
        self.opened.set(self.opened.get() + 1);
    }
}
