//! Requests by hand, and a client that never stops.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use purlin_tests::Result;

/// For one answer, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(15);
/// Requests on one connection of the client that never stops.
const REQUESTS_A_CONNECTION: usize = 20;

/// A connection that speaks HTTP/1.1.
#[derive(Debug)]
pub struct Connection(pub TcpStream);

impl Connection {
    pub fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Status, head and body of the answer to a request as it stands.
    pub fn send(&mut self, request: &str) -> std::io::Result<Answer> {
        self.0.write_all(request.as_bytes())?;
        self.answer()
    }

    pub fn get(&mut self, host: &str, path: &str) -> std::io::Result<Answer> {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    pub fn answer(&mut self) -> std::io::Result<Answer> {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte)?;
            bytes.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&bytes).into_owned();
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or_default();
        let length = head.to_lowercase().split("content-length: ").nth(1).map_or(0, |rest| {
            rest.split("\r\n").next().and_then(|it| it.parse().ok()).unwrap_or(0)
        });
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Name of the service that answered.
    pub fn by(&self) -> &str {
        self.body.lines().next().unwrap_or_default()
    }
}

/// One request on a connection of its own.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Result<Answer> {
    Ok(Connection::open(address)?.get(host, path)?)
}

/// A client that asks one after another until it is stopped, over connections old and
/// new, and takes note of everything that goes wrong.
#[derive(Debug)]
pub struct Restless {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Vec<String>)>,
}

impl Restless {
    pub fn start(address: SocketAddr, host: &'static str, by: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = thread::spawn(move || {
            let (mut done, mut wrong) = (0, Vec::new());
            while !seen.load(Relaxed) {
                match some(address, host, by, &seen) {
                    Ok(count) => done += count,
                    Err(error) => wrong.push(error),
                }
            }
            (done, wrong)
        });
        Self { stop, thread }
    }

    /// How many were answered, and all that went wrong.
    pub fn stop(self) -> Result<(usize, Vec<String>)> {
        self.stop.store(true, Relaxed);
        self.thread.join().map_err(|_| "the client panicked".into())
    }
}

/// Some requests on one connection. An answer that says so is its last.
fn some(
    address: SocketAddr,
    host: &str,
    by: &str,
    stop: &AtomicBool,
) -> std::result::Result<usize, String> {
    let mut connection =
        Connection::open(address).map_err(|error| format!("not connected: {error}"))?;
    for n in 1..=REQUESTS_A_CONNECTION {
        let answer = connection.get(host, "/").map_err(|error| format!("request {n}: {error}"))?;
        if (answer.status, answer.by()) != (200, by) {
            return Err(format!("{} by {}", answer.status, answer.by()));
        }
        if answer.head.to_lowercase().contains("connection: close") || stop.load(Relaxed) {
            return Ok(n);
        }
    }
    Ok(REQUESTS_A_CONNECTION)
}

/// Sends everything and ends, and reads meanwhile all that comes back.
pub fn there_and_back(mut stream: TcpStream, sent: &[u8]) -> Result<Vec<u8>> {
    let (mut writer, to_send) = (stream.try_clone()?, sent.to_vec());
    let writing = thread::spawn(move || {
        writer.write_all(&to_send)?;
        writer.shutdown(std::net::Shutdown::Write)
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    writing.join().map_err(|_| "the writer panicked")??;
    Ok(back)
}
