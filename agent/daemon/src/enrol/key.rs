//! Where the node's key is: in a file that the node made, in one that somebody else made, or
//! in a token that signs with it and never gives it away.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    CertificateParams, CertificateSigningRequest, PublicKeyData, SignatureAlgorithm, SigningKey,
};
use rumqttc::tokio_rustls::rustls::{
    self,
    pki_types::{PrivateKeyDer, pem::PemObject},
};

use super::pkcs11::Token;
use crate::boot::credential;

/// Where it is.
#[derive(Clone, Debug, Default)]
pub enum Store {
    /// Made here, in the certificate's own file.
    #[default]
    Own,
    /// A file of PEM, which may be a credential of systemd's.
    File(PathBuf),
    /// A token behind PKCS#11.
    Token(Arc<Token>),
}

/// A key that signs.
#[derive(Debug)]
pub enum Key {
    /// Its bytes are here.
    Pair(Box<rcgen::KeyPair>),
    /// They are nowhere but in the token.
    Token(TokenKey),
}

/// A key in a token, and its public half.
#[derive(Clone, Debug)]
pub struct TokenKey {
    /// The token.
    pub token: Arc<Token>,
    /// The public key, an uncompressed point (SEC 1, 2.3.3).
    pub point: Vec<u8>,
}

impl Key {
    /// A request for a certificate by it.
    pub fn request(&self, params: CertificateParams) -> Result<CertificateSigningRequest, String> {
        let request = match self {
            Key::Pair(key) => params.serialize_request(key.as_ref()),
            Key::Token(key) => params.serialize_request(key),
        };
        request.map_err(|error| error.to_string())
    }

    /// Its signature: ECDSA P-256 with SHA-256, ASN.1.
    pub fn sign(&self, said: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Key::Pair(key) => key.sign(said).map_err(|error| error.to_string()),
            Key::Token(key) => key.token.sign(said),
        }
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn public(&self) -> Vec<u8> {
        match self {
            Key::Pair(key) => key.subject_public_key_info(),
            Key::Token(key) => key.subject_public_key_info(),
        }
    }

    /// As it stands beside a certificate in a file; nothing of one that is elsewhere.
    pub fn pem(&self) -> String {
        match self {
            Key::Pair(key) => key.serialize_pem(),
            Key::Token(_) => String::new(),
        }
    }
}

impl PublicKeyData for TokenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for TokenKey {
    fn sign(&self, said: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.token.sign(said).map_err(|why| {
            tracing::warn!(why, "the token did not sign");
            rcgen::Error::RemoteKeyError
        })
    }
}

/// What TLS signs with.
pub fn for_tls(store: &Store, own: &Path) -> Result<Arc<dyn rustls::sign::SigningKey>, String> {
    let file = match store {
        Store::Own => own.into(),
        Store::File(file) => credential("uplink.client_key", file)?,
        Store::Token(token) => return Ok(Arc::new(InToken(token.clone()))),
    };
    let failed = |error: &dyn std::fmt::Display| {
        format!("can't read uplink.client_key {}: {error}", file.display())
    };
    let key = PrivateKeyDer::from_pem_file(&file).map_err(|error| failed(&error))?;
    let provider = rustls::crypto::ring::default_provider();
    provider.key_provider.load_private_key(key).map_err(|error| failed(&error))
}

#[derive(Clone, Debug)]
struct InToken(Arc<Token>);

impl rustls::sign::SigningKey for InToken {
    fn choose_scheme(
        &self,
        offered: &[rustls::SignatureScheme],
    ) -> Option<Box<dyn rustls::sign::Signer>> {
        let ours = rustls::SignatureScheme::ECDSA_NISTP256_SHA256;
        offered.contains(&ours).then(|| Box::new(self.clone()) as _)
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::ECDSA
    }
}

impl rustls::sign::Signer for InToken {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0.sign(message).map_err(|why| rustls::Error::General(format!("the key: {why}")))
    }

    fn scheme(&self) -> rustls::SignatureScheme {
        rustls::SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
