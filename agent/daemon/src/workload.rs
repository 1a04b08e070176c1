//! Workloads and profiles as documents have them: from the wire to the core's own types.

use purlin_core::{
    place::request::Request,
    settings::{PlacementDraft, ProfileDraft, Refusal, WorkloadDraft},
};
use purlin_proto::{api, v1};

use crate::document::{self, Format};

/// Reads a document of this media type, with every reason for refusing it.
pub fn read(media_type: &str, bytes: &[u8]) -> Result<Request, Vec<api::Refusal>> {
    parse(Format::of_media_type(media_type).unwrap_or(Format::Toml), bytes)
}

/// The same, of this format.
pub(crate) fn parse(format: Format, bytes: &[u8]) -> Result<Request, Vec<api::Refusal>> {
    let descriptor = document::descriptor("Workload");
    let (workload, mut refusals) = document::parse::<v1::Workload>(descriptor, format, bytes);
    let wishes = draft(workload).check("", &mut refusals);
    if refusals.is_empty() {
        match wishes.request(Default::default()) {
            Ok(request) => return Ok(request),
            Err(why) => refusals.push(Refusal {
                path: "the document".into(),
                value: String::new(),
                limit: "wishes that agree with each other".into(),
                hint: why,
            }),
        }
    }
    Err(refusals.into_iter().map(document::refusal_view).collect())
}

/// How containers are placed, from the wire to the core's own type.
pub fn placement(placement: v1::Placement) -> PlacementDraft {
    let profile = |(name, it): (String, v1::Profile)| {
        let profile = ProfileDraft {
            image: it.image,
            container: it.container,
            namespace: it.namespace,
            labels: it.labels.into_iter().collect(),
            annotations: it.annotations.into_iter().collect(),
            workload: it.workload.map(draft).unwrap_or_default(),
        };
        (name, profile)
    };
    PlacementDraft {
        enabled: placement.enabled,
        reserved_cpus: placement.reserved_cpus,
        policy: placement.policy,
        fail_open: placement.fail_open,
        profiles: placement.profiles.into_iter().map(profile).collect(),
        repack_mib: placement.repack_mib,
        interrupts: placement.interrupts,
        move_mib: placement.move_mib,
    }
}

fn draft(workload: v1::Workload) -> WorkloadDraft {
    WorkloadDraft {
        exclusive_cpus: workload.exclusive_cpus,
        full_cores: workload.full_cores,
        shared_millicpus: workload.shared_millicpus,
        memory_mib: workload.memory_mib,
        far_memory: workload.far_memory,
        hugepages_mib: workload.hugepages_mib.into_iter().collect(),
        devices: workload.devices.into_iter().collect(),
        near: workload.near,
        policy: workload.policy,
        isolated: workload.isolated,
        priority: workload.priority,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use purlin_core::place::{
        machine::Crossing,
        request::{Cpus, Smt},
    };

    use super::*;

    #[test]
    fn a_workload_is_read_whole() {
        let text = "exclusive_cpus = 4\nfull_cores = true\nmemory_mib = 2048\n\
                    hugepages_mib = { \"2M\" = 512 }\ndevices = { gpu = 1 }\nnear = \"switch\"\n";
        let request = read("application/toml", text.as_bytes()).expect("a valid workload");
        let expected = Request {
            cpus: Cpus::Exclusive { count: 4, smt: Smt::FullCores },
            memory: 2 << 30,
            hugepages: BTreeMap::from([(2 << 20, 512 << 20)]),
            devices: BTreeMap::from([("gpu".into(), 1)]),
            near: Some(Crossing::Switch),
            ..Request::default()
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let text = "exclusive_cpus = 20000\nshared_millicpus = 1\nhugepages_mib = { two = 1 }\n\
                    near = \"by\"\npolicy = \"best\"\ncpu = 1\n";
        let refusals = read("application/toml", text.as_bytes()).expect_err("nothing is right");
        let paths: Vec<&str> = refusals.iter().map(|it| it.path.as_str()).collect();
        let expected =
            ["cpu", "shared_millicpus", "exclusive_cpus", "hugepages_mib", "near", "policy"];
        assert_eq!(paths, expected);
    }
}
