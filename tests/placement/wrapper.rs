//! Containers made through `purlin oci-runtime` by a real runtime: pinned, refused, passed
//! on, and set right by the agent, all of it read from the cgroups' files.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    thread::sleep,
    time::{Duration, Instant},
};

use purlin_proto::api::Enforcement;
use purlin_tests::{Lab, Need, Node, Result, ensure, lab::Test, test, wait};
use serde_json::{Value, json};

/// What a repair may take, with the agent up.
const REPAIR: Duration = Duration::from_secs(3);
/// What is promised after a start of the agent, and what is allowed on a busy machine.
const AFTER_START: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
const EXCLUSIVE: (&str, &str) = ("purlin.dev/exclusive-cpus", "1");

pub fn tests() -> Vec<Test> {
    let needs = [
        Need::Root,
        Need::Program("runc"),
        Need::Program("busybox"),
        Need::Is(fewer_than_two_cores),
        Need::Is(no_cpuset_to_write),
    ];
    let tests = vec![
        test("a_container_is_pinned_as_it_is_made_and_its_neighbours_give_way", 120, pinned),
        test("what_cant_be_placed_is_refused_and_the_runtimes_log_says_why", 120, refused),
        test("a_cpuset_that_is_written_over_is_repaired_and_told", 120, repaired),
        test("interrupts_are_kept_off_exclusive_cpus_unless_the_settings_say_no", 120, interrupts),
        test("without_the_agent_the_last_plan_holds_and_it_is_set_right_after", 120, last_plan),
        test("fail_closed_means_that_nothing_is_made_without_the_agent", 120, fail_closed),
        test("all_else_is_the_real_runtimes_with_its_exit_code_and_signals", 120, passed_on),
        test("a_link_by_the_name_of_a_runtime_is_that_runtime", 120, linked),
    ];
    let podman = [
        test("podman_pins_by_an_annotation::runc", 300, |lab| podman(lab, "runc")),
        test("podman_pins_by_an_annotation::crun", 300, |lab| podman(lab, "crun"))
            .needs(&[Need::Program("crun"), Need::Is(hybrid_cgroups)]),
    ];
    let podman = podman.map(|test| test.needs(&[Need::Program("podman")]));
    tests.into_iter().chain(podman).map(|test| test.needs(&needs)).collect()
}

fn fewer_than_two_cores() -> Option<String> {
    let cores: std::collections::BTreeSet<String> = (0..1024)
        .map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
        .map_while(|path| fs::read_to_string(path).ok())
        .collect();
    (cores.len() < 2).then(|| "fewer than two cores: one is reserved".into())
}

/// Where cpusets are: of cgroup v1, or of v2.
fn hierarchy() -> PathBuf {
    let v1 = Path::new("/sys/fs/cgroup/cpuset");
    if v1.join("cpuset.cpus").exists() { v1.into() } else { "/sys/fs/cgroup".into() }
}

fn no_cpuset_to_write() -> Option<String> {
    let at = hierarchy().join(format!("purlin-try-{}", std::process::id()));
    let made = fs::create_dir(&at);
    let has = at.join("cpuset.cpus").exists();
    _ = fs::remove_dir(&at);
    match made {
        Err(error) => Some(format!("no cgroup can be made: {error}")),
        Ok(()) if !has => Some("no cpuset controller".into()),
        Ok(()) => None,
    }
}

/// crun makes nothing where controllers are split between cgroup v1 and v2.
fn hybrid_cgroups() -> Option<String> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let of = |kind: &str| {
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        mounts.find(|words| words.get(2) == Some(&kind))?.get(1).map(PathBuf::from)
    };
    let (_, v2) = of("cgroup").zip(of("cgroup2"))?;
    let controllers = fs::read_to_string(v2.join("cgroup.controllers")).unwrap_or_default();
    let controllers = controllers.trim();
    (!controllers.is_empty()).then(|| format!("crun knows no hybrid cgroups: v2 has {controllers}"))
}

/// An agent, and what is made under it; all of it goes when it is dropped.
struct Bench<'a> {
    lab: &'a Lab,
    node: Node,
    made: Vec<String>,
}

impl<'a> Bench<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        let mut node = Node::new(lab, "node")?;
        node.start()?;
        Ok(Self { lab, node, made: Vec::new() })
    }

    /// A bundle whose only process is `busybox ARGS`.
    fn bundle(&self, id: &str, args: &[&str], annotations: &[(&str, &str)]) -> Result<PathBuf> {
        let bundle = self.lab.dir().join(id);
        let bin = bundle.join("rootfs/bin");
        fs::create_dir_all(&bin)?;
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find(|it| Path::new(it).exists());
        fs::copy(busybox.ok_or("no busybox")?, bin.join("busybox"))?;
        let annotations: Value =
            annotations.iter().map(|(k, v)| (k.to_string(), json!(v))).collect();
        let args = [&["/bin/busybox"], args].concat();
        let specification = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "cwd": "/",
            },
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "annotations": annotations,
            "linux": {
                "cgroupsPath": format!("{}/{id}", self.node.cgroup()),
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}],
                "resources": {"cpu": {"shares": 1024}},
            },
        });
        fs::write(bundle.join("config.json"), specification.to_string())?;
        Ok(bundle)
    }

    /// `purlin oci-runtime WORDS`.
    fn runtime(&self, words: &[&str]) -> Result<Output> {
        let mut command = self.node.command(&["timeout", "60"]);
        command.args(["oci-runtime", "--root"]).arg(self.root()).args(words);
        Ok(command.stdin(std::process::Stdio::null()).output()?)
    }

    /// Where runc keeps what it knows.
    fn root(&self) -> PathBuf {
        self.lab.dir().join("runc")
    }

    /// Makes a container that sleeps.
    fn make(&mut self, id: &str, annotations: &[(&str, &str)]) -> Result<()> {
        let bundle = self.bundle(id, &["sleep", "300"], annotations)?;
        self.made.push(id.into());
        // What it inherits is open for as long as it sleeps.
        let bundle = bundle.to_string_lossy().into_owned();
        let log = self.lab.dir().join(format!("{id}.log"));
        let mut command = self.node.command(&["timeout", "60"]);
        let file = fs::File::create(&log)?;
        command.args(["oci-runtime", "--root"]).arg(self.root());
        command.args(["run", "--detach", "--bundle", &bundle, id]);
        let status = command
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()?;
        ensure!(status.success(), "{id}: {status}: {}", fs::read_to_string(&log)?);
        Ok(())
    }

    /// A cgroup's file.
    fn file(&self, id: &str, name: &str) -> PathBuf {
        hierarchy().join(format!("{}/{id}/{name}", self.node.cgroup().trim_start_matches('/')))
    }

    fn cpus(&self, id: &str) -> Result<String> {
        let v1 = self.file(id, "cpuset.effective_cpus");
        let path = if v1.exists() { v1 } else { self.file(id, "cpuset.cpus.effective") };
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// Waits until a container has just these CPUs; how long that took.
    fn has(&self, id: &str, cpus: &str, deadline: Duration) -> Result<Duration> {
        let began = Instant::now();
        wait::until(&format!("{id} is on {cpus}"), deadline, || {
            let is = self.cpus(id).map_err(|e| format!("{e:?}"))?;
            if is == cpus { Ok(()) } else { Err(format!("it is on {is}")) }
        })?;
        Ok(began.elapsed())
    }

    fn enforcement(&self) -> Result<Enforcement> {
        self.node.get("/v1/placement/enforcement")
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        for id in &self.made {
            let words = ["delete", "--force", id];
            _ = Command::new("runc").arg("--root").arg(self.root()).args(words).output();
        }
        // The last process may take a moment to be gone.
        sleep(Duration::from_millis(100));
        let cgroup = self.node.cgroup().trim_start_matches('/').to_owned();
        let of_v1 = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for hierarchy in of_v1.map(|it| it.path()).chain(["/sys/fs/cgroup".into()]) {
            _ = fs::remove_dir(hierarchy.join(&cgroup));
        }
    }
}

/// What is left when one core is reserved and another given away, and what is given.
fn split(bench: &Bench) -> Result<(String, String, String)> {
    let all = fs::read_to_string("/sys/devices/system/cpu/online")?.trim().to_owned();
    let given = bench.cpus("own")?;
    ensure!(!given.contains(['-', ',']), "{given} is more than one");
    let plan: Value = bench.node.get("/v1/placement")?;
    let shared = plan["targets"]["shared"].as_str().unwrap_or_default().to_owned();
    Ok((all, given, shared))
}

fn pinned(lab: &Lab) -> Result {
    let mut bench = Bench::new(lab)?;
    bench.make("other", &[])?;
    bench.make("own", &[EXCLUSIVE])?;
    let (all, given, shared) = split(&bench)?;
    ensure!(given != all && !shared.is_empty(), "{given} of {all}");
    // Read back, within the time of one inotify event.
    bench.has("other", &shared, REPAIR)?;
    let allowed = fs::read_to_string(format!("/proc/{}/status", pid(&bench, "own")?))?;
    let allowed = allowed.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    ensure!(allowed.map(str::trim) == Some(&given), "the process may run on {allowed:?}");
    wait::until("all of it is read back", REPAIR, || {
        let enforcement = bench.enforcement().map_err(|e| format!("{e:?}"))?;
        let well = enforcement.containers.len() == 2
            && enforcement.containers.iter().all(|it| it.in_place && it.repaired == 0);
        if well { Ok(()) } else { Err(format!("{enforcement:?}")) }
    })?;
    // A late one shares what is left, and all of it when the other has ended.
    bench.make("late", &[])?;
    ensure!(bench.cpus("late")? == shared, "late is on {}", bench.cpus("late")?);
    let deleted = bench.runtime(&["delete", "--force", "own"])?;
    ensure!(deleted.status.success(), "{deleted:?}");
    bench.node.delete("/v1/placement/containers/own")?;
    bench.has("late", &all, REPAIR)?;
    Ok(())
}

fn pid(bench: &Bench, id: &str) -> Result<u64> {
    let state = bench.runtime(&["state", id])?;
    let state: Value = serde_json::from_slice(&state.stdout)?;
    Ok(state["pid"].as_u64().ok_or_else(|| format!("{state}"))?)
}

fn refused(lab: &Lab) -> Result {
    let bench = Bench::new(lab)?;
    let bundle = bench.bundle("own", &["true"], &[("purlin.dev/exclusive-cpus", "4096")])?;
    let log = lab.dir().join("runtime.json");
    let bundle = bundle.to_string_lossy();
    let log_word = log.to_string_lossy();
    let words = ["--log", &log_word, "--log-format", "json", "create", "--bundle", &bundle, "own"];
    let answer = bench.runtime(&words)?;
    ensure!(answer.status.code() == Some(1), "{answer:?}");
    let said = String::from_utf8_lossy(&answer.stderr);
    ensure!(said.contains("4096 exclusive PUs"), "{said}");
    let line: Value = serde_json::from_str(fs::read_to_string(&log)?.trim())?;
    let message = line["msg"].as_str().unwrap_or_default();
    ensure!(line["level"] == "error" && message.contains("4096 exclusive PUs"), "{line}");
    ensure!(!bench.file("own", "cpuset.cpus").exists(), "it was made all the same");
    Ok(())
}

fn repaired(lab: &Lab) -> Result {
    let mut bench = Bench::new(lab)?;
    bench.make("own", &[EXCLUSIVE])?;
    let (all, given, _) = split(&bench)?;
    wait::until("it is read back", REPAIR, || {
        let is = bench.enforcement().map_err(|e| format!("{e:?}"))?;
        if is.containers.iter().any(|it| it.in_place) { Ok(()) } else { Err(format!("{is:?}")) }
    })?;
    fs::write(bench.file("own", "cpuset.cpus"), &all)?;
    let took = bench.has("own", &given, REPAIR)?;
    println!("repaired {:.0} ms after it was written over", took.as_secs_f64() * 1e3);
    let told = wait::until("it is told", REPAIR, || {
        let is = bench.enforcement().map_err(|e| format!("{e:?}"))?;
        let own = is.containers.into_iter().find(|it| it.repaired == 1);
        own.ok_or_else(|| "no repair counted".to_owned())
    })?;
    ensure!(told.in_place && told.cpus == given, "{told:?}");
    let explained: Value = bench.node.json(&["numa", "explain", "own"])?;
    let read_back = &explained["containers"][0]["read_back"];
    ensure!(read_back["cpus"] == *given && read_back["repaired"] == 1, "{explained}");
    let log = bench.node.log()?;
    let line = log.lines().find(|line| line.contains("a cpuset was repaired"));
    ensure!(line.is_some_and(|line| line.contains(&format!("CPUs {all}"))), "{line:?}\n{log}");
    Ok(())
}

fn interrupts(lab: &Lab) -> Result {
    let mut bench = Bench::new(lab)?;
    bench.make("own", &[EXCLUSIVE])?;
    let (_, given, _) = split(&bench)?;
    let kept_off = |cpus: &str| {
        wait::until(&format!("interrupts are kept off {cpus:?}"), REPAIR, || {
            let is = bench.enforcement().map_err(|e| format!("{e:?}"))?.interrupts.kept_off;
            if is == cpus { Ok(()) } else { Err(format!("off {is:?}")) }
        })
    };
    kept_off(&given)?;
    let document = lab.file("desired.toml", "[placement]\ninterrupts = false\n")?;
    let applied = bench.node.cli(&["config", "apply", &document.to_string_lossy()])?;
    ensure!(applied.code == 0, "{applied:?}");
    // What was read back is so, not under way.
    let is = bench.enforcement()?.interrupts.kept_off;
    ensure!(is.is_empty(), "applied, and still off {is:?}");
    Ok(())
}

fn last_plan(lab: &Lab) -> Result {
    let mut bench = Bench::new(lab)?;
    bench.make("own", &[EXCLUSIVE])?;
    let (all, given, shared) = split(&bench)?;
    // What was decided is on disk soon after.
    sleep(Duration::from_secs(1));
    bench.node.kill()?;
    bench.make("other", &[])?;
    ensure!(bench.cpus("other")? == shared, "on {} without an agent", bench.cpus("other")?);
    fs::write(bench.file("own", "cpuset.cpus"), &all)?;
    let began = Instant::now();
    bench.node.start()?;
    bench.has("own", &given, AFTER_START.1)?;
    let (aim, took) = (AFTER_START.0, began.elapsed());
    println!("set right {:.2} s after the agent's start (aim {aim:?})", took.as_secs_f64());
    Ok(())
}

fn fail_closed(lab: &Lab) -> Result {
    let mut bench = Bench::new(lab)?;
    bench.node.kill()?;
    bench.node.set("PURLIN_OCI_RUNTIME__FAIL_CLOSED", "true");
    let bundle = bench.bundle("own", &["true"], &[])?;
    let answer = bench.runtime(&["run", "--bundle", &bundle.to_string_lossy(), "own"])?;
    let said = String::from_utf8_lossy(&answer.stderr);
    ensure!(answer.status.code() == Some(1) && said.contains("fail_closed"), "{answer:?}");
    bench.node.unset("PURLIN_OCI_RUNTIME__FAIL_CLOSED");
    let answer = bench.runtime(&["run", "--bundle", &bundle.to_string_lossy(), "own"])?;
    ensure!(answer.status.success(), "fail open: {answer:?}");
    Ok(())
}

fn passed_on(lab: &Lab) -> Result {
    let mut bench = Bench::new(lab)?;
    let bundle = bench.bundle("seven", &["sh", "-c", "exit 7"], &[])?;
    let answer = bench.runtime(&["run", "--bundle", &bundle.to_string_lossy(), "seven"])?;
    ensure!(answer.status.code() == Some(7), "{answer:?}");
    // What a runtime says of what is not there, to the letter but for the time.
    let real =
        Command::new("runc").arg("--root").arg(bench.root()).args(["state", "none"]).output()?;
    let ours = bench.runtime(&["state", "none"])?;
    ensure!(real.status == ours.status && real.stdout == ours.stdout, "{real:?}, {ours:?}");
    let real = Command::new("runc").arg("--version").output()?;
    let ours = bench.runtime(&["--version"])?;
    ensure!(real.stdout == ours.stdout, "{real:?}, {ours:?}");
    // A signal is the real one's: it is the same process.
    bench.make("sleeper", &[])?;
    let ours = bench.runtime(&["kill", "sleeper", "KILL"])?;
    ensure!(ours.status.success(), "{ours:?}");
    wait::until("it has ended", REPAIR, || {
        let state = bench.runtime(&["state", "sleeper"]).map_err(|e| format!("{e:?}"))?;
        let state = String::from_utf8_lossy(&state.stdout).into_owned();
        if state.contains("stopped") { Ok(()) } else { Err(state) }
    })?;
    // In the specification nothing else is another.
    let text = fs::read_to_string(lab.dir().join("sleeper/config.json"))?;
    let mut now: Value = serde_json::from_str(&text)?;
    bench.bundle("sleeper", &["sleep", "300"], &[])?;
    let text = fs::read_to_string(lab.dir().join("sleeper/config.json"))?;
    let before: Value = serde_json::from_str(&text)?;
    let cpu = now["linux"]["resources"]["cpu"].as_object_mut().ok_or("no cpu")?;
    ensure!(cpu.remove("cpus").is_some() && cpu.remove("mems").is_some(), "not pinned: {cpu:?}");
    ensure!(now == before, "{now} is not {before}");
    Ok(())
}

fn linked(lab: &Lab) -> Result {
    let bench = Bench::new(lab)?;
    let link = lab.dir().join("bin/runc");
    fs::create_dir_all(lab.dir().join("bin"))?;
    symlink(bench.node.binary(), &link)?;
    // First on the PATH, where it must not find itself.
    let path = format!("{}:{}", lab.dir().join("bin").display(), std::env::var("PATH")?);
    let bundle = bench.bundle("own", &["cat", "/proc/self/status"], &[EXCLUSIVE])?;
    let mut command = Command::new("timeout");
    command.env_clear().envs(bench.node.environment());
    command.env("PATH", path).arg("60").arg(&link).arg("--root").arg(bench.root());
    command.args(["run", "--bundle"]).arg(&bundle).arg("own");
    let answer = command.stdin(std::process::Stdio::null()).output()?;
    ensure!(answer.status.success(), "{answer:?}");
    let said = String::from_utf8_lossy(&answer.stdout);
    let allowed = said.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    ensure!(allowed.is_some_and(|it| !it.contains('-')), "not pinned: {said}");
    Ok(())
}

fn podman(lab: &Lab, runtime: &str) -> Result {
    let mut bench = Bench::new(lab)?;
    let bundle = bench.bundle("image", &["true"], &[])?;
    let storage = lab.dir().join("podman");
    let run = |bench: &Bench, words: &[&str]| -> Result<Output> {
        let mut command = Command::new("timeout");
        command.env_clear().envs(bench.node.environment());
        command.args(["120", "podman", "--root"]).arg(storage.join("root"));
        // Podman takes no more than 50 characters of it.
        command
            .arg("--runroot")
            .arg(lab.dir().join("run"))
            .arg("--tmpdir")
            .arg(storage.join("tmp"));
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
        command
            .args(["--events-backend", "none", "--runtime"])
            .arg(lab.dir().join("bin").join(runtime));
        Ok(command.args(words).stdin(std::process::Stdio::null()).output()?)
    };
    // Podman's monitor keeps its environment to itself: what a node has in
    // /etc/purlin/purlin.toml, this agent's wrapper is told here.
    let told = bench.node.environment().iter().map(|(k, v)| format!("{k}='{}'", v.display()));
    let told: Vec<String> = told.collect();
    let link = lab.dir().join("links").join(runtime);
    fs::create_dir_all(lab.dir().join("links"))?;
    symlink(bench.node.binary(), &link)?;
    let (told, link) = (told.join(" "), link.display());
    let script = format!("#!/bin/sh\nexec env {told} '{link}' \"$@\"\n");
    let script = lab.file(&format!("bin/{runtime}"), script)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let rootfs = bundle.join("rootfs");
    let parent = bench.node.cgroup();
    let (name, wish) = (format!("{}={}", EXCLUSIVE.0, EXCLUSIVE.1), rootfs.to_string_lossy());
    let words = [
        "run",
        "--detach",
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
        "--network",
        "none",
        "--cgroup-parent",
        &parent,
        "--annotation",
        &name,
        "--rootfs",
        &wish,
        "/bin/busybox",
        "sleep",
        "300",
    ];
    let answer = run(&bench, &words)?;
    let id = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
    ensure!(answer.status.success() && id.len() == 64, "{answer:?}");
    let cgroup = format!("libpod-{id}");
    let pinned = bench.cpus(&cgroup);
    let enforced = wait::until("it is read back", REPAIR, || {
        let is = bench.enforcement().map_err(|e| format!("{e:?}"))?;
        let own = is.containers.into_iter().find(|it| it.id == id && it.in_place);
        own.ok_or_else(|| "not in place".to_owned())
    });
    let removed = run(&bench, &["rm", "--force", "--time", "0", &id])?;
    ensure!(removed.status.success(), "{removed:?}");
    let pinned = pinned?;
    ensure!(!pinned.is_empty() && !pinned.contains(['-', ',']), "podman's is on {pinned}");
    ensure!(enforced?.cpus == pinned, "the agent says otherwise");
    bench.made.clear();
    Ok(())
}
