//! Cgroups of the unified hierarchy by the id that the kernel has for them elsewhere, such
//! as in what it tells of sockets: the inode of their directory, which is never used again.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirEntryExt,
    path::{Path, PathBuf},
};

use super::{MAX_CGROUPS, MAX_DEPTH};

/// Where the unified hierarchy is mounted, alone or beside others.
pub fn unified() -> Option<PathBuf> {
    mounted("cgroup2").into_iter().next()
}

/// Where any is mounted: a container has its cgroup in one of them, at the same path.
pub fn mounts() -> Vec<PathBuf> {
    [mounted("cgroup2"), mounted("cgroup")].concat()
}

fn mounted(kind: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let at = |line: &str| {
        let mut words = line.split(' ').skip(1);
        words.next().filter(|_| words.next() == Some(kind)).map(PathBuf::from)
    };
    mounts.lines().filter_map(at).collect()
}

/// Every cgroup below a mount, by its id: its path from there, `/system.slice/a.service`.
pub fn by_id(mount: &Path) -> HashMap<u64, String> {
    let mut found = HashMap::new();
    let mut left = vec![(String::new(), 0)];
    while let Some((path, depth)) = left.pop() {
        // One that went away meanwhile has nothing in it.
        let Ok(entries) = fs::read_dir(format!("{}{path}", mount.display())) else { continue };
        for entry in entries.flatten() {
            let is_group = entry.file_type().is_ok_and(|it| it.is_dir());
            let Some(name) = entry.file_name().to_str().filter(|_| is_group).map(str::to_owned)
            else {
                continue;
            };
            if found.len() < MAX_CGROUPS && depth < MAX_DEPTH {
                let path = format!("{path}/{name}");
                found.insert(entry.ino(), path.clone());
                left.push((path, depth + 1));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, time::Instant};

    use super::*;

    #[test]
    fn each_is_found_by_its_inode() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("a.slice/b.service/c")).expect("made");
        fs::write(dir.path().join("a.slice/cgroup.procs"), "").expect("made");
        let found = by_id(dir.path());
        assert_eq!(found.len(), 3);
        let inode = fs::metadata(dir.path().join("a.slice/b.service")).expect("there").ino();
        assert_eq!(found.get(&inode).map(String::as_str), Some("/a.slice/b.service"));
    }

    #[test]
    #[ignore = "a measurement, for docs/decisions/067"]
    fn what_it_costs() {
        let mount = unified().expect("cgroup v2");
        let began = Instant::now();
        println!("{} cgroups: {:?}", by_id(&mount).len(), began.elapsed());
    }
}
