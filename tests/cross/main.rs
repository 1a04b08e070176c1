//! The agent of another architecture, under user-mode emulation.
//!
//! `./tests/run cross` builds it and says where it is in `PURLIN_AARCH64`.
//!
//! The agent starts its helper, so the kernel itself must know how to run the
//! binary. It is told in a user namespace of each command's own (Linux 6.7):
//! nothing is registered for the rest of the machine.

#![forbid(unsafe_code)]

use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode},
};

use purlin_tests::{Lab, Need, Node, Result, ensure, lab::Test, test};
use serde_json::Value;

/// Debian's cross libraries, where the emulator looks for the loader.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";
/// Before the binary: the namespace, then the registration.
const NAMESPACE: [&str; 6] = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"];
/// Tells the kernel, by magic and mask of an aarch64 ELF header
/// (Documentation/admin-guide/binfmt-misc.rst), and becomes the command.
const REGISTER: &str = concat!(
    "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && printf %s ",
    r"':purlin-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:",
    r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:",
    "/usr/bin/qemu-aarch64-static:' > /proc/sys/fs/binfmt_misc/register && exec \"$0\" \"$@\"",
);

fn main() -> ExitCode {
    purlin_tests::run([
        emulated("aarch64_reads_the_hardware", 120, hardware),
        emulated("aarch64_agent_runs_and_ends", 180, agent),
    ])
}

fn emulated(name: &'static str, deadline_s: u64, body: fn(&Lab) -> Result) -> Test {
    let qemu = Need::Program("qemu-aarch64-static");
    test(name, deadline_s, body).needs(&[Need::Path("PURLIN_AARCH64"), qemu, Need::Is(registers)])
}

/// Why this kernel can't be told about a foreign binary in a namespace.
fn registers() -> Option<String> {
    let output = Command::new(NAMESPACE[0]).args(&NAMESPACE[1..]).args([REGISTER, "true"]).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(e) => Some(format!("unshare: {e}")),
    }
}

fn hardware(lab: &Lab) -> Result {
    let node = aarch64(lab)?;
    let header = Command::new("readelf").arg("-h").arg(binary()).output()?;
    ensure!(String::from_utf8_lossy(&header.stdout).contains("AArch64"), "not built for aarch64");
    node.json::<Value>(&["hw", "list"]).map(drop)
}

fn agent(lab: &Lab) -> Result {
    let mut node = aarch64(lab)?;
    let started = node.start()?;
    let status = node.status()?;
    ensure!(status.faults.is_empty(), "faults: {:?}", status.faults);
    ensure!(status.helper.pid.is_some(), "no helper: {:?}", status.helper);
    let stopped = node.stop()?;
    println!("aarch64: answers after {started:?}, ends in {stopped:?}");
    Ok(())
}

fn aarch64(lab: &Lab) -> Result<Node> {
    let mut node = Node::new(lab, "aarch64")?;
    node.set("QEMU_LD_PREFIX", LIBRARIES);
    node.run_with(&[&NAMESPACE[..], &[REGISTER]].concat(), &binary());
    Ok(node)
}

fn binary() -> PathBuf {
    env::var_os("PURLIN_AARCH64").map(PathBuf::from).unwrap_or_default()
}
