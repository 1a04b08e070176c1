//! Compiles the `.proto` files without `protoc`, and keeps their descriptors,
//! comments included, so that documents can be checked and explained by field.

use std::{env, fs, io, path::PathBuf};

const FILES: [&str; 15] = [
    "purlin/v1/agent.proto",
    "purlin/v1/collect.proto",
    "purlin/v1/command.proto",
    "purlin/v1/desired.proto",
    "purlin/v1/enrol.proto",
    "purlin/v1/export.proto",
    "purlin/v1/history.proto",
    "purlin/v1/ledger.proto",
    "purlin/v1/mesh.proto",
    "purlin/v1/placement.proto",
    "purlin/v1/register_map.proto",
    "purlin/v1/relay.proto",
    "purlin/v1/reported.proto",
    "purlin/v1/telemetry.proto",
    "purlin/v1/trust.proto",
];
/// Others' protocols: nothing of them is explained to a user.
const THEIRS: [&str; 3] = ["nri/v1alpha1.proto", "otlp/v1.proto", "sparkplug/b.proto"];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=purlin");
    let mut compiler = protox::Compiler::new(["."]).map_err(io::Error::other)?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(FILES).map_err(io::Error::other)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    let mut config = prost_build::Config::new();
    // Ordered, so that a dictionary that is the same has the same bytes and hash, and a map's
    // faults are told in its own order.
    let ordered = ["Series", "Event", "Alarm", "Line", "MapRegister"];
    config.bytes(["."]).btree_map(ordered.map(|name| format!(".purlin.v1.{name}")));
    config.compile_fds(compiler.file_descriptor_set())?;
    for dir in ["nri", "otlp", "sparkplug"] {
        println!("cargo::rerun-if-changed={dir}");
    }
    let theirs = protox::compile(THEIRS, ["."]).map_err(io::Error::other)?;
    prost_build::Config::new().bytes(["."]).compile_fds(theirs)
}
