//! The NRI plugin: asked by containerd or CRI-O about every container before it is
//! created, and able to change it then and later.
//!
//! It connects to the runtime's socket for as long as the agent runs, and again whenever
//! a [session] ends. It decides nothing: placement's owner does. Nothing that
//! goes wrong here is lost, because each session begins with the runtime telling of all
//! its containers; those that are not where they belong are repaired then.

use std::{io, os::unix::net::UnixStream as StdStream, path::PathBuf, time::Duration};

use purlin_core::backoff::Backoff;
use purlin_proto::api::{self, NriState};
use tokio::{net::UnixStream, sync::watch, time};

use crate::{
    clock,
    helper::{self, Changed, What},
    state,
};

pub mod codec;
mod session;
mod view;

use session::Session;
pub use session::Wiring;

/// Where containerd and CRI-O listen for plugins unless told otherwise.
pub const SOCKET: &str = "/var/run/nri/nri.sock";
/// A runtime that has restarted creates containers at once: this short is the time in
/// which none of them is asked about. A socket that isn't there costs one system call.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(1);

/// Keeps a session with the runtime.
#[derive(Debug)]
pub struct Plugin {
    socket: PathBuf,
    wiring: Wiring,
    /// Connects where the agent may not.
    helper: Option<helper::Client>,
}

impl Plugin {
    /// Of the runtime behind the socket that was named, or behind [`SOCKET`].
    pub fn new(named: Option<PathBuf>, wiring: Wiring, helper: Option<helper::Client>) -> Self {
        let configured = named.is_some();
        let socket = named.unwrap_or_else(|| SOCKET.into());
        wiring.status.send_modify(|status| {
            status.socket = socket.display().to_string();
            status.configured = configured;
            status.since_unix_ms = clock::unix_ms();
        });
        Self { socket, wiring, helper }
    }

    /// Serves for ever.
    pub async fn run(&mut self) {
        // The runtime waits for none of our answers until the owner gives some.
        while self.wiring.placement.overview().await.is_none() {
            time::sleep(RETRY_MOST).await;
        }
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        loop {
            let (lasted, why) = self.session().await;
            if lasted {
                backoff.succeed();
            }
            self.note(lasted, why);
            time::sleep(backoff.fail(state::random_u64().unwrap_or_default())).await;
        }
    }

    /// One session: whether the runtime told of its containers in it, and why it ended;
    /// `None` if there is no such socket.
    async fn session(&mut self) -> (bool, Option<String>) {
        let trunk = match self.connect().await {
            Ok(Some(trunk)) => trunk,
            Ok(None) => return (false, None),
            Err(why) => return (false, Some(why)),
        };
        let mut session = Session::over(trunk, &mut self.wiring);
        let why = session.run().await;
        (session.synchronized(), Some(why))
    }

    /// To the runtime, by itself or, where only root may, through the helper; `None` if
    /// there is no such socket.
    async fn connect(&self) -> Result<Option<UnixStream>, String> {
        let denied = match UnixStream::connect(&self.socket).await {
            Ok(trunk) => return Ok(Some(trunk)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => error,
        };
        let is_denied = denied.kind() == io::ErrorKind::PermissionDenied;
        let Some(helper) = self.helper.as_ref().filter(|_| is_denied) else {
            return Err(denied.to_string());
        };
        let mut answer = helper.ask(What::Nri(self.socket.clone())).await;
        match (answer.connection.take(), answer.changed()) {
            (Some(connection), Changed::Connected) => {
                let trunk = StdStream::from(connection);
                let trunk = trunk.set_nonblocking(true).and_then(|()| UnixStream::from_std(trunk));
                trunk.map(Some).map_err(|error| error.to_string())
            }
            (_, Changed::Absent) => Ok(None),
            (_, Changed::Refused(why)) => Err(format!("{denied}; asked the helper: {why}")),
            _ => Err(format!("{denied}; the helper answered something else")),
        }
    }

    /// Tells what is new; one that can't be made is tried every second.
    fn note(&mut self, lasted: bool, why: Option<String>) {
        let state = if why.is_some() { NriState::Down } else { NriState::Absent };
        let before = self.wiring.status.borrow().clone();
        if before.state == state && before.last_error == why {
            return;
        }
        self.wiring.status.send_modify(|status| {
            status.state = state;
            status.since_unix_ms = clock::unix_ms();
            status.last_error = why.clone();
        });
        let socket = self.socket.display();
        match &why {
            Some(why) => tracing::warn!(%socket, why, "no session with the container runtime"),
            None => tracing::info!(%socket, "no container runtime with NRI"),
        }
        if lasted {
            let text = why.unwrap_or_else(|| "its socket is gone".into());
            self.wiring.spool.event("placement.runtime.lost", text);
        }
    }
}

/// What is wrong, and what to do next.
pub fn faults(status: &watch::Receiver<api::Nri>) -> Option<api::Fault> {
    let nri = status.borrow();
    let (what, next) = match (nri.state, nri.configured) {
        (NriState::Up, _) | (NriState::Absent, false) => return None,
        (NriState::Absent, true) => (
            format!("there is no {}, where nri.socket says the container runtime is", nri.socket),
            "start the runtime with NRI enabled (docs/nri.md), or correct nri.socket",
        ),
        (NriState::Down, _) => {
            let why = nri.last_error.as_deref().unwrap_or("no reason told");
            let what = format!("the container runtime does not ask us about containers: {why}");
            (what, "see its log; containers are created unplaced until then and repaired after")
        }
    };
    Some(api::Fault { id: "runtime-unasked".into(), what, next: next.into() })
}
