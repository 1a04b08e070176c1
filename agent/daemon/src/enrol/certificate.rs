//! What a certificate says, and whose word it is.

use rumqttc::tokio_rustls::rustls::{
    crypto::ring,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring::ECDSA_P256_SHA256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::trust::sha256;

/// A certificate and those that vouch for it.
pub type Chain = Vec<CertificateDer<'static>>;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it is for, its common name.
    pub node: String,
    /// From when and until when it holds, in seconds since 1970.
    pub not_before_unix_s: u64,
    /// The same.
    pub not_after_unix_s: u64,
    /// Its public key (SubjectPublicKeyInfo, DER).
    pub public_key: Vec<u8>,
}

impl Certificate {
    /// Reads one.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (_, read) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let names = read.subject().iter_common_name();
        let node = names.filter_map(|name| name.as_str().ok()).next();
        let seconds = |time: i64| u64::try_from(time).unwrap_or_default();
        let validity = read.validity();
        Ok(Self {
            node: node.ok_or("it has no common name")?.to_owned(),
            not_before_unix_s: seconds(validity.not_before.timestamp()),
            not_after_unix_s: seconds(validity.not_after.timestamp()),
            public_key: read.public_key().raw.to_vec(),
        })
    }

    /// For how long it holds altogether.
    pub fn lifetime_s(&self) -> u64 {
        self.not_after_unix_s.saturating_sub(self.not_before_unix_s)
    }
}

/// The certificates of a PEM text, at least one.
pub fn chain(pem: &[u8]) -> Result<Chain, String> {
    let chain: Result<Chain, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| format!("no PEM: {error}"))?;
    if chain.is_empty() { Err("there is no certificate in it".into()) } else { Ok(chain) }
}

/// The same as text.
pub fn pem(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|it| pem::encode(&pem::Pem::new("CERTIFICATE", it.as_ref()))).collect()
}

/// What an authority is known by: SHA-256 of its public key.
pub fn pin(authority: &[u8]) -> Result<Vec<u8>, String> {
    let (_, read) = X509Certificate::from_der(authority).map_err(|error| error.to_string())?;
    Ok(sha256(read.public_key().raw))
}

/// Whether a certificate is one of this authority's, for a client, and in its time.
pub fn verify(
    chain: &[CertificateDer<'_>],
    authority: &CertificateDer<'_>,
    now: u64,
) -> Result<(), String> {
    let (leaf, between) = chain.split_first().ok_or("there is no certificate")?;
    let failed = |error: webpki::Error| format!("{error:?}");
    let anchor = [anchor_from_trusted_cert(authority).map_err(failed)?];
    let between: Vec<_> = between.iter().filter(|it| *it != authority).cloned().collect();
    let leaf = EndEntityCert::try_from(leaf).map_err(failed)?;
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
    let usage = KeyUsage::client_auth();
    leaf.verify_for_usage(algorithms, &anchor, &between, now, usage, None, None)
        .map(drop)
        .map_err(failed)
}

/// Whether the key of a certificate has signed that (ECDSA P-256 with SHA-256).
pub fn has_signed(certificate: &CertificateDer<'_>, said: &[u8], signature: &[u8]) -> bool {
    let leaf = EndEntityCert::try_from(certificate);
    leaf.is_ok_and(|leaf| leaf.verify_signature(ECDSA_P256_SHA256, said, signature).is_ok())
}
