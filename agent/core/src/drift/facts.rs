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
    Cpu, Disk, Gpu, Inventory, Memory, Nic, NumaNode, PciDevice, PciLink, Platform, Sensor,
};

/// The things of one class; `None` if they could not be read.
pub(super) fn read(class: Class, it: &Inventory) -> Option<Vec<Thing>> {
    Some(match class {
        Class::Machine => it.platform.iter().map(machine).collect::<Vec<_>>().some()?,
        Class::Tpm => return None,
        Class::Processors => it.cpu.iter().map(processors).collect::<Vec<_>>().some()?,
        Class::NumaNode => it.numa.as_ref()?.iter().map(numa_node).collect(),
        Class::Memory => it.memory.iter().map(memory).collect::<Vec<_>>().some()?,
        Class::Dimm => return None,
        Class::PciFunction => {
            let physical = it.pci.as_ref()?.iter().filter(|it| it.physical.is_none());
            physical.map(pci_function).collect()
        }
        Class::Nic => {
            let ports = it.nics.as_ref()?.iter().filter(|it| it.physical && it.vf_of.is_none());
            ports.map(nic).collect()
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
        .fact("vendor", &it.vendor)
        .fact("product", &it.product)
        .fact("board", &it.board.product)
        .fact("board serial", &it.board.serial)
        .fact("firmware", &it.firmware.version)
        .fact("UEFI", &it.uefi)
        .fact("virtualised", &it.virtualised)
}

/// Not compared: `allowed`, which is this process's own cgroup.
fn processors(it: &Cpu) -> Thing {
    Thing::new("")
        .fact("vendor", &it.vendor)
        .fact("model", &it.model)
        .fact("present", &it.present)
        .fact("online", &it.online)
        .fact("isolated", &it.isolated)
        .fact("SMT", &it.smt)
}

/// Not compared: free memory and hugepages in use.
fn numa_node(it: &NumaNode) -> Thing {
    let distances: Vec<_> = it.distances.iter().map(|(to, far)| format!("{to}:{far}")).collect();
    Thing::new(it.id)
        .fact("CPUs", &it.cpus)
        .bytes("memory", it.memory)
        .fact("distances", &(!distances.is_empty()).then(|| distances.join(" ")))
}

/// Not compared: available memory; swap and hugepages, which are the kernel's settings.
fn memory(it: &Memory) -> Thing {
    Thing::new("").bytes("total", Some(it.total))
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
/// that could not be read.
fn nic(it: &Nic) -> Thing {
    let module = it.transceiver.as_ref();
    let module = module.map(|it| {
        let words = [&it.vendor, &it.part, &it.serial].into_iter().flatten();
        words.map(String::as_str).collect::<Vec<_>>().join(" ")
    });
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

/// The name is none of its facts: disks are named in the order they are found.
fn disk(it: &Disk) -> Thing {
    Thing::new(&it.name)
        .serial(&it.serial)
        .at(&it.pci)
        .fact("model", &it.model)
        .fact("firmware", &it.firmware)
        .fact("size", &it.size.map(|size| format!("{size} bytes")))
        .fact("rotational", &it.rotational)
        .fact("NUMA node", &it.node)
}

fn gpu(it: &Gpu) -> Thing {
    Thing::new(it.name.as_deref().unwrap_or_default())
        .serial(&it.uuid)
        .at(&Some(it.pci.clone()))
        .fact("name", &it.name)
        .fact("driver", &it.driver)
        .fact("NUMA node", &it.node)
        .bytes("memory", it.vram)
}

/// A chip with the number of its sensors: readings are none of our business.
fn sensor_chips(sensors: &[Sensor]) -> Vec<Thing> {
    let mut chips = alloc::collections::BTreeMap::<&str, u32>::new();
    for sensor in sensors {
        *chips.entry(&sensor.device).or_default() += 1;
    }
    chips.into_iter().map(|(chip, count)| Thing::new(chip).fact("sensors", &Some(count))).collect()
}
