//! The local API: HTTP and JSON over a Unix socket, with an OpenAPI document
//! made from these very handlers.
//!
//! Anyone may connect; what they may ask is for their role to say ([`role`]).

#![allow(unused_qualifications, reason = "utoipa's macro writes types out once more")]

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{fs::PermissionsExt, net::UnixStream as StdStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Query, State, rejection::QueryRejection},
    http::StatusCode,
    middleware,
    routing::get,
};
use purlin_core::{inventory::Inventory, power::elsewhere::Elsewhere, settings::Settings};
use purlin_proto::{api, topic::Topics};
use serde::Deserialize;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
};
use utoipa::{IntoParams, OpenApi as _, openapi::OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    alarm, audit,
    door::Ask,
    helper, intake,
    inventory::Ask as HardwareAsk,
    logging::Lines,
    placement::Client as PlacementClient,
    rack::{bmc, run},
    serve::Connections,
    spool::Spool,
    status::Sources,
    uplink::mqtt::{self, Mqtt},
};

mod alarms;
mod audited;
mod config;
mod metrics;
pub mod placement;
mod queue;
mod rack;
pub mod role;

use role::{Peer, Roles};

/// Over the limit of a document, so that one too large is refused with a reason.
const MAX_BODY_BYTES: usize = 1 << 20;
/// Connections at once: many times what technicians and scripts need.
const MAX_CONNECTIONS: usize = 64;
/// For everything on one connection: the longest, a link test, takes 20 s.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(60);
/// Everyone may connect, and is told what they may not.
const SOCKET_MODE: u32 = 0o666;

/// What the handlers read from and ask.
#[derive(Clone, Debug)]
pub struct Access {
    /// What the status is made of.
    pub sources: Arc<Sources>,
    /// The store.
    pub spool: Spool,
    /// The configuration's owner.
    pub door: mpsc::Sender<Ask>,
    /// The settings in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// The machine.
    pub inventory: watch::Receiver<Arc<Inventory>>,
    /// The inventory's owner.
    pub hardware: mpsc::Sender<HardwareAsk>,
    /// The placements' owner.
    pub placement: PlacementClient,
    /// What was made of the placements.
    pub enforced: watch::Receiver<Arc<api::Enforcement>>,
    /// The record of what is done.
    pub audit: audit::Client,
    /// The alarms' owner.
    pub alarms: alarm::Client,
    /// What is raised on other nodes.
    pub elsewhere: watch::Receiver<Elsewhere>,
    /// The rack.
    pub rack: watch::Receiver<run::View>,
    /// Who asks the BMC, and what it said last.
    pub bmc: (helper::Client, watch::Receiver<bmc::View>),
    /// What is done when power or cooling fails.
    pub power: watch::Receiver<Arc<api::Power>>,
    /// What workloads hand in.
    pub intake: watch::Receiver<intake::View>,
    /// The log.
    pub lines: Lines,
    /// How to reach a broker, for the link test.
    pub mqtt: Mqtt,
    /// Who may ask what.
    pub roles: Arc<Roles>,
}

type Failure = (StatusCode, Json<api::Error>);

fn failure(status: StatusCode, error: impl Into<String>) -> Failure {
    (status, Json(api::Error { error: error.into(), refusals: Vec::new() }))
}

fn stopping() -> Failure {
    failure(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping or restarting this part")
}

/// Binds the socket. One that is left over from a killed agent is replaced, one
/// that still answers is not.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if StdStream::connect(path).is_ok() {
        let what = format!("an agent answers at {}: stop it first", path.display());
        return Err(io::Error::new(ErrorKind::AddrInUse, what));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// Serves for ever.
pub async fn serve(listener: UnixListener, access: Access) -> Result<(), String> {
    // The document is made again when it is asked for, which is next to never.
    let (router, _) = router().split_for_parts();
    let router: Router = router
        .route("/openapi.json", get(async || Json(openapi())))
        .fallback(async || {
            failure(StatusCode::NOT_FOUND, "no such path: /openapi.json has them all")
        })
        .layer(middleware::from_fn_with_state(access.clone(), role::authorize))
        .layer(middleware::from_fn_with_state(access.clone(), audited::record))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(access);
    let mut connections = Connections::new(MAX_CONNECTIONS, CONNECTION_DEADLINE);
    loop {
        let (stream, _) = listener.accept().await.map_err(|error| error.to_string())?;
        let peer = Peer::of(&stream);
        connections.serve(stream, router.clone().layer(Extension(peer)));
    }
}

#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "Purlin local API",
    description = "Of one node's agent, over its Unix socket"
))]
struct Document;

fn router() -> OpenApiRouter<Access> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status))
        .routes(routes!(inventory))
        .routes(routes!(hardware_changes))
        .routes(routes!(hardware_diff))
        .routes(routes!(accept_hardware))
        .routes(routes!(metrics::metrics))
        .routes(routes!(metrics::happened))
        .routes(routes!(queue::queue))
        .routes(routes!(queue::batch))
        .routes(routes!(queue::dictionary))
        .routes(routes!(queue::import))
        .routes(routes!(queue::purge))
        .routes(routes!(power))
        .routes(routes!(rack::rack))
        .routes(routes!(rack::identify))
        .routes(routes!(alarms::alarms))
        .routes(routes!(alarms::act))
        .routes(routes!(audited::audit))
        .routes(routes!(link))
        .routes(routes!(link_test))
        .routes(routes!(config::config, config::attempt))
        .routes(routes!(config::plan))
        .routes(routes!(config::confirm))
        .routes(routes!(config::revert))
        .routes(routes!(config::diff))
        .routes(routes!(config::history))
        .routes(routes!(config::generation))
        .routes(routes!(log))
        .routes(routes!(placement::overview))
        .routes(routes!(placement::enforcement))
        .routes(routes!(placement::create))
        .routes(routes!(placement::remove))
        .routes(routes!(placement::pause))
        .routes(routes!(placement::resume))
        .routes(routes!(placement::what_if))
        .routes(routes!(placement::repack))
}

/// The OpenAPI document.
fn openapi() -> OpenApi {
    router().into_openapi()
}

/// Everything at a glance.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = api::Status)))]
async fn status(
    State(access): State<Access>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<api::Status>, Failure> {
    let queue = queue::figures(&access).await?;
    let config = ask(&access, Ask::Config).await?;
    let you = Some(access.roles.view(&peer));
    Ok(Json(api::Status { you, ..access.sources.status(queue, config.active) }))
}

/// The machine, as the agent last read it.
#[utoipa::path(get, path = "/v1/inventory", responses((status = 200, body = Object)))]
async fn inventory(State(access): State<Access>) -> Json<Arc<Inventory>> {
    Json(access.inventory.borrow().clone())
}

/// What happened to the hardware since the agent started; only so much is kept.
#[utoipa::path(get, path = "/v1/hardware/changes", responses((
    status = 200, body = api::HardwareChanges,
)))]
async fn hardware_changes(State(access): State<Access>) -> Json<api::HardwareChanges> {
    let hardware = access.sources.hardware.borrow();
    Json(api::HardwareChanges { changes: hardware.changes.iter().cloned().collect() })
}

/// The machine against the accepted hardware.
#[utoipa::path(get, path = "/v1/hardware/diff", responses((
    status = 200, body = api::HardwareDiff,
)))]
async fn hardware_diff(State(access): State<Access>) -> Json<api::HardwareDiff> {
    Json(access.sources.hardware.borrow().diff.clone())
}

/// Accepts the machine as it is now.
#[utoipa::path(post, path = "/v1/hardware/baseline", responses(
    (status = 200, body = api::HardwareDiff),
    (status = 403, body = api::Error, description = "The role for it is missing"),
    (status = 409, body = api::Error, description = "Not read yet, or not to be kept"),
))]
async fn accept_hardware(
    State(access): State<Access>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<api::HardwareDiff>, Failure> {
    let by = peer.name();
    let (reply, answer) = oneshot::channel();
    access.hardware.send(HardwareAsk::Accept(by, reply)).await.map_err(|_| stopping())?;
    let accepted = answer.await.map_err(|_| stopping())?;
    accepted.map(Json).map_err(|why| failure(StatusCode::CONFLICT, why))
}

/// What is done when power or cooling fails.
#[utoipa::path(get, path = "/v1/power", responses((status = 200, body = api::Power)))]
async fn power(State(access): State<Access>) -> Json<api::Power> {
    Json((**access.power.borrow()).clone())
}

/// Where the uplink stands.
#[utoipa::path(get, path = "/v1/link", responses((status = 200, body = api::Link)))]
async fn link(State(access): State<Access>) -> Json<api::Link> {
    Json(access.sources.link.borrow().view())
}

/// One connection attempt, step by step, beside the one in use.
#[utoipa::path(post, path = "/v1/link/test", responses(
    (status = 200, body = api::LinkTest),
    (status = 409, body = api::Error, description = "No endpoint is configured"),
))]
async fn link_test(State(access): State<Access>) -> Result<Json<api::LinkTest>, Failure> {
    let endpoint = access.settings.borrow().endpoint.value.clone();
    let endpoint = endpoint.ok_or_else(|| {
        let what = "no uplink endpoint is configured: set uplink.endpoint and apply it";
        failure(StatusCode::CONFLICT, what)
    })?;
    let identity = &access.sources.identity;
    let topics = Topics::new(&identity.fleet, &identity.node);
    Ok(Json(mqtt::test(&access.mqtt, &endpoint, &topics).await))
}

/// Which lines to show.
#[derive(Deserialize, IntoParams)]
struct After {
    /// Only lines after this number.
    #[serde(default)]
    after: u64,
}

/// What the agent has written about itself lately.
#[utoipa::path(get, path = "/v1/log", params(After), responses((status = 200, body = api::Log)))]
async fn log(
    State(access): State<Access>,
    query: Result<Query<After>, QueryRejection>,
) -> Result<Json<api::Log>, Failure> {
    let Query(query) = query.map_err(|why| failure(StatusCode::BAD_REQUEST, why.to_string()))?;
    access.lines.after(query.after).await.map(Json).ok_or_else(stopping)
}

async fn ask<T>(
    access: &Access,
    ask: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> Result<T, Failure> {
    let (reply, answer) = oneshot::channel();
    access.door.send(ask(reply)).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_documented_with_its_answer() {
        let document = openapi();
        let paths: Vec<_> = document.paths.paths.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            [
                "/v1/alarms",
                "/v1/alarms/{id}",
                "/v1/audit",
                "/v1/config",
                "/v1/config/confirm",
                "/v1/config/diff",
                "/v1/config/document",
                "/v1/config/history",
                "/v1/config/plan",
                "/v1/config/revert",
                "/v1/happened",
                "/v1/hardware/baseline",
                "/v1/hardware/changes",
                "/v1/hardware/diff",
                "/v1/inventory",
                "/v1/link",
                "/v1/link/test",
                "/v1/log",
                "/v1/metrics",
                "/v1/placement",
                "/v1/placement/containers",
                "/v1/placement/containers/{id}",
                "/v1/placement/enforcement",
                "/v1/placement/pause",
                "/v1/placement/repack",
                "/v1/placement/resume",
                "/v1/placement/what-if",
                "/v1/power",
                "/v1/queue",
                "/v1/queue/batch",
                "/v1/queue/dictionary/{hash}",
                "/v1/queue/import",
                "/v1/queue/purge",
                "/v1/rack",
                "/v1/rack/identify",
                "/v1/status",
            ]
        );
        let schemas = document.components.expect("schemas").schemas;
        for name in ["Status", "Queue", "Link", "Config", "Verdict", "Refusal", "LogLine"] {
            assert!(schemas.contains_key(name), "{name}");
        }
    }
}
