//! The parts of the agent that have settings, as the door puts them in force.
//!
//! A part that a document gets settings for is one more [`Subsystem`] here: it says
//! what of a change is impossible on this node and what it disturbs, puts settings in
//! force, and reads back what it really runs on. The first word of a setting's path is
//! its subsystem's name. Nothing here decides whether a change is kept.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use purlin_core::{
    inventory::Inventory,
    settings::{Refusal, Settings},
};
use purlin_proto::{api, v1};
use tokio::time;

mod agent;
mod alarming;
mod listening;
mod log;
mod meshing;
mod placing;
mod powering;
mod racking;
mod sampling;
mod spool;
mod uplink;

pub use self::{
    agent::Agent,
    alarming::Alarming,
    listening::Listening,
    log::Log,
    meshing::Meshing,
    placing::Placing,
    powering::Powering,
    racking::Racking,
    sampling::{Sampling, Ticking},
    spool::Storage,
    uplink::Session,
};

/// For one subsystem to do one thing. A setting is a message to a task, a few files at
/// most; what takes longer hangs.
const STEP: Duration = Duration::from_secs(10);

/// What a change disturbs. No setting restarts the agent, and none changes an interface of
/// the machine: there is nothing worse than these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Disturbs {
    /// It holds from now on, and nothing stops for it.
    #[default]
    Nothing,
    /// Connections or tables are made anew: which.
    Reload(Vec<String>),
    /// What was kept is given up: what.
    Loss(Vec<String>),
    /// Containers run elsewhere: each, from where to where.
    Moves(Vec<String>),
    /// Stages of the power policy begin: each, and what it does.
    Stages(Vec<String>),
}

impl Disturbs {
    /// As a plan shows it: the kind, and what it is that is disturbed.
    fn told(self) -> (&'static str, Vec<String>) {
        match self {
            Disturbs::Nothing => ("nothing", Vec::new()),
            Disturbs::Reload(what) => ("reload", what),
            Disturbs::Loss(what) => ("loss", what),
            Disturbs::Moves(what) => ("workloads move", what),
            Disturbs::Stages(what) => ("stages begin", what),
        }
    }
}

/// What a subsystem is doing; the error is for a person.
pub type Work<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// What a subsystem finds out about a change.
pub type Found<'a> = Pin<Box<dyn Future<Output = Disturbs> + Send + 'a>>;

/// A part of the agent that has settings.
pub trait Subsystem: fmt::Debug + Send + Sync {
    /// The first word of its settings' paths.
    fn name(&self) -> &'static str;

    /// What this change of its settings disturbs.
    fn disturbs<'a>(&'a self, _now: &'a Settings, _then: &'a Settings) -> Found<'a> {
        Box::pin(async { Disturbs::Nothing })
    }

    /// What of these settings this node doesn't have, as its hardware is.
    fn check(&self, _settings: &Settings, _machine: &Inventory) -> Vec<Refusal> {
        Vec::new()
    }

    /// Makes ready what may fail. It changes nothing that anybody could notice.
    fn prepare<'a>(&'a self, _settings: &'a Settings) -> Work<'a> {
        Box::pin(async { Ok(()) })
    }

    /// Puts settings in force, those that are in force already included.
    fn apply(&self, settings: Arc<Settings>) -> Work<'_>;

    /// Whether what it really runs on is these settings.
    fn read_back<'a>(&'a self, settings: &'a Settings) -> Work<'a>;

    /// What else has to be proven under the settings that were applied last before they
    /// are confirmed; of some of it, one who confirms by hand can do without.
    fn gate(&self, _by_hand: bool) -> Result<(), String> {
        Ok(())
    }
}

/// Every subsystem, in the order in which settings are put in force.
pub type Subsystems = Arc<[Box<dyn Subsystem>]>;

/// What each of some subsystems said.
pub type Said = Vec<v1::Subsystem>;

/// Prepares all, then applies in order, up to the first that fails.
pub async fn apply(subsystems: Subsystems, settings: Arc<Settings>) -> Said {
    let mut said = Said::new();
    for subsystem in subsystems.iter() {
        said.push(within(subsystem.name(), "prepare", subsystem.prepare(&settings)).await);
    }
    if !all_well(&said) {
        return said;
    }
    said.clear();
    for subsystem in subsystems.iter() {
        said.push(within(subsystem.name(), "apply", subsystem.apply(settings.clone())).await);
        if !all_well(&said) {
            break;
        }
    }
    said
}

/// Puts settings back, the last first. Each gets its own back, whatever another says.
pub async fn undo(subsystems: Subsystems, settings: Arc<Settings>) -> Said {
    let mut said = Said::new();
    for subsystem in subsystems.iter().rev() {
        said.push(within(subsystem.name(), "undo", subsystem.apply(settings.clone())).await);
    }
    said
}

/// Reads back what each runs on.
pub async fn read_back(subsystems: Subsystems, settings: Arc<Settings>) -> Said {
    let mut said = Said::new();
    for subsystem in subsystems.iter() {
        said.push(within(subsystem.name(), "read back", subsystem.read_back(&settings)).await);
    }
    said
}

/// What is not proven yet.
pub fn gate(subsystems: &Subsystems, by_hand: bool) -> Said {
    let said = |it: &dyn Subsystem| v1::Subsystem {
        name: it.name().into(),
        problem: it.gate(by_hand).err().unwrap_or_default(),
    };
    subsystems.iter().map(|it| said(it.as_ref())).collect()
}

/// Whether none has a problem.
pub fn all_well(said: &Said) -> bool {
    said.iter().all(|it| it.problem.is_empty())
}

/// The problems in a line.
pub fn problems(said: &Said) -> String {
    let unwell = said.iter().filter(|it| !it.problem.is_empty());
    unwell.map(|it| format!("{}: {}", it.name, it.problem)).collect::<Vec<_>>().join("; ")
}

async fn within(name: &str, what: &str, work: Work<'_>) -> v1::Subsystem {
    let result = time::timeout(STEP, work).await;
    let result = result.unwrap_or_else(|_| Err(format!("not done with {what} within {STEP:?}")));
    v1::Subsystem { name: name.into(), problem: result.err().unwrap_or_default() }
}

/// What a change is made of, by subsystem.
pub async fn plan(
    subsystems: Subsystems,
    diff: api::Diff,
    (now, then): (Arc<Settings>, Settings),
) -> api::Plan {
    let mut parts = Vec::new();
    for subsystem in subsystems.iter() {
        let name = subsystem.name();
        let own = |change: &&api::Change| change.path.split('.').next() == Some(name);
        let changes: Vec<_> = diff.changes.iter().filter(own).cloned().collect();
        if changes.is_empty() {
            continue;
        }
        let found = time::timeout(STEP, subsystem.disturbs(&now, &then)).await;
        let (disturbs, what) = match found {
            Ok(found) => found.told(),
            Err(_) => ("unknown", vec![format!("{name} does not answer within {STEP:?}")]),
        };
        parts.push(api::PlanPart { name: name.into(), disturbs: disturbs.into(), what, changes });
    }
    api::Plan { from: diff.from, to: diff.to, parts }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use purlin_core::settings::Start;

    use super::*;

    #[derive(Debug)]
    struct Noted {
        name: &'static str,
        fails_at: &'static str,
        notes: Arc<Mutex<Vec<String>>>,
    }

    impl Noted {
        fn note(&self, what: &'static str) -> Work<'_> {
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            notes.push(format!("{what} {}", self.name));
            let failed = self.fails_at == what;
            Box::pin(async move { if failed { Err("broken".into()) } else { Ok(()) } })
        }
    }

    impl Subsystem for Noted {
        fn name(&self) -> &'static str {
            self.name
        }
        fn prepare<'a>(&'a self, _: &'a Settings) -> Work<'a> {
            self.note("prepare")
        }
        fn apply(&self, _: Arc<Settings>) -> Work<'_> {
            self.note("apply")
        }
        fn read_back<'a>(&'a self, _: &'a Settings) -> Work<'a> {
            self.note("read")
        }
    }

    async fn noted(fails_at: &'static str) -> (String, String) {
        let notes = Arc::default();
        let noted = |name, fails_at| -> Box<dyn Subsystem> {
            Box::new(Noted { name, fails_at, notes: Arc::clone(&notes) })
        };
        let subsystems: Subsystems = [noted("a", ""), noted("b", fails_at), noted("c", "")].into();
        let settings = Arc::new(Settings::resolve(&Start::default(), None));
        let said = apply(subsystems.clone(), settings.clone()).await;
        if !all_well(&said) {
            undo(subsystems, settings).await;
        }
        let notes = notes.lock().unwrap_or_else(PoisonError::into_inner).join(", ");
        (notes, problems(&said))
    }

    #[tokio::test]
    async fn all_are_prepared_before_any_is_applied_in_order() {
        let (notes, problems) = noted("").await;
        assert_eq!(notes, "prepare a, prepare b, prepare c, apply a, apply b, apply c");
        assert_eq!(problems, "");
    }

    #[tokio::test]
    async fn what_fails_is_undone_in_reverse() {
        let (notes, problems) = noted("apply").await;
        assert_eq!(
            notes,
            "prepare a, prepare b, prepare c, apply a, apply b, apply c, apply b, apply a"
        );
        assert_eq!(problems, "b: broken");
        let (notes, _) = noted("prepare").await;
        assert!(notes.starts_with("prepare a, prepare b, prepare c, apply c"), "{notes}");
    }
}
