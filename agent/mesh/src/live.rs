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
    model::{Listener, Rule, Service},
    pick::{Candidates, pick},
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
}

/// A service in force.
#[derive(Debug)]
pub struct Target {
    /// As the table has it.
    pub service: Service,
    /// Its endpoints, in the table's order.
    pub endpoints: Vec<Arc<Endpoint>>,
    turn: AtomicU64,
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
}

impl Live {
    /// Puts a checked table in force after another one.
    pub fn new(table: Table, before: &Live) -> Self {
        let known: HashMap<(&str, SocketAddr), &Arc<Endpoint>> = (before.targets.iter())
            .flat_map(|it| it.endpoints.iter().map(|e| ((it.service.name.as_str(), e.address), e)))
            .collect();
        let targets = table.services.iter().map(|service| {
            let endpoints = service.endpoints.iter().map(|it| {
                let known = known.get(&(service.name.as_str(), it.address)).copied();
                known.cloned().unwrap_or_else(|| Arc::new(Endpoint::new(it.address)))
            });
            Arc::new(Target {
                endpoints: endpoints.collect(),
                service: service.clone(),
                turn: AtomicU64::default(),
            })
        });
        Self {
            choices: (0..table.listeners.len()).map(|index| Choice::of(&table, index)).collect(),
            targets: targets.collect(),
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

impl Target {
    /// Chooses an endpoint that was not tried before.
    pub fn pick(&self, tried: &[u64], random: u64, now_ms: u32) -> Option<&Arc<Endpoint>> {
        let view = View { target: self, tried, now_ms };
        let turn = self.turn.fetch_add(1, Relaxed);
        pick(self.service.policy, &view, random, turn).map(|index| &self.endpoints[index])
    }
}

struct View<'a> {
    target: &'a Target,
    tried: &'a [u64],
    now_ms: u32,
}

impl Candidates for View<'_> {
    fn count(&self) -> usize {
        self.target.endpoints.len()
    }

    fn weight(&self, index: usize) -> u32 {
        let was_tried = self.tried.contains(&self.target.endpoints[index].id);
        if was_tried { 0 } else { self.target.service.endpoints[index].weight }
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
        }
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

    /// Takes note of a request or connection that failed for its sake.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }
}

/// A request or connection under way; ends when it is dropped.
#[derive(Debug)]
pub struct Under(Arc<Endpoint>);

impl Under {
    /// Begins.
    pub fn way(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Relaxed);
        endpoint.requests.fetch_add(1, Relaxed);
        Self(endpoint.clone())
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}
