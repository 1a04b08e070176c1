//! A workload's document, read and checked: from the wire to what the core places.

use std::collections::BTreeMap;

use purlin_core::{
    idset::MAX_ID,
    place::{
        machine::Crossing,
        request::{Cpus, Policy, Request, Smt},
    },
    settings::Refusal,
};
use purlin_proto::{api, v1};

use crate::document::{self, Format};

/// Reads a document of this media type, with every reason for refusing it.
pub fn read(media_type: &str, bytes: &[u8]) -> Result<Request, Vec<api::Refusal>> {
    let format = Format::of_media_type(media_type).unwrap_or(Format::Toml);
    let descriptor = document::descriptor("Workload");
    let (workload, mut refusals) = document::parse::<v1::Workload>(descriptor, format, bytes);
    let request = check(&workload, &mut refusals);
    match refusals.is_empty() {
        true => Ok(request),
        false => Err(refusals.into_iter().map(document::refusal_view).collect()),
    }
}

fn check(workload: &v1::Workload, refusals: &mut Vec<Refusal>) -> Request {
    let mut refuse = |path: &str, value: &str, limit: &str, hint: &str| {
        let [path, value, limit, hint] = [path, value, limit, hint].map(str::to_owned);
        refusals.push(Refusal { path, value, limit, hint });
    };
    if workload.exclusive_cpus.is_some() && workload.shared_millicpus.is_some() {
        let hint = "leave one of the two out";
        refuse("shared_millicpus", "beside exclusive_cpus", "one of the two", hint);
    }
    if let Some(count) = workload.exclusive_cpus.filter(|count| !(1..=MAX_ID).contains(count)) {
        refuse("exclusive_cpus", &count.to_string(), "1 to 16383", "");
    }
    let smt = if workload.full_cores() { Smt::FullCores } else { Smt::Any };
    let mut hugepages = BTreeMap::new();
    for (size, mib) in &workload.hugepages_mib {
        match page_size(size) {
            Some(size) => _ = hugepages.insert(size, mib.saturating_mul(1 << 20)),
            None => refuse("hugepages_mib", size, "a page size: 64K, 2M, 1G", ""),
        }
    }
    let near = match workload.near.as_deref() {
        None => None,
        Some("switch") => Some(Crossing::Switch),
        Some("root") => Some(Crossing::Root),
        Some("node") => Some(Crossing::Node),
        Some(other) => {
            refuse("near", other, "switch, root or node", "");
            None
        }
    };
    let policy = match workload.policy.as_deref() {
        None | Some("optimal") => Policy::Optimal,
        Some("none") => Policy::None,
        Some("best-effort") => Policy::BestEffort,
        Some("restricted") => Policy::Restricted,
        Some("single-numa-node") => Policy::SingleNumaNode,
        Some(other) => {
            let limit = "none, best-effort, restricted, single-numa-node or optimal";
            refuse("policy", other, limit, "");
            Policy::Optimal
        }
    };
    Request {
        cpus: match workload.exclusive_cpus {
            Some(count) => Cpus::Exclusive { count: count as usize, smt },
            None => Cpus::Shared { milli: workload.shared_millicpus().into() },
        },
        memory: workload.memory_mib().saturating_mul(1 << 20),
        far_memory: workload.far_memory(),
        hugepages,
        devices: workload
            .devices
            .iter()
            .map(|(kind, count)| (kind.clone(), *count as usize))
            .collect(),
        given: Vec::new(),
        near,
        policy,
    }
}

/// Bytes of `2M`.
fn page_size(text: &str) -> Option<u64> {
    let units = [("K", 10), ("M", 20), ("G", 30)];
    let (digits, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    digits.parse::<u64>().ok()?.checked_shl(shift).filter(|size| size.is_power_of_two())
}

#[cfg(test)]
mod tests {
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
        let text = "exclusive_cpus = 0\nshared_millicpus = 1\nhugepages_mib = { two = 1 }\n\
                    near = \"by\"\npolicy = \"best\"\ncpu = 1\n";
        let refusals = read("application/toml", text.as_bytes()).expect_err("nothing is right");
        let paths: Vec<&str> = refusals.iter().map(|it| it.path.as_str()).collect();
        let expected =
            ["cpu", "shared_millicpus", "exclusive_cpus", "hugepages_mib", "near", "policy"];
        assert_eq!(paths, expected);
    }
}
