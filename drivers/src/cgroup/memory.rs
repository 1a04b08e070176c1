//! How much memory of a cgroup is on which node: what a move would have to move.

use std::collections::BTreeMap;

use purlin_core::inventory::{Part, Problem};

use super::mount;
use crate::{Root, probe::Probe};

/// Processes of one cgroup whose memory is added up where the kernel has no sum.
const MAX_PROCESSES: usize = 4096;
/// The same where nobody knows on which node it is.
pub const NODE_UNKNOWN: u32 = u32::MAX;

/// Bytes of a cgroup's processes by node; under [`NODE_UNKNOWN`] where only their sum is
/// known. What is mapped by no process is not counted, and would not be moved.
pub fn resident(root: &Root, cgroup: &str) -> (BTreeMap<u32, u64>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Memory, root);
    let by_node = by_node(&mut probe, cgroup).or_else(|| sum(&mut probe, cgroup));
    (by_node.unwrap_or_default(), probe.finish())
}

/// `memory.numa_stat`: in bytes, or in pages with cgroup v1.
fn by_node(probe: &mut Probe<'_>, cgroup: &str) -> Option<BTreeMap<u32, u64>> {
    let mounts = probe.text("/proc/self/mounts")?;
    let (at, page) = mounts.lines().find_map(memory_mount)?;
    let stat = probe.text(&format!("{at}{cgroup}/memory.numa_stat"))?;
    let mut nodes = BTreeMap::new();
    for line in stat.lines() {
        let mut words = line.split_whitespace();
        // v1 says `anon=7 N0=7`.
        let key = words.next().map(|word| word.split('=').next().unwrap_or(word));
        // Mapped files of v1 are in no list of their own.
        let counts = if page == 1 { ["anon", "file_mapped"] } else { ["anon", "file"] };
        if !key.is_some_and(|key| counts.contains(&key)) {
            continue;
        }
        for (node, count) in words.filter_map(|word| word.strip_prefix('N')?.split_once('=')) {
            if let (Ok(node), Ok(count)) = (node.parse(), count.parse::<u64>()) {
                *nodes.entry(node).or_insert(0) += count.saturating_mul(page);
            }
        }
    }
    Some(nodes)
}

/// Where the memory controller is, and what its numbers count, in bytes.
fn memory_mount(line: &str) -> Option<(&str, u64)> {
    let mut words = line.split_whitespace().skip(1);
    let (at, kind, options) = (words.next()?, words.next()?, words.next()?);
    match kind {
        "cgroup" if options.split(',').any(|it| it == "memory") => Some((at, page_size())),
        "cgroup2" if !at.ends_with("/unified") => Some((at, 1)),
        _ => None,
    }
}

/// What its processes have, one by one; shared pages are counted by each that has them.
fn sum(probe: &mut Probe<'_>, cgroup: &str) -> Option<BTreeMap<u32, u64>> {
    let mount = mount::of(probe)?;
    let procs = probe.text(&format!("{}/cgroup.procs", mount.path(cgroup)))?;
    let pages = procs.lines().take(MAX_PROCESSES).filter_map(|pid| {
        let statm = probe.text(&format!("/proc/{pid}/statm"))?;
        statm.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    Some(BTreeMap::from([(NODE_UNKNOWN, pages.sum::<u64>().saturating_mul(page_size()))]))
}

fn page_size() -> u64 {
    rustix::param::page_size() as u64
}
