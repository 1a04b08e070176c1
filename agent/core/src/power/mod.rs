//! What a node does when power or cooling fails: stages, by the alarms that are raised.
//!
//! A stage begins when an alarm is raised that it names, and with it every milder one. The
//! limits, holds and hysteresis are the alarms' own ([`rule`](crate::alarm::rule)); here
//! only the way back is held, so that mains that come and go don't wake everything each
//! time. Alarms of other nodes go in as well, as far as they were heard ([`elsewhere`]).
//! Nothing else does: whoever has the same alarms decides the same, and no node asks
//! another. A shutdown is never taken back: the machine that comes up again begins anew.

use alloc::{string::String, vec::Vec};
use core::time::Duration;

use serde::Serialize;

use crate::pattern::like;

pub mod config;
pub mod elsewhere;

pub use config::{Stage, Wanted};

/// Where a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How many stages are in force, the mildest first.
    stage: usize,
    /// Since when fewer would do.
    calm_since: Option<Duration>,
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// How many stages are in force.
    pub stage: usize,
    /// The one that counts; empty for none.
    pub name: String,
    /// The alarms that it is for.
    pub causes: Vec<String>,
    /// Watts that a package may take.
    pub cap_w: Option<u32>,
    /// Watts that a GPU may take.
    pub cap_gpu_w: Option<u32>,
    /// Cgroups that stand still.
    pub shed: Vec<String>,
    /// And containers that matter less than this.
    pub shed_below: Option<u32>,
    /// What waits is made durable.
    pub flush: bool,
    /// The node is shut down.
    pub shutdown: bool,
}

impl Policy {
    /// Judges by the ids of the alarms that are raised, at a time since boot: its own, and as
    /// `NODE/ID` those of all nodes, itself among them.
    pub fn judge<'a>(
        &mut self,
        wanted: &Wanted,
        raised: impl Iterator<Item = &'a str> + Clone,
        now: Duration,
    ) -> Decision {
        // What is under a node's name is meant by patterns that have one too.
        let is_meant = |it: &str, id: &str| it.contains('/') == id.contains('/') && like(it, id);
        let is_for = |stage: &Stage, id: &str| stage.when.iter().any(|it| is_meant(it, id));
        let begun = |stage: &&Stage| raised.clone().any(|id| is_for(stage, id));
        let called = wanted.stages.iter().rposition(|it| begun(&it)).map_or(0, |at| at + 1);
        // Stages may have been taken out of the configuration.
        let before = self.stage.min(wanted.stages.len());
        let is_down = wanted.stages[..before].iter().any(|it| it.shutdown);
        if called >= before {
            (self.stage, self.calm_since) = (called, None);
        } else if !is_down {
            let since = *self.calm_since.get_or_insert(now);
            if now.saturating_sub(since) >= wanted.recover {
                (self.stage, self.calm_since) = (called, None);
            }
        }
        let stages = &wanted.stages[..self.stage.min(wanted.stages.len())];
        let causes = raised.filter(|id| stages.iter().any(|stage| is_for(stage, id)));
        let causes = causes.map(String::from).collect();
        Decision { stage: stages.len(), causes, ..Decision::default() }.up_to(wanted, stages.len())
    }

    /// When it has to be judged again, if no alarm changes.
    pub fn next(&self, wanted: &Wanted) -> Option<Duration> {
        Some(self.calm_since? + wanted.recover)
    }
}

impl Decision {
    /// The same as far as a stage.
    #[must_use]
    pub fn up_to(&self, wanted: &Wanted, stage: usize) -> Self {
        let stages = &wanted.stages[..stage.min(self.stage).min(wanted.stages.len())];
        Self {
            stage: stages.len(),
            name: stages.last().map(|it| it.name.clone()).unwrap_or_default(),
            causes: self.causes.clone(),
            cap_w: stages.iter().filter_map(|it| it.cap_w).min(),
            cap_gpu_w: stages.iter().filter_map(|it| it.cap_gpu_w).min(),
            shed: stages.iter().flat_map(|it| it.shed.iter().cloned()).collect(),
            shed_below: stages.iter().filter_map(|it| it.shed_below).max(),
            flush: stages.iter().any(|it| it.flush),
            shutdown: stages.iter().any(|it| it.shutdown),
        }
    }
}

#[cfg(test)]
mod tests;
