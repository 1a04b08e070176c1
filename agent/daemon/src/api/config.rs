//! The configuration's part of the local API: plan, try, confirm, revert, look back.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{
        Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
};
use prost::bytes::Bytes;
use purlin_proto::api;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Access, Failure, MAX_BODY_BYTES, Peer, ask, failure};
use crate::{
    document::Format,
    door::{Ask, Confirm, Manner, Offer},
};

/// Seconds that a trial may take: less than the first proves nothing, and more than a
/// day is no trial.
const TRIAL_S: std::ops::RangeInclusive<u64> = 5..=86_400;
/// Seconds that an override may hold: up to 30 days.
const OVERRIDE_S: std::ops::RangeInclusive<u64> = 1..=2_592_000;
/// Bytes of an override's reason: a sentence.
const MAX_REASON: usize = 200;

/// How a document is to be tried.
#[derive(Debug, Default, Deserialize, IntoParams)]
pub(super) struct Try {
    /// Seconds after which it is undone unless it was confirmed, 5 to 86400 [300]
    for_s: Option<u64>,
    /// Confirm it by itself once all is well, as one from the core
    #[serde(default)]
    by_itself: bool,
    /// Even if it has failed its trial before
    #[serde(default)]
    force: bool,
    /// Seconds that it holds over what the core wants, 1 to 2592000; needs a reason
    override_s: Option<u64>,
    /// Why it holds over what the core wants
    reason: Option<String>,
}

impl Try {
    fn manner(self) -> Result<Manner, Failure> {
        let bad = |what: String| failure(StatusCode::BAD_REQUEST, what);
        if let Some(s) = self.for_s.filter(|s| !TRIAL_S.contains(s)) {
            return Err(bad(format!("a trial of {s} s: it may take 5 s to 1 day")));
        }
        let over = match (self.override_s, self.reason) {
            (None, None) => None,
            (Some(s), _) if !OVERRIDE_S.contains(&s) => {
                return Err(bad(format!("an override for {s} s: it may hold 1 s to 30 days")));
            }
            (Some(s), Some(reason)) if (1..=MAX_REASON).contains(&reason.trim().len()) => {
                Some((reason.trim().to_owned(), Duration::from_secs(s)))
            }
            _ => {
                let what = "an override needs a time and a reason, of 1 to 200 bytes";
                return Err(bad(what.into()));
            }
        };
        Ok(Manner {
            timeout: self.for_s.map(Duration::from_secs),
            by_hand: !self.by_itself,
            force: self.force,
            again: false,
            over,
        })
    }
}

/// Every setting in force, with its origin, and the trial that is under way.
#[utoipa::path(get, path = "/v1/config", responses((status = 200, body = api::Config)))]
pub(super) async fn config(State(access): State<Access>) -> Result<Json<api::Config>, Failure> {
    ask(&access, Ask::Config).await.map(Json)
}

/// Tries a document (TOML, YAML, JSON or protobuf, by its media type): it is put in
/// force, and undone by itself unless it is confirmed in time.
#[utoipa::path(post, path = "/v1/config", params(Try), request_body = String, responses(
    (status = 200, body = api::Verdict),
    (status = 403, body = api::Error, description = "The role for it is missing"),
    (status = 413, body = api::Error),
    (status = 415, body = api::Error),
    (status = 422, body = api::Error, description = "Refused, with every reason"),
))]
pub(super) async fn attempt(
    State(access): State<Access>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<Try>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<api::Verdict>, Failure> {
    let by = peer.name();
    let manner = asked(query)?.manner()?;
    let (bytes, format) = document(&headers, body)?;
    let offer = Offer::local(bytes, format, by, manner);
    let verdict = ask(&access, |reply| Ask::Offer(offer, reply)).await?;
    if verdict.accepted { Ok(Json(verdict)) } else { Err(refused(verdict.refusals)) }
}

/// What a document would change, and what that disturbs; nothing is applied.
#[utoipa::path(post, path = "/v1/config/plan", request_body = String, responses(
    (status = 200, body = api::Plan),
    (status = 422, body = api::Error, description = "It would be refused, with every reason"),
))]
pub(super) async fn plan(
    State(access): State<Access>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<api::Plan>, Failure> {
    let (bytes, format) = document(&headers, body)?;
    ask(&access, |reply| Ask::Plan(bytes, format, reply)).await?.map(Json).map_err(refused)
}

/// What the document in force changed against the one before it.
#[utoipa::path(get, path = "/v1/config/diff", responses((status = 200, body = api::Diff)))]
pub(super) async fn diff(State(access): State<Access>) -> Result<Json<api::Diff>, Failure> {
    ask(&access, Ask::Diff).await.map(Json)
}

/// Which trial is confirmed.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct Which {
    /// The generation on trial; whichever it is without
    generation: Option<u64>,
    /// Even though not all of it is well
    #[serde(default)]
    anyway: bool,
}

/// Keeps the document on trial.
#[utoipa::path(post, path = "/v1/config/confirm", params(Which), responses(
    (status = 200, body = api::Verdict),
    (status = 403, body = api::Error, description = "The role for it is missing"),
    (status = 409, body = api::Error, description = "No trial, another one, or not well"),
))]
pub(super) async fn confirm(
    State(access): State<Access>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<Which>, QueryRejection>,
) -> Result<Json<api::Verdict>, Failure> {
    let by = peer.name();
    let Which { generation, anyway } = asked(query)?;
    let confirm = Confirm { by, generation, anyway };
    let confirmed = ask(&access, |reply| Ask::Confirm(confirm, reply)).await?;
    confirmed.map(Json).map_err(|why| failure(StatusCode::CONFLICT, why))
}

/// Undoes the document on trial now.
#[utoipa::path(post, path = "/v1/config/revert", responses(
    (status = 200, body = api::Verdict),
    (status = 403, body = api::Error, description = "The role for it is missing"),
    (status = 409, body = api::Error, description = "No trial"),
))]
pub(super) async fn revert(State(access): State<Access>) -> Result<Json<api::Verdict>, Failure> {
    let reverted = ask(&access, Ask::Revert).await?;
    reverted.map(Json).map_err(|why| failure(StatusCode::CONFLICT, why))
}

/// The latest verdicts, newest first.
#[utoipa::path(get, path = "/v1/config/history", responses((status = 200, body = api::History)))]
pub(super) async fn history(State(access): State<Access>) -> Result<Json<api::History>, Failure> {
    ask(&access, Ask::History).await.map(Json)
}

/// Which document.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct Generation {
    /// Its generation; the one in force without
    generation: Option<u64>,
}

/// A document that is or was in force.
#[utoipa::path(get, path = "/v1/config/document", params(Generation), responses(
    (status = 200, body = api::Document),
    (status = 404, body = api::Error, description = "Not kept, or never there"),
))]
pub(super) async fn generation(
    State(access): State<Access>,
    query: Result<Query<Generation>, QueryRejection>,
) -> Result<Json<api::Document>, Failure> {
    let number = asked(query)?.generation;
    let found = ask(&access, |reply| Ask::Document(number, reply)).await?;
    found.map(Json).ok_or_else(|| failure(StatusCode::NOT_FOUND, crate::offline::NO_GENERATION))
}

fn asked<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Failure> {
    let asked = query.map_err(|why| failure(StatusCode::BAD_REQUEST, why.to_string()))?;
    Ok(asked.0)
}

pub(super) fn document(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(Bytes, Format), Failure> {
    let bytes = body.map_err(|rejection| {
        failure(rejection.status(), format!("{rejection}; at most {MAX_BODY_BYTES} bytes are read"))
    })?;
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let format = Format::of_media_type(media_type.unwrap_or_default()).ok_or_else(|| {
        let what =
            "send application/toml, application/yaml, application/json or application/x-protobuf";
        failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, what)
    })?;
    Ok((bytes, format))
}

pub(super) fn refused(refusals: Vec<api::Refusal>) -> Failure {
    let error = "refused: nothing was applied".into();
    (StatusCode::UNPROCESSABLE_ENTITY, Json(api::Error { error, refusals }))
}
