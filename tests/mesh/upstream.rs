//! A service of a test's own: HTTP/1.1 by hand, so that it is known to the letter what
//! arrived. It answers with its name and the head it got.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use purlin_tests::Result;

/// Nobody who is still there is silent for this long.
const IDLE: Duration = Duration::from_secs(60);

/// A service on loopback; its threads end with the test's process.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    pub requests: Arc<AtomicU64>,
    /// Answers 503 instead of 200.
    pub is_ill: Arc<AtomicBool>,
}

impl Upstream {
    pub fn start(name: &'static str) -> Result<Self> {
        Self::start_at(name, "127.0.0.1:0")
    }

    /// The same at an address that others reach.
    pub fn start_at(name: &'static str, address: impl ToSocketAddrs) -> Result<Self> {
        Self::start_with(name, address, serve)
    }

    /// Answers nothing; sends every byte back.
    pub fn echo() -> Result<Self> {
        Self::start_with("echo", "127.0.0.1:0", |mut stream, _, _| {
            let mut back = stream.try_clone()?;
            std::io::copy(&mut stream, &mut back).map(drop)
        })
    }

    /// Counts a head and answers it, whatever comes after it, and closes.
    pub fn once() -> Result<Self> {
        Self::start_with("once", "127.0.0.1:0", |mut stream, _, upstream| {
            let mut head = Vec::new();
            let mut some = [0; 4096];
            while !head.windows(4).any(|it| it == b"\r\n\r\n") {
                match stream.read(&mut some)? {
                    0 => return Ok(()),
                    n => head.extend_from_slice(&some[..n]),
                }
            }
            upstream.requests.fetch_add(1, Relaxed);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            // What is still to come is taken, so that the answer is not lost to a reset.
            std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
        })
    }

    /// Served by that.
    pub fn start_with(
        name: &'static str,
        address: impl ToSocketAddrs,
        serve: fn(TcpStream, &str, &Self) -> std::io::Result<()>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        let upstream = Self {
            address: listener.local_addr()?,
            requests: Arc::default(),
            is_ill: Arc::default(),
        };
        let serving = upstream.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                thread::spawn(move || {
                    _ = stream.set_read_timeout(Some(IDLE));
                    // How a connection ends is the other side's affair.
                    _ = serve(stream, name, &serving);
                });
            }
        });
        Ok(upstream)
    }
}

fn serve(stream: TcpStream, name: &str, upstream: &Upstream) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length = head.to_lowercase().split("content-length: ").nth(1).map_or(0, |rest| {
            rest.split("\r\n").next().and_then(|it| it.parse().ok()).unwrap_or(0)
        });
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        if head.to_lowercase().contains("transfer-encoding: chunked") {
            // Nobody here sends an empty line within; it ends the trailers.
            while !body.ends_with(b"\r\n\r\n") {
                if reader.read_until(b'\n', &mut body)? == 0 {
                    return Ok(());
                }
            }
        }
        upstream.requests.fetch_add(1, Relaxed);
        if head.to_lowercase().contains("upgrade: echo") {
            writer.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
            )?;
            return std::io::copy(&mut reader, &mut writer).map(drop);
        }
        if let Some(ms) =
            head.split("/slow/").nth(1).and_then(|it| it.split(' ').next()?.parse().ok())
        {
            thread::sleep(Duration::from_millis(ms));
        }
        let text = format!("{name}\n{head}{}", String::from_utf8_lossy(&body));
        let status =
            if upstream.is_ill.load(Relaxed) { "503 Service Unavailable" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        writer.write_all(answer.as_bytes())?;
    }
}
