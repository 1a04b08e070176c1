//! What one of those who may ask says of a workload; what it leaves out, others may say.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
};
use core::str::FromStr;

use serde::Serialize;

use super::{door::Door, machine::Crossing, request::Policy};
use crate::{
    idset::MAX_ID,
    mesh::workload::Workload,
    settings::{Impossible, one_of},
};

/// Names that [`Wishes::read`] knows.
const NAMES: [&str; 13] = [
    "exclusive-cpus",
    "full-cores",
    "shared-millicpus",
    "memory-mib",
    "far-memory",
    "hugepages-mib",
    "devices",
    "near",
    "policy",
    "isolated",
    "priority",
    "services",
    "identity",
];

/// Wishes, each of which may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Wishes {
    /// PUs for itself alone; 0 shares them after all.
    pub exclusive_cpus: Option<u32>,
    /// Whole cores only.
    pub full_cores: Option<bool>,
    /// A part of the shared CPUs, in thousandths of one.
    pub shared_millicpus: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Its memory may be on nodes without CPUs.
    pub far_memory: Option<bool>,
    /// Page size in bytes → bytes.
    pub hugepages: BTreeMap<u64, u64>,
    /// Devices by kind, and how many.
    pub devices: BTreeMap<String, usize>,
    /// The most that a transfer between its devices may have to cross.
    pub near: Option<Crossing>,
    /// How strictly all must be on the same nodes.
    pub policy: Option<Policy>,
    /// Its exclusive CPUs are to be a partition without load balancing.
    pub isolated: Option<bool>,
    /// How much it matters when power or cooling fails.
    pub priority: Option<u32>,
    /// Services of the mesh that it has endpoints of, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, Door>,
    /// What rules of the mesh call it, below its pod's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// Of a workload: who has none is never shed for it.
pub const MAX_PRIORITY: u32 = 1000;

impl Wishes {
    /// Lays what another says over these.
    pub fn overlay(&mut self, other: &Self) {
        let Self { exclusive_cpus, full_cores, shared_millicpus, memory, .. } = other;
        self.exclusive_cpus = exclusive_cpus.or(self.exclusive_cpus);
        self.full_cores = full_cores.or(self.full_cores);
        self.shared_millicpus = shared_millicpus.or(self.shared_millicpus);
        self.memory = memory.or(self.memory);
        self.far_memory = other.far_memory.or(self.far_memory);
        self.hugepages.extend(&other.hugepages);
        self.devices.extend(other.devices.iter().map(|(kind, count)| (kind.clone(), *count)));
        self.near = other.near.or(self.near);
        self.policy = other.policy.or(self.policy);
        self.isolated = other.isolated.or(self.isolated);
        self.priority = other.priority.or(self.priority);
        self.services.extend(other.services.iter().map(|(name, door)| (name.clone(), *door)));
        if other.identity.is_some() {
            self.identity.clone_from(&other.identity);
        }
    }

    /// Takes one of them as text; the error says what may stand there.
    pub fn read(&mut self, name: &str, value: &str) -> Result<(), String> {
        let value = value.trim();
        match name {
            "exclusive-cpus" => self.exclusive_cpus = Some(number(value, 0, MAX_ID.into())?),
            "full-cores" => self.full_cores = Some(yes(value)?),
            "shared-millicpus" => self.shared_millicpus = Some(number(value, 0, u32::MAX.into())?),
            "memory-mib" => self.memory = Some(number::<u64>(value, 0, MAX_MIB)? << 20),
            "far-memory" => self.far_memory = Some(yes(value)?),
            "hugepages-mib" => {
                for (size, mib) in pairs(value)? {
                    let bytes = page_size(size).map_err(told)?;
                    self.hugepages.insert(bytes, number::<u64>(mib, 0, MAX_MIB)? << 20);
                }
            }
            "devices" => {
                for (kind, count) in pairs(value)? {
                    self.devices.insert(kind.to_string(), number(count, 0, 1024)?);
                }
            }
            "near" => self.near = Some(value.parse().map_err(told)?),
            "policy" => self.policy = Some(value.parse().map_err(told)?),
            "isolated" => self.isolated = Some(yes(value)?),
            "priority" => self.priority = Some(number(value, 0, MAX_PRIORITY.into())?),
            "services" => {
                for (service, door) in pairs(value)? {
                    self.services.insert(service.to_string(), door.parse().map_err(told)?);
                }
            }
            "identity" => {
                let is_one = Workload::container(None, value).is_some();
                let limit = "letters, digits, '-', '_' and '.'";
                self.identity =
                    Some(is_one.then(|| value.into()).ok_or_else(|| format!("it may be {limit}"))?);
            }
            _ => return Err(format!("there is no such wish; it may be {}", one_of(&NAMES))),
        }
        Ok(())
    }
}

/// 8 EiB: no machine has more, and bytes of it fit a `u64`.
const MAX_MIB: u64 = 1 << 43;

fn told(Impossible { limit, .. }: Impossible) -> String {
    format!("it may be {limit}")
}

fn number<T: TryFrom<u64>>(value: &str, least: u64, most: u64) -> Result<T, String> {
    let number = value.parse().ok().filter(|number| (least..=most).contains(number));
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("\"{value}\" may be {least} to {most}"))
}

fn yes(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| format!("\"{value}\" may be true or false"))
}

/// `a=1, b=2`; a name may have a `=` of its own.
fn pairs(value: &str) -> Result<impl Iterator<Item = (&str, &str)>, String> {
    let parts = || value.split(',').map(str::trim).filter(|part| !part.is_empty());
    match parts().find(|part| !part.contains('=')) {
        Some(part) => Err(format!("\"{part}\" is no NAME=VALUE; pairs are separated by commas")),
        None => Ok(parts().filter_map(|part| part.rsplit_once('='))),
    }
}

/// Bytes of `2M`.
pub fn page_size(text: &str) -> Result<u64, Impossible> {
    let units = [("K", 10), ("M", 20), ("G", 30)];
    let size = units.iter().find_map(|(unit, shift)| {
        let digits: u64 = text.strip_suffix(unit)?.parse().ok()?;
        digits.checked_mul(1 << shift).filter(|size| size.is_power_of_two())
    });
    size.ok_or_else(|| Impossible {
        limit: "a page size: 64K, 2M, 1G".into(),
        hint: "write a power of two and K, M or G".into(),
    })
}

impl FromStr for Crossing {
    type Err = Impossible;
    fn from_str(text: &str) -> Result<Self, Impossible> {
        match text {
            "switch" => Ok(Self::Switch),
            "root" => Ok(Self::Root),
            "node" => Ok(Self::Node),
            _ => Err(Impossible {
                limit: "switch, root or node".into(),
                hint: "leave it out for as near as there is".into(),
            }),
        }
    }
}

impl FromStr for Policy {
    type Err = Impossible;
    fn from_str(text: &str) -> Result<Self, Impossible> {
        let all = [Self::None, Self::BestEffort, Self::Restricted, Self::SingleNumaNode];
        let mut all = all.into_iter().chain([Self::Optimal]);
        all.find(|policy| policy.name() == text).ok_or_else(|| Impossible {
            limit: "none, best-effort, restricted, single-numa-node or optimal".into(),
            hint: "optimal takes the best there is now; the others are kubelet's".into(),
        })
    }
}

impl Policy {
    /// As documents and annotations have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::BestEffort => "best-effort",
            Self::Restricted => "restricted",
            Self::SingleNumaNode => "single-numa-node",
            Self::Optimal => "optimal",
        }
    }
}
