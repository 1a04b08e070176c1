//! Whether the kernel's clock is disciplined (adjtimex(2), include/uapi/linux/timex.h).

use nix::libc;

/// True unless the kernel says that nobody has set its clock, or can't be asked.
pub(crate) fn is_synchronized() -> bool {
    // SAFETY: timex is plain integers, for which zero is a value; with no mode set,
    // adjtimex only fills it in.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    // TIME_ERROR: the clock is not synchronized.
    (0..libc::TIME_ERROR).contains(&state)
}
