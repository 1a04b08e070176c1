//! `purlin driver`: devices and register maps tried out. No agent is asked: the port is
//! opened here and now.

use std::{fs, sync::Arc};

use purlin_core::rack::{
    config::{self, Port},
    reads::{self, MAX_GAP},
};
use purlin_daemon::rack::{
    bus::{Bus, Device},
    map::{Map, SHIPPED},
    run::{self, Link},
};
use purlin_proto::api::{self, RackDevice};
use serde::Serialize;

use crate::{
    args::{At, DriverCommand},
    exit::{Ended, Exit, Failure},
    output::{Output, Page, note},
    rack,
    table::{self, Column::*, Width},
};

/// Turns for one read of everything: a device is dead after three without an answer,
/// and one that refuses gaps needs one more.
const TURNS: usize = 5;
/// Turns for one address of a scan: nobody is at most of them.
const ASKS: usize = 2;

/// `purlin driver …`
pub async fn run(command: &DriverCommand, output: &Output) -> Ended {
    match command {
        DriverCommand::List => {
            let maps = SHIPPED.iter().filter_map(|(name, _)| shipped(name)).collect();
            let maps = Maps { maps };
            output.show(&maps, |width| maps.page(width))?;
            Ok(Exit::Ok)
        }
        DriverCommand::Check { file } => {
            let map = read_map(&file.display().to_string())?;
            let plan = Plan::of(&map);
            output.show(&plan, |width| plan.page(width))?;
            Ok(Exit::Ok)
        }
        DriverCommand::Poll { map, address, at } => {
            let map = Arc::new(find_map(map)?);
            let mut link = open(at, &map).await?;
            let polled = poll(&mut link, &map, *address, TURNS).await?;
            output.show(&polled, |width| rack::device(&polled, width))?;
            Ok(if rack::is_doubtful(&polled) { Exit::Faults } else { Exit::Ok })
        }
        DriverCommand::Scan { map, at } => {
            let map = Arc::new(find_map(map)?);
            let mut link = open(at, &map).await?;
            let addresses: Vec<u8> = map.addresses.iter().cloned().flatten().collect();
            note(&format!("asking {} addresses, one after the other", addresses.len()));
            let mut found = Found { devices: Vec::new() };
            for address in addresses {
                let polled = poll(&mut link, &map, address, ASKS).await?;
                if polled.readings.iter().any(|it| it.unix_ms.is_some()) {
                    note(&format!("address {address} answers"));
                    found.devices.push(FoundDevice::of(&polled));
                }
            }
            output.show(&found, |width| found.page(width))?;
            Ok(if found.devices.is_empty() { Exit::Faults } else { Exit::Ok })
        }
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
    let bus = config::Bus { name: String::new(), port, baud: at.baud, form, devices: Vec::new() };
    let opened = run::open(&bus, map.settings).await;
    opened.map_err(|error| {
        let next =
            "is it the agent's, or another user's? `purlin rack show` tells what the agent reads";
        Failure::Failed(format!("can't open {}: {error} ({next})", at.port))
    })
}

fn find_map(name: &str) -> Result<Map, Failure> {
    match Map::shipped(name) {
        Some(map) => map.map_err(|why| Failure::Failed(why.join("; "))),
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
    Map::read(&text).map_err(|why| {
        let refusal = |why: String| {
            let (path, why) = why.split_once(": ").unwrap_or(("", &why));
            api::Refusal {
                path: path.to_owned(),
                value: why.to_owned(),
                limit: "as docs/register-maps.md has it".to_owned(),
                hint: "correct it and check again".to_owned(),
            }
        };
        let refusals = why.into_iter().map(refusal).collect();
        Failure::Refused(api::Error { error: format!("{file} is no register map"), refusals })
    })
}

/// What a map would read.
#[derive(Debug, Serialize)]
struct Plan {
    name: String,
    title: String,
    registers: usize,
    requests: Vec<Request>,
}

#[derive(Debug, Serialize)]
struct Request {
    function: u8,
    start: u16,
    count: u16,
    registers: Vec<String>,
}

impl Plan {
    fn of(map: &Map) -> Self {
        let all: Vec<usize> = (0..map.registers.len()).collect();
        let request = |read: reads::Read| Request {
            function: read.table.function(),
            start: read.start,
            count: read.count,
            registers: read.registers.iter().map(|&it| map.registers[it].name.clone()).collect(),
        };
        let reads = reads::reads(&map.registers, &all, map.max_read, MAX_GAP);
        Self {
            name: map.name.clone(),
            title: map.title.clone(),
            registers: map.registers.len(),
            requests: reads.into_iter().map(request).collect(),
        }
    }

    fn page(&self, width: Width) -> String {
        let header = [Right("FUNCTION"), Right("START"), Right("COUNT"), Left("REGISTERS")];
        let row = |it: &Request| {
            let (function, start) = (it.function.to_string(), it.start.to_string());
            vec![function, start, it.count.to_string(), it.registers.join(", ")]
        };
        let title = format!("{}, {} registers", self.title, self.registers);
        table::sections([
            table::pair(&self.name, &title, width),
            table::columns(&header, self.requests.iter().map(row), width),
        ])
    }
}

/// Who answers on a bus.
#[derive(Debug, Serialize)]
struct Found {
    devices: Vec<FoundDevice>,
}

#[derive(Debug, Serialize)]
struct FoundDevice {
    address: u8,
    /// Every register it has reads as the map says.
    fits: bool,
    /// Those that don't.
    doubtful: Vec<String>,
}

impl FoundDevice {
    fn of(polled: &RackDevice) -> Self {
        let doubtful: Vec<String> = (polled.readings.iter())
            .filter(|it| it.quality != api::Quality::Good)
            .map(|it| it.name.clone())
            .collect();
        Self { address: polled.address, fits: doubtful.is_empty(), doubtful }
    }
}

impl Page for Found {
    fn page(&self, width: Width) -> String {
        if self.devices.is_empty() {
            return "nobody answers: check baud rate, form, wiring and termination\n".into();
        }
        let header = [Right("ADDRESS"), Whole("FITS"), Left("DOUBTFUL")];
        let row = |it: &FoundDevice| {
            let fits = if it.fits { "yes" } else { "no" };
            vec![it.address.to_string(), fits.into(), it.doubtful.join(", ")]
        };
        table::columns(&header, self.devices.iter().map(row), width)
    }
}

/// The kinds of devices that can be configured.
#[derive(Debug, Serialize)]
struct Maps {
    maps: Vec<MapLine>,
}

#[derive(Debug, Serialize)]
struct MapLine {
    name: String,
    title: String,
    registers: usize,
    baud: u32,
    form: String,
    page: String,
}

fn shipped(name: &str) -> Option<MapLine> {
    let map = Map::shipped(name)?.ok()?;
    Some(MapLine {
        registers: map.registers.len(),
        baud: map.settings.baud,
        form: map.settings.form.to_string(),
        name: map.name,
        title: map.title,
        page: map.page,
    })
}

impl Maps {
    fn page(&self, width: Width) -> String {
        let header = [
            Whole("MAP"),
            Left("DEVICE"),
            Right("REGISTERS"),
            Right("BAUD"),
            Whole("FORM"),
            Left("PAGE"),
        ];
        let row = |map: &MapLine| {
            vec![
                map.name.clone(),
                map.title.clone(),
                map.registers.to_string(),
                map.baud.to_string(),
                map.form.clone(),
                map.page.clone(),
            ]
        };
        table::columns(&header, self.maps.iter().map(row), width)
    }
}
