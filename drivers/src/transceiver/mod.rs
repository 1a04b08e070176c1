//! What a pluggable module's memory says.
//!
//! Page: `hw-docs/nic.md`. Three memory maps: SFF-8472 (SFP), SFF-8636 (QSFP)
//! and CMIS (QSFP-DD, OSFP and what came after). The first byte tells which.
//! Total on any bytes: a module may hold nonsense, and cheap ones do. A wrong
//! checksum is told, and nothing is dropped for it.
//!
//! Owns no bus: the caller brings the pages.

mod cmis;
mod codes;
mod sff8472;
mod sff8636;

use std::collections::BTreeMap;

use purlin_core::inventory::{AlarmLimits, Power, Transceiver};

use crate::probe::label;

/// Bytes of a page, or of the lower half.
pub const PAGE: usize = 128;

/// 128 bytes of a module's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page {
    /// I²C address: 0x50, or 0x51 for an SFP's diagnostics.
    pub device: u8,
    /// False for bytes 0 to 127, which no page selection changes.
    pub upper: bool,
    /// Page selected for bytes 128 to 255.
    pub page: u8,
}

impl Page {
    /// What every module has.
    pub const LOWER: Page = Page { device: 0x50, upper: false, page: 0 };

    /// Every page that is looked at, in the order of [`Pages::from_flat`].
    pub const ALL: [Page; 7] = [
        Page::LOWER,
        Page::upper(0),
        Page::upper(1),
        Page::upper(2),
        Page::upper(3),
        Page::upper(0x11),
        Page::DIAGNOSTICS,
    ];

    /// A2h of SFF-8472, bytes 0 to 127.
    pub const DIAGNOSTICS: Page = Page { device: 0x51, upper: false, page: 0 };

    /// Bytes 128 to 255 with a page selected.
    pub const fn upper(page: u8) -> Self {
        Self { device: 0x50, upper: true, page }
    }

    /// Where it begins: 0 or 128.
    pub fn offset(self) -> u32 {
        if self.upper { 128 } else { 0 }
    }
}

/// The pages of a module that could be read.
#[derive(Clone, Debug, Default)]
pub struct Pages(BTreeMap<Page, [u8; PAGE]>);

impl Pages {
    /// Adds a page; one that isn't whole is left out.
    pub fn put(&mut self, page: Page, bytes: &[u8]) {
        if let Ok(bytes) = bytes.try_into() {
            self.0.insert(page, bytes);
        }
    }

    /// Pages one after the other, in the order of [`Page::ALL`].
    pub fn from_flat(bytes: &[u8]) -> Self {
        let mut pages = Self::default();
        for (page, bytes) in Page::ALL.into_iter().zip(bytes.chunks(PAGE)) {
            pages.put(page, bytes);
        }
        pages
    }

    /// The bytes of a page, by their own addresses: those of an upper half
    /// begin at 128.
    fn get(&self, page: Page) -> Option<Memory<'_>> {
        Some(Memory { bytes: self.0.get(&page)?, first: page.offset() as usize })
    }
}

/// One page, read by the addresses that the specifications use. What lies
/// outside of it reads 0: addresses are constants, and a test would tell.
#[derive(Clone, Copy)]
struct Memory<'a> {
    bytes: &'a [u8; PAGE],
    first: usize,
}

impl Memory<'_> {
    fn byte(&self, at: usize) -> u8 {
        at.checked_sub(self.first).and_then(|at| self.bytes.get(at)).copied().unwrap_or_default()
    }

    fn bit(&self, at: usize, bit: u8) -> bool {
        self.byte(at) >> bit & 1 == 1
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.byte(at), self.byte(at + 1)])
    }

    fn i16(&self, at: usize) -> i16 {
        self.u16(at).cast_signed()
    }

    fn f32(&self, at: usize) -> f64 {
        let bytes = [0, 1, 2, 3].map(|more| self.byte(at + more));
        f64::from(f32::from_be_bytes(bytes))
    }

    /// A text padded with blanks; `None` if it is empty.
    fn text(&self, at: usize, length: usize) -> Option<String> {
        let bytes: Vec<u8> = (at..at + length).map(|at| self.byte(at)).collect();
        label(&String::from_utf8_lossy(&bytes))
            .filter(|text| text.chars().any(char::is_alphanumeric))
    }

    fn oui(&self, at: usize) -> Option<String> {
        crate::nic::mac(&[self.byte(at), self.byte(at + 1), self.byte(at + 2)])
    }

    /// `YYMMDD` and two characters of a lot.
    fn date(&self, at: usize) -> Option<String> {
        let digits = self
            .text(at, 6)
            .filter(|it| it.len() == 6 && it.bytes().all(|b| b.is_ascii_digit()))?;
        let date = format!("20{}-{}-{}", &digits[..2], &digits[2..4], &digits[4..]);
        Some(match self.text(at + 6, 2) {
            Some(lot) => format!("{date} lot {lot}"),
            None => date,
        })
    }

    /// What is wrong with the checksum `at`, over the bytes from `first` up to
    /// it: the low byte of their sum.
    fn wrong_checksum(&self, name: &str, first: usize, at: usize) -> Option<String> {
        let sum = (first..at).fold(0u8, |sum, at| sum.wrapping_add(self.byte(at)));
        let stored = self.byte(at);
        (sum != stored).then(|| format!("{name} is {stored:#04x}, its bytes make {sum:#04x}"))
    }

    /// Four big-endian words: high and low alarm, high and low warning.
    fn limits(&self, at: usize, value: impl Fn(&Self, usize) -> f64) -> AlarmLimits {
        AlarmLimits {
            high_alarm: rounded(value(self, at)),
            low_alarm: rounded(value(self, at + 2)),
            high_warning: rounded(value(self, at + 4)),
            low_warning: rounded(value(self, at + 6)),
        }
    }

    /// Degrees Celsius, in 1/256.
    fn celsius(&self, at: usize) -> f64 {
        f64::from(self.i16(at)) / 256.0
    }

    /// Volt, in 100 µV.
    fn volt(&self, at: usize) -> f64 {
        f64::from(self.u16(at)) / 10_000.0
    }

    /// Milliampere, in 2 µA.
    fn milliampere(&self, at: usize) -> f64 {
        f64::from(self.u16(at)) * 0.002
    }

    /// Milliwatt, in 0.1 µW.
    fn milliwatt(&self, at: usize) -> f64 {
        f64::from(self.u16(at)) / 10_000.0
    }
}

/// The pages still needed, once the lower half is there.
pub fn wanted(pages: &Pages) -> Vec<Page> {
    let Some(lower) = pages.get(Page::LOWER) else { return Vec::new() };
    let uppers = |pages: &[u8]| pages.iter().map(|page| Page::upper(*page)).collect();
    match codes::map(lower.byte(0)) {
        None => Vec::new(),
        Some(codes::Map::Sff8472) if lower.bit(92, 6) => vec![Page::DIAGNOSTICS],
        Some(codes::Map::Sff8472) => Vec::new(),
        // A flat memory has no other page; what it answers then is page 0 again.
        Some(codes::Map::Sff8636) if lower.bit(2, 2) => uppers(&[0]),
        Some(codes::Map::Sff8636) => uppers(&[0, 3]),
        Some(codes::Map::Cmis) if lower.bit(2, 7) => uppers(&[0]),
        Some(codes::Map::Cmis) => uppers(&[0, 1, 2, 0x11]),
    }
}

/// The module; `None` if its first byte names no kind that has a known map.
pub fn decode(pages: &Pages) -> Option<Transceiver> {
    let lower = pages.get(Page::LOWER)?;
    let mut module = match codes::map(lower.byte(0))? {
        codes::Map::Sff8472 => sff8472::decode(lower, pages),
        codes::Map::Sff8636 => sff8636::decode(lower, pages),
        codes::Map::Cmis => cmis::decode(lower, pages),
    };
    module.form = codes::form(lower.byte(0)).into();
    Some(module)
}

/// A reading with the digits that a module measures; nothing that isn't a
/// number gets out.
fn rounded(value: f64) -> f64 {
    if value.is_finite() { (value * 10_000.0).round() / 10_000.0 } else { 0.0 }
}

/// A reading made with constants that a module may have wrong.
fn told(value: f64) -> Option<f64> {
    value.is_finite().then(|| rounded(value))
}

fn power(mw: f64) -> Option<Power> {
    let dbm = (mw > 0.0).then(|| (1000.0 * mw.log10()).round() / 100.0);
    Some(Power { mw: told(mw.max(0.0))?, dbm: dbm.filter(|dbm| dbm.is_finite()) })
}

/// The names of the flags that are set, highest bit first.
fn flags<const N: usize>(byte: u8, names: [&str; N]) -> impl Iterator<Item = String> {
    (0..8u8).rev().zip(names).filter(move |(bit, _)| byte >> bit & 1 == 1).map(|(_, it)| it.into())
}
