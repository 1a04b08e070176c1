//! Other nodes' records, brought here in a file to be sent on: from batches to
//! entries of the relay's log, each record once, and from there to batches again.
//!
//! What was brought is remembered by identity, as ranges for each log, in the file
//! `brought`. It is written after the records are durable: a crash between them
//! means that they may be sent twice, never that they are lost.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use prost::Message;
use purlin_core::{
    gap::{Cause, Gap},
    seen::Seen,
};
use purlin_proto::{
    api, topic,
    v1::{self, relayed::What},
};

use super::{Frame, log::Log, segment::RECORD_HEADER_BYTES};
use crate::{
    state,
    wire::{self, Origin},
};

/// Logs that are remembered; beyond it those of the lowest node id are forgotten, and
/// would be sent a second time.
const MAX_LOGS: usize = 1024;
/// The relay's log is made durable each time that so much was taken.
const COMMIT_BYTES: usize = 256 << 10;

/// A batch that was brought: whose, its number span, its entries in order.
#[derive(Debug)]
pub struct Incoming {
    origin: Origin,
    entries: Vec<v1::Relayed>,
}

impl Incoming {
    /// Takes a batch apart. The error says what is wrong with it.
    pub fn new(payload: &[u8]) -> Result<Self, String> {
        let batch = wire::decode(payload).map_err(|error| error.to_string())?;
        let origin = Origin {
            node: batch.node.clone(),
            incarnation: batch.incarnation,
            class: batch.class(),
        };
        let own = [v1::Class::Alarm, v1::Class::Event, v1::Class::Metric, v1::Class::Log];
        if !topic::is_level(&origin.node) || !own.contains(&origin.class) {
            return Err(format!("no node {:?} has a log {:?}", origin.node, origin.class));
        }
        let entry = |first_seq, seq, what| v1::Relayed {
            node: origin.node.clone(),
            incarnation: origin.incarnation,
            class: origin.class.into(),
            first_seq,
            seq,
            what: Some(what),
        };
        let records = wire::records(&batch).map_err(|error| error.to_string())?;
        let mut entries: Vec<_> =
            records.into_iter().map(|(seq, it)| entry(seq, seq, What::Record(it))).collect();
        for gap in batch.gaps {
            let (first, last) =
                (gap.first_seq.max(batch.first_seq), gap.last_seq.min(batch.last_seq));
            if first <= last {
                entries.push(entry(first, last, What::Gap(gap)));
            }
        }
        entries.sort_by_key(|it| (it.first_seq, it.seq));
        Ok(Self { origin, entries })
    }

    /// Whose it is.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// What was brought of one log.
#[derive(Clone, Debug, Default)]
struct Of {
    records: Seen,
    gaps: Seen,
}

impl Of {
    fn kind(&mut self, entry: &v1::Relayed) -> &mut Seen {
        match &entry.what {
            Some(What::Gap(_)) => &mut self.gaps,
            _ => &mut self.records,
        }
    }
}

/// What was brought, of all logs.
#[derive(Debug)]
pub struct Brought {
    path: PathBuf,
    logs: BTreeMap<Origin, Of>,
}

impl Brought {
    /// Reads what was brought into the relay's log in `dir`. A damaged file means
    /// sending again.
    pub fn open(dir: &Path) -> Self {
        let path = dir.join("brought");
        let read = fs::read(&path).ok().and_then(|bytes| {
            let (list, crc) = bytes.split_last_chunk::<4>()?;
            (crc32c::crc32c(list) == u32::from_le_bytes(*crc)).then_some(())?;
            v1::Brought::decode(list).ok()
        });
        let logs = read.unwrap_or_default().logs.into_iter().map(|log| {
            let origin =
                Origin { class: log.class(), node: log.node, incarnation: log.incarnation };
            let of = Of { records: ranges(&log.ranges), gaps: ranges(&log.gap_ranges) };
            (origin, of)
        });
        Self { path, logs: logs.collect() }
    }

    /// Takes what was not brought before into the relay's log, and makes it durable.
    /// The error says why not all was taken; what was, stays.
    pub fn take(&mut self, log: &mut Log, incoming: &[Incoming]) -> Result<api::Imported, String> {
        let mut imported = api::Imported::default();
        let mut waiting: Vec<&v1::Relayed> = Vec::new();
        let mut bytes = 0;
        for (origin, entry) in
            incoming.iter().flat_map(|it| it.entries.iter().map(|e| (&it.origin, e)))
        {
            let is_record = matches!(entry.what, Some(What::Record(_)));
            let of = self.logs.entry(origin.clone()).or_default();
            if of.kind(entry).has(entry.first_seq, entry.seq) {
                imported.known += u64::from(is_record);
                continue;
            }
            let payload = entry.encode_to_vec();
            let needed = log.bytes() + (bytes + payload.len() + RECORD_HEADER_BYTES) as u64;
            if needed > log.limits().cap {
                self.commit(log, &mut waiting)?;
                return Err(format!(
                    "the relay's log is full ({} MiB): import again when some of it was sent, \
                     or set spool.class.relay.cap_mib",
                    log.limits().cap >> 20
                ));
            }
            log.append(&payload, Instant::now()).map_err(|why| why.to_string())?;
            imported.taken += u64::from(is_record);
            bytes += payload.len() + RECORD_HEADER_BYTES;
            waiting.push(entry);
            if bytes >= COMMIT_BYTES {
                self.commit(log, &mut waiting)?;
                bytes = 0;
            }
        }
        self.commit(log, &mut waiting)?;
        Ok(imported)
    }

    fn commit(&mut self, log: &mut Log, waiting: &mut Vec<&v1::Relayed>) -> Result<(), String> {
        if waiting.is_empty() {
            return Ok(());
        }
        log.commit(Instant::now())
            .map_err(|error| format!("the spool can't be written: {error}"))?;
        for entry in waiting.drain(..) {
            let origin = origin_of(entry);
            self.logs.entry(origin).or_default().kind(entry).note(entry.first_seq, entry.seq);
        }
        while self.logs.len() > MAX_LOGS {
            self.logs.pop_first();
        }
        self.save().map_err(|error| format!("{} can't be written: {error}", self.path.display()))
    }

    fn save(&self) -> io::Result<()> {
        let log = |(origin, of): (&Origin, &Of)| v1::BroughtLog {
            node: origin.node.clone(),
            incarnation: origin.incarnation,
            class: origin.class.into(),
            ranges: of.records.list().iter().flat_map(|it| [it.0, it.1]).collect(),
            gap_ranges: of.gaps.list().iter().flat_map(|it| [it.0, it.1]).collect(),
        };
        let mut bytes = v1::Brought { logs: self.logs.iter().map(log).collect() }.encode_to_vec();
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        state::replace(&self.path, 0o644, &bytes)
    }
}

fn ranges(flat: &[u64]) -> Seen {
    Seen::from_list(flat.as_chunks().0.iter().map(|[first, last]| (*first, *last)))
}

fn origin_of(entry: &v1::Relayed) -> Origin {
    Origin { node: entry.node.clone(), incarnation: entry.incarnation, class: entry.class() }
}

/// What the relay's log sends next: whose it is (`None`: the log's own losses), the
/// frame with that log's numbers, and the last number of the relay's log in it.
pub fn next(frame: Frame) -> (Option<Origin>, Frame, u64) {
    let (first_seq, last_seq) = (frame.first_seq, frame.last_seq);
    let before = frame.records.first().map_or(last_seq, |(seq, _)| seq - 1);
    if before >= first_seq {
        // Numbers of the relay's own that are missing at the front.
        let gaps = frame.gaps.into_iter().filter(|gap| gap.first <= before).collect();
        return (None, Frame { first_seq, last_seq: before, gaps, ..Frame::default() }, before);
    }
    let mut origin = None;
    let mut run = Frame::default();
    let mut span = Seen::default();
    let mut last = first_seq;
    for (n, (seq, payload)) in frame.records.into_iter().enumerate() {
        if n > 0 && seq != last + 1 {
            break;
        }
        let Ok(entry) = v1::Relayed::decode(&*payload) else {
            if n == 0 {
                let gap = Gap { first: seq, last: seq, lost: 1, cause: Cause::Damaged };
                let lost =
                    Frame { first_seq: seq, last_seq: seq, gaps: vec![gap], ..Frame::default() };
                return (None, lost, seq);
            }
            break;
        };
        let its = origin_of(&entry);
        let mut longer = span.clone();
        longer.note(entry.first_seq, entry.seq);
        // A batch has no holes but those that it accounts for.
        if origin.as_ref().is_some_and(|it| *it != its) || longer.list().len() > 1 {
            break;
        }
        (origin, span, last) = (Some(its), longer, seq);
        match entry.what {
            Some(What::Record(record)) => run.records.push((entry.seq, record.encode_to_vec())),
            Some(What::Gap(gap)) => run.gaps.extend(super::cursor::gap_of_wire(&gap)),
            None => {}
        }
    }
    if let Some((first, last)) = span.list().first() {
        (run.first_seq, run.last_seq) = (*first, *last);
    }
    run.records.sort_by_key(|(seq, _)| *seq);
    run.records.dedup_by_key(|(seq, _)| *seq);
    (origin, run, last)
}
