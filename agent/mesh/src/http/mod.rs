//! One client's connection that speaks HTTP: which version, its bounds, parking while
//! it is idle, and its end.

use std::{convert::Infallible, future, rc::Rc, task::Poll, time::Duration};

use hyper::{Request, body::Incoming, rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use purlin_core::mesh::strict::{MAX_HEAD, Violation};
use tokio::{io::AsyncWriteExt, task::spawn_local, time};

use crate::{
    accept::{self, Client},
    connection::{Ask, Connection, Connections},
    handover::Stage,
    tunnel::stream::Stream,
    worker::Worker,
};

mod affinity;
mod body;
mod exchange;
mod flags;
mod forward;
mod handle;
mod headers;
mod http1;
mod io;
mod look;
pub mod message;
mod parked;
mod reader;
mod token;
mod upgrade;
mod writer;

pub use body::{Body, Inbound, Upload};
pub use exchange::Exchange;
pub use flags::Flags;
pub use handle::changed;
pub use headers::{of_peer, of_trace};
pub use look::At;
pub use parked::{Parked, park, take_up};
pub use token::bearer;
pub use writer::Broken;

use self::http1::{End, Http1};

/// What an HTTP/2 connection begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests at once on one HTTP/2 connection, and the most that RFC 9113 would not have
/// us go below (100).
const MAX_STREAMS: u32 = 128;
/// Streams reset by the client before they were looked at: more is a flood
/// (CVE-2023-44487).
const MAX_RESETS: usize = 64;
/// All headers of an HTTP/2 request; as much as HTTP/1 is allowed.
const MAX_HEADER_LIST: u32 = MAX_HEAD as u32;
/// Of bytes that wait to be taken by an HTTP/2 client, for each stream.
const MAX_SEND_BUFFER: usize = 64 << 10;
/// An HTTP/2 connection that is quiet is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_DEADLINE: Duration = Duration::from_secs(20);
/// For a first byte, and for the next request on a connection that is kept open: a
/// minute is what HAProxy and nginx have in their examples and defaults.
const IDLE: Duration = Duration::from_secs(75);
/// For a refusal to be taken by the client.
const GOODBYE: Duration = Duration::from_secs(2);

/// Spawns what hyper wants spawned onto this thread.
#[derive(Clone, Copy, Debug)]
pub struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// Serves a connection until it ends or is parked.
pub async fn serve(worker: Rc<Worker>, mut client: Client, mut first: Vec<u8>) {
    let read = tokio::select! {
        read = time::timeout(IDLE, first_bytes(&mut client.stream, &mut first)) => read,
        () = worker.heir() => match first.is_empty() {
            true => return worker.pass_on(Stage::Fresh, client),
            false => time::timeout(IDLE, first_bytes(&mut client.stream, &mut first)).await,
        },
    };
    match read {
        Ok(Ok(())) => {}
        // It said nothing at all, or hung up: nobody waits for an answer.
        _ => return,
    }
    if first.starts_with(PREFACE) {
        // Its task is its own, so that the common HTTP/1 one stays small.
        spawn_local(serve_http2(worker, client, first));
    } else {
        spawn_local(serve_http1(worker, client, first));
    }
}

/// Reads until the version is told. What was read stays when this is dropped.
async fn first_bytes(stream: &mut Stream, first: &mut Vec<u8>) -> std::io::Result<()> {
    while first.len() < PREFACE.len() && PREFACE.starts_with(first) {
        accept::more(stream, first, PREFACE.len()).await?;
    }
    Ok(())
}

async fn serve_http1(worker: Rc<Worker>, client: Client, first: Vec<u8>) {
    let connection = Rc::new(Connection::new(&worker, &client));
    let Client { stream, peer, at, open, through } = client;
    let http1 = Rc::new(Http1::new(stream, &first, connection.flags.clone()));
    drop(first);
    let entry = Connections::enter(&worker, &connection);
    let mut is_parked = false;
    let mut served = Box::pin(http1.serve(&worker, &connection));
    let ended = future::poll_fn(|cx| {
        if let Poll::Ready(ended) = served.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        connection.keep_waker(cx.waker());
        match connection.ask.take() {
            Ask::Park if connection.is_quiet() => is_parked = true,
            Ask::Close => return Poll::Ready(None),
            _ => {}
        }
        if is_parked { Poll::Ready(None) } else { Poll::Pending }
    });
    let ended = ended.await;
    drop((entry, served));
    let Some((mut stream, unread)) = Rc::into_inner(http1).map(Http1::into_parts) else { return };
    if let Some(violation) = connection.flags.violation.get() {
        worker.counters.violation(violation);
        tracing::info!(peer = %connection.peer, %violation, "a request was refused");
    }
    match ended {
        Some(End::Refused(violation)) => refuse(stream, violation).await,
        None if is_parked => {
            drop((connection, unread));
            park(&worker, Client { stream, peer, at, open, through });
        }
        Some(End::LastAnswer) => _ = time::timeout(GOODBYE, hang_up(&mut stream)).await,
        Some(End::Switched(body)) => {
            if let Some(switch) = body.into_switch() {
                switch.go_on(&worker, stream, &unread).await;
            }
        }
        Some(End::Closed) | None => {}
    }
}

async fn serve_http2(worker: Rc<Worker>, client: Client, first: Vec<u8>) {
    let connection = Rc::new(Connection::new(&worker, &client));
    let stream = client.stream;
    let io = io::Io::new(stream, first, connection.flags.clone());
    let (of_service, to_serve) = (worker.clone(), connection.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, connection) = (of_service.clone(), to_serve.clone());
        let request = request.map(Inbound::Http2);
        async move { Ok::<_, Infallible>(handle::handle(&worker, &connection, request).await) }
    });
    let mut served = std::pin::pin!(
        http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(MAX_RESETS)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_send_buf_size(MAX_SEND_BUFFER)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_DEADLINE)
            .serve_connection(TokioIo::new(io), service)
    );
    let entry = Connections::enter(&worker, &connection);
    let mut is_ending = false;
    let ended = future::poll_fn(|cx| {
        if worker.is_draining.get() && !is_ending {
            is_ending = true;
            // A GOAWAY loses nothing: it tells which requests were taken.
            served.as_mut().graceful_shutdown();
        }
        connection.keep_waker(cx.waker());
        served.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        tracing::debug!(peer = %connection.peer, %error, "a connection broke");
    }
    drop(entry);
}

/// Says why, and hangs up.
async fn refuse(mut stream: Stream, violation: Violation) {
    let status =
        hyper::StatusCode::from_u16(violation.status()).unwrap_or(hyper::StatusCode::BAD_REQUEST);
    let text = format!("{violation}\n");
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    _ = time::timeout(GOODBYE, async {
        stream.write_all(answer.as_bytes()).await?;
        hang_up(&mut stream).await
    })
    .await;
}

/// Says that nothing follows, and waits for the client to go. What is unread at close would
/// make the kernel send a reset, and the client lose the answer.
async fn hang_up(stream: &mut Stream) -> std::io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(stream, &mut tokio::io::sink()).await.map(drop)
}
