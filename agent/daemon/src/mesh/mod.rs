//! Keeps the mesh process at what the settings say, and tells how it is. Standalone it
//! starts that process.
//!
//! The mesh goes on without an agent, and is found again by its socket: it is never
//! started twice, and outlives an agent that is killed.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hyper::{Method, body::Bytes};
use prost::Message;
use purlin_proto::{
    api::{self, MeshState},
    mesh::Status,
    v1,
};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

pub mod alarms;
mod ask;
mod child;
pub mod measure;
pub mod offers;

use self::ask::ask;
pub use self::{ask::Failed, child::Child};
use crate::clock;

/// Between two looks at whether the mesh still has the table.
const LOOK: Duration = Duration::from_secs(5);
/// For a mesh that begins just now to answer.
const START: Duration = Duration::from_secs(5);
/// Between two tries until it does.
const POLL: Duration = Duration::from_millis(50);

/// What the mesh is to do; `None` while that isn't known.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Grows with each that is wanted.
    pub number: u64,
    /// A table; one without a mesh: nothing.
    pub table: Option<Arc<v1::MeshTable>>,
}

/// How the mesh was when it was last looked at.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The latest [`Wanted`] that was tried.
    pub number: u64,
    /// What came of it.
    pub failed: Option<Failed>,
    /// Of which agent and document the table in force is.
    pub in_force: Option<(u64, u64)>,
    /// A listener of it that has not its address.
    pub unbound: Option<String>,
    /// For people.
    pub view: api::Mesh,
}

/// What the task needs.
#[derive(Debug)]
pub struct Handover {
    /// The mesh's socket.
    pub socket: PathBuf,
    /// What it is to do.
    pub wanted: watch::Receiver<Wanted>,
    /// How it is.
    pub seen: watch::Sender<Seen>,
    /// The agent's end.
    pub stop: CancellationToken,
    /// How to start it, standalone.
    pub child: Option<Child>,
}

/// Keeps the mesh at what is wanted, until the agent stops. Its own mesh, which the agent
/// started, is stopped with it.
pub async fn run(handover: Arc<Handover>) -> Result<(), String> {
    let mut wanted = handover.wanted.clone();
    handover.stop.run_until_cancelled(keep(&handover, &mut wanted)).await;
    if handover.child.is_some() {
        // It may not be there, or end before it has answered.
        _ = ask::<Status>(&handover.socket, Method::POST, "/v1/stop", Bytes::new()).await;
    }
    Ok(())
}

async fn keep(handover: &Handover, wanted: &mut watch::Receiver<Wanted>) {
    loop {
        let now = wanted.borrow_and_update().clone();
        let is_new = now.number != handover.seen.borrow().number;
        let looked = hand_over(handover, now.table.as_deref(), is_new).await;
        handover.seen.send_modify(|seen| note(seen, &handover.socket, &now, looked));
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = time::sleep(LOOK) => {}
        }
    }
}

/// Puts what is wanted in force, if it is not; how the mesh is then.
async fn hand_over(
    handover: &Handover,
    wanted: Option<&v1::MeshTable>,
    is_new: bool,
) -> Result<Status, Failed> {
    let began = time::Instant::now();
    let status = match (status(handover).await, &handover.child) {
        (Err(Failed::Unreachable(_)), Some(child)) if has_mesh(wanted) => {
            child.start().map_err(|error| {
                Failed::Unreachable(format!("the mesh can't be started: {error}"))
            })?;
            answered(handover, time::Instant::now() + START).await.map_err(|_| {
                let last = child.last_words();
                Failed::Unreachable(format!("the mesh was started and does not answer: {last}"))
            })?
        }
        (Err(Failed::Unreachable(error)), None) if has_mesh(wanted) => {
            // One that is just being started fails no change.
            let answered =
                if is_new { answered(handover, began + START).await } else { Err(error) };
            answered.map_err(|error| {
                let hint = "`systemctl status purlin-mesh` may tell why";
                Failed::Unreachable(format!("{error}; {hint}"))
            })?
        }
        (asked, _) => asked?,
    };
    let Some(wanted) = wanted else { return Ok(status) };
    let is_there = (status.incarnation, status.generation)
        == (wanted.incarnation, wanted.generation)
        && status.brokers == wanted.brokers;
    // Without a document, another agent's table is left alone: it is all there is.
    let is_anothers = wanted.generation == 0 && status.incarnation != wanted.incarnation;
    if is_there || is_anothers {
        return Ok(status);
    }
    let body = wanted.encode_to_vec().into();
    let status = ask::<Status>(&handover.socket, Method::PUT, "/v1/table", body).await?;
    tracing::info!(generation = status.generation, "the mesh has the table");
    Ok(status)
}

async fn status(handover: &Handover) -> Result<Status, Failed> {
    ask(&handover.socket, Method::GET, "/v1/status", Bytes::new()).await
}

/// Waits until the mesh answers; else why it doesn't.
async fn answered(handover: &Handover, deadline: time::Instant) -> Result<Status, String> {
    loop {
        match status(handover).await {
            Ok(status) => return Ok(status),
            Err(_) if time::Instant::now() < deadline => time::sleep(POLL).await,
            Err(Failed::Unreachable(error) | Failed::Refused(error)) => return Err(error),
        }
    }
}

fn has_mesh(wanted: Option<&v1::MeshTable>) -> bool {
    wanted.is_some_and(|it| it.mesh.is_some())
}

/// Takes note of a look.
fn note(
    seen: &mut Seen,
    socket: &std::path::Path,
    wanted: &Wanted,
    looked: Result<Status, Failed>,
) {
    let is_wanted = has_mesh(wanted.table.as_deref());
    let state = match &looked {
        Ok(_) => MeshState::Up,
        Err(Failed::Unreachable(_)) if !is_wanted => MeshState::Absent,
        Err(_) => MeshState::Down,
    };
    if seen.view.state != state || seen.view.since_unix_ms == 0 {
        seen.view.since_unix_ms = clock::unix_ms();
        if let Err(Failed::Unreachable(error) | Failed::Refused(error)) = &looked
            && is_wanted
        {
            tracing::warn!(error, "the mesh is not as it is wanted");
        }
    }
    seen.number = wanted.number;
    seen.view.socket = socket.display().to_string();
    seen.view.state = state;
    seen.view.last_error = None;
    match &looked {
        Ok(status) => {
            seen.in_force = Some((status.incarnation, status.generation));
            let unbound = status.listeners.iter().find(|it| !it.listening);
            seen.unbound = unbound.map(|it| format!("listener {} has not {}", it.name, it.address));
            seen.view.pid = Some(status.pid);
            seen.view.generation = status.generation;
            seen.view.listeners = status.listeners.len();
            seen.view.open = status.counts.open;
            seen.view.requests = status.counts.requests;
            seen.view.problems = status.problems.clone();
            seen.view.lapsed = status.lapsed.clone();
        }
        Err(Failed::Unreachable(error) | Failed::Refused(error)) => {
            seen.in_force = None;
            seen.view.last_error = is_wanted.then(|| error.clone());
            if state == MeshState::Absent || matches!(looked, Err(Failed::Unreachable(_))) {
                seen.view.pid = None;
                seen.view.problems.clear();
                seen.view.lapsed.clear();
            }
        }
    }
    seen.failed = looked.err();
}

/// What is wrong with it.
pub fn faults(view: &api::Mesh) -> Vec<api::Fault> {
    let mut faults = Vec::new();
    if let Some(error) = view.last_error.as_ref().filter(|_| view.state == MeshState::Down) {
        faults.push(api::Fault {
            id: "mesh-down".into(),
            what: error.clone(),
            next: "`purlin mesh show` asks the mesh itself; `journalctl -u purlin-mesh` is what it said last".into(),
        });
    }
    let lists = "`purlin mesh show` lists all";
    faults.extend(listed("mesh-unwell", &view.problems, lists));
    let next = "`purlin mesh show` on that node says why it isn't renewed, or whose clock is wrong; \
                it is let in until mesh.certificate_grace_days are over";
    faults.extend(listed("peer-certificate-ended", &view.lapsed, next));
    faults
}

/// One fault of all of a kind.
fn listed(id: &str, all: &[String], next: &str) -> Option<api::Fault> {
    let (first, rest) = all.split_first()?;
    let more = if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
    Some(api::Fault { id: id.into(), what: format!("{first}{more}"), next: next.into() })
}
