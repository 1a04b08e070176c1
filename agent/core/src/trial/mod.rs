//! A change of the configuration that undoes itself unless it proves good.
//!
//! ```text
//!            intend          apply           healthy long enough, or by hand
//!     idle ─────────► intent ───────► proving ───────────────────────► commit ──► idle
//!      ▲              durable  │         │                               │
//!      │                       └────┬────┘ failed, time up, by hand      │ not durable
//!      └──────── end ◄───── undo ◄──┴────────────────────────────────────┘
//! ```
//!
//! The intent is on disk before anything is applied, and what a node boots from stays
//! the last known good document until a commit is on disk: whatever ends the agent in
//! between, the next start ends the trial. At most one [`Action`] is under way at a
//! time, and its outcome comes back as [`Event::Done`].
//!
//! The timer goes before whatever else arrives: [`Machine::step`] looks at the clock
//! first at *every* event. In a model where only a tick did, a stream of replayed
//! documents starved it and the trial never ended.

use core::time::Duration;

#[cfg(test)]
mod search;

/// How long a change may take to prove good. A technician who has to walk to the next
/// rack needs minutes; a node that is cut off should not need many.
pub const TIMEOUT: Duration = Duration::from_secs(300);
/// How long all must have been well without a break before a change is confirmed by
/// itself: several samples, and one keep-alive of the uplink.
pub const HEALTHY_FOR: Duration = Duration::from_secs(60);

/// How a trial may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Terms {
    /// It is undone unless it was confirmed within this time.
    pub timeout: Duration,
    /// It is confirmed by itself once healthy for so long; `None`: by hand alone.
    pub confirm_after: Option<Duration>,
}

/// What happens to a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<D> {
    /// A document that was judged and may be tried.
    Offered(D, Terms),
    /// The action under way succeeded, or not.
    Done(bool),
    /// All that the change touches was looked at: well, or not.
    Health(bool),
    /// Somebody says that it is good. One who says so of what is not well means it.
    Confirm,
    /// Somebody says that it is not.
    Revert,
    /// Time has passed.
    Tick,
}

/// What has to be done now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action<D> {
    /// Make it durable that this document is about to be tried.
    Intend(D),
    /// Put it in force.
    Apply(D),
    /// Make it durable that it is what the node boots from.
    Commit(D),
    /// Put back what was in force before.
    Undo(D),
    /// Make it durable that its trial is over.
    End(D, Why),
    /// The trial before it is over: judge it again, and offer it.
    Reconsider(D),
}

/// Why a trial ended without the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It could not be put in force.
    NotApplied,
    /// Time was up, and all was not well.
    Unhealthy,
    /// Time was up, all was well, and nobody said so.
    Unconfirmed,
    /// Somebody said so.
    ByHand,
    /// It was good, and could not be made durable.
    NotDurable,
    /// The agent ended in the middle of it.
    Interrupted,
}

impl Why {
    /// Whether the document itself is to blame: it is not tried again unless forced.
    pub fn is_for_good(self) -> bool {
        matches!(self, Why::NotApplied | Why::Unhealthy | Why::ByHand)
    }
}

/// Where a trial stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Its intent is being written.
    Intending,
    /// It is being put in force.
    Applying,
    /// It is in force and has to prove good.
    Proving {
        /// Since when all has been well.
        healthy_since: Option<Duration>,
    },
    /// It is good, and that is being written.
    Committing,
    /// What was before is being put back.
    Undoing(Why),
    /// That it is over is being written.
    Ending(Why),
}

/// A document on trial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trial<D> {
    /// The document.
    pub document: D,
    /// How it may end.
    pub terms: Terms,
    /// When it must be over; known once its intent is durable.
    pub deadline: Option<Duration>,
    /// Where it stands.
    pub phase: Phase,
}

/// The trial of one node, if there is one, and the document that waits for its end.
/// Times are monotonic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Machine<D> {
    trial: Option<Trial<D>>,
    waiting: Option<D>,
}

impl<D: Clone + Eq> Machine<D> {
    /// The machine of an agent that starts, with the intent that it found on disk.
    pub fn boot(interrupted: Option<D>) -> (Self, Option<Action<D>>) {
        let mut machine = Self { trial: None, waiting: None };
        let action = interrupted.map(|document| {
            let terms = Terms { timeout: Duration::ZERO, confirm_after: None };
            let phase = Phase::Ending(Why::Interrupted);
            machine.trial =
                Some(Trial { document: document.clone(), terms, deadline: None, phase });
            Action::End(document, Why::Interrupted)
        });
        (machine, action)
    }

    /// The trial that is under way.
    pub fn trial(&self) -> Option<&Trial<D>> {
        self.trial.as_ref()
    }

    /// The document that waits for its end.
    pub fn waiting(&self) -> Option<&D> {
        self.waiting.as_ref()
    }

    /// What follows from an event. An action that is returned takes the place of the
    /// one under way, whose outcome must not come back any more. None is replaced while
    /// it writes: what is on disk must be known.
    pub fn step(&mut self, event: Event<D>, now: Duration) -> Option<Action<D>> {
        if let Some(why) = self.overdue(now) {
            if let Event::Offered(document, _) = event {
                self.wait(document);
            }
            return self.undo(why);
        }
        match event {
            Event::Offered(document, terms) => self.offered(document, terms),
            Event::Done(ok) => self.done(ok, now),
            Event::Health(well) => self.health(well, now),
            Event::Confirm => self.commit(),
            Event::Revert => self.undo(Why::ByHand),
            Event::Tick => None,
        }
    }

    /// Why the trial is over, if its time is up.
    fn overdue(&self, now: Duration) -> Option<Why> {
        let trial = self.trial.as_ref()?;
        if trial.deadline.is_none_or(|deadline| now < deadline) {
            return None;
        }
        match trial.phase {
            Phase::Applying => Some(Why::NotApplied),
            Phase::Proving { healthy_since: None } => Some(Why::Unhealthy),
            Phase::Proving { healthy_since: Some(_) } => Some(Why::Unconfirmed),
            _ => None,
        }
    }

    fn offered(&mut self, document: D, terms: Terms) -> Option<Action<D>> {
        if self.trial.is_some() {
            self.wait(document);
            return None;
        }
        let phase = Phase::Intending;
        self.trial = Some(Trial { document: document.clone(), terms, deadline: None, phase });
        Some(Action::Intend(document))
    }

    /// The last one wins; one that is on trial already needs no second.
    fn wait(&mut self, document: D) {
        let on_trial = self.trial.as_ref().is_some_and(|trial| trial.document == document);
        self.waiting = (!on_trial).then_some(document);
    }

    fn done(&mut self, ok: bool, now: Duration) -> Option<Action<D>> {
        let trial = self.trial.as_mut()?;
        let document = trial.document.clone();
        match (trial.phase, ok) {
            (Phase::Intending, true) => {
                trial.deadline = Some(now + trial.terms.timeout);
                trial.phase = Phase::Applying;
                Some(Action::Apply(document))
            }
            (Phase::Applying, true) => {
                trial.phase = Phase::Proving { healthy_since: None };
                None
            }
            (Phase::Applying, false) => self.undo(Why::NotApplied),
            (Phase::Committing, false) => {
                trial.phase = Phase::Undoing(Why::NotDurable);
                Some(Action::Undo(document))
            }
            (Phase::Undoing(why), _) => {
                trial.phase = Phase::Ending(why);
                Some(Action::End(document, why))
            }
            // An intent that may be on disk all the same is ended there.
            (Phase::Intending, false) => {
                trial.phase = Phase::Ending(Why::NotDurable);
                Some(Action::End(document, Why::NotDurable))
            }
            // If the end is not durable, the next start finds the intent and ends it.
            (Phase::Committing, true) | (Phase::Ending(_), _) => {
                self.trial = None;
                self.waiting.take().map(Action::Reconsider)
            }
            (Phase::Proving { .. }, _) => None,
        }
    }

    fn health(&mut self, well: bool, now: Duration) -> Option<Action<D>> {
        let trial = self.trial.as_mut()?;
        let Phase::Proving { healthy_since } = &mut trial.phase else { return None };
        *healthy_since = well.then(|| healthy_since.unwrap_or(now));
        let confirm_at = (*healthy_since)? + trial.terms.confirm_after?;
        if now >= confirm_at { self.commit() } else { None }
    }

    fn commit(&mut self) -> Option<Action<D>> {
        let trial = self.trial.as_mut()?;
        let Phase::Proving { .. } = trial.phase else { return None };
        trial.phase = Phase::Committing;
        Some(Action::Commit(trial.document.clone()))
    }

    fn undo(&mut self, why: Why) -> Option<Action<D>> {
        let trial = self.trial.as_mut()?;
        let (Phase::Applying | Phase::Proving { .. }) = trial.phase else { return None };
        trial.phase = Phase::Undoing(why);
        Some(Action::Undo(trial.document.clone()))
    }
}
