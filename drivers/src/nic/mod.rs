//! Network interfaces.
//!
//! Page: `hw-docs/nic.md`. Sources: `/sys/class/net`
//! (Documentation/ABI/testing/sysfs-class-net), as seen from the network
//! namespace of whoever mounted `/sys`, and on the live machine rtnetlink and
//! ethtool, as seen from this process's. An interface is physical if a device
//! stands behind it; it must never be told from its name.

mod blink;
mod ethtool;
mod function;
mod link;

use std::collections::BTreeMap;

use purlin_core::inventory::{Nic, Part, Problem, Queues, SwitchPort, Vf};

pub use self::blink::blink;
use self::{ethtool::Ethtool, link::Link};
use crate::{
    Root, lldp, pci,
    probe::{Probe, label, reason},
};

const CLASS: &str = "/sys/class/net";

/// `ARPHRD_LOOPBACK`, as `type` tells it.
const LOOPBACK: u32 = 772;

const PHYSICAL: &str = "physical";

/// Reads the interfaces; `None` if a dump has no class directory.
pub fn read(root: &Root) -> (Option<Vec<Nic>>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Nic, root);
    let nics = read_nics(&mut probe);
    (nics, probe.finish())
}

fn read_nics(probe: &mut Probe<'_>) -> Option<Vec<Nic>> {
    let mut names = probe.devices(CLASS)?;
    names.retain(|name| is_interface(probe, &format!("{CLASS}/{name}")));
    let mut live = probe.root.is_live().then(|| Live::open(probe));
    Some(names.into_iter().map(|name| nic(probe, live.as_mut(), name)).collect())
}

/// What the live machine's kernel is asked beside its files.
struct Live {
    links: BTreeMap<String, Link>,
    ethtool: Ethtool,
}

impl Live {
    fn open(probe: &mut Probe<'_>) -> Self {
        let links = link::links();
        let links = links.map_err(|error| probe.problem("rtnetlink", reason(&error)));
        Self { links: links.unwrap_or_default(), ethtool: Ethtool::open() }
    }
}

/// Not so `bonding_masters`, a plain file among the interfaces. A link counts
/// even if a dump lacks what it leads to: the kernel showed the interface.
fn is_interface(probe: &mut Probe<'_>, path: &str) -> bool {
    probe.root.is_dir(path) || probe.link(path).is_some()
}

fn nic(probe: &mut Probe<'_>, live: Option<&mut Live>, name: String) -> Nic {
    let dir = format!("{CLASS}/{name}");
    let mut nic = from_sysfs(probe, &dir, name);
    // The same name in another namespace is another interface.
    let found = live.and_then(|live| Some((live.links.remove(&nic.name)?, &mut live.ethtool)));
    let found = found.filter(|(link, _)| nic.ifindex == Some(link.ifindex));
    let link = found.as_ref().map(|(link, _)| link);

    nic.port = function::switch_port(probe, &dir);
    nic.kind = kind(probe, &dir, &nic, link);
    nic.physical = nic.kind == PHYSICAL;
    if nic.physical {
        function::fill(probe, &dir, &mut nic);
        nic.queues = queues(probe, &dir);
        if let Some(index) = nic.ifindex {
            nic.neighbours = lldp::of_networkd(probe, index);
        }
    }
    if let Some((link, ethtool)) = found {
        if nic.physical {
            ethtool.fill(probe, link.ifindex, &mut nic);
        }
        from_link(&mut nic, link);
    }
    nic
}

fn from_sysfs(probe: &mut Probe<'_>, dir: &str, name: String) -> Nic {
    let at = |file: &str| format!("{dir}/{file}");
    let pci = pci::behind(probe, dir);
    Nic {
        ifindex: probe.told(&at("ifindex")).filter(|index| *index > 0),
        // All zeros is how an interface without an address says so.
        mac: probe.label(&at("address")).filter(|mac| mac.bytes().any(|b| !b":0".contains(&b))),
        state: probe.label(&at("operstate")),
        carrier: probe.flag(&at("carrier")),
        speed_mbit: probe.told(&at("speed")).filter(|speed| *speed > 0),
        duplex: probe.label(&at("duplex")).filter(|duplex| duplex != "unknown"),
        mtu: probe.told(&at("mtu")),
        driver: probe.link_name(&at("device/driver")),
        node: pci::node_of(probe, dir, pci.as_deref()),
        carrier_down_count: probe.number(&at("carrier_down_count")),
        rx_crc_errors: probe.number(&at("statistics/rx_crc_errors")),
        pci,
        name,
        ..Nic::default()
    }
}

fn from_link(nic: &mut Nic, link: Link) {
    nic.permanent_mac = link.permanent_mac;
    for told in link.vfs {
        add_function(nic, told);
    }
}

/// Joins what the PF says of a VF to the function that sysfs shows.
fn add_function(nic: &mut Nic, told: Vf) {
    let Some(sriov) = &mut nic.sriov else { return };
    match sriov.vfs.iter_mut().find(|vf| vf.index == told.index) {
        Some(vf) => *vf = Vf { pci: vf.pci.take(), ..told },
        None => sriov.vfs.push(told),
    }
}

/// What it is. A device behind it goes first: an InfiniBand port has a kind of
/// its own and is hardware all the same.
fn kind(probe: &mut Probe<'_>, dir: &str, nic: &Nic, link: Option<&Link>) -> String {
    let at = |file: &str| format!("{dir}/{file}");
    if probe.root.exists(&at("device")) || nic.pci.is_some() {
        return if stands_for_a_function(nic.port.as_ref()) { "representor" } else { PHYSICAL }
            .into();
    }
    let told = link.and_then(|link| link.kind.clone()).or_else(|| device_type(probe, dir));
    if let Some(kind) = told.as_deref().and_then(label) {
        return kind;
    }
    // What an interface that doesn't say its type is told by.
    let marks = [
        (at("bridge"), "bridge"),
        (at("bonding"), "bond"),
        (at("tun_flags"), "tun"),
        (format!("/proc/net/vlan/{}", nic.name), "vlan"),
    ];
    if let Some((_, kind)) = marks.iter().find(|(mark, _)| probe.root.exists(mark)) {
        return (*kind).into();
    }
    match probe.told(&at("type")) {
        Some(LOOPBACK) => "loopback".into(),
        _ if is_one_end(probe, dir, nic.ifindex) => "veth".into(),
        _ => "virtual".into(),
    }
}

fn stands_for_a_function(port: Option<&SwitchPort>) -> bool {
    port.is_some_and(|port| port.pf.is_some())
}

/// `DEVTYPE=vlan`, which bridges, bonds, VLANs, tunnels and others tell.
fn device_type(probe: &mut Probe<'_>, dir: &str) -> Option<String> {
    let uevent = probe.text(&format!("{dir}/uevent"))?;
    uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE=").map(str::to_owned))
}

/// An end of a veth is linked to another interface that doesn't lie below it.
fn is_one_end(probe: &mut Probe<'_>, dir: &str, own: Option<u32>) -> bool {
    let peer = probe.told(&format!("{dir}/iflink")).filter(|peer| *peer > 0);
    let names = probe.names(dir).unwrap_or_default();
    own.is_some()
        && peer.is_some_and(|peer| Some(peer) != own)
        && !names.iter().any(|name| name.starts_with("lower_"))
}

/// The queues that sysfs shows; ethtool's word for them goes before it.
fn queues(probe: &mut Probe<'_>, dir: &str) -> Option<Queues> {
    let names = probe.names(&format!("{dir}/queues"))?;
    let count =
        |prefix| u32::try_from(names.iter().filter(|it| it.starts_with(prefix)).count()).ok();
    Some(Queues { rx: count("rx-"), tx: count("tx-"), ..Queues::default() })
}

/// Bytes as a MAC address; `None` for one that is all zeros, or empty.
pub(crate) fn mac(bytes: &[u8]) -> Option<String> {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.iter().any(|byte| *byte != 0).then(|| hex.join(":"))
}
