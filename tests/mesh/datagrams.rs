//! UDP through the mesh: whose answer a client gets, what becomes of it when its endpoint
//! dies or the mesh is upgraded, and that it is forgotten in time.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use purlin_proto::mesh::{Endpoints, Status, Upgraded};
use purlin_tests::{Lab, Need, Result, ensure, lab::Test, namespace::Namespace, test, wait};

use crate::{Mesh, SOON, alone, end};

/// For an answer, where one has to come: on a busy machine.
const ANSWER: Duration = Duration::from_secs(5);

pub fn tests() -> [Test; 4] {
    [
        test("a_client_of_udp_stays_with_an_endpoint_that_answers_it", 60, echoed),
        test("a_client_of_udp_whose_endpoint_dies_goes_to_another", 60, endpoint_gone),
        test("more_clients_of_udp_than_there_may_be_end_the_most_silent", 60, crowd)
            .needs(&[Need::Root, Need::Program("ip")]),
        test("an_upgrade_costs_no_datagram_and_no_session", 90, upgrade),
    ]
}

/// Answers each datagram with its name, who sent it, and the same bytes; until dropped.
struct Echo {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(name: &'static str, ip: IpAddr) -> Result<Self> {
        let socket = UdpSocket::bind((ip, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (address, stop) = (socket.local_addr()?, Arc::new(AtomicBool::new(false)));
        let seen = stop.clone();
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 65_535];
            while !seen.load(Relaxed) {
                if let Ok((bytes, from)) = socket.recv_from(&mut buffer) {
                    let head = format!("{name} {from}\n");
                    _ = socket.send_to(&[head.as_bytes(), &buffer[..bytes]].concat(), from);
                }
            }
        });
        Ok(Self { address, stop, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// A client, which takes answers from no other address than it sent to.
struct Client(UdpSocket);

impl Client {
    fn new(to: SocketAddr) -> io::Result<Self> {
        let any: IpAddr =
            if to.is_ipv4() { [127, 0, 0, 1].into() } else { "::1".parse().unwrap_or(to.ip()) };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(Self(socket))
    }

    /// Who answered, whom it saw, and what came back.
    fn ask(&self, bytes: &[u8]) -> io::Result<(String, String, Vec<u8>)> {
        self.0.send(bytes)?;
        let mut buffer = vec![0; 65_535];
        let count = self.0.recv(&mut buffer)?;
        let end = buffer.iter().position(|it| *it == b'\n').ok_or(io::ErrorKind::InvalidData)?;
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        let (name, seen) = head.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
        Ok((name.into(), seen.into(), buffer[end + 1..count].to_vec()))
    }
}

fn free_port(ip: IpAddr) -> Result<SocketAddr> {
    Ok(UdpSocket::bind((ip, 0))?.local_addr()?)
}

/// A listener, and a service of these endpoints behind it.
fn udp(name: &str, at: SocketAddr, what: &str, endpoints: &[&Echo]) -> String {
    let endpoints: Vec<_> =
        endpoints.iter().map(|it| format!("{{ address = \"{}\" }}", it.address)).collect();
    format!(
        "[[mesh.listeners]]\nname = \"{name}\"\naddress = \"{at}\"\nprotocol = \"udp\"\n\
         [[mesh.services]]\nname = \"{name}\"\nprotocol = \"udp\"\n{what}\nendpoints = [{}]\n\
         [[mesh.routes]]\nname = \"{name}\"\nkind = \"udp\"\nlisteners = [\"{name}\"]\n\
         rules = [{{ backend_refs = [{{ name = \"{name}\" }}] }}]\n",
        endpoints.join(", ")
    )
}

const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

fn echoed(lab: &Lab) -> Result {
    let (a, b) = (Echo::start("a", V4)?, Echo::start("b", V4)?);
    let six = Echo::start("six", V6)?;
    let mesh = Mesh::standalone(lab)?;
    let (one, any, v6) = (free_port(V4)?, free_port(V4)?, free_port(V6)?);
    let wildcard = SocketAddr::from(([0, 0, 0, 0], any.port()));
    let turn = "balance = { policy = \"round_robin\" }\ntimeouts = { idle_ms = 1000 }";
    let document = udp("both", one, turn, &[&a, &b])
        + &udp("any", wildcard, "", &[&six])
        + &udp("six", v6, "", &[&a]);
    mesh.put(&document)?;

    let clients: Vec<_> = (0..8).map(|_| Client::new(one)).collect::<io::Result<_>>()?;
    let mut seen = BTreeSet::new();
    for (n, client) in clients.iter().enumerate() {
        let first = client.ask(b"hello")?;
        ensure!(first.2 == b"hello", "client {n}: {first:?}");
        for bytes in [0, 1, 1400, 60_000] {
            let sent = vec![n as u8; bytes];
            let answer = client.ask(&sent)?;
            ensure!((&answer.0, &answer.1) == (&first.0, &first.1), "client {n}: {answer:?}");
            ensure!(answer.2 == sent, "client {n}: {} of {bytes} bytes", answer.2.len());
        }
        seen.insert((first.0, first.1));
    }
    let by: Vec<_> = seen.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(by == ["a", "a", "a", "a", "b", "b", "b", "b"], "a session each, in turn: {seen:?}");

    // Whichever address of the node it is: the answer comes from that one. And between
    // the versions of IP.
    for ip in [[127, 0, 0, 1], [127, 0, 0, 2]] {
        let answer = Client::new(SocketAddr::from((ip, any.port())))?.ask(b"x")?;
        ensure!(answer.0 == "six", "{answer:?}");
    }
    ensure!(Client::new(v6)?.ask(b"x")?.0 == "a", "IPv6 to IPv4");

    let counts = mesh.status()?.counts;
    ensure!(counts.datagrams == [43, 43] && counts.open == 11, "{counts:?}");
    let endpoints: Endpoints = mesh.node.cli(&["mesh", "endpoints", "-o", "json"])?.json()?;
    let counted: Vec<_> = endpoints.endpoints.iter().map(|it| (it.requests, it.active)).collect();
    ensure!(counted[2..] == [(2, 2), (1, 1)], "{counted:?}");
    wait::until("silent clients are forgotten", SOON, || {
        let open = mesh.status().map_err(|e| format!("{e:?}"))?.counts.open;
        if open == 3 { Ok(()) } else { Err(format!("{open}")) }
    })?;
    ensure!(clients[0].ask(b"again")?.2 == b"again", "and begin anew");

    // A table that has another endpoint for them, and no longer the listener of IPv6.
    let shown = mesh.node.cli(&["mesh", "routes"])?;
    ensure!(shown.stdout.contains("udp"), "{shown:?}");
    mesh.put(&udp("both", one, turn, &[&six]))?;
    for client in &clients {
        ensure!(client.ask(b"x")?.0 == "six", "the new endpoint has them");
    }
    ensure!(UdpSocket::bind(v6).is_ok(), "a listener that is gone leaves its address");
    Ok(())
}

fn endpoint_gone(lab: &Lab) -> Result {
    let (a, b) = (Echo::start("a", V4)?, Echo::start("b", V4)?);
    let mesh = Mesh::standalone(lab)?;
    let at = free_port(V4)?;
    let what = "balance = { policy = \"round_robin\" }\noutlier_detection = { consecutive_failures = 2, base_ejection_ms = 300000 }";
    let document = udp("both", at, what, &[&a, &b]);
    mesh.put(&document)?;
    let clients: Vec<_> = (0..6).map(|_| Client::new(at)).collect::<io::Result<_>>()?;
    let mut of_a = 0;
    for client in &clients {
        of_a += usize::from(client.ask(b"x")?.0 == "a");
    }
    ensure!(of_a == 3, "{of_a} of 6 have a");
    let gone = a.address;
    drop(a);
    // A process that another test starts holds all sockets of this one until it is itself.
    let probe = UdpSocket::bind((V4, 0))?;
    probe.connect(gone)?;
    probe.set_read_timeout(Some(Duration::from_millis(50)))?;
    wait::until("its port is closed", ANSWER, || {
        match probe.send(b"x").and_then(|_| probe.recv(&mut [0])) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    // What finds the closed port is lost; the next one goes elsewhere.
    let mut lost = 0;
    for client in &clients {
        client.0.set_read_timeout(Some(Duration::from_millis(300)))?;
        let first = client.ask(b"x");
        lost += usize::from(first.is_err());
        client.0.set_read_timeout(Some(ANSWER))?;
        if first.is_err() {
            ensure!(client.ask(b"x")?.0 == "b", "the other one");
        }
    }
    ensure!((1..=3).contains(&lost), "{lost} datagrams were lost");
    let shown: Endpoints = mesh.node.cli(&["mesh", "endpoints", "-o", "json"])?.json()?;
    let a = shown.endpoints.iter().find(|it| it.address == gone.to_string());
    ensure!(a.is_some_and(|it| it.failures >= 2 && it.ejected), "{shown:?}");
    for _ in 0..4 {
        ensure!(Client::new(at)?.ask(b"x")?.0 == "b", "new ones don't ask it");
    }
    // The only one, and gone: it is asked again with every datagram, and found.
    let only = b.address;
    mesh.put(&udp("both", at, what, &[&b]))?;
    drop(b);
    let client = Client::new(at)?;
    client.0.set_read_timeout(Some(Duration::from_millis(100)))?;
    for _ in 0..5 {
        ensure!(client.ask(b"x").is_err(), "nobody is there");
    }
    let socket = UdpSocket::bind(only)?;
    socket.set_read_timeout(Some(ANSWER))?;
    client.0.send(b"y")?;
    client.0.send(b"y")?;
    let (bytes, _) = socket.recv_from(&mut [0; 8])?;
    ensure!(bytes == 1, "it is back");
    Ok(())
}

/// In a network of its own: it takes so many ports that others would meet them.
fn crowd(lab: &Lab) -> Result {
    let space = Namespace::new()?;
    space.enter()?;
    let echo = Echo::start("a", V4)?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port(V4)?;
    mesh.put(&udp("one", at, "max_requests = 1000000", &[&echo]))?;
    let workers = mesh.status()?.workers;
    if workers > 4 {
        println!("{workers} workers have more sessions than a node has ports");
        return Ok(());
    }
    let faithful = Client::new(at)?;
    let first = faithful.ask(b"x")?;
    // A socket has room for some 270 of these: what a burst of them drives out is asked again.
    let asks = || (0..5).find_map(|_| faithful.ask(b"x").ok()).ok_or("no answer to five of them");
    for n in 0..workers * 4096 + 4096 {
        Client::new(at)?.0.send(b"x")?;
        if n % 128 == 0 {
            ensure!(asks()?.1 == first.1, "whoever talks stays, after {n}");
        }
    }
    ensure!(asks()?.1 == first.1, "to the end");
    let counts = mesh.status()?.counts;
    let most = 4096 * workers as u64;
    ensure!(counts.displaced >= 512 && counts.open <= most, "{counts:?}");
    Ok(())
}

fn upgrade(lab: &Lab) -> Result {
    let (a, b) = (Echo::start("a", V4)?, Echo::start("b", V4)?);
    let at = free_port(V4)?;
    let (node, first) = alone(lab, &udp("both", at, "", &[&a, &b]), &["--drain", "6"])?;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (client, stop) = (Client::new(at)?, stop.clone());
            Ok(thread::spawn(move || {
                let (mut seen, mut asked) = (BTreeSet::new(), 0_u32);
                while !stop.load(Relaxed) {
                    asked += 1;
                    match client.ask(&asked.to_be_bytes()) {
                        Ok((name, from, back)) if back == asked.to_be_bytes() => {
                            seen.insert(format!("{name} saw {from}"));
                        }
                        other => return Err(format!("{asked}: {other:?}")),
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                Ok((asked, seen))
            }))
        })
        .collect::<io::Result<_>>()?;
    let mut pid = first.pid().as_raw().cast_unsigned();
    for n in 0..3 {
        thread::sleep(Duration::from_millis(300));
        let upgraded: Upgraded = node.cli(&["mesh", "upgrade", "-o", "json"])?.json()?;
        ensure!(upgraded.from == pid, "upgrade {n}: {upgraded:?}");
        pid = upgraded.to;
    }
    thread::sleep(Duration::from_millis(300));
    stop.store(true, Relaxed);
    for client in clients {
        let (asked, seen) = client.join().map_err(|_| "a client panicked")??;
        ensure!(asked > 50, "{asked} datagrams is no test");
        ensure!(seen.len() == 1, "one session through it all: {seen:?}");
    }
    let status: Status = node.cli(&["mesh", "show", "-o", "json"])?.json()?;
    ensure!(status.counts.open == 6, "{:?}", status.counts);
    end(&node)
}
