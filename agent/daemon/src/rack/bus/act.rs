//! Writes what a register's action asks for, and reads it back: an answer to a write may
//! be the line's echo of it. What may be written at all is the core's closed list.

use std::io;

use purlin_core::{
    modbus::pdu::{Answer, Request},
    rack::{
        action::{Action, REST},
        register::{Quality, Register, Value},
    },
};
use tokio::time::Instant;

use super::{Ask, Bus, Turned};
use crate::rack::rtu::{Failure, Unit};

/// Something was to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acted {
    /// To which device.
    pub device: usize,
    /// What was wrong with it.
    pub wrong: String,
    /// Why it still is, if the write did not take.
    pub failed: Option<String>,
}

impl Bus {
    /// Puts right what was just read and is wrong, by a clock that is trusted.
    pub async fn act(
        &mut self,
        turned: &Turned,
        now_s: u64,
        line: &mut impl Ask,
    ) -> io::Result<Vec<Acted>> {
        let device = turned.device;
        let map = self.devices[device].map.clone();
        let unit = map.unit(self.devices[device].address);
        let mut acted = Vec::new();
        for &index in &turned.registers {
            let register = &map.registers[index];
            let reading = &self.readings[device][index];
            let (Some(action), Some(Value::Number(said)), Quality::Good) =
                (register.write, &reading.value, reading.quality(register))
            else {
                continue;
            };
            let last = self.written.get(&(device, index));
            let is_rested = last.is_none_or(|last| last.elapsed() >= REST);
            let Some(words) = action.due(*said, now_s).filter(|_| is_rested) else { continue };
            let wrong = action.wrong(*said, now_s);
            self.written.insert((device, index), Instant::now());
            let failed = match write(line, &unit, register, action, words, now_s).await {
                Ok(()) => None,
                Err(Failure::Port(error)) => return Err(error),
                Err(failure) => Some(failure.to_string()),
            };
            acted.push(Acted { device, wrong, failed });
        }
        Ok(acted)
    }
}

async fn write(
    line: &mut impl Ask,
    unit: &Unit,
    register: &Register,
    action: Action,
    words: Vec<u16>,
    now_s: u64,
) -> Result<(), Failure> {
    let impossible = |error| Failure::Port(io::Error::other(error));
    let count = words.len() as u16;
    let write = Request::write_registers(register.address, words).map_err(impossible)?;
    line.ask(unit, &write).await?;
    let read = Request::read(register.table, register.address, count).map_err(impossible)?;
    let answer = line.ask(unit, &read).await?;
    let Answer::Registers(words) = &answer else { return Err(Failure::NotTaken(answer)) };
    match register.decode(words) {
        // It may have counted on since.
        (Some(Value::Number(said)), _) if action.holds(said, now_s) => Ok(()),
        _ => Err(Failure::NotTaken(answer)),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use purlin_core::modbus::rtu;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time,
    };

    use super::*;
    use crate::rack::{bus::Device, map::Map, rtu::Line};

    const NOW: u64 = 1_800_000_000;

    /// A unit with a clock at 98 that stands still, which may not take what it acknowledges.
    async fn clock(mut port: DuplexStream, mut held: u32, takes: bool) {
        let mut head = [0; 7];
        while port.read_exact(&mut head).await.is_ok() {
            let mut answer = vec![head[0], head[1]];
            if head[1] == 16 {
                let mut rest = [0; 6];
                _ = port.read_exact(&mut rest).await;
                if takes {
                    held = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]);
                }
                answer.extend(&head[2..6]);
            } else {
                _ = port.read_exact(&mut [0; 1]).await;
                let start = u16::from_be_bytes([head[2], head[3]]);
                let words = |at| match at {
                    98 => (held >> 16) as u16,
                    99 => held as u16,
                    _ => 0,
                };
                answer.push(2 * head[5]);
                let all = (start..start + u16::from(head[5])).map(words);
                answer.extend(all.flat_map(u16::to_be_bytes));
            }
            answer.extend(rtu::crc(&answer).to_le_bytes());
            _ = port.write_all(&answer).await;
        }
    }

    async fn all_acted(held: u32, takes: bool, hours: u64) -> Vec<String> {
        let map = Arc::new(Map::shipped("orv3-psu").expect("shipped").expect("good"));
        let (ours, theirs) = duplex(4096);
        tokio::spawn(clock(theirs, held, takes));
        let mut line = Line::new(ours, map.settings.speed());
        let mut bus = Bus::new(vec![Device { name: "psu".into(), address: 200, map }]);
        let end = Instant::now() + Duration::from_secs(3600 * hours);
        let mut told = Vec::new();
        while Instant::now() < end {
            let Ok(turned) = time::timeout_at(end, bus.turn(&mut line)).await else { break };
            if let Some(turned) = turned.expect("a port") {
                let acted = bus.act(&turned, NOW, &mut line).await.expect("a port");
                told.extend(acted.into_iter().map(|it| format!("{}: {:?}", it.wrong, it.failed)));
            }
        }
        told
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_wrong_is_set_once_and_one_that_is_right_never() {
        let told = all_acted(NOW as u32 - 73, true, 2).await;
        assert_eq!(told, ["its clock was 73 s behind: None"]);
        assert_eq!(all_acted(NOW as u32 + 2, true, 2).await, [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_acknowledges_and_takes_nothing_is_told_and_left_alone_for_an_hour() {
        let told = all_acted(0, false, 2).await;
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|it| it.contains("written, but Registers([0, 0])")), "{told:?}");
    }
}
