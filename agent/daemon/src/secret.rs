//! Secrets that a document refers to by `secret:NAME`, and never holds: brokers keep
//! documents, and whoever may look at a node sees them. NAME is a file of systemd's
//! credentials, or of `secrets` in the state directory.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::state;

/// Below the state directory.
const DIR: &str = "secrets";
/// Of a secret: a key or a password is far shorter.
const MAX_BYTES: u64 = 4096;

/// Where a node's secrets are.
#[derive(Clone, Debug)]
pub struct Store {
    dirs: Vec<PathBuf>,
}

impl Store {
    /// Of the agent with this state directory, and of its service's credentials.
    pub fn of(state_dir: &Path) -> Self {
        let credentials = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        Self { dirs: credentials.into_iter().chain([state_dir.join(DIR)]).collect() }
    }

    /// The secret of this name, without white space at its end. The error is for a person
    /// and holds nothing of it.
    pub fn read(&self, name: &str) -> Result<String, String> {
        for dir in &self.dirs {
            let path = dir.join(name);
            let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            if let Some(bytes) = state::read(&path, MAX_BYTES).map_err(|error| failed(&error))? {
                let text = String::from_utf8(bytes).map_err(|_| failed(&"it is no text"))?;
                return Ok(text.trim_end().into());
            }
        }
        let dirs: Vec<_> = self.dirs.iter().map(|it| it.display().to_string()).collect();
        Err(format!("there is no {name} in {}", dirs.join(" or ")))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_secret_is_a_file_of_either_place_and_what_is_wrong_with_it_is_told_without_it() {
        let [credentials, state] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        let store = Store { dirs: vec![credentials.path().into(), state.path().join(DIR)] };
        fs::create_dir(state.path().join(DIR)).expect("made");
        fs::write(state.path().join("secrets/rack"), "old\n").expect("written");
        assert_eq!(store.read("rack").as_deref(), Ok("old"));
        fs::write(credentials.path().join("rack"), "new").expect("written");
        assert_eq!(store.read("rack").as_deref(), Ok("new"), "credentials go first");
        fs::write(credentials.path().join("rack"), "x".repeat(5000)).expect("written");
        let why = store.read("rack").expect_err("too long");
        assert!(why.ends_with("rack: over the limit of 4096 bytes"), "{why}");
        let why = store.read("none").expect_err("absent");
        assert!(why.starts_with("there is no none in /") && why.contains("/secrets"), "{why}");
    }
}
