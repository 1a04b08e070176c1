//! The machine that this state was made on, in `machine.json`, and whether it is still there.
//!
//! A state that woke up elsewhere runs on as it last did, and says so until somebody settles
//! it: `purlin node accept` where the node is to be here, `purlin node reset` on a copy. What
//! is settled is that the file is gone: the machine is taken down anew.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use purlin_core::{
    inventory::Inventory,
    moved::{Machine, Moved},
};
use purlin_proto::api;
use tokio::{sync::watch, time};

use crate::{audit, state};

const FILE: &str = "machine.json";
/// A machine with hundreds of disks; what is larger is none.
const MAX_BYTES: u64 = 64 << 10;
/// Whether it was settled is seen after it at the latest.
const LOOK: Duration = Duration::from_secs(5);

/// What the task is connected to.
#[derive(Clone, Debug)]
pub struct Task {
    /// State directory.
    pub state: PathBuf,
    /// The machine's root, or a dump's directory.
    pub root: PathBuf,
    /// The machine.
    pub inventory: watch::Receiver<Arc<Inventory>>,
    /// The record.
    pub audit: audit::Client,
    /// Whether the state is elsewhere.
    pub view: watch::Sender<Option<api::Fault>>,
}

impl Task {
    /// Runs for ever.
    pub async fn run(mut self) -> Result<(), String> {
        let system = state::system_of_machine(&self.root);
        let path = self.state.join(FILE);
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut known = read(&path).map_err(failed)?;
        let mut was_there = known.is_some();
        loop {
            let now = Machine::of(&self.inventory.borrow_and_update(), system.clone());
            if let Some(now) = now {
                // That it is gone is somebody's word that the node is to be here.
                let is_there = path.try_exists().map_err(failed)?;
                let fault = match known.as_ref().filter(|_| is_there) {
                    Some(was) => was.moved(&now).map(fault),
                    None => {
                        let text = serde_json::to_vec(&now).map_err(|error| error.to_string())?;
                        state::replace(&path, 0o600, &text).map_err(failed)?;
                        known = Some(now);
                        if std::mem::replace(&mut was_there, true) {
                            let text = "the node's state belongs to this machine from now on";
                            self.audit.tell(crate::agent::AGENT, "node.accepted", text);
                            tracing::info!("{text}");
                        }
                        None
                    }
                };
                self.view.send_if_modified(|view| {
                    let is_new = *view != fault;
                    *view = fault;
                    is_new
                });
            }
            _ = time::timeout(LOOK, self.inventory.changed()).await;
        }
    }
}

/// Has the machine taken down anew. Whether it was another one is not asked.
pub fn accept(state: &Path) -> Result<(), String> {
    let path = state.join(FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("{}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// One that makes no sense is as good as none: which machine it was is not known any more.
fn read(path: &Path) -> std::io::Result<Option<Machine>> {
    match state::read(path, MAX_BYTES) {
        Err(error) if error.kind() == ErrorKind::FileTooLarge => Ok(None),
        bytes => Ok(bytes?.and_then(|bytes| serde_json::from_slice(&bytes).ok())),
    }
}

fn fault(moved: Moved) -> api::Fault {
    let what = match moved {
        Moved::Board => "its disks, and another board: the board was replaced, or the disks moved",
        Moved::Disk => "the same board, and none of its disks: its content was put back",
        Moved::Copy => "another board and other disks: the state is a copy",
        Moved::System => "the same machine, and another machine id: it was installed anew",
    };
    api::Fault {
        id: "identity-moved".into(),
        what: format!("this node's state was made on another machine: {what}"),
        next: "it runs on as it last did: `purlin node accept` if the node is to be this machine; \
               if the other one still runs, `purlin node reset --all` on the copy"
            .into(),
    }
}
