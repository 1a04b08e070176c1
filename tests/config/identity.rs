//! Who a node is: two with one identity both say so, and a node can be made to forget.

use std::{fs, net::Ipv4Addr};

use purlin_tests::{Broker, Lab, Node, Result, ensure, lab::Test, node::setting, test, wait};

use purlin_proto::api::LinkState;
use rcgen::{CertificateParams, KeyPair, SanType};

use crate::{ROUND_TRIP, apply};

pub fn local() -> [Test; 2] {
    [
        test("a_node_that_was_reset_is_another_one_or_keeps_its_id", 60, reset),
        test("a_state_that_wakes_up_on_another_machine_says_so_and_runs_on", 120, moved),
    ]
}

pub fn remote() -> [Test; 2] {
    [
        test("two_nodes_with_one_identity_both_say_so", 120, shared),
        test("a_node_gets_a_certificate_by_files_and_renews_it_without_a_restart", 240, enrolled),
    ]
}

fn reset(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    let before = node.status()?;
    ensure!(apply(lab, &node, "version = 1\n[sampling]\ninterval_s = 7\n")?.code == 0, "applied");
    let held = node.cli(&["node", "reset", "--all", "--yes"])?;
    ensure!(held.code == 1 && held.stderr.contains("stop it first"), "{held:?}");
    node.stop()?;
    let asked = node.cli(&["node", "reset", "--keep-identity"])?;
    ensure!(asked.code == 64 && asked.stderr.contains("--yes"), "nobody to ask: {asked:?}");
    for keeps in ["--keep-identity", "--all"] {
        let done = node.cli(&["node", "reset", keeps, "--yes"])?;
        ensure!(done.code == 0, "{done:?}");
        let is_on_record = node.state_dir().join("audit").exists();
        ensure!(
            is_on_record == (keeps == "--keep-identity"),
            "{:?}",
            fs::read_dir(node.state_dir())?
        );
        node.start()?;
        let now = node.status()?;
        ensure!(now.incarnation != before.incarnation, "its records are others now");
        let config = node.config()?;
        ensure!(config.active.is_none(), "{:?}", config.active);
        ensure!(setting(&config, "sampling.interval_s")?.value == "10", "by default");
        ensure!(node.cli(&["audit", "verify"])?.code == 0, "the record is whole");
        node.stop()?;
    }
    Ok(())
}

/// A machine of a UUID and a disk; then another board, another disk, both.
fn moved(lab: &Lab) -> Result {
    let machine = |uuid: &str, disk: &str| -> Result {
        lab.file("root/sys/class/dmi/id/product_uuid", format!("{uuid}\n"))?;
        lab.file("root/sys/class/dmi/id/product_name", "Box\n")?;
        lab.file("root/sys/block/sda/size", "1000000\n")?;
        lab.file("root/sys/block/sda/removable", "0\n")?;
        lab.file("root/sys/block/sda/device/type", "0\n")?;
        lab.file("root/sys/block/sda/serial", format!("{disk}\n"))?;
        lab.file("root/etc/machine-id", format!("{:032x}\n", 7))?;
        Ok(())
    };
    let (one, two) =
        ("11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555");
    machine(one, "DISK1")?;
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_TEST__ROOT", lab.dir().join("root"));
    node.start()?;
    let file = node.state_dir().join("machine.json");
    let taken_down = |what: &str| {
        wait::until(what, ROUND_TRIP, || {
            fs::read_to_string(&file).map(drop).map_err(|e| e.to_string())
        })
    };
    taken_down("the machine is taken down")?;
    let known = fs::read_to_string(&file)?;
    ensure!(known.contains(one) && known.contains("DISK1"), "{known}");
    ensure!(apply(lab, &node, "version = 1\n[sampling]\ninterval_s = 7\n")?.code == 0, "applied");
    for (uuid, disk, what) in [
        (two, "DISK1", Some("the board was replaced")),
        (two, "DISK2", Some("none of its disks")),
        (one, "DISK3", Some("is a copy")),
        (one, "DISK3", None),
    ] {
        node.stop()?;
        machine(uuid, disk)?;
        node.start()?;
        let is_moved = || -> std::result::Result<String, String> {
            let faults = node.status().map_err(|e| format!("{e:?}"))?.faults;
            let fault = faults.into_iter().find(|fault| fault.id == "identity-moved");
            fault.map(|it| it.what).ok_or("it says nothing".into())
        };
        let Some(what) = what else {
            // As long as it took to be told otherwise.
            std::thread::sleep(std::time::Duration::from_secs(3));
            ensure!(is_moved().is_err(), "{:?}", is_moved());
            break;
        };
        let said = wait::until("it says so", ROUND_TRIP, is_moved)?;
        ensure!(said.contains(what), "{said}");
        let alarm = |id: &str| -> Result<bool> {
            Ok(node.status()?.alarms.iter().any(|alarm| alarm.id.contains(id)))
        };
        wait::until("an alarm is raised", ROUND_TRIP, || match alarm("identity-moved") {
            Ok(true) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        ensure!(setting(&node.config()?, "sampling.interval_s")?.value == "7", "it runs on");
        ensure!(node.cli(&["node", "accept"])?.code == 0, "settled");
        wait::until("it is settled", ROUND_TRIP, || match is_moved() {
            Ok(said) => Err(said),
            Err(_) => Ok(()),
        })?;
        taken_down("the machine is taken down anew")?;
    }
    ensure!(node.cli(&["audit", "list"])?.stdout.contains("node.accepted"), "on record");
    node.stop()?;
    Ok(())
}

fn shared(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let mut nodes = ["node", "copy"]
        .map(|name| Node::new(lab, name))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for node in &mut nodes {
        node.set("PURLIN_NODE", "node");
        node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
        node.start()?;
    }
    for node in &nodes {
        wait::until("it says that it is not alone", ROUND_TRIP * 3, || {
            let faults = node.status().map_err(|e| format!("{e:?}"))?.faults;
            let is_told = faults.iter().any(|fault| fault.id == "identity-shared");
            is_told.then_some(()).ok_or_else(|| format!("{faults:?}"))
        })?;
    }
    for node in &mut nodes {
        node.stop()?;
    }
    Ok(())
}

/// A broker that wants certificates of the fleet's authority, and a node without one.
fn enrolled(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    let path = |name: &str| lab.dir().join(name).display().to_string();
    let done = |node: &Node, words: &[&str]| -> Result {
        let answer = node.cli(words)?;
        ensure!(answer.code == 0, "{words:?}: {answer:?}");
        Ok(())
    };
    let (ca, other) = (path("ca"), path("other"));
    for dir in [&ca, &other] {
        done(&node, &["fleet", "authority", dir, "--fleet", "lab"])?;
    }
    let mut params = CertificateParams::new(["broker".to_owned()])?;
    params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    let key = KeyPair::generate()?;
    let server = lab.file("server.pem", params.self_signed(&key)?.pem())?;
    let server_key = lab.file("server.key", key.serialize_pem())?;
    let lines = format!(
        "cafile {ca}/ca.pem\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
         use_identity_as_username true",
        server.display(),
        server_key.display()
    );
    let mut broker = Broker::start_with(lab, &lines)?;
    node.set("PURLIN_UPLINK__ENDPOINT", format!("mqtts://127.0.0.1:{}", broker.port()));
    node.set("PURLIN_UPLINK__TRUST_ANCHORS", &server);
    node.start()?;
    let says = |node: &Node, what: &str| {
        wait::until(what, ROUND_TRIP * 3, || {
            let link = node.link().map_err(|e| format!("{e:?}"))?;
            let said = link.last_error.clone().unwrap_or_default();
            let is_so =
                if what == "up" { link.state == LinkState::Up } else { said.contains(what) };
            is_so.then_some(()).ok_or_else(|| format!("{link:?}"))
        })
    };
    says(&node, "wants a certificate")?;

    let (request, taken) = (path("node.csr"), path("node.pem"));
    let certify = |authority: &str| {
        done(
            &node,
            &["fleet", "certify", &request, &taken, "--authority", authority, "--node", "node"],
        )
    };
    done(&node, &["node", "enrol", "request", &request])?;
    let foreign =
        node.cli(&["fleet", "certify", &request, &taken, "--authority", &ca, "--node", "x"])?;
    ensure!(foreign.code == 1 && foreign.stderr.contains("of node node"), "{foreign:?}");
    certify(&ca)?;
    let pid = node.pid()?;
    done(&node, &["node", "enrol", "accept", &taken])?;
    says(&node, "up")?;

    // Renewed: the old one is in use until the new one is there.
    let pair = node.state_dir().join("identity/node.pem");
    let before = fs::read(&pair)?;
    done(&node, &["node", "enrol", "request", &request])?;
    certify(&ca)?;
    ensure!(fs::read(&pair)? == before, "nothing was taken yet");
    done(&node, &["node", "enrol", "accept", &taken])?;
    let renewed = fs::read(&pair)?;
    ensure!(renewed != before, "another certificate and another key");
    let before = node.link()?.connects;
    broker.restart()?;
    wait::until("a new session", ROUND_TRIP, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if link.connects > before { Ok(()) } else { Err(format!("{link:?}")) }
    })?;
    // One of an authority that the broker doesn't know ends the link and nothing else.
    done(&node, &["node", "enrol", "request", &request])?;
    certify(&other)?;
    done(&node, &["node", "enrol", "accept", &taken])?;
    broker.restart()?;
    says(&node, "doesn't trust our certificate")?;
    ensure!(node.status()?.faults.is_empty(), "{:?}", node.status()?.faults);
    fs::write(&pair, renewed)?;
    says(&node, "up")?;
    ensure!(node.pid()? == pid, "without a restart");
    wait::until("what was placed is on record", ROUND_TRIP * 3, || {
        let record = node.cli(&["audit", "list"]).map_err(|e| format!("{e:?}"))?.stdout;
        if record.contains("identity.placed") { Ok(()) } else { Err(record) }
    })?;
    node.stop()?;
    Ok(())
}
