//! From messages to what is handed on: decoded, each record once, with what is missing.

use std::{collections::HashMap, path::PathBuf};

use purlin_core::arrival::{Arrival, Range};
use purlin_daemon::{clock, otlp::Whose, wire};
use purlin_proto::v1;

use super::{
    journal::Entry,
    progress::Progress,
    shelf::Shelf,
    taken::{self, Log, Taken, Topic},
};
use crate::args::Partition;

/// Logs that are remembered. Beyond it those that nothing came of for longest are
/// forgotten, and would be taken a second time.
const MAX_LOGS: usize = 1 << 18;

/// What a message came to.
#[derive(Debug)]
pub enum Step {
    /// Something to hand on, and what the journal is to say of it.
    Batch(Box<Taken>, Entry),
    /// A dictionary; these messages waited for it.
    Dictionary(Vec<PathBuf>),
    /// Its dictionary has not come.
    Lacks(u64),
    /// Nothing of ours.
    Nothing,
    /// It can't be read.
    Bad(String),
}

/// What came of each log.
#[derive(Debug)]
pub struct Intake {
    /// The state directory.
    pub shelf: Shelf,
    logs: HashMap<Log, Known>,
    partition: Partition,
    /// Messages come in the order in which they were published.
    ordered: bool,
}

#[derive(Debug)]
struct Known {
    arrival: Arrival,
    last_ms: u64,
}

impl Intake {
    /// With what was remembered.
    pub fn new(
        shelf: Shelf,
        logs: HashMap<Log, Arrival>,
        partition: Partition,
        ordered: bool,
    ) -> Self {
        let known = |(log, arrival)| (log, Known { arrival, last_ms: 0 });
        Self { shelf, logs: logs.into_iter().map(known).collect(), partition, ordered }
    }

    /// Takes a message.
    pub fn take(&mut self, topic: &str, payload: &[u8], progress: &mut Progress) -> Step {
        let Some(what) = Topic::read(topic) else { return Step::Nothing };
        let hash = wire::hash_of(what.node().as_bytes());
        if hash % self.partition.of != self.partition.part - 1 {
            progress.others += 1;
            return Step::Nothing;
        }
        match what {
            Topic::Dictionary { hash, .. } if !payload.is_empty() => {
                self.shelf.keep(hash, payload).map_or_else(Step::Bad, Step::Dictionary)
            }
            Topic::Dictionary { .. } => Step::Nothing,
            Topic::Batch { fleet, node, relay, class } => {
                let read = taken::batch(payload, &node, class).and_then(|batch| {
                    let records = wire::records(&batch).map_err(|error| error.to_string())?;
                    Ok((batch, records))
                });
                let (batch, records) = match read {
                    Ok(read) => read,
                    Err(why) => return Step::Bad(why),
                };
                let mut dictionaries = Vec::new();
                for block in &batch.blocks {
                    match self.shelf.dictionary(block.dictionary) {
                        Some(it) => dictionaries.push((block.dictionary, it)),
                        None => return Step::Lacks(block.dictionary),
                    }
                }
                progress.node(hash);
                let incarnation = batch.incarnation;
                let log = Log { fleet: fleet.clone(), node: node.clone(), incarnation, class };
                let whose = Whose { fleet, node, incarnation, relay, host_name: None };
                let taken = Taken {
                    whose,
                    class,
                    historical: batch.historical,
                    records,
                    dictionaries,
                    gaps: Vec::new(),
                    holes: Vec::new(),
                    came_unix_ms: clock::unix_ms(),
                };
                let (taken, entry) = self.sift(taken, &batch, log, progress);
                Step::Batch(Box::new(taken), entry)
            }
        }
    }

    /// Drops what came before, and finds what is missing.
    fn sift(
        &mut self,
        mut taken: Taken,
        batch: &v1::Batch,
        log: Log,
        progress: &mut Progress,
    ) -> (Taken, Entry) {
        let now_ms = taken.came_unix_ms;
        let range = (batch.first_seq, batch.last_seq);
        self.bound();
        let known = self.logs.entry(log.clone());
        let known = known.or_insert_with(|| Known { arrival: Arrival::default(), last_ms: 0 });
        known.last_ms = now_ms;
        let arrival = &mut known.arrival;
        let within = taken::holes_within(batch, &taken.records);
        let came = taken.records.len();
        taken.records.retain(|(seq, _)| arrival.is_new(*seq));
        progress.duplicates += (came - taken.records.len()) as u64;
        let late = taken.records.iter().filter(|(seq, _)| arrival.holes.has(*seq, *seq));
        progress.late += late.count() as u64;
        // What comes again, and was told, is not told again.
        let is_told =
            |(first, last): &Range| !arrival.is_new(*first) || arrival.holes.has(*first, *last);
        taken.holes.extend(within.into_iter().filter(|it| !is_told(it)));
        let gap = |it: &&v1::Gap| arrival.gap(it.cause, (it.first_seq, it.last_seq));
        taken.gaps = batch.gaps.iter().filter(gap).copied().collect();
        // What another node brings of it says nothing of what it sends itself.
        let past = batch.historical && taken.whose.relay.is_none() && self.ordered;
        let passed = arrival.batch(range, past, now_ms);
        if self.ordered {
            taken.holes.extend(passed);
        }
        let gaps = taken.gaps.iter().map(|it| (it.cause, (it.first_seq, it.last_seq))).collect();
        let entry = Entry { log, range: Some(range), holes: taken.holes.clone(), gaps };
        (taken, entry)
    }

    /// Holes among what is missing for long.
    pub fn overdue(&mut self, after_ms: u64) -> Vec<(Taken, Entry)> {
        if !self.ordered {
            return Vec::new();
        }
        let now_ms = clock::unix_ms();
        let mut due = Vec::new();
        for (log, known) in &mut self.logs {
            let holes = known.arrival.overdue(now_ms, after_ms);
            if !holes.is_empty() {
                due.push(holes_of(log, holes, now_ms));
            }
        }
        due
    }

    /// Numbers that are missing and may still come.
    pub fn missing(&self) -> u64 {
        self.logs.values().map(|it| it.arrival.missing()).sum()
    }

    fn bound(&mut self) {
        if self.logs.len() >= MAX_LOGS {
            let mut times: Vec<_> = self.logs.values().map(|it| it.last_ms).collect();
            let (_, oldest, _) = times.select_nth_unstable(MAX_LOGS / 16);
            let oldest = *oldest;
            self.logs.retain(|_, it| it.last_ms > oldest);
        }
    }
}

fn holes_of(log: &Log, holes: Vec<Range>, now_ms: u64) -> (Taken, Entry) {
    let Log { fleet, node, incarnation, class } = log.clone();
    let taken = Taken {
        whose: Whose { fleet, node, incarnation, relay: None, host_name: None },
        class,
        historical: true,
        records: Vec::new(),
        dictionaries: Vec::new(),
        gaps: Vec::new(),
        holes: holes.clone(),
        came_unix_ms: now_ms,
    };
    (taken, Entry { log: log.clone(), range: None, holes, gaps: Vec::new() })
}
