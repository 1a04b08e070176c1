//! A table in force: what each listener serves, and what is known of each endpoint.
//! What is known of an endpoint outlives the table, as long as the next one has it too.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use purlin_core::mesh::{
    choose::{Asked, Choice, Miss, Place},
    model::{self, Listener, Rule, Transport},
    rate::Bucket,
    table::Table,
};

use crate::{
    discovery::members::Members,
    endpoint::Endpoint,
    records::Records,
    target::{self, Target},
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
    choices: Vec<Choice>,
    /// The services, in the table's order.
    pub targets: Vec<Arc<Target>>,
    by_address: HashMap<SocketAddr, usize>,
    /// The same for datagrams.
    datagrams: HashMap<SocketAddr, usize>,
    /// Endpoints of this node that other nodes may reach, by address.
    here: HashMap<SocketAddr, Vec<PlaceHere>>,
    /// Token buckets, by route and rule.
    buckets: Arc<Vec<Vec<AtomicU64>>>,
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
        let targets = table.services.iter().map(|service| {
            let name = service.name.as_str();
            let known = |it: &model::Endpoint| {
                let found = known.get(&(name.to_owned(), it.key()))?;
                (found.via == target::via(it, own)).then(|| found.clone())
            };
            let before = services.get(name).map(|it| it.as_ref());
            Arc::new(Target::new(service, &table.rack, own, known, before))
        });
        let targets: Vec<_> = targets.collect();
        let is_same = table.routes == before.table.routes;
        let buckets = || table.routes.iter().map(|it| it.rules.iter().map(bucket).collect());
        let buckets = if is_same { before.buckets.clone() } else { Arc::new(buckets().collect()) };
        let live = Self {
            members: before.members.clone(),
            records: before.records.clone(),
            choices: (0..table.listeners.len()).map(|index| Choice::of(&table, index)).collect(),
            here: here(&targets, own),
            targets,
            buckets,
            by_address: by_address(&table, Transport::Stream),
            datagrams: by_address(&table, Transport::Datagram),
            table,
        };
        live.members.apply(&live);
        live
    }

    /// What becomes of datagrams at an address.
    pub fn datagrams(&self, address: SocketAddr) -> Option<&Rule> {
        let place = self.choices[*self.datagrams.get(&address)?].by_name(None)?;
        Some(self.table.rule(place))
    }

    /// Where they may go.
    pub fn datagram_targets(&self, address: SocketAddr) -> impl Iterator<Item = &Arc<Target>> {
        let backends = self.datagrams(address).into_iter().flat_map(|rule| &rule.backends);
        backends.filter_map(|it| self.targets.get(it.index))
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

fn by_address(table: &Table, transport: Transport) -> HashMap<SocketAddr, usize> {
    let listeners = table.listeners.iter().enumerate();
    let of = listeners.filter(|(_, it)| it.protocol.transports().contains(&transport));
    of.map(|(index, it)| (it.address, index)).collect()
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
