//! Cpusets as the kernel has them, which container has which, and what may be changed
//! about them.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst, "Cpuset", and
//! Documentation/admin-guide/cgroup-v1/cpusets.rst.

use alloc::{string::String, vec::Vec};
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::idset::IdSet;

mod owner;
pub mod repair;

pub use owner::{Owner, Runtime, owner, path_of};

/// Which cgroups have the cpuset controller. Where both are mounted ("hybrid"), it is in
/// one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    /// A hierarchy of its own.
    V1,
    /// The unified hierarchy.
    V2,
}

/// Every container's, and what there is to give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpusets {
    /// Which cgroups.
    pub version: Version,
    /// Where they are mounted.
    pub mount: String,
    /// CPUs that are online.
    pub cpus: IdSet,
    /// Nodes that have memory.
    pub mems: IdSet,
    /// Nested cpusets need all of them: those below them are called remote partitions
    /// (`cpuset.cpus.exclusive`, Linux 6.7).
    pub remote_partitions: bool,
    /// Containers, by path.
    pub containers: Vec<Found>,
    /// All other cgroups, where new ones may appear: `` for the root.
    pub others: Vec<String>,
}

/// A container's cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Whose it is; `None` for a cgroup that was asked for by its path.
    pub owner: Option<Owner>,
    /// Its cpuset.
    pub cpuset: Cpuset,
}

/// One cgroup's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpuset {
    /// Its path below the mount, `/docker/ID`.
    pub cgroup: String,
    /// What was asked for; `None` if nothing was, and it has its parent's.
    pub cpus: Option<IdSet>,
    /// The same of memory nodes.
    pub mems: Option<IdSet>,
    /// CPUs that the kernel grants.
    pub granted_cpus: IdSet,
    /// Memory nodes that the kernel grants.
    pub granted_mems: IdSet,
    /// What it is to the scheduler; `None` where there is no such thing.
    pub partition: Option<Partition>,
    /// The controller reaches down to it. Else it has nothing of its own.
    pub controlled: bool,
}

/// `cpuset.cpus.partition`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// As what it was asked for.
    pub kind: Kind,
    /// Why the kernel does not let it be one, in its own words.
    pub invalid: Option<String>,
}

/// Kinds of partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// None: a part of its parent's.
    Member,
    /// With load balancing of its own.
    Root,
    /// Without load balancing: its threads stay where they pin themselves.
    Isolated,
}

impl Kind {
    /// As the kernel writes it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Member => "member",
            Kind::Root => "root",
            Kind::Isolated => "isolated",
        }
    }
}

impl Partition {
    /// Reads `isolated`, or `isolated invalid (Cpu list in cpuset.cpus not exclusive)`.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let kind =
            [Kind::Member, Kind::Root, Kind::Isolated].into_iter().find(|it| it.name() == kind)?;
        let invalid = rest.trim().strip_prefix("invalid").map(|why| {
            let why = why.trim().trim_start_matches('(').trim_end_matches(')');
            String::from(if why.is_empty() { "the kernel does not say why" } else { why })
        });
        Some(Self { kind, invalid })
    }

    /// True if the kernel keeps its CPUs out of everybody else's and does not balance them.
    pub fn is_isolated(&self) -> bool {
        self.kind == Kind::Isolated && self.invalid.is_none()
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.invalid {
            None => f.write_str(self.kind.name()),
            Some(why) => write!(f, "{}, invalid: {why}", self.kind.name()),
        }
    }
}

/// One thing to change about one cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its path below the mount.
    pub cgroup: String,
    /// What of it.
    pub to: To,
}

/// What a cpuset becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum To {
    /// These CPUs.
    Cpus(IdSet),
    /// Memory on these nodes. What is elsewhere is moved before the write returns.
    Mems(IdSet),
    /// A partition without load balancing, of the CPUs that it has.
    Isolated,
    /// No partition.
    Member,
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            To::Cpus(cpus) => write!(f, "CPUs {cpus}"),
            To::Mems(mems) => write!(f, "memory of node {mems}"),
            To::Isolated => f.write_str("an isolated partition"),
            To::Member => f.write_str("no partition"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.to, self.cgroup)
    }
}

/// True for a path below the mount that can't lead anywhere else. The root itself is
/// nobody's to change.
pub fn is_below(path: &str) -> bool {
    /// What the kernel takes for a path (`PATH_MAX`), in bytes.
    const MAX: usize = 4096;
    let names = path.strip_prefix('/').unwrap_or_default();
    path.len() < MAX
        && names.split('/').all(|name| !matches!(name, "" | "." | "..") && !name.contains('\0'))
}

/// The ancestors of a cgroup below the root, the highest first: `/a`, `/a/b` of `/a/b/c`.
pub fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at]).filter(|it| !it.is_empty())
}

impl Cpusets {
    /// The container with this id; else what is at the cgroup that its runtime tells.
    pub fn of<'a>(&'a self, id: &str, cgroup: Option<&str>) -> Option<&'a Found> {
        let by_id = |found: &&Found| found.owner.as_ref().is_some_and(|owner| owner.id == id);
        self.containers.iter().find(by_id).or_else(|| {
            let path = path_of(cgroup?)?;
            self.containers.iter().find(|found| found.cpuset.cgroup == path)
        })
    }
}

/// For messages: `3`, or `nothing`.
fn text(set: &IdSet) -> String {
    if set.is_empty() { "nothing".into() } else { alloc::format!("{set}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_tells_why_it_is_none() {
        let text = "isolated invalid (Cpu list in cpuset.cpus not exclusive)\n";
        let partition = Partition::parse(text).expect("a partition");
        assert_eq!(
            alloc::format!("{partition}"),
            "isolated, invalid: Cpu list in cpuset.cpus not exclusive"
        );
        assert!(!partition.is_isolated());
        assert!(Partition::parse("isolated\n").expect("a partition").is_isolated());
        assert_eq!(Partition::parse("sideways"), None);
    }

    #[test]
    fn only_paths_below_the_mount_are_taken() {
        for good in ["/a", "/a/b.slice/c-d.scope", "/..a"] {
            assert!(is_below(good), "{good}");
        }
        for bad in ["", "/", "a", "/a/", "/a//b", "/..", "/a/../b", "/./a", "/a\0"] {
            assert!(!is_below(bad), "{bad:?}");
        }
    }

    #[test]
    fn ancestors_go_from_the_top_down() {
        assert_eq!(ancestors("/a/b/c").collect::<Vec<_>>(), ["/a", "/a/b"]);
        assert_eq!(ancestors("/a").count(), 0);
    }
}
