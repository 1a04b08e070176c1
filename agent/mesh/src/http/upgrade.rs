//! Connections that leave HTTP: WebSocket and other upgrades, and CONNECT. From there on
//! they are bytes, and are spliced.

use std::{rc::Rc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::Bytes,
    header::{self, HeaderValue},
};
use purlin_core::mesh::{model::AppProtocol, trace};

use super::{Body, Exchange, Inbound, body::Request as Begun, handle::Refusal, headers};
use crate::{
    accept::{self, From, MAX_ATTEMPTS},
    connection::Connection,
    counters::Counters,
    endpoint::Under,
    relay::{self, Passed},
    signals::{Active, Class},
    target::{Begun as OfService, Target},
    tunnel::stream::Stream,
    worker::Worker,
};

/// A connection that goes on as bytes, once its answer has been written.
#[derive(Debug)]
pub struct Switch {
    endpoint: Stream,
    /// What the endpoint has said already.
    from_endpoint: Bytes,
    under: Under,
    route: Option<Active>,
    idle: Duration,
}

/// Passes an endpoint's 101 on; then bytes follow.
pub fn switch(
    mut answer: Response<()>,
    exchange: Exchange,
    under: Under,
    begun: Begun,
    idle: Duration,
) -> Response<Body> {
    let protocol = answer.headers().get(header::UPGRADE).cloned();
    headers::end_named(answer.headers_mut());
    headers::end_hop(answer.headers_mut());
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        answer.headers_mut().insert(header::UPGRADE, protocol);
    }
    let (endpoint, from_endpoint) = exchange.into_parts();
    let route = begun.route().map(Active::begin);
    let switch = Switch { endpoint, from_endpoint, under, route, idle };
    answer.map(|()| Body::switch(switch, begun))
}

/// Answers a CONNECT by connecting to one of the endpoints of a service of protocol tcp,
/// whatever its target was; the route has chosen by it.
pub async fn connect(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    target: &Target,
    request: Request<Inbound>,
    begun: Begun,
    of_service: OfService,
) -> Result<Response<Body>, (Refusal, Begun)> {
    let is_tunnel = request.method() == Method::CONNECT
        && target.service.protocol == AppProtocol::Tcp
        && request.version() == Version::HTTP_11;
    if !is_tunnel {
        let text =
            "CONNECT goes to services of protocol tcp, over HTTP/1.1, and nothing else does\n";
        return Err((Refusal(StatusCode::METHOD_NOT_ALLOWED, text), begun));
    }
    let mut tried = Vec::new();
    let mut refusal = Refusal::NO_ENDPOINT;
    let trace = request.headers().get(trace::HEADER).cloned();
    let hash = accept::source_hash(&target.service.hash_on, connection.peer);
    while tried.len() < MAX_ATTEMPTS && (tried.is_empty() || target.may_retry()) {
        let endpoint = target.pick(&worker.by(&tried, hash)).cloned();
        let Some(endpoint) = endpoint else { break };
        let under = Under::way(&endpoint);
        let workload = connection.asker.speaks_for(worker, &endpoint).await;
        let (peer, at, trace) = (connection.peer, connection.at, trace.as_ref());
        let from = From { peer, at, trace, workload: workload.as_deref() };
        let stream = match accept::connect(worker, &endpoint, target, &from).await {
            Ok(stream) => stream,
            Err(error) => {
                Counters::one(&worker.counters.retries);
                tried.push(endpoint.id);
                refusal = Refusal::unconnected(&error);
                continue;
            }
        };
        target.ended(&endpoint, true, worker.now_ms());
        endpoint.signals.is_over(Class::Connected);
        let switch = Switch {
            endpoint: stream,
            from_endpoint: Bytes::new(),
            under: under.stays(of_service),
            route: begun.route().map(Active::begin),
            idle: target.service.timeouts.idle,
        };
        return Ok(Response::new(Body::switch(switch, begun)));
    }
    Err((refusal, begun))
}

impl Switch {
    /// Passes bytes on until both ends have said all.
    pub async fn go_on(self, worker: &Rc<Worker>, mut client: Stream, from_client: &[u8]) {
        let Self { mut endpoint, from_endpoint, under, route, idle } = self;
        let passed = Passed::new(from_client);
        let relayed = async {
            relay::write_first(&mut endpoint, from_client).await?;
            relay::write_first(&mut client, &from_endpoint).await?;
            passed.to.set(from_endpoint.len() as u64);
            relay::relay(worker, &mut client, &mut endpoint, idle, &passed).await
        };
        if let Err(error) = relayed.await {
            tracing::debug!(%error, "an upgraded connection broke");
        }
        under.signals().passed(&passed);
        route.iter().for_each(|it| it.0.passed(&passed));
    }
}
