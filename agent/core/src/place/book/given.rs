//! What others decide: kubelet's managers, another plugin, who typed `--cpuset-cpus`. It is
//! left to whom it was given, and never given away again.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use super::{Book, Entry, Outcome, or, refusal};
use crate::{
    idset::IdSet,
    place::{
        container::Container,
        decide::{Placement, Why},
        kubelet,
        request::{Cpus, Request},
        source::{self, Asked, Source},
    },
};

/// What somebody else bound a container to: kubelet's static policy, another plugin, who
/// typed `--cpuset-cpus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Given {
    /// CPUs, never empty.
    pub cpus: IdSet,
    /// Nodes of its memory; empty if that was left open.
    pub mems: IdSet,
    /// Nobody else is to have these CPUs.
    pub exclusive: bool,
    /// Nodes that we bind its memory to, because they are those of its CPUs.
    pub near: IdSet,
    /// It had to give some up, and is to have them back.
    pub narrowed: bool,
}

impl Book {
    /// What somebody else bound a container to. One that runs already may have its CPUs
    /// from us; where kubelet gives CPUs out, a pod has not.
    pub(super) fn given(&self, container: &Container, creating: bool) -> Option<Given> {
        let in_pod = kubelet::uid(container).is_some();
        let kubelet = self.rules.kubelet.as_ref().filter(|_| in_pod);
        let gave = kubelet.and_then(|it| it.gave(container)).unwrap_or_default();
        let shown = container.resources.cpus.clone().filter(|_| creating || kubelet.is_some());
        let exclusive = !gave.cpus.is_empty();
        let cpus = Some(gave.cpus).filter(|_| exclusive).or(shown);
        let cpus = cpus.filter(|cpus| !cpus.is_empty())?;
        let shown = container.resources.mems.clone().filter(|_| creating);
        let mems = or(gave.mems, &shown.unwrap_or_default());
        // As many as it asks for: no CPU manager gives those to others too.
        let count = source::guaranteed_cpus(container);
        let exclusive = exclusive || count == Some(cpus.len());
        Some(Given { exclusive, cpus, mems, ..Given::default() })
    }

    /// CPUs that nobody has for itself alone. Kubelet's are what it says.
    pub(super) fn shared(&self, all: &IdSet) -> IdSet {
        let exclusive = self.placed.values().filter_map(|(_, it)| it.exclusive.as_ref());
        let exclusive = exclusive.fold(IdSet::default(), |taken, cpus| taken.union(cpus));
        let Some(kubelet) = &self.rules.kubelet else { return all.difference(&exclusive) };
        // With strict reservation it may have given away all that it manages.
        let shared = kubelet.shared.intersection(all).difference(&exclusive);
        let rest = all.difference(&exclusive).difference(&kubelet.exclusive());
        or(shared, &or(rest, all))
    }

    /// What one that has CPUs from kubelet takes of the machine. Its memory goes near
    /// them, if kubelet has not bound it and there is room.
    pub(super) fn beside(&self, given: &mut Given, of: &Container) -> (Request, Placement) {
        let memory = of.resources.memory_limit.unwrap_or(0);
        let mut request = Request { memory, ..Request::default() };
        let mut placement = Placement::default();
        given.near = IdSet::default();
        if let Some(machine) = &self.machine {
            let nodes = given.cpus.iter().filter_map(|cpu| Some(machine.pus.get(&cpu)?.node));
            let own = machine.with_memory(&machine.ids(nodes.collect()));
            placement.nodes = or(given.mems.clone(), &own);
            let alone = self.rules.kubelet.as_ref().is_some_and(|it| !it.gave_to_pod(of));
            let is_open = alone && given.mems.is_empty();
            if is_open && request.memory > 0 && self.situation(machine).holds(&request, &placement)
            {
                given.near = own;
            }
        }
        if given.near.is_empty() && given.mems.is_empty() {
            request.memory = 0;
        }
        placement.exclusive = Some(given.cpus.clone());
        (request, placement)
    }

    /// Who was placed on what somebody else gave away since goes elsewhere.
    pub(super) fn yield_to_others(&mut self) {
        let given = self.entries.values().filter_map(|entry| match &entry.outcome {
            Outcome::Given(given) if given.exclusive => Some(&given.cpus),
            _ => None,
        });
        let given = given.fold(IdSet::default(), |all, cpus| all.union(cpus));
        let in_the_way = |entry: &&Entry| match &entry.outcome {
            Outcome::Placed(Placement { exclusive: Some(cpus), .. }, _) => {
                !cpus.intersection(&given).is_empty()
            }
            _ => false,
        };
        let moving: Vec<Entry> = self.entries.values().filter(in_the_way).cloned().collect();
        moving.iter().for_each(|entry| _ = self.forget(&entry.container.id));
        moving.into_iter().for_each(|entry| self.place_running(entry));
    }

    /// Takes in a container that runs already, on its present CPUs if they will do.
    pub(super) fn take_in(&mut self, since_ms: u64, container: Container) {
        let given = self.given(&container, false);
        let asked = self.asked(&container);
        let present = container.resources.cpus.clone().filter(|cpus| !cpus.is_empty());
        let (asked, outcome) = match asked {
            Ok(asked) => (asked, Outcome::Shared(None)),
            Err(why) => (Asked::default(), Outcome::Shared(Some(refusal(why)))),
        };
        let entry = Entry { container, since_ms, asked, outcome };
        if let Some(given) = given {
            return self.enter(Entry { outcome: Outcome::Given(given), ..entry });
        }
        let stays = present.and_then(|cpus| self.as_it_is(&entry.asked.request, cpus));
        match stays {
            Some(placement) => {
                self.enter(Entry { outcome: Outcome::Placed(placement, Why::default()), ..entry })
            }
            None => self.place_running(entry),
        }
    }

    /// Of those that were just taken in: who asks us for no CPUs and has a cpuset that we
    /// would not have given, has it from somebody else and keeps it. What we gave before
    /// and forgot is either what we would give now or what all shared (`before`).
    pub(super) fn leave_to_others(&mut self, taken_in: &[String], before: &IdSet) {
        let Some(machine) = &self.machine else { return };
        let all: IdSet = machine.pus.keys().copied().collect();
        for id in taken_in {
            let Some(entry) = self.entries.get_mut(id) else { continue };
            let asks = matches!(entry.asked.by, Source::Profile(_) | Source::Annotations)
                || matches!(entry.asked.request.cpus, Cpus::Exclusive { .. });
            let is_given = matches!(entry.outcome, Outcome::Given(_));
            let Some(cpus) = entry.container.binding(&all).filter(|_| !asks && !is_given) else {
                continue;
            };
            let ours = self.targets.containers.get(id).map(|target| &target.cpus);
            if ours == Some(&cpus) || cpus == *before {
                continue;
            }
            let mems = entry.container.resources.mems.clone().unwrap_or_default();
            entry.outcome = Outcome::Given(Given { cpus, mems, ..Given::default() });
            self.placed.remove(id);
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
}

impl Entry {
    /// What a scan of cgroups shows of one that is known. Who knows more of it has told
    /// already; but what somebody else bound it to, they may change.
    pub(super) fn follow(&mut self, found: Container, all: &IdSet) {
        if let Outcome::Given(given) = &mut self.outcome
            && let Some(cpus) = found.binding(all).filter(|_| !given.exclusive && !given.narrowed)
        {
            given.cpus = cpus;
        }
        self.container.cgroup = self.container.cgroup.take().or(found.cgroup);
    }
}

impl Container {
    /// The CPUs that it is bound to, if they are not all of these.
    fn binding(&self, all: &IdSet) -> Option<IdSet> {
        let cpus = self.resources.cpus.as_ref();
        cpus.filter(|cpus| !cpus.is_empty() && !all.is_subset(cpus)).cloned()
    }
}
