//! Hardware that QEMU makes up, read from inside the guest: what a machine for
//! tests has none of, and what can be plugged in and out at will.

#![forbid(unsafe_code)]

mod hotplug;
mod inventory;
mod machine;
mod placement;

use std::process::ExitCode;

use purlin_tests::guest::{self, NEWER, OWN};

fn main() -> ExitCode {
    let tests = [inventory::tests(), hotplug::tests()];
    let tests = tests.into_iter().flatten().map(|test| test.needs(&OWN.needs()));
    let placement = placement::tests().into_iter().map(|test| test.needs(&NEWER.needs()));
    purlin_tests::run(tests.chain(placement).map(|test| test.needs(&guest::NEEDS)))
}
