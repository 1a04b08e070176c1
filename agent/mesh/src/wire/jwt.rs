//! Whose tokens are taken, and what a request's must have. Keys come as JWK Sets (RFC 7517).

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use purlin_core::mesh::jwt::{Claim, Issuer, Jwt, Key, Public};
use purlin_proto::v1;
use serde::Deserialize;

use super::{MAX_TEXT, Reader};

/// The longest set, in bytes: 16 keys with chains of certificates, which nobody looks at.
const MAX_JWKS: usize = 64 << 10;
/// Less can be broken, and more is not verified (ring's limits too).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

/// A key as it is written; what else stands there is nobody's here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    /// What is private of a key, or a whole one that is.
    #[serde(alias = "k")]
    d: Option<String>,
}

impl Jwk {
    fn verifies(&self) -> bool {
        self.purpose.as_deref().is_none_or(|it| it == "sig")
            && self.key_ops.as_ref().is_none_or(|it| it.iter().any(|it| it == "verify"))
    }
}

impl Reader {
    pub(super) fn jwt_issuer(&mut self, path: &str, it: &v1::JwtIssuer) -> Issuer {
        self.is_text(&format!("{path}.issuer"), &it.issuer);
        for (n, audience) in it.audiences.iter().enumerate() {
            self.is_text(&format!("{path}.audiences[{n}]"), audience);
        }
        Issuer {
            name: it.name.clone(),
            issuer: it.issuer.clone(),
            audiences: it.audiences.clone(),
            keys: self.jwks(&format!("{path}.jwks"), &it.jwks),
        }
    }

    pub(super) fn jwt(&mut self, path: &str, it: &v1::Jwt) -> Jwt {
        let claims = it.claims.iter().enumerate().map(|(n, it)| {
            self.is_text(&format!("{path}.claims[{n}].name"), &it.name);
            Claim { name: it.name.clone(), values: it.values.clone() }
        });
        Jwt { claims: claims.collect(), issuers: it.issuers.clone() }
    }

    fn is_text(&mut self, path: &str, text: &str) {
        if text.is_empty() || text.len() > MAX_TEXT {
            let limit = format!("1 to {MAX_TEXT} bytes");
            self.refuse(path, text, limit, "write it as tokens have it");
        }
    }

    fn jwks(&mut self, path: &str, text: &str) -> Vec<Key> {
        if text.len() > MAX_JWKS {
            let hint = "leave out old keys, and x5c";
            self.refuse(path, text.len(), format!("at most {MAX_JWKS} bytes"), hint);
            return Vec::new();
        }
        let all = match serde_json::from_str::<Jwks>(text) {
            Ok(set) => set.keys,
            Err(error) => {
                let limit = "a JWK Set in JSON, such as {\"keys\": [{\"kty\": …}]}";
                self.refuse(path, "", limit, &error.to_string());
                return Vec::new();
            }
        };
        let mut seen = BTreeMap::new();
        let mut keys = Vec::new();
        for (n, jwk) in all.iter().enumerate() {
            let path = format!("{path}.keys[{n}]");
            let before = jwk.kid.as_ref().and_then(|id| seen.insert(id, n));
            if let (Some(before), Some(id)) = (before, &jwk.kid) {
                let hint = format!("keys[{before}] has it too");
                self.refuse(&format!("{path}.kid"), id, "a kid of its own", &hint);
            }
            if jwk.d.is_some() || jwk.kty == "oct" {
                let hint = "a document holds no secret, and whoever reads this one could make \
                            tokens: take another key, and write its public part";
                self.refuse(&path, "", "a public key", hint);
            } else if jwk.verifies() {
                keys.extend(self.key(&path, jwk));
            }
        }
        if all.iter().all(|it| !it.verifies()) {
            self.refuse(path, "", "at least one key to verify with", "add the issuer's");
        }
        keys
    }

    fn key(&mut self, path: &str, jwk: &Jwk) -> Option<Key> {
        let public = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("EC", Some("P-256")) => Public::P256(self.point(path, jwk, 32)?),
            ("EC", Some("P-384")) => Public::P384(self.point(path, jwk, 48)?),
            ("OKP", Some("Ed25519")) => {
                Public::Ed25519(self.bytes(&format!("{path}.x"), &jwk.x, 32)?)
            }
            ("RSA", _) => self.rsa(path, jwk)?,
            (kty, crv) => {
                let value = format!("{kty} {}", crv.unwrap_or_default());
                let limit = "RSA, EC on P-256 or P-384, or OKP Ed25519";
                self.refuse(path, value.trim_end(), limit, "leave this key out of the set");
                return None;
            }
        };
        let may_be = public.algorithms();
        if let Some(alg) = jwk.alg.as_ref().filter(|it| !may_be.contains(&it.as_str())) {
            let limit = format!("one of {}", may_be.join(", "));
            let hint = "correct it, or leave this key out of the set";
            self.refuse(&format!("{path}.alg"), alg, limit, hint);
        }
        Some(Key { id: jwk.kid.clone(), algorithm: jwk.alg.clone(), public })
    }

    fn point(&mut self, path: &str, jwk: &Jwk, size: usize) -> Option<Vec<u8>> {
        let x = self.bytes(&format!("{path}.x"), &jwk.x, size);
        let y = self.bytes(&format!("{path}.y"), &jwk.y, size);
        Some([vec![4], x?, y?].concat())
    }

    fn bytes(&mut self, path: &str, text: &str, size: usize) -> Option<Vec<u8>> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok().filter(|it| it.len() == size);
        if bytes.is_none() {
            let limit = format!("{size} bytes in base64url without padding");
            self.refuse(path, text, limit, "copy it from the issuer's set as it is");
        }
        bytes
    }

    fn rsa(&mut self, path: &str, jwk: &Jwk) -> Option<Public> {
        let number = |text: &str| {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
            let zeros = bytes.iter().take_while(|it| **it == 0).count();
            bytes[zeros..].to_vec()
        };
        let (n, e) = (number(&jwk.n), number(&jwk.e));
        let is_odd = |bytes: &[u8]| bytes.last().is_some_and(|it| it % 2 == 1);
        let bits = n.len() * 8 - n.first().map_or(0, |it| it.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) || !is_odd(&n) {
            let limit = format!(
                "an odd number of {} to {} bits in base64url without padding",
                RSA_BITS.start(),
                RSA_BITS.end()
            );
            let hint = "what is shorter is broken: have the issuer make another key";
            self.refuse(&format!("{path}.n"), format!("{bits} bits"), limit, hint);
        }
        if !is_odd(&e) || e == [1] || e.len() > 4 {
            let limit = "an odd number from 3 on, of at most 4 bytes";
            self.refuse(&format!("{path}.e"), &jwk.e, limit, "AQAB is 65537, which most have");
        }
        Some(Public::Rsa { n, e })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// What is wrong with a set of keys.
    #[track_caller]
    fn check(jwks: &str, expected: Expect) {
        let mut reader = Reader::default();
        let keys = reader.jwks("jwks", jwks);
        let line = |r: &purlin_core::settings::Refusal| {
            format!("{}: {} (may be {}; {})\n", r.path, r.value, r.limit, r.hint)
        };
        let told: String = reader.refusals.iter().map(line).collect();
        expected.assert_eq(&format!("{} keys\n{told}", keys.len()));
    }

    #[test]
    fn a_set_with_what_is_no_use_is_refused_with_every_reason() {
        check(
            "",
            expect![[r#"
            0 keys
            jwks:  (may be a JWK Set in JSON, such as {"keys": [{"kty": …}]}; EOF while parsing a value at line 1 column 0)
        "#]],
        );
        check(
            "{\"keys\": {}}",
            expect![[r#"
            0 keys
            jwks:  (may be a JWK Set in JSON, such as {"keys": [{"kty": …}]}; invalid type: map, expected a sequence at line 1 column 9)
        "#]],
        );
        check(
            "{\"keys\": []}",
            expect![[r#"
            0 keys
            jwks:  (may be at least one key to verify with; add the issuer's)
        "#]],
        );
        // As an identity provider has it, of which one is for encryption.
        let n = BASE64_URL_SAFE_NO_PAD.encode([vec![0], vec![0x81; 256]].concat());
        let x = BASE64_URL_SAFE_NO_PAD.encode([1; 32]);
        let as_it_comes = format!(
            r#"{{"keys": [
                {{"kty": "RSA", "kid": "a", "use": "enc", "alg": "RSA-OAEP", "n": "{n}", "e": "AQAB", "x5c": ["MII"]}},
                {{"kty": "RSA", "kid": "b", "use": "sig", "alg": "RS256", "n": "{n}", "e": "AQAB", "x5t": "x"}},
                {{"kty": "OKP", "crv": "Ed25519", "key_ops": ["verify"], "x": "{x}"}}]}}"#
        );
        check(
            &as_it_comes,
            expect![[r#"
            2 keys
        "#]],
        );
        let short = BASE64_URL_SAFE_NO_PAD.encode([0x7f; 128]);
        check(
            &format!(
                r#"{{"keys": [
                    {{"kty": "RSA", "kid": "a", "n": "{short}", "e": "Ag"}},
                    {{"kty": "EC", "crv": "P-256", "kid": "a", "x": "{x}=", "y": "AAAA"}},
                    {{"kty": "EC", "crv": "P-521", "x": "", "y": ""}},
                    {{"kty": "oct", "k": "c2VjcmV0"}},
                    {{"kty": "OKP", "crv": "Ed25519", "x": "{x}", "d": "{x}"}},
                    {{"kty": "OKP", "crv": "Ed25519", "x": "{x}", "alg": "ES256"}}]}}"#
            ),
            expect![[r#"
                2 keys
                jwks.keys[0].n: 1023 bits (may be an odd number of 2048 to 8192 bits in base64url without padding; what is shorter is broken: have the issuer make another key)
                jwks.keys[0].e: Ag (may be an odd number from 3 on, of at most 4 bytes; AQAB is 65537, which most have)
                jwks.keys[1].kid: a (may be a kid of its own; keys[0] has it too)
                jwks.keys[1].x: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE= (may be 32 bytes in base64url without padding; copy it from the issuer's set as it is)
                jwks.keys[1].y: AAAA (may be 32 bytes in base64url without padding; copy it from the issuer's set as it is)
                jwks.keys[2]: EC P-521 (may be RSA, EC on P-256 or P-384, or OKP Ed25519; leave this key out of the set)
                jwks.keys[3]:  (may be a public key; a document holds no secret, and whoever reads this one could make tokens: take another key, and write its public part)
                jwks.keys[4]:  (may be a public key; a document holds no secret, and whoever reads this one could make tokens: take another key, and write its public part)
                jwks.keys[5].alg: ES256 (may be one of EdDSA, Ed25519; correct it, or leave this key out of the set)
            "#]],
        );
    }

    #[test]
    fn what_asks_for_a_token_is_for_requests_and_names_its_issuers() {
        let x = BASE64_URL_SAFE_NO_PAD.encode([1; 32]);
        let issuer = |name: &str| v1::JwtIssuer {
            name: name.into(),
            issuer: "https://id.example".into(),
            jwks: format!(r#"{{"keys": [{{"kty": "OKP", "crv": "Ed25519", "x": "{x}"}}]}}"#),
            ..Default::default()
        };
        let named = |issuers: &[&str], claim: &str| {
            let claim = v1::JwtClaim { name: claim.into(), values: Vec::new() };
            let claims = if claim.name.is_empty() { Vec::new() } else { vec![claim] };
            Some(v1::Jwt { issuers: issuers.iter().map(|it| (*it).into()).collect(), claims })
        };
        let rule = |jwt| v1::Rule {
            backend_refs: vec![v1::BackendRef { name: "raw".into(), weight: None }],
            jwt,
            ..Default::default()
        };
        let at = |name: &str, address: &str| v1::Listener {
            name: name.into(),
            address: address.into(),
            protocol: Some(name.into()),
            ..Default::default()
        };
        let route = |kind: &str, rules| v1::Route {
            name: kind.into(),
            kind: Some(kind.into()),
            listeners: vec![kind.into()],
            rules,
            ..Default::default()
        };
        let mesh = v1::Mesh {
            listeners: vec![at("http", "[::1]:80"), at("tcp", "[::1]:81")],
            jwt_issuers: vec![issuer("plant"), issuer("again")],
            services: vec![v1::Service {
                name: "raw".into(),
                protocol: Some("tcp".into()),
                allow: vec![v1::Allow {
                    principals: vec!["spiffe://r1/node/*".into()],
                    jwt: named(&["plant"], ""),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            routes: vec![
                route("http", vec![rule(named(&["plan"], "scope")), rule(named(&[], ""))]),
                route("tcp", vec![rule(named(&["plant"], ""))]),
            ],
            ..Default::default()
        };
        let line = |r: &purlin_core::settings::Refusal| {
            format!("{}: {} (may be {}; {})\n", r.path, r.value, r.limit, r.hint)
        };
        let refusals = super::super::table(1, &mesh).expect_err("none of it is right");
        expect![[r#"
            mesh.jwt_issuers[1].issuer: https://id.example (may be each issuer once; plant has it too; rules may ask for the claim aud)
            mesh.services[0].allow: raw (may be principals alone for protocol tcp; bytes have neither methods, paths nor tokens: leave them out)
            mesh.routes[0].rules[0].jwt.issuers[0]: plan (may be the name of one of mesh.jwt_issuers; add it, or correct the name)
            mesh.routes[0].rules[0].jwt.claims[0].values: scope (may be at least one; say what it may be)
            mesh.routes[0].rules[1].jwt.issuers:  (may be at least one; name whose tokens are taken, of mesh.jwt_issuers)
            mesh.routes[1].rules[0]: tcp (may be backend_refs and step_back, and nothing else; bytes are passed on as they are)
        "#]].assert_eq(&refusals.iter().map(line).collect::<String>());
    }
}
