//! What is sent is what arrives, however it is cut up; and the runtime's reader, whose
//! rules are written down here as a model, has room for every frame.

use proptest::prelude::*;

use super::*;

fn message(stream: u32, payload: Vec<u8>) -> Message {
    let connection =
        if stream.is_multiple_of(2) { Connection::Plugin } else { Connection::Runtime };
    let kind = if stream.is_multiple_of(3) { Kind::Request } else { Kind::Response };
    Message { connection, stream, kind, payload: payload.into() }
}

fn decode(pieces: &[&[u8]]) -> Result<Vec<Message>, TooLong> {
    let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(piece, &mut messages)?;
    }
    Ok(messages)
}

/// A payload around the sizes where something changes.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![0..64_usize, 4070..4110_usize, 8180..8200_usize, 0..70_000_usize];
    (length, any::<u8>()).prop_map(|(length, seed)| {
        (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
    })
}

/// Go's `bufio.Reader` of 4096 bytes over a connection whose `Read` gives one frame and
/// fails if there is no room for it, read by `io.ReadFull` as `channel.recv` does.
struct Bufio {
    frames: std::collections::VecDeque<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Bufio {
    fn over(mut bytes: &[u8]) -> Self {
        let mut frames = std::collections::VecDeque::new();
        while bytes.has_remaining() {
            let (_, length) = (bytes.get_u32(), bytes.get_u32() as usize);
            frames.push_back(bytes[..length].to_vec());
            bytes.advance(length);
        }
        Self { frames, buffer: Vec::new() }
    }

    /// `Read`: an empty buffer is passed by if `room` is no smaller than it.
    fn read(&mut self, room: usize) -> Vec<u8> {
        if self.buffer.is_empty() {
            let frame = self.frames.pop_front().expect("more to read");
            assert!(frame.len() <= room.max(4096), "no room: {} > {room}", frame.len());
            if room >= 4096 {
                return frame;
            }
            self.buffer = frame;
        }
        let here = room.min(self.buffer.len());
        self.buffer.drain(..here).collect()
    }

    fn read_full(&mut self, length: usize) -> Vec<u8> {
        let mut read = Vec::new();
        while read.len() < length {
            read.extend(self.read(length - read.len()));
        }
        read
    }

    fn recv(&mut self) -> (u32, u8, Vec<u8>) {
        let header = self.read_full(MESSAGE_HEADER);
        let mut header = &header[..];
        let (length, stream, kind) = (header.get_u32(), header.get_u32(), header.get_u8());
        (stream, kind, self.read_full(length as usize))
    }
}

proptest! {
    #[test]
    fn what_is_sent_arrives_however_it_is_cut(
        payloads in prop::collection::vec(payload(), 1..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let messages: Vec<_> =
            payloads.into_iter().enumerate().map(|(at, p)| message(at as u32, p)).collect();
        let bytes: Vec<u8> =
            messages.iter().flat_map(|message| encode(message).expect("short enough")).collect();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        ends.extend([0, bytes.len()]);
        ends.sort_unstable();
        let pieces: Vec<&[u8]> = ends.windows(2).map(|at| &bytes[at[0]..at[1]]).collect();
        prop_assert_eq!(decode(&pieces), Ok(messages));
    }

    #[test]
    fn the_runtimes_reader_has_room_for_every_frame(
        payloads in prop::collection::vec(payload(), 1..4),
    ) {
        let sent = |payload: &Vec<u8>| encode(&message(2, payload.clone())).expect("short enough");
        let bytes: Vec<u8> = payloads.iter().flat_map(sent).collect();
        let mut reader = Bufio::over(&bytes);
        for payload in payloads {
            prop_assert_eq!(reader.recv(), (2, 2, payload));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let read = decode(&[&bytes]);
        let length = read.map_or(0, |read| read.iter().map(|it| it.payload.len()).sum());
        prop_assert!(length <= bytes.len());
    }
}

#[test]
fn a_message_is_at_most_two_frames_at_every_size() {
    for length in [0, 100, 4086, 4087, 5000, 200_000, 3_000_000, MAX_PAYLOAD] {
        let sent = message(2, vec![7; length]);
        let bytes = encode(&sent).expect("short enough");
        assert!(Bufio::over(&bytes).frames.len() <= 2);
        assert_eq!(Bufio::over(&bytes).recv().2, sent.payload);
        assert_eq!(decode(&[&bytes]), Ok(vec![sent]));
    }
}

#[test]
fn a_message_over_the_limit_is_neither_sent_nor_taken() {
    let over = MAX_PAYLOAD + 1;
    assert_eq!(encode(&message(2, vec![0; over])), Err(TooLong(over)));
    let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 10];
    bytes.extend((over as u32).to_be_bytes());
    bytes.extend([0, 0, 0, 1, 1, 0]);
    assert_eq!(decode(&[&bytes]), Err(TooLong(over)));
}

#[test]
fn what_the_protocol_has_not_is_passed_over() {
    let frame = |connection: u8, kind: u8| {
        let mut bytes = vec![0, 0, 0, connection, 0, 0, 0, 11];
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, kind, 0, 42]);
        bytes
    };
    let (other_connection, data, response) = (frame(9, 2), frame(1, 3), frame(1, 2));
    let read = decode(&[&other_connection, &data, &response]).expect("read");
    assert_eq!(read.len(), 1);
    assert_eq!((read[0].kind, &read[0].payload[..]), (Kind::Response, &[42][..]));
}
