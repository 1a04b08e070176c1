//! What the agent, and every command that must find it, needs to start.
//!
//! Read from `/etc/purlin/purlin.toml` (or `--config FILE`) and from `PURLIN_…`
//! variables, which win. The keys, their comments and their types are those of
//! `purlin.v1.AgentFile`; nothing is listed twice. All errors are told at once.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage};
use purlin_core::settings::{Endpoint, Impossible, Level, Refusal, Start};
use purlin_proto::{
    api::{self, Mode},
    topic, v1,
};
use serde_json::Value as Json;

use crate::{
    clock::Floor,
    document, enrol, heart, sparkplug,
    spool::Keys,
    state,
    uplink::{mqtt::Mqtt, relay},
};

/// The file whose presence means: this is a node's service.
pub const SYSTEM_FILE: &str = "/etc/purlin/purlin.toml";
/// Where a node's service listens unless its file says otherwise.
const SYSTEM_SOCKET: &str = "/run/purlin/agent.sock";
/// Where a node's service tells others of what it found.
const RUNTIME_DIR: &str = "/run/purlin";
/// Where it keeps its state unless its file says otherwise.
const SYSTEM_STATE: &str = "/var/lib/purlin";
/// Where the embedded broker listens unless the port is taken: away from 1883,
/// so that a real broker on this machine is left alone.
pub const BROKER_PORT: u16 = 18_830;
const VARIABLE_PREFIX: &str = "PURLIN_";
/// A path in a Unix socket address has 108 bytes with its final NUL (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// What the agent starts with.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The node's service, or run by hand.
    pub mode: Mode,
    /// Fleet.
    pub fleet: String,
    /// Node id; `None` if it is neither given nor derivable.
    pub node: Option<String>,
    /// State directory.
    pub state_dir: PathBuf,
    /// Socket of the local API.
    pub socket: PathBuf,
    /// First settings, each with the source that named it.
    pub start: Start,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// MQTT user name; `None`: the node id.
    pub username: Option<String>,
    /// File that holds the MQTT password.
    pub password_file: Option<PathBuf>,
    /// PEM file of trusted certificate authorities.
    pub trust_anchors: Option<PathBuf>,
    /// PEM file of the node's own certificate.
    pub certificate: Option<PathBuf>,
    /// Where its key is.
    pub key: enrol::Store,
    /// What a token's module writes.
    pub key_state: Option<PathBuf>,
    /// How a first certificate is asked for.
    pub enrol: Enrol,
    /// HTTP proxy on the way to the broker.
    pub proxy: Option<Proxy>,
    /// Who sends on for whom in the rack, if anybody does.
    pub relay: Option<relay::Config>,
    /// Who the node is to SCADA hosts, if it is to be one of theirs.
    pub sparkplug: Option<sparkplug::Config>,
    /// Key set of the fleet; with it, documents from the uplink must be signed.
    pub trust_keys: Option<PathBuf>,
    /// Port of the embedded broker.
    pub broker_port: u16,
    /// The container runtime's NRI socket, if one was named.
    pub nri_socket: Option<PathBuf>,
    /// Nothing is created by the OCI runtime wrapper while the agent can't be asked.
    pub oci_fail_closed: bool,
    /// The watchdog device that is fed.
    pub watchdog: Option<heart::Device>,
    /// File of the key that the spool is sealed with; a name alone is a credential.
    pub spool_key: Option<PathBuf>,
    /// Groups of this machine that give a role.
    pub roles: RoleGroups,
    /// Set by this project's own tests alone.
    pub test: v1::AgentTest,
}

/// Groups whose members may do something over the local API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleGroups {
    /// Look.
    pub viewer: String,
    /// What can be undone.
    pub technician: String,
    /// Everything.
    pub admin: String,
}

impl RoleGroups {
    fn new(access: v1::AgentAccess) -> Self {
        let group = |name: Option<String>, usual: &str| given(name).unwrap_or(usual.into());
        Self {
            viewer: group(access.viewer_group, "purlin-viewer"),
            technician: group(access.technician_group, "purlin-technician"),
            admin: group(access.admin_group, "purlin-admin"),
        }
    }
}

/// How a node asks that has no certificate yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrol {
    /// File of the token, or a credential's name.
    pub token_file: Option<PathBuf>,
    /// Where; `None`: where the uplink is.
    pub endpoint: Option<Endpoint>,
    /// MQTT user name.
    pub username: String,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
}

/// Peers that are asked to send on: a round over more would take a minute.
const MAX_PEERS: usize = 8;

/// An HTTP proxy that is asked to connect us (CONNECT).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Name or address, an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name, and the file that holds the password.
    pub login: Option<(String, PathBuf)>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// To the journal under systemd, else text.
    Auto,
    /// A line of text for each event, on standard error.
    Text,
    /// A JSON object for each event, on standard error.
    Json,
    /// To the journal.
    Journald,
}

impl LogFormat {
    const ALL: [(&'static str, LogFormat); 4] = [
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
        ("journald", LogFormat::Journald),
    ];
}

impl Boot {
    /// Reads the file and the environment. The error holds every reason.
    pub fn load(file: Option<&Path>) -> Result<Self, Vec<api::Refusal>> {
        let system = Path::new(SYSTEM_FILE);
        let path = file.or_else(|| system.exists().then_some(system));
        // A variable that is not UTF-8 is none of ours.
        let variables = env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::from_sources(path, variables.collect())
            .map_err(|refusals| refusals.into_iter().map(document::refusal_view).collect())
    }

    /// Where the mesh keeps its last table. The service's own is a user of its own, and
    /// sees nothing of the agent's.
    pub fn mesh_dir(&self) -> PathBuf {
        match self.state_dir == Path::new(SYSTEM_STATE) {
            true => "/var/lib/purlin-mesh".into(),
            false => self.state_dir.join("mesh"),
        }
    }

    /// Directories that the agent writes, and others where it reads what its file names: a
    /// file that is replaced has the same name in the same directory.
    pub fn directories(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let beside = |file: &Path| file.parent().map(Path::to_owned);
        let test = &self.test;
        let played = [&test.root, &test.journal].into_iter().flatten().map(PathBuf::from);
        let programs = [&test.reboot, &test.poweroff].into_iter().flatten();
        let played = played.chain(programs.filter_map(|it| beside(Path::new(it))));
        let (key, module) = match &self.key {
            enrol::Store::Own => (None, None),
            enrol::Store::File(file) => (Some(file), None),
            enrol::Store::Token(token) => (None, Some(token.uri())),
        };
        let identity = self.certificate.iter().chain(key);
        let own = [self.state_dir.clone(), RUNTIME_DIR.into(), self.mesh_dir()]
            .into_iter()
            .chain(beside(&self.socket))
            .chain(identity.filter_map(|file| beside(file)))
            .chain(self.key_state.clone())
            .chain(played);
        let login = self.proxy.iter().filter_map(|it| it.login.as_ref()).map(|it| &it.1);
        let named = [&self.password_file, &self.trust_anchors, &self.trust_keys, &self.spool_key];
        let enrol = [&self.enrol.password_file, &self.enrol.token_file];
        let module = module.into_iter().flat_map(|uri| [Some(&uri.module), uri.pin.as_ref()]);
        let named = named.into_iter().chain(enrol).map(Option::as_ref).chain(module);
        let relay = self.relay.iter().flat_map(|it| [&it.certificate, &it.key, &it.trust_anchors]);
        let named = named.flatten().chain(login).chain(relay);
        (own.collect(), named.filter_map(|file| beside(file)).collect())
    }

    /// How a node of that id is connected to its core.
    pub fn mqtt(&self, node: &str) -> Mqtt {
        Mqtt {
            client_id: node.into(),
            username: self.username.clone().unwrap_or_else(|| node.into()),
            password_file: self.password_file.clone(),
            trust_anchors: self.trust_anchors.clone(),
            certificate: self.certificate.clone(),
            enrolled: Some(enrol::pair(&self.state_dir)),
            key: self.key.clone(),
            proxy: self.proxy.clone(),
            floor: Floor::default(),
            mesh: Some(mesh_socket(&self.socket)),
        }
    }

    /// The same while it has no certificate yet, and asks for one.
    pub fn asker(&self, node: &str) -> Mqtt {
        Mqtt {
            client_id: format!("{node}-enrol"),
            username: self.enrol.username.clone(),
            password_file: self.enrol.password_file.clone(),
            certificate: None,
            enrolled: None,
            ..self.mqtt(node)
        }
    }

    /// File of the token that it asks by, if one was named.
    pub fn token_file(&self) -> Result<Option<PathBuf>, String> {
        let file = self.enrol.token_file.as_deref();
        file.map(|file| credential("enrol.token_file", file)).transpose()
    }

    /// The spool's keys; none if no file is named. The error says why they can't be had.
    pub fn spool_keys(&self) -> Result<Keys, String> {
        let Some(file) = &self.spool_key else { return Ok(Keys::default()) };
        Keys::read(&credential("spool.key_file", file)?)
    }

    fn from_sources(
        path: Option<&Path>,
        variables: BTreeMap<String, String>,
    ) -> Result<Self, Vec<Refusal>> {
        let mut tree = match path {
            None => Json::Object(serde_json::Map::new()),
            Some(path) => read_tree(path)?,
        };
        let mut origins = BTreeMap::new();
        let source = path.map_or("the environment".into(), |path| path.display().to_string());
        overlay(&document::descriptor("AgentFile"), &mut tree, "", &variables, &mut origins);
        let (message, mut refusals) = document::build(document::descriptor("AgentFile"), &tree);
        for refusal in &mut refusals {
            let origin = origins.get(&refusal.path).unwrap_or(&source);
            refusal.hint = format!("{} (in {origin})", refusal.hint);
        }
        let file: v1::AgentFile = message.transcode_to().unwrap_or_default();
        let mode = if path.is_some() { Mode::System } else { Mode::Standalone };
        Reader { origins, source, variables, refusals }.boot(mode, file)
    }
}

/// A file that a setting names; a name alone is a credential of systemd's.
pub fn credential(setting: &str, file: &Path) -> Result<PathBuf, String> {
    if file.components().count() > 1 {
        return Ok(file.into());
    }
    match env::var_os("CREDENTIALS_DIRECTORY") {
        Some(dir) => Ok(PathBuf::from(dir).join(file)),
        None => Err(format!(
            "{setting} {} is a credential, and systemd gave none: name a path, or \
             LoadCredential= in the unit",
            file.display()
        )),
    }
}

/// The NRI socket that a file alone names, for the helper, whose environment is another.
pub fn nri_socket(file: &Path) -> Result<Option<PathBuf>, String> {
    let told = |refusals: Vec<Refusal>| {
        let told = refusals.iter().map(|it| format!("{}: {}: {}", it.path, it.value, it.hint));
        format!("{} is refused: {}", file.display(), told.collect::<Vec<_>>().join("; "))
    };
    Boot::from_sources(Some(file), BTreeMap::new()).map(|boot| boot.nri_socket).map_err(told)
}

/// Turns a file's values into a [`Boot`], collecting what is impossible.
struct Reader {
    origins: BTreeMap<String, String>,
    source: String,
    variables: BTreeMap<String, String>,
    refusals: Vec<Refusal>,
}

impl Reader {
    fn boot(mut self, mode: Mode, file: v1::AgentFile) -> Result<Boot, Vec<Refusal>> {
        let log = file.log.unwrap_or_default();
        let uplink = file.uplink.unwrap_or_default();
        let port = file.broker.unwrap_or_default().port;
        let state_dir = path(file.state_dir).unwrap_or_else(|| self.default_state_dir(mode));
        let (certificate, key) = self.key(uplink.client_certificate, uplink.client_key);
        let fleet = self.level("fleet", file.fleet).unwrap_or("default".into());
        let login = (given(uplink.proxy_username), given(uplink.proxy_password_file));
        let login = self.pair("uplink.proxy_username", "uplink.proxy_password_file", login);
        let proxy = self.proxy(uplink.proxy, login.map(|(name, file)| (name, file.into())));
        let boot = Boot {
            mode,
            node: self.level("node", file.node).or_else(state::node_of_machine),
            socket: path(file.socket).unwrap_or_else(|| self.default_socket(mode, &state_dir)),
            start: Start {
                log_level: self.parsed::<Level>("log.level", log.level),
                endpoint: self.parsed::<Endpoint>("uplink.endpoint", uplink.endpoint),
            },
            log_format: self.log_format(log.format),
            username: given(uplink.username),
            password_file: path(uplink.password_file),
            trust_anchors: path(uplink.trust_anchors),
            certificate,
            key,
            key_state: path(uplink.client_key_state),
            enrol: self.enrol(file.enrol.unwrap_or_default()),
            proxy,
            relay: self.relay(file.relay.unwrap_or_default()),
            sparkplug: self.sparkplug(file.sparkplug.unwrap_or_default(), &fleet),
            fleet,
            roles: RoleGroups::new(file.access.unwrap_or_default()),
            trust_keys: path(file.trust.unwrap_or_default().keys),
            broker_port: self.port("broker.port", port).unwrap_or(BROKER_PORT),
            nri_socket: path(file.nri.unwrap_or_default().socket),
            oci_fail_closed: file.oci_runtime.unwrap_or_default().fail_closed(),
            watchdog: self.watchdog(file.watchdog.unwrap_or_default()),
            spool_key: path(file.spool.unwrap_or_default().key_file),
            test: file.test.unwrap_or_default(),
            state_dir,
        };
        let sockets = [("socket", Some(&boot.socket)), ("nri.socket", boot.nri_socket.as_ref())];
        for (key, socket) in sockets {
            if let Some(socket) = socket.filter(|it| it.as_os_str().len() > MAX_SOCKET_PATH) {
                let limit = format!("a path of at most {MAX_SOCKET_PATH} bytes (unix(7))");
                self.refuse(key, socket.display().to_string(), &limit, "name a shorter one");
            }
        }
        if self.refusals.is_empty() { Ok(boot) } else { Err(self.refusals) }
    }

    fn default_state_dir(&self, mode: Mode) -> PathBuf {
        match (mode, self.variable("XDG_STATE_HOME"), self.variable("HOME")) {
            (Mode::System, ..) => SYSTEM_STATE.into(),
            (_, Some(state), _) => PathBuf::from(state).join("purlin"),
            (_, None, home) => PathBuf::from(home.unwrap_or("/")).join(".local/state/purlin"),
        }
    }

    fn default_socket(&self, mode: Mode, state_dir: &Path) -> PathBuf {
        match (mode, self.variable("XDG_RUNTIME_DIR")) {
            (Mode::System, _) => SYSTEM_SOCKET.into(),
            (_, Some(runtime)) => PathBuf::from(runtime).join("purlin/agent.sock"),
            (_, None) => state_dir.join("agent.sock"),
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn level(&mut self, path: &str, value: Option<String>) -> Option<String> {
        let value = given(value)?;
        if topic::is_level(&value) {
            return Some(value);
        }
        let hint = "it becomes part of every MQTT topic";
        self.refuse(path, value, "1 to 64 letters, digits, '-', '_' or '.'", hint);
        None
    }

    fn parsed<T>(&mut self, path: &str, value: Option<String>) -> Option<(T, String)>
    where
        T: std::str::FromStr<Err = Impossible>,
    {
        let value = given(value)?;
        match value.parse() {
            Ok(parsed) => Some((parsed, self.origin(path))),
            Err(Impossible { limit, hint }) => {
                self.refuse(path, value, &limit, &hint);
                None
            }
        }
    }

    fn log_format(&mut self, value: Option<String>) -> LogFormat {
        let Some(value) = given(value) else { return LogFormat::Auto };
        match LogFormat::ALL.into_iter().find(|(name, _)| *name == value) {
            Some((_, format)) => format,
            None => {
                let names = LogFormat::ALL.map(|(name, _)| name).join(", ");
                self.refuse("log.format", value, &format!("one of {names}"), "choose one");
                LogFormat::Auto
            }
        }
    }

    /// Two values of which neither is worth anything without the other.
    fn pair(
        &mut self,
        first: &str,
        second: &str,
        pair: (Option<String>, Option<String>),
    ) -> Option<(String, String)> {
        let (path, value, other) = match pair {
            (Some(one), Some(two)) => return Some((one, two)),
            (None, None) => return None,
            (Some(value), None) => (first, value, second),
            (None, Some(value)) => (second, value, first),
        };
        self.refuse(path, value, &format!("one with {other}"), &format!("name {other} too"));
        None
    }

    fn proxy(&mut self, value: Option<String>, login: Option<(String, PathBuf)>) -> Option<Proxy> {
        let value = given(value)?;
        let parts = value.strip_prefix("http://").map(|it| it.trim_end_matches('/'));
        let parts = parts.and_then(|it| it.rsplit_once(':'));
        let parts = parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        match parts.filter(|(host, port)| !host.is_empty() && !host.contains('@') && *port != 0) {
            Some((host, port)) => {
                Some(Proxy { host: host.trim_matches(['[', ']']).to_owned(), port, login })
            }
            None => {
                let hint = "a password stands in the file uplink.proxy_password_file";
                self.refuse("uplink.proxy", value, "http://HOST:PORT", hint);
                None
            }
        }
    }

    /// The node's certificate, where one is named, and where its key is.
    fn key(
        &mut self,
        certificate: Option<String>,
        key: Option<String>,
    ) -> (Option<PathBuf>, enrol::Store) {
        let certificate = path(certificate);
        let store = match given(key) {
            None => {
                if let Some(certificate) = &certificate {
                    let (value, limit) = (certificate.display().to_string(), "one with its key");
                    let hint = "name uplink.client_key too";
                    self.refuse("uplink.client_certificate", value, limit, hint);
                }
                enrol::Store::Own
            }
            Some(key) if enrol::Uri::is_one(&key) => match enrol::Uri::parse(&key) {
                Ok(uri) => enrol::Store::Token(Arc::new(enrol::Token::new(uri))),
                Err(why) => {
                    let limit = "pkcs11:token=…;object=…?module-path=…&pin-source=… (RFC 7512)";
                    self.refuse("uplink.client_key", key, limit, &why);
                    enrol::Store::Own
                }
            },
            Some(file) => enrol::Store::File(file.into()),
        };
        (certificate, store)
    }

    fn enrol(&mut self, enrol: v1::AgentEnrol) -> Enrol {
        let endpoint = self.parsed::<Endpoint>("enrol.endpoint", enrol.endpoint);
        Enrol {
            token_file: path(enrol.token_file),
            endpoint: endpoint.map(|(endpoint, _)| endpoint),
            username: given(enrol.username).unwrap_or("enrol".into()),
            password_file: path(enrol.password_file),
        }
    }

    fn watchdog(&mut self, watchdog: v1::AgentWatchdog) -> Option<heart::Device> {
        let device = path(watchdog.device)?;
        let seconds = watchdog.timeout_s.unwrap_or(heart::TIMEOUT_S);
        if !heart::TIMEOUTS_S.contains(&seconds) {
            let limit = format!("{} to {}", heart::TIMEOUTS_S.start(), heart::TIMEOUTS_S.end());
            let hint = "a restart by systemd should have its turn first";
            self.refuse("watchdog.timeout_s", seconds.to_string(), &limit, hint);
        }
        Some(heart::Device { path: device, timeout: Duration::from_secs(seconds.into()) })
    }

    fn relay(&mut self, relay: v1::AgentRelay) -> Option<relay::Config> {
        let listen = given(relay.listen).and_then(|value| match value.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                let limit = "an address and a port, such as 10.0.0.7:18840";
                self.refuse("relay.listen", value, limit, "name one of this node's");
                None
            }
        });
        let texts = given(relay.peers).unwrap_or_default();
        let texts: Vec<&str> =
            texts.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
        if texts.len() > MAX_PEERS {
            let limit = format!("at most {MAX_PEERS} peers");
            self.refuse("relay.peers", texts.len().to_string(), &limit, "name the nearest");
        }
        let mut peers = Vec::new();
        for text in texts.into_iter().take(MAX_PEERS) {
            let parts = text.split_once('=').filter(|(node, _)| topic::is_level(node));
            match parts.filter(|(_, address)| has_port(address)) {
                Some((node, address)) => {
                    peers.push(relay::Peer { node: node.into(), address: address.into() });
                }
                None => self.refuse(
                    "relay.peers",
                    text.into(),
                    "NODE=HOST:PORT",
                    "name a node of the rack by its id",
                ),
            }
        }
        if listen.is_none() && peers.is_empty() {
            return None;
        }
        let files = [
            ("relay.certificate", relay.certificate),
            ("relay.key", relay.key),
            ("relay.trust_anchors", relay.trust_anchors),
        ];
        let [certificate, key, trust_anchors] = files.map(|(key, value)| {
            let file = path(value);
            if file.is_none() {
                self.refuse(key, String::new(), "a PEM file", "nodes know each other by it");
            }
            file
        });
        Some(relay::Config {
            listen,
            peers,
            certificate: certificate?,
            key: key?,
            trust_anchors: trust_anchors?,
        })
    }

    fn sparkplug(&mut self, given: v1::AgentSparkplug, fleet: &str) -> Option<sparkplug::Config> {
        let group = self.level("sparkplug.group", given.group);
        let primary_host = self.level("sparkplug.primary_host", given.primary_host);
        let group = group.unwrap_or_else(|| fleet.to_owned());
        given.enabled?.then_some(sparkplug::Config { group, primary_host })
    }

    fn port(&mut self, path: &str, value: Option<u32>) -> Option<u16> {
        match u16::try_from(value?) {
            Ok(port) if port != 0 => Some(port),
            _ => {
                let value = value.unwrap_or_default().to_string();
                self.refuse(path, value, "1 to 65535", "choose a free TCP port");
                None
            }
        }
    }

    fn origin(&self, path: &str) -> String {
        self.origins.get(path).unwrap_or(&self.source).clone()
    }

    fn refuse(&mut self, path: &str, value: String, limit: &str, hint: &str) {
        let hint = format!("{hint} (in {})", self.origin(path));
        self.refusals.push(Refusal { path: path.into(), value, limit: limit.into(), hint });
    }
}

/// The mesh's socket beside an agent's. The service's own is in a directory that its own
/// unit owns: systemd takes an agent's away with the agent.
pub fn mesh_socket(agents: &Path) -> PathBuf {
    match agents == Path::new(SYSTEM_SOCKET) {
        true => "/run/purlin-mesh/mesh.sock".into(),
        false => agents.with_file_name("mesh.sock"),
    }
}

/// Whether it ends in a port; the host is for the resolver to judge.
fn has_port(address: &str) -> bool {
    let parts = address.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|it| it > 0))
}

/// A value that was given: an empty one stands for none.
fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

fn path(value: Option<String>) -> Option<PathBuf> {
    given(value).map(PathBuf::from)
}

fn read_tree(path: &Path) -> Result<Json, Vec<Refusal>> {
    let refuse = |limit: &str, hint: String| {
        let path = path.display().to_string();
        vec![Refusal { value: String::new(), path, limit: limit.into(), hint }]
    };
    let text = fs::read_to_string(path).map_err(|error: io::Error| {
        refuse("a readable file", format!("{error}; `purlin config default` prints one"))
    })?;
    toml::from_str(&text).map_err(|error| refuse("well-formed TOML", error.to_string()))
}

/// Lays the variables over the tree, and notes which value came from which.
fn overlay(
    descriptor: &MessageDescriptor,
    tree: &mut Json,
    path: &str,
    variables: &BTreeMap<String, String>,
    origins: &mut BTreeMap<String, String>,
) {
    for field in descriptor.fields() {
        let path = match path {
            "" => field.name().to_owned(),
            path => format!("{path}.{}", field.name()),
        };
        if let Kind::Message(inner) = field.kind() {
            let mut section = tree.get(field.name()).cloned().unwrap_or(Json::Null);
            overlay(&inner, &mut section, &path, variables, origins);
            set(tree, field.name(), section);
        } else if let Some(value) = variables.get(&variable_name(&path)) {
            set(tree, field.name(), typed(&field, value));
            origins.insert(path.clone(), variable_name(&path));
        }
    }
}

fn variable_name(path: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", path.to_uppercase().replace('.', "__"))
}

fn typed(field: &FieldDescriptor, value: &str) -> Json {
    match (field.kind(), value.parse::<u64>(), value.parse::<bool>()) {
        (Kind::Uint32 | Kind::Uint64, Ok(number), _) => number.into(),
        (Kind::Bool, _, Ok(truth)) => truth.into(),
        _ => value.into(),
    }
}

fn set(tree: &mut Json, name: &str, value: Json) {
    if value.is_null() {
        return;
    }
    if tree.is_null() {
        *tree = Json::Object(serde_json::Map::new());
    }
    // A section that is no table stays as it is, for the reader to refuse.
    if let Json::Object(fields) = tree {
        fields.insert(name.into(), value);
    }
}

/// The whole file with its comments and defaults, for `purlin config default`.
pub fn default_file() -> String {
    let mut defaults = DynamicMessage::new(document::descriptor("AgentFile"));
    let agent = v1::AgentFile {
        fleet: Some("default".into()),
        log: Some(v1::AgentLog {
            level: Some(Level::Info.name().into()),
            format: Some("auto".into()),
        }),
        broker: Some(v1::AgentBroker { port: Some(BROKER_PORT.into()) }),
        ..Default::default()
    };
    defaults.transcode_from(&agent).expect("both are of the same message");
    let mut text = comment_of(&defaults.descriptor());
    text.push('\n');
    write_section(&defaults, &mut text);
    text
}

fn write_section(values: &DynamicMessage, text: &mut String) {
    let descriptor = values.descriptor();
    let (sections, keys): (Vec<_>, Vec<_>) =
        descriptor.fields().partition(|field| matches!(field.kind(), Kind::Message(_)));
    for field in keys {
        text.push_str(&field_comment(&descriptor, &field));
        let value = values.get_field(&field);
        let value = match field.kind() {
            Kind::String => format!("{:?}", value.as_str().unwrap_or_default()),
            _ => value.to_string(),
        };
        text.push_str(&format!("# {} = {value}\n\n", field.name()));
    }
    for field in sections.iter().filter(|field| field.name() != "test") {
        if let (Kind::Message(inner), Some(values)) =
            (field.kind(), values.get_field(field).as_message())
        {
            text.push_str(&comment_of(&inner));
            text.push_str(&format!("[{}]\n\n", field.name()));
            write_section(values, text);
        }
    }
}

fn comment_of(descriptor: &MessageDescriptor) -> String {
    comment(descriptor, descriptor.path())
}

fn field_comment(descriptor: &MessageDescriptor, field: &FieldDescriptor) -> String {
    comment(descriptor, field.path())
}

fn comment(descriptor: &MessageDescriptor, path: &[i32]) -> String {
    let comment = document::comment(descriptor, path);
    comment.lines().map(|line| format!("#{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn load(file: &str, variables: &[(&str, &str)]) -> Result<Boot, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("purlin.toml");
        fs::write(&path, file).expect("a write");
        let variables =
            variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Boot::from_sources(Some(&path), variables).map_err(|refusals| {
            let line =
                |r: &Refusal| format!("{}: {} (may be {}; {})\n", r.path, r.value, r.limit, r.hint);
            let text: String = refusals.iter().map(line).collect();
            text.replace(&path.display().to_string(), "FILE")
        })
    }

    #[track_caller]
    fn check_refused(file: &str, variables: &[(&str, &str)], expected: Expect) {
        expected.assert_eq(&load(file, variables).expect_err("a file that is refused"));
    }

    #[test]
    fn the_environment_wins_and_is_named() {
        let file =
            "node = \"n1\"\n[uplink]\nendpoint = \"mqtt://file\"\n[log]\nlevel = \"debug\"\n";
        let boot = load(file, &[("PURLIN_UPLINK__ENDPOINT", "mqtt://env")]).expect("a valid file");
        let (endpoint, origin) = boot.start.endpoint.expect("an endpoint");
        assert_eq!((endpoint.host.as_str(), origin.as_str()), ("env", "PURLIN_UPLINK__ENDPOINT"));
        let (level, origin) = boot.start.log_level.expect("a level");
        assert!(level == Level::Debug && origin.ends_with("purlin.toml"));
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_source() {
        check_refused(
            "fleeet = \"x\"\nnode = 7\n[broker]\nport = \"many\"\n",
            &[("PURLIN_TEST__CPU_INTERVAL_MS", "soon")],
            expect![[r#"
                broker.port: "many" (may be a whole number from 0 to 4294967295; correct this value (in FILE))
                fleeet: fleeet (may be one of fleet, node, state_dir, socket, log, uplink, broker, nri, oci_runtime, spool, trust, relay, sparkplug, access, watchdog, enrol, test; did you mean "fleet"? (in FILE))
                node: 7 (may be text in quotes; correct this value (in FILE))
                test.cpu_interval_ms: "soon" (may be a whole number from 0 to 4294967295; correct this value (in PURLIN_TEST__CPU_INTERVAL_MS))
            "#]],
        );
        check_refused(
            "fleet = \"a/b\"\n[broker]\nport = 70000\n[log]\nlevel = \"LOUD\"\nformat = \"xml\"\n",
            &[("PURLIN_UPLINK__ENDPOINT", "tcp://x")],
            expect![[r#"
                fleet: a/b (may be 1 to 64 letters, digits, '-', '_' or '.'; it becomes part of every MQTT topic (in FILE))
                log.level: LOUD (may be one of error, warn, info, debug, trace; levels are written in lower case (in FILE))
                uplink.endpoint: tcp://x (may be mqtt://HOST[:PORT] or mqtts://HOST[:PORT]; start with mqtt:// or mqtts:// (in PURLIN_UPLINK__ENDPOINT))
                log.format: xml (may be one of auto, text, json, journald; choose one (in FILE))
                broker.port: 70000 (may be 1 to 65535; choose a free TCP port (in FILE))
            "#]],
        );
    }

    #[test]
    fn the_default_file_explains_itself_and_loads() {
        let text = default_file();
        for key in ["fleet", "state_dir", "[uplink]", "trust_anchors", "[broker]", "18830"] {
            assert!(text.contains(key), "{key} is missing from:\n{text}");
        }
        assert!(!text.contains("test"), "for our own tests alone:\n{text}");
        load(&text, &[]).expect("a valid file");
        let uncommented: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ").filter(|line| line.contains(" = ")) {
                Some(key) => format!("{key}\n"),
                None => format!("{line}\n"),
            })
            .collect();
        load(&uncommented, &[]).expect("every default is a valid value");
    }
}
