//! The connections from clients, as the once-a-second look sees them: which may be
//! parked, which are too slow, which have been idle for too long. No connection has a
//! timer of its own.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    task::Waker,
};

use hyper::header::HeaderValue;
use purlin_core::mesh::authorize::Principal;
use slab::Slab;

use crate::{
    accept::Client,
    counters::{Counters, Open},
    http::{self, Flags},
    who::Asker,
    worker::Worker,
};

/// For a request's head, from its first byte to its last; slower is an attack.
const HEAD_SECONDS: u32 = 10;
/// For a request's body or an answer to move at all.
const BODY_SECONDS: u32 = 30;
/// Quiet for this long, a connection is parked: busy ones have their next request
/// sooner, and are not taken apart for it.
const PARK_SECONDS: u32 = 2;

/// What a connection is asked to do when it is woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ask {
    /// Nothing.
    #[default]
    Nothing,
    /// To give its buffers back, if it is still quiet.
    Park,
    /// To end.
    Close,
}

/// Through whose tunnel a connection came, and for what.
#[derive(Debug)]
pub struct Through {
    /// Who is at the other end.
    pub principal: Principal,
    /// Which service it may ask, where a rule allows it.
    pub service: String,
}

/// A connection from a client that speaks HTTP.
#[derive(Debug)]
pub struct Connection {
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// What endpoints are told of it.
    pub forwarded: HeaderValue,
    /// The address it came in at.
    pub at: SocketAddr,
    /// Through whose tunnel it came.
    pub through: Option<Rc<Through>>,
    /// Which workload of this node it is from.
    pub asker: Asker,
    /// Requests under way.
    pub active: Cell<u32>,
    /// What its bytes tell.
    pub flags: Rc<Flags>,
    /// What it is asked to do.
    pub ask: Cell<Ask>,
    _open: Rc<Open>,
    waker: RefCell<Option<Waker>>,
    /// When something last changed, in ticks, and how it was then.
    since: Cell<(u32, u32)>,
}

impl Connection {
    /// A new one.
    pub fn new(worker: &Worker, client: &Client) -> Self {
        Self {
            peer: client.peer,
            forwarded: http::of_peer(client.peer),
            at: client.at,
            through: client.through.clone(),
            asker: Asker::new(worker, client),
            _open: client.open.clone(),
            active: Cell::new(0),
            flags: Rc::default(),
            ask: Cell::default(),
            waker: RefCell::default(),
            since: Cell::new((worker.tick.get(), 0)),
        }
    }

    /// Keeps what wakes it.
    pub fn keep_waker(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }

    /// Whether nothing is under way: no request, no answer, no byte of either.
    pub fn is_quiet(&self) -> bool {
        self.active.get() == 0 && self.flags.is_quiet()
    }

    fn look(&self, worker: &Worker) {
        let now = worker.tick.get();
        let (since, moved) = (self.since.get(), self.flags.moved());
        if since.1 != moved {
            self.since.set((now, moved));
        }
        let idle = now.saturating_sub(self.since.get().0);
        let ask = if self.is_quiet() {
            if idle >= PARK_SECONDS { Ask::Park } else { Ask::Nothing }
        } else if self.flags.is_in_head() && self.flags.head_seconds(now) >= HEAD_SECONDS
            || self.active.get() == 0 && idle >= BODY_SECONDS
            || self.flags.is_in_body() && idle >= BODY_SECONDS
        {
            Counters::one(&worker.counters.slow);
            Ask::Close
        } else {
            Ask::Nothing
        };
        self.ask(ask);
    }

    fn ask(&self, ask: Ask) {
        if ask != Ask::Nothing {
            self.ask.set(ask);
            if let Some(waker) = self.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
    }
}

/// All of a worker's.
#[derive(Debug, Default)]
pub struct Connections(RefCell<Slab<Rc<Connection>>>);

impl Connections {
    /// Takes one up; it is left out again when the entry is dropped.
    pub fn enter(worker: &Rc<Worker>, connection: &Rc<Connection>) -> Entry {
        let key = worker.connections.0.borrow_mut().insert(connection.clone());
        Entry { worker: worker.clone(), key }
    }

    /// Looks at each.
    pub fn look(&self, worker: &Worker) {
        self.0.borrow().iter().for_each(|(_, it)| it.look(worker));
    }

    /// Nothing new begins on any of them.
    pub fn drain(&self) {
        self.0
            .borrow()
            .iter()
            .filter(|(_, it)| it.is_quiet())
            .for_each(|(_, it)| it.ask(Ask::Park));
    }
}

/// A connection's place among all.
#[derive(Debug)]
pub struct Entry {
    worker: Rc<Worker>,
    key: usize,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.worker.connections.0.borrow_mut().try_remove(self.key);
    }
}
