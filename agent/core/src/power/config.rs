//! The stages, as the configuration wants them.

use alloc::{
    format,
    string::{String, ToString as _},
    vec::Vec,
};
use core::time::Duration;

use crate::{place::wishes::MAX_PRIORITY, settings::Refusal};

/// Stages of one document: nobody tells more apart.
const MAX_STAGES: usize = 8;
/// Patterns and cgroups of a stage.
const MAX_NAMES: usize = 32;
/// Watts: a package idles at ten and takes no thousand.
const CAP_W: core::ops::RangeInclusive<u32> = 10..=1000;
/// The same of a GPU; each has narrower bounds of its own.
const CAP_GPU_W: core::ops::RangeInclusive<u32> = 10..=3000;
/// Seconds for a milder stage to do before it is gone back to.
const RECOVER_S: u32 = 120;
const MAX_RECOVER_S: u32 = 86_400;
/// Cgroups that nobody may be without: they hold the agent, or what ends the machine.
const VITAL: [&str; 4] = ["init.scope", "system.slice", "user.slice", "machine.slice"];

/// What stands in a document, unchecked.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each field is documented in proto/purlin/v1/desired.proto")]
pub struct Draft {
    pub rehearse: Option<bool>,
    pub recover_s: Option<u32>,
    pub stages: Vec<StageDraft>,
}

/// A stage as it stands in a document, unchecked.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each field is documented in proto/purlin/v1/desired.proto")]
pub struct StageDraft {
    pub name: String,
    pub when: Vec<String>,
    pub cap_w: Option<u32>,
    pub cap_gpu_w: Option<u32>,
    pub shed: Vec<String>,
    pub shed_below: Option<u32>,
    pub flush: Option<bool>,
    pub shutdown: Option<bool>,
}

/// What is wanted; without a stage nothing is ever done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Everything is told and nothing done.
    pub rehearse: bool,
    /// For a milder stage to do before it is gone back to.
    pub recover: Duration,
    /// The mildest first.
    pub stages: Vec<Stage>,
}

/// A stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Patterns of alarms' ids.
    pub when: Vec<String>,
    /// Watts that a package may take.
    pub cap_w: Option<u32>,
    /// Watts that a GPU may take.
    pub cap_gpu_w: Option<u32>,
    /// Cgroups that stand still.
    pub shed: Vec<String>,
    /// And containers that matter less than this.
    pub shed_below: Option<u32>,
    /// What waits is made durable.
    pub flush: bool,
    /// The node is shut down.
    pub shutdown: bool,
}

/// Checks every stage.
pub fn check(draft: &Draft, refusals: &mut Vec<Refusal>) -> Option<Wanted> {
    let mut refuse = |path: String, value: String, limit: String, hint: &str| {
        refusals.push(Refusal { path, value, limit, hint: hint.into() });
    };
    if draft.stages.len() > MAX_STAGES {
        let (value, limit) = (draft.stages.len().to_string(), format!("at most {MAX_STAGES}"));
        refuse("power.stages".into(), value, limit, "do more in each");
    }
    let recover_s = draft.recover_s.unwrap_or(RECOVER_S);
    if recover_s > MAX_RECOVER_S {
        let limit = format!("0 to {MAX_RECOVER_S}");
        refuse("power.recover_s".into(), recover_s.to_string(), limit, "it is in seconds");
    }
    let mut stages: Vec<Stage> = Vec::new();
    for (n, stage) in draft.stages.iter().enumerate() {
        let path = format!("power.stages.{n}");
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_named = (1..=48).contains(&stage.name.len()) && stage.name.bytes().all(is_plain);
        if !is_named || stages.iter().any(|it| it.name == stage.name) {
            let limit = "1 to 48 letters a-z, digits and -, each once".into();
            refuse(format!("{path}.name"), stage.name.clone(), limit, "events are told by it");
        }
        if !(1..=MAX_NAMES).contains(&stage.when.len()) {
            let (value, limit) = (stage.when.len().to_string(), format!("1 to {MAX_NAMES}"));
            let hint =
                "name alarms by their ids, e.g. \"on-battery.*\"; `purlin alarm list` has them";
            refuse(format!("{path}.when"), value, limit, hint);
        }
        if stage.shed.len() > MAX_NAMES {
            let (value, limit) = (stage.shed.len().to_string(), format!("at most {MAX_NAMES}"));
            refuse(format!("{path}.shed"), value, limit, "name a slice that holds them");
        }
        for cgroup in stage.shed.iter().filter(|it| !may_stand_still(it)) {
            let limit = "a cgroup below the mount, e.g. batch.slice, but none of the system's own";
            let hint =
                "`systemd-cgls` has them; of Kubernetes kubepods.slice/kubepods-besteffort.slice";
            refuse(format!("{path}.shed"), cgroup.clone(), limit.into(), hint);
        }
        let caps = [
            ("shed_below", stage.shed_below, 1..=MAX_PRIORITY, "no container has a higher one"),
            ("cap_w", stage.cap_w, CAP_W, "it is in watts a package"),
            ("cap_gpu_w", stage.cap_gpu_w, CAP_GPU_W, "it is in watts a GPU"),
        ];
        for (name, cap, range, hint) in caps {
            if let Some(cap) = cap.filter(|cap| !range.contains(cap)) {
                let limit = format!("{} to {}", range.start(), range.end());
                refuse(format!("{path}.{name}"), cap.to_string(), limit, hint);
            }
        }
        stages.push(Stage {
            name: stage.name.clone(),
            when: stage.when.clone(),
            cap_w: stage.cap_w,
            cap_gpu_w: stage.cap_gpu_w,
            shed: stage.shed.clone(),
            shed_below: stage.shed_below,
            flush: stage.flush.unwrap_or(false),
            shutdown: stage.shutdown.unwrap_or(false),
        });
    }
    (!stages.is_empty()).then(|| Wanted {
        rehearse: draft.rehearse.unwrap_or(false),
        recover: Duration::from_secs(recover_s.into()),
        stages,
    })
}

fn may_stand_still(cgroup: &str) -> bool {
    let parts = || cgroup.split('/');
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    cgroup.len() <= 255
        && parts().all(is_plain)
        && cgroup.chars().all(|c| c.is_ascii_graphic())
        && !VITAL.contains(&cgroup)
}

impl Wanted {
    /// Every stage as (path, value), for people.
    pub fn rows(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        if self.rehearse {
            rows.push(("power.rehearse".into(), "true".into()));
        }
        for (n, stage) in self.stages.iter().enumerate() {
            let value = format!("{}: {}", stage.name, stage.does().join(", "));
            rows.push((format!("power.stages.{n}"), value));
        }
        rows
    }
}

impl Stage {
    /// What it does, in this order.
    pub fn does(&self) -> Vec<String> {
        let mut does: Vec<String> = ["tell".into()].into();
        does.extend(self.cap_w.map(|watts| format!("cap packages at {watts} W")));
        does.extend(self.cap_gpu_w.map(|watts| format!("cap GPUs at {watts} W")));
        if !self.shed.is_empty() {
            does.push(format!("freeze {}", self.shed.join(" ")));
        }
        does.extend(self.shed_below.map(|it| format!("freeze containers of priority below {it}")));
        if self.flush {
            does.push("flush the spool".into());
        }
        if self.shutdown {
            does.push("shut down".into());
        }
        does
    }
}
