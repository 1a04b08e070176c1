//! Endpoints that nodes offer of themselves, beside those of the document. They are added
//! to services that the document names, and only by nodes that it lets add to them.

use alloc::{
    borrow::ToOwned,
    collections::BTreeSet,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::{fmt, net::SocketAddr};

use super::{
    model::{Endpoint, Service},
    table::{MAX_ENDPOINTS, Table, is_name},
};
use crate::pattern::like;

/// Of one node: several times the containers that one runs.
pub const MAX_OFFERS: usize = 128;
/// Of what tells people where an endpoint comes from, in bytes.
const MAX_SOURCE: usize = 128;
/// A share is relative to the others' 100.
const MAX_WEIGHT: u32 = 1000;

/// An endpoint on the node that offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The service's name.
    pub service: String,
    /// As its node has it.
    pub address: SocketAddr,
    /// Share relative to the others.
    pub weight: u32,
    /// Where its node has it from, for people.
    pub source: String,
}

impl Offer {
    /// One whose values can be; the error says which can't.
    pub fn checked(
        service: &str,
        address: &str,
        weight: u32,
        source: &str,
    ) -> Result<Self, String> {
        if !is_name(service) {
            return Err(format!("{service:?} can't be the name of a service"));
        }
        let at: Option<SocketAddr> = address.parse().ok();
        let at = at.filter(|it| it.port() > 0 && !it.ip().is_unspecified());
        let at = at.ok_or_else(|| format!("{address:?} is no IP:PORT that can be connected to"))?;
        if !(1..=MAX_WEIGHT).contains(&weight) {
            return Err(format!("a weight of {weight}: it may be 1 to {MAX_WEIGHT}"));
        }
        let is_text = source.len() <= MAX_SOURCE && !source.chars().any(char::is_control);
        let source = source.to_owned();
        let offer = Self { service: service.into(), address: at, weight, source };
        is_text.then_some(offer).ok_or_else(|| {
            format!("a source of over {MAX_SOURCE} bytes, or with control characters")
        })
    }
}

/// Why an offer adds no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unused {
    /// The document names no such service.
    NoService,
    /// Its `endpoints_from` doesn't name the node.
    NotFromThere,
    /// The service has that endpoint already.
    Known,
    /// The service has as many endpoints as it may have.
    Full,
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unused::NoService => "the document has no such service",
            Unused::NotFromThere => "the service's endpoints_from does not name the node",
            Unused::Known => "the service has it already",
            Unused::Full => "the service has as many endpoints as it may have",
        })
    }
}

/// Adds to a table what nodes offer, in this order; for each offer why it was not, if it was
/// not. A node without a name is this one, which is in no rack.
pub fn add(table: &mut Table, offers: &[(Option<&str>, &Offer)]) -> Vec<Option<Unused>> {
    let keys = |it: &Service| it.endpoints.iter().map(Endpoint::key).collect::<BTreeSet<_>>();
    let mut known: Vec<_> = table.services.iter().map(keys).collect();
    let mut one = |(node, offer): &(Option<&str>, &Offer)| {
        let index = table.service(&offer.service).ok_or(Unused::NoService)?;
        let service = &mut table.services[index];
        let may = service.endpoints_from.iter().any(|it| like(it, node.unwrap_or_default()));
        if !may {
            return Err(Unused::NotFromThere);
        }
        if service.endpoints.len() >= MAX_ENDPOINTS {
            return Err(Unused::Full);
        }
        let endpoint = Endpoint {
            address: offer.address,
            weight: offer.weight,
            tier: None,
            numa_node: None,
            node: node.map(ToString::to_string),
            source: Some(offer.source.clone()),
        };
        if !known[index].insert(endpoint.key()) {
            return Err(Unused::Known);
        }
        service.endpoints.push(endpoint);
        Ok(())
    };
    offers.iter().map(|it| one(it).err()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_that_can_not_be_is_none() {
        for (service, address, weight, source) in [
            ("", "10.0.0.1:80", 1, ""),
            ("Shop", "10.0.0.1:80", 1, ""),
            ("shop", "0.0.0.0:80", 1, ""),
            ("shop", "10.0.0.1:0", 1, ""),
            ("shop", "host:80", 1, ""),
            ("shop", "10.0.0.1:80", 0, ""),
            ("shop", "10.0.0.1:80", 1001, ""),
            ("shop", "10.0.0.1:80", 1, "a\nb"),
        ] {
            assert!(Offer::checked(service, address, weight, source).is_err(), "{service}");
        }
    }
}
