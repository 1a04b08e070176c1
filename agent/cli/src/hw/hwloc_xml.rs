//! `purlin hw xml`: the machine as hwloc writes it, for `lstopo` and its relatives.
//!
//! The form is that of hwloc 2's XML export (`hwloc2.dtd`): objects with their CPU and
//! node sets, memory and I/O hung on the object they are local to. Nothing is merged or
//! filtered as hwloc does when it reads a machine itself: what we know is what it gets.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write},
};

use purlin_core::{
    idset::IdSet,
    inventory::{Cache, CacheKind, Inventory, PciDevice},
};

use super::topology::{Kind, Object, has_no_cpus, topology};

/// What hwloc calls objects that only group others by their memory.
const GROUP_KIND: u32 = 1001;

/// hwloc's numbers of kinds of I/O objects (`hwloc_obj_osdev_type_e`).
const OSDEV_BLOCK: u32 = 0;
const OSDEV_GPU: u32 = 1;
const OSDEV_NET: u32 = 2;
const OSDEV_RDMA: u32 = 3;

/// Base class and subclass of a bridge between PCI buses.
const PCI_BRIDGE: u32 = 0x0604;

/// The document; `None` if no PU is known, as hwloc knows no machine without one.
pub fn xml(inventory: &Inventory) -> Option<String> {
    let machine = topology(inventory)?;
    let mut writer = Writer { inventory, pus: machine.pus.clone(), out: String::new(), objects: 0 };
    writer.out.push_str(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n<topology version=\"2.0\">\n",
    );
    writer.machine(&machine);
    writer.out.push_str("</topology>\n");
    Some(writer.out)
}

struct Writer<'a> {
    inventory: &'a Inventory,
    pus: IdSet,
    out: String,
    objects: u32,
}

impl<'a> Writer<'a> {
    fn machine(&mut self, machine: &Object<'_>) {
        let cpu = self.inventory.cpu.as_ref();
        let allowed = cpu.and_then(|cpu| cpu.allowed.as_ref());
        let allowed =
            allowed.map(|set| set.intersection(&machine.pus)).filter(|set| !set.is_empty());
        let present = cpu.and_then(|cpu| cpu.present.as_ref()).into_iter().flat_map(IdSet::iter);
        let complete: IdSet = present.chain(machine.pus.iter()).collect();
        let nodes = Mask(&self.all_nodes()).to_string();
        let attributes = format!(
            "cpuset=\"{}\" complete_cpuset=\"{}\" allowed_cpuset=\"{}\" nodeset=\"{nodes}\" \
             complete_nodeset=\"{nodes}\" allowed_nodeset=\"{nodes}\"",
            Mask(&machine.pus),
            Mask(&complete),
            Mask(allowed.as_ref().unwrap_or(&machine.pus)),
        );
        self.open("Machine", Some(0), &attributes);
        self.info("Backend", "Purlin");
        if let Some(platform) = &self.inventory.platform {
            for (name, value) in [
                ("HostName", &platform.hostname),
                ("OSRelease", &platform.kernel),
                ("Architecture", &platform.architecture),
                ("DMISysVendor", &platform.vendor),
                ("DMIProductName", &platform.product),
            ] {
                value.iter().for_each(|value| self.info(name, value));
            }
        }
        self.memory_of_machine();
        self.children(machine);
        self.devices(None);
        self.close();
    }

    /// Nodes without CPUs, and the one node of a kernel that tells none.
    fn memory_of_machine(&mut self) {
        match self.inventory.numa.as_deref() {
            None | Some([]) => {
                let memory = self.inventory.memory.as_ref().and_then(|memory| memory.total);
                self.node(0, &self.pus.clone(), memory);
            }
            Some(nodes) => {
                let pus = self.pus.clone();
                for node in nodes.iter().filter(|node| has_no_cpus(node, &pus)) {
                    self.node(node.id, &IdSet::default(), node.memory);
                    self.devices(Some(node.id));
                }
            }
        }
    }

    fn children(&mut self, parent: &Object<'_>) {
        let is_memory =
            |child: &&Object<'_>| matches!(child.kind, Kind::Nodes(_)) && child.pus == parent.pus;
        for child in parent.children.iter().filter(is_memory) {
            self.within(child);
        }
        for child in parent.children.iter().filter(|child| !is_memory(child)) {
            self.object(child);
        }
    }

    /// Memory hangs on the object that has the same PUs, and takes no level itself.
    fn within(&mut self, nodes: &Object<'_>) {
        let Kind::Nodes(ids) = &nodes.kind else { return };
        for id in ids {
            let known = self.inventory.numa.iter().flatten().find(|node| node.id == *id);
            self.node(*id, &nodes.pus, known.and_then(|node| node.memory));
        }
        self.children(nodes);
        ids.iter().for_each(|id| self.devices(Some(*id)));
    }

    fn object(&mut self, object: &Object<'_>) {
        let nodes = self.nodes_of(&object.pus);
        let sets = format!(
            "cpuset=\"{0}\" complete_cpuset=\"{0}\" nodeset=\"{1}\" complete_nodeset=\"{1}\"",
            Mask(&object.pus),
            Mask(&nodes)
        );
        let id = object.id.filter(|id| *id >= 0);
        match &object.kind {
            Kind::Machine => {}
            Kind::Group(_) => {
                self.open("Group", None, &format!("{sets} kind=\"{GROUP_KIND}\" subkind=\"0\""));
            }
            Kind::Package => self.open("Package", id, &sets),
            Kind::Die => self.open("Die", id, &sets),
            Kind::Core => self.open("Core", id, &sets),
            Kind::Pu => self.open("PU", id, &sets),
            Kind::Cache(cache) => match cache_type(cache) {
                Some(name) => self.open(&name, None, &format!("{sets} {}", attributes_of(cache))),
                // A level that hwloc has no name for.
                None => return self.children(object),
            },
            Kind::Nodes(_) => {
                self.open("Group", None, &format!("{sets} kind=\"{GROUP_KIND}\" subkind=\"0\""));
                self.within(object);
                return self.close();
            }
        }
        self.children(object);
        self.close();
    }

    fn node(&mut self, id: u32, pus: &IdSet, memory: Option<u64>) {
        let own: IdSet = [id].into_iter().collect();
        let attributes = format!(
            "cpuset=\"{0}\" complete_cpuset=\"{0}\" nodeset=\"{1}\" complete_nodeset=\"{1}\" \
             local_memory=\"{2}\"",
            Mask(pus),
            Mask(&own),
            memory.unwrap_or_default()
        );
        self.open("NUMANode", i32::try_from(id).ok(), &attributes);
        self.close();
    }

    /// The PCI functions at a node, or those that tell none, as hwloc has them: under
    /// a host bridge for each domain and bus, bridges in bridges.
    fn devices(&mut self, node: Option<u32>) {
        let known = |id: &u32| self.inventory.numa.iter().flatten().any(|node| node.id == *id);
        let at = |device: &PciDevice| device.node.filter(known);
        let all = self.inventory.pci.iter().flatten().filter_map(Function::of);
        let mut roots: BTreeMap<(u32, u8), Vec<Function<'_>>> = BTreeMap::new();
        for function in all.filter(|it| it.device.parent.is_none() && at(it.device) == node) {
            roots.entry((function.domain, function.bus)).or_default().push(function);
        }
        for ((domain, bus), functions) in roots {
            let last = functions.iter().map(|it| self.last_bus(it, 0)).max().unwrap_or(bus);
            self.open(
                "Bridge",
                None,
                &format!(
                    "bridge_type=\"0-1\" depth=\"0\" bridge_pci=\"{domain:04x}:[{bus:02x}-{last:02x}]\""
                ),
            );
            functions.iter().for_each(|function| self.function(function, 1));
            self.close();
        }
    }

    fn function(&mut self, function: &Function<'_>, depth: u32) {
        let device = function.device;
        let class = device.class >> 8;
        let speed = device.link.map_or(0.0, |it| it.gt_per_s * it.width as f32 / 8.0);
        let mut attributes = format!(
            "pci_busid=\"{}\" pci_type=\"{class:04x} [{:04x}:{:04x}] [0000:0000] 00\" \
             pci_link_speed=\"{speed:.6}\"",
            Escaped(&device.address),
            device.vendor.unwrap_or_default(),
            device.device.unwrap_or_default(),
        );
        let children = self.children_of(function);
        if class == PCI_BRIDGE && !children.is_empty() {
            let first = children.iter().map(|it| it.bus).min().unwrap_or_default();
            let last = self.last_bus(function, 0);
            _ = write!(
                attributes,
                " bridge_type=\"1-1\" depth=\"{depth}\" bridge_pci=\"{:04x}:[{first:02x}-{last:02x}]\"",
                function.domain
            );
            self.open("Bridge", None, &attributes);
        } else {
            self.open("PCIDev", None, &attributes);
        }
        if depth < MAX_BRIDGES && class == PCI_BRIDGE {
            children.iter().for_each(|child| self.function(child, depth + 1));
        }
        self.kernel_devices(&device.address);
        self.close();
    }

    fn children_of(&self, above: &Function<'_>) -> Vec<Function<'a>> {
        let all = self.inventory.pci.iter().flatten().filter_map(Function::of);
        all.filter(|it| it.device.parent.as_deref() == Some(&*above.device.address)).collect()
    }

    /// The last bus under a function.
    fn last_bus(&self, function: &Function<'_>, depth: u32) -> u8 {
        if depth == MAX_BRIDGES {
            return function.bus;
        }
        let under = self.children_of(function);
        let last = under.iter().map(|child| self.last_bus(child, depth + 1)).max();
        last.unwrap_or(function.bus).max(function.bus)
    }

    /// Interfaces, disks and GPUs of a PCI function.
    fn kernel_devices(&mut self, address: &str) {
        let inventory = self.inventory;
        for nic in inventory.nics.iter().flatten().filter(|nic| nic.pci.as_deref() == Some(address))
        {
            self.device(OSDEV_NET, &nic.name, &[("Address", &nic.mac)]);
            for rdma in &nic.rdma {
                self.device(OSDEV_RDMA, &rdma.name, &[]);
            }
        }
        let disks = inventory.storage.iter().flat_map(|storage| &storage.disks);
        for disk in disks.filter(|disk| disk.pci.as_deref() == Some(address)) {
            let facts = [("Model", &disk.model), ("SerialNumber", &disk.serial)];
            self.device(OSDEV_BLOCK, &disk.name, &facts);
        }
        // Its names in the kernel, as far as it has a driver that gives it one.
        for gpu in inventory.gpus.iter().flatten().filter(|gpu| gpu.pci == address) {
            let names = gpu.device_nodes.iter().filter_map(|path| gpu_name(path));
            let facts =
                [("GPUModel", &gpu.name), ("UUID", &gpu.uuid), ("SerialNumber", &gpu.serial)];
            names.for_each(|name| self.device(OSDEV_GPU, name, &facts));
        }
    }

    fn device(&mut self, kind: u32, name: &str, facts: &[(&str, &Option<String>)]) {
        let name = Escaped(name);
        self.open("OSDev", None, &format!("name=\"{name}\" osdev_type=\"{kind}\""));
        for (fact, value) in facts {
            value.iter().for_each(|value| self.info(fact, value));
        }
        self.close();
    }

    fn all_nodes(&self) -> IdSet {
        match self.inventory.numa.as_deref() {
            None | Some([]) => [0].into_iter().collect(),
            Some(nodes) => nodes.iter().map(|node| node.id).collect(),
        }
    }

    /// The nodes that have some of these PUs; one that has all there are, where
    /// the kernel tells none.
    fn nodes_of(&self, pus: &IdSet) -> IdSet {
        match self.inventory.numa.as_deref() {
            None | Some([]) => [0].into_iter().collect(),
            Some(nodes) => {
                let near = nodes.iter().filter(|node| !has_no_cpus(node, pus));
                near.map(|node| node.id).collect()
            }
        }
    }

    fn open(&mut self, name: &str, id: Option<i32>, attributes: &str) {
        self.objects += 1;
        let id = id.map(|id| format!(" os_index=\"{id}\"")).unwrap_or_default();
        let index = self.objects;
        _ = writeln!(self.out, "<object type=\"{name}\"{id} {attributes} gp_index=\"{index}\">");
    }

    fn close(&mut self) {
        self.out.push_str("</object>\n");
    }

    fn info(&mut self, name: &str, value: &str) {
        _ = writeln!(self.out, "<info name=\"{name}\" value=\"{}\"/>", Escaped(value));
    }
}

/// Bridges behind bridges; the standard allows 256 buses, and machines have four.
const MAX_BRIDGES: u32 = 32;

/// A PCI function. hwloc 2 as most distributions build it passes over a domain of more
/// than 16 bits, and what is in it.
struct Function<'a> {
    domain: u32,
    bus: u8,
    device: &'a PciDevice,
}

impl<'a> Function<'a> {
    fn of(device: &'a PciDevice) -> Option<Self> {
        let mut parts = device.address.split(':');
        let domain = u32::from_str_radix(parts.next()?, 16).ok()?;
        Some(Self { domain, bus: u8::from_str_radix(parts.next()?, 16).ok()?, device })
    }
}

/// What a GPU's own device file is called: `card0`, `renderD128`, `nvidia0`. Files that
/// all GPUs of a driver share are nobody's name.
fn gpu_name(path: &str) -> Option<&str> {
    let name = path.strip_prefix("/dev/")?;
    let name = name.strip_prefix("dri/").unwrap_or(name);
    let prefixes = ["card", "renderD", "nvidia"].into_iter();
    let number = prefixes.filter_map(|prefix| name.strip_prefix(prefix)).next()?;
    number.parse::<u32>().is_ok().then_some(name)
}

fn cache_type(cache: &Cache) -> Option<String> {
    let last = if cache.kind == CacheKind::Instruction { 3 } else { 5 };
    let instruction = if cache.kind == CacheKind::Instruction { "i" } else { "" };
    (1..=last).contains(&cache.level).then(|| format!("L{}{instruction}Cache", cache.level))
}

fn attributes_of(cache: &Cache) -> String {
    let kind = match cache.kind {
        CacheKind::Unified => 0,
        CacheKind::Data => 1,
        CacheKind::Instruction => 2,
    };
    format!(
        "cache_size=\"{}\" depth=\"{}\" cache_linesize=\"{}\" cache_associativity=\"{}\" \
         cache_type=\"{kind}\"",
        cache.size.unwrap_or_default(),
        cache.level,
        cache.line.unwrap_or_default(),
        cache.ways.unwrap_or_default(),
    )
}

/// A set as hwloc writes it: words of 32 bits, the highest first.
struct Mask<'a>(&'a IdSet);

impl Display for Mask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = vec![0_u32; self.0.iter().last().unwrap_or_default() as usize / 32 + 1];
        self.0.iter().for_each(|id| words[id as usize / 32] |= 1 << (id % 32));
        let words: Vec<String> = words.iter().rev().map(|word| format!("{word:#010x}")).collect();
        f.write_str(&words.join(","))
    }
}

/// Text as XML takes it.
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                // XML 1.0 has no way to write them.
                c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}
