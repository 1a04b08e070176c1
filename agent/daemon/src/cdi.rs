//! Tells container runtimes what devices there are: the files that
//! [`purlin_core::cdi`] makes. It touches those of our own kinds and no other, writes
//! only what changed, and takes nothing back that it merely could not read.

use std::{fs, io, path::Path};

use purlin_core::{
    cdi::{GPU_KIND, NIC_VF_KIND, file_name, specs},
    inventory::Inventory,
};

use crate::state;

/// Readable for every runtime, rootless ones included.
const MODE: u32 = 0o644;

/// Makes the files in `dir` tell of `inventory`. Returns the names of those that
/// were written or removed, or why one could not be.
pub fn write(dir: &Path, inventory: &Inventory) -> Result<Vec<String>, String> {
    let specs = specs(inventory);
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
    let is_so = fs::metadata(path).is_ok_and(|it| it.len() == wanted.len() as u64)
        && fs::read(path).is_ok_and(|is| is == wanted);
    if !is_so {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        state::replace(path, MODE, wanted)?;
    }
    Ok(!is_so)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

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
        let spec: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(spec["kind"], GPU_KIND);
        assert_eq!(spec["devices"].as_array().map(Vec::len), Some(4), "by number and address");
        assert_eq!(fs::read_dir(&dir).expect("a directory").count(), 1, "nothing else is left");

        let unread = Inventory { gpus: None, ..gpus(&[]) };
        assert_eq!(write(&dir, &unread), changed(&[]), "unknown is not gone");
        fs::write(dir.join("nvidia.yaml"), "another's").expect("a write");
        assert_eq!(write(&dir, &gpus(&[])), changed(&[FILE]));
        assert!(!path.exists() && dir.join("nvidia.yaml").exists());
        assert_eq!(write(&dir, &gpus(&[])), changed(&[]));
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
