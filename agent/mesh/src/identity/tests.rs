//! A rack's certificates, whole and wrong, and clocks that are.

use purlin_core::{mesh::credential::Now, trust::BUILT_UNIX_S};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType,
};
use webpki::KeyUsage;

use super::{
    authority::{ISSUER_LIFE_S, NODE_LIFE_S, ROOT_LIFE_S},
    *,
};

const NOW: u64 = BUILT_UNIX_S;
const DAY: u64 = 86_400;

struct Rack {
    dir: tempfile::TempDir,
    root: Authority,
}

impl Rack {
    /// One, and a node `a` of it with an issuer.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Authority::make("r1", NOW, ROOT_LIFE_S).expect("a root");
        let rack = Self { dir, root };
        let none = Revocations::default();
        let issuer = rack.root.make_issuer("a", NOW, ISSUER_LIFE_S, &none).expect("an issuer");
        rack.write(RACK, rack.root.certificate_pem());
        rack.write(NODE, issuer.make_node("a", NOW, NODE_LIFE_S, &none).expect("a node"));
        rack.write(ISSUER, issuer.pem());
        rack
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::create_dir_all(self.dir.path().join(DIR)).expect("a directory");
        fs::write(self.dir.path().join(DIR).join(name), text).expect("a write");
    }

    /// As a node sees it whose clock shows this; a test's own, so that nobody agrees.
    fn keeper(&self, clock: u64) -> Keeper {
        Keeper::new(self.dir.path(), Clock::new(Some(clock)))
    }

    fn identity(&self, clock: u64) -> Arc<Identity> {
        let mut keeper = self.keeper(clock);
        assert!(keeper.look(30 * DAY), "{:?}", keeper.problems());
        keeper.identity().expect("somebody").clone()
    }
}

fn chain(text: &str) -> Vec<CertificateDer<'static>> {
    pem::certificates(text).expect("certificates")
}

/// Whom a node takes somebody for.
fn seen(identity: &Identity, chain: &[CertificateDer<'_>]) -> Result<String, Refused> {
    let peer = identity.verifier.peer(chain, KeyUsage::client_auth());
    peer.map(|it| it.id.to_string())
}

#[test]
fn a_node_has_a_name_and_an_issuer_gives_it_the_next_certificate() {
    let rack = Rack::new();
    let identity = rack.identity(NOW + 16 * DAY);
    assert_eq!((identity.id.as_str(), identity.node.as_str()), ("spiffe://r1/node/a", "a"));
    assert!(identity.is_to_be_renewed() && !rack.identity(NOW + 14 * DAY).is_to_be_renewed());
    let (request, key) = request().expect("a request");
    let renewed = identity.answer_own(&request).expect("an issuer").expect("a certificate");
    let mut keeper = rack.keeper(NOW + 16 * DAY);
    keeper.look(0);
    keeper.renew(&renewed, &key).expect("in place");
    assert!(keeper.look(0), "and read");
    let next = keeper.identity().expect("the same node");
    assert_eq!(next.id, identity.id);
    let (before, after) = (identity.window, next.window);
    assert_eq!(after.until - after.from, before.until - before.from, "as long a life");
    assert!(after.from > before.from + 15 * DAY && !next.is_to_be_renewed());
    let (_, other_key) = super::request().expect("a request");
    let wrong = keeper.renew(&renewed, &other_key).and_then(|()| match keeper.look(0) {
        true => Ok(()),
        false => Err(keeper.problems().join("; ")),
    });
    let why = wrong.expect_err("a key of another certificate");
    assert!(why.contains("the last good one stays"), "{why}");
    assert_eq!(keeper.identity().expect("the last good one").window, after);
}

#[test]
fn what_is_no_rack_certificate_is_foreign() {
    let (rack, other) = (Rack::new(), Rack::new());
    let identity = rack.identity(NOW);
    let none = Revocations::default();
    let of = |authority: &Authority, node| {
        chain(&authority.make_node(node, NOW, NODE_LIFE_S, &none).expect("a node"))
    };
    assert_eq!(seen(&identity, &of(&rack.root, "b")).as_deref(), Ok("spiffe://r1/node/b"));
    let is_foreign =
        |chain: &[CertificateDer<'_>]| matches!(seen(&identity, chain), Err(Refused::Foreign(_)));
    assert!(is_foreign(&of(&other.root, "b")), "the same names, and another key");
    assert!(is_foreign(&[]) && is_foreign(&[CertificateDer::from(vec![0x30, 0x80])]));
    assert!(is_foreign(&[rack.root.certificate().clone()]), "the root is no node");
    let issuer = rack.root.make_issuer("c", NOW, ISSUER_LIFE_S, &none).expect("an issuer");
    let node = of(&issuer, "c");
    assert!(seen(&identity, &node).is_ok() && is_foreign(&node[..1]), "without its issuer");
    assert!(is_foreign(&[node[0].clone(), node[1].clone(), node[1].clone(), node[1].clone()]));
}

/// Name constraints don't bind URI names: an authority that a root vouches for can write
/// any rack into a certificate, and only our own look keeps it out.
#[test]
fn another_racks_name_is_foreign_whoever_vouches_for_it() {
    let root_key = KeyPair::generate().expect("a key");
    let root_text = root_key.serialize_pem();
    let params = |name: &str, is_ca| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(name.try_into().expect("ASCII"))];
        params.is_ca = is_ca;
        params
    };
    let ca = || IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params("spiffe://r1", ca());
    let root_der = root.self_signed(&root_key).expect("a root").der().clone();
    let issuer = Issuer::new(root, KeyPair::from_pem(&root_text).expect("a key"));
    let signed = |name: &str, is_ca| {
        let key = KeyPair::generate().expect("a key");
        let der = params(name, is_ca).signed_by(&key, &issuer).expect("signed").der().clone();
        (der, key)
    };
    let rack = Rack::new();
    let (own, key) = signed("spiffe://r1/node/a", IsCa::NoCa);
    fs::remove_file(rack.dir.path().join(DIR).join(ISSUER)).expect("gone");
    rack.write(RACK, pem::write("", &[&root_der]));
    rack.write(NODE, pem::write(&key.serialize_pem(), &[&own]));
    let identity = rack.identity(NOW);
    let see = |name: &str| seen(&identity, &[signed(name, IsCa::NoCa).0]);
    assert_eq!(see("spiffe://r1/node/b").as_deref(), Ok("spiffe://r1/node/b"));
    for name in ["spiffe://r2/node/b", "spiffe://r1", "spiffe://r1/issuer/b", "https://r1/node/b"] {
        assert!(matches!(see(name), Err(Refused::Foreign(_))), "{name}");
    }
    // An issuer of another rack can't make nodes of this one.
    let (between, key) = signed("spiffe://r2/issuer/x", ca());
    let between_issuer = Issuer::from_ca_cert_der(&between, key).expect("an issuer");
    let key = KeyPair::generate().expect("a key");
    let node = params("spiffe://r1/node/b", IsCa::NoCa).signed_by(&key, &between_issuer);
    let node = node.expect("signed").der().clone();
    assert!(matches!(seen(&identity, &[node, between]), Err(Refused::Foreign(_))));
}

#[test]
fn who_is_revoked_stays_out_with_all_that_it_vouches_for() {
    let rack = Rack::new();
    let none = Revocations::default();
    let b = rack.root.make_issuer("b", NOW, ISSUER_LIFE_S, &none).expect("an issuer");
    let node = |it: &Authority, node, list| {
        chain(&it.make_node(node, NOW, NODE_LIFE_S, list).expect("a node"))
    };
    let (own, vouched) = (node(&b, "b", &none), node(&b, "c", &none));
    let before = rack.identity(NOW);
    let peer = before.verifier.peer(&vouched, KeyUsage::client_auth()).expect("good so far");
    let list = Revocations { number: 3, issued: NOW, nodes: vec![("b".into(), NOW)] };
    let mut keeper = rack.keeper(NOW);
    keeper.look(0);
    let signed = rack.root.revoke(&list).expect("signed");
    keeper.revoke(&signed).expect("newer");
    assert!(keeper.look(0) && !keeper.look(0), "read once");
    let identity = keeper.identity().expect("somebody");
    for chain in [&own, &vouched] {
        assert!(matches!(seen(identity, chain), Err(Refused::Revoked(_))));
    }
    assert!(peer.is_revoked_by(identity.verifier.revocations()), "and what is open is cut");
    assert!(seen(identity, &node(&rack.root, "c", &list)).is_ok());
    assert!(seen(identity, &node(&rack.root, "b", &list)).is_ok(), "let in again");
    assert!(keeper.revoke(&signed).is_err(), "no older one");
    let other = Rack::new().root.revoke(&Revocations { number: 9, ..list.clone() });
    assert!(keeper.revoke(&other.expect("signed")).is_err(), "nor one of another root");
    let mut damaged = rack.root.revoke(&Revocations { number: 4, ..list }).expect("signed");
    damaged[8] ^= 1;
    assert!(keeper.revoke(&damaged).is_err() && keeper.revoke(b"").is_err());
}

#[test]
fn a_wrong_clock_expires_nobody_and_makes_no_certificate_of_another_century() {
    let rack = Rack::new();
    let b = rack.root.make_node("b", NOW, NODE_LIFE_S, &Revocations::default());
    let b = chain(&b.expect("a node"));
    for clock in [5, NOW - 900 * DAY, NOW, NOW + 300 * DAY, NOW + 20 * 365 * DAY] {
        let identity = rack.identity(clock);
        assert!(seen(&identity, &b).is_ok(), "at {clock}");
        let (request, _) = request().expect("a request");
        let made = identity.answer_own(&request).expect("an issuer").expect("a certificate");
        let made = Parsed::read(&chain(&String::from_utf8_lossy(&made))[0]).expect("one");
        let age = made.window.from.abs_diff(NOW) / DAY;
        assert!(age <= 301, "at {clock} it is good from {} days away", age);
    }
    let told = rack.keeper(NOW + 40 * DAY);
    let sure = Now { unix_s: NOW + 62 * DAY, is_sure: true, is_least: false };
    assert!(sure.admits(Parsed::read(&b[0]).expect("one").window, 30 * DAY).is_err());
    drop(told);
}
