//! A UDP socket that tells which of the node's addresses a datagram was sent to, and that
//! answers from just that one: a client takes no answer from another.

use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket as StdSocket},
    os::fd::AsRawFd,
};

use nix::{
    libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
        setsockopt, sockopt,
    },
};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, socket_with, sockopt::set_socket_reuseport,
};
use tokio::{io::Interest, net::UdpSocket};

/// The longest datagram (RFC 768: a length of 16 bits).
pub const MAX_DATAGRAM: usize = 65_535;

/// A socket of a listener.
#[derive(Debug)]
pub struct Socket {
    inner: UdpSocket,
    control: RefCell<Vec<u8>>,
}

/// A datagram that came; its bytes are in the buffer.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// How many.
    pub bytes: usize,
    /// Who sent it.
    pub peer: SocketAddr,
    /// To which address of this node.
    pub local: IpAddr,
}

/// A socket at an address, beside others of this process and the one before. Also of
/// gossip: nothing else may have the address.
pub fn bind(at: SocketAddr) -> io::Result<StdSocket> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &at)?;
    Ok(socket.into())
}

impl Socket {
    /// Takes over one that is bound.
    pub fn new(socket: StdSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        match socket.local_addr()? {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
        // Either: through a socket of IPv6 come datagrams of IPv4 too.
        let control = nix::cmsg_space!(in6_pktinfo, in_pktinfo);
        Ok(Self { inner: UdpSocket::from_std(socket)?, control: RefCell::new(control) })
    }

    /// Waits for a datagram.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.inner.async_io(Interest::READABLE, || self.try_receive(buffer)).await
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut control = self.control.borrow_mut();
        let mut into = [IoSliceMut::new(buffer)];
        let fd = self.inner.as_raw_fd();
        let message =
            recvmsg::<SockaddrStorage>(fd, &mut into, Some(&mut *control), MsgFlags::MSG_DONTWAIT)?;
        let local = message.cmsgs()?.find_map(|it| match it {
            ControlMessageOwned::Ipv4PacketInfo(it) => {
                Some(IpAddr::from(it.ipi_spec_dst.s_addr.to_ne_bytes()))
            }
            ControlMessageOwned::Ipv6PacketInfo(it) => Some(IpAddr::from(it.ipi6_addr.s6_addr)),
            _ => None,
        });
        let peer = message.address.as_ref().and_then(address);
        match (peer, local) {
            (Some(peer), Some(local)) => Ok(Received { bytes: message.bytes, peer, local }),
            _ => Err(io::Error::other("the kernel doesn't tell who sent a datagram")),
        }
    }

    /// Sends from an address of this node; what the kernel has no room for now is lost.
    pub fn send(&self, bytes: &[u8], to: SocketAddr, from: IpAddr) -> io::Result<()> {
        let send = |info: ControlMessage<'_>| {
            let to = SockaddrStorage::from(to);
            let fd = self.inner.as_raw_fd();
            sendmsg(fd, &[IoSlice::new(bytes)], &[info], MsgFlags::MSG_DONTWAIT, Some(&to))
        };
        match from {
            IpAddr::V4(from) => send(ControlMessage::Ipv4PacketInfo(&in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
                ipi_addr: in_addr { s_addr: 0 },
            })),
            IpAddr::V6(from) => send(ControlMessage::Ipv6PacketInfo(&in6_pktinfo {
                ipi6_ifindex: 0,
                ipi6_addr: in6_addr { s6_addr: from.octets() },
            })),
        }?;
        Ok(())
    }
}

fn address(it: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = it.as_sockaddr_in().map(|it| SocketAddr::V4((*it).into()));
    v4.or_else(|| it.as_sockaddr_in6().map(|it| SocketAddr::V6((*it).into())))
}
