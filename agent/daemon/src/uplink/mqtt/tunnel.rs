//! To a broker through another node of the rack: the mesh is asked for the way, by CONNECT
//! on its own socket, and TLS and MQTT go through it as through a socket.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time,
};

/// The mesh tries one node after the other, and gives up before.
const DEADLINE: Duration = Duration::from_secs(10);
/// Of an answer's head and of why there is no way, in bytes.
const MAX_ANSWER: usize = 8 << 10;

/// The way to a broker.
pub async fn open(mesh: &Path, to: &str) -> io::Result<UnixStream> {
    let opened = time::timeout(DEADLINE, connect(mesh, to)).await;
    opened.unwrap_or_else(|_| Err(io::Error::other("the mesh does not answer in time")))
}

async fn connect(mesh: &Path, to: &str) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(mesh).await?;
    let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // Nothing after the head may be read: the broker's bytes are whoever's gets the way.
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
        if head.len() > MAX_ANSWER {
            return Err(io::Error::other("the mesh answers no HTTP"));
        }
    }
    if head.starts_with(b"HTTP/1.1 200") {
        return Ok(stream);
    }
    let mut why = vec![0; MAX_ANSWER];
    let length = stream.read(&mut why).await?;
    let told = serde_json::from_slice::<purlin_proto::api::Error>(&why[..length]);
    Err(io::Error::other(told.map_or_else(|error| error.to_string(), |it| it.error)))
}
