//! A GNSS receiver on a pty, whose time is seven seconds ahead: told, and the clock left
//! alone.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use purlin_proto::api::{Quality, Rack, RackDevice, RackReading};
use purlin_tests::{Lab, Node, Result, ensure, serial::Pty, wait};

const SOON: Duration = Duration::from_secs(40);
/// By which the receiver's time is ahead.
const AHEAD_S: i64 = 7;
/// What the receiver does.
const FIXED: u8 = 0;
const LOST: u8 = 1;
const SILENT: u8 = 2;
const GARBLED: u8 = 3;
const GONE: u8 = 4;

fn sealed(body: &str) -> String {
    let sum = body.bytes().fold(0, |sum, byte| sum ^ byte);
    format!("${body}*{sum:02X}\r\n")
}

/// Days and time of day, as sentences have them.
fn burst(unix_s: i64, has_fix: bool) -> String {
    let (days, s) = (unix_s.div_euclid(86_400), unix_s.rem_euclid(86_400));
    let time = format!("{:02}{:02}{:02}.00", s / 3600, s / 60 % 60, s % 60);
    // Days to a date: Howard Hinnant's civil_from_days.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (fix, valid) = if has_fix { (1, 'A') } else { (0, 'V') };
    let date = format!("{day:02}{month:02}{:02}", year % 100);
    [
        sealed(&format!("GNGGA,{time},4807.038,N,01131.000,E,{fix},08,0.9,545.4,M,46.9,M,,")),
        sealed(&format!("GNRMC,{time},{valid},4807.038,N,01131.000,E,0.0,0.0,{date},,,A")),
        sealed(&format!("GNZDA,{time},{day:02},{month:02},{year},00,00")),
    ]
    .concat()
}

fn speak(mut line: Pty, does: Arc<AtomicU8>) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    loop {
        let said = burst(now().as_secs() as i64 + AHEAD_S, does.load(Relaxed) == FIXED);
        match does.load(Relaxed) {
            GONE => return,
            SILENT => {}
            GARBLED => {
                let noise: Vec<u8> = said.bytes().map(|byte| byte ^ 0x15).collect();
                _ = line.ours.write_all(&noise);
            }
            _ => _ = line.ours.write_all(said.as_bytes()),
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn until(node: &Node, what: &str, is: impl Fn(&RackDevice) -> bool) -> Result<RackDevice> {
    wait::until(what, SOON, || {
        let rack: Rack = node.json(&["rack", "show"]).map_err(|error| format!("{error:?}"))?;
        match rack.buses.first().and_then(|bus| bus.devices.first()) {
            Some(device) if is(device) => Ok(device.clone()),
            _ => Err(format!("{rack:?}")),
        }
    })
}

fn reading<'a>(device: &'a RackDevice, name: &str) -> Option<&'a RackReading> {
    device.readings.iter().find(|it| it.name == name)
}

fn offset_is(device: &RackDevice, quality: Quality) -> bool {
    reading(device, "time_offset").is_some_and(|it| it.quality == quality)
}

pub fn receiver(lab: &Lab) -> Result {
    let line = Pty::open()?;
    let path = line.path().display().to_string();
    let does = Arc::new(AtomicU8::new(FIXED));
    let doing = does.clone();
    let speaker = thread::spawn(move || speak(line, doing));
    let mut node = Node::new(lab, "gnss")?;
    node.start()?;
    let document = format!("[rack.buses.time]\nport = \"nmea://{path}\"\n");
    let file = lab.file("gnss.toml", document)?.display().to_string();
    let applied = node.cli_for(30, &["config", "apply", &file])?;
    ensure!(applied.code == 0, "{applied:?}");

    let good = until(&node, "the time is good", |it| offset_is(it, Quality::Good))?;
    let offset = reading(&good, "time_offset").and_then(|it| it.value).ok_or("no offset")?;
    // Its seconds are whole, and the pty is read when the machine gets to it.
    ensure!((4.0..=7.1).contains(&offset), "{good:?}");
    let text = reading(&good, "fix").and_then(|it| it.text.clone());
    ensure!(text.as_deref() == Some("gps") && good.title == "GNSS receiver", "{good:?}");
    ensure!(reading(&good, "satellites").and_then(|it| it.value) == Some(8.0), "{good:?}");

    does.store(LOST, Relaxed);
    let lost = until(&node, "without a fix it is doubtful", |it| offset_is(it, Quality::Suspect))?;
    let text = reading(&lost, "fix").and_then(|it| it.text.clone());
    ensure!(text.as_deref() == Some("none"), "{lost:?}");
    does.store(FIXED, Relaxed);
    until(&node, "the fix is back", |it| offset_is(it, Quality::Good))?;

    does.store(SILENT, Relaxed);
    until(&node, "it is silent", |it| it.silent && offset_is(it, Quality::Stale))?;
    does.store(GARBLED, Relaxed);
    let garbled = |it: &RackDevice| it.error.as_deref().is_some_and(|it| it.contains("baud rate"));
    until(&node, "another baud rate is suspected", garbled)?;
    does.store(FIXED, Relaxed);
    until(&node, "it is heard again", |it| !it.silent && offset_is(it, Quality::Good))?;

    let with_devices = format!(
        "[rack.buses.time]\nport = \"nmea://{path}\"\n\
         [rack.buses.time.devices.x]\naddress = 1\nmap = \"xy-md02\"\n"
    );
    let file = lab.file("wrong.toml", with_devices)?.display().to_string();
    let refused = node.cli(&["config", "apply", &file])?;
    ensure!(refused.code == 3 && refused.stderr.contains("receiver"), "{refused:?}");
    does.store(GONE, Relaxed);
    speaker.join().map_err(|_| "the receiver panicked")?;
    Ok(())
}
