//! Starting, stopping, starting again.

use std::{fs, os::unix::net::UnixDatagram, time::Duration};

use nix::sys::signal::Signal;
use purlin_proto::api::{LinkState, Mode};
use purlin_tests::{Broker, Lab, Need, Node, Result, ensure, lab::Test, node::class, test, wait};

/// For a broker on loopback to be reached, or to have logged.
const UP: Duration = Duration::from_secs(10);

pub fn tests() -> Vec<Test> {
    vec![
        test("ctrl_c_and_sigterm_end_the_agent_within_5_s", 60, ends_on_a_signal),
        test("the_broker_is_told_goodbye", 60, says_goodbye).needs(&[Need::Program("mosquitto")]),
        test("a_second_start_adopts_the_state_of_the_first", 60, adopts),
        test("a_killed_agent_starts_again_at_once", 60, starts_after_a_kill),
        test("a_second_agent_on_one_state_directory_is_refused", 60, second_is_refused),
        test("without_any_configuration_it_is_its_own_core", 60, standalone),
        test("all_is_well_on_an_idle_node", 60, all_is_well),
        test("a_service_manager_is_told_ready_alive_and_stopping", 60, notifies),
    ]
}

fn ends_on_a_signal(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        node.start()?;
        let took = node.stop_by(signal)?;
        println!("{signal}: ended in {took:?}");
    }
    Ok(())
}

/// Else a broker would publish a last will, and log a lost node, at every update.
fn says_goodbye(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
    node.start()?;
    wait::until("the link is up", UP, || match node.link() {
        Ok(link) if link.state == LinkState::Up => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    node.stop()?;
    // Of a connection that just ends, mosquitto says "closed its connection".
    wait::until("the broker has heard it", UP, || match broker.log() {
        Ok(log) if log.contains(" disconnected.") => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

fn adopts(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    let before = (node.status()?, node.queue()?);
    node.stop()?;
    node.start()?;
    let after = (node.status()?, node.queue()?);
    ensure!(before.0.node == after.0.node, "another node id: {}", after.0.node);
    ensure!(before.1.incarnation == after.1.incarnation, "another incarnation");
    for old in &before.1.classes {
        let new = class(&after.1, &old.class)?;
        ensure!(
            new.durable_seq >= old.last_seq,
            "a clean stop keeps what was accepted: {old:?} became {new:?}"
        );
    }
    node.stop()?;
    Ok(())
}

fn starts_after_a_kill(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    let before = node.queue()?;
    node.kill()?;
    node.start()?;
    ensure!(node.queue()?.incarnation == before.incarnation, "another incarnation");
    node.stop()?;
    Ok(())
}

fn second_is_refused(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    let mut second = Node::new(lab, "second")?;
    second.set("PURLIN_STATE_DIR", node.state_dir());
    let config = second.dir().join("purlin.toml").display().to_string();
    let answer = second.cli(&["agent", "--config", &config])?;
    ensure!(answer.code == 1, "exit code 1: {answer:?}");
    let pid = node.pid()?.to_string();
    ensure!(answer.stderr.contains(&pid), "names pid {pid}: {}", answer.stderr);
    ensure!(node.cli(&["status"])?.code == 0, "the first goes on");
    node.stop()?;
    Ok(())
}

fn standalone(lab: &Lab) -> Result {
    if fs::exists("/etc/purlin/purlin.toml")? {
        return Err("/etc/purlin/purlin.toml exists: this machine is a node".into());
    }
    let mut node = Node::standalone(lab, "newcomer")?;
    node.start()?;
    let status = node.status()?;
    ensure!(status.mode == Mode::Standalone, "mode {:?}", status.mode);
    ensure!(status.state_dir.starts_with(&*node.dir().to_string_lossy()), "{}", status.state_dir);
    let link = wait::until("records reach its own broker", Duration::from_secs(30), || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if link.acked_records > 0 { Ok(link) } else { Err(format!("{link:?}")) }
    })?;
    ensure!(link.state == LinkState::Up, "{link:?}");
    ensure!(node.cli(&["link", "test"])?.code == 0, "link test");
    let log = node.log()?;
    ensure!(log.contains(&status.state_dir), "says where its state is: {log}");
    ensure!(log.contains("purlin status"), "says which command to type next: {log}");
    node.stop()?;
    Ok(())
}

/// sd_notify(3), as `purlind.service` (Type=notify, WatchdogSec=) relies on it.
fn notifies(lab: &Lab) -> Result {
    let path = lab.dir().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut node = Node::new(lab, "node")?;
    node.set("NOTIFY_SOCKET", &path);
    node.set("WATCHDOG_USEC", "1000000");
    node.launch()?;
    for expected in ["READY=1", "WATCHDOG=1", "WATCHDOG=1"] {
        wait_for_word(&manager, expected)?;
    }
    ensure!(node.cli(&["status"])?.code == 0, "ready means that it answers");
    node.stop()?;
    wait_for_word(&manager, "STOPPING=1")
}

/// Reads notifications until one holds that line.
fn wait_for_word(manager: &UnixDatagram, expected: &str) -> Result {
    let mut buffer = [0; 4096];
    loop {
        let length = manager.recv(&mut buffer).map_err(|e| format!("no {expected}: {e}"))?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        if text.lines().any(|line| line == expected) {
            return Ok(());
        }
    }
}

fn all_is_well(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    let status = node.status()?;
    ensure!(status.faults.is_empty(), "faults: {:?}", status.faults);
    // A kernel without Landlock says so; every one that a test runs on has seccomp.
    let sandbox = &status.sandbox;
    ensure!(
        sandbox.seccomp && sandbox.landlock_abi.is_some() == sandbox.why_not.is_empty(),
        "{sandbox:?}"
    );
    let kernels = fs::read_to_string(format!("/proc/{}/status", status.pid))?;
    ensure!(kernels.contains("Seccomp:\t2") && kernels.contains("NoNewPrivs:\t1"), "{kernels}");
    ensure!(!status.tasks.is_empty(), "no tasks");
    let stopped: Vec<_> = status.tasks.iter().filter(|t| !t.running || t.restarts > 0).collect();
    ensure!(stopped.is_empty(), "tasks that ended: {stopped:?}");
    let over: Vec<_> =
        status.bounds.iter().filter(|b| b.used.is_some_and(|used| used > b.limit)).collect();
    ensure!(over.is_empty() && !status.bounds.is_empty(), "bounds: {:?}", status.bounds);
    node.stop()?;
    Ok(())
}
