//! Who asked for a container to be placed, and for what.
//!
//! Three say so, and each may add to or correct what the ones before said: Kubernetes, by
//! the resources of a Guaranteed pod; the operator, by a profile in the desired
//! configuration; the workload itself, by annotations `purlin.dev/…`.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

use serde::{Deserialize, Serialize};

use super::{
    book::Rules,
    container::{Container, Texts, Via},
    door::Door,
    request::{Cpus, Policy, Request, Smt},
    wishes::Wishes,
};
use crate::pattern::like;

/// What our annotations begin with. `NAME.purlin.dev/…` on a pod is for its container of
/// that name alone.
pub const PREFIX: &str = "purlin.dev";

/// Who had the last word on what a container asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Nobody: it shares what is left.
    #[default]
    Nobody,
    /// Nobody, but it was given devices: it goes near them.
    Devices,
    /// Kubernetes.
    Kubernetes,
    /// The profile of this name.
    Profile(String),
    /// Its annotations.
    Annotations,
}

/// Wishes for the containers that it matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// What is matched against the image's name, `*` standing for anything.
    pub image: Option<String>,
    /// The same for the container's name.
    pub container: Option<String>,
    /// The same for the pod's namespace.
    pub namespace: Option<String>,
    /// Labels of the container or its pod, and what each must match.
    pub labels: Texts,
    /// Annotations of the container or its pod, and what each must match.
    pub annotations: Texts,
    /// What they ask for.
    pub wishes: Wishes,
}

/// What a container asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Who asked.
    pub by: Source,
    /// For what.
    pub request: Request,
    /// Its exclusive CPUs are to be a partition without load balancing.
    pub isolated: bool,
    /// Shed below a stage's, when power or cooling fails; `None`: never.
    #[serde(default)]
    pub priority: Option<u32>,
    /// Services of the mesh that it has endpoints of, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, Door>,
    /// What rules of the mesh call it, if it says so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// What a container asks for; the error says everything that is wrong with how it asks.
pub fn asked(container: &Container, rules: &Rules) -> Result<Asked, String> {
    let mut wishes = Wishes::default();
    let mut by = Source::Nobody;
    if guaranteed(container) {
        wishes.overlay(&kubernetes(container));
        by = Source::Kubernetes;
    }
    if let Some((name, profile)) = rules.profiles.iter().find(|(_, it)| it.matches(container)) {
        wishes.overlay(&profile.wishes);
        by = Source::Profile(name.clone());
    }
    let annotated = annotated(container)?;
    wishes.overlay(&annotated);
    // Where it goes has nothing to do with how much it matters, what it serves and who it is.
    let (services, identity) = (annotated.services, annotated.identity);
    let of_its_place =
        Wishes { priority: None, services: BTreeMap::new(), identity: None, ..annotated };
    if of_its_place != Wishes::default() {
        by = Source::Annotations;
    }
    let priority = wishes.priority;
    if by == Source::Nobody {
        return Ok(Asked { priority, services, identity, ..Asked::default() });
    }
    Ok(Asked {
        by,
        request: wishes.request(rules.policy)?,
        isolated: wishes.isolated.unwrap_or(false),
        priority,
        services,
        identity,
    })
}

impl Profile {
    /// True if all that it names is there and matches. One that names nothing matches
    /// nothing.
    pub fn matches(&self, container: &Container) -> bool {
        let pod = container.pod.as_ref();
        let one = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_ref().map(|wanted| is.is_some_and(|is| like(wanted, is)))
        };
        let all = |wanted: &Texts, own: &Texts, of_pod: Option<&Texts>| -> Vec<bool> {
            let value = |key: &String| own.get(key).or_else(|| of_pod?.get(key));
            let matches = |(key, wanted): (&String, &String)| {
                value(key).is_some_and(|value| like(wanted, value))
            };
            wanted.iter().map(matches).collect()
        };
        let name = Some(&*container.name).filter(|name| !name.is_empty());
        let found = [
            one(&self.image, container.image.as_deref()),
            one(&self.container, name),
            one(&self.namespace, pod.map(|pod| &*pod.namespace)),
        ];
        let mut found: Vec<bool> = found.into_iter().flatten().collect();
        found.extend(all(&self.labels, &container.labels, pod.map(|pod| &pod.labels)));
        let of_pod = pod.map(|pod| &pod.annotations);
        found.extend(all(&self.annotations, &container.annotations, of_pod));
        !found.is_empty() && found.into_iter().all(|found| found)
    }
}

/// What its annotations ask for, those for it alone after those for its whole pod.
fn annotated(container: &Container) -> Result<Wishes, String> {
    let mut wishes = Wishes::default();
    let mut wrong = Vec::new();
    let of_pod = container.pod.iter().map(|pod| &pod.annotations);
    let own = format!("{}.{PREFIX}", container.name);
    for texts in of_pod.chain([&container.annotations]) {
        for prefix in [PREFIX, &own] {
            for (key, value) in texts {
                let Some(name) = key.strip_prefix(prefix).and_then(|it| it.strip_prefix('/'))
                else {
                    continue;
                };
                if let Err(why) = wishes.read(name, value) {
                    wrong.push(format!("annotation {key}: {why}"));
                }
            }
        }
    }
    if wrong.is_empty() { Ok(wishes) } else { Err(wrong.join("; ")) }
}

/// True for a container of a Guaranteed pod. Kubelet tells no runtime a pod's class: it is
/// in the name of the pod's cgroup (`pkg/kubelet/cm/qos_container_manager_linux.go`), and
/// only a Guaranteed pod is right below `kubepods`. What one asks for that is only found
/// there, nobody has told.
fn guaranteed(container: &Container) -> bool {
    let cgroup = container.cgroup.as_deref().unwrap_or_default();
    let in_pods = cgroup.contains("kubepods") && container.via != Via::Found;
    in_pods && !cgroup.contains("burstable") && !cgroup.contains("besteffort")
}

/// What a container of a Guaranteed pod asks for: its requests are its limits, and whole
/// CPUs are exclusive, as for kubelet's static policy (`cpumanager/policy_static.go`).
fn kubernetes(container: &Container) -> Wishes {
    let resources = &container.resources;
    let milli = milli(container);
    let whole = milli > 0 && milli.is_multiple_of(1000);
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Wishes {
        exclusive_cpus: whole.then(|| small(milli / 1000)),
        shared_millicpus: (!whole).then(|| small(milli)),
        memory: resources.memory_limit,
        hugepages: resources.hugepages.clone(),
        ..Wishes::default()
    }
}

/// CPUs that kubelet's static policy would give a container exclusively, if any.
pub(super) fn guaranteed_cpus(container: &Container) -> Option<usize> {
    let count = guaranteed(container).then(|| kubernetes(container).exclusive_cpus).flatten();
    count.map(|count| count as usize)
}

/// Thousandths of a CPU: kubelet's quota is exact, and where there is none (it takes the
/// quota off where it gives CPUs exclusively) its shares are 1024 for each CPU, cut off.
fn milli(container: &Container) -> u64 {
    let resources = &container.resources;
    let quota = resources.cpu_quota_us.and_then(|quota| u64::try_from(quota).ok());
    let period = resources.cpu_period_us.filter(|period| *period > 0);
    match (quota.filter(|quota| *quota > 0), period) {
        (Some(quota), Some(period)) => quota.saturating_mul(1000).div_ceil(period),
        _ => resources.cpu_shares.unwrap_or(0).saturating_mul(1000).div_ceil(1024),
    }
}

impl Wishes {
    /// What they come to, with the policy of those that name none; the error is what
    /// contradicts itself.
    pub fn request(&self, policy: Policy) -> Result<Request, String> {
        let smt = if self.full_cores == Some(true) { Smt::FullCores } else { Smt::Any };
        let exclusive = self.exclusive_cpus.filter(|count| *count > 0);
        if self.isolated == Some(true) && exclusive.is_none() {
            return Err("isolated CPUs are exclusive ones: ask for exclusive-cpus too".to_string());
        }
        Ok(Request {
            cpus: match exclusive {
                Some(count) => Cpus::Exclusive { count: count as usize, smt },
                None => Cpus::Shared { milli: self.shared_millicpus.unwrap_or(0).into() },
            },
            memory: self.memory.unwrap_or(0),
            far_memory: self.far_memory.unwrap_or(false),
            hugepages: self.hugepages.clone(),
            devices: self.devices.clone(),
            given: Vec::new(),
            near: self.near,
            policy: self.policy.unwrap_or(policy),
        })
    }
}
