//! An agent with a bus on a pty and pymodbus as the device: configured by a document,
//! read, shown, spooled, and back after the device or the adapter was away.

use std::{fs, path::Path, time::Duration};

use purlin_proto::api::{Quality, Rack, RackDevice};
use purlin_tests::{
    Lab, Node, Result, ensure,
    faults::{Disturber, Fault, Random},
    modbus::{lateness, pymodbus},
    node,
    serial::DisturbedLine,
    wait,
};

/// For something to be seen through the agent.
const SOON: Duration = Duration::from_secs(40);

fn line() -> Result<DisturbedLine> {
    let late = lateness(Duration::from_millis(300));
    DisturbedLine::start(Disturber::new(Fault::None, late, Random::new().0))
}

/// The port as `/dev/serial/by-path` would have it: a link that outlives the adapter.
/// Links elsewhere are refused, so it is beside the terminals.
struct ByPath(std::path::PathBuf);

impl ByPath {
    fn new(lab: &Lab) -> Self {
        let lab = lab.dir().file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self(Path::new("/dev").join(lab))
    }

    fn plug(&self, port: &Path) -> Result {
        self.unplug();
        Ok(std::os::unix::fs::symlink(port, &self.0)?)
    }

    fn unplug(&self) {
        _ = fs::remove_file(&self.0);
    }
}

impl Drop for ByPath {
    fn drop(&mut self) {
        self.unplug();
    }
}

fn until_device(node: &Node, what: &str, is: impl Fn(&RackDevice) -> bool) -> Result<RackDevice> {
    wait::until(what, SOON, || {
        let rack: Rack = node.json(&["rack", "show"]).map_err(|error| format!("{error:?}"))?;
        let device = rack.buses.first().and_then(|bus| bus.devices.first());
        match device {
            Some(device) if is(device) => Ok(device.clone()),
            _ => Err(format!("{rack:?}")),
        }
    })
}

fn has(device: &RackDevice, quality: Quality) -> bool {
    !device.readings.is_empty() && device.readings.iter().all(|it| it.quality == quality)
}

/// Registers 1 and 2 of the device are 268 and 525.
pub fn whole(lab: &Lab) -> Result {
    let port = ByPath::new(lab);
    let first = line()?;
    port.plug(&first.driver)?;
    let device = pymodbus(&[&first.device], lab)?;
    let mut node = Node::new(lab, "rack")?;
    node.start()?;
    let document = format!(
        "[rack.buses.aisle]\nport = {:?}\nform = \"8N1\"\n\
         [rack.buses.aisle.devices.inlet]\naddress = 17\nmap = \"xy-md02\"\n",
        port.0
    );
    let file = lab.file("rack.toml", &document)?;
    let file = file.display().to_string();
    ensure!(node.cli(&["config", "apply", &file])?.code == 0, "the document is refused");
    let config = node.config()?;
    let shown = node::setting(&config, "rack.buses.aisle")?;
    ensure!(shown.value.ends_with(", devices: 1"), "{shown:?}");

    let read = until_device(&node, "it is read", |it| has(it, Quality::Good))?;
    let values: Vec<_> = read.readings.iter().map(|it| it.value).collect();
    ensure!(values == [Some(26.8), Some(52.5)], "{values:?}");

    // The adapter is pulled, and plugged in again as another terminal.
    drop(device);
    port.unplug();
    drop(first);
    until_device(&node, "what it said is not good for ever", |it| has(it, Quality::Stale))?;
    let second = line()?;
    port.plug(&second.driver)?;
    let device = pymodbus(&[&second.device], lab)?;
    until_device(&node, "it is back by its path", |it| has(it, Quality::Good))?;

    // The device is switched off, and on again.
    drop(device);
    until_device(&node, "it is silent", |it| it.silent)?;
    let _device = pymodbus(&[&second.device], lab)?;
    until_device(&node, "it answers again", |it| !it.silent && has(it, Quality::Good))?;
    Ok(())
}

/// A bus that can't be is refused with every reason.
pub fn refused(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "rack")?;
    node.start()?;
    let document = "[rack.buses.a]\nport = \"ttyUSB0\"\n\
                    [rack.buses.a.devices.b]\naddress = 999\nmap = \"toaster\"\n";
    let file = lab.file("rack.toml", document)?;
    let answer = node.cli(&["config", "apply", &file.display().to_string()])?;
    ensure!(answer.code == 3, "{answer:?}");
    for path in ["rack.buses.a.port", "devices.b.address", "devices.b.map", "apc-smart-ups"] {
        ensure!(answer.stderr.contains(path), "{path}: {}", answer.stderr);
    }
    Ok(())
}
