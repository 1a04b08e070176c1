//! Whether a certificate is one of this rack's. Chain and signatures are checked by webpki;
//! names, time and revocation are ours: name constraints don't bind URI names, and a
//! certificate that merely expired is no reason to leave a node alone.

use std::{
    collections::BTreeMap,
    error, fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use purlin_core::mesh::{
    credential::{Revocations, Window},
    spiffe::{Id, Kind},
};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{clock::Clock, parsed::Parsed};

/// Below a root are an issuer and a node; more is nobody's.
const MAX_ISSUERS: usize = 2;

/// Why somebody is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is of no authority of this rack.
    Foreign(String),
    /// It is on the list.
    Revoked(String),
    /// It is out of its time, by more than the grace, and the clock is sure.
    Expired(String),
}

impl Refused {
    /// Who it was that TLS let go, if it was by our word.
    pub fn of(error: &io::Error) -> Option<&Self> {
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        match error {
            Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
            _ => None,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Foreign(why) => write!(f, "its certificate is none of this rack's: {why}"),
            Refused::Revoked(name) => write!(f, "{name} is revoked"),
            Refused::Expired(what) => f.write_str(what),
        }
    }
}

impl error::Error for Refused {}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

/// Who is at the other end of a tunnel, proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub id: Id,
    /// The names and beginnings of all certificates that this rests on.
    rests_on: Vec<(Id, u64)>,
    /// For how long its own is good altogether, in seconds.
    pub life_s: u64,
}

impl Peer {
    /// Its node.
    pub fn node(&self) -> &str {
        self.id.node().unwrap_or_default()
    }

    /// Whether a newer list takes it out.
    pub fn is_revoked_by(&self, list: &Revocations) -> bool {
        self.rests_on.iter().any(|(id, from)| list.covers(id, *from))
    }
}

/// Nodes whose certificates are out of their time and were taken all the same, and by how
/// many seconds. It outlives a verifier.
#[derive(Clone, Debug, Default)]
pub struct Lapsed(Arc<Mutex<BTreeMap<String, u64>>>);

impl Lapsed {
    fn note(&self, node: &str, out_by: u64) {
        let mut lapsed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match out_by {
            0 => _ = lapsed.remove(node),
            _ => {
                if lapsed.insert(node.into(), out_by).is_none() {
                    tracing::warn!(node, out_by, "a certificate is out of its time, and taken");
                }
            }
        }
    }

    /// A line for each.
    pub fn told(&self) -> Vec<String> {
        let lapsed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |(node, out_by): (&String, &u64)| {
            let by = Duration::from_secs(*out_by).as_secs() / 60;
            format!(
                "the certificate of node {node} is out of its time by {by} minutes, and taken: \
                 its renewal fails, or a clock is wrong"
            )
        };
        lapsed.iter().map(told).collect()
    }
}

/// Decides who is of this rack.
#[derive(Debug)]
pub struct Verifier {
    roots: Vec<TrustAnchor<'static>>,
    rack: String,
    revocations: Revocations,
    clock: Clock,
    grace_s: u64,
    lapsed: Lapsed,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// For a rack with these roots.
    pub fn new(
        roots: &[CertificateDer<'_>],
        rack: String,
        revocations: Revocations,
        clock: Clock,
        grace_s: u64,
        lapsed: Lapsed,
    ) -> Result<Self, String> {
        let anchor = |root| anchor_from_trusted_cert(root).map(|it| it.to_owned());
        let roots = roots.iter().map(anchor).collect::<Result<_, _>>();
        let algorithms = ring::default_provider().signature_verification_algorithms;
        let roots = roots.map_err(|error| format!("no root: {error}"))?;
        Ok(Self { roots, rack, revocations, clock, grace_s, lapsed, algorithms })
    }

    /// The list in force.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Who a chain of certificates is.
    pub fn peer(&self, chain: &[CertificateDer<'_>], usage: KeyUsage) -> Result<Peer, Refused> {
        let foreign = |why: &dyn fmt::Display| Refused::Foreign(why.to_string());
        let (leaf, issuers) = chain.split_first().ok_or_else(|| foreign(&"there is none"))?;
        if issuers.len() > MAX_ISSUERS {
            return Err(foreign(&format!("{} certificates in a row", chain.len())));
        }
        let parsed = chain.iter().map(Parsed::read).collect::<Result<Vec<_>, _>>();
        let parsed = parsed.map_err(|why| foreign(&why))?;
        for (n, Parsed { id, .. }) in parsed.iter().enumerate() {
            let is_fitting = match id.kind {
                Kind::Node(_) | Kind::Service(..) => n == 0,
                Kind::Issuer(_) => n > 0,
                Kind::Rack => false,
            };
            if id.rack != self.rack || !is_fitting {
                return Err(foreign(&format!("{id} can't stand there in rack {}", self.rack)));
            }
            if self.revocations.covers(id, parsed[n].window.from) {
                return Err(Refused::Revoked(id.to_string()));
            }
        }
        let windows = parsed.iter().map(|it| it.window);
        let window = windows.clone().skip(1).try_fold(parsed[0].window, |all, it| all.and(it));
        let window = window.ok_or_else(|| foreign(&"they are never good together"))?;
        // Within it, by a time that both have.
        let at = self.clock.now().unix_s.clamp(window.from, window.until);
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        let certificate = EndEntityCert::try_from(leaf).map_err(|error| foreign(&error))?;
        let algorithms = self.algorithms.all;
        certificate
            .verify_for_usage(algorithms, &self.roots, issuers, at, usage, None, None)
            .map_err(|error| foreign(&error))?;
        let node = parsed[0].id.node().unwrap_or_default();
        let out_by = self.in_time(&parsed[0].id, window);
        // One that is not taken any more is no grace's.
        self.lapsed.note(node, *out_by.as_ref().unwrap_or(&0));
        out_by?;
        // The rack has made it by now.
        self.clock.learn(parsed[0].window.from);
        let id = parsed[0].id.clone();
        let life_s = parsed[0].window.until - parsed[0].window.from;
        let rests_on = parsed.into_iter().map(|it| (it.id, it.window.from)).collect();
        Ok(Peer { id, rests_on, life_s })
    }

    /// Who a chain of certificates is, if the key of its first one has signed this.
    pub fn signer(
        &self,
        chain: &[CertificateDer<'_>],
        message: &[u8],
        signature: &[u8],
    ) -> Result<Option<Peer>, Refused> {
        let peer = self.peer(chain, KeyUsage::client_auth())?;
        let leaf = chain.first().and_then(|it| Parsed::read(it).ok());
        Ok(leaf.is_some_and(|it| it.has_signed(message, signature)).then_some(peer))
    }

    fn in_time(&self, id: &Id, window: Window) -> Result<u64, Refused> {
        self.clock.now().admits(window, self.grace_s).map_err(|out_by| {
            let (by, grace) = (out_by / 86_400, self.grace_s / 86_400);
            Refused::Expired(format!(
                "the certificate of {id} is out of its time by {by} days, over the {grace} of \
                 mesh.certificate_grace_days"
            ))
        })
    }
}

fn with_issuers<'a>(
    leaf: &CertificateDer<'a>,
    issuers: &[CertificateDer<'a>],
) -> Vec<CertificateDer<'a>> {
    [std::slice::from_ref(leaf), issuers].concat()
}

impl ServerCertVerifier for Verifier {
    /// That it is the node which was asked for is looked at once it is known who it is.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.peer(&with_issuers(leaf, issuers), KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 and nothing older".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.peer(&with_issuers(leaf, issuers), KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
