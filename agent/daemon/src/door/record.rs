//! What the ledger remembers: which document is good, which is tried, which have
//! failed, and what became of each. Only values; [`super::Door`] makes them durable.

use prost::bytes::Bytes;
use purlin_core::trial::Why;
use purlin_proto::v1::{self, Origin, Outcome};

/// Verdicts kept.
pub const HISTORY: usize = 32;
/// Documents kept that were the last known good one before, …
pub const EARLIER: usize = 16;
/// … and their bytes: a ledger is written whole at each change.
const EARLIER_BYTES: usize = 1 << 20;
/// Failed documents that are remembered.
const FAILED: usize = 32;
/// A document whose trial the agent did not survive so often in a row is taken for
/// the reason.
const INTERRUPTIONS: u32 = 3;

/// The last verdict on a document from one side.
pub fn last_from(content: &v1::Ledger, origin: Origin) -> Option<&v1::Verdict> {
    content.history.iter().rfind(|verdict| verdict.origin() == origin)
}

/// The last verdict on this very document.
pub fn last_of<'a>(content: &'a v1::Ledger, sha256: &Bytes) -> Option<&'a v1::Verdict> {
    content.history.iter().rfind(|verdict| verdict.sha256 == *sha256)
}

/// SHA-256 of an entry's document; empty for none.
pub fn sha256_of(entry: Option<&v1::Entry>) -> Bytes {
    entry.and_then(|entry| entry.applied.as_ref()).map_or(Bytes::new(), |it| it.sha256.clone())
}

/// Whether the document failed its trial.
pub fn has_failed(content: &v1::Ledger, sha256: &Bytes) -> bool {
    content.failed.contains(sha256)
}

/// Notes a verdict.
pub fn note(content: &mut v1::Ledger, verdict: v1::Verdict) {
    content.history.push(verdict);
    let excess = content.history.len().saturating_sub(HISTORY);
    content.history.drain(..excess);
}

/// A document is about to be tried.
pub fn intend(
    content: &mut v1::Ledger,
    document: Bytes,
    mut verdict: v1::Verdict,
    over: Option<v1::Override>,
) {
    content.generations += 1;
    verdict.generation = content.generations;
    let applied = v1::Applied {
        generation: content.generations,
        version: verdict.version,
        sha256: verdict.sha256.clone(),
        origin: verdict.origin,
        unix_ms: verdict.unix_ms,
        by: verdict.by.clone(),
        r#override: over,
    };
    content.trial = Some(v1::Entry { applied: Some(applied), document });
    let waited = |it: &v1::Verdict| it.sha256 == verdict.sha256 && it.outcome() == Outcome::Waiting;
    content.history.retain(|it| !waited(it));
    note(content, verdict);
}

/// The document on trial is what the node boots from now on.
pub fn commit(content: &mut v1::Ledger, why: &str) {
    let Some(entry) = content.trial.take() else { return };
    let sha256 = sha256_of(Some(&entry));
    let before = content.active.replace(entry);
    let is_over = |entry: &v1::Entry| over(entry).is_some();
    content.resume = match content.active.as_ref().is_some_and(is_over) {
        // The core's own document comes back, however many overrides lie over it.
        true => before.clone().filter(|before| !is_over(before)).or(content.resume.take()),
        false => None,
    };
    if let Some(before) = before {
        content.earlier.insert(0, before);
    }
    content.earlier.truncate(EARLIER);
    while content.earlier.iter().map(|it| it.document.len()).sum::<usize>() > EARLIER_BYTES {
        content.earlier.pop();
    }
    content.failed.retain(|failed| *failed != sha256);
    content.interrupted = None;
    conclude(content, &sha256, Outcome::Confirmed, why);
}

/// The trial is over, and the document is not in force.
pub fn end(content: &mut v1::Ledger, why: Why, text: &str) {
    let sha256 = sha256_of(content.trial.take().as_ref());
    let before = content.interrupted.take().filter(|before| before.sha256 == sha256);
    let times = 1 + before.map_or(0, |before| before.times);
    let gives_up = why == Why::Interrupted && times >= INTERRUPTIONS;
    if why == Why::Interrupted {
        content.interrupted = Some(v1::Interrupted { sha256: sha256.clone(), times });
    }
    if (why.is_for_good() || gives_up) && !has_failed(content, &sha256) {
        content.failed.push(sha256.clone());
        let excess = content.failed.len().saturating_sub(FAILED);
        content.failed.drain(..excess);
    }
    let outcome = match why {
        Why::Interrupted if !gives_up => Outcome::Interrupted,
        _ => Outcome::Reverted,
    };
    conclude(content, &sha256, outcome, text);
}

/// What became of a document whose verdict was open.
pub fn conclude(content: &mut v1::Ledger, sha256: &Bytes, outcome: Outcome, why: &str) {
    let open = |it: &&mut v1::Verdict| {
        it.sha256 == *sha256 && matches!(it.outcome(), Outcome::Trial | Outcome::Waiting)
    };
    if let Some(verdict) = content.history.iter_mut().rfind(open) {
        verdict.set_outcome(outcome);
        verdict.why = why.into();
    }
}

/// The override that an entry is.
pub fn over(entry: &v1::Entry) -> Option<&v1::Override> {
    entry.applied.as_ref()?.r#override.as_ref()
}

/// The document of a generation, and which it is; the one in force without a number.
pub fn generation(content: &v1::Ledger, number: Option<u64>) -> Option<&v1::Entry> {
    let now = content.trial.as_ref().or(content.active.as_ref());
    let Some(number) = number else { return now };
    let entries = content.trial.iter().chain(&content.active).chain(&content.earlier);
    entries.into_iter().find(|it| it.applied.as_ref().is_some_and(|it| it.generation == number))
}
