//! A container as a runtime shows it, with nothing interpreted.
//!
//! What there is differs by the way it was seen: NRI has the pod, its labels and
//! annotations; an OCI runtime gets annotations, never labels or the image's name; and of
//! one that is only found among the cgroups there is the id alone.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::idset::IdSet;

/// Labels, or annotations, kept of one container: what a workload is matched by is short,
/// and what else tools leave there is not.
const MAX_TEXTS: usize = 64;
/// A key and its value together, in bytes; longer ones are left out.
const MAX_TEXT_BYTES: usize = 1024;

/// Texts by key: labels, annotations.
pub type Texts = BTreeMap<String, String>;

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// The runtime's id of it.
    pub id: String,
    /// Its name within its pod, or its own.
    pub name: String,
    /// The pod that it is in.
    pub pod: Option<Pod>,
    /// The image's name.
    pub image: Option<String>,
    /// Its own labels.
    pub labels: Texts,
    /// Its own annotations.
    pub annotations: Texts,
    /// What it may use.
    pub resources: Resources,
    /// Devices it was given: CDI names (`vendor/class=name`) and paths on the host.
    pub devices: Vec<String>,
    /// Its cgroup, as the runtime says it: a path below the mount (`/kubepods/podX/ID`), or
    /// `SLICE:PREFIX:ID` where systemd makes it.
    pub cgroup: Option<String>,
    /// How it was seen.
    pub via: Via,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "these are Kubernetes' own")]
pub struct Pod {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub labels: Texts,
    pub annotations: Texts,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
}

/// What a container may use, as its OCI specification says; `None` is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Weight among others, 1024 for each CPU that was asked for.
    pub cpu_shares: Option<u64>,
    /// CPU time in each period, in µs; below 1 is no limit.
    pub cpu_quota_us: Option<i64>,
    /// That period, in µs.
    pub cpu_period_us: Option<u64>,
    /// In bytes.
    pub memory_limit: Option<u64>,
    /// Page size in bytes → limit in bytes.
    pub hugepages: BTreeMap<u64, u64>,
    /// CPUs it is bound to.
    pub cpus: Option<IdSet>,
    /// NUMA nodes its memory is bound to.
    pub mems: Option<IdSet>,
    /// How likely the kernel ends it for want of memory, −1000 to 1000.
    pub oom_score_adj: Option<i64>,
}

/// How a container was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// Its runtime told through NRI.
    Nri,
    /// The OCI runtime wrapper was called for it.
    Oci,
    /// It has a cgroup; what made it did not tell.
    #[default]
    Found,
}

impl Container {
    /// For messages: `namespace/pod/name`, `name`, or the id's beginning.
    pub fn title(&self) -> String {
        match (&self.pod, self.name.is_empty()) {
            (Some(pod), false) => alloc::format!("{}/{}/{}", pod.namespace, pod.name, self.name),
            (_, false) => self.name.clone(),
            _ => self.id.chars().take(12).collect(),
        }
    }

    /// Without the texts that are too long or too many to keep.
    pub fn bounded(mut self) -> Self {
        let bounded = |texts: &mut Texts| {
            texts.retain(|key, value| key.len() + value.len() <= MAX_TEXT_BYTES);
            while texts.len() > MAX_TEXTS {
                texts.pop_last();
            }
        };
        bounded(&mut self.labels);
        bounded(&mut self.annotations);
        if let Some(pod) = &mut self.pod {
            bounded(&mut pod.labels);
            bounded(&mut pod.annotations);
        }
        self
    }
}
