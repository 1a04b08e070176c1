//! OTLP over HTTP, in protobuf (the OpenTelemetry protocol's specification 1.x): at a
//! Unix socket, and at loopback.
//!
//! 200 means: taken into the spool. 429 and 503 come with Retry-After, and whoever speaks
//! OTLP tries again; what will never be taken is told in the partial success of a 200.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use flate2::read::MultiGzDecoder;
use prost::Message;
use purlin_proto::otlp;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{mpsc, oneshot},
};

use super::{Answer, BUSY, Offer, What, source};
use crate::serve::Connections;

/// A request's body as it comes, and unpacked: thousands of points, and what 20 exporters
/// at once may cost in memory.
const MAX_BODY: usize = 1 << 20;
const MAX_UNPACKED: usize = 4 << 20;
/// Connections at once: exporters keep one each.
const MAX_CONNECTIONS: usize = 64;
/// For everything on one connection: an exporter connects anew.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(3600);
/// Every user of the node may hand in: what each may is bounded.
const SOCKET_MODE: u32 = 0o666;
const PROTOBUF: &str = "application/x-protobuf";

/// Binds the socket.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// Serves the socket until it fails, which is what is returned.
pub async fn serve_unix(listener: UnixListener, offers: mpsc::Sender<Offer>) -> String {
    let mut connections = Connections::new(MAX_CONNECTIONS, CONNECTION_DEADLINE);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = source::of_peer(stream.peer_cred().ok());
                connections.serve(stream, router(source, &offers));
            }
            Err(error) => return error.to_string(),
        }
    }
}

/// The same at loopback.
pub async fn serve_loopback(listener: TcpListener, offers: mpsc::Sender<Offer>) -> String {
    let mut connections = Connections::new(MAX_CONNECTIONS, CONNECTION_DEADLINE);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.serve(stream, router(source::LOOPBACK.into(), &offers));
            }
            Err(error) => return error.to_string(),
        }
    }
}

fn router(source: String, offers: &mpsc::Sender<Offer>) -> Router {
    Router::new()
        .route("/v1/metrics", post(metrics))
        .route("/v1/logs", post(logs))
        .fallback(async || {
            let what = "only /v1/metrics and /v1/logs are taken here, by POST";
            failed(StatusCode::NOT_FOUND, what, None)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(Extension(Source(source)))
        .with_state(offers.clone())
}

#[derive(Clone)]
struct Source(String);

type Offers = State<mpsc::Sender<Offer>>;

async fn metrics(
    State(offers): Offers,
    Extension(source): Extension<Source>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    take(offers, source, &headers, body, What::Metrics).await
}

async fn logs(
    State(offers): Offers,
    Extension(source): Extension<Source>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    take(offers, source, &headers, body, What::Logs).await
}

async fn take<M: Message + Default>(
    offers: mpsc::Sender<Offer>,
    Source(source): Source,
    headers: &HeaderMap,
    body: Bytes,
    what: fn(M) -> What,
) -> Response {
    let what = match read(headers, body) {
        Ok(message) => what(message),
        Err((status, why)) => return failed(status, &why, None),
    };
    let busy = || failed(StatusCode::SERVICE_UNAVAILABLE, "the spool is busy", Some(BUSY));
    let (reply, answer) = oneshot::channel();
    if offers.try_send(Offer { source: source.clone(), what, reply }).is_err() {
        return busy();
    }
    match answer.await {
        Ok(Answer::Taken { rejected, why, .. }) => {
            let partial = otlp::PartialSuccess { rejected: rejected as i64, error_message: why };
            let partial_success = (rejected > 0).then_some(partial);
            let answer = otlp::ExportResponse { partial_success }.encode_to_vec();
            ([(header::CONTENT_TYPE, PROTOBUF)], answer).into_response()
        }
        Ok(Answer::Over(wait)) => {
            let what = format!(
                "{source} is over its quota (intake.quota of the node's configuration): come again"
            );
            failed(StatusCode::TOO_MANY_REQUESTS, &what, Some(wait))
        }
        Ok(Answer::Busy(_)) | Err(_) => busy(),
    }
}

/// What a request says, or how it is refused.
fn read<M: Message + Default>(headers: &HeaderMap, body: Bytes) -> Result<M, (StatusCode, String)> {
    let unsupported = |what: String| Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
    let said = |name| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let media_type = said(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    if media_type != PROTOBUF {
        return unsupported(format!(
            "{media_type:?} is not taken: set the exporter to http/protobuf \
             (OTEL_EXPORTER_OTLP_PROTOCOL), whose type is {PROTOBUF}"
        ));
    }
    let bad = |what: String| (StatusCode::BAD_REQUEST, what);
    let plain = match said(header::CONTENT_ENCODING).trim() {
        "" | "identity" => body,
        "gzip" => {
            let mut plain = Vec::new();
            let mut unpacked = MultiGzDecoder::new(&body[..]).take(MAX_UNPACKED as u64 + 1);
            unpacked.read_to_end(&mut plain).map_err(|error| bad(format!("gzip: {error}")))?;
            if plain.len() > MAX_UNPACKED {
                let what = format!("over {MAX_UNPACKED} bytes unpacked: export smaller batches");
                return Err((StatusCode::PAYLOAD_TOO_LARGE, what));
            }
            plain.into()
        }
        other => return unsupported(format!("encoding {other:?} is not taken: gzip, or none")),
    };
    M::decode(plain).map_err(|error| bad(format!("no OTLP request: {error}")))
}

/// As OTLP has its errors: a `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// Codes of gRPC, which a status has.
fn code(status: StatusCode) -> i32 {
    match status {
        StatusCode::TOO_MANY_REQUESTS => 8,
        StatusCode::SERVICE_UNAVAILABLE => 14,
        StatusCode::NOT_FOUND => 12,
        _ => 3,
    }
}

fn failed(status: StatusCode, what: &str, retry_after: Option<Duration>) -> Response {
    // Whoever spoke something else than protobuf reads text.
    let mut answer = match status {
        StatusCode::UNSUPPORTED_MEDIA_TYPE | StatusCode::NOT_FOUND => {
            (status, format!("{what}\n")).into_response()
        }
        _ => {
            let body = Status { code: code(status), message: what.to_owned() }.encode_to_vec();
            (status, [(header::CONTENT_TYPE, PROTOBUF)], body).into_response()
        }
    };
    if let Some(wait) = retry_after {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        answer.headers_mut().insert(header::RETRY_AFTER, (seconds as u64).into());
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn headers(media_type: &str, encoding: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, media_type.parse().expect("a type"));
        headers.insert(header::CONTENT_ENCODING, encoding.parse().expect("an encoding"));
        headers
    }

    fn status(headers: &HeaderMap, body: Vec<u8>) -> u16 {
        match read::<otlp::ExportLogsRequest>(headers, body.into()) {
            Ok(_) => 200,
            Err((status, _)) => status.as_u16(),
        }
    }

    #[test]
    fn what_is_no_protobuf_is_refused_in_words_and_a_bomb_in_little_memory() {
        assert_eq!(status(&headers("application/json", "identity"), b"{}".into()), 415);
        assert_eq!(status(&headers(PROTOBUF, "br"), Vec::new()), 415);
        assert_eq!(status(&headers(PROTOBUF, "identity"), vec![0xff; 9]), 400);
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        bomb.write_all(&vec![0; 64 << 20]).expect("memory");
        assert_eq!(status(&headers(PROTOBUF, "gzip"), bomb.finish().expect("memory")), 413);
        assert_eq!(status(&headers(PROTOBUF, "gzip"), b"no gzip".into()), 400);
        assert_eq!(status(&headers(PROTOBUF, "identity"), Vec::new()), 200);
    }
}
