//! The authority of a fleet, in a directory that belongs on a machine which is no node: it
//! makes certificates out of what nodes ask for.
//!
//! ```text
//! ca.pem   what brokers and nodes trust
//! ca.key   0600, to be carried away
//! ```

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::SystemTime,
};

use purlin_proto::topic;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::{
    args::{AuthorityArgs, CertifyArgs},
    exit::{Ended, Exit, Failure},
    output::Output,
};

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";
/// Of an authority: it is replaced by hand, on every broker and node.
const AUTHORITY_DAYS: i64 = 3650;
/// Clocks of nodes may be behind the authority's by so much.
const BEFORE: Duration = Duration::days(1);

/// `purlin fleet authority`
pub fn make(args: &AuthorityArgs, output: &Output) -> Ended {
    let dir = &args.dir;
    let made = || -> Result<(), String> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| format!("{}: {error}", dir.display()))?;
        let key = KeyPair::generate().map_err(text)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Purlin fleet {}", args.fleet));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut params, Duration::days(AUTHORITY_DAYS));
        let certificate = params.self_signed(&key).map_err(text)?;
        // The key first: it is never written over.
        write_new(&dir.join(KEY), &key.serialize_pem(), 0o600)?;
        write_new(&dir.join(CERTIFICATE), &certificate.pem(), 0o644)
    };
    made().map_err(Failure::Failed)?;
    output.text(&format!(
        "The authority of fleet {} is in {}. Next:\n\
         \x20 give {CERTIFICATE} to the broker (cafile, require_certificate)\n\
         \x20 purlin node enrol request NODE.csr     on each node\n\
         \x20 purlin fleet certify NODE.csr NODE.pem --authority {}\n\
         \x20 purlin node enrol accept NODE.pem      on the node again\n",
        args.fleet,
        dir.display(),
        dir.display()
    ))?;
    Ok(Exit::Ok)
}

/// `purlin fleet certify`
pub fn certify(args: &CertifyArgs, output: &Output) -> Ended {
    let node = certified(args).map_err(Failure::Failed)?;
    output.text(&format!("A certificate for {node} is in {}.\n", args.out.display()))?;
    Ok(Exit::Ok)
}

fn certified(args: &CertifyArgs) -> Result<String, String> {
    let (key, ca) = (read(&args.authority.join(KEY))?, read(&args.authority.join(CERTIFICATE))?);
    let key = KeyPair::from_pem(&key).map_err(text)?;
    let issuer = Issuer::from_ca_cert_pem(&ca, key).map_err(text)?;
    let mut request = CertificateSigningRequestParams::from_pem(&read(&args.request)?)
        .map_err(|error| format!("{}: {error}", args.request.display()))?;
    let name = match request.params.distinguished_name.get(&DnType::CommonName) {
        Some(DnValue::Utf8String(name)) => name.clone(),
        _ => String::new(),
    };
    if !topic::is_level(&name) {
        return Err(format!("{}: {name:?} is no node's id", args.request.display()));
    }
    if args.node.as_ref().is_some_and(|node| *node != name) {
        return Err(format!("{}: it is of node {name}", args.request.display()));
    }
    // Of what is asked for only the name and the key count.
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    params.subject_alt_names = vec![SanType::DnsName(name.as_str().try_into().map_err(text)?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let lasts = Duration::try_from(args.lasts).map_err(|error| error.to_string())?;
    valid(&mut params, lasts);
    request.params = params;
    let certificate = request.signed_by(&issuer).map_err(text)?;
    fs::write(&args.out, certificate.pem())
        .map_err(|error| format!("{}: {error}", args.out.display()))?;
    Ok(name)
}

fn valid(params: &mut CertificateParams, lasts: Duration) {
    let now = OffsetDateTime::from(SystemTime::now());
    (params.not_before, params.not_after) = (now - BEFORE, now + lasts);
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write_new(path: &Path, content: &str, mode: u32) -> Result<(), String> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn text(error: rcgen::Error) -> String {
    error.to_string()
}
