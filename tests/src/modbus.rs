//! A Modbus unit on a disturbed line, and reads of it that are compared with what they
//! should be.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use purlin_core::{
    modbus::{
        guard::{Order, Sentinels},
        pdu::{Answer, Request, Table},
        rtu::Speed,
    },
    rack::serial::{Form, Settings},
};
use purlin_daemon::rack::{
    bus::Ask,
    port,
    rtu::{Failure, Line, Unit},
};
use tokio::time;

use crate::{
    Lab, Result, ensure,
    faults::{Fault, Lateness, Random},
    process::Process,
    wait,
};

/// As the device is set.
pub const SPEED: Speed = Speed { baud: 19_200, bits: 11 };
/// The device's address.
pub const ADDRESS: u8 = 17;
/// A stall is longer than the timeout, so that an answer comes when nobody waits.
pub fn lateness(timeout: Duration) -> Lateness {
    Lateness { stall: timeout * 7 / 5, spread: timeout / 2 }
}

/// The device, to a driver.
pub fn unit(timeout: Duration, order: Order) -> Unit {
    Unit {
        address: ADDRESS,
        timeout,
        min_delay: Duration::ZERO,
        order,
        sentinels: Sentinels { table: Table::HoldingRegisters, start: 0, most: 8, step: 1 },
    }
}

/// What the map of such a device would declare.
pub fn order(fault: Fault, timeout: Duration) -> Order {
    match fault {
        Fault::OutOfOrder => Order::Any(2 * timeout),
        _ => Order::Kept,
    }
}

/// What came of many reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// With the values that were asked for.
    pub right: u32,
    /// With others.
    pub wrong: u32,
    /// With none.
    pub failed: u32,
}

impl Tally {
    /// Not one wrong, and most of them read nevertheless.
    pub fn check(&self, fault: Fault, seed: u64) -> Result {
        println!("{fault:?}: {self:?}");
        let read = self.right > (self.right + self.failed) / 2;
        ensure!(self.wrong == 0 && read, "{fault:?}: {self:?}, PURLIN_SEED={seed}");
        Ok(())
    }
}

/// Reads so many times, anything anywhere, and compares.
pub async fn read_through(
    line: &mut impl Ask,
    unit: &Unit,
    reads: u32,
    random: &mut Random,
    right: impl Fn(u16) -> u16,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for _ in 0..reads {
        let (start, count) = (random.below(100) as u16, 1 + random.below(8) as u16);
        let read = Request::read(Table::HoldingRegisters, start, count)?;
        match line.ask(unit, &read).await {
            Ok(Answer::Registers(values)) => {
                let right: Vec<u16> = (start..start + count).map(&right).collect();
                match values == right {
                    true => tally.right += 1,
                    false => tally.wrong += 1,
                }
            }
            Err(Failure::NoAnswer { .. } | Failure::Unreached(_)) => tally.failed += 1,
            Err(Failure::Owes(wait)) => {
                tally.failed += 1;
                time::sleep(wait).await;
            }
            other => return Err(format!("{other:?} to a read of registers").into()),
        }
    }
    Ok(tally)
}

/// As the device in device.py has it.
pub fn value_of_pymodbus(address: u16) -> u16 {
    address.wrapping_mul(257).wrapping_add(11)
}

/// pymodbus at the far end of each line, until this is dropped.
pub fn pymodbus(ports: &[&Path], lab: &Lab) -> Result<Process> {
    let ports: Vec<String> = ports.iter().map(|it| it.display().to_string()).collect();
    listening("src/device.py", &ports, lab)
}

/// pymodbus as the units that a file of JSON tells of, on each of the ports (`tcp:PORT` is
/// one of loopback), until this is dropped. What they say may be changed in the file.
pub fn units(state: &Path, ports: &[String], lab: &Lab) -> Result<Process> {
    let arguments = [&[state.display().to_string()], ports].concat();
    listening("rack/units.py", &arguments, lab)
}

fn listening(script: &str, arguments: &[String], lab: &Lab) -> Result<Process> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let log = lab.dir().join("pymodbus.log");
    let output = fs::File::create(&log)?;
    let mut command = Command::new(python());
    // It ends with its standard input, which the process keeps.
    command.arg(script).args(arguments).stdin(Stdio::piped());
    let process = Process::start(command.stdout(output.try_clone()?).stderr(output))?;
    wait::until("pymodbus listens", Duration::from_secs(60), || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        if said.contains("listening") { Ok(()) } else { Err(said) }
    })?;
    Ok(process)
}

/// Opens the driver's end and reads so many times.
pub fn read_on_a_pty(driver: &Path, fault: Fault, timeout: Duration, reads: u32) -> Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let port = port::open(driver, Settings { baud: SPEED.baud, form: Form::DEFAULT })?;
        let (mut line, unit) = (Line::new(port, SPEED), unit(timeout, order(fault, timeout)));
        let mut random = Random::new().0;
        read_through(&mut line, &unit, reads, &mut random, value_of_pymodbus).await
    })
}

/// Why there is no pymodbus here.
pub fn no_pymodbus() -> Option<String> {
    let import = Command::new(python()).args(["-c", "import pymodbus.simulator, serial"]).output();
    let here = import.is_ok_and(|output| output.status.success());
    (!here).then(|| "no pymodbus 3.16 for python3: start it with ./tests/run rack".to_owned())
}

/// The Python that `./tests/run` has given pymodbus to.
pub fn python() -> std::ffi::OsString {
    env::var_os("PURLIN_PYTHON").unwrap_or("python3".into())
}
