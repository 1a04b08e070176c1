//! The mesh's own socket: HTTP over a Unix socket. The agent puts whole tables there;
//! whoever the socket lets in may ask.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream as StdStream,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message;
use purlin_proto::{api, mesh as view, v1};
use serde::Serialize;
use tokio::{net::UnixListener, sync::Notify, task::JoinSet, time};

use crate::{
    keep,
    owner::{Owner, Refused},
    show,
};

/// Connections at once: many times what technicians and scripts need.
const MAX_CONNECTIONS: usize = 32;
/// For everything on one connection; all answers are from memory but a table's, which
/// waits for a disk.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(30);
/// For a request's head to arrive.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// Owner and group may connect.
const SOCKET_MODE: u32 = 0o660;

/// What the handlers share. The lock is held for no wait but that for the disk.
#[derive(Debug)]
pub struct Control {
    owner: Mutex<Owner>,
    agents_socket: PathBuf,
    /// Told when somebody asks for the end.
    pub stop: Notify,
}

impl Control {
    /// Of one mesh.
    pub fn new(owner: Owner, agents_socket: PathBuf) -> Self {
        Self { owner: Mutex::new(owner), agents_socket, stop: Notify::new() }
    }

    /// Whether a user may change anything: root, our own, and the agent's, which is
    /// whoever its socket belongs to.
    fn may_change(&self, uid: u32) -> bool {
        let agent = || fs::metadata(&self.agents_socket).is_ok_and(|it| it.uid() == uid);
        uid == 0 || uid == rustix::process::geteuid().as_raw() || agent()
    }

    /// The table's owner. A panic while it was held left it whole: it is only ever
    /// assigned to as a whole.
    pub fn owner(&self) -> MutexGuard<'_, Owner> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Binds the socket. One that is left over from a killed mesh is replaced, one that
/// still answers is not.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if StdStream::connect(path).is_ok() {
        let what = format!("a mesh answers at {}: stop it first", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// Serves for ever.
pub async fn serve(listener: UnixListener, control: Arc<Control>) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            continue;
        }
        let may_change = stream.peer_cred().is_ok_and(|peer| control.may_change(peer.uid()));
        let control = control.clone();
        let service = service_fn(move |request| {
            let control = control.clone();
            async move { Ok::<_, Infallible>(answer(&control, request, may_change).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_DEADLINE)
            .serve_connection(TokioIo::new(stream), service);
        connections.spawn(async { _ = time::timeout(CONNECTION_DEADLINE, connection).await });
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(control: &Control, request: Request<Incoming>, may_change: bool) -> Answer {
    let (parts, body) = request.into_parts();
    let is_change = parts.method == Method::PUT || parts.uri.path() == "/v1/stop";
    if is_change && !may_change {
        let what = "only root, the agent and the mesh's own user may change it; try sudo";
        return failed(StatusCode::FORBIDDEN, what, Vec::new());
    }
    let Ok(body) = Limited::new(body, keep::MAX_BYTES).collect().await else {
        let what = format!("at most {} bytes are read", keep::MAX_BYTES);
        return failed(StatusCode::PAYLOAD_TOO_LARGE, &what, Vec::new());
    };
    let body = body.to_bytes();
    match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/v1/status") => json(StatusCode::OK, &control.owner().status()),
        (&Method::PUT, "/v1/table") => put(control, body),
        (&Method::GET, "/v1/routes") => json(StatusCode::OK, &show::routes(control.owner().live())),
        (&Method::GET, "/v1/endpoints") => json(StatusCode::OK, &control.owner().endpoints()),
        (&Method::POST, "/v1/why") => match serde_json::from_slice::<view::WhyAsked>(&body) {
            Ok(asked) => match control.owner().why(&asked) {
                Ok(why) => json(StatusCode::OK, &why),
                Err(why) => failed(StatusCode::BAD_REQUEST, &why, Vec::new()),
            },
            Err(error) => failed(StatusCode::BAD_REQUEST, &error.to_string(), Vec::new()),
        },
        (&Method::POST, "/v1/stop") => {
            control.stop.notify_one();
            json(StatusCode::OK, &control.owner().status())
        }
        _ => {
            let what =
                "there are /v1/status, /v1/routes, /v1/endpoints, /v1/why, /v1/table, /v1/stop";
            failed(StatusCode::NOT_FOUND, what, Vec::new())
        }
    }
}

fn put(control: &Control, body: Bytes) -> Answer {
    let table = match v1::MeshTable::decode(body) {
        Ok(table) => table,
        Err(error) => {
            return failed(
                StatusCode::BAD_REQUEST,
                &format!("not a purlin.v1.MeshTable: {error}"),
                Vec::new(),
            );
        }
    };
    let mut owner = control.owner();
    match owner.offer(table) {
        Ok(()) => json(StatusCode::OK, &owner.status()),
        Err(Refused::NotDurable(error)) => {
            let what = format!("nothing was applied, because the table can't be written: {error}");
            failed(StatusCode::INSUFFICIENT_STORAGE, &what, Vec::new())
        }
        Err(Refused::Impossible(refusals)) => {
            let view = refusals.into_iter().map(|it| api::Refusal {
                path: it.path,
                value: it.value,
                limit: it.limit,
                hint: it.hint,
            });
            failed(StatusCode::UNPROCESSABLE_ENTITY, "refused: nothing was applied", view.collect())
        }
    }
}

fn failed(status: StatusCode, error: &str, refusals: Vec<api::Refusal>) -> Answer {
    json(status, &api::Error { error: error.into(), refusals })
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut answer = Response::new(Full::new(bytes.into()));
    *answer.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}
