//! Making room: which containers would have to go elsewhere so that one more fits.
//!
//! A few containers are taken out, the new one is placed, and they are placed again in what
//! is left. What it costs is the memory that has to follow them: what is resident elsewhere
//! where that is known, else all that they asked for. Few moves are tried before
//! many and small ones before large ones, up to a fixed number of tries, so that it takes
//! a bounded time; that nothing was found is then no proof that there is nothing.

use alloc::{boxed::Box, collections::BTreeMap, format, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use super::{
    book::{Book, Outcome, refusal},
    decide::{self, Decision, Placed, Placement, Refusal, Situation},
    machine::Machine,
    request::Request,
    targets::Update,
};

/// Sets of containers that are tried: some tenths of a second's worth on a large machine.
const MAX_TRIES: usize = 256;
/// Containers that one plan moves, at most.
const MAX_MOVES: usize = 3;

/// Memory in use, in bytes: by container id, and by the kernel id of the node that it is
/// on. What is on no node that there is counts as being elsewhere.
pub type Resident = BTreeMap<String, BTreeMap<u32, u64>>;

/// How to make room for a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Of the targets that it was made for; it holds for no others.
    pub generation: u64,
    /// Who has to go where, in this order.
    pub moves: Vec<Move>,
    /// Memory that has to follow, in bytes at most.
    pub bytes: u64,
    /// Where the request goes then.
    pub decision: Decision,
}

/// One container that has to go elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// Container id.
    pub id: String,
    /// For a person.
    pub title: String,
    /// Where it is.
    pub from: Placement,
    /// Where it goes.
    pub to: Placement,
    /// Its memory that has to follow, in bytes.
    pub bytes: u64,
    /// That is what is resident elsewhere now; else it is all that was asked for.
    #[serde(default)]
    pub measured: bool,
}

impl Book {
    /// What would have to be moved so that a request fits, with no more than `budget` bytes
    /// of memory to follow. `resident` is what is known of the memory that is in use.
    pub fn repack(
        &self,
        request: &Request,
        budget: u64,
        resident: &Resident,
    ) -> Result<Plan, Box<Refusal>> {
        let machine =
            self.machine.as_ref().ok_or_else(|| refusal("the machine is not known yet".into()))?;
        let generation = self.targets().generation;
        let refused = match self.what_if(request) {
            Ok(decision) => {
                return Ok(Plan { generation, moves: Vec::new(), bytes: 0, decision });
            }
            Err(refused) => refused,
        };
        let movable = self.movable(resident);
        let mut best: Option<Plan> = None;
        for set in sets(movable.len()).take(MAX_TRIES) {
            let ids: Vec<&String> = set.iter().map(|index| movable[*index]).collect();
            let Some((moves, decision)) = self.without(machine, request, &ids, resident) else {
                continue;
            };
            let bytes = moves.iter().map(|it| it.bytes).sum();
            let better = |best: &Plan| (bytes, moves.len()) < (best.bytes, best.moves.len());
            if bytes <= budget && best.as_ref().is_none_or(better) {
                best = Some(Plan { generation, moves, bytes, decision });
            }
        }
        best.ok_or_else(|| {
            let Refusal { reason, why } = *refused;
            let moved = format!("no {MAX_MOVES} containers with {budget} bytes of memory or less");
            Box::new(Refusal { reason: format!("{reason}, and {moved} make room"), why })
        })
    }

    /// Puts everybody where a plan has them. The error is a plan that is out of date.
    pub fn apply(&mut self, plan: &Plan) -> Result<Vec<Update>, String> {
        if plan.generation != self.targets().generation {
            return Err("something was placed or removed since this plan: make a new one".into());
        }
        let before = self.targets().clone();
        self.carry_out(plan);
        self.settle();
        Ok(self.targets().since(&before))
    }

    pub(super) fn carry_out(&mut self, plan: &Plan) {
        for it in &plan.moves {
            let Some(mut entry) = self.entries.remove(&it.id) else { continue };
            if let Outcome::Placed(placement, _) = &mut entry.outcome {
                *placement = it.to.clone();
            }
            self.enter(entry);
        }
    }

    /// Containers whose memory might have to follow them, and their cgroups as the runtime
    /// says them.
    pub fn may_be_moved(&self) -> impl Iterator<Item = (&String, &String)> {
        let all = self.movable(&Resident::new()).into_iter();
        let bound = all.filter(|id| self.placed.get(*id).is_some_and(|it| it.0.binds_memory()));
        bound.filter_map(|id| Some((id, self.entries.get(id)?.container.cgroup.as_ref()?)))
    }

    /// Who may go elsewhere, the least memory first. A device can't be moved, and what
    /// somebody else gave is not ours to move.
    fn movable(&self, resident: &Resident) -> Vec<&String> {
        let ours = |id: &String| {
            matches!(self.entries.get(id).map(|it| &it.outcome), Some(Outcome::Placed(..)))
        };
        let free = |it: &(&String, &(Request, Placement))| it.1.1.devices.is_empty() && ours(it.0);
        let mut movable: Vec<_> = self.placed.iter().filter(free).collect();
        let memory = |id: &String, request: &Request| match resident.get(id) {
            Some(by_node) => by_node.values().sum(),
            None => request.memory,
        };
        movable.sort_by_key(|(id, (request, _))| (memory(id, request), *id));
        movable.into_iter().map(|(id, _)| id).collect()
    }

    /// Places the request without some others, and then those again.
    fn without(
        &self,
        machine: &Machine,
        request: &Request,
        ids: &[&String],
        resident: &Resident,
    ) -> Option<(Vec<Move>, Decision)> {
        let mut placed: Placed = self.placed.clone();
        ids.iter().for_each(|id| _ = placed.remove(*id));
        let reserved = &self.reserved;
        let place = |placed: &Placed, request: &Request| {
            decide::place(&Situation { machine, placed, reserved }, request).ok()
        };
        let decision = place(&placed, request)?;
        placed.insert(String::new(), (request.clone(), decision.placement.clone()));
        let mut moves = Vec::new();
        for id in ids {
            let (wanted, from) = self.placed.get(*id)?;
            let to = place(&placed, wanted)?.placement;
            placed.insert((*id).clone(), (wanted.clone(), to.clone()));
            let there = machine.with_memory(&to.nodes);
            let by_node = resident.get(*id);
            let bytes = match by_node {
                _ if to.nodes == from.nodes || !wanted.binds_memory() => 0,
                None => wanted.memory,
                Some(by_node) => {
                    let elsewhere = by_node.iter().filter(|(node, _)| !there.contains(**node));
                    elsewhere.map(|(_, bytes)| bytes).sum()
                }
            };
            let title = self.entries.get(*id)?.container.title();
            let (id, from, measured) = ((*id).clone(), from.clone(), by_node.is_some());
            moves.push(Move { id, title, from, to, bytes, measured });
        }
        moves.retain(|it| it.to != it.from);
        Some((in_order(moves)?, decision))
    }
}

/// Moves so that each goes to where nobody is any more; `None` if they go in a circle.
fn in_order(mut moves: Vec<Move>) -> Option<Vec<Move>> {
    let mut ordered = Vec::new();
    while !moves.is_empty() {
        let clear = |it: &Move| {
            let others = moves.iter().filter(|other| other.id != it.id);
            let taken = |other: &Move| match (&other.from.exclusive, &it.to.exclusive) {
                (Some(theirs), Some(ours)) => !theirs.intersection(ours).is_empty(),
                _ => false,
            };
            !others.into_iter().any(taken)
        };
        ordered.push(moves.remove(moves.iter().position(clear)?));
    }
    Some(ordered)
}

/// Sets of one, two and three of so many, the first ones first.
fn sets(count: usize) -> impl Iterator<Item = Vec<usize>> {
    let ones = (0..count).map(|one| Vec::from([one]));
    let twos = (0..count).flat_map(|two| (0..two).map(move |one| Vec::from([one, two])));
    let threes = (0..count).flat_map(|three| {
        (0..three).flat_map(move |two| (0..two).map(move |one| Vec::from([one, two, three])))
    });
    ones.chain(twos).chain(threes)
}
