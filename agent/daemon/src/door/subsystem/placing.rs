//! How containers are placed. Its tasks watch what is sent here; one says by which rules it
//! has planned, the other by which settings it has gone through all cpusets and interrupts.

use std::{sync::Arc, time::Duration};

use purlin_core::{
    inventory::Inventory,
    place::{book::Rules, request::Cpus, source::Profile},
    settings::{Refusal, Settings},
};
use tokio::{sync::watch, time};

use super::{Disturbs, Found, Subsystem, Work};
use crate::{enforce::Obeyed, placement::Client};

/// A plan for a large machine takes a moment, and so do its interrupts.
const SETTLE: Duration = Duration::from_secs(5);

/// Placement.
#[derive(Debug)]
pub struct Placing {
    /// What its task is told.
    pub settings: watch::Sender<Arc<Settings>>,
    /// What it has planned by; `None` before its first plan.
    pub planned: watch::Receiver<Option<Rules>>,
    /// Asked who would move.
    pub placement: Client,
    /// What cpusets, memory and interrupts were last gone through by; `None` before the
    /// first time, and where there are none to go through.
    pub obeyed: watch::Receiver<Option<Obeyed>>,
}

impl Subsystem for Placing {
    fn name(&self) -> &'static str {
        "placement"
    }

    fn disturbs<'a>(&'a self, now: &'a Settings, then: &'a Settings) -> Found<'a> {
        let same = now.placement.rules() == then.placement.rules();
        Box::pin(async move {
            let asked = self.placement.preview(then.placement.rules());
            let moved = if same { Vec::new() } else { asked.await.unwrap_or_default() };
            if moved.is_empty() { Disturbs::Nothing } else { Disturbs::Moves(moved) }
        })
    }

    fn check(&self, settings: &Settings, machine: &Inventory) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let placement = &settings.placement;
        // What could not be read is unknown, and refuses nothing.
        let online = machine.cpu.as_ref().and_then(|cpu| cpu.online.as_ref());
        if let (Some(reserved), Some(online)) = (&placement.reserved.value, online) {
            let missing: Vec<_> = reserved
                .iter()
                .filter(|id| !online.contains(*id))
                .map(|id| id.to_string())
                .collect();
            if !missing.is_empty() {
                refusals.push(refusal(
                    "placement.reserved_cpus".into(),
                    missing.join(","),
                    format!("some of {online}, this machine's CPUs"),
                ));
            }
        }
        for (name, profile) in &placement.profiles.value {
            let path = |field: &str| format!("placement.profiles.{name}.workload.{field}");
            let cpus = online.map(|online| online.len());
            if let Some((asked, there)) = over(exclusive(profile), cpus) {
                let limit = format!("at most {there}, this machine's CPUs");
                refusals.push(refusal(path("exclusive_cpus"), asked.to_string(), limit));
            }
            let gpus = machine.gpus.as_ref().map(Vec::len);
            if let Some((asked, there)) = over(devices(profile, "gpu"), gpus) {
                let limit = format!("at most {there}, this machine's GPUs");
                refusals.push(refusal(path("devices.gpu"), asked.to_string(), limit));
            }
        }
        refusals
    }

    fn apply(&self, settings: Arc<Settings>) -> Work<'_> {
        self.settings.send_replace(settings);
        Box::pin(async { Ok(()) })
    }

    fn read_back<'a>(&'a self, settings: &'a Settings) -> Work<'a> {
        let (mut planned, wanted) = (self.planned.clone(), settings.placement.rules());
        let (mut obeyed, wants) = (self.obeyed.clone(), Obeyed::of(settings));
        Box::pin(async move {
            // Before its first plan it knows no machine, and no other rules either.
            let settled = |now: &Option<Rules>| now.as_ref().is_none_or(|now| *now == wanted);
            let waited = time::timeout(SETTLE, planned.wait_for(settled)).await;
            waited.map_err(|_| "it is still planned by other rules")?.ok();
            let obeys = |now: &Option<Obeyed>| now.is_none_or(|now| now == wants);
            let waited = time::timeout(SETTLE, obeyed.wait_for(obeys)).await;
            waited.map_err(|_| "cpusets and interrupts are still kept by other settings")?.ok();
            Ok(())
        })
    }
}

/// What is asked for and what there is, if it is more.
fn over(asked: Option<usize>, there: Option<usize>) -> Option<(usize, usize)> {
    asked.zip(there).filter(|(asked, there)| asked > there)
}

fn exclusive(profile: &Profile) -> Option<usize> {
    match profile.wishes.request(Default::default()).ok()?.cpus {
        Cpus::Exclusive { count, .. } => Some(count),
        Cpus::Shared { .. } => None,
    }
}

fn devices(profile: &Profile, kind: &str) -> Option<usize> {
    profile.wishes.request(Default::default()).ok()?.devices.get(kind).copied()
}

fn refusal(path: String, value: String, limit: String) -> Refusal {
    Refusal { path, value, limit, hint: "purlin hw list shows what this machine has".into() }
}
