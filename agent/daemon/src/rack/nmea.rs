//! A GNSS receiver on a serial port: sentences of NMEA 0183 with a good checksum, read and
//! shown like a device of a bus. It never writes to the port, and never sets a clock.
//! Page: `hw-docs/gnss.md`.

use std::{path::Path, sync::Arc, time::Duration};

use nmea::{
    ParseResult,
    sentences::{FixType, rmc::RmcStatusOfFix},
};
use purlin_core::{
    metric::{self, Point},
    rack::{
        config,
        gnss::{FRESH, Fix, Reading, Receiver, Said},
        register::{Quality, Value},
        serial::{Form, Parity, Settings},
    },
};
use purlin_proto::api::{self, RackBus, RackDevice};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::watch,
    time::{self, Instant},
};

use super::{
    port,
    run::{REOPEN, Sinks, quality_view, value_view},
};
use crate::clock;

/// As the standard has it: 4800 bit/s and 8N1.
const SETTINGS: Settings =
    Settings { baud: 4800, form: Form { parity: Parity::None, two_stop_bits: false } };
/// Bytes of a sentence; the standard has 82, and receivers that tell more exist.
const MAX_SENTENCE: usize = 128;
/// How often what it says is shown, and every so many of these spooled.
const SHOWN_EVERY: Duration = Duration::from_secs(1);
const SPOOLED_EVERY: u32 = 10;
/// What the receiver on a port is called.
const NAME: &str = "receiver";

/// Cuts what is heard into sentences, each with the time of its first byte.
#[derive(Debug, Default)]
pub struct Sentences {
    bytes: Vec<u8>,
    began: Option<(Duration, u64)>,
}

impl Sentences {
    /// Takes what was heard at a time, by the clock that only moves forward and by the
    /// wall's, and gives every sentence that is whole.
    pub fn hear(
        &mut self,
        bytes: &[u8],
        at: (Duration, u64),
        mut take: impl FnMut(&str, (Duration, u64)),
    ) {
        for &byte in bytes {
            match byte {
                b'$' => {
                    self.bytes.clear();
                    self.began = Some(at);
                    self.bytes.push(byte);
                }
                b'\r' | b'\n' => {
                    if let (Some(began), Ok(text)) =
                        (self.began.take(), str::from_utf8(&self.bytes))
                    {
                        take(text, began);
                    }
                    self.bytes.clear();
                }
                // Too long, or begun before we listened: nothing until the next.
                _ if self.began.is_none() => {}
                _ if self.bytes.len() == MAX_SENTENCE => self.began = None,
                _ => self.bytes.push(byte),
            }
        }
    }
}

/// What a sentence says; `None` if its checksum is wrong, or it is of a kind that tells
/// nothing of time or fix.
pub fn understand(sentence: &str) -> Option<Said> {
    match nmea::parse_str(sentence).ok()? {
        ParseResult::GGA(it) => Some(Said {
            fix: it.fix_type.map(fix),
            satellites: it.fix_satellites,
            ..Said::default()
        }),
        ParseResult::RMC(it) => {
            let at = it.fix_date.zip(it.fix_time).map(|(date, time)| date.and_time(time));
            Some(Said {
                is_valid: Some(it.status_of_fix != RmcStatusOfFix::Invalid),
                unix_ms: at.map(|at| at.and_utc().timestamp_millis()),
                ..Said::default()
            })
        }
        ParseResult::ZDA(it) => Some(Said {
            unix_ms: it.utc_date_time().map(|at| at.and_utc().timestamp_millis()),
            ..Said::default()
        }),
        _ => None,
    }
}

fn fix(fix: FixType) -> Fix {
    match fix {
        FixType::Invalid => Fix::None,
        FixType::Gps => Fix::Gps,
        FixType::DGps => Fix::Differential,
        FixType::Pps => Fix::Precise,
        FixType::Rtk => Fix::Rtk,
        FixType::FloatRtk => Fix::FloatRtk,
        FixType::Estimated => Fix::Estimated,
        FixType::Manual => Fix::Manual,
        FixType::Simulation => Fix::Simulated,
    }
}

/// A receiver, and how it is heard.
struct Listener {
    began: Instant,
    sentences: Sentences,
    receiver: Receiver,
    /// When a sentence was understood last.
    last: Option<(Instant, u64)>,
    /// Bytes since then.
    noise: usize,
    /// The dictionary of its last sample.
    kept: u64,
    was_silent: bool,
}

/// One receiver, for ever.
pub(super) async fn run(
    wanted: &config::Bus,
    path: &str,
    view: &watch::Sender<Arc<RackBus>>,
    sinks: &Sinks,
) {
    let mut it = Listener {
        began: Instant::now(),
        sentences: Sentences::default(),
        receiver: Receiver::default(),
        last: None,
        noise: 0,
        kept: 0,
        was_silent: false,
    };
    let settings = Settings {
        baud: wanted.baud.unwrap_or(SETTINGS.baud),
        form: wanted.form.unwrap_or(SETTINGS.form),
    };
    let mut told = None;
    loop {
        let error = match port::open(Path::new(path), settings) {
            Ok(mut port) => {
                told = None;
                tracing::info!(bus = wanted.name, path, "the receiver's port is open");
                it.listen(&mut port, wanted, view, sinks).await
            }
            Err(error) => error,
        };
        let error = error.to_string();
        it.show(wanted, view, Some(error.clone()));
        if told.as_ref() != Some(&error) {
            tracing::warn!(bus = wanted.name, path, error, "the receiver's port is not open");
            told = Some(error);
        }
        time::sleep(REOPEN).await;
    }
}

impl Listener {
    /// Until the port fails.
    async fn listen(
        &mut self,
        port: &mut (impl AsyncRead + Unpin),
        wanted: &config::Bus,
        view: &watch::Sender<Arc<RackBus>>,
        sinks: &Sinks,
    ) -> std::io::Error {
        let mut tick = time::interval(SHOWN_EVERY);
        let mut buffer = [0; MAX_SENTENCE];
        let mut ticks = 0_u32;
        loop {
            // Both are safe to drop: a read has taken nothing until it is done.
            tokio::select! {
                heard = port.read(&mut buffer) => match heard {
                    Ok(0) => return std::io::ErrorKind::UnexpectedEof.into(),
                    Ok(heard) => self.hear(&buffer[..heard]),
                    Err(error) => return error,
                },
                _ = tick.tick() => {
                    ticks = ticks.wrapping_add(1);
                    if ticks.is_multiple_of(SPOOLED_EVERY) {
                        sinks.take(self.points(&wanted.name), &mut self.kept);
                    }
                    self.tell(wanted, sinks);
                    self.show(wanted, view, None);
                }
            }
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        let at = (self.began.elapsed(), clock::unix_ms());
        let Self { sentences, receiver, last, noise, .. } = self;
        *noise += bytes.len();
        sentences.hear(bytes, at, |sentence, (at, unix_ms)| {
            if let Some(said) = understand(sentence) {
                receiver.hear(&said, at, unix_ms);
                *last = Some((Instant::now(), unix_ms));
                *noise = 0;
            }
        });
    }

    fn is_silent(&self) -> bool {
        self.last.map_or(self.began, |(at, _)| at).elapsed() > FRESH
    }

    fn why(&self) -> String {
        match self.noise {
            0 => format!("no sentence within {FRESH:?}"),
            bytes => format!("{bytes} bytes and no sentence in them: is its baud rate another?"),
        }
    }

    /// Tells when it falls silent, and when it is heard again.
    fn tell(&mut self, wanted: &config::Bus, sinks: &Sinks) {
        let is_silent = self.is_silent();
        if is_silent == self.was_silent {
            return;
        }
        self.was_silent = is_silent;
        let id = format!("{}/{NAME}", wanted.name);
        let (event, text) = match is_silent {
            true => ("rack.device_silent", format!("{id}: {}", self.why())),
            false => ("rack.device_back", format!("{id} is heard again")),
        };
        tracing::warn!(device = id, "{text}");
        sinks.spool.event_with(event, text, [("hw.id".to_owned(), id)]);
    }

    fn points(&self, bus: &str) -> Vec<Point> {
        let parent = format!("{bus}/{NAME}");
        let point = |it: Reading| {
            let is_sent = it.quality == Quality::Good && !it.metric.is_empty();
            let Some(Value::Number(value)) = it.value.filter(|_| is_sent) else { return None };
            Some(Point {
                name: it.metric.into(),
                unit: it.unit.into(),
                attributes: vec![
                    ("hw.id".into(), format!("{parent}/{}", it.name)),
                    ("hw.name".into(), it.name.into()),
                    ("hw.parent".into(), parent.clone()),
                ],
                value: metric::Value::Gauge(value),
            })
        };
        self.receiver.readings(self.began.elapsed()).into_iter().filter_map(point).collect()
    }

    fn show(
        &self,
        wanted: &config::Bus,
        view: &watch::Sender<Arc<RackBus>>,
        error: Option<String>,
    ) {
        let unix_ms = self.last.map(|(_, unix_ms)| unix_ms);
        let reading = |it: Reading| {
            let unix_ms = unix_ms.filter(|_| it.value.is_some());
            let (value, text) = value_view(it.value.as_ref());
            api::RackReading {
                name: it.name.into(),
                metric: it.metric.into(),
                value,
                text,
                unit: it.unit.into(),
                quality: quality_view(it.quality),
                unix_ms,
            }
        };
        let readings = self.receiver.readings(self.began.elapsed());
        let is_silent = self.is_silent();
        let device = RackDevice {
            name: NAME.into(),
            address: 0,
            map: "nmea-0183".into(),
            title: "GNSS receiver".into(),
            silent: is_silent,
            error: is_silent.then(|| self.why()),
            readings: readings.into_iter().map(reading).collect(),
        };
        let (name, port) = (wanted.name.clone(), wanted.port.to_string());
        view.send_replace(Arc::new(RackBus {
            name,
            port,
            error,
            devices: vec![device],
            ..RackBus::default()
        }));
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn sealed(body: &str) -> String {
        let sum = body.bytes().fold(0, |sum, byte| sum ^ byte);
        format!("${body}*{sum:02X}\r\n")
    }

    #[test]
    fn a_sentence_says_what_it_says_and_a_broken_one_nothing() {
        let told = |body: &str| format!("{:?}", understand(sealed(body).trim_end()));
        let all = [
            told("GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"),
            told("GNRMC,123519.50,A,4807.038,N,01131.000,E,022.4,084.4,230326,003.1,W"),
            told("GPRMC,,V,,,,,,,,,,N"),
            told("GPZDA,201530.00,04,07,2026,00,00"),
            told("GPZDA,,,,,,"),
            told("GPGSV,1,1,00"),
            format!("{:?}", understand("$GPZDA,201530.00,04,07,2026,00,00*61")),
            format!("{:?}", understand("$GPZDA,201530.00,04,07,2026,00,00")),
        ];
        expect![[r#"
            Some(Said { fix: Some(Gps), is_valid: None, satellites: Some(8), unix_ms: None })
            Some(Said { fix: None, is_valid: Some(true), satellites: None, unix_ms: Some(1774269319500) })
            Some(Said { fix: None, is_valid: Some(false), satellites: None, unix_ms: None })
            Some(Said { fix: None, is_valid: None, satellites: None, unix_ms: Some(1783196130000) })
            Some(Said { fix: None, is_valid: None, satellites: None, unix_ms: None })
            None
            None
            None"#]].assert_eq(&all.join("\n"));
    }

    #[test]
    fn sentences_are_cut_out_of_whatever_comes() {
        let mut sentences = Sentences::default();
        let mut told = Vec::new();
        let long = "x".repeat(MAX_SENTENCE);
        for (n, bytes) in
            ["no$", "GPa*", "1\r", "\n$GP", "b$GPc\n", "$", &long, "\n$GPd\n"].iter().enumerate()
        {
            let at = (Duration::from_secs(n as u64), n as u64);
            sentences.hear(bytes.as_bytes(), at, |it, (_, n)| told.push(format!("{n} {it}")));
        }
        assert_eq!(told, ["0 $GPa*1", "4 $GPc", "7 $GPd"]);
    }
}
