//! UPSes that a NUT server serves: asked every few seconds for all they say.
//!
//! Page: `hw-docs/nut.md`. Source: RFC 9271. A server is a bus whose devices it tells
//! itself. Reading needs no name and no password. One connection, one question at a time;
//! whatever goes wrong on it closes it, so that a late answer is never taken for another.
//! What the server calls stale is shown as that, and neither spooled nor judged.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use purlin_core::{
    metric::{self, Point},
    rack::{
        config,
        nut::{self, Kind},
    },
};
use purlin_proto::api::{Quality, RackBus, RackDevice, RackReading};
use tokio::{
    io::{
        AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt,
        BufReader,
    },
    net::TcpStream,
    sync::watch,
    time::{self, Instant},
};

use super::run::Sinks;
use crate::clock;

/// How often it is asked: a driver looks at its UPS every two seconds.
const EVERY: Duration = Duration::from_secs(5);
/// For a connection and for each answer: upsd answers of what it has in memory.
const DEADLINE: Duration = Duration::from_secs(5);
/// What was read so long ago is not what is.
const STALE_AFTER: Duration = Duration::from_secs(15);
/// Bytes of a line; a description is the longest thing in one.
const MAX_LINE: u64 = 4096;
/// UPSes of a server, and variables of a UPS.
const MAX_UPSES: usize = 32;
const MAX_VARIABLES: usize = 512;
/// Letters of a UPS's name.
const MAX_NAME: usize = 64;
/// What a device says it is, in this order.
const TITLE: [&str; 2] = ["device.mfr", "device.model"];

/// Why a question has no answer.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// The server says so: `DATA-STALE`, `DRIVER-NOT-CONNECTED`, `UNKNOWN-UPS`.
    Refused(String),
    /// The connection is of no more use.
    Broken(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Broken(error.to_string())
    }
}

/// A connection to a server.
struct Server<S>(BufReader<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Server<S> {
    /// Every line of a list, each as its words after those of the question.
    async fn list(&mut self, what: &str, most: usize) -> Result<Vec<Vec<String>>, Failure> {
        let late = |_| Failure::Broken(format!("no answer within {DEADLINE:?}"));
        time::timeout(DEADLINE, self.list_slowly(what, most)).await.map_err(late)?
    }

    async fn list_slowly(&mut self, what: &str, most: usize) -> Result<Vec<Vec<String>>, Failure> {
        self.0.get_mut().write_all(format!("LIST {what}\n").as_bytes()).await?;
        let asked: Vec<&str> = what.split(' ').collect();
        let is = |words: &[String], head: &[&str]| {
            words.iter().map(String::as_str).eq(head.iter().chain(&asked).copied())
        };
        let first = line(&mut self.0).await?;
        match first.as_slice() {
            [err, why, ..] if err == "ERR" => return Err(Failure::Refused(why.clone())),
            words if is(words, &["BEGIN", "LIST"]) => {}
            words => return Err(nonsense(words)),
        }
        let mut lines = Vec::new();
        loop {
            let mut words = line(&mut self.0).await?;
            if is(&words, &["END", "LIST"]) {
                return Ok(lines);
            }
            let of_it = words.len() > asked.len() && asked.iter().zip(&words).all(|(a, b)| a == b);
            if !of_it || lines.len() == most {
                return Err(nonsense(&words));
            }
            lines.push(words.split_off(asked.len()));
        }
    }
}

/// The next line, as words.
async fn line(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Vec<String>, Failure> {
    let mut bytes = Vec::new();
    from.take(MAX_LINE).read_until(b'\n', &mut bytes).await?;
    match bytes.pop() {
        None => Err(Failure::Broken("the server closed the connection".into())),
        Some(b'\n') => {
            let text = String::from_utf8_lossy(&bytes);
            nut::words(&text).ok_or_else(|| nonsense(&[text.clone().into_owned()]))
        }
        Some(_) => Err(Failure::Broken(format!("no line within {MAX_LINE} bytes"))),
    }
}

fn nonsense(words: &[String]) -> Failure {
    let shown: String = words.join(" ").chars().take(80).collect();
    Failure::Broken(format!("what the server sends is no answer: {shown:?}"))
}

/// A UPS, and what it said last.
#[derive(Debug)]
struct Ups {
    began: Instant,
    title: String,
    variables: BTreeMap<String, String>,
    /// By the clock that only moves forward, and by the wall's.
    read: Option<(Instant, u64)>,
    /// Why what it said is not what is.
    error: Option<String>,
    /// The dictionary of its last sample.
    kept: u64,
}

impl Default for Ups {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            title: "UPS".into(),
            variables: BTreeMap::new(),
            read: None,
            error: None,
            kept: 0,
        }
    }
}

impl Ups {
    /// What it said is not what is.
    fn is_stale(&self) -> bool {
        self.error.is_some() || self.is_silent()
    }

    /// It is so for long enough to be told.
    fn is_silent(&self) -> bool {
        self.read.map_or(self.began, |(at, _)| at).elapsed() > STALE_AFTER
    }

    fn take(&mut self, variables: BTreeMap<String, String>) {
        let title: Vec<&str> = TITLE.iter().filter_map(|it| Some(&**variables.get(*it)?)).collect();
        if !title.is_empty() {
            self.title = title.join(" ");
        }
        self.variables = variables;
        self.read = Some((Instant::now(), clock::unix_ms()));
        self.error = None;
    }

    /// What of it is measured.
    fn measured(&self) -> impl Iterator<Item = (&String, Kind, Result<f64, String>)> {
        let variables = self.variables.iter();
        variables.filter_map(|(name, text)| nut::kind(name).map(|it| (name, it, it.value(text))))
    }

    fn points(&self, id: &str) -> Vec<Point> {
        let point = |(name, kind, value): (&String, Kind, Result<f64, String>)| {
            let name = name.replace('.', "_");
            Some(Point {
                name: kind.metric.into(),
                unit: kind.unit.into(),
                attributes: vec![
                    ("hw.id".into(), format!("{id}/{name}")),
                    ("hw.name".into(), name),
                    ("hw.parent".into(), id.to_owned()),
                ],
                value: metric::Value::Gauge(value.ok()?),
            })
        };
        self.measured().filter_map(point).collect()
    }

    fn view(&self, name: &str) -> RackDevice {
        let is_stale = self.is_stale();
        let unix_ms = self.read.map(|(_, unix_ms)| unix_ms);
        let quality = |is_good| match (is_good, is_stale) {
            (false, _) => Quality::Bad,
            (true, true) => Quality::Stale,
            (true, false) => Quality::Good,
        };
        let status = self.variables.get("ups.status").map(|status| RackReading {
            name: "ups_status".into(),
            metric: String::new(),
            value: None,
            text: Some(status.clone()),
            unit: String::new(),
            quality: quality(true),
            unix_ms,
        });
        let measured = self.measured().map(|(name, kind, value)| RackReading {
            name: name.replace('.', "_"),
            metric: kind.metric.into(),
            quality: quality(value.is_ok()),
            text: value.as_ref().err().cloned(),
            value: value.ok(),
            unit: kind.unit.into(),
            unix_ms,
        });
        RackDevice {
            name: name.into(),
            address: 0,
            map: "nut".into(),
            title: self.title.clone(),
            silent: is_stale,
            error: self.error.clone(),
            readings: status.into_iter().chain(measured).collect(),
        }
    }
}

/// A server, what it serves, and since when it is not heard.
struct Known {
    server: Option<Server<TcpStream>>,
    upses: BTreeMap<String, Ups>,
    answered: Instant,
    told: Option<String>,
}

/// One server, for ever.
pub(super) async fn run(
    wanted: &config::Bus,
    address: &str,
    view: &watch::Sender<Arc<RackBus>>,
    sinks: &Sinks,
) {
    let now = Instant::now();
    let mut known = Known { server: None, upses: BTreeMap::new(), answered: now, told: None };
    let mut due = now;
    loop {
        let error = known.look(address).await.err();
        known.judge(wanted, error.as_deref(), due, sinks);
        if known.told != error {
            match &error {
                Some(error) => tracing::warn!(bus = wanted.name, address, error, "no UPS is read"),
                None => tracing::info!(bus = wanted.name, address, "the NUT server answers"),
            }
            known.told.clone_from(&error);
        }
        let devices = known.upses.iter().map(|(name, ups)| ups.view(name)).collect();
        let (name, port) = (wanted.name.clone(), wanted.port.to_string());
        view.send_replace(Arc::new(RackBus { name, port, error, devices, ..RackBus::default() }));
        due = (due + EVERY).max(Instant::now());
        time::sleep_until(due).await;
    }
}

impl Known {
    /// Asks for everything once.
    async fn look(&mut self, address: &str) -> Result<(), String> {
        let mut server = match self.server.take() {
            Some(server) => server,
            None => {
                let late = |_| format!("no connection within {DEADLINE:?}");
                let connected = TcpStream::connect(address);
                let stream = time::timeout(DEADLINE, connected).await.map_err(late)?;
                Server(BufReader::new(stream.map_err(|error| error.to_string())?))
            }
        };
        read(&mut server, &mut self.upses).await?;
        (self.server, self.answered) = (Some(server), Instant::now());
        Ok(())
    }

    /// What was read since `due`, and who is silent.
    fn judge(&mut self, wanted: &config::Bus, error: Option<&str>, due: Instant, sinks: &Sinks) {
        let why = error.filter(|_| self.answered.elapsed() > STALE_AFTER);
        let mut conditions = vec![nut::silent(&wanted.name, why)];
        for (name, ups) in &mut self.upses {
            let id = format!("{}/{name}", wanted.name);
            let why = ups.error.as_deref().or(error).unwrap_or("nothing is read of it");
            conditions.push(nut::silent(&id, Some(why).filter(|_| ups.is_silent())));
            if !ups.is_stale() && ups.read.is_some_and(|(at, _)| at >= due) {
                let status = ups.variables.get("ups.status").map_or("", String::as_str);
                conditions.extend(nut::conditions(&id, status));
                sinks.take(ups.points(&id), &mut ups.kept);
            }
        }
        sinks.alarms.conditions(conditions);
    }
}

/// Asks for everything once. A UPS that is no longer served stays, and is silent.
async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    server: &mut Server<S>,
    upses: &mut BTreeMap<String, Ups>,
) -> Result<(), String> {
    let told = |failure| match failure {
        Failure::Refused(why) => format!("the server refuses: {why}"),
        Failure::Broken(why) => why,
    };
    let served = server.list("UPS", MAX_UPSES).await.map_err(told)?;
    let served = served.into_iter().filter_map(|line| line.into_iter().next());
    let served: Vec<String> = served.filter(|name| is_plain(name)).collect();
    for (_, ups) in upses.iter_mut().filter(|(name, _)| !served.contains(name)) {
        ups.error = Some("the server no longer serves it".into());
    }
    for name in served {
        let answer = server.list(&format!("VAR {name}"), MAX_VARIABLES).await;
        if upses.len() >= MAX_UPSES && !upses.contains_key(&name) {
            continue;
        }
        let ups = upses.entry(name).or_default();
        match answer {
            Ok(lines) => {
                let pair = |line: Vec<String>| <[String; 2]>::try_from(line).ok().map(Into::into);
                ups.take(lines.into_iter().filter_map(pair).collect());
            }
            Err(Failure::Refused(why)) => ups.error = Some(why),
            Err(failure) => return Err(told(failure)),
        }
    }
    Ok(())
}

/// A name that stays one word of a question.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(plain)
}

#[cfg(test)]
mod tests;
