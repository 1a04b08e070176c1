//! How many readings each client gets wrong on a disturbed line, ours and three that
//! everybody uses, against the same device.
//!
//! `./tests/run bench modbus` prints the table that docs/benchmarks.md keeps. Each run
//! has a fresh pty; what is disturbed, and how, is in `tests/src/faults.rs`.

#![forbid(unsafe_code)]

use std::{
    env,
    path::Path,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use purlin_tests::{
    Lab, Result,
    faults::{Disturber, Fault, Random},
    lab::in_a_lab,
    modbus::{Tally, lateness, no_pymodbus, pymodbus, python, read_on_a_pty},
    serial::DisturbedLine,
};

const READS: u32 = 200;
const TIMEOUT: Duration = Duration::from_millis(250);
const CLIENTS: [&str; 4] = ["ours", "tokio-modbus", "libmodbus", "pymodbus"];

fn main() -> ExitCode {
    if env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    if let Some(missing) = no_pymodbus() {
        eprintln!("modbus: {missing}");
        return ExitCode::FAILURE;
    }
    match in_a_lab(compare) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("modbus: {}", failed.message().unwrap_or("failed"));
            ExitCode::FAILURE
        }
    }
}

fn compare(lab: &Lab) -> Result {
    println!("| fault | {} |", CLIENTS.join(" | "));
    println!("| --- |{}", " --- |".repeat(CLIENTS.len()));
    let columns = CLIENTS.map(|client| column(client, lab));
    for (row, fault) in Fault::ALL.into_iter().enumerate() {
        let cell = |column: &Result<Vec<Tally>>| match column {
            Ok(tallies) => {
                let Tally { wrong, failed, .. } = tallies[row];
                format!("{wrong} ({failed})")
            }
            Err(_) => "none here".to_owned(),
        };
        println!("| {fault:?} | {} |", columns.each_ref().map(cell).join(" | "));
    }
    for (client, column) in CLIENTS.iter().zip(&columns) {
        if let Err(failed) = column {
            eprintln!("{client}: {}", failed.message().unwrap_or("failed"));
        }
    }
    Ok(())
}

/// One client against every fault, each on a line of its own.
fn column(client: &str, lab: &Lab) -> Result<Vec<Tally>> {
    let start =
        |fault| DisturbedLine::start(Disturber::new(fault, lateness(TIMEOUT), Random::new().0));
    let lines = Fault::ALL.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    let ports: Vec<&Path> = lines.iter().map(|line| line.device.as_path()).collect();
    let _device = pymodbus(&ports, lab)?;
    thread::scope(|scope| {
        let runs: Vec<_> = (Fault::ALL.into_iter().zip(&lines))
            .map(|(fault, line)| scope.spawn(move || run(client, fault, &line.driver)))
            .collect();
        runs.into_iter().map(|run| run.join().map_err(|_| "a run panicked")?).collect()
    })
}

fn run(client: &str, fault: Fault, driver: &Path) -> Result<Tally> {
    if client == "ours" {
        return read_on_a_pty(driver, fault, TIMEOUT, READS);
    }
    let mut command = match client {
        "tokio-modbus" => Command::new(env::var_os("PURLIN_TOKIO_MODBUS").unwrap_or_default()),
        _ => {
            let mut command = Command::new(python());
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/modbus/clients.py");
            command.arg(script).arg(client);
            command
        }
    };
    command.arg(driver).args([READS.to_string(), TIMEOUT.as_secs_f64().to_string()]);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut figures = text.split_whitespace().map(str::parse);
    match (figures.next(), figures.next(), figures.next()) {
        (Some(Ok(right)), Some(Ok(wrong)), Some(Ok(failed))) => Ok(Tally { right, wrong, failed }),
        _ => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}
