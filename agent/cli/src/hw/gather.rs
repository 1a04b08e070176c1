//! `purlin hw gather`: this machine as a file that `--root` reads anywhere.
//!
//! Owns the file's name and where it goes. What is in it is what was read, each part
//! under a deadline; this file reads nothing of the machine itself.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use purlin_core::inventory::{Inventory, Part};
use purlin_daemon::helper::{self, Dump};

use crate::{
    exit::{Ended, Exit, Failure},
    output::note,
    table::plain,
    units,
};

/// What no file tells (NVML, netlink), as it was read of the machine.
const INVENTORY: &str = "/purlin/inventory.json";

/// The longest part of a host's name that goes into a file's, in bytes (RFC 1123: 63).
const MAX_HOST: usize = 63;

/// What to do about a place that can't be written to.
const ELSEWHERE: &str = "name a file in a directory that you may write to, or `-` for a pipe";

/// `purlin hw gather`
pub fn run(root: Option<&Path>, file: Option<&Path>, force: bool) -> Ended {
    if root.is_some_and(|root| root != Path::new("/")) {
        let what = "gather reads this machine; what --root names is a dump already";
        return Err(Failure::Usage(what.into()));
    }
    if let Some(file) = file.filter(|file| file.is_dir()) {
        let what = format!("{}: is a directory; name a file in it", file.display());
        return Err(Failure::Usage(what));
    }
    let taken = |file: &&Path| !force && *file != Path::new("-") && file.exists();
    if let Some(file) = file.filter(taken) {
        return Err(there(file));
    }
    let Dump { inventory, mut files } =
        helper::gather(|part| note(&format!("reading {}", part.name())));
    let json = serde_json::to_vec_pretty(&inventory).map_err(|error| failed("inventory", error))?;
    files.put_file(INVENTORY, json).map_err(|error| failed("inventory", error))?;
    let name = name(&inventory);
    let packed = files.pack_gzip(&name).map_err(|error| failed("dump", error))?;
    match file {
        Some(file) if file == Path::new("-") => io::stdout().write_all(&packed)?,
        file => {
            let file = file.map_or_else(|| PathBuf::from(format!("{name}.tar.gz")), Path::to_owned);
            write(&file, &packed, force)?;
            let bytes = units::size(packed.len() as u64);
            note(&format!("{0}: {bytes}; to read it: purlin hw list --root {0}", file.display()));
        }
    }
    note(
        "serial numbers, MAC addresses and the host's name are in it; keys and files of yours not",
    );
    for part in Part::ALL {
        let problems = inventory.problems.iter().filter(|it| it.part == part);
        problems.take(1).for_each(|it| note(&plain(&format!("{}: {}", it.at, it.what))));
    }
    Ok(Exit::Ok)
}

fn write(file: &Path, packed: &[u8], force: bool) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).truncate(force).create(force).create_new(!force);
    let written = options.open(file).and_then(|mut file| file.write_all(packed));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => there(file),
        _ => failed(&file.display().to_string(), format!("{error}; {ELSEWHERE}")),
    })
}

fn there(file: &Path) -> Failure {
    Failure::Failed(format!(
        "{}: is there already; give another name, or --force to write over it",
        file.display()
    ))
}

fn failed(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("{what}: {error}"))
}

/// Of the dump, and of the directory in it.
fn name(inventory: &Inventory) -> String {
    let host = inventory.platform.as_ref().and_then(|platform| platform.hostname.as_deref());
    let kept = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let host: String = host.unwrap_or("machine").chars().filter(kept).take(MAX_HOST).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = units::time(u64::try_from(now.as_millis()).unwrap_or_default());
    let date = now.get(..10).unwrap_or_default();
    format!("purlin-{host}-{date}")
}
