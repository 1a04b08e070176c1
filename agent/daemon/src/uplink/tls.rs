//! TLS as every connection of the uplink has it: ring, TLS 1.3, files of PEM that are read
//! anew at each connection, and a time that no empty battery turns back.

use std::{path::Path, sync::Arc, time::Duration};

use rumqttc::tokio_rustls::rustls::{
    ClientConfig, Error, InconsistentKeys, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
};

use crate::clock::Floor;

/// A certificate with those that vouch for it, and its key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Our end of a connection to whom these authorities vouch for.
pub fn client(
    roots: RootCertStore,
    identity: Option<CertifiedKey>,
    floor: &Floor,
) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(floor.clone()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => {
            match identity.keys_match() {
                // A token doesn't say which key it has.
                Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
                Err(error) => return Err(error.to_string()),
            }
            Ok(builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))))
        }
    }
}

/// A certificate and its key, as TLS signs with them.
pub fn certified((chain, key): Identity) -> Result<CertifiedKey, String> {
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| error.to_string())
}

/// The authorities of a file that a setting names.
pub fn roots(setting: &str, path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(setting, path)?);
    match roots.is_empty() {
        true => Err(format!("{setting} {} has no certificate of an authority", path.display())),
        false => Ok(roots),
    }
}

/// The certificates of a file that a setting names.
pub fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|error| format!("can't read {setting} {}: {error}", path.display()))
}

/// The key of a file that a setting names.
pub fn key(setting: &str, path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let read = PrivateKeyDer::from_pem_file(path);
    read.map_err(|error| format!("can't read {setting} {}: {error}", path.display()))
}

/// What makes keys and checks signatures.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl TimeProvider for Floor {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.now())))
    }
}
