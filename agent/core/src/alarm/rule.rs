//! When a reading is an alarm, as the configuration wants it.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString as _},
    vec::Vec,
};
use core::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    metric::Point,
    pattern::like,
    settings::{Impossible, Refusal, one_of},
};

/// Rules of one document: more than a rack has kinds of readings.
const MAX_RULES: usize = 256;
/// Seconds of `hold_s` and `clear_hold_s`: after a day nobody waits for it any more.
const MAX_HOLD_S: u32 = 86_400;
/// For a value to be good again before its alarm is cleared: what swings around a
/// limit is then one alarm and not one a swing.
const CLEAR_HOLD_S: u32 = 60;
/// A name becomes a part of a topic.
const MAX_NAME: usize = 48;

/// A rule as it stands in a document or a register map, unchecked.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each field is documented in proto/purlin/v1/alarm.proto")]
pub struct Draft {
    pub metric: String,
    pub attributes: BTreeMap<String, String>,
    pub above: Option<f64>,
    pub below: Option<f64>,
    pub clear: Option<f64>,
    pub hold_s: Option<u32>,
    pub clear_hold_s: Option<u32>,
    pub severity: Option<String>,
    pub latched: Option<bool>,
    pub remedy: String,
    pub page: String,
}

/// A rule. Its limits are numbers: it equals itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name; alarms' ids begin with it.
    pub name: String,
    /// The metric it is about.
    pub metric: String,
    /// Patterns that attributes must match.
    pub attributes: BTreeMap<String, String>,
    /// Which values are bad.
    pub limit: Limit,
    /// A value must be bad for so long.
    pub hold: Duration,
    /// And good for so long before the alarm is cleared.
    pub clear_hold: Duration,
    /// What an alarm tells.
    pub notice: Notice,
}

impl Eq for Rule {}

/// Where bad begins and where it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// Bad above `raise`, good again at `clear` and below.
    Above {
        /// In the metric's unit.
        raise: f64,
        /// At most `raise`.
        clear: f64,
    },
    /// Bad below `raise`, good again at `clear` and above.
    Below {
        /// In the metric's unit.
        raise: f64,
        /// At least `raise`.
        clear: f64,
    },
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Above { raise, clear } => write!(f, "above {raise}, until {clear}"),
            Limit::Below { raise, clear } => write!(f, "below {raise}, until {clear}"),
        }
    }
}

/// What a value is by a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Beyond it.
    Bad,
    /// Between the two: as it was.
    Between,
    /// Well.
    Good,
}

/// What an alarm tells beside its cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// How bad it is.
    pub severity: Severity,
    /// It stays after its cause is gone, until somebody acknowledges it.
    pub latched: bool,
    /// What to do.
    pub remedy: String,
    /// The page of `hw-docs` about it.
    pub page: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Somebody should look at it some day.
    Info,
    /// Somebody should look at it.
    #[default]
    Warning,
    /// Somebody must act.
    Critical,
}

impl Severity {
    /// All of them.
    pub const ALL: [Severity; 3] = [Severity::Info, Severity::Warning, Severity::Critical];

    /// The name used in documents.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

impl FromStr for Severity {
    type Err = Impossible;
    fn from_str(text: &str) -> Result<Self, Impossible> {
        Severity::ALL.into_iter().find(|it| it.name() == text).ok_or_else(|| Impossible {
            limit: one_of(&Severity::ALL.map(Severity::name)),
            hint: "severities are written in lower case".into(),
        })
    }
}

impl Limit {
    /// What a value is.
    pub fn judge(&self, value: f64) -> Verdict {
        let (bad, good) = match *self {
            Limit::Above { raise, clear } => (value > raise, value <= clear),
            Limit::Below { raise, clear } => (value < raise, value >= clear),
        };
        match (bad, good) {
            (true, _) => Verdict::Bad,
            (false, true) => Verdict::Good,
            (false, false) => Verdict::Between,
        }
    }
}

impl Rule {
    /// Whether a point is one of those that it is about.
    pub fn is_about(&self, point: &Point) -> bool {
        self.metric == point.name
            && self.attributes.iter().all(|(key, pattern)| {
                point.attributes.iter().any(|(name, value)| name == key && like(pattern, value))
            })
    }
}

/// Checks every rule.
pub fn check(drafts: &BTreeMap<String, Draft>, refusals: &mut Vec<Refusal>) -> Vec<Rule> {
    if drafts.len() > MAX_RULES {
        refusals.push(Refusal {
            path: "alarms.rules".into(),
            value: drafts.len().to_string(),
            limit: format!("at most {MAX_RULES}"),
            hint: "match more with each of them".into(),
        });
    }
    drafts.iter().filter_map(|(name, draft)| rule(name, draft, refusals)).collect()
}

fn rule(name: &str, draft: &Draft, refusals: &mut Vec<Refusal>) -> Option<Rule> {
    let path = format!("alarms.rules.{name}");
    let before = refusals.len();
    let mut refuse = |field: &str, value: String, limit: &str, hint: &str| {
        let (path, limit) = (format!("{path}{field}"), limit.to_string());
        refusals.push(Refusal { path, value, limit, hint: hint.into() });
    };
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(is_plain) {
        let limit = format!("1 to {MAX_NAME} letters a-z, digits and -");
        refuse("", name.into(), &limit, "an alarm's id begins with it");
    }
    if draft.metric.is_empty() {
        let hint = "name one, e.g. hw.temperature; `purlin metrics list` has those of this node";
        refuse(".metric", String::new(), "a metric", hint);
    }
    for (field, value) in
        [(".above", draft.above), (".below", draft.below), (".clear", draft.clear)]
    {
        if let Some(value) = value.filter(|value| !value.is_finite()) {
            refuse(field, value.to_string(), "a number", "it is in the metric's unit");
        }
    }
    let clear = draft.clear;
    let limit = match (draft.above, draft.below) {
        (Some(raise), None) => Some(Limit::Above { raise, clear: clear.unwrap_or(raise) }),
        (None, Some(raise)) => Some(Limit::Below { raise, clear: clear.unwrap_or(raise) }),
        _ => {
            refuse("", "no limit, or two".into(), "one of above and below", "write two rules");
            None
        }
    };
    match limit {
        Some(Limit::Above { raise, clear }) if clear > raise => {
            refuse(".clear", clear.to_string(), &format!("at most {raise}"), "good is below bad");
        }
        Some(Limit::Below { raise, clear }) if clear < raise => {
            refuse(".clear", clear.to_string(), &format!("at least {raise}"), "good is above bad");
        }
        _ => {}
    }
    for (field, hold) in [(".hold_s", draft.hold_s), (".clear_hold_s", draft.clear_hold_s)] {
        if let Some(hold) = hold.filter(|hold| *hold > MAX_HOLD_S) {
            refuse(field, hold.to_string(), &format!("0 to {MAX_HOLD_S}"), "it is in seconds");
        }
    }
    let severity = draft.severity.as_deref().map_or(Ok(Severity::default()), str::parse);
    let severity = severity
        .map_err(|Impossible { limit, hint }| {
            let value = draft.severity.clone().unwrap_or_default();
            refuse(".severity", value, &limit, &hint);
        })
        .ok();
    let (Some(limit), Some(severity)) = (limit, severity) else { return None };
    (refusals.len() == before).then(|| Rule {
        name: name.into(),
        metric: draft.metric.clone(),
        attributes: draft.attributes.clone(),
        limit,
        hold: Duration::from_secs(draft.hold_s.unwrap_or(0).into()),
        clear_hold: Duration::from_secs(draft.clear_hold_s.unwrap_or(CLEAR_HOLD_S).into()),
        notice: Notice {
            severity,
            latched: draft.latched.unwrap_or(false),
            remedy: draft.remedy.clone(),
            page: draft.page.clone(),
        },
    })
}
