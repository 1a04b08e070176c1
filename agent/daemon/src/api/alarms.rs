//! The alarms' part of the local API: what there is, and what somebody does about it.

use axum::{
    Extension, Json,
    extract::{
        Path, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::StatusCode,
};
use purlin_core::alarm::{Note, Refused};
use purlin_proto::api::{self, Act, AlarmAct};

use super::{Access, Failure, Peer, failure, stopping};
use crate::{alarm, clock};

/// Seconds that an alarm may be silenced: up to 30 days.
const SILENCE_S: std::ops::RangeInclusive<u64> = 1..=2_592_000;
/// Bytes of a reason: a sentence.
const MAX_REASON: usize = 200;

/// What is raised, and what was.
#[utoipa::path(get, path = "/v1/alarms", responses((status = 200, body = api::Alarms)))]
pub(super) async fn alarms(State(access): State<Access>) -> Json<api::Alarms> {
    let elsewhere = access.elsewhere.borrow().raised(clock::since_boot()).collect();
    Json(api::Alarms { elsewhere, ..alarm::views(&access.sources.alarms.borrow()) })
}

/// Acknowledges, silences or clears one.
#[utoipa::path(post, path = "/v1/alarms/{id}", request_body = AlarmAct, responses(
    (status = 200, body = api::Alarms),
    (status = 400, body = api::Error, description = "No such act, reason or time"),
    (status = 403, body = api::Error, description = "The role for it is missing"),
    (status = 404, body = api::Error, description = "No such alarm is raised"),
    (status = 409, body = api::Error, description = "Its cause is still there"),
))]
pub(super) async fn act(
    State(access): State<Access>,
    Extension(peer): Extension<Peer>,
    id: Result<Path<String>, PathRejection>,
    what: Result<Json<AlarmAct>, JsonRejection>,
) -> Result<Json<api::Alarms>, Failure> {
    let bad = |what: String| failure(StatusCode::BAD_REQUEST, what);
    let Path(id) = id.map_err(|error| bad(error.body_text()))?;
    let Json(what) = what.map_err(|error| bad(error.body_text()))?;
    let by = peer.name();
    let reason = what.reason.trim().to_owned();
    if !(1..=MAX_REASON).contains(&reason.len()) {
        return Err(bad("it needs a reason, of 1 to 200 bytes".into()));
    }
    let seconds = match (what.act, what.for_s) {
        (Act::Silence, Some(s)) if SILENCE_S.contains(&s) => s,
        (Act::Silence, _) => return Err(bad("a silence is for 1 s to 30 days".into())),
        (_, None) => 0,
        (_, Some(_)) => return Err(bad("only a silence is for a time".into())),
    };
    let note = Note { by, reason, unix_ms: clock::unix_ms() + seconds * 1000 };
    let done = access.alarms.act(id.clone(), what.act, note).await;
    match done.ok_or_else(stopping)? {
        Ok(()) => Ok(alarms(State(access)).await),
        Err(Refused::Unknown) => {
            let what = format!("no alarm {id} is raised: `purlin alarm list` has those that are");
            Err(failure(StatusCode::NOT_FOUND, what))
        }
        Err(Refused::NotOver) => {
            let what = format!(
                "the cause of {id} is still there, and it is cleared when that is \
                                gone; `purlin alarm silence` keeps it quiet until then"
            );
            Err(failure(StatusCode::CONFLICT, what))
        }
    }
}
