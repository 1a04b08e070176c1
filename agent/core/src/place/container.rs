//! A container as a runtime shows it, with nothing interpreted.
//!
//! What there is differs by the way it was seen: NRI has the pod, its labels and
//! annotations; an OCI runtime gets annotations, never labels or the image's name; and of
//! one that is only found among the cgroups there is the id alone.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{cpuset::path_of, idset::IdSet, mesh::workload::Workload};

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

/// Who a container is, and how its connections are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What rules of the mesh call it.
    pub workload: Workload,
    /// Its cgroup's path below the mount.
    pub cgroup: String,
    /// The addresses of its pod.
    pub addresses: Vec<String>,
}

/// Labels of a pod that say what it runs (Kubernetes' "Recommended Labels", and what was
/// used before them).
const NAMED_BY: [&str; 2] = ["app.kubernetes.io/name", "app"];

impl Container {
    /// Who it is: the name that it gives itself by its annotation, else that by which its
    /// pod's labels say what runs there, else its own, in its pod's namespace. A namespace is
    /// never its own to choose. `None` if its name is no name, or its cgroup isn't known.
    pub fn identity(&self, annotated: Option<&str>) -> Option<Identity> {
        let pod = self.pod.as_ref();
        let labels = pod.map(|pod| &pod.labels);
        let label = NAMED_BY.iter().find_map(|it| labels?.get(*it));
        let name = annotated.or(label.map(String::as_str)).unwrap_or(&self.name);
        Some(Identity {
            workload: Workload::container(pod.map(|pod| &*pod.namespace), name)?,
            cgroup: path_of(self.cgroup.as_ref()?)?,
            addresses: pod.map(|pod| pod.ips.clone()).unwrap_or_default(),
        })
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_who_its_annotation_its_pods_labels_or_its_name_say() {
        let mut it = Container { name: "main".into(), ..Container::default() };
        it.cgroup = Some("/docker/1".into());
        let who = |it: &Container, annotated: Option<&str>| {
            it.identity(annotated).map(|it| alloc::format!("{}", it.workload))
        };
        assert_eq!(who(&it, None).as_deref(), Some("container/main"));
        let ips = alloc::vec!["10.88.0.7".into()];
        it.pod = Some(Pod { namespace: "shop".into(), ips: ips.clone(), ..Pod::default() });
        assert_eq!(who(&it, None).as_deref(), Some("workload/shop/main"));
        for (label, name) in [("app", "old"), ("app.kubernetes.io/name", "checkout")] {
            it.pod.as_mut().map(|pod| pod.labels.insert(label.into(), name.into()));
            assert_eq!(who(&it, None), Some(alloc::format!("workload/shop/{name}")));
        }
        assert_eq!(who(&it, Some("x")).as_deref(), Some("workload/shop/x"));
        assert_eq!(who(&it, Some("../other/x")), None);
        let identity = it.identity(None).map(|it| (it.cgroup, it.addresses));
        assert_eq!(identity, Some(("/docker/1".into(), ips)));
        it.cgroup = None;
        assert_eq!(who(&it, None), None);
    }
}
