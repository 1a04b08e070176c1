//! What other nodes of the rack say: their alarms, which a stage may begin with as well.
//!
//! Each node tells the rack what is raised on it, and each judges by itself what it heard
//! and what is its own, by the same rule: nobody is asked, and nobody is waited for. Who
//! falls silent stays as it was last heard until that is too old to go by.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString as _},
    vec::Vec,
};
use core::{cmp::Reverse, time::Duration};

use super::config::Wanted;
use crate::{alarm::Alarm, pattern::like};

/// What was said so long ago is not gone by. A node that lost its power or its network may
/// be the one with the sensor: sooner would wake everything in the middle of an outage.
pub const EXPIRES: Duration = Duration::from_secs(120);
/// Alarms that a node tells: as many as fit beside what else is in a datagram.
pub const MAX_TOLD: usize = 8;
/// Nodes that are listened to: as many as a rack has.
const MAX_NODES: usize = 256;

/// What each other node said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere(BTreeMap<String, Said>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    at: Duration,
    alarms: Vec<String>,
}

impl Elsewhere {
    /// A node said at that time since boot which alarms are raised on it: all of them.
    /// Whether it says something else than it is known by.
    pub fn hear(&mut self, node: &str, at: Duration, alarms: Vec<String>) -> bool {
        let is_full = self.0.len() >= MAX_NODES;
        match self.0.get_mut(node) {
            Some(said) if said.at > at => false,
            Some(said) => {
                let is_new = said.alarms != alarms || said.at + EXPIRES <= at;
                *said = Said { at, alarms };
                is_new
            }
            None if is_full => false,
            None => {
                let is_new = !alarms.is_empty();
                self.0.insert(node.to_string(), Said { at, alarms });
                is_new
            }
        }
    }

    /// What is raised on each, as `NODE/ID`, as far as that can be gone by.
    pub fn raised(&self, now: Duration) -> impl Iterator<Item = String> {
        let known = self.0.iter().filter(move |(_, said)| now < said.at + EXPIRES);
        known.flat_map(|(node, said)| said.alarms.iter().map(move |id| under(node, id)))
    }

    /// When something of it is next too old.
    pub fn next(&self, now: Duration) -> Option<Duration> {
        let raised = self.0.values().filter(|said| !said.alarms.is_empty());
        raised.map(|said| said.at + EXPIRES).filter(|at| *at > now).min()
    }
}

/// An alarm as the rack knows it.
pub fn under(node: &str, id: &str) -> String {
    format!("{node}/{id}")
}

/// Which of a node's own alarms it tells the rack, those first that begin a stage, then the
/// worst and the oldest. What only stands from before a restart is not told.
pub fn to_tell<'a>(
    wanted: &Wanted,
    node: &str,
    raised: impl Iterator<Item = &'a Alarm>,
) -> Vec<&'a Alarm> {
    let begins = |it: &Alarm| {
        let id = under(node, &it.id);
        wanted.stages.iter().flat_map(|stage| &stage.when).any(|when| like(when, &id))
    };
    let mut all: Vec<&Alarm> = raised.filter(|it| it.seen).collect();
    all.sort_by_cached_key(|it| {
        (!begins(it), Reverse(it.notice.severity), it.raised_unix_ms, it.id.clone())
    });
    all.truncate(MAX_TOLD);
    all
}
