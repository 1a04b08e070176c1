//! Who made the machine, what it runs, and what runs below it.
//!
//! Page: `hw-docs/platform.md`. Sources: the firmware's table
//! ([`smbios`]) and the kernel's copy of its names in `/sys/class/dmi/id`
//! (Documentation/ABI/testing/sysfs-class-dmi), the device tree,
//! `/proc/sys/kernel`, and one place each for what the modules below read.
//! It must never guess: a machine that does not say whether it is virtual is
//! "unknown".

mod bmc;
mod hypervisor;
mod power;
mod trust;

use purlin_core::inventory::{Firmware, Nameplate, Part, Platform, Problem};

use crate::{
    Root, cdi,
    probe::{Probe, label},
    smbios::{self, Smbios},
};

const DMI: &str = "/sys/class/dmi/id";

/// The device tree, where the kernel shows it, and where it did before 3.14.
const DEVICE_TREE: [&str; 2] = ["/sys/firmware/devicetree/base", "/proc/device-tree"];

/// How much of `/proc/cpuinfo` is read: the first CPU's record, in bytes, whose
/// flags are under 2 KiB.
const CPUINFO: u64 = 8 << 10;

/// The longest kernel command line kept, in bytes: x86 takes at most 2048,
/// others up to 4096.
const MAX_CMDLINE: u64 = 4096;

/// Reads the platform; `None` only if nothing at all could be told.
pub fn read(root: &Root) -> (Option<Platform>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Platform, root);
    let smbios = smbios::read(&mut probe);
    let cpuinfo = probe.head("/proc/cpuinfo", CPUINFO).unwrap_or_default();
    let names = names(&mut probe, smbios.as_ref());
    let mut platform = Platform {
        // The kernel's word for a name that nobody gave.
        hostname: probe.label("/proc/sys/kernel/hostname").filter(|name| name != "(none)"),
        kernel: kernel(&mut probe),
        cmdline: cmdline(&mut probe),
        architecture: architecture(root),
        compatible: compatible(&mut probe),
        uefi: root.exists("/sys/firmware").then(|| root.exists("/sys/firmware/efi")),
        tpms: trust::tpms(&mut probe, smbios.as_ref()),
        confidential: trust::confidential(&mut probe, &cpuinfo),
        power_zones: power::zones(&mut probe),
        watchdogs: power::watchdogs(&mut probe),
        bmc: bmc::read(&mut probe, smbios.as_ref()),
        cdi: cdi::read(&mut probe),
        ..names
    };
    trust::firmware(&mut probe, &mut platform);
    hypervisor::read(&mut probe, smbios.as_ref(), &cpuinfo, &mut platform);
    platform.sockets = smbios.map(|smbios| smbios.sockets).unwrap_or_default();
    if platform == Platform::default() {
        probe.problem("/proc", "nothing tells what machine this is");
        return (None, probe.finish());
    }
    (Some(platform), probe.finish())
}

/// What the machine, its board, its case and its firmware are called: by the
/// firmware's table, else by the kernel's copy, which anyone may read but for
/// the serials.
fn names(probe: &mut Probe<'_>, smbios: Option<&Smbios>) -> Platform {
    let known = smbios.cloned().unwrap_or_default();
    let system = plate(probe, known.system.clone(), "sys_vendor", "product");
    Platform {
        vendor: system
            .vendor
            .or_else(|| device_tree(probe, "model"))
            .or_else(|| sysinfo(probe, "Manufacturer:")),
        product: system.product.or_else(|| sysinfo(probe, "Type:")),
        version: system.version,
        serial: system.serial.or_else(|| device_tree(probe, "serial-number")),
        family: known.family.clone().or_else(|| dmi(probe, "product_family")),
        sku: known.sku.clone().or_else(|| dmi(probe, "product_sku")),
        uuid: known.uuid().or_else(|| secret(probe, "product_uuid")),
        board: plate(probe, known.board.unwrap_or_default(), "board_vendor", "board"),
        chassis: plate(probe, known.chassis.unwrap_or_default(), "chassis_vendor", "chassis"),
        chassis_kind: known.chassis_kind.or_else(|| chassis_kind(probe)),
        firmware: firmware(probe, known.firmware),
        ..Platform::default()
    }
}

fn plate(probe: &mut Probe<'_>, known: Nameplate, vendor: &str, thing: &str) -> Nameplate {
    Nameplate {
        vendor: known.vendor.or_else(|| dmi(probe, vendor)),
        product: known.product.or_else(|| dmi(probe, &format!("{thing}_name"))),
        version: known.version.or_else(|| dmi(probe, &format!("{thing}_version"))),
        serial: known.serial.or_else(|| secret(probe, &format!("{thing}_serial"))),
        asset_tag: known.asset_tag.or_else(|| dmi(probe, &format!("{thing}_asset_tag"))),
    }
}

fn firmware(probe: &mut Probe<'_>, known: Firmware) -> Firmware {
    Firmware {
        vendor: known.vendor.or_else(|| dmi(probe, "bios_vendor")),
        version: known.version.or_else(|| dmi(probe, "bios_version")),
        date: known.date.or_else(|| dmi(probe, "bios_date")),
        release: known.release.or_else(|| dmi(probe, "bios_release")),
        ec_release: known.ec_release.or_else(|| dmi(probe, "ec_firmware_release")),
        smbios: known.smbios,
    }
}

fn dmi(probe: &mut Probe<'_>, name: &str) -> Option<String> {
    smbios::told(&probe.text(&format!("{DMI}/{name}"))?)
}

/// What root alone may read. It stands in the firmware's table too, and where
/// that was refused, it is said already and need not be for each serial number.
fn secret(probe: &mut Probe<'_>, name: &str) -> Option<String> {
    if !probe.root.exists(smbios::TABLE) {
        return dmi(probe, name);
    }
    smbios::told(&probe.root.read(&format!("{DMI}/{name}")).ok()?)
}

fn chassis_kind(probe: &mut Probe<'_>) -> Option<String> {
    smbios::chassis_kind(probe.number(&format!("{DMI}/chassis_type"))?)
}

fn device_tree(probe: &mut Probe<'_>, name: &str) -> Option<String> {
    DEVICE_TREE.iter().find_map(|base| probe.label(&format!("{base}/{name}")))
}

/// s390 has no DMI; its machines are known by their type's number.
fn sysinfo(probe: &mut Probe<'_>, key: &str) -> Option<String> {
    let sysinfo = probe.text("/proc/sysinfo")?;
    let value = sysinfo.lines().find_map(|line| line.strip_prefix(key))?;
    label(value)
}

/// NUL-separated, the most specific first.
fn compatible(probe: &mut Probe<'_>) -> Vec<String> {
    let names = DEVICE_TREE.iter().find_map(|base| probe.text(&format!("{base}/compatible")));
    names.unwrap_or_default().split('\0').filter_map(label).collect()
}

/// `osrelease`, or the third word of `/proc/version` in a dump without it.
fn kernel(probe: &mut Probe<'_>) -> Option<String> {
    probe.label("/proc/sys/kernel/osrelease").or_else(|| {
        let version = probe.label("/proc/version")?;
        let release = version.strip_prefix("Linux version ")?;
        release.split(' ').next().map(str::to_owned)
    })
}

/// On one line, without control characters.
fn cmdline(probe: &mut Probe<'_>) -> Option<String> {
    let text = probe.head("/proc/cmdline", MAX_CMDLINE)?;
    let words: Vec<&str> = text.split(|c: char| c.is_control() || c == ' ').collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Only the running kernel tells its architecture (`uname(2)`).
fn architecture(root: &Root) -> Option<String> {
    let name = root.is_live().then(nix::sys::utsname::uname)?.ok()?;
    Some(name.machine().to_string_lossy().into_owned())
}

/// The words of the `flags` line of `/proc/cpuinfo`, which x86 alone has.
fn flags(cpuinfo: &str) -> Option<Vec<&str>> {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    Some(line.split_once(':')?.1.split_whitespace().collect())
}
