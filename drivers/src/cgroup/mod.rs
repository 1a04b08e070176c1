//! Cpusets of containers: which there are, what the kernel grants each, and the few
//! things about them that can be changed.
//!
//! Reading needs no privilege. Writing needs the right to write the cgroup's files, which
//! root has without any capability; each write is read back, and what is answered is what
//! was read. A dump is read like the live machine and never written.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/cpusets.rst.

use purlin_core::{
    cpuset::{self, Cpuset, Cpusets, Found, Partition, Version, path_of},
    inventory::{Part, Problem},
};

use crate::{Dir, Root, probe::Probe};

pub mod ids;
mod memory;
mod mount;
mod write;

pub use memory::resident;
pub(crate) use mount::{Mount, find as find_mount};
pub use write::change;

/// Cgroups looked at: a node with 500 containers under systemd has about 3,000.
const MAX_CGROUPS: usize = 16_384;
/// How deep they may be nested: containers are at 2 to 6.
const MAX_DEPTH: usize = 16;

/// Every container's cpuset, and those at the paths in `also`, as runtimes write them in
/// `cgroupsPath`: what was given a name of its own is found only so.
pub fn read(root: &Root, also: &[String]) -> (Option<Cpusets>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Cpu, root);
    let cpusets = cpusets(&mut probe, also);
    (cpusets, probe.finish())
}

fn cpusets(probe: &mut Probe<'_>, also: &[String]) -> Option<Cpusets> {
    let mount = mount::of(probe)?;
    let top = probe.dir(&mount.at)?;
    let cpus = probe.set("/sys/devices/system/cpu/online")?;
    let mems = probe.set("/sys/devices/system/node/has_memory");
    // A kernel without NUMA has one node and doesn't say so.
    let mems = mems.unwrap_or_else(|| [0].into_iter().collect());
    let mut containers = Vec::new();
    // Never in the root itself, where it would mean nothing.
    let any = top.dirs().next().map(|name| format!("{}/{name}", mount.at));
    let remote = |dir: String| probe.root.exists(&format!("{dir}/cpuset.cpus.exclusive"));
    let remote_partitions = mount.version == Version::V2 && any.is_some_and(remote);
    let mut others = Vec::new();
    let mut walk = Walk { mount: &mount, containers: &mut containers, others: &mut others };
    walk.below(probe, &top, String::new());
    if others.len() == MAX_CGROUPS {
        probe.problem(&mount.at, format!("more than {MAX_CGROUPS} cgroups: not all were read"));
    }
    for path in also.iter().filter_map(|path| path_of(path)) {
        if containers.iter().all(|it| it.cpuset.cgroup != path)
            && let Some(dir) = probe.dir(&mount.path(&path))
        {
            containers.push(Found { owner: None, cpuset: one(probe, &mount, &path, &dir) });
        }
    }
    containers.sort_by(|one, other| one.cpuset.cgroup.cmp(&other.cpuset.cgroup));
    let (version, mount) = (mount.version, mount.at);
    others.sort();
    Some(Cpusets { version, mount, cpus, mems, remote_partitions, containers, others })
}

/// Goes through the tree. What is below a container is the container's own.
struct Walk<'a> {
    mount: &'a Mount,
    containers: &'a mut Vec<Found>,
    others: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn below(&mut self, probe: &mut Probe<'_>, dir: &Dir<'_>, path: String) {
        let depth = path.matches('/').count();
        for name in dir.dirs() {
            if self.others.len() >= MAX_CGROUPS || depth == MAX_DEPTH {
                break;
            }
            // It may have ended since it was listed.
            let Some(inner) = probe.dir_in(dir, name) else { continue };
            let path = format!("{path}/{name}");
            match cpuset::owner(&path) {
                Some(owner) => {
                    let cpuset = one(probe, self.mount, &path, &inner);
                    self.containers.push(Found { owner: Some(owner), cpuset });
                }
                None => self.below(probe, &inner, path),
            }
        }
        self.others.push(path);
    }
}

fn one(probe: &mut Probe<'_>, mount: &Mount, path: &str, dir: &Dir<'_>) -> Cpuset {
    let [cpus, mems] = mount.granted;
    let mut set = |name| if dir.has(name) { probe.set((dir, name)) } else { None };
    let mut cpuset = Cpuset {
        cgroup: path.into(),
        // Empty is not set: it has what its parent has.
        cpus: set("cpuset.cpus").filter(|cpus| !cpus.is_empty()),
        mems: set("cpuset.mems").filter(|mems| !mems.is_empty()),
        granted_cpus: set(cpus).unwrap_or_default(),
        granted_mems: set(mems).unwrap_or_default(),
        partition: None,
        controlled: dir.has("cpuset.cpus"),
    };
    if dir.has("cpuset.cpus.partition") {
        let text = probe.text((dir, "cpuset.cpus.partition"));
        cpuset.partition = text.and_then(|text| Partition::parse(&text));
    }
    if !cpuset.controlled {
        inherit(probe, mount, path, &mut cpuset);
    }
    cpuset
}

/// Where the controller doesn't reach, what holds is what its closest ancestor with one has.
fn inherit(probe: &mut Probe<'_>, mount: &Mount, path: &str, cpuset: &mut Cpuset) {
    let mut above: Vec<&str> = cpuset::ancestors(path).collect();
    above.insert(0, "");
    let [cpus, mems] = mount.granted.map(|name| {
        above.iter().rev().find_map(|path| probe.set(&format!("{}{path}/{name}", mount.at)))
    });
    cpuset.granted_cpus = cpus.unwrap_or_default();
    cpuset.granted_mems = mems.unwrap_or_default();
}
