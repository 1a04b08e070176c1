//! Whose a TCP connection within this machine is: the control group of the process that
//! made its client's socket, in the kernel's words (sock_diag(7), `INET_DIAG_CGROUP_ID`,
//! Linux 5.9). It needs no privilege, and the kernel answers within the call.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::{errno::Errno, libc};

use crate::netlink::{Netlink, attributes};

/// linux/sock_diag.h, linux/inet_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// `struct inet_diag_msg`; attributes come after it.
const MESSAGE: usize = 72;
/// States in which a socket is a connection's (net/tcp_states.h): not `TCP_TIME_WAIT`, where
/// nobody's is left, and not `TCP_LISTEN`, which is anybody's who asked from that port.
const TIME_WAIT: u8 = 6;
const LISTEN: u8 = 10;

/// Whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The cgroup of this id: the inode of its directory in the unified hierarchy.
    Cgroup(u64),
    /// It is of this machine, and the kernel says no more.
    Unsaid,
    /// Its client has no socket in this network namespace.
    Elsewhere,
}

/// What the kernel is asked by.
pub struct Connections(Netlink);

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connections")
    }
}

impl Connections {
    /// Of this thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_SOCK_DIAG).map(Self)
    }

    /// Whose the connection from `client` to `server` is, as its client has these addresses.
    pub fn whose(&mut self, client: SocketAddr, server: SocketAddr) -> io::Result<Whose> {
        let question = question(client, server);
        let answers = match self.0.ask(SOCK_DIAG_BY_FAMILY, 0, &question) {
            Ok(answers) => answers,
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {
                return Ok(Whose::Elsewhere);
            }
            Err(error) => return Err(error),
        };
        Ok(answers.first().map_or(Whose::Elsewhere, |answer| read([client, server], answer)))
    }
}

/// `struct inet_diag_req_v2`.
fn question(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let (from, to) = (client.ip().to_canonical(), server.ip().to_canonical());
    let family = if from.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut bytes = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend([client.port(), server.port()].map(u16::to_be_bytes).concat());
    for address in [from, to] {
        let mut of = match address {
            IpAddr::V4(it) => it.octets().to_vec(),
            IpAddr::V6(it) => it.octets().to_vec(),
        };
        of.resize(16, 0);
        bytes.extend(of);
    }
    // Addresses that mean something on one interface alone.
    let interface = match client {
        SocketAddr::V6(it) => it.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    bytes.extend(interface.to_ne_bytes());
    // No cookie.
    bytes.extend([0xff; 8]);
    bytes
}

fn read(ends: [SocketAddr; 2], answer: &[u8]) -> Whose {
    let state = answer.get(1).copied().unwrap_or_default();
    // Where there is no such connection the kernel answers with who listens at the client's
    // port: that is somebody else.
    let of = ends.map(|it| (it.ip().to_canonical(), it.port()));
    if ends_of(answer) != Some(of) || matches!(state, TIME_WAIT | LISTEN) {
        return Whose::Elsewhere;
    }
    let attributes = attributes(answer.get(MESSAGE..).unwrap_or_default());
    let cgroup = attributes.get(&INET_DIAG_CGROUP_ID);
    let cgroup =
        cgroup.and_then(|value| Some(u64::from_ne_bytes(value.get(..8)?.try_into().ok()?)));
    cgroup.map_or(Whose::Unsaid, Whose::Cgroup)
}

/// `idiag_sport` to `idiag_dst`. A socket of IPv6 may have addresses of IPv4.
fn ends_of(answer: &[u8]) -> Option<[(IpAddr, u16); 2]> {
    let is_v4 = i32::from(*answer.first()?) == libc::AF_INET;
    let end = |port: usize, address: usize| {
        let port = u16::from_be_bytes(answer.get(port..port + 2)?.try_into().ok()?);
        let octets: [u8; 16] = answer.get(address..address + 16)?.try_into().ok()?;
        let [a, b, c, d, ..] = octets;
        let ip = match is_v4 {
            true => Ipv4Addr::new(a, b, c, d).into(),
            false => Ipv6Addr::from(octets).to_canonical(),
        };
        Some((ip, port))
    };
    Some([end(4, 8)?, end(6, 24)?])
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        time::Instant,
    };

    use super::*;

    fn pair(at: &str) -> ([TcpStream; 2], SocketAddr, SocketAddr) {
        let listener = TcpListener::bind(at).expect("a listener");
        let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("up");
        let (server, from) = listener.accept().expect("it");
        let to = client.peer_addr().expect("one");
        ([client, server], from, to)
    }

    #[test]
    fn a_connection_is_of_the_cgroup_that_made_it() {
        let mut connections = Connections::open().expect("netlink");
        for at in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            // A machine may have no IPv6.
            if TcpListener::bind(at).is_err() {
                continue;
            }
            let (_both, from, to) = pair(at);
            let whose = connections.whose(from, to).expect("an answer");
            // 1 is the root.
            assert!(matches!(whose, Whose::Cgroup(id) if id > 0), "{whose:?}");
            // As a socket that takes both sees it.
            let mapped = |it: SocketAddr| match it.ip() {
                IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), it.port()),
                IpAddr::V6(_) => it,
            };
            assert_eq!(connections.whose(mapped(from), mapped(to)).expect("one"), whose);
        }
    }

    #[test]
    fn who_listens_at_the_port_that_somebody_elsewhere_asks_from_is_not_he() {
        let mut connections = Connections::open().expect("netlink");
        let (_both, from, to) = pair("127.0.0.1:0");
        let listener = TcpListener::bind("0.0.0.0:0").expect("a listener");
        let port = listener.local_addr().expect("its address").port();
        for client in
            [SocketAddr::from(([127, 0, 0, 9], port)), SocketAddr::from(([192, 0, 2, 1], port))]
        {
            assert_eq!(connections.whose(client, to).expect("an answer"), Whose::Elsewhere);
        }
        let nobody = SocketAddr::new(from.ip(), from.port() ^ 1);
        assert_eq!(connections.whose(nobody, to).expect("an answer"), Whose::Elsewhere);
    }

    #[test]
    #[ignore = "a measurement, for docs/decisions/067"]
    fn what_it_costs() {
        let mut connections = Connections::open().expect("netlink");
        let (_both, from, to) = pair("127.0.0.1:0");
        for (what, client) in
            [("found", from), ("elsewhere", SocketAddr::from(([192, 0, 2, 1], 1)))]
        {
            let began = Instant::now();
            for _ in 0..10_000 {
                _ = connections.whose(client, to).expect("an answer");
            }
            println!("{what}: {:?} each", began.elapsed() / 10_000);
        }
    }
}
