//! Which settings exist, what they may be, and which source wins.
//!
//! A document arrives as a [`Draft`] of unchecked values; [`check`] turns it
//! into a [`Desired`] or into *every* reason why not. [`Settings::resolve`] then
//! lays it over what the agent started with, and each value keeps its [`Origin`].

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use semver::Version;

use crate::{
    alarm::rule, identity::Class, metric::Sampler, power::config as power, rack::config as rack,
};

pub mod spool;

use spool::{ClassDraft, ClassSettings, ClassWanted};

mod export;
mod intake;
mod mesh;
mod placement;
mod webhook;

pub use export::{Export, ExportDraft};
pub use intake::{Intake, IntakeDraft, Journal, Priority, QuotaDraft};
pub use webhook::Webhook;

pub use mesh::Mesh;
pub use placement::{MAX_PROFILES, Placement, PlacementDraft, ProfileDraft, WorkloadDraft};

/// Seconds between samples. Below 1 s the agent's own cost becomes a load;
/// beyond an hour a chart has nothing left to show.
pub const INTERVAL_S: RangeInclusive<u32> = 1..=3600;
/// Seconds between samples if nobody says otherwise.
pub const INTERVAL_S_DEFAULT: u32 = 10;
/// Size of the spool in MiB: below 2 a few minutes would fill it, and beyond
/// 64 GiB it is no buffer any more.
pub const SPOOL_CAP_MIB: RangeInclusive<u32> = 2..=65_536;
/// Weeks of the default metrics of a small node; `purlin queue show` counts them.
pub const SPOOL_CAP_MIB_DEFAULT: u32 = 256;
/// Seconds for which a metric may stay in memory.
pub const COMMIT_WINDOW_S: RangeInclusive<u32> = 1..=300;
/// Small commits are what wears flash: a minute's worth is some 40 KiB, near the
/// size where a commit costs little more than its bytes (docs/decisions/001).
pub const COMMIT_WINDOW_S_DEFAULT: u32 = 60;

/// KiB a second that the uplink sends; 0: as many as the link carries.
pub const RATE_KIB_S: RangeInclusive<u32> = 0..=1 << 20;
/// Brokers beside the first: a round over all takes 10 s for each that is silent.
pub const MAX_FALLBACKS: usize = 7;
/// A TCP port; 0: none.
const PORT: RangeInclusive<u32> = 0..=65_535;

/// Values as they stand in a document, none of them checked.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each field is documented in proto/purlin/v1/desired.proto")]
pub struct Draft {
    pub node: String,
    pub version: u64,
    pub least_agent: String,
    pub interval_s: Option<u32>,
    pub interval_s_by_sampler: BTreeMap<String, u32>,
    pub log_level: Option<String>,
    pub spool_cap_mib: Option<u32>,
    pub commit_window_s: Option<u32>,
    pub spool_class: BTreeMap<String, ClassDraft>,
    pub endpoint: Option<String>,
    pub fallbacks: Vec<String>,
    pub rate_kib_s: Option<u32>,
    pub placement: PlacementDraft,
    pub alarm_rules: BTreeMap<String, rule::Draft>,
    pub alarm_webhook: Option<String>,
    pub rack: BTreeMap<String, rack::Draft>,
    pub power: power::Draft,
    pub intake: IntakeDraft,
    pub export: ExportDraft,
    /// Checked where it is read from the wire.
    pub mesh: Option<Mesh>,
}

/// A document whose every value is possible here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    version: u64,
    interval_s: Option<u32>,
    interval_s_by_sampler: BTreeMap<Sampler, u32>,
    log_level: Option<Level>,
    spool_cap_mib: Option<u32>,
    commit_window_s: Option<u32>,
    spool_class: BTreeMap<Class, ClassWanted>,
    endpoint: Option<Endpoint>,
    fallbacks: Vec<Endpoint>,
    rate_kib_s: Option<u32>,
    placement: placement::Wanted,
    alarm_rules: Vec<rule::Rule>,
    alarm_webhook: Option<Webhook>,
    rack: Vec<rack::Bus>,
    power: Option<power::Wanted>,
    intake: Option<Intake>,
    export: Option<Export>,
    mesh: Option<Mesh>,
}

/// One reason for refusing a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where in the document, e.g. `sampling.interval_s`.
    pub path: String,
    /// What stood there.
    pub value: String,
    /// What may stand there.
    pub limit: String,
    /// What to do.
    pub hint: String,
}

/// Who checks: a document may be for another node or another agent.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    /// This node's id.
    pub node: &'a str,
    /// This agent's version.
    pub agent: &'a str,
    /// The register maps it has.
    pub maps: &'a [&'a str],
}

/// Checks every value of a draft. The error holds every reason, not the first.
pub fn check(draft: &Draft, reader: &Reader<'_>) -> Result<Desired, Vec<Refusal>> {
    let mut refusals = Vec::new();
    check_reader(draft, reader, &mut refusals);
    let in_range = |path: &str, value: Option<u32>, range, refusals: &mut Vec<Refusal>| {
        value.filter(|&value| check_range(path, value, &range, refusals))
    };
    let desired = Desired {
        version: draft.version,
        interval_s: in_range("sampling.interval_s", draft.interval_s, INTERVAL_S, &mut refusals),
        interval_s_by_sampler: check_samplers(&draft.interval_s_by_sampler, &mut refusals),
        log_level: parsed("log.level", &draft.log_level, &mut refusals),
        spool_cap_mib: in_range("spool.cap_mib", draft.spool_cap_mib, SPOOL_CAP_MIB, &mut refusals),
        commit_window_s: in_range(
            "spool.commit_window_s",
            draft.commit_window_s,
            COMMIT_WINDOW_S,
            &mut refusals,
        ),
        spool_class: spool::check(&draft.spool_class, &mut refusals),
        endpoint: parsed("uplink.endpoint", &draft.endpoint, &mut refusals),
        fallbacks: check_fallbacks(&draft.fallbacks, &mut refusals),
        rate_kib_s: in_range("uplink.rate_kib_s", draft.rate_kib_s, RATE_KIB_S, &mut refusals),
        placement: placement::check(&draft.placement, &mut refusals),
        alarm_rules: rule::check(&draft.alarm_rules, &mut refusals),
        alarm_webhook: parsed("alarms.webhook", &draft.alarm_webhook, &mut refusals),
        rack: rack::check(&draft.rack, reader.maps, &mut refusals),
        power: power::check(&draft.power, &mut refusals),
        intake: intake::check(&draft.intake, &mut refusals),
        export: export::check(&draft.export, &mut refusals),
        mesh: draft.mesh.clone(),
    };
    if refusals.is_empty() { Ok(desired) } else { Err(refusals) }
}

fn check_reader(draft: &Draft, reader: &Reader<'_>, refusals: &mut Vec<Refusal>) {
    if !draft.node.is_empty() && draft.node != reader.node {
        refusals.push(Refusal {
            path: "node".into(),
            value: draft.node.clone(),
            limit: format!("\"{}\", this node's id, or nothing", reader.node),
            hint: "this document is for another node: publish it on that node's topic".into(),
        });
    }
    if draft.least_agent.is_empty() {
        return;
    }
    match (Version::parse(&draft.least_agent), Version::parse(reader.agent)) {
        (Ok(least), Ok(agent)) if least <= agent => {}
        (Ok(_), _) => refusals.push(Refusal {
            path: "least_agent".into(),
            value: draft.least_agent.clone(),
            limit: format!("at most {}, this agent's version", reader.agent),
            hint: "update the agent on this node, or leave out what needs the newer one".into(),
        }),
        (Err(error), _) => refusals.push(Refusal {
            path: "least_agent".into(),
            value: draft.least_agent.clone(),
            limit: "a semantic version such as 0.1.0".into(),
            hint: error.to_string(),
        }),
    }
}

fn check_range(
    path: &str,
    value: u32,
    range: &RangeInclusive<u32>,
    refusals: &mut Vec<Refusal>,
) -> bool {
    let possible = range.contains(&value);
    if !possible {
        let nearest = value.clamp(*range.start(), *range.end());
        refusals.push(Refusal {
            path: path.into(),
            value: value.to_string(),
            limit: format!("{} to {}", range.start(), range.end()),
            hint: format!("the nearest possible value is {nearest}"),
        });
    }
    possible
}

fn check_samplers(
    intervals: &BTreeMap<String, u32>,
    refusals: &mut Vec<Refusal>,
) -> BTreeMap<Sampler, u32> {
    let mut checked = BTreeMap::new();
    for (name, &interval) in intervals {
        let path = format!("sampling.interval_s_by_sampler.{name}");
        let possible = check_range(&path, interval, &INTERVAL_S, refusals);
        match Sampler::ALL.into_iter().find(|sampler| sampler.name() == name) {
            Some(sampler) if possible => _ = checked.insert(sampler, interval),
            Some(_) => {}
            None => refusals.push(Refusal {
                path,
                value: name.clone(),
                limit: one_of(&Sampler::ALL.map(Sampler::name)),
                hint: "name one of the samplers, or leave this line out".into(),
            }),
        }
    }
    checked
}

fn check_fallbacks(texts: &[String], refusals: &mut Vec<Refusal>) -> Vec<Endpoint> {
    if texts.len() > MAX_FALLBACKS {
        refusals.push(Refusal {
            path: "uplink.fallbacks".into(),
            value: texts.len().to_string(),
            limit: format!("at most {MAX_FALLBACKS} endpoints"),
            hint: "a round over more would take minutes".into(),
        });
    }
    let texts = texts.iter().enumerate().take(MAX_FALLBACKS);
    let read = texts.filter_map(|(n, text)| {
        parsed(&format!("uplink.fallbacks[{n}]"), &Some(text.clone()), refusals)
    });
    read.collect()
}

fn parsed<T>(path: &str, value: &Option<String>, refusals: &mut Vec<Refusal>) -> Option<T>
where
    T: FromStr<Err = Impossible>,
{
    match value.as_ref()?.parse() {
        Ok(value) => Some(value),
        Err(Impossible { limit, hint }) => {
            let value = value.clone().unwrap_or_default();
            refusals.push(Refusal { path: path.into(), value, limit, hint });
            None
        }
    }
}

pub(crate) fn one_of(names: &[&str]) -> String {
    format!("one of {}", names.join(", "))
}

/// Why a text can't be a value: what may stand there, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impossible {
    /// What may stand there.
    pub limit: String,
    /// What to do.
    pub hint: String,
}

/// How much the agent writes about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    const ALL: [Level; 5] = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];

    /// The name used in documents.
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

impl FromStr for Level {
    type Err = Impossible;
    fn from_str(text: &str) -> Result<Self, Impossible> {
        Level::ALL.into_iter().find(|level| level.name() == text).ok_or_else(|| Impossible {
            limit: one_of(&Level::ALL.map(Level::name)),
            hint: "levels are written in lower case".into(),
        })
    }
}

/// Where an MQTT broker is: `mqtt://host[:port]`, or `mqtts://` with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// With TLS.
    pub tls: bool,
    /// Name or address, an IPv6 address without its brackets.
    pub host: String,
    /// TCP port; 1883 or 8883 where none was given (IANA).
    pub port: u16,
}

impl Endpoint {
    /// HOST:PORT, as an authority has it.
    pub fn authority(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl FromStr for Endpoint {
    type Err = Impossible;
    fn from_str(text: &str) -> Result<Self, Impossible> {
        let impossible = |hint: &str| Impossible {
            limit: "mqtt://HOST[:PORT] or mqtts://HOST[:PORT]".into(),
            hint: hint.into(),
        };
        let (tls, rest) = match text.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            _ => return Err(impossible("start with mqtt:// or mqtts://")),
        };
        if rest.contains('@') {
            return Err(impossible("leave the credentials out: they stand in the agent's file"));
        }
        let (host, port) = split_host(rest.trim_end_matches('/')).map_err(impossible)?;
        let port = port.unwrap_or(if tls { 8883 } else { 1883 });
        Ok(Self { tls, host: host.into(), port })
    }
}

/// The host and the port of `host[:port]`; the error says what they may be.
fn split_host(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = split_port(text).ok_or("the port is a number from 1 to 65535")?;
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:%".contains(c);
    match (1..=253).contains(&host.len()) && host.chars().all(is_host) {
        true => Ok((host, port)),
        false => Err("the host is a name or an address"),
    }
}

/// Splits `host[:port]`, with an IPv6 address in brackets; `None` if what
/// follows the host is no port.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some((host, None)),
        None => None,
        Some(port) => Some((host, Some(port.parse().ok().filter(|&port| port != 0)?))),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The agent's own file, a variable or the embedded broker, as named.
    Start(String),
    /// The configuration the core or a technician asked for.
    Desired {
        /// The document's own number.
        version: u64,
    },
}

impl Origin {
    /// Whether a document asked for it.
    pub fn is_desired(&self) -> bool {
        matches!(self, Origin::Desired { .. })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Start(source) => f.write_str(source),
            Origin::Desired { version } => write!(f, "desired version {version}"),
        }
    }
}

/// A value and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value in force.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

/// What the agent starts with, before any document.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Log level, and the source that named it.
    pub log_level: Option<(Level, String)>,
    /// First uplink endpoint, and the source that named it.
    pub endpoint: Option<(Endpoint, String)>,
}

/// Every setting in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Seconds between samples, unless a sampler has its own.
    pub interval_s: Setting<u32>,
    /// Seconds between samples, for each sampler.
    pub interval_s_by_sampler: BTreeMap<Sampler, Setting<u32>>,
    /// How much the agent writes about itself.
    pub log_level: Setting<Level>,
    /// Size of the metrics' log in MiB, which the others' follow.
    pub spool_cap_mib: Setting<u32>,
    /// Longest time a metric stays in memory, in seconds.
    pub commit_window_s: Setting<u32>,
    /// What each class may take.
    pub spool_class: BTreeMap<Class, ClassSettings>,
    /// The broker; `None`: there is none.
    pub endpoint: Setting<Option<Endpoint>>,
    /// Brokers that are used while better ones are away, best first.
    pub fallbacks: Setting<Vec<Endpoint>>,
    /// KiB a second that the uplink sends at most; 0: as many as the link carries.
    pub rate_kib_s: Setting<u32>,
    /// How containers are placed.
    pub placement: Placement,
    /// When a reading is an alarm.
    pub alarm_rules: Setting<Vec<rule::Rule>>,
    /// Where alarms are sent on site; `None`: nowhere.
    pub alarm_webhook: Setting<Option<Webhook>>,
    /// The buses of the rack.
    pub rack: Setting<Vec<rack::Bus>>,
    /// What is done when power or cooling fails; `None`: nothing.
    pub power: Setting<Option<power::Wanted>>,
    /// What workloads may hand in.
    pub intake: Setting<Intake>,
    /// What is handed to others on site.
    pub export: Setting<Export>,
    /// What the mesh is to do; `None`: nothing.
    pub mesh: Setting<Option<Mesh>>,
    /// Which document they are of, counted by this node; 0: of none, and `None` where
    /// that is not known.
    pub generation: Option<u64>,
}

impl Settings {
    /// Lays a document over what the agent started with.
    pub fn resolve(start: &Start, desired: Option<&Desired>) -> Self {
        let none = Desired::default();
        let wanted = desired.unwrap_or(&none);
        let interval =
            |own: Option<u32>| wanted.setting(own.or(wanted.interval_s), None, INTERVAL_S_DEFAULT);
        let spool_cap_mib = wanted.setting(wanted.spool_cap_mib, None, SPOOL_CAP_MIB_DEFAULT);
        let own = |sampler: &Sampler| wanted.interval_s_by_sampler.get(sampler).copied();
        Self {
            interval_s: interval(None),
            interval_s_by_sampler: (Sampler::ALL.into_iter())
                .map(|sampler| (sampler, interval(own(&sampler))))
                .collect(),
            log_level: wanted.setting(wanted.log_level, start.log_level.clone(), Level::Info),
            spool_class: (Class::ALL.into_iter())
                .map(|class| (class, spool::resolve(wanted, class, &spool_cap_mib)))
                .collect(),
            spool_cap_mib,
            commit_window_s: wanted.setting(wanted.commit_window_s, None, COMMIT_WINDOW_S_DEFAULT),
            endpoint: wanted.setting(
                wanted.endpoint.clone().map(Some),
                start.endpoint.clone().map(|(endpoint, source)| (Some(endpoint), source)),
                None,
            ),
            fallbacks: wanted.setting(
                (!wanted.fallbacks.is_empty()).then(|| wanted.fallbacks.clone()),
                None,
                Vec::new(),
            ),
            rate_kib_s: wanted.setting(wanted.rate_kib_s, None, 0),
            placement: Placement::resolve(wanted),
            alarm_rules: wanted.setting(
                (!wanted.alarm_rules.is_empty()).then(|| wanted.alarm_rules.clone()),
                None,
                Vec::new(),
            ),
            alarm_webhook: wanted.setting(wanted.alarm_webhook.clone().map(Some), None, None),
            rack: wanted.setting(
                (!wanted.rack.is_empty()).then(|| wanted.rack.clone()),
                None,
                Vec::new(),
            ),
            power: wanted.setting(wanted.power.clone().map(Some), None, None),
            intake: wanted.setting(wanted.intake.clone(), None, Intake::default()),
            export: wanted.setting(wanted.export.clone(), None, Export::default()),
            mesh: wanted.setting(wanted.mesh.clone().map(Some), None, None),
            generation: None,
        }
    }

    /// The same, of the document that this node counts as this one.
    pub fn of_generation(self, generation: Option<u64>) -> Self {
        Self { generation, ..self }
    }

    /// Time between two samples of one sampler.
    pub fn interval(&self, sampler: Sampler) -> Duration {
        let own = self.interval_s_by_sampler.get(&sampler);
        Duration::from_secs(own.unwrap_or(&self.interval_s).value.into())
    }

    /// Every setting as (path, value, origin), for people.
    pub fn rows(&self) -> Vec<(String, String, &Origin)> {
        let interval = &self.interval_s;
        let sampling = self.interval_s_by_sampler.iter().map(|(sampler, setting)| {
            let path = format!("sampling.interval_s_by_sampler.{}", sampler.name());
            (path, setting.value.to_string(), &setting.origin)
        });
        let first = [("sampling.interval_s".into(), interval.value.to_string(), &interval.origin)];
        let (level, cap) = (&self.log_level, &self.spool_cap_mib);
        let (window, endpoint) = (&self.commit_window_s, &self.endpoint);
        let named = endpoint.value.as_ref().map_or("none".into(), Endpoint::to_string);
        let rate = match self.rate_kib_s.value {
            0 => "as the link carries".into(),
            rate => rate.to_string(),
        };
        let classes =
            self.spool_class.iter().flat_map(|(class, settings)| spool::rows(*class, settings));
        let others = [
            ("log.level".into(), level.value.name().into(), &level.origin),
            ("spool.cap_mib".into(), cap.value.to_string(), &cap.origin),
            ("spool.commit_window_s".into(), window.value.to_string(), &window.origin),
            ("uplink.endpoint".into(), named, &endpoint.origin),
            ("uplink.fallbacks".into(), listed(&self.fallbacks.value), &self.fallbacks.origin),
            ("uplink.rate_kib_s".into(), rate, &self.rate_kib_s.origin),
        ];
        let buses = self.rack.value.iter().map(|bus| {
            let value = format!("{}, devices: {}", bus.port, bus.devices.len());
            (format!("rack.buses.{}", bus.name), value, &self.rack.origin)
        });
        let rules = self.alarm_rules.value.iter().map(|rule| {
            let value = format!("{} {}", rule.metric, rule.limit);
            (format!("alarms.rules.{}", rule.name), value, &self.alarm_rules.origin)
        });
        let webhook = self.alarm_webhook.value.as_ref().map(|webhook| {
            ("alarms.webhook".into(), webhook.to_string(), &self.alarm_webhook.origin)
        });
        let own = classes.chain(self.placement.rows()).chain(rules).chain(webhook).chain(buses);
        let own = own.chain(intake::rows(&self.intake)).chain(export::rows(&self.export));
        let own = own.chain(mesh::rows(&self.mesh));
        let power = self.power.value.iter().flat_map(power::Wanted::rows);
        let own = own.chain(power.map(|(path, value)| (path, value, &self.power.origin)));
        first.into_iter().chain(sampling).chain(others).chain(own).collect()
    }
}

fn listed(endpoints: &[Endpoint]) -> String {
    if endpoints.is_empty() {
        return "none".into();
    }
    endpoints.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(", ")
}

impl Desired {
    /// The document's own number.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The document's value, else the start's, else the built-in one.
    fn setting<T>(&self, wanted: Option<T>, start: Option<(T, String)>, default: T) -> Setting<T> {
        match (wanted, start) {
            (Some(value), _) => {
                Setting { value, origin: Origin::Desired { version: self.version } }
            }
            (None, Some((value, source))) => Setting { value, origin: Origin::Start(source) },
            (None, None) => Setting { value: default, origin: Origin::Default },
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const READER: Reader<'_> = Reader { node: "n1", agent: "0.1.0", maps: &[] };

    fn refusals(draft: &Draft) -> String {
        let refusals = check(draft, &READER).expect_err("a draft that is refused");
        let line =
            |r: &Refusal| format!("{}: {} (may be {}; {})\n", r.path, r.value, r.limit, r.hint);
        refusals.iter().map(line).collect()
    }

    #[track_caller]
    fn check_refused(draft: Draft, expected: Expect) {
        expected.assert_eq(&refusals(&draft));
    }

    #[test]
    fn an_empty_document_is_all_defaults() {
        let desired = check(&Draft::default(), &READER).expect("nothing to refuse");
        let settings = Settings::resolve(&Start::default(), Some(&desired));
        assert_eq!(settings, Settings::resolve(&Start::default(), None));
    }

    #[test]
    fn every_reason_is_told_at_once() {
        check_refused(
            Draft {
                node: "n2".into(),
                least_agent: "9.0.0".into(),
                interval_s: Some(0),
                interval_s_by_sampler: [("cpuu".into(), 5), ("disk".into(), 9999)].into(),
                log_level: Some("loud".into()),
                spool_cap_mib: Some(1),
                commit_window_s: Some(301),
                endpoint: Some("http://broker".into()),
                ..Draft::default()
            },
            expect![[r#"
                node: n2 (may be "n1", this node's id, or nothing; this document is for another node: publish it on that node's topic)
                least_agent: 9.0.0 (may be at most 0.1.0, this agent's version; update the agent on this node, or leave out what needs the newer one)
                sampling.interval_s: 0 (may be 1 to 3600; the nearest possible value is 1)
                sampling.interval_s_by_sampler.cpuu: cpuu (may be one of cpu, memory, pressure, disk, network, temperature, gpu; name one of the samplers, or leave this line out)
                sampling.interval_s_by_sampler.disk: 9999 (may be 1 to 3600; the nearest possible value is 3600)
                log.level: loud (may be one of error, warn, info, debug, trace; levels are written in lower case)
                spool.cap_mib: 1 (may be 2 to 65536; the nearest possible value is 2)
                spool.commit_window_s: 301 (may be 1 to 300; the nearest possible value is 300)
                uplink.endpoint: http://broker (may be mqtt://HOST[:PORT] or mqtts://HOST[:PORT]; start with mqtt:// or mqtts://)
            "#]],
        );
    }

    #[test]
    fn a_document_beats_the_start_and_the_start_beats_the_default() {
        let endpoint = |text: &str| text.parse::<Endpoint>().expect("a valid endpoint");
        let start = Start {
            log_level: Some((Level::Debug, "PURLIN_LOG__LEVEL".into())),
            endpoint: Some((endpoint("mqtt://first"), "purlin.toml".into())),
        };
        let draft = Draft {
            version: 7,
            endpoint: Some("mqtts://second:9000".into()),
            interval_s: Some(30),
            interval_s_by_sampler: [("cpu".into(), 1)].into(),
            ..Draft::default()
        };
        let desired = check(&draft, &READER).expect("a valid document");
        let settings = Settings::resolve(&start, Some(&desired));
        let rows: String = (settings.rows().iter())
            .map(|(path, value, origin)| format!("{path} = {value} ({origin})\n"))
            .collect();
        expect![[r#"
            sampling.interval_s = 30 (desired version 7)
            sampling.interval_s_by_sampler.cpu = 1 (desired version 7)
            sampling.interval_s_by_sampler.memory = 30 (desired version 7)
            sampling.interval_s_by_sampler.pressure = 30 (desired version 7)
            sampling.interval_s_by_sampler.disk = 30 (desired version 7)
            sampling.interval_s_by_sampler.network = 30 (desired version 7)
            sampling.interval_s_by_sampler.temperature = 30 (desired version 7)
            sampling.interval_s_by_sampler.gpu = 30 (desired version 7)
            log.level = debug (PURLIN_LOG__LEVEL)
            spool.cap_mib = 256 (default)
            spool.commit_window_s = 60 (default)
            uplink.endpoint = mqtts://second:9000 (desired version 7)
            uplink.fallbacks = none (default)
            uplink.rate_kib_s = as the link carries (default)
            spool.class.alarm.cap_mib = 16 (default)
            spool.class.alarm.when_full = drop-oldest (default)
            spool.class.alarm.ttl_h = 0 (default)
            spool.class.event.cap_mib = 32 (default)
            spool.class.event.when_full = drop-oldest (default)
            spool.class.event.ttl_h = 0 (default)
            spool.class.metric.cap_mib = 256 (default)
            spool.class.metric.when_full = downsample (default)
            spool.class.metric.ttl_h = 0 (default)
            spool.class.log.cap_mib = 64 (default)
            spool.class.log.when_full = drop-oldest (default)
            spool.class.log.ttl_h = 0 (default)
            spool.class.relay.cap_mib = 256 (default)
            spool.class.relay.when_full = drop-newest (default)
            spool.class.relay.ttl_h = 0 (default)
            placement.enabled = true (default)
            placement.reserved_cpus = a core of each node (default)
            placement.policy = optimal (default)
            placement.fail_open = false (default)
            placement.profiles = none (default)
            placement.repack_mib = 0 (default)
            placement.interrupts = true (default)
            placement.move_mib = 4096 (default)
            intake.otlp_socket = false (default)
            intake.otlp_port = none (default)
            intake.journal = not read (default)
            intake.quota = 64 KiB/s, 32 MiB a day (default)
            export.openmetrics_port = none (default)
            export.otlp = none (default)
        "#]]
        .assert_eq(&rows);
    }

    #[test]
    fn endpoints_are_read_strictly() {
        let check = |text: &str, printed: &str| {
            let printed_now = match text.parse::<Endpoint>() {
                Ok(endpoint) => endpoint.to_string(),
                Err(Impossible { hint, .. }) => hint,
            };
            assert_eq!(printed_now, printed, "{text}");
        };
        check("mqtt://broker", "mqtt://broker:1883");
        check("mqtts://broker/", "mqtts://broker:8883");
        check("mqtt://[::1]:18830", "mqtt://[::1]:18830");
        check("mqtt://user:pw@broker", "leave the credentials out: they stand in the agent's file");
        check("mqtt://broker:0", "the port is a number from 1 to 65535");
        check("mqtt://broker:x", "the port is a number from 1 to 65535");
        check("mqtt://", "the host is a name or an address");
        check("mqtt://a b", "the host is a name or an address");
    }
}
