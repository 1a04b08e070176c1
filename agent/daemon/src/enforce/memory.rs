//! Moves the memory of containers to the nodes where it should be: one container at a time,
//! outside any request, and none that has more to move than a budget allows.
//!
//! The kernel answers the write when every page has moved, and can't be told to stop.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use purlin_core::{
    cpuset::{To, repair::Step},
    idset::IdSet,
};
use purlin_drivers::{Root, cgroup};
use tokio::{sync::mpsc, task};

use crate::helper::{Changed, Client, What};

/// What could not be moved is looked at again after this time: it may have shrunk.
const RETRY: Duration = Duration::from_secs(60);

/// What came of one move.
#[derive(Debug)]
pub struct Moved {
    /// What was to be done.
    pub step: Step,
    /// Bytes that were elsewhere, and milliseconds; or why it was left.
    pub result: Result<(u64, u64), String>,
}

/// The one move under way, and those that were left.
#[derive(Debug)]
pub struct Mover {
    /// Writes; it may be busy for minutes.
    helper: Client,
    moving: Option<String>,
    ended: mpsc::Receiver<Moved>,
    end: mpsc::Sender<Moved>,
    /// Left for now, by container: what was asked for, why not, and since when.
    left: BTreeMap<String, (Step, String, Instant)>,
}

impl Mover {
    /// Nothing moves yet.
    pub fn new(helper: Client) -> Self {
        let (end, ended) = mpsc::channel(1);
        Self { helper, moving: None, ended, end, left: BTreeMap::new() }
    }

    /// Whose memory is being moved.
    pub fn moving(&self) -> Option<&String> {
        self.moving.as_ref()
    }

    /// Why a container's memory is left where it is.
    pub fn left(&self, id: &str) -> Option<&String> {
        self.left.get(id).map(|(_, why, _)| why)
    }

    /// Begins the first of these that was not left a moment ago, unless one is under way or
    /// stuck, or has more to move than so many bytes.
    pub fn begin(&mut self, mut moves: VecDeque<Step>, budget: u64) {
        self.left.retain(|_, (step, _, at)| at.elapsed() < RETRY && moves.contains(step));
        moves.retain(|step| !self.left.contains_key(&step.id));
        let is_stuck = !self.helper.state().stuck_pids.is_empty();
        let Some(step) = moves.pop_front().filter(|_| self.moving.is_none() && !is_stuck) else {
            return;
        };
        self.moving = Some(step.id.clone());
        let (helper, end) = (self.helper.clone(), self.end.clone());
        tokio::spawn(async move {
            let result = one(&helper, &step, budget).await;
            // Nobody waits for it when the agent is stopping.
            _ = end.send(Moved { step, result }).await;
        });
    }

    /// What came of the one under way. Nothing is lost when it is dropped while it waits.
    pub async fn ended(&mut self) -> Option<Moved> {
        let moved = self.ended.recv().await?;
        self.moving = None;
        if let Err(why) = &moved.result {
            let left = (moved.step.clone(), why.clone(), Instant::now());
            self.left.insert(moved.step.id.clone(), left);
        }
        Some(moved)
    }
}

async fn one(helper: &Client, step: &Step, budget: u64) -> Result<(u64, u64), String> {
    let To::Mems(to) = &step.change.to else { return Ok((0, 0)) };
    let (cgroup, to) = (step.change.cgroup.clone(), to.clone());
    let bytes = task::spawn_blocking(move || elsewhere(&cgroup, &to)).await;
    let bytes = bytes.map_err(|error| error.to_string())??;
    if bytes > budget {
        return Err(format!(
            "{} MiB of its memory are on another node, over the budget of {} MiB a move: it \
             stays there for now",
            bytes >> 20,
            budget >> 20
        ));
    }
    let began = Instant::now();
    match helper.ask(What::Cpuset(step.change.clone())).await.changed() {
        Changed::Refused(why) => Err(why),
        _ => Ok((bytes, began.elapsed().as_millis() as u64)),
    }
}

/// Bytes of a cgroup's processes that are on none of these nodes.
fn elsewhere(cgroup: &str, nodes: &IdSet) -> Result<u64, String> {
    let root = Root::live().map_err(|error| error.to_string())?;
    let (resident, _) = cgroup::resident(&root, cgroup);
    Ok(resident.iter().filter(|(node, _)| !nodes.contains(**node)).map(|(_, bytes)| bytes).sum())
}
