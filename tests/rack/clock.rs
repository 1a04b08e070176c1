//! A supply's clock that is wrong, pymodbus being the supply on a pty: it is set once, by the
//! map's action and no other register with it, and is what the supply says from then on.

use std::{fs, path::Path, sync::Arc, time::Duration};

use purlin_core::modbus::pdu::{Answer, Request, Table};
use purlin_daemon::rack::{
    bus::{Ask, Bus, Device},
    map::Map,
    port,
    rtu::Line,
};
use purlin_tests::{Lab, Result, ensure, modbus::units, serial::Hub};
use serde_json::json;
use tokio::time;

const ADDRESS: u8 = 200;
/// Registers of its clock.
const CLOCK: u16 = 98;
const WORDS: u16 = 110;
/// Two hours after its battery was put in.
const SAID: u32 = 7200;
const NOW: u64 = 1_800_000_000;
/// For one look at every register, the clock among them.
const ROUND: Duration = Duration::from_secs(60);

/// What a word other than its clock's is.
fn other(address: u16) -> u16 {
    address + 1
}

fn say(file: &Path, words: &[u16]) -> Result {
    let new = file.with_extension("new");
    fs::write(&new, json!({ADDRESS.to_string(): {"3": {"0": words}}}).to_string())?;
    Ok(fs::rename(new, file)?)
}

pub fn is_set(lab: &Lab) -> Result {
    let mut words: Vec<u16> = (0..WORDS).map(other).collect();
    let clock = usize::from(CLOCK);
    (words[clock], words[clock + 1]) = ((SAID >> 16) as u16, SAID as u16);
    let file = lab.dir().join("psu.json");
    say(&file, &words)?;
    let line = Hub::start(2)?;
    let _supply = units(&file, &[line.ports[1].display().to_string()], lab)?;
    // From now on what is written there stays.
    say(&file, &words[..clock])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(sets(&line.ports[0]))
}

async fn sets(driver: &Path) -> Result {
    let map = Map::shipped("orv3-psu").ok_or("no map")?.map_err(|why| format!("{why:?}"))?;
    let map = Arc::new(map);
    let mut line = Line::new(port::open(driver, map.settings)?, map.settings.speed());
    let unit = map.unit(ADDRESS);
    let device = Device { name: "psu".into(), address: ADDRESS, map };
    let mut bus = Bus::new(vec![device]);
    let mut told = Vec::new();
    let all = async {
        while told.is_empty() {
            let Some(turned) = bus.turn(&mut line).await? else { continue };
            told.extend(bus.act(&turned, NOW, &mut line).await?);
        }
        Ok::<_, std::io::Error>(())
    };
    time::timeout(ROUND, all).await.map_err(|_| "its clock is left as it is")??;
    let wrong = format!("its clock was {} s behind", NOW - u64::from(SAID));
    ensure!(told.len() == 1 && told[0].wrong == wrong && told[0].failed.is_none(), "{told:?}");

    let mut read = async |start, count| -> Result<Vec<u16>> {
        let request = Request::read(Table::HoldingRegisters, start, count)?;
        match line.ask(&unit, &request).await {
            Ok(Answer::Registers(words)) => Ok(words),
            answer => Err(format!("{answer:?}").into()),
        }
    };
    ensure!(read(CLOCK, 2).await? == [(NOW >> 16) as u16, NOW as u16], "another time");
    for start in [0, 50, CLOCK - 8, CLOCK + 2] {
        let right: Vec<u16> = (start..start + 8).map(other).collect();
        ensure!(read(start, 8).await? == right, "something else was written, from {start} on");
    }
    Ok(())
}
