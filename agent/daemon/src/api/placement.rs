//! Paths about placement: who is where, and what the OCI runtime wrapper asks.

use axum::{
    Json,
    body::Bytes,
    extract::{
        Path, Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode},
};
use purlin_core::place::{
    book::{Grant, Overview},
    container::Container,
    decide::Answer,
    repack::Plan,
    request::Request,
    targets::Update,
};
use purlin_proto::api;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Access, Failure,
    config::{document, refused},
    failure, stopping,
};
use crate::workload;

/// Who is where, and what every cpuset should be.
#[utoipa::path(get, path = "/v1/placement", responses((status = 200, body = Object)))]
pub async fn overview(State(access): State<Access>) -> Result<Json<Overview>, Failure> {
    access.placement.overview().await.map(Json).ok_or_else(stopping)
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
    (status = 403, body = api::Error, description = "The role for it is missing"),
    (status = 409, body = api::Error, description = "It can't be placed, and why"),
))]
pub async fn create(
    State(access): State<Access>,
    Json(container): Json<Container>,
) -> Result<Json<Grant>, Failure> {
    let grant = access.placement.create(container).await.ok_or_else(stopping)?;
    grant.map(Json).map_err(|refusal| failure(StatusCode::CONFLICT, refusal.reason))
}

/// A container is gone.
#[utoipa::path(delete, path = "/v1/placement/containers/{id}", responses(
    (status = 200, body = Object),
    (status = 403, body = api::Error, description = "The role for it is missing"),
))]
pub async fn remove(
    State(access): State<Access>,
    Path(id): Path<String>,
) -> Result<Json<Vec<Update>>, Failure> {
    access.placement.remove(&id).await.map(Json).ok_or_else(stopping)
}

/// Gives every cpuset back.
#[utoipa::path(post, path = "/v1/placement/pause", responses(
    (status = 200, body = Object),
    (status = 403, body = api::Error, description = "The role for it is missing"),
))]
pub async fn pause(State(access): State<Access>) -> Result<Json<Vec<Update>>, Failure> {
    access.placement.pause(true).await.map(Json).ok_or_else(stopping)
}

/// Takes every cpuset again.
#[utoipa::path(post, path = "/v1/placement/resume", responses(
    (status = 200, body = Object),
    (status = 403, body = api::Error, description = "The role for it is missing"),
))]
pub async fn resume(State(access): State<Access>) -> Result<Json<Vec<Update>>, Failure> {
    access.placement.pause(false).await.map(Json).ok_or_else(stopping)
}

/// Where a workload would go now; nothing is placed.
#[utoipa::path(post, path = "/v1/placement/what-if", request_body = String, responses(
    (status = 200, body = Object),
    (status = 422, body = api::Error, description = "It is not a workload, with every reason"),
))]
pub async fn what_if(
    State(access): State<Access>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Answer>, Failure> {
    let request = request(&headers, body)?;
    access.placement.what_if(request).await.map(Json).ok_or_else(stopping)
}

/// How far others may be moved.
#[derive(Deserialize, IntoParams)]
pub struct Budget {
    /// Memory that may have to follow, in MiB.
    #[serde(default)]
    budget_mib: u64,
    /// Move them; else it is only a plan.
    #[serde(default)]
    apply: bool,
}

/// Who would have to move so that a workload fits; moves them if that is asked for.
#[utoipa::path(post, path = "/v1/placement/repack", request_body = String, params(Budget),
    responses(
        (status = 200, body = Object),
        (status = 403, body = api::Error, description = "The role for it is missing"),
        (status = 409, body = api::Error, description = "No moves make room"),
        (status = 422, body = api::Error, description = "It is not a workload"),
))]
pub async fn repack(
    State(access): State<Access>,
    query: Result<Query<Budget>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Plan>, Failure> {
    let Query(budget) = query.map_err(|why| failure(StatusCode::BAD_REQUEST, why.to_string()))?;
    let request = request(&headers, body)?;
    let bytes = budget.budget_mib.saturating_mul(1 << 20);
    let plan = access.placement.repack(request, bytes, budget.apply).await.ok_or_else(stopping)?;
    plan.map(Json).map_err(|why| failure(StatusCode::CONFLICT, why))
}

fn request(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Request, Failure> {
    let (bytes, format) = document(headers, body)?;
    workload::parse(format, &bytes).map_err(refused)
}
