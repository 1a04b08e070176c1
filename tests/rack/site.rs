//! A node of a rack whose power fails, and what is around it: a network of its own at the
//! rack's switch, RAPL's files as a machine has them, GPUs, work that can wait, a broker.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
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
use purlin_proto::api::Power;
use purlin_tests::{
    Broker, Lab, Node, Proxy, Result, ensure,
    faults::{Disturber, Fault, Random},
    modbus::lateness,
    namespace::{Namespace, Switch},
    process::Process,
    serial::DisturbedLine,
    wait,
};

pub const NODES: usize = 3;
/// For something to be seen by all: a UPS is read every ten seconds.
pub const SOON: Duration = Duration::from_secs(60);
/// What packages may take at first, in µW: as many digits as the caps, since a plain file
/// keeps what is not written over.
pub const UNCAPPED: &str = "90000000";

/// A node, and what is around it.
pub struct Site {
    pub node: Node,
    pub dir: PathBuf,
    n: usize,
    cgroup: PathBuf,
    /// Between the node and its broker, and counts what left it.
    pub proxy: Proxy,
    mesh: Option<Process>,
    _space: Namespace,
    _line: Option<DisturbedLine>,
    _work: Process,
}

/// What all nodes of the rack have in common.
pub struct Common {
    switch: Switch,
    broker: Broker,
    authority: Authority,
}

impl Common {
    pub fn new(lab: &Lab) -> Result<Self> {
        let year_ago = unix_s().saturating_sub(365 * 86_400);
        Ok(Self {
            switch: Switch::new()?,
            broker: Broker::start(lab)?,
            authority: Authority::make("r1", year_ago, ROOT_LIFE_S)?,
        })
    }
}

fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, n as u8 + 1)
}

/// Where a node's tunnel is, and its gossip.
fn tunnel(n: usize) -> SocketAddr {
    SocketAddr::from((address(n), 15008))
}

/// The mesh of a node: nothing but gossip.
fn mesh(n: usize) -> String {
    let peer = |n| format!("[[mesh.peers]]\nnode = \"node{n}\"\naddress = \"{}\"\n", tunnel(n));
    let peers: String = (0..NODES).map(peer).collect();
    format!(
        "[mesh]\ndiscovery_keys = [\"secret:rack\"]\n[[mesh.listeners]]\nname = \"rack\"\n\
         protocol = \"tunnel\"\naddress = \"{}\"\n{peers}",
        tunnel(n)
    )
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Site {
    /// A node that runs; and, of the first one, the far end of its line.
    pub fn start(lab: &Lab, n: usize, common: &Common) -> Result<(Self, Option<PathBuf>)> {
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
        let space = common.switch.plug(n, address(n))?;
        // The uplink's near end is in the node's network, and its far end is not.
        let near = space.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let near = near.join().map_err(|_| "nobody listens")??;
        let proxy = Proxy::serving(near, common.broker.port())?;
        let mut node = Node::new(lab, name)?;
        let mounts = format!(
            "mount -t tmpfs none /sys/devices/virtual && \
             mkdir -p /sys/devices/virtual/powercap/intel-rapl && \
             mount --bind {}/rapl /sys/devices/virtual/powercap/intel-rapl && exec \"$@\"",
            dir.display()
        );
        let binary = node.binary().to_owned();
        let net = ["nsenter", "-t", &space.pid(), "-n"];
        let files = ["unshare", "--mount", "sh", "-c", &mounts, "sh"];
        node.run_with(&[&net[..], &files].concat(), &binary);
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
            mesh(n)
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
        let site =
            Self { node, dir, n, cgroup, proxy, mesh, _space: space, _line: line, _work: work };
        Ok((site, device))
    }

    /// The whole machine goes off, and the rack's network loses it. It ends its agent in order,
    /// or not even that.
    pub fn goes_off(&mut self, common: &Common, in_order: bool) -> Result {
        match in_order {
            true => drop(self.node.stop_by(Signal::SIGTERM)?),
            false => self.node.kill()?,
        }
        drop(self.mesh.take());
        common.switch.cable(self.n, false)
    }

    /// Mains are back.
    pub fn comes_on(&mut self, common: &Common) -> Result {
        common.switch.cable(self.n, true)?;
        self.mesh = Some(start_mesh(&self.node)?);
        self.node.start().map(drop)
    }

    pub fn cap(&self) -> Result<String> {
        let file = self.dir.join("rapl/intel-rapl:0/constraint_0_power_limit_uw");
        Ok(fs::read_to_string(file)?.trim().to_owned())
    }

    /// What both GPUs were limited to so far, in watts; they take 100 to 300.
    pub fn gpus(&self) -> Result<Vec<u32>> {
        let told = fs::read_to_string(self.dir.join("nvml")).unwrap_or_default();
        let limits = |gpu: &str| -> Vec<u32> {
            let begins = format!("limit {gpu} ");
            let lines = told.lines().filter_map(|line| line.strip_prefix(&begins));
            lines.filter_map(|milliwatts| Some(milliwatts.parse::<u32>().ok()? / 1000)).collect()
        };
        ensure!(limits("0") == limits("1"), "{told}");
        Ok(limits("0"))
    }

    pub fn is_frozen(&self) -> Result<bool> {
        Ok(fs::read_to_string(self.cgroup.join("cgroup.events"))?.contains("frozen 1"))
    }

    /// Names of the stages in force, once the node says that it is so many.
    pub fn until_stages(&self, count: usize) -> Result {
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
