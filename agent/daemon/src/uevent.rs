//! What the kernel says of its own accord: uevents, and which parts each of them
//! makes worth reading again, and what it says is gone. Nothing here reads hardware.
//!
//! Source: `NETLINK_KOBJECT_UEVENT`, group 1, which needs no privilege. A network
//! interface is told in its own network namespace alone.

use std::{io, os::fd::AsRawFd};

use kobject_uevent::{ActionType, UEvent};
use netlink_sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_KOBJECT_UEVENT,
};
use nix::errno::Errno;
use purlin_core::inventory::Part;

/// The kernel's own group; in group 2 udev repeats them.
const KERNEL_GROUP: u32 = 1;
/// The kernel's port.
const KERNEL: u32 = 0;

/// The socket.
pub struct Uevents {
    socket: TokioSocket,
}

/// What is worth reading again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Parts.
    pub parts: &'static [Part],
    /// What was removed, by its kernel name (`eth0`, `0000:01:00.0`).
    pub removed: Option<String>,
}

impl Uevents {
    /// Listens from now on.
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_KOBJECT_UEVENT)?;
        socket.socket_mut().bind(&SocketAddr::new(0, KERNEL_GROUP))?;
        Ok(Self { socket })
    }

    /// The next event that matters. Nothing is lost when it is dropped while it
    /// waits: what has not been received stays in the socket.
    pub async fn next(&mut self) -> io::Result<Hint> {
        loop {
            match self.socket.recv_from_full().await {
                Ok((bytes, from)) if from.port_number() == KERNEL => {
                    if let Some(hint) = UEvent::from_netlink_packet(&bytes).ok().and_then(hint) {
                        return Ok(hint);
                    }
                }
                Ok(_) => {}
                // More came than the socket holds: some of it is lost for ever.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    tracing::info!("the kernel told more than was taken: everything is read again");
                    return Ok(Hint { parts: &Part::ALL, removed: None });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl std::fmt::Debug for Uevents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Uevents").field(&self.socket.socket_ref().as_raw_fd()).finish()
    }
}

fn hint(event: UEvent) -> Option<Hint> {
    let parts = parts(&event.subsystem)?;
    let name = || Some(event.devpath.file_name()?.to_string_lossy().into_owned());
    let removed = if event.action == ActionType::Remove { name() } else { None };
    Some(Hint { parts, removed })
}

/// The parts that a subsystem's devices show in; `None` for those that show in none.
fn parts(subsystem: &str) -> Option<&'static [Part]> {
    use Part::{Cpu, Gpu, Memory, Nic, Numa, Pci, Platform, Sensor, Storage};
    Some(match subsystem {
        "cpu" => &[Cpu, Numa],
        "memory" | "node" | "dax" | "cxl" => &[Numa, Memory],
        // What it is, its class will tell only when it is read.
        "pci" => &[Pci, Nic, Storage, Gpu],
        "net" => &[Nic],
        "block" | "nvme" | "nvme-subsystem" | "scsi" | "scsi_device" => &[Storage],
        "drm" => &[Gpu],
        "hwmon" | "thermal" => &[Sensor],
        "edac" => &[Memory],
        "tpm" | "watchdog" | "ipmi" | "powercap" => &[Platform],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(action: &str, subsystem: &str) -> Option<Hint> {
        let path = "/devices/pci0000:00/0000:00:03.0/net/eth0";
        let packet = format!(
            "{action}@{path}\0ACTION={action}\0DEVPATH={path}\0SUBSYSTEM={subsystem}\0SEQNUM=7\0"
        );
        UEvent::from_netlink_packet(packet.as_bytes()).ok().and_then(hint)
    }

    #[test]
    fn an_event_names_the_parts_to_read_again() {
        let cpu: &[Part] = &[Part::Cpu, Part::Numa];
        assert_eq!(told("offline", "cpu"), Some(Hint { parts: cpu, removed: None }));
        assert_eq!(told("add", "cpu"), Some(Hint { parts: cpu, removed: None }));
        let eth0 = Some("eth0".into());
        assert_eq!(told("remove", "net"), Some(Hint { parts: &[Part::Nic], removed: eth0 }));
        // A container's queues come by the hundred.
        assert_eq!(told("add", "queues"), None);
    }

    #[test]
    fn what_is_no_uevent_is_ignored() {
        for packet in [&b""[..], b"\0", b"libudev\0\xfe\xed\xca\xfe", b"add@\0SUBSYSTEM"] {
            assert_eq!(UEvent::from_netlink_packet(packet).ok().and_then(hint), None);
        }
    }
}
