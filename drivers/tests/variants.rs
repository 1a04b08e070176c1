//! Machines that never were: each dump, changed at random, in memory.
//!
//! A change that a kernel could make (a CPU goes offline, nodes have other
//! numbers) has a model that says what must be read. Damage (a file gone, empty,
//! flipped, or a number out of all bounds) must cost no panic and no time, and
//! the counts are those of the whole dump unless a problem is told. A damaged file
//! may still say something that a machine could say, and contradict nothing that is
//! read beside it (each mask is read once, of one of those who share it): that can't
//! be known for damage. Then only what this file tells may differ: a cache's file
//! costs no core, and a node's no CPU.
//!
//! A failure prints its seed; `PURLIN_SEED` takes it back, and `PURLIN_ROUNDS`
//! says how many variants of each dump there are.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::LazyLock,
    time::{Duration, Instant},
};

use purlin_core::{
    idset::IdSet,
    inventory::{GroupKind, Inventory, Part},
};
use purlin_drivers::{Archive, Node, Root};

mod dumps;

const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";

/// Variants of each dump, so that all take well under a minute on two cores.
const ROUNDS: u64 = 3;

/// The longest that one variant may take to read: a thousand times what a whole
/// dump takes, in an unoptimised build.
const MAX_TIME: Duration = Duration::from_secs(20);

/// Files that hold a set of CPUs as a mask; each has a `…list` beside it.
const MASKS: [&str; 9] = [
    "shared_cpu_map",
    "thread_siblings",
    "core_siblings",
    "core_cpus",
    "die_cpus",
    "package_cpus",
    "cluster_cpus",
    "cpumap",
    "local_cpus",
];

/// SplitMix64: small, seeded, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Every dump, unpacked and read once for all tests.
static DUMPS: LazyLock<Vec<(String, Archive, Inventory)>> = LazyLock::new(|| {
    let packed = dumps::dumps();
    let unpack = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = File::open(path).expect("a dump");
        (name, Archive::unpack(file).expect("a whole dump"))
    };
    let all = [("synthetic".to_owned(), synthetic())].into_iter().chain(packed.iter().map(unpack));
    all.map(|(name, dump)| {
        let whole = purlin_drivers::inventory(&dump.clone().into());
        (name, dump, whole)
    })
    .collect()
});

/// Runs `check` on each dump with seeds of its own, and says how to run a
/// failed one again.
fn each_variant(check: impl Fn(&Archive, &Inventory, &mut Random)) {
    let one = number("PURLIN_SEED");
    let rounds = one.map_or(number("PURLIN_ROUNDS").unwrap_or(ROUNDS), |_| 1);
    for (name, dump, whole) in &*DUMPS {
        for round in 0..rounds {
            let seed = one.unwrap_or(round);
            let mut random = Random(seed ^ name.len() as u64);
            let checked = catch_unwind(AssertUnwindSafe(|| check(dump, whole, &mut random)));
            assert!(checked.is_ok(), "{name} failed; run it again with PURLIN_SEED={seed}");
        }
    }
}

fn read(archive: Archive) -> Inventory {
    let began = Instant::now();
    let inventory = purlin_drivers::inventory(&Root::from(archive));
    assert!(began.elapsed() < MAX_TIME, "took {:?}", began.elapsed());
    inventory
}

/// Two packages, two nodes, four cores, eight PUs.
fn synthetic() -> Archive {
    let mut archive = Archive::default();
    let mut put = |path: String, content: &str| {
        archive.put_file(&path, format!("{content}\n").into_bytes()).expect("a file");
    };
    for (file, list) in [("online", "0-7"), ("present", "0-7"), ("possible", "0-7")] {
        put(format!("{CPUS}/{file}"), list);
    }
    for id in 0..8_u32 {
        let (package, core) = (id / 4, id / 2 % 2);
        let (core_mask, package_mask) = (3 << (id / 2 * 2), 0xf << (package * 4));
        let topology = format!("{CPUS}/cpu{id}/topology");
        put(format!("{topology}/physical_package_id"), &package.to_string());
        put(format!("{topology}/core_id"), &core.to_string());
        put(format!("{topology}/thread_siblings"), &format!("{core_mask:08x}"));
        put(format!("{topology}/core_siblings"), &format!("{package_mask:08x}"));
        for (index, level, kind, mask) in [
            (0, 1, "Data", core_mask),
            (1, 2, "Unified", core_mask),
            (2, 3, "Unified", package_mask),
        ] {
            let cache = format!("{CPUS}/cpu{id}/cache/index{index}");
            put(format!("{cache}/level"), &level.to_string());
            put(format!("{cache}/type"), kind);
            put(format!("{cache}/size"), "64K");
            put(format!("{cache}/shared_cpu_map"), &format!("{mask:08x}"));
        }
    }
    for node in 0..2 {
        let dir = format!("{NODES}/node{node}");
        put(format!("{dir}/cpumap"), &format!("{:08x}", 0xf << (node * 4)));
        put(format!("{dir}/cpulist"), ["0-3", "4-7"][node]);
        put(format!("{dir}/distance"), ["10 20", "20 10"][node]);
        let meminfo = format!("Node {node} MemTotal: 1024 kB\nNode {node} MemFree: 512 kB");
        put(format!("{dir}/meminfo"), &meminfo);
    }
    put("/proc/meminfo".into(), "MemTotal: 2048 kB");
    archive
}

/// What is counted of a machine.
fn counts(inventory: &Inventory) -> BTreeMap<String, usize> {
    let cpu = inventory.cpu.clone().unwrap_or_default();
    let mut counts = BTreeMap::from([
        ("PUs".to_owned(), cpu.pus.len()),
        ("cores".to_owned(), cpu.cores()),
        ("packages".to_owned(), cpu.packages()),
        ("online".to_owned(), cpu.online.as_ref().map_or(0, IdSet::len)),
        ("present".to_owned(), cpu.present.as_ref().map_or(0, IdSet::len)),
        ("nodes".to_owned(), inventory.numa.as_ref().map_or(0, Vec::len)),
    ]);
    for cache in &cpu.caches {
        *counts.entry(format!("L{} {:?}", cache.level, cache.kind)).or_default() += 1;
    }
    counts
}

fn files(archive: &Archive, under: &[&str]) -> Vec<String> {
    let plain = |(path, node): (String, &Node)| matches!(node, Node::File(_)).then_some(path);
    let wanted = |path: &String| under.iter().any(|under| path.starts_with(under));
    archive.walk().into_iter().filter_map(plain).filter(wanted).collect()
}

fn content(archive: &Archive, path: &str) -> Vec<u8> {
    match archive.get(path) {
        Ok(Node::File(content)) => content.clone(),
        _ => Vec::new(),
    }
}

fn text(archive: &Archive, path: &str) -> String {
    String::from_utf8_lossy(&content(archive, path)).trim_matches(['\0', '\n', ' ']).to_owned()
}

fn from_mask(mask: &str) -> Option<IdSet> {
    let words: Option<Vec<u32>> =
        mask.split(',').rev().map(|word| u32::from_str_radix(word.trim(), 16).ok()).collect();
    let bits = |(place, word): (usize, u32)| {
        (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| place as u32 * 32 + bit)
    };
    Some(words?.into_iter().enumerate().flat_map(bits).collect())
}

fn to_mask(ids: &IdSet) -> String {
    let mut words = vec![0_u32; ids.iter().last().unwrap_or(0) as usize / 32 + 1];
    ids.iter().for_each(|id| words[id as usize / 32] |= 1 << (id % 32));
    words.iter().rev().map(|word| format!("{word:08x}")).collect::<Vec<_>>().join(",")
}

/// Takes a CPU away as the kernel does that switches it off.
fn switch_off(archive: &mut Archive, cpu: u32, online: &IdSet) {
    let gone: IdSet = [cpu].into_iter().collect();
    for path in files(archive, &["/sys/"]) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let is_list = name.strip_suffix("_list").or(name.strip_suffix("list"));
        let is_set = |name: &str| {
            MASKS.contains(&name)
                || MASKS.contains(&format!("{name}map").as_str())
                || MASKS.contains(&format!("{name}_map").as_str())
                || MASKS.contains(&format!("{name}s").as_str())
        };
        let old = text(archive, &path);
        let new = match is_list {
            _ if MASKS.contains(&name) => {
                from_mask(&old).map(|set| to_mask(&set.difference(&gone)))
            }
            Some(name) if is_set(name) => {
                IdSet::parse(&old).ok().map(|set| set.difference(&gone).to_string())
            }
            _ => None,
        };
        if let Some(new) = new {
            archive.put_file(&path, format!("{new}\n").into_bytes()).expect("a file");
        }
    }
    for inner in ["topology", "cache"] {
        _ = archive.remove(&format!("{CPUS}/cpu{cpu}/{inner}"));
    }
    let mut put = |path: &str, content: String| {
        archive.put_file(path, content.into_bytes()).expect("a file");
    };
    put(&format!("{CPUS}/cpu{cpu}/online"), "0\n".into());
    put(&format!("{CPUS}/online"), format!("{}\n", online.difference(&gone)));
}

#[test]
fn a_cpu_that_goes_offline_is_one_pu_less_and_nothing_else() {
    each_variant(|dump, whole, random| {
        let Some(cpu) = &whole.cpu else { return };
        let ids: Vec<u32> = cpu.pus.iter().map(|pu| pu.id).collect();
        let (Some(off), Some(online)) = (random.pick(&ids), &cpu.online) else { return };
        // A kernel that doesn't tell what is online, or a machine of one CPU.
        if ids.len() < 2 || dump.get(&format!("{CPUS}/online")).is_err() {
            return;
        }
        let mut archive = dump.clone();
        switch_off(&mut archive, *off, online);
        let read = read(archive);
        let left: IdSet = ids.iter().copied().filter(|id| id != off).collect();
        let cpu_read = read.cpu.as_ref().expect("the CPUs");
        assert_eq!(cpu_read.pus.iter().map(|pu| pu.id).collect::<IdSet>(), left, "CPU {off}");
        let mut expected = counts(whole);
        expected.insert("PUs".into(), left.len());
        expected.insert("online".into(), online.len() - 1);
        // What no PU is left in is gone with the last one.
        expected.insert("cores".into(), remaining(whole, &left, GroupKind::Core));
        expected.insert("packages".into(), remaining(whole, &left, GroupKind::Package));
        for cache in &cpu.caches {
            if cache.shared_by.intersection(&left).is_empty() {
                let key = format!("L{} {:?}", cache.level, cache.kind);
                *expected.get_mut(&key).expect("counted") -= 1;
            }
        }
        expected.retain(|_, count| *count > 0);
        let mut got = counts(&read);
        got.retain(|_, count| *count > 0);
        assert_eq!(got, expected, "CPU {off}");
    });
}

/// How many groups of a kind have one of these PUs.
fn remaining(whole: &Inventory, left: &IdSet, kind: GroupKind) -> usize {
    let groups = whole.cpu.iter().flat_map(|cpu| cpu.groups(kind));
    groups.filter(|group| !group.pus.intersection(left).is_empty()).count()
}

/// Every node gets a number so much higher.
fn renumber(archive: &mut Archive, by: u32) {
    let ids: Vec<u32> = archive
        .walk()
        .into_iter()
        .filter_map(|(path, _)| path.strip_prefix(&format!("{NODES}/node"))?.parse().ok())
        .collect();
    for id in ids.into_iter().rev() {
        let (old, new) = (format!("{NODES}/node{id}"), format!("{NODES}/node{}", id + by));
        for (path, node) in archive.clone().walk() {
            let Some(rest) = path.strip_prefix(&format!("{old}/")) else { continue };
            let path = format!("{new}/{rest}");
            match node {
                Node::File(content) if rest == "meminfo" => {
                    let text = String::from_utf8_lossy(content);
                    let text = text.replace(&format!("Node {id} "), &format!("Node {} ", id + by));
                    archive.put_file(&path, text.into_bytes()).expect("a file");
                }
                Node::File(content) => archive.put_file(&path, content.clone()).expect("a file"),
                Node::Link(target) => archive.put_link(&path, target).expect("a link"),
                _ => archive.put_dir(&path).expect("a directory"),
            }
        }
        archive.remove(&old).expect("the old one");
    }
    for list in ["online", "possible", "has_cpu", "has_memory", "has_normal_memory"] {
        let path = format!("{NODES}/{list}");
        if let Ok(set) = IdSet::parse(&text(archive, &path))
            && !set.is_empty()
        {
            let set: IdSet = set.iter().map(|id| id + by).collect();
            archive.put_file(&path, set.to_string().into_bytes()).expect("a file");
        }
    }
}

/// What must not change but its number: id, CPUs, memory, distances.
type Known = (u32, Option<IdSet>, Option<u64>, Vec<u32>);

#[test]
fn nodes_with_other_numbers_are_the_same_nodes() {
    each_variant(|dump, whole, random| {
        let Some(nodes) = &whole.numa else { return };
        let by = 1 + random.below(900) as u32;
        let mut archive = dump.clone();
        renumber(&mut archive, by);
        let read = read(archive);
        assert_eq!(counts(&read), counts(whole));
        let known = |inventory: &Inventory, by: u32| -> Vec<Known> {
            let nodes = inventory.numa.iter().flatten();
            nodes
                .map(|node| {
                    let distances = node.distances.values().copied().collect();
                    (node.id + by, node.cpus.clone(), node.memory, distances)
                })
                .collect()
        };
        assert_eq!(known(&read, 0), known(whole, by), "of {} nodes by {by}", nodes.len());
    });
}

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Remove,
    Empty,
    Flip,
    Extreme,
}

fn damage(archive: &mut Archive, path: &str, how: Damage, random: &mut Random) -> io::Result<()> {
    const EXTREME: [&str; 8] = [
        "-1",
        "4294967296",
        "18446744073709551615",
        "-9223372036854775808",
        "0-4294967295",
        "ffffffff,ffffffff,ffffffff,ffffffff",
        "99999999999999999999999999",
        "0",
    ];
    let mut bytes = content(archive, path);
    match how {
        Damage::Remove => return archive.remove(path),
        Damage::Empty => bytes.clear(),
        Damage::Flip if !bytes.is_empty() => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        Damage::Flip => {}
        Damage::Extreme => {
            bytes = random.pick(&EXTREME).map(|text| text.as_bytes().to_vec()).unwrap_or_default();
        }
    }
    archive.put_file(path, bytes)
}

/// True if a damaged file says something that a machine could say.
fn is_valid(path: &str, content: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let set = || IdSet::parse(content).is_ok_and(|set| !set.is_empty());
    match name {
        _ if MASKS.contains(&name) => from_mask(content).is_some(),
        _ if name.ends_with("list") => set(),
        "online" | "present" | "possible" | "offline" => set(),
        "type" => ["Data", "Instruction", "Unified"].contains(&content),
        // Many facts in one file, each with its own rules.
        "cpuinfo" | "status" | "meminfo" => true,
        _ => content.parse::<i64>().is_ok(),
    }
}

/// The counts that a file can have a say in, by the start of their names.
fn tells(path: &str) -> &'static [&'static str] {
    let name = path.rsplit('/').next().unwrap_or_default();
    match name {
        _ if path.contains("/cache/") => &["L"],
        _ if path.contains("/node/") => &[],
        "core_id" | "core_cpus" | "core_cpus_list" => &["cores"],
        "thread_siblings" | "thread_siblings_list" => &["cores", "L"],
        "online" => &["PUs", "online", "cores", "packages", "L"],
        "present" => &["present"],
        // Which die or module a core is in decides which of them are the same.
        _ if path.contains("/topology/") => &["packages", "cores", "L"],
        // Ids where sysfs has no topology, and what the halves of modules are.
        "cpuinfo" => &["packages", "cores", "L"],
        _ => &[],
    }
}

#[test]
fn damage_never_gives_a_wrong_count_without_a_problem() {
    const UNDER: [&str; 3] = ["/sys/devices/system/cpu/", "/sys/devices/system/node/", "/proc/"];
    each_variant(|dump, whole, random| {
        let files = files(dump, &UNDER);
        let Some(path) = random.pick(&files) else { return };
        let all = [Damage::Remove, Damage::Empty, Damage::Flip, Damage::Extreme];
        let how = *random.pick(&all).expect("four of them");
        let mut archive = dump.clone();
        damage(&mut archive, path, how, random).expect("a file");
        let said = text(&archive, path);
        let there = archive.get(path).is_ok();
        let read = read(archive);
        let (mut before, after) = (counts(whole), counts(&read));
        // A list that isn't there reads as unknown, which is not wrong.
        let known = read.cpu.as_ref().is_some_and(|cpu| cpu.present.is_some());
        before.retain(|what, _| what != "present" || known || there);
        let after: BTreeMap<_, _> =
            after.into_iter().filter(|(what, _)| before.contains_key(what)).collect();
        let told = read.problems.iter().any(|it| !whole.problems.contains(it));
        let may = |what: &str| tells(path).iter().any(|it| what.starts_with(it));
        let meant = there && is_valid(path, &said);
        let differ = before.iter().filter(|(what, count)| after.get(*what) != Some(count));
        let wrong: Vec<_> = differ.filter(|(what, _)| !(meant && may(what))).collect();
        assert!(
            wrong.is_empty() || told,
            "{how:?} {path}: {said:?}\n{wrong:?}\n{before:?}\n{after:?}"
        );
    });
}

/// Many at once, everywhere, links too: no count is right any more, but
/// nothing may panic, and it must end.
#[test]
fn ruins_are_read_without_a_panic() {
    each_variant(|dump, _, random| {
        let mut archive = dump.clone();
        let paths: Vec<(String, bool)> = archive
            .walk()
            .into_iter()
            .map(|(path, node)| (path, matches!(node, Node::File(_))))
            .collect();
        for _ in 0..1 + random.below(paths.len() / 2) {
            let Some((path, is_file)) = random.pick(&paths) else { return };
            if archive.get(path).is_err() {
                continue;
            }
            let all = [Damage::Remove, Damage::Empty, Damage::Flip, Damage::Extreme];
            // What lies under something that is no directory any more stays away.
            _ = match (is_file, random.below(8)) {
                (true, _) => {
                    let how = *random.pick(&all).expect("four of them");
                    damage(&mut archive, path, how, random)
                }
                (false, 0) => archive.remove(path),
                (false, 1) => archive.put_file(path, vec![0xff; 100]),
                (false, _) => {
                    let target = random.pick(&paths).map_or("/", |(path, _)| path.as_str());
                    let dots = "../".repeat(random.below(12));
                    archive.put_link(path, &format!("{dots}{target}"))
                }
            };
        }
        let read = read(archive);
        for part in Part::ALL {
            assert!(read.problems.iter().filter(|it| it.part == part).count() <= 65, "{part:?}");
        }
    });
}
