//! The last requests, while somebody looks at them, and the access log. Where nobody does,
//! a request costs one look at a word.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use purlin_proto::mesh as view;

/// Requests that are kept: some seconds of a busy node for whoever asks twice a second.
const MOST: usize = 4096;
/// After the last look, what comes is not kept any more.
const LOOKED_AT_FOR: Duration = Duration::from_secs(5);

/// What all workers write to.
#[derive(Debug)]
pub struct Tap {
    started: Instant,
    /// Milliseconds since the start until which requests are kept.
    until: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    requests: VecDeque<view::Tapped>,
    last: u64,
}

impl Tap {
    /// Nobody looks.
    pub fn new(started: Instant) -> Self {
        Self { started, until: AtomicU64::new(0), kept: Mutex::default() }
    }

    /// Whether somebody looks.
    pub fn is_on(&self) -> bool {
        let until = self.until.load(Relaxed);
        until > 0 && self.now_ms() < until
    }

    /// Takes note of a request; its number and time are given here.
    pub fn note(&self, mut tapped: view::Tapped) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        tapped.unix_ms = now.as_millis() as u64;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        tapped.number = kept.last;
        if kept.requests.len() == MOST {
            kept.requests.pop_front();
        }
        kept.requests.push_back(tapped);
    }

    /// Those after one; more are kept from now on.
    pub fn after(&self, number: Option<u64>) -> view::Taps {
        let until = self.now_ms() + LOOKED_AT_FOR.as_millis() as u64;
        let was_on = self.is_on();
        self.until.store(until, Relaxed);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !was_on {
            kept.requests.clear();
        }
        let number = number.unwrap_or(kept.last);
        let requests = kept.requests.iter().filter(|it| it.number > number).cloned().collect();
        view::Taps { last: kept.last, requests }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_while_somebody_looks_is_kept_and_of_that_the_last() {
        let tap = Tap::new(Instant::now());
        assert!(!tap.is_on());
        let first = tap.after(None);
        assert!(tap.is_on() && first.requests.is_empty());
        for _ in 0..MOST + 10 {
            tap.note(view::Tapped::default());
        }
        let all = tap.after(Some(first.last));
        assert_eq!((all.requests.len(), all.last), (MOST, MOST as u64 + 10));
        assert_eq!(all.requests[0].number, 11);
        assert!(tap.after(Some(all.last)).requests.is_empty());
    }
}
