//! Who gets a certificate over the broker: whoever has a token that is not spent, or proves
//! by the key of his latest certificate that it is he. Whom the broker let in does not count.
//!
//! What was answered once is answered the same way again, since answers get lost.

use std::{fmt, time::Duration};

use prost::Message;
use purlin_daemon::enrol::{Certificate, Chain, certificate, token as proof};
use purlin_proto::v1::{CertificateProof, EnrolRequest, TokenProof, enrol_request::By};
use rcgen::{CertificateSigningRequestParams, PublicKeyData};

use super::{
    Authority, name, now,
    token::{Token, is_for},
};

/// A request with a certificate in it; what is larger is none.
const MAX_BYTES: usize = 16 << 10;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// Its first certificate, by that token.
    First(String),
    /// The next.
    Next,
    /// The same that was made before.
    Again,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Made::First(id) => write!(f, "enrolled by token {id}"),
            Made::Next => f.write_str("renewed"),
            Made::Again => f.write_str("was sent the same again"),
        }
    }
}

/// Judges a request that came on a node's topic, and makes the certificate.
pub fn judge(
    authority: &Authority,
    fleet: &str,
    node: &str,
    bytes: &[u8],
    lasts: Duration,
) -> Result<(Chain, Made), String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("{} bytes: a request has at most {MAX_BYTES}", bytes.len()));
    }
    let request = EnrolRequest::decode(bytes).map_err(|_| "it is no request".to_owned())?;
    // Its own signature is checked on the way: whoever asks has the key.
    let csr = CertificateSigningRequestParams::from_der(&request.csr.to_vec().into())
        .map_err(|error| format!("no request for a certificate: {error}"))?;
    let named = name(&csr)?;
    if named != node {
        return Err(format!("it asks for node {named} on the topic of {node}"));
    }
    if authority.is_denied(node)? {
        return Err("this node is denied".into());
    }
    let asked = Asked { authority, fleet, node, csr: &request.csr, lasts };
    match &request.by {
        Some(By::Token(by)) => asked.by_token(by, csr),
        Some(By::Certificate(by)) => asked.by_certificate(by, csr),
        None => Err("it proves nothing".into()),
    }
}

struct Asked<'a> {
    authority: &'a Authority,
    fleet: &'a str,
    node: &'a str,
    csr: &'a [u8],
    lasts: Duration,
}

impl Asked<'_> {
    fn by_token(
        &self,
        by: &TokenProof,
        csr: CertificateSigningRequestParams,
    ) -> Result<(Chain, Made), String> {
        let handed_out = Token::find(&self.authority.dir, &by.id)?;
        let token = &handed_out.token;
        if !proof::is_proved(token, &proof::claim(self.fleet, self.node, self.csr), &by.mac) {
            return Err(format!("token {} does not prove it", by.id));
        }
        if let Some(spent) = handed_out.spent()? {
            let chain = spent.chain()?;
            return match has_key(&chain, &csr)? {
                true => Ok((chain, Made::Again)),
                false => Err(format!(
                    "token {} is spent: node {} had a certificate by it for another key. If that \
                     was not this node, somebody else had the token",
                    by.id, spent.node
                )),
            };
        }
        if token.expires_unix_s <= now() {
            return Err(format!("token {} has expired: make another one", by.id));
        }
        if !is_for(token, self.node) {
            return Err(format!("token {} is for {}", by.id, token.node));
        }
        if token.node != self.node && self.authority.issued(self.node)?.is_some() {
            return Err(format!(
                "node {} has had a certificate: only a token for it alone gives it another",
                self.node
            ));
        }
        // It is spent before the certificate is anybody's.
        let chain = self.authority.make(self.node, csr, self.lasts)?;
        handed_out.spend(self.node, &chain)?;
        self.authority.keep(self.node, &chain)?;
        Ok((chain, Made::First(by.id.clone())))
    }

    fn by_certificate(
        &self,
        by: &CertificateProof,
        csr: CertificateSigningRequestParams,
    ) -> Result<(Chain, Made), String> {
        let shown: Chain = vec![by.certificate.to_vec().into()];
        let said = Certificate::read(&shown[0])?;
        if said.node != self.node {
            return Err(format!("it shows a certificate of {}", said.node));
        }
        certificate::verify(&shown, &self.authority.certificates[0], now())
            .map_err(|why| format!("the certificate that it shows is not good: {why}"))?;
        let claim = proof::renewal(self.fleet, self.node, self.csr);
        if !certificate::has_signed(&shown[0], &claim, &by.signature) {
            return Err("it has not the key of the certificate that it shows".into());
        }
        if let Some(latest) = self.authority.issued(self.node)?
            && latest[0] != shown[0]
        {
            return match has_key(&latest, &csr)? {
                true => Ok((latest, Made::Again)),
                false => {
                    Err("it shows a certificate that another has followed since: its state is \
                              a copy or was put back, and two may have its identity. A new token \
                              for it settles which one is the node"
                        .into())
                }
            };
        }
        let chain = self.authority.certify(self.node, csr, self.lasts)?;
        Ok((chain, Made::Next))
    }
}

/// Whether a certificate is for the key of a request.
fn has_key(chain: &Chain, csr: &CertificateSigningRequestParams) -> Result<bool, String> {
    Ok(Certificate::read(&chain[0])?.public_key == csr.public_key.subject_public_key_info())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use purlin_daemon::enrol::{Node, Store};
    use tempfile::TempDir;

    use super::{
        super::{found, token},
        *,
    };

    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    fn authority() -> (TempDir, Authority) {
        let dir = tempfile::tempdir().expect("a directory");
        found(dir.path(), "lab").expect("made");
        let authority = Authority::open(dir.path()).expect("it was made");
        (dir, authority)
    }

    fn node(state: &Path, id: &str) -> Node {
        Node { state: state.into(), fleet: "lab".into(), id: id.into(), key: Store::Own }
    }

    fn token(authority: &Authority, node: &str, lasts_s: u64) -> purlin_proto::v1::EnrolToken {
        proof::parse(&token::make(&authority.dir, node, lasts_s).expect("made")).expect("a token")
    }

    fn asks(authority: &Authority, node: &str, by: &EnrolRequest) -> Result<(Chain, Made), String> {
        judge(authority, "lab", node, &by.encode_to_vec(), YEAR)
    }

    fn take(node: &Node, chain: &Chain) {
        node.accept(&certificate::pem(chain), now()).expect("taken");
    }

    #[test]
    fn a_token_lets_one_key_of_one_node_in_once() {
        let (_dir, authority) = authority();
        let states = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        let [ours, thief] = [0, 1].map(|n| node(states[n].path(), "n1"));
        let given = token(&authority, "n1", 60);
        let asked = ours.ask_by_token(&given).expect("asked");
        let (chain, made) = asks(&authority, "n1", &asked).expect("let in");
        assert_eq!(made, Made::First(given.id.clone()));
        assert_eq!(asks(&authority, "n1", &asked), Ok((chain.clone(), Made::Again)));
        ours.judge_first(&chain, &given, now()).expect("of the authority");
        take(&ours, &chain);
        let refused = |node: &str, request: &EnrolRequest, why: &str| {
            let told = asks(&authority, node, request).expect_err(why);
            assert!(told.contains(why), "{told}");
        };
        refused("n1", &thief.ask_by_token(&given).expect("asked"), "is spent");
        refused("n2", &asked, "on the topic of n2");
        let stranger = purlin_proto::v1::EnrolToken { secret: vec![1; 32].into(), ..given.clone() };
        refused("n1", &thief.ask_by_token(&stranger).expect("asked"), "does not prove it");
        for id in ["0123456789abcdef", "../../ca.key", ""] {
            let unknown = purlin_proto::v1::EnrolToken { id: id.into(), ..given.clone() };
            refused("n1", &thief.ask_by_token(&unknown).expect("asked"), "no such token");
        }
        let late = token(&authority, "n1", 0);
        refused("n1", &thief.ask_by_token(&late).expect("asked"), "has expired");
        let others = token(&authority, "n2", 60);
        refused("n1", &thief.ask_by_token(&others).expect("asked"), "is for n2");
        let any = token(&authority, "*", 60);
        refused("n1", &thief.ask_by_token(&any).expect("asked"), "only a token for it alone");
        refused("n1", &EnrolRequest { by: None, ..asked }, "proves nothing");
        assert!(judge(&authority, "lab", "n1", &vec![0; MAX_BYTES + 1], YEAR).is_err());
        // One for it alone settles whose it is.
        let again = thief.ask_by_token(&token(&authority, "n1", 60)).expect("asked");
        asks(&authority, "n1", &again).expect("let in");
    }

    #[test]
    fn the_next_certificate_needs_the_key_of_the_latest() {
        let (_dir, authority) = authority();
        let states = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        let [ours, copy] = [0, 1].map(|n| node(states[n].path(), "n1"));
        let first = ours.ask_by_token(&token(&authority, "n1", 60)).expect("asked");
        take(&ours, &asks(&authority, "n1", &first).expect("let in").0);
        let dir = copy.pair().parent().expect("a directory").to_owned();
        std::fs::create_dir_all(dir).expect("made");
        std::fs::copy(ours.pair(), copy.pair()).expect("copied");
        let held = |node: &Node| node.held().expect("read").expect("there is one");
        let asked = ours.ask_by_certificate(&held(&ours)).expect("asked");
        let (chain, made) = asks(&authority, "n1", &asked).expect("renewed");
        assert_eq!(made, Made::Next);
        ours.judge_next(&chain, &held(&ours), now()).expect("of the same authority");
        // The answer was lost: it is the same again, and not one more.
        assert_eq!(asks(&authority, "n1", &asked), Ok((chain.clone(), Made::Again)));
        take(&ours, &chain);
        let told = |request: &EnrolRequest| asks(&authority, "n1", request).expect_err("refused");
        let behind = copy.ask_by_certificate(&held(&copy)).expect("asked");
        assert!(told(&behind).contains("another has followed since"));
        let by = Some(By::Certificate(CertificateProof {
            certificate: held(&ours).chain[0].to_vec().into(),
            signature: vec![0; 70].into(),
        }));
        assert!(told(&EnrolRequest { by, ..behind }).contains("has not the key"));
        std::fs::write(authority.dir.join("denied"), "n0\nn1\n").expect("written");
        let next = ours.ask_by_certificate(&held(&ours)).expect("asked");
        assert!(told(&next).contains("denied"));
    }

    #[test]
    fn what_is_of_another_authority_is_not_taken() {
        let ((_one, authority), (_other, foreign)) = (authority(), authority());
        let state = tempfile::tempdir().expect("a directory");
        let ours = node(state.path(), "n1");
        let given = token(&authority, "n1", 60);
        let theirs = token(&foreign, "n1", 60);
        let asked = ours.ask_by_token(&theirs).expect("asked");
        let (chain, _) = asks(&foreign, "n1", &asked).expect("let in there");
        let why = ours.judge_first(&chain, &given, now()).expect_err("of another");
        assert!(why.contains("not by the authority"), "{why}");
        // The right authority behind a certificate that it never made.
        let mixed: Chain = vec![chain[0].clone(), authority.certificates[0].clone()];
        assert!(ours.judge_first(&mixed, &given, now()).is_err());
        // A clock that is behind is no reason to refuse one.
        ours.judge_first(&chain, &theirs, 7).expect("in 1970");
    }
}
