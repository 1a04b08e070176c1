//! Who somebody is in a rack: names as SPIFFE has them (SPIFFE-ID, 2), with the rack's id
//! as trust domain.
//!
//! ```text
//! spiffe://RACK                       an authority of the rack
//! spiffe://RACK/issuer/NODE           one that vouches for others, on a node
//! spiffe://RACK/node/NODE             a node
//! spiffe://RACK/node/NODE/service/S   a service on it
//! ```

use alloc::{borrow::ToOwned, string::String, vec::Vec};
use core::fmt;

/// The longest name (SPIFFE-ID, 2.3).
const MAX_BYTES: usize = 2048;
/// The longest trust domain (SPIFFE-ID, 2.1).
const MAX_RACK: usize = 255;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An authority of the rack.
    Rack,
    /// An authority on a node.
    Issuer(String),
    /// A node.
    Node(String),
    /// A service on a node.
    Service(String, String),
}

/// A name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    /// The rack's id.
    pub rack: String,
    /// Who in it.
    pub kind: Kind,
}

impl Id {
    /// Reads a name; `None` for what is none, or none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("spiffe://").filter(|_| text.len() <= MAX_BYTES)?;
        let mut parts = rest.split('/');
        let rack = parts.next().filter(|it| is_rack(it))?.to_owned();
        let parts: Vec<&str> = parts.collect();
        if !parts.iter().all(|it| is_segment(it)) {
            return None;
        }
        let kind = match parts[..] {
            [] => Kind::Rack,
            ["issuer", node] => Kind::Issuer(node.into()),
            ["node", node] => Kind::Node(node.into()),
            ["node", node, "service", service] => Kind::Service(node.into(), service.into()),
            _ => return None,
        };
        Some(Self { rack, kind })
    }

    /// The node that it is of.
    pub fn node(&self) -> Option<&str> {
        match &self.kind {
            Kind::Rack => None,
            Kind::Issuer(node) | Kind::Node(node) | Kind::Service(node, _) => Some(node),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.rack)?;
        match &self.kind {
            Kind::Rack => Ok(()),
            Kind::Issuer(node) => write!(f, "/issuer/{node}"),
            Kind::Node(node) => write!(f, "/node/{node}"),
            Kind::Service(node, service) => write!(f, "/node/{node}/service/{service}"),
        }
    }
}

/// Whether it can be a rack's id: a trust domain (SPIFFE-ID, 2.1).
pub fn is_rack(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    (1..=MAX_RACK).contains(&text.len()) && text.bytes().all(is_plain)
}

/// Whether it can be a node's id in a name: a segment of a path (SPIFFE-ID, 2.2).
pub fn is_segment(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !matches!(text, "" | "." | "..") && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_name_reads_back_and_nothing_else_is_one() {
        for text in [
            "spiffe://r1",
            "spiffe://r1/issuer/a",
            "spiffe://r1.plant/node/A_1",
            "spiffe://r1/node/a/service/shop",
        ] {
            assert_eq!(Id::parse(text).map(|it| it.to_string()).as_deref(), Some(text));
        }
        for text in [
            "",
            "spiffe://",
            "spiffe:///node/a",
            "spiffe://R1/node/a",
            "spiffe://r1/",
            "spiffe://r1/node",
            "spiffe://r1/node/",
            "spiffe://r1/node/..",
            "spiffe://r1/node/a/",
            "spiffe://r1/node/a b",
            "spiffe://r1/node/%61",
            "spiffe://r1/node/a/service",
            "spiffe://r1/node/a/shop/s",
            "spiffe://r1/node/a/service/s/t",
            "spiffe://r1/ns/default/sa/x",
            "https://r1/node/a",
        ] {
            assert_eq!(Id::parse(text), None, "{text}");
        }
    }
}
