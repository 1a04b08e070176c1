//! What becomes of a connection: who is at the other end (PROXY protocol), and then
//! HTTP, TLS passed through by its server name, or plain bytes.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::header::HeaderValue;
use purlin_core::mesh::{
    authorize,
    hashed::hash,
    hello::{self, Hello},
    intercept::Intercept,
    model::{HashOn, Protocol},
    proxy,
    workload::Workload,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

use crate::{
    connection::Through,
    counters::{Counters, Open},
    endpoint::{Endpoint, Under},
    http, intercept,
    live::Live,
    names,
    relay::{self, Passed},
    signals::{Active, Class, Decision, Signals},
    split::Split,
    target::Target,
    tunnel::{self, stream::Stream},
    who::{self, Asker},
    worker::Worker,
};

/// For the bytes that say what a connection is: a PROXY header, a ClientHello. They
/// come in one piece with a connection's start; seconds are for a bad radio link.
const FIRST_BYTES_DEADLINE: Duration = Duration::from_secs(10);
/// Endpoints of a service that a connection is tried on.
pub const MAX_ATTEMPTS: usize = 3;

/// On whose behalf an endpoint is connected to.
#[derive(Clone, Copy, Debug)]
pub struct From<'a> {
    /// Who asks.
    pub peer: SocketAddr,
    /// The listener's address that it came in at.
    pub at: SocketAddr,
    /// Which trace it belongs to, where that is known.
    pub trace: Option<&'a HeaderValue>,
    /// Which of this node's workloads, for whoever is at the other end of a tunnel.
    pub workload: Option<&'a Workload>,
}

/// A connection from a client.
#[derive(Debug)]
pub struct Client {
    /// The bare connection.
    pub stream: Stream,
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// The listener's address that it came in at.
    pub at: SocketAddr,
    /// Counts it as open.
    pub open: Rc<Open>,
    /// Through whose tunnel it came, and for what.
    pub through: Option<Rc<Through>>,
}

/// Serves one connection until it ends.
pub async fn serve(worker: Rc<Worker>, mut client: Client) {
    let at = client.at;
    let found = worker
        .live()
        .listener(at)
        .map(|it| (it.protocol, it.proxy_protocol, it.intercept.as_ref().map(Intercept::how)));
    let Some((protocol, is_proxied, taken)) = found else { return };
    if let Some((mode, pass_through)) = taken {
        let Some(to) = intercept::destination(&client, mode) else {
            return Counters::one(&worker.counters.unmatched);
        };
        let found = Found::by_address(&worker.live(), to.ip());
        match found {
            Some(found) if protocol == Protocol::Tcp => {
                return pass_on(&worker, found, client, Vec::new()).await;
            }
            None if pass_through => return intercept::pass_through(&worker, client, to).await,
            _ => {}
        }
    }
    let (stream, mut first) = (&mut client.stream, Vec::new());
    if is_proxied {
        match time::timeout(FIRST_BYTES_DEADLINE, proxied(stream, &mut first)).await {
            Ok(Ok(source)) => client.peer = source.unwrap_or(client.peer),
            _ => return Counters::one(&worker.counters.slow),
        }
    }
    let name = match protocol {
        Protocol::Tunnel => return tunnel::server::serve(worker, client).await,
        Protocol::Http => return http::serve(worker, client, first).await,
        Protocol::Dns => return names::serve(worker, client).await,
        // The table has listeners of datagrams apart.
        Protocol::Udp => return,
        Protocol::Tcp => None,
        Protocol::Tls => {
            let read = time::timeout(FIRST_BYTES_DEADLINE, server_name(stream, &mut first));
            let Ok(Ok(name)) = read.await else { return Counters::one(&worker.counters.slow) };
            name
        }
    };
    match chosen(&worker, at, name.as_deref()) {
        Some(found) => pass_on(&worker, found, client, first).await,
        None => Counters::one(&worker.counters.unmatched),
    }
}

/// Where a connection goes.
struct Found {
    target: Arc<Target>,
    /// Whose requests it has, while that one's rack is full.
    spilled_from: Option<Arc<Target>>,
    route: Arc<Signals>,
    of_split: Option<(Arc<Split>, bool)>,
}

impl Found {
    /// The service that an address stands for; no route is asked.
    fn by_address(live: &Live, address: IpAddr) -> Option<Self> {
        let target = live.stands_for(address)?.clone();
        let route = live.other_routes.clone();
        Some(Self { target, spilled_from: None, route, of_split: None })
    }

    fn is_over(&self, class: Class) {
        self.route.is_over(class);
        if let Some((split, is_new)) = &self.of_split {
            split.over(*is_new, class == Class::Failed);
        }
    }
}

/// Finds where a connection goes; the table it was found in is not held any longer.
fn chosen(worker: &Worker, at: SocketAddr, name: Option<&str>) -> Option<Found> {
    let live = worker.live();
    let place = live.by_name(at, name)?;
    let chosen = live.backend(place, &worker.by(&[], None))?;
    let route = live.signals[place.route].clone();
    if chosen.is_spilled {
        route.decided(Decision::Spilled);
    }
    let spilled_from = chosen.is_spilled.then(|| chosen.own.clone());
    Some(Found { target: chosen.target.clone(), spilled_from, route, of_split: chosen.of_split })
}

/// Reads the PROXY header; what comes after it is left in `first`.
async fn proxied(stream: &mut Stream, first: &mut Vec<u8>) -> io::Result<Option<SocketAddr>> {
    loop {
        match proxy::read(first) {
            proxy::Header::Is(bytes, ends) => {
                first.drain(..bytes);
                return Ok(ends.map(|(source, _)| source));
            }
            proxy::Header::Not => return Err(io::ErrorKind::InvalidData.into()),
            proxy::Header::More => more(stream, first, proxy::MAX_BYTES).await?,
        }
    }
}

/// Reads the ClientHello; it stays in `first`.
async fn server_name(stream: &mut Stream, first: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        match hello::read(first) {
            Hello::Names(name) => return Ok(name),
            Hello::Not => return Err(io::ErrorKind::InvalidData.into()),
            Hello::More => more(stream, first, 2 * hello::MAX_BYTES).await?,
        }
    }
}

/// Reads more of what is to be looked at before it is passed on.
pub async fn more(stream: &mut Stream, first: &mut Vec<u8>, most: usize) -> io::Result<()> {
    first.reserve(1024);
    match first.len() < most && stream.read_buf(first).await? > 0 {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn pass_on(worker: &Rc<Worker>, found: Found, mut client: Client, first: Vec<u8>) {
    let (target, route) = (&*found.target, &found.route);
    let _active = Active::begin(route);
    let asker = Asker::new(worker, &client);
    for target in found.spilled_from.iter().chain([&found.target]) {
        let may = match asker.asks(worker, client.at, target).await {
            Ok(None) => true,
            Ok(Some(who)) => {
                let may = authorize::may_connect(&target.service.allow, &who);
                if !may {
                    who::denied(worker, &who);
                }
                may
            }
            Err(why) => {
                tracing::info!(peer = %client.peer, why, "a connection is refused");
                false
            }
        };
        if !may {
            return route.decided(Decision::Denied);
        }
    }
    let Some(of_service) = target.begin() else {
        route.decided(Decision::Broken);
        return Counters::one(&worker.counters.broken);
    };
    route.decided(Decision::Allowed);
    let hash = source_hash(&target.service.hash_on, client.peer);
    let mut tried = Vec::new();
    while tried.len() < MAX_ATTEMPTS && (tried.is_empty() || target.may_retry()) {
        let endpoint = target.pick(&worker.by(&tried, hash)).cloned();
        let Some(endpoint) = endpoint else { break };
        let under = Under::way(&endpoint);
        let workload = asker.speaks_for(worker, &endpoint).await;
        let workload = workload.as_deref();
        let from = From { peer: client.peer, at: client.at, trace: None, workload };
        match connect(worker, &endpoint, target, &from).await {
            Ok(mut stream) => {
                target.ended(&endpoint, true, worker.now_ms());
                found.is_over(Class::Connected);
                endpoint.signals.is_over(Class::Connected);
                let under = under.stays(of_service);
                let idle = target.service.timeouts.idle;
                let passed = Passed::new(&first);
                let relayed = async {
                    relay::write_first(&mut stream, &first).await?;
                    drop(first);
                    relay::relay(worker, &mut client.stream, &mut stream, idle, &passed).await
                };
                if let Err(error) = relayed.await {
                    tracing::debug!(peer = %client.peer, endpoint = %endpoint.address, %error, "a connection broke");
                }
                [route, &endpoint.signals].into_iter().for_each(|it| it.passed(&passed));
                return drop(under);
            }
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.address, %error, "can't connect");
                Counters::one(&worker.counters.retries);
                [route, &endpoint.signals].into_iter().for_each(|it| it.decided(Decision::Retried));
                tried.push(endpoint.id);
            }
        }
    }
    found.is_over(Class::Failed);
}

/// What of a connection alone is hashed; what only a request tells is not there.
pub fn source_hash(on: &HashOn, peer: SocketAddr) -> Option<u64> {
    match on {
        HashOn::SourceIp => Some(hash(peer.ip().to_canonical().to_string().as_bytes())),
        HashOn::Source => Some(hash(peer.to_string().as_bytes())),
        HashOn::Protocol => Some(hash(b"bytes")),
        HashOn::Path | HashOn::Url | HashOn::Header(_) | HashOn::Cookie(_) => None,
    }
}

/// Connects to an endpoint, and tells it who is asking where it wants to know.
pub async fn connect(
    worker: &Rc<Worker>,
    endpoint: &Endpoint,
    target: &Target,
    from: &From<'_>,
) -> io::Result<Stream> {
    let service = &target.service;
    let limit = service.timeouts.connect;
    let connected = time::timeout(limit, async {
        let mut stream = match &endpoint.via {
            Some(node) => tunnel::client::open(worker, node, endpoint.address, from).await?,
            None => {
                let socket = TcpStream::connect(endpoint.address).await?;
                socket.set_nodelay(true)?;
                Stream::Tcp(socket)
            }
        };
        if let Some(version) = service.send_proxy_protocol {
            stream.write_all(&proxy::write(version, from.peer, from.at)).await?;
        }
        Ok(stream)
    });
    let connected = connected.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    // Who may not is told so by an endpoint that is well.
    if connected.as_ref().is_err_and(|it: &io::Error| it.kind() != io::ErrorKind::PermissionDenied)
    {
        target.failed(endpoint, worker.now_ms());
        // Whatever is chosen by latency avoids it for a while.
        endpoint.answered(limit, worker.now_ms());
    }
    connected
}
