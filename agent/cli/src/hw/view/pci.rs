//! PCI functions as rows and sections.

use purlin_core::inventory::{
    Inventory, Part, PciDevice, PciErrorCount, PciErrors, PciLink, PciSriov,
};

use super::{Row, Section, join, or_unknown, plural, row, set, told, yes_no};
use crate::units::size;

/// How many virtual functions are listed by address before they are counted.
const MAX_LISTED: usize = 8;

pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    inventory.pci.iter().map(|all| pci_row(all)).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    inventory.pci.iter().flatten().map(pci_section).collect()
}

fn pci_row(devices: &[PciDevice]) -> Row {
    let count = |is: fn(&PciDevice) -> bool| devices.iter().filter(|it| is(it)).count();
    let some = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let words = [
        Some(plural(devices.len(), "function")),
        Some(format!("{} with a driver", count(|it| it.driver.is_some()))),
        some(
            count(|it| it.is_downgraded() == Some(true)),
            "with a link below what both ends can do",
        ),
        some(count(has_uncorrectable), "with uncorrectable errors"),
    ];
    row(Part::Pci, "pci", None, join(words))
}

fn has_uncorrectable(device: &PciDevice) -> bool {
    let count = |errors: &PciErrors| [errors.nonfatal.clone(), errors.fatal.clone()];
    device.errors.iter().flat_map(count).flatten().any(|count| count.total > 0)
}

fn pci_section(device: &PciDevice) -> Section {
    let mut facts = identity(device);
    facts.extend(place(device));
    facts.extend(state(device));
    facts.extend(links(device));
    facts.extend(device.errors.iter().flat_map(errors));
    facts.extend(device.sriov.iter().flat_map(sriov));
    facts.extend(given("virtual function of", &device.physical));
    let facts = facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Section { title: device.address.clone(), facts }
}

type Fact = (&'static str, String);

/// A fact that most functions don't have, and only then is left out.
fn given(name: &'static str, value: &Option<String>) -> Option<Fact> {
    Some((name, value.clone()?))
}

fn identity(device: &PciDevice) -> Vec<Fact> {
    let class = match &device.class_name {
        Some(name) => format!("{name} ({:06x})", device.class),
        None => format!("{:06x}", device.class),
    };
    let mut facts = vec![
        ("name", told(&device.name)),
        ("class", class),
        ("id", ids(device.vendor, device.device)),
    ];
    facts.extend(device.revision.map(|revision| ("revision", format!("{revision:02x}"))));
    if device.subsystem_vendor.is_some() {
        let ids = ids(device.subsystem_vendor, device.subsystem_device);
        let name = device.subsystem_name.iter().map(|name| format!("{name} ({ids})")).next();
        facts.push(("subsystem", name.unwrap_or(ids)));
    }
    facts
}

fn ids(vendor: Option<u16>, device: Option<u16>) -> String {
    let id = |id: Option<u16>| or_unknown(id.map(|id| format!("{id:04x}")));
    format!("{}:{}", id(vendor), id(device))
}

fn place(device: &PciDevice) -> Vec<Fact> {
    let iommu = device.iommu_group.map_or("none".into(), |group| match &device.iommu_type {
        Some(kind) => format!("{group}, {kind}"),
        None => group.to_string(),
    });
    let mut facts = vec![("below", device.parent.clone().unwrap_or_else(|| "a root bus".into()))];
    facts.extend(given("slot", &device.slot));
    facts.extend(given("printed on the board", &device.label));
    facts.extend([
        ("node", or_unknown(device.node)),
        ("local CPUs", set(&device.local_cpus)),
        ("IOMMU group", iommu),
    ]);
    facts
}

fn state(device: &PciDevice) -> Vec<Fact> {
    let mut facts = vec![("driver", device.driver.clone().unwrap_or_else(|| "none".into()))];
    facts.extend(given("driver override", &device.driver_override));
    facts.extend([("enabled", yes_no(device.enabled)), ("power", told(&device.power_state))]);
    let memory = device.memory.filter(|bytes| *bytes > 0);
    facts.extend(memory.map(|bytes| ("mapped memory", size(bytes))));
    facts
}

fn links(device: &PciDevice) -> Vec<Fact> {
    let link = |link: PciLink| format!("{} GT/s × {}", link.gt_per_s, link.width);
    let verdict = match device.is_downgraded() {
        Some(true) => " (now below what both ends can do)",
        _ => "",
    };
    match (device.link, device.link_max) {
        (None, None) => Vec::new(),
        (now, most) => vec![
            ("link", now.map_or("none".into(), |now| link(now) + verdict)),
            ("link at most", or_unknown(most.map(link))),
            ("link between both ends", or_unknown(device.link_both.map(link))),
        ],
    }
}

fn errors(errors: &PciErrors) -> Vec<Fact> {
    let count = |count: &Option<PciErrorCount>| or_unknown(count.as_ref().map(counted));
    let mut facts = vec![
        ("errors corrected", count(&errors.correctable)),
        ("errors non-fatal", count(&errors.nonfatal)),
        ("errors fatal", count(&errors.fatal)),
    ];
    facts.extend(errors.below.map(|it| {
        let (cor, non, fatal) = (it.correctable, it.nonfatal, it.fatal);
        ("errors told from below", format!("{cor} corrected, {non} non-fatal, {fatal} fatal"))
    }));
    facts
}

fn counted(count: &PciErrorCount) -> String {
    let kinds: Vec<String> = count.kinds.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    match kinds.is_empty() {
        true => count.total.to_string(),
        false => format!("{} ({})", count.total, kinds.join(", ")),
    }
}

fn sriov(sriov: &PciSriov) -> Vec<Fact> {
    let functions = match sriov.functions.len() {
        0 => None,
        count if count > MAX_LISTED => Some(plural(count, "function")),
        _ => Some(sriov.functions.join(", ")),
    };
    let enabled = or_unknown(sriov.enabled);
    let mut facts = vec![("SR-IOV", format!("{enabled} of {} switched on", sriov.most))];
    facts.extend(sriov.device.map(|id| ("virtual functions' id", format!("{id:04x}"))));
    facts.extend(given("virtual functions", &functions));
    facts
}
