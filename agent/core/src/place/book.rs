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
    vec::Vec,
};

use serde::{Deserialize, Serialize};

use super::{
    container::{Container, Via},
    decide::{self, Placed, Placement, Refusal, Situation, Why},
    machine::Machine,
    request::{Cpus, Request},
    source::{self, Asked, Profile, Source},
    targets::{Target, Targets, Update},
};
use crate::idset::IdSet;

/// Containers that are known, at most: ten times what kubelet admits on a node, with
/// several in each pod.
pub const MAX_CONTAINERS: usize = 4096;
/// For this long a container that was told of need not have a cgroup yet.
const STARTING_MS: u64 = 60_000;

/// How placement is done: the part of the settings that is about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rules {
    /// PUs that no container gets for itself alone; `None`: a core of each node.
    pub reserved: Option<IdSet>,
    /// Profiles by name.
    pub profiles: BTreeMap<String, Profile>,
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
    Given(IdSet),
    /// On the CPUs that nobody has for itself alone; why it is not where it asked to be.
    Shared(Option<Box<Refusal>>),
}

/// What a container that is to be created gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Its cpuset; `None`: leave it as it is.
    pub target: Option<Target>,
    /// Devices that were chosen for it, by name.
    pub devices: Vec<String>,
    /// Who asked.
    pub by: Source,
    /// What others have to become first.
    pub updates: Vec<Update>,
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
    machine: Option<Machine>,
    reserved: IdSet,
    entries: BTreeMap<String, Entry>,
    /// Those of the entries that have something for themselves.
    placed: Placed,
    paused: bool,
    targets: Targets,
}

impl Book {
    /// From what was kept of another. It holds once the machine is known.
    pub fn restore(saved: Saved) -> Self {
        let mut book = Self { paused: saved.paused, ..Self::default() };
        book.targets.generation = saved.generation;
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

    /// The containers by id.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// True if a plan was made for a machine before.
    pub fn knows_machine(&self) -> bool {
        self.machine.is_some()
    }

    /// What every cpuset should be.
    pub fn targets(&self) -> &Targets {
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
        let asked = source::asked(&container, &self.rules.profiles).map_err(refusal)?;
        if self.entries.len() >= MAX_CONTAINERS && !self.entries.contains_key(&id) {
            return Err(refusal(format!(
                "{MAX_CONTAINERS} containers are known, which is the most there may be"
            )));
        }
        let before = self.targets.clone();
        self.forget(&id);
        let given = container.resources.cpus.clone().filter(|cpus| !cpus.is_empty());
        let outcome = match given {
            Some(cpus) => Outcome::Given(cpus),
            None => self.decide(&asked.request)?,
        };
        let devices = match &outcome {
            Outcome::Placed(placement, _) => placement.devices.clone(),
            _ => Vec::new(),
        };
        let by = asked.by.clone();
        self.enter(Entry { container, since_ms: now_ms, asked, outcome });
        self.settle();
        let mut updates = self.targets.since(&before);
        updates.retain(|update| update.id != id);
        Ok(Grant { target: self.targets.containers.get(&id).cloned(), devices, by, updates })
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
        gone.iter().for_each(|id| self.forget(id));
        let mut new = Vec::new();
        for container in all {
            match self.entries.get_mut(&container.id) {
                // Who knows more of it has told already.
                Some(entry) if container.via == Via::Found => {
                    entry.container.cgroup = entry.container.cgroup.take().or(container.cgroup);
                }
                Some(entry) => entry.container = container.bounded(),
                None => new.push(container.bounded()),
            }
        }
        // Those that are bound already have the first choice: they need not move.
        new.sort_by_key(|it| (it.resources.cpus.is_none(), it.id.clone()));
        new.truncate(MAX_CONTAINERS.saturating_sub(self.entries.len()));
        for container in new {
            self.take_in(now_ms, container);
        }
        self.settle();
        self.targets.since(&before)
    }

    /// A container's resources are about to be changed.
    pub fn update(&mut self, now_ms: u64, container: Container) -> Result<Grant, Box<Refusal>> {
        let Some(before) = self.entries.get(&container.id).cloned() else {
            return self.admit(now_ms, container);
        };
        let asked = source::asked(&container, &self.rules.profiles).map_err(refusal)?;
        let given = container.resources.cpus.as_ref().filter(|cpus| !cpus.is_empty());
        let ours = self.targets.containers.get(&container.id).map(|target| &target.cpus);
        let same = asked == before.asked && given.is_none_or(|given| Some(given) == ours);
        if same {
            let target = self.targets.containers.get(&container.id).cloned();
            let by = asked.by;
            return Ok(Grant { target, devices: Vec::new(), by, updates: Vec::new() });
        }
        let since_ms = before.since_ms;
        self.admit(since_ms, container).inspect_err(|_| {
            self.enter(before);
            self.settle();
        })
    }

    /// A container is gone.
    pub fn remove(&mut self, id: &str) -> Vec<Update> {
        let before = self.targets.clone();
        self.forget(id);
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
        let mut entries: Vec<Entry> = core::mem::take(&mut self.entries).into_values().collect();
        self.placed.clear();
        // Who is placed before who is not, the oldest first.
        let placed = |entry: &Entry| matches!(entry.outcome, Outcome::Placed(..));
        entries.sort_by_key(|it| (!placed(it), it.since_ms, it.container.id.clone()));
        let mut again = Vec::new();
        for mut entry in entries {
            // Wrong annotations were let in by rules of another time.
            let asked = source::asked(&entry.container, &self.rules.profiles).unwrap_or_default();
            let holds = match (&entry.outcome, &self.machine) {
                (_, None) | (Outcome::Given(_), _) => true,
                (Outcome::Placed(placement, _), Some(machine)) => {
                    self.situation(machine).holds(&asked.request, placement)
                }
                (Outcome::Shared(_), _) => false,
            };
            entry.asked = asked;
            match holds {
                true => self.enter(entry),
                false => again.push(entry),
            }
        }
        for entry in again {
            self.place_running(entry);
        }
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

    /// Where a request would go now.
    pub fn decide(&self, request: &Request) -> Result<Outcome, Box<Refusal>> {
        if *request == Request::default() {
            return Ok(Outcome::Shared(None));
        }
        let machine = self.machine.as_ref().ok_or_else(|| {
            refusal("the machine's CPUs and nodes are not known yet: try again".to_string())
        })?;
        let decision = decide::place(&self.situation(machine), request)?;
        Ok(Outcome::Placed(decision.placement, decision.why))
    }

    fn situation<'a>(&'a self, machine: &'a Machine) -> Situation<'a> {
        Situation { machine, placed: &self.placed, reserved: &self.reserved }
    }

    /// Takes in a container that runs already, on its present CPUs if they will do.
    fn take_in(&mut self, since_ms: u64, container: Container) {
        let asked = source::asked(&container, &self.rules.profiles);
        let present = container.resources.cpus.clone().filter(|cpus| !cpus.is_empty());
        let (asked, outcome) = match asked {
            Ok(asked) => (asked, Outcome::Shared(None)),
            Err(why) => (Asked::default(), Outcome::Shared(Some(refusal(why)))),
        };
        let entry = Entry { container, since_ms, asked, outcome };
        let stays = present.and_then(|cpus| self.as_it_is(&entry.asked.request, cpus));
        match stays {
            Some(placement) => {
                self.enter(Entry { outcome: Outcome::Placed(placement, Why::default()), ..entry })
            }
            None => self.place_running(entry),
        }
    }

    /// The placement that a container has already, if it is what it asks for.
    fn as_it_is(&self, request: &Request, cpus: IdSet) -> Option<Placement> {
        let machine = self.machine.as_ref()?;
        let exclusive =
            matches!(request.cpus, Cpus::Exclusive { .. }) && request.devices.is_empty();
        let nodes = cpus.iter().filter_map(|cpu| Some(machine.pus.get(&cpu)?.node)).collect();
        let placement =
            Placement { nodes: machine.ids(nodes), exclusive: Some(cpus), ..Placement::default() };
        let holds = exclusive && self.situation(machine).holds(request, &placement);
        holds.then_some(placement)
    }

    /// Places a container that can't be refused any more. The devices that it has stay.
    fn place_running(&mut self, mut entry: Entry) {
        let mut request = entry.asked.request.clone();
        let devices = match &entry.outcome {
            Outcome::Placed(placement, _) => placement.devices.clone(),
            _ => Vec::new(),
        };
        request.devices.clear();
        request.given.extend(devices.iter().cloned());
        let refused = match &entry.outcome {
            // It asks for nothing because of how it asks.
            Outcome::Shared(refused) if entry.asked.by == Source::Nobody => refused.clone(),
            _ => None,
        };
        entry.outcome = match self.decide(&request) {
            Ok(Outcome::Placed(placement, why)) => {
                Outcome::Placed(Placement { devices, ..placement }, why)
            }
            Ok(_) => Outcome::Shared(refused),
            Err(refusal) => Outcome::Shared(Some(refusal)),
        };
        self.enter(entry);
    }

    fn enter(&mut self, entry: Entry) {
        let id = entry.container.id.clone();
        if let Outcome::Placed(placement, _) = &entry.outcome {
            self.placed.insert(id.clone(), (entry.asked.request.clone(), placement.clone()));
        }
        self.entries.insert(id, entry);
    }

    fn forget(&mut self, id: &str) {
        self.entries.remove(id);
        self.placed.remove(id);
    }

    /// Works out what every cpuset should be.
    fn settle(&mut self) {
        let Some(machine) = &self.machine else { return };
        let all: IdSet = machine.pus.keys().copied().collect();
        let exclusive = self.placed.values().filter_map(|(_, it)| it.exclusive.as_ref());
        let shared = match self.paused {
            true => all.clone(),
            false => exclusive.fold(all.clone(), |left, given| left.difference(given)),
        };
        let everywhere = machine.with_memory(&machine.nodes.iter().map(|it| it.id).collect());
        let target = |entry: &Entry| {
            let mut target = Target {
                cgroup: entry.container.cgroup.clone(),
                cpus: shared.clone(),
                mems: everywhere.clone(),
                ..Target::default()
            };
            match &entry.outcome {
                Outcome::Given(cpus) if cpus.is_subset(&shared) => return None,
                // What it was given is left to it as far as nobody has it for itself alone.
                Outcome::Given(cpus) => target.cpus = or(cpus.intersection(&shared), &shared),
                Outcome::Placed(placement, _) if !self.paused => {
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
        let containers = self.entries.values().filter_map(target).collect();
        if (&shared, &containers) != (&self.targets.shared, &self.targets.containers) {
            let generation = self.targets.generation + 1;
            self.targets = Targets { generation, shared, containers };
        }
    }
}

/// A set, or another if it is empty.
fn or(set: IdSet, other: &IdSet) -> IdSet {
    if set.is_empty() { other.clone() } else { set }
}

fn refusal(reason: String) -> Box<Refusal> {
    Box::new(Refusal { reason, why: Why::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{container::Resources, tests::machine};

    /// Two nodes of four cores of two threads: CPUs 0-3 and 8-11 on the first, of which 0
    /// and 8 are reserved, as 4 and 12 on the second are.
    fn book() -> Book {
        let mut book = Book::default();
        book.replan(Some(machine(2, 1, 4, Vec::new())), Rules::default());
        book
    }

    fn ids(list: &str) -> IdSet {
        IdSet::parse(list).expect("a valid list")
    }

    /// A container of a Guaranteed pod with so many thousandths of a CPU.
    fn pod(id: &str, milli: u64) -> Container {
        Container {
            id: id.into(),
            name: id.into(),
            cgroup: Some(alloc::format!("/kubepods/pod{id}/{id}")),
            resources: Resources {
                cpu_shares: Some(milli * 1024 / 1000),
                cpu_quota_us: i64::try_from(milli * 100).ok(),
                cpu_period_us: Some(100_000),
                ..Resources::default()
            },
            via: Via::Nri,
            ..Container::default()
        }
    }

    fn plain(id: &str) -> Container {
        Container { id: id.into(), ..Container::default() }
    }

    fn cpus(book: &Book, id: &str) -> String {
        book.targets().containers[id].cpus.to_string()
    }

    #[test]
    fn whole_cpus_of_a_guaranteed_pod_are_its_own_and_the_others_give_them_up_first() {
        let mut book = book();
        let grant = book.admit(0, plain("web")).expect("it asks for nothing");
        assert_eq!(grant.target.expect("the shared ones").cpus, ids("0-15"));
        let grant = book.admit(0, pod("db", 4000)).expect("room");
        assert_eq!(grant.by, Source::Kubernetes);
        assert_eq!(grant.target.expect("its own").cpus, ids("1-2,9-10"));
        let updates: Vec<_> = grant.updates.iter().map(|it| (&*it.id, &it.target.cpus)).collect();
        assert_eq!(updates, [("web", &ids("0,3-8,11-15"))]);
        // A part of a CPU is shared.
        book.admit(0, pod("log", 500)).expect("room");
        assert!(!book.targets().containers["log"].exclusive);
        book.remove("db");
        assert_eq!(cpus(&book, "web"), "0-15");
    }

    #[test]
    fn a_refused_one_leaves_no_trace() {
        let mut book = book();
        let refusal = book.admit(0, pod("big", 16_000)).expect_err("12 are not reserved");
        assert_eq!(refusal.reason, "the whole machine has only 12 of 16 exclusive PUs left");
        assert!(book.entries().is_empty() && book.targets().containers.is_empty());
    }

    #[test]
    fn one_that_runs_already_keeps_its_cpus_and_one_that_does_not_fit_is_told_of() {
        let mut book = book();
        let mut there = pod("a", 2000);
        there.resources.cpus = Some(ids("7,15"));
        book.adopt(0, Via::Nri, Vec::from([pod("b", 2000), there.clone(), pod("c", 12_000)]));
        assert_eq!((&*cpus(&book, "a"), &*cpus(&book, "b")), ("7,15", "5,13"));
        assert!(matches!(&book.entries()["c"].outcome, Outcome::Shared(Some(_))));
        // What the runtime does not name any more is gone.
        book.adopt(1, Via::Nri, Vec::from([there]));
        assert_eq!(book.entries().len(), 1);
    }

    #[test]
    fn a_found_one_may_still_be_on_its_way() {
        let mut book = book();
        let made = Container { via: Via::Oci, ..pod("a", 2000) };
        book.admit(1000, made).expect("room");
        book.adopt(2000, Via::Found, Vec::from([plain("b")]));
        assert_eq!(book.entries().len(), 2);
        book.adopt(1000 + STARTING_MS, Via::Found, Vec::from([plain("b")]));
        assert_eq!(book.entries().keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn what_somebody_else_bound_is_left_alone_until_it_is_in_the_way() {
        let mut book = book();
        let mut bound = plain("theirs");
        bound.resources.cpus = Some(ids("1-3"));
        assert_eq!(book.admit(0, bound).expect("theirs").target, None);
        book.admit(0, pod("db", 2000)).expect("room");
        assert_eq!(cpus(&book, "db"), "1,9");
        assert_eq!(cpus(&book, "theirs"), "2-3");
    }

    #[test]
    fn what_is_kept_is_taken_up_where_it_was() {
        let mut book = book();
        book.admit(0, pod("a", 2000)).expect("room");
        book.admit(0, pod("b", 2000)).expect("room");
        book.remove("a");
        let mut again = Book::restore(book.save());
        assert!(again.replan(Some(machine(2, 1, 4, Vec::new())), Rules::default()).len() == 1);
        assert_eq!(cpus(&again, "b"), cpus(&book, "b"));
        assert!(again.targets().generation > book.targets().generation);
    }

    #[test]
    fn a_cpu_that_goes_takes_only_its_own_container_along() {
        let mut book = book();
        book.admit(0, pod("a", 2000)).expect("room");
        book.admit(0, pod("b", 2000)).expect("room");
        let mut smaller = machine(2, 1, 4, Vec::new());
        smaller.pus.remove(&1);
        book.replan(Some(smaller), Rules::default());
        assert_eq!((&*cpus(&book, "a"), &*cpus(&book, "b")), ("3,9", "2,10"));
    }

    #[test]
    fn paused_everything_is_everybodys() {
        let mut book = book();
        book.admit(0, plain("web")).expect("it asks for nothing");
        book.admit(0, pod("db", 4000)).expect("room");
        assert_eq!(book.pause(true).len(), 2);
        assert_eq!((&*cpus(&book, "web"), &*cpus(&book, "db")), ("0-15", "0-15"));
        // Those that give up come first.
        let updates = book.pause(false);
        assert_eq!(updates.iter().map(|it| &*it.id).collect::<Vec<_>>(), ["web", "db"]);
        assert_eq!(cpus(&book, "db"), "1-2,9-10");
    }
}
