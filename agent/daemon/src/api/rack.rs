//! The rack's part of the local API: what its buses and the BMC say, and the light by
//! which a chassis is found.

use axum::{
    Extension, Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
};
use purlin_proto::api;

use super::{Access, Failure, Peer, failure};
use crate::helper::{Changed, What};

/// What the rack's buses and the BMC say.
#[utoipa::path(get, path = "/v1/rack", responses((status = 200, body = api::Rack)))]
pub(super) async fn rack(State(access): State<Access>) -> Json<api::Rack> {
    let buses = access.rack.borrow().clone();
    let buses = buses.iter().map(|bus| (**bus.borrow()).clone()).collect();
    let bmc = access.bmc.1.borrow().as_deref().cloned();
    Json(api::Rack { buses, bmc })
}

/// Lets the chassis be found.
#[utoipa::path(post, path = "/v1/rack/identify", request_body = api::Identify, responses(
    (status = 200, body = api::Identify),
    (status = 400, body = api::Error, description = "Not 0 to 255 seconds"),
    (status = 403, body = api::Error, description = "The role for it is missing"),
    (status = 409, body = api::Error, description = "No BMC, or it refuses"),
))]
pub(super) async fn identify(
    State(access): State<Access>,
    Extension(peer): Extension<Peer>,
    what: Result<Json<api::Identify>, JsonRejection>,
) -> Result<Json<api::Identify>, Failure> {
    let what = what.map_err(|error| failure(StatusCode::BAD_REQUEST, error.body_text()))?;
    let by = peer.name();
    let done = access.bmc.0.ask(What::Identify(what.seconds)).await.changed();
    let why = match done {
        Changed::Refused(why) => why,
        Changed::Absent => "this node has no BMC that its kernel drives".into(),
        _ => {
            let text = format!("{} s", what.seconds);
            access.audit.note(&by, "rack.identify", &text).await;
            return Ok(what);
        }
    };
    Err(failure(StatusCode::CONFLICT, why))
}
