//! What the mesh measured, into the spool: its routes, its endpoints, what policy decided.

use std::{path::PathBuf, time::Duration};

use hyper::{Method, body::Bytes};
use purlin_core::metric::Point;
use purlin_proto::v1::record::Body;
use tokio::time::{self, MissedTickBehavior};

use super::ask::ask;
use crate::{sample::split, spool::Spool};

/// As often as the agent measures itself.
pub const EVERY: Duration = Duration::from_secs(60);
/// What an interval is at least, whoever tests it.
const LEAST: Duration = Duration::from_millis(1);
/// Values in one sample: their dictionary is some 30 KiB, half of what a record may be.
const AT_ONCE: usize = 256;

/// Measures it for ever. A mesh that isn't there says nothing, which its state tells.
pub async fn run(socket: PathBuf, every: Duration, spool: Spool) -> Result<(), String> {
    let mut ticks = time::interval(every.max(LEAST));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let asked = ask::<Vec<Point>>(&socket, Method::GET, "/v1/metrics", Bytes::new()).await;
        for some in asked.unwrap_or_default().chunks(AT_ONCE) {
            let (sample, dictionary) = split("mesh", some.to_vec());
            if spool.keep_dictionary(sample.dictionary, dictionary) {
                spool.append(Body::Sample(sample));
            }
        }
    }
}
