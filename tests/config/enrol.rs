//! A node's certificate over the broker: the first by a one-time token, the next by the one
//! before, on a mosquitto with the listeners and rules of docs/broker.md.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use purlin_daemon::enrol::token;
use purlin_proto::api::LinkState;
use purlin_tests::{
    Broker, Lab, Need, Node, Result, broker::free_port, ensure, lab::Test, node::Answer,
    process::Process, test, wait,
};
use rcgen::{CertificateParams, KeyPair, SanType};

use crate::ROUND_TRIP;

/// What has a process see another time than the machine's; the loader knows the directory.
const OTHER_TIME: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";

pub fn tests() -> Vec<Test> {
    let other_time = Need::Program("faketime");
    let all = [
        test("a_node_gets_its_certificate_by_a_one_time_token", 180, by_token),
        test("a_certificate_is_renewed_by_itself_and_its_end_ends_the_link_alone", 240, renewed),
        test("a_certificate_that_the_broker_refuses_replaces_none", 240, not_yet)
            .needs(&[other_time]),
        test("a_node_whose_clock_stays_in_1970_enrols_and_renews", 120, in_1970)
            .needs(&[other_time]),
    ];
    all.into_iter().map(|test| test.needs(&[Need::Program("mosquitto_passwd")])).collect()
}

/// The broker of a fleet, and its authority.
pub struct Fleet<'a> {
    lab: &'a Lab,
    pub broker: Broker,
    /// For those that have a certificate.
    port: u16,
    /// For those that have none.
    door: u16,
    pub ca: PathBuf,
}

impl<'a> Fleet<'a> {
    pub fn new(lab: &'a Lab, node: &Node) -> Result<Self> {
        let ca = lab.dir().join("ca");
        let words = ["fleet", "authority", &text(&ca), "--fleet", "lab"];
        ensure!(node.cli(&words)?.code == 0, "an authority");
        let mut params = CertificateParams::new(["broker".to_owned()])?;
        params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        let key = KeyPair::generate()?;
        lab.file("server.pem", params.self_signed(&key)?.pem())?;
        lab.file("server.key", key.serialize_pem())?;
        let page = include_str!("../../docs/broker.md");
        let block = |name: &str| {
            let rest = page.split(&format!("```{name}\n")).nth(1);
            rest.and_then(|it| it.split("```").next()).ok_or(format!("no {name} in docs/broker.md"))
        };
        let acl = lab.file("acl", block("acl")?)?;
        let passwords = lab.file("passwords", "")?;
        for user in ["enrol", "operator"] {
            let mut command = Command::new("mosquitto_passwd");
            let output =
                command.arg("-b").arg(&passwords).args([user, &password(user)]).output()?;
            ensure!(output.status.success(), "{output:?}");
            lab.file(&format!("{user}.password"), password(user))?;
        }
        let (port, door) = (free_port()?, free_port()?);
        let listeners = block("conf listeners")?
            .replace("/etc/mosquitto/fleet-ca.pem", &text(&ca.join("ca.pem")))
            .replace("/etc/mosquitto", &text(lab.dir()))
            .replace("listener 8883", &format!("listener {port} 127.0.0.1"))
            .replace("listener 8884", &format!("listener {door} 127.0.0.1"));
        let lines = format!(
            "allow_anonymous false\npassword_file {}\nacl_file {}\n{listeners}",
            passwords.display(),
            acl.display()
        );
        let broker = Broker::start_with(lab, &lines)?.as_user("operator", &password("operator"));
        Ok(Self { lab, broker, port, door, ca })
    }

    /// A node that knows the way, and has nothing yet.
    pub fn node(&self, name: &str, id: &str) -> Result<Node> {
        let mut node = Node::new(self.lab, name)?;
        fs::create_dir_all(node.state_dir())?;
        node.set("PURLIN_NODE", id);
        node.set("PURLIN_UPLINK__ENDPOINT", format!("mqtts://127.0.0.1:{}", self.port));
        node.set("PURLIN_UPLINK__TRUST_ANCHORS", self.lab.dir().join("server.pem"));
        node.set("PURLIN_ENROL__ENDPOINT", format!("mqtts://127.0.0.1:{}", self.door));
        node.set("PURLIN_ENROL__PASSWORD_FILE", self.lab.dir().join("enrol.password"));
        Ok(node)
    }

    pub fn token(&self, node: &Node, id: &str, more: &[&str]) -> Result<String> {
        let ca = text(&self.ca);
        let words = ["fleet", "token", "make", "--authority", &ca, "--node", id];
        let made = node.cli(&[&words[..], more].concat())?;
        ensure!(made.code == 0, "{made:?}");
        Ok(made.stdout)
    }

    /// Whoever answers, and where what it tells is.
    pub fn serve(&self, node: &Node, lasts: &str) -> Result<(Process, PathBuf)> {
        self.serve_at(node, lasts, &[])
    }

    /// The same in another time.
    fn serve_at(
        &self,
        node: &Node,
        lasts: &str,
        time: &[(&str, &str)],
    ) -> Result<(Process, PathBuf)> {
        let told = self.lab.dir().join("served");
        let out = File::options().create(true).append(true).open(&told)?;
        let mut command = node.command(&[]);
        command.envs(time.iter().copied());
        command.args(["fleet", "enrol", "--authority", &text(&self.ca), "--for", lasts]);
        command.args(["--broker", &format!("mqtts://127.0.0.1:{}", self.door)]);
        let file = |name: &str| text(&self.lab.dir().join(name));
        command.args(["--ca", &file("server.pem"), "--username", "operator"]);
        command.args(["--password-file", &file("operator.password")]);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let process = Process::start(&mut command)?;
        wait::until("requests are served", ROUND_TRIP, || {
            let said = fs::read_to_string(&told).map_err(|e| e.to_string())?;
            if said.contains("serves requests of fleet lab") { Ok(()) } else { Err(said) }
        })?;
        Ok((process, told))
    }
}

fn password(user: &str) -> String {
    format!("{user}-password")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

pub fn is_up(node: &Node) -> Result {
    wait::until("the link is up", ROUND_TRIP * 2, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if link.state == LinkState::Up { Ok(()) } else { Err(format!("{link:?}")) }
    })
}

fn faulty(node: &Node, id: &str, says: &str) -> Result {
    wait::until(&format!("{id} is told"), ROUND_TRIP * 3, || {
        let faults = node.status().map_err(|e| format!("{e:?}"))?.faults;
        let is_told = faults.iter().any(|it| it.id == id && it.what.contains(says));
        if is_told { Ok(()) } else { Err(format!("{faults:?}")) }
    })
}

fn by_token(lab: &Lab) -> Result {
    let clerk = Node::new(lab, "clerk")?;
    let fleet = Fleet::new(lab, &clerk)?;
    let mut node = fleet.node("node", "node")?;
    let given = fleet.token(&clerk, "node", &[])?;
    let file = lab.file("token", &given)?;
    node.set("PURLIN_ENROL__TOKEN_FILE", &file);
    let wire = File::create(lab.dir().join("wire"))?;
    let mut listener = fleet.broker.listener("#", Duration::from_secs(170));
    listener.args(["-u", "operator", "-P", &password("operator")]).stdout(wire);
    let listening = Process::start(&mut listener)?;

    // Nobody answers yet: the node runs, and says what it waits for.
    node.start()?;
    faulty(&node, "not-enrolled", "no certificate")?;
    let (serving, told) = fleet.serve(&clerk, "90days")?;
    is_up(&node)?;
    wait::until("nothing is wrong any more", ROUND_TRIP, || {
        let faults = node.status().map_err(|e| format!("{e:?}"))?.faults;
        if faults.is_empty() { Ok(()) } else { Err(format!("{faults:?}")) }
    })?;
    let record = node.cli(&["audit", "list"])?;
    ensure!(record.stdout.contains("identity.enrolled"), "{record:?}");

    // Stolen, of another authority, expired, for another, taken back: refused, and why.
    let thief = fleet.node("thief", "node")?;
    let enrol = |node: &Node, token: &str| -> Result<Answer> {
        let file = lab.file("tried", token)?;
        node.cli_for(40, &["node", "enrol", "--token-file", &text(&file)])
    };
    let refused = |token: &str, why: &str| -> Result {
        let answer = enrol(&thief, token)?;
        ensure!(answer.code == 1 && answer.stderr.contains(why), "{why}: {answer:?}");
        ensure!(!thief.state_dir().join("identity/node.pem").exists(), "{why}: and took one");
        Ok(())
    };
    let certificate = fs::read(node.state_dir().join("identity/node.pem"))?;
    refused(&given, "is spent")?;
    refused(&fleet.token(&clerk, "other", &[])?, "is for other")?;
    refused(&fleet.token(&clerk, "node", &["--for", "0s"])?, "has expired")?;
    refused(&fleet.token(&clerk, "no*", &[])?, "has had a certificate")?;
    refused("purlin-enrol-1:AAAA", "it is no token")?;
    let gone = fleet.token(&clerk, "node", &[])?;
    let id = token::parse(&gone)?.id;
    let revoke = ["fleet", "token", "revoke", "--authority", &text(&fleet.ca), &id];
    ensure!(clerk.cli(&revoke)?.code == 0, "taken back");
    refused(&gone, "no such token")?;
    let mut pinned = token::parse(&fleet.token(&clerk, "node", &[])?)?;
    pinned.authority = vec![7; 32].into();
    refused(&token::write(&pinned), "not by the authority that the token names")?;

    // What went over the wire once is answered the same way again, and changes nothing.
    let heard = fs::read_to_string(lab.dir().join("wire"))?;
    let asked = heard.lines().find(|line| line.contains("/node/enrol ")).ok_or("no request")?;
    let bytes = purlin_tests::broker::unhex(asked.split(' ').nth(1).ok_or("no payload")?)?;
    let anybody = fleet.broker.seen_by("enrol", &password("enrol"));
    anybody.publish("purlin/v1/lab/node/enrol", &bytes, &[])?;
    wait::until("the same again", ROUND_TRIP, || {
        let said = fs::read_to_string(&told).map_err(|e| e.to_string())?;
        if said.contains("was sent the same again") { Ok(()) } else { Err(said) }
    })?;
    let now = fs::read(node.state_dir().join("identity/node.pem"))?;
    ensure!(now == certificate, "the node has the one it had");
    // By that login nobody tells a node anything.
    _ = anybody.retain("purlin/v1/lab/node/desired", b"\x10\x09");
    ensure!(fleet.broker.retained("purlin/v1/lab/node/desired")?.is_none(), "enrol told a node");

    // A new node, by hand, with a token for whoever comes first.
    let late = fleet.node("late", "late")?;
    let any = fleet.token(&clerk, "la*", &[])?;
    let got = enrol(&late, &any)?;
    ensure!(got.code == 0 && late.state_dir().join("identity/node.pem").exists(), "{got:?}");
    let listed = clerk.cli(&["fleet", "token", "list", "--authority", &text(&fleet.ca)])?;
    for what in ["spent", "expired", "open", "late"] {
        ensure!(listed.stdout.contains(what), "{what}: {listed:?}");
    }

    // Neither the token nor a key ever went over the wire.
    let heard = fs::read_to_string(lab.dir().join("wire"))?;
    let secret = token::parse(&given)?.secret;
    let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let key: String = b"PRIVATE KEY".iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(heard.lines().count() > 8 && !heard.contains(&digits), "the secret was sent");
    ensure!(!heard.contains(&key), "a key was sent");
    listening.signal(Signal::SIGTERM)?;
    listening.wait(ROUND_TRIP)?;
    serving.kill()?;
    node.stop()?;
    Ok(())
}

/// Certificates of 20 seconds.
fn renewed(lab: &Lab) -> Result {
    let clerk = Node::new(lab, "clerk")?;
    let mut fleet = Fleet::new(lab, &clerk)?;
    let mut node = fleet.node("node", "node")?;
    node.set("PURLIN_ENROL__TOKEN_FILE", lab.file("token", fleet.token(&clerk, "node", &[])?)?);
    let (serving, told) = fleet.serve(&clerk, "20s")?;
    node.start()?;
    is_up(&node)?;
    let (pid, connects) = (node.pid()?, node.link()?.connects);
    let pair = node.state_dir().join("identity/node.pem");
    let mut last = fs::read(&pair)?;
    for n in 0..2 {
        wait::until("the next certificate", ROUND_TRIP, || {
            let now = fs::read(&pair).map_err(|e| e.to_string())?;
            if now == last { Err("it is the same".into()) } else { Ok(()) }
        })?;
        last = fs::read(&pair)?;
        ensure!(node.link()?.connects == connects, "round {n}: the session went on");
    }
    ensure!(node.cli(&["audit", "list"])?.stdout.contains("identity.renewed"), "on record");
    // It is the new one that the next session has: the first has ended by now.
    fleet.broker.restart()?;
    wait::until("a session by a renewed certificate", ROUND_TRIP, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if link.connects > connects && link.state == LinkState::Up {
            Ok(())
        } else {
            Err(format!("{link:?}"))
        }
    })?;

    // Nobody makes certificates any more: the node runs on, says so, and its link ends at last.
    serving.kill()?;
    faulty(&node, "certificate-not-renewed", "nobody there makes certificates")?;
    faulty(&node, "certificate-ends", "has ended")?;
    fleet.broker.restart()?;
    wait::until("no broker lets it in", ROUND_TRIP, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if link.state == LinkState::Up { Err(format!("{link:?}")) } else { Ok(()) }
    })?;
    let queued = node.queue()?;
    wait::until("what it measures is kept", ROUND_TRIP, || {
        let now = node.queue().map_err(|e| format!("{e:?}"))?;
        if now.classes[0].last_seq > queued.classes[0].last_seq {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })?;
    // A new token brings it back, without a restart.
    lab.file("token", fleet.token(&clerk, "node", &[])?)?;
    fs::write(&told, "")?;
    let (serving, _) = fleet.serve(&clerk, "90days")?;
    wait::until("it is let in again", ROUND_TRIP * 3, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if link.state == LinkState::Up { Ok(()) } else { Err(format!("{link:?}")) }
    })?;
    ensure!(node.pid()? == pid, "without a restart");
    serving.kill()?;
    node.stop()?;
    Ok(())
}

/// An authority whose clock is ahead: what it makes holds for nobody yet. Certificates of two
/// minutes, so that the next one is asked for while the one in use holds by that clock, too.
fn not_yet(lab: &Lab) -> Result {
    let clerk = Node::new(lab, "clerk")?;
    let fleet = Fleet::new(lab, &clerk)?;
    let mut node = fleet.node("node", "node")?;
    node.set("PURLIN_ENROL__TOKEN_FILE", lab.file("token", fleet.token(&clerk, "node", &[])?)?);
    let (serving, told) = fleet.serve(&clerk, "120s")?;
    node.start()?;
    is_up(&node)?;
    serving.kill()?;
    let pair = node.state_dir().join("identity/node.pem");
    let (works, connects) = (fs::read(&pair)?, node.link()?.connects);

    let ahead = [("LD_PRELOAD", OTHER_TIME), ("FAKETIME", "+30s")];
    fs::write(&told, "")?;
    let (ahead, _) = fleet.serve_at(&clerk, "120s", &ahead)?;
    faulty(&node, "certificate-not-renewed", "the broker does not take the new certificate")?;
    ensure!(fs::read(&pair)? == works, "the one that works is in use");
    let link = node.link()?;
    ensure!(link.state == LinkState::Up && link.connects == connects, "{link:?}");
    let faults = node.status()?.faults;
    ensure!(!faults.iter().any(|it| it.what.contains("has ended")), "{faults:?}");
    // The clock there is right again.
    ahead.kill()?;
    fs::write(&told, "")?;
    let (serving, _) = fleet.serve(&clerk, "1h")?;
    wait::until("it has the next one", ROUND_TRIP, || match fs::read(&pair) {
        Ok(now) if now == works => Err("it is the same".into()),
        other => other.map(drop).map_err(|e| e.to_string()),
    })?;
    serving.kill()?;
    node.stop()?;
    Ok(())
}

/// Its battery is empty and no time service is there. Certificates of 20 seconds.
fn in_1970(lab: &Lab) -> Result {
    let clerk = Node::new(lab, "clerk")?;
    let fleet = Fleet::new(lab, &clerk)?;
    let mut node = fleet.node("node", "node")?;
    node.set("PURLIN_ENROL__TOKEN_FILE", lab.file("token", fleet.token(&clerk, "node", &[])?)?);
    let (serving, _) = fleet.serve(&clerk, "20s")?;
    node.set("LD_PRELOAD", OTHER_TIME);
    node.set("FAKETIME", "@1970-01-01 00:01:00");
    // It is the wall clock alone that is wrong.
    node.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    node.start()?;
    is_up(&node)?;
    let pair = node.state_dir().join("identity/node.pem");
    let mut last = fs::read(&pair)?;
    for _ in 0..2 {
        wait::until("the next certificate", ROUND_TRIP, || {
            let now = fs::read(&pair).map_err(|e| e.to_string())?;
            if now == last { Err("it is the same".into()) } else { Ok(()) }
        })?;
        last = fs::read(&pair)?;
    }
    let record = node.cli(&["audit", "list"])?.stdout;
    ensure!(record.contains("1970-01-01") && record.contains("identity.renewed"), "{record}");
    ensure!(!node.status()?.clock.trusted, "nobody has set it");
    serving.kill()?;
    node.stop()?;
    Ok(())
}
