//! Hardware that QEMU makes up, read from inside the guest: what a machine for
//! tests has none of, and what can be plugged in and out at will.

#![forbid(unsafe_code)]

mod bmc;
mod containers;
mod fleet;
mod hotplug;
mod installed;
mod interrupts;
mod inventory;
mod isolated;
mod machine;
mod placement;
mod rack;
mod watchdog;

use std::process::ExitCode;

use purlin_tests::{
    Need,
    guest::{self, NEWER, OWN},
};

const RUNC: Need = Need::Program("runc");

fn main() -> ExitCode {
    let tests = [
        inventory::tests(),
        hotplug::tests(),
        bmc::tests(),
        watchdog::tests(),
        rack::tests(),
        installed::tests(),
        fleet::tests(),
    ];
    let tests = tests.into_iter().flatten().map(|test| test.needs(&OWN.needs()));
    let crun = placement::of_crun().needs(&[Need::Program("crun")]);
    let containers = [placement::tests(), interrupts::tests(), isolated::tests()];
    let containers = containers.into_iter().flatten().chain([crun]);
    let containers = containers.map(|test| test.needs(&NEWER.needs()).needs(&[RUNC]));
    purlin_tests::run(tests.chain(containers).map(|test| test.needs(&guest::NEEDS)))
}
