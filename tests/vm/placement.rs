//! Containers in a guest with four NUMA nodes and cgroup v2, made by runc through
//! `purlin oci-runtime`: where their memory really is, where their NIC is, and what stays
//! true while neighbours come and go. All of it is read from the kernel's own files.

use std::{collections::BTreeMap, fs::File, time::Duration};

use purlin_tests::{
    Guest, Lab, Result, ensure,
    guest::{NEWER, ROOT_BUS},
    lab::Test,
    test, wait,
};
use serde_json::{Value, json};

/// Each node has two CPUs: node 2 has 4 and 5.
const NODES: u32 = 4;
/// The node of the only NIC.
const NIC_NODE: u32 = 2;
/// What a process takes and keeps, in MiB.
const TAKEN_MIB: u64 = 32;
const PAGES: u64 = TAKEN_MIB << 20 >> 12;
/// A guest's CPUs are emulated, all eight on what the host has left.
const SOON: Duration = Duration::from_secs(60);
/// A container that was told of need not have a cgroup for a minute.
const FORGOTTEN: Duration = Duration::from_secs(150);
const CGROUPS: &str = "/sys/fs/cgroup/box";

pub fn tests() -> Vec<Test> {
    vec![
        test("cpus_memory_and_nic_are_on_the_node_that_was_asked_for", 400, placed),
        test("what_was_given_stays_so_while_neighbours_come_and_go", 700, kept),
    ]
}

fn boot(lab: &Lab) -> Result<Guest> {
    File::create(lab.dir().join("disk"))?.set_len(64 << 20)?;
    let mut words: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
    add("-machine", "q35".into());
    add("-smp", "8,sockets=4,cores=2,threads=1".into());
    add("-m", "2048M".into());
    for node in 0..NODES {
        add("-object", format!("memory-backend-ram,id=m{node},size=512M"));
        let cpus = format!("cpus={}-{}", node * 2, node * 2 + 1);
        add("-numa", format!("node,nodeid={node},memdev=m{node},{cpus}"));
    }
    for (node, bus) in [(1, 32), (NIC_NODE, 64)] {
        let bridge = format!("pxb-pcie,id=pxb{node},bus={ROOT_BUS},bus_nr={bus},numa_node={node}");
        add("-device", bridge);
        add("-device", format!("pcie-root-port,id=port{node},bus=pxb{node},chassis=1,slot={node}"));
    }
    add("-netdev", "hubport,id=net,hubid=1".into());
    add("-device", format!("e1000e,bus=port{NIC_NODE},netdev=net,romfile="));
    let disk = lab.dir().join("disk");
    add("-drive", format!("file={},if=none,id=disk,format=raw", disk.display()));
    add("-device", "nvme,serial=PURLIN,bus=port1,drive=disk".into());
    let mut guest = Guest::boot(lab, &NEWER, &words)?;
    guest.output(&format!(
        "mount -t cgroup2 none /sys/fs/cgroup && mkdir -p {CGROUPS} /etc/purlin /tmp/rootfs/bin \
         /tmp/rootfs/proc && cp /bin/busybox /tmp/rootfs/bin && : >/etc/purlin/purlin.toml"
    ))?;
    start(&mut guest)?;
    Ok(guest)
}

fn start(guest: &mut Guest) -> Result {
    guest.output("purlin agent >>/tmp/agent.log 2>&1 &")?;
    logged(guest, "planned").map(drop)
}

/// The first line of the agent's log that has this in it.
fn logged(guest: &mut Guest, word: &str) -> Result<String> {
    wait::until(&format!("the agent says {word}"), SOON, || {
        let log = guest.output("cat /tmp/agent.log").map_err(|e| format!("{e:?}"))?;
        log.lines().find(|line| line.contains(word)).map(str::to_owned).ok_or(log)
    })
}

/// Makes a container whose process is `sh -c SCRIPT`.
fn make(guest: &mut Guest, id: &str, script: &str, wishes: &[(&str, &str)]) -> Result {
    let annotations: Value =
        wishes.iter().map(|(key, value)| (format!("purlin.dev/{key}"), json!(value))).collect();
    let specification = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/busybox", "sh", "-c", script],
            "cwd": "/",
        },
        "root": {"path": "/tmp/rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "annotations": annotations,
        "linux": {
            "cgroupsPath": format!("/box/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}],
            "resources": {"cpu": {"shares": 1024}},
        },
    });
    guest.output(&format!(
        "mkdir -p /tmp/{id} && printf %s '{specification}' >/tmp/{id}/config.json"
    ))?;
    let run = format!("purlin oci-runtime run --no-pivot -d -b /tmp/{id} {id}");
    let made = guest.run(&format!("{run} </dev/null >/tmp/{id}.out 2>/tmp/{id}.err"))?;
    let said = guest.output(&format!("cat /tmp/{id}.err; tail -3 /tmp/agent.log"))?;
    ensure!(made.code == 0, "{id} was not made: {made:?}: {said}");
    Ok(())
}

fn file(guest: &mut Guest, id: &str, name: &str) -> Result<String> {
    Ok(guest.output(&format!("cat {CGROUPS}/{id}/{name}"))?.trim().to_owned())
}

fn cpus(guest: &mut Guest, id: &str) -> Result<String> {
    file(guest, id, "cpuset.cpus.effective")
}

/// Waits until one of its files says just this.
fn says(guest: &mut Guest, id: &str, name: &str, expected: &str) -> Result {
    wait::until(&format!("{name} of {id} is {expected}"), SOON, || {
        let is = file(guest, id, name).map_err(|e| format!("{e:?}"))?;
        if is == expected { Ok(()) } else { Err(format!("it is {is}")) }
    })
}

/// Anonymous pages by node of all processes of a container.
fn pages(guest: &mut Guest, id: &str) -> Result<BTreeMap<u32, u64>> {
    let command =
        format!("for p in $(cat {CGROUPS}/{id}/cgroup.procs); do cat /proc/$p/numa_maps; done");
    let maps = guest.output(&command)?;
    let mut nodes = BTreeMap::new();
    for line in maps.lines().filter(|line| line.contains(" anon=")) {
        for word in line.split_whitespace() {
            let Some((node, count)) = word.strip_prefix('N').and_then(|it| it.split_once('='))
            else {
                continue;
            };
            *nodes.entry(node.parse()?).or_insert(0) += count.parse::<u64>()?;
        }
    }
    Ok(nodes)
}

/// Waits until all that it takes is on one node.
fn has_all_on(guest: &mut Guest, id: &str, node: u32) -> Result<BTreeMap<u32, u64>> {
    wait::until(&format!("{PAGES} pages of {id} are on node {node}"), SOON, || {
        let pages = pages(guest, id).map_err(|e| format!("{e:?}"))?;
        let there = pages.get(&node).copied().unwrap_or(0);
        if there >= PAGES { Ok(pages) } else { Err(format!("{pages:?}")) }
    })
}

/// Reads so much, keeps it, and waits.
fn takes() -> String {
    format!(
        "/bin/busybox dd if=/dev/zero bs={TAKEN_MIB}M count=1 2>/dev/null | /bin/busybox sleep 9000"
    )
}

fn sleeps() -> String {
    "exec /bin/busybox sleep 9000".into()
}

fn placed(lab: &Lab) -> Result {
    let mut guest = boot(lab)?;
    let wishes = [
        ("exclusive-cpus", "1"),
        ("memory-mib", "64"),
        ("devices", "nic=1"),
        ("policy", "single-numa-node"),
    ];
    make(&mut guest, "near", &takes(), &wishes)?;
    let node = guest.output("cat /sys/class/net/eth0/device/numa_node")?;
    ensure!(node.trim() == NIC_NODE.to_string(), "the NIC is on node {node}");
    let is = cpus(&mut guest, "near")?;
    ensure!(is == "5" || is == "4", "on CPU {is}, not on one of node {NIC_NODE}");
    says(&mut guest, "near", "cpuset.mems.effective", &NIC_NODE.to_string())?;
    let pages = has_all_on(&mut guest, "near", NIC_NODE)?;
    let elsewhere: u64 = pages.iter().filter(|(node, _)| **node != NIC_NODE).map(|(_, n)| n).sum();
    println!("anonymous pages by node: {pages:?}");
    ensure!(elsewhere == 0, "{elsewhere} pages are elsewhere: {pages:?}");
    make(&mut guest, "plain", &sleeps(), &[])?;
    let plain = cpus(&mut guest, "plain")?;
    ensure!(!members(&plain).contains(&is.parse()?), "{plain} has CPU {is} too");
    Ok(())
}

fn members(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse().unwrap_or(0)..=last.parse().unwrap_or(0)
    };
    list.split(',').filter(|part| !part.is_empty()).flat_map(range).collect()
}

fn kept(lab: &Lab) -> Result {
    let mut guest = boot(lab)?;
    let irqs = interrupts(&mut guest)?;
    make(&mut guest, "own", &takes(), &[("exclusive-cpus", "1"), ("memory-mib", "64")])?;
    let own = cpus(&mut guest, "own")?;
    let node: u32 = own.parse::<u32>()? / 2;
    has_all_on(&mut guest, "own", node)?;
    neighbours(&mut guest, &own)?;
    written_over(&mut guest, &own)?;
    moved(&mut guest, node)?;
    kept_off(&mut guest, &irqs)
}

/// None of those that come gets its CPU, and it keeps it when they go.
fn neighbours(guest: &mut Guest, own: &str) -> Result {
    for round in 0..3 {
        let id = format!("round{round}");
        make(guest, &id, &sleeps(), &[])?;
        let is = cpus(guest, &id)?;
        ensure!(!members(&is).contains(&own.parse()?), "{id} is on {is}, and {own} is taken");
        guest.output(&format!("purlin oci-runtime delete --force {id}"))?;
        ensure!(cpus(guest, "own")? == own, "it has {} now", cpus(guest, "own")?);
    }
    // One that comes without asking: the kernel's own way, by hand. It has an id like those
    // of container managers, so it is seen.
    let id = "0123456789abcdef".repeat(4);
    guest.output(&format!("mkdir /sys/fs/cgroup/docker /sys/fs/cgroup/docker/{id}"))?;
    let path = format!("/sys/fs/cgroup/docker/{id}/cpuset.cpus.effective");
    wait::until("it is kept off", SOON, || {
        let is = guest.output(&format!("cat {path} 2>/dev/null || echo 0-7"));
        let is = is.map_err(|e| format!("{e:?}"))?.trim().to_owned();
        let taken = own.parse().map_err(|_| own.to_owned())?;
        if members(&is).contains(&taken) { Err(is) } else { Ok(()) }
    })?;
    guest.output(&format!("rmdir /sys/fs/cgroup/docker/{id} /sys/fs/cgroup/docker")).map(drop)
}

fn written_over(guest: &mut Guest, own: &str) -> Result {
    guest.output(&format!("echo 0-7 >{CGROUPS}/own/cpuset.cpus"))?;
    says(guest, "own", "cpuset.cpus.effective", own)?;
    let line = logged(guest, "a cpuset was repaired")?;
    ensure!(line.contains("CPUs 0-7"), "{line}");
    Ok(())
}

/// Its memory is sent away by hand, and comes back while other containers are made.
fn moved(guest: &mut Guest, node: u32) -> Result {
    let away = (node + 1) % NODES;
    guest.output(&format!("echo {away} >{CGROUPS}/own/cpuset.mems"))?;
    make(guest, "meanwhile", &sleeps(), &[])?;
    let before = guest.run("grep -c 'memory moved' /tmp/agent.log")?;
    has_all_on(guest, "own", node)?;
    says(guest, "own", "cpuset.mems.effective", &node.to_string())?;
    let line = logged(guest, "memory moved")?;
    println!("moves that had ended when another was made: {}; {line}", before.stdout.trim());
    Ok(())
}

/// Where each interrupt may arrive.
fn interrupts(guest: &mut Guest) -> Result<BTreeMap<String, String>> {
    let command = "for i in /proc/irq/[0-9]*; do echo ${i##*/} $(cat $i/smp_affinity_list) \
                   $(find $i -mindepth 1 -type d); done";
    let text = guest.output(command)?;
    let used = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (irq, cpus) = (words.next()?, words.next()?);
        words.next().map(|path| (format!("{irq} {path}"), cpus.to_owned()))
    });
    Ok(used.collect())
}

/// Those that can be elsewhere are off exclusive CPUs, and all go back in the end.
fn kept_off(guest: &mut Guest, before: &BTreeMap<String, String>) -> Result {
    let exclusive = members(&cpus(guest, "own")?);
    let managed = guest.output("grep 'its driver decides' /tmp/agent.log || true")?;
    let on_them = |now: &BTreeMap<String, String>| -> Vec<String> {
        let hits =
            now.iter().filter(|(_, cpus)| members(cpus).iter().any(|cpu| exclusive.contains(cpu)));
        hits.map(|(name, cpus)| format!("{name} {cpus}")).collect()
    };
    wait::until("interrupts are off exclusive CPUs", SOON, || {
        let now = interrupts(guest).map_err(|e| format!("{e:?}"))?;
        let left: Vec<_> = on_them(&now)
            .into_iter()
            .filter(|it| {
                let irq = it.split_whitespace().next().unwrap_or_default();
                !managed.contains(&format!("irq={irq} "))
            })
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}, managed: {managed}")) }
    })?;
    let now = interrupts(guest)?;
    let changed = now.iter().filter(|(name, cpus)| before.get(*name) != Some(cpus)).count();
    let told = managed.lines().count();
    println!("{changed} of {} interrupts moved, {told} are their drivers'", now.len());
    ensure!(changed > 0, "none was moved: {now:?}");
    ensure!(told > 0, "the disk's queues are its driver's, and none was told: {now:?}");
    for id in ["own", "meanwhile"] {
        guest.output(&format!("purlin oci-runtime delete --force {id}"))?;
    }
    wait::until("interrupts are where they were", FORGOTTEN, || {
        let now = interrupts(guest).map_err(|e| format!("{e:?}"))?;
        let other: Vec<_> =
            now.iter().filter(|(name, cpus)| before.get(*name) != Some(cpus)).collect();
        if other.is_empty() { Ok(()) } else { Err(format!("{other:?}")) }
    })
}
