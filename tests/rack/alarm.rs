//! A power supply's own fault, from its bit on the line to an alarm and back: pymodbus is
//! the supply. And what is old and what is impossible are told apart on the way.

use std::{fs, path::Path, time::Duration};

use purlin_proto::api::{Alarm, Quality, Rack, RackDevice};
use purlin_tests::{
    Lab, Node, Result, ensure,
    faults::{Disturber, Fault, Random},
    modbus::{lateness, units},
    serial::DisturbedLine,
    wait,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const ADDRESS: &str = "200";
/// What a supply says that is well: 24 °C at the inlet, 50 V out, 230 V in.
const WELL: [(usize, u16); 6] =
    [(67, 9000), (68, 9000), (69, 24 << 7), (70, 30 << 7), (79, 50 << 10), (88, 230 << 6)];
/// The word of its PFC's faults, and the bit of mains that are not well.
const PFC: usize = 61;
const AC_NOT_OK: u16 = 1 << 8;
const INLET: usize = 69;
/// What the alarm's id begins with.
const ALARM: &str = "flag.shelf.psu.pfc_alarm.ac_not_ok";

/// Writes what the supply says: what is well, but for some words.
fn say(file: &Path, other: &[(usize, u16)]) -> Result {
    let mut words = vec![0_u16; 110];
    WELL.iter().chain(other).for_each(|(at, word)| words[*at] = *word);
    let new = file.with_extension("new");
    fs::write(&new, json!({ADDRESS: {"3": {"0": words}}}).to_string())?;
    Ok(fs::rename(new, file)?)
}

fn until(node: &Node, what: &str, is: impl Fn(&RackDevice) -> bool) -> Result {
    wait::until(what, SOON, || {
        let rack: Rack = node.json(&["rack", "show"]).map_err(|error| format!("{error:?}"))?;
        match rack.buses.first().and_then(|bus| bus.devices.first()) {
            Some(device) if is(device) => Ok(()),
            _ => Err(format!("{rack:?}")),
        }
    })
}

fn quality(device: &RackDevice, name: &str) -> Option<Quality> {
    device.readings.iter().find(|it| it.name == name).map(|it| it.quality)
}

/// What is raised, or what was: `list` has the one and `history` the other.
fn alarms(node: &Node, which: &str, field: &str) -> Result<Vec<Alarm>> {
    let told: Value = node.cli(&["alarm", which, "-o", "json"])?.json()?;
    Ok(serde_json::from_value(told[field].clone())?)
}

fn raised(node: &Node) -> Result<Vec<Alarm>> {
    alarms(node, "list", "raised")
}

fn is_raised(node: &Node) -> Result<bool> {
    Ok(raised(node)?.iter().any(|it| it.id.starts_with(ALARM) && !it.over))
}

fn until_raised(node: &Node, what: &str, wanted: bool) -> Result {
    wait::until(what, SOON, || match is_raised(node) {
        Ok(is) if is == wanted => Ok(()),
        other => Err(format!("{other:?}, {:?}", raised(node))),
    })
}

pub fn flag(lab: &Lab) -> Result {
    let file = lab.dir().join("psu.json");
    say(&file, &[])?;
    let late = lateness(Duration::from_millis(300));
    let line = DisturbedLine::start(Disturber::new(Fault::None, late, Random::new().0))?;
    let port = [line.device.display().to_string()];
    let supply = units(&file, &port, lab)?;
    let mut node = Node::new(lab, "psu")?;
    node.start()?;
    let document = format!(
        "[rack.buses.shelf]\nport = {:?}\n\
         [rack.buses.shelf.devices.psu]\naddress = {ADDRESS}\nmap = \"orv3-psu\"\n",
        line.driver
    );
    let applied = lab.file("psu.toml", document)?.display().to_string();
    let applied = node.cli_for(30, &["config", "apply", &applied])?;
    ensure!(applied.code == 0, "{applied:?}");
    until(&node, "it is read", |it| quality(it, "pfc_alarm") == Some(Quality::Good))?;
    ensure!(!is_raised(&node)?, "{:?}", raised(&node));

    say(&file, &[(PFC, AC_NOT_OK)])?;
    until_raised(&node, "its fault is an alarm", true)?;
    let all = raised(&node)?;
    let it = all.iter().find(|it| it.id.starts_with(ALARM)).ok_or("no alarm")?;
    let told = (it.severity.as_str(), it.text.as_str(), it.page.as_str());
    let right = ("critical", "shelf/psu says in pfc_alarm: ac not ok", "hw-docs/orv3-psu.md");
    ensure!(told == right, "{it:?}");

    // Impossible is suspect, at once; the rest of the same answer is good.
    say(&file, &[(PFC, AC_NOT_OK), (INLET, 0x7fff)])?;
    until(&node, "an impossible reading is suspect", |it| {
        quality(it, "inlet_temperature") == Some(Quality::Suspect)
            && quality(it, "outlet_temperature") == Some(Quality::Good)
    })?;
    // Old is stale; what was impossible does not become right by growing old. And whoever
    // is not heard has not said that its fault is over.
    drop(supply);
    until(&node, "what is not read again is stale", |it| {
        it.silent
            && quality(it, "inlet_temperature") == Some(Quality::Suspect)
            && quality(it, "outlet_temperature") == Some(Quality::Stale)
            && quality(it, "pfc_alarm") == Some(Quality::Stale)
    })?;
    ensure!(is_raised(&node)?, "a supply that is silent is no supply that is well");

    say(&file, &[])?;
    let _supply = units(&file, &port, lab)?;
    until(&node, "it is back", |it| quality(it, "inlet_temperature") == Some(Quality::Good))?;
    until_raised(&node, "its fault is over", false)?;
    let history = alarms(&node, "history", "history")?;
    let told = history.iter().filter(|it| it.id.starts_with(ALARM)).count();
    ensure!(told == 1, "one alarm, told once: {history:?}");
    Ok(())
}
