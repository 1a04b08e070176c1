//! Keys that are somebody else's to keep: a credential of systemd's, a token behind PKCS#11
//! (SoftHSM, and a TPM that swtpm plays). The request, the first certificate, its renewal and
//! the session are all by that key, and no file of the node's has it.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use purlin_tests::{
    Lab, Need, Node, Result, broker::free_port, ensure, lab::Test, process::Process, test, wait,
};
use rcgen::KeyPair;

use crate::{
    ROUND_TRIP,
    enrol::{Fleet, is_up},
};

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "5678";

pub fn tests() -> [Test; 3] {
    let passwords = [Need::Program("mosquitto_passwd")];
    [
        test("a_key_may_be_a_credential_of_systemds", 120, credential).needs(&passwords),
        test("a_key_may_be_in_a_token_and_never_leaves_it", 180, softhsm)
            .needs(&passwords)
            .needs(&[Need::Program("softhsm2-util")]),
        test("a_key_may_be_in_a_tpm_and_never_leaves_it", 240, tpm).needs(&passwords).needs(&[
            Need::Program("swtpm"),
            Need::Program("tpm2-abrmd"),
            Need::Program("tpm2_ptool"),
            Need::Program("dbus-daemon"),
        ]),
    ]
}

fn credential(lab: &Lab) -> Result {
    let key = KeyPair::generate()?.serialize_pem();
    let file = lab.file("node-key", &key)?;
    let (_fleet, mut node) = lives_by(lab, "node-key", |node| {
        node.set("CREDENTIALS_DIRECTORY", lab.dir());
        Ok(())
    })?;
    ensure!(fs::read_to_string(file)? == key, "it is nobody's to write");
    node.stop()?;
    Ok(())
}

fn softhsm(lab: &Lab) -> Result {
    let tokens = lab.dir().join("tokens");
    fs::create_dir_all(&tokens)?;
    let lines =
        format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
    let config = lab.file("softhsm2.conf", lines)?;
    let mut made = Command::new("softhsm2-util");
    made.args(["--init-token", "--free", "--label", "purlin", "--so-pin", "1234", "--pin", PIN]);
    run(made.env("SOFTHSM2_CONF", &config))?;
    let uri = uri(lab, SOFTHSM)?;
    let (_fleet, mut node) = lives_by(lab, &uri, |node| {
        node.set("SOFTHSM2_CONF", &config);
        node.set("PURLIN_UPLINK__CLIENT_KEY_STATE", &tokens);
        Ok(())
    })?;
    node.stop()?;
    // A wrong PIN ends the link and nothing else, and says what is wrong.
    lab.file("pin", "9999")?;
    node.start()?;
    wait::until("the token refuses", ROUND_TRIP, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        let said = link.last_error.clone().unwrap_or_default();
        if said.contains("libsofthsm2.so") { Ok(()) } else { Err(format!("{link:?}")) }
    })?;
    lab.file("pin", PIN)?;
    is_up(&node)?;
    node.stop()?;
    Ok(())
}

/// The module needs somebody who shares the TPM out: the kernel's /dev/tpmrm0 on a node, here
/// tpm2-abrmd, on a bus of its own.
fn tpm(lab: &Lab) -> Result {
    let port = pair_of_ports()?;
    let dir = |name: &str| -> Result<String> {
        let dir = lab.dir().join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir.display().to_string())
    };
    let (state, store) = (dir("tpm")?, dir("store")?);
    let mut swtpm = Command::new("swtpm");
    swtpm.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
    swtpm.args(["--tpmstate", &format!("dir={state}")]);
    swtpm.args(["--server", &format!("type=tcp,port={port},bindaddr=127.0.0.1")]);
    swtpm.args(["--ctrl", &format!("type=tcp,port={},bindaddr=127.0.0.1", port + 1)]);
    let _swtpm = quiet(lab, &mut swtpm)?;
    let bus = format!("unix:path={}", lab.dir().join("bus").display());
    let mut daemon = Command::new("dbus-daemon");
    daemon.args(["--session", "--nofork", &format!("--address={bus}")]);
    let _bus = quiet(lab, &mut daemon)?;
    wait::until("there is a bus", ROUND_TRIP, || {
        if lab.dir().join("bus").exists() { Ok(()) } else { Err("none".to_owned()) }
    })?;
    let mut shared = Command::new("tpm2-abrmd");
    shared.args(["--session", "--allow-root", "--flush-all"]);
    shared.arg(format!("--tcti=swtpm:host=127.0.0.1,port={port}"));
    let _shared = quiet(lab, shared.env("DBUS_SESSION_BUS_ADDRESS", &bus))?;
    let environment = [
        ("DBUS_SESSION_BUS_ADDRESS", bus.as_str()),
        ("TPM2_PKCS11_TCTI", "tabrmd:bus_type=session"),
        ("TPM2TOOLS_TCTI", "tabrmd:bus_type=session"),
        ("TPM2_PKCS11_STORE", &store),
    ];
    let tool = |words: &[&str]| {
        let mut tool = Command::new("timeout");
        tool.args(["60", "tpm2_ptool"]).args(words).args(["--path", &store]).envs(environment);
        run(&mut tool)
    };
    wait::until("the TPM is shared", ROUND_TRIP, || tool(&["init"]).map_err(|e| format!("{e:?}")))?;
    tool(&["addtoken", "--pid=1", "--label=purlin", "--sopin=1234", &format!("--userpin={PIN}")])?;
    let module = format!("/usr/lib/{}-linux-gnu/pkcs11/libtpm2_pkcs11.so", std::env::consts::ARCH);
    let uri = uri(lab, &module)?;
    let (_fleet, mut node) = lives_by(lab, &uri, |node| {
        for (name, value) in environment {
            node.set(name, value);
        }
        node.set("PURLIN_UPLINK__CLIENT_KEY_STATE", &store);
        Ok(())
    })?;
    node.stop()?;
    Ok(())
}

/// A node whose key is there: it enrols by a token, is up, and gets its next certificate.
fn lives_by<'a>(
    lab: &'a Lab,
    key: &str,
    set: impl Fn(&mut Node) -> Result,
) -> Result<(Fleet<'a>, Node)> {
    let clerk = Node::new(lab, "clerk")?;
    let fleet = Fleet::new(lab, &clerk)?;
    let mut node = fleet.node("node", "node")?;
    node.set("PURLIN_UPLINK__CLIENT_KEY", key);
    set(&mut node)?;
    node.set("PURLIN_ENROL__TOKEN_FILE", lab.file("token", fleet.token(&clerk, "node", &[])?)?);
    let (serving, _) = fleet.serve(&clerk, "24s")?;
    node.start()?;
    is_up(&node)?;
    let pair = node.state_dir().join("identity/node.pem");
    let first = fs::read(&pair)?;
    wait::until("the next certificate", ROUND_TRIP * 2, || {
        let now = fs::read(&pair).map_err(|e| e.to_string())?;
        if now == first { Err("it is the same".into()) } else { Ok(()) }
    })?;
    serving.kill()?;
    // The next one holds longer than the rest of the test.
    let (serving, _) = fleet.serve(&clerk, "1h")?;
    let second = fs::read(&pair)?;
    wait::until("one that lasts", ROUND_TRIP * 2, || {
        let now = fs::read(&pair).map_err(|e| e.to_string())?;
        if now == second { Err("it is the same".into()) } else { Ok(()) }
    })?;
    serving.kill()?;
    for file in fs::read_dir(node.state_dir().join("identity"))? {
        let text = fs::read_to_string(file?.path())?;
        ensure!(!text.contains("PRIVATE KEY"), "a key is in a file of the node's: {text}");
    }
    is_up(&node)?;
    Ok((fleet, node))
}

fn uri(lab: &Lab, module: &str) -> Result<String> {
    ensure!(Path::new(module).exists(), "no module {module}");
    let pin = lab.file("pin", PIN)?;
    Ok(format!(
        "pkcs11:token=purlin;object=node?module-path={module}&pin-source=file:{}",
        pin.display()
    ))
}

/// The first of two: where a TPM is spoken to, and where it is controlled.
fn pair_of_ports() -> Result<u16> {
    for _ in 0..100 {
        let port = free_port()?;
        if port < u16::MAX && TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
            return Ok(port);
        }
    }
    Err("no two ports are free".into())
}

fn run(command: &mut Command) -> Result {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(())
}

fn quiet(lab: &Lab, command: &mut Command) -> Result<Process> {
    let log = File::options().create(true).append(true).open(lab.dir().join("quiet.log"))?;
    let process =
        Process::start(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log))?;
    std::thread::sleep(Duration::from_millis(200));
    ensure!(process.ended()?.is_none(), "{command:?} ended at once");
    Ok(process)
}
