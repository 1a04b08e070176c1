//! `SIOCETHTOOL`, for the two questions that have no netlink form on the
//! kernels we meet (`linux/ethtool.h`): `ETHTOOL_GDRVINFO`, and
//! `ETHTOOL_GRSSH`, whose netlink form came with 6.2. Both only ask, and
//! neither needs a privilege. A third has a light blink (`ETHTOOL_PHYS_ID`), which does.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

const GDRVINFO: u32 = 0x03;
const GRSSH: u32 = 0x46;
const PHYS_ID: u32 = 0x1c;

nix::ioctl_readwrite_bad!(siocethtool, libc::SIOCETHTOOL, libc::ifreq);

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct RawDriver {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    counts: [u32; 5],
}

/// `struct ethtool_value`.
#[repr(C)]
struct RawValue {
    command: u32,
    data: u32,
}

/// `struct ethtool_rxfh`, without its tables: with both sizes 0 the kernel
/// tells the sizes and the hash function, and copies no table.
#[repr(C)]
struct RawRss {
    command: u32,
    context: u32,
    table: u32,
    key: u32,
    function: u8,
    reserved: [u8; 7],
}

/// Driver and firmware, as NUL-padded texts.
pub(crate) struct Driver {
    pub(crate) name: [u8; 32],
    pub(crate) version: [u8; 32],
    pub(crate) firmware: [u8; 32],
}

/// Receive side scaling: entries, bytes and a bit of `RSS_HASH_FUNCS`.
pub(crate) struct Rss {
    pub(crate) table: u32,
    pub(crate) key: u32,
    pub(crate) function: u8,
}

/// A socket of this network namespace, to ask about its interfaces.
pub(crate) struct Ethtool(OwnedFd);

impl Ethtool {
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Self(socket(AddressFamily::Inet, SockType::Datagram, flags, None)?))
    }

    pub(crate) fn driver(&self, interface: &str) -> io::Result<Driver> {
        let empty = [0; 32];
        let mut raw = RawDriver {
            command: GDRVINFO,
            driver: empty,
            version: empty,
            firmware: empty,
            bus: empty,
            rom: empty,
            reserved: [0; 12],
            counts: [0; 5],
        };
        // SAFETY: `RawDriver` is the structure that ETHTOOL_GDRVINFO fills,
        // of the same size, and any bytes are a valid value of it.
        unsafe { self.ask(interface, &mut raw) }?;
        Ok(Driver { name: raw.driver, version: raw.version, firmware: raw.firmware })
    }

    pub(crate) fn rss(&self, interface: &str) -> io::Result<Rss> {
        let mut raw =
            RawRss { command: GRSSH, context: 0, table: 0, key: 0, function: 0, reserved: [0; 7] };
        // SAFETY: `RawRss` is the head of the structure that ETHTOOL_GRSSH
        // fills; with both sizes 0 the kernel writes nothing behind the head.
        unsafe { self.ask(interface, &mut raw) }?;
        Ok(Rss { table: raw.table, key: raw.key, function: raw.function })
    }

    /// Has the port's light blink for so many seconds, and waits for the end.
    pub(crate) fn identify(&self, interface: &str, seconds: u32) -> io::Result<()> {
        let mut raw = RawValue { command: PHYS_ID, data: seconds };
        // SAFETY: `RawValue` is the structure that ETHTOOL_PHYS_ID reads, of the same size.
        unsafe { self.ask(interface, &mut raw) }
    }

    /// # Safety
    /// `T` must be what the command at its start makes the kernel fill.
    unsafe fn ask<T>(&self, interface: &str, raw: &mut T) -> io::Result<()> {
        // SAFETY: all zeros is a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays 0; a longer name is no interface's.
        if interface.len() >= request.ifr_name.len() {
            return Err(io::ErrorKind::NotFound.into());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = std::ptr::from_mut(raw).cast();
        // SAFETY: the name ends in NUL, and the data is valid for the call, of
        // the size the command wants by this function's own condition.
        unsafe { siocethtool(self.0.as_raw_fd(), &mut request) }?;
        Ok(())
    }
}
