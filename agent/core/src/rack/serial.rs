//! How characters go over a serial line.

use alloc::{format, string::String};
use core::{fmt, ops::RangeInclusive, str::FromStr};

use crate::modbus::rtu::Speed;

/// Bits a second: what RS-485 adapters and the devices behind them can do.
pub const BAUD: RangeInclusive<u32> = 1200..=921_600;
/// What most devices are delivered with, and the specification's default (SL 3.3).
pub const BAUD_DEFAULT: u32 = 19_200;

/// The bit that guards a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Parity {
    None,
    Even,
    Odd,
}

/// Baud rate and the form of a character, which is always of 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bits a second.
    pub baud: u32,
    /// What guards a character.
    pub form: Form,
}

/// The form of a character, as technicians write it: `8E1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The bit that guards it.
    pub parity: Parity,
    /// One stop bit, or two.
    pub two_stop_bits: bool,
}

impl Form {
    /// The specification's default (SL 2.5.1).
    pub const DEFAULT: Self = Self { parity: Parity::Even, two_stop_bits: false };
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        write!(f, "8{parity}{}", if self.two_stop_bits { 2 } else { 1 })
    }
}

impl FromStr for Form {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parity = match text.get(..2) {
            Some("8N") => Some(Parity::None),
            Some("8E") => Some(Parity::Even),
            Some("8O") => Some(Parity::Odd),
            _ => None,
        };
        let two_stop_bits = match text.get(2..) {
            Some("1") => Some(false),
            Some("2") => Some(true),
            _ => None,
        };
        match (parity, two_stop_bits) {
            (Some(parity), Some(two_stop_bits)) => Ok(Self { parity, two_stop_bits }),
            _ => Err(format!("\"{text}\" is none of 8N1, 8N2, 8E1, 8E2, 8O1, 8O2")),
        }
    }
}

impl Settings {
    /// How long characters take.
    pub fn speed(self) -> Speed {
        let parity = u32::from(self.form.parity != Parity::None);
        let stop = if self.form.two_stop_bits { 2 } else { 1 };
        Speed { baud: self.baud, bits: 1 + 8 + parity + stop }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn forms_are_read_as_they_are_written() {
        for text in ["8N1", "8N2", "8E1", "8E2", "8O1", "8O2"] {
            assert_eq!(text.parse::<Form>().map(|form| form.to_string()), Ok(text.into()));
        }
        for text in ["", "8", "7E1", "8E", "8E3", "8e1", "8N1 ", "8ä1"] {
            assert!(text.parse::<Form>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_character_is_ten_to_twelve_bits() {
        let bits = |form: &str| {
            let form = form.parse().expect("a form");
            Settings { baud: 9600, form }.speed().bits
        };
        assert_eq!([bits("8N1"), bits("8E1"), bits("8N2"), bits("8O2")], [10, 11, 11, 12]);
    }
}
