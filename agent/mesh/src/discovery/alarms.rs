//! What a node says of its alarms, beside the gossip: a few, with how bad each is and for
//! how long it has been. A mesh whose agent is silent says nothing of them, which is
//! something else than that there are none.
//!
//! ```text
//! how many      u8    255: nothing is said
//! each:
//!   how bad     u8    0 info, 1 warning, 2 critical
//!   how long    u32   seconds since it was raised
//!   length      u8    then so many bytes of its id
//! ```

use std::time::{Duration, Instant};

use purlin_core::{alarm::rule::Severity, power::elsewhere::MAX_TOLD};
use purlin_proto::mesh as view;

/// An id is a level of a topic.
const MAX_ID: usize = 64;
/// The most that it takes of a datagram.
pub const MAX_BYTES: usize = 1 + MAX_TOLD * (1 + 4 + 1 + MAX_ID);
/// Nothing is said.
const SILENT: u8 = u8::MAX;
/// For the agent to say it again.
const LEASE: Duration = Duration::from_secs(30);

/// An alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    id: String,
    severity: Severity,
    age_s: u32,
}

/// What is raised; `None` if that isn't said.
pub type Said = Option<Vec<Raised>>;

impl Raised {
    /// As the agent says it; the error names what can't be.
    pub fn checked(all: Vec<view::Alarm>) -> Result<Vec<Self>, String> {
        if all.len() > MAX_TOLD {
            return Err(format!("{} alarms; at most {MAX_TOLD}", all.len()));
        }
        let checked = |it: view::Alarm| {
            let severity = Severity::ALL.into_iter().find(|word| word.name() == it.severity);
            match severity.filter(|_| is_id(it.id.as_bytes())) {
                Some(severity) => Ok(Self { id: it.id, severity, age_s: it.age_s }),
                None => Err(format!("{:?} of {:?} is no alarm", it.severity, it.id)),
            }
        };
        all.into_iter().map(checked).collect()
    }

    /// For the agent.
    pub fn view(&self) -> view::Alarm {
        let severity = self.severity.name().into();
        view::Alarm { id: self.id.clone(), severity, age_s: self.age_s }
    }
}

fn is_id(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'/';
    (1..=MAX_ID).contains(&id.len()) && id.iter().all(is_plain)
}

/// Writes what is said.
pub fn put(bytes: &mut Vec<u8>, said: &Said) {
    let Some(said) = said else { return bytes.push(SILENT) };
    bytes.push(said.len() as u8);
    for it in said {
        bytes.push(it.severity as u8);
        bytes.extend(it.age_s.to_be_bytes());
        bytes.push(it.id.len() as u8);
        bytes.extend(it.id.as_bytes());
    }
}

/// Reads it, and what comes after.
pub fn take(bytes: &[u8]) -> Option<(Said, &[u8])> {
    let (count, mut rest) = bytes.split_first()?;
    if *count == SILENT {
        return Some((None, rest));
    }
    let mut all = Vec::new();
    for _ in 0..usize::from(*count).min(MAX_TOLD + 1) {
        let ([severity, age @ .., length], after) = rest.split_first_chunk::<6>()?;
        let (id, after) = after.split_at_checked(usize::from(*length))?;
        let id = str::from_utf8(id).ok().filter(|it| is_id(it.as_bytes()))?.to_owned();
        let severity = *Severity::ALL.get(usize::from(*severity))?;
        all.push(Raised { id, severity, age_s: u32::from_be_bytes(*age) });
        rest = after;
    }
    (all.len() <= MAX_TOLD).then_some((Some(all), rest))
}

/// What the agent of this node said last.
#[derive(Debug, Default)]
pub struct Own(Option<(Vec<Raised>, Instant)>);

impl Own {
    /// It says this.
    pub fn say(&mut self, alarms: Vec<Raised>) {
        self.0 = Some((alarms, Instant::now()));
    }

    /// What is said to others now.
    pub fn said(&self) -> Said {
        self.0.as_ref().filter(|(_, at)| at.elapsed() < LEASE).map(|(all, _)| all.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(id: &str) -> view::Alarm {
        view::Alarm { id: id.into(), severity: "critical".into(), age_s: 70 }
    }

    #[test]
    fn what_is_said_is_heard_whole_or_not_at_all() {
        let all = ["flag.a.on_battery", "x"].map(alarm).to_vec();
        for said in [None, Some(vec![]), Some(Raised::checked(all).expect("alarms"))] {
            let mut bytes = Vec::new();
            put(&mut bytes, &said);
            assert!(bytes.len() <= MAX_BYTES);
            for cut in 0..bytes.len() {
                assert_eq!(take(&bytes[..cut]), None, "cut at {cut}");
            }
            bytes.extend(b"rest");
            assert_eq!(take(&bytes), Some((said, &b"rest"[..])));
        }
        assert_eq!(take(&[9; 700]), None, "more than there may be");
    }

    #[test]
    fn an_agent_says_no_more_and_no_other_than_fits() {
        let most = vec![alarm(&"x".repeat(64)); MAX_TOLD];
        let mut bytes = Vec::new();
        put(&mut bytes, &Raised::checked(most.clone()).ok());
        assert_eq!(bytes.len(), MAX_BYTES);
        let more = [most.clone(), most].concat();
        for bad in [more, vec![alarm("")], vec![alarm("a/b")], vec![alarm(&"x".repeat(65))]] {
            assert!(Raised::checked(bad).is_err());
        }
        let odd = view::Alarm { severity: "bad".into(), ..alarm("a") };
        assert!(Raised::checked(vec![odd]).is_err());
    }
}
