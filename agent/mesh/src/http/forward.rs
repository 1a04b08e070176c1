//! Sends a request to an endpoint, and on to another one where that failed before it
//! was sent.

use std::{
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{self, HeaderValue},
};
use purlin_core::mesh::{
    hashed::hash,
    model::{AppProtocol, HashOn, Service},
    trace,
};
use tokio::time;

use super::{
    Body, Inbound, Upload, affinity,
    body::{Answered, Request as Begun},
    handle::{Refusal, origin, own},
    headers, upgrade,
};
use crate::{
    accept::{self, MAX_ATTEMPTS},
    connection::Connection,
    counters::Counters,
    endpoint::{Endpoint, Under},
    pool::{Key, Lease, Sender, Unanswered},
    signals::Decision,
    target::Target,
    worker::Worker,
};

/// Who answered, for whoever looks.
#[derive(Clone, Debug)]
pub struct By(pub Arc<Endpoint>);

/// What comes of a request that goes nowhere: why, and whose it was.
type Failed = (Refusal, Begun);

/// Sends a request to one of a service's endpoints.
pub async fn forward(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    target: &Target,
    request: Request<Inbound>,
    begun: Begun,
) -> Result<Response<Body>, Failed> {
    let service = &target.service;
    let Some(of_service) = target.begin() else {
        Counters::one(&worker.counters.broken);
        begun.route().into_iter().for_each(|it| it.decided(Decision::Broken));
        let text = "the service has too many requests under way: its circuit breaker is open\n";
        return Err((Refusal(StatusCode::SERVICE_UNAVAILABLE, text), begun));
    };
    if request.method() == Method::CONNECT || service.protocol == AppProtocol::Tcp {
        return upgrade::connect(worker, connection, target, request, begun, of_service).await;
    }
    let hash = hash_of(&service.hash_on, &request, connection);
    let upgrade = headers::wanted_upgrade(request.headers(), request.version());
    let trace = request.headers().get(trace::HEADER).cloned();
    let mut request = request.map(|body| Upload::new(body, &begun));
    for_endpoint(&mut request, service, connection, upgrade.clone());
    let may_repeat = headers::may_repeat(request.method()) && request.body().is_end_stream();
    let deadline = time::Instant::now() + service.timeouts.request;
    let named = affinity::named(target, request.headers());
    let mut kept = named.clone().filter(|it| !it.is_out(worker.now_ms()));
    let mut tried = Vec::new();
    // Whether the next attempt has its retry already.
    let mut is_granted = true;
    let mut refusal = Refusal::NO_ENDPOINT;
    // A connection that was idle may be closed by the other side just now: that is the
    // pool's fault and not the endpoint's, and costs no attempt.
    let mut stale = 0;
    while tried.len() < MAX_ATTEMPTS {
        let next = || target.pick(&worker.by(&tried, hash)).cloned();
        let Some(endpoint) = kept.take().or_else(next) else { break };
        if !tried.is_empty() {
            if !is_granted && !target.may_retry() {
                break;
            }
            Counters::one(&worker.counters.retries);
            let route = begun.route().map(|it| &**it);
            let both = route.into_iter().chain([&*endpoint.signals]);
            both.for_each(|it| it.decided(Decision::Retried));
        }
        is_granted = false;
        let under = Under::way(&endpoint);
        let workload = connection.asker.speaks_for(worker, &endpoint).await;
        let (peer, at, trace) = (connection.peer, connection.at, trace.as_ref());
        let from = accept::From { peer, at, trace, workload: workload.as_deref() };
        let key = Key { endpoint: endpoint.id, workload: workload.clone() };
        let (mut lease, is_fresh) =
            match lease(worker, &from, &endpoint, target, key, stale < MAX_ATTEMPTS).await {
                Ok(leased) => leased,
                Err(error) => {
                    refusal = Refusal::unconnected(&error);
                    tried.push(endpoint.id);
                    continue;
                }
            };
        request.body_mut().goes_to(&endpoint);
        let began = Instant::now();
        let sent = time::timeout_at(deadline, lease.sender_mut().send(&mut request)).await;
        match sent {
            Ok(Ok(answer)) => {
                let took = began.elapsed();
                endpoint.answered(took, worker.now_ms());
                endpoint.signals.answered(answer.status().as_u16(), took);
                target.ended(&endpoint, !is_gateway_failure(answer.status()), worker.now_ms());
                let is_to_repeat = service.retry_on.contains(&answer.status().as_u16());
                if may_repeat && is_to_repeat && tried.len() + 1 < MAX_ATTEMPTS {
                    tried.push(endpoint.id);
                    // Only for another endpoint, and within the budget: else this is it.
                    if target.pick(&worker.by(&tried, hash)).is_some() && target.may_retry() {
                        is_granted = true;
                        continue;
                    }
                }
                let mut answer = answer;
                if worker.looks_at_requests() {
                    answer.extensions_mut().insert(By(endpoint.clone()));
                }
                affinity::name(target, &endpoint, named.as_ref(), answer.headers_mut());
                let under = under.stays(of_service);
                let idle = upgrade.map(|_| service.timeouts.idle);
                return Ok(from_endpoint(answer, lease, under, begun, idle));
            }
            Ok(Err(Unanswered::ByClient(error))) => {
                return Err((broke_off(connection, &error), begun));
            }
            // By HTTP/2 the endpoint's connection has sent the body, and knows of no reason.
            Ok(Err(Unanswered::Broken(error))) if connection.flags.is_body_broken.get() => {
                return Err((broke_off(connection, &error), begun));
            }
            Ok(Err(why)) => {
                if is_fresh {
                    target.failed(&endpoint, worker.now_ms());
                    tried.push(endpoint.id);
                } else {
                    stale += 1;
                }
                if let Unanswered::Broken(error) = why {
                    tracing::debug!(endpoint = %endpoint.address, %error, "no answer");
                    let text = "the endpoint hung up without an answer\n";
                    refusal = Refusal(StatusCode::BAD_GATEWAY, text);
                    if !may_repeat {
                        break;
                    }
                }
            }
            Err(_) => {
                target.failed(&endpoint, worker.now_ms());
                endpoint.answered(service.timeouts.request, worker.now_ms());
                refusal = Refusal(StatusCode::GATEWAY_TIMEOUT, "the endpoint took too long\n");
                break;
            }
        }
    }
    Err((refusal, begun))
}

/// A connection to an endpoint, and whether it is a new one.
async fn lease(
    worker: &Rc<Worker>,
    from: &accept::From<'_>,
    endpoint: &Endpoint,
    target: &Target,
    key: Key,
    may_be_old: bool,
) -> io::Result<(Lease, bool)> {
    if may_be_old && let Some(sender) = worker.pool.take(&key) {
        return Ok((Lease::new(worker, key, sender), false));
    }
    let stream = accept::connect(worker, endpoint, target, from).await?;
    let sender = Sender::start(stream, target.service.protocol).await.map_err(io::Error::other)?;
    worker.pool.opened();
    Ok((Lease::new(worker, key, sender), true))
}

/// Nobody's fault but the client's.
fn broke_off(connection: &Connection, error: &io::Error) -> Refusal {
    tracing::debug!(peer = %connection.peer, %error, "a request broke off");
    Refusal(StatusCode::BAD_REQUEST, "the body of the request broke off\n")
}

/// The endpoint says itself that it can't, and another may.
fn is_gateway_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

/// What of a request is hashed; `None` if it has none of that.
fn hash_of(on: &HashOn, request: &Request<Inbound>, connection: &Connection) -> Option<u64> {
    let value = |name: &str| request.headers().get(name).and_then(|it| it.to_str().ok());
    let hashed = |text: &str| hash(text.as_bytes());
    match on {
        HashOn::SourceIp | HashOn::Source => accept::source_hash(on, connection.peer),
        HashOn::Path => Some(hashed(request.uri().path())),
        HashOn::Url => request.uri().path_and_query().map(|it| hashed(it.as_str())),
        HashOn::Protocol => Some(hashed(&format!("{:?}", request.version()))),
        HashOn::Header(name) => value(name).map(hashed),
        HashOn::Cookie(name) => affinity::cookie(request.headers(), name).map(hashed),
    }
}

/// A request as the endpoint is to see it.
fn for_endpoint(
    request: &mut Request<Upload>,
    service: &Service,
    connection: &Connection,
    upgrade: Option<HeaderValue>,
) {
    let authority =
        request.uri().authority().and_then(|it| HeaderValue::from_str(it.as_str()).ok());
    let headers = request.headers_mut();
    headers::end_hop(headers);
    headers.remove(header::EXPECT);
    headers::forwarded(headers, &connection.forwarded);
    if let Some(authority) = authority {
        headers.insert(header::HOST, authority);
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    if service.protocol == AppProtocol::H2c {
        // HTTP/2 has its host in :authority, and no Host beside it.
        let host = request.headers_mut().remove(header::HOST);
        let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let path = origin(request.uri());
        let uri =
            hyper::Uri::builder().scheme("http").authority(host).path_and_query(path.to_string());
        *request.uri_mut() = uri.build().unwrap_or(path);
        *request.version_mut() = hyper::Version::HTTP_2;
    } else {
        if request.uri().scheme().is_some() || request.uri().authority().is_some() {
            *request.uri_mut() = origin(request.uri());
        }
        if request.version() == hyper::Version::HTTP_2 {
            headers::join_cookies(request.headers_mut());
        }
        *request.version_mut() = hyper::Version::HTTP_11;
    }
}

/// An answer as the client is to see it; with `idle`, it had asked for another protocol.
fn from_endpoint(
    mut answer: Response<Option<Incoming>>,
    lease: Lease,
    under: Under,
    begun: Begun,
    idle: Option<Duration>,
) -> Response<Body> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return match (idle, lease.into_exchange()) {
            (Some(idle), Some(it)) => upgrade::switch(answer.map(drop), it, under, begun, idle),
            _ => {
                let text = "the endpoint goes on in a protocol that nobody asked for\n";
                own(StatusCode::BAD_GATEWAY, text, begun)
            }
        };
    }
    headers::end_named(answer.headers_mut());
    headers::end_hop(answer.headers_mut());
    answer.map(|streamed| Body::of_endpoint(Answered::new(lease, streamed), under, begun))
}
