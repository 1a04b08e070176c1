//! The one door: every change of the configuration, local or remote, passes
//! [`Door::offer`]. It owns the ledger and the settings in force.
//!
//! A document is looked at whole and refused with every reason ([`judge`]), or its
//! trial is made durable, it is put in force subsystem by subsystem ([`subsystem`]),
//! and it is kept only if it proves good: [`purlin_core::trial`] decides, [`act`] does
//! what it says, [`record`] is what the ledger remembers of it.
//!
//! The same document offered again does nothing and writes nothing: a broker delivers
//! its retained one at every connection. The node boots from the last known good one.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use prost::bytes::Bytes;
use purlin_core::{
    inventory::Inventory,
    settings::{Desired, Refusal, Settings, Start},
    trial::{Event, HEALTHY_FOR, Machine, Phase, TIMEOUT, Terms},
    trust::Claims,
};
use purlin_proto::{
    api,
    v1::{self, Origin, Outcome},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{self, Instant},
};

use self::act::Effect;
pub use self::{
    believe::Trust,
    judge::{decode, read, rule_draft},
    subsystem::{
        Agent, Alarming, Listening, Log, Meshing, Placing, Powering, Racking, Sampling, Session,
        Storage, Subsystem, Subsystems, Ticking,
    },
};
use crate::{
    audit,
    clock::{self, Floor},
    document::{self, Format},
    ledger::Ledger,
    spool::Spool,
    state,
};

mod act;
mod believe;
mod judge;
mod record;
mod subsystem;
pub mod view;

/// How often a trial looks at the clock and at the health of what it touches.
const TICK: Duration = Duration::from_millis(250);
/// How often the configuration in force is read back when nothing happens.
const READ_BACK: Duration = Duration::from_secs(60);

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
#[derive(Clone, Debug)]
pub struct Offer {
    /// The document.
    pub bytes: Bytes,
    /// What it is known by.
    pub sha256: Bytes,
    /// How it is written.
    pub format: Format,
    /// Which side it came from.
    pub origin: Origin,
    /// Who offers it, for the record.
    pub by: String,
    /// How it is to be tried.
    pub manner: Manner,
    /// What it says of itself, if it was signed and is believed.
    pub claims: Option<Box<Claims>>,
}

/// How a document is to be tried.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// How long its trial may take, if not as long as usual.
    pub timeout: Option<Duration>,
    /// It is confirmed by hand, and not by itself.
    pub by_hand: bool,
    /// Even if it has failed before.
    pub force: bool,
    /// Even if its verdict stands.
    pub again: bool,
    /// For a time only, over what the core wants.
    pub over: Option<(String, Duration)>,
}

impl Offer {
    /// A document from the core.
    pub fn from_uplink(bytes: Bytes) -> Self {
        Self {
            sha256: judge::sha256(&bytes),
            bytes,
            format: Format::Protobuf,
            origin: Origin::Uplink,
            by: "the core".into(),
            manner: Manner::default(),
            claims: None,
        }
    }

    /// A document from a technician.
    pub fn local(bytes: Bytes, format: Format, by: String, manner: Manner) -> Self {
        Self {
            sha256: judge::sha256(&bytes),
            bytes,
            format,
            origin: Origin::Local,
            by,
            manner,
            claims: None,
        }
    }
}

/// What the door is asked.
#[derive(Debug)]
pub enum Ask {
    /// Try a document.
    Offer(Offer, oneshot::Sender<api::Verdict>),
    /// What a document would change.
    Plan(Bytes, Format, oneshot::Sender<Result<api::Plan, Vec<api::Refusal>>>),
    /// What the document in force changed.
    Diff(oneshot::Sender<api::Diff>),
    /// Keep the document on trial.
    Confirm(Confirm, oneshot::Sender<Result<api::Verdict, String>>),
    /// Undo it now; answered when that is done.
    Revert(oneshot::Sender<Result<api::Verdict, String>>),
    /// What is in force, and since when.
    Config(oneshot::Sender<api::Config>),
    /// The latest verdicts.
    History(oneshot::Sender<api::History>),
    /// A generation's document; the one in force without a number.
    Document(Option<u64>, oneshot::Sender<Option<api::Document>>),
    /// Who is believed.
    Trust(oneshot::Sender<Trust>),
}

/// Who says that a trial is good.
#[derive(Debug)]
pub struct Confirm {
    /// Who.
    pub by: String,
    /// Which generation; whichever is on trial without.
    pub generation: Option<u64>,
    /// Even though not all of it is well.
    pub anyway: bool,
}

/// Owns the configuration.
pub struct Door {
    identity: Identity,
    start: Start,
    ledger: Ledger,
    content: v1::Ledger,
    /// Values of the last known good document.
    active: Option<Desired>,
    machine: Machine<Bytes>,
    trust: Trust,
    /// The document on trial.
    candidate: Option<Candidate>,
    /// The offer that waits for the trial's end.
    waiting: Option<Offer>,
    /// The offer that is looked at next.
    again: Option<Offer>,
    effect: Option<Effect>,
    /// What the subsystems said last.
    said: subsystem::Said,
    /// What was not well when the trial was given up.
    trouble: String,
    /// When the override in force ends, monotonic.
    override_ends: Option<Duration>,
    /// Who waits for the end of the trial.
    ends: Vec<oneshot::Sender<Result<api::Verdict, String>>>,
    subsystems: Subsystems,
    machine_read: watch::Receiver<Arc<Inventory>>,
    settings: watch::Sender<Arc<Settings>>,
    audit: audit::Client,
    floor: Floor,
    audited: watch::Receiver<audit::State>,
    reported: watch::Sender<Arc<v1::Reported>>,
    spool: Spool,
    terms: Terms,
    looks: Instant,
    booted: bool,
}

/// A document on its way through its trial.
#[derive(Debug)]
struct Candidate {
    offer: Offer,
    document: Bytes,
    desired: Desired,
    settings: Arc<Settings>,
    confirmed_by: Option<String>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("machine", &self.machine).finish_non_exhaustive()
    }
}

/// What a door needs besides its ledger.
#[derive(Debug)]
pub struct Opening {
    /// Who this node is.
    pub identity: Identity,
    /// What the agent started with.
    pub start: Start,
    /// Where events go.
    pub spool: Spool,
    /// The machine.
    pub inventory: watch::Receiver<Arc<Inventory>>,
    /// Takes what became of documents, for the record.
    pub audit: audit::Client,
    /// Learns the time from what is believed.
    pub floor: Floor,
    /// Key set of the fleet.
    pub keys: Option<PathBuf>,
    /// For this project's own tests.
    pub test: v1::AgentTest,
}

impl Door {
    /// Opens the ledger and takes its last known good document for what is in force.
    /// One that this agent can't read any more is left in the ledger, and the defaults
    /// hold.
    pub fn open(state: &state::StateDir, opening: Opening) -> (Self, Vec<String>) {
        let Opening { identity, start, spool, inventory, audit, floor, keys, test } = opening;
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
        floor.learn(content.mark.as_ref().map_or(0, |mark| mark.trusted_unix_s));
        let trust = Trust::open(keys.as_deref(), &content);
        if let Trust::Nobody(why) = &trust {
            problems.push(format!("no document is taken from the uplink: {why}"));
        }
        let settings = Settings::resolve(&start, active.as_ref());
        let settings = settings.of_generation(generation_of(&content, active.as_ref()));
        let of = |ms: Option<u32>, usual| ms.map_or(usual, |ms| Duration::from_millis(ms.into()));
        let door = Self {
            settings: watch::channel(Arc::new(settings)).0,
            reported: watch::channel(Arc::default()).0,
            machine: Machine::boot(None).0,
            trust,
            candidate: None,
            waiting: None,
            again: None,
            effect: None,
            said: Vec::new(),
            trouble: String::new(),
            override_ends: None,
            ends: Vec::new(),
            subsystems: Arc::new([]),
            machine_read: inventory,
            terms: Terms {
                timeout: of(test.trial_ms, TIMEOUT),
                confirm_after: Some(of(test.confirm_after_ms, HEALTHY_FOR)),
            },
            looks: Instant::now(),
            booted: false,
            identity,
            start,
            ledger,
            content,
            active,
            spool,
            audited: audit.state(),
            audit,
            floor,
        };
        door.publish();
        (door, problems)
    }

    /// The parts that settings are put in force in.
    pub fn attach(&mut self, subsystems: impl IntoIterator<Item = Box<dyn Subsystem>>) {
        self.subsystems = subsystems.into_iter().collect();
    }

    /// The settings in force.
    pub fn settings(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }

    /// What the node says of its configuration.
    pub fn reported(&self) -> watch::Receiver<Arc<v1::Reported>> {
        self.reported.subscribe()
    }

    /// Answers until nobody is left to ask. The timer goes before the inbox: no stream
    /// of documents holds up the end of a trial. Each arm waits on what keeps its state
    /// elsewhere, so that losing the race loses nothing.
    pub async fn run(&mut self, inbox: &mut mpsc::Receiver<Ask>) {
        if !self.booted {
            self.boot().await;
        }
        loop {
            while let Some(offer) = self.again.take() {
                self.offer(&offer).await;
            }
            tokio::select! {
                biased;
                () = time::sleep_until(self.looks) => self.look().await,
                done = act::finished(&mut self.effect) => self.finished(done).await,
                Ok(()) = self.audited.changed() => self.publish(),
                ask = inbox.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    None => return,
                },
            }
        }
    }

    async fn answer(&mut self, ask: Ask) {
        // A reply that nobody waits for any more is no failure.
        match ask {
            Ask::Offer(offer, reply) => _ = reply.send(self.offer(&offer).await),
            // Who is asked has more to do: the door's timer does not wait for it.
            Ask::Plan(bytes, format, reply) => match self.plan(&bytes, format) {
                Ok(plan) => drop(tokio::spawn(async { reply.send(Ok(plan.await)) })),
                Err(refusals) => _ = reply.send(Err(refusals)),
            },
            Ask::Diff(reply) => _ = reply.send(self.diff()),
            Ask::Confirm(confirm, reply) => _ = reply.send(self.confirm(confirm).await),
            Ask::Revert(reply) => self.revert(reply).await,
            Ask::Config(reply) => _ = reply.send(self.config()),
            Ask::History(reply) => _ = reply.send(view::history(&self.content)),
            Ask::Document(number, reply) => _ = reply.send(view::document(&self.content, number)),
            Ask::Trust(reply) => _ = reply.send(self.trust.clone()),
        }
    }

    /// Every change of the configuration comes through here.
    pub async fn offer(&mut self, offer: &Offer) -> api::Verdict {
        let offer = &match self.believe(offer).await {
            Ok(offer) => offer,
            Err(refusal) => return self.refuse(refused(offer, vec![refusal])).await,
        };
        if let Some(verdict) = self.known(offer) {
            // One that is on trial already takes the place of one that waits.
            if self.machine.trial().is_some_and(|it| it.document == offer.sha256) {
                self.event(Event::Offered(offer.sha256.clone(), self.terms)).await;
                self.settle_waiting(None);
            }
            return api::Verdict { repeated: true, ..view::verdict(&verdict) };
        }
        let judged = self.judge_offer(offer);
        match judged {
            Err(refusals) => self.refuse(refused(offer, refusals)).await,
            Ok(judged) => {
                let mut verdict = v1::Verdict { accepted: true, ..refused(offer, Vec::new()) };
                verdict.version = version(offer, &judged.desired);
                match self.machine.trial().is_some() {
                    true => self.wait_for_trial(offer, verdict).await,
                    false if self.waits_for_override(offer) => {
                        self.wait_for_override(offer, judged.document, verdict).await
                    }
                    false => self.attempt(offer, judged, verdict).await,
                }
            }
        }
    }

    /// The verdict that stands on a document, if offering it again changes nothing. A
    /// technician who applies one once more means it, when another came in between.
    fn known(&self, offer: &Offer) -> Option<v1::Verdict> {
        let sha256 = &offer.sha256;
        if offer.manner.again || offer.manner.force {
            return None;
        }
        let verdict = match offer.origin {
            Origin::Local => record::last_of(&self.content, sha256)?,
            _ => record::last_from(&self.content, offer.origin)
                .filter(|last| last.sha256 == *sha256)?,
        };
        let on_trial = self.machine.trial().is_some_and(|it| it.document == *sha256);
        let in_force = record::sha256_of(self.content.active.as_ref()) == *sha256;
        let stands = match verdict.outcome() {
            Outcome::Trial => on_trial,
            Outcome::Waiting => {
                self.machine.waiting() == Some(sha256)
                    || record::sha256_of(self.content.resume.as_ref()) == *sha256
            }
            Outcome::Confirmed => offer.origin == Origin::Uplink || in_force,
            Outcome::Reverted => {
                record::has_failed(&self.content, sha256) && offer.origin == Origin::Uplink
            }
            // Whether it is still refused is soon found out.
            _ => false,
        };
        stands.then(|| verdict.clone())
    }

    fn failed_before(&self, offer: &Offer) -> Refusal {
        let last = record::last_of(&self.content, &offer.sha256);
        let why = last.map(|last| last.why.as_str()).filter(|why| !why.is_empty());
        Refusal {
            path: "the document".into(),
            value: "failed its trial before".into(),
            limit: "one that did not fail".into(),
            hint: format!(
                "{}; change it, or insist with --force",
                why.unwrap_or("see purlin config history")
            ),
        }
    }

    /// A refusal is durable, unless it is known, or a trial is on: the disk is left
    /// alone then, and its end takes the refusal along.
    async fn refuse(&mut self, verdict: v1::Verdict) -> api::Verdict {
        let last = record::last_from(&self.content, verdict.origin());
        let known = last.filter(|last| {
            last.sha256 == verdict.sha256 && last.refusals == verdict.refusals && !last.accepted
        });
        if let Some(known) = known {
            return api::Verdict { repeated: true, ..view::verdict(known) };
        }
        let mut content = self.content.clone();
        record::note(&mut content, verdict.clone());
        match self.machine.trial().is_some() {
            true => self.content = content,
            // What is refused was not applied, durable or not.
            false => _ = self.store(content).await,
        }
        self.tell(&verdict);
        self.publish();
        view::verdict(&verdict)
    }

    async fn attempt(
        &mut self,
        offer: &Offer,
        judged: judge::Judged,
        mut verdict: v1::Verdict,
    ) -> api::Verdict {
        let generation = Some(self.content.generations + 1);
        let settings = self.resolved(Some(&judged.desired)).of_generation(generation);
        let settings = Arc::new(settings);
        verdict.set_outcome(Outcome::Trial);
        self.candidate = Some(Candidate {
            offer: offer.clone(),
            document: judged.document,
            desired: judged.desired,
            settings,
            confirmed_by: None,
        });
        let timeout = offer.manner.timeout.unwrap_or(self.terms.timeout);
        let confirm_after = self.terms.confirm_after.filter(|_| !offer.manner.by_hand);
        let terms = Terms { timeout, confirm_after };
        self.event(Event::Offered(offer.sha256.clone(), terms)).await;
        view::verdict(record::last_of(&self.content, &offer.sha256).unwrap_or(&verdict))
    }

    async fn wait_for_trial(&mut self, offer: &Offer, mut verdict: v1::Verdict) -> api::Verdict {
        verdict.set_outcome(Outcome::Waiting);
        verdict.why = "for the end of the trial under way".into();
        self.settle_waiting(Some(offer.clone()));
        record::note(&mut self.content, verdict.clone());
        self.event(Event::Offered(offer.sha256.clone(), self.terms)).await;
        view::verdict(&verdict)
    }

    /// The last one wins.
    fn settle_waiting(&mut self, next: Option<Offer>) {
        let before = std::mem::replace(&mut self.waiting, next);
        if let Some(before) = before {
            let why = "another came while it waited";
            record::conclude(&mut self.content, &before.sha256, Outcome::Superseded, why);
        }
    }

    fn waits_for_override(&self, offer: &Offer) -> bool {
        let over = self.content.active.as_ref().and_then(record::over);
        over.is_some() && offer.origin == Origin::Uplink && self.override_ends.is_some()
    }

    /// What the core wants comes back when the technician's override ends.
    async fn wait_for_override(
        &mut self,
        offer: &Offer,
        document: Bytes,
        mut verdict: v1::Verdict,
    ) -> api::Verdict {
        let over = self.content.active.as_ref().and_then(|it| it.applied.as_ref());
        let by = over.map_or(String::new(), |over| over.by.clone());
        verdict.set_outcome(Outcome::Waiting);
        verdict.why = format!("for the end of the override by {by}");
        let applied = v1::Applied {
            version: verdict.version,
            sha256: verdict.sha256.clone(),
            origin: verdict.origin,
            unix_ms: verdict.unix_ms,
            by: verdict.by.clone(),
            ..Default::default()
        };
        let mut content = self.content.clone();
        content.resume = Some(v1::Entry { applied: Some(applied), document });
        self.mark(&mut content, offer.claims.as_deref());
        record::note(&mut content, verdict.clone());
        if let Err(error) = self.store(content).await {
            verdict.accepted = false;
            verdict.set_outcome(Outcome::Refused);
            verdict.refusals = vec![act::not_durable(&error)];
        }
        self.publish();
        view::verdict(&verdict)
    }

    async fn confirm(&mut self, confirm: Confirm) -> Result<api::Verdict, String> {
        let trial = self.machine.trial().ok_or(NO_TRIAL)?;
        let sha256 = trial.document.clone();
        let on_trial = self.content.trial.as_ref().and_then(|it| it.applied.as_ref());
        let on_trial = on_trial.map_or(0, |applied| applied.generation);
        if let Some(asked) = confirm.generation.filter(|asked| *asked != on_trial) {
            return Err(format!("generation {on_trial} is on trial, and not {asked}"));
        }
        let Phase::Proving { .. } = trial.phase else {
            return Err("it is still being put in force: try again in a second".into());
        };
        let unwell = self.unwell(true);
        if !unwell.is_empty() && !confirm.anyway {
            return Err(format!("{}; wait, or insist with --anyway", unwell.join("; ")));
        }
        if let Some(candidate) = &mut self.candidate {
            candidate.confirmed_by = Some(confirm.by);
        }
        self.event(Event::Confirm).await;
        let verdict = record::last_of(&self.content, &sha256).cloned().unwrap_or_default();
        match verdict.outcome() {
            Outcome::Confirmed => Ok(view::verdict(&verdict)),
            _ => Err("it came too late: the trial's time was up, and it is undone".into()),
        }
    }

    async fn revert(&mut self, reply: oneshot::Sender<Result<api::Verdict, String>>) {
        if self.machine.trial().is_none() {
            _ = reply.send(Err(NO_TRIAL.into()));
            return;
        }
        self.ends.push(reply);
        self.event(Event::Revert).await;
    }

    /// What keeps the document on trial from being confirmed.
    fn unwell(&self, by_hand: bool) -> Vec<String> {
        let gate = subsystem::gate(&self.subsystems, by_hand);
        let said = self.said.iter().chain(&gate).filter(|it| !it.problem.is_empty());
        let mut unwell: Vec<_> = said.map(|it| format!("{}: {}", it.name, it.problem)).collect();
        if self.said.is_empty() && !self.subsystems.is_empty() {
            unwell.push("it was not read back yet".into());
        }
        unwell
    }

    fn tell(&self, verdict: &v1::Verdict) {
        let version = verdict.version;
        let (name, text) = match verdict.outcome() {
            Outcome::Refused => {
                let reasons = verdict.refusals.iter().map(|r| format!("{} {}", r.path, r.value));
                let reasons = reasons.collect::<Vec<_>>().join("; ");
                ("config.refused", format!("by {}: {reasons}", verdict.by))
            }
            Outcome::Trial => ("config.trial", format!("version {version} by {}", verdict.by)),
            Outcome::Confirmed => {
                ("config.confirmed", format!("version {version}: {}", verdict.why))
            }
            _ => ("config.reverted", format!("version {version}: {}", verdict.why)),
        };
        tracing::info!(event = name, text, "a document was judged");
        self.audit.tell(&verdict.by, name, &text);
        self.spool.event(name, text);
    }

    /// What it is, whether it is for this node now, and whether it failed before.
    fn judge_offer(&self, offer: &Offer) -> Result<judge::Judged, Vec<Refusal>> {
        let claims = offer.claims.as_deref();
        let mut refusals = claims.map_or(Vec::new(), |claims| self.check_claims(claims));
        let judged = match self.judge(&offer.bytes, offer.format) {
            Ok(judged) => judged,
            Err(others) => return Err([refusals, others].concat()),
        };
        let own = judged.desired.version();
        if let Some(claims) = claims.filter(|claims| own != 0 && own != claims.version) {
            refusals.push(Refusal {
                path: "version".into(),
                value: own.to_string(),
                limit: format!("{}, as it was signed, or nothing", claims.version),
                hint: "sign it anew".into(),
            });
        }
        if record::has_failed(&self.content, &offer.sha256) && !offer.manner.force {
            refusals.push(self.failed_before(offer));
        }
        if refusals.is_empty() { Ok(judged) } else { Err(refusals) }
    }

    fn judge(&self, bytes: &[u8], format: Format) -> Result<judge::Judged, Vec<Refusal>> {
        let machine = self.machine_read.borrow().clone();
        judge::judge(bytes, format, &self.identity, &self.start, &self.subsystems, &machine)
    }

    fn plan(
        &self,
        bytes: &[u8],
        format: Format,
    ) -> Result<impl Future<Output = api::Plan> + use<>, Vec<api::Refusal>> {
        let refused = |all: Vec<Refusal>| all.into_iter().map(document::refusal_view);
        let judged = self.judge(bytes, format).map_err(|all| refused(all).collect::<Vec<_>>())?;
        let offered = format!("the offered document (version {})", judged.desired.version());
        let (now, to) = (self.settings.borrow().clone(), self.resolved(Some(&judged.desired)));
        let diff = view::changes(&now, view::name(self.in_force()), &to, offered);
        Ok(subsystem::plan(self.subsystems.clone(), diff, (now, to)))
    }

    fn diff(&self) -> api::Diff {
        let before = match &self.content.trial {
            Some(_) => self.content.active.as_ref(),
            None => self.content.earlier.first(),
        };
        let desired = before.and_then(|entry| decode(&entry.document, &self.identity).ok());
        let (from, to) = (self.resolved(desired.as_ref()), self.settings.borrow());
        view::changes(&from, view::name(before), &to, view::name(self.in_force()))
    }

    fn in_force(&self) -> Option<&v1::Entry> {
        record::generation(&self.content, None)
    }

    fn resolved(&self, desired: Option<&Desired>) -> Settings {
        Settings::resolve(&self.start, desired)
    }

    /// The settings of the last known good document.
    fn good(&self) -> Settings {
        let active = self.active.as_ref();
        self.resolved(active).of_generation(generation_of(&self.content, active))
    }
}

/// Which document the last known good one is; `None` if it can't be read.
fn generation_of(content: &v1::Ledger, active: Option<&Desired>) -> Option<u64> {
    match (content.active.as_ref(), active) {
        (None, _) => Some(0),
        (Some(entry), Some(_)) => entry.applied.as_ref().map(|it| it.generation),
        (Some(_), None) => None,
    }
}

const NO_TRIAL: &str =
    "no document is on trial; purlin config history tells what became of the last";

/// The verdict on an offer that is refused.
fn refused(offer: &Offer, refusals: Vec<Refusal>) -> v1::Verdict {
    let mut verdict = v1::Verdict {
        sha256: offer.sha256.clone(),
        origin: offer.origin.into(),
        unix_ms: clock::unix_ms(),
        by: offer.by.clone(),
        version: offer.claims.as_ref().map_or(0, |claims| claims.version),
        refusals: refusals.into_iter().map(refusal_wire).collect(),
        ..Default::default()
    };
    verdict.set_outcome(Outcome::Refused);
    verdict
}

/// The number by which it is known.
fn version(offer: &Offer, desired: &Desired) -> u64 {
    offer.claims.as_ref().map_or(desired.version(), |claims| claims.version)
}

fn refusal_wire(refusal: Refusal) -> v1::Refusal {
    let Refusal { path, value, limit, hint } = refusal;
    v1::Refusal { path, value, limit, hint }
}

#[cfg(test)]
mod tests;
