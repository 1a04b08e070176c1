//! Asks endpoints whether they are well, as their service's `health_check` says. A task
//! for each, on the owner's thread and not on a worker's: what is asked here holds up no
//! request.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode, Uri,
    body::Bytes,
    client::conn::{http1, http2},
    header,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use purlin_core::mesh::{
    hashed::mix,
    health::{Check, Probe},
    model::Service,
    proxy,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Semaphore, task::AbortHandle, time};
use tokio_util::task::AbortOnDropHandle;

use crate::{endpoint::Endpoint, live::Live};

/// Checks under way at once; more wait for their turn.
const AT_ONCE: usize = 64;
/// The longest answer to a gRPC check, in bytes; it is a number.
const MAX_ANSWER: usize = 4096;
/// `SERVING` (grpc.health.v1).
const SERVING: i32 = 1;

/// The tasks, by endpoint.
#[derive(Debug)]
pub struct Checks {
    running: HashMap<u64, (Asked, AbortHandle)>,
    permits: Arc<Semaphore>,
}

/// What decides how an endpoint is checked.
type Asked = (Check, Option<u8>);

impl Checks {
    /// None yet.
    pub fn new() -> Self {
        Self { running: HashMap::new(), permits: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Checks what a table says, from now on. What it leaves as it was goes on.
    pub fn follow(&mut self, live: &Live) {
        let mut before = std::mem::take(&mut self.running);
        for target in &live.targets {
            let Some(asked) = asked(&target.service) else {
                target.endpoints.iter().for_each(|it| it.unchecked());
                continue;
            };
            // What another node has it checks itself, and says so in its tunnel.
            for endpoint in target.endpoints.iter().filter(|it| it.via.is_none()) {
                let same = before.remove(&endpoint.id).filter(|(known, task)| {
                    let is_same = *known == asked;
                    if !is_same {
                        task.abort();
                    }
                    is_same
                });
                let running = same.unwrap_or_else(|| {
                    let name = target.service.name.clone();
                    let task = watch(name, endpoint.clone(), asked.clone(), self.permits.clone());
                    (asked.clone(), tokio::spawn(task).abort_handle())
                });
                self.running.insert(endpoint.id, running);
            }
        }
        before.into_values().for_each(|(_, task)| task.abort());
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.running.values().for_each(|(_, task)| task.abort());
    }
}

fn asked(service: &Service) -> Option<Asked> {
    Some((service.check.clone()?, service.send_proxy_protocol))
}

async fn watch(service: String, endpoint: Arc<Endpoint>, by: Asked, permits: Arc<Semaphore>) {
    let (check, proxy) = by;
    let mut is_first = true;
    loop {
        let result = match permits.acquire().await {
            Ok(_permit) => ask(endpoint.address, &check, proxy).await,
            Err(_) => return,
        };
        let why = result.clone().err().unwrap_or_else(|| "it is well again".into());
        if endpoint.checked(result, &check) {
            tracing::warn!(service, endpoint = %endpoint.address, why, "an endpoint's health changed");
        }
        // Those of one table don't go on in step.
        let spread = mix(endpoint.id) % check.interval.as_millis().max(1) as u64;
        let spread = time::Duration::from_millis(if is_first { spread / 2 } else { 0 });
        is_first = false;
        time::sleep(check.interval - spread).await;
    }
}

/// One check, within its time.
async fn ask(address: SocketAddr, check: &Check, proxy: Option<u8>) -> Result<(), String> {
    let asked = time::timeout(check.timeout, async {
        let mut stream = TcpStream::connect(address).await?;
        if let Some(version) = proxy {
            let header = proxy::write(version, stream.local_addr()?, address);
            stream.write_all(&header).await?;
        }
        match &check.probe {
            Probe::Tcp => Ok(()),
            Probe::Http { path, host } => http(stream, path, host.as_deref(), address).await,
            Probe::Grpc { service } => grpc(stream, service, address).await,
        }
    });
    let asked = asked.await.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {:?}", check.timeout),
        ))
    });
    asked.map_err(|error| error.to_string())
}

async fn http(
    stream: TcpStream,
    path: &str,
    host: Option<&str>,
    address: SocketAddr,
) -> io::Result<()> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let host = host.map_or_else(|| address.to_string(), str::to_owned);
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, "purlin-mesh")
        .body(Full::new(Bytes::new()))
        .map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    match answer.status().as_u16() {
        200..=399 => Ok(()),
        _ => Err(io::Error::other(format!("it answered {}", answer.status()))),
    }
}

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, Message)]
struct HealthAnswer {
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn grpc(stream: TcpStream, service: &str, address: SocketAddr) -> io::Result<()> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let message = HealthRequest { service: service.into() }.encode_to_vec();
    // Not compressed, and its length (gRPC over HTTP/2, Length-Prefixed-Message).
    let length = (message.len() as u32).to_be_bytes();
    let body = [&[0][..], &length, &message].concat();
    let uri: Uri = format!("http://{address}/grpc.health.v1.Health/Check")
        .parse()
        .map_err(io::Error::other)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    if answer.status() != StatusCode::OK {
        return Err(io::Error::other(format!("it answered {}", answer.status())));
    }
    let told = |headers: &hyper::HeaderMap| {
        headers
            .get("grpc-status")
            .filter(|it| *it != "0")
            .map(|it| io::Error::other(format!("grpc-status {}", it.to_str().unwrap_or("?"))))
    };
    // A call that fails at once tells it in place of trailers.
    if let Some(error) = told(answer.headers()) {
        return Err(error);
    }
    let body = Limited::new(answer.into_body(), MAX_ANSWER);
    let body = body.collect().await.map_err(io::Error::other)?;
    if let Some(error) = body.trailers().and_then(told) {
        return Err(error);
    }
    let bytes = body.to_bytes();
    let message = bytes.get(5..).ok_or_else(|| io::Error::other("it answered no message"))?;
    match HealthAnswer::decode(message) {
        Ok(HealthAnswer { status: SERVING }) => Ok(()),
        Ok(HealthAnswer { status }) => {
            let name = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
            let name = name.get(status as usize).copied().unwrap_or("an unknown status");
            Err(io::Error::other(format!("it is {name}")))
        }
        Err(error) => Err(io::Error::other(error)),
    }
}
