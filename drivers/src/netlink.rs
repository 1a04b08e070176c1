//! Netlink messages, as bytes (RFC 3549; Documentation/userspace-api/netlink).
//!
//! Owns one socket: a request goes out, its answers come back, and each receive
//! ends after [`TIMEOUT`]. Knows attributes, not what they mean. Everything it
//! sends asks; nothing it sends changes a setting.

use std::{collections::BTreeMap, io};

use netlink_sys::{Socket, SocketAddr};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::{TimeVal, TimeValLike},
    },
};

/// How long one receive may wait, in seconds: an answer comes from the kernel
/// or a driver's registers, and the whole part has 5 s.
const TIMEOUT: i64 = 1;

/// The most messages that answer one request: 4096 interfaces and some to spare.
const MAX_MESSAGES: usize = 8192;

const HEADER: usize = 16;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// Nested attributes carry this bit, big-endian ones the next.
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// `NLM_F_DUMP`: everything, instead of one thing.
pub(crate) const DUMP: u16 = 0x300;

pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(TIMEOUT))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The payloads of the messages that answer `payload`.
    pub(crate) fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        self.socket.send(&message(kind, REQUEST | ACK | flags, self.sequence, payload), 0)?;
        let mut answers = Vec::new();
        for _ in 0..MAX_MESSAGES {
            let (bytes, _) = self.socket.recv_from_full()?;
            if take(&bytes, self.sequence, &mut answers)? {
                return Ok(answers);
            }
        }
        Err(io::Error::other(format!("more than the limit of {MAX_MESSAGES} messages")))
    }
}

fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// Takes the messages out of one datagram; true after the last one, which is an
/// acknowledgement, an error or the end of a dump.
fn take(mut bytes: &[u8], sequence: u32, answers: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    while let Some(length) = u32_at(bytes, 0) {
        let length = length as usize;
        let (Some(kind), Some(of)) = (u16_at(bytes, 4), u32_at(bytes, 8)) else { break };
        let Some(payload) = bytes.get(HEADER..length) else { break };
        // An answer to an earlier request, which was not waited for.
        if of == sequence {
            match kind {
                NLMSG_ERROR | NLMSG_DONE => return status(payload).map(|()| true),
                _ => answers.push(payload.to_vec()),
            }
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn status(payload: &[u8]) -> io::Result<()> {
    match u32_at(payload, 0).unwrap_or_default().cast_signed() {
        0 => Ok(()),
        negative => Err(Errno::from_raw(negative.saturating_neg()).into()),
    }
}

/// The attributes in `bytes` by kind; the last one of a kind wins.
pub(crate) fn attributes(bytes: &[u8]) -> BTreeMap<u16, &[u8]> {
    list(bytes).into_iter().collect()
}

/// The attributes in `bytes`, in order, as far as they make sense.
pub(crate) fn list(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut list = Vec::new();
    while let (Some(length), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        let length = usize::from(length);
        let Some(value) = bytes.get(4..length) else { break };
        list.push((kind & KIND, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    list
}

/// One attribute, padded.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute made of attributes.
pub(crate) fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &attributes.concat())
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A number of one or four bytes.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    u32_at(value, 0).or_else(|| value.first().map(|byte| u32::from(*byte)))
}

/// A text that ends in a NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nested_comes_out_as_it_went_in() {
        let bytes = nested(1, &[attribute(2, b"eth0\0"), attribute(3, &7u32.to_ne_bytes())]);
        let outer = attributes(&bytes);
        let inner = attributes(outer[&1]);
        assert_eq!((text(inner[&2]).as_str(), number(inner[&3])), ("eth0", Some(7)));
    }

    #[test]
    fn nonsense_ends_a_list() {
        let mut bytes = attribute(1, b"kept");
        bytes.extend([3, 0, 9, 9, 0xff, 0xff, 1, 0]);
        assert_eq!(list(&bytes), [(1, b"kept".as_slice())]);
        assert_eq!(list(&[1, 0]), []);
    }

    #[test]
    fn an_error_is_the_kernels() {
        let refused = message(NLMSG_ERROR, 0, 5, &(-(Errno::EPERM as i32)).to_ne_bytes());
        let error = take(&refused, 5, &mut Vec::new()).expect_err("an error");
        assert_eq!(error.raw_os_error(), Some(Errno::EPERM as i32));
        let mut answers = Vec::new();
        let both = [message(16, 0, 4, b"late"), message(16, 0, 5, b"good")].concat();
        assert!(!take(&both, 5, &mut answers).expect("no error"));
        assert_eq!(answers, [b"good"]);
    }
}
