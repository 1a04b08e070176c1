//! The plan as it was when the agent last wrote it, for those who can't ask.

use std::path::Path;

use purlin_core::{
    idset::IdSet,
    place::book::{Outcome, Saved},
};

use super::Store;

/// A plan on disk.
#[derive(Debug)]
pub struct LastPlan(Saved);

impl LastPlan {
    /// The one in a state directory.
    pub fn read(state_dir: &Path) -> Option<Self> {
        let (_, saved, _) = Store::open(state_dir);
        (saved.generation > 0).then_some(Self(saved))
    }

    /// The CPUs of a container: its own if it is in the plan and has some, else those that
    /// nobody has for itself alone.
    pub fn cpus(&self, id: &str, online: &IdSet) -> IdSet {
        let mut shared = online.clone();
        if self.0.paused {
            return shared;
        }
        for kept in &self.0.containers {
            let Outcome::Placed(placement, _) = &kept.outcome else { continue };
            let Some(exclusive) = &placement.exclusive else { continue };
            if kept.container.id == id {
                return exclusive.intersection(online);
            }
            shared = shared.difference(exclusive);
        }
        shared
    }
}
