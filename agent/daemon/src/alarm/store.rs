//! The alarms on disk, in [two plain files](TwoFiles), their payload JSON.

use std::{io, path::Path};

use purlin_core::alarm::{Alarm, Alarms};
use serde::{Deserialize, Serialize};

use crate::two_files::{Kind, TwoFiles};

const KIND: Kind = Kind {
    name: "alarms",
    magic: *b"PURLALM\x01",
    // As many as there may be, with 4 KiB each.
    max_bytes: 4 << 20,
};

/// What is kept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Saved {
    /// Raised now.
    pub raised: Vec<Alarm>,
    /// Cleared, the oldest first.
    pub history: Vec<Alarm>,
}

/// The state file.
#[derive(Clone, Debug)]
pub struct Store(TwoFiles);

/// The alarms of a state directory, and what was found damaged: what is still wrong is
/// raised again.
pub fn open(dir: &Path) -> ((Store, Alarms), Vec<String>) {
    let (files, saved, problems) =
        TwoFiles::open(dir, KIND, |payload| serde_json::from_slice::<Saved>(payload).ok());
    let Saved { raised, history } = saved.unwrap_or_default();
    ((Store(files), Alarms::restore(raised, history)), problems)
}

impl Store {
    /// Makes the alarms durable.
    pub fn store(&mut self, saved: &Saved) -> io::Result<()> {
        self.0.store(&serde_json::to_vec(saved)?)
    }
}
