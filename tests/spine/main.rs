//! The spine: one agent doing its whole job on this machine, and what may not
//! stop it: a kill at any instant, a dead broker, a device that never answers.

#![forbid(unsafe_code)]

mod build;
mod cli;
mod lifecycle;
mod stuck_device;
mod torture;

use std::process::ExitCode;

fn main() -> ExitCode {
    let tests =
        [build::tests(), cli::tests(), lifecycle::tests(), stuck_device::tests(), torture::tests()];
    purlin_tests::run(tests.into_iter().flatten())
}
