//! Network UPS Tools' own server and a UPS that its driver reads from a file: read, stale,
//! gone and back; what it says of itself is an alarm, and begins a stage.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use purlin_proto::api::{Power, Quality, Rack, RackDevice};
use purlin_tests::{Lab, Node, Result, broker::free_port, ensure, process::Process, wait};

/// Where Debian has the programs; those in /sbin start nothing before they are configured.
const PROGRAMS: &str = "/lib/nut";
/// For something to be seen through the agent, which asks every five seconds.
const SOON: Duration = Duration::from_secs(60);

/// Why there is no server here.
pub fn no_nut() -> Option<String> {
    let is_here = Path::new(PROGRAMS).join("dummy-ups").exists();
    (!is_here).then(|| format!("no {PROGRAMS}/dummy-ups: apt-get install nut-server"))
}

/// A directory of NUT's, with a UPS in a file.
struct Nut {
    dir: PathBuf,
    port: u16,
}

impl Nut {
    fn new(lab: &Lab) -> Result<Self> {
        let (dir, port) = (lab.dir().join("nut"), free_port()?);
        fs::create_dir_all(&dir)?;
        let ups = "[hall]\ndriver = dummy-ups\nmode = dummy-once\npollinterval = 1\nport = ";
        let files = [
            ("ups.conf", format!("{ups}{}/hall.dev\n", dir.display())),
            ("upsd.conf", format!("LISTEN 127.0.0.1 {port}\nMAXAGE 4\n")),
            ("upsd.users", String::new()),
        ];
        for (name, text) in files {
            let file = dir.join(name);
            fs::write(&file, text)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        }
        Ok(Self { dir, port })
    }

    /// What the UPS says from now on.
    fn says(&self, status: &str, volts: &str, seconds: u32) -> Result {
        let text = format!(
            "ups.status: {status}\nbattery.charge: 90\nbattery.runtime: {seconds}\n\
             input.voltage: {volts}\nups.load: 23\n"
        );
        let new = self.dir.join("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.dir.join("hall.dev"))?)
    }

    fn start(&self, program: &str, arguments: &[&str]) -> Result<Process> {
        let log = fs::File::options().append(true).create(true).open(self.dir.join("log"))?;
        let mut command = Command::new(Path::new(PROGRAMS).join(program));
        command.args(arguments).args(["-F", "-u", "root"]).stdin(Stdio::null());
        for variable in ["NUT_CONFPATH", "NUT_STATEPATH", "NUT_ALTPIDPATH"] {
            command.env(variable, &self.dir);
        }
        Process::start(command.stdout(log.try_clone()?).stderr(log))
    }

    fn driver(&self) -> Result<Process> {
        let driver = self.start("dummy-ups", &["-a", "hall"])?;
        let socket = self.dir.join("dummy-ups-hall");
        wait::until("the driver's socket", SOON, || {
            if socket.exists() { Ok(()) } else { Err(format!("no {}", socket.display())) }
        })?;
        Ok(driver)
    }
}

fn until_ups(node: &Node, what: &str, is: impl Fn(&RackDevice) -> bool) -> Result {
    wait::until(what, SOON, || {
        let rack: Rack = node.json(&["rack", "show"]).map_err(|error| format!("{error:?}"))?;
        let ups = rack.buses.first().and_then(|bus| bus.devices.first());
        if ups.is_some_and(&is) { Ok(()) } else { Err(format!("{rack:?}")) }
    })
}

fn value(ups: &RackDevice, name: &str) -> Option<f64> {
    let reading = ups.readings.iter().find(|it| it.name == name)?;
    reading.value.filter(|_| reading.quality == Quality::Good)
}

fn is_stale(ups: &RackDevice) -> bool {
    ups.silent && ups.readings.iter().all(|it| it.quality == Quality::Stale)
}

fn alarms(node: &Node) -> Result<Vec<String>> {
    Ok(node.status()?.alarms.into_iter().map(|it| it.id).collect())
}

fn until_alarms(node: &Node, expected: &[&str]) -> Result {
    wait::until("the alarms", SOON, || {
        let all = alarms(node).map_err(|error| format!("{error:?}"))?;
        let of_ups: Vec<_> = all.iter().filter(|id| id.contains(".basement")).collect();
        if of_ups == expected { Ok(()) } else { Err(format!("{all:?}")) }
    })
}

pub fn whole(lab: &Lab) -> Result {
    let nut = Nut::new(lab)?;
    nut.says("OL CHRG", "230.1", 3600)?;
    let driver = nut.driver()?;
    let server = nut.start("upsd", &[])?;
    let mut node = Node::new(lab, "rack")?;
    node.start()?;
    let document = format!(
        r#"
        [rack.buses.basement]
        port = "nut://127.0.0.1:{}"
        [alarms.rules.low]
        metric = "hw.battery.time_left"
        attributes = {{ "hw.id" = "basement/*" }}
        below = 600.0
        clear_hold_s = 1
        [power]
        rehearse = true
        recover_s = 1
        [[power.stages]]
        name = "battery"
        when = ["flag.*.on_battery"]
        [[power.stages]]
        name = "low"
        when = ["low.*"]
        "#,
        nut.port
    );
    let file = lab.file("nut.toml", &document)?;
    let applied = node.cli_for(30, &["config", "apply", &file.display().to_string()])?;
    ensure!(applied.code == 0, "the document: {applied:?}");

    until_ups(&node, "it is read", |ups| {
        let read = ["battery_charge", "battery_runtime", "input_voltage", "ups_load"];
        read.map(|name| value(ups, name)) == [Some(0.9), Some(3600.0), Some(230.1), Some(0.23)]
            && ups.title == "Dummy Manufacturer Dummy UPS"
    })?;
    until_alarms(&node, &[])?;

    nut.says("OB DISCHRG", "0", 500)?;
    until_alarms(&node, &["flag.basement.hall.on_battery", "low.basement.hall.battery_runtime"])?;
    wait::until("both stages", SOON, || {
        let power: Power = node.json(&["power", "show"]).map_err(|error| format!("{error:?}"))?;
        let all = power.stages.iter().all(|it| it.in_force);
        if all { Ok(()) } else { Err(format!("{power:?}")) }
    })?;

    // The driver stands still: its server calls stale what it says, and no alarm ends by it.
    driver.signal(Signal::SIGSTOP)?;
    until_ups(&node, "what it said is stale", is_stale)?;
    let silent = "silent.basement.hall";
    let on_battery = "flag.basement.hall.on_battery";
    until_alarms(&node, &[on_battery, "low.basement.hall.battery_runtime", silent])?;
    driver.signal(Signal::SIGCONT)?;
    nut.says("OL", "229", 3600)?;
    until_ups(&node, "it is back", |ups| value(ups, "input_voltage") == Some(229.0))?;

    server.kill()?;
    until_ups(&node, "nobody serves it", is_stale)?;
    wait::until("that is an alarm", SOON, || {
        let all = alarms(&node).map_err(|error| format!("{error:?}"))?;
        let told = all.iter().any(|id| id == "silent.basement");
        if told { Ok(()) } else { Err(format!("{all:?}")) }
    })?;
    let _server = nut.start("upsd", &[])?;
    until_ups(&node, "it is served again", |ups| value(ups, "input_voltage") == Some(229.0))?;
    until_alarms(&node, &[])
}
