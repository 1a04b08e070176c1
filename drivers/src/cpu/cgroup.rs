//! The CPUs and memory nodes that this process may use.
//!
//! `/proc/self/status` says it on a live machine. A dump has that of whoever
//! took it, or just the name of the cgroup in `/proc/self/cpuset`, and what the
//! cgroup allows in the files where it was mounted.

use purlin_core::idset::IdSet;

use crate::probe::Probe;

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
    let Some((mount, [cpus, mems])) = mounts.lines().find_map(cpuset_mount) else {
        return (None, None);
    };
    let Some(group) = group(probe) else { return (None, None) };
    let dir = format!("{mount}/{}", group.trim_matches('/'));
    // An empty one is its parent's, which is unknown.
    let mut read = |name| probe.set(&format!("{dir}/{name}")).filter(|set| !set.is_empty());
    (read(cpus), read(mems))
}

/// Where cpusets are mounted, and the names of their files: cgroup v2, cgroup
/// v1, where what is set is what is in effect unless it was mounted to behave
/// like v2, and the cpuset file system before cgroups.
fn cpuset_mount(line: &str) -> Option<(&str, [&'static str; 2])> {
    let mut words = line.split_whitespace().skip(1);
    let (at, kind, options) = (words.next()?, words.next()?, words.next()?);
    let has = |option| options.split(',').any(|it| it == option);
    match kind {
        "cgroup2" => Some((at, ["cpuset.cpus.effective", "cpuset.mems.effective"])),
        "cgroup" if has("cpuset") && has("cpuset_v2_mode") => {
            Some((at, ["cpuset.effective_cpus", "cpuset.effective_mems"]))
        }
        "cgroup" if has("cpuset") => Some((at, ["cpuset.cpus", "cpuset.mems"])),
        "cpuset" => Some((at, ["cpus", "mems"])),
        _ => None,
    }
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
