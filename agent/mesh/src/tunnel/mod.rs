//! From node to node: HBONE, which is CONNECT over HTTP/2 over mutual TLS, by convention at
//! port 15008. The authority of a CONNECT is the endpoint's address as its node has it.
//!
//! Each worker has one connection to each node that it reaches ([`client`]), and one task
//! for each that reaches this one ([`server`]). Either end asks the other whether it is
//! still there, so that a cable that is pulled breaks what is under way within seconds and
//! not when TCP gives up.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use h2::{Ping, PingPong};
use slab::Slab;
use tokio::{sync::Notify, time};

use crate::{
    identity::{Identity, Peer},
    worker::Worker,
};

pub mod client;
pub mod server;
pub mod stream;

/// Bytes that may be on their way in one stream, and in all of a connection: some ms of
/// 10 Gbit/s, and the most that one connection can make us keep.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What a CONNECT has that leads to a broker of the node's, and not to an endpoint.
const UPLINK: &str = "purlin-uplink";
/// For TLS and HTTP/2 to begin.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A connection between nodes: who is at the other end, and what ends it.
#[derive(Debug)]
struct Open {
    peer: Peer,
    end: Rc<Notify>,
    drain: Rc<Notify>,
}

/// All of a worker's.
#[derive(Debug, Default)]
pub struct Tunnels {
    open: RefCell<Slab<Open>>,
    ways: RefCell<HashMap<String, Rc<client::Way>>>,
}

impl Tunnels {
    /// Ends those to and from nodes that are revoked from now on.
    pub fn follow(&self, identity: Option<&Identity>) {
        let list = identity.map(|it| it.verifier.revocations());
        for (_, it) in self.open.borrow().iter() {
            if list.is_none_or(|list| it.peer.is_revoked_by(list)) {
                it.end.notify_one();
            }
        }
    }

    /// Takes no more streams.
    pub fn drain(&self) {
        self.open.borrow().iter().for_each(|(_, it)| it.drain.notify_one());
    }
}

/// A connection's place among all; it has ended when this is dropped.
struct Entry {
    worker: Rc<Worker>,
    key: usize,
    end: Rc<Notify>,
    drain: Rc<Notify>,
}

impl Entry {
    fn new(worker: &Rc<Worker>, peer: Peer) -> Self {
        let (end, drain) = (Rc::<Notify>::default(), Rc::<Notify>::default());
        let open = Open { peer, end: end.clone(), drain: drain.clone() };
        let key = worker.tunnels.open.borrow_mut().insert(open);
        Self { worker: worker.clone(), key, end, drain }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.worker.tunnels.open.borrow_mut().try_remove(self.key);
    }
}

/// Asks the other end over and over; returns when it doesn't answer.
async fn is_gone(ping: Option<PingPong>, every: Duration, deadline: Duration) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        time::sleep(every).await;
        match time::timeout(deadline, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            _ => return,
        }
    }
}
