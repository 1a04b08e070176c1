//! `purlin hw tree`: what sits where, within the width of a serial console.

use std::collections::{BTreeMap, BTreeSet};

use purlin_core::{
    idset::IdSet,
    inventory::{Cache, Cpu, Group, Inventory, NodeFlag, Part, Pu},
};

use super::{
    Row, UNKNOWN, by,
    cpu::{by_package, cache_name, core_key, cores_and_pus, model, package_name},
    nic::VIRTUAL,
    numa::node_memory,
    or_unknown,
    platform::platform_row,
    plural, rows_of,
};
use crate::units::size;

/// The width a tree keeps to, in columns: that of a serial console.
const WIDTH: usize = 80;

/// From this many equal L3 caches on one node a tree shows one line for all,
/// so that a machine with 256 PUs fits a screen or two.
const COLLAPSE_FROM: usize = 5;

/// Keeps a name and its figure on one line of a tree; printed as a space.
const NO_BREAK: &str = "\u{a0}";

/// The machine from the outside in: packages, NUMA nodes, L3 caches, cores as
/// ranges of PUs, and devices at the node they sit on; within 80 columns.
pub fn tree(inventory: &Inventory) -> String {
    let platform = inventory.platform.as_ref();
    let mut machine = Branch::new(match platform.map(platform_row) {
        Some(row) => format!("{}: {}", row.name, row.what),
        None => "machine".into(),
    });
    let mut shown = BTreeSet::new();
    if let Some(cpu) = &inventory.cpu {
        for (package, pus) in by_package(cpu) {
            machine.children.push(package_branch(inventory, cpu, package, &pus, &mut shown));
        }
    } else {
        machine.add(format!("CPUs {UNKNOWN}"));
    }
    let nodes = inventory.numa.iter().flatten();
    for node in nodes.filter(|node| !shown.contains(&node.id)) {
        machine.children.push(node_branch(inventory, node.id));
    }
    machine.children.extend(device_branches(inventory, None));
    machine.print()
}

fn package_branch(
    inventory: &Inventory,
    cpu: &Cpu,
    package: Option<&Group>,
    pus: &[&Pu],
    shown: &mut BTreeSet<u32>,
) -> Branch {
    let model = model(cpu);
    let name = package_name(package);
    let mut branch = Branch::new(format!("{name}: {model}, {}", cores_and_pus(cpu, pus)));
    for (node, pus) in by(pus.iter().copied(), |pu| pu.node) {
        let caches = l3_branches(cpu, &pus);
        match node {
            None => branch.children.extend(caches),
            // A node that spans packages has its devices under the first.
            Some(node) if !shown.insert(node) => {
                let text = format!("NUMA node {node}, continued");
                branch.children.push(Branch { text, children: caches });
            }
            Some(node) => {
                let mut on_node = node_branch(inventory, node);
                on_node.children.splice(0..0, caches);
                branch.children.push(on_node);
            }
        }
    }
    branch
}

/// A node with its devices; without CPUs it says so.
fn node_branch(inventory: &Inventory, id: u32) -> Branch {
    let node = inventory.numa.iter().flatten().find(|node| node.id == id);
    let text = match node {
        Some(node) if node.is(NodeFlag::CpuLess) => format!("{}, no CPUs", node_memory(node)),
        Some(node) => node_memory(node),
        None => "memory unknown".into(),
    };
    let children = device_branches(inventory, Some(id));
    Branch { text: format!("NUMA node {id}: {text}"), children }
}

/// GPUs, physical interfaces and disks of a node, or those that tell none.
pub fn devices_at(inventory: &Inventory, node: Option<u32>) -> Vec<Row> {
    let rows = [Part::Gpu, Part::Nic, Part::Storage].map(|part| rows_of(inventory, part));
    let here = rows.into_iter().flatten().filter(|row| row.node == node && row.name != VIRTUAL);
    here.collect()
}

fn device_branches(inventory: &Inventory, node: Option<u32>) -> Vec<Branch> {
    devices_at(inventory, node).iter().map(|row| Branch::new(device_line(row))).collect()
}

pub fn device_line(row: &Row) -> String {
    let part = row.part.name();
    // A part that could not be read is a row called by the part's own name.
    if row.name == part {
        format!("{part}: {}", row.what)
    } else {
        format!("{part} {}: {}", row.name, row.what)
    }
}

/// The L3 caches of some PUs, or just their cores where there is no L3.
fn l3_branches(cpu: &Cpu, pus: &[&Pu]) -> Vec<Branch> {
    let l3_of = |pu: &Pu| {
        cpu.caches.iter().position(|cache| cache.level == 3 && cache.shared_by.contains(pu.id))
    };
    let mut alike: BTreeMap<(Option<u64>, String), Vec<Vec<&Pu>>> = BTreeMap::new();
    let mut branches = Vec::new();
    for (l3, pus) in by(pus.iter().copied(), l3_of) {
        match l3.and_then(|index| cpu.caches.get(index)) {
            None => branches.extend(core_branches(cpu, &pus)),
            Some(cache) => {
                let like = (cache.size, cores_and_pus(cpu, &pus));
                alike.entry(like).or_default().push(pus);
            }
        }
    }
    for ((bytes, each), groups) in alike {
        let name = format!("L3 {}", or_unknown(bytes.map(size)));
        if groups.len() >= COLLAPSE_FROM {
            let text = format!("{} × {name}, each {each}", groups.len());
            let children = core_branches(cpu, &groups.concat());
            branches.push(Branch { text, children });
        } else {
            branches.extend(groups.iter().map(|pus| l3_branch(cpu, &name, pus)));
        }
    }
    branches
}

fn l3_branch(cpu: &Cpu, name: &str, pus: &[&Pu]) -> Branch {
    let mut kinds = core_branches(cpu, pus);
    match kinds.len() {
        1 => Branch::new(format!("{name}: {}", kinds.remove(0).text)),
        _ => Branch { text: name.into(), children: kinds },
    }
}

/// One line for each kind of core: as many PUs, and the same caches of its own.
fn core_branches(cpu: &Cpu, pus: &[&Pu]) -> Vec<Branch> {
    let mut kinds: BTreeMap<(usize, String), Vec<Vec<&Pu>>> = BTreeMap::new();
    for (_, pus) in by(pus.iter().copied(), |pu| core_key(cpu, pu)) {
        kinds.entry((pus.len(), inner_caches(cpu, pus[0].id))).or_default().push(pus);
    }
    let line = |((threads, caches), cores): ((usize, String), Vec<Vec<&Pu>>)| {
        let ids: IdSet = cores.iter().flatten().map(|pu| pu.id).collect();
        let each = if threads > 1 { format!(" × {threads} PUs") } else { String::new() };
        let count = plural(cores.len(), "core");
        Branch::new(format!("{count}{each}, PUs {ids}{caches}"))
    };
    kinds.into_iter().map(line).collect()
}

/// Caches inside the L3, as they look from one PU.
fn inner_caches(cpu: &Cpu, pu: u32) -> String {
    let mine = |cache: &&Cache| cache.level < 3 && cache.shared_by.contains(pu);
    let name =
        |cache: &Cache| format!("; {} {}", cache_name(cache), or_unknown(cache.size.map(size)));
    cpu.caches.iter().filter(mine).map(name).collect()
}

/// A line of a tree and what hangs under it.
struct Branch {
    text: String,
    children: Vec<Branch>,
}

impl Branch {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), children: Vec::new() }
    }

    fn add(&mut self, text: String) {
        self.children.push(Self::new(text));
    }

    fn print(&self) -> String {
        let mut out = String::new();
        self.print_under("", "", &mut out);
        out
    }

    /// `first` stands before the first line, `rest` before all that follow.
    fn print_under(&self, first: &str, rest: &str, out: &mut String) {
        let hang = if self.children.is_empty() { "  " } else { "│ " };
        let room = WIDTH.saturating_sub(rest.chars().count() + hang.chars().count());
        for (index, line) in wrap(&self.text, room).iter().enumerate() {
            match index {
                0 => out.push_str(first),
                _ => out.extend([rest, hang]),
            }
            out.push_str(&line.trim_end().replace(NO_BREAK, " "));
            out.push('\n');
        }
        for (index, child) in self.children.iter().enumerate() {
            let (branch, below) = if index + 1 < self.children.len() {
                ("├─ ", "│  ")
            } else {
                ("└─ ", "   ")
            };
            child.print_under(&format!("{rest}{branch}"), &format!("{rest}{below}"), out);
        }
    }
}

/// Breaks a text after spaces and commas into lines of at most `room` columns;
/// a word that is longer is cut.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut columns = 0;
    for word in text.split_inclusive([' ', ',']) {
        let width = word.trim_end_matches(' ').chars().count();
        if columns > 0 && columns + width > room {
            lines.push(String::new());
            columns = 0;
        }
        if let Some(line) = lines.last_mut() {
            line.extend(word.chars().take(room.max(1)));
        }
        columns += word.chars().count();
    }
    lines
}
