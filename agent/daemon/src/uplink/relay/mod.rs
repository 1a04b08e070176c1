//! What a node whose uplink is down would have published, handed to a peer of the rack
//! whose uplink is up, and published there under `relay/<origin>/`.
//!
//! To the [uplink](super) a peer is one more way, after all brokers: [`origin`] is a
//! session like any other, whose answers are those of the peer's broker. So order, pace,
//! windows and the cursor are what they are with a broker, the cursor moves only when a
//! broker has it, and the origin goes back to its own broker as soon as that answers.
//! [`peer`] is the other end: it holds nothing, and hands each frame to its own uplink,
//! which sends its own records first.
//!
//! One hop and no more: only what is a node's own goes to a peer, and a peer takes frames
//! only while its own session is one with a broker. So there is no way round in a circle.
//!
//! Both ends know each other by certificates of the rack: each one's must be good for the
//! node id that the other expects ([`tls`]). Words go over any stream: another transport
//! takes the place of [`tls`] alone.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use prost::{Message as _, bytes::Bytes};
use purlin_proto::v1::{RelayWord, relay_word::What};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time,
};
use tokio_util::task::AbortOnDropHandle;

use super::Answer;

pub mod origin;
pub mod peer;
mod tls;

/// A frame and what stands around it: a batch has at most 1 MiB unpacked.
const MAX_WORD_BYTES: usize = (1 << 20) + (4 << 10);
/// A word that can't be written in this time: the other end is gone.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// From the connection to the welcome.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// Frames of other nodes on their way to the broker at once: a live frame of our own
/// waits behind so many more (`purlin_core::pacing`).
pub const MAX_CARRIED: usize = 4;

/// What the agent's own file says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where peers are listened to; `None`: for none is sent on.
    pub listen: Option<SocketAddr>,
    /// Who is asked to send on, in this order.
    pub peers: Vec<Peer>,
    /// PEM file of this node's certificate for the rack.
    pub certificate: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// PEM file of the rack's authorities.
    pub trust_anchors: PathBuf,
}

/// A node of the rack, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its node id, which its certificate must be good for.
    pub node: String,
    /// Its host and port.
    pub address: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {} at {}", self.node, self.address)
    }
}

/// A frame of another node on its way through this one's uplink.
#[derive(Debug)]
pub struct Carry {
    /// Whose it is.
    pub origin: String,
    /// A class, or dict/<hash>.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// Hears the broker's answer; dropped if there will be none.
    pub reply: oneshot::Sender<Answer>,
}

async fn write(out: &mut (impl AsyncWrite + Unpin), what: What) -> Result<(), String> {
    let word = RelayWord { what: Some(what) }.encode_to_vec();
    let all = async {
        out.write_u32(word.len() as u32).await?;
        out.write_all(&word).await?;
        out.flush().await
    };
    match time::timeout(WRITE_DEADLINE, all).await {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(_) => Err(format!("nothing could be written within {WRITE_DEADLINE:?}")),
    }
}

async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<What, String> {
    let length = from.read_u32().await.map_err(|error| error.to_string())? as usize;
    if length > MAX_WORD_BYTES {
        return Err(format!("a word of {length} bytes; at most {MAX_WORD_BYTES}"));
    }
    let mut word = vec![0; length];
    from.read_exact(&mut word).await.map_err(|error| error.to_string())?;
    let word = RelayWord::decode(Bytes::from(word)).map_err(|error| error.to_string())?;
    word.what.ok_or_else(|| "a word that this agent doesn't know".into())
}

/// Words as they come, until the first error, which is the last.
struct Words {
    inbox: mpsc::Receiver<Result<What, String>>,
    _reader: AbortOnDropHandle<()>,
}

impl Words {
    fn of(mut from: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let (sender, inbox) = mpsc::channel(1);
        let reader = tokio::spawn(async move {
            loop {
                let word = read(&mut from).await;
                let ended = word.is_err();
                if sender.send(word).await.is_err() || ended {
                    return;
                }
            }
        });
        Self { inbox, _reader: AbortOnDropHandle::new(reader) }
    }

    /// Cancel safe.
    async fn next(&mut self) -> Result<What, String> {
        self.inbox.recv().await.unwrap_or_else(|| Err("the connection has ended".into()))
    }
}
