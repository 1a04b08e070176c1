//! Balancing in virtual time, over thousands of seeds: endpoints that are slow, fail,
//! come back and change, and what must hold whatever happens.

use alloc::{collections::BTreeSet, vec, vec::Vec};
use core::time::Duration;

use super::{
    hashed::{Places, mix},
    model::Policy,
    outlier::{Ejection, Record},
    pick::{Candidates, pick, spread},
    rate,
};

/// Each is a world of its own.
const SEEDS: u64 = 2000;
/// Requests in each.
const TURNS: u64 = 1000;
const BY: Ejection = Ejection { consecutive: 5, base: Duration::from_secs(1), max_percent: 50 };
const POLICIES: [Policy; 4] =
    [Policy::P2c, Policy::LeastRequest, Policy::RoundRobin, Policy::Random];

/// Random bits, from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    fn below(&mut self, limit: u64) -> u64 {
        spread(self.next(), limit)
    }
}

#[derive(Clone, Default)]
struct Endpoint {
    weight: u32,
    active: u32,
    latency: f32,
    record: Record,
    /// Of a hundred requests, so many fail.
    failing: u64,
    chosen: usize,
}

struct World {
    endpoints: Vec<Endpoint>,
    now_ms: u32,
}

impl World {
    fn new(random: &mut Random) -> Self {
        let count = 2 + random.below(8) as usize;
        let mut endpoints = vec![Endpoint::default(); count];
        for it in &mut endpoints {
            it.weight = 50 + random.below(150) as u32;
            it.latency = 100.0 + random.below(10_000) as f32;
            it.failing = if random.below(3) == 0 { 50 + random.below(51) } else { 0 };
        }
        Self { endpoints, now_ms: random.next() as u32 }
    }

    fn out(&self) -> usize {
        self.endpoints.iter().filter(|it| it.record.is_out(self.now_ms)).count()
    }
}

impl Candidates for World {
    fn count(&self) -> usize {
        self.endpoints.len()
    }
    fn weight(&self, index: usize) -> u32 {
        let it = &self.endpoints[index];
        if it.record.is_out(self.now_ms) { 0 } else { it.weight }
    }
    fn active(&self, index: usize) -> u32 {
        self.endpoints[index].active
    }
    fn latency(&self, index: usize) -> f32 {
        self.endpoints[index].latency
    }
}

#[test]
fn ejection_never_empties_a_service_and_who_is_well_is_never_starved() {
    for seed in 0..SEEDS {
        let mut random = Random(seed << 32);
        let mut world = World::new(&mut random);
        let policy = POLICIES[seed as usize % POLICIES.len()];
        let count = world.endpoints.len();
        for turn in 0..TURNS {
            world.now_ms = world.now_ms.wrapping_add(random.below(20) as u32);
            let chosen = pick(policy, &world, random.next(), turn);
            let chosen = chosen.unwrap_or_else(|| panic!("seed {seed}: nobody may be chosen"));
            let (out, now) = (world.out(), world.now_ms);
            let it = &mut world.endpoints[chosen];
            assert!(!it.record.is_out(now), "seed {seed}: an ejected one was chosen");
            it.chosen += 1;
            it.record = match random.below(100) < it.failing {
                true => it.record.failed(&BY, now, out, count),
                false => it.record.succeeded(now),
            };
            // As a peak-EWMA has it, one that is not asked is forgotten bit by bit.
            for (n, it) in world.endpoints.iter_mut().enumerate() {
                it.latency = if n == chosen {
                    100.0 + random.below(10_000) as f32
                } else {
                    it.latency * 0.99
                };
            }
            assert!(world.out() < count, "seed {seed}: all are out");
            assert!(
                world.out() <= (count / 2).max(1),
                "seed {seed}: {} of {count} are out",
                world.out()
            );
        }
        for (n, it) in world.endpoints.iter().enumerate().filter(|(_, it)| it.failing == 0) {
            let fair = TURNS as usize / count;
            assert!(
                it.chosen > fair / 10,
                "seed {seed} {policy:?}: {n} had {} of {fair}",
                it.chosen
            );
        }
    }
}

#[test]
fn a_budget_is_never_exceeded() {
    for seed in 0..SEEDS {
        let mut random = Random(seed << 32);
        let (mut budget, mut requests, mut retries) = (rate::BUDGET_BURST, 0_u64, 0_u64);
        for _ in 0..1000 {
            budget = rate::deposit(budget);
            requests += 1;
            while random.below(3) == 0 {
                let Some(less) = rate::withdraw(budget) else { break };
                budget = less;
                retries += 1;
            }
            assert!(retries * 5 <= requests + 50, "seed {seed}: {retries} for {requests}");
        }
    }
}

/// Nothing under way.
struct Idle(Vec<u32>);

impl Candidates for Idle {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn weight(&self, index: usize) -> u32 {
        self.0[index]
    }
    fn active(&self, _: usize) -> u32 {
        0
    }
    fn latency(&self, _: usize) -> f32 {
        0.0
    }
}

const KEYS: u64 = 2000;
/// From endpoints by what they are known by and their weights.
type Build = fn(&[(u64, u32)]) -> Places;
const TABLES: [Build; 2] = [Places::maglev, Places::ring];

#[test]
fn a_change_moves_few_keys_and_only_to_or_from_what_changed() {
    for seed in 0..SEEDS / 20 {
        let mut random = Random(seed << 32);
        let count = 2 + random.below(18) as usize;
        let all: Vec<_> = (0..count).map(|_| (random.next(), 100)).collect();
        for (table, bound) in TABLES.iter().zip([15, 12]) {
            let whole = table(&all);
            let gone = random.below(count as u64) as usize;
            let less: Vec<_> =
                (all.iter().enumerate()).filter(|(n, _)| *n != gone).map(|(_, it)| *it).collect();
            let smaller = table(&less);
            let (mut moved, mut astray) = (0, 0);
            for key in 0..KEYS {
                let key = mix(key ^ seed << 20);
                let before = whole.pick(key, &Idle(vec![100; count])).map(|n| all[n].0);
                let after = smaller.pick(key, &Idle(vec![100; count - 1])).map(|n| less[n].0);
                moved += u64::from(before != after);
                astray += u64::from(before != after && before != Some(all[gone].0));
            }
            let most = KEYS / count as u64 + KEYS * bound / 100;
            assert!(moved <= most, "seed {seed}: {moved} of {KEYS} moved with {count} endpoints");
            if matches!(whole, Places::Ring(_)) {
                assert_eq!(
                    astray, 0,
                    "seed {seed}: a ring moves only what was on the one that went"
                );
            }
        }
    }
}

#[test]
fn keys_are_spread_by_weight_and_leave_what_is_out_or_full() {
    for table in TABLES {
        let all = [(11, 100), (22, 200), (33, 100)];
        let places = table(&all);
        let mut counts = [0_u64; 3];
        for key in 0..40_000 {
            counts[places.pick(key, &Idle(vec![100, 200, 100])).expect("one")] += 1;
        }
        for (n, fair) in [10_000, 20_000, 10_000].into_iter().enumerate() {
            assert!(counts[n].abs_diff(fair) < fair / 5, "{counts:?}");
        }
        let out = Idle(vec![100, 0, 100]);
        let chosen: BTreeSet<_> = (0..1000).filter_map(|key| places.pick(key, &out)).collect();
        assert_eq!(chosen, [0, 2].into());
        assert_eq!(places.pick(1, &Idle(vec![0, 0, 0])), None);
        assert_eq!(table(&[]).pick(1, &Idle(vec![])), None);
        // One key alone fills its endpoint to the bound and no further.
        let mut world = World {
            endpoints: vec![Endpoint { weight: 100, ..Endpoint::default() }; 3],
            now_ms: 0,
        };
        for _ in 0..300 {
            let n = places.pick(7, &world).expect("one has room");
            world.endpoints[n].active += 1;
        }
        let most = world.endpoints.iter().map(|it| it.active).max();
        assert!(most <= Some(126), "{most:?} of 300 on one of three");
    }
}
