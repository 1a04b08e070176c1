//! TLS on both sides, and a proxy on the way: a mosquitto that lets nobody in without a
//! certificate, what the link says of each that is wrong, a renewed one that is taken up
//! without a restart, and the same through an HTTP proxy.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use purlin_proto::api::{Link, LinkState};
use purlin_tests::{
    Broker, Lab, Need, Node, Result, ensure, lab::Test, node::class, process::Process, test, wait,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType,
    date_time_ymd,
};

/// For anything to come about, the longest backoff included.
const SOON: Duration = Duration::from_secs(90);

pub fn tests() -> Vec<Test> {
    let needs = [Need::Program("mosquitto")];
    let tests = [
        test("a_broker_that_wants_a_certificate_gets_it_and_a_renewed_one", 180, certificates),
        test("a_proxy_is_gone_through_with_and_without_a_password", 120, own_proxy),
        test("a_real_proxy_is_gone_through", 120, tinyproxy).needs(&[Need::Program("tinyproxy")]),
    ];
    tests.into_iter().map(|it| it.needs(&needs)).collect()
}

/// An authority, and its certificate in a file.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub file: PathBuf,
}

impl Authority {
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let file = lab.file(&format!("{name}.pem"), issuer.pem())?;
        Ok(Self { issuer, file })
    }

    /// Writes a certificate and its key as `to.pem` and `to.key`.
    pub fn issue(&self, name: &str, to: &Path, ends_in: i32) -> Result {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![
            SanType::DnsName(name.try_into()?),
            SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
        ];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(ends_in, 1, 1);
        let key = KeyPair::generate()?;
        fs::write(to.with_extension("key"), key.serialize_pem())?;
        fs::write(to.with_extension("pem"), params.signed_by(&key, &self.issuer)?.pem())?;
        Ok(())
    }
}

const EXPIRED: i32 = 2021;
pub const VALID: i32 = 4000;

struct Case {
    ours: Authority,
    theirs: Authority,
    broker: Broker,
    node: Node,
    /// The node's certificate, beside its key.
    certificate: PathBuf,
}

/// A broker that wants certificates of `ours`, and a node that has one.
fn case(lab: &Lab) -> Result<Case> {
    let (ours, theirs) = (Authority::new(lab, "ours")?, Authority::new(lab, "theirs")?);
    let [server, certificate] = ["server.pem", "node.pem"].map(|it| lab.dir().join(it));
    ours.issue("broker", &server, VALID)?;
    ours.issue("node", &certificate, VALID)?;
    let lines = format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
         use_identity_as_username true",
        ours.file.display(),
        server.display(),
        server.with_extension("key").display()
    );
    let broker = Broker::start_with(lab, &lines)?;
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_UPLINK__ENDPOINT", format!("mqtts://127.0.0.1:{}", broker.port()));
    node.set("PURLIN_UPLINK__TRUST_ANCHORS", &ours.file);
    node.set("PURLIN_UPLINK__CLIENT_CERTIFICATE", &certificate);
    node.set("PURLIN_UPLINK__CLIENT_KEY", certificate.with_extension("key"));
    Ok(Case { ours, theirs, broker, node, certificate })
}

fn certificates(lab: &Lab) -> Result {
    let Case { ours, theirs, mut broker, mut node, certificate } = case(lab)?;
    ours.issue("node", &certificate, EXPIRED)?;
    node.start()?;
    says(&node, "our certificate has expired")?;
    // Renewed in place: the next attempt has it, without a restart.
    ours.issue("node", &certificate, VALID)?;
    up(&node)?;
    let pid = node.pid()?;
    // The same while the link is up: it is used when the link is made anew.
    ours.issue("node", &certificate, VALID)?;
    let renewed = fs::read(&certificate)?;
    broker.restart()?;
    up_again(&node)?;
    ensure!(node.pid()? == pid && fs::read(&certificate)? == renewed, "no restart");
    theirs.issue("node", &certificate, VALID)?;
    broker.restart()?;
    says(&node, "the broker doesn't trust our certificate")?;
    ours.issue("node", &certificate, VALID)?;
    up(&node)?;
    node.stop()?;
    // What only the agent's file names.
    node.set("PURLIN_UPLINK__TRUST_ANCHORS", &theirs.file);
    node.start()?;
    says(&node, "is of no authority in uplink.trust_anchors")?;
    node.stop()?;
    node.set("PURLIN_UPLINK__TRUST_ANCHORS", &ours.file);
    node.unset("PURLIN_UPLINK__CLIENT_CERTIFICATE");
    node.unset("PURLIN_UPLINK__CLIENT_KEY");
    node.start()?;
    says(&node, "the broker wants a certificate of ours")?;
    let log = broker.log()?;
    ensure!(!log.contains("Error: Unable"), "{log}");
    node.stop()?;
    Ok(())
}

fn own_proxy(lab: &Lab) -> Result {
    let Case { mut node, broker: _broker, .. } = case(lab)?;
    let open = HttpProxy::start(None)?;
    node.set("PURLIN_UPLINK__PROXY", open.url());
    node.start()?;
    up(&node)?;
    arrives(&node)?;
    node.stop()?;
    ensure!(open.connected() > 0, "nothing went through the proxy");
    // printf 'purlin:secret' | base64
    let asking = HttpProxy::start(Some("cHVybGluOnNlY3JldA=="))?;
    node.set("PURLIN_UPLINK__PROXY", asking.url());
    log_in(lab, &mut node, "wrong")?;
    node.start()?;
    says(&node, "set uplink.proxy_username")?;
    ensure!(asking.connected() == 0, "let in with a wrong password");
    // The file is read anew at each attempt.
    log_in(lab, &mut node, "secret")?;
    up(&node)?;
    arrives(&node)?;
    let answer = node.cli(&["link", "test"])?;
    ensure!(answer.code == 0 && answer.stdout.contains("connect tcp 127.0.0.1"), "{answer:?}");
    node.stop()?;
    Ok(())
}

fn tinyproxy(lab: &Lab) -> Result {
    let Case { mut node, broker, .. } = case(lab)?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let config = format!(
        "Port {port}\nListen 127.0.0.1\nTimeout 600\nAllow 127.0.0.1\nConnectPort {}\n\
         BasicAuth purlin secret\n",
        broker.port()
    );
    let config = lab.file("tinyproxy.conf", config)?;
    let log = fs::File::create(lab.dir().join("tinyproxy.log"))?;
    let mut command = Command::new("tinyproxy");
    command.args(["-d", "-c"]).arg(config).stdin(Stdio::null());
    let _proxy = Process::start(command.stdout(log.try_clone()?).stderr(log))?;
    node.set("PURLIN_UPLINK__PROXY", format!("http://127.0.0.1:{port}"));
    node.start()?;
    says(&node, "set uplink.proxy_username")?;
    node.stop()?;
    log_in(lab, &mut node, "secret")?;
    node.start()?;
    up(&node)?;
    arrives(&node)?;
    node.stop()?;
    Ok(())
}

/// Has the node tell the proxy who it is.
fn log_in(lab: &Lab, node: &mut Node, password: &str) -> Result {
    node.set("PURLIN_UPLINK__PROXY_USERNAME", "purlin");
    node.set("PURLIN_UPLINK__PROXY_PASSWORD_FILE", lab.file("proxy.password", password)?);
    Ok(())
}

fn link(node: &Node, what: &str, ready: impl Fn(&Link) -> bool) -> Result<Link> {
    wait::until(what, SOON, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if ready(&link) { Ok(link) } else { Err(format!("{link:?}")) }
    })
}

fn up(node: &Node) -> Result {
    link(node, "the link", |it| it.state == LinkState::Up).map(drop)
}

fn up_again(node: &Node) -> Result {
    let before = node.link()?.connects;
    link(node, "a new link", |it| it.state == LinkState::Up && it.connects > before).map(drop)
}

/// The link is down, and says what to do.
fn says(node: &Node, hint: &str) -> Result {
    let says = |it: &Link| it.last_error.as_ref().is_some_and(|error| error.contains(hint));
    link(node, hint, |it| it.state != LinkState::Up && says(it)).map(drop)
}

/// Something is acknowledged.
fn arrives(node: &Node) -> Result {
    wait::until("an acknowledgement", SOON, || {
        let queue = node.queue().map_err(|e| format!("{e:?}"))?;
        let event = class(&queue, "event").map_err(|e| format!("{e:?}"))?;
        if event.acked_seq > 0 { Ok(()) } else { Err(format!("{event:?}")) }
    })
}

/// A proxy that knows CONNECT (RFC 9110, 9.3.6) and nothing else. It ends with the test.
struct HttpProxy {
    port: u16,
    connected: Arc<AtomicU32>,
}

impl HttpProxy {
    /// With what has to stand in `Proxy-Authorization: Basic`.
    fn start(login: Option<&'static str>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let connected = Arc::new(AtomicU32::new(0));
        let count = connected.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let count = count.clone();
                thread::spawn(move || tunnel(client, login, &count));
            }
        });
        Ok(Self { port, connected })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn connected(&self) -> u32 {
        self.connected.load(Ordering::Relaxed)
    }
}

fn tunnel(client: TcpStream, login: Option<&str>, connected: &AtomicU32) -> Option<()> {
    client.set_read_timeout(Some(SOON)).ok()?;
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let (mut request, mut is_known) = (String::new(), login.is_none());
    reader.read_line(&mut request).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let given = line.trim().strip_prefix("Proxy-Authorization: Basic ");
        is_known |= given.is_some() && given == login;
        if line.trim().is_empty() {
            break;
        }
    }
    let to = request.strip_prefix("CONNECT ")?.split(' ').next()?;
    // Loopback alone: a test reaches nothing else.
    let port: u16 = to.strip_prefix("127.0.0.1:")?.parse().ok()?;
    let mut client = client;
    if !is_known {
        let no = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
        return client.write_all(no.as_bytes()).ok();
    }
    let broker = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    connected.fetch_add(1, Ordering::Relaxed);
    let (from_broker, mut to_client) = (broker.try_clone().ok()?, client);
    let back = thread::spawn(move || copy(from_broker, &mut to_client));
    copy(reader, &mut { broker });
    back.join().ok()
}

/// Until either side ends.
fn copy(mut from: impl Read, to: &mut TcpStream) {
    _ = std::io::copy(&mut from, to);
    _ = to.shutdown(std::net::Shutdown::Both);
}
