//! Listeners, services and routes, each value checked by itself. Names follow the
//! Gateway API's HTTPRoute, GRPCRoute, TCPRoute, TLSRoute and UDPRoute.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use super::{
    authorize::Allow, canary::StepBack, health::Check, host::Hostname, intercept::Intercept,
    jwt::Jwt, locality::Tier, outlier::Ejection, path::PathMatch, spill::Spill,
};
use crate::settings::{Impossible, one_of};

/// An enum whose values have names in documents.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// The name used in documents.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl FromStr for $name {
            type Err = Impossible;
            fn from_str(text: &str) -> Result<Self, Impossible> {
                match text {
                    $($text => Ok($name::$variant),)+
                    _ => Err(Impossible {
                        limit: one_of(&[$($text),+]),
                        hint: "choose one, or leave it out".into(),
                    }),
                }
            }
        }
    };
}

named! {
    /// What a listener expects of a connection.
    Protocol {
        /// HTTP/1.1 or HTTP/2 without TLS.
        #[default]
        Http = "http",
        /// Bytes.
        Tcp = "tcp",
        /// TLS that is not ended here; its server name is read.
        Tls = "tls",
        /// Other nodes of the rack, that reach this one's endpoints.
        Tunnel = "tunnel",
        /// Datagrams.
        Udp = "udp",
        /// Queries for names of services.
        Dns = "dns",
    }
}

/// What carries an address's traffic: the same address may be had once in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

impl Protocol {
    /// Where it is listened for.
    pub fn transports(self) -> &'static [Transport] {
        match self {
            Protocol::Http | Protocol::Tcp | Protocol::Tls | Protocol::Tunnel => {
                &[Transport::Stream]
            }
            Protocol::Udp => &[Transport::Datagram],
            Protocol::Dns => &[Transport::Stream, Transport::Datagram],
        }
    }

    /// What else has its address: gossip is told at the tunnel's.
    pub fn takes(self) -> &'static [Transport] {
        match self {
            Protocol::Tunnel => &[Transport::Stream, Transport::Datagram],
            _ => self.transports(),
        }
    }
}

named! {
    /// How the kernel hands over connections that go elsewhere.
    Mode {
        /// By changing where they go; it remembers where that was.
        #[default]
        Redirect = "redirect",
        /// As they are.
        Tproxy = "tproxy",
    }
}

named! {
    /// What an endpoint is spoken to in.
    AppProtocol {
        /// HTTP/1.1.
        #[default]
        Http = "http",
        /// HTTP/2 without TLS.
        H2c = "h2c",
        /// Bytes.
        Tcp = "tcp",
        /// Datagrams.
        Udp = "udp",
    }
}

named! {
    /// What a route is made for.
    Kind {
        /// HTTP requests.
        #[default]
        Http = "http",
        /// gRPC calls.
        Grpc = "grpc",
        /// TCP connections.
        Tcp = "tcp",
        /// TLS connections, by server name.
        Tls = "tls",
        /// UDP sessions.
        Udp = "udp",
    }
}

named! {
    /// How one of the endpoints is chosen.
    Policy {
        /// The better of two by peak-EWMA latency times requests under way.
        #[default]
        P2c = "p2c",
        /// The one of two with fewer requests under way.
        LeastRequest = "least_request",
        /// In turn, smoothly by weight.
        RoundRobin = "round_robin",
        /// At random by weight.
        Random = "random",
        /// By a hash of the request, with even shares.
        Maglev = "maglev",
        /// By a hash of the request, moving the least on a change.
        RingHash = "ring_hash",
    }
}

impl Kind {
    /// Whether it looks at nothing that is passed on.
    pub fn is_for_bytes(self) -> bool {
        matches!(self, Kind::Tcp | Kind::Tls | Kind::Udp)
    }
}

/// An address that connections are accepted at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Unique among listeners.
    pub name: String,
    /// Address of this node.
    pub address: SocketAddr,
    /// What comes in.
    pub protocol: Protocol,
    /// Who is outside; `None` for an egress, which serves local workloads.
    pub zone: Option<String>,
    /// Whether connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Which connections it takes that go elsewhere.
    pub intercept: Option<Intercept>,
}

/// Endpoints that all do the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique among services.
    pub name: String,
    /// Where it runs.
    pub endpoints: Vec<Endpoint>,
    /// What the endpoints are spoken to in.
    pub protocol: AppProtocol,
    /// Version of the PROXY protocol header sent first.
    pub send_proxy_protocol: Option<u8>,
    /// How an endpoint is chosen.
    pub policy: Policy,
    /// What is hashed, where it is chosen by a hash.
    pub hash_on: HashOn,
    /// When an endpoint is left out for a while.
    pub ejection: Ejection,
    /// Requests and connections under way on the whole node.
    pub max_requests: u32,
    /// How long a stage may take.
    pub timeouts: Timeouts,
    /// How endpoints are asked whether they are well.
    pub check: Option<Check>,
    /// What keeps a client with an endpoint.
    pub affinity: Option<Affinity>,
    /// Statuses for which another endpoint is tried.
    pub retry_on: Vec<u16>,
    /// Requests under way at an endpoint after which those further away are used too.
    pub spill_over: u32,
    /// Where its requests go when the rack is full.
    pub spill: Option<Spill>,
    /// Who may reach its endpoints through the tunnel.
    pub allow: Vec<Allow>,
    /// Nodes that may add endpoints of their own, with `*` for anything.
    pub endpoints_from: Vec<String>,
    /// Addresses that stand for it and are nobody's.
    pub virtual_addresses: Vec<IpAddr>,
}

/// A cookie that names an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Its name.
    pub cookie: String,
    /// Seconds that it is kept; `None`: until the browser ends.
    pub max_age_s: Option<u32>,
}

/// What of a request decides where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashOn {
    /// The client's address.
    #[default]
    SourceIp,
    /// The client's address and port.
    Source,
    /// The path.
    Path,
    /// The path, and the query.
    Url,
    /// What the client speaks, a version of HTTP or bare bytes.
    Protocol,
    /// A header, by its name in lower case.
    Header(String),
    /// A cookie.
    Cookie(String),
}

impl FromStr for HashOn {
    type Err = Impossible;
    fn from_str(text: &str) -> Result<Self, Impossible> {
        match (text, text.split_once(':')) {
            ("source_ip", _) => Ok(HashOn::SourceIp),
            ("source", _) => Ok(HashOn::Source),
            ("path", _) => Ok(HashOn::Path),
            ("url", _) => Ok(HashOn::Url),
            ("protocol", _) => Ok(HashOn::Protocol),
            (_, Some(("header", name))) if !name.is_empty() => {
                Ok(HashOn::Header(name.to_ascii_lowercase()))
            }
            (_, Some(("cookie", name))) if !name.is_empty() => Ok(HashOn::Cookie(name.into())),
            _ => Err(Impossible {
                limit: "source_ip, source, path, url, protocol, header:NAME or cookie:NAME".into(),
                hint: "choose one, or leave it out".into(),
            }),
        }
    }
}

/// One of a service's places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Share relative to the others.
    pub weight: u32,
    /// How far it is, if it says so itself.
    pub tier: Option<Tier>,
    /// The NUMA node that it runs on.
    pub numa_node: Option<u32>,
    /// The node of the rack that it is on, where it says so.
    pub node: Option<String>,
    /// Where its node has it from, if it was offered; `None`: the document has it.
    pub source: Option<String>,
}

impl Endpoint {
    /// What it is known by: the same on every node.
    pub fn key(&self) -> String {
        match &self.node {
            Some(node) => format!("{node}/{}", self.address),
            None => self.address.to_string(),
        }
    }
}

/// A node of the rack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub node: String,
    /// Of its tunnel.
    pub address: SocketAddr,
}

/// How long a stage may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect to an endpoint.
    pub connect: Duration,
    /// From the request to the head of the answer.
    pub request: Duration,
    /// Without a byte either way, where bytes are passed through.
    pub idle: Duration,
}

/// Which requests, or connections, go where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Unique among routes.
    pub name: String,
    /// What it is made for.
    pub kind: Kind,
    /// Names of its listeners.
    pub listeners: Vec<String>,
    /// Zones it is exposed to.
    pub zones: Vec<String>,
    /// Names it answers to; none: any.
    pub hostnames: Vec<Hostname>,
    /// Tried in the Gateway API's order of precedence.
    pub rules: Vec<Rule>,
}

/// What is done with what matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// One must match; never empty once checked.
    pub matches: Vec<Match>,
    /// Answered with another address, and goes to no backend.
    pub redirect: Option<Redirect>,
    /// Asked for under another address.
    pub rewrite: Option<Rewrite>,
    /// Changes to the request's headers.
    pub request_headers: HeaderEdit,
    /// Changes to the answer's headers.
    pub response_headers: HeaderEdit,
    /// Requests a second, and how many more at once; on the whole node.
    pub rate_limit: Option<(u32, u32)>,
    /// Where it goes, by weight.
    pub backends: Vec<Backend>,
    /// When one of these gets nothing any more.
    pub step_back: Option<StepBack>,
    /// The token that a request must have.
    pub jwt: Option<Jwt>,
}

/// What a request must be like. All that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Its path.
    pub path: PathMatch,
    /// Its method.
    pub method: Option<String>,
    /// Its headers, names in lower case.
    pub headers: Vec<ValueMatch>,
    /// Its query parameters.
    pub query: Vec<ValueMatch>,
    /// Its cookies.
    pub cookies: Vec<ValueMatch>,
}

/// A named value that must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueMatch {
    /// Name.
    pub name: String,
    /// Exactly this; `None`: whatever it is.
    pub value: Option<String>,
}

/// An answer that names another address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is documented in proto/purlin/v1/mesh.proto")]
pub struct Redirect {
    pub scheme: Option<String>,
    pub hostname: Option<String>,
    pub port: Option<u16>,
    pub path: Option<PathEdit>,
    pub status: u16,
}

/// Another address for the same request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// In place of its host.
    pub hostname: Option<String>,
    /// In place of its path.
    pub path: Option<PathEdit>,
}

/// A change of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// In place of all of it.
    Full(String),
    /// In place of what a prefix match matched.
    Prefix(String),
}

/// Changes to headers: removed, then set, then added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    /// In place of what is there.
    pub set: Vec<(String, String)>,
    /// Beside what is there.
    pub add: Vec<(String, String)>,
    /// Taken away.
    pub remove: Vec<String>,
}

/// A service and its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Name of the service.
    pub service: String,
    /// Where it stands in the table, once that is checked.
    pub index: usize,
    /// Share relative to the rule's other backends.
    pub weight: u32,
}
