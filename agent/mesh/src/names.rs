//! Names of services for the node's own workloads: `SERVICE.mesh`, over UDP and TCP.
//!
//! A service has the addresses that it declares (`virtual_addresses`), and otherwise those
//! of the egress listeners whose routes lead to it. A listener at 0.0.0.0 or [::] stands for
//! the address that was asked: whoever reached this node there reaches the service there.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    rc::Rc,
    time::Duration,
};

use purlin_core::mesh::{
    dns::{self, MAX_TCP},
    model::{Listener, Transport},
    table::Table,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time,
};

use crate::{
    accept::Client, counters::Counters, tunnel::stream::Stream, udp::socket, worker::Worker,
};

/// For the next query over TCP, and for the answer to be taken (RFC 7766 has seconds).
const IDLE: Duration = Duration::from_secs(10);
/// Queries on one connection: a resolver's whole start.
const MAX_QUERIES: usize = 128;
/// Of a name: two listeners' worth of workloads are fewer.
const MAX_ADDRESSES: usize = 16;

/// Every name, without the zone.
#[derive(Debug, Default)]
pub struct Names(HashMap<String, Vec<IpAddr>>);

impl Names {
    /// Of a table.
    pub fn of(table: &Table) -> Self {
        let mut found: Vec<BTreeSet<IpAddr>> = vec![BTreeSet::new(); table.services.len()];
        let egress: HashMap<&str, &Listener> = (table.listeners.iter())
            // What is taken on its way is not addressed.
            .filter(|it| it.zone.is_none() && it.intercept.is_none())
            .map(|it| (it.name.as_str(), it))
            .collect();
        for route in &table.routes {
            let at = route.listeners.iter().filter_map(|it| egress.get(it.as_str()));
            let at: Vec<_> = at.map(|it| it.address.ip()).collect();
            let backends = route.rules.iter().flat_map(|rule| &rule.backends);
            for backend in backends.filter(|it| it.weight > 0) {
                found[backend.index].extend(&at);
            }
        }
        let mut names = HashMap::new();
        for (service, found) in table.services.iter().zip(found) {
            let declared = &service.virtual_addresses;
            let found: Vec<_> = if declared.is_empty() {
                found.into_iter().take(MAX_ADDRESSES).collect()
            } else {
                declared.clone()
            };
            names.insert(service.name.clone(), found);
            // What a name stands below is there, with nothing of its own (RFC 8020).
            let mut rest = service.name.as_str();
            while let Some((_, above)) = rest.split_once('.') {
                names.entry(above.to_owned()).or_insert_with(Vec::new);
                rest = above;
            }
        }
        Self(names)
    }

    /// Addresses of a name, as whoever asks at an address of this node reaches it.
    fn look_up(&self, name: &str, local: IpAddr) -> Option<Vec<IpAddr>> {
        let local = local.to_canonical();
        let meant = |it: &IpAddr| match it {
            // A socket of IPv6 at [::] takes IPv4 too.
            IpAddr::V4(it) if it.is_unspecified() => Some(local).filter(IpAddr::is_ipv4),
            IpAddr::V6(it) if it.is_unspecified() => Some(local),
            it => Some(*it),
        };
        Some(self.0.get(name)?.iter().filter_map(meant).collect())
    }
}

fn answer(worker: &Worker, query: &[u8], local: IpAddr, over: Transport) -> Option<Vec<u8>> {
    let live = worker.live();
    let (outcome, answer) = dns::answer(query, over, |name| live.names.look_up(name, local))?;
    Counters::one(&worker.counters.names[outcome as usize]);
    Some(answer)
}

/// Answers a query that came in a datagram.
pub fn datagram(
    worker: &Worker,
    socket: &socket::Socket,
    received: &socket::Received,
    query: &[u8],
) {
    if let Some(answer) = answer(worker, query, received.local, Transport::Datagram) {
        // Whoever doesn't get it asks again.
        _ = socket.send(&answer, received.peer, received.local);
    }
}

/// Answers what is asked on a connection (RFC 7766), until it ends.
pub async fn serve(worker: Rc<Worker>, client: Client) {
    let Client { mut stream, open, .. } = client;
    let Some(local) = stream.socket().and_then(|it| it.local_addr().ok()) else { return };
    for _ in 0..MAX_QUERIES {
        match time::timeout(IDLE, one(&worker, &mut stream, local.ip())).await {
            Ok(Ok(true)) => {}
            _ => break,
        }
    }
    drop(open);
}

/// Whether there was one that could be answered.
async fn one(worker: &Worker, stream: &mut Stream, local: IpAddr) -> io::Result<bool> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_TCP {
        return Ok(false);
    }
    let mut query = vec![0; length];
    stream.read_exact(&mut query).await?;
    let Some(answer) = answer(worker, &query, local, Transport::Stream) else { return Ok(false) };
    let length = (answer.len() as u16).to_be_bytes();
    stream.write_all(&[&length[..], &answer].concat()).await?;
    Ok(true)
}
