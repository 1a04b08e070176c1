//! libFuzzer over one of the targets, named by `PURLIN_FUZZ`; see `./tests/run fuzz`.

#![no_main]

use std::sync::LazyLock;

#[path = "../targets.rs"]
mod targets;

static TARGET: LazyLock<targets::Target> = LazyLock::new(|| {
    let name = std::env::var("PURLIN_FUZZ").unwrap_or_default();
    let found = targets::TARGETS.into_iter().find(|(target, _)| *target == name);
    found.expect("PURLIN_FUZZ names a target").1
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
