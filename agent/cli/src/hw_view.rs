//! The machine as a technician reads it: `purlin hw list`, `tree` and `show`.
//!
//! Pure functions over an [`Inventory`], which may be the agent's, a fresh one
//! or a dump's. They decide what is said and in which words; how it is laid
//! out, coloured or turned into JSON is decided elsewhere. What is not known
//! reads "unknown", and is never left out or shown as 0.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use crate::units::size;
use purlin_core::{
    idset::IdSet,
    inventory::{
        Cache, CacheKind, Cpu, Disk, Gpu, Inventory, Nic, NumaNode, Part, PciDevice, Platform,
        Problem, Pu, Sensor, SensorKind,
    },
};

/// The width a tree keeps to, in columns: that of a serial console.
const WIDTH: usize = 80;

/// From this many equal L3 caches on one node a tree shows one line for all,
/// so that a machine with 256 PUs fits a screen or two.
const COLLAPSE_FROM: usize = 5;

const UNKNOWN: &str = "unknown";

/// The row that counts interfaces without hardware.
const VIRTUAL: &str = "virtual";

/// The longest MAC address shown in a row, in characters: Ethernet's.
/// InfiniBand's has 20 bytes and would fill the line.
const MAC_LENGTH: usize = 17;

/// Keeps a name and its figure on one line of a tree; printed as a space.
const NO_BREAK: &str = "\u{a0}";

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
        Part::Platform => inventory.platform.iter().map(platform_row).collect(),
        Part::Cpu => inventory.cpu.iter().flat_map(package_rows).collect(),
        Part::Numa => inventory.numa.iter().flatten().map(node_row).collect(),
        Part::Memory => inventory.memory.iter().map(memory_row).collect(),
        Part::Pci => inventory.pci.iter().map(|all| pci_row(all)).collect(),
        Part::Nic => inventory.nics.iter().flat_map(|all| nic_rows(all)).collect(),
        Part::Disk => inventory.disks.iter().flatten().map(disk_row).collect(),
        Part::Gpu => inventory.gpus.iter().flatten().map(gpu_row).collect(),
        Part::Sensor => inventory.sensors.iter().map(|all| sensor_row(all)).collect(),
    };
    for problem in inventory.problems.iter().filter(|problem| problem.part == part) {
        mark(&mut rows, problem);
    }
    rows
}

fn row(part: Part, name: impl Into<String>, node: Option<u32>, what: impl Into<String>) -> Row {
    Row { part, name: name.into(), what: what.into(), node, problem: false }
}

/// A problem belongs to the row that its file names, else to the part's first
/// row, else it is a row of its own.
fn mark(rows: &mut Vec<Row>, problem: &Problem) {
    let names = |row: &Row| {
        let name = row.name.replace(' ', "");
        problem.at.split('/').any(|piece| piece == name)
    };
    match rows.iter().position(names) {
        Some(index) => rows[index].problem = true,
        None if !rows.is_empty() => rows[0].problem = true,
        None => {
            let what = format!("{UNKNOWN}: {} {}", problem.at, problem.what);
            rows.push(Row { problem: true, ..row(problem.part, problem.part.name(), None, what) });
        }
    }
}

fn platform_row(platform: &Platform) -> Row {
    let mut words = vec![maker(platform)];
    words.extend(platform.kernel.as_ref().map(|kernel| format!("Linux {kernel}")));
    words.extend(platform.architecture.clone());
    words.extend((platform.virtualised == Some(true)).then(|| "virtual".to_owned()));
    let name = platform.hostname.as_deref().unwrap_or("machine");
    row(Part::Platform, name, None, words.join(", "))
}

fn maker(platform: &Platform) -> String {
    match (&platform.vendor, &platform.product) {
        (Some(vendor), Some(product)) => format!("{vendor} {product}"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => "maker unknown".into(),
    }
}

fn package_rows(cpu: &Cpu) -> Vec<Row> {
    let model = model(cpu);
    let line = |(package, pus): (Option<i32>, Vec<&Pu>)| {
        let what = format!("{model}, {}", cores_and_pus(&pus));
        row(Part::Cpu, package_name(package), only_node(&pus), what)
    };
    by(cpu.pus.iter(), |pu| pu.package).into_iter().map(line).collect()
}

/// Arm's cores tell a vendor and no name.
fn model(cpu: &Cpu) -> &str {
    cpu.model.as_deref().or(cpu.vendor.as_deref()).unwrap_or("model unknown")
}

fn package_name(package: Option<i32>) -> String {
    match package {
        Some(id) if id >= 0 => format!("package {id}"),
        _ => "package".into(),
    }
}

/// The node of them all, if it is one.
fn only_node(pus: &[&Pu]) -> Option<u32> {
    let first = pus.first()?.node;
    if pus.iter().all(|pu| pu.node == first) { first } else { None }
}

fn node_row(node: &NumaNode) -> Row {
    let name = format!("node {}", node.id);
    row(Part::Numa, name, Some(node.id), format!("{}, {}", node_memory(node), node_cpus(node)))
}

fn node_memory(node: &NumaNode) -> String {
    match (node.memory, node.free) {
        (None, _) => "memory unknown".into(),
        (Some(0), _) => "no memory".into(),
        (Some(all), Some(free)) => format!("{}, {} free", size(all), size(free)),
        (Some(all), None) => size(all),
    }
}

fn node_cpus(node: &NumaNode) -> String {
    if node.cpus.is_empty() { "no CPUs".into() } else { format!("CPUs {}", node.cpus) }
}

fn memory_row(memory: &purlin_core::inventory::Memory) -> Row {
    let mut what = size(memory.total);
    if let Some(available) = memory.available {
        what += &format!(", {} available", size(available));
    }
    if memory.swap.is_some_and(|swap| swap > 0) {
        what += &format!(", {} swap", or_unknown(memory.swap.map(size)));
    }
    row(Part::Memory, "memory", None, what)
}

fn pci_row(devices: &[PciDevice]) -> Row {
    let bound = devices.iter().filter(|device| device.driver.is_some()).count();
    let functions = plural(devices.len(), "function");
    row(Part::Pci, "pci", None, format!("{functions}, {bound} with a driver"))
}

fn nic_rows(nics: &[Nic]) -> Vec<Row> {
    let mut rows: Vec<Row> = nics.iter().filter(|nic| nic.physical).map(nic_row).collect();
    let others: Vec<&str> =
        nics.iter().filter(|nic| !nic.physical).map(|nic| nic.name.as_str()).collect();
    if !others.is_empty() {
        rows.push(row(Part::Nic, VIRTUAL, None, plural(others.len(), "interface")));
    }
    rows
}

fn nic_row(nic: &Nic) -> Row {
    let words = [
        nic.driver.clone(),
        Some(link_state(nic)),
        nic.mac.clone().filter(|mac| mac.len() <= MAC_LENGTH),
        nic.pci.as_ref().map(|pci| format!("at {pci}")),
    ];
    row(Part::Nic, &nic.name, nic.node, join(words))
}

fn link_state(nic: &Nic) -> String {
    let state = nic.state.as_deref().unwrap_or("state unknown");
    match nic.speed_mbit {
        Some(mbit) if mbit >= 1000 && mbit % 1000 == 0 => format!("{state} {} Gbit/s", mbit / 1000),
        Some(mbit) => format!("{state} {mbit} Mbit/s"),
        None => state.into(),
    }
}

fn disk_row(disk: &Disk) -> Row {
    let words = [
        Some(disk.size.map_or("size unknown".into(), size)),
        disk.model.clone(),
        spinning(disk).map(str::to_owned),
        disk.pci.as_ref().map(|pci| format!("at {pci}")),
    ];
    row(Part::Disk, &disk.name, disk.node, join(words))
}

fn spinning(disk: &Disk) -> Option<&'static str> {
    disk.rotational.map(|spins| if spins { "rotational" } else { "solid state" })
}

fn gpu_row(gpu: &Gpu) -> Row {
    let driver = gpu.driver.as_ref().map_or("no driver".into(), |name| format!("driver {name}"));
    let name = gpu.name.clone().unwrap_or_else(|| "model unknown".into());
    row(Part::Gpu, &gpu.pci, gpu.node, join([Some(name), gpu.vram.map(size), Some(driver)]))
}

fn sensor_row(sensors: &[Sensor]) -> Row {
    let mut words = vec![plural(sensors.len(), "sensor")];
    let temperatures = sensors.iter().filter(|it| it.kind == SensorKind::Temperature);
    let hottest = temperatures
        .filter_map(|sensor| Some((sensor.value?, sensor)))
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    if let Some((_, hot)) = hottest {
        words.push(format!("hottest {} ({}, {})", reading(hot), hot.device, hot.label));
    }
    row(Part::Sensor, "sensors", None, words.join(", "))
}

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
        for (package, pus) in by(cpu.pus.iter(), |pu| pu.package) {
            machine.children.push(package_branch(inventory, cpu, package, &pus, &mut shown));
        }
    } else {
        machine.add(format!("CPUs {UNKNOWN}"));
    }
    let nodes = inventory.numa.iter().flatten();
    for node in nodes.filter(|node| !shown.contains(&node.id)) {
        machine.children.push(node_branch(inventory, node.id));
    }
    machine.children.extend(devices_at(inventory, None));
    machine.print()
}

fn package_branch(
    inventory: &Inventory,
    cpu: &Cpu,
    package: Option<i32>,
    pus: &[&Pu],
    shown: &mut BTreeSet<u32>,
) -> Branch {
    let model = model(cpu);
    let name = package_name(package);
    let mut branch = Branch::new(format!("{name}: {model}, {}", cores_and_pus(pus)));
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
        Some(node) if node.cpus.is_empty() => format!("{}, no CPUs", node_memory(node)),
        Some(node) => node_memory(node),
        None => "memory unknown".into(),
    };
    let children = devices_at(inventory, Some(id));
    Branch { text: format!("NUMA node {id}: {text}"), children }
}

/// GPUs, physical interfaces and disks of a node, or those that tell none.
fn devices_at(inventory: &Inventory, node: Option<u32>) -> Vec<Branch> {
    let rows = [Part::Gpu, Part::Nic, Part::Disk].map(|part| rows_of(inventory, part));
    let here = rows.into_iter().flatten().filter(|row| row.node == node && row.name != VIRTUAL);
    here.map(|row| Branch::new(device_line(&row))).collect()
}

fn device_line(row: &Row) -> String {
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
                let like = (cache.size, cores_and_pus(&pus));
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
    for (_, pus) in by(pus.iter().copied(), core_key) {
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

fn cache_name(cache: &Cache) -> String {
    let letter = match cache.kind {
        CacheKind::Data => "d",
        CacheKind::Instruction => "i",
        CacheKind::Unified => "",
    };
    format!("L{}{letter}", cache.level)
}

/// Kernel core ids repeat in each package and die. A PU without one is taken
/// as a core of its own.
fn core_key(pu: &Pu) -> (Option<i32>, Option<i32>, i64) {
    (pu.package, pu.die, pu.core.map_or(-1 - i64::from(pu.id), i64::from))
}

fn cores_and_pus(pus: &[&Pu]) -> String {
    let cores: BTreeSet<_> = pus.iter().map(|pu| core_key(pu)).collect();
    format!("{}, {}", plural(cores.len(), "core"), plural(pus.len(), "PU"))
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

/// All that is known of one part; empty if the part is unknown or has nothing.
pub fn show(inventory: &Inventory, part: Part) -> Vec<Section> {
    match part {
        Part::Platform => inventory.platform.iter().map(platform_section).collect(),
        Part::Cpu => inventory.cpu.iter().flat_map(cpu_sections).collect(),
        Part::Numa => inventory.numa.iter().flatten().map(node_section).collect(),
        Part::Memory => inventory.memory.iter().map(memory_section).collect(),
        Part::Pci => inventory.pci.iter().flatten().map(pci_section).collect(),
        Part::Nic => inventory.nics.iter().flatten().map(nic_section).collect(),
        Part::Disk => inventory.disks.iter().flatten().map(disk_section).collect(),
        Part::Gpu => inventory.gpus.iter().flatten().map(gpu_section).collect(),
        Part::Sensor => inventory.sensors.iter().flat_map(|all| sensor_sections(all)).collect(),
    }
}

fn section<const N: usize>(title: &str, facts: [(&str, String); N]) -> Section {
    let facts = facts.map(|(name, value)| (name.to_owned(), value));
    Section { title: title.to_owned(), facts: facts.into() }
}

fn platform_section(platform: &Platform) -> Section {
    section(
        platform.hostname.as_deref().unwrap_or("machine"),
        [
            ("vendor", told(&platform.vendor)),
            ("product", told(&platform.product)),
            ("serial", told(&platform.serial)),
            ("board", told(&platform.board)),
            ("firmware", told(&platform.firmware)),
            ("UEFI", yes_no(platform.uefi)),
            ("kernel", told(&platform.kernel)),
            ("architecture", told(&platform.architecture)),
            ("virtualised", yes_no(platform.virtualised)),
        ],
    )
}

fn cpu_sections(cpu: &Cpu) -> Vec<Section> {
    let cpus = section(
        "CPUs",
        [
            ("model", told(&cpu.model)),
            ("vendor", told(&cpu.vendor)),
            ("packages", cpu.packages().to_string()),
            ("cores", cpu.cores().to_string()),
            ("PUs", cpu.pus.len().to_string()),
            ("possible", set(&cpu.possible)),
            ("present", set(&cpu.present)),
            ("online", set(&cpu.online)),
            ("allowed", set(&cpu.allowed)),
            ("isolated", set(&cpu.isolated)),
            ("SMT", told(&cpu.smt)),
        ],
    );
    let facts = by(cpu.caches.iter(), |cache| (cache_name(cache), cache.size, cache.ways))
        .into_values()
        .map(|alike| (cache_name(alike[0]), caches(&alike)))
        .collect();
    vec![cpus, Section { title: "caches".into(), facts }]
}

fn caches(alike: &[&Cache]) -> String {
    let one = alike[0];
    let words = [
        Some(format!("{} × {}", alike.len(), or_unknown(one.size.map(size)))),
        one.ways.map(|ways| format!("{ways} ways")),
        one.line.map(|line| format!("{line} B lines")),
        Some(format!("shared by {}", plural(one.shared_by.len(), "PU"))),
    ];
    join(words)
}

fn node_section(node: &NumaNode) -> Section {
    let distances: Vec<String> =
        node.distances.iter().map(|(to, far)| format!("{to}:{far}")).collect();
    section(
        &format!("node {}", node.id),
        [
            ("CPUs", if node.cpus.is_empty() { "none".into() } else { node.cpus.to_string() }),
            ("memory", or_unknown(node.memory.map(size))),
            ("free", or_unknown(node.free.map(size))),
            ("distances", if distances.is_empty() { UNKNOWN.into() } else { distances.join(" ") }),
            ("hugepages", hugepages(&node.hugepages)),
        ],
    )
}

fn memory_section(memory: &purlin_core::inventory::Memory) -> Section {
    section(
        "memory",
        [
            ("total", size(memory.total)),
            ("available", or_unknown(memory.available.map(size))),
            ("swap", or_unknown(memory.swap.map(size))),
            ("hugepages", hugepages(&memory.hugepages)),
        ],
    )
}

fn hugepages(pools: &BTreeMap<u64, u64>) -> String {
    let used = pools.iter().filter(|(_, pages)| **pages > 0);
    let words: Vec<String> =
        used.map(|(bytes, pages)| format!("{pages} × {}", size(*bytes))).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

fn pci_section(device: &PciDevice) -> Section {
    let link = device.link.map(|link| format!("{} GT/s × {}", link.gt_per_s, link.width));
    let most = device.link_max.map(|link| format!("{} GT/s × {}", link.gt_per_s, link.width));
    section(
        &device.address,
        [
            ("name", told(&device.name)),
            ("class", format!("{:06x}", device.class)),
            ("id", format!("{:04x}:{:04x}", device.vendor, device.device)),
            ("driver", device.driver.clone().unwrap_or_else(|| "none".into())),
            ("node", or_unknown(device.node)),
            ("below", device.parent.clone().unwrap_or_else(|| "a root bus".into())),
            ("IOMMU group", device.iommu_group.map_or("none".into(), |group| group.to_string())),
            ("link", link.unwrap_or_else(|| "none".into())),
            ("link at most", most.unwrap_or_else(|| "none".into())),
        ],
    )
}

fn nic_section(nic: &Nic) -> Section {
    section(
        &nic.name,
        [
            ("kind", if nic.physical { "physical" } else { "virtual" }.into()),
            ("state", link_state(nic)),
            ("MAC", told(&nic.mac)),
            ("MTU", or_unknown(nic.mtu.map(|mtu| format!("{mtu} B")))),
            ("driver", told(&nic.driver)),
            ("PCI", nic.pci.clone().unwrap_or_else(|| "none".into())),
            ("node", or_unknown(nic.node)),
        ],
    )
}

fn disk_section(disk: &Disk) -> Section {
    section(
        &disk.name,
        [
            ("size", or_unknown(disk.size.map(size))),
            ("model", told(&disk.model)),
            ("serial", told(&disk.serial)),
            ("firmware", told(&disk.firmware)),
            ("medium", or_unknown(spinning(disk))),
            ("removable", yes_no(disk.removable)),
            ("PCI", told(&disk.pci)),
            ("node", or_unknown(disk.node)),
        ],
    )
}

fn gpu_section(gpu: &Gpu) -> Section {
    section(
        &gpu.pci,
        [
            ("name", told(&gpu.name)),
            ("driver", gpu.driver.clone().unwrap_or_else(|| "none".into())),
            ("UUID", told(&gpu.uuid)),
            ("memory", or_unknown(gpu.vram.map(size))),
            ("node", or_unknown(gpu.node)),
        ],
    )
}

fn sensor_sections(sensors: &[Sensor]) -> Vec<Section> {
    let fact = |sensor: &&Sensor| (sensor.label.clone(), reading(sensor));
    by(sensors.iter(), |sensor| sensor.device.clone())
        .into_iter()
        .map(|(title, of)| Section { title, facts: of.iter().map(fact).collect() })
        .collect()
}

fn reading(sensor: &Sensor) -> String {
    let Some(value) = sensor.value else { return UNKNOWN.into() };
    match sensor.kind {
        SensorKind::Temperature => format!("{value:.1} °C"),
        SensorKind::Fan => format!("{value:.0} rpm"),
        SensorKind::Voltage => format!("{value:.3} V"),
        SensorKind::Power => format!("{value:.1} W"),
        SensorKind::Current => format!("{value:.3} A"),
    }
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
    use purlin_core::inventory::Memory;

    use super::*;

    fn ids(list: &str) -> IdSet {
        IdSet::parse(list).expect("a valid list")
    }

    fn cache(level: u32, kind: CacheKind, bytes: u64, shared_by: &str) -> Cache {
        let size = Some(bytes);
        Cache { level, kind, size, ways: Some(8), line: Some(64), shared_by: ids(shared_by) }
    }

    /// Packages of one node each; in each, L3 caches of `cores` cores with two
    /// PUs, numbered as Linux does: all first threads, then all second ones.
    fn cpu(packages: u32, l3s: u32, cores: u32) -> Cpu {
        let all = packages * l3s * cores;
        let mut cpu = Cpu { model: Some("Example 9000".into()), ..Cpu::default() };
        for id in 0..2 * all {
            let core = id % all;
            let package = core / (l3s * cores);
            let place = (Some(package as i32), Some(core as i32));
            cpu.pus.push(Pu {
                id,
                package: place.0,
                core: place.1,
                node: Some(package),
                ..Pu::default()
            });
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
        NumaNode {
            id,
            cpus: ids(cpus),
            memory: Some(64 << 30),
            free: Some(3 << 29),
            distances: BTreeMap::from([(0, 10), (1, 21)]),
            hugepages: BTreeMap::from([(2 << 20, 512), (1 << 30, 0)]),
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
            memory: Some(Memory { total: 192 << 30, swap: Some(0), ..Memory::default() }),
            pci: Some(vec![PciDevice::default(); 3]),
            nics: Some(vec![nic, Nic { name: "lo".into(), ..Nic::default() }]),
            disks: Some(vec![Disk { name: "sda".into(), ..Disk::default() }]),
            gpus: Some(vec![gpu]),
            sensors: Some(vec![temperature]),
            problems: vec![problem(Part::Disk, "/sys/block/sda/size")],
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
            disk | sda | size unknown | - !
            gpu | 0000:c1:00.0 | model unknown, no driver | 1
            sensor | sensors | 1 sensor, hottest 41.9 °C (nvme at nvme0, Composite) | -
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
            └─ disk sda: size unknown
        "#]]
        .assert_eq(&tree(&small()));
    }

    #[test]
    fn a_tree_of_256_pus_fits_a_serial_console() {
        let mut inventory = small();
        inventory.cpu = Some(cpu(2, 8, 8));
        let text = tree(&inventory);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
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
            └─ disk sda: size unknown
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
            Part::Disk,
            expect![[r#"
            sda
              size: unknown
              model: unknown
              serial: unknown
              firmware: unknown
              medium: unknown
              removable: unknown
              PCI: unknown
              node: unknown
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
              SMT: unknown
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
