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
    idset::IdSet,
    inventory::{Inventory, Part, Problem},
    metric::Sampler,
};
use purlin_drivers::Root;

/// Columns compared.
const COLUMNS: [&str; 25] = [
    "packages",
    "dies",
    "numa_nodes",
    "L3",
    "L2",
    "L1d",
    "cores",
    "pus",
    "pus_complete",
    "pus_allowed",
    "memsidecache",
    "pci_dev",
    "pci_bridge",
    "os_net",
    "mem_kB",
    "kernel_present_cpus",
    "kernel_online_cpus",
    "sysfs_cpudirs",
    "sysfs_nodes",
    "sysfs_cpuless_nodes",
    "sysfs_memless_nodes",
    "hmat_nodes",
    "node0_distance",
    "sysfs_pci",
    "sysfs_net",
];

/// Where we disagree and why: hwloc's own heuristics, which we don't imitate.
/// Each is checked to be still a disagreement.
const EXCEPTIONS: [(&str, &str, &str); 10] = [
    ("ghw/linux-amd64-415ee03b8c4d1c4f07ae2e9d8b3d3d6d", "pci_dev", NO_CONFIG),
    ("ghw/linux-amd64-415ee03b8c4d1c4f07ae2e9d8b3d3d6d", "pci_bridge", NO_CONFIG),
    ("ghw/linux-amd64-61797caf7c0b6bca1725ad7975ed4773", "pci_dev", NO_CONFIG),
    ("ghw/linux-amd64-61797caf7c0b6bca1725ad7975ed4773", "pci_bridge", NO_CONFIG),
    ("ghw/linux-amd64-8581cf3a529e5d8b97ea876eade2f60d", "pci_dev", NO_CONFIG),
    ("ghw/linux-amd64-8581cf3a529e5d8b97ea876eade2f60d", "pci_bridge", NO_CONFIG),
    ("ghw/linux-amd64-accel", "pci_dev", NO_CONFIG),
    ("ghw/linux-amd64-accel", "pci_bridge", NO_CONFIG),
    ("hwloc/8em64t-2s2ca2c-buggynuma", "numa_nodes", MERGED),
    ("hwloc/8em64t-2s2ca2c-buggynuma", "mem_kB", MERGED),
];

/// A bridge is a bridge by its class, which sysfs tells.
const NO_CONFIG: &str = "hwloc takes a bridge whose config file is not in the dump for a device";
const MERGED: &str = "hwloc gives up all nodes but the first where their CPUs overlap";

/// Where other readers than hwloc 2 count otherwise, and why they are not followed.
const OTHERS: [(&str, &str, &str); 5] = [
    ("hwloc/nvidia-dgx-gb10", "lscpu_cores", BY_CLUSTER),
    ("lscpu/arm-A510-A710-A715-X3", "lscpu_cores", BY_CLUSTER),
    ("lscpu/arm-A510-A710-A715-X3", "lscpu_sockets", "its packages have different ids and masks"),
    ("lscpu/arm-A510-A710-A715-X3", "hwloc3_cpukinds", "it has four designs, by MIDR"),
    ("nri/2-socket-4-node-40-core", "hwloc3_cpukinds", "it has cpu_core and cpu_atom"),
];

/// lscpu counts the cores of one cluster.
const BY_CLUSTER: &str = "core ids are its clusters' own";

type Row = BTreeMap<String, String>;

#[test]
fn dumps_of_real_machines_count_as_their_kernels_say() {
    let Some(corpus) = corpus() else {
        println!("skipped: no corpus of dumps (set PURLIN_CORPUS)");
        return;
    };
    let mut wrong = Vec::new();
    let expected = expected(&corpus);
    for (id, row) in &expected {
        let (dump, inventory) = read_dump(&corpus, id);
        let strange = inventory.problems.iter().filter(|it| !is_in_the_dump(it, dump.path()));
        wrong.extend(strange.map(|it| format!("{id}: {} {}", it.at, it.what)));
        wrong.extend(others_differ(id, row, &inventory));
        let ours = counts(&inventory);
        for column in COLUMNS {
            let (ours, theirs) = (ours[column].as_str(), row[column].as_str());
            let excepted = EXCEPTIONS.iter().any(|(it, of, _)| (*it, *of) == (id, column));
            if (ours == theirs) == excepted {
                wrong.push(format!("{id}: {column} is {ours}, expected {theirs}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), expected.len(), wrong.join("\n"));
}

/// What other readers count, as far as they found anything (0 or empty: they did not).
fn others_differ(id: &str, row: &Row, inventory: &Inventory) -> Vec<String> {
    let cpu = inventory.cpu.clone().unwrap_or_default();
    let ours = [
        ("hwloc3_cpukinds", cpu.kinds.len().max(1)),
        ("lscpu_online", cpu.online.as_ref().map_or(0, IdSet::len)),
        ("lscpu_sockets", cpu.packages()),
        ("lscpu_cores", cpu.cores()),
        ("lscpu_nodes", inventory.numa.as_ref().map_or(0, Vec::len)),
    ];
    let told = |column: &str| row[column].parse::<usize>().ok().filter(|count| *count > 0);
    let differs = |(column, ours): (&str, usize)| {
        let theirs = told(column)?;
        let excepted = OTHERS.iter().any(|(it, of, _)| (*it, *of) == (id, column));
        let what = format!("{id}: {column} is {ours}, expected {theirs}");
        ((ours == theirs) == excepted).then_some(what)
    };
    ours.into_iter().filter_map(differs).collect()
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

/// The only problems that these dumps have: a file that the machine had and the
/// dump has not, firmware that tells no NUMA node or a wrong one, and a platform
/// that nothing tells.
fn is_in_the_dump(problem: &Problem, dump: &Path) -> bool {
    let missing = || !dump.join(problem.at.trim_start_matches('/')).exists();
    match problem.what.as_str() {
        what if what.starts_with("is not there") => missing(),
        what if what.ends_with("a firmware update may repair it") => problem.part == Part::Pci,
        what => problem.part == Part::Platform && what == "nothing tells what machine this is",
    }
}

/// Unpacks one dump and reads all of it.
fn read_dump(corpus: &Path, id: &str) -> (tempfile::TempDir, Inventory) {
    let archive = corpus.join("dumps").join(format!("{}.tar.xz", id.replacen('/', "_", 1)));
    let dir = scratch();
    let unpacked = Command::new("tar").arg("xJf").arg(&archive).arg("-C").arg(dir.path()).status();
    assert!(unpacked.expect("tar runs").success(), "{} unpacks", archive.display());
    let root = Root::dump(dir.path()).expect("a dump's root");
    for sampler in Sampler::ALL {
        purlin_drivers::sample(sampler, &root);
    }
    let inventory = purlin_drivers::inventory(&root);
    (dir, inventory)
}

/// In memory where there is such a place: the dumps are 150,000 tiny files.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a temporary directory")
}

/// What we count, as the table's text. A column that is unknown is empty there.
fn counts(inventory: &Inventory) -> BTreeMap<&'static str, String> {
    let counts = serde_json::to_value(purlin_core::counts::counts(inventory)).expect("JSON");
    let text = |column: &'static str| match &counts[column] {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    COLUMNS.into_iter().map(|column| (column, text(column))).collect()
}
