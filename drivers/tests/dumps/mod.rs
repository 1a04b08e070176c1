//! The corpus's dumps of real machines, for tests: `mod dumps;`.
//!
//! The corpus is not part of this repository: it is looked for beside it, at
//! `../shared/corpus`, or where `PURLIN_CORPUS` says.

#![allow(dead_code, reason = "each test file is a crate of its own and uses a part of it")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The packed dumps, by name; none where there is no corpus, which is said.
pub fn dumps() -> Vec<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let corpus = std::env::var_os("PURLIN_CORPUS").map_or_else(beside, PathBuf::from);
    let Ok(entries) = fs::read_dir(corpus.join("dumps")) else {
        println!("skipped: no corpus of dumps (set PURLIN_CORPUS)");
        return Vec::new();
    };
    let mut dumps: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    dumps.sort();
    dumps
}
