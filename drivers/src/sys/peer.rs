//! The groups of the process at the other end of a Unix socket, as they were when it
//! connected (socket(7), `SO_PEERGROUPS`).

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::libc;

/// The most groups that a process may have (`NGROUPS_MAX`, include/uapi/linux/limits.h).
const MAX_GROUPS: usize = 65536;
/// What most have.
const USUAL: usize = 64;

/// Its supplementary groups.
pub fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; USUAL];
    loop {
        let mut bytes = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: the buffer has `bytes` bytes, which the kernel fills with whole gids and
        // never exceeds; the descriptor is open for the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<u32>();
        match result {
            0 => {
                groups.truncate(count);
                return Ok(groups);
            }
            // ERANGE: it says how many there are.
            _ if count > groups.len() && count <= MAX_GROUPS => groups.resize(count, 0),
            _ => return Err(io::Error::last_os_error()),
        }
    }
}
