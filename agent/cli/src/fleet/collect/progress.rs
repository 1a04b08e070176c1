//! How collecting goes, now and then: a line for people, JSON for programs.

use std::collections::BTreeSet;

use purlin_daemon::clock;
use purlin_proto::v1::record::Body;
use serde::Serialize;

use super::taken::Taken;
use crate::units;

/// Figures since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Progress {
    /// When.
    pub unix_ms: u64,
    /// Why the broker is not there; absent while it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
    /// Why the far side takes nothing; absent while it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub far: Option<String>,
    /// Nodes that something came of.
    pub nodes: usize,
    /// Messages that came.
    pub messages: u64,
    /// Batches that the far side has.
    pub batches: u64,
    /// Records that the far side has.
    pub records: u64,
    /// Values of samples among them.
    pub values: u64,
    /// Records that came again and were dropped.
    pub duplicates: u64,
    /// Records that nodes gave up, by their gaps.
    pub lost: u64,
    /// Numbers that are missing, and nobody says why.
    pub holes: u64,
    /// Records that came after they were told as missing.
    pub late: u64,
    /// Numbers that are missing and may still come.
    pub missing: u64,
    /// Messages that are here and not acknowledged.
    pub waiting: usize,
    /// Messages that are set aside until their dictionary comes.
    pub aside: usize,
    /// Batches that the far side refused for good, and messages that can't be read.
    pub refused: u64,
    /// Values that the far side left out of what it took.
    pub left_out: u64,
    /// Nodes' messages that are another partition's.
    pub others: u64,
    /// How old the newest record was when the far side had it.
    pub lag_ms: u64,
    #[serde(skip)]
    seen: BTreeSet<u64>,
}

/// Nodes that are told apart; beyond it they are not counted.
const MAX_NODES: usize = 1 << 17;

impl Progress {
    /// Notes that something came of a node, known by its hash.
    pub fn node(&mut self, hash: u64) {
        if self.seen.len() < MAX_NODES {
            self.seen.insert(hash);
            self.nodes = self.seen.len();
        }
    }

    /// Counts what the far side has.
    pub fn count(&mut self, taken: &Taken) {
        self.batches += 1;
        self.records += taken.records.len() as u64;
        self.lost += taken.gaps.iter().map(|it| it.lost).sum::<u64>();
        self.holes += taken.holes.iter().map(|(a, b)| b - a + 1).sum::<u64>();
        for (_, record) in &taken.records {
            if let Some(Body::Sample(sample)) = &record.body {
                self.values += (sample.gauges.len() + sample.counters.len()) as u64;
            }
        }
        if let Some((_, newest)) = taken.records.last().filter(|_| !taken.historical) {
            self.lag_ms = clock::unix_ms().saturating_sub(newest.unix_ms);
        }
    }

    /// For a person.
    pub fn line(&self) -> String {
        let mut line = format!(
            "{}  {} from {}, {} behind; {} waiting",
            units::time(self.unix_ms),
            units::count(self.records, "record", "records"),
            units::count(self.nodes as u64, "node", "nodes"),
            units::duration(self.lag_ms),
            self.waiting,
        );
        for (n, what) in [
            (self.duplicates, "again"),
            (self.lost, "lost"),
            (self.holes, "in holes"),
            (self.aside as u64, "set aside"),
            (self.refused, "refused"),
            (self.left_out, "left out"),
        ] {
            if n > 0 {
                line += &format!(", {n} {what}");
            }
        }
        if let Some(why) = &self.broker {
            line += &format!("; the broker: {why}");
        }
        if let Some(why) = &self.far {
            line += &format!("; the far side: {why}");
        }
        line + "\n"
    }
}
