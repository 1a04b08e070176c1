//! Debian's chronyd in a network namespace of its own, with a server beside it, and its
//! ptp4l in two with a switch between: what they say of the clock is shown, and whether that
//! is trusted. No clock is set.

use std::{fs, net::Ipv4Addr, path::Path, process::Stdio, time::Duration};

use nix::sys::signal::Signal;
use purlin_proto::api::Clock;
use purlin_tests::{
    Lab, Need, Node, Result, ensure,
    lab::Test,
    namespace::{Namespace, Switch},
    process::Process,
    test, wait,
};

/// The agent asks every ten seconds.
const SOON: Duration = Duration::from_secs(60);

pub fn tests() -> [Test; 2] {
    let needs = [Need::Root, Need::Program("nsenter"), Need::Program("unshare")];
    let chrony = ["chronyd", "chronyc"].map(Need::Program);
    let linuxptp = ["ptp4l", "pmc", "setpriv", "ip"].map(Need::Program);
    [
        test("chronyd_says_whether_the_clock_is_true", 240, chronyd_says).needs(&chrony),
        test("ptp4l_says_whether_the_clock_is_true", 240, ptp4l_says).needs(&linuxptp),
    ]
    .map(|it| it.needs(&needs))
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
    until_clock(node, state, |clock| clock.service.as_ref().map(|it| it.state.as_str()))
}

fn until_clock(
    node: &Node,
    state: Option<&str>,
    of: impl Fn(&Clock) -> Option<&str>,
) -> Result<Clock> {
    wait::until(&format!("the clock: {state:?}"), SOON, || {
        let clock = node.status().map_err(|error| format!("{error:?}"))?.clock;
        if of(&clock) == state { Ok(clock) } else { Err(format!("{clock:?}")) }
    })
}

fn chronyd_says(lab: &Lab) -> Result {
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

/// Not the one that is asked without being named.
const DOMAIN: &str = "24";

/// A ptp4l that the kernel lets set no clock, with packets stamped by software.
fn ptp4l(lab: &Lab, net: &Namespace, socket: &Path, name: &str, lines: &str) -> Result<Process> {
    // A servo that is settled within seconds.
    let file = format!(
        "[global]\nuds_address {}\ndomainNumber {DOMAIN}\nlogAnnounceInterval -1\n\
         logSyncInterval -2\npi_proportional_const 0.7\npi_integral_const 0.3\n{lines}\n",
        socket.display()
    );
    let file = lab.file(&format!("{name}.conf"), file)?;
    let log = fs::File::create(lab.dir().join(format!("{name}.log")))?;
    let mut command = net.command("setpriv");
    command.args(["--bounding-set", "-sys_time", "--inh-caps", "-sys_time"]);
    command.args(["ptp4l", "-S", "-m", "-i", "eth0", "-f"]).arg(file).stdin(Stdio::null());
    Process::start(command.stdout(log.try_clone()?).stderr(log))
}

fn ptp4l_says(lab: &Lab) -> Result {
    let switch = Switch::new()?;
    let (far, near) = (
        switch.plug(0, Ipv4Addr::new(10, 77, 0, 1))?,
        switch.plug(1, Ipv4Addr::new(10, 77, 0, 2))?,
    );
    // The agent's /run, where that socket is on a node.
    let run = lab.dir().join("run");
    fs::create_dir(&run)?;
    let (socket, other) = (run.join("ptp4l"), lab.dir().join("grandmaster"));
    let mut node = Node::new(lab, "node")?;
    let binary = node.binary().to_owned();
    let mount = format!("mount --bind {} /run && exec \"$@\"", run.display());
    let files = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
    node.run_with(&[&["nsenter", "-t", &near.pid(), "-n"][..], &files].concat(), &binary);
    node.start()?;
    let until = |state| until_clock(&node, state, |it| it.ptp.as_ref().map(|it| it.state.as_str()));
    let by_kernel = until(None)?.trusted;

    let own = ptp4l(lab, &near, &socket, "own", "slaveOnly 1")?;
    ensure!(!until(Some("follows nobody"))?.trusted, "nobody's word is taken");
    let anybody = ptp4l(lab, &far, &other, "anybody", "free_running 1")?;
    let clock = until(Some("follows a clock without a source"))?;
    ensure!(!clock.trusted, "the word of a clock without a source is taken");
    anybody.kill()?;

    let _grandmaster = ptp4l(lab, &far, &other, "grandmaster", "free_running 1\nclockClass 6")?;
    let clock = until(Some("synchronized"))?;
    ensure!(clock.trusted == by_kernel, "{clock:?}, and the kernel says {by_kernel}");
    let mut pmc = near.command("pmc");
    pmc.args(["-u", "-b", "0", "-d", DOMAIN, "-i"]).arg(lab.dir().join("pmc"));
    let output = pmc.arg("-s").arg(&socket).arg("GET PARENT_DATA_SET").output()?;
    let theirs = String::from_utf8(output.stdout)?;
    let field = |name: &str| {
        let line = theirs.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(str::trim).ok_or_else(|| format!("no {name}: {theirs}"))
    };
    let ptp = clock.ptp.unwrap_or_default();
    let grandmaster = field("grandmasterIdentity")?;
    ensure!(ptp.grandmaster.as_deref() == Some(grandmaster), "{ptp:?}, {theirs}");
    ensure!(
        field("gm.ClockClass")? == ptp.class.to_string() && ptp.steps == 1,
        "{ptp:?}, {theirs}"
    );
    // Both are the same clock, and on its way a packet takes some time.
    let is_small = ptp.offset_s.abs() < 1.0 && (0.0..1.0).contains(&ptp.path_delay_s);
    ensure!(is_small && ptp.path_delay_s > 0.0, "{ptp:?}");
    let page = node.cli(&["status"])?.stdout;
    ensure!(page.contains(&format!("ptp4l synchronized: {grandmaster}, class 6")), "{page}");

    own.signal(Signal::SIGSTOP)?;
    ensure!(!until(Some("does not answer"))?.trusted, "one that stands still keeps no clock");
    own.signal(Signal::SIGCONT)?;
    until(Some("synchronized"))?;
    own.kill()?;
    let clock = until(None)?;
    ensure!(clock.trusted == by_kernel, "{clock:?}");
    let said = fs::read_to_string(lab.dir().join("own.log"))?;
    ensure!(said.contains("failed to adjust the clock: Operation not permitted"), "{said}");
    Ok(())
}
