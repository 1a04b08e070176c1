//! Hardware that comes, goes and changes: what the running agent makes of the
//! kernel's uevents, and two inventories against each other.
//!
//! Uevents are the kernel's own, of interfaces made in a network namespace of the
//! test. NICs, which no test can plug into this machine, are directories.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{Read, Write},
    os::unix::{fs::symlink, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use purlin_proto::v1::Event;
use purlin_tests::{Broker, Lab, Need, Node, Proxy, Result, ensure, lab::Test, test, wait};
use serde_json::Value;

/// From a uevent until it shows, at most; measured and printed.
const SOON: Duration = Duration::from_secs(10);
/// Until an agent built without optimization has read the machine.
const READY: Duration = Duration::from_secs(30);
/// Two dumps of real machines compared, at most.
const COMPARED: Duration = Duration::from_secs(20);

pub fn tests() -> Vec<Test> {
    let namespace =
        [Need::Root, Need::Program("ip"), Need::Program("unshare"), Need::Is(no_interface)];
    let core = [Need::Program("mosquitto")];
    vec![
        test("an_interface_that_appears_is_seen_within_seconds", 120, interface).needs(&namespace),
        test("hardware_that_comes_and_goes_is_told_to_the_core", 180, told_to_the_core)
            .needs(&[&namespace[..], &core].concat()),
        test("the_first_hardware_is_accepted_and_drift_from_it_is_a_fault", 180, baseline),
        test("a_damaged_baseline_is_set_aside_and_told", 180, damaged),
        test("two_inventories_differ_in_what_was_changed", 60, inventories),
        test("two_dumps_of_real_machines_are_compared_in_seconds", 120, dumps)
            .needs(&[Need::Is(no_dumps)]),
    ]
}

fn interface(lab: &Lab) -> Result {
    enter_namespace()?;
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    let seen = |name: &str| -> std::result::Result<(), String> {
        let inventory = get(&node, "/v1/inventory").map_err(|e| format!("{e:?}"))?;
        let nics = inventory["nics"].as_array().ok_or("not read yet")?;
        let names: Vec<_> = nics.iter().map(|nic| nic["name"].as_str()).collect();
        if names.contains(&Some(name)) { Ok(()) } else { Err(format!("{names:?}")) }
    };
    wait::until("the first read", READY, || seen("lo"))?;
    let began = Instant::now();
    link_add("new0")?;
    wait::until("the interface", SOON, || seen("new0"))?;
    println!("an interface appears: {:?} after ip returned", began.elapsed());
    let began = Instant::now();
    ip(&["link", "del", "new0"])?;
    wait::until("its end", SOON, || match seen("new0") {
        Ok(()) => Err("still there".into()),
        Err(_) => Ok(()),
    })?;
    println!("an interface vanishes: {:?} after ip returned", began.elapsed());
    node.stop()?;
    Ok(())
}

fn told_to_the_core(lab: &Lab) -> Result {
    enter_namespace()?;
    let broker = Broker::start(lab)?;
    let proxy = Proxy::start(broker.port())?;
    let mut node = machine(lab, [1, 2])?;
    node.set("PURLIN_UPLINK__ENDPOINT", proxy.endpoint());
    node.start()?;
    accepted(&node)?;

    plug(lab, 3)?;
    let began = Instant::now();
    link_add("eth3")?;
    let event = told(&proxy, "hw.appeared")?;
    println!("a NIC appears: at the core {:?} after ip returned", began.elapsed());
    let expected = [("hw.part", "nic"), ("hw.kind", "NIC"), ("hw.id", "at 0000:43:00.0")];
    let expected: BTreeMap<_, _> =
        expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let attributes: BTreeMap<_, _> = event.attributes.into_iter().collect();
    ensure!(attributes == expected, "{attributes:?}");
    ensure!(event.text == "NIC eth3 at 0000:43:00.0 appeared", "{}", event.text);

    unplug(lab, 3)?;
    let began = Instant::now();
    ip(&["link", "del", "eth3"])?;
    let event = told(&proxy, "hw.vanished")?;
    println!("a NIC vanishes: at the core {:?} after ip returned", began.elapsed());
    ensure!(event.text.contains("eth3"), "{}", event.text);

    // The kernel removes something else, and meanwhile both can't be read.
    unplug(lab, 1)?;
    unplug(lab, 2)?;
    link_add("eth9")?;
    ip(&["link", "del", "eth9"])?;
    let event = told(&proxy, "hw.reader_fault")?;
    ensure!(event.text.contains("eth1") && event.text.contains("eth2"), "{}", event.text);
    let faults = node.status()?.faults;
    ensure!(faults.iter().any(|fault| fault.id == "reader-fault"), "{faults:?}");
    plug(lab, 1)?;
    plug(lab, 2)?;
    link_add("eth9")?;
    told(&proxy, "hw.reader_back")?;
    wait::until("no fault is left", SOON, || {
        let faults = node.status().map_err(|e| format!("{e:?}"))?.faults;
        if faults.is_empty() { Ok(()) } else { Err(format!("{faults:?}")) }
    })?;
    let names: Vec<_> = events(&proxy).into_iter().map(|event| event.name).collect();
    let vanished = names.iter().filter(|name| *name == "hw.vanished").count();
    ensure!(vanished == 1, "a reader's fault told as gone: {names:?}");
    node.stop()?;
    Ok(())
}

fn baseline(lab: &Lab) -> Result {
    let mut node = machine(lab, [1, 2])?;
    node.start()?;
    accepted(&node)?;
    ensure!(node.state_dir().join("baseline.json").exists(), "the baseline is not on the disk");
    node.stop()?;

    unplug(lab, 2)?;
    // Without the agent too: what it accepted, against this machine.
    let offline = node.cli(&["hw", "diff"])?;
    ensure!(offline.code == 2, "the agent's machine is not this one: {offline:?}");
    node.start()?;
    let answer = wait::until("drift", READY, || {
        let answer = node.cli(&["hw", "diff"]).map_err(|e| format!("{e:?}"))?;
        if answer.code == 2 { Ok(answer) } else { Err(format!("{answer:?}")) }
    })?;
    ensure!(answer.stdout.contains("NIC eth2 at 0000:42:00.0"), "{answer:?}");
    let status = node.status()?;
    let drift = status.faults.iter().find(|fault| fault.id == "hardware-drift");
    ensure!(drift.is_some_and(|it| it.next.contains("hw accept")), "{:?}", status.faults);

    let answer = node.cli(&["hw", "accept"])?;
    ensure!(answer.code == 0, "{answer:?}");
    ensure!(node.cli(&["hw", "diff"])?.code == 0, "accepted, and still drift");
    node.stop()?;
    Ok(())
}

fn damaged(lab: &Lab) -> Result {
    let mut node = machine(lab, [1, 2])?;
    node.start()?;
    accepted(&node)?;
    node.stop()?;
    let path = node.state_dir().join("baseline.json");
    let whole = fs::read(&path)?;
    fs::write(&path, &whole[..whole.len() / 2])?;
    node.start()?;
    wait::until("the damage is told", READY, || {
        let faults = node.status().map_err(|e| format!("{e:?}"))?.faults;
        let told = faults.iter().any(|fault| fault.id == "baseline-damaged");
        if told { Ok(()) } else { Err(format!("{faults:?}")) }
    })?;
    ensure!(node.state_dir().join("baseline.json.damaged").exists(), "it is not set aside");
    let answer = node.cli(&["hw", "diff"])?;
    ensure!(answer.code == 1 && answer.stderr.contains("hw accept"), "{answer:?}");
    wait::until("it is accepted anew", READY, || {
        let answer = node.cli(&["hw", "accept"]).map_err(|e| format!("{e:?}"))?;
        if answer.code == 0 { Ok(()) } else { Err(format!("{answer:?}")) }
    })?;
    ensure!(node.cli(&["hw", "diff"])?.code == 0, "accepted, and still drift");
    ensure!(node.status()?.faults.is_empty(), "a fault is left");
    node.stop()?;
    Ok(())
}

fn inventories(lab: &Lab) -> Result {
    let node = machine(lab, [1, 2, 3])?;
    let root = root(lab).display().to_string();
    let before: Value = node.cli(&["hw", "list", "--root", &root, "-o", "json"])?.json()?;
    let mut changed = before.clone();
    changed["nics"][1]["driver"] = "another".into();
    let mut none = before.clone();
    none["nics"] = Value::Array(Vec::new());
    let [before, changed, none] =
        [("before", before), ("changed", changed), ("none", none)].map(|(name, inventory)| {
            lab.file(&format!("{name}.json"), inventory.to_string())
                .map(|it| it.display().to_string())
        });
    let (before, changed, none) = (before?, changed?, none?);

    let answer = node.cli(&["hw", "diff", &before, &before])?;
    ensure!(answer.code == 0 && answer.stdout.contains("no differences"), "{answer:?}");
    let answer = node.cli(&["hw", "diff", &before, &root])?;
    ensure!(answer.code == 0, "a file and the dump that it is of: {answer:?}");
    let answer = node.cli(&["hw", "diff", &before, &changed])?;
    let line = answer.stdout.lines().find(|line| line.contains("eth2")).unwrap_or_default();
    let words = ["driver", "made_up", "another"];
    ensure!(answer.code == 2 && words.iter().all(|word| line.contains(word)), "{answer:?}");
    let answer = node.cli(&["hw", "diff", &before, &none, "-o", "json"])?;
    let diff: Value = answer.json()?;
    let changes = diff["changes"].as_array().ok_or("no changes")?;
    ensure!(answer.code == 2 && changes.len() == 1, "one fault, not three losses: {diff}");
    ensure!(changes[0]["name"] == "hw.reader_fault", "{diff}");
    Ok(())
}

fn dumps(lab: &Lab) -> Result {
    let node = Node::new(lab, "node")?;
    let dumps = corpus();
    let [first, .., last] = &dumps[..] else { return Err("fewer than two dumps".into()) };
    let (first, last) = (first.display().to_string(), last.display().to_string());
    let same = node.cli(&["hw", "diff", &first, &first])?;
    ensure!(same.code == 0, "a dump differs from itself: {same:?}");
    let two = node.cli(&["hw", "diff", &first, &last])?;
    ensure!(two.code == 2 && two.stdout.contains("processors"), "{two:?}");
    println!("the same dump twice: {:?}; two dumps: {:?}", same.took, two.took);
    ensure!(two.took < COMPARED, "{:?}", two.took);
    Ok(())
}

/// Gives this thread, and what it starts, a network of its own with a loopback, and
/// `/sys` as seen from it.
fn enter_namespace() -> Result {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none)?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
    ip(&["link", "set", "lo", "up"])
}

/// Kinds of interfaces without hardware; which of them a kernel has differs.
const KINDS: [&str; 3] = ["dummy", "bridge", "veth"];

fn no_interface() -> Option<String> {
    let made = |kind: &&str| {
        let mut command = Command::new("unshare");
        command.args(["-n", "ip", "link", "add", "new0", "type", kind]);
        command.output().is_ok_and(|output| output.status.success())
    };
    let none = !KINDS.iter().any(made);
    none.then(|| format!("no network namespace with an interface of kind {}", KINDS.join(", ")))
}

fn link_add(name: &str) -> Result {
    let made = KINDS.iter().any(|kind| ip(&["link", "add", name, "type", kind]).is_ok());
    ensure!(made, "no interface {name} can be made");
    Ok(())
}

fn ip(arguments: &[&str]) -> Result {
    let output = Command::new("ip").args(arguments).output()?;
    ensure!(output.status.success(), "ip {arguments:?}: {output:?}");
    Ok(())
}

/// A node on a machine with these NICs.
fn machine(lab: &Lab, nics: impl IntoIterator<Item = u32>) -> Result<Node> {
    for nic in nics {
        plug(lab, nic)?;
    }
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_TEST__ROOT", root(lab));
    Ok(node)
}

fn root(lab: &Lab) -> PathBuf {
    lab.dir().join("root")
}

/// NIC `n` of the machine: `ethN` at `0000:4N:00.0`.
fn plug(lab: &Lab, n: u32) -> Result {
    let function = format!("devices/pci0000:40/0000:4{n}:00.0");
    let port = format!("{function}/net/eth{n}");
    let file = |name: &str, text: &str| lab.file(&format!("root/sys/{name}"), text);
    file(&format!("{function}/vendor"), "0x1234\n")?;
    file(&format!("{function}/device"), "0x5678\n")?;
    file(&format!("{function}/class"), "0x020000\n")?;
    file(&format!("{port}/ifindex"), &format!("{n}\n"))?;
    file(&format!("{port}/type"), "1\n")?;
    let link = |to: &str, name: &str| -> Result {
        let name = root(lab).join("sys").join(name);
        fs::create_dir_all(name.parent().ok_or("no parent")?)?;
        Ok(symlink(to, name)?)
    };
    file("bus/pci/drivers/made_up/module", "")?;
    link("../../../bus/pci/drivers/made_up", &format!("{function}/driver"))?;
    link("../..", &format!("{port}/device"))?;
    link(&format!("../../../{function}"), &format!("bus/pci/devices/0000:4{n}:00.0"))?;
    link(&format!("../../{port}"), &format!("class/net/eth{n}"))
}

fn unplug(lab: &Lab, n: u32) -> Result {
    let sys = root(lab).join("sys");
    fs::remove_file(sys.join(format!("class/net/eth{n}")))?;
    fs::remove_file(sys.join(format!("bus/pci/devices/0000:4{n}:00.0")))?;
    Ok(fs::remove_dir_all(sys.join(format!("devices/pci0000:40/0000:4{n}:00.0")))?)
}

/// Waits until the machine was read and is what was accepted.
fn accepted(node: &Node) -> Result {
    wait::until("the machine is what was accepted", READY, || {
        let answer = node.cli(&["hw", "diff"]).map_err(|e| format!("{e:?}"))?;
        if answer.code == 0 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
}

fn told(proxy: &Proxy, name: &str) -> Result<Event> {
    wait::until(&format!("event {name}"), SOON, || {
        let events = events(proxy);
        let event = events.iter().find(|event| event.name == name);
        event.cloned().ok_or_else(|| format!("{events:?}"))
    })
}

fn events(proxy: &Proxy) -> Vec<Event> {
    proxy.observed().events.clone()
}

/// Asks the agent's local API.
fn get(node: &Node, path: &str) -> Result<Value> {
    let mut stream = UnixStream::connect(node.dir().join("agent.sock"))?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: purlin\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").ok_or("no body")?.1;
    serde_json::from_str(body).map_err(|e| format!("{e}: {answer}").into())
}

/// The dumps of the corpus, by name.
fn corpus() -> Vec<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let corpus = env::var_os("PURLIN_CORPUS").map_or(beside, PathBuf::from);
    let dumps = fs::read_dir(corpus.join("dumps")).into_iter().flatten().flatten();
    let mut dumps: Vec<_> = dumps.map(|dump| dump.path()).collect();
    dumps.sort();
    dumps
}

fn no_dumps() -> Option<String> {
    (corpus().len() < 2).then(|| "no dumps of real machines: PURLIN_CORPUS names them".to_owned())
}
