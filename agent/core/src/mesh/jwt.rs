//! Tokens by which a client shows who it is (JWT, RFC 7519): whose are taken, by which keys,
//! and until when. What is written in one is read where there is JSON and cryptography.

use alloc::{string::String, vec::Vec};

use super::credential::Now;

/// How far the clocks of who issues a token and who looks at it may be apart.
const LEEWAY_S: u64 = 60;

/// Somebody whose tokens may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Unique among issuers.
    pub name: String,
    /// What its tokens have in `iss`; unique too.
    pub issuer: String,
    /// Of these a token must have one in `aud`; none: whatever it has.
    pub audiences: Vec<String>,
    /// What its tokens are signed with.
    pub keys: Vec<Key>,
}

/// A public key of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its `kid`.
    pub id: Option<String>,
    /// The only algorithm that it is for, if it says so.
    pub algorithm: Option<String>,
    /// It itself.
    pub public: Public,
}

/// A key by its kind. Numbers are big-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Public {
    /// A point on P-256, uncompressed (SEC 1, 2.3.3).
    P256(Vec<u8>),
    /// The same on P-384.
    P384(Vec<u8>),
    /// A key of Ed25519 (RFC 8032).
    Ed25519(Vec<u8>),
    /// Modulus and exponent.
    Rsa {
        /// Of 2048 to 8192 bits.
        n: Vec<u8>,
        /// Odd.
        e: Vec<u8>,
    },
}

impl Public {
    /// The algorithms that it can be used with (RFC 7518, 3.1; RFC 8037, 3.1; RFC 9864, 2).
    /// A token can't have it used with another one.
    pub fn algorithms(&self) -> &'static [&'static str] {
        match self {
            Public::P256(_) => &["ES256"],
            Public::P384(_) => &["ES384"],
            Public::Ed25519(_) => &["EdDSA", "Ed25519"],
            Public::Rsa { .. } => &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        }
    }
}

impl Key {
    /// Whether a token that says so may be signed with it. Where one of both has no `kid`,
    /// that decides nothing.
    pub fn may_have_signed(&self, algorithm: &str, id: Option<&str>) -> bool {
        self.public.algorithms().contains(&algorithm)
            && self.algorithm.as_deref().is_none_or(|it| it == algorithm)
            && (id.is_none() || self.id.is_none() || self.id.as_deref() == id)
    }
}

/// What a request must have to be let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Jwt {
    /// Names of those whose tokens do; never empty once checked.
    pub issuers: Vec<String>,
    /// What must stand in it: all of these.
    pub claims: Vec<Claim>,
}

/// Something that stands in a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its name, or the way to it with dots.
    pub name: String,
    /// One of these it must be, or have.
    pub values: Vec<String>,
}

/// When a token is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// From then on it isn't any more (`exp`).
    pub until: u64,
    /// Before then it isn't yet: the later one of `nbf` and `iat`.
    pub from: u64,
}

impl Times {
    /// Whether it is good now. Where it is only known what time it is at least, every token
    /// may be of the future, and none is too early.
    pub fn admit(self, now: Now) -> Result<(), Refused> {
        if now.unix_s >= self.until.saturating_add(LEEWAY_S) {
            return Err(Refused::Expired);
        }
        match !now.is_least && now.unix_s.saturating_add(LEEWAY_S) < self.from {
            true => Err(Refused::Early),
            false => Ok(()),
        }
    }
}

/// Why a request isn't let through; the later ones are closer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// It has none.
    Missing,
    /// What it has is none.
    Malformed,
    /// It is of nobody whose tokens are taken here.
    Issuer,
    /// Its issuer has no such key.
    Key,
    /// It was not signed with that key.
    Signature,
    /// It is too old.
    Expired,
    /// It is not good yet.
    Early,
    /// It is for others.
    Audience,
    /// It is good, and lacks what is asked for here.
    Claims,
}

impl Refused {
    /// All of them, in the order of their values.
    pub const ALL: [Refused; 9] = [
        Refused::Missing,
        Refused::Malformed,
        Refused::Issuer,
        Refused::Key,
        Refused::Signature,
        Refused::Expired,
        Refused::Early,
        Refused::Audience,
        Refused::Claims,
    ];

    /// For counters.
    pub fn name(self) -> &'static str {
        match self {
            Refused::Missing => "missing",
            Refused::Malformed => "malformed",
            Refused::Issuer => "another issuer's",
            Refused::Key => "unknown key",
            Refused::Signature => "wrong signature",
            Refused::Expired => "expired",
            Refused::Early => "not good yet",
            Refused::Audience => "for another audience",
            Refused::Claims => "without the claims",
        }
    }

    /// For whoever asked: nothing that it didn't know, a line, and no quotes in it.
    pub fn text(self) -> &'static str {
        match self {
            Refused::Missing => "a token is needed: Authorization: Bearer TOKEN\n",
            Refused::Malformed => {
                "the token is no signed JWT of at most 8 KiB with exp and without crit\n"
            }
            Refused::Issuer => "the token is of no issuer that is taken here\n",
            Refused::Key => "the issuer has no key of the token's kid and algorithm\n",
            Refused::Signature => "the token's signature is wrong\n",
            Refused::Expired => "the token has expired\n",
            Refused::Early => "the token is not good yet\n",
            Refused::Audience => "the token is for another audience\n",
            Refused::Claims => "the token lacks a claim that is needed here\n",
        }
    }

    /// The status of the answer: who shows another token may get 200, or is who he is.
    pub fn status(self) -> u16 {
        if self == Refused::Claims { 403 } else { 401 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_used_with_its_own_algorithms_alone() {
        let rsa = Public::Rsa { n: Vec::new(), e: Vec::new() };
        let mut key = Key { id: Some("1".into()), algorithm: None, public: rsa };
        for algorithm in ["none", "None", "", "HS256", "ES256", "EdDSA", "RS1", "RSA-OAEP"] {
            assert!(!key.may_have_signed(algorithm, Some("1")), "{algorithm}");
        }
        assert!(key.may_have_signed("RS256", Some("1")) && key.may_have_signed("PS512", None));
        assert!(!key.may_have_signed("RS256", Some("2")), "another key's");
        key.algorithm = Some("RS256".into());
        assert!(!key.may_have_signed("PS256", Some("1")), "it is for one alone");
        key.id = None;
        assert!(key.may_have_signed("RS256", Some("2")), "it has no name");
    }

    #[test]
    fn a_token_is_good_within_its_time_and_none_is_early_for_a_clock_in_1970() {
        let times = Times { until: 2000, from: 1000 };
        let at = |unix_s, is_least| times.admit(Now { unix_s, is_sure: false, is_least });
        assert_eq!((at(939, false), at(939, true)), (Err(Refused::Early), Ok(())));
        assert_eq!((at(940, false), at(2059, false)), (Ok(()), Ok(())));
        assert_eq!((at(2060, false), at(2060, true)), (Err(Refused::Expired), at(2060, false)));
        let for_ever = Times { until: u64::MAX, from: 0 };
        let late = Now { unix_s: u64::MAX - 1, is_sure: true, is_least: false };
        assert_eq!(for_ever.admit(late), Ok(()));
    }

    #[test]
    fn what_is_told_fits_into_a_header() {
        for (n, it) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(it as usize, n);
            let text = it.text().strip_suffix('\n').expect("a line");
            assert!(!text.contains(['"', '\\', '\n']) && text.is_ascii(), "{text}");
        }
    }
}
