//! What a service says of its endpoints' health and distance, and of clients that are to
//! stay with one.

use std::{ops::RangeInclusive, time::Duration};

use purlin_core::mesh::{
    authorize::Allow,
    canary::StepBack,
    health::{Check, Probe},
    intercept::Intercept,
    locality::{Network, Tier},
    model::{Affinity, Peer},
    spill::Spill,
    table::Key,
};
use purlin_proto::v1;

use super::{MAX_TEXT, PORT, Reader, is_token};

/// Ten a second find an end soon; ten minutes are for what is expensive to ask.
const INTERVAL_MS: RangeInclusive<u32> = 100..=600_000;
const INTERVAL_MS_DEFAULT: u32 = 5000;
/// As for a connection.
const TIMEOUT_MS: RangeInclusive<u32> = 10..=60_000;
const TIMEOUT_MS_DEFAULT: u32 = 2000;
/// More than a few in a row is no check any more.
const IN_A_ROW: RangeInclusive<u32> = 1..=100;
/// A session ends with the browser, or within a year.
const SECONDS: RangeInclusive<u32> = 1..=31_536_000;
/// An answer that another endpoint may make good: a failure of the server.
const SERVER_ERRORS: RangeInclusive<u32> = 500..=599;
/// Room for the core's round trip before the rack is full, and as much again until it is
/// asked anew.
const SPILL_AT_DEFAULT: u32 = 90;
const SPILL_BACK_DEFAULT: u32 = 70;
/// Below twenty, five failures may be bad luck.
const MIN_REQUESTS: RangeInclusive<u32> = 20..=1_000_000;
const MIN_REQUESTS_DEFAULT: u32 = 100;
/// From a burst to an hour.
const WINDOW_S: RangeInclusive<u32> = 5..=3600;
const WINDOW_S_DEFAULT: u32 = 60;
/// At once, or once a hiccup is over.
const HOLD_S: RangeInclusive<u32> = 0..=600;
const HOLD_S_DEFAULT: u32 = 5;
/// As many as the Gateway API has in a list.
const MAX_STATUSES: usize = 16;
/// Before the name of a secret of the node's.
pub const SECRET: &str = "secret:";
/// One that goes, and one that comes.
const MAX_KEYS: usize = 2;
/// A rack has a few networks.
const MAX_NETWORKS: usize = 64;

impl Reader {
    pub(super) fn peer(&mut self, path: &str, it: &v1::Peer) -> Option<Peer> {
        let address = self.address(&format!("{path}.address"), &it.address)?;
        Some(Peer { node: it.node.clone(), address })
    }

    pub(super) fn intercept(&mut self, path: &str, it: &v1::Intercept) -> Intercept {
        for (n, &port) in it.ports.iter().enumerate() {
            self.in_range(&format!("{path}.ports[{n}]"), port, &PORT);
        }
        Intercept {
            mode: self.named(&format!("{path}.mode"), &it.mode),
            ports: it.ports.iter().map(|&port| port as u16).collect(),
            networks: self.networks(&format!("{path}.networks"), &it.networks),
            pass_through: it.pass_through.unwrap_or_default(),
        }
    }

    /// What is wrong with a key is told without it.
    pub(super) fn keys(&mut self, path: &str, all: &[String]) -> Vec<Key> {
        if all.len() > MAX_KEYS {
            let hint = "the one that goes and the one that comes";
            self.refuse(path, all.len(), format!("at most {MAX_KEYS}"), hint);
        }
        let mut keys = Vec::new();
        for (n, text) in all.iter().enumerate() {
            if let Some(name) = text.strip_prefix(SECRET) {
                let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                if name.is_empty() || name.starts_with('.') || !name.chars().all(is_name) {
                    let limit = "secret:NAME, a file's name of letters, digits, '.', '_' and '-'";
                    self.refuse(&format!("{path}[{n}]"), text, limit, "such as secret:rack-key");
                }
                keys.push(Key::Secret(name.into()));
                continue;
            }
            let bytes: Option<Vec<u8>> = (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
                .collect();
            match bytes.and_then(|bytes| bytes.try_into().ok()) {
                Some(key) => keys.push(Key::Plain(key)),
                None => {
                    let hint = "e.g. by `openssl rand -hex 32`";
                    self.refuse(&format!("{path}[{n}]"), "", "64 hexadecimal digits", hint);
                }
            }
        }
        keys
    }

    pub(super) fn allow(&mut self, path: &str, it: &v1::Allow) -> Allow {
        for (n, method) in it.methods.iter().enumerate() {
            self.is_method(&format!("{path}.methods[{n}]"), Some(method));
        }
        let paths = it.paths.iter().enumerate();
        Allow {
            principals: it.principals.clone(),
            methods: it.methods.clone(),
            paths: paths.map(|(n, it)| self.path(&format!("{path}.paths[{n}]"), it)).collect(),
            jwt: it.jwt.as_ref().map(|it| self.jwt(&format!("{path}.jwt"), it)),
        }
    }

    pub(super) fn check(&mut self, path: &str, it: &v1::HealthCheck) -> Check {
        let probe = match it.kind.as_deref().unwrap_or("tcp") {
            "tcp" => Probe::Tcp,
            "http" => {
                let path_asked = it.path.clone().unwrap_or("/".into());
                let is_target = path_asked.starts_with('/')
                    && path_asked.len() <= MAX_TEXT
                    && path_asked.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
                if !is_target {
                    let hint = "a query may follow";
                    let limit = format!("a path of at most {MAX_TEXT} bytes that begins with /");
                    self.refuse(&format!("{path}.path"), &path_asked, limit, hint);
                }
                let host = self.hostname(path, &it.host);
                Probe::Http { path: path_asked, host }
            }
            "grpc" => Probe::Grpc { service: it.grpc_service.clone().unwrap_or_default() },
            other => {
                let hint = "choose one, or leave it out";
                self.refuse(&format!("{path}.kind"), other, "one of tcp, http, grpc", hint);
                Probe::Tcp
            }
        };
        let mut number = |name, given, default, range| {
            self.within(&format!("{path}.{name}"), given, default, range)
        };
        let ms = |ms: u32| Duration::from_millis(ms.into());
        Check {
            probe,
            interval: ms(number("interval_ms", it.interval_ms, INTERVAL_MS_DEFAULT, INTERVAL_MS)),
            timeout: ms(number("timeout_ms", it.timeout_ms, TIMEOUT_MS_DEFAULT, TIMEOUT_MS)),
            healthy_after: number("healthy_after", it.healthy_after, 2, IN_A_ROW),
            unhealthy_after: number("unhealthy_after", it.unhealthy_after, 3, IN_A_ROW),
        }
    }

    pub(super) fn spill(&mut self, path: &str, it: &v1::Spill) -> Spill {
        let mut percent = |name, given, default, range| {
            self.within(&format!("{path}.{name}"), given, default, range)
        };
        Spill {
            at_percent: percent("at_percent", it.at_percent, SPILL_AT_DEFAULT, 1..=100),
            back_percent: percent("back_percent", it.back_percent, SPILL_BACK_DEFAULT, 0..=99),
            service: it.service.clone(),
            index: 0,
        }
    }

    pub(super) fn step_back(
        &mut self,
        path: &str,
        it: &v1::StepBack,
        refs: &[v1::BackendRef],
    ) -> StepBack {
        let backend = refs.iter().position(|backend| backend.name == it.backend);
        if backend.is_none() {
            let hint = "name the new one of them";
            self.refuse(&format!("{path}.backend"), &it.backend, "one of backend_refs", hint);
        }
        let mut number = |name, given, default, range| {
            self.within(&format!("{path}.{name}"), given, default, range)
        };
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        StepBack {
            backend: backend.unwrap_or_default(),
            least: number("min_requests", it.min_requests, MIN_REQUESTS_DEFAULT, MIN_REQUESTS),
            margin_percent: number("margin_percent", it.margin_percent, 5, 1..=100),
            window: seconds(number("window_s", it.window_s, WINDOW_S_DEFAULT, WINDOW_S)),
            hold: seconds(number("hold_s", it.hold_s, HOLD_S_DEFAULT, HOLD_S)),
            mark: 0,
        }
    }

    pub(super) fn affinity(&mut self, path: &str, it: &v1::SessionAffinity) -> Affinity {
        if !is_token(&it.cookie) {
            let hint = "a name of its own, which no service uses";
            self.refuse(&format!("{path}.cookie"), &it.cookie, "the name of a cookie", hint);
        }
        if let Some(seconds) = it.max_age_s {
            self.in_range(&format!("{path}.max_age_s"), seconds, &SECONDS);
        }
        Affinity { cookie: it.cookie.clone(), max_age_s: it.max_age_s }
    }

    pub(super) fn retry_on(&mut self, path: &str, statuses: &[u32]) -> Vec<u16> {
        if statuses.len() > MAX_STATUSES {
            let limit = format!("at most {MAX_STATUSES}");
            self.refuse(path, statuses.len(), limit, "leave some out");
        }
        for (n, &status) in statuses.iter().enumerate() {
            self.in_range(&format!("{path}[{n}]"), status, &SERVER_ERRORS);
        }
        statuses.iter().map(|&status| status as u16).collect()
    }

    pub(super) fn tier(&mut self, path: &str, name: &str) -> Option<Tier> {
        let named = Tier::ALL[1..].iter().copied().find(|tier| tier.name() == name);
        if named.is_none() {
            let hint = "leave it out to have it found by its address";
            self.refuse(path, name, "one of node, rack, remote", hint);
        }
        named
    }

    pub(super) fn networks(&mut self, path: &str, texts: &[String]) -> Vec<Network> {
        if texts.len() > MAX_NETWORKS {
            self.refuse(path, texts.len(), format!("at most {MAX_NETWORKS}"), "join some");
        }
        let mut networks = Vec::new();
        for (n, text) in texts.iter().enumerate() {
            match Network::parse(text) {
                Some(network) => networks.push(network),
                None => {
                    let path = format!("{path}[{n}]");
                    self.refuse(&path, text, "ADDRESS/BITS", "such as 10.1.0.0/16 or fd00::/8");
                }
            }
        }
        networks
    }
}
