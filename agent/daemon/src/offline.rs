//! What can be told from the state directory when the agent is dead. Nothing
//! here writes: an agent may be starting.

use prost::bytes::Bytes;
use purlin_core::{
    identity::{Class, Incarnation},
    place::{
        book::{Book, Overview},
        machine::Machine,
    },
    settings::Settings,
};
use purlin_proto::{api, v1};

use crate::{
    alarm,
    audit::{self, chain::Head},
    baseline::Baseline,
    boot::Boot,
    document::{self, Format},
    door::{self, Identity, view},
    ledger::Ledger,
    placement::Store,
    spool::{self, View},
    state::StateDir,
    wire,
};

/// `purlin queue show`
pub fn queue(boot: &Boot) -> Result<api::Queue, String> {
    let incarnation = read_incarnation(boot)?.to_string();
    let settings = settings(boot, &ledger(boot)?)?;
    let classes = Class::ALL.map(|class| {
        let dir = boot.state_dir.join("spool").join(class.name());
        spool::figures::inspect(&dir, class, &spool::limits(class, &settings))
            .map_err(|error| format!("can't read {}: {error}", dir.display()))
    });
    let classes = classes.into_iter().collect::<Result<_, _>>()?;
    Ok(api::Queue { incarnation, classes, sources: Vec::new() })
}

/// `purlin alarm list`
pub fn alarms(boot: &Boot) -> Result<api::Alarms, String> {
    read_incarnation(boot)?;
    let ((_, alarms), problems) = alarm::open(&boot.state_dir);
    match problems.first() {
        Some(problem) => Err(problem.clone()),
        None => Ok(alarm::views(&alarm::Shown::of(&alarms))),
    }
}

/// `purlin audit …`
pub fn audit(boot: &Boot, anchors: Vec<Head>) -> Result<api::Audit, String> {
    audit::store::read(&boot.state_dir.join(audit::store::DIR), anchors).map(audit::view)
}

/// The spool of a dead agent, for `purlin queue peek|export`: nothing of it is changed,
/// and no agent starts on it while it is held.
#[derive(Debug)]
pub struct Spooled {
    identity: Identity,
    view: View,
}

impl Spooled {
    /// Takes the state directory's lock and looks what is there.
    pub fn open(boot: &Boot) -> Result<Self, String> {
        let identity = identity(boot)?;
        let lock = StateDir::hold(&boot.state_dir).map_err(|error| error.to_string())?;
        let dir = boot.state_dir.join("spool");
        let view = View::open(&dir, identity.incarnation, lock, &boot.spool_keys()?)
            .map_err(|error| format!("can't read {}: {error}", dir.display()))?;
        Ok(Self { identity, view })
    }

    /// Whose it is: fleet, node, incarnation.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What waits of `class` from `from` on, as it would be sent.
    pub fn batch(&mut self, class: Class, from: u64) -> Result<Option<v1::Batch>, String> {
        let frame = self.view.read(class, from, spool::EXPORT_BYTES);
        let frame = frame.map_err(|error| format!("the {} log: {error}", class.name()))?;
        Ok(frame.map(|frame| wire::encode(frame, class, &self.identity, true)))
    }

    /// A dictionary by its hash, encoded.
    pub fn dictionary(&self, hash: u64) -> Option<Bytes> {
        self.view.dictionary(hash)
    }
}

/// `purlin config show`
pub fn config(boot: &Boot) -> Result<api::Config, String> {
    let content = ledger(boot)?;
    Ok(view::config(&content, &settings(boot, &content)?))
}

fn settings(boot: &Boot, content: &v1::Ledger) -> Result<Settings, String> {
    let identity = identity(boot)?;
    let active = content.active.as_ref();
    let desired = active.and_then(|entry| door::decode(&entry.document, &identity).ok());
    Ok(Settings::resolve(&boot.start, desired.as_ref()))
}

/// `purlin numa explain`
pub fn placement(boot: &Boot) -> Result<Overview, String> {
    book(boot, None).map(|book| book.overview())
}

/// The placements that the agent left, on this machine.
pub fn book(boot: &Boot, machine: Option<Machine>) -> Result<Book, String> {
    let settings = settings(boot, &ledger(boot)?)?;
    let (_, saved, problems) = Store::open(&boot.state_dir);
    if let (Some(problem), true) = (problems.first(), saved.containers.is_empty()) {
        return Err(problem.clone());
    }
    let mut book = Book::restore(saved);
    book.replan(machine, settings.placement.rules());
    Ok(book)
}

/// `purlin hw diff`
pub fn baseline(boot: &Boot) -> Result<Baseline, String> {
    read_incarnation(boot)?;
    Baseline::read(&boot.state_dir)?.ok_or_else(|| "no hardware was accepted yet".into())
}

/// A document in any of its languages, for one who sends it: its values are checked as
/// the node it names would.
pub fn desired(bytes: &[u8], media_type: &str) -> Result<v1::Desired, Vec<api::Refusal>> {
    let format = Format::of_media_type(media_type).unwrap_or(Format::Toml);
    let checked = door::read(format, bytes, None).map(|(desired, _)| desired);
    checked.map_err(|refusals| refusals.into_iter().map(document::refusal_view).collect())
}

/// `purlin config history`
pub fn history(boot: &Boot) -> Result<api::History, String> {
    ledger(boot).map(|content| view::history(&content))
}

/// `purlin config export`
pub fn document(boot: &Boot, generation: Option<u64>) -> Result<api::Document, String> {
    view::document(&ledger(boot)?, generation).ok_or_else(|| NO_GENERATION.into())
}

/// Why there is no such document.
pub const NO_GENERATION: &str =
    "no document of that generation is kept: purlin config history tells which there were";

fn ledger(boot: &Boot) -> Result<v1::Ledger, String> {
    read_incarnation(boot)?;
    let (_, content, problems) = Ledger::open(&boot.state_dir);
    match problems.first() {
        Some(problem) if content == v1::Ledger::default() => Err(problem.clone()),
        _ => Ok(content),
    }
}

fn identity(boot: &Boot) -> Result<Identity, String> {
    let incarnation = read_incarnation(boot)?;
    // A machine without an id of its own was given one.
    let given = || std::fs::read_to_string(boot.state_dir.join("node")).ok();
    let node = boot.node.clone().or_else(|| Some(given()?.trim().to_owned()));
    Ok(Identity { fleet: boot.fleet.clone(), node: node.unwrap_or_default(), incarnation })
}

/// The incarnation tells whether this is a state directory at all.
fn read_incarnation(boot: &Boot) -> Result<Incarnation, String> {
    let path = boot.state_dir.join("incarnation");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("no agent has run here: {}: {error}", path.display()))?;
    text.parse().map_err(|_| format!("{} is damaged", path.display()))
}
