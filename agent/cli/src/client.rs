//! The technician's end of the local API: one request, one answer, one deadline.
//!
//! A connection lives for one request, so that an agent which restarts between two
//! of them is not noticed. What an answer means is the commands' business. Nothing
//! here writes to standard output, and nothing here changes anything on disk.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use purlin_daemon::boot::{self, Boot, SYSTEM_FILE};
use purlin_proto::api;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, time::timeout};

use crate::{
    args::Global,
    exit::{Failure, Found, Unreachable},
    output::note,
};

/// For one request, from connecting to the last byte: the agent answers from memory,
/// so that more than this means that it hangs.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// For a link test: the agent resolves a name, connects and does a TLS handshake, with
/// deadlines of its own.
pub const LINK_TEST_DEADLINE: Duration = Duration::from_secs(30);

/// The longest answer taken, in bytes. The log is the longest that there is, by far
/// under this.
const MAX_ANSWER: usize = 16 << 20;

/// One agent, or one mesh.
#[derive(Debug)]
pub struct Client {
    who: &'static Who,
    socket: PathBuf,
    /// Absent when only the socket was told: whose state it is, nobody knows then.
    boot: Option<Boot>,
}

/// Which process is asked, and how it is looked after.
#[derive(Debug)]
struct Who {
    name: &'static str,
    unit: &'static str,
    start: &'static str,
}

const AGENT: Who = Who { name: "agent", unit: "purlind", start: "start it with: purlin agent" };
const MESH: Who = Who {
    name: "mesh",
    unit: "purlin-mesh",
    start: "start it with: purlin mesh; a standalone agent does once its document has a mesh",
};

/// A document, and what there is to say about where it came from.
#[derive(Debug)]
pub struct Answer<T> {
    /// The document.
    pub document: T,
    /// For standard error.
    pub note: Option<String>,
}

/// The body of a request.
#[derive(Debug, Default)]
pub struct Body {
    /// Its media type, if it has a body.
    pub content_type: Option<&'static str>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Client {
    /// The agent at the socket that was told, or else the one that starts from the file
    /// that was told (or from the usual place) and the environment.
    pub fn find(global: &Global) -> Result<Self, Failure> {
        if let Some(socket) = &global.socket {
            return Ok(Self { who: &AGENT, socket: socket.clone(), boot: None });
        }
        let boot = Boot::load(global.config.as_deref()).map_err(invalid_file)?;
        Ok(Self { who: &AGENT, socket: boot.socket.clone(), boot: Some(boot) })
    }

    /// The mesh beside that agent.
    pub fn find_mesh(global: &Global) -> Result<Self, Failure> {
        let agent = Self::find(global)?;
        Ok(Self { who: &MESH, socket: boot::mesh_socket(&agent.socket), boot: None })
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the agent starts from; `None` when only its socket was told.
    pub fn boot(&self) -> Option<&Boot> {
        self.boot.as_ref()
    }

    /// `GET`s a document.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Failure> {
        let bytes = self.send(Method::GET, path, Body::default(), DEADLINE).await?;
        Ok(Answer { document: decode(path, &bytes)?, note: None })
    }

    /// `GET`s bytes; none if there is nothing.
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes, Failure> {
        self.send(Method::GET, path, Body::default(), DEADLINE).await
    }

    /// `GET`s a document, or reads it from the state directory if nobody answers.
    pub async fn get_or_read<T: DeserializeOwned>(
        &self,
        path: &str,
        read: impl FnOnce(&Boot) -> Result<T, String>,
    ) -> Result<Answer<T>, Failure> {
        match (self.get(path).await, &self.boot) {
            (Err(Failure::Unreachable(unreachable)), Some(boot)) => {
                read_instead(unreachable, boot, read)
            }
            (answer, _) => answer,
        }
    }

    /// `POST`s a body and takes a document.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Body,
        deadline: Duration,
    ) -> Result<T, Failure> {
        decode(path, &self.send(Method::POST, path, body, deadline).await?)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
        deadline: Duration,
    ) -> Result<Bytes, Failure> {
        let request = request(method, path, body)?;
        match timeout(deadline, self.exchange(request)).await {
            Ok(answer) => answer.and_then(|(status, bytes)| judge(status, bytes)),
            Err(_) => Err(self.unreachable(Found::Silence(deadline))),
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.not_connected(error))?;
        let hung_up = |error: hyper::Error| self.unreachable(Found::HungUp(error.to_string()));
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(hung_up)?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(hung_up)?;
        let status = answer.status();
        Ok((status, self.read(answer.into_body()).await?))
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, Failure> {
        match Limited::new(body, MAX_ANSWER).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(Failure::Failed(format!("the agent's answer is over {MAX_ANSWER} bytes")))
            }
            Err(error) => Err(self.unreachable(Found::HungUp(error.to_string()))),
        }
    }

    fn not_connected(&self, error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::PermissionDenied => self.not_permitted(),
            io::ErrorKind::NotFound => self.unreachable(Found::Nothing),
            io::ErrorKind::ConnectionRefused => self.unreachable(Found::Remains),
            _ => self.unreachable(Found::Error(error)),
        }
    }

    fn not_permitted(&self) -> Failure {
        Failure::NotPermitted(format!(
            "this user may not use {}: try it with sudo, or join the group that owns it",
            self.socket.display()
        ))
    }

    fn unreachable(&self, found: Found) -> Failure {
        let next = next(self.who, &found, Path::new(SYSTEM_FILE).exists());
        let (who, socket) = (self.who.name, self.socket.clone());
        Failure::Unreachable(Unreachable { who, socket, found, next })
    }
}

/// What to do about one that can't be reached.
fn next(who: &Who, found: &Found, system: bool) -> String {
    match (found.may_have_heard(), system) {
        (false, true) => format!("systemctl status {}", who.unit),
        (false, false) => who.start.into(),
        (true, true) => format!("journalctl -u {}", who.unit),
        (true, false) => format!("see what the {} prints; if it hangs, start it again", who.name),
    }
}

fn invalid_file(refusals: Vec<api::Refusal>) -> Failure {
    let error = "the agent's own configuration is refused".into();
    Failure::Refused(api::Error { error, refusals })
}

fn request(method: Method, path: &str, body: Body) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::builder().method(method).uri(path).header(HOST, "purlin");
    if let Some(content_type) = body.content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    request
        .body(Full::new(body.bytes.into()))
        .map_err(|error| Failure::Failed(format!("{path} can't be asked for: {error}")))
}

/// Takes the body of a success, or makes a failure of what else came.
fn judge(status: StatusCode, body: Bytes) -> Result<Bytes, Failure> {
    if status.is_success() {
        return Ok(body);
    }
    let error = serde_json::from_slice(&body).unwrap_or_else(|_| api::Error {
        error: format!("the agent answered {status}"),
        refusals: Vec::new(),
    });
    Err(match status {
        StatusCode::FORBIDDEN => Failure::NotPermitted(error.error),
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::CONFLICT
        | StatusCode::UNPROCESSABLE_ENTITY => Failure::Refused(error),
        _ => Failure::Failed(error.error),
    })
}

fn decode<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::Failed(format!(
            "the agent's answer to {path} is not understood ({error}): \
             compare `purlin --version` with the agent's"
        ))
    })
}

fn read_instead<T>(
    unreachable: Unreachable,
    boot: &Boot,
    read: impl FnOnce(&Boot) -> Result<T, String>,
) -> Result<Answer<T>, Failure> {
    let place = boot.state_dir.display();
    match read(boot) {
        Ok(document) => Ok(Answer { document, note: Some(on_disk(&unreachable, &place)) }),
        Err(error) => {
            note(&format!("{place} can't be read either: {error}"));
            Err(Failure::Unreachable(unreachable))
        }
    }
}

fn on_disk(unreachable: &Unreachable, place: &impl fmt::Display) -> String {
    format!(
        "the agent can't be reached ({}); this is what is on disk in {place}",
        unreachable.found
    )
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;
    use crate::exit::Exit;

    /// Asks a server that answers with these bytes, whatever it is asked.
    async fn ask(answer: &'static str) -> Result<Answer<api::Queue>, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let answer = Client { who: &AGENT, socket, boot: None }.get("/v1/queue").await;
        server.await.unwrap();
        answer
    }

    fn found(failure: &Failure) -> String {
        match failure {
            Failure::Unreachable(it) => it.found.to_string(),
            other => other.to_string(),
        }
    }

    #[tokio::test]
    async fn a_document_is_read() {
        let answer = ask(concat!(
            "HTTP/1.1 200 OK\r\ncontent-length: 47\r\n\r\n",
            r#"{"incarnation": "a1", "classes": [], "new": {}}"#
        ));
        assert_eq!(answer.await.unwrap().document.incarnation, "a1");
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_no_answer() {
        for answer in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\ncontent-length: 48\r\n\r\n{"] {
            let failure = ask(answer).await.unwrap_err();
            assert!(found(&failure).starts_with("no whole answer"), "{answer}: {failure}");
        }
    }

    #[tokio::test]
    async fn what_is_not_http_is_no_agent() {
        assert_eq!(ask("220 mail ready\r\n").await.unwrap_err().exit(), Exit::Unreachable);
    }

    #[tokio::test]
    async fn a_document_of_another_shape_fails_and_names_the_version() {
        let failure = ask("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Failed);
        assert!(failure.to_string().contains("purlin --version"), "{failure}");
    }

    #[tokio::test]
    async fn no_socket_and_a_dead_one_are_unreachable() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let client = Client { who: &AGENT, socket: socket.clone(), boot: None };
        let nothing = client.get::<api::Queue>("/v1/queue").await.unwrap_err();
        assert!(found(&nothing).starts_with("no socket"), "{nothing}");
        drop(UnixListener::bind(&socket).unwrap());
        let remains = client.get::<api::Queue>("/v1/queue").await.unwrap_err();
        assert!(found(&remains).contains("nobody listens"), "{remains}");
    }

    #[tokio::test]
    async fn an_agent_that_hangs_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let client = Client { who: &AGENT, socket, boot: None };
        let limit = Duration::from_millis(50);
        let started = Instant::now();
        let asked = client.post::<api::LinkTest>("/v1/link/test", Body::default(), limit).await;
        let failure = asked.unwrap_err();
        assert!(found(&failure).starts_with("no answer within"), "{failure}");
        assert!(started.elapsed() < DEADLINE);
    }

    #[test]
    fn each_status_has_its_exit() {
        let exit = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            judge(status, Bytes::from_static(b"oops")).map_or_else(|it| it.exit(), |_| Exit::Ok)
        };
        assert_eq!(exit(200), Exit::Ok);
        assert_eq!(exit(403), Exit::NotPermitted);
        for refused in [400, 413, 415, 422] {
            assert_eq!(exit(refused), Exit::Refused);
        }
        for failed in [404, 500, 503] {
            assert_eq!(exit(failed), Exit::Failed);
        }
    }

    #[test]
    fn the_next_step_fits_the_mode() {
        assert_eq!(next(&AGENT, &Found::Nothing, true), "systemctl status purlind");
        assert_eq!(next(&AGENT, &Found::Nothing, false), "start it with: purlin agent");
        assert_eq!(next(&AGENT, &Found::Silence(DEADLINE), true), "journalctl -u purlind");
    }
}
