//! A key in a token that is reached by PKCS#11: a smart card, an HSM, a TPM. ECDSA P-256.
//!
//! The module is loaded when it is first needed, and nothing of it is linked. It lives on a
//! thread of its own, and whoever asks waits for a bounded time: a module that hangs costs
//! that thread, and no more. After any error the next question begins with a new session.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
};

use crate::{boot::credential, state, trust::sha256};

/// A TPM takes some tenths of a second, a smart card one; a handshake waits for it.
const WITHIN: Duration = Duration::from_secs(5);
/// To make a key takes longer.
const MADE_WITHIN: Duration = Duration::from_secs(30);
/// P-256 (RFC 5480, 2.1.1.1), as a DER object identifier.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// An uncompressed point of it.
const POINT_BYTES: usize = 65;
const MAX_PIN_BYTES: u64 = 256;

/// Where a key is (RFC 7512).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uri {
    /// `token`: the token's label.
    pub token: Option<String>,
    /// `serial`: its serial number.
    pub serial: Option<String>,
    /// `object`: the key's label.
    pub object: Option<String>,
    /// `id`: the key's id.
    pub id: Option<Vec<u8>>,
    /// `module-path`: the module.
    pub module: PathBuf,
    /// `pin-source`: a file that holds the PIN, or a credential's name.
    pub pin: Option<PathBuf>,
}

impl Uri {
    /// Whether a setting names a key so.
    pub fn is_one(text: &str) -> bool {
        text.starts_with("pkcs11:")
    }

    /// Reads one. What is not known is refused: it would name another key than was meant.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("pkcs11:").ok_or("it does not begin with pkcs11:")?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self::default();
        let parts = path.split(';').chain(query.split('&')).filter(|part| !part.is_empty());
        for part in parts {
            let (name, value) = part.split_once('=').ok_or(format!("{part} has no ="))?;
            let bytes = decoded(value).ok_or(format!("{name} has a % without two digits"))?;
            let word = || String::from_utf8(bytes.clone()).map_err(|_| format!("{name}: no UTF-8"));
            match name {
                "token" => uri.token = Some(word()?),
                "serial" => uri.serial = Some(word()?),
                "object" => uri.object = Some(word()?),
                "id" => uri.id = Some(bytes),
                "type" if bytes == b"private" => {}
                "module-path" => uri.module = word()?.into(),
                "pin-source" => {
                    let source = word()?;
                    uri.pin = Some(source.strip_prefix("file:").unwrap_or(&source).into());
                }
                "pin-value" => {
                    return Err(
                        "a PIN stands in a file or a credential: pin-source names it".into()
                    );
                }
                other => return Err(format!("{other} is not known here")),
            }
        }
        if uri.module.as_os_str().is_empty() {
            return Err("module-path names no module".into());
        }
        if uri.object.is_none() && uri.id.is_none() {
            return Err("neither object nor id names the key".into());
        }
        Ok(uri)
    }

    fn template(&self, class: ObjectClass) -> Vec<Attribute> {
        let label = self.object.iter().map(|it| Attribute::Label(it.clone().into_bytes()));
        let id = self.id.iter().map(|it| Attribute::Id(it.clone()));
        label.chain(id).chain([Attribute::Class(class)]).collect()
    }
}

/// A key in a token.
#[derive(Debug)]
pub struct Token {
    uri: Uri,
    thread: Mutex<Option<mpsc::Sender<Asked>>>,
}

type Answer = Result<Vec<u8>, String>;
type Asked = (What, mpsc::SyncSender<Answer>);

#[derive(Debug)]
enum What {
    /// The public key's point; made if it isn't there and that is allowed.
    Point { make: bool },
    /// A signature of a digest, r and s.
    Sign(Vec<u8>),
}

impl Token {
    /// That key. Nothing is loaded yet.
    pub fn new(uri: Uri) -> Self {
        Self { uri, thread: Mutex::new(None) }
    }

    /// How it is named.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The public key, an uncompressed point.
    pub fn point(&self) -> Result<Vec<u8>, String> {
        self.ask(What::Point { make: false }, WITHIN)
    }

    /// The same; the key is made if it isn't there, and never leaves the token.
    pub fn point_or_make(&self) -> Result<Vec<u8>, String> {
        self.ask(What::Point { make: true }, MADE_WITHIN)
    }

    /// ECDSA P-256 with SHA-256, ASN.1.
    pub fn sign(&self, said: &[u8]) -> Result<Vec<u8>, String> {
        let raw = self.ask(What::Sign(sha256(said)), WITHIN)?;
        asn1(&raw).ok_or_else(|| format!("{}: a signature of {} bytes", self.name(), raw.len()))
    }

    fn name(&self) -> String {
        format!("the token behind {}", self.uri.module.display())
    }

    fn ask(&self, what: What, within: Duration) -> Answer {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let asks = thread.get_or_insert_with(|| spawn(self.uri.clone()));
        let (reply, answer) = mpsc::sync_channel(1);
        _ = asks.send((what, reply));
        match answer.recv_timeout(within) {
            Ok(answer) => answer.map_err(|why| format!("{}: {why}", self.name())),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(format!("{}: no answer within {within:?}", self.name()))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                *thread = None;
                Err(format!("{}: its thread is gone", self.name()))
            }
        }
    }
}

fn spawn(uri: Uri) -> mpsc::Sender<Asked> {
    let (asks, inbox) = mpsc::channel::<Asked>();
    let name = thread::Builder::new().name("pkcs11".into());
    // Who can't have a thread has no answer either, and is told.
    _ = name.spawn(move || {
        let mut module = None;
        let mut session = None;
        while let Ok((what, reply)) = inbox.recv() {
            let answer = answer(&uri, &mut module, &mut session, &what);
            if answer.is_err() {
                session = None;
            }
            _ = reply.send(answer);
        }
    });
    asks
}

fn answer(
    uri: &Uri,
    module: &mut Option<Pkcs11>,
    session: &mut Option<Session>,
    what: &What,
) -> Answer {
    if module.is_none() {
        *module = Some(load(&uri.module)?);
    }
    let Some(module) = module else { return Err("it is not loaded".into()) };
    if session.is_none() {
        *session = Some(log_in(module, uri)?);
    }
    let Some(session) = session else { return Err("there is no session".into()) };
    match what {
        What::Sign(digest) => {
            let key = find(session, uri, ObjectClass::PRIVATE_KEY)?.ok_or("no key is named so")?;
            session.sign(&Mechanism::Ecdsa, key, digest).map_err(text)
        }
        What::Point { make } => {
            if find(session, uri, ObjectClass::PRIVATE_KEY)?.is_none() {
                if !make {
                    return Err("no key is named so".into());
                }
                generate(session, uri)?;
            }
            point(session, uri)
        }
    }
}

fn load(path: &Path) -> Result<Pkcs11, String> {
    let module = Pkcs11::new(path).map_err(text)?;
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(text)?;
    Ok(module)
}

fn log_in(module: &Pkcs11, uri: &Uri) -> Result<Session, String> {
    let slot = slot(module, uri)?.ok_or("no token is named so")?;
    let session = module.open_rw_session(slot).map_err(text)?;
    if let Some(file) = &uri.pin {
        let pin = pin(file)?;
        session.login(UserType::User, Some(&pin.into())).map_err(text)?;
    }
    Ok(session)
}

fn slot(module: &Pkcs11, uri: &Uri) -> Result<Option<Slot>, String> {
    for slot in module.get_slots_with_token().map_err(text)? {
        let info = module.get_token_info(slot).map_err(text)?;
        let is = |wanted: &Option<String>, has: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == has.trim_end())
        };
        if is(&uri.token, info.label()) && is(&uri.serial, info.serial_number()) {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

fn pin(file: &Path) -> Result<String, String> {
    let file = credential("pin-source", file)?;
    let failed = |why: &dyn std::fmt::Display| format!("the PIN's file {}: {why}", file.display());
    let bytes = state::read(&file, MAX_PIN_BYTES).map_err(|error| failed(&error))?;
    let bytes = bytes.ok_or_else(|| failed(&"it is not there"))?;
    let pin = String::from_utf8(bytes).map_err(|error| failed(&error))?;
    Ok(pin.trim_end_matches(['\r', '\n']).to_owned())
}

fn find(session: &Session, uri: &Uri, class: ObjectClass) -> Result<Option<ObjectHandle>, String> {
    let found = session.find_objects(&uri.template(class)).map_err(text)?;
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(format!("{} keys are named so: say id as well", found.len())),
    }
}

fn generate(session: &Session, uri: &Uri) -> Result<(), String> {
    let names = || {
        let mut names = uri.template(ObjectClass::PUBLIC_KEY);
        names.pop();
        names
    };
    let mut public = names();
    public.extend([
        Attribute::Token(true),
        Attribute::Verify(true),
        Attribute::EcParams(P256.into()),
    ]);
    let mut private = names();
    private.extend([
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ]);
    let made = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private);
    made.map(drop).map_err(text)
}

fn point(session: &Session, uri: &Uri) -> Result<Vec<u8>, String> {
    let key = find(session, uri, ObjectClass::PUBLIC_KEY)?.ok_or("the key has no public half")?;
    let wanted = [AttributeType::EcPoint, AttributeType::EcParams];
    let mut point = None;
    for attribute in session.get_attributes(key, &wanted).map_err(text)? {
        match attribute {
            Attribute::EcPoint(bytes) => point = Some(bytes),
            Attribute::EcParams(curve) if curve != P256 => {
                return Err("the key is of another curve than P-256".into());
            }
            _ => {}
        }
    }
    let point = point.ok_or("the key is none of an elliptic curve")?;
    // An OCTET STRING around it by the standard; some leave that out.
    let bare = point.len().checked_sub(POINT_BYTES).and_then(|at| point.get(at..));
    let bare = bare.filter(|it| it.first() == Some(&4)).ok_or("the key is not of P-256")?;
    Ok(bare.into())
}

/// r and s as ASN.1 has them (RFC 3279, 2.2.3).
fn asn1(raw: &[u8]) -> Option<Vec<u8>> {
    let (r, s) = (raw.len() == POINT_BYTES - 1).then(|| raw.split_at(raw.len() / 2))?;
    let integer = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len() - 1);
        let bytes = &bytes[zeros..];
        let pad: &[u8] = if bytes[0] >= 0x80 { &[0] } else { &[] };
        [&[2, (pad.len() + bytes.len()) as u8], pad, bytes].concat()
    };
    let both = [integer(r), integer(s)].concat();
    Some([&[0x30, both.len() as u8], &both[..]].concat())
}

/// A value with its %XX taken back.
fn decoded(value: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), value.as_bytes());
    while let [first, more @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = more;
            continue;
        }
        let digits = std::str::from_utf8(more.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &more[2..];
    }
    Some(bytes)
}

fn text(error: cryptoki::error::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_key_is_named_by_a_uri_and_its_pin_by_a_file() {
        let uri = Uri::parse(
            "pkcs11:token=site%207;object=node;id=%01%ff;type=private\
             ?module-path=/usr/lib/m.so&pin-source=file:/etc/purlin/pin",
        );
        assert_eq!(
            uri,
            Ok(Uri {
                token: Some("site 7".into()),
                object: Some("node".into()),
                id: Some(vec![1, 255]),
                module: "/usr/lib/m.so".into(),
                pin: Some("/etc/purlin/pin".into()),
                ..Uri::default()
            })
        );
        let refused = [
            "file:/x",
            "pkcs11:object=n",
            "pkcs11:token=t?module-path=/m",
            "pkcs11:object=n?module-path=/m&pin-value=1234",
            "pkcs11:object=n;slot-id=1?module-path=/m",
            "pkcs11:object=%4?module-path=/m",
        ];
        let told: Vec<_> =
            refused.iter().map(|it| Uri::parse(it).expect_err("refused") + "\n").collect();
        expect![[r#"
            it does not begin with pkcs11:
            module-path names no module
            neither object nor id names the key
            a PIN stands in a file or a credential: pin-source names it
            slot-id is not known here
            object has a % without two digits
        "#]]
        .assert_eq(&told.concat());
    }

    #[test]
    fn a_signature_is_two_integers_without_a_byte_too_many() {
        let mut raw = [0; 64];
        (raw[31], raw[32]) = (0x7f, 0x80);
        let coded = asn1(&raw).expect("64 bytes");
        assert_eq!(coded[..5], [0x30, 38, 2, 1, 0x7f]);
        assert_eq!(coded[5..9], [2, 33, 0, 0x80]);
        assert_eq!(asn1(&raw[1..]), None);
    }
}
