//! UDP: each client of a listener has a session with an endpoint, until neither has said
//! anything for the service's idle timeout.
//!
//! A client whose endpoint fails, is left out or gone from the table goes to another one
//! with its next datagram; what was sent to the one that failed is lost, as datagrams are.
//! It always comes in at the same worker: the kernel spreads clients by address and port
//! over the sockets of an address. So it is also after an upgrade, which hands over all
//! these sockets and every session: until they are there, the new process reads none.

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
};

use self::{
    session::{Session, To},
    socket::{MAX_DATAGRAM, Received, Socket},
};
use crate::{
    accept::{MAX_ATTEMPTS, source_hash},
    counters::{Counters, Lost},
    handover::Heir,
    live::Live,
    names,
    signals::{Class, Decision},
    target::Target,
    worker::Worker,
};

mod session;
pub mod socket;

/// Sessions of one worker, a descriptor and one of the node's some 28,000 own ports each.
/// One more, and the eighth that was silent for the longest ends: clients never say that
/// they are gone, and whoever talks stays, also when somebody makes up addresses.
const MAX_SESSIONS: usize = 4096;
const DISPLACED_AT_ONCE: usize = MAX_SESSIONS / 8;

/// Whose a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// The listener's address.
    pub at: SocketAddr,
    /// Its own.
    pub peer: SocketAddr,
    /// Which of this node's it sent to, and is answered from.
    pub local: IpAddr,
}

/// A session that goes on in another process.
#[derive(Debug)]
pub struct Passed {
    /// Whose.
    pub client: Client,
    /// Which of the listener's sockets it comes in at.
    pub index: usize,
    /// Connected to the endpoint.
    pub upstream: OwnedFd,
}

/// The sessions of a worker.
#[derive(Debug)]
pub struct Sessions {
    by_client: RefCell<HashMap<Client, Session>>,
    /// Those that clients come in at, by address and number.
    sockets: RefCell<HashMap<(SocketAddr, usize), Rc<Socket>>>,
    /// For one answer at a time.
    buffer: RefCell<Vec<u8>>,
}

impl Default for Sessions {
    fn default() -> Self {
        let buffer = RefCell::new(vec![0; MAX_DATAGRAM]);
        Self { by_client: RefCell::default(), sockets: RefCell::default(), buffer }
    }
}

/// Takes datagrams at an address, for ever.
pub async fn listen(worker: Rc<Worker>, at: SocketAddr, index: usize, socket: Rc<Socket>) {
    worker.sessions.sockets.borrow_mut().insert((at, index), socket.clone());
    worker.released().await;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        match socket.receive(&mut buffer).await {
            Ok(received) => {
                let bytes = &buffer[..received.bytes];
                match worker.live().is_for_names(at) {
                    true => names::datagram(&worker, &socket, &received, bytes),
                    false => pass_on(&worker, at, index, &received, bytes),
                }
            }
            // An answer of ICMP to what a client was sent that is gone.
            Err(error) => tracing::debug!(%at, %error, "no datagram"),
        }
    }
}

fn pass_on(worker: &Rc<Worker>, at: SocketAddr, index: usize, received: &Received, bytes: &[u8]) {
    Counters::one(&worker.counters.datagrams_in);
    let client = Client { at, peer: received.peer, local: received.local };
    let (mut tried, now_ms) = (Vec::new(), worker.now_ms());
    let mut sessions = worker.sessions.by_client.borrow_mut();
    for _ in 0..MAX_ATTEMPTS {
        if let Some(session) = sessions.get(&client)
            && session.serves(now_ms)
        {
            match session.send(bytes, now_ms) {
                Ok(()) => return,
                // Told of what was sent before: this one is not sent yet.
                Err(error) if session::is_refused(&error) => session.to.fail(now_ms),
                Err(_) => return worker.counters.lost(Lost::NotSent),
            }
        }
        if let Some(before) = sessions.remove(&client) {
            tried.push(before.to.endpoint.id);
        }
        let begun = choose(worker, client, &tried);
        match begun.and_then(|to| Session::begin(worker, client, index, to)) {
            Ok(session) => {
                if sessions.len() >= MAX_SESSIONS {
                    displace(worker, &mut sessions);
                }
                sessions.insert(client, session);
            }
            Err(why) => return worker.counters.lost(why),
        }
    }
    worker.counters.lost(Lost::NotSent);
}

/// Where a new session goes.
fn choose(worker: &Worker, client: Client, tried: &[u64]) -> Result<To, Lost> {
    let live = worker.live();
    let place = live.datagrams(client.at).ok_or(Lost::NoRoute)?;
    let target = live.backend(place, &worker.by(&[], None)).ok_or(Lost::NoRoute)?.target;
    let route = &live.signals[place.route];
    let of_service = target.begin().ok_or_else(|| {
        route.decided(Decision::Broken);
        Lost::Breaker
    })?;
    route.decided(Decision::Allowed);
    let hash = source_hash(&target.service.hash_on, client.peer);
    // The one that failed may be the only one, and back.
    let endpoint = target.pick(&worker.by(tried, hash));
    let endpoint = endpoint.or_else(|| target.pick(&worker.by(&[], hash)));
    let endpoint = endpoint.ok_or_else(|| {
        route.is_over(Class::Failed);
        Lost::NoEndpoint
    })?;
    [route, &endpoint.signals].into_iter().for_each(|it| it.is_over(Class::Connected));
    Ok(To::new(target, endpoint, of_service))
}

fn displace(worker: &Worker, sessions: &mut HashMap<Client, Session>) {
    let now_ms = worker.now_ms();
    let mut silent: Vec<_> =
        sessions.iter().map(|(client, it)| (it.silent_ms(now_ms), *client)).collect();
    silent.select_nth_unstable_by_key(DISPLACED_AT_ONCE, |(silent, _)| Reverse(*silent));
    for (_, client) in &silent[..DISPLACED_AT_ONCE] {
        sessions.remove(client);
        Counters::one(&worker.counters.displaced);
    }
    tracing::warn!("more clients of UDP than there may be: the most silent are forgotten");
}

impl Sessions {
    fn socket(&self, at: SocketAddr, index: usize) -> Option<Rc<Socket>> {
        self.sockets.borrow().get(&(at, index)).cloned()
    }

    /// Ends those that have been silent for too long.
    pub fn look(&self, now_ms: u32) {
        self.by_client.borrow_mut().retain(|_, it| !it.is_over(now_ms));
    }

    /// Holds to another table: a session stays whose listener may still lead to its endpoint.
    pub fn follow(&self, live: &Live) {
        self.by_client.borrow_mut().retain(|client, session| {
            let id = session.to.endpoint.id;
            let leads_there = |it: &&Arc<Target>| it.endpoints.iter().any(|it| it.id == id);
            let found = live.datagram_targets(client.at).find(leads_there);
            found.inspect(|&target| session.to.target = target.clone()).is_some()
        });
    }

    /// Takes no more at an address.
    pub fn unlisten(&self, at: SocketAddr) {
        self.sockets.borrow_mut().retain(|(it, _), _| *it != at);
        self.by_client.borrow_mut().retain(|client, _| client.at != at);
    }

    /// Ends all, or passes them on.
    pub fn drain(&self, heir: Option<&Heir>) {
        self.sockets.borrow_mut().clear();
        for (client, session) in self.by_client.borrow_mut().drain() {
            match (heir, session.passed(client)) {
                (Some(heir), Ok(passed)) => heir.take(crate::handover::Passed::Session(passed)),
                (None, _) => {}
                (_, Err(error)) => {
                    tracing::warn!(%error, peer = %client.peer, "a session could not be passed on");
                }
            }
        }
    }
}

/// Goes on with a session that the mesh before this one had, if the table still has it.
pub fn adopt(worker: &Rc<Worker>, passed: Passed) {
    let Passed { client, index, upstream } = passed;
    let upstream = std::net::UdpSocket::from(upstream);
    let Ok(address) = upstream.peer_addr() else { return };
    let live = worker.live();
    let found = live.datagram_targets(client.at).find_map(|target| {
        let endpoint = target.endpoints.iter().find(|it| it.address == address)?;
        Some(To::new(target, endpoint, target.begin()?))
    });
    let Some(to) = found else { return };
    // Its client begins a new one.
    if let Ok(session) = Session::over(worker, client, index, to, upstream) {
        worker.sessions.by_client.borrow_mut().insert(client, session);
    }
}
