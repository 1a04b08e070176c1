//! Datagrams that only nodes of the rack can make, and that count once.
//!
//! ```text
//! "PUM2"                  4 bytes
//! length of the sender    u8, then the sender's node id
//! start                   u64   grows with each start of the sender
//! number                  u64   grows with each datagram of that start
//! clock                   u64   what the sender's clock shows, in seconds since 1970
//! revocations             u64   number of the list that the sender has
//! records                 u64   one number over all service records that the sender knows
//! alarms                  see `alarms`
//! payload
//! tag                     16 bytes of HMAC-SHA256 over all before
//! ```
//!
//! Two keys are good at once, so that a key can be changed without parting a rack: first
//! every node is given both, then the new one first, then it alone.

use std::{collections::HashMap, fmt};

use ring::hmac;

use super::alarms::{self, Said};

const MAGIC: [u8; 4] = *b"PUM2";
const TAG: usize = 16;
/// What it adds to a payload at most.
pub const OVERHEAD: usize = 4 + 1 + MAX_SENDER + 5 * 8 + alarms::MAX_BYTES + TAG;
/// The longest node id, in bytes.
pub const MAX_SENDER: usize = 63;
/// Senders that are kept count of: whoever has the key may be any.
const MAX_SENDERS: usize = 512;
/// Datagrams that may overtake each other.
const WINDOW: u64 = 64;

/// A rack's keys, the one that is used first.
pub type Keys = Vec<[u8; 32]>;

/// Why a datagram is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsealed {
    /// It is none.
    Garbage,
    /// By neither key.
    WrongKey,
    /// It came before, or is older than what came.
    Replayed,
}

impl fmt::Display for Unsealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unsealed::Garbage => "garbage",
            Unsealed::WrongKey => "wrong key",
            Unsealed::Replayed => "replayed",
        })
    }
}

/// What stands beside a payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Whose it is.
    pub sender: String,
    /// What its clock shows.
    pub clock: u64,
    /// Number of its list of revocations.
    pub revocations: u64,
    /// One number over all service records that it knows.
    pub records: u64,
    /// What is raised on it.
    pub alarms: Said,
}

/// Seals what is sent.
#[derive(Debug)]
pub struct Sealer {
    key: hmac::Key,
    start: u64,
    number: u64,
}

impl Sealer {
    /// With the first key.
    pub fn new(keys: &Keys, start: u64) -> Option<Self> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, keys.first()?);
        Some(Self { key, start, number: 0 })
    }

    /// A datagram.
    pub fn seal(&mut self, beside: &Beside, payload: &[u8]) -> Vec<u8> {
        self.number += 1;
        let sender = &beside.sender.as_bytes()[..beside.sender.len().min(MAX_SENDER)];
        let mut bytes = Vec::with_capacity(OVERHEAD + payload.len());
        bytes.extend(MAGIC);
        bytes.push(sender.len() as u8);
        bytes.extend(sender);
        let beside_it = [beside.clock, beside.revocations, beside.records];
        for number in [self.start, self.number].into_iter().chain(beside_it) {
            bytes.extend(number.to_be_bytes());
        }
        alarms::put(&mut bytes, &beside.alarms);
        bytes.extend(payload);
        self.sign(bytes)
    }

    /// The same of what stands before the tag, whatever it is.
    pub fn sign(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let tag = hmac::sign(&self.key, &bytes);
        bytes.extend(&tag.as_ref()[..TAG]);
        bytes
    }
}

/// Opens what comes.
#[derive(Debug, Default)]
pub struct Opener {
    keys: Vec<hmac::Key>,
    senders: HashMap<String, Seen>,
}

/// What came of one sender: its start, the highest number, and which of those before it.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    start: u64,
    highest: u64,
    before: u64,
}

impl Seen {
    fn take(&mut self, start: u64, number: u64) -> bool {
        if start < self.start {
            return false;
        }
        if start > self.start {
            *self = Self { start, highest: 0, before: 0 };
        }
        if number > self.highest {
            let by = number - self.highest;
            self.before = self.before.checked_shl(by as u32).filter(|_| by < WINDOW).unwrap_or(0);
            self.before |= if by <= WINDOW && self.highest > 0 { 1 << (by - 1) } else { 0 };
            self.highest = number;
            return true;
        }
        let behind = self.highest - number;
        let is_new = (1..=WINDOW).contains(&behind) && self.before & (1 << (behind - 1)) == 0;
        if is_new {
            self.before |= 1 << (behind - 1);
        }
        is_new
    }
}

impl Opener {
    /// With all keys.
    pub fn new(keys: &Keys) -> Self {
        let keys = keys.iter().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key));
        Self { keys: keys.collect(), senders: HashMap::new() }
    }

    /// What a datagram holds, if a node of the rack has made it and it is new.
    pub fn open<'b>(&mut self, bytes: &'b [u8]) -> Result<(Beside, &'b [u8]), Unsealed> {
        let (beside, (start, number), payload, signed, tag) =
            split(bytes).ok_or(Unsealed::Garbage)?;
        let is_by = |key: &hmac::Key| {
            let right = hmac::sign(key, signed);
            // In constant time: ring has no check of a part of a tag.
            right.as_ref().iter().zip(tag).fold(0, |wrong, (a, b)| wrong | (a ^ b)) == 0
        };
        if !self.keys.iter().any(is_by) {
            return Err(Unsealed::WrongKey);
        }
        if self.senders.len() >= MAX_SENDERS && !self.senders.contains_key(&beside.sender) {
            self.senders.clear();
        }
        match self.senders.entry(beside.sender.clone()).or_default().take(start, number) {
            true => Ok((beside, payload)),
            false => Err(Unsealed::Replayed),
        }
    }
}

type Parts<'b> = (Beside, (u64, u64), &'b [u8], &'b [u8], &'b [u8]);

fn split(bytes: &[u8]) -> Option<Parts<'_>> {
    let (signed, tag) = bytes.split_last_chunk::<TAG>()?;
    let rest = signed.strip_prefix(&MAGIC)?;
    let (length, rest) = rest.split_first()?;
    let (sender, mut rest) = rest.split_at_checked(usize::from(*length))?;
    let sender = str::from_utf8(sender).ok().filter(|it| it.len() <= MAX_SENDER)?.to_owned();
    let mut numbers = [0; 5];
    for number in &mut numbers {
        let (bytes, after) = rest.split_first_chunk()?;
        (*number, rest) = (u64::from_be_bytes(*bytes), after);
    }
    let [start, number, clock, revocations, records] = numbers;
    let (alarms, payload) = alarms::take(rest)?;
    let beside = Beside { sender, clock, revocations, records, alarms };
    Some((beside, (start, number), payload, signed, tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(sender: &str) -> Beside {
        let (sender, alarms) = (sender.into(), Some(Vec::new()));
        Beside { sender, clock: 7, revocations: 3, records: 9, alarms }
    }

    #[test]
    fn only_a_key_of_the_rack_opens_and_either_of_two_does() {
        let (old, new, other) = ([1; 32], [2; 32], [3; 32]);
        let sealed = |key| Sealer::new(&vec![key], 1).expect("a key").seal(&beside("a"), b"hello");
        let mut both = Opener::new(&vec![new, old]);
        assert_eq!(both.open(&sealed(old)), Ok((beside("a"), &b"hello"[..])));
        assert_eq!(both.open(&sealed(other)), Err(Unsealed::WrongKey));
        assert_eq!(Opener::new(&vec![new]).open(&sealed(old)), Err(Unsealed::WrongKey));
        assert_eq!(Opener::new(&Vec::new()).open(&sealed(old)), Err(Unsealed::WrongKey));
        let whole = sealed(new);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(Opener::new(&vec![new]).open(&damaged).is_err(), "byte {at}");
            assert!(Opener::new(&vec![new]).open(&whole[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_came_counts_once_in_whatever_order() {
        let keys = vec![[1; 32]];
        let mut sealer = Sealer::new(&keys, 5).expect("a key");
        let all: Vec<_> = (0..200_u8).map(|n| sealer.seal(&beside("a"), &[n])).collect();
        let mut opener = Opener::new(&keys);
        let mut came = |n: usize| opener.open(&all[n]).is_ok();
        for (n, is_new) in
            [(0, true), (0, false), (3, true), (1, true), (1, false), (2, true), (3, false)]
        {
            assert_eq!(came(n), is_new, "{n}");
        }
        assert!(came(199) && !came(199) && came(150) && !came(150), "within the window");
        assert!(!came(100), "too old to tell");
        let before = Sealer::new(&keys, 4).expect("a key").seal(&beside("a"), b"");
        assert_eq!(opener.open(&before), Err(Unsealed::Replayed), "of a start before");
        let after = Sealer::new(&keys, 6).expect("a key").seal(&beside("a"), b"");
        assert!(opener.open(&after).is_ok() && opener.open(&after).is_err());
        assert!(opener.open(&all[199]).is_err(), "that start is over");
        let other = Sealer::new(&keys, 1).expect("a key").seal(&beside("b"), b"");
        assert!(opener.open(&other).is_ok(), "each sender counts for itself");
    }
}
