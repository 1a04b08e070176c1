//! `purlin driver scan` and `probe`: who is on a bus, and what it is.

use std::sync::Arc;

use purlin_daemon::rack::map::{Map, SHIPPED};
use purlin_proto::api::{self, RackDevice};
use serde::Serialize;

use super::{find_map, open, poll};
use crate::{
    args::At,
    exit::{Ended, Exit, Failure},
    output::{Output, Page, note},
    rack,
    table::{self, Column::*, Width},
};

/// Turns for one address of a scan: nobody is at most of them.
const ASKS: usize = 2;
/// Addresses without a word between two notes of how far it is: some ten seconds.
const NOTE_EVERY: usize = 16;
/// Readings of a map that are shown for a comparison.
const SHOWN: usize = 3;

/// `purlin driver scan`
pub async fn scan(map: &Arc<Map>, at: &At, output: &Output) -> Ended {
    if map.addresses.is_empty() {
        let why = format!("{} has no addresses: name them in the map", map.name);
        return Err(Failure::Usage(why));
    }
    let mut link = open(at, map).await?;
    note(&format!("asking {} addresses, one after the other", map.addresses.len()));
    let mut found = Found { devices: Vec::new() };
    let addresses = map.addresses.iter().filter_map(|it| u8::try_from(it).ok());
    for (n, address) in addresses.enumerate() {
        if n > 0 && n.is_multiple_of(NOTE_EVERY) {
            note(&format!("{n} of {} asked, now at address {address}", map.addresses.len()));
        }
        let polled = poll(&mut link, map, address, ASKS).await?;
        if answers(&polled) {
            note(&format!("address {address} answers"));
            found.devices.push(FoundDevice::of(&polled));
        }
    }
    output.show(&found, |width| found.page(width))?;
    Ok(if found.devices.is_empty() { Exit::Faults } else { Exit::Ok })
}

/// `purlin driver probe`
pub async fn probe(maps: &[String], address: u8, at: &At, output: &Output) -> Ended {
    let maps = match maps {
        [] => SHIPPED.iter().map(|(name, _)| find_map(name)).collect::<Result<Vec<_>, _>>()?,
        names => names.iter().map(|name| find_map(name)).collect::<Result<Vec<_>, _>>()?,
    };
    let asked = |map: &Map| map.addresses.is_empty() || map.addresses.contains(address.into());
    let mut probed = Probed { address, maps: Vec::new() };
    for map in maps.into_iter().filter(asked).map(Arc::new) {
        note(&format!("asking as {}", map.name));
        // Each at the speed and in the form that its devices have.
        let mut link = open(at, &map).await?;
        let polled = poll(&mut link, &map, address, ASKS).await?;
        probed.maps.push(Candidate::of(&polled));
    }
    output.show(&probed, |width| probed.page(width))?;
    let fitting = probed.maps.iter().filter(|it| it.fits).count();
    Ok(if fitting == 1 { Exit::Ok } else { Exit::Faults })
}

fn answers(polled: &RackDevice) -> bool {
    polled.readings.iter().any(|it| it.unix_ms.is_some())
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

/// What a device was asked as.
#[derive(Debug, Serialize)]
struct Probed {
    address: u8,
    maps: Vec<Candidate>,
}

#[derive(Debug, Serialize)]
struct Candidate {
    map: String,
    title: String,
    /// All that the map has is read, and can be.
    fits: bool,
    /// Why not.
    why: String,
    /// What was read by it, the first of them.
    readings: Vec<String>,
}

impl Candidate {
    fn of(polled: &RackDevice) -> Self {
        let doubtful = FoundDevice::of(polled).doubtful;
        let why = match (&polled.error, answers(polled)) {
            (Some(error), false) => error.clone(),
            (None, false) => "no answer".into(),
            _ if doubtful.is_empty() => String::new(),
            _ => format!("can't be: {}", doubtful.join(", ")),
        };
        let reading = |it: &api::RackReading| {
            let value = it.value.map(rack::number).or_else(|| it.text.clone())?;
            Some(format!("{} {value} {}", it.name, it.unit).trim_end().to_owned())
        };
        Self {
            map: polled.map.clone(),
            title: polled.title.clone(),
            fits: doubtful.is_empty(),
            why,
            readings: polled.readings.iter().filter_map(reading).take(SHOWN).collect(),
        }
    }
}

impl Page for Probed {
    fn page(&self, width: Width) -> String {
        let header = [Whole("MAP"), Whole("FITS"), Left("WHY NOT"), Left("READ")];
        let row = |it: &Candidate| {
            let fits = if it.fits { "yes" } else { "no" };
            vec![it.map.clone(), fits.into(), it.why.clone(), it.readings.join(", ")]
        };
        let verdict = match self.maps.iter().filter(|it| it.fits).count() {
            0 => "nothing fits: check address, wiring, baud rate and form",
            1 => "",
            _ => "more than one fits: compare what they read with what you know of the device",
        };
        let page = table::columns(&header, self.maps.iter().map(row), width);
        if verdict.is_empty() { page } else { format!("{page}\n{verdict}\n") }
    }
}
