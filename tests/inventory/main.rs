//! `purlin hw` without an agent: this machine, a dump, an empty directory and nonsense.
//! With one: hot-plug and drift, in `drift`. A real GPU: in `nvidia`.

#![forbid(unsafe_code)]

mod drift;
mod nvidia;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use purlin_tests::{Lab, Need, Node, Result, ensure, node::Answer, test};
use serde_json::Value;

fn main() -> ExitCode {
    let tests = [
        test("this_machine_is_read_without_an_agent", 60, this_machine),
        test("an_empty_root_gives_problems_and_no_panic", 60, empty_root),
        test("a_root_full_of_nonsense_gives_problems_and_no_panic", 60, nonsense),
        test("a_root_that_does_not_exist_is_said_so", 60, no_root),
        test("what_was_gathered_is_this_machine", 120, gathered),
        test("a_dump_is_not_written_over", 120, not_written_over),
        test("a_broken_tar_is_said_to_be_one", 60, broken_tar),
        test("a_picture_is_plain_well_formed_svg", 60, picture),
        // hwloc-nox of Debian.
        test("lstopo_sees_gpus_and_passes_over_wide_domains", 30, lstopo_devices)
            .needs(&[Need::Program(LSTOPO)]),
        test("lstopo_opens_our_xml_and_counts_the_same", 300, lstopo_counts)
            .needs(&[Need::Program(LSTOPO)]),
    ];
    purlin_tests::run(tests.into_iter().chain(drift::tests()).chain(nvidia::tests()))
}

fn this_machine(lab: &Lab) -> Result {
    let node = Node::new(lab, "node")?;
    let inventory: Value = node.json(&["hw", "list"])?;
    let cpus = inventory.to_string();
    ensure!(cpus.contains("numa") && cpus.contains("cpu"), "{inventory}");
    for view in ["list", "tree"] {
        let answer = node.cli(&["hw", view])?;
        ensure!(matches!(answer.code, 0 | 2) && !answer.stdout.is_empty(), "{view}: {answer:?}");
    }
    Ok(())
}

fn empty_root(lab: &Lab) -> Result {
    fs::create_dir(lab.dir().join("empty"))?;
    has_problems(lab, "empty")
}

/// Files where directories belong, loops, binary, huge numbers, missing newlines.
fn nonsense(lab: &Lab) -> Result {
    let sys = "nonsense/sys/devices/system";
    lab.file(&format!("{sys}/cpu/online"), "4-1,,,99999999999999999999\n")?;
    lab.file(&format!("{sys}/cpu/present"), [0xff, 0xfe, 0])?;
    lab.file(&format!("{sys}/cpu/cpu0/topology"), "a file")?;
    lab.file(&format!("{sys}/cpu/cpu0/cache/index0/size"), "-3K")?;
    lab.file(&format!("{sys}/cpu/cpu4294967296/topology/core_id"), "-1")?;
    lab.file(&format!("{sys}/node/online"), "0-18446744073709551615")?;
    lab.file(&format!("{sys}/node/node0/cpulist"), "0-4294967295")?;
    lab.file(&format!("{sys}/node/node0/distance"), "ten twenty")?;
    lab.file(&format!("{sys}/node/node0/meminfo"), "Node 0 MemTotal: many kB")?;
    lab.file("nonsense/proc/meminfo", "MemTotal")?;
    lab.file("nonsense/proc/cpuinfo", vec![b'x'; 1 << 20])?;
    lab.file("nonsense/sys/class/net", "a file")?;
    lab.file("nonsense/sys/block/sda/size", "18446744073709551615")?;
    lab.file("nonsense/sys/bus/pci/devices/not-an-address/vendor", "0xzzzz")?;
    let pci = lab.dir().join("nonsense/sys/bus/pci/devices");
    symlink("0000:00:01.0", pci.join("0000:00:01.0"))?;
    symlink("/etc", pci.join("0000:00:02.0"))?;
    has_problems(lab, "nonsense")
}

fn no_root(lab: &Lab) -> Result {
    let answer = list(lab, "nowhere")?;
    let said = answer.stderr.contains("nowhere") || answer.stdout.contains("nowhere");
    ensure!(said && answer.code == 1, "names the directory: {answer:?}");
    Ok(())
}

fn has_problems(lab: &Lab, root: &str) -> Result {
    let answer = list(lab, root)?;
    ensure!(matches!(answer.code, 0 | 2), "{answer:?}");
    let inventory: Value = answer.json()?;
    let problems = inventory.get("problems").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(problems > 0, "no problems in {inventory}");
    Ok(())
}

fn list(lab: &Lab, root: &str) -> Result<Answer> {
    let root = lab.dir().join(root).display().to_string();
    Node::new(lab, "node")?.cli(&["hw", "list", "--root", &root, "-o", "json"])
}

fn gathered(lab: &Lab) -> Result {
    let node = Node::new(lab, "node")?;
    let file = lab.dir().join("box.tar.gz").display().to_string();
    let answer = node.cli(&["hw", "gather", &file])?;
    ensure!(answer.code == 0 && answer.stderr.contains("serial numbers"), "{answer:?}");
    let mut ours: Value = node.json(&["hw", "list"])?;
    let mut theirs: Value = node.json(&["hw", "list", "--root", &file])?;
    // Another a moment later; a guest's memory comes and goes.
    for node in [&mut ours["numa"], &mut theirs["numa"]].into_iter().flat_map(Value::as_array_mut) {
        for node in node {
            (node["free"], node["memory"]) = (Value::Null, Value::Null);
        }
    }
    for fact in ["cpu", "numa", "pci", "storage"] {
        ensure!(ours[fact] == theirs[fact], "{fact}: {} and {}", ours[fact], theirs[fact]);
    }
    Ok(())
}

fn not_written_over(lab: &Lab) -> Result {
    let node = Node::new(lab, "node")?;
    let file = lab.file("box.tar.gz", "mine")?.display().to_string();
    let answer = node.cli(&["hw", "gather", &file])?;
    ensure!(answer.code == 1 && answer.stderr.contains("--force"), "{answer:?}");
    ensure!(fs::read(&file)? == b"mine", "it was written over");
    ensure!(node.cli(&["hw", "gather", "--force", &file])?.code == 0, "--force writes over it");
    ensure!(fs::read(&file)? != b"mine", "it was not written over");
    Ok(())
}

fn broken_tar(lab: &Lab) -> Result {
    lab.file("broken.tar.gz", [0x1f, 0x8b, 8, 0, 0, 0])?;
    let answer = list(lab, "broken.tar.gz")?;
    let told = answer.stderr.contains("broken.tar.gz: ends too early");
    ensure!(answer.code == 1 && told && answer.stderr.lines().count() == 1, "{answer:?}");
    Ok(())
}

fn picture(lab: &Lab) -> Result {
    let node = Node::new(lab, "node")?;
    let svg = node.cli(&["hw", "draw"])?.stdout;
    ensure!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for banned in ["<script", "href", "url(", "@import"] {
        ensure!(!svg.contains(banned), "{banned} in {svg}");
    }
    well_formed(&svg)?;
    well_formed(&node.cli(&["hw", "xml"])?.stdout)
}

/// Each tag that is opened is closed, in order, and no text has a loose mark.
fn well_formed(xml: &str) -> Result {
    let mut open = Vec::new();
    for tag in xml.split('<').skip(1) {
        let Some((tag, text)) = tag.split_once('>') else {
            return Err(format!("a tag without an end: {tag}").into());
        };
        ensure!(!text.contains('>') && !text.contains("& "), "loose mark in {text}");
        match (tag.strip_prefix('/'), tag.starts_with(['?', '!']) || tag.ends_with('/')) {
            (Some(name), _) => ensure!(open.pop() == Some(name), "{name} closes nothing"),
            (None, true) => {}
            (None, false) => open.push(tag.split_whitespace().next().unwrap_or_default()),
        }
    }
    ensure!(open.is_empty(), "left open: {open:?}");
    Ok(())
}

const LSTOPO: &str = "lstopo-no-graphics";

/// A GPU and a NIC with RDMA at a node, and a disk behind a controller that makes a
/// domain of its own.
fn lstopo_devices(lab: &Lab) -> Result {
    let sys = "machine/sys";
    for file in ["online", "present", "possible"] {
        lab.file(&format!("{sys}/devices/system/cpu/{file}"), "0\n")?;
    }
    lab.file(&format!("{sys}/devices/system/cpu/cpu0/topology/core_id"), "0\n")?;
    lab.file("machine/proc/meminfo", "MemTotal: 1024 kB\n")?;
    let functions = [
        ("0000:01:00.0", "0x030200", "drm/card0/dev"),
        ("0000:02:00.0", "0x020000", "infiniband/mlx5_0/node_guid"),
        ("10000:e1:00.0", "0x010802", "nvme/nvme0/model"),
    ];
    for (address, class, file) in functions {
        let dir = format!("{sys}/bus/pci/devices/{address}");
        lab.file(&format!("{dir}/class"), class)?;
        lab.file(&format!("{dir}/vendor"), "0x1002")?;
        lab.file(&format!("{dir}/device"), "0x0001")?;
        lab.file(&format!("{dir}/{file}"), "")?;
    }
    let device = lab.dir().join(format!("{sys}/class/net/ib0/device"));
    lab.file(&format!("{sys}/class/net/ib0/type"), "32\n")?;
    symlink("../../../bus/pci/devices/0000:02:00.0", device)?;
    let root = lab.dir().join("machine").display().to_string();
    let file = lab.dir().join("machine.xml").display().to_string();
    let answer = Node::new(lab, "node")?.cli(&["hw", "xml", &file, "--root", &root])?;
    ensure!(answer.code == 0, "{answer:?}");
    ensure!(fs::read_to_string(&file)?.contains("10000:e1:00.0"), "the wide domain is told");
    let lstopo =
        Command::new(LSTOPO).args(["-i", &file, "--whole-io", "--of", "console"]).output()?;
    let told = String::from_utf8_lossy(&lstopo.stdout);
    ensure!(lstopo.status.success(), "{lstopo:?}");
    for object in ["GPU \"card0\"", "Net \"ib0\"", "OpenFabrics \"mlx5_0\""] {
        ensure!(told.contains(object), "{object} is not in {told}");
    }
    Ok(())
}

/// Of this machine and of each dump of the corpus.
fn lstopo_counts(lab: &Lab) -> Result {
    let node = Node::new(lab, "node")?;
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let corpus = std::env::var_os("PURLIN_CORPUS").map_or(beside, PathBuf::from);
    let dumps = fs::read_dir(corpus.join("dumps")).into_iter().flatten().flatten();
    let mut roots = vec!["/".to_owned()];
    roots.extend(dumps.map(|dump| dump.path().display().to_string()));
    println!("{} machines", roots.len());
    let file = lab.dir().join("machine.xml").display().to_string();
    for root in roots {
        let answer = node.cli(&["hw", "xml", &file, "--root", &root])?;
        ensure!(answer.code == 0, "{root}: {answer:?}");
        let inventory: Value = node.json(&["hw", "list", "--root", &root])?;
        let groups = |kind: &str| {
            let groups = inventory["cpu"]["groups"].as_array().into_iter().flatten();
            groups.filter(|group| group["kind"] == kind).count()
        };
        // hwloc has one node where the kernel tells none.
        let nodes = inventory["numa"].as_array().map_or(0, Vec::len).max(1);
        for (object, ours) in [
            ("package", groups("package")),
            ("core", groups("core")),
            ("pu", inventory["cpu"]["pus"].as_array().map_or(0, Vec::len)),
            ("numa", nodes),
        ] {
            let mut lstopo = Command::new(LSTOPO);
            let lstopo = lstopo.args(["-i", &file, "--disallowed", "--only", object]).output()?;
            ensure!(lstopo.status.success(), "{root}: {lstopo:?}");
            let theirs = String::from_utf8_lossy(&lstopo.stdout).lines().count();
            ensure!(theirs == ours, "{root}: {ours} of {object}, and lstopo counts {theirs}");
        }
    }
    Ok(())
}
