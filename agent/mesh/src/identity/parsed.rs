//! What a certificate says of itself: whose it is, and when it is good.

use purlin_core::mesh::{credential::Window, spiffe::Id};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// The longest certificate that is looked at, in bytes; ours have some 500.
const MAX_BYTES: usize = 8 << 10;

/// A certificate; nothing of it is proved.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// Its name.
    pub id: Id,
    /// When it is good.
    pub window: Window,
    key: Vec<u8>,
}

impl Parsed {
    /// Reads one. It has exactly one name, as SPIFFE wants it (X509-SVID, 2).
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, String> {
        if der.len() > MAX_BYTES {
            return Err(format!("a certificate of {} bytes; at most {MAX_BYTES}", der.len()));
        }
        let (_, certificate) =
            parse_x509_certificate(der).map_err(|error| format!("no certificate: {error}"))?;
        let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        let names = names.map(|it| &it.value.general_names[..]).unwrap_or_default();
        let mut uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err("a certificate of the rack has one URI name".into());
        };
        let id = Id::parse(uri).ok_or_else(|| format!("{uri} is no name of a rack's"))?;
        let seconds = |time: x509_parser::time::ASN1Time| time.timestamp().max(0).cast_unsigned();
        let validity = certificate.validity();
        let window =
            Window { from: seconds(validity.not_before), until: seconds(validity.not_after) };
        let key = certificate.public_key().subject_public_key.data.to_vec();
        Ok(Self { id, window, key })
    }

    /// Whether its key has signed this.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.key);
        key.verify(message, signature).is_ok()
    }
}
