//! Racks in virtual time, over many seeds: nodes die, cables are pulled, datagrams are
//! lost, and what must hold whatever happens.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::SocketAddr,
    time::Duration,
};

use purlin_core::{
    mesh::{hashed::mix, pick::spread},
    power::{
        Policy, Wanted,
        config::{self, StageDraft},
        elsewhere::{EXPIRES, Elsewhere, under},
    },
};
use purlin_proto::mesh as view;

use super::{
    alarms::{Raised, Said},
    gossip::{Change, Gossip, Member, Outcome},
    seal::Beside,
};

/// Of a usual run; `./tests/run soak` goes through thousands.
const SEEDS: u64 = 300;
const NODES: usize = 5;

fn seeds() -> u64 {
    std::env::var("PURLIN_SEEDS").ok().and_then(|it| it.parse().ok()).unwrap_or(SEEDS)
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        spread(mix(self.0), limit)
    }
}

struct Node {
    gossip: Option<Gossip>,
    up: BTreeSet<String>,
    lives: u64,
    /// What is raised on it, as its agent says, and what it heard of others.
    says: Said,
    heard: Elsewhere,
}

/// Datagrams on their way: when they arrive, a number, from whom, to whom.
type Way = Reverse<(u64, u64, usize, usize, Vec<u8>)>;

struct World {
    random: Random,
    nodes: Vec<Node>,
    now_ms: u64,
    under_way: BinaryHeap<Way>,
    sent: u64,
    /// Of a hundred datagrams, so many are lost.
    loss: u64,
    /// Which side of a cut each node is on.
    sides: Vec<u8>,
}

fn name(n: usize) -> String {
    format!("n{n}")
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n as u8 + 1], 15008))
}

impl World {
    fn new(seed: u64) -> Self {
        let nodes = (0..NODES).map(|_| Node {
            gossip: None,
            up: BTreeSet::new(),
            lives: 0,
            says: None,
            heard: Elsewhere::default(),
        });
        let mut world = Self {
            random: Random(seed << 32),
            nodes: nodes.collect(),
            now_ms: 0,
            under_way: BinaryHeap::new(),
            sent: 0,
            loss: 0,
            sides: vec![0; NODES],
        };
        (0..NODES).for_each(|n| world.start(n));
        world
    }

    fn start(&mut self, n: usize) {
        self.nodes[n].lives += 1;
        let life = self.nodes[n].lives << 16;
        let me = Member { node: name(n), address: address(n), life };
        let seed = self.random.below(u64::MAX);
        let mut gossip = Gossip::new(me, &vec![[7; 32]], life, seed).expect("a key");
        // Each knows two of the others.
        let seeds = [(n + 1) % NODES, (n + 2) % NODES];
        gossip.greet(seeds.map(|n| (name(n), address(n))));
        self.nodes[n].gossip = Some(gossip);
        self.nodes[n].up.clear();
    }

    fn beside(&self, n: usize) -> Beside {
        let alarms = self.nodes[n].says.clone();
        Beside { sender: name(n), alarms, ..Beside::default() }
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms)
    }

    fn kill(&mut self, n: usize) {
        self.nodes[n].gossip = None;
    }

    fn take(&mut self, n: usize, outcome: Outcome) {
        for change in outcome.changes {
            match change {
                Change::Up(it) => _ = self.nodes[n].up.insert(it.node),
                Change::Down(it) => _ = self.nodes[n].up.remove(&it.node),
            }
        }
        for (to, bytes) in outcome.send {
            let Some(to) = (0..NODES).find(|n| address(*n) == to) else { continue };
            if self.sides[n] != self.sides[to] || self.random.below(100) < self.loss {
                continue;
            }
            self.sent += 1;
            let at = self.now_ms + 1 + self.random.below(3);
            self.under_way.push(Reverse((at, self.sent, n, to, bytes)));
        }
    }

    /// Until that holds; how long it took, in milliseconds.
    fn until(&mut self, most_ms: u64, is_it: impl Fn(&Self) -> bool) -> Option<u64> {
        let began = self.now_ms;
        while self.now_ms < began + most_ms {
            if is_it(self) {
                return Some(self.now_ms - began);
            }
            self.step();
        }
        None
    }

    fn step(&mut self) {
        let timers = self.nodes.iter().filter_map(|it| it.gossip.as_ref()).map(Gossip::next_at);
        let arrival = self.under_way.peek().map(|Reverse(it)| it.0);
        let next = timers.chain(arrival).min().unwrap_or(self.now_ms + 100);
        self.now_ms = next.max(self.now_ms);
        while self.under_way.peek().is_some_and(|Reverse(it)| it.0 <= self.now_ms) {
            let Some(Reverse((_, _, from, to, bytes))) = self.under_way.pop() else { break };
            let (now_ms, at, ours) = (self.now_ms, self.now(), self.beside(to));
            let Some(gossip) = &mut self.nodes[to].gossip else { continue };
            let came = gossip.receive(&bytes, now_ms, &ours);
            let (theirs, outcome) = came.expect("whole and new");
            assert_eq!(theirs.sender, name(from));
            if let Some(alarms) = theirs.alarms {
                let ids = alarms.iter().map(|it| it.view().id).collect();
                self.nodes[to].heard.hear(&theirs.sender, at, ids);
            }
            self.take(to, outcome);
        }
        for n in 0..NODES {
            let (now_ms, ours) = (self.now_ms, self.beside(n));
            let Some(gossip) = &mut self.nodes[n].gossip else { continue };
            if gossip.next_at() <= now_ms {
                let outcome = gossip.tick(now_ms, &ours);
                self.take(n, outcome);
            }
        }
    }

    /// Whether each that lives knows all that live on its side, and nobody else.
    fn is_right(&self) -> bool {
        let lives = |n: &usize| self.nodes[*n].gossip.is_some();
        (0..NODES).filter(lives).all(|n| {
            let others = (0..NODES).filter(|o| *o != n && lives(o));
            let right: BTreeSet<_> =
                others.filter(|o| self.sides[*o] == self.sides[n]).map(name).collect();
            self.nodes[n].up == right
        })
    }
}

/// The median and the longest, by what happened.
fn told(all: &mut BTreeMap<&str, Vec<u64>>) {
    for (what, times) in all {
        times.sort_unstable();
        let (middle, most) = (times[times.len() / 2], times[times.len() - 1]);
        println!("{what}: {middle} ms in the middle, {most} ms at most");
    }
}

#[test]
fn whoever_dies_comes_back_or_is_cut_off_is_known_to_all() {
    let mut times = BTreeMap::<_, Vec<_>>::new();
    for seed in 0..seeds() {
        let mut world = World::new(seed);
        let mut took = |what, world: &mut World, most_ms| {
            let ms = world.until(most_ms, World::is_right);
            let ms = ms.unwrap_or_else(|| panic!("seed {seed}: {what}: not within {most_ms} ms"));
            times.entry(what).or_default().push(ms);
        };
        took("cold start", &mut world, 20_000);
        let victim = world.random.below(NODES as u64) as usize;
        world.kill(victim);
        took("a node dies", &mut world, 20_000);
        world.start(victim);
        took("it comes back", &mut world, 20_000);
        let cut = 1 + world.random.below(NODES as u64 - 1) as usize;
        (0..cut).for_each(|n| world.sides[n] = 1);
        took("a partition", &mut world, 30_000);
        world.sides = vec![0; NODES];
        took("it heals", &mut world, 60_000);
    }
    told(&mut times);
}

#[test]
fn one_datagram_in_ten_lost_parts_nobody_for_good() {
    for seed in 0..seeds() / 10 {
        let mut world = World::new(seed);
        world.loss = 10;
        let (mut wrong_ms, whole_ms) = (0, 100_000);
        assert!(world.until(30_000, World::is_right).is_some(), "seed {seed}: the start");
        let began = world.now_ms;
        while world.now_ms < began + whole_ms {
            let (at, is_right) = (world.now_ms, world.is_right());
            world.step();
            wrong_ms += if is_right { 0 } else { world.now_ms - at };
        }
        // Down is only "later": what is wrong for a while costs no request.
        assert!(wrong_ms * 3 < whole_ms, "seed {seed}: wrong for {wrong_ms} of {whole_ms} ms");
        assert!(world.until(30_000, World::is_right).is_some(), "seed {seed}: the end");
    }
}

/// The policy of every node, and the stages that each was in, with the time of each.
struct Policies {
    wanted: Wanted,
    each: Vec<(Policy, Vec<(usize, u64)>)>,
}

impl Policies {
    fn new() -> Self {
        let stage = |name: &str| StageDraft {
            name: name.into(),
            when: vec![format!("*/{name}.*")],
            ..StageDraft::default()
        };
        let stages = vec![stage("on-battery"), stage("low"), stage("last")];
        let draft = config::Draft { stages, recover_s: Some(30), rehearse: None };
        let wanted = config::check(&draft, &mut Vec::new()).expect("stages");
        Self { wanted, each: vec![(Policy::default(), vec![(0, 0)]); NODES] }
    }

    /// Runs a world for so long; each judges at each of its moments.
    fn run(&mut self, world: &mut World, for_ms: u64) {
        let until = world.now_ms + for_ms;
        while world.now_ms < until {
            world.step();
            for (n, (policy, stages)) in self.each.iter_mut().enumerate() {
                let own = world.nodes[n].says.iter().flatten();
                let own = own.map(|it| under(&name(n), &it.view().id));
                let all: Vec<_> = own.chain(world.nodes[n].heard.raised(world.now())).collect();
                let ids = all.iter().map(String::as_str);
                let stage = policy.judge(&self.wanted, ids, world.now()).stage;
                if stages.last().is_none_or(|(last, _)| *last != stage) {
                    stages.push((stage, world.now_ms));
                }
            }
        }
    }

    fn order(&self, n: usize) -> Vec<usize> {
        self.each[n].1.iter().map(|(stage, _)| *stage).collect()
    }

    fn since(&self, n: usize) -> u64 {
        self.each[n].1.last().map_or(0, |(_, at)| *at)
    }
}

fn saying(ids: &[&str]) -> Said {
    let alarm = |id: &&str| view::Alarm { id: (*id).into(), severity: "critical".into(), age_s: 0 };
    Raised::checked(ids.iter().map(alarm).collect()).ok()
}

/// Only one node has the UPS, and a tenth of all datagrams is lost.
#[test]
fn all_nodes_go_through_the_stages_of_one_nodes_ups() {
    let mut late = BTreeMap::<_, Vec<_>>::new();
    for seed in 0..seeds() / 10 {
        let (mut world, mut policies) = (World::new(seed), Policies::new());
        world.loss = 10;
        for n in 0..NODES {
            world.nodes[n].says = saying(&[]);
        }
        let ups = world.random.below(NODES as u64) as usize;
        policies.run(&mut world, 20_000);
        for ids in [
            &["on-battery.ups"][..],
            &["on-battery.ups", "low.ups"],
            &["on-battery.ups", "low.ups", "last.ups"],
            &[],
        ] {
            let began = world.now_ms;
            world.nodes[ups].says = saying(ids);
            policies.run(&mut world, 60_000);
            let held = if ids.is_empty() { 30_000 } else { 0 };
            let last = (0..NODES).map(|n| policies.since(n) - began - held).max().unwrap_or(0);
            late.entry("the last node follows").or_default().push(last);
        }
        for n in 0..NODES {
            assert_eq!(policies.order(n), [0, 1, 2, 3, 0], "seed {seed}: node {n}");
        }
    }
    told(&mut late);
    assert!(late.values().flatten().all(|ms| *ms < 10_000), "within ten seconds");
}

/// Who is cut off goes by what was last heard, and not for ever.
#[test]
fn a_node_that_is_cut_off_goes_by_what_it_heard_until_that_is_too_old() {
    for seed in 0..seeds() / 10 {
        let (mut world, mut policies) = (World::new(seed), Policies::new());
        for n in 0..NODES {
            world.nodes[n].says = saying(&[]);
        }
        policies.run(&mut world, 20_000);
        world.nodes[0].says = saying(&["on-battery.ups", "low.ups"]);
        policies.run(&mut world, 20_000);
        let cut = world.now_ms;
        world.sides[1] = 1;
        // Mains are back for those who hear of it.
        world.nodes[0].says = saying(&[]);
        policies.run(&mut world, EXPIRES.as_millis() as u64 - 30_000);
        assert_eq!(policies.order(1), [0, 2], "seed {seed}: it keeps to it");
        assert_eq!(policies.order(2), [0, 2, 0], "seed {seed}");
        policies.run(&mut world, 90_000);
        assert_eq!(policies.order(1), [0, 2, 0], "seed {seed}: that is too old");
        let held = policies.since(1) - cut;
        assert!((100_000..160_000).contains(&held), "seed {seed}: after {held} ms");
        // Nobody's agent says anything: that is not "nothing is raised".
        world.sides[1] = 0;
        world.nodes[0].says = saying(&["on-battery.ups"]);
        policies.run(&mut world, 20_000);
        world.nodes[0].says = None;
        policies.run(&mut world, 60_000);
        assert_eq!(policies.order(1), [0, 2, 0, 1], "seed {seed}");
    }
}
