//! To other nodes: one connection a worker and a node, made when it is needed, and a stream
//! in it for each way to an endpoint.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use h2::client::{self, Connection, SendRequest};
use hyper::{Method, Request, StatusCode, Uri, body::Bytes, header};
use purlin_core::mesh::{trace, workload};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::{net::TcpStream, sync::Notify, task::spawn_local, time};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::pki_types::{IpAddr, ServerName},
};
use webpki::KeyUsage;

use super::{
    CONNECTION_WINDOW, Entry, STREAM_WINDOW, UPLINK, is_gone,
    stream::{Stream, io_error},
};
use crate::{
    accept::From,
    http::of_trace,
    identity::{Identity, Peer},
    worker::Worker,
};

/// A node is asked so often whether it is there, and has so long to answer: longer than a
/// mesh is ever busy with something else.
const ASK_EVERY: Duration = Duration::from_millis(250);
const ANSWER_IN: Duration = Duration::from_millis(1500);
/// The kernel at the other end has so long to acknowledge what was sent, which it does
/// however busy the mesh is there: that it doesn't is a cable or a node that is gone, and
/// what is under way can go elsewhere within a second.
const UNACKNOWLEDGED_MS: u32 = 500;
/// For a node to be reached: on the wire and by TLS.
const REACH: Duration = Duration::from_secs(2);
/// Between two attempts to reach a node that could not be.
const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// For a node itself to answer: it signs, and reads no disk.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// The longest answer that is taken from a node itself, in bytes.
const MAX_ANSWER: usize = 256 << 10;

/// The way to a node.
#[derive(Debug, Default)]
pub struct Way {
    state: RefCell<State>,
    was_tried: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: Option<(SendRequest<Bytes>, Rc<Cell<bool>>)>,
    is_tried: bool,
    /// When and why the last attempt came to nothing, or the connection was lost.
    failed: Option<(Instant, String)>,
}

/// A way to an endpoint on another node, on behalf of a client.
///
/// # Errors
/// `PermissionDenied` where the service's rules don't let this node in; all else is a way
/// that can't be had now.
pub async fn open(
    worker: &Rc<Worker>,
    node: &str,
    to: SocketAddr,
    from: &From<'_>,
) -> io::Result<Stream> {
    let way = {
        let mut ways = worker.tunnels.ways.borrow_mut();
        ways.entry(node.into()).or_default().clone()
    };
    let sender = way.sender(worker, node).await?;
    // A connection that is being left takes nothing new: the other end drains.
    let mut sender = match sender.ready().await {
        Ok(sender) => sender,
        Err(_) => {
            way.state.borrow_mut().open = None;
            way.sender(worker, node).await?.ready().await.map_err(io_error)?
        }
    };
    let uri = Uri::builder().authority(to.to_string()).build().map_err(io::Error::other)?;
    let trace = from.trace.cloned().unwrap_or_else(|| of_trace(worker.new_trace()));
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(uri)
        // RFC 7239, 4.
        .header(header::FORWARDED, format!("for=\"{}\"", from.peer))
        .header(trace::HEADER, trace);
    let request = match from.workload {
        Some(workload) => request.header(workload::HEADER, workload.baggage()),
        None => request,
    };
    let request = request.body(()).map_err(io::Error::other)?;
    let (answer, send) = sender.send_request(request, false).map_err(io_error)?;
    let answer = answer.await.map_err(io_error)?;
    match answer.status() {
        StatusCode::OK => Ok(Stream::tunnelled(send, answer.into_body())),
        status => {
            let kind = match status {
                StatusCode::FORBIDDEN => io::ErrorKind::PermissionDenied,
                _ => io::ErrorKind::Other,
            };
            Err(io::Error::new(kind, format!("node {node} answered {status} for {to}")))
        }
    }
}

impl Way {
    /// Nobody waits for a node that was out of reach the last time: requests may go
    /// elsewhere, and it is tried beside them.
    async fn sender(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        node: &str,
    ) -> io::Result<SendRequest<Bytes>> {
        loop {
            let was_tried = self.was_tried.notified();
            {
                let state = &mut *self.state.borrow_mut();
                let open = state.open.as_ref().filter(|(_, is_over)| !is_over.get());
                if let Some((sender, _)) = open {
                    return Ok(sender.clone());
                }
                let is_due = |(at, _): &(Instant, String)| at.elapsed() >= AGAIN_AFTER;
                if !state.is_tried && state.failed.as_ref().is_none_or(is_due) {
                    state.is_tried = true;
                    spawn_local(keep(self.clone(), worker.clone(), node.to_owned()));
                }
                if let Some((_, why)) = &state.failed {
                    return Err(io::Error::other(format!("node {node} is not reached: {why}")));
                }
            }
            was_tried.await;
        }
    }

    /// An attempt is over.
    fn tried(&self, reached: Result<(SendRequest<Bytes>, Rc<Cell<bool>>), String>) {
        let state = &mut *self.state.borrow_mut();
        state.is_tried = false;
        (state.open, state.failed) = match reached {
            Ok(open) => (Some(open), None),
            Err(why) => (None, Some((Instant::now(), why))),
        };
        self.was_tried.notify_waiters();
    }
}

/// Reaches a node, and keeps the connection as long as it lasts.
async fn keep(way: Rc<Way>, worker: Rc<Worker>, node: String) {
    let reached = async {
        let identity = worker.identity().ok_or_else(|| io::Error::other(NOBODY))?;
        let address = worker
            .live()
            .peer(&node)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address of it is known"))?;
        let (stream, peer) = reach(&identity, &node, address).await?;
        Ok((handshake(stream).await?, peer))
    };
    let reached: io::Result<_> =
        time::timeout(REACH, reached).await.unwrap_or_else(|late| Err(late.into()));
    let ((sender, connection), peer) = match reached {
        Ok(reached) => reached,
        Err(error) => return way.tried(Err(error.to_string())),
    };
    let is_over = Rc::new(Cell::new(false));
    way.tried(Ok((sender, is_over.clone())));
    let is_lost = drive(connection, Entry::new(&worker, peer)).await;
    is_over.set(true);
    let state = &mut *way.state.borrow_mut();
    // There may be another one by now.
    if is_lost && state.open.as_ref().is_some_and(|(_, it)| Rc::ptr_eq(it, &is_over)) {
        state.failed = Some((Instant::now(), "it doesn't answer any more".into()));
    }
}

/// What a node says that is in no rack.
const NOBODY: &str = "this node has no certificate of a rack: `purlin mesh ca` makes one";

async fn handshake(
    stream: TlsStream<TcpStream>,
) -> io::Result<(SendRequest<Bytes>, Connection<TlsStream<TcpStream>>)> {
    let handshake = client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_push(false)
        .handshake(stream);
    handshake.await.map_err(io_error)
}

/// Whether it ended because nothing came from the other end any more.
async fn drive(mut connection: Connection<TlsStream<TcpStream>>, entry: Entry) -> bool {
    let ping = connection.ping_pong();
    tokio::select! {
        ended = connection => match ended {
            Err(error) => error.get_io().is_some_and(|it| !is_hung_up(it.kind())),
            Ok(()) => false,
        },
        () = entry.end.notified() => false,
        () = is_gone(ping, ASK_EVERY, ANSWER_IN) => true,
    }
}

/// Whether the other end said itself that it is over.
fn is_hung_up(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Connects to a node, and makes sure that it is it.
async fn reach(
    identity: &Identity,
    node: &str,
    address: SocketAddr,
) -> io::Result<(TlsStream<TcpStream>, Peer)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MS)?;
    let name = ServerName::IpAddress(IpAddr::from(address.ip()));
    let stream = TlsConnector::from(identity.client.clone()).connect(name, stream).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = identity.verifier.peer(chain, KeyUsage::server_auth()).map_err(io::Error::other)?;
    if peer.node() != node {
        return Err(io::Error::other(format!("{} is at {address}, and not node {node}", peer.id)));
    }
    Ok((stream, peer))
}

/// A way to a broker of a node's, on a connection of its own.
pub async fn uplink(
    identity: Arc<Identity>,
    node: &str,
    address: SocketAddr,
    to: &str,
) -> io::Result<Stream> {
    let (stream, _) = reach(&identity, node, address).await?;
    let (sender, mut connection) = handshake(stream).await?;
    let ping = connection.ping_pong();
    // It ends with the stream, or when the node is gone.
    tokio::spawn(async move {
        tokio::select! {
            _ = connection => {}
            () = is_gone(ping, ASK_EVERY, ANSWER_IN) => {}
        }
    });
    let request = Request::builder().method(Method::CONNECT).uri(to).header(UPLINK, "1").body(());
    let request = request.map_err(io::Error::other)?;
    let mut sender = sender.ready().await.map_err(io_error)?;
    let (answer, send) = sender.send_request(request, false).map_err(io_error)?;
    let answer = answer.await.map_err(io_error)?;
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(Stream::tunnelled(send, answer.into_body()));
    }
    let why = super::server::collect(answer.into_body(), MAX_ANSWER).await?;
    Err(io::Error::other(format!("it answered {status}: {}", String::from_utf8_lossy(&why).trim())))
}

/// One question to a node itself, on a connection of its own.
pub async fn ask(
    identity: Arc<Identity>,
    node: &str,
    address: SocketAddr,
    request: (Method, &str),
    body: Vec<u8>,
) -> io::Result<Vec<u8>> {
    let asked = exchange(identity, node, address, request, body);
    let asked = time::timeout(ASK_DEADLINE, asked).await;
    asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn exchange(
    identity: Arc<Identity>,
    node: &str,
    address: SocketAddr,
    request: (Method, &str),
    body: Vec<u8>,
) -> io::Result<Vec<u8>> {
    let (stream, _) = reach(&identity, node, address).await?;
    let (sender, connection) = handshake(stream).await?;
    let asked = async {
        let uri = format!("https://{address}{}", request.1);
        let request = Request::builder().method(request.0).uri(uri).body(());
        let request = request.map_err(io::Error::other)?;
        let mut sender = sender.ready().await.map_err(io_error)?;
        let (answer, mut send) = sender.send_request(request, false).map_err(io_error)?;
        send.send_data(body.into(), true).map_err(io_error)?;
        let answer = answer.await.map_err(io_error)?;
        let status = answer.status();
        let answer = super::server::collect(answer.into_body(), MAX_ANSWER).await?;
        match status {
            StatusCode::OK => Ok(answer),
            _ => {
                let why = String::from_utf8_lossy(&answer).trim().to_owned();
                Err(io::Error::other(format!("node {node} answered {status}: {why}")))
            }
        }
    };
    tokio::select! {
        answer = asked => answer,
        _ = connection => Err(io::ErrorKind::ConnectionReset.into()),
    }
}
