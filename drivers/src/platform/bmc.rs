//! Whether there is a management controller, and which.
//!
//! The firmware's table tells the interface, the kernel's IPMI driver
//! (Documentation/ABI/testing/sysfs-devices-platform-ipmi) what answers there.
//! Nothing is asked of the controller itself: that is another driver's work.

use purlin_core::inventory::Bmc;

use crate::{probe::Probe, smbios::Smbios};

const PLATFORM: &str = "/sys/devices/platform";

/// The management controller; `None` if neither firmware nor kernel show one.
pub(super) fn read(probe: &mut Probe<'_>, smbios: Option<&Smbios>) -> Option<Bmc> {
    let told = smbios.and_then(|smbios| smbios.bmc.clone());
    let devices = probe.names("/sys/class/ipmi").unwrap_or_default();
    let device = devices.into_iter().find(|name| name.starts_with("ipmi"));
    let names = probe.names(PLATFORM).unwrap_or_default();
    let answers = names.iter().find(|name| name.starts_with("ipmi_bmc"));
    if told.is_none() && device.is_none() && answers.is_none() {
        return None;
    }
    let mut bmc = Bmc { device, ..told.unwrap_or_default() };
    if let Some(name) = answers {
        let mut fact = |what| probe.label(&format!("{PLATFORM}/{name}/{what}"));
        bmc.firmware = fact("firmware_revision");
        bmc.manufacturer_id = fact("manufacturer_id");
        bmc.product_id = fact("product_id");
        bmc.guid = fact("guid");
        bmc.ipmi_version = fact("ipmi_version").or(bmc.ipmi_version);
    }
    Some(bmc)
}
