//! What rtnetlink tells of interfaces (rtnetlink(7), `linux/if_link.h`).
//!
//! One dump of the live machine's links, seen from this process's own network
//! namespace. It must never be asked for a dump of another machine.

use std::{collections::BTreeMap, io};

use purlin_core::inventory::Vf;

use super::mac;
use crate::netlink::{DUMP, Netlink, attribute, attributes, list, number, text, u32_at};

const NETLINK_ROUTE: isize = 0;
const RTM_GETLINK: u16 = 18;
/// `struct ifinfomsg`; the index is at 4.
const IFINFOMSG: usize = 16;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_PERM_ADDRESS: u16 = 54;
const RTEXT_FILTER_VF: u32 = 1;

const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_VLAN: u16 = 2;
const IFLA_VF_SPOOFCHK: u16 = 4;
const IFLA_VF_TRUST: u16 = 9;
/// A driver that doesn't tell a flag leaves this in it.
const UNTOLD: u32 = u32::MAX;

/// The most virtual functions kept: a PF's `TotalVFs` field has 16 bits, and
/// no NIC has more than some hundreds.
const MAX_VFS: usize = 4096;

/// What rtnetlink knows of one interface and sysfs doesn't.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Link {
    pub(super) ifindex: u32,
    pub(super) kind: Option<String>,
    pub(super) permanent_mac: Option<String>,
    pub(super) vfs: Vec<Vf>,
}

/// All links by name.
pub(super) fn links() -> io::Result<BTreeMap<String, Link>> {
    let mut request = vec![0; IFINFOMSG];
    request.extend(attribute(IFLA_EXT_MASK, &RTEXT_FILTER_VF.to_ne_bytes()));
    let answers = Netlink::open(NETLINK_ROUTE)?.ask(RTM_GETLINK, DUMP, &request)?;
    Ok(answers.iter().filter_map(|answer| link(answer)).collect())
}

fn link(message: &[u8]) -> Option<(String, Link)> {
    let found = attributes(message.get(IFINFOMSG..)?);
    let info = found.get(&IFLA_LINKINFO).map(|info| attributes(info)).unwrap_or_default();
    let link = Link {
        ifindex: u32_at(message, 4)?,
        kind: info.get(&IFLA_INFO_KIND).map(|kind| text(kind)),
        permanent_mac: found.get(&IFLA_PERM_ADDRESS).and_then(|address| mac(address)),
        vfs: found.get(&IFLA_VFINFO_LIST).map(|vfs| virtual_functions(vfs)).unwrap_or_default(),
    };
    Some((text(found.get(&IFLA_IFNAME)?), link))
}

fn virtual_functions(nested: &[u8]) -> Vec<Vf> {
    let one = |(_, attributes)| virtual_function(attributes);
    list(nested).into_iter().take(MAX_VFS).filter_map(one).collect()
}

/// Each attribute is a structure that starts with the function's index.
fn virtual_function(nested: &[u8]) -> Option<Vf> {
    let found = attributes(nested);
    let second = |kind| found.get(&kind).and_then(|value| u32_at(value, 4));
    let flag = |kind| second(kind).filter(|flag| *flag != UNTOLD).map(|flag| flag != 0);
    let address = found.get(&IFLA_VF_MAC)?;
    Some(Vf {
        index: number(address)?,
        pci: None,
        mac: address.get(4..10).and_then(mac),
        vlan: second(IFLA_VF_VLAN),
        trust: flag(IFLA_VF_TRUST),
        spoof_check: flag(IFLA_VF_SPOOFCHK),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::nested;

    fn vf(index: u32, kind: u16, rest: &[u8]) -> Vec<u8> {
        attribute(kind, &[&index.to_ne_bytes(), rest].concat())
    }

    #[test]
    fn a_message_tells_kind_permanent_address_and_functions() {
        let mut address = [0; 32];
        address[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        let function = nested(
            1,
            &[
                vf(3, IFLA_VF_MAC, &address),
                vf(3, IFLA_VF_VLAN, &[100u32.to_ne_bytes(), [0; 4]].concat()),
                vf(3, IFLA_VF_SPOOFCHK, &1u32.to_ne_bytes()),
                vf(3, IFLA_VF_TRUST, &UNTOLD.to_ne_bytes()),
            ],
        );
        let mut message = vec![0; IFINFOMSG];
        message[4..8].copy_from_slice(&7u32.to_ne_bytes());
        message.extend(attribute(IFLA_IFNAME, b"ens1\0"));
        message.extend(nested(IFLA_LINKINFO, &[attribute(IFLA_INFO_KIND, b"bond\0")]));
        message.extend(attribute(IFLA_PERM_ADDRESS, &[2, 0, 0, 0, 0, 1]));
        message.extend(nested(IFLA_VFINFO_LIST, &[function]));
        let (name, link) = link(&message).expect("a link");
        assert_eq!((name.as_str(), link.ifindex), ("ens1", 7));
        assert_eq!(link.kind.as_deref(), Some("bond"));
        assert_eq!(link.permanent_mac.as_deref(), Some("02:00:00:00:00:01"));
        let expected = Vf {
            index: 3,
            pci: None,
            mac: Some("02:00:00:00:00:09".into()),
            vlan: Some(100),
            trust: None,
            spoof_check: Some(true),
        };
        assert_eq!(link.vfs, [expected]);
    }
}
