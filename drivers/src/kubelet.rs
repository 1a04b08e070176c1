//! What kubelet's CPU and memory managers gave out, as they keep it for their own next
//! start: `cpu_manager_state` and `memory_manager_state`, which root alone may read.
//!
//! All versions of the two are read: entries by container id (CPUs, before 1.18), by pod
//! and container, those of a whole pod beside them (1.35), and what newer ones put beside
//! that. Their checksum is one of Go's memory layout and is not checked; kubelet replaces
//! a file as a whole.
//!
//! Source: `pkg/kubelet/cm/cpumanager/state/checkpoint.go` and
//! `pkg/kubelet/cm/memorymanager/state/{checkpoint,state}.go` of Kubernetes.

use std::collections::BTreeMap;

use purlin_core::{
    idset::{IdSet, MAX_ID},
    inventory::{Part, Problem},
    place::kubelet::{Gave, Kubelet},
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    Root,
    probe::{Probe, quote},
};

/// Where kubelet keeps its state unless it was told otherwise; it is told so almost never.
pub const DIR: &str = "/var/lib/kubelet";
const CPUS: &str = "/var/lib/kubelet/cpu_manager_state";
const MEMORY: &str = "/var/lib/kubelet/memory_manager_state";
/// Largest file: some hundred bytes each, of a few hundred containers.
const MAX_BYTES: u64 = 4 << 20;
/// The policy under which the CPU manager gives CPUs out.
const STATIC: &str = "static";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CpuState {
    policy_name: String,
    #[serde(default)]
    default_cpu_set: String,
    #[serde(default)]
    entries: BTreeMap<String, Entry>,
    #[serde(default)]
    pod_entries: BTreeMap<String, OfPod>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    /// CPUs of the container whose id is the key.
    Container(String),
    /// CPUs by container name, of the pod whose uid is the key.
    Pod(BTreeMap<String, String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfPod {
    #[serde(default)]
    cpu_set: String,
}

#[derive(Deserialize)]
struct MemoryState {
    #[serde(default)]
    entries: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Block {
    #[serde(default)]
    numa_affinity: Vec<u32>,
}

/// What kubelet gave out; `None` if its CPU manager gives nothing out, or, with a problem,
/// if that can't be told. A memory manager's state that can't be read is a problem alone.
pub fn read(root: &Root) -> (Option<Kubelet>, Vec<Problem>) {
    let mut probe = Probe::new(Part::Cpu, root);
    let kubelet = cpus(&mut probe).map(|mut kubelet| {
        memory(&mut probe, &mut kubelet);
        kubelet
    });
    (kubelet, probe.finish())
}

fn cpus(probe: &mut Probe<'_>) -> Option<Kubelet> {
    let state: CpuState = parsed(probe, CPUS)?;
    if state.policy_name != STATIC {
        return None;
    }
    let mut kubelet = Kubelet::default();
    let mut wrong = Vec::new();
    let mut set =
        |list: &str| IdSet::parse(list).map_err(|why| wrong.push(why)).unwrap_or_default();
    kubelet.shared = set(&state.default_cpu_set);
    for (key, entry) in state.entries {
        match entry {
            Entry::Container(cpus) => _ = kubelet.by_id.insert(key, set(&cpus)),
            Entry::Pod(containers) => {
                let gave = |(name, cpus): (String, String)| {
                    (name, Gave { cpus: set(&cpus), ..Gave::default() })
                };
                kubelet.given.insert(key, containers.into_iter().map(gave).collect());
            }
        }
    }
    for (uid, pod) in state.pod_entries {
        kubelet.pods.insert(uid, set(&pod.cpu_set));
    }
    // One CPU less in it than there is would be given away twice: all of it, or none.
    match wrong.first() {
        None => Some(kubelet),
        Some(why) => {
            probe.problem(CPUS, quote(why));
            None
        }
    }
}

fn memory(probe: &mut Probe<'_>, kubelet: &mut Kubelet) {
    let Some(state) = parsed::<MemoryState>(probe, MEMORY) else { return };
    for (uid, containers) in state.entries {
        for (name, blocks) in containers {
            let nodes = blocks.iter().flat_map(|block| &block.numa_affinity);
            let gave = kubelet.given.entry(uid.clone()).or_default().entry(name).or_default();
            gave.mems = nodes.copied().filter(|node| *node <= MAX_ID).collect();
        }
    }
}

/// A file's content, if there is one and it is of a form that is known.
fn parsed<T: DeserializeOwned>(probe: &mut Probe<'_>, path: &str) -> Option<T> {
    let text = probe.text_up_to(path, MAX_BYTES)?;
    let state = serde_json::from_str(&text);
    state
        .map_err(|error| {
            probe.problem(path, format!("is not of a form that is known, or damaged: {error}"));
        })
        .ok()
}
