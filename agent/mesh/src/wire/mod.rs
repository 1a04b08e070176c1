//! From `purlin.v1.Mesh` to the core's table: every value is read, and whatever is
//! wrong is told at once, with its place in the document.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use prost::Message;
use purlin_core::{
    mesh::{
        hashed::hash,
        host::{self, Hostname},
        model::{
            AppProtocol, Backend, Endpoint, HeaderEdit, Kind, Listener, Match, PathEdit, Redirect,
            Rewrite, Route, Rule, Service, Timeouts, ValueMatch,
        },
        outlier::Ejection,
        path::{self, PathMatch},
        table::Table,
    },
    settings::{Impossible, Refusal},
};
use purlin_proto::v1;

mod jwt;
mod service;

pub use service::SECRET;

/// An endpoint's share; relative to the default of the others.
const WEIGHT: RangeInclusive<u32> = 1..=1000;
pub(crate) const WEIGHT_DEFAULT: u32 = 100;
/// A backend's share (the Gateway API's own limits).
const SHARE: RangeInclusive<u32> = 0..=1_000_000;
/// In a rack a connection takes less than a millisecond, and two lost SYNs take 3 s.
const CONNECT_MS: RangeInclusive<u32> = 10..=60_000;
const CONNECT_MS_DEFAULT: u32 = 2000;
/// An hour is for reports; most proxies have 15 to 60 s as default.
const REQUEST_MS: RangeInclusive<u32> = 10..=3_600_000;
const REQUEST_MS_DEFAULT: u32 = 30_000;
/// Below a second a slow peer is cut off, and a day without a byte is dead.
const IDLE_MS: RangeInclusive<u32> = 1000..=86_400_000;
const IDLE_MS_DEFAULT: u32 = 3_600_000;
/// A client of UDP doesn't say that it is gone; most ask again within seconds, and
/// firewalls forget them after 30 to 180 s.
const UDP_IDLE_MS_DEFAULT: u32 = 60_000;
/// Under way at once, or in a second.
const AT_ONCE: RangeInclusive<u32> = 1..=1_000_000;
/// A breaker is for the day when a service hangs: 10,000 requests that wait take some
/// 300 MB, and no healthy service of a rack has as many.
const MAX_REQUESTS_DEFAULT: u32 = 10_000;
/// A core's worth of what takes a millisecond each, and few enough to be answered soon.
const SPILL_OVER_DEFAULT: u32 = 32;
/// From a hiccup to as long as an ejection ever is.
const EJECTION_MS: RangeInclusive<u32> = 100..=300_000;
const EJECTION_MS_DEFAULT: u32 = 1000;
/// From never to as long as a rack lives.
const GRACE_DAYS: RangeInclusive<u32> = 0..=3650;
/// As long as an uplink is away at most, by what people ask for.
const GRACE_DAYS_DEFAULT: u32 = 30;
/// One that nobody needs a privilege for, as the agent's own page.
const HIGH_PORT: RangeInclusive<u32> = 1024..=65_535;
const PORT: RangeInclusive<u32> = 1..=65_535;
/// Longest path or value that a document may ask for.
const MAX_TEXT: usize = 1024;
const REDIRECTS: [u32; 5] = [301, 302, 303, 307, 308];

/// Reads a table, or says all that is wrong with it.
pub fn table(generation: u64, mesh: &v1::Mesh) -> Result<Table, Vec<Refusal>> {
    let mut reader = Reader::default();
    let each = |path: &str, n: usize| format!("mesh.{path}[{n}]");
    let table = Table {
        generation,
        listeners: (mesh.listeners.iter().enumerate())
            .filter_map(|(n, it)| reader.listener(&each("listeners", n), it))
            .collect(),
        services: (mesh.services.iter().enumerate())
            .map(|(n, it)| reader.service(&each("services", n), it))
            .collect(),
        routes: (mesh.routes.iter().enumerate())
            .map(|(n, it)| reader.route(&each("routes", n), it))
            .collect(),
        rack: reader.networks("mesh.rack_networks", &mesh.rack_networks),
        peers: (mesh.peers.iter().enumerate())
            .filter_map(|(n, it)| reader.peer(&each("peers", n), it))
            .collect(),
        discovery_keys: reader.keys("mesh.discovery_keys", &mesh.discovery_keys),
        jwt_issuers: (mesh.jwt_issuers.iter().enumerate())
            .map(|(n, it)| reader.jwt_issuer(&each("jwt_issuers", n), it))
            .collect(),
        access_log: mesh.access_log.unwrap_or_default(),
        openmetrics_port: mesh.openmetrics_port.map(|port| {
            reader.in_range("mesh.openmetrics_port", port, &HIGH_PORT);
            port as u16
        }),
        relay_uplink_for: mesh.relay_uplink_for.clone(),
        brokers: Vec::new(),
        grace_s: 86_400
            * u64::from(reader.within(
                "mesh.certificate_grace_days",
                mesh.certificate_grace_days,
                GRACE_DAYS_DEFAULT,
                GRACE_DAYS,
            )),
    };
    let mut table = table;
    mark(&mut table, mesh);
    // What was left out for being wrong would only make for more that is wrong.
    if reader.refusals.is_empty() { table.checked() } else { Err(reader.refusals) }
}

/// Makes another mark for whatever a rule's step back is about.
fn mark(table: &mut Table, mesh: &v1::Mesh) {
    for (route, from) in table.routes.iter_mut().zip(&mesh.routes) {
        for (rule, from) in route.rules.iter_mut().zip(&from.rules) {
            let Some(step_back) = &mut rule.step_back else { continue };
            let is_one = |it: &&v1::Service| from.backend_refs.iter().any(|b| b.name == it.name);
            let services = mesh.services.iter().filter(is_one).map(Message::encode_to_vec);
            let refs = from.backend_refs.iter().map(Message::encode_to_vec);
            let own = from.step_back.iter().map(Message::encode_to_vec);
            let bytes: Vec<u8> = own.chain(refs).chain(services).flatten().collect();
            step_back.mark = hash(&bytes);
        }
    }
}

#[derive(Default)]
struct Reader {
    refusals: Vec<Refusal>,
}

impl Reader {
    fn refuse(&mut self, path: &str, value: impl Display, limit: impl Into<String>, hint: &str) {
        let (path, value) = (path.to_owned(), value.to_string());
        self.refusals.push(Refusal { path, value, limit: limit.into(), hint: hint.into() });
    }

    fn listener(&mut self, path: &str, it: &v1::Listener) -> Option<Listener> {
        Some(Listener {
            name: it.name.clone(),
            protocol: self.named(&format!("{path}.protocol"), &it.protocol),
            zone: it.zone.clone(),
            proxy_protocol: it.proxy_protocol,
            intercept: it
                .intercept
                .as_ref()
                .map(|it| self.intercept(&format!("{path}.intercept"), it)),
            address: self.address(&format!("{path}.address"), &it.address)?,
        })
    }

    fn service(&mut self, path: &str, it: &v1::Service) -> Service {
        let balance = it.balance.clone().unwrap_or_default();
        let endpoints = it.endpoints.iter().enumerate();
        let send = it.send_proxy_protocol.unwrap_or(1);
        self.in_range(&format!("{path}.send_proxy_protocol"), send, &(1..=2));
        let protocol = self.named(&format!("{path}.protocol"), &it.protocol);
        let idle = match protocol {
            AppProtocol::Udp => UDP_IDLE_MS_DEFAULT,
            _ => IDLE_MS_DEFAULT,
        };
        Service {
            name: it.name.clone(),
            endpoints: endpoints
                .filter_map(|(n, it)| self.endpoint(&format!("{path}.endpoints[{n}]"), it))
                .collect(),
            protocol,
            send_proxy_protocol: it.send_proxy_protocol.map(|version| version as u8),
            policy: self.named(&format!("{path}.balance.policy"), &balance.policy),
            hash_on: self.named(&format!("{path}.balance.hash_on"), &balance.hash_on),
            ejection: self.ejection(
                &format!("{path}.outlier_detection"),
                &it.outlier_detection.unwrap_or_default(),
            ),
            max_requests: self.within(
                &format!("{path}.max_requests"),
                it.max_requests,
                MAX_REQUESTS_DEFAULT,
                AT_ONCE,
            ),
            timeouts: self.timeouts(
                &format!("{path}.timeouts"),
                &it.timeouts.unwrap_or_default(),
                idle,
            ),
            check: it
                .health_check
                .as_ref()
                .map(|it| self.check(&format!("{path}.health_check"), it)),
            affinity: it
                .session_affinity
                .as_ref()
                .map(|it| self.affinity(&format!("{path}.session_affinity"), it)),
            retry_on: self.retry_on(&format!("{path}.retry_on"), &it.retry_on),
            spill_over: self.within(
                &format!("{path}.spill_over_requests"),
                it.spill_over_requests,
                SPILL_OVER_DEFAULT,
                AT_ONCE,
            ),
            spill: it.spill.as_ref().map(|it| self.spill(&format!("{path}.spill"), it)),
            allow: (it.allow.iter().enumerate())
                .map(|(n, it)| self.allow(&format!("{path}.allow[{n}]"), it))
                .collect(),
            endpoints_from: it.endpoints_from.clone(),
            virtual_addresses: (it.virtual_addresses.iter().enumerate())
                .filter_map(|(n, it)| self.ip(&format!("{path}.virtual_addresses[{n}]"), it))
                .collect(),
        }
    }

    fn endpoint(&mut self, path: &str, it: &v1::Endpoint) -> Option<Endpoint> {
        let weight = it.weight.unwrap_or(WEIGHT_DEFAULT);
        self.in_range(&format!("{path}.weight"), weight, &WEIGHT);
        let tier = it.locality.as_ref();
        Some(Endpoint {
            tier: tier.and_then(|name| self.tier(&format!("{path}.locality"), name)),
            numa_node: it.numa_node,
            node: it.node.clone(),
            address: self.address(&format!("{path}.address"), &it.address)?,
            weight,
            source: None,
        })
    }

    /// A number that is given, or its default.
    fn within(
        &mut self,
        path: &str,
        given: Option<u32>,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> u32 {
        let value = given.unwrap_or(default);
        self.in_range(path, value, &range);
        value
    }

    fn ejection(&mut self, path: &str, it: &v1::OutlierDetection) -> Ejection {
        let mut number = |name, given, default, range| {
            self.within(&format!("{path}.{name}"), given, default, range)
        };
        let base =
            number("base_ejection_ms", it.base_ejection_ms, EJECTION_MS_DEFAULT, EJECTION_MS);
        Ejection {
            consecutive: number("consecutive_failures", it.consecutive_failures, 5, 0..=1000),
            base: Duration::from_millis(base.into()),
            max_percent: number("max_ejection_percent", it.max_ejection_percent, 50, 1..=100),
        }
    }

    fn rate_limit(&mut self, path: &str, it: &v1::RateLimit) -> (u32, u32) {
        let per_second = it.requests_per_second;
        self.in_range(&format!("{path}.requests_per_second"), per_second, &AT_ONCE);
        let burst = self.within(&format!("{path}.burst"), it.burst, per_second.max(1), AT_ONCE);
        (per_second, burst)
    }

    fn timeouts(&mut self, path: &str, it: &v1::Timeouts, idle_default: u32) -> Timeouts {
        let mut timeout = |name, given: Option<u32>, default, range| {
            let ms = given.unwrap_or(default);
            self.in_range(&format!("{path}.{name}"), ms, &range);
            Duration::from_millis(ms.into())
        };
        Timeouts {
            connect: timeout("connect_ms", it.connect_ms, CONNECT_MS_DEFAULT, CONNECT_MS),
            request: timeout("request_ms", it.request_ms, REQUEST_MS_DEFAULT, REQUEST_MS),
            idle: timeout("idle_ms", it.idle_ms, idle_default, IDLE_MS),
        }
    }

    fn route(&mut self, path: &str, it: &v1::Route) -> Route {
        let kind = self.named(&format!("{path}.kind"), &it.kind);
        let hostnames = it.hostnames.iter().enumerate();
        Route {
            name: it.name.clone(),
            kind,
            listeners: it.listeners.clone(),
            zones: it.zones.clone(),
            hostnames: hostnames
                .filter_map(|(n, name)| self.parsed(&format!("{path}.hostnames[{n}]"), name))
                .collect::<Vec<Hostname>>(),
            rules: (it.rules.iter().enumerate())
                .map(|(n, it)| self.rule(&format!("{path}.rules[{n}]"), it, kind))
                .collect(),
        }
    }

    fn rule(&mut self, path: &str, it: &v1::Rule, kind: Kind) -> Rule {
        let matches = it.matches.iter().enumerate();
        let mut matches: Vec<_> = matches
            .map(|(n, it)| self.matched(&format!("{path}.matches[{n}]"), it, kind))
            .collect();
        if matches.is_empty() {
            matches.push(Match::default());
        }
        let edit = |it: &Option<v1::HeaderModifier>| it.clone().unwrap_or_default();
        let (request, response) =
            (edit(&it.request_header_modifier), edit(&it.response_header_modifier));
        Rule {
            matches,
            redirect: it
                .request_redirect
                .as_ref()
                .map(|it| self.redirect(&format!("{path}.request_redirect"), it)),
            rewrite: it
                .url_rewrite
                .as_ref()
                .map(|it| self.rewrite(&format!("{path}.url_rewrite"), it)),
            request_headers: self.header_edit(&format!("{path}.request_header_modifier"), request),
            response_headers: self
                .header_edit(&format!("{path}.response_header_modifier"), response),
            rate_limit: it
                .rate_limit
                .as_ref()
                .map(|it| self.rate_limit(&format!("{path}.rate_limit"), it)),
            backends: (it.backend_refs.iter().enumerate())
                .map(|(n, it)| self.backend(&format!("{path}.backend_refs[{n}]"), it))
                .collect(),
            step_back: it
                .step_back
                .as_ref()
                .map(|step| self.step_back(&format!("{path}.step_back"), step, &it.backend_refs)),
            jwt: it.jwt.as_ref().map(|it| self.jwt(&format!("{path}.jwt"), it)),
        }
    }

    fn backend(&mut self, path: &str, it: &v1::BackendRef) -> Backend {
        let weight = it.weight.unwrap_or(1);
        self.in_range(&format!("{path}.weight"), weight, &SHARE);
        Backend { service: it.name.clone(), index: 0, weight }
    }

    fn matched(&mut self, path: &str, it: &v1::Match, kind: Kind) -> Match {
        let grpc_path = format!("{path}.grpc");
        let of_path = match (kind, &it.grpc, &it.path) {
            (Kind::Grpc, Some(grpc), None) => self.grpc(&grpc_path, grpc),
            (Kind::Grpc, None, Some(_)) => {
                self.refuse(
                    &format!("{path}.path"),
                    "",
                    "grpc for kind grpc",
                    "name service and method",
                );
                PathMatch::default()
            }
            (_, Some(_), _) => {
                self.refuse(
                    &grpc_path,
                    "",
                    "for kind grpc and without a path",
                    "set the route's kind to grpc",
                );
                PathMatch::default()
            }
            (_, None, Some(it)) => self.path(&format!("{path}.path"), it),
            (_, None, None) => PathMatch::default(),
        };
        self.is_method(&format!("{path}.method"), it.method.as_ref());
        let lower =
            |it: &v1::ValueMatch| v1::ValueMatch { name: it.name.to_lowercase(), ..it.clone() };
        let headers: Vec<_> = it.headers.iter().map(lower).collect();
        Match {
            path: of_path,
            method: it.method.clone(),
            headers: self.values(&format!("{path}.headers"), &headers, is_token),
            query: self.values(&format!("{path}.query_params"), &it.query_params, is_some),
            cookies: self.values(&format!("{path}.cookies"), &it.cookies, is_token),
        }
    }

    fn is_method(&mut self, path: &str, method: Option<&String>) {
        if let Some(method) = method.filter(|method| !is_token(method)) {
            self.refuse(path, method, "a method such as GET", "write it in upper case");
        }
    }

    /// A call is a POST to /SERVICE/METHOD (gRPC over HTTP/2, Requests).
    fn grpc(&mut self, path: &str, it: &v1::GrpcMethodMatch) -> PathMatch {
        for name in [&it.service, &it.method].into_iter().flatten() {
            if !host::is_name(name) {
                self.refuse(
                    path,
                    name,
                    "a name such as helloworld.Greeter or SayHello",
                    "without slashes",
                );
            }
        }
        match (&it.service, &it.method) {
            (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
            (Some(service), None) => PathMatch::Prefix(format!("/{service}")),
            (None, Some(method)) => PathMatch::Template(format!("/{{service}}/{method}")),
            (None, None) => PathMatch::default(),
        }
    }

    fn path(&mut self, path: &str, it: &v1::PathMatch) -> PathMatch {
        let value = it.value.as_str();
        self.is_path(&format!("{path}.value"), value);
        match it.r#type.as_deref().unwrap_or("prefix") {
            "exact" => PathMatch::Exact(value.into()),
            "prefix" => PathMatch::Prefix(value.trim_end_matches('/').into()),
            "template" => {
                let is_half = |it: &str| it.contains(['{', '}']) && !path::is_variable(it);
                if value.split('/').any(is_half) {
                    let limit = "segments that are {name} or have no braces";
                    self.refuse(&format!("{path}.value"), value, limit, "e.g. /users/{id}/orders");
                }
                PathMatch::Template(value.into())
            }
            other => {
                self.refuse(
                    &format!("{path}.type"),
                    other,
                    "one of exact, prefix, template",
                    "choose one",
                );
                PathMatch::default()
            }
        }
    }

    fn is_path(&mut self, path: &str, value: &str) {
        let plain = value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'));
        if !value.starts_with('/') || !plain || value.len() > MAX_TEXT || path::is_ambiguous(value)
        {
            let limit = format!("a path of at most {MAX_TEXT} bytes that begins with /");
            self.refuse(path, value, limit, "without query, spaces and .. segments");
        }
    }

    fn values(
        &mut self,
        path: &str,
        all: &[v1::ValueMatch],
        is_one: fn(&str) -> bool,
    ) -> Vec<ValueMatch> {
        for (n, it) in all.iter().enumerate() {
            if !is_one(&it.name) {
                self.refuse(
                    &format!("{path}[{n}].name"),
                    &it.name,
                    "a name",
                    "write it as in a request",
                );
            }
        }
        all.iter().map(|it| ValueMatch { name: it.name.clone(), value: it.value.clone() }).collect()
    }

    fn redirect(&mut self, path: &str, it: &v1::RequestRedirect) -> Redirect {
        let status = it.status_code.unwrap_or(302);
        if !REDIRECTS.contains(&status) {
            let limit = REDIRECTS.map(|code| code.to_string()).join(", ");
            self.refuse(&format!("{path}.status_code"), status, limit, "302 is the default");
        }
        if let Some(scheme) =
            it.scheme.as_ref().filter(|it| !matches!(it.as_str(), "http" | "https"))
        {
            self.refuse(
                &format!("{path}.scheme"),
                scheme,
                "http or https",
                "leave it out to keep it",
            );
        }
        if let Some(port) = it.port {
            self.in_range(&format!("{path}.port"), port, &PORT);
        }
        Redirect {
            scheme: it.scheme.clone(),
            hostname: self.hostname(path, &it.hostname),
            port: it.port.map(|port| port as u16),
            path: self.path_edit(&format!("{path}.path"), &it.path),
            status: status as u16,
        }
    }

    fn rewrite(&mut self, path: &str, it: &v1::UrlRewrite) -> Rewrite {
        Rewrite {
            hostname: self.hostname(path, &it.hostname),
            path: self.path_edit(&format!("{path}.path"), &it.path),
        }
    }

    fn hostname(&mut self, path: &str, name: &Option<String>) -> Option<String> {
        if let Some(name) = name.as_ref().filter(|name| !host::is_name(name)) {
            self.refuse(
                &format!("{path}.hostname"),
                name,
                "a host name such as shop.rack",
                "leave out scheme and port",
            );
        }
        name.clone()
    }

    fn path_edit(&mut self, path: &str, it: &Option<v1::PathModifier>) -> Option<PathEdit> {
        let it = it.as_ref()?;
        match (&it.replace_full_path, &it.replace_prefix_match) {
            (Some(full), None) => {
                self.is_path(&format!("{path}.replace_full_path"), full);
                Some(PathEdit::Full(full.clone()))
            }
            (None, Some(prefix)) => {
                self.is_path(&format!("{path}.replace_prefix_match"), prefix);
                Some(PathEdit::Prefix(prefix.clone()))
            }
            _ => {
                self.refuse(
                    path,
                    "",
                    "one of replace_full_path and replace_prefix_match",
                    "give one of them",
                );
                None
            }
        }
    }

    fn header_edit(&mut self, path: &str, it: v1::HeaderModifier) -> HeaderEdit {
        let named = it.set.keys().chain(it.add.keys()).chain(&it.remove);
        for name in named.filter(|name| !is_token(name) || is_framing(name)) {
            let hint = "what frames a message, or names its host, is not for a table to change";
            self.refuse(path, name, "the name of a header", hint);
        }
        for value in it.set.values().chain(it.add.values()) {
            if value.len() > MAX_TEXT || !value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
                let limit = format!("at most {MAX_TEXT} printable ASCII characters");
                self.refuse(path, value, limit, "a header's value is one line");
            }
        }
        let sorted = |map: std::collections::HashMap<String, String>| {
            let mut pairs: Vec<_> = map.into_iter().collect();
            pairs.sort();
            pairs
        };
        HeaderEdit { set: sorted(it.set), add: sorted(it.add), remove: it.remove }
    }

    fn address(&mut self, path: &str, text: &str) -> Option<std::net::SocketAddr> {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let hint = "an address and a port, an IPv6 address in brackets; names are not resolved";
            self.refuse(path, text, "IP:PORT, such as 10.0.0.1:8080 or [::1]:8080", hint);
        }
        parsed
    }

    fn ip(&mut self, path: &str, text: &str) -> Option<std::net::IpAddr> {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.refuse(path, text, "an IP address without a port", "such as 10.99.0.1 or fd99::1");
        }
        parsed
    }

    fn named<T: FromStr<Err = Impossible> + Default>(
        &mut self,
        path: &str,
        text: &Option<String>,
    ) -> T {
        text.as_ref().and_then(|text| self.parsed(path, text)).unwrap_or_default()
    }

    fn parsed<T: FromStr<Err = Impossible>>(&mut self, path: &str, text: &str) -> Option<T> {
        let parsed = text.parse();
        parsed.map_err(|Impossible { limit, hint }| self.refuse(path, text, limit, &hint)).ok()
    }

    fn in_range(&mut self, path: &str, value: u32, range: &RangeInclusive<u32>) {
        if !range.contains(&value) {
            let (least, most) = (*range.start(), *range.end());
            let hint = format!("the nearest possible value is {}", value.clamp(least, most));
            self.refuse(path, value, format!("{least} to {most}"), &hint);
        }
    }
}

/// A name as HTTP has it (RFC 9110, 5.6.2).
fn is_token(name: &str) -> bool {
    let is_char = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    is_some(name) && name.bytes().all(is_char)
}

fn is_some(name: &str) -> bool {
    (1..=MAX_TEXT).contains(&name.len())
}

fn is_framing(name: &str) -> bool {
    ["connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"]
        .iter()
        .any(|framing| name.eq_ignore_ascii_case(framing))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(mesh: v1::Mesh, expected: Expect) {
        let line =
            |r: &Refusal| format!("{}: {} (may be {}; {})\n", r.path, r.value, r.limit, r.hint);
        let shown = match table(1, &mesh) {
            Ok(table) => format!("{} routes\n", table.routes.len()),
            Err(refusals) => refusals.iter().map(line).collect(),
        };
        expected.assert_eq(&shown);
    }

    fn listener(name: &str, address: &str) -> v1::Listener {
        v1::Listener { name: name.into(), address: address.into(), ..Default::default() }
    }

    #[test]
    fn nothing_at_all_is_a_table() {
        check(v1::Mesh::default(), expect!["0 routes\n"]);
    }

    #[test]
    fn every_value_is_checked_at_once() {
        let matched = v1::Match {
            path: Some(v1::PathMatch { r#type: Some("glob".into()), value: "a/../b".into() }),
            method: Some("G T".into()),
            headers: vec![v1::ValueMatch { name: "a b".into(), value: None }],
            ..Default::default()
        };
        let set = [("Content-Length".to_owned(), "1\n2".to_owned())].into();
        let rule = v1::Rule {
            matches: vec![matched],
            request_redirect: Some(v1::RequestRedirect {
                status_code: Some(200),
                scheme: Some("ftp".into()),
                path: Some(v1::PathModifier::default()),
                ..Default::default()
            }),
            request_header_modifier: Some(v1::HeaderModifier { set, ..Default::default() }),
            ..Default::default()
        };
        let service = v1::Service {
            protocol: Some("http3".into()),
            endpoints: vec![v1::Endpoint {
                address: "shop:80".into(),
                weight: Some(0),
                locality: Some("moon".into()),
                ..Default::default()
            }],
            send_proxy_protocol: Some(3),
            health_check: Some(v1::HealthCheck {
                kind: Some("icmp".into()),
                interval_ms: Some(1),
                ..Default::default()
            }),
            session_affinity: Some(v1::SessionAffinity {
                cookie: "a b".into(),
                max_age_s: Some(0),
            }),
            retry_on: vec![404],
            balance: Some(v1::Balance {
                policy: Some("best".into()),
                hash_on: Some("header:".into()),
            }),
            timeouts: Some(v1::Timeouts { connect_ms: Some(1), ..Default::default() }),
            ..Default::default()
        };
        let route = v1::Route {
            kind: Some("sctp".into()),
            hostnames: vec!["http://shop".into()],
            rules: vec![rule],
            ..Default::default()
        };
        let mesh = v1::Mesh {
            relay_uplink_for: Vec::new(),
            jwt_issuers: Vec::new(),
            listeners: vec![listener("web", "localhost:80")],
            services: vec![service],
            routes: vec![route],
            rack_networks: vec!["10.0.0.0/99".into()],
            peers: vec![v1::Peer { node: "b".into(), address: "b:15008".into() }],
            certificate_grace_days: Some(4000),
            access_log: None,
            openmetrics_port: Some(80),
            discovery_keys: vec!["abc".into(), "00".repeat(32), "11".repeat(32)],
        };
        check(
            mesh,
            expect![[r#"
                mesh.listeners[0].address: localhost:80 (may be IP:PORT, such as 10.0.0.1:8080 or [::1]:8080; an address and a port, an IPv6 address in brackets; names are not resolved)
                mesh.services[0].send_proxy_protocol: 3 (may be 1 to 2; the nearest possible value is 2)
                mesh.services[0].protocol: http3 (may be one of http, h2c, tcp, udp; choose one, or leave it out)
                mesh.services[0].endpoints[0].weight: 0 (may be 1 to 1000; the nearest possible value is 1)
                mesh.services[0].endpoints[0].locality: moon (may be one of node, rack, remote; leave it out to have it found by its address)
                mesh.services[0].endpoints[0].address: shop:80 (may be IP:PORT, such as 10.0.0.1:8080 or [::1]:8080; an address and a port, an IPv6 address in brackets; names are not resolved)
                mesh.services[0].balance.policy: best (may be one of p2c, least_request, round_robin, random, maglev, ring_hash; choose one, or leave it out)
                mesh.services[0].balance.hash_on: header: (may be source_ip, source, path, url, protocol, header:NAME or cookie:NAME; choose one, or leave it out)
                mesh.services[0].timeouts.connect_ms: 1 (may be 10 to 60000; the nearest possible value is 10)
                mesh.services[0].health_check.kind: icmp (may be one of tcp, http, grpc; choose one, or leave it out)
                mesh.services[0].health_check.interval_ms: 1 (may be 100 to 600000; the nearest possible value is 100)
                mesh.services[0].session_affinity.cookie: a b (may be the name of a cookie; a name of its own, which no service uses)
                mesh.services[0].session_affinity.max_age_s: 0 (may be 1 to 31536000; the nearest possible value is 1)
                mesh.services[0].retry_on[0]: 404 (may be 500 to 599; the nearest possible value is 500)
                mesh.routes[0].kind: sctp (may be one of http, grpc, tcp, tls, udp; choose one, or leave it out)
                mesh.routes[0].hostnames[0]: http://shop (may be a host name such as shop.rack, or *.rack for all below it; leave out scheme, port and path; letters, digits, '-' and '.' remain)
                mesh.routes[0].rules[0].matches[0].path.value: a/../b (may be a path of at most 1024 bytes that begins with /; without query, spaces and .. segments)
                mesh.routes[0].rules[0].matches[0].path.type: glob (may be one of exact, prefix, template; choose one)
                mesh.routes[0].rules[0].matches[0].method: G T (may be a method such as GET; write it in upper case)
                mesh.routes[0].rules[0].matches[0].headers[0].name: a b (may be a name; write it as in a request)
                mesh.routes[0].rules[0].request_redirect.status_code: 200 (may be 301, 302, 303, 307, 308; 302 is the default)
                mesh.routes[0].rules[0].request_redirect.scheme: ftp (may be http or https; leave it out to keep it)
                mesh.routes[0].rules[0].request_redirect.path:  (may be one of replace_full_path and replace_prefix_match; give one of them)
                mesh.routes[0].rules[0].request_header_modifier: Content-Length (may be the name of a header; what frames a message, or names its host, is not for a table to change)
                mesh.routes[0].rules[0].request_header_modifier: 1
                2 (may be at most 1024 printable ASCII characters; a header's value is one line)
                mesh.rack_networks[0]: 10.0.0.0/99 (may be ADDRESS/BITS; such as 10.1.0.0/16 or fd00::/8)
                mesh.peers[0].address: b:15008 (may be IP:PORT, such as 10.0.0.1:8080 or [::1]:8080; an address and a port, an IPv6 address in brackets; names are not resolved)
                mesh.discovery_keys: 3 (may be at most 2; the one that goes and the one that comes)
                mesh.discovery_keys[0]:  (may be 64 hexadecimal digits; e.g. by `openssl rand -hex 32`)
                mesh.openmetrics_port: 80 (may be 1024 to 65535; the nearest possible value is 1024)
                mesh.certificate_grace_days: 4000 (may be 0 to 3650; the nearest possible value is 3650)
            "#]],
        );
    }

    #[test]
    fn who_may_reach_what_through_the_tunnel_is_said_whole() {
        let mut tunnel = listener("tunnel", "0.0.0.0:15008");
        (tunnel.protocol, tunnel.zone) = (Some("tunnel".into()), Some("floor".into()));
        let endpoint = |node: &str| v1::Endpoint {
            address: "127.0.0.1:80".into(),
            node: Some(node.into()),
            ..Default::default()
        };
        let service = v1::Service {
            name: "shop".into(),
            protocol: Some("tcp".into()),
            endpoints: vec![endpoint("a"), endpoint("b"), endpoint("a"), endpoint("c")],
            allow: vec![
                v1::Allow { methods: vec!["GET".into()], ..Default::default() },
                v1::Allow {
                    principals: [
                        "node/a",
                        "spiffe://r1/node/*/workload/shop",
                        "spiffe://r1/node/*/workload/shop/*",
                        "spiffe://r1/node/a/unit/app@1.service",
                    ]
                    .map(Into::into)
                    .into(),
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        let peer =
            |node: &str, address: &str| v1::Peer { node: node.into(), address: address.into() };
        let mesh = v1::Mesh {
            listeners: vec![tunnel],
            services: vec![service],
            relay_uplink_for: vec!["spiffe://r1/node/*/workload/shop/checkout".into()],
            peers: vec![
                peer("a", "10.0.0.1:15008"),
                peer("b", "0.0.0.0:1"),
                peer("a", "[::1]:1"),
                peer("", "[::1]:1"),
            ],
            ..Default::default()
        };
        check(
            mesh,
            expect![[r#"
            mesh.listeners[0]: tunnel (may be no zone and no proxy_protocol; who comes in there is known by a certificate of the rack)
            mesh.peers[1].address: 0.0.0.0:1 (may be an address that can be connected to; name host and port)
            mesh.peers[2].node: a (may be each node once; leave one out)
            mesh.peers[3].node:  (may be a node id of letters, digits, '-', '_' and '.'; it stands in its certificate's name)
            mesh.services[0].allow[0].principals:  (may be at least one; name who may, e.g. spiffe://RACK/node/*)
            mesh.services[0].allow[1].principals[0]: node/a (may be a name that begins with spiffe://; `purlin mesh show` has this node's own)
            mesh.services[0].allow[1].principals[1]: spiffe://r1/node/*/workload/shop (may be a node's name and workload/NAMESPACE/NAME, container/NAME, unit/NAME.service or unit/NAME.service/INSTANCE; e.g. spiffe://RACK/node/*/workload/shop/checkout)
            mesh.services[0].allow[1].principals[3]: spiffe://r1/node/a/unit/app@1.service (may be a node's name and workload/NAMESPACE/NAME, container/NAME, unit/NAME.service or unit/NAME.service/INSTANCE; e.g. spiffe://RACK/node/*/workload/shop/checkout)
            mesh.services[0].allow: shop (may be principals alone for protocol tcp; bytes have neither methods, paths nor tokens: leave them out)
            mesh.services[0].endpoints[2].address: 127.0.0.1:80 (may be each endpoint once; give it more weight instead)
            mesh.services[0].endpoints[3].node: c (may be one of mesh.peers; add it to mesh.peers with the address of its tunnel)
            mesh.relay_uplink_for[0]: spiffe://r1/node/*/workload/shop/checkout (may be a node's name; it is the node's agent that asks, and no workload)
        "#]],
        );
    }

    #[test]
    fn udp_has_its_own_addresses_routes_and_services() {
        let at = |name: &str, protocol: &str| v1::Listener {
            protocol: Some(protocol.into()),
            ..listener(name, "127.0.0.1:53")
        };
        let service = |name: &str, protocol: &str| v1::Service {
            name: name.into(),
            protocol: Some(protocol.into()),
            ..Default::default()
        };
        let route = |kind: &str, listener: &str, service: &str| v1::Route {
            name: kind.into(),
            kind: Some(kind.into()),
            listeners: vec![listener.into()],
            rules: vec![v1::Rule {
                backend_refs: vec![v1::BackendRef { name: service.into(), weight: None }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut mesh = v1::Mesh {
            listeners: vec![at("u", "udp"), at("t", "tcp")],
            services: vec![service("names", "udp"), service("shop", "tcp")],
            routes: vec![route("udp", "u", "names"), route("tcp", "t", "shop")],
            ..Default::default()
        };
        check(mesh.clone(), expect!["2 routes\n"]);
        mesh.listeners.push(at("again", "udp"));
        mesh.listeners.push(at("tunnel", "tunnel"));
        mesh.listeners[0].proxy_protocol = true;
        mesh.services[0].send_proxy_protocol = Some(2);
        mesh.services[0].endpoints.push(v1::Endpoint {
            address: "127.0.0.1:53".into(),
            node: Some("a".into()),
            ..Default::default()
        });
        mesh.peers.push(v1::Peer { node: "a".into(), address: "[::1]:15008".into() });
        mesh.services[0].allow.push(v1::Allow {
            principals: vec!["spiffe://r1/node/*".into()],
            ..Default::default()
        });
        mesh.routes[0].rules[0].backend_refs[0].name = "shop".into();
        mesh.routes[1].rules[0].backend_refs[0].name = "names".into();
        mesh.routes[1].listeners.push("u".into());
        check(
            mesh,
            expect![[r#"
            mesh.listeners[0]: u (may be no proxy_protocol for protocol udp; a datagram begins with no header: leave it out)
            mesh.listeners[2].address: 127.0.0.1:53 (may be an address of its own; listener u has it too)
            mesh.listeners[3].address: 127.0.0.1:53 (may be an address of its own; listener u has it too)
            mesh.services[0].send_proxy_protocol: names (may be none for udp; a datagram begins with no header: leave it out)
            mesh.services[0].endpoints[0].node: a (may be none for udp; a tunnel carries streams: datagrams go from this node to the address itself)
            mesh.services[0].allow: names (may be none for udp; no tunnel leads to it: leave it out)
            mesh.routes[0].rules[0].backend_refs[0].name: shop (may be a service for udp routes; shop is of protocol tcp)
            mesh.routes[1].listeners[1]: u (may be a listener for tcp routes; u is of protocol udp)
            mesh.routes[1].rules[0].backend_refs[0].name: names (may be a service for tcp routes; names is of protocol udp)
        "#]],
        );
    }

    #[test]
    fn what_does_not_fit_together_is_told_once_every_value_is_good() {
        let names = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let backend = |name: &str| v1::BackendRef { name: name.into(), weight: None };
        let to = |name: &str| v1::Rule { backend_refs: vec![backend(name)], ..Default::default() };
        let route = |name: &str, kind: &str, listeners: &[&str], rules: Vec<v1::Rule>| v1::Route {
            name: name.into(),
            kind: Some(kind.into()),
            listeners: names(listeners),
            rules,
            ..Default::default()
        };
        let mut ingress = listener("plant", "0.0.0.0:80");
        ingress.zone = Some("floor".into());
        let mut raw = listener("raw", "0.0.0.0:81");
        raw.protocol = Some("tcp".into());
        let endpoint = v1::Endpoint { address: "10.0.0.1:80".into(), ..Default::default() };
        let shop = v1::Service {
            name: "shop".into(),
            endpoints: vec![endpoint.clone(), endpoint],
            ..Default::default()
        };
        let mesh = v1::Mesh {
            listeners: vec![ingress, raw, listener("raw", "0.0.0.0:81")],
            services: vec![shop],
            routes: vec![
                route(
                    "a",
                    "http",
                    &["plant", "raw", "none"],
                    vec![to("shopp"), v1::Rule::default()],
                ),
                route("b", "tcp", &["raw"], vec![to("shop")]),
                route("c", "tcp", &["raw"], vec![to("shop")]),
                route("D", "http", &[], vec![]),
            ],
            ..Default::default()
        };
        check(
            mesh,
            expect![[r#"
            mesh.listeners[2].name: raw (may be a name of its own; mesh.listeners[1].name has it too)
            mesh.listeners[2].address: 0.0.0.0:81 (may be an address of its own; listener raw has it too)
            mesh.services[0].endpoints[1].address: 10.0.0.1:80 (may be each endpoint once; give it more weight instead)
            mesh.routes[3].name: D (may be 1 to 63 lower-case letters, digits, '-', '_' or '.'; it becomes part of metrics and commands)
            mesh.routes[0].listeners[0]: plant (may be an ingress whose zone the route names; add "floor" to its zones to expose it there: nothing is exposed by default)
            mesh.routes[0].listeners[1]: raw (may be a listener for http routes; raw is of protocol tcp)
            mesh.routes[0].listeners[2]: none (may be the name of a listener; there are: plant, raw, raw)
            mesh.routes[0].rules[0].backend_refs[0].name: shopp (may be the name of a service; add it to mesh.services, or correct the name)
            mesh.routes[0].rules[1].backend_refs:  (may be at least one, or a request_redirect; say where it goes)
            mesh.routes[3].listeners:  (may be at least one listener; name those that it is served at)
            mesh.routes[2].listeners: raw (may be one route for each name; route b has any name at listener raw too)
        "#]],
        );
    }
}
