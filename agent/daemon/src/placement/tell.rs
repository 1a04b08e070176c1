//! Events about placement, none of which comes twice in a while: a pod that is refused is
//! created again and again.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::spool::Spool;

/// The same is told again after this time.
const AGAIN: Duration = Duration::from_secs(600);
/// Events in that time, at most: more than a person reads, and no burden for an uplink.
const MOST: usize = 60;

/// Tells.
#[derive(Debug)]
pub struct Teller {
    spool: Spool,
    quiet: Quiet,
}

/// Says what is told.
#[derive(Debug, Default)]
struct Quiet {
    /// What was told, and when.
    told: BTreeMap<String, Instant>,
    times: VecDeque<Instant>,
    /// How many were not, since the last that was.
    left_out: u64,
}

impl Teller {
    /// Has told nothing yet.
    pub fn new(spool: Spool) -> Self {
        Self { spool, quiet: Quiet::default() }
    }

    /// Hands over an event. With a `key` it is the same as another of that key, and told
    /// once in a while; none is told that would be one too many, and the next says how many
    /// were left out.
    pub fn tell<const N: usize>(
        &mut self,
        name: &str,
        text: String,
        key: Option<&str>,
        attributes: [(&str, String); N],
    ) {
        let key = key.map(|key| format!("{name} {key}"));
        let Some(left_out) = self.quiet.admits(key, Instant::now()) else { return };
        let left_out = (left_out > 0).then(|| ("left_out", left_out.to_string()));
        let attributes = attributes.into_iter().chain(left_out);
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value));
        self.spool.event_with(name, text, attributes);
    }
}

impl Quiet {
    /// How many were left out before this one, if it is told.
    fn admits(&mut self, key: Option<String>, now: Instant) -> Option<u64> {
        self.told.retain(|_, at| now - *at < AGAIN);
        while self.times.front().is_some_and(|at| now - *at >= AGAIN) {
            self.times.pop_front();
        }
        if key.as_ref().is_some_and(|key| self.told.contains_key(key)) {
            return None;
        }
        if self.times.len() >= MOST {
            self.left_out += 1;
            return None;
        }
        self.told.extend(key.map(|key| (key, now)));
        self.times.push_back(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_in_a_while_and_all_together_are_bounded() {
        let (mut quiet, now) = (Quiet::default(), Instant::now());
        let key = || Some("db".to_owned());
        assert_eq!(quiet.admits(key(), now), Some(0));
        assert_eq!(quiet.admits(key(), now + AGAIN / 2), None, "the same");
        for _ in 1..MOST {
            assert_eq!(quiet.admits(None, now), Some(0));
        }
        assert_eq!(quiet.admits(None, now), None, "one too many");
        assert_eq!(quiet.admits(key(), now + AGAIN), Some(1), "and one was left out");
        assert_eq!(quiet.told.len(), 1);
    }
}
