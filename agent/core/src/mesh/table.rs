//! Whether listeners, services and routes fit together. A table is refused whole, with
//! every reason, or it holds.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::model::{
    AppProtocol, HeaderEdit, Kind, Listener, Match, PathEdit, Peer, Protocol, Route, Rule, Service,
};
use crate::{
    mesh::{
        authorize,
        intercept::Intercept,
        jwt::{Issuer, Jwt},
        locality::Network,
        path::PathMatch,
        spiffe,
        workload::{self, Workload},
    },
    settings::Refusal,
};

/// Each is a few sockets a core.
pub const MAX_LISTENERS: usize = 64;
/// Ten times what a rack runs.
pub const MAX_SERVICES: usize = 1024;
/// A choice among them looks at each once.
pub const MAX_ENDPOINTS: usize = 256;
/// Ten times what a rack runs.
pub const MAX_ROUTES: usize = 1024;
/// As many as the Gateway API allows in sum over rules (64 after 1.1; 128 in all).
pub const MAX_RULES: usize = 64;
/// The Gateway API's own limit.
pub const MAX_MATCHES: usize = 64;
/// The Gateway API's own limit, for backends and for headers of one match.
pub const MAX_ITEMS: usize = 16;
/// A rack has some forty.
pub const MAX_PEERS: usize = 256;
/// Of rules that open a service: as many as of a route.
pub const MAX_ALLOWS: usize = 64;
/// Ports or networks of a listener that intercepts: a rule of the packet filter each.
pub const MAX_INTERCEPTED: usize = 64;
/// Of keys of an issuer: two while they rotate. A token that doesn't say which is held
/// against each.
pub const MAX_KEYS: usize = 16;
/// Of a name: what a DNS label may be.
pub const MAX_NAME: usize = 63;

/// Listeners, services and routes that fit together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Which document it is from; grows.
    pub generation: u64,
    /// Addresses.
    pub listeners: Vec<Listener>,
    /// Targets.
    pub services: Vec<Service>,
    /// What goes where.
    pub routes: Vec<Route>,
    /// The rack's own networks.
    pub rack: Vec<Network>,
    /// The rack's nodes.
    pub peers: Vec<Peer>,
    /// Keys of the rack's gossip.
    pub discovery_keys: Vec<Key>,
    /// Whose tokens may be taken.
    pub jwt_issuers: Vec<Issuer>,
    /// Whether every request is a line in the log.
    pub access_log: bool,
    /// Port on loopback where the mesh itself is read.
    pub openmetrics_port: Option<u16>,
    /// Who may reach this node's brokers through its tunnel, with `*` for anything.
    pub relay_uplink_for: Vec<String>,
    /// This node's brokers, HOST:PORT; the agent's to say, and not the document's.
    pub brokers: Vec<String>,
    /// For how long a certificate that expired is good all the same, in seconds.
    pub grace_s: u64,
}

/// A key of the rack's gossip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// It itself, as the mesh is handed it.
    Plain([u8; 32]),
    /// The name of the secret that it is, as a document has it.
    Secret(String),
}

impl Table {
    /// Checks that the parts fit together. The error holds every reason, its paths
    /// beginning with `mesh`.
    pub fn checked(mut self) -> Result<Self, Vec<Refusal>> {
        let mut check = Check::default();
        check.listeners(&self.listeners);
        check.peers(&self.peers);
        check.jwt_issuers(&self.jwt_issuers);
        check.services(&self.services, &self);
        check.nodes("mesh.relay_uplink_for", &self.relay_uplink_for);
        check.names("mesh.routes", self.routes.iter().map(|it| &it.name), MAX_ROUTES);
        for (n, route) in self.routes.iter().enumerate() {
            check.route(&format!("mesh.routes[{n}]"), route, &self);
        }
        check.one_connection_route_each(&self);
        if !check.refusals.is_empty() {
            return Err(check.refusals);
        }
        let indexes: BTreeMap<_, _> =
            self.services.iter().enumerate().map(|(n, it)| (it.name.clone(), n)).collect();
        for spill in self.services.iter_mut().filter_map(|it| it.spill.as_mut()) {
            spill.index = indexes.get(&spill.service).copied().unwrap_or_default();
        }
        let rules = self.routes.iter_mut().flat_map(|route| &mut route.rules);
        for backend in rules.flat_map(|rule| &mut rule.backends) {
            backend.index = indexes.get(&backend.service).copied().unwrap_or_default();
        }
        Ok(self)
    }

    /// Whether nothing is different but which document it is of.
    pub fn is_same_but_for_generation(&self, other: &Table) -> bool {
        (&self.listeners, &self.services, &self.routes, &self.rack)
            == (&other.listeners, &other.services, &other.routes, &other.rack)
            && (&self.peers, &self.discovery_keys, self.grace_s, self.access_log)
                == (&other.peers, &other.discovery_keys, other.grace_s, other.access_log)
            && self.openmetrics_port == other.openmetrics_port
            && self.jwt_issuers == other.jwt_issuers
            && (&self.relay_uplink_for, &self.brokers) == (&other.relay_uplink_for, &other.brokers)
    }

    /// A service by name.
    pub fn service(&self, name: &str) -> Option<usize> {
        self.services.iter().position(|service| service.name == name)
    }
}

#[derive(Default)]
struct Check {
    refusals: Vec<Refusal>,
}

impl Check {
    fn refuse(
        &mut self,
        path: impl Into<String>,
        value: impl Into<String>,
        limit: &str,
        hint: &str,
    ) {
        self.refusals.push(Refusal {
            path: path.into(),
            value: value.into(),
            limit: limit.into(),
            hint: hint.into(),
        });
    }

    fn at_most(&mut self, path: &str, count: usize, most: usize) {
        if count > most {
            self.refuse(
                path,
                count.to_string(),
                &format!("at most {most}"),
                "split it, or leave some out",
            );
        }
    }

    /// Names: there, well-formed, and no two alike.
    fn names<'a>(
        &mut self,
        path: &str,
        names: impl ExactSizeIterator<Item = &'a String>,
        most: usize,
    ) {
        self.at_most(path, names.len(), most);
        let mut seen = BTreeMap::new();
        for (n, name) in names.enumerate() {
            let path_of = |n| format!("{path}[{n}].name");
            if !is_name(name) {
                let limit = format!("1 to {MAX_NAME} lower-case letters, digits, '-', '_' or '.'");
                self.refuse(path_of(n), name, &limit, "it becomes part of metrics and commands");
            } else if let Some(first) = seen.insert(name, n) {
                self.refuse(
                    path_of(n),
                    name,
                    "a name of its own",
                    &format!("{} has it too", path_of(first)),
                );
            }
        }
    }

    fn listeners(&mut self, listeners: &[Listener]) {
        self.names("mesh.listeners", listeners.iter().map(|it| &it.name), MAX_LISTENERS);
        for (n, listener) in listeners.iter().enumerate() {
            let path = format!("mesh.listeners[{n}]");
            let address = listener.address;
            if address.port() == 0 {
                self.refuse(
                    format!("{path}.address"),
                    address.to_string(),
                    "a port from 1 to 65535",
                    "name the port",
                );
            }
            let collides = |it: &&Listener| {
                let taken = it.protocol.takes();
                it.address == address
                    && listener.protocol.takes().iter().any(|it| taken.contains(it))
            };
            if let Some(before) = listeners[..n].iter().find(collides) {
                let hint = format!("listener {} has it too", before.name);
                self.refuse(
                    format!("{path}.address"),
                    address.to_string(),
                    "an address of its own",
                    &hint,
                );
            }
            let is_tunnel = listener.protocol == Protocol::Tunnel;
            if is_tunnel && (listener.zone.is_some() || listener.proxy_protocol) {
                let hint = "who comes in there is known by a certificate of the rack";
                self.refuse(&path, &listener.name, "no zone and no proxy_protocol", hint);
            }
            if matches!(listener.protocol, Protocol::Udp | Protocol::Dns) && listener.proxy_protocol
            {
                let limit = format!("no proxy_protocol for protocol {}", listener.protocol.name());
                let hint = "a datagram begins with no header: leave it out";
                self.refuse(&path, &listener.name, &limit, hint);
            }
            if listener.protocol == Protocol::Dns && listener.zone.is_some() {
                let hint = "it has names of what is reached from this node alone";
                self.refuse(&path, &listener.name, "no zone for protocol dns", hint);
            }
            if let Some(intercept) = &listener.intercept {
                self.intercept(&path, listener, intercept);
            }
            if listener.zone.as_deref().is_some_and(|zone| !is_name(zone)) {
                let zone = listener.zone.clone().unwrap_or_default();
                self.refuse(
                    format!("{path}.zone"),
                    zone,
                    "a name, e.g. plant",
                    "or leave it out for an egress",
                );
            }
        }
    }

    fn intercept(&mut self, path: &str, listener: &Listener, it: &Intercept) {
        let (name, path) = (&listener.name, format!("{path}.intercept"));
        self.at_most(&format!("{path}.ports"), it.ports.len(), MAX_INTERCEPTED);
        self.at_most(&format!("{path}.networks"), it.networks.len(), MAX_INTERCEPTED);
        if !matches!(listener.protocol, Protocol::Http | Protocol::Tcp | Protocol::Tls) {
            let hint = "only what goes over TCP to services is taken on its way";
            self.refuse(&path, name, "a listener of protocol http, tcp or tls", hint);
        }
        if listener.zone.is_some() || listener.proxy_protocol {
            let hint = "it is for this node's own workloads, which don't know of it";
            self.refuse(&path, name, "no zone and no proxy_protocol", hint);
        }
        if !listener.address.ip().is_unspecified() {
            let (address, hint) = (listener.address.to_string(), "[::] is for IPv4 and IPv6");
            self.refuse(&path, address, "a listener at 0.0.0.0 or [::]", hint);
        }
        let network = |it: &&Network| it.address.is_ipv6() && listener.address.is_ipv4();
        if let Some(it) = it.networks.iter().find(network) {
            let network = format!("{}/{}", it.address, it.bits);
            self.refuse(format!("{path}.networks"), network, "networks of IPv4", "listen at [::]");
        }
    }

    fn peers(&mut self, peers: &[Peer]) {
        self.at_most("mesh.peers", peers.len(), MAX_PEERS);
        for (n, peer) in peers.iter().enumerate() {
            let path = format!("mesh.peers[{n}].node");
            if !spiffe::is_segment(&peer.node) {
                let limit = "a node id of letters, digits, '-', '_' and '.'";
                self.refuse(&path, &peer.node, limit, "it stands in its certificate's name");
            } else if peers[..n].iter().any(|it| it.node == peer.node) {
                self.refuse(&path, &peer.node, "each node once", "leave one out");
            }
            if peer.address.port() == 0 || peer.address.ip().is_unspecified() {
                let path = format!("mesh.peers[{n}].address");
                let limit = "an address that can be connected to";
                self.refuse(path, peer.address.to_string(), limit, "name host and port");
            }
        }
    }

    /// It goes one step, to something that is spoken to alike.
    fn spill(&mut self, path: &str, service: &Service, services: &[Service]) {
        let Some(spill) = &service.spill else { return };
        if spill.back_percent >= spill.at_percent {
            let limit = format!("below at_percent, which is {}", spill.at_percent);
            let hint = "what lies between them keeps requests from going to and fro";
            self.refuse(
                format!("{path}.back_percent"),
                spill.back_percent.to_string(),
                &limit,
                hint,
            );
        }
        let to = services.iter().find(|it| it.name == spill.service);
        let is_other = |it: &&Service| it.name != service.name && it.spill.is_none();
        match to.filter(is_other) {
            None => {
                let limit = "another service, that spills nowhere itself";
                self.refuse(format!("{path}.service"), &spill.service, limit, "define it");
            }
            Some(to) if to.protocol != service.protocol => {
                let limit = format!("one of protocol {}", service.protocol.name());
                let hint = "it gets the same requests";
                self.refuse(format!("{path}.service"), &spill.service, &limit, hint);
            }
            Some(_) => {}
        }
    }

    fn services(&mut self, services: &[Service], table: &Table) {
        // With gossip, others may turn up.
        let may_turn_up = |node: &str| !table.discovery_keys.is_empty() && spiffe::is_segment(node);
        let is_known =
            |node: &str| table.peers.iter().any(|it| it.node == node) || may_turn_up(node);
        self.names("mesh.services", services.iter().map(|it| &it.name), MAX_SERVICES);
        for (n, service) in services.iter().enumerate() {
            let path = format!("mesh.services[{n}].endpoints");
            self.at_most(&path, service.endpoints.len(), MAX_ENDPOINTS);
            self.spill(&format!("mesh.services[{n}].spill"), service, services);
            self.allows(&format!("mesh.services[{n}].allow"), service, table);
            self.endpoints_from(&format!("mesh.services[{n}].endpoints_from"), service);
            self.virtual_addresses(&format!("mesh.services[{n}].virtual_addresses"), n, services);
            if service.protocol == AppProtocol::Udp {
                self.datagrams(&format!("mesh.services[{n}]"), service);
            }
            for (m, endpoint) in service.endpoints.iter().enumerate() {
                let address = endpoint.address;
                if let Some(node) = &endpoint.node
                    && !is_known(node)
                {
                    let hint = "add it to mesh.peers with the address of its tunnel";
                    self.refuse(format!("{path}[{m}].node"), node, "one of mesh.peers", hint);
                }
                let path = format!("{path}[{m}].address");
                if address.port() == 0 || address.ip().is_unspecified() {
                    self.refuse(
                        &path,
                        address.to_string(),
                        "an address that can be connected to",
                        "name host and port",
                    );
                }
                if service.endpoints[..m].iter().any(|it| it.key() == endpoint.key()) {
                    self.refuse(
                        &path,
                        address.to_string(),
                        "each endpoint once",
                        "give it more weight instead",
                    );
                }
            }
        }
    }

    /// Each stands for one service, and is no node's.
    fn virtual_addresses(&mut self, path: &str, of: usize, services: &[Service]) {
        let all = &services[of].virtual_addresses;
        self.at_most(path, all.len(), MAX_ITEMS);
        for (n, address) in all.iter().enumerate() {
            let path = format!("{path}[{n}]");
            if address.is_unspecified() || address.is_multicast() {
                let limit = "an address that can be connected to";
                self.refuse(
                    &path,
                    address.to_string(),
                    limit,
                    "choose a free one of a network of its own",
                );
            }
            let before = services[..of].iter().find(|it| it.virtual_addresses.contains(address));
            let again = all[..n].contains(address).then_some(&services[of]);
            if let Some(service) = before.or(again) {
                let hint = format!("service {} has it too", service.name);
                self.refuse(&path, address.to_string(), "an address of its own", &hint);
            }
        }
    }

    /// What there is for streams alone.
    fn datagrams(&mut self, path: &str, service: &Service) {
        if service.send_proxy_protocol.is_some() {
            let hint = "a datagram begins with no header: leave it out";
            self.refuse(format!("{path}.send_proxy_protocol"), &service.name, "none for udp", hint);
        }
        if let Some(m) = service.endpoints.iter().position(|it| it.node.is_some()) {
            let node = service.endpoints[m].node.clone().unwrap_or_default();
            let hint =
                "a tunnel carries streams: datagrams go from this node to the address itself";
            self.refuse(format!("{path}.endpoints[{m}].node"), node, "none for udp", hint);
        }
        if !service.endpoints_from.is_empty() {
            let hint = "what other nodes offer is reached through tunnels: leave it out";
            self.refuse(format!("{path}.endpoints_from"), &service.name, "none for udp", hint);
        }
        if !service.allow.is_empty() {
            let hint = "no tunnel leads to it: leave it out";
            self.refuse(format!("{path}.allow"), &service.name, "none for udp", hint);
        }
    }

    fn principals(&mut self, path: &str, all: &[String]) {
        self.at_most(path, all.len(), MAX_ALLOWS);
        for (n, it) in all.iter().enumerate().filter(|(_, it)| !it.starts_with("spiffe://")) {
            let limit = "a name that begins with spiffe://";
            let hint = "`purlin mesh show` has this node's own";
            self.refuse(format!("{path}[{n}]"), it, limit, hint);
        }
    }

    /// It is agents who ask, and no workloads.
    fn nodes(&mut self, path: &str, all: &[String]) {
        self.principals(path, all);
        for (n, it) in all.iter().enumerate() {
            if authorize::of_workloads(it).is_some() {
                let hint = "it is the node's agent that asks, and no workload";
                self.refuse(format!("{path}[{n}]"), it, "a node's name", hint);
            }
        }
    }

    /// What names a workload that there can't be would let in nobody.
    fn workloads(&mut self, path: &str, all: &[String]) {
        for (n, it) in all.iter().enumerate() {
            let name = authorize::of_workloads(it).map(|(_, name)| name);
            if name.is_some_and(|it| !it.contains('*') && Workload::parse(it).is_none()) {
                let limit = alloc::format!("a node's name and {}", workload::FORMS);
                let hint = "e.g. spiffe://RACK/node/*/workload/shop/checkout";
                self.refuse(format!("{path}[{n}]"), it, &limit, hint);
            }
        }
    }

    fn endpoints_from(&mut self, path: &str, service: &Service) {
        self.at_most(path, service.endpoints_from.len(), MAX_ALLOWS);
        for (n, it) in service.endpoints_from.iter().enumerate() {
            if !spiffe::is_segment(&it.replace('*', "x")) {
                let hint = "such as b, edge-* or *";
                self.refuse(format!("{path}[{n}]"), it, "a node's id, with * for anything", hint);
            }
        }
    }

    fn jwt_issuers(&mut self, issuers: &[Issuer]) {
        self.names("mesh.jwt_issuers", issuers.iter().map(|it| &it.name), MAX_ITEMS);
        for (n, issuer) in issuers.iter().enumerate() {
            let path = format!("mesh.jwt_issuers[{n}]");
            self.at_most(&format!("{path}.audiences"), issuer.audiences.len(), MAX_ITEMS);
            self.at_most(&format!("{path}.jwks"), issuer.keys.len(), MAX_KEYS);
            if let Some(before) = issuers[..n].iter().find(|it| it.issuer == issuer.issuer) {
                let hint = format!("{} has it too; rules may ask for the claim aud", before.name);
                let limit = "each issuer once";
                self.refuse(format!("{path}.issuer"), &issuer.issuer, limit, &hint);
            }
        }
    }

    fn jwt(&mut self, path: &str, jwt: Option<&Jwt>, table: &Table) {
        let Some(jwt) = jwt else { return };
        self.at_most(&format!("{path}.issuers"), jwt.issuers.len(), MAX_ITEMS);
        self.at_most(&format!("{path}.claims"), jwt.claims.len(), MAX_ITEMS);
        if jwt.issuers.is_empty() {
            let hint = "name whose tokens are taken, of mesh.jwt_issuers";
            self.refuse(format!("{path}.issuers"), "", "at least one", hint);
        }
        let is_unknown = |it: &&String| !table.jwt_issuers.iter().any(|known| known.name == **it);
        for (n, name) in jwt.issuers.iter().enumerate().filter(|(_, it)| is_unknown(it)) {
            let limit = "the name of one of mesh.jwt_issuers";
            self.refuse(format!("{path}.issuers[{n}]"), name, limit, "add it, or correct the name");
        }
        for (n, claim) in jwt.claims.iter().enumerate() {
            let path = format!("{path}.claims[{n}].values");
            self.at_most(&path, claim.values.len(), MAX_ITEMS);
            if claim.values.is_empty() {
                self.refuse(path, &claim.name, "at least one", "say what it may be");
            }
        }
    }

    fn allows(&mut self, path: &str, service: &Service, table: &Table) {
        self.at_most(path, service.allow.len(), MAX_ALLOWS);
        for (n, allow) in service.allow.iter().enumerate() {
            let path = format!("{path}[{n}]");
            self.at_most(&format!("{path}.methods"), allow.methods.len(), MAX_ITEMS);
            self.at_most(&format!("{path}.paths"), allow.paths.len(), MAX_ITEMS);
            if allow.principals.is_empty() {
                let hint = "name who may, e.g. spiffe://RACK/node/*";
                self.refuse(format!("{path}.principals"), "", "at least one", hint);
            }
            self.principals(&format!("{path}.principals"), &allow.principals);
            self.workloads(&format!("{path}.principals"), &allow.principals);
            self.jwt(&format!("{path}.jwt"), allow.jwt.as_ref(), table);
        }
        if service.protocol == AppProtocol::Tcp && authorize::looks_at_requests(&service.allow) {
            let hint = "bytes have neither methods, paths nor tokens: leave them out";
            self.refuse(path, &service.name, "principals alone for protocol tcp", hint);
        }
    }

    fn route(&mut self, path: &str, route: &Route, table: &Table) {
        self.at_most(&format!("{path}.rules"), route.rules.len(), MAX_RULES);
        self.at_most(&format!("{path}.hostnames"), route.hostnames.len(), MAX_ITEMS);
        if route.listeners.is_empty() {
            self.refuse(
                format!("{path}.listeners"),
                "",
                "at least one listener",
                "name those that it is served at",
            );
        }
        for (n, name) in route.listeners.iter().enumerate() {
            self.attached(&format!("{path}.listeners[{n}]"), name, route, table);
        }
        if route.kind.is_for_bytes() && route.rules.len() != 1 {
            let rules = route.rules.len().to_string();
            self.refuse(
                format!("{path}.rules"),
                rules,
                "exactly one",
                "a connection tells nothing to choose by",
            );
        }
        if matches!(route.kind, Kind::Tcp | Kind::Udp) && !route.hostnames.is_empty() {
            let hint = "neither TCP nor UDP names a host: leave them out, or use kind tls";
            self.refuse(
                format!("{path}.hostnames"),
                route.hostnames[0].to_string(),
                &format!("none for kind {}", route.kind.name()),
                hint,
            );
        }
        for (n, rule) in route.rules.iter().enumerate() {
            self.rule(&format!("{path}.rules[{n}]"), rule, route.kind, table);
        }
    }

    fn attached(&mut self, path: &str, name: &str, route: &Route, table: &Table) {
        let Some(listener) = table.listeners.iter().find(|it| it.name == name) else {
            let names: Vec<_> = table.listeners.iter().map(|it| it.name.as_str()).collect();
            return self.refuse(
                path,
                name,
                "the name of a listener",
                &format!("there are: {}", names.join(", ")),
            );
        };
        if !route.kind.fits(listener.protocol) {
            let limit = format!("a listener for {} routes", route.kind.name());
            let hint = format!("{name} is of protocol {}", listener.protocol.name());
            self.refuse(path, name, &limit, &hint);
        }
        if let Some(zone) = listener.zone.as_ref().filter(|zone| !route.zones.contains(zone)) {
            let limit = "an ingress whose zone the route names";
            let hint = format!(
                "add \"{zone}\" to its zones to expose it there: nothing is exposed by default"
            );
            self.refuse(path, name, limit, &hint);
        }
    }

    fn rule(&mut self, path: &str, rule: &Rule, kind: Kind, table: &Table) {
        self.at_most(&format!("{path}.matches"), rule.matches.len(), MAX_MATCHES);
        self.at_most(&format!("{path}.backend_refs"), rule.backends.len(), MAX_ITEMS);
        self.jwt(&format!("{path}.jwt"), rule.jwt.as_ref(), table);
        if kind.is_for_bytes()
            && *rule
                != (Rule {
                    matches: alloc::vec![Match::default()],
                    backends: rule.backends.clone(),
                    step_back: rule.step_back.clone(),
                    ..Rule::default()
                })
        {
            self.refuse(
                path,
                kind.name(),
                "backend_refs and step_back, and nothing else",
                "bytes are passed on as they are",
            );
        }
        for (n, backend) in rule.backends.iter().enumerate() {
            let path = format!("{path}.backend_refs[{n}].name");
            let name = &backend.service;
            match table.service(name).map(|index| table.services[index].protocol) {
                None => {
                    let hint = "add it to mesh.services, or correct the name";
                    self.refuse(path, name, "the name of a service", hint);
                }
                Some(protocol) if (protocol == AppProtocol::Udp) != (kind == Kind::Udp) => {
                    let limit = format!("a service for {} routes", kind.name());
                    let hint = format!("{name} is of protocol {}", protocol.name());
                    self.refuse(path, name, &limit, &hint);
                }
                Some(_) => {}
            }
        }
        if let Some(step_back) = &rule.step_back {
            let is_new = |n: usize| n == step_back.backend;
            let weight = |new: bool| {
                let of = rule.backends.iter().enumerate().filter(move |(n, _)| is_new(*n) == new);
                of.map(|(_, it)| it.weight).max().unwrap_or_default()
            };
            if weight(true) == 0 || weight(false) == 0 {
                let hint = "the new one is held against the others, and leaves them its requests";
                let limit = "beside another backend, both with a weight";
                self.refuse(format!("{path}.step_back.backend"), "", limit, hint);
            }
        }
        match (&rule.redirect, rule.backends.is_empty()) {
            (None, true) => self.refuse(
                format!("{path}.backend_refs"),
                "",
                "at least one, or a request_redirect",
                "say where it goes",
            ),
            (Some(_), false) => self.refuse(
                format!("{path}.request_redirect"),
                "",
                "either a redirect or backends",
                "leave one out",
            ),
            _ => {}
        }
        if rule.redirect.is_some() && rule.rewrite.is_some() {
            self.refuse(
                format!("{path}.url_rewrite"),
                "",
                "either a redirect or a rewrite",
                "leave one out",
            );
        }
        let edits = rule
            .redirect
            .iter()
            .filter_map(|it| it.path.as_ref())
            .chain(rule.rewrite.iter().filter_map(|it| it.path.as_ref()));
        let all_prefix = rule.matches.iter().all(|it| matches!(it.path, PathMatch::Prefix(_)));
        if edits.into_iter().any(|edit| matches!(edit, PathEdit::Prefix(_))) && !all_prefix {
            let hint = "make each match of the rule one by prefix, or use replace_full_path";
            self.refuse(
                format!("{path}.matches"),
                "",
                "paths of type prefix, as replace_prefix_match needs them",
                hint,
            );
        }
        for (n, it) in rule.matches.iter().enumerate() {
            let items = it.headers.len().max(it.query.len()).max(it.cookies.len());
            self.at_most(&format!("{path}.matches[{n}]"), items, MAX_ITEMS);
        }
        let sizes = |edit: &HeaderEdit| edit.set.len().max(edit.add.len()).max(edit.remove.len());
        self.at_most(
            &format!("{path}.request_header_modifier"),
            sizes(&rule.request_headers),
            MAX_ITEMS,
        );
        self.at_most(
            &format!("{path}.response_header_modifier"),
            sizes(&rule.response_headers),
            MAX_ITEMS,
        );
    }

    /// Two routes of one TCP listener, or for one server name, can't be told apart.
    fn one_connection_route_each(&mut self, table: &Table) {
        for listener in table.listeners.iter().filter(|it| it.protocol != Protocol::Http) {
            let mut seen: Vec<(Option<String>, &str)> = Vec::new();
            for (n, route) in table.routes.iter().enumerate() {
                if !route.listeners.contains(&listener.name) || !route.kind.fits(listener.protocol)
                {
                    continue;
                }
                let named: Vec<_> = route.hostnames.iter().map(|it| Some(it.to_string())).collect();
                for host in if named.is_empty() { alloc::vec![None] } else { named } {
                    if let Some((_, before)) = seen.iter().find(|(known, _)| *known == host) {
                        let what = host.clone().unwrap_or_else(|| "any name".into());
                        let hint =
                            format!("route {before} has {what} at listener {} too", listener.name);
                        self.refuse(
                            format!("mesh.routes[{n}].listeners"),
                            &listener.name,
                            "one route for each name",
                            &hint,
                        );
                    }
                    seen.push((host, &route.name));
                }
            }
        }
    }
}

/// A name that can stand in a metric, a file name and a command.
pub fn is_name(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_plain)
}
