//! A runtime's containers as the core knows them, and what becomes of them as the
//! runtime takes it. Nothing is interpreted here.

use std::collections::BTreeMap;

use purlin_core::{
    idset::IdSet,
    place::{
        container::{Container, Pod, Resources, Texts, Via},
        targets::Target,
    },
};
use purlin_proto::nri;

/// Where containerd and CRI-O tell the image's name; only the newest NRI has a field.
const IMAGE_NAMES: [&str; 2] = ["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"];

/// Addresses of a pod: one of each family, and room for more.
const MAX_IPS: usize = 8;

/// A cpuset: CPUs, and the NUMA nodes of its memory.
pub type Cpuset = (IdSet, IdSet);

/// A container, with the pod that it is in.
pub fn container(container: nri::Container, pod: Option<&nri::PodSandbox>) -> Container {
    let linux = container.linux.unwrap_or_default();
    let annotations = texts(container.annotations);
    let image = container.image.map(|image| image.name).filter(|name| !name.is_empty());
    let told = || IMAGE_NAMES.iter().find_map(|name| annotations.get(*name).cloned());
    let cdi = container.cdi_devices.into_iter().map(|device| device.name);
    let nodes = linux.devices.into_iter().map(|device| device.path);
    let mut resources = resources(linux.resources.as_ref());
    resources.oom_score_adj = linux.oom_score_adj.map(|adjust| adjust.value);
    Container {
        id: container.id,
        name: container.name,
        pod: pod.map(|pod| Pod {
            uid: pod.uid.clone(),
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            labels: texts(pod.labels.clone()),
            annotations: texts(pod.annotations.clone()),
            ips: pod.ips.iter().take(MAX_IPS).cloned().collect(),
        }),
        image: image.or_else(told),
        labels: texts(container.labels),
        annotations,
        resources,
        devices: cdi.chain(nodes).collect(),
        cgroup: Some(linux.cgroups_path).filter(|path| !path.is_empty()),
        via: Via::Nri,
    }
}

/// What it may use. A limit that says "none" is none.
pub fn resources(of: Option<&nri::LinuxResources>) -> Resources {
    let Some(of) = of else { return Resources::default() };
    let cpu = of.cpu.clone().unwrap_or_default();
    let limit = of.memory.and_then(|memory| memory.limit);
    let page = |limit: &nri::HugepageLimit| Some((page_size(&limit.page_size)?, limit.limit));
    Resources {
        cpu_shares: cpu.shares.map(|shares| shares.value),
        cpu_quota_us: cpu.quota.map(|quota| quota.value),
        cpu_period_us: cpu.period.map(|period| period.value),
        memory_limit: limit.and_then(|limit| u64::try_from(limit.value).ok()).filter(|it| *it > 0),
        hugepages: of.hugepage_limits.iter().filter_map(page).collect(),
        cpus: ids(&cpu.cpus),
        mems: ids(&cpu.mems),
        oom_score_adj: None,
    }
}

/// The cpuset that a runtime shows; empty where it has none of its own.
pub fn cpuset(resources: &Resources) -> Cpuset {
    let set = |set: &Option<IdSet>| set.clone().unwrap_or_default();
    (set(&resources.cpus), set(&resources.mems))
}

/// The cpuset of a target.
pub fn wanted(target: &Target) -> Cpuset {
    (target.cpus.clone(), target.mems.clone())
}

/// A cpuset for a container that is about to be created.
pub fn adjustment((cpus, mems): &Cpuset) -> nri::LinuxResources {
    let cpu =
        nri::LinuxCpu { cpus: cpus.to_string(), mems: mems.to_string(), ..Default::default() };
    nri::LinuxResources { cpu: Some(cpu), ..Default::default() }
}

/// A cpuset for one that exists. That it is gone by now fails nothing else.
pub fn update(id: &str, cpuset: &Cpuset) -> nri::ContainerUpdate {
    let resources = Some(adjustment(cpuset));
    nri::ContainerUpdate {
        container_id: id.to_owned(),
        linux: Some(nri::LinuxContainerUpdate { resources }),
        ignore_failure: true,
    }
}

fn ids(list: &str) -> Option<IdSet> {
    IdSet::parse(list).ok().filter(|set| !set.is_empty())
}

fn texts(texts: std::collections::HashMap<String, String>) -> Texts {
    texts.into_iter().collect::<BTreeMap<_, _>>()
}

/// Bytes of `2MB`, as an OCI configuration writes a page's size.
fn page_size(text: &str) -> Option<u64> {
    let units = [("KB", 10), ("MB", 20), ("GB", 30)];
    let (digits, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_taken_over_whole() {
        let shown = nri::Container {
            id: "c0ffee".into(),
            name: "db".into(),
            annotations: [(IMAGE_NAMES[0].to_owned(), "docker.io/library/postgres:17".to_owned())]
                .into(),
            linux: Some(nri::LinuxContainer {
                devices: vec![nri::LinuxDevice { path: "/dev/fuse".into() }],
                resources: Some(nri::LinuxResources {
                    memory: Some(nri::LinuxMemory {
                        limit: Some(nri::OptionalInt64 { value: 1 << 30 }),
                    }),
                    cpu: Some(nri::LinuxCpu {
                        shares: Some(nri::OptionalUint64 { value: 2048 }),
                        quota: Some(nri::OptionalInt64 { value: -1 }),
                        cpus: "2-3".into(),
                        ..Default::default()
                    }),
                    hugepage_limits: vec![nri::HugepageLimit {
                        page_size: "2MB".into(),
                        limit: 4 << 20,
                    }],
                    ..Default::default()
                }),
                oom_score_adj: Some(nri::OptionalInt64 { value: -997 }),
                cgroups_path: "/kubepods/pod7/c0ffee".into(),
            }),
            cdi_devices: vec![nri::CdiDevice { name: "purlin.io/gpu=0".into() }],
            ..Default::default()
        };
        let pod = nri::PodSandbox { uid: "7".into(), name: "store".into(), ..Default::default() };
        let taken = container(shown, Some(&pod));
        assert_eq!(taken.image.as_deref(), Some("docker.io/library/postgres:17"));
        assert_eq!(taken.pod.as_ref().map(|pod| &*pod.name), Some("store"));
        assert_eq!(taken.devices, ["purlin.io/gpu=0", "/dev/fuse"]);
        assert_eq!(taken.cgroup.as_deref(), Some("/kubepods/pod7/c0ffee"));
        let expected = Resources {
            cpu_shares: Some(2048),
            cpu_quota_us: Some(-1),
            memory_limit: Some(1 << 30),
            hugepages: [(2 << 20, 4 << 20)].into(),
            cpus: Some(IdSet::parse("2-3").expect("a list")),
            oom_score_adj: Some(-997),
            ..Resources::default()
        };
        assert_eq!(taken.resources, expected);
    }

    #[test]
    fn what_was_not_said_stays_unsaid() {
        let taken = container(nri::Container::default(), None);
        assert_eq!((taken.image, taken.cgroup, taken.pod), (None, None, None));
        assert_eq!(taken.resources, Resources::default());
        assert_eq!(cpuset(&taken.resources), Cpuset::default());
    }
}
