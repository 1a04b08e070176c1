//! Owns the table in force: checks a new one, binds what it needs, makes it durable, and
//! only then hands it to every worker. What a new table does not concern is not touched:
//! sockets are known by their address, endpoints by service and address.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};
use purlin_core::{
    mesh::{
        dns::Outcome,
        jwt,
        model::{Listener, Mode, Transport},
        offer::Offer,
        strict::Violation,
        table::Table,
    },
    settings::Refusal,
};
use purlin_proto::{mesh as view, v1};
use tokio::{net::TcpSocket, sync::watch};

use crate::{
    counters::{Known, Lost, TunnelRefusal},
    handover::{Heir, Passed, Sockets},
    health::Checks,
    identity::{self, Keeper},
    keep,
    live::Live,
    records::{Records, Source},
    scrape, show,
    split::{self, Kept, Split},
    told::{self, Told},
    udp,
    who::{containers::Containers, finder::Finder},
    wire,
    worker::{Command, Handle},
};

/// Connections that wait to be accepted, for each worker (what Linux allows since 5.4).
const BACKLOG: u32 = 4096;
/// Others' records are looked at anew so often, beside when who this node is, or who is out,
/// has changed: certificates expire.
const JUDGE_EVERY: Duration = Duration::from_secs(600);

/// Where a socket is.
type At = (Transport, SocketAddr);

/// A port on loopback, and who listens there.
pub type Scraped = (u16, Arc<StdListener>);

/// Why a table was not taken.
#[derive(Debug)]
pub enum Refused {
    /// Something in it can't be.
    Impossible(Vec<Refusal>),
    /// It can't be made durable.
    NotDurable(io::Error),
    /// Another mesh is taking over, and is to be told.
    HandingOver,
}

/// The table in force, and the workers that hold to it.
#[derive(Debug)]
pub struct Owner {
    dir: PathBuf,
    workers: Vec<Handle>,
    started: Instant,
    table: v1::MeshTable,
    /// The same, checked; [`Live`] has what nodes offer as well.
    document: Table,
    live: Arc<Live>,
    /// When others' records were last looked at.
    judged: Instant,
    checks: Checks,
    /// Who this node is.
    pub keeper: Keeper,
    /// Its containers, as its agent told last, and checked.
    workloads: v1::KeptWorkloads,
    containers: Arc<Containers>,
    finder: Finder,
    /// Why its certificate could not be renewed.
    renewal: Option<String>,
    /// Addresses that the workers listen at, and the sockets, for the next mesh.
    bound: Vec<Sockets>,
    /// Sockets that the mesh before this one had.
    handed: HashMap<At, Vec<OwnedFd>>,
    /// Where it is read as OpenMetrics.
    scraped: watch::Sender<Option<Scraped>>,
    heir: Option<Heir>,
    /// Whether another mesh is starting to take over.
    is_handing_over: bool,
    /// What is stepped back from, as it is on disk.
    kept: Vec<Kept>,
    /// What was wrong at the start.
    problems: Vec<String>,
    /// Whether connections are only ended.
    pub is_draining: bool,
}

impl Owner {
    /// Starts from what is on disk. Whatever of it can't be had is a problem, and the
    /// rest is in force.
    pub fn start(
        dir: PathBuf,
        workers: Vec<Handle>,
        started: Instant,
        keeper: Keeper,
        handed: HashMap<At, Vec<OwnedFd>>,
        scraped: watch::Sender<Option<Scraped>>,
        finder: Finder,
    ) -> Self {
        let mut owner = Self {
            dir,
            workers,
            started,
            table: v1::MeshTable::default(),
            document: Table::default(),
            live: Arc::default(),
            judged: started,
            checks: Checks::new(),
            keeper,
            workloads: v1::KeptWorkloads::default(),
            containers: Arc::default(),
            finder,
            renewal: None,
            bound: Vec::new(),
            handed,
            scraped,
            heir: None,
            is_handing_over: false,
            kept: Vec::new(),
            problems: Vec::new(),
            is_draining: false,
        };
        match Records::load(&owner.dir) {
            Ok(records) => {
                owner.live = Arc::new(Live::knowing(records));
            }
            Err(error) => owner.problems.push(error.to_string()),
        }
        match keep::read::<v1::KeptWorkloads>(&owner.dir, keep::WORKLOADS) {
            Ok(None) => {}
            Ok(Some(kept)) => match Containers::checked(&kept.workloads) {
                Ok(checked) => owner.follow(kept, checked),
                Err(why) => owner.problems.push(why),
            },
            Err(error) => owner.problems.push(error.to_string()),
        }
        match keep::load(&owner.dir) {
            Ok(None) => {}
            Ok(Some(table)) => match checked(&table) {
                Ok(checked) => {
                    owner.table = table;
                    owner.keeper.look(checked.grace_s);
                    owner.live.records.judge(owner.keeper.identity().map(Arc::as_ref));
                    owner.document = checked;
                    owner.tell(|| Command::Identity(owner.keeper.identity().cloned()));
                    owner.put_in_force();
                    owner.kept = split::load(&owner.dir);
                    split::restore(&owner.kept, owner.live.splits());
                    owner.bind_missing();
                }
                Err(refusals) => {
                    let reasons = refusals.iter().map(|it| format!("{}: {}", it.path, it.hint));
                    let reasons = reasons.collect::<Vec<_>>().join("; ");
                    owner.problems.push(format!("the table on disk is refused: {reasons}"));
                }
            },
            Err(error) => owner.problems.push(error.to_string()),
        }
        owner.problems.iter().for_each(|problem| tracing::error!(problem));
        // What the table doesn't have any more.
        owner.handed.clear();
        // Also where there is no table: the first one that comes may speak of the rack.
        owner.look_who();
        owner
    }

    /// Puts a table in force, or leaves everything as it was.
    pub fn offer(&mut self, table: v1::MeshTable) -> Result<(), Refused> {
        if self.is_handing_over || self.is_draining {
            return Err(Refused::HandingOver);
        }
        if table == self.table {
            self.bind_missing();
            return Ok(());
        }
        let checked = checked(&table).map_err(Refused::Impossible)?;
        if checked.is_same_but_for_generation(&self.document) {
            keep::store(&self.dir, &table).map_err(Refused::NotDurable)?;
            (self.table, self.problems) = (table, Vec::new());
            self.bind_missing();
            return Ok(());
        }
        let listeners = checked.listeners.iter().enumerate();
        let wanted: Vec<_> =
            listeners.flat_map(|(n, it)| places(it).map(move |at| (n, at))).collect();
        let mut fresh = HashMap::new();
        let mut refusals = Vec::new();
        for &(n, at) in &wanted {
            match self.acquire(&checked.listeners[n], at) {
                Ok(None) => {}
                Ok(Some(sockets)) => _ = fresh.insert(at, sockets),
                Err(error) => {
                    let path = format!("mesh.listeners[{n}].address");
                    refusals.push(not_bound(path, at, &error));
                }
            }
        }
        let scraped = match checked.openmetrics_port.filter(|port| !self.is_scraped(*port)) {
            None => None,
            Some(port) => match listen_for_scrapers(port) {
                Ok(listener) => Some((port, Arc::new(listener))),
                Err(error) => {
                    let path = "mesh.openmetrics_port".into();
                    let address = SocketAddr::from(([127, 0, 0, 1], port));
                    refusals.push(not_bound(path, (Transport::Stream, address), &error));
                    None
                }
            },
        };
        if !refusals.is_empty() {
            return Err(Refused::Impossible(refusals));
        }
        keep::store(&self.dir, &table).map_err(Refused::NotDurable)?;
        self.table = table;
        self.problems.clear();
        self.document = checked;
        // First the table, then the sockets: no connection meets a listener unknown.
        self.put_in_force();
        for (at, sockets) in fresh {
            self.listen(at, sockets);
        }
        if scraped.is_some() || self.live.table.openmetrics_port.is_none() {
            self.scraped.send_replace(scraped);
        }
        let is_wanted = |at: &At| wanted.iter().any(|(_, it)| it == at);
        let gone: Vec<_> =
            self.bound.iter().map(|(at, _)| *at).filter(|it| !is_wanted(it)).collect();
        for at in gone {
            self.tell(|| Command::Unlisten(at.0, at.1));
            self.bound.retain(|(it, _)| *it != at);
        }
        tracing::info!(generation = self.table.generation, "a table is in force");
        Ok(())
    }

    /// Reads anew who this node is, where its files or the grace have changed.
    pub fn look_who(&mut self) {
        let before = self.own().map(str::to_owned);
        let is_other = self.keeper.look(self.document.grace_s);
        if is_other || self.judged.elapsed() > JUDGE_EVERY {
            self.judged = Instant::now();
            if self.live.records.judge(self.keeper.identity().map(Arc::as_ref)) {
                self.records_changed();
            }
        }
        if !is_other {
            return;
        }
        if self.own() != before.as_deref() {
            self.put_in_force();
        }
        self.tell(|| Command::Identity(self.keeper.identity().cloned()));
    }

    /// The document, and what nodes offer, from now on.
    fn put_in_force(&mut self) {
        self.live = Arc::new(Live::new(self.document.clone(), &self.live, self.own()));
        self.tell(|| Command::Live(self.live.clone()));
        self.checks.follow(&self.live);
    }

    /// What is offered is something else than before.
    fn records_changed(&mut self) {
        if let Err(error) = self.live.records.store(&self.dir) {
            tracing::error!(%error, "what nodes offer can't be kept");
        }
        self.put_in_force();
    }

    /// This node offers these from now on.
    pub fn serves(&mut self, from: Source, offers: Vec<Offer>) {
        let identity = self.keeper.identity().map(Arc::as_ref);
        if self.live.records.offer(from, offers, identity) {
            self.records_changed();
        }
    }

    /// These are the node's containers from now on.
    pub fn has_workloads(&mut self, all: Vec<v1::LocalWorkload>) -> Result<(), String> {
        let kept = v1::KeptWorkloads { workloads: all };
        if kept == self.workloads {
            return Ok(());
        }
        let checked = Containers::checked(&kept.workloads)?;
        if let Err(error) = keep::write(&self.dir, keep::WORKLOADS, &kept) {
            tracing::error!(%error, "which containers there are can't be kept over a restart");
        }
        self.follow(kept, checked);
        Ok(())
    }

    fn follow(&mut self, kept: v1::KeptWorkloads, checked: Containers) {
        (self.workloads, self.containers) = (kept, Arc::new(checked));
        self.tell(|| Command::Containers(self.containers.clone()));
    }

    /// Takes records that another node passed on; how many are news.
    pub fn take_records(&mut self, records: Vec<v1::SignedServiceRecord>) -> usize {
        let Some(identity) = self.keeper.identity() else { return 0 };
        let news = self.live.records.take(identity, records);
        if news > 0 {
            self.records_changed();
        }
        news
    }

    /// Looks which nodes have been away for too long.
    pub fn look_records(&mut self) {
        if self.live.records.look(&self.live.members) {
            self.put_in_force();
        }
    }

    /// What is offered, and what becomes of it.
    pub fn offers(&self) -> view::Offers {
        self.live.records.view(&self.document, self.own())
    }

    /// Steps back from new backends that fail.
    pub fn look_splits(&mut self) {
        let now_ms = self.started.elapsed().as_millis() as u64;
        self.change_splits(|split| {
            let Some(why) = split.look(now_ms) else { return split.why() };
            let (route, rule, backend) = (&split.route, split.rule, &split.backend);
            tracing::error!(route, rule, backend, why, "a new backend is stepped back from");
            Some(why)
        });
    }

    /// Steps back from a route's new backends by hand, or takes that back; how many.
    pub fn step_back(&mut self, asked: &view::SetAside) -> usize {
        let why = (!asked.undo).then(|| "by hand".to_owned());
        let is_of_route = |it: &Split| it.route == asked.name;
        self.change_splits(|it| if is_of_route(it) { why.clone() } else { it.why() });
        self.live.splits().filter(|it| is_of_route(it)).count()
    }

    /// Makes it durable why each new backend is stepped back from, and then holds to it. A
    /// disk that can't be written keeps none in that fails: it is tried again.
    fn change_splits(&mut self, why: impl Fn(&Split) -> Option<String>) {
        let changed: Vec<_> = self.live.splits().map(|it| (it.clone(), why(it))).collect();
        let kept = split::kept(&changed);
        if kept != self.kept {
            match split::store(&self.dir, &kept) {
                Ok(()) => self.kept = kept,
                Err(error) => {
                    let what = "what is stepped back from can't be kept over a restart";
                    tracing::error!(%error, what);
                }
            }
        }
        for (split, why) in changed.into_iter().filter(|(split, why)| split.why() != *why) {
            split.set(why);
        }
    }

    /// What came of the last attempt to renew this node's certificate.
    pub fn renewal_failed(&mut self, why: Option<String>) {
        self.renewal = why;
    }

    fn own(&self) -> Option<&str> {
        self.keeper.identity().map(|it| it.node.as_str())
    }

    /// Tries again what could not be bound.
    pub fn bind_missing(&mut self) {
        if let Some(port) = self.live.table.openmetrics_port.filter(|port| !self.is_scraped(*port))
            && let Ok(listener) = listen_for_scrapers(port)
        {
            self.scraped.send_replace(Some((port, Arc::new(listener))));
        }
        let live = self.live.clone();
        let wanted = live.table.listeners.iter().flat_map(|it| places(it).map(move |at| (it, at)));
        for (listener, at) in wanted {
            if !self.is_draining
                && !self.is_handing_over
                && !self.is_bound(at)
                && let Ok(Some(sockets)) = self.acquire(listener, at)
            {
                self.listen(at, sockets);
            }
        }
    }

    /// Accepts no more, and ends what is there as it can be ended.
    pub fn drain(&mut self) {
        self.is_draining = true;
        self.bound.clear();
        self.checks = Checks::new();
        // Dropped by the last worker that has passed its sessions on.
        let heir = self.heir.as_ref().map(|heir| (heir.clone(), heir.release()));
        self.tell(|| Command::Drain(heir.clone()));
    }

    /// Sockets for another mesh, that is about to take over. No table is taken from now
    /// on, until it has or [`Owner::keep_on`].
    pub fn hand_over(&mut self) -> io::Result<Vec<Sockets>> {
        if self.is_handing_over || self.is_draining {
            return Err(io::Error::other("another mesh is taking over already"));
        }
        let bound = self.bound.iter().map(|(at, sockets)| Ok((*at, clones(sockets)?)));
        let bound = bound.collect::<io::Result<_>>()?;
        self.is_handing_over = true;
        Ok(bound)
    }

    /// It did not take over.
    pub fn keep_on(&mut self) {
        self.is_handing_over = false;
    }

    /// It has taken over: what can be passed on goes there once this one drains.
    pub fn succeeded_by(&mut self, heir: Heir) {
        self.heir = Some(heir);
    }

    /// Whether another mesh has taken over.
    pub fn has_heir(&self) -> bool {
        self.heir.is_some()
    }

    /// Whether nothing is left to end or to pass on.
    pub fn is_drained(&self) -> bool {
        self.open() == 0 && self.heir.as_ref().is_none_or(Heir::has_all)
    }

    /// What gives the workers what another mesh had: connections in turn, and a session to
    /// the one that has its socket. Datagrams are read once it is told so, or gone.
    pub fn adopter(&self) -> impl FnMut(Passed) + Send + 'static {
        let workers: Vec<_> = self.workers.iter().map(|it| it.commands.clone()).collect();
        let mut turn = 0;
        move |passed| {
            let (which, command) = match passed {
                Passed::Connection(connection) => {
                    turn += 1;
                    (turn, Command::Adopt(connection))
                }
                Passed::Session(session) => (session.index, Command::AdoptSession(session)),
                Passed::Released => {
                    return workers.iter().for_each(|it| _ = it.send(Command::Released));
                }
            };
            // A worker that is gone has said why.
            _ = workers[which % workers.len()].send(command);
        }
    }

    fn is_scraped(&self, port: u16) -> bool {
        self.scraped.borrow().as_ref().is_some_and(|it| it.0 == port)
    }

    fn is_bound(&self, at: At) -> bool {
        self.bound.iter().any(|(it, _)| *it == at)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.counts().open
    }

    /// The table in force.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Every endpoint, as it is now.
    pub fn endpoints(&self) -> view::Endpoints {
        show::endpoints(&self.live, self.now_ms())
    }

    /// Every node of the rack, as it is known here.
    pub fn peers(&self) -> view::Peers {
        self.live.members.view(&self.live, self.own())
    }

    /// What is measured, as it is now.
    pub fn told(&self) -> Told {
        told::told(&self.live, &self.counts(), self.now_ms())
    }

    /// Which route and endpoint a request would take now.
    pub fn why(&self, asked: &view::WhyAsked) -> Result<view::Why, String> {
        let own = self.keeper.identity().map(|it| it.id.as_str());
        show::why(&self.live, asked, own, self.now_ms(), self.keeper.clock().now())
    }

    /// The workers' clock.
    fn now_ms(&self) -> u32 {
        self.started.elapsed().as_millis() as u32
    }

    /// The sockets of a listener, if it hasn't them yet.
    fn acquire(&mut self, listener: &Listener, at: At) -> io::Result<Option<Vec<OwnedFd>>> {
        let fresh = if self.is_bound(at) { None } else { Some(self.bind(at)?) };
        if listener.intercept.as_ref().is_some_and(|it| it.mode == Mode::Tproxy) {
            let bound = self.bound.iter().find(|(it, _)| *it == at).map(|(_, sockets)| sockets);
            for socket in fresh.as_ref().or(bound).into_iter().flatten() {
                setsockopt(socket, sockopt::IpTransparent, &true)?;
            }
        }
        Ok(fresh)
    }

    /// A socket for each worker; the kernel spreads the connections over them. Those that
    /// the mesh before this one had are all used: connections wait in each.
    fn bind(&mut self, at: At) -> io::Result<Vec<OwnedFd>> {
        let mut sockets = self.handed.remove(&at).unwrap_or_default();
        while sockets.len() < self.workers.len() {
            sockets.push(match at {
                (Transport::Stream, address) => bind(address, BACKLOG)?.into(),
                (Transport::Datagram, address) => udp::socket::bind(address)?.into(),
            });
        }
        Ok(sockets)
    }

    fn listen(&mut self, at: At, sockets: Vec<OwnedFd>) {
        let kept = clones(&sockets).unwrap_or_else(|error| {
            tracing::error!(%error, address = %at.1, "the next mesh can't be handed this listener");
            Vec::new()
        });
        for ((index, socket), worker) in
            sockets.into_iter().enumerate().zip(self.workers.iter().cycle())
        {
            // A worker that is gone has said why.
            _ = worker.commands.send(Command::Listen(at.0, at.1, index, socket));
        }
        self.bound.push((at, kept));
    }

    fn tell(&self, command: impl Fn() -> Command) {
        self.workers.iter().for_each(|worker| _ = worker.commands.send(command()));
    }

    /// Everything at a glance.
    pub fn status(&self) -> view::Status {
        let listeners = self.live.table.listeners.iter().map(|it| view::Listener {
            name: it.name.clone(),
            address: it.address.to_string(),
            protocol: it.protocol.name().into(),
            zone: it.zone.clone(),
            listening: places(it).all(|at| self.is_bound(at)),
        });
        let listeners: Vec<_> = listeners.collect();
        let unbound = listeners.iter().filter(|it| !it.listening && !self.is_draining);
        let unbound = unbound.map(|it| {
            format!(
                "listener {} can't have {}: something else does, or it is not this node's",
                it.name, it.address
            )
        });
        view::Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            generation: self.table.generation,
            incarnation: self.table.incarnation,
            workers: self.workers.len(),
            draining: self.is_draining,
            problems: (self.problems.iter().cloned())
                .chain(unbound)
                .chain(self.unscraped())
                .chain(self.nobody())
                .chain(self.keeper.problems())
                .chain(
                    self.renewal
                        .iter()
                        .map(|why| format!("the certificate can't be renewed: {why}")),
                )
                .chain(self.strangers())
                .chain(self.panics())
                .chain(self.stepped_back())
                .collect(),
            lapsed: self.keeper.lapsed(),
            brokers: self.table.brokers.clone(),
            workloads: self.containers.count(),
            relays: self.live.relays.count(),
            identity: self.keeper.identity().map(|it| view::Identity {
                id: it.id.clone(),
                expires_unix_s: it.window.until,
                renew_unix_s: it.window.renew_at(),
                issuer: it.issuer.is_some(),
                revocations: it.verifier.revocations().number,
            }),
            listeners,
            counts: self.counts(),
        }
    }

    fn unscraped(&self) -> Option<String> {
        let port = self.live.table.openmetrics_port.filter(|port| !self.is_scraped(*port))?;
        (!self.is_draining).then(|| {
            format!("127.0.0.1:{port} can't be had for OpenMetrics: `ss -ltnp` names who has it")
        })
    }

    /// A table that speaks of a rack on a node that is in none.
    fn nobody(&self) -> Option<String> {
        let is_nobody = self.keeper.identity().is_none() && !self.live.table.peers.is_empty();
        is_nobody.then(|| {
            let dir = self.dir.join(identity::DIR);
            format!(
                "this node has no certificate of its rack in {}: `purlin mesh ca --help`",
                dir.display()
            )
        })
    }

    /// Rules that name workloads, where the kernel doesn't tell who is who.
    fn strangers(&self) -> Option<String> {
        let why = self.finder.told()?;
        let is_asked = self.live.targets.iter().any(|it| it.tells_workloads);
        is_asked.then(|| format!("rules name workloads, and not all of them are known: {why}"))
    }

    /// Services whose every endpoint looks ill, so that all are tried.
    fn panics(&self) -> impl Iterator<Item = String> {
        let now_ms = self.now_ms();
        let ill = self.live.targets.iter().filter(move |it| it.is_panicking(now_ms));
        ill.map(|it| {
            let count = it.endpoints.len();
            format!(
                "service {}: none of its {count} endpoints is well, so all are tried",
                it.service.name
            )
        })
    }

    fn stepped_back(&self) -> impl Iterator<Item = String> {
        self.live.splits().filter_map(|it| {
            Some(format!(
                "route {} is stepped back from {}: {}; `purlin mesh step-back --undo {}`, or a document with another one",
                it.route, it.backend, it.why()?, it.route
            ))
        })
    }

    fn counts(&self) -> view::Counts {
        let mut sum = view::Counts::default();
        let mut unparked = 0;
        for counters in self.workers.iter().map(|worker| &worker.counters) {
            // In this order, so that neither difference falls below zero.
            unparked += counters.unparked.load(Relaxed);
            sum.parked += counters.parked.load(Relaxed);
            let ended = counters.ended.load(Relaxed);
            let connections = counters.connections.load(Relaxed);
            sum.connections += connections;
            sum.open += connections - ended;
            sum.requests += counters.requests.load(Relaxed);
            sum.slow += counters.slow.load(Relaxed);
            sum.unmatched += counters.unmatched.load(Relaxed);
            sum.broken += counters.broken.load(Relaxed);
            sum.limited += counters.limited.load(Relaxed);
            sum.denied += counters.denied.load(Relaxed);
            sum.relayed += counters.relayed.load(Relaxed);
            sum.retries += counters.retries.load(Relaxed);
            sum.displaced += counters.displaced.load(Relaxed);
            let datagrams = [&counters.datagrams_in, &counters.datagrams_out];
            for (sum, counter) in sum.datagrams.iter_mut().zip(datagrams) {
                *sum += counter.load(Relaxed);
            }
            for (why, counter) in Lost::ALL.into_iter().zip(&counters.lost) {
                *sum.datagrams_lost.entry(why.name().into()).or_default() += counter.load(Relaxed);
            }
            for (how, counter) in Known::ALL.into_iter().zip(&counters.known) {
                *sum.workloads.entry(how.name().into()).or_default() += counter.load(Relaxed);
            }
            for (outcome, counter) in Outcome::ALL.into_iter().zip(&counters.names) {
                *sum.names.entry(outcome.name().into()).or_default() += counter.load(Relaxed);
            }
            for (sum, counter) in sum.answers.iter_mut().zip(&counters.answers) {
                *sum += counter.load(Relaxed);
            }
            for (refusal, counter) in TunnelRefusal::ALL.into_iter().zip(&counters.refusals) {
                *sum.tunnels_refused.entry(refusal.name().into()).or_default() +=
                    counter.load(Relaxed);
            }
            for (why, counter) in jwt::Refused::ALL.into_iter().zip(&counters.tokens) {
                *sum.tokens_refused.entry(why.name().into()).or_default() += counter.load(Relaxed);
            }
            for (violation, counter) in Violation::ALL.into_iter().zip(&counters.violations) {
                *sum.violations.entry(violation.name().into()).or_default() +=
                    counter.load(Relaxed);
            }
        }
        sum.parked -= unparked.min(sum.parked);
        sum.gossip_refused = self.live.members.refusals();
        sum.records_refused = self.live.records.refusals();
        sum
    }
}

fn clones(sockets: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
    sockets.iter().map(OwnedFd::try_clone).collect()
}

/// Where a listener is.
fn places(listener: &Listener) -> impl Iterator<Item = At> {
    listener.protocol.transports().iter().map(|transport| (*transport, listener.address))
}

fn bind(address: SocketAddr, backlog: u32) -> io::Result<StdListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(backlog)?.into_std()
}

/// A socket that the next mesh may have beside this one.
fn listen_for_scrapers(port: u16) -> io::Result<StdListener> {
    bind(SocketAddr::from(([127, 0, 0, 1], port)), scrape::BACKLOG)
}

fn checked(table: &v1::MeshTable) -> Result<Table, Vec<Refusal>> {
    let mesh = table.mesh.clone().unwrap_or_default();
    let checked = wire::table(table.generation, &mesh)?;
    Ok(Table { brokers: table.brokers.clone(), ..checked })
}

fn not_bound(path: String, (transport, address): At, error: &io::Error) -> Refusal {
    let letter = if transport == Transport::Stream { 't' } else { 'u' };
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another program listens there: `ss -l{letter}np` names it")
        }
        io::ErrorKind::AddrNotAvailable => {
            "this node has no such address: `ip addr` lists them".into()
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE, which the mesh's unit has, and tproxy CAP_NET_RAW, which it has not: docs/decisions/065".into()
        }
        _ => error.to_string(),
    };
    Refusal {
        path,
        value: address.to_string(),
        limit: "an address that can be listened at".into(),
        hint,
    }
}
