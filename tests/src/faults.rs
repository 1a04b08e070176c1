//! What goes wrong on a serial line, done to one answer in so many: on a line in
//! memory and on a pty alike.

use std::{env, time::Duration};

/// A fault in every so many answers.
const ONE_IN: u64 = 5;
/// The longest noise.
const MAX_NOISE: u64 = 30;

/// What is done to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is late, and with it all that follow.
    Stall,
    /// It is late, and what has piled up behind it comes out in steps.
    BacklogSpread,
    /// It alone is late, and is overtaken.
    OutOfOrder,
    /// One of its bits is another.
    BadCrc,
    /// Noise before it, after it or in its place.
    Garbage,
    /// It is cut off.
    Truncation,
    /// It never comes.
    Drop,
    /// It is another unit's.
    WrongUnit,
    /// It is of another length, with a good checksum.
    WrongLength,
    /// The request comes back, before it or in its place.
    Echo,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Fault; 11] = [
        Fault::None,
        Fault::Stall,
        Fault::BacklogSpread,
        Fault::OutOfOrder,
        Fault::BadCrc,
        Fault::Garbage,
        Fault::Truncation,
        Fault::Drop,
        Fault::WrongUnit,
        Fault::WrongLength,
        Fault::Echo,
    ];
}

/// How long what is late is late.
#[derive(Clone, Copy, Debug)]
pub struct Lateness {
    /// Later than a prompt answer by this.
    pub stall: Duration,
    /// Between two answers of a backlog.
    pub spread: Duration,
}

/// Reproducible chance.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed: `PURLIN_SEED`, or one of this process's own.
    pub fn new() -> (Self, u64) {
        let seed = env::var("PURLIN_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| std::process::id().into());
        (Self(seed), seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Does one kind of fault to the answers of one unit.
#[derive(Debug)]
pub struct Disturber {
    fault: Fault,
    lateness: Lateness,
    random: Random,
    /// When the last answer that keeps its turn comes out, on the caller's clock.
    turn: Duration,
}

impl Disturber {
    /// Does `fault` to some answers.
    pub fn new(fault: Fault, lateness: Lateness, random: Random) -> Self {
        Self { fault, lateness, random, turn: Duration::ZERO }
    }

    /// What comes out in place of `answer` (a whole frame) to `request`, and when,
    /// where `prompt` is when it would have.
    pub fn disturb(
        &mut self,
        request: &[u8],
        answer: &[u8],
        prompt: Duration,
    ) -> Option<(Duration, Vec<u8>)> {
        let fault = if self.random.below(ONE_IN) == 0 { self.fault } else { Fault::None };
        let (late, spread) = (prompt + self.lateness.stall, self.lateness.spread);
        if fault == Fault::OutOfOrder {
            return Some((late, answer.to_vec()));
        }
        let behind = self.fault == Fault::BacklogSpread && self.turn > prompt;
        self.turn = match fault {
            Fault::Stall | Fault::BacklogSpread => late.max(self.turn),
            _ => prompt.max(self.turn),
        };
        if behind {
            self.turn += spread;
        }
        Some((self.turn, self.changed(fault, request, answer)?))
    }

    fn changed(&mut self, fault: Fault, request: &[u8], answer: &[u8]) -> Option<Vec<u8>> {
        let random = &mut self.random;
        let mut bytes = answer.to_vec();
        match fault {
            Fault::None | Fault::Stall | Fault::BacklogSpread | Fault::OutOfOrder => {}
            Fault::BadCrc => {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            Fault::Garbage => {
                let noise: Vec<u8> =
                    (0..=random.below(MAX_NOISE)).map(|_| random.below(256) as u8).collect();
                match random.below(3) {
                    0 => bytes = noise,
                    1 => bytes.extend(noise),
                    _ => drop(bytes.splice(..0, noise)),
                }
            }
            Fault::Truncation => bytes.truncate(random.below(bytes.len() as u64) as usize),
            Fault::Drop => return None,
            Fault::WrongUnit => {
                bytes[0] += 1;
                seal(&mut bytes);
            }
            Fault::WrongLength => {
                // A register less, or one more where there is but one.
                match bytes[2] {
                    2 => drop(bytes.splice(3..3, [0, 0])),
                    _ => drop(bytes.drain(3..5)),
                }
                bytes[2] = bytes.len() as u8 - 5;
                seal(&mut bytes);
            }
            Fault::Echo => match random.below(2) {
                0 => bytes = request.to_vec(),
                _ => drop(bytes.splice(..0, request.iter().copied())),
            },
        }
        Some(bytes)
    }
}

/// Gives a changed frame the checksum it should have.
pub fn seal(frame: &mut [u8]) {
    let body = frame.len() - 2;
    let crc = purlin_core::modbus::rtu::crc(&frame[..body]).to_le_bytes();
    frame[body..].copy_from_slice(&crc);
}
