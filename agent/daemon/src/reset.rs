//! `purlin node reset`: makes a node forget, with its agent dead.
//!
//! What is kept of an identity is the node's id, the keys that it believes and how far their
//! documents have come, so that no old one is taken afterwards, and the record of what was
//! done. Its incarnation is never kept: numbers of records begin anew with the spool, and
//! nobody may take the new ones for the old.

use std::{fs, io, path::Path};

use purlin_proto::v1;

use crate::{
    audit::{self, chain::Line},
    clock, enrol,
    ledger::Ledger,
    state::StateDir,
};

/// What stays with an identity, besides part of the ledger.
const IDENTITY: [&str; 3] = ["node", audit::store::DIR, enrol::DIR];
/// Held while the rest is removed, and removed by nobody.
const LOCK: &str = "lock";

/// Empties the state directory of a dead agent; what was removed.
pub fn reset(dir: &Path, keeps_identity: bool) -> Result<Vec<String>, String> {
    if !dir.is_dir() {
        return Err(format!("there is no state directory {}", dir.display()));
    }
    let state = StateDir::open(dir).map_err(|error| error.to_string())?;
    let failed = |error: io::Error| format!("{}: {error}", dir.display());
    let kept = keeps_identity.then(|| Ledger::open(dir).1);
    let mut removed = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == LOCK || keeps_identity && IDENTITY.contains(&name.as_str()) {
            continue;
        }
        let is_dir = entry.file_type().map_err(failed)?.is_dir();
        let gone =
            if is_dir { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        gone.map_err(|error| format!("{}: {error}", entry.path().display()))?;
        removed.push(name);
    }
    if let Some(v1::Ledger { keys, mark, .. }) = kept {
        let trust = v1::Ledger { keys, mark, ..Default::default() };
        Ledger::open(dir).0.store(&trust).map_err(failed)?;
        let (mut record, _) = audit::store::Store::open(&dir.join(audit::store::DIR))?;
        let line = Line {
            unix_ms: clock::unix_ms(),
            by: format!("uid {} (local)", nix::unistd::getuid()),
            what: "node.reset".into(),
            text: "all but its identity was removed".into(),
            ..Line::default()
        };
        record.append(line).map_err(failed)?;
    }
    drop(state);
    removed.sort();
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(dir.path()).expect("free");
        state.incarnation().expect("made");
        state.random_node().expect("made");
        fs::create_dir(dir.path().join("spool")).expect("made");
        let content = v1::Ledger {
            active: Some(v1::Entry::default()),
            keys: vec![1].into(),
            mark: Some(v1::Mark { version: 7, ..Default::default() }),
            ..Default::default()
        };
        Ledger::open(dir.path()).0.store(&content).expect("a write");
        dir
    }

    fn left(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn an_identity_that_is_kept_takes_no_old_document() {
        let dir = filled();
        let removed = reset(dir.path(), true).expect("it was emptied");
        assert_eq!(removed, ["incarnation", "ledger.a", "spool"]);
        assert_eq!(left(dir.path()), ["audit", "ledger.a", "lock", "node"]);
        let content = Ledger::open(dir.path()).1;
        assert_eq!((content.active, content.keys), (None, vec![1].into()));
        assert_eq!(content.mark.map(|mark| mark.version), Some(7));
    }

    #[test]
    fn all_is_all_and_an_agent_that_runs_is_left_alone() {
        let dir = filled();
        let held = StateDir::open(dir.path()).expect("free");
        assert!(reset(dir.path(), false).expect_err("held").contains("another agent"));
        drop(held);
        reset(dir.path(), false).expect("it was emptied");
        assert_eq!(left(dir.path()), ["lock"]);
    }
}
