//! Paths about placement: who is where, and what the OCI runtime wrapper asks.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use purlin_core::place::{
    book::{Entry, Grant},
    container::Container,
    targets::{Targets, Update},
};
use purlin_proto::api;
use serde::{Deserialize, Serialize};

use super::{Access, Failure, Peer, failure, stopping};

/// `GET /v1/placement`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Placements {
    /// Every cpuset was given back.
    pub paused: bool,
    /// What every cpuset should be.
    pub targets: Targets,
    /// Everybody who is known.
    pub containers: Vec<Entry>,
}

/// Who is where, and what every cpuset should be.
#[utoipa::path(get, path = "/v1/placement", responses((status = 200, body = Object)))]
pub async fn placements(State(access): State<Access>) -> Result<Json<Placements>, Failure> {
    let placements = access.placement.placements().await;
    placements.map(Json).ok_or_else(stopping)
}

/// What every container has, as read back, and what was done about it.
#[utoipa::path(get, path = "/v1/placement/enforcement", responses(
    (status = 200, body = api::Enforcement),
))]
pub async fn enforcement(State(access): State<Access>) -> Json<api::Enforcement> {
    Json(api::Enforcement::clone(&access.enforced.borrow()))
}

/// Places a container that is about to be created.
#[utoipa::path(post, path = "/v1/placement/containers", request_body = Object, responses(
    (status = 200, body = Object),
    (status = 403, body = api::Error, description = "Not root, and not the agent's own user"),
    (status = 409, body = api::Error, description = "It can't be placed, and why"),
))]
pub async fn create(
    State(access): State<Access>,
    Extension(peer): Extension<Peer>,
    Json(container): Json<Container>,
) -> Result<Json<Grant>, Failure> {
    peer.may_change()?;
    let grant = access.placement.create(container).await.ok_or_else(stopping)?;
    grant.map(Json).map_err(|refusal| failure(StatusCode::CONFLICT, refusal.reason))
}

/// A container is gone.
#[utoipa::path(delete, path = "/v1/placement/containers/{id}", responses(
    (status = 200, body = Object),
    (status = 403, body = api::Error, description = "Not root, and not the agent's own user"),
))]
pub async fn remove(
    State(access): State<Access>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
) -> Result<Json<Vec<Update>>, Failure> {
    peer.may_change()?;
    access.placement.remove(&id).await.map(Json).ok_or_else(stopping)
}

/// Gives every cpuset back.
#[utoipa::path(post, path = "/v1/placement/pause", responses(
    (status = 200, body = Object),
    (status = 403, body = api::Error, description = "Not root, and not the agent's own user"),
))]
pub async fn pause(
    State(access): State<Access>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<Vec<Update>>, Failure> {
    peer.may_change()?;
    access.placement.pause(true).await.map(Json).ok_or_else(stopping)
}

/// Takes every cpuset again.
#[utoipa::path(post, path = "/v1/placement/resume", responses(
    (status = 200, body = Object),
    (status = 403, body = api::Error, description = "Not root, and not the agent's own user"),
))]
pub async fn resume(
    State(access): State<Access>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<Vec<Update>>, Failure> {
    peer.may_change()?;
    access.placement.pause(false).await.map(Json).ok_or_else(stopping)
}
