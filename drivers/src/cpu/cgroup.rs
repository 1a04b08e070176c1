//! The CPUs and memory nodes that this process may use.
//!
//! `/proc/self/status` says it on a live machine. A dump has that of whoever
//! took it, or just the name of the cgroup in `/proc/self/cpuset`, and what the
//! cgroup allows in the files where it was mounted.

use purlin_core::idset::IdSet;

use crate::{cgroup::find_mount, probe::Probe};

const STATUS: &str = "/proc/self/status";

pub(super) fn allowed(probe: &mut Probe<'_>) -> (Option<IdSet>, Option<IdSet>) {
    match probe.text(STATUS) {
        Some(status) => {
            (of(probe, &status, "Cpus_allowed_list:"), of(probe, &status, "Mems_allowed_list:"))
        }
        None => of_cgroup(probe),
    }
}

fn of(probe: &mut Probe<'_>, status: &str, key: &str) -> Option<IdSet> {
    let list = status.lines().find_map(|line| line.strip_prefix(key))?;
    IdSet::parse(list).map_err(|what| probe.problem(STATUS, what)).ok()
}

fn of_cgroup(probe: &mut Probe<'_>) -> (Option<IdSet>, Option<IdSet>) {
    let Some(mounts) = ["/proc/self/mounts", "/proc/mounts"].iter().find_map(|it| probe.text(*it))
    else {
        return (None, None);
    };
    let Some(mount) = find_mount(&mounts) else {
        return (None, None);
    };
    let Some(group) = group(probe) else { return (None, None) };
    let dir = format!("{}/{}", mount.at, group.trim_matches('/'));
    // An empty one is its parent's, which is unknown.
    let mut read = |name| probe.set(&format!("{dir}/{name}")).filter(|set| !set.is_empty());
    let [cpus, mems] = mount.granted;
    (read(cpus), read(mems))
}

/// The cgroup's name, from `/proc/self/cpuset`, else from the line of cgroup
/// v1's cpuset or v2 in `/proc/self/cgroup`.
fn group(probe: &mut Probe<'_>) -> Option<String> {
    if let Some(name) = probe.text("/proc/self/cpuset").filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let text = probe.text("/proc/self/cgroup")?;
    let of = |wanted: fn(&str) -> bool| {
        let fields = text.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?, fields.next()?))
        });
        fields.into_iter().find(|(names, _)| wanted(names)).map(|(_, path)| path.to_owned())
    };
    of(|names| names.split(',').any(|it| it == "cpuset")).or_else(|| of(str::is_empty))
}
