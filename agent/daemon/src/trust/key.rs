//! Private keys: Ed25519 in PKCS#8 (RFC 8410), in a file that is its owner's alone.

use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use purlin_core::trust::KeyId;
use ring::{
    digest,
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};

/// A private key.
#[derive(Debug)]
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Makes one, in a file that isn't there yet.
    pub fn make(path: &Path) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| failed(&"the kernel gives no random bytes"))?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| failed(&error))?;
        file.write_all(pkcs8.as_ref())
            .and_then(|()| file.sync_all())
            .map_err(|error| failed(&error))?;
        Self::of(pkcs8.as_ref()).map_err(|error| failed(&error))
    }

    /// Reads one. A file that others may read is refused.
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let mode = fs::metadata(path).map_err(|error| failed(&error))?.permissions().mode();
        if mode & 0o077 != 0 {
            let what = format!("mode {:o}: others may read it; chmod 600 it", mode & 0o777);
            return Err(failed(&what));
        }
        let bytes = fs::read(path).map_err(|error| failed(&error))?;
        Self::of(&bytes).map_err(|error| failed(&error))
    }

    fn of(pkcs8: &[u8]) -> Result<Self, String> {
        Ed25519KeyPair::from_pkcs8(pkcs8)
            .map(Self)
            .map_err(|error| format!("no Ed25519 key: {error}"))
    }

    /// Its public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    /// What it is known by.
    pub fn id(&self) -> KeyId {
        id_of(&self.public())
    }

    /// Its signature.
    pub fn sign(&self, data: &[u8]) -> Vec<u8> {
        self.0.sign(data).as_ref().to_vec()
    }
}

/// What a public key is known by.
pub fn id_of(public: &[u8; 32]) -> KeyId {
    let digest = digest::digest(&digest::SHA256, public);
    digest.as_ref()[..8].try_into().expect("SHA-256 has 32 bytes")
}
