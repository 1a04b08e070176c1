//! The rack's task: a task for each bus that is configured, and one view of all.
//!
//! A port that is not there, or goes away, is tried again every second by its path, so
//! that an adapter is back when it is plugged in again. What a device said is spooled
//! when it was read and is good; what is not good is shown and never spooled.

use std::{sync::Arc, time::Duration};

use purlin_core::{
    metric::{self, Point},
    modbus::pdu::{Answer, Request},
    rack::{
        config::{self, Port},
        register::{Quality, Register, Value},
        serial::Settings as SerialSettings,
    },
    settings::Settings,
};
use purlin_proto::api;
use tokio::{net::TcpStream, sync::watch, task::JoinSet, time};
use tokio_serial::SerialStream;

use super::{
    alarms,
    bus::{Ask, Bus, Device, Turned, act::Acted},
    map::Map,
    nmea, nut, port,
    rtu::{Failure, Line, Unit},
    shared::Sharing,
    tcp::{self, Gateway},
};
use crate::{alarm, clock, sample, spool::Spool};

/// How often a port that is not there is looked for: a technician waits for it.
pub(super) const REOPEN: Duration = Duration::from_secs(1);

/// What each bus shows of itself.
pub type View = Arc<Vec<watch::Receiver<Arc<api::RackBus>>>>;

/// What the rack's task owns.
#[derive(Debug)]
pub struct Rack {
    /// The settings in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Takes the readings.
    pub spool: Spool,
    /// Judges them.
    pub alarms: alarm::Client,
    /// What devices' clocks are set by.
    pub clock: clock::Clock,
    /// Shows the buses.
    pub view: watch::Sender<View>,
}

impl Rack {
    /// Runs the buses that are configured, for ever.
    pub async fn run(&mut self) {
        loop {
            let wanted = self.settings.borrow_and_update().rack.value.clone();
            // Dropped when the configuration changes, and every bus with it.
            let mut buses = JoinSet::new();
            let mut views = Vec::new();
            for bus in &wanted {
                let (view, shown) = watch::channel(Arc::new(api::RackBus {
                    name: bus.name.clone(),
                    port: bus.port.to_string(),
                    ..api::RackBus::default()
                }));
                views.push(shown);
                let sinks = Sinks {
                    spool: self.spool.clone(),
                    alarms: self.alarms.clone(),
                    clock: self.clock.clone(),
                };
                buses.spawn(run(bus.clone(), view, sinks));
            }
            self.view.send_replace(Arc::new(views));
            let changed = self.settings.wait_for(|settings| settings.rack.value != wanted);
            // Without the configuration's task there is nothing new to come.
            if changed.await.is_err() {
                return;
            }
        }
    }
}

/// Where what is read goes.
#[derive(Clone, Debug)]
pub(super) struct Sinks {
    pub(super) spool: Spool,
    pub(super) alarms: alarm::Client,
    clock: clock::Clock,
}

impl Sinks {
    /// Judges and spools what was read of a device; `kept` is the dictionary of its last
    /// sample.
    pub(super) fn take(&self, points: Vec<Point>, kept: &mut u64) {
        if points.is_empty() {
            return;
        }
        self.alarms.observe(&points);
        self.spool.sample(sample::split("rack", points), kept);
    }
}

/// One bus, for ever.
async fn run(wanted: config::Bus, view: watch::Sender<Arc<api::RackBus>>, sinks: Sinks) {
    match &wanted.port {
        Port::Nut(address) => return nut::run(&wanted, address, &view, &sinks).await,
        Port::Nmea(path) => return nmea::run(&wanted, path, &view, &sinks).await,
        Port::Serial(_) | Port::Tcp(_) => {}
    }
    let devices = match devices(&wanted) {
        Ok(devices) => devices,
        Err(why) => {
            show(&view, &wanted, &Bus::new(Vec::new()), Some(why), None);
            return;
        }
    };
    let mut bus = Bus::new(devices);
    let mut told = None;
    loop {
        let opened = match bus.devices().first() {
            Some(first) => open(&wanted, first.map.settings).await,
            None => Err(std::io::ErrorKind::InvalidInput.into()),
        };
        let error = match opened {
            Ok(mut link) => {
                told = None;
                tracing::info!(bus = wanted.name, port = %wanted.port, "the bus is open");
                serve(&mut bus, &mut link, &wanted, &view, &sinks).await
            }
            Err(error) => error,
        };
        let error = error.to_string();
        show(&view, &wanted, &bus, Some(error.clone()), None);
        if told.as_ref() != Some(&error) {
            tracing::warn!(bus = wanted.name, port = %wanted.port, error, "the bus is not open");
            told = Some(error);
        }
        time::sleep(REOPEN).await;
    }
}

/// Takes turns until the port fails.
async fn serve(
    bus: &mut Bus,
    link: &mut Link,
    wanted: &config::Bus,
    view: &watch::Sender<Arc<api::RackBus>>,
    sinks: &Sinks,
) -> std::io::Error {
    let mut kept = vec![0; bus.devices().len()];
    let mut sharing = wanted.role.map(Sharing::new);
    loop {
        if let (Some(sharing), Link::Serial(line)) = (&mut sharing, &mut *link) {
            let spoke = sharing.speaks();
            let waited = sharing.wait(bus, line).await;
            if spoke != sharing.speaks() {
                tell_shared(sharing, &wanted.name, &sinks.spool);
            }
            show(view, wanted, bus, None, Some(sharing));
            match waited {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => return error,
            }
        }
        let dead = |bus: &Bus| (0..bus.devices().len()).map(|it| bus.trouble(it).0).collect();
        let before: Vec<bool> = dead(bus);
        match bus.turn(link).await {
            Ok(Some(turned)) => {
                spool_readings(bus, &turned, &wanted.name, sinks, &mut kept);
                let flags = alarms::flags(bus, &turned, &wanted.name);
                if !flags.is_empty() {
                    sinks.alarms.conditions(flags);
                }
                if sinks.clock.is_trusted() {
                    match bus.act(&turned, clock::unix_ms() / 1000, link).await {
                        Ok(acted) => acted
                            .iter()
                            .for_each(|it| tell_act(bus, it, &wanted.name, &sinks.spool)),
                        Err(error) => return error,
                    }
                }
            }
            Ok(None) => {}
            Err(error) => return error,
        }
        let after: Vec<bool> = dead(bus);
        for (device, (was, is)) in before.into_iter().zip(after).enumerate() {
            if was != is {
                tell(bus, device, is, &wanted.name, &sinks.spool);
            }
        }
        show(view, wanted, bus, None, sharing.as_ref());
    }
}

fn tell_shared(sharing: &Sharing, name: &str, spool: &Spool) {
    let (event, text) = match sharing.speaks() {
        true => ("rack.bus_taken", format!("{name}: nobody else speaks, this node reads it now")),
        false => ("rack.bus_left", format!("{name}: another speaks, this node keeps off")),
    };
    tracing::info!(bus = name, "{text}");
    spool.event_with(event, text, [("hw.id".to_owned(), name.to_owned())]);
}

fn tell(bus: &Bus, device: usize, dead: bool, name: &str, spool: &Spool) {
    let it = &bus.devices()[device];
    let id = format!("{name}/{}", it.name);
    let why = bus.trouble(device).1.unwrap_or_default();
    let (event, text) = match dead {
        true => ("rack.device_silent", format!("{id} at address {}: {why}", it.address)),
        false => ("rack.device_back", format!("{id} at address {} answers again", it.address)),
    };
    tracing::warn!(device = id, "{text}");
    spool.event_with(event, text, [("hw.id".to_owned(), id)]);
}

fn tell_act(bus: &Bus, acted: &Acted, name: &str, spool: &Spool) {
    let id = format!("{name}/{}", bus.devices()[acted.device].name);
    let (event, text) = match &acted.failed {
        None => ("rack.clock_set", format!("{id}: {} and is set", acted.wrong)),
        Some(why) => {
            ("rack.clock_not_set", format!("{id}: {}, and is not set: {why}", acted.wrong))
        }
    };
    tracing::info!(device = id, "{text}");
    spool.event_with(event, text, [("hw.id".to_owned(), id)]);
}

fn devices(wanted: &config::Bus) -> Result<Vec<Device>, String> {
    let device = |device: &config::Device| {
        let map = Map::shipped(&device.map).ok_or_else(|| format!("no map {}", device.map))?;
        let map = map.map_err(|why| format!("{}: {why:?}", device.map))?;
        Ok(Device { name: device.name.clone(), address: device.address, map: Arc::new(map) })
    };
    wanted.devices.iter().map(device).collect()
}

/// Opens a bus. Its line is set as a map says, unless the bus says otherwise.
pub async fn open(wanted: &config::Bus, map: SerialSettings) -> std::io::Result<Link> {
    match &wanted.port {
        Port::Tcp(address) => tcp::connect(address).await.map(Link::Tcp),
        Port::Nut(_) | Port::Nmea(_) => Err(std::io::ErrorKind::Unsupported.into()),
        Port::Serial(path) => {
            let settings = SerialSettings {
                baud: wanted.baud.unwrap_or(map.baud),
                form: wanted.form.unwrap_or(map.form),
            };
            let port = port::open(path.as_ref(), settings)?;
            Ok(Link::Serial(Line::new(port, settings.speed())))
        }
    }
}

/// A bus that is open.
#[derive(Debug)]
pub enum Link {
    /// A serial line.
    Serial(Line<SerialStream>),
    /// A gateway.
    Tcp(Gateway<TcpStream>),
}

impl Ask for Link {
    async fn ask(&mut self, unit: &Unit, request: &Request) -> Result<Answer, Failure> {
        match self {
            Link::Serial(line) => line.ask(unit, request).await,
            Link::Tcp(gateway) => gateway.ask(unit, request).await,
        }
    }
}

/// Spools what was read, is good, and is a metric. `kept` is the dictionary of each
/// device's last sample.
fn spool_readings(bus: &Bus, turned: &Turned, name: &str, sinks: &Sinks, kept: &mut [u64]) {
    let device = &bus.devices()[turned.device];
    let parent = format!("{name}/{}", device.name);
    let point = |&index: &usize| {
        let register = &device.map.registers[index];
        let reading = &bus.readings(turned.device)[index];
        let good = reading.quality(register) == Quality::Good && !register.metric.is_empty();
        let Some(Value::Number(value)) = reading.value.as_ref().filter(|_| good) else {
            return None;
        };
        Some(Point {
            name: register.metric.clone().into(),
            unit: register.unit.clone().into(),
            attributes: vec![
                ("hw.id".into(), format!("{parent}/{}", register.name)),
                ("hw.name".into(), register.name.clone()),
                ("hw.parent".into(), parent.clone()),
            ],
            value: metric::Value::Gauge(*value),
        })
    };
    let points = turned.registers.iter().filter_map(point).collect();
    sinks.take(points, &mut kept[turned.device]);
}

fn show(
    view: &watch::Sender<Arc<api::RackBus>>,
    wanted: &config::Bus,
    bus: &Bus,
    error: Option<String>,
    sharing: Option<&Sharing>,
) {
    let shown = if sharing.is_none_or(Sharing::reads) { bus.devices().len() } else { 0 };
    let devices = (0..shown).map(|index| device_view(bus, index)).collect();
    let (name, port) = (wanted.name.clone(), wanted.port.to_string());
    let role = sharing.map(Sharing::told);
    view.send_replace(Arc::new(api::RackBus { name, port, error, role, devices }));
}

/// A device as it is shown.
pub fn device_view(bus: &Bus, index: usize) -> api::RackDevice {
    let device = &bus.devices()[index];
    let (silent, error) = bus.trouble(index);
    let readings = device.map.registers.iter().zip(bus.readings(index));
    let readings = readings.map(|(register, reading)| {
        let (value, quality) = (reading.value.as_ref(), reading.quality(register));
        reading_view(register, value, quality, reading.unix_ms())
    });
    api::RackDevice {
        name: device.name.clone(),
        address: device.address,
        map: device.map.name.clone(),
        title: device.map.title.clone(),
        silent,
        error: error.map(str::to_owned),
        readings: readings.collect(),
    }
}

/// A register's reading as it is shown.
pub fn reading_view(
    register: &Register,
    value: Option<&Value>,
    quality: Quality,
    unix_ms: Option<u64>,
) -> api::RackReading {
    let (value, text) = value_view(value);
    api::RackReading {
        name: register.name.clone(),
        metric: register.metric.clone(),
        value,
        text,
        unit: register.unit.clone(),
        quality: quality_view(quality),
        unix_ms,
    }
}

/// A value as it is shown: as a number, or as text.
pub(super) fn value_view(value: Option<&Value>) -> (Option<f64>, Option<String>) {
    match value {
        Some(Value::Number(value)) => (Some(*value), None),
        Some(Value::Text(text)) => (None, Some(text.clone())),
        Some(Value::Flags(flags)) => (None, Some(flags.join(", "))),
        None => (None, None),
    }
}

pub(super) fn quality_view(quality: Quality) -> api::Quality {
    match quality {
        Quality::Good => api::Quality::Good,
        Quality::Stale => api::Quality::Stale,
        Quality::Suspect => api::Quality::Suspect,
        Quality::Bad => api::Quality::Bad,
    }
}
