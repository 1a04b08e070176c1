//! Files that programs on NVIDIA's GPUs need of the host: the driver's libraries,
//! which must be of the kernel driver's own version, its tools and firmware.
//!
//! Source: where the driver's installer and distributions' packages put them (the
//! driver's README, "Installed Components"). They are told by their names alone:
//! whatever ends in the version of the driver that runs is its.

use crate::{Dir, Root};

const VERSION: &str = "/sys/module/nvidia/version";

/// Where libraries are besides what the dynamic linker's configuration names: of
/// Debian and its heirs, of the others, and Debian's own alternatives.
const LIBRARIES: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
];

/// The dynamic linker's configuration: the one file that all distributions have, and
/// the directory that it includes (ld.so.conf, ldconfig(8)).
const LINKER: &str = "/etc/ld.so.conf";
const LINKER_PARTS: &str = "/etc/ld.so.conf.d";

/// The most directories that are taken from it.
const MAX_DIRECTORIES: usize = 64;

/// What a program in a container may start or talk to.
const OTHERS: [&str; 6] = [
    "/usr/bin/nvidia-smi",
    "/usr/bin/nvidia-debugdump",
    "/usr/bin/nvidia-persistenced",
    "/usr/bin/nvidia-cuda-mps-control",
    "/usr/bin/nvidia-cuda-mps-server",
    "/run/nvidia-persistenced/socket",
];

/// The files, each with the path that it is to have in a container: its own, and for
/// a library also each name that a link beside it gives it, by which programs load it.
/// None without the driver.
pub fn nvidia_files(root: &Root) -> Vec<(String, String)> {
    let Ok(version) = root.read(VERSION) else { return Vec::new() };
    let mut files = Vec::new();
    let configured = linker_directories(root);
    let libraries = LIBRARIES.into_iter().chain(configured.iter().map(String::as_str));
    for dir in libraries.filter_map(|path| root.dir(path).ok()) {
        add_libraries(root, &dir, &format!(".so.{version}"), &mut files);
    }
    let firmware = format!("/lib/firmware/nvidia/{version}");
    if let Ok(dir) = root.dir(&firmware) {
        files.extend(dir.names().map(|name| dir.path_of(name)).map(|path| (path.clone(), path)));
    }
    let others = OTHERS.iter().filter(|path| root.exists(path));
    files.extend(others.map(|path| ((*path).to_owned(), (*path).to_owned())));
    // A directory may be there under two names.
    files.sort_unstable_by(|a, b| a.1.cmp(&b.1));
    files.dedup_by(|a, b| a.1 == b.1);
    files
}

/// Where an installer of its own (`/usr/local/nvidia/lib64`, `/opt/…`) put them.
fn linker_directories(root: &Root) -> Vec<String> {
    let mut names = root.list(LINKER_PARTS).unwrap_or_default();
    names.retain(|name| name.ends_with(".conf"));
    names.sort_unstable();
    let parts = names.iter().map(|name| format!("{LINKER_PARTS}/{name}"));
    let texts =
        [LINKER.to_owned()].into_iter().chain(parts).filter_map(|path| root.read(&path).ok());
    let directories = texts.flat_map(|text| {
        let lines = text.lines().map(|line| line.trim().to_owned());
        lines.filter(|line| line.starts_with('/')).collect::<Vec<_>>()
    });
    directories.take(MAX_DIRECTORIES).collect()
}

fn add_libraries(root: &Root, dir: &Dir<'_>, ending: &str, files: &mut Vec<(String, String)>) {
    for name in dir.names().filter(|name| name.contains(".so")) {
        let path = dir.path_of(name);
        let target = root.link_target(&path).ok();
        match target.as_deref() {
            None if name.ends_with(ending) => files.push((path.clone(), path)),
            // `libcuda.so.1`, and links to it, to be there under the same name.
            Some(target) if !target.contains('/') && leads_to(root, dir, target, ending) => {
                let file = followed(root, dir, target);
                files.push((dir.path_of(&file), path));
            }
            _ => {}
        }
    }
}

fn leads_to(root: &Root, dir: &Dir<'_>, target: &str, ending: &str) -> bool {
    let file = followed(root, dir, target);
    file.ends_with(ending) && dir.has(&file)
}

/// Where a link in the directory ends, through one more at most: `libcuda.so` leads
/// to `libcuda.so.1`.
fn followed(root: &Root, dir: &Dir<'_>, target: &str) -> String {
    let next = root.link_target(&dir.path_of(target)).ok();
    next.filter(|next| !next.contains('/')).unwrap_or_else(|| target.to_owned())
}
