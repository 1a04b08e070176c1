//! What kubelet's own managers gave out: its CPU manager's static policy, and its memory
//! manager's. Where they are at work they alone give CPUs out: we never take one that they
//! might give, and place the rest near what they gave.

use alloc::{collections::BTreeMap, string::String};

use serde::{Deserialize, Serialize};

use super::container::Container;
use crate::idset::IdSet;

/// What kubelet's managers say of a node, as long as its CPU manager gives CPUs out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubelet {
    /// CPUs of those that it gave none (`defaultCpuSet`): what all of them share.
    pub shared: IdSet,
    /// What it gave to one container alone, by its pod's uid and its name.
    pub given: BTreeMap<String, BTreeMap<String, Gave>>,
    /// CPUs that it gave to the containers of a pod together, by the pod's uid.
    pub pods: BTreeMap<String, IdSet>,
    /// CPUs by container id: so kubelet wrote it before 1.18.
    pub by_id: BTreeMap<String, IdSet>,
}

/// What it gave to one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gave {
    /// CPUs for itself alone; empty if it shares.
    pub cpus: IdSet,
    /// Nodes of its memory; empty if it was not bound to any.
    pub mems: IdSet,
}

impl Kubelet {
    /// CPUs that it gave away.
    pub fn exclusive(&self) -> IdSet {
        let containers = self.given.values().flat_map(BTreeMap::values).map(|it| &it.cpus);
        let all = containers.chain(self.pods.values()).chain(self.by_id.values());
        all.fold(IdSet::default(), |all, cpus| all.union(cpus))
    }

    /// Every CPU that it manages.
    pub fn managed(&self) -> IdSet {
        self.shared.union(&self.exclusive())
    }

    /// What it gave to a container. One that is only found among the cgroups has no name:
    /// what it has tells which of its pod's it is.
    pub fn gave(&self, container: &Container) -> Option<Gave> {
        if let Some(cpus) = self.by_id.get(&container.id) {
            return Some(Gave { cpus: cpus.clone(), ..Gave::default() });
        }
        let uid = uid(container)?;
        let own = self.given.get(&uid).and_then(|of_pod| {
            of_pod.get(&container.name).cloned().or_else(|| {
                let has = container.resources.cpus.as_ref();
                let has = has.filter(|_| container.name.is_empty())?;
                of_pod.values().find(|it| it.cpus == *has).cloned()
            })
        });
        let Some(cpus) = self.pods.get(&uid) else { return own };
        let own = own.unwrap_or_default();
        Some(Gave { cpus: if own.cpus.is_empty() { cpus.clone() } else { own.cpus }, ..own })
    }

    /// True if what it gave to a container may be another's of the same pod too.
    pub fn gave_to_pod(&self, container: &Container) -> bool {
        uid(container).is_some_and(|uid| self.pods.contains_key(&uid))
    }
}

/// The uid of the pod that a container is in: as its runtime tells, or else as it stands in
/// its cgroup's path (`kubepods/burstable/podUID`, and with systemd
/// `kubepods-burstable-podUID.slice`, the uid's dashes as underscores).
pub fn uid(container: &Container) -> Option<String> {
    if let Some(pod) = &container.pod {
        return Some(pod.uid.clone());
    }
    let path = container.cgroup.as_deref().filter(|path| path.contains("kubepods"))?;
    let named = path.split(['/', ':']).find_map(|part| match part.strip_prefix("pod") {
        Some(uid) => Some(uid),
        None => Some(part.strip_suffix(".slice")?.rsplit_once("-pod")?.1),
    });
    named.map(|uid| uid.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cgroup: &str, expected: Option<&str>) {
        let container = Container { cgroup: Some(cgroup.into()), ..Container::default() };
        assert_eq!(uid(&container).as_deref(), expected);
    }

    #[test]
    fn a_pods_uid_stands_in_its_cgroups_path() {
        check("/kubepods/pod7c-1/c0ffee", Some("7c-1"));
        check("/kubepods/besteffort/pod7c-1/c0ffee", Some("7c-1"));
        let slices = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7c_1.slice";
        check(&alloc::format!("{slices}/cri-containerd-c0ffee.scope"), Some("7c-1"));
        check("kubepods-pod7c_1.slice:cri-containerd:c0ffee", Some("7c-1"));
        check("/machine.slice/libpod-c0ffee.scope", None);
        check("/kubepods/c0ffee", None);
    }
}
