//! A node that can't reach its broker, and a peer of the rack that can: two agents and a
//! real mosquitto in two network namespaces with one cable between them, over which
//! everything goes but MQTT. An independent subscriber has every record, whoever is
//! killed meanwhile, and the origin's cursor waits for the broker itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    thread::sleep,
    time::Duration,
};

use nix::sys::signal::Signal;
use purlin_daemon::wire;
use purlin_proto::{
    api::{Link, LinkState, QueueClass},
    v1::Class,
};
use purlin_tests::{
    Lab, Need, Node, Result, broker::unhex, ensure, lab::Test, node::class, test, wait,
};

use crate::{
    netns::{self, Net, PORT},
    secure::{Authority, VALID},
};

/// Ours and theirs, at the ends of the cable.
const PEER: &str = "10.91.0.1";
const ORIGIN: &str = "10.91.0.2";
const RELAY_PORT: u16 = 18840;
/// For anything to come about, the longest backoff included.
const SOON: Duration = Duration::from_secs(90);
/// Records between two blows.
const SOME: u64 = 300;

pub fn tests() -> Vec<Test> {
    let programs = ["mosquitto", "mosquitto_sub", "nft", "ip", "unshare", "nsenter"];
    let needs: Vec<Need> = programs.map(Need::Program).into_iter().chain([Need::Root]).collect();
    vec![test("a_node_that_is_cut_off_is_sent_on_for_by_a_peer", 300, cut_off).needs(&needs)]
}

fn cut_off(lab: &Lab) -> Result {
    let (hub, far) = (Net::new()?, Net::new()?);
    cable(&hub, &far)?;
    mqtt(&hub, "v0", "reject with tcp reset")?;
    let broker = hub.broker(lab, &format!("listener {PORT} {PEER}\n"))?;
    let messages = lab.dir().join("messages");
    let _subscriber = wait::until("the subscriber", SOON, || {
        hub.subscribe(&messages, "purlin/v1/lab/#").map_err(|e| format!("{e:?}"))
    })?;
    let rack = Authority::new(lab, "rack")?;
    // Each could send on for the other: there is no way round in a circle.
    let mut peer =
        member(lab, &rack, &hub, "peer", PEER, &format!("origin={ORIGIN}:{RELAY_PORT}"))?;
    peer.set("PURLIN_UPLINK__ENDPOINT", format!("mqtt://127.0.0.1:{PORT}"));
    peer.start()?;
    link(&peer, "the peer's link", |it| it.state == LinkState::Up)?;
    let mut origin =
        member(lab, &rack, &far, "origin", ORIGIN, &format!("peer={PEER}:{RELAY_PORT}"))?;
    origin.set("PURLIN_UPLINK__ENDPOINT", format!("mqtt://{PEER}:{PORT}"));
    origin.set("PURLIN_TEST__CPU_INTERVAL_MS", "5");
    origin.start()?;
    let quick = lab.file("quick.toml", "version = 1\n[spool]\ncommit_window_s = 1\n")?;
    let applied = origin.cli_for(60, &["config", "apply", &quick.display().to_string()])?;
    ensure!(applied.code == 0, "{applied:?}");
    let shown = link(&origin, "sent on", |it| it.state == LinkState::Relayed)?;
    ensure!(shown.via.as_ref().is_some_and(|it| it.contains("peer peer at")), "{shown:?}");
    some_more(&origin)?;
    ensure!(peer.link()?.carried_frames > 0, "{:?}", peer.link()?);

    // A broker that doesn't answer: the peer has the frames, and the cursor stands.
    broker.signal(Signal::SIGSTOP)?;
    sleep(Duration::from_millis(500));
    let before = metric(&origin)?;
    sleep(Duration::from_secs(3));
    let after = metric(&origin)?;
    broker.signal(Signal::SIGCONT)?;
    ensure!(after.durable_seq > before.durable_seq, "{after:?}");
    ensure!(after.acked_seq == before.acked_seq, "nobody had it: {before:?}, then {after:?}");
    some_more(&origin)?;

    // A peer that loses its own link says so, and the origin holds.
    mqtt(&hub, "lo", "reject with tcp reset")?;
    let says = |it: &Link| it.last_error.as_ref().is_some_and(|it| it.contains("of node peer"));
    link(&origin, "the peer's own link is down", |it| it.state != LinkState::Relayed && says(it))?;
    link(&peer, "the peer's link is down", |it| it.state != LinkState::Up)?;
    sleep(Duration::from_secs(2));
    mqtt(&hub, "v0", "reject with tcp reset")?;
    some_more(&origin)?;

    peer.kill()?;
    sleep(Duration::from_secs(1));
    peer.start()?;
    some_more(&origin)?;
    origin.kill()?;
    origin.start()?;
    some_more(&origin)?;

    // Its own link comes back in the middle.
    mqtt(&hub, "v0", "accept")?;
    link(&origin, "its own link", |it| it.state == LinkState::Up)?;
    some_more(&origin)?;
    origin.stop()?;
    origin.unset("PURLIN_TEST__CPU_INTERVAL_MS");
    origin.start()?;
    let durable = metric(&origin)?.durable_seq;
    wait::until("everything durable is acknowledged", SOON, || {
        let metric = metric(&origin).map_err(|e| format!("{e:?}"))?;
        if metric.acked_seq >= durable { Ok(()) } else { Err(format!("{metric:?}")) }
    })?;
    let carried = origin.link()?.carried_frames;
    ensure!(carried == 0, "{carried} frames went round");
    origin.stop()?;
    peer.stop()?;
    sleep(Duration::from_secs(1));
    reconcile(&messages, durable)
}

/// A node of the rack, in its namespace.
fn member(
    lab: &Lab,
    rack: &Authority,
    net: &Net,
    name: &str,
    address: &str,
    peers: &str,
) -> Result<Node> {
    let certificate = lab.dir().join(format!("{name}.pem"));
    rack.issue(name, &certificate, VALID)?;
    let mut node = Node::new(lab, name)?;
    let binary = node.binary().to_owned();
    node.run_with(&["nsenter", "-t", &net.pid(), "-n"], &binary);
    node.set("PURLIN_RELAY__LISTEN", format!("{address}:{RELAY_PORT}"));
    node.set("PURLIN_RELAY__PEERS", peers);
    node.set("PURLIN_RELAY__CERTIFICATE", &certificate);
    node.set("PURLIN_RELAY__KEY", certificate.with_extension("key"));
    node.set("PURLIN_RELAY__TRUST_ANCHORS", &rack.file);
    Ok(node)
}

/// One cable between two namespaces.
fn cable(hub: &Net, far: &Net) -> Result {
    let ends = [(hub, "v0", PEER), (far, "v1", ORIGIN)];
    let pid = far.pid();
    let add = ["link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", &pid];
    ensure!(hub.command("ip").args(add).status()?.success(), "no veth");
    for (net, name, address) in ends {
        let with_mask = format!("{address}/24");
        for words in
            [["address", "add", &with_mask, "dev", name], ["link", "set", "dev", name, "up"]]
        {
            ensure!(net.command("ip").args(words).status()?.success(), "ip {words:?}");
        }
    }
    Ok(())
}

/// What happens to MQTT that comes in over an interface; over all others it goes.
fn mqtt(hub: &Net, interface: &str, verdict: &str) -> Result {
    let table = format!(
        "table inet cut\ndelete table inet cut\ntable inet cut {{\nchain in {{\n\
         type filter hook input priority 0;\n\
         iifname \"{interface}\" tcp dport {PORT} {verdict}\n\
         iifname != \"{interface}\" iifname \"v0\" tcp dport {PORT} reject with tcp reset\n}}\n}}\n"
    );
    netns::nft(hub, &table)
}

fn metric(node: &Node) -> Result<QueueClass> {
    Ok(class(&node.queue()?, "metric")?.clone())
}

fn link(node: &Node, what: &str, ready: impl Fn(&Link) -> bool) -> Result<Link> {
    wait::until(what, SOON, || {
        let link = node.link().map_err(|e| format!("{e:?}"))?;
        if ready(&link) { Ok(link) } else { Err(format!("{link:?}")) }
    })
}

/// So many more records are acknowledged.
fn some_more(node: &Node) -> Result {
    let from = metric(node)?.acked_seq;
    wait::until("some more are acknowledged", SOON, || {
        let metric = metric(node).map_err(|e| format!("{e:?}"))?;
        if metric.acked_seq >= from + SOME { Ok(()) } else { Err(format!("{metric:?}")) }
    })
}

/// Every record of the origin came, by both ways, and each way under its own topic.
fn reconcile(messages: &Path, durable: u64) -> Result {
    let mut came: BTreeMap<u64, BTreeSet<bool>> = BTreeMap::new();
    let mut again = 0;
    let text = fs::read_to_string(messages)?;
    for (topic, payload) in text.lines().filter_map(|line| line.split_once(' ')) {
        let relayed = match topic {
            "purlin/v1/lab/origin/metric" => false,
            "purlin/v1/lab/peer/relay/origin/metric" => true,
            other => {
                ensure!(!other.contains("origin/relay"), "{other}: round in a circle");
                continue;
            }
        };
        let batch = wire::decode(&unhex(payload)?).map_err(|e| e.to_string())?;
        ensure!(
            batch.node == "origin" && batch.class() == Class::Metric,
            "{topic}: {}",
            batch.node
        );
        ensure!(batch.gaps.is_empty(), "{:?}", batch.gaps);
        for (seq, _) in wire::records(&batch).map_err(|e| e.to_string())? {
            let ways = came.entry(seq).or_default();
            again += u64::from(!ways.is_empty());
            ways.insert(relayed);
        }
    }
    let missing: Vec<_> = (1..=durable).filter(|seq| !came.contains_key(seq)).collect();
    ensure!(missing.is_empty(), "{} of {durable} are missing, e.g. {missing:?}", missing.len());
    let by = |way: bool| came.values().filter(|ways| ways.contains(&way)).count();
    let (by_peer, by_itself) = (by(true), by(false));
    ensure!(by_peer > 0 && by_itself > 0, "{by_peer} by the peer, {by_itself} by itself");
    println!("{durable} records: {by_peer} by the peer, {by_itself} by itself, {again} again");
    Ok(())
}
