//! The line between the broker and the far side: messages in the order in which they
//! came, from their arrival to their acknowledgement.
//!
//! ```text
//! inbox    packed, waiting for room or for a dictionary
//! queue    decoded, waiting to be handed on
//! (load)   being handed on
//! ready    written down, to be acknowledged
//! ```

use std::{collections::VecDeque, mem, path::PathBuf, time::Duration};

use prost::bytes::Bytes;
use purlin_daemon::{
    clock,
    mqtt::{Arrived, Receipt},
};
use tokio::time::Instant;

use super::{
    deliver::Delivered,
    intake::{Intake, Step},
    journal::{Entry, Journal},
    progress::Progress,
    shelf::{self, MAX_ASIDE},
    taken::{Taken, Topic},
    to::lines,
};
use crate::{exit::Failure, output::note};

/// A load is handed on when it has so much: some 2 MiB of OTLP.
const LOAD_WEIGHT: usize = 20_000;
/// What is decoded and waits, at most: some 16 MiB.
const QUEUE_WEIGHT: usize = 4 * LOAD_WEIGHT;
/// How long a message waits for its dictionary, and everything behind it.
const DICTIONARY_WAIT: Duration = Duration::from_secs(3);

/// A message that is not decoded.
#[derive(Debug)]
struct Packed {
    topic: String,
    payload: Bytes,
    receipt: Option<Ticket>,
    /// The file that holds it, if it was set aside before.
    file: Option<PathBuf>,
    since: Instant,
    asked: bool,
}

/// An acknowledgement that is due, of which connection.
#[derive(Debug)]
struct Ticket {
    connection: u64,
    receipt: Receipt,
}

/// A message that was taken: what is to be handed on of it, and what ends it.
#[derive(Debug, Default)]
struct Waiting {
    entry: Option<Entry>,
    receipt: Option<Ticket>,
    file: Option<PathBuf>,
}

/// What is handed on at once.
#[derive(Debug, Default)]
pub struct Load {
    taken: Vec<Taken>,
    waiting: Vec<Waiting>,
}

impl Load {
    /// What is to be handed on.
    pub fn taken(&self) -> &[Taken] {
        &self.taken
    }

    /// Nothing waited.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// The line.
#[derive(Debug)]
pub struct Line {
    intake: Intake,
    journal: Journal,
    inbox: VecDeque<Packed>,
    queue: VecDeque<(Option<Taken>, Waiting)>,
    weight: usize,
    since: Option<Instant>,
    ready: Vec<Ticket>,
    connection: u64,
}

impl Line {
    /// An empty one.
    pub fn new(intake: Intake, journal: Journal) -> Self {
        let (inbox, queue) = (VecDeque::new(), VecDeque::new());
        let (weight, since, ready) = (0, None, Vec::new());
        Self { intake, journal, inbox, queue, weight, since, ready, connection: 0 }
    }

    /// No dictionary is known.
    pub fn is_new(&self) -> bool {
        self.intake.shelf.is_new()
    }

    /// A load's worth waits.
    pub fn is_full(&self) -> bool {
        self.weight >= LOAD_WEIGHT
    }

    /// Since when something waits to be handed on.
    pub fn oldest(&self) -> Option<Instant> {
        self.since
    }

    /// Takes a message in. A dictionary is known at once, also to those before it.
    pub fn came(&mut self, arrived: Arrived, progress: &mut Progress) {
        let Arrived { topic, payload, receipt } = arrived;
        let ticket = Ticket { connection: self.connection, receipt };
        let is_dictionary = matches!(Topic::read(&topic), Some(Topic::Dictionary { .. }));
        if is_dictionary {
            let step = self.intake.take(&topic, &payload, progress);
            let packed = Packed::new(String::new(), Bytes::new(), Some(ticket), None);
            if let Step::Bad(why) = step {
                self.refuse(&why, &topic, &payload, progress);
            } else if let Step::Dictionary(waited) = step {
                for path in waited {
                    if let Some((topic, payload)) = shelf::read_aside(&path) {
                        self.inbox.push_back(Packed::new(topic, payload.into(), None, Some(path)));
                    }
                }
            }
            self.inbox.push_back(packed);
        } else {
            self.inbox.push_back(Packed::new(topic, payload, Some(ticket), None));
        }
        self.advance(progress);
    }

    /// Decodes what there is room for.
    fn advance(&mut self, progress: &mut Progress) {
        while self.weight < QUEUE_WEIGHT
            && let Some(packed) = self.inbox.pop_front()
        {
            let step = self.intake.take(&packed.topic, &packed.payload, progress);
            let mut waiting = Waiting { entry: None, receipt: None, file: packed.file.clone() };
            let mut taken = None;
            match step {
                Step::Lacks(_) => {
                    self.inbox.push_front(packed);
                    break;
                }
                Step::Batch(it, entry) => {
                    self.weight += it.weight();
                    self.since.get_or_insert_with(Instant::now);
                    (taken, waiting.entry) = (Some(*it), Some(entry));
                }
                Step::Bad(why) => self.refuse(&why, &packed.topic, &packed.payload, progress),
                Step::Dictionary(_) | Step::Nothing => {}
            }
            waiting.receipt = packed.receipt;
            self.queue.push_back((taken, waiting));
        }
        // What has nothing to hand on waits for nothing but those before it.
        if self.since.is_none() && !self.queue.is_empty() {
            self.since = Some(Instant::now());
        }
    }

    /// Looks at who waits for a dictionary: the topics on which to ask for it. Who waited
    /// for long is set aside, and holds nobody up.
    pub fn look(&mut self, progress: &mut Progress) -> Result<Vec<String>, Failure> {
        self.advance(progress);
        let Some(first) = self.inbox.front_mut() else { return Ok(Vec::new()) };
        if self.weight >= QUEUE_WEIGHT {
            return Ok(Vec::new());
        }
        let Step::Lacks(hash) = self.intake.take(&first.topic, &first.payload, progress) else {
            return Ok(Vec::new());
        };
        if !mem::replace(&mut first.asked, true) {
            let (node, _) = first.topic.rsplit_once('/').unwrap_or_default();
            return Ok(vec![format!("{node}/dict/{hash:016x}")]);
        }
        if first.since.elapsed() < DICTIONARY_WAIT || self.intake.shelf.aside() >= MAX_ASIDE {
            return Ok(Vec::new());
        }
        if let Err(error) = self.intake.shelf.set_aside(hash, &first.topic, &first.payload) {
            note(&format!("a message without its dictionary can't be set aside: {error}"));
            return Ok(Vec::new());
        }
        if let Some(packed) = self.inbox.pop_front() {
            let waiting = Waiting { entry: None, receipt: packed.receipt, file: packed.file };
            self.queue.push_back((None, waiting));
        }
        self.advance(progress);
        Ok(Vec::new())
    }

    /// Takes what is missing for long into the line.
    pub fn overdue(&mut self, after: Duration, progress: &mut Progress) {
        for (taken, entry) in self.intake.overdue(after.as_millis() as u64) {
            self.weight += taken.weight();
            self.since.get_or_insert_with(Instant::now);
            self.queue
                .push_back((Some(taken), Waiting { entry: Some(entry), ..Waiting::default() }));
        }
        self.advance(progress);
    }

    /// What is handed on next.
    pub fn load(&mut self) -> Load {
        let mut load = Load::default();
        let mut weight = 0;
        while weight < LOAD_WEIGHT
            && let Some((taken, waiting)) = self.queue.pop_front()
        {
            weight += taken.as_ref().map_or(0, Taken::weight);
            load.taken.extend(taken);
            load.waiting.push(waiting);
        }
        self.weight -= weight;
        self.since = (!self.queue.is_empty()).then(Instant::now);
        load
    }

    /// What was handed on is written down, what was refused for good is kept, and then its
    /// messages may be acknowledged. The error is the disk's, and ends it: nothing more
    /// can be promised.
    pub fn done(
        &mut self,
        load: Load,
        delivered: Delivered,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        progress.left_out += delivered.left_out;
        for never in &delivered.never {
            let what: Vec<u8> = lines(&never.taken).flat_map(|(_, line)| line).collect();
            self.keep(&never.why, &what, progress)?;
        }
        for taken in &load.taken {
            progress.count(taken);
        }
        let entries: Vec<Entry> = load.waiting.iter().filter_map(|it| it.entry.clone()).collect();
        self.journal.add(&entries).map_err(|error| {
            Failure::Failed(format!("the journal can't be written: {error}; nothing is lost"))
        })?;
        for waiting in load.waiting {
            if let Some(file) = waiting.file {
                _ = std::fs::remove_file(file);
            }
            self.ready.extend(waiting.receipt);
        }
        self.advance(progress);
        Ok(())
    }

    /// What is to be acknowledged now, in order.
    pub fn acknowledged(&mut self) -> Vec<Receipt> {
        let connection = self.connection;
        let ready = mem::take(&mut self.ready).into_iter();
        ready.filter(|it| it.connection == connection).map(|it| it.receipt).collect()
    }

    /// The connection is gone: what is not acknowledged comes again, and what is packed
    /// need not wait for that here.
    pub fn disconnected(&mut self) {
        self.connection += 1;
        self.inbox.retain(|it| it.receipt.is_none());
    }

    /// Adds what is here to the figures.
    pub fn tell(&self, progress: &mut Progress) {
        progress.missing = self.intake.missing();
        progress.aside = self.intake.shelf.aside();
        progress.waiting = self.inbox.len() + self.queue.len();
    }

    fn refuse(&mut self, why: &str, topic: &str, payload: &[u8], progress: &mut Progress) {
        note(&format!("a message on {topic} can't be read: {why}"));
        let what = [topic.as_bytes(), b"\n", payload].concat();
        if let Err(failure) = self.keep(why, &what, progress) {
            note(&failure.to_string());
        }
    }

    fn keep(&mut self, why: &str, what: &[u8], progress: &mut Progress) -> Result<(), Failure> {
        progress.refused += 1;
        self.intake.shelf.refuse(clock::unix_ms(), why, what).map_err(|error| {
            Failure::Failed(format!("what was refused for good can't be kept: {error}"))
        })
    }
}

impl Packed {
    fn new(topic: String, payload: Bytes, receipt: Option<Ticket>, file: Option<PathBuf>) -> Self {
        Self { topic, payload, receipt, file, since: Instant::now(), asked: false }
    }
}
