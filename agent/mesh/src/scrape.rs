//! `GET /metrics` on loopback: the mesh as OpenMetrics text, whether or not an agent is
//! there.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time,
};

use crate::{control::Control, openmetrics, owner::Scraped};

/// Scrapers at once.
const MAX_CONNECTIONS: usize = 16;
/// Those that wait to be accepted.
pub const BACKLOG: u32 = 16;
/// For a request's head to arrive.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// Kept between two scrapes of the slowest scraper.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(300);
/// After an accept that failed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Serves where the table in force says, for ever.
pub async fn run(control: &Arc<Control>, mut wanted: watch::Receiver<Option<Scraped>>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let now = wanted.borrow_and_update().clone();
        let listener = now.and_then(|(_, it)| TcpListener::from_std(it.try_clone().ok()?).ok());
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { std::future::pending().await },
            () = accept(control, listener, &permits) => {}
        }
    }
}

async fn accept(control: &Arc<Control>, from: Option<TcpListener>, permits: &Arc<Semaphore>) {
    let Some(listener) = from else { return std::future::pending().await };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            time::sleep(ACCEPT_BACKOFF).await;
            continue;
        };
        // One more than may be is hung up on.
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let control = control.clone();
        tokio::spawn(async move {
            _ = time::timeout(CONNECTION_DEADLINE, serve(control, stream)).await;
            drop(permit);
        });
    }
}

async fn serve(control: Arc<Control>, stream: TcpStream) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let answer = answer(&control, &request);
        async { Ok::<_, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE);
    builder.serve_connection(TokioIo::new(stream), service).await
}

fn answer(control: &Control, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if (request.method(), request.uri().path()) != (&Method::GET, "/metrics") {
        let mut answer = Response::new(Full::new("GET /metrics\n".into()));
        *answer.status_mut() = StatusCode::NOT_FOUND;
        return answer;
    }
    let (told, status) = {
        let owner = control.owner();
        (owner.told(), owner.status())
    };
    let id = status.identity.map(|it| it.id).unwrap_or_default();
    let text = told.page().text(&[("identity", &id), ("version", &status.version)]);
    let mut answer = Response::new(Full::new(text.into()));
    let kind = HeaderValue::from_static(openmetrics::CONTENT_TYPE);
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
