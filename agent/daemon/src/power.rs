//! The task `power`: does what the stages of [`purlin_core::power`] say, in their order, and
//! takes it back when the alarms are over.
//!
//! What stands still or is capped is on disk before it is done, so that a restart takes it
//! back or goes on with it. What could not be done is tried again and shown. In a rehearsal
//! everything is told and nothing done.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use purlin_core::{
    power::{Decision, Policy, Wanted},
    settings::Settings,
};
use purlin_drivers::power::Cap;
use purlin_proto::api;
use serde::{Deserialize, Serialize};
use tokio::{
    process,
    sync::watch,
    task,
    time::{self, Instant},
};

use crate::{
    alarm::Shown,
    audit, clock,
    helper::{Changed, Client, What},
    spool::Spool,
    two_files::{Kind, TwoFiles},
};

/// How soon what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// For what was raised before a restart to be seen again, or to be over: until then what was
/// done stays done and nothing new is.
const SETTLE: Duration = Duration::from_secs(60);
/// Who did what nobody asked for.
const BY: &str = "the power policy";
const KIND: Kind = Kind { name: "power", magic: *b"PURLPWR\x01", max_bytes: 64 << 10 };

/// What was done and is to be taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Cgroups that stand still.
    pub frozen: Vec<String>,
    /// What packages might take before they were capped.
    pub caps: Vec<Cap>,
}

/// Who switches the machine off.
#[derive(Clone, Debug)]
pub enum Switch {
    /// Root's helper, which asks systemd.
    Helper,
    /// A program in its place, for this project's own tests.
    Program(PathBuf),
    /// Nobody.
    Nobody(&'static str),
}

/// What the task owns.
#[derive(Debug)]
pub struct Owner {
    /// The settings in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// The alarms that are raised.
    pub shown: watch::Receiver<Arc<Shown>>,
    /// Does what needs a privilege.
    pub helper: Client,
    /// Takes events, and is flushed.
    pub spool: Spool,
    /// Where it is put on record.
    pub audit: audit::Client,
    /// Shows it.
    pub view: watch::Sender<Arc<api::Power>>,
    /// Who switches the machine off.
    pub switch: Switch,
    /// What was done, on disk and here.
    pub done: (TwoFiles, Done),
}

/// What was done before a restart, and what was damaged.
pub fn open(dir: &Path) -> ((TwoFiles, Done), Vec<String>) {
    let parse = |payload: &[u8]| serde_json::from_slice::<Done>(payload).ok();
    let (files, done, problems) = TwoFiles::open(dir, KIND, parse);
    ((files, done.unwrap_or_default()), problems)
}

impl Owner {
    /// Judges and acts for ever.
    pub async fn run(&mut self) {
        let (mut policy, mut before, mut is_off) = (Policy::default(), Decision::default(), false);
        let began = Instant::now();
        loop {
            let wanted = self.settings.borrow_and_update().power.value.clone();
            let wanted = wanted.unwrap_or_default();
            let shown = self.shown.borrow_and_update().clone();
            if began.elapsed() < SETTLE && shown.raised.iter().any(|it| !it.seen) {
                tokio::select! {
                    changed = self.settings.changed() => if changed.is_err() { return },
                    changed = self.shown.changed() => if changed.is_err() { return },
                    () = time::sleep_until(began + SETTLE) => {}
                }
                continue;
            }
            // What only stands from before may be long over: nobody is shut down for it.
            let raised = shown.raised.iter().filter(|it| it.seen).map(|it| it.id.as_str());
            let decision = policy.judge(&wanted, raised, clock::since_boot());
            let does = if wanted.rehearse { Decision::default() } else { decision.clone() };
            let mut problems = Vec::new();
            // Stage by stage, so that a milder one is over before a harder one begins.
            for stage in before.stage + 1..=decision.stage {
                self.tell(&wanted, &decision, stage).await;
                let so_far = does.up_to(&wanted, stage);
                self.make(&so_far, &mut problems).await;
                if so_far.flush && self.spool.commit().await.is_none() {
                    problems.push("the spool could not be flushed".into());
                }
            }
            if decision.stage < before.stage {
                self.tell(&wanted, &decision, decision.stage).await;
            }
            problems.clear();
            self.make(&does, &mut problems).await;
            if does.shutdown && !is_off {
                match self.switch_off().await {
                    Ok(()) => is_off = true,
                    Err(why) => problems.push(format!("the machine is not shut down: {why}")),
                }
            }
            before = decision;
            self.show(&wanted, &before, &problems);
            let next = policy.next(&wanted).map(|at| at.saturating_sub(clock::since_boot()));
            let retry = (!problems.is_empty()).then_some(RETRY);
            let wait = next.into_iter().chain(retry).min();
            tokio::select! {
                changed = self.settings.changed() => if changed.is_err() { return },
                changed = self.shown.changed() => if changed.is_err() { return },
                () = time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
            }
        }
    }

    /// Says which stage it is now, and why.
    async fn tell(&self, wanted: &Wanted, decision: &Decision, stage: usize) {
        let count = wanted.stages.len();
        let text = match stage.checked_sub(1).and_then(|at| wanted.stages.get(at)) {
            None => "power and heat are well again: everything is taken back".into(),
            Some(it) => {
                let rehearsed = if wanted.rehearse { "; a rehearsal: nothing is done" } else { "" };
                let causes = decision.causes.join(", ");
                let does = it.does().join(", ");
                format!("stage {} ({stage} of {count}): {does}; by {causes}{rehearsed}", it.name)
            }
        };
        tracing::warn!(stage, text, "the power policy");
        self.spool.event_with(
            "power.stage",
            text.clone(),
            [("purlin.power.stage".into(), stage.to_string())],
        );
        self.audit.note(BY, "power.stage", &text).await;
    }

    /// Makes the node what a decision says, what was done before taken back.
    async fn make(&mut self, does: &Decision, problems: &mut Vec<String>) {
        let mut failed = |why: Result<(), String>| problems.extend(why.err());
        failed(self.cap(does.cap_w).await);
        let thaw: Vec<String> =
            self.done.1.frozen.iter().filter(|it| !does.shed.contains(it)).cloned().collect();
        for cgroup in thaw {
            match self.freeze(&cgroup, false).await {
                Ok(()) => {
                    self.done.1.frozen.retain(|it| *it != cgroup);
                    failed(self.keep().await);
                }
                Err(why) => failed(Err(why)),
            }
        }
        for cgroup in &does.shed {
            if !self.done.1.frozen.contains(cgroup) {
                self.done.1.frozen.push(cgroup.clone());
                failed(self.keep().await);
            }
            // Again each time: what was started in it since stands still with it.
            failed(self.freeze(cgroup, true).await);
        }
    }

    async fn freeze(&self, cgroup: &str, still: bool) -> Result<(), String> {
        let what = What::Freeze { cgroup: cgroup.to_owned(), still };
        match self.helper.ask(what).await.changed() {
            // Nothing there needs power.
            Changed::Told | Changed::Absent => Ok(()),
            Changed::Refused(why) => Err(why),
            other => Err(format!("the helper answers {other:?}")),
        }
    }

    async fn cap(&mut self, watts: Option<u32>) -> Result<(), String> {
        let wanted: Vec<Cap> = match watts {
            None if self.done.1.caps.is_empty() => return Ok(()),
            None => self.done.1.caps.clone(),
            Some(watts) => {
                if self.done.1.caps.is_empty() {
                    self.done.1.caps = self.helper.ask(What::Caps).await.caps;
                    self.keep().await?;
                }
                let least = |before: u64| before.min(u64::from(watts) * 1_000_000);
                self.done.1.caps.iter().map(|(zone, uw)| (zone.clone(), least(*uw))).collect()
            }
        };
        match self.helper.ask(What::Cap(wanted)).await.changed() {
            Changed::Told if watts.is_none() => {
                self.done.1.caps.clear();
                self.keep().await
            }
            Changed::Told => Ok(()),
            Changed::Refused(why) => Err(why),
            other => Err(format!("the helper answers {other:?}")),
        }
    }

    async fn keep(&mut self) -> Result<(), String> {
        let (mut files, done) = (self.done.0.clone(), self.done.1.clone());
        let payload = serde_json::to_vec(&done).map_err(|error| error.to_string())?;
        let stored = task::spawn_blocking(move || files.store(&payload).map(|()| files)).await;
        let stored = stored.map_err(std::io::Error::other).flatten();
        self.done.0 = stored.map_err(|error| format!("what is done is not on disk: {error}"))?;
        Ok(())
    }

    /// Everything durable first.
    async fn switch_off(&self) -> Result<(), String> {
        if let Switch::Nobody(why) = &self.switch {
            return Err((*why).into());
        }
        self.spool.event("power.shutdown", "the node is shut down by its power policy");
        self.audit.note(BY, "power.shutdown", "").await;
        self.spool.commit().await.ok_or("the spool is gone")?;
        match &self.switch {
            Switch::Nobody(why) => Err((*why).into()),
            Switch::Helper => match self.helper.ask(What::PowerOff).await.changed() {
                Changed::Told => Ok(()),
                Changed::Refused(why) => Err(why),
                other => Err(format!("the helper answers {other:?}")),
            },
            Switch::Program(program) => {
                let status = process::Command::new(program).status().await;
                let status = status.map_err(|error| format!("{}: {error}", program.display()))?;
                let failed = || format!("{}: {status}", program.display());
                status.success().then_some(()).ok_or_else(failed)
            }
        }
    }

    fn show(&self, wanted: &Wanted, decision: &Decision, problems: &[String]) {
        let stages = wanted.stages.iter().enumerate().map(|(n, stage)| api::PowerStage {
            name: stage.name.clone(),
            when: stage.when.clone(),
            does: stage.does(),
            in_force: n < decision.stage,
        });
        self.view.send_replace(Arc::new(api::Power {
            rehearse: wanted.rehearse,
            stages: stages.collect(),
            causes: decision.causes.clone(),
            frozen: self.done.1.frozen.clone(),
            capped: !self.done.1.caps.is_empty() && decision.cap_w.is_some(),
            problems: problems.to_vec(),
        }));
    }
}
