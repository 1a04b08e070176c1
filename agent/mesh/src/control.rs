//! The mesh's own socket: HTTP over a Unix socket. The agent puts whole tables there;
//! whoever the socket lets in may ask.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    process,
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
use purlin_core::mesh::offer::{MAX_OFFERS, Offer};
use purlin_proto::{api, mesh as view, v1};
use sd_notify::NotifyState;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::UnixListener,
    sync::{Notify, Semaphore},
    task, time,
};

use crate::{
    discovery::alarms::Raised,
    handover, keep,
    owner::{Owner, Refused},
    records::Source,
    show,
    tap::Tap,
    uplink,
    wire::WEIGHT_DEFAULT,
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
    /// What the next mesh is started from: as it was called at this one's start.
    executable: PathBuf,
    /// Its own socket, for the next mesh.
    socket: StdListener,
    tap: Arc<Tap>,
    /// Told when somebody asks for the end.
    pub stop: Notify,
}

impl Control {
    /// Of one mesh.
    pub fn new(
        owner: Owner,
        agents_socket: PathBuf,
        executable: PathBuf,
        socket: StdListener,
        tap: Arc<Tap>,
    ) -> Self {
        let owner = Mutex::new(owner);
        Self { owner, agents_socket, executable, socket, tap, stop: Notify::new() }
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
pub fn bind(path: &Path) -> io::Result<StdListener> {
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
    let listener = StdListener::bind(path)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// Serves for ever. What is being answered when this is dropped is answered.
pub async fn serve(control: Arc<Control>) -> io::Result<()> {
    let listener = UnixListener::from_std(control.socket.try_clone()?)?;
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let (stream, _) = listener.accept().await?;
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let may_change = stream.peer_cred().is_ok_and(|peer| control.may_change(peer.uid()));
        let control = control.clone();
        let service = service_fn(move |request| {
            let control = control.clone();
            async move { Ok::<_, Infallible>(answer(&control, request, may_change).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_DEADLINE)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::spawn(async {
            _ = time::timeout(CONNECTION_DEADLINE, connection).await;
            drop(permit);
        });
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(control: &Arc<Control>, request: Request<Incoming>, may_change: bool) -> Answer {
    if request.method() == Method::CONNECT && may_change {
        return match uplink::serve(control, request).await {
            // What comes after the head is the broker's.
            Ok(()) => Response::default(),
            Err(why) => failed(StatusCode::BAD_GATEWAY, &why, Vec::new()),
        };
    }
    let (parts, body) = request.into_parts();
    let is_change = parts.method != Method::GET
        && matches!(
            parts.uri.path(),
            "/v1/table"
                | "/v1/stop"
                | "/v1/upgrade"
                | "/v1/drain"
                | "/v1/break"
                | "/v1/step-back"
                | "/v1/alarms"
                | "/v1/offers"
                | "/v1/workloads"
        );
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
        (&Method::GET, "/v1/tap") => {
            let after = parts.uri.query().and_then(|it| it.strip_prefix("after=")?.parse().ok());
            json(StatusCode::OK, &control.tap.after(after))
        }
        (&Method::POST, path @ ("/v1/drain" | "/v1/break")) => {
            set_aside(&control.owner(), path == "/v1/drain", &body)
        }
        (&Method::POST, "/v1/step-back") => step_back(&mut control.owner(), &body),
        (&Method::GET, "/v1/metrics") => json(StatusCode::OK, &control.owner().told().points),
        (&Method::GET, "/v1/peers") => json(StatusCode::OK, &control.owner().peers()),
        (&Method::GET, "/v1/endpoints") => json(StatusCode::OK, &control.owner().endpoints()),
        (&Method::POST, "/v1/why") => match serde_json::from_slice::<view::WhyAsked>(&body) {
            Ok(asked) => match control.owner().why(&asked) {
                Ok(why) => json(StatusCode::OK, &why),
                Err(why) => failed(StatusCode::BAD_REQUEST, &why, Vec::new()),
            },
            Err(error) => failed(StatusCode::BAD_REQUEST, &error.to_string(), Vec::new()),
        },
        (&Method::GET, "/v1/offers") => json(StatusCode::OK, &control.owner().offers()),
        (&Method::PUT, "/v1/offers") => offer(control, &body, containers),
        (&Method::POST, "/v1/offers") => offer(control, &body, by_hand),
        (&Method::PUT, "/v1/workloads") => workloads(&mut control.owner(), &body),
        (&Method::POST, "/v1/alarms") => exchange(&control.owner(), &body),
        (&Method::POST, "/v1/stop") => {
            control.stop.notify_one();
            json(StatusCode::OK, &control.owner().status())
        }
        // Whoever asked may hang up: it goes on.
        (&Method::POST, "/v1/upgrade") => {
            let upgraded = tokio::spawn(upgrade(control.clone())).await;
            upgraded.unwrap_or_else(|error| {
                failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string(), Vec::new())
            })
        }
        _ => {
            let what = "there are /v1/status, /v1/routes, /v1/endpoints, /v1/peers, /v1/metrics, /v1/why, /v1/tap, /v1/drain, /v1/break, /v1/step-back, /v1/table, /v1/offers, /v1/workloads, /v1/alarms, /v1/upgrade, /v1/stop";
            failed(StatusCode::NOT_FOUND, what, Vec::new())
        }
    }
}

/// Starts the next mesh and hands over to it. If it doesn't serve, this one goes on.
async fn upgrade(control: Arc<Control>) -> Answer {
    let sockets = control.owner().hand_over();
    let sockets = match sockets {
        Ok(sockets) => sockets,
        Err(error) => return failed(StatusCode::CONFLICT, &error.to_string(), Vec::new()),
    };
    let starting = control.clone();
    let started = task::spawn_blocking(move || {
        handover::start(&starting.executable, &starting.socket, &sockets)
    });
    match started.await.map_err(io::Error::other).flatten() {
        Ok(heir) => {
            // Without systemd there is nobody to tell.
            _ = sd_notify::notify(&[NotifyState::MainPid(heir.pid)]);
            let mut owner = control.owner();
            let upgraded = view::Upgraded { from: process::id(), to: heir.pid, open: owner.open() };
            owner.succeeded_by(heir);
            control.stop.notify_one();
            json(StatusCode::OK, &upgraded)
        }
        Err(error) => {
            control.owner().keep_on();
            tracing::error!(%error, "the upgrade failed, and this mesh goes on");
            let what = format!("{error}; the old one goes on");
            failed(StatusCode::INTERNAL_SERVER_ERROR, &what, Vec::new())
        }
    }
}

/// What the agent says of this node's alarms, for what others say of theirs.
fn exchange(owner: &Owner, body: &[u8]) -> Answer {
    let said = serde_json::from_slice::<view::Alarms>(body).map_err(|error| error.to_string());
    match said.and_then(|it| Raised::checked(it.alarms)) {
        Ok(alarms) => json(StatusCode::OK, &owner.live().members.exchange(alarms)),
        Err(why) => failed(StatusCode::BAD_REQUEST, &why, Vec::new()),
    }
}

/// All of the node's containers.
fn workloads(owner: &mut Owner, body: &[u8]) -> Answer {
    let told = serde_json::from_slice::<Vec<view::WorkloadTold>>(body);
    let taken = told.map_err(|error| error.to_string()).and_then(|all| {
        let wire = |view::WorkloadTold { name, cgroup, addresses }| v1::LocalWorkload {
            name,
            cgroup,
            addresses,
        };
        owner.has_workloads(all.into_iter().map(wire).collect())
    });
    match taken {
        Ok(()) => json(StatusCode::OK, &()),
        Err(why) => failed(StatusCode::BAD_REQUEST, &why, Vec::new()),
    }
}

/// What this node offers from now on, by what is asked; and what becomes of all that is
/// offered.
fn offer<T: DeserializeOwned>(
    control: &Control,
    body: &[u8],
    change: fn(&mut Owner, T) -> Result<(), String>,
) -> Answer {
    let asked = serde_json::from_slice(body).map_err(|error| error.to_string());
    let mut owner = control.owner();
    match asked.and_then(|asked| change(&mut owner, asked)) {
        Ok(()) => json(StatusCode::OK, &owner.offers()),
        Err(why) => failed(StatusCode::BAD_REQUEST, &why, Vec::new()),
    }
}

/// All that the node's containers serve.
fn containers(owner: &mut Owner, all: Vec<view::OfferAsked>) -> Result<(), String> {
    if all.len() > MAX_OFFERS {
        return Err(format!("{} offers; at most {MAX_OFFERS}", all.len()));
    }
    let checked = all.iter().map(offered).collect::<Result<_, _>>()?;
    owner.serves(Source::Containers, checked);
    Ok(())
}

/// One more, or one less.
fn by_hand(owner: &mut Owner, asked: view::OfferAsked) -> Result<(), String> {
    let offer = offered(&asked)?;
    let mut all = owner.live().records.by_hand();
    let before = all.len();
    all.retain(|it| (&it.service, it.address) != (&offer.service, offer.address));
    match asked.undo {
        true if all.len() == before => {
            return Err(format!("{} is not offered for {} by hand", asked.address, asked.service));
        }
        true => {}
        false if all.len() >= MAX_OFFERS => return Err(format!("at most {MAX_OFFERS} offers")),
        false => all.push(offer),
    }
    owner.serves(Source::Hand, all);
    Ok(())
}

fn offered(it: &view::OfferAsked) -> Result<Offer, String> {
    let weight = it.weight.unwrap_or(WEIGHT_DEFAULT);
    Offer::checked(&it.service, &it.address, weight, it.source.as_deref().unwrap_or("by hand"))
}

/// Sets an endpoint or a service aside, by hand and until this process ends.
fn set_aside(owner: &Owner, is_endpoint: bool, body: &[u8]) -> Answer {
    let asked = match serde_json::from_slice::<view::SetAside>(body) {
        Ok(asked) => asked,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error.to_string(), Vec::new()),
    };
    let count = show::set_aside(owner.live(), is_endpoint, &asked);
    tracing::warn!(name = asked.name, undo = asked.undo, count, "set aside by hand");
    match count {
        0 => {
            let what = format!("{} is none of `purlin mesh endpoints`", asked.name);
            failed(StatusCode::NOT_FOUND, &what, Vec::new())
        }
        _ => json(StatusCode::OK, &owner.endpoints()),
    }
}

/// Takes a route's new backend out by hand, or lets it in again.
fn step_back(owner: &mut Owner, body: &[u8]) -> Answer {
    let asked = match serde_json::from_slice::<view::SetAside>(body) {
        Ok(asked) => asked,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error.to_string(), Vec::new()),
    };
    let count = owner.step_back(&asked);
    tracing::warn!(route = asked.name, undo = asked.undo, count, "stepped back by hand");
    match count {
        0 => {
            let what = format!("{} is no route with a rule that has a step_back", asked.name);
            failed(StatusCode::NOT_FOUND, &what, Vec::new())
        }
        _ => json(StatusCode::OK, &show::routes(owner.live())),
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
        Err(Refused::HandingOver) => {
            let what = "another mesh is taking over: try again in a moment";
            failed(StatusCode::SERVICE_UNAVAILABLE, what, Vec::new())
        }
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
