//! `purlin hw` without an agent: this machine, a dump, an empty directory and nonsense.

#![forbid(unsafe_code)]

use std::{fs, os::unix::fs::symlink, process::ExitCode};

use purlin_tests::{Lab, Node, Result, ensure, node::Answer, test};
use serde_json::Value;

fn main() -> ExitCode {
    purlin_tests::run([
        test("this_machine_is_read_without_an_agent", 60, this_machine),
        test("an_empty_root_gives_problems_and_no_panic", 60, empty_root),
        test("a_root_full_of_nonsense_gives_problems_and_no_panic", 60, nonsense),
        test("a_root_that_does_not_exist_is_said_so", 60, no_root),
    ])
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
    ensure!(said, "names the directory: {answer:?}");
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
