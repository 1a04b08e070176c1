//! What can be told from the state directory when the agent is dead. Nothing
//! here writes: an agent may be starting.

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
    baseline::Baseline,
    boot::Boot,
    document::{self, Format},
    door::{self, Identity, view},
    ledger::Ledger,
    placement::Store,
    spool,
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
    Ok(api::Queue { incarnation, classes })
}

/// `purlin config show`
pub fn config(boot: &Boot) -> Result<api::Config, String> {
    let content = ledger(boot)?;
    Ok(view::config(&content, &settings(boot, &content)?))
}

fn settings(boot: &Boot, content: &v1::Ledger) -> Result<Settings, String> {
    let identity = Identity {
        fleet: boot.fleet.clone(),
        node: boot.node.clone().unwrap_or_default(),
        incarnation: read_incarnation(boot)?,
    };
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

/// The incarnation tells whether this is a state directory at all.
fn read_incarnation(boot: &Boot) -> Result<Incarnation, String> {
    let path = boot.state_dir.join("incarnation");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("no agent has run here: {}: {error}", path.display()))?;
    text.parse().map_err(|_| format!("{} is damaged", path.display()))
}
