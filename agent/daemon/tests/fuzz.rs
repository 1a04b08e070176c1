//! The fuzz targets on the stable toolchain: every seed is replayed, and mutated at
//! random for a moment. `./tests/run fuzz` goes on from here for as long as one likes.
//!
//! A failure prints target and seed; `PURLIN_SEED` takes the latter back.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

#[path = "../../../tests/fuzz/targets.rs"]
mod targets;

/// For each target, so that all take a few seconds.
const MOMENT: Duration = Duration::from_millis(400);

/// Mutations of one seed at most; and bytes that a mutation may add.
const MAX_MUTATIONS: u64 = 8;
const MAX_GROWTH: u64 = 600;

fn seeds(target: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut seeds: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} has a seed", dir.display());
    seeds
}

#[test]
fn every_seed_is_read_without_a_panic() {
    for (name, target) in targets::TARGETS {
        for seed in seeds(name) {
            let bytes = fs::read(&seed).expect("a seed");
            let read = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
            assert!(read.is_ok(), "{name} panics on {}", seed.display());
        }
    }
}

#[test]
fn mutations_of_the_seeds_are_read_without_a_panic() {
    let one = std::env::var("PURLIN_SEED").ok().and_then(|seed| seed.parse().ok());
    for (name, target) in targets::TARGETS {
        let seeds: Vec<Vec<u8>> =
            seeds(name).iter().map(|seed| fs::read(seed).expect("a seed")).collect();
        let began = Instant::now();
        let mut round = one.unwrap_or(0_u64);
        loop {
            let bytes = mutated(&seeds, round);
            let read = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
            assert!(read.is_ok(), "{name} panics: run it again with PURLIN_SEED={round}");
            round += 1;
            if one.is_some() || began.elapsed() > MOMENT {
                break;
            }
        }
        println!("{name}: {round} mutations");
    }
}

fn mutated(seeds: &[Vec<u8>], round: u64) -> Vec<u8> {
    let mut state = round;
    // SplitMix64.
    let mut below = |limit: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    };
    let mut bytes = seeds[below(seeds.len() as u64) as usize].clone();
    for _ in 0..1 + below(MAX_MUTATIONS) {
        let at = below(bytes.len() as u64) as usize;
        match below(6) {
            0 => bytes.truncate(at),
            1 => bytes.extend((0..below(MAX_GROWTH)).map(|_| below(256) as u8)),
            2 if at < bytes.len() => bytes[at] ^= 1 << below(8),
            3 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][below(5) as usize],
            4 if at < bytes.len() => drop(bytes.remove(at)),
            _ => bytes.insert(at.min(bytes.len()), below(256) as u8),
        }
    }
    bytes
}
