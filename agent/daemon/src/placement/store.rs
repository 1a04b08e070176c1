//! The book of placements on disk, in [two plain files](TwoFiles), its payload JSON. The
//! OCI runtime wrapper goes by it when the agent is dead.

use std::{io, path::Path};

use purlin_core::place::book::Saved;

use crate::two_files::{Kind, TwoFiles};

const KIND: Kind = Kind {
    name: "placement",
    magic: *b"PURLPLC\x01",
    // As many containers as may be known, with 4 KiB each: ten times what is usual.
    max_bytes: 16 << 20,
};

/// The state file.
#[derive(Clone, Debug)]
pub struct Store(TwoFiles);

impl Store {
    /// The newest valid book in a state directory, empty if there is none, and what was
    /// found damaged: one that can't be read is made anew from what runs.
    pub fn open(dir: &Path) -> (Self, Saved, Vec<String>) {
        let (files, saved, problems) =
            TwoFiles::open(dir, KIND, |payload| serde_json::from_slice(payload).ok());
        (Self(files), saved.unwrap_or_default(), problems)
    }

    /// Makes a book durable.
    pub fn store(&mut self, saved: &Saved) -> io::Result<()> {
        self.0.store(&serde_json::to_vec(saved)?)
    }
}
