//! Block devices: whole ones, with something real behind them.
//!
//! Page: `hw-docs/storage.md`. Source: `/sys/block`
//! (Documentation/ABI/stable/sysfs-block). Partitions are not listed there;
//! loop, RAM and compressed disks, device mapper and md are made of memory or
//! of other disks, and are left out. It must never open a device node: that
//! can spin a disk up, or hang on a dead one.

use purlin_core::inventory::{Disk, Part, Problem, Storage};

use crate::{
    Root, pci,
    probe::{Probe, label},
};

const BLOCK: &str = "/sys/block";

/// What sysfs counts sizes in, in bytes, whatever the device's own sectors.
const SECTOR: u64 = 512;

/// Names of devices without hardware of their own, for where nothing else
/// tells: `/proc/diskstats`, and the link-less `/sys/block` of old kernels.
pub(crate) const VIRTUAL: [&str; 6] = ["loop", "ram", "zram", "dm-", "md", "nbd"];

/// Reads the disks; `None` if a dump has no block directory.
pub fn read(root: &Root) -> (Option<Storage>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Storage, root);
    let storage = read_storage(&mut probe);
    (storage, probe.finish())
}

fn read_storage(probe: &mut Probe<'_>) -> Option<Storage> {
    let mut names = probe.devices(BLOCK)?;
    names.retain(|name| is_whole_and_real(probe, name));
    Some(Storage { disks: names.into_iter().map(|name| disk(probe, name)).collect() })
}

fn is_whole_and_real(probe: &mut Probe<'_>, name: &str) -> bool {
    if VIRTUAL.iter().any(|prefix| name.starts_with(prefix)) {
        return false;
    }
    // One path of a multipath NVMe namespace; the namespace itself is listed too.
    if probe.flag(&format!("{BLOCK}/{name}/hidden")) == Some(true) {
        return false;
    }
    let target = probe.link(&format!("{BLOCK}/{name}")).unwrap_or_default();
    !target.contains("/devices/virtual/block/")
}

fn disk(probe: &mut Probe<'_>, name: String) -> Disk {
    let dir = format!("{BLOCK}/{name}");
    let at = |file: &str| format!("{dir}/{file}");
    let pci = pci::behind(probe, &dir).or_else(|| nvme_controller(probe, &dir));
    Disk {
        size: probe.number::<u64>(&at("size")).and_then(|sectors| sectors.checked_mul(SECTOR)),
        model: model(probe, &dir),
        serial: serial(probe, &dir),
        firmware: first(probe, &dir, &["device/firmware_rev", "device/fwrev", "device/rev"]),
        rotational: probe.flag(&at("queue/rotational")),
        removable: probe.flag(&at("removable")),
        node: pci::node_of(probe, &dir, pci.as_deref()),
        pci,
        name,
    }
}

fn first(probe: &mut Probe<'_>, dir: &str, files: &[&str]) -> Option<String> {
    files.iter().find_map(|file| probe.label(&format!("{dir}/{file}")))
}

/// NVMe and SCSI call it `model`, MMC `name`. SCSI has a vendor beside it,
/// which is just "ATA" behind a SATA link and a hexadecimal id for virtio.
fn model(probe: &mut Probe<'_>, dir: &str) -> Option<String> {
    let model = first(probe, dir, &["device/model", "device/name"])?;
    match probe.label(&format!("{dir}/device/vendor")) {
        Some(vendor) if vendor != "ATA" && !vendor.starts_with("0x") => {
            Some(format!("{vendor} {model}"))
        }
        _ => Some(model),
    }
}

/// NVMe and MMC: `device/serial`; virtio: `serial`; SCSI: page 0x80 of the
/// vital product data (SPC-4 7.8.13), a header of four bytes and the text.
fn serial(probe: &mut Probe<'_>, dir: &str) -> Option<String> {
    first(probe, dir, &["device/serial", "serial"]).or_else(|| {
        let page = probe.root.bytes(&format!("{dir}/device/vpd_pg80")).ok()?;
        label(&String::from_utf8_lossy(page.get(4..)?))
    })
}

/// With native multipath an NVMe namespace hangs under a virtual subsystem,
/// which links to its controllers; the first stands for all.
fn nvme_controller(probe: &mut Probe<'_>, dir: &str) -> Option<String> {
    let subsystem = format!("{dir}/device");
    let names = probe.names(&subsystem)?;
    let is_controller = |name: &&String| {
        name.strip_prefix("nvme").is_some_and(|id| id.bytes().all(|b| b.is_ascii_digit()))
    };
    let controller = names.iter().find(is_controller)?;
    pci::behind(probe, &format!("{subsystem}/{controller}"))
}
