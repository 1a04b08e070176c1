//! Mains fail, and come back: three nodes of a rack ([`crate::site`]) with a switch between
//! them. One has the UPS on its line, the others hear of it by the mesh's gossip. The stages
//! come in their order on every node, nothing that was recorded is lost on its way to the
//! broker though the uplink is dark meanwhile, and all is back when mains are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use purlin_proto::{
    api::{Power, Quality, Rack},
    v1::Class,
};
use purlin_tests::{Behaviour, Lab, Result, ensure, modbus::python, node, process::Process, wait};

use crate::site::{Common, NODES, SOON, Site, UNCAPPED};

/// What each node tells, in this order.
const TOLD: [&str; 5] = [
    "stage battery",
    "stage low",
    "stage last",
    "the node is shut down",
    "power and heat are well again",
];

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

    // What leads out of the rack has no UPS.
    for site in &sites {
        site.proxy.behave(Behaviour::Refuse);
    }
    ups("3000 0")?;
    for site in &sites {
        site.until_stages(1)?;
        ensure!(site.cap()? == "80000000" && !site.is_frozen()?, "{}", site.cap()?);
        ensure!(site.gpus()? == [200], "{:?}", site.gpus()?);
    }
    let heard = sites[1].node.cli(&["alarm", "list"])?;
    let told = "heard from   node0: on-battery.shelf.ups.input_voltage";
    ensure!(heard.stdout.contains(told), "{heard:?}");
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
        site.goes_off(&common, n != 0)?;
    }

    // The machines come up with mains, and what stood still has been there all the time.
    ups("3600 230")?;
    for site in &mut sites {
        site.comes_on(&common)?;
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
        let at: Vec<Option<usize>> = TOLD[..3].iter().map(|text| log.find(text)).collect();
        ensure!(at.iter().all(Option::is_some) && at.is_sorted(), "{at:?}");
        site.proxy.behave(Behaviour::Forward);
        nothing_is_lost(site)?;
    }
    Ok(())
}

/// Each record left the node and was acknowledged by the broker, as somebody between them
/// counts; and what each stage did is among them, once, in order.
fn nothing_is_lost(site: &Site) -> Result {
    let queue = site.node.queue()?;
    let incarnation = u64::from_str_radix(&queue.incarnation, 16)?;
    for (name, class) in
        [("alarm", Class::Alarm), ("event", Class::Event), ("metric", Class::Metric)]
    {
        let last = node::class(&queue, name)?.durable_seq;
        ensure!(last > 0 || name == "alarm", "no {name} was recorded");
        wait::until("all that is on disk has arrived", SOON, || {
            let lost = site.proxy.observed().unconfirmed((incarnation, class), last);
            let first = lost.first();
            if first.is_none() { Ok(()) } else { Err(format!("{} from {first:?}", lost.len())) }
        })?;
        println!("{name}: {last} records, none lost");
    }
    let observed = site.proxy.observed();
    ensure!(observed.unreadable.is_empty(), "unreadable: {:?}", observed.unreadable);
    ensure!(observed.conflicts.is_empty(), "two of a name: {:?}", observed.conflicts);
    let of_power = observed.events.iter().filter(|it| it.name.starts_with("power."));
    let texts: Vec<&str> = of_power.map(|it| it.text.as_str()).collect();
    let is_as_told = texts.iter().zip(TOLD).all(|(text, told)| text.starts_with(told));
    ensure!(is_as_told && texts.len() == TOLD.len(), "{texts:?}");
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
