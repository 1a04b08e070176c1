//! Where a container's CPUs, memory and NIC really are, and what stays true while neighbours
//! come and go.

use purlin_tests::{Guest, Lab, Result, ensure, lab::Test, test, wait};

use crate::containers::{
    NIC_NODE, NODES, SOON, a_minute_passes, boot, count, cpus, delete, file, has_all_on, logged,
    make, make_by, members, path, says, sleeps, takes,
};

/// What a process takes and keeps, in MiB.
const TAKEN_MIB: u64 = 32;
const EXCLUSIVE: (&str, &str) = ("exclusive-cpus", "1");

pub fn tests() -> Vec<Test> {
    vec![
        test("cpus_memory_and_nic_are_on_the_node_that_was_asked_for", 400, placed),
        test("exclusive_cpus_stay_so_while_neighbours_come_and_go", 600, exclusive),
        test("a_stage_of_a_power_failure_stops_who_matters_less", 400, shed),
        test("memory_moves_while_others_are_made", 600, moved),
    ]
}

pub fn of_crun() -> Test {
    test("crun_pins_where_there_is_cgroup_v2_alone", 400, crun)
}

fn placed(lab: &Lab) -> Result {
    let mut guest = boot(lab)?;
    let wishes =
        [EXCLUSIVE, ("memory-mib", "64"), ("devices", "nic=1"), ("policy", "single-numa-node")];
    make(&mut guest, "near", &takes(TAKEN_MIB), &wishes)?;
    let node = guest.output("cat /sys/class/net/eth0/device/numa_node")?;
    ensure!(node.trim() == NIC_NODE.to_string(), "the NIC is on node {node}");
    let is = cpus(&mut guest, "near")?;
    ensure!(is == [5] || is == [4], "on CPU {is:?}, not on one of node {NIC_NODE}");
    says(&mut guest, "near", "cpuset.mems.effective", &NIC_NODE.to_string())?;
    let pages = has_all_on(&mut guest, "near", TAKEN_MIB, NIC_NODE)?;
    let elsewhere: u64 = pages.iter().filter(|(node, _)| **node != NIC_NODE).map(|(_, n)| n).sum();
    println!("anonymous pages by node: {pages:?}");
    ensure!(elsewhere == 0, "{elsewhere} pages are elsewhere: {pages:?}");
    make(&mut guest, "plain", &sleeps(), &[])?;
    let plain = cpus(&mut guest, "plain")?;
    ensure!(!plain.contains(&is[0]), "{plain:?} has CPU {is:?} too");
    Ok(())
}

fn exclusive(lab: &Lab) -> Result {
    let mut guest = boot(lab)?;
    make(&mut guest, "own", &sleeps(), &[EXCLUSIVE])?;
    let own = cpus(&mut guest, "own")?;
    ensure!(own.len() == 1, "it has {own:?}");
    for (id, wishes) in [("first", &[][..]), ("second", &[EXCLUSIVE]), ("third", &[])] {
        make(&mut guest, id, &sleeps(), wishes)?;
        let is = cpus(&mut guest, id)?;
        ensure!(!is.contains(&own[0]), "{id} is on {is:?}, and {own:?} is taken");
        // Not only those that come: those that are there, too.
        let [now, first] = [cpus(&mut guest, "own")?, cpus(&mut guest, "first")?];
        ensure!(now == own, "it has {now:?} since {id} was made, not {own:?}");
        ensure!(!first.contains(&own[0]), "first is on {first:?}");
        if id != "first" {
            delete(&mut guest, id)?;
        }
    }
    // Of those that went, what they had goes back to the others; of those that stay, nothing.
    a_minute_passes(&mut guest)?;
    let others = (0..NODES * 2).filter(|cpu| !own.contains(cpu)).collect::<Vec<_>>();
    wait::until("the first has what the second had", SOON, || {
        let first = cpus(&mut guest, "first").map_err(|e| format!("{e:?}"))?;
        if first == others { Ok(()) } else { Err(format!("{first:?}")) }
    })?;
    uninvited(&mut guest, own[0])?;
    written_over(&mut guest, own[0])
}

fn shed(lab: &Lab) -> Result {
    let mut guest = boot(lab)?;
    make(&mut guest, "batch", &sleeps(), &[("priority", "10")])?;
    make(&mut guest, "serves", &sleeps(), &[("priority", "900"), EXCLUSIVE])?;
    make(&mut guest, "silent", &sleeps(), &[])?;
    let stage = "[[power.stages]]\nname = \"hot\"\nwhen = [\"busy*\"]\nshed_below = 100\n";
    let rule = "[alarms.rules.busy]\nmetric = \"system.cpu.load_average.1m\"\nabove = -1.0\n";
    let apply = |guest: &mut Guest, version: u32, more: &str| {
        let document = format!("version = {version}\n[sampling]\ninterval_s = 1\n{more}");
        // A guest is told one line at a time.
        let document = document.replace('\n', "\\n");
        guest.output(&format!(
            "printf '{document}' >/tmp/document.toml && purlin config apply /tmp/document.toml"
        ))
    };
    apply(&mut guest, 1, &format!("{rule}{stage}"))?;
    says(&mut guest, "batch", "cgroup.freeze", "1")?;
    make(&mut guest, "later", &sleeps(), &[("priority", "99")])?;
    says(&mut guest, "later", "cgroup.freeze", "1")?;
    for id in ["serves", "silent"] {
        let is = file(&mut guest, id, "cgroup.freeze")?;
        ensure!(is == "0", "{id} stands still: {is}");
    }
    let shown = guest.run("purlin power show")?;
    ensure!(shown.stdout.contains("freeze containers of priority below 100"), "{shown:?}");
    apply(&mut guest, 2, rule)?;
    for id in ["batch", "later"] {
        says(&mut guest, id, "cgroup.freeze", "0")?;
    }
    Ok(())
}

/// One that comes without asking: the kernel's own way, by hand. It has an id like those of
/// container managers, so it is seen.
fn uninvited(guest: &mut Guest, own: u32) -> Result {
    let id = "0123456789abcdef".repeat(4);
    guest.output(&format!("mkdir /sys/fs/cgroup/docker /sys/fs/cgroup/docker/{id}"))?;
    let path = format!("/sys/fs/cgroup/docker/{id}/cpuset.cpus.effective");
    wait::until("it is kept off", SOON, || {
        let is = guest.output(&format!("cat {path} 2>/dev/null || echo 0-7"));
        let is = is.map_err(|e| format!("{e:?}"))?;
        if members(&is).contains(&own) { Err(is) } else { Ok(()) }
    })?;
    guest.output(&format!("rmdir /sys/fs/cgroup/docker/{id} /sys/fs/cgroup/docker")).map(drop)
}

fn written_over(guest: &mut Guest, own: u32) -> Result {
    guest.output(&format!("echo 0-7 >{}", path("own", "cpuset.cpus")))?;
    says(guest, "own", "cpuset.cpus.effective", &own.to_string())?;
    let line = logged(guest, "a cpuset was repaired")?;
    ensure!(line.contains("CPUs 0-7"), "{line}");
    Ok(())
}

/// Memory is sent away by hand. It comes back, and nobody waits for that: not even when
/// the kernel takes its time.
fn moved(lab: &Lab) -> Result {
    let mut guest = boot(lab)?;
    let wishes = [EXCLUSIVE, ("memory-mib", "64"), ("policy", "single-numa-node")];
    make(&mut guest, "own", &takes(TAKEN_MIB), &wishes)?;
    let node = cpus(&mut guest, "own")?[0] / 2;
    let away = (node + 1) % NODES;
    has_all_on(&mut guest, "own", TAKEN_MIB, node)?;
    // The first time its mover is started; the second time it stands still.
    for stands_still in [false, true] {
        let before = count(&mut guest, "memory moved")?;
        signal(&mut guest, "STOP", "agent")?;
        // The kernel answers when all of it is there.
        guest.output(&format!("echo {away} >{}", path("own", "cpuset.mems")))?;
        has_all_on(&mut guest, "own", TAKEN_MIB, away)?;
        if stands_still {
            signal(&mut guest, "STOP", "helper")?;
        }
        signal(&mut guest, "CONT", "agent")?;
        if stands_still {
            make(&mut guest, "meanwhile", &sleeps(), &[])?;
            let has = file(&mut guest, "own", "cpuset.mems")?;
            ensure!(has == away.to_string(), "its memory is on node {has}: nothing stood still");
            signal(&mut guest, "CONT", "helper")?;
        }
        has_all_on(&mut guest, "own", TAKEN_MIB, node)?;
        says(&mut guest, "own", "cpuset.mems.effective", &node.to_string())?;
        wait::until("the move is told", SOON, || {
            let ended = count(&mut guest, "memory moved").map_err(|e| format!("{e:?}"))?;
            if ended > before { Ok(()) } else { Err(format!("{ended} moves")) }
        })?;
        println!("{}", guest.output("grep 'memory moved' /tmp/agent.log | tail -1")?.trim());
    }
    Ok(())
}

/// Sends a signal to every `purlin COMMAND`.
fn signal(guest: &mut Guest, signal: &str, command: &str) -> Result {
    let all =
        "for p in /proc/[0-9]*; do echo ${p##*/} $(tr '\\0' ' ' <$p/cmdline); done 2>/dev/null";
    let all = guest.output(all)?;
    let is = |line: &&str| line.contains(&format!(" purlin {command}"));
    let pids: Vec<_> =
        all.lines().filter(is).filter_map(|line| line.split_whitespace().next()).collect();
    guest.output(&format!("kill -{signal} {}", pids.join(" "))).map(drop)
}

/// Where controllers are split between cgroup v1 and v2, crun makes nothing: only here is it
/// sure to be tried.
fn crun(lab: &Lab) -> Result {
    let mut guest = boot(lab)?;
    make_by(&mut guest, "crun", "own", &sleeps(), &[EXCLUSIVE])?;
    make_by(&mut guest, "crun", "plain", &sleeps(), &[])?;
    let [own, plain] = [cpus(&mut guest, "own")?, cpus(&mut guest, "plain")?];
    ensure!(own.len() == 1 && !plain.contains(&own[0]), "{own:?} and {plain:?}");
    let state = guest.output("crun state own")?;
    ensure!(state.contains("running"), "{state}");
    Ok(())
}
