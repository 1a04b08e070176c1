//! Through NRI: what the runtime and the agent make of each other, whoever of them is
//! late, gone or wrong.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use purlin_proto::{
    api::{Nri, NriState},
    mesh::{Endpoints, Status},
    nri,
};
use purlin_tests::{Lab, Need, Node, Result, Test, ensure, process::Process, test, wait};

use crate::{
    containerd::{Containerd, Line, NEEDS},
    cri::CpuLimit,
    plugin::{Plugin, Told},
    service::{self, Service},
};

/// Each against both lines of containerd.
pub fn tests() -> impl IntoIterator<Item = Test> {
    [
        test("nri::containerd_1::pins_at_create", 60, |lab| pins(lab, Line::One)),
        test("nri::containerd_2::pins_at_create", 60, |lab| pins(lab, Line::Two)),
        test("nri::containerd_1::refuses_with_a_reason", 60, |lab| refuses(lab, Line::One)),
        test("nri::containerd_2::refuses_with_a_reason", 60, |lab| refuses(lab, Line::Two)),
        test("nri::containerd_1::a_killed_agent_repairs", 60, |lab| killed(lab, Line::One)),
        test("nri::containerd_2::a_killed_agent_repairs", 60, |lab| killed(lab, Line::Two)),
        test("nri::containerd_1::a_stopped_agent_repairs", 60, |lab| stopped(lab, Line::One)),
        test("nri::containerd_2::a_stopped_agent_repairs", 60, |lab| stopped(lab, Line::Two)),
        test("nri::containerd_1::a_restarted_runtime", 60, |lab| restarted(lab, Line::One)),
        test("nri::containerd_2::a_restarted_runtime", 60, |lab| restarted(lab, Line::Two)),
        test("nri::containerd_1::a_cgroup_written_over", 60, |lab| overwritten(lab, Line::One)),
        test("nri::containerd_2::a_cgroup_written_over", 60, |lab| overwritten(lab, Line::Two)),
        test("nri::containerd_1::an_agent_without_a_privilege", 60, |lab| {
            unprivileged(lab, Line::One)
        })
        .needs(&service::NEEDS),
        test("nri::containerd_2::an_agent_without_a_privilege", 60, |lab| {
            unprivileged(lab, Line::Two)
        })
        .needs(&service::NEEDS),
        test("nri::containerd_2::a_containers_services_are_offered_to_the_mesh", 60, services),
        test("nri::containerd_2::kubelets_cpus_are_its_own", 60, kubelets).needs(&service::NEEDS),
        test("nri::containerd_1::a_reply_of_any_size_is_taken", 60, |lab| sizes(lab, Line::One)),
        test("nri::containerd_2::a_reply_of_any_size_is_taken", 60, |lab| sizes(lab, Line::Two)),
        test("nri::containerd_1::three_megabytes_are_synchronized", 60, |lab| {
            three_megabytes(lab, Line::One)
        }),
        test("nri::containerd_2::three_megabytes_are_synchronized", 60, |lab| {
            three_megabytes(lab, Line::Two)
        }),
        test("nri::containerd_2::six_megabytes_are_synchronized_in_parts", 60, six_megabytes),
    ]
    .map(|test| test.needs(&NEEDS).needs(&[Need::Is(one_core)]))
}

/// A core is reserved on each node, so there has to be another.
fn one_core() -> Option<String> {
    let cpus = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    (cpus.trim() == "0").then(|| "one CPU, and none to give away".to_owned())
}

/// What a pod's container asks for a CPU of its own with.
const EXCLUSIVE: [(&str, &str); 1] = [("purlin.dev/exclusive-cpus", "1")];
/// Within this time everything is repaired, on a machine that does much else.
const REPAIRED: Duration = Duration::from_secs(10);

/// A containerd, and an agent that it asks; which sees no cgroup of it, so that whatever
/// is pinned was pinned through NRI.
fn begin(lab: &Lab, line: Line) -> Result<(Containerd, Node)> {
    begin_with(lab, line, |_, _| {})
}

fn begin_with(
    lab: &Lab,
    line: Line,
    set: fn(&mut Node, &Containerd),
) -> Result<(Containerd, Node)> {
    let containerd = Containerd::start(lab, line)?;
    let mut node = Node::new(lab, "node")?;
    node.set("PURLIN_NRI__SOCKET", containerd.nri_socket());
    set(&mut node, &containerd);
    node.start()?;
    asked(&node)?;
    Ok((containerd, node))
}

/// Waits until the runtime asks the agent; how it stands.
fn asked(node: &Node) -> Result<Nri> {
    wait::until("the runtime asks the agent", REPAIRED, || match node.status() {
        Ok(status) if status.nri.state == NriState::Up => Ok(status.nri),
        Ok(status) => Err(format!("{:?}", status.nri)),
        Err(failed) => Err(failed.message().unwrap_or_default().to_owned()),
    })
}

/// A pod with one running container; the container's id.
fn run(containerd: &Containerd, name: &str, annotations: &[(&str, &str)]) -> Result<String> {
    let pod = containerd.pod(name, annotations);
    let pod_id = containerd.cri.run_pod(&pod)?;
    let id = containerd.cri.create(&pod, &pod_id, "main", CpuLimit(1))?;
    containerd.cri.start(&id)?;
    Ok(id)
}

/// Waits until a container's cgroup says so; how long that took.
fn becomes(containerd: &Containerd, id: &str, cpus: &str) -> Result<Duration> {
    let began = Instant::now();
    wait::until(&format!("cpuset.cpus is {cpus}"), REPAIRED, || {
        match containerd.cpuset(id, "cpuset.cpus") {
            Ok(is) if is == cpus => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    Ok(began.elapsed())
}

/// Every CPU, and all but the first of the machine.
fn cpus() -> Result<(String, String)> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
    Ok((online.trim().to_owned(), "1".to_owned()))
}

fn pins(lab: &Lab, line: Line) -> Result {
    let (containerd, node) = begin(lab, line)?;
    let (all, own) = cpus()?;
    let web = run(&containerd, "web", &[])?;
    becomes(&containerd, &web, &all)?;
    let pod = containerd.pod("db", &EXCLUSIVE);
    let pod_id = containerd.cri.run_pod(&pod)?;
    let db = containerd.cri.create(&pod, &pod_id, "main", CpuLimit(1))?;
    // Before it starts nobody else is there any more.
    let left = containerd.cpuset(&web, "cpuset.cpus")?;
    ensure!(!left.contains(&own), "the other one is still on {left}");
    containerd.cri.start(&db)?;
    // Nothing of it has ever run anywhere else: runc was told so from the beginning.
    let spec = containerd.spec(&db)?["linux"]["resources"]["cpu"].clone();
    ensure!(spec["cpus"] == own.as_str() && spec["mems"] == "0", "it was created with {spec}");
    let is = (containerd.cpuset(&db, "cpuset.cpus")?, containerd.cpuset(&db, "cpuset.mems")?);
    ensure!(is == (own.clone(), "0".into()), "its cpuset is {is:?}");
    // A resize, as kubelet does it, loses nothing of that.
    containerd.cri.resize(&db, CpuLimit(2))?;
    becomes(&containerd, &db, &own)?;
    containerd.cri.remove(&db)?;
    becomes(&containerd, &web, &all)?;
    let nri = node.status()?.nri;
    ensure!((nri.created, nri.refused, nri.repaired) == (2, 0, 0), "{nri:?}");
    // Asked for once, when the CPU was free again: all else went with the answers.
    let updates = containerd.log()?.matches("requested container updates").count();
    ensure!(updates == 1, "{updates} updates were asked for");
    Ok(())
}

fn refuses(lab: &Lab, line: Line) -> Result {
    let (containerd, node) = begin(lab, line)?;
    let pod = containerd.pod("big", &[("purlin.dev/exclusive-cpus", "1000")]);
    let pod_id = containerd.cri.run_pod(&pod)?;
    let created = containerd.cri.create(&pod, &pod_id, "main", CpuLimit(1));
    let why = created.err().map(|failed| failed.message().unwrap_or_default().to_owned());
    let why = why.ok_or("it was created")?;
    let told = ["purlin can't place default/big/main", "of 1000 exclusive"];
    ensure!(told.iter().all(|told| why.contains(told)), "{why}");
    // It is told once, however often it is tried.
    containerd.cri.create(&pod, &pod_id, "main", CpuLimit(1)).err().ok_or("it was created")?;
    ensure!(events(&node, "placement.refused")? == 1, "refused twice, and told so");
    // Nothing of it is left in the way.
    let db = run(&containerd, "db", &EXCLUSIVE)?;
    becomes(&containerd, &db, &cpus()?.1)?;
    let nri = node.status()?.nri;
    ensure!((nri.created, nri.refused) == (1, 2), "{nri:?}");
    println!("{why}");
    // Where that is what is wanted, it shares.
    let document = lab.file("open.toml", "version = 1\n[placement]\nfail_open = true\n")?;
    let applied = node.cli(&["config", "apply", &document.to_string_lossy()])?;
    ensure!(applied.code == 0, "{applied:?}");
    containerd.cri.create(&pod, &pod_id, "main", CpuLimit(1))?;
    ensure!(events(&node, "placement.failed_open")? == 1, "nobody was told of it");
    Ok(())
}

/// How many events of that name wait, once there is one.
fn events(node: &Node, name: &str) -> Result<usize> {
    let count = || -> Result<usize> {
        let told = node.cli(&["queue", "peek", "--class", "event", "-n", "100"])?;
        ensure!(told.code == 0, "{told:?}");
        Ok(told.stdout.matches(name).count())
    };
    wait::until(&format!("there is an event {name}"), REPAIRED, || match count() {
        Ok(0) => Err("none".to_owned()),
        Ok(count) => Ok(count),
        Err(failed) => Err(format!("{failed:?}")),
    })
}

fn killed(lab: &Lab, line: Line) -> Result {
    let (containerd, mut node) = begin(lab, line)?;
    let (all, own) = cpus()?;
    let before = run(&containerd, "before", &[])?;
    node.kill()?;
    let db = run(&containerd, "db", &EXCLUSIVE)?;
    let is = containerd.cpuset(&db, "cpuset.cpus")?;
    ensure!(is == all, "nobody was there to pin it: {is}");
    node.start()?;
    let took = becomes(&containerd, &db, &own)?;
    println!("repaired {took:?} after the agent answers");
    ensure!(took < Duration::from_secs(1), "repaired after {took:?}");
    let left = containerd.cpuset(&before, "cpuset.cpus")?;
    ensure!(!left.contains(&own), "the other one is still on {left}");
    let nri = asked(&node)?;
    ensure!(nri.repaired == 2, "{nri:?}");
    ensure!(events(&node, "placement.repaired")? == 1, "nobody was told of it");
    // Nothing that is right is touched when it comes back once more.
    node.kill()?;
    node.start()?;
    let nri = asked(&node)?;
    ensure!(nri.repaired == 0, "{nri:?}");
    Ok(())
}

/// For 3 s it answers nothing: the runtime goes on without it after 2 s.
fn stopped(lab: &Lab, line: Line) -> Result {
    let (containerd, node) = begin(lab, line)?;
    let (all, own) = cpus()?;
    let pid = Pid::from_raw(node.pid()?.cast_signed());
    let began = Instant::now();
    kill(pid, Signal::SIGSTOP)?;
    let created = run(&containerd, "db", &EXCLUSIVE);
    sleep(Duration::from_secs(3).saturating_sub(began.elapsed()));
    let db = created?;
    let is = containerd.cpuset(&db, "cpuset.cpus");
    kill(pid, Signal::SIGCONT)?;
    ensure!(is? == all, "nobody was there to pin it");
    println!("repaired {:?} after the agent goes on", becomes(&containerd, &db, &own)?);
    let nri = asked(&node)?;
    ensure!((nri.sessions, nri.repaired) == (2, 1), "{nri:?}");
    Ok(())
}

/// Its containers live on, and it knows no more of us.
fn restarted(lab: &Lab, line: Line) -> Result {
    let (mut containerd, node) = begin(lab, line)?;
    let own = cpus()?.1;
    let db = run(&containerd, "db", &EXCLUSIVE)?;
    containerd.kill()?;
    wait::until("it is noticed", REPAIRED, || match node.status() {
        Ok(status) if status.faults.iter().any(|it| it.id == "runtime-unasked") => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    containerd.restart()?;
    let nri = asked(&node)?;
    ensure!((nri.sessions, nri.repaired) == (2, 0), "{nri:?}");
    becomes(&containerd, &db, &own)?;
    let full = run(&containerd, "more", &EXCLUSIVE);
    ensure!(full.is_err(), "the CPU was given away twice");
    Ok(())
}

/// Somebody writes into the cgroup, of which no runtime ever hears.
fn overwritten(lab: &Lab, line: Line) -> Result {
    let (containerd, node) = begin_with(lab, line, |node, containerd| {
        node.set("PURLIN_TEST__CGROUP", containerd.cgroup());
    })?;
    let own = cpus()?.1;
    let db = run(&containerd, "db", &EXCLUSIVE)?;
    becomes(&containerd, &db, &own)?;
    fs::write(containerd.cpuset_dir(&db).join("cpuset.cpus"), "0")?;
    println!("repaired {:?} after it was written over", becomes(&containerd, &db, &own)?);
    ensure!(events(&node, "placement.repaired")? == 1, "it was written over once");
    Ok(())
}

/// A containerd whose socket is root's alone, and an agent that is not root; neither it nor
/// the helper is started yet.
fn packaged(lab: &Lab, line: Line) -> Result<(Containerd, Node)> {
    let containerd = Containerd::start(lab, line)?;
    let socket = containerd.nri_socket();
    let closed = fs::Permissions::from_mode(0o700);
    fs::set_permissions(socket.parent().ok_or("a directory")?, closed)?;
    let mut node = service::node(lab)?;
    node.set("PURLIN_NRI__SOCKET", &socket);
    node.set("PURLIN_TEST__CGROUP", containerd.cgroup());
    Ok((containerd, node))
}

/// Root's own file.
fn name_the_socket(lab: &Lab, containerd: &Containerd) -> Result {
    let file = format!("[nri]\nsocket = {:?}\n", containerd.nri_socket());
    lab.file("etc/purlin/purlin.toml", file).map(drop)
}

/// As the package has it: the socket is root's, and the helper connects to the one that
/// root's file names and to no other.
fn unprivileged(lab: &Lab, line: Line) -> Result {
    let (containerd, mut node) = packaged(lab, line)?;
    let says = |node: &Node, what: &str| {
        wait::until(what, REPAIRED, || match node.status() {
            Ok(status) => match status.nri.last_error {
                Some(why) if why.contains(what) => Ok(()),
                other => Err(format!("{other:?}")),
            },
            Err(failed) => Err(format!("{failed:?}")),
        })
    };
    node.start()?;
    says(&node, "Permission denied")?;
    node.kill()?;
    let _service = Service::start(lab, node.binary())?;
    node.start()?;
    says(&node, "is not /var/run/nri/nri.sock, the only socket")?;
    name_the_socket(lab, &containerd)?;
    asked(&node)?;
    let own = cpus()?.1;
    let db = run(&containerd, "db", &EXCLUSIVE)?;
    ensure!(containerd.cpuset(&db, "cpuset.cpus")? == own, "it was not pinned at create");
    fs::write(containerd.cpuset_dir(&db).join("cpuset.cpus"), "0")?;
    println!("repaired {:?} after it was written over", becomes(&containerd, &db, &own)?);
    let status = node.status()?;
    ensure!(status.faults.is_empty(), "{:?}", status.faults);
    Ok(())
}

/// Kubelet's state is root's alone, and says what it gave; then it says otherwise, then
/// nonsense.
fn kubelets(lab: &Lab) -> Result {
    let (containerd, mut node) = packaged(lab, Line::Two)?;
    name_the_socket(lab, &containerd)?;
    let kubelet = |content: &str| -> Result {
        let file = lab.file("lib/kubelet/new", content)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        let closed = fs::Permissions::from_mode(0o700);
        fs::set_permissions(lab.dir().join("lib/kubelet"), closed)?;
        Ok(fs::rename(file, lab.dir().join("lib/kubelet/cpu_manager_state"))?)
    };
    let (all, own) = cpus()?;
    let rest = all.replace(&format!("-{own}"), "");
    kubelet(&format!(
        r#"{{"policyName":"static","defaultCpuSet":"{rest}","entries":{{"db":{{"main":"{own}"}}}}}}"#
    ))?;
    let features = "etc/kubernetes/node-feature-discovery/features.d";
    fs::create_dir_all(lab.dir().join(features))?;
    let _service = Service::start(lab, node.binary())?;
    node.start()?;
    asked(&node)?;
    let web = run(&containerd, "web", &[])?;
    becomes(&containerd, &web, &rest)?;
    let refused = run(&containerd, "more", &EXCLUSIVE);
    ensure!(refused.is_err(), "kubelet's CPU was given away");
    let db = run(&containerd, "db", &[])?;
    let explained = node.cli(&["numa", "explain"])?;
    ensure!(explained.stdout.contains("given, its own"), "{explained:?}");
    containerd.cri.remove(&db)?;
    // What it gives next is known before the next container is placed.
    kubelet(&format!(r#"{{"policyName":"static","defaultCpuSet":"{all}","entries":{{}}}}"#))?;
    run(&containerd, "late", &[])?;
    becomes(&containerd, &web, &all)?;
    kubelet("nonsense")?;
    wait::until("it is told", REPAIRED * 2, || match node.status() {
        Ok(status) if status.faults.iter().any(|it| it.id == "kubelet-unread") => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let refused = run(&containerd, "more", &EXCLUSIVE);
    ensure!(refused.is_err(), "what was read last holds");
    // The scheduler's file is root's too.
    wait::until("the scheduler is told", REPAIRED, || {
        let told = fs::read_to_string(lab.dir().join(features).join("purlin"));
        match told.unwrap_or_default() {
            told if told.contains("purlin.dev/exclusive-cpus=0\n") => Ok(()),
            told => Err(told),
        }
    })
}

const FILL: &str = "purlin.dev/fill";

/// Replies of 100 B, 5 KB, 200 KB and 3 MB: each pins, and arrives whole.
fn sizes(lab: &Lab, line: Line) -> Result {
    /// The name of a container is the size of what is said about it.
    fn adjust(container: &nri::Container) -> nri::CreateContainerResponse {
        let fill = "x".repeat(container.name.parse().unwrap_or(0));
        let cpu = nri::LinuxCpu { cpus: "1".into(), mems: "0".into(), ..Default::default() };
        let resources = nri::LinuxResources { cpu: Some(cpu), ..Default::default() };
        let adjust = nri::ContainerAdjustment {
            annotations: [(FILL.into(), fill)].into(),
            linux: Some(nri::LinuxContainerAdjustment { resources: Some(resources) }),
            ..Default::default()
        };
        nri::CreateContainerResponse { adjust: Some(adjust), update: Vec::new() }
    }
    let containerd = Containerd::start(lab, line)?;
    let plugin = Plugin::register(&containerd.nri_socket(), adjust)?;
    plugin.synchronized()?;
    let pod = containerd.pod("sizes", &[]);
    let pod_id = containerd.cri.run_pod(&pod)?;
    for size in [50_usize, 100, 4_000, 4_096, 5_000, 8_192, 200_000, 3_000_000, 4_190_000] {
        let id = containerd.cri.create(&pod, &pod_id, &size.to_string(), CpuLimit(1))?;
        containerd.cri.start(&id)?;
        let cpus = containerd.cpuset(&id, "cpuset.cpus")?;
        ensure!(cpus == "1", "with {size} B: cpuset.cpus is {cpus}");
        let spec = containerd.spec(&id)?;
        let length = spec["annotations"][FILL].as_str().map_or(0, str::len);
        ensure!(length == size, "{length} of {size} B have arrived");
        containerd.cri.remove(&id)?;
    }
    Ok(())
}

/// Pods whose annotations are so many bytes together, in one message.
fn three_megabytes(lab: &Lab, line: Line) -> Result {
    let told = told_of(lab, line, 3_000_000)?;
    ensure!(told.bytes > 3_000_000 && told.messages == 1, "{told:?}");
    Ok(())
}

/// More than fits one message: only NRI 0.8 and later divides it.
fn six_megabytes(lab: &Lab) -> Result {
    let told = told_of(lab, Line::Two, 6_000_000)?;
    ensure!(told.bytes > 6_000_000 && told.messages > 1, "{told:?}");
    Ok(())
}

fn told_of(lab: &Lab, line: Line, bytes: usize) -> Result<Told> {
    const PODS: usize = 12;
    let containerd = Containerd::start(lab, line)?;
    let fill = "x".repeat(bytes / PODS);
    let annotations = [(FILL, fill.as_str())];
    let names: Vec<String> = (0..PODS).map(|at| format!("pod-{at}")).collect();
    for name in &names {
        containerd.cri.run_pod(&containerd.pod(name, &annotations))?;
    }
    let plugin = Plugin::register(&containerd.nri_socket(), |_| Default::default())?;
    let told = plugin.synchronized()?;
    ensure!(told.pods == PODS, "{told:?}");
    println!("{told:?}");
    Ok(told)
}

/// What a container's annotation says it serves is an endpoint of the mesh, as long as it
/// runs.
fn services(lab: &Lab) -> Result {
    let (containerd, node) = begin(lab, Line::Two)?;
    let mut command = node.command(&[]);
    let _mesh = Process::start(command.arg("mesh").stdout(Stdio::null()))?;
    let document = "[[mesh.services]]\nname = \"shop\"\nendpoints_from = [\"*\"]\n";
    let document = lab.file("mesh.toml", document)?.display().to_string();
    // A mesh that is still starting fails no trial.
    let applied = node.cli(&["config", "apply", &document])?;
    ensure!(applied.code == 0, "{applied:?}");
    let endpoints = || -> Result<Vec<(String, String)>> {
        let all: Endpoints = node.cli(&["mesh", "endpoints", "-o", "json"])?.json()?;
        Ok(all.endpoints.into_iter().map(|it| (it.address, it.origin)).collect())
    };
    let becomes = |what: &str, expected: &[(&str, &str)]| {
        wait::until(what, REPAIRED, || {
            let found = endpoints().map_err(|e| format!("{e:?}"))?;
            let is_it =
                found.iter().map(|(at, from)| (&**at, &**from)).eq(expected.iter().copied());
            if is_it { Ok(()) } else { Err(format!("{found:?}")) }
        })
    };
    let web = run(&containerd, "web", &[("main.purlin.dev/services", "shop=8080,bank=81")])?;
    let origin = "container default/web/main";
    becomes("the container is an endpoint", &[("127.0.0.1:8080", origin)])?;
    let other = run(&containerd, "other", &[("purlin.dev/services", "shop=127.0.0.2:90")])?;
    wait::until("both are", REPAIRED, || match endpoints().map(|it| it.len()) {
        Ok(2) => Ok(()),
        it => Err(format!("{it:?}")),
    })?;
    // Rules may name both.
    let status: Status = node.cli(&["mesh", "show", "-o", "json"])?.json()?;
    ensure!(status.workloads == 2, "{status:?}");
    containerd.cri.remove(&web)?;
    becomes("one is left", &[("127.0.0.2:90", "container default/other/main")])?;
    containerd.cri.remove(&other)?;
    becomes("none is left", &[])
}
