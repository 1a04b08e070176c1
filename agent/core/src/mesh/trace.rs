//! Which trace a request belongs to, and what it is told further on: `traceparent` of W3C
//! Trace Context. This hop has a parent id of its own; a trace that can't be read is begun
//! anew, and then whatever stands beside it (`tracestate`) is worth nothing.
//!
//! Source: W3C Trace Context, 3.2 ("Traceparent Header") and 4.2 ("Processing Model").

use alloc::string::String;

/// The header.
pub const HEADER: &str = "traceparent";
/// What stands beside it.
pub const STATE: &str = "tracestate";
/// `VERSION-TRACEID-PARENTID-FLAGS` of version 00.
const BYTES: usize = 55;
/// The flags that version 00 knows: sampled, and (level 2) a trace id that is random.
/// Others are set to zero when they are passed on.
const FLAGS: u8 = 0b11;

/// A trace, and who asks in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    id: u128,
    parent: u64,
    flags: u8,
}

impl Trace {
    /// Reads a header. A version that is not known yet may say more after what this one
    /// says; `None` for whatever is none.
    pub fn read(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let version = hex(bytes.get(..2)?)? as u8;
        let is_long = match version {
            0 => bytes.len() == BYTES,
            0xff => false,
            _ => bytes.len() == BYTES || bytes.get(BYTES) == Some(&b'-'),
        };
        let has_dashes = [2, 35, 52].iter().all(|&at| bytes.get(at) == Some(&b'-'));
        if !is_long || !has_dashes {
            return None;
        }
        let (id, parent) = (hex(&bytes[3..35])?, hex(&bytes[36..52])? as u64);
        let flags = hex(&bytes[53..BYTES])? as u8;
        (id != 0 && parent != 0).then_some(Self { id, parent, flags: flags & FLAGS })
    }

    /// One that begins here, and is not sampled: nobody has said that it is to be.
    pub fn new(random: [u64; 3]) -> Self {
        let [upper, lower, parent] = random;
        // Zeros would be no trace.
        let id = u128::from(upper) << 64 | u128::from(lower.max(1));
        Self { id, parent: parent.max(1), flags: 0 }
    }

    /// The same one, as this hop passes it on.
    pub fn passed_on(self, random: u64) -> Self {
        Self { parent: random.max(1), ..self }
    }

    /// The header's value. Each request has one: formatting would take longer than all
    /// else that is done with its headers.
    pub fn header(self) -> [u8; BYTES] {
        let mut text = [b'-'; BYTES];
        write_hex(&mut text[..2], 0);
        write_hex(&mut text[3..35], self.id);
        write_hex(&mut text[36..52], self.parent.into());
        write_hex(&mut text[53..], self.flags.into());
        text
    }

    /// Its id, for people.
    pub fn id(self) -> String {
        alloc::format!("{:032x}", self.id)
    }
}

/// A number in as many lower-case hexadecimal digits.
fn write_hex(digits: &mut [u8], number: u128) {
    for (digit, shift) in digits.iter_mut().rev().zip((0..).step_by(4)) {
        *digit = b"0123456789abcdef"[(number >> shift) as usize & 0xf];
    }
}

/// A number in lower-case hexadecimal digits alone.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value, digit| match digit {
        b'0'..=b'9' => Some(value << 4 | u128::from(digit - b'0')),
        b'a'..=b'f' => Some(value << 4 | u128::from(digit - b'a' + 10)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn passed(text: &str) -> Option<String> {
        Trace::read(text).map(|it| text_of(it.passed_on(7)))
    }

    fn text_of(trace: Trace) -> String {
        String::from_utf8_lossy(&trace.header()).into_owned()
    }

    #[test]
    fn a_trace_goes_on_with_a_parent_of_its_own() {
        for (flags, kept) in [("00", "00"), ("01", "01"), ("03", "03"), ("ff", "03"), ("0a", "02")]
        {
            let on = passed(&alloc::format!("00-{ID}-00f067aa0ba902b7-{flags}"));
            assert_eq!(on, Some(alloc::format!("00-{ID}-0000000000000007-{kept}")), "{flags}");
        }
        let trace = Trace::read(&alloc::format!("00-{ID}-00f067aa0ba902b7-01"));
        assert_eq!(trace.map(Trace::id), Some(ID.into()));
    }

    /// The cases of the recommendation's own test suite, by what they are about.
    #[test]
    fn what_is_no_trace_is_none() {
        let parent = "00f067aa0ba902b7";
        for bad in [
            String::new(),
            "00".into(),
            alloc::format!("00-{ID}-{parent}"),
            alloc::format!("00-{ID}-{parent}-"),
            alloc::format!("00-{ID}-{parent}-1"),
            alloc::format!("00-{ID}-{parent}-01-"),
            alloc::format!("00-{ID}-{parent}-01-more"),
            alloc::format!("00-{ID}-{parent}-01 "),
            alloc::format!(" 00-{ID}-{parent}-01"),
            alloc::format!("ff-{ID}-{parent}-01"),
            alloc::format!("0-{ID}-{parent}-001"),
            alloc::format!("000-{ID}-{parent}-01"),
            alloc::format!(".0-{ID}-{parent}-01"),
            alloc::format!("0.-{ID}-{parent}-01"),
            alloc::format!("00-{}-{parent}-01", "0".repeat(32)),
            alloc::format!("00-{ID}-{}-01", "0".repeat(16)),
            alloc::format!("00-{}-{parent}-01", ID.to_uppercase()),
            alloc::format!("00-{ID}-{}-01", parent.to_uppercase()),
            alloc::format!("00-{ID}-{parent}-0A"),
            alloc::format!("00-{ID}-{parent}-.0"),
            alloc::format!("00-{}-{parent}-01", ID.replace('4', ".")),
            alloc::format!("00-{}-{parent}-010", &ID[1..]),
            alloc::format!("00_{ID}_{parent}_01"),
            alloc::format!("cc-{ID}-{parent}-01.what"),
            alloc::format!("00-{ID}-{parent}-0é"),
        ] {
            assert_eq!(passed(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_version_to_come_is_read_as_far_as_this_one_says() {
        let on = Some(alloc::format!("00-{ID}-0000000000000007-01"));
        for rest in ["", "-", "-what-the-future-will-be-like"] {
            assert_eq!(passed(&alloc::format!("cc-{ID}-00f067aa0ba902b7-01{rest}")), on, "{rest}");
        }
    }

    #[test]
    fn one_that_begins_here_is_a_trace_and_not_sampled() {
        for random in [[0; 3], [1, 2, 3], [u64::MAX; 3]] {
            let trace = Trace::new(random);
            assert_eq!(Trace::read(&text_of(trace)), Some(trace));
            assert!(text_of(trace).ends_with("-00"));
        }
        assert!(Trace::read(&text_of(Trace::new([9; 3]).passed_on(0))).is_some());
    }
}
