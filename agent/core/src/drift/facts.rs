//! The table of what is compared: for each class its things, and of each thing
//! the serial, the address, the name and the facts. A fact is one line; what is
//! not known stands as `None` and is not compared. Never put a reading here.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::{Class, Thing, Value};
use crate::inventory::{
    Cpu, Dimm, Disk, Feature, Gpu, GpuInstance, Inventory, Memory, Nic, NumaNode, PciDevice,
    PciLink, Platform, Sensor, StorageController, Tpm,
};

/// The things of one class; `None` if they could not be read.
pub(super) fn read(class: Class, it: &Inventory) -> Option<Vec<Thing>> {
    Some(match class {
        Class::Machine => it.platform.iter().map(machine).collect::<Vec<_>>().some()?,
        Class::Tpm => it.platform.as_ref()?.tpms.iter().map(tpm).collect(),
        Class::Processors => it.cpu.iter().map(processors).collect::<Vec<_>>().some()?,
        Class::NumaNode => it.numa.as_ref()?.iter().map(numa_node).collect(),
        Class::Memory => it.memory.iter().map(memory).collect::<Vec<_>>().some()?,
        Class::Dimm => {
            let dimms = it.memory.as_ref()?.dimms.as_ref()?.iter();
            dimms.filter(|dimm| dimm.is_populated()).map(dimm).collect()
        }
        Class::PciFunction => {
            let physical = it.pci.as_ref()?.iter().filter(|it| it.physical.is_none());
            physical.map(pci_function).collect()
        }
        Class::Nic => {
            let ports = it.nics.as_ref()?.iter().filter(|it| it.physical && it.vf_of.is_none());
            ports.map(nic).collect()
        }
        Class::Controller => {
            let controllers = it.storage.as_ref()?.controllers.iter();
            controllers.filter(|it| it.physical.is_none()).map(controller).collect()
        }
        Class::Disk => it.storage.as_ref()?.disks.iter().map(disk).collect(),
        Class::Gpu => it.gpus.as_ref()?.iter().map(gpu).collect(),
        Class::SensorChip => sensor_chips(it.sensors.as_ref()?),
    })
}

trait SomeIfAny: Sized {
    /// `None` for nothing.
    fn some(self) -> Option<Self>;
}

impl SomeIfAny for Vec<Thing> {
    fn some(self) -> Option<Self> {
        (!self.is_empty()).then_some(self)
    }
}

impl Thing {
    fn new(name: impl ToString) -> Self {
        Self { serial: None, address: None, name: name.to_string(), facts: Default::default() }
    }

    fn serial(mut self, serial: &Option<String>) -> Self {
        self.serial = serial.clone().filter(|serial| !serial.is_empty());
        self
    }

    fn at(mut self, address: &Option<String>) -> Self {
        self.address = address.clone();
        self
    }

    fn fact(mut self, name: &'static str, value: &Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.facts.insert(name, Value::Text(value.to_string()));
        }
        self
    }

    fn bytes(mut self, name: &'static str, value: Option<u64>) -> Self {
        if let Some(value) = value {
            self.facts.insert(name, Value::Bytes(value));
        }
        self
    }
}

fn machine(it: &Platform) -> Thing {
    Thing::new("")
        .fact("serial", &it.serial)
        .fact("UUID", &it.uuid)
        .fact("vendor", &it.vendor)
        .fact("product", &it.product)
        .fact("board", &it.board.product)
        .fact("board version", &it.board.version)
        .fact("board serial", &it.board.serial)
        .fact("chassis serial", &it.chassis.serial)
        .fact("firmware", &it.firmware.version)
        .fact("firmware date", &it.firmware.date)
        .fact("embedded controller's firmware", &it.firmware.ec_release)
        .fact("UEFI", &it.uefi)
        .fact("secure boot", &it.secure_boot)
        .fact("setup mode", &it.setup_mode)
        .fact("BMC firmware", &it.bmc.as_ref().and_then(|bmc| bmc.firmware.as_ref()))
        .fact("SEV", &it.confidential.sev.map(feature))
        .fact("SEV-SNP", &it.confidential.sev_snp.map(feature))
        .fact("TDX", &it.confidential.tdx.map(feature))
        .fact("SGX", &it.confidential.sgx.map(feature))
        .fact("virtualised", &it.virtualised)
}

fn feature(it: Feature) -> &'static str {
    match it {
        Feature::Absent => "absent",
        Feature::Supported => "supported",
        Feature::Enabled => "enabled",
        Feature::Guest => "guest",
    }
}

fn tpm(it: &Tpm) -> Thing {
    Thing::new(&it.name)
        .at(&it.device)
        .fact("version", &it.version)
        .fact("manufacturer", &it.manufacturer)
        .fact("firmware", &it.firmware)
}

/// Not compared: `allowed`, which is this process's own cgroup.
fn processors(it: &Cpu) -> Thing {
    Thing::new("")
        .fact("vendor", &it.vendor)
        .fact("model", &it.model)
        .fact("present", &it.present)
        .fact("online", &it.online)
        .fact("isolated", &it.isolated)
        .fact("without tick", &it.nohz_full)
        .fact("SMT", &it.smt)
        .fact("microcode", &it.microcode)
        .fact("packages", &Some(it.packages()))
        .fact("boost", &it.boost)
}

/// Not compared: free memory and hugepages in use.
fn numa_node(it: &NumaNode) -> Thing {
    let distances: Vec<_> = it.distances.iter().map(|(to, far)| format!("{to}:{far}")).collect();
    Thing::new(it.id)
        .fact("CPUs", &it.cpus)
        .fact("memory tier", &it.tier)
        .bytes("memory", it.memory)
        .fact("distances", &(!distances.is_empty()).then(|| distances.join(" ")))
}

/// A slot is where a module is, whatever the firmware's handles. Not compared: errors.
fn dimm(it: &Dimm) -> Thing {
    let place: Vec<_> = [&it.bank, &it.slot].into_iter().flatten().map(String::as_str).collect();
    Thing::new(it.slot.as_deref().unwrap_or_default())
        .serial(&it.serial)
        .at(&(!place.is_empty()).then(|| place.join(" ")))
        .fact("part", &it.part)
        .fact("size", &it.size.map(|size| format!("{} MiB", size >> 20)))
        .fact("type", &it.kind)
        .fact("rated speed", &it.speed_rated)
        .fact("configured speed", &it.speed_configured)
        .fact("rank", &it.rank)
        .fact("ECC", &it.ecc)
        .fact("firmware", &it.firmware)
}

/// Not compared: available memory; swap and hugepages, which are the kernel's settings.
fn memory(it: &Memory) -> Thing {
    Thing::new("").bytes("total", it.total)
}

/// Not compared: the link as trained now and the power state, which an idle device
/// lowers by itself; error counters; names, which an update of pci.ids changes.
fn pci_function(it: &PciDevice) -> Thing {
    let id =
        |vendor: Option<u16>, device: Option<u16>| Some(format!("{:04x}:{:04x}", vendor?, device?));
    let sriov = it.sriov.as_ref();
    Thing::new(&it.address)
        .at(&Some(it.address.clone()))
        .fact("class", &(it.class != 0).then(|| format!("{:06x}", it.class)))
        .fact("id", &id(it.vendor, it.device))
        .fact("subsystem", &id(it.subsystem_vendor, it.subsystem_device))
        .fact("revision", &it.revision)
        .fact("slot", &it.slot)
        .fact("driver", &it.driver)
        .fact("NUMA node", &it.node)
        .fact("IOMMU type", &it.iommu_type)
        .bytes("mapped memory", it.memory)
        .fact("link it can do", &it.link_max.map(link))
        .fact("link both ends can do", &it.link_both.map(link))
        .fact("virtual functions possible", &sriov.map(|sriov| sriov.most))
        .fact("virtual functions", &sriov.and_then(|sriov| sriov.enabled))
}

fn link(it: PciLink) -> String {
    format!("{} GT/s x{}", it.gt_per_s, it.width)
}

/// Not compared: link state, speed and neighbours; the address in use and the MTU,
/// which are the network's configuration. A module that is not told may be one
/// that could not be read; that there is none, the kernel must say.
fn nic(it: &Nic) -> Thing {
    let module = it.transceiver.as_ref();
    let module = module.map(|it| {
        let words = [&it.vendor, &it.part, &it.serial].into_iter().flatten();
        words.map(String::as_str).collect::<Vec<_>>().join(" ")
    });
    let module = module.or_else(|| it.cage_empty.then(|| "none".into()));
    Thing::new(&it.name)
        .serial(&it.permanent_mac)
        .at(&it.pci)
        .fact("name", &Some(&it.name))
        .fact("driver", &it.driver)
        .fact("firmware", &it.firmware)
        .fact("NUMA node", &it.node)
        .fact("module", &module)
        .fact("virtual functions", &it.sriov.as_ref().and_then(|sriov| sriov.enabled))
}

/// Not compared: its state and its health, which are alarms.
fn controller(it: &StorageController) -> Thing {
    let nvme = it.nvme.as_ref();
    Thing::new(&it.name)
        .serial(&nvme.and_then(|it| it.serial.clone()))
        .at(&it.pci)
        .fact("model", &nvme.and_then(|it| it.model.as_ref()))
        .fact("firmware", &nvme.and_then(|it| it.firmware.as_ref()))
        .fact("driver", &it.driver)
        .fact("NUMA node", &it.node)
}

/// The name is none of its facts: disks are named in the order they are found.
fn disk(it: &Disk) -> Thing {
    Thing::new(&it.name)
        .serial(&it.wwid.clone().or_else(|| it.serial.clone()))
        .at(&it.slot.clone().or_else(|| it.pci.clone()))
        .fact("model", &it.model)
        .fact("firmware", &it.firmware)
        .fact("size", &it.size.map(|size| format!("{size} bytes")))
        .fact("rotational", &it.rotational)
        .fact("NUMA node", &it.node)
}

/// Not compared: whether it is lost, which is an event of its own; errors, clocks
/// and use.
fn gpu(it: &Gpu) -> Thing {
    let mig = it.mig.as_ref();
    let layout = mig.map(|mig| {
        let profile = |it: &GpuInstance| {
            format!("{} ({} compute)", it.profile.as_deref().unwrap_or("?"), it.compute.len())
        };
        mig.instances.iter().map(profile).collect::<Vec<_>>().join(", ")
    });
    Thing::new(it.name.as_deref().unwrap_or_default())
        .serial(&it.uuid)
        .at(&Some(it.pci.clone()))
        .fact("name", &it.name)
        .fact("board serial", &it.serial)
        .fact("driver", &it.driver)
        .fact("driver version", &it.driver_version)
        .fact("video BIOS", &it.vbios)
        .fact("firmware", &it.firmware)
        .fact("NUMA node", &it.node)
        .bytes("memory", it.vram)
        .fact("link it can do", &it.link_max.map(link))
        .fact("ECC", &it.ecc.as_ref().and_then(|ecc| ecc.enabled))
        .fact("MIG", &mig.map(|mig| mig.enabled))
        .fact("MIG layout", &layout)
}

/// A chip with the number of its sensors: readings are none of our business.
fn sensor_chips(sensors: &[Sensor]) -> Vec<Thing> {
    let mut chips = alloc::collections::BTreeMap::<&str, u32>::new();
    for sensor in sensors {
        *chips.entry(&sensor.device).or_default() += 1;
    }
    chips.into_iter().map(|(chip, count)| Thing::new(chip).fact("sensors", &Some(count))).collect()
}
