//! The platform as rows and sections.

use purlin_core::inventory::{
    Bmc, Confidential, Feature, Inventory, Nameplate, Part, Platform, PowerLimit, PowerZone,
    Socket, Tpm, Watchdog,
};

use super::{Row, Section, UNKNOWN, join, or_unknown, plural, row, section, told, yes_no};
use crate::units::size;

pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    inventory.platform.iter().map(platform_row).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    inventory.platform.iter().flat_map(platform_sections).collect()
}

pub(super) fn platform_row(platform: &Platform) -> Row {
    let mut words = vec![maker(platform)];
    words.extend(platform.kernel.as_ref().map(|kernel| format!("Linux {kernel}")));
    words.extend(platform.architecture.clone());
    words.extend((platform.virtualised == Some(true)).then(|| "virtual".to_owned()));
    let name = platform.hostname.as_deref().unwrap_or("machine");
    row(Part::Platform, name, None, words.join(", "))
}

fn maker(platform: &Platform) -> String {
    match (&platform.vendor, &platform.product) {
        (Some(vendor), Some(product)) => format!("{vendor} {product}"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => "maker unknown".into(),
    }
}

fn platform_sections(platform: &Platform) -> Vec<Section> {
    let mut sections = vec![
        machine(platform),
        firmware(platform),
        nameplate("board", &platform.board, None),
        nameplate("chassis", &platform.chassis, platform.chassis_kind.as_ref()),
    ];
    sections.retain(|section| !section.facts.is_empty());
    sections.extend(named("sockets", platform.sockets.iter().map(socket)));
    sections.extend(named("TPM", platform.tpms.iter().map(tpm)));
    sections.extend(named("confidential computing", confidential(&platform.confidential)));
    sections.extend(named("BMC", platform.bmc.iter().flat_map(bmc)));
    sections.extend(named("watchdogs", platform.watchdogs.iter().map(watchdog)));
    sections.extend(named("power zones", platform.power_zones.iter().map(zone)));
    sections
}

type Fact = (String, String);

/// A section of what there is; none without.
fn named(title: &str, facts: impl IntoIterator<Item = Fact>) -> Option<Section> {
    let facts: Vec<Fact> = facts.into_iter().collect();
    (!facts.is_empty()).then(|| Section { title: title.into(), facts })
}

/// Facts that not every machine has: those that are unknown are left out.
fn known<const N: usize>(facts: [(&str, Option<String>); N]) -> Vec<Fact> {
    facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn machine(platform: &Platform) -> Section {
    let mut machine = section(
        platform.hostname.as_deref().unwrap_or("machine"),
        [
            ("vendor", told(&platform.vendor)),
            ("product", told(&platform.product)),
            ("serial", told(&platform.serial)),
        ],
    );
    machine.facts.extend(known([
        ("version", platform.version.clone()),
        ("family", platform.family.clone()),
        ("SKU", platform.sku.clone()),
        ("UUID", platform.uuid.clone()),
        ("compatible", Some(platform.compatible.join(", ")).filter(|names| !names.is_empty())),
    ]));
    let virtualised = match &platform.hypervisor {
        Some(hypervisor) if platform.virtualised == Some(true) => format!("yes, {hypervisor}"),
        _ => yes_no(platform.virtualised),
    };
    let rest = [
        ("kernel", told(&platform.kernel)),
        ("architecture", told(&platform.architecture)),
        ("virtualised", virtualised),
    ];
    machine.facts.extend(rest.map(|(name, value)| (name.to_owned(), value)));
    machine.facts.extend(known([("command line", platform.cmdline.clone())]));
    machine
}

fn firmware(platform: &Platform) -> Section {
    let firmware = &platform.firmware;
    let mut section = section(
        "firmware",
        [
            ("vendor", told(&firmware.vendor)),
            ("version", told(&firmware.version)),
            ("date", told(&firmware.date)),
        ],
    );
    section.facts.extend(known([
        ("release", firmware.release.clone()),
        ("embedded controller", firmware.ec_release.clone()),
        ("SMBIOS", firmware.smbios.clone()),
    ]));
    let uefi = match platform.uefi_bits {
        Some(bits) if platform.uefi == Some(true) => format!("yes, {bits} bits"),
        _ => yes_no(platform.uefi),
    };
    section.facts.push(("UEFI".into(), uefi));
    if platform.uefi == Some(true) {
        section.facts.push(("secure boot".into(), yes_no(platform.secure_boot)));
        section.facts.push(("setup mode".into(), yes_no(platform.setup_mode)));
    }
    section
}

/// Empty if nothing is known.
fn nameplate(title: &str, plate: &Nameplate, kind: Option<&String>) -> Section {
    let facts = known([
        ("kind", kind.cloned()),
        ("vendor", plate.vendor.clone()),
        ("product", plate.product.clone()),
        ("version", plate.version.clone()),
        ("serial", plate.serial.clone()),
        ("asset tag", plate.asset_tag.clone()),
    ]);
    Section { title: title.into(), facts }
}

fn socket(socket: &Socket) -> Fact {
    let what = if socket.populated { "populated" } else { "empty" };
    (told(&socket.designation), what.into())
}

fn tpm(tpm: &Tpm) -> Fact {
    let what = join([
        Some(format!("version {}", told(&tpm.version))),
        tpm.manufacturer.clone(),
        tpm.firmware.as_ref().map(|firmware| format!("firmware {firmware}")),
        tpm.device.as_ref().map(|device| format!("at {device}")),
        (!tpm.pcr_banks.is_empty()).then(|| format!("PCR banks {}", tpm.pcr_banks.join(" "))),
        tpm.ppi.as_ref().map(|ppi| format!("physical presence {ppi}")),
    ]);
    (tpm.name.clone(), what)
}

fn confidential(all: &Confidential) -> Vec<Fact> {
    let feature = |feature: Option<Feature>| {
        feature.map(|feature| match feature {
            Feature::Absent => "absent".to_owned(),
            Feature::Supported => "supported, not enabled".to_owned(),
            Feature::Enabled => "enabled".to_owned(),
            Feature::Guest => "this is a guest".to_owned(),
        })
    };
    let mut facts = known([
        ("SEV", feature(all.sev)),
        ("SEV-ES", feature(all.sev_es)),
        ("SEV-SNP", feature(all.sev_snp)),
        ("TDX", feature(all.tdx)),
        ("SGX", feature(all.sgx)),
    ]);
    let epc = all.sgx_epc.iter();
    facts.extend(epc.map(|(node, bytes)| (format!("SGX memory of node {node}"), size(*bytes))));
    facts
}

fn bmc(bmc: &Bmc) -> Vec<Fact> {
    let mut facts = known([
        ("interface", bmc.interface.clone()),
        ("address", bmc.address.clone()),
        ("IPMI", bmc.ipmi_version.clone()),
        ("firmware", bmc.firmware.clone()),
        ("manufacturer", bmc.manufacturer_id.clone()),
        ("product", bmc.product_id.clone()),
        ("GUID", bmc.guid.clone()),
        ("Redfish to this host", bmc.redfish.then(|| "yes".into())),
    ]);
    let device = bmc.device.clone().unwrap_or_else(|| "none, no driver is bound".into());
    facts.push(("device".into(), device));
    facts
}

fn watchdog(watchdog: &Watchdog) -> Fact {
    // WDIOF_CARDRESET of linux/watchdog.h.
    let reset = watchdog.boot_status.filter(|bits| bits & 0x20 != 0);
    let what = join([
        watchdog.identity.clone(),
        watchdog.state.clone(),
        watchdog.timeout_s.map(|seconds| format!("timeout {seconds} s")),
        watchdog
            .pretimeout_s
            .filter(|seconds| *seconds > 0)
            .map(|seconds| format!("warns {seconds} s before")),
        watchdog.nowayout.filter(|stays| *stays).map(|_| "can't be stopped".into()),
        reset.map(|_| "it reset the machine before this boot".into()),
    ]);
    (watchdog.name.clone(), if what.is_empty() { UNKNOWN.into() } else { what })
}

fn zone(zone: &PowerZone) -> Fact {
    let what = join([
        Some(told(&zone.name)),
        zone.enabled.map(|on| if on { "enforced".into() } else { "not enforced".into() }),
        (!zone.limits.is_empty())
            .then(|| zone.limits.iter().map(limit).collect::<Vec<_>>().join(", ")),
        Some(format!("wraps at {}", or_unknown(zone.max_energy_uj.map(joules)))),
    ]);
    (zone.id.clone(), what)
}

fn limit(limit: &PowerLimit) -> String {
    let watts = |microwatts: u64| format!("{:.0} W", microwatts as f64 / 1e6);
    let most = limit.max_uw.map(|most| format!(" of {}", watts(most))).unwrap_or_default();
    let over = limit.window_us.map(|us| format!(" over {} ms", us / 1000)).unwrap_or_default();
    format!("{} {}{most}{over}", told(&limit.name), or_unknown(limit.limit_uw.map(watts)))
}

fn joules(microjoules: u64) -> String {
    plural((microjoules / 1_000_000) as usize, "joule")
}
