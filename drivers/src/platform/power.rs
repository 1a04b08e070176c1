//! What meters and limits the machine's power, and what resets it when it hangs.

use purlin_core::inventory::{PowerLimit, PowerZone, Watchdog};

use crate::probe::Probe;

/// The most limits of one zone; RAPL has at most three.
const MAX_LIMITS: u32 = 8;

/// The most zones: 8 packages of 5 zones, through two interfaces, are 80.
const MAX_ZONES: usize = 256;

/// The most watchdogs: the kernel has 32.
const MAX_WATCHDOGS: usize = 32;

/// RAPL zones (Documentation/power/powercap/powercap.rst). Those without a colon
/// are the interfaces under which the zones hang.
pub(super) fn zones(probe: &mut Probe<'_>) -> Vec<PowerZone> {
    const POWERCAP: &str = "/sys/class/powercap";
    let names = probe.names(POWERCAP).unwrap_or_default();
    let zones = names.into_iter().filter(|name| name.contains("rapl") && name.contains(':'));
    zones.take(MAX_ZONES).map(|id| zone(probe, &format!("{POWERCAP}/{id}"), id)).collect()
}

fn zone(probe: &mut Probe<'_>, dir: &str, id: String) -> PowerZone {
    let limits = (0..MAX_LIMITS).map_while(|number| limit(probe, dir, number)).collect();
    PowerZone {
        id,
        name: probe.label(&format!("{dir}/name")),
        enabled: probe.flag(&format!("{dir}/enabled")),
        max_energy_uj: probe.number(&format!("{dir}/max_energy_range_uj")),
        limits,
    }
}

fn limit(probe: &mut Probe<'_>, dir: &str, number: u32) -> Option<PowerLimit> {
    let file = |what| format!("{dir}/constraint_{number}_{what}");
    let limit = PowerLimit {
        name: probe.label(&file("name")),
        limit_uw: probe.number(&file("power_limit_uw")),
        max_uw: probe.number(&file("max_power_uw")),
        window_us: probe.number(&file("time_window_us")),
    };
    (limit != PowerLimit::default()).then_some(limit)
}

/// Watchdogs (Documentation/ABI/testing/sysfs-class-watchdog). Reading these
/// files starts nothing; opening the device would.
pub(super) fn watchdogs(probe: &mut Probe<'_>) -> Vec<Watchdog> {
    const WATCHDOG: &str = "/sys/class/watchdog";
    let names = probe.names(WATCHDOG).unwrap_or_default();
    let read = |name: String| {
        let dir = format!("{WATCHDOG}/{name}");
        Watchdog {
            identity: probe.label(&format!("{dir}/identity")),
            state: probe.label(&format!("{dir}/state")),
            timeout_s: probe.number(&format!("{dir}/timeout")),
            pretimeout_s: probe.number(&format!("{dir}/pretimeout")),
            nowayout: probe.flag(&format!("{dir}/nowayout")),
            boot_status: probe.number(&format!("{dir}/bootstatus")),
            name,
        }
    };
    names.into_iter().take(MAX_WATCHDOGS).map(read).collect()
}
