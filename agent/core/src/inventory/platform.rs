//! Who made the machine, and what runs on it below us.

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// Who made the machine, and what runs on it below us.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Host name.
    pub hostname: Option<String>,
    /// Kernel release, e.g. `6.12.9`.
    pub kernel: Option<String>,
    /// Machine architecture as the kernel names it, e.g. `x86_64`. `None` for a dump.
    pub architecture: Option<String>,
    /// DMI `sys_vendor`, or the device tree's model on machines without DMI.
    pub vendor: Option<String>,
    /// DMI `product_name`.
    pub product: Option<String>,
    /// DMI `product_serial`; readable by root alone.
    pub serial: Option<String>,
    /// DMI `board_vendor` and `board_name`.
    pub board: Option<String>,
    /// Firmware vendor, version and date.
    pub firmware: Option<String>,
    /// Booted through UEFI (`/sys/firmware/efi` is there).
    pub uefi: Option<bool>,
    /// The kernel sees a hypervisor under it.
    pub virtualised: Option<bool>,
}
