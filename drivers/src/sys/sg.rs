//! ATA commands that read, through a SCSI generic device (`SG_IO`,
//! include/scsi/sg.h; ATA PASS-THROUGH (16), SAT-4 12.2.2). The kernel asks for
//! `CAP_SYS_RAWIO`.

use std::{ffi::c_void, fs::File, io, os::fd::AsRawFd, ptr};

/// A sector, in bytes: each answer with data is one.
pub(crate) const SECTOR: usize = 512;

/// Room for the answer that carries the ATA registers, in bytes: 8 of header
/// and a descriptor of 14.
const SENSE: usize = 32;

/// What a command may take, in ms. Too short a limit makes the kernel reset
/// the link of a slow but working disk; this is the kernel's own for a disk.
const TIMEOUT_MS: u32 = 30_000;

const NO_DATA: i32 = -1;
const FROM_DEVICE: i32 = -3;

/// `sg_io_hdr_t`.
#[repr(C)]
struct Header {
    interface: i32,
    direction: i32,
    command_length: u8,
    sense_room: u8,
    iovec_count: u16,
    data_length: u32,
    data: *mut c_void,
    command: *const u8,
    sense: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: i32,
    user: *mut c_void,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_length: u8,
    host_status: u16,
    driver_status: u16,
    residue: i32,
    duration: u32,
    info: u32,
}

mod ioctl {
    nix::ioctl_readwrite_bad!(sg_io, 0x2285, super::Header);
}

/// An ATA command's registers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ata {
    pub(crate) command: u8,
    pub(crate) feature: u8,
    pub(crate) lba_mid: u8,
    pub(crate) lba_high: u8,
}

/// The registers after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    pub(crate) count: u8,
    pub(crate) lba_mid: u8,
    pub(crate) lba_high: u8,
}

/// Runs a command without data and brings back the registers.
pub(crate) fn registers(disk: &File, ata: Ata) -> io::Result<Registers> {
    // Protocol 3: no data. CK_COND: the registers come back as sense data.
    let (_, sense) = run(disk, cdb(ata, 3, 0x20, 0), &mut [])?;
    registers_in(&sense).ok_or_else(|| io::Error::other("the disk's answer has no registers"))
}

/// Runs a command that brings one sector.
pub(crate) fn sector(disk: &File, ata: Ata) -> io::Result<[u8; SECTOR]> {
    // Protocol 4: PIO data in. From the device, in blocks, as the count says.
    let mut data = [0; SECTOR];
    let (status, _) = run(disk, cdb(ata, 4, 0x0e, 1), &mut data)?;
    match status {
        0 => Ok(data),
        _ => Err(io::Error::other("the disk refuses the command; is SMART switched off?")),
    }
}

fn cdb(ata: Ata, protocol: u8, flags: u8, count: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = 0x85;
    cdb[1] = protocol << 1;
    cdb[2] = flags;
    cdb[4] = ata.feature;
    cdb[6] = count;
    cdb[10] = ata.lba_mid;
    cdb[12] = ata.lba_high;
    cdb[14] = ata.command;
    cdb
}

/// Runs a command; its SCSI status and its sense data.
fn run(disk: &File, cdb: [u8; 16], data: &mut [u8]) -> io::Result<(u8, [u8; SENSE])> {
    let mut sense = [0; SENSE];
    let mut header = Header {
        interface: i32::from(b'S'),
        direction: if data.is_empty() { NO_DATA } else { FROM_DEVICE },
        command_length: cdb.len() as u8,
        sense_room: SENSE as u8,
        iovec_count: 0,
        data_length: data.len() as u32,
        data: data.as_mut_ptr().cast(),
        command: cdb.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms: TIMEOUT_MS,
        flags: 0,
        pack_id: 0,
        user: ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_length: 0,
        host_status: 0,
        driver_status: 0,
        residue: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: the header is the kernel's struct; its three pointers and lengths
    // are those of `cdb`, `data` and `sense`, which live until the call returns.
    unsafe { ioctl::sg_io(disk.as_raw_fd(), &raw mut header) }?;
    match header.host_status {
        0 => Ok((header.status, sense)),
        code => Err(io::Error::other(format!("the disk's host answers status {code:#x}"))),
    }
}

/// The ATA Status Return descriptor (SAT-4 12.2.2.6), or the fixed form of it.
fn registers_in(sense: &[u8; SENSE]) -> Option<Registers> {
    match sense[0] & 0x7f {
        0x72 if sense[8] == 0x09 => {
            Some(Registers { count: sense[13], lba_mid: sense[17], lba_high: sense[19] })
        }
        0x70 => Some(Registers { count: sense[6], lba_mid: sense[10], lba_high: sense[11] }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_the_kernels_size() {
        let pointers = 4 * size_of::<usize>();
        assert_eq!(size_of::<Header>(), if pointers == 32 { 88 } else { 64 });
    }

    #[test]
    fn registers_come_in_two_forms() {
        let told = Some(Registers { count: 0xff, lba_mid: 0xf4, lba_high: 0x2c });
        let mut sense = [0; SENSE];
        (sense[0], sense[8], sense[13], sense[17], sense[19]) = (0x72, 0x09, 0xff, 0xf4, 0x2c);
        assert_eq!(registers_in(&sense), told);
        let mut sense = [0; SENSE];
        (sense[0], sense[6], sense[10], sense[11]) = (0x70, 0xff, 0xf4, 0x2c);
        assert_eq!(registers_in(&sense), told);
        assert_eq!(registers_in(&[0; SENSE]), None);
    }
}
