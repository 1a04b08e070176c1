//! Connections that leave HTTP: WebSocket and other upgrades, and CONNECT. From there on
//! they are bytes, and are spliced.

use std::{io as stdio, rc::Rc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::Incoming,
    header::{self, HeaderValue},
    upgrade::{OnUpgrade, Parts, Upgraded},
};
use hyper_util::rt::TokioIo;
use purlin_core::mesh::{model::AppProtocol, trace};
use tokio::task::spawn_local;

use super::{Body, body::Request as Begun, handle::Refusal, headers, io::Io};
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

/// Passes an endpoint's 101 on, and then the bytes.
pub fn switch(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    mut answer: Response<Incoming>,
    clients_end: OnUpgrade,
    under: Under,
    begun: Begun,
    idle: Duration,
) -> Response<Body> {
    let endpoints_end = hyper::upgrade::on(&mut answer);
    connection.flags.tunnel();
    let worker = worker.clone();
    let route = begun.route().map(Active::begin);
    spawn_local(async move {
        let passed = Passed::new(&[]);
        let relayed = async {
            let other = stdio::Error::other;
            let (client, first) = client_stream(clients_end.await.map_err(other)?)?;
            let endpoint = endpoints_end.await.map_err(other)?.downcast::<TokioIo<Stream>>();
            let Parts { io, read_buf, .. } =
                endpoint.map_err(|_| stdio::Error::other("not a socket"))?;
            let endpoint = (io.into_inner(), read_buf.into());
            both_ways(&worker, (client, first), endpoint, idle, &passed).await
        };
        ended(relayed.await, under, route, &passed);
    });
    let protocol = answer.headers().get(header::UPGRADE).cloned();
    headers::end_hop(answer.headers_mut());
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        answer.headers_mut().insert(header::UPGRADE, protocol);
    }
    answer.map(|_| Body::own("", begun))
}

/// Answers a CONNECT by connecting to one of the endpoints of a service of protocol tcp,
/// whatever its target was; the route has chosen by it.
pub async fn connect(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    target: &Target,
    mut request: Request<Incoming>,
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
    let clients_end = hyper::upgrade::on(&mut request);
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
        let route = begun.route().map(Active::begin);
        let under = under.stays(of_service);
        connection.flags.tunnel();
        let (worker, idle) = (worker.clone(), target.service.timeouts.idle);
        spawn_local(async move {
            let passed = Passed::new(&[]);
            let relayed = async {
                let client = client_stream(clients_end.await.map_err(stdio::Error::other)?)?;
                both_ways(&worker, client, (stream, Vec::new()), idle, &passed).await
            };
            ended(relayed.await, under, route, &passed);
        });
        return Ok(Response::new(Body::own("", begun)));
    }
    Err((refusal, begun))
}

/// The client's socket, and what was read of it already.
fn client_stream(upgraded: Upgraded) -> stdio::Result<(Stream, Vec<u8>)> {
    let parts = upgraded.downcast::<TokioIo<Io>>();
    let Parts { io, read_buf, .. } = parts.map_err(|_| stdio::Error::other("not a socket"))?;
    let (stream, unread) = io.into_inner().into_inner();
    Ok((stream, [&read_buf[..], &unread].concat()))
}

async fn both_ways(
    worker: &Rc<Worker>,
    (mut client, from_client): (Stream, Vec<u8>),
    (mut endpoint, from_endpoint): (Stream, Vec<u8>),
    idle: Duration,
    passed: &Passed,
) -> stdio::Result<()> {
    relay::write_first(&mut endpoint, &from_client).await?;
    relay::write_first(&mut client, &from_endpoint).await?;
    passed.from.set(from_client.len() as u64);
    passed.to.set(from_endpoint.len() as u64);
    relay::relay(worker, &mut client, &mut endpoint, idle, passed).await
}

fn ended(relayed: stdio::Result<()>, under: Under, route: Option<Active>, passed: &Passed) {
    if let Err(error) = relayed {
        tracing::debug!(%error, "an upgraded connection broke");
    }
    under.signals().passed(passed);
    route.iter().for_each(|it| it.0.passed(passed));
}
