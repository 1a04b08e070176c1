//! One bus: whose turn it is, what it said, and how far that may be believed. It owns
//! every reading of its devices; the line is lent to it for a turn.

use std::{collections::BTreeMap, future::Future, io, sync::Arc, time::Duration};

use purlin_core::{
    modbus::pdu::{Answer, Exception, Request},
    rack::{
        reads::{self, MAX_GAP, Read},
        register::{Quality, Register, STALE_AFTER_INTERVALS, Value},
        schedule::{Schedule, Turn},
    },
};
use tokio::time::{self, Instant};

use super::{
    map::Map,
    rtu::{Failure, Unit},
};
use crate::clock;

pub mod act;
#[cfg(test)]
mod tests;

/// Something that a unit can be asked through.
pub trait Ask {
    /// Asks, once.
    fn ask(
        &mut self,
        unit: &Unit,
        request: &Request,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send;
}

/// A device on the bus.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name on this node.
    pub name: String,
    /// Its address.
    pub address: u8,
    /// What it is.
    pub map: Arc<Map>,
}

/// What a register said last.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The value, while there is one.
    pub value: Option<Value>,
    /// How far it may be believed, at the time it was read.
    quality: Quality,
    /// When it was read: by the clock that only moves forward, and by the wall's.
    read: Option<(Instant, u64)>,
}

impl Reading {
    const NONE: Self = Self { value: None, quality: Quality::Bad, read: None };

    /// How far it may be believed now.
    pub fn quality(&self, register: &Register) -> Quality {
        let fresh = register.interval * STALE_AFTER_INTERVALS;
        match self.read {
            None => Quality::Bad,
            Some((at, _)) if self.quality == Quality::Good && at.elapsed() > fresh => {
                Quality::Stale
            }
            Some(_) => self.quality,
        }
    }

    /// When it was read, in milliseconds since 1970 by the node's clock.
    pub fn unix_ms(&self) -> Option<u64> {
        self.read.map(|(_, unix_ms)| unix_ms)
    }
}

/// What was read in a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turned {
    /// Of which device.
    pub device: usize,
    /// Which of its registers.
    pub registers: Vec<usize>,
}

/// A bus and its devices.
#[derive(Debug)]
pub struct Bus {
    devices: Vec<Device>,
    schedule: Schedule,
    readings: Vec<Vec<Reading>>,
    /// Devices that refuse to be read over gaps.
    strict: Vec<bool>,
    /// Why a device's last request failed.
    errors: Vec<Option<String>>,
    /// When something was last written, by device and register.
    written: BTreeMap<(usize, usize), Instant>,
    began: Instant,
}

impl Bus {
    /// A bus on which everything is due.
    pub fn new(devices: Vec<Device>) -> Self {
        let intervals = |device: &Device| {
            device.map.registers.iter().map(|register| register.interval).collect()
        };
        let nothing = |device: &Device| vec![Reading::NONE; device.map.registers.len()];
        Self {
            schedule: Schedule::new(devices.iter().map(intervals), Duration::ZERO),
            readings: devices.iter().map(nothing).collect(),
            strict: vec![false; devices.len()],
            errors: vec![None; devices.len()],
            written: BTreeMap::new(),
            began: Instant::now(),
            devices,
        }
    }

    /// Its devices.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// What a device's registers said last, in the order of its map.
    pub fn readings(&self, device: usize) -> &[Reading] {
        &self.readings[device]
    }

    /// Whether a device has stopped answering, and why its last request failed.
    pub fn trouble(&self, device: usize) -> (bool, Option<&str>) {
        (self.schedule.is_dead(device), self.errors[device].as_deref())
    }

    /// When a turn is due, if not now.
    pub fn due(&mut self) -> Option<Instant> {
        match self.schedule.next(self.began.elapsed()) {
            Turn::Sleep(until) => Some(self.began + until),
            Turn::Read { .. } => None,
        }
    }

    /// Takes the next turn: reads what is due of one device, or waits. An error is one
    /// of the port.
    pub async fn turn(&mut self, line: &mut impl Ask) -> io::Result<Option<Turned>> {
        match self.schedule.next(self.began.elapsed()) {
            Turn::Sleep(until) => {
                time::sleep_until(self.began + until).await;
                Ok(None)
            }
            Turn::Read { device, registers } => {
                let registers = self.read(device, &registers, line).await?;
                Ok(Some(Turned { device, registers }))
            }
        }
    }

    async fn read(
        &mut self,
        device: usize,
        wanted: &[usize],
        line: &mut impl Ask,
    ) -> io::Result<Vec<usize>> {
        let map = self.devices[device].map.clone();
        let unit = map.unit(self.devices[device].address);
        let gap = if self.strict[device] { 0 } else { MAX_GAP };
        let mut done = Vec::new();
        for read in reads::reads(&map.registers, wanted, map.max_read, gap) {
            let began = Instant::now();
            match ask(line, &unit, &read).await {
                Ok(words) => self.take(device, &map, &read, &words, &mut done),
                Err(Failure::Port(error)) => return Err(error),
                Err(Failure::Refused(Exception::ILLEGAL_ADDRESS)) if !self.strict[device] => {
                    // What lies between its registers it doesn't have. They stay due.
                    self.strict[device] = true;
                    return Ok(done);
                }
                Err(Failure::Refused(exception)) => {
                    // It is alive: what it refuses is asked again when it is next due.
                    self.errors[device] = Some(exception.to_string());
                    let now = self.began.elapsed();
                    for &register in &read.registers {
                        self.readings[device][register] = Reading::NONE;
                        self.schedule.answered(device, register, now);
                    }
                }
                Err(failure) => {
                    // Why it owes an answer tells more than that it does.
                    if !matches!(failure, Failure::Owes(_)) || self.errors[device].is_none() {
                        self.errors[device] = Some(failure.to_string());
                    }
                    let now = self.began.elapsed();
                    self.schedule.failed(device, began.elapsed(), now);
                    return Ok(done);
                }
            }
        }
        Ok(done)
    }

    fn take(
        &mut self,
        device: usize,
        map: &Map,
        read: &Read,
        words: &[u16],
        done: &mut Vec<usize>,
    ) {
        self.errors[device] = None;
        let (now, unix_ms) = (self.began.elapsed(), clock::unix_ms());
        for &index in &read.registers {
            let register = &map.registers[index];
            let from = usize::from(register.address - read.start);
            let words = words.get(from..from + usize::from(register.words())).unwrap_or_default();
            let (value, quality) = register.decode(words);
            self.readings[device][index] =
                Reading { value, quality, read: Some((Instant::now(), unix_ms)) };
            self.schedule.answered(device, index, now);
            done.push(index);
        }
    }
}

/// A read's words; bits are one a word.
async fn ask(line: &mut impl Ask, unit: &Unit, read: &Read) -> Result<Vec<u16>, Failure> {
    let request = Request::read(read.table, read.start, read.count)
        .map_err(|error| Failure::Port(io::Error::other(error)))?;
    match line.ask(unit, &request).await? {
        Answer::Registers(words) => Ok(words),
        Answer::Bits(bits) => Ok(bits.into_iter().map(u16::from).collect()),
        Answer::Written => Err(Failure::NoAnswer { heard: 0 }),
    }
}
