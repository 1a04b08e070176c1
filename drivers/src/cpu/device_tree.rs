//! Caches as a device tree tells them, of the PUs whose kernel has none in sysfs:
//! 32-bit Arm, and POWER and RISC-V before their kernels had them there.
//!
//! Source: the Devicetree Specification, 3.8 (`/cpus/cpu*`, multi-level and shared
//! cache nodes); `ibm,ppc-interrupt-server#s` and `l2-cache` are POWER's (PAPR). Numbers
//! are big-endian words of 32 bits.

use std::collections::BTreeMap;

use purlin_core::{
    idset::IdSet,
    inventory::{Cache, CacheKind},
};

use crate::{Dir, probe::Probe};

/// Where the tree is, the newer place first.
const PLACES: [&str; 2] = ["/sys/firmware/devicetree/base/cpus", "/proc/device-tree/cpus"];

/// Levels followed at most.
const MAX_LEVEL: u32 = 4;

/// Nodes looked at in a tree at most: four for each of the kernel's 8192 CPUs.
const MAX_NODES: usize = 32_768;

pub(super) fn read(probe: &mut Probe<'_>, cpus: &Dir<'_>, pus: &IdSet) -> Vec<Cache> {
    let Some(tree) = (!pus.is_empty()).then(|| Tree::read(probe)).flatten() else {
        return Vec::new();
    };
    let mut caches: BTreeMap<(String, CacheKind), Cache> = BTreeMap::new();
    for pu in pus.iter() {
        let Some(mut node) = tree.of_pu(probe, cpus, pu) else { continue };
        for depth in 1..=MAX_LEVEL {
            for cache in of_node(probe, &node, depth) {
                let known = caches.entry((node.clone(), cache.kind)).or_insert(cache);
                known.shared_by.insert(pu);
            }
            let next = ["next-level-cache", "l2-cache"].into_iter();
            let next = next.filter_map(|name| word(probe, &node, name)).next();
            match next.and_then(|handle| tree.handles.get(&handle)) {
                Some(next) => node.clone_from(next),
                None => break,
            }
        }
    }
    caches.into_values().collect()
}

struct Tree {
    base: &'static str,
    /// Nodes by what others call them.
    handles: BTreeMap<u32, String>,
    /// Nodes of processors by the hardware's numbers of their threads.
    threads: BTreeMap<u32, String>,
}

impl Tree {
    /// Cache nodes lie beside those of the processors, or in them.
    fn read(probe: &mut Probe<'_>) -> Option<Self> {
        let base = PLACES.into_iter().find(|place| probe.root.is_dir(place))?;
        let mut tree = Self { base, handles: BTreeMap::new(), threads: BTreeMap::new() };
        let mut paths = vec![(base.to_owned(), 0)];
        let mut seen = 0;
        while let Some((path, depth)) = paths.pop() {
            seen += 1;
            let Some(dir) = probe.dir(&path).filter(|_| seen <= MAX_NODES) else { break };
            for name in ["phandle", "linux,phandle", "ibm,phandle"] {
                if let Some(handle) = words(probe, &dir, name).first() {
                    tree.handles.insert(*handle, path.clone());
                }
            }
            for thread in words(probe, &dir, "ibm,ppc-interrupt-server#s") {
                tree.threads.insert(thread, path.clone());
            }
            // A node has a unit address, or is a cache; properties are files.
            let is_node = |name: &&str| name.contains('@') || name.contains("cache");
            let inner = dir.names().filter(is_node).map(|name| dir.path_of(name));
            let inner: Vec<String> = inner.filter(|path| probe.root.is_dir(path)).collect();
            paths.extend(inner.into_iter().filter(|_| depth < 2).map(|path| (path, depth + 1)));
        }
        Some(tree)
    }

    /// By the kernel's own link, else by the thread's number in hardware, which is
    /// the kernel's own where it tells no other.
    fn of_pu(&self, probe: &mut Probe<'_>, cpus: &Dir<'_>, pu: u32) -> Option<String> {
        let link = probe.link(&cpus.path_of(&format!("cpu{pu}/of_node")));
        if let Some((_, own)) = link.as_deref().and_then(|link| link.split_once("/cpus/")) {
            return Some(format!("{}/{own}", self.base));
        }
        let thread = probe.number((cpus, &*format!("cpu{pu}/physical_id"))).unwrap_or(pu);
        self.threads.get(&thread).cloned()
    }
}

/// The caches of one node: of a processor its nearest ones, else the node is one.
fn of_node(probe: &mut Probe<'_>, node: &str, depth: u32) -> Vec<Cache> {
    let Some(dir) = probe.dir(node) else { return Vec::new() };
    // What holds both may be told as what holds data.
    let mut of = |kind, prefixes: &[&str]| {
        let mut fact = |what: &str| {
            let names = prefixes.iter().map(|prefix| format!("{prefix}{what}"));
            names.filter_map(|name| words(probe, &dir, &name).first().copied()).next()
        };
        let (size, sets) = (fact("cache-size"), fact("cache-sets"));
        let line = fact("cache-line-size").or_else(|| fact("cache-block-size"));
        let ways = match (size, sets, line) {
            (Some(size), Some(sets @ 2..), Some(line @ 1..)) => {
                sets.checked_mul(line).map(|one| size / one)
            }
            _ => None,
        };
        let level = fact("cache-level").unwrap_or(depth);
        let size = size.map(u64::from).filter(|size| *size > 0);
        let shared_by = IdSet::default();
        let cache = Cache { level, kind, size, ways, sets, line, id: None, shared_by };
        // A processor of which no size is told may have none.
        (size.is_some() || depth > 1).then_some(cache)
    };
    match dir.has("cache-unified") || (depth > 1 && !dir.has("i-cache-size")) {
        true => of(CacheKind::Unified, &["", "d-"]).into_iter().collect(),
        false => {
            let both = [of(CacheKind::Data, &["d-"]), of(CacheKind::Instruction, &["i-"])];
            both.into_iter().flatten().collect()
        }
    }
}

fn word(probe: &mut Probe<'_>, node: &str, name: &str) -> Option<u32> {
    let dir = probe.dir(node)?;
    words(probe, &dir, name).first().copied()
}

fn words(probe: &mut Probe<'_>, dir: &Dir<'_>, name: &str) -> Vec<u32> {
    let bytes = if dir.has(name) { probe.bytes(&dir.path_of(name)) } else { None };
    let words = bytes.iter().flat_map(|bytes| bytes.as_chunks::<4>().0);
    words.map(|word| u32::from_be_bytes(*word)).collect()
}
