//! Changes one cgroup's cpuset, and reads back what came of it.

use std::io;

use nix::errno::Errno;
use purlin_core::{
    cpuset::{Change, Cpuset, To, Version, ancestors, is_below},
    idset::IdSet,
    inventory::Part,
};

use super::{Mount, mount, one};
use crate::{Dir, Root, probe::Probe};

/// Cgroups below a container that are changed with it (cgroup v1): a container that runs
/// a service manager has dozens.
const MAX_NESTED: usize = 1024;

/// Does it, and answers with the cpuset as it is then. The error says what was not taken,
/// why, and what to do.
pub fn change(root: &Root, change: &Change) -> Result<Cpuset, String> {
    if !is_below(&change.cgroup) {
        return Err(format!("{:?} is not the path of a cgroup below the root", change.cgroup));
    }
    let mut probe = Probe::new(Part::Cpu, root);
    let mount = mount::of(&mut probe).ok_or("no cgroups with the cpuset controller here")?;
    let at = Place { root, mount: &mount, cgroup: &change.cgroup };
    if !root.is_dir(&at.path()) {
        return Err(format!("the cgroup {} is gone", change.cgroup));
    }
    match &change.to {
        To::Cpus(cpus) => at.set("cpuset.cpus", cpus)?,
        To::Mems(mems) => at.set("cpuset.mems", mems)?,
        To::Isolated => at.isolate()?,
        To::Member => at.dissolve()?,
    }
    let dir =
        probe.dir(&at.path()).ok_or_else(|| format!("the cgroup {} is gone", change.cgroup))?;
    let now = one(&mut probe, &mount, &change.cgroup, &dir);
    took(change, &now)?;
    Ok(now)
}

/// Nothing is claimed that was not read back.
fn took(change: &Change, now: &Cpuset) -> Result<(), String> {
    let told = |now: String| Err(format!("{change}: written without an error, but it has {now}"));
    match &change.to {
        To::Cpus(cpus) if now.cpus.as_ref() != Some(cpus) => told(format!("{:?}", now.cpus)),
        To::Mems(mems) if now.mems.as_ref() != Some(mems) => told(format!("{:?}", now.mems)),
        To::Isolated if !now.partition.as_ref().is_some_and(|it| it.is_isolated()) => {
            told(now.partition.as_ref().map_or("no partition".into(), |it| it.to_string()))
        }
        _ => Ok(()),
    }
}

/// One cgroup.
struct Place<'a> {
    root: &'a Root,
    mount: &'a Mount,
    cgroup: &'a str,
}

impl Place<'_> {
    fn path(&self) -> String {
        self.mount.path(self.cgroup)
    }

    fn set(&self, file: &str, to: &IdSet) -> Result<(), String> {
        if to.is_empty() {
            return Err(format!("{file} of {} can't be made empty", self.cgroup));
        }
        match self.mount.version {
            Version::V2 => {
                self.reach()?;
                self.write(self.cgroup, file, &to.to_string())
            }
            Version::V1 => {
                if file == "cpuset.mems" {
                    // Else only what is allocated from now on is elsewhere.
                    self.write(self.cgroup, "cpuset.memory_migrate", "1")?;
                }
                self.set_with_nested(file, to)
            }
        }
    }

    /// Has the controller reach down to it: a runtime that was asked for no CPUs may not
    /// have seen to that.
    fn reach(&self) -> Result<(), String> {
        for above in [""].into_iter().chain(ancestors(self.cgroup)) {
            let control = format!("{}/cgroup.subtree_control", self.mount.path(above));
            let has = self.root.read(&control).map_err(|error| format!("{control}: {error}"))?;
            if !has.split_whitespace().any(|it| it == "cpuset") {
                self.write(above, "cgroup.subtree_control", "+cpuset")?;
            }
        }
        Ok(())
    }

    /// With cgroup v1 a cgroup never has more than the one above it: what is nested in
    /// it has to grow after it and shrink before it. A nested one that had all of it has all
    /// of it again; another keeps what it can.
    fn set_with_nested(&self, file: &str, to: &IdSet) -> Result<(), String> {
        let mut all = vec![Nested {
            cgroup: self.cgroup.into(),
            had: self.had(self.cgroup, file)?,
            gets: to.clone(),
        }];
        if let Ok(dir) = self.root.dir(&self.path()) {
            self.nested(&dir, 0, file, &mut all)?;
        }
        for it in all.iter().filter(|it| !it.gets.is_subset(&it.had)) {
            // Only where something is in its way: a CPU must not be in two places.
            let both = if all.len() > 1 { it.had.union(&it.gets) } else { it.gets.clone() };
            self.write(&it.cgroup, file, &both.to_string())?;
        }
        for it in all.iter().rev() {
            self.write(&it.cgroup, file, &it.gets.to_string())?;
        }
        Ok(())
    }

    fn nested(
        &self,
        dir: &Dir<'_>,
        parent: usize,
        file: &str,
        all: &mut Vec<Nested>,
    ) -> Result<(), String> {
        for name in dir.dirs() {
            if all.len() >= MAX_NESTED {
                return Err(format!("{} has more than {MAX_NESTED} cgroups in it", self.cgroup));
            }
            let cgroup = format!("{}/{name}", all[parent].cgroup);
            let Ok(had) = self.had(&cgroup, file) else { continue };
            let above = &all[parent];
            let kept = had.intersection(&above.gets);
            let gets = if had == above.had || kept.is_empty() { above.gets.clone() } else { kept };
            // One that was never given anything holds nothing up.
            if had.is_empty() {
                continue;
            }
            all.push(Nested { cgroup, had, gets });
            let at = all.len() - 1;
            if let Ok(inner) = dir.dir(name) {
                self.nested(&inner, at, file, all)?;
            }
        }
        Ok(())
    }

    fn had(&self, cgroup: &str, file: &str) -> Result<IdSet, String> {
        let path = format!("{}/{file}", self.mount.path(cgroup));
        let text = self.root.read(&path).map_err(|error| format!("{path}: {error}"))?;
        IdSet::parse(&text).map_err(|what| format!("{path}: {what}"))
    }

    /// A partition below cgroups that are none: every one above has to have its CPUs as
    /// exclusive ones (Linux 6.7).
    fn isolate(&self) -> Result<(), String> {
        let cpus = self.had(self.cgroup, "cpuset.cpus")?;
        if !self.root.exists(&format!("{}/cpuset.cpus.exclusive", self.path())) {
            return Err(format!(
                "{} can't be an isolated partition: this kernel has no cpuset.cpus.exclusive \
                 there; use cgroup v2 and Linux 6.7 or newer",
                self.cgroup
            ));
        }
        // What made an earlier one invalid also took from the cgroups above what they had
        // for it, whatever their files say: begin anew.
        let is = self.root.read(&format!("{}/cpuset.cpus.partition", self.path()));
        if is.is_ok_and(|is| is.contains("invalid")) {
            self.dissolve()?;
        }
        for above in ancestors(self.cgroup).chain([self.cgroup]) {
            let had = self.had(above, "cpuset.cpus.exclusive")?;
            if !cpus.is_subset(&had) {
                self.write(above, "cpuset.cpus.exclusive", &had.union(&cpus).to_string())?;
            }
        }
        self.write(self.cgroup, "cpuset.cpus.partition", "isolated")
    }

    /// Back to none, and what the cgroups above had for it with it.
    fn dissolve(&self) -> Result<(), String> {
        self.write(self.cgroup, "cpuset.cpus.partition", "member")?;
        let Ok(cpus) = self.had(self.cgroup, "cpuset.cpus.exclusive") else { return Ok(()) };
        let above: Vec<&str> = ancestors(self.cgroup).chain([self.cgroup]).collect();
        for above in above.into_iter().rev() {
            let had = self.had(above, "cpuset.cpus.exclusive")?;
            if !had.intersection(&cpus).is_empty() {
                // An empty write is no write.
                let left = format!("{}\n", had.difference(&cpus));
                self.write(above, "cpuset.cpus.exclusive", &left)?;
            }
        }
        Ok(())
    }

    fn write(&self, cgroup: &str, file: &str, text: &str) -> Result<(), String> {
        let path = format!("{}/{file}", self.mount.path(cgroup));
        self.root.write(&path, text).map_err(|error| refused(&path, text, &error))
    }
}

/// A cgroup, what it had and what it gets.
struct Nested {
    cgroup: String,
    had: IdSet,
    gets: IdSet,
}

/// Why the kernel did not take it, and what to do.
fn refused(path: &str, text: &str, error: &io::Error) -> String {
    let text = text.trim();
    let why = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES) if path.contains("/cpuset.") => {
            "the cgroup above it has less, or this process may not write it".into()
        }
        Some(Errno::EACCES | Errno::EPERM) => "this process may not write it".into(),
        Some(Errno::EBUSY) => "a cgroup below it has more, or a CPU of it is in use".into(),
        Some(Errno::ENOSPC) => "its processes would have nothing left".into(),
        Some(Errno::EINVAL) => "the kernel has no such CPU or node, or a partition has it".into(),
        Some(Errno::ENOENT | Errno::ENODEV) => "the cgroup is gone".into(),
        Some(errno) => errno.desc().to_lowercase(),
        None => error.to_string(),
    };
    format!("{path}: {text:?} is not taken: {why}")
}
