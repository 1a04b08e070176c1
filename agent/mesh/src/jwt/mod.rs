//! Reads a token and looks at its signature (JWS compact serialization, RFC 7515, 7.1), and
//! at what stands in it. Nothing of a token is believed before its signature was found good,
//! but for whose it says it is, which chooses the keys; and a key is used with its own
//! algorithms alone (RFC 8725, 3.1).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use purlin_core::mesh::{
    credential::Now,
    jwt::{Claim, Issuer, Jwt, Public, Refused, Times},
};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::{Map, Value};

mod known;

pub use known::Tokens;

/// The longest token, in bytes: what most servers take as one header.
const MAX_BYTES: usize = 8 << 10;

/// A token whose signature is good.
#[derive(Debug)]
pub struct Token {
    issuer: String,
    times: Times,
    claims: Map<String, Value>,
}

impl Token {
    /// Reads one of these issuers'.
    pub fn read(issuers: &[Issuer], text: &str) -> Result<Self, Refused> {
        let (signed, mac) =
            text.rsplit_once('.').filter(|_| text.len() <= MAX_BYTES).ok_or(Refused::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Refused::Malformed)?;
        let (header, claims, mac) = (object(header)?, object(claims)?, bytes(mac)?);
        // What must be understood is not (RFC 7515, 4.1.11).
        if header.contains_key("crit") {
            return Err(Refused::Malformed);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Refused::Malformed)?;
        let id = match header.get("kid") {
            None => None,
            Some(id) => Some(id.as_str().ok_or(Refused::Malformed)?),
        };
        let times = times(&claims).ok_or(Refused::Malformed)?;
        let named = claims.get("iss").and_then(Value::as_str);
        let issuer = issuers.iter().find(|it| Some(it.issuer.as_str()) == named);
        let issuer = issuer.ok_or(Refused::Issuer)?;
        let mut refused = Refused::Key;
        let is_good =
            (issuer.keys.iter()).filter(|it| it.may_have_signed(algorithm, id)).any(|it| {
                refused = Refused::Signature;
                is_signed(&it.public, algorithm, signed.as_bytes(), &mac)
            });
        if !is_good {
            return Err(refused);
        }
        let is_meant = |it: &String| claims.get("aud").is_some_and(|aud| is(aud, it));
        if !issuer.audiences.is_empty() && !issuer.audiences.iter().any(is_meant) {
            return Err(Refused::Audience);
        }
        Ok(Self { issuer: issuer.name.clone(), times, claims })
    }

    /// Whether it is as it must be, now.
    pub fn admit(&self, jwt: &Jwt, now: Now) -> Result<(), Refused> {
        self.times.admit(now)?;
        if !jwt.issuers.contains(&self.issuer) {
            return Err(Refused::Issuer);
        }
        match jwt.claims.iter().all(|it| has(&self.claims, it)) {
            true => Ok(()),
            false => Err(Refused::Claims),
        }
    }
}

fn bytes(text: &str) -> Result<Vec<u8>, Refused> {
    BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| Refused::Malformed)
}

/// Of two members of one name the last one counts (RFC 7519, 4), wherever one is looked up.
fn object(text: &str) -> Result<Map<String, Value>, Refused> {
    serde_json::from_slice(&bytes(text)?).map_err(|_| Refused::Malformed)
}

/// `None` if there is no `exp`, or one of them is no number.
fn times(claims: &Map<String, Value>) -> Option<Times> {
    // As a cast does it: nothing before 1970, and as late as can be.
    let seconds = |it: &Value| it.as_f64().map(|it| it as u64);
    let or_0 = |name| claims.get(name).map_or(Some(0), seconds);
    let from = or_0("nbf")?.max(or_0("iat")?);
    Some(Times { until: seconds(claims.get("exp")?)?, from })
}

fn is_signed(public: &Public, algorithm: &str, message: &[u8], mac: &[u8]) -> bool {
    let by = |with: &'static dyn VerificationAlgorithm, key: &Vec<u8>| {
        UnparsedPublicKey::new(with, key).verify(message, mac).is_ok()
    };
    match public {
        Public::P256(key) => by(&signature::ECDSA_P256_SHA256_FIXED, key),
        Public::P384(key) => by(&signature::ECDSA_P384_SHA384_FIXED, key),
        Public::Ed25519(key) => by(&signature::ED25519, key),
        Public::Rsa { n, e } => {
            let with = match algorithm {
                "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                _ => return false,
            };
            RsaPublicKeyComponents { n, e }.verify(with, message, mac).is_ok()
        }
    }
}

fn has(claims: &Map<String, Value>, wanted: &Claim) -> bool {
    // A name may have dots itself, as https://shop.example/roles.
    let way = || {
        let (first, rest) = wanted.name.split_once('.')?;
        rest.split('.').try_fold(claims.get(first)?, |value, name| value.get(name))
    };
    let value = claims.get(&wanted.name).or_else(way);
    // RFC 8693, 4.2; and what it is called by some who were before that.
    let is_words = matches!(wanted.name.as_str(), "scope" | "scp");
    let is_one = |it: &String| match value {
        Some(Value::String(words)) if is_words => words.split(' ').any(|word| word == it),
        value => value.is_some_and(|value| is(value, it)),
    };
    wanted.values.iter().any(is_one)
}

/// Whether it is this, or has it.
fn is(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Array(all) => all.iter().any(|it| it.as_str() == Some(wanted)),
        Value::Bool(_) | Value::Number(_) => {
            serde_json::from_str::<Value>(wanted).is_ok_and(|it| it == *value)
        }
        Value::Null | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests;
