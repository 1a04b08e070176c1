//! Posts records as they come to an OpenTelemetry receiver on site.
//!
//! Nothing waits for it: what comes while it is slow or away is kept up to a bound, and
//! beyond it the oldest is dropped and counted. It is the core that nothing is lost for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prost::bytes::Bytes;
use purlin_core::{backoff::Backoff, metric::Point, settings::Webhook};
use purlin_proto::v1::record::Body;
use tokio::time;

use super::Names;
use crate::{
    http::{Poster, Refused},
    otlp::{self, LOGS_PATH, Logs, METRICS_PATH, Metrics, Whose},
    spool::{Heard, Spool},
    state,
};

/// What comes within it is posted together.
const GATHER: Duration = Duration::from_secs(1);
/// Values in one post: some 2 MiB.
const MOST_POINTS: usize = 20_000;
/// Log records in one post.
const MOST_LOGS: usize = 2_000;
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// What was posted, and what was not.
#[derive(Debug, Default)]
pub struct Counts {
    /// Values and log records that the receiver took.
    pub sent: AtomicU64,
    /// Records that came faster than they could be posted, or while it was away.
    pub dropped: AtomicU64,
    /// Values and log records that it will never take.
    pub refused: AtomicU64,
    /// Posts that failed.
    pub failures: AtomicU64,
}

impl Counts {
    /// To be measured like all else.
    pub fn points(&self) -> [Point; 4] {
        let point = |name, unit, counter: &AtomicU64| {
            Point::counter(name, unit, counter.load(Relaxed) as f64)
        };
        [
            point("purlin.export.sent", "{item}", &self.sent),
            point("purlin.export.dropped", "{record}", &self.dropped),
            point("purlin.export.refused", "{item}", &self.refused),
            point("purlin.export.failures", "{post}", &self.failures),
        ]
    }
}

fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}

/// Posts until nothing is heard any more.
pub async fn run(to: Webhook, whose: Whose, spool: Spool, counts: Arc<Counts>) -> String {
    let mut poster = Poster::new(to);
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    let (mut heard, mut names) = (spool.listen(), Names::default());
    while let Some(first) = heard.next().await {
        time::sleep(GATHER).await;
        let (mut metrics, mut logs) = (Metrics::default(), Logs::default());
        let mut next = Some(first);
        while let Some(Heard { record, missed, .. }) = next {
            add(&counts.dropped, missed as usize);
            match &record.body {
                Some(Body::Sample(sample)) => match names.of(sample.dictionary, &spool).await {
                    Some(dictionary) => metrics.add(&whose, &dictionary, &record, sample),
                    None => add(&counts.dropped, 1),
                },
                _ => logs.add(&whose, None, &record),
            }
            let has_room = metrics.points() < MOST_POINTS && logs.records() < MOST_LOGS;
            next = has_room.then(|| heard.at_hand()).flatten();
        }
        for (path, count, body) in [
            (METRICS_PATH, metrics.points(), metrics.encode()),
            (LOGS_PATH, logs.records(), logs.encode()),
        ] {
            if count > 0 {
                let body = body.into();
                until_taken(&mut poster, path, count, body, &mut backoff, &counts).await;
            }
        }
    }
    "the spool is gone".into()
}

/// Posts until it is taken or refused for good; meanwhile what comes is kept and dropped
/// as the listener has it.
async fn until_taken(
    poster: &mut Poster,
    path: &str,
    count: usize,
    body: Bytes,
    backoff: &mut Backoff,
    counts: &Counts,
) {
    loop {
        match otlp::put(poster, &[], path, body.clone()).await {
            Ok(left_out) => {
                backoff.succeed();
                let refused = count.min(left_out as usize);
                add(&counts.refused, refused);
                return add(&counts.sent, count - refused);
            }
            Err(Refused::Never(why)) => {
                tracing::warn!(to = %poster.to(), count, why, "refused on site for good");
                return add(&counts.refused, count);
            }
            Err(Refused::Now(why, after)) => {
                add(&counts.failures, 1);
                let wait = backoff.fail(state::random_u64().unwrap_or_default());
                // It is asked for no longer than we would wait by ourselves.
                let wait = after.map_or(wait, |it| it.min(RETRY_MOST).max(wait));
                tracing::warn!(to = %poster.to(), why, retry_in = ?wait, "nothing is taken on site");
                time::sleep(wait).await;
            }
        }
    }
}
