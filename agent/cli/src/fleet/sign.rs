//! `purlin fleet sign`, and what `push` signs for each node.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prost::Message;
use purlin_daemon::{
    offline,
    trust::{self, SigningKey},
};
use purlin_proto::v1;

use super::keys;
use crate::{
    args::{SignArgs, Signing, Written},
    document,
    exit::{Ended, Exit, Failure},
    output::Output,
};

/// What signs documents of one fleet.
pub struct Signer {
    key: SigningKey,
    key_set: Vec<u8>,
    set: v1::KeySet,
    version: u64,
    expires: Duration,
    base: Vec<u8>,
}

impl Signer {
    /// The config key in a directory.
    pub fn open(dir: &Path, signing: &Signing, version: u64) -> Result<Self, Failure> {
        let key_set = keys::key_set(dir)?;
        let set = trust::peek_keys(&key_set).map_err(Failure::Failed)?;
        let key = SigningKey::read(&dir.join("config.key")).map_err(Failure::Failed)?;
        let (expires, base) =
            (signing.expires, signing.base.clone().map_or(Vec::new(), |base| base.0));
        Ok(Self { key, key_set, set, version, expires, base })
    }

    /// The fleet whose keys these are.
    pub fn fleet(&self) -> &str {
        &self.set.fleet
    }

    /// The document, signed for a node or a selector.
    pub fn sign(&self, desired: &v1::Desired, node: &str) -> Result<Signed, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let signed = v1::SignedDesired {
            fleet: self.set.fleet.clone(),
            node: node.into(),
            epoch: self.set.epoch,
            version: self.version,
            base_sha256: self.base.clone().into(),
            issued_unix_s: now,
            not_before_unix_s: 0,
            expires_unix_s: now + self.expires.as_secs(),
            document: desired.encode_to_vec().into(),
        };
        let sha256 = trust::sha256(&signed.encode_to_vec());
        let bytes = trust::sign(&signed, &self.key, &self.key_set).map_err(Failure::Failed)?;
        Ok(Signed { bytes, sha256 })
    }
}

/// What is published, and what a node knows it by.
pub struct Signed {
    /// For the desired topic.
    pub bytes: Vec<u8>,
    /// As the node reports it.
    pub sha256: Vec<u8>,
}

/// A document that nobody signs.
pub fn unsigned(desired: &v1::Desired) -> Signed {
    let bytes = desired.encode_to_vec();
    Signed { sha256: trust::sha256(&bytes), bytes }
}

/// A document in a file, with its number: the one given, or its own, or the time.
pub fn read(file: &Path, written: Written, version: Option<u64>) -> Result<v1::Desired, Failure> {
    let body = document::read(file, written.format)?;
    let mut desired = offline::desired(&body.bytes, body.content_type.unwrap_or_default())
        .map_err(|refusals| {
            let error = format!("{} is refused; nothing was sent", document::name(file));
            Failure::Refused(purlin_proto::api::Error { error, refusals })
        })?;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    desired.version = match (version, desired.version) {
        (Some(version), _) => version,
        // Grows from one document to the next, whoever makes it.
        (None, 0) => now(),
        (None, own) => own,
    };
    Ok(desired)
}

/// `purlin fleet sign`
pub fn run(args: &SignArgs, output: &Output) -> Ended {
    let desired = read(&args.file, args.written, args.signing.version)?;
    let signer = Signer::open(&args.keys, &args.signing, desired.version)?;
    let signed = signer.sign(&desired, &args.node)?;
    fs::write(&args.out, &signed.bytes)
        .map_err(|error| Failure::Failed(format!("{}: {error}", args.out.display())))?;
    output.text(&format!(
        "version {} for {} of fleet {} is in {}: publish it retained on \
         purlin/v1/{}/NODE/desired\n",
        desired.version,
        args.node,
        signer.fleet(),
        args.out.display(),
        signer.fleet()
    ))?;
    Ok(Exit::Ok)
}
