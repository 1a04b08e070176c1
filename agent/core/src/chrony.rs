//! What chronyd says of the clock that it keeps: one question of its command protocol.
//!
//! Source: `candm.h` of chrony (protocol 6, from chrony 2.0 of 2015 on): a request's and a
//! reply's header, `REQ_TRACKING` and `RPY_TRACKING`; `util.c` for its floating point.
//! Everything is big-endian. Pure, and total: any bytes are an answer or none.

use serde::{Deserialize, Serialize};

/// Bytes of a question and of its answer: chronyd answers no question that is shorter than
/// the answer.
pub const LENGTH: usize = 104;

const VERSION: u8 = 6;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const TRACKING: u16 = 33;
const TRACKING_REPLY: u16 = 5;
/// Reference id of a server that follows nobody but itself (`local`).
const LOCAL: u32 = 0x7f7f_0101;
/// Leap status of a clock that is not synchronised (RFC 5905, figure 9).
const UNSYNCHRONIZED: u16 = 3;

/// What chronyd says of the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tracking {
    /// Who it follows: an IPv4 address, the hash of an IPv6 one, or a clock's name.
    pub reference: u32,
    /// Hops to a clock that needs no other; 0 of nobody.
    pub stratum: u16,
    /// It follows somebody.
    pub follows: bool,
    /// It follows itself: others of the rack may, and it is nobody's true time.
    pub local: bool,
    /// Seconds by which the clock is ahead of what it follows.
    pub offset_s: f64,
    /// Seconds by which it is wrong at most, if its sources aren't (RFC 5905: root delay by
    /// two, and root dispersion).
    pub max_error_s: f64,
}

impl Tracking {
    /// The clock shows somebody's true time.
    pub fn is_synchronized(&self) -> bool {
        self.follows && !self.local
    }
}

/// The question. Its answer has the same number.
pub fn question(number: u32) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[0] = VERSION;
    bytes[1] = REQUEST;
    bytes[4..6].copy_from_slice(&TRACKING.to_be_bytes());
    bytes[8..12].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// The answer to the question of a number; `None` if it is another's, or none.
pub fn answer(bytes: &[u8], number: u32) -> Option<Tracking> {
    let u16_at = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let u32_at = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let float_at = |at: usize| u32_at(at).map(float);
    let is_it = bytes.get(..2)? == [VERSION, REPLY]
        && (u16_at(4)?, u16_at(6)?, u16_at(8)?) == (TRACKING, TRACKING_REPLY, 0)
        && u32_at(16)? == number;
    if !is_it {
        return None;
    }
    let (reference, stratum, leap) = (u32_at(28)?, u16_at(52)?, u16_at(54)?);
    Some(Tracking {
        reference,
        stratum,
        follows: leap != UNSYNCHRONIZED,
        local: reference == LOCAL,
        // It tells by how much the clock is behind.
        offset_s: -float_at(68)?,
        max_error_s: float_at(92)? / 2.0 + float_at(96)?,
    })
}

/// Seven bits of exponent, 25 of coefficient, both in two's complement.
fn float(bits: u32) -> f64 {
    let exponent = bits.cast_signed() >> 25;
    let coefficient = bits.cast_signed() << 7 >> 7;
    let mut value = f64::from(coefficient);
    // `powi` is not of `core`.
    for _ in 0..(exponent - 25).unsigned_abs() {
        value = if exponent < 25 { value / 2.0 } else { value * 2.0 };
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As chronyd 4.3 sent it, 2 ms ahead of a server of stratum 8.
    fn sent() -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..2].copy_from_slice(&[6, 2]);
        bytes[4..10].copy_from_slice(&[0, 33, 0, 5, 0, 0]);
        bytes[16..20].copy_from_slice(&7_u32.to_be_bytes());
        bytes[28..32].copy_from_slice(&[127, 0, 0, 1]);
        bytes[52..56].copy_from_slice(&[0, 9, 0, 0]);
        bytes
    }

    #[test]
    fn an_answer_is_taken_for_its_own_question_alone() {
        let tracking = answer(&sent(), 7).expect("an answer");
        assert_eq!((tracking.stratum, tracking.reference), (9, 0x7f00_0001));
        assert!(tracking.is_synchronized());
        assert_eq!(answer(&sent(), 8), None);
        for at in [0, 1, 5, 7, 9] {
            let mut other = sent();
            other[at] ^= 0x40;
            assert_eq!(answer(&other, 7), None, "byte {at}");
        }
        for length in 0..100 {
            assert_eq!(answer(&sent()[..length], 7), None, "{length} bytes");
        }
    }

    #[test]
    fn who_follows_nobody_or_itself_has_no_true_time() {
        let (mut alone, mut local) = (sent(), sent());
        alone[55] = 3;
        assert!(!answer(&alone, 7).expect("an answer").is_synchronized());
        local[28..32].copy_from_slice(&LOCAL.to_be_bytes());
        let local = answer(&local, 7).expect("an answer");
        assert!(local.follows && local.local && !local.is_synchronized());
    }

    #[test]
    fn its_floating_point_has_25_bits_of_coefficient() {
        // 1.0 is 2^23 by 2^(2 - 25), as chronyd writes it.
        assert_eq!(float(2 << 25 | 1 << 23), 1.0);
        assert_eq!(float(2 << 25 | (0x0200_0000 - (1 << 23))), -1.0);
        assert_eq!(float(0), 0.0);
        assert!(float(u32::MAX).abs() < 1e-6 && float(0x7e00_0001).is_finite());
    }
}
