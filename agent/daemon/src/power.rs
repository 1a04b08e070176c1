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
    power::{
        Decision, Policy, Wanted,
        elsewhere::{Elsewhere, under},
    },
    settings::Settings,
};
use purlin_drivers::{gpu, power::Cap};
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
    placement,
    spool::Spool,
    two_files::{Kind, TwoFiles},
};

/// How soon what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// For what was raised before a restart to be seen again, or to be over: until then what was
/// done stays done and nothing new is.
const SETTLE: Duration = Duration::from_secs(60);
/// For the rack to hear of an alarm before the node that has it is off: all of five nodes do
/// in two seconds at a tenth of all datagrams lost (docs/decisions/053).
const TELL_RACK: Duration = Duration::from_secs(10);
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
    /// The same of GPUs.
    #[serde(default)]
    pub gpus: Vec<gpu::Limit>,
}

impl Done {
    /// What packages may take under a cap, or again without one; never more than before.
    fn packages(&self, watts: Option<u32>) -> Vec<Cap> {
        let most = watts.map_or(u64::MAX, |watts| u64::from(watts) * 1_000_000);
        self.caps.iter().map(|(zone, before)| (zone.clone(), most.min(*before))).collect()
    }

    /// The same of GPUs, of which each takes so much at least.
    fn gpus(&self, watts: Option<u32>) -> Vec<gpu::Cap> {
        let most = watts.map_or(u32::MAX, |watts| watts.saturating_mul(1000));
        let cap = |it: &gpu::Limit| (it.uuid.clone(), most.max(it.min_mw).min(it.set_mw));
        self.gpus.iter().map(cap).collect()
    }
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

/// The alarms that stages are judged by.
#[derive(Clone, Debug)]
pub struct Raised {
    /// This node.
    pub node: String,
    /// What is raised on it.
    pub shown: watch::Receiver<Arc<Shown>>,
    /// What is raised on others.
    pub elsewhere: watch::Receiver<Elsewhere>,
}

impl Raised {
    /// Their ids, this node's also under its name. What only stands from before a restart
    /// may be long over: nobody is shut down for it.
    pub fn now(&self) -> Vec<String> {
        let shown = self.shown.borrow();
        let own = shown.raised.iter().filter(|it| it.seen).map(|it| it.id.clone());
        let own: Vec<String> = own.collect();
        let named = own.iter().map(|id| under(&self.node, id));
        let elsewhere = self.elsewhere.borrow();
        own.iter().cloned().chain(named).chain(elsewhere.raised(clock::since_boot())).collect()
    }
}

/// What the task owns.
#[derive(Debug)]
pub struct Owner {
    /// The settings in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// What is judged by them.
    pub judges: watch::Sender<Option<Wanted>>,
    /// The alarms that are raised.
    pub raised: Raised,
    /// Does what needs a privilege.
    pub helper: Client,
    /// The same of what GPUs may take.
    pub gpu_limiter: Client,
    /// Knows how much containers matter.
    pub placement: placement::Client,
    /// Knows their cgroups.
    pub enforced: watch::Receiver<Arc<api::Enforcement>>,
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
        // What was done before a restart is over by then, or goes on.
        let mut is_left = self.done.1 != Done::default();
        loop {
            let wanted = self.settings.borrow_and_update().power.value.clone();
            let wanted = wanted.unwrap_or_default();
            self.judges.send_replace(Some(wanted.clone()));
            let shown = self.raised.shown.borrow_and_update().clone();
            if began.elapsed() < SETTLE && shown.raised.iter().any(|it| !it.seen) {
                tokio::select! {
                    changed = self.settings.changed() => if changed.is_err() { return },
                    changed = self.raised.shown.changed() => if changed.is_err() { return },
                    () = time::sleep_until(began + SETTLE) => {}
                }
                continue;
            }
            let now = clock::since_boot();
            let elsewhere = self.raised.elsewhere.borrow_and_update().clone();
            let raised = self.raised.now();
            let decision = policy.judge(&wanted, raised.iter().map(String::as_str), now);
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
            if decision.stage < before.stage || is_left && decision.stage == 0 {
                self.tell(&wanted, &decision, decision.stage).await;
            }
            is_left = false;
            problems.clear();
            self.make(&does, &mut problems).await;
            if does.shutdown && !is_off {
                // Others may have no sensor of their own.
                if decision.causes.iter().any(|it| it.starts_with(&under(&self.raised.node, ""))) {
                    time::sleep(TELL_RACK).await;
                }
                match self.switch_off().await {
                    Ok(()) => is_off = true,
                    Err(why) => problems.push(format!("the machine is not shut down: {why}")),
                }
            }
            before = decision;
            self.show(&wanted, &before, &problems);
            let next = policy.next(&wanted).into_iter().chain(elsewhere.next(now));
            let next = next.map(|at| at.saturating_sub(clock::since_boot()));
            // Containers come while others stand still.
            let again = !problems.is_empty() || does.shed_below.is_some();
            let retry = again.then_some(RETRY);
            let wait = next.chain(retry).min();
            tokio::select! {
                changed = self.settings.changed() => if changed.is_err() { return },
                changed = self.raised.shown.changed() => if changed.is_err() { return },
                changed = self.raised.elsewhere.changed() => if changed.is_err() { return },
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
        failed(self.cap_gpus(does.cap_gpu_w).await);
        let mut shed = does.shed.clone();
        match self.below(does.shed_below).await {
            Some(cgroups) => shed.extend(cgroups),
            // Whoever stands still stays so until it is known again who matters less.
            None => shed.extend(self.done.1.frozen.clone()),
        }
        let thaw: Vec<String> =
            self.done.1.frozen.iter().filter(|it| !shed.contains(it)).cloned().collect();
        for cgroup in thaw {
            failed(self.thaw(&cgroup).await);
        }
        for cgroup in &shed {
            failed(self.freeze(cgroup).await);
        }
    }

    /// Cgroups of containers that matter less than this; `None` while nobody can tell.
    async fn below(&self, priority: Option<u32>) -> Option<Vec<String>> {
        let Some(priority) = priority else { return Some(Vec::new()) };
        let ids = self.placement.below(priority).await?;
        let enforced = self.enforced.borrow();
        let theirs = enforced.containers.iter().filter(|it| ids.contains(&it.id));
        Some(theirs.map(|it| it.cgroup.trim_matches('/').to_owned()).collect())
    }

    async fn thaw(&mut self, cgroup: &str) -> Result<(), String> {
        asked(&self.helper, What::Freeze { cgroup: cgroup.to_owned(), still: false }).await?;
        let mut done = self.done.1.clone();
        done.frozen.retain(|it| it != cgroup);
        self.keep(done).await
    }

    /// Again each time: what was started in it since stands still with it.
    async fn freeze(&mut self, cgroup: &str) -> Result<(), String> {
        if !self.done.1.frozen.iter().any(|it| it == cgroup) {
            let mut done = self.done.1.clone();
            done.frozen.push(cgroup.to_owned());
            self.keep(done).await?;
        }
        asked(&self.helper, What::Freeze { cgroup: cgroup.to_owned(), still: true }).await
    }

    async fn cap(&mut self, watts: Option<u32>) -> Result<(), String> {
        if watts.is_some() && self.done.1.caps.is_empty() {
            let answer = self.helper.ask(What::Caps).await;
            answer.failed().map_or(Ok(()), Err)?;
            self.keep(Done { caps: answer.caps, ..self.done.1.clone() }).await?;
        }
        if self.done.1.caps.is_empty() {
            return Ok(());
        }
        asked(&self.helper, What::Cap(self.done.1.packages(watts))).await?;
        match watts {
            Some(_) => Ok(()),
            None => self.keep(Done { caps: Vec::new(), ..self.done.1.clone() }).await,
        }
    }

    async fn cap_gpus(&mut self, watts: Option<u32>) -> Result<(), String> {
        if watts.is_some() && self.done.1.gpus.is_empty() {
            let answer = self.gpu_limiter.ask(What::GpuLimits).await;
            answer.failed().map_or(Ok(()), Err)?;
            self.keep(Done { gpus: answer.gpu_limits, ..self.done.1.clone() }).await?;
        }
        if self.done.1.gpus.is_empty() {
            return Ok(());
        }
        asked(&self.gpu_limiter, What::LimitGpus(self.done.1.gpus(watts))).await?;
        match watts {
            Some(_) => Ok(()),
            None => self.keep(Done { gpus: Vec::new(), ..self.done.1.clone() }).await,
        }
    }

    /// What is to be taken back is so once it is on disk.
    async fn keep(&mut self, done: Done) -> Result<(), String> {
        if done == self.done.1 {
            return Ok(());
        }
        let mut files = self.done.0.clone();
        let payload = serde_json::to_vec(&done).map_err(|error| error.to_string())?;
        let stored = task::spawn_blocking(move || files.store(&payload).map(|()| files)).await;
        let stored = stored.map_err(std::io::Error::other).flatten();
        let files = stored.map_err(|error| format!("what is done is not on disk: {error}"))?;
        self.done = (files, done);
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
            Switch::Helper => asked(&self.helper, What::PowerOff).await,
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
            limits: self.limits(decision),
            problems: problems.to_vec(),
        }));
    }

    fn limits(&self, decision: &Decision) -> Vec<api::PowerLimit> {
        let done = &self.done.1;
        let packages = done.caps.iter().zip(done.packages(decision.cap_w));
        let packages = packages.map(|((_, before), (what, now))| api::PowerLimit {
            what,
            watts: now as f64 / 1e6,
            before_watts: *before as f64 / 1e6,
        });
        let gpus = done.gpus.iter().zip(done.gpus(decision.cap_gpu_w));
        let gpus = gpus.map(|(before, (what, now))| api::PowerLimit {
            what,
            watts: f64::from(now) / 1e3,
            before_watts: f64::from(before.set_mw) / 1e3,
        });
        packages.chain(gpus).collect()
    }
}

/// Has a helper change something. What is not there needs no power.
async fn asked(helper: &Client, what: What) -> Result<(), String> {
    match helper.ask(what).await.changed() {
        Changed::Told | Changed::Absent => Ok(()),
        Changed::Refused(why) => Err(why),
        other => Err(format!("the helper answers {other:?}")),
    }
}
