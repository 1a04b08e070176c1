//! Small machines made up for one trait each, so that a clone without the
//! corpus is tested too.

mod tree;

use std::{fs, path::Path};

use expect_test::expect;
use purlin_core::{
    inventory::{Inventory, NodeFlag, Part, SensorKind},
    metric::Sampler,
};
use purlin_drivers::{OpenError, Root};

use crate::tree::{Tree, check, problems_of};

#[test]
fn two_sockets_share_no_cache_and_no_node() {
    let tree = Tree::new();
    for (id, package, core, l3) in
        [(0, 0, 0, "0-1"), (1, 0, 1, "0-1"), (2, 1, 0, "2-3"), (3, 1, 1, "2-3")]
    {
        tree.pu(id, package, core, l3);
    }
    tree.node(0, "0-1", 1024, "10 21").node(1, "2-3", 2048, "21 10");
    tree.files("sys/devices/system/cpu", &[("online", "0-3"), ("possible", "0-7")]);
    let inventory = tree.read();

    let cpu = inventory.cpu.expect("the CPUs");
    assert_eq!((cpu.packages(), cpu.cores(), cpu.pus.len()), (2, 4, 4));
    let node_of_pu: Vec<_> = cpu.pus.iter().map(|pu| pu.node).collect();
    check(&node_of_pu, expect!["[Some(0), Some(0), Some(1), Some(1)]"]);
    let caches: Vec<_> =
        cpu.caches.iter().map(|it| (it.level, it.size, it.shared_by.to_string())).collect();
    check(
        &caches,
        expect![[
            r#"[(1, Some(32768), "0"), (1, Some(32768), "1"), (1, Some(32768), "2"), (1, Some(32768), "3"), (3, Some(8388608), "0-1"), (3, Some(8388608), "2-3")]"#
        ]],
    );
    let nodes = inventory.numa.expect("the nodes");
    check(&nodes[1].distances, expect!["{0: 21, 1: 10}"]);
    assert_eq!(nodes[1].memory, Some(2 << 20));
}

#[test]
fn a_node_without_cpus_is_a_node() {
    let tree = Tree::new();
    tree.pu(0, 0, 0, "0").node(0, "0", 1024, "10 40").node(16, "", 4096, "40 10");
    let nodes = tree.read().numa.expect("the nodes");
    assert_eq!(nodes.len(), 2);
    assert!(nodes[1].is(NodeFlag::CpuLess));
    check(&nodes[1].distances, expect!["{0: 40, 16: 10}"]);
}

#[test]
fn an_offline_cpu_is_present_but_no_pu() {
    let tree = Tree::new();
    tree.pu(1, 0, 1, "1").files("sys/devices/system/cpu/cpu0", &[("online", "0")]);
    tree.files("sys/devices/system/cpu", &[("online", "1"), ("present", "0-1")]);
    let cpu = tree.read().cpu.expect("the CPUs");
    check(&cpu.pus.iter().map(|pu| pu.id).collect::<Vec<_>>(), expect!["[1]"]);
    assert_eq!(cpu.present.map(|set| set.len()), Some(2));
}

#[test]
fn an_old_kernel_tells_what_is_online_cpu_by_cpu() {
    let tree = Tree::new();
    tree.pu(0, 0, 0, "0").pu(1, 0, 1, "1").files("sys/devices/system/cpu/cpu1", &[("online", "0")]);
    let cpu = tree.read().cpu.expect("the CPUs");
    assert_eq!(cpu.online.map(|set| set.to_string()).as_deref(), Some("0"));
}

#[test]
fn a_link_out_of_a_dump_leads_nowhere() {
    let outside = tempfile::tempdir().expect("a temporary directory");
    fs::write(outside.path().join("secret"), "of the live host").expect("a file");
    let absolute = outside.path().join("secret");
    let tree = Tree::new();
    tree.link("sys/class/dmi/id/product_name", absolute.to_str().expect("UTF-8"));
    tree.link("sys/class/dmi/id/sys_vendor", "../../../../../../../../../etc/hostname");
    tree.link("proc/meminfo", "/proc/meminfo");
    let root = tree.root();
    assert!(root.read("/sys/class/dmi/id/product_name").is_err());
    assert!(root.read("/sys/class/dmi/id/sys_vendor").is_err());
    assert!(root.read("/../../etc/hostname").is_err());
    let inventory = tree.read();
    assert_eq!((inventory.platform, inventory.memory), (None, None));
}

#[test]
fn an_absolute_link_within_a_dump_is_followed() {
    let tree = Tree::new();
    tree.file("sys/firmware/devicetree/base/model", "Some Board\0");
    tree.link("proc/device-tree", "/sys/firmware/devicetree/base");
    let model = tree.root().read("/proc/device-tree/model").expect("the model");
    assert_eq!(model, "Some Board");
}

#[test]
fn only_plain_files_are_opened_in_a_dump() {
    let tree = Tree::new();
    nix::unistd::mkfifo(&tree.at("proc/meminfo"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    check(
        &problems_of(&tree.read(), Part::Memory),
        expect![[r#"["/proc/meminfo: is not a plain file"]"#]],
    );
}

#[test]
fn a_directory_confines_what_is_opened_through_it() {
    let outside = tempfile::tempdir().expect("a temporary directory");
    fs::write(outside.path().join("secret"), "of the live host").expect("a file");
    let tree = Tree::new();
    tree.files("sys/a", &[("plain", "1")]).link("sys/a/inside", "/sys/a/plain");
    tree.link("sys/a/outside", outside.path().join("secret").to_str().expect("UTF-8"));
    tree.link("sys/a/above", outside.path().to_str().expect("UTF-8"));
    nix::unistd::mkfifo(&tree.at("sys/a/pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let root = tree.root();
    let dir = root.dir("/sys/a").expect("the directory");
    assert_eq!(dir.read("plain").expect("a plain file"), "1");
    assert_eq!(dir.read("inside").expect("a link within"), "1");
    for name in ["outside", "pipe", "above", "absent", "../a/plain", "."] {
        assert!(dir.read(name).is_err() && dir.dir(name).is_err(), "{name}");
    }
}

#[test]
fn a_file_of_an_open_directory_costs_one_open_and_an_absent_one_nothing() {
    let tree = Tree::new();
    tree.files("sys/a/b", &[("one", "1"), ("two", "2")]);
    let root = tree.root();
    let before = root.opens();
    let dir = root.dir("/sys/a").and_then(|dir| dir.dir("b")).expect("the directory");
    assert_eq!((dir.read("one").ok().as_deref(), dir.read("two").is_ok()), (Some("1"), true));
    assert!(dir.read("three").is_err() && !dir.has("three"));
    assert_eq!((root.opens() - before, root.reads()), (4, 2));
}

#[test]
fn an_empty_root_is_all_problems() {
    let inventory = Tree::new().read();
    let silent: Vec<_> =
        Part::ALL.iter().filter(|part| problems_of(&inventory, **part).is_empty()).collect();
    // A kernel built without NUMA shows no nodes either.
    check(&silent, expect!["[Numa]"]);
    let nothing = Inventory { problems: inventory.problems.clone(), ..Inventory::default() };
    assert_eq!(inventory, nothing);
}

#[test]
fn a_root_that_is_no_directory_is_an_error_that_says_so() {
    let error = Root::dump(Path::new("/nowhere/at/all")).expect_err("no such directory");
    assert!(matches!(error, OpenError::Directory { .. }));
    check(
        &error.to_string(),
        expect![[
            r#""/nowhere/at/all: No such file or directory; give a readable directory or tar""#
        ]],
    );
}

/// Every file that a driver asks for, filled with nonsense.
const ASKED: [&str; 40] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/driver/nvidia/gpus/0000:01:00.0/information",
    "proc/loadavg",
    "proc/meminfo",
    "proc/net/dev",
    "proc/pressure/cpu",
    "proc/pressure/io",
    "proc/pressure/memory",
    "proc/self/status",
    "proc/stat",
    "proc/sys/kernel/hostname",
    "proc/sys/kernel/osrelease",
    "sys/block/sda/device/model",
    "sys/block/sda/device/vpd_pg80",
    "sys/block/sda/queue/rotational",
    "sys/block/sda/size",
    "sys/bus/pci/devices/0000:01:00.0/class",
    "sys/bus/pci/devices/0000:01:00.0/current_link_speed",
    "sys/bus/pci/devices/0000:01:00.0/current_link_width",
    "sys/bus/pci/devices/0000:01:00.0/local_cpus",
    "sys/bus/pci/devices/0000:01:00.0/numa_node",
    "sys/bus/pci/devices/0000:01:00.0/vendor",
    "sys/class/dmi/id/product_name",
    "sys/class/hwmon/hwmon0/name",
    "sys/class/hwmon/hwmon0/temp1_input",
    "sys/class/net/eth0/address",
    "sys/class/net/eth0/mtu",
    "sys/class/net/eth0/speed",
    "sys/devices/system/cpu/cpu0/cache/index0/level",
    "sys/devices/system/cpu/cpu0/cache/index0/shared_cpu_map",
    "sys/devices/system/cpu/cpu0/online",
    "sys/devices/system/cpu/cpu0/topology/core_id",
    "sys/devices/system/cpu/online",
    "sys/devices/system/node/node0/cpumap",
    "sys/devices/system/node/node0/distance",
    "sys/devices/system/node/node0/hugepages/hugepages-9999999999999999999kB/nr_hugepages",
    "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages",
    "sys/devices/system/node/node0/meminfo",
    "usr/share/misc/pci.ids",
];

/// A xorshift generator: enough for nonsense, and the seed says it all.
fn nonsense(state: &mut u64) -> Vec<u8> {
    let mut next = || {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    };
    // Mostly bytes that parsers care for, some that are not UTF-8.
    const PIECES: [&[u8]; 16] = [
        b"0",
        b"-1",
        b"18446744073709551615",
        b" ",
        b"\n",
        b",",
        b"-",
        b":",
        b"\xff\xfe",
        b"\0",
        b"some ",
        b"cpu ",
        b"MemTotal:",
        b"kB",
        b"full",
        b"\t",
    ];
    let length = next() % 60;
    (0..length).flat_map(|_| PIECES[(next() % 16) as usize]).copied().collect()
}

#[test]
fn nonsense_in_every_file_gives_problems_and_no_panic() {
    for seed in 1..=50_u64 {
        let mut state = seed;
        let tree = Tree::new();
        for path in ASKED {
            tree.file(path, nonsense(&mut state));
        }
        println!("seed {seed}");
        assert!(!tree.read().problems.is_empty(), "seed {seed}");
        for sampler in Sampler::ALL {
            purlin_drivers::sample(sampler, &tree.root());
        }
    }
}

#[test]
fn problems_are_bounded() {
    let tree = Tree::new();
    for id in 0..200 {
        tree.files(&format!("sys/devices/system/cpu/cpu{id}/topology"), &[("core_id", "?")]);
    }
    let problems = problems_of(&tree.read(), Part::Cpu);
    check(&problems.last(), expect![[r#"Some("cpu: and 136 problems more, not listed")"#]]);
}

#[test]
fn a_virtio_device_sits_on_the_node_of_its_pci_parent() {
    let tree = Tree::new();
    let pci = "sys/devices/pci0000:40/0000:40:03.0";
    tree.files(pci, &[("class", "0x020000"), ("vendor", "0x1af4"), ("numa_node", "1")]);
    tree.link("sys/bus/pci/devices/0000:40:03.0", &format!("../../../../{pci}"));
    tree.files(&format!("{pci}/virtio1/net/eth0"), &[("mtu", "1500"), ("speed", "-1")]);
    tree.link(&format!("{pci}/virtio1/net/eth0/device"), "../../../virtio1");
    tree.link("sys/class/net/eth0", &format!("../../../{pci}/virtio1/net/eth0"));
    let nic = tree.read().nics.expect("the interfaces").remove(0);
    check(
        &(nic.physical, nic.pci, nic.node, nic.mtu, nic.speed_mbit),
        expect![[r#"(true, Some("0000:40:03.0"), Some(1), Some(1500), None)"#]],
    );
}

#[test]
fn disks_made_of_other_disks_are_left_out() {
    let tree = Tree::new();
    for name in ["loop0", "dm-0", "md127", "sda"] {
        tree.files(&format!("sys/block/{name}"), &[("size", "8")]);
    }
    tree.files("sys/block/sda/device", &[("vendor", "ATA"), ("model", "WDC  X")]);
    tree.file("sys/block/sda/device/vpd_pg80", b"\x00\x80\x00\x04WD-1");
    let disks = tree.read().storage.expect("the storage").disks;
    assert_eq!(disks.len(), 1);
    check(
        &(&disks[0].name, disks[0].size, &disks[0].model, &disks[0].serial),
        expect![[r#"("sda", Some(4096), Some("WDC X"), Some("WD-1"))"#]],
    );
}

#[test]
fn a_multipath_nvme_namespace_is_one_disk_at_its_controller() {
    let tree = Tree::new();
    let subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys0";
    let controller = "sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0";
    tree.files(subsystem, &[("model", "Example SSD"), ("firmware_rev", "1.0")]);
    tree.files(&format!("{subsystem}/nvme0n1"), &[("size", "16"), ("hidden", "0")]);
    tree.link(&format!("{subsystem}/nvme0n1/device"), "../../nvme-subsys0");
    tree.link(&format!("{subsystem}/nvme0"), &format!("../../../../../{controller}"));
    tree.files(&format!("{controller}/nvme0c0n1"), &[("size", "16"), ("hidden", "1")]);
    tree.link("sys/block/nvme0n1", &format!("../../{subsystem}/nvme0n1"));
    tree.link("sys/block/nvme0c0n1", &format!("../../{controller}/nvme0c0n1"));
    tree.files("sys/bus/pci/devices/0000:01:00.0", &[("numa_node", "1")]);
    let disks = tree.read().storage.expect("the storage").disks;
    let told: Vec<_> = disks.iter().map(|it| (&it.name, &it.model, &it.pci, it.node)).collect();
    check(&told, expect![[r#"[("nvme0n1", Some("Example SSD"), Some("0000:01:00.0"), Some(1))]"#]]);
}

#[test]
fn a_gpu_is_told_without_its_driver() {
    let tree = Tree::new();
    tree.files("sys/bus/pci/devices/0000:01:00.0", &[("class", "0x030200"), ("vendor", "0x10de")]);
    tree.files("sys/bus/pci/devices/0000:02:00.0", &[("class", "0x120000")]);
    tree.files("sys/bus/pci/devices/0000:03:00.0", &[("class", "0x020000")]);
    let model = "Model: \t\t NVIDIA H200\nGPU UUID: \t GPU-????????-????";
    tree.files("proc/driver/nvidia/gpus/0000:01:00.0", &[("information", model)]);
    let gpus = tree.read().gpus.expect("the GPUs");
    let told: Vec<_> = gpus.iter().map(|gpu| (&gpu.pci, &gpu.name, &gpu.uuid)).collect();
    check(
        &told,
        expect![[r#"[("0000:01:00.0", Some("NVIDIA H200"), None), ("0000:02:00.0", None, None)]"#]],
    );
}

#[test]
fn a_sensor_reads_in_its_unit() {
    let tree = Tree::new();
    let chip = [("name", "nvme"), ("temp1_input", "45123"), ("temp1_label", "Composite")];
    tree.files("sys/class/hwmon/hwmon3", &chip)
        .link("sys/class/hwmon/hwmon3/device", "../../nvme0");
    tree.files("sys/class/thermal/thermal_zone0", &[("temp", "1"), ("type", "nvme")]);
    let sensors = tree.read().sensors.expect("the sensors");
    assert_eq!(sensors.len(), 1);
    assert_eq!(sensors[0].kind, SensorKind::Temperature);
    check(
        &(&sensors[0].device, &sensors[0].label, sensors[0].value),
        expect![[r#"("nvme at nvme0", "Composite", Some(45.123))"#]],
    );
    let (points, _) = purlin_drivers::sample(Sampler::Temperature, &tree.root());
    check(
        &points,
        expect![[
            r#"[Point { name: "hw.temperature", unit: "Cel", attributes: [("hw.id", "nvme at nvme0/Composite"), ("hw.name", "Composite")], value: Gauge(45.123) }]"#
        ]],
    );
}

#[test]
fn partitions_and_memory_disks_are_not_sampled() {
    let tree = Tree::new();
    let names = ["sda", "sda1", "nvme0n1", "nvme0n1p2", "nvme0n10", "loop0", "dm-0"];
    let line = |name| format!("8 0 {name} 1 0 2 3 4 0 5 6 0 7 8\n");
    tree.file("proc/diskstats", names.map(line).concat());
    let (points, problems) = purlin_drivers::sample(Sampler::Disk, &tree.root());
    assert_eq!(problems, []);
    let mut devices: Vec<_> = points.iter().map(|point| point.attributes[0].1.as_str()).collect();
    devices.dedup();
    check(&devices, expect![[r#"["sda", "nvme0n1", "nvme0n10"]"#]]);
    check(&points[1].value, expect!["Counter(2560.0)"]);
}

#[test]
fn too_many_interfaces_leave_out_the_containers_first() {
    let tree = Tree::new();
    let names = (0..100).map(|id| format!("veth{id}")).chain(["zz9".to_owned()]);
    let lines = names.map(|name| format!("{name}: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"));
    let text: String =
        ["header\n".to_owned(), "header\n".to_owned()].into_iter().chain(lines).collect();
    tree.file("proc/net/dev", text);
    let (points, problems) = purlin_drivers::sample(Sampler::Network, &tree.root());
    assert_eq!(points.len(), 8 * purlin_drivers::sample::MAX_DEVICES);
    assert_eq!(points[0].attributes[0].1, "zz9");
    check(
        &problems.iter().map(|problem| &problem.what).collect::<Vec<_>>(),
        expect![[r#"["37 devices over the limit of 64 left out"]"#]],
    );
}

#[test]
fn the_live_machine_has_cpus_memory_and_no_panic() {
    let root = Root::open(Path::new("/")).expect("the live root");
    let inventory = purlin_drivers::inventory(&root);
    assert!(inventory.cpu.is_some_and(|cpu| !cpu.pus.is_empty()));
    assert!(inventory.memory.is_some_and(|memory| memory.total > Some(0)));
}
