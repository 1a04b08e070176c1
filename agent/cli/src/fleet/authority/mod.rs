//! The authority of a fleet, in a directory that belongs on a machine which is no node: it
//! makes certificates out of what nodes ask for.
//!
//! ```text
//! ca.pem            what brokers and nodes trust
//! ca.key            0600; to be carried away, unless requests are served
//! fleet             the fleet's name
//! issued/NODE.pem   the latest certificate of each node
//! tokens/ID.token   0600, a one-time token that was handed out
//! tokens/ID.spent   whom it let in, and the certificate
//! denied            node ids, one a line, that get no certificate over the broker any more
//! ```

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use purlin_daemon::enrol::{Chain, certificate};
use purlin_proto::topic;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use crate::{
    args::{AuthorityArgs, CertifyArgs},
    exit::{Ended, Exit, Failure},
    output::Output,
};

mod judge;
pub mod serve;
pub mod token;

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";
const FLEET: &str = "fleet";
const ISSUED: &str = "issued";
const DENIED: &str = "denied";
/// Of an authority: it is replaced by hand, on every broker and node.
const LASTS: Duration = Duration::from_secs(3650 * 86_400);
/// Clocks of nodes may be behind the authority's by so much. A short life begins later, so
/// that it is not half over when it begins.
const BEFORE: Duration = Duration::from_secs(86_400);

/// An authority that makes certificates.
struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// Its own.
    certificates: Chain,
}

impl Authority {
    fn open(dir: &Path) -> Result<Self, String> {
        let (key, ca) = (read(&dir.join(KEY))?, read(&dir.join(CERTIFICATE))?);
        let key = KeyPair::from_pem(&key).map_err(text)?;
        let certificates = certificate::chain(ca.as_bytes())
            .map_err(|why| format!("{}: {why}", dir.join(CERTIFICATE).display()))?;
        let issuer = Issuer::from_ca_cert_pem(&ca, key).map_err(text)?;
        Ok(Self { dir: dir.into(), issuer, certificates })
    }

    /// Makes a certificate out of a request, and keeps it as the node's latest.
    fn certify(
        &self,
        node: &str,
        request: CertificateSigningRequestParams,
        lasts: Duration,
    ) -> Result<Chain, String> {
        let chain = self.make(node, request, lasts)?;
        self.keep(node, &chain)?;
        Ok(chain)
    }

    /// Makes a certificate. Of what is asked for only the key counts.
    fn make(
        &self,
        node: &str,
        mut request: CertificateSigningRequestParams,
        lasts: Duration,
    ) -> Result<Chain, String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node);
        params.subject_alt_names = vec![SanType::DnsName(node.try_into().map_err(text)?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        valid(&mut params, lasts);
        request.params = params;
        let made = request.signed_by(&self.issuer).map_err(text)?;
        Ok([made.der().clone()].into_iter().chain(self.certificates.iter().cloned()).collect())
    }

    /// Keeps it as the node's latest.
    fn keep(&self, node: &str, chain: &Chain) -> Result<(), String> {
        let dir = self.dir.join(ISSUED);
        make_dir(&dir)?;
        write_over(&dir.join(format!("{node}.pem")), &certificate::pem(chain), 0o644)
    }

    /// The latest certificate of a node.
    fn issued(&self, node: &str) -> Result<Option<Chain>, String> {
        let path = self.dir.join(ISSUED).join(format!("{node}.pem"));
        if !path.exists() {
            return Ok(None);
        }
        let chain = certificate::chain(read(&path)?.as_bytes());
        chain.map(Some).map_err(|why| format!("{}: {why}", path.display()))
    }

    fn is_denied(&self, node: &str) -> Result<bool, String> {
        let path = self.dir.join(DENIED);
        Ok(path.exists() && read(&path)?.lines().any(|line| line.trim() == node))
    }
}

/// `purlin fleet authority`
pub fn make(args: &AuthorityArgs, output: &Output) -> Ended {
    let dir = &args.dir;
    found(dir, &args.fleet).map_err(Failure::Failed)?;
    output.text(&format!(
        "The authority of fleet {} is in {dir}. Give {CERTIFICATE} to the broker (cafile,\n\
         require_certificate). Next, over the broker (docs/broker.md):\n\
         \x20 purlin fleet token make --authority {dir} --node NODE > NODE.token\n\
         \x20 purlin fleet enrol --authority {dir} --broker mqtts://…\n\
         \x20 purlin node enrol --token-file NODE.token   on the node\n\
         or by files:\n\
         \x20 purlin node enrol request NODE.csr          on the node\n\
         \x20 purlin fleet certify NODE.csr NODE.pem --authority {dir}\n\
         \x20 purlin node enrol accept NODE.pem           on the node again\n",
        args.fleet,
        dir = dir.display(),
    ))?;
    Ok(Exit::Ok)
}

fn found(dir: &Path, fleet: &str) -> Result<(), String> {
    make_dir(dir)?;
    let key = KeyPair::generate().map_err(text)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Purlin fleet {fleet}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, LASTS);
    let certificate = params.self_signed(&key).map_err(text)?;
    // The key first: it is never written over.
    write_new(&dir.join(KEY), &key.serialize_pem(), 0o600)?;
    write_new(&dir.join(CERTIFICATE), &certificate.pem(), 0o644)?;
    write_over(&dir.join(FLEET), &format!("{fleet}\n"), 0o644)
}

/// `purlin fleet certify`
pub fn certify(args: &CertifyArgs, output: &Output) -> Ended {
    let node = certified(args).map_err(Failure::Failed)?;
    output.text(&format!("A certificate for {node} is in {}.\n", args.out.display()))?;
    Ok(Exit::Ok)
}

fn certified(args: &CertifyArgs) -> Result<String, String> {
    let authority = Authority::open(&args.authority)?;
    let failed = |why: String| format!("{}: {why}", args.request.display());
    let request = CertificateSigningRequestParams::from_pem(&read(&args.request)?);
    let request = request.map_err(|error| failed(error.to_string()))?;
    let name = name(&request).map_err(failed)?;
    if args.node.as_ref().is_some_and(|node| *node != name) {
        return Err(failed(format!("it is of node {name}")));
    }
    let chain = authority.certify(&name, request, args.lasts)?;
    fs::write(&args.out, certificate::pem(&chain))
        .map_err(|error| format!("{}: {error}", args.out.display()))?;
    Ok(name)
}

/// Whose request it is.
fn name(request: &CertificateSigningRequestParams) -> Result<String, String> {
    let name = match request.params.distinguished_name.get(&DnType::CommonName) {
        Some(DnValue::Utf8String(name)) => name.clone(),
        _ => String::new(),
    };
    if topic::is_level(&name) { Ok(name) } else { Err(format!("{name:?} is no node's id")) }
}

fn valid(params: &mut CertificateParams, lasts: Duration) {
    let now = OffsetDateTime::from(SystemTime::now());
    (params.not_before, params.not_after) = (now - BEFORE.min(lasts / 10), now + lasts);
}

/// In seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn make_dir(dir: &Path) -> Result<(), String> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| format!("{}: {error}", dir.display()))
}

/// Writes a file that isn't there yet, whole: whoever else does so at the same moment is told
/// that it is.
fn write_new(path: &Path, content: &str, mode: u32) -> Result<(), String> {
    let temporary = temporary(path);
    let written = write(&temporary, content, mode)
        .and_then(|()| fs::hard_link(&temporary, path))
        .and_then(|()| fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all());
    _ = fs::remove_file(temporary);
    written.map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes a file in place of the one before.
fn write_over(path: &Path, content: &str, mode: u32) -> Result<(), String> {
    let temporary = temporary(path);
    let written = write(&temporary, content, mode)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all());
    written.map_err(|error| format!("{}: {error}", path.display()))
}

fn temporary(path: &Path) -> PathBuf {
    path.with_added_extension(format!("{}.new", std::process::id()))
}

fn write(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all())
}

fn text(error: rcgen::Error) -> String {
    error.to_string()
}
