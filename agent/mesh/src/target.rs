//! A service in force: which of its endpoints a request goes to, and whether it may begin.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use purlin_core::mesh::{
    authorize,
    hashed::{self, Places},
    locality::{self, Load, Network, Tier},
    model::{Endpoint as EndpointModel, Policy, Service},
    outlier::Record,
    pick::{Candidates, pick},
    rate,
    spill::{self, Use},
};

use crate::{endpoint::Endpoint, signals::Class};

/// A service in force.
#[derive(Debug)]
pub struct Target {
    /// As the table has it.
    pub service: Service,
    /// Whether its rules tell a node's workloads apart.
    pub tells_workloads: bool,
    /// Its endpoints, in the table's order.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// How far each of them is; empty if all are as far.
    tiers: Vec<Tier>,
    turn: AtomicU64,
    places: Option<Places>,
    /// What is known of the service on the whole node.
    shared: Arc<Shared>,
}

/// What outlives a table, as long as the next one has the service too.
#[derive(Debug)]
struct Shared {
    active: AtomicU32,
    budget: AtomicU32,
    /// Whether its circuit breaker was opened by hand.
    is_broken: AtomicBool,
    /// Whether its requests go elsewhere.
    is_full: AtomicBool,
}

/// How far each endpoint is; nothing if that makes no difference.
fn tiers(service: &Service, rack: &[Network], own: Option<&str>) -> Vec<Tier> {
    // An address is this node's own if a socket can have it, which asks no privilege.
    let is_own = |it: &EndpointModel| match &it.node {
        Some(node) => own == Some(node),
        None => UdpSocket::bind((it.address.ip(), 0)).is_ok(),
    };
    let endpoints = service.endpoints.iter();
    let tiers: Vec<_> = endpoints.map(|it| locality::tier(it, rack, is_own)).collect();
    let has_numa = service.endpoints.iter().any(|it| it.numa_node.is_some());
    let is_one = tiers.windows(2).all(|pair| pair[0] == pair[1]);
    if is_one && !has_numa { Vec::new() } else { tiers }
}

fn places(service: &Service) -> Option<Places> {
    // By address, so that every node makes the same table of the same document.
    let known = |it: &EndpointModel| (hashed::hash(it.key().as_bytes()), it.weight);
    let known: Vec<_> = service.endpoints.iter().map(known).collect();
    match service.policy {
        Policy::Maglev => Some(Places::maglev(&known)),
        Policy::RingHash => Some(Places::ring(&known)),
        _ => None,
    }
}

/// The node through which an endpoint is reached from this one.
pub fn via(endpoint: &EndpointModel, own: Option<&str>) -> Option<String> {
    endpoint.node.clone().filter(|node| own != Some(node))
}

impl Target {
    /// A service, and who its endpoints are.
    pub fn new(
        service: &Service,
        rack: &[Network],
        own: Option<&str>,
        endpoint: impl FnMut(&EndpointModel) -> Arc<Endpoint>,
        before: Option<&Target>,
    ) -> Self {
        Self {
            endpoints: service.endpoints.iter().map(endpoint).collect(),
            tells_workloads: authorize::names_workloads(&service.allow),
            tiers: tiers(service, rack, own),
            places: places(service),
            shared: before.map_or_else(|| Arc::new(Shared::new()), |it| it.shared.clone()),
            service: service.clone(),
            turn: AtomicU64::default(),
        }
    }

    /// The same service with those of its endpoints alone that are on this node; `None` if
    /// there are none.
    pub fn here(&self, own: Option<&str>) -> Option<Self> {
        let is_here = |it: &EndpointModel| it.node.is_some() && via(it, own).is_none();
        let both = self.service.endpoints.iter().zip(&self.endpoints);
        let here: Vec<_> = both.filter(|(it, _)| is_here(it)).collect();
        let endpoints = here.iter().map(|(it, _)| (*it).clone()).collect();
        let service = Service { endpoints, ..self.service.clone() };
        let mut known = here.iter().map(|(_, endpoint)| Arc::clone(endpoint));
        let is_some = !here.is_empty();
        // In the same order.
        is_some
            .then(|| Self::new(&service, &[], own, |_| known.next().expect("one each"), Some(self)))
    }

    /// How far an endpoint is, as a worker on a NUMA node sees it.
    pub fn tier(&self, index: usize, numa: Option<u32>) -> Tier {
        let tier = self.tiers.get(index).copied().unwrap_or_default();
        let node = self.service.endpoints[index].numa_node;
        if tier == Tier::Node && node.is_some() && node == numa { Tier::Numa } else { tier }
    }

    /// Whether no endpoint is well, though there are some: then all are tried.
    pub fn is_panicking(&self, now_ms: u32) -> bool {
        !self.endpoints.is_empty() && self.endpoints.iter().all(|it| it.is_out(now_ms))
    }

    /// The endpoint that a cookie's token names.
    pub fn named(&self, token: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|it| self.token(it) == token)
    }

    /// What a cookie calls an endpoint: the same on every node, and no address.
    pub fn token(&self, endpoint: &Endpoint) -> String {
        let known = self.endpoints.iter().position(|it| it.id == endpoint.id);
        let key = known.map(|index| self.service.endpoints[index].key()).unwrap_or_default();
        let name = format!("{} {key}", self.service.name);
        format!("{:016x}", hashed::mix(hashed::hash(name.as_bytes())))
    }

    /// Chooses an endpoint that was not tried before, by a key's hash where the service
    /// wants that. One that is left out is better than none: all may be, or a table may
    /// have taken all the others away.
    pub fn pick(&self, by: &By<'_>) -> Option<&Arc<Endpoint>> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let chosen = |with_left_out| {
            let mut view = View { target: self, by, with_left_out, tier: None };
            match (&self.places, by.hash) {
                (Some(places), Some(hash)) => places.pick(hash, &view),
                _ => {
                    if !self.tiers.is_empty() {
                        let most = self.service.spill_over;
                        view.tier = Some(locality::choose(&view.loads(), most, by.random)?);
                    }
                    pick(self.service.policy, &view, by.random, turn)
                }
            }
        };
        chosen(false).or_else(|| chosen(true)).map(|index| &self.endpoints[index])
    }

    /// Whether the rack is full, so that this request goes where the service spills to.
    pub fn goes_elsewhere(&self, by: &By<'_>) -> bool {
        let Some(spill) = &self.service.spill else { return false };
        let view = View { target: self, by, with_left_out: false, tier: None };
        let uses = [
            Use::of(&view.loads(), self.service.spill_over),
            Use {
                active: self.shared.active.load(Relaxed).into(),
                limit: self.service.max_requests.into(),
            },
        ];
        let was = self.shared.is_full.load(Relaxed);
        let is = spill::goes_elsewhere(spill, was, &uses);
        if is != was && self.shared.is_full.swap(is, Relaxed) == was {
            let (service, to) = (&self.service.name, &spill.service);
            match is {
                true => tracing::warn!(service, to, "the rack is full: requests go elsewhere"),
                false => tracing::warn!(service, "the rack has room again"),
            }
        }
        is
    }

    /// Whether the last request that was looked at went elsewhere.
    pub fn is_full(&self) -> bool {
        self.service.spill.is_some() && self.shared.is_full.load(Relaxed)
    }

    /// Begins a request or connection, unless the service's circuit breaker is open.
    pub fn begin(&self) -> Option<Begun> {
        let before = self.shared.active.fetch_add(1, Relaxed);
        let begun = Begun(self.shared.clone());
        // Dropped, it takes itself off again.
        let may = before < self.service.max_requests && !self.is_broken();
        may.then(|| {
            _ = self.shared.budget.fetch_update(Relaxed, Relaxed, |it| Some(rate::deposit(it)));
            begun
        })
    }

    /// Opens its circuit breaker by hand, or closes it.
    pub fn set_broken(&self, is_broken: bool) {
        self.shared.is_broken.store(is_broken, Relaxed);
    }

    /// Whether it was opened by hand.
    pub fn is_broken(&self) -> bool {
        self.shared.is_broken.load(Relaxed)
    }

    /// Whether the budget has a retry left; it is taken then.
    pub fn may_retry(&self) -> bool {
        self.shared.budget.fetch_update(Relaxed, Relaxed, rate::withdraw).is_ok()
    }

    /// No answer came of a request, or no connection.
    pub fn failed(&self, endpoint: &Endpoint, now_ms: u32) {
        endpoint.signals.is_over(Class::Failed);
        self.ended(endpoint, false, now_ms);
    }

    /// Takes note of what came of a request or connection.
    pub fn ended(&self, endpoint: &Endpoint, is_well: bool, now_ms: u32) {
        let before = endpoint.record();
        let after = if is_well {
            if before == Record::default() {
                return;
            }
            before.succeeded(now_ms)
        } else {
            endpoint.failures.fetch_add(1, Relaxed);
            let others = self.endpoints.iter().filter(|it| it.id != endpoint.id);
            let out = others.filter(|it| it.is_out(now_ms)).count();
            before.failed(&self.service.ejection, now_ms, out, self.endpoints.len())
        };
        if after.is_out && !before.is_out(now_ms) && after.is_out(now_ms) {
            tracing::warn!(service = self.service.name, endpoint = %endpoint.address, "an endpoint is left out for a while");
        }
        endpoint.note(after);
    }
}

impl Shared {
    fn new() -> Self {
        let budget = AtomicU32::new(rate::BUDGET_BURST);
        let (is_broken, is_full) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { active: AtomicU32::default(), budget, is_broken, is_full }
    }
}

/// A request or connection of a service; over when it is dropped.
#[derive(Debug)]
pub struct Begun(Arc<Shared>);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// What an endpoint is chosen by.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    /// Those that were tried already.
    pub tried: &'a [u64],
    /// Of the key, where the request has one.
    pub hash: Option<u64>,
    /// 64 random bits.
    pub random: u64,
    /// The workers' clock.
    pub now_ms: u32,
    /// The NUMA node that the worker runs on, where there are more than one.
    pub numa: Option<u32>,
}

struct View<'a> {
    target: &'a Target,
    by: &'a By<'a>,
    with_left_out: bool,
    /// Only those of this tier.
    tier: Option<Tier>,
}

impl View<'_> {
    fn loads(&self) -> [Load; 4] {
        let mut loads = [Load::default(); 4];
        for index in 0..self.count() {
            let load = &mut loads[self.target.tier(index, self.by.numa) as usize];
            load.weight += u64::from(self.target.service.endpoints[index].weight);
            let usable = self.weight(index);
            if usable > 0 {
                load.usable += u64::from(usable);
                load.active += u64::from(self.active(index));
            }
        }
        loads
    }
}

impl Candidates for View<'_> {
    fn count(&self) -> usize {
        self.target.endpoints.len()
    }

    fn weight(&self, index: usize) -> u32 {
        let endpoint = &self.target.endpoints[index];
        let is_left_out = !self.with_left_out && endpoint.is_out(self.by.now_ms);
        let is_elsewhere = self.tier.is_some_and(|it| it != self.target.tier(index, self.by.numa));
        if is_left_out || is_elsewhere || self.by.tried.contains(&endpoint.id) {
            0
        } else {
            self.target.service.endpoints[index].weight
        }
    }

    fn active(&self, index: usize) -> u32 {
        self.target.endpoints[index].active.load(Relaxed)
    }

    fn latency(&self, index: usize) -> f32 {
        self.target.endpoints[index].latency(self.by.now_ms)
    }
}
