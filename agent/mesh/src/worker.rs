//! A worker: one thread on one core, with its own event loop, listening sockets and
//! pool. Connections never leave it, so that nothing here is locked.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use purlin_core::mesh::{
    model::{Protocol, Transport},
    trace::Trace,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    sync::{Notify, mpsc},
    task::{AbortHandle, spawn_local},
    time,
};

use crate::{
    accept::{self, Client},
    connection::Connections,
    counters::{Counters, Open},
    handover::{Connection, Heir, Passed, Release, Stage},
    http::{self, Parked},
    identity::{Identity, clock::Clock},
    jwt::Tokens,
    live::Live,
    numa::Seat,
    pool::Pool,
    relay::Pipes,
    tap::Tap,
    target::By,
    tunnel::{Tunnels, stream::Stream},
    udp::{self, Sessions, socket::Socket},
    who::{Who, containers::Containers, finder::Finder},
};

/// Between two looks at what is idle or too slow.
pub const TICK: Duration = Duration::from_secs(1);
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// For a mesh that is taken over from to stop reading datagrams: it does at once, and they
/// wait meanwhile.
const RELEASE: Duration = Duration::from_secs(5);

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    /// This table is in force from now on.
    Live(Arc<Live>),
    /// These are the node's containers from now on.
    Containers(Arc<Containers>),
    /// This is who the node is from now on.
    Identity(Option<Arc<Identity>>),
    /// Take what comes at this address, by its socket of this number.
    Listen(Transport, SocketAddr, usize, OwnedFd),
    /// Take no more at this address.
    Unlisten(Transport, SocketAddr),
    /// Accept no more, and end each connection with its next answer; what can be
    /// passed on goes to the next mesh.
    Drain(Option<(Heir, Arc<Release>)>),
    /// A connection that the mesh before this one had.
    Adopt(Connection),
    /// The same of UDP.
    AdoptSession(udp::Passed),
    /// The mesh before this one reads no datagrams any more; what it passed on came before.
    Released,
}

/// The table in force. The outer count is this thread's own: the inner one is a cache
/// line that every core would write for every request.
#[allow(clippy::redundant_allocation, reason = "it is what keeps the cores apart")]
pub type InForce = Rc<Arc<Live>>;

/// What the connections of one worker share.
#[derive(Debug)]
pub struct Worker {
    live: RefCell<InForce>,
    identity: RefCell<Option<Arc<Identity>>>,
    /// Which workload a connection is from.
    pub who: Who,
    /// Connections to and from other nodes.
    pub tunnels: Tunnels,
    /// Connections to endpoints that wait for a request.
    pub pool: Pool,
    /// Pipes that wait for bytes to pass through.
    pub pipes: Pipes,
    /// Connections from clients.
    pub connections: Connections,
    /// Those of them that wait for their next request.
    pub parked: Parked,
    /// Clients of UDP.
    pub sessions: Sessions,
    /// Tokens whose signature is good.
    pub tokens: Tokens,
    clock: Clock,
    is_released: Cell<bool>,
    release_came: Notify,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// Who looks at requests.
    pub tap: Arc<Tap>,
    /// Whether each answer is to be a connection's last.
    pub is_draining: Cell<bool>,
    heir: RefCell<Option<Heir>>,
    heir_came: Notify,
    /// Seconds since the start, as of the last look.
    pub tick: Cell<u32>,
    /// The NUMA node it stays on, where there are more than one.
    numa: Option<u32>,
    random: Cell<u64>,
    started: Instant,
}

impl Worker {
    /// The table in force.
    pub fn live(&self) -> InForce {
        self.live.borrow().clone()
    }

    /// Who this node is.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.borrow().clone()
    }

    /// Waits until another mesh has taken over.
    pub async fn heir(&self) {
        // Before the look, so that none slips through between both.
        let came = self.heir_came.notified();
        if self.heir.borrow().is_none() {
            came.await;
        }
    }

    /// Waits until the mesh before this one reads no datagrams any more.
    pub async fn released(&self) {
        let came = self.release_came.notified();
        if !self.is_released.get() {
            // One that is gone reads none either.
            _ = time::timeout(RELEASE, came).await;
        }
    }

    /// Passes a connection on to the mesh that took over; without one it ends.
    pub fn pass_on(&self, stage: Stage, client: Client) {
        let Client { stream, peer, at, .. } = client;
        if let (Some(heir), Some(stream)) = (&*self.heir.borrow(), stream.into_socket()) {
            heir.take(Passed::Connection(Connection { stage, stream, peer, at }));
        }
    }

    /// Whether somebody looks at each request, or it is a line in the log.
    pub fn looks_at_requests(&self) -> bool {
        self.tap.is_on() || self.live.borrow().table.access_log
    }

    /// Milliseconds since the process's workers started.
    pub fn now_ms(&self) -> u32 {
        self.started.elapsed().as_millis() as u32
    }

    /// What an endpoint is chosen by now.
    pub fn by<'a>(&self, tried: &'a [u64], hash: Option<u64>) -> By<'a> {
        By { tried, hash, random: self.random(), now_ms: self.now_ms(), numa: self.numa }
    }

    /// A trace that begins here.
    pub fn new_trace(&self) -> Trace {
        Trace::new([self.random(), self.random(), self.random()])
    }

    /// 64 random bits (SplitMix64): good enough to choose by, not to keep secrets.
    pub fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let bits = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

/// A worker as its owner sees it.
#[derive(Debug)]
pub struct Handle {
    /// To tell it something.
    pub commands: mpsc::UnboundedSender<Command>,
    /// What it counts.
    pub counters: Arc<Counters>,
}

/// What all workers start with.
#[derive(Clone, Debug)]
pub struct Shared {
    /// When the process started.
    pub started: Instant,
    /// What time it is, for tokens.
    pub clock: Clock,
    /// Who looks at requests.
    pub tap: Arc<Tap>,
    /// Whether there is no mesh before this one that still reads datagrams.
    pub is_released: bool,
    /// Who finds cgroups.
    pub finder: Finder,
}

/// Starts a worker.
pub fn start(number: usize, seed: u64, seat: Option<Seat>, shared: Shared) -> io::Result<Handle> {
    let Shared { started, clock, tap, is_released, finder } = shared;
    let (commands, inbox) = mpsc::unbounded_channel();
    let counters = Arc::new(Counters::default());
    let of_worker = counters.clone();
    let parked = Parked::new()?;
    let runtime =
        move || Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    thread::Builder::new().name(format!("mesh-{number}")).spawn(move || {
        let seat = seat.filter(|seat| {
            let taken = seat.take();
            if let Err(error) = &taken {
                tracing::warn!(%error, number, node = seat.node, "a worker can't stay on its NUMA node");
            }
            taken.is_ok()
        });
        let worker = Rc::new(Worker {
            live: RefCell::new(Rc::new(Arc::new(Live::default()))),
            identity: RefCell::default(),
            who: Who::new(finder),
            tunnels: Tunnels::default(),
            pool: Pool::default(),
            pipes: Pipes::default(),
            connections: Connections::default(),
            parked,
            sessions: Sessions::default(),
            tokens: Tokens::new(clock.now()),
            clock,
            is_released: Cell::new(is_released),
            release_came: Notify::new(),
            counters: of_worker,
            tap,
            is_draining: Cell::new(false),
            heir: RefCell::default(),
            heir_came: Notify::new(),
            tick: Cell::new(0),
            numa: seat.map(|it| it.node),
            random: Cell::new(seed),
            started,
        });
        match runtime() {
            Ok(runtime) => runtime.block_on(run(worker, inbox)),
            Err(error) => tracing::error!(%error, number, "the kernel gives no event loop"),
        }
    })?;
    Ok(Handle { commands, counters })
}

async fn run(worker: Rc<Worker>, mut inbox: mpsc::UnboundedReceiver<Command>) {
    spawn_local(watch(worker.clone()));
    let taken_up = http::take_up(worker.clone());
    spawn_local(async {
        if let Err(error) = taken_up.await {
            tracing::error!(%error, "idle connections can't be waited for any more");
        }
    });
    let mut listening: HashMap<_, Vec<AbortHandle>> = HashMap::new();
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Live(live) => {
                worker.sessions.follow(&live);
                if live.table.jwt_issuers != worker.live().table.jwt_issuers {
                    worker.tokens.forget();
                }
                worker.live.replace(Rc::new(live));
            }
            Command::Containers(all) => worker.who.follow(all),
            Command::Identity(identity) => {
                worker.tunnels.follow(identity.as_deref());
                worker.identity.replace(identity);
            }
            Command::Listen(transport, address, index, socket) => {
                match take(&worker, transport, address, index, socket) {
                    Ok(task) => listening.entry((transport, address)).or_default().push(task),
                    Err(error) => tracing::error!(%address, %error, "a listener can't be used"),
                }
            }
            Command::Unlisten(transport, address) => {
                let tasks = listening.remove(&(transport, address));
                tasks.into_iter().flatten().for_each(|it| it.abort());
                if transport == Transport::Datagram {
                    worker.sessions.unlisten(address);
                }
            }
            Command::Adopt(passed) => adopt(&worker, passed),
            Command::AdoptSession(passed) => udp::adopt(&worker, passed),
            Command::Released => {
                worker.is_released.set(true);
                worker.release_came.notify_waiters();
            }
            Command::Drain(heir) => {
                listening.drain().flat_map(|(_, all)| all).for_each(|it| it.abort());
                worker.is_draining.set(true);
                worker.sessions.drain(heir.as_ref().map(|(heir, _)| heir));
                if let Some((heir, _)) = heir {
                    worker.parked.pass_on(&worker, &heir);
                    worker.heir.replace(Some(heir));
                    worker.heir_came.notify_waiters();
                }
                worker.connections.drain();
                worker.tunnels.drain();
            }
        }
    }
}

/// Takes what comes at an address, from now on.
fn take(
    worker: &Rc<Worker>,
    transport: Transport,
    address: SocketAddr,
    index: usize,
    socket: OwnedFd,
) -> io::Result<AbortHandle> {
    let worker = worker.clone();
    let task = match transport {
        Transport::Stream => {
            spawn_local(listen(worker, address, TcpListener::from_std(socket.into())?))
        }
        Transport::Datagram => {
            let socket = Rc::new(Socket::new(socket.into())?);
            spawn_local(udp::listen(worker, address, index, socket))
        }
    };
    Ok(task.abort_handle())
}

/// Goes on with a connection that the mesh before this one had, if its listener is there.
fn adopt(worker: &Rc<Worker>, passed: Connection) {
    let Connection { stage, stream, peer, at } = passed;
    let is_http = worker.live().listener(at).is_some_and(|it| it.protocol == Protocol::Http);
    let Some(stream) = TcpStream::from_std(stream).ok().filter(|_| is_http) else { return };
    let (stream, open) = (Stream::Tcp(stream), Rc::new(Open::new(&worker.counters)));
    let client = Client { stream, peer, at, open, through: None };
    match stage {
        Stage::Parked => http::park(worker, client),
        Stage::Fresh => _ = spawn_local(http::serve(worker.clone(), client, Vec::new())),
    }
}

/// Looks at all connections, once a second.
async fn watch(worker: Rc<Worker>) {
    let mut ticks = time::interval(TICK);
    loop {
        ticks.tick().await;
        worker.tick.set(worker.started.elapsed().as_secs() as u32);
        worker.connections.look(&worker);
        worker.parked.look(&worker);
        worker.pool.look(worker.tick.get());
        worker.sessions.look(worker.now_ms());
        worker.tokens.tick(worker.clock.now());
    }
}

async fn listen(worker: Rc<Worker>, address: SocketAddr, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // A request is one segment, and so is an answer: nothing to wait for.
                _ = stream.set_nodelay(true);
                let open = Rc::new(Open::new(&worker.counters));
                let stream = Stream::Tcp(stream);
                let client = Client { stream, peer, at: address, open, through: None };
                spawn_local(accept::serve(worker.clone(), client));
            }
            // The connection's own end; the next may be waiting.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%address, %error, "a connection can't be accepted");
                time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}
