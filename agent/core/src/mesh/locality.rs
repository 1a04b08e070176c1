//! How far endpoints are, and when a request goes further than it must: the nearest
//! tier has it all, until too many of its endpoints are out or they have too much to do.

use core::net::IpAddr;

use super::{hashed::mix, model::Endpoint};

/// How far an endpoint is, the nearest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// On this NUMA node.
    Numa,
    /// On this node.
    #[default]
    Node,
    /// In this rack.
    Rack,
    /// Elsewhere.
    Remote,
}

impl Tier {
    /// All, the nearest first.
    pub const ALL: [Tier; 4] = [Tier::Numa, Tier::Node, Tier::Rack, Tier::Remote];

    /// For people, and in documents.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Numa => "numa",
            Tier::Node => "node",
            Tier::Rack => "rack",
            Tier::Remote => "remote",
        }
    }
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address.
    pub address: IpAddr,
    /// Bits that its addresses have in common.
    pub bits: u8,
}

impl Network {
    /// Reads `10.1.0.0/16` or `fd00::/8`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        let most = if address.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(Self { address, bits })
    }

    /// Whether an address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u8| {
            (a ^ b).checked_shr(u32::from(width - self.bits)).unwrap_or(0) == 0
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

/// How far an endpoint is from this node. Without networks of the rack, what is not here
/// is in the rack.
pub fn tier(endpoint: &Endpoint, rack: &[Network], is_own: impl Fn(&Endpoint) -> bool) -> Tier {
    match endpoint.tier {
        Some(tier) => tier,
        None if is_own(endpoint) => Tier::Node,
        // Whoever is reached through the tunnel is a peer.
        None if endpoint.node.is_some() => Tier::Rack,
        None if rack.is_empty() => Tier::Rack,
        None if rack.iter().any(|it| it.contains(endpoint.address.ip())) => Tier::Rack,
        None => Tier::Remote,
    }
}

/// What the endpoints of one tier come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Weight of all of them.
    pub weight: u64,
    /// Weight of those that may be chosen now.
    pub usable: u64,
    /// Requests under way at those.
    pub active: u64,
}

/// Of a tier's weight, in hundredths, that has to be usable for it to have every
/// request: a few can be out without anybody going further (Envoy's overprovisioning
/// factor of 1.4).
const ENOUGH_PERCENT: u64 = 71;

/// The tier that a request goes to, by 64 random bits; `None` if no endpoint may be
/// chosen. `most` requests under way for each endpoint of weight 100 are too many.
pub fn choose(loads: &[Load; 4], most: u32, random: u64) -> Option<Tier> {
    let usable = || Tier::ALL.into_iter().zip(loads).filter(|(_, load)| load.usable > 0);
    let has_it = |(tier, load): &(Tier, &Load)| {
        let is_full = load.active * 100 >= u64::from(most) * load.usable;
        // Of what the missing ones would have had, that share goes further.
        let share = load.usable * 100 * 1000 / (load.weight * ENOUGH_PERCENT);
        !is_full && mix(random ^ *tier as u64) % 1000 < share
    };
    // Where all have too much to do, the nearest is as good as any.
    usable().find(has_it).or_else(|| usable().next()).map(|(tier, _)| tier)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(weight: u64, usable: u64, active: u64) -> Load {
        Load { weight, usable, active }
    }

    /// Of 1000 requests, how many go to each tier.
    fn shares(loads: [Load; 4]) -> [usize; 4] {
        let mut shares = [0; 4];
        for n in 0..1000 {
            if let Some(tier) = choose(&loads, 32, mix(n)) {
                shares[tier as usize] += 1;
            }
        }
        shares
    }

    #[test]
    fn the_nearest_has_all_until_it_fails_or_is_full() {
        let (well, none) = (load(300, 300, 5), Load::default());
        assert_eq!(shares([none, well, well, well]), [0, 1000, 0, 0]);
        assert_eq!(shares([none, load(400, 300, 0), well, none]), [0, 1000, 0, 0], "a quarter out");
        assert_eq!(shares([none, load(300, 0, 0), well, none]), [0, 0, 1000, 0], "all out");
        assert_eq!(shares([none, load(300, 300, 96), well, none]), [0, 0, 1000, 0], "full");
        assert_eq!(
            shares([none, load(100, 100, 90), load(100, 100, 90), none])[1],
            1000,
            "all are"
        );
        assert_eq!(shares([none; 4]), [0; 4]);
        let [_, near, far, _] = shares([none, load(300, 100, 0), well, none]);
        assert!((420..=520).contains(&near) && near + far == 1000, "{near} of 1000 stay");
    }

    #[test]
    fn a_network_is_its_first_bits() {
        let is_in = |network: &str, address: &str| {
            Network::parse(network).expect("a network").contains(address.parse().expect("one"))
        };
        assert!(is_in("10.1.0.0/16", "10.1.255.1") && !is_in("10.1.0.0/16", "10.2.0.1"));
        assert!(is_in("10.1.0.0/16", "::ffff:10.1.2.3") && is_in("0.0.0.0/0", "8.8.8.8"));
        assert!(is_in("fd00::/8", "fd12::1") && !is_in("fd00::/8", "fe80::1"));
        assert!(!is_in("fd00::/8", "10.0.0.1") && is_in("10.0.0.1/32", "10.0.0.1"));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/129"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
