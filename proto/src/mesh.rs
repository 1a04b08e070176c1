//! The JSON of the mesh's own socket, version 1; the same rules hold as for [`crate::api`].

use serde::{Deserialize, Serialize};

/// `GET /v1/status`, and the answer to `PUT /v1/table`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the mesh.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Which document the table in force is from; 0: none yet.
    pub generation: u64,
    /// Of the agent that the table is from.
    pub incarnation: u64,
    /// Threads that carry traffic.
    pub workers: usize,
    /// Whether connections are only ended, and none accepted.
    pub draining: bool,
    /// Where connections are accepted.
    pub listeners: Vec<Listener>,
    /// What is wrong now. Empty when all is well.
    pub problems: Vec<String>,
    /// Nodes whose certificates are out of their time and that are let in all the same, within
    /// `mesh.certificate_grace_days`: a line each.
    #[serde(default)]
    pub lapsed: Vec<String>,
    /// This node's brokers, HOST:PORT, that other nodes' agents may be passed on to.
    #[serde(default)]
    pub brokers: Vec<String>,
    /// Containers of this node that rules may tell apart.
    #[serde(default)]
    pub workloads: usize,
    /// Connections of other nodes' agents that are passed on now.
    #[serde(default)]
    pub relays: u32,
    /// Who this node is in its rack; absent without a certificate.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// What was counted since the start.
    pub counts: Counts,
}

/// Who a node is in its rack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Its name.
    pub id: String,
    /// When its certificate ends, in seconds since 1970.
    pub expires_unix_s: u64,
    /// When it is renewed.
    pub renew_unix_s: u64,
    /// Whether it renews those of others.
    pub issuer: bool,
    /// Number of the list of revocations in force; 0: none.
    pub revocations: u64,
}

/// A listener in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listener {
    /// Name.
    pub name: String,
    /// Address.
    pub address: String,
    /// http, tcp, tls, tunnel, udp or dns.
    pub protocol: String,
    /// Who is outside, for an ingress.
    pub zone: Option<String>,
    /// Whether connections are accepted.
    pub listening: bool,
}

/// What all workers counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Connections accepted, and sessions of UDP begun.
    pub connections: u64,
    /// Those of them that are open now.
    pub open: u64,
    /// Of those, parked: idle, without a buffer.
    pub parked: u64,
    /// HTTP requests.
    pub requests: u64,
    /// Answers by the first digit of their status, from 1xx to 5xx.
    pub answers: [u64; 5],
    /// Requests refused before they were parsed, by why.
    pub violations: std::collections::BTreeMap<String, u64>,
    /// Connections closed for being too slow.
    pub slow: u64,
    /// Requests and connections that no route matched.
    pub unmatched: u64,
    /// Requests and connections that an open circuit breaker refused.
    pub broken: u64,
    /// Requests over a rate limit.
    pub limited: u64,
    /// Attempts on another endpoint after one failed.
    pub retries: u64,
    /// Tunnels of other nodes that were refused, by why.
    #[serde(default)]
    pub tunnels_refused: std::collections::BTreeMap<String, u64>,
    /// Connections of this node's workloads that somebody asked about, by how it was found
    /// which.
    #[serde(default)]
    pub workloads: std::collections::BTreeMap<String, u64>,
    /// Requests, connections and streams of a tunnel that no rule allowed.
    #[serde(default)]
    pub denied: u64,
    /// Requests without the token that a rule asks for, by why.
    #[serde(default)]
    pub tokens_refused: std::collections::BTreeMap<String, u64>,
    /// Datagrams from clients, and to them.
    #[serde(default)]
    pub datagrams: [u64; 2],
    /// Datagrams of clients and endpoints that went nowhere, by why.
    #[serde(default)]
    pub datagrams_lost: std::collections::BTreeMap<String, u64>,
    /// Queries for names, by what came of them.
    #[serde(default)]
    pub names: std::collections::BTreeMap<String, u64>,
    /// Clients of UDP that were forgotten for others' sake.
    #[serde(default)]
    pub displaced: u64,
    /// Connections of other nodes' agents that were passed on to a broker.
    #[serde(default)]
    pub relayed: u64,
    /// Datagrams of gossip that were refused, by why.
    #[serde(default)]
    pub gossip_refused: std::collections::BTreeMap<String, u64>,
    /// Service records of nodes that were refused, by why.
    #[serde(default)]
    pub records_refused: std::collections::BTreeMap<String, u64>,
}

/// `GET /v1/routes`: in the order in which requests are held against them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Routes {
    /// One line a match.
    pub routes: Vec<Route>,
}

/// One match of a route.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Route {
    /// Name of the route.
    pub route: String,
    /// Which of its rules, from 0.
    pub rule: usize,
    /// Names of its listeners.
    pub listeners: Vec<String>,
    /// Host names; empty: any.
    pub hostnames: Vec<String>,
    /// What a request must be like.
    pub matches: String,
    /// Where it goes.
    pub to: String,
}

/// `GET /v1/peers`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peers {
    /// One line a node.
    pub peers: Vec<Peer>,
}

/// A node of the rack as this one knows it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Peer {
    /// Its node id.
    pub node: String,
    /// Of its tunnel.
    pub address: String,
    /// Whether it is there.
    pub state: PeerState,
    /// For how long, in milliseconds.
    pub since_ms: Option<u64>,
    /// How far its clock is ahead of this node's, in seconds.
    pub clock_off_s: Option<i64>,
}

/// `POST /v1/alarms`: what is raised on this node, for the rack to hear. To be said again
/// every few seconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Alarms {
    /// At most eight.
    pub alarms: Vec<Alarm>,
}

/// An alarm, as the rack hears of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Its id on its node.
    pub id: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// Seconds since it was raised.
    pub age_s: u32,
}

/// The answer: what the other nodes said of theirs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Heard {
    /// Those that say anything.
    pub nodes: Vec<HeardNode>,
}

/// What another node said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HeardNode {
    /// Its node id.
    pub node: String,
    /// How long ago, in milliseconds.
    pub ago_ms: u64,
    /// All that is raised on it; at most eight are told.
    pub alarms: Vec<Alarm>,
}

/// Whether a node of the rack is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// Nothing was heard of it.
    #[default]
    Unknown,
    /// It is there, by gossip.
    Up,
    /// It is not.
    Down,
    /// It is this one.
    Own,
}

/// `GET /v1/tap`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Taps {
    /// Number of the last request; to be asked for those after it.
    pub last: u64,
    /// Requests, oldest first.
    pub requests: Vec<Tapped>,
}

/// A request that went through.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tapped {
    /// Grows.
    pub number: u64,
    /// When its answer began, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Who asked: an address, or through a tunnel a name.
    pub client: String,
    /// Which workload of this node that is, where it made a difference.
    #[serde(default)]
    pub workload: Option<String>,
    /// Method.
    pub method: String,
    /// Host as it was asked for.
    pub host: String,
    /// Path, without its query.
    pub path: String,
    /// Status of the answer.
    pub status: u16,
    /// The endpoint that answered; absent where the mesh did.
    pub endpoint: Option<String>,
    /// Milliseconds to the head of the answer.
    pub ms: f32,
    /// Trace id of its `traceparent` (W3C Trace Context), where it has one.
    pub trace: Option<String>,
}

/// `POST /v1/drain`, `POST /v1/break` and `POST /v1/step-back`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetAside {
    /// An endpoint as `GET /v1/endpoints` names it, a service, or a route.
    pub name: String,
    /// Takes it back.
    pub undo: bool,
}

/// `GET /v1/endpoints`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoints {
    /// One line an endpoint.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint as the mesh sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name of its service.
    pub service: String,
    /// Address.
    pub address: String,
    /// Share.
    pub weight: u32,
    /// Requests and connections under way.
    pub active: u32,
    /// Peak-EWMA of the time to an answer, in milliseconds; absent before the first.
    pub latency_ms: Option<f32>,
    /// Requests and connections since the start.
    pub requests: u64,
    /// Those that failed for its sake.
    pub failures: u64,
    /// Whether it failed so often in a row that it is left out for a while.
    pub ejected: bool,
    /// Where it comes from: `document`, `container NAME`, `by hand`, or `record of NODE: …`.
    #[serde(default)]
    pub origin: String,
    /// How far it is: node, rack or remote.
    #[serde(default)]
    pub locality: String,
    /// Whether it is well by its checks; absent where it is not checked.
    #[serde(default)]
    pub healthy: Option<bool>,
    /// Whether it was drained by hand.
    #[serde(default)]
    pub drained: bool,
    /// Whether its node is down, by gossip.
    #[serde(default)]
    pub away: bool,
    /// Why its last check failed.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// `PUT /v1/offers` has a list of these, which is all that this node's containers serve;
/// `POST /v1/offers` has one, which is offered by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferAsked {
    /// The service's name.
    pub service: String,
    /// IP:PORT, on this node.
    pub address: String,
    /// Share relative to the others, 1 to 1000; 100 if it is left out.
    #[serde(default)]
    pub weight: Option<u32>,
    /// Where it comes from, for people; `by hand` if it is left out.
    #[serde(default)]
    pub source: Option<String>,
    /// Takes it back.
    #[serde(default)]
    pub undo: bool,
}

/// `PUT /v1/workloads`: all of the node's containers
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadTold {
    /// `workload/NAMESPACE/NAME` or `container/NAME`.
    pub name: String,
    /// Its cgroup, below the mount.
    pub cgroup: String,
    /// IP addresses that it has for itself, or with others of its pod.
    pub addresses: Vec<String>,
}

/// `GET /v1/offers`, and the answer to the others
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Offers {
    /// One line an endpoint.
    pub offers: Vec<Offered>,
}

/// An endpoint that a node offers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Offered {
    /// The node; empty for this one while it is in no rack.
    pub node: String,
    /// The service's name.
    pub service: String,
    /// As the node has it.
    pub address: String,
    /// Share relative to the others.
    pub weight: u32,
    /// Where the node has it from.
    pub source: String,
    /// Why it is not used here; absent if it is.
    pub unused: Option<String>,
}

/// `POST /v1/upgrade`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upgraded {
    /// The process that drains now.
    pub from: u32,
    /// The process that serves now.
    pub to: u32,
    /// Connections that the old one had.
    pub open: u64,
}

/// `POST /v1/why`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WhyAsked {
    /// The listener; left out where there is only one for HTTP.
    pub listener: Option<String>,
    /// Method.
    pub method: String,
    /// Host.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Which workload of this node asks, as rules name it; left out: nobody knows.
    #[serde(default)]
    pub workload: Option<String>,
}

/// Which route and endpoint a request would take, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Why {
    /// The listener that was looked at.
    pub listener: String,
    /// What was passed over, in order.
    pub passed_over: Vec<Passed>,
    /// Route and rule that match.
    pub route: Option<(String, usize)>,
    /// What becomes of the request, in a sentence.
    pub outcome: String,
    /// The endpoints it could go to now, cheapest first.
    pub endpoints: Vec<Endpoint>,
}

/// A rule that was passed over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Passed {
    /// Name of the route.
    pub route: String,
    /// Which of its rules, from 0.
    pub rule: usize,
    /// What of the request is not as it wants it.
    pub because: String,
}
