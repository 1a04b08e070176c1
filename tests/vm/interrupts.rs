//! Real interrupts of a NIC and of a disk: kept off exclusive CPUs and on the node of their
//! device, those that are new too, and given back.

use std::collections::BTreeMap;

use purlin_tests::{Guest, Lab, Result, ensure, lab::Test, test, wait};

use crate::containers::{DISK_NODE, NIC_NODE, SOON, boot, cpus, make, members, sleeps};

pub fn tests() -> Vec<Test> {
    vec![test("interrupts_are_kept_off_exclusive_cpus_and_near_their_device", 600, kept_off)]
}

/// Where each may arrive, by its number and what its driver calls it.
type Allowed = BTreeMap<(u32, String), Vec<u32>>;

fn allowed(guest: &mut Guest) -> Result<Allowed> {
    let command = "for i in /proc/irq/[0-9]*; do for n in $i/*/; do [ -d $n ] && \
                   echo ${i##*/} $(cat $i/smp_affinity_list) $(basename $n); done; done; true";
    let text = guest.output(command)?;
    let one = |line: &str| {
        let mut words = line.split_whitespace();
        let (irq, cpus, name) = (words.next()?, words.next()?, words.next()?);
        Some(((irq.parse().ok()?, name.to_owned()), members(cpus)))
    };
    Ok(text.lines().filter_map(one).collect())
}

/// How many arrived of each, at one CPU and anywhere.
fn arrived(guest: &mut Guest, at: u32) -> Result<BTreeMap<u32, (u64, u64)>> {
    let text = guest.output("cat /proc/interrupts")?;
    let one = |line: &str| {
        let (irq, rest) = line.split_once(':')?;
        let counts: Vec<u64> = rest.split_whitespace().map_while(|it| it.parse().ok()).collect();
        let here = counts.get(at as usize).copied()?;
        Some((irq.trim().parse().ok()?, (here, counts.iter().sum())))
    };
    Ok(text.lines().filter_map(one).collect())
}

fn kept_off(lab: &Lab) -> Result {
    let mut guest = boot(lab)?;
    // A NIC that is down has no interrupts.
    guest.output("ip link set eth0 up")?;
    let before = allowed(&mut guest)?;
    ensure!(before.keys().any(|(_, name)| name.starts_with("eth0")), "none of eth0: {before:?}");
    make(&mut guest, "own", &sleeps(), &[("exclusive-cpus", "1"), ("devices", "nic=1")])?;
    let [own] = cpus(&mut guest, "own")?[..] else { return Err("not one CPU".into()) };
    let managed = off(&mut guest, own)?;
    ensure!(!managed.is_empty(), "the disk has a queue on CPU {own}, and none was told");
    near(&mut guest, own)?;

    // One that is asked for now is never there at all.
    guest.output("ip link set eth0 down && ip link set eth0 up")?;
    let new = allowed(&mut guest)?;
    let of_nic = |it: &Allowed| -> Vec<Vec<u32>> {
        let nic = it.iter().filter(|((_, name), _)| name.starts_with("eth0"));
        nic.map(|(_, cpus)| cpus.clone()).collect()
    };
    ensure!(!of_nic(&new).iter().any(|cpus| cpus.contains(&own)), "{new:?} at CPU {own}");

    // Nothing that was moved arrives there any more: this very shell makes interrupts.
    let then = arrived(&mut guest, own)?;
    let now = wait::until("interrupts arrive", SOON, || {
        let now = arrived(&mut guest, own).map_err(|e| format!("{e:?}"))?;
        let total = |it: &BTreeMap<u32, (u64, u64)>| -> u64 { it.values().map(|it| it.1).sum() };
        if total(&now) > total(&then) + 10 { Ok(now) } else { Err(format!("{now:?}")) }
    })?;
    for (irq, (here, _)) in now.iter().filter(|(irq, _)| !managed.contains(irq)) {
        let was = then.get(irq).map_or(0, |(here, _)| *here);
        ensure!(*here == was, "{} of interrupt {irq} arrived at CPU {own}", here - was);
    }

    guest.output("purlin numa pause")?;
    wait::until("interrupts are where they were", SOON, || {
        let now = allowed(&mut guest).map_err(|e| format!("{e:?}"))?;
        // The NIC's are others since it was down.
        let other = |it: &(&(u32, String), &Vec<u32>)| {
            !it.0.1.starts_with("eth0") && before.get(it.0) != Some(it.1)
        };
        let other: Vec<_> = now.iter().filter(other).collect();
        if other.is_empty() { Ok(()) } else { Err(format!("{other:?}")) }
    })?;
    guest.output("purlin numa resume")?;
    off(&mut guest, own).map(drop)
}

/// Waits until only those whose driver decides may arrive at a CPU; which these are.
fn off(guest: &mut Guest, cpu: u32) -> Result<Vec<u32>> {
    wait::until("interrupts are off the exclusive CPU", SOON, || {
        let now = allowed(guest).map_err(|e| format!("{e:?}"))?;
        let log = guest.output("grep 'its driver decides' /tmp/agent.log; true");
        let log = log.map_err(|e| format!("{e:?}"))?;
        let is_told = |irq: u32| log.contains(&format!("irq={irq} "));
        let there = now.iter().filter(|(_, cpus)| cpus.contains(&cpu)).map(|(key, _)| key);
        let (managed, left): (Vec<_>, Vec<_>) = there.partition(|(irq, _)| is_told(*irq));
        match left.is_empty() {
            true => Ok(managed.into_iter().map(|(irq, _)| *irq).collect()),
            false => Err(format!("{left:?}, told of are {log}")),
        }
    })
}

/// The NIC's have what is left of its node, and so has what the disk's driver leaves open.
fn near(guest: &mut Guest, own: u32) -> Result {
    let now = allowed(guest)?;
    let mut seen = 0;
    for ((irq, name), cpus) in &now {
        let node = match name {
            name if name.starts_with("eth0") => NIC_NODE,
            name if name == "nvme0q0" => DISK_NODE,
            _ => continue,
        };
        let free: Vec<u32> = [node * 2, node * 2 + 1].into_iter().filter(|it| *it != own).collect();
        println!("interrupt {irq} of {name}: CPUs {cpus:?}");
        ensure!(*cpus == free, "{name} may arrive at {cpus:?}, node {node} has {free:?} to spare");
        seen += 1;
    }
    ensure!(seen >= 2, "not both devices: {now:?}");
    Ok(())
}
