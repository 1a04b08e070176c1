//! Tells container runtimes what devices there are: the files that
//! [`purlin_core::cdi`] makes. It touches those of our own kinds and no other, writes
//! only what changed, and takes nothing back that it merely could not read.
//!
//! Whoever writes such a file can name a program that the runtime starts as root. So
//! the agent, which isn't root, writes none: it asks for them ([`Runtimes`]), and
//! `purlin hw cdi --write`, started by root's own unit, reads the machine for itself.
//! Nothing that the agent says gets into the files.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::geteuid;
use purlin_core::{
    cdi::{self, GPU_KIND, Mount, NIC_VF_KIND, Spec, file_name},
    inventory::Inventory,
};
use purlin_drivers::{Root, gpu};
use serde_json::Value;

use crate::state;

/// Readable for every runtime, rootless ones included.
const MODE: u32 = 0o644;

/// A change of this file starts root's unit (`image/purlin-cdi.path`).
const REQUEST: &str = "/run/purlin/cdi.json";

/// How long what was asked for may take: a read of the machine, with a GPU's driver
/// that has to come up.
pub const SERVED_WITHIN: Duration = Duration::from_secs(15);

/// The specifications of the machine at `root`, with the driver's files in them.
pub fn specs(root: &Path, inventory: &Inventory) -> Vec<Spec> {
    let files = Root::open(root).map(|root| gpu::nvidia_files(&root)).unwrap_or_default();
    let mount = |(host, container)| Mount::read_only(host, container);
    cdi::specs_with(inventory, &files.into_iter().map(mount).collect::<Vec<_>>())
}

/// What the agent asks of root.
#[derive(Clone, Debug)]
pub struct Runtimes {
    request: PathBuf,
    dir: PathBuf,
}

impl Default for Runtimes {
    fn default() -> Self {
        Self { request: REQUEST.into(), dir: cdi::DIRECTORY.into() }
    }
}

impl Runtimes {
    /// Asks for the files to be made anew if other devices than before are to be
    /// told; true if so. What could not be read is no reason to ask.
    pub fn ask(&self, inventory: &Inventory) -> Result<bool, String> {
        if kinds(inventory).iter().any(|(_, known)| !known) {
            return Ok(false);
        }
        let specs = cdi::specs(inventory);
        let mut there =
            kinds(inventory).into_iter().map(|(kind, _)| self.dir.join(file_name(kind)));
        if specs.is_empty() && !self.request.exists() && !there.any(|file| file.exists()) {
            return Ok(false);
        }
        let failed = |error: io::Error| format!("{}: {error}", self.request.display());
        let wanted = serde_json::to_vec_pretty(&specs).map_err(|error| failed(error.into()))?;
        make(&self.request, Some(&wanted)).map_err(failed)
    }

    /// Whether the files tell of every device, as far as it is known here.
    pub fn told(&self, inventory: &Inventory) -> Result<(), String> {
        cdi::specs(inventory).iter().try_for_each(|spec| {
            let path = self.dir.join(file_name(spec.kind));
            let text = fs::read(&path).unwrap_or_default();
            let names = names(&serde_json::from_slice(&text).unwrap_or_default());
            match spec.devices.iter().find(|device| !names.contains(&device.name)) {
                None => Ok(()),
                Some(device) => Err(format!(
                    "{} does not name {}; `systemctl enable --now purlin-cdi.path` lets root \
                     write it, and `systemctl status purlin-cdi` says why it was not",
                    path.display(),
                    device.name
                )),
            }
        })
    }
}

fn names(spec: &Value) -> Vec<String> {
    let devices = spec["devices"].as_array().into_iter().flatten();
    devices.filter_map(|device| device["name"].as_str().map(str::to_owned)).collect()
}

/// Makes the files in `dir` tell of `inventory`. Returns the names of those that
/// were written or removed, or why one could not be.
pub fn write(dir: &Path, inventory: &Inventory) -> Result<Vec<String>, String> {
    let specs = specs(Path::new("/"), inventory);
    let mut changed = Vec::new();
    for (kind, known) in kinds(inventory) {
        let name = file_name(kind);
        let path = dir.join(&name);
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        let wanted = match specs.iter().find(|spec| spec.kind == kind) {
            Some(spec) => Some(serde_json::to_vec_pretty(spec).map_err(|e| failed(e.into()))?),
            None if known => None,
            None => continue,
        };
        if make(&path, wanted.as_deref()).map_err(failed)? {
            changed.push(name);
        }
    }
    Ok(changed)
}

/// Each kind, and whether all was read that its devices are made of.
fn kinds(inventory: &Inventory) -> [(&'static str, bool); 2] {
    let (gpus, nics) = (inventory.gpus.is_some(), inventory.nics.is_some());
    let pci = inventory.pci.is_some();
    [(GPU_KIND, gpus && pci), (NIC_VF_KIND, nics && pci)]
}

/// Makes a file hold `wanted`, or be gone; true if it was otherwise.
fn make(path: &Path, wanted: Option<&[u8]>) -> io::Result<bool> {
    let Some(wanted) = wanted else {
        return match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        };
    };
    // Its owner could change it at any time.
    let ours =
        |it: &fs::Metadata| it.len() == wanted.len() as u64 && it.uid() == geteuid().as_raw();
    let is_so =
        fs::metadata(path).is_ok_and(|it| ours(&it)) && fs::read(path).is_ok_and(|is| is == wanted);
    if !is_so {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        state::replace(path, MODE, wanted)?;
    }
    Ok(!is_so)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use purlin_core::inventory::Gpu;

    use super::*;

    const FILE: &str = "purlin.io-gpu.json";

    fn gpus(addresses: &[&str]) -> Inventory {
        let gpu = |pci: &&str| Gpu {
            pci: (*pci).into(),
            device_nodes: vec!["/dev/kfd".into()],
            ..Gpu::default()
        };
        Inventory {
            gpus: Some(addresses.iter().map(gpu).collect()),
            nics: Some(Vec::new()),
            pci: Some(Vec::new()),
            ..Inventory::default()
        }
    }

    fn changed(names: &[&str]) -> Result<Vec<String>, String> {
        Ok(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_file_is_written_when_it_changes_and_removed_with_the_last_device() {
        let temporary = tempfile::tempdir().expect("a directory");
        let dir = temporary.path().join("cdi");
        let path = dir.join(FILE);
        let one = gpus(&["0000:01:00.0"]);
        assert_eq!(write(&dir, &one), changed(&[FILE]), "and its directory is made");
        let metadata = fs::metadata(&path).expect("the file");
        assert_eq!(metadata.permissions().mode() & 0o777, MODE);
        assert_eq!(write(&dir, &one), changed(&[]));
        assert_eq!(fs::metadata(&path).expect("the file").ino(), metadata.ino(), "untouched");

        assert_eq!(write(&dir, &gpus(&["0000:01:00.0", "0000:02:00.0"])), changed(&[FILE]));
        let text = fs::read(&path).expect("the file");
        let spec: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(spec["kind"], GPU_KIND);
        assert_eq!(names(&spec), ["0", "0000:01:00.0", "1", "0000:02:00.0"]);
        assert_eq!(fs::read_dir(&dir).expect("a directory").count(), 1, "nothing else is left");

        let unread = Inventory { gpus: None, ..gpus(&[]) };
        assert_eq!(write(&dir, &unread), changed(&[]), "unknown is not gone");
        fs::write(dir.join("nvidia.yaml"), "another's").expect("a write");
        assert_eq!(write(&dir, &gpus(&[])), changed(&[FILE]));
        assert!(!path.exists() && dir.join("nvidia.yaml").exists());
        assert_eq!(write(&dir, &gpus(&[])), changed(&[]));
    }

    #[test]
    fn what_is_to_be_told_is_asked_for_once_and_looked_for() {
        let temporary = tempfile::tempdir().expect("a directory");
        let [request, dir] = ["cdi.json", "cdi"].map(|name| temporary.path().join(name));
        let runtimes = Runtimes { request: request.clone(), dir: dir.clone() };
        let (none, one) = (gpus(&[]), gpus(&["0000:01:00.0"]));
        assert_eq!(runtimes.ask(&none), Ok(false), "there is nothing to tell");
        assert!(!request.exists());
        assert_eq!(runtimes.ask(&one), Ok(true));
        assert_eq!(runtimes.ask(&one), Ok(false));
        assert_eq!(runtimes.ask(&Inventory { gpus: None, ..none.clone() }), Ok(false));
        let why = runtimes.told(&one).expect_err("nobody has served it");
        assert!(why.contains(FILE) && why.contains("purlin-cdi.path"), "{why}");
        write(&dir, &one).expect("a write");
        assert_eq!(runtimes.told(&one), Ok(()));
        assert_eq!(runtimes.ask(&none), Ok(true), "what is gone is to be taken back");
        // An agent that starts anew finds what is out of date.
        fs::remove_file(&request).expect("the request");
        assert_eq!(runtimes.ask(&none), Ok(true));
    }

    #[test]
    fn what_another_made_of_our_file_is_mended() {
        let dir = tempfile::tempdir().expect("a directory");
        let one = gpus(&["0000:01:00.0"]);
        write(dir.path(), &one).expect("a write");
        let path = dir.path().join(FILE);
        let good = fs::read(&path).expect("the file");
        fs::write(&path, good.to_ascii_uppercase()).expect("a write");
        assert_eq!(write(dir.path(), &one), changed(&[FILE]));
        assert_eq!(fs::read(&path).expect("the file"), good);
    }

    #[test]
    fn a_directory_that_cant_be_written_matters_only_when_there_is_something_to_tell() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a file");
        fs::write(&file, "").expect("a write");
        let inside = file.join("cdi");
        let why = write(&inside, &gpus(&["0000:01:00.0"])).expect_err("no directory");
        assert!(why.contains(FILE), "names the file: {why}");
        let nowhere = dir.path().join("nowhere");
        assert_eq!(write(&nowhere, &gpus(&[])), changed(&[]));
        assert!(!nowhere.exists());
    }
}
