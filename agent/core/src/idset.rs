//! Sets of small ids (CPUs, NUMA nodes) in the kernel's list form, `0-3,8,10-11`.
//!
//! The form is that of the kernel's bitmap lists (Documentation/core-api/kernel-api,
//! `bitmap_parselist`), without its `:used/group` extension, which sysfs never
//! prints.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;

use serde::{Deserialize, Serialize};

/// The largest id accepted: twice the kernel's own `NR_CPUS` maximum (8192), so
/// that a damaged list can't make us allocate without bound.
pub const MAX_ID: u32 = 16_383;

/// A set of CPU or node ids, ordered: a bit for each, 64 a word, and no empty
/// word at the end, so that equal sets are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdSet(Vec<u64>);

impl IdSet {
    /// Reads the kernel's list form. White space and NUL bytes around it are
    /// ignored (some kernels end a list with a NUL); an empty list is the empty set.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut ids = Self::default();
        let list = list.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (parse_id(first)?, parse_id(last)?);
            if first > last {
                return Err(format!("\"{part}\" is a range that runs backwards"));
            }
            (first..=last).for_each(|id| ids.insert(id));
        }
        Ok(ids)
    }

    /// Reads the kernel's mask form, `ff,00000001`: hexadecimal words of 32
    /// bits, the highest first. What [`IdSet::parse`] ignores is ignored.
    pub fn parse_mask(mask: &str) -> Result<Self, String> {
        let mut ids = Self::default();
        let mask = mask.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        for (place, word) in mask.rsplit(',').enumerate() {
            let bits = u32::from_str_radix(word.trim(), 16)
                .map_err(|_| format!("{word} is not a word of a mask"))?;
            if bits == 0 {
                continue;
            }
            if place > MAX_ID as usize / 32 {
                let id = (place as u64 * 32).saturating_add(bits.trailing_zeros().into());
                return Err(format!("id {id} is over the limit of {MAX_ID}"));
            }
            ids.grow(place / 2);
            ids.0[place / 2] |= u64::from(bits) << (place % 2 * 32);
        }
        Ok(ids)
    }

    /// The kernel's mask form.
    pub fn to_mask(&self) -> String {
        let halves = self.0.iter().flat_map(|word| [*word as u32, (word >> 32) as u32]);
        let mut words: Vec<u32> = halves.collect();
        while words.len() > 1 && words.last() == Some(&0) {
            words.pop();
        }
        let words: Vec<String> = words.iter().rev().map(|word| format!("{word:08x}")).collect();
        if words.is_empty() { "0".into() } else { words.join(",") }
    }

    /// The ids, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        let bits = |(place, word): (usize, &u64)| Bits { first: place as u32 * 64, word: *word };
        self.0.iter().enumerate().flat_map(bits)
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// True if there is no id.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if `id` is a member.
    pub fn contains(&self, id: u32) -> bool {
        self.0.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    /// The smallest id.
    pub fn first(&self) -> Option<u32> {
        let place = self.0.iter().position(|word| *word != 0)?;
        Some(place as u32 * 64 + self.0[place].trailing_zeros())
    }

    /// Adds an id.
    pub fn insert(&mut self, id: u32) {
        let place = id as usize / 64;
        self.grow(place);
        self.0[place] |= 1 << (id % 64);
    }

    /// Makes room for a word that gets a bit.
    fn grow(&mut self, place: usize) {
        if self.0.len() <= place {
            self.0.resize(place + 1, 0);
        }
    }

    /// Takes an id out.
    pub fn remove(&mut self, id: u32) {
        if let Some(word) = self.0.get_mut(id as usize / 64) {
            *word &= !(1 << (id % 64));
        }
        *self = Self::trimmed(core::mem::take(&mut self.0));
    }

    /// The ids that are in both.
    pub fn intersection(&self, other: &Self) -> Self {
        Self::trimmed(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    /// The ids of `self` that `other` lacks.
    pub fn difference(&self, other: &Self) -> Self {
        let theirs = other.0.iter().copied().chain(core::iter::repeat(0));
        Self::trimmed(self.0.iter().zip(theirs).map(|(a, b)| a & !b).collect())
    }

    /// The ids that are in either.
    pub fn union(&self, other: &Self) -> Self {
        let (long, short) =
            if self.0.len() < other.0.len() { (other, self) } else { (self, other) };
        let mut all = long.clone();
        all.0.iter_mut().zip(&short.0).for_each(|(word, more)| *word |= more);
        all
    }

    /// True if every id is in `other` too.
    pub fn is_subset(&self, other: &Self) -> bool {
        let theirs = other.0.iter().copied().chain(core::iter::repeat(0));
        self.0.iter().zip(theirs).all(|(a, b)| a & !b == 0)
    }

    fn trimmed(mut words: Vec<u64>) -> Self {
        while words.last() == Some(&0) {
            words.pop();
        }
        Self(words)
    }
}

/// The ids of one word.
struct Bits {
    first: u32,
    word: u64,
}

impl Iterator for Bits {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let bit = (self.word != 0).then(|| self.word.trailing_zeros())?;
        self.word &= self.word - 1;
        Some(self.first + bit)
    }
}

impl DoubleEndedIterator for Bits {
    fn next_back(&mut self) -> Option<u32> {
        let bit = self.word.checked_ilog2()?;
        self.word &= !(1 << bit);
        Some(self.first + bit)
    }
}

fn parse_id(text: &str) -> Result<u32, String> {
    match text.trim().parse() {
        Ok(id) if id <= MAX_ID => Ok(id),
        Ok(id) => Err(format!("id {id} is over the limit of {MAX_ID}")),
        Err(_) => Err(format!("\"{text}\" is not an id")),
    }
}

impl FromIterator<u32> for IdSet {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut set = Self::default();
        ids.into_iter().for_each(|id| set.insert(id));
        set
    }
}

impl Extend<u32> for IdSet {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, ids: I) {
        ids.into_iter().for_each(|id| self.insert(id));
    }
}

impl TryFrom<String> for IdSet {
    type Error = String;
    fn try_from(list: String) -> Result<Self, String> {
        Self::parse(&list)
    }
}

impl From<IdSet> for String {
    fn from(set: IdSet) -> Self {
        set.to_string()
    }
}

impl fmt::Display for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = ids.next() {
            let mut last = first;
            while let Some(next) = ids.next_if_eq(&(last + 1)) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(list: &str, printed: &str) {
        let set = IdSet::parse(list).expect("a valid list");
        assert_eq!(set.to_string(), printed);
    }

    #[test]
    fn reads_and_prints_the_kernels_form() {
        check("0-3,8,10-11\n", "0-3,8,10-11");
        check("", "");
        check("\n", "");
        check("1,0", "0-1");
    }

    #[test]
    fn a_trailing_nul_is_not_an_id() {
        check("0-1\n\0", "0-1");
    }

    #[test]
    fn nonsense_is_an_error_that_names_it() {
        assert_eq!(IdSet::parse("0-x"), Err("\"x\" is not an id".into()));
        assert_eq!(IdSet::parse("0-99999"), Err("id 99999 is over the limit of 16383".into()));
        assert_eq!(IdSet::parse("3-1"), Err("\"3-1\" is a range that runs backwards".into()));
    }

    proptest::proptest! {
        #[test]
        fn it_is_a_set(
            a in proptest::collection::btree_set(0..300u32, 0..80),
            b in proptest::collection::btree_set(0..300u32, 0..80),
        ) {
            let of = |ids: &alloc::collections::BTreeSet<u32>| -> IdSet { ids.iter().copied().collect() };
            let (x, y) = (of(&a), of(&b));
            proptest::prop_assert!(x.iter().eq(a.iter().copied()));
            proptest::prop_assert!(x.iter().rev().eq(a.iter().rev().copied()));
            proptest::prop_assert_eq!(x.first(), a.first().copied());
            proptest::prop_assert_eq!(x.union(&y), of(&(&a | &b)));
            proptest::prop_assert_eq!(x.intersection(&y), of(&(&a & &b)));
            proptest::prop_assert_eq!(x.difference(&y), of(&(&a - &b)));
            proptest::prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
        }

        #[test]
        fn what_is_printed_is_read_back(ids in proptest::collection::btree_set(0..300u32, 0..80)) {
            let set: IdSet = ids.into_iter().collect();
            proptest::prop_assert_eq!(IdSet::parse(&set.to_string()), Ok(set.clone()));
            proptest::prop_assert_eq!(IdSet::parse_mask(&set.to_mask()), Ok(set));
        }
    }
}
