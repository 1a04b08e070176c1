//! The way of this node's agent to its broker, where it has none of its own: through the
//! tunnel of another node that has, to that node's own broker. What goes there is TLS between
//! agent and broker; the other node passes bytes on.
//!
//! Asked for by CONNECT on the mesh's own socket ([`serve`]); the other end is
//! [`tunnel::server`](crate::tunnel).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::{Request, body::Incoming, upgrade};
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional, time};

use crate::{
    control::Control,
    tunnel::{client, stream::Stream},
};

/// For one node to be reached, and to reach its broker. An agent gives an attempt 10 s.
const EACH: Duration = Duration::from_secs(3);
const ALL: Duration = Duration::from_secs(9);
/// Agents whose bytes are passed on at once: a rack's, each with a link test beside it.
const MAX_RELAYED: u32 = 64;

/// How many agents' bytes this node passes on.
#[derive(Debug, Default)]
pub struct Relays(AtomicU32);

/// One of them; over when it is dropped.
#[derive(Debug)]
pub struct Relay(Arc<Relays>);

impl Relays {
    /// One more, unless there are enough.
    pub fn begin(self: &Arc<Self>) -> Option<Relay> {
        let before = self.0.fetch_add(1, Relaxed);
        let relay = Relay(self.clone());
        // Dropped, it takes itself off again.
        (before < MAX_RELAYED).then_some(relay)
    }

    /// Under way now.
    pub fn count(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// Opens a way to a broker, and passes bytes once who asked is told; or why there is none.
pub async fn serve(control: &Control, request: Request<Incoming>) -> Result<(), String> {
    let to = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let opened = time::timeout(ALL, open(control, &to)).await;
    let (node, mut stream) = opened.map_err(|_| format!("no answer within {ALL:?}")).flatten()?;
    tracing::info!(node, to, "the agent's link goes through another node");
    tokio::spawn(async move {
        if let Ok(agent) = upgrade::on(request).await {
            // However it ends, the agent connects anew.
            _ = copy_bidirectional(&mut TokioIo::new(agent), &mut stream).await;
        }
    });
    Ok(())
}

/// Through the first node that passes on, those that are there first.
async fn open(control: &Control, to: &str) -> Result<(String, Stream), String> {
    let (identity, peers) = {
        let owner = control.owner();
        (owner.keeper.identity().cloned(), owner.live().members.known(owner.live()))
    };
    let identity = identity.ok_or("this node has no certificate of its rack")?;
    let mut last = "mesh.peers names no other node".to_owned();
    for (node, address) in peers.into_iter().filter(|(node, _)| *node != identity.node) {
        let tried = client::uplink(identity.clone(), &node, address, to);
        match time::timeout(EACH, tried).await {
            Ok(Ok(stream)) => return Ok((node, stream)),
            Ok(Err(error)) => last = format!("{node}: {error}"),
            Err(_) => last = format!("{node}: no answer within {EACH:?}"),
        }
    }
    Err(format!("no node of the rack passes on to {to}: {last}"))
}
