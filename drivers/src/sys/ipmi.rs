//! Commands to a BMC through the kernel's IPMI driver (include/uapi/linux/ipmi.h,
//! Documentation/driver-api/ipmi.rst).

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
    ptr,
    time::Duration,
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// The longest answer that any interface to a BMC can carry.
const MAX_ANSWER: usize = 272;

const SYSTEM_INTERFACE: i32 = 0x0c;
/// The channel of the system interface.
const BMC_CHANNEL: i16 = 0x0f;
/// An answer to a command, among all that may be received.
const IS_ANSWER: i32 = 1;

/// `struct ipmi_system_interface_addr`.
#[repr(C)]
struct Address {
    kind: i32,
    channel: i16,
    lun: u8,
}

/// `struct ipmi_msg`.
#[repr(C)]
struct Message {
    netfn: u8,
    command: u8,
    length: u16,
    data: *mut u8,
}

/// `struct ipmi_req`.
#[repr(C)]
struct Request {
    address: *mut Address,
    address_length: u32,
    id: libc::c_long,
    message: Message,
}

/// `struct ipmi_recv`.
#[repr(C)]
struct Received {
    kind: i32,
    address: *mut Address,
    address_length: u32,
    id: libc::c_long,
    message: Message,
}

mod ioctl {
    nix::ioctl_read!(send_command, b'i', 13, super::Request);
    nix::ioctl_readwrite!(receive_truncated, b'i', 11, super::Received);
}

/// Asks the BMC one thing. What it answers begins with the completion code. `id` tells
/// this answer from a late one to an earlier request.
pub(crate) fn ask(
    device: &File,
    id: u32,
    (netfn, lun, command): (u8, u8, u8),
    data: &[u8],
    deadline: Duration,
) -> io::Result<Vec<u8>> {
    let mut data = data.to_vec();
    let mut address = Address { kind: SYSTEM_INTERFACE, channel: BMC_CHANNEL, lun };
    let length = u16::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut request = Request {
        address: &raw mut address,
        address_length: size_of::<Address>() as u32,
        id: id.into(),
        message: Message { netfn, command, length, data: data.as_mut_ptr() },
    };
    // SAFETY: the request is the kernel's struct; its two pointers and lengths are those of
    // `address` and `data`, which live until the call returns and are only read by it.
    unsafe { ioctl::send_command(device.as_raw_fd(), &raw mut request) }?;
    loop {
        wait(device, deadline)?;
        let (received, answer) = receive(device)?;
        if (received.0, received.1) == (IS_ANSWER, id.into()) {
            return Ok(answer);
        }
    }
}

fn wait(device: &File, deadline: Duration) -> io::Result<()> {
    let timeout = PollTimeout::try_from(deadline).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(device.as_fd(), PollFlags::POLLIN)], timeout)? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "the BMC does not answer")),
        _ => Ok(()),
    }
}

/// What has come: its kind and id, and its bytes.
fn receive(device: &File) -> io::Result<((i32, i64), Vec<u8>)> {
    let mut answer = vec![0; MAX_ANSWER];
    // The kernel's largest address is 32 bytes.
    let mut address = [0_u64; 4];
    let mut received = Received {
        kind: 0,
        address: (&raw mut address).cast(),
        address_length: size_of_val(&address) as u32,
        id: 0,
        message: Message {
            netfn: 0,
            command: 0,
            length: MAX_ANSWER as u16,
            data: answer.as_mut_ptr(),
        },
    };
    // SAFETY: the struct is the kernel's; its two pointers and lengths are those of
    // `address` and `answer`, which live until the call returns, and no more than that is
    // written to them.
    match unsafe { ioctl::receive_truncated(device.as_raw_fd(), &raw mut received) } {
        Ok(_) | Err(nix::errno::Errno::EMSGSIZE) => {}
        Err(error) => return Err(error.into()),
    }
    received.message.data = ptr::null_mut();
    answer.truncate(received.message.length.into());
    #[allow(clippy::useless_conversion, reason = "c_long is not i64 everywhere")]
    Ok(((received.kind, received.id.into()), answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structs_have_the_kernels_sizes() {
        assert_eq!((size_of::<Request>(), size_of::<Received>()), (40, 48));
        assert_eq!(size_of::<Address>(), 8);
    }

    #[test]
    fn what_is_no_bmc_says_so() {
        let file = File::open("/dev/null").expect("a device");
        assert!(ask(&file, 1, (6, 0, 1), &[], Duration::from_millis(10)).is_err());
    }
}
