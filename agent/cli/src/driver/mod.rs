//! `purlin driver`: devices and register maps tried out. No agent is asked: the port is
//! opened here and now.

use std::{fs, path::Path, sync::Arc};

use purlin_core::{
    rack::config::{self, Port},
    settings::Refusal,
};
use purlin_daemon::{
    document::{descriptor, refusal_view, schema},
    rack::{
        bus::{Bus, Device},
        map::{Map, SHIPPED},
        run::{self, Link},
    },
};
use purlin_proto::api::{self, RackDevice};

use crate::{
    args::{At, DriverCommand},
    exit::{Ended, Exit, Failure},
    output::Output,
    rack,
};

mod maps;
mod scan;
mod trial;

/// What a map of one's own begins with.
const TEMPLATE: &str = include_str!("new.toml");

/// Turns for one read of everything: a device is dead after three without an answer,
/// and one that refuses gaps needs one more.
const TURNS: usize = 5;

/// `purlin driver …`
pub async fn run(command: &DriverCommand, output: &Output) -> Ended {
    match command {
        DriverCommand::List => maps::list(output),
        DriverCommand::New { name } => {
            let map = TEMPLATE.replace("NAME", name);
            if let Err(refusals) = Map::read(&map) {
                return Err(refused(name, refusals));
            }
            output.text(&map)?;
            Ok(Exit::Ok)
        }
        DriverCommand::Schema => {
            let schema = schema::of(&descriptor("RegisterMap"));
            output.text(&format!("{schema:#}\n"))?;
            Ok(Exit::Ok)
        }
        DriverCommand::Check { file } => {
            maps::check(&read_map(&file.display().to_string())?, output)
        }
        DriverCommand::Try { file, address, at } => {
            let map = read_map(&file.display().to_string())?;
            trial::run(&mut open(at, &map).await?, &map, *address, output).await
        }
        DriverCommand::Poll { map, address, at } => {
            let map = Arc::new(find_map(map)?);
            let mut link = open(at, &map).await?;
            let polled = poll(&mut link, &map, *address, TURNS).await?;
            output.show(&polled, |width| rack::device(&polled, width))?;
            Ok(if rack::is_doubtful(&polled) { Exit::Faults } else { Exit::Ok })
        }
        DriverCommand::Scan { map, at } => scan::scan(&Arc::new(find_map(map)?), at, output).await,
        DriverCommand::Probe { maps, address, at } => scan::probe(maps, *address, at, output).await,
    }
}

/// Reads everything of a device, once; a silent one has no reading.
async fn poll(
    link: &mut Link,
    map: &Arc<Map>,
    address: u8,
    turns: usize,
) -> Result<RackDevice, Failure> {
    let name = format!("{}@{address}", map.name);
    let mut bus = Bus::new(vec![Device { name, address, map: map.clone() }]);
    let mut read = 0;
    for _ in 0..turns {
        let turned = bus.turn(link).await;
        let turned = turned.map_err(|error| Failure::Failed(format!("the port: {error}")))?;
        read += turned.map_or(0, |turned| turned.registers.len());
        if read >= map.registers.len() || bus.trouble(0).0 {
            break;
        }
    }
    Ok(run::device_view(&bus, 0))
}

async fn open(at: &At, map: &Map) -> Result<Link, Failure> {
    let port = match at.port.strip_prefix("tcp://") {
        Some(address) => Port::Tcp(address.to_owned()),
        None => Port::Serial(at.port.clone()),
    };
    let form = at.form.as_deref().map(str::parse).transpose().map_err(Failure::Usage)?;
    let (name, devices) = (String::new(), Vec::new());
    let bus = config::Bus { name, port, baud: at.baud, form, role: None, devices };
    let opened = run::open(&bus, map.settings).await;
    opened.map_err(|error| {
        let is_missing = matches!(&bus.port, Port::Serial(path) if !Path::new(path).exists());
        let next = match is_missing {
            true => "`ls /dev/serial/by-path` lists the ports that there are",
            false => {
                "is it the agent's, or another user's? `purlin rack show` tells what the agent reads"
            }
        };
        Failure::Failed(format!("can't open {}: {error} ({next})", at.port))
    })
}

fn find_map(name: &str) -> Result<Map, Failure> {
    match Map::shipped(name) {
        Some(map) => map.map_err(|refusals| refused(name, refusals)),
        None if name.contains(['/', '.']) => read_map(name),
        None => {
            let names = SHIPPED.map(|(name, _)| name).join(", ");
            Err(Failure::Usage(format!("no map {name}: there are {names}, or a file's path")))
        }
    }
}

fn read_map(file: &str) -> Result<Map, Failure> {
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::Failed(format!("can't read {file}: {error}")))?;
    Map::read(&text).map_err(|refusals| refused(file, refusals))
}

fn refused(what: &str, refusals: Vec<Refusal>) -> Failure {
    let refusals = refusals.into_iter().map(refusal_view).collect();
    Failure::Refused(api::Error { error: format!("{what} is no register map"), refusals })
}
