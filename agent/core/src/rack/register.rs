//! What the words of a register mean.

use alloc::{format, string::String, vec::Vec};
use core::{ops::RangeInclusive, time::Duration};

use serde::Serialize;

use super::action::Action;
use crate::modbus::pdu::Table;

/// How a register's words make a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in a map")]
pub enum Kind {
    U16,
    S16,
    U32,
    S32,
    F32,
    /// Bits, each with a name or without.
    Flags,
    /// Two characters a word, padded with spaces or zeros.
    Text {
        /// Its words.
        words: u16,
    },
}

impl Kind {
    /// Words it takes.
    pub fn words(self) -> u16 {
        match self {
            Kind::U16 | Kind::S16 | Kind::Flags => 1,
            Kind::U32 | Kind::S32 | Kind::F32 => 2,
            Kind::Text { words } => words,
        }
    }
}

/// One register of a map: where it is, and what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    /// Its name within the map.
    pub name: String,
    /// In which table.
    pub table: Table,
    /// Its first word.
    pub address: u16,
    /// How its words make a number or a text.
    pub kind: Kind,
    /// Whether the low word comes first.
    pub low_word_first: bool,
    /// What the number is multiplied by.
    pub scale: f64,
    /// What is added then.
    pub offset: f64,
    /// UCUM; empty for flags and text.
    pub unit: String,
    /// The metric it is a point of; empty if it is none.
    pub metric: String,
    /// What it can be; a value beyond is suspect.
    pub valid: Option<RangeInclusive<f64>>,
    /// How often it is read.
    pub interval: Duration,
    /// Names of bits, by their number.
    pub flags: Vec<(u8, String)>,
    /// What may be written to it.
    pub write: Option<Action>,
}

/// What a register said.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// In the register's unit.
    Number(f64),
    /// Printable characters.
    Text(String),
    /// The names of the bits that are set.
    Flags(Vec<String>),
}

/// How far a value may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Read when it was due, and possible.
    Good,
    /// Good when it was read, and overdue since.
    Stale,
    /// Read, but not possible: the device or the map is wrong.
    Suspect,
    /// There is none: never read, or no number.
    Bad,
}

/// A value that isn't read again within this many of its intervals is stale: one may
/// be lost.
pub const STALE_AFTER_INTERVALS: u32 = 2;

impl Register {
    /// Words it takes.
    pub fn words(&self) -> u16 {
        self.kind.words()
    }

    /// What its words say, and how far that may be believed.
    pub fn decode(&self, words: &[u16]) -> (Option<Value>, Quality) {
        if words.len() != usize::from(self.words()) {
            return (None, Quality::Bad);
        }
        let number = match self.kind {
            Kind::Text { .. } => return text(words),
            Kind::Flags => return self.flags(words[0]),
            Kind::U16 => f64::from(words[0]),
            Kind::S16 => f64::from(words[0].cast_signed()),
            Kind::U32 => f64::from(self.long(words)),
            Kind::S32 => f64::from(self.long(words).cast_signed()),
            Kind::F32 => f64::from(f32::from_bits(self.long(words))),
        };
        let value = number * self.scale + self.offset;
        if !value.is_finite() {
            return (None, Quality::Bad);
        }
        let possible = self.valid.as_ref().is_none_or(|valid| valid.contains(&value));
        (Some(Value::Number(value)), if possible { Quality::Good } else { Quality::Suspect })
    }

    fn long(&self, words: &[u16]) -> u32 {
        let (high, low) = if self.low_word_first { (1, 0) } else { (0, 1) };
        u32::from(words[high]) << 16 | u32::from(words[low])
    }

    /// A bit without a name is told by its number, and is suspect: the map lacks it.
    fn flags(&self, word: u16) -> (Option<Value>, Quality) {
        let mut quality = Quality::Good;
        let set = (0..16).filter(|bit| word >> bit & 1 == 1).map(|bit| {
            let named = self.flags.iter().find(|(number, _)| *number == bit);
            named.map_or_else(
                || {
                    quality = Quality::Suspect;
                    format!("bit {bit}")
                },
                |(_, name)| name.clone(),
            )
        });
        let set = set.collect();
        (Some(Value::Flags(set)), quality)
    }
}

fn text(words: &[u16]) -> (Option<Value>, Quality) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    let end =
        bytes.iter().rposition(|byte| !matches!(byte, 0 | b' ' | 0xff)).map_or(0, |at| at + 1);
    let printable = bytes[..end].iter().all(|byte| (b' '..=b'~').contains(byte));
    let shown = |byte: &u8| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' };
    let text = bytes[..end].iter().map(shown).collect();
    (Some(Value::Text(text)), if printable { Quality::Good } else { Quality::Suspect })
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use expect_test::{Expect, expect};

    use super::*;

    fn register(kind: Kind) -> Register {
        Register {
            name: "it".into(),
            table: Table::HoldingRegisters,
            address: 0,
            kind,
            low_word_first: false,
            scale: 1.0,
            offset: 0.0,
            unit: "V".into(),
            metric: String::new(),
            valid: None,
            interval: Duration::from_secs(10),
            flags: vec![(0, "fan failed".into()), (15, "hot".into())],
            write: None,
        }
    }

    fn check(register: &Register, words: &[u16], expected: Expect) {
        let (value, quality) = register.decode(words);
        expected.assert_eq(&format!("{value:?} {quality:?}"));
    }

    #[test]
    fn words_are_numbers_in_their_unit() {
        let inlet =
            Register { scale: 1.0 / 128.0, valid: Some(-40.0..=150.0), ..register(Kind::S16) };
        check(&inlet, &[0x0c80], expect!["Some(Number(25.0)) Good"]);
        check(&inlet, &[0xff80], expect!["Some(Number(-1.0)) Good"]);
        check(&inlet, &[0x7fff], expect!["Some(Number(255.9921875)) Suspect"]);
        check(&inlet, &[1, 2], expect!["None Bad"]);
        check(&register(Kind::U32), &[1, 2], expect!["Some(Number(65538.0)) Good"]);
        let low_first = Register { low_word_first: true, ..register(Kind::S32) };
        check(&low_first, &[0xfffe, 0xffff], expect!["Some(Number(-2.0)) Good"]);
        check(
            &register(Kind::F32),
            &[0x4366, 0x3333],
            expect!["Some(Number(230.1999969482422)) Good"],
        );
        check(&register(Kind::F32), &[0x7fc0, 0], expect!["None Bad"]);
    }

    #[test]
    fn bits_have_names_and_a_nameless_one_is_suspect() {
        check(
            &register(Kind::Flags),
            &[0x8001],
            expect![[r#"Some(Flags(["fan failed", "hot"])) Good"#]],
        );
        check(&register(Kind::Flags), &[0], expect!["Some(Flags([])) Good"]);
        check(&register(Kind::Flags), &[2], expect![[r#"Some(Flags(["bit 1"])) Suspect"#]]);
    }

    #[test]
    fn text_loses_its_padding_and_nothing_else() {
        let text = register(Kind::Text { words: 3 });
        check(&text, &[0x4142, 0x4320, 0], expect![[r#"Some(Text("ABC")) Good"#]]);
        check(&text, &[0, 0, 0], expect![[r#"Some(Text("")) Good"#]]);
        check(&text, &[0x4107, 0x4220, 0x2020], expect![[r#"Some(Text("A.B")) Suspect"#]]);
    }
}
