//! An OCI specification (`config.json`): what the agent is told of it, and the cpuset that
//! is put into it. All else stays as it was written, digit by digit.
//!
//! Source: opencontainers/runtime-spec, config.md and config-linux.md.

use std::{collections::BTreeMap, fmt};

use purlin_core::{
    idset::IdSet,
    place::container::{Container, Pod, Resources, Via},
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Where container managers of Kubernetes leave, as annotations, what the container is:
/// containerd's and CRI-O's names of the same thing.
const NAME: [&str; 2] = ["io.kubernetes.cri.container-name", "io.kubernetes.container.name"];
const IMAGE: [&str; 2] = ["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"];
const POD_NAME: [&str; 2] = ["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"];
const POD_SPACE: [&str; 2] = ["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"];
const POD_UID: [&str; 2] = ["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"];

/// How annotations begin by which a container asks us for something.
const WISHES: &str = "purlin.dev/";

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Specification {
    annotations: BTreeMap<String, String>,
    process: Process,
    linux: Linux,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Process {
    oom_score_adj: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    cgroups_path: Option<String>,
    devices: Vec<Device>,
    resources: LinuxResources,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Device {
    path: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LinuxResources {
    cpu: Cpu,
    memory: Memory,
    hugepage_limits: Vec<Hugepages>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cpu {
    shares: Option<u64>,
    quota: Option<i64>,
    period: Option<u64>,
    cpus: Option<String>,
    mems: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Memory {
    limit: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Hugepages {
    page_size: String,
    limit: u64,
}

/// What a specification tells of a container.
pub fn container(id: &str, text: &[u8]) -> Result<Container, String> {
    let Specification { annotations, process, linux } =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    // A bundle that is run again has in it what we gave the container then.
    let is_wished = annotations.keys().any(|key| key.starts_with(WISHES));
    let told = |keys: [&str; 2]| keys.iter().find_map(|key| annotations.get(*key)).cloned();
    let set = |list: Option<String>| {
        list.filter(|list| !list.is_empty()).map(|list| IdSet::parse(&list)).transpose()
    };
    let LinuxResources { cpu, memory, hugepage_limits } = linux.resources;
    let resources = Resources {
        cpu_shares: cpu.shares,
        cpu_quota_us: cpu.quota,
        cpu_period_us: cpu.period,
        memory_limit: memory.limit.and_then(|limit| u64::try_from(limit).ok()),
        hugepages: hugepage_limits
            .iter()
            .filter_map(|it| Some((page_size(&it.page_size)?, it.limit)))
            .collect(),
        cpus: set(cpu.cpus)?.filter(|_| !is_wished),
        mems: set(cpu.mems)?.filter(|_| !is_wished),
        oom_score_adj: process.oom_score_adj,
    };
    let pod = told(POD_NAME).map(|name| Pod {
        uid: told(POD_UID).unwrap_or_default(),
        name,
        namespace: told(POD_SPACE).unwrap_or_default(),
        ..Pod::default()
    });
    Ok(Container {
        id: id.into(),
        name: told(NAME).unwrap_or_default(),
        pod,
        image: told(IMAGE),
        labels: BTreeMap::new(),
        resources,
        devices: linux.devices.into_iter().map(|device| device.path).collect(),
        cgroup: linux.cgroups_path,
        via: Via::Oci,
        annotations,
    })
}

/// Bytes of `2MB`, `1GB`, `64KB`, which mean powers of two here.
fn page_size(text: &str) -> Option<u64> {
    let units = [("KB", 10), ("MB", 20), ("GB", 30)];
    let (digits, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

/// The same specification with this cpuset; an empty set is left out.
pub fn with_cpuset(text: &[u8], cpus: &IdSet, mems: &IdSet) -> Result<Vec<u8>, String> {
    let set = |cpu: &mut Object| {
        for (key, set) in [("cpus", cpus), ("mems", mems)] {
            if !set.is_empty() {
                cpu.put(key, raw(&set.to_string())?);
            }
        }
        Ok(())
    };
    let mut whole: Object = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    whole.within("linux", |linux| {
        linux.within("resources", |resources| resources.within("cpu", set))
    })?;
    serde_json::to_vec(&whole).map_err(|error| error.to_string())
}

fn raw(value: &impl Serialize) -> Result<Box<RawValue>, String> {
    serde_json::value::to_raw_value(value).map_err(|error| error.to_string())
}

/// An object whose members are kept in order and as they were written.
struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    fn put(&mut self, key: &str, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.into(), value)),
        }
    }

    /// Changes the object that a member is; one that is missing or null is made.
    fn within(
        &mut self,
        key: &str,
        change: impl FnOnce(&mut Object) -> Result<(), String>,
    ) -> Result<(), String> {
        let old = self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.get());
        let mut inner = match old.filter(|old| *old != "null") {
            Some(old) => serde_json::from_str(old).map_err(|error| format!("{key}: {error}"))?,
            None => Object(Vec::new()),
        };
        change(&mut inner)?;
        let inner = raw(&inner)?;
        self.put(key, inner);
        Ok(())
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn set(list: &str) -> IdSet {
        IdSet::parse(list).unwrap()
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let text = with_cpuset(text.as_bytes(), &set("2-3"), &set("1")).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn everything_else_stays_as_it_was_written() {
        check(
            r#"{"z":1.50,"big":18446744073709551615,"linux":{"resources":{"cpu":{"cpus":"0","x":1e400},"y":[]},"a":"\u0041"}}"#,
            r#"{"z":1.50,"big":18446744073709551615,"linux":{"resources":{"cpu":{"cpus":"2-3","x":1e400,"mems":"1"},"y":[]},"a":"\u0041"}}"#,
        );
    }

    #[test]
    fn what_is_missing_is_made() {
        let cpu = r#"{"linux":{"resources":{"cpu":{"cpus":"2-3","mems":"1"}}}}"#;
        check("{}", cpu);
        check(r#"{"linux":{"resources":null}}"#, cpu);
        assert!(with_cpuset(br#"{"linux":[]}"#, &set("1"), &set("")).is_err());
    }

    #[test]
    fn the_agent_is_told_what_there_is() {
        let text = r#"{
            "process": {"oomScoreAdj": -997},
            "annotations": {"purlin.dev/cpus": "2", "io.kubernetes.pod.name": "web-0"},
            "linux": {
                "cgroupsPath": "machine.slice:libpod:abc",
                "devices": [{"path": "/dev/nvidia0", "type": "c"}],
                "resources": {
                    "cpu": {"shares": 2048, "quota": 200000, "period": 100000, "cpus": ""},
                    "memory": {"limit": -1},
                    "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]
                }
            }
        }"#;
        let container = container("abc", text.as_bytes()).unwrap();
        expect![[r#"{"id":"abc","name":"","pod":{"uid":"","name":"web-0","namespace":"","labels":{},"annotations":{}},"image":null,"labels":{},"annotations":{"io.kubernetes.pod.name":"web-0","purlin.dev/cpus":"2"},"resources":{"cpu_shares":2048,"cpu_quota_us":200000,"cpu_period_us":100000,"memory_limit":null,"hugepages":{"2097152":4194304},"cpus":null,"mems":null,"oom_score_adj":-997},"devices":["/dev/nvidia0"],"cgroup":"machine.slice:libpod:abc","via":"oci"}"#]].assert_eq(&serde_json::to_string(&container).unwrap());
    }
}
