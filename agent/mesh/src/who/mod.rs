//! Which workload of this node a local connection is from.
//!
//! Whether its client is in this network namespace, and of which cgroup, is the kernel's to
//! say; what that cgroup is, the agent's ([`containers`]) or systemd's by its path ([`finder`]).
//! Who has a network of its own is known by the address that the container runtime gave it,
//! which the agent tells too. Nobody is asked before it makes a difference: that is, before
//! a way through a tunnel is opened, or a rule of a service tells workloads apart.
//!
//! What a client says of itself never counts, and neither does a PROXY protocol header: who
//! passes on is who asks.

use std::{cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc, sync::Arc};

use purlin_core::mesh::{
    authorize::Principal, intercept::Intercept, spiffe::Id, workload::Workload,
};
use purlin_drivers::tcp::{Connections, Whose};

use self::{containers::Containers, finder::Finder};
use crate::{
    accept::Client,
    counters::{Counters, Known},
    endpoint::Endpoint,
    intercept,
    target::Target,
    worker::Worker,
};

pub mod containers;
pub mod finder;

/// Cgroups whose paths a worker remembers: many times what a node has.
const MAX_PATHS: usize = 16_384;

/// A client's address, and where it was going, as the client has both.
type Ends = (SocketAddr, SocketAddr);

/// What one worker knows of it.
#[derive(Debug)]
pub struct Who {
    finder: Finder,
    kernel: RefCell<Option<Connections>>,
    containers: RefCell<Arc<Containers>>,
    /// An id is never used again, so that a path stays true.
    paths: RefCell<HashMap<u64, Option<Arc<str>>>>,
}

impl Who {
    /// Nobody is known.
    pub fn new(finder: Finder) -> Self {
        Self {
            finder,
            kernel: RefCell::default(),
            containers: RefCell::default(),
            paths: RefCell::default(),
        }
    }

    /// These are the node's containers from now on.
    pub fn follow(&self, containers: Arc<Containers>) {
        self.containers.replace(containers);
    }

    async fn of(&self, (client, server): Ends, counters: &Counters) -> Option<Workload> {
        let found = match self.whose(client, server) {
            Whose::Cgroup(id) => {
                let path = self.path(id).await;
                let found = path.and_then(|path| {
                    let told = self.containers.borrow().at_cgroup(&path).cloned();
                    told.or_else(|| Workload::of_cgroup(&path))
                });
                found.map(|it| (Known::Cgroup, it))
            }
            Whose::Unsaid => {
                let why = "the kernel does not say of which cgroup a connection is: Linux 5.9 does";
                self.finder.trouble(why.into());
                None
            }
            Whose::Elsewhere => {
                let found =
                    self.containers.borrow().at_address(client.ip().to_canonical()).cloned();
                found.map(|it| (Known::Address, it))
            }
        };
        counters.known(found.as_ref().map_or(Known::Nobody, |(how, _)| *how));
        found.map(|(_, workload)| workload)
    }

    fn whose(&self, client: SocketAddr, server: SocketAddr) -> Whose {
        let mut kernel = self.kernel.borrow_mut();
        let asked = match &mut *kernel {
            Some(kernel) => kernel.whose(client, server),
            none => {
                let asked =
                    Connections::open().and_then(|it| none.insert(it).whose(client, server));
                // Whatever it was is over.
                if asked.is_ok() {
                    self.finder.well();
                }
                asked
            }
        };
        asked.unwrap_or_else(|error| {
            *kernel = None;
            self.finder
                .trouble(format!("the kernel can't be asked whose a connection is: {error}"));
            Whose::Elsewhere
        })
    }

    async fn path(&self, id: u64) -> Option<Arc<str>> {
        if let Some(known) = self.paths.borrow().get(&id) {
            return known.clone();
        }
        match self.finder.path(id).await {
            Ok(path) => {
                let mut paths = self.paths.borrow_mut();
                if paths.len() >= MAX_PATHS {
                    paths.clear();
                }
                paths.insert(id, path.clone());
                path
            }
            Err(why) => {
                tracing::warn!(why, "a connection's cgroup was not found");
                None
            }
        }
    }
}

/// A client, and which workload it is, once somebody has asked.
#[derive(Debug)]
pub struct Asker {
    ends: Option<Ends>,
    /// When somebody has asked, in ticks, and what came of it.
    known: RefCell<Option<(u32, Option<Rc<Workload>>)>>,
}

impl Asker {
    /// One of whom nothing is asked yet.
    pub fn new(worker: &Worker, client: &Client) -> Self {
        Self { ends: ends(worker, client), known: RefCell::default() }
    }

    /// Which workload of this node it is.
    pub async fn workload(&self, worker: &Worker) -> Option<Rc<Workload>> {
        let ends = self.ends?;
        let now = worker.tick.get();
        if let Some((at, known)) = &*self.known.borrow()
            // Who is not known may be within a second: its agent is about to tell.
            && (known.is_some() || *at == now)
        {
            return known.clone();
        }
        let found = worker.who.of(ends, &worker.counters).await.map(Rc::new);
        self.known.replace(Some((now, found.clone())));
        found
    }

    /// The workload that a way to an endpoint is to be opened for; nobody but another node
    /// wants to know.
    pub async fn speaks_for(&self, worker: &Worker, to: &Endpoint) -> Option<Rc<Workload>> {
        if to.via.is_some() { self.workload(worker).await } else { None }
    }

    /// The same as far as somebody has asked.
    pub fn known(&self) -> Option<Rc<Workload>> {
        self.known.borrow().as_ref()?.1.clone()
    }

    /// Who asks for a service, where its rules are to be asked because they tell workloads
    /// apart. Who comes in through a tunnel or from a zone is asked elsewhere.
    pub async fn asks(
        &self,
        worker: &Worker,
        at: SocketAddr,
        target: &Target,
    ) -> Result<Option<Principal>, &'static str> {
        let is_egress = || worker.live().listener(at).is_some_and(|it| it.zone.is_none());
        if !target.tells_workloads || !is_egress() {
            return Ok(None);
        }
        let own = worker.identity().and_then(|it| Id::parse(&it.id));
        let own = own.ok_or("the service's rules name workloads, and this node is in no rack\n")?;
        let workload = self.workload(worker).await;
        Ok(Some(Principal::new(&own, workload.as_deref())))
    }
}

/// Nobody is let in by this name; why, in a sentence for him.
pub fn denied(worker: &Worker, who: &Principal) -> &'static str {
    Counters::one(&worker.counters.denied);
    tracing::info!(%who, "no rule allows it");
    match who.has_workload() {
        true => "no rule of the service allows it\n",
        false => "no rule of the service allows it, and which workload asks is not known\n",
    }
}

/// Both ends of a connection, as its client has them; `None` for one from a zone or through
/// a tunnel.
fn ends(worker: &Worker, client: &Client) -> Option<Ends> {
    let live = worker.live();
    let listener = live.listener(client.at).filter(|it| it.zone.is_none())?;
    let socket = client.stream.socket()?;
    let taken = listener.intercept.as_ref().map(Intercept::how);
    let to = match taken {
        Some((mode, _)) => intercept::destination(client, mode)?,
        // The kernel is asked for what isn't known: each connection comes by here.
        None if client.at.ip().is_unspecified() => socket.local_addr().ok()?,
        None => client.at,
    };
    let from = if listener.proxy_protocol { socket.peer_addr().ok()? } else { client.peer };
    Some((from, to))
}
