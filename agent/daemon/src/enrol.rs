//! The node's own certificate: a key that is made here and never leaves, and what an
//! authority vouches for of it.
//!
//! ```text
//! identity/node.pem   0600  the certificate, those that vouch for it, and the key: one
//!                           file, so that all of it changes at once
//! identity/next.key   0600  the key of a request that is under way
//! ```
//!
//! The uplink reads `node.pem` at each attempt where the agent's file names no certificate,
//! so that a new one needs no restart. One that has expired ends nothing but the link.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
};

use purlin_proto::api;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use rumqttc::tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Below the state directory.
pub const DIR: &str = "identity";
const PAIR: &str = "node.pem";
const NEXT: &str = "next.key";
/// A chain of some certificates; what is larger is none.
const MAX_BYTES: u64 = 64 << 10;
/// It is told from when a third of a certificate's time is left: months before its end for
/// one of a year, long enough for a technician to come by.
const TOLD_AT: u64 = 3;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it is for, its common name.
    pub node: String,
    /// From when and until when it holds, in seconds since 1970.
    pub not_before_unix_s: u64,
    /// The same.
    pub not_after_unix_s: u64,
}

/// The certificate and its key, in one file, where there are any.
pub fn pair(state: &Path) -> PathBuf {
    state.join(DIR).join(PAIR)
}

/// A request for a certificate (PKCS#10, PEM), by a new key; the same again until the
/// certificate is there.
pub fn request(state: &Path, node: &str) -> Result<String, String> {
    let next = state.join(DIR).join(NEXT);
    let key = match read_key(&next)? {
        Some(key) => key,
        None => {
            let key = KeyPair::generate().map_err(|error| error.to_string())?;
            keep(state, NEXT, &key.serialize_pem())?;
            key
        }
    };
    let request = || {
        let mut params = CertificateParams::new([node.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node);
        params.serialize_request(&key)?.pem()
    };
    request().map_err(|error| error.to_string())
}

/// Takes a certificate with those that vouch for it (PEM), if it is this node's: for its
/// id, by the key of the request or the one in use, and not expired.
pub fn accept(state: &Path, node: &str, pem: &str, now: u64) -> Result<Certificate, String> {
    let (leaf, certificate) = read(pem.as_bytes())?;
    if certificate.node != node {
        return Err(format!("it is for {}, and not for {node}", certificate.node));
    }
    if certificate.not_after_unix_s <= now {
        return Err(format!("it has ended at {}", certificate.not_after_unix_s));
    }
    let dir = state.join(DIR);
    let keys = [read_key(&dir.join(NEXT))?, read_key(&dir.join(PAIR))?];
    let key = keys.into_iter().flatten().find(|key| key.subject_public_key_info() == leaf);
    let key = key.ok_or(
        "it is for another key than this node has: ask for one with purlin node enrol request",
    )?;
    let chain = pem.trim_end();
    keep(state, PAIR, &format!("{chain}\n{}", key.serialize_pem()))?;
    match fs::remove_file(dir.join(NEXT)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(certificate),
    }
}

/// What is told of a certificate that ends soon.
pub fn faults(state: &Path, now: u64) -> Option<api::Fault> {
    let bytes = bounded(&pair(state)).ok().flatten()?;
    let fault = |what: String| api::Fault {
        id: "certificate-ends".into(),
        what,
        next: "`purlin node enrol request` asks for the next one; the node goes on without, and \
               spools"
            .into(),
    };
    let (_, certificate) = match read(&bytes) {
        Ok(read) => read,
        Err(why) => return Some(fault(format!("this node's certificate can't be read: {why}"))),
    };
    let Certificate { not_before_unix_s, not_after_unix_s, .. } = certificate;
    let left = not_after_unix_s.saturating_sub(now);
    let lifetime = not_after_unix_s.saturating_sub(not_before_unix_s);
    let days = left / 86_400;
    match left {
        0 => Some(fault("this node's certificate has ended: no broker lets it in".into())),
        _ if left < lifetime / TOLD_AT => {
            Some(fault(format!("this node's certificate ends in {days} days")))
        }
        _ => None,
    }
}

/// The first certificate's public key, and what it says.
fn read(pem: &[u8]) -> Result<(Vec<u8>, Certificate), String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| format!("no PEM: {error}"))?;
    let first = chain.first().ok_or("there is no certificate in it")?;
    let (_, read) = X509Certificate::from_der(first).map_err(|error| error.to_string())?;
    let names = read.subject().iter_common_name();
    let node = names.filter_map(|name| name.as_str().ok()).next();
    let seconds = |time: i64| u64::try_from(time).unwrap_or_default();
    let validity = read.validity();
    let certificate = Certificate {
        node: node.ok_or("it has no common name")?.to_owned(),
        not_before_unix_s: seconds(validity.not_before.timestamp()),
        not_after_unix_s: seconds(validity.not_after.timestamp()),
    };
    Ok((read.public_key().raw.to_vec(), certificate))
}

fn read_key(path: &Path) -> Result<Option<KeyPair>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let Some(bytes) = bounded(path).map_err(|error| failed(&error))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    // Certificates come before it.
    let key = text.find("-----BEGIN PRIVATE KEY-----").map(|at| &text[at..]);
    let key = key.ok_or_else(|| failed(&"there is no key in it"))?;
    KeyPair::from_pem(key).map(Some).map_err(|error| failed(&error))
}

fn bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Ok(it) if it.len() > MAX_BYTES => {
            Err(io::Error::other(format!("{} bytes: at most {MAX_BYTES}", it.len())))
        }
        _ => fs::read(path).map(Some),
    }
}

/// Writes a file of the state directory's owner alone, in place of the one before.
fn keep(state: &Path, name: &str, text: &str) -> Result<(), String> {
    let dir = state.join(DIR);
    let failed = |error: io::Error| format!("{}: {error}", dir.join(name).display());
    let owner = fs::metadata(state).map_err(failed)?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rcgen::{CertificateSigningRequestParams, CertifiedIssuer, IsCa, date_time_ymd};

    use super::*;

    /// What an authority makes of a request.
    fn signed(request: &str, ends_in: i32) -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let mut request = CertificateSigningRequestParams::from_pem(request).expect("a request");
        request.params.not_before = date_time_ymd(2020, 1, 1);
        request.params.not_after = date_time_ymd(ends_in, 1, 1);
        request.signed_by(&ca).expect("a certificate").pem()
    }

    const IN_2026: u64 = 1_790_000_000;

    #[test]
    fn a_certificate_is_taken_for_this_nodes_id_and_key_alone() {
        let (ours, other) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("one"));
        let (ours, other) = (ours.path(), other.path());
        let first = request(ours, "n1").expect("a request");
        let key = fs::read(ours.join(DIR).join(NEXT)).expect("a key");
        request(ours, "n1").expect("asked once more");
        assert_eq!(fs::read(ours.join(DIR).join(NEXT)).expect("a key"), key, "the same key");
        let foreign = signed(&request(other, "n1").expect("a request"), 3000);
        let why = accept(ours, "n1", &foreign, IN_2026).expect_err("another's key");
        assert!(why.contains("another key"), "{why}");
        let why = accept(ours, "n2", &signed(&first, 3000), IN_2026).expect_err("another's id");
        assert!(why.contains("for n1, and not for n2"), "{why}");
        assert!(accept(ours, "n1", &signed(&first, 2021), IN_2026).is_err(), "expired");
        assert!(accept(ours, "n1", "nonsense", IN_2026).is_err());
        assert!(!pair(ours).exists(), "and nothing was taken");
        accept(ours, "n1", &signed(&first, 3000), IN_2026).expect("taken");
        let mode = fs::metadata(pair(ours)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!ours.join(DIR).join(NEXT).exists());
        // The same key, for longer; and a new one.
        accept(ours, "n1", &signed(&first, 3001), IN_2026).expect("renewed");
        let next = request(ours, "n1").expect("a request");
        assert_eq!(accept(ours, "n1", &signed(&first, 3002), IN_2026).map(|_| ()), Ok(()));
        let why = accept(ours, "n1", &signed(&next, 3003), IN_2026).expect_err("its key is gone");
        assert!(why.contains("another key"), "{why}");
    }

    #[test]
    fn one_that_ends_soon_is_told_long_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path();
        assert_eq!(faults(state, IN_2026), None, "there is none");
        let request = request(state, "n1").expect("a request");
        accept(state, "n1", &signed(&request, 2031), IN_2026).expect("taken");
        assert_eq!(faults(state, IN_2026), None);
        let in_2028 = IN_2026 + 2 * 365 * 86_400;
        let told = faults(state, in_2028).expect("told").what;
        assert!(told.contains("ends in 8"), "{told}");
        let told = faults(state, IN_2026 * 2).expect("told").what;
        assert!(told.contains("has ended"), "{told}");
        fs::write(pair(state), "torn").expect("written");
        assert!(faults(state, IN_2026).expect("told").what.contains("can't be read"));
    }
}
