//! What the platform part tells of machines made up for one trait each.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use expect_test::{Expect, expect};
use purlin_core::inventory::{Feature, PartData, Platform};
use purlin_drivers::{Part, Root};
use tempfile::TempDir;

struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().expect("a temporary directory"));
        machine.file("proc/sys/kernel/hostname", "node1\n")
    }

    fn at(&self, path: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        path
    }

    fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.at(path), content).expect("a file");
        self
    }

    fn files(self, dir: &str, files: &[(&str, &str)]) -> Self {
        files.iter().fold(self, |machine, (name, content)| {
            machine.file(&format!("{dir}/{name}"), format!("{content}\n"))
        })
    }

    fn link(self, path: &str, target: &str) -> Self {
        symlink(target, self.at(path)).expect("a link");
        self
    }

    /// `/proc/cpuinfo` of x86 with these flags.
    fn flags(self, flags: &str) -> Self {
        self.file("proc/cpuinfo", format!("processor\t: 0\nflags\t\t: fpu {flags}\n"))
    }

    fn read(&self) -> (Platform, Vec<String>) {
        read(self.0.path())
    }

    /// The platform, where nothing may be wrong.
    fn clean(&self) -> Platform {
        let (platform, problems) = self.read();
        assert_eq!(problems, Vec::<String>::new());
        platform
    }
}

fn read(root: &Path) -> (Platform, Vec<String>) {
    let root = Root::dump(root).expect("a dump's root");
    let (data, problems) = purlin_drivers::read(Part::Platform, &root);
    let Some(PartData::Platform(platform)) = data else { panic!("no platform: {problems:?}") };
    (platform, problems.into_iter().map(|it| format!("{}: {}", it.at, it.what)).collect())
}

#[track_caller]
fn check(actual: impl std::fmt::Debug, expected: Expect) {
    expected.assert_eq(&format!("{actual:?}"));
}

#[test]
fn a_machine_that_nobody_named_has_no_name() {
    let machine = Machine::new().file("proc/sys/kernel/hostname", "(none)\n");
    assert_eq!(machine.file("proc/sys/kernel/osrelease", "6.1.0\n").clean().hostname, None);
}

#[test]
fn names_come_from_the_kernels_copy_where_there_is_no_table() {
    let dmi = [
        ("sys_vendor", "Example Inc."),
        ("product_name", "Edge 2U"),
        ("product_serial", "To be filled by O.E.M."),
        ("product_uuid", "4c4c4544-0039-3010-8048-b7c04f384432"),
        ("board_name", "EX-1"),
        ("chassis_type", "23"),
        ("chassis_asset_tag", "Default string"),
        ("bios_version", "1.2.3"),
        ("bios_release", "5.19"),
        ("ec_firmware_release", "1.4"),
    ];
    let platform = Machine::new().files("sys/class/dmi/id", &dmi).clean();
    assert_eq!(platform.vendor.as_deref(), Some("Example Inc."));
    assert_eq!((&platform.serial, &platform.chassis.asset_tag), (&None, &None));
    assert_eq!(platform.uuid.as_deref(), Some("4c4c4544-0039-3010-8048-b7c04f384432"));
    assert_eq!(platform.board.product.as_deref(), Some("EX-1"));
    assert_eq!(platform.chassis_kind.as_deref(), Some("rack mount chassis"));
    check(
        &platform.firmware,
        expect![[
            r#"Firmware { vendor: None, version: Some("1.2.3"), date: None, release: Some("5.19"), ec_release: Some("1.4"), smbios: None }"#
        ]],
    );
}

#[test]
fn a_table_fills_in_what_the_kernels_copy_lacks() {
    let area: [u8; 0x1b - 4] = {
        let mut area = [0x11; 0x1b - 4];
        area[..4].copy_from_slice(&[1, 2, 0, 3]);
        (area[0x19 - 4], area[0x1a - 4]) = (0, 0);
        area
    };
    let mut table = vec![1, 0x1b, 1, 0];
    table.extend(area);
    table.extend(b"Example Inc.\0Edge 2U\0S1234\0\0");
    // A processor socket with nothing in it.
    let mut socket = [0; 0x1a];
    (socket[0], socket[1], socket[4], socket[5]) = (4, 0x1a, 1, 3);
    table.extend(socket);
    table.extend(b"CPU2\0\0");
    table.extend([127, 4, 2, 0, 0, 0]);
    let platform = Machine::new()
        .file("sys/firmware/dmi/tables/DMI", &table)
        .file("sys/firmware/dmi/tables/smbios_entry_point", b"_SM3_\0\x18\x03\x05")
        .file("sys/class/dmi/id/product_family", "Edge\n")
        .clean();
    let names = (&platform.vendor, &platform.product, &platform.serial, &platform.family);
    check(
        names,
        expect![[r#"(Some("Example Inc."), Some("Edge 2U"), Some("S1234"), Some("Edge"))"#]],
    );
    assert_eq!(platform.uuid.as_deref(), Some("11111111-1111-1111-1111-111111111111"));
    assert_eq!(platform.firmware.smbios.as_deref(), Some("3.5"));
    check(
        &platform.sockets,
        expect![[r#"[Socket { designation: Some("CPU2"), populated: false }]"#]],
    );
}

#[test]
fn a_dump_may_have_the_structures_without_the_table() {
    let raw = |handle, name: &str| {
        [&[1, 8, handle, 0, 1, 1, 0, 0], format!("{name}\0\0").as_bytes()].concat()
    };
    let dir = "sys/firmware/dmi/entries";
    let platform = Machine::new()
        .file(&format!("{dir}/1-0/raw"), raw(1, "Example Inc."))
        .file(&format!("{dir}/127-0/raw"), [127, 4, 2, 0, 0, 0])
        .clean();
    assert_eq!(platform.vendor.as_deref(), Some("Example Inc."));
}

#[test]
fn a_broken_table_is_a_problem_and_loses_nothing_before_it() {
    let table =
        [&[1, 8, 1, 0, 1, 1, 0, 0], &b"Example Inc.\0\0"[..], &[17, 2, 0, 0, 0, 0]].concat();
    let (platform, problems) = Machine::new().file("sys/firmware/dmi/tables/DMI", &table).read();
    assert_eq!(platform.vendor.as_deref(), Some("Example Inc."));
    check(
        &problems,
        expect![[
            r#"["/sys/firmware/dmi/tables/DMI: a structure of type 17 claims a length of 2 at byte 22"]"#
        ]],
    );
}

#[test]
fn secure_boot_is_the_fifth_byte() {
    let variable =
        |name| format!("sys/firmware/efi/efivars/{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    let efi = || {
        Machine::new()
            .file("sys/firmware/efi/fw_platform_size", "64\n")
            .file(&variable("SecureBoot"), [6, 0, 0, 0, 1])
    };
    let platform = efi().file(&variable("SetupMode"), [6, 0, 0, 0, 0]).clean();
    assert_eq!((platform.uefi, platform.uefi_bits), (Some(true), Some(64)));
    assert_eq!((platform.secure_boot, platform.setup_mode), (Some(true), Some(false)));
    let (platform, problems) = efi().file(&variable("SetupMode"), [1]).read();
    assert_eq!(platform.setup_mode, None);
    assert_eq!(problems.len(), 1);
}

#[test]
fn a_tpm_is_told_by_its_caps_or_by_its_class() {
    let caps = "Manufacturer: 0x49465800\nTCG version: 1.2\nFirmware version: 4.32";
    let old = Machine::new().files("sys/class/tpm/tpm0/device", &[("caps", caps)]).clean();
    let new = Machine::new()
        .files("sys/class/tpm/tpm0", &[("tpm_version_major", "2"), ("ppi/version", "1.3")])
        .file("sys/class/tpm/tpm0/pcr-sha256/0", "00\n")
        .link("sys/class/tpm/tpm0/device", "../../../MSFT0101:00")
        .clean();
    check(
        old.tpms,
        expect![[
            r#"[Tpm { name: "tpm0", version: Some("1.2"), device: None, manufacturer: Some("IFX"), firmware: Some("4.32"), pcr_banks: [], ppi: None }]"#
        ]],
    );
    check(
        new.tpms,
        expect![[
            r#"[Tpm { name: "tpm0", version: Some("2.0"), device: Some("MSFT0101:00"), manufacturer: None, firmware: None, pcr_banks: ["sha256"], ppi: Some("1.3") }]"#
        ]],
    );
}

#[test]
fn confidential_computing_is_absent_supported_enabled_or_a_guests() {
    let amd = Machine::new()
        .flags("sev sev_es")
        .file("sys/module/kvm_amd/parameters/sev", "Y\n")
        .file("sys/module/kvm_amd/parameters/sev_es", "N\n")
        .clean();
    check(
        amd.confidential,
        expect![
            "Confidential { sev: Some(Enabled), sev_es: Some(Supported), sev_snp: Some(Absent), tdx: Some(Absent), sgx: Some(Absent), sgx_epc: {} }"
        ],
    );
    let intel = Machine::new()
        .flags("sgx tdx_host_platform")
        .file("sys/devices/system/node/node0/x86/sgx_total_bytes", "4096\n")
        .clean();
    check(
        intel.confidential,
        expect![
            "Confidential { sev: Some(Absent), sev_es: Some(Absent), sev_snp: Some(Absent), tdx: Some(Supported), sgx: Some(Enabled), sgx_epc: {0: 4096} }"
        ],
    );
    let guest = Machine::new().flags("tdx_guest hypervisor").clean();
    assert_eq!(guest.confidential.tdx, Some(Feature::Guest));
    assert_eq!(Machine::new().clean().confidential.sev, None);
}

#[test]
fn rapl_zones_have_their_limits() {
    let zone = [
        ("name", "package-0"),
        ("enabled", "1"),
        ("max_energy_range_uj", "262143328850"),
        ("constraint_0_name", "long_term"),
        ("constraint_0_power_limit_uw", "95000000"),
        ("constraint_0_max_power_uw", ""),
        ("constraint_0_time_window_us", "27983872"),
    ];
    let platform = Machine::new()
        .files("sys/class/powercap/intel-rapl", &[("enabled", "1")])
        .files("sys/class/powercap/intel-rapl:0", &zone)
        .clean();
    check(
        platform.power_zones,
        expect![[
            r#"[PowerZone { id: "intel-rapl:0", name: Some("package-0"), enabled: Some(true), max_energy_uj: Some(262143328850), limits: [PowerLimit { name: Some("long_term"), limit_uw: Some(95000000), max_uw: None, window_us: Some(27983872) }] }]"#
        ]],
    );
}

#[test]
fn a_watchdog_tells_that_it_reset_the_machine() {
    let files = [
        ("identity", "iTCO_wdt"),
        ("state", "active"),
        ("timeout", "30"),
        ("nowayout", "0"),
        ("bootstatus", "32"),
    ];
    let platform = Machine::new().files("sys/class/watchdog/watchdog0", &files).clean();
    check(
        platform.watchdogs,
        expect![[
            r#"[Watchdog { name: "watchdog0", identity: Some("iTCO_wdt"), state: Some("active"), timeout_s: Some(30), pretimeout_s: None, nowayout: Some(false), boot_status: Some(32) }]"#
        ]],
    );
}

#[test]
fn a_management_controller_is_seen_by_its_driver_alone() {
    let files = [("firmware_revision", "1.74"), ("manufacturer_id", "0x0002a2")];
    let platform = Machine::new()
        .files("sys/devices/platform/ipmi_bmc.0x0020.0", &files)
        .files("sys/class/ipmi/ipmi0", &[("uevent", "")])
        .clean();
    check(
        platform.bmc,
        expect![[
            r#"Some(Bmc { interface: None, ipmi_version: None, address: None, device: Some("ipmi0"), firmware: Some("1.74"), manufacturer_id: Some("0x0002a2"), product_id: None, guid: None, redfish: false })"#
        ]],
    );
    assert_eq!(Machine::new().clean().bmc, None);
}

#[track_caller]
fn check_virtual(machine: Machine, expected: (Option<bool>, Option<&str>)) {
    let platform = machine.clean();
    assert_eq!((platform.virtualised, platform.hypervisor.as_deref()), expected);
}

#[test]
fn a_hypervisor_is_told_as_by_systemd_detect_virt() {
    let dmi = |vendor: &str, product: &str| {
        let files = [("sys_vendor", vendor), ("product_name", product)];
        Machine::new().files("sys/class/dmi/id", &files)
    };
    let guest = |vendor, product| dmi(vendor, product).flags("hypervisor");
    check_virtual(guest("QEMU", "Standard PC"), (Some(true), Some("qemu")));
    check_virtual(guest("VMware, Inc.", "VMware7,1"), (Some(true), Some("vmware")));
    let hyper_v = guest("Microsoft Corporation", "Virtual Machine");
    check_virtual(hyper_v, (Some(true), Some("microsoft")));
    check_virtual(guest("Amazon EC2", "m7i.large"), (Some(true), Some("amazon")));
    check_virtual(guest("Example Inc.", "Edge 2U"), (Some(true), None));
    // The cloud's own metal, with and without the flag that x86 has.
    check_virtual(dmi("Amazon EC2", "m7i.metal").flags("sse"), (Some(false), None));
    check_virtual(dmi("Amazon EC2", "m7g.metal"), (None, None));
    // A hypervisor's own machine shows no flag.
    check_virtual(dmi("QEMU", "Virtual Machine"), (Some(true), Some("qemu")));
}

#[test]
fn the_first_domain_of_xen_is_no_guest() {
    let xen = |features| {
        Machine::new()
            .file("sys/hypervisor/type", "xen\n")
            .file("sys/hypervisor/properties/features", features)
    };
    check_virtual(xen("00000801\n"), (Some(false), None));
    check_virtual(xen("00000001\n"), (Some(true), Some("xen")));
}

#[test]
fn a_device_tree_names_the_board_and_its_hypervisor() {
    let base = "sys/firmware/devicetree/base";
    let board = Machine::new()
        .file(&format!("{base}/model"), b"Example Board 4\0")
        .file(&format!("{base}/serial-number"), b"10000000abcd\0")
        .file(&format!("{base}/compatible"), b"example,board4\0vendor,soc\0")
        .clean();
    let told = (&board.vendor, &board.serial, &board.compatible, board.virtualised);
    check(
        told,
        expect![[
            r#"(Some("Example Board 4"), Some("10000000abcd"), ["example,board4", "vendor,soc"], None)"#
        ]],
    );
    let path = format!("{base}/hypervisor/compatible");
    check_virtual(Machine::new().file(&path, b"linux,kvm\0"), (Some(true), Some("kvm")));
}

#[test]
fn s390_dumps_of_the_corpus_tell_their_control_program() {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let corpus = std::env::var_os("PURLIN_CORPUS").map_or_else(beside, PathBuf::from);
    if !corpus.join("dumps").is_dir() {
        println!("skipped: no corpus of dumps (set PURLIN_CORPUS)");
        return;
    }
    for (name, expected) in [("s390-kvm", Some("kvm")), ("s390-lpar-drawer", None)] {
        let dir = tempfile::tempdir().expect("a directory");
        let archive = corpus.join(format!("dumps/lscpu_{name}.tar.xz"));
        let unpacked =
            Command::new("tar").arg("xJf").arg(archive).arg("-C").arg(dir.path()).status();
        assert!(unpacked.expect("tar runs").success());
        let (platform, _) = read(dir.path());
        assert_eq!(platform.hypervisor.as_deref(), expected, "{name}");
        assert_eq!(platform.vendor.as_deref(), Some("IBM"), "{name}");
    }
}
