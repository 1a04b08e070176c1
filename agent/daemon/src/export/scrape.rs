//! `GET /metrics`: the latest samples as OpenMetrics text.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use purlin_mesh::openmetrics::{self, Kind, Page};
use purlin_proto::v1::{Dictionary, Record, Sample, record::Body};
use tokio::{net::TcpListener, sync::Mutex};
use tokio_util::task::AbortOnDropHandle;

use super::Names;
use crate::{clock, otlp::Whose, serve::Connections, spool::Spool};

/// What was not heard for so long is not told of any more: it would be told as of now.
const FRESH_MS: u64 = 5 * 60_000;
/// Scrapers at once.
const MAX_CONNECTIONS: usize = 16;
/// Kept between two scrapes of the slowest scraper.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(300);

/// The latest sample of each dictionary.
type Latest = Arc<Mutex<HashMap<u64, Said>>>;

#[derive(Debug)]
struct Said {
    dictionary: Arc<Dictionary>,
    record: Record,
    sample: Sample,
}

impl Said {
    fn is_fresh(&self) -> bool {
        clock::boot_ms().saturating_sub(self.record.boot_ms) < FRESH_MS
    }
}

/// Serves until it fails, which is what is returned.
pub async fn serve(listener: TcpListener, whose: Whose, spool: Spool) -> String {
    let latest = Latest::default();
    let _hearing = AbortOnDropHandle::new(tokio::spawn(hear(spool, latest.clone())));
    let metrics = async move || {
        let text = page(&whose, &*latest.lock().await);
        ([(CONTENT_TYPE, openmetrics::CONTENT_TYPE)], text)
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .fallback(async || (StatusCode::NOT_FOUND, "GET /metrics\n").into_response());
    let mut connections = Connections::new(MAX_CONNECTIONS, CONNECTION_DEADLINE);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.serve(stream, router.clone()),
            Err(error) => return error.to_string(),
        }
    }
}

async fn hear(spool: Spool, latest: Latest) {
    let (mut heard, mut names) = (spool.listen(), Names::default());
    while let Some(it) = heard.next().await {
        let mut record = it.record;
        let Some(Body::Sample(sample)) = record.body.take() else { continue };
        let Some(dictionary) = names.of(sample.dictionary, &spool).await else { continue };
        let mut latest = latest.lock().await;
        latest.retain(|_, said| said.is_fresh());
        latest.insert(sample.dictionary, Said { dictionary, record, sample });
    }
}

fn page(whose: &Whose, latest: &HashMap<u64, Said>) -> String {
    let mut all: Vec<_> = latest.values().filter(|said| said.is_fresh()).collect();
    // Of one series that two dictionaries have, the later one holds.
    all.sort_by_key(|said| said.record.boot_ms);
    let mut page = Page::default();
    for Said { dictionary, sample, .. } in all {
        let gauges = dictionary.gauges.iter().map(|it| (it, Kind::Gauge));
        let series = gauges.chain(dictionary.counters.iter().map(|it| (it, Kind::Counter)));
        let values = sample.gauges.iter().chain(&sample.counters);
        for ((series, kind), value) in series.zip(values) {
            let labels = series.attributes.iter().map(|(key, it)| (&**key, &**it));
            page.add(kind, &series.name, &series.unit, labels, *value);
        }
    }
    page.text(&[
        ("fleet", &whose.fleet),
        ("incarnation", &format!("{:016x}", whose.incarnation)),
        ("node", &whose.node),
        ("version", env!("CARGO_PKG_VERSION")),
    ])
}
