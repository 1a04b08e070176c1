//! Envelopes and key sets, whole and damaged.

use super::*;

struct Fleet {
    dir: tempfile::TempDir,
    roots: Vec<SigningKey>,
    config: SigningKey,
}

fn fleet() -> Fleet {
    let dir = tempfile::tempdir().expect("a directory");
    let make = |name: &str| SigningKey::make(&dir.path().join(name)).expect("a key");
    let roots = ["root-1", "root-2", "root-3"].map(make).into();
    let config = make("config");
    Fleet { dir, roots, config }
}

fn wire(key: &SigningKey, roles: &[&str]) -> v1::Key {
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    v1::Key { name: "a key".into(), public: key.public().to_vec().into(), roles }
}

impl Fleet {
    fn set(&self, version: u64) -> v1::KeySet {
        v1::KeySet {
            fleet: "f".into(),
            version,
            epoch: 1,
            roots: self.roots.iter().map(|root| wire(root, &[])).collect(),
            threshold: 2,
            keys: vec![wire(&self.config, &["config"])],
        }
    }

    fn signed_by(&self, set: &v1::KeySet, roots: std::ops::Range<usize>) -> Vec<u8> {
        let names = ["root-1", "root-2", "root-3"];
        let read = |n: usize| SigningKey::read(&self.dir.path().join(names[n])).expect("a key");
        sign_keys(set, &roots.map(read).collect::<Vec<_>>()).expect("signed")
    }

    fn keys(&self, version: u64) -> keys::Keys {
        let path = self.dir.path().join("keys.cose");
        std::fs::write(&path, self.signed_by(&self.set(version), 0..2)).expect("a write");
        keys::Keys::open(&path, &[]).expect("a key set")
    }
}

fn desired(version: u64) -> v1::SignedDesired {
    v1::SignedDesired { fleet: "f".into(), node: "n".into(), version, ..Default::default() }
}

#[test]
fn what_is_signed_is_believed_and_not_a_bit_less() {
    let fleet = fleet();
    let keys = fleet.keys(1);
    let signed = sign(&desired(7), &fleet.config, &keys.bytes).expect("signed");
    assert!(is_signed(&signed));
    let envelope = Envelope::read(&signed).expect("an envelope");
    assert_eq!(envelope.key_set, Some(keys.bytes.clone()));
    let believed = envelope.open(&keys.set).expect("believed");
    assert_eq!((believed.claims.version, believed.claims.fleet.as_str()), (7, "f"));
    // The key set beside it has signatures of its own.
    let bare = sign(&desired(7), &fleet.config, &[]).expect("signed");
    let mut unnoticed = 0;
    for at in 0..bare.len() * 8 {
        let mut damaged = bare.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        if let Ok(opened) = Envelope::read(&damaged).and_then(|it| it.open(&keys.set)) {
            assert_eq!(opened.claims, believed.claims, "bit {at}");
            unnoticed += 1;
        }
    }
    assert!(unnoticed <= 8 * (KEYS_LABEL.len() + 3), "{unnoticed} bits are not covered");
}

#[test]
fn an_envelope_costs_little() {
    let fleet = fleet();
    let document = vec![1; 1000].into();
    let signed = v1::SignedDesired { document, ..desired(7) };
    let bytes = sign(&signed, &fleet.config, &[]).expect("signed").len();
    assert!(bytes < 1000 + 150, "{bytes} bytes for a document of 1000");
}

#[test]
fn another_key_or_another_role_is_not_believed() {
    let fleet = fleet();
    let keys = fleet.keys(1);
    let opened = |key: &SigningKey| {
        let signed = sign(&desired(7), key, &[]).expect("signed");
        Envelope::read(&signed).and_then(|it| it.open(&keys.set)).map(|_| ())
    };
    assert_eq!(opened(&fleet.config), Ok(()));
    assert!(opened(&fleet.roots[0]).is_err(), "a root signs key sets alone");
    let other = SigningKey::make(&fleet.dir.path().join("other")).expect("a key");
    let why = opened(&other).expect_err("unknown");
    assert!(why.contains("no key with the id"), "{why}");
}

#[test]
fn a_key_set_is_followed_by_the_word_of_enough_roots() {
    let fleet = fleet();
    let keys = fleet.keys(3);
    let followed = |version, roots| {
        let bytes = fleet.signed_by(&fleet.set(version), roots);
        keys.followed_by(&bytes).map(|next| next.map(|next| next.set.version))
    };
    assert_eq!(followed(4, 0..2), Ok(Some(4)));
    assert_eq!(followed(4, 1..3), Ok(Some(4)));
    assert!(followed(4, 0..1).is_err());
    assert_eq!(followed(3, 0..2), Ok(None), "the same");
    assert_eq!(followed(2, 0..2), Ok(None), "one from before, with a document from before");
    // A document's signature is none for a key set: the external data differs.
    let revoked = v1::KeySet { keys: Vec::new(), ..fleet.set(5) };
    let next = keys.followed_by(&fleet.signed_by(&revoked, 0..3)).expect("signed");
    let signed = sign(&desired(7), &fleet.config, &[]).expect("signed");
    let opened = Envelope::read(&signed).and_then(|it| it.open(&next.expect("newer").set));
    assert!(opened.is_err(), "what is not in the newest set is revoked");
}

#[test]
fn the_newer_of_the_file_and_the_ledger_is_believed() {
    let fleet = fleet();
    let path = fleet.dir.path().join("keys.cose");
    let older = fleet.keys(1).bytes;
    let newer = fleet.keys(2).bytes;
    let version = |file: &[u8], ledger: &[u8]| {
        std::fs::write(&path, file).expect("a write");
        keys::Keys::open(&path, ledger).map(|keys| keys.set.version)
    };
    assert_eq!(version(&older, &newer), Ok(2));
    assert_eq!(version(&newer, &older), Ok(2));
    assert_eq!(version(&older, b"torn"), Ok(1));
    assert!(version(b"torn", &newer).is_err(), "never silently without keys");
}

#[test]
fn keys_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let fleet = fleet();
    let path = fleet.dir.path().join("config");
    assert!(SigningKey::make(&path).is_err(), "never over one that is there");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let why = SigningKey::read(&path).expect_err("readable");
    assert!(why.contains("chmod 600"), "{why}");
}

#[test]
fn nonsense_is_refused() {
    let keys = fleet().keys(1);
    for bytes in [&b""[..], b"\xd2", b"\xd2\x84", &[0xd2; 4096], &[0x9f; 4096]] {
        assert!(Envelope::read(bytes).is_err());
        assert!(read_keys(bytes, Some(&keys.set)).is_err());
    }
}
