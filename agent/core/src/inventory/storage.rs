//! Storage.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use super::{AtaSmart, Health, Inventory, NvmeSmart, Part, Problem};

/// How many devices with the same problem are named before they are counted.
const MAX_NAMED: usize = 8;

/// Controllers and what they carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// NVMe controllers by name, then the others by PCI address.
    pub controllers: Vec<StorageController>,
    /// Whole block devices, by name.
    pub disks: Vec<Disk>,
}

/// What one device answered when it was asked about its health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Smart {
    /// An NVMe controller.
    Nvme(NvmeHealth),
    /// An ATA disk.
    Ata {
        /// [`Disk::asleep`]
        asleep: bool,
        /// [`Disk::smart`]; `None` of one that sleeps.
        smart: Option<AtaSmart>,
    },
}

/// What an NVMe controller answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvmeHealth {
    /// Health log.
    pub smart: Option<NvmeSmart>,
    /// Firmware slots.
    pub firmware_slots: Vec<FirmwareSlot>,
    /// Capacity of all its media, in bytes.
    pub capacity: Option<u64>,
    /// Temperature from which it warns, in °C.
    pub warning_temperature: Option<i32>,
    /// Temperature from which it is in danger, in °C.
    pub critical_temperature: Option<i32>,
}

/// What came of asking one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Its name.
    pub device: String,
    /// Its answer.
    pub smart: Option<Smart>,
    /// Why there is none.
    pub problems: Vec<Problem>,
}

impl Storage {
    /// The devices that may be asked about their health: PCIe NVMe controllers
    /// that are live, and SCSI disks that may be ATA ones and are awake. What is
    /// behind a fabric or USB is not. Unless `again`, without those whose
    /// answer is known.
    pub fn to_ask(&self, again: bool) -> Vec<String> {
        let controllers = self.controllers.iter().filter(|it| {
            it.nvme.as_ref().is_some_and(|nvme| {
                let is_live = nvme.state.as_deref() == Some("live");
                let is_here = nvme.transport.as_deref() == Some("pcie");
                is_live && is_here && (again || nvme.told == NvmeHealth::default())
            })
        });
        let disks = self.disks.iter().filter(|it| {
            let is_near = matches!(it.transport, None | Some(Transport::Ata | Transport::Sas));
            let is_awake = it.asleep != Some(true);
            it.scsi.is_some() && is_near && is_awake && (again || it.smart.is_none())
        });
        controllers.map(|it| it.name.clone()).chain(disks.map(|it| it.name.clone())).collect()
    }

    /// Takes over what the same devices, by name and serial number, answered
    /// before: one that does not answer now is not without a past.
    pub fn keep_health(&mut self, before: &Storage) {
        for controller in &mut self.controllers {
            let old = before.controllers.iter().find(|it| it.name == controller.name);
            let (Some(nvme), Some(old)) =
                (controller.nvme.as_mut(), old.and_then(|it| it.nvme.as_ref()))
            else {
                continue;
            };
            if nvme.serial == old.serial {
                nvme.told = old.told.clone();
            }
        }
        for disk in &mut self.disks {
            let same = |it: &&Disk| it.name == disk.name && it.serial == disk.serial;
            disk.smart = before.disks.iter().find(same).and_then(|it| it.smart.clone());
        }
        self.judge();
    }

    fn put_health(&mut self, device: &str, smart: Smart) {
        match smart {
            Smart::Nvme(told) => {
                let controller = self.controllers.iter_mut().find(|it| it.name == device);
                if let Some(nvme) = controller.and_then(|it| it.nvme.as_mut()) {
                    nvme.told = told;
                }
            }
            Smart::Ata { asleep, smart } => {
                if let Some(disk) = self.disks.iter_mut().find(|it| it.name == device) {
                    disk.asleep = Some(asleep);
                    disk.smart = smart.or_else(|| disk.smart.take());
                }
            }
        }
    }

    /// A disk's verdict is its own, or that of the worst controller that leads
    /// to it: each speaks for the medium behind it.
    fn judge(&mut self) {
        for controller in &mut self.controllers {
            let smart = controller.nvme.as_ref().and_then(|it| it.told.smart.as_ref());
            controller.health = smart.map(NvmeSmart::health).unwrap_or_default();
        }
        for disk in &mut self.disks {
            disk.health = match (&disk.smart, &disk.namespace) {
                (Some(smart), _) => smart.health(),
                (None, Some(namespace)) => worst(&self.controllers, &namespace.controllers),
                (None, None) => Health::default(),
            };
        }
    }
}

fn worst(controllers: &[StorageController], names: &[String]) -> Health {
    let leading = controllers.iter().filter(|it| names.contains(&it.name));
    leading.map(|it| &it.health).max_by_key(|it| it.state).cloned().unwrap_or_default()
}

impl Inventory {
    /// Puts what devices answered into the storage that was read before. What
    /// keeps it from several is told once.
    pub fn put_health(&mut self, all: Vec<Asked>) {
        let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for Asked { device, smart, problems } in all {
            for problem in problems {
                refused.entry(problem.what).or_default().push(problem.at);
            }
            if let (Some(storage), Some(smart)) = (&mut self.storage, smart) {
                storage.put_health(&device, smart);
            }
        }
        if let Some(storage) = &mut self.storage {
            storage.judge();
        }
        self.problems.extend(refused.into_iter().map(|(what, names)| Problem {
            part: Part::Storage,
            at: listed(&names),
            what,
        }));
    }
}

fn listed(names: &[String]) -> String {
    match names.split_at_checked(MAX_NAMED) {
        Some((first, rest)) if !rest.is_empty() => {
            format!("{} and {} more", first.join(", "), rest.len())
        }
        _ => names.join(", "),
    }
}

/// What disks hang on: an NVMe controller, or a PCI function of the mass
/// storage class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageController {
    /// Kernel name (`nvme0`), else the PCI address.
    pub name: String,
    /// What it speaks, by its PCI class or its kernel name.
    pub kind: StorageKind,
    /// Bound driver.
    pub driver: Option<String>,
    /// PCI address.
    pub pci: Option<String>,
    /// For a virtual function: PCI address of the physical one.
    pub physical: Option<String>,
    /// Physical slot of its PCI function.
    pub slot: Option<String>,
    /// NUMA node.
    pub node: Option<u32>,
    /// What only an NVMe controller tells.
    pub nvme: Option<NvmeController>,
    /// Judged by [`NvmeHealth::smart`]; unknown for other kinds.
    pub health: Health,
}

/// What a controller speaks to its disks (PCI Code and ID Assignment, class 01).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageKind {
    /// NVM Express.
    Nvme,
    /// SCSI, also a paravirtual one.
    Scsi,
    /// Parallel ATA.
    Ide,
    /// RAID: its volumes are the disks we see.
    Raid,
    /// ATA.
    Ata,
    /// Serial ATA.
    Sata,
    /// Serial attached SCSI.
    Sas,
    /// Something else.
    #[default]
    Other,
}

/// What only an NVMe controller tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvmeController {
    /// Model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Firmware revision that runs.
    pub firmware: Option<String>,
    /// `pcie`, `tcp`, `rdma`, `fc` or `loop`.
    pub transport: Option<String>,
    /// Where the other side is, for a transport that is not PCIe.
    pub address: Option<String>,
    /// `live`, `resetting`, `connecting`, `deleting`, `dead`, …
    pub state: Option<String>,
    /// Controller id in its subsystem.
    pub id: Option<u32>,
    /// Qualified name of its subsystem: controllers with the same one are ways
    /// to the same namespaces.
    pub subsystem: Option<String>,
    /// Kernel names of its namespaces' disks.
    pub disks: Vec<String>,
    /// What it answered when it was asked; nothing unless it could be.
    #[serde(flatten)]
    pub told: NvmeHealth,
}

/// A place for a firmware image in an NVMe controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareSlot {
    /// 1 to 7.
    pub slot: u8,
    /// Revision in it.
    pub revision: String,
    /// True if it runs.
    pub active: bool,
    /// True if it runs after the next reset.
    pub next: bool,
}

/// A whole block device (not a partition, loop or RAM disk).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name, e.g. `nvme0n1`.
    pub name: String,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Firmware revision.
    pub firmware: Option<String>,
    /// World wide identifier, in the kernel's form (`naa.…`, `eui.…`, `uuid.…`).
    pub wwid: Option<String>,
    /// How it is connected.
    pub transport: Option<Transport>,
    /// The port of its transport: `ata3`, `end_device-0:0:3`, USB `1-2`, `mmc0`.
    pub port: Option<String>,
    /// Host, channel, target and unit, `0:0:3:0`, of a SCSI device.
    pub scsi: Option<String>,
    /// Bay of its enclosure, else the place of its PCI function: the board's
    /// name for it, else the physical slot.
    pub slot: Option<String>,
    /// Bytes of the smallest block that can be addressed.
    pub logical_block: Option<u32>,
    /// Bytes of the smallest block written without reading first.
    pub physical_block: Option<u32>,
    /// True if it spins.
    pub rotational: Option<bool>,
    /// `none`, `host-aware` or `host-managed`.
    pub zoned: Option<String>,
    /// True if it can be pulled out.
    pub removable: Option<bool>,
    /// True if it can't be written.
    pub read_only: Option<bool>,
    /// `write back` (a cache that a power cut empties unless it is flushed) or
    /// `write through`.
    pub write_cache: Option<String>,
    /// State of a SCSI device (`running`, `offline`, `blocked`, …).
    pub state: Option<String>,
    /// True if it sleeps, and was not asked more.
    pub asleep: Option<bool>,
    /// PCI address of its controller, the first of them if several.
    pub pci: Option<String>,
    /// NUMA node of its controller.
    pub node: Option<u32>,
    /// What only an NVMe namespace tells.
    pub namespace: Option<NvmeNamespace>,
    /// SMART data of an ATA disk; `None` unless it could be asked.
    pub smart: Option<AtaSmart>,
    /// Judged by its SMART data, or its controllers'.
    pub health: Health,
}

/// How a disk is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// An NVMe namespace, whatever its controller's own transport.
    Nvme,
    /// Parallel or serial ATA, straight at its controller.
    Ata,
    /// Serial attached SCSI; the disk itself may be SATA.
    Sas,
    /// USB.
    Usb,
    /// virtio.
    Virtio,
    /// MMC or SD.
    Mmc,
    /// Fibre Channel.
    Fc,
    /// iSCSI.
    Iscsi,
}

/// What only an NVMe namespace tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvmeNamespace {
    /// Namespace id in its subsystem.
    pub id: Option<u32>,
    /// EUI-64.
    pub eui: Option<String>,
    /// NGUID.
    pub nguid: Option<String>,
    /// UUID.
    pub uuid: Option<String>,
    /// Kernel names of the controllers that lead to it.
    pub controllers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec};

    use super::*;
    use crate::inventory::HealthState;

    fn controller(name: &str, state: &str, serial: &str) -> StorageController {
        let nvme = NvmeController {
            transport: Some("pcie".into()),
            state: Some(state.into()),
            serial: Some(serial.into()),
            ..NvmeController::default()
        };
        StorageController { name: name.into(), nvme: Some(nvme), ..StorageController::default() }
    }

    fn disk(name: &str, transport: Option<Transport>) -> Disk {
        let scsi = Some("0:0:0:0".into());
        Disk { name: name.into(), scsi, transport, ..Disk::default() }
    }

    fn told(device: &str, used: u8) -> Asked {
        let smart = Some(NvmeSmart { used, ..NvmeSmart::default() });
        let smart = Some(Smart::Nvme(NvmeHealth { smart, ..NvmeHealth::default() }));
        Asked { device: device.into(), smart, problems: vec![] }
    }

    fn refused(device: &str, what: &str) -> Asked {
        let problem = Problem { part: Part::Storage, at: device.into(), what: what.into() };
        Asked { device: device.into(), smart: None, problems: vec![problem] }
    }

    fn problems(inventory: &Inventory) -> Vec<String> {
        inventory.problems.iter().map(|it| format!("{}: {}", it.at, it.what)).collect()
    }

    #[test]
    fn only_what_is_awake_and_near_is_asked() {
        let asleep = Disk { asleep: Some(true), ..disk("sdb", Some(Transport::Sas)) };
        let namespace = Disk { name: "nvme0n1".into(), ..Disk::default() };
        let disks = vec![
            namespace,
            disk("sda", Some(Transport::Ata)),
            asleep,
            disk("sdc", Some(Transport::Usb)),
            disk("sdd", Some(Transport::Iscsi)),
            disk("sde", None),
        ];
        let mut fabric = controller("nvme2", "live", "3");
        fabric.nvme.as_mut().expect("one").transport = Some("tcp".into());
        let controllers = vec![controller("nvme0", "live", "1"), controller("nvme1", "dead", "2")];
        let controllers = [controllers, vec![fabric]].concat();
        let storage = Storage { controllers, disks };
        assert_eq!(storage.to_ask(true), ["nvme0", "sda", "sde"]);
    }

    #[test]
    fn a_disk_that_does_not_answer_costs_its_own_health_only() {
        let controllers = vec![controller("nvme0", "live", "1"), controller("nvme1", "live", "2")];
        let storage = Some(Storage { controllers, disks: vec![] });
        let mut inventory = Inventory { storage, ..Inventory::default() };
        inventory.put_health(vec![refused("nvme0", "no answer within 5s"), told("nvme1", 100)]);
        let storage = inventory.storage.as_ref().expect("storage");
        let states: Vec<HealthState> =
            storage.controllers.iter().map(|it| it.health.state).collect();
        assert_eq!(states, [HealthState::Unknown, HealthState::Warning]);
        assert_eq!(problems(&inventory), ["nvme0: no answer within 5s"]);
        // Only the one that is not known is asked at the next event.
        assert_eq!(storage.to_ask(false), ["nvme0"]);
    }

    #[test]
    fn what_keeps_it_from_many_is_told_once() {
        let mut inventory = Inventory::default();
        let disk = |id: u32| refused(&format!("sd{id}"), "permission denied");
        inventory.put_health((0..11).map(disk).chain([refused("sdx", "other")]).collect());
        assert_eq!(
            problems(&inventory),
            ["sdx: other", "sd0, sd1, sd2, sd3, sd4, sd5, sd6, sd7 and 3 more: permission denied"]
        );
    }

    #[test]
    fn a_disk_keeps_what_it_answered_and_another_in_its_place_does_not() {
        let controllers = vec![controller("nvme0", "live", "1"), controller("nvme1", "live", "2")];
        let mut inventory = Inventory {
            storage: Some(Storage { controllers, disks: vec![] }),
            ..Default::default()
        };
        inventory.put_health(vec![told("nvme0", 1), told("nvme1", 100)]);
        let controllers = vec![controller("nvme0", "live", "9"), controller("nvme1", "live", "2")];
        let mut now = Storage { controllers, disks: vec![] };
        now.keep_health(&inventory.storage.expect("storage"));
        assert_eq!(now.to_ask(false), ["nvme0".to_string()]);
        assert_eq!(now.controllers[1].health.state, HealthState::Warning);
    }

    #[test]
    fn a_disk_that_fell_asleep_keeps_its_past() {
        let smart = AtaSmart { passed: Some(true), attributes: vec![] };
        let awake = Smart::Ata { asleep: false, smart: Some(smart) };
        let mut storage = Storage { controllers: vec![], disks: vec![disk("sda", None)] };
        storage.put_health("sda", awake);
        storage.put_health("sda", Smart::Ata { asleep: true, smart: None });
        storage.judge();
        assert_eq!(storage.disks[0].asleep, Some(true));
        assert_eq!(storage.disks[0].health.state, HealthState::Ok);
    }
}
