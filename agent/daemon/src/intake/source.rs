//! Who hands something in, as the kernel tells it, and what each has done.
//!
//! At the Unix socket a source is the control group of the process at the other end: a
//! container or a unit, whatever it says of itself. What comes over loopback is one
//! source: nobody vouches there for a name.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    time::{Duration, Instant},
};

use purlin_core::quota::Meter;
use purlin_proto::api;
use tokio::net::unix::UCred;

use crate::spool::Spool;

/// Sources that are told apart; those beyond share one.
const MAX_SOURCES: usize = 128;
const OTHERS: &str = "others";
/// The one source of loopback.
pub const LOOPBACK: &str = "loopback";
/// The journal's.
pub const JOURNAL: &str = "journal";
/// Longest name: a container's id and what its runtime puts around it.
const MAX_NAME: usize = 96;
/// Series of one source: what a day's hourly chunks of a service amount to.
pub const MAX_SERIES: usize = 1000;
/// Dictionaries that sources may make at once, and how often one more: the spool keeps a
/// thousand, and its own must stay among them over a week without a link.
const DICTIONARIES: u32 = 64;
const ANOTHER_EVERY: Duration = Duration::from_secs(900);

/// The control group of a process, by the last part of its path.
pub fn of_peer(peer: Option<UCred>) -> String {
    let Some(peer) = peer else { return OTHERS.into() };
    let cgroup = peer.pid().and_then(|pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).ok());
    let path = cgroup.as_deref().and_then(|text| {
        // cgroup v2 has one line; v1 one for each controller, and systemd's names the unit.
        let line = text.lines().find(|it| it.starts_with("0::") || it.contains(":name=systemd:"));
        line.and_then(|line| line.splitn(3, ':').nth(2))
    });
    let last = path.and_then(|path| path.rsplit('/').find(|part| !part.is_empty()));
    last.map_or_else(|| format!("uid-{}", peer.uid()), plain)
}

fn plain(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.@:".contains(c) { c } else { '_' };
    name.chars().take(MAX_NAME).map(plain).collect()
}

/// One source.
#[derive(Debug, Default)]
pub struct Source {
    /// What it handed in, against its quota.
    pub meter: Meter,
    /// Sums that it tells as differences, by their series.
    pub sums: HashMap<u64, f64>,
    /// Its series.
    pub series: HashSet<u64>,
    /// Dictionaries that it has used.
    pub dictionaries: HashSet<u64>,
    /// Records taken, and their bytes.
    pub records: u64,
    /// Bytes taken.
    pub bytes: u64,
    /// Requests that were refused for now.
    pub refused: u64,
    dropped: u64,
    why: String,
    /// Of these the core was told.
    told: (u64, u64),
}

impl Source {
    /// Counts what is lost for good.
    pub fn drop(&mut self, count: u64, why: &str) {
        if count > 0 {
            self.dropped += count;
            why.clone_into(&mut self.why);
        }
    }
}

/// What is left of the dictionaries that all sources may make.
#[derive(Debug)]
pub struct Budget {
    left: u32,
    since: Instant,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: DICTIONARIES, since: Instant::now() }
    }
}

impl Budget {
    /// Takes one, if there is one left.
    pub fn take(&mut self) -> bool {
        while self.left < DICTIONARIES && self.since.elapsed() >= ANOTHER_EVERY {
            self.since += ANOTHER_EVERY;
            self.left += 1;
        }
        if self.left == DICTIONARIES {
            self.since = Instant::now();
        }
        let has = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Sources {
    all: BTreeMap<String, Source>,
    budget: Budget,
}

impl Sources {
    /// The source of this name, and what all have left.
    pub fn get(&mut self, name: String) -> (&mut Budget, &mut Source) {
        let known = self.all.contains_key(&name) || self.all.len() < MAX_SOURCES;
        let name = if known { name } else { OTHERS.into() };
        (&mut self.budget, self.all.entry(name).or_default())
    }

    /// Tells the core what was dropped or refused since it was told last.
    pub fn tell(&mut self, spool: &Spool) {
        for (name, source) in &mut self.all {
            let (dropped, refused) =
                (source.dropped - source.told.0, source.refused - source.told.1);
            let attributes = |count: u64| {
                [("source", name.clone()), ("count", count.to_string())]
                    .map(|(key, value)| (key.to_owned(), value))
            };
            if dropped > 0 {
                let text = format!("{dropped} records of {name} were dropped: {}", source.why);
                tracing::warn!(text, "workloads hand in more than is taken");
                spool.event_with("intake.dropped", text, attributes(dropped));
            }
            if refused > 0 {
                let text = format!("{refused} requests of {name} were over its quota: it was told");
                spool.event_with("intake.refused", text, attributes(refused));
            }
            source.told = (source.dropped, source.refused);
        }
    }

    /// As the local API shows them.
    pub fn views(&self) -> Vec<api::IntakeSource> {
        let view = |(name, it): (&String, &Source)| api::IntakeSource {
            source: name.clone(),
            records: it.records,
            bytes: it.bytes,
            bytes_today: it.meter.today(),
            series: it.series.len() as u32,
            refused: it.refused,
            dropped: it.dropped,
            why: it.why.clone(),
        };
        self.all.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_a_bound_sources_share_one() {
        let mut sources = Sources::default();
        for n in 0..MAX_SOURCES + 20 {
            sources.get(format!("box-{n}")).1.records += 1;
        }
        let views = sources.views();
        assert_eq!(views.len(), MAX_SOURCES + 1);
        let others = views.iter().find(|it| it.source == OTHERS);
        assert_eq!(others.map(|it| it.records), Some(20));
    }

    #[test]
    fn dictionaries_are_made_as_many_as_are_allowed() {
        let mut budget = Budget::default();
        assert_eq!((0..200).filter(|_| budget.take()).count(), DICTIONARIES as usize);
    }
}
