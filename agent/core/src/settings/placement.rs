//! The settings of placement, and the workloads that profiles hold.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::{Desired, Origin, Refusal, Setting};
use crate::{
    idset::{IdSet, MAX_ID},
    place::{
        book::Rules,
        container::Texts,
        request::Policy,
        source::Profile,
        wishes::{MAX_PRIORITY, Wishes, page_size},
    },
};

/// Profiles, at most: more than a node has kinds of containers.
pub const MAX_PROFILES: usize = 256;

/// Memory that one move may have to move unless told otherwise: some seconds of it.
const MOVE_MIB: u64 = 4096;

/// A workload as it stands in a document, unchecked.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each field is documented in proto/purlin/v1/placement.proto")]
pub struct WorkloadDraft {
    pub exclusive_cpus: Option<u32>,
    pub full_cores: Option<bool>,
    pub shared_millicpus: Option<u32>,
    pub memory_mib: Option<u64>,
    pub far_memory: Option<bool>,
    pub hugepages_mib: BTreeMap<String, u64>,
    pub devices: BTreeMap<String, u32>,
    pub near: Option<String>,
    pub policy: Option<String>,
    pub isolated: Option<bool>,
    pub priority: Option<u32>,
}

/// A profile as it stands in a document.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "as above")]
pub struct ProfileDraft {
    pub image: Option<String>,
    pub container: Option<String>,
    pub namespace: Option<String>,
    pub labels: Texts,
    pub annotations: Texts,
    pub workload: WorkloadDraft,
}

/// All of it as it stands in a document.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "as above")]
pub struct PlacementDraft {
    pub enabled: Option<bool>,
    pub reserved_cpus: Option<String>,
    pub policy: Option<String>,
    pub fail_open: Option<bool>,
    pub profiles: BTreeMap<String, ProfileDraft>,
    pub repack_mib: Option<u64>,
    pub interrupts: Option<bool>,
    pub move_mib: Option<u64>,
}

/// What a document says, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    enabled: Option<bool>,
    reserved: Option<IdSet>,
    policy: Option<Policy>,
    fail_open: Option<bool>,
    profiles: BTreeMap<String, Profile>,
    repack_mib: Option<u64>,
    interrupts: Option<bool>,
    move_mib: Option<u64>,
}

/// Every setting of placement in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Containers are placed.
    pub enabled: Setting<bool>,
    /// PUs that no container gets for itself alone; `None`: the first core of each node.
    pub reserved: Setting<Option<IdSet>>,
    /// The policy of workloads that name none.
    pub policy: Setting<Policy>,
    /// One that can't be placed is created all the same.
    pub fail_open: Setting<bool>,
    /// Profiles by name, and the document they are of.
    pub profiles: Setting<BTreeMap<String, Profile>>,
    /// Memory that may be moved to make room, in MiB.
    pub repack_mib: Setting<u64>,
    /// Interrupts are kept off exclusive CPUs.
    pub interrupts: Setting<bool>,
    /// Memory that one move may have to move, in MiB.
    pub move_mib: Setting<u64>,
}

pub(super) fn check(draft: &PlacementDraft, refusals: &mut Vec<Refusal>) -> Wanted {
    let reserved = match draft.reserved_cpus.as_deref() {
        Some("none") => Some(IdSet::default()),
        Some(list) => IdSet::parse(list)
            .map_err(|why| {
                let limit = "a list of CPUs such as 0-1,16, or none";
                refuse(refusals, "placement.reserved_cpus", list, limit, &why);
            })
            .ok(),
        None => None,
    };
    if draft.profiles.len() > MAX_PROFILES {
        let count = draft.profiles.len().to_string();
        let limit = format!("at most {MAX_PROFILES} profiles");
        refuse(refusals, "placement.profiles", &count, &limit, "match more with each of them");
    }
    Wanted {
        enabled: draft.enabled,
        reserved,
        policy: super::parsed("placement.policy", &draft.policy, refusals),
        fail_open: draft.fail_open,
        profiles: draft
            .profiles
            .iter()
            .map(|(name, profile)| (name.clone(), check_profile(name, profile, refusals)))
            .collect(),
        repack_mib: draft.repack_mib,
        interrupts: draft.interrupts,
        move_mib: draft.move_mib,
    }
}

fn check_profile(name: &str, draft: &ProfileDraft, refusals: &mut Vec<Refusal>) -> Profile {
    let path = format!("placement.profiles.{name}");
    let ProfileDraft { image, container, namespace, labels, annotations, workload } = draft.clone();
    let named = image.is_some() || container.is_some() || namespace.is_some();
    if !named && labels.is_empty() && annotations.is_empty() {
        let limit = "an image, container, namespace, label or annotation to match";
        refuse(refusals, &path, "matches nothing", limit, "container = \"*\" matches any");
    }
    let wishes = workload.check(&format!("{path}.workload."), refusals);
    Profile { image, container, namespace, labels, annotations, wishes }
}

impl WorkloadDraft {
    /// Checks it; every reason for refusing it names a place below `path`.
    pub fn check(&self, path: &str, refusals: &mut Vec<Refusal>) -> Wishes {
        let at = |name: &str| format!("{path}{name}");
        if self.exclusive_cpus.is_some() && self.shared_millicpus.is_some() {
            let hint = "leave one of the two out";
            let path = at("shared_millicpus");
            refuse(refusals, &path, "beside exclusive_cpus", "one of the two", hint);
        }
        if let Some(count) = self.exclusive_cpus.filter(|count| *count > MAX_ID) {
            let hint = "0 shares them after all";
            let limit = format!("0 to {MAX_ID}");
            refuse(refusals, &at("exclusive_cpus"), &count.to_string(), &limit, hint);
        }
        let mut hugepages = BTreeMap::new();
        for (size, mib) in &self.hugepages_mib {
            match page_size(size) {
                Ok(size) => _ = hugepages.insert(size, bytes(*mib)),
                Err(why) => refuse(refusals, &at("hugepages_mib"), size, &why.limit, &why.hint),
            }
        }
        let wishes = Wishes {
            exclusive_cpus: self.exclusive_cpus,
            full_cores: self.full_cores,
            shared_millicpus: self.shared_millicpus,
            memory: self.memory_mib.map(bytes),
            far_memory: self.far_memory,
            hugepages,
            devices: (self.devices.iter())
                .map(|(kind, count)| (kind.clone(), *count as usize))
                .collect(),
            near: super::parsed(&at("near"), &self.near, refusals),
            policy: super::parsed(&at("policy"), &self.policy, refusals),
            isolated: self.isolated,
            priority: self.priority,
            ..Wishes::default()
        };
        if let Some(priority) = self.priority.filter(|it| *it > MAX_PRIORITY) {
            let limit = format!("0 to {MAX_PRIORITY}");
            refuse(refusals, &at("priority"), &priority.to_string(), &limit, "more matters more");
        }
        if self.isolated == Some(true) && self.exclusive_cpus.unwrap_or(0) == 0 {
            let limit = "isolated only with exclusive_cpus";
            refuse(refusals, &at("isolated"), "true", limit, "ask for exclusive_cpus too");
        }
        wishes
    }
}

/// Of MiB; what no machine has is not refused here, but nowhere to be had.
fn bytes(mib: u64) -> u64 {
    mib.saturating_mul(1 << 20)
}

fn refuse(refusals: &mut Vec<Refusal>, path: &str, value: &str, limit: &str, hint: &str) {
    let [path, value, limit, hint] = [path, value, limit, hint].map(str::to_string);
    refusals.push(Refusal { path, value, limit, hint });
}

impl Placement {
    pub(super) fn resolve(desired: &Desired) -> Self {
        let wanted = &desired.placement;
        let profiles = Some(wanted.profiles.clone()).filter(|profiles| !profiles.is_empty());
        Self {
            enabled: desired.setting(wanted.enabled, None, true),
            reserved: desired.setting(wanted.reserved.clone().map(Some), None, None),
            policy: desired.setting(wanted.policy, None, Policy::default()),
            fail_open: desired.setting(wanted.fail_open, None, false),
            profiles: desired.setting(profiles, None, BTreeMap::new()),
            repack_mib: desired.setting(wanted.repack_mib, None, 0),
            interrupts: desired.setting(wanted.interrupts, None, true),
            move_mib: desired.setting(wanted.move_mib, None, MOVE_MIB),
        }
    }

    /// What decisions go by, as far as settings say.
    pub fn rules(&self) -> Rules {
        Rules {
            enabled: self.enabled.value,
            reserved: self.reserved.value.clone(),
            policy: self.policy.value,
            fail_open: self.fail_open.value,
            profiles: self.profiles.value.clone(),
            repack: bytes(self.repack_mib.value),
            kubelet: None,
        }
    }

    pub(super) fn rows(&self) -> Vec<(String, String, &Origin)> {
        let reserved = match &self.reserved.value {
            None => "a core of each node".into(),
            Some(cpus) if cpus.is_empty() => "none".into(),
            Some(cpus) => cpus.to_string(),
        };
        let names: Vec<&str> = self.profiles.value.keys().map(String::as_str).collect();
        let names = if names.is_empty() { "none".into() } else { names.join(", ") };
        [
            ("enabled", self.enabled.value.to_string(), &self.enabled.origin),
            ("reserved_cpus", reserved, &self.reserved.origin),
            ("policy", self.policy.value.name().into(), &self.policy.origin),
            ("fail_open", self.fail_open.value.to_string(), &self.fail_open.origin),
            ("profiles", names, &self.profiles.origin),
            ("repack_mib", self.repack_mib.value.to_string(), &self.repack_mib.origin),
            ("interrupts", self.interrupts.value.to_string(), &self.interrupts.origin),
            ("move_mib", self.move_mib.value.to_string(), &self.move_mib.origin),
        ]
        .map(|(name, value, origin)| (format!("placement.{name}"), value, origin))
        .into()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::settings::{Draft, Reader, Settings, Start};

    const READER: Reader<'_> = Reader { node: "n1", agent: "0.1.0", maps: &[] };

    #[test]
    fn every_reason_is_told_at_once() {
        let profile = ProfileDraft {
            workload: WorkloadDraft {
                exclusive_cpus: Some(20_000),
                shared_millicpus: Some(1),
                hugepages_mib: [("two".into(), 1)].into(),
                near: Some("by".into()),
                policy: Some("best".into()),
                ..WorkloadDraft::default()
            },
            ..ProfileDraft::default()
        };
        let isolated = WorkloadDraft { isolated: Some(true), ..WorkloadDraft::default() };
        let alone =
            ProfileDraft { image: Some("*".into()), workload: isolated, ..ProfileDraft::default() };
        let placement = PlacementDraft {
            reserved_cpus: Some("0-x".into()),
            policy: Some("strict".into()),
            profiles: [("a".into(), profile), ("b".into(), alone)].into(),
            ..PlacementDraft::default()
        };
        let draft = Draft { placement, ..Draft::default() };
        let refusals = crate::settings::check(&draft, &READER).expect_err("nothing is right");
        let line =
            |r: &Refusal| format!("{}: {} (may be {}; {})\n", r.path, r.value, r.limit, r.hint);
        let shown: String = refusals.iter().map(line).collect();
        expect![[r#"
            placement.reserved_cpus: 0-x (may be a list of CPUs such as 0-1,16, or none; "x" is not an id)
            placement.policy: strict (may be none, best-effort, restricted, single-numa-node or optimal; optimal takes the best there is now; the others are kubelet's)
            placement.profiles.a: matches nothing (may be an image, container, namespace, label or annotation to match; container = "*" matches any)
            placement.profiles.a.workload.shared_millicpus: beside exclusive_cpus (may be one of the two; leave one of the two out)
            placement.profiles.a.workload.exclusive_cpus: 20000 (may be 0 to 16383; 0 shares them after all)
            placement.profiles.a.workload.hugepages_mib: two (may be a page size: 64K, 2M, 1G; write a power of two and K, M or G)
            placement.profiles.a.workload.near: by (may be switch, root or node; leave it out for as near as there is)
            placement.profiles.a.workload.policy: best (may be none, best-effort, restricted, single-numa-node or optimal; optimal takes the best there is now; the others are kubelet's)
            placement.profiles.b.workload.isolated: true (may be isolated only with exclusive_cpus; ask for exclusive_cpus too)
        "#]].assert_eq(&shown);
    }

    #[test]
    fn what_a_document_says_are_the_rules() {
        let workload = WorkloadDraft { exclusive_cpus: Some(2), ..WorkloadDraft::default() };
        let image = Some("*/postgres:*".into());
        let profile = ProfileDraft { image, workload, ..ProfileDraft::default() };
        let placement = PlacementDraft {
            reserved_cpus: Some("none".into()),
            policy: Some("restricted".into()),
            profiles: [("db".into(), profile)].into(),
            ..PlacementDraft::default()
        };
        let draft = Draft { placement, version: 7, ..Draft::default() };
        let desired = crate::settings::check(&draft, &READER).expect("a valid document");
        let settings = Settings::resolve(&Start::default(), Some(&desired)).placement;
        let rules = settings.rules();
        assert_eq!((rules.reserved, rules.policy), (Some(IdSet::default()), Policy::Restricted));
        assert_eq!(rules.profiles["db"].wishes.exclusive_cpus, Some(2));
        let rows: String = (settings.rows().iter())
            .map(|(path, value, origin)| format!("{path} = {value} ({origin})\n"))
            .collect();
        expect![[r#"
            placement.enabled = true (default)
            placement.reserved_cpus = none (desired version 7)
            placement.policy = restricted (desired version 7)
            placement.fail_open = false (default)
            placement.profiles = db (desired version 7)
            placement.repack_mib = 0 (default)
            placement.interrupts = true (default)
            placement.move_mib = 4096 (default)
        "#]]
        .assert_eq(&rows);
    }
}
