//! A table in force: what each listener serves, and what is known of each endpoint.
//! What is known of an endpoint outlives the table, as long as the next one has it too.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use purlin_core::mesh::{
    choose::{Asked, Choice, Miss, Place},
    ewma::Ewma,
    hashed::{self, Places},
    model::{Listener, Policy, Rule, Service},
    outlier::Record,
    pick::{Candidates, pick},
    rate::{self, Bucket},
    table::Table,
};

/// A table in force.
#[derive(Debug, Default)]
pub struct Live {
    /// The table.
    pub table: Table,
    choices: Vec<Choice>,
    /// The services, in the table's order.
    pub targets: Vec<Arc<Target>>,
    by_address: HashMap<SocketAddr, usize>,
    /// Token buckets, by route and rule.
    buckets: Vec<Vec<AtomicU64>>,
}

/// A service in force.
#[derive(Debug)]
pub struct Target {
    /// As the table has it.
    pub service: Service,
    /// Its endpoints, in the table's order.
    pub endpoints: Vec<Arc<Endpoint>>,
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
}

/// What the whole node knows of one endpoint. Threads share it.
#[derive(Debug)]
pub struct Endpoint {
    /// Unique in this process.
    pub id: u64,
    /// Where it is.
    pub address: SocketAddr,
    /// Requests and connections under way.
    pub active: AtomicU32,
    /// How slow it was, as [`Ewma::to_bits`].
    ewma: AtomicU64,
    /// Requests and connections in all.
    pub requests: AtomicU64,
    /// Those that failed for its sake.
    pub failures: AtomicU64,
    /// Its failures in a row, and whether it is left out, as [`Record::to_bits`].
    record: AtomicU64,
}

impl Live {
    /// Puts a checked table in force after another one.
    pub fn new(table: Table, before: &Live) -> Self {
        let known: HashMap<(&str, SocketAddr), &Arc<Endpoint>> = (before.targets.iter())
            .flat_map(|it| it.endpoints.iter().map(|e| ((it.service.name.as_str(), e.address), e)))
            .collect();
        let services: HashMap<&str, &Arc<Target>> =
            before.targets.iter().map(|it| (it.service.name.as_str(), it)).collect();
        let targets = table.services.iter().map(|service| {
            let shared = services.get(service.name.as_str()).map(|it| it.shared.clone());
            let endpoints = service.endpoints.iter().map(|it| {
                let known = known.get(&(service.name.as_str(), it.address)).copied();
                known.cloned().unwrap_or_else(|| Arc::new(Endpoint::new(it.address)))
            });
            Arc::new(Target {
                endpoints: endpoints.collect(),
                places: places(service),
                shared: shared.unwrap_or_else(|| Arc::new(Shared::new())),
                service: service.clone(),
                turn: AtomicU64::default(),
            })
        });
        Self {
            choices: (0..table.listeners.len()).map(|index| Choice::of(&table, index)).collect(),
            targets: targets.collect(),
            buckets: (table.routes.iter())
                .map(|route| route.rules.iter().map(bucket).collect())
                .collect(),
            by_address: (table.listeners.iter().enumerate())
                .map(|(index, it)| (it.address, index))
                .collect(),
            table,
        }
    }

    /// The listener at an address.
    pub fn listener(&self, address: SocketAddr) -> Option<&Listener> {
        self.by_address.get(&address).map(|&index| &self.table.listeners[index])
    }

    /// The first match of a request at an address.
    pub fn choose(&self, address: SocketAddr, asked: &Asked<'_>) -> Option<Place> {
        let index = *self.by_address.get(&address)?;
        self.choices[index].choose(&self.table, asked)
    }

    /// The same, with why each one before it was passed over.
    pub fn explain(
        &self,
        at: SocketAddr,
        asked: &Asked<'_>,
    ) -> (Vec<(Place, Miss)>, Option<Place>) {
        let index = self.by_address.get(&at);
        index.map_or_else(Default::default, |&i| self.choices[i].explain(&self.table, asked))
    }

    /// Where a connection at an address goes that tells no more than a server name.
    pub fn by_name(&self, address: SocketAddr, name: Option<&str>) -> Option<Place> {
        let index = *self.by_address.get(&address)?;
        self.choices[index].by_name(name)
    }

    /// Whether a rule's rate limit has room for one more.
    pub fn is_within_rate(&self, place: Place, now_ms: u32) -> bool {
        let Some((rate, burst)) = self.table.rule(place).rate_limit else { return true };
        let bucket = &self.buckets[place.route][place.rule];
        let mut is_within = false;
        let take = |bits| {
            let taken = Bucket::from_bits(bits).take(rate, burst, now_ms);
            is_within = taken.is_ok();
            Some(taken.unwrap_or_else(|kept| kept).to_bits())
        };
        _ = bucket.fetch_update(Relaxed, Relaxed, take);
        is_within
    }

    /// One of a rule's backends, by weight; `None` if all have none.
    pub fn backend(&self, rule: &Rule, random: u64) -> Option<&Arc<Target>> {
        let backends = &rule.backends;
        let total: u64 = backends.iter().map(|it| u64::from(it.weight)).sum();
        let mut left = purlin_core::mesh::pick::spread(random, total);
        let chosen = backends.iter().find(|it| {
            let is_in = left < u64::from(it.weight);
            left = left.saturating_sub(it.weight.into());
            is_in
        })?;
        self.targets.get(chosen.index)
    }
}

fn places(service: &Service) -> Option<Places> {
    // By address, so that every node makes the same table of the same document.
    let known = |it: &purlin_core::mesh::model::Endpoint| {
        (hashed::hash(it.address.to_string().as_bytes()), it.weight)
    };
    let known: Vec<_> = service.endpoints.iter().map(known).collect();
    match service.policy {
        Policy::Maglev => Some(Places::maglev(&known)),
        Policy::RingHash => Some(Places::ring(&known)),
        _ => None,
    }
}

fn bucket(rule: &Rule) -> AtomicU64 {
    AtomicU64::new(rule.rate_limit.map_or(0, |(_, burst)| Bucket::full(burst, 0).to_bits()))
}

impl Target {
    /// Chooses an endpoint that was not tried before, by a key's hash where the service
    /// wants that. One that is left out is better than none: a table may have taken all
    /// the others away.
    pub fn pick(
        &self,
        tried: &[u64],
        hash: Option<u64>,
        random: u64,
        now_ms: u32,
    ) -> Option<&Arc<Endpoint>> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let chosen = |with_left_out| {
            let view = View { target: self, tried, now_ms, with_left_out };
            match (&self.places, hash) {
                (Some(places), Some(hash)) => places.pick(hash, &view),
                _ => pick(self.service.policy, &view, random, turn),
            }
        };
        chosen(false).or_else(|| chosen(true)).map(|index| &self.endpoints[index])
    }

    /// Begins a request or connection, unless the service's circuit breaker is open.
    pub fn begin(&self) -> Option<Begun> {
        let before = self.shared.active.fetch_add(1, Relaxed);
        let begun = Begun(self.shared.clone());
        // Dropped, it takes itself off again.
        (before < self.service.max_requests).then(|| {
            _ = self.shared.budget.fetch_update(Relaxed, Relaxed, |it| Some(rate::deposit(it)));
            begun
        })
    }

    /// Whether the budget has a retry left; it is taken then.
    pub fn may_retry(&self) -> bool {
        self.shared.budget.fetch_update(Relaxed, Relaxed, rate::withdraw).is_ok()
    }

    /// Takes note of what came of a request or connection.
    pub fn ended(&self, endpoint: &Endpoint, is_well: bool, now_ms: u32) {
        let before = Record::from_bits(endpoint.record.load(Relaxed));
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
        // Of two threads at once one may be lost: the next failure counts as well.
        endpoint.record.store(after.to_bits(), Relaxed);
    }
}

impl Shared {
    fn new() -> Self {
        Self { active: AtomicU32::default(), budget: AtomicU32::new(rate::BUDGET_BURST) }
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

struct View<'a> {
    target: &'a Target,
    tried: &'a [u64],
    now_ms: u32,
    with_left_out: bool,
}

impl Candidates for View<'_> {
    fn count(&self) -> usize {
        self.target.endpoints.len()
    }

    fn weight(&self, index: usize) -> u32 {
        let endpoint = &self.target.endpoints[index];
        let is_left_out = !self.with_left_out && endpoint.is_out(self.now_ms);
        if is_left_out || self.tried.contains(&endpoint.id) {
            0
        } else {
            self.target.service.endpoints[index].weight
        }
    }

    fn active(&self, index: usize) -> u32 {
        self.target.endpoints[index].active.load(Relaxed)
    }

    fn latency(&self, index: usize) -> f32 {
        self.target.endpoints[index].latency(self.now_ms)
    }
}

impl Endpoint {
    fn new(address: SocketAddr) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            address,
            active: AtomicU32::default(),
            ewma: AtomicU64::new(Ewma::new(0).to_bits()),
            requests: AtomicU64::default(),
            failures: AtomicU64::default(),
            record: AtomicU64::new(Record::default().to_bits()),
        }
    }

    /// Whether it failed so often that it is left out for a while.
    pub fn is_out(&self, now_ms: u32) -> bool {
        Record::from_bits(self.record.load(Relaxed)).is_out(now_ms)
    }

    /// How slow it was lately, in microseconds.
    pub fn latency(&self, now_ms: u32) -> f32 {
        Ewma::from_bits(self.ewma.load(Relaxed)).value(now_ms)
    }

    /// The same as of its last answer, for people.
    pub fn last_latency(&self) -> f32 {
        Ewma::from_bits(self.ewma.load(Relaxed)).last()
    }

    /// Takes note of an answer. Of two threads at once one may be lost: it is an average.
    pub fn answered(&self, took: Duration, now_ms: u32) {
        let before = Ewma::from_bits(self.ewma.load(Relaxed));
        self.ewma.store(before.with(took, now_ms).to_bits(), Relaxed);
    }
}

/// A request or connection under way at an endpoint; ends when it is dropped.
#[derive(Debug)]
pub struct Under {
    endpoint: Arc<Endpoint>,
    _of_service: Option<Begun>,
}

impl Under {
    /// Begins.
    pub fn way(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Relaxed);
        endpoint.requests.fetch_add(1, Relaxed);
        Self { endpoint: endpoint.clone(), _of_service: None }
    }

    /// It stays at this endpoint: the service's share of it ends with it.
    pub fn stays(self, of_service: Begun) -> Self {
        let mut stays = self;
        stays._of_service = Some(of_service);
        stays
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Relaxed);
    }
}
