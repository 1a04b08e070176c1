//! Network interfaces.
//!
//! Page: `hw-docs/nic.md`. Source: `/sys/class/net`
//! (Documentation/ABI/testing/sysfs-class-net), as seen from the network
//! namespace of whoever mounted `/sys`. An interface is physical if it has a
//! `device`; it must never be told from its name.

use purlin_core::inventory::{Nic, Part, Problem};

use crate::{Root, pci, probe::Probe};

const CLASS: &str = "/sys/class/net";

/// Reads the interfaces; `None` if a dump has no class directory.
pub fn read(root: &Root) -> (Option<Vec<Nic>>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Nic, root);
    let nics = read_nics(&mut probe);
    (nics, probe.finish())
}

fn read_nics(probe: &mut Probe<'_>) -> Option<Vec<Nic>> {
    let mut names = probe.devices(CLASS)?;
    names.retain(|name| is_interface(probe, &format!("{CLASS}/{name}")));
    Some(names.into_iter().map(|name| nic(probe, name)).collect())
}

/// Not so `bonding_masters`, a plain file among the interfaces. A link counts
/// even if a dump lacks what it leads to: the kernel showed the interface.
fn is_interface(probe: &mut Probe<'_>, path: &str) -> bool {
    probe.root.is_dir(path) || probe.link(path).is_some()
}

fn nic(probe: &mut Probe<'_>, name: String) -> Nic {
    let dir = format!("{CLASS}/{name}");
    let at = |file: &str| format!("{dir}/{file}");
    let pci = pci::behind(probe, &dir);
    Nic {
        physical: probe.root.exists(&at("device")),
        // All zeros is how an interface without an address says so.
        mac: probe.label(&at("address")).filter(|mac| mac.bytes().any(|b| !b":0".contains(&b))),
        state: probe.label(&at("operstate")),
        speed_mbit: probe.told(&at("speed")).filter(|speed| *speed > 0),
        mtu: probe.told(&at("mtu")),
        driver: probe.link_name(&at("device/driver")),
        node: pci::node_of(probe, &dir, pci.as_deref()),
        pci,
        name,
    }
}
