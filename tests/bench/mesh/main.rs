//! What the mesh costs beside HAProxy and nginx as Debian has them, and beside the plainest
//! proxy that hyper makes: CPU a request and a MiB, memory of idle connections, time added.
//!
//! `./tests/run bench mesh` prints the tables that docs/benchmarks.md keeps. One proxy at a
//! time is under load, on a CPU of its own; those who are compared take turns, a figure is
//! the median of the turns, and a ratio is that of the two medians.

#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    env, fs,
    process::ExitCode,
    time::{Duration, Instant},
};

use purlin_tests::{Lab, Result, lab, process::cpu_time};

use crate::{
    load::{downloaded, idle, latency, requests},
    proxies::{Proxies, Upstream},
    tunnel::Tunnel,
};

mod load;
mod naive;
mod proxies;
mod tunnel;

const TURNS: usize = 11;
/// Requests in a turn.
const REQUESTS: u64 = 40_000;
/// MiB in a turn.
const MIB: u64 = 512;
/// Connections that lie idle.
const IDLE: usize = 4000;
/// Longer than any of them takes to give memory back: ours does it every 30 s.
const SETTLED: Duration = Duration::from_secs(40);
/// Requests a second of which the time is taken: far below what any of them carries.
const RATE: u32 = 500;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if arguments.iter().any(|it| it == "--list") {
        return ExitCode::SUCCESS;
    }
    let done = match &arguments[..] {
        [_, name, listen, upstream] if name == "naive" => naive::run(listen, upstream),
        _ => lab::in_a_lab(measure),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn measure(lab: &Lab) -> Result {
    more_files()?;
    let upstream = Upstream::start(lab)?;
    let proxies = Proxies::start(lab, &upstream)?;
    // Until what they needed to start is given back.
    std::thread::sleep(SETTLED);
    println!("| idle | RSS MiB |\n| --- | --- |");
    for it in proxies.all() {
        println!("| {} | {:.1} |", it.name, resident(it.pid)? / 1024.0);
    }
    let tunnel = Tunnel::start(lab, upstream.http)?;
    cpu(&proxies, &tunnel)?;
    drop(tunnel);
    time_added(lab, &upstream, &proxies)?;
    println!("\n| {IDLE} idle HTTP/1.1 connections | KiB each |\n| --- | --- |");
    for it in proxies.all() {
        let before = resident(it.pid)?;
        let held = idle(it.http, IDLE)?;
        std::thread::sleep(SETTLED);
        println!("| {} | {:.2} |", it.name, (resident(it.pid)? - before) / IDLE as f64);
        drop(held);
    }
    Ok(())
}

/// µs of CPU a request and a MiB, and what of it is user time.
fn cpu(proxies: &Proxies, tunnel: &Tunnel) -> Result {
    let mut figures = BTreeMap::<(&'static str, &'static str), Vec<(f64, f64)>>::new();
    for turn in 0..TURNS {
        for (what, count) in [("a request", REQUESTS), ("a MiB", MIB)] {
            let mut all = proxies.all();
            if what == "a request" {
                through(tunnel, count, &mut figures)?;
            }
            // Whoever is first finds another machine than whoever is last.
            let length = all.len();
            all.rotate_left(turn % length);
            for it in all {
                let (before, user) = (cpu_time(&[it.pid])?, user_time(it.pid)?);
                match (what, it.tcp) {
                    ("a request", _) => requests(it.http, count)?,
                    (_, Some(tcp)) => downloaded(tcp, count)?,
                    _ => continue,
                }
                let of = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
                let both = (of(cpu_time(&[it.pid])? - before), of(user_time(it.pid)? - user));
                figures.entry((what, it.name)).or_default().push(both);
            }
        }
    }
    println!("\n| | µs of CPU | : HAProxy | in user mode | : HAProxy |");
    println!("| --- | --- | --- | --- | --- |");
    let medians: BTreeMap<_, _> = figures.into_iter().map(|(of, all)| (of, medians(all))).collect();
    for ((what, name), (total, user)) in &medians {
        let peer = medians[&(*what, "HAProxy")];
        let (ratio, user_ratio) = (total / peer.0, user / peer.1);
        println!("| {what}, {name} | {total:.1} | {ratio:.2} | {user:.1} | {user_ratio:.2} |");
    }
    Ok(())
}

/// A request from node to node, on either.
fn through(
    tunnel: &Tunnel,
    count: u64,
    figures: &mut BTreeMap<(&'static str, &'static str), Vec<(f64, f64)>>,
) -> Result {
    let times = || -> Result<Vec<(Duration, Duration)>> {
        tunnel.pids.iter().map(|pid| Ok((cpu_time(&[*pid])?, user_time(*pid)?))).collect()
    };
    let before = times()?;
    requests(tunnel.http, count)?;
    let sides = ["Purlin's tunnel, where the client is", "Purlin's tunnel, where the service is"];
    for ((side, before), after) in sides.into_iter().zip(before).zip(times()?) {
        let of = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        let both = (of(after.0 - before.0), of(after.1 - before.1));
        figures.entry(("a request", side)).or_default().push(both);
    }
    Ok(())
}

/// µs that a request takes longer than without a proxy.
fn time_added(lab: &Lab, upstream: &Upstream, proxies: &Proxies) -> Result {
    let mut figures = BTreeMap::<&str, Vec<f64>>::new();
    for _ in 0..TURNS {
        let bare = latency(lab, upstream.http, RATE)?;
        for it in proxies.all() {
            figures.entry(it.name).or_default().push(latency(lab, it.http, RATE)? - bare);
        }
    }
    println!("\n| {RATE} requests a second | µs added at p50 |\n| --- | --- |");
    for (name, mut all) in figures {
        println!("| {name} | {:.0} |", median(&mut all));
    }
    Ok(())
}

/// Idle connections are files.
fn more_files() -> Result {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// KiB.
fn resident(pid: u32) -> Result<f64> {
    // What is freed late is not to be taken for what is held.
    let until = Instant::now() + Duration::from_secs(3);
    let mut least = f64::MAX;
    while Instant::now() < until {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        least = least.min(line.trim().trim_end_matches(" kB").parse()?);
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(least)
}

/// In user mode, of all threads (proc_pid_stat(5)); in hundredths of a second.
fn user_time(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(") ").ok_or("no stat")?;
    let ticks: u64 = rest.split(' ').nth(11).ok_or("no utime")?.parse()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn medians(all: Vec<(f64, f64)>) -> (f64, f64) {
    let (mut first, mut second): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    (median(&mut first), median(&mut second))
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
