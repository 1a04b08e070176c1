//! The keys of a fleet, in a directory.
//!
//! ```text
//! root-1.key …      roots: to be carried away, each to its own place
//! config.key        signs documents
//! command.key       signs commands
//! reboot.key        signs the one that restarts a machine
//! technician.key    for technicians
//! keys.cose         the key set: public, and what every node is given
//! ```

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use purlin_daemon::trust::{self, SigningKey};
use purlin_proto::v1;

use crate::{
    args::{KeygenArgs, RotateArgs},
    exit::{Ended, Exit, Failure},
    output::Output,
};

const ROLES: [&str; 4] = ["config", "command", "reboot", "technician"];
/// The key set's file.
pub const KEY_SET: &str = "keys.cose";

/// `purlin fleet keygen`
pub fn generate(args: &KeygenArgs, output: &Output) -> Ended {
    if args.threshold == 0 || args.threshold > args.roots {
        let (of, roots) = (args.threshold, args.roots);
        return Err(Failure::Usage(format!("{of} of {roots} roots can't sign: 1 to {roots} can")));
    }
    let dir = &args.dir;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Failure::Failed(format!("{}: {error}", dir.display())))?;
    let roots = make_roots(dir, args.roots)?;
    let set = v1::KeySet {
        fleet: args.fleet.clone(),
        version: 1,
        epoch: 1,
        roots: roots.iter().map(|(name, root)| public(name, root, &[])).collect(),
        threshold: args.threshold as u32,
        keys: make_role_keys(dir)?,
    };
    let signers: Vec<_> = roots.into_iter().map(|(_, root)| root).collect();
    write_set(dir, &set, &signers)?;
    output.text(&format!(
        "Keys of fleet {} are in {}. Next:\n\
         \x20 give every node {KEY_SET}, and name it in its file: trust.keys\n\
         \x20 carry root-*.key away, each to its own place; {} of {} sign a new key set\n\
         \x20 purlin fleet push FILE --keys {} …\n",
        args.fleet,
        dir.display(),
        args.threshold,
        args.roots,
        dir.display()
    ))?;
    Ok(Exit::Ok)
}

/// `purlin fleet rotate`
pub fn rotate(args: &RotateArgs, output: &Output) -> Ended {
    let dir = &args.dir;
    let bytes = key_set(dir)?;
    let mut set = trust::peek_keys(&bytes).map_err(Failure::Failed)?;
    let mut signers = Vec::new();
    for root in &set.roots {
        let path = dir.join(format!("{}.key", root.name));
        if path.exists() {
            signers.push(SigningKey::read(&path).map_err(Failure::Failed)?);
        }
    }
    if signers.len() < set.threshold as usize {
        return Err(Failure::Failed(format!(
            "{} roots of the {} that must sign are in {}: bring root-*.key back to it",
            signers.len(),
            set.threshold,
            dir.display()
        )));
    }
    set.version += 1;
    set.epoch += u64::from(args.step_epoch);
    let old: Vec<String> = ROLES.iter().map(|name| (*name).to_owned()).collect();
    set_aside(dir, &old, set.version - 1)?;
    set.keys = make_role_keys(dir)?;
    if args.roots {
        let names: Vec<_> = set.roots.iter().map(|root| root.name.clone()).collect();
        set_aside(dir, &names, set.version - 1)?;
        let roots = make_roots(dir, names.len())?;
        set.roots = roots.iter().map(|(name, root)| public(name, root, &[])).collect();
        signers.extend(roots.into_iter().map(|(_, root)| root));
    }
    write_set(dir, &set, &signers)?;
    output.text(&format!(
        "Key set {} of epoch {} is in {}: what was signed with the keys before is refused\n\
         once a node has it. It goes along with the next push.\n",
        set.version,
        set.epoch,
        dir.join(KEY_SET).display()
    ))?;
    Ok(Exit::Ok)
}

/// The key set in a directory.
pub fn key_set(dir: &Path) -> Result<Vec<u8>, Failure> {
    let path = dir.join(KEY_SET);
    fs::read(&path).map_err(|error| {
        Failure::Failed(format!("{}: {error}; purlin fleet keygen makes one", path.display()))
    })
}

fn make_roots(dir: &Path, count: usize) -> Result<Vec<(String, SigningKey)>, Failure> {
    let make = |n: usize| {
        let name = format!("root-{n}");
        let root = SigningKey::make(&key_file(dir, &name))?;
        Ok((name, root))
    };
    (1..=count).map(make).collect::<Result<_, String>>().map_err(Failure::Failed)
}

fn make_role_keys(dir: &Path) -> Result<Vec<v1::Key>, Failure> {
    let make = |role: &&str| {
        let key = SigningKey::make(&key_file(dir, role))?;
        Ok(public(role, &key, &[role]))
    };
    ROLES.iter().map(make).collect::<Result<_, String>>().map_err(Failure::Failed)
}

fn key_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.key"))
}

/// Keeps what is replaced, under a name that says since which key set it is worthless.
fn set_aside(dir: &Path, names: &[String], version: u64) -> Result<(), Failure> {
    for name in names {
        let (from, to) = (key_file(dir, name), dir.join(format!("{name}.key.{version}")));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::Failed(format!("{}: {error}", from.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

fn write_set(dir: &Path, set: &v1::KeySet, signers: &[SigningKey]) -> Result<(), Failure> {
    let bytes = trust::sign_keys(set, signers).map_err(Failure::Failed)?;
    let path = dir.join(KEY_SET);
    fs::write(&path, bytes).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

fn public(name: &str, key: &SigningKey, roles: &[&str]) -> v1::Key {
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    v1::Key { name: name.into(), public: key.public().to_vec().into(), roles }
}
