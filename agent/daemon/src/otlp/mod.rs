//! OTLP, as it leaves: records become the metrics and logs of OpenTelemetry.
//!
//! A sample is a data point of each of its series: gauges, and sums that grow since the
//! node booted. Everything else is a log record: an event by its name, an alarm, a line
//! that a workload wrote, and a hole in a log. Who it is of stands in the resource, by
//! OpenTelemetry's semantic conventions where they have a name.

mod logs;
mod metrics;

pub use logs::Logs;
pub use metrics::Metrics;
use prost::{Message, bytes::Bytes};
use purlin_proto::otlp::{AnyValue, ExportResponse, KeyValue, Resource, Scope, any_value::Value};

use crate::http::{Poster, Refused};

/// Where metrics are posted to, below the receiver's address.
pub const METRICS_PATH: &str = "/v1/metrics";
/// Where logs are posted to.
pub const LOGS_PATH: &str = "/v1/logs";
/// What both are.
const CONTENT_TYPE: &str = "application/x-protobuf";

/// Posts one of the two requests. How many of its points or lines the receiver left out.
pub async fn put(
    poster: &mut Poster,
    headers: &[(&'static str, String)],
    path: &str,
    body: Bytes,
) -> Result<u64, Refused> {
    let path = format!("{}{path}", poster.to().path.trim_end_matches('/'));
    let answer = poster.put(&path, headers, CONTENT_TYPE, body).await?;
    let partial = ExportResponse::decode(answer.body).ok().and_then(|it| it.partial_success);
    Ok(partial.map_or(0, |it| it.rejected.max(0) as u64))
}

/// Whose records these are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Whose {
    /// The fleet.
    pub fleet: String,
    /// The node.
    pub node: String,
    /// Its incarnation.
    pub incarnation: u64,
    /// The node that published them for it, if another did.
    pub relay: Option<String>,
    /// The node's host name, where it is known.
    pub host_name: Option<String>,
}

impl Whose {
    fn resource(&self) -> Resource {
        let mut attributes = vec![
            text("service.name", "purlin"),
            text("service.instance.id", &self.node),
            text("host.id", &self.node),
            text("purlin.fleet", &self.fleet),
            text("purlin.node", &self.node),
            text("purlin.incarnation", &format!("{:016x}", self.incarnation)),
        ];
        attributes.extend(self.host_name.as_deref().map(|name| text("host.name", name)));
        Resource { attributes }
    }
}

/// What measured or wrote.
fn scope(name: &str) -> Scope {
    Scope { name: format!("purlin.{name}"), version: env!("CARGO_PKG_VERSION").into() }
}

fn string(value: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(value.into())) }
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: Some(string(value)) }
}

fn number(key: &str, value: u64) -> KeyValue {
    let value = AnyValue { value: Some(Value::IntValue(value as i64)) };
    KeyValue { key: key.into(), value: Some(value) }
}

/// Nanoseconds of milliseconds.
fn nanos(ms: u64) -> u64 {
    ms.saturating_mul(1_000_000)
}
