//! The rack's authorities: who makes certificates, and the list of those that are worth
//! nothing. Nothing of it asks anybody: a rack without an uplink makes its own.
//!
//! The rack's root is made once and carried away. It vouches for issuers, which live on
//! nodes of the rack (two, so that one may fail) and renew the certificates of all.

use prost::Message;
use purlin_core::mesh::{
    credential::{Revocations, Window},
    spiffe::{Id, Kind},
};
use purlin_proto::v1;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SigningKey, string::Ia5String,
};
use time::OffsetDateTime;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};

use super::{parsed::Parsed, pem};

/// A rack's root outlives the rack.
pub const ROOT_LIFE_S: u64 = 30 * 365 * 86_400;
/// As long as a rack is in use.
pub const ISSUER_LIFE_S: u64 = 10 * 365 * 86_400;
/// A node's: half of it is left whenever its renewal begins to fail.
pub const NODE_LIFE_S: u64 = 30 * 86_400;
/// The longest that an issuer makes.
const MAX_LIFE_S: u64 = 90 * 86_400;
/// A certificate is good this much earlier than it is made: clocks differ.
const EARLIER_S: u64 = 3600;
/// Ten racks.
const MAX_REVOKED: usize = 4096;
/// What is signed beside a list of revocations: a signature for one purpose is none for
/// another.
const REVOCATIONS: &[u8] = b"purlin revocations 1\0";

/// An authority, with its key.
#[derive(Debug)]
pub struct Authority {
    /// Its name.
    pub id: Id,
    window: Window,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a rack's root.
    pub fn make(rack: &str, now: u64, life_s: u64) -> Result<Self, String> {
        let id = Id { rack: rack.into(), kind: Kind::Rack };
        let window = window(now, life_s);
        let key = KeyPair::generate().map_err(told)?;
        let params = authority(&id, window, BasicConstraints::Constrained(1))?;
        let certificate = params.self_signed(&key).map_err(told)?;
        Self::of(certificate.der().clone(), key)
    }

    /// Reads one: its certificate and its key.
    pub fn read(text: &str) -> Result<Self, String> {
        let (mut chain, key) = pem::identity(text)?;
        let key = KeyPair::from_pem(&key).map_err(told)?;
        Self::of(chain.swap_remove(0), key)
    }

    fn of(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, String> {
        let Parsed { id, window, .. } = Parsed::read(&certificate)?;
        if !matches!(id.kind, Kind::Rack | Kind::Issuer(_)) {
            return Err(format!("{id} is no authority"));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(told)?;
        Ok(Self { id, window, certificate, issuer })
    }

    /// Its certificate and its key, as a file.
    pub fn pem(&self) -> String {
        pem::write(&self.issuer.key().serialize_pem(), &[&self.certificate])
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate alone, as a file.
    pub fn certificate_pem(&self) -> String {
        pem::write("", &[&self.certificate])
    }

    /// Makes an issuer for a node, as a file.
    pub fn make_issuer(
        &self,
        node: &str,
        now: u64,
        life_s: u64,
        list: &Revocations,
    ) -> Result<Self, String> {
        let id = Id { rack: self.id.rack.clone(), kind: Kind::Issuer(node.into()) };
        let key = KeyPair::generate().map_err(told)?;
        let mut window = window(now, life_s);
        window.from = window.from.max(list.before(&id).unwrap_or_default());
        let window = window.and(self.window).ok_or("the authority has expired")?;
        let params = authority(&id, window, BasicConstraints::Constrained(0))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(told)?;
        Self::of(certificate.der().clone(), key)
    }

    /// Makes a key and a certificate for a node, as a file.
    pub fn make_node(
        &self,
        node: &str,
        now: u64,
        life_s: u64,
        list: &Revocations,
    ) -> Result<String, String> {
        let id = Id { rack: self.id.rack.clone(), kind: Kind::Node(node.into()) };
        let key = KeyPair::generate().map_err(told)?;
        let chain = self.sign(&id, &key, now, life_s, list)?;
        Ok(pem::write(&key.serialize_pem(), &chain.iter().collect::<Vec<_>>()))
    }

    /// The certificate that somebody asks for, with those that vouch for it. What the
    /// request says of itself is not looked at: its key alone is taken, and the name is
    /// that which who asks has proved to have.
    pub fn answer(
        &self,
        id: &Id,
        request: &[u8],
        now: u64,
        life_s: u64,
        list: &Revocations,
    ) -> Result<Vec<CertificateDer<'static>>, String> {
        let request = CertificateSigningRequestDer::from(request);
        let request = CertificateSigningRequestParams::from_der(&request).map_err(told)?;
        self.sign(id, &request.public_key, now, life_s, list)
    }

    fn sign(
        &self,
        id: &Id,
        key: &impl PublicKeyData,
        now: u64,
        life_s: u64,
        list: &Revocations,
    ) -> Result<Vec<CertificateDer<'static>>, String> {
        let mut window = window(now, life_s.min(MAX_LIFE_S));
        // A node that was revoked within this hour is let in again by this.
        window.from = window.from.max(list.before(id).unwrap_or_default());
        let window = window.and(self.window);
        let window = window.ok_or_else(|| format!("{} is not good now", self.id))?;
        let mut params = params(id, window)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(told)?;
        let mut chain = vec![certificate.der().clone()];
        // The root is known to everybody.
        if self.id.kind != Kind::Rack {
            chain.push(self.certificate.clone());
        }
        Ok(chain)
    }

    /// Signs a list of revocations.
    pub fn revoke(&self, list: &Revocations) -> Result<Vec<u8>, String> {
        let nodes = list.nodes.iter().cloned();
        let nodes = nodes.map(|(node, before_unix_s)| v1::Revocation { node, before_unix_s });
        let (rack, number) = (self.id.rack.clone(), list.number);
        let (issued_unix_s, nodes) = (list.issued, nodes.collect());
        let revocations = v1::Revocations { rack, number, issued_unix_s, nodes }.encode_to_vec();
        let signed = [REVOCATIONS, &revocations].concat();
        let signature = self.issuer.key().sign(&signed).map_err(told)?;
        let signed =
            v1::SignedRevocations { revocations: revocations.into(), signature: signature.into() };
        Ok(signed.encode_to_vec())
    }
}

/// The list of a rack that bytes are, if one of its roots has signed it.
pub fn revocations(
    bytes: &[u8],
    roots: &[CertificateDer<'_>],
    rack: &str,
) -> Result<Revocations, String> {
    let signed = v1::SignedRevocations::decode(bytes).map_err(|error| error.to_string())?;
    let message = [REVOCATIONS, &signed.revocations].concat();
    let is_signed_by = |root: &CertificateDer<'_>| {
        Parsed::read(root).is_ok_and(|root| root.has_signed(&message, &signed.signature))
    };
    if !roots.iter().any(is_signed_by) {
        return Err("no root of this rack has signed it".into());
    }
    let list = v1::Revocations::decode(signed.revocations).map_err(|error| error.to_string())?;
    if list.rack != rack || list.nodes.len() > MAX_REVOKED {
        let nodes = list.nodes.len();
        return Err(format!(
            "a list of rack {} with {nodes} nodes; this is rack {rack}, and at most {MAX_REVOKED}",
            list.rack
        ));
    }
    let v1::Revocations { number, issued_unix_s: issued, nodes, .. } = list;
    let nodes = nodes.into_iter().map(|it| (it.node, it.before_unix_s)).collect();
    Ok(Revocations { number, issued, nodes })
}

fn authority(
    id: &Id,
    window: Window,
    below: BasicConstraints,
) -> Result<CertificateParams, String> {
    let mut params = params(id, window)?;
    params.is_ca = IsCa::Ca(below);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(id: &Id, window: Window) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, id.to_string());
    let uri = Ia5String::try_from(id.to_string()).map_err(told)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.not_before = date(window.from)?;
    params.not_after = date(window.until)?;
    Ok(params)
}

fn window(now: u64, life_s: u64) -> Window {
    let from = now.saturating_sub(EARLIER_S.min(life_s / 10));
    Window { from, until: from + life_s }
}

fn date(unix_s: u64) -> Result<OffsetDateTime, String> {
    let date =
        i64::try_from(unix_s).ok().and_then(|it| OffsetDateTime::from_unix_timestamp(it).ok());
    date.ok_or_else(|| format!("{unix_s} is no time of a calendar"))
}

fn told(error: rcgen::Error) -> String {
    error.to_string()
}
