//! The local history over the local API.

use axum::{
    Json,
    extract::{Query as QueryOf, State, rejection::QueryRejection},
    http::StatusCode,
};
use purlin_proto::api;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Access, Failure, failure};
use crate::history::{History, Query};

/// Which series, and since when.
#[derive(Deserialize, IntoParams)]
pub struct Which {
    /// A series' name or its beginning; without it, only which there are.
    #[serde(default)]
    name: String,
    /// Milliseconds since 1970; at most a day ago is kept.
    #[serde(default)]
    since_unix_ms: u64,
}

/// What was measured in the last day, a value a minute.
#[utoipa::path(get, path = "/v1/metrics", params(Which), responses(
    (status = 200, body = api::Metrics),
    (status = 503, body = api::Error, description = "There is no local history, or not yet"),
))]
pub async fn metrics(
    State(access): State<Access>,
    query: Result<QueryOf<Which>, QueryRejection>,
) -> Result<Json<api::Metrics>, Failure> {
    let QueryOf(Which { name, since_unix_ms }) =
        query.map_err(|why| failure(StatusCode::BAD_REQUEST, why.to_string()))?;
    history(&access)?.query(Query { name, since_unix_ms }).await.map(Json).map_err(none)
}

/// What happened, to what, and since when.
#[derive(Deserialize, IntoParams)]
pub struct WhatHappened {
    /// `alarm` or `hardware`.
    kind: api::Happened,
    /// Milliseconds since 1970; at most a day ago is kept.
    #[serde(default)]
    since_unix_ms: u64,
}

/// What happened to alarms or hardware in the last day.
#[utoipa::path(get, path = "/v1/happened", params(WhatHappened), responses(
    (status = 200, body = api::Happenings),
    (status = 503, body = api::Error, description = "There is no local history, or not yet"),
))]
pub async fn happened(
    State(access): State<Access>,
    query: Result<QueryOf<WhatHappened>, QueryRejection>,
) -> Result<Json<api::Happenings>, Failure> {
    let QueryOf(WhatHappened { kind, since_unix_ms }) =
        query.map_err(|why| failure(StatusCode::BAD_REQUEST, why.to_string()))?;
    let mut happened = history(&access)?.happened(since_unix_ms).await.map_err(none)?;
    happened.retain(|it| it.kind == kind);
    Ok(Json(api::Happenings { happened }))
}

fn history(access: &Access) -> Result<&History, Failure> {
    let history = access.spool.history();
    history.ok_or_else(|| none("the local history is not open yet".into()))
}

fn none(why: String) -> Failure {
    failure(StatusCode::SERVICE_UNAVAILABLE, why)
}
