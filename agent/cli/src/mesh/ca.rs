//! `purlin mesh ca`: a rack's root and what its nodes are given, in a directory.
//!
//! ```text
//! root.pem        the root's certificate and key: to be kept where no node can read it
//! revoked         the list of nodes that are to stay out, signed
//! NODE/           for a node: rack.pem, node.pem, and issuer.pem where it has one
//! ```

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use purlin_core::mesh::{credential::Revocations, spiffe};
use purlin_mesh::identity::{
    ISSUER, NODE, RACK, REVOKED,
    authority::{self, Authority, ISSUER_LIFE_S, ROOT_LIFE_S},
};

use crate::{
    args::CaCommand,
    exit::{Ended, Exit, Failure},
    output::Output,
    units,
};

const ROOT: &str = "root.pem";
const DAY_S: u64 = 86_400;

/// `purlin mesh ca …`
pub fn run(command: &CaCommand, output: &Output) -> Ended {
    let told = match command {
        CaCommand::Make { rack, dir } => make(rack, dir),
        CaCommand::Node { dir, node, issuer, days } => make_node(dir, node, *issuer, *days),
        CaCommand::Revoke { dir, node } => revoke(dir, node),
    }?;
    output.text(&told)?;
    Ok(Exit::Ok)
}

fn make(rack: &str, dir: &Path) -> Result<String, Failure> {
    if !spiffe::is_rack(rack) {
        let what = format!("{rack} can't be a rack's id: lower-case letters, digits, - _ and .");
        return Err(Failure::Usage(what));
    }
    folder(dir)?;
    let root = Authority::make(rack, now(), ROOT_LIFE_S).map_err(Failure::Failed)?;
    // Never over one that is there.
    write(&dir.join(ROOT), root.pem().as_bytes(), true)?;
    let dir = dir.display();
    Ok(format!(
        "The root of rack {rack} is in {dir}. Next:\n\
         \x20 purlin mesh ca node {dir} NODE --issuer   for two nodes\n\
         \x20 purlin mesh ca node {dir} NODE            for the others\n"
    ))
}

fn make_node(dir: &Path, node: &str, issuer: bool, days: u64) -> Result<String, Failure> {
    let root = root(dir)?;
    check(node)?;
    let to = dir.join(node);
    folder(&to)?;
    let listed = list(dir, &root)?;
    let known = listed.clone().unwrap_or_default();
    let own = root.make_node(node, now(), days * DAY_S, &known).map_err(Failure::Failed)?;
    write(&to.join(RACK), root.certificate_pem().as_bytes(), false)?;
    write(&to.join(NODE), own.as_bytes(), false)?;
    if issuer {
        let made = root.make_issuer(node, now(), ISSUER_LIFE_S, &known).map_err(Failure::Failed)?;
        write(&to.join(ISSUER), made.pem().as_bytes(), false)?;
    }
    if let Some(list) = listed {
        write(&to.join(REVOKED), &root.revoke(&list).map_err(Failure::Failed)?, false)?;
    }
    Ok(format!(
        "What node {node} needs is in {}: copy it to `identity` in its mesh's directory.\n",
        to.display()
    ))
}

fn revoke(dir: &Path, node: &str) -> Result<String, Failure> {
    let root = root(dir)?;
    check(node)?;
    let mut list = list(dir, &root)?.unwrap_or_default();
    list.number += 1;
    list.issued = now();
    list.nodes.retain(|(known, _)| known != node);
    list.nodes.push((node.into(), now()));
    let path = dir.join(REVOKED);
    write(&path, &root.revoke(&list).map_err(Failure::Failed)?, false)?;
    Ok(format!(
        "Node {node} is out of rack {}: copy {} to `identity` of one node's mesh.\n",
        root.id.rack,
        path.display()
    ))
}

fn root(dir: &Path) -> Result<Authority, Failure> {
    let path = dir.join(ROOT);
    let failed = |why: String| {
        Failure::Failed(format!("{}: {why}; `purlin mesh ca make` makes one", path.display()))
    };
    let text = fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
    Authority::read(&text).map_err(failed)
}

/// The list so far, which the root itself must have signed.
fn list(dir: &Path, root: &Authority) -> Result<Option<Revocations>, Failure> {
    let path = dir.join(REVOKED);
    let failed = |why: String| Failure::Failed(format!("{}: {why}", path.display()));
    match fs::read(&path) {
        Ok(bytes) => {
            let read = authority::revocations(&bytes, &[root.certificate().clone()], &root.id.rack);
            read.map(Some).map_err(failed)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn check(node: &str) -> Result<(), Failure> {
    let what = || format!("{node} can't be a node's id there: letters, digits, - _ and .");
    if spiffe::is_segment(node) { Ok(()) } else { Err(Failure::Usage(what())) }
}

fn folder(dir: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Failure::Failed(format!("{}: {error}", dir.display())))
}

fn write(path: &Path, bytes: &[u8], is_new: bool) -> Result<(), Failure> {
    let mut how = fs::OpenOptions::new();
    how.write(true).create(true).truncate(true).create_new(is_new).mode(0o600);
    let written = how.open(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

fn now() -> u64 {
    units::now_ms() / 1000
}
