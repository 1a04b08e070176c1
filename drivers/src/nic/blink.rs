//! Makes a port's light blink, so that somebody in front of a rack finds it
//! (ethtool(8), `--identify`).

use std::io;

use nix::errno::Errno;

use crate::sys::ethtool::Ethtool;

/// Blinks for so many seconds, and returns then. The error says what is missing.
pub fn blink(interface: &str, seconds: u32) -> Result<(), String> {
    let blinked = Ethtool::open().and_then(|ethtool| ethtool.identify(interface, seconds));
    blinked.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => {
            "only who has CAP_NET_ADMIN may make it blink, and the agent has not".into()
        }
        Some(Errno::EOPNOTSUPP) => "its driver knows of no light".into(),
        Some(Errno::ENODEV) => "there is no such interface".into(),
        _ if error.kind() == io::ErrorKind::NotFound => "there is no such interface".into(),
        _ => error.to_string(),
    })
}
