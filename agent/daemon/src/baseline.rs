//! The accepted hardware: the inventory that this machine is compared with, in
//! `baseline.json` of the state directory. Only the agent writes it; a damaged one
//! is set aside and never taken for "nothing was accepted".

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use purlin_core::inventory::Inventory;
use serde::{Deserialize, Serialize};

use crate::state;

const NAME: &str = "baseline.json";
/// A hundred times the inventory of a machine with 256 PUs.
const MAX_BYTES: u64 = 8 << 20;

/// What was accepted.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Baseline {
    /// Who accepted it.
    pub by: String,
    /// When.
    pub unix_ms: u64,
    /// The machine then.
    pub inventory: Inventory,
}

impl Baseline {
    /// The accepted hardware in a state directory; `None` if none was accepted.
    pub fn read(state_dir: &Path) -> Result<Option<Self>, String> {
        let path = state_dir.join(NAME);
        let named = |why: String| format!("{}: {why}", path.display());
        let bytes = state::read(&path, MAX_BYTES).map_err(|error| named(error.to_string()))?;
        let read = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
        read.map_err(|error| named(format!("damaged: {error}")))
    }

    /// Makes it durable.
    pub fn store(&self, state_dir: &Path) -> io::Result<()> {
        state::replace(&state_dir.join(NAME), 0o600, &serde_json::to_vec(self)?)
    }

    /// Puts a damaged one out of the way, for a person to look at.
    pub fn set_aside(state_dir: &Path) -> io::Result<PathBuf> {
        let aside = state_dir.join("baseline.json.damaged");
        fs::rename(state_dir.join(NAME), &aside)?;
        Ok(aside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_and_damage_is_not_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Baseline::read(dir.path()).expect("no file").is_none());
        let inventory = Inventory { gpus: Some(Vec::new()), ..Inventory::default() };
        let baseline = Baseline { by: "uid 0".into(), unix_ms: 7, inventory };
        baseline.store(dir.path()).expect("a write");
        let read = Baseline::read(dir.path()).expect("whole").expect("there");
        assert_eq!((read.by, read.inventory), (baseline.by, baseline.inventory));
        let path = dir.path().join(NAME);
        let whole = fs::read(&path).expect("the file");
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).expect("a write");
            assert!(Baseline::read(dir.path()).is_err(), "cut at {cut}");
        }
        let aside = Baseline::set_aside(dir.path()).expect("a rename");
        assert!(aside.exists() && Baseline::read(dir.path()).expect("no file").is_none());
    }
}
