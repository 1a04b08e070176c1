//! Hardware that QEMU makes up, read from inside the guest: what a machine for
//! tests has none of, and what can be plugged in and out at will.

#![forbid(unsafe_code)]

mod hotplug;
mod inventory;
mod machine;

use std::process::ExitCode;

use purlin_tests::guest;

fn main() -> ExitCode {
    let tests = [inventory::tests(), hotplug::tests()];
    purlin_tests::run(tests.into_iter().flatten().map(|test| test.needs(&guest::NEEDS)))
}
