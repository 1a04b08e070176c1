//! Connections that a listener takes though they go elsewhere: the kernel's packet filter
//! hands them to it (nftables, `redirect` or `tproxy`), by rules that are made here of the
//! table and that somebody with the privilege for it loads.
//!
//! What the mesh itself connects to is never taken, by the user that it runs as: it would
//! come back to it for ever.

use alloc::{format, string::String, vec::Vec};
use core::{fmt::Write, net::IpAddr};

use super::{
    locality::Network,
    model::{Listener, Mode},
    table::Table,
};

/// The table of nftables that all rules are in.
pub const NFT_TABLE: &str = "inet purlin_mesh";
/// On packets that `tproxy` takes, for the routing rule that keeps them on this node; and
/// the number of that rule and of its table.
pub const MARK: u32 = 7072;

/// How a listener comes by connections that go elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intercept {
    /// What the kernel does.
    pub mode: Mode,
    /// Ports; none: all.
    pub ports: Vec<u16>,
    /// Networks beside the services' virtual addresses.
    pub networks: Vec<Network>,
    /// Whether what goes to no service's address goes on unchanged.
    pub pass_through: bool,
}

impl Intercept {
    /// How, and whether what goes to no service goes on.
    pub fn how(&self) -> (Mode, bool) {
        (self.mode, self.pass_through)
    }
}

/// What `nft -f` is given to take all rules away, whether there are any or not.
pub fn removal() -> String {
    format!("table {NFT_TABLE}\ndelete table {NFT_TABLE}\n")
}

/// What `nft -f` is given to hold to a table, in place of what there was. `uid` is the
/// mesh's own user.
pub fn rules(table: &Table, uid: u32) -> String {
    let mut all = removal();
    let taking = table.listeners.iter().filter_map(|it| Some((it, it.intercept.as_ref()?)));
    let of = |mode| taking.clone().filter(move |(_, it)| it.mode == mode);
    if taking.clone().next().is_none() {
        return all;
    }
    if of(Mode::Tproxy).next().is_some() {
        for family in ["-4", "-6"] {
            _ = writeln!(all, "# ip {family} rule add pref {MARK} fwmark {MARK} lookup {MARK}");
            _ = writeln!(all, "# ip {family} route add local default dev lo table {MARK}");
        }
    }
    _ = writeln!(all, "table {NFT_TABLE} {{");
    let mut chain = |name: &str, hook: &str, is_own: bool, rules: Vec<String>| {
        if rules.is_empty() {
            return;
        }
        _ = writeln!(all, "\tchain {name} {{\n\t\ttype {hook}; policy accept;");
        if is_own {
            _ = writeln!(all, "\t\tmeta skuid {uid} accept");
        }
        for rule in rules {
            _ = writeln!(all, "\t\t{rule}");
        }
        _ = writeln!(all, "\t}}");
    };
    let redirect = || {
        of(Mode::Redirect).flat_map(|(listener, it)| {
            let to = format!("redirect to :{}", listener.address.port());
            taken(table, listener, it).into_iter().map(move |(_, what)| format!("{what} {to}"))
        })
    };
    let tproxy = of(Mode::Tproxy).flat_map(|(listener, it)| {
        let port = listener.address.port();
        taken(table, listener, it).into_iter().map(move |(family, what)| {
            format!("{what} meta mark set {MARK} tproxy {family} to :{port} accept")
        })
    });
    let marked = of(Mode::Tproxy).flat_map(|(listener, it)| {
        let taken = taken(table, listener, it).into_iter();
        taken.map(|(_, what)| format!("{what} meta mark set {MARK}"))
    });
    chain("from_others", "nat hook prerouting priority dstnat", false, redirect().collect());
    chain("from_here", "nat hook output priority -100", true, redirect().collect());
    chain("whole_from_others", "filter hook prerouting priority mangle", false, tproxy.collect());
    chain("whole_from_here", "route hook output priority mangle", true, marked.collect());
    all.push_str("}\n");
    all
}

/// What of a packet a listener takes it by, and its version of IP. A socket of IPv6 at [::]
/// takes IPv4 too. What goes to an address of this node itself goes nowhere else, though its
/// network is taken.
fn taken(table: &Table, listener: &Listener, it: &Intercept) -> Vec<(&'static str, String)> {
    let families = [("ip", true), ("ip6", false)];
    let ports = match &it.ports[..] {
        [] => "meta l4proto tcp".into(),
        ports => format!("tcp dport {{ {} }}", listed(ports.iter())),
    };
    let mut taken = Vec::new();
    for (family, is_v4) in families.into_iter().filter(|(_, v4)| *v4 || listener.address.is_ipv6())
    {
        let of = |it: &&IpAddr| it.is_ipv4() == is_v4;
        let services = table.services.iter().flat_map(|it| &it.virtual_addresses).filter(of);
        let addresses = listed(services);
        if !addresses.is_empty() {
            taken.push((family, format!("{family} daddr {{ {addresses} }} {ports}")));
        }
        for Network { address, bits } in it.networks.iter().filter(|it| of(&&it.address)) {
            let network =
                format!("{family} daddr {address}/{bits} fib daddr type != local {ports}");
            taken.push((family, network));
        }
    }
    taken
}

fn listed<T: core::fmt::Display>(all: impl Iterator<Item = T>) -> String {
    let mut list = String::new();
    for it in all {
        let comma = if list.is_empty() { "" } else { ", " };
        _ = write!(list, "{comma}{it}");
    }
    list
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::mesh::model::Protocol;

    #[track_caller]
    fn check(listeners: Vec<Listener>, expected: Expect) {
        expected.assert_eq(&rules(&Table { listeners, ..Table::default() }, 990));
    }

    fn listener(address: &str, intercept: Intercept) -> Listener {
        Listener {
            name: "l".into(),
            address: address.parse().expect("an address"),
            protocol: Protocol::Tcp,
            zone: None,
            proxy_protocol: false,
            intercept: Some(intercept),
        }
    }

    fn networks(mode: Mode, ports: &[u16]) -> Intercept {
        let of = |text| Network::parse(text).expect("a network");
        let networks = vec![of("10.0.0.0/8"), of("fd00::/8")];
        Intercept { mode, ports: ports.into(), networks, pass_through: false }
    }

    #[test]
    fn without_a_listener_that_intercepts_all_rules_go() {
        check(
            vec![],
            expect![[r#"
            table inet purlin_mesh
            delete table inet purlin_mesh
        "#]],
        );
        assert_eq!(rules(&Table::default(), 990), removal());
    }

    #[test]
    fn what_is_redirected_is_taken_from_others_and_from_here_but_not_from_the_mesh() {
        check(
            vec![listener("[::]:15001", networks(Mode::Redirect, &[80, 81]))],
            expect![[r#"
            table inet purlin_mesh
            delete table inet purlin_mesh
            table inet purlin_mesh {
            	chain from_others {
            		type nat hook prerouting priority dstnat; policy accept;
            		ip daddr 10.0.0.0/8 fib daddr type != local tcp dport { 80, 81 } redirect to :15001
            		ip6 daddr fd00::/8 fib daddr type != local tcp dport { 80, 81 } redirect to :15001
            	}
            	chain from_here {
            		type nat hook output priority -100; policy accept;
            		meta skuid 990 accept
            		ip daddr 10.0.0.0/8 fib daddr type != local tcp dport { 80, 81 } redirect to :15001
            		ip6 daddr fd00::/8 fib daddr type != local tcp dport { 80, 81 } redirect to :15001
            	}
            }
        "#]],
        );
    }

    #[test]
    fn what_is_taken_whole_is_marked_so_that_it_stays_here() {
        check(
            vec![listener("0.0.0.0:15001", networks(Mode::Tproxy, &[]))],
            expect![[r#"
            table inet purlin_mesh
            delete table inet purlin_mesh
            # ip -4 rule add pref 7072 fwmark 7072 lookup 7072
            # ip -4 route add local default dev lo table 7072
            # ip -6 rule add pref 7072 fwmark 7072 lookup 7072
            # ip -6 route add local default dev lo table 7072
            table inet purlin_mesh {
            	chain whole_from_others {
            		type filter hook prerouting priority mangle; policy accept;
            		ip daddr 10.0.0.0/8 fib daddr type != local meta l4proto tcp meta mark set 7072 tproxy ip to :15001 accept
            	}
            	chain whole_from_here {
            		type route hook output priority mangle; policy accept;
            		meta skuid 990 accept
            		ip daddr 10.0.0.0/8 fib daddr type != local meta l4proto tcp meta mark set 7072
            	}
            }
        "#]],
        );
    }
}
