//! Storage: small machines made up for one trait each, and the SMART decoders
//! against what smartctl read from real disks (in the corpus).

use expect_test::expect;
use purlin_core::inventory::{Disk, HealthState, Storage, StorageKind};
use purlin_drivers::storage;

mod tree;

use tree::{Tree, check};

/// A function at the end of a path below `/sys/devices`.
fn function(tree: &Tree, path: &str, class: &str, files: &[(&str, &str)]) {
    let address = path.rsplit('/').next().expect("an address");
    tree.link(&format!("sys/bus/pci/devices/{address}"), &format!("../../../devices/{path}"));
    tree.files(&format!("sys/devices/{path}"), &[("class", class)]);
    tree.files(&format!("sys/devices/{path}"), files);
}

/// A whole disk at the end of a path below `/sys/devices`, and its device.
fn block(tree: &Tree, path: &str, device: &str) {
    let name = path.rsplit('/').next().expect("a name");
    tree.files(&format!("sys/devices/{path}"), &[("size", "8"), ("ro", "0")]);
    tree.link(&format!("sys/devices/{path}/device"), device);
    tree.link(&format!("sys/block/{name}"), &format!("../devices/{path}"));
}

/// An NVMe controller below a PCI function.
fn nvme(tree: &Tree, function: &str, name: &str, files: &[(&str, &str)]) {
    let path = format!("{function}/nvme/{name}");
    tree.files(&format!("sys/devices/{path}"), &[("transport", "pcie"), ("state", "live")]);
    tree.files(&format!("sys/devices/{path}"), files);
    tree.link(&format!("sys/devices/{path}/device"), "../../");
    tree.link(&format!("sys/class/nvme/{name}"), &format!("../../devices/{path}"));
}

fn read(tree: &Tree) -> Storage {
    let (storage, problems) = storage::read(&tree.root());
    assert_eq!(problems, []);
    storage.expect("the storage")
}

fn one(tree: &Tree) -> Disk {
    let mut disks = read(tree).disks;
    assert_eq!(disks.len(), 1);
    disks.remove(0)
}

#[test]
fn two_controllers_of_a_subsystem_lead_to_one_namespace() {
    let tree = Tree::new();
    let functions = ["pci0000:00/0000:01:00.0", "pci0000:80/0000:81:00.0"];
    for (number, path) in functions.iter().enumerate() {
        function(&tree, path, "0x010802", &[("numa_node", &number.to_string())]);
        let id = [("subsysnqn", "nqn.2026-01.example:one"), ("cntlid", &*number.to_string())];
        nvme(&tree, path, &format!("nvme{number}"), &id);
        // The hidden way through this controller.
        let hidden = format!("{path}/nvme/nvme{number}/nvme0c{number}n1");
        block(&tree, &hidden, "../../nvme");
        tree.files(&format!("sys/devices/{hidden}"), &[("hidden", "1")]);
    }
    let head = "virtual/nvme-subsystem/nvme-subsys0/nvme0n1";
    block(&tree, head, "../../nvme-subsys0");
    let ids = [("nsid", "1"), ("wwid", "eui.0025385a01b2c3d4"), ("eui", "00 25 38 5a 01 b2 c3 d4")];
    tree.files(&format!("sys/devices/{head}"), &ids);
    tree.files(
        &format!("sys/devices/{head}"),
        &[("nguid", "00000000-0000-0000-0000-000000000000"), ("hidden", "0")],
    );
    tree.files("sys/devices/virtual/nvme-subsystem/nvme-subsys0", &[("model", "Example")]);
    let storage = read(&tree);
    let told: Vec<_> = storage
        .controllers
        .iter()
        .map(|it| (&it.name, &it.pci, it.node, it.nvme.as_ref().map(|it| (it.id, &it.disks))))
        .collect();
    check(
        &told,
        expect![[
            r#"[("nvme0", Some("0000:01:00.0"), Some(0), Some((Some(0), ["nvme0n1"]))), ("nvme1", Some("0000:81:00.0"), Some(1), Some((Some(1), ["nvme0n1"])))]"#
        ]],
    );
    assert_eq!(storage.disks.len(), 1);
    let disk = &storage.disks[0];
    check(
        &(&disk.name, &disk.model, &disk.wwid, &disk.pci, disk.node),
        expect![[
            r#"("nvme0n1", Some("Example"), Some("eui.0025385a01b2c3d4"), Some("0000:01:00.0"), Some(0))"#
        ]],
    );
    check(
        &disk.namespace,
        expect![[
            r#"Some(NvmeNamespace { id: Some(1), eui: Some("00 25 38 5a 01 b2 c3 d4"), nguid: None, uuid: None, controllers: ["nvme0", "nvme1"] })"#
        ]],
    );
}

#[test]
fn an_nvme_disk_is_told_by_the_name_of_its_slot_on_the_board() {
    let tree = Tree::new();
    let path = "pci0000:00/0000:01:00.0";
    function(&tree, path, "0x010802", &[]);
    nvme(&tree, path, "nvme0", &[]);
    block(&tree, &format!("{path}/nvme/nvme0/nvme0n1"), "../../nvme0");
    tree.files("sys/bus/pci/slots/7", &[("address", "0000:01:00")]);
    assert_eq!(one(&tree).slot.as_deref(), Some("PCI slot 7"));
    // Type 9 of 17 bytes: bus 1, device 0, function 0.
    let area = [&[9, 17, 0, 0, 1][..], &[0; 10], &[1, 0]].concat();
    let table = [&area[..], b"U.2 Bay 3\0\0", &[127, 4, 0, 0, 0, 0]].concat();
    tree.file("sys/firmware/dmi/tables/DMI", table);
    assert_eq!(one(&tree).slot.as_deref(), Some("U.2 Bay 3"));
}

#[test]
fn a_virtual_function_with_a_controller_knows_its_physical_one() {
    let tree = Tree::new();
    let port = "pci0000:00/0000:00:01.0";
    function(&tree, port, "0x060400", &[("numa_node", "1")]);
    function(&tree, &format!("{port}/0000:01:00.0"), "0x010802", &[("numa_node", "-1")]);
    function(&tree, &format!("{port}/0000:01:00.1"), "0x010802", &[]);
    tree.link(&format!("sys/devices/{port}/0000:01:00.1/physfn"), "../0000:01:00.0");
    tree.link(&format!("sys/devices/{port}/0000:01:00.1/driver"), "../../../bus/pci/drivers/nvme");
    nvme(&tree, &format!("{port}/0000:01:00.1"), "nvme1", &[("serial", "S1"), ("address", "x")]);
    tree.files("sys/block", &[]).files("sys/block/loop0", &[("size", "0")]);
    tree.files("sys/bus/pci/slots/7", &[("address", "0000:01:00")]);
    let controllers = read(&tree).controllers;
    let it = &controllers[0];
    check(
        &(&it.name, it.kind, &it.physical, &it.driver, &it.slot, it.node),
        expect![[r#"("nvme1", Nvme, Some("0000:01:00.0"), Some("nvme"), Some("7"), Some(1))"#]],
    );
    // Without a driver it is still a controller, without a name of its own.
    let it = &controllers[1];
    check(
        &(&it.name, it.kind, &it.driver, it.nvme.is_some(), it.node),
        expect![[r#"("0000:01:00.0", Nvme, None, false, Some(1))"#]],
    );
    assert_eq!(controllers.len(), 2);
}

#[test]
fn a_controller_behind_a_fabric_has_an_address_and_no_function() {
    let tree = Tree::new();
    let path = "sys/devices/virtual/nvme-fabrics/ctl/nvme2";
    let files =
        [("transport", "tcp"), ("address", "traddr=192.0.2.7,trsvcid=4420"), ("numa_node", "-1")];
    tree.files(path, &files);
    tree.link("sys/class/nvme/nvme2", "../../devices/virtual/nvme-fabrics/ctl/nvme2");
    block(&tree, "virtual/nvme-fabrics/ctl/nvme2/nvme2n1", "../../nvme2");
    let storage = read(&tree);
    let it = &storage.controllers[0];
    let address = it.nvme.as_ref().and_then(|it| it.address.as_deref());
    assert_eq!((address, &it.pci, it.node), (Some("traddr=192.0.2.7,trsvcid=4420"), &None, None));
    assert_eq!(storage.disks[0].namespace.as_ref().expect("one").controllers, ["nvme2"]);
}

#[test]
fn a_disk_in_an_enclosure_is_told_by_its_bay() {
    let tree = Tree::new();
    let hba = "pci0000:00/0000:03:00.0";
    function(&tree, hba, "0x010700", &[("numa_node", "0")]);
    tree.files("sys/bus/pci/slots/5", &[("address", "0000:03:00")]);
    let disk = |id: u32| {
        let device = format!("{hba}/host0/port-0:{id}/end_device-0:{id}/target0:0:{id}/0:0:{id}:0");
        let name = char::from(b'a' + id as u8);
        block(&tree, &format!("{device}/block/sd{name}"), &format!("../../../0:0:{id}:0"));
        tree.files(
            &format!("sys/devices/{device}"),
            &[("vendor", "SEAGATE"), ("state", "running")],
        );
        device
    };
    let in_bay = disk(0);
    disk(1);
    disk(2);
    let bay = "sys/class/enclosure/0:0:9:0/Slot 03";
    tree.files(bay, &[("slot", "3")]);
    tree.link(&format!("{bay}/device"), &format!("../../../../devices/{in_bay}"));
    tree.files("sys/class/sas_device/end_device-0:1", &[("bay_identifier", "12")]);
    let storage = read(&tree);
    let told: Vec<_> = storage.disks.iter().map(|it| (&it.scsi, &it.slot, &it.port)).collect();
    check(
        &told,
        expect![[
            r#"[(Some("0:0:0:0"), Some("Slot 03"), Some("end_device-0:0")), (Some("0:0:1:0"), Some("bay 12"), Some("end_device-0:1")), (Some("0:0:2:0"), None, Some("end_device-0:2"))]"#
        ]],
    );
    let it = &storage.controllers[0];
    assert_eq!((it.kind, it.slot.as_deref(), it.node), (StorageKind::Sas, Some("5"), Some(0)));
}

#[test]
fn a_virtio_disk_has_the_node_of_the_port_above_its_function() {
    let tree = Tree::new();
    let port = "pci0000:40/0000:40:01.0";
    function(&tree, port, "0x060400", &[("numa_node", "1")]);
    function(&tree, &format!("{port}/0000:41:00.0"), "0x010000", &[]);
    block(&tree, &format!("{port}/0000:41:00.0/virtio0/block/vda"), "../../../virtio0");
    let disk = one(&tree);
    check(
        &(disk.pci, disk.node, disk.transport),
        expect![[r#"(Some("0000:41:00.0"), Some(1), Some(Virtio))"#]],
    );
}

#[test]
fn blocks_caches_and_states_are_told() {
    let tree = Tree::new();
    let device = "pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0";
    block(&tree, &format!("{device}/block/sda"), "../../../2:0:0:0");
    let device_files = [("vendor", "ATA"), ("model", "X"), ("state", "running"), ("wwid", "naa.5")];
    tree.files(&format!("sys/devices/{device}"), &device_files);
    tree.files(&format!("sys/devices/{device}/power"), &[("runtime_status", "suspended")]);
    let queue = [
        ("logical_block_size", "512"),
        ("physical_block_size", "4096"),
        ("rotational", "1"),
        ("zoned", "host-aware"),
        ("write_cache", "write back"),
    ];
    tree.files(&format!("sys/devices/{device}/block/sda/queue"), &queue);
    let it = one(&tree);
    check(
        &(it.logical_block, it.physical_block, it.rotational, it.zoned, it.write_cache),
        expect![[r#"(Some(512), Some(4096), Some(true), Some("host-aware"), Some("write back"))"#]],
    );
    check(
        &(it.port, it.state, it.wwid, it.read_only, it.asleep),
        expect![[r#"(Some("ata3"), Some("running"), Some("naa.5"), Some(false), Some(true))"#]],
    );
    // A dump's disk is never asked, whatever this machine has under that name.
    assert_eq!((it.health.state, it.smart), (HealthState::Unknown, None));
}

mod smartctl {
    //! The corpus has `smartctl --json` outputs of real disks. Each is turned
    //! back into the page that the disk must have answered, which our decoder
    //! then reads as smartctl did.

    use std::{
        path::{Path, PathBuf},
        process::Command,
    };

    use purlin_core::inventory::{Health, HealthState};
    use purlin_drivers::storage::smart;
    use serde_json::Value;

    /// How many outputs of each kind the corpus has, at least.
    const NVME: usize = 32;
    const ATA: usize = 66;

    #[test]
    fn decoders_agree_with_smartctl_on_real_disks() {
        let Some(archive) = archive() else {
            println!("skipped: no corpus of smartctl outputs (set PURLIN_CORPUS)");
            return;
        };
        let dir = tempfile::tempdir().expect("a temporary directory");
        let unpacked =
            Command::new("tar").arg("xJf").arg(&archive).arg("-C").arg(dir.path()).status();
        assert!(unpacked.expect("tar runs").success(), "{} unpacks", archive.display());
        let (mut nvme, mut ata) = (0, 0);
        for file in std::fs::read_dir(dir.path().join("testdata")).expect("the outputs") {
            let path = file.expect("an entry").path();
            if path.extension().is_none_or(|it| it != "json") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("an output");
            let output: Value = serde_json::from_str(&text).expect("an output");
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if !output["nvme_smart_health_information_log"].is_null() {
                check_nvme(&name, &output);
                nvme += 1;
            } else if !output["ata_smart_attributes"].is_null() {
                check_ata(&name, &output);
                ata += 1;
            }
        }
        println!("{nvme} NVMe and {ata} ATA disks agree");
        assert!(nvme >= NVME && ata >= ATA, "{nvme} NVMe, {ata} ATA");
    }

    fn archive() -> Option<PathBuf> {
        let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
        let corpus = std::env::var_os("PURLIN_CORPUS").map_or_else(beside, PathBuf::from);
        Some(corpus.join("smart/smartctl-json.tar.xz")).filter(|path| path.is_file())
    }

    fn check_nvme(name: &str, output: &Value) {
        let log = &output["nvme_smart_health_information_log"];
        let number = |key: &str| log[key].as_u64().unwrap_or_default();
        let sensors = log["temperature_sensors"].as_array().cloned().unwrap_or_default();
        let kelvin = |celsius: &Value| (celsius.as_i64().expect("a temperature") + 273) as u16;
        let mut page = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[number("critical_warning") as u8]);
        put(1, &kelvin(&log["temperature"]).to_le_bytes());
        for (at, key) in
            [(3, "available_spare"), (4, "available_spare_threshold"), (5, "percentage_used")]
        {
            put(at, &[number(key) as u8]);
        }
        let counters = [
            "data_units_read",
            "data_units_written",
            "host_reads",
            "host_writes",
            "controller_busy_time",
            "power_cycles",
            "power_on_hours",
            "unsafe_shutdowns",
            "media_errors",
            "num_err_log_entries",
        ];
        for (place, key) in counters.into_iter().enumerate() {
            put(32 + 16 * place, &number(key).to_le_bytes());
        }
        put(192, &(number("warning_temp_time") as u32).to_le_bytes());
        put(196, &(number("critical_comp_time") as u32).to_le_bytes());
        for (place, celsius) in sensors.iter().enumerate() {
            put(200 + 2 * place, &kelvin(celsius).to_le_bytes());
        }

        let ours = smart::nvme(&page).expect("a whole page");
        let ours_by_key = [
            ("data_units_read", ours.read / 512_000),
            ("data_units_written", ours.written / 512_000),
            ("host_reads", ours.reads),
            ("host_writes", ours.writes),
            ("controller_busy_time", ours.busy_minutes),
            ("power_cycles", ours.power_cycles),
            ("power_on_hours", ours.power_on_hours),
            ("unsafe_shutdowns", ours.unsafe_shutdowns),
            ("media_errors", ours.media_errors),
            ("num_err_log_entries", ours.error_entries),
            ("available_spare", ours.spare.into()),
            ("available_spare_threshold", ours.spare_threshold.into()),
            ("percentage_used", ours.used.into()),
            ("warning_temp_time", ours.warning_minutes.into()),
            ("critical_comp_time", ours.critical_minutes.into()),
        ];
        for (key, ours) in ours_by_key {
            assert_eq!(ours, number(key), "{name}: {key}");
        }
        // What smartctl says in its own summary, not only in the log.
        assert_eq!(ours.temperature.map(i64::from), output["temperature"]["current"].as_i64());
        assert_eq!(Some(ours.power_on_hours), output["power_on_time"]["hours"].as_u64());
        assert_eq!(Some(ours.power_cycles), output["power_cycle_count"].as_u64());
        assert_eq!(ours.sensors.len(), sensors.len(), "{name}");
        check_health(name, output, &ours.health());
    }

    fn check_ata(name: &str, output: &Value) {
        let table = output["ata_smart_attributes"]["table"].as_array().expect("a table");
        let number = |row: &Value, key: &str| row[key].as_u64().expect("a number");
        let (mut data, mut thresholds) = ([0_u8; 512], [0_u8; 512]);
        for (place, row) in table.iter().enumerate() {
            let at = 2 + 12 * place;
            let id = number(row, "id") as u8;
            let flags = row["flags"]["value"].as_u64().expect("the flags") as u16;
            data[at] = id;
            data[at + 1..at + 3].copy_from_slice(&flags.to_le_bytes());
            data[at + 3] = number(row, "value") as u8;
            data[at + 4] = number(row, "worst") as u8;
            // The seventh byte is reserved; some makers use it all the same.
            data[at + 5..at + 12].copy_from_slice(&number(&row["raw"], "value").to_le_bytes()[..7]);
            (thresholds[at], thresholds[at + 1]) = (id, number(row, "thresh") as u8);
        }
        for sector in [&mut data, &mut thresholds] {
            sector[511] = sector.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
        }
        let passed = output["smart_status"]["passed"].as_bool();
        let ours = smart::ata(&data, Some(&thresholds), passed).expect("a whole table");
        for (ours, row) in ours.attributes.iter().zip(table) {
            let id = ours.id;
            let raw = number(&row["raw"], "value") & 0xffff_ffff_ffff;
            assert_eq!(ours.raw, raw, "{name}: {id}");
            assert_eq!(Some(ours.prefail), row["flags"]["prefailure"].as_bool(), "{name}: {id}");
            let limits =
                (u64::from(ours.value), u64::from(ours.worst), ours.threshold.map(u64::from));
            let theirs = (number(row, "value"), number(row, "worst"), Some(number(row, "thresh")));
            assert_eq!(limits, theirs, "{name}: {id}");
        }
        assert_eq!(ours.attributes.len(), table.len(), "{name}");
        let temperature = output["temperature"]["current"].as_i64();
        assert_eq!(ours.temperature().map(i64::from), temperature, "{name}");
        assert_eq!(ours.power_on_hours(), output["power_on_time"]["hours"].as_u64(), "{name}");
        assert_eq!(ours.power_cycles(), output["power_cycle_count"].as_u64(), "{name}");
        check_health(name, output, &ours.health());
    }

    /// smartctl knows passed or failed; lost sectors, which are a warning with
    /// us, pass there.
    fn check_health(name: &str, output: &Value, ours: &Health) {
        let passed = output["smart_status"]["passed"].as_bool().expect("a verdict");
        let failing = ours.state == HealthState::Failing;
        assert!(ours.state != HealthState::Unknown && passed != failing, "{name}: {ours:?}");
        if !ours.reasons.is_empty() {
            println!("{name}: {}", ours.reasons.join(", "));
        }
    }
}
