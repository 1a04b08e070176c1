//! A one-time token: what lets a node that has no certificate ask for its first one.
//!
//! It is carried to the node by hand, or baked into its first boot. Its secret never goes
//! over the wire: a request carries a MAC under it, over the request itself, so that who
//! listens, or serves the broker, has nothing that he could ask with. It also says whose
//! certificate the node may take.

use std::path::Path;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use purlin_proto::{topic, v1::EnrolToken};
use ring::hmac;

use crate::state;

const PREFIX: &str = "purlin-enrol-1:";
/// Bytes of a token's secret.
pub const SECRET_BYTES: usize = 32;
const PIN_BYTES: usize = 32;
/// One line.
const MAX_BYTES: u64 = 4096;
const BY_TOKEN: &str = "purlin enrol 1";
const BY_CERTIFICATE: &str = "purlin renew 1";

/// As it is handed over.
pub fn write(token: &EnrolToken) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(token.encode_to_vec()))
}

/// Reads what [`write()`] wrote.
pub fn parse(text: &str) -> Result<EnrolToken, String> {
    let none =
        || format!("it is no token, or not the whole of one: a line that begins with {PREFIX}");
    let coded = text.trim().strip_prefix(PREFIX).ok_or_else(none)?;
    let bytes = URL_SAFE_NO_PAD.decode(coded).map_err(|_| none())?;
    let token = EnrolToken::decode(&bytes[..]).map_err(|_| none())?;
    let is_whole = token.secret.len() == SECRET_BYTES
        && token.authority.len() == PIN_BYTES
        && token.expires_unix_s > 0
        && topic::is_level(&token.id)
        && topic::is_level(&token.fleet);
    if is_whole { Ok(token) } else { Err(none()) }
}

/// The token of a file, if the file is there.
pub fn read(file: &Path) -> Result<Option<EnrolToken>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("the token {}: {why}", file.display());
    let bytes = state::read(file, MAX_BYTES).map_err(|error| failed(&error))?;
    let Some(bytes) = bytes else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|error| failed(&error))?;
    parse(&text).map(Some).map_err(|why| failed(&why))
}

/// What is proved by a token.
pub fn claim(fleet: &str, node: &str, csr: &[u8]) -> Vec<u8> {
    said(BY_TOKEN, fleet, node, csr)
}

/// What is proved by the key of a certificate.
pub fn renewal(fleet: &str, node: &str, csr: &[u8]) -> Vec<u8> {
    said(BY_CERTIFICATE, fleet, node, csr)
}

fn said(purpose: &str, fleet: &str, node: &str, csr: &[u8]) -> Vec<u8> {
    // Names have no zero byte in them.
    [purpose.as_bytes(), fleet.as_bytes(), node.as_bytes(), csr].join(&0)
}

/// The proof of who knows the token.
pub fn prove(token: &EnrolToken, claim: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &token.secret), claim).as_ref().to_vec()
}

/// Whether it is one.
pub fn is_proved(token: &EnrolToken, claim: &[u8], mac: &[u8]) -> bool {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &token.secret), claim, mac).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_and_nothing_else_is_one() {
        let token = EnrolToken {
            id: "0123456789abcdef".into(),
            secret: vec![7; SECRET_BYTES].into(),
            fleet: "lab".into(),
            node: "edge-*".into(),
            authority: vec![9; PIN_BYTES].into(),
            expires_unix_s: 1_800_000_000,
        };
        let text = write(&token);
        assert!(!text.contains(char::is_whitespace) && text.len() < 200, "{text}");
        assert_eq!(parse(&format!("{text}\n")), Ok(token.clone()));
        for wrong in ["", "purlin-enrol-1:", &text[1..], &text[..text.len() - 8]] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let short = EnrolToken { secret: vec![7; 8].into(), ..token };
        assert!(parse(&write(&short)).expect_err("short").contains("no token"));
    }

    #[test]
    fn a_proof_is_of_one_fleet_node_and_request() {
        let token = EnrolToken { secret: vec![7; SECRET_BYTES].into(), ..EnrolToken::default() };
        let mac = prove(&token, &claim("lab", "n1", b"request"));
        assert!(is_proved(&token, &claim("lab", "n1", b"request"), &mac));
        for other in [
            claim("other", "n1", b"request"),
            claim("lab", "n2", b"request"),
            claim("lab", "n1", b"another"),
            renewal("lab", "n1", b"request"),
        ] {
            assert!(!is_proved(&token, &other, &mac));
        }
    }
}
