//! Chance that can be had again: the seed is printed, and taken back from
//! `PURLIN_TEST_SEED`.

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::Result;

/// xorshift64*.
#[derive(Debug)]
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// With the seed that was given, or another one each second.
    pub fn from_environment() -> Result<Self> {
        let seed = match env::var("PURLIN_TEST_SEED") {
            Ok(seed) => seed.parse()?,
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() | 1,
        };
        println!("PURLIN_TEST_SEED={seed}");
        Ok(Self { seed, state: seed })
    }

    /// The seed it began with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// One for another thread.
    pub fn fork(&mut self) -> Self {
        Self { seed: self.seed, state: self.next() | 1 }
    }

    /// A number from 0 to below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33) % limit
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
