//! Decides where one workload goes, and says why.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec,
    vec::Vec,
};

use serde::{Deserialize, Serialize};

use super::{
    cpus::{Cores, take_packed, take_whole},
    hint::{self, Hint},
    machine::{Device, Machine, Node},
    nodes::Nodes,
    optimize::{self, Devices},
    request::{Cpus, Policy, Request, Smt},
    room::Room,
};
use crate::idset::IdSet;

/// The most sets of nodes a [`Why`] lists as rejected: a person reads a dozen.
const MAX_REJECTED: usize = 12;

/// Where a workload is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Kernel ids of the nodes its memory and its CPUs are on.
    pub nodes: IdSet,
    /// PUs for itself alone; `None` if it shares.
    pub exclusive: Option<IdSet>,
    /// Devices, by name.
    pub devices: Vec<String>,
}

/// What is placed already, by workload.
pub type Placed = BTreeMap<String, (Request, Placement)>;

/// A placement and its reasons.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Where.
    pub placement: Placement,
    /// Why there.
    pub why: Why,
}

/// Why a workload can't be placed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// In one sentence.
    pub reason: String,
    /// What was looked at.
    pub why: Why,
}

/// What comes of a question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// There is a place.
    Fits(Decision),
    /// There is none.
    DoesNotFit(Box<Refusal>),
}

impl From<Result<Decision, Box<Refusal>>> for Answer {
    fn from(result: Result<Decision, Box<Refusal>>) -> Self {
        result.map_or_else(Self::DoesNotFit, Self::Fits)
    }
}

/// What a decision was made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// The policy asked for.
    pub policy: Policy,
    /// What was asked of each resource, and what each node had.
    pub resources: Vec<Asked>,
    /// Sets of nodes that were better but would not do, the best first, a dozen at most.
    pub rejected: Vec<Rejected>,
    /// By what the choice was made; `None` if there was none.
    pub score: Option<Score>,
    /// The search ended before it had seen everything: the part of the score that might
    /// still be better, and the best it could be.
    pub gap: Option<Gap>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// `exclusive PUs`, `memory`, `gpu` …
    pub resource: String,
    /// How much, in the resource's unit.
    pub asked: u64,
    /// `{PU}`, `By`, `{device}`, `m{CPU}`.
    pub unit: String,
    /// What each node has left for it, by kernel id.
    pub left: BTreeMap<u32, u64>,
    /// The fewest nodes that could serve it on an empty machine; `None` if none could.
    pub nodes_at_least: Option<u32>,
}

/// A set of nodes that would not do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Kernel ids.
    pub nodes: IdSet,
    /// What is short there.
    pub why: String,
}

/// What the best placement is chosen by, the first that differs decides; less is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Score {
    /// Nodes.
    pub nodes: u32,
    /// Mean distance among them, 10 = local.
    pub distance: f64,
    /// What transfers between its devices cross, summed over all pairs (0 = a switch …
    /// 3 = the system).
    pub crossings: u32,
    /// Kinds of cores that its exclusive PUs are of.
    pub kinds: u32,
    /// How many kinds of the machine's cores are faster than the slowest of them.
    pub slower: u32,
    /// Last-level caches its exclusive PUs are spread over.
    pub caches: u32,
    /// Exclusive PUs beside a thread of somebody else.
    pub shared_cores: u32,
    /// PUs left over in those caches.
    pub left_over: u32,
}

/// How far from the best a choice may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Which part of the score.
    pub of: String,
    /// What was found.
    pub found: u32,
    /// What nothing can be better than.
    pub bound: u32,
}

/// What is there, and what is taken.
#[derive(Debug)]
pub struct Situation<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Everybody who is placed.
    pub placed: &'a Placed,
    /// PUs that nobody gets for itself alone.
    pub reserved: &'a IdSet,
}

impl Situation<'_> {
    /// True if a placement that somebody has may stay: what it has is there, is nobody
    /// else's, and is what is asked for. Its devices stay where they are in any case.
    pub fn holds(&self, request: &Request, placement: &Placement) -> bool {
        let left = Left::new(self);
        let cpus = match (request.cpus, &placement.exclusive) {
            (Cpus::Shared { .. }, None) => true,
            (Cpus::Exclusive { count, smt }, Some(cpus)) => {
                let whole = || Cores::within(&self.machine.pus, cpus).pus() == count;
                let whole = smt == Smt::Any || whole();
                cpus.len() == count && cpus.is_subset(&left.exclusive) && whole
            }
            _ => false,
        };
        let nodes = self.machine.numbers(&placement.nodes);
        let there = nodes.len() as usize == placement.nodes.len() && nodes.len() > 0;
        let room = |resource: &Resource| resource.left.on(nodes) >= resource.wanted;
        let mut memory = left.memories(request).into_iter();
        cpus && there && memory.all(|it| room(&it))
    }
}

/// What is left on each node of what a request asks for.
pub(super) fn left(situation: &Situation<'_>, request: &Request) -> Vec<Asked> {
    let resources = Left::new(situation).resources(request);
    resources.iter().map(|it| it.asked(situation.machine)).collect()
}

/// Places one workload.
pub fn place(situation: &Situation<'_>, request: &Request) -> Result<Decision, Box<Refusal>> {
    let left = Left::new(situation);
    let resources = left.resources(request);
    let asked = resources.iter().map(|it| it.asked(situation.machine)).collect();
    let mut why = Why { policy: request.policy, resources: asked, ..Why::default() };
    let possible = left.check_whole_cores(request.cpus).and(left.check_kinds(request));
    let placed = possible.and_then(|()| {
        let placed = match request.policy {
            Policy::Optimal => optimize::place(&left, &resources, request, &mut why),
            policy => {
                let all = situation.machine.all();
                let hints = resources.iter().map(|it| it.hints(all)).collect();
                nodes_by(policy, hints, all).and_then(|nodes| left.fill(nodes, request))
            }
        };
        placed.map_err(|reason| left.and_cores(request.cpus, reason))
    });
    match placed {
        Ok(placement) => Ok(Decision { placement, why }),
        Err(reason) => Err(Box::new(Refusal { reason, why })),
    }
}

/// One thing that is asked for, and what there is of it.
pub(super) struct Resource {
    name: String,
    unit: &'static str,
    pub(super) wanted: u64,
    /// Now, by the set of nodes it has to be on.
    pub(super) left: Room,
    /// On an empty machine.
    ever: Room,
}

impl Resource {
    /// What is short on a set of nodes, in words.
    pub(super) fn short_on(&self, nodes: Nodes) -> Option<String> {
        let left = self.left.on(nodes);
        (left < self.wanted).then(|| format!("{left} of {} {}", self.wanted, self.name))
    }

    /// The fewest nodes that could serve it on an empty machine.
    fn nodes_at_least(&self, all: Nodes) -> Option<u32> {
        let enough = all.subsets().filter(|set| self.ever.on(*set) >= self.wanted);
        enough.map(Nodes::len).min()
    }

    /// What it says of each set of nodes, as kubelet's managers do: preferred is a set no
    /// larger than the smallest that could serve it on an empty machine.
    pub(super) fn hints(&self, all: Nodes) -> Vec<Hint> {
        let least = self.nodes_at_least(all);
        let enough = all.subsets().filter(|set| self.left.on(*set) >= self.wanted);
        let hint = |set: Nodes| Hint { nodes: Some(set), preferred: Some(set.len()) == least };
        enough.map(hint).collect()
    }

    fn asked(&self, machine: &Machine) -> Asked {
        let node =
            |(number, node): (u32, &Node)| (node.id, self.left.on([number].into_iter().collect()));
        Asked {
            resource: self.name.clone(),
            asked: self.wanted,
            unit: self.unit.into(),
            left: (0..).zip(&machine.nodes).map(node).collect(),
            nodes_at_least: self.nodes_at_least(machine.all()),
        }
    }
}

/// The nodes that kubelet's topology manager would choose.
pub(super) fn nodes_by(
    policy: Policy,
    mut hints: Vec<Vec<Hint>>,
    all: Nodes,
) -> Result<Nodes, String> {
    match policy {
        Policy::None => return Ok(all),
        Policy::SingleNumaNode => hints.iter_mut().for_each(hint::keep_single),
        _ => {}
    }
    match (policy, hint::merge(all, &hints, None)) {
        (Policy::BestEffort, merged) => Ok(merged.nodes),
        (_, merged) if merged.preferred => Ok(merged.nodes),
        (Policy::SingleNumaNode, _) => Err("no single NUMA node has room for all of it".into()),
        _ => Err("all of it together would need more NUMA nodes than it should".into()),
    }
}

/// What is left for one more.
pub(super) struct Left<'a> {
    pub(super) machine: &'a Machine,
    placed: &'a Placed,
    /// PUs that one workload may have for itself alone, on an empty machine.
    ever: IdSet,
    /// The same, now.
    pub(super) exclusive: IdSet,
    /// Those of them in cores that are free as a whole.
    pub(super) whole: IdSet,
    pub(super) devices: Vec<&'a Device>,
}

impl<'a> Left<'a> {
    pub(super) fn new(situation: &Situation<'a>) -> Self {
        let machine = situation.machine;
        let all: IdSet = machine.pus.keys().copied().collect();
        let ever = all.difference(situation.reserved);
        let placements = || situation.placed.values().map(|(_, placement)| placement);
        let given = placements().filter_map(|it| it.exclusive.as_ref());
        let taken: BTreeSet<&str> =
            placements().flat_map(|it| &it.devices).map(String::as_str).collect();
        let exclusive = given.fold(ever.clone(), |left, given| left.difference(given));
        Self {
            machine,
            placed: situation.placed,
            whole: whole_cores(machine, &exclusive),
            exclusive,
            ever,
            devices: machine.devices.iter().filter(|it| !taken.contains(&*it.name)).collect(),
        }
    }

    /// Everything a request asks for.
    pub(super) fn resources(&self, request: &Request) -> Vec<Resource> {
        let mut resources = Vec::from([self.cpus(request.cpus)]);
        resources.extend(self.memories(request));
        for (kind, count) in &request.devices {
            let of_kind = |devices: &[&Device]| self.on_nodes(devices, |it| it.is(kind));
            resources.push(Resource {
                name: kind.clone(),
                unit: "{device}",
                wanted: *count as u64,
                left: of_kind(&self.devices),
                ever: of_kind(&self.machine.devices.iter().collect::<Vec<_>>()),
            });
        }
        for name in &request.given {
            let all: Vec<&Device> = self.machine.devices.iter().collect();
            let given = self.on_nodes(&all, |it| it.name == *name);
            let (left, ever) = (given.clone(), given);
            resources.push(Resource {
                name: name.clone(),
                unit: "{device}",
                wanted: 1,
                left,
                ever,
            });
        }
        resources.retain(|resource| resource.wanted > 0);
        resources
    }

    /// Memory, and hugepages of each size.
    fn memories(&self, request: &Request) -> Vec<Resource> {
        let (asked, has) = (|it: &Request| it.memory, |node: &Node| node.memory);
        let mut resources = Vec::from([self.memory("memory", asked, has, request)]);
        for size in request.hugepages.keys() {
            let of = |pools: &BTreeMap<u64, u64>| pools.get(size).copied().unwrap_or(0);
            let name = format!("hugepages of {} KiB", size >> 10);
            let (asked, has) =
                (|it: &Request| of(&it.hugepages), |node: &Node| of(&node.hugepages));
            resources.push(self.memory(&name, asked, has, request));
        }
        resources
    }

    fn cpus(&self, cpus: Cpus) -> Resource {
        match cpus {
            Cpus::Exclusive { count, smt } => {
                let room = |free: &IdSet| match smt {
                    Smt::Any => Room::new(&self.per_node(free), []),
                    Smt::FullCores => self.whole_cores(free, count),
                };
                let name = match smt {
                    Smt::Any => "exclusive PUs",
                    Smt::FullCores => "exclusive PUs in whole cores",
                };
                Resource {
                    name: name.into(),
                    unit: "{PU}",
                    wanted: count as u64,
                    left: room(&self.exclusive),
                    ever: room(&self.ever),
                }
            }
            Cpus::Shared { milli } => {
                let all: IdSet = self.machine.pus.keys().copied().collect();
                let room = |shared: &IdSet, bound| {
                    let milli = self.per_node(shared).into_iter().map(|pus| pus * 1000);
                    Room::new(&milli.collect::<Vec<_>>(), bound)
                };
                let given = self.ever.difference(&self.exclusive);
                Resource {
                    name: "shared CPUs".into(),
                    unit: "m{CPU}",
                    wanted: milli,
                    left: room(&all.difference(&given), self.bound(Request::milli)),
                    ever: room(&all, Vec::new()),
                }
            }
        }
    }

    fn memory(
        &self,
        name: &str,
        asked: impl Fn(&Request) -> u64,
        has: impl Fn(&Node) -> u64,
        request: &Request,
    ) -> Resource {
        let has: Vec<u64> = self.machine.nodes.iter().map(has).collect();
        Resource {
            name: name.into(),
            unit: "By",
            wanted: asked(request),
            ever: Room::new(&has, []),
            left: Room::new(&has, self.bound(asked)),
        }
    }

    /// What everybody who is placed has of something, and on which nodes.
    fn bound(&self, asked: impl Fn(&Request) -> u64) -> Vec<(Nodes, u64)> {
        let numbers = |ids: &IdSet| self.machine.numbers(ids);
        self.placed.values().map(|(it, at)| (numbers(&at.nodes), asked(it))).collect()
    }

    fn per_node(&self, pus: &IdSet) -> Vec<u64> {
        let mut count = vec![0; self.machine.nodes.len()];
        for place in pus.iter().filter_map(|pu| self.machine.pus.get(&pu)) {
            count[place.node as usize] += 1;
        }
        count
    }

    /// A device whose node nobody knows is as near to one as to another.
    fn on_nodes(&self, devices: &[&Device], wanted: impl Fn(&Device) -> bool) -> Room {
        let mut count = vec![0; self.machine.nodes.len()];
        let mut anywhere = 0;
        for device in devices.iter().filter(|it| wanted(it)) {
            match device.node {
                Some(node) => count[node as usize] += 1,
                None => anywhere += 1,
            }
        }
        Room::new(&count, []).and_anywhere(anywhere)
    }

    /// What whole cores offer: where they are not alike, on sets of nodes that can't make
    /// up just so many PUs, the most below that they can.
    fn whole_cores(&self, free: &IdSet, count: usize) -> Room {
        let whole = whole_cores(self.machine, free);
        let has = self.per_node(&whole);
        let room = Room::new(&has, []);
        let alike = Cores::within(&self.machine.pus, &whole).alike();
        if alike.is_some_and(|threads| count.is_multiple_of(threads)) {
            return room;
        }
        let on = |node: u32| self.on(Nodes::of(1 << node), &whole);
        let cores = |node: u32| Cores::within(&self.machine.pus, &on(node));
        let nodes: Vec<Cores> = self.machine.all().iter().map(cores).collect();
        room.limited(|set| {
            let mut cores = Cores::default();
            set.iter().for_each(|node| cores.add(&nodes[node as usize]));
            let most = cores.most(count);
            if most == count { u64::MAX } else { most as u64 }
        })
    }

    /// Whether whole cores of the machine could ever have so many PUs.
    fn check_whole_cores(&self, cpus: Cpus) -> Result<(), String> {
        let Cpus::Exclusive { count, smt: Smt::FullCores } = cpus else { return Ok(()) };
        let all = Cores::within(&self.machine.pus, &self.machine.pus.keys().copied().collect());
        match all.alike() {
            Some(threads) if !count.is_multiple_of(threads) => {
                Err(format!("{count} PUs are not whole cores of {threads}; ask for a multiple"))
            }
            None if count <= all.pus() && all.most(count) < count => Err(format!(
                "{count} PUs are not whole cores: the machine has {}; ask for {} or another sum",
                all.words(),
                all.most(count)
            )),
            _ => Ok(()),
        }
    }

    /// Whether there is any device of each kind that only CDI can name.
    fn check_kinds(&self, request: &Request) -> Result<(), String> {
        let there = |kind: &str| self.machine.devices.iter().any(|it| it.is(kind));
        let mut asked = request.devices.iter().filter(|(_, count)| **count > 0);
        match asked.find(|(kind, _)| kind.contains('/') && !there(kind)) {
            Some((kind, _)) => Err(format!(
                "no CDI specification on this node names {kind}; `purlin numa map` lists what \
                 there is"
            )),
            None => Ok(()),
        }
    }

    /// A reason for a refusal, and what whole cores are left if there are enough of them.
    fn and_cores(&self, cpus: Cpus, reason: String) -> String {
        let cores = Cores::within(&self.machine.pus, &self.whole);
        match cpus {
            Cpus::Exclusive { count, smt: Smt::FullCores } if cores.pus() >= count => {
                format!("{reason}; whole cores that are left: {}", cores.words())
            }
            _ => reason,
        }
    }

    /// Those PUs of a set that are on some nodes.
    fn on(&self, nodes: Nodes, pus: &IdSet) -> IdSet {
        let there = |pu: &u32| self.machine.pus.get(pu).is_some_and(|it| nodes.has(it.node));
        pus.iter().filter(there).collect()
    }

    /// What kubelet's managers give once the nodes are chosen: from there as far as it
    /// goes, the rest from elsewhere.
    fn fill(&self, nodes: Nodes, request: &Request) -> Result<Placement, String> {
        let exclusive = match request.cpus {
            Cpus::Shared { .. } => None,
            Cpus::Exclusive { count, smt } => Some(self.take(nodes, count, smt)?),
        };
        let mut devices = Devices::new(self, request);
        let (_, chosen) = devices
            .nearest(nodes, u32::MAX)
            .or_else(|| devices.nearest(self.machine.all(), u32::MAX))
            .ok_or("its devices are not there, or not near enough to each other")?;
        let devices = devices.names(&chosen);
        Ok(Placement { nodes: self.machine.ids(nodes), exclusive, devices })
    }

    fn take(&self, nodes: Nodes, count: usize, smt: Smt) -> Result<IdSet, String> {
        let places = &self.machine.pus;
        let free = match smt {
            Smt::Any => &self.exclusive,
            Smt::FullCores => &self.whole,
        };
        let near = self.on(nodes, free);
        let most = count.min(near.len());
        let taken = match smt {
            Smt::Any => take_packed(places, &near, most).and_then(|first| {
                let rest = take_packed(places, &free.difference(&first), count - first.len());
                Some(first.union(&rest?))
            }),
            Smt::FullCores => (0..=most).rev().find_map(|near_count| {
                let first = take_whole(places, &near, near_count)?;
                let rest = take_whole(places, &free.difference(&near), count - near_count);
                Some(first.union(&rest?))
            }),
        };
        taken.ok_or_else(|| {
            format!("{count} exclusive PUs are asked for, and {} are left", free.len())
        })
    }
}

/// The PUs of those cores that are free as a whole.
fn whole_cores(machine: &Machine, free: &IdSet) -> IdSet {
    let mut busy: BTreeSet<u32> = BTreeSet::new();
    busy.extend(machine.pus.iter().filter(|(pu, _)| !free.contains(**pu)).map(|(_, it)| it.core));
    let whole = |pu: &u32| machine.pus.get(pu).is_some_and(|it| !busy.contains(&it.core));
    free.iter().filter(whole).collect()
}

/// Adds a set of nodes to those that would not do.
pub(super) fn reject(why: &mut Why, machine: &Machine, nodes: Nodes, short: String) {
    if why.rejected.len() < MAX_REJECTED {
        why.rejected.push(Rejected { nodes: machine.ids(nodes), why: short });
    }
}
