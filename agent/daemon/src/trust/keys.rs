//! The key set that a node believes: the one it was given with its file, and whatever
//! followed it by the word of enough roots.

use std::path::Path;

use purlin_core::trust::KeySet;

use super::read_keys;

/// A key set, and the bytes it came in.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The set.
    pub set: KeySet,
    /// As it is kept in the ledger.
    pub bytes: Vec<u8>,
}

impl Keys {
    /// The newer of the file's and the ledger's. The file's owner is who installed the
    /// node: what stands in it is believed if it is signed in itself. A file that can't
    /// be read must not let unsigned documents in, so that it is an error.
    pub fn open(file: &Path, ledger: &[u8]) -> Result<Self, String> {
        let failed = |why: String| format!("trust.keys {}: {why}", file.display());
        let bytes = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
        let given = Self::founded(&bytes).map_err(failed)?;
        match Self::founded(ledger) {
            Ok(kept)
                if kept.set.fleet == given.set.fleet && kept.set.version > given.set.version =>
            {
                Ok(kept)
            }
            _ => Ok(given),
        }
    }

    fn founded(bytes: &[u8]) -> Result<Self, String> {
        let (set, signers) = read_keys(bytes, None)?;
        set.found(&signers)?;
        Ok(Self { set, bytes: bytes.to_vec() })
    }

    /// The set that may take this one's place; `None` for this very one or one from before.
    pub fn followed_by(&self, bytes: &[u8]) -> Result<Option<Self>, String> {
        let (set, signers) = read_keys(bytes, Some(&self.set))?;
        if set.version <= self.set.version {
            return Ok(None);
        }
        set.follow(&self.set, &signers)?;
        Ok(Some(Self { set, bytes: bytes.to_vec() }))
    }
}
