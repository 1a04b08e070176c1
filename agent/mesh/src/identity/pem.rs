//! Certificates and a key in one file, so that both are replaced at once.

use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};

/// Certificates with those that vouch for them, and the key as it stands there.
pub fn identity(text: &str) -> Result<(Vec<CertificateDer<'static>>, String), String> {
    let begin = text.find("-----BEGIN PRIVATE KEY-----").ok_or("it has no private key")?;
    let end = "-----END PRIVATE KEY-----";
    let until = text[begin..].find(end).ok_or("its private key is cut short")? + begin + end.len();
    Ok((certificates(text)?, text[begin..until].to_owned()))
}

/// The certificates, at least one.
pub fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = read.map_err(|error| error.to_string())?;
    if chain.is_empty() { Err("it has no certificate".into()) } else { Ok(chain) }
}

/// A key, as TLS wants it.
pub fn key(text: &str) -> Result<PrivatePkcs8KeyDer<'static>, String> {
    PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|error| error.to_string())
}

/// A key in PEM, or none, and certificates.
pub fn write(key: &str, chain: &[&CertificateDer<'_>]) -> String {
    let certificates = chain.iter().map(|der| armored(der));
    std::iter::once(key.to_owned()).chain(certificates).collect()
}

/// RFC 7468.
fn armored(der: &[u8]) -> String {
    ::pem::encode(&::pem::Pem::new("CERTIFICATE", der))
}
