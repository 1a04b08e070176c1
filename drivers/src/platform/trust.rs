//! What the machine's software may rely on: UEFI and secure boot, TPM, and
//! confidential computing.

use std::collections::BTreeMap;

use purlin_core::inventory::{Confidential, Feature, Platform, Tpm};

use super::flags;
use crate::{
    probe::{Probe, label},
    smbios::Smbios,
};

const EFI: &str = "/sys/firmware/efi";

/// `EFI_GLOBAL_VARIABLE` (UEFI specification, 3.3).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Fills in what UEFI says.
pub(super) fn firmware(probe: &mut Probe<'_>, platform: &mut Platform) {
    if platform.uefi != Some(true) {
        return;
    }
    platform.uefi_bits = probe.number(&format!("{EFI}/fw_platform_size"));
    platform.secure_boot = variable(probe, "SecureBoot");
    platform.setup_mode = variable(probe, "SetupMode");
}

/// A variable of one byte, behind four bytes of attributes.
fn variable(probe: &mut Probe<'_>, name: &str) -> Option<bool> {
    let path = format!("{EFI}/efivars/{name}-{GLOBAL}");
    let bytes = probe.bytes(&path)?;
    match bytes[..] {
        [_, _, _, _, value @ (0 | 1)] => Some(value == 1),
        _ => {
            probe.problem(&path, format!("{} bytes that are no yes or no", bytes.len()));
            None
        }
    }
}

/// The TPMs; Documentation/ABI/stable/sysfs-class-tpm.
pub(super) fn tpms(probe: &mut Probe<'_>, smbios: Option<&Smbios>) -> Vec<Tpm> {
    const TPM: &str = "/sys/class/tpm";
    let names = probe.names(TPM).unwrap_or_default();
    let mut tpms: Vec<Tpm> = names
        .into_iter()
        .filter(|name| name.starts_with("tpm") && !name.starts_with("tpmrm"))
        .map(|name| tpm(probe, &format!("{TPM}/{name}"), name))
        .collect();
    // The table has no way to tell which of several it means.
    if let ([only], Some(told)) = (&mut tpms[..], smbios.and_then(|smbios| smbios.tpm.as_ref())) {
        only.manufacturer = only.manufacturer.take().or_else(|| told.vendor.clone());
        only.version = told.version.clone().or(only.version.take());
    }
    tpms
}

fn tpm(probe: &mut Probe<'_>, dir: &str, name: String) -> Tpm {
    // Version 1.2 alone has `caps`, which moved out of the device in Linux 4.3.
    let caps = probe.text(&format!("{dir}/caps"));
    let caps = caps.or_else(|| probe.text(&format!("{dir}/device/caps"))).unwrap_or_default();
    let cap = |key| caps.lines().find_map(|line| label(line.strip_prefix(key)?));
    let major: Option<u32> = probe.number(&format!("{dir}/tpm_version_major"));
    let files = probe.names(dir).unwrap_or_default();
    Tpm {
        version: cap("TCG version:").or(major.map(|major| format!("{major}.{}", minor(major)))),
        device: probe.link_name(&format!("{dir}/device")),
        manufacturer: cap("Manufacturer:").map(manufacturer),
        firmware: cap("Firmware version:"),
        pcr_banks: files
            .iter()
            .filter_map(|file| file.strip_prefix("pcr-").map(str::to_owned))
            .collect(),
        ppi: probe.label(&format!("{dir}/ppi/version")),
        name,
    }
}

/// The kernel tells the major version alone, and drives only 1.2 and 2.0.
fn minor(major: u32) -> u32 {
    if major == 1 { 2 } else { 0 }
}

/// `0x49465800` is the text `IFX`.
fn manufacturer(hex: String) -> String {
    let number = u32::from_str_radix(hex.trim_start_matches("0x"), 16);
    let text = number.map(|number| String::from_utf8_lossy(&number.to_be_bytes()).into_owned());
    text.ok().and_then(|text| label(&text)).unwrap_or(hex)
}

/// From the processor's flags, the parameters of KVM, and the drivers that only
/// a guest has. A SEV or SEV-ES guest can't be told: the kernel says it in its
/// log alone.
pub(super) fn confidential(probe: &mut Probe<'_>, cpuinfo: &str) -> Confidential {
    let Some(flags) = flags(cpuinfo) else { return Confidential::default() };
    let has = |flag| flags.contains(&flag);
    let sgx_epc = epc(probe);
    let snp_guest = ["/dev/sev-guest", "/sys/devices/system/cpu/sev/vmpl"]
        .iter()
        .any(|sign| probe.root.exists(sign));
    Confidential {
        sev: Some(feature(has("sev"), kvm(probe, "kvm_amd", "sev"), false)),
        sev_es: Some(feature(has("sev_es"), kvm(probe, "kvm_amd", "sev_es"), false)),
        sev_snp: Some(feature(has("sev_snp"), kvm(probe, "kvm_amd", "sev_snp"), snp_guest)),
        tdx: Some(feature(
            has("tdx_host_platform"),
            kvm(probe, "kvm_intel", "tdx"),
            has("tdx_guest"),
        )),
        sgx: Some(feature(
            has("sgx"),
            probe.root.exists("/dev/sgx_enclave") || sgx_epc.values().any(|bytes| *bytes > 0),
            false,
        )),
        sgx_epc,
    }
}

fn feature(supported: bool, enabled: bool, guest: bool) -> Feature {
    match (guest, enabled, supported) {
        (true, _, _) => Feature::Guest,
        (_, true, _) => Feature::Enabled,
        (_, _, true) => Feature::Supported,
        _ => Feature::Absent,
    }
}

/// A parameter that is `Y` or `N`, or a number on older kernels.
fn kvm(probe: &mut Probe<'_>, module: &str, parameter: &str) -> bool {
    let value = probe.text(&format!("/sys/module/{module}/parameters/{parameter}"));
    value.is_some_and(|value| value == "Y" || value == "1")
}

fn epc(probe: &mut Probe<'_>) -> BTreeMap<u32, u64> {
    const NODES: &str = "/sys/devices/system/node";
    let nodes = probe.numbered(NODES, "node").unwrap_or_default();
    let bytes =
        |probe: &mut Probe<'_>, id| probe.number(&format!("{NODES}/node{id}/x86/sgx_total_bytes"));
    nodes.iter().filter_map(|id| Some((id, bytes(probe, id)?))).collect()
}
