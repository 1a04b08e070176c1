//! The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): who is at the
//! other end of a connection that somebody passed on.

use alloc::{format, vec::Vec};
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str,
};

/// A header in more bytes than this is refused: addresses take 216, the rest is TLVs.
pub const MAX_BYTES: usize = 4096;
/// Longest line of version 1 with its CRLF.
const MAX_LINE: usize = 107;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Not all of it is here yet.
    More,
    /// A header of so many bytes, and source and destination, unless it is the proxy's
    /// own connection, or an unknown one.
    Is(usize, Option<(SocketAddr, SocketAddr)>),
    /// No header, or a damaged one: the connection is refused.
    Not,
}

/// Reads as much of a connection as has come.
pub fn read(bytes: &[u8]) -> Header {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(&SIGNATURE) {
        if bytes.len() < SIGNATURE.len() + 4 { Header::More } else { read_v2(bytes) }
    } else if begins(b"PROXY ") {
        read_v1(bytes)
    } else {
        Header::Not
    }
}

fn read_v1(bytes: &[u8]) -> Header {
    let line = &bytes[..bytes.len().min(MAX_LINE)];
    match line.windows(2).position(|it| it == b"\r\n") {
        Some(end) => match str::from_utf8(&line[..end]).ok().and_then(parse_line) {
            Some(addresses) => Header::Is(end + 2, addresses),
            None => Header::Not,
        },
        None if bytes.len() >= MAX_LINE => Header::Not,
        None => Header::More,
    }
}

fn parse_line(line: &str) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let ip = |word: Option<&str>| match family {
        "TCP4" => word?.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => word?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let (source, destination) = (ip(words.next())?, ip(words.next())?);
    let mut port = || {
        let word = words.next()?;
        let plain = !word.starts_with('+') && (word == "0" || !word.starts_with('0'));
        word.parse::<u16>().ok().filter(|_| plain)
    };
    let ends = (SocketAddr::new(source, port()?), SocketAddr::new(destination, port()?));
    words.next().is_none().then_some(Some(ends))
}

fn read_v2(bytes: &[u8]) -> Header {
    let (command, family) = (bytes[12], bytes[13]);
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let whole = 16 + length;
    if command >> 4 != 2 || command & 15 > 1 || whole > MAX_BYTES {
        return Header::Not;
    }
    if bytes.len() < whole {
        return Header::More;
    }
    let data = &bytes[16..whole];
    // LOCAL, or a family that is not one of IP: the connection's own addresses hold.
    let ends = match (command & 15, family >> 4) {
        (1, 1) => match ends::<4>(data) {
            Some(ends) => Some(ends),
            None => return Header::Not,
        },
        (1, 2) => match ends::<16>(data) {
            Some(ends) => Some(ends),
            None => return Header::Not,
        },
        _ => None,
    };
    Header::Is(whole, ends)
}

fn ends<const N: usize>(data: &[u8]) -> Option<(SocketAddr, SocketAddr)>
where
    IpAddr: From<[u8; N]>,
{
    let ip = |at: usize| Some(IpAddr::from(<[u8; N]>::try_from(data.get(at..at + N)?).ok()?));
    let port = |at: usize| Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?));
    Some((SocketAddr::new(ip(0)?, port(2 * N)?), SocketAddr::new(ip(N)?, port(2 * N + 2)?)))
}

/// The header for a connection from `source` that came in at `destination`.
pub fn write(version: u8, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = same_family(source.ip(), destination.ip());
    let (source_port, destination_port) = (source.port(), destination.port());
    if version == 1 {
        let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
        return format!("PROXY {family} {from} {to} {source_port} {destination_port}\r\n").into();
    }
    let mut header = SIGNATURE.to_vec();
    let mut data = Vec::new();
    for ip in [from, to] {
        match ip {
            IpAddr::V4(ip) => data.extend(ip.octets()),
            IpAddr::V6(ip) => data.extend(ip.octets()),
        }
    }
    data.extend(source_port.to_be_bytes());
    data.extend(destination_port.to_be_bytes());
    header.extend([0x21, if from.is_ipv4() { 0x11 } else { 0x21 }]);
    header.extend((data.len() as u16).to_be_bytes());
    header.extend(data);
    header
}

fn same_family(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    let v6 = |ip| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        v6 => v6,
    };
    match (a.to_canonical(), b.to_canonical()) {
        (a, b) if a.is_ipv4() == b.is_ipv4() => (a, b),
        (a, b) => (v6(a), v6(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(a: &str, b: &str) -> (SocketAddr, SocketAddr) {
        (a.parse().expect("an address"), b.parse().expect("an address"))
    }

    #[test]
    fn what_is_written_reads_back_and_every_part_of_it_wants_more() {
        for (a, b) in [("10.0.0.1:1", "10.0.0.2:80"), ("[fe80::1]:65535", "[::1]:80")] {
            let (a, b) = ends(a, b);
            for version in [1, 2] {
                let header = write(version, a, b);
                assert_eq!(read(&header), Header::Is(header.len(), Some((a, b))));
                for end in 0..header.len() {
                    assert_eq!(
                        read(&header[..end]),
                        Header::More,
                        "{end} bytes of version {version}"
                    );
                }
            }
        }
        let (v4, v6) = ends("10.0.0.1:1", "[::1]:80");
        let mapped = "[::ffff:10.0.0.1]:1".parse().expect("an address");
        assert!(matches!(read(&write(2, v4, v6)), Header::Is(_, Some(it)) if it == (mapped, v6)));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "GET / HTTP/1.1\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 80 \r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 01 80\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 65536\r\n",
            "PROXY TCP4 ::1 10.0.0.2 1 80\r\n",
            "PROXY TCP5 10.0.0.1 10.0.0.2 1 80\r\n",
            "PROXY  TCP4 10.0.0.1 10.0.0.2 1 80\r\n",
        ] {
            assert_eq!(read(text.as_bytes()), Header::Not, "{text}");
        }
        let long = format!("PROXY TCP4 {}", "1".repeat(MAX_LINE));
        assert_eq!(read(long.as_bytes()), Header::Not);
        let (a, b) = ends("10.0.0.1:1", "10.0.0.2:80");
        for (at, byte) in [(12, 0x31), (12, 0x22), (15, 3), (14, 255)] {
            let mut header = write(2, a, b);
            header[at] = byte;
            assert_eq!(read(&header), Header::Not, "byte {at}");
        }
    }

    #[test]
    fn a_proxys_own_connection_names_nobody() {
        assert_eq!(read(b"PROXY UNKNOWN\r\nGET"), Header::Is(15, None));
        let (a, b) = ends("10.0.0.1:1", "10.0.0.2:80");
        let mut local = write(2, a, b);
        local[12] = 0x20;
        assert_eq!(read(&local), Header::Is(local.len(), None));
    }
}
