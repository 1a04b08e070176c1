//! What each class of records may take on disk, how long it is worth keeping, and
//! what goes first.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::{ops::RangeInclusive, str::FromStr};

use super::{Desired, Impossible, Origin, Refusal, Setting, check_range, one_of, parsed};
use crate::{identity::Class, retention::WhenFull};

/// Size of one class's log in MiB.
pub const CLASS_CAP_MIB: RangeInclusive<u32> = 1..=65_536;
/// Hours after which a record is not worth sending any more; 0: never. At most ten
/// years.
pub const TTL_H: RangeInclusive<u32> = 0..=87_600;

/// Values of one class as they stand in a document.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each field is documented in proto/purlin/v1/desired.proto")]
pub struct ClassDraft {
    pub cap_mib: Option<u32>,
    pub when_full: Option<String>,
    pub ttl_h: Option<u32>,
}

/// The same, each possible.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassWanted {
    cap_mib: Option<u32>,
    when_full: Option<WhenFull>,
    ttl_h: Option<u32>,
}

/// What holds for one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSettings {
    /// Size of its log in MiB.
    pub cap_mib: Setting<u32>,
    /// What goes first.
    pub when_full: Setting<WhenFull>,
    /// Hours after which a record is not worth sending; 0: never.
    pub ttl_h: Setting<u32>,
}

impl FromStr for WhenFull {
    type Err = Impossible;
    fn from_str(text: &str) -> Result<Self, Impossible> {
        WhenFull::ALL.into_iter().find(|it| it.name() == text).ok_or_else(|| Impossible {
            limit: one_of(&WhenFull::ALL.map(WhenFull::name)),
            hint: "what is thinned is samples: downsample is for metric".into(),
        })
    }
}

/// Checks what a document says of the classes.
pub fn check(
    drafts: &BTreeMap<String, ClassDraft>,
    refusals: &mut Vec<Refusal>,
) -> BTreeMap<Class, ClassWanted> {
    let mut checked = BTreeMap::new();
    for (name, draft) in drafts {
        let path = format!("spool.class.{name}");
        let Some(class) = Class::ALL.into_iter().find(|class| class.name() == name) else {
            refusals.push(Refusal {
                path,
                value: name.clone(),
                limit: one_of(&Class::ALL.map(Class::name)),
                hint: "name one of the classes, or leave this table out".into(),
            });
            continue;
        };
        let number = |field: &str, value: Option<u32>, range, refusals: &mut Vec<Refusal>| {
            let path = format!("{path}.{field}");
            value.filter(|&value| check_range(&path, value, &range, refusals))
        };
        let wanted = ClassWanted {
            cap_mib: number("cap_mib", draft.cap_mib, CLASS_CAP_MIB, refusals),
            ttl_h: number("ttl_h", draft.ttl_h, TTL_H, refusals),
            when_full: parsed(&format!("{path}.when_full"), &draft.when_full, refusals),
        };
        checked.insert(class, wanted);
    }
    checked
}

/// What holds for a class. Metrics have the whole cap, and the others rooms of
/// their own beside it.
pub(super) fn resolve(desired: &Desired, class: Class, cap_mib: &Setting<u32>) -> ClassSettings {
    let own = desired.spool_class.get(&class).copied().unwrap_or_default();
    let (share, when_full) = match class {
        Class::Alarm => (16, WhenFull::DropOldest),
        Class::Event => (8, WhenFull::DropOldest),
        Class::Metric => (1, WhenFull::Downsample),
        Class::Log => (4, WhenFull::DropOldest),
        // What is brought is refused when there is no room, and can be brought again.
        Class::Relay => (1, WhenFull::DropNewest),
    };
    let share = Setting { value: (cap_mib.value / share).max(1), origin: cap_mib.origin.clone() };
    ClassSettings {
        cap_mib: own.cap_mib.map_or(share, |value| desired.setting(Some(value), None, value)),
        when_full: desired.setting(own.when_full, None, when_full),
        ttl_h: desired.setting(own.ttl_h, None, 0),
    }
}

/// One class's settings as (path, value, origin).
pub(super) fn rows(class: Class, settings: &ClassSettings) -> [(String, String, &Origin); 3] {
    let path = |field: &str| format!("spool.class.{}.{field}", class.name());
    let ClassSettings { cap_mib, when_full, ttl_h } = settings;
    [
        (path("cap_mib"), cap_mib.value.to_string(), &cap_mib.origin),
        (path("when_full"), when_full.value.name().into(), &when_full.origin),
        (path("ttl_h"), ttl_h.value.to_string(), &ttl_h.origin),
    ]
}
