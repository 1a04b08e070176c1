//! The task `audit`: owns the record of what was done to this node, by whoever it was, in
//! front of it, from afar or by the agent itself.
//!
//! Nothing is held up by it for long: what can't be written is counted, is a fault, and
//! happens all the same, since a technician must be able to act on a full disk.

use std::{path::PathBuf, time::Duration};

use purlin_proto::api;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task, time,
};

pub mod chain;
pub mod store;

use self::{
    chain::{Head, Line},
    store::Store,
};
use crate::clock;

/// What may wait to be written.
const INBOX: usize = 64;
/// For one line: a worn flash may take seconds.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest text of a line, in bytes.
const MAX_TEXT: usize = 1024;

/// How the record stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Where it ends.
    pub head: Head,
    /// Lines that could not be written since the start.
    pub lost: u64,
    /// Why the last one could not; what was found damaged.
    pub problem: Option<String>,
}

type Told = (Line, Option<oneshot::Sender<()>>);

/// Whom everybody tells; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    told: mpsc::Sender<Told>,
    state: watch::Receiver<State>,
}

impl Client {
    /// Records what was done, by whom and with what result; waits until it is durable, but
    /// not for ever.
    pub async fn note(&self, by: &str, what: &str, text: &str) {
        let (done, is_done) = oneshot::channel();
        let noted = async {
            self.told.send((line(by, what, text), Some(done))).await.ok()?;
            is_done.await.ok()
        };
        _ = time::timeout(DEADLINE, noted).await;
    }

    /// The same without waiting, for who may not.
    pub fn tell(&self, by: &str, what: &str, text: &str) {
        if self.told.try_send((line(by, what, text), None)).is_err() {
            tracing::error!(by, what, text, "an action could not be put on record");
        }
    }

    /// How it stands.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

fn line(by: &str, what: &str, text: &str) -> Line {
    let short = |text: &str| text[..text.floor_char_boundary(MAX_TEXT)].to_owned();
    let (by, what, text) = (short(by), short(what), short(text));
    Line { unix_ms: clock::unix_ms(), by, what, text, ..Line::default() }
}

/// Owns the files.
#[derive(Debug)]
pub struct Owner {
    dir: PathBuf,
    /// Opened at the first line after a start or a failure.
    store: Option<Store>,
    told: mpsc::Receiver<Told>,
    state: watch::Sender<State>,
}

/// A way to the owner, and the owner of the log in `dir`.
pub fn new(dir: PathBuf) -> (Client, Owner) {
    let (told, inbox) = mpsc::channel(INBOX);
    let (state, shown) = watch::channel(State::default());
    (Client { told, state: shown }, Owner { dir, store: None, told: inbox, state })
}

impl Owner {
    /// Serves until nobody is left to tell it.
    pub async fn run(&mut self) {
        self.open().await;
        while let Some((line, done)) = self.told.recv().await {
            if self.store.is_none() {
                self.open().await;
            }
            self.append(line).await;
            // Who has gone on without it has gone on.
            _ = done.map(|done| done.send(()));
        }
    }

    async fn open(&mut self) {
        let dir = self.dir.clone();
        let opened = task::spawn_blocking(move || Store::open(&dir)).await;
        match opened.map_err(|error| error.to_string()).flatten() {
            Ok((store, problem)) => {
                let head = store.head().clone();
                self.state.send_modify(|state| {
                    state.head = head;
                    state.problem = problem;
                });
                self.store = Some(store);
            }
            Err(why) => self.state.send_modify(|state| state.problem = Some(why)),
        }
    }

    async fn append(&mut self, line: Line) {
        let what = line.what.clone();
        let written = match self.store.take() {
            None => Err("the log can't be opened".to_owned()),
            Some(mut store) => {
                let written = task::spawn_blocking(move || {
                    let written = store.append(line);
                    (store, written)
                });
                match written.await {
                    Ok((store, Ok(()))) => {
                        let head = store.head().clone();
                        self.store = Some(store);
                        Ok(head)
                    }
                    // It is opened anew: what is on the disk is what counts.
                    Ok((_, Err(error))) => Err(error.to_string()),
                    Err(error) => Err(error.to_string()),
                }
            }
        };
        self.state.send_modify(|state| match written {
            Ok(head) => (state.head, state.problem) = (head, None),
            Err(why) => {
                tracing::error!(what, why, "an action could not be put on record");
                state.lost += 1;
                state.problem = Some(why);
            }
        });
    }
}

/// What is wrong, and what to do next.
pub fn faults(state: &watch::Receiver<State>) -> Option<api::Fault> {
    let state = state.borrow();
    let why = state.problem.as_ref()?;
    let what = match state.lost {
        0 => format!("the audit log is damaged: {why}"),
        lost => format!("{lost} actions could not be put on record: {why}"),
    };
    let next = "see that the state directory can be written, and what `purlin audit verify` says";
    Some(api::Fault { id: "audit-unwritten".into(), what, next: next.into() })
}

/// What a log says, for a reader.
pub fn view(read: store::Read) -> api::Audit {
    let entry = |line: Line| api::AuditEntry {
        number: line.number,
        unix_ms: line.unix_ms,
        by: line.by,
        what: line.what,
        text: line.text,
    };
    api::Audit {
        first: read.lines.first().map_or(0, |line| line.number),
        head: Some(api::AuditHead { number: read.head.number, sha256: read.head.sha256 })
            .filter(|head| head.number > 0),
        key: hex::encode(read.public),
        broken: read.broken.map(|broken| broken.to_string()),
        entries: read.lines.into_iter().map(entry).collect(),
    }
}
