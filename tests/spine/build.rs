//! What the build promises: a core without std, no protoc, no C library of ours.

use std::{path::Path, process::Command};

use purlin_tests::{Lab, Need, Node, Result, ensure, lab::Test, test};

/// What purlin-core may stand on. Each is `no_std` without its `std` feature;
/// derive macros run in the compiler and are not part of it.
const PURE: [&str; 6] = ["memchr", "purlin-core", "semver", "serde", "serde_core", "serde_derive"];
/// The bare-metal target that has no std to link: the real proof.
const NO_STD_TARGET: &str = "x86_64-unknown-none";
/// What a binary may need at run time: glibc, its loader, gcc's unwinder.
const LIBRARIES: [&str; 4] = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux"];

pub fn tests() -> Vec<Test> {
    vec![
        test("core_builds_where_there_is_no_std", 240, no_std_target)
            .needs(&[Need::RustTarget(NO_STD_TARGET)]),
        test("core_depends_on_nothing_that_needs_std", 60, no_std_tree),
        test("the_binary_needs_no_library_beyond_gccs", 30, libraries)
            .needs(&[Need::Program("readelf")]),
        test("the_build_had_no_protoc", 10, no_protoc).needs(&[Need::Path("PURLIN_BIN")]),
    ]
}

fn no_std_target(_: &Lab) -> Result {
    cargo(&["check", "--profile", "ci", "-p", "purlin-core", "--target", NO_STD_TARGET]).map(drop)
}

fn no_std_tree(_: &Lab) -> Result {
    let tree = cargo(&[
        "tree",
        "-p",
        "purlin-core",
        "-e",
        "normal,no-proc-macro",
        "--prefix=none",
        "-f",
        "{p}|{f}",
    ])?;
    for line in tree.lines() {
        let (package, features) = line.split_once('|').ok_or("a line without features")?;
        let name = package.split(' ').next().unwrap_or_default();
        ensure!(PURE.contains(&name), "{name} is not on the list of no_std crates:\n{tree}");
        let std = features.split(',').any(|f| f == "std" || f == "default");
        ensure!(!std, "{package} is built with std: {features}");
    }
    Ok(())
}

fn libraries(lab: &Lab) -> Result {
    let node = Node::new(lab, "node")?;
    let output = node.command(&["readelf", "-d"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let needed: Vec<_> = text
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| Some(line.split_once('[')?.1.trim_end_matches(']')))
        .collect();
    ensure!(!needed.is_empty(), "not a dynamic binary: {text}");
    for name in needed {
        ensure!(LIBRARIES.iter().any(|allowed| name.starts_with(allowed)), "needs {name}");
    }
    Ok(())
}

/// `./tests/run` builds with `PROTOC` pointing nowhere, which the build that
/// would ask for it could only answer with an error.
fn no_protoc(_: &Lab) -> Result {
    let protoc =
        std::env::var("PROTOC").map_err(|_| "PROTOC is not set: start it with ./tests/run")?;
    ensure!(!Path::new(&protoc).exists(), "PROTOC={protoc} exists");
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new("cargo").args(arguments).current_dir(workspace).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo {arguments:?}: {stderr}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
