//! The embedded MQTT broker that stands in for the core in standalone mode, on
//! loopback. It keeps nothing over a restart: for trying out and for showing.

use std::{collections::HashMap, io, net::TcpListener, thread};

use purlin_core::settings::Endpoint;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

/// Clients at once: the agent, its link test, and whoever looks on.
const MAX_CONNECTIONS: usize = 32;
/// Matches what the agent announces as its own limit.
const MAX_PACKET_BYTES: usize = 1 << 20;
const CONNECT_DEADLINE_MS: u16 = 5000;
/// What the broker keeps for those who subscribe late: 10 segments of 1 MiB.
const SEGMENT_BYTES: usize = 1 << 20;
const SEGMENTS: usize = 10;

/// Starts the broker on `port` of 127.0.0.1, or on a free one if it is taken.
/// It ends with the process.
pub fn start(port: u16, username: &str, password: &str) -> io::Result<Endpoint> {
    let free =
        TcpListener::bind(("127.0.0.1", port)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
    let listen = free.local_addr()?;
    drop(free);
    let server = ServerSettings {
        name: "standalone".into(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: CONNECT_DEADLINE_MS,
            max_payload_size: MAX_PACKET_BYTES,
            max_inflight_count: 100,
            auth: Some(HashMap::from([(username.into(), password.into())])),
            external_auth: None,
            dynamic_filters: true,
        },
    };
    let config = Config {
        router: RouterConfig {
            max_connections: MAX_CONNECTIONS,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        },
        v5: Some(HashMap::from([("standalone".into(), server)])),
        ..Config::default()
    };
    thread::Builder::new().name("broker".into()).spawn(move || {
        if let Err(error) = Broker::new(config).start() {
            tracing::error!(%error, "the embedded broker ended: telemetry stays in the spool");
        }
    })?;
    Ok(Endpoint { tls: false, host: listen.ip().to_string(), port: listen.port() })
}
