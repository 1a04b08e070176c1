//! Every order of events that a node can meet, as far as a few documents and a few
//! units of time go: crashes at any point, writes that fail and are on disk all the
//! same, documents replayed and reordered, a timer that nobody serves.
//!
//! - Safety: nothing unconfirmed survives, and nothing is in force that isn't on disk.
//! - Liveness: a trial ends, whatever is replayed at it.

use alloc::{collections::BTreeSet, vec, vec::Vec};

use super::*;

const UNIT: Duration = Duration::from_secs(1);
/// Document 0 is what the node has; 1 and 2 come from the core, 3 from a technician.
const REMOTE: Terms = Terms { timeout: Duration::from_secs(3), confirm_after: Some(UNIT) };
const LOCAL: Terms = Terms { timeout: Duration::from_secs(2), confirm_after: None };
/// Long enough for two trials, one after the other.
const HORIZON: Duration = Duration::from_secs(7);
/// In force while an apply or an undo has failed half way.
const MIXED: u8 = 9;

fn terms(document: u8) -> Terms {
    if document == 3 { LOCAL } else { REMOTE }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    now: Duration,
    machine: Machine<u8>,
    under_way: Option<Action<u8>>,
    /// What the ledger holds: what the node boots from, and the intent.
    disk: (u8, Option<u8>),
    /// What the agent takes for the first of these.
    known_good: u8,
    in_force: u8,
    /// The trial's beginning, and since when it was well, noted beside the machine.
    began: Option<Duration>,
    well_since: Option<Duration>,
    by_hand: bool,
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Offer(u8),
    /// Time passes, and the timer is served or not.
    Time {
        served: bool,
    },
    Health(bool),
    Confirm,
    Revert,
    Finish {
        ok: bool,
        /// What was asked for came about; for a write that failed that is possible.
        happened: bool,
    },
    Crash {
        happened: bool,
    },
}

fn moves(world: &World) -> Vec<Move> {
    let mut moves = vec![
        Move::Offer(1),
        Move::Offer(2),
        Move::Offer(3),
        Move::Health(true),
        Move::Health(false),
        Move::Confirm,
        Move::Revert,
        Move::Crash { happened: false },
        Move::Crash { happened: true },
    ];
    if world.now < HORIZON {
        moves.extend([true, false].map(|served| Move::Time { served }));
    }
    if world.under_way.is_some() {
        moves.extend([
            Move::Finish { ok: true, happened: true },
            Move::Finish { ok: false, happened: false },
            Move::Finish { ok: false, happened: true },
        ]);
    }
    moves
}

impl World {
    fn new() -> Self {
        Self {
            now: Duration::ZERO,
            machine: Machine::boot(None).0,
            under_way: None,
            disk: (0, None),
            known_good: 0,
            in_force: 0,
            began: None,
            well_since: None,
            by_hand: false,
        }
    }

    fn make(mut self, next: Move) -> Self {
        match next {
            Move::Offer(document) => self.step(Event::Offered(document, terms(document))),
            Move::Time { served } => {
                self.now += UNIT;
                if served {
                    self.step(Event::Tick);
                }
            }
            Move::Health(well) => {
                self.well_since = well.then(|| self.well_since.unwrap_or(self.now));
                self.step(Event::Health(well));
            }
            Move::Confirm => {
                self.by_hand = true;
                self.step(Event::Confirm);
                self.by_hand = false;
            }
            Move::Revert => self.step(Event::Revert),
            Move::Finish { ok, happened } => {
                let action = self.under_way.take();
                self.happen(action, ok, happened);
                self.step(Event::Done(ok));
            }
            Move::Crash { happened } => {
                let action = self.under_way.take();
                self.happen(action, false, happened);
                self.boot();
            }
        }
        self
    }

    /// What an action does to the world.
    fn happen(&mut self, action: Option<Action<u8>>, ok: bool, happened: bool) {
        match action {
            Some(Action::Intend(document)) if happened => self.disk.1 = Some(document),
            Some(Action::Commit(document)) if happened => {
                self.disk = (document, None);
                if ok {
                    self.known_good = document;
                }
            }
            // The whole ledger is written, as the agent knows it.
            Some(Action::End(..)) if happened => self.disk = (self.known_good, None),
            Some(Action::Apply(document)) => self.in_force = if ok { document } else { MIXED },
            Some(Action::Undo(_)) => self.in_force = if ok { self.known_good } else { MIXED },
            _ => {}
        }
    }

    fn boot(&mut self) {
        (self.machine, self.under_way) = Machine::boot(self.disk.1);
        self.known_good = self.disk.0;
        self.in_force = self.disk.0;
        (self.began, self.well_since) = (None, None);
    }

    fn step(&mut self, event: Event<u8>) {
        let before = self.machine.trial().map(|trial| trial.phase);
        let writes =
            matches!(self.under_way, Some(Action::Intend(_) | Action::Commit(_) | Action::End(..)));
        let action = self.machine.step(event, self.now);
        if let Some(action) = action {
            assert!(!writes, "{action:?} while the disk is written: {self:?}");
            if let Action::Commit(document) = action {
                self.may_commit(document);
            }
            self.under_way = match action {
                // The agent judges it again, and offers it.
                Action::Reconsider(document) => {
                    self.machine.step(Event::Offered(document, terms(document)), self.now)
                }
                action => Some(action),
            };
        }
        if !matches!(before, Some(Phase::Applying | Phase::Proving { .. })) {
            self.began = Some(self.now);
        }
        if !matches!(before, Some(Phase::Proving { .. })) {
            self.well_since = None;
        }
    }

    /// Safety, as it is noted beside the machine.
    fn may_commit(&self, document: u8) {
        let long_enough = |after| self.well_since.is_some_and(|since| self.now >= since + after);
        let proven = terms(document).confirm_after.is_some_and(long_enough);
        assert!(proven || self.by_hand, "{document} is confirmed unproven: {self:?}");
        assert_eq!(self.in_force, document, "what was never in force is confirmed");
    }

    fn check(&self, last: Move) {
        let phase = self.machine.trial().map(|trial| trial.phase);
        let tried = self.machine.trial().map(|trial| trial.document);
        // Nothing is in force that isn't on disk, as good or as an intent.
        if self.in_force != MIXED && self.in_force != self.known_good {
            let durable = self.disk.1 == Some(self.in_force) || self.disk.0 == self.in_force;
            assert!(durable && tried == Some(self.in_force), "in force unheard of: {self:?}");
        }
        // Its time is up as soon as anything at all arrives, whether the timer is served
        // or not.
        let heard = !matches!(last, Move::Time { served: false });
        if heard
            && let (Some(Phase::Applying | Phase::Proving { .. }), Some(began)) =
                (phase, self.began)
        {
            let most = terms(tried.unwrap_or_default()).timeout;
            assert!(self.now < began + most, "a trial outlives its time: {self:?}");
        }
        let idle = self.machine.trial().is_none();
        assert!(!idle || self.under_way.is_none(), "work without a trial: {self:?}");
        if idle && self.in_force != MIXED {
            assert_eq!(self.in_force, self.known_good, "unconfirmed, and in force: {self:?}");
        }
    }

    /// A trial ends in so many steps if what is under way is finished and time passes,
    /// whatever document is replayed before each of them.
    fn ends(&self, replayed: Option<u8>) {
        let Some(tried) = self.machine.trial().map(|trial| trial.document) else { return };
        let mut world = self.clone();
        for _ in 0..12 {
            if let Some(document) = replayed {
                world = world.make(Move::Offer(document));
            }
            let next = match world.under_way {
                Some(_) => Move::Finish { ok: true, happened: true },
                // Nobody serves the timer: the replayed document does.
                None => Move::Time { served: replayed.is_none() },
            };
            world = world.make(next);
            let now_tried = world.machine.trial().map(|trial| trial.document);
            let begun_anew = world.under_way == now_tried.map(Action::Intend);
            if now_tried != Some(tried) || begun_anew {
                return;
            }
        }
        panic!("the trial of {tried} does not end under {replayed:?}: {self:?}");
    }
}

#[test]
fn nothing_unconfirmed_survives_and_every_trial_ends() {
    let mut seen = BTreeSet::from([World::new()]);
    let mut open = vec![World::new()];
    while let Some(world) = open.pop() {
        for next in moves(&world) {
            let after = world.clone().make(next);
            after.check(next);
            if seen.insert(after.clone()) {
                for replayed in [None, Some(1), Some(2), Some(3)] {
                    after.ends(replayed);
                }
                open.push(after);
            }
        }
    }
    // Fewer would mean that the search no longer gets anywhere.
    assert!(seen.len() > 10_000, "{} states", seen.len());
}

#[test]
fn the_timer_goes_before_a_confirmation_that_comes_too_late() {
    let (mut machine, _) = Machine::boot(None);
    assert_eq!(machine.step(Event::Offered(1, LOCAL), UNIT), Some(Action::Intend(1)));
    assert_eq!(machine.step(Event::Done(true), UNIT), Some(Action::Apply(1)));
    assert_eq!(machine.step(Event::Done(true), UNIT), None);
    assert_eq!(machine.step(Event::Health(true), 2 * UNIT), None);
    assert_eq!(machine.step(Event::Confirm, 3 * UNIT), Some(Action::Undo(1)));
    assert_eq!(machine.step(Event::Done(true), 3 * UNIT), Some(Action::End(1, Why::Unconfirmed)));
}

#[test]
fn a_document_during_a_trial_waits_and_the_last_one_wins() {
    let (mut machine, _) = Machine::boot(None);
    machine.step(Event::Offered(1, REMOTE), UNIT);
    for document in [2, 3, 2] {
        assert_eq!(machine.step(Event::Offered(document, REMOTE), UNIT), None);
    }
    assert_eq!(machine.waiting(), Some(&2));
    assert_eq!(machine.step(Event::Done(false), UNIT), Some(Action::End(1, Why::NotDurable)));
    assert_eq!(machine.step(Event::Done(true), UNIT), Some(Action::Reconsider(2)));
    // One that is on trial needs no second.
    machine.step(Event::Offered(2, REMOTE), UNIT);
    machine.step(Event::Offered(1, REMOTE), UNIT);
    machine.step(Event::Offered(2, REMOTE), UNIT);
    assert_eq!(machine.waiting(), None);
}

#[test]
fn a_break_in_health_starts_the_count_again() {
    let (mut machine, _) = Machine::boot(None);
    let terms = Terms { timeout: 9 * UNIT, confirm_after: Some(2 * UNIT) };
    machine.step(Event::Offered(1, terms), UNIT);
    machine.step(Event::Done(true), UNIT);
    machine.step(Event::Done(true), UNIT);
    for (at, well) in [(1, true), (2, true), (2, false), (3, true), (4, true)] {
        assert_eq!(machine.step(Event::Health(well), at * UNIT), None);
    }
    assert_eq!(machine.step(Event::Health(true), 5 * UNIT), Some(Action::Commit(1)));
}
