//! A node of a fleet as it is shipped: its key is a credential that systemd decrypts for
//! nobody else, its certificate comes by a one-time token, and commands of the core let a
//! port blink and restart the machine. Its disk is kept over the restart.

use std::{
    fs,
    time::{Duration, Instant},
};

use purlin_tests::{
    Guest, Lab, Need, Result, ensure,
    guest::{KERNEL_ARGUMENTS, OWN, ROOT_BUS},
    lab::Test,
    test, wait,
};
use rcgen::{CertificateParams, KeyPair, SanType};
use serde_json::Value;

use crate::installed::{DISK, SOON, active};

/// Nobody restarts the machine sooner after its start.
const UP: f64 = 121.0;
/// What the node is told. Port 1883 is for whoever enrols and operates.
const SETTINGS: &str = r#"
fleet = "lab"
node = "node"
[uplink]
endpoint = "mqtts://127.0.0.1:8883"
trust_anchors = "/etc/purlin/server.pem"
client_key = "node.key"
[enrol]
endpoint = "mqtt://127.0.0.1:1883"
token_file = "/etc/purlin/token"
[trust]
keys = "/etc/purlin/keys.cose"
"#;
const BROKER: &str = "
per_listener_settings true
user root
listener 1883 127.0.0.1
allow_anonymous true
listener 8883 127.0.0.1
cafile /srv/ca/ca.pem
certfile /etc/purlin/server.pem
keyfile /srv/server.key
require_certificate true
use_identity_as_username true
";
const DROP_IN: &str = "[Service]\nLoadCredentialEncrypted=node.key:/etc/node.key.cred\n";

pub fn tests() -> Vec<Test> {
    let it = test("installed::a_node_of_a_fleet_is_restarted_by_a_command", 900, commanded);
    vec![it.needs(&[Need::Path(DISK), Need::Program("mosquitto")])]
}

fn boot(lab: &Lab, disk: &str) -> Result<Guest> {
    let drive = format!("file={disk},if=none,id=root,format=raw");
    let words = [
        ["-machine", "q35"],
        ["-smp", "2"],
        ["-m", "1024M"],
        ["-drive", &drive],
        ["-device", &format!("virtio-blk-pci,bus={ROOT_BUS},drive=root")],
        // A cable that leads nowhere.
        ["-netdev", "hubport,id=n1,hubid=1"],
        ["-device", &format!("e1000e,bus={ROOT_BUS},netdev=n1,romfile=")],
        ["-append", &format!("{KERNEL_ARGUMENTS} root=/dev/vda systemd.firstboot=off")],
    ];
    let words: Vec<String> = words.iter().flatten().map(|it| (*it).to_owned()).collect();
    let mut guest = Guest::boot(lab, &OWN, &words)?;
    active(&mut guest)?;
    Ok(guest)
}

/// Writes a file of the guest's root.
fn put(guest: &mut Guest, path: &str, text: &str) -> Result {
    guest.output(&format!("printf %b '{}' >{path}", text.replace('\n', "\\n"))).map(drop)
}

/// Runs a command beside the shell; what it tells is in `/tmp/NAME`.
fn beside(guest: &mut Guest, name: &str, command: &str) -> Result {
    guest.output(&format!("systemd-run -q --unit={name} sh -c '{command} >/tmp/{name} 2>&1'"))?;
    Ok(())
}

fn is_up(guest: &mut Guest) -> Result {
    wait::until("the link is up", SOON, || {
        let link = guest.purlin("status").map_err(|e| format!("{e:?}"))?["link"].clone();
        if link["state"] == "up" { Ok(()) } else { Err(link.to_string()) }
    })
}

fn order(guest: &mut Guest, words: &str) -> Result<Value> {
    let at = "--keys /srv/keys --broker mqtt://127.0.0.1:1883 --fleet lab -o json";
    let told = guest.run(&format!("purlin fleet command node {words} {at}"))?;
    let answer: Value = serde_json::from_str(&told.stdout).map_err(|e| format!("{e}: {told:?}"))?;
    Ok(answer["nodes"][0].clone())
}

fn commanded(lab: &Lab) -> Result {
    let disk = lab.dir().join("disk");
    fs::copy(std::env::var(DISK)?, &disk)?;
    let disk = disk.display().to_string();
    let mut guest = boot(lab, &disk)?;
    let booted = Instant::now();
    let result = enrolled(&mut guest).and_then(|()| restarted(&mut guest, booted));
    if let Err(failed) = result {
        let log = "purlin log; tail -n 20 /tmp/broker /tmp/clerk; \
                   journalctl --no-pager -b -q -n 40; true";
        let log = guest.output(log).unwrap_or_else(|e| format!("no journal: {e:?}"));
        let what = failed.message().unwrap_or("failed").to_owned();
        return Err(format!("{what}\n--- what is told\n{log}").into());
    }
    drop(guest);

    let mut guest = boot(lab, &disk)?;
    beside(&mut guest, "broker", "mosquitto -c /srv/broker.conf")?;
    is_up(&mut guest)?;
    let record = guest.output("purlin audit list")?;
    let done = record.lines().filter(|line| line.contains("command.done"));
    ensure!(done.clone().any(|line| line.contains("booted anew")), "{record}");
    ensure!(guest.run("purlin audit verify")?.code == 0, "the record is whole");
    Ok(())
}

/// It has its key from systemd, and its certificate by a token.
fn enrolled(guest: &mut Guest) -> Result {
    let mut params = CertificateParams::new(["broker".to_owned()])?;
    params.subject_alt_names.push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
    let server = KeyPair::generate()?;
    put(guest, "/etc/purlin/server.pem", &params.self_signed(&server)?.pem())?;
    put(guest, "/srv/server.key", &server.serialize_pem())?;
    put(guest, "/srv/broker.conf", BROKER)?;
    put(guest, "/etc/purlin/purlin.toml", SETTINGS)?;
    guest.output("purlin fleet authority /srv/ca --fleet lab")?;
    guest.output(
        "purlin fleet keygen /srv/keys --fleet lab && cp /srv/keys/keys.cose /etc/purlin",
    )?;
    beside(guest, "broker", "mosquitto -c /srv/broker.conf")?;
    let serve = "purlin fleet enrol --authority /srv/ca --broker mqtt://127.0.0.1:1883";
    beside(guest, "clerk", serve)?;
    let token = "purlin fleet token make --authority /srv/ca --node node >/etc/purlin/token";
    guest.output(&format!(
        "{token} && chgrp purlin /etc/purlin/token && chmod 640 /etc/purlin/token"
    ))?;

    // Nobody has the key in plain but systemd, and for its time the agent.
    put(guest, "/run/key", &KeyPair::generate()?.serialize_pem())?;
    guest.output(
        "systemd-creds encrypt -q --with-key=host --name=node.key /run/key /etc/node.key.cred && \
         rm /run/key && mkdir -p /etc/systemd/system/purlind.service.d",
    )?;
    put(guest, "/etc/systemd/system/purlind.service.d/key.conf", DROP_IN)?;
    guest.output("systemctl daemon-reload && systemctl restart purlind.service")?;
    is_up(guest)?;
    let plain =
        guest.run("grep -rl 'PRIVATE KEY' /var/lib/purlin /etc/purlin /etc/node.key.cred")?;
    ensure!(plain.stdout.is_empty(), "the key is in {}", plain.stdout);
    Ok(())
}

fn uptime(guest: &mut Guest) -> Result<f64> {
    Ok(guest.output("cut -d ' ' -f 1 /proc/uptime")?.trim().parse()?)
}

/// By commands: a port blinks, and the machine is told to start anew.
fn restarted(guest: &mut Guest, booted: Instant) -> Result {
    let nic = "basename $(dirname $(grep -l DRIVER=e1000e /sys/class/net/*/device/uevent | xargs dirname))";
    let nic = guest.output(nic)?;
    let blinked = order(guest, &format!("identify {} --for 2s", nic.trim()))?;
    ensure!(blinked["result"] == "done", "{blinked}");
    if uptime(guest)? < UP - 30.0 {
        let early = order(guest, "reboot")?;
        ensure!(early["result"] == "failed", "so soon after a start: {early}");
    }
    wait::until("the machine may be restarted", Duration::from_secs(180), || {
        match uptime(guest) {
            Ok(up) if up > UP => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    beside(
        guest,
        "operator",
        "purlin fleet command node reboot --keys /srv/keys --broker mqtt://127.0.0.1:1883 \
         --fleet lab",
    )?;
    wait::until("the machine restarts", SOON * 2, || match guest.ended() {
        Ok(true) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    println!("it was told to, {:.0} s after it was up", booted.elapsed().as_secs_f64());
    Ok(())
}
