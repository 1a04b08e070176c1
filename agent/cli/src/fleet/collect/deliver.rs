//! Hands loads on, one after the other, until each is taken or refused for good.

use std::time::Duration;

use purlin_core::backoff::Backoff;
use purlin_daemon::{clock, http::Refused};
use tokio::{sync::watch, time};

use super::{
    taken::Taken,
    to::{Far, Part},
};

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// What will never be taken, and why.
#[derive(Debug)]
pub struct Never {
    /// What.
    pub taken: Taken,
    /// Why.
    pub why: String,
}

/// What became of a load.
#[derive(Debug, Default)]
pub struct Delivered {
    /// What of it was refused for good.
    pub never: Vec<Never>,
    /// Values that the far side took the rest without.
    pub left_out: u64,
}

/// How the far side is: why it takes nothing, while it does not.
pub type Health = watch::Sender<Option<String>>;

/// Hands a load on. A load that is refused for good is tried by halves, so that one batch
/// that can't be taken holds up no other.
pub async fn deliver(far: &mut Far, load: &[Taken], health: &Health) -> Delivered {
    let mut delivered = Delivered::default();
    for part in far.parts() {
        // The first half is on top.
        let mut waiting = vec![load];
        while let Some(some) = waiting.pop() {
            match (put(far, *part, some, health).await, some) {
                (Ok(left_out), _) => delivered.left_out += left_out,
                (Err(why), [taken]) => {
                    delivered.never.push(Never { taken: taken.clone(), why });
                }
                (Err(_), more) => {
                    let (first, second) = more.split_at(more.len() / 2);
                    waiting.extend([second, first]);
                }
            }
        }
    }
    delivered
}

/// Hands on until it is taken; the error says why it never will be.
async fn put(far: &mut Far, part: Part, load: &[Taken], health: &Health) -> Result<u64, String> {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    loop {
        match far.put(part, load).await {
            Ok(left_out) => {
                health.send_replace(None);
                return Ok(left_out);
            }
            Err(Refused::Never(why)) => return Err(why),
            Err(Refused::Now(why, after)) => {
                let wait = backoff.fail(clock::unix_ms());
                health.send_replace(Some(why));
                // It is asked for no longer than we would wait by ourselves.
                time::sleep(after.map_or(wait, |it| it.min(RETRY_MOST).max(wait))).await;
            }
        }
    }
}
