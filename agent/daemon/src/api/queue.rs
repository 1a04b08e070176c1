//! The spool over the local API: figures, what waits, and what is brought or removed.

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use prost::Message;
use purlin_core::identity::Class;
use purlin_proto::{
    api,
    v1::{self, exported::What},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Access, Failure, Peer, failure, stopping};
use crate::{
    spool::{EXPORT_BYTES, Incoming},
    wire,
};

/// Protobuf (there is no registered type that tells which message).
const PROTOBUF: &str = "application/protobuf";

/// The spool, class by class.
#[utoipa::path(get, path = "/v1/queue", responses((status = 200, body = api::Queue)))]
pub async fn queue(State(access): State<Access>) -> Result<Json<api::Queue>, Failure> {
    figures(&access).await.map(Json)
}

/// Figures of all classes.
pub(super) async fn figures(access: &Access) -> Result<api::Queue, Failure> {
    let classes = access.spool.figures().await.ok_or_else(stopping)?;
    let incarnation = access.sources.identity.incarnation.to_string();
    let sources = access.intake.borrow().sources.clone();
    Ok(api::Queue { incarnation, classes, sources })
}

/// Where to read.
#[derive(Deserialize, IntoParams)]
pub struct From {
    /// `alarm`, `event`, `metric` or `log`.
    class: String,
    /// The first number wanted; what was acknowledged is passed over.
    #[serde(default)]
    from: u64,
}

/// What waits of a class from a number on, as a `purlin.v1.Batch`; 204 if nothing does.
/// With `from=0` everything in memory is made durable first.
#[utoipa::path(get, path = "/v1/queue/batch", params(From), responses(
    (status = 200, content_type = "application/protobuf"),
    (status = 204, description = "Nothing waits"),
))]
pub async fn batch(
    State(access): State<Access>,
    query: Result<Query<From>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(query) = query.map_err(|why| failure(StatusCode::BAD_REQUEST, why.to_string()))?;
    let class = own_class(&query.class)?;
    if query.from == 0 {
        access.spool.commit().await.ok_or_else(stopping)?;
    }
    let figures = access.spool.figures().await.ok_or_else(stopping)?;
    let acked = figures.iter().find(|it| it.class == class.name()).map_or(0, |it| it.acked_seq);
    let from = query.from.max(acked + 1);
    match access.spool.read(class, from, EXPORT_BYTES).await {
        None => Ok(StatusCode::NO_CONTENT.into_response()),
        Some(frame) => {
            let batch = wire::encode(frame, class, &access.sources.identity, true);
            Ok(([(CONTENT_TYPE, PROTOBUF)], batch.encode_to_vec()).into_response())
        }
    }
}

/// What a sample's values are, as a `purlin.v1.Dictionary`, by its hash.
#[utoipa::path(get, path = "/v1/queue/dictionary/{hash}", params(("hash" = String, Path)), responses(
    (status = 200, content_type = "application/protobuf"),
    (status = 404, body = api::Error, description = "It is lost"),
))]
pub async fn dictionary(
    State(access): State<Access>,
    Path(hash): Path<String>,
) -> Result<Response, Failure> {
    let lost = || failure(StatusCode::NOT_FOUND, format!("no dictionary {hash}"));
    let number = u64::from_str_radix(&hash, 16).map_err(|_| lost())?;
    let dictionary = access.spool.dictionary(number).await.ok_or_else(lost)?;
    Ok(([(CONTENT_TYPE, PROTOBUF)], dictionary).into_response())
}

/// Takes entries of another node's export file (a `purlin.v1.Import`), to be sent on.
#[utoipa::path(post, path = "/v1/queue/import", request_body(
    content_type = "application/protobuf",
), responses(
    (status = 200, body = api::Imported),
    (status = 403, body = api::Error, description = "The role for it is missing"),
    (status = 409, body = api::Error, description = "No room, or this node's own"),
    (status = 422, body = api::Error, description = "Not entries of an export file"),
))]
pub async fn import(
    State(access): State<Access>,
    body: Bytes,
) -> Result<Json<api::Imported>, Failure> {
    let refuse = |why: String| failure(StatusCode::UNPROCESSABLE_ENTITY, why);
    let import = v1::Import::decode(body).map_err(|error| refuse(error.to_string()))?;
    let identity = &access.sources.identity;
    let mut incoming = Vec::new();
    for entry in import.entries {
        match entry.what {
            Some(What::Dictionary(packed)) => {
                let plain = wire::unpack(&packed).map_err(|error| refuse(error.to_string()))?;
                v1::Dictionary::decode(&*plain).map_err(|error| refuse(error.to_string()))?;
                if !access.spool.keep_dictionary(wire::hash_of(&plain), plain.into()) {
                    return Err(stopping());
                }
            }
            Some(What::Batch(packed)) => {
                let batch = Incoming::new(&packed).map_err(refuse)?;
                let origin = batch.origin();
                if origin.node == identity.node && origin.incarnation == identity.incarnation.0 {
                    let why = "this is this node's own export: its spool has it, or had it";
                    return Err(failure(StatusCode::CONFLICT, why));
                }
                incoming.push(batch);
            }
            Some(What::Head(_) | What::Tail(_)) | None => {}
        }
    }
    let imported = access.spool.import(incoming).await.ok_or_else(stopping)?;
    imported.map(Json).map_err(|why| failure(StatusCode::CONFLICT, why))
}

/// What to remove.
#[derive(Deserialize, IntoParams)]
pub struct Which {
    /// The class.
    class: String,
}

/// Removes everything that waits of a class; the core is told which numbers are gone.
#[utoipa::path(post, path = "/v1/queue/purge", params(Which), responses(
    (status = 200, body = api::Purged),
    (status = 403, body = api::Error, description = "The role for it is missing"),
    (status = 409, body = api::Error, description = "It can't be written down, so nothing is removed"),
))]
pub async fn purge(
    State(access): State<Access>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<Which>, QueryRejection>,
) -> Result<Json<api::Purged>, Failure> {
    let by = peer.name();
    let Query(query) = query.map_err(|why| failure(StatusCode::BAD_REQUEST, why.to_string()))?;
    let class = class(&Class::ALL, &query.class)?;
    let purged = access.spool.purge(class).await.ok_or_else(stopping)?;
    let purged = purged.map_err(|why| failure(StatusCode::CONFLICT, why))?;
    let text = format!("{by} removed {} records of class {}", purged.records, purged.class);
    let attributes = [("class", purged.class.clone()), ("records", purged.records.to_string())];
    let attributes = attributes.map(|(key, value)| (key.to_owned(), value));
    access.spool.event_with("spool.purged", text, attributes);
    Ok(Json(purged))
}

fn own_class(name: &str) -> Result<Class, Failure> {
    class(&Class::OWN, name)
}

fn class(of: &[Class], name: &str) -> Result<Class, Failure> {
    of.iter().copied().find(|it| it.name() == name).ok_or_else(|| {
        let names: Vec<_> = of.iter().map(|it| it.name()).collect();
        failure(StatusCode::BAD_REQUEST, format!("no class {name:?}: one of {}", names.join(", ")))
    })
}
