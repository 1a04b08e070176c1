//! What ptp4l says of the clock that it keeps: three questions of IEEE 1588's management
//! messages.
//!
//! Source: IEEE 1588-2008, 13.3 (a message's header), 15.4 (management messages), 15.5.3
//! (data sets), 8.2.5.3.1 (a port's states), 7.6.2.4 (a clock's class). Everything is
//! big-endian. Pure, and total: any bytes are an answer or none.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of a question.
pub const QUESTION: usize = 54;
/// Bytes of an answer that are read: all of one, without what may follow.
pub const MAX_ANSWER: usize = 128;
/// A domain is asked by its number, and others don't answer (7.1).
pub const DOMAINS: u8 = 128;
/// The class of a clock that doesn't say where it has its time from. Those above are worse.
pub const CLASS_UNKNOWN: u8 = 248;

const MANAGEMENT: u8 = 0xd;
const VERSION: u8 = 2;
/// Of a management message, in its field of old (table 23).
const CONTROL: u8 = 4;
/// No interval is meant.
const NO_INTERVAL: u8 = 0x7f;
const GET: u8 = 0;
const RESPONSE: u8 = 2;
const TLV_MANAGEMENT: u16 = 1;

/// A clock's identity: an EUI-64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity(pub [u8; 8]);

impl fmt::Display for Identity {
    /// As ptp4l writes it: `001b21.fffe.a1b2c3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, byte)| {
            let dot = if matches!(at, 3 | 5) { "." } else { "" };
            write!(f, "{dot}{byte:02x}")
        })
    }
}

/// What is asked. The answers come in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `PORT_DATA_SET`, which each port answers.
    Ports = 0x2004,
    /// `PARENT_DATA_SET`
    Parent = 0x2002,
    /// `CURRENT_DATA_SET`
    Current = 0x2001,
}

/// Every question, in the order in which they are asked.
pub const QUESTIONS: [Question; 3] = [Question::Ports, Question::Parent, Question::Current];

/// What a port does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Port {
    /// Nothing yet, or nothing any more.
    #[default]
    Idle,
    /// Waits for somebody's announcement.
    Listening,
    /// Others follow it.
    Master,
    /// Follows somebody, and is not settled yet.
    Uncalibrated,
    /// Follows somebody.
    Slave,
}

/// What ptp4l says of its clock: the network card's own, or the system's where packets are
/// stamped by software.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ptp {
    /// Itself.
    pub own: Identity,
    /// Whom everybody here follows in the end; itself where it follows nobody.
    pub grandmaster: Identity,
    /// How good that one says it is: 6 has its time from a primary reference, 7 had.
    pub class: u8,
    /// What the port that matters most does.
    pub port: Port,
    /// Hops to the grandmaster.
    pub steps: u16,
    /// Seconds by which its clock is ahead.
    pub offset_s: f64,
    /// Seconds from the one that it follows to it.
    pub path_delay_s: f64,
}

impl Ptp {
    /// Its clock shows the time of somebody, or of a source of its own, that says where it
    /// is from.
    pub fn is_synchronized(&self) -> bool {
        (self.follows() || self.leads()) && self.class < CLASS_UNKNOWN
    }

    /// It follows somebody else.
    pub fn follows(&self) -> bool {
        self.port == Port::Slave && self.grandmaster != self.own
    }

    /// Others may follow it, and it follows nobody.
    pub fn leads(&self) -> bool {
        self.port == Port::Master && self.grandmaster == self.own
    }

    /// Takes an answer in; which question it was to, and of which domain. `None` if it is
    /// no answer to the questions of this number.
    pub fn learn(&mut self, bytes: &[u8], number: u16) -> Option<(Question, u8)> {
        let u16_at = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let i64_at = |at: usize| Some(i64::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let identity_at = |at: usize| Some(Identity(*bytes.get(at..)?.first_chunk()?));
        let (&kind, &version) = (bytes.first()?, bytes.get(1)?);
        let is_it = kind & 0xf == MANAGEMENT
            && version & 0xf == VERSION
            && u16_at(30)? == number
            && bytes.get(46)? & 0xf == RESPONSE
            && u16_at(48)? == TLV_MANAGEMENT;
        let asked = QUESTIONS.into_iter().find(|it| u16_at(52) == Some(*it as u16));
        let asked = asked.filter(|_| is_it)?;
        // From here on all of it is taken, or nothing.
        match asked {
            Question::Ports => self.port = self.port.max(port(*bytes.get(64)?)),
            Question::Parent => {
                (self.class, self.grandmaster) = (*bytes.get(73)?, identity_at(78)?);
            }
            Question::Current => {
                let (steps, offset, delay) = (u16_at(54)?, i64_at(56)?, i64_at(64)?);
                self.steps = steps;
                (self.offset_s, self.path_delay_s) = (seconds(offset), seconds(delay));
            }
        }
        self.own = identity_at(20)?;
        Some((asked, *bytes.get(4)?))
    }
}

/// A question to all ports of a domain's clock. Its answers have the same number.
pub fn question(what: Question, domain: u8, number: u16) -> [u8; QUESTION] {
    let mut bytes = [0; QUESTION];
    (bytes[0], bytes[1], bytes[4]) = (MANAGEMENT, VERSION, domain);
    bytes[2..4].copy_from_slice(&(QUESTION as u16).to_be_bytes());
    // Who asks has a port of its own: a clock hears nothing from itself.
    bytes[29] = 1;
    bytes[30..32].copy_from_slice(&number.to_be_bytes());
    (bytes[32], bytes[33]) = (CONTROL, NO_INTERVAL);
    bytes[34..44].fill(0xff);
    bytes[46] = GET;
    for (at, word) in [(48, TLV_MANAGEMENT), (50, 2), (52, what as u16)] {
        bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

/// Table 8; linuxptp has 10 for a grandmaster's.
fn port(state: u8) -> Port {
    match state {
        4 => Port::Listening,
        5..=7 | 10 => Port::Master,
        8 => Port::Uncalibrated,
        9 => Port::Slave,
        _ => Port::Idle,
    }
}

/// Of 2^-16 nanoseconds.
fn seconds(interval: i64) -> f64 {
    interval as f64 / 65_536e9
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec::Vec};

    use super::*;

    /// As ptp4l 3.1.1 sent them, a slave in domain 24 whose grandmaster has class 6.
    const SENT: [&str; 3] = [
        "0d020050180000000000000000000000000000001e952bfffe3fbe8e00010007047f00000000000000000001\
         000002000001001c20041e952bfffe3fbe8e000109000000000000000000ff03fe010002",
        "0d020056180000000000000000000000000000001e952bfffe3fbe8e00000007047f00000000000000000001\
         0000020000010022200232adc3fffec40b1900010000ffff7fffffff0a06feffff8032adc3fffec40b19",
        "0d020048180000000000000000000000000000001e952bfffe3fbe8e00000007047f00000000000000000001\
         000002000001001420010001fffffffffb3e00000000000007120000",
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
        (0..hex.len()).step_by(2).map(digit).collect()
    }

    fn learned(sent: &[Vec<u8>]) -> Ptp {
        let mut ptp = Ptp::default();
        for (bytes, question) in sent.iter().zip(QUESTIONS) {
            assert_eq!(ptp.learn(bytes, 7), Some((question, 24)));
        }
        ptp
    }

    #[test]
    fn a_slave_of_a_clock_with_a_source_is_synchronized() {
        let mut sent: Vec<_> = SENT.map(bytes).into();
        let ptp = learned(&sent);
        assert!(ptp.is_synchronized());
        assert_eq!((ptp.class, ptp.steps, ptp.port), (6, 1, Port::Slave));
        assert_eq!(ptp.grandmaster.to_string(), "32adc3.fffe.c40b19");
        assert_eq!(ptp.own.to_string(), "1e952b.fffe.3fbe8e");
        assert_eq!((ptp.offset_s, ptp.path_delay_s), (-1218e-9, 1810e-9));

        // A clock that doesn't say where it has its time from, or is this one itself.
        sent[1][73] = CLASS_UNKNOWN;
        assert!(learned(&sent).follows() && !learned(&sent).is_synchronized());
        sent[1] = bytes(SENT[1]);
        sent[1].copy_within(20..28, 78);
        assert!(!learned(&sent).is_synchronized());
        // One that has a source of its own, and says so.
        sent[0][64] = 6;
        assert!(learned(&sent).is_synchronized() && !learned(&sent).follows());
        sent[1] = bytes(SENT[1]);
        for state in (0..=u8::MAX).filter(|it| *it != 9) {
            sent[0][64] = state;
            assert!(!learned(&sent).is_synchronized(), "state {state}");
        }
    }

    #[test]
    fn an_answer_is_taken_for_its_own_question_alone() {
        for (question, sent) in QUESTIONS.into_iter().zip(SENT.map(bytes)) {
            assert_eq!(Ptp::default().learn(&sent, 8), None, "{question:?} of another number");
            for at in [0, 1, 31, 46, 49, 53] {
                let mut other = sent.clone();
                other[at] ^= 0x0c;
                assert_eq!(Ptp::default().learn(&other, 7), None, "{question:?}, byte {at}");
            }
            let needed = [65, 86, 72][QUESTIONS.iter().position(|it| *it == question).unwrap_or(0)];
            for length in 0..needed {
                let cut = Ptp::default().learn(&sent[..length], 7);
                assert_eq!(cut, None, "{question:?}, {length} bytes");
            }
        }
        assert_eq!(Ptp::default().learn(&question(Question::Ports, 24, 7), 7), None, "a question");
    }

    /// A boundary clock has a port that follows and others that are followed.
    #[test]
    fn the_port_that_matters_most_is_told() {
        let (mut first, mut ptp) = (bytes(SENT[0]), Ptp::default());
        for (state, told) in [(6, Port::Master), (9, Port::Slave), (4, Port::Slave)] {
            first[64] = state;
            assert!(ptp.learn(&first, 7).is_some());
            assert_eq!(ptp.port, told);
        }
    }
}
