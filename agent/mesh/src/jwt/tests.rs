//! Tokens of the RFCs' own examples, and such as an attacker would make.

use purlin_proto::v1;
use ring::{
    hmac,
    signature::{Ed25519KeyPair, KeyPair},
};

use super::*;
use crate::wire;

/// RFC 7515, A.2.
const RS256_KEY: &str = r#"{"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}"#;
const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
/// RFC 7515, A.3.
const ES256_KEY: &str = r#"{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
/// RFC 8037, A.2 and A.4.
const EDDSA_KEY: &str =
    r#"{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const EDDSA: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
/// RFC 7520, 3.3 and 4.2.
const PS384_KEY: &str = r#"{"kty": "RSA", "kid": "bilbo.baggins@hobbiton.example", "use": "sig", "e": "AQAB", "n": "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw"}"#;
const PS384: &str = "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4.cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw";

fn issuers(keys: &[&str]) -> Vec<Issuer> {
    let issuer = v1::JwtIssuer {
        name: "corp".into(),
        issuer: "joe".into(),
        audiences: Vec::new(),
        jwks: format!("{{\"keys\": [{}]}}", keys.join(", ")),
    };
    let mesh = v1::Mesh { jwt_issuers: vec![issuer], ..Default::default() };
    wire::table(1, &mesh).expect("keys as they should be").jwt_issuers
}

fn of_corp(claims: &[(&str, &[&str])]) -> Jwt {
    let claim = |(name, values): &(&str, &[&str])| Claim {
        name: (*name).into(),
        values: values.iter().map(|it| (*it).into()).collect(),
    };
    Jwt { issuers: vec!["corp".into()], claims: claims.iter().map(claim).collect() }
}

fn at(unix_s: u64) -> Now {
    Now { unix_s, is_sure: true, is_least: false }
}

/// Signs with a key that is made from this.
fn made(seed: u8, header: &str, claims: &str) -> String {
    let part = |it: &str| BASE64_URL_SAFE_NO_PAD.encode(it);
    let signed = format!("{}.{}", part(header), part(claims));
    let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed");
    let mac = BASE64_URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    format!("{signed}.{mac}")
}

fn key(seed: u8, id: &str) -> String {
    let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed");
    let x = BASE64_URL_SAFE_NO_PAD.encode(key.public_key());
    format!(r#"{{"kty": "OKP", "crv": "Ed25519", "kid": "{id}", "x": "{x}"}}"#)
}

const HEADER: &str = r#"{"alg": "EdDSA", "kid": "1"}"#;
const CLAIMS: &str = r#"{"iss": "joe", "exp": 2000}"#;

/// What comes of a token that key 1 has signed.
#[track_caller]
fn check(header: &str, claims: &str, expected: Result<(), Refused>) {
    let mut issuers = issuers(&[&key(1, "1"), &key(2, "2")]);
    issuers[0].audiences = vec!["orders".into()];
    let claims = claims.replace("OK", r#""iss": "joe", "exp": 2000, "aud": "orders""#);
    let token = Token::read(&issuers, &made(1, header, &claims));
    assert_eq!(
        token.and_then(|it| it.admit(&of_corp(&[]), at(1500))),
        expected,
        "{header} {claims}"
    );
}

#[test]
fn examples_of_the_rfcs_are_good_in_their_time() {
    for (keys, token) in [(RS256_KEY, RS256), (ES256_KEY, ES256)] {
        let token = Token::read(&issuers(&[keys]), token).expect("a good one");
        let root = of_corp(&[("http://example.com/is_root", &["true"])]);
        assert_eq!(token.admit(&root, at(1_300_819_380)), Ok(()));
        assert_eq!(token.admit(&root, at(1_300_819_380 + 60)), Err(Refused::Expired));
        assert_eq!(token.admit(&of_corp(&[("sub", &["x"])]), at(0)), Err(Refused::Claims));
    }
    for (key, algorithm, jws) in [(EDDSA_KEY, "EdDSA", EDDSA), (PS384_KEY, "PS384", PS384)] {
        let public = &issuers(&[key])[0].keys[0].public;
        let (signed, mac) = jws.rsplit_once('.').expect("a signature");
        let mac = bytes(mac).expect("base64url");
        assert!(is_signed(public, algorithm, signed.as_bytes(), &mac), "{algorithm}");
        assert!(!is_signed(public, "RS384", b"", &mac) && !is_signed(public, algorithm, b"", &mac));
        assert_eq!(Token::read(&issuers(&[key]), jws).err(), Some(Refused::Malformed), "no claims");
    }
}

#[test]
fn no_bit_of_a_token_can_be_another_one() {
    let issuers = issuers(&[&key(1, "1")]);
    let token = made(1, HEADER, CLAIMS);
    assert!(Token::read(&issuers, &token).is_ok());
    for at in 0..token.len() {
        for bit in 0..8 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let Ok(other) = String::from_utf8(bytes) else { continue };
            assert!(Token::read(&issuers, &other).is_err(), "{other}");
        }
    }
    for at in 0..token.len() {
        assert!(Token::read(&issuers, &token[..at]).is_err(), "the first {at}");
    }
    for wrong in [format!("{token}="), format!("{token}."), format!(".{token}"), "..".into()] {
        assert_eq!(Token::read(&issuers, &wrong).err(), Some(Refused::Malformed), "{wrong}");
    }
}

#[test]
fn a_token_chooses_neither_its_algorithm_nor_its_key() {
    let none = |header: &str| {
        let part = |it: &str| BASE64_URL_SAFE_NO_PAD.encode(it);
        format!("{}.{}.", part(header), part(CLAIMS))
    };
    let keys = issuers(&[RS256_KEY, &key(1, "1")]);
    for header in [r#"{"alg": "none"}"#, r#"{"alg": "None"}"#, r#"{"alg": ""}"#] {
        assert_eq!(Token::read(&keys, &none(header)).err(), Some(Refused::Key), "{header}");
    }
    // The public key as the secret of HMAC.
    let n = BASE64_URL_SAFE_NO_PAD.decode(RS256_KEY.split('"').nth(11).expect("n")).expect("n");
    let unsigned = none(r#"{"alg": "HS256"}"#);
    let unsigned = unsigned.trim_end_matches('.');
    for secret in [n.as_slice(), RS256_KEY.as_bytes()] {
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), unsigned.as_bytes());
        let token = format!("{unsigned}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac));
        assert_eq!(Token::read(&keys, &token).err(), Some(Refused::Key));
    }
    // A key that it brings itself, and one that is to be fetched.
    let own =
        format!(r#"{{"alg": "EdDSA", "jwk": {}, "jku": "http://x/", "x5u": "x"}}"#, key(9, "1"));
    assert_eq!(Token::read(&keys, &made(9, &own, CLAIMS)).err(), Some(Refused::Signature));
    assert!(Token::read(&keys, &made(1, &own, CLAIMS)).is_ok(), "what it brings is nothing");
    check(r#"{"alg": "EdDSA", "kid": "2"}"#, "{OK}", Err(Refused::Signature));
    check(r#"{"alg": "EdDSA", "kid": "3"}"#, "{OK}", Err(Refused::Key));
    check(r#"{"alg": "EdDSA"}"#, "{OK}", Ok(()));
    check(r#"{"alg": "Ed25519", "kid": "1", "typ": "at+jwt"}"#, "{OK}", Ok(()));
    check(r#"{"alg": "RS256", "kid": "1"}"#, "{OK}", Err(Refused::Key));
}

#[test]
fn what_a_token_says_of_itself_is_held_against_it() {
    check(HEADER, "{OK}", Ok(()));
    check(HEADER, r#"{OK, "nbf": 1560, "iat": 1560.9}"#, Ok(()));
    check(HEADER, r#"{OK, "nbf": 1561}"#, Err(Refused::Early));
    check(HEADER, r#"{OK, "iat": 1e9}"#, Err(Refused::Early));
    check(HEADER, r#"{OK, "exp": 1440}"#, Err(Refused::Expired));
    check(HEADER, r#"{OK, "exp": -5}"#, Err(Refused::Expired));
    check(HEADER, r#"{OK, "exp": "9999"}"#, Err(Refused::Malformed));
    check(HEADER, r#"{OK, "exp": null}"#, Err(Refused::Malformed));
    check(HEADER, r#"{OK, "nbf": "0"}"#, Err(Refused::Malformed));
    check(HEADER, r#"{"iss": "joe", "aud": "orders"}"#, Err(Refused::Malformed));
    check(HEADER, r#"{OK, "iss": "Joe"}"#, Err(Refused::Issuer));
    check(HEADER, r#"{OK, "iss": ["joe"]}"#, Err(Refused::Issuer));
    check(HEADER, r#"{OK, "aud": ["x", "orders"]}"#, Ok(()));
    check(HEADER, r#"{OK, "aud": "ordersx"}"#, Err(Refused::Audience));
    check(HEADER, r#"{"iss": "joe", "exp": 2000}"#, Err(Refused::Audience));
    check(r#"{"alg": "EdDSA", "crit": ["exp"]}"#, "{OK}", Err(Refused::Malformed));
    check(r#"{"alg": "EdDSA", "crit": null}"#, "{OK}", Err(Refused::Malformed));
    check(r#"{"alg": "EdDSA", "kid": 1}"#, "{OK}", Err(Refused::Malformed));
    check(r#"["EdDSA"]"#, "{OK}", Err(Refused::Malformed));
    check(HEADER, "[1]", Err(Refused::Malformed));
    let much = format!(r#"{{OK, "much": "{}"}}"#, "x".repeat(MAX_BYTES));
    check(HEADER, &much, Err(Refused::Malformed));
    let deep = format!(r#"{{OK, "deep": {}1{}}}"#, "[".repeat(200), "]".repeat(200));
    check(HEADER, &deep, Err(Refused::Malformed));
}

#[test]
fn a_claim_is_found_where_issuers_put_it() {
    let claims = r#"{"iss": "joe", "exp": 2000, "scope": "orders.read orders.write", "scp": ["a", "b"],
        "groups": ["ops dev"], "email_verified": true, "level": 3, "nothing": null,
        "https://shop.example/role": "cook", "realm_access": {"roles": ["admin"], "x": {"y": "z"}}}"#;
    let token = Token::read(&issuers(&[&key(1, "1")]), &made(1, HEADER, claims)).expect("good");
    let has = |name, values: &[&str]| token.admit(&of_corp(&[(name, values)]), at(1500));
    for (name, value) in [
        ("scope", "orders.read"),
        ("scope", "orders.write"),
        ("scp", "b"),
        ("groups", "ops dev"),
        ("email_verified", "true"),
        ("level", "3"),
        ("https://shop.example/role", "cook"),
        ("realm_access.roles", "admin"),
        ("realm_access.x.y", "z"),
        ("iss", "joe"),
    ] {
        assert_eq!(has(name, &["no", value]), Ok(()), "{name} {value}");
    }
    for (name, value) in [
        ("scope", "orders"),
        ("scope", "orders.read orders.write"),
        ("groups", "ops"),
        ("email_verified", "false"),
        ("nothing", "null"),
        ("realm_access", "admin"),
        ("realm_access.roles.0", "admin"),
        ("missing.way", ""),
        ("", ""),
    ] {
        assert_eq!(has(name, &[value]), Err(Refused::Claims), "{name} {value}");
    }
    let both = of_corp(&[("scope", &["orders.read"]), ("level", &["4"])]);
    assert_eq!(token.admit(&both, at(1500)), Err(Refused::Claims), "all of them");
    let of_others = Jwt { issuers: vec!["shop".into()], claims: Vec::new() };
    assert_eq!(token.admit(&of_others, at(1500)), Err(Refused::Issuer));
}
