//! From other nodes: who is at the other end, whether it may, and on to an endpoint of this
//! node. Nothing else is reached: a tunnel is no way into the network.

use std::{io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use h2::{
    RecvStream,
    server::{self, SendResponse},
};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, body::Bytes, header::HeaderValue,
    http::uri::Authority,
};
use prost::Message;
use purlin_core::{
    mesh::{
        authorize::{self, Principal},
        model::AppProtocol,
        trace::{self, Trace},
        workload::{self, Nonsense, Workload},
    },
    pattern,
};
use purlin_proto::v1;
use tokio::{net::TcpStream, task::spawn_local, time};
use tokio_rustls::TlsAcceptor;
use webpki::KeyUsage;

use super::{CONNECTION_WINDOW, Entry, HANDSHAKE, STREAM_WINDOW, UPLINK, is_gone, stream::Stream};
use crate::{
    accept::{self, Client, From},
    connection::Through,
    counters::{Counters, TunnelRefusal},
    endpoint::{Endpoint, Under},
    http,
    identity::{Peer, Refused},
    relay::{self, Passed},
    signals::{Active, Class, Decision, Signals},
    target::Target,
    who::denied,
    worker::Worker,
};

/// Streams at once on one connection: a worker's share of all that a node sends here.
const MAX_STREAMS: u32 = 1024;
/// Streams that were reset before they were looked at: more is a flood (CVE-2023-44487).
const MAX_RESETS: usize = 64;
/// Of a request's headers; ours have some 200 bytes.
const MAX_HEADERS: u32 = 16 << 10;
/// The longest request to this node itself, in bytes: which records of 256 nodes are known.
pub const MAX_BODY: usize = 32 << 10;
/// For a broker to be connected to, less than who asks waits for; and without a byte from
/// either end: MQTT asks every half minute.
const BROKER: Duration = Duration::from_secs(2);
const BROKER_IDLE: Duration = Duration::from_secs(300);
/// A node is asked so often whether it is there, and has so long to answer.
const ASK_EVERY: Duration = Duration::from_secs(10);
const ANSWER_IN: Duration = Duration::from_secs(5);

/// Serves a connection from another node until it ends.
pub async fn serve(worker: Rc<Worker>, client: Client) {
    let Some(identity) = worker.identity() else { return };
    let (from, open, at) = (client.peer, client.open, client.at);
    let Stream::Tcp(stream) = client.stream else { return };
    let accepted = time::timeout(HANDSHAKE, async {
        let stream = TlsAcceptor::from(identity.server.clone()).accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = identity.verifier.peer(chain, KeyUsage::client_auth());
        let peer = peer.map_err(|why| io::Error::other(why.to_string()))?;
        let connection = limits().handshake::<_, Bytes>(stream);
        Ok::<_, io::Error>((connection.await.map_err(io::Error::other)?, peer))
    });
    let (mut connection, peer) = match accepted.await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => {
            let refused = Refused::of(&error);
            worker.counters.refusal(refused.into());
            let why = refused.map_or_else(|| error.to_string(), ToString::to_string);
            return tracing::info!(%from, why, "a tunnel was refused");
        }
        Err(_) => return Counters::one(&worker.counters.slow),
    };
    let entry = Entry::new(&worker, peer.clone());
    let mut gone = std::pin::pin!(is_gone(connection.ping_pong(), ASK_EVERY, ANSWER_IN));
    let peer = Rc::new(peer);
    if worker.is_draining.get() {
        connection.graceful_shutdown();
    }
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let asked = Asked { peer: peer.clone(), from, at, open: open.clone() };
                    spawn_local(asked.answer(worker.clone(), request, respond));
                }
                Some(Err(error)) => return flooded(&worker, &peer, &error),
                None => return,
            },
            // What was taken is answered, and the other end knows what was not.
            () = entry.drain.notified() => connection.graceful_shutdown(),
            () = entry.end.notified() => {
                return tracing::warn!(peer = %peer.id, "a tunnel from a revoked node is cut");
            }
            () = &mut gone => return,
        }
    }
}

/// How HTTP/2 is spoken, and what of it is too much.
pub fn limits() -> server::Builder {
    let mut limits = server::Builder::new();
    limits
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_concurrent_reset_streams(MAX_RESETS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(Some(MAX_RESETS))
        .max_header_list_size(MAX_HEADERS);
    limits
}

/// The endpoint that a CONNECT asks for.
pub fn asked_for<B>(request: &Request<B>) -> Option<SocketAddr> {
    request.uri().authority()?.as_str().parse().ok()
}

/// The workload of its own that a node says it asks for.
pub fn speaks_for(headers: &HeaderMap) -> Result<Option<Workload>, Nonsense> {
    Workload::read(headers.get_all(workload::HEADER).iter().map(HeaderValue::as_bytes))
}

/// Only what HTTP/2 itself refuses is anybody's fault.
fn flooded(worker: &Worker, peer: &Peer, error: &h2::Error) {
    if error.is_go_away() && !error.is_remote() {
        worker.counters.refusal(TunnelRefusal::Garbage);
        tracing::warn!(peer = %peer.id, %error, "a tunnel is cut");
    } else {
        tracing::debug!(peer = %peer.id, %error, "a tunnel broke");
    }
}

/// What a stream in a tunnel is about.
struct Asked {
    peer: Rc<Peer>,
    from: SocketAddr,
    at: SocketAddr,
    open: Rc<crate::counters::Open>,
}

impl Asked {
    async fn answer(
        self,
        worker: Rc<Worker>,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) {
        let to = asked_for(&request);
        let (parts, body) = request.into_parts();
        if parts.method != Method::CONNECT {
            let asked = (&parts.method, parts.uri.path());
            return own(&worker, &self.peer, asked, body, respond).await;
        }
        if parts.headers.contains_key(UPLINK) {
            return self.to_broker(&worker, parts.uri.authority(), respond, body).await;
        }
        let Some(to) = to else {
            worker.counters.refusal(TunnelRefusal::Garbage);
            return refuse(respond, StatusCode::BAD_REQUEST, "the authority is no IP:PORT\n");
        };
        let Ok(workload) = speaks_for(&parts.headers) else {
            worker.counters.refusal(TunnelRefusal::Garbage);
            let text = "the baggage names a workload that there can't be\n";
            return refuse(respond, StatusCode::BAD_REQUEST, text);
        };
        let principal = Principal::new(&self.peer.id, workload.as_ref());
        let trace = parts.headers.get(trace::HEADER);
        let trace = trace.and_then(|it| Trace::read(it.to_str().ok()?));
        let trace = trace.unwrap_or_else(|| worker.new_trace());
        let looked_at =
            worker.looks_at_requests().then(|| http::At::of_tunnel(&principal, to, trace));
        let reply = Reply { worker: worker.clone(), respond, looked_at };
        let live = worker.live();
        let places = live.here(to);
        if places.is_empty() {
            Counters::one(&worker.counters.unmatched);
            let text = "no endpoint of this node has that address\n";
            return reply.no(StatusCode::NOT_FOUND, text);
        }
        let may = |it: &&(Arc<Target>, Arc<Endpoint>)| {
            authorize::may_connect(&it.0.service.allow, &principal)
        };
        let Some((target, endpoint)) = places.iter().find(may).cloned() else {
            live.of_tunnels.decided(Decision::Denied);
            return reply.no(StatusCode::FORBIDDEN, denied(&worker, &principal));
        };
        let signals = live.of_tunnels.clone();
        drop(live);
        let is_http = target.service.protocol != AppProtocol::Tcp;
        if is_http && authorize::looks_at_requests(&target.service.allow) {
            let Some(stream) = reply.yes(body, &endpoint) else { return };
            let service = target.service.name.clone();
            let through = Some(Rc::new(Through { principal, service }));
            let client = Client { stream, peer: self.from, at: self.at, open: self.open, through };
            return http::serve(worker, client, Vec::new()).await;
        }
        self.pass_on(&signals, &target, &endpoint, reply, body).await;
    }

    /// Bytes of another node's agent, to a broker of this one's.
    async fn to_broker(
        &self,
        worker: &Rc<Worker>,
        to: Option<&Authority>,
        mut respond: SendResponse<Bytes>,
        body: RecvStream,
    ) {
        let (live, principal) = (worker.live(), self.peer.id.to_string());
        if !live.table.relay_uplink_for.iter().any(|it| pattern::like(it, &principal)) {
            Counters::one(&worker.counters.denied);
            let text = "this node's relay_uplink_for does not name yours\n";
            return refuse(respond, StatusCode::FORBIDDEN, text);
        }
        let to =
            to.map(Authority::as_str).filter(|to| live.table.brokers.iter().any(|it| it == to));
        let Some(to) = to else {
            Counters::one(&worker.counters.unmatched);
            return refuse(respond, StatusCode::NOT_FOUND, "it is no broker of this node's\n");
        };
        let Some(_one) = live.relays.begin() else {
            Counters::one(&worker.counters.broken);
            let text = "this node passes on for as many as it may\n";
            return refuse(respond, StatusCode::SERVICE_UNAVAILABLE, text);
        };
        drop(live);
        let connected = time::timeout(BROKER, TcpStream::connect(to)).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let Ok(mut broker) = connected.map(Stream::Tcp) else {
            let text = "this node does not reach it either\n";
            return refuse(respond, StatusCode::BAD_GATEWAY, text);
        };
        Counters::one(&worker.counters.relayed);
        let Ok(send) = respond.send_response(Response::new(()), false) else { return };
        let mut stream = Stream::tunnelled(send, body);
        tracing::info!(who = principal, to, "an agent's link is passed on");
        let passed = Passed::new(&[]);
        let relayed = relay::relay(worker, &mut stream, &mut broker, BROKER_IDLE, &passed).await;
        if let Err(error) = relayed {
            tracing::debug!(who = principal, to, %error, "an agent's link broke");
        }
    }

    /// Bytes, to this very endpoint; where else they could go is for the other node to say.
    async fn pass_on(
        &self,
        signals: &Arc<Signals>,
        target: &Target,
        endpoint: &Arc<Endpoint>,
        reply: Reply,
        body: RecvStream,
    ) {
        let (_active, worker) = (Active::begin(signals), reply.worker.clone());
        if endpoint.health().is_unhealthy {
            let text = "the endpoint fails its checks\n";
            return reply.no(StatusCode::SERVICE_UNAVAILABLE, text);
        }
        let Some(of_service) = target.begin() else {
            Counters::one(&worker.counters.broken);
            signals.decided(Decision::Broken);
            let text = "the service's circuit breaker is open\n";
            return reply.no(StatusCode::SERVICE_UNAVAILABLE, text);
        };
        let under = Under::way(endpoint).stays(of_service);
        signals.decided(Decision::Allowed);
        let from = From { peer: self.from, at: self.at, trace: None, workload: None };
        let mut to = match accept::connect(&worker, endpoint, target, &from).await {
            Ok(to) => to,
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.address, %error, "can't connect");
                let text = "the endpoint can't be connected to\n";
                signals.is_over(Class::Failed);
                return reply.no(StatusCode::BAD_GATEWAY, text);
            }
        };
        target.ended(endpoint, true, worker.now_ms());
        let Some(mut stream) = reply.yes(body, endpoint) else { return };
        [signals, &endpoint.signals].into_iter().for_each(|it| it.is_over(Class::Connected));
        let (idle, passed) = (target.service.timeouts.idle, Passed::new(&[]));
        if let Err(error) = relay::relay(&worker, &mut stream, &mut to, idle, &passed).await {
            tracing::debug!(endpoint = %endpoint.address, %error, "a stream broke");
        }
        [signals, &endpoint.signals].into_iter().for_each(|it| it.passed(&passed));
        drop(under);
    }
}

/// The answer to a CONNECT, and whoever looks at it.
struct Reply {
    worker: Rc<Worker>,
    respond: SendResponse<Bytes>,
    looked_at: Option<http::At>,
}

impl Reply {
    /// Says yes, and bytes may go.
    fn yes(mut self, body: RecvStream, endpoint: &Endpoint) -> Option<Stream> {
        self.is_over(StatusCode::OK, Some(endpoint.shown()));
        let send = self.respond.send_response(Response::new(()), false).ok()?;
        Some(Stream::tunnelled(send, body))
    }

    fn no(mut self, status: StatusCode, text: &'static str) {
        self.is_over(status, None);
        refuse(self.respond, status, text);
    }

    fn is_over(&mut self, status: StatusCode, endpoint: Option<String>) {
        if let Some(it) = self.looked_at.take() {
            it.over(&self.worker, status.as_u16(), endpoint, None);
        }
    }
}

fn refuse(respond: SendResponse<Bytes>, status: StatusCode, text: &'static str) {
    say(respond, status, Bytes::from_static(text.as_bytes()));
}

fn say(mut respond: SendResponse<Bytes>, status: StatusCode, text: Bytes) {
    let mut answer = Response::new(());
    *answer.status_mut() = status;
    // Who asked may have gone.
    if let Ok(mut send) = respond.send_response(answer, false) {
        _ = send.send_data(text, true);
    }
}

/// What is asked of this node itself: certificates, who stays out, and what nodes offer.
async fn own(
    worker: &Worker,
    peer: &Peer,
    asked: (&Method, &str),
    body: RecvStream,
    respond: SendResponse<Bytes>,
) {
    let Some(identity) = worker.identity() else { return };
    let answer = match asked {
        (&Method::POST, "/v1/certificate") => match collect(body, MAX_BODY).await {
            Ok(request) => identity.answer(&peer.id, peer.life_s, &request),
            Err(error) => Err(error.to_string()),
        },
        (&Method::GET, "/v1/revocations") => Ok(identity.revoked.clone()),
        (&Method::POST, "/v1/records") => match collect(body, MAX_BODY).await {
            Ok(known) => v1::KnownRecords::decode(&known[..])
                .map(|known| worker.live().records.newer_than(&known).encode_to_vec())
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        },
        _ => Err("there are CONNECT, /v1/certificate, /v1/revocations and /v1/records".into()),
    };
    match answer {
        Ok(bytes) => say(respond, StatusCode::OK, bytes.into()),
        Err(why) => say(respond, StatusCode::NOT_FOUND, why.into()),
    }
}

/// All of a body, within HTTP/2's own flow control.
pub async fn collect(mut body: RecvStream, most: usize) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = body.data().await {
        let bytes = bytes.map_err(super::stream::io_error)?;
        if all.len() + bytes.len() > most {
            return Err(io::Error::other(format!("over {most} bytes")));
        }
        all.extend_from_slice(&bytes);
        body.flow_control().release_capacity(bytes.len()).map_err(super::stream::io_error)?;
    }
    Ok(all)
}
