//! PCI: small machines made up for one trait each.

use expect_test::expect;
use purlin_core::inventory::{PciDevice, PciLink, Problem};
use purlin_drivers::pci;

mod tree;

use tree::{Tree, check};

/// A function at the end of a path below `/sys/devices`.
fn function(tree: &Tree, path: &str, class: &str, files: &[(&str, &str)]) {
    let address = path.rsplit('/').next().expect("an address");
    tree.link(&format!("sys/bus/pci/devices/{address}"), &format!("../../../devices/{path}"));
    let dir = format!("sys/devices/{path}");
    tree.files(&dir, &[("class", class), ("vendor", "0x8086"), ("device", "0x0001")]);
    tree.files(&dir, files);
}

/// A bridge or endpoint with a link, now and at most.
fn linked(tree: &Tree, path: &str, class: &str, now: (&str, &str), most: (&str, &str)) {
    let files = [
        ("current_link_speed", now.0),
        ("current_link_width", now.1),
        ("max_link_speed", most.0),
        ("max_link_width", most.1),
    ];
    function(tree, path, class, &files);
}

fn nodes(tree: &Tree, nodes: &[&str]) {
    for (id, cpus) in nodes.iter().enumerate() {
        tree.files(&format!("sys/devices/system/node/node{id}"), &[("cpulist", cpus)]);
    }
}

fn read(tree: &Tree) -> (Vec<PciDevice>, Vec<Problem>) {
    let (devices, problems) = pci::read(&tree.root());
    (devices.expect("the functions"), problems)
}

/// The functions of a tree that has nothing wrong.
fn devices(tree: &Tree) -> Vec<PciDevice> {
    let (devices, problems) = read(tree);
    assert_eq!(problems, []);
    devices
}

const BRIDGE: &str = "0x060400";
const ETHERNET: &str = "0x020000";
const GPU: &str = "0x030000";

#[test]
fn a_domain_of_32_bits_starts_a_tree_of_its_own_and_has_its_makers_node() {
    let tree = Tree::new();
    let vmd = "pci0000:80/0000:80:0e.0";
    nodes(&tree, &["0-3", "4-7"]);
    function(&tree, vmd, "0x010400", &[("numa_node", "1")]);
    function(&tree, &format!("{vmd}/pci10000:e0/10000:e0:06.0"), BRIDGE, &[("numa_node", "-1")]);
    let disk = format!("{vmd}/pci10000:e0/10000:e0:06.0/10000:e1:00.0");
    function(&tree, &disk, "0x010802", &[("numa_node", "-1")]);
    let told: Vec<_> =
        devices(&tree).into_iter().map(|it| (it.address, it.parent, it.node)).collect();
    check(
        &told,
        expect![[
            r#"[("0000:80:0e.0", None, Some(1)), ("10000:e0:06.0", None, Some(1)), ("10000:e1:00.0", Some("10000:e0:06.0"), Some(1))]"#
        ]],
    );
}

#[test]
fn virtual_functions_and_their_physical_one_know_each_other() {
    let tree = Tree::new();
    let port = "pci0000:00/0000:00:01.0";
    let physical = format!("{port}/0000:01:00.0");
    function(&tree, port, BRIDGE, &[]);
    function(
        &tree,
        &physical,
        ETHERNET,
        &[("sriov_totalvfs", "64"), ("sriov_numvfs", "11"), ("sriov_vf_device", "154c")],
    );
    // Ten and more: the links sort by number, not by name.
    for number in 0..11 {
        let address = format!("0000:01:02.{number:x}");
        let address = if number < 8 { address } else { format!("0000:01:03.{}", number - 8) };
        function(&tree, &format!("{port}/{address}"), ETHERNET, &[]);
        tree.link(&format!("sys/devices/{physical}/virtfn{number}"), &format!("../{address}"));
        tree.link(&format!("sys/devices/{port}/{address}/physfn"), "../0000:01:00.0");
    }
    let devices = devices(&tree);
    let sriov = devices[1].sriov.as_ref().expect("a physical function");
    assert_eq!((sriov.most, sriov.enabled, sriov.device), (64, Some(11), Some(0x154c)));
    assert_eq!(sriov.functions.len(), 11);
    assert_eq!(sriov.functions[10], "0000:01:03.2");
    assert_eq!(devices[12].physical.as_deref(), Some("0000:01:00.0"));
}

const SLOW: &str = "2.5 GT/s PCIe";
const GEN3: &str = "8.0 GT/s PCIe";
const GEN4: &str = "16.0 GT/s PCIe";

#[test]
fn a_link_below_what_both_ends_can_do_is_downgraded() {
    let tree = Tree::new();
    linked(&tree, "pci0000:00/0000:00:01.0", BRIDGE, (GEN3, "8"), (GEN4, "16"));
    linked(&tree, "pci0000:00/0000:00:01.0/0000:01:00.0", GPU, (GEN3, "8"), (GEN4, "16"));
    let devices = devices(&tree);
    assert_eq!(devices[1].is_downgraded(), Some(true));
    assert_eq!(devices[1].link_both, Some(PciLink { gt_per_s: 16.0, width: 16 }));
    // The port's own link is told by what is below it.
    assert_eq!(devices[0].is_downgraded(), None);
}

#[test]
fn a_link_that_the_slot_limits_is_not_downgraded() {
    let tree = Tree::new();
    linked(&tree, "pci0000:00/0000:00:01.0", BRIDGE, (GEN3, "8"), (GEN3, "8"));
    linked(&tree, "pci0000:00/0000:00:01.0/0000:01:00.0", GPU, (GEN3, "8"), (GEN4, "16"));
    assert_eq!(devices(&tree)[1].is_downgraded(), Some(false));
}

#[test]
fn behind_a_switch_each_link_is_judged_by_its_own_ends() {
    let tree = Tree::new();
    let root = "pci0000:00/0000:00:01.0";
    let up = format!("{root}/0000:01:00.0");
    let down = format!("{up}/0000:02:00.0");
    linked(&tree, root, BRIDGE, (GEN3, "16"), (GEN3, "16"));
    linked(&tree, &up, BRIDGE, (GEN3, "16"), (GEN4, "16"));
    linked(&tree, &down, BRIDGE, (SLOW, "4"), (GEN4, "16"));
    linked(&tree, &format!("{down}/0000:03:00.0"), GPU, (SLOW, "4"), (GEN4, "4"));
    let told: Vec<_> = devices(&tree).iter().map(PciDevice::is_downgraded).collect();
    check(&told, expect!["[None, Some(false), None, Some(true)]"]);
}

#[test]
fn a_link_without_a_known_other_end_is_not_judged() {
    let tree = Tree::new();
    let port = "pci0000:00/0000:00:02.0";
    // On a root bus: integrated, or the port is the host's.
    linked(&tree, "pci0000:00/0000:00:01.0", GPU, (SLOW, "1"), (GEN4, "16"));
    linked(&tree, port, BRIDGE, (GEN3, "8"), (GEN4, "16"));
    // A port made up by a hypervisor tells another link than the card below.
    linked(&tree, &format!("{port}/0000:01:00.0"), GPU, (SLOW, "1"), (GEN4, "16"));
    let nothing = ("Unknown", "0");
    linked(&tree, &format!("{port}/0000:01:00.1"), ETHERNET, nothing, (GEN4, "16"));
    linked(&tree, &format!("{port}/0000:01:00.2"), ETHERNET, (GEN3, "8"), (GEN4, "16"));
    tree.link(&format!("sys/devices/{port}/0000:01:00.2/physfn"), "../0000:01:00.0");
    let devices = devices(&tree);
    assert!(devices.iter().all(|it| it.is_downgraded().is_none()), "{devices:?}");
}

#[test]
fn error_counters_tell_total_and_kinds() {
    let tree = Tree::new();
    let files = [
        ("aer_dev_correctable", "RxErr 2\nBadTLP 0\nTOTAL_ERR_COR 2"),
        ("aer_dev_nonfatal", "Undefined 0\nTOTAL_ERR_NONFATAL 0"),
        ("aer_dev_fatal", "nonsense"),
        ("aer_rootport_total_err_cor", "7"),
        ("aer_rootport_total_err_nonfatal", "0"),
        ("aer_rootport_total_err_fatal", "1"),
    ];
    function(&tree, "pci0000:00/0000:00:01.0", BRIDGE, &files);
    check(
        &devices(&tree)[0].errors,
        expect![[
            r#"Some(PciErrors { correctable: Some(PciErrorCount { total: 2, kinds: {"RxErr": 2} }), nonfatal: Some(PciErrorCount { total: 0, kinds: {} }), fatal: None, below: Some(PciRootErrors { correctable: 7, nonfatal: 0, fatal: 1 }) })"#
        ]],
    );
}

#[test]
fn iommu_group_slot_and_state_are_told() {
    let tree = Tree::new();
    let port = "pci0000:00/0000:00:01.0";
    let card = format!("{port}/0000:01:00.0");
    function(&tree, port, BRIDGE, &[]);
    let files = [
        ("enable", "1"),
        ("power_state", "D3hot"),
        ("driver_override", "vfio-pci"),
        ("revision", "0xa1"),
        ("subsystem_vendor", "0x10de"),
        ("subsystem_device", "0x1626"),
    ];
    function(&tree, &card, GPU, &files);
    // A switch on the card: what is below it sits in the same slot.
    function(&tree, &format!("{card}/0000:02:00.0"), GPU, &[("driver_override", "(null)")]);
    tree.link(&format!("sys/devices/{card}/iommu_group"), "../../../../kernel/iommu_groups/14");
    tree.files("sys/kernel/iommu_groups/14", &[("type", "DMA-FQ")]);
    tree.files("sys/bus/pci/slots/3-1", &[("address", "0000:01:00")]);
    tree.files("sys/bus/pci/slots/4", &[("address", "0000:09:00")]);
    let devices = devices(&tree);
    let it = &devices[1];
    check(
        &(&it.slot, it.iommu_group, &it.iommu_type, it.enabled, &it.power_state),
        expect![[r#"(Some("3-1"), Some(14), Some("DMA-FQ"), Some(true), Some("D3hot"))"#]],
    );
    check(
        &(&it.driver_override, it.revision, it.subsystem_vendor, it.subsystem_device),
        expect![[r#"(Some("vfio-pci"), Some(161), Some(4318), Some(5670))"#]],
    );
    assert_eq!((&devices[0].slot, &devices[2].driver_override), (&None, &None));
    assert_eq!(devices[2].slot.as_deref(), Some("3-1"));
}

/// One SMBIOS structure that names the place of a function, `[segment, segment,
/// bus, device and function]`: a slot (type 9) or an onboard device (type 41).
fn named(kind: u8, address: [u8; 4], name: &str) -> Vec<u8> {
    let (length, at) = if kind == 9 { (0x11, 0x0d) } else { (0x0b, 0x07) };
    let mut area = vec![0; length];
    (area[0], area[1], area[4]) = (kind, length as u8, 1);
    area[at..at + 4].copy_from_slice(&address);
    [area, name.into(), vec![0, 0]].concat()
}

#[test]
fn a_place_has_the_name_that_the_board_gives_it() {
    let tree = Tree::new();
    let port = "pci0000:00/0000:00:01.0";
    function(&tree, port, BRIDGE, &[]);
    function(&tree, &format!("{port}/0000:01:00.0"), GPU, &[]);
    function(&tree, &format!("{port}/0000:01:00.1"), "0x040300", &[]);
    function(&tree, "pci0000:00/0000:00:01.1", BRIDGE, &[]);
    function(&tree, "pci0000:00/0000:00:1f.6", ETHERNET, &[]);
    let slot = named(9, [0, 0, 0, 0x08], "PCIE1 (CPU1)");
    let onboard = named(41, [0, 0, 0, 0xfe], "Onboard LAN");
    let table = [slot, onboard, vec![127, 4, 0, 0, 0, 0]].concat();
    tree.file("sys/firmware/dmi/tables/DMI", table);
    let labels: Vec<_> = devices(&tree).into_iter().map(|it| (it.address, it.label)).collect();
    check(
        &labels,
        expect![[
            r#"[("0000:00:01.0", Some("PCIE1 (CPU1)")), ("0000:00:01.1", None), ("0000:00:1f.6", Some("Onboard LAN")), ("0000:01:00.0", Some("PCIE1 (CPU1)")), ("0000:01:00.1", Some("PCIE1 (CPU1)"))]"#
        ]],
    );
}

#[test]
fn a_damaged_table_names_nothing_and_is_not_told_by_pci() {
    let tree = Tree::new();
    function(&tree, "pci0000:00/0000:00:01.0", ETHERNET, &[]);
    tree.file("sys/firmware/dmi/tables/DMI", [9, 200, 0, 0]);
    assert_eq!(devices(&tree)[0].label, None);
}

#[test]
fn names_come_from_an_installed_list() {
    let tree = Tree::new();
    function(
        &tree,
        "pci0000:00/0000:00:01.0",
        ETHERNET,
        &[("subsystem_vendor", "0x8086"), ("subsystem_device", "0x0007")],
    );
    let list = "8086  Intel\n\t0001  Ethernet X\n\t\t8086 0007  Ethernet X for OCP\n\
                C 02  Network controller\n\t00  Ethernet controller";
    tree.files("usr/share/misc", &[("pci.ids", list)]);
    let it = devices(&tree).remove(0);
    check(
        &(it.name, it.subsystem_name, it.class_name),
        expect![[
            r#"(Some("Intel Ethernet X"), Some("Ethernet X for OCP"), Some("Ethernet controller"))"#
        ]],
    );
}

#[test]
fn contradictory_affinity_is_told_once_a_root_bus() {
    let tree = Tree::new();
    nodes(&tree, &["0-3", "4-7"]);
    let near = |node, cpus| [("numa_node", node), ("local_cpulist", cpus)];
    for device in 0..3 {
        function(&tree, &format!("pci0000:00/0000:00:0{device}.0"), ETHERNET, &near("-1", "0-7"));
        function(&tree, &format!("pci0000:40/0000:40:0{device}.0"), ETHERNET, &near("1", "0-3"));
    }
    function(&tree, "pci0000:80/0000:80:00.0", ETHERNET, &near("9", "0-3"));
    function(&tree, "pci0000:c0/0000:c0:00.0", ETHERNET, &near("0", "0-3"));
    let (_, problems) = read(&tree);
    let told: String = problems.iter().map(|it| format!("{}: {}\n", it.at, it.what)).collect();
    expect![[r#"
        pci0000:00: no NUMA node is told for 3 functions from 0000:00:00.0; a firmware update may repair it
        pci0000:40: the CPUs told as near are not those of the NUMA node told for 3 functions from 0000:40:00.0; a firmware update may repair it
        pci0000:80: a NUMA node is told that isn't there for 0000:80:00.0; a firmware update may repair it
    "#]]
    .assert_eq(&told);
}

#[test]
fn no_node_on_a_machine_of_one_is_no_problem() {
    let tree = Tree::new();
    nodes(&tree, &["0-7"]);
    let files = [("numa_node", "-1"), ("local_cpulist", "0-7")];
    function(&tree, "pci0000:00/0000:00:01.0", ETHERNET, &files);
    assert_eq!(devices(&tree)[0].node, None);
}

#[test]
fn a_function_without_a_class_is_a_problem() {
    let tree = Tree::new();
    tree.files("sys/bus/pci/devices/0000:00:01.0", &[("vendor", "0x8086")]);
    let (devices, problems) = read(&tree);
    assert_eq!((devices[0].class, devices[0].vendor, devices[0].device), (0, Some(0x8086), None));
    check(&problems[0].at, expect![[r#""/sys/bus/pci/devices/0000:00:01.0/class""#]]);
}

mod corpus {
    //! The dumps of real machines that have PCI: what we count against what
    //! `expected.tsv` has, and every problem told, by name.

    use std::{
        collections::BTreeMap,
        fs,
        path::{Path, PathBuf},
        process::Command,
    };

    use expect_test::expect;
    use purlin_drivers::{Root, pci};

    /// The most files read of a function: its 16 of identity, place, state and
    /// link, three error counters, and two of what only ports or PFs have.
    const READS: u64 = 21;
    /// Opens of a function that read nothing: its directory, where it sits, and
    /// its links to driver, group and physical function.
    const LINKS: u64 = 5;
    /// What is read once a machine, or once a node, slot or IOMMU group.
    const ONCE: u64 = 64;

    #[test]
    fn real_machines_read_with_no_problem_that_is_not_in_the_dump() {
        let Some(corpus) = corpus() else {
            println!("skipped: no corpus of dumps (set PURLIN_CORPUS)");
            return;
        };
        let mut problems = String::new();
        for row in rows(&corpus) {
            let id = &row["id"];
            if row["sysfs_pci"] == "0" {
                continue;
            }
            // In memory where there is such a place: a dump is thousands of files.
            let dir = tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .expect("a temporary directory");
            let name = format!("{}.tar.xz", id.replacen('/', "_", 1));
            let archive = corpus.join("dumps").join(name);
            let tar =
                Command::new("tar").arg("xJf").arg(&archive).arg("-C").arg(dir.path()).status();
            assert!(tar.expect("tar runs").success(), "{} unpacks", archive.display());
            let root = Root::dump(dir.path()).expect("a dump's root");
            let before = root.opens();
            let (devices, told) = pci::read(&root);
            let (opens, reads) = (root.opens() - before, root.reads());
            let devices = devices.expect("the functions");
            let cost = format!("{id}: {opens} opens, {reads} reads of {} functions", devices.len());
            assert!(reads <= READS * devices.len() as u64 + ONCE, "{cost}");
            assert!(opens - reads <= LINKS * devices.len() as u64 + ONCE, "{cost}");
            println!("{cost}");
            assert_eq!(devices.len().to_string(), row["sysfs_pci"], "{id}");
            // hwloc counts a bridge only where the dump has a `config`, which
            // we never read; where it has some, it has all, and we agree.
            let bridges = devices.iter().filter(|it| it.is_bridge()).count();
            if row["pci_bridge"] != "0" {
                assert_eq!(bridges.to_string(), row["pci_bridge"], "{id}");
            }
            assert!(devices.iter().all(|it| it.parent.as_deref() != Some(it.address.as_str())));
            told.iter().for_each(|it| problems += &format!("{id}: {}: {}\n", it.at, it.what));
        }
        expect![[r#"
            ghw/linux-amd64-8581cf3a529e5d8b97ea876eade2f60d: pci0000:00: no NUMA node is told for 24 functions from 0000:00:00.0; a firmware update may repair it
            ghw/linux-amd64-8581cf3a529e5d8b97ea876eade2f60d: pci0000:fe: no NUMA node is told for 24 functions from 0000:fe:00.0; a firmware update may repair it
            ghw/linux-amd64-8581cf3a529e5d8b97ea876eade2f60d: pci0000:ff: no NUMA node is told for 24 functions from 0000:ff:00.0; a firmware update may repair it
            hwloc/40intel64-2g2n4c+pcilocality: pci0000:00: no NUMA node is told for 28 functions from 0000:00:00.0; a firmware update may repair it
            hwloc/40intel64-2g2n4c+pcilocality: pci0000:40: no NUMA node is told for 8 functions from 0000:40:01.0; a firmware update may repair it
            hwloc/40intel64-2g2n4c+pcilocality: pci0000:40: the CPUs told as near are not those of the NUMA node told for 0000:43:00.0; a firmware update may repair it
        "#]].assert_eq(&problems);
    }

    fn corpus() -> Option<PathBuf> {
        let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
        let corpus = std::env::var_os("PURLIN_CORPUS").map_or_else(beside, PathBuf::from);
        corpus.join("expected.tsv").is_file().then_some(corpus)
    }

    fn rows(corpus: &Path) -> Vec<BTreeMap<String, String>> {
        let table = fs::read_to_string(corpus.join("expected.tsv")).expect("a readable table");
        let mut lines = table.lines().map(|line| line.split('\t').map(str::to_owned));
        let header: Vec<String> = lines.next().expect("a header").collect();
        lines.map(|line| header.iter().cloned().zip(line).collect()).collect()
    }
}
