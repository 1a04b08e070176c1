//! One line, two nodes and a device: pymodbus, the owner and its standby, joined by a hub
//! that lets each hear the others.

use std::time::{Duration, Instant};

use purlin_core::rack::shared::{LETS_IN, MAKES_ITSELF_HEARD, STANDBY_WAITS, STINT};
use purlin_proto::api::{Quality, Rack, RackBus};
use purlin_tests::{Lab, Node, Result, ensure, modbus::units, serial::Hub, wait};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);
/// What a busy machine may add to a node's own times.
const SLACK: Duration = Duration::from_secs(10);
/// Places on the hub.
const DEVICE: usize = 0;
const OWNER: usize = 1;
const STANDBY: usize = 2;

fn node(lab: &Lab, hub: &Hub, place: usize, role: &str) -> Result<Node> {
    let mut node = Node::new(lab, role)?;
    node.start()?;
    let document = format!(
        "[rack.buses.aisle]\nport = {:?}\nrole = {role:?}\n\
         [rack.buses.aisle.devices.inlet]\naddress = 1\nmap = \"xy-md02\"\n",
        hub.ports[place]
    );
    let file = lab.file(&format!("{role}.toml"), document)?.display().to_string();
    let applied = node.cli_for(30, &["config", "apply", &file])?;
    ensure!(applied.code == 0, "{applied:?}");
    Ok(node)
}

fn until(node: &Node, what: &str, is: impl Fn(&RackBus) -> bool) -> Result {
    wait::until(what, SOON, || {
        let rack: Rack = node.json(&["rack", "show"]).map_err(|error| format!("{error:?}"))?;
        match rack.buses.first() {
            Some(bus) if is(bus) => Ok(()),
            _ => Err(format!("{rack:?}")),
        }
    })
}

fn reads(bus: &RackBus) -> bool {
    let mut readings = bus.devices.iter().flat_map(|it| &it.readings);
    bus.role.as_deref().is_some_and(|it| it.ends_with("speaks"))
        && readings.next().is_some_and(|it| it.quality == Quality::Good)
}

fn listens(bus: &RackBus) -> bool {
    bus.role.as_deref() == Some("standby, listens") && bus.devices.is_empty()
}

/// How often the word went from one node to the other.
fn handovers(said: &[(Instant, usize)]) -> usize {
    let nodes: Vec<usize> = said.iter().map(|it| it.1).filter(|it| *it != DEVICE).collect();
    nodes.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

pub fn two_nodes(lab: &Lab) -> Result {
    let hub = Hub::start(3)?;
    let state = lab.file("units.json", json!({"1": {"4": {"1": [253, 455]}}}).to_string())?;
    let _device = units(&state, &[hub.ports[DEVICE].display().to_string()], lab)?;
    let mut owner = node(lab, &hub, OWNER, "owner")?;
    until(&owner, "the owner reads", reads)?;
    let standby = node(lab, &hub, STANDBY, "standby")?;
    until(&standby, "the standby listens", listens)?;
    // Longer than a standby waits, so that it would have spoken if it did not hear.
    std::thread::sleep(STANDBY_WAITS + MAKES_ITSELF_HEARD);
    until(&owner, "the owner still reads", reads)?;
    ensure!(hub.said().iter().all(|(_, who)| *who != STANDBY), "the standby spoke");

    owner.kill()?;
    until(&standby, "the standby takes over", reads)?;
    let said = hub.said();
    let last = said.iter().rfind(|it| it.1 == OWNER).ok_or("the owner said nothing")?.0;
    let first = said.iter().find(|it| it.1 == STANDBY).ok_or("the standby said nothing")?.0;
    let silent = first.duration_since(last);
    ensure!(
        silent + Duration::from_secs(1) > STANDBY_WAITS && silent < STANDBY_WAITS + SLACK,
        "taken over after {silent:?}"
    );

    let back = Instant::now();
    owner.start()?;
    until(&owner, "the owner has its bus back", reads)?;
    until(&standby, "the standby listens again", listens)?;
    let said = hub.said();
    let again = said.iter().find(|it| it.1 == OWNER && it.0 > back).ok_or("no word of it")?.0;
    ensure!(again.duration_since(back) < STINT + LETS_IN + SLACK, "{:?}", again - back);
    // To the standby and back, and no more: two that spoke at once would go on and on.
    ensure!((2..=6).contains(&handovers(&said)), "{} handovers", handovers(&said));
    let log = standby.log()?;
    ensure!(log.contains("this node reads it now"), "{log}");
    Ok(())
}
