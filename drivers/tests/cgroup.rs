//! Cpusets of containers in trees as cgroup v1, v2 and both together have them.

mod tree;

use expect_test::{Expect, expect};
use purlin_core::cpuset::{Change, To};
use purlin_drivers::{cgroup, irq};
use tree::Tree;

const ID: &str = "8d0c27b5e0a9f0a3b1f1f6f6b1c9d3a4e5f60718293a4b5c6d7e8f9001122334";
const OTHER: &str = "0d0c27b5e0a9f0a3b1f1f6f6b1c9d3a4e5f60718293a4b5c6d7e8f9001122334";

fn machine(mounts: &str) -> Tree {
    let tree = Tree::new();
    tree.file("proc/self/mounts", mounts)
        .file("sys/devices/system/cpu/online", "0-7\n")
        .file("sys/devices/system/node/has_memory", "0-1\n");
    tree
}

fn v2() -> Tree {
    let tree = machine("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
    tree.files(
        "sys/fs/cgroup",
        &[
            ("cpuset.cpus.effective", "0-7"),
            ("cpuset.mems.effective", "0-1"),
            ("cgroup.subtree_control", "cpuset memory"),
        ],
    );
    tree
}

fn v2_cgroup(tree: &Tree, path: &str, cpus: &str, granted: &str, partition: &str) {
    let files = [
        ("cpuset.cpus", cpus),
        ("cpuset.mems", ""),
        ("cpuset.cpus.effective", granted),
        ("cpuset.mems.effective", "0-1"),
        ("cpuset.cpus.partition", partition),
    ];
    tree.files(&format!("sys/fs/cgroup{path}"), &files);
}

#[track_caller]
fn check(tree: &Tree, also: &[&str], expected: Expect) {
    let also: Vec<String> = also.iter().map(|path| (*path).into()).collect();
    let (cpusets, problems) = cgroup::read(&tree.root(), &also);
    let cpusets = cpusets.expect("cpusets");
    let set = |set: &Option<_>| set.as_ref().map_or("-".into(), ToString::to_string);
    let mut text =
        format!("{:?} at {}: {} {}\n", cpusets.version, cpusets.mount, cpusets.cpus, cpusets.mems);
    for found in &cpusets.containers {
        let it = &found.cpuset;
        let whose = found.owner.as_ref().map(|owner| owner.runtime);
        let partition = it.partition.as_ref().map_or(String::new(), |it| format!(", {it}"));
        let reach = if it.controlled { "" } else { ", out of reach" };
        text += &format!(
            "{whose:?} {}: {} of {}, memory {} of {}{partition}{reach}\n",
            it.cgroup.replace(ID, "ID").replace(OTHER, "OTHER"),
            it.granted_cpus,
            set(&it.cpus),
            it.granted_mems,
            set(&it.mems)
        );
    }
    text += &format!("beside {:?}\n", cpusets.others);
    for problem in problems {
        text += &format!("{}: {}\n", problem.at, problem.what);
    }
    expected.assert_eq(&text);
}

#[test]
fn cgroup_v2_tells_what_was_asked_for_and_what_is_granted() {
    let tree = v2();
    let pod = "/kubepods.slice/kubepods-pod1.slice";
    v2_cgroup(&tree, "/kubepods.slice", "", "0-7", "member");
    v2_cgroup(&tree, pod, "", "0-7", "member");
    v2_cgroup(
        &tree,
        &format!("{pod}/cri-containerd-{ID}.scope"),
        "2-3",
        "2",
        "isolated invalid (why)",
    );
    v2_cgroup(&tree, &format!("{pod}/cri-containerd-{ID}.scope/inner"), "2", "2", "member");
    v2_cgroup(&tree, "/box", "4", "4", "member");
    tree.file(&format!("sys/fs/cgroup/system.slice/docker-{OTHER}.scope/cgroup.procs"), "");
    check(
        &tree,
        &["/box", "/none"],
        expect![[r#"
            V2 at /sys/fs/cgroup: 0-7 0-1
            None /box: 4 of 4, memory 0-1 of -, member
            Some(Containerd) /kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope: 2 of 2-3, memory 0-1 of -, isolated, invalid: why
            Some(Docker) /system.slice/docker-OTHER.scope: 0-7 of -, memory 0-1 of -, out of reach
            beside ["", "/box", "/kubepods.slice", "/kubepods.slice/kubepods-pod1.slice", "/system.slice"]
        "#]],
    );
}

#[test]
fn the_hybrid_has_them_in_cgroup_v1() {
    let tree = machine(
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
         cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n",
    );
    let files = [("cpuset.cpus", "0-3"), ("cpuset.mems", "1")];
    tree.files("sys/fs/cgroup/cpuset", &[("cpuset.cpus", "0-7"), ("cpuset.mems", "0-1")])
        .files(&format!("sys/fs/cgroup/cpuset/docker/{ID}"), &files)
        .files("sys/fs/cgroup/cpuset/docker", &[("cpuset.cpus", "0-7"), ("cpuset.mems", "0-1")]);
    check(
        &tree,
        &[],
        expect![[r#"
            V1 at /sys/fs/cgroup/cpuset: 0-7 0-1
            Some(Docker) /docker/ID: 0-3 of 0-3, memory 1 of 1
            beside ["", "/docker"]
        "#]],
    );
}

#[test]
fn a_dump_is_never_written() {
    let tree = v2();
    v2_cgroup(&tree, "/box", "4", "4", "member");
    let to = To::Cpus([1].into_iter().collect());
    let change = |cgroup: &str| Change { cgroup: cgroup.into(), to: to.clone() };
    let refused = |cgroup| cgroup::change(&tree.root(), &change(cgroup)).expect_err("a dump");
    expect![[r#"/sys/fs/cgroup/box/cpuset.cpus: "1" is not taken: read-only file system"#]]
        .assert_eq(&refused("/box"));
    expect![[r#""/" is not the path of a cgroup below the root"#]].assert_eq(&refused("/"));
    expect!["the cgroup /gone is gone"].assert_eq(&refused("/gone"));
    let cpus = std::fs::read_to_string(tree.at("sys/fs/cgroup/box/cpuset.cpus"));
    assert_eq!(cpus.expect("a file"), "4\n");
}

#[test]
fn memory_is_told_by_node() {
    let tree = v2();
    tree.file(
        "sys/fs/cgroup/box/memory.numa_stat",
        "anon N0=4096 N1=8192\nfile N0=99 N1=0\nfile_mapped N0=1 N1=2\n",
    );
    expect!["({0: 4097, 1: 8194}, [])"]
        .assert_eq(&format!("{:?}", cgroup::resident(&tree.root(), "/box")));
    tree.file("sys/fs/cgroup/old/cgroup.procs", "7\n9\n");
    tree.file("proc/7/statm", "100 10 1 1 0 1 0\n");
    let (nodes, _) = cgroup::resident(&tree.root(), "/old");
    assert_eq!(nodes.values().sum::<u64>() % 10, 0);
    assert!(nodes.values().sum::<u64>() > 0);
}

#[test]
fn interrupts_are_told_with_their_node_and_where_they_may_arrive() {
    let tree = machine("");
    tree.file("proc/irq/default_smp_affinity", "ff\n")
        .files("proc/irq/24", &[("node", "1"), ("smp_affinity_list", "4-7"), ("eth0-rx-0/x", "")])
        .files("proc/irq/25", &[("node", "-1"), ("smp_affinity_list", "0"), ("ttyS0/x", "")])
        .files("proc/irq/26", &[("node", "0"), ("smp_affinity_list", "0-3"), ("nvme0q0/x", "")])
        .file("sys/bus/pci/devices/0000:41:00.0/msi_irqs/26", "msix\n")
        .file("sys/bus/pci/devices/0000:41:00.0/numa_node", "1\n")
        .files("proc/irq/9", &[("node", "0"), ("smp_affinity_list", "0-7")]);
    let (interrupts, problems) = irq::read(&tree.root());
    let interrupts = interrupts.expect("interrupts");
    assert_eq!(problems, []);
    assert_eq!(interrupts.default.map(|it| it.to_string()).as_deref(), Some("0-7"));
    let all: Vec<String> = interrupts
        .all
        .iter()
        .map(|it| format!("{} {} {:?} {}", it.irq, it.name, it.node, it.allowed))
        .collect();
    let expected = ["24 eth0-rx-0 Some(1) 4-7", "25 ttyS0 None 0", "26 nvme0q0 Some(1) 0-3"];
    assert_eq!(all, expected);
}
