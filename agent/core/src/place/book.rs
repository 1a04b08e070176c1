//! The book of placements: every container that is known, what it asks for, and where it
//! is. What each cpuset should be follows from it.
//!
//! It disturbs as little as it can: what is placed stays where it is for as long as that
//! is possible, and a container that was there before us keeps the CPUs it has if they
//! will do. Time is an argument, in milliseconds since 1970 by a clock that may be wrong.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{
    container::{Container, Identity, Via},
    decide::{self, Decision, Placed, Placement, Refusal, Situation, Why},
    kubelet::Kubelet,
    machine::Machine,
    repack::Resident,
    request::{Cpus, Policy, Request, Smt},
    source::{self, Asked, Profile, Source},
    targets::{Target, Targets, Update},
};
use crate::idset::IdSet;

mod given;

pub use given::Given;

/// Containers that are known, at most: ten times what kubelet admits on a node, with
/// several in each pod.
pub const MAX_CONTAINERS: usize = 4096;
/// For this long a container that was told of need not have a cgroup yet.
const STARTING_MS: u64 = 60_000;

/// How placement is done: the part of the settings that is about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rules {
    /// Containers are placed.
    pub enabled: bool,
    /// PUs that no container gets for itself alone; `None`: a core of each node.
    pub reserved: Option<IdSet>,
    /// The policy of workloads that name none.
    pub policy: Policy,
    /// One that can't be placed is created all the same.
    pub fail_open: bool,
    /// Profiles by name.
    pub profiles: BTreeMap<String, Profile>,
    /// Memory that may be moved to make room for one that fits nowhere else, in bytes.
    pub repack: u64,
    /// What kubelet's CPU manager does, if it gives CPUs out itself.
    pub kubelet: Option<Kubelet>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            enabled: true,
            reserved: None,
            policy: Policy::default(),
            fail_open: false,
            profiles: BTreeMap::new(),
            repack: 0,
            kubelet: None,
        }
    }
}

/// One container that is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// As it was shown.
    pub container: Container,
    /// When it was first seen.
    pub since_ms: u64,
    /// What it asks for.
    pub asked: Asked,
    /// What became of that.
    pub outcome: Outcome,
}

/// Where a container is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Where we placed it, and why there.
    Placed(Placement, Why),
    /// Where somebody else bound it to.
    Given(Given),
    /// On the CPUs that nobody has for itself alone; why it is not where it asked to be.
    Shared(Option<Box<Refusal>>),
}

/// What a container that is to be created gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Its cpuset; `None`: leave it as it is.
    pub target: Option<Target>,
    /// Devices that were chosen for it: by CDI name (`vendor/class=name`), or by their own
    /// where they have none.
    pub devices: Vec<String>,
    /// Who asked.
    pub by: Source,
}

/// Who is where, and what every cpuset should be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// Every cpuset was given back.
    pub paused: bool,
    /// CPUs that no container gets from us for itself alone.
    pub reserved: IdSet,
    /// What every cpuset should be.
    pub targets: Targets,
    /// Everybody who is known.
    pub containers: Vec<Entry>,
}

/// What one more workload may have, for a scheduler that chooses among nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Exclusive PUs.
    pub exclusive: u64,
    /// The same on the node that has the most of them.
    pub exclusive_one_node: u64,
    /// Memory in bytes on the node that has the most of it.
    pub memory_one_node: u64,
    /// Devices by kind.
    pub devices: BTreeMap<String, u64>,
}

/// What is kept of a [`Book`] on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Every cpuset was given back.
    pub paused: bool,
    /// Generation of the targets.
    pub generation: u64,
    /// The containers.
    pub containers: Vec<Kept>,
}

/// One container on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in Entry")]
pub struct Kept {
    pub container: Container,
    pub since_ms: u64,
    pub outcome: Outcome,
}

/// Everybody's placement.
#[derive(Clone, Debug, Default)]
pub struct Book {
    rules: Rules,
    pub(super) machine: Option<Machine>,
    pub(super) reserved: IdSet,
    pub(super) entries: BTreeMap<String, Entry>,
    /// Those of the entries that have something for themselves.
    pub(super) placed: Placed,
    paused: bool,
    /// Shared with those who read them: there may be thousands.
    targets: Arc<Targets>,
}

impl Book {
    /// From what was kept of another. It holds once the machine is known.
    pub fn restore(saved: Saved) -> Self {
        let targets = Targets { generation: saved.generation, ..Targets::default() };
        let mut book = Self { paused: saved.paused, targets: Arc::new(targets), ..Self::default() };
        for Kept { container, since_ms, outcome } in saved.containers {
            let entry = Entry { container, since_ms, asked: Asked::default(), outcome };
            book.entries.insert(entry.container.id.clone(), entry);
        }
        book
    }

    /// What is to be kept.
    pub fn save(&self) -> Saved {
        let kept = |entry: &Entry| Kept {
            container: entry.container.clone(),
            since_ms: entry.since_ms,
            outcome: entry.outcome.clone(),
        };
        Saved {
            paused: self.paused,
            generation: self.targets.generation,
            containers: self.entries.values().map(kept).collect(),
        }
    }

    /// Who is where.
    pub fn overview(&self) -> Overview {
        Overview {
            paused: self.paused,
            reserved: self.reserved.clone(),
            targets: (*self.targets).clone(),
            containers: self.entries.values().cloned().collect(),
        }
    }

    /// What one more workload may have.
    pub fn room(&self) -> Room {
        let Some(machine) = &self.machine else { return Room::default() };
        let kinds = machine.devices.iter().map(|device| (device.kind.clone(), 1));
        let all = Request {
            cpus: Cpus::Exclusive { count: 1, smt: Smt::Any },
            memory: 1,
            devices: kinds.collect(),
            ..Request::default()
        };
        let mut room = Room::default();
        for asked in decide::left(&self.situation(machine), &all) {
            let most = asked.left.values().copied().max().unwrap_or(0);
            match &*asked.resource {
                "exclusive PUs" => {
                    room.exclusive = asked.left.values().sum();
                    room.exclusive_one_node = most;
                }
                "memory" => room.memory_one_node = most,
                kind => _ = room.devices.insert(kind.into(), asked.left.values().sum()),
            }
        }
        room
    }

    /// The containers by id.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Which services of the mesh its containers have endpoints of: the service, where, and
    /// whose.
    pub fn services(&self) -> Vec<(String, SocketAddr, String)> {
        let of = |entry: &Entry| {
            let doors = entry.asked.services.iter();
            let all = doors.map(|(service, door)| {
                (service.clone(), door.of(&entry.container), entry.container.title())
            });
            all.collect::<Vec<_>>()
        };
        self.entries.values().flat_map(of).collect()
    }

    /// Who its containers are, for rules of the mesh.
    pub fn identities(&self) -> Vec<Identity> {
        let of = |it: &Entry| it.container.identity(it.asked.identity.as_deref());
        self.entries.values().filter_map(of).collect()
    }

    /// True if a plan was made for a machine before.
    pub fn knows_machine(&self) -> bool {
        self.machine.is_some()
    }

    /// What every cpuset should be.
    pub fn targets(&self) -> &Arc<Targets> {
        &self.targets
    }

    /// True if every cpuset was given back.
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// A container is about to be created.
    pub fn admit(&mut self, now_ms: u64, container: Container) -> Result<Grant, Box<Refusal>> {
        let container = container.bounded();
        let id = container.id.clone();
        if self.entries.len() >= MAX_CONTAINERS && !self.entries.contains_key(&id) {
            return Err(refusal(format!(
                "{MAX_CONTAINERS} containers are known, which is the most there may be"
            )));
        }
        let asked = self.asked(&container);
        let given = self.given(&container, true);
        let old = self.forget(&id);
        let decided = match (given, &asked) {
            _ if !self.rules.enabled => Ok(Outcome::Shared(None)),
            (Some(given), _) => Ok(Outcome::Given(given)),
            (None, Ok(asked)) => self.decide(asked).or_else(|why| self.make_room(asked, why)),
            (None, Err(why)) => Err(refusal(why.clone())),
        };
        let asked = asked.unwrap_or_default();
        let may_share = self.rules.fail_open || asked.by == Source::Devices;
        let outcome = match decided {
            Err(refusal) if may_share => Outcome::Shared(Some(refusal)),
            Err(refusal) => {
                old.into_iter().for_each(|old| self.enter(old));
                return Err(refusal);
            }
            Ok(outcome) => outcome,
        };
        let devices = self.chosen(&asked, &outcome);
        let by = asked.by.clone();
        self.enter(Entry { container, since_ms: now_ms, asked, outcome });
        self.yield_to_others();
        self.settle();
        let target = self.targets.containers.get(&id).filter(|_| self.rules.enabled).cloned();
        Ok(Grant { target, devices, by })
    }

    /// These are all the containers that a runtime has; those it told of before and that
    /// are not among them are gone.
    pub fn adopt(&mut self, now_ms: u64, via: Via, all: Vec<Container>) -> Vec<Update> {
        let before = self.targets.clone();
        let there: BTreeSet<&str> = all.iter().map(|it| &*it.id).collect();
        let gone = |entry: &&Entry| {
            let age = now_ms.checked_sub(entry.since_ms);
            let starting = age.is_some_and(|age| age < STARTING_MS);
            let ours = match via {
                Via::Nri => entry.container.via == Via::Nri,
                // A cgroup is there for as long as the container is.
                _ => entry.container.via != Via::Nri && !starting,
            };
            ours && !there.contains(&*entry.container.id)
        };
        let gone: Vec<String> =
            self.entries.values().filter(gone).map(|it| it.container.id.clone()).collect();
        gone.iter().for_each(|id| _ = self.forget(id));
        self.place_the_misplaced();
        let pus = self.machine.iter().flat_map(|it| it.pus.keys().copied()).collect();
        let mut new = Vec::new();
        for container in all {
            match self.entries.get_mut(&container.id) {
                // Who knows more of it has told already.
                Some(entry) if container.via == Via::Found => entry.follow(container, &pus),
                Some(entry) => entry.container = container.bounded(),
                None => new.push(container.bounded()),
            }
        }
        // Those that are bound already have the first choice: they need not move.
        new.sort_by_key(|it| (it.resources.cpus.is_none(), it.id.clone()));
        new.truncate(MAX_CONTAINERS.saturating_sub(self.entries.len()));
        let ids: Vec<String> = new.iter().map(|it| it.id.clone()).collect();
        for container in new {
            self.take_in(now_ms, container);
        }
        self.settle();
        self.leave_to_others(&ids, &before.shared);
        self.settle();
        self.targets.since(&before)
    }

    /// A container's resources are about to be changed.
    pub fn update(&mut self, now_ms: u64, container: Container) -> Result<Grant, Box<Refusal>> {
        let Some(before) = self.entries.get(&container.id).cloned() else {
            return self.admit(now_ms, container);
        };
        let mut container = container;
        let ours = self.targets.containers.get(&container.id).map(|target| &target.cpus);
        if container.resources.cpus.as_ref() == ours {
            container.resources.cpus = None;
        }
        let asked = self.asked(&container).map_err(refusal)?;
        if asked == before.asked && self.given(&container, true).is_none() {
            let target = self.targets.containers.get(&container.id).cloned();
            let by = asked.by;
            return Ok(Grant { target, devices: Vec::new(), by });
        }
        let since_ms = before.since_ms;
        self.admit(since_ms, container)
    }

    /// A container is gone.
    pub fn remove(&mut self, id: &str) -> Vec<Update> {
        let before = self.targets.clone();
        self.forget(id);
        self.place_the_misplaced();
        self.settle();
        self.targets.since(&before)
    }

    /// The machine or the rules are others now. What still holds stays.
    pub fn replan(&mut self, machine: Option<Machine>, rules: Rules) -> Vec<Update> {
        let before = self.targets.clone();
        let reserved = rules.reserved.clone();
        self.reserved =
            reserved.or_else(|| Some(machine.as_ref()?.a_core_each())).unwrap_or_default();
        (self.machine, self.rules) = (machine, rules);
        // Somebody always shares: the last core is never given away.
        if let Some(machine) = &self.machine
            && !machine.pus.keys().any(|pu| self.reserved.contains(*pu))
        {
            let first = machine.pus.values().next().map(|place| place.core);
            let core = machine.pus.iter().filter(|(_, place)| Some(place.core) == first);
            self.reserved.extend(core.map(|(pu, _)| *pu));
        }
        if let Some(kubelet) = &self.rules.kubelet {
            self.reserved = self.reserved.union(&kubelet.managed());
        }
        let mut entries: Vec<Entry> = core::mem::take(&mut self.entries).into_values().collect();
        self.placed.clear();
        // Who is placed before who is not, the oldest first.
        let placed = |entry: &Entry| matches!(entry.outcome, Outcome::Placed(..));
        entries.sort_by_key(|it| (!placed(it), it.since_ms, it.container.id.clone()));
        let mut again = Vec::new();
        for mut entry in entries {
            // Wrong annotations were let in by rules of another time.
            let asked = self.asked(&entry.container).unwrap_or_default();
            let holds = match (&entry.outcome, &self.machine) {
                (_, None) => true,
                (Outcome::Given(_), _) => true,
                (Outcome::Placed(placement, _), Some(machine)) => {
                    self.situation(machine).holds(&asked.request, placement)
                }
                (Outcome::Shared(_), _) => false,
            };
            entry.asked = asked;
            if let Some(mut given) = self.given(&entry.container, false) {
                if let Outcome::Given(before) = &entry.outcome {
                    given.narrowed = before.narrowed;
                    given.mems = or(given.mems, &before.mems);
                }
                entry.outcome = Outcome::Given(given);
                self.enter(entry);
            } else if holds {
                self.enter(entry);
            } else {
                again.push(entry);
            }
        }
        for entry in again {
            self.place_running(entry);
        }
        self.yield_to_others();
        self.settle();
        self.targets.since(&before)
    }

    /// Gives every cpuset back, or takes it again.
    pub fn pause(&mut self, paused: bool) -> Vec<Update> {
        let before = self.targets.clone();
        self.paused = paused;
        self.settle();
        self.targets.since(&before)
    }

    /// Containers that matter less than this; who says nothing is none of them.
    pub fn below(&self, priority: u32) -> Vec<String> {
        let is_below = |entry: &&Entry| entry.asked.priority.is_some_and(|own| own < priority);
        self.entries.values().filter(is_below).map(|entry| entry.container.id.clone()).collect()
    }

    /// Where a request would go now.
    pub fn what_if(&self, request: &Request) -> Result<Decision, Box<Refusal>> {
        let machine = self.machine.as_ref().ok_or_else(|| {
            refusal("the machine's CPUs and nodes are not known yet: try again".to_string())
        })?;
        decide::place(&self.situation(machine), request)
    }

    fn decide(&self, asked: &Asked) -> Result<Outcome, Box<Refusal>> {
        if asked.by == Source::Nobody {
            return Ok(Outcome::Shared(None));
        }
        let Decision { mut placement, why } = self.what_if(&asked.request)?;
        placement.devices.extend(asked.request.given.iter().cloned());
        Ok(Outcome::Placed(placement, why))
    }

    /// Moves others, if that is allowed and makes room; `why` there is none.
    fn make_room(&mut self, asked: &Asked, why: Box<Refusal>) -> Result<Outcome, Box<Refusal>> {
        let plan = match self.rules.repack {
            0 => Err(why),
            // Nobody may wait here for what is resident: by what was asked for.
            budget => self.repack(&asked.request, budget, &Resident::new()).map_err(|_| why),
        }?;
        self.carry_out(&plan);
        self.decide(asked)
    }

    pub(super) fn situation<'a>(&'a self, machine: &'a Machine) -> Situation<'a> {
        Situation { machine, placed: &self.placed, reserved: &self.reserved }
    }

    /// What a container asks for, and what devices it has already.
    fn asked(&self, container: &Container) -> Result<Asked, String> {
        let mut asked = source::asked(container, &self.rules)?;
        asked.request.given =
            self.machine.as_ref().map(|it| it.named(&container.devices)).unwrap_or_default();
        if asked.by == Source::Nobody && !asked.request.given.is_empty() {
            asked.by = Source::Devices;
            asked.request.policy = self.rules.policy;
        }
        Ok(asked)
    }

    /// The devices that were chosen for a container, as its runtime is to be told.
    fn chosen(&self, asked: &Asked, outcome: &Outcome) -> Vec<String> {
        let Outcome::Placed(placement, _) = outcome else { return Vec::new() };
        let told = |name: &String| {
            let device = self.machine.as_ref()?.devices.iter().find(|it| it.name == *name);
            device?.told(asked.request.devices.keys()).cloned()
        };
        let new = placement.devices.iter().filter(|it| !asked.request.given.contains(it));
        new.map(|name| told(name).unwrap_or_else(|| name.clone())).collect()
    }

    /// Those that asked for more than they have may get it now.
    fn place_the_misplaced(&mut self) {
        let misplaced =
            |entry: &&Entry| matches!(entry.outcome, Outcome::Shared(Some(_))) && !self.paused;
        let again: Vec<Entry> = self.entries.values().filter(misplaced).cloned().collect();
        again.into_iter().for_each(|entry| self.place_running(entry));
    }

    /// Places a container that can't be refused any more. The devices that it has stay.
    fn place_running(&mut self, mut entry: Entry) {
        let mut asked = entry.asked.clone();
        if let Outcome::Placed(placement, _) = &entry.outcome {
            asked.request.given = placement.devices.clone();
        }
        asked.request.devices.clear();
        let refused = match &entry.outcome {
            // It asks for nothing because of how it asks.
            Outcome::Shared(refused) if entry.asked.by == Source::Nobody => refused.clone(),
            _ => None,
        };
        entry.outcome = match self.decide(&asked) {
            Ok(Outcome::Shared(_)) => Outcome::Shared(refused),
            Ok(outcome) => outcome,
            Err(refusal) => Outcome::Shared(Some(refusal)),
        };
        self.enter(entry);
    }

    pub(super) fn enter(&mut self, mut entry: Entry) {
        let id = entry.container.id.clone();
        let placed = match &mut entry.outcome {
            Outcome::Placed(placement, _) => Some((entry.asked.request.clone(), placement.clone())),
            Outcome::Given(given) if given.exclusive => Some(self.beside(given, &entry.container)),
            _ => None,
        };
        self.placed.extend(placed.map(|placed| (id.clone(), placed)));
        self.entries.insert(id, entry);
    }

    fn forget(&mut self, id: &str) -> Option<Entry> {
        self.placed.remove(id);
        self.entries.remove(id)
    }

    /// Works out what every cpuset should be.
    pub(super) fn settle(&mut self) {
        let Some(machine) = &self.machine else { return };
        let all: IdSet = machine.pus.keys().copied().collect();
        let off = self.paused || !self.rules.enabled;
        let shared = if off { all.clone() } else { self.shared(&all) };
        let everywhere = machine.with_memory(&machine.nodes.iter().map(|it| it.id).collect());
        for entry in self.entries.values_mut() {
            if let Outcome::Given(given) = &mut entry.outcome {
                given.narrowed |= !given.exclusive && !given.cpus.is_subset(&shared);
            }
        }
        let target = |entry: &Entry| {
            let mut target = Target {
                cgroup: entry.container.cgroup.clone(),
                cpus: shared.clone(),
                mems: everywhere.clone(),
                ..Target::default()
            };
            match &entry.outcome {
                // Its memory alone is ours, if nobody bound that.
                Outcome::Given(given) if given.exclusive && !given.near.is_empty() => {
                    target.exclusive = true;
                    target.cpus = or(given.cpus.intersection(&all), &shared);
                    if !off {
                        target.mems = given.near.clone();
                    }
                }
                Outcome::Given(given) if !given.narrowed => return None,
                // What it was given is left to it as far as nobody has it for itself alone,
                // and it gets back what was not.
                Outcome::Given(given) => {
                    target.cpus = or(given.cpus.intersection(&shared), &shared);
                    target.mems = or(given.mems.clone(), &everywhere);
                }
                Outcome::Placed(placement, _) if !off => {
                    target.isolated = entry.asked.isolated && placement.exclusive.is_some();
                    target.exclusive = placement.exclusive.is_some();
                    target.cpus = match &placement.exclusive {
                        Some(cpus) => cpus.clone(),
                        None => or(machine.pus_of(&placement.nodes).intersection(&shared), &shared),
                    };
                    if entry.asked.request.binds_memory() {
                        target.mems = or(machine.with_memory(&placement.nodes), &everywhere);
                    }
                }
                Outcome::Placed(..) | Outcome::Shared(_) => {}
            }
            Some((entry.container.id.clone(), target))
        };
        let containers: BTreeMap<String, Target> =
            self.entries.values().filter_map(target).collect();
        let left = self.entries.values().filter(|it| !containers.contains_key(&it.container.id));
        let cgroup = |it: &Entry| Some((it.container.id.clone(), it.container.cgroup.clone()?));
        let left = left.filter_map(cgroup).collect();
        let targets = Targets { generation: self.targets.generation, shared, containers, left };
        if targets != *self.targets {
            self.targets = Arc::new(Targets { generation: targets.generation + 1, ..targets });
        }
    }
}

/// A set, or another if it is empty.
pub(super) fn or(set: IdSet, other: &IdSet) -> IdSet {
    if set.is_empty() { other.clone() } else { set }
}

pub(super) fn refusal(reason: String) -> Box<Refusal> {
    Box::new(Refusal { reason, why: Why::default() })
}

#[cfg(test)]
mod tests;
