//! One question to the mesh, over its own socket.

use std::{path::Path, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use purlin_proto::api;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, time};

/// The mesh answers from memory, and a table waits for its disk. Less than the door
/// gives a subsystem.
const DEADLINE: Duration = Duration::from_secs(8);
/// The longest answer taken, in bytes; a status is a few KiB, and what is measured of as
/// many routes and endpoints as have signals of their own less than this.
const MAX_ANSWER: usize = 4 << 20;

/// Why there is no answer to go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Nobody answers.
    Unreachable(String),
    /// It says no.
    Refused(String),
}

/// Asks, and reads the answer.
pub async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<T, Failed> {
    let asked = time::timeout(DEADLINE, exchange(socket, method, path, body)).await;
    let asked = asked.unwrap_or_else(|_| Err("no answer in time".into()));
    let (status, bytes) = asked.map_err(|error| {
        let socket = socket.display();
        Failed::Unreachable(format!("the mesh can't be reached at {socket}: {error}"))
    })?;
    if status.is_success() {
        return serde_json::from_slice(&bytes)
            .map_err(|error| Failed::Unreachable(error.to_string()));
    }
    let error = serde_json::from_slice(&bytes);
    Err(Failed::Refused(error.map_or_else(|_| format!("it answered {status}"), told)))
}

fn told(error: api::Error) -> String {
    let reasons =
        error.refusals.iter().map(|it| format!("; {} {}: {}", it.path, it.value, it.hint));
    format!("the mesh refused the table: {}{}", error.error, reasons.collect::<String>())
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::builder().method(method).uri(path).header(header::HOST, "purlin");
    let answer = sender.send_request(request.body(Full::new(body))?).await?;
    let status = answer.status();
    let bytes = Limited::new(answer.into_body(), MAX_ANSWER).collect().await?.to_bytes();
    drop(connection);
    Ok((status, bytes))
}
