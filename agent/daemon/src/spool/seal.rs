//! Encryption at rest: XChaCha20-Poly1305, a record at a time, a nonce prefix of its own
//! for each segment.
//!
//! A sealed segment (version 3 of [`segment`]) begins with a record under the
//! number 0 that says by which key and prefix: the first four bytes of a SHA-256 that
//! tell the key from others, and 16 random bytes. A record's nonce is that prefix and its
//! number, its associated data the segment's incarnation, class and first number: a
//! record that is moved elsewhere is no record. A number is sealed once in a segment: an
//! agent that starts, or tries a failing disk again, begins another segment.
//!
//! Frames, lengths and checksums stay readable, so that a torn tail or a flipped byte is
//! found and passed over without the key.

use std::{fmt, fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use hex::FromHex;
use ring::rand::SecureRandom;

use super::segment::{self, Header};

/// Bytes of a seal.
pub const SEAL_BYTES: usize = 20;
/// Keys in a file: the one in use, and those of segments that still wait.
const MAX_KEYS: usize = 8;
/// A key file's bytes: as many lines of 64 digits, and what is said about them.
const MAX_FILE: u64 = 4096;

/// What a segment is sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    key: [u8; 4],
    prefix: [u8; 16],
}

impl Seal {
    /// As the segment's first record has it.
    pub fn encode(&self) -> [u8; SEAL_BYTES] {
        let mut bytes = [0; SEAL_BYTES];
        bytes[..4].copy_from_slice(&self.key);
        bytes[4..].copy_from_slice(&self.prefix);
        bytes
    }

    /// Reads the seal that follows a sealed segment's header.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let record = segment::record_at(bytes, 0).filter(|record| record.seq == 0)?;
        let bytes: &[u8; SEAL_BYTES] = record.payload.try_into().ok()?;
        let (key, prefix) = bytes.split_first_chunk()?;
        Some(Self { key: *key, prefix: prefix.try_into().ok()? })
    }

    fn nonce(&self, seq: u64) -> XNonce {
        let mut nonce = XNonce::default();
        nonce[..16].copy_from_slice(&self.prefix);
        nonce[16..].copy_from_slice(&seq.to_le_bytes());
        nonce
    }
}

/// A key, and what tells it from others.
struct Key {
    id: [u8; 4],
    cipher: XChaCha20Poly1305,
}

/// The keys that there are: the first seals, all of them open. None: nothing is sealed.
#[derive(Clone, Default)]
pub struct Keys(Arc<[Key]>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| key.id)).finish()
    }
}

impl Keys {
    /// Reads a file of 64 hexadecimal digits a line, or of 32 bytes. The error says why
    /// there is no key.
    pub fn read(path: &Path) -> Result<Self, String> {
        let at = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
        let metadata = fs::metadata(path).map_err(|error| at(&error))?;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(at(&"others may read it: chmod 600"));
        }
        if metadata.len() > MAX_FILE {
            return Err(at(&"no file of keys: 64 hexadecimal digits a line, or 32 bytes"));
        }
        let bytes = fs::read(path).map_err(|error| at(&error))?;
        Self::parse(&bytes).ok_or_else(|| {
            at(&"no key: 64 hexadecimal digits a line, at most 8 lines, or 32 bytes \
                 (head -c 32 /dev/urandom makes one)")
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        if let Ok(key) = bytes.try_into() {
            return Some(Self::of(&[key]));
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys: Vec<[u8; 32]> =
            lines.map(|it| <[u8; 32]>::from_hex(it).ok()).collect::<Option<_>>()?;
        (1..=MAX_KEYS).contains(&keys.len()).then(|| Self::of(&keys))
    }

    /// These keys.
    pub fn of(keys: &[[u8; 32]]) -> Self {
        let key = |key: &[u8; 32]| {
            let named = [b"purlin spool key ".as_slice(), key].concat();
            let digest = ring::digest::digest(&ring::digest::SHA256, &named);
            let id = *digest.as_ref().first_chunk().expect("a SHA-256 has 32 bytes");
            Key { id, cipher: XChaCha20Poly1305::new(key.into()) }
        };
        Self(keys.iter().map(key).collect())
    }

    /// Whether what is written is sealed.
    pub fn seals(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether it can be opened.
    pub fn opens(&self, seal: &Seal) -> bool {
        self.key(seal).is_some()
    }

    /// A seal for a new segment, if there is a key.
    pub fn fresh(&self) -> std::io::Result<Option<Seal>> {
        let Some(key) = self.0.first() else { return Ok(None) };
        let mut prefix = [0; 16];
        (ring::rand::SystemRandom::new().fill(&mut prefix))
            .map_err(|_| std::io::Error::other("the kernel gives no random bytes"))?;
        Ok(Some(Seal { key: key.id, prefix }))
    }

    /// Plain records, sealed.
    pub fn seal(&self, seal: &Seal, of: &Header, plain: &[u8]) -> Vec<u8> {
        let key = self.key(seal).expect("a segment is begun with a key that is there");
        let mut sealed = Vec::with_capacity(plain.len() + plain.len() / 16);
        let mut at = 0;
        while let Some(record) = segment::record_at(plain, at) {
            let aad = &context(of);
            let msg = record.payload;
            let payload = key.cipher.encrypt(&seal.nonce(record.seq), Payload { msg, aad });
            let payload = payload.expect("a record is far below 256 GiB");
            segment::encode_record(record.seq, &payload, &mut sealed);
            at = record.end;
        }
        sealed
    }

    /// A record's plain payload; `None` if it was not sealed here like this.
    pub fn open(&self, seal: &Seal, of: &Header, seq: u64, sealed: &[u8]) -> Option<Vec<u8>> {
        let payload = Payload { msg: sealed, aad: &context(of) };
        self.key(seal)?.cipher.decrypt(&seal.nonce(seq), payload).ok()
    }

    fn key(&self, seal: &Seal) -> Option<&Key> {
        self.0.iter().find(|key| key.id == seal.key)
    }
}

/// What a record is bound to.
fn context(of: &Header) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes[..8].copy_from_slice(&of.incarnation.0.to_le_bytes());
    bytes[8] = of.class as u8;
    bytes[9..].copy_from_slice(&of.first_seq.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use purlin_core::{
        identity::{Class, Incarnation},
        retention::Tier,
    };

    use super::*;

    const OF: Header = Header {
        incarnation: Incarnation(7),
        class: Class::Metric,
        tier: Tier::Raw,
        first_seq: 5,
        through: 0,
        sealed: true,
    };

    #[test]
    fn a_record_is_opened_where_it_was_sealed_and_nowhere_else() {
        let keys = Keys::of(&[[1; 32]]);
        let seal = keys.fresh().expect("random bytes").expect("a key");
        let mut plain = Vec::new();
        segment::encode_record(6, b"a secret", &mut plain);
        let sealed = keys.seal(&seal, &OF, &plain);
        assert!(!sealed.windows(8).any(|it| it == b"a secret"));
        let record = segment::record_at(&sealed, 0).expect("a record");
        let open = |keys: &Keys, seal: &Seal, of: &Header, seq| {
            keys.open(seal, of, seq, record.payload).is_some_and(|it| it == b"a secret")
        };
        assert!(open(&keys, &seal, &OF, 6));
        assert!(open(&Keys::of(&[[2; 32], [1; 32]]), &seal, &OF, 6), "an older key opens too");
        assert!(!open(&keys, &seal, &OF, 7));
        assert!(!open(&keys, &seal, &Header { first_seq: 4, ..OF }, 6));
        assert!(!open(&keys, &keys.fresh().expect("random bytes").expect("a key"), &OF, 6));
        assert!(!open(&Keys::of(&[[2; 32]]), &seal, &OF, 6));
        for bit in 0..8 * record.payload.len() {
            let mut flipped = record.payload.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.open(&seal, &OF, 6, &flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn a_file_has_keys_as_digits_or_as_bytes_and_is_nobody_elses() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        let told = |bytes: &[u8], mode: u32| {
            fs::write(&path, bytes).expect("a write");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
            Keys::read(&path).map(|keys| keys.0.len()).map_err(|why| {
                why.replace(&path.display().to_string(), "key").chars().take(22).collect::<String>()
            })
        };
        assert_eq!(told(&[7; 32], 0o600), Ok(1));
        assert_eq!(
            told(format!("{}\n{}\n", "0a".repeat(32), "0b".repeat(32)).as_bytes(), 0o400),
            Ok(2)
        );
        assert_eq!(told(&[7; 32], 0o640), Err("key: others may read i".into()));
        assert_eq!(told(b"0a0b", 0o600), Err("key: no key: 64 hexade".into()));
    }
}
