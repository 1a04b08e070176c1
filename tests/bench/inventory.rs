//! What `purlin hw list` costs beside lstopo and lshw, as ratios of CPU time.
//!
//! `./tests/run bench inventory` builds what packages ship and prints the table that
//! docs/benchmarks.md keeps. Programs take turns, so that what else the machine does
//! hits all alike. Each run is in a process of its own that adopts what the program
//! leaves behind, so that helpers count too.

#![forbid(unsafe_code)]

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{UsageWho, getrusage},
        time::TimeValLike,
        wait::wait,
    },
};
use purlin_tests::{Result, node};

/// Turns of which the median is shown.
const ROUNDS: usize = 25;
/// The first word of a run in a process of its own.
const ONE: &str = "--one";
/// The dump with the most PUs, 256.
const DUMP: &str = "hwloc_256ppc-8n8s4t";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let ended = match arguments.split_first() {
        Some((first, command)) if first == ONE => one(command),
        _ if arguments.iter().any(|argument| argument == "--list") => Ok(()),
        _ => compare(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("inventory: {}", failed.message().unwrap_or("failed"));
            ExitCode::FAILURE
        }
    }
}

/// Runs a program and prints what it and all that it started cost: µs and KiB.
fn one(command: &[String]) -> Result {
    prctl::set_child_subreaper(true)?;
    let (program, arguments) = command.split_first().ok_or("no program")?;
    let mut run = Command::new(program);
    let child = run.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    let child = child.stderr(Stdio::null()).spawn()?;
    let _reaped_below = child.id();
    while wait() != Err(Errno::ECHILD) {}
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    println!("{cpu} {}", usage.max_rss());
    Ok(())
}

#[derive(Clone, Copy)]
struct Cost {
    micros: u64,
    rss_kib: u64,
}

fn cost(command: &[String]) -> Result<Cost> {
    let output = Command::new(env::current_exe()?).arg(ONE).args(command).output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut figures = text.split_whitespace().map(str::parse);
    match (figures.next(), figures.next()) {
        (Some(Ok(micros)), Some(Ok(rss_kib))) => Ok(Cost { micros, rss_kib }),
        _ => Err(format!("{} could not be run", command.join(" ")).into()),
    }
}

/// Each program's median cost, the programs taking turns.
fn medians(commands: &[Vec<String>]) -> Result<Vec<Cost>> {
    let mut costs = vec![Vec::new(); commands.len()];
    for _ in 0..ROUNDS {
        for (command, costs) in commands.iter().zip(&mut costs) {
            costs.push(cost(command)?);
        }
    }
    Ok(costs.into_iter().map(median).collect())
}

fn median(mut costs: Vec<Cost>) -> Cost {
    let rss_kib = costs.iter().map(|cost| cost.rss_kib).max().unwrap_or_default();
    costs.sort_by_key(|cost| cost.micros);
    Cost { rss_kib, ..costs[costs.len() / 2] }
}

fn compare() -> Result {
    let purlin = node::binary()?.display().to_string();
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let list = |more: &[&str]| {
        let mut words = vec![purlin.clone(), "hw".into()];
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    };
    println!("| what is read | CPU time, ours : theirs | aim | our RSS | theirs |");
    println!("| --- | --- | --- | --- | --- |");
    match unpacked()? {
        None => eprintln!("skipped: no corpus of dumps (set PURLIN_CORPUS)"),
        Some(dump) => {
            let root = dump.path().display().to_string();
            let lstopo =
                words(&format!("lstopo-no-graphics --input {root} --if fsroot --of console"));
            let costs = medians(&[list(&["--root", &root, "list", "-o", "json"]), lstopo])?;
            row("a dump of 256 PUs, by lstopo", costs[0], costs[1], 0.5);
        }
    }
    let lshw = words("lshw -json");
    let here = [list(&["list", "-o", "json"]), words("lstopo-no-graphics --of console"), lshw];
    let costs = medians(&here)?;
    row("this machine, by lstopo", costs[0], costs[1], 1.0);
    row("this machine, by lshw", costs[0], costs[2], 0.15);
    Ok(())
}

fn row(what: &str, ours: Cost, theirs: Cost, aim: f64) {
    let ratio = ours.micros as f64 / theirs.micros.max(1) as f64;
    let mib = |kib: u64| kib as f64 / 1024.0;
    println!(
        "| {what} | {ratio:.2} ({:.1} : {:.1} ms) | {aim} | {:.1} MiB | {:.1} MiB |",
        ours.micros as f64 / 1e3,
        theirs.micros as f64 / 1e3,
        mib(ours.rss_kib),
        mib(theirs.rss_kib)
    );
}

fn unpacked() -> Result<Option<tempfile::TempDir>> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let corpus = env::var_os("PURLIN_CORPUS").map_or_else(beside, PathBuf::from);
    let archive = corpus.join("dumps").join(format!("{DUMP}.tar.xz"));
    if !archive.is_file() {
        return Ok(None);
    }
    let dir = tempfile::tempdir()?;
    let tar = Command::new("tar").arg("xJf").arg(archive).arg("-C").arg(dir.path()).status()?;
    if !tar.success() {
        return Err("the dump can't be unpacked".into());
    }
    Ok(Some(dir))
}
