//! Hands the document's mesh to the mesh process, and standalone starts that process.
//!
//! The mesh goes on without an agent, and is found again by its socket: it is never
//! started twice, and outlives an agent that is killed.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use prost::Message;
use purlin_proto::{api, mesh::Status, v1};
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, sync::watch, time};
use tokio_util::sync::CancellationToken;

use crate::boot::Boot;

/// For one question: the mesh answers from memory, and a table waits for its disk.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at whether the mesh still has the table.
const LOOK: Duration = Duration::from_secs(5);
/// For a mesh that was just started to answer.
const START: Duration = Duration::from_secs(5);
/// The longest answer taken, in bytes; a status is a few KiB.
const MAX_ANSWER: usize = 1 << 20;

/// What the task needs.
#[derive(Debug)]
pub struct Handover {
    /// The mesh's socket.
    pub socket: PathBuf,
    /// What it is to do.
    pub table: watch::Receiver<Option<Arc<v1::MeshTable>>>,
    /// The agent's end.
    pub stop: CancellationToken,
    /// How to start it, standalone.
    pub child: Option<Child>,
}

/// A mesh of this agent's own.
#[derive(Debug)]
pub struct Child {
    boot_socket: PathBuf,
    state_dir: PathBuf,
    log: PathBuf,
}

impl Child {
    /// Not started yet.
    pub fn new(boot: &Boot) -> Self {
        Self {
            boot_socket: boot.socket.clone(),
            state_dir: boot.state_dir.clone(),
            log: boot.mesh_dir().join("log"),
        }
    }

    /// Starts it, in a group of its own: neither Ctrl-C nor the agent's death ends it.
    fn start(&self) -> io::Result<()> {
        fs::create_dir_all(self.log.parent().unwrap_or(&self.state_dir))?;
        let log = File::create(&self.log)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["mesh", "--socket"])
            .arg(&self.boot_socket)
            .env("PURLIN_STATE_DIR", &self.state_dir)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()?;
        // Whoever is there when it ends reaps it.
        std::thread::spawn(move || child.wait());
        Ok(())
    }
}

/// Keeps the mesh at what the document says, until the agent stops. Its own mesh, which
/// the agent started, is stopped with it.
pub async fn run(handover: Arc<Handover>) -> Result<(), String> {
    let mut table = handover.table.clone();
    let ended = handover.stop.run_until_cancelled(keep(&handover, &mut table)).await;
    match ended {
        Some(Err(error)) => Err(error),
        _ => {
            if handover.child.is_some() {
                // It may not be there, or end before it has answered.
                _ = ask::<Status>(&handover, Method::POST, "/v1/stop", Bytes::new()).await;
            }
            Ok(())
        }
    }
}

/// Each error is told and tried again by the task's supervisor.
async fn keep(
    handover: &Handover,
    table: &mut watch::Receiver<Option<Arc<v1::MeshTable>>>,
) -> Result<(), String> {
    loop {
        let now = table.borrow_and_update().clone();
        if let Some(wanted) = &now {
            hand_over(handover, wanted).await?;
        }
        tokio::select! {
            changed = table.changed() => if changed.is_err() { return Ok(()) },
            () = time::sleep(LOOK), if now.is_some() => {}
        }
    }
}

async fn hand_over(handover: &Handover, wanted: &v1::MeshTable) -> Result<(), String> {
    let status = match ask::<Status>(handover, Method::GET, "/v1/status", Bytes::new()).await {
        Ok(status) => status,
        // Nothing there, and nothing for it to do.
        Err(Failed::Unreachable(_)) if wanted.mesh.is_none() => return Ok(()),
        Err(Failed::Unreachable(error)) => match &handover.child {
            None => return Err(format!("{error}; `systemctl status purlin-mesh` may tell why")),
            Some(child) => started(handover, child).await?,
        },
        Err(Failed::Refused(error)) => return Err(told(error)),
    };
    if (status.incarnation, status.generation) == (wanted.incarnation, wanted.generation) {
        return Ok(());
    }
    match ask::<Status>(handover, Method::PUT, "/v1/table", wanted.encode_to_vec().into()).await {
        Ok(status) => {
            tracing::info!(generation = status.generation, "the mesh has the table");
            Ok(())
        }
        Err(Failed::Unreachable(error)) => Err(error),
        Err(Failed::Refused(error)) => Err(told(error)),
    }
}

/// Starts the mesh and waits until it answers.
async fn started(handover: &Handover, child: &Child) -> Result<Status, String> {
    child.start().map_err(|error| format!("the mesh can't be started: {error}"))?;
    let deadline = time::Instant::now() + START;
    loop {
        match ask::<Status>(handover, Method::GET, "/v1/status", Bytes::new()).await {
            Ok(status) => return Ok(status),
            Err(_) if time::Instant::now() < deadline => {
                time::sleep(Duration::from_millis(50)).await
            }
            Err(_) => {
                let log = fs::read_to_string(&child.log).unwrap_or_default();
                let last = log.lines().last().unwrap_or("it said nothing");
                return Err(format!("the mesh was started and does not answer: {last}"));
            }
        }
    }
}

fn told(error: api::Error) -> String {
    let reasons =
        error.refusals.iter().map(|it| format!("; {} {}: {}", it.path, it.value, it.hint));
    format!("the mesh refused the table: {}{}", error.error, reasons.collect::<String>())
}

enum Failed {
    Unreachable(String),
    Refused(api::Error),
}

async fn ask<T: DeserializeOwned>(
    handover: &Handover,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<T, Failed> {
    let asked = time::timeout(DEADLINE, exchange(handover, method, path, body)).await;
    let asked = asked.unwrap_or_else(|_| Err("no answer in time".into()));
    let (status, bytes) = asked.map_err(|error| {
        let socket = handover.socket.display();
        Failed::Unreachable(format!("the mesh can't be reached at {socket}: {error}"))
    })?;
    if status.is_success() {
        return serde_json::from_slice(&bytes)
            .map_err(|error| Failed::Unreachable(error.to_string()));
    }
    Err(Failed::Refused(serde_json::from_slice(&bytes).unwrap_or_else(|_| api::Error {
        error: format!("it answered {status}"),
        refusals: Vec::new(),
    })))
}

async fn exchange(
    handover: &Handover,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = UnixStream::connect(&handover.socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::builder().method(method).uri(path).header(header::HOST, "purlin");
    let answer = sender.send_request(request.body(Full::new(body))?).await?;
    let status = answer.status();
    let bytes = Limited::new(answer.into_body(), MAX_ANSWER).collect().await?.to_bytes();
    drop(connection);
    Ok((status, bytes))
}
