//! Where workers run: on a machine with more than one NUMA node each stays on one, so
//! that it knows which endpoints are near.

use std::{fs, io};

use purlin_core::idset::IdSet;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The kernel's list of NUMA nodes (Documentation/ABI/stable/sysfs-devices-node).
const NODES: &str = "/sys/devices/system/node";

/// A NUMA node, and the CPUs of it that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The node.
    pub node: u32,
    cpus: IdSet,
}

impl Seat {
    /// A seat for each of so many workers; `None` where there is one node, or the
    /// kernel doesn't tell.
    pub fn all(workers: usize) -> Vec<Option<Self>> {
        seats(workers, &allowed(), &nodes().unwrap_or_default())
    }

    /// Keeps the calling thread on it.
    pub fn take(&self) -> io::Result<()> {
        let mut set = CpuSet::new();
        self.cpus.iter().for_each(|cpu| set.set(cpu as usize));
        Ok(sched_setaffinity(None, &set)?)
    }
}

/// Worker `n` sits where the `n`th CPU is that we may use.
fn seats(workers: usize, allowed: &IdSet, nodes: &[(u32, IdSet)]) -> Vec<Option<Seat>> {
    let of = |cpu: u32| {
        let (node, cpus) = nodes.iter().find(|(_, cpus)| cpus.contains(cpu))?;
        let mut own = IdSet::default();
        cpus.iter().filter(|&it| allowed.contains(it)).for_each(|it| own.insert(it));
        Some(Seat { node: *node, cpus: own })
    };
    let cpus: Vec<u32> = allowed.iter().collect();
    let seat = |n| cpus.get(n % cpus.len().max(1)).copied().and_then(of);
    (0..workers).map(|n| if nodes.len() > 1 { seat(n) } else { None }).collect()
}

fn allowed() -> IdSet {
    let mut ids = IdSet::default();
    if let Ok(set) = sched_getaffinity(None) {
        (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).for_each(|cpu| ids.insert(cpu as u32));
    }
    ids
}

fn nodes() -> io::Result<Vec<(u32, IdSet)>> {
    let mut nodes = Vec::new();
    for entry in fs::read_dir(NODES)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|it| it.strip_prefix("node")?.parse().ok());
        let Some(number) = number else { continue };
        let list = fs::read_to_string(entry.path().join("cpulist"))?;
        nodes.push((number, IdSet::parse(&list).map_err(io::Error::other)?));
    }
    nodes.sort_by_key(|(number, _)| *number);
    // Memory without CPUs is nobody's seat.
    nodes.retain(|(_, cpus)| cpus.iter().next().is_some());
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &str) -> IdSet {
        IdSet::parse(list).expect("a list")
    }

    #[test]
    fn a_worker_sits_where_its_cpu_is() {
        let nodes = [(0, ids("0-3")), (1, ids("4-7"))];
        let told = |allowed: &str| {
            let seats = seats(4, &ids(allowed), &nodes).into_iter().flatten();
            seats.map(|it| (it.node, it.cpus.to_string())).collect::<Vec<_>>()
        };
        let of = |node, cpus: &str| (node, cpus.to_owned());
        assert_eq!(told("2,3,6,7"), [of(0, "2-3"), of(0, "2-3"), of(1, "6-7"), of(1, "6-7")]);
        assert_eq!(told("4"), [of(1, "4"), of(1, "4"), of(1, "4"), of(1, "4")]);
    }

    #[test]
    fn one_node_is_no_choice() {
        assert_eq!(seats(2, &ids("0-3"), &[(0, ids("0-3"))]), [None, None]);
        assert_eq!(seats(2, &IdSet::default(), &[]), [None, None]);
    }
}
