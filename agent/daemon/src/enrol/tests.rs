//! Certificates of an authority of the tests' own.

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

fn node(state: &Path, id: &str) -> Node {
    Node { state: state.into(), fleet: "lab".into(), id: id.into(), key: Store::Own }
}

fn request(state: &Path, id: &str) -> String {
    node(state, id).request().expect("a request").pem().expect("PEM")
}

fn accept(state: &Path, id: &str, pem: &str, now: u64) -> Result<Certificate, String> {
    node(state, id).accept(pem, now)
}

fn faults(state: &Path, now: u64) -> Option<api::Fault> {
    node(state, "n1").faults(now)
}

const IN_2026: u64 = 1_790_000_000;

#[test]
fn a_certificate_is_taken_for_this_nodes_id_and_key_alone() {
    let (ours, other) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("one"));
    let (ours, other) = (ours.path(), other.path());
    let first = request(ours, "n1");
    let key = fs::read(ours.join(DIR).join(NEXT_KEY)).expect("a key");
    request(ours, "n1");
    assert_eq!(fs::read(ours.join(DIR).join(NEXT_KEY)).expect("a key"), key, "the same key");
    let foreign = signed(&request(other, "n1"), 3000);
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
    assert!(!ours.join(DIR).join(NEXT_KEY).exists());
    // The same key, for longer; and a new one.
    accept(ours, "n1", &signed(&first, 3001), IN_2026).expect("renewed");
    let next = request(ours, "n1");
    assert_eq!(accept(ours, "n1", &signed(&first, 3002), IN_2026).map(|_| ()), Ok(()));
    let why = accept(ours, "n1", &signed(&next, 3003), IN_2026).expect_err("its key is gone");
    assert!(why.contains("another key"), "{why}");
}

#[test]
fn one_that_ends_soon_is_told_long_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path();
    assert_eq!(faults(state, IN_2026), None, "there is none");
    let request = request(state, "n1");
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

#[test]
fn a_clock_of_1970_asks_for_no_certificate() {
    let dir = tempfile::tempdir().expect("a directory");
    let ours = node(dir.path(), "n1");
    accept(dir.path(), "n1", &signed(&request(dir.path(), "n1"), 2031), IN_2026).expect("taken");
    let held = ours.held().expect("read").expect("there is one");
    let (from, life) = (held.certificate.not_before_unix_s, held.certificate.lifetime_s());
    for (at, is_due) in
        [(7, false), (from, false), (from + life / 2 - 1, false), (from + life * 2 / 3, true)]
    {
        assert_eq!(held.renew_at() <= at, is_due, "{at}");
    }
    assert_eq!(held.renew_at(), held.renew_at(), "a restart doesn't move it");
}
