//! `purlin numa`: what can be placed where, and what is.
//!
//! The machine is read here and now, as `purlin hw` does. Who is on it the agent says, or
//! the state that it left on disk; with a dump, nobody is.

use std::{fs, io, io::Write, path::Path};

use purlin_core::{
    idset::IdSet,
    inventory::Inventory,
    place::{
        book::{Outcome, Overview},
        decide::{Answer, Placed, Placement, Situation, place},
        machine::{Device, Machine},
        nodes::Nodes,
        repack::Plan,
        request::Request,
    },
};
use purlin_daemon::{helper, offline, workload};
use purlin_proto::api;
use serde::Serialize;

use crate::{
    args::{Global, NumaArgs, NumaCommand},
    client::{Body, Client, DEADLINE},
    document,
    exit::{Ended, Exit, Failure},
    output::{Output, note},
};

mod draw;
mod page;
mod running;

/// `purlin numa …`
pub async fn run(args: &NumaArgs, global: &Global, output: &Output) -> Ended {
    let root = args.root.as_deref();
    match &args.command {
        NumaCommand::Map { svg } => {
            let machine = machine(&helper::inventory(root))?;
            let overview = match root {
                Some(_) => None,
                None => running::overview(global).await.ok(),
            };
            let overview = overview.unwrap_or_default();
            if let Some(file) = svg {
                return save(file, &draw::svg(&machine, &overview));
            }
            let map = map(&machine, &overview);
            output.show(&map, |width| page::map(&map, width))?;
            Ok(Exit::Ok)
        }
        NumaCommand::WhatIf { file, empty, written } => {
            let body = document::read(file, written.format)?;
            let request = request(file, &body)?;
            let answer = match root.is_some() || *empty {
                true => on_empty(&machine(&helper::inventory(root))?, &request),
                false => now(body, &request, global).await?,
            };
            output.show(&answer, |width| page::answer(&answer, width))?;
            Ok(if matches!(answer, Answer::Fits(_)) { Exit::Ok } else { Exit::Faults })
        }
        NumaCommand::Explain { workload } => {
            running::explain(workload.as_deref(), global, output).await
        }
        NumaCommand::Repack { file, budget_mib, apply, written } => {
            let body = document::read(file, written.format)?;
            let path = format!("/v1/placement/repack?budget_mib={budget_mib}&apply={apply}");
            let plan: Plan = Client::find(global)?.post(&path, body, DEADLINE).await?;
            output.show(&plan, |width| page::plan(&plan, *apply, width))?;
            Ok(Exit::Ok)
        }
        NumaCommand::Pause => running::pause(true, global, output).await,
        NumaCommand::Resume => running::pause(false, global, output).await,
    }
}

fn machine(inventory: &Inventory) -> Result<Machine, Failure> {
    Machine::of(inventory)
        .map_err(|why| Failure::Failed(format!("nothing can be placed on this machine: {why}")))
}

fn request(file: &Path, body: &Body) -> Result<Request, Failure> {
    let request = workload::read(body.content_type.unwrap_or_default(), &body.bytes);
    request.map_err(|refusals| {
        let error = format!("{} is not a workload", document::name(file));
        Failure::Refused(api::Error { error, refusals })
    })
}

fn on_empty(machine: &Machine, request: &Request) -> Answer {
    let (placed, reserved) = (Placed::new(), IdSet::default());
    place(&Situation { machine, placed: &placed, reserved: &reserved }, request).into()
}

/// Beside those who run here now, as the agent says, or as it left them.
async fn now(body: Body, request: &Request, global: &Global) -> Result<Answer, Failure> {
    let client = Client::find(global)?;
    let failure = match client.post("/v1/placement/what-if", body, DEADLINE).await {
        Err(Failure::Unreachable(unreachable)) => unreachable,
        answer => return answer,
    };
    let machine = machine(&helper::inventory(None))?;
    match client.boot().map(|boot| offline::book(boot, Some(machine.clone()))) {
        Some(Ok(book)) => {
            note(&format!("the agent can't be reached ({}): as it left things", failure.found));
            Ok(book.what_if(request).into())
        }
        _ => {
            note("no agent has run here: as if nothing else ran on this machine");
            Ok(on_empty(&machine, request))
        }
    }
}

fn save(file: &Path, document: &str) -> Ended {
    match file == Path::new("-") {
        true => io::stdout().write_all(document.as_bytes())?,
        false => fs::write(file, document)
            .map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?,
    }
    Ok(Exit::Ok)
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
    /// Those of them that somebody has for itself alone.
    taken: IdSet,
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
    /// CDI names by which it is asked for too.
    cdi: Vec<String>,
    /// Root bus, bridges, and the device itself.
    path: Vec<String>,
    /// Who has it.
    of: Option<String>,
}

fn map(machine: &Machine, overview: &Overview) -> Map {
    let everybody = || overview.containers.iter();
    let owner = |device: &str| {
        let mut all = everybody();
        let has = all.find(|it| {
            matches!(&it.outcome, Outcome::Placed(placement, _)
            if placement.devices.iter().any(|name| name == device))
        });
        has.map(|it| it.container.title())
    };
    let taken: IdSet = everybody()
        .flat_map(|it| {
            match &it.outcome {
                Outcome::Placed(Placement { exclusive: Some(cpus), .. }, _) => cpus.clone(),
                Outcome::Given(given) if given.exclusive => given.cpus.clone(),
                _ => IdSet::default(),
            }
            .iter()
            .collect::<Vec<_>>()
        })
        .collect();
    let device = |it: &Device| MapDevice {
        kind: it.kind.clone(),
        name: it.name.clone(),
        cdi: it.cdi.clone(),
        path: it.path.clone(),
        of: owner(&it.name),
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
            taken: here().map(|(pu, _)| *pu).filter(|pu| taken.contains(*pu)).collect(),
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
pub mod tests {
    use expect_test::{Expect, expect};
    use purlin_core::place::{cpus::Place, machine::Node, nodes::Distances};

    use super::*;
    use crate::sample;

    /// Two nodes of two cores with two threads; a GPU and a NIC on the second.
    pub fn machine() -> Machine {
        let place = |pu: u32| {
            let core = pu % 4;
            (pu, Place { node: core / 2, package: core / 2, l3: core / 2, core, kind: 0 })
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
        let answer = on_empty(&machine(), &request);
        expected.assert_eq(&sample::strip(&page::answer(&answer, Some(80))));
    }

    #[test]
    fn a_map_has_a_row_for_each_node() {
        expect![[r#"
            NODE  CPUS     TAKEN  CORES  CACHES  MEMORY  DISTANCES  DEVICES
               0  0-1,4-5  none       2       1   8 GiB  10 21      none
               1  2-3,6-7  none       2       1   8 GiB  21 10      gpu 0000:81:00.0, nic eth0
        "#]]
        .assert_eq(&sample::strip(&page::map(&map(&machine(), &Overview::default()), Some(90))));
    }

    #[test]
    fn what_others_call_a_device_and_what_only_they_know_is_on_the_map() {
        let mut machine = machine();
        machine.devices[0].cdi = vec!["purlin.io/gpu=0".into(), "nvidia.com/gpu=0".into()];
        machine.devices.push(Device {
            name: "acme.com/npu=left".into(),
            kind: "acme.com/npu".into(),
            cdi: vec!["acme.com/npu=left".into(), "acme.com/npu=0".into()],
            ..Device::default()
        });
        expect![[r#"
            NODE  CPUS     TAKEN  CORES  CACHES  MEMORY  DISTANCES  DEVICES
               0  0-1,4-5  none       2       1   8 GiB  10 21      none
               1  2-3,6-7  none       2       1   8 GiB  21 10      gpu 0000:81:00.0, nic eth0

            no node      acme.com/npu=left

            DEVICE             ALSO ASKED FOR AS
            0000:81:00.0       nvidia.com/gpu=0
            acme.com/npu=left  acme.com/npu=0
        "#]]
        .assert_eq(&sample::strip(&page::map(&map(&machine, &Overview::default()), Some(90))));
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
