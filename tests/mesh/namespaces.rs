//! A rack of four nodes in network namespaces with a switch between them, and no way out:
//! cables are pulled, nodes are killed, the rack is parted, all start from cold. A client
//! that never stops tells when the next request succeeds. No certificate, no clock and no
//! uplink comes from anywhere but the rack.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use purlin_proto::{
    mesh::{Endpoints, PeerState, Peers},
    v1,
};
use purlin_tests::{
    Lab, Need, Result, ensure,
    lab::Test,
    namespace::{Namespace, Switch},
    test, wait,
};

use crate::{
    client::Connection,
    rack::{Member, Rack, listener, now, peer, route, service},
    upstream::Upstream,
};

const NODES: usize = 4;
const WEB: &str = "127.0.0.1:8080";
const DAY: u64 = 86_400;
/// After any single failure a request succeeds again within this. The aim is one second;
/// the figure is printed.
const MOST: Duration = Duration::from_secs(5);
/// For what comes about by itself, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// For a whole look at what a failure does.
const LOOK: Duration = Duration::from_secs(7);

pub fn tests() -> [Test; 1] {
    let needs = ["ip", "unshare", "nsenter"].map(Need::Program);
    let rack = test("a_rack_without_an_uplink_survives_any_single_failure", 240, rack);
    [rack.needs(&[&needs[..], &[Need::Root]].concat())]
}

/// Which services run where.
const SERVICES: [(&str, [usize; 2]); 2] = [("shop", [1, 2]), ("bank", [1, 3])];

/// The service that the core has too, and where.
const AT_THE_CORE: &str = "shop";

const CORE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

fn core() -> SocketAddr {
    SocketAddr::from((CORE, 80))
}

struct Rig {
    switch: Switch,
    spaces: Vec<Namespace>,
    members: Vec<Member>,
    meshes: Vec<v1::Mesh>,
    _core: Namespace,
    _services: Vec<Upstream>,
}

fn name(n: usize) -> String {
    format!("n{n}")
}

fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, n as u8 + 1)
}

fn tunnel(n: usize) -> SocketAddr {
    SocketAddr::from((address(n), 15008))
}

impl Rig {
    fn new(lab: &Lab) -> Result<Self> {
        let switch = Switch::new()?;
        let spaces: Result<Vec<_>> = (0..NODES).map(|n| switch.plug(n, address(n))).collect();
        let spaces = spaces?;
        // One more port, that the core is behind.
        let beyond = switch.plug(NODES, CORE)?;
        let mut services = Vec::new();
        let started = beyond.run(|| Upstream::start_at(AT_THE_CORE, core()))?;
        services.push(started.join().map_err(|_| "no core")??);
        let mut wanted = Vec::new();
        for (service_name, at) in SERVICES {
            let mut endpoints = Vec::new();
            for n in at {
                let started = spaces[n].run(move || Upstream::start(service_name))?;
                let upstream = started.join().map_err(|_| "no service")??;
                endpoints.push((name(n), upstream.address));
                services.push(upstream);
            }
            let of: Vec<_> = endpoints.iter().map(|(node, at)| (node.as_str(), *at)).collect();
            let mut it = service(service_name, "http", &of);
            it.timeouts = Some(v1::Timeouts {
                connect_ms: Some(1000),
                request_ms: Some(4000),
                idle_ms: None,
            });
            if service_name == AT_THE_CORE {
                let (address, locality) = (core().to_string(), Some("remote".into()));
                it.endpoints.push(v1::Endpoint { address, locality, ..Default::default() });
                it.health_check =
                    Some(v1::HealthCheck { interval_ms: Some(500), ..Default::default() });
            }
            wanted.push(it);
        }
        let rack = Rack::new(lab, "r1")?;
        // Two issuers, one of them with a clock of 1970; and a node whose certificate is
        // renewed all the time.
        let mut members = vec![
            rack.member("n0", now(), 30)?,
            rack.issuing_member("n1", 30 * DAY)?,
            rack.issuing_member("n2", 30 * DAY)?,
            rack.member("n3", now(), 30 * DAY)?,
        ];
        members[1].node.set("PURLIN_TEST__CLOCK_UNIX_S", "5");
        let meshes = (0..NODES).map(|n| v1::Mesh {
            listeners: vec![
                listener("web", WEB.parse().unwrap_or(tunnel(n)), "http"),
                listener("tunnel", tunnel(n), "tunnel"),
            ],
            services: wanted.clone(),
            routes: SERVICES.iter().map(|(name, _)| route(name, "http", "web")).collect(),
            // Each names itself and one other: the rest it hears of.
            peers: [n, (n + 1) % NODES].map(|n| peer(&name(n), tunnel(n))).into(),
            discovery_keys: vec!["ab".repeat(32)],
            ..Default::default()
        });
        let meshes: Vec<_> = meshes.collect();
        for (n, member) in members.iter_mut().enumerate() {
            let binary = member.node.binary().to_owned();
            member.node.run_with(&["nsenter", "-t", &spaces[n].pid(), "-n"], &binary);
        }
        Ok(Self { switch, spaces, members, meshes, _core: beyond, _services: services })
    }

    fn start(&mut self, n: usize) -> Result {
        let mesh = self.meshes[n].clone();
        self.members[n].start(&mesh)
    }

    /// Until a node's checks say so of the core's endpoint.
    fn core_is(&self, n: usize, healthy: bool) -> Result {
        let at = core().to_string();
        wait::until("the core's endpoint is checked", SOON, || {
            let answer = self.members[n].node.cli(&["mesh", "endpoints", "-o", "json"]);
            let all = answer.and_then(|it| it.json::<Endpoints>()).map_err(|e| format!("{e:?}"))?;
            let found = all.endpoints.iter().find(|it| it.address == at);
            match found.and_then(|it| it.healthy) == Some(healthy) {
                true => Ok(()),
                false => Err(format!("{found:?}")),
            }
        })
    }

    /// Until every node of those sees just these.
    fn know_each_other(&self, nodes: &[usize]) -> Result<Duration> {
        let began = Instant::now();
        wait::until("they know each other", SOON, || {
            for &n in nodes {
                let answer = self.members[n].node.cli(&["mesh", "peers", "-o", "json"]);
                let peers = answer.and_then(|it| it.json::<Peers>());
                let peers = peers.map_err(|e| format!("{e:?}"))?.peers;
                let up = peers.iter().filter(|it| it.state == PeerState::Up);
                let mut up: Vec<_> = up.map(|it| it.node.clone()).collect();
                up.sort();
                let right: Vec<_> = nodes.iter().filter(|it| **it != n).map(|n| name(*n)).collect();
                if up != right {
                    return Err(format!("{}: {peers:?}", name(n)));
                }
            }
            Ok(began.elapsed())
        })
    }
}

impl Drop for Rig {
    /// Nobody here started those that took over at an upgrade.
    fn drop(&mut self) {
        for status in self.members.iter().filter_map(|it| it.status().ok()) {
            let pid = nix::unistd::Pid::from_raw(status.pid.cast_signed());
            _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Clients that ask one after another until they are stopped, a service each.
struct Clients {
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<Vec<Asked>>>,
    threads: Vec<JoinHandle<()>>,
}

/// When it was asked, when it was over, and what was wrong.
#[derive(Clone, Debug)]
struct Asked {
    service: &'static str,
    over: Instant,
    wrong: Option<String>,
}

impl Clients {
    fn start(space: &Namespace) -> Result<Self> {
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut threads = Vec::new();
        for (service, _) in SERVICES {
            let (stop, log) = (stop.clone(), Arc::clone(&log));
            threads.push(space.run(move || ask(service, &stop, &log))?);
        }
        Ok(Self { stop, log, threads })
    }

    /// What happened since then: the longest time without a success, and how many failed.
    /// Whoever was answered by a wrong service fails it all.
    fn since(&self, then: Instant) -> Result<(Duration, usize, usize)> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut longest, mut failed, mut done) = (Duration::ZERO, 0, 0);
        for (service, _) in SERVICES {
            let mut last = then;
            for it in log.iter().filter(|it| it.service == service && it.over > then) {
                match &it.wrong {
                    None => {
                        longest = longest.max(it.over - last);
                        (last, done) = (it.over, done + 1);
                    }
                    Some(why) if why.starts_with("WRONG") => return Err(why.clone().into()),
                    Some(_) => failed += 1,
                }
            }
            longest = longest.max(last.elapsed());
        }
        Ok((longest, failed, done))
    }

    /// After something, once it has had its time.
    fn tell(&self, what: &str, then: Instant) -> Result<usize> {
        sleep(LOOK.saturating_sub(then.elapsed()));
        let (longest, failed, done) = self.since(then)?;
        println!("{what}: {longest:.2?} to the next success, {failed} failed, {done} succeeded");
        ensure!(longest < MOST, "{what}: {longest:?} without a success");
        Ok(failed)
    }

    fn stop(self) -> Result {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| "a client panicked")?;
        }
        Ok(())
    }
}

fn ask(service: &'static str, stop: &AtomicBool, log: &Mutex<Vec<Asked>>) {
    let mut connection = None;
    while !stop.load(Relaxed) {
        let wrong = once(service, &mut connection).err();
        if wrong.is_some() {
            connection = None;
        }
        let asked = Asked { service, over: Instant::now(), wrong };
        log.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        // Bounded: some 200 a second.
        sleep(Duration::from_millis(5));
    }
}

fn once(service: &str, kept: &mut Option<Connection>) -> std::result::Result<(), String> {
    let at: SocketAddr = WEB.parse().map_err(|it| format!("{it}"))?;
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(at).map_err(|error| format!("not connected: {error}"))?,
    };
    let answer = connection.get(&format!("{service}.rack"), "/").map_err(|it| it.to_string())?;
    if answer.status == 200 && answer.by() != service {
        return Err(format!("WRONG: {service} was answered by {}", answer.by()));
    }
    if !answer.head.to_lowercase().contains("connection: close") {
        *kept = Some(connection);
    }
    if answer.status == 200 { Ok(()) } else { Err(format!("{}: {}", answer.status, answer.body)) }
}

fn rack(lab: &Lab) -> Result {
    let mut rig = Rig::new(lab)?;
    let all: Vec<usize> = (0..NODES).collect();
    // From cold, and nothing outside that could be asked.
    for n in 0..NODES {
        rig.start(n)?;
    }
    println!("they know each other after {:.1?}", rig.know_each_other(&all)?);
    let clients = Clients::start(&rig.spaces[0])?;
    sleep(Duration::from_secs(2));
    let first = rig.members[0].status()?.identity.ok_or("nobody")?;

    // What is beyond the rack is gone: nobody in it notices.
    rig.core_is(0, true)?;
    let then = Instant::now();
    rig.switch.cable(NODES, false)?;
    rig.core_is(0, false)?;
    let failed = clients.tell("the uplink is gone", then)?;
    ensure!(failed == 0, "{failed} requests failed for want of an uplink");

    let then = Instant::now();
    rig.switch.cable(1, false)?;
    clients.tell("a cable is pulled", then)?;
    rig.switch.cable(1, true)?;
    println!("it is back after {:.1?}", rig.know_each_other(&all)?);

    let then = Instant::now();
    rig.members[1].kill()?;
    clients.tell("a node is killed", then)?;
    rig.members[1].start_again()?;
    println!("it is back after {:.1?}", rig.know_each_other(&all)?);

    let then = Instant::now();
    for n in [2, 3] {
        rig.switch.part(n, true)?;
    }
    clients.tell("the rack is parted", then)?;
    println!("both sides know it after {:.1?}", {
        rig.know_each_other(&[2, 3])?;
        rig.know_each_other(&[0, 1])?;
        then.elapsed()
    });
    let then = Instant::now();
    for n in [2, 3] {
        rig.switch.part(n, false)?;
    }
    println!("it is whole after {:.1?}", rig.know_each_other(&all)?);
    let failed = clients.tell("the rack is whole again", then)?;
    ensure!(failed == 0, "{failed} requests failed for a healing");

    // What is done on purpose costs nothing.
    let then = Instant::now();
    let upgraded = rig.members[0].node.cli(&["mesh", "upgrade"])?;
    ensure!(upgraded.code == 0, "{upgraded:?}");
    let upgraded = rig.members[1].node.cli(&["mesh", "upgrade"])?;
    ensure!(upgraded.code == 0, "{upgraded:?}");
    let mut other = rig.meshes[0].clone();
    other.services[0].endpoints.reverse();
    rig.members[0].put(2, &other)?;
    let failed = clients.tell("meshes are upgraded, and a table changed", then)?;
    ensure!(failed == 0, "{failed} requests failed for an upgrade");

    let last = rig.members[0].status()?.identity.ok_or("nobody")?;
    let later = last.expires_unix_s - first.expires_unix_s;
    println!("a certificate of 30 s ends {later} s later than the first one");
    ensure!(last.expires_unix_s > first.expires_unix_s, "{last:?}");

    // All at once from cold.
    for n in [0, 1] {
        let status = rig.members[n].status()?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(status.pid.cast_signed()),
            nix::sys::signal::Signal::SIGKILL,
        )?;
    }
    for member in &mut rig.members {
        member.kill()?;
    }
    let then = Instant::now();
    for n in 0..NODES {
        rig.members[n].start_again()?;
    }
    let began = then.elapsed();
    clients.tell(&format!("all nodes start from cold (in {began:.1?})"), then + began)?;
    clients.stop()
}
