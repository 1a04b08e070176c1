//! What clients do, on the second CPU.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use purlin_tests::{Lab, Result, ensure};

use crate::proxies::FILE_MIB;

const SOON: Duration = Duration::from_secs(20);
/// Of which each has one request under way.
const CLIENTS: &str = "50";
const SECONDS: u32 = 4;

fn run(command: &[&str]) -> Result<String> {
    let mut taskset = Command::new("timeout");
    taskset.args(["-k", "1", "120", "taskset", "-c", "1"]).args(command);
    let output = taskset.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command:?}: {}: {text}", output.status);
    Ok(text)
}

/// So many requests over keepalive connections.
pub fn requests(at: SocketAddr, count: u64) -> Result {
    let (count, url) = (count.to_string(), format!("http://{at}/small"));
    let said = run(&["h2load", "--h1", "-n", &count, "-c", CLIENTS, "-t", "1", &url])?;
    ensure!(said.contains(&format!("{count} succeeded, 0 failed")), "{said}");
    Ok(())
}

/// So many MiB, one download after the other.
pub fn downloaded(at: SocketAddr, mib: u64) -> Result {
    let url = format!("http://{at}/large");
    for _ in 0..mib / FILE_MIB {
        let said = run(&["curl", "-sf", "-o", "/dev/null", "-w", "%{size_download}", &url])?;
        ensure!(said == (FILE_MIB << 20).to_string(), "{said}");
    }
    Ok(())
}

/// µs that half of the requests take at the most, at so many a second.
pub fn latency(lab: &Lab, at: SocketAddr, rate: u32) -> Result<f64> {
    let (log, url) = (lab.dir().join("times").display().to_string(), format!("http://{at}/small"));
    _ = fs::remove_file(&log);
    // Ten clients that each have a tenth of it.
    let (each, seconds) = ((rate / 10).to_string(), SECONDS.to_string());
    let log_file = format!("--log-file={log}");
    let rps = format!("--rps={each}");
    run(&["h2load", "--h1", "-D", &seconds, "-c", "10", "-t", "1", &rps, &log_file, &url])?;
    let text = fs::read_to_string(&log)?;
    let times = text.lines().filter_map(|line| line.split('\t').nth(2)?.parse::<f64>().ok());
    let mut times: Vec<f64> = times.collect();
    let expected = (rate * SECONDS) as usize;
    ensure!(times.len() > expected / 2, "{} of {expected} requests", times.len());
    Ok(crate::median(&mut times))
}

/// Connections that each had one answer, and are kept.
pub fn idle(at: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(count);
    let mut answer = [0; 4096];
    for _ in 0..count {
        let mut stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(SOON))?;
        // In one piece: in several, each waits for the other side's delayed answer.
        let request = format!("GET /small HTTP/1.1\r\nHost: {at}\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut read = 0;
        while read < 1024 {
            let n = stream.read(&mut answer)?;
            ensure!(n > 0, "it closed a connection after {} of them", held.len());
            read += n;
        }
        held.push(stream);
    }
    Ok(held)
}
