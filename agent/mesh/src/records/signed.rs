//! A node's word on what it serves: made by the key of its certificate, and looked at by
//! whoever gets it, from whomever.

use std::fmt;

use prost::Message;
use purlin_core::mesh::{
    offer::{MAX_OFFERS, Offer},
    spiffe::{Id, Kind},
};
use purlin_proto::v1;
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::{
    identity::{self, Identity},
    wire::WEIGHT_DEFAULT,
};

/// What is signed beside a record: a signature for one purpose is none for another.
const PURPOSE: &[u8] = b"purlin service record 1\0";
/// Of a record: its offers have some 100 bytes each.
const MAX_BYTES: usize = 32 << 10;

/// Why a record is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// It is none, or more than one may be.
    Garbage,
    /// Its certificate is none of this rack's.
    Foreign,
    /// Its node is revoked.
    Revoked,
    /// Its certificate expired too long ago.
    Expired,
    /// The certificate's key has not signed it.
    WrongKey,
    /// It is about another node than the one that signed it.
    Anothers,
    /// A newer one of that node is known.
    Replayed,
    /// More nodes are known than a rack may have.
    TooMany,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::Garbage => "garbage",
            Refused::Foreign => "foreign certificate",
            Refused::Revoked => "revoked certificate",
            Refused::Expired => "expired certificate",
            Refused::WrongKey => "wrong key",
            Refused::Anothers => "about another node",
            Refused::Replayed => "replayed",
            Refused::TooMany => "too many nodes",
        })
    }
}

/// A record that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub node: String,
    /// Grows with each of that node's.
    pub number: u64,
    /// What it offers.
    pub offers: Vec<Offer>,
}

/// Makes this node's record.
pub fn sign(
    identity: &Identity,
    number: u64,
    offers: &[Offer],
) -> Result<v1::SignedServiceRecord, String> {
    let rack = Id::parse(&identity.id).map(|it| it.rack).unwrap_or_default();
    let endpoints = offers.iter().map(wire).collect();
    seal(identity, &v1::ServiceRecord { rack, node: identity.node.clone(), number, endpoints })
}

/// Signs whatever it says.
pub(crate) fn seal(
    identity: &Identity,
    record: &v1::ServiceRecord,
) -> Result<v1::SignedServiceRecord, String> {
    let record = record.encode_to_vec();
    let signature = identity.sign(&[PURPOSE, &record].concat())?.into();
    let certificates = identity.chain.iter().map(|it| it.to_vec().into()).collect();
    Ok(v1::SignedServiceRecord { record: record.into(), certificates, signature })
}

/// Reads a record, and makes sure that its node has made it.
pub fn verify(identity: &Identity, signed: &v1::SignedServiceRecord) -> Result<Record, Refused> {
    if signed.record.len() > MAX_BYTES {
        return Err(Refused::Garbage);
    }
    let record = v1::ServiceRecord::decode(&signed.record[..]).map_err(|_| Refused::Garbage)?;
    let chain: Vec<_> =
        signed.certificates.iter().map(|it| CertificateDer::from(&it[..])).collect();
    let message = [PURPOSE, &signed.record].concat();
    let peer = identity.verifier.signer(&chain, &message, &signed.signature);
    let peer = peer.map_err(|why| match why {
        identity::Refused::Foreign(_) => Refused::Foreign,
        identity::Refused::Revoked(_) => Refused::Revoked,
        identity::Refused::Expired(_) => Refused::Expired,
    })?;
    let peer = peer.ok_or(Refused::WrongKey)?;
    let is_its_own = peer.id.rack == record.rack && peer.id.kind == Kind::Node(record.node.clone());
    if !is_its_own {
        return Err(Refused::Anothers);
    }
    if record.endpoints.len() > MAX_OFFERS {
        return Err(Refused::Garbage);
    }
    let offers = record.endpoints.iter().map(offer).collect::<Result<_, _>>();
    let offers = offers.map_err(|_| Refused::Garbage)?;
    Ok(Record { node: record.node, number: record.number, offers })
}

/// As it stands in a record.
pub fn wire(offer: &Offer) -> v1::OfferedEndpoint {
    v1::OfferedEndpoint {
        service: offer.service.clone(),
        address: offer.address.to_string(),
        weight: Some(offer.weight),
        source: offer.source.clone(),
    }
}

/// Read from a record; the error says what can't be.
pub fn offer(it: &v1::OfferedEndpoint) -> Result<Offer, String> {
    Offer::checked(&it.service, &it.address, it.weight.unwrap_or(WEIGHT_DEFAULT), &it.source)
}
