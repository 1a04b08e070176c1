//! Device interrupts: where each may arrive, and sets that.
//!
//! One whose driver manages its affinity itself (a queue for each CPU of an NVMe disk)
//! can't be told from the others by reading; the kernel says so when it is written.
//!
//! Source: Documentation/core-api/irq/irq-affinity.rst, `kernel/irq/proc.c`;
//! Documentation/ABI/testing/sysfs-bus-pci (`msi_irqs`).

use std::collections::BTreeMap;

use nix::errno::Errno;
use purlin_core::{
    idset::IdSet,
    inventory::{Part, Problem},
    irq::{Affinity, Interrupt, Interrupts},
};

use crate::{
    Root, pci,
    probe::{Probe, label, reason},
};

const DIR: &str = "/proc/irq";
const DEFAULT: &str = "/proc/irq/default_smp_affinity";

/// Why an interrupt stays where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its driver manages where it arrives, or the hardware can't tell it elsewhere.
    Managed,
    /// Anything else.
    Because(String),
}

/// Every interrupt that some driver asked for. What has none has no use yet, and gets the
/// default then.
pub fn read(root: &Root) -> (Option<Interrupts>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Cpu, root);
    let interrupts = interrupts(&mut probe);
    (interrupts, probe.finish())
}

fn interrupts(probe: &mut Probe<'_>) -> Option<Interrupts> {
    let dir = probe.dir(DIR)?;
    let default = probe.text(DEFAULT).and_then(|text| {
        IdSet::parse_mask(&text).map_err(|what| probe.problem(DEFAULT, what)).ok()
    });
    let of_devices = nodes_of_devices(probe);
    let mut all = Vec::new();
    for name in dir.dirs() {
        let Ok(irq) = name.parse() else { continue };
        let Some(one) = probe.dir_in(&dir, name) else { continue };
        let names: Vec<String> = one.dirs().filter_map(label).collect();
        if names.is_empty() {
            continue;
        }
        let Some(allowed) = probe.set((&one, "smp_affinity_list")) else { continue };
        let node = of_devices.get(&irq).copied().or_else(|| probe.told((&one, "node")));
        all.push(Interrupt { irq, name: names.join(", "), node, allowed });
    }
    all.sort_by_key(|it| it.irq);
    Some(Interrupts { default, all })
}

/// The node of the function that signals each by a message. Of an interrupt that a driver
/// keeps for itself beside managed ones (an NVMe disk's admin queue) the kernel's own `node`
/// tells another: the first CPU's.
fn nodes_of_devices(probe: &mut Probe<'_>) -> BTreeMap<u32, u32> {
    let mut nodes = BTreeMap::new();
    for address in probe.names(pci::DEVICES).unwrap_or_default() {
        let Some(irqs) = probe.numbered(&pci::file(&address, "msi_irqs"), "") else { continue };
        if let Some(node) = probe.told(&*pci::file(&address, "numa_node")) {
            nodes.extend(irqs.iter().map(|irq| (irq, node)));
        }
    }
    nodes
}

/// Sets where one may arrive, and reads it back.
pub fn set(root: &Root, affinity: &Affinity) -> Result<(), Refused> {
    let because = |why: String| Err(Refused::Because(why));
    if affinity.cpus.is_empty() {
        return because("an interrupt has to arrive somewhere".into());
    }
    let path = match affinity.irq {
        Some(irq) => format!("{DIR}/{irq}/smp_affinity_list"),
        None => DEFAULT.into(),
    };
    let text = match affinity.irq {
        Some(_) => affinity.cpus.to_string(),
        None => affinity.cpus.to_mask(),
    };
    if let Err(error) = root.write(&path, &text) {
        return match error.raw_os_error().map(Errno::from_raw) {
            // Linux 6.1 says the one, 6.12 the other. Who may not write the file gets EACCES.
            Some(Errno::EIO | Errno::EPERM) if affinity.irq.is_some() => Err(Refused::Managed),
            Some(Errno::ENOENT) => because(format!("{path}: the interrupt is gone")),
            Some(Errno::ENOSPC) => {
                because(format!("{path}: {text:?} is not taken: no vector is free there"))
            }
            _ => because(format!("{path}: {text:?} is not taken: {}", reason(&error))),
        };
    }
    let now = root.read(&path).map_err(|error| error.to_string()).and_then(|text| {
        if affinity.irq.is_some() { IdSet::parse(&text) } else { IdSet::parse_mask(&text) }
    });
    match now {
        Ok(now) if now == affinity.cpus => Ok(()),
        Ok(now) => because(format!("{path}: written {text:?} without an error, but it is {now}")),
        Err(what) => because(format!("{path}: {what}")),
    }
}
