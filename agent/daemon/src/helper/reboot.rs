//! Has systemd restart the machine or switch it off, all services stopped in order.
//!
//! Whoever may ask for it has this machine restart for ever: not sooner after a start than
//! an operator needs to take that right away.

use std::{path::Path, process::Command, time::Duration};

use crate::clock;

/// Since the machine's start, at least.
const NOT_BEFORE: Duration = Duration::from_secs(120);
/// There while systemd is the init system (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Tells it `reboot` or `poweroff`; the error says why not.
pub fn systemd(what: &str) -> Result<(), String> {
    let up = clock::since_boot();
    if up < NOT_BEFORE {
        let up = up.as_secs();
        return Err(format!(
            "the machine is up for {up} s: not within {NOT_BEFORE:?} of its start"
        ));
    }
    if !Path::new(BOOTED).is_dir() {
        return Err("no systemd runs here, which alone is asked to stop the machine".into());
    }
    let output = Command::new("/usr/bin/systemctl").args(["--no-block", what]).output();
    let output = output.map_err(|error| format!("systemctl: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("systemctl: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
