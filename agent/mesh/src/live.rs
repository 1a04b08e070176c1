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
    model::{Listener, Rule},
    rate::Bucket,
    table::Table,
};

use crate::{endpoint::Endpoint, target::Target};

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

impl Live {
    /// Puts a checked table in force after another one.
    pub fn new(table: Table, before: &Live) -> Self {
        let known: HashMap<(&str, SocketAddr), &Arc<Endpoint>> = (before.targets.iter())
            .flat_map(|it| it.endpoints.iter().map(|e| ((it.service.name.as_str(), e.address), e)))
            .collect();
        let services: HashMap<&str, &Arc<Target>> =
            before.targets.iter().map(|it| (it.service.name.as_str(), it)).collect();
        let targets = table.services.iter().map(|service| {
            let name = service.name.as_str();
            let known = |address| known.get(&(name, address)).copied().cloned();
            let before = services.get(name).map(|it| it.as_ref());
            Arc::new(Target::new(service, &table.rack, known, before))
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

fn bucket(rule: &Rule) -> AtomicU64 {
    AtomicU64::new(rule.rate_limit.map_or(0, |(_, burst)| Bucket::full(burst, 0).to_bits()))
}
