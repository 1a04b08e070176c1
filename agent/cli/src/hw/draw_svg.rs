//! `purlin hw draw`: a picture of the machine, to be printed and hung on the rack.
//!
//! Boxes in boxes, as [`topology`] nests them, with each device at the NUMA node it sits
//! on. Plain SVG text: no script, no font and nothing else that is fetched, and the same
//! machine gives the same bytes. The more cores there are the less is said of each, so
//! that the picture stays about a page wide.

use std::{collections::BTreeSet, fmt::Write};

use purlin_core::{
    idset::IdSet,
    inventory::{Cache, CacheKind, Cpu, Inventory},
};

use super::{
    hwloc_xml::Escaped,
    topology::{Kind, Object, has_no_cpus, topology},
    view::{device_line, devices_at},
};
use crate::units::size;

/// The page's width in px; an A4 page across has about as many at 96 dpi.
const WIDTH: i32 = 1200;
/// Around everything, and between boxes.
const MARGIN: i32 = 24;
const GAP: i32 = 6;
/// The line with a box's name.
const TITLE: i32 = 22;
/// Smallest width that is worth a second column of boxes.
const COLUMN: i32 = 260;
/// A square for a PU.
const PU: (i32, i32) = (26, 20);

/// Up to so many cores each has its PUs and caches drawn; up to the second figure it is
/// a box with its PUs' ids. Beyond that cores are counted.
const DETAILED: usize = 64;
const COMPACT: usize = 512;

/// Devices drawn at one node; a switch's many functions are counted.
const MAX_DEVICES: usize = 24;
/// The longest text of a device, in characters.
const MAX_DEVICE: usize = 52;

const STYLE: &str = "\
svg{font-family:system-ui,'DejaVu Sans',Helvetica,Arial,sans-serif;background:#fff}
text{fill:#1f2933}.h{font-size:22px;font-weight:600}.s{font-size:13px;fill:#52606d}
.b{font-size:12px;font-weight:600}.c{font-size:9px;fill:#52606d}.p{font-size:10px}
.m{text-anchor:middle}.page{fill:#fff}
rect{stroke:#9aa5b1}.package{fill:#f5f7fa}.die{fill:#eef2f6}.node{fill:#e3f1e6;stroke:#5a9a68}
.cache{fill:#fdf3d8;stroke:#c9a44a}.core{fill:#fff}.count{fill:#fff}
.pu{fill:#bcd6f5;stroke:#5d8fc9}.k0{fill:#dcebfb}.k1{fill:#9fc5f0}.k2{fill:#6ea6e6}
.isolated{stroke:#7a3fb0;stroke-width:2.5}.disallowed{fill:#e4e7eb;stroke:#9aa5b1}
.offline{fill:none;stroke-dasharray:3 2}.empty{stroke-dasharray:5 3}
.gpu{fill:#e7dcf7;stroke:#8a63c4}.nic{fill:#d3eef0;stroke:#3f9aa3}.storage{fill:#f8dfd3;stroke:#c77a52}
@media(prefers-color-scheme:dark){svg{background:#12181f}.page{fill:#12181f}text{fill:#e4e7eb}
.s,.c{fill:#9aa5b1}rect{stroke:#616e7c}.package{fill:#1c242d}.die{fill:#212b35}.node{fill:#183024}
.cache{fill:#372f17}.core,.count{fill:#12181f}.pu{fill:#244a73}.k0{fill:#1b3551}.k1{fill:#2a5588}
.k2{fill:#3a72b5}.disallowed{fill:#323f4b}.gpu{fill:#382a52}.nic{fill:#153d41}.storage{fill:#4a2c1d}}
";

/// The picture; `None` if no PU is known.
pub fn svg(inventory: &Inventory) -> Option<String> {
    let machine = topology(inventory)?;
    let cpu = inventory.cpu.as_ref()?;
    let cores = machine.count(&|kind| *kind == Kind::Core);
    let cores = cores.max(cpu.pus.len() / 8);
    let artist = Artist { inventory, cpu, cores, each_core: same_in_each_core(&machine) };
    let mut boxes = artist.children(&machine, WIDTH);
    boxes.extend(artist.nodes_without_cpus());
    boxes.extend(artist.offline());
    let mut page = vec![flow("page", String::new(), boxes, WIDTH)];
    page.extend(
        artist
            .devices(None, WIDTH)
            .into_iter()
            .map(|it| flow("page", String::new(), vec![it], WIDTH)),
    );
    // One under the other.
    let width = page.iter().map(|area| area.width).max().unwrap_or_default();
    Some(artist.page(&machine, &flow("page", String::new(), page, width)))
}

/// A rectangle with a name and what is in it, placed relative to its own corner.
struct Area {
    class: String,
    title: String,
    /// Lines in the smallest print, under what is in it.
    notes: Vec<String>,
    width: i32,
    height: i32,
    within: Vec<(i32, i32, Area)>,
}

struct Artist<'a> {
    inventory: &'a Inventory,
    cpu: &'a Cpu,
    cores: usize,
    /// The caches of each core, where all have the same.
    each_core: Option<Vec<String>>,
}

impl Artist<'_> {
    fn children(&self, object: &Object<'_>, width: i32) -> Vec<Area> {
        let boxes = object.children.iter().filter(|child| is_box(child)).count() as i32;
        // A package that is one die is not drawn twice.
        if let [die @ Object { kind: Kind::Die, .. }] = object.children.as_slice() {
            return self.children(die, width);
        }
        let columns = if boxes > 1 { (width / COLUMN).clamp(1, boxes.min(4)) } else { 1 };
        // Two wide boxes read better than four narrow ones, unless these are small.
        let columns =
            if object.count(&|kind| *kind == Kind::Core) > 32 { columns.min(2) } else { columns };
        let width = (width - GAP * (columns + 1)) / columns;
        object.children.iter().map(|child| self.area(child, width, Vec::new())).collect()
    }

    /// `own` are the caches that the core in it has for itself.
    fn area<'b>(&self, object: &Object<'b>, width: i32, mut own: Vec<&'b Cache>) -> Area {
        let name = |what: &str| match object.id.filter(|id| *id >= 0) {
            Some(id) => format!("{what} {id}"),
            None => what.into(),
        };
        match &object.kind {
            Kind::Pu => self.pu(object),
            Kind::Core => self.core(object, &name("core"), &own),
            Kind::Cache(cache) if !is_box(object) && object.children.len() == 1 => {
                own.push(cache);
                self.area(&object.children[0], width, own)
            }
            Kind::Cache(cache) => self.container("cache", cache_name(cache), object, width, None),
            Kind::Group(what) => self.container("die", name(what), object, width, None),
            Kind::Die => self.container("die", name("Die"), object, width, None),
            Kind::Package => self.container("package", name("Package"), object, width, None),
            Kind::Nodes(ids) => {
                let names: Vec<String> = ids.iter().map(|id| self.node_name(*id)).collect();
                self.container("node", names.join(", "), object, width, Some(ids))
            }
            Kind::Machine => self.container("page", String::new(), object, width, None),
        }
    }

    fn container(
        &self,
        class: &str,
        title: String,
        object: &Object<'_>,
        width: i32,
        nodes: Option<&[u32]>,
    ) -> Area {
        let mut within = match self.cores > COMPACT && !object.children.iter().any(is_box) {
            true => vec![count(object)],
            false => self.children(object, width),
        };
        for node in nodes.into_iter().flatten() {
            within.extend(self.devices(Some(*node), width));
        }
        flow(class, title, within, width)
    }

    fn core(&self, core: &Object<'_>, name: &str, own: &[&Cache]) -> Area {
        if self.cores > DETAILED {
            let text = core.pus.to_string();
            let width = text_width(&text, 10).max(PU.0) + GAP;
            let class = match core.pus.len() {
                1 => self.pu_class(core.pus.first().unwrap_or_default()),
                _ => self.common_class(&core.pus),
            };
            return leaf(class, text, width, PU.1);
        }
        let pus = core.children.iter().flat_map(leaves).map(|pu| self.pu(pu)).collect();
        let mut area = flow("core", name.to_owned(), pus, 4 * (PU.0 + GAP) + GAP);
        if self.each_core.is_none() {
            area.notes = own.iter().map(|cache| cache_name(cache)).collect();
        }
        let widest = area.notes.iter().map(|note| text_width(note, 9)).max().unwrap_or_default();
        area.width = area.width.max(widest + 2 * GAP);
        area.height += 11 * area.notes.len() as i32;
        area
    }

    fn pu(&self, pu: &Object<'_>) -> Area {
        let id = pu.pus.first().unwrap_or_default();
        leaf(self.pu_class(id), id.to_string(), PU.0, PU.1)
    }

    /// How all PUs of a core look, if they look alike.
    fn common_class(&self, pus: &IdSet) -> String {
        let classes: BTreeSet<String> = pus.iter().map(|id| self.pu_class(id)).collect();
        match classes.len() {
            1 => classes.into_iter().next().unwrap_or_default(),
            _ => "pu".into(),
        }
    }

    fn pu_class(&self, id: u32) -> String {
        let has = |set: &Option<IdSet>| set.as_ref().is_some_and(|set| set.contains(id));
        let kind = self.cpu.kinds.iter().position(|kind| kind.pus.contains(id));
        let mut class = kind.map_or_else(|| "pu".to_owned(), |kind| format!("pu k{}", kind.min(2)));
        if self.cpu.allowed.is_some() && !has(&self.cpu.allowed) {
            class += " disallowed";
        }
        if has(&self.cpu.isolated) {
            class += " isolated";
        }
        class
    }

    fn node_name(&self, id: u32) -> String {
        let node = self.inventory.numa.iter().flatten().find(|node| node.id == id);
        match node.and_then(|node| node.memory) {
            Some(0) => format!("NUMA node {id}, no memory"),
            Some(memory) => format!("NUMA node {id}, {}", size(memory)),
            None => format!("NUMA node {id}, memory unknown"),
        }
    }

    fn nodes_without_cpus(&self) -> Vec<Area> {
        let online: IdSet = self.cpu.pus.iter().map(|pu| pu.id).collect();
        let nodes = self.inventory.numa.iter().flatten();
        let empty = nodes.filter(|node| has_no_cpus(node, &online));
        let area = |id| {
            let title = format!("{}, no CPUs", self.node_name(id));
            flow("node empty", title, self.devices(Some(id), WIDTH / 2), WIDTH / 2)
        };
        empty.map(|node| area(node.id)).collect()
    }

    /// CPUs that are plugged in and don't run; where they sit is not told.
    fn offline(&self) -> Option<Area> {
        let pus = self.cpu.present.as_ref()?.difference(self.cpu.online.as_ref()?);
        if pus.is_empty() {
            return None;
        }
        let squares = match pus.len() {
            0..=64 => {
                pus.iter().map(|id| leaf("offline".into(), id.to_string(), PU.0, PU.1)).collect()
            }
            _ => vec![leaf(
                "offline".into(),
                pus.to_string(),
                text_width(&pus.to_string(), 10) + GAP,
                PU.1,
            )],
        };
        Some(flow("offline", format!("Offline: {} CPUs", pus.len()), squares, WIDTH / 2))
    }

    fn devices(&self, node: Option<u32>, width: i32) -> Vec<Area> {
        let devices = devices_at(self.inventory, node);
        let more = devices.len().saturating_sub(MAX_DEVICES);
        let chip = |class: &str, text: &str| {
            let fits = ((width - 4 * GAP) / 6).max(8) as usize;
            let text = shortened(text, MAX_DEVICE.min(fits));
            let wide = text_width(&text, 10) + 2 * GAP;
            leaf(class.into(), text, wide, PU.1)
        };
        let mut chips: Vec<Area> = devices
            .iter()
            .take(MAX_DEVICES)
            .map(|row| match row.part.name() {
                // Could not be read.
                part if part == row.name => chip("offline", &format!("{part}: unknown")),
                part => chip(part, &device_line(row)),
            })
            .collect();
        if more > 0 {
            chips.push(chip("count", &format!("and {more} devices more")));
        }
        match (chips.is_empty(), node) {
            (true, _) => Vec::new(),
            (false, Some(_)) => vec![flow("count", String::new(), chips, width - 2 * GAP)],
            (false, None) => {
                vec![flow("package", "Devices that tell no NUMA node".into(), chips, width)]
            }
        }
    }

    fn page(&self, machine: &Object<'_>, page: &Area) -> String {
        let platform = self.inventory.platform.as_ref();
        let told = |text: Option<&String>| text.cloned();
        let host = told(platform.and_then(|it| it.hostname.as_ref())).unwrap_or("machine".into());
        let about = [
            platform.and_then(|it| it.vendor.as_ref()),
            platform.and_then(|it| it.product.as_ref()),
            self.cpu.model.as_ref(),
            platform.and_then(|it| it.kernel.as_ref()),
        ];
        let about: Vec<String> = about.into_iter().flatten().cloned().collect();
        let (width, header, legend) = (page.width.max(720) + 2 * MARGIN, 92, 44);
        let height = page.height + header + legend;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>{}</title>\n<style>\n{STYLE}\
             </style>\n<rect class=\"page\" width=\"{width}\" height=\"{height}\" stroke=\"none\" style=\"stroke:none\"/>\n",
            Escaped(&host)
        );
        text(&mut out, "h", MARGIN, 38, &host);
        text(&mut out, "s", MARGIN, 59, &shortened(&about.join(" · "), 150));
        text(&mut out, "s", MARGIN, 77, &self.totals(machine));
        draw(&mut out, page, MARGIN - GAP, header - GAP);
        self.legend(machine, &mut out, header + page.height + 6);
        out.push_str("</svg>\n");
        out
    }

    fn totals(&self, machine: &Object<'_>) -> String {
        let plural = |count: usize, noun: &str| match count {
            1 => format!("1 {noun}"),
            _ => format!("{count} {noun}s"),
        };
        let mut totals = vec![
            plural(self.cpu.packages(), "package"),
            plural(machine.count(&|kind| *kind == Kind::Core), "core"),
            plural(self.cpu.pus.len(), "PU"),
        ];
        totals.extend(self.inventory.numa.as_ref().map(|nodes| plural(nodes.len(), "NUMA node")));
        let memory = self.inventory.memory.as_ref().and_then(|it| it.total);
        totals.extend(memory.map(|bytes| size(bytes) + " of memory"));
        totals.extend(
            self.each_core.as_ref().map(|caches| format!("each core {}", caches.join(", "))),
        );
        totals.join(" · ")
    }

    /// Only what is in the picture.
    fn legend(&self, machine: &Object<'_>, out: &mut String, y: i32) {
        let has = |class: &str| {
            let of = |pu: &purlin_core::inventory::Pu| {
                self.pu_class(pu.id).split(' ').any(|word| word == class)
            };
            self.cpu.pus.iter().any(of)
        };
        let offline = self.offline().is_some();
        let numa = self.inventory.numa.as_ref().is_some_and(|nodes| !nodes.is_empty());
        let cached =
            machine.holds(&|object| matches!(object.kind, Kind::Cache(_)) && is_box(object));
        let kinds = self.cpu.kinds.iter().enumerate().map(|(place, kind)| {
            let name = kind.name.clone().unwrap_or_else(|| format!("kind {place}"));
            (format!("pu k{}", place.min(2)), format!("{name} core"))
        });
        let mut x = MARGIN;
        let mut mark = |class: &str, name: &str| {
            rectangle(out, class, x, y, 16, 12);
            text(out, "c", x + 21, y + 10, name);
            x += 21 + text_width(name, 9) + 16;
        };
        for (class, name, shown) in [
            ("node", "NUMA node and its memory", numa),
            ("cache", "shared cache", cached),
            ("pu", "PU (kernel's id)", self.cpu.kinds.is_empty()),
            ("pu isolated", "isolated from the scheduler", has("isolated")),
            ("pu disallowed", "not allowed to this process", has("disallowed")),
            ("offline", "offline", offline),
        ] {
            if shown {
                mark(class, name);
            }
        }
        kinds.for_each(|(class, name)| mark(&class, &name));
    }
}

/// The caches that each core has for itself, outermost first, where there are several
/// cores and all have the same.
fn same_in_each_core(machine: &Object<'_>) -> Option<Vec<String>> {
    fn collect(object: &Object<'_>, own: &[String], all: &mut Vec<Vec<String>>) {
        let own = match &object.kind {
            Kind::Cache(cache) if !is_box(object) => [own, &[cache_name(cache)]].concat(),
            Kind::Core => return all.push(own.to_vec()),
            _ => own.to_vec(),
        };
        object.children.iter().for_each(|child| collect(child, &own, all));
    }
    let mut all = Vec::new();
    collect(machine, &[], &mut all);
    let first = all.first()?;
    let same = all.len() > 1 && !first.is_empty() && all.iter().all(|it| it == first);
    same.then(|| first.clone())
}

/// True for what gets a box with a name of its own: not for a cache that one core has
/// for itself.
fn is_box(object: &Object<'_>) -> bool {
    match &object.kind {
        Kind::Pu | Kind::Core => false,
        Kind::Cache(cache) => {
            cache.kind != CacheKind::Instruction && object.count(&|kind| *kind == Kind::Core) > 1
        }
        _ => true,
    }
}

/// The PUs in an object.
fn leaves<'a, 'b>(object: &'b Object<'a>) -> Vec<&'b Object<'a>> {
    match object.kind {
        Kind::Pu => vec![object],
        _ => object.children.iter().flat_map(leaves).collect(),
    }
}

fn count(object: &Object<'_>) -> Area {
    let cores = object.count(&|kind| *kind == Kind::Core);
    let text = shortened(&format!("{cores} cores, PUs {}", object.pus), MAX_DEVICE);
    let width = text_width(&text, 10) + 2 * GAP;
    leaf("count".into(), text, width, PU.1)
}

fn cache_name(cache: &Cache) -> String {
    let kind = match (cache.kind, cache.level) {
        (CacheKind::Instruction, _) => "i",
        (CacheKind::Data, 1) => "d",
        _ => "",
    };
    let bytes = cache.size.map_or_else(|| "size unknown".into(), size);
    format!("L{}{kind} {bytes}", cache.level)
}

fn leaf(class: String, title: String, width: i32, height: i32) -> Area {
    Area { class, title, notes: Vec::new(), width, height, within: Vec::new() }
}

/// Boxes in rows within a width. Where all are alike the rows are even.
fn flow(class: &str, title: String, mut boxes: Vec<Area>, width: i32) -> Area {
    let cores = |area: &&mut Area| area.class == "core";
    let widest = boxes.iter_mut().filter(cores).map(|area| area.width).max();
    boxes.iter_mut().filter(cores).for_each(|area| area.width = widest.unwrap_or_default());
    let top = if title.is_empty() { GAP } else { TITLE };
    let inner = width - GAP;
    let alike = boxes.windows(2).all(|it| it[0].width == it[1].width);
    let columns = match boxes.first() {
        Some(first) if alike => {
            let fit = (inner / (first.width + GAP)).max(1) as usize;
            boxes.len().div_ceil(boxes.len().div_ceil(fit))
        }
        _ => usize::MAX,
    };
    let (mut x, mut y, mut row, mut widest, mut in_row) = (GAP, top, 0, 0, 0);
    let mut within: Vec<(i32, i32, Area)> = Vec::new();
    for area in boxes {
        if in_row > 0 && (x + area.width > inner || in_row >= columns) {
            (x, y, row, in_row) = (GAP, y + row + GAP, 0, 0);
        }
        row = row.max(area.height);
        widest = widest.max(x + area.width);
        let next = x + area.width + GAP;
        within.push((x, y, area));
        (x, in_row) = (next, in_row + 1);
    }
    let letters = if class == "core" { 9 } else { 12 };
    let heading = text_width(&title, letters) + 2 * GAP;
    let (width, height) = ((widest + GAP).max(heading), y + row + GAP);
    Area { class: class.into(), title, notes: Vec::new(), width, height, within }
}

fn draw(out: &mut String, area: &Area, x: i32, y: i32) {
    if area.class != "page" {
        rectangle(out, &area.class, x, y, area.width, area.height);
    }
    if area.within.is_empty() && area.height <= PU.1 {
        text(out, "p m", x + area.width / 2, y + 14, &area.title);
    } else if !area.title.is_empty() {
        let class = if area.class == "core" { "c" } else { "b" };
        text(out, class, x + GAP, y + 15, &area.title);
    }
    for (dx, dy, inner) in &area.within {
        draw(out, inner, x + dx, y + dy);
    }
    let first = y + area.height - 11 * area.notes.len() as i32;
    for (line, note) in area.notes.iter().enumerate() {
        text(out, "c", x + GAP, first + 11 * line as i32 + 4, note);
    }
}

fn rectangle(out: &mut String, class: &str, x: i32, y: i32, width: i32, height: i32) {
    _ = writeln!(
        out,
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"4\"/>"
    );
}

fn text(out: &mut String, class: &str, x: i32, y: i32, content: &str) {
    _ = writeln!(out, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>", Escaped(content));
}

/// What a text takes at most in common fonts, as nothing here can measure it.
fn text_width(text: &str, size: i32) -> i32 {
    text.chars().count() as i32 * size * 62 / 100 + 2
}

fn shortened(text: &str, most: usize) -> String {
    match text.chars().count() {
        length if length <= most => text.into(),
        _ => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}
