//! `purlin numa`: what can be placed where. It changes nothing and asks no agent: the
//! machine is read here and now, as `purlin hw` does, and taken as empty.

use purlin_core::{
    idset::IdSet,
    place::{
        decide::{Decision, Placed, Refusal, Situation, place},
        machine::{Device, Machine},
        nodes::Nodes,
    },
};
use purlin_daemon::{helper, workload};
use purlin_proto::api;
use serde::Serialize;

use crate::{
    args::{NumaArgs, NumaCommand},
    document,
    exit::{Ended, Exit, Failure},
    output::Output,
};

mod page;

/// `purlin numa …`
pub fn run(args: &NumaArgs, output: &Output) -> Ended {
    let inventory = helper::inventory(args.root.as_deref());
    let machine = Machine::of(&inventory)
        .map_err(|why| Failure::Failed(format!("nothing can be placed on this machine: {why}")))?;
    match &args.command {
        NumaCommand::Map => {
            output.show(&map(&machine), |width| page::map(&map(&machine), width))?;
            Ok(Exit::Ok)
        }
        NumaCommand::WhatIf { file, written } => {
            let body = document::read(file, written.format)?;
            let request = workload::read(body.content_type.unwrap_or_default(), &body.bytes);
            let request = request.map_err(|refusals| {
                let error = format!("{} is not a workload", document::name(file));
                Failure::Refused(api::Error { error, refusals })
            })?;
            let (placed, reserved) = (Placed::new(), IdSet::default());
            let situation = Situation { machine: &machine, placed: &placed, reserved: &reserved };
            let answer = Answer::from(place(&situation, &request));
            output.show(&answer, |width| page::answer(&answer, width))?;
            Ok(if matches!(answer, Answer::Fits(_)) { Exit::Ok } else { Exit::Faults })
        }
    }
}

/// What comes of a question.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Fits(Decision),
    DoesNotFit(Box<Refusal>),
}

impl From<Result<Decision, Box<Refusal>>> for Answer {
    fn from(result: Result<Decision, Box<Refusal>>) -> Self {
        result.map_or_else(Self::DoesNotFit, Self::Fits)
    }
}

/// What there is to give, by node.
#[derive(Debug, Serialize)]
struct Map {
    nodes: Vec<MapNode>,
    /// Devices that tell no node.
    elsewhere: Vec<MapDevice>,
}

#[derive(Debug, Serialize)]
struct MapNode {
    id: u32,
    cpus: IdSet,
    cores: usize,
    last_level_caches: usize,
    /// Bytes.
    memory: u64,
    /// Page size in bytes → bytes.
    hugepages: std::collections::BTreeMap<u64, u64>,
    /// To each node in the order listed, 10 = local.
    distances: Vec<u32>,
    devices: Vec<MapDevice>,
}

#[derive(Debug, Serialize)]
struct MapDevice {
    kind: String,
    name: String,
    /// Root bus, bridges, and the device itself.
    path: Vec<String>,
}

fn map(machine: &Machine) -> Map {
    let device = |it: &Device| MapDevice {
        kind: it.kind.clone(),
        name: it.name.clone(),
        path: it.path.clone(),
    };
    let devices = |node: Option<u32>| {
        machine.devices.iter().filter(|it| it.node == node).map(device).collect()
    };
    let node = |number: u32| {
        let node = &machine.nodes[number as usize];
        let here = || machine.pus.iter().filter(move |(_, place)| place.node == number);
        let distinct = |of: fn(&purlin_core::place::cpus::Place) -> u32| {
            here().map(|(_, place)| of(place)).collect::<std::collections::BTreeSet<_>>().len()
        };
        MapNode {
            id: node.id,
            cpus: here().map(|(pu, _)| *pu).collect(),
            cores: distinct(|place| place.core),
            last_level_caches: distinct(|place| place.l3),
            memory: node.memory,
            hugepages: node.hugepages.clone(),
            distances: machine
                .all()
                .iter()
                .map(|to| machine.distances.between(number, to))
                .collect(),
            devices: devices(Some(number)),
        }
    };
    let all: Nodes = machine.all();
    Map { nodes: all.iter().map(node).collect(), elsewhere: devices(None) }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use purlin_core::place::{cpus::Place, machine::Node, nodes::Distances};

    use super::*;
    use crate::sample;

    /// Two nodes of two cores with two threads; a GPU and a NIC on the second.
    fn machine() -> Machine {
        let place = |pu: u32| {
            let core = pu % 4;
            (pu, Place { node: core / 2, package: core / 2, l3: core / 2, core })
        };
        let node = |id| Node { id, memory: 8 << 30, ..Node::default() };
        let device = |kind: &str, name: &str| Device {
            name: name.into(),
            kind: kind.into(),
            node: Some(1),
            path: vec!["0000:80".into(), "0000:80:01.0".into(), name.into()],
            ..Device::default()
        };
        Machine {
            nodes: vec![node(0), node(1)],
            distances: Distances::new(2, |from, to| if from == to { 10 } else { 21 }),
            pus: (0..8).map(place).collect(),
            devices: vec![device("gpu", "0000:81:00.0"), device("nic", "eth0")],
        }
    }

    #[track_caller]
    fn check(workload: &str, expected: Expect) {
        let request = workload::read("application/toml", workload.as_bytes()).expect("a workload");
        let (machine, placed, reserved) = (machine(), Placed::new(), IdSet::default());
        let situation = Situation { machine: &machine, placed: &placed, reserved: &reserved };
        let answer = Answer::from(place(&situation, &request));
        expected.assert_eq(&sample::strip(&page::answer(&answer, Some(80))));
    }

    #[test]
    fn a_map_has_a_row_for_each_node() {
        expect![[r#"
            NODE  CPUS     CORES  CACHES  MEMORY  DISTANCES  DEVICES
               0  0-1,4-5      2       1   8 GiB  10 21      none
               1  2-3,6-7      2       1   8 GiB  21 10      gpu 0000:81:00.0, nic eth0
        "#]]
        .assert_eq(&sample::strip(&page::map(&map(&machine()), Some(80))));
    }

    #[test]
    fn a_place_comes_with_its_reasons() {
        check(
            "exclusive_cpus = 2\nmemory_mib = 1024\ndevices = { gpu = 1, nic = 1 }\n",
            expect![[r#"
                NUMA nodes   1
                CPUs         2,6 for itself alone
                devices      0000:81:00.0, eth0
                because      1 NUMA node, 1 last-level cache

                ASKED FOR      HOW MUCH  LEFT ON EACH NODE
                exclusive PUs         2  0: 4, 1: 4
                memory            1 GiB  0: 8 GiB, 1: 8 GiB
                gpu                   1  0: 0, 1: 1
                nic                   1  0: 0, 1: 1

                NODES  WHY NOT
                0      0 of 1 gpu
            "#]],
        );
    }

    #[test]
    fn no_place_comes_with_what_is_short_where() {
        check(
            "exclusive_cpus = 3\nmemory_mib = 9000\npolicy = \"single-numa-node\"\n",
            expect![[r#"
                no place     no single NUMA node has room for all of it

                ASKED FOR      HOW MUCH  LEFT ON EACH NODE
                exclusive PUs         3  0: 4, 1: 4
                memory          8.8 GiB  0: 8 GiB, 1: 8 GiB
            "#]],
        );
        check(
            "exclusive_cpus = 9\n",
            expect![[r#"
            no place     the whole machine has only 8 of 9 exclusive PUs left

            ASKED FOR      HOW MUCH  LEFT ON EACH NODE
            exclusive PUs         9  0: 4, 1: 4

            NODES  WHY NOT
            0      4 of 9 exclusive PUs
            1      4 of 9 exclusive PUs
        "#]],
        );
    }
}
