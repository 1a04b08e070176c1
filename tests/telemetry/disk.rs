//! A disk that is full, turns read-only or goes away under a running agent: it goes
//! on, tells, and is well again by itself when the disk is.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::Command,
    thread::sleep,
    time::Duration,
};

use nix::mount::{MntFlags, umount2};
use purlin_proto::v1::{Class, Gap};
use purlin_tests::{
    Broker, Lab, Need, Node, Proxy, Result,
    disk::{self, Disk},
    ensure,
    lab::Test,
    node::class,
    test, wait,
};

/// Time for a failing disk to be noticed, and for a good one.
const NOTICE: Duration = Duration::from_secs(40);

pub fn tests() -> Vec<Test> {
    let needs = [Need::Program("mosquitto"), Need::Program("mount")];
    let ext4 = Need::Is(|| disk::missing("ext4"));
    vec![
        test("a_full_disk_is_an_alarm_and_recovers_by_itself", 180, full)
            .needs(&needs)
            .needs(&[Need::Root]),
        test("a_disk_that_goes_away_and_comes_back_is_found_again", 180, |lab| {
            comes_back(lab, Disk::cut)
        })
        .needs(&needs)
        .needs(&[ext4, Need::Program("perl")]),
        test("a_disk_that_turns_read_only_is_outlived", 180, |lab| {
            comes_back(lab, Disk::turn_read_only)
        })
        .needs(&needs)
        .needs(&[ext4]),
    ]
}

/// An agent that commits each second into small segments.
fn node(lab: &Lab, proxy: &Proxy) -> Result<Node> {
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_UPLINK__ENDPOINT", proxy.endpoint());
    node.set("PURLIN_TEST__CPU_INTERVAL_MS", "10");
    fs::create_dir_all(node.state_dir())?;
    Ok(node)
}

fn start(lab: &Lab, node: &mut Node) -> Result {
    node.start()?;
    let document = "version = 1\n[spool]\ncap_mib = 2\ncommit_window_s = 1\n";
    let document = lab.file("small.toml", document)?;
    let answer = node.cli(&["config", "apply", &document.display().to_string()])?;
    ensure!(answer.code == 0, "{answer:?}");
    durable_beyond(node, 50)
}

fn durable_beyond(node: &Node, seq: u64) -> Result {
    wait::until("records become durable", NOTICE, || {
        let queue = node.queue().map_err(|e| format!("{e:?}"))?;
        let metric = class(&queue, "metric").map_err(|e| format!("{e:?}"))?;
        if metric.durable_seq > seq { Ok(()) } else { Err(format!("{metric:?}")) }
    })
}

fn full(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let proxy = Proxy::start(broker.port())?;
    let mut node = node_on_tmpfs(lab, &proxy)?;
    let state = node.state_dir();
    start(lab, &mut node)?;
    let filler = state.join("filler");
    let mut file = File::create(&filler)?;
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let before = failing(&node)?;
    // Alarms have room of their own, reserved before the disk was full.
    wait::until("the core is told", NOTICE, || {
        let raised =
            proxy.observed().alarms.iter().any(|it| it.id == "fault.spool-disk" && it.raised);
        if raised { Ok(()) } else { Err("no alarm".into()) }
    })?;
    fs::remove_file(&filler)?;
    recovers(&node, before)?;
    wait::until("the core is told that it is over", NOTICE, || {
        let cleared =
            proxy.observed().alarms.iter().any(|it| it.id == "fault.spool-disk" && !it.raised);
        if cleared { Ok(()) } else { Err("no end of the alarm".into()) }
    })?;
    let outcome = everything_is_accounted_for(&mut node, &proxy);
    umount2(&state, MntFlags::MNT_DETACH)?;
    outcome
}

fn node_on_tmpfs(lab: &Lab, proxy: &Proxy) -> Result<Node> {
    let node = node(lab, proxy)?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"])
        .arg(node.state_dir())
        .status()?;
    ensure!(mounted.success(), "mount: {mounted}");
    Ok(node)
}

/// The disk fails by `how`, and another with its content is mounted in its place.
fn comes_back(lab: &Lab, how: fn(&Disk) -> Result) -> Result {
    let broker = Broker::start(lab)?;
    let proxy = Proxy::start(broker.port())?;
    let mut node = node(lab, &proxy)?;
    let mut disk = Disk::make(lab, "node/state", "ext4", 32)?;
    start(lab, &mut node)?;
    how(&disk)?;
    let before = failing(&node)?;
    ensure!(Path::new(&node.state_dir()).exists(), "the directory is there");
    disk.replace()?;
    recovers(&node, before)?;
    everything_is_accounted_for(&mut node, &proxy)
}

/// Waits until the agent says that its disk can't be written: what was durable then.
fn failing(node: &Node) -> Result<u64> {
    wait::until("the fault is told", NOTICE, || {
        let status = node.status().map_err(|e| format!("{e:?}"))?;
        match status.faults.iter().any(|fault| fault.id == "spool-disk") {
            true => Ok(()),
            false => Err(format!("{:?}", status.faults)),
        }
    })?;
    // It goes on measuring meanwhile.
    let first = class(&node.queue()?, "metric")?.last_seq;
    sleep(Duration::from_secs(1));
    let metric = class(&node.queue()?, "metric")?.clone();
    ensure!(metric.last_seq > first, "it has stopped: {metric:?}");
    Ok(metric.last_seq)
}

fn recovers(node: &Node, before: u64) -> Result {
    durable_beyond(node, before)?;
    wait::until("the fault is gone", NOTICE, || {
        let status = node.status().map_err(|e| format!("{e:?}"))?;
        let left = status.faults.iter().find(|fault| fault.id == "spool-disk");
        left.map_or(Ok(()), |fault| Err(format!("{fault:?}")))
    })
}

/// Every number up to the last durable one arrived, or a gap says why not.
fn everything_is_accounted_for(node: &mut Node, proxy: &Proxy) -> Result {
    let queue = node.queue()?;
    let durable = class(&queue, "metric")?.durable_seq;
    wait::until("everything durable is acknowledged", NOTICE, || {
        let queue = node.queue().map_err(|e| format!("{e:?}"))?;
        let metric = class(&queue, "metric").map_err(|e| format!("{e:?}"))?;
        if metric.acked_seq >= durable { Ok(()) } else { Err(format!("{metric:?}")) }
    })?;
    node.stop()?;
    let log = (u64::from_str_radix(&queue.incarnation, 16)?, Class::Metric);
    let observed = proxy.observed();
    let lost = observed.unconfirmed(log, durable);
    let silent: Vec<_> = lost.iter().filter(|seq| !observed.has_gap(log, **seq)).collect();
    ensure!(
        silent.is_empty(),
        "{} of {durable} are missing without a word: {silent:?}",
        silent.len()
    );
    ensure!(observed.conflicts.is_empty(), "{:?}", observed.conflicts);
    let told: u64 = observed.gaps.iter().map(|(_, gap): &(_, Gap)| gap.lost).max().unwrap_or(0);
    println!("{durable} records, {} lost, {told} in the largest gap", lost.len());
    Ok(())
}
