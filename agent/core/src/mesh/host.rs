//! Host names as patterns, and as they stand in a request.

use alloc::string::String;
use core::{fmt, str::FromStr};

use crate::settings::Impossible;

/// Longest host name (RFC 1035, 2.3.4).
const MAX_BYTES: usize = 253;

/// A host name, or all names below one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hostname {
    /// This one, in lower case.
    Exact(String),
    /// `*.rack`: one or more labels before `.rack`, which is kept with its dot.
    Below(String),
}

impl Hostname {
    /// Whether a [`normal`] name is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Hostname::Exact(name) => name == host,
            Hostname::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }
}

impl FromStr for Hostname {
    type Err = Impossible;
    fn from_str(text: &str) -> Result<Self, Impossible> {
        let (wild, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        if !is_name(name) {
            return Err(Impossible {
                limit: "a host name such as shop.rack, or *.rack for all below it".into(),
                hint: "leave out scheme, port and path; letters, digits, '-' and '.' remain".into(),
            });
        }
        let name = name.to_ascii_lowercase();
        Ok(if wild {
            Hostname::Below(".".chars().chain(name.chars()).collect())
        } else {
            Hostname::Exact(name)
        })
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hostname::Exact(name) => f.write_str(name),
            Hostname::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// A name of labels, or an IPv4 address. A label is 1 to 63 letters, digits and `-`;
/// `_` is let through, since names in the field have it.
pub fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= MAX_BYTES && name.split('.').all(is_label)
}

/// The name in a `Host` header, `:authority` or server name: without its port and a
/// final dot, in lower case. `None` if it is no host at all.
pub fn normal(authority: &str) -> Option<String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']')?;
            let is_ip = host.parse::<core::net::Ipv6Addr>().is_ok();
            (is_ip.then_some(host)?, rest)
        }
        None => {
            let at = authority.find(':').unwrap_or(authority.len());
            let (host, port) = authority.split_at(at);
            let host = host.strip_suffix('.').unwrap_or(host);
            (is_name(host).then_some(host)?, port)
        }
    };
    let is_port = |port: &str| {
        port.strip_prefix(':').is_some_and(|p| p.is_empty() || p.parse::<u16>().is_ok())
    };
    (port.is_empty() || is_port(port)).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_for_all_below_and_not_for_the_name_itself() {
        let below: Hostname = "*.Rack".parse().expect("a pattern");
        assert!(below.matches("shop.rack") && below.matches("eu.shop.rack"));
        assert!(!below.matches("rack") && !below.matches(".rack") && !below.matches("track"));
    }

    #[test]
    fn a_request_names_its_host_in_many_ways() {
        for (authority, host) in [
            ("Shop.Rack", Some("shop.rack")),
            ("shop.rack.:8080", Some("shop.rack")),
            ("10.0.0.1:80", Some("10.0.0.1")),
            ("[FE80::1]:80", Some("fe80::1")),
            ("shop.rack:", Some("shop.rack")),
            ("", None),
            ("shop..rack", None),
            ("user@shop.rack", None),
            ("shop.rack:80:80", None),
            ("shop.rack:99999", None),
            ("[::1", None),
            ("[shop]", None),
            ("a b", None),
        ] {
            assert_eq!(normal(authority).as_deref(), host, "{authority}");
        }
    }

    #[test]
    fn patterns_with_more_than_a_name_are_refused() {
        for text in ["", "*", "*.", "http://shop", "shop:80", "a.*.rack", "shop/"] {
            assert!(text.parse::<Hostname>().is_err(), "{text}");
        }
    }
}
