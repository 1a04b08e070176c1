//! What every container's cpuset should be: what writers write and the verifier reads back.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::idset::IdSet;

/// One container's cpuset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its cgroup, as [`Container::cgroup`](super::container::Container::cgroup).
    pub cgroup: Option<String>,
    /// CPUs, never empty.
    pub cpus: IdSet,
    /// Nodes its memory may be on; all that have any, if it is not bound.
    pub mems: IdSet,
    /// No other container has any of these CPUs.
    pub exclusive: bool,
    /// They are to be a partition of their own, without load balancing
    /// (`cpuset.cpus.partition=isolated`).
    pub isolated: bool,
}

/// Everybody's.
///
/// A container that somebody else placed, and that stands in nobody's way, has no target:
/// its cpuset is not ours to write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// Grows with every change.
    pub generation: u64,
    /// CPUs that no container has for itself alone.
    pub shared: IdSet,
    /// By container id.
    pub containers: BTreeMap<String, Target>,
    /// Where those without a target are, by id: what has a name of its own is found by its
    /// path alone.
    #[serde(default)]
    pub left: BTreeMap<String, String>,
}

/// A container whose cpuset has to become another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Container id.
    pub id: String,
    /// What it has to become.
    pub target: Target,
}

impl Targets {
    /// Who had CPUs for itself alone and has not all of them any more, and which it lost.
    pub fn lost_since(&self, before: &Self) -> Vec<(String, IdSet)> {
        let had = before.containers.iter().filter(|(_, had)| had.exclusive);
        let lost = had.filter_map(|(id, had)| {
            let now = self.containers.get(id)?;
            let kept = if now.exclusive { now.cpus.clone() } else { IdSet::default() };
            Some((id.clone(), had.cpus.difference(&kept)))
        });
        lost.filter(|(_, lost)| !lost.is_empty()).collect()
    }

    /// Every container's cgroup, as its runtime tells it, with its id.
    pub fn cgroups(&self) -> impl Iterator<Item = (&String, &String)> {
        let written = self.containers.iter().filter_map(|(id, it)| Some((id, it.cgroup.as_ref()?)));
        written.chain(&self.left)
    }

    /// What differs from what was before, in the order to write it: whoever gives CPUs up
    /// comes before whoever gets them, so that none is ever in two cpusets of which one is
    /// exclusive. Only where several become exclusive at once, or change places in a circle,
    /// there is no such order.
    pub fn since(&self, before: &Self) -> Vec<Update> {
        let had = |id: &String| before.containers.get(id).map(|target| &target.cpus);
        let changed =
            self.containers.iter().filter(|(id, it)| before.containers.get(*id) != Some(*it));
        let gains =
            |(id, it): &(&String, &Target)| had(id).is_none_or(|had| !it.cpus.is_subset(had));
        let (mut left, mut ordered): (Vec<_>, Vec<_>) = changed.partition(gains);
        // Those that get some and give some up may have to wait for each other.
        let gives =
            |(id, it): &(&String, &Target)| had(id).is_some_and(|had| !had.is_subset(&it.cpus));
        let mut moving: Vec<&String> =
            left.iter().filter(|it| gives(it)).map(|(id, _)| *id).collect();
        left.sort_by_key(|it| (!gives(it), it.1.exclusive));
        ordered.sort_by_key(|(_, target)| target.exclusive);
        while !left.is_empty() {
            let clear = |(id, it): &(&String, &Target)| {
                let mut others = moving.iter().filter(|other| *other != id);
                others
                    .all(|other| had(other).is_none_or(|had| had.intersection(&it.cpus).is_empty()))
            };
            let next = left.remove(left.iter().position(clear).unwrap_or(0));
            moving.retain(|id| *id != next.0);
            ordered.push(next);
        }
        let update =
            |(id, target): (&String, &Target)| Update { id: id.clone(), target: target.clone() };
        ordered.into_iter().map(update).collect()
    }
}
