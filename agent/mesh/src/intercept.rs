//! Connections that were on their way elsewhere: where to, and on to there if it is no
//! service's.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use purlin_core::mesh::model::Mode;
use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};
use tokio::{net::TcpStream, time};

use crate::{
    accept::Client,
    relay::{self, Passed},
    tunnel::stream::Stream,
    worker::Worker,
};

/// To connect to where it was going: as to an endpoint that says nothing else.
const CONNECT: Duration = Duration::from_secs(2);
/// Without a byte either way.
const IDLE: Duration = Duration::from_secs(3600);

/// Where a connection was going; `None` if it came to the listener itself, which leads
/// nowhere but to itself.
pub fn destination(client: &Client, mode: Mode) -> Option<SocketAddr> {
    let stream = client.stream.socket()?;
    let here = canonical(stream.local_addr().ok()?);
    let to: SocketAddr = match mode {
        // Nothing but its port tells one that was going elsewhere.
        Mode::Tproxy => return (here.port() != client.at.port()).then_some(here),
        // A socket of IPv6 takes IPv4 too, whose destinations are told apart.
        Mode::Redirect if here.is_ipv4() => ip_original_dst(stream).ok()?.into(),
        Mode::Redirect => ipv6_original_dst(stream).ok()?.into(),
    };
    (to != here).then_some(to)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Passes bytes on to where they were going.
pub async fn pass_through(worker: &Rc<Worker>, mut client: Client, to: SocketAddr) {
    let passed = async {
        let stream = time::timeout(CONNECT, TcpStream::connect(to)).await??;
        stream.set_nodelay(true)?;
        relay::relay(worker, &mut client.stream, &mut Stream::Tcp(stream), IDLE, &Passed::new(&[]))
            .await
    };
    if let Err(error) = passed.await {
        tracing::debug!(peer = %client.peer, %to, %error, "a connection broke");
    }
}
