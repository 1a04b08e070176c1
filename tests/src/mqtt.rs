//! As much of MQTT 5 as an observer between a client and a broker must read:
//! packet borders, PUBLISH and PUBACK. Written from the OASIS standard (sections
//! 2.1, 3.3 and 3.4) and sharing nothing with the client it watches.

/// Largest packet an observer keeps whole. The agent's own limit is far below.
const MAX_PACKET: usize = 4 << 20;

/// CONNACK with reason 0x87, Not authorized.
pub const NOT_AUTHORIZED: [u8; 5] = [0x20, 3, 0, 0x87, 0];

/// A packet that matters to an observer.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    /// A PUBLISH; `id` is absent at QoS 0.
    Publish {
        /// Topic name.
        topic: String,
        /// Packet identifier.
        id: Option<u16>,
        /// Payload.
        payload: Vec<u8>,
    },
    /// A PUBACK.
    Puback {
        /// Packet identifier.
        id: u16,
        /// Reason code: below 0x80 the broker took it.
        reason: u8,
    },
    /// Anything else.
    Other,
}

/// A PUBACK with a reason code (3.4.2).
pub fn puback(id: u16, reason: u8) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    vec![0x40, 3, high, low, reason]
}

/// Cuts a byte stream into packets.
#[derive(Debug, Default)]
pub struct Stream {
    bytes: Vec<u8>,
}

impl Stream {
    /// Takes what arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole packet, as its bytes. The error is a stream that is not MQTT.
    pub fn packet(&mut self) -> Result<Option<Vec<u8>>, String> {
        let Some((length, header)) = remaining_length(&self.bytes)? else { return Ok(None) };
        let end = header + length;
        if end > MAX_PACKET {
            return Err(format!("a packet of {end} bytes; at most {MAX_PACKET}"));
        }
        if self.bytes.len() < end {
            return Ok(None);
        }
        Ok(Some(self.bytes.drain(..end).collect()))
    }
}

/// Reads one whole packet.
pub fn parse(packet: &[u8]) -> Result<Packet, String> {
    let cut = || "a packet shorter than its fields".to_owned();
    let (_, header) = remaining_length(packet)?.ok_or_else(cut)?;
    let mut rest = Fields(&packet[header..]);
    match packet[0] >> 4 {
        3 => {
            let length = rest.u16().ok_or_else(cut)?;
            let topic = rest.take(length.into()).ok_or_else(cut)?;
            let topic = String::from_utf8(topic.to_vec()).map_err(|e| e.to_string())?;
            let qos = packet[0] >> 1 & 3;
            let id = if qos == 0 { None } else { Some(rest.u16().ok_or_else(cut)?) };
            let properties = rest.variable().ok_or_else(cut)?;
            rest.take(properties).ok_or_else(cut)?;
            Ok(Packet::Publish { topic, id, payload: rest.0.to_vec() })
        }
        4 => {
            let id = rest.u16().ok_or_else(cut)?;
            // Without a reason code it is 0, success (3.4.2.1).
            let reason = rest.take(1).map_or(0, |byte| byte[0]);
            Ok(Packet::Puback { id, reason })
        }
        _ => Ok(Packet::Other),
    }
}

/// The length after the fixed header, and where the fixed header ends.
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let Some(after_type) = bytes.get(1..) else { return Ok(None) };
    match variable(after_type) {
        Some((length, size)) => Ok(Some((length, 1 + size))),
        None if after_type.len() < 4 => Ok(None),
        None => Err("a length of more than four bytes".to_owned()),
    }
}

/// A variable byte integer (1.5.5): its value and its size.
fn variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn variable(&mut self) -> Option<usize> {
        let (value, size) = variable(self.0)?;
        self.0 = &self.0[size..];
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PUBLISH, QoS 1, topic `a/b`, id 10, one property (payload format 1).
    const PUBLISH: [u8; 13] = [0x32, 11, 0, 3, b'a', b'/', b'b', 0, 10, 2, 1, 1, b'x'];

    #[test]
    fn a_publish_is_read_past_its_properties() {
        let expected =
            Packet::Publish { topic: "a/b".into(), id: Some(10), payload: b"x".to_vec() };
        assert_eq!(parse(&PUBLISH), Ok(expected));
    }

    #[test]
    fn a_puback_without_a_reason_is_a_success() {
        assert_eq!(parse(&[0x40, 2, 0, 10]), Ok(Packet::Puback { id: 10, reason: 0 }));
        assert_eq!(parse(&[0x40, 3, 0, 10, 0x87]), Ok(Packet::Puback { id: 10, reason: 0x87 }));
    }

    #[test]
    fn packets_come_out_whole_however_the_bytes_arrive() {
        let mut stream = Stream::default();
        for byte in PUBLISH.iter().chain(&[0xc0, 0]) {
            assert_eq!(stream.packet(), Ok(None));
            stream.feed(&[*byte]);
            if stream.bytes.len() == PUBLISH.len() {
                assert_eq!(stream.packet(), Ok(Some(PUBLISH.to_vec())));
            }
        }
        assert_eq!(stream.packet(), Ok(Some(vec![0xc0, 0])));
    }

    #[test]
    fn what_is_cut_short_or_not_mqtt_is_an_error() {
        assert!(parse(&PUBLISH[..6]).is_err());
        let mut stream = Stream::default();
        stream.feed(&[0x32, 0xff, 0xff, 0xff, 0xff, 1]);
        assert!(stream.packet().is_err());
    }
}
