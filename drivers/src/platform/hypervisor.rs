//! Whether the machine is a guest, and of which hypervisor.
//!
//! Names are those of systemd-detect-virt. x86 says by a CPU flag whether there
//! is a hypervisor, both ways; elsewhere there are only signs for one, and their
//! absence proves nothing. Containers are not looked for: they run on the same
//! machine.

use purlin_core::inventory::Platform;

use super::{DEVICE_TREE, flags};
use crate::{probe::Probe, smbios::Smbios};

/// DMI names → hypervisor, the more specific first. Amazon's and Google's own
/// metal carries the same names, so they count only with a second sign.
const DMI_NAMES: [(&str, &str); 16] = [
    ("KVM", "kvm"),
    ("OpenStack", "kvm"),
    ("KubeVirt", "kvm"),
    ("Amazon EC2", "amazon"),
    ("QEMU", "qemu"),
    ("VMware", "vmware"),
    ("VMW", "vmware"),
    ("innotek GmbH", "oracle"),
    ("VirtualBox", "oracle"),
    ("Xen", "xen"),
    ("Bochs", "bochs"),
    ("Parallels", "parallels"),
    ("BHYVE", "bhyve"),
    ("Hyper-V", "microsoft"),
    ("Apple Virtualization", "apple"),
    ("Google Compute Engine", "google"),
];

/// Signatures of CPUID leaf 0x4000_0000.
#[cfg(target_arch = "x86_64")]
const SIGNATURES: [(&[u8; 12], &str); 8] = [
    (b"KVMKVMKVM\0\0\0", "kvm"),
    (b"Linux KVM Hv", "kvm"),
    (b"TCGTCGTCGTCG", "qemu"),
    (b"VMwareVMware", "vmware"),
    (b"Microsoft Hv", "microsoft"),
    (b"XenVMMXenVMM", "xen"),
    (b"bhyve bhyve ", "bhyve"),
    (b"ACRNACRNACRN", "acrn"),
];

/// Fills in whether the machine is virtual and by what; its names and device
/// tree are read already.
pub(super) fn read(
    probe: &mut Probe<'_>,
    smbios: Option<&Smbios>,
    cpuinfo: &str,
    platform: &mut Platform,
) {
    let flag = flags(cpuinfo).map(|flags| flags.contains(&"hypervisor"));
    if is_xen_host(probe) {
        platform.virtualised = Some(false);
        return;
    }
    let table = smbios.and_then(|smbios| smbios.virtual_machine).filter(|yes| *yes);
    let guest = flag.or(table);
    let sure = sign(probe, cpuinfo);
    platform.hypervisor = match guest {
        Some(false) => None,
        _ => sure
            .or_else(|| dmi_name(platform, guest == Some(true)).map(str::to_owned))
            .or_else(|| signature(probe, guest == Some(true)).map(str::to_owned)),
    };
    platform.virtualised = guest.or(platform.hypervisor.is_some().then_some(true));
}

/// The first domain of Xen drives the hardware itself.
fn is_xen_host(probe: &mut Probe<'_>) -> bool {
    let capabilities = probe.text("/proc/xen/capabilities");
    if capabilities.is_some_and(|text| text.contains("control_d")) {
        return true;
    }
    // XENFEAT_dom0 of Xen's include/public/features.h.
    let features = probe.hex("/sys/hypervisor/properties/features");
    features.is_some_and(|bits| bits >> 11 & 1 == 1)
}

/// Where a hypervisor, or the machine's firmware, says it in so many words.
fn sign(probe: &mut Probe<'_>, cpuinfo: &str) -> Option<String> {
    if let Some(kind) = probe.label("/sys/hypervisor/type") {
        return Some(kind);
    }
    if cpuinfo.contains("User Mode Linux") {
        return Some("uml".into());
    }
    if let Some(sysinfo) = probe.text("/proc/sysinfo") {
        return control_program(&sysinfo).map(str::to_owned);
    }
    DEVICE_TREE.iter().find_map(|base| device_tree(probe, base).map(str::to_owned))
}

/// s390 numbers the hypervisors over it from the inside out.
fn control_program(sysinfo: &str) -> Option<&'static str> {
    let line = sysinfo.lines().find(|line| line.starts_with("VM00 Control Program"))?;
    Some(if line.contains("z/VM") { "zvm" } else { "kvm" })
}

fn device_tree(probe: &mut Probe<'_>, base: &str) -> Option<&'static str> {
    if let Some(compatible) = probe.text(&format!("{base}/hypervisor/compatible")) {
        let names =
            [("linux,kvm", "kvm"), ("xen", "xen"), ("vmware", "vmware"), ("gunyah", "gunyah")];
        let known = names.iter().find(|(name, _)| compatible.contains(name));
        return Some(known.map_or("vm-other", |(_, kind)| kind));
    }
    let has = |name: &str| probe.root.exists(&format!("{base}/{name}"));
    if has("ibm,partition-name") && has("hmc-managed?") && !has("chosen/qemu,graphic-width") {
        return Some("powervm");
    }
    let names = probe.names(base)?;
    names.iter().any(|name| name.starts_with("fw-cfg")).then_some("qemu")
}

fn dmi_name(platform: &Platform, guest: bool) -> Option<&'static str> {
    let texts = [
        &platform.product,
        &platform.vendor,
        &platform.board.vendor,
        &platform.firmware.vendor,
        &platform.version,
    ];
    let vendor = platform.vendor.as_deref().unwrap_or_default();
    let product = platform.product.as_deref().unwrap_or_default();
    if vendor == "Microsoft Corporation" && product == "Virtual Machine" {
        return Some("microsoft");
    }
    let says =
        |name: &str| texts.iter().any(|text| text.as_deref().unwrap_or("").starts_with(name));
    let (_, kind) = DMI_NAMES.iter().find(|(name, _)| says(name))?;
    (guest || !matches!(*kind, "amazon" | "google")).then_some(*kind)
}

/// What the hypervisor calls itself to a guest. Only this machine's can be asked.
fn signature(probe: &mut Probe<'_>, guest: bool) -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    if guest && probe.root.is_live() {
        let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
        let words = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
        let known = SIGNATURES.iter().find(|(signature, _)| words.as_flattened() == *signature);
        return known.map(|(_, kind)| *kind);
    }
    let _ = (probe, guest);
    None
}
