//! What is asked of the agent over its socket is on record, whoever asks and whatever
//! comes of it; and the record itself.

use axum::{
    Json,
    extract::{Query, Request, State, rejection::QueryRejection},
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};
use purlin_proto::api;
use serde::Deserialize;
use tokio::task;
use utoipa::IntoParams;

use super::{
    Access, Failure, failure,
    role::{ASKS_ONLY, Peer},
};
use crate::audit::{self, chain::Head};

/// Every container that a runtime creates: on record as an event, if it is refused.
const CONTAINERS: &str = "/v1/placement/containers";

/// Puts a request on record with its answer's status, before the answer leaves.
pub(super) async fn record(State(access): State<Access>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_harmless = request.method() == Method::GET
        || ASKS_ONLY.contains(&path)
        || path.starts_with(CONTAINERS);
    if is_harmless {
        return next.run(request).await;
    }
    let by = request.extensions().get::<Peer>().map_or_else(|| Peer::default().name(), Peer::name);
    let asked = request.uri().path_and_query().map_or(path, |it| it.as_str());
    let asked = format!("{} {asked}", request.method());
    let answer = next.run(request).await;
    let what = if answer.status().is_success() { "api.done" } else { "api.refused" };
    access.audit.note(&by, what, &format!("{asked}: {}", answer.status())).await;
    answer
}

/// What is known of the log.
#[derive(Deserialize, IntoParams)]
pub(super) struct Anchors {
    /// Lines that were told before, each NUMBER:SHA256, with commas between.
    #[serde(default)]
    anchors: String,
}

/// The audit log, verified against what the agent knows to be its end.
#[utoipa::path(get, path = "/v1/audit", params(Anchors), responses(
    (status = 200, body = api::Audit),
    (status = 400, body = api::Error, description = "No such line"),
    (status = 503, body = api::Error, description = "It can't be read"),
))]
pub(super) async fn audit(
    State(access): State<Access>,
    query: Result<Query<Anchors>, QueryRejection>,
) -> Result<Json<api::Audit>, Failure> {
    let bad = |what: String| failure(StatusCode::BAD_REQUEST, what);
    let Query(query) = query.map_err(|why| bad(why.to_string()))?;
    let told = query.anchors.split(',').filter(|told| !told.is_empty());
    let told = told.map(|told| {
        let (number, sha256) = told.split_once(':')?;
        Some(Head { number: number.parse().ok()?, sha256: sha256.into() })
    });
    let mut told: Vec<Head> =
        told.collect::<Option<_>>().ok_or_else(|| bad("no NUMBER:SHA256".into()))?;
    told.push(access.audit.state().borrow().head.clone());
    let dir = access.sources.state_dir.join(audit::store::DIR);
    let read = task::spawn_blocking(move || audit::store::read(&dir, told)).await;
    let read = read.map_err(|error| error.to_string()).flatten();
    let read = read.map_err(|why| failure(StatusCode::SERVICE_UNAVAILABLE, why))?;
    Ok(Json(audit::view(read)))
}
