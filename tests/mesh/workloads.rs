//! Rules that name workloads: of two on one node, one is let in and the other is not, by
//! the cgroup of their process or the address of their pod, through the tunnel and on the
//! node itself; and none rides on another's connection.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use purlin_proto::{mesh::WorkloadTold, v1};
use purlin_tests::{
    Lab, Need, Result, ensure,
    lab::Test,
    namespace::{Namespace, Switch},
    test, wait,
};

use crate::{
    SOON,
    rack::{Member, Rack, allow, listener, now, peer, route, service},
    upstream::Upstream,
};

const LIFE: u64 = 30 * 86_400;
const CHECKOUT: &str = "spiffe://r1/node/*/unit/checkout.service";
const POD: &str = "spiffe://r1/node/a/workload/shop/checkout";

pub fn tests() -> [Test; 1] {
    let needs = ["ip", "unshare", "nsenter", "curl", "bash"].map(Need::Program);
    let needs = [&needs[..], &[Need::Root, Need::Is(no_cgroups)]].concat();
    [test("a_rule_lets_in_one_workload_of_a_node_and_no_other", 120, told_apart).needs(&needs)]
}

/// Why there are no cgroups of version 2 to be made here.
fn no_cgroups() -> Option<String> {
    Cgroups::new().err().map(|it| format!("no cgroup v2: {}", it.message().unwrap_or_default()))
}

/// Cgroups of a test's own, gone with it.
struct Cgroups(PathBuf);

impl Cgroups {
    fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts.lines().find(|it| it.split(' ').nth(2) == Some("cgroup2"));
        let mount = mount.and_then(|it| it.split(' ').nth(1)).ok_or("it is not mounted")?;
        let it = Self(format!("{mount}/purlin-lab-{}.slice", std::process::id()).into());
        fs::create_dir_all(&it.0)?;
        Ok(it)
    }

    fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let all = fs::read_dir(&self.0).into_iter().flatten().flatten();
        all.for_each(|it| _ = fs::remove_dir(it.path()));
        _ = fs::remove_dir(&self.0);
    }
}

/// Where somebody asks from: a network, and there a cgroup.
#[derive(Clone, Copy)]
struct Place<'t>(&'t Namespace, Option<&'t PathBuf>);

impl Place<'_> {
    fn run(self, script: &str) -> Result<String> {
        let mut command: Command = self.0.command("bash");
        let enter = self.1.map(|it| format!("echo $$ > {}/cgroup.procs; ", it.display()));
        command.args(["-c", &(enter.unwrap_or_default() + script)]);
        let output = command.stdin(Stdio::null()).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Statuses of requests, one after the other on one connection.
    fn asks(self, address: SocketAddr, host: &str, times: usize) -> Result<Vec<String>> {
        let urls = format!("-o /dev/null http://{address}/ ").repeat(times);
        let host = format!("-H 'Host: {host}.rack'");
        let answers = self.run(&format!("exec curl -sm 10 -w '%{{http_code}} ' {host} {urls}"))?;
        Ok(answers.split_whitespace().map(str::to_owned).collect())
    }

    /// Whether bytes come back.
    fn echoes(self, address: SocketAddr) -> Result<bool> {
        let (ip, port) = (address.ip(), address.port());
        let script =
            format!("exec 3<>/dev/tcp/{ip}/{port} && echo hello >&3 && timeout 5 head -c 6 <&3");
        Ok(self.run(&script)? == "hello\n")
    }
}

struct Rig {
    spaces: Vec<Namespace>,
    a: Member,
    b: Member,
    mesh: v1::Mesh,
    shop: Upstream,
    _others: Vec<Upstream>,
    _switch: Switch,
}

fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 79, 0, n as u8 + 1)
}

fn at(n: usize, port: u16) -> SocketAddr {
    SocketAddr::from((address(n), port))
}

impl Rig {
    /// Nodes a and b, and beside a two pods.
    fn new(lab: &Lab) -> Result<Self> {
        let switch = Switch::new()?;
        let spaces: Result<Vec<_>> = (0..4).map(|n| switch.plug(n, address(n))).collect();
        let spaces = spaces?;
        let start = |n: usize, name: &'static str| -> Result<Upstream> {
            let started = spaces[n].run(move || Upstream::start(name))?;
            started.join().map_err(|_| "no service")?
        };
        let (shop, strict, here) = (start(1, "shop")?, start(1, "strict")?, start(0, "here")?);
        let open = start(1, "open")?;
        let echo = spaces[1].run(Upstream::echo)?.join().map_err(|_| "no service")??;
        let rules = || vec![allow(CHECKOUT), allow(POD)];
        let with = |rules, it| v1::Service { allow: rules, ..it };
        let services = vec![
            with(rules(), service("shop", "http", &[("b", shop.address)])),
            // One that tells requests apart too: the other node reads them.
            with(
                vec![v1::Allow { methods: vec!["GET".into()], ..allow(CHECKOUT) }],
                service("strict", "http", &[("b", strict.address)]),
            ),
            with(rules(), service("here", "http", &[("a", here.address)])),
            with(rules(), service("echo", "tcp", &[("b", echo.address)])),
            service("open", "http", &[("b", open.address)]),
        ];
        let everywhere = |port: u16| SocketAddr::from(([0, 0, 0, 0], port));
        let http = ["shop", "strict", "here", "open"].map(|it| route(it, "http", "web"));
        let mesh = v1::Mesh {
            listeners: vec![
                listener("web", everywhere(8080), "http"),
                listener("raw", everywhere(9090), "tcp"),
            ],
            services,
            routes: http.into_iter().chain([route("echo", "tcp", "raw")]).collect(),
            peers: vec![peer("a", at(0, 15008)), peer("b", at(1, 15008))],
            access_log: Some(true),
            ..Default::default()
        };
        let rack = Rack::new(lab, "r1")?;
        let mut members = [rack.member("a", now(), LIFE)?, rack.member("b", now(), LIFE)?];
        for (member, space) in members.iter_mut().zip(&spaces) {
            let binary = member.node.binary().to_owned();
            member.node.run_with(&["nsenter", "-t", &space.pid(), "-n"], &binary);
            member.node.set("NO_COLOR", "1");
        }
        let [a, b] = members;
        let _others = vec![strict, here, echo, open];
        Ok(Self { spaces, a, b, mesh, shop, _others, _switch: switch })
    }

    fn of_b(&self) -> v1::Mesh {
        let listeners = vec![listener("tunnel", at(1, 15008), "tunnel")];
        v1::Mesh { listeners, routes: Vec::new(), ..self.mesh.clone() }
    }

    /// Tells a's mesh of a pod, as an agent does.
    fn tell(&self, cgroup: &Path) -> Result {
        let mount = cgroup.parent().and_then(|it| it.parent()).ok_or("it is below a mount")?;
        let path = cgroup.strip_prefix(mount).map_err(|it| it.to_string())?;
        let told = [WorkloadTold {
            name: "workload/shop/checkout".into(),
            cgroup: format!("/{}", path.display()),
            addresses: vec![address(2).to_string()],
        }];
        let told = serde_json::to_vec(&told).map_err(|it| it.to_string())?;
        self.a.hand_over("/v1/workloads", &told)
    }
}

fn told_apart(lab: &Lab) -> Result {
    let cgroups = Cgroups::new()?;
    let mut rig = Rig::new(lab)?;
    rig.b.start(&rig.of_b())?;
    rig.a.start(&rig.mesh.clone())?;
    let pods = cgroups.make("pod")?;
    rig.tell(&pods)?;
    let (checkout, other) = (cgroups.make("checkout.service")?, cgroups.make("other.service")?);
    let (own, pod) = (SocketAddr::from(([127, 0, 0, 1], 8080)), at(0, 8080));
    let of_checkout = Place(&rig.spaces[0], Some(&checkout));
    let of_other = Place(&rig.spaces[0], Some(&other));
    let of_nobody = Place(&rig.spaces[0], None);
    let (of_pod, of_stray) = (Place(&rig.spaces[2], None), Place(&rig.spaces[3], None));
    let check = |place: Place, at: SocketAddr, host: &str, status: &str| -> Result {
        let answers = place.asks(at, host, 3)?;
        ensure!(answers == [status; 3], "{host} from {at}: {answers:?}, and not {status}");
        Ok(())
    };
    // Over and over, so that each worker has connections of both to lend.
    for _ in 0..4 {
        for host in ["shop", "here"] {
            check(of_checkout, own, host, "200")?;
            check(of_other, own, host, "403")?;
            check(of_pod, pod, host, "200")?;
            check(of_stray, pod, host, "403")?;
            check(of_nobody, own, host, "403")?;
        }
        check(of_checkout, own, "strict", "200")?;
        for place in [of_other, of_nobody] {
            check(place, own, "strict", "403")?;
            check(place, own, "open", "200")?;
        }
        check(of_pod, pod, "strict", "403")?;
    }
    let seen = rig.shop.requests.load(Relaxed);
    ensure!(seen == 4 * 2 * 3, "{seen} requests got through");
    let raw = |it: SocketAddr| SocketAddr::new(it.ip(), 9090);
    ensure!(of_checkout.echoes(raw(own))? && of_pod.echoes(raw(pod))?, "bytes of who may");
    ensure!(!of_other.echoes(raw(own))? && !of_stray.echoes(raw(pod))?, "bytes of who may not");

    let status = rig.a.status()?;
    let known = |how: &str| status.counts.workloads.get(how).copied().unwrap_or_default();
    let all = ["by cgroup", "by address", "not known"].map(known);
    println!("{all:?} {} denied here", status.counts.denied);
    ensure!(all.iter().all(|it| *it > 0) && status.workloads == 1, "{status:?}");
    ensure!(status.counts.denied > 0 && status.problems.is_empty(), "{status:?}");
    let shown = rig.a.node.cli(&["mesh", "show"])?.stdout;
    ensure!(shown.contains("1 containers are named"), "{shown}");
    let log = |member: &Member| fs::read_to_string(member.node.dir().with_extension("log"));
    let of_b = log(&rig.b)?;
    for who in ["unit/checkout.service", "workload/shop/checkout"] {
        ensure!(of_b.contains(&format!("spiffe://r1/node/a/{who}")), "{who} in {of_b}");
    }
    let refused = "no rule allows it who=spiffe://r1/node/a/unit/other.service";
    ensure!(log(&rig.a)?.contains(refused), "{}", log(&rig.a)?);

    let why = |arguments: &[&str]| -> Result<String> {
        let url = "http://shop.rack/";
        Ok(rig.a.node.cli(&[&["mesh", "why", url][..], arguments].concat())?.stdout)
    };
    ensure!(why(&["--as", "unit/checkout.service"])?.contains("goes to shop"), "who may");
    let refused = why(&["--as", "unit/other.service"])?;
    ensure!(refused.contains("403: no rule of shop allows spiffe://r1/node/a/unit/"), "{refused}");
    ensure!(why(&[])?.contains("`--as` names no workload"), "{}", why(&[])?);

    // Of whom this node's own table says nothing, the other one decides.
    let mut bare = rig.mesh.clone();
    bare.services.iter_mut().for_each(|it| it.allow.clear());
    rig.a.put(2, &bare)?;
    let before = rig.b.status()?.counts.denied;
    for _ in 0..4 {
        check(of_checkout, own, "shop", "200")?;
        check(of_other, own, "shop", "403")?;
        check(of_pod, pod, "shop", "200")?;
        check(of_stray, pod, "shop", "403")?;
        check(of_other, own, "strict", "403")?;
        check(of_checkout, own, "strict", "200")?;
        check(of_other, own, "open", "200")?;
        check(of_other, own, "here", "200")?;
    }
    let denied = rig.b.status()?.counts.denied - before;
    ensure!(denied >= 4 * 3 * 3, "{denied} are counted");
    let of_b = log(&rig.b)?;
    ensure!(of_b.contains("who=spiffe://r1/node/a/unit/other.service"), "{of_b}");

    // A node that says whatever it likes is still no other one.
    let mut of_c = rig.of_b();
    of_c.services[0].allow = vec![allow("spiffe://r1/node/c/unit/checkout.service")];
    // Bytes that were let in before go on: it is the next connection that is asked about.
    rig.b.kill()?;
    rig.b.start(&of_c)?;
    check(of_checkout, own, "shop", "403")?;
    rig.b.put(3, &rig.of_b())?;

    // Who is who outlives the mesh, and a container that is gone is nobody.
    rig.a.kill()?;
    rig.a.start_again()?;
    rig.a.put(3, &bare)?;
    check(of_pod, pod, "shop", "200")?;
    fs::remove_dir(&pods)?;
    wait::until("a pod that is gone is nobody", SOON, || {
        std::thread::sleep(Duration::from_millis(100));
        check(of_pod, pod, "shop", "403").map_err(|it| format!("{it:?}"))
    })
}
