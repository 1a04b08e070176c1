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
/// A container that somebody else placed, and that stands in nobody's way, is not in it:
/// its cpuset is not ours to write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// Grows with every change.
    pub generation: u64,
    /// CPUs that no container has for itself alone.
    pub shared: IdSet,
    /// By container id.
    pub containers: BTreeMap<String, Target>,
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
    /// What differs from what was before, those first that give CPUs up: written in this
    /// order, no CPU is ever in an exclusive cpuset and in another one.
    pub fn since(&self, before: &Self) -> Vec<Update> {
        let changed = self.containers.iter().filter_map(|(id, target)| {
            let had = before.containers.get(id);
            (had != Some(target)).then(|| {
                let gains = had.is_none_or(|had| !target.cpus.is_subset(&had.cpus));
                (gains, Update { id: id.clone(), target: target.clone() })
            })
        });
        let mut changed: Vec<(bool, Update)> = changed.collect();
        changed.sort_by_key(|(gains, update)| (*gains, update.target.exclusive));
        changed.into_iter().map(|(_, update)| update).collect()
    }
}
