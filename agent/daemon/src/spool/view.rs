//! A spool whose agent is dead, only to be read. While the view is held no agent can
//! start on it; nothing of it is changed.

use std::{fs::File, io, path::Path};

use nix::fcntl::Flock;
use prost::bytes::Bytes;
use purlin_core::identity::{Class, Incarnation};

use super::{Frame, Keys, log::Log, shelf};

/// The logs of a node's own records, and its dictionaries.
#[derive(Debug)]
pub struct View {
    logs: Vec<(Class, Log)>,
    shelf: std::path::PathBuf,
    _lock: Option<Flock<File>>,
}

impl View {
    /// Opens the spool in `dir` under the state directory's lock.
    pub fn open(
        dir: &Path,
        incarnation: Incarnation,
        lock: Option<Flock<File>>,
        keys: &Keys,
    ) -> io::Result<Self> {
        let open = |class: Class| {
            let log = Log::untouched(&dir.join(class.name()), class, incarnation, keys.clone())?;
            Ok((class, log))
        };
        let logs = Class::OWN.into_iter().map(open).collect::<io::Result<_>>()?;
        Ok(Self { logs, shelf: dir.join("dict"), _lock: lock })
    }

    /// What is there of `class` from `from` on, or from its cursor on; `None` if
    /// there is nothing.
    pub fn read(&mut self, class: Class, from: u64, max_bytes: usize) -> io::Result<Option<Frame>> {
        let Some((_, log)) = self.logs.iter_mut().find(|(it, _)| *it == class) else {
            return Ok(None);
        };
        let from = from.max(log.acked() + 1);
        log.read(from, max_bytes)
    }

    /// A dictionary by its hash.
    pub fn dictionary(&self, hash: u64) -> Option<Bytes> {
        shelf::read(&self.shelf, hash)
    }
}
