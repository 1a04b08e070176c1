//! NVMe admin commands that read (`NVME_IOCTL_ADMIN_CMD`,
//! include/uapi/linux/nvme_ioctl.h). The kernel asks for `CAP_SYS_ADMIN` or a
//! descriptor open for writing; we never open for writing.

use std::{fs::File, io, os::fd::AsRawFd};

/// Get Log Page (NVM Express Base Specification, admin command set).
const GET_LOG_PAGE: u8 = 0x02;

/// Identify.
const IDENTIFY: u8 = 0x06;

/// Identify: the controller itself (CNS 01h).
const CONTROLLER: u32 = 0x01;

/// Namespace id for what is not of one namespace.
const ALL_NAMESPACES: u32 = 0xffff_ffff;

/// Bytes of the Identify Controller data structure.
pub(crate) const IDENTIFY_LENGTH: usize = 4096;

/// Bytes of the log pages that we read.
pub(crate) const LOG_LENGTH: usize = 512;

/// `struct nvme_admin_cmd`.
#[repr(C)]
#[derive(Default)]
struct AdminCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_length: u32,
    data_length: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    // 0 is the kernel's own, 60 s: after it the kernel resets the controller,
    // so a shorter one would hurt a slow but working disk.
    timeout_ms: u32,
    result: u32,
}

mod ioctl {
    nix::ioctl_readwrite!(nvme_admin, b'N', 0x41, super::AdminCommand);
}

/// What the controller says of itself.
pub(crate) fn identify(controller: &File) -> io::Result<[u8; IDENTIFY_LENGTH]> {
    let command = AdminCommand { opcode: IDENTIFY, cdw10: CONTROLLER, ..AdminCommand::default() };
    ask(controller, command)
}

/// One log page of the whole controller.
pub(crate) fn log_page(controller: &File, id: u8) -> io::Result<[u8; LOG_LENGTH]> {
    // The length is in words of 32 bits, less one.
    let words = (LOG_LENGTH / 4 - 1) as u32;
    let command = AdminCommand {
        opcode: GET_LOG_PAGE,
        namespace: ALL_NAMESPACES,
        cdw10: u32::from(id) | words << 16,
        ..AdminCommand::default()
    };
    ask(controller, command)
}

fn ask<const N: usize>(controller: &File, mut command: AdminCommand) -> io::Result<[u8; N]> {
    let mut data = [0; N];
    command.address = data.as_mut_ptr() as u64;
    command.data_length = N as u32;
    // SAFETY: the command is the kernel's struct; its address and length are
    // those of `data`, which lives until the call returns, and both opcodes
    // only move data to the host.
    let status = unsafe { ioctl::nvme_admin(controller.as_raw_fd(), &raw mut command) }?;
    // Positive: the controller's own status code.
    match status {
        0 => Ok(data),
        code => Err(io::Error::other(format!("the controller answers status {code:#x}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_the_kernels_size() {
        assert_eq!(size_of::<AdminCommand>(), 72);
    }

    #[test]
    fn what_is_no_controller_says_so() {
        let file = File::open("/dev/null").expect("a device");
        assert!(identify(&file).is_err());
    }
}
