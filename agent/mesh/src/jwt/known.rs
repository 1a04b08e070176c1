//! Tokens whose signature was found good, for a while: looking at one costs several times
//! what all else of a request does. Who they are good for, and until when, is looked at each
//! time.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
};

use purlin_core::mesh::{
    credential::Now,
    jwt::{Issuer, Jwt, Refused},
};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use super::Token;

/// Tokens known to a worker, some 2 KiB each; when there are more it begins anew.
const MAX_KNOWN: usize = 1024;

/// What a worker knows of tokens.
#[derive(Debug)]
pub struct Tokens {
    /// By their hash: nobody finds two of one, and no token stays in memory.
    known: RefCell<HashMap<[u8; SHA256_OUTPUT_LEN], Token>>,
    now: Cell<Now>,
}

impl Tokens {
    /// None yet.
    pub fn new(now: Now) -> Self {
        Self { known: RefCell::default(), now: Cell::new(now) }
    }

    /// It is that late.
    pub fn tick(&self, now: Now) {
        self.now.set(now);
    }

    /// The issuers' keys have changed.
    pub fn forget(&self) {
        self.known.take();
    }

    /// Whether a token is one of these issuers', and as it must be.
    pub fn admit(&self, issuers: &[Issuer], text: &str, jwt: &Jwt) -> Result<(), Refused> {
        let hash = digest(&SHA256, text.as_bytes());
        let hash = hash.as_ref().try_into().expect("it is as long as that");
        if let Some(known) = self.known.borrow().get(&hash) {
            return known.admit(jwt, self.now.get());
        }
        let token = Token::read(issuers, text)?;
        let admitted = token.admit(jwt, self.now.get());
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(hash, token);
        admitted
    }
}
