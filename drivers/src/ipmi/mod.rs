//! The node's BMC, through `/dev/ipmi0`.
//!
//! Page: `hw-docs/bmc.md`. Sources: IPMI 2.0 specification, revision 1.1 (sections are
//! given beside what they are for); Documentation/driver-api/ipmi.rst.
//!
//! A BMC answers in tens of milliseconds and has hundreds of records, so what does not
//! change is read once and kept: a [`Bmc`] is for a process that lives on. It reads, and
//! does one thing that can be seen from outside: [`Bmc::identify`].

use std::{fs::File, io, time::Duration};

use purlin_core::{
    inventory::Problem,
    rack::bmc::{Device, Fru, Log, Look, Place, Sensor, Watchdog, state::THRESHOLD},
};

use crate::{Root, sys};

mod field;
pub mod fru;
pub mod sdr;
pub mod sel;

use sdr::{Factors, Known, Record};

const DEVICE: &str = "/dev/ipmi0";
/// For one answer. The kernel itself gives up after about 5 s and says so.
const DEADLINE: Duration = Duration::from_secs(8);
/// Records of the repository at most: a large server's BMC has some hundred.
const MAX_RECORDS: usize = 2048;
/// Sensors that are read at most: so many numbers there are, on four LUNs.
const MAX_SENSORS: usize = 1024;
/// FRUs that are read at most.
const MAX_FRUS: usize = 64;
/// Entries of the log that one look brings; for more it is to be looked again.
const MAX_EVENTS: usize = 256;
/// Bytes of a record or a FRU that are asked for at once: what every interface carries.
const CHUNK: u8 = 16;
/// How often an answer that the BMC was too busy for is asked for again.
const RETRIES: u32 = 5;
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Its own address on its bus.
const BMC: u8 = 0x20;

// Network functions (5.1) and commands (appendix G).
const CHASSIS: u8 = 0x00;
const SENSOR: u8 = 0x04;
const APP: u8 = 0x06;
const STORAGE: u8 = 0x0a;
const CHASSIS_IDENTIFY: u8 = 0x04;
const GET_DEVICE_ID: u8 = 0x01;
const GET_WATCHDOG: u8 = 0x25;
const GET_FACTORS: u8 = 0x23;
const GET_READING: u8 = 0x2d;
const GET_FRU_AREA: u8 = 0x10;
const READ_FRU: u8 = 0x11;
const GET_SDR_INFO: u8 = 0x20;
const RESERVE_SDR: u8 = 0x22;
const GET_SDR: u8 = 0x23;
const GET_SEL_INFO: u8 = 0x40;
const GET_SEL_ENTRY: u8 = 0x43;

// Completion codes (5.2).
const BUSY: [u8; 3] = [0xc0, 0xc3, 0xd5];
const RESERVATION_LOST: u8 = 0xc5;
const NOT_THERE: u8 = 0xcb;

/// Record ids: before the first, and behind the last.
const FIRST: u16 = 0;
const END: u16 = 0xffff;

/// Why a question has no answer.
#[derive(Debug)]
enum Failure {
    /// The kernel or the line to it.
    Io(io::Error),
    /// The BMC's own code.
    Code(u8),
    /// The answer is shorter than it can be.
    Short,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Io(error) => error.fmt(f),
            Failure::Code(0xc1) => f.write_str("the BMC does not know this command"),
            Failure::Code(0xd4) => f.write_str("the BMC does not allow it"),
            Failure::Code(code) => write!(f, "the BMC answers code {code:#04x}"),
            Failure::Short => f.write_str("the BMC's answer is too short"),
        }
    }
}

type Answer = Result<Vec<u8>, Failure>;

/// A BMC, and what was read of it that does not change.
#[derive(Debug)]
pub struct Bmc {
    file: File,
    asked: u32,
    device: Device,
    /// State of the repository that was read.
    repository: Option<[u8; 14]>,
    known: Vec<Known>,
    frus: Vec<Fru>,
    /// What could not be read of it.
    problems: Vec<Problem>,
}

impl Bmc {
    /// The machine's; `None` where it has none, or none that its kernel drives.
    pub fn open(root: &Root) -> Result<Option<Self>, String> {
        if !root.is_live() {
            return Ok(None);
        }
        let file = match File::options().read(true).write(true).open(DEVICE) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{DEVICE}: {error}")),
        };
        let mut bmc = Self {
            file,
            asked: 0,
            device: Device::default(),
            repository: None,
            known: Vec::new(),
            frus: Vec::new(),
            problems: Vec::new(),
        };
        bmc.device = bmc.identity().map_err(|why| format!("{DEVICE}: {why}"))?;
        Ok(Some(bmc))
    }

    /// What it says now; the log from `place` on.
    pub fn look(&mut self, place: Place) -> (Look, Vec<Problem>) {
        self.learn();
        let mut problems = self.problems.clone();
        let mut sensors = Vec::new();
        for known in self.known.clone() {
            let sensor = self.reading(&known).unwrap_or_else(|why| {
                problems.push(problem(&known.sensor.name, why));
                known.sensor
            });
            sensors.push(sensor);
        }
        let log = self.log(place).unwrap_or_else(|why| {
            problems.push(problem("SEL", why));
            Log { place, ..Log::default() }
        });
        let watchdog = self.watchdog();
        let (device, frus) = (self.device.clone(), self.frus.clone());
        (Look { device, sensors, frus, log, watchdog }, problems)
    }

    /// Lets the chassis be found: a light blinks for so long (28.5). 0 ends it.
    pub fn identify(&mut self, seconds: u8) -> Result<(), String> {
        self.ask((CHASSIS, 0, CHASSIS_IDENTIFY), &[seconds]).map(drop).map_err(|it| it.to_string())
    }

    /// Asks, again if it is busy. What is answered is without the completion code.
    fn ask(&mut self, command: (u8, u8, u8), data: &[u8]) -> Answer {
        let mut tries = 0;
        loop {
            self.asked += 1;
            let answer = sys::ipmi::ask(&self.file, self.asked, command, data, DEADLINE);
            match answer.map_err(Failure::Io)?.split_first() {
                Some((0, rest)) => return Ok(rest.to_vec()),
                Some((code, _)) if BUSY.contains(code) && tries < RETRIES => {
                    tries += 1;
                    std::thread::sleep(RETRY_AFTER * tries);
                }
                Some((code, _)) => return Err(Failure::Code(*code)),
                None => return Err(Failure::Short),
            }
        }
    }

    fn identity(&mut self) -> Result<Device, Failure> {
        let answer = self.ask((APP, 0, GET_DEVICE_ID), &[])?;
        let [_, _, major, minor, ipmi, _, m0, m1, m2, p0, p1, ..] = answer[..] else {
            return Err(Failure::Short);
        };
        Ok(Device {
            manufacturer: u32::from_le_bytes([m0, m1, m2 & 0x0f, 0]),
            product: u16::from_le_bytes([p0, p1]),
            // The minor number is BCD, and so is IPMI's, its digits swapped.
            firmware: format!("{}.{minor:02x}", major & 0x7f),
            ipmi: format!("{}.{}", ipmi & 15, ipmi >> 4),
        })
    }

    fn watchdog(&mut self) -> Option<Watchdog> {
        let answer = self.ask((APP, 0, GET_WATCHDOG), &[]).ok()?;
        let [usage, action, _, _, t0, t1, l0, l1, ..] = answer[..] else { return None };
        // It counts in tenths of a second.
        let ms = |bytes| u32::from(u16::from_le_bytes(bytes)) * 100;
        Some(Watchdog {
            running: usage & 0x40 != 0,
            action: action & 7,
            timeout_ms: ms([t0, t1]),
            left_ms: ms([l0, l1]),
        })
    }

    /// Reads the repository, if it is not the one that was read.
    fn learn(&mut self) {
        let state = self.ask((STORAGE, 0, GET_SDR_INFO), &[]);
        let state = state.ok().and_then(|it| it.get(..14).and_then(|it| it.try_into().ok()));
        if state.is_some() && state == self.repository {
            return;
        }
        let mut problems = Vec::new();
        match self.records(&mut problems) {
            Ok(records) => {
                (self.known, self.frus) = (Vec::new(), Vec::new());
                // A BMC's own, which needs no record (34).
                let mut frus = vec![(0, "BMC".to_owned())];
                for record in records {
                    match record {
                        Record::Sensors(more) => self.known.extend(more),
                        Record::Fru { id: 0, name } => frus[0].1 = name,
                        Record::Fru { id, name } => frus.push((id, name)),
                        Record::Other => {}
                    }
                }
                self.known.truncate(MAX_SENSORS);
                for (id, name) in frus.into_iter().take(MAX_FRUS) {
                    match self.fru(id) {
                        Ok(None) => {}
                        Ok(Some((fields, damage))) => {
                            let name_it = |what| problem(&format!("FRU {name}"), what);
                            problems.extend(damage.into_iter().map(name_it));
                            self.frus.push(Fru { name, fields });
                        }
                        Err(why) => problems.push(problem(&format!("FRU {name}"), why)),
                    }
                }
                self.repository = state;
            }
            Err(why) => problems.push(problem("SDR", why)),
        }
        self.problems = problems;
    }

    fn records(&mut self, problems: &mut Vec<Problem>) -> Result<Vec<Record>, Failure> {
        let (mut records, mut id) = (Vec::new(), FIRST);
        let mut reservation = self.reserve()?;
        while id != END && records.len() < MAX_RECORDS {
            let (next, bytes) = match self.record(id, reservation) {
                // Somebody else read or wrote meanwhile.
                Err(Failure::Code(RESERVATION_LOST)) => {
                    reservation = self.reserve()?;
                    self.record(id, reservation)?
                }
                other => other?,
            };
            match sdr::decode(&bytes) {
                Some(record) => records.push(record),
                None => problems.push(problem(&format!("SDR {id}"), "it is too short")),
            }
            // One that names itself would be read for ever.
            id = if next == id { END } else { next };
        }
        Ok(records)
    }

    fn reserve(&mut self) -> Result<u16, Failure> {
        let answer = self.ask((STORAGE, 0, RESERVE_SDR), &[])?;
        let [low, high, ..] = answer[..] else { return Err(Failure::Short) };
        Ok(u16::from_le_bytes([low, high]))
    }

    /// A record in pieces (33.12), and the id of the next.
    fn record(&mut self, id: u16, reservation: u16) -> Result<(u16, Vec<u8>), Failure> {
        const HEADER: usize = 5;
        let (mut record, mut next, mut length) = (Vec::new(), END, HEADER);
        while record.len() < length {
            let [r0, r1] = reservation.to_le_bytes();
            let [i0, i1] = id.to_le_bytes();
            let count = (length - record.len()).min(CHUNK.into()) as u8;
            let request = [r0, r1, i0, i1, record.len() as u8, count];
            let answer = self.ask((STORAGE, 0, GET_SDR), &request)?;
            let [n0, n1, bytes @ ..] = &answer[..] else { return Err(Failure::Short) };
            if bytes.is_empty() {
                return Err(Failure::Short);
            }
            next = u16::from_le_bytes([*n0, *n1]);
            record.extend_from_slice(bytes);
            if let Some(body) = record.get(HEADER - 1) {
                length = HEADER + usize::from(*body);
            }
        }
        Ok((next, record))
    }

    /// What a FRU says; `None` if it isn't there.
    fn fru(&mut self, id: u8) -> Result<Option<fru::Told>, Failure> {
        let area = match self.ask((STORAGE, 0, GET_FRU_AREA), &[id]) {
            Err(Failure::Code(_)) => return Ok(None),
            other => other?,
        };
        let [low, high, access, ..] = area[..] else { return Err(Failure::Short) };
        let size = usize::from(u16::from_le_bytes([low, high])).min(fru::MAX);
        // By words, its offsets and counts are half of what is meant.
        let by_words = access & 1 == 1;
        let mut bytes = Vec::new();
        while bytes.len() < size {
            let unit = |bytes: usize| if by_words { bytes / 2 } else { bytes };
            let [o0, o1] = (unit(bytes.len()) as u16).to_le_bytes();
            let count = unit((size - bytes.len()).min(CHUNK.into())).max(1) as u8;
            let answer = match self.ask((STORAGE, 0, READ_FRU), &[id, o0, o1, count]) {
                Err(Failure::Code(NOT_THERE)) => return Ok(None),
                other => other?,
            };
            match answer.split_first() {
                Some((_, data)) if !data.is_empty() => bytes.extend_from_slice(data),
                _ => return Err(Failure::Short),
            }
        }
        // One that nobody wrote.
        if bytes.iter().all(|byte| matches!(byte, 0 | 0xff)) {
            return Ok(None);
        }
        Ok(Some(fru::decode(&bytes)))
    }

    /// A sensor with what it says now (35.14).
    fn reading(&mut self, known: &Known) -> Result<Sensor, Failure> {
        let mut sensor = known.sensor.clone();
        if known.silent || known.owner.0 != BMC {
            return Ok(sensor);
        }
        let lun = known.owner.1;
        let answer = match self.ask((SENSOR, lun, GET_READING), &[sensor.number]) {
            // Its part is not plugged in.
            Err(Failure::Code(NOT_THERE)) => return Ok(sensor),
            other => other?,
        };
        let [raw, flags, ..] = answer[..] else { return Err(Failure::Short) };
        // Scanned, and not "unavailable".
        if flags & 0x40 == 0 || flags & 0x20 != 0 {
            return Ok(sensor);
        }
        let low = answer.get(2).copied().unwrap_or_default();
        let high = answer.get(3).copied().unwrap_or_default();
        sensor.states = Some(match sensor.reading_type {
            THRESHOLD => u16::from(low & 0x3f),
            _ => u16::from_le_bytes([low, high & 0x7f]),
        });
        if let Some(scale) = known.scale {
            let factors = match scale.varies() {
                true => {
                    let answer = self.ask((SENSOR, lun, GET_FACTORS), &[sensor.number, raw])?;
                    answer.get(1..).and_then(Factors::decode).ok_or(Failure::Short)?
                }
                false => scale.factors,
            };
            sensor.value = scale.value(raw, &factors);
        }
        Ok(sensor)
    }

    fn log(&mut self, place: Place) -> Result<Log, Failure> {
        let info = self.ask((STORAGE, 0, GET_SEL_INFO), &[])?;
        let [_, e0, e1, f0, f1, _, _, _, _, c0, c1, c2, c3, ..] = info[..] else {
            return Err(Failure::Short);
        };
        let erased = u32::from_le_bytes([c0, c1, c2, c3]);
        let mut log = Log {
            entries: u16::from_le_bytes([e0, e1]),
            free: u16::from_le_bytes([f0, f1]),
            anew: place.record == FIRST || place.erased != erased,
            ..Log::default()
        };
        let mut next = FIRST;
        if !log.anew {
            next = match self.entry(place.record) {
                Ok((next, _)) => next,
                // The entry that was the last is gone.
                Err(Failure::Code(_)) => {
                    log.anew = true;
                    FIRST
                }
                Err(other) => return Err(other),
            };
        }
        log.place = if log.anew { Place { record: FIRST, erased } } else { place };
        if log.entries == 0 {
            return Ok(log);
        }
        for _ in 0..MAX_EVENTS {
            if next == END {
                return Ok(log);
            }
            let (after, entry) = self.entry(next)?;
            log.place.record = u16::from_le_bytes([entry[0], entry[1]]);
            log.events.push(sel::decode(&entry));
            next = if after == next { END } else { after };
        }
        log.more = next != END;
        Ok(log)
    }

    /// An entry (31.5), and the id of the next.
    fn entry(&mut self, id: u16) -> Result<(u16, [u8; sel::LENGTH]), Failure> {
        let [low, high] = id.to_le_bytes();
        let answer = self.ask((STORAGE, 0, GET_SEL_ENTRY), &[0, 0, low, high, 0, 0xff])?;
        let [n0, n1, entry @ ..] = &answer[..] else { return Err(Failure::Short) };
        let entry = entry.try_into().map_err(|_| Failure::Short)?;
        Ok((u16::from_le_bytes([*n0, *n1]), entry))
    }
}

fn problem(at: &str, what: impl ToString) -> Problem {
    Problem {
        part: purlin_core::inventory::Part::Sensor,
        at: format!("BMC {at}"),
        what: what.to_string(),
    }
}
