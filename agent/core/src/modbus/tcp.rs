//! Modbus over TCP, as gateways speak it: the same requests behind a header with a
//! transaction's number (*MODBUS Messaging on TCP/IP V1.0b*, 3.1.3). The number ties an
//! answer to its question as far as the gateway goes. What it hears late on the line
//! behind it, it may send under the next number: so units are guarded here as on a line.

use alloc::vec::Vec;

use super::pdu::{Answer, Exception, Request};

/// Transaction, protocol, length and unit.
const HEADER: usize = 7;
/// The longest frame: header and PDU.
pub const MAX_FRAME: usize = HEADER + 253;

/// A request to `unit` as it is sent under the number `transaction`.
pub fn frame(transaction: u16, unit: u8, request: &Request) -> Vec<u8> {
    let mut pdu = Vec::with_capacity(5);
    request.encode(&mut pdu);
    let length = pdu.len() as u16 + 1;
    let mut frame = Vec::with_capacity(HEADER + pdu.len());
    frame.extend(transaction.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(length.to_be_bytes());
    frame.push(unit);
    frame.extend(pdu);
    frame
}

/// The stream is not Modbus, or out of step: only a new connection helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfStep;

/// Takes the next whole frame off `heard`, and says what it is to the request:
/// `Some(None)` if it is no answer to it, `None` if no frame is whole yet.
#[allow(clippy::type_complexity, reason = "the layers are a stream's, a frame's and a unit's")]
pub fn take(
    heard: &mut Vec<u8>,
    transaction: u16,
    unit: u8,
    request: &Request,
) -> Result<Option<Option<Result<Answer, Exception>>>, OutOfStep> {
    let Some(&[t0, t1, p0, p1, l0, l1, from]) = heard.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let end = 6 + usize::from(u16::from_be_bytes([l0, l1]));
    if [p0, p1] != [0, 0] || !(HEADER + 1..=MAX_FRAME).contains(&end) {
        return Err(OutOfStep);
    }
    if heard.len() < end {
        return Ok(None);
    }
    let frame: Vec<u8> = heard.drain(..end).collect();
    let ours = u16::from_be_bytes([t0, t1]) == transaction && from == unit;
    Ok(Some(if ours { request.understand(&frame[HEADER..]) } else { None }))
}

#[cfg(test)]
mod tests {
    use alloc::{format, vec};

    use expect_test::{Expect, expect};

    use super::*;
    use crate::modbus::pdu::Table;

    fn check(heard: &[&[u8]], expected: Expect) {
        let request = Request::read(Table::InputRegisters, 1, 1).expect("one register");
        let mut heard = heard.concat();
        let mut said = Vec::new();
        loop {
            match take(&mut heard, 0x1234, 7, &request) {
                Ok(None) => break,
                Ok(Some(answer)) => said.push(format!("{answer:?}")),
                Err(error) => {
                    said.push(format!("{error:?}"));
                    break;
                }
            }
        }
        expected.assert_eq(&said.join(", "));
    }

    #[test]
    fn an_answer_is_known_by_its_number() {
        let request = Request::read(Table::InputRegisters, 1, 1).expect("one register");
        assert_eq!(frame(0x1234, 7, &request), [0x12, 0x34, 0, 0, 0, 6, 7, 4, 0, 1, 0, 1]);
        let own: &[u8] = &[0x12, 0x34, 0, 0, 0, 5, 7, 4, 2, 0, 42];
        let late: &[u8] = &[0x12, 0x33, 0, 0, 0, 5, 7, 4, 2, 0, 41];
        check(&[late, own], expect!["None, Some(Ok(Registers([42])))"]);
        check(&[&own[..10]], expect![""]);
        check(&[&[0x12, 0x34, 0, 0, 0, 3, 7, 0x84, 11]], expect!["Some(Err(Exception(11)))"]);
    }

    #[test]
    fn what_is_no_header_ends_the_stream() {
        check(&[b"HTTP/1.1 400"], expect!["OutOfStep"]);
        check(&[&[0x12, 0x34, 0, 0, 0, 1, 7]], expect!["OutOfStep"]);
        check(&[&vec![0xff; 300]], expect!["OutOfStep"]);
    }
}
