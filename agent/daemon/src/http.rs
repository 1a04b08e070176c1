//! Posts to what an operator already runs: one connection, kept for the next request.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request,
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_TYPE, HOST, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use prost::bytes::Bytes;
use purlin_core::settings::Webhook;
use tokio::{net::TcpStream, time};
use tokio_util::task::AbortOnDropHandle;

/// For one request, connecting included.
const DEADLINE: Duration = Duration::from_secs(30);
/// An answer that is longer is not read: it says why something was refused.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// What was answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// When to try again, if it said so.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Bytes,
}

/// Why something was not taken.
#[derive(Clone, Debug)]
pub enum Refused {
    /// It may be taken later.
    Now(String, Option<Duration>),
    /// Just this never will be.
    Never(String),
}

impl Answer {
    /// What its status means: 400, 413 and 422 are about what was sent, and anything else
    /// about the receiver, who may be set right.
    fn judged(self) -> Result<Self, Refused> {
        let why = || {
            let said = String::from_utf8_lossy(&self.body);
            let said: String = said.chars().filter(|it| !it.is_control()).take(200).collect();
            format!("it answers {}: {said}", self.status)
        };
        match self.status {
            200..=299 => Ok(self),
            400 | 413 | 422 => Err(Refused::Never(why())),
            401 | 403 => Err(Refused::Now(why() + "; check the token", None)),
            404 | 405 => Err(Refused::Now(why() + "; check the path", None)),
            _ => Err(Refused::Now(why(), self.retry_after)),
        }
    }
}

/// A place that is posted to.
#[derive(Debug)]
pub struct Poster {
    to: Webhook,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl Poster {
    /// Nothing is connected before the first post.
    pub fn new(to: Webhook) -> Self {
        Self { to, connection: None }
    }

    /// Where to.
    pub fn to(&self) -> &Webhook {
        &self.to
    }

    /// Posts once. Where there was no answer it is not known whether it was taken.
    pub async fn put(
        &mut self,
        path: &str,
        headers: &[(&'static str, String)],
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Answer, Refused> {
        let posted = time::timeout(DEADLINE, self.once(path, headers, content_type, body)).await;
        let posted = posted.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")));
        if posted.is_err() {
            self.connection = None;
        }
        posted.map_err(|why| Refused::Now(why, None))?.judged()
    }

    async fn once(
        &mut self,
        path: &str,
        headers: &[(&'static str, String)],
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Answer, String> {
        let text = |error: hyper::Error| error.to_string();
        let authority = self.to.authority();
        // One that the other side closed while nobody looked is opened anew.
        if self.connection.as_mut().is_none_or(|it| it.sender.is_closed()) {
            self.connection = Some(connect(&authority).await?);
        }
        let Some(Connection { sender, .. }) = &mut self.connection else {
            return Err("no connection".into());
        };
        let mut request =
            Request::post(path).header(HOST, authority).header(CONTENT_TYPE, content_type);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        sender.ready().await.map_err(text)?;
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status().as_u16();
        let retry_after = (response.headers().get(RETRY_AFTER))
            .and_then(|it| it.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| format!("its answer {status}: {error}"))?.to_bytes();
        Ok(Answer { status, retry_after, body })
    }
}

async fn connect(authority: &str) -> Result<Connection, String> {
    let stream = TcpStream::connect(authority).await.map_err(|error| error.to_string())?;
    // A request is written at once, and waits for nothing.
    _ = stream.set_nodelay(true);
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(async move {
        _ = connection.await;
    });
    Ok(Connection { sender, _driver: AbortOnDropHandle::new(driver) })
}
