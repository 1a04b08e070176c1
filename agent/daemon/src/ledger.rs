//! The ledger: the configuration the node boots from, in [two plain files](TwoFiles), its
//! payload a purlin.v1.Ledger.

use std::{io, path::Path};

use prost::Message;
use purlin_proto::v1;

use crate::two_files::{Kind, TwoFiles};

const KIND: Kind = Kind {
    name: "ledger",
    magic: *b"PURLLDG\x01",
    // Two documents at their largest, and a history of refusals at its longest.
    max_bytes: 4 << 20,
};

/// The ledger on disk.
#[derive(Clone, Debug)]
pub struct Ledger(TwoFiles);

impl Ledger {
    /// Finds the newest valid ledger in `dir`, and what was found damaged. An
    /// empty or damaged directory gives an empty ledger: the node then runs on
    /// its defaults.
    pub fn open(dir: &Path) -> (Self, v1::Ledger, Vec<String>) {
        let (files, ledger, problems) =
            TwoFiles::open(dir, KIND, |payload| v1::Ledger::decode(payload).ok());
        (Self(files), ledger.unwrap_or_default(), problems)
    }

    /// Makes `ledger` durable. After an error the one before still stands.
    pub fn store(&mut self, ledger: &v1::Ledger) -> io::Result<()> {
        self.0.store(&ledger.encode_to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn numbered(generation: u64) -> v1::Ledger {
        let applied = v1::Applied { generation, ..Default::default() };
        let active = v1::Entry { applied: Some(applied), document: vec![1, 2, 3].into() };
        v1::Ledger { active: Some(active), ..Default::default() }
    }

    #[test]
    fn the_newest_valid_one_wins_and_damage_falls_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut ledger, found, problems) = Ledger::open(dir.path());
        assert_eq!((found, problems.len()), (v1::Ledger::default(), 0));
        for generation in 1..=3 {
            ledger.store(&numbered(generation)).expect("a write");
            assert_eq!(Ledger::open(dir.path()).1, numbered(generation));
        }
        // The third write went where the first had been; every damage to it
        // leaves the second.
        let path = dir.path().join("ledger.a");
        let whole = fs::read(&path).expect("the third");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).expect("a write");
            let (_, found, problems) = Ledger::open(dir.path());
            assert_eq!((found, problems.len()), (numbered(2), 1), "byte {at}");
            fs::write(&path, &whole[..at]).expect("a write");
            assert_eq!(Ledger::open(dir.path()).1, numbered(2), "cut at {at}");
        }
    }

    #[test]
    fn after_a_fall_back_the_damaged_file_is_written_next() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut ledger, ..) = Ledger::open(dir.path());
        ledger.store(&numbered(1)).expect("a write");
        ledger.store(&numbered(2)).expect("a write");
        fs::write(dir.path().join("ledger.b"), "torn").expect("a write");
        let (mut ledger, found, _) = Ledger::open(dir.path());
        assert_eq!(found, numbered(1));
        ledger.store(&numbered(3)).expect("a write");
        fs::write(dir.path().join("ledger.b"), "torn again").expect("a write");
        assert_eq!(Ledger::open(dir.path()).1, numbered(1), "the old one was not touched");
    }
}
