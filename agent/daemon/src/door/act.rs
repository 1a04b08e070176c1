//! What the trial's machine says, done: the ledger written, settings put in force and
//! put back, health looked at. What is written is waited for; what takes longer, a
//! subsystem's work, is polled by the door's loop and given up when time is up.

use std::{future, io, pin::Pin, sync::Arc, time::Duration};

use prost::bytes::Bytes;
use purlin_core::{
    settings::Settings,
    trial::{Action, Event, Machine, Phase, Why},
};
use purlin_proto::v1::{self, Origin, Outcome};
use tokio::{task, time::Instant};

use super::{
    Candidate, Door, Manner, Offer, READ_BACK, TICK, record,
    subsystem::{self, Said},
    view,
};
use crate::{clock, document::Format};

/// Work of the subsystems that is under way.
pub struct Effect {
    what: What,
    work: Pin<Box<dyn Future<Output = Said> + Send>>,
}

/// What it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The document on trial is put in force.
    Apply,
    /// The last known good one is put back.
    Undo,
    /// What is in force is read back.
    ReadBack,
}

/// Waits for the effect under way, or for ever; cancel safe.
pub async fn finished(effect: &mut Option<Effect>) -> (What, Said) {
    match effect {
        Some(effect) => (effect.what, effect.work.as_mut().await),
        None => future::pending().await,
    }
}

/// Why nothing was applied.
pub fn not_durable(error: &io::Error) -> v1::Refusal {
    v1::Refusal {
        path: "the document".into(),
        limit: "a state directory that can be written".into(),
        hint: format!("nothing was applied, because the ledger can't be written: {error}"),
        ..Default::default()
    }
}

impl Door {
    /// Puts the last known good document in force, and ends a trial that was
    /// interrupted: the node never boots from what was not confirmed.
    pub(super) async fn boot(&mut self) {
        self.booted = true;
        let settings = self.settings.borrow().clone();
        self.said = subsystem::apply(self.subsystems.clone(), settings).await;
        if !subsystem::all_well(&self.said) {
            let problems = subsystem::problems(&self.said);
            tracing::error!(problems, "the configuration is not wholly in force");
        }
        self.grant_override();
        let interrupted = self.content.trial.as_ref().map(|it| record::sha256_of(Some(it)));
        let (machine, action) = Machine::boot(interrupted);
        self.machine = machine;
        self.follow(action).await;
    }

    /// Looks at the clock first, then at what is in force.
    pub(super) async fn look(&mut self) {
        self.event(Event::Tick).await;
        let now = Instant::now();
        let on_trial = self.machine.trial().is_some();
        self.looks = now + if on_trial { TICK } else { self.until_next_look() };
        if self.override_ends.is_some_and(|ends| ends <= clock::since_boot()) && !on_trial {
            self.end_override();
        } else if self.effect.is_none() {
            self.start(What::ReadBack);
        }
    }

    fn until_next_look(&self) -> Duration {
        let left = self.override_ends.map(|ends| ends.saturating_sub(clock::since_boot()));
        left.map_or(READ_BACK, |left| left.min(READ_BACK))
    }

    pub(super) async fn finished(&mut self, (what, said): (What, Said)) {
        self.effect = None;
        let well = subsystem::all_well(&said);
        match what {
            What::Apply | What::Undo => {
                if !well {
                    let problems = subsystem::problems(&said);
                    tracing::error!(problems, ?what, "a subsystem did not take its settings");
                }
                let in_force = match (&self.candidate, what) {
                    (Some(candidate), What::Apply) => candidate.settings.clone(),
                    _ => Arc::new(self.good()),
                };
                if well || what == What::Undo {
                    self.settings.send_replace(in_force);
                }
                // It is read back before it is called well.
                self.said = if well { Said::new() } else { said };
                self.looks = Instant::now();
                self.event(Event::Done(well)).await;
            }
            What::ReadBack => {
                self.said = said;
                if self.machine.trial().is_some_and(|it| matches!(it.phase, Phase::Proving { .. }))
                {
                    let well = self.unwell(false).is_empty();
                    self.event(Event::Health(well)).await;
                }
            }
        }
        self.publish();
    }

    /// Starts work of the subsystems; what is under way is given up for it.
    fn start(&mut self, what: What) {
        let subsystems = self.subsystems.clone();
        let work: Pin<Box<dyn Future<Output = Said> + Send>> = match (what, &self.candidate) {
            (What::Apply, Some(candidate)) => {
                Box::pin(subsystem::apply(subsystems, candidate.settings.clone()))
            }
            (What::Apply, None) => return,
            (What::Undo, _) => {
                let good = Arc::new(self.good());
                Box::pin(subsystem::undo(subsystems, good))
            }
            (What::ReadBack, _) => {
                let settings: Arc<Settings> = self.settings.borrow().clone();
                Box::pin(subsystem::read_back(subsystems, settings))
            }
        };
        self.effect = Some(Effect { what, work });
    }

    /// Tells the machine what happened, and does what it says.
    pub(super) async fn event(&mut self, event: Event<Bytes>) {
        let action = self.machine.step(event, clock::since_boot());
        self.follow(action).await;
    }

    async fn follow(&mut self, mut action: Option<Action<Bytes>>) {
        while let Some(next) = action.take() {
            if let Some(ok) = self.perform(next).await {
                action = self.machine.step(Event::Done(ok), clock::since_boot());
            }
        }
        if self.machine.trial().is_some() {
            self.looks = self.looks.min(Instant::now() + TICK);
        }
        self.publish();
    }

    /// The outcome; `None` if it is not known yet.
    async fn perform(&mut self, action: Action<Bytes>) -> Option<bool> {
        match action {
            Action::Intend(sha256) => Some(self.intend(&sha256).await),
            Action::Apply(_) => {
                self.start(What::Apply);
                None
            }
            Action::Commit(sha256) => Some(self.commit(&sha256).await),
            Action::Undo(_) => {
                self.trouble = self.unwell(false).join("; ");
                self.start(What::Undo);
                None
            }
            Action::End(sha256, why) => Some(self.end(&sha256, why).await),
            Action::Reconsider(_) => {
                self.again = self.waiting.take();
                self.looks = Instant::now();
                None
            }
        }
    }

    async fn intend(&mut self, sha256: &Bytes) -> bool {
        let Some(Candidate { offer, document, desired, .. }) = &self.candidate else {
            return false;
        };
        let mut verdict = v1::Verdict {
            sha256: sha256.clone(),
            origin: offer.origin.into(),
            unix_ms: clock::unix_ms(),
            version: super::version(offer, desired),
            accepted: true,
            by: offer.by.clone(),
            ..Default::default()
        };
        verdict.set_outcome(Outcome::Trial);
        let over = offer.manner.over.as_ref().map(|(reason, time)| v1::Override {
            reason: reason.clone(),
            until_unix_ms: verdict.unix_ms + time.as_millis() as u64,
            granted_ms: time.as_millis() as u64,
        });
        let mut content = self.content.clone();
        record::intend(&mut content, document.clone(), verdict.clone(), over);
        self.mark(&mut content, offer.claims.as_deref());
        match self.store(content).await {
            Ok(()) => {
                self.tell(&verdict);
                true
            }
            Err(error) => {
                verdict.accepted = false;
                verdict.set_outcome(Outcome::Refused);
                verdict.refusals = vec![not_durable(&error)];
                record::note(&mut self.content, verdict.clone());
                self.tell(&verdict);
                false
            }
        }
    }

    async fn commit(&mut self, sha256: &Bytes) -> bool {
        let Some(candidate) = &self.candidate else { return false };
        let why = match &candidate.confirmed_by {
            Some(by) => format!("confirmed by {by}"),
            None => "confirmed by itself: all was well".into(),
        };
        let mut content = self.content.clone();
        record::commit(&mut content, &why);
        if let Err(error) = self.store(content).await {
            tracing::error!(%error, "the ledger can't be written: the change is undone");
            return false;
        }
        self.active = self.candidate.take().map(|candidate| candidate.desired);
        self.grant_override();
        self.ended(sha256);
        true
    }

    async fn end(&mut self, sha256: &Bytes, why: Why) -> bool {
        let mut content = self.content.clone();
        record::end(&mut content, why, &self.why(why));
        let stored = self.store(content.clone()).await;
        if let Err(error) = &stored {
            // The next start finds the intent and ends it again.
            tracing::error!(%error, "the ledger can't be written: the end of a trial is not on it");
            self.content = content;
        }
        self.candidate = None;
        self.ended(sha256);
        stored.is_ok()
    }

    /// Tells who waits, and the core.
    fn ended(&mut self, sha256: &Bytes) {
        let verdict = record::last_of(&self.content, sha256).cloned().unwrap_or_default();
        for reply in self.ends.drain(..) {
            _ = reply.send(Ok(view::verdict(&verdict)));
        }
        if verdict.outcome() != Outcome::Refused {
            self.tell(&verdict);
        }
    }

    /// Why a trial ended, for a person.
    fn why(&self, why: Why) -> String {
        let problems = &self.trouble;
        match why {
            Why::NotApplied => format!("it could not be put in force: {problems}"),
            Why::Unhealthy => format!("its time was up, and not all was well: {problems}"),
            Why::Unconfirmed => "its time was up, and nobody confirmed it".into(),
            Why::ByHand => "undone by hand".into(),
            Why::NotDurable => "the ledger can't be written".into(),
            Why::Interrupted => "the agent ended in the middle of its trial".into(),
        }
    }

    /// Makes the ledger durable, beside the main loop: a worn flash may take seconds.
    pub(super) async fn store(&mut self, content: v1::Ledger) -> io::Result<()> {
        let mut ledger = self.ledger.clone();
        let stored = task::spawn_blocking(move || {
            ledger.store(&content)?;
            io::Result::Ok((ledger, content))
        });
        (self.ledger, self.content) = stored.await.map_err(io::Error::other).flatten()?;
        Ok(())
    }

    /// From now on the override in force has so much time left. A clock that is wrong
    /// after a start makes it shorter, or at most as long as it was granted.
    fn grant_override(&mut self) {
        let over = self.content.active.as_ref().and_then(record::over);
        self.override_ends = over.map(|over| {
            let left = over.until_unix_ms.saturating_sub(clock::unix_ms()).min(over.granted_ms);
            clock::since_boot() + Duration::from_millis(left)
        });
        self.looks = Instant::now() + self.until_next_look();
    }

    /// The core's own document comes back, through the door as any other.
    fn end_override(&mut self) {
        self.override_ends = None;
        let (applied, document) = match self.content.resume.clone() {
            Some(entry) => (entry.applied.unwrap_or_default(), entry.document),
            None => (v1::Applied::default(), Bytes::new()),
        };
        let sha256 = match applied.sha256.is_empty() {
            true => super::judge::sha256(&document),
            false => applied.sha256.clone(),
        };
        self.again = Some(Offer {
            sha256,
            bytes: document,
            format: Format::Protobuf,
            origin: match applied.origin() {
                Origin::Unspecified => Origin::Local,
                origin => origin,
            },
            by: "the end of an override".into(),
            // It was good before, or never tried: either way it has to prove itself.
            manner: Manner { again: true, ..Manner::default() },
            claims: None,
        });
    }

    /// Says what the configuration is, if that is anything new.
    pub(super) fn publish(&self) {
        let reported = self.report();
        self.reported.send_if_modified(|now| {
            let changed = **now != reported;
            if changed {
                *now = Arc::new(reported);
            }
            changed
        });
    }
}
