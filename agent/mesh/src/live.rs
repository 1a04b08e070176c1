//! A table in force: what each listener serves, and what is known of each endpoint.
//! What is known of an endpoint outlives the table, as long as the next one has it too.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use purlin_core::mesh::{
    choose::{Asked, Choice, Miss, Place},
    model::{self, Backend, Listener, Protocol, Rule, Transport},
    rate::Bucket,
    table::Table,
};

use crate::{
    discovery::members::Members,
    endpoint::Endpoint,
    names::Names,
    records::Records,
    signals::{MAX_ENDPOINTS, MAX_ROUTES, Signals},
    split::Split,
    target::{self, By, Target},
    uplink::Relays,
};

/// An endpoint of this node, and its service with those that are here.
type PlaceHere = (Arc<Target>, Arc<Endpoint>);

/// A table in force.
#[derive(Debug, Default)]
pub struct Live {
    /// The table, with what nodes offer.
    pub table: Table,
    /// The rack's nodes.
    pub members: Arc<Members>,
    /// What they offer.
    pub records: Arc<Records>,
    /// Agents of theirs whose bytes are passed on to a broker.
    pub relays: Arc<Relays>,
    choices: Vec<Choice>,
    /// The services, in the table's order.
    pub targets: Vec<Arc<Target>>,
    by_address: HashMap<SocketAddr, usize>,
    /// The same for datagrams.
    datagrams: HashMap<SocketAddr, usize>,
    virtual_addresses: HashMap<IpAddr, usize>,
    /// What DNS says of services.
    pub names: Names,
    /// Endpoints of this node that other nodes may reach, by address.
    here: HashMap<SocketAddr, Vec<PlaceHere>>,
    /// Token buckets, by route and rule.
    buckets: Arc<Vec<Vec<AtomicU64>>>,
    /// Splits that may be stepped back from, by route and rule.
    splits: Vec<Vec<Option<Arc<Split>>>>,
    /// What is told of each route, in the table's order; those beyond the cap share.
    pub signals: Vec<Arc<Signals>>,
    /// The same of what comes in through other nodes' tunnels.
    pub of_tunnels: Arc<Signals>,
    /// What routes beyond the cap share.
    pub other_routes: Arc<Signals>,
    /// What endpoints beyond the cap share.
    pub other_endpoints: Arc<Signals>,
}

impl Live {
    /// No table, and what nodes offered last.
    pub fn knowing(records: Records) -> Self {
        Self { records: Arc::new(records), ..Self::default() }
    }

    /// Puts a checked table in force after another one.
    pub fn new(mut table: Table, before: &Live, own: Option<&str>) -> Self {
        before.records.add_to(&mut table, own);
        let of_target = |it: &'_ Arc<Target>| {
            let keys = it.service.endpoints.iter().map(|e| (it.service.name.clone(), e.key()));
            keys.zip(it.endpoints.iter().cloned()).collect::<Vec<_>>()
        };
        let known: HashMap<(String, String), Arc<Endpoint>> =
            before.targets.iter().flat_map(of_target).collect();
        let services: HashMap<&str, &Arc<Target>> =
            before.targets.iter().map(|it| (it.service.name.as_str(), it)).collect();
        let known = |name: &str, it: &model::Endpoint| {
            let found = known.get(&(name.to_owned(), it.key()))?;
            (found.via == target::via(it, own)).then(|| found.clone())
        };
        let (other_routes, others) = (before.other_routes.clone(), before.other_endpoints.clone());
        let all = table.services.iter().flat_map(|it| it.endpoints.iter().map(|e| (&it.name, e)));
        let known_ones = all.filter_map(|(name, it)| known(name, it));
        let told = known_ones.filter(|it| !Arc::ptr_eq(&it.signals, &others)).count();
        let mut left = MAX_ENDPOINTS.saturating_sub(told);
        let mut fresh = |it: &model::Endpoint| {
            let signals = if left > 0 { Arc::default() } else { others.clone() };
            left = left.saturating_sub(1);
            Arc::new(Endpoint::new(it.address, target::via(it, own), signals))
        };
        let targets = table.services.iter().map(|service| {
            let name = service.name.as_str();
            let endpoint = |it: &model::Endpoint| known(name, it).unwrap_or_else(|| fresh(it));
            let before = services.get(name).map(|it| it.as_ref());
            Arc::new(Target::new(service, &table.rack, own, endpoint, before))
        });
        let targets: Vec<_> = targets.collect();
        let is_same = table.routes == before.table.routes;
        let buckets = || table.routes.iter().map(|it| it.rules.iter().map(bucket).collect());
        let buckets = if is_same { before.buckets.clone() } else { Arc::new(buckets().collect()) };
        let of_routes: HashMap<&str, &Arc<Signals>> = before.signals().collect();
        let signals = table.routes.iter().enumerate().map(|(n, route)| {
            let known = of_routes.get(route.name.as_str()).map(|it| (*it).clone());
            if n < MAX_ROUTES { known.unwrap_or_default() } else { other_routes.clone() }
        });
        let signals = signals.collect();
        let splits = splits(&table, before);
        let live = Self {
            splits,
            members: before.members.clone(),
            records: before.records.clone(),
            relays: before.relays.clone(),
            choices: (0..table.listeners.len()).map(|index| Choice::of(&table, index)).collect(),
            here: here(&targets, own),
            targets,
            buckets,
            by_address: by_address(&table, Transport::Stream),
            datagrams: by_address(&table, Transport::Datagram),
            signals,
            of_tunnels: before.of_tunnels.clone(),
            other_routes,
            other_endpoints: others.clone(),
            names: Names::of(&table),
            virtual_addresses: virtual_addresses(&table),
            table,
        };
        live.members.apply(&live);
        live
    }

    /// Routes that have signals of their own.
    pub fn signals(&self) -> impl Iterator<Item = (&str, &Arc<Signals>)> {
        let all = self.table.routes.iter().map(|it| it.name.as_str()).zip(&self.signals);
        all.take(MAX_ROUTES)
    }

    /// The service that an address stands for.
    pub fn stands_for(&self, address: IpAddr) -> Option<&Arc<Target>> {
        self.targets.get(*self.virtual_addresses.get(&address)?)
    }

    /// Whether datagrams at an address are queries for names.
    pub fn is_for_names(&self, address: SocketAddr) -> bool {
        let listener = self.datagrams.get(&address).map(|&index| &self.table.listeners[index]);
        listener.is_some_and(|it| it.protocol == Protocol::Dns)
    }

    /// What becomes of datagrams at an address.
    pub fn datagrams(&self, address: SocketAddr) -> Option<Place> {
        self.choices[*self.datagrams.get(&address)?].by_name(None)
    }

    /// Where they may go.
    pub fn datagram_targets(&self, address: SocketAddr) -> impl Iterator<Item = &Arc<Target>> {
        let place = self.datagrams(address).into_iter();
        let backends = place.flat_map(|it| &self.table.rule(it).backends);
        let own = backends.filter_map(|it| self.targets.get(it.index));
        own.flat_map(|it| {
            let spill = it.service.spill.as_ref().and_then(|spill| self.targets.get(spill.index));
            [it].into_iter().chain(spill)
        })
    }

    /// The listener for connections at an address.
    pub fn listener(&self, address: SocketAddr) -> Option<&Listener> {
        self.by_address.get(&address).map(|&index| &self.table.listeners[index])
    }

    /// Where a node's tunnel is.
    pub fn peer(&self, node: &str) -> Option<SocketAddr> {
        // What a node says of itself is newer than what was written of it.
        let known = self.table.peers.iter().find(|it| it.node == node).map(|it| it.address);
        self.members.address(node).or(known)
    }

    /// The endpoints of this node at an address, each with its service's ones that are here.
    pub fn here(&self, address: SocketAddr) -> &[PlaceHere] {
        self.here.get(&address).map(Vec::as_slice).unwrap_or_default()
    }

    /// A service, with those of its endpoints that are here.
    pub fn service_here(&self, name: &str) -> Option<&Arc<Target>> {
        let all = self.here.values().flatten().map(|(target, _)| target);
        all.into_iter().find(|it| it.service.name == name)
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
    pub fn backend(&self, place: Place, by: &By<'_>) -> Option<Chosen<'_>> {
        let backends = &self.table.rule(place).backends;
        let split = self.split(place);
        let weights = || (0..backends.len()).map(|n| weight(backends, split, n));
        let mut left = purlin_core::mesh::pick::spread(by.random, weights().sum());
        let n = weights().position(|weight| {
            let is_in = left < weight;
            left = left.saturating_sub(weight);
            is_in
        })?;
        let of_split = split.map(|it| (it.clone(), it.by.backend == n));
        let own = self.targets.get(backends[n].index)?;
        let elsewhere = own.service.spill.as_ref().filter(|_| own.goes_elsewhere(by));
        let elsewhere = elsewhere.and_then(|spill| self.targets.get(spill.index));
        let is_spilled = elsewhere.is_some();
        Some(Chosen { own, target: elsewhere.unwrap_or(own), is_spilled, of_split })
    }

    /// What a backend of a rule has of its requests now.
    pub fn weight(&self, place: Place, backend: usize) -> u64 {
        weight(&self.table.rule(place).backends, self.split(place), backend)
    }

    /// The split of a rule that may be stepped back from.
    pub fn split(&self, place: Place) -> Option<&Arc<Split>> {
        self.splits[place.route][place.rule].as_ref()
    }

    /// All of them.
    pub fn splits(&self) -> impl Iterator<Item = &Arc<Split>> {
        self.splits.iter().flatten().flatten()
    }
}

/// Where a request goes.
#[derive(Debug)]
pub struct Chosen<'a> {
    /// The service that the rule names.
    pub own: &'a Arc<Target>,
    /// The service that it goes to.
    pub target: &'a Arc<Target>,
    /// Whether it is another one, because the rack is full.
    pub is_spilled: bool,
    /// The split that it is counted in, and whether as one of the new backend's.
    pub of_split: Option<(Arc<Split>, bool)>,
}

impl Chosen<'_> {
    /// The services whose rules are to be asked: what goes elsewhere is still for the first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Target>> {
        [self.own].into_iter().chain(self.is_spilled.then_some(self.target))
    }
}

fn weight(backends: &[Backend], split: Option<&Arc<Split>>, n: usize) -> u64 {
    let is_back = split.is_some_and(|it| it.is_back() && it.by.backend == n);
    if is_back { 0 } else { backends[n].weight.into() }
}

/// Those of a table; what was known of one goes on.
fn splits(table: &Table, before: &Live) -> Vec<Vec<Option<Arc<Split>>>> {
    let split = |route: &model::Route, n: usize, rule: &Rule| {
        let by = rule.step_back.as_ref()?;
        let known = before.splits().find(|it| it.is(&route.name, n, by));
        let new = || Arc::new(Split::new(&route.name, n, &rule.backends[by.backend].service, by));
        Some(known.cloned().unwrap_or_else(new))
    };
    let of = |route: &model::Route| {
        route.rules.iter().enumerate().map(|(n, rule)| split(route, n, rule)).collect()
    };
    table.routes.iter().map(of).collect()
}

fn by_address(table: &Table, transport: Transport) -> HashMap<SocketAddr, usize> {
    let listeners = table.listeners.iter().enumerate();
    let of = listeners.filter(|(_, it)| it.protocol.transports().contains(&transport));
    of.map(|(index, it)| (it.address, index)).collect()
}

fn virtual_addresses(table: &Table) -> HashMap<IpAddr, usize> {
    let services = table.services.iter().enumerate();
    services.flat_map(|(n, it)| it.virtual_addresses.iter().map(move |it| (*it, n))).collect()
}

fn here(targets: &[Arc<Target>], own: Option<&str>) -> HashMap<SocketAddr, Vec<PlaceHere>> {
    let mut here = HashMap::<_, Vec<_>>::new();
    for target in targets.iter().filter_map(|it| it.here(own)).map(Arc::new) {
        for endpoint in &target.endpoints {
            here.entry(endpoint.address).or_default().push((target.clone(), endpoint.clone()));
        }
    }
    here
}

fn bucket(rule: &Rule) -> AtomicU64 {
    AtomicU64::new(rule.rate_limit.map_or(0, |(_, burst)| Bucket::full(burst, 0).to_bits()))
}
