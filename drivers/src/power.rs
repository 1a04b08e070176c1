//! What saves power: cgroups that stand still, and limits of what a package may take.
//!
//! Page: `hw-docs/power.md`. Sources: Documentation/admin-guide/cgroup-v2.rst
//! (`cgroup.freeze`, `cgroup.events`), Documentation/power/powercap/powercap.rst
//! (`constraint_N_power_limit_uw`). Each change is read back before it is told.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::Root;

/// Where RAPL's zones are, one a package; a package's own parts are below it.
const RAPL: &str = "/sys/devices/virtual/powercap/intel-rapl";
/// The constraint that holds over seconds.
const LIMIT: &str = "constraint_0_power_limit_uw";
/// For every process of a cgroup to stand still: one in a system call ends that first.
const FREEZES_WITHIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The kernel rounds a limit to the hardware's unit, at most an eighth of a watt.
const ROUNDED_UW: u64 = 250_000;

/// A package's zone, and what it may take, in µW.
pub type Cap = (String, u64);

/// Lets a cgroup and all below it stand still, or go on. False if there is none.
pub fn freeze(root: &Root, cgroup: &str, still: bool) -> Result<bool, String> {
    let mounts = root.read("/proc/self/mounts").map_err(|error| error.to_string())?;
    let unified = mounts.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let at = words.next()?;
        (words.next()? == "cgroup2").then(|| at.to_owned())
    });
    let dir = format!("{}/{cgroup}", unified.ok_or("no cgroup v2 is mounted here")?);
    if !root.exists(&dir) {
        return Ok(false);
    }
    // Whoever froze what asks for it, or what would have to thaw it again, stands still.
    let own = root.read("/proc/self/cgroup").unwrap_or_default();
    let holds_us = own.lines().filter_map(|line| line.strip_prefix("0::/")).any(|path| {
        path == cgroup || path.strip_prefix(cgroup).is_some_and(|rest| rest.starts_with('/'))
    });
    if holds_us {
        return Err(format!("{cgroup} holds the agent itself"));
    }
    let file = format!("{dir}/cgroup.freeze");
    let text = if still { "1" } else { "0" };
    root.write(&file, text).map_err(|error| format!("{file}: {text} is not taken: {error}"))?;
    let (began, told) = (Instant::now(), format!("frozen {text}"));
    while began.elapsed() < FREEZES_WITHIN {
        let events = root.read(&format!("{dir}/cgroup.events")).map_err(|it| it.to_string())?;
        if events.lines().any(|line| line == told) {
            return Ok(true);
        }
        thread::sleep(LOOK_EVERY);
    }
    Err(format!("{cgroup}: not {told:?} within {FREEZES_WITHIN:?}"))
}

/// What each package may take now; none where there is no RAPL.
pub fn caps(root: &Root) -> Result<Vec<Cap>, String> {
    let Ok(names) = root.list(RAPL) else { return Ok(Vec::new()) };
    let zones = names.into_iter().filter(|name| is_zone(name));
    zones.map(|zone| Ok((zone.clone(), limit(root, &zone)?))).collect()
}

/// Sets what packages may take.
pub fn cap(root: &Root, caps: &[Cap]) -> Result<(), String> {
    for (zone, microwatts) in caps {
        if !is_zone(zone) {
            return Err(format!("{zone} is no package"));
        }
        let file = format!("{RAPL}/{zone}/{LIMIT}");
        let text = microwatts.to_string();
        root.write(&file, &text)
            .map_err(|error| format!("{file}: {text} is not taken: {error}"))?;
        let now = limit(root, zone)?;
        if now.abs_diff(*microwatts) > ROUNDED_UW {
            return Err(format!("{file}: written {text} without an error, but it is {now}"));
        }
    }
    Ok(())
}

fn limit(root: &Root, zone: &str) -> Result<u64, String> {
    let file = format!("{RAPL}/{zone}/{LIMIT}");
    let text = root.read(&file).map_err(|error| error.to_string())?;
    text.trim().parse().map_err(|_| format!("{file}: {text:?} is no number"))
}

/// `intel-rapl:N`, also on AMD.
fn is_zone(name: &str) -> bool {
    let number = name.strip_prefix("intel-rapl:");
    number.is_some_and(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()))
}
