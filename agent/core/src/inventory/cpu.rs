//! Processors and their caches.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::idset::IdSet;

/// Processors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Model name of the first PU that has one.
    pub model: Option<String>,
    /// Vendor, e.g. `GenuineIntel`, `ARM`.
    pub vendor: Option<String>,
    /// What the first PU can do, in the kernel's words and order: `flags` or
    /// `Features` of `/proc/cpuinfo`.
    pub flags: Vec<String>,
    /// Microcode revision of the first PU, e.g. `0x2b000620`.
    pub microcode: Option<String>,
    /// Known weaknesses and what is done about each, from
    /// `/sys/devices/system/cpu/vulnerabilities`.
    pub vulnerabilities: BTreeMap<String, String>,
    /// Every CPU the kernel could ever bring up.
    pub possible: Option<IdSet>,
    /// CPUs that are plugged in.
    pub present: Option<IdSet>,
    /// CPUs that run.
    pub online: Option<IdSet>,
    /// CPUs this process's cgroup may use.
    pub allowed: Option<IdSet>,
    /// NUMA nodes whose memory this process's cgroup may use.
    pub allowed_nodes: Option<IdSet>,
    /// CPUs taken from the scheduler by `isolcpus=` or an isolated partition.
    pub isolated: Option<IdSet>,
    /// CPUs without a scheduler tick while one task runs: `nohz_full=`.
    pub nohz_full: Option<IdSet>,
    /// CPUs that the kernel has a directory for, whatever their state.
    pub listed: IdSet,
    /// SMT control as the kernel tells it: `on`, `off`, `forceoff`, `notsupported` …
    pub smt: Option<String>,
    /// True if some core runs more than one of its PUs now.
    pub smt_active: Option<bool>,
    /// Processing units that are online, by kernel id.
    pub pus: Vec<Pu>,
    /// What PUs sit together in, by kind and logical id.
    pub groups: Vec<Group>,
    /// Each cache instance once, by level, type and first PU.
    pub caches: Vec<Cache>,
    /// Kinds of core, the slowest first; empty where all are alike.
    pub kinds: Vec<CoreKind>,
    /// Frequency policies, by first PU.
    pub frequency: Vec<FrequencyPolicy>,
    /// True if frequencies over the base may be used: `cpufreq/boost` or the
    /// opposite of `intel_pstate/no_turbo`.
    pub boost: Option<bool>,
    /// Idle driver and governor, e.g. `intel_idle` and `menu`.
    pub idle: Option<Idle>,
    /// Cache and memory bandwidth allocation, where resctrl is mounted.
    pub resctrl: Option<Resctrl>,
}

impl Cpu {
    /// The groups of one kind, by logical id.
    pub fn groups(&self, kind: GroupKind) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(move |group| group.kind == kind)
    }

    /// The group of one kind that a PU is in.
    pub fn group_of(&self, kind: GroupKind, pu: u32) -> Option<&Group> {
        self.groups(kind).find(|group| group.pus.contains(pu))
    }

    /// Packages with a PU online.
    pub fn packages(&self) -> usize {
        self.groups(GroupKind::Package).count()
    }

    /// Cores with a PU online.
    pub fn cores(&self) -> usize {
        self.groups(GroupKind::Core).count()
    }
}

/// A processing unit: one hardware thread, a "CPU" to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pu {
    /// Kernel id.
    pub id: u32,
    /// Place in the order of what contains it: package by package, and in each
    /// die, node, cache and core; by lowest kernel id where nothing else decides.
    pub logical: u32,
    /// NUMA node.
    pub node: Option<u32>,
}

/// PUs that sit together in one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// What the thing is.
    pub kind: GroupKind,
    /// The kernel's id: not always unique, and on some machines the same for
    /// all; −1, "not told" to the kernel, is none.
    pub id: Option<i32>,
    /// Place among those of its kind, in the order of their PUs' logical ids.
    pub logical: u32,
    /// Its online PUs.
    pub pus: IdSet,
}

/// What PUs sit together in, the largest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// Books of an s390 machine.
    Drawer,
    /// Packages of an s390 machine.
    Book,
    /// What is plugged into one socket.
    Package,
    /// A piece of silicon in a package.
    Die,
    /// Cores that share an L2 cache or a bus.
    Cluster,
    /// PUs that share their execution units.
    Core,
}

/// One instance of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// 1, 2, 3 …
    pub level: u32,
    /// What it holds.
    pub kind: CacheKind,
    /// Size in bytes; unknown on some machines.
    pub size: Option<u64>,
    /// Ways of associativity.
    pub ways: Option<u32>,
    /// Number of sets.
    pub sets: Option<u32>,
    /// Line size in bytes.
    pub line: Option<u32>,
    /// The kernel's id of a cache of level 3 and above, by which resctrl names it.
    pub id: Option<u32>,
    /// PUs that share it.
    pub shared_by: IdSet,
}

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheKind {
    /// Data only.
    Data,
    /// Instructions only.
    Instruction,
    /// Both.
    Unified,
}

/// Cores of one kind on a machine with several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreKind {
    /// `P`, `E` or `LP-E` on Intel; `Cortex-A78` or `MIDR 0x411fd411` on Arm.
    pub name: Option<String>,
    /// Its PUs.
    pub pus: IdSet,
    /// `cpu_capacity`: 1024 is the fastest core of the machine.
    pub capacity: Option<u32>,
    /// Highest frequency in kHz.
    pub max_khz: Option<u64>,
    /// What tells it from the others.
    pub told_by: KindSource,
}

/// What tells kinds of cores apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KindSource {
    /// The performance counters: `/sys/devices/cpu_core`, `cpu_atom`, `cpu_lowpower`.
    Pmu,
    /// Arm's identification register.
    Midr,
    /// `cpu_capacity`.
    Capacity,
    /// Different highest frequencies: a hint and not a proof.
    Frequency,
}

/// PUs that change their frequency together, and the rules for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrequencyPolicy {
    /// Its PUs.
    pub pus: IdSet,
    /// Driver, e.g. `intel_pstate`, `amd-pstate-epp`, `cppc_cpufreq`.
    pub driver: Option<String>,
    /// Governor, e.g. `performance`.
    pub governor: Option<String>,
    /// Lowest frequency allowed now, in kHz.
    pub min_khz: Option<u64>,
    /// Highest frequency allowed now, in kHz.
    pub max_khz: Option<u64>,
    /// Lowest frequency of the hardware, in kHz.
    pub hardware_min_khz: Option<u64>,
    /// Highest frequency of the hardware, in kHz.
    pub hardware_max_khz: Option<u64>,
    /// Frequency without boost, in kHz.
    pub base_khz: Option<u64>,
    /// Energy-performance preference, e.g. `balance_performance`.
    pub preference: Option<String>,
}

/// How PUs idle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    /// Driver, e.g. `intel_idle`.
    pub driver: Option<String>,
    /// Governor, e.g. `menu`.
    pub governor: Option<String>,
    /// C-states, those of each kind of core apart.
    pub states: Vec<IdleState>,
}

/// A C-state of the PUs of one kind of core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleState {
    /// The PU that it was read of; its kind of core has the same.
    pub pu: u32,
    /// Name, e.g. `C6`.
    pub name: String,
    /// Time to leave it, in µs.
    pub latency_us: Option<u64>,
    /// Time in it from which it saves energy, in µs.
    pub residency_us: Option<u64>,
    /// True if it is switched off.
    pub disabled: Option<bool>,
}

/// What `/sys/fs/resctrl/info` offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resctrl {
    /// Allocation resources: `L3`, `L2`, `L3CODE` and `L3DATA` with CDP, `MB`.
    pub resources: BTreeMap<String, ResctrlResource>,
    /// What can be monitored, e.g. `llc_occupancy`.
    pub monitors: Vec<String>,
    /// Monitoring ids, groups that can be monitored at once.
    pub rmids: Option<u32>,
}

/// One resource that resctrl divides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResctrlResource {
    /// Groups it can be divided among.
    pub closids: Option<u32>,
    /// All its parts as a bit mask, hexadecimal, e.g. `7ff`.
    pub cbm_mask: Option<String>,
    /// The fewest bits that a group must have.
    pub min_cbm_bits: Option<u32>,
    /// Parts that devices use too, as a bit mask, hexadecimal.
    pub shareable_bits: Option<String>,
    /// Lowest bandwidth that can be set, in percent.
    pub min_bandwidth: Option<u32>,
    /// Step of the bandwidth, in percent.
    pub bandwidth_gran: Option<u32>,
}
