//! The task `bmc`: looks at the node's BMC every few seconds, by a helper of its own. Its
//! readings are spooled, what it says is wrong is an alarm for as long as it says so, and
//! what its log says is an event once.
//!
//! Up to where the log was told is kept on disk, so that a restart neither tells it again
//! nor misses what happened meanwhile.

use std::{collections::VecDeque, path::Path, sync::Arc, time::Duration};

use purlin_core::{
    metric::Point,
    rack::bmc::{self, Event, Look, Place, Told},
};
use purlin_proto::api;
use tokio::{
    sync::watch,
    task,
    time::{self, Instant},
};

use crate::{
    alarm, clock,
    helper::{Client, What},
    sample,
    spool::Spool,
    two_files::{Kind, TwoFiles},
};

/// How often it is looked: a BMC scans its sensors about once a second, and is slow to
/// tell.
const EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether there is one.
const NONE_EVERY: Duration = Duration::from_secs(60);
/// What is older than so many looks is not what is.
const STALE_AFTER: u32 = 3;
/// Entries of the log that are shown.
const SHOWN: usize = 32;
/// Where it is.
const DEVICE: &str = "/dev/ipmi0";

const KIND: Kind = Kind { name: "bmc", magic: *b"PURLBMC\x01", max_bytes: 4096 };

/// What is shown of it; `None` without one.
pub type View = Option<Arc<api::Bmc>>;

/// What the task owns.
#[derive(Debug)]
pub struct Owner {
    /// Asks the BMC.
    pub helper: Client,
    /// Takes readings and events.
    pub spool: Spool,
    /// Judges them.
    pub alarms: alarm::Client,
    /// Shows it.
    pub view: watch::Sender<View>,
    /// Up to where the log was told, on disk and here.
    pub told: (TwoFiles, Place),
}

/// Up to where the log of a state directory was told, and what was damaged: then it is
/// told again.
pub fn open(dir: &Path) -> ((TwoFiles, Place), Vec<String>) {
    let parse = |payload: &[u8]| serde_json::from_slice::<Place>(payload).ok();
    let (files, place, problems) = TwoFiles::open(dir, KIND, parse);
    ((files, place.unwrap_or_default()), problems)
}

/// What is known of it between two looks.
#[derive(Default)]
struct Known {
    place: Place,
    states: Told,
    latest: VecDeque<Event>,
    dictionary: u64,
    /// What was complained of.
    problems: Vec<String>,
}

impl Owner {
    /// Looks for ever.
    pub async fn run(&mut self) {
        let mut known = Known::default();
        loop {
            let began = Instant::now();
            let every = if self.look(&mut known).await { EVERY } else { NONE_EVERY };
            time::sleep_until(began + every).await;
        }
    }

    /// Looks once; false if there is none, or it can't be asked.
    async fn look(&mut self, known: &mut Known) -> bool {
        if !Path::new(DEVICE).exists() {
            self.view.send_replace(None);
            return false;
        }
        let mut answer = self.helper.ask(What::Bmc(known.place)).await;
        let mut problems: Vec<String> =
            answer.problems.iter().map(|it| format!("{}: {}", it.at, it.what)).collect();
        let Some(mut look) = answer.bmc.take() else {
            self.complain(known, problems.clone());
            self.view.send_modify(|view| {
                let mut shown = view.as_deref().cloned().unwrap_or_default();
                let late = EVERY * STALE_AFTER;
                shown.stale = clock::unix_ms() > shown.unix_ms + late.as_millis() as u64;
                shown.problems = problems;
                *view = Some(Arc::new(shown));
            });
            return self.view.borrow().as_ref().is_some_and(|it| it.unix_ms > 0);
        };
        // The rest of a long log, before anything is judged by a part of it.
        while look.log.more {
            let Some(mut more) = self.helper.ask(What::Bmc(look.log.place)).await.bmc else {
                break;
            };
            if !more.log.anew {
                more.log.events.splice(0..0, look.log.events);
                more.log.anew = look.log.anew;
            }
            look = more;
        }
        self.hear(known, &look);
        if self.told.1 != known.place {
            problems.extend(self.keep(known.place).await.err());
        }
        self.readings(known, &look);
        self.alarms.all_of(bmc::KIND, bmc::wrong(&look, &known.states));
        self.complain(known, problems.clone());
        let shown = view(&look, &known.latest, problems);
        self.view.send_replace(Some(Arc::new(shown)));
        true
    }

    /// Takes note of the log, and tells what of it was not told before.
    fn hear(&self, known: &mut Known, look: &Look) {
        let log = &look.log;
        if log.anew {
            known.latest.clear();
        }
        // Up to where it was told before a restart, if it is still the same log.
        let told = self.told.1;
        let is_told = |it: &Event| told.erased == log.place.erased && it.record == told.record;
        let new = log.events.iter().rposition(is_told).map_or(0, |at| at + 1);
        for event in &log.events[new..] {
            let name = look.sensors.iter().find(|it| it.number == event.sensor);
            let text = event.text(name.map(|it| it.name.as_str()));
            tracing::info!(record = event.record, text, "the BMC's log");
            let attributes = [
                ("purlin.bmc.record".to_owned(), event.record.to_string()),
                ("purlin.bmc.unix_s".to_owned(), event.unix_s.to_string()),
            ];
            self.spool.event_with("bmc.event", text, attributes);
        }
        known.states.hear(log);
        known.latest.extend(log.events.iter().cloned());
        while known.latest.len() > SHOWN {
            known.latest.pop_front();
        }
        known.place = log.place;
    }

    async fn keep(&mut self, place: Place) -> Result<(), String> {
        let mut files = self.told.0.clone();
        let payload = serde_json::to_vec(&place).map_err(|error| error.to_string())?;
        let stored = task::spawn_blocking(move || files.store(&payload).map(|()| files)).await;
        let stored = stored.map_err(std::io::Error::other).flatten();
        self.told = (stored.map_err(|e| format!("where the log was read to: {e}"))?, place);
        Ok(())
    }

    fn readings(&self, known: &mut Known, look: &Look) {
        let points: Vec<Point> = look.sensors.iter().filter_map(bmc::Sensor::point).collect();
        if points.is_empty() {
            return;
        }
        self.alarms.observe(&points);
        self.spool.sample(sample::split("bmc", points), &mut known.dictionary);
    }

    fn complain(&self, known: &mut Known, problems: Vec<String>) {
        if problems != known.problems {
            for problem in &problems {
                tracing::warn!(problem, "the BMC can't be read");
            }
            known.problems = problems;
        }
    }
}

fn view(look: &Look, latest: &VecDeque<Event>, problems: Vec<String>) -> api::Bmc {
    let sensor = |it: &bmc::Sensor| api::BmcSensor {
        name: it.name.clone(),
        value: it.value,
        unit: it.unit.clone(),
        states: it.states.map(|_| it.words()),
        limits: it.limits,
    };
    let event = |it: &Event| {
        let name = look.sensors.iter().find(|sensor| sensor.number == it.sensor);
        let text = it.text(name.map(|it| it.name.as_str()));
        api::BmcEvent { record: it.record, unix_s: it.unix_s, text, asserted: it.asserted }
    };
    let action = |action: u8| match action {
        1 => "reset",
        2 => "power down",
        3 => "power cycle",
        _ => "nothing",
    };
    let watchdog = look.watchdog.map(|it| api::BmcWatchdog {
        running: it.running,
        action: action(it.action).into(),
        timeout_ms: it.timeout_ms,
        left_ms: it.left_ms,
    });
    let part = |it: &bmc::Fru| api::BmcPart { name: it.name.clone(), fields: it.fields.clone() };
    api::Bmc {
        manufacturer: look.device.manufacturer,
        product: look.device.product,
        firmware: look.device.firmware.clone(),
        ipmi: look.device.ipmi.clone(),
        problems,
        unix_ms: clock::unix_ms(),
        stale: false,
        sensors: look.sensors.iter().map(sensor).collect(),
        parts: look.frus.iter().map(part).collect(),
        log_entries: look.log.entries,
        log_free: look.log.free,
        events: latest.iter().map(event).collect(),
        watchdog,
    }
}
