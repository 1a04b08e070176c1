//! What ethtool tells of one interface: netlink where it has a form
//! (Documentation/networking/ethtool-netlink.rst), `SIOCETHTOOL` where not.
//!
//! Names of link modes and the like are the kernel's own, sent along with the
//! bits. A NIC that doesn't know a question, and a user who may not ask it,
//! are unknown, not a problem.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use nix::errno::Errno;
use purlin_core::inventory::{Fec, LinkModes, Nic, Queues, Rings, Rss, Transceiver};

use crate::{
    netlink::{Netlink, attribute, attributes, list, nested, number, text, u16_at, u32_at},
    probe::{Probe, label, reason},
    sys,
    transceiver::{self, Page, Pages},
};

/// How long all questions about all interfaces may take together. A module's
/// memory comes over a slow bus, about 15 ms a page; the whole part has 5 s.
const BUDGET: Duration = Duration::from_secs(3);

const NETLINK_GENERIC: isize = 16;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const GENL_HEADER: usize = 4;

const LINKMODES_GET: u8 = 4;
const RINGS_GET: u8 = 15;
const CHANNELS_GET: u8 = 17;
const TSINFO_GET: u8 = 25;
const FEC_GET: u8 = 29;
const MODULE_EEPROM_GET: u8 = 31;

/// Every request and reply starts with it.
const HEADER: u16 = 1;
const HEADER_DEV_INDEX: u16 = 1;

/// Bits of `enum ethtool_link_mode_bit_indices`: the active FEC is told by one.
const FEC_BITS: [(u32, &str); 4] = [(49, "None"), (50, "RS"), (51, "BASER"), (74, "LLRS")];

/// `RSS_HASH_FUNCS`, by bit.
const HASHES: [(u8, &str); 3] = [(1, "toeplitz"), (2, "xor"), (4, "crc32")];

pub(super) struct Ethtool {
    netlink: Option<(Netlink, u16)>,
    ioctl: Option<sys::ethtool::Ethtool>,
    until: Instant,
}

impl Ethtool {
    pub(super) fn open() -> Self {
        let netlink = || {
            let mut netlink = Netlink::open(NETLINK_GENERIC).ok()?;
            let family = family(&mut netlink)?;
            Some((netlink, family))
        };
        Self {
            netlink: netlink(),
            ioctl: sys::ethtool::Ethtool::open().ok(),
            until: Instant::now() + BUDGET,
        }
    }

    /// Adds to `nic` what can be learned about the interface `index`.
    pub(super) fn fill(&mut self, probe: &mut Probe<'_>, index: u32, nic: &mut Nic) {
        if let Some(driver) = self.ioctl.as_ref().and_then(|it| it.driver(&nic.name).ok()) {
            nic.driver = nic.driver.take().or_else(|| label(&text(&driver.name)));
            nic.driver_version = label(&text(&driver.version));
            nic.firmware = label(&text(&driver.firmware)).filter(|it| it != "N/A");
        }
        nic.rss = self.ioctl.as_ref().and_then(|it| it.rss(&nic.name).ok()).and_then(rss);

        let at = format!("ethtool {}", nic.name);
        let mut get = |command| self.reply(probe, &at, command, index);
        if let Some(reply) = get(LINKMODES_GET) {
            let reply = attributes(&reply);
            nic.autoneg = reply.get(&2).and_then(|it| number(it)).map(|it| it != 0);
            nic.link_modes = reply.get(&3).and_then(|modes| link_modes(modes));
        }
        if let Some(reply) = get(RINGS_GET) {
            nic.rings = Some(rings(&attributes(&reply)));
        }
        if let Some(reply) = get(CHANNELS_GET) {
            nic.queues = Some(queues(&attributes(&reply)));
        }
        if let Some(reply) = get(TSINFO_GET) {
            nic.timestamping = attributes(&reply).get(&2).map(|set| names(set)).unwrap_or_default();
        }
        nic.fec = get(FEC_GET).and_then(|reply| fec(&attributes(&reply)));
        match self.transceiver(index) {
            Ok(module) => nic.transceiver = module,
            // So answers a port that is not there, too; this one just answered.
            Err(error) => nic.cage_empty = is_absent(&error) && nic.link_modes.is_some(),
        }
    }

    /// The attributes of the reply to a plain question.
    fn reply(
        &mut self,
        probe: &mut Probe<'_>,
        at: &str,
        command: u8,
        index: u32,
    ) -> Option<Vec<u8>> {
        match self.ask(command, index, &[]) {
            Ok(reply) => reply,
            Err(error) => {
                if !is_no_answer(&error) {
                    probe.problem(at, reason(&error));
                }
                None
            }
        }
    }

    fn ask(&mut self, command: u8, index: u32, more: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let Some((netlink, family)) = &mut self.netlink else { return Ok(None) };
        if Instant::now() > self.until {
            let what =
                format!("not asked: the limit of {} s for all NICs is used up", BUDGET.as_secs());
            return Err(io::Error::other(what));
        }
        let mut payload = vec![command, 1, 0, 0];
        payload.extend(nested(HEADER, &[attribute(HEADER_DEV_INDEX, &index.to_ne_bytes())]));
        payload.extend(more);
        let mut answers = netlink.ask(*family, 0, &payload)?.into_iter();
        Ok(answers.next().and_then(|answer| Some(answer.get(GENL_HEADER..)?.to_vec())))
    }

    /// The module in the cage. An empty cage, a NIC without one and a user who
    /// may not look answer in many ways; only [`is_absent`] is sure.
    fn transceiver(&mut self, index: u32) -> io::Result<Option<Transceiver>> {
        let mut pages = Pages::default();
        let Some(lower) = self.page(index, Page::LOWER)? else { return Ok(None) };
        pages.put(Page::LOWER, &lower);
        for page in transceiver::wanted(&pages) {
            if let Ok(Some(bytes)) = self.page(index, page) {
                pages.put(page, &bytes);
            }
        }
        Ok(transceiver::decode(&pages))
    }

    fn page(&mut self, index: u32, page: Page) -> io::Result<Option<Vec<u8>>> {
        const LENGTH: u32 = 128;
        let request = [
            attribute(2, &page.offset().to_ne_bytes()),
            attribute(3, &LENGTH.to_ne_bytes()),
            attribute(4, &[page.page]),
            attribute(5, &[0]),
            attribute(6, &[page.device]),
        ];
        let reply = self.ask(MODULE_EEPROM_GET, index, &request.concat())?;
        Ok(reply.and_then(|reply| Some(attributes(&reply).get(&7)?.to_vec())))
    }
}

fn family(netlink: &mut Netlink) -> Option<u16> {
    let mut payload = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
    payload.extend(attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0"));
    let answers = netlink.ask(GENL_ID_CTRL, 0, &payload).ok()?;
    let found = attributes(answers.first()?.get(GENL_HEADER..)?);
    u16_at(found.get(&CTRL_ATTR_FAMILY_ID)?, 0)
}

/// What the kernel's SFP driver answers for an empty cage.
fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENODEV as i32)
}

/// What a NIC or kernel that doesn't know the question answers, one that was
/// just pulled out, and one that may not be asked by this user.
fn is_no_answer(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENODEV | Errno::EPERM | Errno::EACCES)
    )
}

/// `None` for a NIC that has neither table nor key: it knows the question and
/// doesn't scale.
fn rss(raw: sys::ethtool::Rss) -> Option<Rss> {
    let function = HASHES.iter().find(|(bit, _)| raw.function == *bit);
    let rss =
        Rss { table: raw.table, key: raw.key, function: function.map(|(_, name)| (*name).into()) };
    (raw.table > 0 || raw.key > 0).then_some(rss)
}

type Attributes<'a> = BTreeMap<u16, &'a [u8]>;

fn count(reply: &Attributes<'_>, kind: u16) -> Option<u32> {
    u32_at(reply.get(&kind)?, 0)
}

fn rings(reply: &Attributes<'_>) -> Rings {
    let count = |kind| count(reply, kind);
    Rings { rx_max: count(2), tx_max: count(5), rx: count(6), tx: count(9) }
}

fn queues(reply: &Attributes<'_>) -> Queues {
    let count = |kind| count(reply, kind);
    Queues {
        rx_max: count(2),
        tx_max: count(3),
        combined_max: count(5),
        rx: count(6),
        tx: count(7),
        combined: count(9),
    }
}

/// `None` where the NIC knows no FEC at all.
fn fec(reply: &Attributes<'_>) -> Option<Fec> {
    let active = count(reply, 4);
    let name = |bit| FEC_BITS.iter().find(|(known, _)| *known == bit).map(|(_, name)| *name);
    let fec = Fec {
        auto: reply.get(&3).and_then(|it| number(it)).map(|auto| auto != 0),
        configured: reply.get(&2).map(|set| names(set)).unwrap_or_default(),
        active: active.and_then(name).map(str::to_owned),
    };
    (fec.active.is_some() || !fec.configured.is_empty()).then_some(fec)
}

/// The mask is what is supported, the value what is advertised. Ports, pause
/// and FEC are bits of the same set; speeds have `base` in their names. A
/// virtual NIC has none of them.
fn link_modes(set: &[u8]) -> Option<LinkModes> {
    let modes = || bits(set).into_iter().filter(|(name, _)| name.contains("base"));
    let modes = LinkModes {
        supported: modes().map(|(name, _)| name).collect(),
        advertised: modes().filter(|(_, set)| *set).map(|(name, _)| name).collect(),
    };
    (!modes.supported.is_empty()).then_some(modes)
}

/// The names of the bits set.
fn names(set: &[u8]) -> Vec<String> {
    bits(set).into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
}

/// The bits of a set that was sent with names, and whether each is set. A set
/// without a mask lists only those that are.
fn bits(set: &[u8]) -> Vec<(String, bool)> {
    const NOMASK: u16 = 1;
    const BITS: u16 = 3;
    const BIT_NAME: u16 = 2;
    const BIT_VALUE: u16 = 3;
    let set = attributes(set);
    let all = set.contains_key(&NOMASK);
    let bit = |(_, bit)| {
        let bit = attributes(bit);
        let name = label(&text(bit.get(&BIT_NAME)?))?;
        Some((name, all || bit.contains_key(&BIT_VALUE)))
    };
    set.get(&BITS).map(|bits| list(bits)).unwrap_or_default().into_iter().filter_map(bit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bit(name: &str, set: bool) -> Vec<u8> {
        let mut bit = vec![attribute(2, format!("{name}\0").as_bytes())];
        if set {
            bit.push(attribute(3, &[]));
        }
        nested(1, &bit)
    }

    #[test]
    fn a_set_with_a_mask_tells_supported_from_advertised() {
        let bits = [bit("TP", true), bit("1000baseT/Full", true), bit("10000baseT/Full", false)];
        let modes = link_modes(&nested(3, &bits)).expect("link modes");
        assert_eq!(modes.supported, ["1000baseT/Full", "10000baseT/Full"]);
        assert_eq!(modes.advertised, ["1000baseT/Full"]);
    }

    #[test]
    fn a_set_without_a_mask_is_what_is_set() {
        let modes =
            [attribute(1, &[]), nested(3, &[bit("RS", false), bit("BASER", false)])].concat();
        let reply = [attribute(2, &modes), attribute(3, &[1]), attribute(4, &50u32.to_ne_bytes())];
        let fec = fec(&attributes(&reply.concat())).expect("a FEC");
        assert_eq!((fec.auto, fec.active.as_deref()), (Some(true), Some("RS")));
        assert_eq!(fec.configured, ["RS", "BASER"]);
    }

    #[test]
    fn rings_and_channels_are_told_by_their_attributes() {
        let words = |kinds: &[u16]| -> Vec<u8> {
            kinds
                .iter()
                .flat_map(|kind| attribute(*kind, &u32::from(*kind).to_ne_bytes()))
                .collect()
        };
        let reply = words(&[2, 5, 6, 9]);
        let rings = rings(&attributes(&reply));
        assert_eq!(
            (rings.rx_max, rings.tx_max, rings.rx, rings.tx),
            (Some(2), Some(5), Some(6), Some(9))
        );
        let queues = queues(&attributes(&reply));
        assert_eq!((queues.combined, queues.combined_max, queues.tx), (Some(9), Some(5), None));
    }

    #[test]
    fn a_nic_without_table_and_key_does_not_scale() {
        let raw = |table, key, function| sys::ethtool::Rss { table, key, function };
        assert_eq!(rss(raw(0, 0, 1)), None);
        let rss_of = |function| rss(raw(128, 40, function)).expect("a table").function;
        assert_eq!(rss_of(1).as_deref(), Some("toeplitz"));
        assert_eq!(rss_of(4).as_deref(), Some("crc32"));
        assert_eq!(rss_of(0), None);
    }
}
