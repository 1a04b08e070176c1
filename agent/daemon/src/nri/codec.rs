//! Bytes to messages and back: NRI's mux, and ttrpc inside it. No I/O.
//!
//! A frame of the mux is a connection id and a length, each 32 bits big-endian, and
//! that many bytes of the connection's stream. A message of ttrpc in such a stream is
//! a length and a stream id, each 32 bits big-endian, a type, a byte of flags, and
//! that many bytes of payload.
//!
//! **The framing trap.** The runtime's mux hands a frame over whole, to a reader that
//! has room for 4096 bytes while it waits for a header and for the rest of the message
//! afterwards; a frame that doesn't fit ends the session, and the container is created
//! without us. It also ends it at 256 frames unread. So a message leaves in at most
//! two frames: what holds the header, at most 4096 bytes, and all the rest.
//!
//! Source: `pkg/net/multiplex/mux.go` of containerd/nri 0.6.1 to 0.12.2, `channel.go`
//! of containerd/ttrpc.

use prost::bytes::{Buf, Bytes, BytesMut};

/// Connection id, length.
const FRAME_HEADER: usize = 8;
/// Length, stream id, type, flags.
const MESSAGE_HEADER: usize = 10;
/// The most that the runtime's reader has room for while it waits for a header.
const FIRST_FRAME: usize = 4096;
/// The longest payload that ttrpc sends or takes.
pub const MAX_PAYLOAD: usize = 4 << 20;

/// One of the two connections in the mux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// The runtime calls the plugin.
    Plugin = 1,
    /// The plugin calls the runtime.
    Runtime = 2,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call, in a stream with an odd id.
    Request = 1,
    /// The answer to the call of the same stream.
    Response = 2,
}

/// A message of ttrpc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it belongs.
    pub connection: Connection,
    /// Pairs a call with its answer.
    pub stream: u32,
    /// What it is.
    pub kind: Kind,
    /// A `Call` or a `Reply`.
    pub payload: Bytes,
}

/// A length over [`MAX_PAYLOAD`]: not to be sent, and nothing can be read after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong(pub usize);

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a message of {} bytes, where ttrpc takes at most {MAX_PAYLOAD}", self.0)
    }
}

impl std::error::Error for TooLong {}

/// The bytes that carry a message.
pub fn encode(message: &Message) -> Result<Vec<u8>, TooLong> {
    let Message { connection, stream, kind, payload } = message;
    if payload.len() > MAX_PAYLOAD {
        return Err(TooLong(payload.len()));
    }
    let first = payload.len().min(FIRST_FRAME - MESSAGE_HEADER);
    let (first, rest) = payload.split_at(first);
    let mut bytes = Vec::with_capacity(2 * FRAME_HEADER + MESSAGE_HEADER + payload.len());
    let frame = |length: usize| [(*connection as u32).to_be_bytes(), (length as u32).to_be_bytes()];
    bytes.extend(frame(MESSAGE_HEADER + first.len()).as_flattened());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend([*kind as u8, 0]);
    bytes.extend(first);
    if !rest.is_empty() {
        bytes.extend(frame(rest.len()).as_flattened());
        bytes.extend(rest);
    }
    Ok(bytes)
}

/// Makes messages of the bytes that come; holds at most one unfinished message of
/// each connection. Frames of other connections and messages of other types, of which
/// the protocol has none, are passed over.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What is there of the next frame's header.
    header: Vec<u8>,
    /// Whose frame it is, and how much of it is still to come.
    frame: (u32, usize),
    plugin: BytesMut,
    runtime: BytesMut,
}

impl Decoder {
    /// Takes what was read next, and adds the messages that it finishes to `messages`.
    pub fn push(&mut self, mut bytes: &[u8], messages: &mut Vec<Message>) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            if self.frame.1 > 0 {
                let here = self.frame.1.min(bytes.len());
                self.frame.1 -= here;
                self.take(self.frame.0, &bytes[..here], messages)?;
                bytes.advance(here);
                continue;
            }
            let here = (FRAME_HEADER - self.header.len()).min(bytes.len());
            self.header.extend(&bytes[..here]);
            bytes.advance(here);
            if self.header.len() == FRAME_HEADER {
                let mut header = &self.header[..];
                self.frame = (header.get_u32(), header.get_u32() as usize);
                self.header.clear();
            }
        }
        Ok(())
    }

    fn take(&mut self, id: u32, bytes: &[u8], messages: &mut Vec<Message>) -> Result<(), TooLong> {
        let (connection, buffer) = match id {
            1 => (Connection::Plugin, &mut self.plugin),
            2 => (Connection::Runtime, &mut self.runtime),
            _ => return Ok(()),
        };
        buffer.extend_from_slice(bytes);
        while let Some(message) = next(connection, buffer)? {
            messages.extend(message);
        }
        if buffer.is_empty() {
            // A large message's memory is not kept for the next.
            *buffer = BytesMut::new();
        }
        Ok(())
    }
}

/// The next message, if all of it is there; none inside for one of another type.
fn next(connection: Connection, buffer: &mut BytesMut) -> Result<Option<Option<Message>>, TooLong> {
    let Some(mut header) = buffer.get(..MESSAGE_HEADER) else { return Ok(None) };
    let (length, stream, kind) = (header.get_u32() as usize, header.get_u32(), header.get_u8());
    if length > MAX_PAYLOAD {
        return Err(TooLong(length));
    }
    if buffer.len() < MESSAGE_HEADER + length {
        return Ok(None);
    }
    buffer.advance(MESSAGE_HEADER);
    let payload = buffer.split_to(length).freeze();
    let kind = match kind {
        1 => Kind::Request,
        2 => Kind::Response,
        _ => return Ok(Some(None)),
    };
    Ok(Some(Some(Message { connection, stream, kind, payload })))
}

#[cfg(test)]
mod tests;
