//! What a request's token costs, for `docs/benchmarks.md`: `cargo bench -p purlin-mesh`.
//!
//! One that is seen for the first time, by its algorithm, and one that is known: CPU time,
//! the mean of many rounds that take turns (the kernel counts it at its ticks).

#![forbid(unsafe_code)]

use std::{fs, hint::black_box};

use purlin_core::mesh::{
    credential::Now,
    jwt::{Issuer, Jwt},
};
use purlin_mesh::{
    jwt::{Token, Tokens},
    wire,
};
use purlin_proto::v1;

const ROUNDS: u32 = 51;
const NEW: u32 = 200;
const KNOWN: u32 = 20_000;
/// Keys and a token: the examples of RFC 7515, A.2 and A.3, and one of our own.
const SAMPLES: [(&str, &str); 3] = [
    ("RS256, 2048 bits", include_str!("../../../tests/fuzz/corpus/jwt/rfc7515-a2")),
    ("ES256", include_str!("../../../tests/fuzz/corpus/jwt/rfc7515-a3")),
    ("EdDSA", include_str!("../../../tests/fuzz/corpus/jwt/made")),
];

fn main() {
    let samples = SAMPLES.map(|(name, text)| (name, issuers(text), token(text)));
    let mut times = [[0.0; 2]; 3];
    for _ in 0..ROUNDS {
        for ((_, issuers, token), times) in samples.iter().zip(&mut times) {
            let now = Now { unix_s: 1_300_000_000, is_sure: true, is_least: false };
            let (tokens, jwt) = (Tokens::new(now), wanted());
            times[0] += took(NEW, || Token::read(black_box(issuers), token).is_ok());
            times[1] += took(KNOWN, || tokens.admit(black_box(issuers), token, &jwt).is_ok());
        }
    }
    println!("µs of CPU            bytes  new    known");
    for ((name, _, token), times) in samples.iter().zip(times) {
        let [new, known] = times.map(|it| it / f64::from(ROUNDS));
        println!("{name:20} {:5}  {new:5.1}  {known:5.2}", token.len());
    }
}

fn issuers(text: &str) -> Vec<Issuer> {
    let jwks = text.split_once('\n').map(|(jwks, _)| jwks.to_owned()).unwrap_or_default();
    let issuer = v1::JwtIssuer { name: "i".into(), issuer: "joe".into(), jwks, audiences: vec![] };
    let mesh = v1::Mesh { jwt_issuers: vec![issuer], ..Default::default() };
    wire::table(1, &mesh).expect("keys").jwt_issuers
}

fn token(text: &str) -> &str {
    text.split_once('\n').expect("a token").1
}

fn wanted() -> Jwt {
    Jwt { issuers: vec!["i".into()], claims: Vec::new() }
}

/// µs of CPU time for each time.
fn took(times: u32, one: impl Fn() -> bool) -> f64 {
    let began = on_cpu_ns();
    let good = (0..times).filter(|_| black_box(one())).count();
    assert_eq!(good, times as usize, "each is good");
    (on_cpu_ns() - began) / 1000.0 / f64::from(times)
}

/// How long this thread was on a CPU (Documentation/scheduler/sched-stats.rst).
fn on_cpu_ns() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    stat.split(' ').next().and_then(|it| it.parse().ok()).expect("a number")
}
