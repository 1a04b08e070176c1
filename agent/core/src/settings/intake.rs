//! What workloads may hand to the agent, how, and how much of it.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::{ops::RangeInclusive, str::FromStr};

use super::{Impossible, Origin, PORT, Refusal, Setting, check_range, one_of, parsed};
use crate::quota::Quota;

/// KiB a second of one source: below 1 not a line of a log would go through, beyond
/// 64 MiB/s there is no disk for it.
pub const QUOTA_KIB_S: RangeInclusive<u32> = 1..=65_536;
/// MiB a day of one source.
pub const QUOTA_MIB_DAY: RangeInclusive<u32> = 1..=65_536;
/// A service with a hundred series every ten seconds and a line of log a second has 5.
const QUOTA_KIB_S_DEFAULT: u32 = 64;
/// An eighth of the default spool.
const QUOTA_MIB_DAY_DEFAULT: u32 = 32;
/// Units that are named, and sources with quotas of their own.
const MAX_NAMED: usize = 64;

/// Values as they stand in a document.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each field is documented in proto/purlin/v1/desired.proto")]
pub struct IntakeDraft {
    pub otlp_socket: Option<bool>,
    pub otlp_port: Option<u32>,
    pub journal: Option<bool>,
    pub journal_units: Vec<String>,
    pub journal_priority: Option<String>,
    pub quota: QuotaDraft,
    pub quota_by_source: BTreeMap<String, QuotaDraft>,
}

/// The same of a quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is documented in proto/purlin/v1/desired.proto")]
pub struct QuotaDraft {
    pub kib_s: Option<u32>,
    pub mib_day: Option<u32>,
}

/// What is taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intake {
    /// OTLP at the Unix socket.
    pub socket: bool,
    /// OTLP at this port of loopback.
    pub port: Option<u16>,
    /// The journal.
    pub journal: Option<Journal>,
    /// What each source may hand in.
    pub quota: Quota,
    /// What some may.
    pub quota_by_source: BTreeMap<String, Quota>,
}

impl Default for Intake {
    fn default() -> Self {
        let (quota, quota_by_source) = (quota_of(&QuotaDraft::default()), BTreeMap::new());
        Self { socket: false, port: None, journal: None, quota, quota_by_source }
    }
}

impl Intake {
    /// What a source may hand in.
    pub fn quota_of(&self, source: &str) -> Quota {
        self.quota_by_source.get(source).copied().unwrap_or(self.quota)
    }
}

/// What is read of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// Of these units; of none in particular: of all.
    pub units: Vec<String>,
    /// This bad or worse.
    pub priority: Priority,
}

/// How bad a line is, as syslog has it (RFC 5424 §6.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Priority {
    Emerg,
    Alert,
    Crit,
    Err,
    #[default]
    Warning,
    Notice,
    Info,
    Debug,
}

impl Priority {
    /// From the worst to the least.
    pub const ALL: [Priority; 8] = [
        Priority::Emerg,
        Priority::Alert,
        Priority::Crit,
        Priority::Err,
        Priority::Warning,
        Priority::Notice,
        Priority::Info,
        Priority::Debug,
    ];

    /// The name that journalctl knows too.
    pub fn name(self) -> &'static str {
        match self {
            Priority::Emerg => "emerg",
            Priority::Alert => "alert",
            Priority::Crit => "crit",
            Priority::Err => "err",
            Priority::Warning => "warning",
            Priority::Notice => "notice",
            Priority::Info => "info",
            Priority::Debug => "debug",
        }
    }
}

impl FromStr for Priority {
    type Err = Impossible;
    fn from_str(text: &str) -> Result<Self, Impossible> {
        Priority::ALL.into_iter().find(|it| it.name() == text).ok_or_else(|| Impossible {
            limit: one_of(&Priority::ALL.map(Priority::name)),
            hint: "journalctl -p has the same names".into(),
        })
    }
}

fn quota_of(draft: &QuotaDraft) -> Quota {
    Quota {
        bytes_s: u64::from(draft.kib_s.unwrap_or(QUOTA_KIB_S_DEFAULT)) << 10,
        bytes_day: u64::from(draft.mib_day.unwrap_or(QUOTA_MIB_DAY_DEFAULT)) << 20,
    }
}

/// Checks what a document says of it; `None`: nothing.
pub(super) fn check(draft: &IntakeDraft, refusals: &mut Vec<Refusal>) -> Option<Intake> {
    if *draft == IntakeDraft::default() {
        return None;
    }
    let named = [
        ("intake.journal_units", draft.journal_units.len()),
        ("intake.quota_by_source", draft.quota_by_source.len()),
    ];
    for (path, count) in named.into_iter().filter(|it| it.1 > MAX_NAMED) {
        refusals.push(Refusal {
            path: path.into(),
            value: count.to_string(),
            limit: format!("at most {MAX_NAMED}"),
            hint: "leave out those that matter least".into(),
        });
    }
    for (n, unit) in draft.journal_units.iter().enumerate() {
        // It becomes a word of journalctl's command line.
        let is_unit = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*?".contains(c);
        if unit.is_empty() || unit.starts_with('-') || !unit.chars().all(is_unit) {
            refusals.push(Refusal {
                path: format!("intake.journal_units[{n}]"),
                value: unit.clone(),
                limit: "a unit's name such as nginx.service".into(),
                hint: "`systemctl list-units` has them".into(),
            });
        }
    }
    if let Some(port) = draft.otlp_port {
        check_range("intake.otlp_port", port, &PORT, refusals);
    }
    let mut quota = |path: &str, draft: &QuotaDraft| {
        let fields =
            [("kib_s", draft.kib_s, QUOTA_KIB_S), ("mib_day", draft.mib_day, QUOTA_MIB_DAY)];
        for (field, value, range) in fields {
            if let Some(value) = value {
                check_range(&format!("{path}.{field}"), value, &range, refusals);
            }
        }
        quota_of(draft)
    };
    let all = quota("intake.quota", &draft.quota);
    let own = draft.quota_by_source.iter().map(|(source, own)| {
        let own = QuotaDraft {
            kib_s: own.kib_s.or(draft.quota.kib_s),
            mib_day: own.mib_day.or(draft.quota.mib_day),
        };
        (source.clone(), quota(&format!("intake.quota_by_source.{source}"), &own))
    });
    let quota_by_source = own.collect();
    let priority = parsed("intake.journal_priority", &draft.journal_priority, refusals);
    let journal =
        Journal { units: draft.journal_units.clone(), priority: priority.unwrap_or_default() };
    Some(Intake {
        socket: draft.otlp_socket.unwrap_or(false),
        port: draft.otlp_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
        journal: draft.journal.unwrap_or(false).then_some(journal),
        quota: all,
        quota_by_source,
    })
}

/// As (path, value, origin).
pub(super) fn rows(setting: &Setting<Intake>) -> Vec<(String, String, &Origin)> {
    let Intake { socket, port, journal, quota, quota_by_source } = &setting.value;
    let of = |quota: &Quota| {
        format!("{} KiB/s, {} MiB a day", quota.bytes_s >> 10, quota.bytes_day >> 20)
    };
    let journal = match journal {
        None => "not read".into(),
        Some(Journal { units, priority }) if units.is_empty() => {
            format!("{} and worse", priority.name())
        }
        Some(Journal { units, priority }) => {
            format!("{} and worse of {}", priority.name(), units.join(", "))
        }
    };
    let port = port.map_or("none".into(), |port| port.to_string());
    let own = quota_by_source
        .iter()
        .map(|(source, quota)| (format!("intake.quota_by_source.{source}"), of(quota)));
    let first = [
        ("intake.otlp_socket".into(), socket.to_string()),
        ("intake.otlp_port".into(), port),
        ("intake.journal".into(), journal),
        ("intake.quota".into(), of(quota)),
    ];
    first.into_iter().chain(own).map(|(path, value)| (path, value, &setting.origin)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_impossible_is_told_with_its_path() {
        let draft = IntakeDraft {
            otlp_port: Some(70_000),
            journal_units: alloc::vec!["--output=cat".into()],
            journal_priority: Some("bad".into()),
            quota_by_source: [("web".to_string(), QuotaDraft { kib_s: Some(0), mib_day: None })]
                .into(),
            ..IntakeDraft::default()
        };
        let mut refusals = Vec::new();
        check(&draft, &mut refusals);
        let paths: Vec<_> = refusals.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "intake.journal_units[0]",
                "intake.otlp_port",
                "intake.quota_by_source.web.kib_s",
                "intake.journal_priority",
            ]
        );
    }

    #[test]
    fn a_source_has_its_own_quota_and_for_the_rest_that_of_all() {
        let own = QuotaDraft { kib_s: Some(9), mib_day: None };
        let draft = IntakeDraft {
            quota: QuotaDraft { kib_s: None, mib_day: Some(3) },
            quota_by_source: [("web".to_string(), own)].into(),
            ..IntakeDraft::default()
        };
        let intake = check(&draft, &mut Vec::new()).expect("a document's");
        assert_eq!(intake.quota_of("web"), Quota { bytes_s: 9 << 10, bytes_day: 3 << 20 });
        assert_eq!(intake.quota_of("db"), Quota { bytes_s: 64 << 10, bytes_day: 3 << 20 });
        assert!(!intake.socket && intake.port.is_none() && intake.journal.is_none());
    }
}
