//! Debian's chronyd in a network namespace of its own, with a server beside it: what it
//! says of the clock is shown, and whether that is trusted. No clock is set.

use std::{fs, process::Stdio, time::Duration};

use purlin_proto::api::Clock;
use purlin_tests::{
    Lab, Need, Node, Result, ensure, lab::Test, namespace::Namespace, process::Process, test, wait,
};

/// The agent asks every ten seconds.
const SOON: Duration = Duration::from_secs(60);

pub fn tests() -> [Test; 1] {
    [test("chronyd_says_whether_the_clock_is_true", 240, whole).needs(&[
        Need::Root,
        Need::Program("chronyd"),
        Need::Program("chronyc"),
        Need::Program("nsenter"),
    ])]
}

/// A chronyd that leaves the machine's clock alone (`-x`).
fn chronyd(lab: &Lab, net: &Namespace, name: &str, lines: &str) -> Result<Process> {
    let pid = lab.dir().join(format!("{name}.pid"));
    _ = fs::remove_file(&pid);
    let file = format!("{lines}\npidfile {}\nbindcmdaddress /\n", pid.display());
    let file = lab.file(&format!("{name}.conf"), file)?;
    let log = fs::File::create(lab.dir().join(format!("{name}.log")))?;
    let mut command = net.command("chronyd");
    command.args(["-d", "-x", "-u", "root", "-f"]).arg(file).stdin(Stdio::null());
    Process::start(command.stdout(log.try_clone()?).stderr(log))
}

fn until(node: &Node, state: Option<&str>) -> Result<Clock> {
    wait::until("what chronyd says", SOON, || {
        let clock = node.status().map_err(|error| format!("{error:?}"))?.clock;
        let is = clock.service.as_ref().map(|it| it.state.as_str());
        if is == state { Ok(clock) } else { Err(format!("{clock:?}")) }
    })
}

fn whole(lab: &Lab) -> Result {
    let net = Namespace::new()?;
    let mut node = Node::new(lab, "node")?;
    let binary = node.binary().to_owned();
    node.run_with(&["nsenter", "-t", &net.pid(), "-n"], &binary);
    node.start()?;
    // The kernel's word alone, where nobody answers.
    let by_kernel = until(&node, None)?.trusted;

    let alone = chronyd(lab, &net, "own", "local stratum 10")?;
    ensure!(!until(&node, Some("follows itself"))?.trusted, "its own word is taken");
    alone.kill()?;
    let nobody = chronyd(lab, &net, "own", "")?;
    ensure!(!until(&node, Some("follows nobody"))?.trusted, "nobody's word is taken");
    nobody.kill()?;

    let _server =
        chronyd(lab, &net, "server", "port 11123\ncmdport 0\nlocal stratum 8\nallow 127.0.0.1")?;
    let follows = "port 0\nserver 127.0.0.1 port 11123 iburst minpoll -2 maxpoll -2";
    let own = chronyd(lab, &net, "own", follows)?;
    let clock = until(&node, Some("synchronized"))?;
    ensure!(clock.trusted == by_kernel, "{clock:?}, and the kernel says {by_kernel}");
    let service = clock.service.unwrap_or_default();
    let output = net.command("chronyc").args(["-c", "-h", "127.0.0.1", "tracking"]).output()?;
    let theirs = String::from_utf8(output.stdout)?;
    let theirs: Vec<&str> = theirs.trim().split(',').collect();
    ensure!(theirs.get(2) == Some(&service.stratum.to_string().as_str()), "{theirs:?}");
    ensure!(theirs.get(1).copied() == service.reference.as_deref(), "{service:?}, {theirs:?}");
    let is_small = |seconds: f64| (0.0..1.0).contains(&seconds);
    ensure!(is_small(service.offset_s.abs()) && is_small(service.max_error_s), "{service:?}");

    own.kill()?;
    let clock = until(&node, None)?;
    ensure!(clock.trusted == by_kernel, "{clock:?}");
    Ok(())
}
