//! A node as it is shipped: Debian with the package, systemd as its first process. What a
//! chroot can't show: that the units start, that their sandboxes leave them able to work,
//! that systemd starts again what stands still. All tests share one guest.

use std::{
    env,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use purlin_tests::{
    Guest, Lab, Need, Result, ensure,
    guest::{KERNEL_ARGUMENTS, OWN, ROOT_BUS},
    lab::Test,
    test, wait,
};
use serde_json::{Value, json};

use crate::containers::{members, specification};

/// The disk that `tests/vm/disk` makes.
pub const DISK: &str = "PURLIN_GUEST_DISK";
/// A guest's CPUs are emulated on what the host has left.
pub const SOON: Duration = Duration::from_secs(60);
/// `WatchdogSec=` of purlind.service, and `RestartSec=`.
const WATCHDOG: Duration = Duration::from_secs(30 + 2);
/// What the package brings that is to be up.
const UNITS: [&str; 6] = [
    "purlind.service",
    "purlin-mesh.service",
    "purlin-helper.socket",
    "purlin-gpu.socket",
    "purlin-nic.socket",
    "purlin-cdi.path",
];
/// `systemd-analyze security`, at most: 10 is a bare unit.
const MOST_EXPOSED: [(&str, f64); 6] = [
    ("purlind.service", 2.0),
    ("purlin-mesh.service", 1.5),
    ("purlin-intercept.service", 2.0),
    ("purlin-helper@any.service", 4.0),
    ("purlin-gpu@any.service", 2.0),
    ("purlin-nic@any.service", 2.0),
];

static GUEST: Mutex<Option<Guest>> = Mutex::new(None);

pub fn tests() -> Vec<Test> {
    let tests = [
        test("installed::every_unit_starts_and_none_fails", 600, |lab| with(lab, starts)),
        test("installed::a_technician_is_answered_and_may_change_nothing", 600, |lab| {
            with(lab, technician)
        }),
        test("installed::nobody_has_a_capability_that_it_does_not_need", 600, |lab| {
            with(lab, privileges)
        }),
        test("installed::units_are_exposed_as_little_as_they_should_be", 600, |lab| {
            with(lab, exposure)
        }),
        test("installed::a_container_is_pinned_and_stays_so", 600, |lab| with(lab, pinned)),
        test("installed::containers_in_scopes_of_systemd_are_pinned_and_stay_so", 600, |lab| {
            with(lab, in_scopes)
        }),
        test("installed::a_restart_loses_no_helper_and_no_placement", 600, |lab| {
            with(lab, restarted)
        }),
        test("installed::a_reload_replaces_the_mesh_and_refuses_nobody", 600, |lab| {
            with(lab, reloaded)
        }),
        test(
            "installed::connections_are_taken_while_the_mesh_lives_and_go_as_before_when_not",
            600,
            |lab| with(lab, intercepted),
        ),
        test("installed::an_agent_that_stands_still_is_started_again", 600, |lab| {
            with(lab, stands_still)
        }),
    ];
    let needs = [Need::Path(DISK), Need::Program("runc")];
    tests.into_iter().map(|test| test.needs(&needs)).collect()
}

/// Does it in the guest; what the units logged, if it fails.
fn with(lab: &Lab, body: fn(&mut Guest) -> Result) -> Result {
    let mut shared = GUEST.lock().unwrap_or_else(PoisonError::into_inner);
    let guest = match &mut *shared {
        Some(guest) => guest,
        none => none.insert(boot(lab, &[])?),
    };
    body(guest).map_err(|failed| {
        let log = "purlin log; purlin numa explain own; journalctl --no-pager -b -q -n 40; true";
        let log = guest.output(log).unwrap_or_else(|e| format!("no journal: {e:?}"));
        format!("{}\n--- what is told\n{log}", failed.message().unwrap_or("failed")).into()
    })
}

/// A node with the package, and with more of what QEMU may be told.
pub fn boot(lab: &Lab, more: &[(&str, String)]) -> Result<Guest> {
    let disk = env::var(DISK)?;
    let drive = format!("file={disk},if=none,id=root,format=raw,snapshot=on");
    let arguments = [
        ("-machine", "q35"),
        ("-smp", "4"),
        ("-m", "1536M"),
        ("-drive", &drive),
        ("-device", &format!("virtio-blk-pci,bus={ROOT_BUS},drive=root")),
        // The last one counts.
        ("-append", &format!("{KERNEL_ARGUMENTS} root=/dev/vda systemd.firstboot=off")),
    ];
    let more = more.iter().map(|(option, value)| (*option, value.as_str()));
    let words = arguments.into_iter().chain(more).flat_map(|(option, value)| [option, value]);
    let words: Vec<String> = words.map(str::to_owned).collect();
    let began = Instant::now();
    let mut guest = Guest::boot(lab, &OWN, &words)?;
    active(&mut guest)?;
    println!("the node is up after {:.1} s", began.elapsed().as_secs_f64());
    Ok(guest)
}

/// Waits until all that is to be up is.
pub fn active(guest: &mut Guest) -> Result {
    wait::until("all units are active", SOON, || {
        let command = format!("systemctl is-active {}", UNITS.join(" "));
        let told = guest.run(&command).map_err(|e| format!("{e:?}"))?;
        if told.code == 0 { Ok(()) } else { Err(told.stdout.replace('\n', " ")) }
    })
}

/// A property of a unit.
pub fn show(guest: &mut Guest, unit: &str, property: &str) -> Result<String> {
    let value = guest.output(&format!("systemctl show --value -p {property} {unit}"))?;
    Ok(value.trim().to_owned())
}

fn starts(guest: &mut Guest) -> Result {
    let state = wait::until("the system has started", SOON, || {
        let told = guest.run("systemctl is-system-running").map_err(|e| format!("{e:?}"))?;
        let state = told.stdout.trim().to_owned();
        if state == "starting" { Err(state) } else { Ok(state) }
    })?;
    let failed = guest.output("systemctl --failed --plain --no-legend")?;
    println!("the system is {state}; failed: {failed:?}");
    ensure!(!failed.contains("purlin"), "{failed}");
    ensure!(state == "running", "the system is {state}: {failed}");
    for unit in UNITS {
        let restarts = show(guest, unit, "NRestarts")?;
        ensure!(matches!(&*restarts, "" | "0"), "{unit} was restarted {restarts} times");
    }
    let cdi = show(guest, "purlin-cdi.service", "Result")?;
    ensure!(cdi == "success", "purlin-cdi.service: {cdi}");
    let said = guest.output("journalctl --no-pager -b -q -p err -u 'purlin*'")?;
    ensure!(said.is_empty(), "{said}");
    Ok(())
}

/// Process ids of `purlin helper write`, root's.
fn helpers(guest: &mut Guest) -> Result<Vec<u32>> {
    let units = "systemctl show --value -p MainPID 'purlin-helper@*.service'";
    Ok(guest.output(units)?.split_whitespace().flat_map(str::parse).filter(|it| *it != 0).collect())
}

fn technician(guest: &mut Guest) -> Result {
    let told = guest.run("runuser -u technician -- purlin status -o json")?;
    ensure!(matches!(told.code, 0 | 2), "{told:?}");
    let status: Value = serde_json::from_str(&told.stdout).map_err(|e| format!("{e}: {told:?}"))?;
    let sandbox = &status["sandbox"];
    ensure!(sandbox["seccomp"] == true && sandbox["landlock_abi"].is_number(), "{sandbox}");
    println!("faults: {}", status["faults"]);
    ensure!(status["mode"] == "system", "{status}");
    ensure!(status["state_dir"] == "/var/lib/purlin", "{status}");
    let page = guest.output("runuser -u technician -- purlin status; true")?;
    println!("{page}");
    let refused = guest.run("runuser -u technician -- purlin numa pause")?;
    ensure!(refused.code != 0, "a technician gave every cpuset back: {refused:?}");
    Ok(())
}

fn privileges(guest: &mut Guest) -> Result {
    let agent = show(guest, "purlind.service", "MainPID")?.parse()?;
    let mesh = show(guest, "purlin-mesh.service", "MainPID")?.parse()?;
    // CAP_NET_BIND_SERVICE is the tenth bit.
    for (pid, user, capabilities) in [(agent, "purlin", 0), (mesh, "purlin-mesh", 1 << 10)] {
        is_confined(guest, pid, user, capabilities)?;
    }
    // Started by what the agent asks of it first.
    let own = own(guest)?;
    is_repaired(guest, "own", &own)?;
    let helpers = helpers(guest)?;
    ensure!(!helpers.is_empty(), "nothing that is root's wrote it");
    helpers.into_iter().try_for_each(|pid| is_confined(guest, pid, "root", 0))
}

/// As the kernel has it: credentials(7), capabilities(7), proc(5).
pub fn is_confined(guest: &mut Guest, pid: u32, user: &str, capabilities: u64) -> Result {
    let status = guest.output(&format!("cat /proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.ok_or_else(|| format!("no {name} in {status}"))
    };
    let uid = guest.output(&format!("id -u {user}"))?;
    let uids: Vec<&str> = field("Uid")?.split_whitespace().collect();
    ensure!(uids == [uid.trim(); 4], "process {pid} of {user}: {uids:?}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let has = u64::from_str_radix(field(set)?, 16)?;
        ensure!(has & !capabilities == 0, "{set} of process {pid} of {user} is {has:x}");
    }
    ensure!(field("NoNewPrivs")? == "1", "process {pid} of {user} may gain privileges");
    ensure!(field("Seccomp")? == "2", "process {pid} of {user} has no filter of system calls");
    println!("{user}: {}", field("CapEff")?);
    Ok(())
}

fn exposure(guest: &mut Guest) -> Result {
    for (unit, most) in MOST_EXPOSED {
        let told = guest.output(&format!("systemd-analyze security --no-pager {unit}"))?;
        let score = told.split_once("Overall exposure level for ");
        let score = score.and_then(|(_, rest)| rest.split_once(": "));
        let score = score.and_then(|(_, rest)| rest.split_whitespace().next());
        let score: f64 = score.ok_or_else(|| format!("no score: {told}"))?.parse()?;
        println!("{unit}: exposure {score} of 10, at most {most}");
        ensure!(score <= most, "{unit}: exposure {score}, at most {most}:\n{told}");
    }
    Ok(())
}

/// Makes a container that sleeps, by `purlin oci-runtime` as this runtime.
fn make(guest: &mut Guest, runtime: &str, id: &str, annotations: Value) -> Result {
    let specification = specification(id, "/srv/rootfs", &["sleep", "9000"], annotations);
    run(guest, runtime, id, &specification)
}

/// The same in a scope that systemd makes, as on a node of Kubernetes.
fn make_in_scope(guest: &mut Guest, id: &str, annotations: Value) -> Result {
    let mut specification = specification(id, "/srv/rootfs", &["sleep", "9000"], annotations);
    specification["linux"]["cgroupsPath"] = format!("box.slice:it:{id}").into();
    run(guest, "runc --systemd-cgroup", id, &specification)
}

fn run(guest: &mut Guest, runtime: &str, id: &str, specification: &Value) -> Result {
    guest.output(&format!(
        "mkdir -p /srv/{id} && printf %s '{specification}' >/srv/{id}/config.json"
    ))?;
    // As a container manager calls the link that the package brings.
    let run = format!("/usr/libexec/purlin/{runtime} run -d -b /srv/{id} {id}");
    let made = guest.run(&format!("{run} </dev/null >/srv/{id}.out 2>/srv/{id}.err"))?;
    let said = guest.output(&format!("cat /srv/{id}.err"))?;
    ensure!(made.code == 0, "{id} was not made: {made:?}: {said}");
    Ok(())
}

fn cpus(guest: &mut Guest, id: &str) -> Result<String> {
    granted(guest, &format!("box/{id}"))
}

fn granted(guest: &mut Guest, cgroup: &str) -> Result<String> {
    let path = format!("/sys/fs/cgroup/{cgroup}/cpuset.cpus.effective");
    Ok(guest.output(&format!("cat {path}"))?.trim().to_owned())
}

/// Writes over it, and waits until it is what it was.
fn is_repaired(guest: &mut Guest, id: &str, own: &str) -> Result {
    guest.output(&format!("echo 0-3 >/sys/fs/cgroup/box/{id}/cpuset.cpus"))?;
    wait::until(&format!("{id} has CPU {own} again"), SOON, || {
        let is = cpus(guest, id).map_err(|e| format!("{e:?}"))?;
        if is == own { Ok(()) } else { Err(is) }
    })
}

/// Makes one on a CPU of its own, unless it is there; that CPU.
fn own(guest: &mut Guest) -> Result<String> {
    if guest.run("test -e /sys/fs/cgroup/box/own")?.code != 0 {
        make(guest, "runc", "own", json!({"purlin.dev/exclusive-cpus": "1"}))?;
    }
    // An agent that knows the machine only since a moment ago may have come too late.
    wait::until("it has a CPU of its own", SOON, || {
        let own = cpus(guest, "own").map_err(|e| format!("{e:?}"))?;
        if own.parse::<u32>().is_ok() { Ok(own) } else { Err(own) }
    })
}

fn pinned(guest: &mut Guest) -> Result {
    let own = own(guest)?;
    for runtime in ["runc", "crun"] {
        if guest.run(&format!("test -e /usr/bin/{runtime}"))?.code != 0 {
            println!("no {runtime}");
            continue;
        }
        make(guest, runtime, runtime, json!({}))?;
        let is = cpus(guest, runtime)?;
        ensure!(!is.contains(&own), "{runtime}'s is on {is}, and {own} is taken");
    }
    is_repaired(guest, "own", &own)?;
    // systemd writes cgroups, too, at every unit that it starts or forgets.
    guest.output("systemctl daemon-reload && systemctl restart getty@tty2.service")?;
    let now = cpus(guest, "own")?;
    ensure!(now == own, "it has {now} since systemd started something, not {own}");
    Ok(())
}

/// Only runc's: crun asks the system's bus for scopes, and this node has none.
fn in_scopes(guest: &mut Guest) -> Result {
    let taken = own(guest)?;
    let cgroup = |id: &str| format!("box.slice/it-{id}.scope");
    make_in_scope(guest, "plain", json!({}))?;
    make_in_scope(guest, "pinned", json!({"purlin.dev/exclusive-cpus": "1"}))?;
    let is = granted(guest, &cgroup("pinned"))?;
    ensure!(is.parse::<u32>().is_ok() && is != taken, "it is on {is}, not on one");
    // systemd holds these cpusets for its own, and writes them when it likes.
    guest.output(
        "systemctl daemon-reload && \
         systemctl set-property --runtime it-pinned.scope CPUWeight=50 && \
         systemctl set-property --runtime it-pinned.scope AllowedCPUs=0-3",
    )?;
    wait::until("both are where they belong", SOON, || {
        let now = ["pinned", "plain"].map(|id| granted(guest, &cgroup(id)));
        let [Ok(own), Ok(shared)] = now else { return Err(format!("{now:?}")) };
        let clash = members(&shared).iter().any(|cpu| [&is, &taken].contains(&&cpu.to_string()));
        if own == is && !clash { Ok(()) } else { Err(format!("{own} and {shared}")) }
    })?;
    for id in ["plain", "pinned"] {
        let delete = "/usr/libexec/purlin/runc --systemd-cgroup delete --force";
        guest.output(&format!("{delete} {id}"))?;
    }
    Ok(())
}

fn restarted(guest: &mut Guest) -> Result {
    let own = own(guest)?;
    is_repaired(guest, "own", &own)?;
    let before = helpers(guest)?;
    guest.output("systemctl restart purlind.service")?;
    active(guest)?;
    let now = cpus(guest, "own")?;
    ensure!(now == own, "it has {now} since the restart, not {own}");
    is_repaired(guest, "own", &own)?;
    // Those of the old agent have ended, and it has others.
    wait::until("old helpers have ended, and new ones serve", SOON, || {
        let now = helpers(guest).map_err(|e| format!("{e:?}"))?;
        let old: Vec<_> = now.iter().filter(|pid| before.contains(pid)).collect();
        if old.is_empty() && !now.is_empty() {
            Ok(())
        } else {
            Err(format!("{now:?}, old {old:?}"))
        }
    })?;
    // Its own, which only read: those that are left of a unit are in its control group.
    let agent = show(guest, "purlind.service", "MainPID")?;
    wait::until("no child of the old agent is left", SOON, || {
        let list = "cd /sys/fs/cgroup/system.slice/purlind.service && for p in $(cat cgroup.procs); \
                    do echo $p $(cut -d ' ' -f 4 /proc/$p/stat); done";
        let list = guest.output(list).map_err(|e| format!("{e:?}"))?;
        let is_left = |line: &&str| {
            let (pid, parent) = line.split_once(' ').unwrap_or_default();
            pid != agent && parent != agent
        };
        let left: Vec<_> = list.lines().filter(is_left).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
}

/// Asks ADDRESS/PORT one after another, a connection each, until it is told to stop: who was refused a
/// connection, and who was answered with anything but 200.
const CLIENT: &str = r#"
rm -f /srv/stop
asked=0 refused=0 wrong=0
until [[ -e /srv/stop ]]; do
    asked=$((asked + 1)) line=
    if { exec 3<>/dev/tcp/$1; } 2>/dev/null; then
        printf "GET / HTTP/1.1\r\nHost: shop.rack\r\nConnection: close\r\n\r\n" >&3
        read -r -t 20 line <&3
        [[ $line == "HTTP/1."?" 200 OK"* ]] || wrong=$((wrong + 1))
        exec 3>&-
    else
        refused=$((refused + 1))
    fi
    echo "$asked $refused $wrong" >/srv/asked.new && mv /srv/asked.new /srv/asked
done
"#;

/// A service and its way in.
const SHOP: &str = r#"
[[mesh.listeners]]
name = "web"
address = "127.0.0.1:8080"
[[mesh.services]]
name = "shop"
endpoints = [{ address = "127.0.0.1:8081" }]
[[mesh.routes]]
name = "shop"
listeners = ["web"]
rules = [{ backend_refs = [{ name = "shop" }] }]
"#;

/// Writes a file without single quotes.
fn write(guest: &mut Guest, path: &str, text: &str) -> Result {
    let lines: Vec<String> = text.lines().map(|line| format!("'{line}'")).collect();
    guest.output(&format!("printf '%s\\n' {} >{path}", lines.join(" "))).map(drop)
}

/// How often the client asked, was refused a connection, and got a wrong answer.
fn asked(guest: &mut Guest) -> Result<[u64; 3]> {
    let told = guest.output("cat /srv/asked")?;
    let counts: Vec<u64> = told.split_whitespace().flat_map(str::parse).collect();
    Ok(counts.try_into().map_err(|it| format!("{it:?}"))?)
}

fn asks_on(guest: &mut Guest) -> Result {
    let before = asked(guest)?[0];
    wait::until("the client goes on", SOON, || match asked(guest) {
        Ok([now, ..]) if now >= before + 10 => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

/// The service's endpoint.
fn shop(guest: &mut Guest) -> Result {
    let start = "test -e /srv/www || { mkdir /srv/www && echo shop >/srv/www/index.html && \
                 /srv/rootfs/bin/busybox httpd -p 127.0.0.1:8081 -h /srv/www; }";
    guest.output(start).map(drop)
}

fn begin_to_ask(guest: &mut Guest, to: &str) -> Result {
    write(guest, "/srv/client", CLIENT)?;
    guest.output(&format!("bash /srv/client {to} >/dev/null 2>&1 & sleep 5"))?;
    asks_on(guest)
}

fn reloaded(guest: &mut Guest) -> Result {
    let unit = "purlin-mesh.service";
    write(guest, "/srv/shop.toml", SHOP)?;
    shop(guest)?;
    guest.output("purlin config apply /srv/shop.toml")?;
    begin_to_ask(guest, "127.0.0.1/8080")?;
    let began = show(guest, unit, "InvocationID")?;
    let mut pid = show(guest, unit, "MainPID")?;
    for n in 0..2 {
        // As an upgrade of the package does: another file of this name.
        guest.output(
            "cp -p /usr/bin/purlin /usr/bin/purlin.new && mv /usr/bin/purlin.new /usr/bin/purlin",
        )?;
        guest.output(&format!("systemctl reload {unit}"))?;
        let next = wait::until("systemd has another main process", SOON, || {
            let now = show(guest, unit, "MainPID").map_err(|e| format!("{e:?}"))?;
            if now != pid && now != "0" { Ok(now) } else { Err(now) }
        })?;
        let is_new = format!("test /proc/{next}/exe -ef /usr/bin/purlin");
        ensure!(guest.run(&is_new)?.code == 0, "reload {n}: {next} is not what is installed");
        let state = show(guest, unit, "ActiveState")?;
        ensure!(state == "active", "reload {n}: {state}");
        asks_on(guest)?;
        let told = guest.output("purlin mesh show -o json")?;
        let told: Value = serde_json::from_str(&told)?;
        let serves = told["pid"].as_u64().map(|pid| pid.to_string());
        ensure!(serves.as_ref() == Some(&next), "{next} is the main process: {told}");
        pid = next;
    }
    let [all, refused, wrong] = asked(guest)?;
    println!("{all} connections over two reloads: {refused} refused, {wrong} answered wrong");
    ensure!((refused, wrong) == (0, 0), "of {all}: {refused} refused, {wrong} answered wrong");
    let restarts = show(guest, unit, "NRestarts")?;
    let now = show(guest, unit, "InvocationID")?;
    ensure!((&*restarts, &now) == ("0", &began), "it was restarted {restarts} times");
    // It is the new one that feeds the watchdog now, and that is started again.
    let fed = show(guest, unit, "WatchdogTimestampMonotonic")?;
    wait::until("the watchdog is fed by the new one", WATCHDOG, || {
        let now = show(guest, unit, "WatchdogTimestampMonotonic").map_err(|e| format!("{e:?}"))?;
        if now != fed { Ok(()) } else { Err(now) }
    })?;
    guest.output("touch /srv/stop")?;
    guest.output(&format!("kill -KILL {pid}"))?;
    wait::until("it is started again", SOON, || {
        let now = show(guest, unit, "MainPID").map_err(|e| format!("{e:?}"))?;
        let state = show(guest, unit, "ActiveState").map_err(|e| format!("{e:?}"))?;
        if now != pid && state == "active" { Ok(()) } else { Err(format!("{now} {state}")) }
    })
}

/// A service at an address that is another server's, too.
const TAKEN: &str = r#"
[[mesh.listeners]]
name = "taken"
address = "[::]:15001"
protocol = "tcp"
intercept = { mode = "redirect", ports = [80] }
[[mesh.services]]
name = "shop"
protocol = "tcp"
endpoints = [{ address = "127.0.0.1:8081" }]
virtual_addresses = ["10.99.0.1"]
"#;

/// By whom a connection to the virtual address is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The service: there is what is asked for.
    Mesh,
    /// Who has been there all the time, and has nothing.
    Before,
}

/// Waits until just that one answers, and its rules are there or not.
fn is_answered(guest: &mut Guest, by: By, when: &str) -> Result {
    let (line, tables) = match by {
        By::Mesh => ("200", "table inet purlin_mesh"),
        By::Before => ("404", ""),
    };
    let ask = "timeout 20 bash -c 'exec 3<>/dev/tcp/10.99.0.1/80 && \
               printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3 && read -r line <&3 && echo $line'";
    let began = Instant::now();
    wait::until(&format!("{by:?} answers {when}"), SOON, || {
        let answer = guest.run(ask).map_err(|e| format!("{e:?}"))?;
        let has = guest.output("nft list tables").map_err(|e| format!("{e:?}"))?;
        let is_it = answer.stdout.split(' ').nth(1) == Some(line) && has.trim() == tables;
        if is_it { Ok(()) } else { Err(format!("{answer:?}, {has:?}")) }
    })?;
    println!("{when}: {by:?} answers after {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn intercepted(guest: &mut Guest) -> Result {
    let (mesh, units) = ("purlin-mesh.service", "purlin-intercept.service purlin-intercept.path");
    shop(guest)?;
    guest.output(
        "ip addr add 10.99.0.1/32 dev lo && mkdir -p /srv/nothing && \
         /srv/rootfs/bin/busybox httpd -p 10.99.0.1:80 -h /srv/nothing",
    )?;
    is_answered(guest, By::Before, "without interception")?;
    // First the units, then what they are for: a table that changes is taken notice of.
    guest.output(&format!("systemctl enable --now {units}"))?;
    is_answered(guest, By::Before, "before a listener intercepts")?;
    write(guest, "/srv/taken.toml", TAKEN)?;
    guest.output("purlin config apply /srv/taken.toml")?;
    is_answered(guest, By::Mesh, "with a listener that intercepts")?;

    // However often there is another table, or another mesh.
    for unit in ["purlin-intercept.service", "purlin-intercept-reload.service"] {
        let limit = show(guest, unit, "StartLimitIntervalUSec")?;
        ensure!(limit == "0", "{unit} gives up when it is started too often within {limit}");
    }

    begin_to_ask(guest, "10.99.0.1/80")?;
    let before = show(guest, mesh, "MainPID")?;
    guest.output(&format!("systemctl reload {mesh}"))?;
    wait::until("systemd has another main process", SOON, || {
        let now = show(guest, mesh, "MainPID").map_err(|e| format!("{e:?}"))?;
        if now != before && now != "0" { Ok(()) } else { Err(now) }
    })?;
    asks_on(guest)?;
    guest.output("touch /srv/stop")?;
    let [all, refused, wrong] = asked(guest)?;
    println!("{all} connections over a reload: {refused} refused, {wrong} not the service's");
    ensure!((refused, wrong) == (0, 0), "of {all}: {refused} refused, {wrong} not the service's");

    guest.output(&format!("systemctl stop {mesh}"))?;
    is_answered(guest, By::Before, "with the mesh stopped")?;
    guest.output(&format!("systemctl start {mesh}"))?;
    is_answered(guest, By::Mesh, "with the mesh started")?;
    guest.output(&format!("systemctl restart {mesh}"))?;
    is_answered(guest, By::Mesh, "with the mesh restarted")?;

    // Long enough dead to be looked at.
    guest.output(&format!(
        "mkdir -p /run/systemd/system/{mesh}.d && \
         printf '[Service]\\nRestartSec=20\\n' >/run/systemd/system/{mesh}.d/late.conf && \
         systemctl daemon-reload && systemctl kill --kill-who=main --signal=KILL {mesh}"
    ))?;
    is_answered(guest, By::Before, "with the mesh killed")?;
    let state = show(guest, mesh, "SubState")?;
    ensure!(state == "auto-restart", "the mesh is {state} already");
    is_answered(guest, By::Mesh, "with the mesh started again by systemd")?;
    guest.output(&format!("rm -r /run/systemd/system/{mesh}.d && systemctl daemon-reload"))?;

    guest.output(&format!("systemctl disable --now {units}"))?;
    is_answered(guest, By::Before, "without interception again")
}

fn stands_still(guest: &mut Guest) -> Result {
    let own = own(guest)?;
    let before = show(guest, "purlind.service", "MainPID")?;
    guest.output(&format!("kill -STOP {before}"))?;
    let began = Instant::now();
    wait::until("another agent is up", 2 * WATCHDOG + SOON, || {
        let pid = show(guest, "purlind.service", "MainPID").map_err(|e| format!("{e:?}"))?;
        let state = show(guest, "purlind.service", "ActiveState").map_err(|e| format!("{e:?}"))?;
        if pid != before && state == "active" { Ok(()) } else { Err(format!("{pid} {state}")) }
    })?;
    println!("another agent was up {:.1} s after it stood still", began.elapsed().as_secs_f64());
    let said = guest.output("journalctl --no-pager -b -q -u purlind.service | grep -i watchdog")?;
    ensure!(said.contains("timeout"), "it was not the watchdog: {said}");
    is_repaired(guest, "own", &own)
}
