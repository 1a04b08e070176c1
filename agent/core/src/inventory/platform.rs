//! Who made the machine, and what runs on it below us.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

/// Who made the machine, and what runs on it below us.
///
/// DMI strings are without the placeholders that firmware ships where nobody
/// filled a field in (`To be filled by O.E.M.`): those are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Host name.
    pub hostname: Option<String>,
    /// Kernel release, e.g. `6.12.9`.
    pub kernel: Option<String>,
    /// Kernel command line.
    pub cmdline: Option<String>,
    /// Machine architecture as the kernel names it, e.g. `x86_64`. `None` for a dump.
    pub architecture: Option<String>,
    /// DMI `sys_vendor`, or the device tree's model on machines without DMI.
    pub vendor: Option<String>,
    /// DMI `product_name`.
    pub product: Option<String>,
    /// DMI `product_version`.
    pub version: Option<String>,
    /// DMI `product_family`.
    pub family: Option<String>,
    /// DMI `product_sku`.
    pub sku: Option<String>,
    /// DMI `product_serial`, readable by root alone, or the device tree's serial number.
    pub serial: Option<String>,
    /// DMI `product_uuid`, readable by root alone.
    pub uuid: Option<String>,
    /// Device tree `compatible`, the most specific first.
    pub compatible: Vec<String>,
    /// The board.
    pub board: Nameplate,
    /// The case.
    pub chassis: Nameplate,
    /// What the case is, in SMBIOS words: `rack mount chassis`, `blade`, `mini PC`.
    pub chassis_kind: Option<String>,
    /// Processor sockets (SMBIOS type 4).
    pub sockets: Vec<Socket>,
    /// BIOS or UEFI firmware.
    pub firmware: Firmware,
    /// Booted through UEFI (`/sys/firmware/efi` is there).
    pub uefi: Option<bool>,
    /// Word size of the UEFI firmware in bits.
    pub uefi_bits: Option<u32>,
    /// Secure boot is enforced (EFI variable `SecureBoot`).
    pub secure_boot: Option<bool>,
    /// Anyone may enroll a platform key (EFI variable `SetupMode`).
    pub setup_mode: Option<bool>,
    /// Trusted platform modules.
    pub tpms: Vec<Tpm>,
    /// Confidential computing.
    pub confidential: Confidential,
    /// RAPL zones (`/sys/class/powercap`).
    pub power_zones: Vec<PowerZone>,
    /// Hardware and software watchdogs.
    pub watchdogs: Vec<Watchdog>,
    /// The management controller, if firmware or kernel show one.
    pub bmc: Option<Bmc>,
    /// The kernel sees a hypervisor under it.
    pub virtualised: Option<bool>,
    /// Which hypervisor, in the names of systemd-detect-virt: `kvm`, `vmware`.
    pub hypervisor: Option<String>,
    /// What CDI specifications of others offer to containers.
    #[serde(default)]
    pub cdi: Vec<CdiDevice>,
}

/// What DMI says about a board or a case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nameplate {
    /// Who made it.
    pub vendor: Option<String>,
    /// Product name; a case has none.
    pub product: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Serial number, readable by root alone.
    pub serial: Option<String>,
    /// Asset tag.
    pub asset_tag: Option<String>,
}

/// A processor socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// As printed on the board: `CPU1`.
    pub designation: Option<String>,
    /// A processor is in it.
    pub populated: bool,
}

/// BIOS or UEFI firmware (SMBIOS type 0).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    /// Who wrote it.
    pub vendor: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Date, as the firmware writes it: month/day/year.
    pub date: Option<String>,
    /// Release, `major.minor`.
    pub release: Option<String>,
    /// Release of the embedded controller's firmware, `major.minor`.
    pub ec_release: Option<String>,
    /// SMBIOS version, `3.3`.
    pub smbios: Option<String>,
}

/// A trusted platform module (`/sys/class/tpm`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tpm {
    /// `tpm0`
    pub name: String,
    /// Version of the TPM specification: `2.0`, `1.2`.
    pub version: Option<String>,
    /// The device it is: `MSFT0101:00`, `00:05`.
    pub device: Option<String>,
    /// Vendor id: `IFX`, `INTC`.
    pub manufacturer: Option<String>,
    /// Firmware version.
    pub firmware: Option<String>,
    /// Banks of platform configuration registers: `sha1`, `sha256`.
    pub pcr_banks: Vec<String>,
    /// Version of the physical presence interface.
    pub ppi: Option<String>,
}

/// How far a feature is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// The processor does not have it, or firmware hides it.
    Absent,
    /// The processor has it; the kernel does not offer it.
    Supported,
    /// The kernel offers it.
    Enabled,
    /// This machine is itself such a guest.
    Guest,
}

/// Confidential computing; `None` where the processor's flags could not be
/// read or the architecture has no such thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confidential {
    /// AMD Secure Encrypted Virtualization.
    pub sev: Option<Feature>,
    /// … with encrypted state.
    pub sev_es: Option<Feature>,
    /// … with nested paging protected.
    pub sev_snp: Option<Feature>,
    /// Intel Trust Domain Extensions.
    pub tdx: Option<Feature>,
    /// Intel Software Guard Extensions.
    pub sgx: Option<Feature>,
    /// NUMA node → bytes of SGX enclave page cache.
    pub sgx_epc: BTreeMap<u32, u64>,
}

/// A RAPL zone (Documentation/power/powercap/powercap.rst).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerZone {
    /// `intel-rapl:0:1`; the numbers are the path in the tree of zones.
    pub id: String,
    /// `package-0`, `dram`, `psys`.
    pub name: Option<String>,
    /// Its limits are enforced.
    pub enabled: Option<bool>,
    /// Where the energy counter wraps, in microjoules.
    pub max_energy_uj: Option<u64>,
    /// Limits.
    pub limits: Vec<PowerLimit>,
}

/// A limit of a [`PowerZone`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerLimit {
    /// `long_term`, `short_term`, `peak_power`.
    pub name: Option<String>,
    /// The limit now, in microwatts.
    pub limit_uw: Option<u64>,
    /// The highest that may be set, in microwatts.
    pub max_uw: Option<u64>,
    /// Time over which power is averaged, in microseconds.
    pub window_us: Option<u64>,
}

/// A watchdog (`/sys/class/watchdog`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watchdog {
    /// `watchdog0`
    pub name: String,
    /// The driver's name for it: `iTCO_wdt`.
    pub identity: Option<String>,
    /// `active` or `inactive`.
    pub state: Option<String>,
    /// Seconds without a ping until the machine is reset.
    pub timeout_s: Option<u32>,
    /// Seconds before that at which it warns; 0 is never.
    pub pretimeout_s: Option<u32>,
    /// Once started it can't be stopped.
    pub nowayout: Option<bool>,
    /// Why the machine booted, bits `WDIOF_*` of linux/watchdog.h; 0x20 is a reset by
    /// this watchdog.
    pub boot_status: Option<u32>,
}

/// What a CDI specification of others offers to containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CdiDevice {
    /// `vendor.com/class`
    pub kind: String,
    /// Its name within the kind.
    pub name: String,
    /// Device files of the host that it brings into a container.
    pub nodes: Vec<String>,
    /// Network interfaces of the host that move into the container.
    pub interfaces: Vec<String>,
    /// The PCI functions behind all that, by address.
    pub pci: Vec<String>,
}

impl CdiDevice {
    /// What it is asked for by: `vendor.com/class=name`.
    pub fn full_name(&self) -> String {
        alloc::format!("{}={}", self.kind, self.name)
    }
}

/// A baseboard management controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bmc {
    /// System interface: `KCS`, `SSIF` (SMBIOS type 38).
    pub interface: Option<String>,
    /// Version of the IPMI specification.
    pub ipmi_version: Option<String>,
    /// Where the interface is: `I/O 0xca2`.
    pub address: Option<String>,
    /// The kernel's device, `ipmi0`; `None` if no driver is bound to it.
    pub device: Option<String>,
    /// Firmware revision.
    pub firmware: Option<String>,
    /// Manufacturer's IANA enterprise number, as the kernel writes it: `0x0002a2`.
    pub manufacturer_id: Option<String>,
    /// Product id, as the kernel writes it.
    pub product_id: Option<String>,
    /// GUID.
    pub guid: Option<String>,
    /// It offers Redfish to this host over a network interface (SMBIOS type 42).
    pub redfish: bool,
}
