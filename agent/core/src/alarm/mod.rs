//! Alarms: what a person must know of, from when it begins until it is over.
//!
//! ```text
//!            bad             bad for `hold`            good for `clear_hold`
//!   nothing ────► pending ──────────────────► raised ──────────────────────► cleared
//!      ▲   good      │                          │  ▲                            │
//!      └─────────────┘            latched, good │  │ bad                    kept in
//!                                               ▼  │                       the history
//!                                             latched ──── acknowledged ────► cleared
//! ```
//!
//! An alarm has an id that stays: what swings around a limit is one alarm that counts how
//! often, and a restart goes on with those that were raised. What is no longer read says
//! nothing: it neither raises nor clears. Time is an argument, and holds are counted by
//! the time since boot.

use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    string::String,
    vec::Vec,
};
use core::{mem, time::Duration};

use serde::{Deserialize, Serialize};

use rule::{Notice, Rule, Verdict};
use subject::{subject, text};

use crate::metric::{Point, Value};

pub mod rule;
mod subject;

pub use subject::{Reading, id};

#[cfg(test)]
mod tests;

/// Alarms at once, pending ones too: a technician reads no more, and a rule that matches
/// everything must not fill the memory.
pub const MAX_ALARMS: usize = 512;
/// For a condition to be well before its alarm is cleared: after a start it takes a while
/// until what is wrong can be told again, and that is no end of it.
const CONDITION_HOLD: Duration = Duration::from_secs(20);
/// Cleared ones that are kept.
pub const MAX_HISTORY: usize = 256;

/// An instant.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since boot: what holds are counted by.
    pub boot: Duration,
    /// By the wall clock, for people.
    pub unix_ms: u64,
}

/// An alarm that was raised.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// The same for the same cause, always.
    pub id: String,
    /// What is wrong, for a person.
    pub text: String,
    /// How bad, and what to do.
    pub notice: Notice,
    /// What is read, for an alarm of a rule.
    pub reading: Option<Reading>,
    /// When it was raised.
    pub raised_unix_ms: u64,
    /// How often its cause came back before it was cleared.
    pub returns: u32,
    /// Its cause is gone, and it stays because it is latched.
    pub over: bool,
    /// When it was cleared.
    pub cleared_unix_ms: Option<u64>,
    /// Who knows of it.
    pub acknowledged: Option<Note>,
    /// Who wants to hear no more of it for a while.
    pub silenced: Option<Note>,
    /// Its cause was there since this agent's start, and it does not only stand from before.
    #[serde(skip)]
    pub seen: bool,
}

/// What somebody did about an alarm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When; of a silence, when it ends.
    pub unix_ms: u64,
}

/// Something that is wrong, or no longer, and that no reading tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Its alarm's id, made with [`id`].
    pub id: String,
    /// What is wrong, for a person.
    pub text: String,
    /// How bad, and what to do.
    pub notice: Notice,
    /// True while it is wrong.
    pub bad: bool,
}

/// What became of an alarm.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It was raised.
    Raised(Alarm),
    /// Somebody did something about it.
    Noted(Alarm),
    /// It was cleared.
    Cleared(Alarm),
}

/// Why nothing was done about an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is none of this id.
    Unknown,
    /// Its cause is still there.
    NotOver,
}

#[derive(Clone, Debug)]
struct Entry {
    alarm: Alarm,
    phase: Phase,
    hold: Duration,
    clear_hold: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Pending { since: Duration },
    Raised { good_since: Option<Duration> },
    Latched,
}

/// Every alarm of a node.
#[derive(Clone, Debug, Default)]
pub struct Alarms {
    entries: BTreeMap<String, Entry>,
    history: VecDeque<Alarm>,
    changes: Vec<Change>,
    /// Alarms that found no room.
    passed_over: u64,
}

impl Alarms {
    /// Goes on with what was raised and cleared before a restart.
    pub fn restore(raised: Vec<Alarm>, history: Vec<Alarm>) -> Self {
        let entry = |alarm: Alarm| {
            let phase =
                if alarm.over { Phase::Latched } else { Phase::Raised { good_since: None } };
            // Until its rule has spoken.
            let entry = Entry { phase, hold: Duration::ZERO, clear_hold: CONDITION_HOLD, alarm };
            (entry.alarm.id.clone(), entry)
        };
        let entries = raised.into_iter().take(MAX_ALARMS).map(entry).collect();
        let skip = history.len().saturating_sub(MAX_HISTORY);
        let history = history.into_iter().skip(skip).collect();
        Self { entries, history, ..Self::default() }
    }

    /// Those that are raised, by their ids.
    pub fn raised(&self) -> impl Iterator<Item = &Alarm> {
        let entries = self.entries.values();
        entries.filter(|it| !matches!(it.phase, Phase::Pending { .. })).map(|it| &it.alarm)
    }

    /// Those that were cleared, the oldest first.
    pub fn history(&self) -> impl Iterator<Item = &Alarm> {
        self.history.iter()
    }

    /// How many found no room.
    pub fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// What changed since it was asked last.
    pub fn changes(&mut self) -> Vec<Change> {
        mem::take(&mut self.changes)
    }

    /// Judges what was read. Of two rules that make the same id the first counts.
    pub fn observe(&mut self, rules: &[Rule], points: &[Point], now: Now) {
        for point in points {
            let (Value::Gauge(value) | Value::Counter(value)) = point.value;
            let mut seen: Vec<String> = Vec::new();
            for rule in rules.iter().filter(|rule| rule.is_about(point)) {
                let id = id(&rule.name, &subject(point));
                if value.is_nan() || seen.contains(&id) {
                    continue;
                }
                self.judge(&id, rule, point, value, now);
                seen.push(id);
            }
        }
    }

    /// Takes note of something that no reading tells.
    pub fn condition(&mut self, condition: Condition, now: Now) {
        let Condition { id, text, notice, bad } = condition;
        if !bad {
            return self.good(&id, now);
        }
        let alarm = Alarm { id, text, notice, ..Alarm::default() };
        self.bad(alarm, Duration::ZERO, CONDITION_HOLD, now);
    }

    /// The same for all of a kind: what is not among them is well.
    pub fn conditions(&mut self, kind: &str, bad: Vec<Condition>, now: Now) {
        let start = format!("{kind}.");
        let over: Vec<String> = (self.entries.keys())
            .filter(|id| id.starts_with(&start) && bad.iter().all(|it| it.id != **id))
            .cloned()
            .collect();
        for id in over {
            self.good(&id, now);
        }
        for condition in bad {
            self.condition(condition, now);
        }
    }

    /// Raises and clears what was held for long enough; ends silences.
    pub fn tick(&mut self, now: Now) {
        let mut cleared = Vec::new();
        for entry in self.entries.values_mut() {
            let alarm = &mut entry.alarm;
            if alarm.silenced.as_ref().is_some_and(|note| note.unix_ms <= now.unix_ms) {
                alarm.silenced = None;
                self.changes.push(Change::Noted(alarm.clone()));
            }
            match entry.phase {
                Phase::Pending { since } if now.boot >= since + entry.hold => {
                    entry.phase = Phase::Raised { good_since: None };
                    alarm.raised_unix_ms = now.unix_ms;
                    self.changes.push(Change::Raised(alarm.clone()));
                }
                Phase::Raised { good_since: Some(since) }
                    if now.boot >= since + entry.clear_hold =>
                {
                    let stays = alarm.notice.latched && alarm.acknowledged.is_none();
                    alarm.over = true;
                    match stays {
                        true => {
                            entry.phase = Phase::Latched;
                            self.changes.push(Change::Noted(alarm.clone()));
                        }
                        false => cleared.push(alarm.id.clone()),
                    }
                }
                _ => {}
            }
        }
        for id in cleared {
            self.clear(&id, now);
        }
    }

    /// When [`tick`](Self::tick) has something to do, if nothing else happens.
    pub fn next(&self) -> Option<Duration> {
        let due = |entry: &Entry| match entry.phase {
            Phase::Pending { since } => Some(since + entry.hold),
            Phase::Raised { good_since } => Some(good_since? + entry.clear_hold),
            Phase::Latched => None,
        };
        self.entries.values().filter_map(due).min()
    }

    /// Somebody knows of it. A latched one whose cause is gone is cleared.
    pub fn acknowledge(&mut self, id: &str, note: Note, now: Now) -> Result<(), Refused> {
        let entry = self.known(id)?;
        entry.alarm.acknowledged = Some(note);
        if entry.phase == Phase::Latched {
            self.clear(id, now);
        } else {
            self.noted(id);
        }
        Ok(())
    }

    /// Somebody wants to hear no more of it until the note's time.
    pub fn silence(&mut self, id: &str, note: Note) -> Result<(), Refused> {
        self.known(id)?.alarm.silenced = Some(note);
        self.noted(id);
        Ok(())
    }

    /// Clears by hand what is over, or what nothing tells of any more because it was
    /// taken out.
    pub fn clear_by_hand(&mut self, id: &str, note: Note, now: Now) -> Result<(), Refused> {
        let entry = self.known(id)?;
        // A condition tells by itself when it is over.
        if entry.alarm.reading.is_none() && entry.phase != Phase::Latched {
            return Err(Refused::NotOver);
        }
        entry.alarm.acknowledged = Some(note);
        self.clear(id, now);
        Ok(())
    }

    /// Clears the alarms of rules that there are no more.
    pub fn keep_rules(&mut self, rules: &[Rule], now: Now) {
        let has_rule = |alarm: &Alarm| {
            let Some(reading) = &alarm.reading else { return true };
            let point = reading.point();
            rules.iter().any(|it| it.is_about(&point) && id(&it.name, &subject(&point)) == alarm.id)
        };
        let gone = self.entries.values().filter(|it| !has_rule(&it.alarm));
        let gone: Vec<String> = gone.map(|it| it.alarm.id.clone()).collect();
        for id in gone {
            self.clear(&id, now);
        }
    }

    fn known(&mut self, id: &str) -> Result<&mut Entry, Refused> {
        let entry = self.entries.get_mut(id);
        entry.filter(|it| !matches!(it.phase, Phase::Pending { .. })).ok_or(Refused::Unknown)
    }

    fn noted(&mut self, id: &str) {
        let noted = self.entries.get(id).map(|entry| Change::Noted(entry.alarm.clone()));
        self.changes.extend(noted);
    }

    fn judge(&mut self, id: &str, rule: &Rule, point: &Point, value: f64, now: Now) {
        if let Some(entry) = self.entries.get_mut(id) {
            (entry.hold, entry.clear_hold) = (rule.hold, rule.clear_hold);
            if let Some(reading) = &mut entry.alarm.reading {
                reading.value = value;
            }
        }
        match rule.limit.judge(value) {
            Verdict::Good => self.good(id, now),
            Verdict::Between => {
                // Not good enough for one that is raised, not bad enough for another.
                match self.entries.get_mut(id).map(|entry| &mut entry.phase) {
                    Some(Phase::Raised { good_since }) => *good_since = None,
                    Some(Phase::Pending { .. }) => _ = self.entries.remove(id),
                    _ => {}
                }
            }
            Verdict::Bad => {
                let alarm = Alarm {
                    id: id.into(),
                    text: text(rule, point, value),
                    notice: rule.notice.clone(),
                    reading: Some(Reading::of(point, value)),
                    ..Alarm::default()
                };
                self.bad(alarm, rule.hold, rule.clear_hold, now);
            }
        }
    }

    fn bad(&mut self, alarm: Alarm, hold: Duration, clear_hold: Duration, now: Now) {
        if !self.entries.contains_key(&alarm.id) {
            let alarm = Alarm { seen: true, ..alarm };
            if self.entries.len() >= MAX_ALARMS {
                self.passed_over += 1;
                return;
            }
            let phase = Phase::Pending { since: now.boot };
            let entry = Entry { phase, hold, clear_hold, alarm };
            self.entries.insert(entry.alarm.id.clone(), entry);
            // Without a hold it is raised at once.
            return self.tick(now);
        }
        let Some(entry) = self.entries.get_mut(&alarm.id) else { return };
        entry.alarm.seen = true;
        match &mut entry.phase {
            Phase::Pending { .. } => entry.alarm.text = alarm.text,
            Phase::Raised { good_since } => {
                if good_since.take().is_some() {
                    entry.alarm.returns += 1;
                }
            }
            Phase::Latched => {
                entry.phase = Phase::Raised { good_since: None };
                entry.alarm.over = false;
                entry.alarm.returns += 1;
                let changed = entry.alarm.clone();
                self.changes.push(Change::Noted(changed));
            }
        }
    }

    fn good(&mut self, id: &str, now: Now) {
        match self.entries.get_mut(id).map(|entry| &mut entry.phase) {
            Some(Phase::Pending { .. }) => _ = self.entries.remove(id),
            Some(Phase::Raised { good_since }) => {
                good_since.get_or_insert(now.boot);
                self.tick(now);
            }
            Some(Phase::Latched) | None => {}
        }
    }

    fn clear(&mut self, id: &str, now: Now) {
        let Some(mut entry) = self.entries.remove(id) else { return };
        if matches!(entry.phase, Phase::Pending { .. }) {
            return;
        }
        entry.alarm.cleared_unix_ms = Some(now.unix_ms);
        self.changes.push(Change::Cleared(entry.alarm.clone()));
        if self.history.len() >= MAX_HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(entry.alarm);
    }
}
