//! The machine as a technician reads it: `purlin hw list`, `tree` and `show`.
//!
//! Pure functions over an [`Inventory`], which may be the agent's, a fresh one
//! or a dump's. They decide what is said and in which words; how it is laid
//! out, coloured or turned into JSON is decided elsewhere. What is not known
//! reads "unknown", and is never left out or shown as 0.

use std::{collections::BTreeMap, fmt::Display};

use purlin_core::{
    idset::IdSet,
    inventory::{Inventory, Part, Problem},
};

mod cpu;
mod gpu;
mod memory;
mod nic;
mod numa;
mod pci;
mod platform;
mod sensor;
mod storage;
mod tree;

pub use tree::{device_line, devices_at, tree};

const UNKNOWN: &str = "unknown";

/// One line of `purlin hw list`: a thing that a technician could point at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The part it belongs to.
    pub part: Part,
    /// What it is called: `eth0`, `node 0`, a PCI address.
    pub name: String,
    /// What it is, on one line.
    pub what: String,
    /// NUMA node, where it has one.
    pub node: Option<u32>,
    /// True if something about it could not be read.
    pub problem: bool,
}

/// A heading and its facts, of `purlin hw show PART`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The thing described.
    pub title: String,
    /// Name and value of each fact, in the order they are read.
    pub facts: Vec<(String, String)>,
}

/// One row a thing, in the order of [`Part::ALL`]; PCI functions and sensors
/// are counted, since there are hundreds.
pub fn list(inventory: &Inventory) -> Vec<Row> {
    Part::ALL.into_iter().flat_map(|part| rows_of(inventory, part)).collect()
}

fn rows_of(inventory: &Inventory, part: Part) -> Vec<Row> {
    let mut rows = match part {
        Part::Platform => platform::rows(inventory),
        Part::Cpu => cpu::rows(inventory),
        Part::Numa => numa::rows(inventory),
        Part::Memory => memory::rows(inventory),
        Part::Pci => pci::rows(inventory),
        Part::Nic => nic::rows(inventory),
        Part::Storage => storage::rows(inventory),
        Part::Gpu => gpu::rows(inventory),
        Part::Sensor => sensor::rows(inventory),
    };
    for problem in inventory.problems.iter().filter(|problem| problem.part == part) {
        mark(&mut rows, problem);
    }
    rows
}

fn row(part: Part, name: impl Into<String>, node: Option<u32>, what: impl Into<String>) -> Row {
    Row { part, name: name.into(), what: what.into(), node, problem: false }
}

/// A problem belongs to the rows that its file names, else to the part's first
/// row, else it is a row of its own.
fn mark(rows: &mut Vec<Row>, problem: &Problem) {
    let names = |row: &Row| {
        let name = row.name.replace(' ', "");
        // An NVMe controller stands in the rows of its namespaces.
        let is_controllers =
            |piece: &str| piece.starts_with("nvme") && name.starts_with(&format!("{piece}n"));
        problem.at.split(['/', ',', ' ']).any(|piece| piece == name || is_controllers(piece))
    };
    let named: Vec<usize> = (0..rows.len()).filter(|index| names(&rows[*index])).collect();
    match named.is_empty() {
        false => named.into_iter().for_each(|index| rows[index].problem = true),
        true if !rows.is_empty() => rows[0].problem = true,
        true => {
            let what = format!("{UNKNOWN}: {} {}", problem.at, problem.what);
            rows.push(Row { problem: true, ..row(problem.part, problem.part.name(), None, what) });
        }
    }
}

/// All that is known of one part; empty if the part is unknown or has nothing.
pub fn show(inventory: &Inventory, part: Part) -> Vec<Section> {
    match part {
        Part::Platform => platform::sections(inventory),
        Part::Cpu => cpu::sections(inventory),
        Part::Numa => numa::sections(inventory),
        Part::Memory => memory::sections(inventory),
        Part::Pci => pci::sections(inventory),
        Part::Nic => nic::sections(inventory),
        Part::Storage => storage::sections(inventory),
        Part::Gpu => gpu::sections(inventory),
        Part::Sensor => sensor::sections(inventory),
    }
}

fn section<const N: usize>(title: &str, facts: [(&str, String); N]) -> Section {
    let facts = facts.map(|(name, value)| (name.to_owned(), value));
    Section { title: title.to_owned(), facts: facts.into() }
}

/// Things by a key, ordered by it, each group in the order met.
fn by<'a, T: 'a, K: Ord>(
    things: impl Iterator<Item = &'a T>,
    key: impl Fn(&T) -> K,
) -> BTreeMap<K, Vec<&'a T>> {
    let mut groups: BTreeMap<K, Vec<&T>> = BTreeMap::new();
    for thing in things {
        groups.entry(key(thing)).or_default().push(thing);
    }
    groups
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn join<const N: usize>(words: [Option<String>; N]) -> String {
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn or_unknown(value: Option<impl Display>) -> String {
    value.map_or_else(|| UNKNOWN.into(), |value| value.to_string())
}

fn told(value: &Option<String>) -> String {
    or_unknown(value.as_ref())
}

fn set(value: &Option<IdSet>) -> String {
    match value {
        Some(set) if set.is_empty() => "none".into(),
        set => or_unknown(set.as_ref()),
    }
}

fn yes_no(value: Option<bool>) -> String {
    or_unknown(value.map(|yes| if yes { "yes" } else { "no" }))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use purlin_core::inventory::{
        Cache, CacheKind, Cpu, Disk, Gpu, Group, GroupKind, Memory, Nic, NodeFlag, NodeHugepages,
        NumaNode, PciDevice, Platform, Pu, Sensor, SensorKind, SensorLimits, Storage,
    };

    use super::*;
    use crate::units::size;

    fn ids(list: &str) -> IdSet {
        IdSet::parse(list).expect("a valid list")
    }

    fn cache(level: u32, kind: CacheKind, bytes: u64, shared_by: &str) -> Cache {
        let size = Some(bytes);
        Cache {
            level,
            kind,
            size,
            ways: Some(8),
            sets: None,
            line: Some(64),
            id: None,
            shared_by: ids(shared_by),
        }
    }

    /// Packages of one node each; in each, L3 caches of `cores` cores with two
    /// PUs, numbered as Linux does: all first threads, then all second ones.
    fn cpu(packages: u32, l3s: u32, cores: u32) -> Cpu {
        let all = packages * l3s * cores;
        let mut cpu = Cpu { model: Some("Example 9000".into()), ..Cpu::default() };
        let per_package = l3s * cores;
        let group = |kind, id: u32, pus: &str| Group {
            kind,
            id: Some(id as i32),
            logical: id,
            pus: ids(pus),
        };
        for id in 0..2 * all {
            let node = Some(id % all / per_package);
            cpu.pus.push(Pu { id, logical: id, node });
        }
        for package in 0..packages {
            let (first, last) = (package * per_package, (package + 1) * per_package - 1);
            let pus = format!("{first}-{last},{}-{}", first + all, last + all);
            cpu.groups.push(group(GroupKind::Package, package, &pus));
        }
        for core in 0..all {
            cpu.groups.push(group(GroupKind::Core, core, &format!("{core},{}", core + all)));
        }
        for core in 0..all {
            let both = format!("{core},{}", core + all);
            cpu.caches.push(cache(1, CacheKind::Data, 32 << 10, &both));
            cpu.caches.push(cache(2, CacheKind::Unified, 1 << 20, &both));
        }
        for l3 in 0..packages * l3s {
            let (first, last) = (l3 * cores, l3 * cores + cores - 1);
            let shared = format!("{first}-{last},{}-{}", first + all, last + all);
            cpu.caches.push(cache(3, CacheKind::Unified, 32 << 20, &shared));
        }
        cpu.online = Some(ids(&format!("0-{}", 2 * all - 1)));
        cpu
    }

    fn node(id: u32, cpus: &str) -> NumaNode {
        let pool = |total| NodeHugepages { total, ..NodeHugepages::default() };
        NumaNode {
            id,
            flags: if cpus.is_empty() { vec![NodeFlag::CpuLess] } else { Vec::new() },
            cpus: Some(ids(cpus)),
            memory: Some(64 << 30),
            free: Some(3 << 29),
            distances: BTreeMap::from([(0, 10), (1, 21)]),
            hugepages: BTreeMap::from([(2 << 20, pool(512)), (1 << 30, pool(0))]),
            ..NumaNode::default()
        }
    }

    fn small() -> Inventory {
        let problem =
            |part, at: &str| Problem { part, at: at.into(), what: "input/output error".into() };
        let nic = Nic {
            name: "eth0".into(),
            physical: true,
            state: Some("up".into()),
            speed_mbit: Some(25_000),
            driver: Some("mlx5_core".into()),
            pci: Some("0000:41:00.0".into()),
            node: Some(1),
            ..Nic::default()
        };
        let gpu = Gpu { pci: "0000:c1:00.0".into(), node: Some(1), ..Gpu::default() };
        let temperature = Sensor {
            device: "nvme at nvme0".into(),
            label: "Composite".into(),
            kind: SensorKind::Temperature,
            value: Some(41.85),
            limits: SensorLimits { max: Some(84.85), ..SensorLimits::default() },
            alarm: Some(true),
            fault: None,
            pci: None,
            node: Some(0),
        };
        Inventory {
            platform: Some(Platform {
                hostname: Some("rack7-node3".into()),
                vendor: Some("Example Inc.".into()),
                product: Some("Edge 2U".into()),
                kernel: Some("6.12.9".into()),
                ..Platform::default()
            }),
            cpu: Some(cpu(2, 1, 4)),
            numa: Some(vec![node(0, "0-3,8-11"), node(1, "4-7,12-15"), node(2, "")]),
            memory: Some(Memory { total: Some(192 << 30), swap: Some(0), ..Memory::default() }),
            pci: Some(vec![PciDevice::default(); 3]),
            nics: Some(vec![nic, Nic { name: "lo".into(), ..Nic::default() }]),
            storage: Some(Storage {
                disks: vec![Disk { name: "sda".into(), ..Disk::default() }],
                ..Storage::default()
            }),
            gpus: Some(vec![gpu]),
            sensors: Some(vec![temperature]),
            problems: vec![problem(Part::Storage, "/sys/block/sda/size")],
        }
    }

    #[track_caller]
    fn check_list(inventory: &Inventory, expected: Expect) {
        let line = |row: Row| {
            let node = row.node.map_or("-".into(), |node| node.to_string());
            let problem = if row.problem { " !" } else { "" };
            format!("{} | {} | {} | {node}{problem}\n", row.part.name(), row.name, row.what)
        };
        expected.assert_eq(&list(inventory).into_iter().map(line).collect::<String>());
    }

    #[track_caller]
    fn check_show(inventory: &Inventory, part: Part, expected: Expect) {
        let text = show(inventory, part).into_iter().map(|section| {
            let facts = section.facts.iter().map(|(name, value)| format!("  {name}: {value}\n"));
            format!("{}\n{}", section.title, facts.collect::<String>())
        });
        expected.assert_eq(&text.collect::<String>());
    }

    #[test]
    fn a_list_has_one_row_for_each_thing() {
        check_list(
            &small(),
            expect![[r#"
            platform | rack7-node3 | Example Inc. Edge 2U, Linux 6.12.9 | -
            cpu | package 0 | Example 9000, 4 cores, 8 PUs | 0
            cpu | package 1 | Example 9000, 4 cores, 8 PUs | 1
            numa | node 0 | 64 GiB, 1.5 GiB free, CPUs 0-3,8-11 | 0
            numa | node 1 | 64 GiB, 1.5 GiB free, CPUs 4-7,12-15 | 1
            numa | node 2 | 64 GiB, 1.5 GiB free, no CPUs | 2
            memory | memory | 192 GiB | -
            pci | pci | 3 functions, 0 with a driver | -
            nic | eth0 | mlx5_core, up 25 Gbit/s, at 0000:41:00.0 | 1
            nic | virtual | 1 interface | -
            storage | sda | size unknown | - !
            gpu | 0000:c1:00.0 | model unknown, no driver | 1
            sensor | sensors | 1 sensor, hottest 41.9 °C (nvme at nvme0, Composite), 1 alarm | -
        "#]],
        );
    }

    #[test]
    fn what_could_not_be_read_is_a_row_with_a_reason() {
        let at = "/sys/class/net".into();
        let problem = Problem { part: Part::Nic, at, what: "is not there".into() };
        check_list(
            &Inventory { problems: vec![problem], ..Inventory::default() },
            expect![[r#"
            nic | nic | unknown: /sys/class/net is not there | - !
        "#]],
        );
    }

    #[test]
    fn a_tree_has_devices_at_their_nodes() {
        expect![[r#"
            rack7-node3: Example Inc. Edge 2U, Linux 6.12.9
            ├─ package 0: Example 9000, 4 cores, 8 PUs
            │  └─ NUMA node 0: 64 GiB, 1.5 GiB free
            │     └─ L3 32 MiB: 4 cores × 2 PUs, PUs 0-3,8-11; L1d 32 KiB; L2 1 MiB
            ├─ package 1: Example 9000, 4 cores, 8 PUs
            │  └─ NUMA node 1: 64 GiB, 1.5 GiB free
            │     ├─ L3 32 MiB: 4 cores × 2 PUs, PUs 4-7,12-15; L1d 32 KiB; L2 1 MiB
            │     ├─ gpu 0000:c1:00.0: model unknown, no driver
            │     └─ nic eth0: mlx5_core, up 25 Gbit/s, at 0000:41:00.0
            ├─ NUMA node 2: 64 GiB, 1.5 GiB free, no CPUs
            └─ storage sda: size unknown
        "#]]
        .assert_eq(&tree(&small()));
    }

    #[test]
    fn a_tree_of_256_pus_fits_a_serial_console() {
        let mut inventory = small();
        inventory.cpu = Some(cpu(2, 8, 8));
        let text = tree(&inventory);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.lines().count() <= 24, "{text}");
        expect![[r#"
            rack7-node3: Example Inc. Edge 2U, Linux 6.12.9
            ├─ package 0: Example 9000, 64 cores, 128 PUs
            │  └─ NUMA node 0: 64 GiB, 1.5 GiB free
            │     └─ 8 × L3 32 MiB, each 8 cores, 16 PUs
            │        └─ 64 cores × 2 PUs, PUs 0-63,128-191; L1d 32 KiB; L2 1 MiB
            ├─ package 1: Example 9000, 64 cores, 128 PUs
            │  └─ NUMA node 1: 64 GiB, 1.5 GiB free
            │     ├─ 8 × L3 32 MiB, each 8 cores, 16 PUs
            │     │  └─ 64 cores × 2 PUs, PUs 64-127,192-255; L1d 32 KiB; L2 1 MiB
            │     ├─ gpu 0000:c1:00.0: model unknown, no driver
            │     └─ nic eth0: mlx5_core, up 25 Gbit/s, at 0000:41:00.0
            ├─ NUMA node 2: 64 GiB, 1.5 GiB free, no CPUs
            └─ storage sda: size unknown
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn a_tree_wraps_what_does_not_compress() {
        let mut inventory = Inventory { cpu: Some(cpu(1, 1, 40)), ..Inventory::default() };
        let cpu = inventory.cpu.as_mut().expect("the CPUs");
        cpu.pus.retain(|pu| pu.id % 2 == 0);
        expect![[r#"
            machine
            └─ package 0: Example 9000, 20 cores, 40 PUs
               └─ NUMA node 0: memory unknown
                  └─ L3 32 MiB: 20 cores × 2 PUs, PUs 0,2,4,6,8,10,12,14,16,18,20,22,24,
                       26,28,30,32,34,36,38,40,42,44,46,48,50,52,54,56,58,60,62,64,66,68,70,
                       72,74,76,78; L1d 32 KiB; L2 1 MiB
        "#]]
        .assert_eq(&tree(&inventory));
    }

    #[test]
    fn a_machine_of_which_nothing_is_known_is_still_a_tree() {
        expect![[r#"
            machine
            └─ CPUs unknown
        "#]]
        .assert_eq(&tree(&Inventory::default()));
    }

    #[test]
    fn show_says_unknown_rather_than_nothing() {
        check_show(
            &small(),
            Part::Storage,
            expect![[r#"
                sda
                  size: unknown
                  model: unknown
                  serial: unknown
                  firmware: unknown
                  WWID: unknown
                  transport: unknown
                  slot: unknown
                  medium: unknown
                  blocks: logical unknown, physical unknown
                  write cache: unknown
                  read only: unknown
                  removable: unknown
                  PCI: unknown
                  node: unknown
                  health: unknown
            "#]],
        );
        check_show(
            &small(),
            Part::Cpu,
            expect![[r#"
            CPUs
              model: Example 9000
              vendor: unknown
              packages: 2
              cores: 8
              PUs: 16
              possible: unknown
              present: unknown
              online: 0-15
              allowed: unknown
              isolated: unknown
              without tick: unknown
              SMT: unknown
              boost: unknown
              microcode: unknown
            caches
              L1d: 8 × 32 KiB, 8 ways, 64 B lines, shared by 2 PUs
              L2: 8 × 1 MiB, 8 ways, 64 B lines, shared by 2 PUs
              L3: 2 × 32 MiB, 8 ways, 64 B lines, shared by 8 PUs
        "#]],
        );
        check_show(
            &small(),
            Part::Numa,
            expect![[r#"
                node 0
                  CPUs: 0-3,8-11
                  memory: 64 GiB
                  free: 1.5 GiB
                  distances: 0:10 1:21
                  hugepages: 512 × 2 MiB
                node 1
                  CPUs: 4-7,12-15
                  memory: 64 GiB
                  free: 1.5 GiB
                  distances: 0:10 1:21
                  hugepages: 512 × 2 MiB
                node 2
                  CPUs: none
                  memory: 64 GiB
                  free: 1.5 GiB
                  distances: 0:10 1:21
                  hugepages: 512 × 2 MiB
                  special: no CPUs
            "#]],
        );
        check_show(
            &small(),
            Part::Sensor,
            expect![[r#"
                nvme at nvme0, node 0
                  Composite: 41.9 °C (max 84.8 °C), ALARM
            "#]],
        );
        assert_eq!(show(&Inventory::default(), Part::Cpu), []);
    }

    #[test]
    fn a_size_has_a_decimal_only_where_it_tells_something() {
        let sizes =
            [0, 1023, 1024, 28_835_840, (1 << 30) - 512, 1 << 30, 3 << 29, u64::MAX].map(size);
        expect![[
            r#"["0 B", "1023 B", "1 KiB", "27.5 MiB", "1 GiB", "1 GiB", "1.5 GiB", "16 EiB"]"#
        ]]
        .assert_eq(&format!("{sizes:?}"));
    }
}
