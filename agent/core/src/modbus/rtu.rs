//! Frames on a serial line, and whether what was heard is the answer.
//!
//! A frame is unit, PDU, CRC, with silence around it. The silence of 3.5 characters
//! that should tell where a frame ends (SL 2.5.1.1) can't be relied upon to tell where
//! it *begins*: USB adapters deliver in lumps and drop silences. So the end of what
//! was heard is looked at: an answer is the *last* bytes heard, of the exact length,
//! with the exact header and CRC, and silence follows. What stands before it (a line's
//! echo of our own request, noise of a driver switching over, the late answer of
//! another unit) costs nothing; one byte after it does.

use alloc::vec::Vec;
use core::time::Duration;

use super::pdu::{Answer, Exception, Request};

/// The longest frame (SL 2.5.1).
pub const MAX_FRAME: usize = 256;
/// Bytes kept of what was heard: an echo and an answer, both of the longest.
const MAX_HEARD: usize = 2 * MAX_FRAME;
/// Above 19,200 bit/s silences don't shrink any further (SL 2.5.1.1).
const LEAST_SILENCE: Duration = Duration::from_micros(1750);

/// CRC-16 of a frame: polynomial 0xA001 reflected, from 0xFFFF, low byte sent first
/// (SL 6.2.2).
pub fn crc(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = table();
    bytes
        .iter()
        .fold(0xffff, |crc, byte| crc >> 8 ^ TABLE[usize::from((crc ^ u16::from(*byte)) as u8)])
}

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u16, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// A request as it is sent to `unit`.
pub fn frame(unit: u8, request: &Request) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8);
    frame.push(unit);
    request.encode(&mut frame);
    let crc = crc(&frame);
    frame.extend(crc.to_le_bytes());
    frame
}

/// The unit and the PDU of a whole frame; `None` if its CRC is wrong.
pub fn open(frame: &[u8]) -> Option<(u8, &[u8])> {
    let (body, sum) = frame.split_last_chunk::<2>()?;
    let (&unit, pdu) = body.split_first()?;
    (crc(body).to_le_bytes() == *sum).then_some((unit, pdu))
}

/// How fast a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// Bits a second.
    pub baud: u32,
    /// Bits of a character: start, 8 of data, parity if any, stop. 10 or 11.
    pub bits: u32,
}

impl Speed {
    /// How long `bytes` are on the wire.
    pub fn on_wire(self, bytes: usize) -> Duration {
        let bits = bytes as u64 * u64::from(self.bits);
        Duration::from_nanos(bits.saturating_mul(1_000_000_000) / u64::from(self.baud.max(1)))
    }

    /// The silence that ends a frame: 3.5 characters.
    pub fn silence(self) -> Duration {
        (self.on_wire(7) / 2).max(LEAST_SILENCE)
    }
}

/// Listens for the answer to one request.
#[derive(Debug)]
pub struct Listener<'a> {
    unit: u8,
    request: &'a Request,
    sent: &'a [u8],
    heard: Vec<u8>,
    total: usize,
}

impl<'a> Listener<'a> {
    /// Listens for `unit`'s answer to `request`, which went out as `sent`.
    pub fn new(unit: u8, request: &'a Request, sent: &'a [u8]) -> Self {
        Self { unit, request, sent, heard: Vec::new(), total: 0 }
    }

    /// Takes what was heard next.
    pub fn hear(&mut self, bytes: &[u8]) {
        self.total += bytes.len();
        self.heard.extend(bytes);
        let surplus = self.heard.len().saturating_sub(MAX_HEARD);
        self.heard.drain(..surplus);
    }

    /// Bytes heard so far.
    pub fn heard(&self) -> usize {
        self.total
    }

    /// Whether what was heard is what was sent, and nothing else.
    pub fn is_echo(&self) -> bool {
        self.heard == self.sent
    }

    /// The answer, if what was heard ends with it. It holds once the line stays
    /// silent; one more byte and it is none.
    pub fn answer(&self) -> Option<Result<Answer, Exception>> {
        // For a read, the very bytes that were sent are the line's echo of them, even
        // if they could be read as an answer (three bytes of coils from 0x300 on).
        if !self.request.is_answered_by_its_echo() && self.is_echo() {
            return None;
        }
        let of_length = |pdu: usize| {
            let frame = &self.heard[self.heard.len().checked_sub(pdu + 3)?..];
            let (unit, pdu) = open(frame)?;
            if unit == self.unit { self.request.understand(pdu) } else { None }
        };
        of_length(self.request.answer_len()).or_else(|| of_length(2))
    }
}

#[cfg(test)]
mod tests {
    use alloc::{format, vec};

    use expect_test::{Expect, expect};

    use super::*;
    use crate::modbus::pdu::Table;

    fn sealed(bytes: &[u8]) -> Vec<u8> {
        let mut frame = bytes.to_vec();
        frame.extend(crc(bytes).to_le_bytes());
        frame
    }

    fn check(request: &Request, heard: &[u8], expected: Expect) {
        let sent = frame(0x11, request);
        let mut listener = Listener::new(0x11, request, &sent);
        listener.hear(heard);
        expected.assert_eq(&format!("{:?}", listener.answer()));
    }

    fn two() -> Request {
        Request::read(Table::HoldingRegisters, 0x300, 2).expect("two registers")
    }

    #[test]
    fn the_checksum_is_that_of_the_specification() {
        // SL 6.2.2: device 2, function 7.
        assert_eq!(crc(&[2, 7]), 0x1241);
        assert_eq!(open(&[2, 7, 0x41, 0x12]), Some((2, &[7][..])));
        assert_eq!(open(&[2, 7, 0x41, 0x13]), None);
        assert_eq!(open(&[2]), None);
    }

    #[test]
    fn an_answer_is_the_last_that_was_heard() {
        let answer = sealed(&[0x11, 3, 4, 0, 1, 0, 2]);
        check(&two(), &answer, expect!["Some(Ok(Registers([1, 2])))"]);
        let echoed = [frame(0x11, &two()), answer.clone()].concat();
        check(&two(), &echoed, expect!["Some(Ok(Registers([1, 2])))"]);
        let noisy = [vec![0, 0xff], answer.clone()].concat();
        check(&two(), &noisy, expect!["Some(Ok(Registers([1, 2])))"]);
        check(&two(), &[answer, vec![0]].concat(), expect!["None"]);
        check(&two(), &sealed(&[0x11, 0x83, 2]), expect!["Some(Err(Exception(2)))"]);
    }

    #[test]
    fn what_only_looks_like_an_answer_is_none() {
        check(&two(), &frame(0x11, &two()), expect!["None"]);
        check(&two(), &sealed(&[0x12, 3, 4, 0, 1, 0, 2]), expect!["None"]);
        check(&two(), &sealed(&[0x11, 3, 2, 0, 1]), expect!["None"]);
        check(&two(), &sealed(&[0x11, 3, 6, 0, 1, 0, 2, 0, 3]), expect!["None"]);
        check(&two(), &[0x11, 3, 4, 0, 1, 0, 2, 0, 0], expect!["None"]);
        check(&two(), &[0x11, 3, 4], expect!["None"]);
    }

    #[test]
    fn an_echo_is_no_answer_even_if_it_reads_like_one() {
        let coils = Request::read(Table::Coils, 0x3aa, 20).expect("twenty coils");
        check(&coils, &frame(0x11, &coils), expect!["None"]);
        let write = Request::write_register(1, 3);
        check(&write, &frame(0x11, &write), expect!["Some(Ok(Written))"]);
        let several = Request::write_registers(1, vec![3]).expect("one register");
        check(&several, &frame(0x11, &several), expect!["None"]);
    }

    #[test]
    fn a_line_that_never_stops_is_heard_in_a_bounded_space() {
        let request = two();
        let sent = frame(0x11, &request);
        let mut listener = Listener::new(0x11, &request, &sent);
        (0..1000).for_each(|_| listener.hear(&[0x55; 100]));
        listener.hear(&sealed(&[0x11, 3, 4, 0, 1, 0, 2]));
        assert!(listener.answer().is_some());
        assert_eq!((listener.heard(), listener.heard.len()), (100_009, MAX_HEARD));
    }

    #[test]
    fn characters_take_their_time() {
        let orv3 = Speed { baud: 19_200, bits: 11 };
        assert_eq!(orv3.on_wire(96).as_micros(), 55_000);
        assert_eq!(orv3.silence().as_micros(), 2005);
        assert_eq!(Speed { baud: 115_200, bits: 10 }.silence(), LEAST_SILENCE);
    }
}
