//! Storage: controllers, and whole block devices with something real behind
//! them.
//!
//! Page: `hw-docs/storage.md`. Sources: `/sys/block`
//! (Documentation/ABI/stable/sysfs-block), `/sys/class/nvme`,
//! `/sys/class/enclosure`, the PCI functions of the mass storage class. What a
//! disk of a live machine answers about its health is asked one by one
//! ([`smart_of`]), so that the list never waits for a disk.
//! Partitions are not listed; loop, RAM and compressed disks, device mapper and
//! md are made of memory or of other disks, and are left out. It must never
//! open a block device: that can spin a disk up, or hang on a dead one.

use std::collections::BTreeMap;

use purlin_core::inventory::{
    Disk, Health, NvmeNamespace, Part, Problem, Smart, Storage, Transport,
};

use crate::{
    Root, pci,
    pci::Slots,
    probe::{Probe, label},
    root::Dir,
};

mod ask;
mod controller;
pub mod smart;

const BLOCK: &str = "/sys/block";
const ENCLOSURES: &str = "/sys/class/enclosure";
const SAS_DEVICES: &str = "/sys/class/sas_device";

/// What sysfs counts sizes in, in bytes, whatever the device's own sectors.
const SECTOR: u64 = 512;

/// Names of devices without hardware of their own, for where nothing else
/// tells: `/proc/diskstats`, and the link-less `/sys/block` of old kernels.
pub(crate) const VIRTUAL: [&str; 6] = ["loop", "ram", "zram", "dm-", "md", "nbd"];

/// Reads the controllers and disks; `None` if a dump has no block directory.
pub fn read(root: &Root) -> (Option<Storage>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Storage, root);
    let storage = read_storage(&mut probe);
    (storage, probe.finish())
}

fn read_storage(probe: &mut Probe<'_>) -> Option<Storage> {
    let mut names = probe.devices(BLOCK)?;
    let around = Around::read(probe, &names);
    names.retain(|name| is_whole_and_real(probe, name));
    let disks = names.into_iter().map(|name| disk(probe, &around, name)).collect();
    let controllers = controller::read(probe, &around.slots);
    let mut storage = Storage { controllers, disks };
    name_disks(&mut storage);
    Some(storage)
}

/// Asks one device, of those that [`Storage::to_ask`] names, about its health.
/// This can hang as long as the device does. A disk of another kind than ATA
/// has no answer and no problem, and so has every disk of a dump.
pub fn smart_of(root: &Root, device: &str) -> (Option<Smart>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Storage, root);
    let smart = if root.is_live() { ask::smart(&mut probe, device) } else { None };
    (smart, probe.finish())
}

/// What more than one disk needs to find its own place.
struct Around {
    slots: Slots,
    /// Bays by SCSI address.
    bays: BTreeMap<String, String>,
    /// Hidden disks that are the ways to a multipath NVMe namespace, by its disk.
    paths: BTreeMap<String, Vec<String>>,
}

impl Around {
    fn read(probe: &mut Probe<'_>, blocks: &[String]) -> Self {
        let mut paths: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (way, (disk, _)) in blocks.iter().filter_map(|name| Some((name, nvme_path(name)?))) {
            paths.entry(disk).or_default().push(way.clone());
        }
        Self { slots: Slots::read(probe), bays: bays(probe), paths }
    }
}

/// `nvme0c1n2` is the way through controller `nvme1` to namespace `nvme0n2`.
fn nvme_path(name: &str) -> Option<(String, String)> {
    let (subsystem, rest) = name.strip_prefix("nvme")?.split_once('c')?;
    let (controller, namespace) = rest.split_once('n')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    [subsystem, controller, namespace]
        .into_iter()
        .all(is_number)
        .then(|| (format!("nvme{subsystem}n{namespace}"), format!("nvme{controller}")))
}

/// Bays of enclosures by the SCSI address of what is in them. A bay's name is
/// unique in its enclosure only.
fn bays(probe: &mut Probe<'_>) -> BTreeMap<String, String> {
    let enclosures = probe.names(ENCLOSURES).unwrap_or_default();
    let is_alone = enclosures.len() == 1;
    let mut bays = BTreeMap::new();
    for enclosure in enclosures {
        for bay in probe.names(&format!("{ENCLOSURES}/{enclosure}")).unwrap_or_default() {
            let device = format!("{ENCLOSURES}/{enclosure}/{bay}/device");
            let Some(scsi) = probe.link_name(&device) else { continue };
            let name = if is_alone { bay } else { format!("{enclosure} {bay}") };
            bays.insert(scsi, name);
        }
    }
    bays
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

/// A disk's three directories; of one that is not there nothing is told.
struct Dirs<'a> {
    disk: Option<Dir<'a>>,
    device: Option<Dir<'a>>,
    queue: Option<Dir<'a>>,
}

fn disk(probe: &mut Probe<'_>, around: &Around, name: String) -> Disk {
    let path = format!("{BLOCK}/{name}");
    let dirs = Dirs {
        disk: probe.dir(&path),
        device: probe.dir(&format!("{path}/device")),
        queue: probe.dir(&format!("{path}/queue")),
    };
    let target = probe.link(&path).unwrap_or_default();
    let transport = transport(&target);
    let namespace = namespace(probe, around, &dirs, &name);
    let pci = pci_of(probe, around, &name);
    let scsi = probe.link_name(&format!("{path}/device")).filter(|name| is_scsi(name));
    let port = transport.and_then(|transport| port(&target, transport));
    let sectors = dirs.disk.as_ref().and_then(|dir| probe.number::<u64>((dir, "size")));
    let at_queue =
        |probe: &mut Probe<'_>, name| dirs.queue.as_ref().and_then(|dir| probe.label((dir, name)));
    Disk {
        size: sectors.and_then(|sectors| sectors.checked_mul(SECTOR)),
        model: model(probe, &dirs),
        serial: serial(probe, &dirs),
        firmware: first(probe, &dirs.device, &["firmware_rev", "fwrev", "rev"]),
        wwid: first(probe, &dirs.disk, &["wwid"]).or_else(|| first(probe, &dirs.device, &["wwid"])),
        slot: slot(probe, around, scsi.as_deref(), port.as_deref(), pci.as_deref()),
        logical_block: dirs.queue.as_ref().and_then(|dir| probe.told((dir, "logical_block_size"))),
        physical_block: dirs
            .queue
            .as_ref()
            .and_then(|dir| probe.told((dir, "physical_block_size"))),
        rotational: dirs.queue.as_ref().and_then(|dir| probe.flag((dir, "rotational"))),
        zoned: at_queue(probe, "zoned"),
        write_cache: at_queue(probe, "write_cache"),
        removable: dirs.disk.as_ref().and_then(|dir| probe.flag((dir, "removable"))),
        read_only: dirs.disk.as_ref().and_then(|dir| probe.flag((dir, "ro"))),
        state: scsi.is_some().then(|| first(probe, &dirs.device, &["state"])).flatten(),
        node: pci::node_of(probe, &path, pci.as_deref()),
        asleep: asleep(probe, &path, scsi.as_deref()),
        smart: None,
        health: Health::default(),
        transport,
        port,
        scsi,
        pci,
        namespace,
        name,
    }
}

/// The first of these files that says something.
fn first(probe: &mut Probe<'_>, dir: &Option<Dir<'_>>, files: &[&str]) -> Option<String> {
    let dir = dir.as_ref()?;
    files.iter().find_map(|file| probe.label((dir, *file)))
}

/// NVMe and SCSI call it `model`, MMC `name`. SCSI has a vendor beside it,
/// which is just "ATA" behind a SATA link and a hexadecimal id for virtio.
fn model(probe: &mut Probe<'_>, dirs: &Dirs<'_>) -> Option<String> {
    let model = first(probe, &dirs.device, &["model", "name"])?;
    match first(probe, &dirs.device, &["vendor"]) {
        Some(vendor) if vendor != ask::ATA && !vendor.starts_with("0x") => {
            Some(format!("{vendor} {model}"))
        }
        _ => Some(model),
    }
}

/// NVMe and MMC: `device/serial`; virtio: `serial`; SCSI: page 0x80 of the
/// vital product data (SPC-4 7.8.13), a header of four bytes and the text.
fn serial(probe: &mut Probe<'_>, dirs: &Dirs<'_>) -> Option<String> {
    first(probe, &dirs.device, &["serial"])
        .or_else(|| first(probe, &dirs.disk, &["serial"]))
        .or_else(|| {
            let page = dirs.device.as_ref()?.bytes("vpd_pg80").ok()?;
            label(&String::from_utf8_lossy(page.get(4..)?))
        })
}

/// The kernel names what stands on the way from the host bridge to a disk.
fn transport(target: &str) -> Option<Transport> {
    let name = |name: &str| match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "ata" => Some(Transport::Ata),
        "usb" => Some(Transport::Usb),
        "virtio" => Some(Transport::Virtio),
        "nvme" | "nvme-subsys" => Some(Transport::Nvme),
        "mmc_host" => Some(Transport::Mmc),
        "session" => Some(Transport::Iscsi),
        _ if name.starts_with("end_device-") => Some(Transport::Sas),
        _ if name.starts_with("rport-") => Some(Transport::Fc),
        _ => None,
    };
    target.split('/').find_map(name)
}

fn port(target: &str, transport: Transport) -> Option<String> {
    let numbered = |name: &str, prefix: &str| {
        let number = name.strip_prefix(prefix);
        number.is_some_and(|it| !it.is_empty() && it.bytes().all(|b| b.is_ascii_digit()))
    };
    // `1-2.4` is a port, `1-2.4:1.0` an interface of what is plugged in there.
    let usb = |name: &str| {
        name.contains('-') && name.bytes().all(|b| b.is_ascii_digit() || b == b'-' || b == b'.')
    };
    let is_port = |name: &&str| match transport {
        Transport::Ata => numbered(name, "ata"),
        Transport::Usb => usb(name),
        Transport::Mmc => numbered(name, "mmc"),
        Transport::Sas => name.starts_with("end_device-"),
        _ => false,
    };
    target.rsplit('/').find(is_port).map(str::to_owned)
}

/// `host:channel:target:unit`.
fn is_scsi(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    name.split(':').count() == 4 && name.split(':').all(is_number)
}

/// What only a namespace has; with native multipath it hangs under a virtual
/// subsystem, and the ways to it are hidden disks beside it.
fn namespace(
    probe: &mut Probe<'_>,
    around: &Around,
    dirs: &Dirs<'_>,
    name: &str,
) -> Option<NvmeNamespace> {
    let dir = dirs.disk.as_ref().filter(|_| name.starts_with("nvme"))?;
    let controller = |probe: &mut Probe<'_>| {
        let device = probe.link_name(&format!("{BLOCK}/{name}/device"))?;
        controller::is_nvme(&device).then(|| vec![device])
    };
    let leading =
        |ways: &Vec<String>| ways.iter().filter_map(|it| Some(nvme_path(it)?.1)).collect();
    let controllers = around.paths.get(name).map(leading).or_else(|| controller(probe));
    // All zeros: the namespace has none.
    let id = |probe: &mut Probe<'_>, name| {
        let is_zero = |id: &str| id.chars().all(|c| matches!(c, '0' | '-' | ' '));
        probe.label((dir, name)).filter(|id| !is_zero(id))
    };
    Some(NvmeNamespace {
        id: probe.told((dir, "nsid")),
        eui: id(probe, "eui"),
        nguid: id(probe, "nguid"),
        uuid: id(probe, "uuid"),
        controllers: controllers.unwrap_or_default(),
    })
}

/// The function behind a disk; of a namespace under a virtual subsystem, the
/// one behind the first way to it.
fn pci_of(probe: &mut Probe<'_>, around: &Around, name: &str) -> Option<String> {
    let way = around.paths.get(name).and_then(|ways| ways.first()).map_or(name, String::as_str);
    pci::behind(probe, &format!("{BLOCK}/{way}"))
}

/// Where to pull: the bay that the enclosure tells, the bay that the SAS
/// expander tells, or the place that the whole controller sits in, by the name
/// printed on the board where the firmware tells it.
fn slot(
    probe: &mut Probe<'_>,
    around: &Around,
    scsi: Option<&str>,
    port: Option<&str>,
    pci: Option<&str>,
) -> Option<String> {
    if let Some(bay) = scsi.and_then(|scsi| around.bays.get(scsi)) {
        return Some(bay.clone());
    }
    let end_device = port.filter(|port| port.starts_with("end_device-"));
    let bay =
        end_device.and_then(|port| probe.told(&format!("{SAS_DEVICES}/{port}/bay_identifier")));
    if let Some(bay) = bay {
        return Some(format!("bay {bay}"));
    }
    // A SCSI disk's PCI slot holds its controller, not the disk.
    let pci = pci.filter(|_| scsi.is_none())?;
    let place = pci::place_of(probe, pci);
    let slot = |slot| format!("PCI slot {slot}");
    around.slots.label(pci, &place).or_else(|| around.slots.of(pci, &place).map(slot))
}

/// What the kernel put to sleep. A disk that fell asleep by itself tells so
/// only when asked.
fn asleep(probe: &mut Probe<'_>, path: &str, scsi: Option<&str>) -> Option<bool> {
    let status = probe.label(&format!("{}/device/power/runtime_status", scsi.and(Some(path))?))?;
    (status == "suspended").then_some(true)
}

/// Tells each NVMe controller its disks.
fn name_disks(storage: &mut Storage) {
    for controller in &mut storage.controllers {
        let leads = |disk: &&Disk| {
            disk.namespace.as_ref().is_some_and(|it| it.controllers.contains(&controller.name))
        };
        let disks = storage.disks.iter().filter(leads).map(|disk| disk.name.clone()).collect();
        if let Some(nvme) = &mut controller.nvme {
            nvme.disks = disks;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_path_names_disk_and_controller() {
        let path = |disk: &str, controller: &str| Some((disk.to_owned(), controller.to_owned()));
        assert_eq!(nvme_path("nvme0c12n3"), path("nvme0n3", "nvme12"));
        assert_eq!(nvme_path("nvme0n1"), None);
        assert_eq!(nvme_path("nvmecn"), None);
    }

    #[test]
    fn the_way_to_a_disk_tells_transport_and_port() {
        let told = |target: &str| {
            let transport = transport(target);
            (transport, transport.and_then(|it| port(target, it)))
        };
        let port = |name: &str| Some(name.to_owned());
        let usb = "../devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2.4/1-2.4:1.0/host6/target6:0:0/6:0:0:0/block/sdb";
        assert_eq!(told(usb), (Some(Transport::Usb), port("1-2.4")));
        let ata = "../devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda";
        assert_eq!(told(ata), (Some(Transport::Ata), port("ata3")));
        let sas = "../devices/pci0000:00/0000:01:00.0/host0/port-0:0/expander-0:0/port-0:0:3/end_device-0:0:3/target0:0:3/0:0:3:0/block/sdd";
        assert_eq!(told(sas), (Some(Transport::Sas), port("end_device-0:0:3")));
        let scsi = "../devices/pci0000:00/0000:00:05.0/virtio2/host0/target0:0:0/0:0:0:0/block/sda";
        assert_eq!(told(scsi), (Some(Transport::Virtio), None));
        assert_eq!(told("../devices/platform/x/block/y"), (None, None));
    }
}
