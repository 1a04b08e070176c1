//! The configuration as the local API shows it.

use purlin_core::settings::Settings;
use purlin_proto::{
    api,
    v1::{self, Origin},
};

use crate::state;

/// What is in force, for people.
pub fn config(content: &v1::Ledger, settings: &Settings) -> api::Config {
    let rows = settings.rows().into_iter();
    api::Config {
        active: applied(content),
        settings: rows
            .map(|(path, value, origin)| api::Setting { path, value, origin: origin.to_string() })
            .collect(),
        last: content.history.last().map(verdict),
    }
}

/// The latest verdicts, newest first.
pub fn history(content: &v1::Ledger) -> api::History {
    api::History { verdicts: content.history.iter().rev().map(verdict).collect() }
}

/// The document in force, for people.
pub fn applied(content: &v1::Ledger) -> Option<api::Applied> {
    let applied = content.active.as_ref()?.applied.as_ref()?;
    Some(api::Applied {
        generation: applied.generation,
        version: applied.version,
        sha256: state::hex(&applied.sha256),
        origin: origin_name(applied.origin()).into(),
        unix_ms: applied.unix_ms,
    })
}

/// Settings that differ.
pub fn changes(from: &Settings, from_name: String, to: &Settings, to_name: String) -> api::Diff {
    let changes = from.rows().into_iter().zip(to.rows()).filter(|(from, to)| from.1 != to.1);
    let changes = changes.map(|(from, to)| api::Change { path: from.0, from: from.1, to: to.1 });
    api::Diff { from: from_name, to: to_name, changes: changes.collect() }
}

fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Uplink => "uplink",
        Origin::Local => "local",
        Origin::Unspecified => "unknown",
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
        version: verdict.version,
        sha256: state::hex(&verdict.sha256),
        origin: origin_name(verdict.origin()).into(),
        by: verdict.by.clone(),
        unix_ms: verdict.unix_ms,
        refusals: refusals.collect(),
        repeated: false,
    }
}
