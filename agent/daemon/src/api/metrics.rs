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
use crate::history::Query;

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
    let none = |why: String| failure(StatusCode::SERVICE_UNAVAILABLE, why);
    let history = access.spool.history();
    let history = history.ok_or_else(|| none("the local history is not open yet".into()))?;
    history.query(Query { name, since_unix_ms }).await.map(Json).map_err(none)
}
