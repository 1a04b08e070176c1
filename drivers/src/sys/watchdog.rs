//! A watchdog device (Documentation/watchdog/watchdog-api.rst).

use std::{fs::File, io, os::fd::AsRawFd};

mod ioctl {
    nix::ioctl_readwrite!(set_timeout, b'W', 6, i32);
}

/// Asks for a timeout in seconds; what the device made of it.
pub(crate) fn set_timeout(device: &File, seconds: i32) -> io::Result<i32> {
    let mut seconds = seconds;
    // SAFETY: the kernel reads one int and writes it back; it is `seconds`, which lives
    // until the call returns.
    unsafe { ioctl::set_timeout(device.as_raw_fd(), &raw mut seconds) }?;
    Ok(seconds)
}
