//! Caches that only a device tree tells: a made-up machine, and a real one without
//! what its kernel has in sysfs.

mod dumps;
mod tree;

use std::fs::File;

use expect_test::{Expect, expect};
use purlin_core::inventory::{Cache, Cpu};
use purlin_drivers::{Archive, Root};

use crate::tree::Tree;

const CPUS: &str = "sys/devices/system/cpu";
const NODES: &str = "sys/firmware/devicetree/base/cpus";

fn words(tree: &Tree, node: &str, properties: &[(&str, &[u32])]) {
    for (name, words) in properties {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        tree.file(&format!("{NODES}/{node}/{name}"), bytes);
    }
}

fn check(cpu: &Cpu, expected: Expect) {
    let line = |it: &Cache| {
        let Cache { level, kind, size, ways, sets, line, shared_by, .. } = it;
        format!("L{level} {kind:?} {size:?} {ways:?} ways {sets:?} sets {line:?} B: {shared_by}\n")
    };
    expected.assert_eq(&cpu.caches.iter().map(line).collect::<String>());
}

#[test]
fn a_chain_of_nodes_is_followed_from_each_processor() {
    let tree = Tree::new();
    for pu in 0..4 {
        let topology = format!("{CPUS}/cpu{pu}/topology");
        tree.files(&topology, &[("physical_package_id", "0"), ("core_id", &pu.to_string())]);
        let node = format!("cpu@{pu}");
        let target = format!("../../../../firmware/devicetree/base/cpus/{node}");
        tree.link(&format!("{CPUS}/cpu{pu}/of_node"), &target);
        let l2 = if pu < 2 { 7 } else { 8 };
        words(
            &tree,
            &node,
            &[
                ("d-cache-size", &[0x8000]),
                ("d-cache-line-size", &[64]),
                ("d-cache-sets", &[128]),
                ("i-cache-size", &[0xc000]),
                ("next-level-cache", &[l2]),
            ],
        );
    }
    // One lies beside the processors and tells all, the other in one and nothing.
    words(
        &tree,
        "l2-cache0",
        &[
            ("phandle", &[7]),
            ("cache-unified", &[]),
            ("cache-level", &[2]),
            ("cache-size", &[0x8_0000]),
            ("cache-block-size", &[64]),
            ("cache-sets", &[1024]),
            ("next-level-cache", &[9]),
        ],
    );
    words(&tree, "cpu@2/l2-cache", &[("phandle", &[8]), ("cache-unified", &[])]);
    // A tree that leads in a circle ends.
    words(&tree, "l3-cache", &[("phandle", &[9]), ("cache-size", &[1 << 20]), ("l2-cache", &[7])]);
    let inventory = tree.read();
    check(
        inventory.cpu.as_ref().expect("the CPUs"),
        expect![[r#"
            L1 Data Some(32768) Some(4) ways Some(128) sets Some(64) B: 0
            L1 Data Some(32768) Some(4) ways Some(128) sets Some(64) B: 1
            L1 Data Some(32768) Some(4) ways Some(128) sets Some(64) B: 2
            L1 Data Some(32768) Some(4) ways Some(128) sets Some(64) B: 3
            L1 Instruction Some(49152) None ways None sets None B: 0
            L1 Instruction Some(49152) None ways None sets None B: 1
            L1 Instruction Some(49152) None ways None sets None B: 2
            L1 Instruction Some(49152) None ways None sets None B: 3
            L2 Unified Some(524288) Some(8) ways Some(1024) sets Some(64) B: 0-1
            L2 Unified None None ways None sets None B: 2-3
            L3 Unified Some(1048576) None ways None sets None B: 0-1
        "#]],
    );
}

#[test]
fn who_has_no_number_in_hardware_has_no_cache_told() {
    let tree = Tree::new();
    for pu in 0..2 {
        let topology = format!("{CPUS}/cpu{pu}/topology");
        tree.files(&topology, &[("physical_package_id", "0"), ("core_id", &pu.to_string())]);
    }
    words(&tree, "cpu@100", &[("d-cache-size", &[0x8000]), ("reg", &[0x100])]);
    check(&tree.read().cpu.expect("the CPUs"), expect![""]);
}

/// POWER7 has the same in both.
#[test]
fn a_real_tree_tells_what_sysfs_does() {
    let dumps = dumps::dumps();
    let Some(path) = dumps.iter().find(|it| it.to_string_lossy().contains("256ppc")) else {
        return;
    };
    let mut dump = Archive::unpack(File::open(path).expect("a dump")).expect("a whole dump");
    let read = |dump: &Archive| {
        let inventory = purlin_drivers::inventory(&Root::from(dump.clone()));
        inventory.cpu.expect("the CPUs")
    };
    let of_sysfs = read(&dump);
    for pu in of_sysfs.pus.iter() {
        _ = dump.remove(&format!("/{CPUS}/cpu{}/cache", pu.id));
    }
    let of_tree = read(&dump);
    assert_eq!(of_tree.caches.len(), of_sysfs.caches.len());
    for (told, known) in of_tree.caches.iter().zip(&of_sysfs.caches) {
        assert_eq!(told, known);
    }
}
