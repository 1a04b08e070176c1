//! A rule's split between a new backend and the others: what became of each side's
//! requests, and whether the new one is stepped back from. That is kept on disk, so that no
//! restart brings back what failed.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use purlin_core::mesh::canary::{Seen, Sides, StepBack, Watch};
use serde::{Deserialize, Serialize};

use crate::keep;

/// The file of what is stepped back from, in the mesh's directory.
const NAME: &str = "stepped-back.json";
/// The longest one that is read: some hundred bytes for each rule that steps back.
const MAX_BYTES: u64 = 1 << 20;

/// A split.
#[derive(Debug)]
pub struct Split {
    /// Name of the route.
    pub route: String,
    /// Which of its rules.
    pub rule: usize,
    /// Name of the new backend.
    pub backend: String,
    /// When it is stepped back from.
    pub by: StepBack,
    new: Side,
    others: Side,
    is_back: AtomicBool,
    watch: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Side {
    requests: AtomicU64,
    errors: AtomicU64,
}

/// What only the owner looks at.
#[derive(Debug, Default)]
struct Watched {
    watch: Watch,
    why: Option<String>,
}

/// One that is stepped back from, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    route: String,
    rule: usize,
    mark: u64,
    why: String,
}

impl Side {
    fn seen(&self) -> Seen {
        // In this order, so that there are never more errors than requests.
        let errors = self.errors.load(Relaxed);
        Seen { requests: self.requests.load(Relaxed), errors }
    }
}

impl Split {
    /// A new one.
    pub fn new(route: &str, rule: usize, backend: &str, by: &StepBack) -> Self {
        Self {
            route: route.into(),
            rule,
            backend: backend.into(),
            by: by.clone(),
            new: Side::default(),
            others: Side::default(),
            is_back: AtomicBool::new(false),
            watch: Mutex::default(),
        }
    }

    /// Whether it is the same as in another table.
    pub fn is(&self, route: &str, rule: usize, by: &StepBack) -> bool {
        (self.route.as_str(), self.rule, self.by.mark) == (route, rule, by.mark)
    }

    /// Whether its new backend gets nothing.
    pub fn is_back(&self) -> bool {
        self.is_back.load(Relaxed)
    }

    /// Why, for people.
    pub fn why(&self) -> Option<String> {
        self.watched().why.clone()
    }

    /// Takes note of a request that is over.
    pub fn over(&self, is_new: bool, has_failed: bool) {
        let side = if is_new { &self.new } else { &self.others };
        side.requests.fetch_add(1, Relaxed);
        if has_failed {
            side.errors.fetch_add(1, Relaxed);
        }
    }

    /// Steps back by hand, or takes that back and begins to watch anew.
    pub fn set(&self, why: Option<String>) {
        let mut watched = self.watched();
        self.is_back.store(why.is_some(), Relaxed);
        *watched = Watched { watch: Watch::default(), why };
    }

    /// Looks whether it is time to step back, about once a second; why, then.
    pub fn look(&self, now_ms: u64) -> Option<String> {
        if self.is_back() {
            return None;
        }
        let counted = Sides { new: self.new.seen(), others: self.others.seen() };
        let Sides { new, others } = self.watched().watch.look(&self.by, now_ms, &counted)?;
        Some(format!(
            "{} of its {} requests failed within {} s, and {} of {} of the others",
            new.errors,
            new.requests,
            self.by.window.as_secs(),
            others.errors,
            others.requests
        ))
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of these is stepped back from, to be kept; each with why.
pub fn kept(splits: &[(Arc<Split>, Option<String>)]) -> Vec<Kept> {
    let kept = |(it, why): &(Arc<Split>, Option<String>)| {
        let (route, rule, mark) = (it.route.clone(), it.rule, it.by.mark);
        Some(Kept { route, rule, mark, why: why.clone()? })
    };
    splits.iter().filter_map(kept).collect()
}

/// Makes it durable.
pub fn store(dir: &Path, kept: &[Kept]) -> std::io::Result<()> {
    let bytes = serde_json::to_vec(kept).map_err(std::io::Error::other)?;
    keep::replace(&dir.join(NAME), 0o600, &bytes)
}

/// What was kept. A file that can't be read is told, and is none.
pub fn load(dir: &Path) -> Vec<Kept> {
    let path = dir.join(NAME);
    let read = keep::contents(&path, MAX_BYTES).and_then(|bytes| match bytes {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(std::io::Error::from),
        None => Ok(Vec::new()),
    });
    read.unwrap_or_else(|error| {
        tracing::error!(path = %path.display(), %error, "what was stepped back from is not known");
        Vec::new()
    })
}

/// Steps back from what was stepped back from before.
pub fn restore<'a>(kept: &[Kept], splits: impl Iterator<Item = &'a Arc<Split>>) {
    for split in splits {
        let is_it =
            |it: &&Kept| (&it.route, it.rule, it.mark) == (&split.route, split.rule, split.by.mark);
        if let Some(found) = kept.iter().find(is_it) {
            split.set(Some(found.why.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    fn split(mark: u64) -> Arc<Split> {
        let (window, hold) = (Duration::from_secs(60), Duration::ZERO);
        let by = StepBack { backend: 1, least: 20, margin_percent: 5, window, hold, mark };
        Arc::new(Split::new("shop", 0, "new", &by))
    }

    #[test]
    fn what_is_stepped_back_from_is_so_after_a_restart_and_not_for_another_document() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(load(dir.path()), []);
        let (before, same, other) = (split(1), split(1), split(2));
        assert_eq!(before.look(0), None);
        (0..30).for_each(|_| before.over(true, true));
        (0..30).for_each(|_| before.over(false, false));
        let why = before.look(1000);
        assert_eq!(
            why.as_deref(),
            Some("30 of its 30 requests failed within 60 s, and 0 of 30 of the others")
        );
        assert!(!before.is_back(), "not before it is on disk");
        store(dir.path(), &kept(&[(before.clone(), why.clone())])).expect("a write");
        before.set(why);
        let read = load(dir.path());
        restore(&read, [&same, &other].into_iter());
        assert!(same.is_back() && !other.is_back());
        assert_eq!(same.look(2000), None, "it is back already");
        same.set(None);
        assert!(!same.is_back() && kept(&[(same.clone(), same.why())]).is_empty());
        fs::write(dir.path().join(NAME), "[").expect("a write");
        assert_eq!(load(dir.path()), []);
    }
}
