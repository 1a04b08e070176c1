//! Where cpusets are mounted, and what their files are called.

use purlin_core::cpuset::Version;

use crate::probe::Probe;

/// A mounted hierarchy that has the cpuset controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) version: Version,
    /// E.g. `/sys/fs/cgroup`.
    pub(crate) at: String,
    /// Files that say which CPUs and which nodes are granted.
    pub(crate) granted: [&'static str; 2],
}

impl Mount {
    /// Where a cgroup's files are.
    pub(crate) fn path(&self, cgroup: &str) -> String {
        format!("{}{cgroup}", self.at)
    }
}

pub(super) fn of(probe: &mut Probe<'_>) -> Option<Mount> {
    let mounts = ["/proc/self/mounts", "/proc/mounts"].iter().find_map(|path| probe.text(*path))?;
    find(&mounts)
}

/// The hierarchy with the cpuset controller. Where one of cgroup v1 has it, the unified
/// one beside it does not, wherever that stands in the list.
pub(crate) fn find(mounts: &str) -> Option<Mount> {
    let found = mounts.lines().filter_map(mount);
    found.min_by_key(|mount| mount.version == Version::V2)
}

/// Cgroup v2; v1, where what is set is what is in effect unless it was mounted to behave
/// like v2; and the cpuset file system from before cgroups.
fn mount(line: &str) -> Option<Mount> {
    let mut words = line.split_whitespace().skip(1);
    let (at, kind, options) = (words.next()?, words.next()?, words.next()?);
    let has = |option| options.split(',').any(|it| it == option);
    let (version, granted) = match kind {
        "cgroup2" => (Version::V2, ["cpuset.cpus.effective", "cpuset.mems.effective"]),
        "cgroup" if has("cpuset") && has("cpuset_v2_mode") => {
            (Version::V1, ["cpuset.effective_cpus", "cpuset.effective_mems"])
        }
        "cgroup" if has("cpuset") => (Version::V1, ["cpuset.cpus", "cpuset.mems"]),
        "cpuset" => (Version::V1, ["cpus", "mems"]),
        _ => return None,
    };
    Some(Mount { version, at: at.into(), granted })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid,nsdelegate 0 0\n";
    const CPUSET: &str = "cgroup /sys/fs/cgroup/cpuset cgroup rw,nosuid,cpuset 0 0\n";

    #[track_caller]
    fn check(mounts: &str, expected: Option<(Version, &str)>) {
        let found = find(mounts);
        assert_eq!(found.as_ref().map(|it| (it.version, it.at.as_str())), expected);
    }

    #[test]
    fn cpusets_are_where_the_controller_is() {
        let alone = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        check(alone, Some((Version::V2, "/sys/fs/cgroup")));
        check(CPUSET, Some((Version::V1, "/sys/fs/cgroup/cpuset")));
        check("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n", None);
    }

    #[test]
    fn the_unified_hierarchy_of_a_hybrid_has_none() {
        for mounts in [[UNIFIED, CPUSET].concat(), [CPUSET, UNIFIED].concat()] {
            check(&mounts, Some((Version::V1, "/sys/fs/cgroup/cpuset")));
        }
    }
}
