//! Who this node is in its rack, and who others are: mutual TLS with names as SPIFFE has
//! them, from files in the mesh's own directory.
//!
//! ```text
//! identity/rack.pem     the rack's roots
//! identity/node.pem     this node's key and certificate, and who vouches for it
//! identity/issuer.pem   where this node renews those of others: an issuer's, with its key
//! identity/revoked      the list of nodes that stay out (purlin.v1.SignedRevocations)
//! ```
//!
//! They are looked at once a second, so that whatever puts others there needs no restart
//! and no signal. Files that can't be used change nothing: the last good ones stay.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use purlin_core::mesh::{
    credential::{Revocations, Window},
    spiffe::{Id, Kind},
};
use rcgen::{CertificateParams, KeyPair, SigningKey};
use tokio_rustls::rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    version::TLS13,
};

pub mod authority;
pub mod clock;
mod parsed;
mod pem;
mod verify;

pub use self::verify::{Lapsed, Peer, Refused, Verifier};
use self::{authority::Authority, clock::Clock, parsed::Parsed};
use crate::keep;

/// The directory, beside the table.
pub const DIR: &str = "identity";
/// This node's own.
pub const NODE: &str = "node.pem";
/// The rack's roots.
pub const RACK: &str = "rack.pem";
/// An issuer's.
pub const ISSUER: &str = "issuer.pem";
/// Who stays out.
pub const REVOKED: &str = "revoked";
const FILES: [&str; 4] = [RACK, NODE, ISSUER, REVOKED];
/// The longest of them, in bytes.
const MAX_BYTES: u64 = 256 << 10;
/// HTTP/2, and nothing else.
const ALPN: &[u8] = b"h2";

/// Who this node is. Whatever changes makes another one.
#[derive(Debug)]
pub struct Identity {
    /// This node's name.
    pub id: String,
    /// Its node id.
    pub node: String,
    /// When its certificate is good.
    pub window: Window,
    /// Our end of a connection to another node.
    pub client: Arc<ClientConfig>,
    /// Our end of one from another node.
    pub server: Arc<ServerConfig>,
    /// Who others are.
    pub verifier: Arc<Verifier>,
    /// What renews certificates of others, on some nodes.
    pub issuer: Option<Authority>,
    /// The list of who stays out, as it is handed on.
    pub revoked: Vec<u8>,
    /// Its certificate, and that of who vouches for it.
    pub chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    clock: Clock,
}

impl Identity {
    /// Reads the files. `None` if there is none: the node is in no rack.
    fn read(
        dir: &Path,
        clock: &Clock,
        grace_s: u64,
        lapsed: &Lapsed,
    ) -> Result<Option<Self>, String> {
        let told = |name: &str, why: &dyn std::fmt::Display| {
            format!("{}: {why}", dir.join(name).display())
        };
        let Some(own) = read(dir, NODE)? else { return Ok(None) };
        let roots = read(dir, RACK)?.ok_or_else(|| told(RACK, &"it is missing"))?;
        let roots = pem::certificates(&roots).map_err(|why| told(RACK, &why))?;
        let (chain, key) = pem::identity(&own).map_err(|why| told(NODE, &why))?;
        let leaf = Parsed::read(&chain[0]).map_err(|why| told(NODE, &why))?;
        let Kind::Node(node) = leaf.id.kind.clone() else {
            return Err(told(NODE, &format!("{} is no node", leaf.id)));
        };
        let revoked = read_bytes(dir, REVOKED)?.unwrap_or_default();
        let revocations = match revoked.is_empty() {
            true => Revocations::default(),
            false => authority::revocations(&revoked, &roots, &leaf.id.rack)
                .map_err(|why| told(REVOKED, &why))?,
        };
        clock.learn(leaf.window.from);
        clock.learn(revocations.issued);
        let issuer = read(dir, ISSUER)?.map(|text| Authority::read(&text)).transpose();
        let issuer = issuer.map_err(|why| told(ISSUER, &why))?;
        let (rack, lapsed) = (leaf.id.rack.clone(), lapsed.clone());
        let verifier = Verifier::new(&roots, rack, revocations, clock.clone(), grace_s, lapsed)
            .map(Arc::new)
            .map_err(|why| told(RACK, &why))?;
        let signing = KeyPair::from_pem(&key).map_err(|why| told(NODE, &why))?;
        let key = pem::key(&key).map_err(|why| told(NODE, &why))?;
        let (client, server) =
            tls(&verifier, &chain, &key.into()).map_err(|error| told(NODE, &error))?;
        Ok(Some(Self {
            id: leaf.id.to_string(),
            node,
            window: leaf.window,
            client: Arc::new(client),
            server: Arc::new(server),
            verifier,
            issuer,
            revoked,
            chain,
            key: signing,
            clock: clock.clone(),
        }))
    }

    /// A signature by the certificate's key.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        self.key.sign(message).map_err(|error| error.to_string())
    }

    /// A certificate for who asks and has proved who it is.
    pub fn answer(&self, who: &Id, life_s: u64, request: &[u8]) -> Result<Vec<u8>, String> {
        let issuer = self.issuer.as_ref().ok_or("no issuer is on this node")?;
        let list = self.verifier.revocations();
        let chain = issuer.answer(who, request, self.clock.now().unix_s, life_s, list)?;
        tracing::info!(%who, "a certificate was made");
        Ok(pem::write("", &chain.iter().collect::<Vec<_>>()).into_bytes())
    }

    /// The next certificate of this very node, where it has an issuer.
    pub fn answer_own(&self, request: &[u8]) -> Option<Result<Vec<u8>, String>> {
        let id = Id::parse(&self.id)?;
        let life_s = self.window.until - self.window.from;
        self.issuer.as_ref().map(|_| self.answer(&id, life_s, request))
    }

    /// Whether it is time for the next certificate.
    pub fn is_to_be_renewed(&self) -> bool {
        self.clock.now().unix_s >= self.window.renew_at()
    }
}

fn tls(
    verifier: &Arc<Verifier>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(ClientConfig, ServerConfig), tokio_rustls::rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_auth_cert(chain.to_vec(), key.clone_key())?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier.clone())
        .with_single_cert(chain.to_vec(), key.clone_key())?;
    (client.alpn_protocols, server.alpn_protocols) = (vec![ALPN.into()], vec![ALPN.into()]);
    // A session that is taken up again is one whose certificate nobody looks at.
    client.resumption = Resumption::disabled();
    server.send_tls13_tickets = 0;
    // There is a name in the certificate, and none in the greeting.
    client.enable_sni = false;
    Ok((client, server))
}

/// A request for a certificate, and the key that it is for.
pub fn request() -> Result<(Vec<u8>, String), String> {
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let request = CertificateParams::default().serialize_request(&key);
    Ok((request.map_err(|error| error.to_string())?.der().to_vec(), key.serialize_pem()))
}

/// Looks after the files.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    clock: Clock,
    lapsed: Lapsed,
    grace_s: u64,
    stamps: Option<[Option<Stamp>; 4]>,
    identity: Option<Arc<Identity>>,
    problem: Option<String>,
}

/// What a file was when it was last read.
type Stamp = (SystemTime, u64, u64);

impl Keeper {
    /// Of a mesh's directory.
    pub fn new(dir: &Path, clock: Clock) -> Self {
        Self {
            dir: dir.join(DIR),
            clock,
            lapsed: Lapsed::default(),
            grace_s: 0,
            stamps: None,
            identity: None,
            problem: None,
        }
    }

    /// The time, as far as anybody agrees.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Who this node is now.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// Reads the files anew, where any is another one than before; whether that changed
    /// anything.
    pub fn look(&mut self, grace_s: u64) -> bool {
        let stamps = FILES.map(|name| stamp(&self.dir.join(name)));
        if self.stamps == Some(stamps) && self.grace_s == grace_s {
            return false;
        }
        (self.stamps, self.grace_s) = (Some(stamps), grace_s);
        match Identity::read(&self.dir, &self.clock, grace_s, &self.lapsed) {
            Ok(identity) => {
                let id = identity.as_ref().map(|it| it.id.as_str()).unwrap_or("nobody");
                tracing::info!(id, "who this node is was read");
                (self.identity, self.problem) = (identity.map(Arc::new), None);
                true
            }
            Err(why) => {
                tracing::error!(why, "the last good identity stays");
                self.problem = Some(format!("{why}; the last good one stays in force"));
                false
            }
        }
    }

    /// Puts another certificate and its key in place of this node's.
    pub fn renew(&self, chain: &[u8], key: &str) -> Result<(), String> {
        let before = self.identity.as_ref().ok_or("there is nothing to renew")?;
        let text = format!("{key}{}", String::from_utf8_lossy(chain));
        let (chain, _) = pem::identity(&text)?;
        let usage = webpki::KeyUsage::server_auth();
        let own = before.verifier.peer(&chain, usage).map_err(|why| why.to_string())?;
        if own.id.to_string() != before.id {
            return Err(format!("it is for {}", own.id));
        }
        let path = self.dir.join(NODE);
        keep::replace(&path, 0o600, text.as_bytes())
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Keeps a list of revocations, if it is newer.
    pub fn revoke(&self, bytes: &[u8]) -> Result<(), String> {
        let before = self.identity.as_ref().ok_or("this node is in no rack")?;
        let roots = read(&self.dir, RACK)?.unwrap_or_default();
        let rack = Id::parse(&before.id).map(|it| it.rack).unwrap_or_default();
        let list = authority::revocations(bytes, &pem::certificates(&roots)?, &rack)?;
        let known = before.verifier.revocations().number;
        if list.number <= known {
            return Err(format!("list {}, and {known} is known", list.number));
        }
        let path = self.dir.join(REVOKED);
        keep::replace(&path, 0o600, bytes).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// What is wrong.
    pub fn problems(&self) -> Vec<String> {
        let own = self.identity.as_ref().and_then(|it| {
            let out_by = it.window.out_by(self.clock.now().unix_s);
            (out_by > 0).then(|| {
                format!(
                    "the certificate of this node is out of its time by {} minutes",
                    out_by / 60
                )
            })
        });
        self.problem.iter().cloned().chain(own).collect()
    }

    /// Nodes whose certificates are out of their time and taken all the same, a line each.
    pub fn lapsed(&self) -> Vec<String> {
        self.lapsed.told()
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let it = fs::metadata(path).ok()?;
    Some((it.modified().ok()?, it.ino(), it.len()))
}

fn read(dir: &Path, name: &str) -> Result<Option<String>, String> {
    let bytes = read_bytes(dir, name)?;
    let text = bytes.map(String::from_utf8).transpose();
    text.map_err(|_| format!("{} is no text", dir.join(name).display()))
}

fn read_bytes(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, String> {
    let path = dir.join(name);
    keep::contents(&path, MAX_BYTES).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
