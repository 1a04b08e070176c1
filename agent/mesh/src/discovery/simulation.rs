//! Racks in virtual time, over many seeds: nodes die, cables are pulled, datagrams are
//! lost, and what must hold whatever happens.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::SocketAddr,
};

use purlin_core::mesh::{hashed::mix, pick::spread};

use super::{
    gossip::{Change, Gossip, Member, Outcome},
    seal::Beside,
};

const SEEDS: u64 = 300;
const NODES: usize = 5;

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

fn beside(n: usize) -> Beside {
    Beside { sender: name(n), ..Beside::default() }
}

impl World {
    fn new(seed: u64) -> Self {
        let nodes = (0..NODES).map(|_| Node { gossip: None, up: BTreeSet::new(), lives: 0 });
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
            let now_ms = self.now_ms;
            let Some(gossip) = &mut self.nodes[to].gossip else { continue };
            let came = gossip.receive(&bytes, now_ms, &beside(to));
            let (theirs, outcome) = came.expect("whole and new");
            assert_eq!(theirs.sender, name(from));
            self.take(to, outcome);
        }
        for n in 0..NODES {
            let now_ms = self.now_ms;
            let Some(gossip) = &mut self.nodes[n].gossip else { continue };
            if gossip.next_at() <= now_ms {
                let outcome = gossip.tick(now_ms, &beside(n));
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
    for seed in 0..SEEDS {
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
    for seed in 0..SEEDS / 10 {
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
