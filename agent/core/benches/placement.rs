//! What one placement decision costs, for `docs/benchmarks.md`: `cargo bench -p purlin-core`.
//!
//! Kubelet's merge of hints, four providers with a hint for every set of nodes, and the
//! optimizer, on 512 CPUs with 16 GPUs and 16 NICs, at 2 to 16 NUMA nodes. Median of many
//! rounds; the sizes take turns, so that a slow moment of the machine is everybody's.

#![forbid(unsafe_code)]

use std::{collections::BTreeMap, hint::black_box, time::Duration, time::Instant};

use purlin_core::{
    idset::IdSet,
    place::{
        cpus::Place,
        decide::{Placed, Situation, place},
        hint::{Hint, merge},
        machine::{Device, Machine, Node},
        nodes::{Distances, Nodes},
        request::{Cpus, Request, Smt},
    },
};

const ROUNDS: usize = 51;
const NODES: [u32; 5] = [2, 4, 8, 12, 16];
const CORES: u32 = 256;

fn main() {
    let cases: Vec<Case> = NODES.into_iter().map(Case::new).collect();
    let mut times: Vec<[Vec<Duration>; 4]> = cases.iter().map(|_| Default::default()).collect();
    for _ in 0..ROUNDS {
        for (case, times) in cases.iter().zip(&mut times) {
            for (time, took) in times.iter_mut().zip(case.run()) {
                time.push(took);
            }
        }
    }
    println!("nodes  hint merge  4 CPUs, GPU, NIC  200 CPUs, 4 GPUs, 4 NICs  refused   (µs)");
    for (nodes, times) in NODES.into_iter().zip(times) {
        let [merge, small, large, refused] = times.map(median);
        println!("{nodes:5}  {merge:10}  {small:16}  {large:24}  {refused:7}");
    }
}

fn median(mut times: Vec<Duration>) -> u128 {
    times.sort();
    times[times.len() / 2].as_micros()
}

struct Case {
    all: Nodes,
    hints: Vec<Vec<Hint>>,
    machine: Machine,
}

impl Case {
    fn new(nodes: u32) -> Self {
        let hints = |provider: u32| {
            let hint = |bits: u32| Hint {
                nodes: Some(Nodes::of(bits)),
                preferred: bits.count_ones() == 1 + provider % 2,
            };
            (1..1 << nodes).map(hint).collect()
        };
        Self {
            all: (0..nodes).collect(),
            hints: (0..4).map(hints).collect(),
            machine: machine(nodes),
        }
    }

    fn run(&self) -> [Duration; 4] {
        let timed = |work: &dyn Fn()| {
            let began = Instant::now();
            work();
            began.elapsed()
        };
        let place = |count: usize, memory: u64, devices: usize| {
            timed(&|| {
                let kinds = ["gpu", "nic"].map(|kind| (kind.to_owned(), devices));
                let request = Request {
                    cpus: Cpus::Exclusive { count, smt: Smt::Any },
                    memory: memory << 30,
                    devices: BTreeMap::from(kinds),
                    ..Request::default()
                };
                let (placed, reserved) = (Placed::new(), IdSet::default());
                let situation =
                    Situation { machine: &self.machine, placed: &placed, reserved: &reserved };
                _ = black_box(place(&situation, &request));
            })
        };
        [
            timed(&|| _ = black_box(merge(self.all, &self.hints, None))),
            place(4, 1, 1),
            place(200, 100, 4),
            place(200, 4096, 4),
        ]
    }
}

/// Two packages, 32 last-level caches, two threads a core, 64 GiB a node, a GPU and a NIC
/// behind each of 16 ports.
fn machine(nodes: u32) -> Machine {
    let per_node = CORES.div_ceil(nodes);
    let place = |pu: u32| {
        let core = pu % CORES;
        (pu, Place { node: core / per_node, package: core / 128, l3: core / 8, core, kind: 0 })
    };
    let device = |number: u32| {
        let (port, node) = (number / 2, number / 2 % nodes);
        let root = format!("{node:02x}");
        Device {
            name: number.to_string(),
            kind: if number.is_multiple_of(2) { "gpu" } else { "nic" }.into(),
            node: Some(node),
            path: vec![root.clone(), format!("{root}:{port:02x}"), number.to_string()],
            ..Device::default()
        }
    };
    let node = |id| Node { id, memory: 64 << 30, ..Node::default() };
    Machine {
        nodes: (0..nodes).map(node).collect(),
        distances: Distances::new(nodes, |from, to| if from == to { 10 } else { 12 + (from ^ to) }),
        pus: (0..2 * CORES).map(place).collect(),
        devices: (0..32).map(device).collect(),
    }
}
