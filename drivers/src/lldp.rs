//! Who is at the other end of the cable: LLDP (IEEE 802.1AB).
//!
//! Page: `hw-docs/nic.md`. Two sources: what systemd-networkd has heard
//! (`/run/systemd/netif/lldp`), and our own [`Listener`]. It never sends.
//! Decoding is total: a frame is whatever a stranger sent.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{LinkAddr, recvfrom};
use purlin_core::inventory::{Neighbour, Nic};

use crate::{
    nic::mac,
    probe::{Probe, label, reason},
    sys,
};

const ETHERTYPE: u16 = 0x88cc;
const ETHERTYPE_VLAN: u16 = 0x8100;

/// Nearest bridge, the one group that every LLDP speaker sends to.
const NEAREST_BRIDGE: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e];

/// The largest frame looked at, in bytes: LLDP fits an Ethernet frame, which
/// some let be a jumbo one.
const MAX_FRAME: usize = 9216;

/// The most neighbours kept of one interface: one is the rule, some more
/// behind a switch that lets LLDP through.
const MAX_NEIGHBOURS: usize = 16;

/// The most management addresses kept of one neighbour.
const MAX_ADDRESSES: usize = 16;

/// The most frames taken in one poll: a flood must not hold the caller.
const MAX_FRAMES: usize = 256;

/// What a frame says, from its destination address on; `None` if it isn't LLDP
/// or lacks chassis, port or TTL, the three it must begin with (section 9.2.7).
pub fn decode(frame: &[u8]) -> Option<Neighbour> {
    let rest = match (word(frame, 12)?, word(frame, 16)) {
        (ETHERTYPE, _) => frame.get(14..)?,
        (ETHERTYPE_VLAN, Some(ETHERTYPE)) => frame.get(18..)?,
        _ => return None,
    };
    let mut tlvs = Tlvs(rest);
    let chassis = tlvs.next().filter(|(kind, _)| *kind == 1)?.1;
    let port = tlvs.next().filter(|(kind, _)| *kind == 2)?.1;
    let ttl = tlvs.next().filter(|(kind, _)| *kind == 3)?.1;
    let mut neighbour = Neighbour {
        chassis: id(chassis, &CHASSIS)?,
        port: id(port, &PORT)?,
        ttl_s: word(ttl, 0)?,
        ..Neighbour::default()
    };
    for (kind, value) in tlvs {
        add(&mut neighbour, kind, value);
    }
    Some(neighbour)
}

fn add(neighbour: &mut Neighbour, kind: u8, value: &[u8]) {
    const PORT_VLAN: [u8; 4] = [0x00, 0x80, 0xc2, 1];
    match kind {
        4 => neighbour.port_description = text(value),
        5 => neighbour.system_name = text(value),
        6 => neighbour.system_description = text(value),
        8 if neighbour.addresses.len() < MAX_ADDRESSES => {
            let length = usize::from(value.first().copied().unwrap_or_default());
            neighbour.addresses.extend(value.get(1..=length).and_then(address));
        }
        // 802.1Q annex D: 0 means that there is none.
        127 if value.starts_with(&PORT_VLAN) => {
            neighbour.vlan = word(value, 4).filter(|vlan| *vlan != 0);
        }
        _ => {}
    }
}

/// Type (7 bits), length (9 bits), value; type 0 ends them.
struct Tlvs<'a>(&'a [u8]);

impl<'a> Iterator for Tlvs<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = word(self.0, 0)?;
        let kind = (head >> 9) as u8;
        let end = 2 + usize::from(head & 0x1ff);
        let value = self.0.get(2..end)?;
        self.0 = &self.0[end..];
        (kind != 0).then_some((kind, value))
    }
}

/// Which subtypes of an id are a MAC address and which a network address; the
/// others are text (tables 8-2 and 8-3).
struct Subtypes {
    mac: u8,
    address: u8,
}

const CHASSIS: Subtypes = Subtypes { mac: 4, address: 5 };
const PORT: Subtypes = Subtypes { mac: 3, address: 4 };

fn id(value: &[u8], subtypes: &Subtypes) -> Option<String> {
    let (subtype, value) = value.split_first()?;
    let told = match *subtype {
        kind if kind == subtypes.mac && value.len() == 6 => mac(value),
        kind if kind == subtypes.address => address(value),
        _ => text(value),
    };
    told.or_else(|| mac(value))
}

/// A family (IANA address family numbers) and an address.
fn address(value: &[u8]) -> Option<String> {
    let (family, bytes) = value.split_first()?;
    match family {
        1 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string()),
        2 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()),
        6 => mac(bytes),
        _ => None,
    }
}

fn text(value: &[u8]) -> Option<String> {
    label(&String::from_utf8_lossy(value))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// What systemd-networkd keeps of an interface: each frame behind its length,
/// eight bytes, little-endian.
pub(crate) fn of_networkd(probe: &mut Probe<'_>, ifindex: u32) -> Vec<Neighbour> {
    let path = format!("/run/systemd/netif/lldp/{ifindex}");
    probe.root.bytes(&path).map(|bytes| kept(&bytes)).unwrap_or_default()
}

fn kept(mut bytes: &[u8]) -> Vec<Neighbour> {
    let mut neighbours = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some((frame, rest)) = rest.split_at_checked(length) else { break };
        neighbours.extend(decode(frame));
        bytes = rest;
    }
    neighbours.truncate(MAX_NEIGHBOURS);
    neighbours
}

/// Hears LLDP on physical interfaces. It waits for nothing and starts nothing;
/// whoever has it polls it.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    joined: BTreeMap<u32, String>,
    heard: BTreeMap<(u32, String, String), Heard>,
}

#[derive(Debug)]
struct Heard {
    neighbour: Neighbour,
    until: Duration,
}

impl Listener {
    /// Opens the socket; needs `CAP_NET_RAW`, and says why it can't be had.
    pub fn new() -> Result<Self, String> {
        let socket = sys::packet::open(ETHERTYPE)
            .map_err(|error| format!("packet socket: {}", reason(&error)))?;
        Ok(Self { socket, joined: BTreeMap::new(), heard: BTreeMap::new() })
    }

    /// Listens on the physical ones of `nics` from now on, and no more keeps
    /// what was heard on an interface that is gone. Returns what can't be
    /// listened on, and why.
    pub fn join(&mut self, nics: &[Nic]) -> Vec<String> {
        let physical = nics.iter().filter(|nic| nic.physical);
        let now: BTreeMap<u32, &str> =
            physical.filter_map(|nic| Some((nic.ifindex?, nic.name.as_str()))).collect();
        // The kernel drops the membership together with the interface.
        self.joined.retain(|index, _| now.contains_key(index));
        self.heard.retain(|(index, ..), _| now.contains_key(index));
        let mut refused = Vec::new();
        for (index, name) in now {
            match self.joined.entry(index) {
                Entry::Occupied(mut joined) => *joined.get_mut() = name.to_owned(),
                Entry::Vacant(joined) => {
                    match sys::packet::join(&self.socket, index, NEAREST_BRIDGE) {
                        Ok(()) => _ = joined.insert(name.to_owned()),
                        Err(error) => refused.push(format!("{name}: {}", reason(&error))),
                    }
                }
            }
        }
        refused
    }

    /// Takes what has come, and returns every neighbour by interface name whose
    /// time is not up at `now`: the time since any fixed moment.
    pub fn poll(&mut self, now: Duration) -> Vec<(String, Neighbour)> {
        let mut frame = [0; MAX_FRAME];
        for _ in 0..MAX_FRAMES {
            let Ok((length, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut frame)
            else {
                break;
            };
            let index = from.and_then(|from| u32::try_from(from.ifindex()).ok());
            if let (Some(index), Some(neighbour)) = (index, decode(&frame[..length])) {
                self.hear(index, neighbour, now);
            }
        }
        self.heard.retain(|_, heard| heard.until > now);
        let all = self.heard.iter();
        all.filter_map(|((index, ..), heard)| {
            Some((self.joined.get(index)?.clone(), heard.neighbour.clone()))
        })
        .collect()
    }

    fn hear(&mut self, index: u32, neighbour: Neighbour, now: Duration) {
        if !self.joined.contains_key(&index) {
            return;
        }
        let key = (index, neighbour.chassis.clone(), neighbour.port.clone());
        let known = self.heard.keys().filter(|(of, ..)| *of == index).count();
        if known < MAX_NEIGHBOURS || self.heard.contains_key(&key) {
            // A TTL of 0 takes it back: its time is up at once.
            let until = now + Duration::from_secs(neighbour.ttl_s.into());
            self.heard.insert(key, Heard { neighbour, until });
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn tlv(kind: u16, value: &[u8]) -> Vec<u8> {
        let head = kind << 9 | value.len() as u16;
        [&head.to_be_bytes(), value].concat()
    }

    fn frame(tlvs: &[Vec<u8>]) -> Vec<u8> {
        let mut frame = NEAREST_BRIDGE.to_vec();
        frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xcc]);
        frame.extend(tlvs.concat());
        frame.extend(tlv(0, &[]));
        frame
    }

    fn begin() -> [Vec<u8>; 3] {
        [tlv(1, &[4, 2, 0, 0, 0, 0, 1]), tlv(2, b"\x05Eth1/7"), tlv(3, &[0, 120])]
    }

    fn whole() -> Vec<u8> {
        let mut tlvs = begin().to_vec();
        tlvs.extend([
            tlv(4, b"to rack 7"),
            tlv(5, b"leaf-3"),
            tlv(6, b"Example OS\n4.2"),
            tlv(7, &[0, 20, 0, 4]),
            tlv(8, &[5, 1, 192, 0, 2, 9, 2, 0, 0, 0, 1, 0]),
            tlv(127, &[0, 0x80, 0xc2, 1, 0, 100]),
            tlv(127, &[0, 0x12, 0x0f, 1, 3]),
        ]);
        frame(&tlvs)
    }

    #[test]
    fn a_frame_tells_switch_and_port() {
        expect![[r#"
            Some(
                Neighbour {
                    chassis: "02:00:00:00:00:01",
                    port: "Eth1/7",
                    port_description: Some(
                        "to rack 7",
                    ),
                    system_name: Some(
                        "leaf-3",
                    ),
                    system_description: Some(
                        "Example OS 4.2",
                    ),
                    addresses: [
                        "192.0.2.9",
                    ],
                    vlan: Some(
                        100,
                    ),
                    ttl_s: 120,
                },
            )
        "#]]
        .assert_debug_eq(&decode(&whole()));
    }

    #[test]
    fn a_frame_without_its_first_three_is_none() {
        let [chassis, port, ttl] = begin();
        assert_eq!(decode(&frame(&[port.clone(), chassis.clone(), ttl])), None);
        assert_eq!(decode(&frame(&[chassis, port])), None);
        assert_eq!(decode(b"not LLDP at all, but long enough"), None);
    }

    #[test]
    fn no_frame_cut_or_changed_panics() {
        let whole = whole();
        for end in 0..whole.len() {
            decode(&whole[..end]);
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut frame = whole.clone();
                frame[at] ^= 1 << bit;
                decode(&frame);
            }
        }
    }

    #[test]
    fn what_networkd_keeps_is_read_up_to_where_it_breaks() {
        let whole = whole();
        let mut file = (whole.len() as u64).to_le_bytes().to_vec();
        file.extend(&whole);
        file.extend(u64::MAX.to_le_bytes());
        file.extend(b"cut");
        assert_eq!(kept(&file).len(), 1);
        assert_eq!(kept(&[]), []);
    }

    #[test]
    fn a_neighbour_is_kept_for_its_time() {
        // Any descriptor that never has a frame.
        let socket = OwnedFd::from(std::fs::File::open("/dev/null").expect("/dev/null"));
        let joined = BTreeMap::from([(3, "eth0".to_owned())]);
        let mut listener = Listener { socket, joined, heard: BTreeMap::new() };
        let neighbour = decode(&whole()).expect("a neighbour");
        let at = Duration::from_secs;
        listener.hear(3, neighbour.clone(), at(10));
        listener.hear(4, neighbour.clone(), at(10));
        assert_eq!(listener.poll(at(129)), [("eth0".to_owned(), neighbour.clone())]);
        assert_eq!(listener.poll(at(130)), []);

        listener.hear(3, neighbour.clone(), at(10));
        listener.hear(3, Neighbour { ttl_s: 0, ..neighbour.clone() }, at(11));
        assert_eq!(listener.poll(at(12)), []);

        for port in 0..100 {
            listener.hear(3, Neighbour { port: port.to_string(), ..neighbour.clone() }, at(20));
        }
        assert_eq!(listener.poll(at(21)).len(), MAX_NEIGHBOURS);
    }
}
