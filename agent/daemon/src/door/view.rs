//! The configuration as the core and the local API see it.

use std::{collections::BTreeMap, time::Duration};

use prost::Message;
use purlin_core::{settings::Settings, trial::Phase};
use purlin_proto::{
    api,
    v1::{self, Origin, Outcome},
};

use super::{Door, VERSION, believe::Trust, record};
use crate::{audit, clock, document};

impl Door {
    /// What the core is told.
    pub(super) fn report(&self) -> v1::Reported {
        let content = &self.content;
        let keys = match &self.trust {
            Trust::Keys(keys) => Some(keys),
            Trust::Anyone | Trust::Nobody(_) => None,
        };
        v1::Reported {
            node: self.identity.node.clone(),
            incarnation: self.identity.incarnation.0,
            agent_version: VERSION.into(),
            active: content.active.as_ref().and_then(|entry| entry.applied.clone()),
            last: content.history.last().cloned(),
            desired: record::last_from(content, Origin::Uplink).cloned(),
            trial: self.trial_reported(),
            drift: drift(content),
            subsystems: self.said.clone(),
            key_set: keys.map_or(0, |keys| keys.set.version),
            epoch: keys.map_or(0, |keys| keys.set.epoch),
            audit: audit_head(&self.audited.borrow()),
        }
    }

    fn trial_reported(&self) -> Option<v1::Trial> {
        let trial = self.machine.trial()?;
        let applied = self.content.trial.as_ref()?.applied.clone();
        let (now, unix_ms) = (clock::since_boot(), clock::unix_ms());
        // In seconds: it is the same text until something changes.
        let seconds = |ms: u64| ms / 1000 * 1000;
        let left = trial.deadline.map_or(Duration::ZERO, |deadline| deadline.saturating_sub(now));
        let well_since = match trial.phase {
            Phase::Proving { healthy_since: Some(since) } => {
                seconds(unix_ms.saturating_sub(now.saturating_sub(since).as_millis() as u64))
            }
            _ => 0,
        };
        let before = self.reported.borrow().trial.clone();
        let mut said = v1::Trial {
            applied,
            ends_unix_ms: seconds(unix_ms + left.as_millis() as u64),
            by_hand: trial.terms.confirm_after.is_none(),
            well_since_unix_ms: well_since,
        };
        // What is counted on another clock wavers by a moment, which is no news.
        if let Some(before) = before.filter(|before| before.applied == said.applied) {
            let same = |a: u64, b: u64| a != 0 && b != 0 && a.abs_diff(b) <= 2000;
            if same(before.ends_unix_ms, said.ends_unix_ms) {
                said.ends_unix_ms = before.ends_unix_ms;
            }
            if same(before.well_since_unix_ms, said.well_since_unix_ms) {
                said.well_since_unix_ms = before.well_since_unix_ms;
            }
        }
        Some(said)
    }

    /// What the local API shows.
    pub(super) fn config(&self) -> api::Config {
        let left = self.override_ends.map(|ends| ends.saturating_sub(clock::since_boot()));
        let mut config = config(&self.content, &self.settings.borrow());
        if let (Some(drift), Some(left)) = (&mut config.drift, left) {
            drift.left_ms = Some(left.as_millis() as u64);
        }
        config.trial = self.trial_view();
        config.subsystems = self.said.iter().map(subsystem).collect();
        config
    }

    fn trial_view(&self) -> Option<api::ConfigTrial> {
        let trial = self.machine.trial()?;
        let applied = self.content.trial.as_ref()?.applied.as_ref()?;
        let (now, ms) = (clock::since_boot(), |time: Duration| time.as_millis() as u64);
        let well_for = match trial.phase {
            Phase::Proving { healthy_since } => healthy_since.map(|it| now.saturating_sub(it)),
            _ => None,
        };
        let confirmed_in = trial
            .terms
            .confirm_after
            .map(|after| ms(after.saturating_sub(well_for.unwrap_or_default())));
        Some(api::ConfigTrial {
            applied: applied_view(applied),
            phase: phase(trial.phase).into(),
            left_ms: trial.deadline.map_or(0, |deadline| ms(deadline.saturating_sub(now))),
            by_hand: trial.terms.confirm_after.is_none(),
            well_for_ms: well_for.map(ms),
            confirmed_in_ms: confirmed_in,
            problems: self.unwell(trial.terms.confirm_after.is_none()),
        })
    }
}

fn audit_head(state: &audit::State) -> Option<v1::AuditHead> {
    let head = &state.head;
    let sha256 = hex::decode(&head.sha256).unwrap_or_default().into();
    (head.number > 0).then(|| v1::AuditHead { number: head.number, sha256 })
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Intending | Phase::Applying => "applying",
        Phase::Proving { .. } => "proving",
        Phase::Committing => "committing",
        Phase::Undoing(_) | Phase::Ending(_) => "reverting",
    }
}

/// What is in force, for people, as far as the ledger tells.
pub fn config(content: &v1::Ledger, settings: &Settings) -> api::Config {
    let rows = settings.rows().into_iter();
    api::Config {
        active: applied(content),
        settings: rows
            .map(|(path, value, origin)| api::Setting { path, value, origin: origin.to_string() })
            .collect(),
        last: content.history.last().map(verdict),
        trial: None,
        drift: drift(content).map(drift_view),
        subsystems: Vec::new(),
    }
}

/// A local document in force, while the core wants another, or for a time.
fn drift(content: &v1::Ledger) -> Option<v1::Drift> {
    let applied = content.active.as_ref()?.applied.as_ref()?;
    let desired = record::last_from(content, Origin::Uplink).filter(|it| it.accepted);
    let differs =
        applied.origin() == Origin::Local && (desired.is_some() || applied.r#override.is_some());
    let desired_version = desired.map_or(0, |desired| desired.version);
    differs.then(|| v1::Drift { applied: Some(applied.clone()), desired_version })
}

fn drift_view(drift: v1::Drift) -> api::ConfigDrift {
    let applied = drift.applied.unwrap_or_default();
    let over = applied.r#override;
    api::ConfigDrift {
        by: applied.by,
        left_ms: over.as_ref().map(|it| it.until_unix_ms.saturating_sub(clock::unix_ms())),
        reason: over.map(|over| over.reason).unwrap_or_default(),
        desired_version: drift.desired_version,
    }
}

fn subsystem(said: &v1::Subsystem) -> api::Subsystem {
    api::Subsystem { name: said.name.clone(), problem: said.problem.clone() }
}

/// The latest verdicts, newest first.
pub fn history(content: &v1::Ledger) -> api::History {
    api::History { verdicts: content.history.iter().rev().map(verdict).collect() }
}

/// The last known good document, for people.
pub fn applied(content: &v1::Ledger) -> Option<api::Applied> {
    content.active.as_ref()?.applied.as_ref().map(applied_view)
}

/// A generation's document.
pub fn document(content: &v1::Ledger, number: Option<u64>) -> Option<api::Document> {
    let entry = record::generation(content, number)?;
    let desired = v1::Desired::decode(entry.document.as_ref()).ok()?;
    Some(api::Document {
        applied: applied_view(entry.applied.as_ref()?),
        document: document::tree(document::descriptor("Desired"), &desired),
    })
}

/// Names an entry.
pub fn name(entry: Option<&v1::Entry>) -> String {
    match entry.and_then(|entry| entry.applied.as_ref()) {
        Some(applied) => format!("generation {} (version {})", applied.generation, applied.version),
        None => "the defaults".into(),
    }
}

fn applied_view(applied: &v1::Applied) -> api::Applied {
    api::Applied {
        generation: applied.generation,
        version: applied.version,
        sha256: hex::encode(&applied.sha256),
        origin: origin_name(applied.origin()).into(),
        unix_ms: applied.unix_ms,
        by: applied.by.clone(),
    }
}

/// Settings that differ.
pub fn changes(from: &Settings, from_name: String, to: &Settings, to_name: String) -> api::Diff {
    // A setting may be of one side alone.
    let mut sides: BTreeMap<String, [String; 2]> = BTreeMap::new();
    for (side, rows) in [from.rows(), to.rows()].into_iter().enumerate() {
        for (path, value, _) in rows {
            sides.entry(path).or_default()[side] = value;
        }
    }
    let differing = sides.into_iter().filter(|(_, [from, to])| from != to);
    let changes = differing.map(|(path, [from, to])| api::Change { path, from, to });
    api::Diff { from: from_name, to: to_name, changes: changes.collect() }
}

fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Uplink => "uplink",
        Origin::Local => "local",
        Origin::Unspecified => "unknown",
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unspecified => "unknown",
        Outcome::Refused => "refused",
        Outcome::Waiting => "waiting",
        Outcome::Trial => "trial",
        Outcome::Confirmed => "confirmed",
        Outcome::Reverted => "reverted",
        Outcome::Interrupted => "interrupted",
        Outcome::Superseded => "superseded",
    }
}

/// A verdict, for people.
pub fn verdict(verdict: &v1::Verdict) -> api::Verdict {
    let refusals = verdict.refusals.iter().cloned().map(|r| api::Refusal {
        path: r.path,
        value: r.value,
        limit: r.limit,
        hint: r.hint,
    });
    api::Verdict {
        accepted: verdict.accepted,
        outcome: outcome_name(verdict.outcome()).into(),
        why: verdict.why.clone(),
        generation: verdict.generation,
        version: verdict.version,
        sha256: hex::encode(&verdict.sha256),
        origin: origin_name(verdict.origin()).into(),
        by: verdict.by.clone(),
        unix_ms: verdict.unix_ms,
        refusals: refusals.collect(),
        repeated: false,
    }
}
