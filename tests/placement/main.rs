//! Containers on the hardware they were given, on a real runtime: asked of the
//! kernel's own files, never of the runtime or of Purlin.

#![forbid(unsafe_code)]

mod commands;
mod containerd;
mod cri;
mod nri;
mod plugin;
mod service;
mod wrapper;

use std::process::ExitCode;

/// What every container runs, busybox, and every pod's pause container too. By that
/// name it can be pulled from nowhere.
const IMAGE: &str = "127.0.0.1:1/busybox:1";

fn main() -> ExitCode {
    let tests = commands::tests().into_iter().chain(nri::tests()).chain(wrapper::tests());
    purlin_tests::run(tests)
}
