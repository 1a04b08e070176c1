//! The owner of the inventory: what the machine is made of, what happened to it,
//! and how it differs from what was accepted.
//!
//! It reads everything when it starts and then seldom; what a uevent names is read
//! again at once. Beside that it asks for what NVIDIA's GPUs and LLDP neighbours say.
//! All reading is the helper's. Only this task writes the inventory, its history, the
//! baseline and what container runtimes are told.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use purlin_core::{
    drift::{self, Change, Class as Kind, Drift, Event, Removed, Watcher, What},
    inventory::{Gpu, GpuEvent, GpuEventKind, GpuVendor, Inventory, Neighbour, Part},
};
use purlin_proto::api;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task,
    time::{self, Instant},
};

use crate::{
    baseline::Baseline,
    cdi::{Runtimes, SERVED_WITHIN},
    clock,
    helper::{self, Client},
    spool::Spool,
    uevent::{Hint, Uevents},
};

/// How often everything is read again: not everything sends uevents (error counts,
/// a firmware update, a GPU that stops to answer).
const EVERYTHING: Duration = Duration::from_secs(600);
/// The same while a reader seems to fail, so that its end is soon told.
const EVERYTHING_FAULTY: Duration = Duration::from_secs(60);
/// After a uevent: a device comes with a dozen of them.
const COALESCE: Duration = Duration::from_millis(250);
/// In a storm of them, at the latest.
const COALESCE_MOST: Duration = Duration::from_secs(2);
/// Between the reads that must agree, after a uevent …
const SETTLE: Duration = Duration::from_millis(400);
/// … and when nothing was told: a reader that fails may go on failing for a while.
const SETTLE_UNTOLD: Duration = Duration::from_secs(10);
/// How often NVIDIA's GPUs are asked what they have to say; nowhere else.
const GPU_EVENTS: Duration = Duration::from_secs(5);
/// LLDP is sent every 30 s and holds for 120 s (IEEE 802.1AB); asked for where
/// there is a physical NIC.
const NEIGHBOURS: Duration = Duration::from_secs(30);
/// Names kept of what was removed between two reads: a node that ends a thousand
/// containers at once. What is beyond is missed three times before it is told.
const MAX_REMOVED: usize = 4096;
/// Changes kept for the local API.
pub const KEPT_CHANGES: usize = 256;
/// Who accepted the first inventory of a node.
const FIRST_SEEN: &str = "first seen";

/// What can't be done without a source, as `purlin status` lists it.
const HEAR_EVENTS: &str = "see hardware come and go at once";
const HEAR_NEIGHBOURS: &str = "hear LLDP neighbours";
const TELL_RUNTIMES: &str = "tell container runtimes of devices (CDI)";

/// Something asked of the owner.
#[derive(Debug)]
pub enum Ask {
    /// Makes what the machine is now the accepted hardware; who asks.
    Accept(String, oneshot::Sender<Result<api::HardwareDiff, String>>),
}

/// What is known beside the inventory itself.
#[derive(Clone, Debug, Default)]
pub struct Hardware {
    /// The machine against the accepted hardware.
    pub diff: api::HardwareDiff,
    /// Changes, oldest first, at most [`KEPT_CHANGES`].
    pub changes: VecDeque<api::HardwareChange>,
    /// Kinds of things that a reader seems to fail on.
    pub reader_faults: Vec<&'static str>,
    /// Why there is no accepted hardware.
    pub damage: Option<String>,
    /// What can't be done, and why.
    pub limits: BTreeMap<&'static str, String>,
}

/// Owns the inventory.
#[derive(Debug)]
pub struct Owner {
    /// Reads.
    pub helper: Client,
    /// Takes the events.
    pub spool: Spool,
    /// Where the baseline is.
    pub state_dir: PathBuf,
    /// Who tells container runtimes; `None`: they are told nothing.
    pub runtimes: Option<Runtimes>,
    /// When they should have been told what was asked for last.
    pub runtimes_due: Option<Instant>,
    /// What it publishes: the machine …
    pub inventory: watch::Sender<Arc<Inventory>>,
    /// … and the rest.
    pub hardware: watch::Sender<Arc<Hardware>>,
    /// What is asked of it.
    pub inbox: mpsc::Receiver<Ask>,
    /// What was told so far.
    pub watcher: Watcher,
    /// The accepted hardware.
    pub baseline: Option<Baseline>,
    /// What is to be read.
    pub due: Due,
    /// Who was last heard at the other end of each interface.
    pub neighbours: Vec<(String, Neighbour)>,
}

impl Owner {
    /// Serves for ever.
    pub async fn run(&mut self) {
        let mut uevents = self.listen();
        self.load();
        let mut gpu_events = ticks(GPU_EVENTS);
        let mut neighbours = ticks(NEIGHBOURS);
        loop {
            let (has_nvidia, has_port) = self.hears();
            // Dropped while they wait, none of them loses anything.
            tokio::select! {
                hint = next(&mut uevents) => match hint {
                    Ok(hint) => self.due.hint(hint, Instant::now()),
                    Err(error) => {
                        self.deaf(&error);
                        uevents = None;
                    }
                },
                Some(Ask::Accept(by, reply)) = self.inbox.recv() => {
                    _ = reply.send(self.accept(by).await);
                }
                () = time::sleep_until(self.due.at) => self.read().await,
                () = at(self.runtimes_due) => self.check_runtimes().await,
                _ = gpu_events.tick(), if has_nvidia => self.gpu_events().await,
                _ = neighbours.tick(), if has_port => self.neighbours().await,
            }
        }
    }

    fn listen(&self) -> Option<Uevents> {
        Uevents::open().inspect_err(|error| self.deaf(error)).ok()
    }

    fn deaf(&self, error: &std::io::Error) {
        let why = format!("the kernel's events can't be had: {error}");
        tracing::warn!(why, every = ?EVERYTHING, "hardware is only read again now and then");
        self.limit(HEAR_EVENTS, Some(why));
    }

    /// Publishes why something can't be done, or that it can.
    fn limit(&self, what: &'static str, why: Option<String>) {
        if self.hardware.borrow().limits.get(what) != why.as_ref() {
            self.publish(|hardware| match why {
                Some(why) => _ = hardware.limits.insert(what, why),
                None => _ = hardware.limits.remove(what),
            });
        }
    }

    fn load(&mut self) {
        if self.baseline.is_some() {
            return;
        }
        match Baseline::read(&self.state_dir) {
            Ok(baseline) => self.baseline = baseline,
            Err(why) => {
                let aside = Baseline::set_aside(&self.state_dir);
                let aside = aside.map_or_else(|e| e.to_string(), |path| path.display().to_string());
                tracing::error!(why, aside, "the accepted hardware can't be read: set aside");
                self.publish(|hardware| hardware.damage = Some(why));
            }
        }
    }

    async fn read(&mut self) {
        let mut inventory = Inventory::clone(&self.inventory.borrow());
        let mut read = BTreeSet::new();
        for &part in &self.due.parts {
            if self.helper.read(part, &mut inventory, self.due.parts.len() == Part::ALL.len()).await
            {
                read.insert(part);
            }
        }
        join_neighbours(&mut inventory, &[], &self.neighbours);
        let now = clock::boot_ms();
        let events = self.watcher.observe(&inventory, &read, &self.due.removed, now);
        let changed = *self.inventory.borrow().as_ref() != inventory;
        if changed {
            self.inventory.send_replace(Arc::new(inventory));
        }
        for event in &events {
            self.tell(event);
        }
        let unsure = self.watcher.is_unsure();
        let faulty = self.watcher.faults().next().is_some();
        self.due.done(unsure, faulty, Instant::now());
        if !unsure {
            self.first_seen().await;
            self.compare();
            self.tell_runtimes().await;
        }
    }

    /// Whether there is an NVIDIA GPU, and a physical NIC.
    fn hears(&self) -> (bool, bool) {
        let inventory = self.inventory.borrow();
        let nvidia = |gpu: &Gpu| gpu.vendor == GpuVendor::Nvidia;
        let gpus = inventory.gpus.as_ref().is_some_and(|gpus| gpus.iter().any(nvidia));
        let nics = inventory.nics.as_ref().is_some_and(|nics| nics.iter().any(|nic| nic.physical));
        (gpus, nics)
    }

    async fn gpu_events(&mut self) {
        let answer = self.helper.ask(helper::What::GpuEvents).await;
        for event in &answer.gpu_events {
            self.tell_change(gpu_told(event));
        }
        if !answer.gpu_events.is_empty() {
            self.due.hint(Hint { parts: &[Part::Gpu], removed: None }, Instant::now());
        }
    }

    async fn neighbours(&mut self) {
        let answer = self.helper.ask(helper::What::Neighbours).await;
        self.limit(HEAR_NEIGHBOURS, answer.problems.into_iter().next().map(|it| it.what));
        if answer.neighbours == self.neighbours {
            return;
        }
        let before = std::mem::replace(&mut self.neighbours, answer.neighbours);
        let mut inventory = Inventory::clone(&self.inventory.borrow());
        join_neighbours(&mut inventory, &before, &self.neighbours);
        self.inventory.send_replace(Arc::new(inventory));
    }

    /// Container runtimes are told what is sure: while a reader seems to fail, what
    /// they were told before stands.
    async fn tell_runtimes(&mut self) {
        let matters = |part| matches!(part, Part::Gpu | Part::Nic | Part::Pci);
        let Some(runtimes) = self.runtimes.clone() else { return };
        if self.watcher.faults().any(|kind| matters(kind.part())) {
            return;
        }
        let inventory = self.inventory.borrow().clone();
        let asked = task::spawn_blocking(move || runtimes.ask(&inventory)).await;
        match asked.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(true) => {
                tracing::info!("container runtimes are to be told what devices there are");
                self.runtimes_due = Some(Instant::now() + SERVED_WITHIN);
            }
            Ok(false) if self.runtimes_due.is_some() => {}
            Ok(false) => self.check_runtimes().await,
            Err(why) => self.limit(TELL_RUNTIMES, Some(why)),
        }
    }

    /// What was asked of another is not done before it is seen.
    async fn check_runtimes(&mut self) {
        self.runtimes_due = None;
        let Some(runtimes) = self.runtimes.clone() else { return };
        let inventory = self.inventory.borrow().clone();
        let told = task::spawn_blocking(move || runtimes.told(&inventory)).await;
        self.limit(TELL_RUNTIMES, told.unwrap_or_else(|error| Err(error.to_string())).err());
    }

    /// What a node is made of when it is first seen is taken for right.
    async fn first_seen(&mut self) {
        if self.baseline.is_some() || self.hardware.borrow().damage.is_some() {
            return;
        }
        match self.accept(FIRST_SEEN.into()).await {
            Ok(_) => tracing::info!("the hardware found is the accepted hardware from now on"),
            Err(why) => tracing::warn!(why, "the hardware found can't be kept to compare with"),
        }
    }

    async fn accept(&mut self, by: String) -> Result<api::HardwareDiff, String> {
        let inventory = Inventory::clone(&self.inventory.borrow());
        if inventory == Inventory::default() {
            return Err("the machine has not been read yet: try again in a few seconds".into());
        }
        let baseline = Baseline { by: by.clone(), unix_ms: clock::unix_ms(), inventory };
        let (stored, dir) = (baseline.clone(), self.state_dir.clone());
        // Beside the main loop: a worn flash may take seconds.
        task::spawn_blocking(move || stored.store(&dir))
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|error| format!("nothing was accepted: the state directory: {error}"))?;
        let before = self.hardware.borrow().diff.changes.len();
        let text = format!("by {by}, with {before} differences");
        tracing::info!(event = "hw.accepted", text, "the hardware was accepted");
        self.spool.event("hw.accepted", text);
        self.watcher.accept(&baseline.inventory);
        self.baseline = Some(baseline);
        self.publish(|hardware| hardware.damage = None);
        self.compare();
        Ok(self.hardware.borrow().diff.clone())
    }

    fn compare(&self) {
        let Some(baseline) = &self.baseline else { return };
        let diff = compare(baseline, &self.inventory.borrow());
        let faults = self.watcher.faults().map(Kind::name).collect();
        self.publish(|hardware| {
            hardware.diff = diff;
            hardware.reader_faults = faults;
        });
    }

    fn tell(&self, event: &Event) {
        self.tell_change(told(event));
    }

    fn tell_change(&self, told: api::HardwareChange) {
        let delay = self.due.heard.map(|heard| heard.elapsed());
        tracing::info!(event = told.name, text = told.text, after_uevent = ?delay, "hardware");
        self.spool.event_with(&told.name, &told.text, attributes(&told));
        self.publish(|hardware| {
            if hardware.changes.len() >= KEPT_CHANGES {
                hardware.changes.pop_front();
            }
            hardware.changes.push_back(told);
        });
    }

    fn publish(&self, change: impl FnOnce(&mut Hardware)) {
        self.hardware.send_modify(|hardware| change(Arc::make_mut(hardware)));
    }
}

/// Never, if there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => time::sleep_until(time).await,
        None => future::pending().await,
    }
}

async fn next(uevents: &mut Option<Uevents>) -> std::io::Result<Hint> {
    match uevents {
        Some(uevents) => uevents.next().await,
        None => future::pending().await,
    }
}

fn ticks(every: Duration) -> time::Interval {
    let mut ticks = time::interval(every);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    ticks
}

/// Puts who was heard beside whom others know of (systemd-networkd), in place of who
/// was heard before.
fn join_neighbours(
    inventory: &mut Inventory,
    before: &[(String, Neighbour)],
    heard: &[(String, Neighbour)],
) {
    let same = |a: &Neighbour, b: &Neighbour| (&a.chassis, &a.port) == (&b.chassis, &b.port);
    for nic in inventory.nics.iter_mut().flatten() {
        let mine = |(name, _): &&(String, Neighbour)| *name == nic.name;
        let replaced: Vec<_> = before.iter().chain(heard).filter(mine).collect();
        nic.neighbours.retain(|it| !replaced.iter().any(|(_, other)| same(it, other)));
        nic.neighbours.extend(heard.iter().filter(mine).map(|(_, neighbour)| neighbour.clone()));
    }
}

fn gpu_told(event: &GpuEvent) -> api::HardwareChange {
    let (name, what) = match &event.kind {
        GpuEventKind::Xid { code, text } => ("gpu.xid", format!("Xid {code}: {text}")),
        GpuEventKind::EccDouble => ("gpu.ecc", "an uncorrectable memory error".into()),
        GpuEventKind::MigChanged => ("gpu.mig", "partitions were made or removed".into()),
        GpuEventKind::Lost => ("gpu.lost", "it no longer answers".into()),
        GpuEventKind::Back => ("gpu.back", "it answers again".into()),
    };
    api::HardwareChange {
        name: name.into(),
        unix_ms: clock::unix_ms(),
        part: Part::Gpu.name().into(),
        kind: Kind::Gpu.name().into(),
        identity: format!("at {}", event.pci),
        title: format!("GPU at {}", event.pci),
        text: format!("GPU at {}: {what}", event.pci),
        ..Default::default()
    }
}

/// What is to be read, and when.
#[derive(Debug)]
pub struct Due {
    parts: BTreeSet<Part>,
    removed: Removed,
    at: Instant,
    everything_at: Instant,
    /// When the first uevent came that this is about.
    heard: Option<Instant>,
}

impl Due {
    /// Everything, now.
    pub fn everything(now: Instant) -> Self {
        let (parts, removed) = (BTreeSet::from(Part::ALL), Removed::new());
        Self { parts, removed, at: now, everything_at: now, heard: None }
    }

    fn hint(&mut self, hint: Hint, now: Instant) {
        let idle = self.heard.is_none() && self.at == self.everything_at;
        if idle && self.at > now {
            self.parts.clear();
        }
        let heard = *self.heard.get_or_insert(now);
        self.parts.extend(hint.parts);
        if let Some(name) = hint.removed.filter(|_| self.removed.len() < MAX_REMOVED) {
            self.removed.extend(hint.parts.iter().map(|part| (*part, name.clone())));
        }
        let latest = (heard + COALESCE_MOST).max(now);
        self.at = self.at.min(latest).min(now + COALESCE);
        // Another event of the same device: wait for the last.
        if self.at < now + COALESCE && now < heard + COALESCE_MOST {
            self.at = latest.min(now + COALESCE);
        }
    }

    /// After a read: once more soon if it is unsure, else everything when it is time.
    fn done(&mut self, unsure: bool, faulty: bool, now: Instant) {
        if self.parts.len() == Part::ALL.len() {
            self.everything_at = now + EVERYTHING;
        }
        if faulty {
            self.everything_at = self.everything_at.min(now + EVERYTHING_FAULTY);
        }
        if unsure {
            self.at = now + if self.heard.is_some() { SETTLE } else { SETTLE_UNTOLD };
            return;
        }
        self.parts = BTreeSet::from(Part::ALL);
        self.removed.clear();
        self.heard = None;
        self.at = self.everything_at;
    }
}

/// A machine against what was accepted.
pub fn compare(baseline: &Baseline, now: &Inventory) -> api::HardwareDiff {
    let from = format!("accepted by {}", baseline.by);
    let diff = between(&from, "this machine", &drift::diff(&baseline.inventory, now));
    api::HardwareDiff { accepted_unix_ms: Some(baseline.unix_ms), ..diff }
}

/// Two inventories compared, as the local API and the command line tell it.
pub fn between(from: &str, to: &str, drift: &Drift) -> api::HardwareDiff {
    api::HardwareDiff {
        from: from.into(),
        to: to.into(),
        accepted_unix_ms: None,
        changes: drift.changes.iter().map(|it| view(it, it.what.word(), it.to_string())).collect(),
        unread: drift.unread.iter().map(|class| class.name().into()).collect(),
    }
}

fn told(event: &Event) -> api::HardwareChange {
    match event {
        Event::Change(it) => view(it, it.what.word(), it.to_string()),
        Event::Flapping(it) => {
            let text = format!("{} won't stay as it is: told again in an hour", it.title);
            view(it, "flapping", text)
        }
        Event::ReaderBack(class) => api::HardwareChange {
            name: "hw.reader_back".into(),
            unix_ms: clock::unix_ms(),
            part: class.part().name().into(),
            kind: class.name().into(),
            text: format!("things of kind {} are seen again as they were", class.name()),
            ..Default::default()
        },
    }
}

fn view(change: &Change, word: &str, text: String) -> api::HardwareChange {
    let (field, before, after) = match &change.what {
        What::Changed { field, before, after } => (field.as_str(), before.clone(), after.clone()),
        What::Moved { before, after } => ("address", before.clone(), after.clone()),
        _ => ("", String::new(), String::new()),
    };
    api::HardwareChange {
        name: format!("hw.{word}"),
        unix_ms: clock::unix_ms(),
        part: change.class.part().name().into(),
        kind: change.class.name().into(),
        identity: change.identity.clone(),
        title: change.title.clone(),
        field: field.into(),
        before,
        after,
        text,
    }
}

fn attributes(it: &api::HardwareChange) -> BTreeMap<String, String> {
    let named = [
        ("hw.part", &it.part),
        ("hw.kind", &it.kind),
        ("hw.id", &it.identity),
        ("hw.field", &it.field),
        ("hw.before", &it.before),
        ("hw.after", &it.after),
    ];
    let told = named.into_iter().filter(|(_, value)| !value.is_empty());
    told.map(|(name, value)| (name.to_owned(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use purlin_core::inventory::Nic;

    use super::*;

    fn hint(parts: &'static [Part]) -> Hint {
        Hint { parts, removed: None }
    }

    #[test]
    fn events_that_come_together_are_one_read_of_what_they_name() {
        let start = Instant::now();
        let mut due = Due::everything(start);
        due.done(false, false, start);
        assert_eq!(due.at, start + EVERYTHING);
        let heard = start + Duration::from_secs(5);
        due.hint(hint(&[Part::Nic]), heard);
        due.hint(hint(&[Part::Pci]), heard + Duration::from_millis(100));
        assert_eq!(due.parts, BTreeSet::from([Part::Nic, Part::Pci]));
        assert_eq!(due.at, heard + Duration::from_millis(100) + COALESCE);
        due.done(true, false, heard);
        assert_eq!((due.at, due.parts.len()), (heard + SETTLE, 2));
        due.done(false, false, heard);
        assert_eq!((due.at, due.parts.len()), (start + EVERYTHING, Part::ALL.len()));
    }

    #[test]
    fn a_storm_of_events_is_read_every_two_seconds() {
        let start = Instant::now();
        let mut due = Due::everything(start);
        due.done(false, false, start);
        for ms in 0..1999 {
            let now = start + Duration::from_millis(ms);
            due.hint(hint(&[Part::Nic]), now);
            assert!(due.at > now && due.at <= start + COALESCE_MOST);
        }
    }

    #[test]
    fn before_the_first_read_an_event_takes_nothing_away() {
        let start = Instant::now();
        let mut due = Due::everything(start);
        due.hint(hint(&[Part::Nic]), start);
        assert_eq!(due.parts.len(), Part::ALL.len());
    }

    #[test]
    fn while_a_reader_fails_everything_is_read_every_minute() {
        let start = Instant::now();
        let mut due = Due::everything(start);
        due.done(false, true, start);
        assert_eq!((due.at, due.parts.len()), (start + EVERYTHING_FAULTY, Part::ALL.len()));
        due.done(false, false, start + EVERYTHING_FAULTY);
        assert_eq!(due.at, start + EVERYTHING_FAULTY + EVERYTHING);
    }

    #[test]
    fn what_was_removed_is_kept_until_it_is_sure_and_bounded() {
        let start = Instant::now();
        let mut due = Due::everything(start);
        due.done(false, false, start);
        for n in 0..2 * MAX_REMOVED {
            due.hint(Hint { parts: &[Part::Nic], removed: Some(format!("veth{n}")) }, start);
        }
        assert_eq!(due.removed.len(), MAX_REMOVED);
        due.done(true, false, start);
        assert!(due.removed.contains(&(Part::Nic, "veth7".into())));
        due.done(false, false, start);
        assert!(due.removed.is_empty());
    }

    #[test]
    fn who_is_heard_stands_beside_whom_others_know_of() {
        let neighbour = |chassis: &str, ttl_s| Neighbour {
            chassis: chassis.into(),
            port: "1".into(),
            ttl_s,
            ..Neighbour::default()
        };
        let nic = Nic {
            name: "eth0".into(),
            neighbours: vec![neighbour("networkd's", 1), neighbour("both", 1)],
            ..Nic::default()
        };
        let mut inventory = Inventory { nics: Some(vec![nic]), ..Inventory::default() };
        let heard = |it: &[Neighbour]| -> Vec<_> {
            it.iter().map(|it| ("eth0".to_owned(), it.clone())).collect()
        };
        let chassis = |inventory: &Inventory| -> Vec<_> {
            let nics = inventory.nics.iter().flatten();
            nics.flat_map(|nic| &nic.neighbours).map(|it| (it.chassis.clone(), it.ttl_s)).collect()
        };
        let first = heard(&[neighbour("both", 2), neighbour("ours", 2)]);
        join_neighbours(&mut inventory, &[], &first);
        let all = [("networkd's", 1), ("both", 2), ("ours", 2)].map(|(it, ttl)| (it.into(), ttl));
        assert_eq!(chassis(&inventory), all);
        join_neighbours(&mut inventory, &first, &[]);
        assert_eq!(chassis(&inventory), [("networkd's".to_owned(), 1)]);
    }
}
