//! A guest with four NUMA nodes and cgroup v2, an agent in it, and containers that a real
//! runtime makes there through `purlin oci-runtime`. All that is told of them is read from
//! the kernel's own files.

use std::{collections::BTreeMap, fs::File, time::Duration};

use purlin_tests::{
    Guest, Lab, Result, ensure,
    guest::{NEWER, ROOT_BUS},
    wait,
};
use serde_json::{Value, json};

/// Each node has two CPUs, the first of which is reserved: node 2 has 4 and 5.
pub const NODES: u32 = 4;
/// The node of the only NIC.
pub const NIC_NODE: u32 = 2;
/// The node of the only disk.
pub const DISK_NODE: u32 = 1;
/// A guest's CPUs are emulated, all eight on what the host has left.
pub const SOON: Duration = Duration::from_secs(60);
const CGROUPS: &str = "/sys/fs/cgroup/box";

/// Boots it, and starts the agent.
pub fn boot(lab: &Lab) -> Result<Guest> {
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
    for (node, bus) in [(DISK_NODE, 32), (NIC_NODE, 64)] {
        let bridge = format!("pxb-pcie,id=pxb{node},bus={ROOT_BUS},bus_nr={bus},numa_node={node}");
        add("-device", bridge);
        add("-device", format!("pcie-root-port,id=port{node},bus=pxb{node},chassis=1,slot={node}"));
    }
    add("-netdev", "hubport,id=net,hubid=1".into());
    add("-device", format!("e1000e,bus=port{NIC_NODE},netdev=net,romfile="));
    let disk = lab.dir().join("disk");
    add("-drive", format!("file={},if=none,id=disk,format=raw", disk.display()));
    add("-device", format!("nvme,serial=PURLIN,bus=port{DISK_NODE},drive=disk"));
    let mut guest = Guest::boot(lab, &NEWER, &words)?;
    guest.output(&format!(
        "mount -t cgroup2 none /sys/fs/cgroup && mkdir -p {CGROUPS} /etc/purlin /tmp/rootfs/bin \
         /tmp/rootfs/dev /tmp/rootfs/proc && cp /bin/busybox /tmp/rootfs/bin && : >/etc/purlin/purlin.toml"
    ))?;
    guest.output("purlin agent >>/tmp/agent.log 2>&1 &")?;
    logged(&mut guest, "planned")?;
    Ok(guest)
}

/// The first line of the agent's log that has this in it.
pub fn logged(guest: &mut Guest, word: &str) -> Result<String> {
    wait::until(&format!("the agent says {word}"), SOON, || {
        let log = guest.output("cat /tmp/agent.log").map_err(|e| format!("{e:?}"))?;
        log.lines().find(|line| line.contains(word)).map(str::to_owned).ok_or(log)
    })
}

/// How many lines of the agent's log have this in them.
pub fn count(guest: &mut Guest, word: &str) -> Result<usize> {
    Ok(guest.run(&format!("grep -c '{word}' /tmp/agent.log"))?.stdout.trim().parse()?)
}

/// Makes a container whose process is `sh -c SCRIPT`, by runc.
pub fn make(guest: &mut Guest, id: &str, script: &str, wishes: &[(&str, &str)]) -> Result {
    make_by(guest, "runc", id, script, wishes)
}

/// The same by another runtime.
pub fn make_by(
    guest: &mut Guest,
    runtime: &str,
    id: &str,
    script: &str,
    wishes: &[(&str, &str)],
) -> Result {
    let annotations: Value =
        wishes.iter().map(|(key, value)| (format!("purlin.dev/{key}"), json!(value))).collect();
    let specification = specification(id, "/tmp/rootfs", &["sh", "-c", script], annotations);
    guest.output(&format!(
        "mkdir -p /tmp/{id} && printf %s '{specification}' >/tmp/{id}/config.json"
    ))?;
    // The root of an initramfs can't be pivoted away from.
    let run =
        format!("purlin oci-runtime --runtime /bin/{runtime} run --no-pivot -d -b /tmp/{id} {id}");
    let made = guest.run(&format!("{run} </dev/null >/tmp/{id}.out 2>/tmp/{id}.err"))?;
    let said = guest.output(&format!("cat /tmp/{id}.err; tail -3 /tmp/agent.log"))?;
    ensure!(made.code == 0, "{id} was not made: {made:?}: {said}");
    Ok(())
}

/// What a runtime reads of a container whose process is busybox with these arguments.
pub fn specification(id: &str, root: &str, arguments: &[&str], annotations: Value) -> Value {
    let arguments: Vec<&str> = ["/bin/busybox"].iter().chain(arguments).copied().collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "cwd": "/",
        },
        "root": {"path": root},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "annotations": annotations,
        "linux": {
            "cgroupsPath": format!("/box/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}],
            "resources": {"cpu": {"shares": 1024}},
        },
    })
}

/// Ends one that runc made. Nobody tells the agent: it sees that the cgroup is gone.
pub fn delete(guest: &mut Guest, id: &str) -> Result {
    guest.output(&format!("purlin oci-runtime delete --force {id}")).map(drop)
}

/// Whoever is told of may lack a cgroup for a minute: it is over now.
pub fn a_minute_passes(guest: &mut Guest) -> Result {
    guest.output("date -s @$(($(date +%s) + 61))").map(drop)
}

/// The path of a file of its cgroup.
pub fn path(id: &str, name: &str) -> String {
    format!("{CGROUPS}/{id}/{name}")
}

/// What one of its files says.
pub fn file(guest: &mut Guest, id: &str, name: &str) -> Result<String> {
    Ok(guest.output(&format!("cat {}", path(id, name)))?.trim().to_owned())
}

/// The CPUs that the kernel grants it.
pub fn cpus(guest: &mut Guest, id: &str) -> Result<Vec<u32>> {
    Ok(members(&file(guest, id, "cpuset.cpus.effective")?))
}

/// Waits until one of its files says just this.
pub fn says(guest: &mut Guest, id: &str, name: &str, expected: &str) -> Result {
    wait::until(&format!("{name} of {id} is {expected}"), SOON, || {
        let is = file(guest, id, name).map_err(|e| format!("{e:?}"))?;
        if is == expected { Ok(()) } else { Err(format!("it is {is}")) }
    })
}

/// The members of a list as the kernel writes it.
pub fn members(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse().unwrap_or(0)..=last.parse().unwrap_or(0)
    };
    list.trim().split(',').filter(|part| !part.is_empty()).flat_map(range).collect()
}

/// Reads so much, keeps it, and waits.
pub fn takes(mib: u64) -> String {
    format!("/bin/busybox dd if=/dev/zero bs={mib}M count=1 2>/dev/null | /bin/busybox sleep 9000")
}

/// Waits.
pub fn sleeps() -> String {
    "exec /bin/busybox sleep 9000".into()
}

/// Anonymous pages by node of all its processes.
pub fn pages(guest: &mut Guest, id: &str) -> Result<BTreeMap<u32, u64>> {
    let processes = path(id, "cgroup.procs");
    let maps =
        guest.output(&format!("for p in $(cat {processes}); do cat /proc/$p/numa_maps; done"))?;
    let mut nodes = BTreeMap::new();
    // Pages of a file are where they were first read, whoever maps them.
    let is_its_own = |line: &&str| line.contains(" anon=") && !line.contains(" file=");
    for line in maps.lines().filter(is_its_own) {
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

/// Waits until all that [`takes`] so much is on one node.
pub fn has_all_on(guest: &mut Guest, id: &str, mib: u64, node: u32) -> Result<BTreeMap<u32, u64>> {
    let all = mib << 20 >> 12;
    wait::until(&format!("{all} pages of {id} are on node {node}"), 3 * SOON, || {
        let pages = pages(guest, id).map_err(|e| format!("{e:?}"))?;
        let there = pages.get(&node).copied().unwrap_or(0);
        if there >= all { Ok(pages) } else { Err(format!("{pages:?}")) }
    })
}
