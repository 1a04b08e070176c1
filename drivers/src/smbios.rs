//! The firmware's table of what it put into the machine: SMBIOS.
//!
//! Source: DMTF DSP0134 (System Management BIOS Reference Specification 3.7);
//! offsets below are the specification's. [`decode`] is total: any bytes give a
//! table, as far as it could be followed, and what was wrong with the rest.
//! Each structure is read no further than its own length, so an old, short one
//! has unknown fields and never a neighbour's.
//!
//! It must never search for the next structure behind a broken one: what would
//! be found there is made of other structures' bytes.

use std::io;

use purlin_core::inventory::{Bmc, Dimm, Firmware, Nameplate, Socket};

use crate::probe::{Probe, label};

/// The most structures read of one table: a machine with 8 packages, 192 slots
/// and their error records has about 1,500.
pub const MAX_STRUCTURES: usize = 8192;

/// The kernel's copy of the table, readable by root alone.
pub(crate) const TABLE: &str = "/sys/firmware/dmi/tables/DMI";

const ENTRY_POINT: &str = "/sys/firmware/dmi/tables/smbios_entry_point";
const ENTRIES: &str = "/sys/firmware/dmi/entries";

/// Type of the last structure.
const END: u8 = 127;

/// What firmware writes where nobody filled the field in, in lower case. Met in
/// the tables of real servers; none of them names a thing.
const PLACEHOLDERS: [&str; 34] = [
    "to be filled by o.e.m.",
    "to be filled by o.e.m",
    "to be filled by oem",
    "to be filed by msft",
    "tbd by oem",
    "o.e.m.",
    "oem",
    "default string",
    "default",
    "not specified",
    "not provided",
    "not available",
    "not applicable",
    "not set",
    "no dimm",
    "no module installed",
    "unknown",
    "undefined",
    "unspecified",
    "invalid",
    "<bad index>",
    "<out of spec>",
    "none",
    "null",
    "n/a",
    "empty",
    "system manufacturer",
    "system product name",
    "system version",
    "system serial number",
    "chassis manufacturer",
    "chassis version",
    "chassis serial number",
    "asset tag",
];

/// What of a table names things or tells what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Smbios {
    /// Version of the specification, from the table's entry point; [`decode`]
    /// is not told it.
    pub version: Option<(u8, u8)>,
    /// Type 0.
    pub firmware: Firmware,
    /// Type 0 says that the table describes a virtual machine.
    pub virtual_machine: Option<bool>,
    /// Type 1, the machine.
    pub system: Nameplate,
    /// Type 1.
    pub family: Option<String>,
    /// Type 1.
    pub sku: Option<String>,
    /// Type 1, as the bytes stand in the table; [`Smbios::uuid`] writes it out.
    pub raw_uuid: Option<[u8; 16]>,
    /// Type 2, the first that is there: the others are risers and nodes.
    pub board: Option<Nameplate>,
    /// Type 3, the first: a blade's own, before the enclosure's.
    pub chassis: Option<Nameplate>,
    /// Type 3, in words.
    pub chassis_kind: Option<String>,
    /// Type 4, central processors only.
    pub sockets: Vec<Socket>,
    /// Types 9 and 41: what is printed beside a slot or names an onboard device.
    pub slots: Vec<Slot>,
    /// Type 16.
    pub arrays: Vec<Array>,
    /// Type 17 of system memory, in the order of the table.
    pub dimms: Vec<Dimm>,
    /// Types 38 and 42.
    pub bmc: Option<Bmc>,
    /// Type 43.
    pub tpm: Option<TpmDevice>,
}

/// A place for a PCI device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// As printed: `PCIe Slot 2`, `Onboard LAN1`.
    pub designation: Option<String>,
    /// `domain:bus:device.function` of the device in it, or of the port above it.
    pub address: Option<String>,
    /// Soldered on, rather than a slot.
    pub onboard: bool,
    /// Something is in it, or the onboard device is enabled.
    pub in_use: Option<bool>,
}

/// A group of memory slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Array {
    /// Handle, to which memory devices refer.
    pub handle: u16,
    /// It is system memory, rather than video, flash or cache.
    pub system: bool,
    /// It corrects errors.
    pub ecc: Option<bool>,
    /// Bytes it can take.
    pub max_capacity: Option<u64>,
    /// Slots it has.
    pub slots: Option<u16>,
}

/// What type 43 says about the TPM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TpmDevice {
    /// Vendor id, up to four characters.
    pub vendor: Option<String>,
    /// Version of the specification.
    pub version: Option<String>,
}

impl Smbios {
    /// What the board calls the place of a PCI function: an onboard device's
    /// own name, or that of the slot which has this function, the first one of
    /// its card, or a port above it. `above` are the ports, the nearest first.
    pub fn designation(&self, address: &str, above: &[String]) -> Option<&str> {
        let find = |address: &str, is_onboard: bool| {
            let of = |it: &&Slot| {
                it.address.as_deref() == Some(address)
                    && it.onboard == is_onboard
                    && it.designation.is_some()
            };
            self.slots.iter().find(of)?.designation.as_deref()
        };
        // On a root bus the functions of one device are ports of several slots.
        let card = address.rsplit_once('.').filter(|_| !above.is_empty());
        find(address, true)
            .or_else(|| find(address, false))
            .or_else(|| find(&format!("{}.0", card?.0), false))
            .or_else(|| above.iter().find_map(|port| find(port, false)))
    }

    /// The machine's UUID. Since version 2.6 its first three fields are
    /// little-endian.
    pub fn uuid(&self) -> Option<String> {
        let bytes = self.raw_uuid.filter(|bytes| *bytes != [0; 16] && *bytes != [0xff; 16])?;
        let order = match self.version {
            Some(version) if version < (2, 6) => [0, 1, 2, 3, 4, 5, 6, 7],
            _ => [3, 2, 1, 0, 5, 4, 7, 6],
        };
        let bytes = order.into_iter().chain(8..16).map(|at: usize| bytes[at]);
        let hex: String = bytes.map(|byte| format!("{byte:02x}")).collect();
        Some([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
    }
}

/// Reads the machine's table, with what was wrong; `None` and no word if there
/// is none, as on most Arm boards and in small VMs. Problems go to the part that
/// asks.
pub(crate) fn read(probe: &mut Probe<'_>) -> Option<Smbios> {
    let table = table(probe).map_err(|error| probe.report(TABLE, &error)).ok()?;
    let (mut smbios, problems) = decode(&table);
    for problem in problems {
        probe.problem(TABLE, problem);
    }
    smbios.version = version(probe);
    smbios.firmware.smbios = smbios.version.map(|(major, minor)| format!("{major}.{minor}"));
    Some(smbios)
}

/// The machine's table without a word on what is wrong with it, for parts that
/// only look a name up: others tell.
pub(crate) fn read_quietly(probe: &Probe<'_>) -> Smbios {
    table(probe).map(|table| decode(&table).0).unwrap_or_default()
}

fn table(probe: &Probe<'_>) -> io::Result<Vec<u8>> {
    probe.root.bytes(TABLE).or_else(|error| entries(probe).ok_or(error))
}

/// A table put together from the kernel's copies of each structure, which a
/// dump may have without the table itself.
fn entries(probe: &Probe<'_>) -> Option<Vec<u8>> {
    // `17-3` is the fourth structure of type 17.
    let place = |name: &str| -> Option<(u8, u16)> {
        let (kind, instance) = name.split_once('-')?;
        Some((kind.parse().ok()?, instance.parse().ok()?))
    };
    let names = probe.root.list(ENTRIES).ok()?;
    let mut places: Vec<_> = names.iter().filter_map(|name| place(name)).collect();
    places.sort_unstable();
    let mut table = Vec::new();
    for (kind, instance) in places.into_iter().take(MAX_STRUCTURES) {
        if let Ok(raw) = probe.root.bytes(&format!("{ENTRIES}/{kind}-{instance}/raw")) {
            table.extend(raw);
        }
    }
    (!table.is_empty()).then_some(table)
}

/// Version of the specification, from the table's entry point (5.2).
fn version(probe: &mut Probe<'_>) -> Option<(u8, u8)> {
    let entry = probe.root.bytes(ENTRY_POINT).ok()?;
    let at = if entry.starts_with(b"_SM3_") {
        7
    } else if entry.starts_with(b"_SM_") {
        6
    } else {
        return None;
    };
    Some((*entry.get(at)?, *entry.get(at + 1)?))
}

/// Decodes a table, and says where and why it could not be followed to its end.
pub fn decode(table: &[u8]) -> (Smbios, Vec<String>) {
    let mut smbios = Smbios::default();
    let mut problems = Vec::new();
    let mut devices = Vec::new();
    let mut rest = table;
    for count in 0.. {
        if rest.is_empty() {
            break;
        }
        if count >= MAX_STRUCTURES {
            problems.push(format!("more than the limit of {MAX_STRUCTURES} structures"));
            break;
        }
        match Structure::take(rest) {
            Ok((structure, _)) if structure.kind() == END => break,
            Ok((structure, next)) => {
                structure.put_into(&mut smbios, &mut devices);
                rest = next;
            }
            Err(what) => {
                problems.push(format!("{what} at byte {}", table.len() - rest.len()));
                break;
            }
        }
    }
    smbios.dimms = system_memory(devices, &smbios.arrays);
    (smbios, problems)
}

/// Without the flash and video memory that some firmware lists beside it.
fn system_memory(devices: Vec<(Option<u16>, Dimm)>, arrays: &[Array]) -> Vec<Dimm> {
    let elsewhere = |handle: &Option<u16>| {
        arrays.iter().any(|array| Some(array.handle) == *handle && !array.system)
    };
    devices.into_iter().filter(|(array, _)| !elsewhere(array)).map(|(_, dimm)| dimm).collect()
}

/// A string of the firmware, fit for a terminal; `None` for the placeholders of
/// [`PLACEHOLDERS`], for counting-up digits (`0123456789`), and for nothing but
/// one filler: dots, dashes, spaces, or at least four of `0`, `F` or `X`.
pub fn told(text: &str) -> Option<String> {
    let text = label(text)?;
    let lower = text.to_lowercase();
    let filler = |all: &str, least: usize| {
        lower.chars().all(|c| all.contains(c)) && lower.chars().count() >= least
    };
    let counting = lower.len() >= 5
        && ["01234567890123456789ab", "1234567890."].iter().any(|run| run.starts_with(&lower));
    let nothing = PLACEHOLDERS.contains(&lower.as_str())
        || filler(".-_*?# \u{fffd}", 1)
        || ["0", "f", "x"].iter().any(|one| filler(one, 4))
        || counting;
    (!nothing).then_some(text)
}

/// One structure: a formatted area, and the strings to which it refers by number.
struct Structure<'a> {
    /// Header and fields; at least 4 bytes, so that the header can be read.
    area: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Structure<'a> {
    /// Takes the first structure, and what follows it.
    fn take(table: &'a [u8]) -> Result<(Self, &'a [u8]), String> {
        let [kind, length, _, _, ..] = *table else {
            return Err("a structure's header is cut off".into());
        };
        if length < 4 {
            return Err(format!("a structure of type {kind} claims a length of {length}"));
        }
        let Some((area, rest)) = table.split_at_checked(length.into()) else {
            return Err(format!("a structure of type {kind} is cut off"));
        };
        let Some(end) = rest.windows(2).position(|two| two == [0, 0]) else {
            return Err(format!("the strings of a structure of type {kind} have no end"));
        };
        Ok((Self { area, strings: &rest[..end] }, &rest[end + 2..]))
    }

    fn kind(&self) -> u8 {
        self.area[0]
    }

    fn handle(&self) -> u16 {
        u16::from_le_bytes([self.area[2], self.area[3]])
    }

    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.area.get(at..at + N)?.try_into().ok()
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.area.get(at).copied()
    }

    fn word(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn dword(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn qword(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    /// The string to which the byte at `at` refers; 0 refers to none.
    fn text(&self, at: usize) -> Option<String> {
        let number = usize::from(self.byte(at)?).checked_sub(1)?;
        let string = self.strings.split(|byte| *byte == 0).nth(number)?;
        told(&String::from_utf8_lossy(string))
    }

    fn put_into(&self, smbios: &mut Smbios, devices: &mut Vec<(Option<u16>, Dimm)>) {
        match self.kind() {
            0 => self.firmware(smbios),
            1 => self.system(smbios),
            2 if smbios.board.is_none() => smbios.board = Some(self.board()),
            3 if smbios.chassis.is_none() => self.chassis(smbios),
            // 3 is a central processor; others are co-processors.
            4 if self.byte(0x05) == Some(3) => smbios.sockets.push(self.socket()),
            9 => smbios.slots.push(self.slot()),
            16 => smbios.arrays.push(self.array()),
            17 => devices.push((self.word(0x04), self.dimm())),
            38 => self.ipmi(smbios.bmc.get_or_insert_default()),
            41 => smbios.slots.push(self.onboard()),
            42 if self.is_redfish() => smbios.bmc.get_or_insert_default().redfish = true,
            43 => smbios.tpm = Some(self.tpm()),
            _ => {}
        }
    }

    fn firmware(&self, smbios: &mut Smbios) {
        smbios.firmware = Firmware {
            vendor: self.text(0x04),
            version: self.text(0x05),
            date: self.text(0x08),
            release: self.release(0x14),
            ec_release: self.release(0x16),
            smbios: None,
        };
        smbios.virtual_machine = self.byte(0x13).map(|bits| bits & 0x10 != 0);
    }

    /// A major and a minor byte; 0xff is "none".
    fn release(&self, at: usize) -> Option<String> {
        let [major, minor] = self.bytes(at)?;
        (major != 0xff || minor != 0xff).then(|| format!("{major}.{minor}"))
    }

    fn system(&self, smbios: &mut Smbios) {
        smbios.system = Nameplate {
            vendor: self.text(0x04),
            product: self.text(0x05),
            version: self.text(0x06),
            serial: self.text(0x07),
            asset_tag: None,
        };
        smbios.raw_uuid = self.bytes(0x08);
        smbios.sku = self.text(0x19);
        smbios.family = self.text(0x1a);
    }

    fn board(&self) -> Nameplate {
        Nameplate {
            vendor: self.text(0x04),
            product: self.text(0x05),
            version: self.text(0x06),
            serial: self.text(0x07),
            asset_tag: self.text(0x08),
        }
    }

    fn chassis(&self, smbios: &mut Smbios) {
        smbios.chassis = Some(Nameplate {
            vendor: self.text(0x04),
            product: None,
            version: self.text(0x06),
            serial: self.text(0x07),
            asset_tag: self.text(0x08),
        });
        smbios.chassis_kind = self.byte(0x05).and_then(chassis_kind);
    }

    fn socket(&self) -> Socket {
        let populated = self.byte(0x18).is_some_and(|status| status & 0x40 != 0);
        Socket { designation: self.text(0x04), populated }
    }

    fn slot(&self) -> Slot {
        Slot {
            designation: self.text(0x04),
            address: self.address(0x0d),
            onboard: false,
            in_use: match self.byte(0x07) {
                Some(3) => Some(false),
                Some(4) => Some(true),
                _ => None,
            },
        }
    }

    fn onboard(&self) -> Slot {
        Slot {
            designation: self.text(0x04),
            address: self.address(0x07),
            onboard: true,
            in_use: self.byte(0x05).map(|kind| kind & 0x80 != 0),
        }
    }

    /// Segment group, bus, device and function. All ones, or all zeroes, is
    /// "not applicable"; firmware also fills only some of the bytes with ones.
    fn address(&self, at: usize) -> Option<String> {
        let segment = self.word(at)?;
        let [bus, devfn] = self.bytes(at + 2)?;
        let filler = bus == 0xff || devfn == 0xff || segment == 0xffff;
        if filler || (segment, bus, devfn) == (0, 0, 0) {
            return None;
        }
        Some(format!("{segment:04x}:{bus:02x}:{:02x}.{}", devfn >> 3, devfn & 7))
    }

    fn array(&self) -> Array {
        // Kibibytes, or "look at the extended field".
        let max_capacity = match self.dword(0x07) {
            Some(0x8000_0000) => self.qword(0x0f),
            kib => kib.map(|kib| u64::from(kib) << 10),
        };
        Array {
            handle: self.handle(),
            system: self.byte(0x05) == Some(3),
            ecc: match self.byte(0x06) {
                // None and parity; single-bit, multi-bit and CRC.
                Some(3 | 4) => Some(false),
                Some(5..=7) => Some(true),
                _ => None,
            },
            max_capacity: max_capacity.filter(|bytes| *bytes > 0),
            slots: self.word(0x0d),
        }
    }

    fn dimm(&self) -> Dimm {
        let (total_width, data_width) = (self.width(0x08), self.width(0x0a));
        Dimm {
            handle: self.handle(),
            slot: self.text(0x10),
            bank: self.text(0x11),
            size: self.size(),
            form_factor: self.byte(0x0e).and_then(|code| name(&FORM_FACTORS, code)),
            kind: self.byte(0x12).and_then(|code| name(&MEMORY_TYPES, code)),
            detail: self.word(0x13).map(details).unwrap_or_default(),
            speed_rated: self.speed(0x15, 0x54),
            speed_configured: self.speed(0x20, 0x58),
            manufacturer: self.text(0x17),
            serial: self.text(0x18),
            part: self.text(0x1a),
            asset_tag: self.text(0x19),
            rank: self.byte(0x1b).map(|attributes| attributes & 0xf).filter(|rank| *rank > 0),
            data_width,
            total_width,
            ecc: checked(total_width, data_width),
            voltage_mv: self.word(0x26).filter(|millivolts| *millivolts > 0),
            technology: self.byte(0x28).and_then(|code| name(&TECHNOLOGIES, code)),
            firmware: self.text(0x2b),
            non_volatile: self.capacity(0x34),
            volatile: self.capacity(0x3c),
            cache: self.capacity(0x44),
            errors: None,
        }
    }

    /// Bits; all ones is unknown, and 0 is what empty slots have.
    fn width(&self, at: usize) -> Option<u16> {
        self.word(at).filter(|bits| *bits != 0 && *bits != 0xffff)
    }

    /// Bytes; 0 is an empty slot, all ones a module of unknown size.
    fn size(&self) -> Option<u64> {
        match self.word(0x0c)? {
            0xffff => None,
            // Mebibytes in an own field, whose highest bit is reserved.
            0x7fff if self.dword(0x1c).is_some() => {
                Some(u64::from(self.dword(0x1c)? & 0x7fff_ffff) << 20)
            }
            kib if kib & 0x8000 != 0 => Some(u64::from(kib & 0x7fff) << 10),
            mib => Some(u64::from(mib) << 20),
        }
    }

    /// MT/s; 0 is unknown, and all ones means "look at the extended field".
    fn speed(&self, at: usize, extended: usize) -> Option<u32> {
        let speed = match self.word(at)? {
            0xffff => self.dword(extended)? & 0x7fff_ffff,
            speed => speed.into(),
        };
        (speed > 0).then_some(speed)
    }

    /// Bytes; all ones is unknown.
    fn capacity(&self, at: usize) -> Option<u64> {
        self.qword(at).filter(|bytes| *bytes != u64::MAX)
    }

    fn ipmi(&self, bmc: &mut Bmc) {
        bmc.interface = self.byte(0x04).and_then(|code| name(&IPMI_INTERFACES, code));
        bmc.ipmi_version = self.byte(0x05).map(|bcd| format!("{}.{}", bcd >> 4, bcd & 0xf));
        bmc.address = self.qword(0x08).filter(|base| *base != 0).map(|base| {
            let lsb = self.byte(0x10).is_some_and(|modifier| modifier & 0x10 != 0);
            match (self.byte(0x04), base & 1) {
                (Some(4), _) => format!("SMBus {:#x}", base >> 1),
                (_, 1) => format!("I/O {:#x}", base & !1 | u64::from(lsb)),
                _ => format!("memory {:#x}", base | u64::from(lsb)),
            }
        });
    }

    /// A network interface to the management controller whose protocol is
    /// Redfish over IP (7.43; DSP0270).
    fn is_redfish(&self) -> bool {
        if self.byte(0x04) != Some(0x40) {
            return false;
        }
        let Some(length) = self.byte(0x05) else { return false };
        let mut at = 6 + usize::from(length);
        let records = self.byte(at).unwrap_or(0);
        at += 1;
        for _ in 0..records {
            match self.bytes(at) {
                Some([4, _]) => return true,
                Some([_, length]) => at += 2 + usize::from(length),
                None => return false,
            }
        }
        false
    }

    fn tpm(&self) -> TpmDevice {
        let vendor: [u8; 4] = self.bytes(0x04).unwrap_or_default();
        let version = self.bytes(0x08).map(|[major, minor]| format!("{major}.{minor}"));
        TpmDevice { vendor: told(&String::from_utf8_lossy(&vendor)), version }
    }
}

/// Check bits are what the whole width has over the data. Firmware that gives
/// 72 for both does not say.
fn checked(total: Option<u16>, data: Option<u16>) -> Option<bool> {
    match (total?, data?) {
        (total, data) if total > data => Some(true),
        (total, data) if total == data && data.is_power_of_two() => Some(false),
        _ => None,
    }
}

/// The name of a code, counted from 1; `""` and codes beyond are unknown.
fn name(names: &[&str], code: u8) -> Option<String> {
    let name = names.get(usize::from(code).checked_sub(1)?)?;
    (!name.is_empty()).then(|| (*name).to_owned())
}

/// 7.18.3, from bit 1.
fn details(bits: u16) -> Vec<String> {
    let named = TYPE_DETAILS.iter().zip(1..).filter(|(_, bit)| bits >> bit & 1 == 1);
    named.filter(|(name, _)| !name.is_empty()).map(|(name, _)| (*name).to_owned()).collect()
}

/// A chassis' kind in words (7.4.1); the highest bit says that it has a lock.
pub(crate) fn chassis_kind(code: u8) -> Option<String> {
    name(&CHASSIS, code & 0x7f)
}

/// 7.4.1
const CHASSIS: [&str; 36] = [
    "",
    "",
    "desktop",
    "low profile desktop",
    "pizza box",
    "mini tower",
    "tower",
    "portable",
    "laptop",
    "notebook",
    "hand held",
    "docking station",
    "all in one",
    "sub notebook",
    "space-saving",
    "lunch box",
    "main server chassis",
    "expansion chassis",
    "sub chassis",
    "bus expansion chassis",
    "peripheral chassis",
    "RAID chassis",
    "rack mount chassis",
    "sealed-case PC",
    "multi-system chassis",
    "compact PCI",
    "advanced TCA",
    "blade",
    "blade enclosure",
    "tablet",
    "convertible",
    "detachable",
    "IoT gateway",
    "embedded PC",
    "mini PC",
    "stick PC",
];

/// 7.18.1
const FORM_FACTORS: [&str; 17] = [
    "",
    "",
    "SIMM",
    "SIP",
    "chip",
    "DIP",
    "ZIP",
    "proprietary card",
    "DIMM",
    "TSOP",
    "row of chips",
    "RIMM",
    "SODIMM",
    "SRIMM",
    "FB-DIMM",
    "die",
    "CAMM",
];

/// 7.18.2
const MEMORY_TYPES: [&str; 36] = [
    "",
    "",
    "DRAM",
    "EDRAM",
    "VRAM",
    "SRAM",
    "RAM",
    "ROM",
    "Flash",
    "EEPROM",
    "FEPROM",
    "EPROM",
    "CDRAM",
    "3DRAM",
    "SDRAM",
    "SGRAM",
    "RDRAM",
    "DDR",
    "DDR2",
    "DDR2 FB-DIMM",
    "",
    "",
    "",
    "DDR3",
    "FBD2",
    "DDR4",
    "LPDDR",
    "LPDDR2",
    "LPDDR3",
    "LPDDR4",
    "logical non-volatile device",
    "HBM",
    "HBM2",
    "DDR5",
    "LPDDR5",
    "HBM3",
];

/// 7.18.3
const TYPE_DETAILS: [&str; 15] = [
    "",
    "",
    "fast-paged",
    "static column",
    "pseudo-static",
    "RAMBUS",
    "synchronous",
    "CMOS",
    "EDO",
    "window DRAM",
    "cache DRAM",
    "non-volatile",
    "registered",
    "unbuffered",
    "LRDIMM",
];

/// 7.18.6
const TECHNOLOGIES: [&str; 7] =
    ["", "", "DRAM", "NVDIMM-N", "NVDIMM-F", "NVDIMM-P", "Intel Optane persistent memory"];

/// 7.39.1; code 0 is unknown.
const IPMI_INTERFACES: [&str; 4] = ["KCS", "SMIC", "BT", "SSIF"];
