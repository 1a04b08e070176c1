//! The SMBIOS decoder against tables of real servers and their known answers,
//! and against small tables of our own.
//!
//! The corpus is looked for beside this repository, at `../shared/corpus`, or
//! where `PURLIN_CORPUS` says; without it those tests print "skipped".

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use expect_test::expect;
use purlin_core::inventory::Dimm;
use purlin_drivers::smbios::{Smbios, decode, told};
use serde_json::Value;

/// A structure: its type, its formatted area behind the header, its strings.
fn structure(kind: u8, handle: u16, area: &[u8], strings: &[&str]) -> Vec<u8> {
    let mut bytes = vec![kind, u8::try_from(area.len() + 4).expect("a short area")];
    bytes.extend(handle.to_le_bytes());
    bytes.extend(area);
    for string in strings {
        bytes.extend(string.as_bytes());
        bytes.push(0);
    }
    if strings.is_empty() {
        bytes.push(0);
    }
    bytes.push(0);
    bytes
}

fn end() -> Vec<u8> {
    structure(127, 0xfeff, &[], &[])
}

/// A table by hand: what each field of a structure is, as its bytes.
struct Area(Vec<u8>);

impl Area {
    fn new(length: usize) -> Self {
        Self(vec![0; length - 4])
    }

    /// Sets a field at the specification's offset.
    fn set(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at - 4..at - 4 + bytes.len()].copy_from_slice(bytes);
        self
    }
}

/// A type 17 structure of version 3.3 with its five strings.
fn device() -> Area {
    Area::new(0x5c)
        .set(0x08, &72_u16.to_le_bytes())
        .set(0x0a, &64_u16.to_le_bytes())
        .set(0x0e, &[9])
        .set(0x10, &[1, 2, 0x1a])
        .set(0x13, &0x2080_u16.to_le_bytes())
        .set(0x17, &[3, 4, 0, 5])
}

const STRINGS: [&str; 5] = ["DIMM_A1", "NODE 1", "Example", "0A1B2C3D", "EX-32G"];

fn one(table: &[u8]) -> Smbios {
    let (smbios, problems) = decode(table);
    assert_eq!(problems, Vec::<String>::new());
    smbios
}

fn dimm(area: &Area) -> Dimm {
    let table = [structure(17, 0x1f, &area.0, &STRINGS), end()].concat();
    one(&table).dimms.remove(0)
}

#[test]
fn a_module_is_told_in_full() {
    let area = device()
        .set(0x0c, &0x7fff_u16.to_le_bytes())
        .set(0x1b, &[2])
        .set(0x1c, &131_072_u32.to_le_bytes())
        .set(0x15, &5600_u16.to_le_bytes())
        .set(0x20, &4800_u16.to_le_bytes())
        .set(0x26, &1100_u16.to_le_bytes())
        .set(0x12, &[0x22])
        .set(0x28, &[3]);
    let mut dimm = dimm(&area);
    assert_eq!(dimm.size, Some(128 << 30));
    dimm.size = None;
    expect![[r#"
        Dimm {
            handle: 31,
            slot: Some(
                "DIMM_A1",
            ),
            bank: Some(
                "NODE 1",
            ),
            size: None,
            form_factor: Some(
                "DIMM",
            ),
            kind: Some(
                "DDR5",
            ),
            detail: [
                "synchronous",
                "registered",
            ],
            speed_rated: Some(
                5600,
            ),
            speed_configured: Some(
                4800,
            ),
            manufacturer: Some(
                "Example",
            ),
            serial: Some(
                "0A1B2C3D",
            ),
            part: Some(
                "EX-32G",
            ),
            asset_tag: None,
            rank: Some(
                2,
            ),
            data_width: Some(
                64,
            ),
            total_width: Some(
                72,
            ),
            ecc: Some(
                true,
            ),
            voltage_mv: Some(
                1100,
            ),
            technology: Some(
                "DRAM",
            ),
            firmware: None,
            volatile: Some(
                0,
            ),
            non_volatile: Some(
                0,
            ),
            cache: Some(
                0,
            ),
            errors: None,
        }"#]]
    .assert_eq(&format!("{dimm:#?}"));
}

#[test]
fn an_empty_slot_is_not_a_module_of_unknown_size() {
    let of = |size: u16| dimm(&device().set(0x0c, &size.to_le_bytes()));
    assert_eq!((of(0).size, of(0).is_populated()), (Some(0), false));
    assert_eq!((of(0xffff).size, of(0xffff).is_populated()), (None, true));
    assert_eq!(of(0x8200).size, Some(512 << 10));
    assert_eq!(of(16_384).size, Some(16 << 30));
}

#[test]
fn a_speed_over_65534_stands_in_the_extended_field() {
    let area = device().set(0x15, &[0xff; 2]).set(0x54, &70_000_u32.to_le_bytes());
    assert_eq!(dimm(&area).speed_rated, Some(70_000));
    assert_eq!(dimm(&device()).speed_rated, None);
}

#[test]
fn an_old_short_structure_does_not_borrow_from_its_neighbour() {
    // Version 2.1 had 21 bytes: no speed, no strings beyond the bank.
    let short = Area(device().0[..21 - 4].to_vec());
    let strings = ["DIMM_A1", "NODE 1"];
    let table = [structure(17, 1, &short.0, &strings), structure(17, 2, &device().0, &STRINGS)];
    let (smbios, problems) = decode(&table.concat());
    assert!(problems.is_empty());
    assert_eq!(smbios.dimms.len(), 2);
    assert_eq!((&smbios.dimms[0].part, smbios.dimms[0].rank), (&None, None));
}

#[test]
fn flash_is_no_system_memory() {
    let array = |handle, role| {
        let area = Area::new(0x0f).set(0x05, &[role, 6]).set(0x07, &(64_u32 << 20).to_le_bytes());
        structure(16, handle, &area.0, &[])
    };
    let device = |array: u16| {
        let area = device().set(0x04, &array.to_le_bytes()).set(0x0c, &8_u16.to_le_bytes());
        structure(17, array + 100, &area.0, &STRINGS)
    };
    let smbios = one(&[array(1, 3), array(2, 4), device(1), device(2), end()].concat());
    assert_eq!(smbios.dimms.iter().map(|dimm| dimm.handle).collect::<Vec<_>>(), [101]);
    assert_eq!(smbios.arrays[0].max_capacity, Some(64 << 30));
    assert_eq!(smbios.arrays[0].ecc, Some(true));
}

#[test]
fn a_slot_and_an_onboard_device_are_found_by_their_address() {
    let slot = |bus: [u8; 4]| Area::new(0x11).set(0x04, &[1]).set(0x07, &[4]).set(0x0d, &bus);
    let onboard = Area::new(0x0b).set(0x04, &[1, 0x85, 1]).set(0x07, &[1, 0, 0x02, 0x01]);
    let smbios = one(&[
        structure(9, 1, &slot([0, 0, 0x3b, 0]).0, &["PCIe Slot 2"]),
        structure(9, 2, &slot([0, 0, 0xff, 0xff]).0, &["PCIe Slot 3"]),
        structure(9, 3, &slot([0, 0, 0, 0]).0, &["PCIe Slot 4"]),
        structure(41, 4, &onboard.0, &["Onboard LAN1"]),
        end(),
    ]
    .concat());
    let port = ["0000:3a:00.0".to_owned()];
    assert_eq!(smbios.designation("0000:3b:00.0", &port), Some("PCIe Slot 2"));
    assert_eq!(smbios.designation("0000:3b:00.1", &port), Some("PCIe Slot 2"));
    assert_eq!(smbios.designation("0001:02:00.1", &port), Some("Onboard LAN1"));
    assert_eq!(smbios.designation("0001:02:00.0", &port), None);
    let below = ["0000:3c:01.0".to_owned(), "0000:3b:00.0".to_owned()];
    assert_eq!(smbios.designation("0000:3d:00.0", &below), Some("PCIe Slot 2"));
    // Another function on a root bus is another port.
    assert_eq!(smbios.designation("0000:3b:00.4", &[]), None);
    assert_eq!(smbios.slots.len(), 4);
}

#[test]
fn a_management_controller_is_told_with_its_interfaces() {
    let ipmi = Area::new(0x12)
        .set(0x04, &[1, 0x20, 0x20])
        .set(0x08, &0xca3_u64.to_le_bytes())
        .set(0x10, &[0]);
    // A network interface with two bytes of its own data, and one record: Redfish.
    let host = [0x40, 2, 0, 0, 1, 4, 1, 0];
    let table = [structure(38, 1, &ipmi.0, &[]), structure(42, 2, &host, &[]), end()].concat();
    let bmc = one(&table).bmc.expect("a BMC");
    assert_eq!(bmc.interface.as_deref(), Some("KCS"));
    assert_eq!(bmc.ipmi_version.as_deref(), Some("2.0"));
    assert_eq!(bmc.address.as_deref(), Some("I/O 0xca2"));
    assert!(bmc.redfish);
}

#[test]
fn placeholders_are_unknown() {
    let nothing = [
        "To Be Filled By O.E.M.",
        "Default string",
        "NO DIMM",
        "Not Specified",
        "Unknown",
        "00000000",
        "FFFFFFFF",
        "0123456789",
        "1234567890",
        "--",
        "....................",
        " ",
        "N/A",
    ];
    for text in nothing {
        assert_eq!(told(text), None, "{text}");
    }
    for text in ["A1", "0", "18ASF2G72PDZ-2G3B1  ", "0000A1B2", "Dell Inc.", "DIMM 0"] {
        assert_eq!(told(text).as_deref(), Some(text.trim()), "{text}");
    }
}

/// What the fuzzer starts from.
fn seeds() -> Vec<Vec<u8>> {
    let area = device().set(0x0c, &16_384_u16.to_le_bytes());
    let slot = Area::new(0x11).set(0x04, &[1]).set(0x0d, &[0, 0, 0x3b, 0]);
    let host = [0x40, 2, 0, 0, 1, 4, 1, 0];
    vec![
        end(),
        [structure(17, 1, &area.0, &STRINGS), end()].concat(),
        [structure(9, 1, &slot.0, &["PCIe Slot 2"]), structure(42, 2, &host, &[])].concat(),
        [structure(0, 0, &[1, 2, 0, 0, 3], &["Example", "1.0", "01/02/2026"]), vec![1, 0, 0, 0]]
            .concat(),
    ]
}

/// Writes the seeds where `PURLIN_SEEDS` says, one file each, for a fuzz corpus.
#[test]
fn any_bytes_decode_to_something() {
    if let Some(dir) = std::env::var_os("PURLIN_SEEDS").map(PathBuf::from) {
        for (number, seed) in seeds().iter().enumerate() {
            fs::write(dir.join(format!("seed{number}")), seed).expect("a seed is written");
        }
    }
    for seed in seeds() {
        for cut in 0..=seed.len() {
            decode(&seed[..cut]);
        }
        for at in 0..seed.len() {
            for value in [0, 1, 3, 4, 0x7f, 0x80, 0xff] {
                let mut bytes = seed.clone();
                bytes[at] = value;
                decode(&bytes);
            }
        }
    }
}

#[test]
fn a_table_without_end_is_cut_and_said() {
    let many = structure(126, 0, &[], &[]).repeat(purlin_drivers::smbios::MAX_STRUCTURES + 5);
    let (_, problems) = decode(&many);
    assert_eq!(problems, ["more than the limit of 8192 structures"]);
}

fn corpus(part: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let corpus = std::env::var_os("PURLIN_CORPUS").map_or_else(beside, PathBuf::from).join(part);
    if !corpus.exists() {
        println!("skipped: no {}", corpus.display());
        return None;
    }
    Some(corpus)
}

/// Compares fields and says which differ.
struct Comparison {
    of: String,
    compared: usize,
    differ: Vec<String>,
}

impl Comparison {
    fn text(&mut self, what: &str, ours: &Option<String>, theirs: &Value) {
        let theirs = theirs.as_str().and_then(told);
        self.same(what, ours, &theirs);
    }

    /// Their 0 is "not told".
    fn number(&mut self, what: &str, ours: Option<u64>, theirs: &Value) {
        let theirs = theirs.as_u64().filter(|number| *number > 0);
        self.same(what, &ours.filter(|number| *number > 0), &theirs);
    }

    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, ours: &T, theirs: &T) {
        self.compared += 1;
        if ours != theirs {
            self.differ.push(format!("{}: {what} is {ours:?}, expected {theirs:?}", self.of));
        }
    }
}

#[test]
fn raw_tables_of_real_machines_decode_as_another_decoder_says() {
    let Some(corpus) = corpus("dmi-raw") else { return };
    let names = [
        ("ASRock-Single-Ryzen", 0),
        ("Dell-PowerEdge-R630-Dual-Xeon", 0),
        // Bytes that are no structure follow the eleventh type: nothing
        // behind them is read, by the other decoder neither.
        ("HyperV", 1),
        ("SuperMicro-Quad-Opteron", 0),
    ];
    for (name, problems_known) in names {
        let read = |suffix| fs::read(corpus.join(format!("{name}.{suffix}"))).expect("a file");
        let json: Value = serde_json::from_slice(&read("json")).expect("valid JSON");
        let (smbios, problems) = decode(&read("dmi"));
        assert_eq!(problems.len(), problems_known, "{name}: {problems:?}");
        let mut all = Comparison { of: name.into(), compared: 0, differ: Vec::new() };
        identity(&mut all, &smbios, &json);
        memory(&mut all, &smbios, &json);
        let sockets = json["ProcessorInformation"].as_array().cloned().unwrap_or_default();
        all.same("sockets", &smbios.sockets.len(), &sockets.len());
        for (ours, theirs) in smbios.sockets.iter().zip(&sockets) {
            all.text("socket", &ours.designation, &theirs["SocketDesignation"]);
            let status = theirs["Status"].as_u64().unwrap_or_default();
            all.same("populated", &ours.populated, &(status & 0x40 != 0));
        }
        let slots = json["SystemSlots"].as_array().cloned().unwrap_or_default();
        let ours: Vec<_> = smbios.slots.iter().filter(|slot| !slot.onboard).collect();
        all.same("slots", &ours.len(), &slots.len());
        for (ours, theirs) in ours.iter().zip(&slots) {
            all.text("slot", &ours.designation, &theirs["SlotDesignation"]);
        }
        println!("{name}: {} fields compared, {} modules", all.compared, smbios.dimms.len());
        assert_eq!(all.differ, Vec::<String>::new());
    }
}

fn identity(all: &mut Comparison, smbios: &Smbios, json: &Value) {
    let bios = &json["BIOSInformation"];
    all.text("BIOS vendor", &smbios.firmware.vendor, &bios["Vendor"]);
    all.text("BIOS version", &smbios.firmware.version, &bios["Version"]);
    all.text("BIOS date", &smbios.firmware.date, &bios["ReleaseDate"]);
    let system = &json["SystemInformation"];
    all.text("vendor", &smbios.system.vendor, &system["Manufacturer"]);
    all.text("product", &smbios.system.product, &system["ProductName"]);
    all.text("version", &smbios.system.version, &system["Version"]);
    all.text("serial", &smbios.system.serial, &system["SerialNumber"]);
    all.text("UUID", &smbios.uuid(), &system["UUID"]);
    all.text("SKU", &smbios.sku, &system["SKUNumber"]);
    all.text("family", &smbios.family, &system["Family"]);
    let (board, theirs) = (smbios.board.clone().unwrap_or_default(), &json["BaseboardInformation"]);
    all.text("board vendor", &board.vendor, &theirs["Manufacturer"]);
    all.text("board", &board.product, &theirs["Product"]);
    all.text("board version", &board.version, &theirs["Version"]);
    all.text("board serial", &board.serial, &theirs["SerialNumber"]);
    all.text("board asset", &board.asset_tag, &theirs["AssetTag"]);
    let (chassis, theirs) = (smbios.chassis.clone().unwrap_or_default(), &json["SystemEnclosure"]);
    all.text("chassis vendor", &chassis.vendor, &theirs["Manufacturer"]);
    all.text("chassis version", &chassis.version, &theirs["Version"]);
    all.text("chassis serial", &chassis.serial, &theirs["SerialNumber"]);
    // The other decoder gives no chassis' asset tag, though one table has it.
    if all.of == "HyperV" {
        all.same("chassis asset", &chassis.asset_tag, &chassis.serial);
    }
}

fn memory(all: &mut Comparison, smbios: &Smbios, json: &Value) {
    let theirs = &json["PhysicalMemoryArray"];
    let array = smbios.arrays.first().copied().unwrap_or_default();
    let capacity = match theirs["MaximumCapacity"].as_u64() {
        Some(0x8000_0000) => theirs["ExtendedMaximumCapacity"].clone(),
        kib => Value::from(kib.unwrap_or_default() << 10),
    };
    all.number("capacity", array.max_capacity, &capacity);
    all.number("slots", array.slots.map(Into::into), &theirs["NumberOfMemoryDevices"]);
    let ecc = match theirs["MemoryErrorCorrection"].as_u64() {
        Some(5..=7) => Some(true),
        Some(3 | 4) => Some(false),
        _ => None,
    };
    all.same("ECC", &array.ecc, &ecc);
    let devices = json["MemoryDevices"].as_array().cloned().unwrap_or_default();
    all.same("modules", &smbios.dimms.len(), &devices.len());
    for (ours, theirs) in smbios.dimms.iter().zip(&devices) {
        module(all, ours, theirs);
    }
}

fn module(all: &mut Comparison, ours: &Dimm, theirs: &Value) {
    // No size in these tables is under 1 MiB.
    let mib = if theirs["Size"] == 0x7fff { &theirs["ExtendedSize"] } else { &theirs["Size"] };
    let size = mib.as_u64().map(|mib| mib << 20);
    all.same("size", &ours.size, &size);
    all.text("locator", &ours.slot, &theirs["DeviceLocator"]);
    all.text("bank", &ours.bank, &theirs["BankLocator"]);
    all.text("manufacturer", &ours.manufacturer, &theirs["Manufacturer"]);
    all.text("serial", &ours.serial, &theirs["SerialNumber"]);
    all.text("asset", &ours.asset_tag, &theirs["AssetTag"]);
    all.text("part", &ours.part, &theirs["PartNumber"]);
    all.number("speed", ours.speed_rated.map(Into::into), &theirs["Speed"]);
    let configured = ours.speed_configured.map(Into::into);
    all.number("configured speed", configured, &theirs["ConfiguredMemorySpeed"]);
    all.number("voltage", ours.voltage_mv.map(Into::into), &theirs["ConfiguredVoltage"]);
    let rank = theirs["Attributes"].as_u64().map(|bits| Value::from(bits & 0xf));
    all.number("rank", ours.rank.map(Into::into), &rank.unwrap_or_default());
    let width = |value: &Value| Value::from(value.as_u64().filter(|it| *it != 0xffff).unwrap_or(0));
    all.number("width", ours.total_width.map(Into::into), &width(&theirs["TotalWidth"]));
    all.number("data width", ours.data_width.map(Into::into), &width(&theirs["DataWidth"]));
    let kind = match theirs["MemoryType"].as_u64() {
        Some(24) => Some("DDR3"),
        Some(26) => Some("DDR4"),
        _ => None,
    };
    all.same("type", &ours.kind.as_deref(), &kind);
    let form = theirs["FormFactor"].as_u64().filter(|code| *code == 9).map(|_| "DIMM");
    all.same("form factor", &ours.form_factor.as_deref(), &form);
    let detail = theirs["TypeDetail"].as_u64().is_some_and(|bits| bits & 0x80 != 0);
    all.same("synchronous", &ours.detail.iter().any(|it| it == "synchronous"), &detail);
}

/// A memory device as dmidecode prints it: key and value of each line.
type Block = Vec<(String, String)>;

#[test]
fn modules_of_192_servers_are_read_as_dmidecode_prints_them() {
    let Some(corpus) = corpus("dmi-text/servers.tar.xz") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let unpacked = Command::new("tar").arg("xJf").arg(&corpus).arg("-C").arg(dir.path()).status();
    assert!(unpacked.expect("tar runs").success());
    let (mut files, mut modules) = (0, 0);
    let mut all = Comparison { of: String::new(), compared: 0, differ: Vec::new() };
    for entry in fs::read_dir(dir.path()).expect("a directory") {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("a file");
        let blocks = memory_devices(&String::from_utf8_lossy(&bytes));
        all.of = path.file_name().expect("a name").to_string_lossy().into_owned();
        files += 1;
        for block in &blocks {
            let (smbios, problems) = decode(&encode(block));
            assert!(problems.is_empty(), "{}: {problems:?}", all.of);
            as_printed(&mut all, &smbios.dimms[0], block);
            modules += 1;
        }
    }
    println!("{files} texts, {modules} memory devices, {} fields compared", all.compared);
    assert_eq!(all.differ, Vec::<String>::new());
    assert_eq!((files, modules), (192, 2619));
}

fn memory_devices(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if !line.starts_with('\t') {
            inside = line == "Memory Device";
            if inside {
                blocks.push(Block::new());
            }
        } else if let (true, Some((key, value)), Some(block)) =
            (inside, line[1..].split_once(':'), blocks.last_mut())
        {
            block.push((key.to_owned(), value.trim().to_owned()));
        }
    }
    blocks
}

fn get<'a>(block: &'a Block, keys: &[&str]) -> &'a str {
    let found = block.iter().find(|(key, _)| keys.contains(&key.as_str()));
    found.map_or("", |(_, value)| value)
}

/// The number before a unit; `None` for `Unknown`, `None` and the like.
fn leading(text: &str) -> Option<u64> {
    text.split(' ').next()?.parse().ok()
}

/// Bytes of `16 GB`, `4096 kB`; 0 for an empty slot.
fn printed_size(text: &str) -> Option<u64> {
    if text == "No Module Installed" {
        return Some(0);
    }
    let shift = match text.split_once(' ')?.1 {
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    Some(leading(text)? << shift)
}

const CONFIGURED: [&str; 2] = ["Configured Memory Speed", "Configured Clock Speed"];

/// The structure that a printed block must have come from, as the
/// specification writes it.
fn encode(block: &Block) -> Vec<u8> {
    let word = |keys: &[&str]| (leading(get(block, keys)).unwrap_or(0) as u16).to_le_bytes();
    let bytes = printed_size(get(block, &["Size"]));
    let (size, extended) = match bytes {
        None => (0xffff, 0),
        Some(bytes) if bytes >= 32_767 << 20 => (0x7fff, (bytes >> 20) as u32),
        Some(bytes) if bytes > 0 && bytes < 1 << 20 => (0x8000 | (bytes >> 10) as u16, 0),
        Some(bytes) => ((bytes >> 20) as u16, 0),
    };
    let rank = leading(get(block, &["Rank"])).unwrap_or(0) as u8;
    let area = Area::new(0x28)
        .set(0x08, &word(&["Total Width"]))
        .set(0x0a, &word(&["Data Width"]))
        .set(0x0c, &u16::to_le_bytes(size))
        .set(0x10, &[1, 2])
        .set(0x15, &word(&["Speed"]))
        .set(0x17, &[3, 0, 0, 4, rank])
        .set(0x1c, &u32::to_le_bytes(extended))
        .set(0x20, &word(&CONFIGURED));
    // A string can't be empty in a table: firmware writes a space.
    let text = |key| Some(get(block, &[key])).filter(|text| !text.is_empty()).unwrap_or(" ");
    let strings = ["Locator", "Bank Locator", "Manufacturer", "Part Number"].map(text);
    [structure(17, 1, &area.0, &strings), end()].concat()
}

fn as_printed(all: &mut Comparison, ours: &Dimm, block: &Block) {
    let size = printed_size(get(block, &["Size"]));
    all.same("size", &ours.size, &size);
    let number = |keys: &[&str]| leading(get(block, keys)).filter(|number| *number > 0);
    all.same("speed", &ours.speed_rated.map(u64::from), &number(&["Speed"]));
    all.same("configured", &ours.speed_configured.map(u64::from), &number(&CONFIGURED));
    all.same("rank", &ours.rank.map(u64::from), &number(&["Rank"]));
    all.same("width", &ours.total_width.map(u64::from), &number(&["Total Width"]));
    let text = |key| Value::from(get(block, &[key]));
    all.text("locator", &ours.slot, &text("Locator"));
    all.text("bank", &ours.bank, &text("Bank Locator"));
    all.text("manufacturer", &ours.manufacturer, &text("Manufacturer"));
    all.text("part", &ours.part, &text("Part Number"));
    // A module is called something; a placeholder of ours that swallowed a real
    // name would show here. Three servers list a nameless flash chip of 4 MB.
    let nameless = ours.slot.is_none() && ours.bank.is_none();
    all.same("nameless", &(nameless && ours.size > Some(4 << 20)), &false);
}
