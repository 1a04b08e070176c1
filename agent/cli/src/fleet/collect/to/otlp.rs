//! OTLP over HTTP: metrics and logs, each with a request of its own.

use purlin_daemon::{
    http::{Poster, Refused},
    otlp::{self, LOGS_PATH, Logs, METRICS_PATH, Metrics},
};
use purlin_proto::v1::record::Body;

use super::{Header, Part};
use crate::fleet::collect::taken::{Taken, cause};

/// Posts a part of a load. How many points or lines the receiver left out.
pub async fn put(
    poster: &mut Poster,
    headers: &[Header],
    part: Part,
    load: &[Taken],
) -> Result<u64, Refused> {
    let (path, body) = match part {
        Part::Metrics => (METRICS_PATH, metrics(load)),
        _ => (LOGS_PATH, logs(load)),
    };
    let Some(body) = body else { return Ok(0) };
    otlp::put(poster, headers, path, body.into()).await
}

fn metrics(load: &[Taken]) -> Option<Vec<u8>> {
    let mut metrics = Metrics::default();
    for taken in load {
        for (_, record) in &taken.records {
            let Some(Body::Sample(sample)) = &record.body else { continue };
            if let Some(dictionary) = taken.dictionary(sample.dictionary) {
                metrics.add(&taken.whose, dictionary, record, sample);
            }
        }
    }
    (metrics.points() > 0).then(|| metrics.encode())
}

fn logs(load: &[Taken]) -> Option<Vec<u8>> {
    let mut logs = Logs::default();
    for taken in load {
        let (whose, class, at) = (&taken.whose, taken.class.name(), taken.came_unix_ms);
        for (seq, record) in &taken.records {
            logs.add(whose, Some((class, *seq)), record);
        }
        for gap in &taken.gaps {
            let range = (gap.first_seq, gap.last_seq);
            logs.add_hole(whose, class, range, gap.lost, &cause(gap), at);
        }
        for (first, last) in &taken.holes {
            logs.add_hole(whose, class, (*first, *last), last - first + 1, "unknown", at);
        }
    }
    (logs.records() > 0).then(|| logs.encode())
}
