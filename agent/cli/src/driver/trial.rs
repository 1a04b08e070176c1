//! `purlin driver try`: each register of a map by itself, with the words that the device
//! said, for whoever writes the map.

use purlin_core::{
    modbus::pdu::{Answer, Request},
    rack::register::{Quality, Register},
};
use purlin_daemon::rack::{
    bus::Ask,
    map::Map,
    rtu::Failure as NoAnswer,
    run::{Link, reading_view},
};
use purlin_proto::api::RackReading;
use serde::Serialize;

use crate::{
    exit::{Ended, Exit, Failure},
    output::Output,
    rack,
    table::{self, Column::*, Width},
};

/// Registers without an answer in a row after which nobody is there.
const SILENT_AFTER: usize = 3;
/// Words that are shown of a register.
const MAX_WORDS: usize = 4;

/// Asks for each register, and shows what came of it.
pub async fn run(link: &mut Link, map: &Map, address: u8, output: &Output) -> Ended {
    let mut trial = Trial { map: map.name.clone(), address, registers: Vec::new() };
    let mut silent = 0;
    for register in &map.registers {
        let tried = ask(link, map, address, register).await?;
        silent = if tried.is_silent { silent + 1 } else { 0 };
        trial.registers.push(tried);
        if silent == SILENT_AFTER && trial.registers.len() == SILENT_AFTER {
            let next = "check address, wiring, baud rate and form";
            let why = format!("nobody answers at address {address}: {next}");
            return Err(Failure::Failed(why));
        }
    }
    output.show(&trial, |width| trial.page(width))?;
    let all_good = trial.registers.iter().all(|it| it.reading.quality == good());
    Ok(if all_good { Exit::Ok } else { Exit::Faults })
}

fn good() -> purlin_proto::api::Quality {
    purlin_proto::api::Quality::Good
}

async fn ask(
    link: &mut Link,
    map: &Map,
    address: u8,
    register: &Register,
) -> Result<Tried, Failure> {
    let read = Request::read(register.table, register.address, register.words());
    let read = read.map_err(|error| Failure::Failed(error.to_string()))?;
    let mut tried = Tried {
        at: register.address,
        words: Vec::new(),
        error: None,
        reading: reading_view(register, None, Quality::Bad, None),
        is_silent: false,
    };
    match link.ask(&map.unit(address), &read).await {
        Ok(Answer::Registers(words)) => {
            let (value, quality) = register.decode(&words);
            tried.reading = reading_view(register, value.as_ref(), quality, None);
            tried.words = words;
        }
        Ok(other) => tried.error = Some(format!("{other:?} to a read of registers")),
        Err(NoAnswer::Port(error)) => return Err(Failure::Failed(format!("the port: {error}"))),
        Err(error) => {
            tried.is_silent = !matches!(error, NoAnswer::Refused(_));
            tried.error = Some(error.to_string());
        }
    }
    Ok(tried)
}

/// What came of a map.
#[derive(Debug, Serialize)]
struct Trial {
    map: String,
    address: u8,
    registers: Vec<Tried>,
}

#[derive(Debug, Serialize)]
struct Tried {
    at: u16,
    /// What the device said.
    words: Vec<u16>,
    error: Option<String>,
    #[serde(flatten)]
    reading: RackReading,
    #[serde(skip)]
    is_silent: bool,
}

impl Trial {
    fn page(&self, width: Width) -> String {
        let header = [
            Right("AT"),
            Whole("READING"),
            Whole("WORDS"),
            Right("VALUE"),
            Whole("UNIT"),
            Whole("QUALITY"),
            Left("ERROR"),
        ];
        let row = |it: &Tried| {
            let shown = it.words.iter().take(MAX_WORDS).map(|word| format!("{word:04x}"));
            let more = if it.words.len() > MAX_WORDS { " …" } else { "" };
            let value = it.reading.value.map(rack::number).or_else(|| it.reading.text.clone());
            vec![
                it.at.to_string(),
                it.reading.name.clone(),
                shown.collect::<Vec<_>>().join(" ") + more,
                value.unwrap_or("-".into()),
                it.reading.unit.clone(),
                rack::quality(it.reading.quality).into(),
                it.error.clone().unwrap_or_default(),
            ]
        };
        table::columns(&header, self.registers.iter().map(row), width)
    }
}
