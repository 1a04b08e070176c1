//! Small machines made up for one trait of CPUs or memory each, and what
//! reading a large one may cost.

mod tree;

use expect_test::expect;
use purlin_core::{
    counts::{Counts, counts},
    inventory::{Cpu, GroupKind, KindSource, NumaNode, Part},
};
use purlin_drivers::Root;

use crate::tree::{Tree, check, problems_of};

const CPUS: &str = "sys/devices/system/cpu";
const NODES: &str = "sys/devices/system/node";

fn topology(tree: &Tree, pu: u32, files: &[(&str, &str)]) {
    tree.files(&format!("{CPUS}/cpu{pu}/topology"), files);
}

fn counted(tree: &Tree) -> Counts {
    counts(&tree.read())
}

fn cpu(tree: &Tree) -> Cpu {
    tree.read().cpu.expect("the CPUs")
}

fn nodes(tree: &Tree) -> Vec<NumaNode> {
    tree.read().numa.expect("the nodes")
}

fn groups(cpu: &Cpu, kind: GroupKind) -> String {
    let one = |group: &purlin_core::inventory::Group| {
        format!("{}:{:?}:{}", group.logical, group.id, group.pus)
    };
    cpu.groups(kind).map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn dies_are_counted_where_a_package_has_several() {
    let tree = Tree::new();
    for pu in 0..8_u32 {
        let (package, die) = (pu / 4, pu / 2 % 2);
        let of_package = format!("{}-{}", package * 4, package * 4 + 3);
        let of_die = format!("{}-{}", pu / 2 * 2, pu / 2 * 2 + 1);
        let one = pu.to_string();
        topology(
            &tree,
            pu,
            &[
                ("physical_package_id", &package.to_string()),
                ("package_cpus_list", &of_package),
                ("die_id", &die.to_string()),
                ("die_cpus_list", &of_die),
                ("core_id", &(pu % 4).to_string()),
                ("core_cpus_list", &one),
            ],
        );
    }
    let told = counted(&tree);
    assert_eq!((told.packages, told.dies, told.cores, told.pus), (2, 4, 8, 8));
}

#[test]
fn a_die_that_is_its_package_or_has_no_id_is_not_counted() {
    let tree = Tree::new();
    for (pu, die, mask) in [(0, "0", "0-1"), (1, "0", "0-1"), (2, "-1", "2"), (3, "-1", "3")] {
        let package = if pu < 2 { ("0", "0-1") } else { ("1", "2-3") };
        topology(
            &tree,
            pu,
            &[
                ("physical_package_id", package.0),
                ("package_cpus_list", package.1),
                ("die_id", die),
                ("die_cpus_list", mask),
            ],
        );
    }
    assert_eq!(counted(&tree).dies, 0);
    check(&groups(&cpu(&tree), GroupKind::Die), expect![[r#""0:Some(0):0-1""#]]);
}

#[test]
fn masks_decide_where_ids_repeat() {
    let tree = Tree::new();
    // Two drawers of two books of one package each, all packages called 0.
    for pu in 0..8_u32 {
        let pair = format!("{}-{}", pu / 2 * 2, pu / 2 * 2 + 1);
        let four = format!("{}-{}", pu / 4 * 4, pu / 4 * 4 + 3);
        topology(
            &tree,
            pu,
            &[
                ("drawer_id", &(pu / 4).to_string()),
                ("drawer_siblings_list", &four),
                ("book_id", &(pu / 2).to_string()),
                ("book_siblings_list", &pair),
                ("physical_package_id", "0"),
                ("core_siblings_list", &pair),
                ("core_id", "0"),
                ("thread_siblings_list", &pu.to_string()),
            ],
        );
    }
    let cpu = cpu(&tree);
    assert_eq!((cpu.packages(), cpu.cores()), (4, 8));
    check(&groups(&cpu, GroupKind::Drawer), expect![[r#""0:Some(0):0-3 1:Some(1):4-7""#]]);
    assert_eq!(cpu.groups(GroupKind::Book).count(), 4);
}

#[test]
fn ids_decide_where_there_is_no_mask() {
    let tree = Tree::new();
    for (pu, package, core) in [(0, "0", "0"), (1, "1", "0"), (2, "0", "0"), (3, "1", "1")] {
        topology(&tree, pu, &[("physical_package_id", package), ("core_id", core)]);
    }
    let cpu = cpu(&tree);
    check(&groups(&cpu, GroupKind::Core), expect![[r#""0:Some(0):0,2 1:Some(0):1 2:Some(1):3""#]]);
    let logical: Vec<_> = cpu.pus.iter().map(|pu| pu.logical).collect();
    check(&logical, expect!["[0, 2, 1, 3]"]);
}

#[test]
fn without_topology_in_sysfs_cpuinfo_tells_it() {
    let tree = Tree::new();
    for pu in 0..4 {
        tree.files(&format!("{CPUS}/cpu{pu}"), &[("online", "1")]);
    }
    let pu = |pu: u32| {
        format!("processor\t: {pu}\nphysical id\t: {}\ncore id\t\t: {}\n\n", pu / 2, pu % 2)
    };
    tree.file("proc/cpuinfo", (0..4).map(pu).collect::<String>());
    let told = counted(&tree);
    assert_eq!((told.packages, told.cores, told.pus), (2, 4, 4));
}

#[test]
fn the_halves_of_a_bulldozer_module_are_cores() {
    let tree = Tree::new();
    tree.file("proc/cpuinfo", "processor: 0\nvendor_id: AuthenticAMD\ncpu family: 21\n");
    for (pu, core) in [(0, "0"), (1, "1"), (2, "2"), (3, "3")] {
        let pair = if pu < 2 { "0-1" } else { "2-3" };
        topology(&tree, pu, &[("thread_siblings_list", pair), ("core_id", core)]);
    }
    assert_eq!(cpu(&tree).cores(), 4);
}

#[test]
fn masks_that_contradict_each_other_are_a_problem() {
    let tree = Tree::new();
    for (pu, mask) in [(0, "0-1"), (1, "0-1"), (2, "1-2")] {
        topology(&tree, pu, &[("core_id", "0"), ("core_cpus_list", mask)]);
    }
    let inventory = tree.read();
    check(
        &problems_of(&inventory, Part::Cpu),
        expect![[
            r#"["/sys/devices/system/cpu/cpu2/topology: core_cpus names CPU 1, which names others"]"#
        ]],
    );
    check(
        &groups(&inventory.cpu.expect("the CPUs"), GroupKind::Core),
        expect![[r#""0:Some(0):0-1 1:Some(0):2""#]],
    );
}

#[test]
fn cpu_0_and_node_0_may_be_offline() {
    let tree = Tree::new();
    tree.pu(1, 0, 0, "1").files(&format!("{CPUS}/cpu0"), &[("online", "0")]);
    // Some kernels end a list with a NUL.
    tree.file(&format!("{CPUS}/online"), b"1\0").file(&format!("{CPUS}/present"), b"0-1\0");
    tree.node(0, "", 0, "10").node(1, "1", 1024, "10");
    tree.files(NODES, &[("online", "1")]);
    let inventory = tree.read();
    let told = counts(&inventory);
    assert_eq!((told.pus, told.pus_complete, told.kernel_present_cpus), (1, 2, Some(2)));
    assert_eq!((told.numa_nodes, told.sysfs_nodes, told.sysfs_memless_nodes), (1, 2, 1));
    let flags: Vec<_> = inventory.numa.expect("the nodes").into_iter().map(|it| it.flags).collect();
    check(&flags, expect!["[[CpuLess, MemoryLess, Offline], []]"]);
    assert!(!inventory.problems.iter().any(|it| it.part == Part::Cpu), "{:?}", inventory.problems);
}

#[test]
fn a_list_that_cannot_be_empty_is_unknown_and_said() {
    let tree = Tree::new();
    tree.pu(0, 0, 0, "0").node(0, "0", 1024, "10");
    tree.files(CPUS, &[("online", ""), ("present", ""), ("possible", "")]);
    tree.files(NODES, &[("online", "")]);
    let inventory = tree.read();
    let cpu = inventory.cpu.as_ref().expect("the CPUs");
    assert_eq!((cpu.pus.len(), &cpu.present, &cpu.possible), (1, &None, &None));
    let nodes = inventory.numa.as_ref().expect("the nodes");
    assert!(nodes[0].flags.is_empty() && nodes[0].distances.len() == 1, "{nodes:?}");
    let told = [Part::Cpu, Part::Numa].map(|part| problems_of(&inventory, part).join("\n"));
    expect![[r#"
        /sys/devices/system/cpu/online: is empty, though there are CPUs
        /sys/devices/system/cpu/possible: is empty, though there are CPUs
        /sys/devices/system/cpu/present: is empty, though there are CPUs
        /sys/devices/system/node/online: is empty, though there are nodes"#]]
    .assert_eq(&told.join("\n"));
}

#[test]
fn power_threads_that_are_off_are_present_and_no_pus() {
    let tree = Tree::new();
    // Two cores of four threads: all of the first, one of the second.
    for pu in [0, 1, 2, 3, 4] {
        let (core, threads) = if pu < 4 { ("8", "0-3") } else { ("16", "4") };
        let files = [
            ("physical_package_id", "0"),
            ("package_cpus_list", "0-4"),
            ("core_id", core),
            ("thread_siblings_list", threads),
        ];
        topology(&tree, pu, &files);
    }
    for pu in 5..8 {
        tree.files(&format!("{CPUS}/cpu{pu}"), &[("online", "0")]);
    }
    tree.files(CPUS, &[("online", "0-4"), ("present", "0-7"), ("possible", "0-15")]);
    tree.file("proc/cpuinfo", "processor\t: 0\ncpu\t\t: POWER9, altivec supported\n\n");
    let inventory = tree.read();
    let told = counts(&inventory);
    assert_eq!((told.packages, told.cores, told.pus, told.pus_complete), (1, 2, 5, 8));
    assert_eq!((told.kernel_present_cpus, told.kernel_online_cpus), (Some(8), Some(5)));
    let cpu = inventory.cpu.as_ref().expect("the CPUs");
    assert_eq!(cpu.model.as_deref(), Some("POWER9, altivec supported"));
    assert_eq!(problems_of(&inventory, Part::Cpu), Vec::<String>::new());
}

#[test]
fn memory_without_a_total_keeps_the_rest() {
    let tree = Tree::new();
    let pool = "sys/kernel/mm/hugepages/hugepages-2048kB";
    tree.pu(0, 0, 0, "0").files(pool, &[("nr_hugepages", "4")]);
    let inventory = tree.read();
    let told = problems_of(&inventory, Part::Memory);
    let memory = inventory.memory.expect("what else is known");
    assert_eq!((memory.total, memory.hugepages.get(&(2 << 20))), (None, Some(&4)));
    assert_eq!(told, ["/proc/meminfo: is not there"]);
}

#[test]
fn cxl_memory_that_is_on_no_node_is_no_problem() {
    let tree = Tree::new();
    tree.pu(0, 0, 0, "0").node(0, "0", 1024, "10");
    tree.files("sys/bus/cxl/devices/mem0", &[("numa_node", "-1")]);
    assert_eq!(problems_of(&tree.read(), Part::Numa), Vec::<String>::new());
}

#[test]
fn sparse_nodes_without_cpus_or_memory_are_all_there() {
    let tree = Tree::new();
    tree.pu(0, 0, 0, "0");
    tree.node(0, "0", 1024, "10 20 40 40").node(1, "", 2048, "20 10 40 40");
    tree.node(16, "", 0, "40 40 10 20").node(17, "", 4096, "40 40 20 10");
    let told = counted(&tree);
    assert_eq!((told.numa_nodes, told.mem_kib), (3, 7168));
    assert_eq!((told.sysfs_nodes, told.sysfs_cpuless_nodes, told.sysfs_memless_nodes), (4, 3, 1));
    check(&nodes(&tree)[2].distances, expect!["{0: 40, 1: 40, 16: 10, 17: 20}"]);
    assert_eq!(told.node0_distance.as_deref(), Some("10,20,40,40"));
}

#[test]
fn memory_that_is_not_told_is_unknown_and_400_tb_are_taken_as_they_are() {
    let tree = Tree::new();
    tree.pu(0, 0, 0, "0").files(&format!("{NODES}/node0"), &[("cpulist", "0")]);
    let node = nodes(&tree).remove(0);
    assert_eq!((node.memory, node.free, node.flags.is_empty()), (None, None, true));
    assert_eq!(counted(&tree).numa_nodes, 1);

    let tree = Tree::new();
    tree.file("proc/meminfo", "MemTotal:       400016779264 kB\n");
    assert_eq!(counted(&tree).mem_kib, 400_016_779_264);
}

#[test]
fn memory_of_the_machine_that_is_on_no_node_is_a_problem() {
    let tree = Tree::new();
    tree.pu(0, 0, 0, "0")
        .node(0, "0", 4 << 20, "10")
        .file("proc/meminfo", "MemTotal: 4200000 kB\n");
    assert_eq!(problems_of(&tree.read(), Part::Numa), Vec::<String>::new());
    tree.file("proc/meminfo", "MemTotal: 131981020 kB\n");
    check(
        &problems_of(&tree.read(), Part::Numa),
        expect![[
            r#"["/sys/devices/system/node: nodes have 4096 MiB and the machine 128887 MiB: on which node the rest is, the kernel does not tell"]"#
        ]],
    );
}

#[test]
fn hmat_side_caches_tiers_and_cxl_are_a_nodes_own() {
    let tree = Tree::new();
    tree.pu(0, 0, 0, "0").node(0, "0", 1024, "10 20").node(2, "", 4096, "20 10");
    let initiators = format!("{NODES}/node2/access0/initiators");
    tree.files(&initiators, &[("read_latency", "250"), ("write_latency", "0")]);
    tree.files(&initiators, &[("read_bandwidth", "30000"), ("write_bandwidth", "10000")]);
    tree.link(&format!("{initiators}/node0"), "../../../node0");
    let cache = [("size", "17179869184"), ("line_size", "64"), ("indexing", "0")];
    tree.files(&format!("{NODES}/node2/memory_side_cache/index1"), &cache);
    let tiers = "sys/devices/virtual/memory_tiering";
    tree.files(&format!("{tiers}/memory_tier4"), &[("nodelist", "0")]);
    tree.files(&format!("{tiers}/memory_tier22"), &[("nodelist", "2")]);
    let memory = "sys/devices/pci0000:7f/0000:7f:00.0/mem0";
    tree.files(memory, &[("numa_node", "2"), ("serial", "0x1234")]);
    tree.files(&format!("{memory}/ram"), &[("size", "0x400000")]);
    tree.link("sys/bus/cxl/devices/mem0", "../../../devices/pci0000:7f/0000:7f:00.0/mem0");
    tree.files(
        &format!("{NODES}/node2/hugepages/hugepages-2048kB"),
        &[("nr_hugepages", "8"), ("free_hugepages", "5"), ("surplus_hugepages", "1")],
    );
    let node = nodes(&tree).remove(1);
    check(
        &node.access,
        expect![
            "{0: NodeAccess { initiators: IdSet([1]), read_latency_ns: Some(250), write_latency_ns: None, read_bandwidth_mb_s: Some(30000), write_bandwidth_mb_s: Some(10000) }}"
        ],
    );
    check(
        &node.caches,
        expect![
            "[MemorySideCache { level: 1, size: Some(17179869184), line: Some(64), direct_mapped: Some(true) }]"
        ],
    );
    check(
        &(node.tier, node.cxl, node.hugepages),
        expect![[
            r#"(Some(22), [CxlMemory { name: "mem0", ram: Some(4194304), persistent: None, serial: Some("0x1234"), firmware: None }], {2097152: NodeHugepages { total: 8, free: Some(5), surplus: Some(1) }})"#
        ]],
    );
    let told = counted(&tree);
    assert_eq!((told.memsidecache, told.hmat_nodes), (1, 1));
}

#[test]
fn kinds_are_told_by_counters_midr_or_frequency() {
    let kinds = |tree: &Tree| {
        let kinds = cpu(tree).kinds;
        let kind = |it: purlin_core::inventory::CoreKind| {
            format!("{:?} {} {:?} {:?} {:?}", it.name, it.pus, it.capacity, it.max_khz, it.told_by)
        };
        kinds.into_iter().map(kind).collect::<Vec<_>>()
    };
    let tree = Tree::new();
    for pu in 0..4 {
        tree.pu(pu, 0, pu, "0-3");
    }
    tree.files("sys/devices/cpu_core", &[("cpus", "0-1")]);
    tree.files("sys/devices/cpu_atom", &[("cpus", "2-3")]);
    check(
        &kinds(&tree),
        expect![[r#"["Some(\"E\") 2-3 None None Pmu", "Some(\"P\") 0-1 None None Pmu"]"#]],
    );

    let tree = Tree::new();
    for (pu, midr, capacity) in [(0, "0x410fd461", "280"), (1, "0x411fd4e0", "1024")] {
        tree.pu(pu, 0, pu, "0-1").files(&format!("{CPUS}/cpu{pu}"), &[("cpu_capacity", capacity)]);
        tree.files(&format!("{CPUS}/cpu{pu}/regs/identification"), &[("midr_el1", midr)]);
        let max = if pu == 0 { "2000000" } else { "3000000" };
        let policy = [("related_cpus", pu.to_string()), ("cpuinfo_max_freq", max.into())];
        let policy: Vec<_> = policy.iter().map(|(name, text)| (*name, text.as_str())).collect();
        tree.files(&format!("{CPUS}/cpufreq/policy{pu}"), &policy);
    }
    check(
        &kinds(&tree),
        expect![[
            r#"["Some(\"Cortex-A510\") 0 Some(280) Some(2000000) Midr", "Some(\"Cortex-X3\") 1 Some(1024) Some(3000000) Midr"]"#
        ]],
    );
    std::fs::remove_dir_all(tree.at(&format!("{CPUS}/cpu0/regs"))).expect("it was there");
    assert!(cpu(&tree).kinds.iter().all(|kind| kind.told_by == KindSource::Capacity));
}

#[test]
fn a_cgroup_in_a_dump_says_what_is_allowed() {
    for (mount, files) in [
        ("none /sys/fs/cgroup cgroup2 rw 0 0", ["cpuset.cpus.effective", "cpuset.mems.effective"]),
        ("none /sys/fs/cgroup cgroup rw,cpuset 0 0", ["cpuset.cpus", "cpuset.mems"]),
        ("none /sys/fs/cgroup cpuset rw 0 0", ["cpus", "mems"]),
    ] {
        let tree = Tree::new();
        for pu in 0..4 {
            tree.pu(pu, pu / 2, pu % 2, if pu < 2 { "0-1" } else { "2-3" });
        }
        tree.node(0, "0-1", 1024, "10 20").node(1, "2-3", 1024, "20 10");
        tree.file("proc/mounts", mount).file("proc/self/cpuset", "/job\n");
        tree.files("sys/fs/cgroup/job", &[(files[0], "2"), (files[1], "1")]);
        let told = counted(&tree);
        let kept = (told.packages, told.cores, told.pus, told.pus_complete, told.numa_nodes);
        assert_eq!(kept, (1, 1, 1, 4, 1), "{mount}");
        assert_eq!(told.sysfs_nodes, 2);
    }
}

#[test]
fn resctrl_tells_what_can_be_divided() {
    let tree = Tree::new();
    tree.pu(0, 0, 0, "0");
    let info = "sys/fs/resctrl/info";
    tree.files(&format!("{info}/L3CODE"), &[("num_closids", "8"), ("cbm_mask", "7ff")]);
    tree.files(&format!("{info}/MB"), &[("num_closids", "8"), ("min_bandwidth", "10")]);
    tree.files(
        &format!("{info}/L3_MON"),
        &[("num_rmids", "176"), ("mon_features", "llc_occupancy\nmbm_total_bytes")],
    );
    let resctrl = cpu(&tree).resctrl.expect("resctrl");
    assert_eq!(resctrl.resources["L3CODE"].cbm_mask.as_deref(), Some("7ff"));
    assert_eq!(resctrl.resources["MB"].min_bandwidth, Some(10));
    check(
        &(resctrl.monitors, resctrl.rmids),
        expect![[r#"(["llc_occupancy", "mbm_total_bytes"], Some(176))"#]],
    );
}

#[test]
fn frequencies_and_c_states_are_read_as_the_kernel_tells_them() {
    let tree = Tree::new();
    tree.pu(0, 0, 0, "0-1").pu(1, 0, 1, "0-1");
    tree.files(&format!("{CPUS}/cpufreq"), &[("boost", "1")]);
    tree.files(
        &format!("{CPUS}/cpufreq/policy0"),
        &[
            ("related_cpus", "0 1"),
            ("scaling_driver", "cppc_cpufreq"),
            ("scaling_governor", "performance"),
            ("scaling_min_freq", "1000000"),
            ("scaling_max_freq", "3000000"),
            ("cpuinfo_max_freq", "3200000"),
        ],
    );
    let state = [("name", "C6"), ("latency", "133"), ("residency", "600"), ("disable", "1")];
    tree.files(&format!("{CPUS}/cpuidle"), &[("current_driver", "intel_idle")]);
    tree.files(&format!("{CPUS}/cpu0/cpuidle/state3"), &state);
    tree.files(&format!("{CPUS}/smt"), &[("control", "on"), ("active", "0")]);
    tree.files(&format!("{CPUS}/vulnerabilities"), &[("mds", "Not affected")]);
    tree.files(CPUS, &[("nohz_full", "(null)"), ("isolated", "1")]);
    tree.file("proc/cpuinfo", "processor: 0\nflags: fpu sse\nmicrocode: 0x2b\n");
    let cpu = cpu(&tree);
    let policy = &cpu.frequency[0];
    check(
        &(policy.pus.to_string(), &policy.governor, policy.min_khz, policy.hardware_max_khz),
        expect![[r#"("0-1", Some("performance"), Some(1000000), Some(3200000))"#]],
    );
    let states = cpu.idle.expect("the C-states").states;
    check(
        &states,
        expect![[
            r#"[IdleState { pu: 0, name: "C6", latency_us: Some(133), residency_us: Some(600), disabled: Some(true) }]"#
        ]],
    );
    let sets = (cpu.nohz_full, cpu.isolated.map(|set| set.to_string()));
    check(
        &(cpu.boost, cpu.smt_active, sets, cpu.flags, cpu.microcode, cpu.vulnerabilities),
        expect![[
            r#"(Some(true), Some(false), (Some(IdSet([])), Some("1")), ["fpu", "sse"], Some("0x2b"), {"mds": "Not affected"})"#
        ]],
    );
}

#[test]
fn a_pu_that_shares_a_far_cache_is_asked_for_its_near_ones() {
    let tree = Tree::new();
    let l2 = [("level", "2"), ("type", "Unified"), ("size", "4096K"), ("shared_cpu_list", "0-1")];
    let l1 = [("level", "1"), ("type", "Data"), ("size", "32K"), ("shared_cpu_list", "1")];
    tree.files(&format!("{CPUS}/cpu0/cache/index2"), &l2);
    tree.files(&format!("{CPUS}/cpu1/cache/index2"), &l2)
        .files(&format!("{CPUS}/cpu1/cache/index0"), &l1);
    let told = counted(&tree);
    assert_eq!((told.l1d, told.l2), (1, 1));
}

/// What one PU may cost on a large machine; the limits are the project's own.
const MAX_READS: f64 = 12.0;
const MAX_OPENS: f64 = 14.0;

#[track_caller]
fn check_cost(root: &Root, pus: usize) {
    let (opens, reads) = (root.opens(), root.reads());
    for part in [Part::Cpu, Part::Numa] {
        purlin_drivers::read(part, root);
    }
    let of_one = |all: u64| all as f64 / pus as f64;
    let (opens, reads) = (of_one(root.opens() - opens), of_one(root.reads() - reads));
    println!("a PU costs {reads:.2} reads and {opens:.2} opens");
    assert!(reads <= MAX_READS && opens <= MAX_OPENS, "{reads} reads, {opens} opens");
}

#[test]
fn a_machine_of_256_pus_is_read_within_the_budget() {
    let tree = Tree::new();
    for pu in 0..256_u32 {
        let core = pu % 128;
        let pair = format!("{core},{}", core + 128);
        let of = |size: u32| {
            let first = core / size * size;
            let last = first + size - 1;
            format!("{first}-{last},{}-{}", first + 128, last + 128)
        };
        topology(
            &tree,
            pu,
            &[
                ("physical_package_id", &(core / 64).to_string()),
                ("package_cpus_list", &of(64)),
                ("die_id", &(core / 32).to_string()),
                ("die_cpus_list", &of(32)),
                ("cluster_id", &(core / 8).to_string()),
                ("cluster_cpus_list", &of(8)),
                ("core_id", &(core % 64).to_string()),
                ("core_cpus_list", &pair),
            ],
        );
        for (index, level, kind, size, shared) in [
            (0, "1", "Data", "32K", pair.clone()),
            (1, "1", "Instruction", "32K", pair.clone()),
            (2, "2", "Unified", "1024K", pair.clone()),
            (3, "3", "Unified", "32768K", of(8)),
        ] {
            tree.files(
                &format!("{CPUS}/cpu{pu}/cache/index{index}"),
                &[
                    ("level", level),
                    ("type", kind),
                    ("size", size),
                    ("ways_of_associativity", "8"),
                    ("number_of_sets", "64"),
                    ("coherency_line_size", "64"),
                    ("id", "0"),
                    ("shared_cpu_list", &shared),
                ],
            );
        }
        tree.files(&format!("{CPUS}/cpu{pu}"), &[("cpu_capacity", "1024")]);
        tree.files(
            &format!("{CPUS}/cpu{pu}/cpuidle/state0"),
            &[("name", "POLL"), ("latency", "0")],
        );
        tree.files(
            &format!("{CPUS}/cpufreq/policy{pu}"),
            &[
                ("related_cpus", &pu.to_string()),
                ("scaling_driver", "amd-pstate-epp"),
                ("scaling_governor", "performance"),
                ("scaling_min_freq", "400000"),
                ("scaling_max_freq", "3500000"),
                ("cpuinfo_min_freq", "400000"),
                ("cpuinfo_max_freq", "3500000"),
                ("energy_performance_preference", "performance"),
            ],
        );
    }
    tree.files(&format!("{CPUS}/cpuidle"), &[("current_driver", "acpi_idle")]);
    tree.files(CPUS, &[("online", "0-255"), ("possible", "0-255"), ("present", "0-255")]);
    tree.node(0, "0-63,128-191", 1024, "10 32").node(1, "64-127,192-255", 1024, "32 10");
    let told = counted(&tree);
    assert_eq!((told.packages, told.dies, told.cores, told.pus), (2, 4, 128, 256));
    assert_eq!((told.l1d, told.l2, told.l3), (128, 128, 16));
    check_cost(&tree.root(), 256);
}

#[test]
fn the_largest_dump_is_read_within_the_budget() {
    let beside = || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let corpus = std::env::var_os("PURLIN_CORPUS").map_or_else(beside, Into::into);
    let archive = corpus.join("dumps/hwloc_256ppc-8n8s4t.tar.xz");
    if !archive.is_file() {
        println!("skipped: no corpus of dumps (set PURLIN_CORPUS)");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let tar = std::process::Command::new("tar")
        .arg("xJf")
        .arg(archive)
        .arg("-C")
        .arg(dir.path())
        .status();
    assert!(tar.expect("tar runs").success());
    check_cost(&Root::dump(dir.path()).expect("a dump's root"), 256);
}

#[test]
fn what_is_said_to_be_online_and_contradicts_itself_is_a_problem() {
    let told = |online: &str, siblings: &str| {
        let tree = Tree::new();
        tree.files(CPUS, &[("present", "0-2"), ("online", online)]);
        for (pu, id) in [(0, "0"), (1, "1")] {
            let files =
                [("physical_package_id", "0"), ("core_id", id), ("core_siblings_list", siblings)];
            topology(&tree, pu, &files);
        }
        tree.file(&format!("{CPUS}/cpu2/online"), "0\n")
            .file(&format!("{CPUS}/cpu3/online"), "0\n");
        let problems = problems_of(&tree.read(), Part::Cpu);
        problems
            .into_iter()
            .map(|it| it.replace("/sys/devices/system/cpu", "") + "\n")
            .collect::<String>()
    };
    expect![""].assert_eq(&told("0-1", "0-1"));
    expect![[r#"
        /cpu2: has no topology, though the CPU is online and others have one
    "#]]
    .assert_eq(&told("0-2", "0-1"));
    expect![[r#"
        /online: names CPU 3, which is not present
        /cpu3: has no topology, though the CPU is online and others have one
    "#]]
    .assert_eq(&told("0-1,3", "0-1"));
    expect![[r#"
        /cpu0/topology: package_cpus names CPU 1, which is not online
    "#]]
    .assert_eq(&told("0", "0-1"));
}

#[test]
fn cores_of_one_design_that_go_a_little_faster_are_no_kind() {
    let kinds = |speeds: [(&str, Option<&str>); 3]| {
        let tree = Tree::new();
        for (pu, (khz, base)) in speeds.into_iter().enumerate() {
            topology(
                &tree,
                pu as u32,
                &[("physical_package_id", "0"), ("core_id", &pu.to_string())],
            );
            let policy = format!("{CPUS}/cpufreq/policy{pu}");
            tree.files(&policy, &[("related_cpus", &pu.to_string()), ("cpuinfo_max_freq", khz)]);
            if let Some(base) = base {
                tree.files(&policy, &[("base_frequency", base)]);
            }
        }
        cpu(&tree).kinds.len()
    };
    let (slow, fast) = ("2800000", "3000000");
    assert_eq!(kinds([(slow, None), (fast, None), (slow, None)]), 0);
    assert_eq!(
        kinds([(slow, Some("1400000")), (fast, Some("1400000")), (slow, Some("1400000"))]),
        0
    );
    assert_eq!(
        kinds([(slow, Some("1400000")), (fast, Some("2000000")), (slow, Some("1400000"))]),
        2
    );
    assert_eq!(kinds([(slow, None), ("4000000", None), (slow, None)]), 2);
}

#[test]
fn clusters_are_groups_of_cores_between_package_and_core() {
    let tree = Tree::new();
    for pu in 0..8_u32 {
        let four = format!("{}-{}", pu / 4 * 4, pu / 4 * 4 + 3);
        topology(
            &tree,
            pu,
            &[
                ("physical_package_id", "0"),
                ("package_cpus_list", "0-7"),
                ("cluster_id", &(pu / 4 * 100).to_string()),
                ("cluster_cpus_list", &four),
                ("core_id", &pu.to_string()),
                ("core_cpus_list", &pu.to_string()),
            ],
        );
    }
    let cpu = cpu(&tree);
    check(&groups(&cpu, GroupKind::Cluster), expect![[r#""0:Some(0):0-3 1:Some(100):4-7""#]]);
    assert_eq!((cpu.packages(), cpu.cores()), (1, 8));
}

#[test]
fn a_list_that_ends_in_a_nul_is_read_to_its_end() {
    let tree = Tree::new();
    tree.file(&format!("{CPUS}/online"), "0-1\n\0").file(&format!("{CPUS}/present"), "0-1\0");
    for pu in 0..2 {
        topology(&tree, pu, &[("physical_package_id", "0"), ("core_siblings_list", "0-1\n\0")]);
    }
    tree.node(0, "0-1\0", 1024, "10");
    let inventory = tree.read();
    assert_eq!(problems_of(&inventory, Part::Cpu), Vec::<String>::new());
    let told = counts(&inventory);
    assert_eq!((told.packages, told.pus, told.kernel_present_cpus), (1, 2, Some(2)));
}

#[test]
fn packages_of_pus_without_a_core_id_are_still_packages() {
    let tree = Tree::new();
    for (pu, package, mask) in [(0, "0", "3"), (1, "0", "3"), (2, "1", "c"), (3, "1", "c")] {
        topology(&tree, pu, &[("physical_package_id", package), ("core_siblings", mask)]);
    }
    let inventory = tree.read();
    assert_eq!(problems_of(&inventory, Part::Cpu), Vec::<String>::new());
    let told = counts(&inventory);
    assert_eq!((told.packages, told.cores, told.pus), (2, 0, 4));
}

#[test]
fn a_machine_whose_node_0_has_no_memory_and_whose_cpus_are_on_far_nodes() {
    let tree = Tree::new();
    tree.files(CPUS, &[("online", "1-2"), ("present", "0-2")]);
    for pu in 1..3_u32 {
        topology(&tree, pu, &[("physical_package_id", &pu.to_string()), ("core_id", "0")]);
    }
    tree.file(&format!("{CPUS}/cpu0/online"), "0\n");
    for (id, cpus) in [(0, ""), (1, "1"), (16, "2"), (17, "")] {
        tree.node(id, cpus, if id == 0 { 0 } else { 1024 }, "10 20 40 80");
    }
    let inventory = tree.read();
    let told = counts(&inventory);
    assert_eq!((told.packages, told.pus, told.pus_complete), (2, 2, 3));
    assert_eq!((told.numa_nodes, told.sysfs_nodes, told.mem_kib), (3, 4, 3072));
    assert_eq!((told.sysfs_cpuless_nodes, told.sysfs_memless_nodes), (2, 1));
}
