//! Kubelet's state files as its versions write them, and as they must not be.

mod tree;

use expect_test::{Expect, expect};
use purlin_drivers::kubelet;
use tree::Tree;

fn text(cpus: Option<&str>, memory: Option<&str>) -> String {
    let tree = Tree::new();
    tree.file("sys/devices/system/cpu/online", "0-7\n");
    for (name, content) in [("cpu_manager_state", cpus), ("memory_manager_state", memory)] {
        if let Some(content) = content {
            tree.file(&format!("var/lib/kubelet/{name}"), content);
        }
    }
    let (read, problems) = kubelet::read(&tree.root());
    let mut text = String::new();
    if let Some(kubelet) = &read {
        text += &format!("shared {}, managed {}\n", kubelet.shared, kubelet.managed());
        for (id, cpus) in &kubelet.by_id {
            text += &format!("{id}: {cpus}\n");
        }
        for (uid, cpus) in &kubelet.pods {
            text += &format!("{uid}: {cpus}\n");
        }
        for (uid, containers) in &kubelet.given {
            for (name, gave) in containers {
                text += &format!("{uid}/{name}: CPUs {}, memory {}\n", gave.cpus, gave.mems);
            }
        }
    }
    for problem in problems {
        text += &format!("{}: {}\n", problem.at, problem.what);
    }
    text
}

#[track_caller]
fn check(cpus: Option<&str>, memory: Option<&str>, expected: Expect) {
    expected.assert_eq(&text(cpus, memory));
}

#[test]
fn every_version_of_the_cpu_managers_state_is_read() {
    check(
        Some(
            r#"{"policyName":"static","defaultCpuSet":"0-1,4-7","entries":{"c0ffee":"2-3"},"checksum":1}"#,
        ),
        None,
        expect![[r#"
            shared 0-1,4-7, managed 0-7
            c0ffee: 2-3
        "#]],
    );
    let second = r#"{"policyName":"static","defaultCpuSet":"0-1,5-7",
        "entries":{"7c-1":{"db":"2-3","log":"4"}},"checksum":1}"#;
    check(
        Some(second),
        None,
        expect![[r#"
            shared 0-1,5-7, managed 0-7
            7c-1/db: CPUs 2-3, memory 
            7c-1/log: CPUs 4, memory 
        "#]],
    );
    check(
        Some(
            r#"{"policyName":"static","defaultCpuSet":"0-1","entries":{"7c-1":{"db":"2"}},
            "podEntries":{"7c-1":{"cpuSet":"2-7"}},"checksum":1,"data":"{}","dataChecksum":2}"#,
        ),
        None,
        expect![[r#"
            shared 0-1, managed 0-7
            7c-1: 2-7
            7c-1/db: CPUs 2, memory 
        "#]],
    );
}

#[test]
fn the_memory_managers_nodes_stand_beside_the_cpus() {
    let cpus =
        r#"{"policyName":"static","defaultCpuSet":"0-1,4-7","entries":{"7c-1":{"db":"2-3"}}}"#;
    let memory = r#"{"policyName":"Static","machineState":{"0":{"numberOfAssignments":1,
        "memoryMap":{"memory":{"total":8,"systemReserved":0,"allocatable":8,"reserved":1,"free":7}},
        "cells":[0]}},"entries":{"7c-1":{
            "db":[{"numaAffinity":[1],"type":"memory","size":1},{"numaAffinity":[1],"type":"hugepages-2Mi","size":1}],
            "web":[{"numaAffinity":[0,1],"type":"memory","size":1}]}},"checksum":3}"#;
    check(
        Some(cpus),
        Some(memory),
        expect![[r#"
            shared 0-1,4-7, managed 0-7
            7c-1/db: CPUs 2-3, memory 1
            7c-1/web: CPUs , memory 0-1
        "#]],
    );
    check(
        Some(cpus),
        Some("{"),
        expect![[r#"
            shared 0-1,4-7, managed 0-7
            7c-1/db: CPUs 2-3, memory 
            /var/lib/kubelet/memory_manager_state: is not of a form that is known, or damaged: EOF while parsing an object at line 1 column 1
        "#]],
    );
}

#[test]
fn without_the_static_policy_nothing_is_given_out() {
    check(None, None, expect![""]);
    let none = r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#;
    check(Some(none), None, expect![""]);
}

#[test]
fn what_cant_be_understood_is_told_and_not_taken_in_part() {
    check(
        Some(r#"{"policyName":"static","defaultCpuSet":"0-1","entries":{"7c-1":{"db":"2-x"}}}"#),
        None,
        expect![[r#"
            /var/lib/kubelet/cpu_manager_state: "\"x\" is not an id"
        "#]],
    );
    check(
        Some(r#"{"policyName":"static","defaultCpuSet":"0-1","entries":[{"cpus":"2"}]}"#),
        None,
        expect![[r#"
            /var/lib/kubelet/cpu_manager_state: is not of a form that is known, or damaged: invalid type: sequence, expected a map at line 1 column 55
        "#]],
    );
    check(
        Some("\0\0\0"),
        None,
        expect![[r#"
        /var/lib/kubelet/cpu_manager_state: is not of a form that is known, or damaged: EOF while parsing a value at line 1 column 0
    "#]],
    );
    check(
        Some(""),
        None,
        expect![[r#"
        /var/lib/kubelet/cpu_manager_state: is not of a form that is known, or damaged: EOF while parsing a value at line 1 column 0
    "#]],
    );
}
