//! Waiting, never without a deadline.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::Result;

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(50);

/// Tries until `attempt` gives a value. Fails with what it said last when
/// `deadline` has passed.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut attempt: impl FnMut() -> std::result::Result<T, String>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(last) if started.elapsed() > deadline => {
                return Err(format!("{what}: not within {deadline:?}; last: {last}").into());
            }
            Err(_) => sleep(POLL),
        }
    }
}
