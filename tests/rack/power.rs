//! Mains fail, and come back: three nodes, each in a mount namespace of its own with RAPL's
//! files as a machine has them, and a cgroup with work that can wait. One has the UPS on its
//! line, the others hear of it by the mesh's gossip. The stages come in their order on every
//! node, nothing that was recorded is lost on its way to the broker, and all is back when
//! mains are.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use purlin_core::mesh::credential::Revocations;
use purlin_mesh::identity::{
    self,
    authority::{Authority, ROOT_LIFE_S},
};
use purlin_proto::{
    api::{Power, Quality, Rack},
    v1::Class,
};
use purlin_tests::{
    Broker, Lab, Node, Proxy, Result,
    broker::free_port,
    ensure,
    faults::{Disturber, Fault, Random},
    modbus::{lateness, python},
    node,
    process::Process,
    serial::DisturbedLine,
    wait,
};

const NODES: usize = 3;
/// For something to be seen by all: a UPS is read every ten seconds.
const SOON: Duration = Duration::from_secs(60);
/// What packages may take at first, in µW: as many digits as the caps, since a plain file
/// keeps what is not written over.
const UNCAPPED: &str = "90000000";

/// A node, and what is around it.
struct Site {
    node: Node,
    dir: PathBuf,
    cgroup: PathBuf,
    /// Between the node and its broker, and counts what left it.
    proxy: Proxy,
    mesh: Option<Process>,
    _line: Option<DisturbedLine>,
    _work: Process,
}

/// What all nodes of the rack have in common.
struct Common {
    broker: Broker,
    authority: Authority,
    /// Where each node's tunnel is, and its gossip.
    tunnels: Vec<SocketAddr>,
}

impl Common {
    fn new(lab: &Lab) -> Result<Self> {
        let year_ago = unix_s().saturating_sub(365 * 86_400);
        let free: Result<Vec<_>> = (0..NODES).map(|_| free_port()).collect();
        let tunnels = free?.into_iter().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Ok(Self {
            broker: Broker::start(lab)?,
            authority: Authority::make("r1", year_ago, ROOT_LIFE_S)?,
            tunnels: tunnels.collect(),
        })
    }

    /// The mesh of a node: nothing but gossip.
    fn mesh(&self, n: usize) -> String {
        let peer = |(n, at): (usize, &SocketAddr)| {
            format!("[[mesh.peers]]\nnode = \"node{n}\"\naddress = \"{at}\"\n")
        };
        let peers: String = self.tunnels.iter().enumerate().map(peer).collect();
        format!(
            "[mesh]\ndiscovery_keys = [\"secret:rack\"]\n[[mesh.listeners]]\nname = \"rack\"\n\
             protocol = \"tunnel\"\naddress = \"{}\"\n{peers}",
            self.tunnels[n]
        )
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Site {
    fn start(lab: &Lab, n: usize, common: &Common) -> Result<(Self, Option<PathBuf>)> {
        let name = &format!("node{n}");
        let dir = lab.dir().join(format!("site-{name}"));
        fs::create_dir_all(dir.join("rapl/intel-rapl:0"))?;
        fs::write(dir.join("rapl/intel-rapl:0/constraint_0_power_limit_uw"), UNCAPPED)?;
        let base = lab.dir().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let group = format!("{base}-{name}");
        let cgroup = Path::new(&unified()?).join(&group);
        fs::create_dir(&cgroup)?;
        let work = format!("while :; do echo >>{}/work; sleep 0.1; done", dir.display());
        let mut command = Command::new("sh");
        let work = Process::start(command.args(["-c", &work]).stdin(Stdio::null()))?;
        fs::write(cgroup.join("cgroup.procs"), work.pid().to_string())?;
        let off = dir.join("off");
        let order = format!(
            "#!/bin/sh\ncat {0}/cgroup.events {1}/rapl/intel-rapl:0/*_uw >>{1}/order.new\n\
             echo off >>{1}/order.new\nmv {1}/order.new {1}/order\n",
            cgroup.display(),
            dir.display()
        );
        fs::write(&off, order)?;
        Command::new("chmod").arg("+x").arg(&off).status()?;

        let late = lateness(Duration::from_millis(300));
        let disturber = || Disturber::new(Fault::None, late, Random::new().0);
        let line = (n == 0).then(|| DisturbedLine::start(disturber())).transpose()?;
        let proxy = Proxy::start(common.broker.port())?;
        let mut node = Node::new(lab, name)?;
        let mounts = format!(
            "mount -t tmpfs none /sys/devices/virtual && \
             mkdir -p /sys/devices/virtual/powercap/intel-rapl && \
             mount --bind {}/rapl /sys/devices/virtual/powercap/intel-rapl && exec \"$@\"",
            dir.display()
        );
        let binary = node.binary().to_owned();
        node.run_with(&["unshare", "--mount", "sh", "-c", &mounts, "sh"], &binary);
        node.set("PURLIN_UPLINK__ENDPOINT", proxy.endpoint());
        node.set("PURLIN_TEST__POWEROFF", &off);
        node.set("PURLIN_NVML_LIBRARY", nvml()?);
        // Beside the program that switches off, where the agent may look.
        let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("nvml/small.yaml");
        fs::copy(profile, dir.join("nvml.yaml"))?;
        node.set("PURLIN_NVML_PROFILE", dir.join("nvml.yaml"));
        node.set("PURLIN_NVML_CONTROL", dir.join("nvml"));
        let document = format!(
            r#"
            [alarms.rules.on-battery]
            metric = "hw.voltage"
            attributes = {{ "hw.name" = "input_voltage" }}
            below = 100.0
            clear = 180.0
            clear_hold_s = 2
            [alarms.rules.ten-minutes]
            metric = "hw.battery.time_left"
            below = 600.0
            clear = 900.0
            clear_hold_s = 2
            [alarms.rules.three-minutes]
            metric = "hw.battery.time_left"
            below = 180.0
            clear = 300.0
            clear_hold_s = 2
            [power]
            recover_s = 2
            [[power.stages]]
            name = "battery"
            when = ["*/on-battery.*"]
            cap_w = 80
            cap_gpu_w = 200
            [[power.stages]]
            name = "low"
            when = ["*/ten-minutes.*"]
            cap_w = 50
            cap_gpu_w = 20
            shed = ["{group}"]
            [[power.stages]]
            name = "last"
            when = ["*/three-minutes.*"]
            flush = true
            shutdown = true
            {}
            {}
            "#,
            line.as_ref().map(|line| bus(&line.driver)).unwrap_or_default(),
            common.mesh(n)
        );
        fs::create_dir_all(node.state_dir().join("secrets"))?;
        fs::write(node.state_dir().join("secrets/rack"), "5a".repeat(32))?;
        let identity = node.state_dir().join("mesh").join(identity::DIR);
        fs::create_dir_all(&identity)?;
        fs::write(identity.join(identity::RACK), common.authority.certificate_pem())?;
        let (made, nobody) = (unix_s() - 60, Revocations::default());
        let own = common.authority.make_node(name, made, 86_400, &nobody)?;
        fs::write(identity.join(identity::NODE), own)?;
        node.start()?;
        let mesh = Some(start_mesh(&node)?);
        let file = lab.file(&format!("{name}.toml"), document)?;
        let applied = node.cli_for(30, &["config", "apply", &file.display().to_string()])?;
        ensure!(applied.code == 0, "the document: {applied:?}");
        let device = line.as_ref().map(|line| line.device.clone());
        Ok((Self { node, dir, cgroup, proxy, mesh, _line: line, _work: work }, device))
    }

    fn cap(&self) -> Result<String> {
        let file = self.dir.join("rapl/intel-rapl:0/constraint_0_power_limit_uw");
        Ok(fs::read_to_string(file)?.trim().to_owned())
    }

    /// What both GPUs were limited to so far, in watts; they take 100 to 300.
    fn gpus(&self) -> Result<Vec<u32>> {
        let told = fs::read_to_string(self.dir.join("nvml")).unwrap_or_default();
        let limits = |gpu: &str| -> Vec<u32> {
            let begins = format!("limit {gpu} ");
            let lines = told.lines().filter_map(|line| line.strip_prefix(&begins));
            lines.filter_map(|milliwatts| Some(milliwatts.parse::<u32>().ok()? / 1000)).collect()
        };
        ensure!(limits("0") == limits("1"), "{told}");
        Ok(limits("0"))
    }

    fn is_frozen(&self) -> Result<bool> {
        Ok(fs::read_to_string(self.cgroup.join("cgroup.events"))?.contains("frozen 1"))
    }

    /// Names of the stages in force, once the node says that it is so many.
    fn until_stages(&self, count: usize) -> Result {
        let cause = "node0/on-battery.shelf.ups.input_voltage";
        wait::until("the stages in force", SOON, || {
            let power: Power = self.node.json(&["power", "show"]).map_err(|e| format!("{e:?}"))?;
            let in_force = power.stages.iter().filter(|it| it.in_force).count();
            let done = in_force == count
                && power.problems.is_empty()
                && power.causes.iter().any(|it| it == cause);
            if done { Ok(()) } else { Err(format!("{power:?}")) }
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // What stands still can't be ended.
        _ = fs::write(self.cgroup.join("cgroup.freeze"), "0");
        _ = self._work.kill();
        for _ in 0..50 {
            if fs::remove_dir(&self.cgroup).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn bus(port: &Path) -> String {
    format!(
        "[rack.buses.shelf]\nport = {port:?}\n\
         [rack.buses.shelf.devices.ups]\naddress = 1\nmap = \"apc-smart-ups\"\n"
    )
}

/// Until it answers: a document that has a mesh is refused by a node without one.
fn start_mesh(node: &Node) -> Result<Process> {
    let log = fs::File::options().create(true).append(true).open(node.dir().join("mesh.log"))?;
    let mut command = node.command(&[]);
    let command = command.arg("mesh").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let process = Process::start(command)?;
    wait::until("the mesh answers", SOON, || {
        let shown = node.cli(&["mesh", "show"]).map_err(|e| format!("{e:?}"))?;
        if shown.code == 0 { Ok(()) } else { Err(format!("{shown:?}")) }
    })?;
    Ok(process)
}

pub fn fails(lab: &Lab) -> Result {
    let common = Common::new(lab)?;
    let state = lab.dir().join("ups");
    let ups = |text: &str| -> Result {
        let new = state.with_extension("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, &state)?)
    };
    ups("3600 230")?;
    let mut sites = Vec::new();
    let mut devices = Vec::new();
    for n in 0..NODES {
        let (site, device) = Site::start(lab, n, &common)?;
        sites.push(site);
        devices.extend(device);
    }
    let _ups = devices_at(lab, &state, &devices)?;
    wait::until("the UPS is read", SOON, || {
        let rack: Rack = sites[0].node.json(&["rack", "show"]).map_err(|e| format!("{e:?}"))?;
        let mut readings = rack.buses.iter().flat_map(|bus| &bus.devices[0].readings);
        let good = readings.any(|it| it.name == "runtime" && it.quality == Quality::Good);
        if good { Ok(()) } else { Err(format!("{rack:?}")) }
    })?;
    for site in &sites {
        ensure!(!site.is_frozen()? && site.cap()? == UNCAPPED, "something is done already");
    }

    ups("3000 0")?;
    for site in &sites {
        site.until_stages(1)?;
        ensure!(site.cap()? == "80000000" && !site.is_frozen()?, "{}", site.cap()?);
        ensure!(site.gpus()? == [200], "{:?}", site.gpus()?);
    }
    ups("500 0")?;
    for site in &sites {
        site.until_stages(2)?;
        ensure!(site.cap()? == "50000000" && site.is_frozen()?, "{}", site.cap()?);
        ensure!(site.gpus()? == [200, 100], "{:?}", site.gpus()?);
        let power: Power = site.node.json(&["power", "show"])?;
        let limits: Vec<_> = power.limits.iter().map(|it| (it.watts, it.before_watts)).collect();
        ensure!(limits == [(50.0, 90.0), (100.0, 300.0), (100.0, 300.0)], "{limits:?}");
    }
    ups("100 0")?;
    for (n, site) in sites.iter_mut().enumerate() {
        let order = wait::until("the node is shut down", SOON, || {
            fs::read_to_string(site.dir.join("order")).map_err(|e| e.to_string())
        })?;
        ensure!(order.contains("frozen 1") && order.contains("50000000"), "{order}");
        // What is to be taken back is on disk, however it ends.
        match n {
            0 => site.node.kill()?,
            _ => drop(site.node.stop_by(Signal::SIGTERM)?),
        }
        // The whole machine is off.
        drop(site.mesh.take());
    }

    // The machines come up with mains, and what stood still has been there all the time.
    ups("3600 230")?;
    for site in &mut sites {
        site.mesh = Some(start_mesh(&site.node)?);
        site.node.start()?;
    }
    for site in &sites {
        wait::until("all is back", SOON * 2, || {
            let is_back = !site.is_frozen().map_err(|e| format!("{e:?}"))?
                && site.cap().map_err(|e| format!("{e:?}"))? == UNCAPPED
                && site.gpus().map_err(|e| format!("{e:?}"))? == [200, 100, 300];
            let raised = site.node.status().map_err(|e| format!("{e:?}"))?.alarms;
            let is_calm = !raised.iter().any(|it| it.id.contains("shelf"));
            if is_back && is_calm { Ok(()) } else { Err(format!("{raised:?}")) }
        })?;
        let worked = fs::metadata(site.dir.join("work"))?.len();
        wait::until("the work goes on", SOON, || {
            let now = fs::metadata(site.dir.join("work")).map_err(|e| e.to_string())?.len();
            if now > worked { Ok(()) } else { Err(now.to_string()) }
        })?;
        let order = fs::read_to_string(site.dir.join("order"))?;
        ensure!(order.matches("off").count() == 1, "shut down again: {order}");
        let log = site.node.log()?;
        let told = ["stage battery", "stage low", "stage last"];
        let at: Vec<Option<usize>> = told.iter().map(|text| log.find(text)).collect();
        ensure!(at.iter().all(Option::is_some) && at.is_sorted(), "{at:?}");
        wait::until("all that was recorded has arrived", SOON, || {
            let queue = site.node.queue().map_err(|e| format!("{e:?}"))?;
            let alarms = node::class(&queue, "alarm").map_err(|e| format!("{e:?}"))?;
            let events = node::class(&queue, "event").map_err(|e| format!("{e:?}"))?;
            let arrived = [alarms, events].iter().all(|it| it.acked_seq == it.last_seq);
            if arrived { Ok(()) } else { Err(format!("{queue:?}")) }
        })?;
        nothing_is_lost(site)?;
    }
    Ok(())
}

/// Each record of an alarm or an event left the node and was acknowledged by the broker, as
/// somebody between them counts.
fn nothing_is_lost(site: &Site) -> Result {
    let queue = site.node.queue()?;
    let incarnation = u64::from_str_radix(&queue.incarnation, 16)?;
    let observed = site.proxy.observed();
    ensure!(observed.unreadable.is_empty(), "unreadable: {:?}", observed.unreadable);
    for (name, class) in [("alarm", Class::Alarm), ("event", Class::Event)] {
        let last = node::class(&queue, name)?.acked_seq;
        ensure!(last > 0 || name == "alarm", "no {name} was recorded");
        let lost = observed.unconfirmed((incarnation, class), last);
        ensure!(lost.is_empty(), "{} of {last} {name}s lost: {lost:?}", lost.len());
        println!("{name}: {last} records, none lost");
    }
    Ok(())
}

fn devices_at(lab: &Lab, state: &Path, devices: &[PathBuf]) -> Result<Process> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("rack/ups.py");
    let log = lab.dir().join("ups.log");
    let output = fs::File::create(&log)?;
    let mut command = Command::new(python());
    command.arg(script).arg(state).args(devices).stdin(Stdio::piped());
    let process = Process::start(command.stdout(output.try_clone()?).stderr(output))?;
    wait::until("the UPSes listen", SOON, || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        if said.contains("listening") { Ok(()) } else { Err(said) }
    })?;
    Ok(process)
}

/// The made-up NVML, which cargo builds beside this test.
fn nvml() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let library = own.with_file_name("libpurlin_nvml_fixture.so");
    ensure!(library.is_file(), "{} was not built", library.display());
    Ok(library)
}

/// Where cgroup v2 is mounted.
fn unified() -> Result<String> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let at = mounts.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let at = words.next()?;
        (words.next()? == "cgroup2").then(|| at.to_owned())
    });
    at.ok_or_else(|| "no cgroup v2 is mounted here".into())
}
