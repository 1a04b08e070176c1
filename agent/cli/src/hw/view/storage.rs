//! Storage as rows and sections.

use purlin_core::inventory::{
    AtaAttribute, AtaSmart, Disk, Health, HealthState, Inventory, NvmeController, NvmeHealth,
    NvmeNamespace, NvmeSmart, Part, StorageController, StorageKind, Transport,
};

use super::{Row, Section, UNKNOWN, join, or_unknown, plural, row, told, yes_no};
use crate::units::size;

/// Disks first, for they are what a technician pulls; then the controllers
/// that no disk speaks for.
pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    let Some(storage) = &inventory.storage else { return Vec::new() };
    let is_alone = |it: &&StorageController| it.nvme.as_ref().is_some_and(|it| it.disks.is_empty());
    let alone = storage.controllers.iter().filter(is_alone);
    storage.disks.iter().map(disk_row).chain(alone.map(controller_row)).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    let Some(storage) = &inventory.storage else { return Vec::new() };
    let controllers = storage.controllers.iter().map(controller_section);
    controllers.chain(storage.disks.iter().map(disk_section)).collect()
}

fn disk_row(disk: &Disk) -> Row {
    let words = [
        Some(disk.size.map_or("size unknown".into(), size)),
        disk.model.clone(),
        spinning(disk).map(str::to_owned),
        disk.slot.as_ref().map(|slot| format!("in {slot}")),
        disk.pci.as_ref().map(|pci| format!("at {pci}")),
        complaint(&disk.health),
    ];
    row(Part::Storage, &disk.name, disk.node, join(words))
}

fn controller_row(controller: &StorageController) -> Row {
    let nvme = controller.nvme.as_ref();
    let words = [
        Some("NVMe controller without a namespace".into()),
        nvme.and_then(|it| it.model.clone()),
        nvme.and_then(|it| it.state.clone()),
        controller.slot.as_ref().map(|slot| format!("in PCI slot {slot}")),
        controller.pci.as_ref().map(|pci| format!("at {pci}")),
        complaint(&controller.health),
    ];
    row(Part::Storage, &controller.name, controller.node, join(words))
}

/// A row says how a disk is only if something is wrong.
fn complaint(health: &Health) -> Option<String> {
    let word = match health.state {
        HealthState::Unknown | HealthState::Ok => return None,
        HealthState::Warning => "warning",
        HealthState::Failing => "FAILING",
    };
    Some(format!("{word}: {}", health.reasons.join(", ")))
}

fn verdict(health: &Health) -> String {
    match health.state {
        HealthState::Unknown => UNKNOWN.into(),
        HealthState::Ok => "ok".into(),
        _ => complaint(health).unwrap_or_default(),
    }
}

fn spinning(disk: &Disk) -> Option<&'static str> {
    disk.rotational.map(|spins| if spins { "rotational" } else { "solid state" })
}

type Fact = (String, String);

fn fact(name: &str, value: String) -> Fact {
    (name.to_owned(), value)
}

/// A fact that many things don't have, and only then is left out.
fn given(name: &str, value: &Option<String>) -> Option<Fact> {
    Some(fact(name, value.clone()?))
}

fn controller_section(controller: &StorageController) -> Section {
    let mut facts = vec![fact("kind", format!("{} controller", kind(controller.kind)))];
    facts.extend(controller.nvme.iter().flat_map(nvme));
    if controller.pci.is_some() {
        facts.push(fact("driver", controller.driver.clone().unwrap_or_else(|| "none".into())));
    }
    facts.extend(given("PCI", &controller.pci));
    facts.extend(given("virtual function of", &controller.physical));
    facts.extend(given("slot", &controller.slot));
    facts.push(fact("node", or_unknown(controller.node)));
    if let Some(nvme) = &controller.nvme {
        facts.push(fact("health", verdict(&controller.health)));
        facts.extend(nvme.told.smart.iter().flat_map(|smart| nvme_smart(&nvme.told, smart)));
    }
    Section { title: controller.name.clone(), facts }
}

fn kind(kind: StorageKind) -> &'static str {
    match kind {
        StorageKind::Nvme => "NVMe",
        StorageKind::Scsi => "SCSI",
        StorageKind::Ide => "IDE",
        StorageKind::Raid => "RAID",
        StorageKind::Ata => "ATA",
        StorageKind::Sata => "SATA",
        StorageKind::Sas => "SAS",
        StorageKind::Other => "other storage",
    }
}

fn nvme(it: &NvmeController) -> Vec<Fact> {
    let disks = if it.disks.is_empty() { "none".into() } else { it.disks.join(", ") };
    let mut facts = vec![
        fact("model", told(&it.model)),
        fact("serial", told(&it.serial)),
        fact("firmware", told(&it.firmware)),
        fact("state", told(&it.state)),
        fact("transport", told(&it.transport)),
    ];
    facts.extend(given("address", &it.address));
    facts.extend([
        fact("controller id", or_unknown(it.id)),
        fact("subsystem", told(&it.subsystem)),
        fact("namespaces", disks),
    ]);
    facts.extend(it.told.capacity.map(|bytes| fact("capacity", size(bytes))));
    facts.extend(it.told.firmware_slots.iter().map(|slot| {
        let state = match (slot.active, slot.next) {
            (true, _) => " (runs)",
            (false, true) => " (runs after a reset)",
            (false, false) => "",
        };
        fact(&format!("firmware slot {}", slot.slot), format!("{}{state}", slot.revision))
    }));
    facts
}

fn nvme_smart(told: &NvmeHealth, smart: &NvmeSmart) -> Vec<Fact> {
    let limits =
        [("warns at", told.warning_temperature), ("critical at", told.critical_temperature)];
    let limits = limits.into_iter().filter_map(|(what, it)| Some(format!(", {what} {} °C", it?)));
    let temperature = smart.temperature.map(|it| format!("{it} °C"));
    let mut facts =
        vec![fact("temperature", or_unknown(temperature) + &limits.collect::<String>())];
    let sensor = |(number, it): &(u8, i32)| fact(&format!("sensor {number}"), format!("{it} °C"));
    facts.extend(smart.sensors.iter().map(sensor));
    facts.extend([
        fact("spare", format!("{} %, warns below {} %", smart.spare, smart.spare_threshold)),
        fact("life used", format!("{} %", smart.used)),
        fact("read", format!("{} in {}", size(smart.read), plural_u64(smart.reads, "command"))),
        fact(
            "written",
            format!("{} in {}", size(smart.written), plural_u64(smart.writes, "command")),
        ),
        fact("busy", format!("{} min", smart.busy_minutes)),
        fact("power-on hours", smart.power_on_hours.to_string()),
        fact("power cycles", smart.power_cycles.to_string()),
        fact("unsafe shutdowns", smart.unsafe_shutdowns.to_string()),
        fact("media errors", smart.media_errors.to_string()),
        fact("error log entries", smart.error_entries.to_string()),
        fact("too warm", format!("{} min", smart.warning_minutes)),
        fact("critically warm", format!("{} min", smart.critical_minutes)),
    ]);
    facts
}

fn plural_u64(count: u64, noun: &str) -> String {
    plural(usize::try_from(count).unwrap_or(usize::MAX), noun)
}

fn disk_section(disk: &Disk) -> Section {
    let mut facts = vec![
        fact("size", or_unknown(disk.size.map(size))),
        fact("model", told(&disk.model)),
        fact("serial", told(&disk.serial)),
        fact("firmware", told(&disk.firmware)),
        fact("WWID", told(&disk.wwid)),
    ];
    facts.extend(disk.namespace.iter().flat_map(namespace));
    facts.push(fact("transport", or_unknown(disk.transport.map(transport))));
    facts.extend(given("port", &disk.port));
    facts.extend(given("SCSI address", &disk.scsi));
    facts.extend([
        fact("slot", told(&disk.slot)),
        fact("medium", or_unknown(spinning(disk))),
        fact("blocks", blocks(disk)),
    ]);
    facts.extend(disk.zoned.clone().filter(|zoned| zoned != "none").map(|it| fact("zones", it)));
    facts.extend([
        fact("write cache", told(&disk.write_cache)),
        fact("read only", yes_no(disk.read_only)),
        fact("removable", yes_no(disk.removable)),
    ]);
    facts.extend(given("state", &disk.state));
    facts.extend(disk.asleep.map(|asleep| fact("asleep", yes_no(Some(asleep)))));
    facts.extend([fact("PCI", told(&disk.pci)), fact("node", or_unknown(disk.node))]);
    facts.push(fact("health", verdict(&disk.health)));
    facts.extend(disk.smart.iter().flat_map(ata_smart));
    Section { title: disk.name.clone(), facts }
}

fn namespace(it: &NvmeNamespace) -> Vec<Fact> {
    let controllers = it.controllers.join(", ");
    let controllers = Some(controllers).filter(|names| !names.is_empty());
    let mut facts =
        vec![fact("namespace", or_unknown(it.id)), fact("controllers", told(&controllers))];
    facts.extend(given("EUI-64", &it.eui));
    facts.extend(given("NGUID", &it.nguid));
    facts.extend(given("UUID", &it.uuid));
    facts
}

fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Nvme => "NVMe",
        Transport::Ata => "ATA",
        Transport::Sas => "SAS",
        Transport::Usb => "USB",
        Transport::Virtio => "virtio",
        Transport::Mmc => "MMC",
        Transport::Fc => "Fibre Channel",
        Transport::Iscsi => "iSCSI",
    }
}

fn blocks(disk: &Disk) -> String {
    let bytes = |it: Option<u32>| or_unknown(it.map(|bytes| format!("{bytes} B")));
    format!("logical {}, physical {}", bytes(disk.logical_block), bytes(disk.physical_block))
}

fn ata_smart(smart: &AtaSmart) -> Vec<Fact> {
    let temperature = smart.temperature().map(|it| format!("{it} °C"));
    let mut facts = vec![
        fact("own verdict", or_unknown(smart.passed.map(|it| if it { "passed" } else { "fails" }))),
        fact("temperature", or_unknown(temperature)),
    ];
    facts.extend(smart.attributes.iter().map(attribute));
    facts
}

fn attribute(it: &AtaAttribute) -> Fact {
    let name = it.name().map_or_else(|| format!("attribute {}", it.id), str::to_owned);
    let least = or_unknown(it.threshold);
    fact(&name, format!("{} (value {}, worst {}, least {least})", it.count(), it.value, it.worst))
}
