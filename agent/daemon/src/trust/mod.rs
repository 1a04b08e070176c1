//! Signatures: what is signed, by whom, and the keys that a node believes.
//!
//! COSE (RFC 9052) with EdDSA. Whether a key may say what it says, and whether that is
//! new, is the core's to decide ([`purlin_core::trust`]); here bytes become claims, and
//! signatures are checked and made. Nothing of it reads or writes but [`keys`].

use std::collections::BTreeSet;

use coset::{
    CoseSign, CoseSign1, CoseSign1Builder, CoseSignBuilder, CoseSignatureBuilder, Header,
    HeaderBuilder, TaggedCborSerializable, cbor::value::Value, iana::Algorithm,
};
use prost::Message;
use purlin_core::trust::{Claims, Key, KeyId, KeySet, Role};
use purlin_proto::v1::{self, signed_command::Command};
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
    signature::{ED25519, UnparsedPublicKey},
};

use crate::document::{self, Format};

mod key;
pub mod keys;

pub use self::key::{SigningKey, id_of};

/// External data: a signature for one purpose is none for another.
const DESIRED: &[u8] = b"purlin desired 1";
const COMMAND: &[u8] = b"purlin command 1";
const KEYS: &[u8] = b"purlin keys 1";
/// The unprotected header that brings a key set, which is signed in itself.
const KEYS_LABEL: &str = "purlin-keys";
/// COSE_Sign1 with its tag (RFC 9052, table 1): 0xd2. No Desired begins with it.
const SIGN1_TAG: u8 = 0xd2;
/// An envelope: the largest document, a key set of 80 keys, and the rest.
const MAX_BYTES: usize = document::MAX_BYTES + (32 << 10);
/// A key set with its signatures.
const MAX_KEY_SET_BYTES: usize = 16 << 10;

/// Whether bytes claim to be a signed document.
pub fn is_signed(bytes: &[u8]) -> bool {
    bytes.first() == Some(&SIGN1_TAG)
}

/// A signed document, its signature not checked yet.
#[derive(Debug)]
pub struct Envelope {
    sign1: CoseSign1,
    /// The key set that came along.
    pub key_set: Option<Vec<u8>>,
}

/// A signed document that may be believed.
#[derive(Clone, Debug)]
pub struct Believed {
    /// What it says of itself.
    pub claims: Claims,
    /// The document, encoded.
    pub document: Vec<u8>,
    /// Name of the key that signed it.
    pub signer: String,
}

impl Envelope {
    /// Reads an envelope.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("{} bytes, over {MAX_BYTES}", bytes.len()));
        }
        let sign1 = CoseSign1::from_tagged_slice(bytes).map_err(|error| error.to_string())?;
        let key_set = sign1.unprotected.rest.iter().find_map(|(label, value)| {
            let ours = *label == coset::Label::Text(KEYS_LABEL.into());
            ours.then(|| value.as_bytes().cloned()).flatten()
        });
        Ok(Self { sign1, key_set })
    }

    /// The claims, if a key that may say so has signed them.
    pub fn open(&self, keys: &KeySet) -> Result<Believed, String> {
        let (payload, key) = self.verified(keys, &[Role::Config], DESIRED)?;
        let signed: v1::SignedDesired = strictly("SignedDesired", payload)?;
        let claims = Claims {
            fleet: signed.fleet,
            node: signed.node,
            epoch: signed.epoch,
            version: signed.version,
            base_sha256: signed.base_sha256.into(),
            issued_unix_s: signed.issued_unix_s,
            not_before_unix_s: signed.not_before_unix_s,
            expires_unix_s: signed.expires_unix_s,
            sha256: sha256(payload),
        };
        Ok(Believed { claims, document: signed.document.into(), signer: key.name.clone() })
    }

    /// The command and the key that signed it, if that key may say such a thing.
    pub fn open_command<'a>(
        &self,
        keys: &'a KeySet,
    ) -> Result<(v1::SignedCommand, &'a Key), String> {
        let (payload, key) = self.verified(keys, &[Role::Command, Role::Reboot], COMMAND)?;
        let signed: v1::SignedCommand = strictly("SignedCommand", payload)?;
        let role = match signed.command {
            Some(Command::Reboot(_)) => Role::Reboot,
            _ => Role::Command,
        };
        match key.roles.contains(&role) {
            true => Ok((signed, key)),
            false => Err(format!("key {} has not the role {}", key.name, role.name())),
        }
    }

    /// What is signed for that purpose, if a key with one of these roles has signed it.
    fn verified<'a>(
        &self,
        keys: &'a KeySet,
        roles: &[Role],
        purpose: &[u8],
    ) -> Result<(&[u8], &'a Key), String> {
        let header = &self.sign1.protected.header;
        let find = |id: &[u8]| roles.iter().find_map(|role| keys.key(id, *role));
        let key = signer(header, find).ok_or_else(|| {
            let roles: Vec<_> = roles.iter().map(|role| role.name()).collect();
            format!(
                "no key with the id {} has the role {} in key set {}",
                hex::encode(&header.key_id),
                roles.join(" or "),
                keys.version
            )
        })?;
        let verified = self.sign1.verify_signature(purpose, verify(&key.public));
        verified.map_err(|_| format!("the signature by {} is wrong", key.name))?;
        Ok((self.sign1.payload.as_deref().ok_or("it has no payload")?, key))
    }
}

/// Signs a document, and sends the key set along.
pub fn sign(
    signed: &v1::SignedDesired,
    key: &SigningKey,
    key_set: &[u8],
) -> Result<Vec<u8>, String> {
    let keys = Value::Bytes(key_set.to_vec());
    CoseSign1Builder::new()
        .protected(protected(key.id()))
        .unprotected(HeaderBuilder::new().text_value(KEYS_LABEL.into(), keys).build())
        .payload(signed.encode_to_vec())
        .create_signature(DESIRED, |data| key.sign(data))
        .build()
        .to_tagged_vec()
        .map_err(|error| error.to_string())
}

/// Signs a command.
pub fn sign_command(signed: &v1::SignedCommand, key: &SigningKey) -> Result<Vec<u8>, String> {
    sign_as_command(signed.encode_to_vec(), key)
}

/// Signs what is said to be a command, encoded.
pub fn sign_as_command(payload: Vec<u8>, key: &SigningKey) -> Result<Vec<u8>, String> {
    CoseSign1Builder::new()
        .protected(protected(key.id()))
        .payload(payload)
        .create_signature(COMMAND, |data| key.sign(data))
        .build()
        .to_tagged_vec()
        .map_err(|error| error.to_string())
}

/// Signs a key set by each of these roots.
pub fn sign_keys(set: &v1::KeySet, roots: &[SigningKey]) -> Result<Vec<u8>, String> {
    let unsigned =
        CoseSignBuilder::new().protected(HeaderBuilder::new().build()).payload(set.encode_to_vec());
    let signed = roots.iter().fold(unsigned, |builder, root| {
        let signature = CoseSignatureBuilder::new().protected(protected(root.id())).build();
        builder.add_created_signature(signature, KEYS, |data| root.sign(data))
    });
    signed.build().to_tagged_vec().map_err(|error| error.to_string())
}

/// Reads a key set, and which of the roots that it or `current` names have signed it.
/// Whether they are enough is not said.
pub fn read_keys(
    bytes: &[u8],
    current: Option<&KeySet>,
) -> Result<(KeySet, BTreeSet<KeyId>), String> {
    if bytes.len() > MAX_KEY_SET_BYTES {
        return Err(format!("{} bytes, over {MAX_KEY_SET_BYTES}", bytes.len()));
    }
    let cose = CoseSign::from_tagged_slice(bytes).map_err(|error| error.to_string())?;
    let payload = cose.payload.as_deref().ok_or("it has no payload")?;
    let set = key_set(strictly("KeySet", payload)?)?;
    let roots = || set.roots.iter().chain(current.iter().flat_map(|set| &set.roots));
    let signers = cose.signatures.iter().enumerate().filter_map(|(n, signature)| {
        let header = &signature.protected.header;
        let root = signer(header, |id| roots().find(|root| root.id == id))?;
        cose.verify_signature(n, KEYS, verify(&root.public)).ok().map(|()| root.id)
    });
    let signers = signers.collect();
    Ok((set, signers))
}

/// A key set as it is written, signatures aside: for its owner.
pub fn peek_keys(bytes: &[u8]) -> Result<v1::KeySet, String> {
    let cose = CoseSign::from_tagged_slice(bytes).map_err(|error| error.to_string())?;
    strictly("KeySet", cose.payload.as_deref().ok_or("it has no payload")?)
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| "the kernel gives no random bytes".to_owned())
}

/// What a document is known by.
pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().into()
}

fn key_set(set: v1::KeySet) -> Result<KeySet, String> {
    let key = |key: v1::Key| {
        let public: [u8; 32] =
            key.public.as_ref().try_into().map_err(|_| "a key is not 32 bytes".to_owned())?;
        let role = |name: &String| {
            let found = Role::ALL.into_iter().find(|role| role.name() == name);
            found.ok_or_else(|| format!("no role is named {name}"))
        };
        let roles = key.roles.iter().map(role).collect::<Result<_, _>>()?;
        Ok::<_, String>(Key { id: id_of(&public), name: key.name, public, roles })
    };
    Ok(KeySet {
        fleet: set.fleet,
        version: set.version,
        epoch: set.epoch,
        roots: set.roots.into_iter().map(key).collect::<Result<_, _>>()?,
        threshold: set.threshold as usize,
        keys: set.keys.into_iter().map(key).collect::<Result<_, _>>()?,
    })
}

/// A message with nothing in it that we don't know.
fn strictly<M: Message + Default>(name: &str, bytes: &[u8]) -> Result<M, String> {
    let (message, refusals) = document::parse(document::descriptor(name), Format::Protobuf, bytes);
    match refusals.first() {
        None => Ok(message),
        Some(refusal) => Err(format!("{}: {}", refusal.path, refusal.hint)),
    }
}

fn protected(id: KeyId) -> Header {
    HeaderBuilder::new().algorithm(Algorithm::EdDSA).key_id(id.to_vec()).build()
}

/// The key that a header names, if it names one algorithm, and that is ours.
fn signer<'a>(header: &Header, find: impl Fn(&[u8]) -> Option<&'a Key>) -> Option<&'a Key> {
    let eddsa = coset::RegisteredLabelWithPrivate::Assigned(Algorithm::EdDSA);
    (header.alg == Some(eddsa) && header.crit.is_empty()).then(|| find(&header.key_id)).flatten()
}

fn verify(public: &[u8; 32]) -> impl FnOnce(&[u8], &[u8]) -> Result<(), ring::error::Unspecified> {
    let key = UnparsedPublicKey::new(&ED25519, *public);
    move |signature, data| key.verify(data, signature)
}

#[cfg(test)]
mod tests;
