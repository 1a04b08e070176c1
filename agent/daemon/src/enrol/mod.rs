//! The node's own certificate: a key that is made here and never leaves, and what an
//! authority vouches for of it.
//!
//! ```text
//! identity/node.pem   0600  the certificate, those that vouch for it, and the key: one
//!                           file, so that all of it changes at once
//! identity/next.pem   0600  the same, while it is tried
//! identity/next.key   0600  the key of a request that is under way
//! ```
//!
//! The uplink reads `node.pem` at each attempt where the agent's file names no certificate,
//! so that a new one needs no restart. One that has expired ends nothing but the link.
//! The first one comes by files or by a one-time [`token`], the next by the one before
//! ([`task`]).

use std::{
    fs,
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
};

use purlin_proto::{
    api,
    v1::{self, enrol_request::By},
};
use rcgen::{CertificateParams, CertificateSigningRequest, DistinguishedName, DnType, KeyPair};
use rumqttc::tokio_rustls::rustls::pki_types::CertificateDer;

mod ask;
pub mod certificate;
pub mod key;
mod pkcs11;
pub mod task;
pub mod token;

pub use ask::ask;
pub use certificate::{Certificate, Chain};
pub use key::Store;
pub use pkcs11::{Token, Uri};

use crate::{boot::credential, state};
use key::{Key, TokenKey};

/// Below the state directory.
pub const DIR: &str = "identity";
const PAIR: &str = "node.pem";
const NEXT_PAIR: &str = "next.pem";
const NEXT_KEY: &str = "next.key";
/// A chain of some certificates; what is larger is none.
const MAX_BYTES: u64 = 64 << 10;
/// It is told from when a third of a certificate's time is left: months before its end for
/// one of a year, long enough for a technician to come by.
const TOLD_AT: u64 = 3;

/// Whose certificate it is, and where it is kept.
#[derive(Clone, Debug)]
pub struct Node {
    /// State directory.
    pub state: PathBuf,
    /// Fleet.
    pub fleet: String,
    /// The node's id.
    pub id: String,
    /// Where its key is.
    pub key: Store,
}

/// The certificate in use.
#[derive(Clone, Debug)]
pub struct Held {
    /// What it says.
    pub certificate: Certificate,
    /// It and those that vouch for it.
    pub chain: Chain,
}

/// The certificate and its key, in one file, where there are any.
pub fn pair(state: &Path) -> PathBuf {
    state.join(DIR).join(PAIR)
}

impl Node {
    /// The same of this node.
    pub fn pair(&self) -> PathBuf {
        pair(&self.state)
    }

    /// The same of one that is only tried.
    pub fn next_pair(&self) -> PathBuf {
        self.dir().join(NEXT_PAIR)
    }

    fn dir(&self) -> PathBuf {
        self.state.join(DIR)
    }

    /// The certificate in use, if there is one.
    pub fn held(&self) -> Result<Option<Held>, String> {
        let path = self.pair();
        let failed = |why: String| format!("{}: {why}", path.display());
        let bytes = state::read(&path, MAX_BYTES).map_err(|error| failed(error.to_string()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let chain = certificate::chain(&bytes).map_err(failed)?;
        let certificate = Certificate::read(&chain[0]).map_err(failed)?;
        Ok(Some(Held { certificate, chain }))
    }

    /// A request for a certificate (PKCS#10), by a new key; the same key again until the
    /// certificate is there.
    pub fn request(&self) -> Result<CertificateSigningRequest, String> {
        let key = self.asking_key()?;
        let mut params = CertificateParams::new([self.id.clone()]).map_err(text)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.id.as_str());
        key.request(params)
    }

    /// The key that is asked for a certificate for.
    fn asking_key(&self) -> Result<Key, String> {
        if let Store::Token(token) = &self.key {
            let point = token.point_or_make()?;
            return Ok(Key::Token(TokenKey { token: token.clone(), point }));
        }
        if let Some(key) = self.keys()?.into_iter().next() {
            return Ok(key);
        }
        let key = KeyPair::generate().map_err(text)?;
        self.keep(NEXT_KEY, &key.serialize_pem())?;
        Ok(Key::Pair(key.into()))
    }

    /// The keys that a certificate may be for: that of a request first.
    fn keys(&self) -> Result<Vec<Key>, String> {
        Ok(match &self.key {
            Store::Own => read_key(&self.dir().join(NEXT_KEY))?.into_iter().collect(),
            Store::File(file) => {
                let file = credential("uplink.client_key", file)?;
                let key = read_key(&file)?;
                vec![key.ok_or_else(|| format!("there is no key {}", file.display()))?]
            }
            Store::Token(token) => {
                vec![Key::Token(TokenKey { token: token.clone(), point: token.point()? })]
            }
        })
    }

    /// The key of the certificate in use.
    fn held_key(&self) -> Result<Option<Key>, String> {
        match self.key {
            Store::Own => read_key(&self.pair()),
            _ => Ok(self.keys()?.into_iter().next()),
        }
    }

    /// What is asked with for the first certificate.
    pub fn ask_by_token(&self, token: &v1::EnrolToken) -> Result<v1::EnrolRequest, String> {
        if token.fleet != self.fleet {
            return Err(format!("the token is of fleet {}: this is {}", token.fleet, self.fleet));
        }
        let csr = self.request()?.der().to_vec();
        let mac = token::prove(token, &token::claim(&self.fleet, &self.id, &csr)).into();
        let by = By::Token(v1::TokenProof { id: token.id.clone(), mac });
        Ok(v1::EnrolRequest { csr: csr.into(), by: Some(by) })
    }

    /// What is asked with for the next.
    pub fn ask_by_certificate(&self, held: &Held) -> Result<v1::EnrolRequest, String> {
        let csr = self.request()?.der().to_vec();
        let key = self.held_key()?.ok_or("the key of the certificate is gone")?;
        let said = token::renewal(&self.fleet, &self.id, &csr);
        let signature = key.sign(&said)?.into();
        let certificate = held.chain[0].to_vec().into();
        let by = By::Certificate(v1::CertificateProof { certificate, signature });
        Ok(v1::EnrolRequest { csr: csr.into(), by: Some(by) })
    }

    /// Takes a certificate with those that vouch for it (PEM), if it is this node's: for its
    /// id, by the key of the request or the one in use, and not expired. By whom it is, who
    /// brings it knows.
    pub fn accept(&self, pem: &str, now: u64) -> Result<Certificate, String> {
        let certificate = self.try_out(pem, now)?;
        self.take()?;
        Ok(certificate)
    }

    /// Puts it beside the one in use, to be tried.
    pub fn try_out(&self, pem: &str, now: u64) -> Result<Certificate, String> {
        let certificate = Certificate::read(&certificate::chain(pem.as_bytes())?[0])?;
        if certificate.node != self.id {
            return Err(format!("it is for {}, and not for {}", certificate.node, self.id));
        }
        if certificate.not_after_unix_s <= now {
            return Err(format!("it has ended at {}", certificate.not_after_unix_s));
        }
        let keys = self.keys()?.into_iter().chain(self.held_key()?);
        let key = keys.into_iter().find(|key| key.public() == certificate.public_key);
        let key = key.ok_or(
            "it is for another key than this node has: ask for one with purlin node enrol request",
        )?;
        // What is somebody else's to keep is not copied.
        let beside = if matches!(self.key, Store::Own) { key.pem() } else { String::new() };
        self.keep(NEXT_PAIR, &format!("{}\n{beside}", pem.trim_end()))?;
        Ok(certificate)
    }

    /// Takes the one that was tried in place of the one in use.
    pub fn take(&self) -> Result<(), String> {
        let failed = |error: io::Error| format!("{}: {error}", self.pair().display());
        fs::rename(self.next_pair(), self.pair()).map_err(failed)?;
        fs::File::open(self.dir()).and_then(|dir| dir.sync_all()).map_err(failed)?;
        match fs::remove_file(self.dir().join(NEXT_KEY)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// What came for a token, if it is by the authority that the token names.
    pub fn judge_first(
        &self,
        chain: &Chain,
        token: &v1::EnrolToken,
        now: u64,
    ) -> Result<u64, String> {
        let is_named = |it: &&CertificateDer<'_>| {
            certificate::pin(it).is_ok_and(|pin| pin == token.authority[..])
        };
        let authority = chain.iter().skip(1).find(is_named);
        let authority = authority.ok_or("it is not by the authority that the token names")?;
        judge(chain, authority, now)
    }

    /// What came for the one in use, if it is by the same authority.
    pub fn judge_next(&self, chain: &Chain, held: &Held, now: u64) -> Result<u64, String> {
        let authority = held.authority().ok_or("the certificate in use names no authority")?;
        judge(chain, authority, now)
    }

    /// What is told of a certificate that ends soon.
    pub fn faults(&self, now: u64) -> Option<api::Fault> {
        let fault = |what: String| api::Fault {
            id: "certificate-ends".into(),
            what,
            next: "`purlin node enrol request` asks for the next one by files; the node goes on \
                   without, and spools"
                .into(),
        };
        let certificate = match self.held() {
            Ok(held) => held?.certificate,
            Err(why) => {
                return Some(fault(format!("this node's certificate can't be read: {why}")));
            }
        };
        let left = certificate.not_after_unix_s.saturating_sub(now);
        let days = left / 86_400;
        match left {
            0 => Some(fault("this node's certificate has ended: no broker lets it in".into())),
            _ if left < certificate.lifetime_s() / TOLD_AT => {
                Some(fault(format!("this node's certificate ends in {days} days")))
            }
            _ => None,
        }
    }

    /// Writes a file of the state directory's owner alone, in place of the one before.
    fn keep(&self, name: &str, text: &str) -> Result<(), String> {
        let dir = self.dir();
        let failed = |error: io::Error| format!("{}: {error}", dir.join(name).display());
        let owner = fs::metadata(&self.state).map_err(failed)?;
        let own = |path: &Path| match nix::unistd::geteuid().is_root() {
            true => chown(path, Some(owner.uid()), Some(owner.gid())),
            false => Ok(()),
        };
        let kept = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            own(&dir)?;
            let new = dir.join(format!("{name}.new"));
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(text.as_bytes())?;
            own(&new)?;
            file.sync_all()?;
            fs::rename(&new, dir.join(name))?;
            fs::File::open(&dir)?.sync_all()
        };
        kept().map_err(failed)
    }
}

impl Held {
    /// Whose word it is: the last of those that vouch for it, if they came along.
    pub fn authority(&self) -> Option<&CertificateDer<'static>> {
        self.chain.iter().skip(1).next_back()
    }
}

/// Whether it is of that authority; from when on it holds. Our own clock may be behind: that
/// an authority which is believed has made it is how late it is at least.
fn judge(chain: &Chain, authority: &CertificateDer<'_>, now: u64) -> Result<u64, String> {
    let since = Certificate::read(&chain[0])?.not_before_unix_s;
    certificate::verify(chain, authority, now.max(since))
        .map_err(|why| format!("what came is no certificate of our authority: {why}"))?;
    Ok(since)
}

fn read_key(path: &Path) -> Result<Option<Key>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = state::read(path, MAX_BYTES).map_err(|error| failed(&error))?;
    let Some(bytes) = bytes else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    // Certificates come before it.
    let key = text.find("-----BEGIN PRIVATE KEY-----").map(|at| &text[at..]);
    let key = key.ok_or_else(|| failed(&"there is no key in it"))?;
    let key = KeyPair::from_pem(key).map_err(|error| failed(&error))?;
    Ok(Some(Key::Pair(key.into())))
}

fn text(error: rcgen::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests;
