//! Reads the dumps of real machines in the corpus and compares what the kernel
//! says there (`expected.tsv`, see the corpus's README) with what we read.
//!
//! The corpus is not part of this repository: it is looked for beside it, at
//! `../shared/corpus`, or where `PURLIN_CORPUS` says, and without it the test
//! prints "skipped".

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use purlin_core::{
    inventory::{CacheKind, Cpu, Inventory},
    metric::Sampler,
};
use purlin_drivers::Root;

/// Columns compared, and on how many of the 47 machines we agree today. A
/// number here only goes up; what is short of all 47 has its reason beside it.
const AGREED: [(&str, usize); 10] = [
    // The three dumps that a cgroup restricts name it without saying what it
    // allows (`/proc/self/cpuset`), and hwloc counts what is allowed; s390
    // counts packages within books and drawers, ppc and old ia64 give all
    // packages or cores the same ids and tell them apart by sibling masks alone.
    ("packages", 41),
    ("cores", 41),
    ("pus", 44),
    ("L1d", 45),
    ("L2", 45),
    // One of the three, and hwloc's own guess for 8ia64.
    ("L3", 45),
    ("kernel_present_cpus", 47),
    ("sysfs_nodes", 47),
    ("sysfs_pci", 47),
    ("sysfs_net", 47),
];

type Row = BTreeMap<String, String>;

#[test]
fn dumps_of_real_machines_read_as_their_kernels_say() {
    let Some(corpus) = corpus() else {
        println!("skipped: no corpus of dumps (set PURLIN_CORPUS)");
        return;
    };
    let expected = expected(&corpus);
    let mut agreed: BTreeMap<&str, usize> = AGREED.map(|(column, _)| (column, 0)).into();
    for (id, row) in &expected {
        let inventory = read_dump(&corpus, id);
        for (column, ours) in counts(&inventory) {
            match row.get(column).map(String::as_str) {
                Some(theirs) if theirs == ours => *agreed.entry(column).or_default() += 1,
                theirs => println!("{id}: {column} is {ours}, expected {theirs:?}"),
            }
        }
    }
    for (column, at_least) in AGREED {
        println!("{column}: {} of {} agree", agreed[column], expected.len());
        assert!(agreed[column] >= at_least, "{column}: only {} agree", agreed[column]);
    }
}

fn corpus() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let corpus = std::env::var_os("PURLIN_CORPUS").map_or_else(beside, PathBuf::from);
    corpus.join("expected.tsv").is_file().then_some(corpus)
}

fn expected(corpus: &Path) -> BTreeMap<String, Row> {
    let table = fs::read_to_string(corpus.join("expected.tsv")).expect("a readable table");
    let mut lines = table.lines().map(|line| line.split('\t').map(str::to_owned));
    let header: Vec<String> = lines.next().expect("a header").collect();
    let row = |line| header.iter().cloned().zip(line).collect::<Row>();
    lines.map(row).map(|row: Row| (row["id"].clone(), row)).collect()
}

/// Unpacks one dump, reads all of it, and throws it away again.
fn read_dump(corpus: &Path, id: &str) -> Inventory {
    let archive = corpus.join("dumps").join(format!("{}.tar.xz", id.replacen('/', "_", 1)));
    let dir = scratch();
    let unpacked = Command::new("tar").arg("xJf").arg(&archive).arg("-C").arg(dir.path()).status();
    assert!(unpacked.expect("tar runs").success(), "{} unpacks", archive.display());
    let root = Root::dump(dir.path()).expect("a dump's root");
    for sampler in Sampler::ALL {
        purlin_drivers::sample(sampler, &root);
    }
    purlin_drivers::inventory(&root)
}

/// In memory where there is such a place: the dumps are 150,000 tiny files.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a temporary directory")
}

/// What we read, in the table's terms. A `*_cpus` column is left empty there by
/// kernels too old to tell, and so it is here.
fn counts(inventory: &Inventory) -> Vec<(&'static str, String)> {
    let cpu = inventory.cpu.clone().unwrap_or_default();
    let set = |set: &Option<purlin_core::idset::IdSet>| {
        set.as_ref().map(|set| set.len().to_string()).unwrap_or_default()
    };
    let len = |len: Option<usize>| len.unwrap_or_default().to_string();
    vec![
        ("packages", cpu.packages().to_string()),
        ("cores", cpu.cores().to_string()),
        ("pus", cpu.pus.len().to_string()),
        ("L1d", caches(&cpu, 1)),
        ("L2", caches(&cpu, 2)),
        ("L3", caches(&cpu, 3)),
        ("kernel_present_cpus", set(&cpu.present)),
        ("sysfs_nodes", len(inventory.numa.as_ref().map(Vec::len))),
        ("sysfs_pci", len(inventory.pci.as_ref().map(Vec::len))),
        ("sysfs_net", len(inventory.nics.as_ref().map(Vec::len))),
    ]
}

fn caches(cpu: &Cpu, level: u32) -> String {
    let fits = |cache: &&purlin_core::inventory::Cache| {
        cache.level == level && cache.kind != CacheKind::Instruction
    };
    cpu.caches.iter().filter(fits).count().to_string()
}
