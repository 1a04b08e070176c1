//! `purlin hw list` in the guest against what QEMU was told.

use std::sync::OnceLock;

use purlin_tests::{Lab, Result, ensure, lab::Test, test};
use serde_json::{Value, json};

use crate::machine::{
    BANDWIDTH_MIB_S, CPUS, DISTANCES, E1000E, LATENCY_NS, MEMORY_MIB, MEMORY_SIDE_CACHE_KIB,
    NEAREST, NVME, NVME_VFS, VIRTIO, boot,
};

/// What the kernel keeps for itself is in no node's total.
const KERNEL_MIB: u64 = 128;
const MIB: u64 = 1 << 20;

pub fn tests() -> Vec<Test> {
    vec![
        test("cpus_are_in_the_packages_dies_and_nodes_they_were_put_in", 300, cpus),
        test("numa_nodes_tell_memory_distances_hmat_and_memory_side_cache", 300, numa),
        test("nics_are_on_their_nodes", 300, nics),
        test("nvme_controllers_and_disks_are_on_their_nodes", 300, nvmes),
        test("the_dimm_is_as_smbios_tells_it", 300, dimm),
        test("identity_bmc_tpm_and_watchdog_are_told", 300, platform),
        test("nothing_else_is_a_problem", 300, problems),
        test("virtual_functions_are_told_from_their_physical_one", 300, virtual_functions),
    ]
}

/// Read once, in one guest, for all tests.
fn inventory(lab: &Lab) -> Result<&'static Value> {
    static READ: OnceLock<std::result::Result<Value, String>> = OnceLock::new();
    let read = || {
        let mut guest = boot(lab)?;
        guest.purlin("hw list")
    };
    let read = READ.get_or_init(|| read().map_err(|e| e.message().unwrap_or("failed").to_owned()));
    Ok(read.as_ref()?)
}

fn cpus(lab: &Lab) -> Result {
    let cpu = &inventory(lab)?["cpu"];
    same(cpu, &json!({"possible": "0-7", "present": "0-6", "online": "0-6"}))?;
    let groups = |kind: &str| -> Vec<&Value> {
        let groups = cpu["groups"].as_array().into_iter().flatten();
        groups.filter(|group| group["kind"] == kind).map(|group| &group["pus"]).collect()
    };
    ensure!(groups("package") == ["0-3", "4-6"], "packages: {:?}", groups("package"));
    ensure!(groups("die") == ["0-1", "2-3", "4-5", "6"], "dies: {:?}", groups("die"));
    ensure!(groups("core").len() == 7, "cores: {:?}", groups("core"));
    let nodes = json!([0, 0, 1, 1, 2, 2, 3]);
    let found: Value = array(&cpu["pus"]).map(|pu| pu["node"].clone()).collect();
    same(&found, &nodes)
}

fn numa(lab: &Lab) -> Result {
    let nodes = &inventory(lab)?["numa"];
    for (id, told) in MEMORY_MIB.iter().enumerate() {
        let node = find(nodes, "id", id)?;
        let memory = node["memory"].as_u64().unwrap_or_default() / MIB;
        ensure!((told - KERNEL_MIB..=*told).contains(&memory), "node {id}: {memory} of {told} MiB");
        let distances = DISTANCES[id].iter().enumerate();
        let distances: Value = distances.map(|(to, far)| (to.to_string(), json!(far))).collect();
        let (latency, bandwidth) = (LATENCY_NS[id], BANDWIDTH_MIB_S[id]);
        let access = json!({
            "initiators": NEAREST[id].to_string(),
            "read_latency_ns": latency,
            "write_latency_ns": latency,
            "read_bandwidth_mb_s": bandwidth,
            "write_bandwidth_mb_s": bandwidth,
        });
        same(node, &json!({"distances": distances, "access": {"0": access, "1": access}}))?;
        // CPU 7 isn't there yet.
        let cpus = CPUS.get(id).map_or("", |cpus| if *cpus == "6-7" { "6" } else { cpus });
        let last = id == CPUS.len();
        let size = MEMORY_SIDE_CACHE_KIB << 10;
        let cache = json!({"level": 1, "size": size, "line": 64, "direct_mapped": true});
        same(
            node,
            &json!({
                "cpus": cpus,
                "flags": if last { json!(["cpu_less"]) } else { json!([]) },
                "caches": if last { json!([cache]) } else { json!([]) },
            }),
        )?;
    }
    ensure!(array(nodes).count() == MEMORY_MIB.len(), "more nodes: {nodes}");
    Ok(())
}

fn nics(lab: &Lab) -> Result {
    let inventory = inventory(lab)?;
    for (mac, driver, node) in [(E1000E, "e1000e", 1), (VIRTIO, "virtio_net", 3)] {
        let nic = find(&inventory["nics"], "permanent_mac", mac)?;
        same(nic, &json!({"driver": driver, "node": node, "kind": "physical"}))?;
        let function = find(&inventory["pci"], "address", nic["pci"].clone())?;
        same(function, &json!({"node": node, "class": 0x02_0000}))?;
    }
    Ok(())
}

fn nvmes(lab: &Lab) -> Result {
    let inventory = inventory(lab)?;
    for (serial, node) in NVME {
        let storage = &inventory["storage"];
        let disk = find(&storage["disks"], "serial", serial)?;
        same(disk, &json!({"node": node, "size": 1 << 30, "model": "QEMU NVMe Ctrl"}))?;
        let controller = find(&storage["controllers"], "pci", disk["pci"].clone())?;
        same(controller, &json!({"node": node, "driver": "nvme", "nvme": {"serial": serial}}))?;
        let function = find(&inventory["pci"], "address", disk["pci"].clone())?;
        let vfs = if node == 1 { json!({"most": NVME_VFS, "enabled": 0}) } else { Value::Null };
        same(function, &json!({"node": node, "class": 0x01_0802, "sriov": vfs}))?;
    }
    Ok(())
}

fn dimm(lab: &Lab) -> Result {
    let total: u64 = MEMORY_MIB.iter().sum();
    let dimm = json!({
        // QEMU's own way to number what has a prefix.
        "slot": "SLOT_ 0",
        "bank": "BANK_7",
        "size": total * MIB,
        "manufacturer": "Truss",
        "serial": "D-0017",
        "asset_tag": "A-0017",
        "part": "P-3200",
        "speed_rated": 3200,
        "speed_configured": 3200,
    });
    same(&inventory(lab)?["memory"], &json!({"dimms": [dimm], "max_capacity": total * MIB}))
}

fn platform(lab: &Lab) -> Result {
    let told = json!({
        "vendor": "Purlin",
        "product": "Bench",
        "version": "7",
        "serial": "B-0001",
        "board": {"vendor": "Purlin", "product": "Board", "serial": "B-0002"},
        "chassis": {"vendor": "Purlin", "serial": "B-0003", "asset_tag": "A-0003"},
        "firmware": {"vendor": "Truss", "version": "1.25", "date": "07/04/2031"},
        "uefi": false,
        "virtualised": true,
        "hypervisor": "qemu",
        "tpms": [{"name": "tpm0", "version": "2.0"}],
        "watchdogs": [{"name": "watchdog0", "identity": "i6300ESB timer", "state": "inactive"}],
        "bmc": {
            "interface": "KCS", "address": "I/O 0xca2", "ipmi_version": "2.0", "device": "ipmi0",
        },
    });
    same(&inventory(lab)?["platform"], &told)
}

/// QEMU tells no node for its own root bus, and that is said.
fn problems(lab: &Lab) -> Result {
    let problems = &inventory(lab)?["problems"];
    let other = array(problems).filter(|it| it["at"] != "pci0000:00").count();
    ensure!(other == 0, "{problems}");
    Ok(())
}

fn virtual_functions(lab: &Lab) -> Result {
    let mut guest = boot(lab)?;
    let before = guest.purlin("hw list")?;
    let disk = find(&before["storage"]["disks"], "serial", NVME[0].0)?;
    let physical = disk["pci"].as_str().unwrap_or_default();
    let device = format!("/sys/bus/pci/devices/{physical}");
    // Their driver would wait for a controller that nobody brings online.
    guest.output(&format!("echo 0 >{device}/sriov_drivers_autoprobe"))?;
    guest.output(&format!("echo 2 >{device}/sriov_numvfs"))?;
    let after = guest.purlin("hw list")?;
    let function = find(&after["pci"], "address", physical)?;
    same(function, &json!({"sriov": {"most": NVME_VFS, "enabled": 2}}))?;
    let vfs: Vec<_> = array(&after["pci"]).filter(|it| it["physical"] == physical).collect();
    ensure!(vfs.len() == 2, "{vfs:?}");
    vfs.into_iter().try_for_each(|vf| same(vf, &json!({"node": 1, "driver": null})))
}

fn array(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn find<'a>(list: &'a Value, key: &str, value: impl Into<Value>) -> Result<&'a Value> {
    let value = value.into();
    array(list)
        .find(|it| it[key] == value)
        .ok_or_else(|| format!("none with {key} {value} in {list}").into())
}

/// Fails unless `found` has all that `told` has; an object may have more keys.
fn same(found: &Value, told: &Value) -> Result {
    let mut wrong = Vec::new();
    differences("", found, told, &mut wrong);
    ensure!(wrong.is_empty(), "{}\nin {found}", wrong.join("\n"));
    Ok(())
}

fn differences(at: &str, found: &Value, told: &Value, wrong: &mut Vec<String>) {
    match (found, told) {
        (_, Value::Object(keys)) => {
            for (key, told) in keys {
                differences(&format!("{at}/{key}"), &found[key], told, wrong);
            }
        }
        (Value::Array(found), Value::Array(told)) if found.len() == told.len() => {
            for (index, (found, told)) in found.iter().zip(told).enumerate() {
                differences(&format!("{at}/{index}"), found, told, wrong);
            }
        }
        _ if found == told => {}
        _ => wrong.push(format!("{at} is {found}, QEMU was told {told}")),
    }
}
