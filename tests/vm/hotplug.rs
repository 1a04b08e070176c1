//! Hot-plug over QMP while the agent runs in the guest: what the kernel tells and
//! when, against the event that the agent makes of it and when.

use std::time::Duration;

use purlin_tests::{Guest, Lab, Result, ensure, lab::Test, test, wait};
use serde_json::json;

use crate::machine::{HOT_DISK, SPARE, boot};

/// The most an event may come after the kernel's, in seconds, on emulated CPUs.
const LATEST_S: f64 = 10.0;
/// What is aimed at.
const AIM_S: f64 = 2.0;
/// An unplugged device blinks for five seconds before the kernel lets it go.
const PLUG: Duration = Duration::from_secs(60);
const READY: Duration = Duration::from_secs(90);
const DAY_S: f64 = 86_400.0;

pub fn tests() -> Vec<Test> {
    vec![
        test("what_is_plugged_in_or_out_is_an_event_within_seconds", 600, plugged),
        test("a_whole_class_that_vanishes_is_a_readers_fault", 300, reader_fault),
    ]
}

/// A guest whose agent has seen the machine once.
fn watched(lab: &Lab) -> Result<Guest> {
    let mut guest = boot(lab)?;
    guest.output("purlin agent >/tmp/agent.log 2>&1 &")?;
    logged(&mut guest, READY, &["the accepted hardware from now on"])?;
    Ok(guest)
}

fn plugged(lab: &Lab) -> Result {
    let mut guest = watched(lab)?;

    // The type's name is the -cpu of the machine.
    let free = guest.qmp("query-hotpluggable-cpus", json!({}))?;
    let free = free.as_array().into_iter().flatten().find(|cpu| cpu["qom-path"].is_null());
    let cpu = free.ok_or("no room for a CPU")?;
    let mut slot = cpu["props"].clone();
    slot["driver"] = cpu["type"].clone();
    let began = now(&mut guest)?;
    guest.qmp("device_add", slot)?;
    told(&mut guest, "a CPU appears", began, "add cpu", &["present was 0-6, is 0-7"])?;
    told(&mut guest, "it is online", began, "online cpu", &["online was 0-6, is 0-7"])?;

    let began = now(&mut guest)?;
    let backend = json!({"qom-type": "memory-backend-ram", "id": "hot", "size": 512 << 20});
    guest.qmp("object-add", backend)?;
    guest.qmp(
        "device_add",
        json!({"driver": "pc-dimm", "id": "dimm", "memdev": "hot", "node": 2}),
    )?;
    told(&mut guest, "a DIMM appears", began, "add memory", &["NUMA node 2: memory was"])?;

    let began = now(&mut guest)?;
    let nic = json!({"driver": "virtio-net-pci", "id": "nic", "bus": SPARE[0], "romfile": ""});
    guest.qmp("device_add", nic)?;
    told(&mut guest, "a NIC appears", began, "add net", &["NIC eth2", "appeared"])?;

    let began = now(&mut guest)?;
    guest.qmp("device_del", json!({"id": "nic"}))?;
    told(&mut guest, "a NIC vanishes", began, "remove net", &["NIC eth2", "vanished"])?;

    let began = now(&mut guest)?;
    let nvme = json!({"driver": "nvme", "bus": SPARE[1], "serial": HOT_DISK, "drive": "hot"});
    guest.qmp("device_add", nvme)?;
    told(&mut guest, "a disk appears", began, "add block", &["disk nvme2n1", "appeared"])?;
    Ok(())
}

/// Nothing was removed, as the kernel knows; the class just reads as empty.
fn reader_fault(lab: &Lab) -> Result {
    let mut guest = watched(lab)?;
    let wake = "echo change >/sys/devices/virtual/net/lo/uevent";
    guest.output(&format!("mount -t tmpfs none /sys/class/net && {wake} && sleep 2 && {wake}"))?;
    logged(&mut guest, PLUG, &["hw.reader_fault", "NIC"])?;
    guest.output(&format!("umount /sys/class/net && {wake}"))?;
    logged(&mut guest, PLUG, &["hw.reader_back", "NIC"])?;
    let vanished = guest.run("grep hw.vanished /tmp/agent.log")?;
    ensure!(vanished.code == 1, "told as gone: {vanished:?}");
    Ok(())
}

/// Waits for the event, then measures it from the kernel's first of that kind.
fn told(guest: &mut Guest, what: &str, began: f64, kernel: &str, words: &[&str]) -> Result {
    let line = logged(guest, PLUG, words).map_err(|e| format!("{what}: {e:?}"))?;
    let event = second_of_the_day(&line).ok_or_else(|| format!("no time in: {line}"))?;
    let uevents = guest.output("cat /tmp/uevents")?;
    let uevent = uevents.lines().find_map(|line| {
        let (time, rest) = line.split_once(' ')?;
        let time: f64 = time.parse().ok()?;
        (time >= began && rest.starts_with(kernel)).then_some(time)
    });
    let uevent = uevent.ok_or_else(|| format!("{what}: no {kernel} in\n{uevents}"))?;
    let late = after(uevent, event);
    let whole = after(began, event);
    println!(
        "{what}: {late:.2} s after the kernel's event (aim {AIM_S} s), \
         {whole:.2} s after QEMU was asked"
    );
    ensure!(late <= LATEST_S, "{what}: {late:.2} s after the kernel's event, over {LATEST_S} s");
    Ok(())
}

/// Seconds from `earlier` to `later`, which may be known within its day only.
fn after(earlier: f64, later: f64) -> f64 {
    // Half a day either side: a clock that ran backwards must not look like a day.
    (later - earlier + DAY_S / 2.0).rem_euclid(DAY_S) - DAY_S / 2.0
}

/// The guest's Unix time.
fn now(guest: &mut Guest) -> Result<f64> {
    let now = guest.output("echo | ts %.s")?;
    Ok(now.trim().parse().map_err(|e| format!("{now:?}: {e}"))?)
}

/// The first line of the agent's log with all `words`.
fn logged(guest: &mut Guest, deadline: Duration, words: &[&str]) -> Result<String> {
    wait::until(&format!("the agent says {words:?}"), deadline, || {
        let log = guest.output("cat /tmp/agent.log").map_err(|e| format!("{e:?}"))?;
        let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
        line.map(str::to_owned).ok_or(log)
    })
}

/// Of a line that begins as RFC 3339 in UTC: `2026-11-23T22:37:43.992333Z`.
fn second_of_the_day(line: &str) -> Option<f64> {
    let (_, time) = line.split_once('T')?;
    let mut parts = time.split_once('Z')?.0.splitn(3, ':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    Some(next()? * 3600.0 + next()? * 60.0 + next()?)
}
