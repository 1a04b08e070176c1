//! The one door: every change of the configuration, local or remote, passes
//! [`Door::offer`]. It owns the ledger and the settings in force.
//!
//! A document is looked at whole, refused with every reason or made durable in
//! the ledger, and only then in force. The same document offered again from the
//! same side does nothing and writes nothing: a broker delivers its retained one
//! at every connection.

use std::{io, sync::Arc};

use prost::{Message, bytes::Bytes};
use purlin_core::{
    identity::Class,
    settings::{self, Desired, Draft, Reader, Refusal, Settings, Start},
};
use purlin_proto::{
    api,
    v1::{self, Origin},
};
use ring::digest;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task,
};

use crate::{
    clock,
    document::{self, Format},
    ledger::Ledger,
    sample,
    spool::Spool,
    state, workload,
};

pub mod view;

/// Verdicts kept in the ledger.
const HISTORY: usize = 32;

/// This agent's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Fleet.
    pub fleet: String,
    /// Node id.
    pub node: String,
    /// Random id of the state directory.
    pub incarnation: purlin_core::identity::Incarnation,
}

/// A document at the door.
#[derive(Debug)]
pub struct Offer {
    /// The document.
    pub bytes: Vec<u8>,
    /// How it is written.
    pub format: Format,
    /// Which side it came from.
    pub origin: Origin,
    /// Who offers it, for the record.
    pub by: String,
}

/// What the door is asked.
#[derive(Debug)]
pub enum Ask {
    /// Put a document in force.
    Offer(Offer, oneshot::Sender<api::Verdict>),
    /// What a document would change; `None`: what the active one changed.
    Diff(Option<(Vec<u8>, Format)>, oneshot::Sender<Result<api::Diff, Vec<api::Refusal>>>),
    /// What is in force, and since when.
    Config(oneshot::Sender<api::Config>),
    /// The latest verdicts.
    History(oneshot::Sender<api::History>),
}

/// Owns the configuration.
#[derive(Debug)]
pub struct Door {
    identity: Identity,
    start: Start,
    ledger: Ledger,
    content: v1::Ledger,
    active: Option<Desired>,
    settings: watch::Sender<Arc<Settings>>,
    reported: watch::Sender<Arc<v1::Reported>>,
    spool: Spool,
}

impl Door {
    /// Opens the ledger and puts its document in force. One that this agent
    /// can't read any more is left in the ledger, and the defaults hold.
    pub fn open(
        state: &state::StateDir,
        identity: Identity,
        start: Start,
        spool: Spool,
    ) -> (Self, Vec<String>) {
        let (ledger, content, mut problems) = Ledger::open(state.path());
        let active = match content.active.as_ref().map(|entry| decode(&entry.document, &identity)) {
            None => None,
            Some(Ok(desired)) => Some(desired),
            Some(Err(refusals)) => {
                let reasons = refusals.iter().map(|r| format!("{}: {}", r.path, r.hint));
                let reasons = reasons.collect::<Vec<_>>().join("; ");
                problems.push(format!("the ledger's document is refused by this agent: {reasons}"));
                None
            }
        };
        let settings = Settings::resolve(&start, active.as_ref());
        let reported = reported(&identity, &content);
        let door = Self {
            settings: watch::channel(Arc::new(settings)).0,
            reported: watch::channel(Arc::new(reported)).0,
            identity,
            start,
            ledger,
            content,
            active,
            spool,
        };
        (door, problems)
    }

    /// The settings in force.
    pub fn settings(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }

    /// What the node says of its configuration.
    pub fn reported(&self) -> watch::Receiver<Arc<v1::Reported>> {
        self.reported.subscribe()
    }

    /// Answers until nobody is left to ask.
    pub async fn run(&mut self, inbox: &mut mpsc::Receiver<Ask>) {
        while let Some(ask) = inbox.recv().await {
            // A reply that nobody waits for any more is no failure.
            match ask {
                Ask::Offer(offer, reply) => _ = reply.send(self.offer(&offer).await),
                Ask::Diff(document, reply) => _ = reply.send(self.diff(document)),
                Ask::Config(reply) => _ = reply.send(self.config()),
                Ask::History(reply) => _ = reply.send(view::history(&self.content)),
            }
        }
    }

    /// Every change of the configuration comes through here.
    pub async fn offer(&mut self, offer: &Offer) -> api::Verdict {
        let sha256 = sha256(&offer.bytes);
        if let Some(verdict) = self.last_from(offer.origin).filter(|last| last.sha256 == sha256)
            && self.stands(verdict)
        {
            return api::Verdict { repeated: true, ..view::verdict(verdict) };
        }
        let judged = self.judge(&offer.bytes, offer.format);
        let mut verdict = v1::Verdict {
            sha256,
            origin: offer.origin.into(),
            unix_ms: clock::unix_ms(),
            by: offer.by.clone(),
            ..Default::default()
        };
        let mut content = self.content.clone();
        let accepted = match judged {
            Ok((document, desired)) => {
                verdict.accepted = true;
                verdict.version = desired.version();
                content.previous = content.active.take();
                content.active = Some(entry(document, &verdict, content.previous.as_ref()));
                Some(desired)
            }
            Err(refusals) => {
                verdict.refusals = refusals.into_iter().map(refusal_wire).collect();
                None
            }
        };
        content.history.push(verdict.clone());
        let excess = content.history.len().saturating_sub(HISTORY);
        content.history.drain(..excess);
        match self.store(content).await {
            Ok(content) => self.put_in_force(content, accepted),
            Err(error) => self.not_durable(&mut verdict, &error),
        }
        self.tell(&verdict);
        view::verdict(&verdict)
    }

    /// Checks a document whole. The result is its canonical encoding and its values.
    fn judge(&self, bytes: &[u8], format: Format) -> Result<(Bytes, Desired), Vec<Refusal>> {
        let (desired, values) = read(format, bytes, &self.identity)?;
        Ok((desired.encode_to_vec().into(), values))
    }

    /// Makes the ledger durable, beside the main loop: a worn flash may take seconds.
    async fn store(&mut self, content: v1::Ledger) -> io::Result<v1::Ledger> {
        let mut ledger = self.ledger.clone();
        let stored = task::spawn_blocking(move || {
            ledger.store(&content)?;
            io::Result::Ok((ledger, content))
        });
        let (ledger, content) = stored.await.map_err(io::Error::other).flatten()?;
        self.ledger = ledger;
        Ok(content)
    }

    fn put_in_force(&mut self, content: v1::Ledger, accepted: Option<Desired>) {
        self.content = content;
        if let Some(desired) = accepted {
            let settings = Settings::resolve(&self.start, Some(&desired));
            self.active = Some(desired);
            self.settings.send_replace(Arc::new(settings));
        }
        self.reported.send_replace(Arc::new(reported(&self.identity, &self.content)));
    }

    /// What can't be made durable is not put in force.
    fn not_durable(&self, verdict: &mut v1::Verdict, error: &io::Error) {
        verdict.accepted = false;
        verdict.refusals = vec![v1::Refusal {
            path: "the document".into(),
            limit: "a state directory that can be written".into(),
            hint: format!("nothing was applied, because the ledger can't be written: {error}"),
            ..Default::default()
        }];
        let mut content = self.content.clone();
        content.history.push(verdict.clone());
        self.reported.send_replace(Arc::new(reported(&self.identity, &content)));
    }

    fn tell(&self, verdict: &v1::Verdict) {
        let (name, text) = match verdict.accepted {
            true => ("config.applied", format!("version {} by {}", verdict.version, verdict.by)),
            false => {
                let reasons = verdict.refusals.iter().map(|r| format!("{} {}", r.path, r.value));
                let reasons = reasons.collect::<Vec<_>>().join("; ");
                ("config.refused", format!("by {}: {reasons}", verdict.by))
            }
        };
        tracing::info!(event = name, text, "a document was judged");
        self.spool.append(Class::Event, sample::event(name, text));
    }

    /// The last verdict on a document from one side.
    fn last_from(&self, origin: Origin) -> Option<&v1::Verdict> {
        self.content.history.iter().rfind(|verdict| verdict.origin() == origin)
    }

    /// Whether judging the same document again would change nothing: a technician
    /// who applies a document once more means it, when another came in between.
    fn stands(&self, verdict: &v1::Verdict) -> bool {
        let active = self.content.active.as_ref().and_then(|entry| entry.applied.as_ref());
        verdict.origin() == Origin::Uplink
            || !verdict.accepted
            || active.is_some_and(|active| active.sha256 == verdict.sha256)
    }

    fn diff(&self, document: Option<(Vec<u8>, Format)>) -> Result<api::Diff, Vec<api::Refusal>> {
        let active = self.active.as_ref();
        let name = |entry: Option<&v1::Entry>| match entry.and_then(|entry| entry.applied.as_ref())
        {
            Some(applied) => {
                format!("generation {} (version {})", applied.generation, applied.version)
            }
            None => "the defaults".into(),
        };
        let now = name(self.content.active.as_ref());
        let Some((bytes, format)) = document else {
            let previous = self.content.previous.as_ref();
            let desired = previous.and_then(|entry| decode(&entry.document, &self.identity).ok());
            let from = Settings::resolve(&self.start, desired.as_ref());
            return Ok(view::changes(&from, name(previous), &self.resolved(active), now));
        };
        match self.judge(&bytes, format) {
            Ok((_, desired)) => {
                let offered = format!("the offered document (version {})", desired.version());
                Ok(view::changes(
                    &self.resolved(active),
                    now,
                    &self.resolved(Some(&desired)),
                    offered,
                ))
            }
            Err(refusals) => Err(refusals.into_iter().map(document::refusal_view).collect()),
        }
    }

    fn resolved(&self, desired: Option<&Desired>) -> Settings {
        Settings::resolve(&self.start, desired)
    }

    fn config(&self) -> api::Config {
        view::config(&self.content, &self.settings.borrow())
    }
}

/// The values of a document in the ledger's encoding.
pub fn decode(document: &[u8], identity: &Identity) -> Result<Desired, Vec<Refusal>> {
    read(Format::Protobuf, document, identity).map(|(_, values)| values)
}

/// Reads a document and checks its values; every reason is told, of either kind.
fn read(
    format: Format,
    bytes: &[u8],
    identity: &Identity,
) -> Result<(v1::Desired, Desired), Vec<Refusal>> {
    let (desired, mut refusals) = document::parse(document::descriptor("Desired"), format, bytes);
    let reader = Reader { node: &identity.node, agent: VERSION };
    match settings::check(&draft(&desired), &reader) {
        Ok(values) if refusals.is_empty() => return Ok((desired, values)),
        Ok(_) => {}
        Err(impossible) => refusals.extend(impossible),
    }
    Err(document::bounded(refusals))
}

/// From the wire to the core's own type.
fn draft(desired: &v1::Desired) -> Draft {
    let desired = desired.clone();
    let sampling = desired.sampling.unwrap_or_default();
    let spool = desired.spool.unwrap_or_default();
    Draft {
        node: desired.node,
        version: desired.version,
        least_agent: desired.least_agent,
        interval_s: sampling.interval_s,
        interval_s_by_sampler: sampling.interval_s_by_sampler.into_iter().collect(),
        log_level: desired.log.and_then(|log| log.level),
        spool_cap_mib: spool.cap_mib,
        commit_window_s: spool.commit_window_s,
        endpoint: desired.uplink.and_then(|uplink| uplink.endpoint),
        placement: desired.placement.map(workload::placement).unwrap_or_default(),
    }
}

fn entry(document: Bytes, verdict: &v1::Verdict, previous: Option<&v1::Entry>) -> v1::Entry {
    let before = previous.and_then(|entry| entry.applied.as_ref());
    let applied = v1::Applied {
        generation: before.map_or(0, |applied| applied.generation) + 1,
        version: verdict.version,
        sha256: verdict.sha256.clone(),
        origin: verdict.origin,
        unix_ms: verdict.unix_ms,
    };
    v1::Entry { applied: Some(applied), document }
}

fn reported(identity: &Identity, content: &v1::Ledger) -> v1::Reported {
    v1::Reported {
        node: identity.node.clone(),
        incarnation: identity.incarnation.0,
        agent_version: VERSION.into(),
        active: content.active.as_ref().and_then(|entry| entry.applied.clone()),
        last: content.history.last().cloned(),
    }
}

fn sha256(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn refusal_wire(refusal: Refusal) -> v1::Refusal {
    let Refusal { path, value, limit, hint } = refusal;
    v1::Refusal { path, value, limit, hint }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Case {
        dir: tempfile::TempDir,
        state: state::StateDir,
        door: Door,
    }

    fn case() -> Case {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state::StateDir::open(&dir.path().join("state")).expect("a free directory");
        let door = open(&state);
        Case { dir, state, door }
    }

    fn open(state: &state::StateDir) -> Door {
        let incarnation = purlin_core::identity::Incarnation(1);
        let spool =
            Spool::open(&state.path().join("spool"), incarnation, crate::tasks::Board::default())
                .expect("a spool");
        let identity = Identity { fleet: "f".into(), node: "n1".into(), incarnation };
        Door::open(state, identity, Start::default(), spool).0
    }

    fn offer(text: &str, origin: Origin) -> Offer {
        Offer { bytes: text.into(), format: Format::Toml, origin, by: "a test".into() }
    }

    fn interval(door: &Door) -> u32 {
        door.settings.borrow().interval_s.value
    }

    #[tokio::test]
    async fn a_good_document_is_in_force_and_survives_a_restart() {
        let mut case = case();
        let verdict =
            case.door.offer(&offer("version = 3\nsampling.interval_s = 5", Origin::Local)).await;
        assert!(verdict.accepted && interval(&case.door) == 5);
        let door = open(&case.state);
        assert_eq!(
            (interval(&door), view::applied(&door.content).map(|a| a.version)),
            (5, Some(3))
        );
    }

    #[tokio::test]
    async fn a_bad_document_changes_nothing_and_is_reported() {
        let mut case = case();
        case.door.offer(&offer("sampling.interval_s = 5", Origin::Local)).await;
        let verdict = case
            .door
            .offer(&offer(
                "node = \"n2\"\nsampling.intervals = 1\nsampling.interval_s = 0\nspool.cap_mib = 0",
                Origin::Uplink,
            ))
            .await;
        let paths: Vec<_> = verdict.refusals.iter().map(|r| r.path.as_str()).collect();
        assert_eq!(paths, ["sampling.intervals", "node", "sampling.interval_s", "spool.cap_mib"]);
        assert_eq!(interval(&case.door), 5);
        let last = case.door.reported.borrow().last.clone().expect("a verdict");
        assert!(!last.accepted && last.refusals.len() == 4);
    }

    #[tokio::test]
    async fn a_retained_document_delivered_again_does_nothing() {
        let mut case = case();
        let retained = offer("sampling.interval_s = 5", Origin::Uplink);
        assert!(!case.door.offer(&retained).await.repeated);
        assert!(case.door.offer(&offer("sampling.interval_s = 7", Origin::Local)).await.accepted);
        let ledgers =
            || ["ledger.a", "ledger.b"].map(|name| fs::read(case.state.path().join(name)).ok());
        let before = ledgers();
        assert!(case.door.offer(&retained).await.repeated, "the technician's later one stays");
        assert_eq!((interval(&case.door), ledgers() == before), (7, true));
        assert!(open(&case.state).offer(&retained).await.repeated, "also after a restart");
    }

    #[tokio::test]
    async fn a_technician_can_apply_a_document_again() {
        let mut case = case();
        let first = offer("sampling.interval_s = 5", Origin::Local);
        case.door.offer(&first).await;
        assert!(case.door.offer(&first).await.repeated);
        case.door.offer(&offer("sampling.interval_s = 6", Origin::Uplink)).await;
        assert!(!case.door.offer(&first).await.repeated);
        assert_eq!(interval(&case.door), 5);
    }

    #[tokio::test]
    async fn what_can_not_be_made_durable_is_not_put_in_force() {
        let mut case = case();
        case.door.offer(&offer("sampling.interval_s = 5", Origin::Local)).await;
        let elsewhere = case.dir.path().join("moved");
        fs::rename(case.state.path(), elsewhere).expect("a rename");
        let verdict = case.door.offer(&offer("sampling.interval_s = 6", Origin::Local)).await;
        assert!(!verdict.accepted && verdict.refusals[0].hint.contains("ledger"));
        assert_eq!(interval(&case.door), 5);
    }

    #[tokio::test]
    async fn the_history_is_bounded() {
        let mut case = case();
        for n in 0..HISTORY + 5 {
            case.door.offer(&offer(&format!("version = {n}"), Origin::Local)).await;
        }
        let verdicts = view::history(&case.door.content).verdicts;
        assert_eq!((verdicts.len(), verdicts[0].version), (HISTORY, HISTORY as u64 + 4));
    }
}
