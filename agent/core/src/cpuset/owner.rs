//! Whose a cgroup is, by its path alone.
//!
//! | runtime | cgroup driver systemd | cgroupfs |
//! | --- | --- | --- |
//! | containerd (CRI) | `/kubepods.slice/…/cri-containerd-ID.scope` | `/kubepods/…/podUID/ID` |
//! | CRI-O | `/kubepods.slice/…/crio-ID.scope[/container]` | `/kubepods/…/crio-ID` |
//! | docker | `/system.slice/docker-ID.scope` | `/docker/ID` |
//! | podman | `/machine.slice/libpod-ID.scope[/container]` | `/libpod_parent/libpod-ID` |
//! | nerdctl, ctr | `/system.slice/nerdctl-ID.scope` | `/NAMESPACE/ID` |
//!
//! An id is 64 hexadecimal digits, so that what only looks alike (`libpod-conmon-ID`, a
//! pod's slice) is none. What was given a name of its own is known by its path alone.

use alloc::{
    format,
    string::{String, ToString},
};

use serde::{Deserialize, Serialize};

/// Digits of an id: SHA-256, or as many random ones.
const ID_DIGITS: usize = 64;

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// What made it.
    pub runtime: Runtime,
    /// Its id there.
    pub id: String,
}

/// What makes containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "they are names")]
pub enum Runtime {
    Containerd,
    Crio,
    Docker,
    Podman,
    /// An id without a word about what made it.
    Unknown,
}

/// How the names of containers begin.
const PREFIXES: [(&str, Runtime); 5] = [
    ("cri-containerd-", Runtime::Containerd),
    ("nerdctl-", Runtime::Containerd),
    ("crio-", Runtime::Crio),
    ("docker-", Runtime::Docker),
    ("libpod-", Runtime::Podman),
];

/// Whose the cgroup at `path` itself is; those below it are the same container's.
pub fn owner(path: &str) -> Option<Owner> {
    let (parent, name) = path.rsplit_once('/')?;
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let prefixed = PREFIXES.iter().find_map(|(prefix, runtime)| {
        Some((*runtime, name.strip_prefix(prefix).filter(|id| is_id(id))?))
    });
    let (runtime, id) = prefixed.or_else(|| is_id(name).then(|| (by_parent(parent), name)))?;
    Some(Owner { runtime, id: id.into() })
}

/// Without a prefix, where it is tells.
fn by_parent(parent: &str) -> Runtime {
    let first = parent.split('/').nth(1).unwrap_or_default();
    match first {
        "docker" => Runtime::Docker,
        // Kubernetes' pods by containerd; docker's are no longer.
        "kubepods" => Runtime::Containerd,
        _ => Runtime::Unknown,
    }
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}

/// The path below the mount of what an OCI specification has in `cgroupsPath`: a path, or
/// `SLICE:PREFIX:NAME`, which becomes a scope of systemd's. `None` if it makes no sense.
///
/// Source: opencontainers/runtime-spec config-linux.md; systemd.slice(5) for a slice's path.
pub fn path_of(cgroups_path: &str) -> Option<String> {
    let mut words = cgroups_path.split(':');
    let path = match (words.next()?, words.next(), words.next(), words.next()) {
        (path, None, ..) => format!("/{}", path.trim_matches('/')),
        (slice, Some(prefix), Some(name), None) => {
            let unit = match prefix.is_empty() {
                true => name.to_string(),
                false => format!("{prefix}-{name}"),
            };
            let unit = if unit.ends_with(".slice") { unit } else { unit + ".scope" };
            format!("{}/{unit}", slice_path(if slice.is_empty() { "system.slice" } else { slice })?)
        }
        _ => return None,
    };
    super::is_below(&path).then_some(path)
}

/// `/a.slice/a-b.slice` of `a-b.slice`.
fn slice_path(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(String::new());
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    Some(ends.map(|end| format!("/{}.slice", &name[..end])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "8d0c27b5e0a9f0a3b1f1f6f6b1c9d3a4e5f60718293a4b5c6d7e8f9001122334";

    #[track_caller]
    fn check(path: &str, expected: Option<Runtime>) {
        let found = owner(&path.replace("ID", ID));
        assert_eq!(found.as_ref().map(|it| it.runtime), expected, "{path}");
        assert!(found.is_none_or(|it| it.id == ID), "{path}");
    }

    #[test]
    fn every_runtime_is_known_by_its_paths() {
        let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice";
        check(&format!("{pod}/cri-containerd-ID.scope"), Some(Runtime::Containerd));
        check("/kubepods/burstable/pod1-2/ID", Some(Runtime::Containerd));
        check(&format!("{pod}/crio-ID.scope"), Some(Runtime::Crio));
        check("/kubepods/besteffort/pod1-2/crio-ID", Some(Runtime::Crio));
        check("/system.slice/docker-ID.scope", Some(Runtime::Docker));
        check("/docker/ID", Some(Runtime::Docker));
        check("/machine.slice/libpod-ID.scope", Some(Runtime::Podman));
        check("/libpod_parent/libpod-ID", Some(Runtime::Podman));
        check("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope", {
            Some(Runtime::Podman)
        });
        check("/k8s.io/ID", Some(Runtime::Unknown));
    }

    #[test]
    fn what_is_beside_a_container_or_in_it_is_none() {
        check("/libpod_parent/libpod-conmon-ID", None);
        check("/machine.slice/libpod-ID.scope/container", None);
        check("/kubepods.slice/crio-conmon-ID.scope", None);
        check("/kubepods/burstable/pod1-2", None);
        check("/docker/abc", None);
    }

    #[track_caller]
    fn at(cgroups_path: &str, expected: Option<&str>) {
        assert_eq!(path_of(cgroups_path).as_deref(), expected);
    }

    #[test]
    fn a_cgroups_path_is_a_path_or_a_scope_of_systemds() {
        at("/kubepods/podX/ID", Some("/kubepods/podX/ID"));
        at("box", Some("/box"));
        at("kubepods-burstable-podX.slice:cri-containerd:ID", {
            Some(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice/\
                 cri-containerd-ID.scope",
            )
        });
        at("machine.slice:libpod:ID", Some("/machine.slice/libpod-ID.scope"));
        at(":runc:box", Some("/system.slice/runc-box.scope"));
        at("-.slice:a:b", Some("/a-b.scope"));
        at("../up", None);
        at("a:b", None);
    }
}
