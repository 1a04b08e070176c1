//! Who made the machine, what it runs, and what runs below it.
//!
//! Page: `hw-docs/platform.md`. Sources: `/sys/class/dmi/id`
//! (Documentation/ABI/testing/sysfs-firmware-dmi-entries and
//! sysfs-class-dmi), the device tree, `/proc/sys/kernel`. It must never guess:
//! a machine that does not say whether it is virtual is "unknown".

use purlin_core::inventory::{Part, Platform, Problem};

use crate::{Root, probe::Probe};

const DMI: &str = "/sys/class/dmi/id";

/// Reads the platform; `None` only if nothing at all could be told.
pub fn read(root: &Root) -> (Option<Platform>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Platform, root);
    let platform = Platform {
        hostname: probe.label("/proc/sys/kernel/hostname"),
        kernel: kernel(&mut probe),
        architecture: architecture(root),
        vendor: vendor(&mut probe),
        product: dmi(&mut probe, "product_name"),
        serial: dmi(&mut probe, "product_serial"),
        board: joined(&mut probe, &["board_vendor", "board_name"]),
        firmware: joined(&mut probe, &["bios_vendor", "bios_version", "bios_date"]),
        uefi: root.exists("/sys/firmware").then(|| root.exists("/sys/firmware/efi")),
        virtualised: virtualised(&mut probe),
    };
    if platform == Platform::default() {
        probe.problem("/proc", "nothing tells what machine this is");
        return (None, probe.finish());
    }
    (Some(platform), probe.finish())
}

fn dmi(probe: &mut Probe<'_>, name: &str) -> Option<String> {
    probe.label(&format!("{DMI}/{name}"))
}

fn joined(probe: &mut Probe<'_>, names: &[&str]) -> Option<String> {
    let words: Vec<String> = names.iter().filter_map(|name| dmi(probe, name)).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn vendor(probe: &mut Probe<'_>) -> Option<String> {
    dmi(probe, "sys_vendor")
        .or_else(|| probe.label("/sys/firmware/devicetree/base/model"))
        .or_else(|| probe.label("/proc/device-tree/model"))
}

/// `osrelease`, or the third word of `/proc/version` in a dump without it.
fn kernel(probe: &mut Probe<'_>) -> Option<String> {
    probe.label("/proc/sys/kernel/osrelease").or_else(|| {
        let version = probe.label("/proc/version")?;
        let release = version.strip_prefix("Linux version ")?;
        release.split(' ').next().map(str::to_owned)
    })
}

/// Only the running kernel tells its architecture (`uname(2)`).
fn architecture(root: &Root) -> Option<String> {
    let name = root.is_live().then(nix::sys::utsname::uname)?.ok()?;
    Some(name.machine().to_string_lossy().into_owned())
}

/// x86 tells by a CPU flag, both ways; elsewhere there are only signs for it,
/// and their absence proves nothing.
fn virtualised(probe: &mut Probe<'_>) -> Option<bool> {
    const SIGNS: [&str; 2] = ["/sys/hypervisor/type", "/proc/device-tree/hypervisor"];
    if SIGNS.iter().any(|sign| probe.root.exists(sign)) {
        return Some(true);
    }
    let cpuinfo = probe.text("/proc/cpuinfo")?;
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    Some(flags.split_whitespace().any(|flag| flag == "hypervisor"))
}
