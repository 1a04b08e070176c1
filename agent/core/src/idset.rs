//! Sets of small ids (CPUs, NUMA nodes) in the kernel's list form, `0-3,8,10-11`.
//!
//! The form is that of the kernel's bitmap lists (Documentation/core-api/kernel-api,
//! `bitmap_parselist`), without its `:used/group` extension, which sysfs never
//! prints.

use alloc::{
    collections::BTreeSet,
    format,
    string::{String, ToString},
};
use core::fmt;

use serde::{Deserialize, Serialize};

/// The largest id accepted: twice the kernel's own `NR_CPUS` maximum (8192), so
/// that a damaged list can't make us allocate without bound.
pub const MAX_ID: u32 = 16_383;

/// A set of CPU or node ids, ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdSet(BTreeSet<u32>);

impl IdSet {
    /// Reads the kernel's list form. White space and NUL bytes around it are
    /// ignored (some kernels end a list with a NUL); an empty list is the empty set.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut ids = BTreeSet::new();
        let list = list.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (parse_id(first)?, parse_id(last)?);
            if first > last {
                return Err(format!("\"{part}\" is a range that runs backwards"));
            }
            ids.extend(first..=last);
        }
        Ok(Self(ids))
    }

    /// The ids, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is no id.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if `id` is a member.
    pub fn contains(&self, id: u32) -> bool {
        self.0.contains(&id)
    }

    /// The smallest id.
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// Adds an id.
    pub fn insert(&mut self, id: u32) {
        self.0.insert(id);
    }

    /// Takes an id out.
    pub fn remove(&mut self, id: u32) {
        self.0.remove(&id);
    }

    /// The ids that are in both.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// The ids of `self` that `other` lacks.
    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
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
        Self(ids.into_iter().collect())
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
        fn what_is_printed_is_read_back(ids in proptest::collection::btree_set(0..300u32, 0..80)) {
            let set: IdSet = ids.into_iter().collect();
            proptest::prop_assert_eq!(IdSet::parse(&set.to_string()), Ok(set));
        }
    }
}
