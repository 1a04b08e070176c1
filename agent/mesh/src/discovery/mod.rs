//! Who of the rack is there: membership by gossip, over UDP at the address of the tunnel.
//! It runs in the mesh, so that a dead agent takes no endpoint away.
//!
//! What it says only lowers a priority: endpoints on a node that is down are asked when no
//! other is left, and it is a connect that fails which decides. With it come where a node's
//! tunnel is, what its clock shows, the number of its list of revocations, so that the
//! newest list goes round by itself, one over the service records that it knows, and what is
//! raised on it, for the others' agents.
//!
//! Who is greeted at the start are the peers that the table names and those that were there
//! last (`members`, a line each).

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper::Method;
use purlin_core::mesh::{model::Protocol, table::Key};
use tokio::{net::UdpSocket, task::AbortHandle, time};

use self::{
    gossip::{Change, Gossip, MAX_DATAGRAM, Member, Outcome},
    seal::{Beside, Keys},
};
use crate::{control::Control, keep, owner::Owner, records::fetch::Fetch, tunnel, udp};

pub mod alarms;
pub mod gossip;
pub mod members;
pub mod seal;
#[cfg(test)]
mod simulation;

/// Between two looks at whether it is to be done otherwise.
const LOOK: Duration = Duration::from_secs(1);
/// Between two requests for a list of revocations.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// The start's number, and who was there last.
const START: &str = "start";
const MEMBERS: &str = "members";
/// Lines that are read of it.
const MAX_MEMBERS: usize = 512;

/// How it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setup {
    keys: Keys,
    node: String,
    listen: SocketAddr,
    address: SocketAddr,
    peers: Vec<(String, SocketAddr)>,
}

impl Setup {
    /// As the table and the certificate say; `None`: not at all.
    fn of(owner: &Owner) -> Option<Self> {
        let table = &owner.live().table;
        let node = owner.keeper.identity()?.node.clone();
        let tunnel = table.listeners.iter().find(|it| it.protocol == Protocol::Tunnel)?.address;
        let peers: Vec<_> = table.peers.iter().map(|it| (it.node.clone(), it.address)).collect();
        let own = peers.iter().find(|(it, _)| *it == node).map(|(_, address)| *address);
        let plain = |key: &Key| match key {
            Key::Plain(key) => Some(*key),
            // The agent hands none over that it has not looked up.
            Key::Secret(_) => None,
        };
        let keys: Vec<_> = table.discovery_keys.iter().filter_map(plain).collect();
        let is_wanted = !keys.is_empty() && !owner.is_draining;
        is_wanted.then(|| Self {
            keys,
            node,
            listen: tunnel,
            address: own.unwrap_or(tunnel),
            peers,
        })
    }
}

/// Takes part in it as long as the table says so, for ever.
pub async fn run(control: &Arc<Control>, dir: &Path) {
    loop {
        let setup = Setup::of(&control.owner());
        if let Some(setup) = setup
            && let Err(error) = take_part(control, dir, &setup).await
        {
            tracing::warn!(%error, "no gossip for now");
        }
        time::sleep(LOOK).await;
    }
}

async fn take_part(control: &Arc<Control>, dir: &Path, setup: &Setup) -> io::Result<()> {
    // Another mesh that takes over has its own there before this one is closed.
    let socket = UdpSocket::from_std(udp::socket::bind(setup.listen)?)?;
    let start = start(dir)?;
    let me = Member { node: setup.node.clone(), address: setup.address, life: start << 16 };
    let Some(mut gossip) = Gossip::new(me, &setup.keys, start, start) else { return Ok(()) };
    gossip.greet(last(dir).into_iter().chain(setup.peers.iter().cloned()));
    let mut part = Part {
        control,
        dir: dir.to_owned(),
        began: time::Instant::now(),
        asking: None,
        fetch: Fetch::default(),
    };
    let mut looks = time::interval(LOOK);
    let mut datagram = [0; MAX_DATAGRAM + 1];
    loop {
        let due = part.began + Duration::from_millis(gossip.next_at());
        // Each arm keeps its state outside.
        let outcome = tokio::select! {
            received = socket.recv_from(&mut datagram) => match received {
                Ok((bytes, from)) => part.receive(&mut gossip, &datagram[..bytes], from),
                // An answer of ICMP to what was sent to a node that is away.
                Err(_) => continue,
            },
            () = time::sleep_until(due) => gossip.tick(part.now_ms(), &part.beside()),
            _ = looks.tick() => match Setup::of(&control.owner()).as_ref() == Some(setup) {
                true => continue,
                false => {
                    control.owner().live().members.forget();
                    return Ok(());
                }
            },
        };
        part.changed(&outcome.changes);
        for (to, bytes) in outcome.send {
            // One that is lost is asked for again.
            _ = socket.try_send_to(&bytes, to);
        }
    }
}

struct Part<'c> {
    control: &'c Arc<Control>,
    dir: PathBuf,
    began: time::Instant,
    /// Asks for a list of revocations.
    asking: Option<(AbortHandle, time::Instant)>,
    /// Asks for records.
    fetch: Fetch,
}

impl Part<'_> {
    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn beside(&self) -> Beside {
        let owner = self.control.owner();
        let identity = owner.keeper.identity();
        Beside {
            sender: identity.map(|it| it.node.clone()).unwrap_or_default(),
            clock: owner.keeper.clock().shown(),
            revocations: identity.map(|it| it.verifier.revocations().number).unwrap_or_default(),
            records: owner.live().records.digest(),
            alarms: owner.live().members.own_alarms(),
        }
    }

    fn receive(&mut self, gossip: &mut Gossip, bytes: &[u8], from: SocketAddr) -> Outcome {
        let ours = self.beside();
        let received = gossip.receive(bytes, self.now_ms(), &ours);
        let owner = self.control.owner();
        let members = owner.live().members.clone();
        let (theirs, outcome) = match received {
            Ok(received) => received,
            Err(why) => {
                members.refused(why);
                tracing::debug!(%from, %why, "a datagram was refused");
                return Outcome::default();
            }
        };
        owner.keeper.clock().peers_agree(members.heard(&theirs, ours.clock));
        drop(owner);
        if theirs.records != ours.records {
            self.fetch.heard(self.control, theirs.sender.clone(), theirs.records);
        }
        if theirs.revocations > ours.revocations {
            self.ask_for_list(theirs.sender);
        }
        outcome
    }

    fn changed(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let owner = self.control.owner();
        let live = owner.live();
        for change in changes {
            match change {
                Change::Up(it) => {
                    tracing::info!(node = it.node, address = %it.address, "a node is there");
                    live.members.note(it, true);
                }
                Change::Down(it) => {
                    tracing::warn!(node = it.node, "a node is down: its endpoints are asked last");
                    live.members.note(it, false);
                }
            }
        }
        live.members.apply(live);
        let lines = live.members.addresses().into_iter();
        let lines: String = lines.map(|(node, address)| format!("{node} {address}\n")).collect();
        if let Err(error) = keep::replace(&self.dir.join(MEMBERS), 0o600, lines.as_bytes()) {
            tracing::warn!(%error, "who is there can't be kept");
        }
    }

    /// The newer list of a node goes in place of ours.
    fn ask_for_list(&mut self, node: String) {
        if self.asking.as_ref().is_some_and(|(_, since)| since.elapsed() < ASK_AGAIN) {
            return;
        }
        let control = self.control.clone();
        let asked = tokio::spawn(async move {
            let (identity, address) = {
                let owner = control.owner();
                (owner.keeper.identity().cloned(), owner.live().peer(&node))
            };
            let (Some(identity), Some(address)) = (identity, address) else { return };
            let what = (Method::GET, "/v1/revocations");
            let asked = tunnel::client::ask(identity, &node, address, what, Vec::new()).await;
            let mut owner = control.owner();
            let taken = asked.map_err(|it| it.to_string()).and_then(|it| owner.keeper.revoke(&it));
            match taken {
                Ok(()) => owner.look_who(),
                Err(why) => tracing::warn!(node, why, "its list of revocations is not taken"),
            }
        });
        self.asking = Some((asked.abort_handle(), time::Instant::now()));
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if let Some((asking, _)) = &self.asking {
            asking.abort();
        }
    }
}

/// Grows with each start. Whoever lost the file goes on from the time.
fn start(dir: &Path) -> io::Result<u64> {
    let path = dir.join(START);
    let before = fs::read_to_string(&path).ok().and_then(|it| it.trim().parse::<u64>().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let start = before.map_or(now, |before| (before + 1).max(now));
    keep::replace(&path, 0o600, format!("{start}\n").as_bytes())?;
    Ok(start)
}

/// Who was there last.
fn last(dir: &Path) -> Vec<(String, SocketAddr)> {
    let text = fs::read_to_string(dir.join(MEMBERS)).unwrap_or_default();
    let lines = text.lines().take(MAX_MEMBERS).filter_map(|line| line.split_once(' '));
    lines.filter_map(|(node, at)| Some((node.to_owned(), at.parse().ok()?))).collect()
}
